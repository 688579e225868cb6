"""Condition estimate, forward bound and mixed-precision refinement, with the factorisations that they stand on."""

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import lineax as lx
import numpy as np
import pytest
import scipy.linalg
import scipy.linalg.lapack as lapack
import scipy.sparse.linalg

from corollary.core.errors import InputError
from corollary.linalg import condition_estimate, linear_system_error, refine

EPS = np.finfo(float).eps


def with_condition(n, kappa, rng):
    U, V = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    return (U * np.geomspace(1, 1 / kappa, n)) @ V.T


@pytest.mark.covers("condition-number-estimate")
@pytest.mark.parametrize("kappa", [1e1, 1e5, 1e9])
def test_estimate_is_a_lower_bound_as_good_as_lapacks(kappa):
    rng = np.random.default_rng(0)
    for _ in range(10):
        A = with_condition(8, kappa, rng)
        solution = condition_estimate(A)
        value, exact = float(solution.value), np.linalg.cond(A, 1)
        assert value <= exact * (1 + 100 * exact * EPS)
        lu, piv = scipy.linalg.lu_factor(A)
        rcond, _ = lapack.dgecon(lu, np.linalg.norm(A, 1))
        assert 1 / 3 <= value * rcond <= 3
        assert float(condition_estimate(A, factor=(lu, piv)).value) == pytest.approx(value, rel=100 * exact * EPS)
        assert bool(solution.holds)


@pytest.mark.covers("condition-number-estimate")
def test_estimate_at_the_edges(dtype):
    d = np.array([3.0, -0.5, 7.0, 1.0], dtype)
    assert float(condition_estimate(jnp.diag(jnp.asarray(d))).value) == 14.0
    assert float(condition_estimate(jnp.ones((1, 1), dtype)).value) == 1.0
    assert float(condition_estimate(jnp.zeros((4, 4), dtype)).value) == np.inf
    assert float(condition_estimate(jnp.diag(jnp.asarray([1.0, 0.0, 1.0, 1.0], dtype))).value) == np.inf
    A = jnp.asarray(with_condition(8, 100, np.random.default_rng(1)).astype(dtype))
    one = float(condition_estimate(A).value)
    assert float(condition_estimate(A * 2.0**100).value) == one
    assert float(jax.jit(condition_estimate)(A).value) == pytest.approx(one, rel=1e-3)
    both = jax.vmap(condition_estimate)(jnp.stack([A, A.T])).value
    assert float(both[0]) == pytest.approx(one, rel=1e-3)
    # An orthogonal matrix has κ₂ = 1 exactly; its κ₁ may be as large as n.
    Q = jnp.linalg.qr(A)[0]
    assert 1 <= float(condition_estimate(Q).value) <= 8 * 1.001


@pytest.mark.covers("linear-system-error-bound")
def test_forward_bound_is_never_violated_and_attained_to_first_order(x64):
    rng = np.random.default_rng(0)
    call = jax.jit(linear_system_error)
    for kappa in (1e1, 1e4):
        for _ in range(20):
            A, b = with_condition(5, kappa, rng), rng.normal(size=5)
            E, f = rng.normal(size=(5, 5)), rng.normal(size=5)
            dA = E / np.linalg.norm(E, 2) * rng.uniform(0, 1) / kappa  # κα < 1, up to its edge
            solution = call(A, b, dA, f * rng.uniform(0, 0.1))
            assert bool(solution.holds)
            assert float(solution.stats["error"]) <= float(solution.value) * (1 + 1e-10)
    U, s, Vt = np.linalg.svd(with_condition(5, 100, rng))
    A, x = (U * s) @ Vt, Vt[0]
    t = 1e-7
    worst = linear_system_error(A, A @ x, t * np.outer(U[:, -1], x), np.zeros(5))
    assert float(worst.stats["error"]) == pytest.approx(float(worst.value), rel=1e-4)
    both = linear_system_error(A, A @ x, -t * np.outer(U[:, -1], x), t * U[:, -1])
    assert float(both.stats["error"]) == pytest.approx(float(both.value), rel=1e-4)


@pytest.mark.covers("linear-system-error-bound")
def test_first_order_bound_fails_without_the_denominator():
    A, b = np.diag([1.0, 0.1]), np.array([0.0, 1.0])
    dA = np.diag([0.0, -0.09])
    solution = linear_system_error(A, b, dA, np.zeros(2))
    first_order = float(solution.stats["condition"] * solution.stats["alpha"])
    assert float(solution.stats["error"]) > first_order
    assert bool(solution.holds)
    outside = linear_system_error(A, b, 2 * dA, np.zeros(2))
    assert float(outside.value) == np.inf
    assert not bool(outside.holds)


