"""The estimator over `logistic_regression` and `softmax_regression`, with scikit-learn's conventions (C, l1_ratio)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import scipy.special
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.estimator import Estimator
from corollary.linear import _logistic as logistic


class LogisticRegression(ClassifierMixin, Estimator):
    """Logistic regression for two classes or more, L1, L2, elastic net or none, certified by its duality gap.

    Use it in place of scikit-learn's: the same objective, solved to a certified gap whatever the penalty.
    Minimises C Σ s_i loss_i + (1 − l1_ratio)/2 ‖W‖² + l1_ratio ‖W‖₁; the intercept is not penalised. Three classes and
    more take the softmax loss. Cost per step O(n (pk)²), for sparse X O(nnz k) per product; about six steps.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the penalty; ``np.inf`` for none.
    l1_ratio : float, default=0.0
        0 for L2, 1 for L1, between them the elastic net.
    fit_intercept : bool, default=True
        Whether there is an intercept.
    class_weight : dict or "balanced", default=None
        Weights per class, multiplied into ``sample_weight``.
    solver : {"auto", "newton-cholesky", "newton-cg", "prox-newton"}, default="auto"
        See `logistic_regression`.
    tol : float, default=1e-8
        Duality gap to reach, relative to the objective (plus rounding).
    max_iter : int, default=100
        Newton steps at most.
    warm_start : bool, default=False
        Start from the last fit where its classes and features are the same.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
    intercept_ : ndarray of shape (1,) or (n_classes,)
    classes_ : ndarray of shape (n_classes,)
    n_iter_ : ndarray of shape (1,)
    certificates_ : dict
        ``duality_gap``, ``stationarity`` and, without a penalty, ``finite_optimum``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression().fit(X, y)
    >>> round(model.score(X, y), 2), bool(model.certificates_["duality_gap"].holds)
    (0.97, True)
    """

    _settings: ClassVar[dict[str, validation.Check]] = {
        "C": validation.number(0, open_low=True),
        "l1_ratio": validation.number(0, 1),
        "fit_intercept": validation.flag,
        "solver": validation.one_of(*logistic.SOLVERS),
        "tol": validation.number(0),
        "max_iter": validation.integer(1),
        "warm_start": validation.flag,
    }

    def __init__(
        self,
        C: Any = 1.0,
        *,
        l1_ratio: Any = 0.0,
        fit_intercept: Any = True,
        class_weight: Any = None,
        solver: Any = "auto",
        tol: Any = 1e-8,
        max_iter: Any = 100,
        warm_start: Any = False,
    ):
        self.C = C
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LogisticRegression:
        """Fit to X of shape (n_samples, n_features), dense or sparse, and labels y of any type."""
        with self._fitting():
            X, y, weight = self._training_data(X, y, sample_weight, sparse=True)
            check_classification_targets(y)
            classes, labels = np.unique(y, return_inverse=True)
            present = len(classes) if weight is None else len(np.unique(labels[weight > 0]))
            if len(classes) < 2 or present < len(classes):
                raise InputError(
                    f"y: found {present} class{'' if present == 1 else 'es'} of positive weight among {len(classes)}, "
                    "expected 2 or more (with 1 class there is nothing to fit)"
                )
            if self.class_weight is not None:
                per_class = compute_class_weight(self.class_weight, classes=classes, y=y, sample_weight=weight)
                weight = (1 if weight is None else weight) * per_class.astype(X.dtype)[labels]
            total = len(y) if weight is None else float(np.sum(weight, dtype=np.float64))
            settings = {
                "alpha": 0.0 if np.isinf(self.C) else 1 / self.C / total,
                "l1_ratio": float(self.l1_ratio),
                "sample_weight": weight,
                "fit_intercept": self.fit_intercept,
                "init": self._last(classes, X),
                "solver": self.solver,
                "tol": self.tol,
                "max_steps": self.max_iter,
            }
            if len(classes) == 2:
                solution = logistic.logistic_regression(X, labels, **settings)
            else:
                solution = logistic.softmax_regression(X, labels, len(classes), **settings)
            model = solution.value
            self.classes_ = classes
            self.coef_ = np.atleast_2d(model.coef)
            self.intercept_ = np.atleast_1d(model.intercept)
            self.n_iter_ = np.atleast_1d(np.asarray(solution.steps, np.int32))
            self._keep(logistic.without_value(solution))
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Log-odds of ``classes_[1]``, shape (n,), or the logits (n, n_classes)."""
        X = self._new_data(X, sparse=True)
        Z = X @ self.coef_.T.astype(X.dtype) + self.intercept_.astype(X.dtype)
        return Z.ravel() if Z.shape[1] == 1 else Z

    def predict(self, X: Any) -> np.ndarray:
        """The likelier class of every row."""
        Z = self.decision_function(X)
        return self.classes_[(Z > 0).astype(int) if Z.ndim == 1 else Z.argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of shape (n, n_classes), stable at any logit."""
        Z = self.decision_function(X)
        return scipy.special.softmax(Z, axis=1) if Z.ndim == 2 else scipy.special.expit(np.stack([-Z, Z], axis=1))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of the probabilities, finite where the probabilities underflow."""
        Z = self.decision_function(X)
        if Z.ndim == 2:
            return scipy.special.log_softmax(Z, axis=1)
        return -np.logaddexp(0, np.stack([Z, -Z], axis=1))

    def _last(self, classes: np.ndarray, X: Any) -> logistic.LogisticModel | None:
        if not (self.warm_start and hasattr(self, "coef_") and np.array_equal(self.classes_, classes)):
            return None
        if self.coef_.shape[1] != X.shape[1] or not np.all(np.isfinite(self.coef_)):
            return None
        if len(classes) == 2:
            return logistic.LogisticModel(self.coef_[0], self.intercept_[0])
        return logistic.LogisticModel(self.coef_, self.intercept_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
