"""Column-pivoted QR of a tall matrix at the speed of matrix products: the engine of `pivoted_qr`.

Householder's QR with column pivoting updates the whole matrix once per column, at the speed of memory. Here a sparse
sketch B = SA of 2n rows gives the rank and a triangle T that makes X = A P T⁻¹ well conditioned; the Cholesky factor of
XᵀX then costs one product and loses nothing; and pivoting the small triangle R = LᵀT once more gives the order of
columns that Householder's algorithm would have taken. Every claim rests on XᵀX as computed: a sketch that failed shows
in its eigenvalues, and X is preconditioned again. Rows are taken in blocks that fit the cache, shared among the cores.
Cost: 2 n² m for R, 4 n² m with Q. Source: Melnichenko et al., CholeskyQR with randomization and pivoting for tall
matrices (2023), Algorithm 2; Yamamoto et al., ETNA 44 (2015) for the second round.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float, Key

from corollary.core.errors import InputError
from corollary.linalg._rows import Rows, one_thread, read
from corollary.linalg.sketch._sparse_sign import SparseSignSketch

LIMIT = 30.0  # condition number of X up to which one Cholesky factor loses nothing that matters
ROUNDS, PROBES = 4, 8
geqp3: Any = scipy.linalg.qr


class TallQR(NamedTuple):
    """A P = Q R with R's diagonal positive and falling, and the products with Ω that the certificates want."""

    Q: Any
    R: Any
    perm: Any
    rank: Any
    condition: Any  # of X: how much the Cholesky factor may have lost
    rounds: Any
    gram: Any  # (PᵀAᵀAP − RᵀR) Ω / ‖R‖_F², without Q
    residual: Any  # column lengths of (AP − QR) Ω
    defect: Any  # (QᵀQ − I) Ω


# On the host ---------------------------------------------------------------------------------------------------------


