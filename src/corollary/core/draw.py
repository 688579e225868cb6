"""Shared drawing: matplotlib is imported when the first picture is drawn."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from corollary.core.solution import Solution

INK, ACCENT, BOUND, MUTED = "#1f2933", "#0b7285", "#c2410c", "#9aa5b1"


def axes(
    ax: Any = None, title: str = "", xlabel: str = "", ylabel: str = "", size: tuple[float, float] = (6.0, 3.6)
) -> Axes:
    """The given axes or new ones, labelled and stripped of needless ink."""
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=size, layout="constrained").add_subplot()
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, alpha=0.25, linewidth=0.6)
    return ax


def convergence(solution: Solution, ax: Any = None, bound: str | None = None) -> Axes:
    """Per-step curves of a solution's history on a logarithmic axis; ``*bound`` series are dashed."""
    if not solution.history:
        raise ValueError("history: found none, expected a run with history=True")
    ax = axes(ax, xlabel="step", ylabel="value")
    colors = itertools.cycle((ACCENT, INK, MUTED))
    for name, values in solution.history.items():
        values = np.asarray(values, dtype=float)
        if values.ndim != 1:
            continue
        is_bound = name.endswith("bound") or name == bound
        shown = np.isfinite(values) & (values > 0)
        style: dict[str, Any] = {"color": BOUND, "linestyle": "--"} if is_bound else {"color": next(colors)}
        marker = "o" if np.sum(shown) <= 40 else None
        ax.plot(
            np.flatnonzero(shown),
            values[shown],
            marker=marker,
            markersize=4,
            label=name.replace("_", " "),
            linewidth=1.6,
            **style,
        )
    ax.set_yscale("log")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    return ax
