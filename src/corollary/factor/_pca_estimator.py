"""`PCA`, the estimator over `pca`: fit, transform, invert, score under the probabilistic model. Cost: see `pca`."""

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
from corollary.factor._pca import pca


def _components(name: str, value: Any) -> Any:
    share = isinstance(value, float | np.floating) and 0 < value < 1
    if value is None or share or (isinstance(value, str) and value == "mle"):
        return value
    return validation.integer(1)(name, value)


class PCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """Principal component analysis.

    Use it to reduce, decorrelate or whiten data; sparse data are centred without being made dense. Cost: O(n p²),
    or O(n p k) for few components of large data.

    Parameters
    ----------
    n_components
        How many; a share in (0, 1) of the variance to explain; "mle"; or None for all.
    whiten
        Scale the scores to unit variance.
    svd_solver
        "auto", "full", "covariance" or "randomized"; see `corollary.factor.pca`.
    iterated_power
        For "randomized": "auto" (until the values have settled to 1e-5) or a number of power iterations.
    random_state
        For "randomized".

    Attributes
    ----------
    components_ : (k, p) orthonormal rows, largest entries positive.
    explained_variance_, explained_variance_ratio_, singular_values_ : (k,)
    mean_ : (p,)
    n_components_, n_samples_ : int
    noise_variance_ : float, the mean of the variances left over.
    certificates_ : ``"eigen_residual"`` and ``"orthogonality"``, or those of `corollary.linalg.randomized_svd`.

    Raises
    ------
    InputError
        For fewer than two samples, or settings that do not fit.

    Notes
    -----
    Scores use the probabilistic model of Tipping & Bishop, J. R. Stat. Soc. B 61 (1999), with σ² the noise variance.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0, 0.0], [2.0, 2.0], [4.0, 4.0]])
    >>> model = PCA(1).fit(X)
    >>> abs(model.inverse_transform(model.transform(X))).round(6).tolist()
    [[0.0, 0.0], [2.0, 2.0], [4.0, 4.0]]
    """

    _settings: ClassVar[dict[str, Check]] = {
        "n_components": _components,
        "whiten": validation.flag,
        "svd_solver": validation.one_of("auto", "full", "covariance", "randomized"),
        "iterated_power": validation.either(validation.one_of("auto"), validation.integer(0)),
    }

    components_: np.ndarray
    singular_values_: np.ndarray
    explained_variance_: np.ndarray
    explained_variance_ratio_: np.ndarray
    mean_: np.ndarray
    noise_variance_: float
    n_components_: int
    n_samples_: int

    def __init__(
        self,
        n_components: Any = None,
        *,
        whiten: Any = False,
        svd_solver: Any = "auto",
        iterated_power: Any = "auto",
        random_state: Any = None,
    ):
        self.n_components = n_components
        self.whiten = whiten
        self.svd_solver = svd_solver
        self.iterated_power = iterated_power
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """Sparse input is welcome, and float32 stays float32."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X: Any, y: Any = None) -> PCA:
        """Find the components of `X` (n, p); `y` is ignored."""
        with self._fitting():
            X = self._training_data(X, sparse=True, ensure_min_samples=2)
            n, p = X.shape
            k = self.n_components
            if k is None and scipy.sparse.issparse(X):
                k = min(n, p) - 1
            key = key_from(self.random_state)
            solution = pca(X, k, solver=self.svd_solver, power_iterations=self.iterated_power, key=key)
            found = solution.value
            self._keep(
                solution,
                mean_=found.mean,
                components_=found.components,
                singular_values_=found.singular_values,
                explained_variance_=found.explained_variance,
                explained_variance_ratio_=found.explained_variance_ratio,
                noise_variance_=float(found.noise_variance),
                n_components_=len(found.components),
                n_samples_=n,
            )
            del self.solution_
        return self

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def transform(self, X: Any) -> np.ndarray:
        """Scores (n, k): centred data in the components' coordinates, whitened where asked."""
        X = self._new_data(X, sparse=True)
        components, mean = self.components_.astype(X.dtype), self.mean_.astype(X.dtype)
        if scipy.sparse.issparse(X):
            scores = X @ components.T - components @ mean
        else:
            scores = (X - mean) @ components.T
        return scores / self._spread(X.dtype) if self.whiten else scores

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Data (n, p) from scores (n, k)."""
        check_is_fitted(self)
        scores = np.asarray(validation.matrix("X", X, host=True))
        if scores.shape[1] != len(self.components_):
            raise InputError(f"X: found {scores.shape[1]} columns, expected {len(self.components_)} scores")
        scores = scores * self._spread(scores.dtype) if self.whiten else scores
        return scores @ self.components_.astype(scores.dtype) + self.mean_.astype(scores.dtype)

    def get_covariance(self) -> np.ndarray:
        """The model's covariance Vᵀ(Λ − σ²I)V + σ²I."""
        check_is_fitted(self)
        V, p = self.components_, self.components_.shape[1]
        excess = np.maximum(self.explained_variance_ - self.noise_variance_, 0)
        return (V.T * excess) @ V + self.noise_variance_ * np.eye(p, dtype=V.dtype)

    def get_precision(self) -> np.ndarray:
        """The inverse of `get_covariance`."""
        return np.linalg.inv(self.get_covariance())

    def score_samples(self, X: Any) -> np.ndarray:
        """Log-likelihood of each row under the probabilistic model; needs a model of full rank."""
        X = self._new_data(X)
        V, (k, p) = self.components_, self.components_.shape
        variances = np.maximum(self.explained_variance_.astype(float), self.noise_variance_)
        floor = (np.finfo(V.dtype).eps * max(self.n_samples_, p)) ** 2 * variances[0]  # rounding of a zero variance
        if (k < p and self.noise_variance_ <= floor) or not np.all(variances > floor):
            raise InputError("X: the fitted model has directions of no variance, expected none: it has no density")
        centred = X.astype(float) - self.mean_
        scores = centred @ V.T
        distance = np.sum(scores**2 / variances, axis=1)
        logdet = np.sum(np.log(variances))
        if k < p:
            rest = centred - scores @ V
            distance += np.sum(rest**2, axis=1) / self.noise_variance_
            logdet += (p - k) * np.log(self.noise_variance_)
        return -(p * np.log(2 * np.pi) + logdet + distance) / 2

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood."""
        return float(np.mean(self.score_samples(X)))

    def _spread(self, dtype: Any) -> np.ndarray:
        """Standard deviation of each score; a component of no variance is left as it is (its scores are zero)."""
        spread = np.sqrt(self.explained_variance_)
        tiny = np.finfo(spread.dtype).eps * max(self.n_samples_, self.components_.shape[1]) * spread.max(initial=0)
        return np.where(spread > tiny, spread, 1).astype(dtype)