def _sum(rows: Rows, work: Callable[[slice], list[np.ndarray]]) -> list[np.ndarray]:
    """Σ of what `work` returns for each block of rows, two mebibytes of them, in float64."""
    step = max(256, 2**18 // rows.A.shape[1])
    return rows.sum(lambda block: [np.asarray(term, np.float64) for term in work(block)], step)


def on_host(A: np.ndarray, rcond: float, key: Key[Array, ""], *, with_q: bool) -> TallQR | None:
    """Factor a NumPy matrix of m ≥ 2n rows; None where no sketch gives a usable preconditioner."""
    sketch_key, probe_key = jax.random.split(key)
    with read(A) as rows, one_thread(), np.errstate(over="ignore", invalid="ignore", under="ignore"):
        B = _sketch(A.shape, sketch_key).on_host(A)
        low, high = (float(x) ** 0.4 for x in (np.finfo(A.dtype).tiny, np.finfo(A.dtype).max))
        if not (np.isfinite(B).all() and low < np.abs(B).max() < high):
            return _rescaled(A, rcond, key, with_q)
        T, perm, coefficients = _triangle(B, rcond)
        base = np.diag(np.linalg.norm(T, axis=0))  # if no more than the columns' lengths is amiss, A is its own X
        X, direct = None, np.linalg.cond(T / np.diagonal(base)) <= LIMIT
        omega = np.asarray(jax.random.normal(probe_key, (A.shape[1], PROBES), A.dtype))
        nothing = np.zeros((A.shape[1], PROBES))
        product = lambda block: nothing if with_q else A[block].T @ (A[block] @ omega)  # noqa: E731 (Q is probed itself)
        if direct:
            G, image = _sum(rows, lambda block: [A[block].T @ A[block], product(block)])
            G = G[np.ix_(perm[: len(T)], perm[: len(T)])] / np.outer(np.diagonal(base), np.diagonal(base))
        else:
            base = T
            X, G, image = _preconditioned(rows, perm[: len(T)], T, with_q, product)
        rounds, (root, condition) = 1, _root(G)
        while condition > LIMIT:
            if rounds == ROUNDS:
                return None
            base, rounds = root @ base, rounds + 1
            X, G, _ = _preconditioned(rows, perm[: len(T)], base, with_q, lambda _: nothing)
            root, condition = _root(G)
        R = root @ base
        turn, R, order, rank = pivot_triangle(np.concatenate([R, R @ coefficients], axis=1), rcond)
        Q, residual, defect = None, None, None
        if with_q:
            M = scipy.linalg.solve_triangular(root, turn)
            if X is None:
                short, M = scipy.linalg.solve_triangular(base, M), np.zeros((A.shape[1], rank))
                M[perm[: len(T)]] = short
            Q, residual, defect = _orthogonal(rows, X, M.astype(A.dtype), R, omega, omega[perm[order]])
        perm = perm[order]
        gram = None if with_q else (image[perm] - R.T @ (R @ omega[perm].astype(np.float64))) / np.sum(R * R)
    return TallQR(Q, R.astype(A.dtype), perm, rank, condition, rounds, gram, residual, defect)


def _rescaled(A: np.ndarray, rcond: float, key: Key[Array, ""], with_q: bool) -> TallQR | None:
    """Entries brought to the order of one by a power of two, which changes no bit, so that no square overflows."""
    top = float(np.abs(A).max())
    if not np.isfinite(top):
        raise InputError("A: found NaN or infinity, expected finite numbers")
    if top == 0:
        nothing = np.zeros((A.shape[1], PROBES))
        empty = np.zeros((0, A.shape[1]), A.dtype), np.arange(A.shape[1]), 0
        return TallQR(np.zeros((len(A), 0), A.dtype), *empty, 1.0, 0, nothing, nothing[0], nothing[:0])
    e = int(np.frexp(top)[1])
    found = on_host(np.ldexp(A, -e), rcond, key, with_q=with_q) if e else None
    if found is None:
        return None
    return found._replace(R=np.ldexp(found.R, e), residual=np.ldexp(found.residual, e) if with_q else None)


def _sketch(shape: tuple[int, int], key: Key[Array, ""]) -> SparseSignSketch:
    """2n rows: X's condition number is then about (1 + √½)/(1 − √½) ≈ 6."""
    return SparseSignSketch(max(2 * shape[1], 8), shape[0], key=key)


def _triangle(B: np.ndarray, rcond: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sketch's leading triangle up to its numerical rank, the order of columns, and T⁻¹ of the other columns."""
    R, perm = geqp3(B, mode="r", pivoting=True, check_finite=False)
    diagonal = np.abs(np.diagonal(R))
    rank = int(np.sum(diagonal > rcond / 4 * diagonal[0]))  # a little generous: the last word is had by A's own R
    T = R[:rank, :rank]
    return T, perm, scipy.linalg.solve_triangular(T, R[:rank, rank:])


def _preconditioned(
    rows: Rows, columns: np.ndarray, T: np.ndarray, keep: bool, probe: Callable[[slice], np.ndarray]
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """X = A P T⁻¹ (kept if asked for), XᵀX, and a product with A while its rows are at hand.

    Substitution by blocks of columns: only small diagonal blocks are inverted, so that the error stays row by row that
    of substitution, and all the work is in products.
    """
    A, r = rows.A, len(columns)
    width = max(1, min(128, -(-r // 2)))
    parts = [slice(i, min(i + width, r)) for i in range(0, r, width)]
    inverses = [scipy.linalg.solve_triangular(T[p, p], np.eye(p.stop - p.start)).astype(A.dtype) for p in parts]
    T = T.astype(A.dtype)
    X = np.empty((len(A), r), A.dtype) if keep else None

    def work(block: slice) -> list[np.ndarray]:
        C = np.take(A[block], columns, axis=1)
        x = np.empty_like(C) if X is None else X[block]
        for part, inverse in zip(parts, inverses, strict=True):
            rest = C[:, part] - x[:, : part.start] @ T[: part.start, part] if part.start else C[:, part]
            np.matmul(rest, inverse, out=x[:, part])
        return [x.T @ x, probe(block)]

    G, product = _sum(rows, work)
    return X, G, product


def _root(G: np.ndarray) -> tuple[np.ndarray, float]:
    """Upper triangular root, rootᵀ root = G, and X's condition number; eigenvalues lost to rounding are lifted."""
    values, vectors = np.linalg.eigh(G)
    floor = 4 * len(G) * np.finfo(np.float64).eps * values[-1]
    lifted = np.maximum(values, floor)
    root = np.linalg.qr(np.sqrt(lifted)[:, None] * vectors.T)[1]
    condition = float(np.sqrt(values[-1] / values[0])) if values[0] > floor else np.inf
    return root * np.where(np.diagonal(root) < 0, -1, 1)[:, None], condition


def pivot_triangle(R: np.ndarray, rcond: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """R[:, order] = turn @ R' with Householder's pivots, R' with a positive diagonal, cut below rcond · R'_11."""
    turn, R, order = geqp3(R, mode="economic", pivoting=True, check_finite=False)
    diagonal = np.diagonal(R)
    rank = int(np.sum(np.abs(diagonal) > rcond * np.abs(diagonal[0])))
    sign = np.where(diagonal < 0, -1, 1)[:rank].astype(R.dtype)
    return turn[:, :rank] * sign, R[:rank] * sign[:, None], order, rank


def _orthogonal(
    rows: Rows, X: np.ndarray | None, M: np.ndarray, R: np.ndarray, omega: np.ndarray, permuted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Q = X M in X's own memory (or A M), the lengths of (AP − QR)Ω, and (QᵀQ − I)Ω', while each block is at hand."""
    A, rank = rows.A, M.shape[1]
    Q = np.empty((len(A), rank), A.dtype) if X is None else X[:, :rank]
    target, probe = (R @ permuted).astype(A.dtype), omega[:rank]

    def work(block: slice) -> list[np.ndarray]:
        q = (A if X is None else X)[block] @ M
        Q[block] = q
        rest = (A[block] @ omega - q @ target).astype(np.float64)
        return [np.sum(rest * rest, axis=0), q.T @ (q @ probe)]

    squares, product = _sum(rows, work)
    return np.ascontiguousarray(Q), np.sqrt(squares), product - probe


# In JAX --------------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="with_q")
def in_jax(A: Float[Array, "m n"], rcond: Float[Array, ""], key: Key[Array, ""], *, with_q: bool) -> TallQR:
    """The same by JAX, with fixed shapes: columns of Q and rows of R beyond the rank are zero. Rows may be sharded."""
    m, n = A.shape
    _, e = jnp.frexp(jnp.max(jnp.abs(A)))
    A = jnp.ldexp(A, -e)
    sketch_key, probe_key = jax.random.split(key)
    omega = jax.random.normal(probe_key, (n, PROBES), A.dtype)
    T, perm = jax.scipy.linalg.qr(_sketch((m, n), sketch_key).mm(A), mode="r", pivoting=True)
    T = T[:n]
    kept = jnp.abs(jnp.diagonal(T)) > rcond * jnp.abs(T[0, 0])
    T, filled = jnp.where(kept[:, None], T, 0), jnp.where(kept & kept[:, None], T, jnp.eye(n, dtype=A.dtype))
    permuted = A[:, perm]
    one = kept.astype(A.dtype)
    X = jax.scipy.linalg.solve_triangular(filled, permuted.T, trans=1).T * one
    spare = jnp.diag(1 - one)
    G = X.T @ X + spare
    values = jnp.linalg.eigvalsh(G)
    root = jnp.linalg.cholesky(G).T
    X = jax.scipy.linalg.solve_triangular(root, X.T, trans=1).T * one  # the second round, which the host takes at need
    again = jnp.linalg.cholesky(X.T @ X + spare).T
    turn, R, order = jax.scipy.linalg.qr(again @ root @ T, pivoting=True, mode="economic")
    sign = jnp.where(jnp.diagonal(R) < 0, -1, 1).astype(A.dtype) * (jnp.arange(n) < jnp.sum(kept)).astype(A.dtype)
    turn, R, perm = turn * sign, R * sign[:, None], perm[order]
    probe = omega[perm]
    image = A @ omega
    gram = ((A.T @ image)[perm] - R.T @ (R @ probe)) / jnp.maximum(jnp.sum(R * R), jnp.finfo(R.dtype).tiny)
    condition = jnp.sqrt(values[-1] / values[0])
    found = TallQR(None, jnp.ldexp(R, e), perm, jnp.sum(kept), condition, 2, gram, None, None)
    if not with_q:
        return found
    Q = X @ jax.scipy.linalg.solve_triangular(again, turn)
    residual = jnp.ldexp(jnp.linalg.norm(image - Q @ (R @ probe), axis=0), e)
    defect = Q.T @ (Q @ omega) - omega * jnp.abs(sign)[:, None]
    return found._replace(Q=Q, residual=residual, defect=defect)
