"""Location and scale of columns, safe at any magnitude and for any number of rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def standard(X: np.ndarray, weight: np.ndarray, channels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and standard deviation per column, or per channel where columns are places; safe at any scale.

    Of a constant column the scale is its size. Sums are kept in float64: those of many float32 rows come to a halt.
    """
    if not weight.all():
        X, weight = X[weight > 0], weight[weight > 0]
    alike = X.shape[1] if channels is None else channels

    def over(reduce: Callable[..., np.ndarray], values: np.ndarray) -> np.ndarray:
        return np.tile(reduce(values.reshape(-1, alike), axis=0), X.shape[1] // alike)

    low, high = over(np.min, X.min(axis=0)), over(np.max, X.max(axis=0))
    top = np.maximum(high, -low).astype(np.float64)
    unit = np.where(top > 0, top, 1)
    share = (weight / weight.max()).astype(np.float64)
    share /= share.sum()
    step = max(1, 2**20 // X.shape[1])
    blocks = [(share[i : i + step], X[i : i + step]) for i in range(0, len(X), step)]
    mean = over(np.mean, np.sum([w @ (x / unit) for w, x in blocks], axis=0))
    scale = np.sqrt(over(np.mean, np.sum([w @ (x / unit - mean) ** 2 for w, x in blocks], axis=0)))
    constant = (low == high) | (scale <= 10 * np.finfo(X.dtype).eps * np.abs(mean))
    return (mean * unit).astype(X.dtype), np.where(constant, unit, scale * unit).astype(X.dtype)
