"""Where a Krylov basis is grown: in NumPy by the host's BLAS and threads, or in JAX.

Both sides offer the same few operations on a basis of fixed shape, so that the restarted methods are written once.
"""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

ROWS = 16_384  # of a sparse matrix at a time: what a thread writes stays in its cache
THREADED = 200_000  # rows from which threads pay


class Host:
    """NumPy: the basis is extended in place."""

    xp = np

    def __init__(self, product: Any, matrix: Any = None, factor: Any = 1.0):
        self._product, self._factor = product, factor
        self._parts: Any = None
        self._pool: Any = None
        if scipy.sparse.issparse(matrix) and matrix.shape[0] >= THREADED:
            self._parts = _row_blocks(matrix)
            self._pool = ThreadPoolExecutor(os.cpu_count())

    def product(self, V: Any) -> Any:
        """A V."""
        if self._parts is None:
            W = self._product(np.ascontiguousarray(V))
            return W if self._factor == 1 else W * self._factor
        return self.recur(np.ascontiguousarray(V), None, 1, 0)

    def recur(self, Y: Any, Z: Any, alpha: Any, beta: Any) -> Any:
        """αAY + βY − Z, in Z's memory."""
        if self._parts is None:
            return self._product(Y) * (alpha * self._factor) + beta * Y - Z
        out = np.empty_like(Y) if Z is None else Z

        def one(part: Any) -> None:
            low, high, rows = part
            W = rows @ Y
            W *= alpha * self._factor
            if Z is not None:
                W += beta * Y[low:high]
                W -= Z[low:high]
            out[low:high] = W

        list(self._pool.map(one, self._parts))
        return out

    def repeat(self, count: Any, body: Any, carry: Any) -> Any:
        """`body` over and over; V itself must survive."""
        if count > 0:
            carry = (np.array(carry[0]), carry[1])
        for _ in range(int(count)):
            carry = body(carry)
        return carry

    def loop(self, go_on: Any, body: Any, state: Any) -> Any:
        """While `go_on(state)`."""
        while go_on(state):
            state = body(state)
        return state

    def branch(self, test: Any, yes: Any, no: Any, state: Any) -> Any:
        """One of two."""
        return yes(state) if test else no(state)

    def empty(self, rows: int, columns: int, dtype: Any) -> Any:
        """A basis by columns."""
        return np.zeros((rows, columns), dtype, order="F")

    def put(self, V: Any, block: Any, at: Any) -> Any:
        """V with `block` as columns from `at` on."""
        V[:, at : at + block.shape[1]] = block
        return V

    def extend(self, apply: Any, V: Any, T: Any, at: Any, spare: Any) -> Any:
        """Block Krylov steps until V is full: A V = V T + (block after the last) R."""
        m, b = T.shape[0], spare.shape[1]
        R = np.zeros((b, b), V.dtype)
        for j in range(int(at), m, b):
            W = apply(V[:, j : j + b])
            whole = V[:, : j + b]
            W, h, R = (_one_pass(W, whole) if b == 1 and j > 0 else None) or _orthogonalised(np, W, whole, spare, j)
            T[: j + b, j : j + b] = h
            V[:, j + b : j + 2 * b] = W
        return V, T, R

    def close(self) -> None:
        """Let the threads go."""
        if self._pool is not None:
            self._pool.shutdown()


class Device:
    """JAX: everything compiles, sharded arrays stay sharded."""

    xp = jnp

    def __init__(self, product: Any):
        self.product = product

    def recur(self, Y: Any, Z: Any, alpha: Any, beta: Any) -> Any:
        """αAY + βY − Z."""
        return alpha * self.product(Y) + beta * Y - Z

    def repeat(self, count: Any, body: Any, carry: Any) -> Any:
        """`body` over and over."""
        return jax.lax.fori_loop(0, count, lambda _, c: body(c), carry)

    def loop(self, go_on: Any, body: Any, state: Any) -> Any:
        """While `go_on(state)`."""
        return jax.lax.while_loop(go_on, body, state)

    def branch(self, test: Any, yes: Any, no: Any, state: Any) -> Any:
        """One of two."""
        return jax.lax.cond(test, yes, no, state)

    def empty(self, rows: int, columns: int, dtype: Any) -> Any:
        """A basis."""
        return jnp.zeros((rows, columns), dtype)

    def put(self, V: Any, block: Any, at: Any) -> Any:
        """V with `block` as columns from `at` on."""
        return jax.lax.dynamic_update_slice_in_dim(V, block, at, 1)

    def extend(self, apply: Any, V: Any, T: Any, at: Any, spare: Any) -> Any:
        """Block Krylov steps until V is full: A V = V T + (block after the last) R."""
        m, b = T.shape[0], spare.shape[1]
        V = jnp.where(jnp.arange(V.shape[1], dtype=jnp.int32) < at + b, V, 0)

        def step(carry: Any) -> Any:
            V, T, _, j = carry
            W = apply(jax.lax.dynamic_slice_in_dim(V, j, b, 1))
            W, h, R = _orthogonalised(jnp, W, V, spare, j)
            return self.put(V, W, j + b), self.put(T, h[:m], j), R, j + b

        begin = (V, T, jnp.zeros((b, b), V.dtype), jnp.asarray(at, jnp.int32))
        return jax.lax.while_loop(lambda carry: carry[3] < m, step, begin)[:3]

    def close(self) -> None:
        """Nothing to let go."""


