"""Fallback from a curvature method to a first-order one, when the predicted gain no longer pays.

While ``gain ≥ threshold`` (the decrease that the curvature step is predicted to bring, over the first-order step's,
as the caller computes it) the curvature optimizer steps, else the first-order one. The first-order moments are kept up
to date all along, so that they are warm at the switch, and a step after a switch is no longer than `growth` times the
last one: the loss does not jump. Threshold 0 is the curvature method, ∞ the first-order one.
Cost: the active optimizer's, and the first-order state's O(n).
Source: defined here by its two limits; warm moments as in Keskar & Socher, "Improving generalization performance by
switching from Adam to SGD" (2017), section 3, which switches between other methods.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.optim._tree import norm
from corollary.optim.transforms._transform import after, at, check, counter, needs, rule


class SwitchState(NamedTuple):
    """Steps taken, both states, whether curvature is in use, the size of the last step, steps since a switch."""

    count: Array
    second: Any
    first: Any
    curvature: Array
    size: Array
    since: Array


def second_to_first_switch(
    second: optax.GradientTransformation,
    first: optax.GradientTransformation,
    threshold: Any = 1.0,
    growth: Any = 1.2,
    *,
    settle: int = 20,
) -> optax.GradientTransformationExtraArgs:
    """A curvature optimizer that gives way to a first-order one while its predicted gain is below a threshold.

    Parameters
    ----------
    second
        The curvature optimizer.
    first
        The first-order one, whose state is kept up to date in both modes.
    threshold
        Least gain for `second`: 0 always takes it, ``inf`` never.
    growth
        For `settle` steps after a switch a step is at most this factor longer than the one before.
    settle
        See there.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, gain=...)`` with a number ≥ 0; other extra arguments go to both.

    Raises
    ------
    InputError
        For settings out of range, and a call without `gain`.

    Notes
    -----
    Memory: both states. Cost: the active optimizer's and O(n). Defaults: threshold 1 (equal predicted decrease).
    When: late in training, when noise drowns the curvature.

    Examples
    --------
    >>> opt, x = second_to_first_switch(optax.sgd(1.0), optax.sgd(0.1), 1.0), jnp.array([1.0])
    >>> state = opt.init(x)
    >>> step, state = opt.update(x, state, x, gain=2.0)
    >>> later, state = opt.update(x, state, x, gain=0.5)
    >>> print(step, later)
    [-1.] [-0.1]
    """
    check("threshold", threshold, 0.0)
    check("growth", growth, 0.0, open_low=True)
    validation.integer(0)("settle", settle)
    one, two = optax.with_extra_args_support(first), optax.with_extra_args_support(second)

    def init(params: PyTree) -> SwitchState:
        size = jnp.zeros([], jnp.result_type(*jax.tree.leaves(params)))
        return SwitchState(counter(), two.init(params), one.init(params), jnp.ones([], bool), size, counter() + settle)

    def update(
        grads: PyTree, state: SwitchState, params: Any = None, gain: Any = None, **extra: Any
    ) -> tuple[PyTree, SwitchState]:
        needs("gain", gain, "the predicted gain of curvature, a number >= 0")
        use = jnp.asarray(gain) >= at(threshold, state.count)
        plain, first_state = one.update(grads, state.first, params, **extra)
        updates, second_state = jax.lax.cond(
            use,
            lambda: two.update(grads, state.second, params, **extra),
            lambda: (plain, state.second),
        )
        changed = (use != state.curvature) & (state.count > 0)
        since = jnp.where(changed, 0, state.since)
        size = norm(updates)
        most = at(growth, state.count) * state.size
        short = (since < settle) & (size > most) & (state.size > 0)
        scale = jnp.where(short, most / jnp.where(size > 0, size, 1), 1)
        updates = optax.tree.scale(scale, updates)
        new = SwitchState(after(state.count), second_state, first_state, use, scale * size, since + 1)
        return updates, new

    return rule(init, update)
