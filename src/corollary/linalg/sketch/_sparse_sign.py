"""Sparse sketches: CountSketch, and sparse sign embeddings (sparse Johnson-Lindenstrauss, OSNAP).

The fastest way to shrink a tall matrix, dense or sparse: each column of S has s entries ±1/√s, so that S A costs
s · nnz(A) and reads A once. The rows of S are split into s blocks and each column has one entry in every block: S is
a stack of s CountSketches. s = 8 behaves like a Gaussian for least squares and low rank; s = 1 is CountSketch, which
needs O(n²) rows for a subspace of dimension n.

Source: Charikar, Chen & Farach-Colton (2004); Clarkson & Woodruff, J. ACM 63 (2017); Kane & Nelson, J. ACM 61 (2014),
block construction; Nelson & Nguyen, FOCS 2013 (OSNAP); Cohen, SODA 2016.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Inexact, Int, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.operator import register
from corollary.linalg.sketch._base import AbstractSketch, in_parts, sizes

CHUNK = 4096  # rows of a matrix stored by columns that are copied at a time


class SparseSignSketch(AbstractSketch):
    """S with `nonzeros` entries ±1/√nonzeros in each column, one in each block of rows.

    Use it first for tall matrices, dense or sparse. Cost: O(nonzeros · nnz(A)), one pass over A.

    Parameters
    ----------
    rows, columns
        Shape of S: `rows` is the sketch size, `columns` the length of what is sketched.
    nonzeros
        s, entries in a column of S; at most `rows`. 8 is the usual choice, 1 is CountSketch.
    key
        `jax.random.key`; it may be traced.
    dtype
        Precision of `as_matrix` and `mv`; products follow the data's own.

    Notes
    -----
    E SᵀS = I, and E ‖(SU)ᵀSU − I‖_F² <= (n² + n)/rows for orthonormal U with n columns and equal blocks,
    whatever `nonzeros`; more of them make the tails lighter, down to rows = O(n log n / ε²) with s = O(log n / ε)
    (Cohen 2016, Theorem 4.2). `sketch_distortion` measures, `embedding_dimension` plans.

    Examples
    --------
    >>> import jax, numpy as np
    >>> S = SparseSignSketch(16, 100, nonzeros=4, key=jax.random.key(0))
    >>> (np.abs(S.as_matrix()) > 0).sum(axis=0).tolist() == [4] * 100
    True
    >>> S.apply(np.ones((100, 3))).shape
    (16, 3)
    """

    targets: Int[Array, "..."]  # (columns, nonzeros): rows of the entries
    signs: Int[Array, "..."]  # (columns, nonzeros)
    rows: int = eqx.field(static=True)
    columns: int = eqx.field(static=True)
    nonzeros: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, rows: int, columns: int, *, nonzeros: int = 8, key: Key[Array, ""], dtype: Any = None):
        self.rows, self.columns, self.dtype = sizes(rows, columns, dtype)
        validation.integer(1)("nonzeros", nonzeros)
        if nonzeros > rows:
            raise InputError(f"nonzeros: found {nonzeros}, expected at most rows = {rows}")
        self.nonzeros = int(nonzeros)
        self.targets, self.signs = _draw(self.rows, self.columns, self.nonzeros, key)

    @jax.jit
    def mm(self, block: Inexact[Array, "n k"]) -> Inexact[Array, "m k"]:
        """S V: every row of V is added, signed, to its targets."""
        total = jnp.zeros((self.rows, block.shape[1]), block.dtype)
        for j in range(self.nonzeros):
            signed = self.signs[:, j, None].astype(block.dtype) * block
            total = total.at[self.targets[:, j]].add(signed, mode="promise_in_bounds")
        return total * jnp.asarray(1 / math.sqrt(self.nonzeros), block.dtype)

    @jax.jit
    def rmm(self, block: Inexact[Array, "m k"]) -> Inexact[Array, "n k"]:
        """Sᵀ U: every row gathers its targets."""
        total = jnp.zeros((self.columns, block.shape[1]), block.dtype)
        for j in range(self.nonzeros):
            gathered = block.at[self.targets[:, j]].get(mode="promise_in_bounds")
            total = total + self.signs[:, j, None].astype(block.dtype) * gathered
        return total * jnp.asarray(1 / math.sqrt(self.nonzeros), block.dtype)

    def on_host(self, A: Any) -> np.ndarray:
        """S A in one pass over A, in threads: SciPy adds each row of A, signed, to rows that stay in cache."""
        if scipy.sparse.issparse(A):
            return (self.matrix(A.dtype) @ A).toarray()
        targets, signs = np.asarray(self.targets), np.asarray(self.signs)
        scale = A.dtype.type(1 / math.sqrt(self.nonzeros))
        step = self.columns if A.flags.c_contiguous else CHUNK

        def part(start: int, stop: int) -> np.ndarray:
            total: Any = 0
            for i in range(start, stop, step):
                j = min(i + step, stop)
                product = _by_columns(targets[i:j], signs[i:j], scale, self.rows) @ np.ascontiguousarray(A[i:j])
                total = product if i == start else total + product
            return total

        return in_parts(part, self.columns, self.nonzeros * A.size)

    def matrix(self, dtype: Any = None) -> scipy.sparse.csc_array:
        """S as a SciPy matrix by columns."""
        scale = np.dtype(dtype or self.dtype).type(1 / math.sqrt(self.nonzeros))
        return _by_columns(np.asarray(self.targets), np.asarray(self.signs), scale, self.rows)


def _by_columns(targets: np.ndarray, signs: np.ndarray, scale: Any, rows: int) -> scipy.sparse.csc_array:
    """The CSC form needs no sorting: each column of S holds its own entries."""
    columns, nonzeros = targets.shape
    starts = np.arange(0, columns * nonzeros + 1, nonzeros, dtype=np.int32)
    data = np.where(signs.ravel() > 0, scale, -scale)
    return scipy.sparse.csc_array((data, targets.ravel(), starts), shape=(rows, columns))


class CountSketch(AbstractSketch):
    """S with a single entry ±1 in each column: a signed hash of the rows of A into `rows` buckets.

    Use it where even reading A is the cost, and a sketch of O(n²) rows is small beside it. Cost: O(nnz(A)).

    Parameters
    ----------
    rows, columns
        Shape of S: `rows` is the sketch size, `columns` the length of what is sketched.
    key
        `jax.random.key`; it may be traced.
    dtype
        Precision of `as_matrix` and `mv`; products follow the data's own.

    Notes
    -----
    E ‖Sx‖² = ‖x‖² and Var ‖Sx‖² = 2 (‖x‖⁴ − ‖x‖₄⁴)/rows; an embedding of an n-dimensional subspace with probability
    1 − δ from n(n + 1)/((2ε − ε²)² δ) rows (Nelson & Nguyen 2013, Theorem 3).

    Examples
    --------
    >>> import jax, numpy as np
    >>> CountSketch(8, 100, key=jax.random.key(0)).apply(np.ones(100)).shape
    (8,)
    """

    inner: SparseSignSketch
    rows: int = eqx.field(static=True)
    columns: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, rows: int, columns: int, *, key: Key[Array, ""], dtype: Any = None):
        self.inner = SparseSignSketch(rows, columns, nonzeros=1, key=key, dtype=dtype)
        self.rows, self.columns, self.dtype = self.inner.rows, self.inner.columns, self.inner.dtype

    @jax.jit
    def mm(self, block: Inexact[Array, "n k"]) -> Inexact[Array, "m k"]:
        """S V."""
        return self.inner.mm(block)

    @jax.jit
    def rmm(self, block: Inexact[Array, "m k"]) -> Inexact[Array, "n k"]:
        """Sᵀ U."""
        return self.inner.rmm(block)

    def on_host(self, A: Any) -> np.ndarray:
        """S A."""
        return self.inner.on_host(A)


register(SparseSignSketch)
register(CountSketch)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _draw(rows: int, columns: int, nonzeros: int, key: Key[Array, ""]) -> tuple[Int[Array, "n s"], Int[Array, "n s"]]:
    """Targets, one in each block of rows, and signs, from one random word an entry."""
    words = jax.random.bits(key, (columns, nonzeros), jnp.uint32)
    cuts = np.arange(nonzeros + 1) * rows // nonzeros
    starts, widths = jnp.asarray(cuts[:-1], jnp.int32), jnp.asarray(np.diff(cuts), jnp.uint32)
    # The remainder of 31 bits favours no bucket by more than rows · 2⁻³¹.
    targets = starts + ((words >> 1) % widths).astype(jnp.int32)
    return targets, 2 * (words & jnp.uint32(1)).astype(jnp.int8) - 1
