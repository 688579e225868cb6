"""Matrices read by blocks of neighbouring rows inside compiled loops: dense, or sparse with padded rows.

A block's two products read it once from memory where it fits the cache. Cost: O(b·d), or O(b·(entries of the fullest
row)).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corollary.core import operator
from corollary.core.errors import InputError

UNEVEN = 16  # padded rows may hold this many times the entries that there are


class Rows(eqx.Module):
    """A matrix whose rows are read block by block."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""

    @property
    @abstractmethod
    def dtype(self) -> Any:
        """Precision."""

    @abstractmethod
    def mv(self, start: Any, b: int, x: Float[Array, " d"]) -> Float[Array, " b"]:
        """A_B x for the b rows from `start` on."""

    @abstractmethod
    def rmv(self, start: Any, theta: Float[Array, " b"]) -> Float[Array, " d"]:
        """A_Bᵀ θ."""

    @abstractmethod
    def squares(self) -> Float[Array, " n"]:
        """‖a_i‖²."""


@final
class Dense(Rows):
    """A dense matrix."""

    matrix: Any

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.matrix.shape

    @property
    def dtype(self) -> Any:
        """Precision."""
        return self.matrix.dtype

    def block(self, start: Any, b: int) -> Float[Array, "b d"]:
        """The b rows from `start` on."""
        return jax.lax.dynamic_slice_in_dim(jnp.asarray(self.matrix), start, b)

    def mv(self, start: Any, b: int, x: Float[Array, " d"]) -> Float[Array, " b"]:
        """A_B x."""
        return self.block(start, b) @ x

    def rmv(self, start: Any, theta: Float[Array, " b"]) -> Float[Array, " d"]:
        """A_Bᵀ θ."""
        return theta @ self.block(start, theta.shape[0])

    def squares(self) -> Float[Array, " n"]:
        """‖a_i‖²."""
        return jnp.sum(jnp.square(jnp.asarray(self.matrix)), axis=1)


@final
class Padded(Rows):
    """A sparse matrix, each row padded to the length of the fullest with zeros at column 0."""

    columns: Any
    values: Any
    d: int = eqx.field(static=True)

    @staticmethod
    def of(matrix: Any) -> Padded:
        """From SciPy's or JAX's sparse formats."""
        csr = operator._to_csr(matrix)
        counts = np.diff(csr.indptr)
        n, width = csr.shape[0], max(int(counts.max(initial=0)), 1)
        if n * width > UNEVEN * max(csr.nnz, n):
            raise InputError(
                f"data: found a fullest row of {width} entries against {csr.nnz / n:.3g} on average, expected rows of "
                f"like length (at most {UNEVEN} times the mean): drop or split the fullest, or use Composite"
            )
        columns, values = np.zeros((n, width), np.int32), np.zeros((n, width), csr.dtype)
        row = np.repeat(np.arange(n), counts)
        at = np.arange(csr.nnz) - np.repeat(csr.indptr[:-1], counts)
        columns[row, at], values[row, at] = csr.indices, csr.data
        return Padded(columns, values, csr.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.values.shape[0], self.d

    @property
    def dtype(self) -> Any:
        """Precision."""
        return self.values.dtype

    def _block(self, start: Any, b: int) -> tuple[Array, Array]:
        cut = jax.lax.dynamic_slice_in_dim
        return cut(jnp.asarray(self.columns), start, b), cut(jnp.asarray(self.values), start, b)

    def mv(self, start: Any, b: int, x: Float[Array, " d"]) -> Float[Array, " b"]:
        """A_B x."""
        columns, values = self._block(start, b)
        return jnp.sum(values * x.at[columns].get(mode="promise_in_bounds"), axis=1)

    def rmv(self, start: Any, theta: Float[Array, " b"]) -> Float[Array, " d"]:
        """A_Bᵀ θ."""
        columns, values = self._block(start, theta.shape[0])
        return jnp.zeros((self.d,), values.dtype).at[columns].add(values * theta[:, None], mode="promise_in_bounds")

    def squares(self) -> Float[Array, " n"]:
        """‖a_i‖²."""
        return jnp.sum(jnp.square(jnp.asarray(self.values)), axis=1)
