"""Games: exact factors on the bilinear game, rates and gaps, matrix games against linear programs, finite sums."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from corollary.core import InputError, Status
from corollary.optim import (
    Composite,
    Extragradient,
    FiniteSumGame,
    Game,
    GradientDescentAscent,
    MatrixGame,
    OptimisticGradient,
    SaddlePoint,
    VarianceReducedForwardBackward,
    minimize,
    restricted_gap,
)
from corollary.optim import penalties as P
from corollary.optim.minimax._game import turning
from tests.core.test_labs import lab

D = 3


def bilinear(x, y):
    return x @ y


def squared(z):
    return sum(float(jnp.sum(part**2)) for part in z)


def affine(seed, mu=0.0, dtype="float64"):
    """F(z) = M z + q with symmetric part mu + something positive semidefinite (zero for mu = 0), its L and its zero."""
    rng = np.random.default_rng(seed)
    S, B = rng.normal(size=(2, 2 * D, 2 * D))
    M = (S - S.T) / 2 + (mu and mu * np.eye(2 * D) + B @ B.T / 10)
    q = rng.normal(size=2 * D)
    M, q = M.astype(dtype), q.astype(dtype)
    return M, q, np.linalg.norm(M, 2), np.linalg.solve(M, -q)


def field(M, q, z):
    return M @ z + q


def game(M, q, L=None, penalty=None):
    return Game(jax.tree_util.Partial(field, jnp.asarray(M), jnp.asarray(q)), penalty, L)


def one_step(solver, z):
    problem = SaddlePoint(bilinear, lipschitz=1.0)
    return solver.step(problem, solver.init(problem, z))[0].x


@pytest.mark.covers("gradient-descent-ascent", "extragradient")
def test_exact_factors_on_the_bilinear_game(dtype):
    rng = np.random.default_rng(0)
    z = tuple(jnp.asarray(rng.normal(size=D).astype(dtype)) for _ in range(2))
    eta = jnp.asarray([0.05, 0.5, 0.9, 1.5], dtype)
    for solver, factor in ((GradientDescentAscent, 1 + eta**2), (Extragradient, (1 - eta**2) ** 2 + eta**2)):
        after = jax.jit(jax.vmap(lambda t: one_step(solver(t), z)))(eta)  # noqa: B023
        squares = sum(jnp.sum(part**2, 1) for part in after)
        np.testing.assert_allclose(squares, factor * squared(z), rtol=32 * float(jnp.finfo(dtype).eps))


@pytest.mark.covers("gradient-descent-ascent")
def test_descent_ascent_spirals_out_where_others_converge(x64):
    problem, z0 = SaddlePoint(bilinear, lipschitz=1.0), (jnp.ones(D), jnp.ones(D))
    out = minimize(problem, z0, GradientDescentAscent(0.2), max_steps=300)
    assert out.status == Status.MAX_STEPS
    assert not out.holds
    for solver in (Extragradient(), OptimisticGradient()):
        run = minimize(problem, z0, solver, tol=1e-9)
        assert bool(run.converged)
        assert squared(run.value) <= 1e-17 * squared(z0)


@pytest.mark.covers("gradient-descent-ascent")
@pytest.mark.parametrize("seed", range(2))
def test_descent_ascent_contracts_strongly_monotone_fields(seed, x64):
    M, q, L, solution = affine(seed, mu=1.0)
    mu = np.linalg.eigvalsh((M + M.T) / 2)[0]
    eta = mu / L**2
    rho = np.sqrt(1 - 2 * eta * mu + (eta * L) ** 2)
    problem, solver = game(M, q), GradientDescentAscent(eta)
    state = solver.init(problem, jnp.ones(2 * D))
    distances = []
    for _ in range(5):
        distances.append(np.linalg.norm(state.x - solution))
        state, _ = solver.step(problem, state)
    assert np.all(np.diff(np.log(distances)) <= np.log(rho) + 1e-12)
    run = minimize(problem, jnp.ones(2 * D), solver, tol=1e-10)
    assert bool(run.converged)
    np.testing.assert_allclose(run.value, solution, atol=1e-8)


@pytest.mark.parametrize("solver", [GradientDescentAscent(1e-15), OptimisticGradient(1e-15), Extragradient(1e-15)])
def test_a_short_step_is_no_success(solver, x64):
    """The rounding of a field has nothing to do with the step."""
    problem = SaddlePoint(bilinear, lipschitz=1.0)
    z = (jnp.ones(D), jnp.ones(D))
    info = jax.jit(lambda z: solver.step(problem, solver.init(problem, z))[1])(z)
    assert float(info.residual) > 1
    assert float(info.floor) < 1e-12


def test_first_guess_of_the_constant_does_not_depend_on_the_start(x64):
    M, q, L, _ = affine(0)
    for z in (jnp.ones(2 * D), 1e-9 * jnp.ones(2 * D).at[0].set(1.0)):
        assert 0.97 * L <= float(turning(game(M, q), z)) <= L * (1 + 1e-12)
    steep = SaddlePoint(lambda x, y: x @ (jnp.asarray([1.0, 10.0, 1.0]) * y))
    z = (jnp.asarray([1.0, 1e-9, 0.0]), jnp.asarray([1.0, 1e-9, 0.0]))
    assert float(turning(steep, z)) == pytest.approx(10.0, rel=1e-3)


def test_a_constant_payoff_for_all_changes_no_tolerance(x64):
    A = np.random.default_rng(0).normal(size=(6, 5))
    assert float(MatrixGame(A + 1e7).scale()) == pytest.approx(float(MatrixGame(A).scale()), rel=1e-7)


@functools.cache
def average_run(steps):
    def run(M, q, z0):
        step = 1 / jnp.linalg.norm(M, 2)
        return minimize(game(M, q), z0, Extragradient(step, average=True), tol=0.0, max_steps=steps)

    return jax.jit(jax.vmap(run))


@pytest.mark.covers("extragradient")
def test_gap_of_the_average_falls_like_one_over_k(dtype):
    batch = [affine(seed, mu, dtype) for seed in range(10) for mu in (0.0, 0.05)]
    M, q = (jnp.stack([jnp.asarray(b[i]) for b in batch]) for i in range(2))
    z0 = jnp.ones((len(batch), 2 * D), dtype)
    for steps in (60,):
        run = average_run(steps)(M, q, z0)
        assert np.all(run.certificates["ergodic_gap"].holds)
        # The restricted gap itself, of skew fields exactly: sup ⟨F(z), z − u⟩ over the ball, at most R²/(2ηk).
        for i in range(0, len(batch), 2):
            z, L = run.value[i], batch[i][2]
            radius = 2 * float(jnp.linalg.norm(z - z0[i]))
            gap = restricted_gap(game(M[i], q[i]), z, z0[i], radius)
            assert bool(gap.holds)
            noise = 1e3 * float(jnp.finfo(dtype).eps) * radius * (radius + 2) * L
            assert float(gap.value) <= radius**2 * L / (2 * steps) + noise


@pytest.mark.covers("extragradient")
def test_too_long_a_step_voids_the_certificate(x64):
    M, q, L, _ = affine(0)
    run = minimize(game(M, q), jnp.ones(2 * D), Extragradient(1.2 / L, average=True), max_steps=20)
    assert not run.certificates["ergodic_gap"].applies
    assert not run.certificates["ergodic_gap"].holds


@pytest.mark.covers("extragradient")
@pytest.mark.parametrize("solver", [Extragradient(), OptimisticGradient()], ids=["extragradient", "optimistic"])
def test_constrained_games_and_scale(solver, x64):
    """A box-constrained monotone game; F or z times c changes nothing but the scale; the search finds a step."""
    M, q, L, _ = affine(1, mu=0.2)
    plain = minimize(game(M, q, L, P.Box(-0.3, 0.3)), jnp.zeros(2 * D), solver, tol=1e-9)
    assert bool(plain.converged)
    z = plain.value
    inclusion = P.Box(-0.3, 0.3).subdifferential_distance(z, M @ z + q)
    assert float(inclusion) <= 1e-8
    for c, u in ((1e12, 1.0), (1e-12, 1.0), (1.0, 1e12), (1.0, 1e-12)):
        scaled = minimize(
            game(c * M / u, c * q, c * L / u, P.Box(-0.3 * u, 0.3 * u)), jnp.zeros(2 * D), solver, tol=1e-9
        )
        assert abs(int(scaled.steps) - int(plain.steps)) <= 2
        np.testing.assert_allclose(scaled.value / u, z, atol=1e-8)
    searched = minimize(game(M, q, None, P.Box(-0.3, 0.3)), jnp.zeros(2 * D), solver, tol=1e-9)
    assert bool(searched.converged)
    np.testing.assert_allclose(searched.value, z, atol=1e-8)


def value_by_linear_program(A):
    m, n = A.shape
    run = linprog(
        np.r_[np.zeros(m), 1],
        A_ub=np.c_[A.T, -np.ones(n)],
        b_ub=np.zeros(n),
        A_eq=[[*np.ones(m), 0]],
        b_eq=[1],
        bounds=[(0, None)] * m + [(None, None)],
    )
    return run.fun


@pytest.mark.covers("extragradient")
def test_matrix_game_has_the_value_of_the_linear_program():
    for seed in range(5):
        A = np.random.default_rng(seed).normal(size=(6, 5)) * (1e-12 if seed == 3 else 1) + (seed == 4) * 1e3
        run = minimize(MatrixGame(A), tol=1e-7, max_steps=100_000)
        x, y = run.value
        value = value_by_linear_program(A / np.abs(A).max()) * np.abs(A).max()
        assert run.converged, (seed, run.message, run.steps)
        assert run.holds
        gap = run.certificates["duality_gap"].measured
        assert np.min(A @ y) - 1e-12 * np.abs(A).max() <= value <= np.max(x @ A) + 1e-12 * np.abs(A).max()
        assert np.max(x @ A) - np.min(A @ y) == pytest.approx(gap, abs=1e-14 * np.abs(A).max())
        for p in (x, y):
            assert np.all(p >= 0)
            assert p.sum() == pytest.approx(1, rel=1e-12)
    average = minimize(MatrixGame(A), solver=Extragradient(average=True), tol=1e-2)
    assert average.holds
    assert "ergodic_gap" in average.certificates
    assert minimize(MatrixGame(np.zeros((2, 3)))).converged
    outside = minimize(MatrixGame(A), (np.zeros(6), np.zeros(5)), tol=1e-3)
    assert outside.converged
    assert outside.value[0].sum() == pytest.approx(1)


@pytest.mark.covers("vr-variational-inequality")
def test_estimate_is_unbiased_and_vanishes_at_the_snapshot(x64):
    problem, _ = finite_sum(0)
    solver = VarianceReducedForwardBackward()
    z, w = (jnp.asarray(v) for v in np.random.default_rng(3).normal(size=(2, 2 * D)))
    mean = problem.field(w)
    estimates = jnp.stack([solver.estimate(problem, z, w, mean, jnp.asarray([i])) for i in range(problem.size)])
    np.testing.assert_allclose(estimates.mean(0), problem.field(z), rtol=1e-12)
    np.testing.assert_allclose(solver.estimate(problem, w, w, mean, jnp.asarray([2])), mean, rtol=1e-14)


def finite_sum(seed, n=12, penalty=None):
    """Rows F_i(z) = M_i z + q_i, each strongly monotone with a turning part; the solution of the mean field."""
    rng = np.random.default_rng(seed)
    B = rng.normal(size=(n, D, D))
    M = np.zeros((n, 2 * D, 2 * D))
    M[:, :D, D:], M[:, D:, :D] = B, -np.swapaxes(B, 1, 2)
    M += np.eye(2 * D) * rng.uniform(0.5, 2, (n, 1, 1))
    q = rng.normal(size=(n, 2 * D))
    # ‖Mv‖² ≤ L⟨Mv, v⟩ for all v: L is the largest eigenvalue of MᵀM relative to the symmetric part, a multiple of I.
    L = max(np.linalg.norm(m, 2) ** 2 / m[0, 0] for m in M)
    rows = (jnp.asarray(M), jnp.asarray(q))
    return FiniteSumGame(row_field, rows, penalty, L), np.linalg.solve(M.mean(0), -q.mean(0))


def row_field(row, z):
    return row[0] @ z + row[1]


@pytest.mark.covers("vr-variational-inequality")
def test_finite_sum_converges_linearly_to_the_known_saddle(x64):
    for seed in range(3):
        problem, solution = finite_sum(seed)
        solver = VarianceReducedForwardBackward(key=jax.random.key(seed))
        run = minimize(problem, jnp.zeros(2 * D), solver, tol=1e-11, max_steps=300, history=True)
        assert bool(run.converged)
        np.testing.assert_allclose(run.value, solution, atol=1e-9)
        logs = np.log(run.history["residual"][: int(run.steps)])
        k = np.arange(logs.size)
        slope, start = np.polyfit(k, logs, 1)
        fit = 1 - np.var(logs - slope * k - start) / np.var(logs)
        assert slope < -0.05
        assert fit > 0.95


@pytest.mark.covers("vr-variational-inequality")
def test_one_row_is_forward_backward(x64):
    problem, _ = finite_sum(0, n=1, penalty=P.Box(-0.2, 0.2))
    solver, step = VarianceReducedForwardBackward(0.1, length=7), 0.1
    state, _ = solver.step(problem, solver.init(problem, jnp.zeros(2 * D)))
    z = np.zeros(2 * D)
    for _ in range(7):
        z = np.clip(z - step * np.asarray(problem.field(jnp.asarray(z))), -0.2, 0.2)
    np.testing.assert_allclose(state.x, z, atol=1e-14)
    assert bool(minimize(problem, jnp.zeros(2 * D), tol=1e-8).converged)


def test_restricted_gap_is_the_supremum_over_the_ball(x64):
    rng = np.random.default_rng(0)
    problem = SaddlePoint(lambda x, y: jnp.sum(x**2) + x @ y - jnp.sum(y**2))
    z = tuple(jnp.asarray(rng.normal(size=D)) for _ in range(2))
    center = (jnp.zeros(D), jnp.zeros(D))
    run = restricted_gap(problem, z, center, 1.5)
    u = rng.normal(size=(500, 2 * D))
    u = 1.5 * u / np.linalg.norm(u, axis=1, keepdims=True)
    found = jax.vmap(lambda u: problem.payoff(z[0], u[D:]) - problem.payoff(u[:D], z[1]))(jnp.asarray(u))
    assert bool(run.holds)
    assert float(jnp.max(found)) <= float(run.value)
    at_solution = restricted_gap(problem, center, center, 1.0)
    assert abs(float(at_solution.value)) <= 1e-12
    concave = SaddlePoint(lambda x, y: -jnp.sum(x**2) + x @ y + jnp.sum(y**2))
    assert not restricted_gap(concave, z, center, 1.5).holds


def test_derivative_of_an_equilibrium(x64):
    M, q, L, _ = affine(2, mu=0.5)

    def solve(q):
        return minimize(game(jnp.asarray(M), q, L), jnp.zeros(2 * D), tol=1e-12).value

    np.testing.assert_allclose(jax.jacobian(solve)(jnp.asarray(q)), -np.linalg.inv(M), atol=1e-9)


def test_lab_bilinear_game():
    module = lab("bilinear_game")
    measured, theory = module.factors(), module.predicted()
    for name, value in measured.items():
        assert value == pytest.approx(theory[name], rel=1e-5 if name != "optimistic" else 0.02)
    assert measured["descent-ascent"] > 1 > measured["extragradient"]
    assert measured["optimistic"] < 1
    game = module.rock_paper_scissors()
    assert game["gap"] <= 2.1e-6
    assert game["row player"].sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: minimize(Composite(lambda x: x @ x), jnp.ones(2), Extragradient()), "problem: found Composite"),
        (lambda: minimize(Game(lambda z: z), jnp.ones(2), VarianceReducedForwardBackward()), "problem: found Game"),
        (lambda: minimize(FiniteSumGame(row_field, jnp.ones((2, 1))), jnp.ones(2)), "step_size: found None"),
        (lambda: GradientDescentAscent(None), "step_size: found None"),
        (lambda: Extragradient(-1.0), "step_size"),
        (lambda: OptimisticGradient(0.0), "step_size"),
        (lambda: VarianceReducedForwardBackward(batch=0), "batch: found 0"),
        (lambda: Game(3.0), "function: found float"),
        (lambda: SaddlePoint("f"), "payoff: found str"),
        (lambda: SaddlePoint(bilinear, lipschitz=0.0), "lipschitz"),
        (lambda: MatrixGame([[np.nan]]), "A: found NaN"),
        (lambda: FiniteSumGame(row_field, (np.ones(2), np.ones(3))), "rows: found leading axes"),
        (lambda: restricted_gap(MatrixGame([[1.0]]), 1.0, 1.0, 1.0), "problem: found MatrixGame"),
        (lambda: restricted_gap(Game(lambda z: z), [1.0], [1.0], 0.0), "radius"),
        (lambda: minimize(MatrixGame([[1.0, 2.0]]), (np.ones(2), np.ones(2))), "x0: found shape"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call()
