"""Ridge, its views, leave-one-out and the diagnostics that share its factorisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.test_util
import mpmath
import numpy as np
import pytest
import scipy.sparse
import statsmodels.api as sm
from sklearn import linear_model as peers
from statsmodels.stats.outliers_influence import OLSInfluence

from corollary.core import InputError
from corollary.linear import (
    deletion_effects,
    effective_dof,
    hat_matrix,
    leave_one_out,
    leverages,
    ols,
    ridge,
    ridge_augmentation,
    ridge_conditioning,
    ridge_cv,
)
from tests.linear.test_ols import problem, with_condition

SHAPES = [(30, 5), (20, 20), (21, 20), (10, 30)]
CASES = [*((np.asarray, s) for s in SHAPES), (jnp.asarray, (30, 5)), (jnp.asarray, (10, 30))]


@pytest.mark.covers("ridge")
@pytest.mark.parametrize("solver", ["auto", "normal", "svd", "dual"])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize(("to", "shape"), CASES)
def test_agrees_with_scikit_learn_by_every_form(to, shape, fit_intercept, solver, dtype):
    X, Y, w = (a.astype(dtype) for a in problem(1, *shape, k=2))
    alphas = np.array([0.1, 3.0], dtype)
    solution = ridge(to(X), to(Y), to(alphas), sample_weight=to(w), fit_intercept=fit_intercept, solver=solver)
    assert solution.holds
    eps = float(np.finfo(dtype).eps)
    for i, alpha in enumerate(alphas):
        peer = peers.Ridge(alpha=float(alpha), fit_intercept=fit_intercept, solver="svd")
        peer.fit(X.astype(float), Y.astype(float), w.astype(float))
        kappa = np.linalg.norm(X, 2) ** 2 / alpha
        np.testing.assert_allclose(
            solution.value.coef[i], peer.coef_.T, atol=60 * eps * kappa * np.abs(peer.coef_).max()
        )
        intercept = np.broadcast_to(peer.intercept_, 2)
        np.testing.assert_allclose(
            solution.value.intercept[i], intercept, atol=200 * eps * kappa * (1 + abs(intercept).max())
        )


@pytest.mark.covers("ridge")
def test_limits_monotonicity_dual_and_bayes():
    X, y, _ = problem(2, 12, 20)
    alphas = np.geomspace(1e-8, 1e4, 13)
    path = ridge(X, y, alphas, fit_intercept=False).value
    norms = np.linalg.norm(path.coef, axis=1)
    assert (np.diff(norms) < 0).all()  # the norm falls as alpha grows
    np.testing.assert_allclose(path.coef[0], np.linalg.pinv(X) @ y, atol=1e-7)  # alpha → 0: X⁺ y
    np.testing.assert_allclose(ridge(X, y, 0.0, fit_intercept=False).value.coef, np.linalg.pinv(X) @ y, atol=1e-12)
    dual = X.T @ np.linalg.solve(X @ X.T + 0.5 * np.eye(12), y)
    np.testing.assert_allclose(ridge(X, y, 0.5, fit_intercept=False).value.coef, dual, atol=1e-12)
    # Gaussian prior N(0, τ²), noise σ²: the posterior mean (= mode) is ridge with α = σ²/τ²
    sigma2, tau2 = 0.7, 2.0
    posterior = tau2 * X.T @ np.linalg.solve(tau2 * X @ X.T + sigma2 * np.eye(12), y)
    np.testing.assert_allclose(ridge(X, y, sigma2 / tau2, fit_intercept=False).value.coef, posterior, atol=1e-12)


@pytest.mark.covers("ridge")
def test_the_mean_loss_convention_per_target_penalties_and_gcv():
    X, Y, _ = problem(3, 30, 4, k=2)
    n, lam = 30, 0.2
    fit = ridge(X, Y, n * lam, fit_intercept=False).value
    gradient = 2 / n * X.T @ (X @ fit.coef - Y) + 2 * lam * fit.coef
    assert np.abs(gradient).max() < 1e-12
    both = ridge(X, Y, np.array([[0.1, 5.0]])).value
    for j, alpha in enumerate((0.1, 5.0)):
        np.testing.assert_allclose(both.coef[0, :, j], ridge(X, Y[:, j], alpha).value.coef, rtol=1e-11)
    one = ridge(X, Y[:, 0], np.array([0.5, 2.0])).value
    np.testing.assert_allclose(one.effective_dof, effective_dof(X, np.array([0.5, 2.0])).value, rtol=1e-11)
    np.testing.assert_allclose(one.gcv, one.rss / n / (1 - one.effective_dof / n) ** 2, rtol=1e-12)
    np.testing.assert_allclose(one.predict(X)[1], ridge(X, Y[:, 0], 2.0).value.predict(X), rtol=1e-11)


@pytest.mark.covers("ridge")
def test_scale_sparse_gradients_and_no_recompilation(x64):
    X, y, w = problem(4, 20, 3)
    plain = ridge(X, y, 0.7).value.coef
    np.testing.assert_allclose(ridge(X * 1e140, y * 1e-130, 0.7e280).value.coef * 1e270, plain, rtol=1e-11)
    S = scipy.sparse.csr_array(X * (X > 2))
    np.testing.assert_allclose(
        ridge(S, y, 0.7, sample_weight=w).value.coef, ridge(S.toarray(), y, 0.7, sample_weight=w).value.coef, rtol=1e-10
    )
    wide = ridge(S.T.tocsr(), np.arange(3.0), 0.7).value.coef
    np.testing.assert_allclose(wide, ridge(S.toarray().T, np.arange(3.0), 0.7).value.coef, rtol=1e-10)
    traces = []

    @jax.jit
    def coef(X, y, alpha):
        traces.append(1)
        return ridge(X, y, alpha).value.coef

    np.testing.assert_allclose(coef(X, y, 0.7), plain, rtol=1e-11)
    coef(X, y, 0.9)
    assert len(traces) == 1
    jax.test_util.check_grads(
        coef, (jnp.asarray(X), jnp.asarray(y), jnp.asarray(0.7)), order=2, modes=["rev"], rtol=1e-4
    )
    same = jnp.eye(3) + 0.0  # equal singular values
    assert np.isfinite(
        jax.grad(lambda X: ridge(X, jnp.arange(3.0), 1.0, fit_intercept=False).value.coef.sum())(same)
    ).all()
    wide_X = jnp.asarray(X).T
    jax.test_util.check_grads(lambda X: coef(X, jnp.arange(3.0), 0.7), (wide_X,), order=1, modes=["rev"], rtol=1e-4)


@pytest.mark.covers("ridge-augmentation")
def test_ridge_is_least_squares_on_p_more_rows(dtype):
    X, y, _ = (a.astype(dtype) for a in problem(5, 30, 4))
    n, lam = 30, 0.1
    solution = ridge_augmentation(X, y, n * lam)
    more = solution.value
    assert more.X.shape == (30 + 4, 4)
    assert solution.holds
    eps = float(np.finfo(dtype).eps)
    for coef in (ols(more.X, more.y, fit_intercept=False).value.coef, more.coef):
        np.testing.assert_allclose(
            coef, ridge(X, y, n * lam, fit_intercept=False).value.coef, rtol=4e3 * eps, atol=4e3 * eps
        )
    for W in np.random.default_rng(0).standard_normal((5, 4)).astype(dtype):
        ours = np.sum((more.y - more.X @ W) ** 2)
        np.testing.assert_allclose(ours, np.sum((y - X @ W) ** 2) + n * lam * W @ W, rtol=1e2 * eps)


@pytest.mark.covers("ridge-conditioning")
def test_eigenvalues_full_rank_and_falling_condition(dtype):
    X, _, _ = problem(6, 5, 8)
    X = X.astype(dtype)
    alphas = np.array([1e-3, 1.0, 10.0], dtype)
    solution = ridge_conditioning(X, alphas)
    eps = float(np.finfo(dtype).eps)
    for i, alpha in enumerate(alphas):
        exact = np.linalg.eigvalsh(X.T.astype(float) @ X + alpha * np.eye(8))
        np.testing.assert_allclose(solution.value.eigenvalues[i], exact, atol=20 * eps * exact[-1])
        assert (solution.value.eigenvalues[i] >= alpha).all()  # full rank for every alpha > 0, rank 5 < 8 though it is
    assert (np.diff(solution.value.condition_number) < 0).all()
    assert solution.holds
    assert np.isinf(ridge_conditioning(np.zeros((3, 2)), 0.0).value.condition_number)


@pytest.mark.covers("ridge-conditioning")
def test_two_nearly_equal_columns():
    """X = [[1, 1+ε..]] with exact solution w = (−2/ε, 1)-like: ‖w‖ → ∞ as ε → 0 while ridge stays bounded."""
    lengths, tamed = [], []
    for epsilon in (1e-1, 1e-3, 1e-5):
        X = np.array([[epsilon, 0.0], [0.0, 1.0]])  # y = (−2, 1): w = (−2/ε, 1)
        y = np.array([-2.0, 1.0])
        w = ols(X, y, fit_intercept=False).value.coef
        np.testing.assert_allclose(w, [-2 / epsilon, 1.0], rtol=1e-12)
        lengths.append(np.linalg.norm(w))
        tamed.append(np.linalg.norm(ridge(X, y, 0.1, fit_intercept=False).value.coef))
    assert lengths[-1] > 1e5
    assert max(tamed) < 2 / (2 * np.sqrt(0.1)) + 1


def brute(X, Y, alpha, w, fit_intercept):
    out = []
    for i in range(len(X)):
        keep = np.arange(len(X)) != i
        fit = ridge(
            X[keep],
            Y[keep],
            alpha,
            sample_weight=None if w is None else w[keep],
            fit_intercept=fit_intercept,
            solver="svd",
        )
        out.append(Y[i] - fit.value.predict(X[i : i + 1])[0])
    return np.array(out)


@pytest.mark.covers("loocv")
@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize(("to", "shape"), CASES)
def test_leave_one_out_equals_refits(to, shape, fit_intercept, weighted, alpha, x64):
    X, Y, w = problem(7, *shape, k=2)
    w = w if weighted else None
    exact = brute(X, Y, alpha, w, fit_intercept)
    size = np.abs(exact).max()
    options = {"sample_weight": None if w is None else to(w), "fit_intercept": fit_intercept}
    solution = leave_one_out(to(X), to(Y), alpha, **options)
    assert solution.holds
    np.testing.assert_allclose(solution.value.residuals, exact, atol=1e-10 * size)
    np.testing.assert_allclose(solution.value.mse, np.average(exact**2, axis=0, weights=w), rtol=1e-9)
    e, h = Y - solution.value.fit.predict(to(X)), np.asarray(solution.value.leverages)
    inside = h < 1 - 1e-6
    shift = np.asarray(e - exact)  # ŷ⁻ⁱ − ŷ = −e h/(1 − h)
    np.testing.assert_allclose(shift[inside], (-e * h / np.where(inside, 1 - h, 1))[inside], atol=1e-7 * size)


@pytest.mark.covers("loocv")
@pytest.mark.parametrize(("kappa", "tol"), [(1e1, 1e-13), (1e6, 1e-10), (1e10, 1e-6)])
@pytest.mark.parametrize("alpha", [0.0, 1e-30])
def test_leave_one_out_of_ill_conditioned_designs_against_fifty_digits(kappa, tol, alpha):
    X, y = with_condition(kappa, n=24, p=4)
    y = X @ np.ones(4) + 0.1 * y
    solution = leave_one_out(X, y, alpha, fit_intercept=False)
    with mpmath.workdps(60):
        exact = []
        for i in range(24):
            keep = [j for j in range(24) if j != i]
            A, b = mpmath.matrix(X[keep].tolist()), mpmath.matrix(y[keep].tolist())
            w = mpmath.lu_solve(A.T * A + mpmath.mpf(alpha) * mpmath.eye(4), A.T * b)
            exact.append(float(y[i] - sum(mpmath.mpf(X[i, j]) * w[j] for j in range(4))))
    # Whatever the route, rounding X moves 1 − h by ε·κ: the error to expect of a row is ε·κ·|y|/(1 − h).
    error = np.abs(solution.value.residuals - exact) / np.abs(y).max()
    assert (error * (1 - solution.value.leverages)).max() <= tol
    assert str(solution.stats["solver"]).startswith("QR") == (kappa > 50)
    assert solution.holds


@pytest.mark.covers("loocv")
def test_a_row_that_fixes_a_coefficient_alone_and_one_without_weight():
    X, y, w = problem(8, 12, 3)
    X[:, 2] = 0
    X[4, 2] = 1.0  # leverage one
    np.testing.assert_allclose(leave_one_out(X, y).value.residuals, brute(X, y, 0.0, None, True), atol=1e-10)
    w[3] = 0
    np.testing.assert_allclose(
        leave_one_out(X, y, 0.5, sample_weight=w).value.residuals, brute(X, y, 0.5, w, True), atol=1e-10
    )
    with pytest.raises(InputError, match="one row"):
        leave_one_out(np.ones((1, 2)), np.ones(1))


@pytest.mark.covers("loocv")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("per_target", [False, True])
def test_ridge_cv_agrees_with_scikit_learn(per_target, weighted, dtype):
    X, Y, w = problem(9, 40, 6, k=3)
    w = w if weighted else None
    alphas = np.geomspace(0.01, 1e3, 7)
    peer = peers.RidgeCV(alphas, alpha_per_target=per_target).fit(X, Y, sample_weight=w)
    solution = ridge_cv(X.astype(dtype), Y.astype(dtype), alphas, sample_weight=w, per_target=per_target)
    rtol = 1e3 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(solution.value.alpha, peer.alpha_, rtol=rtol)
    np.testing.assert_allclose(solution.value.coef, peer.coef_.T, rtol=rtol, atol=rtol)
    assert solution.holds
    assert solution.value.coef.dtype == dtype


@pytest.mark.covers("hat-matrix")
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("shape", [(30, 5), (10, 30)])
def test_the_hat_matrix_is_a_projection(shape, fit_intercept, dtype):
    X, y, _ = (a.astype(dtype) for a in problem(10, *shape))
    eps = float(np.finfo(dtype).eps)
    for to in (np.asarray, jnp.asarray) if shape[0] > shape[1] else (np.asarray,):
        solution = hat_matrix(to(X), fit_intercept=fit_intercept)
        H = np.asarray(solution.value)
        A = np.column_stack([np.ones(len(X)), X]) if fit_intercept else X
        tol = 30 * eps * np.linalg.cond(A.astype(float))
        assert solution.holds
        np.testing.assert_allclose(H @ H, H, atol=tol)
        np.testing.assert_allclose(H, H.T, atol=tol)
        np.testing.assert_allclose(np.trace(H), np.linalg.matrix_rank(A), rtol=tol)
        assert (np.diag(H) >= (1 / len(X) if fit_intercept else 0) - tol).all()
        assert (np.diag(H) <= 1 + tol).all()
        np.testing.assert_allclose(np.diag(H), leverages(to(X), fit_intercept=fit_intercept).value, atol=tol)
        fitted = ols(to(X), to(y), fit_intercept=fit_intercept).value.predict(to(X))
        np.testing.assert_allclose(H @ y, fitted, atol=tol * np.abs(y).max())


@pytest.mark.covers("hat-matrix")
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_leverages_and_deletions_agree_with_statsmodels_and_refits(fit_intercept, x64):
    X, y, w = problem(11, 30, 4)
    A = sm.add_constant(X) if fit_intercept else X
    influence = OLSInfluence(sm.OLS(y, A).fit())
    np.testing.assert_allclose(leverages(X, fit_intercept=fit_intercept).value, influence.hat_matrix_diag, rtol=1e-11)
    out = deletion_effects(X, y, fit_intercept=fit_intercept)
    params = np.asarray(influence.params_not_obsi)
    i = int(fit_intercept)
    np.testing.assert_allclose(out.value.coef, params[:, i:], rtol=1e-9)
    assert out.holds
    if fit_intercept:
        np.testing.assert_allclose(out.value.intercept, params[:, 0], rtol=1e-9)
    for to, alpha in ((np.asarray, 0.0), (np.asarray, 2.0), (jnp.asarray, 2.0)):
        for a in (X, X.T[:, :3].repeat(2, 1) + np.eye(4, 6)):  # tall, and wide
            b, v = y[: len(a)], w[: len(a)]
            if alpha == 0 and a is not X:
                continue
            out = deletion_effects(to(a), to(b), alpha, sample_weight=to(v), fit_intercept=fit_intercept).value
            keep = np.arange(len(a)) != 2
            again = ridge(a[keep], b[keep], alpha, sample_weight=v[keep], fit_intercept=fit_intercept).value
            np.testing.assert_allclose(out.coef[2], again.coef, rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(out.intercept[2], again.intercept, rtol=1e-9, atol=1e-11)


@pytest.mark.covers("effective-dof")
def test_effective_degrees_of_freedom(dtype):
    X = problem(12, 30, 5)[0]
    X[:, 4] = X[:, 0]
    X = X.astype(dtype)
    eps = float(np.finfo(dtype).eps)
    alphas = np.array([0.0, 0.1, 1.0, 10.0], dtype)
    solution = effective_dof(X, alphas, fit_intercept=False)
    sigma = np.linalg.svd(X.astype(float), compute_uv=False)
    np.testing.assert_allclose(
        solution.value[1:], [(sigma**2 / (sigma**2 + a)).sum() for a in alphas[1:]], rtol=1e3 * eps
    )
    assert solution.value[0] == 4 == np.linalg.matrix_rank(X)  # the rank at α = 0
    assert (np.diff(solution.value) < 0).all()
    assert solution.holds
    assert effective_dof(X, 0.0).value == 5
    np.testing.assert_allclose(effective_dof(jnp.asarray(X), 1.0).value, effective_dof(X, 1.0).value, rtol=1e3 * eps)


@pytest.mark.covers("effective-dof")
def test_effective_degrees_of_freedom_are_covariances():
    """(1/σ²) Σ Cov(ŷ_i, y_i) by Monte Carlo: 4000 draws, within four standard errors."""
    X, alpha = problem(13, 20, 4)[0], 2.0
    noise = np.random.default_rng(0).standard_normal((20, 4000))
    fitted = X @ ridge(X, noise, alpha, fit_intercept=False).value.coef
    draws = (fitted * noise).sum(0)  # mean zero truth: its mean is Σ Cov
    stderr = draws.std() / np.sqrt(4000)
    assert abs(draws.mean() - effective_dof(X, alpha, fit_intercept=False).value) < 4 * stderr


@pytest.mark.parametrize("alpha", [-1.0, np.nan, "a", np.ones((2, 2, 2)), np.ones((2, 3)), np.array([])])
def test_alpha_is_checked(alpha):
    with pytest.raises(InputError, match="alpha"):
        ridge(np.ones((3, 1)), np.ones(3), alpha)
