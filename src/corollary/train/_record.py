"""What a run leaves behind besides its state: its history, and what a checkpoint keeps of it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np


class Record:
    """What a run leaves behind besides its state: metrics for each step, and the validations."""

    def __init__(self, first: int):
        self.first = first
        self.columns: dict[str, list[np.ndarray]] = {}
        self.at: list[int] = []
        self.validations: dict[str, list[float]] = {}
        self.reports: list[str] = []
        self.in_a_row = 0

    def append(self, log: dict[str, np.ndarray], taken: int) -> None:
        """The metrics of `taken` more steps."""
        for name, values in log.items():
            self.columns.setdefault(name, []).append(values[:taken])

    def validated(self, step: int, values: dict[str, float]) -> None:
        """What was found after `step` steps."""
        self.at.append(step)
        for name, value in values.items():
            self.validations.setdefault(f"validation_{name}", []).append(float(value))

    def steps(self, until: int | None = None) -> dict[str, np.ndarray]:
        """Each metric, one entry a step, up to the step `until`: a failed one was logged, but is to be taken again."""
        length = None if until is None else until - self.first
        return {name: np.concatenate(parts)[:length] for name, parts in self.columns.items()}

    def length(self) -> int:
        """Steps logged."""
        return max((sum(map(len, parts)) for parts in self.columns.values()), default=0)

    def series(self, name: str) -> np.ndarray:
        """One value a validation: what was found, or a step's metric averaged since the validation before."""
        if name in self.validations:
            return np.asarray(self.validations[name])
        column, edges = np.concatenate(self.columns[name]), np.asarray([self.first, *self.at]) - self.first
        parts = [column[a:b][np.isfinite(column[a:b])] for a, b in itertools.pairwise(edges)]  # a skipped step is none
        return np.asarray([part.mean() if len(part) else np.nan for part in parts])

    def history(self) -> dict[str, np.ndarray]:
        """Every series with one entry a step; a validation stands at the step after which it was made."""
        history = self.steps()
        length = max((len(column) for column in history.values()), default=0)
        place = np.asarray(self.at, dtype=int) - self.first - 1
        for name, values in self.validations.items():
            history[name] = np.full(length, np.nan)
            history[name][place] = values
        return history

    def plain(self) -> dict[str, Any]:
        """What goes into a checkpoint's JSON: numbers as text, which keeps their bits and knows NaN."""
        values = {name: [repr(value) for value in series] for name, series in self.validations.items()}
        return {"at": self.at, "validations": values, "reports": self.reports, "in_a_row": self.in_a_row}

    def restore(self, arrays: dict[str, np.ndarray], plain: dict[str, Any]) -> None:
        """What `steps` and `plain` wrote."""
        self.columns = {name: [array] for name, array in arrays.items()}
        self.at, self.reports, self.in_a_row = plain["at"], plain["reports"], plain["in_a_row"]
        self.validations = {name: [float(text) for text in series] for name, series in plain["validations"].items()}
