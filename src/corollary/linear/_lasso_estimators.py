"""scikit-learn estimators of the Lasso family: `Lasso`, `ElasticNet`, `LassoCV`, `ElasticNetCV`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin

from corollary.core import validation
from corollary.core.estimator import Estimator
from corollary.core.validation import Check
from corollary.linear._lasso import lasso
from corollary.linear._lasso_cv import lasso_cv

_COMMON: dict[str, Check] = {
    "fit_intercept": validation.flag,
    "positive": validation.flag,
    "tol": validation.number(0),
    "max_iter": validation.integer(1),
}


class _Penalised(RegressorMixin, Estimator):
    """What the family shares: sparse input, prediction, and the fit at one penalty."""

    alpha: Any
    fit_intercept: Any
    positive: Any
    tol: Any
    max_iter: Any
    warm_start: Any
    alphas: Any
    cv: Any
    coef_: np.ndarray
    intercept_: Any

    def predict(self, X: Any) -> np.ndarray:
        """Predictions Xw + b, one row per sample.

        Parameters
        ----------
        X : (n, p), dense or sparse
        """
        X = self._new_data(X, sparse=True)
        return np.asarray(X @ self.coef_.T.astype(X.dtype) + np.asarray(self.intercept_, dtype=X.dtype))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _select(self, X: Any, y: Any, weight: Any, l1_ratio: Any) -> None:
        settings = {name: getattr(self, name) for name in ("n_alphas", "eps", "fit_intercept", "positive", "tol")}
        solution = lasso_cv(
            X,
            y,
            self.alphas,
            l1_ratio=l1_ratio,
            cv=5 if self.cv is None else self.cv,
            sample_weight=weight,
            max_steps=self.max_iter,
            **settings,
        )
        fit = solution.value
        single = len(fit.l1_ratios) == 1
        self._keep(
            solution,
            alpha_=float(fit.best.alpha),
            alphas_=fit.alphas[0] if single else fit.alphas,
            mse_path_=fit.mse[0] if single else fit.mse,
            coef_=fit.best.coef,
            intercept_=fit.best.intercept,
            dual_gap_=solution.certificates["duality_gap"].measured,
            n_iter_=max(1, int(solution.steps)),
        )

    def _fit_penalty(self, X: Any, y: Any, sample_weight: Any, l1_ratio: Any) -> Any:
        with self._fitting():
            X, y, weight = self._training_data(X, y, sample_weight, sparse=True, multi_output=True)
            old = getattr(self, "coef_", None) if self.warm_start else None
            start = old.T if old is not None and old.T.shape == (X.shape[1], *y.shape[1:]) else None
            solution = lasso(
                X,
                y,
                self.alpha,
                l1_ratio=l1_ratio,
                sample_weight=weight,
                fit_intercept=self.fit_intercept,
                positive=self.positive,
                tol=self.tol,
                max_steps=self.max_iter,
                init=start,
                history=True,
            )
            fit = solution.value
            self._keep(
                solution,
                coef_=fit.coef.T.copy(),
                intercept_=fit.intercept,
                dual_gap_=solution.certificates["duality_gap"].measured,
                sparsity_=solution.stats["support"],
                n_iter_=max(1, int(np.max(solution.steps))),
            )
        return self


class ElasticNet(MultiOutputMixin, _Penalised):
    """Elastic net: 1/(2n) ‖y − Xw − b‖² + alpha (l1_ratio ‖w‖₁ + ½(1 − l1_ratio) ‖w‖²), fitted to an exact duality
    gap.

    Use it for many, correlated features; `l1_ratio` = 1 is the `Lasso`. Cost and method: see `lasso`.

    Parameters
    ----------
    alpha
        Strength of the penalty.
    l1_ratio
        Share of the l1 norm: 1 is the Lasso, 0 ridge.
    fit_intercept, positive
        An unpenalised constant; coefficients ≥ 0 only.
    tol
        Duality gap at most ``tol · ‖y‖²/n``.
    max_iter
        Outer steps of the working-set method.
    warm_start
        Start `fit` from the coefficients of the last one.

    Attributes
    ----------
    coef_ : (p,) or (k, p)
    intercept_ : float or (k,)
    sparsity_ : int or (k,)
        Features used.
    dual_gap_ : float or (k,)
    n_iter_ : int
    certificates_ : dict
        ``duality_gap`` and ``kkt``, both exact.

    References
    ----------
    Zou & Hastie (2005).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 8))
    >>> model = ElasticNet(alpha=0.1).fit(X, X[:, 0] + X[:, 1])
    >>> model.score(X, X[:, 0] + X[:, 1]) > 0.9, bool(model.certificates_["duality_gap"].holds)
    (True, True)
    """

    _settings: ClassVar[dict[str, Check]] = {
        "alpha": validation.number(0),
        "l1_ratio": validation.number(0, 1),
        "warm_start": validation.flag,
        **_COMMON,
    }

    def __init__(
        self,
        alpha: Any = 1.0,
        l1_ratio: Any = 0.5,
        fit_intercept: Any = True,
        positive: Any = False,
        tol: Any = 1e-6,
        max_iter: Any = 100,
        warm_start: Any = False,
    ):
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.positive = positive
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Learn coefficients.

        Parameters
        ----------
        X : (n, p), dense or sparse
        y : (n,) or (n, k)
        sample_weight : (n,), optional
        """
        return self._fit_penalty(X, y, sample_weight, self.l1_ratio)


