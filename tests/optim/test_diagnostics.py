"""What a point and a function are: critical points, second-order stationarity, convexity, one-point convexity."""

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary import optim
from corollary.core import InputError
from corollary.core.solution import Status
from corollary.optim import (
    LeastSquares,
    Logistic,
    convexity_check,
    critical_point,
    jensen_gap,
    quasi_convexity_check,
    second_order_stationarity,
    set_convexity_check,
)
from corollary.optim.theory._extremes import extremes, least_overlap

RNG = np.random.default_rng(0)


def saddle(x):
    return x[0] ** 2 - x[1] ** 2


def quartic(x):
    return jnp.sum(x**4)


def monkey(x):
    return x[0] ** 3 - 3 * x[0] * x[1] ** 2


def bowl(x):
    return x[0] ** 2 + 4 * x[1] ** 2


@pytest.mark.covers("critical-point-classifier")
def test_labels(dtype):
    functions = (saddle, quartic, monkey, bowl, lambda x: -bowl(x), lambda x: jnp.sum(jnp.abs(x)))

    @jax.jit
    def classify(i, x, c=1.0, length=1.0, x0=0.0):  # one compiled program for all of them
        c, length, x0 = (jnp.asarray(a, dtype) for a in (c, length, x0))
        return critical_point(lambda x: c * jax.lax.switch(i, functions, x / length - x0), x)

    origin = jnp.zeros(2, dtype)
    for i, (label, inertia) in enumerate(
        (
            ("strict saddle", [1, 0, 1]),
            ("degenerate", [0, 2, 0]),  # a strict minimum, but the second derivative cannot tell
            ("degenerate", [0, 2, 0]),  # a saddle, nor here
            ("minimum", [0, 0, 2]),
            ("maximum", [2, 0, 0]),
        )
    ):
        found = classify(i, origin)
        assert found.value.label == label
        assert found.value.inertia.tolist() == inertia
        assert found.holds
    for x in ([1.0, 1.0], [1e-3, 0.0]):
        assert classify(3, jnp.asarray(x, dtype)).value.label == "not stationary"
    # |x| has no second derivative at its minimum: it is never called one.
    assert classify(5, origin).value.label != "minimum"
    # Scales: of the objective, and of the variable.
    x0 = jnp.asarray([1.0, 2.0], dtype)
    for c in (1e-12, 1.0, 1e12):
        assert classify(3, x0, c, 1.0, x0).value.label == "minimum"
        assert classify(3, x0 * jnp.asarray(1e6, dtype), c, 1e6, x0).value.label == "minimum"


@pytest.mark.covers("critical-point-classifier")
def test_eigenvalues_and_the_law_of_inertia(x64):
    A = RNG.normal(size=(6, 6))
    A = A + A.T
    x0 = RNG.normal(size=6)

    def at(M):
        return critical_point(lambda x: (x - x0) @ M @ (x - x0) / 2 + jnp.sum((x - x0) ** 3), x0).value

    found = at(A)
    values = np.linalg.eigvalsh(A)
    np.testing.assert_allclose([found.lambda_min, found.lambda_max], values[[0, -1]], rtol=1e-13)
    # Sylvester: a congruence keeps the signs, not the eigenvalues.
    S = RNG.normal(size=(6, 6)) + 3 * np.eye(6)
    moved = at(S.T @ A @ S)
    assert moved.inertia.tolist() == found.inertia.tolist() == [sum(values < 0), 0, sum(values > 0)]
    assert abs(moved.lambda_max - found.lambda_max) > 0.1


@pytest.mark.covers("critical-point-classifier")
def test_many_variables(dtype):
    n = 150
    d = np.linspace(1, 10, n)

    @jax.jit
    def classify(d):
        return critical_point(lambda x: jnp.sum(d * x**2) / 2, jnp.zeros(n, dtype), tol=1e-3)

    for first, label in ((1.0, "minimum"), (-1.0, "strict saddle"), (0.0, "degenerate")):
        found = classify(jnp.asarray(np.where(d == 1, first, d), dtype))
        assert found.value.label == label
        assert float(found.value.lambda_min) >= first - 1e-4
        assert float(found.stats["lambda_min_lower"]) <= first + 1e-6
        assert found.value.inertia.sum() == n
    assert classify(jnp.asarray(-d, dtype)).value.label == "maximum"