@pytest.mark.covers("iterative-refinement")
@pytest.mark.parametrize("kappa", [1e1, 1e3, 1e5])
def test_refinement_reaches_float64_from_float32_factors(kappa):
    rng = np.random.default_rng(0)
    A, B = with_condition(20, kappa, rng), rng.normal(size=(20, 2))
    solution = refine(A, B)
    low = np.linalg.solve(A.astype(np.float32), B.astype(np.float32))
    assert bool(solution.converged)
    assert bool(solution.holds)
    scale = np.linalg.norm(A, np.inf) * np.abs(solution.value).max(0) + np.abs(B).max(0)
    assert np.max(np.abs(B - A @ solution.value).max(0) / scale) <= 20**0.5 * EPS * 1.5
    assert np.max(np.abs(B - A @ low).max(0) / scale) > 1e4 * EPS
    # κ·u sets the rate: u = 2⁻²⁴, a modest constant for the factorisation's growth.
    assert float(solution.stats["rate"]) < 20 * np.linalg.cond(A, 1) * 2.0**-24
    exact = np.linalg.solve(A, B)
    assert np.linalg.norm(solution.value - exact) < 100 * kappa * EPS * np.linalg.norm(exact)
    np.testing.assert_allclose(refine(A, B[:, 0]).value, solution.value[:, 0], rtol=1e3 * kappa * EPS)


@pytest.mark.covers("iterative-refinement")
def test_refinement_flags_divergence():
    rng = np.random.default_rng(0)
    A, b = with_condition(20, 1e12, rng), rng.normal(size=20)
    solution = refine(A, b, max_steps=100)
    assert not bool(solution.converged)
    assert bool(solution.stats["diverged"])
    assert np.isfinite(solution.value).all()
    assert not bool(solution.holds)
    assert float(solution.stats["condition"]) > 2.0**24 / 10
    singular = refine(np.ones((3, 3)), np.arange(3.0))
    assert not bool(singular.converged)
    assert np.isfinite(singular.value).all()


def test_refinement_at_extreme_scales():
    rng = np.random.default_rng(0)
    A, b = with_condition(20, 1e2, rng), rng.normal(size=20)
    x = refine(A, b).value
    for e in (-500, 500):
        np.testing.assert_array_equal(refine(np.ldexp(A, e), b).value, np.ldexp(x, -e))
        np.testing.assert_array_equal(refine(A, np.ldexp(b, e)).value, np.ldexp(x, e))
    assert np.all(refine(A, np.zeros(20)).value == 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: condition_estimate(np.ones((2, 3))), "expected a square"),
        (lambda: condition_estimate(np.eye(2), factor=(np.eye(3), np.arange(3))), "factor: found"),
        (lambda: condition_estimate(np.full((2, 2), np.nan)), "A: found NaN"),
        (lambda: linear_system_error(np.eye(2), np.zeros(2), np.eye(2), np.ones(2)), "b: found zero"),
        (lambda: linear_system_error(np.eye(2), np.ones(3), np.eye(2), np.ones(2)), "dA: found"),
        (lambda: refine(np.ones((3, 2)), np.ones(3)), "linalg.lstsq"),
        (lambda: refine(np.eye(2), np.ones(3)), "b: found 3 rows"),
        (lambda: refine(np.eye(2), np.ones(2), max_steps=-1), "max_steps: found"),
        (lambda: refine(jnp.eye(2), jnp.ones(2)), "64-bit"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


# What this piece stands on: given by JAX and Lineax, with the checks that their statements need -----------------------


@pytest.mark.covers("condition-number")
def test_condition_number(x64):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(12, 4)) * np.geomspace(1, 1e-3, 4)
    kappa = float(jnp.linalg.cond(X))
    assert float(jnp.linalg.cond(X.T @ X)) == pytest.approx(kappa**2, rel=1e-8)
    assert float(jnp.linalg.cond(jnp.linalg.qr(X)[1])) == pytest.approx(kappa, rel=1e-8)
    A, Q = rng.normal(size=(4, 4)), np.linalg.qr(rng.normal(size=(4, 4)))[0]
    base = float(jnp.linalg.cond(A))
    assert base >= 1
    assert float(jnp.linalg.cond(Q @ A @ Q.T)) == pytest.approx(base, rel=1e-8)
    assert float(jnp.linalg.cond(-3 * A)) == pytest.approx(base, rel=1e-8)
    assert float(jnp.linalg.cond(jnp.zeros((2, 2)).at[0, 0].set(1))) == np.inf
    assert float(jnp.linalg.cond(jnp.diag(jnp.array([2.0, -4.0])))) == pytest.approx(2)  # |λ| where S is indefinite


@pytest.mark.covers("pseudoinverse")
def test_pseudoinverse(x64):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(7, 3)) @ rng.normal(size=(3, 5))  # rank 3
    P = np.asarray(jnp.linalg.pinv(A))
    for left, right in ((A @ P @ A, A), (P @ A @ P, P), ((A @ P).T, A @ P), ((P @ A).T, P @ A)):
        np.testing.assert_allclose(left, right, atol=1e-12)
    np.testing.assert_allclose(np.linalg.solve(A.T @ A + 1e-8 * np.eye(5), A.T), P, atol=1e-6)
    V = rng.normal(size=(7, 3))
    np.testing.assert_allclose(jnp.linalg.pinv(V), np.linalg.solve(V.T @ V, V.T), atol=1e-12)