class Lasso(MultiOutputMixin, _Penalised):
    """Lasso: 1/(2n) ‖y − Xw − b‖² + alpha ‖w‖₁, fitted to an exact duality gap.

    Use it where few of many features matter. Cost and method: see `lasso`.

    Parameters
    ----------
    alpha
        Strength of the penalty; from `alpha_max` on, all coefficients are zero.
    fit_intercept, positive, tol, max_iter, warm_start
        As in `ElasticNet`.

    Attributes
    ----------
    coef_, intercept_, sparsity_, dual_gap_, n_iter_, certificates_
        As in `ElasticNet`.

    References
    ----------
    Tibshirani (1996).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 8))
    >>> model = Lasso(alpha=0.1).fit(X, 2 * X[:, 0])
    >>> int(model.sparsity_), bool(model.certificates_["duality_gap"].holds)
    (1, True)
    """

    _settings: ClassVar[dict[str, Check]] = {
        "alpha": validation.number(0),
        "warm_start": validation.flag,
        **_COMMON,
    }

    def __init__(
        self,
        alpha: Any = 1.0,
        fit_intercept: Any = True,
        positive: Any = False,
        tol: Any = 1e-6,
        max_iter: Any = 100,
        warm_start: Any = False,
    ):
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.positive = positive
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Learn coefficients.

        Parameters
        ----------
        X : (n, p), dense or sparse
        y : (n,) or (n, k)
        sample_weight : (n,), optional
        """
        return self._fit_penalty(X, y, sample_weight, 1.0)


class LassoCV(_Penalised):
    """Lasso with alpha chosen by cross-validation, folds and alphas solved together.

    Use it to predict from few of many features. Cost: see `lasso_cv`.

    Parameters
    ----------
    alphas
        The grid: None for the default one of `n_alphas` points, or an array.
    n_alphas, eps
        Size and span of the default grid.
    cv
        None (five folds), a number of folds, a splitter, or a list of (train, test) indices.
    fit_intercept, positive, tol, max_iter
        As in `ElasticNet`.

    Attributes
    ----------
    alpha_ : float
        Chosen by the least cross-validated error.
    alphas_, mse_path_
        The grid, and the errors per point and fold.
    coef_, intercept_, dual_gap_, n_iter_
        Of the fit on all rows.
    certificates_ : dict
        ``duality_gap``, ``kkt`` and ``fold_duality_gap``, all exact.

    References
    ----------
    Hastie, Tibshirani & Friedman, *The Elements of Statistical Learning*, 2nd ed., section 7.10.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((80, 6))
    >>> model = LassoCV(n_alphas=20).fit(X, 3 * X[:, 0])
    >>> model.score(X, 3 * X[:, 0]) > 0.99, bool(model.certificates_["duality_gap"].holds)
    (True, True)
    """

    _settings: ClassVar[dict[str, Check]] = {
        "n_alphas": validation.integer(1),
        "eps": validation.number(0, 1, open_low=True),
        **_COMMON,
    }

    def __init__(
        self,
        alphas: Any = None,
        n_alphas: Any = 100,
        eps: Any = 1e-3,
        cv: Any = None,
        fit_intercept: Any = True,
        positive: Any = False,
        tol: Any = 1e-6,
        max_iter: Any = 100,
    ):
        self.alphas = alphas
        self.n_alphas = n_alphas
        self.eps = eps
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.positive = positive
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Choose the penalty by cross-validation, then learn coefficients from all rows.

        Parameters
        ----------
        X : (n, p), dense or sparse
        y : (n,)
        sample_weight : (n,), optional
        """
        with self._fitting():
            X, y, weight = self._training_data(X, y, sample_weight, sparse=True)
            self._select(X, y, weight, 1.0)
        return self