@pytest.mark.covers("second-order-stationarity")
def test_second_order_stationarity(dtype):
    n = 30
    Q = np.linalg.qr(RNG.normal(size=(n, n)))[0]
    eps, rho = 1e-2, 1.0  # √(ρε) = 0.1

    @jax.jit
    def look(spectrum, x):
        H = (jnp.asarray(Q, dtype) * spectrum) @ jnp.asarray(Q.T, dtype)
        return second_order_stationarity(lambda x: x @ H @ x / 2 + jnp.sum(x**4), x, eps=eps, rho=rho), H

    rest = np.linspace(0.5, 3, n - 1)
    origin = jnp.zeros(n, dtype)
    for least, stationary in ((1.0, True), (0.0, True), (-0.05, True), (-0.2, False), (-2.0, False)):
        found, H = look(jnp.asarray(np.append(rest, least), dtype), origin)
        exact = np.linalg.eigvalsh(np.asarray(H, float))[0]
        slack = 200 * float(jnp.finfo(dtype).eps)
        assert bool(found.value) == stationary
        assert bool(found.stats["saddle"]) == (not stationary)
        assert found.converged
        assert abs(float(found.stats["lambda_min"]) - exact) < slack
        assert float(found.stats["lambda_min_lower"]) <= exact + slack
        v = np.asarray(found.stats["direction"], float)
        assert abs(np.linalg.norm(v) - 1) < slack
        if not stationary:
            assert v @ np.asarray(H, float) @ v < -0.1
    # Off a stationary point the gradient condition fails, and the direction goes down.
    away, _ = look(jnp.asarray(np.append(rest, -2.0), dtype), origin + 0.1)
    assert not away.certificates["gradient"].holds
    assert not away.value


@pytest.mark.covers("second-order-stationarity")
def test_too_few_steps_certify_nothing(x64):
    # A Ritz value above the threshold is no certificate: here it hides an eigenvalue of −1.
    n = 100
    d = jnp.asarray(np.append(-0.3, np.linspace(1, 10, n - 1)))
    f = lambda x: jnp.sum(d * x**2) / 2  # noqa: E731
    few = second_order_stationarity(f, jnp.zeros(n), eps=0.01, rho=1.0, steps=4)
    assert float(few.stats["lambda_min"]) > -0.1
    assert not few.value
    assert not few.stats["saddle"]
    assert few.status == Status.MAX_STEPS
    enough = second_order_stationarity(f, jnp.zeros(n), eps=0.01, rho=1.0, steps=40)
    assert enough.stats["saddle"]
    # A pytree, and bad input.
    tree = second_order_stationarity(lambda t: saddle(t["x"]), {"x": jnp.zeros(2)}, eps=0.01, rho=1.0)
    np.testing.assert_allclose(np.abs(tree.stats["direction"]["x"]), [0, 1], atol=1e-12)
    for bad in ({"eps": 0.0, "rho": 1.0}, {"eps": 1.0, "rho": -1.0}, {"eps": 1.0, "rho": 1.0, "steps": 0}):
        with pytest.raises(InputError, match=r"eps|rho|steps"):
            second_order_stationarity(saddle, np.zeros(2), **bad)
    with pytest.raises(InputError, match="x: found NaN"):
        second_order_stationarity(saddle, np.asarray([np.nan, 0]), eps=1.0, rho=1.0)


@pytest.mark.covers("second-order-stationarity")
def test_the_probabilistic_bound_fails_as_seldom_as_it_says(x64):
    # At a failure probability of 0.2 over 600 starts, on the hardest spectrum: one eigenvalue just outside a bulk.
    n, failure = 60, 0.2
    d = jnp.asarray(np.append(-0.05, np.linspace(0, 1, n - 1)))

    def outside(key):
        found = extremes(lambda x: d * x, d, 6, key, failure)
        return (found.lower > d[0]) | (found.smallest < d[0] - 1e-12)

    failed = jax.jit(jax.vmap(outside))(jax.random.split(jax.random.key(0), 600))
    assert float(failed.mean()) <= failure + 4 * np.sqrt(failure * (1 - failure) / 600)
    # The overlap it rests on.
    b = RNG.normal(size=(200_000, 3))
    share = np.mean(np.abs(b[:, 0]) / np.linalg.norm(b, axis=1) < least_overlap(3, 0.1))
    assert share <= 0.1 + 4 * np.sqrt(0.09 / 200_000)


