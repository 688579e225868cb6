"""``corollary compare``: several models on the same folds."""

from __future__ import annotations

import json
import pathlib
import shlex
import sys
from typing import Annotated, Any

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
    from corollary.cli import folder, show
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
            (work / "metrics.json").write_text(
                json.dumps(_metrics(result), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
    show.comparison(result, table, out)
    if strict and any(held < folds for held in result["held"]):
        print("error: --strict: a certificate does not hold (see the table)", file=sys.stderr)
        return 3
    return 0


def cross_validate(
    data: str, target: str | None, names: list[str], settings: list[str], folds: int, seed: int
) -> dict[str, Any]:
    """Scores of every model on every fold, with times and how often the certificates held."""
    import numpy as np
    from sklearn.base import clone
    from sklearn.model_selection import KFold, StratifiedKFold

    from corollary.cli import models, pipeline
    from corollary.cli.clock import stopwatch
    from corollary.cli.fit import fit_quietly, labels, quiet, target_of
    from corollary.core.data import read
    from corollary.core.errors import InputError

    specs = {name: models.spec_of(name, "--models") for name in names}
    kinds = {spec.kind for spec in specs.values()}
    if len(specs) < 2 or len(specs) < len(names):
        raise InputError(
            f"--models: found {','.join(names)}, expected at least two different names separated by commas"
        )
    if len(kinds) > 1 or "reduction" in kinds:
        raise InputError(
            f"--models: found {', '.join(sorted(kinds))} models together, expected only regressions or only classifications"
        )
    kind = kinds.pop()
    built = {name: models.build(name, _settings_of(name, settings, names), seed, "--models") for name in names}
    table = read(data)
    target = target_of(table, target, kind)
    y = labels(table, target, names[0], kind)
    schema, notices = pipeline.schema_of(table, target, kind)
    X = pipeline.inputs(table, schema)
    smallest = int(np.unique(y, return_counts=True)[1].min()) if kind == "classification" else table.rows // 2
    if folds > smallest:
        of = "rows of the rarest class" if kind == "classification" else "pairs of rows"
        raise InputError(f"--folds: found {folds}, expected at most {smallest}, the number of {of}")
    splitter = (StratifiedKFold if kind == "classification" else KFold)(folds, shuffle=True, random_state=seed)
    score, seconds = np.zeros((len(names), folds)), np.zeros((len(names), folds))
    compiling, held = np.zeros(len(names)), np.zeros(len(names), dtype=int)
    last = {}
    splits = list(splitter.split(np.zeros(table.rows), y))
    for i, name in enumerate(names):
        for j, (learn, test) in enumerate(splits):
            fitted = pipeline.pipeline(clone(built[name]), schema, specs[name].penalised)
            with stopwatch() as clock:
                fit_quietly(fitted, pipeline.rows_of(X, learn), y[learn], f"{name}, fold {j + 1} of {folds}", schema)
            with quiet():
                predicted = np.asarray(fitted.predict(pipeline.rows_of(X, test)))
            score[i, j] = _r2(y[test], predicted) if kind == "regression" else np.mean(predicted == y[test])
            seconds[i, j], compiling[i] = clock["wall"] - clock["compile"], compiling[i] + clock["compile"]
            model = fitted.named_steps["model"]
            last[name] = getattr(model, "certificates_", {})
            held[i] += all(bool(np.all(c.holds)) for c in last[name].values())
    return {
        "data": table.name, "target": target, "models": names, "kind": kind, "rows": table.rows, "folds": score,
        "score": "R²" if kind == "regression" else "accuracy", "seconds": seconds.mean(axis=1), "compile": compiling,
        "held": held.tolist(), "certificates": last, "notices": notices, "differences": paired(score),
    }  # fmt: skip


def paired(score: Any) -> list[tuple[float, float] | None]:
    """Mean difference to the best model and the half-width of its 95 % interval, paired by fold; None for the best.

    The variance of k folds' differences d is taken as (1/k + n_test/n_train) var(d) with n_test/n_train = 1/(k − 1),
    since training sets overlap: Nadeau & Bengio, Inference for the generalization error, 2003, eq. (8).
    """
    import numpy as np
    import scipy.stats

    k = score.shape[1]
    best = int(np.argmax(score.mean(axis=1)))
    t = float(scipy.stats.t.ppf(0.975, k - 1))
    differences: list[tuple[float, float] | None] = []
    for i, row in enumerate(score):
        d = row - score[best]
        half = t * float(np.sqrt((1 / k + 1 / (k - 1)) * d.var(ddof=1)))
        differences.append(None if i == best else (float(d.mean()), half))
    return differences


def _settings_of(name: str, settings: list[str], names: list[str]) -> list[str]:
    """The settings that concern one model: ``name.key=value``, and those that name no model."""
    from corollary.core.errors import InputError

    chosen = []
    for text in settings:
        owner, dot, rest = text.partition(".")
        if dot and "=" not in owner:
            if owner not in names:
                raise InputError(
                    f"--set: found {text!r} for {owner!r}, expected one of the models compared: {', '.join(names)}"
                )
            chosen += [rest] if owner == name else []
        else:
            chosen.append(text)
    return chosen


def _r2(y: Any, predicted: Any) -> float:
    import numpy as np

    total = float(np.sum((y - y.mean()) ** 2))
    return 1 - float(np.sum((y - predicted) ** 2)) / total if total > 0 else float("nan")


def _metrics(result: dict[str, Any]) -> dict[str, Any]:
    folds = result["folds"]
    models = {
        name: {
            "mean": float(folds[i].mean()), "standard_error": float(folds[i].std(ddof=1) / folds.shape[1] ** 0.5),
            "folds": folds[i].tolist(), "seconds_per_fit": float(result["seconds"][i]), "compile_seconds": float(result["compile"][i]),
            "folds_where_certificates_hold": result["held"][i],
            "difference_to_best": None if result["differences"][i] is None else list(result["differences"][i]),
        }
        for i, name in enumerate(result["models"])
    }  # fmt: skip
    kept = {key: result[key] for key in ("command", "data", "target", "rows", "score", "notices")}
    return {"format": "corollary-comparison", "schema": 1, **kept, "models": models}
