"""What a run leaves behind besides its model: ``metrics.json`` and ``predictions.csv``."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import platform
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

import corollary
from corollary.core.certificate import Certificate
from corollary.report import FitRun


def metrics(run: FitRun) -> dict[str, Any]:
    """What ``metrics.json`` says; numbers that are not finite become null."""
    scores = {}
    for s in run.scores:
        scores[s.name] = {"value": s.value, "interval_95": [s.low, s.high], "method": s.method, "baseline": s.baseline}
    solution = getattr(run.estimator, "solution_", None)
    return {
        "format": "corollary-metrics",
        "schema": 1,
        "command": run.command,
        "data": run.data,
        "target": run.target,
        "model": run.model,
        "rows": dict(run.rows),
        "columns": len(run.features),
        "scores": scores,
        "certificates": {name: _certificate(c) for name, c in run.certificates.items()},
        "holds": run.holds,
        "status": None if solution is None else solution.message,
        "seconds": dict(run.seconds),
        "notices": list(run.notices),
        "versions": dict(run.versions),
    }


def _certificate(c: Certificate) -> dict[str, Any]:
    numbers = {key: getattr(c, key) for key in ("measured", "bound", "stderr", "confidence")}
    texts = {"claim": c.claim, "kind": c.kind, "source": c.source, "sentence": c.explain()}
    return {**texts, **numbers, "holds": bool(np.all(c.holds))}


def write_json(path: pathlib.Path, value: Any) -> None:
    """Plain data as JSON; a number that is not finite becomes null."""
    path.write_text(json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    array = np.asarray(value)
    if array.ndim:
        return [_plain(v) for v in array]
    return array.item() if np.isfinite(array) else None


def write_csv(path: Any, columns: dict[str, Any]) -> None:
    """Columns as a CSV file (or to a binary stream), numbers with every digit."""
    pyarrow.csv.write_csv(pa.table({name: pa.array(values) for name, values in columns.items()}), path)


def versions() -> dict[str, str]:
    """Of this library and what its numbers depend on."""
    packages = {name: importlib.metadata.version(name) for name in ("jax", "numpy", "scikit-learn")}
    return {"corollary": corollary.__version__, **packages, "python": platform.python_version()}