@pytest.mark.covers("convexity-check")
def test_convexity_of_functions(dtype):
    points = RNG.normal(size=(20, 3)).astype(dtype)
    X, y = RNG.normal(size=(10, 3)).astype(dtype), RNG.integers(0, 2, size=10)
    # (a − uv)²/2 is convex in each factor, not in both.
    product = lambda x: (1 - x[0] * x[1]) ** 2 / 2  # noqa: E731
    terms = Logistic(X, y), LeastSquares(X, y.astype(dtype))
    functions = (
        lambda x: terms[0].value(x),  # noqa: PLW0108  (a bound method of a module does not hash)
        lambda x: terms[1].value(x),  # noqa: PLW0108
        jnp.sum,
        lambda x: jnp.exp(x[0]),
        product,
    )

    @jax.jit
    def look(i, c=1.0):
        c = jnp.asarray(c, dtype)
        return convexity_check(lambda x: c * jax.lax.switch(i, functions, x), jnp.asarray(points))

    for i in range(4):
        for c in (1e-12, 1.0, 1e12):
            found = look(i, c)
            assert found.value
            assert found.holds
            assert not look(4, c).value
    # The witness shows it.
    found = jax.tree.map(np.asarray, look(4))
    seen = found.stats["witness"]
    x, y, w = (seen["jensen"][name].astype(float) for name in ("x", "y", "weight"))
    assert product(w * x + (1 - w) * y) > w * product(x) + (1 - w) * product(y)
    v, at = seen["curvature"]["direction"].astype(float), seen["curvature"]["x"].astype(float)
    with jax.enable_x64(True):
        assert v @ np.asarray(jax.hessian(product)(jnp.asarray(at))) @ v < 0
    for bad in ({"points": points[:1]}, {"points": points, "per_point": 0}):
        with pytest.raises(InputError, match="point"):
            convexity_check(product, **bad)


@pytest.mark.covers("convexity-check")
def test_atoms_agree_with_disciplined_convex_programming(x64):
    x = cvxpy.Variable()
    positive = cvxpy.Variable(pos=True)
    line, half = np.linspace(-3, 3, 24), np.linspace(0.1, 3, 24)
    atoms = (
        (jnp.exp, cvxpy.exp(x), line),
        (jnp.square, cvxpy.square(x), line),
        (lambda x: -jnp.square(x), -cvxpy.square(x), line),
        (jax.nn.softplus, cvxpy.logistic(x), line),
        (lambda x: jnp.where(jnp.abs(x) <= 1, x**2, 2 * jnp.abs(x) - 1), cvxpy.huber(x), line),
        (jnp.log, cvxpy.log(positive), half),
        (lambda x: -jnp.log(x), -cvxpy.log(positive), half),
        (jnp.sqrt, cvxpy.sqrt(positive), half),
        (lambda x: x * jnp.log(x), -cvxpy.entr(positive), half),
        (lambda x: 1 / x, cvxpy.inv_pos(positive), half),
        (lambda x: x**1.5, cvxpy.power(positive, 1.5), half),
        (jnp.sin, None, line),
        (lambda x: -jnp.sqrt(x), None, half),
    )
    look = jax.jit(lambda i, points: convexity_check(lambda x: jax.lax.switch(i, [a[0] for a in atoms], x), points))
    for i, (_, theirs, points) in enumerate(atoms[:-2]):
        assert bool(look(i, jnp.asarray(points)).value) == theirs.is_convex()
    found = look(len(atoms) - 2, jnp.asarray(line))
    assert not found.value
    assert float(found.stats["curvature"]) > 0.9
    # The condition is f'' ≥ 0, not f' ≥ 0: −√x rises nowhere and is convex; e^x is, too, without a minimiser.
    assert look(len(atoms) - 1, jnp.asarray(half)).value


