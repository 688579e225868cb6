"""Factors of a tall matrix M = U R with orthonormal U that is never formed: what the dense least-squares solvers share.

Every solver (Gram and Cholesky, Householder QR, SVD) leaves R (k, p) and its pseudoinverse W (p, k). From these two
small matrices come the solution, its derivative and its certificates: ‖M‖ = ‖R‖, ‖M⁺‖ = ‖W‖, U = M W. Where a
triangular R is numerically singular its SVD takes over (R-SVD: T. F. Chan, ACM TOMS 8, 1982): the minimum norm.

Cost: Gram n p² + p³; QR 2 n p² + p³; SVD of R about 20 p³ on top.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float


class Factor(eqx.Module):
    """M = U R and W = R⁺, with the numerical rank and how clear-cut it is."""

    R: Float[Array, "k p"]
    W: Float[Array, "p k"]
    condition: Float[Array, ""]  # ‖R‖₂‖W‖₂: exact from an SVD, an upper bound (within √p) from a triangle
    rank: Float[Array, ""]
    gap: Float[Array, ""]  # max(σ_{r+1}, cutoff) / σ_r: far below one where the rank is clear
    distortion: Float[Array, ""] | None = None  # ‖v‖ <= (1 + distortion)‖Uv‖, where U is orthonormal only roughly
    assumed: str = eqx.field(static=True, default="")  # what `distortion` rests on; empty where it is proved


def norm_bound(a: Float[Array, "m n"]) -> Float[Array, ""]:
    """‖A‖₂ ≤ min(‖A‖_F, √(‖A‖₁‖A‖_∞))."""
    columns, rows = (jnp.max(jnp.sum(jnp.abs(a), axis), initial=0) for axis in (0, 1))
    return jnp.minimum(jnp.linalg.norm(a), jnp.sqrt(columns) * jnp.sqrt(rows))


def from_gram(G: Float[Array, "p p"], c: Float[Array, "p k"], rcond: Float[Array, ""]) -> tuple[Array, Factor]:
    """Solve G x = c (G = MᵀM) by Cholesky; by an eigendecomposition where G is singular to working precision."""
    p, eps = G.shape[0], jnp.finfo(G.dtype).eps

    def triangle(_: None) -> tuple[Array, Factor]:
        y = solve_triangular(R, c, trans=1)
        return solve_triangular(R, y), whole

    def spectrum(_: None) -> tuple[Array, Factor]:
        values, vectors = jnp.linalg.eigh(G)
        # An eigenvalue of the Gram below p·eps·λ_max is rounding: singular values below √(p·eps)·σ_max cannot be seen.
        floor = jnp.sqrt(jnp.asarray(p * eps, G.dtype))
        factor = _from_spectrum(jnp.sqrt(jnp.maximum(values[::-1], 0)), vectors[:, ::-1].T, jnp.maximum(rcond, floor))
        blind = (floor > rcond) & (factor.rank < p)  # what was dropped may well exceed the cutoff that was asked for
        factor = eqx.tree_at(lambda f: f.gap, factor, jnp.where(blind, 1.0, factor.gap))
        return factor.W @ (factor.W.T @ c), factor

    R = jnp.linalg.cholesky(G, symmetrize_input=False).T
    whole = _from_triangle(R, rcond)
    regular = whole.condition**2 * p * eps < 0.1  # a NaN from a failed Cholesky compares false
    return jax.lax.cond(regular, triangle, spectrum, None)


def from_qr(
    R: Float[Array, "p p"], d: Float[Array, "p k"], rcond: Float[Array, ""], always_svd: bool
) -> tuple[Array, Array, Factor]:
    """Solve R x = d in the least-squares sense: (x, turn, factor), where U = Q · turn."""

    def triangle(_: None) -> tuple[Array, Array, Factor]:
        return solve_triangular(R, d), jnp.eye(R.shape[0], dtype=R.dtype), whole

    def spectrum(_: None) -> tuple[Array, Array, Factor]:
        U, s, Vt = jnp.linalg.svd(R)
        factor = _from_spectrum(s, Vt, rcond)
        return factor.W @ (U.T @ d), U, factor

    if always_svd:
        return spectrum(None)
    whole = _from_triangle(R, rcond)
    return jax.lax.cond(whole.gap < 0.1, triangle, spectrum, None)


def _from_triangle(R: Float[Array, "p p"], rcond: Float[Array, ""]) -> Factor:
    W = solve_triangular(R, jnp.eye(R.shape[0], dtype=R.dtype))
    condition = norm_bound(R) * norm_bound(W)
    return Factor(R, W, condition, jnp.full((), R.shape[0], R.dtype), rcond * condition)


def _from_spectrum(s: Float[Array, " p"], Vt: Float[Array, "p p"], rcond: Float[Array, ""]) -> Factor:
    cutoff = rcond * s[0]
    kept = (s > cutoff) & (s > 0)
    least = jnp.min(jnp.where(kept, s, jnp.inf))
    dropped = jnp.max(jnp.where(kept, 0, s))
    inverse = jnp.where(kept, 1 / jnp.where(kept, s, 1), 0)
    some = jnp.any(kept)
    return Factor(
        jnp.where(kept, s, 0)[:, None] * Vt,
        Vt.T * inverse,
        jnp.where(some, s[0] / jnp.where(some, least, 1), 1),
        jnp.sum(kept).astype(s.dtype),
        jnp.where(some, jnp.maximum(dropped, cutoff) / jnp.where(some, least, 1), 0),
    )


def exponent(a: Any) -> Array:
    """The power of two that brings the largest entry of `a` to the order of one; 0 for a zero array."""
    top = jnp.max(jnp.abs(a), initial=0)
    limit = jnp.finfo(top.dtype).maxexp - 8
    return jnp.clip(jnp.where(top > 0, jnp.frexp(top)[1], 0), -limit, limit)


def shift(a: Any, e: Array) -> Array:
    """`a` · 2^e in two exact halves, so that neither factor over- nor underflows on its own."""
    half = e // 2
    return a * jnp.ldexp(jnp.ones((), a.dtype), half) * jnp.ldexp(jnp.ones((), a.dtype), e - half)
