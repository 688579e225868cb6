"""A few eigenpairs of a large non-symmetric operator: Krylov-Schur, that is Arnoldi with thick restarts.

When: matrices too large for `numpy.linalg.eig`, or known by their products only. The restart keeps a real Schur basis
of the best Ritz values, complex pairs together, which is stable where eigenvectors are ill-conditioned. The loop runs
on the host; the products run where the operator lies.
Cost per cycle: m − p products, 4 n m²; memory n (m + 1). Source: Stewart, SIMAX 23 (2001); Stewart & Sun, §IV.2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.linalg._products import Products
from corollary.linalg.eigen._eigsh import _csr, _inverse
from corollary.linalg.eigen._pair import _apply, _unit, certify, conditions, square
from corollary.linalg.eigen._sides import Host
from corollary.linalg.low_rank._rsvd_bounds import norms

ORDERS = {"LM": np.abs, "LR": np.real, "SR": lambda v: -np.real(v), "LI": lambda v: np.abs(np.imag(v))}


class Space(NamedTuple):
    """A V[:, :m] = V H with V (n, m + 1) and H (m + 1, m); products with A so far, cycles, how it ended."""

    V: Any
    H: np.ndarray
    products: int
    cycles: int
    done: bool


@follows_input
def eigs(
    A: Any,
    k: int = 6,
    *,
    which: str = "LM",
    sigma: Any = None,
    inverse: Any = None,
    tol: Any = None,
    max_steps: int = 300,
    basis: int | None = None,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """k eigenpairs of a square A: largest in modulus, rightmost, leftmost, largest imaginary part, or near a shift.

    Parameters
    ----------
    A
        (n, n) real dense or sparse matrix, or operator; not traced.
    k
        How many pairs; one more is returned where the last would be torn from its complex conjugate.
    which
        ``"LM"``, ``"LR"``, ``"SR"`` or ``"LI"``.
    sigma, inverse
        The eigenvalues nearest to a real shift; ``inverse``: x ↦ (A − σI)⁻¹x, required for operators.
    tol
        ‖Av − λv‖ ≤ tol ‖A‖ for each pair; ``None``: eps^(2/3).
    max_steps
        Limit of cycles (restarts).
    basis
        m, vectors in the basis; ``None``: max(2k + 1, k + 30).
    key
        `jax.random.key` of the random start; ``None``: a fixed one.

    Returns
    -------
    Solution
        ``value``: (values (k,), vectors (n, k)), complex, unit columns, the outermost first. ``stats``: ``products``,
        ``residuals`` (k,), ``conditions`` (k,), ``method``.

    Raises
    ------
    InputError
        For a matrix that is not square, real and finite, traced data, or settings that do not fit.

    Notes
    -----
    Certificates: ``residual``, ``backward_error`` (exact; ‖A‖ from below), ``eigenvalue_error`` (estimate): residual
    times the condition number of the Ritz value in the projected matrix. Of a non-normal A a small residual alone says
    little: the eigenvalue of a Jordan block moves by the m-th root of it. A single start finds one copy of a multiple
    eigenvalue.

    Examples
    --------
    >>> import numpy as np, scipy.sparse
    >>> A = scipy.sparse.diags_array([np.arange(400.0), np.ones(399)], offsets=[0, 1]).tocsr()
    >>> found = eigs(A, 2, which="LR")
    >>> found.value[0].real.round(6).tolist(), bool(found.holds)
    ([399.0, 398.0], True)
    """
    validation.one_of(*ORDERS)("which", which)
    validation.integer(1)("k", k)
    validation.integer(1)("max_steps", max_steps)
    validation.integer(1, none=True)("basis", basis)
    validation.number(0, 1, open_low=True, none=True)("tol", tol)
    validation.number(-1e300, 1e300, none=True)("sigma", sigma)
    key = jax.random.key(0) if key is None else key
    P = square(A, key)
    n = P.shape[0]
    if P.traced:
        raise InputError(
            "A: found a traced matrix (under jit or vmap), expected a concrete one; `arnoldi` can be jitted"
        )
    if k > n:
        raise InputError(f"k: found {k}, expected at most {n} for a matrix of {n} rows")
    if basis is not None and basis < k + 3:
        raise InputError(f"basis: found {basis}, expected at least k + 3 = {k + 3}")
    shifted = sigma is not None or inverse is not None
    tol = P.eps ** (2 / 3) if tol is None else tol
    m = basis or max(2 * k + 1, k + 30)
    if n <= m + 1:
        found = _in_full(P, k, which, sigma, tol)
    else:
        apply = _inverse(A, P, sigma, inverse) if shifted else P.apply
        found = _krylov(A, P, apply, k, m, which, sigma, shifted, tol, max_steps, key)
    return P.out(found)


def _krylov(
    A: Any,
    P: Products,
    apply: Any,
    k: int,
    m: int,
    which: str,
    sigma: Any,
    shifted: bool,
    tol: Any,
    limit: int,
    key: Any,
) -> Solution:
    n = P.shape[0]
    start = P.normal(key, n, 1)
    top = float(P.xp.max(P.xp.abs(apply(start))))
    if not np.isfinite(top):
        raise InputError("A: its products overflow, expected a matrix that is scaled to moderate entries")
    scale = P.dtype.type(np.ldexp(1.0, int(np.frexp(top)[1]))) if top > 0 else P.dtype.type(1)
    side = Host(apply, None if shifted else _csr(A), 1 / scale) if P.xp is np else None
    product = side.product if side is not None else (lambda V: apply(V / scale))
    try:
        space, wanted = _restarted(P.xp, product, start, k, m, "LM" if shifted else which, tol, limit)
    finally:
        if side is not None:
            side.close()
    theta, Y = np.linalg.eig(space.H[:m])
    order = np.argsort(-ORDERS["LM" if shifted else which](theta), kind="stable")[:wanted]
    solved: Any = scipy.linalg.eig(space.H[:m], left=True)
    _, left, right = solved
    condition = conditions(np, _unit(np, right), _unit(np, left))[order]
    X = _unit(P.xp, space.V[:, :m] @ P.xp.asarray(Y[:, order].astype(_complex(P))))
    note = Note("Krylov-Schur" + (", inverse of A − σI" if shifted else ""))
    return _certified(P, X, condition, tol, space, which, sigma, shifted, note, space.H * scale)


def _certified(
    P: Products,
    X: Any,
    condition: Any,
    tol: Any,
    space: Space,
    which: str,
    sigma: Any,
    shifted: bool,
    note: Note,
    H: Any,
) -> Solution:
    """Rayleigh quotients, residuals and certificates with A itself."""
    xp = P.xp
    image = _apply(P, X)
    values = xp.sum(xp.conj(X) * image, axis=0)
    norm = xp.max(norms(xp.abs(image), xp))
    if not shifted and H.size:
        norm = xp.maximum(norm, P.dtype.type(np.linalg.norm(H, 2)))  # ‖VᵀAV‖ <= ‖A‖
    residuals = norms(xp.abs(image - X * values), xp)
    certificates = certify(xp, values, X, image, norm, symmetric=False, tol=tol)
    if "eigenvalue_error" not in certificates:
        certificates["eigenvalue_error"] = Certificate(
            "distance of each λ_i to an eigenvalue, to first order, with the condition number in the projected matrix",
            measured=xp.max(residuals * xp.asarray(condition)),
            kind="estimate",
            source="Stewart & Sun, Matrix Perturbation Theory (1990), Theorem IV.2.3",
        )
    done = (space.done and bool(xp.max(residuals) <= (tol + 16 * P.eps) * norm)) or bool(norm == 0)
    exhausted = bool(xp.max(residuals) <= 1000 * P.eps * norm)
    code = Status.CONVERGED if done else Status.PRECISION if exhausted else Status.MAX_STEPS
    status = jnp.int32(code if bool(xp.isfinite(xp.sum(xp.abs(values)))) else Status.NON_FINITE)
    stats = {"products": space.products, "residuals": residuals, "conditions": condition, "method": note}
    return Solution((values, X), certificates, status, space.cycles, stats)


def _restarted(
    xp: Any, product: Any, start: Any, k: int, m: int, which: str, tol: Any, limit: int
) -> tuple[Space, int]:
    """Arnoldi to m vectors, ordered Schur form, keep p, go on."""
    n, dtype = start.shape[0], start.dtype
    V = np.zeros((n, m + 1), dtype, order="F") if xp is np else xp.zeros((n, m + 1), dtype)
    V = _put(xp, V, start / xp.linalg.norm(start), 0)
    H = np.zeros((m + 1, m), dtype)
    at, products, wanted, eps = 0, 0, k, float(np.finfo(dtype).eps)
    for cycle in range(1, limit + 1):
        for j in range(at, m):
            w = product(V[:, j : j + 1])[:, 0]  # a vector: GEMV, where a column would go through GEMM
            w, H[: j + 1, j], H[j + 1, j] = _against(xp, w, V[:, : j + 1], j, eps)
            V = _put(xp, V, w[:, None], j + 1)
        products += m - at
        theta, Y = np.linalg.eig(H[:m])
        metric = ORDERS[which](theta)
        order = np.argsort(-metric, kind="stable")
        wanted = _whole_pairs(theta, order, k)
        residuals = abs(H[m, m - 1]) * np.abs(Y[m - 1, order])
        size = np.linalg.norm(H[:m], 2)
        done = bool((residuals[:wanted] <= tol * size).all())
        if done or cycle == limit:
            return Space(V, H, products, cycle, done), wanted
        converged = int((residuals[:wanted] <= tol * size).sum())
        p = min(wanted + max((m - wanted) // 2, converged), m - 2)
        cut = (metric[order[p - 1]] + metric[order[p]]) / 2
        S, Z, p = _schur(H[:m], lambda v, cut=cut: ORDERS[which](v) > cut)
        V = _put(xp, _put(xp, V, V[:, :m] @ xp.asarray(Z[:, :p]), 0), V[:, m:], p)
        coupling = H[m, m - 1] * Z[m - 1, :p]
        H = np.zeros_like(H)
        H[:p, :p], H[p, :p] = S[:p, :p], coupling
        at = p
    raise AssertionError


def _schur(H: np.ndarray, select: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Real Schur form with the selected values first; LAPACK keeps the two of a complex pair together."""
    form: Any = scipy.linalg.schur(H, output="real")
    S, Z = form
    m = S.shape[0]
    diagonal = np.diag(S).astype(complex)
    for j in np.flatnonzero(np.diag(S, -1)):
        diagonal[j], diagonal[j + 1] = np.linalg.eigvals(S[j : j + 2, j : j + 2])
    reorder: Any = scipy.linalg.get_lapack_funcs("trsen", (S,))
    chosen = select(diagonal)
    found = reorder(chosen.astype(np.int32), S, Z, job="N")
    S, Z, p = found[0], found[1], int(found[4])
    p = min(max(p, 1), m - 1)
    return S, Z, p - 1 if p > 1 and S[p, p - 1] != 0 else p  # not through a 2 × 2 block


