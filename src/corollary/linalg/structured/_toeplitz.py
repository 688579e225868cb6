"""Toeplitz and Hankel matrices, constant along their diagonals or anti-diagonals: products in O(n log n).

When: stationary covariances on a grid, convolution with boundaries, autoregression. The matrix is embedded in a
circulant at least m + n − 1 long, which the FFT diagonalises. Systems are solved by CG or GMRES with T. Chan's
circulant preconditioner, O(n log n) a step and few steps where the generating function is smooth and positive;
`linalg.solve` falls back on Levinson's recursion and LU, and certifies.

Source: R. Chan & Ng, SIAM Review 38 (1996) 427-482; T. Chan, SIAM J. Sci. Stat. Comput. 9 (1988) 766-771.
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
from corollary.linalg.structured._base import Matrix, Numbers, Structured, Vector, compiled, is_complex, numbers
from corollary.linalg.structured._circulant import Circulant
from corollary.linalg.structured._fourier import Filter, fast_length, spectrum
from corollary.linalg.structured._inverse import krylov


class Toeplitz(Structured):
    """The (m, n) Toeplitz matrix T_ij = t_{i−j} with a given first column and first row.

    Parameters
    ----------
    column
        (m,), real or complex.
    row
        (n,); its first entry is ignored, as in `scipy.linalg.toeplitz`. ``None``: the conjugate of `column`, so that T
        is Hermitian (symmetric for real numbers).

    Notes
    -----
    `solve` is one preconditioned pass; `linalg.solve` refines it and adds the certificate. A trainable layer:
    `jax.grad` with respect to the operator is the gradient in `column` and `row`.

    Examples
    --------
    >>> T = Toeplitz(np.array([1.0, 2.0, 3.0]), np.array([1.0, -1.0]))
    >>> T.as_matrix().tolist()
    [[1.0, -1.0], [2.0, 1.0], [3.0, 2.0]]
    >>> T.mv(np.array([1.0, 1.0])).round(12).tolist()
    [0.0, 3.0, 5.0]
    """

    column: Numbers
    row: Numbers | None

    def __init__(self, column: Any, row: Any = None):
        self.column = numbers("column", column, 1)
        self.row = None if row is None else numbers("row", row, 1)

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        m = self.column.shape[0]
        return m, m if self.row is None else self.row.shape[0]

    @property
    def dtype(self) -> Any:
        """The wider of column and row."""
        return self.column.dtype if self.row is None else np.promote_types(self.column.dtype, self.row.dtype)

    @compiled
    def mv(self, vector: Vector) -> Vector:
        """T x by two transforms (and one of the generator)."""
        column, row, vector = common_float(*self._pair(), vector)
        return _prepared(column, row).mv(vector)

    @compiled
    def as_matrix(self) -> Matrix:
        """The dense matrix."""
        column, row = common_float(*self._pair())
        m, n = self.shape
        diagonals = jnp.concatenate([column[::-1], row[1:]])
        return diagonals[np.arange(n) - np.arange(m)[:, None] + m - 1]

    @compiled
    def transpose(self) -> Toeplitz:
        """Tᵀ: column and row change places."""
        if self.row is None and not is_complex(self.column):
            return self
        column, row = common_float(*self._pair())
        return Toeplitz(row.at[0].set(column[0]), column)

    def prepared(self) -> Filter:
        """The operator with its generator transformed once, for loops."""
        column, row = common_float(*self._pair())
        return _prepared(column, row)

    def preconditioner(self) -> Circulant:
        """T. Chan's circulant, the nearest to T in the Frobenius norm: c_k = ((n − k) t_k + k t_{k−n})/n.

        Its eigenvalues are the diagonal of F T Fᴴ (F unitary), so they lie in the numerical range of T: positive for a
        positive definite T, and at most ‖T‖₂ in modulus.
        """
        column, row = common_float(*self._pair())
        n = column.shape[0]
        share = jnp.asarray(np.arange(n) / n).astype(jnp.finfo(column.dtype).dtype).astype(column.dtype)
        wrapped = jnp.concatenate([column[:1], row[:0:-1]])  # t_{k−n}
        return Circulant((1 - share) * column + share * wrapped)

    @follows_input
    @functools.partial(jax.jit, static_argnames="positive")
    def solve(self, vector: Vector, positive: bool = False) -> Vector:
        """T⁻¹ b to about half the digits, by CG where T is `positive` definite, else GMRES; T is square."""
        if self.shape[0] != self.shape[1]:
            raise InputError(f"T: found shape {self.shape}, expected a square matrix; least squares: linalg.lstsq")
        column, row, vector = common_float(*self._pair(), vector)
        T = Toeplitz(column, row)
        C = T.preconditioner()
        n = column.shape[0]
        M = Filter(C._inverted(), n, n, n, not is_complex(column))
        return krylov(_prepared(column, row), vector, M, positive)

    def norm_below(self) -> Float[Array, ""]:
        """A lower bound of ‖T‖₂: from the circulant's eigenvalues, or the longest of first row and column."""
        column, row = common_float(*self._pair())
        edge = jnp.maximum(jnp.linalg.norm(column), jnp.linalg.norm(row.at[0].set(column[0])))
        if self.shape[0] != self.shape[1]:
            return edge
        return jnp.maximum(edge, self.preconditioner().norm_below())

    def _pair(self) -> tuple[Any, Any]:
        column = jnp.asarray(self.column)
        return column, jnp.conj(column) if self.row is None else jnp.asarray(self.row)


