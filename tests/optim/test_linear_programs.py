"""Linear and quadratic programmes against HiGHS and cvxpy, bounded least squares against SciPy; scale; refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse

from corollary.core import InputError
from corollary.core.solution import Status
from corollary.optim import (
    Composite,
    LinearProgram,
    QuadraticProgram,
    RestartedPDHG,
    box_qp,
    lsq_linear,
    minimize,
    nnls,
)

M, E, N = 9, 3, 14


def programme(seed, dtype="float64"):
    """A feasible, bounded linear programme with inequalities, equations and mixed bounds."""
    rng = np.random.default_rng(seed)
    G, H = rng.normal(size=(M, N)), rng.normal(size=(E, N))
    G[np.random.default_rng(0).random(G.shape) < 0.4] = 0.0  # one pattern: one compilation
    x, y = np.maximum(rng.normal(size=N), 0), np.maximum(rng.normal(size=M), 0)
    b, e = G @ x + np.where(y > 0, 0, rng.random(M)), H @ x
    c = -G.T @ y + H.T @ rng.normal(size=E) + np.where(x > 0, 0, rng.random(N))
    upper = np.where(rng.random(N) < 0.5, x + rng.random(N), np.inf)
    return tuple(v.astype(dtype) for v in (c, G, b, H, e, upper))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_agrees_with_highs(sparse, kind):
    convert = scipy.sparse.csr_array if sparse else np.asarray
    tol = 1e-8 if kind == "float64" else 2e-4
    for seed in range(3):
        c, G, b, H, e, upper = programme(seed, kind)
        problem = LinearProgram(c, convert(G), b, convert(H), e, bounds=(0.0, upper))
        solution = minimize(problem, tol=tol, max_steps=3000)
        assert solution.converged
        assert solution.holds
        assert solution.value.dtype == kind
        best = scipy.optimize.linprog(c, G, b, H, e, bounds=np.stack([np.zeros(N), upper], 1), method="highs").fun
        scale = abs(best) + abs(float(solution.stats["dual_objective"]))
        assert abs(float(solution.stats["objective"]) - best) <= 10 * tol * scale
        x, u = solution.value, solution.stats["dual"]
        assert np.all((x >= 0) & (x <= upper))
        assert np.all(u[:M] >= -1e-6)
        assert np.linalg.norm(np.maximum(G @ x - b, 0)) <= 2 * tol * np.linalg.norm(np.r_[b, e])
        assert {float(solution.stats[k]) <= tol * 1.01 for k in ("primal_residual", "dual_residual", "gap")} == {True}
        assert not bool(solution.stats["primal_infeasible"])


@pytest.mark.parametrize("c", [1e-12, 1e12])
def test_costs_rows_and_variables_rescaled(c):
    cost, G, b, H, e, upper = programme(1)
    plain = minimize(LinearProgram(cost, G, b, H, e, (0.0, upper)), tol=1e-8, max_steps=3000)
    cases = [
        (LinearProgram(c * cost, G, b, H, e, (0.0, upper)), 1.0),
        (LinearProgram(cost, G, c * b, H, c * e, (0.0, c * upper)), c),
        (LinearProgram(cost / c, G / c, b, H / c, e, (0.0, c * upper)), c),
    ]
    for problem, unit in cases:
        solution = minimize(problem, tol=1e-8, max_steps=3000)
        assert solution.converged
        assert abs(int(solution.steps) - int(plain.steps)) <= 0.1 * int(plain.steps) + 2
        np.testing.assert_allclose(solution.value / unit, plain.value, atol=1e-5)


def test_quadratic_programme_agrees_with_cvxpy():
    cvxpy = pytest.importorskip("cvxpy")
    for seed in range(2):
        q, G, b, H, e, upper = programme(seed)
        root = np.random.default_rng(seed).normal(size=(6, N))
        P = root.T @ root
        x = cvxpy.Variable(N)
        rows = [b >= G @ x, H @ x == e, x >= 0, x <= np.where(np.isfinite(upper), upper, 1e6)]
        target = cvxpy.Problem(cvxpy.Minimize(cvxpy.quad_form(x, cvxpy.psd_wrap(P)) / 2 + q @ x), rows)
        target.solve("CLARABEL")
        solution = minimize(QuadraticProgram(P, q, G, b, H, e, (0.0, upper)), tol=1e-7, max_steps=3000)
        assert solution.converged
        np.testing.assert_allclose(float(solution.stats["objective"]), target.value, rtol=1e-5)


def test_what_has_no_solution_is_not_a_success():
    impossible = LinearProgram([1.0, 1.0], [[1.0, 1.0]], [1.0], [[1.0, 2.0]], [4.0])
    solution = minimize(impossible, tol=1e-6, max_steps=300)
    assert not solution.converged
    assert bool(solution.stats["primal_infeasible"])
    endless = LinearProgram([-1.0, 1.0], [[1.0, -2.0]], [1.0])
    solution = minimize(endless, tol=1e-6, max_steps=300)
    assert not solution.converged
    assert "no finite optimum" in solution.message
    assert bool(solution.stats["dual_infeasible"])


def test_dual_objective_is_a_lower_bound_within_finite_bounds():
    c, G, b, H, e, _ = programme(2)
    problem = LinearProgram(c, G, b, H, e, (0.0, 5.0))
    best = scipy.optimize.linprog(c, G, b, H, e, bounds=(0.0, 5.0)).fun
    for steps in (1, 5, 40):
        found = minimize(problem, tol=0.0, max_steps=steps)
        assert float(found.stats["lower_bound"]) <= best + 1e-9 * (1 + abs(best))


def regression(seed, dtype="float64", shape=(30, 12)):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=shape)
    return A.astype(dtype), (A @ rng.normal(size=shape[1]) + rng.normal(size=shape[0])).astype(dtype)


def test_nnls_agrees_with_scipy(dtype):
    for seed in range(5):
        A, b = regression(seed, dtype)
        solution = nnls(A, b, tol=1e-10 if dtype == "float64" else 1e-5)
        expected, _ = scipy.optimize.nnls(*regression(seed))
        assert solution.converged
        assert solution.holds
        assert solution.value.dtype == dtype
        limit = 1e3 * np.finfo(dtype).eps * np.linalg.cond(A)
        np.testing.assert_allclose(solution.value, expected, atol=limit)
        assert np.all(solution.value >= 0)
        if dtype == "float64":
            np.testing.assert_array_equal(solution.value > 0, expected > 1e-12)


def test_lsq_linear_agrees_with_scipy_and_its_gap_is_a_bound():
    for seed in range(4):
        A, b = regression(seed)
        for bounds in ((-0.3, 0.4), (np.full(12, -0.2), None)):
            solution = lsq_linear(A, b, bounds)
            low, high = (-np.inf if bounds[0] is None else bounds[0], np.inf if bounds[1] is None else bounds[1])
            expected = scipy.optimize.lsq_linear(A, b, (low, high), method="bvls", tol=1e-14)
            np.testing.assert_allclose(solution.value, expected.x, atol=1e-10)
            rough = lsq_linear(A, b, bounds, x0=expected.x + 0.05, max_steps=1, tol=0.0)
            gap = rough.certificates["duality_gap"].measured
            assert -1e-10 <= rough.stats["objective"] - expected.cost <= gap + 1e-10


def test_singular_degenerate_and_ill_conditioned():
    A, b = regression(0)
    twice = nnls(np.hstack([A, A[:, :3]]), b)  # duplicate columns: many minimisers, one objective
    np.testing.assert_allclose(twice.stats["objective"], nnls(A, b).stats["objective"], rtol=1e-12)
    wide = nnls(A[:5], b[:5])
    assert wide.converged
    np.testing.assert_allclose(wide.stats["objective"], scipy.optimize.nnls(A[:5], b[:5])[1] ** 2 / 2, atol=1e-10)
    pinned = box_qp(np.eye(2), [1.0, 1.0], (0.5, 0.5))
    np.testing.assert_array_equal(pinned.value, [0.5, 0.5])
    assert pinned.holds
    scaled = A * np.logspace(0, -5, 12)  # κ(A) = 1e5: the Gram matrix alone would keep six digits
    expected = scipy.optimize.nnls(scaled, b)[0]
    np.testing.assert_allclose(nnls(scaled, b, tol=0.0).value, expected, rtol=1e-6, atol=1e-8 * expected.max())
    zero = nnls(A, np.zeros(30))
    np.testing.assert_array_equal(zero.value, 0.0)
    assert zero.converged


@pytest.mark.parametrize("c", [1e-12, 1e12])
def test_bounded_problems_rescaled(c):
    A, b = regression(1)
    plain = nnls(A, b)
    for solution, unit in ((nnls(c * A, b), 1 / c), (nnls(A, c * b), c)):
        assert solution.converged
        assert int(solution.steps) == int(plain.steps)
        np.testing.assert_allclose(solution.value / unit, plain.value, atol=1e-11)


def test_vmapped_and_jitted_is_the_loop(x64):
    pairs = [regression(seed) for seed in range(4)]
    A, b = (jnp.stack([jnp.asarray(p[i]) for p in pairs]) for i in (0, 1))
    together = jax.jit(jax.vmap(lambda A, b: lsq_linear(A, b, (-0.3, 0.4)).value))(A, b)
    for i, (one, side) in enumerate(pairs):
        np.testing.assert_allclose(together[i], lsq_linear(one, side, (-0.3, 0.4)).value, atol=1e-12)


ROWS = {"A_ub": [[1.0, 1.0]], "b_ub": [1.0]}
BAD = [
    (lambda: LinearProgram([1.0, 1.0]), "A_ub: found None"),
    (lambda: LinearProgram([1.0, 1.0], A_ub=[[1.0, 1.0]]), "b_ub: found None"),
    (lambda: LinearProgram([1.0], **ROWS), "A_ub: found shape"),
    (lambda: LinearProgram([np.nan, 1.0], **ROWS), "c: found"),
    (lambda: LinearProgram([1.0, 1.0], **ROWS, bounds=(2.0, 1.0)), "bounds: found a lower bound above"),
    (lambda: LinearProgram([1.0, 1.0], **ROWS, bounds=(np.zeros(3), None)), "bounds: found shape"),
    (lambda: LinearProgram([1.0, 1.0], **ROWS, bounds=[(0, 1)]), "bounds: found shape"),
    (lambda: QuadraticProgram([[1.0, 2.0], [0.0, 1.0]], [1.0, 1.0], **ROWS), "P: found an entry"),
    (lambda: QuadraticProgram([[1.0]], [1.0, 1.0], **ROWS), "P: found shape"),
    (lambda: RestartedPDHG(0), "inner: found"),
    (lambda: RestartedPDHG().check(Composite(jnp.sum)), "problem: found Composite"),
    (lambda: nnls([[1.0]], [1.0, 2.0]), "b: found"),
    (lambda: nnls([[np.inf]], [1.0]), "A: found"),
    (lambda: box_qp([[1.0]], [1.0, 2.0]), "P: found shape"),
    (lambda: lsq_linear([[1.0]], [1.0], (1.0, 0.0)), "bounds: found a lower bound above"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("P", [[[-1.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]])
def test_a_gap_needs_a_definite_matrix(P):
    solution = box_qp(P, [0.0, 0.0], (-3.0, 3.0))
    assert not solution.certificates["duality_gap"].holds
    assert not jax.jit(box_qp)(jnp.asarray(P), jnp.zeros(2), (-3.0, 3.0)).certificates["duality_gap"].holds
    assert box_qp([[1.0, 1.0], [1.0, 1.0]], [1.0, 1.0], (-3.0, 3.0)).certificates["duality_gap"].holds


def test_no_curvature_at_any_scale():
    for scale in (1.0, 1e-20):
        solution = box_qp(np.zeros((2, 2)), [scale, -scale], (-1.0, 1.0))
        assert solution.value.tolist() == [-1.0, 1.0]
        assert solution.converged


def test_bounds_can_be_a_batch():
    found = jax.vmap(lambda top: box_qp(jnp.eye(2), jnp.full(2, -3.0), (0.0, top)).value)(jnp.array([1.0, 2.0]))
    assert found.tolist() == [[1.0, 1.0], [2.0, 2.0]]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: box_qp([[2.0, 1.0], [0.0, 2.0]], [1.0, 1.0]), "P: found an entry that differs"),
        (lambda: box_qp(np.eye(2), [1.0, 1.0], ((0.0, 1.0), (0.0, 1.0))), "bounds: found a tuple of two tuples"),
    ],
)
def test_more_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_a_row_with_a_small_coefficient_still_bounds(x64):
    def run(small):
        rows = [[1.0, -1.0, 0.0], [small, small, 1.0]]
        return minimize(LinearProgram([-1.0, -1.0, 0.0], A_ub=rows, b_ub=[1.0, 1.0]), max_steps=40)

    assert run(0.0).status == Status.UNBOUNDED
    bounded = run(1e-7)
    assert bounded.status != Status.UNBOUNDED
    assert not bounded.stats["dual_infeasible"]


def test_the_cost_may_have_any_size_without_right_hand_sides(x64):
    rng = np.random.default_rng(2)
    A, c = rng.normal(size=(2, 3)), rng.normal(size=3)
    steps = {
        int(minimize(LinearProgram(k * c, A_ub=A, b_ub=np.zeros(2), bounds=(0, 1)), max_steps=300).steps)
        for k in (1.0, 1e8)
    }
    assert len(steps) == 1
    assert max(steps) < 300
