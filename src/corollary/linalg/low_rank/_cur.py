"""CUR decomposition: A ≈ C U R from some of A's own columns and rows, with the core that makes the error least.

Use it where a low-rank factorisation should be read in terms of the data: these columns, these rows. The core is
U = C⁺AR⁺, the minimiser of ‖A − CUR‖_F for the C and R at hand. (The pseudoinverse of the intersection A[I, J] gives
the same product only where its rank is that of A.) Cost: the choice (leading k triplets, or a sketch), O(m c² + n r²),
and one product with A. Source: Mahoney & Drineas (2009); Sorensen & Embree, SIAM J. Sci. Comput. 38 (2016).
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution
from corollary.linalg._products import Products, products
from corollary.linalg.low_rank import _skeleton as skeleton
from corollary.linalg.low_rank._leverage import leverage_sample
from corollary.linalg.low_rank._range_finder import ALPHA, PROBES, finite_status, fitting
from corollary.linalg.low_rank._rsvd_bounds import probe_certificates
from corollary.linalg.low_rank._svd import svd

Part = Float[Array | np.ndarray, "_ _"]


class CUR(eqx.Module):
    """A ≈ C U R with C = A[:, columns] and R = A[rows]."""

    C: Part
    U: Part
    R: Part
    columns: Int[Array | np.ndarray, " c"]
    rows: Int[Array | np.ndarray, " r"]

    @property
    def matrix(self) -> Part:
        """The approximation, (m, n)."""
        return (self.C @ self.U) @ self.R


@follows_input
def cur(
    A: Any,
    rank: Any = None,
    *,
    columns: Any = None,
    rows: Any = None,
    selection: Any = "deim",
    count: Any = None,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """CUR decomposition from columns and rows that are given, or chosen for a rank.

    Use it for a factorisation that a person can read. Cost: that of the choice, O(m c² + n r²), and one product of A
    with c + 8 columns. For given indices, or "pivoted", it can be jitted.

    Parameters
    ----------
    A
        (m, n) dense or sparse matrix, or operator.
    rank
        k, of the singular subspaces that the choice rests on; not needed where `columns` and `rows` are both given.
    columns, rows
        Indices to take; chosen where left out.
    selection
        "deim" (deterministic, from the singular vectors: k of each), "leverage" (`count` of each at random, by leverage
        scores), or "pivoted" (k of each, from a sketch by `interpolative`'s choice: no singular vectors, the cheapest).
    count
        c, how many are drawn with "leverage" (duplicates dropped): 2k + 10 by default.
    key
        `jax.random.key(0)` by default.

    Returns
    -------
    Solution
        ``value``: `CUR`. Certificates: ``"optimal"`` (exact: the gradient Cᵀ(A − CUR)Rᵀ vanishes), ``"error"``
        (exact, for a dense matrix with singular vectors at hand: ‖A − CUR‖_F ≤ η_c‖A − AVVᵀ‖_F + η_r‖A − WWᵀA‖_F,
        η = ‖(V[J])⁺‖₂), else ``"spectral_error"`` (probabilistic); ``"frobenius_error"`` (estimate). ``stats``:
        ``rank``, ``selection``, and with vectors ``best``, ‖A − A_k‖_F.

    Raises
    ------
    InputError
        For no rank where one is needed, an index out of range, or a matrix that is not finite and real.

    Notes
    -----
    Source: Sorensen & Embree (2016), Algorithm 1 (DEIM) and Theorem 4.1, whose proof holds in every unitarily invariant
    norm, for any indices and any orthonormal V and W.

    Examples
    --------
    >>> import numpy as np
    >>> A = np.outer(np.arange(1.0, 5.0), [1.0, 3.0, 2.0])
    >>> found = cur(A, 1).value
    >>> found.columns.tolist(), found.rows.tolist(), bool(np.allclose(found.matrix, A))
    ([1], [3], True)
    """
    validation.one_of("deim", "leverage", "pivoted")("selection", selection)
    validation.integer(1, none=True)("rank", rank)
    validation.integer(1, none=True)("count", count)
    key = jax.random.key(0) if key is None else key
    P = products(A, key)
    given = {
        name: _indices(name, i, size)
        for name, i, size in (("columns", columns, P.shape[1]), ("rows", rows, P.shape[0]))
    }
    missing = [name for name, i in given.items() if i is None]
    k = fitting(rank, P.shape) if missing or rank is not None else 0
    choice_key, probe_key = jax.random.split(key)
    W: Any = None
    V: Any = None
    if missing and selection == "pivoted":
        chosen = skeleton.choose(P, A, k, 10, choice_key)
        J = given["columns"] if given["columns"] is not None else chosen.perm[: max(chosen.rank, 1)]
        C = skeleton.take(A, P, J)
        other = skeleton.of_sketch(C.T, C.shape[1]) if given["rows"] is None else None
        I = other.perm[: max(other.rank, 1)] if other is not None else given["rows"]
    else:
        if missing:
            W, V, best = _vectors(A, k, P, choice_key)
        J = (
            given["columns"]
            if given["columns"] is not None
            else _pick(V, selection, k, count, jax.random.fold_in(choice_key, 1))
        )
        I = (
            given["rows"]
            if given["rows"] is not None
            else _pick(W, selection, k, count, jax.random.fold_in(choice_key, 2))
        )
        C = skeleton.take(A, P, J)
    R = skeleton.take(skeleton.transposed(A), P.T, I).T
    U, gradient, size = _core(P, C, R)
    value = CUR(C, U, R, P.xp.asarray(J), P.xp.asarray(I))
    certificates = _errors(A, P, value, W, V, probe_key)
    certificates["optimal"] = Certificate(
        "‖Q_CᵀAQ_R − Q_Cᵀ(CUR)Q_R‖_F at rounding level: no other core has a smaller Frobenius error",
        measured=gradient,
        bound=size,
        kind="exact",
        source="normal equations of min ‖A − CUR‖_F; Mahoney & Drineas, PNAS 106 (2009)",
    )
    stats: dict[str, Any] = {
        "rank": min(C.shape[1], R.shape[0]),
        "selection": Note(selection if missing else "as given"),
    }
    if V is not None:
        stats["best"] = best
    return P.out(Solution(value, certificates, finite_status(P.xp.sum(U), P.xp), stats=stats))


def _indices(name: str, value: Any, size: int) -> Any:
    if value is None or isinstance(value, Tracer):
        return value
    found = np.asarray(value)
    if found.ndim != 1 or not found.size or found.dtype.kind not in "iu":
        raise InputError(f"{name}: found {value!r}, expected a list of indices")
    if found.min() < 0 or found.max() >= size:
        raise InputError(f"{name}: found an index outside 0..{size - 1}")
    return found


def _vectors(A: Any, rank: int, P: Products, key: Key[Array, ""]) -> tuple[Any, Any, Any]:
    if P.traced:
        raise InputError("selection: found a traced matrix (under jit or vmap), expected 'pivoted', or given indices")
    U, s, Vt = svd(A, rank, key=key).value
    U, Vt, s = (np.asarray(x) for x in (U, Vt, s))
    kept = max(1, int(np.sum(s > max(P.shape) * P.eps * s[0])))
    U, V = U[:, :kept], Vt[:kept].T
    total = _frobenius(A)
    best = None if total is None else math.sqrt(max(total**2 - float(np.sum(np.square(s, dtype=float))), 0))
    return U, V, float("nan") if best is None else best


def _frobenius(A: Any) -> float | None:
    if scipy.sparse.issparse(A):
        return float(np.linalg.norm(A.data))
    return float(np.linalg.norm(np.asarray(A))) if isinstance(A, np.ndarray | jax.Array) else None


def _pick(V: np.ndarray, selection: str, rank: int, count: int | None, key: Key[Array, ""]) -> np.ndarray:
    if selection == "deim":
        return deim(V)
    scores = jnp.asarray(np.sum(V * V, axis=1))
    drawn = leverage_sample(scores, 2 * rank + 10 if count is None else count, key=key)
    return np.unique(np.asarray(drawn.indices))


def deim(V: np.ndarray) -> np.ndarray:
    """The discrete empirical interpolation method: the largest entry of what each vector adds to those before it.

    Pivots of LU without ever eliminating: index j is where v_j differs most from its interpolant by v_1 … v_{j−1}.
    """
    work, chosen = np.array(V, float), []
    for j in range(work.shape[1]):
        p = int(np.abs(work[:, j]).argmax())
        chosen.append(p)
        if work[p, j]:  # eliminating row p from the later columns is interpolating them there
            work[:, j + 1 :] -= np.outer(work[:, j] / work[p, j], work[p, j + 1 :])
    return np.array(chosen)


def _core(P: Products, C: Any, R: Any) -> tuple[Any, Any, Any]:
    """U = C⁺AR⁺ through orthonormal bases, and the gradient that it leaves."""
    xp, eps = P.xp, P.eps
    top = P.xp.maximum(xp.max(xp.abs(C)), xp.max(xp.abs(R)))
    scale = xp.where(top > 0, top, 1)
    (Wc, sc, Xc), (Wr, sr, Xr) = (xp.linalg.svd(F / scale, full_matrices=False) for F in (C, R.T))
    invert = lambda s, n: xp.where(s > n * eps * s[0], 1 / xp.where(s > n * eps * s[0], s, 1), 0)  # noqa: E731
    keep_c, keep_r = invert(sc, max(C.shape)), invert(sr, max(R.shape))
    middle = (P.adjoint(xp.where(keep_c > 0, Wc, 0)).T / scale) @ xp.where(keep_r > 0, Wr, 0)
    U = Xc.T @ (keep_c[:, None] * middle * keep_r) @ Xr
    back = xp.where((keep_c > 0)[:, None] & (keep_r > 0), sc[:, None] * (Xc @ U @ Xr.T) * sr, 0)
    size = (
        8 * eps * math.sqrt(C.shape[1] + R.shape[0]) * (xp.linalg.norm(keep_c) * sc[0] + xp.linalg.norm(keep_r) * sr[0])
    )
    return U / scale, xp.linalg.norm(middle - back), size * xp.maximum(xp.linalg.norm(middle), eps)


def _errors(A: Any, P: Products, value: CUR, W: Any, V: Any, key: Key[Array, ""]) -> dict[str, Certificate]:
    omega = P.normal(key, P.shape[1], PROBES)
    image = P.apply(omega)
    rest = image - value.C @ (value.U @ (value.R @ omega))
    certificates = probe_certificates(rest, omega, image, ALPHA, "A − CUR", P.xp)
    if V is None or not isinstance(A, np.ndarray | jax.Array) or P.xp is not np:
        return certificates
    A = np.asarray(A, P.dtype)
    eta_c, eta_r = (
        1 / max(float(np.linalg.svd(F[np.asarray(i)], compute_uv=False).min()), P.eps)
        for F, i in ((V, value.columns), (W, value.rows))
    )
    beyond_c, beyond_r = float(np.linalg.norm(A - (A @ V) @ V.T)), float(np.linalg.norm(A - W @ (W.T @ A)))
    noise = 16 * P.eps * max(A.shape) * float(np.linalg.norm(A))
    certificates["error"] = Certificate(
        f"‖A − CUR‖_F <= η_c‖A − AVVᵀ‖_F + η_r‖A − WWᵀA‖_F with η_c = {eta_c:.3g} and η_r = {eta_r:.3g}",
        measured=float(np.linalg.norm(A - value.matrix)),
        bound=eta_c * beyond_c + eta_r * beyond_r + noise * (eta_c + eta_r),
        kind="exact",
        source="Sorensen & Embree, SIAM J. Sci. Comput. 38 (2016), Theorem 4.1",
    )
    return certificates
