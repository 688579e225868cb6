"""Euclidean projections onto convex sets: box, balls, simplices, halfspace, affine subspace, cones, spectral balls.

The first ones are Optax's, made safe against overflow and cancellation; the others are ours. Each
takes an array (NumPy in, NumPy out) and, up to `capped_simplex`, any pytree. A projection is the prox of the set's
indicator: `penalties.Indicator` turns one into a penalty. Certificate: P v satisfies ⟨v − Pv, z − Pv⟩ ≤ 0 for all z
of the set. Cost: O(p) unless said otherwise. Source: Parikh & Boyd, "Proximal algorithms" (2014), sections 6.2-6.3.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
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
    "capped_simplex",
    "halfspace",
    "l1_ball",
    "l2_ball",
    "linf_ball",
    "nonnegative",
    "nuclear_ball",
    "psd",
    "second_order_cone",
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
    leaves = [leaf for leaf in jax.tree.leaves(v) if not isinstance(leaf, Tracer)]
    if not all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in leaves):
        raise InputError("v: found NaN or infinity, expected finite numbers")
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
    level, height = like(offset, v) / jnp.where(size > 0, size, 1), jnp.asarray(optax.tree.vdot(unit, v))
    # In two parts, along the normal and across: what is across is freed of the rounding of a long v, or dropped where
    # nothing else is left of it.
    across = optax.tree.add_scale(v, -height, unit)
    across = optax.tree.add_scale(across, -jnp.asarray(optax.tree.vdot(unit, across)), unit)
    length = sum(leaf.size for leaf in jax.tree.leaves(v)) ** 0.5
    kept = jnp.where(norm(across) > 4 * jnp.finfo(level.dtype).eps * length * norm(v), 1.0, 0.0).astype(level.dtype)
    onto = optax.tree.add_scale(optax.tree.scale(kept, across), level, unit)
    return optax.tree.where((height <= level) | (size == 0), v, onto)


@follows_input
def capped_simplex(v: Any, radius: Any = 1.0, cap: Any = 1.0) -> Any:
    """The nearest point with 0 ≤ x ≤ cap and Σ x_i = radius (cap everywhere, where that is too large), O(p log p).

    x = clip(v − μ, 0, cap); the sum is piecewise linear in μ, and sorting its 2p breakpoints finds the piece.

    Examples
    --------
    >>> capped_simplex([3.0, 0.5, 0.25, -1.0], 2.0).tolist()
    [1.0, 0.625, 0.375, 0.0]
    """
    at_least_zero("radius", radius, positive=True)
    at_least_zero("cap", cap, positive=True)
    v = floats(v)
    r, c = like(radius, v), like(cap, v)
    flat, back = ravel_pytree(v)
    breaks = jnp.concatenate([flat - c, flat])
    order = jnp.argsort(breaks)
    breaks = breaks[order]
    slope = jnp.cumsum(jnp.where(order < flat.size, -1, 1)).astype(flat.dtype)  # after each breakpoint
    fall = jnp.cumsum(slope[:-1] * jnp.diff(breaks))
    sums = jnp.concatenate([jnp.zeros((1,), flat.dtype), fall]) + c * flat.size
    last = jnp.maximum(jnp.sum(sums >= r) - 1, 0)
    low = breaks[last]
    free = (flat > low) & (flat - c <= low)
    above = flat - c > low
    # Once the free entries are known, μ is a mean: what the running sums lost to rounding is regained.
    count = jnp.sum(free).astype(flat.dtype)
    level = (jnp.sum(jnp.where(free, flat - low, 0.0)) + c * jnp.sum(above).astype(flat.dtype) - r) / jnp.maximum(
        count, 1
    )
    return back(jnp.clip(flat - low - jnp.where(count > 0, level, 0.0), 0, c))


@follows_input
def second_order_cone(v: Any) -> Any:
    """The nearest point (s, z) with ‖z‖₂ ≤ s; the first entry of the vector is s.

    Source: Parikh & Boyd (2014), section 6.3.2.

    Examples
    --------
    >>> second_order_cone([0.0, 3.0, 4.0]).round(12).tolist()
    [2.5, 1.5, 2.0]
    """
    v = validation.vector("v", v)
    s, z = v[0], v[1:]
    size = norm(z)
    half = s / 2 + size / 2
    onto = jnp.concatenate([half[None], z * (half / jnp.where(size > 0, size, 1))])
    return jnp.where(size <= s, v, jnp.where(size <= -s, 0.0, onto))


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


@follows_input
def nuclear_ball(v: Any, radius: Any = 1.0) -> Any:
    """The nearest matrix whose singular values sum to at most `radius`: they are soft-thresholded, O(m n min(m, n)).

    Examples
    --------
    >>> nuclear_ball([[2.0, 0.0], [0.0, 1.5]]).round(12).tolist()
    [[0.75, 0.0], [0.0, 0.25]]
    """
    at_least_zero("radius", radius)
    v = validation.matrix("v", v)
    r = like(radius, v)
    s = jnp.linalg.svd(v, compute_uv=False)
    means = (jnp.cumsum(s) - r) / jnp.arange(1, s.size + 1).astype(s.dtype)
    level = jnp.max(means)  # the mean is largest over exactly those that stay
    kept = jnp.sum(jnp.maximum(s - level, 0))
    # The level carries the rounding of the largest singular value: the sum is brought to the radius itself.
    return jnp.where(
        jnp.sum(s) <= r, v, jnp.where(kept > 0, r / jnp.where(kept > 0, kept, 1), 1) * spectral_map(v, level)
    )
