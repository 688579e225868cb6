"""Euclidean projections onto convex sets: box, balls, simplex, halfspace, affine subspace, PSD cone, spectral ball.

The first ones are Optax's, made safe against overflow and cancellation; affine, PSD and spectral ball are ours. Each
takes an array (NumPy in, NumPy out) and, up to `halfspace`, any pytree. A projection is the prox of the set's
indicator: `penalties.Indicator` turns one into a penalty. Certificate: P v satisfies ⟨v − Pv, z − Pv⟩ ≤ 0 for all z
of the set. Cost: O(p) unless said otherwise. Source: Parikh & Boyd, "Proximal algorithms" (2014), sections 6.2-6.3.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from optax import projections as _optax

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.optim._spectral import spectral_map
from corollary.optim._tree import at_least_zero, dtype, floats, largest, like, norm, spread

__all__ = [
    "affine",
    "box",
    "halfspace",
    "l1_ball",
    "l2_ball",
    "linf_ball",
    "nonnegative",
    "psd",
    "simplex",
    "spectral_ball",
]


@follows_input
def nonnegative(v: Any) -> Any:
    """max(v, 0), entry by entry.

    Examples
    --------
    >>> nonnegative([1.0, -2.0]).tolist()
    [1.0, 0.0]
    """
    return _optax.projection_non_negative(floats(v))


@follows_input
def box(v: Any, lower: Any, upper: Any) -> Any:
    """The nearest point with lower ≤ x ≤ upper; the bounds are scalars, arrays that broadcast, or pytrees like `v`.

    Examples
    --------
    >>> box([1.0, -2.0, 0.5], 0, 0.75).tolist()
    [0.75, 0.0, 0.5]
    """
    v = floats(v)
    return _optax.projection_box(v, spread(lower, v), spread(upper, v))


@follows_input
def linf_ball(v: Any, radius: Any = 1.0) -> Any:
    """The nearest point with max|x_i| ≤ radius: each entry clipped.

    Examples
    --------
    >>> linf_ball([3.0, -0.5]).tolist()
    [1.0, -0.5]
    """
    at_least_zero("radius", radius)
    v = floats(v)
    r = like(radius, v)
    return _optax.projection_box(v, spread(-r, v), spread(r, v))


@follows_input
def l2_ball(v: Any, radius: Any = 1.0) -> Any:
    """The nearest point with ‖x‖₂ ≤ radius: `v` scaled back.

    Examples
    --------
    >>> l2_ball([3.0, 4.0]).round(12).tolist()
    [0.6, 0.8]
    """
    at_least_zero("radius", radius)
    v = floats(v)
    r, size = like(radius, v), norm(v)
    outside = size > r
    return optax.tree.scale(jnp.where(outside, r / jnp.where(outside, size, 1), 1.0), v)


@follows_input
def simplex(v: Any, radius: Any = 1.0) -> Any:
    """The nearest point with x ≥ 0 and Σ x_i = radius, by sorting: O(p log p).

    Examples
    --------
    >>> simplex([2.0, 1.5, 0.0]).tolist()
    [0.75, 0.25, 0.0]
    """
    at_least_zero("radius", radius, positive=True)
    v = floats(v)
    r = like(radius, v)
    top = largest(v)
    # Adding a constant to v changes nothing, and what lies a radius below the top is dropped: shift and clip first, so
    # that the running sums neither cancel nor overflow. (Optax's own does neither, and refuses strict promotion.)
    flat, back = ravel_pytree(jax.tree.map(lambda leaf: jnp.maximum(leaf - top, -2 * r), v))
    ordered = -jnp.sort(-flat)
    count = jnp.arange(1, flat.size + 1).astype(flat.dtype)
    levels = (jnp.cumsum(ordered) - r) / count
    level = levels[jnp.sum(ordered > levels) - 1]
    return back(jnp.maximum(flat - level, 0))


@follows_input
def l1_ball(v: Any, radius: Any = 1.0) -> Any:
    """The nearest point with ‖x‖₁ ≤ radius: soft thresholding at the level that sorting finds, O(p log p).

    Examples
    --------
    >>> l1_ball([2.0, -1.5, 0.0]).tolist()
    [0.75, -0.25, 0.0]
    """
    at_least_zero("radius", radius)
    v = floats(v)
    r = like(radius, v)
    size = jax.tree.map(jnp.abs, v)
    onto = simplex(size, jnp.where(r > 0, r, 1))
    onto = jax.tree.map(lambda leaf, p: jnp.where(r > 0, jnp.sign(leaf) * p, 0.0), v, onto)
    inside = optax.tree.norm(optax.tree.scale(1 / jnp.where(r > 0, r, 1), v), 1) <= jnp.where(r > 0, 1.0, -1.0)
    return optax.tree.where(inside, v, onto)


@follows_input
def halfspace(v: Any, normal: Any, offset: Any) -> Any:
    """The nearest point with ⟨normal, x⟩ ≤ offset.

    Examples
    --------
    >>> halfspace([2.0, 0.0], [1.0, 1.0], 1.0).tolist()
    [1.5, -0.5]
    """
    v, normal = floats(v), floats(normal)
    if jax.tree.map(jnp.shape, v) != jax.tree.map(jnp.shape, normal):
        raise InputError("normal: found other shapes than those of v, expected the same")
    normal = optax.tree.cast(normal, dtype(v))
    size = norm(normal)
    unit = optax.tree.scale(1 / jnp.where(size > 0, size, 1), normal)
    return _optax.projection_halfspace(v, unit, like(offset, v) / jnp.where(size > 0, size, 1))


@follows_input
def affine(v: Any, A: Any, b: Any) -> Any:
    """The nearest point with A x = b (the least-squares solutions, where there is no exact one).

    x = v − A⁺(A v − b), through one SVD: A may be rank-deficient. Cost O(m n min(m, n)).

    Parameters
    ----------
    v
        Vector (n,).
    A
        Matrix (m, n).
    b
        Right-hand side (m,).

    Examples
    --------
    >>> affine([1.0, 1.0], [[1.0, 1.0]], [0.0]).round(12).tolist()
    [0.0, 0.0]
    """
    A, b, v = validation.matrix("A", A), validation.vector("b", b), validation.vector("v", v)
    validation.same_length("A", A, "b", b)
    if A.shape[1] != v.shape[0]:
        raise InputError(f"v: found {v.shape[0]} entries, expected {A.shape[1]}, one per column of A")
    A, b = A.astype(v.dtype), b.astype(v.dtype)
    return v - jnp.linalg.lstsq(A, A @ v - b, rcond=max(A.shape) * float(jnp.finfo(A.dtype).eps))[0]


@follows_input
def psd(v: Any) -> Any:
    """The nearest positive semidefinite matrix: the symmetric part with negative eigenvalues set to zero, O(n³).

    Source: Higham, "Computing a nearest symmetric positive semidefinite matrix" (1988), theorem 2.1.

    Examples
    --------
    >>> psd([[1.0, 0.0], [0.0, -2.0]]).round(12).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    v = validation.matrix("v", v)
    if v.shape[0] != v.shape[1]:
        raise InputError(f"v: found shape {v.shape}, expected a square matrix")
    eigenvalues, vectors = jnp.linalg.eigh((v + v.T) / 2)
    half = vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0))
    return half @ half.T


@follows_input
def spectral_ball(v: Any, radius: Any = 1.0) -> Any:
    """The nearest matrix with largest singular value at most `radius`: singular values clipped, O(m n min(m, n)).

    Examples
    --------
    >>> spectral_ball([[3.0, 0.0], [0.0, 0.5]]).round(12).tolist()
    [[1.0, 0.0], [0.0, 0.5]]
    """
    at_least_zero("radius", radius)
    v = validation.matrix("v", v)
    return spectral_map(v, like(radius, v), clip=True)
