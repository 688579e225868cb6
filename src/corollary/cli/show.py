"""What the commands print: one table each."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from corollary.core.atlas import Entry
from corollary.report.pages import FitRun
from corollary.report.pages import show as number


def fit(run: FitRun, out: pathlib.Path | None) -> None:
    """Scores, certificates and times in one table, notices below it."""
    target = f", target {run.target}" if run.target else ""
    what = f"[bold]{escape(run.model)}[/] on {escape(run.data)}{escape(target)}"
    title = f"{what}: {run.rows['train']:,} rows + {run.rows['test']:,} held out"
    table = _table(title, ["", "measured", "bound / 95 % interval", "kind", "holds"], right=(1, 2))
    for s in run.scores:
        base = "" if s.baseline is None else f" [dim](baseline {number(s.baseline, 3)})[/]"
        table.add_row(f"{s.name}{base}", number(s.value), f"{number(s.low)} … {number(s.high)}", s.method, "")
    table.add_section()
    for name, c in run.certificates.items():
        measured, bound = (
            float(np.max(np.asarray(c.measured))),
            None if c.bound is None else float(np.min(np.asarray(c.bound))),
        )
        within = f"± {number(float(np.max(np.asarray(c.stderr))), 3)}" if bound is None and c.stderr is not None else ""
        verdict = "[green]yes[/]" if bool(np.all(c.holds)) else "[bold red]NO[/]"
        label = f"{escape(name.replace('_', ' '))}\n[dim]{escape(c.claim)}[/]"
        table.add_row(
            label,
            number(measured, 3),
            within if bound is None else f"≤ {number(bound, 3)}",
            c.kind,
            verdict if bound is not None else "–",
        )
    table.add_section()
    for name, value in run.seconds.items():
        table.add_row(f"{name} time", f"{value:.3g} s", "", "", "")
    console = Console(highlight=False)
    console.print(table)
    for notice in run.notices:
        console.print(f"[dim]note:[/] {escape(notice)}")
    solution = getattr(run.estimator, "solution_", None)
    if solution is not None and not np.all(solution.converged):
        console.print(f"[bold red]The solver {escape(solution.message)}.[/]")
    if out is not None:
        console.print(f"Written to {escape(str(out))}; open {escape(str(out / 'report.html'))}", soft_wrap=True)


def comparison_rows(result: dict[str, Any]) -> tuple[Sequence[str], list[list[str]]]:
    """The comparison's table as text, best model first."""
    folds, k = result["folds"], result["folds"].shape[1]
    header = ["model", f"{result['score']} ± s.e.", "difference", "its 95 % interval", "s/fit", "hold"]
    rows = []
    for i in np.argsort(-folds.mean(axis=1), kind="stable"):
        mean, error = folds[i].mean(), folds[i].std(ddof=1) / np.sqrt(k)
        difference = result["differences"][i]
        apart = (
            ("best", "")
            if difference is None
            else (
                f"{difference[0]:+.4f}",
                f"{difference[0] - difference[1]:+.3f} … {difference[0] + difference[1]:+.3f}",
            )
        )
        rows.append(
            [
                result["models"][i],
                f"{mean:.3f} ± {error:.3f}",
                *apart,
                f"{result['seconds'][i]:.3g}",
                f"{result['held'][i]}/{k}",
            ]
        )
    return header, rows


def comparison(result: dict[str, Any], table: tuple[Sequence[str], list[list[str]]], out: pathlib.Path | None) -> None:
    """The table with a small picture of means and standard errors on one scale."""
    header, rows = table
    what = f"{escape(result['data'])}, target {escape(str(result['target']))}"
    title = f"{what}: {result['folds'].shape[1]} folds of {result['rows']:,} rows, the same for all"
    shown = _table(title, header, right=range(1, len(header)))
    for row in rows:
        shown.add_row(*map(escape, row))
    console = Console(highlight=False)
    console.print(shown)
    folds, width = result["folds"], min(console.width - 16, 60)
    low, high = float(np.nanmin(folds)), float(np.nanmax(folds))
    console.print(f"[dim]{'':<13}{low:<{width - 7}.3f}{high:>7.3f}[/]")
    for row in rows:
        console.print(f"{row[0]:<13}{_strip(folds[result['models'].index(row[0])], low, high, width)}")
    console.print("[dim]● mean, ━ standard error, · folds. Differences to the best are paired by fold.[/]")
    console.print(
        f"[dim]hold: folds in which every certificate holds. Compile time {sum(result['compile']):.3g} s in all.[/]"
    )
    for notice in result["notices"]:
        console.print(f"[dim]note:[/] {escape(notice)}")
    if out is not None:
        console.print(f"Written to {escape(str(out))}; open {escape(str(out / 'report.html'))}", soft_wrap=True)


def atlas(found: Sequence[Entry]) -> None:
    """Methods, one row each."""
    table = _table("", ["method", "where", "certificates"], no_wrap=False)
    for entry in found:
        table.add_row(
            f"{escape(entry.name)}\n[dim]{escape(entry.source)}[/]", escape(entry.object), escape(entry.certificates)
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{len(found)} method{'s' * (len(found) != 1)}")


def _table(title: str, header: Sequence[str], right: Any = (), no_wrap: bool = True) -> Table:
    table = Table(title=title or None, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i in right else "left", overflow="fold", no_wrap=i > 0 and no_wrap)
    return table


def _strip(scores: np.ndarray, low: float, high: float, width: int) -> str:
    """Folds, standard error and mean of one model on a line that all models share."""
    if not high > low:
        return ""
    place = lambda x: round((width - 1) * float(np.clip((x - low) / (high - low), 0, 1)))  # noqa: E731
    cells = [" "] * width
    for x in scores:
        cells[place(x)] = "·"
    mean, error = scores.mean(), scores.std(ddof=1) / np.sqrt(len(scores))
    for i in range(place(mean - error), place(mean + error) + 1):
        cells[i] = "━"
    cells[place(mean)] = "●"
    return "".join(cells)
