"""f of a small symmetric matrix by its eigendecomposition, with a derivative that repeated eigenvalues do not break."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.linalg.trace._block_lanczos import ritz
from corollary.linalg.trace._quadrature import divided_differences


def symmetric_function(f: Callable[[Array], Array], T: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Y f(θ) Yᵀ for T = Y θ Yᵀ; f is elementwise. Parameters that f closes over are differentiated as well."""
    theta, Y = ritz(jax.lax.stop_gradient(T), jnp)
    return (Y * f(theta)) @ Y.T + _change(T, differences=divided_differences(f, theta), Y=Y)


@eqx.filter_custom_jvp
def _change(T: Array, *, differences: Array, Y: Array) -> Array:
    """Zero, with the derivative of f(T): Y (f[θᵢ, θⱼ] ∘ YᵀdTY) Yᵀ (Daleckii & Krein, 1965)."""
    return jnp.zeros_like(T)


@_change.def_jvp
def _change_jvp(primals: Any, tangents: Any, *, differences: Array, Y: Array) -> Any:
    (T,), (dT,) = primals, tangents
    zero = jnp.zeros_like(T)
    if dT is None:
        return zero, zero
    dT = (dT + dT.T) / 2
    return zero, Y @ (differences * (Y.T @ dT @ Y)) @ Y.T
