"""`LinearRegression` and `Ridge`: scikit-learn's contract over `ols` and `ridge`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.estimator import Estimator
from corollary.core.solution import Solution
from corollary.core.validation import Check
from corollary.linear._ols import ols
from corollary.linear._ridge import ridge
from corollary.linear._spectrum import SOLVERS

AFFINE: dict[str, Any] = {"sparse": True, "multi_output": True, "ensure_all_finite": False}


class Affine(MultiOutputMixin, RegressorMixin, Estimator):
    """A regressor that predicts X β + b. In `fit`, NaN in X is found by the pass over X that is needed anyway."""

    coef_: Any
    intercept_: Any

    def predict(self, X: Any) -> np.ndarray:
        """X β + b, one product. Of shape (n,) or (n, n_targets)."""
        # A NaN or infinity in X shows in the product, unless its coefficient is 0: one pass over X is saved.
        check_is_fitted(self)
        X = self._new_data(X, sparse=True, ensure_all_finite=not np.all(self.coef_))
        coef = np.asarray(self.coef_, dtype=X.dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            out = np.asarray(X @ coef.T)
        if not np.isfinite(out).all():
            self._new_data(X, sparse=True)
        if np.any(self.intercept_):
            out += np.asarray(self.intercept_, dtype=out.dtype)
        return out

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _keep_affine(self, solution: Any, coef: Any, intercept: Any, **attributes: Any) -> None:
        coef, intercept = np.asarray(coef), np.asarray(intercept)
        coef_ = np.ascontiguousarray(coef.T) if coef.ndim == 2 else coef
        self._keep(solution, coef_=coef_, intercept_=intercept if intercept.ndim else intercept[()], **attributes)
        self.n_iter_ = max(int(np.max(solution.steps)), 1)


class LinearRegression(Affine):
    """Least squares, refined to the accuracy of float64 residuals; minimum norm where X is rank-deficient.

    Use it as scikit-learn's. O(n p²), two passes over X, which is neither copied nor densified.

    Parameters
    ----------
    fit_intercept : bool
    solver : {"auto", "normal", "svd", "dual"}
        See `corollary.linear.ols`.

    Attributes
    ----------
    coef_ : (n_features,) or (n_targets, n_features)
    intercept_ : float or (n_targets,)
    rank_ : int
        Of the centred X.
    certificates_ : dict
        ``normal_equations`` and ``backward_error``, see `corollary.linear.ols`.

    Examples
    --------
    >>> import numpy as np
    >>> model = LinearRegression().fit(np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0]))
    >>> np.round(model.predict(np.array([[3.0]])), 9).tolist()
    [7.0]
    """

    _settings: ClassVar[dict[str, Check]] = {"fit_intercept": validation.flag, "solver": validation.one_of(*SOLVERS)}

    def __init__(self, *, fit_intercept: Any = True, solver: Any = "auto"):
        self.fit_intercept = fit_intercept
        self.solver = solver

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LinearRegression:
        """Fit to X (n, p), dense or sparse, and y (n,) or (n, k), with weights (n,)."""
        with self._fitting():
            X, y, sample_weight = self._training_data(X, y, sample_weight, **AFFINE)
            solution = ols(
                X,
                y,
                sample_weight=sample_weight,
                fit_intercept=self.fit_intercept,
                solver=self.solver,
                covariance=False,
            )
            value = solution.value
            self._keep_affine(without_value(solution), value.coef, value.intercept, rank_=int(value.rank))
        return self


class Ridge(Affine):
    """Ridge regression: least squares with the penalty α‖β‖², the intercept free of it.

    Use it where columns are nearly dependent or outnumber the rows. O(n p min(n, p)).

    Parameters
    ----------
    alpha : float or (n_targets,)
        ≥ 0; per target where an array.
    fit_intercept : bool
    solver : {"auto", "normal", "svd", "dual"}
        See `corollary.linear.ridge`.

    Attributes
    ----------
    coef_ : (n_features,) or (n_targets, n_features)
    intercept_ : float or (n_targets,)
    effective_dof_ : float or (n_targets,)
    certificates_ : dict
        ``gradient`` and ``duality_gap``, see `corollary.linear.ridge`.

    Examples
    --------
    >>> import numpy as np
    >>> model = Ridge(alpha=2.0).fit(np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0]))
    >>> np.round(model.coef_, 9).tolist(), round(float(model.intercept_), 9)
    ([1.0], 2.0)
    """

    _settings: ClassVar[dict[str, Check]] = {"fit_intercept": validation.flag, "solver": validation.one_of(*SOLVERS)}

    def __init__(self, alpha: Any = 1.0, *, fit_intercept: Any = True, solver: Any = "auto"):
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.solver = solver

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Ridge:
        """Fit to X (n, p), dense or sparse, and y (n,) or (n, k), with weights (n,)."""
        with self._fitting():
            alpha = checked_penalty(self.alpha)
            X, y, sample_weight = self._training_data(X, y, sample_weight, **AFFINE)
            if alpha.ndim and alpha.size not in (1, 1 if y.ndim == 1 else y.shape[1]):
                raise InputError(f"alpha: found {alpha.size} values, expected one, or one per target")
            many = alpha.size > 1
            alpha = alpha[None, :] if many else alpha.reshape(())
            solution = ridge(
                X, y, alpha, sample_weight=sample_weight, fit_intercept=self.fit_intercept, solver=self.solver
            )
            value = solution.value
            coef, intercept, dof = (a[0] if many else a for a in (value.coef, value.intercept, value.effective_dof))
            self._keep_affine(without_value(solution), coef, intercept, effective_dof_=dof)
        return self


def checked_penalty(alpha: Any) -> np.ndarray:
    try:
        out = np.asarray(alpha)
    except (TypeError, ValueError) as error:
        raise InputError(f"alpha: found {alpha!r}, expected numbers >= 0") from error
    if out.dtype.kind not in "iuf":
        raise InputError(f"alpha: found {alpha!r}, expected numbers >= 0")
    out = out.astype(np.float64)
    if out.ndim > 1 or out.size == 0 or not (np.isfinite(out) & (out >= 0)).all():
        raise InputError(f"alpha: found {alpha!r}, expected one finite number >= 0, or one per target")
    return out


def without_value(solution: Solution) -> Solution:
    """The solution without its value, which the estimator keeps under scikit-learn's names."""
    return Solution(None, solution.certificates, solution.status, solution.steps, solution.stats)