@pytest.mark.covers("convexity-check")
def test_jensen(x64):
    points = RNG.uniform(0.5, 4, size=(9, 2))
    weights = RNG.uniform(size=9)
    # Affine: no gap. −log: the arithmetic mean is at least the geometric one.
    assert abs(jensen_gap(lambda x: 3 * x[0] - x[1] + 2, points, weights)) < 1e-13
    a = points[:, 0]
    gap = jensen_gap(lambda x: -jnp.log(x), a)
    np.testing.assert_allclose(gap, np.log(a.mean()) - np.log(a).mean(), rtol=1e-12)
    assert gap > 0
    assert jensen_gap(jnp.log, a) < 0
    with pytest.raises(InputError, match="weights"):
        jensen_gap(jnp.log, a, -weights)
    with pytest.raises(InputError, match="weights: found shape"):
        jensen_gap(jnp.log, a, weights[:3])


@pytest.mark.covers("convexity-check")
def test_convexity_of_sets(dtype):
    points = RNG.uniform(-1, 1, size=(80, 2)).astype(dtype)
    A, b = RNG.normal(size=(5, 2)).astype(dtype), np.ones(5, dtype)
    polytope = set_convexity_check(lambda x: jnp.all(A @ x <= b), points)
    assert polytope.value
    assert polytope.stats["segments"] > 50
    assert np.isnan(polytope.stats["witness"]["weight"])
    ring = lambda x: (jnp.sum(x**2) <= 1) & (jnp.sum(x**2) >= 0.25)  # noqa: E731
    found = set_convexity_check(ring, points)
    assert not found.value
    seen = found.stats["witness"]
    between = seen["weight"] * seen["x"] + (1 - seen["weight"]) * seen["y"]
    assert ring(seen["x"])
    assert ring(seen["y"])
    assert not ring(between)


@pytest.mark.covers("quasi-convexity-check")
def test_star_quasi_convexity(dtype):
    line = np.linspace(-3, 3, 61).astype(dtype)
    points = RNG.normal(size=(40, 3)).astype(dtype)
    X, y = RNG.normal(size=(10, 3)).astype(dtype), RNG.normal(size=10).astype(dtype)
    best = np.linalg.lstsq(X.astype(float), y.astype(float))[0]
    convex = quasi_convexity_check(LeastSquares(X, y), best.astype(dtype), points)
    assert convex.value >= 1 - 1e-2 * (dtype == "float32")
    assert convex.holds
    # A planted constant: |x|^τ·const has ⟨f', x⟩ = τ f, convex or not.
    powers = jax.jit(
        lambda tau: quasi_convexity_check(lambda x: jnp.abs(x) ** tau, jnp.zeros((), dtype), line[line != 0])
    )
    for tau in (0.5, 1.0, 3.0):
        found = powers(jnp.asarray(tau, dtype))
        np.testing.assert_allclose(found.value, tau, rtol=1e-5)
    # Two wells: between them the gradient points away from the better one.
    wells = lambda x: (x**2 - 1) ** 2 + x / 4  # noqa: E731
    fine = np.linspace(-1.2, -0.8, 4001).astype(dtype)
    lowest = fine[np.argmin((fine.astype(float) ** 2 - 1) ** 2 + fine / 4.0)]
    found = quasi_convexity_check(wells, lowest, line)
    assert found.value < 0
    assert not found.certificates["star_quasi_convex"].holds
    assert 0 < found.stats["witness"] < 1
    # A point that is no minimiser is found out.
    assert not quasi_convexity_check(wells, np.ones((), dtype), line).certificates["minimiser"].holds
    with pytest.raises(InputError, match="points: found other shapes"):
        quasi_convexity_check(wells, np.zeros(2, dtype), line)


def test_a_sample_at_the_minimiser_hides_nothing():
    def f(x):
        return 1 - jnp.cos(x)

    assert not optim.quasi_convexity_check(f, 0.0, [0.0, 1.0, 4.0]).certificates["star_quasi_convex"].holds
