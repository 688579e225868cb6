"""Singular values thresholded or clipped, with a derivative that is right where singular values coincide or vanish.

Autodiff through the SVD divides by differences of singular values; the derivative of the spectral function itself
needs only divided differences. Source: Noferini, "A formula for the Fréchet derivative of a generalized matrix
function" (2017), theorem 3.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def spectral_map(A: Float[Array, "m n"], tau: Float[Array, ""], clip: bool = False) -> Float[Array, "m n"]:
    """U f(S) Vᵀ for f(s) = max(s − tau, 0), or f(s) = min(s, tau) where `clip`."""
    U, s, Vt = jnp.linalg.svd(A, full_matrices=False)
    return (U * _apply(s, tau, clip)) @ Vt


@spectral_map.defjvp
def _spectral_map_jvp(clip, primals, tangents):
    (A, tau), (dA, dtau) = primals, tangents
    U, s, Vt = jnp.linalg.svd(A, full_matrices=False)
    f = _apply(s, tau, clip)
    above = (s > tau).astype(s.dtype)
    slope, by_tau = (1 - above, above) if clip else (above, -above)

    P = U.T @ dA @ Vt.T
    even, odd = (P + P.T) / 2, (P - P.T) / 2
    differences = _ratio(f[:, None] - f, s[:, None] - s, (slope[:, None] + slope) / 2)
    sums = _ratio(f[:, None] + f, s[:, None] + s, (slope[:, None] + slope) / 2)
    core = differences * even + sums * odd
    ratio = _ratio(f, s, slope)
    left = dA @ Vt.T - U @ P  # (I − UUᵀ) dA V
    right = U.T @ dA - P @ Vt  # Uᵀ dA (I − VVᵀ)
    out = (U @ core + left * ratio) @ Vt + (U * ratio) @ right + (U * (by_tau * dtau)) @ Vt
    return (U * f) @ Vt, out


def _apply(s, tau, clip):
    return jnp.minimum(s, tau) if clip else jnp.maximum(s - tau, 0)


def _ratio(numerator, denominator, limit):
    """numerator/denominator, or the limit where the denominator is lost to rounding."""
    scale = jnp.max(jnp.abs(denominator), initial=0.0)
    small = jnp.abs(denominator) <= 8 * jnp.finfo(limit.dtype).eps * scale
    return jnp.where(small, limit, numerator / jnp.where(small, 1, denominator))
