"""The energy of a function's high frequencies on a grid, as a penalty (or, turned round, as a reward).

Networks learn low frequencies first (spectral bias); the penalty strengthens that where noise should not be fitted, and
a negative weight on the loss counters it. O(N log N) for N grid points. Source: Parseval; Rahaman et al., "On the
spectral bias of neural networks" (2019).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim._tree import at_least_zero


def frequency_penalty(
    values: Float[Array, "..."], cutoff: Any, *, dims: int | None = None, strength: Any = 1.0
) -> Float[Array, ""]:
    """λ·(mean square of the part of `values` above the cutoff). O(N log N).

    When: a network on a grid should be smooth: ``frequency_penalty(jax.vmap(net)(grid), 8)`` in the loss.

    Parameters
    ----------
    values
        (n_1, …, n_d, ...): the network on an equally spaced grid (of a periodic domain, without its last point twice).
    cutoff
        Frequencies k (cycles per domain, by axis) with |k| > cutoff count, in the Euclidean norm.
    dims
        d, how many first axes are the grid's; all where left out.
    strength
        λ ≥ 0.

    Returns
    -------
    scalar
        Zero for constants; by Parseval the mean square of the high-passed values.

    Raises
    ------
    InputError
        For a negative cutoff or strength, or more grid axes than there are.

    Source
    ------
    Parseval's identity; Rahaman et al. (2019), §2.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> t = jnp.arange(32.0) * (2 * jnp.pi / 32)
    >>> round(float(frequency_penalty(3.0 + jnp.sin(2.0 * t) + 0.5 * jnp.sin(9.0 * t), 4.0)), 5)  # 0.5²/2
    0.125
    """
    at_least_zero("cutoff", cutoff)
    at_least_zero("strength", strength)
    grid: int = values.ndim if dims is None else validation.integer()("dims", dims)
    if grid > values.ndim or values.size == 0:
        raise InputError(f"dims: found {grid} grid axes of an array of shape {values.shape}, expected fewer")
    axes = tuple(range(grid))
    shape = values.shape[:grid]
    square = jnp.zeros(shape, values.dtype)
    for axis, n in enumerate(shape):
        k = jnp.fft.fftfreq(n, 1 / n).astype(values.dtype)
        square = square + k.reshape([-1 if a == axis else 1 for a in axes]) ** 2
    high = square > jnp.asarray(cutoff, values.dtype) ** 2
    high = high.reshape(*shape, *[1] * (values.ndim - grid))
    # The mean goes first: it holds no high frequency, and would only bring its rounding into those that count.
    spectrum = jnp.fft.fftn(values - jnp.mean(values, axes, keepdims=True), axes=axes, norm="ortho")
    power = jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2
    return jnp.asarray(strength, values.dtype) * jnp.sum(jnp.where(high, power, 0.0)) / values.size
