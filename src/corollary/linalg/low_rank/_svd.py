"""Singular value decomposition that chooses its algorithm, fixes its signs and can be differentiated safely.

Use `svd` for a dense matrix in full, reduced or compact form and for the leading triplets of anything that has
products; `eckart_young` for the best rank-k approximation and its exact errors. Cost: O(m n min(m, n)) direct;
O(m n k) for the leading k by block Krylov. Source: Golub & Van Loan, Matrix Computations, 4th ed., §2.4, §8.6;
Townsend (2016), Differentiating the SVD.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Key

from corollary.core import operator, validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.linalg.low_rank._block_krylov import sign_fixed
from corollary.linalg.low_rank._randomized_svd import randomized_svd
from corollary.linalg.low_rank._rsvd_bounds import orthogonality

Triplets = tuple[Float[Array, "m k"], Float[Array, " k"], Float[Array, "k n"]]
DENSE_LIMIT = 50_000_000  # entries up to which an operator may be made dense for a direct decomposition


@follows_input
def svd(
    A: Any,
    rank: Any = None,
    *,
    mode: Any = None,
    solver: Any = "auto",
    accuracy: Any = None,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """Singular value decomposition A = U diag(s) Vt, its form and algorithm chosen for you.

    Use it for any SVD. Cost: O(m n min(m, n)) for "direct"; O(m n k) for "krylov". Functions of the factors that do not
    depend on their signs or on the basis of a repeated value's space have right and finite derivatives, also where
    singular values coincide (the direct solver).

    Parameters
    ----------
    A
        (m, n) dense or sparse matrix, or operator.
    rank
        k: only the leading k triplets.
    mode
        "full" (U (m, m), Vt (n, n)), "reduced" (min(m, n) triplets, the default), "compact" (as many as the numerical
        rank, σ > max(m, n) eps σ_1; not under jit) or "truncated" (`rank` of them, the default with `rank`).
    solver
        "direct" (LAPACK), "krylov" (`randomized_svd`), or "auto": krylov for a truncated SVD of a sparse matrix or an
        operator, or of a dense one with more than 500 rows and columns and k at most a twentieth of them.
    accuracy
        Relative accuracy of the krylov solver's values: the square root of machine epsilon by default.
    key
        For the krylov solver's start: `jax.random.key(0)` by default.

    Returns
    -------
    Solution
        ``value``: (U, s, Vt); s falls and is not negative; the largest entry of each of the leading rows of Vt is
        positive. Certificates: ``"weyl"`` (exact: every σ_i(A) is as close to its s_i as the backward error),
        ``"orthogonality"`` (exact); for "krylov" those of `randomized_svd`. ``stats``: ``solver`` (with the reason),
        ``rank``.

    Raises
    ------
    InputError
        For a mode or solver that does not fit, or a matrix that is not finite and real.

    Notes
    -----
    Weyl: |σ_i(A) − σ_i(Â)| ≤ ‖A − Â‖₂ (Golub & Van Loan, Corollary 8.6.2). σ_r > 0 belongs to the compact form only.

    Examples
    --------
    >>> import numpy as np
    >>> U, s, Vt = svd(np.array([[0.0, 2.0], [1.0, 0.0], [0.0, 0.0]])).value
    >>> s.tolist(), U.shape
    ([2.0, 1.0], (3, 2))
    """
    mode = mode or ("reduced" if rank is None else "truncated")
    validation.one_of("full", "reduced", "compact", "truncated")("mode", mode)
    validation.one_of("auto", "direct", "krylov")("solver", solver)
    validation.number(0, open_low=True, none=True)("accuracy", accuracy)
    validation.integer(1, none=True)("rank", rank)
    if (mode == "truncated") != (rank is not None):
        raise InputError(f"rank: found {rank!r} with mode {mode!r}, expected a rank with 'truncated' and only there")
    implicit = scipy.sparse.issparse(A) or isinstance(A, lx.AbstractLinearOperator) or hasattr(A, "todense")
    if not implicit:
        A = validation.matrix("A", A, host=True)
    elif not scipy.sparse.issparse(A):
        A = operator.as_operator(A)
    shape = operator.shape(A) if isinstance(A, lx.AbstractLinearOperator) else A.shape
    if rank is not None and rank > min(shape):
        raise InputError(f"rank: found {rank}, expected at most {min(shape)} for a matrix of shape {shape}")
    solver, reason = _choose(solver, mode, rank, shape, implicit)
    if solver == "krylov":
        single = (operator.dtype(A) if isinstance(A, lx.AbstractLinearOperator) else A.dtype) == np.float32
        accuracy = accuracy or float(np.sqrt(np.finfo(np.float32 if single else np.float64).eps))
        found = randomized_svd(A, rank, accuracy=accuracy, max_steps=50, key=jax.random.key(0) if key is None else key)
        stats = {**found.stats, "solver": Note(reason)}
        return Solution(found.value, found.certificates, found.status, found.steps, stats)
    return _direct(_dense(A, shape), mode, rank, reason)


def _choose(solver: str, mode: str, k: int | None, shape: tuple[int, int], implicit: bool) -> tuple[str, str]:
    """The solver, and why."""
    if solver == "krylov" and mode != "truncated":
        raise InputError(f"solver: found 'krylov' with mode {mode!r}, expected 'direct', which has all triplets")
    if solver != "auto":
        return solver, f"{solver}: as asked"
    if k is None:
        return "direct", f"direct: the {mode} form needs every triplet"
    few = 20 * k <= min(shape)
    if implicit and 2 * (k + 10) < min(shape):
        return "krylov", "krylov: A is sparse or known by its products, and few triplets are wanted"
    if min(shape) > 500 and few:
        return "krylov", f"krylov: {k} of {min(shape)} triplets of a large matrix"
    return "direct", "direct: small, or a large share of the triplets is wanted"


def _dense(A: Any, shape: tuple[int, int]) -> Any:
    """The matrix itself; refuse to densify a large one silently."""
    if not scipy.sparse.issparse(A) and not isinstance(A, lx.AbstractLinearOperator):
        return A
    if shape[0] * shape[1] > DENSE_LIMIT:
        raise InputError(f"A: found a sparse matrix or operator of shape {shape}, expected a `rank`")
    return validation.matrix("A", A.as_matrix() if isinstance(A, lx.AbstractLinearOperator) else A.toarray(), host=True)


def _direct(A: Any, mode: str, rank: int | None, reason: str) -> Solution:
    """LAPACK's divide and conquer (on the host for NumPy data), then the form that was asked for."""
    xp, constant = (np, lambda x: x) if isinstance(A, np.ndarray) else (jnp, jax.lax.stop_gradient)
    # A power of two brings A to the order of one, so that no square overflows and no bit is lost.
    scale = xp.ldexp(xp.ones((), A.dtype), xp.frexp(constant(xp.max(xp.abs(A))))[1])
    if xp is np:
        U, s, Vt = _svd_host(A / scale, full=mode == "full")
    else:
        U, s, Vt = _svd_full(A / scale) if mode == "full" else _svd_reduced(A / scale)
    if mode == "compact" and isinstance(s, Tracer):
        raise InputError("mode: found 'compact' under jit or vmap, expected 'reduced'")
    certificates = {
        "weyl": _weyl(constant(A / scale), constant(U), constant(s), constant(Vt), scale, xp),
        "orthogonality": orthogonality(xp, U=constant(U), V=constant(Vt).T),
    }
    if mode == "compact":
        rank = int(xp.sum(s > max(A.shape) * float(np.finfo(A.dtype).eps) * s[0]))
    if rank is not None:
        U, s, Vt = U[:, :rank], s[:rank], Vt[:rank]
    status = xp.where(xp.isfinite(xp.sum(s)), Status.CONVERGED, Status.NON_FINITE).astype(np.int32)
    return Solution((U, s * scale, Vt), certificates, status=status, stats={"solver": Note(reason), "rank": s.shape[0]})


