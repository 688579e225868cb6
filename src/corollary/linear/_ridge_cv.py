"""`ridge_cv` and `RidgeCV`: the penalty chosen by exact leave-one-out, for every alpha from one factorisation."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import check_scoring
from sklearn.model_selection import GridSearchCV

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.core.validation import Check
from corollary.linear import _spectrum
from corollary.linear._leave_one_out import loo_certificates, loo_parts
from corollary.linear._linear_regression import AFFINE, Affine, Ridge, checked_penalty, without_value
from corollary.linear._ridge import ridge_certificates, ridge_fit

Numbers = Float[Array | np.ndarray, "..."] | np.floating | float


class RidgeCVFit(eqx.Module):
    """The ridge fit at the best alpha, and how each alpha scored.

    Attributes
    ----------
    coef, intercept
        As in `RidgeFit`, at the chosen alpha.
    alpha
        The chosen one: (), or (k,) with ``per_target``.
    mse
        Weighted mean squared leave-one-out error of each alpha: (m,), or (m, k) with ``per_target``.
    residuals
        Leave-one-out residuals, (m, n) or (m, n, k).
    best
        Index of the chosen alpha.
    """

    coef: Numbers
    intercept: Numbers
    alpha: Numbers
    mse: Numbers
    residuals: Numbers
    best: Int[Array | np.ndarray, "..."] | np.integer | int


@follows_input
def ridge_cv(
    X: Any,
    y: Any,
    alphas: Any,
    *,
    sample_weight: Any = None,
    fit_intercept: bool = True,
    per_target: bool = False,
    solver: str = "auto",
) -> Solution:
    """Ridge regression with the penalty that minimises the exact leave-one-out error.

    Use it to choose alpha without random splits. O(n p min(n, p)) for the factor, O(n p) for each alpha.

    Parameters
    ----------
    X : (n, p)
        NumPy, SciPy sparse or JAX.
    y : (n,) or (n, k)
    alphas : (m,)
        Candidates > 0.
    sample_weight : (n,), optional
        Weighs both the fits and the squared errors.
    fit_intercept, solver
        See `ridge`. ``"auto"`` takes the Gram matrix only where its error, eps·λ_max/(λ_min + α_min), is below eps^0.7.
    per_target
        Choose an alpha for each column of y.

    Returns
    -------
    Solution
        ``value`` is a `RidgeCVFit`. Certificates: ``leverage_sum``, ``rounding`` (see `leave_one_out`), ``gradient``
        and ``duality_gap`` (see `ridge`) at the chosen alpha.

    Raises
    ------
    InputError
        As `ridge`; also for fewer than two rows or an alpha that is not positive.

    References
    ----------
    Rifkin & Lippert (2007), §4; Allen (1974).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> fit = ridge_cv(X, np.array([0.1, 0.9, 2.1, 2.9]), np.array([0.01, 1.0, 100.0]))
    >>> float(fit.value.alpha), np.round(fit.value.mse, 3).tolist()
    (0.01, [0.023, 0.182, 1.968])
    """
    validation.flag("per_target", per_target)
    rows, spectrum, alphas, flat, residual, leverage = loo_parts(X, y, alphas, sample_weight, fit_intercept, solver)
    xp = rows.xp
    if alphas.ndim != 1:
        raise InputError(f"alphas: found shape {alphas.shape}, expected a vector")
    residual = residual.reshape(rows.n, -1, rows.k)  # rows, alphas, targets
    weights = xp.ones(rows.n, residual.dtype) if rows.weights is None else rows.weights
    mse = xp.tensordot(weights, residual**2, 1) / rows.total
    mse = mse if per_target else xp.mean(mse, axis=1)
    best = xp.argmin(mse, axis=0)
    chosen = alphas[best]
    final = xp.broadcast_to(chosen, (rows.k,)) * rows.scale**2
    fit = _spectrum.solve(rows, spectrum, final)
    value = ridge_fit(rows, spectrum, fit, chosen.reshape(()) if not per_target else chosen[None, :], final)
    coef, intercept = (value.coef[0], value.intercept[0]) if per_target else (value.coef, value.intercept)
    residual = xp.moveaxis(residual, 1, 0)
    residual = residual[..., 0] if rows.one_target else residual
    if per_target and rows.one_target:
        mse, best, chosen = mse[:, 0], best[0], chosen[0]
    out = RidgeCVFit(
        coef, intercept, chosen.astype(rows.dtype), mse.astype(rows.dtype), residual.astype(rows.dtype), best
    )
    certificates = {**loo_certificates(rows, spectrum, flat, leverage), **ridge_certificates(rows, fit, final)}
    stats = {"solver": spectrum.route, "reason": spectrum.reason, "refinements": fit.refinements}
    return Solution(out, certificates, stats=stats)


class RidgeCV(Affine):
    """Ridge regression with its penalty chosen by exact leave-one-out (or by `cv` folds).

    Use it as scikit-learn's. All alphas come from one factorisation: O(n p min(n, p)) and O(n p) per alpha.

    Parameters
    ----------
    alphas : (n_alphas,)
        Candidates > 0.
    fit_intercept : bool
    scoring : str, callable or None
        None: negative mean squared error (with `cv`: R², as scikit-learn).
    cv : int, splitter, iterable or None
        None: leave-one-out.
    store_cv_results : bool
        Keep `cv_results_`: squared errors (predictions where `scoring` is given), of shape (n, n_alphas) or
        (n, n_targets, n_alphas).
    alpha_per_target : bool
        One alpha for each target.
    solver : {"auto", "normal", "svd", "dual"}
        See `corollary.linear.ridge_cv`.

    Attributes
    ----------
    alpha_, best_score_ : float or (n_targets,)
    coef_ : (n_features,) or (n_targets, n_features)
    intercept_ : float or (n_targets,)
    certificates_ : dict
        See `corollary.linear.ridge_cv`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> model = RidgeCV(alphas=(0.01, 1.0)).fit(X, np.array([0.1, 0.9, 2.1, 2.9]))
    >>> float(model.alpha_), round(float(model.best_score_), 4)
    (0.01, -0.0225)
    """

    _settings: ClassVar[dict[str, Check]] = {
        "fit_intercept": validation.flag,
        "store_cv_results": validation.flag,
        "alpha_per_target": validation.flag,
        "solver": validation.one_of(*_spectrum.SOLVERS),
    }

    def __init__(
        self,
        alphas: Any = (0.1, 1.0, 10.0),
        *,
        fit_intercept: Any = True,
        scoring: Any = None,
        cv: Any = None,
        store_cv_results: Any = False,
        alpha_per_target: Any = False,
        solver: Any = "auto",
    ):
        self.alphas = alphas
        self.fit_intercept = fit_intercept
        self.scoring = scoring
        self.cv = cv
        self.store_cv_results = store_cv_results
        self.alpha_per_target = alpha_per_target
        self.solver = solver

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> RidgeCV:
        """Fit to X (n, p), dense or sparse, and y (n,) or (n, k), with weights (n,)."""
        with self._fitting():
            alphas = np.atleast_1d(checked_penalty(self.alphas))
            if self.cv is None and not (alphas > 0).all():
                raise InputError(f"alphas: found {alphas.min():g}, expected numbers > 0 for leave-one-out")
            X, y, sample_weight = self._training_data(X, y, sample_weight, **AFFINE)
            if self.cv is not None:
                self._fit_folds(X, y, sample_weight, alphas)
            else:
                self._fit_leave_one_out(X, y, sample_weight, alphas)
        return self

    def _fit_leave_one_out(self, X: Any, y: Any, sample_weight: Any, alphas: np.ndarray) -> None:
        per_target = self.alpha_per_target and y.ndim == 2 and y.shape[1] > 1
        options: dict[str, Any] = {
            "sample_weight": sample_weight, "fit_intercept": self.fit_intercept, "solver": self.solver
        }  # fmt: skip
        solution = ridge_cv(X, y, alphas, per_target=per_target, **options)
        value, n = solution.value, X.shape[0]
        residual = np.asarray(value.residuals)
        if self.scoring is None:
            mass = n if sample_weight is None else float(np.sum(sample_weight, dtype=np.float64))
            scores = -np.asarray(value.mse) * (mass / n)  # scikit-learn's: weighted errors over the count of rows
            kept = residual**2 if sample_weight is None else residual**2 * _beside(sample_weight, residual)
        else:
            scorer: Any = check_scoring(_Identity(), scoring=self.scoring)
            kept = y[None] - residual
            columns = [kept[..., j] for j in range(y.shape[1])] if per_target else [kept]
            targets = [y[:, j] for j in range(y.shape[1])] if per_target else [y]
            weighted = {} if sample_weight is None else {"sample_weight": sample_weight}
            scores = np.array(
                [[scorer(_Identity(), c, t, **weighted) for c in cs] for cs, t in zip(columns, targets, strict=True)],
                np.float64,
            ).T
            scores = scores if per_target else scores[:, 0]
            best = np.argmax(scores, axis=0)
            chosen = alphas[best]
            refit = Ridge(
                alpha=chosen if per_target else float(chosen), fit_intercept=self.fit_intercept, solver=self.solver
            )
            refit.fit(X, y, sample_weight)
            self._keep(refit.solution_, alpha_=chosen, best_score_=np.max(scores, axis=0))
            self.coef_, self.intercept_, self.n_iter_ = refit.coef_, refit.intercept_, refit.n_iter_
            loo = {name: solution.certificates[name] for name in ("leverage_sum", "rounding")}
            self.certificates_ = {**loo, **refit.certificates_}
        if self.scoring is None:
            self._keep_affine(
                without_value(solution),
                value.coef,
                value.intercept,
                alpha_=value.alpha,
                best_score_=np.max(scores, axis=0),
            )
        if self.store_cv_results:
            self.cv_results_ = np.moveaxis(kept, 0, -1)

    def _fit_folds(self, X: Any, y: Any, sample_weight: Any, alphas: np.ndarray) -> None:
        if self.store_cv_results or self.alpha_per_target:
            raise InputError("cv: found folds with store_cv_results or alpha_per_target, expected cv=None for those")
        ridge_at = Ridge(fit_intercept=self.fit_intercept, solver=self.solver)
        search: Any = GridSearchCV(ridge_at, {"alpha": alphas}, scoring=self.scoring, cv=self.cv)
        search.fit(X, y, **({} if sample_weight is None else {"sample_weight": sample_weight}))
        final = search.best_estimator_
        self._keep(final.solution_, alpha_=np.asarray(final.alpha)[()], best_score_=np.asarray(search.best_score_)[()])
        self.coef_, self.intercept_, self.n_iter_ = final.coef_, final.intercept_, final.n_iter_


class _Identity(RegressorMixin, BaseEstimator):
    """Predicts what it is given: lets a scikit-learn scorer score predictions."""

    def fit(self, X: Any, y: Any = None) -> _Identity:
        return self

    def predict(self, X: Any) -> Any:
        return X


def _beside(weights: np.ndarray, residual: np.ndarray) -> np.ndarray:
    return weights[None, :] if residual.ndim == 2 else weights[None, :, None]