@pytest.mark.covers("qr")
@pytest.mark.parametrize("kappa", [1e1, 1e12])
def test_qr_plain_and_pivoted(x64, kappa):
    X = with_condition(6, kappa, np.random.default_rng(0))
    Q, R = jnp.linalg.qr(X)
    assert np.linalg.norm(Q.T @ Q - np.eye(6)) < 50 * EPS
    assert np.linalg.norm(Q @ R - X) < 50 * EPS * np.linalg.norm(X)
    if kappa < 1e6:
        assert float(jnp.linalg.cond(R)) == pytest.approx(np.linalg.cond(X), rel=1e-8)
    Q, R, pivots = jsl.qr(jnp.asarray(X), pivoting=True)
    np.testing.assert_array_equal(pivots, scipy.linalg.qr(X, pivoting=True)[2])
    assert np.all(np.diff(np.abs(np.diag(R))) <= EPS)
    for k in range(6):
        for j in range(k + 1, 6):
            assert R[k, k] ** 2 >= np.sum(np.square(R[k : j + 1, j])) * (1 - 1e-12) - EPS**2


@pytest.mark.covers("cholesky", "triangular-solve", "eigh", "lu")
def test_square_factorisations(x64):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(6, 6))
    S = A @ A.T + np.eye(6)
    L = np.asarray(jnp.linalg.cholesky(S))
    assert np.all(np.diag(L) > 0)
    assert np.all(np.triu(L, 1) == 0)
    assert np.linalg.norm(L @ L.T - S) < 6 * 8 * EPS * np.linalg.norm(S)
    assert np.isnan(jnp.linalg.cholesky(S - 2 * np.linalg.norm(S) * np.eye(6))).any()
    b = rng.normal(size=6)
    y = np.asarray(jsl.solve_triangular(L, b, lower=True))
    assert np.all(np.abs(L @ y - b) <= 6 * 2 * EPS * np.abs(L) @ np.abs(y))
    values, vectors = jnp.linalg.eigh(S)
    assert np.all(np.diff(values) >= 0)  # ascending, where the spectral theorem counts down
    assert np.all(values > 0)
    assert np.linalg.norm(S @ vectors - vectors * values) < 50 * EPS * np.linalg.norm(S)
    assert np.linalg.norm(vectors.T @ vectors - np.eye(6)) < 50 * EPS
    P, low, up = jsl.lu(jnp.asarray(A))
    assert np.all(np.abs(low) <= 1)
    assert np.linalg.norm(P @ low @ up - A) < 50 * EPS * np.linalg.norm(A)
    np.testing.assert_allclose(up, scipy.linalg.lu(A)[2], atol=1e-13)
    assert float(jnp.linalg.det(P) * jnp.prod(jnp.diag(up))) == pytest.approx(np.linalg.det(A))
    zero_minor = np.array([[0.0, 1.0], [1.0, 0.0]])  # no LU without pivoting
    P, low, up = jsl.lu(jnp.asarray(zero_minor))
    np.testing.assert_array_equal(P @ low @ up, zero_minor)


@pytest.mark.covers("conjugate-gradient", "lsmr")
def test_krylov_solvers(x64):
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    S = (Q * np.repeat([1.0, 3.0, 10.0], [3, 3, 2])) @ Q.T  # three distinct eigenvalues: three steps
    b = rng.normal(size=8)
    operator = lx.MatrixLinearOperator(jnp.asarray(S), lx.positive_semidefinite_tag)
    answer = lx.linear_solve(operator, jnp.asarray(b), lx.CG(1e-12, 0.0, stabilise_every=None))
    np.testing.assert_allclose(answer.value, np.linalg.solve(S, b), rtol=1e-9)
    assert int(answer.stats["num_steps"]) <= 4  # the step that sees convergence counts
    np.testing.assert_allclose(jax.scipy.sparse.linalg.cg(jnp.asarray(S), b, tol=1e-12)[0], answer.value, rtol=1e-9)
    A, y = rng.normal(size=(9, 4)), rng.normal(size=9)
    ours = lx.linear_solve(lx.MatrixLinearOperator(jnp.asarray(A)), jnp.asarray(y), lx.LSMR(1e-12, 1e-12)).value
    np.testing.assert_allclose(ours, scipy.sparse.linalg.lsmr(A, y, atol=1e-13, btol=1e-13)[0], rtol=1e-8)
    np.testing.assert_allclose(ours, scipy.sparse.linalg.lsqr(A, y, atol=1e-13, btol=1e-13)[0], rtol=1e-8)
