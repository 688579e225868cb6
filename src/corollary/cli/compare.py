"""``corollary compare``: the command; `corollary.cli.folds` does the work."""

from __future__ import annotations

import pathlib
import shlex
import sys
from typing import Annotated

import typer

from corollary.cli.fit import DATA, SEED, STRICT, TARGET


def compare(
    data: DATA,
    models: Annotated[str, typer.Option(metavar="A,B,...", help="Names of models, separated by commas.")],
    target: TARGET = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="[MODEL.]KEY=VALUE", help="A setting of one model (lasso.alpha=0.1) or of all."),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="How many folds.")] = 5,
    out: Annotated[
        pathlib.Path | None, typer.Option(metavar="DIR", help="Where report.html and metrics.json go.")
    ] = None,
    seed: SEED = 0,
    strict: STRICT = False,
) -> int:
    """Cross-validate several models on the same folds and say which differ.

    The differences are paired by fold; their intervals allow for the folds' overlapping training sets.

    Example: corollary compare diabetes --target target --models ols,ridge-cv,lasso-cv
    """
    from corollary.cli import folder, record, show
    from corollary.cli.folds import cross_validate, metrics
    from corollary.core import compile_cache
    from corollary.report import comparison_page

    if out is not None:
        folder.check(out)
    compile_cache.enable()
    command = ["corollary", "compare", data, "--models", models]
    command += ["--target", target] if target else []
    command += [part for text in settings or [] for part in ("--set", text)]
    command += ["--folds", str(folds), "--seed", str(seed)]
    result = cross_validate(data, target, [name.strip() for name in models.split(",")], settings or [], folds, seed)
    result["command"] = shlex.join(command)
    table = show.comparison_rows(result)
    if out is not None:
        title = f"{', '.join(result['models'])}: {result['target']} from {result['data']}"
        subtitle = f"{folds} folds of {result['rows']:,} rows, the same for every model"
        page = comparison_page(
            title,
            subtitle,
            result["models"],
            result["folds"],
            result["score"],
            table,
            result["certificates"],
            result["command"],
        )
        with folder.fresh(out) as work:
            (work / "report.html").write_text(page, encoding="utf-8")
            record.write_json(work / "metrics.json", metrics(result))
    show.comparison(result, table, out)
    if strict and any(held < folds for held in result["held"]):
        print("error: --strict: a certificate does not hold (see the table)", file=sys.stderr)
        return 3
    return 0
