"""Least squares: theorems, oracles, bad input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
import scipy.sparse
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from corollary.core import InputError
from corollary.linear import ols


def problem(seed=0, n=60, p=5, k=None, mean=2.0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + mean
    y = X @ rng.standard_normal((p, k or 1)) + rng.standard_normal((n, k or 1)) + 1
    return X, (y if k else y[:, 0]), rng.uniform(0.5, 2, n)


def with_condition(kappa, n=40, p=5, seed=0):
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.standard_normal((n, p)))
    v, _ = np.linalg.qr(rng.standard_normal((p, p)))
    return u * np.geomspace(1, 1 / kappa, p) @ v.T, rng.standard_normal(n)


@pytest.mark.covers("ols")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("solver", ["auto", "normal", "svd", "dual"])
@pytest.mark.parametrize("to", [np.asarray, jnp.asarray])
def test_agrees_with_statsmodels(to, solver, fit_intercept, weighted, dtype):
    X, y, w = (a.astype(dtype) for a in problem())
    if not weighted:
        w = np.ones_like(w)
    solution = ols(to(X), to(y), sample_weight=to(w) if weighted else None, fit_intercept=fit_intercept, solver=solver)
    fit, i = solution.value, int(fit_intercept)
    A = sm.add_constant(X.astype(float)) if fit_intercept else X.astype(float)
    peer = sm.WLS(y.astype(float), A, weights=w.astype(float)).fit()
    rtol = 200 * float(np.finfo(dtype).eps) * np.linalg.cond(A)
    assert solution.holds
    np.testing.assert_allclose(fit.coef, peer.params[i:], rtol=rtol, atol=rtol)
    np.testing.assert_allclose(fit.stderr, peer.bse[i:], rtol=rtol)
    np.testing.assert_allclose(
        fit.covariance, peer.cov_params()[i:, i:], rtol=rtol, atol=rtol * peer.cov_params().max()
    )
    np.testing.assert_allclose(fit.r2, peer.rsquared, rtol=rtol)
    np.testing.assert_allclose(fit.rss, peer.ssr, rtol=rtol)
    np.testing.assert_allclose(fit.log_likelihood, peer.llf, rtol=rtol)
    np.testing.assert_allclose(fit.pvalues, peer.pvalues[i:], rtol=1e3 * rtol, atol=rtol)
    if fit_intercept:
        np.testing.assert_allclose(fit.intercept, peer.params[0], rtol=rtol, atol=rtol)
        np.testing.assert_allclose(fit.intercept_stderr, peer.bse[0], rtol=rtol)
    assert fit.coef.dtype == dtype


@pytest.mark.covers("ols")
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 12), st.integers(1, 12), st.booleans())
def test_the_residual_is_orthogonal_and_the_answer_minimal(seed, n, p, fit_intercept):
    X, y, _ = problem(seed, n, p)
    solution = ols(X, y, fit_intercept=fit_intercept)
    fit = solution.value
    A = np.column_stack([np.ones(n), X]) if fit_intercept else X
    r = y - fit.predict(X)
    assert solution.holds
    assert np.linalg.norm(A.T @ r) <= 1e-12 * np.linalg.norm(A) * (
        np.linalg.norm(y) + np.linalg.norm(A) * np.linalg.norm(fit.coef)
    )
    best = np.linalg.lstsq(A, y, rcond=None)[0]
    assert r @ r <= (y - A @ best) @ (y - A @ best) + 1e-12 * (y @ y) * np.linalg.cond(A)
    centred = X - X.mean(0) * fit_intercept
    shortest = np.linalg.pinv(centred, rcond=1e-12) @ (y - y.mean() * fit_intercept)
    np.testing.assert_allclose(fit.coef, shortest, atol=1e-11 * np.linalg.cond(A) ** 2 * (1 + np.abs(shortest).max()))


@pytest.mark.covers("ols")
def test_gradient_of_the_mean_loss_is_jaxs_and_vanishes(x64):
    X, Y, _ = problem(k=2)

    def loss(W):
        return jnp.mean(jnp.sum((X @ W - Y) ** 2, axis=1))

    fit = ols(X, Y, fit_intercept=False).value
    W = jnp.asarray(fit.coef) + 0.1
    np.testing.assert_allclose(jax.grad(loss)(W), 2 / len(X) * X.T @ (X @ W - Y), rtol=1e-12)  # the 1/n is kept
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(fit.coef)), fit.gradient, atol=1e-12)
    assert np.abs(fit.gradient).max() < 1e-12
    np.testing.assert_allclose(fit.loss.sum(), loss(fit.coef), rtol=1e-12)


@pytest.mark.covers("ols")
def test_gauss_markov():
    """Any other linear unbiased estimator C y (C X = I) has the larger covariance: C Cᵀ − (XᵀX)⁻¹ is PSD."""
    X, y, w = problem()
    best = ols(X, y, fit_intercept=False).value.unscaled_covariance
    other = np.linalg.solve(X.T @ (w[:, None] * X), X.T * w)
    np.testing.assert_allclose(other @ X, np.eye(5), atol=1e-12)
    assert np.linalg.eigvalsh(other @ other.T - best).min() >= -1e-14


@pytest.mark.covers("ols")
def test_a_line_agrees_with_polyfit_and_kappa_is_squared_in_the_normal_equations():
    X, y, _ = problem(p=1)
    fit = ols(X, y).value
    np.testing.assert_allclose([fit.coef[0], fit.intercept], np.polyfit(X[:, 0], y, 1), rtol=1e-11)
    A, _ = with_condition(1e3)
    np.testing.assert_allclose(np.linalg.cond(A.T @ A), np.linalg.cond(A) ** 2, rtol=1e-9)
    np.testing.assert_allclose(ols(A, A[:, 0], fit_intercept=False).stats["condition_number"], 1e3, rtol=1e-9)


@pytest.mark.parametrize("kappa", [1e2, 1e6, 1e10])
@pytest.mark.parametrize("covariance", [True, False])
def test_ill_conditioned_designs_take_a_route_that_keeps_the_digits(kappa, covariance):
    """Wedin: the error is at most κ·ε (+ κ²·ε·‖r‖); a consistent system shows the κ alone."""
    A, _ = with_condition(kappa)
    truth = np.ones(5)
    solution = ols(A, A @ truth, fit_intercept=False, covariance=covariance)
    assert solution.holds
    assert np.abs(solution.value.coef - truth).max() <= 100 * 2.2e-16 * kappa
    assert str(solution.stats["solver"]).startswith("QR") == (kappa > 1e5 if covariance else kappa > 1e7)


def test_a_named_solver_is_obeyed_and_says_when_it_fails():
    A, y = with_condition(1e10)
    solution = ols(A, y, fit_intercept=False, solver="normal")
    assert str(solution.stats["solver"]).startswith("normal")
    assert solution.value.rank < 5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rank_deficient_constant_and_duplicate_columns(dtype):
    X, y, _ = problem(n=30, p=3, mean=1e3)
    X = np.column_stack([X, X[:, 0], np.full(30, 0.1), np.zeros(30)]).astype(dtype)
    solution = ols(X, y.astype(dtype))
    fit = solution.value
    assert solution.holds
    assert int(fit.rank) == 3
    assert int(fit.dof_residual) == 26
    np.testing.assert_allclose(fit.coef[0], fit.coef[3], rtol=1e-4)  # the minimum-norm split
    assert np.all(fit.coef[4:] == 0)


def test_one_row_one_column_and_perfect_fit():
    fit = ols(np.array([[2.0]]), np.array([3.0]))
    assert fit.value.coef[0] == 0
    assert fit.value.intercept == 3
    assert fit.value.r2 == 1
    assert fit.holds
    fit = ols(np.array([[2.0]]), np.array([3.0]), fit_intercept=False)
    np.testing.assert_allclose(fit.value.coef, [1.5])
    assert fit.value.sigma2 == 0
    assert np.all(np.isfinite(fit.value.stderr))
    constant = ols(np.arange(4.0)[:, None], np.full(4, 7.0))
    assert constant.value.coef[0] == 0
    assert constant.value.r2 == 1


@pytest.mark.parametrize("a", [1e-150, 1e-60, 1e150])
@pytest.mark.parametrize("b", [1e-140, 1e140])
def test_scales(a, b):
    X, y, _ = problem()
    plain, scaled = ols(X, y).value, ols(X * a, y * b)
    np.testing.assert_allclose(scaled.value.coef / (b / a), plain.coef, rtol=1e-11)
    np.testing.assert_allclose(scaled.value.intercept / b, plain.intercept, rtol=1e-11)
    assert scaled.holds


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_sparse_equals_dense_and_integers_become_float64(fit_intercept):
    rng = np.random.default_rng(0)
    S = scipy.sparse.random_array((80, 6), density=0.3, rng=rng, format="csr")
    y, w = rng.standard_normal((80, 2)), rng.uniform(0, 1, 80)
    dense = ols(S.toarray(), y, sample_weight=w, fit_intercept=fit_intercept).value
    for solver in ("normal", "svd"):
        sparse = ols(S, y, sample_weight=w, fit_intercept=fit_intercept, solver=solver)
        np.testing.assert_allclose(sparse.value.coef, dense.coef, rtol=1e-10)
        np.testing.assert_allclose(sparse.value.intercept, dense.intercept, rtol=1e-10, atol=1e-13)
        assert sparse.holds
    whole = ols(np.array([[0], [1], [2]]), np.array([1, 3, 5])).value
    assert whole.coef.dtype == np.float64


def test_float32_data_with_a_large_mean_are_refined():
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((5000, 4)) + 1000).astype(np.float32)
    y = (X.astype(float) @ np.arange(4.0) + rng.standard_normal(5000)).astype(np.float32)
    exact = np.linalg.lstsq(np.column_stack([np.ones(5000), X.astype(float)]), y.astype(float), rcond=None)[0]
    solution = ols(X, y, covariance=False)
    assert solution.holds
    assert "float32" in str(solution.stats["solver"])
    np.testing.assert_allclose(solution.value.coef, exact[1:], atol=4e-7)


def test_jit_vmap_grad_and_no_recompilation(x64):
    X, y, w = (jnp.asarray(a) for a in problem(n=20, p=3))
    calls = []

    def coef(X, y, w):
        calls.append(1)
        return ols(X, y, sample_weight=w).value.coef

    fast = jax.jit(coef)
    np.testing.assert_allclose(fast(X, y, w), coef(X, y, w), rtol=1e-10)
    before = len(calls)
    fast(X + 1, y * 2, w)
    assert len(calls) == before
    batch = jax.vmap(coef, in_axes=(0, None, None))(jnp.stack([X, X**2]), y, w)
    np.testing.assert_allclose(batch[1], coef(X**2, y, w), rtol=1e-10)
    jax.test_util.check_grads(lambda X, y: fast(X, y, w), (X, y), order=2, modes=["rev"], rtol=1e-4)


@pytest.mark.parametrize(
    ("X", "y", "options", "named"),
    [
        (np.ones((3, 2)), np.ones(4), {}, "y"),
        (np.ones(3), np.ones(3), {}, "X"),
        (np.ones((0, 2)), np.ones(0), {}, "X"),
        (np.array([[1.0], [np.nan]]), np.ones(2), {}, "X"),
        (np.array([[1.0], [np.inf]]), np.ones(2), {"solver": "svd"}, "X"),
        (np.ones((2, 1)), np.array([1.0, np.nan]), {}, "y"),
        (np.ones((2, 1)), np.array(["a", "b"]), {}, "y"),
        (np.ones((2, 1), complex), np.ones(2), {}, "X"),
        (np.ones((2, 1)), np.ones(2), {"solver": "lu"}, "solver"),
        (np.ones((2, 1)), np.ones(2), {"sample_weight": np.array([-1.0, 1.0])}, "sample_weight"),
        (np.ones((2, 1)), np.ones(2), {"sample_weight": np.zeros(2)}, "sample_weight"),
        (np.ones((2, 1)), np.ones(2), {"sample_weight": np.ones(3)}, "sample_weight"),
    ],
)
def test_refusals(X, y, options, named):
    with pytest.raises(InputError, match=named):
        ols(X, y, **options)
