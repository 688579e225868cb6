"""Compensated and pairwise summation, and how much cancellation a sum suffers.

Use `compensated_sum` where many terms of mixed sign or size meet in one number (float32 losses, long streams); it costs
about six additions a term, in vector lanes. `pairwise_sum` costs one addition a term and errs by O(u log n). Neither is
reassociated by the compiler: barriers hold the error terms in place.

Source: Higham, Accuracy and Stability of Numerical Algorithms (2002), §4.2-4.3; Ogita, Rump & Oishi (2005), Alg. 4.4.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.precision import follows_input

LANES = 128


class Sum(eqx.Module):
    """A sum with its rounding bound.

    Parameters
    ----------
    value
        The computed sum.
    condition
        The cancellation monitor Σ|x| / |Σx|: log10 of it is the number of digits that a plain sum may lose.
    error_bound
        An absolute bound on \\|value − Σx\\|.
    """

    value: Float[Array, ""]
    condition: Float[Array, ""]
    error_bound: Float[Array, ""]


@follows_input
def compensated_sum(x: Any) -> Sum:
    """Sum a vector as if in twice the working precision (Kahan-Babuška, by error-free additions).

    Parameters
    ----------
    x
        Terms, shape (n,).

    Returns
    -------
    Sum
        With error at most ``u·|Σx| + γ²·Σ|x|``, γ = n u: within Kahan's (2u + O(n u²))·Σ|x|.

    Examples
    --------
    >>> import numpy as np
    >>> float(compensated_sum(np.array([1.0, 1e100, 1.0, -1e100])).value)
    2.0
    """
    x = validation.vector("x", x, empty=True)
    u = 0.5 * jnp.finfo(x.dtype).eps
    rows = jnp.pad(x, (0, -x.size % LANES)).reshape(-1, LANES)
    zero = jnp.zeros(LANES, x.dtype)
    (sums, errors), _ = lax.scan(lambda carry, row: (_add(carry, row), None), (zero, zero), rows)
    start = (jnp.zeros((), x.dtype), jnp.sum(errors))
    (total, error), _ = lax.scan(lambda carry, lane: (_add(carry, lane), None), start, sums)
    value, size = total + error, jnp.sum(jnp.abs(x))
    gamma = (x.size + LANES) * u
    return Sum(value, _ratio(size, jnp.abs(value)), u * jnp.abs(value) + gamma**2 * size)


@follows_input
def pairwise_sum(x: Any) -> Sum:
    """Sum a vector by halves: log₂ n levels of elementwise additions.

    Parameters
    ----------
    x
        Terms, shape (n,).

    Returns
    -------
    Sum
        With error at most γ·Σ|x|, γ = ⌈log₂ n⌉ u / (1 − ⌈log₂ n⌉ u) (Higham, eq. 4.6).

    Examples
    --------
    >>> import numpy as np
    >>> float(pairwise_sum(np.full(1000, 0.5)).value)
    500.0
    """
    x = validation.vector("x", x, empty=True)
    u = 0.5 * jnp.finfo(x.dtype).eps
    levels = max(x.size - 1, 0).bit_length()
    terms = jnp.pad(x, (0, 2**levels - x.size))
    for _ in range(levels):
        half = terms.size // 2
        terms = lax.optimization_barrier(terms[:half] + terms[half:])
    size = jnp.sum(jnp.abs(x))
    return Sum(terms[0], _ratio(size, jnp.abs(terms[0])), levels * u / (1 - levels * u) * size)


def _add(carry: tuple[Array, Array], term: Array) -> tuple[Array, Array]:
    """Knuth's TwoSum: total + term = new + error exactly; the errors are summed apart."""
    total, errors = carry
    new = lax.optimization_barrier(total + term)
    part = lax.optimization_barrier(new - total)
    rest = lax.optimization_barrier(new - part)
    return new, errors + ((total - rest) + (term - part))


def _ratio(size: Array, value: Array) -> Array:
    """Σ|x|/|Σx|; 1 for an empty or zero vector, where nothing cancels."""
    return jnp.where(size == 0, jnp.ones_like(size), size / value)
