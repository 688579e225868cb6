"""`CPDecomposition`, the estimator over `cp_als`: fit, transform, invert, score and draw, with gaps allowed.

Use it for samples that are tensors themselves (spectra over two variables, channels over time) of which each is a
mixture of a few common parts. Cost: that of `cp_als`; new samples cost one pass.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.estimator import Estimator
from corollary.core.randomness import key_from
from corollary.core.validation import Check
from corollary.linalg.tensor._cp import cp_als
from corollary.linalg.tensor._cp_mttkrp import krao, pairs

PASSES = 1000  # of coordinate descent for nonnegative scores, at most


class CPDecomposition(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """CP decomposition (PARAFAC) of samples with any number of further modes.

    Use it where a matrix factorisation would leave a rotation open: in three or more modes the parts are unique as a
    rule, and the certificate ``"kruskal"`` says whether they are. NaN marks a missing entry, in `fit` and later. Cost:
    O(n_components) flops an entry and sweep.

    Parameters
    ----------
    n_components
        How many outer products.
    nonnegative
        Parts and scores without negative entries.
    ridge
        Penalty on the squared factors; see `corollary.linalg.tensor.cp_als`.
    n_init
        Starts, of which the best is kept.
    tol, max_iter
        Scaled gradient at which to stop, and most sweeps.
    random_state
        For the starts.

    Attributes
    ----------
    components_ : tuple of (n_k, n_components), unit columns, for the modes 1, 2, …
    scores_ : (n_samples, n_components), of the training samples, sizes included.
    weights_ : (n_components,), sizes of the terms, falling.
    error_ : float, ‖X − X̂‖/‖X‖ over the observed entries.
    n_iter_ : int
    certificates_ : ``"error"``, ``"stationarity"``, ``"monotone"``, ``"kruskal"``; see `cp_als`.

    Raises
    ------
    InputError
        For more components than the sizes allow, and slices without an observed entry.

    Notes
    -----
    A table of two modes is a matrix: then the parts are not unique, and the certificate says so.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = np.einsum("ir,jr,kr->ijk", *(rng.random((n, 2)) for n in (8, 5, 6)))
    >>> model = CPDecomposition(2, random_state=0).fit(X)
    >>> model.transform(X).shape, round(model.score(X), 6)
    ((8, 2), 1.0)
    """

    _settings: ClassVar[dict[str, Check]] = {
        "n_components": validation.integer(1),
        "nonnegative": validation.flag,
        "ridge": validation.number(0),
        "n_init": validation.integer(1),
        "tol": validation.number(0),
        "max_iter": validation.integer(1),
    }

    components_: tuple[np.ndarray, ...]
    scores_: np.ndarray
    weights_: np.ndarray
    error_: float
    n_iter_: int

    def __init__(
        self,
        n_components: Any = 2,
        *,
        nonnegative: Any = False,
        ridge: Any = 0.0,
        n_init: Any = 4,
        tol: Any = 1e-5,
        max_iter: Any = 1000,
        random_state: Any = None,
    ):
        self.n_components = n_components
        self.nonnegative = nonnegative
        self.ridge = ridge
        self.n_init = n_init
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """Any number of modes, gaps allowed, float32 stays float32."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X: Any, y: Any = None) -> CPDecomposition:
        """Find the parts of `X` (n_samples, n_1, …); `y` is ignored."""
        with self._fitting():
            X = self._training_data(X, allow_nd=True, ensure_all_finite="allow-nan")
            most = math.prod(X.shape) // max(X.shape)
            if self.n_components > most:
                raise InputError(
                    f"n_components: found {self.n_components}, expected at most {most} for data of shape {X.shape}"
                )
            solution = cp_als(
                X,
                self.n_components,
                starts=self.n_init,
                nonnegative=bool(self.nonnegative),
                ridge=self.ridge,
                tol=self.tol,
                max_steps=self.max_iter,
                key=key_from(self.random_state),
            )
            value = solution.value
            self._keep(
                solution,
                components_=value.factors[1:],
                scores_=value.factors[0] * value.weights,
                weights_=value.weights,
                error_=float(solution.stats["error"]),
                n_iter_=int(solution.steps),
            )
            del self.solution_
        return self

    @property
    def _n_features_out(self) -> int:
        return self.weights_.shape[0]

    def transform(self, X: Any) -> np.ndarray:
        """Scores (n, n_components): how much of each part is in each sample, by least squares on what was observed.

        In float64 whatever comes in: the normal equations square the condition number.
        """
        X, seen = self._samples(X)
        parts = [c.astype(np.float64) for c in self.components_]
        rank, rows = self._n_features_out, X.reshape(len(X), -1).astype(np.float64)
        product = rows @ krao(parts)
        if seen is None:
            normal = np.prod([c.T @ c for c in parts], axis=0)[None]
        else:
            mask = seen.reshape(len(X), -1).astype(np.float64)
            entries = mask @ np.asarray(krao([np.asarray(pairs(c, rank)) for c in parts]))
            normal = np.zeros((len(X), rank, rank))
            upper = np.triu_indices(rank)
            normal[:, upper[0], upper[1]] = entries
            normal[:, upper[1], upper[0]] = entries
        if self.nonnegative:
            return _nonnegative(normal, product).astype(X.dtype)
        inverse = np.linalg.pinv(normal, rcond=8 * rank * np.finfo(np.float64).eps, hermitian=True)
        scores = np.einsum("nqr,nr->nq", np.broadcast_to(inverse, (len(X), rank, rank)), product)
        return scores.astype(X.dtype)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Samples (n, n_1, …) from scores (n, n_components)."""
        check_is_fitted(self)
        scores = np.asarray(validation.matrix("X", X, host=True))
        if scores.shape[1] != self._n_features_out:
            raise InputError(f"X: found {scores.shape[1]} columns, expected {self._n_features_out} scores")
        parts = [c.astype(scores.dtype) for c in self.components_]
        return (scores @ krao(parts).T).reshape(len(scores), *(c.shape[0] for c in parts))

    def score(self, X: Any, y: Any = None) -> float:
        """Share of the sum of squares that the parts account for, 1 − ‖X − X̂‖²/‖X‖², over the observed entries."""
        scores = self.transform(X)
        X, seen = self._samples(X)
        rest = X - self.inverse_transform(scores)
        rest = rest if seen is None else rest * seen
        top = np.max(np.abs(X)) or 1.0  # squares of the data themselves may be out of range
        gap, size = (np.sum(np.square(part / top, dtype=np.float64)) for part in (rest, X))
        return float(1 - gap / size) if size > 0 else 1.0

    def plot(self, axes: Any = None) -> Any:
        """Draw the parts, a panel for each mode after the first and a line for each component; returns the axes."""
        check_is_fitted(self)
        if axes is None:
            from matplotlib.figure import Figure

            figure = Figure(figsize=(4 * len(self.components_), 2.8), layout="constrained")
            axes = figure.subplots(1, len(self.components_), squeeze=False)[0]
        for mode, (ax, part) in enumerate(zip(np.ravel(axes), self.components_, strict=True), 1):
            ax.plot(part)
            ax.set_xlabel(f"index of mode {mode}")
        np.ravel(axes)[0].legend([f"{r}" for r in range(self._n_features_out)], title="component", fontsize=7)
        return axes

    def _samples(self, X: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Checked samples with zeros in the gaps, and what was observed."""
        X = self._new_data(X, allow_nd=True, ensure_all_finite="allow-nan")
        expected = tuple(c.shape[0] for c in self.components_)
        if X.shape[1:] != expected:
            raise InputError(f"X: found samples of shape {X.shape[1:]}, expected {expected} as in fit")
        seen = ~np.isnan(X)
        if seen.all():
            return X, None
        empty = ~seen.reshape(len(X), -1).any(axis=1)
        if empty.any():
            raise InputError(
                f"X: found no observed entry in slice {int(np.argmax(empty))} of mode 0, expected at least one a sample"
            )
        return np.where(seen, X, 0), seen


def _nonnegative(normal: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Nonnegative least squares for all rows by coordinate descent."""
    scores = np.zeros_like(product)
    tol = float(8 * np.finfo(product.dtype).eps)
    for _ in range(PASSES):
        before = scores.copy()
        for j in range(product.shape[1]):
            curvature = normal[:, j, j]
            gradient = np.sum(scores * normal[:, :, j], axis=1) - product[:, j]
            step = np.divide(gradient, curvature, out=np.zeros_like(gradient), where=curvature > 0)
            scores[:, j] = np.maximum(scores[:, j] - step, 0)
        if np.all(np.max(np.abs(scores - before), axis=1) <= tol * np.max(scores, axis=1)):
            break  # every row stands still on its own scale
    return scores
