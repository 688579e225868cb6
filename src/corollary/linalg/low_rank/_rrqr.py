"""Randomized rank-revealing QR: k columns of A that span the rest, and A[:, perm] ≈ Q R, from a sketch's pivots.

Use it for a low-rank factorisation that keeps the names of its columns, of a matrix too large to pivot. Cost: one
product with Aᵀ for k + p columns, one for k, O(m k²) and O(n (k + p)²). Source: Duersch & Gu, SIAM J. Sci. Comput. 39
(2017); Martinsson, Quintana-Ortí, Heavner & van de Geijn (2017); Gu & Eisenstat (1996) for the swaps.
"""

from __future__ import annotations

from typing import Any

import jax
from jaxtyping import Array, Key

from corollary.core.certificate import Assumption, Certificate
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.linalg._products import products
from corollary.linalg.low_rank import _skeleton as skeleton
from corollary.linalg.low_rank._pivoted_qr import PivotedQR
from corollary.linalg.low_rank._range_finder import ALPHA, FAILURE, PROBES, finite_status, fitting, settings
from corollary.linalg.low_rank._rsvd_bounds import HMT, orthogonality, probe_certificates


@follows_input
def randomized_rrqr(
    A: Any,
    rank: Any = None,
    *,
    tol: Any = None,
    oversampling: Any = 10,
    block: Any = 16,
    key: Key[Array, ""],
) -> Solution:
    """Truncated QR with the columns in an order that reveals the rank: A[:, perm] ≈ Q R.

    Use it instead of `pivoted_qr` where the rank k is far below min(m, n), or A is sparse or an operator. Cost:
    products of Aᵀ with 2k + p columns, of A with 8, and O(m k² + n (k + p)²). jit and vmap work for a given rank.

    Parameters
    ----------
    A
        (m, n) dense or sparse matrix, or operator.
    rank
        k; fewer where the numerical rank is lower (under jit the columns of Q beyond it are of no meaning). Give this
        or `tol`.
    tol
        Relative tolerance: the least rank found with ‖A − QQᵀA‖₂ ≤ tol ‖A‖₂ certified (not under jit).
    oversampling
        p, extra rows of the sketch beside `rank`.
    block
        Given `tol`: first sketch size, and half of it the step by which the rank grows where the probes object.
    key
        `jax.random.key`.

    Returns
    -------
    Solution
        ``value``: `PivotedQR` (Q (m, k), R (k, n), perm (n,)): columns perm[:k] of A are Q R[:, :k]. Certificates:
        ``"spectral_error"`` (probabilistic), ``"frobenius_error"`` (estimate; given `rank`), ``"orthogonality"``
        (exact), ``"strong"`` (theorem). ``stats``: ``rank``, ``swaps``.

    Raises
    ------
    InputError
        Unless exactly one of `rank` and `tol` is given and A is a finite real matrix.

    Notes
    -----
    The pivots are those of the columns of B = ΩᵀA (not of Bᵀ); AP = QR gives A = QRPᵀ. ‖A − QQᵀA‖₂ is within
    √(1 + f² k(n − k)), f = 2, of σ_{k+1} but for the sketch's distortion. Source: Gu & Eisenstat (1996), Theorem 3.2;
    Voronin & Martinsson (2017).

    Examples
    --------
    >>> import jax, numpy as np
    >>> A = np.outer(np.arange(1.0, 6.0), [1.0, 3.0, 2.0])
    >>> found = randomized_rrqr(A, 1, key=jax.random.key(0)).value
    >>> int(found.perm[0]), bool(np.allclose(found.Q @ found.R, A[:, found.perm]))
    (1, True)
    """
    P = products(A, key)
    settings(rank, tol, oversampling, 0, block)
    if tol is not None:
        grown = skeleton.grow(P, A, tol, block, key)
        chosen, Q = grown.skeleton, grown.Q
        certificates = {"spectral_error": toleranced("‖A − QQᵀA‖₂", grown, tol)}
        status: Any = Status.CONVERGED if grown.error <= tol * grown.norm else Status.PRECISION
    else:
        sketch_key, probe_key = jax.random.split(key)
        chosen = skeleton.choose(P, A, fitting(rank, P.shape), oversampling, sketch_key)
        Q = skeleton.basis(P, skeleton.take(A, P, chosen.perm[: chosen.rank]))
        omega = P.normal(probe_key, P.shape[1], PROBES)
        image = P.apply(omega)
        rest = image - Q @ (Q.T @ image)
        certificates = probe_certificates(rest - Q @ (Q.T @ rest), omega, image, ALPHA, "A − QQᵀA", P.xp)
        status = finite_status(certificates["spectral_error"].measured, P.xp)
    R = P.adjoint(Q).T[:, chosen.perm]
    R = P.xp.concatenate([P.xp.triu(R[:, : chosen.rank]), R[:, chosen.rank :]], axis=1)
    certificates |= {"orthogonality": orthogonality(P.xp, Q=Q), "strong": skeleton.strong(chosen, P.shape[1])}
    stats = {"rank": chosen.rank, "swaps": chosen.swaps, "method": Note("the columns of a sketch, pivoted")}
    return P.out(Solution(PivotedQR(Q, R, chosen.perm), certificates, status, chosen.swaps, stats))


def toleranced(claim: str, grown: skeleton.Grown, tol: float) -> Certificate:
    """The tolerance against the certified error."""
    return Certificate(
        f"{claim} <= tol·‖A‖₂, from fresh Gaussian probes at every look",
        measured=grown.error,
        bound=tol * grown.norm + grown.noise,
        kind="probabilistic",
        confidence=1 - FAILURE,
        source=f"{HMT}, Lemma 4.1 for EEᵀE, and a union bound over the looks",
        assumptions=(Assumption("‖A‖₂ is replaced by ‖QᵀA‖₂, which cannot exceed it"),),
    )
