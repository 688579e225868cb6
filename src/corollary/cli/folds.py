"""Several models on the same folds, and what the paired differences say."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats
from sklearn.base import clone
from sklearn.model_selection import KFold, StratifiedKFold

from corollary.cli import models, pipeline
from corollary.cli.clock import stopwatch
from corollary.cli.targets import labels, target_of
from corollary.cli.training import fit_quietly, quiet
from corollary.core.data import read
from corollary.core.errors import InputError


def cross_validate(
    data: str, target: str | None, names: list[str], settings: list[str], folds: int, seed: int
) -> dict[str, Any]:
    """Scores of every model on every fold, with times and how often the certificates held."""
    specs = {name: models.spec_of(name, "--models") for name in names}
    kinds = {spec.kind for spec in specs.values()}
    if len(specs) < 2 or len(specs) < len(names):
        raise InputError(
            f"--models: found {','.join(names)}, expected at least two different names separated by commas"
        )
    if len(kinds) > 1 or "reduction" in kinds:
        found = " and ".join(sorted(kinds))
        raise InputError(f"--models: found {found} together, expected only regressions or only classifications")
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
    total = float(np.sum((y - y.mean()) ** 2))
    return 1 - float(np.sum((y - predicted) ** 2)) / total if total > 0 else float("nan")


def metrics(result: dict[str, Any]) -> dict[str, Any]:
    """What ``metrics.json`` says of a comparison."""
    models = {}
    for i, (name, scores) in enumerate(zip(result["models"], result["folds"], strict=True)):
        models[name] = {
            "mean": scores.mean(),
            "standard_error": scipy.stats.sem(scores),
            "folds": scores,
            "seconds_per_fit": result["seconds"][i],
            "compile_seconds": result["compile"][i],
            "folds_where_certificates_hold": result["held"][i],
            "difference_to_best": result["differences"][i],
        }
    kept = {key: result[key] for key in ("command", "data", "target", "rows", "score", "notices")}
    return {"format": "corollary-comparison", "schema": 1, **kept, "models": models}
