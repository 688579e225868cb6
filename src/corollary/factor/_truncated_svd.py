"""`TruncatedSVD`: the leading singular directions without centring, for sparse counts and ratings.

Use it for latent semantic analysis of a document-term matrix, or for the factors of a filled rating matrix. Cost:
O(nnz k) by block Krylov. Source: Deerwester et al. (1990); the algorithm is `corollary.linalg.svd`'s.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import scipy.sparse
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.estimator import Estimator
from corollary.core.randomness import key_from
from corollary.core.validation import Check
from corollary.linalg import svd


class TruncatedSVD(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """Leading k singular directions of uncentred data X ≈ UΣVᵀ.

    Use it where centring would destroy sparsity or meaning; predictions of a rating matrix are
    ``inverse_transform(transform(X))``. Cost: O(nnz k) for sparse data.

    Parameters
    ----------
    n_components
        k, at most min(n, p).
    solver
        "auto", "krylov" or "direct"; see `corollary.linalg.svd`.
    tol
        Relative accuracy of the krylov solver's singular values; None for √eps.
    random_state
        For the krylov solver's start.

    Attributes
    ----------
    components_ : (k, p) item factors, orthonormal, largest entries positive.
    singular_values_ : (k,)
    explained_variance_, explained_variance_ratio_ : (k,) variance of the scores, and its share of the columns'.
    certificates_ : those of `corollary.linalg.svd`.

    Raises
    ------
    InputError
        For n_components above min(n, p).

    Examples
    --------
    >>> import numpy as np
    >>> R = np.outer([1.0, 2.0, 3.0], [2.0, 1.0])
    >>> model = TruncatedSVD(1).fit(R)
    >>> model.inverse_transform(model.transform(R)).round(6).tolist()
    [[2.0, 1.0], [4.0, 2.0], [6.0, 3.0]]
    """

    _settings: ClassVar[dict[str, Check]] = {
        "n_components": validation.integer(1),
        "solver": validation.one_of("auto", "direct", "krylov"),
        "tol": validation.number(0, open_low=True, none=True),
    }

    components_: np.ndarray
    singular_values_: np.ndarray
    explained_variance_: np.ndarray
    explained_variance_ratio_: np.ndarray

    def __init__(self, n_components: Any = 2, *, solver: Any = "auto", tol: Any = None, random_state: Any = None):
        self.n_components = n_components
        self.solver = solver
        self.tol = tol
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """Sparse input is welcome, and float32 stays float32."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X: Any, y: Any = None) -> TruncatedSVD:
        """Find the factors of `X` (n, p), dense or sparse; `y` is ignored."""
        self.fit_transform(X)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit, and return the scores UΣ (n, k)."""
        with self._fitting():
            X = self._training_data(X, sparse=True)
            k = self.n_components
            if k > min(X.shape):
                raise InputError(
                    f"n_components: found {k}, expected at most {min(X.shape)} (= min(n_samples, n_features))"
                )
            solution = svd(X, k, solver=self.solver, accuracy=self.tol, key=key_from(self.random_state))
            U, s, Vt = solution.value
            scores = U * s
            variance, total = scores.var(axis=0), _total_variance(X)
            self._keep(
                solution,
                components_=Vt,
                singular_values_=s,
                explained_variance_=variance,
                explained_variance_ratio_=variance / total if total > 0 else np.zeros_like(variance),
            )
            del self.solution_
        return scores

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def transform(self, X: Any) -> np.ndarray:
        """Scores XV (n, k)."""
        X = self._new_data(X, sparse=True)
        return X @ self.components_.T.astype(X.dtype)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Data (n, p) from scores (n, k): the predictions of a rating matrix."""
        check_is_fitted(self)
        scores = np.asarray(validation.matrix("X", X, host=True))
        if scores.shape[1] != len(self.components_):
            raise InputError(f"X: found {scores.shape[1]} columns, expected {len(self.components_)} scores")
        return scores @ self.components_.astype(scores.dtype)


def _total_variance(X: Any) -> float:
    if not scipy.sparse.issparse(X):
        return float(np.sum(np.var(X, axis=0)))
    mean = np.asarray(X.mean(axis=0)).ravel()
    entries = X.tocoo()
    present = np.bincount(entries.col, minlength=X.shape[1])
    return float(
        (np.sum((entries.data - mean[entries.col]) ** 2) + np.sum((X.shape[0] - present) * mean**2)) / X.shape[0]
    )
