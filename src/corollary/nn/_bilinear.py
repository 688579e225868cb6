"""The bilinear layer: z_k = xᵀ W_k y + b_k.

When: an interaction of two feature vectors (relations, visual question answering). O(in₁·in₂·out) per example.
Source: Tenenbaum & Freeman, "Separating style and content with bilinear models" (2000), eq. 1.
"""

from __future__ import annotations

import math
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.core import validation


@final
class Bilinear(eqx.Module):
    """z_k = Σ_ij x_i W_kij y_j + b_k, over any leading axes. O(in₁·in₂·out) per example.

    Parameters
    ----------
    first_size, second_size, output_size
        Lengths of x, y and z.
    use_bias
        Add b.
    key
        From `jax.random.key`; weights are uniform on ±1/√in₁, as in PyTorch.

    Raises
    ------
    InputError
        For sizes below one.

    Source
    ------
    Tenenbaum & Freeman (2000), eq. 1.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> Bilinear(2, 3, 4, key=jax.random.key(0))(jnp.ones((5, 2)), jnp.ones((5, 3))).shape
    (5, 4)
    """

    weight: Any
    bias: Any

    def __init__(self, first_size: int, second_size: int, output_size: int, *, use_bias: bool = True, key: Any):
        for name, size in (("first_size", first_size), ("second_size", second_size), ("output_size", output_size)):
            validation.integer()(name, size)
        limit = 1 / math.sqrt(first_size)
        first, second = jax.random.split(key)
        self.weight = jax.random.uniform(first, (output_size, first_size, second_size), minval=-limit, maxval=limit)
        self.bias = jax.random.uniform(second, (output_size,), minval=-limit, maxval=limit) if use_bias else None

    def __call__(self, x: Float[Array, "... i"], y: Float[Array, "... j"]) -> Float[Array, "... k"]:
        """(..., in₁) and (..., in₂) to (..., out): one GEMM with x, then a row-wise product with y."""
        out = jnp.einsum("...i,kij,...j->...k", x, self.weight, y)
        return out if self.bias is None else out + self.bias