def _whole_pairs(theta: np.ndarray, order: np.ndarray, k: int) -> int:
    """k, or one more where the cut would part a value from its conjugate."""
    last = theta[order[:k]]
    lonely = [v for v in last if v.imag != 0 and not np.any(np.isclose(last, np.conj(v), rtol=1e-10, atol=0))]
    return min(k + 1, len(theta) - 1) if lonely else k


def _against(xp: Any, w: Any, V: Any, turns: int, eps: float) -> tuple[Any, Any, float]:
    """w = V h + β q, in one pass, or two where that left less than 0.7 (Daniel, Gragg, Kaufman & Stewart, 1976).

    Where nothing is left q is random and β zero.
    """
    whole = float(xp.linalg.norm(w))
    h = V.T @ w
    w = w - V @ h
    beta = float(xp.linalg.norm(w))
    if beta < 0.7 * whole:
        again = V.T @ w
        w, h = w - V @ again, h + again
        beta = float(xp.linalg.norm(w))
    h = np.asarray(h)
    if beta <= 10 * eps * float(np.linalg.norm(h)):
        w = xp.asarray(np.random.default_rng(turns).standard_normal(w.shape).astype(w.dtype))
        for _ in range(2):
            w = w - V @ (V.T @ w)
        return w / xp.linalg.norm(w), h, 0.0
    return w / w.dtype.type(beta), h, beta


