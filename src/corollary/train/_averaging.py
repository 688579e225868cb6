"""Averages of the parameters, kept beside them while they train; one axpy over the parameters a step, one copy of them.

The mean of a tail of the iterates removes the noise of a constant step length (Polyak & Juditsky, 1992, theorem 1; with
a cyclical or constant rate: Izmailov et al., "Averaging weights leads to wider optima and better generalization",
2018); an exponential mean forgets at a rate of its own.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from corollary.core.errors import InputError
from corollary.core.validation import integer, number
from corollary.train._policy import at_least_float32


class AverageState(eqx.Module):
    """The average, in float32 at least (in bfloat16, 1 − 0.999 is nothing), and how many iterates it holds."""

    params: PyTree
    count: Int[Array, ""]


@final
class ExponentialAverage(eqx.Module):
    """The exponential moving average a ← d·a + (1 − d)·θ, from a = θ_0.

    Parameters
    ----------
    decay
        d in [0, 1).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> rule = ExponentialAverage(0.5)
    >>> float(rule.update(rule.init(jnp.array(0.0)), jnp.array(1.0), 0).params)
    0.5
    """

    decay: Any = 0.999

    def __check_init__(self):
        """Refuse a decay outside [0, 1)."""
        if not isinstance(self.decay, jax.Array):
            number(0, 1)("decay", self.decay)
            if self.decay == 1:
                raise InputError("decay: found 1, expected a number in [0, 1)")

    def init(self, params: PyTree) -> AverageState:
        """The average of the start alone."""
        return AverageState(jax.tree.map(at_least_float32, params), jnp.zeros((), jnp.int32))

    def update(self, state: AverageState, params: PyTree, step: Any) -> AverageState:
        """With the parameters after step number `step` (from 0)."""
        del step

        def mix(old, new):
            return optax.incremental_update(new.astype(old.dtype), old, 1 - jnp.asarray(self.decay, old.dtype))

        return AverageState(jax.tree.map(mix, state.params, params), state.count + 1)


@final
class TailAverage(eqx.Module):
    """The plain mean of the iterates from step `start` on, every `every` steps: Polyak's average, or SWA.

    Before the first of them, the average is the parameters themselves.

    Parameters
    ----------
    start
        The first step (from 0) whose iterate counts.
    every
        Take one iterate in so many: the cycle's length with a cyclical rate.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> rule = TailAverage(start=1)
    >>> state = rule.init(jnp.array(0.0))
    >>> for step, x in enumerate([5.0, 1.0, 3.0]):
    ...     state = rule.update(state, jnp.array(x), step)
    >>> float(state.params)
    2.0
    """

    start: Any = 0
    every: Any = 1

    def __check_init__(self):
        """Refuse what is no step number."""
        if not isinstance(self.start, jax.Array):
            integer(0)("start", self.start)
        if not isinstance(self.every, jax.Array):
            integer(1)("every", self.every)

    def init(self, params: PyTree) -> AverageState:
        """No iterate yet."""
        return AverageState(jax.tree.map(at_least_float32, params), jnp.zeros((), jnp.int32))

    def update(self, state: AverageState, params: PyTree, step: Any) -> AverageState:
        """With the parameters after step number `step` (from 0)."""
        past = jnp.asarray(step, jnp.int32) - jnp.asarray(self.start, jnp.int32)
        counts = (past >= 0) & (past % jnp.asarray(self.every, jnp.int32) == 0)
        count = state.count + counts.astype(jnp.int32)

        def mix(old, new):
            new = new.astype(old.dtype)
            weight = jnp.where(counts, 1 / jnp.maximum(count, 1).astype(new.dtype), 0)
            weight = jnp.where(count == 0, 1, weight).astype(new.dtype)
            return old + weight * (new - old)

        return AverageState(jax.tree.map(mix, state.params, params), count)
