"""Schedules that Optax lacks: powers of time, warm-down, warm-up-stable-decay, Smith's one cycle, growing batches.

All are functions from the step count to a number, as Optax's are: usable wherever a number is, and joined by
`optax.join_schedules`. Counts start at 0. A piece that ends at step n reaches its end value AT n, inclusive, as
`optax.piecewise_constant_schedule` switches at its boundary itself. Cost: O(1) a step.
Source: Robbins & Monro, "A stochastic approximation method" (1951), for the sums; Smith, "A disciplined approach to
neural network hyper-parameters: part 1" (2018), section 4; Hu et al., "MiniCPM" (2024), section 4 (WSD); Wright &
Demeure, "Ranger21" (2021), section 2.6 (flat, then linear in the last 28 %); Smith et al., "Don't decay the learning
rate, increase the batch size" (2018).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim.transforms._transform import check

Schedule = Callable[[Any], Any]


def power_schedule(initial: Any, exponent: Any = 0.5, offset: Any = 1.0) -> Schedule:
    """η0/(t + t0)^α: Robbins and Monro's steps for 1/2 < α ≤ 1.

    Parameters
    ----------
    initial
        η0.
    exponent
        α ≥ 0.
    offset
        t0 > 0, which slows the start.

    Returns
    -------
    Schedule
        From the step count.

    Raises
    ------
    InputError
        For values out of range.

    Examples
    --------
    >>> float(power_schedule(2.0, 1.0, 4.0)(4))
    0.25
    """
    check("initial", initial, 0.0)
    check("exponent", exponent, 0.0)
    check("offset", offset, 0.0, open_low=True)
    return lambda count: initial / (_float(count) + offset) ** exponent


def inverse_time_decay(initial: Any, rate: Any, power: Any = 1.0) -> Schedule:
    """η0/(1 + ct)^p: inverse time (p = 1) or inverse root (p = 1/2).

    Parameters
    ----------
    initial
        η0.
    rate
        c ≥ 0.
    power
        p ≥ 0.

    Returns
    -------
    Schedule
        From the step count.

    Raises
    ------
    InputError
        For values out of range.

    Examples
    --------
    >>> float(inverse_time_decay(1.0, 0.5)(2)), float(inverse_time_decay(1.0, 1.0, 0.5)(3))
    (0.5, 0.5)
    """
    check("initial", initial, 0.0)
    check("rate", rate, 0.0)
    check("power", power, 0.0)
    return lambda count: initial / (1 + rate * _float(count)) ** power


class ScheduleSums(eqx.Module):
    """Σ η_t and Σ η_t² over the first steps: Robbins and Monro ask the first to diverge, the second to converge."""

    total: Array
    squares: Array


def schedule_sums(schedule: Schedule, steps: int) -> ScheduleSums:
    """Σ η_t and Σ η_t² of any schedule over t = 0, ..., steps − 1.

    Parameters
    ----------
    schedule
        From the step count.
    steps
        How many, at least 1.

    Returns
    -------
    ScheduleSums
        ``total`` and ``squares``.

    Examples
    --------
    >>> sums = schedule_sums(power_schedule(1.0, 1.0), 3)
    >>> f"{sums.total:.4f} {sums.squares:.4f}"  # 1 + 1/2 + 1/3, 1 + 1/4 + 1/9
    '1.8333 1.3611'
    """
    validation.integer(1)("steps", steps)
    with jax.numpy_dtype_promotion("standard"):
        values = jax.vmap(schedule)(jnp.arange(steps))
    return ScheduleSums(jnp.sum(values), jnp.sum(values**2))


def warmdown_schedule(
    peak: Any, total_steps: int, warmup_steps: int = 0, floor: Any = 0.0, *, start: float = 0.72
) -> Schedule:
    """Explore, then exploit: linear warm-up, flat, and linear to the floor in the last 28 % of the steps.

    Parameters
    ----------
    peak
        η of the flat part.
    total_steps
        The floor is reached at this count and kept.
    warmup_steps
        Steps of the warm-up, from 0.
    floor
        η at the end.
    start
        Share of the steps at which the descent begins.

    Returns
    -------
    Schedule
        Piecewise linear and continuous.

    Raises
    ------
    InputError
        For values out of range, and a warm-up that reaches into the descent.

    Notes
    -----
    Defaults: 72 % of Ranger21.

    Examples
    --------
    >>> s = warmdown_schedule(1.0, 100, 10)
    >>> [round(float(s(t)), 3) for t in (0, 5, 10, 72, 86, 100)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    """
    return wsd_schedule(peak, total_steps, warmup_steps, floor, decay_fraction=1 - start)


def wsd_schedule(
    peak: Any,
    total_steps: int,
    warmup_steps: int = 0,
    floor: Any = 0.0,
    *,
    decay_fraction: float = 0.1,
    shape: str = "linear",
) -> Schedule:
    """Warm-up, stable, decay: a flat rate that can be extended at will and annealed whenever a model is wanted.

    Parameters
    ----------
    peak
        η of the flat part.
    total_steps
        The floor is reached at this count and kept.
    warmup_steps
        Steps of the linear warm-up, from 0.
    floor
        η at the end.
    decay_fraction
        Share of the steps that the descent takes, in (0, 1].
    shape
        ``"linear"``, ``"cosine"`` or ``"sqrt"`` (1 − √s, steep at first).

    Returns
    -------
    Schedule
        Continuous.

    Raises
    ------
    InputError
        For values out of range, and a warm-up that reaches into the descent.

    Notes
    -----
    Defaults: 10 % of Hu et al. (2024), section 4.

    Examples
    --------
    >>> s = wsd_schedule(1.0, 100, 10, decay_fraction=0.2, shape="sqrt")
    >>> [round(float(s(t)), 3) for t in (5, 50, 80, 85, 100)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    check("peak", peak, 0.0)
    check("floor", floor, 0.0)
    validation.integer(1)("total_steps", total_steps)
    validation.integer(0)("warmup_steps", warmup_steps)
    validation.number(0, 1, open_low=True)("decay_fraction", decay_fraction)
    validation.one_of("linear", "cosine", "sqrt")("shape", shape)
    begin = min(round(total_steps * (1 - decay_fraction)), total_steps - 1)  # a short run reaches the floor, too
    if warmup_steps > begin:
        raise InputError(f"warmup_steps: found {warmup_steps}, expected at most {begin}, where the descent begins")

    def schedule(count: Any) -> Any:
        t = _float(count)
        up = jnp.minimum(t / warmup_steps, 1) if warmup_steps else jnp.ones_like(t)
        s = jnp.clip((t - begin) / (total_steps - begin), 0, 1)
        if shape == "cosine":
            s = (1 - jnp.cos(jnp.pi * s)) / 2
        elif shape == "sqrt":
            s = jnp.sqrt(s)
        return (peak * (1 - s) + floor * s) * jnp.where(s > 0, 1, up)

    return schedule


def smith_one_cycle(
    peak: Any, total_steps: int, *, start_factor: Any = 0.1, final_factor: Any = 1e-3, anneal: float = 0.1
) -> Schedule:
    """One cycle after Smith: linear up, linear down by the same way, then annihilation far below the start.

    `optax.linear_onecycle_schedule` and PyTorch's `OneCycleLR` (cosine both ways by default) are other curves.

    Parameters
    ----------
    peak
        The largest η, at the middle of the cycle.
    total_steps
        Length of cycle and annihilation together.
    start_factor
        η at both ends of the cycle over the peak: 1/10 of Smith.
    final_factor
        η at the very end over the peak.
    anneal
        Share of the steps for the annihilation, in [0, 1).

    Returns
    -------
    Schedule
        Piecewise linear and continuous.

    Raises
    ------
    InputError
        For values out of range.

    Notes
    -----
    Momentum cycles the other way in Smith: hand ``lambda t: 0.95 - 0.1 * s(t) / peak`` to the optimizer.

    Examples
    --------
    >>> s = smith_one_cycle(1.0, 100, anneal=0.2)
    >>> [round(float(s(t)), 3) for t in (0, 40, 80, 100)]
    [0.1, 1.0, 0.1, 0.001]
    """
    check("peak", peak, 0.0)
    check("start_factor", start_factor, 0.0, 1.0)
    check("final_factor", final_factor, 0.0, 1.0)
    validation.integer(2)("total_steps", total_steps)
    validation.number(0, 1)("anneal", anneal)
    if anneal == 1:
        raise InputError("anneal: found 1, expected a number below 1: a cycle comes before it")
    cycle = total_steps * (1 - anneal)

    def schedule(count: Any) -> Any:
        t = _float(count)
        distance = jnp.clip(jnp.abs(t - cycle / 2) / (cycle / 2), 0, 1)
        tail = jnp.clip((t - cycle) / max(total_steps - cycle, 1e-9), 0, 1) if anneal > 0 else jnp.zeros_like(t)
        # Convex combinations: no rounding takes the rate below its end.
        level = (1 - distance) + start_factor * distance
        return peak * jnp.where(tail > 0, start_factor * (1 - tail) + final_factor * tail, level)

    return schedule


def batch_size_schedule(initial: int, final: int, steps: int, *, multiple: int = 1) -> Callable[[int], int]:
    """Batch-size warm-up: from `initial` linearly to `final` in `steps` steps, in multiples of `multiple`.

    For the feed, in Python: shapes that change recompile, so that a coarse `multiple` keeps their number small.

    Parameters
    ----------
    initial, final
        Batch sizes, 1 ≤ initial ≤ final.
    steps
        When `final` is reached.
    multiple
        Sizes are rounded down to a multiple of it (at least one).

    Returns
    -------
    Callable
        From the step count (an integer) to the batch size.

    Raises
    ------
    InputError
        For values out of range.

    Examples
    --------
    >>> size = batch_size_schedule(32, 256, 100, multiple=32)
    >>> [size(t) for t in (0, 50, 100, 200)]
    [32, 128, 256, 256]
    """
    for name, value in (("initial", initial), ("steps", steps), ("multiple", multiple)):
        validation.integer(1)(name, value)
    validation.integer(initial)("final", final)

    def size(count: int) -> int:
        raw = initial + (final - initial) * min(int(count), steps) / steps
        return max(int(raw) // multiple, 1) * multiple

    return size


def _float(count: Any) -> Array:
    count = jnp.asarray(count)
    return count if jnp.issubdtype(count.dtype, jnp.floating) else count.astype(jnp.zeros([]).dtype)
