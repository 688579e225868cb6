"""Float formats as mathematics: what a format can represent, and rounding to it, to nearest or at random.

Everything is computed from the exponent range and the mantissa width, in the precision of the values themselves, so
formats that the hardware lacks (tf32) cost the same as those it has. O(n).

Source: IEEE 754-2019; OCP 8-bit floating point specification (E4M3, E5M2); Croci et al., Stochastic rounding (2022).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from corollary.core.errors import InputError
from corollary.core.precision import as_float, follows_input


@dataclasses.dataclass(frozen=True)
class FloatFormat:
    """A binary floating-point format.

    Parameters
    ----------
    name
        ``"fp64"``, ``"fp32"``, ``"tf32"``, ``"bf16"``, ``"fp16"``, ``"e4m3"`` or ``"e5m2"``.
    exponent_bits, mantissa_bits
        Stored bits; the leading 1 of a normal number is not stored.
    finite
        True for E4M3, which spends one code on NaN and has no infinities: its largest number is 448.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    finite: bool = False

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number."""
        return 2 - 2 ** (self.exponent_bits - 1)

    @property
    def eps(self) -> float:
        """Gap between 1 and the next number; the unit roundoff is half of it."""
        return 2.0**-self.mantissa_bits

    @property
    def max(self) -> float:
        """Largest finite number."""
        top = 2 ** (self.exponent_bits - 1) - 1 + self.finite
        return 2.0**top * (2 - self.eps * (1 + self.finite))

    @property
    def smallest_normal(self) -> float:
        """Smallest positive number of full precision."""
        return 2.0**self.min_exponent

    @property
    def smallest_subnormal(self) -> float:
        """Smallest positive number."""
        return 2.0 ** (self.min_exponent - self.mantissa_bits)

    @property
    def digits(self) -> float:
        """Decimal digits carried: (mantissa_bits + 1)·log10 2."""
        return (self.mantissa_bits + 1) * 0.30102999566398120


FORMATS: dict[str, FloatFormat] = {
    f.name: f
    for f in (
        FloatFormat("fp64", 11, 52),
        FloatFormat("fp32", 8, 23),
        FloatFormat("tf32", 8, 10),
        FloatFormat("bf16", 8, 7),
        FloatFormat("fp16", 5, 10),
        FloatFormat("e4m3", 4, 3, finite=True),
        FloatFormat("e5m2", 5, 2),
    )
}


@follows_input
def round_to(x: Any, name: str) -> Float[Array, "..."]:
    """Round to the nearest number of a format, ties to even, subnormals included.

    Parameters
    ----------
    x
        Values, any shape.
    name
        The format; one at least as wide as the dtype of `x` leaves it unchanged.

    Returns
    -------
    Array
        In the dtype of `x`. Past the largest number: infinity, or NaN in E4M3, as the casts of ``ml_dtypes`` do.

    Examples
    --------
    >>> import numpy as np
    >>> round_to(np.array([1.1, 500.0, 1e-3]), "e4m3").tolist()
    [1.125, nan, 0.001953125]
    """
    x, form = as_float(x), _format(name)
    if _at_least_as_wide(form, x):
        return x
    units, exponent = _in_units(x, form)
    y = jnp.ldexp(jnp.round(units), exponent)
    over = jnp.abs(y) > form.max
    return jnp.where(jnp.isfinite(x), jnp.where(over, _past_the_end(x, form), y), jnp.where(form.finite, jnp.nan, x))


@follows_input
def stochastic_round(x: Any, name: str, key: Key[Array, ""]) -> Float[Array, "..."]:
    """Round up or down at random with probability proportional to proximity, so that E[round(x)] = x.

    Use it where many small updates meet a large value (training in bf16): rounding to nearest loses them all. The
    variance is (x − lo)(hi − x); numbers of the format are left unchanged; past the largest number it saturates.

    Parameters
    ----------
    x
        Finite values, any shape.
    name
        The format; one at least as wide as the dtype of `x` leaves it unchanged.
    key
        Same key, same bits.

    Returns
    -------
    Array
        In the dtype of `x`.

    Examples
    --------
    >>> import jax, numpy as np
    >>> stochastic_round(np.array([1.0, 1.125]), "e4m3", jax.random.key(0)).tolist()
    [1.0, 1.125]
    """
    x, form = as_float(x), _format(name)
    if _at_least_as_wide(form, x):
        return x
    units, exponent = _in_units(x, form)
    low = jnp.floor(units)
    up = jax.random.uniform(key, x.shape, x.dtype) < units - low
    return jnp.clip(jnp.ldexp(low + up.astype(x.dtype), exponent), -form.max, form.max)


def _format(name: str) -> FloatFormat:
    if name not in FORMATS:
        raise InputError(f"name: found {name!r}, expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


def _at_least_as_wide(form: FloatFormat, x: Array) -> bool:
    info = jnp.finfo(x.dtype)
    return form.mantissa_bits >= info.nmant and form.exponent_bits >= info.nexp


def _in_units(x: Array, form: FloatFormat) -> tuple[Array, Array]:
    """x as a multiple of the format's spacing at x, and that spacing's exponent; the scaling is exact."""
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(x), x, jnp.zeros_like(x)))
    spacing = jnp.maximum(exponent - 1, form.min_exponent) - form.mantissa_bits
    return jnp.ldexp(x, -spacing), spacing


def _past_the_end(x: Array, form: FloatFormat) -> Array:
    return jnp.full_like(x, jnp.nan) if form.finite else jnp.copysign(jnp.full_like(x, jnp.inf), x)
