"""Gradient-norm monitor: norm, moving mean and z-score in the state, spikes flagged and, if asked, skipped.

The z-score measures log ‖g‖ against exponential averages of its past mean and variance, so that it has no unit; a spike
is a z above the quantile of Student's t that a wanted rate of false alarms gives for normal log norms, with the
averages' effective number of samples (1 + a)/(1 − a). Gradients that are not finite always count as spikes, and no
spike enters the averages (after `patience` in a row they do: a new level is not an outlier). Cost: one norm.
Source: exponentially weighted moving average charts, Roberts (1959); skipping: `optax.apply_if_finite`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree
from scipy import stats

from corollary.core import validation
from corollary.optim._tree import norm
from corollary.optim.transforms._transform import after, counter, rule


class MonitorState(NamedTuple):
    """Counts (steps, spikes, norms averaged), the last norm, mean and variance of its log, z, and this step's flag."""

    count: Array
    spikes: Array
    in_a_row: Array
    averaged: Array
    norm: Array
    mean: Array
    variance: Array
    z: Array
    spike: Array


def grad_norm_monitor(
    decay: float = 0.98, false_alarms: float = 1e-3, *, skip: bool = False, warmup: int = 20, patience: int = 5
) -> optax.GradientTransformationExtraArgs:
    """Watch the gradient's norm; flag, and with ``skip`` leave out, steps whose norm is an outlier or not finite.

    Parameters
    ----------
    decay
        a of the averages, in (0, 1).
    false_alarms
        Wanted rate of flags on normal noise, in (0, 1/2).
    skip
        Put zero updates out on a spike (chain it first, before the optimizer; its state then still takes a step).
    warmup
        Steps before anything but a non-finite gradient is flagged.
    patience
        So many spikes in a row are no spikes: the averages then follow.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Updates pass unchanged but for `skip`.

    Raises
    ------
    InputError
        For settings out of range.

    Notes
    -----
    Memory: nine numbers in all. Cost: one norm, O(n). Defaults: a window of 50 steps, one false alarm in 1000.
    When: always in long runs.

    Examples
    --------
    >>> monitor, g = grad_norm_monitor(skip=True), jnp.ones(3)
    >>> step, state = monitor.update(g * jnp.nan, monitor.init(g))
    >>> step.tolist(), bool(state.spike), int(state.spikes)
    ([0.0, 0.0, 0.0], True, 1)
    """
    validation.number(0.0, 1 - 1e-9, open_low=True)("decay", decay)
    validation.number(0.0, 0.5, open_low=True)("false_alarms", false_alarms)
    validation.flag("skip", skip)
    validation.integer(2)("warmup", warmup)
    validation.integer(1)("patience", patience)
    samples = (1 + decay) / (1 - decay)
    # Prediction of a new value: the mean's own error widens the interval.
    limit = float(stats.t.ppf(1 - false_alarms, max(samples - 1, 1)) * (1 + 1 / samples) ** 0.5)

    def init(params: PyTree) -> MonitorState:
        zero = jnp.zeros([], jnp.float32)
        return MonitorState(counter(), counter(), counter(), counter(), zero, zero, zero, zero, jnp.zeros([], bool))

    def update(grads: PyTree, state: MonitorState, params: Any = None, **_: Any) -> tuple[PyTree, MonitorState]:
        size = norm(grads)
        finite = jnp.isfinite(size)
        usable = finite & (size > 0)
        # The logarithm is taken first: a float64 norm may lie outside float32.
        log = jnp.log(jnp.where(usable, size, 1)).astype(jnp.float32)
        seen = state.averaged.astype(jnp.float32)
        # Both averages start as plain ones and forget later: no bias at the start.
        weight = jnp.maximum(1 - decay, 1 / (seen + 1))
        distance = log - state.mean
        spread = jnp.sqrt(state.variance)
        z = jnp.where(usable & (spread > 0), distance / jnp.where(spread > 0, spread, 1), 0)
        outlier = (z > limit) & (state.count >= warmup)
        row = jnp.where(outlier, state.in_a_row + 1, 0)
        spike = ~finite | (outlier & (row <= patience))
        enters = usable & ~spike
        mean = jnp.where(enters, state.mean + weight * distance, state.mean)
        variance = jnp.where(enters, (1 - weight) * (state.variance + weight * distance**2), state.variance)
        new = MonitorState(
            after(state.count),
            state.spikes + spike.astype(jnp.int32),
            row.astype(jnp.int32),
            state.averaged + enters.astype(jnp.int32),
            size.astype(jnp.float32),
            mean,
            variance,
            z,
            spike,
        )
        if skip:
            grads = jax.tree.map(lambda g: jnp.where(spike, jnp.zeros_like(g), g), grads)
        return grads, new

    return rule(init, update)
