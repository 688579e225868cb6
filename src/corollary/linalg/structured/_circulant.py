"""Circulant matrices C_ij = c_{i−j mod n}: the FFT diagonalises them all.

When: periodic convolution, periodic stationary covariances, preconditioners for Toeplitz systems. Product, solve,
inverse and eigenvalues cost O(n log n). Source: Golub & Van Loan, Matrix Computations, 4th ed., §4.8.2; Davis,
Circulant Matrices (1979), Theorem 3.2.2.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Complex, Float

from corollary.core.operator import register
from corollary.core.precision import common_float
from corollary.linalg.structured._base import Matrix, Numbers, Structured, Vector, compiled, is_complex, numbers
from corollary.linalg.structured._fourier import Filter, convolve, reverse, spectrum


class Circulant(Structured):
    """The circulant matrix with first column c: C x is the circular convolution of c and x.

    Every column is the one before, shifted down. With c as the first row the same formula would give Cᵀ, a
    correlation. Products of circulants (``C @ D``) commute and are circulants. Cost: O(n log n) for everything.

    Parameters
    ----------
    column
        c, (n,), real or complex. Real products stay real.

    Notes
    -----
    The eigenvalues are the unnormalised DFT of c; the k-th eigenvector is exp(2πi jk/n). A trainable layer as it
    stands: `jax.grad` with respect to the operator is the gradient in c.

    Examples
    --------
    >>> C = Circulant(np.array([1.0, 2.0, 0.0]))
    >>> C.as_matrix().tolist()
    [[1.0, 0.0, 2.0], [2.0, 1.0, 0.0], [0.0, 2.0, 1.0]]
    >>> C.mv(np.array([1.0, 0.0, 0.0])).round(12).tolist()
    [1.0, 2.0, 0.0]
    >>> import jax
    >>> jax.grad(lambda C: jnp.sum(C.mv(jnp.ones(3))))(Circulant(jnp.ones(3))).column.tolist()
    [3.0, 3.0, 3.0]
    """

    column: Numbers

    def __init__(self, column: Any):
        self.column = numbers("column", column, 1)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        return self.column.shape[0], self.column.shape[0]

    @property
    def dtype(self) -> Any:
        """That of c."""
        return self.column.dtype

    @compiled
    def mv(self, vector: Vector) -> Vector:
        """C x = ifft(fft(c) · fft(x))."""
        return convolve(*common_float(self.column, vector))

    @compiled
    def as_matrix(self) -> Matrix:
        """The dense matrix."""
        i = np.arange(self.shape[0])
        return jnp.asarray(self.column)[(i[:, None] - i) % len(i)]

    @compiled
    def transpose(self) -> Circulant:
        """Cᵀ: the circulant of c_{−k mod n}."""
        return Circulant(reverse(jnp.asarray(self.column)))

    @compiled
    def eigenvalues(self) -> Complex[Array | np.ndarray, " n"]:
        """fft(c), unnormalised; the k-th belongs to the eigenvector exp(2πi jk/n)."""
        return jnp.fft.fft(jnp.asarray(self.column))

    @compiled
    def inverse(self) -> Circulant:
        """C⁻¹, a circulant; the pseudoinverse where an eigenvalue is at most n·eps times the largest."""
        n, inverted = self.shape[0], self._inverted()
        return Circulant(jnp.fft.ifft(inverted) if is_complex(self.column) else jnp.fft.irfft(inverted, n))

    @compiled
    def solve(self, vector: Vector) -> Vector:
        """C⁻¹ b, or C⁺ b where C is numerically singular; `linalg.solve` adds a certificate."""
        column, vector = common_float(self.column, vector)
        n = self.shape[0]
        return Filter(Circulant(column)._inverted(), n, n, n, not is_complex(vector)).mv(vector)

    @compiled
    def slogdet(self) -> tuple[Numbers, Float[Array | np.ndarray, ""]]:
        """(sign, log|det C|), as `numpy.linalg.slogdet`; the sign of a complex matrix is a phase."""
        values = self.eigenvalues()
        size = jnp.abs(values)
        phase = jnp.prod(values / jnp.where(size > 0, size, 1).astype(values.dtype))
        return (phase if is_complex(self.column) else jnp.round(phase.real)), jnp.sum(jnp.log(size))

    def norm_below(self) -> Float[Array, ""]:
        """‖C‖₂, exactly: C is normal."""
        return jnp.max(jnp.abs(spectrum(jnp.asarray(self.column))))

    def _inverted(self) -> Array:
        values = spectrum(jnp.asarray(self.column))
        size = jnp.abs(values)
        kept = size > self.shape[0] * jnp.finfo(values.dtype).eps * jnp.max(size)
        return jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)

    def __matmul__(self, other: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
        """C D: again a circulant where D is one."""
        if isinstance(other, Circulant) and other.shape == self.shape:
            return Circulant(self.mv(other.column))
        return super().__matmul__(other)


register(
    Circulant,
    is_symmetric=lambda C: C.shape[0] <= 2 and not is_complex(C.column),
    diagonal=lambda C: jnp.full(C.shape[0], C.column[0]),
    conj=lambda C: Circulant(C.column.conj()),
)
