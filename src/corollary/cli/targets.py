"""The target: which column it is, and whether it suits the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from corollary.core.errors import InputError


def target_of(table: Any, target: str | None, kind: str) -> str | None:
    """The column to predict: as named, or the only label that the file carries."""
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
    y = table.column(target)
    text = y.dtype.kind in "OU"
    missing = int(np.sum(y == None if text else np.isnan(y)))  # noqa: E711 (elementwise)
    if missing:
        raise InputError(
            f"column {target!r}: found {missing} of {len(y)} rows without a value, expected a target in each"
        )
    if kind == "regression":
        if text:
            raise InputError(
                f"column {target!r}: found text ({str(y[0])!r}), expected numbers for {name}"
                " (for classes: --model logistic)"
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
            f"column {target!r}: found {len(classes)} distinct numbers, a quantity, expected classes for {name}"
            " (for a quantity: --model ridge)"
        )
    if counts.min() < 2:
        rare = str(classes[counts.argmin()])
        raise InputError(f"column {target!r}: found one row of class {rare!r}, expected at least two of each")
    return y
