"""Randomized range finder: an orthonormal Q with A ≈ QQᵀA, for a given rank or for a given tolerance.

Use it where the range of a large matrix is wanted and products with A are affordable. Given a rank, Q spans
(AAᵀ)^q A Ω (subspace iteration, re-orthonormalised at every product). Given a tolerance, Q grows by blocks; the block
that would come next is a set of probes that Q has not seen, so the error is bounded before each step at no extra cost.
Cost: (2q + 1) products of A with k + p columns and O(m (k+p)²). Source: Halko, Martinsson & Tropp (2011), Algorithms
4.2 to 4.4; the blocked form follows Martinsson & Voronin (2016).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.linalg._products import Block, Products, deflate, orthonormal, products
from corollary.linalg.low_rank._rsvd_bounds import HMT, norms, orthogonality, probe_certificates

PROBES, FAILURE = 8, 1e-6
ALPHA = FAILURE ** (-1 / PROBES)  # Lemma 4.1 fails with probability α^{−r}


@follows_input
def range_finder(
    A: Any,
    rank: Any = None,
    *,
    tol: Any = None,
    oversampling: Any = 10,
    power_iterations: Any = 0,
    block: Any = 16,
    key: Key[Array, ""],
) -> Solution:
    """Orthonormal basis of A's dominant range: rank in, error out; or tolerance in, rank out.

    Use it as the first half of any randomized factorisation. Cost: 2q + 1 products of A with k + p columns for a given
    rank (jit, vmap and grad work); for a given tolerance about l + `block` columns where Q gets l, in a loop on the
    host (no jit). The probes add at most a tenth from q = 1 on.

    Parameters
    ----------
    A
        (m, n) dense or sparse matrix, or operator.
    rank
        k: Q gets min(k + oversampling, m, n) columns. Give this or `tol`.
    tol
        Relative tolerance: Q grows until ‖A − QQᵀA‖₂ ≤ tol ‖A‖₂ is certified, with probability 1 − 10⁻⁶.
    oversampling
        p, extra columns beside `rank`.
    power_iterations
        q: Q spans (AAᵀ)^q A Ω. Each costs two products and sharpens the spectral error towards σ_{k+1}.
    block
        Columns that are added at a time, given `tol`; the rank is rounded up to whole blocks.
    key
        `jax.random.key`.

    Returns
    -------
    Solution
        ``value``: Q, (m, l). Certificates: ``"spectral_error"`` (probabilistic, Lemma 4.1), ``"frobenius_error"``
        (estimate; without `tol`), ``"orthogonality"`` (exact). ``stats``: ``rank``, the columns of Q; ``products``,
        columns that A and Aᵀ were multiplied by. ``status``: PRECISION where rounding hides the tolerance.

    Raises
    ------
    InputError
        Unless exactly one of `rank` and `tol` is given and A is a finite real matrix.

    Notes
    -----
    Source: Halko, Martinsson & Tropp, SIAM Review 53 (2011), Algorithms 4.2 (adaptive) and 4.4 (subspace iteration).

    Examples
    --------
    >>> import jax, numpy as np
    >>> A = np.outer(np.arange(1.0, 7.0), np.ones(5))
    >>> Q = range_finder(A, 1, oversampling=1, key=jax.random.key(0)).value
    >>> bool(np.allclose(Q @ (Q.T @ A), A))
    True
    """
    P = products(A, key)
    settings(rank, tol, oversampling, power_iterations, block)
    if tol is not None:
        grown = grow(P, tol, block, power_iterations, key, keep_factor=False)
        certificates = {
            "spectral_error": grown.certify("‖A − QQᵀA‖₂", grown.error, tol),
            "orthogonality": orthogonality(P.xp, Q=grown.Q),
        }
        stats = {"rank": grown.Q.shape[1], "products": grown.products, "norm": grown.norm, "method": grown.method}
        return P.out(Solution(grown.Q, certificates, grown.status(tol), grown.steps, stats))
    width = min(fitting(rank, P.shape) + oversampling, *P.shape)
    return P.out(subspace_iteration(P, width, power_iterations, key)[0])


def settings(rank: Any, tol: Any, oversampling: Any, power_iterations: Any, block: Any) -> None:
    """The checks that the range finder and the SVD share."""
    if (rank is None) == (tol is None):
        raise InputError(f"rank, tol: found rank={rank!r} and tol={tol!r}, expected exactly one of them")
    validation.integer(1, none=True)("rank", rank)
    validation.number(0, 1, open_low=True, none=True)("tol", tol)
    validation.integer(0)("oversampling", oversampling)
    validation.integer(0)("power_iterations", power_iterations)
    validation.integer(1)("block", block)


def fitting(rank: int | None, shape: tuple[int, int]) -> int:
    """A rank that the shape allows."""
    if rank is None or rank > min(shape):
        raise InputError(f"rank: found {rank}, expected at most {min(shape)} for a matrix of shape {shape}")
    return rank


def subspace_iteration(P: Products, width: int, q: int, key: Key[Array, ""]) -> tuple[Solution, Block, Block]:
    """Q = orth((AAᵀ)^q A Ω) with its certificates, and the probes (ω_i, A ω_i) for the next stage."""
    xp, n = P.xp, P.shape[1]
    omega, omega_test = draw(P, n, width, key)
    Y = P.apply(xp.concatenate([omega, omega_test], axis=1))
    Y, image = Y[:, :width], Y[:, width:]
    Q = orthonormal(Y, [], xp)
    for _ in range(q):
        Q = orthonormal(P.apply(orthonormal(P.adjoint(Q), [], xp)), [], xp)
    residual = image - Q @ (Q.T @ image)
    residual = residual - Q @ (Q.T @ residual)
    certificates = probe_certificates(residual, omega_test, image, ALPHA, "A − QQᵀA", xp)
    certificates["orthogonality"] = orthogonality(xp, Q=Q)
    columns = (2 * q + 1) * width + PROBES
    stats = {"rank": width, "products": columns, "method": Note(f"subspace iteration with q = {q}")}
    status = finite_status(certificates["spectral_error"].measured, xp)
    return Solution(Q, certificates, status=status, steps=q, stats=stats), omega_test, image


def draw(P: Products, n: int, width: int, key: Key[Array, ""]) -> tuple[Block, Block]:
    """The Gaussian start and the probes, from independent keys."""
    start, test = jax.random.split(key)
    return P.normal(start, n, width), P.normal(test, n, PROBES)


def finite_status(x: Any, xp: Any) -> Any:
    """CONVERGED unless the run overflowed."""
    return xp.where(xp.isfinite(x), Status.CONVERGED, Status.NON_FINITE).astype(jnp.int32)


class Grown(NamedTuple):
    """A range grown to a tolerance: Q, Bᵀ = AᵀQ by blocks, the certified error, its rounding, and ‖A‖₂ from below."""

    Q: Any
    factor: list[Any]
    error: float
    rounding: float
    norm: float
    steps: int
    products: int
    method: Note

    def certify(self, claim: str, error: float, tol: float) -> Certificate:
        """The tolerance, against `error`, which holds but for a failure of the probes."""
        return Certificate(
            f"{claim} <= tol·‖A‖₂, from fresh Gaussian probes at every look",
            measured=error,
            bound=tol * self.norm + self.rounding,
            kind="probabilistic",
            confidence=1 - FAILURE,
            source=f"{HMT}, Lemma 4.1, and a union bound over the looks",
            assumptions=(Assumption("‖A‖₂ is replaced by ‖QᵀA‖₂, which cannot exceed it"),),
        )

    def status(self, tol: float) -> Array:
        """CONVERGED, or PRECISION where only rounding is left and the tolerance lies below it."""
        return jnp.int32(Status.CONVERGED if self.error <= tol * self.norm else Status.PRECISION)


def grow(P: Products, tol: float, block: int, q: int, key: Key[Array, ""], *, keep_factor: bool) -> Grown:
    """Algorithm 4.2 by blocks: each block is first a probe of the error, then, deflated, the next part of Q."""
    if P.traced:
        raise InputError("tol: found a traced matrix (under jit or vmap), expected `rank`, which has a fixed shape")
    xp, (m, n), full = P.xp, P.shape, min(P.shape)
    block = min(block, full)
    looks = -(-full // block) + 1
    alpha = (looks / FAILURE) ** (1 / block)  # each look fails with probability α^{−block}: together FAILURE
    basis: list[Any] = []
    factor: list[Any] = []
    norm, columns, width = 0.0, 0, 0
    while True:
        key, sub = jax.random.split(key)
        image = P.apply(P.normal(sub, n, block))
        columns += block
        rest = deflate(deflate(image, basis), basis)
        error = alpha * math.sqrt(2 / math.pi) * float(xp.max(norms(rest, xp)))
        noise = 8 * P.eps * float(xp.max(norms(image, xp)))
        if not math.isfinite(error):
            raise InputError("A: its products overflow, expected a matrix that is scaled to moderate entries")
        if width == full:
            error = min(error, noise)  # Q spans everything: certain, not only probable
        if error <= max(tol * norm, alpha * noise) or width == full:
            break
        V = orthonormal(rest[:, : full - width], basis, xp)
        for _ in range(q):
            V = orthonormal(P.apply(orthonormal(P.adjoint(V), [], xp)), basis, xp)
            columns += 2 * V.shape[1]
        basis.append(V)
        width += V.shape[1]
        if keep_factor or width == V.shape[1]:
            factor.append(P.adjoint(V))
            columns += V.shape[1]
            norm = max(norm, float(xp.linalg.norm(factor[-1], 2)))  # ‖QᵀA‖₂ <= ‖A‖₂
    Q = xp.concatenate(basis, axis=1) if basis else xp.zeros((m, 0), P.dtype)
    method = Note(f"adaptive blocks of {block} columns, q = {q}")
    return Grown(Q, factor, error, alpha * noise, norm, len(basis), columns, method)
