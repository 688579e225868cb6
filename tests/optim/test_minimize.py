"""The driver and its two solvers: rates at every step, limits, certificates, flags, scale, compilation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import Lasso

from corollary.core import InputError, Status
from corollary.optim import (
    Composite,
    Differentiable,
    Fista,
    LeastSquares,
    Logistic,
    ProximalGradient,
    minimize,
    projections,
)
from corollary.optim import _minimize as driver
from corollary.optim import penalties as P

N, D = 24, 10
SOLVERS = {"ista": ProximalGradient(), "fista": Fista(restart=None), "restarted": Fista()}


def regression(seed, dtype="float64"):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(N, D))
    return A.astype(dtype), (A[:, :3].sum(1) + 0.3 * rng.normal(size=N)).astype(dtype)


def labels(seed):
    return (np.random.default_rng(seed).random(N) < 0.5).astype(float)


@pytest.mark.covers("proximal-gradient", "fista")
@pytest.mark.parametrize("solver", SOLVERS)
def test_limit_is_scikit_learns_lasso(solver, dtype):
    A, b = regression(0, dtype)
    tol = 1e-12 if dtype == "float64" else 1e-6
    solution = minimize(Composite(LeastSquares(A, b), P.L1(3.0)), solver=SOLVERS[solver], tol=tol)
    expected = Lasso(alpha=3.0 / N, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(*regression(0)).coef_
    assert solution.value.dtype == dtype
    assert solution.converged
    assert solution.holds
    # F is strongly convex on the support with constant m, so that gap ≤ ε leaves an error of at most √(2ε/m).
    gap, m = float(solution.certificates["duality_gap"].bound), np.linalg.eigvalsh(A.T.astype(float) @ A)[0]
    assert np.linalg.norm(solution.value - expected) <= np.sqrt(2 * gap / m)
    if dtype == "float64":
        np.testing.assert_array_equal(solution.value != 0, expected != 0)


@functools.cache
def instances(dtype):
    """Lasso, box-constrained least squares and logistic problems with their minimisers; κ = 1e6 in the last of each."""
    found = []
    for seed in range(3):
        A, b = regression(seed, dtype)
        A = A * np.logspace(0, -3 if seed == 2 else 0, D).astype(dtype)
        least_squares, logistic = LeastSquares(A, b), Logistic(A, labels(seed))
        for smooth, h in ((least_squares, P.L1(1.0)), (least_squares, P.Box(-0.1, 0.3)), (logistic, P.L1(0.5))):
            problem = Composite(smooth, h)
            best = minimize(problem, tol=1e-13 if dtype == "float64" else 1e-6, max_steps=20_000)
            found.append((problem, best.value))
    return found


METHODS = [ProximalGradient(), ProximalGradient("backtracking"), Fista(None), Fista(None, "backtracking")]
CASES = [*[(m, "float64") for m in METHODS], *[(m, "float32") for m in METHODS[::2]]]


@pytest.mark.covers("proximal-gradient", "fista")
@pytest.mark.parametrize(
    ("method", "dtype"), [*[(m, "float64") for m in METHODS], *[(m, "float32") for m in METHODS[::2]]]
)
def test_rate_bound_at_every_step(method, dtype):
    for problem, best in instances(dtype):
        x0 = np.full(D, 0.2, dtype)
        run = minimize(problem, x0, solver=method, tol=0.0, max_steps=60, history=True, reference=best)
        gap, bound = run.history["suboptimality"], run.history["rate_bound"]
        noise = 64 * np.finfo(dtype).eps * (abs(float(problem.objective(best))) + abs(float(problem.objective(x0))))
        seen = np.isfinite(gap)
        assert seen.sum() == run.steps
        assert np.all(gap[seen] <= bound[seen] + noise)
        assert np.all(run.certificates["rate"].holds)
        if isinstance(method, ProximalGradient):
            assert np.all(np.diff(run.history["objective"][seen]) <= noise)


@pytest.mark.covers("fista")
def test_momentum_grows_at_least_linearly(x64):
    problem, solver = Composite(LeastSquares(*regression(0)), P.L1(1.0)), Fista(restart=None)
    state = solver.init(problem, jnp.zeros(D))
    _, theta = jax.lax.scan(lambda s, _: (solver.step(problem, s)[0], s.theta), state, length=100)
    assert bool(jnp.all(theta >= (jnp.arange(100) + 2) / 2))


@pytest.mark.covers("fista")
def test_fista_is_faster_than_ista_on_an_ill_conditioned_problem():
    A, b = regression(1)
    problem = Composite(LeastSquares(A * np.logspace(0, -1.5, D), b), P.L1(0.01))
    steps = {name: int(minimize(problem, solver=s, tol=1e-9, max_steps=50_000).steps) for name, s in SOLVERS.items()}
    assert steps["restarted"] <= steps["fista"] < steps["ista"] / 3


@pytest.mark.covers("proximal-gradient")
def test_without_penalty_it_is_gradient_descent(x64):
    A, b = regression(0)
    L = np.linalg.norm(A, 2) ** 2
    run = minimize(Composite(LeastSquares(A, b)), jnp.ones(D), ProximalGradient(1 / L), tol=0.0, max_steps=30)
    x = np.ones(D)
    for _ in range(30):
        x = x - A.T @ (A @ x - b) / L
    np.testing.assert_allclose(run.value, x, rtol=1e-12)


@pytest.mark.covers("proximal-gradient")
def test_an_indicator_makes_it_projected_gradient(x64):
    A, b = regression(0)
    L = np.linalg.norm(A, 2) ** 2
    run = minimize(
        Composite(LeastSquares(A, b), P.Simplex()), jnp.ones(D) / D, ProximalGradient(1 / L), tol=0.0, max_steps=30
    )
    x = np.ones(D) / D
    for _ in range(30):
        x = projections.simplex(x - A.T @ (A @ x - b) / L)
    np.testing.assert_allclose(run.value, x, atol=1e-13)


@pytest.mark.covers("proximal-gradient")
def test_the_support_settles(x64):
    A, b = regression(4)
    problem = Composite(LeastSquares(A, b), P.L1(4.0))
    supports = [
        np.asarray(minimize(problem, solver=ProximalGradient(), tol=0.0, max_steps=k).value) != 0
        for k in (400, 500, 600)
    ]
    np.testing.assert_array_equal(supports[0], supports[1])
    np.testing.assert_array_equal(supports[1], supports[2])


@pytest.mark.covers("proximal-gradient", "fista")
@pytest.mark.parametrize("seed", range(3))
def test_gap_bounds_the_suboptimality(seed):
    A, b = regression(seed)
    penalties = (P.L1(1.0), P.ElasticNet(1.0, 0.3), P.L2Norm(1.0), P.SquaredL2(0.5), P.L1Ball(0.7), P.Simplex())
    pairs = [(LeastSquares(A, b), h) for h in penalties]
    pairs += [(Logistic(A, labels(seed)), h) for h in (penalties[1], penalties[4])]
    for problem in (Composite(*pair) for pair in pairs):
        best = problem.objective(minimize(problem, tol=1e-13, max_steps=20_000).value)
        for steps in (1, 5, 30):
            rough = minimize(problem, tol=0.0, max_steps=steps)
            true = rough.stats["objective"] - best
            assert -1e-13 * abs(best) <= true <= rough.certificates["duality_gap"].measured + 1e-13 * abs(best)


@pytest.mark.covers("proximal-gradient", "fista")
@pytest.mark.parametrize("c", [1e-12, 1e12])
@pytest.mark.parametrize("name", ["gap", "residual", "function"])
def test_rescaling_changes_only_the_scale(c, name):
    """Objective times c, or variables times c: the same number of steps, the same answer up to scale."""
    A, b = regression(3)

    def logistic_ridge(A, s, u, x):
        return s**2 * (jnp.sum(jnp.logaddexp(0.0, -(A @ (x / u)))) + jnp.sum((x / u) ** 2))

    make = {
        "gap": lambda s, u: (LeastSquares(s * A / u, s * b), P.L1(s**2 * 2.0 / u)),
        "residual": lambda s, u: (LeastSquares(s * A / u, s * b), P.Box(0.0, 0.4 * u)),
        "function": lambda s, u: (jax.tree_util.Partial(logistic_ridge, A, s, u), None),
    }[name]
    plain = minimize(Composite(*make(1.0, 1.0)), np.zeros(D), tol=1e-9)
    assert plain.converged
    for s, u in ((c**0.5, 1.0), (1.0, c)):
        scaled = minimize(Composite(*make(s, u)), np.zeros(D), tol=1e-9)
        assert scaled.converged
        assert abs(int(scaled.steps) - int(plain.steps)) <= 0.1 * int(plain.steps) + 2
        np.testing.assert_allclose(scaled.value / u, plain.value, atol=1e-7)


@pytest.mark.covers("proximal-gradient")
def test_backtracking_finds_a_step_within_the_theory(x64):
    A, b = regression(0)
    L = np.linalg.norm(A, 2) ** 2
    for solver in (ProximalGradient("backtracking"), Fista(step_size="backtracking")):
        run = minimize(Composite(LeastSquares(A, b), P.L1(1.0)), solver=solver, tol=1e-10)
        assert run.converged
        assert float(run.stats["step_size"]) >= 0.7 / L * (1 - 1e-9)


def test_nonconvex_penalty_reaches_a_stationary_point():
    A, b = regression(0)
    run = minimize(Composite(LeastSquares(A, b), P.L0(1.0)), history=True)
    assert run.converged
    assert run.holds
    assert "ProximalGradient" in str(run.stats["solver"])
    objective = run.history["objective"][: int(run.steps)]
    assert np.all(np.diff(objective) <= 1e-12 * objective[0])


def test_pytree_variable_and_blocks(x64):
    A, b = (jnp.asarray(v) for v in regression(0))
    f = Differentiable(lambda p: jnp.sum((A @ p["w"] + p["c"] - b) ** 2) / 2)
    run = minimize(
        Composite(f, P.Blocks({"w": P.L1(3.0), "c": P.Zero()})), {"w": jnp.zeros(D), "c": jnp.zeros(())}, tol=1e-8
    )
    expected = Lasso(alpha=3.0 / N, tol=1e-12).fit(*regression(0))
    assert bool(run.converged)
    np.testing.assert_allclose(run.value["w"], expected.coef_, atol=1e-6)
    np.testing.assert_allclose(run.value["c"], expected.intercept_, atol=1e-6)


def test_sparse_and_operator_data_give_the_dense_answer():
    A, b = regression(0)
    dense = minimize(Composite(LeastSquares(A, b), P.L1(2.0)), tol=1e-10)
    sparse = minimize(Composite(LeastSquares(scipy.sparse.csr_array(A), b), P.L1(2.0)), tol=1e-10)
    assert isinstance(sparse.value, np.ndarray)
    assert sparse.value.dtype == np.float64
    np.testing.assert_allclose(sparse.value, dense.value, atol=1e-5)


def test_several_right_hand_sides_share_a_run():
    A, b = regression(0)
    both = minimize(Composite(LeastSquares(A, np.stack([b, -2 * b], 1)), P.L1(2.0)), tol=1e-11)
    np.testing.assert_allclose(
        both.value[:, 0], minimize(Composite(LeastSquares(A, b), P.L1(2.0)), tol=1e-11).value, atol=1e-4
    )


def test_jit_vmap_and_loop_agree(x64):
    A, b = (jnp.asarray(v) for v in regression(0))

    def solve(alpha):
        return minimize(Composite(LeastSquares(A, b), P.L1(alpha)), tol=1e-10, max_steps=3000)

    alphas = jnp.asarray([0.5, 2.0, 8.0, 1e3])
    batch = jax.jit(jax.vmap(solve))(alphas)
    assert bool(jnp.all(batch.converged))
    for i, alpha in enumerate(alphas):
        one = solve(float(alpha))
        assert int(one.steps) == int(batch.steps[i])
        # Roundings differ between the programs, and restarts amplify them: all stay within what the gap allows.
        np.testing.assert_allclose(batch.value[i], one.value, atol=1e-6)
        np.testing.assert_allclose(jax.jit(solve)(alpha).value, one.value, atol=1e-6)
    assert bool(jnp.all(batch.value[3] == 0))


def test_other_values_compile_nothing_new():
    A, b = regression(0)
    minimize(Composite(LeastSquares(A, b), P.L1(1.0)), tol=1e-6)
    before = driver._start._cache_size(), driver._advance._cache_size(), driver._finish._cache_size()
    minimize(Composite(LeastSquares(2 * A, b + 1), P.L1(0.3)), np.ones(D), tol=1e-8, max_steps=777)
    assert before == (driver._start._cache_size(), driver._advance._cache_size(), driver._finish._cache_size())


@pytest.mark.parametrize("solver", [ProximalGradient(), Fista()])
def test_the_last_permitted_step_may_converge(solver):
    problem = Composite(LeastSquares(*regression(0)), P.L1(2.0))
    needed = int(minimize(problem, solver=solver, tol=1e-8).steps)
    last = minimize(problem, solver=solver, tol=1e-8, max_steps=needed)
    assert last.status == Status.CONVERGED
    short = minimize(problem, solver=solver, tol=1e-8, max_steps=needed - 1)
    assert short.status == Status.MAX_STEPS
    assert not short.holds
    assert short.steps == needed - 1


def test_not_a_number_keeps_the_best_point():
    f = Differentiable(lambda x: jnp.sum(jnp.where(x < 0.5, jnp.nan, x)))  # falls until it leaves its domain
    run = minimize(Composite(f), np.ones(3), ProximalGradient(0.2), tol=0.0)
    assert run.status == Status.NON_FINITE
    assert np.all(np.isfinite(run.value))
    np.testing.assert_allclose(run.value, 0.6)


def test_starting_at_the_optimum_is_converged_at_once(x64):
    A, b = regression(0)
    for h in (P.L1(2.0), P.Box(-0.1, 0.2), P.Zero()):
        problem = Composite(LeastSquares(A, b), h)
        best = minimize(problem, tol=1e-14, max_steps=5000)
        again = minimize(problem, best.value, tol=1e-9)
        assert bool(again.converged)
        assert int(again.steps) <= 10


def test_zero_right_hand_side_and_zero_matrix():
    A, b = regression(0)
    assert minimize(Composite(LeastSquares(A, 0 * b), P.L1(1.0)), np.ones(D)).converged
    for h in (P.L1(1.0), P.Zero(), P.SquaredL2(1.0)):
        run = minimize(Composite(LeastSquares(0 * A, b), h))
        assert run.converged
        np.testing.assert_array_equal(run.value, 0)


def test_verbose_and_interrupt(monkeypatch, capsys):
    problem = Composite(LeastSquares(*regression(0)), P.L1(2.0))
    assert minimize(problem, verbose=True).converged

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(driver.progress, "show", interrupt)
    run = minimize(problem, tol=0.0, verbose=True)
    assert "interrupted" in run.stats
    assert run.steps == 64
    assert run.stats["objective"] < problem.objective(np.zeros(D))


def test_plot_draws_the_curve_beside_the_bound():
    problem = Composite(LeastSquares(*regression(0)), P.L1(2.0))
    best = minimize(problem, tol=1e-12).value
    run = minimize(problem, solver=Fista(restart=None), tol=1e-6, max_steps=300, history=True, reference=best)
    lines = {line.get_label() for line in run.plot().get_lines()}
    assert {"suboptimality", "rate bound", "duality gap"} <= lines


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p: minimize(p, np.ones(3)), r"x0: found shape \(3,\)"),
        (lambda p: minimize(p, np.full(D, np.nan)), "x0: found NaN"),
        (lambda p: minimize(p, tol=-1.0), "tol: found -1.0"),
        (lambda p: minimize(p, max_steps=0), "max_steps: found 0"),
        (lambda p: minimize(p, solver="newton"), "solver: found 'newton'"),
        (lambda p: minimize(p, reference=np.ones(2)), "reference"),
        (lambda p: minimize(Composite(lambda x: x @ x)), "x0: found None"),
        (lambda p: minimize(3.0), "problem: found float"),
        (lambda p: Composite(3.0), "smooth: found float"),
        (lambda p: Composite(p.smooth, lambda x: x), "penalty: found function"),
        (lambda p: LeastSquares(np.ones((2, 2)), np.ones(3)), "b: found 3 rows, expected 2"),
        (lambda p: LeastSquares([[1.0, np.inf]], [1.0]), "A: found NaN or infinity"),
        (lambda p: LeastSquares([[1.0]], [1.0], lipschitz=0.0), "lipschitz"),
        (lambda p: Logistic([[1.0], [1.0]], [0, 2]), "y: found values"),
        (lambda p: ProximalGradient("armijo"), "step_size: found 'armijo'"),
        (lambda p: ProximalGradient(-1.0), "step_size"),
        (lambda p: Fista(step_size=0.0), "step_size"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call(Composite(LeastSquares(*regression(0)), P.L1(1.0)))


def test_a_diverging_run_is_no_success():
    """The rounding that a gap is allowed is that of the best objective, not of a huge one met since."""
    A, b = regression(0)
    problem = Composite(LeastSquares(A, b), P.L1(3.0))
    solution = minimize(problem, solver=ProximalGradient(step_size=1e3), max_steps=40)
    assert not solution.converged
    assert not solution.holds


def test_a_step_far_too_short_is_no_success():
    """The rounding of a residual is that of steps of 1/L: else a step of nothing would pass any residual."""
    A, b = regression(0, "float32")
    problem = Composite(LeastSquares(A, b), P.GroupLasso(1.0, np.zeros(D, int)))
    solution = minimize(problem, np.ones(D, "float32"), ProximalGradient(step_size=1e-9), max_steps=3)
    assert not solution.converged
    with pytest.raises(InputError, match="tol"):
        minimize(problem, np.ones(D, "float32"), tol=np.inf)
