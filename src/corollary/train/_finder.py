"""A learning rate to start from: raise it exponentially until the loss explodes, and look where it fell fastest.

The loss of each step is smoothed by an exponential mean; the test ends where that exceeds `blow_up` times its least or
is not finite. The suggestion is the rate at the steepest fall against log(rate), a rule of thumb: an estimate, and it
is called one. Cost: at most `steps` steps.
Source: Smith, "Cyclical learning rates for training neural networks" (2017), section 3.3; smoothing and steepest fall
are the common practice since.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Solution, Status
from corollary.train._feed import Feed
from corollary.train._trainer import Trainer


def find_learning_rate(
    model: PyTree,
    loss: Callable[..., Any],
    optimizer: Callable[[Any], optax.GradientTransformation],
    feed: Feed,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
    blow_up: float = 4.0,
    **settings: Any,
) -> Solution:
    """Range test of the learning rate; the model is not changed.

    Use it once per model and data before a long run; draw ``history["smoothed"]`` against ``history["rate"]``.

    Parameters
    ----------
    model, loss, feed
        As for `Trainer`.
    optimizer
        From a learning rate (or schedule) to an optimizer: `optax.adam`.
    low, high
        The range, covered evenly in its logarithm.
    steps
        How many steps the range takes.
    smoothing
        Decay of the exponential mean, in [0, 1).
    blow_up
        The test ends where the smoothed loss is so many times its least value.
    **settings
        More settings of `Trainer` (`state`, `policy`, ...).

    Returns
    -------
    Solution
        ``value``: the suggested rate; ``history``: ``rate``, ``loss`` and ``smoothed``. Certificate ``rate``, an
        estimate. Status: converged where the loss fell at all within the range, else at the step limit.

    Raises
    ------
    InputError
        Where the range is empty or a setting is refused.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from corollary.train import ArrayFeed, find_learning_rate
    >>> data = ArrayFeed(jnp.linspace(-1, 1, 64), batch_size=16)
    >>> def loss(w, x, key):
    ...     return jnp.mean((w * x - 3 * x) ** 2)
    >>> solution = find_learning_rate(jnp.zeros(()), loss, optax.sgd, data, low=1e-4, high=100.0)
    >>> 1e-2 < float(solution.value) < 10
    True
    """
    validation.number(0, open_low=True)("low", low)
    validation.number(low, open_low=True)("high", high)
    validation.integer(2)("steps", steps)
    validation.number(0, 1)("smoothing", smoothing)
    if smoothing == 1:
        raise InputError("smoothing: found 1, expected a number in [0, 1)")
    validation.number(1, open_low=True)("blow_up", blow_up)
    ratio = high / low

    def rate(step):
        return low * ratio ** (jnp.asarray(step, jnp.float32) / (steps - 1))

    trainer = Trainer(model, loss, optimizer(rate), **settings)
    solution = trainer.fit(feed, steps=steps)
    raw = np.asarray((solution.history or {})["loss"], dtype=float)
    finite = np.isfinite(raw)
    raw = raw[: len(raw) if finite.all() else int(np.argmin(finite))]
    rates = low * ratio ** (np.arange(len(raw)) / (steps - 1))
    smoothed, mean = np.empty_like(raw), 0.0
    for i, value in enumerate(raw):
        mean = smoothing * mean + (1 - smoothing) * value
        smoothed[i] = mean / (1 - smoothing ** (i + 1))
    least = np.minimum.accumulate(smoothed) if len(raw) else smoothed
    blown = np.flatnonzero((least > 0) & (smoothed > blow_up * least))
    end = int(blown[0]) if len(blown) else len(raw)
    slopes = np.gradient(smoothed[:end], np.log(rates[:end])) if end > 2 else np.zeros(0)
    slopes[: round(1 / (1 - smoothing))] = 0  # until the mean has its memory filled, its slope is one batch's noise
    fell = len(slopes) > 0 and bool(slopes.min() < 0)
    value = float(rates[int(np.argmin(slopes))]) if fell else float(low)
    claim = "the loss, smoothed, falls fastest against log(rate) at this rate"
    certificate = Certificate(claim, measured=value, kind="estimate", source="Smith (2017), section 3.3")
    history = {"rate": rates, "loss": raw, "smoothed": smoothed}
    status = Status.CONVERGED if fell else Status.MAX_STEPS
    stats = {"ended_at": float(rates[end - 1]) if end else float(low), "steps_used": len(raw)}
    return dataclasses.replace(
        solution, value=value, certificates={"rate": certificate}, status=status, stats=stats, history=history
    )
