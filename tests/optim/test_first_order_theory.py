"""Theory of first-order methods: lower bounds no method beats, upper bounds no run exceeds, and the table of both."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from corollary.core import InputError
from corollary.optim import (
    Composite,
    Differentiable,
    Fista,
    GradientDescent,
    HeavyBall,
    Nesterov,
    NonlinearCG,
    affine_lower_bound,
    anytime_stepsize,
    critical_point_rate,
    critical_point_steps,
    first_order_lower_bound,
    minimize,
    nesterov_count,
    nesterov_rate,
    optimum_scaling,
    oracle_complexity,
    schedule_rate,
    silver_stepsize,
)
from tests.core.test_labs import lab

RNG = np.random.default_rng(0)


def trajectory(solver, problem, x0, steps):
    """All iterates of a solver, in one scan."""

    @jax.jit
    def run(x0):
        def body(state, _):
            state, _ = solver.step(problem, state)
            return state, state.x

        return jax.lax.scan(body, solver.init(problem, x0), length=steps)[1]

    return run(jnp.asarray(x0))


METHODS = {
    "gradient descent": GradientDescent(),
    "wolfe": GradientDescent("wolfe"),
    "heavy ball": HeavyBall(),
    "nesterov": Nesterov(restart=None),
    "fista": Fista(restart=None),
    "conjugate gradients": NonlinearCG(),
}


@pytest.mark.covers("first-order-lower-bound")
@pytest.mark.parametrize("name", METHODS)
def test_no_method_beats_the_lower_bound(name, x64):
    worst = first_order_lower_bound(10)
    f = worst.problem.objective
    x = trajectory(METHODS[name], worst.problem, worst.start, 10)
    gaps = jax.vmap(f)(x) - worst.minimum
    assert np.all(worst.certificate(gaps).holds)
    assert gaps[9] >= worst.theorem
    for k in range(1, 11):  # one new coordinate per gradient
        assert np.count_nonzero(x[k - 1]) <= k
    assert f(worst.reference) == pytest.approx(worst.minimum, rel=1e-12)
    np.testing.assert_allclose(worst.problem.smooth.gradient(jnp.asarray(worst.reference)), 0, atol=1e-14)


@pytest.mark.covers("first-order-lower-bound")
def test_bounds_of_the_function_and_its_class(x64):
    worst = first_order_lower_bound(8, lipschitz=3.0)
    H = np.asarray(jax.hessian(worst.problem.smooth.function)(jnp.zeros(17)))
    assert np.linalg.eigvalsh(H)[-1] <= 3.0
    for j in range(1, 9):  # the least value with j nonzeros, by linear algebra
        x = np.zeros(17)
        x[:j] = np.linalg.solve(H[:j, :j], [3 / 4] + [0] * (j - 1))
        assert worst.problem.objective(jnp.asarray(x)) - worst.minimum == pytest.approx(worst.bounds[j], rel=1e-10)
    # Counter-example: on one function the bound of the theorem does not hold for all k ≤ (d − 1)/2 at once.
    early = 3 * 3.0 * worst.reference @ worst.reference / (32 * (1 + 1) ** 2)
    assert worst.bounds[1] < early
    strong = first_order_lower_bound(10, strong_convexity=0.01)
    H = np.asarray(jax.hessian(strong.problem.smooth.function)(jnp.zeros(81)))
    assert np.linalg.eigvalsh(H)[0] >= 0.01
    assert np.linalg.eigvalsh(H)[-1] <= 1.0
    q = (10 - 1) / (10 + 1)
    assert strong.theorem == pytest.approx(0.005 * q**20 * strong.reference @ strong.reference, rel=1e-5)
    for solver in (Nesterov("constant", 0.01), HeavyBall(strong_convexity=0.01)):
        x = trajectory(solver, strong.problem, strong.start, 10)
        gaps = jax.vmap(strong.problem.objective)(x) - strong.minimum
        assert np.all(strong.certificate(gaps).holds)


def rounds(worst, method, count):
    """First-order methods for min f(x), A x = 0: one gradient, one product with A and one with Aᵀ a round."""
    f, A, At = worst.function, worst.forward, worst.adjoint

    def penalty(carry, _):
        x, before, y = carry
        ahead = x + (0.5 if method == "nesterov on a penalty" else 0.0) * (x - before)
        new = ahead - 0.1 * (jax.grad(f)(ahead) + 2.0 * At(A(ahead)))
        return (new, x, y), f.average(new)

    def lagrangian(carry, _):
        x, _, y = carry
        new = x - 0.1 * (jax.grad(f)(x) + At(y))
        y = y + 0.5 * A(2 * new - x)
        return (new, x, y), f.average(new)

    x = jnp.asarray(worst.start)
    body = lagrangian if method == "primal-dual" else penalty
    return jax.jit(lambda c: jax.lax.scan(body, c, length=count)[1])((x, x, worst.forward(x)))


@pytest.mark.covers("affine-constrained-lower-bound")
@pytest.mark.parametrize("method", ["gradient descent on a penalty", "nesterov on a penalty", "primal-dual"])
def test_affine_constraints_cost_their_condition_number(method, x64):
    worst = affine_lower_bound(8.0, eps=7e-3)
    criterion = rounds(worst, method, worst.predicted + 20)
    assert np.all(worst.certificate(criterion).holds)


@pytest.mark.covers("affine-constrained-lower-bound")
def test_the_affine_instance_is_of_its_class(x64):
    worst = affine_lower_bound(8.0, eps=7e-3)
    agents, links = worst.start.shape
    A = scipy.linalg.toeplitz([1.0] + [0.0] * (agents - 2), [1.0, -1.0] + [0.0] * (agents - 2))
    singular = np.linalg.svd(A, compute_uv=False)
    assert singular[0] / singular[-1] == pytest.approx(worst.condition, rel=1e-10)
    assert worst.condition <= 8
    x = jnp.asarray(RNG.normal(size=(agents, links)) * float(worst.function.sigma))
    np.testing.assert_allclose(worst.forward(x), A @ x, atol=1e-15)
    np.testing.assert_allclose(worst.adjoint(A @ x), A.T @ (A @ x), atol=1e-15)
    for scale in (1.0,):
        H = jax.hessian(worst.function)(scale * x).reshape(agents * links, -1)
        assert np.max(np.abs(np.linalg.eigvalsh(H))) <= worst.lipschitz
    deep = jnp.full((agents, links), 20 * worst.function.sigma)
    assert worst.function(jnp.zeros_like(x)) - worst.function(deep) <= worst.gap
    counts = [affine_lower_bound(kappa, eps=7e-3).predicted for kappa in (8.0, 16.0, 32.0, 64.0)]
    ratio = np.array(counts[1:]) / counts[:-1]
    assert np.all((ratio > 1.7) & (ratio < 2.3))  # grows with κ(A)
    assert affine_lower_bound(8.0, eps=3.5e-3).predicted >= 3.9 * worst.predicted  # and with 1/ε²


def rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def waves(x):
    return jnp.sum(jnp.sin(x)) + jnp.sum(x[1:] * x[:-1]) / 8


def network(w):
    X = jnp.linspace(-1, 1, 8, dtype=w.dtype)
    return jnp.mean((w[2] * jnp.tanh(w[0] * X + w[1]) - X**2) ** 2) / 2


@pytest.mark.covers("critical-point-rate")
def test_critical_points(dtype):
    x0 = np.array([-1.2, 1.0], dtype)
    cases = [
        (rosenbrock, x0, 0.0, 2500.0, None),
        (lambda x: jnp.sum(jnp.sin(x)), np.array([0.3, 2.0, -4.0], dtype), -3.0, 1.0, None),
        (lambda x: jnp.sum(jnp.sin(x)), np.array([0.3, 2.0, -4.0], dtype), -3.0, 1.0, 0.2),
        (network, np.array([0.4, -0.3, 0.5], dtype), 0.0, 5.0, None),
    ]
    for f, start, lower, L, step in cases:
        run = critical_point_rate(f, start, lower, L, 200, step=step)
        assert np.all(run.certificates["rate"].holds)
        assert run.stats["gradient"] == pytest.approx(np.linalg.norm(jax.grad(f)(jnp.asarray(run.value))), rel=1e-4)
    # Not a minimum: from the stable manifold of a saddle, gradient descent ends in the saddle.
    saddle = critical_point_rate(lambda x: x[0] ** 2 / 2 - x[1] ** 2 / 2 + x[1] ** 4 / 4, [1.0, 0.0], -0.25, 3.0, 100)
    assert saddle.stats["gradient"] < 1e-5
    # Steps beyond 1/L are outside the theorem, and a constant too small is found out.
    assert not np.any(critical_point_rate(rosenbrock, x0, 0.0, 2500.0, 5, step=1e-3).certificates["rate"].holds)
    assert not np.all(critical_point_rate(rosenbrock, x0, 0.0, 150.0, 5).certificates["rate"].holds)
    assert critical_point_steps(2.0, 3.0, 0.1) == 1200


@pytest.mark.covers("oracle-complexity")
def test_oracle_table(x64):
    constants = {"lipschitz": 2.0, "radius": 3.0, "gap": 5.0, "slope": 4.0, "noise": 4.0, "strong_convexity": 0.01}
    needs = {
        "smooth-convex": ("lipschitz", "radius"),
        "smooth-strongly-convex": ("lipschitz", "strong_convexity", "radius"),
        "lipschitz-convex": ("slope", "radius"),
        "smooth-nonconvex": ("lipschitz", "gap"),
        "stochastic-convex": ("noise", "radius"),
        "stochastic-smooth-nonconvex": ("lipschitz", "gap", "noise"),
    }
    for kind, names in needs.items():
        for eps in (1.0, 1e-1, 1e-2, 1e-3):
            row = oracle_complexity(kind, eps, **{n: constants[n] for n in names})
            assert 0 <= row.lower <= row.upper
        with pytest.raises(InputError, match=f"{names[0]}: found None"):
            oracle_complexity(kind, 0.1)
    row = oracle_complexity("smooth-convex", 1e-3, lipschitz=2.0, radius=3.0)
    assert row.upper == nesterov_count(1e-3, 2.0, 3.0)
    assert oracle_complexity("smooth-nonconvex", 0.1, lipschitz=2.0, gap=5.0).upper == critical_point_steps(2, 5, 0.1)
    assert oracle_complexity("lipschitz-convex", 0.1, slope=4.0, radius=3.0).upper == 120**2
    noisy = [
        oracle_complexity("stochastic-smooth-nonconvex", e, lipschitz=1, gap=1, noise=1).upper for e in (0.1, 0.01)
    ]
    assert noisy[1] / noisy[0] == pytest.approx(1e4)  # 1/ε⁴ with noise, 1/ε² without
    # The count of the optimal method on the worst function lies between the two.
    worst = first_order_lower_bound(20)
    R = np.linalg.norm(worst.reference)
    eps = worst.theorem
    row = oracle_complexity("smooth-convex", eps, lipschitz=1.0, radius=R)
    x = trajectory(Nesterov(restart=None), worst.problem, worst.start, 120)
    gaps = np.asarray(jax.vmap(worst.problem.objective)(x) - worst.minimum)
    assert row.lower <= np.argmax(gaps <= eps) + 1 <= row.upper


@pytest.mark.covers("nesterov-rate")
def test_counts_and_rates(dtype):
    for kappa in (10.0, 100.0):
        scales = jnp.asarray(np.geomspace(1 / kappa, 1, 8), dtype)
        f = jax.tree_util.Partial(weighted, scales)
        x0 = RNG.normal(size=8).astype(dtype)
        for m in (None, 1 / kappa):
            run = nesterov_rate(f, x0, np.zeros(8, dtype), 1.0, 100, strong_convexity=m)
            assert np.all(run.holds)
            assert 0 < int(run.stats["count"]) <= float(run.stats["count_bound"])
    # Measured on an ill-conditioned quadratic: √κ times fewer steps, within a factor.
    with jax.enable_x64(True):
        f = jax.tree_util.Partial(weighted, jnp.asarray(np.geomspace(1e-3, 1, 8)))
        run = nesterov_rate(f, np.ones(8), np.zeros(8), 1.0, 8000, strong_convexity=1e-3, eps=1e-6)
        ratio = int(run.stats["gradient_descent_count"]) / int(run.stats["count"])
        assert 1e3**0.5 / 4 <= ratio <= 1e3**0.5 * 2


def weighted(scales, x):
    return jnp.sum(scales * x**2) / 2


@pytest.mark.covers("optimum-scaling")
def test_scaling(dtype):
    def f(x):
        return jnp.sum((x - 1) ** 2) + jnp.sum(jnp.logaddexp(x, -x)) + 3

    x0 = np.array([3.0, -1.0], dtype)
    tol = 1e-8 if dtype == "float64" else 1e-4
    for c in (1e-6, 1e6):
        both = optimum_scaling(f, x0, c, tol=tol)
        assert both.converged
        assert both.holds
        assert both.steps % 2 == 0 or dtype == "float32"  # the same steps
        np.testing.assert_allclose(both.value[0], both.value[1], rtol=10 * tol)
        assert both.stats["minima"][1] == pytest.approx(c * float(both.stats["minima"][0]), rel=1e-4)
    upside_down = optimum_scaling(f, x0, -1.0, tol=tol, max_steps=50)  # control
    assert not upside_down.holds
    assert not upside_down.converged


def huber(edges, x):
    size = jnp.abs(x)
    return jnp.sum(jnp.where(size <= edges, x**2 / 2, edges * size - edges**2 / 2))


def worst_of_families(steps):
    """max f(x_t) − f* over Huber functions and parabolas with L = R = 1, in plain NumPy."""
    edges, scales = np.geomspace(1e-5, 1, 1500), np.linspace(0, 1, 1001)
    x, q, found = np.ones_like(edges), np.ones_like(scales), []
    for h in steps:
        x = x - h * np.clip(x, -edges, edges)
        q = q * (1 - h * scales)
        value = np.where(abs(x) <= edges, x**2 / 2, edges * abs(x) - edges**2 / 2)
        found.append(max(value.max(), (scales * q**2 / 2).max()))
    return np.array(found)


@pytest.mark.covers("silver-stepsize")
def test_silver_schedule(dtype):
    silver = silver_stepsize(6)
    np.testing.assert_array_equal(silver.steps, silver.steps[::-1])
    t = 2 ** np.arange(1, 7) - 1
    rho = 1 + np.sqrt(2)
    np.testing.assert_allclose(np.cumsum(silver.steps)[t - 1], rho ** np.arange(1, 7) - 1, rtol=1e-12)
    np.testing.assert_allclose(silver.bounds[t - 1], 1 / (1 + np.sqrt(4 * rho ** (2 * np.arange(1, 7)) - 3)))
    assert -np.polyfit(np.log(t[2:] + 1), np.log(silver.bounds[t - 1][2:]), 1)[0] == pytest.approx(1.2716, abs=0.03)
    assert np.all(worst_of_families(silver.steps) <= silver.bounds)
    for f, L, best in smooth_convex(dtype):
        assert np.all(schedule_rate(f, np.full(4, 2.0, dtype), best, L, silver).holds)
    # Two steps, not 2^k − 1, are worse than gradient descent's: the bound speaks of no such time.
    assert worst_of_families(silver_stepsize(3).steps)[3] > 1 / (4 * 4 + 2)
    # A constant that is too small is found out.
    assert not np.all(
        schedule_rate(*smooth_convex(dtype)[0][:1], np.ones(4, dtype), np.zeros(4, dtype), 0.2, silver).holds
    )


@functools.cache
def smooth_convex(dtype):
    A = np.random.default_rng(5).normal(size=(6, 4))
    A, zero = jnp.asarray(A / np.linalg.norm(A, 2) * (1 - 1e-6), dtype), np.zeros(4, dtype)
    edges = jnp.asarray([1e-3, 0.1, 0.5, 1.0], dtype)
    return [
        (lambda x: jnp.sum((A @ x) ** 2) / 2, 1.0, zero),
        (jax.tree_util.Partial(huber, edges), 1.0, zero),
        (lambda x: jnp.sum(jnp.logaddexp(A @ x, -(A @ x))), 1.0, zero),
    ]


@pytest.mark.covers("anytime-stepsize")
def test_anytime_schedule(dtype):
    anytime = anytime_stepsize(600)
    t = np.arange(1, 601)
    worst = worst_of_families(anytime.steps)
    assert np.all(worst <= anytime.bounds * (1 + 1e-6))
    assert np.all(worst < 0.86 / (4 * t + 2))  # below gradient descent's exact rate wherever one stops
    assert -np.polyfit(np.log(t[9:]), np.log(worst[9:]), 1)[0] >= 1.119
    ends = np.isfinite(anytime.bounds)
    assert np.all(ends[:24])
    assert ends[24:].sum() > 50
    assert np.all(anytime.best_bounds < 1 / (4 * t + 2))
    silver = silver_stepsize(9)
    assert np.max(worst_of_families(silver.steps) * (4 * np.arange(1, 512) + 2)) > 5  # control: silver is not
    for f, L, best in smooth_convex(dtype):
        run = schedule_rate(f, np.full(4, 2.0, dtype), best, L, anytime_stepsize(150))
        assert np.all(run.holds)
        assert np.all(run.history["suboptimality"] <= run.history["gd_bound"] * (1 + 1e-3))


@pytest.mark.covers("anytime-stepsize", "silver-stepsize")
def test_schedules_drive_gradient_descent(x64):
    f, _, best = smooth_convex("float64")[0]
    problem = Composite(Differentiable(f, lipschitz=1.0))
    schedule = silver_stepsize(4)
    run = minimize(problem, np.ones(4), GradientDescent(schedule=schedule), tol=0.0, max_steps=15, reference=best)
    x = np.ones(4)
    for h in schedule.steps:
        x = x - h * np.asarray(jax.grad(f)(jnp.asarray(x)))
    assert run.stats["objective"] <= f(jnp.asarray(x)) * (1 + 1e-9)
    assert run.certificates["rate"].holds
    assert run.certificates["rate"].bound == pytest.approx(4 * schedule.bounds[-1], rel=1e-9)


@pytest.mark.covers("heavy-ball-cycle")
def test_heavy_ball_cycle(x64):
    found = lab("heavy_ball_cycle").main()
    heavy, cycle = found["heavy ball"], found["cycle"]
    tail = heavy[-3:]
    shift = int(np.argmin(np.abs(cycle - tail[0])))
    np.testing.assert_allclose(tail, np.roll(cycle, -shift), atol=1e-9)
    np.testing.assert_allclose(heavy[-30:].reshape(10, 3), np.tile(tail, (10, 1)), atol=1e-9)
    assert abs(found["nesterov"][-1]) < 1e-9
    assert np.min(np.abs(heavy)) > 0.1
    module = lab("heavy_ball_cycle")
    for x, slope in ((-2.0, -50.0), (0.5, 12.5), (1.5, 25.5), (3.0, 51.0)):
        assert jax.grad(module.f)(jnp.asarray([x]))[0] == pytest.approx(slope)


@pytest.mark.covers("gradient-flow")
def test_gradient_flow(x64):
    diffrax = pytest.importorskip("diffrax")
    A = jnp.asarray(np.diag([1.0, 2.0, 5.0]) + 0.3)
    x0 = jnp.asarray([1.0, -2.0, 0.5])

    def f(x):
        return x @ A @ x / 2

    term = diffrax.ODETerm(lambda t, x, args: -jax.grad(f)(x))
    saved = diffrax.SaveAt(ts=jnp.linspace(0, 1, 5))
    control = diffrax.PIDController(rtol=1e-9, atol=1e-11)
    flow = diffrax.diffeqsolve(term, diffrax.Dopri5(), 0, 1, 0.01, x0, saveat=saved, stepsize_controller=control)
    for t, x in zip(flow.ts, flow.ys, strict=True):
        np.testing.assert_allclose(x, scipy.linalg.expm(-np.asarray(A) * float(t)) @ x0, atol=1e-7)
    # d f/dt = −‖∇f‖², by a central difference of exact flows.
    h = 1e-4
    ahead, behind = (f(jnp.asarray(scipy.linalg.expm(-np.asarray(A) * (0.5 + d)) @ x0)) for d in (h, -h))
    middle = jnp.asarray(scipy.linalg.expm(-np.asarray(A) * 0.5) @ x0)
    assert (ahead - behind) / (2 * h) == pytest.approx(-float(jnp.sum(jax.grad(f)(middle) ** 2)), rel=1e-6)
    # Euler's method is gradient descent.
    euler = diffrax.diffeqsolve(term, diffrax.Euler(), 0, 1, 0.125, x0)
    x = x0
    for _ in range(8):
        x = x - 0.125 * jax.grad(f)(x)
    np.testing.assert_allclose(euler.ys[-1], x, rtol=1e-13)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: silver_stepsize(0), "k: found 0"),
        (lambda: silver_stepsize(30), "k: found 30"),
        (lambda: anytime_stepsize(0), "n: found 0"),
        (lambda: schedule_rate(waves, np.ones(3), np.ones(2), 1.0, silver_stepsize(2)), "reference"),
        (lambda: first_order_lower_bound(3, dimension=4), "dimension: found 4"),
        (lambda: first_order_lower_bound(3, strong_convexity=2.0), "strong_convexity: found 2.0"),
        (lambda: affine_lower_bound(2.0, eps=1e-3), "condition: found 2.0"),
        (lambda: affine_lower_bound(8.0, eps=1.0), "eps: found 1.0"),
        (lambda: critical_point_rate(waves, [np.nan, 1.0], 0.0, 1.0, 3), "x0: found NaN"),
        (lambda: critical_point_rate(waves, np.ones(3), 0.0, 0.0, 3), "lipschitz"),
        (lambda: nesterov_rate(waves, np.ones(3), np.ones(2), 1.0, 3), "reference"),
        (lambda: nesterov_count(1e-3, 1.0, 1.0, strong_convexity=2.0), "strong_convexity"),
        (lambda: optimum_scaling(waves, np.ones(3), 0.0), "factor: found 0"),
        (lambda: oracle_complexity("nonsense", 1.0), "kind: found 'nonsense'"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call()
