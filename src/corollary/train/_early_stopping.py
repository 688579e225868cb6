"""When to stop: rules over the history of a validation value, and which of its entries was the best.

A rule looks at the whole history each time (it is short), so it has no state of its own and a resumed run stops where
the uninterrupted one does. All but the target compare ratios or counts: scaling the values changes no verdict.
Source: Prechelt, "Early stopping, but when?" (1998), section 2 (GL, PQ and UP).
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, final

import equinox as eqx
import numpy as np

from corollary.core.errors import InputError
from corollary.core.validation import integer, number, one_of


class Verdict(eqx.Module):
    """What a rule says of a history: whether to stop, why, and where (from 0) the best value stands (−1: nowhere)."""

    stop: bool = eqx.field(static=True)
    reason: str = eqx.field(static=True)
    best: int = eqx.field(static=True)


class StoppingRule(eqx.Module):
    """A rule over the history of one value, smaller being better unless ``mode="max"``."""

    if TYPE_CHECKING:  # fields of the leaves, which stand last in their constructors
        monitor: str
        mode: str

    @abc.abstractmethod
    def _fires(self, values: np.ndarray, best: int) -> str:
        """The reason to stop, or an empty text; `values` are finite or +inf, smaller is better."""

    def check(self, history: Sequence[float] | np.ndarray) -> Verdict:
        """The verdict over a history; NaN counts as the worst value."""
        values = np.asarray(history, dtype=float)
        if values.ndim != 1:
            raise InputError(f"history: found an array of shape {values.shape}, expected a vector")
        values = np.where(np.isnan(values), np.inf, values if self.mode == "min" else -values)
        if not np.isfinite(values).any():
            return Verdict(False, "", -1)
        best = int(np.argmin(values))
        reason = self._fires(values, best)
        return Verdict(bool(reason), reason, best)

    def __check_init__(self):
        """Refuse an unknown mode."""
        one_of("min", "max")("mode", self.mode)


@final
class EarlyStopping(StoppingRule):
    """Stop after `patience` validations in a row without a new best.

    Parameters
    ----------
    patience
        How many.
    min_delta
        A new best must be better by this fraction of the best so far.
    monitor
        The name of the value in the history.
    mode
        ``"min"`` or ``"max"``.

    Examples
    --------
    >>> verdict = EarlyStopping(patience=2).check([3.0, 1.0, 2.0, 1.5])
    >>> verdict.stop, verdict.best, verdict.reason
    (True, 1, 'no better than validation 1 for 2 in a row')
    """

    patience: int = eqx.field(static=True, default=5)
    min_delta: float = eqx.field(static=True, default=0.0)
    monitor: str = eqx.field(static=True, default="validation_loss")
    mode: Literal["min", "max"] = eqx.field(static=True, default="min")

    def __check_init__(self):
        """Refuse a patience below 1, or a negative fraction."""
        integer(1)("patience", self.patience)
        number(0)("min_delta", self.min_delta)

    def _fires(self, values: np.ndarray, best: int) -> str:
        last = 0  # the latest validation that was better by the margin
        for i in range(1, len(values)):
            margin = self.min_delta * abs(values[last]) if np.isfinite(values[last]) else 0.0
            if values[i] < values[last] - margin:
                last = i
        waited = len(values) - 1 - last
        return f"no better than validation {last} for {waited} in a row" if waited >= self.patience else ""


@final
class TargetReached(StoppingRule):
    """Stop as soon as the value is at least as good as a target.

    Parameters
    ----------
    target
        The value to reach.
    monitor, mode
        As in `EarlyStopping`.

    Examples
    --------
    >>> TargetReached(0.9, monitor="validation_accuracy", mode="max").check([0.5, 0.95]).stop
    True
    """

    target: float = eqx.field(static=True)
    monitor: str = eqx.field(static=True, default="validation_loss")
    mode: Literal["min", "max"] = eqx.field(static=True, default="min")

    def __check_init__(self):
        """Refuse what is no number."""
        number()("target", self.target)

    def _fires(self, values: np.ndarray, best: int) -> str:
        goal = self.target if self.mode == "min" else -self.target
        return f"reached the target {self.target:g} at validation {best}" if values[best] <= goal else ""


@final
class GeneralizationLoss(StoppingRule):
    """Stop when the value has risen above the best one by a fraction: GL_α, for positive values.

    Parameters
    ----------
    alpha
        The fraction: GL = value/best − 1 > alpha.
    monitor, mode
        As in `EarlyStopping`; ``mode`` must be ``"min"``.

    Examples
    --------
    >>> GeneralizationLoss(0.1).check([2.0, 1.0, 1.05, 1.2]).stop
    True
    """

    alpha: float = eqx.field(static=True, default=0.05)
    monitor: str = eqx.field(static=True, default="validation_loss")
    mode: Literal["min"] = eqx.field(static=True, default="min")

    def __check_init__(self):
        """Refuse a negative fraction."""
        number(0)("alpha", self.alpha)
        one_of("min")("mode", self.mode)

    def _fires(self, values: np.ndarray, best: int) -> str:
        if values[best] <= 0:
            return ""
        loss = values[-1] / values[best] - 1
        return f"{loss:.3g} above the best of validation {best}" if loss > self.alpha else ""


@final
class SuccessiveRises(StoppingRule):
    """Stop when the value rose in `rises` strips of `strip` validations in a row: UP_s.

    Parameters
    ----------
    rises
        s: how many strips in a row.
    strip
        Validations a strip: the latest value is compared with that one strip before, that with the one before, ...
    monitor, mode
        As in `EarlyStopping`.

    Examples
    --------
    >>> SuccessiveRises(2).check([3.0, 1.0, 1.1, 1.2]).stop
    True
    """

    rises: int = eqx.field(static=True, default=3)
    strip: int = eqx.field(static=True, default=1)
    monitor: str = eqx.field(static=True, default="validation_loss")
    mode: Literal["min", "max"] = eqx.field(static=True, default="min")

    def __check_init__(self):
        """Refuse counts below 1."""
        integer(1)("rises", self.rises)
        integer(1)("strip", self.strip)

    def _fires(self, values: np.ndarray, best: int) -> str:
        del best
        ends: Any = values[:: -self.strip][: self.rises + 1]  # the latest first
        risen = len(ends) == self.rises + 1 and bool(np.all(ends[:-1] > ends[1:]))
        return f"rose {self.rises} times in a row" if risen else ""
