"""``corollary fit``: read, split, prepare, fit, score on held-out rows, write the folder."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

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

    Numbers are standardised, text becomes one indicator per category, a missing number its column's training mean;
    all of that is saved with the model, so that `corollary predict` needs nothing else.

    Example: corollary fit diabetes --target target --model lasso --out runs/first
    """
    from corollary.cli import folder, show
    from corollary.core import compile_cache
    from corollary.report import fit_page

    if out is not None:
        folder.check(out)
    compile_cache.enable()
    command = ["corollary", "fit", data, "--model", model]
    command += ["--target", target] if target else []
    command += [part for text in settings or [] for part in ("--set", text)]
    command += ["--test-size", f"{test_size:g}", "--seed", str(seed)]
    run, fitted, schema, held_out = train(data, target, model, settings or (), test_size, seed, shlex.join(command))
    if out is not None:
        from corollary.core import model_file

        with folder.fresh(out) as work:
            model_file.save(fitted, work, schema=schema.plain(), name=model, data=run.data)
            (work / "metrics.json").write_text(
                json.dumps(metrics(run), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            write_csv(work / "predictions.csv", held_out)
            (work / "report.html").write_text(fit_page(run), encoding="utf-8")
    show.fit(run, out)
    if strict and not run.holds:
        print("error: --strict: a certificate does not hold (see the table)", file=sys.stderr)
        return 3
    return 0


def train(
    data: str, target: str | None, name: str, settings: Sequence[str], test_size: float, seed: int, command: str
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """The finished run, the fitted pipeline, its schema and the held-out rows' predictions as columns."""
    from sklearn.model_selection import train_test_split

    from corollary.cli import models, pipeline
    from corollary.cli.clock import stopwatch
    from corollary.core.data import read
    from corollary.core.errors import InputError
    from corollary.report import FitRun

    if not 0 < test_size < 1:
        raise InputError(f"--test-size: found {test_size:g}, expected a share between 0 and 1")
    spec = models.spec_of(name)
    model = models.build(name, settings, seed)
    started = time.perf_counter()
    table = read(data)
    target = target_of(table, target, spec.kind)
    y = labels(table, target, name, spec.kind) if spec.kind != "reduction" else None
    schema, notices = pipeline.schema_of(table, target, spec.kind)
    X = pipeline.inputs(table, schema)
    reading = time.perf_counter() - started

    rows = table.rows
    held = int(-(-test_size * rows // 1))
    if held < 2 or rows - held < 2:
        raise InputError(
            f"DATA: found {rows} row{'s' * (rows != 1)} in {table.name}, expected at least 2 to learn from and 2 held out"
        )
    classes = None if spec.kind != "classification" else y
    if classes is not None and min(held, rows - held) < len(set(classes.tolist())):
        raise InputError(
            f"--test-size: {test_size:g} of {rows} rows does not leave one row of each class on both sides"
        )
    learn, test = train_test_split(list(range(rows)), test_size=test_size, random_state=seed, stratify=classes)
    learn, test = _ascending(learn), _ascending(test)
    X_learn, X_test = pipeline.rows_of(X, learn), pipeline.rows_of(X, test)
    notices += pipeline.missing_notice(X, schema)

    fitted = pipeline.pipeline(model, schema, spec.penalised)
    with stopwatch() as seconds:
        notices += fit_quietly(fitted, X_learn, None if y is None else y[learn], f"fit {name}", schema)
    notices += pipeline.unseen_notice(X_test, fitted, schema)
    started = time.perf_counter()
    with quiet():
        result = evaluate(fitted, spec.kind, X_test, y, learn, test, seed)
    scoring = time.perf_counter() - started
    timing = {
        "read": reading,
        "fit": seconds["wall"] - seconds["compile"],
        "compile": seconds["compile"],
        "score": scoring,
    }
    columns = {"row": test + 1, **result.pop("columns")}
    run = FitRun(
        data=table.name, model=name, kind=spec.kind, target=target, command=command, estimator=fitted.named_steps["model"],
        features=pipeline.prepared_names(fitted, schema), rows={"train": len(learn), "test": len(test)},
        seconds=timing, notices=notices, versions=_versions(), **result,
    )  # fmt: skip
    return run, fitted, schema, columns


def target_of(table: Any, target: str | None, kind: str) -> str | None:
    """The column to predict: as named, or the only label that the file carries."""
    from corollary.core.errors import InputError

    if target is None and kind != "reduction":
        known = [name for name in ("target", "y") if name in table.labels]
        if not known:
            listed = ", ".join(repr(name) for name in table.columns[:8]) + (", ..." if len(table.columns) > 8 else "")
            raise InputError(f"--target: found none, expected a column of {table.name}: {listed}")
        return known[0]
    if target is not None and target not in table.columns:
        table.column(target)  # refuses, with the nearest names
    return target


def labels(table: Any, target: Any, name: str, kind: str) -> Any:
    """The target as numbers for a regression, as classes for a classification, or an error that names the column."""
    import numpy as np

    from corollary.core.errors import InputError

    y = table.column(target)
    text = y.dtype.kind in "OU"
    missing = (
        np.asarray([v is None for v in y])
        if y.dtype.kind == "O"
        else np.isnan(y)
        if y.dtype.kind == "f"
        else np.zeros(len(y), bool)
    )
    if missing.any():
        raise InputError(
            f"column {target!r}: found {missing.sum()} of {len(y)} rows without a value, expected a target in each"
        )
    if kind == "regression":
        if text:
            raise InputError(
                f"column {target!r}: found text ({str(y[0])!r}), expected numbers for {name} (for classes: --model logistic)"
            )
        y = y.astype(np.float64)
        if not np.isfinite(y).all():
            raise InputError(f"column {target!r}: found an infinity, expected finite numbers")
        return y
    y = y.astype(str) if text else y
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2:
        raise InputError(f"column {target!r}: found one class only ({classes[0]}), expected at least two")
    if not text and (np.any(classes != np.round(classes)) or len(classes) > max(20, len(y) // 10)):
        raise InputError(
            f"column {target!r}: found {len(classes)} distinct numbers, a quantity rather than classes, as {name} expects"
            " (for a quantity: --model ridge)"
        )
    if counts.min() < 2:
        raise InputError(
            f"column {target!r}: found one row of class {str(classes[counts.argmin()])!r}, expected at least two of each"
        )
    return y


def fit_quietly(fitted: Any, X: Any, y: Any, description: str, schema: Any) -> list[str]:
    """Fit under a progress bar; what it warned of comes back as notices (failed certificates are in the table anyway)."""
    from corollary.cli import pipeline
    from corollary.core import progress
    from corollary.core.errors import CertificateWarning

    model = fitted.named_steps["model"]
    shown = sys.stderr.isatty()
    verbose = model.get_params(deep=False).get("verbose")
    with quiet() as caught, progress.bar(description, enabled=shown):
        if shown and verbose is False:
            model.set_params(verbose=True)
        prepare = fitted.named_steps["prepare"]
        Z = prepare.fit_transform(X)
        pipeline.check_scales(fitted, schema)
        model.fit(Z) if y is None else model.fit(Z, y)
        if shown and verbose is False:
            model.set_params(verbose=False)
    messages = [str(w.message).splitlines()[0] for w in caught if not issubclass(w.category, CertificateWarning)]
    return list(dict.fromkeys(messages))


def evaluate(fitted: Any, kind: str, X: Any, y: Any, learn: Any, test: Any, seed: int) -> dict[str, Any]:
    """Scores with intervals and predictions on the held-out rows."""
    import numpy as np

    from corollary.report import scores

    model = fitted.named_steps["model"]
    if kind == "reduction":
        Z = fitted.named_steps["prepare"].transform(X)
        projected = np.asarray(model.transform(Z))
        restored = np.asarray(model.inverse_transform(projected))
        dense = Z.toarray() if hasattr(Z, "toarray") else Z
        columns = {f"component_{i + 1}": projected[:, i] for i in range(projected.shape[1])}
        mean = np.asarray(getattr(model, "mean_", np.zeros(dense.shape[1])))
        return {
            "scores": scores.reconstruction(dense, restored, mean, seed),
            "projected": projected,
            "columns": columns,
        }
    actual, predicted = y[test], np.asarray(fitted.predict(X))
    columns = {"actual": actual, "predicted": predicted}
    if kind == "regression":
        return {
            "scores": scores.regression(actual, predicted, seed),
            "actual": actual,
            "predicted": predicted,
            "columns": columns,
        }
    probability = np.asarray(fitted.predict_proba(X)) if hasattr(fitted, "predict_proba") else None
    prior = np.asarray([np.mean(y[learn] == c) for c in model.classes_])
    if probability is not None:
        columns |= {f"probability_{c}": probability[:, i] for i, c in enumerate(model.classes_)}
    made = scores.classification(actual, predicted, probability, model.classes_, prior, seed)
    return {"scores": made, "actual": actual, "predicted": predicted, "probability": probability, "columns": columns}


def metrics(run: Any) -> dict[str, Any]:
    """What ``metrics.json`` says; numbers that are not finite become null."""
    import numpy as np

    def number(x: Any) -> Any:
        x = np.asarray(x, dtype=float)
        return (float(x) if np.isfinite(x) else None) if x.ndim == 0 else [number(v) for v in x]

    certificates = {
        name: {
            "claim": c.claim, "kind": c.kind, "measured": number(c.measured), "bound": None if c.bound is None else number(c.bound),
            "confidence": number(c.confidence), "holds": bool(np.all(c.holds)), "source": c.source, "sentence": c.explain(),
        }
        for name, c in run.certificates.items()
    }  # fmt: skip
    scores = {
        s.name: {"value": number(s.value), "interval_95": [number(s.low), number(s.high)], "method": s.method}
        | ({} if s.baseline is None else {"baseline": number(s.baseline)})
        for s in run.scores
    }
    solution = getattr(run.estimator, "solution_", None)
    return {
        "format": "corollary-metrics", "schema": 1, "command": run.command, "data": run.data, "target": run.target,
        "model": run.model, "rows": dict(run.rows), "columns": len(run.features), "scores": scores, "certificates": certificates,
        "holds": run.holds, "status": solution.message if solution is not None else None,
        "seconds": {k: number(v) for k, v in run.seconds.items()}, "notices": list(run.notices), "versions": dict(run.versions),
    }  # fmt: skip


def write_csv(path: Any, columns: dict[str, Any]) -> None:
    """Columns as a CSV file (or to a binary stream), numbers with every digit."""
    import pyarrow as pa
    import pyarrow.csv

    pyarrow.csv.write_csv(pa.table({name: pa.array(values) for name, values in columns.items()}), path)


@contextlib.contextmanager
def quiet() -> Iterator[list[Any]]:
    """Keep warnings for later instead of printing them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def _ascending(rows: Any) -> Any:
    import numpy as np

    return np.sort(np.asarray(rows))


def _versions() -> dict[str, str]:
    import importlib.metadata
    import platform

    import corollary

    packages = {name: importlib.metadata.version(name) for name in ("jax", "numpy", "scikit-learn")}
    return {"corollary": corollary.__version__, **packages, "python": platform.python_version()}
