"""Constants of functions against closed forms: smoothness, strong convexity, gradient domination, Lipschitz."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary import optim
from corollary.core import InputError
from corollary.optim import (
    LeastSquares,
    Logistic,
    convexity_check,
    data_smoothness,
    kl_exponent,
    lipschitz_estimate,
    pl_constant,
    pl_rate,
    smoothness_constant,
    strong_convexity,
    tangent_kernel_pl,
)
from corollary.optim.theory._intervals import interval

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3))
Y = RNG.integers(0, 2, size=12).astype(float)
POINTS = RNG.normal(size=(10, 3))


def mean_logistic(w):
    return jnp.mean(jax.nn.softplus(jnp.asarray(X) @ w) - jnp.asarray(Y) * (jnp.asarray(X) @ w))


def mean_squares(w):
    return jnp.mean((jnp.asarray(X) @ w - Y) ** 2) / 2


@pytest.mark.covers("smoothness-constant")
def test_smoothness_of_data_terms(x64):
    top = np.linalg.norm(X, 2) ** 2
    L = data_smoothness(X)
    np.testing.assert_allclose(L, top / 12, rtol=1e-14)
    points = jnp.asarray(np.vstack([POINTS, np.zeros(3)]))
    functions = (mean_squares, mean_logistic)
    look = jax.jit(lambda i, p, L: smoothness_constant(lambda w: jax.lax.switch(i, functions, w), p, lipschitz=L))
    found = look(0, points, L * (1 + 1e-12))
    np.testing.assert_allclose(found.value, L, rtol=1e-10)
    assert float(found.value) <= L * (1 + 1e-14)
    assert found.holds
    # The logistic loss attains its constant at w = 0, and only there.
    L = data_smoothness(X, "logistic")
    np.testing.assert_allclose(L, top / 48, rtol=1e-14)
    away = look(1, points.at[-1].set(1.0), L)
    assert float(away.value) < 0.99 * L
    assert away.holds
    exact = look(1, points, L)
    top = np.linalg.eigvalsh(np.asarray(jax.hessian(mean_logistic)(jnp.zeros(3))))[-1]
    np.testing.assert_allclose(exact.value, top, rtol=1e-10)
    np.testing.assert_allclose(top, L, rtol=1e-12)
    # A smooth term knows its own; a constant that is too small is found out.
    term = smoothness_constant(LeastSquares(X, Y), POINTS)
    np.testing.assert_allclose(term.stats["upper"], np.linalg.norm(X, 2) ** 2, rtol=1e-12)
    assert term.holds
    assert not look(0, points, 0.5 * data_smoothness(X)).holds


@pytest.mark.covers("smoothness-constant")
def test_the_lower_bound_never_exceeds_the_constant(dtype):
    points = jnp.asarray(RNG.normal(size=(6, 4)), dtype)

    def one(key, c):
        d = c * jax.random.uniform(key, (4,), dtype, -1, 1)
        found = smoothness_constant(lambda x: jnp.sum(d * (x + 100) ** 2) / 2, points)
        return found.value / jnp.max(jnp.abs(d))

    for c in (1e-12, 1.0, 1e12):
        ratio = jax.jit(jax.vmap(one, (0, None)))(jax.random.split(jax.random.key(0), 40), jnp.asarray(c, dtype))
        assert np.asarray(ratio).max() <= 1
        assert np.asarray(ratio).min() >= 0.99


@pytest.mark.covers("smoothness-constant", "strong-convexity")
def test_bounds_over_a_box(x64):
    # Non-convex: −L bounds the Hessian from below, too. f'' = 2 + 6cos 2x lies in [−4, 8].
    f = lambda x: x**2 + 3 * jnp.sin(x) ** 2  # noqa: E731
    line = np.linspace(-3, 3, 61)
    found = smoothness_constant(f, line, region=(-3.0, 3.0), splits=64)
    assert found.holds
    assert found.value <= 8 <= found.stats["upper"] <= 8.8
    np.testing.assert_allclose([found.stats["least"], found.stats["largest"]], [-4, 8], atol=0.02)
    # Over a box around the minimum it is strongly convex: f'' ≥ 2 + 6cos 1 on |x| ≤ ½.
    mu = 2 + 6 * np.cos(1.0)
    inner = strong_convexity(f, np.linspace(-0.5, 0.5, 21), minimum=0.0, region=(-0.5, 0.5), splits=64)
    assert inner.holds
    assert mu - 0.3 <= inner.stats["lower"] <= mu <= inner.stats["upper"] * (1 + 1e-12)
    # In two variables.
    g = lambda x: jnp.cosh(x[0]) + x[0] * x[1] / 4 + x[1] ** 2  # noqa: E731
    pts = RNG.uniform(-1, 1, size=(20, 2))
    box = (-np.ones(2), np.ones(2))
    both = strong_convexity(g, pts, region=box, splits=8)
    assert both.holds
    corners = np.asarray([np.linalg.eigvalsh(np.asarray(jax.hessian(g)(jnp.asarray([a, 0.0]))))[0] for a in (0.0, 1.0)])
    assert both.stats["lower"] > 0.5
    assert both.stats["lower"] <= corners.min() <= both.stats["upper"]


@pytest.mark.covers("strong-convexity")
def test_strong_convexity(dtype):
    A = X.T @ X
    values = np.linalg.eigvalsh(A)
    tol = 100 * float(jnp.finfo(dtype).eps)
    lam = 0.3
    matrix = jnp.asarray(A, dtype)
    ridge = lambda x: x @ matrix @ x / 2 + lam / 2 * jnp.sum(x**2)  # noqa: E731
    points = POINTS.astype(dtype)
    functions = (ridge, lambda x: jnp.sum(jnp.exp(x)))
    look = jax.jit(lambda i, p: strong_convexity(lambda x: jax.lax.switch(i, functions, x), p, minimum=0.0))
    found = look(0, jnp.asarray(points))
    np.testing.assert_allclose(found.value, values[0] + lam, rtol=tol * values[-1] / values[0])
    assert found.holds  # the quadratic bound, and PL with the same constant
    # The definition: f − (μ/2)‖x‖² is convex, and with more than μ no longer.
    mu = float(found.value)
    shifted = jax.jit(lambda c: convexity_check(lambda x: ridge(x) - c / 2 * jnp.sum(x**2), jnp.asarray(points)).value)
    assert shifted(jnp.asarray(0.99 * mu, dtype))
    assert not shifted(jnp.asarray(1.5 * mu, dtype))
    too_much = strong_convexity(ridge, points, minimum=0.0, modulus=3 * values[-1])
    assert not too_much.certificates["quadratic_bound"].holds
    # Plain convexity has no modulus: e^x.
    flat = look(1, jnp.asarray(points - 8, dtype))
    assert float(flat.value) < 0.01
    with pytest.raises(InputError, match="modulus"):
        strong_convexity(ridge, points, modulus=-1.0)


@pytest.mark.covers("pl-constant")
def test_pl_without_convexity(x64):
    f = lambda x: x**2 + 3 * jnp.sin(x) ** 2  # noqa: E731
    line = np.linspace(-10, 10, 20001)
    found = pl_constant(f, line, minimum=0.0)
    assert found.value >= 1 / 32
    np.testing.assert_allclose(found.value, 0.1755, atol=1e-4)
    assert found.certificates["pl"].kind == "estimate"
    assert strong_convexity(f, line[::400]).value < -3  # far from convex
    run = pl_rate(f, 9.0, 60, mu=1 / 32, lipschitz=8.0, minimum=0.0)
    assert np.all(run.holds)
    sharper = pl_rate(f, 9.0, 60, mu=float(found.value), lipschitz=8.0, minimum=0.0)
    assert np.all(sharper.holds)
    assert not np.all(pl_rate(f, 9.0, 60, mu=7.9, lipschitz=8.0, minimum=0.0).holds)  # control
    assert not np.any(pl_rate(f, 9.0, 5, mu=9.0, lipschitz=8.0, minimum=0.0).holds)


@pytest.mark.covers("pl-constant")
def test_pl_of_least_squares(dtype):
    # Rank 2 of 3: no strong convexity, yet PL with the smallest nonzero σ².
    A = (RNG.normal(size=(6, 2)) @ RNG.normal(size=(2, 3))).astype(dtype)
    b = RNG.normal(size=6).astype(dtype)
    s = np.linalg.svd(A.astype(float), compute_uv=False)
    for c in (1.0, 1e-6, 1e6):
        exact = pl_constant(LeastSquares((c * A).astype(dtype), b))
        np.testing.assert_allclose(exact.value, (c * s[1]) ** 2, rtol=1e-4 if dtype == "float32" else 1e-10)
        assert exact.stats["rank"] == 2
        assert exact.holds
    best = A @ np.linalg.lstsq(A.astype(float), b.astype(float), rcond=1e-5)[0] - b
    minimum = float(np.sum(best**2) / 2)
    mu = float(s[1] ** 2)
    ratio = pl_constant(LeastSquares(A, b), (5 * POINTS).astype(dtype), minimum=minimum).value
    assert ratio >= mu * (1 - 1e-3)
    # Strongly convex functions have it with the same constant; ½(aᵀx)² has it without being that.
    a = np.asarray([1.0, 2.0, 2.0], dtype)
    one = lambda x: (a @ x) ** 2 / 2  # noqa: E731
    np.testing.assert_allclose(pl_constant(one, POINTS.astype(dtype), minimum=0.0).value, 9, rtol=1e-4)
    for wrong in ({}, {"points": POINTS}, {"minimum": 0.0}):
        with pytest.raises(InputError, match="minimum, points"):
            pl_constant(one, **wrong)


@pytest.mark.covers("pl-constant")
def test_pl_from_the_tangent_kernel(x64):
    x = jnp.asarray(X[:4])
    y = jnp.asarray(Y[:4])

    def residuals(params):
        return jnp.tanh(x @ params["in"].T) @ params["out"] - y

    params = {"in": RNG.normal(size=(5, 8, 3)), "out": RNG.normal(size=(5, 8))}
    found = tangent_kernel_pl(residuals, params)
    assert np.all(found.holds)
    assert found.value > 0
    # The ratio over the same points is no less.
    ratio = pl_constant(lambda p: jnp.sum(residuals(p) ** 2) / 2, params, minimum=0.0).value
    assert ratio >= found.value
    # More residuals than parameters: no constant.
    narrow = {"in": params["in"][:, :1, :1] * np.ones((1, 1, 3)), "out": params["out"][:, :1]}
    constant = tangent_kernel_pl(lambda p: jnp.concatenate([residuals(p), residuals(p)]), narrow)
    assert constant.value < 1e-12


@pytest.mark.covers("kl-exponent")
@pytest.mark.parametrize(
    ("p", "rate"), [(1.0, "finite"), (1.5, "linear"), (2.0, "linear"), (3.0, "sublinear"), (6.0, "sublinear")]
)
def test_powers_have_their_exponent(p, rate, x64):
    for c in (1.0, 1e-12, 1e12):
        fit = kl_exponent(lambda x, c=c: c * jnp.abs(x) ** p, np.geomspace(1e-3, 1, 20), minimum=0.0)
        np.testing.assert_allclose(fit.beta, 1 - 1 / p, atol=1e-10)
        assert fit.rate == rate
    if rate == "sublinear":  # gradient flow on |x|^p: f ~ t^(−p/(p − 2))
        np.testing.assert_allclose(fit.order, p / (p - 2), rtol=1e-8)


@pytest.mark.covers("kl-exponent")
def test_quadratics_and_smooth_functions(dtype):
    d = jnp.asarray([1.0, 4.0, 9.0], dtype)
    radius = np.geomspace(1e-3, 1, 30)[:, None]
    points = (radius * RNG.normal(size=(30, 3))).astype(dtype)
    fit = kl_exponent(lambda x: jnp.sum(d * x**2) / 2, points, minimum=0.0)
    assert abs(fit.beta - 0.5) < 0.03
    assert fit.rate == "linear"
    assert fit.interval[0] <= 0.5 <= fit.interval[1]
    assert fit.c >= np.sqrt(2) * 0.7  # ‖∇f‖² ≥ 2 λ_min f
    with pytest.raises(InputError, match="points: found"):
        kl_exponent(lambda x: jnp.sum(x**2), np.zeros((5, 2), dtype), minimum=0.0)


@pytest.mark.covers("lipschitz-estimate")
def test_lipschitz_constants(x64):
    for f in (jnp.sin, jnp.abs, jax.nn.relu):
        found = lipschitz_estimate(f, np.linspace(-1e-3, 1e-3, 9), region=(-1.0, 2.0))
        np.testing.assert_allclose([found.stats["lower"], found.stats["upper"]], 1, rtol=1e-6)
        assert found.holds
    # Known ones, closer with more pieces.
    for f, region, L in (
        (jnp.tanh, (-1.0, 2.0), 1.0),
        (jnp.sqrt, (1.0, 4.0), 0.5),
        (lambda x: jnp.exp(-(x**2)), (-2.0, 2.0), np.sqrt(2 / np.e)),
        (lambda x: 1 / x, (0.5, 2.0), 4.0),
        (lambda x: x**2.5, (1.0, 2.0), 2.5 * 2**1.5),
    ):
        found = lipschitz_estimate(f, np.linspace(*region, 400), region=region, splits=64)
        assert found.stats["lower"] <= L * (1 + 1e-9)
        assert found.stats["upper"] * (1 + 1e-12) >= L
        assert found.stats["upper"] <= 1.1 * L
        assert found.stats["lower"] >= 0.97 * L


@pytest.mark.covers("lipschitz-estimate")
def test_lipschitz_of_compositions(dtype):
    W, V = (jnp.asarray(RNG.normal(size=s), dtype) for s in ((4, 3), (2, 4)))
    network = lambda x: V @ jnp.tanh(W @ x)  # noqa: E731
    points = RNG.uniform(-1, 1, size=(40, 3)).astype(dtype)
    box = (-np.ones(3, dtype), np.ones(3, dtype))
    orders = {"1": 1, "2": 2, "inf": np.inf}
    for metric, order in orders.items():
        found = lipschitz_estimate(network, points, region=box, splits=4, metric_in=metric, metric_out=metric)
        assert found.holds
        product = np.linalg.norm(W, order) * np.linalg.norm(V, order)
        assert found.stats["lower"] <= product
        sampled = max(np.linalg.norm(np.asarray(jax.jacobian(network)(jnp.asarray(x))), order) for x in points)
        assert sampled <= found.stats["upper"]
        # tanh' comes as (1 + t)(1 − t), whose factors the boxes do not know to belong together: not far off, yet.
        assert found.stats["upper"] <= np.linalg.norm(np.abs(V) @ np.abs(W), order) * 2.5
    # A metric of one's own: the discrete one makes every map Lipschitz with its diameter.
    discrete = lambda a, b: jnp.any(a != b).astype(jnp.float32)  # noqa: E731
    found = lipschitz_estimate(network, points, metric_in=discrete, metric_out=discrete)
    np.testing.assert_allclose(found.stats["lower"], 1, rtol=1e-3)
    assert not np.isfinite(found.stats["upper"])


@pytest.mark.covers("lipschitz-estimate")
def test_intervals_hold_every_value(x64):
    def f(x):
        a, b = x[0], x[1:]
        c = jnp.where(a > 0.2, jnp.sin(b), jnp.cos(3 * b)) + jnp.logaddexp(a, b)
        return jnp.sum(c**2) / (2 + jnp.abs(a)) - jnp.max(b) * jax.nn.sigmoid(a) + jnp.sqrt(1 + a**4) ** 3

    low, high = jnp.asarray([-0.4, 0.1, -2.0]), jnp.asarray([0.7, 0.3, 1.5])
    a, b = interval(f, low, high)
    values = jax.vmap(f)(low + jnp.asarray(RNG.uniform(size=(4000, 3))) * (high - low))
    assert a <= values.min()
    assert values.max() <= b
    # A single point in, its value out, to rounding.
    a, b = interval(f, low, low)
    assert a <= f(low) <= b
    assert b - a < 1e-12
    # What cannot be bounded is unbounded; what has no rule is refused.
    a, b = interval(lambda x: 1 / x, jnp.asarray(-1.0), jnp.asarray(1.0))
    assert not np.isfinite(a)
    assert not np.isfinite(b)
    with pytest.raises(InputError, match="primitive 'sort'"):
        interval(jnp.sort, low, high)
    for bad in ({"region": (1.0, 0.0)}, {"points": np.ones(1)}, {"region": (0.0, 1.0), "splits": 5000}, {}):
        with pytest.raises(InputError, match=r"region|points|splits"):
            lipschitz_estimate(jnp.sin, **bad)
    assert Logistic(X, Y).lipschitz() > 0


def test_loops_are_enclosed_pass_by_pass(x64):
    def f(x):
        return jax.lax.fori_loop(0, 5, lambda i, y: 2 * y, x).sum()

    found = optim.lipschitz_estimate(f, region=(jnp.zeros(1), jnp.ones(1)))
    assert 32 <= found.stats["upper"] <= 32.001

    def g(x):
        return jax.lax.scan(lambda y, a: (y, a * y), x[0], x[1:])[1].sum()

    assert (
        optim.lipschitz_estimate(g, region=(jnp.zeros(3), jnp.ones(3)), metric_in="1", metric_out="1").stats["upper"]
        <= 2.001
    )
    with pytest.raises(InputError, match="'while'"):
        optim.lipschitz_estimate(
            lambda x: jax.lax.while_loop(lambda y: y[0] < 3, lambda y: y + 1, x), region=(jnp.zeros(1), jnp.ones(1))
        )
