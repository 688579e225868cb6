"""Functions of symmetric matrices by their eigenvalues, with a derivative that is right where eigenvalues coincide.

Source: Daleckii & Krein (1965), the first divided differences; Bhatia, "Matrix Analysis" (1997), theorem V.3.3.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.core.errors import InputError


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def symmetric_map(A: Float[Array, "n n"], c: Float[Array, ""], kind: str) -> Float[Array, "n n"]:
    """V f(d) Vᵀ of the symmetric part of A: f(d) = max(d, 0), or, for ``"barrier"``, (d + √(d² + 4c))/2."""
    d, V = jnp.linalg.eigh((A + A.T) / 2)
    if kind == "positive":
        half = V * jnp.sqrt(jnp.maximum(d, 0))
        return half @ half.T
    return (V * _barrier(d, c)[0]) @ V.T


@symmetric_map.defjvp
def _symmetric_map_jvp(kind, primals, tangents):
    (A, c), (dA, dc) = primals, tangents
    d, V = jnp.linalg.eigh((A + A.T) / 2)
    if kind == "positive":
        f, slope, by_c = jnp.maximum(d, 0), (d > 0).astype(d.dtype), jnp.zeros_like(d)
    else:
        f, root = _barrier(d, c)
        slope, by_c = f / root, 1 / root
    gaps = d[:, None] - d
    small = jnp.abs(gaps) <= 8 * jnp.finfo(d.dtype).eps * jnp.max(jnp.abs(d))
    ratio = jnp.where(small, (slope[:, None] + slope) / 2, (f[:, None] - f) / jnp.where(small, 1, gaps))
    core = ratio * (V.T @ ((dA + dA.T) / 2) @ V)
    return (V * f) @ V.T, V @ core @ V.T + (V * (by_c * dc)) @ V.T


def _barrier(d, c):
    """(d + √(d² + 4c))/2 without cancellation, and the root."""
    root = jnp.hypot(d, 2 * jnp.sqrt(c))
    return jnp.where(d >= 0, (d + root) / 2, 2 * c / (root + jnp.abs(d))), root


def square(x):
    """Refuse anything but a square matrix."""
    if getattr(x, "ndim", None) != 2 or x.shape[0] != x.shape[1]:
        raise InputError(f"x: found shape {getattr(x, 'shape', None)}, expected a square matrix")
    return x
