"""Batch-size warm-up: start small, double as the critical batch size grows, see the same tokens in fewer steps.

The batch doubles when the curve of critical sizes says that twice the present batch would still train as well; the
learning rate follows by a rule. Steps saved: Σ_k tokens_k/B_k in place of tokens/B_0.

Cost: O(number of doublings). Source: Merrill et al., "Critical batch size revisited" (2025); Smith et al., "Don't
decay the learning rate, increase the batch size" (2018).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Solution
from corollary.train._lr_batch import scale_learning_rate


class BatchPhase(NamedTuple):
    """One phase of a plan: its first step, number of steps, batch size and learning rate."""

    start: int
    steps: int
    batch_size: int
    learning_rate: float


class BatchPlan(NamedTuple):
    """Phases in order, made by `batch_warmup`."""

    phases: tuple[BatchPhase, ...]

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.phases[-1].start + self.phases[-1].steps

    @property
    def examples(self) -> int:
        """Examples (or tokens) seen in all."""
        return sum(p.steps * p.batch_size for p in self.phases)

    def at(self, step: int) -> tuple[int, float]:
        """Batch size and learning rate at a step."""
        i = bisect.bisect_right([p.start for p in self.phases], step) - 1
        return self.phases[max(i, 0)].batch_size, self.phases[max(i, 0)].learning_rate


def batch_warmup(
    examples: int,
    batch_size: int,
    learning_rate: float,
    *,
    critical: Callable[[int], Any] | Sequence[int],
    largest: int | None = None,
    rule: str = "sqrt",
) -> Solution:
    """A plan that doubles the batch size as the critical one grows.

    Use it for long runs: most of training can take a large batch, its beginning cannot.

    Parameters
    ----------
    examples
        Examples (or tokens) in all.
    batch_size, learning_rate
        Of the first phase, in the same unit.
    critical
        The critical batch size as a function of the examples seen, or the numbers of examples at which to double.
    largest
        The batch never exceeds it; None: no limit.
    rule
        Of `scale_learning_rate`.

    Returns
    -------
    `Solution` whose value is a `BatchPlan`; ``stats["steps_saved"]`` against a constant batch.

    Certificates: ``examples`` (exact: the plan sees the asked number; the remainder, less than one batch of the first
    size, is a last smaller step).

    Raises
    ------
    InputError
        For sizes below 1, a largest batch below the first, or doubling points that do not rise.

    Source: Merrill et al. (2025).

    Examples
    --------
    >>> plan = batch_warmup(1000, 10, 0.1, critical=[200, 600], rule="linear").value
    >>> [(p.steps, p.batch_size) for p in plan.phases], plan.steps
    ([(20, 10), (20, 20), (10, 40)], 50)
    """
    validation.integer(1)("examples", examples)
    validation.integer(1)("batch_size", batch_size)
    validation.number(0, open_low=True)("learning_rate", learning_rate)
    validation.integer(1, none=True)("largest", largest)
    if largest is not None and largest < batch_size:
        raise InputError(f"largest: found {largest}, expected at least the first batch size {batch_size}")
    if not callable(critical):
        points = list(critical)
        if any(b <= a for a, b in zip([0, *points], points, strict=False)):
            raise InputError(f"critical: found doubling points {points}, expected rising ones above 0")
    phases: list[BatchPhase] = []
    seen, step, size = 0, 0, batch_size

    def may_double(seen: int, size: int) -> bool:
        if 2 * size > (examples if largest is None else min(largest, examples)):
            return False
        if callable(critical):
            return float(critical(seen)) >= 2 * size
        done = (size // batch_size).bit_length() - 1
        return done < len(critical) and seen >= critical[done]

    while seen < examples:
        while may_double(seen, size):
            size *= 2
        rate = scale_learning_rate(learning_rate, batch_size, size, rule).learning_rate
        left = (examples - seen) // size
        if left == 0:
            # What is left is less than a batch: smaller ones, down to the first size, then the remainder itself.
            if size > batch_size:
                tail = (examples - seen) // batch_size
            else:
                tail = 0
            if tail:
                phases.append(BatchPhase(step, tail, batch_size, learning_rate))
                step, seen = step + tail, seen + tail * batch_size
            if seen < examples:
                rest = examples - seen
                least = scale_learning_rate(learning_rate, batch_size, rest, rule).learning_rate
                phases.append(BatchPhase(step, 1, rest, least))
                step, seen = step + 1, examples
            break
        n = _steps_until(lambda k, seen=seen, size=size: may_double(seen + k * size, size), left)
        phases.append(BatchPhase(step, n, size, rate))
        step, seen = step + n, seen + n * size
    plan = BatchPlan(tuple(phases))
    certificate = Certificate(
        "|examples of the plan − examples| = 0",
        measured=float(abs(plan.examples - examples)),
        bound=0.0,
        kind="exact",
        source="counted",
    )
    constant = -(-examples // batch_size)
    return Solution(plan, {"examples": certificate}, stats={"steps_saved": constant - plan.steps})


def _steps_until(ready: Callable[[int], bool], most: int) -> int:
    """The fewest steps after which `ready`, or `most`: the curve is taken to rise."""
    if not ready(most):
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if ready(middle) else (middle, high)
    return high
