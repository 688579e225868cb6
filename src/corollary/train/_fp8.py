"""FP8 quantisers for training: E4M3 forward, E5M2 for gradients, with a per-tensor scale, current or delayed.

A tensor is multiplied by a power of two that brings its largest entry just below the format's largest number, rounded
to 8 bits, and divided again; the scaling is exact, so in the normal range the relative error is at most half a unit,
2⁻⁴ for E4M3 and 2⁻³ for E5M2. What a delayed scale (from the maxima of the last steps) did not foresee saturates.

Cost: O(n). Source: Micikevicius et al., "FP8 formats for deep learning" (2022), §3 and table 1.
"""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.float_formats import FORMATS, round_to
from corollary.core.precision import as_float, follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import at_least_zero, finite


@follows_input
def quantize_fp8(x: Any, name: str = "e4m3", *, scale: Any = None) -> Solution:
    """Round a tensor to FP8 with a per-tensor scale.

    Use it to see what FP8 training would do to a tensor; `fp8` is the version to train through.

    Parameters
    ----------
    x
        Finite values, any shape.
    name
        ``"e4m3"`` (weights, activations) or ``"e5m2"`` (gradients).
    scale
        A power of two that multiplies x before rounding; None: from the largest entry.

    Returns
    -------
    `Solution` whose value is the quantised tensor, in the dtype of x; ``stats["scale"]``, ``stats["saturated"]`` (share
    of entries past the largest number).

    Certificates: ``relative_error`` (exact: in the format's normal range at most 2⁻⁴ or 2⁻³).

    Raises
    ------
    InputError
        For another format, a tensor that is not finite, or a scale that is no power of two.

    Source: Micikevicius et al. (2022), table 1.

    Examples
    --------
    >>> import numpy as np
    >>> quantize_fp8(np.array([1.0, 1.1, 0.3])).value.tolist()
    [1.0, 1.125, 0.3125]
    """
    validation.one_of("e4m3", "e5m2")("name", name)
    x = finite("x", as_float(x))
    if scale is not None and not isinstance(scale, Tracer):
        at_least_zero("scale", scale, positive=True)
        if np.any(np.frexp(np.asarray(scale, dtype=float))[0] != 0.5):
            raise InputError(f"scale: found {scale}, expected a power of two")
    return _quantize(x, None if scale is None else jnp.asarray(scale).astype(x.dtype), name)


@functools.partial(jax.jit, static_argnames="name")
def _quantize(x: Array, scale: Any, name: str) -> Solution:
    form = FORMATS[name]
    scale = fp8_scale(jnp.max(jnp.abs(x), initial=0), name) if scale is None else scale
    scaled = x * scale
    q = round_to(jnp.clip(scaled, -form.max, form.max), name)
    normal = (jnp.abs(scaled) >= form.smallest_normal) & (jnp.abs(scaled) <= form.max)
    error = jnp.where(normal, jnp.abs(q - scaled) / jnp.where(normal, jnp.abs(scaled), 1), 0)
    certificate = Certificate(
        "relative error in the normal range <= half a unit in the last place",
        measured=jnp.max(error, initial=0),
        bound=jnp.asarray(form.eps / 2 * (1 + 4 * jnp.finfo(x.dtype).eps), x.dtype),
        kind="exact",
        source="Micikevicius et al. (2022), table 1",
    )
    stats = {"scale": scale, "saturated": jnp.mean((jnp.abs(scaled) > form.max).astype(x.dtype))}
    return Solution(q / scale, {"relative_error": certificate}, stats=stats)


def fp8_scale(largest: Any, name: str = "e4m3") -> Float[Array, "..."]:
    """The power of two that brings `largest` just within a format; 1 for a tensor of zeros.

    Parameters
    ----------
    largest
        max |x|, any shape.
    name
        ``"e4m3"`` or ``"e5m2"``.

    Returns
    -------
    Array
        2^⌊log₂(max/largest)⌋, within what the dtype of `largest` represents. No certificate.

    Examples
    --------
    >>> float(fp8_scale(1.0))
    256.0
    """
    validation.one_of("e4m3", "e5m2")("name", name)
    largest = as_float(largest)
    return _scale(largest, name)


@functools.partial(jax.jit, static_argnames="name")
def _scale(largest: Array, name: str) -> Array:
    # max = m·2^e with m in [0.5, 1); so the power is the difference of exponents, one less where the mantissa is
    # larger.
    mantissa, exponent = jnp.frexp(jnp.where(largest > 0, largest, 1))
    top_mantissa, top_exponent = jnp.frexp(jnp.asarray(FORMATS[name].max, largest.dtype))
    power = top_exponent - exponent - (mantissa > top_mantissa).astype(exponent.dtype)
    least = jnp.finfo(largest.dtype).minexp
    power = jnp.clip(power, least, -least)
    return jnp.where(largest > 0, jnp.ldexp(jnp.ones_like(largest), power), 1)


class DelayedScale(eqx.Module):
    """A scale from the largest entries of the last steps, for use where a tensor is too large to be read twice.

    Parameters
    ----------
    history
        Largest |entry| of the last steps (length,), zeros at first: the scale is then 1.
    name
        ``"e4m3"`` or ``"e5m2"``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> state = DelayedScale.start(4).after(jnp.array([0.5, -2.0]))
    >>> float(state.scale)
    128.0
    """

    history: Float[Array, "length"]
    name: str = eqx.field(static=True, default="e4m3")

    @classmethod
    def start(cls, length: int = 16, name: str = "e4m3", dtype: Any = jnp.float32) -> DelayedScale:
        """No step seen."""
        validation.integer(1)("length", length)
        validation.one_of("e4m3", "e5m2")("name", name)
        return cls(jnp.zeros(length, dtype), name)

    @property
    def scale(self) -> Float[Array, ""]:
        """From the largest of the history."""
        return fp8_scale(jnp.max(self.history), self.name)

    def after(self, x: Float[Array, "..."]) -> DelayedScale:
        """The state after a step that saw x; a maximum that is not finite is left out."""
        largest = jnp.max(jnp.abs(x)).astype(self.history.dtype)
        largest = jnp.where(jnp.isfinite(largest), largest, jnp.max(self.history))
        return DelayedScale(jnp.roll(self.history, 1).at[0].set(largest), self.name)


@jax.custom_vjp
def fp8(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Round to E4M3 forward and the gradient to E5M2 backward, each with its own current scale.

    Use it on weights and activations before a product, to train as FP8 hardware would. The rounding itself has
    gradient 1 (straight-through). Infinities and NaN pass as they are.

    Parameters
    ----------
    x
        Values, any shape.

    Returns
    -------
    Array
        In the dtype of x. No certificate: `quantize_fp8` gives one.

    Source: Micikevicius et al. (2022), §3.1.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> float(fp8(jnp.asarray(1.1))), float(jax.grad(fp8)(jnp.asarray(1.1)))
    (1.125, 1.0)
    """
    return _round(x, "e4m3")


def _round(x: Array, name: str) -> Array:
    # What is not finite neither sets the scale nor saturates: an overflow must stay one, for the loss scale to see it.
    fine = jnp.isfinite(x)
    scale = fp8_scale(jnp.max(jnp.where(fine, jnp.abs(x), 0), initial=0), name)
    return jnp.where(fine, round_to(jnp.clip(x * scale, -FORMATS[name].max, FORMATS[name].max), name) / scale, x)


fp8.defvjp(lambda x: (_round(x, "e4m3"), None), lambda _, g: (_round(g, "e5m2"),))
