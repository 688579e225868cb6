"""First-order smooth methods: naive twins, closed forms, safeguards, scale, precision and refusals."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from corollary import optim
from corollary.core import InputError, Status
from corollary.optim import (
    BarzilaiBorwein,
    Composite,
    Differentiable,
    GradientDescent,
    HeavyBall,
    LeastSquares,
    Logistic,
    Nesterov,
    NonlinearCG,
    SpectralProjectedGradient,
    hinge_oracle,
    max_oracle,
    minimize,
    nonmonotone_line_search,
    sharpness_aware_gd,
    subgradient_method,
    sum_oracle,
)
from corollary.optim import penalties as P
from corollary.optim.smooth._line_search import armijo, evaluate, line, strong_wolfe

N, D = 20, 6


def data(seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(N, D)) * np.geomspace(1, 0.2, D)
    return A.astype(dtype), rng.normal(size=N).astype(dtype)


def least_squares(dtype="float64", s=1.0, u=1.0):
    A, b = data(dtype=dtype)
    return Composite(LeastSquares((s / u) * A, s * b)) if dtype == "float64" else Composite(LeastSquares(A, b))


def strong_convexity():
    A, _ = data()
    return float(np.linalg.eigvalsh(A.T @ A)[0])


def rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def steps_of(solver, problem, x0, count):
    """States after 1, ..., count steps, in one scan."""

    @jax.jit
    def run(x0):
        def body(state, _):
            state, info = solver.step(problem, state)
            return state, (state, info)

        return jax.lax.scan(body, solver.init(problem, x0), length=count)[1]

    return run(jnp.asarray(x0))


@functools.cache
def solvers():
    m = strong_convexity()
    return {
        "fixed": GradientDescent(),
        "armijo": GradientDescent("armijo"),
        "wolfe": GradientDescent("wolfe"),
        "heavy ball": HeavyBall(strong_convexity=m),
        "nesterov": Nesterov(),
        "constant": Nesterov("constant", m),
        "conjugate gradients": NonlinearCG(),
        "bb1": BarzilaiBorwein(),
        "bb2": BarzilaiBorwein("bb2", memory=None),
        "alternating": BarzilaiBorwein("alternating"),
        "spectral": SpectralProjectedGradient(),
    }


@pytest.mark.parametrize("name", list(solvers()))
def test_every_solver_finds_the_least_squares_solution(name):
    A, b = data()
    exact = np.linalg.lstsq(A, b)[0]
    run = minimize(least_squares(), solver=solvers()[name], tol=1e-9)
    assert run.converged
    assert run.holds
    # ‖∇f‖ ≤ r leaves an error of at most r/m.
    bound = float(run.certificates["stationarity"].bound) / strong_convexity()
    assert np.linalg.norm(run.value - exact) <= bound * (1 + 1e-6) + 1e-14


@pytest.mark.parametrize("name", ["nesterov", "conjugate gradients", "bb1"])
def test_float32(name):
    A, b = data(dtype="float32")
    run = minimize(least_squares("float32"), solver=solvers()[name], tol=1e-5)
    assert run.value.dtype == np.float32
    assert run.converged
    np.testing.assert_allclose(run.value, np.linalg.lstsq(A.astype(float), b.astype(float))[0], atol=2e-3)


@pytest.mark.parametrize("name", ["armijo", "conjugate gradients", "bb1"])
def test_scale_changes_nothing_but_scale(name):
    """Objective times c², or variables times c: the same program, and the same answer up to scale."""
    solver = solvers()[name]
    plain = minimize(least_squares(), solver=solver, tol=1e-8)
    for s, u in ((1e6, 1.0), (1e-6, 1.0), (1.0, 1e12), (1.0, 1e-12)):
        scaled = minimize(least_squares(s=s, u=u), solver=solver, tol=1e-8)
        assert scaled.converged
        assert abs(int(scaled.steps) - int(plain.steps)) <= 0.3 * int(plain.steps) + 2
        np.testing.assert_allclose(scaled.value / u, plain.value, atol=1e-6)


@pytest.mark.covers("nonmonotone-line-search", "barzilai-borwein")
@pytest.mark.parametrize("name", ["armijo", "conjugate gradients", "bb1"])
def test_rosenbrock_from_many_starts(name, x64):
    """vmap over starts; success only at stationary points, and what stands is the minimum."""
    starts = jnp.asarray([[-1.2, 1.0], [2.0, -2.0], [0.0, 0.0], [-3.0, 4.0]])
    solver = solvers()[name]
    run = jax.vmap(lambda x0: minimize(rosenbrock, x0, solver, tol=1e-6, max_steps=6000))(starts)
    if name != "armijo":  # steepest descent needs tens of thousands of steps from some of them
        assert np.all(run.converged)
    close = np.linalg.norm(run.value - 1, axis=1) < 0.1
    assert np.all(close | ~np.asarray(run.converged))


@pytest.mark.covers("barzilai-borwein")
def test_barzilai_borwein_steps(x64):
    A, _ = data()
    H = A.T @ A
    low, high = np.linalg.eigvalsh(H)[[0, -1]]
    x0 = np.ones(D)
    found = {}
    for kind in ("bb1", "bb2", "alternating"):
        states, _ = steps_of(BarzilaiBorwein(kind, memory=None), least_squares(), x0, 12)
        inverse = 1 / np.asarray(states.alpha)
        assert np.all((inverse >= low * (1 - 1e-9)) & (inverse <= high * (1 + 1e-9)))
        x = np.vstack([x0, states.x])
        s, y = np.diff(x, axis=0), np.diff(x, axis=0) @ H
        bb1, bb2 = np.sum(s * s, 1) / np.sum(s * y, 1), np.sum(s * y, 1) / np.sum(y * y, 1)
        assert np.all(bb2 <= bb1 * (1 + 1e-12))
        expected = {"bb1": bb1, "bb2": bb2, "alternating": np.where(np.arange(12) % 2 == 0, bb1, bb2)}[kind]
        np.testing.assert_allclose(states.alpha, expected, rtol=1e-8)
        found[kind] = (s[-1], y[-1], bb1[-1], bb2[-1])
    s, y, bb1, bb2 = found["bb1"]
    for factor in (0.9, 0.99, 1.01, 1.1):  # the two least-squares problems they solve
        assert np.linalg.norm(s / bb1 - y) <= np.linalg.norm(s / (factor * bb1) - y)
        assert np.linalg.norm(s - bb2 * y) <= np.linalg.norm(s - factor * bb2 * y)


@pytest.mark.covers("barzilai-borwein")
def test_barzilai_borwein_is_superlinear_in_two_dimensions(x64):
    # Barzilai & Borwein (1988): R-superlinear. From 1/L, the solver's own guess, it would be there in three steps.
    problem, solver = Composite(LeastSquares(np.diag([1.0, 30.0**0.5]), np.zeros(2))), BarzilaiBorwein(memory=None)
    start = eqx.tree_at(lambda s: s.alpha, solver.init(problem, jnp.ones(2)), jnp.asarray(1 / 7))

    def body(state, _):
        state, info = solver.step(problem, state)
        return state, info.residual

    residual = np.asarray(jax.lax.scan(body, start, length=12)[1])
    assert residual.min() < 1e-10  # gradient descent's best fixed step, 0.935 a step: a factor 0.45 in all
    assert np.min(residual[1:9] / residual[:8]) < 1e-3


@pytest.mark.covers("nesterov")
def test_forms_and_laws(x64):
    problem, x0, A = least_squares(), np.ones(D), data()[0]
    b = data()[1]
    L, m = float(problem.smooth.lipschitz()), strong_convexity()

    def gradient(x):
        return A.T @ (A @ x - b)

    for law, momentum in (
        ("(t-1)/(t+2)", lambda t: (t - 1) / (t + 2)),
        ("t/(t+3)", lambda t: t / (t + 3)),
        ("constant", lambda t: (np.sqrt(L / m) - 1) / (np.sqrt(L / m) + 1)),
    ):
        solver = Nesterov(law, m if law == "constant" else None, restart=None)
        states, _ = steps_of(solver, problem, x0, 25)
        x = y = x0  # y-form
        p, v = x0, np.zeros(D)  # look-ahead form: the gradient at p + μv, then p + v
        for t in range(1, 26):
            new = y - gradient(y) / L
            y, x = new + momentum(t) * (new - x), new
            ahead = momentum(t - 1) if t > 1 else 0.0
            v = ahead * v - gradient(p + ahead * v) / L
            p = p + v
        np.testing.assert_allclose(states.x[-1], x, rtol=1e-9)
        np.testing.assert_allclose(p, x, rtol=1e-9)
        assert np.linalg.norm(states.y[-1] - x) > 1e-8  # the point ahead is not the iterate
        if law == "constant":
            # Optax keeps the point ahead: its parameters are y.
            tx = optax.sgd(1 / L, momentum=momentum(1), nesterov=True)
            params, memory = jnp.asarray(x0), tx.init(jnp.asarray(x0))
            for _ in range(25):
                update, memory = tx.update(jnp.asarray(gradient(np.asarray(params))), memory)
                params = optax.apply_updates(params, update)
            np.testing.assert_allclose(params, states.y[-1], rtol=1e-8)


@pytest.mark.covers("nesterov")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nesterov_rate_certificates(dtype):
    A, b = data(dtype=dtype)
    logistic = Composite(Logistic(A, b > 0))
    best = minimize(logistic, solver=NonlinearCG(), tol=1e-12).value if dtype == "float64" else None
    exact = np.linalg.lstsq(A.astype(float), b.astype(float))[0].astype(dtype)
    m = strong_convexity() * 0.999
    x0 = np.full(D, 0.5, dtype)
    both = ((least_squares(dtype), exact), (logistic, best))
    for problem, reference in both if dtype == "float64" else both[:1]:
        laws = [Nesterov(restart=None), Nesterov("t/(t+3)", restart=None)]
        laws += [Nesterov("constant", m)] if problem is not logistic else []
        for solver in laws:
            run = minimize(problem, x0, solver, tol=0.0, max_steps=60, history=True, reference=reference)
            gap, bound = run.history["suboptimality"], run.history["rate_bound"]
            noise = 64 * np.finfo(dtype).eps * (1 + abs(float(problem.objective(reference))))
            seen = np.isfinite(gap)
            assert np.all(gap[seen] <= bound[seen] + noise)
            assert run.certificates["rate"].holds


def test_fixed_steps_have_their_rates(x64):
    A, b = data()
    exact = np.linalg.lstsq(A, b)[0]
    for solver in (GradientDescent(), GradientDescent(strong_convexity=strong_convexity())):
        run = minimize(least_squares(), np.ones(D), solver, tol=0.0, max_steps=40, history=True, reference=exact)
        seen = run.history["suboptimality"] <= run.history["rate_bound"] * (1 + 1e-9)
        assert np.all(seen)
    # Polyak's step: f(x) − f* known, the distance to x* never grows.
    problem = Composite(LeastSquares(A, A @ np.ones(D)))
    states, _ = steps_of(GradientDescent("polyak", minimum=0.0), problem, np.zeros(D), 40)
    distance = np.linalg.norm(np.asarray(states.x) - 1, axis=1)
    assert np.all(np.diff(distance) <= 1e-12)


def test_conjugate_gradients_end_on_a_quadratic(x64):
    run = minimize(least_squares(), np.ones(D), NonlinearCG(c2=1e-3, restart=1e9), tol=1e-8)
    assert run.steps <= D + 3


def test_pytrees_and_jit(x64):
    def f(p):
        return jnp.sum((p["a"] - 1) ** 2) + 3 * (p["b"] + 2) ** 2 + jnp.sum(p["a"]) * p["b"] / 10

    x0 = {"a": np.zeros(3), "b": np.array(0.0)}
    for solver in (NonlinearCG(),):
        plain = minimize(f, x0, solver, tol=1e-9)
        compiled = jax.jit(lambda x0, solver=solver: minimize(f, x0, solver, tol=1e-9))(x0)
        assert plain.converged
        for key in x0:
            np.testing.assert_allclose(plain.value[key], compiled.value[key], atol=1e-9)


@pytest.mark.covers("nonmonotone-line-search")
def test_nonmonotone_search(dtype):
    rng = np.random.default_rng(0)
    for seed in range(6):
        x = (2 * rng.normal(size=2)).astype(dtype)
        gradient = np.asarray(jax.grad(rosenbrock)(jnp.asarray(x)))
        p = -gradient
        value = float(rosenbrock(jnp.asarray(x)))
        recent = np.array([value, value * (1 + seed), value / 2], dtype)
        one = nonmonotone_line_search(rosenbrock, x, p, recent)
        assert one.converged
        assert one.holds
        bound = recent.max() + 1e-4 * float(one.stats["step"]) * float(gradient @ p)
        assert float(one.stats["objective"]) <= bound * (1 + 1e-5)
        monotone = nonmonotone_line_search(rosenbrock, x, p)
        assert monotone.stats["objective"] < value
        assert one.stats["step"] >= monotone.stats["step"]
        np.testing.assert_allclose(nonmonotone_line_search(rosenbrock, x, p, [value]).value, monotone.value)
    uphill = nonmonotone_line_search(rosenbrock, x, -p)
    assert uphill.status == Status.PRECISION
    np.testing.assert_array_equal(uphill.value, x)
    minimum = nonmonotone_line_search(lambda x: jnp.sum(x**2) + 1, np.zeros(2, dtype), np.ones(2, dtype))
    assert minimum.status == Status.PRECISION


def test_line_searches_meet_their_conditions(x64):
    functions = [
        lambda x: jnp.sum((x - 3) ** 2),
        lambda x: jnp.sum(-x / (x**2 + 2)),  # Moré & Thuente (1994), (5.1)
        lambda x: jnp.sum((x + 0.004) ** 5 - 2 * (x + 0.004) ** 4),
        lambda x: jnp.sum(jnp.cosh(x - 2)),
    ]
    for f in functions:
        smooth = Differentiable(f)
        point = evaluate(smooth, jnp.zeros(1))
        along = line(smooth, point, -point.gradient / jnp.abs(point.gradient))

        @jax.jit
        def search(t, smooth=smooth, along=along):
            return jax.vmap(lambda t: (strong_wolfe(smooth, along, t, c2=0.1), armijo(smooth, along, t)))(t)

        wolfe, short = search(jnp.asarray([1e-3, 0.1, 1.0, 30.0]))
        assert np.all(wolfe.wolfe)
        assert np.all(np.abs(wolfe.trial.slope) <= 0.1 * abs(float(along.start.slope)))
        for found in (wolfe, short):
            assert np.all(found.ok)
            armijo_line = along.start.value + 1e-4 * found.trial.step * along.start.slope
            assert np.all(found.trial.value <= armijo_line + 1e-12)


def test_searches_see_through_the_rounding_of_f():
    """f = 1e4 + x² in float32: values say nothing below 0.03, slopes do; and a smooth step is still found."""

    def f(x):
        return jnp.float32(1e4) + jnp.sum(jnp.asarray([1.0, 3.0], jnp.float32) * x**2)

    for solver in (NonlinearCG(), BarzilaiBorwein()):
        run = minimize(f, np.array([1.0, 1.0], np.float32), solver, tol=1e-5)
        assert run.converged
        assert np.linalg.norm(run.value) < 1e-4


def test_a_stalled_run_is_no_success(x64):
    # |x| has no stationary point that a line search could end in: its gradient stays ±1.
    for solver in (NonlinearCG(), GradientDescent("armijo")):
        run = minimize(lambda x: jnp.sum(jnp.abs(x - 0.3)), np.array([1.0, 2.0]), solver, tol=1e-8, max_steps=300)
        assert not run.converged


@pytest.mark.covers("spectral-projected-gradient")
def test_box_constrained_problems_against_scipy(dtype):
    A, b = data(dtype=dtype)
    low, high = -0.1, 0.25
    peer = scipy.optimize.lsq_linear(A.astype(float), b.astype(float), (low, high), tol=1e-14).x
    other = scipy.optimize.minimize(
        lambda x: (np.sum((A @ x - b) ** 2) / 2, A.T @ (A @ x - b)),
        np.zeros(D),
        jac=True,
        bounds=[(low, high)] * D,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-12},
    ).x
    problem = Composite(LeastSquares(A, b), P.Box(low, high))
    tol = 1e-10 if dtype == "float64" else 1e-5
    run = minimize(problem, np.ones(D, dtype), SpectralProjectedGradient(), tol=tol)
    assert run.converged
    assert run.holds
    for x in (peer, other):
        np.testing.assert_allclose(run.value, x, atol=1e-6 if dtype == "float64" else 2e-3)
    states, info = steps_of(SpectralProjectedGradient(), problem, np.ones(D, dtype), 40)
    assert np.all((states.x >= np.asarray(low, dtype)) & (states.x <= np.asarray(high, dtype)))  # feasible, exactly
    assert info.residual[-1] <= max(1e-8, tol) * np.linalg.norm(A.T @ b)
    assert np.all(np.isfinite(info.objective))


@pytest.mark.covers("spectral-projected-gradient", "barzilai-borwein")
def test_without_a_constraint_it_is_barzilai_borwein(x64):
    spectral, _ = steps_of(SpectralProjectedGradient(), least_squares(), np.ones(D), 15)
    plain, _ = steps_of(BarzilaiBorwein(), least_squares(), np.ones(D), 15)
    np.testing.assert_allclose(spectral.x, plain.x, rtol=1e-6)
    # A penalty that is no indicator: the proximal version agrees with the driver's own choice.
    problem = Composite(LeastSquares(*data()), P.L1(1.0))
    ours = minimize(problem, np.zeros(D), SpectralProjectedGradient(), tol=1e-10)
    assert ours.converged
    np.testing.assert_allclose(ours.value, minimize(problem, tol=1e-13).value, atol=1e-7)


@pytest.mark.covers("subgradient-method")
def test_subgradients_at_kinks_and_elsewhere(dtype):
    A = np.array([[1.0, 2.0], [-1.0, 0.5], [0.0, 1.0]], dtype)
    hinge = hinge_oracle(A, np.array([1.0, 0.0, 2.0], dtype))

    def l1(x):
        return jnp.sum(jnp.abs(x))

    def largest(x):
        return jnp.max(jnp.asarray(A) @ x)

    def first(x):
        return x[0]

    oracles = {
        "l1": jax.value_and_grad(l1),
        "max": jax.value_and_grad(largest),
        "hinge": hinge,
        "sum": sum_oracle(jax.value_and_grad(l1), jax.value_and_grad(largest), hinge),
        "max of": max_oracle(jax.value_and_grad(l1), jax.value_and_grad(first)),
    }
    rng = np.random.default_rng(0)
    points = rng.normal(size=(30, 2)).astype(dtype)
    points[:3] = [[0, 0], [0, 1], [1, 0]]  # the kinks
    points = jnp.asarray(points)
    for oracle in oracles.values():
        values, g = jax.vmap(oracle)(points)
        tangents = values[:, None] + jnp.einsum("id,ijd->ij", g, points[None] - points[:, None])
        assert np.all(values[None] >= tangents - 1e-5 * (1 + jnp.abs(tangents)))
    # 0 ∈ ∂|x| at x* = 0, between the slopes of the two pieces that meet there; the hinges' is 0 where all are met.
    up, down = (jax.value_and_grad(lambda x, s=s: s * x) for s in (1.0, -1.0))
    zero = jnp.zeros((), dtype)
    assert max_oracle(up, down)(zero)[1] == 1
    assert max_oracle(down, up)(zero)[1] == -1
    np.testing.assert_array_equal(hinge(jnp.asarray([-1.0, 3.0], dtype))[1], 0)
    # jax.grad of a difference need not be a subgradient: relu(x) − relu(−x) = x has slope 1 at 0.
    assert jax.grad(lambda x: jax.nn.relu(x) - jax.nn.relu(-x))(0.0) == 0.0


@pytest.mark.covers("subgradient-method")
@pytest.mark.parametrize("step", ["constant", "decreasing", "polyak"])
def test_subgradient_method(step, dtype):
    centre = np.array([1.0, -0.5, 0.25], dtype)

    def f(x):
        return jnp.sum(jnp.abs(x - centre)) + jnp.max(jnp.abs(x - centre)) + 1

    minimum = 1.0 if step == "polyak" else None
    for T in (10, 400):
        run = subgradient_method(f, np.zeros(3, dtype), radius=1.5, steps=T, step=step, minimum=minimum)
        gap = float(run.stats["objective"]) - 1
        assert float(run.stats["lower_bound"]) <= 1 + 1e-5
        assert gap <= float(run.stats["gap"]) + 1e-5
        if step != "polyak":
            assert run.holds
            assert run.converged
        if step == "constant":
            assert gap <= 1.5 * float(run.stats["slope"]) / np.sqrt(T)
        assert np.all(np.diff(run.history["best"]) <= 0)
    if step == "polyak":
        assert gap < 0.05
    # A minimiser outside the ball: the bound is that of the ball, where f is larger.
    far = subgradient_method(f, np.zeros(3, dtype), radius=0.1, steps=50)
    assert far.stats["lower_bound"] > 1
    assert np.linalg.norm(far.value) <= 0.1 * (1 + 1e-5)
    # A slope that is too small is found out.
    assert not subgradient_method(f, np.zeros(3, dtype), radius=1.5, steps=10, slope=0.5).certificates["rate"].holds


def lopsided(x):
    return jnp.sum(jnp.where(x < 0, 25.0, 1.0) * x**2) / 2


@pytest.mark.covers("sharpness-aware-gd")
def test_sharpness_aware_descent(x64):
    A, b = data()
    L = np.linalg.norm(A, 2) ** 2
    exact = np.linalg.lstsq(A, b)[0]

    def f(x):
        return jnp.sum((A @ x - b) ** 2) / 2

    for rho in (0.0, 0.3 / L, 0.8 / L):
        run = sharpness_aware_gd(f, np.ones(D), rho, L, 60, reference=exact)
        assert np.all(run.certificates["rate"].holds)
        assert run.certificates["critical"].holds
        assert np.all(np.diff(run.history["objective"]) <= 1e-12)
    x = np.ones(D)
    for _ in range(60):
        x = x - A.T @ (A @ x - b) / L
    plain = sharpness_aware_gd(f, np.ones(D), 0.0, L, 60)
    np.testing.assert_allclose(plain.value, x, rtol=1e-12)  # ρ = 0 is gradient descent
    np.testing.assert_allclose(sharpness_aware_gd(f, np.ones(D), 0.0, L, 60, mode="ball").value, x, rtol=1e-12)
    # ρ beyond 1/L is outside the rate's assumptions, and says so.
    assert not np.any(sharpness_aware_gd(f, np.ones(D), 2 / L, L, 5, reference=exact).certificates["rate"].holds)


@pytest.mark.covers("sharpness-aware-gd")
def test_the_ball_ends_on_the_flat_side(dtype):
    """On 25x²/2 left of 0 and x²/2 right of it the largest value within ρ is least at x = 2ρ/3."""
    rho = 0.3
    run = sharpness_aware_gd(lopsided, np.array([-1.0], dtype), rho, 25.0, 300, mode="ball", step=0.004)
    assert float(run.value[0]) == pytest.approx(2 * rho / 3, abs=0.03)
    assert run.certificates["critical"].holds
    assert float(run.history["worst"][-1]) < float(run.history["worst"][0])
    plain = sharpness_aware_gd(lopsided, np.array([-1.0], dtype), 0.0, 25.0, 300)
    assert abs(float(plain.value[0])) < 1e-3  # gradient descent ends in the corner


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: GradientDescent("steep"), "step_size: found 'steep'"),
        (lambda: GradientDescent(-1.0), "step_size: found -1.0"),
        (lambda: GradientDescent("polyak"), "minimum: expected for"),
        (lambda: HeavyBall(momentum=2.0), "momentum: found 2.0"),
        (lambda: minimize(rosenbrock, np.ones(2), HeavyBall()), "step_size: found None"),
        (lambda: Nesterov("constant"), "strong_convexity: expected for"),
        (lambda: Nesterov("faster"), "law: found 'faster'"),
        (lambda: NonlinearCG(c2=0.7), "c2: found 0.7"),
        (lambda: BarzilaiBorwein("bb3"), "kind: found 'bb3'"),
        (lambda: BarzilaiBorwein(memory=0), "memory: found 0"),
        (lambda: minimize(Composite(rosenbrock, P.L1(1.0)), np.ones(2), BarzilaiBorwein()), "penalty L1"),
        (lambda: minimize(Composite(rosenbrock, P.L0(1.0)), np.ones(2), SpectralProjectedGradient()), "penalty L0"),
        (lambda: nonmonotone_line_search(rosenbrock, np.ones(2), np.ones(3)), "direction: found other shapes"),
        (lambda: nonmonotone_line_search(rosenbrock, np.ones(2), np.ones(2), step=0.0), "step"),
        (lambda: subgradient_method(rosenbrock, np.ones(2), radius=0.0, steps=3), "radius"),
        (lambda: subgradient_method(rosenbrock, np.ones(2), radius=1.0, steps=3, step="polyak"), "minimum"),
        (lambda: sharpness_aware_gd(rosenbrock, np.ones(2), -1.0, 1.0, 3), "rho"),
        (lambda: sharpness_aware_gd(rosenbrock, np.ones(2), 1.0, 1.0, 3, mode="cube"), "mode: found 'cube'"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_a_schedule_keeps_its_unit_and_a_search_has_no_rate(x64):
    f = optim.LeastSquares(np.diag([1.0, 0.1]), np.zeros(2))
    run = optim.minimize(
        optim.Composite(f),
        [1.0, 1.0],
        optim.GradientDescent(schedule=optim.silver_stepsize(5), strong_convexity=0.01),
        max_steps=31,
        tol=0.0,
        reference=[0.0, 0.0],
    )
    assert run.certificates["rate"].holds
    assert run.stats["objective"] < 1e-2
    assert not optim.GradientDescent().rated(optim.Composite(lambda x: x @ x))
    assert optim.GradientDescent().rated(optim.Composite(f))


def test_bounds_at_every_step_and_functions_with_arrays(x64):
    run = optim.subgradient_method(lambda x: jnp.abs(x).sum(), [1.0], radius=1.0, steps=10_000)
    assert np.all(run.history["best"] <= run.history["rate_bound"] * (1 + 1e-9))
    assert run.certificates["gap"].assumptions
    f = optim.functions.quadratic(2, 10.0)
    optim.subgradient_method(f, [1.0, 1.0], radius=1.0, steps=10)
    optim.gd_rate_convex(f, [1.0, 1.0], f.minimisers[0], 20.0, 5)
    optim.sharpness_aware_gd(f, [1.0, 1.0], 0.1, 20.0, 5)
    assert optim.gd_rate_convex(lambda x: (x**4).sum(), [10.0], [0.0], 1.0, 20).status == Status.NON_FINITE
