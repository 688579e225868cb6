"""One fit from end to end: read, split, prepare, fit, score on held-out rows."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import train_test_split

from corollary.cli import models, pipeline, record
from corollary.cli.clock import stopwatch
from corollary.cli.targets import labels, target_of
from corollary.core import progress
from corollary.core.data import read
from corollary.core.errors import CertificateWarning, InputError
from corollary.report import FitRun, scores

TRACE_SECONDS = 2.0


def train(
    data: str,
    target: str | None,
    name: str,
    settings: Sequence[str],
    test_size: float,
    seed: int,
    command: str,
    trace: bool = False,
) -> tuple[FitRun, Any, pipeline.Schema, dict[str, Any]]:
    """The finished run, the fitted pipeline, its schema and the held-out rows' predictions as columns.

    With `trace` the run also has its gap by number of steps, for the report's picture.
    """
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
        s = "s" * (rows != 1)
        raise InputError(f"DATA: found {rows} row{s} in {table.name}, expected at least 2 to learn from and 2 held out")
    classes = None if spec.kind != "classification" else y
    if classes is not None and min(held, rows - held) < len(set(classes.tolist())):
        raise InputError(
            f"--test-size: {test_size:g} of {rows} rows does not leave one row of each class on both sides"
        )
    learn, test = train_test_split(np.arange(rows), test_size=test_size, random_state=seed, stratify=classes)
    learn, test = np.sort(learn), np.sort(test)
    X_learn, X_test = pipeline.rows_of(X, learn), pipeline.rows_of(X, test)
    notices += pipeline.missing_notice(X, schema)

    fitted = pipeline.pipeline(model, schema, spec.penalised)
    with stopwatch() as clock:
        notices += fit_quietly(fitted, X_learn, None if y is None else y[learn], f"fit {name}", schema)
    notices += pipeline.unseen_notice(X_test, fitted, schema)
    started = time.perf_counter()
    with quiet():
        result = evaluate(fitted, spec.kind, X_test, y, learn, test, seed)
    scoring = time.perf_counter() - started
    spent = {"read": reading, "fit": clock["wall"] - clock["compile"], "compile": clock["compile"], "score": scoring}
    columns = {"row": test + 1, **result.pop("columns")}
    fitted_model, gaps = fitted.named_steps["model"], None
    if trace and y is not None and "duality_gap" in getattr(fitted_model, "certificates_", {}):
        gaps = gap_by_steps(fitted_model, fitted.named_steps["prepare"].transform(X_learn), y[learn], TRACE_SECONDS)
    run = FitRun(
        data=table.name, model=name, kind=spec.kind, target=target, command=command,
        estimator=fitted_model, gaps=gaps,
        features=pipeline.prepared_names(fitted, schema), rows={"train": len(learn), "test": len(test)},
        seconds=spent, notices=notices, versions=record.versions(), **result,
    )  # fmt: skip
    return run, fitted, schema, columns


def fit_quietly(fitted: Any, X: Any, y: Any, description: str, schema: Any) -> list[str]:
    """Fit under a progress bar; its warnings come back as notices (but for failed certificates: the table has them)."""
    model = fitted.named_steps["model"]
    shown = sys.stderr.isatty()
    verbose = model.get_params(deep=False).get("verbose")
    with quiet() as caught, progress.bar(description, enabled=shown):
        if shown and verbose is False:
            model.set_params(verbose=True)
        prepare = fitted.named_steps["prepare"]
        Z = prepare.fit_transform(X)
        pipeline.check_scales(fitted, schema)
        try:
            model.fit(Z) if y is None else model.fit(Z, y)
        except InputError as error:
            if str(error).partition(":")[0] in model.get_params(deep=False):
                raise InputError(f"--set {error}") from error
            raise
        except ValueError as error:  # what scikit-learn's own checks refuse
            raise InputError(f"{description}: {str(error).splitlines()[0]}") from error
        if shown and verbose is False:
            model.set_params(verbose=False)
    messages = [str(w.message).splitlines()[0] for w in caught if not issubclass(w.category, CertificateWarning)]
    return list(dict.fromkeys(messages))


def evaluate(fitted: Any, kind: str, X: Any, y: Any, learn: Any, test: Any, seed: int) -> dict[str, Any]:
    """Scores with intervals and predictions on the held-out rows."""
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


def gap_by_steps(model: Any, Z: Any, y: Any, seconds: float) -> tuple[Any, Any] | None:
    """The duality gap after k = 1, 2, ... steps, by fitting again with fewer of them, for at most so many seconds.

    None where the model kept its own history, takes no number of steps, or chooses its penalty (another problem each
    time). Beyond ten steps k grows by a third.
    """
    params, steps = model.get_params(deep=False), getattr(model, "n_iter_", None)
    known = getattr(getattr(model, "solution_", None), "history", None)
    if known or steps is None or not {"max_iter", "tol"} <= params.keys() or "cv" in params:
        return None
    last, k, found = int(np.max(steps)), 1, []
    deadline = time.perf_counter() + seconds
    with quiet():
        while k < last and time.perf_counter() < deadline:
            fewer: Any = clone(model)
            fewer.set_params(max_iter=k).fit(Z, y)
            found.append((k, float(np.max(np.asarray(fewer.certificates_["duality_gap"].measured)))))
            k += max(1, k // 3) if k >= 10 else 1
    if k < last or not found:  # out of time, or solved in one step
        return None
    found.append((last, float(np.max(np.asarray(model.certificates_["duality_gap"].measured)))))
    return tuple(np.array(found).T)


@contextlib.contextmanager
def quiet() -> Iterator[list[Any]]:
    """Keep warnings for later instead of printing them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