def _put(xp: Any, V: Any, block: Any, at: int) -> Any:
    if xp is np:
        V[:, at : at + block.shape[1]] = block
        return V
    return V.at[:, at : at + block.shape[1]].set(block)


def _complex(P: Products) -> Any:
    return np.complex64 if P.dtype == np.float32 else np.complex128


def _in_full(P: Products, k: int, which: str, sigma: Any, tol: Any) -> Solution:
    """All pairs of a small matrix, on the host."""
    n = P.shape[0]
    A = np.asarray(P.apply(P.xp.eye(n, dtype=P.dtype)))
    solved: Any = scipy.linalg.eig(A, left=True)
    values, left, X = solved
    metric = -np.abs(values - sigma) if sigma is not None else ORDERS[which](values)
    order = np.argsort(-metric, kind="stable")
    order = order[: k if k == n else min(_whole_pairs(values, order, k), n)]
    condition = conditions(np, _unit(np, X), _unit(np, left))[order]
    space = Space(None, np.zeros((0, 0)), n, 1, True)
    vectors = P.xp.asarray(_unit(np, X[:, order]).astype(_complex(P)))
    note = Note("all pairs: a small matrix")
    return _certified(P, vectors, condition, max(tol, n * P.eps), space, which, sigma, True, note, np.zeros((0, 0)))
