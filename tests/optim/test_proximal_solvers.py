"""Frank-Wolfe, mirror descent, Douglas-Rachford, FISTA's variants: theorems at every step, limits, flags, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from corollary.core import InputError
from corollary.optim import (
    Composite,
    Differentiable,
    DouglasRachford,
    Fista,
    FrankWolfe,
    LeastSquares,
    Logistic,
    MirrorDescent,
    PenaltySum,
    minimize,
    projections,
)
from corollary.optim import penalties as P

N, D = 24, 10


def regression(seed, dtype="float64"):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(N, D))
    return A.astype(dtype), (A[:, :3].sum(1) + 0.3 * rng.normal(size=N)).astype(dtype)


SETS = {"l1": P.L1Ball(1.5), "l2": P.L2Ball(0.9), "simplex": P.Simplex(1.2), "box": P.Box(-0.2, 0.4)}


@functools.cache
def best(name):
    problem = Composite(LeastSquares(*regression(0)), SETS[name])
    return problem, minimize(problem, tol=1e-13, max_steps=20_000).stats["objective"]


# Frank-Wolfe


@pytest.mark.parametrize("name", [*SETS, "capped", "nuclear", "spectral"])
def test_linear_minimizer_is_the_support_function(name, x64):
    sets = SETS | {"capped": P.CappedSimplex(2.2, 0.9), "nuclear": P.NuclearBall(1.4), "spectral": P.SpectralBall(0.9)}
    h, shape = sets[name], (4, 3) if name in ("nuclear", "spectral") else (D,)
    for seed in range(3):
        g, v = jax.random.normal(jax.random.key(seed), (2, *shape))
        corner = h.linear_minimizer(g)
        assert h.value(corner) == 0
        other = h.prox(3 * v)
        assert jnp.sum(g * corner) <= jnp.sum(g * other) + 1e-13
        np.testing.assert_allclose(h.conjugate(-g), -jnp.sum(g * corner), rtol=1e-12)
        if h._diameter(g) is not None:
            assert jnp.linalg.norm(corner - other) <= h._diameter(g) * (1 + 1e-12)
    assert P.L1().linear_minimizer(g) is None


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("l1", "exact"),
        ("l1", "short"),
        ("l1", "open-loop"),
        ("l2", "exact"),
        ("simplex", "open-loop"),
        ("box", "short"),
    ],
)
def test_frank_wolfe_gap_and_its_theorem(name, rule):
    problem, optimum = best(name)
    run = minimize(problem, solver=FrankWolfe(rule), tol=0.0, max_steps=200, history=True)
    history = run.history
    curvature = np.linalg.norm(regression(0)[0], 2) ** 2 * float(SETS[name]._diameter(jnp.zeros(D))) ** 2
    steps = int(run.steps)
    objective, k = history["objective"][:steps], np.arange(1, steps + 1)
    assert np.all(objective - optimum <= 2 * curvature / (k + 2) + 1e-12)
    # The gap is taken at the point before the step.
    assert np.all(history["gap"][1:steps] >= objective[:-1] - optimum - 1e-12)
    assert run.certificates["gap_rate"].holds
    assert run.certificates["duality_gap"].measured >= run.stats["objective"] - optimum - 1e-12
    if rule != "open-loop":
        assert np.all(np.diff(objective) <= 1e-12)


def test_frank_wolfe_open_loop_against_a_naive_twin():
    A, b = regression(1)
    run = minimize(Composite(LeastSquares(A, b), P.L1Ball(1.5)), solver=FrankWolfe("open-loop"), tol=0.0, max_steps=25)
    x, points = np.zeros(D), []
    for k in range(25):
        g = A.T @ (A @ x - b)
        i = np.argmax(np.abs(g))
        corner = np.zeros(D)
        corner[i] = -1.5 * np.sign(g[i])
        x = x + 2 / (k + 2) * (corner - x)
        points.append((np.sum((A @ x - b) ** 2) / 2, x))
    np.testing.assert_allclose(run.value, min(points, key=lambda p: p[0])[1], atol=1e-12)


def test_frank_wolfe_over_matrices_converges_and_stays_of_low_rank(dtype):
    rng = np.random.default_rng(0)
    target = (rng.normal(size=(6, 1)) @ rng.normal(size=(1, 5))).astype(dtype)
    problem = Composite(LeastSquares(np.eye(6, dtype=dtype), target), P.NuclearBall(2.0))
    run = minimize(problem, solver=FrankWolfe(), tol=1e-5)
    assert run.converged
    assert run.value.dtype == dtype
    np.testing.assert_allclose(run.value, projections.nuclear_ball(target, 2.0), atol=1e-2)


def test_frank_wolfe_without_a_dual_stops_on_its_gap_as_stationarity():
    A, b = regression(2)
    function = jax.tree_util.Partial(lambda A, b, x: jnp.sum(jnp.tanh(A @ x - b) ** 2), A, b)  # not convex
    run = minimize(Composite(function, P.L2Ball(0.5)), np.zeros(D), FrankWolfe(), tol=1e-4)
    assert run.converged
    assert "stationarity" in run.certificates


@pytest.mark.parametrize("c", [1e-12, 1e12])
@pytest.mark.parametrize("solver", [FrankWolfe(), MirrorDescent()])
def test_rescaling_changes_only_the_scale(solver, c):
    A, b = regression(3)
    plain = minimize(Composite(LeastSquares(A, b), P.Simplex()), solver=solver, tol=1e-4)
    assert plain.converged
    for s, u in ((c**0.5, 1.0), (1.0, c)):
        scaled = minimize(Composite(LeastSquares(s * A / u, s * b), P.Simplex(u)), solver=solver, tol=1e-4)
        assert scaled.converged
        assert abs(int(scaled.steps) - int(plain.steps)) <= 0.1 * int(plain.steps) + 2
        np.testing.assert_allclose(scaled.value / u, plain.value, atol=1e-2)


# Mirror descent


@pytest.mark.parametrize("seed", range(3))
def test_mirror_descent_rate_in_the_divergence(seed, x64):
    A, b = regression(seed)
    problem = Composite(LeastSquares(A, b), P.Simplex())
    star = minimize(problem, tol=1e-13, max_steps=20_000)
    L = np.max(np.sum(A**2, 0))  # ‖A‖²: from ‖·‖₁ to ‖·‖₂
    run = minimize(problem, np.full(D, 1 / D), MirrorDescent(step_size=1 / L), tol=0.0, max_steps=100, history=True)
    positive = star.value[star.value > 0]
    divergence = np.sum(positive * np.log(positive * D))
    gaps = run.history["objective"] - star.stats["objective"]
    assert np.all(gaps <= L * divergence / np.arange(1, 101) + 1e-12)
    assert np.all(np.diff(gaps) <= 1e-12)
    x = np.full(D, 1 / D)
    for _ in range(100):
        x = x * np.exp(-A.T @ (A @ x - b) / L)
        x /= x.sum()
    np.testing.assert_allclose(run.value, x, atol=1e-12)


def test_mirror_descent_is_blind_to_the_number_of_useless_features():
    # ‖A‖₂² grows with p, the largest column does not: the entropy's step stays long.
    rng = np.random.default_rng(0)
    A = rng.choice([-1.0, 1.0], size=(8, 400)) / 8**0.5 + 3 / 8**0.5
    b = A[:, 0]
    problem = Composite(LeastSquares(A, b), P.Simplex())
    entropy = minimize(problem, solver=MirrorDescent(), tol=0.0, max_steps=30)
    euclidean = minimize(
        problem, solver=MirrorDescent("euclidean", step_size=1 / np.linalg.norm(A, 2) ** 2), tol=0.0, max_steps=30
    )
    assert entropy.stats["objective"] < euclidean.stats["objective"] / 2


def test_mirror_descent_logistic_and_projected(dtype):
    A, b = regression(0, dtype.name)
    for solver, h in ((MirrorDescent(), P.Simplex(2.0)), (MirrorDescent("euclidean"), P.L2Ball(1.0))):
        problem = Composite(Logistic(A, b > 0), h)
        run = minimize(problem, solver=solver, tol=1e-4)
        assert run.converged
        assert run.value.dtype == dtype
        np.testing.assert_allclose(run.value, minimize(problem, tol=1e-6).value, atol=0.05)
    run = minimize(Composite(LeastSquares(A, b), P.Nonnegative()), solver=MirrorDescent("euclidean"), tol=1e-4)
    assert run.converged
    np.testing.assert_allclose(run.value, scipy.optimize.nnls(*regression(0))[0], atol=1e-3)


# Douglas-Rachford


def test_douglas_rachford_basis_pursuit_is_the_linear_programme(dtype):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(5, 9)).astype(dtype)
    b = A @ np.r_[[1.0, -2.0], np.zeros(7)].astype(dtype)
    lp = scipy.optimize.linprog(np.ones(18), A_eq=np.hstack([A, -A]), b_eq=b)
    tol = 1e-9 if dtype == "float64" else 1e-4
    run = minimize(PenaltySum(P.L1(1.0), P.AffineSet(A, b)), np.zeros(9, dtype), tol=tol)
    assert run.converged
    assert run.holds
    assert run.value.dtype == dtype
    np.testing.assert_allclose(run.value, lp.x[:9] - lp.x[9:], atol=100 * tol)
    assert "DouglasRachford" in str(run.stats["solver"])


@pytest.mark.parametrize("relaxation", [0.7, 1.8])
def test_douglas_rachford_against_a_naive_twin_and_its_theorem(relaxation):
    v = np.random.default_rng(1).normal(size=D)
    f, g = P.Tilted(P.L1(0.3), tilt=-v, ridge=1.0), P.Simplex()
    run = minimize(PenaltySum(f, g), np.ones(D), DouglasRachford(0.8, relaxation), tol=0.0, max_steps=20)
    y = np.ones(D)
    moves = []
    for _ in range(20):
        x = f.prox(y, 0.8)
        w = g.prox(2 * x - y, 0.8)
        y = y + relaxation * (w - x)
        moves.append(np.linalg.norm(w - x))
    assert np.all(np.diff(moves) <= 1e-12)
    assert run.certificates["move"].holds
    # On the simplex the L1 norm is constant: the answer is the projection of v.
    answer = minimize(PenaltySum(f, g), np.ones(D), DouglasRachford(0.8, relaxation), tol=1e-10)
    assert answer.converged
    np.testing.assert_allclose(answer.value, projections.simplex(v), atol=1e-8)


def test_douglas_rachford_on_disjoint_sets_does_not_claim_success():
    problem = PenaltySum(P.Box(0.0, 1.0), P.Box(2.0, 3.0))
    run = minimize(problem, np.zeros(3), tol=1e-8, max_steps=500)
    assert not run.converged
    assert not run.holds


# FISTA's variants


VARIANTS = {
    "chambolle-dossal": Fista(None, law="chambolle-dossal", a=3.0),
    "a = 20": Fista(None, law="chambolle-dossal", a=20.0),
    "monotone": Fista(None, monotone=True),
    "monotone with restarts": Fista(monotone=True),
}


@functools.cache
def lasso(dtype):
    A, b = regression(2, dtype)
    problem = Composite(LeastSquares(A * np.logspace(0, -1, D).astype(dtype), b), P.L1(dtype_of(0.5, dtype)))
    return problem, minimize(problem, tol=1e-13 if dtype == "float64" else 1e-6, max_steps=20_000)


def dtype_of(x, dtype):
    return np.asarray(x, dtype)


@pytest.mark.covers("fista")
@pytest.mark.parametrize(("name", "dtype"), [*[(n, "float64") for n in VARIANTS], ("chambolle-dossal", "float32")])
def test_fista_variants_keep_their_rates(name, dtype):
    problem, star = lasso(dtype)
    solver = VARIANTS[name]
    run = minimize(problem, np.full(D, 0.2, dtype), solver, tol=0.0, max_steps=150, history=True, reference=star.value)
    gaps, objective = run.history["suboptimality"], run.history["objective"]
    seen = np.isfinite(gaps)
    noise = 64 * np.finfo(dtype).eps * abs(float(objective[0]))
    if "rate_bound" in run.history:
        assert np.all(gaps[seen] <= run.history["rate_bound"][seen] + noise)
        assert run.certificates["rate"].holds
    if solver.monotone:
        assert np.all(np.diff(objective[seen]) <= noise)
    again = minimize(problem, np.full(D, 0.2, dtype), solver, tol=1e-5)
    assert again.converged


@pytest.mark.covers("fista")
def test_fista_with_known_strong_convexity():
    A, b = regression(0)
    m = np.linalg.eigvalsh(A.T @ A)[0]
    problem = Composite(LeastSquares(A, b), P.L1(1.0))
    star = minimize(problem, tol=1e-14, max_steps=20_000)
    solver = Fista(None, strong_convexity=m)
    x0 = np.ones(D)
    run = minimize(problem, x0, solver, tol=0.0, max_steps=60, history=True)
    q = np.sqrt(m / float(problem.smooth.lipschitz()))
    first = problem.objective(x0) - star.stats["objective"] + m / 2 * np.sum((x0 - star.value) ** 2)
    k = np.arange(1, 61)
    seen = np.isfinite(run.history["objective"])
    gaps = run.history["objective"][seen] - star.stats["objective"]
    assert np.all(gaps <= (1 - q) ** k[seen] * first + 1e-11)
    assert "rate" not in run.certificates


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: minimize(p, solver=FrankWolfe()), "penalty: found L1, expected a bounded set"),
        (lambda p: minimize(Composite(lambda x: x @ x, P.L2Ball()), np.ones(2), FrankWolfe("short")), "step_rule"),
        (lambda p: minimize(p, solver=MirrorDescent()), "penalty: found L1, expected a Simplex"),
        (lambda p: minimize(p, solver=DouglasRachford()), "problem: found Composite, expected a PenaltySum"),
        (lambda p: DouglasRachford(relaxation=2.5), "relaxation: found 2.5"),
        (lambda p: DouglasRachford(step_size=0.0), "step_size: found 0.0"),
        (lambda p: minimize(PenaltySum(P.L1(), P.Box())), "x0: found None"),
        (lambda p: Fista(a=2.0), "a: found 2.0"),
        (lambda p: Fista(strong_convexity=0.1), "restart: found 'adaptive'"),
    ],
)
def test_bad_input(make, says):
    with pytest.raises(InputError, match=says):
        make(Composite(LeastSquares(*regression(0)), P.L1(1.0)))


def test_an_inexact_prox_is_no_success():
    """One step of an inner iteration leaves (y − x)/t − ∇f(y) as the subgradient: the residual alone would be 0."""
    b = np.random.default_rng(0).normal(size=(4, 4))
    smooth = Differentiable(lambda x: jnp.sum(jnp.square(x - b)) / 2, lipschitz=1.0)
    for steps, converged in ((1, False), (2000, True)):
        problem = Composite(smooth, P.TotalVariation2D(1.0, max_steps=steps))
        assert bool(minimize(problem, np.zeros((4, 4)), max_steps=20).converged) == converged


def test_douglas_rachford_without_a_solution_and_at_any_scale():
    apart = minimize(PenaltySum(P.Box(0.0, 1.0), P.Box(2.0, 3.0)), np.zeros(2), tol=1e-3, max_steps=2000)
    assert not apart.converged
    assert not apart.certificates["stationarity"].holds
    steps = []
    for scale in (1.0, 1e12, 1e-12):
        problem = PenaltySum(P.L1(1.0), P.AffineSet([[1.0, 2.0]], [2.0 * scale]))
        solution = minimize(problem, np.zeros(2), max_steps=500)
        assert solution.converged
        assert np.allclose(solution.value / scale, [0.0, 1.0], atol=1e-5)
        steps.append(int(solution.steps))
    assert len(set(steps)) == 1


@pytest.mark.parametrize(
    ("penalty", "solver", "says"),
    [
        (P.L1(1.0), MirrorDescent("euclidean"), "expected the indicator"),
        (P.Box(0.0, np.inf), FrankWolfe(), "infinite side"),
        (P.L0(1.0), Fista(), "expected a convex one"),
    ],
)
def test_penalties_a_solver_does_not_speak_of(penalty, solver, says):
    with pytest.raises(InputError, match=says):
        minimize(Composite(LeastSquares(*regression(0)), penalty), solver=solver)
