"""The pictures of a report. Each draws on given or new matplotlib axes and returns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corollary.core.certificate import Certificate
from corollary.core.draw import ACCENT, BOUND, INK, MUTED, axes

MOST_POINTS = 2000


def certificates(certificates: Mapping[str, Certificate], ax: Any = None) -> Any:
    """How far inside its bound each claim sits: measured / bound on a logarithmic axis, the bound at 1."""
    shown = {name: c for name, c in certificates.items() if c.bound is not None}
    ax = axes(ax, xlabel="measured / bound", size=(6.0, 0.9 + 0.36 * max(len(shown), 1)))
    floor = 1e-6
    for row, c in enumerate(shown.values()):
        measured, bound = float(np.max(np.asarray(c.measured))), float(np.min(np.asarray(c.bound)))
        ratio = measured / bound if bound > 0 else (0.0 if measured <= bound else np.inf)
        place = float(np.clip(np.nan_to_num(ratio, nan=np.inf, posinf=1e3), floor, 1e3))
        color = ACCENT if bool(np.all(c.holds)) else BOUND
        ax.plot([floor, place], [row, row], color=color, linewidth=1.2, alpha=0.5)
        ax.plot([place], [row], "<" if place == floor else "o", color=color, markersize=6)
    ax.axvline(1.0, color=BOUND, linestyle="--", linewidth=1.2)
    ax.set_xscale("log")
    ax.set_xlim(floor / 1.5, max(10.0, ax.get_xlim()[1]))
    ax.set_yticks(range(len(shown)), [name.replace("_", " ") for name in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.grid(False, axis="y")
    return ax


def coefficients(names: Sequence[str], values: Any, ax: Any = None, most: int = 20, xlabel: str = "coefficient") -> Any:
    """The largest coefficients by modulus, as bars."""
    values = np.asarray(values, dtype=float).ravel()
    order = np.argsort(-np.abs(values), kind="stable")[:most]
    order = order[values[order] != 0] if np.any(values != 0) else order[:1]
    ax = axes(ax, xlabel=xlabel, size=(6.0, 0.8 + 0.24 * len(order)))
    colors = [ACCENT if v >= 0 else BOUND for v in values[order]]
    ax.barh(range(len(order)), values[order], color=colors, height=0.68)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(range(len(order)), [_short(names[i]) for i in order])
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    return ax


def coefficient_map(names: Sequence[str], values: Any, columns: Sequence[str], ax: Any = None, most: int = 20) -> Any:
    """The rows of a coefficient matrix (features by classes or components) with the largest norm, as a heat map."""
    values = np.asarray(values, dtype=float)
    order = np.argsort(-np.linalg.norm(values, axis=1), kind="stable")[:most]
    limit = float(np.max(np.abs(values))) or 1.0
    ax = axes(ax, size=(min(2.2 + 0.55 * len(columns), 8.0), 0.9 + 0.24 * len(order)))
    image = ax.imshow(values[order], cmap=_diverging(), vmin=-limit, vmax=limit, aspect="auto")
    ax.set_yticks(range(len(order)), [_short(names[i]) for i in order])
    turned = {"rotation": 30, "ha": "right"} if max(map(len, columns)) > 6 else {}
    ax.set_xticks(range(len(columns)), [_short(c, 16) for c in columns], **turned)
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, shrink=0.8, pad=0.03).outline.set_visible(False)
    return ax


def agreement(actual: Any, predicted: Any, ax: Any = None, label: str = "target") -> Any:
    """Predicted against actual values with the diagonal."""
    actual, predicted = _thin(actual, predicted)
    ax = axes(ax, xlabel=f"predicted {_short(label)}", ylabel=f"actual {_short(label)}", size=(4.4, 3.8))
    ax.scatter(predicted, actual, s=14, color=ACCENT, alpha=0.55, linewidths=0)
    ends = [min(actual.min(), predicted.min()), max(actual.max(), predicted.max())]
    ax.plot(ends, ends, color=BOUND, linestyle="--", linewidth=1.2)
    return ax


def residuals(actual: Any, predicted: Any, ax: Any = None) -> Any:
    """Actual minus predicted against predicted: a trend or a funnel means that the model misses something."""
    actual, predicted = _thin(actual, predicted)
    ax = axes(ax, xlabel="predicted", ylabel="actual − predicted", size=(4.4, 3.8))
    ax.scatter(predicted, actual - predicted, s=14, color=ACCENT, alpha=0.55, linewidths=0)
    ax.axhline(0, color=BOUND, linestyle="--", linewidth=1.2)
    return ax


def confusion(actual: Any, predicted: Any, classes: Sequence[Any], ax: Any = None) -> Any:
    """Counts of actual (rows) against predicted classes (columns); shade is the share of the row."""
    counts = np.asarray([[np.sum((actual == a) & (predicted == p)) for p in classes] for a in classes])
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.4 + 0.24 * len(classes)
    ax = axes(ax, xlabel="predicted", ylabel="actual", size=(side + 0.6, side))
    ax.imshow(share, cmap=_single(), vmin=0, vmax=1)
    if len(classes) <= 20:
        for i, j in np.ndindex(counts.shape):
            if counts[i, j]:
                ax.text(
                    j,
                    i,
                    str(counts[i, j]),
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="white" if share[i, j] > 0.5 else INK,
                )
    names = [_short(str(c), 14) for c in classes]
    turned = {"rotation": 30, "ha": "right"} if max(map(len, names)) > 4 else {}
    ax.set_xticks(range(len(classes)), names, **turned)
    ax.set_yticks(range(len(classes)), names)
    ax.grid(False)
    return ax


def calibration(
    correct: Any, confidence: Any, ax: Any = None, bins: int = 10, label: str = "predicted probability"
) -> Any:
    """Observed frequency against predicted probability in bins of equal counts, with 95 % Wilson intervals."""
    import scipy.stats

    order = np.argsort(confidence, kind="stable")
    ax = axes(ax, xlabel=label, ylabel="observed frequency", size=(4.4, 3.8))
    ax.plot([0, 1], [0, 1], color=BOUND, linestyle="--", linewidth=1.2)
    for part in np.array_split(order, min(bins, max(1, len(order) // 8))):
        hits, n = int(np.sum(np.asarray(correct)[part])), len(part)
        interval = scipy.stats.binomtest(hits, n).proportion_ci(0.95, "wilson")
        x, y = float(np.mean(np.asarray(confidence)[part])), hits / n
        ax.plot([x, x], [interval.low, interval.high], color=ACCENT, linewidth=1.2, alpha=0.6)
        ax.plot([x], [y], "o", color=ACCENT, markersize=5)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return ax


def gap(steps: Any, gaps: Any, bound: float, ax: Any = None) -> Any:
    """The duality gap by number of steps, and the bound that the solver was asked to reach."""
    steps, gaps = np.asarray(steps), np.asarray(gaps, dtype=float)
    shown = np.isfinite(gaps) & (gaps > 0)
    ax = axes(ax, xlabel="steps", ylabel="duality gap")
    ax.plot(steps[shown], gaps[shown], color=ACCENT, marker="o", markersize=4, linewidth=1.6)
    ax.axhline(bound, color=BOUND, linestyle="--", linewidth=1.2)
    ax.set_yscale("log")
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax


def explained(ratio: Any, ax: Any = None) -> Any:
    """Share of variance by component (bars) and in total (line)."""
    ratio = np.asarray(ratio, dtype=float)
    ax = axes(ax, xlabel="component", ylabel="share of variance", size=(4.4, 3.8))
    steps = np.arange(1, len(ratio) + 1)
    ax.bar(steps, ratio, color=ACCENT, width=0.7)
    ax.plot(steps, np.cumsum(ratio), color=BOUND, marker="o", markersize=3, linewidth=1.2)
    ax.set_ylim(0, 1.03)
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax


def scatter(scores: Any, ax: Any = None) -> Any:
    """The first two components of the held-out rows."""
    first, second = _thin(scores[:, 0], scores[:, 1] if scores.shape[1] > 1 else np.zeros(len(scores)))
    ax = axes(ax, xlabel="component 1", ylabel="component 2", size=(4.4, 3.8))
    ax.scatter(first, second, s=14, color=ACCENT, alpha=0.55, linewidths=0)
    return ax


def comparison(names: Sequence[str], folds: Any, score: str, ax: Any = None) -> Any:
    """Each model's folds (one faint line per fold, since they are paired), mean and standard error."""
    folds = np.asarray(folds, dtype=float)  # models by folds
    ax = axes(ax, xlabel=score, size=(6.0, 1.0 + 0.42 * len(names)))
    rows = np.arange(len(names))
    for fold in folds.T:
        ax.plot(fold, rows, color=MUTED, alpha=0.45, linewidth=0.9, marker=".", markersize=4)
    error = folds.std(axis=1, ddof=1) / np.sqrt(folds.shape[1])
    ax.errorbar(folds.mean(axis=1), rows, xerr=error, fmt="o", color=ACCENT, capsize=4, linewidth=2.0, markersize=7)
    ax.set_yticks(rows, names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(False, axis="y")
    return ax


def _thin(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    """At most `MOST_POINTS` pairs, evenly taken: more would only make the page heavy."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    keep = np.unique(np.linspace(0, len(a) - 1, min(len(a), MOST_POINTS)).astype(int))
    return a[keep], b[keep]


def _short(text: Any, most: int = 28) -> str:
    text = str(text).replace("$", r"\$")
    return text if len(text) <= most else text[: most - 1] + "…"


def _single() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("accent", [(0, (0.043, 0.447, 0.522, 0.0)), (1, ACCENT)])


def _diverging() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("both", [BOUND, (0.5, 0.5, 0.5, 0.0), ACCENT])
