"""Which columns of A span the rest: a rank-revealing choice on a sketch, made strong by swaps.

Pivoting the l = k + p rows of a sketch B = SA costs O(l² n) beside SA, and A inherits the choice: if
B ≈ B[:, J] Z then A ≈ A[:, J] Z. Pivoted QR may choose badly (Kahan's matrix), so columns are swapped until
ρ² = max (R₁₁⁻¹R₁₂)²_ij + (γ_j(R₂₂)/ω_i(R₁₁))² ≤ f²; then ‖R₂₂‖₂ ≤ √(1 + f² k(n − k)) σ_{k+1}(B), and no coefficient
of Z exceeds f. Source: Gu & Eisenstat, SIAM J. Sci. Comput. 17 (1996), Algorithm 4 and Theorem 3.2; Voronin &
Martinsson, Adv. Comput. Math. 43 (2017).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.linalg
import scipy.sparse
from jax.core import Tracer
from jaxtyping import Array, Key

from corollary.core import operator
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import on_host
from corollary.linalg._products import Block, Products
from corollary.linalg.low_rank._range_finder import FAILURE
from corollary.linalg.low_rank._rsvd_bounds import norms
from corollary.linalg.low_rank._tall_qr import geqp3
from corollary.linalg.sketch._sparse_sign import SparseSignSketch

GROWTH = 2.0  # f: a larger one swaps less
LOOKS, LOOK_PROBES = 16, 16


class Skeleton(NamedTuple):
    """`perm`, whose first `rank` columns were chosen; T with A[:, rest] ≈ A[:, chosen] T; ρ, which is at most f."""

    perm: Any
    rank: int
    T: Any
    growth: Any
    swaps: int

    @property
    def right(self) -> Any:
        """Z = [I, T] Pᵀ: A ≈ A[:, chosen] Z."""
        xp = jnp if isinstance(self.T, jax.Array) else np
        both = xp.concatenate([xp.eye(self.rank, dtype=self.T.dtype), self.T], axis=1)
        return both[:, xp.argsort(self.perm)]


def choose(P: Products, A: Any, rank: int, oversampling: int | None, key: Key[Array, ""]) -> Skeleton:
    """A choice of `rank` columns from a sketch: sparse, 4k + 40 rows, where A has entries, else Gaussian, 2k + 10.

    The coefficients T are a least-squares fit in the sketch: l rows raise its error by about √(1 + k/(l − k − 1)).
    """
    entries = _entries(A)
    if entries is None:
        width = min(rank + (rank + 10 if oversampling is None else oversampling), P.shape[0])
        return of_sketch(P.adjoint(P.normal(key, P.shape[0], width)).T, rank)
    width = min(rank + (3 * rank + 40 if oversampling is None else oversampling), P.shape[0])
    if width >= P.shape[0]:  # no smaller than A: A is its own sketch
        return of_sketch(entries.toarray() if scipy.sparse.issparse(entries) else P.xp.asarray(entries), rank)
    S = SparseSignSketch(width, P.shape[0], nonzeros=min(8, width), key=key, dtype=P.dtype)
    return of_sketch(S.on_host(entries) if P.xp is np else S.mm(jnp.asarray(entries)), rank)


def _entries(A: Any) -> Any:
    """The matrix itself, dense or in SciPy's formats; None for what is known by its products."""
    if isinstance(A, lx.MatrixLinearOperator):
        A = A.matrix
    if scipy.sparse.issparse(A):
        return scipy.sparse.csr_array(A)
    if isinstance(A, jax.Array) and not isinstance(A, Tracer) and on_host(A):
        return np.asarray(A)
    return A if isinstance(A, np.ndarray | jax.Array) and A.dtype.kind == "f" else None


def of_sketch(B: Block, rank: int) -> Skeleton:
    """The choice for the rows of B, with swaps; under jit without."""
    return _traced(B, rank) if isinstance(B, jax.Array) else _strong(np.asarray(B), rank)