def _weyl(A: Any, U: Any, s: Any, Vt: Any, scale: Any, xp: Any) -> Certificate:
    """|σ_i(A) − s_i| <= ‖A − USVᵀ‖ + s_1 (‖UᵀU − I‖ + ‖VᵀV − I‖): factors that are only nearly orthogonal count too."""
    defect = xp.linalg.norm(A - (U[:, : len(s)] * s) @ Vt[: len(s)])
    lost = sum(xp.linalg.norm(F.T @ F - xp.eye(F.shape[1], dtype=F.dtype)) for F in (U, Vt.T))
    return Certificate(
        "every |σ_i(A) − s_i| <= ‖A − USVᵀ‖_F + s_1(‖UᵀU − I‖_F + ‖VᵀV − I‖_F), which is at rounding level",
        measured=(defect + s[0] * lost) * scale,
        bound=16 * float(np.finfo(A.dtype).eps) * max(A.shape) * s[0] * scale,
        kind="exact",
        source="Weyl; Golub & Van Loan, Matrix Computations, 4th ed., Corollary 8.6.2",
    )


def _svd_host(A: np.ndarray, *, full: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    U, s, Vt = np.linalg.svd(A, full_matrices=full)
    k = len(s)
    U[:, :k], Vt[:k] = sign_fixed(U[:, :k], Vt[:k], np)
    return U, s, Vt


@jax.custom_jvp
def _svd_reduced(A: Float[Array, "m n"]) -> Triplets:
    U, s, Vt = jnp.linalg.svd(A, full_matrices=False)
    U, Vt = sign_fixed(U, Vt, jnp)
    return jnp.asarray(U), s, jnp.asarray(Vt)


@_svd_reduced.defjvp
def _svd_reduced_jvp(primals: Any, tangents: Any) -> Any:
    """dS = diag(P), dU = U(F∘(PS + SPᵀ)) + U_⊥ part, dV alike, with P = UᵀdAV and F_ij = 1/(s_j² − s_i²), 0 at ties."""
    (A,), (dA,) = primals, tangents
    U, s, Vt = _svd_reduced(A)
    P = U.T @ dA @ Vt.T
    F = _safe_inverse((s + s[:, None]) * (s - s[:, None]), s)
    dU = U @ (F * (P * s + s[:, None] * P.T))
    dV = Vt.T @ (F * (s[:, None] * P + P.T * s))
    inverse = _safe_inverse_vector(s)
    if A.shape[0] > s.shape[0]:
        outside = dA @ Vt.T
        dU = dU + (outside - U @ (U.T @ outside)) * inverse
    if A.shape[1] > s.shape[0]:
        outside = dA.T @ U
        dV = dV + (outside - Vt.T @ (Vt @ outside)) * inverse
    return (U, s, Vt), (dU, jnp.diagonal(P), dV.T)


def _svd_full(A: Float[Array, "m n"]) -> tuple[Float[Array, "m m"], Float[Array, " k"], Float[Array, "n n"]]:
    """The reduced factors, completed to orthogonal matrices by QR; the completion is a constant to derivatives."""
    U, s, Vt = _svd_reduced(A)
    (m, n), thin = A.shape, s.shape[0]
    if m > thin:
        U = jnp.concatenate([U, _complement(U)], axis=1)
    if n > thin:
        Vt = jnp.concatenate([Vt, _complement(Vt.T).T], axis=0)
    return U, s, Vt


@jax.custom_jvp
def _complement(U: Float[Array, "m k"]) -> Float[Array, "m rest"]:
    """An orthonormal basis of what U leaves over."""
    return jnp.linalg.qr(U, mode="complete")[0][:, U.shape[1] :]


@_complement.defjvp
def _complement_jvp(primals: Any, tangents: Any) -> Any:
    """dU_⊥ = −U dUᵀ U_⊥ keeps [U U_⊥] orthogonal; any turn inside U_⊥ is free, and is left out."""
    (U,), (dU,) = primals, tangents
    rest = _complement(U)
    return rest, -U @ (dU.T @ rest)


def _safe_inverse(gap: Float[Array, "k k"], s: Float[Array, " k"]) -> Float[Array, "k k"]:
    """1/gap, and 0 where two values are one to rounding: there only sign- and basis-free functions are defined."""
    tie = jnp.abs(s - s[:, None]) <= 16 * jnp.finfo(s.dtype).eps * s[0]
    return jnp.where(tie, 0, 1 / jnp.where(tie, 1, gap))


def _safe_inverse_vector(s: Float[Array, " k"]) -> Float[Array, " k"]:
    zero = s <= 16 * jnp.finfo(s.dtype).eps * s[0]
    return jnp.where(zero, 0, 1 / jnp.where(zero, 1, s))


class BestApproximation(eqx.Module):
    """The best rank-k approximation, its errors in the two usual norms, and whether it is the only one."""

    matrix: Float[Array, "m n"] | np.ndarray
    spectral_error: Float[Array, ""] | np.ndarray | np.floating
    frobenius_error: Float[Array, ""] | np.ndarray | np.floating
    unique: Bool[Array, ""] | np.ndarray | np.bool_


@follows_input
def eckart_young(A: Any, rank: Any) -> Solution:
    """Best rank-k approximation A_k = Σ_{i≤k} σ_i u_i v_iᵀ with its exact errors (Eckart, Young and Mirsky).

    Use it as the yardstick for any low-rank factorisation: none of rank k does better in any unitarily invariant norm.
    Cost: O(m n min(m, n)).

    Parameters
    ----------
    A
        (m, n) matrix.
    rank
        k, from 0 to min(m, n).

    Returns
    -------
    Solution
        ``value``: `BestApproximation` with ``matrix`` (m, n), ``spectral_error`` σ_{k+1}, ``frobenius_error``
        (Σ_{i>k} σ_i²)^{1/2} and ``unique``: the only minimiser in the Frobenius norm, which is so iff σ_k > σ_{k+1} or
        σ_{k+1} = 0 (to rounding). In the spectral norm A_k is one minimiser among many unless σ_{k+1} = 0.
        Certificate: ``"weyl"`` (exact).

    Raises
    ------
    InputError
        For a rank outside 0..min(m, n).

    Notes
    -----
    Source: Eckart & Young (1936); Mirsky (1960); Golub & Van Loan, 4th ed., Theorem 2.4.8.

    Examples
    --------
    >>> import numpy as np
    >>> best = eckart_young(np.diag([3.0, 2.0, 2.0]), 2).value
    >>> float(best.spectral_error), bool(best.unique)
    (2.0, False)
    """
    k = validation.integer(0)("rank", rank)
    A = validation.matrix("A", A, host=True)
    if k > min(A.shape):
        raise InputError(f"rank: found {k}, expected at most {min(A.shape)} for a matrix of shape {A.shape}")
    found = svd(A)
    U, s, Vt = found.value
    xp = np if isinstance(s, np.ndarray) else jnp
    tail = xp.concatenate([s[k:], xp.zeros(1, s.dtype)])
    top = xp.where(tail[0] > 0, tail[0], 1).astype(s.dtype)
    noise = max(A.shape) * float(np.finfo(s.dtype).eps) * s[0]
    unique = (tail[0] <= noise) | (s[k - 1] - tail[0] > noise) if k else xp.asarray(True)
    frobenius = top * xp.sqrt(xp.sum(xp.square(tail / top)))
    value = BestApproximation((U[:, :k] * s[:k]) @ Vt[:k], tail[0], frobenius, unique)
    return Solution(value, {"weyl": found.certificates["weyl"]}, status=found.status, stats={"rank": k})