class ElasticNetCV(_Penalised):
    """Elastic net with alpha and l1_ratio chosen by cross-validation.

    Use it for correlated features where the share of the l1 norm is not known. Cost: see `lasso_cv`.

    Parameters
    ----------
    l1_ratio
        One share of the l1 norm, or several to choose from.
    alphas
        The grid: None for the default one of `n_alphas` points, or an array.
    n_alphas, eps
        Size and span of the default grid.
    cv
        None (five folds), a number of folds, a splitter, or a list of (train, test) indices.
    fit_intercept, positive, tol, max_iter
        As in `ElasticNet`.

    Attributes
    ----------
    alpha_ : float
        Chosen by the least cross-validated error (`l1_ratio_` too).
    alphas_, mse_path_
        The grid, and the errors per point and fold.
    coef_, intercept_, dual_gap_, n_iter_
        Of the fit on all rows.
    certificates_ : dict
        ``duality_gap``, ``kkt`` and ``fold_duality_gap``, all exact.

    References
    ----------
    Hastie, Tibshirani & Friedman, *The Elements of Statistical Learning*, 2nd ed., section 7.10.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((80, 6))
    >>> model = ElasticNetCV(n_alphas=20).fit(X, 3 * X[:, 0])
    >>> model.score(X, 3 * X[:, 0]) > 0.99, bool(model.certificates_["duality_gap"].holds)
    (True, True)
    """

    _settings: ClassVar[dict[str, Check]] = {
        "n_alphas": validation.integer(1),
        "eps": validation.number(0, 1, open_low=True),
        **_COMMON,
    }

    def __init__(
        self,
        l1_ratio: Any = 0.5,
        alphas: Any = None,
        n_alphas: Any = 100,
        eps: Any = 1e-3,
        cv: Any = None,
        fit_intercept: Any = True,
        positive: Any = False,
        tol: Any = 1e-6,
        max_iter: Any = 100,
    ):
        self.l1_ratio = l1_ratio
        self.alphas = alphas
        self.n_alphas = n_alphas
        self.eps = eps
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.positive = positive
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Choose the penalty by cross-validation, then learn coefficients from all rows.

        Parameters
        ----------
        X : (n, p), dense or sparse
        y : (n,)
        sample_weight : (n,), optional
        """
        with self._fitting():
            X, y, weight = self._training_data(X, y, sample_weight, sparse=True)
            self._select(X, y, weight, self.l1_ratio)
            self.l1_ratio_ = float(self.solution_.value.best.l1_ratio)
        return self