def _strong(B: np.ndarray, rank: int) -> Skeleton:
    if not B.any():
        return Skeleton(np.arange(B.shape[1]), 0, np.zeros((0, B.shape[1]), B.dtype), 0.0, 0)
    B = np.ldexp(B, -np.frexp(np.abs(B).max())[1])
    R, perm = geqp3(B, mode="r", pivoting=True, check_finite=False)
    diagonal = np.abs(np.diagonal(R))
    noise = max(B.shape) * np.finfo(B.dtype).eps * diagonal[0]
    rank, swaps = min(rank, int(np.sum(diagonal > noise))), 0
    while True:
        R11, R12 = R[:rank, :rank], R[:rank, rank:]
        T = scipy.linalg.solve_triangular(R11, R12) if rank else R12
        inverse = scipy.linalg.solve_triangular(R11, np.eye(rank, dtype=B.dtype)) if rank else R11
        left = np.linalg.norm(R[rank:, rank:], axis=0)
        left = np.where(left > noise, left, 0)  # rounding is no reason to swap
        rho = np.sqrt(T**2 + np.linalg.norm(inverse, axis=1)[:, None] ** 2 * left**2)
        growth = rho.max(initial=0)
        if growth <= GROWTH:
            return Skeleton(perm, rank, T, growth, swaps)
        i, j = np.unravel_index(rho.argmax(), rho.shape)  # the swap multiplies |det R11| by ρ > f, so it must end
        perm[[i, rank + j]], swaps = perm[[rank + j, i]], swaps + 1
        R = np.asarray(np.linalg.qr(B[:, perm], mode="r"))


def _traced(B: Array, rank: int) -> Skeleton:
    R, perm = jax.scipy.linalg.qr(jax.lax.stop_gradient(B), mode="r", pivoting=True)
    diagonal = jnp.abs(jnp.diagonal(R))[:rank]
    kept = diagonal > max(B.shape) * jnp.finfo(B.dtype).eps * diagonal[0]
    R11 = jnp.where(kept & kept[:, None], R[:rank, :rank], jnp.eye(rank, dtype=B.dtype))
    T = jax.scipy.linalg.solve_triangular(R11, jnp.where(kept[:, None], R[:rank, rank:], 0))
    return Skeleton(perm, rank, T, jnp.max(jnp.abs(T), initial=0), 0)


class Grown(NamedTuple):
    """A choice that reaches a tolerance: the skeleton, Q of its columns, the certified error, its noise and ‖A‖₂."""

    skeleton: Skeleton
    Q: Any
    error: float
    noise: float
    norm: float
    looks: int


