"""Dense sketches: independent Gaussian or Rademacher entries, scaled by 1/√rows.

The yardstick of all sketches: sharp theory (singular values of S U in 1 ± √(n/rows) for an orthonormal U with n
columns) at the highest cost, O(rows · nnz(A)). S is never stored: it is made from its key by blocks of columns where
a product needs them, so memory is O(rows) a column of a block; ``lineax.materialise`` stores it for repeated use.
Rademacher entries cost a thirtieth of the random bits and keep exact integers exact up to the scale.

Source: Davidson & Szarek (2001), Theorem II.13; Achlioptas, J. Comput. Syst. Sci. 66 (2003); Martinsson & Tropp, Acta
Numerica 29 (2020), §8.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Inexact, Key

from corollary.core.operator import register
from corollary.core.precision import float64
from corollary.linalg.sketch._base import AbstractSketch, sizes

BLOCK = 512  # columns of S that are made at a time


class AbstractDenseSketch(AbstractSketch):
    """Products of a sketch that is made by blocks of columns: a leaf says how a block is drawn."""

    key: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def entries(self, key: Key[Array, ""], shape: tuple[int, int]) -> Inexact[Array, "b m"]:
        """Independent entries of mean 0 and variance 1."""

    def block(self, index: Any) -> Inexact[Array, "b m"]:
        """Rows of Sᵀ number index · width to (index + 1) · width."""
        drawn = self.entries(jax.random.fold_in(self.key, index), (self.width, self.rows))
        return drawn * jnp.asarray(1 / math.sqrt(self.rows), self.dtype)

    @property
    def width(self) -> int:
        """Columns of S in a block."""
        return min(BLOCK, self.columns)

    @jax.jit
    def mm(self, block: Inexact[Array, "n k"]) -> Inexact[Array, "m k"]:
        """S V, block by block; backwards the blocks are drawn again rather than kept."""
        width, whole = self.width, self.columns // self.width

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def product(index: Any, rows: Array) -> Array:
            return self.block(index).astype(rows.dtype)[: rows.shape[0]].T @ rows

        def add(total: Array, index: Any) -> tuple[Array, None]:
            return total + product(index, jax.lax.dynamic_slice_in_dim(block, index * width, width)), None

        if whole == 1:
            total = product(0, block[:width])
        else:
            start = jnp.zeros((self.rows, block.shape[1]), block.dtype)
            total = jax.lax.scan(add, start, jnp.arange(whole))[0]
        return total if whole * width == self.columns else total + product(whole, block[whole * width :])

    @jax.jit
    def rmm(self, block: Inexact[Array, "m k"]) -> Inexact[Array, "n k"]:
        """Sᵀ U, block by block."""
        count = -(-self.columns // self.width)
        if count == 1:
            return self.block(0).astype(block.dtype) @ block
        parts = jax.lax.map(lambda index: self.block(index).astype(block.dtype) @ block, jnp.arange(count))
        return parts.reshape(count * self.width, block.shape[1])[: self.columns]

    def on_host(self, A: Any) -> np.ndarray:
        """S A by the host's BLAS."""
        total = np.zeros((self.rows, A.shape[1]), A.dtype)
        with float64() if self.dtype == np.float64 else contextlib.nullcontext():
            for index in range(-(-self.columns // self.width)):
                rows = A[index * self.width : (index + 1) * self.width]
                block = np.asarray(_block(self, index)).astype(A.dtype, copy=False)[: rows.shape[0]]
                total += (rows.T @ block).T if scipy.sparse.issparse(rows) else block.T @ rows
        return total


class GaussianSketch(AbstractDenseSketch):
    """S with independent N(0, 1/rows) entries: the sketch with the sharpest theory.

    Use it where a product with a dense S is affordable, O(rows · nnz(A)), or as a reference for the cheaper ones.

    Parameters
    ----------
    rows, columns
        Shape of S: `rows` is the sketch size, `columns` the length of what is sketched.
    key
        `jax.random.key`; it may be traced, so that `vmap` draws many sketches.
    dtype
        Precision in which S is drawn (the widest allowed by default); products follow the data's own.

    Notes
    -----
    E SᵀS = I; with probability 1 − 2 exp(−t²/2) the singular values of S U lie in 1 ± (√n + t)/√rows for orthonormal U
    with n columns (Davidson & Szarek 2001, Theorem II.13). `sketch_distortion` measures, `embedding_dimension` plans.

    Examples
    --------
    >>> import jax, numpy as np
    >>> S = GaussianSketch(4, 100, key=jax.random.key(0))
    >>> S.apply(np.ones((100, 3))).shape
    (4, 3)
    """

    key: Key[Array, "..."]
    rows: int = eqx.field(static=True)
    columns: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, rows: int, columns: int, *, key: Key[Array, ""], dtype: Any = None):
        self.rows, self.columns, self.dtype = sizes(rows, columns, dtype)
        self.key = key

    def entries(self, key: Key[Array, ""], shape: tuple[int, int]) -> Inexact[Array, "b m"]:
        """Standard normals."""
        return jax.random.normal(key, shape, self.dtype)


class RademacherSketch(AbstractDenseSketch):
    """S with independent entries ±1/√rows: Gaussian quality from one random bit an entry.

    Parameters
    ----------
    rows, columns
        Shape of S: `rows` is the sketch size, `columns` the length of what is sketched.
    key
        `jax.random.key`; it may be traced.
    dtype
        Precision in which S is drawn; products follow the data's own.

    Notes
    -----
    E SᵀS = I; lengths concentrate as for the Gaussian (Achlioptas 2003, Lemma 5.1; `jl_dimension`).

    Examples
    --------
    >>> import jax
    >>> S = RademacherSketch(4, 6, key=jax.random.key(0))
    >>> abs(S.as_matrix()).tolist() == [[0.5] * 6] * 4
    True
    """

    key: Key[Array, "..."]
    rows: int = eqx.field(static=True)
    columns: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, rows: int, columns: int, *, key: Key[Array, ""], dtype: Any = None):
        self.rows, self.columns, self.dtype = sizes(rows, columns, dtype)
        self.key = key

    def entries(self, key: Key[Array, ""], shape: tuple[int, int]) -> Inexact[Array, "b m"]:
        """Random signs, 32 from each drawn word."""
        words = jax.random.bits(key, (shape[0], -(-shape[1] // 32)), jnp.uint32)
        bits = (words[..., None] >> jnp.arange(32, dtype=jnp.uint32)) & jnp.uint32(1)
        signs = 2 * bits.astype(jnp.int8) - 1
        return signs.reshape(shape[0], -1)[:, : shape[1]].astype(self.dtype)


register(GaussianSketch)
register(RademacherSketch)

_block = jax.jit(lambda sketch, index: sketch.block(index))
