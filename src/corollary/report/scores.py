"""Scores on held-out rows, each with a 95 % interval and the way it was made.

A score here is a smooth function g of means of per-row statistics (R² of the means of r², y² and y), so that one
resampling of the rows serves them all: the bootstrap's percentiles for up to `BOOTSTRAP_ROWS` rows, the delta method's
standard error beyond. Accuracy gets Wilson's interval (right at 0 and 1 too), the ROC area DeLong's.
Source: Efron & Tibshirani, An Introduction to the Bootstrap, ch. 13; Wilson 1927; DeLong et al. 1988.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float, Shaped

BOOTSTRAP_ROWS, RESAMPLES = 20_000, 1000
Z95 = 1.959963984540054

Rows = Float[np.ndarray, "rows statistics"]


class Score(NamedTuple):
    """One score on held-out rows with its 95 % interval."""

    name: str
    value: float
    low: float
    high: float
    method: str
    baseline: float | None = None
    better: str = "higher"


def regression(y: Float[np.ndarray, " rows"], predicted: Float[np.ndarray, " rows"], seed: int = 0) -> list[Score]:
    """R², root mean square error and mean absolute error; the baseline predicts the mean.

    Costs O(rows · resamples).

    Examples
    --------
    >>> y = np.arange(8.0)
    >>> round(regression(y, y + 0.5 * (-1.0) ** np.arange(8))[0].value, 3)
    0.952
    """
    y, predicted = np.asarray(y, np.float64), np.asarray(predicted, np.float64)
    scale = float(np.max(np.abs(y - y.mean()))) or 1.0  # unit-free inside, so that 1e150 does not overflow
    centred, residual = (y - y.mean()) / scale, (y - predicted) / scale
    rows = np.stack([residual**2, centred, centred**2, np.abs(residual)], axis=1)
    means = rows.mean(axis=0)
    spread, deviation = float(np.sqrt(means[2])), float(np.abs(centred).mean())

    def r2(m: np.ndarray) -> Any:
        variance = m[..., 2] - m[..., 1] ** 2
        return 1 - m[..., 0] / np.where(variance > 0, variance, np.nan)

    return [
        _score("R²", r2, rows, seed, baseline=0.0),
        _score("RMSE", lambda m: scale * np.sqrt(m[..., 0]), rows, seed, scale * spread, "lower"),
        _score("MAE", lambda m: scale * m[..., 3], rows, seed, scale * deviation, "lower"),
    ]


def classification(
    y: Shaped[np.ndarray, " rows"],
    predicted: Shaped[np.ndarray, " rows"],
    probability: Float[np.ndarray, "rows classes"] | None,
    classes: Shaped[np.ndarray, " classes"],
    prior: Float[np.ndarray, " classes"],
    seed: int = 0,
) -> list[Score]:
    """Accuracy, and where there are probabilities the log loss and (two classes) the area under the ROC curve.

    The baseline always predicts the training rows' class shares `prior`.
    """
    n, hits = len(y), int(np.sum(y == predicted))
    wilson = scipy.stats.binomtest(hits, n).proportion_ci(0.95, "wilson")
    majority = float(np.mean(y == classes[np.argmax(prior)]))
    scores = [Score("accuracy", hits / n, float(wilson.low), float(wilson.high), "Wilson", majority)]
    if probability is None:
        return scores
    index = np.searchsorted(classes, y)
    tiny = np.finfo(np.float64).tiny
    loss = -np.log(np.maximum(probability[np.arange(n), index].astype(np.float64), tiny))
    base = float(np.mean(-np.log(np.maximum(prior[index], tiny))))
    scores.append(_score("log loss", lambda m: m[..., 0], loss[:, None], seed, base, "lower"))
    if len(classes) == 2 and 0 < np.sum(index) < n:
        scores.append(_roc_area(probability[:, 1], index == 1))
    return scores


def reconstruction(
    Z: Float[np.ndarray, "rows columns"],
    restored: Float[np.ndarray, "rows columns"],
    mean: Float[np.ndarray, " columns"],
    seed: int = 0,
) -> list[Score]:
    """Share of the held-out rows' variance about the training mean that a projection keeps."""
    rows = np.stack([np.sum((Z - restored) ** 2, axis=1), np.sum((Z - mean) ** 2, axis=1)], axis=1).astype(np.float64)
    return [
        _score("variance kept", lambda m: 1 - m[..., 0] / np.where(m[..., 1] > 0, m[..., 1], np.nan), rows, seed, 0.0)
    ]


def _score(
    name: str,
    g: Callable[[np.ndarray], Any],
    rows: Rows,
    seed: int,
    baseline: float | None = None,
    better: str = "higher",
) -> Score:
    n, mean = len(rows), rows.mean(axis=0)
    value = float(g(mean))
    if n <= BOOTSTRAP_ROWS:
        rng = np.random.default_rng(seed)
        block = max(1, int(2e6 // n))
        parts = [min(block, RESAMPLES - start) for start in range(0, RESAMPLES, block)]
        draws = [g(rng.multinomial(n, np.full(n, 1 / n), size=size) @ rows / n) for size in parts]
        draws = np.concatenate(draws)
        draws = draws[np.isfinite(draws)]
        low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) else (np.nan, np.nan)
        return Score(name, value, float(low), float(high), "bootstrap", baseline, better)
    step = np.diag(1e-6 * (np.abs(mean) + rows.std(axis=0)) + np.finfo(float).tiny)
    slope = (g(mean + step) - g(mean - step)) / (2 * np.diag(step))
    half = Z95 * float(np.sqrt(slope @ np.cov(rows, rowvar=False).reshape(len(mean), -1) @ slope / n))
    return Score(name, value, value - half, value + half, "standard error", baseline, better)


def _roc_area(score: np.ndarray, positive: np.ndarray) -> Score:
    m, n = int(positive.sum()), int((~positive).sum())
    ranks, pos, neg = (scipy.stats.rankdata(s) for s in (score, score[positive], score[~positive]))
    above = (ranks[positive] - pos) / n  # share of negatives below each positive
    below = 1 - (ranks[~positive] - neg) / m
    area = float(above.mean())
    variance = (above.var(ddof=1) / m if m > 1 else 0.0) + (below.var(ddof=1) / n if n > 1 else 0.0)
    half = Z95 * float(np.sqrt(variance))
    return Score("ROC area", area, max(0.0, area - half), min(1.0, area + half), "DeLong", 0.5)
