"""The critical batch size by branched training: from a checkpoint, train on with larger batches and compare.

Branches see the same number of examples, with the learning rate scaled by a rule; the largest multiple whose loss comes
back within a tolerance of the small batch's is the critical one. On the noisy quadratic
½Σh_i x_i², whose gradient has variance c_i/B, E[x_i²] follows (1 − ηh_i)²v + η²c_i/B exactly, which is what
`noisy_quadratic` computes. The noise scale tr(HΣ)/(GᵀHG) grows as ‖G‖ falls, and so does the critical batch size.

Cost: one branch of training per multiple. Source: Merrill et al., "Critical batch size revisited" (2025) (the
branches); Zhang et al., "How does critical batch size scale in pre-training?" (2024); Zhang et al., "Which algorithmic
choices matter at which batch sizes? Insights from a noisy quadratic model" (2019); McCandlish et al. (2018).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Solution
from corollary.train._lr_batch import scale_learning_rate


def critical_batch_size(
    branch: Callable[[int, float], Any],
    batch_size: int,
    learning_rate: float,
    *,
    multiples: Sequence[int] = (1, 2, 4, 8, 16),
    rule: str = "sqrt",
    tolerance: float = 0.0,
    relative: float = 0.01,
) -> Solution:
    """The largest multiple of a batch size that trains on from a checkpoint as well as the batch itself.

    Use it now and then during a run: the critical size grows, and `batch_warmup` turns its curve into a plan. The
    search stops at the first multiple that falls short.

    Parameters
    ----------
    branch
        ``branch(batch_size, learning_rate) -> loss`` trains on from the checkpoint over a fixed number of examples,
        whatever the batch size, and returns the (smoothed) loss at the end.
    batch_size, learning_rate
        What the checkpoint was trained with.
    multiples
        Rising integers from 1.
    rule
        Of `scale_learning_rate`: ``"linear"`` for SGD, ``"sqrt"`` for Adam.
    tolerance, relative
        A branch recovers where its loss <= (1 + relative)·base + tolerance.

    Returns
    -------
    `Solution` whose value is the critical batch size in examples; ``stats["losses"]`` and ``stats["multiples"]`` are
    what was run; ``stats["censored"]``: even the largest multiple recovered, so the size is at least that.

    Certificates: ``recovered`` (monitor: the chosen branch's loss is within the tolerance).

    Raises
    ------
    InputError
        For multiples that do not rise from 1, a bad setting, or a base branch whose loss is not finite.

    Source: Merrill et al. (2025).

    Examples
    --------
    >>> int(critical_batch_size(lambda b, lr: 1.0 + max(0, b - 64) / 100, 16, 0.1).value)
    64
    """
    validation.integer(1)("batch_size", batch_size)
    validation.number(0, open_low=True)("learning_rate", learning_rate)
    validation.number(0)("tolerance", tolerance)
    validation.number(0)("relative", relative)
    sizes = list(multiples)
    whole = all(isinstance(k, int | np.integer) for k in sizes)
    if not sizes or not whole or sizes[0] != 1 or any(b <= a for a, b in itertools.pairwise(sizes)):
        raise InputError(f"multiples: found {sizes}, expected rising integers from 1")
    losses: list[float] = []
    allowed, best = np.inf, 1
    for multiple in sizes:
        rate = scale_learning_rate(learning_rate, batch_size, batch_size * multiple, rule).learning_rate
        losses.append(float(branch(batch_size * multiple, rate)))
        if multiple == 1:
            if not np.isfinite(losses[0]):
                raise InputError(f"branch: found loss {losses[0]} at the checkpoint's own batch size, expected finite")
            allowed = losses[0] + relative * abs(losses[0]) + tolerance
        elif not losses[-1] <= allowed:  # a NaN does not recover either
            break
        best = multiple
    certificate = Certificate(
        "loss of the chosen branch <= (1 + relative)·base + tolerance",
        measured=losses[sizes.index(best)],
        bound=float(allowed),
        kind="monitor",
        source="Merrill et al. (2025)",
    )
    stats = {"losses": np.asarray(losses), "multiples": np.asarray(sizes[: len(losses)]), "censored": best == sizes[-1]}
    return Solution(batch_size * best, {"recovered": certificate}, stats=stats)


def noisy_quadratic(
    curvature: Any, noise: Any, start: Any, *, learning_rate: Any, batch_size: Any, steps: int
) -> np.ndarray:
    """The second moments E[x_i²] of SGD on a noisy quadratic after some steps, exactly.

    Use it as a model of training where batch sizes and learning rates can be compared without noise; the expected loss
    is ``0.5 * np.sum(curvature * moments)``.

    Parameters
    ----------
    curvature, noise
        h_i > 0 and the gradient's variance c_i for one example (n,).
    start
        E[x_i²] at the start (n,).
    learning_rate, batch_size
        η and B.
    steps
        How many.

    Returns
    -------
    numpy.ndarray
        E[x_i²] (n,). No certificate: the recursion is exact for independent examples.

    Raises
    ------
    InputError
        For a setting out of range, or lengths that differ.

    Source: Zhang et al. (2019).

    Examples
    --------
    >>> noisy_quadratic([1.0], [1.0], [4.0], learning_rate=0.5, batch_size=1, steps=1).tolist()
    [1.25]
    """
    named = {"curvature": curvature, "noise": noise, "start": start}
    h, c, v = (np.asarray(validation.vector(k, np.asarray(x, dtype=float), host=True)) for k, x in named.items())
    validation.number(0, open_low=True)("learning_rate", learning_rate)
    validation.number(0, open_low=True)("batch_size", batch_size)
    validation.integer(0)("steps", steps)
    for name, values, least in (("curvature", h, 0), ("noise", c, -1), ("start", v, -1)):
        validation.same_length("curvature", h, name, values)
        if np.any(values <= least) or np.any(values < 0):
            raise InputError(f"{name}: found {values.min():g}, expected numbers {'> 0' if least == 0 else '>= 0'}")
    step, add = learning_rate * h, learning_rate**2 * c / batch_size
    # (1 − ηh)^{2·steps} and its geometric sum, without the cancellation of small ηh.
    small = np.minimum(step, 0.5)
    log_power = 2 * steps * np.log1p(-small)
    factor = (1 - step) ** 2
    with np.errstate(over="ignore", invalid="ignore"):  # an unstable step grows to infinity
        power = np.where(step < 0.5, np.exp(log_power), factor**steps)
        lost = np.where(step < 0.5, -np.expm1(log_power), 1 - factor**steps)
        slope = step * (2 - step)
        total = np.where(slope == 0, steps, lost / np.where(slope == 0, 1, slope))  # ηh = 2: the factor is 1
        return np.where(v > 0, power * v, 0.0) + np.where(add > 0, total * add, 0.0)