register(
    Toeplitz,
    is_symmetric=lambda T: T.row is None and not is_complex(T.column),
    diagonal=lambda T: jnp.full(min(T.shape), T.column[0]),
    conj=lambda T: Toeplitz(T.column.conj(), None if T.row is None else T.row.conj()),
)


class Hankel(Structured):
    """The (m, n) Hankel matrix H_ij = h_{i+j} with a given first column and last row.

    Parameters
    ----------
    column
        (m,), real or complex.
    row
        (n,), the last row; its first entry is ignored, as in `scipy.linalg.hankel`. ``None``: zeros, (m, m).

    Notes
    -----
    H is a Toeplitz matrix with its columns in reverse order, and is multiplied and solved as one.

    Examples
    --------
    >>> Hankel(np.array([1.0, 2.0]), np.array([2.0, 3.0, 4.0])).as_matrix().tolist()
    [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]
    """

    column: Numbers
    row: Numbers | None

    def __init__(self, column: Any, row: Any = None):
        self.column = numbers("column", column, 1)
        self.row = None if row is None else numbers("row", row, 1)

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        m = self.column.shape[0]
        return m, m if self.row is None else self.row.shape[0]

    @property
    def dtype(self) -> Any:
        """The wider of column and row."""
        return self.column.dtype if self.row is None else np.promote_types(self.column.dtype, self.row.dtype)

    @compiled
    def mv(self, vector: Vector) -> Vector:
        """H x, as a Toeplitz product with x reversed."""
        return self.reversed().mv(jnp.flip(jnp.asarray(vector)))

    @compiled
    def as_matrix(self) -> Matrix:
        """The dense matrix."""
        return self.reversed().as_matrix()[:, ::-1]

    @compiled
    def transpose(self) -> Hankel:
        """Hᵀ: itself where it is square, as H is symmetric, complex or not."""
        h, (m, n) = self._generator(), self.shape
        return self if m == n else Hankel(h[:n], h[n - 1 :])

    @compiled
    def reversed(self) -> Toeplitz:
        """T = H with its columns in reverse order."""
        h, (_, n) = self._generator(), self.shape
        return Toeplitz(h[n - 1 :], h[n - 1 :: -1])

    def preconditioner(self) -> Circulant:
        """That of the reversed matrix."""
        return self.reversed().preconditioner()

    @follows_input
    @functools.partial(jax.jit, static_argnames="positive")
    def solve(self, vector: Vector, positive: bool = False) -> Vector:
        """H⁻¹ b by GMRES on the reversed matrix (which is not positive where H is), to about half the digits."""
        del positive
        return jnp.flip(jnp.asarray(self.reversed().solve(vector)))

    def norm_below(self) -> Float[Array, ""]:
        """A lower bound of ‖H‖₂, that of the reversed matrix."""
        return self.reversed().norm_below()

    def _generator(self) -> Array:
        column = jnp.asarray(self.column)
        row = jnp.zeros_like(column) if self.row is None else jnp.asarray(self.row)
        column, row = common_float(column, row)
        return jnp.concatenate([column, row[1:]])


register(
    Hankel,
    is_symmetric=lambda H: H.shape[0] == H.shape[1] and not is_complex(H.column),
    conj=lambda H: Hankel(H.column.conj(), None if H.row is None else H.row.conj()),
)


def _prepared(column: Array, row: Array) -> Filter:
    """T inside a circulant; column and row may hold blocks along their first axis."""
    m, n = column.shape[0], row.shape[0]
    length = fast_length(m + n - 1)
    gap = jnp.zeros((length - m - n + 1, *column.shape[1:]), column.dtype)
    generator = jnp.concatenate([column, gap, row[:0:-1]])
    return Filter(spectrum(generator), length, m, n, not is_complex(column))
