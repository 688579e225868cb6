"""Loss scaling: multiply the loss before the derivative, divide the gradient after, so that float16 does not underflow.

A power of two scales without rounding, hence the update does not depend on the scale while nothing over- or
underflows. The dynamic schedule is the usual one: a non-finite gradient skips the step and multiplies the scale by
`backoff`; `interval` finite steps in a row multiply it by `growth`.
Source: Micikevicius et al., "Mixed precision training" (2018), section 3.2.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from corollary.core.errors import InputError


class ScaleState(eqx.Module):
    """The scale in use, and how many finite steps it has seen in a row."""

    scale: Float[Array, ""]
    finite_steps: Int[Array, ""]


@final
class StaticScale(eqx.Module):
    """A fixed loss scale; a step with a non-finite gradient is the trainer's policy to handle.

    Parameters
    ----------
    scale
        A power of two, so that it rounds nothing.

    Examples
    --------
    >>> rule = StaticScale(128.0)
    >>> float(rule.update(rule.init(), True).scale)
    128.0
    """

    scale: Any = 2.0**10

    def __check_init__(self):
        """Refuse what is not positive."""
        _positive("scale", self.scale)

    def init(self) -> ScaleState:
        """The state at the start."""
        return ScaleState(jnp.asarray(self.scale, jnp.float32), jnp.zeros((), jnp.int32))

    def update(self, state: ScaleState, finite: Any) -> ScaleState:
        """The same scale."""
        del finite
        return state

    def harmless(self, state: ScaleState) -> Bool[Array, ""]:
        """An overflow at a fixed scale will come again: it is not harmless."""
        return jnp.zeros_like(state.scale, bool)


@final
class DynamicScale(eqx.Module):
    """A loss scale that backs off after an overflow and grows after a calm spell; defaults as in PyTorch.

    Parameters
    ----------
    initial, growth, backoff, interval
        The schedule: 2¹⁶, 2, 1/2, 2000 steps.
    floor
        An overflow at this scale or below is no matter of scaling: the trainer's policy for non-finite steps applies.

    Examples
    --------
    >>> rule = DynamicScale(initial=8.0, interval=2)
    >>> state = rule.update(rule.init(), False)  # an overflow
    >>> float(state.scale)
    4.0
    >>> float(rule.update(rule.update(state, True), True).scale)
    8.0
    """

    initial: Any = 2.0**16
    growth: Any = 2.0
    backoff: Any = 0.5
    interval: Any = 2000
    floor: Any = 1.0

    def __check_init__(self):
        """Refuse a schedule that does not grow, or does not back off."""
        for name in ("initial", "growth", "backoff", "interval", "floor"):
            _positive(name, getattr(self, name))
        if not isinstance(self.growth, jax.Array) and not self.growth >= 1:
            raise InputError(f"growth: found {self.growth!r}, expected a number >= 1")
        if not isinstance(self.backoff, jax.Array) and not self.backoff < 1:
            raise InputError(f"backoff: found {self.backoff!r}, expected a number in (0, 1)")

    def init(self) -> ScaleState:
        """The state at the start."""
        return ScaleState(jnp.asarray(self.initial, jnp.float32), jnp.zeros((), jnp.int32))

    def update(self, state: ScaleState, finite: Any) -> ScaleState:
        """Back off at once; grow after `interval` finite steps in a row, unless the scale would overflow."""
        count = jnp.where(finite, state.finite_steps + 1, 0).astype(jnp.int32)
        due = count >= jnp.asarray(self.interval, jnp.int32)
        grown = state.scale * jnp.asarray(self.growth, jnp.float32)
        grown = jnp.where(due & jnp.isfinite(grown), grown, state.scale)
        backed_off = state.scale * jnp.asarray(self.backoff, jnp.float32)
        return ScaleState(jnp.where(finite, grown, backed_off), jnp.where(due, 0, count).astype(jnp.int32))

    def harmless(self, state: ScaleState) -> Bool[Array, ""]:
        """Whether an overflow at this scale is only the schedule feeling its way."""
        return state.scale > jnp.asarray(self.floor, jnp.float32)


def unscale(gradients: PyTree, scale: Any) -> tuple[PyTree, Bool[Array, ""]]:
    """Gradients divided by the scale, and whether they are all finite (if not, the step is to be skipped).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> gradients, finite = unscale({"w": jnp.array([8.0, 16.0])}, 8.0)
    >>> gradients["w"].tolist(), bool(finite)
    ([1.0, 2.0], True)
    """
    divided = jax.tree.map(lambda g: g / jnp.asarray(scale, g.dtype), gradients)
    return divided, all_finite(divided)


def all_finite(*trees: PyTree) -> Bool[Array, ""]:
    """Whether every floating entry of the trees is finite."""
    verdict = jnp.ones((), bool)
    for leaf in jax.tree.leaves(trees):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            verdict = verdict & jnp.isfinite(leaf).all()
    return verdict


def _positive(name: str, value: Any) -> None:
    if not isinstance(value, jax.Array) and not (isinstance(value, int | float) and 0 < value < float("inf")):
        raise InputError(f"{name}: found {value!r}, expected a number in (0, inf)")
