"""``corollary fit``: the command; `corollary.cli.training` does the work."""

from __future__ import annotations

import pathlib
import shlex
import sys
from typing import Annotated

import typer

DATA = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A .csv, .tsv, .parquet, .npz or .svmlight file, or breast_cancer, diabetes, digits, iris, wine.",
    ),
]
TARGET = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="The column to predict (pca needs none; an svmlight file's is 'target')."),
]
SEED = Annotated[int, typer.Option(min=0, help="Seed of the split, the model and the intervals.")]
STRICT = Annotated[bool, typer.Option("--strict", help="Exit with status 3 where a certificate does not hold.")]


def fit(
    data: DATA,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="ols, ridge, ridge-cv, lasso, lasso-cv, elastic-net, logistic or pca.")
    ],
    target: TARGET = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the model, e.g. alpha=0.1; repeat for more."),
    ] = None,
    out: Annotated[
        pathlib.Path | None, typer.Option(metavar="DIR", help="Where the model, its scores and report.html go.")
    ] = None,
    test_size: Annotated[float, typer.Option(help="Share of the rows held out for the scores, between 0 and 1.")] = 0.2,
    seed: SEED = 0,
    strict: STRICT = False,
) -> int:
    """Fit a model, score it on held-out rows, and say what is certain about it.

    Numbers are standardised, text becomes one indicator per category, and
    missing numbers become their column's training mean. All of that is saved
    with the model, so that `corollary predict` needs nothing else.

    Example: corollary fit diabetes --target target --model lasso --out runs/first
    """
    from corollary.cli import folder, record, show
    from corollary.cli.training import train
    from corollary.core import compile_cache, model_file
    from corollary.report import fit_page

    if out is not None:
        folder.check(out)
    compile_cache.enable()
    command = ["corollary", "fit", data, "--model", model]
    command += ["--target", target] if target else []
    command += [part for text in settings or [] for part in ("--set", text)]
    command += ["--test-size", f"{test_size:g}", "--seed", str(seed)]
    asked = shlex.join(command)
    run, fitted, schema, held_out = train(
        data, target, model, settings or (), test_size, seed, asked, trace=out is not None
    )
    if out is not None:
        with folder.fresh(out) as work:
            model_file.save(fitted, work, schema=schema.plain(), name=model, data=run.data)
            record.write_json(work / "metrics.json", record.metrics(run))
            record.write_csv(work / "predictions.csv", held_out)
            (work / "report.html").write_text(fit_page(run), encoding="utf-8")
    show.fit(run, out)
    if strict and not run.holds:
        print("error: --strict: a certificate does not hold (see the table)", file=sys.stderr)
        return 3
    return 0
