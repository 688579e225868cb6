"""Primal-dual methods and total-variation denoising: the theorem's bound at every step, oracles, scale, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core import InputError
from corollary.optim import (
    ChambollePock,
    Composite,
    CondatVu,
    DualTV,
    LeastSquares,
    MalitskyPock,
    Splitting,
    TVDenoise,
    minimize,
)
from corollary.optim import penalties as P
from corollary.optim.penalties._differences import differences
from corollary.optim.splitting._chambolle_pock import rebalanced

M, N = 12, 8


def data(seed, dtype="float64"):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(M, N)).astype(dtype), rng.normal(size=N).astype(dtype)


@pytest.mark.covers("chambolle-pock")
def test_partial_gap_of_the_averages_at_every_step(x64):
    """L(X_N, u) − L(x, U_N) ≤ (‖x − x0‖²/τ + ‖u − u0‖²/σ)/N at random (x, u), at the edge τσ‖K‖² = 1."""
    steps = 120

    def run(K, x0, x, u, ratio):
        root = jnp.linalg.norm(K, 2)
        tau, sigma = ratio / root, 1 / (ratio * root)
        problem = Splitting(P.ElasticNet(0.5, 0.4), P.L1(0.7), K)
        solver = ChambollePock(tau, sigma, restart=None)
        state = solver.init(problem, x0)

        def body(state, _):
            state, _ = solver.step(problem, state)
            mean = state.averages.mean
            gap = problem.lagrangian(mean.x, mean.Kx, u) - problem.lagrangian(x, K @ x, mean.u)
            bound = (jnp.sum((x - x0) ** 2) / tau + jnp.sum(u**2) / sigma) / state.count.astype(x.dtype)
            return state, (gap, bound)

        state, (gap, bound) = jax.lax.scan(body, state, length=steps)
        return gap, bound, solver.certify(problem, state)["ergodic_gap"]

    keys = jax.random.split(jax.random.key(0), 12)
    K = jax.vmap(lambda k: jax.random.normal(k, (M, N)))(keys)
    x0, x = 3 * jax.random.normal(keys[0], (12, N)), 3 * jax.random.normal(keys[1], (12, N))
    u = 0.7 * jax.random.uniform(keys[2], (12, M), minval=-1.0)  # in the domain of g*
    ratios = jnp.logspace(-1.0, 1.0, 12)
    gap, bound, certificate = jax.jit(jax.vmap(run))(K, x0, x, u, ratios)
    assert np.all(np.isfinite(gap))
    assert np.all(gap <= bound * (1 + 1e-12))
    assert np.all(certificate.measured <= certificate.bound)


@pytest.mark.covers("chambolle-pock")
@pytest.mark.parametrize("name", ["lasso", "tv"])
def test_agrees_with_cvxpy(name, dtype):
    cvxpy = pytest.importorskip("cvxpy")
    A, b = data(1)
    D = np.diff(np.eye(N), axis=0)
    x = cvxpy.Variable(N)
    if name == "lasso":  # ½‖x‖² + |A x|₁ with x in a box
        target = cvxpy.Minimize(0.25 * cvxpy.sum_squares(x - 0) + cvxpy.norm1(A @ x))
        cvxpy.Problem(target, [x >= b]).solve("CLARABEL")
        problem = Splitting(P.Box(b.astype(dtype), np.inf), P.L1(1.0), A.astype(dtype), P_smooth(dtype))
        solver = CondatVu()
    else:
        cvxpy.Problem(cvxpy.Minimize(cvxpy.norm1(D @ x) + 0.3 * cvxpy.norm1(x)), [x >= b]).solve("CLARABEL")
        problem = Splitting(P.Box(b.astype(dtype), np.inf), P.L1(1.0), np.vstack([D, 0.3 * np.eye(N)]).astype(dtype))
        solver = ChambollePock()
    tol = 1e-9 if dtype == "float64" else 2e-5
    solution = minimize(problem, b.astype(dtype), solver, tol=tol, max_steps=5000)
    assert solution.converged
    assert solution.holds
    assert solution.value.dtype == dtype
    objective = Splitting(P.Zero(), problem.g, problem.K, problem.smooth).objective  # both are feasible up to rounding
    best = float(objective(np.asarray(x.value, dtype)))
    np.testing.assert_allclose(float(objective(solution.value)), best, rtol=1e-7 if dtype == "float64" else 1e-3)


def P_smooth(dtype):
    return LeastSquares(np.eye(N, dtype=dtype) * dtype.type(0.5**0.5), np.zeros(N, dtype))


SOLVERS = [ChambollePock(), MalitskyPock(), CondatVu()]


@pytest.mark.covers("chambolle-pock")
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: f"{type(s).__name__}-{getattr(s, 'restart', '')}")
def test_all_reach_the_same_answer_at_any_scale(solver):
    """A box-constrained least-absolute-deviation problem; the objective, then the variables, times 1e±12."""
    A, b = data(3)

    def solve(s, u):
        return minimize(
            Splitting(P.Box(u * (b - 1), u * (b + 1)), P.L1(s / u), A), u * b, solver, tol=1e-6, max_steps=20_000
        )

    plain = solve(1.0, 1.0)
    assert plain.converged
    if isinstance(solver, ChambollePock):
        again = minimize(Splitting(P.Box(b - 1, b + 1), P.L1(1.0), A), b, CondatVu(), tol=1e-6, max_steps=20_000)
        np.testing.assert_allclose(plain.stats["objective"], again.stats["objective"], rtol=1e-4)
    for c in (1e-12, 1e12):
        for s, u in ((c, 1.0), (1.0, c)):
            scaled = solve(s, u)
            assert scaled.converged
            assert abs(int(scaled.steps) - int(plain.steps)) <= 0.1 * int(plain.steps) + 2
            np.testing.assert_allclose(scaled.value / u, plain.value, atol=1e-4)


@pytest.mark.covers("chambolle-pock")
def test_too_long_steps_are_flagged():
    A, b = data(4)
    problem = Splitting(P.Box(b, np.inf), P.L1(1.0), A)
    root = np.linalg.norm(A, 2)
    long = minimize(problem, b, ChambollePock(8 / root, 8 / root, restart=None), tol=1e-9, max_steps=300)
    short = minimize(problem, b, ChambollePock(1 / root, 0.999 / root, restart=None), tol=1e-9, max_steps=300)
    assert not long.converged
    assert not bool(long.certificates["ergodic_gap"].applies)
    assert not bool(long.certificates["ergodic_gap"].holds)
    assert bool(short.certificates["ergodic_gap"].holds)


def test_the_gap_bounds_the_suboptimality_and_closes():
    A, _ = data(5)
    problem = Splitting(P.ElasticNet(1.0, 0.2), P.L1(0.5), A)
    x0 = np.ones(N)
    best = minimize(problem, x0, tol=1e-12).stats["objective"]
    for steps in (3, 30):
        rough = minimize(problem, x0, tol=0.0, max_steps=steps)
        true = rough.stats["objective"] - best
        assert -1e-12 <= true <= rough.certificates["duality_gap"].measured + 1e-12


def test_no_gap_is_claimed_outside_the_domain():
    """g is an indicator and K x only nears its set: the gap is infinite till then, and the run says so."""
    A, _ = data(6)
    problem = Splitting(P.ElasticNet(1.0, 0.2), P.Box(-0.5, np.linspace(-0.4, 1.0, M)), A, stop="gap")
    run = minimize(problem, np.ones(N), tol=1e-6, max_steps=40)
    outside = np.any(A @ run.value > np.linspace(-0.4, 1.0, M) + 1e-12)
    assert np.isfinite(float(run.stats["lower_bound"])) or not run.converged
    assert not (outside and run.converged)


def test_pytrees_and_linear_functions(x64):
    """A dictionary as variable, a function as K; the twin is the same problem as a vector."""
    b = {"a": jnp.asarray([1.0, 4.0, 2.0]), "b": jnp.asarray([0.5, -1.0])}

    def K(x):
        return jnp.concatenate([jnp.diff(x["a"]), x["a"][:1] - x["b"][:1]])

    def smooth(x):
        return sum(jnp.sum((x[k] - b[k]) ** 2) / 2 for k in b)

    tree = minimize(Splitting(P.L1(0.1), P.L1(0.5), K, smooth), b, tol=1e-10)
    D = np.array([[-1.0, 1, 0, 0, 0], [0, -1, 1, 0, 0], [1, 0, 0, -1, 0]])
    fit = LeastSquares(np.eye(5), np.concatenate([b["a"], b["b"]]))
    flat = minimize(Splitting(P.L1(0.1), P.L1(0.5), D, fit), tol=1e-10)
    assert tree.converged
    assert flat.converged
    np.testing.assert_allclose(np.concatenate([tree.value["a"], tree.value["b"]]), flat.value, atol=1e-7)


def picture(dtype):
    rng = np.random.default_rng(0)
    clean = np.kron(rng.integers(0, 3, (3, 4)), np.ones((5, 4)))
    return (clean + 0.3 * rng.normal(size=clean.shape)).astype(dtype)


@pytest.mark.parametrize("isotropic", [True, False])
def test_denoising_agrees_with_cvxpy_and_its_gap_is_a_bound(isotropic, dtype):
    cvxpy = pytest.importorskip("cvxpy")
    y = picture("float64")
    solution = minimize(TVDenoise(y.astype(dtype), 0.4, isotropic), tol=1e-8 if dtype == "float64" else 1e-5)
    assert solution.converged
    assert solution.holds
    assert solution.value.dtype == dtype
    x = cvxpy.Variable(y.shape)
    down = cvxpy.vstack([x[1:] - x[:-1], np.zeros((1, y.shape[1]))])
    along = cvxpy.hstack([x[:, 1:] - x[:, :-1], np.zeros((y.shape[0], 1))])
    pairs = cvxpy.vstack([cvxpy.vec(down, order="C"), cvxpy.vec(along, order="C")])
    variation = cvxpy.sum(cvxpy.norm(pairs, 2, axis=0)) if isotropic else cvxpy.norm1(pairs)
    cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(x - y) / 2 + 0.4 * variation)).solve("CLARABEL")
    distance = np.linalg.norm(solution.value - x.value)
    assert distance <= float(solution.stats["distance"]) + (1e-6 if dtype == "float64" else 1e-4)


@pytest.mark.parametrize("c", [1e-12, 1e12])
def test_denoising_at_any_scale_and_jitted(c, x64):
    y = picture("float64")
    plain = minimize(TVDenoise(y, 0.4), tol=1e-6)
    scaled = minimize(TVDenoise(c * y, 0.4 * c), tol=1e-6)
    assert int(plain.steps) == int(scaled.steps)
    np.testing.assert_allclose(scaled.value / c, plain.value, rtol=1e-9)
    inside = jax.jit(lambda y, a: minimize(TVDenoise(y, a), tol=1e-6).value)(jnp.asarray(y), 0.4)
    np.testing.assert_allclose(inside, plain.value, atol=1e-12)
    flat = minimize(TVDenoise(y, 1e3), tol=1e-12).value
    np.testing.assert_allclose(flat, y.mean(), rtol=1e-6)
    np.testing.assert_allclose(minimize(TVDenoise(y, 0.0)).value, y)


def test_denoising_is_a_splitting_problem():
    y = picture("float64")
    fast = minimize(TVDenoise(y, 0.4, isotropic=False), tol=1e-9).value
    identity = LeastSquares(np.eye(y.size), y.ravel(), lipschitz=1.0)

    def K(x):
        return differences(x.reshape(y.shape))

    slow = minimize(Splitting(P.Zero(), P.L1(0.4), K, identity), tol=1e-7, max_steps=5000)
    assert slow.converged
    np.testing.assert_allclose(slow.value.reshape(y.shape), fast, atol=1e-4)


BAD = [
    (lambda: Splitting(1.0, P.L1()), "f: found float"),
    (lambda: Splitting(P.L0(), P.L1()), "f: found L0"),
    (lambda: Splitting(P.L1(), P.L1(), np.ones(3)), "K: found"),
    (lambda: Splitting(P.L1(), P.L1(), smooth=3.0), "smooth: found float"),
    (lambda: ChambollePock(tau=-1.0, sigma=1.0), "tau: found"),
    (lambda: ChambollePock(tau=1.0), "sigma: found None"),
    (lambda: ChambollePock().check(Splitting(P.L1(), P.L1(), smooth=jnp.sum)), "problem: found a smooth term"),
    (lambda: ChambollePock().check(Composite(jnp.sum)), "problem: found Composite"),
    (lambda: MalitskyPock(delta=1.0), "delta: found"),
    (lambda: TVDenoise([[np.nan]], 1.0), "image: found"),
    (lambda: TVDenoise([[1.0]], -1.0), "alpha: found"),
    (lambda: DualTV(0), "inner: found"),
    (lambda: DualTV().check(Composite(jnp.sum)), "problem: found Composite"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_step_is_searched_before_it_is_taken(x64):
    """At x0 the exponential is flat: a step of the length its curvature there allows ends where all else is small."""
    problem = Splitting(P.L1(1.0), P.L1(1.0), [[1.0, -1.0]], lambda x: jnp.sum(jnp.exp(x) - 5 * x))
    solution = minimize(problem, np.full(2, -3.0), tol=1e-6)
    assert solution.converged
    assert np.allclose(solution.value, np.log(4.0), atol=1e-5)


def test_variables_of_any_size_in_float32():
    f = jnp.float32
    x, u = jnp.full(2, f(1e12)), jnp.full(2, f(1e-12))
    assert jnp.isclose(rebalanced(f(1e-24), f(1e12), f(1e-12), x, u), f(1e-24))
    K, y = data(0, "float32")
    steps = []
    for scale in (1.0, 1e12):
        g = P.Quantile(f(scale) * K.sum(1), f(0.5), f(1 / scale))
        solution = minimize(Splitting(P.L1(f(0.1 / scale)), g, K), 0 * y, MalitskyPock(), tol=1e-3, max_steps=300)
        assert bool(jnp.isfinite(solution.stats["objective"]))
        steps.append(int(solution.status))
    assert len(set(steps)) == 1


def test_what_was_not_proved_is_assumed(x64):
    K, x0 = data(0)
    problem = Splitting(P.ElasticNet(0.5, 0.4), P.L1(0.7), K)
    root = np.linalg.norm(K, 2)
    solution = minimize(problem, x0, ChambollePock(1 / root, 1 / root, restart=None), max_steps=2)
    told = {a.text: a.checked for a in solution.certificates["ergodic_gap"].assumptions}
    assert not told["τσ‖K‖² <= 1"]
    assert not told["constant steps"]


def test_an_image_whose_squares_underflow(x64):
    image = np.random.default_rng(0).normal(size=(6, 5))
    right = minimize(TVDenoise(image, 0.5), tol=1e-10, max_steps=500).value
    solution = minimize(TVDenoise(1e-160 * image, 0.5e-160), tol=1e-5, max_steps=500)
    assert np.allclose(solution.value / 1e-160, right, atol=1e-4)


def test_a_map_that_is_zero():
    problem = Splitting(P.Tilted(P.L1(1.0), shift=1.0), P.L1(1.0), 0.0)
    assert np.allclose(minimize(problem, np.zeros(2), max_steps=50).value, 1.0)
