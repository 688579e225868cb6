"""Nyström approximation of a positive semidefinite operator: A ≈ U diag(λ) Uᵀ from a single product with a block.

Use it for kernel matrices, covariances and Hessians that are known by products, and as a preconditioner. It never
overshoots: 0 ≤ Â ≤ A before truncation. Cost: one product of A with k + p + 8 columns, O(n (k + p)²). Source: Tropp,
Yurtsever, Udell & Cevher, Fixed-rank approximation of a positive-semidefinite matrix from streaming data, NIPS 2017,
Algorithm 3 (stable, with a shift) and Theorem 4.1; Gittens & Mahoney (2016).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float, Key

from corollary.core import operator, validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution
from corollary.linalg._products import products
from corollary.linalg.low_rank._range_finder import ALPHA, PROBES, finite_status, fitting
from corollary.linalg.low_rank._rsvd_bounds import orthogonality, probe_certificates


class Nystrom(eqx.Module):
    """A ≈ U diag(eigenvalues) Uᵀ, eigenvalues falling and not negative."""

    U: Float[Array | np.ndarray, "n k"]
    eigenvalues: Float[Array | np.ndarray, " k"]

    @property
    def matrix(self) -> Float[Array | np.ndarray, "n n"]:
        """The approximation, (n, n)."""
        return (self.U * self.eigenvalues) @ self.U.T


@follows_input
def nystrom(A: Any, rank: Any, *, oversampling: Any = 10, trace: Any = None, key: Key[Array, ""]) -> Solution:
    """Nyström approximation of rank k, from one product of A with a block of Gaussian vectors.

    Use it where A is positive semidefinite and products are dear; where its entries are at hand, `pivoted_cholesky`
    reads fewer of them. Cost: one product with k + p + 8 columns, O(n (k + p)²). jit and vmap work.

    Parameters
    ----------
    A
        (n, n) symmetric positive semidefinite: dense or sparse matrix, or operator.
    rank
        k ≤ n.
    oversampling
        p, extra columns beside `rank`.
    trace
        tr A, where it is known; read off a dense or sparse matrix.
    key
        `jax.random.key`.

    Returns
    -------
    Solution
        ``value``: `Nystrom`. Certificates: ``"spectral_error"`` (probabilistic) and ``"frobenius_error"`` (estimate),
        from probes in the same product; ``"trace_error"`` (exact, where the trace is known: ‖A − Â‖₂ ≤ tr A − tr Â),
        ``"psd"`` (exact: ΩᵀAΩ has no negative eigenvalue beyond rounding), ``"orthogonality"`` (exact).

    Raises
    ------
    InputError
        For a matrix that is not square, finite and real, or a rank beyond n.

    Notes
    -----
    E ‖A − Â‖_* ≤ (1 + k/(p − 1)) Σ_{j>k} λ_j for the untruncated form (Theorem 4.1 with ϱ = k). The shift ν = √n ε‖Y‖
    keeps the small Cholesky factor away from rounding and is taken off again.

    Examples
    --------
    >>> import jax, numpy as np
    >>> found = nystrom(np.diag([3.0, 1.0, 0.0, 0.0]), 2, oversampling=1, key=jax.random.key(0))
    >>> found.value.eigenvalues.round(6).tolist()
    [3.0, 1.0]
    """
    P = products(A, key)
    validation.integer(1)("rank", rank)
    validation.integer(0)("oversampling", oversampling)
    validation.number(0, none=True)("trace", trace) if not isinstance(trace, jax.Array) else None
    xp, (n, columns) = P.xp, P.shape
    if n != columns:
        raise InputError(f"A: found shape {P.shape}, expected a square (symmetric positive semidefinite) matrix")
    rank = fitting(rank, P.shape)
    width = min(rank + oversampling, n)
    start, test = jax.random.split(key)
    omega, probes = xp.linalg.qr(P.normal(start, n, width))[0], P.normal(test, n, PROBES)
    Y = P.apply(xp.concatenate([omega, probes], axis=1))
    Y, image = Y[:, :width], Y[:, width:]
    top = xp.max(xp.abs(Y))
    scale = xp.where(top > 0, top, 1)
    Y = Y / scale
    shift = n**0.5 * P.eps * xp.linalg.norm(Y)
    shifted = Y + shift * omega
    B = omega.T @ shifted
    values, vectors = xp.linalg.eigh((B + B.T) / 2)
    kept = values > shift / 2  # all of them, for a semidefinite A
    F = (shifted @ vectors) * xp.where(kept, 1 / xp.sqrt(xp.where(kept, values, 1)), 0)
    U, s, _ = xp.linalg.svd(F, full_matrices=False)
    eigenvalues = xp.maximum(xp.square(s) - shift, 0)[:rank] * scale
    U = U[:, :rank]
    rest = image - U @ (eigenvalues[:, None] * (U.T @ probes))
    certificates = probe_certificates(rest, probes, image, ALPHA, "A − U diag(λ) Uᵀ", xp)
    certificates["psd"] = Certificate(
        "−λ_min(ΩᵀAΩ)/‖AΩ‖ at rounding level: A shows no negative eigenvalue to the sketch",
        measured=xp.maximum(-(values[0] - shift), 0) / xp.where(top > 0, xp.linalg.norm(Y), 1),
        bound=16 * P.eps * n**0.5 * width**0.5,
        kind="exact",
        source="Rayleigh quotients",
    )
    trace = _trace(A, P) if trace is None else trace
    if trace is not None:
        noise = 16 * P.eps * n * (xp.abs(xp.asarray(trace, P.dtype)) + xp.sum(eigenvalues))
        certificates["trace_error"] = Certificate(
            "largest ‖(A − Â)ω‖/‖ω‖ of the probes <= ‖A − Â‖₂ <= tr A − tr Â, as A − Â is semidefinite",
            measured=certificates["spectral_error"].measured,
            bound=xp.asarray(trace, P.dtype) - xp.sum(eigenvalues) + noise,
            kind="exact",
            source="Tropp, Yurtsever, Udell & Cevher (2017)",
        )
    certificates["orthogonality"] = orthogonality(xp, U=U)
    stats = {"rank": rank, "products": width + PROBES, "method": Note("single pass, shifted")}
    status = finite_status(xp.sum(eigenvalues), xp)
    return P.out(Solution(Nystrom(U, eigenvalues), certificates, status, 1, stats))


def _trace(A: Any, P: Any) -> Any:
    """tr A, where the entries are at hand."""
    if isinstance(A, lx.MatrixLinearOperator):
        A = A.matrix
    if scipy.sparse.issparse(A):
        return A.diagonal().sum()
    if isinstance(A, operator.Sparse):
        return jnp.sum(jnp.where(A.rows == A.matrix.indices, A.matrix.data, 0))
    return P.xp.trace(P.xp.asarray(A)) if isinstance(A, np.ndarray | jax.Array) else None
