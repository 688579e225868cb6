"""Sums over the rows of a tall NumPy matrix, by blocks that stay in cache, shared among the cores.

An iteration of least squares needs A x and Aᵀ of the result. Done block by block the second product finds its rows in
cache, so that both cost one reading of A; BLAS runs on one thread within each block, since its own threads would share
out work that is too small. Cost: one reading of A a sum, for Gram matrices n p² flops. Memory: O(p²) for each core.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float
from threadpoolctl import ThreadpoolController

BLOCK = 2**16  # entries of a block: half a mebibyte in float64
SMALL = 2**20  # entries of a matrix below which threads cost more than they bring

Matrix = Float[np.ndarray, "_ _"]


class Rows:
    """A tall matrix on the host; make it by `read`."""

    def __init__(self, A: Matrix, pool: ThreadPoolExecutor | None, workers: int):
        self.A, self.pool, self.workers = A, pool, workers
        # A block of a matrix stored by columns is many short pieces: it needs more rows to be worth its start.
        self.least = 64 if A.flags.c_contiguous else 1024
        self._squares: Any = None

    def sum(self, work: Callable[[slice], list[Any]], least: int = 1) -> list[Any]:
        """Σ of what `work` returns for each block of rows, of at least so many rows."""
        n, p = self.A.shape
        step = max(BLOCK // p, self.least, least)
        starts = range(0, n, step)
        count = min(self.workers, len(starts))

        def share(first: int) -> list[Any]:
            totals: list[Any] = []
            for start in starts[first::count]:
                terms = work(slice(start, min(start + step, n)))
                if not totals:
                    totals = terms
                else:
                    for total, term in zip(totals, terms, strict=True):
                        np.add(total, term, out=total)
            return totals

        if self.pool is None or count == 1:
            return share(0)
        with one_thread():
            parts = list(self.pool.map(share, range(count)))
        return [np.sum(terms, axis=0) for terms in zip(*parts, strict=True)]

    def residual(self, X: Matrix, B: Matrix) -> tuple[Matrix, Matrix]:
        """R = B − A X and AᵀR."""
        R = np.empty_like(B)

        def work(rows: slice) -> list[Matrix]:
            a = self.A[rows]
            R[rows] = B[rows] - _times(a, X)
            return [_times(a.T, R[rows])]

        (G,) = self.sum(work)
        return R, G

    def normal(self, V: Matrix) -> Matrix:
        """AᵀA V."""
        return self.sum(lambda rows: [_times(self.A[rows].T, _times(self.A[rows], V))])[0]

    def squares(self) -> Float[np.ndarray, " p"]:
        """Squared lengths of the columns, in float64; known from `whitened_gram` where that came before."""
        if self._squares is None:
            self._squares = self.sum(lambda rows: [_squares(self.A[rows])])[0]
        return self._squares

    def gram(self, dtype: Any) -> Matrix:
        """AᵀA with products in `dtype`, summed over the blocks in float64."""

        def work(rows: slice) -> list[Matrix]:
            a = self.A[rows].astype(dtype, copy=False)
            return [(a.T @ a).astype(np.float64, copy=False)]

        return self.sum(work, least=2 * self.A.shape[1])[0]

    def whitened_gram(self, W: Matrix) -> Matrix:
        """(AW)ᵀAW for an upper triangular W, whose zeros are passed over by blocks of columns.

        A W is formed in the precision of A and multiplied in float32: its columns are nearly orthonormal, so that
        nothing cancels there. Each entry is wrong by `whitened_error` at most. `squares` comes along: A is in cache.
        """
        p = W.shape[1]
        parts = [slice(i, min(i + 64, p)) for i in range(0, p, 64)]

        def work(rows: slice) -> list[Any]:
            a = self.A[rows]
            x = np.empty((len(a), p), np.float32)
            for part in parts:
                x[:, part] = a[:, : part.stop] @ W[: part.stop, part]
            return [(x.T @ x).astype(np.float64), _squares(a)]

        G, self._squares = self.sum(work, least=2 * p)
        return G

    def whitened_error(self) -> float:
        """γ of the float32 products in `whitened_gram`: |computed − exact| <= γ ‖u_i‖‖u_j‖ (Higham 2002, §3.1)."""
        p = self.A.shape[1]
        terms = (max(BLOCK // p, self.least, 2 * p) + 2) * float(np.finfo(np.float32).eps) / 2
        return terms / (1 - terms)

    def triangle(self, B: Matrix) -> Matrix:
        """The triangle of [A B] by Householder's method on one block after another: backward stable for any A."""
        n, p = self.A.shape
        step = min(n, 4 * (p + B.shape[1]))
        starts = range(0, n, step)
        count = min(self.workers, len(starts))

        def share(first: int) -> Matrix:
            R = np.empty((0, p + B.shape[1]), self.A.dtype)
            for start in starts[first::count]:
                rows = slice(start, start + step)
                R = triangle(np.vstack([R, np.hstack([self.A[rows], B[rows]])]))
            return R

        if self.pool is None:
            return share(0)
        with one_thread():
            parts = list(self.pool.map(share, range(count)))
        return triangle(np.vstack(parts))


class SparseRows:
    """The same products for a `scipy.sparse` matrix, whole."""

    def __init__(self, A: Any):
        self.A = A

    def residual(self, X: Matrix, B: Matrix) -> tuple[Matrix, Matrix]:
        """R = B − A X and AᵀR."""
        R = B - self.A @ X
        return R, self.A.T @ R

    def normal(self, V: Matrix) -> Matrix:
        """AᵀA V."""
        return self.A.T @ (self.A @ V)

    def squares(self) -> Float[np.ndarray, " p"]:
        """Squared lengths of the columns, in float64."""
        return np.bincount(self.A.indices, self.A.data.astype(np.float64) ** 2, self.A.shape[1])


@contextlib.contextmanager
def read(A: Matrix) -> Iterator[Rows]:
    """`Rows` with a thread for each core, one where the matrix is small."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, A.size // SMALL)
    if workers <= 1:
        yield Rows(A, None, 1)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield Rows(A, pool, workers)


def one_thread() -> contextlib.AbstractContextManager[Any]:
    """BLAS on one thread: its idle threads would spin beside ours."""
    return _blas().limit(limits=1, user_api="blas")


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()  # it searches the process for BLAS libraries: once


def _squares(a: Matrix) -> Float[np.ndarray, " p"]:
    return np.einsum("ij,ij->j", a, a, dtype=np.float64)


def _times(a: Matrix, V: Matrix) -> Matrix:
    """a V; a single column by the matrix-vector product, which reads `a` without packing it."""
    return (a @ V[:, 0])[:, None] if V.shape[1] == 1 else a @ V


def triangle(A: Matrix) -> Any:
    """R of A = QR."""
    return np.linalg.qr(A, mode="r")
