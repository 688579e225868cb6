"""What the estimators over orthogonal tensor formats share: samples as combinations of component tensors.

A fitted model holds r orthonormal component tensors C_j; a sample is Σ_j s_j C_j, its scores s_j = ⟨C_j, X⟩, or the
least-squares ones where entries are missing. Data are not centred. Cost of `transform`: r entries per entry of X.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.estimator import Estimator


def rank_setting(name: str, value: Any) -> Any:
    """An integer, None, or a sequence of them; the function called looks at a sequence's entries."""
    if value is None or (isinstance(value, list | tuple | np.ndarray) and len(value)):
        return value
    return validation.integer(1)(name, value)


class TensorComponents(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """The base: `transform`, `inverse_transform`, `score` and `plot` from ``components_``."""

    _missing = False  # whether NaN marks a missing entry

    components_: np.ndarray
    singular_values_: np.ndarray
    n_components_: int

    def __sklearn_tags__(self) -> Any:
        """Arrays of any number of modes; float32 stays float32."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._missing
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _tensor(self, X: Any, *, fit: bool) -> np.ndarray:
        """Validated samples (n, n_1, …)."""
        checks: dict[str, Any] = {
            "allow_nd": True,
            "ensure_all_finite": "allow-nan" if self._missing else True,
        }
        if fit:
            return self._training_data(X, **checks)
        X = self._new_data(X, **checks)
        if X.shape[1:] != self.components_.shape[1:]:
            raise InputError(
                f"X: found samples of shape {X.shape[1:]}, expected {self.components_.shape[1:]} as in fit"
            )
        return X

    def _components(self, rows: np.ndarray, whole: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
        """Orthonormal components from L, samples being U L Q for U, Qᵀ with orthonormal columns; `whole` is V ↦ V Q."""
        _, s, Vh = np.linalg.svd(rows, full_matrices=False)
        components = whole(Vh)
        flat = components.reshape(len(s), -1)
        top = np.take_along_axis(flat, np.abs(flat).argmax(axis=1)[:, None], axis=1)
        flat = np.where(top < 0, -flat, flat)  # the largest entry of each is positive
        return {"components_": flat.reshape(components.shape), "singular_values_": s, "n_components_": len(s)}

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def transform(self, X: Any) -> np.ndarray:
        """Scores (n, r): coordinates of each sample in the components."""
        check_is_fitted(self)
        X = self._tensor(X, fit=False)
        C = self.components_.reshape(len(self.components_), -1).astype(X.dtype)
        flat = X.reshape(len(X), -1)
        gaps = np.isnan(flat)
        scores = np.where(gaps, 0, flat) @ C.T
        for i in np.flatnonzero(gaps.any(axis=1)):
            seen = ~gaps[i]
            if not seen.any():
                raise InputError(f"X: found no observed entry in sample {i}, expected at least one")
            scores[i] = np.linalg.lstsq(C[:, seen].T, flat[i, seen])[0]
        return scores

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Samples (n, n_1, …) from scores (n, r)."""
        check_is_fitted(self)
        scores = np.asarray(validation.matrix("X", X, host=True))
        if scores.shape[1] != len(self.components_):
            raise InputError(f"X: found {scores.shape[1]} columns, expected {len(self.components_)} scores")
        return np.tensordot(scores, self.components_.astype(scores.dtype), axes=1)

    def score(self, X: Any, y: Any = None) -> float:
        """1 − ‖X − X̂‖²/‖X‖² over the observed entries: the share of the squares that the components explain."""
        approximation = self.inverse_transform(self.transform(X))
        X = self._tensor(X, fit=False)
        top = np.nanmax(np.abs(X)) or 1.0
        gap, size = (np.nansum(np.square(part / top, dtype=float)) for part in (X - approximation, X))
        return float(1 - gap / size) if size > 0 else 1.0

    def plot(self, ax: Any = None, component: int = 0) -> Any:
        """Draw the components: curves of all of them for samples that are vectors, else a picture of one."""
        from corollary.core.draw import axes

        check_is_fitted(self)
        validation.integer(0)("component", component)
        if component >= len(self.components_):
            raise InputError(f"component: found {component}, expected at most {len(self.components_) - 1}")
        if self.components_.ndim == 2:
            ax = axes(ax, title="Components", xlabel="feature", ylabel="loading")
            ax.plot(self.components_.T, linewidth=1.6, label=[f"{j}" for j in range(len(self.components_))])
            ax.legend(frameon=False)
            return ax
        picture = self.components_[component]
        picture = picture.reshape(picture.shape[0], math.prod(picture.shape[1:]))
        ax = axes(ax, title=f"Component {component}", xlabel="mode 2 and on", ylabel="mode 1")
        top = float(np.abs(picture).max()) or 1.0
        ax.imshow(picture, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto")
        ax.grid(False)
        return ax
