"""QR with column pivoting: A[:, perm] = Q R, rank revealed by R's falling diagonal, at the speed of products.

Use it for the numerical rank, an independent set of columns, a basis, or a well-behaved solve of a tall matrix whose
columns may be dependent. Cost: 2 n² m (R) to 4 n² m (Q too) in matrix products for a tall matrix, where LAPACK's geqp3
spends half of its 4 n² m in products with a vector. Source: Businger & Golub (1965); Golub & Van Loan, Matrix
Computations, 4th ed., §5.4.2; Melnichenko et al. (2023) for the fast path.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input, on_host
from corollary.core.solution import Note, Solution, Status
from corollary.linalg.low_rank import _tall_qr as tall
from corollary.linalg.low_rank._range_finder import ALPHA, FAILURE
from corollary.linalg.low_rank._rsvd_bounds import HMT

WORK = 2e7  # m n² from which the sketch pays


class PivotedQR(eqx.Module):
    """A[:, perm] = Q R: orthonormal Q (None in mode "r"), upper trapezoidal R with a positive, falling diagonal."""

    Q: Float[Array | np.ndarray, "m r"] | None
    R: Float[Array | np.ndarray, "r n"]
    perm: Int[Array | np.ndarray, " n"]


@follows_input
def pivoted_qr(
    A: Any,
    mode: Any = "economic",
    *,
    solver: Any = "auto",
    rcond: Any = None,
    certify: Any = "probes",
    key: Key[Array, ""] | None = None,
) -> Solution:
    """QR factorisation with column pivoting, A[:, perm] = Q R, cut at the numerical rank.

    Use it where you would call ``scipy.linalg.qr(A, pivoting=True)``: the order of columns is the same (to ties). Cost:
    2 n² m in matrix products for R, 4 n² m with Q, for m ≥ 4n ("sketched"); else LAPACK's geqp3.

    Parameters
    ----------
    A
        (m, n) dense matrix.
    mode
        "economic" (Q and R) or "r" (R only, half the cost).
    solver
        "lapack"; "sketched" (m ≥ 2n); "auto": sketched for m ≥ 4n and m n² ≥ 2·10⁷, but under `jit` LAPACK, whose
        factors have derivatives (for full column rank, at a fixed order of columns).
    rcond
        Columns are kept while R_kk > `rcond` R_11; min(m, n) machine epsilons by default.
    certify
        "probes": residual and orthogonality of the sketched solver from eight Gaussian probes, while the rows are in
        cache; "full": computed outright, at the cost of the factorisation again.
    key
        For the sketch: `jax.random.key(0)` by default. The answer depends on it by rounding only.

    Returns
    -------
    Solution
        ``value``: `PivotedQR` with r = rank columns in Q and rows in R; under jit min(m, n), zero beyond the rank.
        Certificates: ``"residual"`` and ``"orthogonality"`` (exact for LAPACK and "full", else probabilistic; in mode
        "r" of the sketched solver ``"gram"``: PᵀAᵀAP = RᵀR), ``"pivoting"`` (exact). ``stats``: ``rank``, ``solver``
        with the reason, and for the sketched solver ``condition`` of the preconditioned matrix and ``rounds``.

    Raises
    ------
    InputError
        For a matrix that is not dense, finite and real, an unknown mode or solver, or a wide one with "sketched".

    Notes
    -----
    The order of columns comes from pivoting A's own triangle, not only the sketch's. Source: Melnichenko, Balabanov,
    Murray, Demmel, Mahoney & Luszczek (2023), Algorithm 2 (CQRRPT); Golub & Van Loan, §5.4.2, eq. 5.4.6 (pivoting).

    Examples
    --------
    >>> import numpy as np
    >>> A = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 4.0], [0.0, 0.0, 0.0]])
    >>> Q, R, perm = (lambda v: (v.Q, v.R, v.perm))(pivoted_qr(A).value)
    >>> perm.tolist(), R.shape, bool(np.allclose(Q @ R, A[:, perm]))
    ([2, 1, 0], (2, 3), True)
    """
    validation.one_of("economic", "r")("mode", mode)
    validation.one_of("auto", "lapack", "sketched")("solver", solver)
    validation.one_of("probes", "full")("certify", certify)
    validation.number(0, 1, none=True)("rcond", rcond)
    big = isinstance(A, np.ndarray) and A.ndim == 2 and A.dtype in (np.float32, np.float64)
    if not (big and min(A.shape) and _sketch_pays(A.shape)):  # else the sketch looks for NaN, without another pass
        A = validation.matrix("A", A, host=True)
    traced, in_jax = isinstance(A, Tracer) or isinstance(key, Tracer), isinstance(A, jax.Array)
    if solver == "sketched" and A.shape[0] < 2 * A.shape[1]:
        raise InputError(
            f"solver: found 'sketched' for shape {A.shape}, expected at least twice as many rows as columns"
        )
    solver, reason = _choose(solver, A.shape, traced)
    cut = min(A.shape) * float(np.finfo(A.dtype).eps) if rcond is None else float(rcond)
    if not traced and (isinstance(A, np.ndarray) or on_host(A)):
        solution = _on_the_host(np.asarray(A), mode, solver, cut, certify, reason, key)
        return jax.tree.map(jnp.asarray, solution) if in_jax else solution
    A, cut = jnp.asarray(A), jnp.asarray(cut, A.dtype)
    if solver == "sketched":
        found = tall.in_jax(A, cut, jax.random.key(0) if key is None else key, with_q=mode == "economic")
        return _claims(A, found, reason, cut, certify, jnp)
    Q, R, perm, rank = _householder(A, cut)
    value = PivotedQR(Q if mode == "economic" else None, R, perm)
    return Solution(value, _exact(A, Q, R, perm, rank, cut, jnp), stats={"rank": rank, "solver": Note(reason)})


def _sketch_pays(shape: Any) -> bool:
    return shape[0] >= 4 * shape[1] and shape[0] * shape[1] ** 2 >= WORK


def _choose(solver: str, shape: Any, traced: bool) -> tuple[str, str]:
    if solver != "auto":
        return solver, f"{solver}: as asked"
    if traced:
        return "lapack", "lapack: traced data, whose factors have derivatives"
    if _sketch_pays(shape):
        return "sketched", f"sketched: {shape[0]} rows are many more than {shape[1]} columns"
    return "lapack", "lapack: small, or not tall"


def _on_the_host(A: np.ndarray, mode: str, solver: str, cut: float, certify: str, reason: str, key: Any) -> Solution:
    if solver == "sketched":
        found = tall.on_host(A, cut, jax.random.key(0) if key is None else key, with_q=mode == "economic")
        if found is not None:
            return _claims(A, found, reason, cut, certify, np)
        reason = "lapack: the sketch gave no usable preconditioner"
    e = int(np.frexp(np.abs(A).max())[1])
    Q, R, perm, rank = tall.pivot_triangle(np.ldexp(A, -e), cut)
    R = np.ldexp(R, e)
    value = PivotedQR(Q if mode == "economic" else None, R, perm)
    return Solution(value, _exact(A, Q, R, perm, rank, cut, np), stats={"rank": rank, "solver": Note(reason)})


def _householder(A: Float[Array, "m n"], cut: Array) -> tuple[Array, Array, Array, Array]:
    """Householder's QR, then its triangle pivoted: the same order as geqp3's, and every step has a derivative."""
    frozen = jax.lax.stop_gradient(A)
    scale = jnp.ldexp(jnp.ones((), A.dtype), jnp.frexp(jnp.max(jnp.abs(frozen)))[1])
    perm = jax.scipy.linalg.qr(frozen / scale, mode="r", pivoting=True)[1]
    Q, R = jnp.linalg.qr(A[:, perm] / scale)
    diagonal = jax.lax.stop_gradient(jnp.diagonal(R))
    kept = jnp.abs(diagonal) > cut * jnp.abs(diagonal[0])
    sign = jnp.where(kept, jnp.sign(diagonal), 0)
    return Q * sign, R * sign[:, None] * scale, perm, jnp.sum(kept)


# Certificates --------------------------------------------------------------------------------------------------------


def _exact(A: Any, Q: Any, R: Any, perm: Any, rank: Any, cut: Any, xp: Any) -> dict[str, Certificate]:
    A, Q, R = (jax.lax.stop_gradient(x) if xp is jnp else x for x in (A, Q, R))
    _, e = xp.frexp(xp.max(xp.abs(A)))
    small = xp.ldexp(R, -e)
    defect = xp.linalg.norm(xp.ldexp(A, -e)[:, perm] - Q @ small)
    identity = xp.diag((xp.arange(Q.shape[1]) < rank).astype(Q.dtype))
    lost = xp.linalg.norm(Q.T @ Q - identity)
    scale = math.sqrt(A.shape[0]) * max(Q.shape[1], 1)
    return {
        "residual": Certificate(
            "‖AP − QR‖_F is at rounding level, but for columns that the numerical rank leaves out",
            measured=xp.ldexp(defect, e),
            bound=xp.ldexp(_allowed(small, rank, cut, xp), e),
            kind="exact",
            source="Golub & Van Loan, Matrix Computations, 4th ed., §5.4",
        ),
        "orthogonality": Certificate(
            "orthonormal columns: ‖QᵀQ − I‖_F at rounding level",
            measured=lost,
            bound=16 * float(np.finfo(A.dtype).eps) * scale,
            kind="exact",
            source="computed",
        ),
        "pivoting": _pivoting(small, rank, xp),
    }


def _claims(A: Any, found: tall.TallQR, reason: str, cut: Any, certify: str, xp: Any) -> Solution:
    R, with_q, eps, n = found.R, found.Q is not None, float(np.finfo(A.dtype).eps), A.shape[1]
    stats = {"rank": found.rank, "solver": Note(reason), "condition": found.condition, "rounds": found.rounds}
    value = PivotedQR(found.Q, R, found.perm)
    if certify == "full" and with_q:
        return Solution(value, _exact(A, found.Q, R, found.perm, found.rank, cut, xp), stats=stats)
    _, e = xp.frexp(xp.max(xp.abs(R), initial=0))
    small = xp.ldexp(R, -e)
    factor = ALPHA * math.sqrt(2 / math.pi)
    probed = {"kind": "probabilistic", "confidence": 1 - FAILURE, "source": f"{HMT}, Lemma 4.1"}
    if with_q:
        certificates = {
            "residual": Certificate(
                "‖AP − QR‖₂, from 8 Gaussian probes, is at rounding level but for what the numerical rank leaves out",
                measured=factor * xp.max(found.residual),
                bound=xp.ldexp(4 * factor * _allowed(small, found.rank, cut, xp), e),
                **probed,
            ),
            "orthogonality": Certificate(
                "‖QᵀQ − I‖₂, from 8 Gaussian probes, is at rounding level",
                measured=factor * xp.max(xp.linalg.norm(found.defect, axis=0), initial=0),
                bound=16 * eps * math.sqrt(A.shape[0]) * n,
                **probed,
            ),
        }
    else:
        size = xp.linalg.norm(small)
        certificates = {
            "gram": Certificate(
                "‖PᵀAᵀAP − RᵀR‖₂ / ‖R‖_F², from 8 Gaussian probes, is at rounding level",
                measured=factor * xp.max(xp.linalg.norm(found.gram, axis=0)),
                bound=8 * factor * _allowed(small, found.rank, cut, xp) / xp.where(size > 0, size, 1),
                **probed,
            )
        }
    certificates["pivoting"] = _pivoting(small, found.rank, xp)
    return Solution(value, certificates, Status.CONVERGED, found.rounds, stats)


def _allowed(R: Any, rank: Any, cut: Any, xp: Any) -> Any:
    """Rounding of the factorisation, and the columns left out: each at most `cut` R_11 long (twice, by the sketch)."""
    n = R.shape[1]
    top = xp.max(xp.abs(R), initial=0)
    left_out = 2 * cut * xp.sqrt(xp.asarray(n - rank, R.dtype)) * top
    return 16 * float(np.finfo(R.dtype).eps) * math.sqrt(n) * xp.linalg.norm(R) + left_out


def _pivoting(R: Any, rank: Any, xp: Any) -> Certificate:
    """R_kk² >= Σ_{i=k..j} R_ij² for all j >= k: the k-th pivot is the longest of the columns that were left."""
    r = R.shape[0]
    if r == 0:
        worst = xp.zeros((), R.dtype)
    else:
        tails = xp.sqrt(xp.cumsum(xp.square(xp.triu(R))[::-1], axis=0)[::-1])
        later = xp.where(xp.arange(R.shape[1]) >= xp.arange(r)[:, None], tails, 0)
        pivots = xp.where(xp.arange(r) < rank, xp.diagonal(R[:, :r]), 1)
        worst = xp.max(xp.where(xp.arange(r) < rank, xp.max(later, axis=1) / pivots, 0))
    return Certificate(
        "max over k of the longest remaining column over R_kk, which a pivot choice makes at most 1",
        measured=worst,
        bound=1 + math.sqrt(float(np.finfo(R.dtype).eps)),
        kind="exact",
        source="Golub & Van Loan, Matrix Computations, 4th ed., eq. 5.4.6",
    )