def _orthogonalised(xp: Any, W: Any, V: Any, spare: Any, turns: Any) -> tuple[Any, Any, Any]:
    """W = V h + Q R with Q orthonormal and orthogonal to V; where nothing is left of W, Q is random and R = 0.

    Normalising between the two passes is what makes the second enough.
    """
    across, along = _products(xp, V, W.shape[1])
    h = across(W)
    W = W - along(h)
    left, whole = (xp.sqrt(xp.sum(xp.square(x), axis=0)) for x in (W, h))
    lost = left <= 10 * float(np.finfo(V.dtype).eps) * whole
    # Deflated at once: else what V holds of the spare vectors would only be removed to the rounding of one pass.
    fresh = lambda: (lambda F: F - V @ (V.T @ F))(xp.roll(spare, turns, axis=0))  # noqa: E731
    W = _where_any(xp, lost, fresh, W)
    W, R = _orthonormal(xp, W)
    R = xp.where(lost, 0, R)
    again = across(W)
    W, turn = _orthonormal(xp, W - along(again))
    return W, h + again @ R, turn @ R


def _one_pass(W: Any, V: Any) -> tuple[Any, Any, Any] | None:
    """As `_orthogonalised` for one column of a Lanczos process, in half its passes; None where these are not enough.

    The three-term recurrence takes out what is large of W; what V still holds of it is rounding, and one pass over V
    removes it to the rounding of W as it is then. Where that pass shortens W by more than Daniel, Gragg, Kaufman &
    Stewart's factor (the first step after a restart, or a space that is all but invariant), it does not.
    Source: Daniel, Gragg, Kaufman & Stewart, Math. Comp. 30 (1976), section 2; η = 1/√2.
    """
    w, near = W[:, 0].copy(), V[:, -2:]
    local = near.T @ w
    w -= near @ local
    before = np.sqrt(w @ w)
    h = V.T @ w
    w -= V @ h
    after = np.sqrt(w @ w)
    little = 10 * float(np.finfo(V.dtype).eps) * np.sqrt(local @ local)
    if not (np.isfinite(after) and after > max(little, 0.5**0.5 * before)):
        return None
    h[-2:] += local
    w /= after
    return w[:, None], h[:, None], after[None, None]


def _orthonormal(xp: Any, W: Any) -> tuple[Any, Any]:
    """W = Q R; a single column is divided by its length, a tenth of the passes of a QR."""
    if W.shape[1] > 1:
        return xp.linalg.qr(W)
    length = xp.sqrt(W[:, 0] @ W[:, 0])
    return W / xp.where(length > 0, length, 1), length[None, None]


def _products(xp: Any, V: Any, b: int) -> tuple[Any, Any]:
    """VᵀW and V h; a single column as a vector, as GEMV is faster than GEMM with one column."""
    if b > 1:
        return lambda W: V.T @ W, lambda h: V @ h
    return lambda W: (V.T @ W[:, 0])[:, None], lambda h: (V @ h[:, 0])[:, None]


def _where_any(xp: Any, lost: Any, fresh: Any, W: Any) -> Any:
    if xp is np:
        return np.where(lost, fresh(), W) if lost.any() else W
    return jax.lax.cond(jnp.any(lost), lambda: jnp.where(lost, fresh(), W), lambda: W)


def _row_blocks(matrix: Any) -> list[Any]:
    """The matrix by row blocks, as views."""
    A: Any = scipy.sparse.csr_array(matrix)
    edges = [*range(0, A.shape[0], ROWS), A.shape[0]]
    blocks = []
    for low, high in itertools.pairwise(edges):
        where = slice(A.indptr[low], A.indptr[high])
        parts = (A.data[where], A.indices[where], A.indptr[low : high + 1] - A.indptr[low])
        blocks.append((low, high, scipy.sparse.csr_array(parts, shape=(high - low, A.shape[1]))))
    return blocks
