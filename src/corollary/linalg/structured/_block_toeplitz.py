"""Block Toeplitz matrices: constant blocks along the block diagonals, for vector-valued series and 2-d convolution.

Cost of a product for m × n blocks of p × q: O((m + n) log(m + n) (p + q) + (m + n) p q). Systems by CG or GMRES with
the block form of T. Chan's preconditioner, whose p × p frequencies are factorised once.
Source: T. Chan & Olkin, Numerical Algorithms 6 (1994) 89-101.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corollary.core.errors import InputError
from corollary.core.operator import register
from corollary.core.precision import common_float, follows_input
from corollary.linalg.structured._base import Matrix, Numbers, Structured, Vector, compiled, numbers
from corollary.linalg.structured._fourier import Filter, spectrum
from corollary.linalg.structured._inverse import krylov
from corollary.linalg.structured._toeplitz import _prepared


class BlockToeplitz(Structured):
    """The block Toeplitz matrix whose block (i, j) is T_{i−j}.

    Parameters
    ----------
    column
        (m, p, q): the blocks of the first block column.
    row
        (n, p, q): those of the first block row; its first block is ignored. ``None``: T_{−k} = T_kᴴ, for square blocks
        (the diagonal block is taken as it is: symmetry needs a symmetric one).

    Examples
    --------
    >>> T = BlockToeplitz(np.arange(8.0).reshape(2, 2, 2))
    >>> T.as_matrix()[2:, :2].tolist()
    [[4.0, 5.0], [6.0, 7.0]]
    """

    column: Numbers
    row: Numbers | None

    def __init__(self, column: Any, row: Any = None):
        self.column = numbers("column", column, 3)
        self.row = None if row is None else numbers("row", row, 3)
        _, p, q = self.column.shape
        if (self.row is None and p != q) or (self.row is not None and self.row.shape[1:] != (p, q)):
            found = None if self.row is None else self.row.shape
            raise InputError(f"row: found {found}, expected (n, {p}, {q}), or None with square blocks")

    @property
    def shape(self) -> tuple[int, int]:
        """(m p, n q)."""
        m, p, q = self.column.shape
        return m * p, q * (m if self.row is None else self.row.shape[0])

    @property
    def dtype(self) -> Any:
        """The wider of column and row."""
        return self.column.dtype if self.row is None else np.promote_types(self.column.dtype, self.row.dtype)

    @compiled
    def mv(self, vector: Vector) -> Vector:
        """T x by transforms along the blocks."""
        column, row, vector = common_float(*self._pair(), vector)
        return _prepared(column, row).mv(vector)

    @compiled
    def as_matrix(self) -> Matrix:
        """The dense matrix."""
        column, row = common_float(*self._pair())
        m, n = column.shape[0], row.shape[0]
        diagonals = jnp.concatenate([column[::-1], row[1:]])
        blocks = diagonals[np.arange(n) - np.arange(m)[:, None] + m - 1]
        return jnp.swapaxes(blocks, 1, 2).reshape(self.shape)

    @compiled
    def transpose(self) -> BlockToeplitz:
        """Tᵀ: column and row change places, each block transposed."""
        column, row = common_float(*self._pair())
        flip = lambda blocks: jnp.swapaxes(blocks, 1, 2)  # noqa: E731
        return BlockToeplitz(flip(row.at[0].set(column[0])), flip(column))

    def preconditioner(self) -> Filter:
        """The inverse of the nearest block circulant, C_k = ((n − k) T_k + k T_{k−n})/n."""
        frequencies = self._frequencies()
        p = frequencies.shape[1]
        eye = jnp.broadcast_to(jnp.eye(p, dtype=frequencies.dtype), frequencies.shape)
        inverted = jnp.linalg.solve(frequencies, eye)
        inverted = jnp.where(jnp.all(jnp.isfinite(inverted), axis=(1, 2), keepdims=True), inverted, eye)
        n = self.column.shape[0]
        return Filter(inverted, n, n, n, not jnp.issubdtype(self.dtype, jnp.complexfloating))

    @follows_input
    @functools.partial(jax.jit, static_argnames="positive")
    def solve(self, vector: Vector, positive: bool = False) -> Vector:
        """T⁻¹ b to about half the digits, by CG where T is `positive` definite, else GMRES; T is square."""
        if self.shape[0] != self.shape[1] or self.column.shape[1] != self.column.shape[2]:
            raise InputError(f"T: found shape {self.shape}, expected square blocks, as many down as across")
        column, row, vector = common_float(*self._pair(), vector)
        return krylov(_prepared(column, row), vector, BlockToeplitz(column, row).preconditioner(), positive)

    def norm_below(self) -> Float[Array, ""]:
        """A lower bound of ‖T‖₂: block circulant frequencies are compressions of T; else the first column's norm."""
        column, row = common_float(*self._pair())
        if column.shape[0] != row.shape[0]:
            return jnp.linalg.norm(column.reshape(-1, column.shape[2]), axis=0).max()
        return jnp.max(jnp.linalg.svd(self._frequencies(), compute_uv=False))

    def _frequencies(self) -> Array:
        column, row = common_float(*self._pair())
        n = column.shape[0]
        share = jnp.asarray(np.arange(n)[:, None, None] / n).astype(jnp.finfo(column.dtype).dtype).astype(column.dtype)
        wrapped = jnp.concatenate([column[:1], row[:0:-1]])
        return spectrum((1 - share) * column + share * wrapped)

    def _pair(self) -> tuple[Any, Any]:
        column = jnp.asarray(self.column)
        if self.row is None:
            return column, jnp.conj(jnp.swapaxes(column, 1, 2))
        return column, jnp.asarray(self.row)


register(
    BlockToeplitz,
    conj=lambda T: BlockToeplitz(T.column.conj(), None if T.row is None else T.row.conj()),
)