def grow(P: Products, A: Any, tol: float, block: int, key: Key[Array, ""]) -> Grown:
    """The sketch doubles until it shows the tolerance with rows to spare; the columns are then held to fresh probes."""
    if P.traced:
        raise InputError("tol: found a traced matrix (under jit or vmap), expected `rank`, which has a fixed shape")
    full, rows = min(P.shape), min(block, P.shape[0])
    B, rank, look = P.xp.zeros((0, P.shape[1]), P.dtype), 0, 0
    while True:
        key, sketch_key, probe_key = jax.random.split(key, 3)
        B = P.xp.concatenate([B, P.adjoint(P.normal(sketch_key, P.shape[0], rows - B.shape[0])).T])
        rank = max(rank, _rank_for(np.asarray(B), tol))
        while rank + min(block, 10) <= rows or rows in (P.shape[0], 2 * full):
            skeleton, look = of_sketch(np.asarray(B), rank), look + 1
            Q = basis(P, take(A, P, skeleton.perm[: skeleton.rank]))
            error, noise = _error(P, Q, jax.random.fold_in(probe_key, look))
            norm = float(P.xp.linalg.norm(P.adjoint(Q), 2)) if Q.shape[1] else 0.0
            done = error <= max(tol * norm, noise) or skeleton.rank == full
            if done or skeleton.rank < rank or look == LOOKS:
                return Grown(skeleton, Q, error, noise, norm, look)
            rank = min(rank + max(block // 4, rank // 6), full)
        rows = min(2 * rows, P.shape[0], 2 * full)


def _error(P: Products, Q: Block, key: Key[Array, ""]) -> tuple[float, float]:
    """‖E‖₂ from above and its noise, E = A − QQᵀA, from probes of EEᵀE, whose norm is ‖E‖₂³: a cube root of slack."""
    image = P.apply(P.normal(key, P.shape[1], LOOK_PROBES))
    top = float(P.xp.max(norms(image, P.xp)))
    if not 0 < top < np.inf:
        return top, 0.0
    scaled, alpha = P.scaled(top), (LOOKS / FAILURE) ** (1 / LOOK_PROBES) * math.sqrt(2 / math.pi)

    def outside(block: Block) -> Block:
        block = block - Q @ (Q.T @ block)
        return block - Q @ (Q.T @ block)

    rest = outside(image / top)
    cube = outside(scaled.apply(scaled.adjoint(rest)))
    return top * (alpha * float(P.xp.max(norms(cube, P.xp)))) ** (1 / 3), 8 * P.eps * alpha * top


def _rank_for(B: np.ndarray, tol: float) -> int:
    """The least rank whose remainder in the sketch is below tol ‖B‖₂; by bisection, since it falls with the rank."""
    R = geqp3(B, mode="r", pivoting=True, check_finite=False)[0]
    bound = tol * np.linalg.norm(B, 2)
    low, high = 0, min(B.shape)
    while low < high:
        k = (low + high) // 2
        low, high = (low, k) if np.linalg.norm(R[k:, k:], 2) <= bound else (k + 1, high)
    return low


def basis(P: Products, C: Block) -> Block:
    """Orthonormal columns that span those of C."""
    return P.xp.linalg.qr(C)[0]


def take(A: Any, P: Products, columns: Any) -> Block:
    """A[:, columns], read where A has entries, else by products with unit vectors."""
    if isinstance(A, lx.MatrixLinearOperator):
        A = A.matrix
    if isinstance(A, operator.Sparse) and P.xp is np:
        A = scipy.sparse.csr_array(tuple(map(np.asarray, (A.matrix.data, A.matrix.indices, A.matrix.indptr))), A.shape)
    if scipy.sparse.issparse(A):
        return np.asarray(scipy.sparse.csc_array(A)[:, columns].toarray(), P.dtype)
    if isinstance(A, lx.AbstractLinearOperator):
        chosen = P.xp.zeros((P.shape[1], len(columns)), P.dtype)
        if P.xp is np:
            chosen[columns, np.arange(len(columns))] = 1
        else:
            chosen = chosen.at[columns, jnp.arange(len(columns))].set(1)
        return P.apply(chosen)
    return (np.asarray(A)[:, columns] if P.xp is np else jnp.asarray(A)[:, columns]).astype(P.dtype)


def transposed(A: Any) -> Any:
    """Aᵀ, of an array, a sparse matrix or an operator."""
    return A.T if not isinstance(A, lx.AbstractLinearOperator) else A.transpose()


def strong(skeleton: Skeleton, n: int) -> Certificate:
    """The choice is as good as any up to √(1 + f² k(n − k)), which says nothing where `jit` left out the swaps."""
    k = skeleton.rank
    return Certificate(
        f"ρ <= {GROWTH:g}, and so ‖R₂₂‖₂ <= √(1 + ρ²·{k}·{n - k}) σ_k+1 in the sketch",
        measured=skeleton.growth,
        bound=GROWTH * (1 + 1e-6),
        kind="theorem",
        source="Gu & Eisenstat, SIAM J. Sci. Comput. 17 (1996), Theorem 3.2",
    )
