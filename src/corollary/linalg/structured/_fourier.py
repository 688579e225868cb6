"""Products through the FFT: the discrete Fourier transform as an operator, and convolution by a given spectrum.

Real data go through the real FFT, which halves the work and keeps the result real. Cost: O(n log n) a product.
Source: Golub & Van Loan, Matrix Computations, 4th ed., §1.4 and §4.8.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jaxtyping import Array, Complex, Inexact

from corollary.core import validation
from corollary.core.operator import register
from corollary.linalg.structured._base import Structured, Vector, compiled, is_complex


class DFT(Structured):
    """The discrete Fourier transform, F_jk = exp(−2πi jk/n) times 1, 1/√n or 1/n: O(n log n) a product.

    Parameters
    ----------
    n
        Length.
    norm
        ``"ortho"``: 1/√n, the only scale with which F is unitary; ``"backward"``: 1, as in `numpy.fft.fft`;
        ``"forward"``: 1/n.
    dtype
        complex64 or complex128; ``None``: what JAX's setting allows.

    Notes
    -----
    F is symmetric but not Hermitian: ``transpose`` is F itself, the adjoint its conjugate. A product of transforms
    stands for a circular convolution; a linear one needs zero padding, which `Toeplitz` does.

    Examples
    --------
    >>> F = DFT(4)
    >>> abs(F.mv(jnp.ones(4))).round(3).tolist()
    [2.0, 0.0, 0.0, 0.0]
    """

    n: int = eqx.field(static=True)
    norm: str = eqx.field(static=True)
    conjugate: bool = eqx.field(static=True)
    precision: Any = eqx.field(static=True)

    def __init__(self, n: int, norm: str = "ortho", dtype: Any = None, *, conjugate: bool = False):
        self.n = int(validation.integer(1)("n", n))
        self.norm = validation.one_of("ortho", "backward", "forward")("norm", norm)
        self.conjugate = validation.flag("conjugate", conjugate)
        self.precision = None if dtype is None else np.promote_types(dtype, jnp.complex64)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        return self.n, self.n

    @property
    def dtype(self) -> Any:
        """Complex."""
        return self.precision or np.promote_types(jnp.zeros(()).dtype, jnp.complex64)

    @property
    def scale(self) -> float:
        """σ, all n singular values."""
        return {"ortho": 1.0, "backward": self.n**0.5, "forward": self.n**-0.5}[self.norm]

    @compiled
    def mv(self, vector: Vector) -> Complex[Array | np.ndarray, " _"]:
        """F x, or F̄ x for the conjugate."""
        vector = jnp.asarray(vector)
        vector = vector.astype(np.promote_types(vector.dtype, jnp.complex64))
        if not self.conjugate:
            return jnp.fft.fft(vector, norm=self.norm)
        other = {"backward": "forward", "forward": "backward"}.get(self.norm, self.norm)
        return jnp.fft.ifft(vector, norm=other)

    @compiled
    def solve(self, vector: Vector) -> Complex[Array | np.ndarray, " _"]:
        """F⁻¹ b, a single transform."""
        other = {"backward": "forward", "forward": "backward"}.get(self.norm, self.norm)
        return DFT(self.n, other, self.precision, conjugate=not self.conjugate).mv(vector)

    def as_matrix(self) -> Complex[Array, "n n"]:
        """The dense matrix; the exponents jk are reduced modulo n before the exponential, so that it is accurate."""
        k = np.arange(self.n)
        angle = 2 * np.pi / self.n * (np.outer(k, k) % self.n) * (1 if self.conjugate else -1)
        scale = {"ortho": self.n**-0.5, "backward": 1.0, "forward": 1 / self.n}[self.norm]
        return jnp.asarray((scale * np.exp(1j * angle)).astype(self.dtype))

    def transpose(self) -> DFT:
        """F: it is symmetric."""
        return self

    def norm_below(self) -> Array:
        """‖F‖₂."""
        return jnp.asarray(self.scale, jnp.finfo(self.dtype).dtype)


register(DFT, conj=lambda F: DFT(F.n, F.norm, F.precision, conjugate=not F.conjugate))


class Filter(Structured):
    """x ↦ the first `rows` entries of the circular convolution of length `length` with a given spectrum.

    The prepared form of a circulant (length = rows = columns) or Toeplitz matrix: two transforms a product. A spectrum
    of blocks (frequencies, p, q) gives a block matrix.
    """

    spectrum: Inexact[Array | np.ndarray, "..."]
    length: int = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    columns: int = eqx.field(static=True)
    real: bool = eqx.field(static=True)

    @property
    def _blocks(self) -> tuple[int, int]:
        p, q = self.spectrum.shape[1:] or (1, 1)
        return p, q

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns), counted in numbers."""
        p, q = self._blocks
        return self.rows * p, self.columns * q

    @property
    def dtype(self) -> Any:
        """Of the product."""
        return jnp.finfo(self.spectrum.dtype).dtype if self.real else self.spectrum.dtype

    def mv(self, vector: Inexact[Array, " _"]) -> Inexact[Array, " _"]:
        """Two transforms and a product by frequency."""
        blocks = vector.reshape(self.columns, -1) if self.spectrum.ndim == 3 else vector
        forward, backward = (jnp.fft.rfft, jnp.fft.irfft) if self.real else (jnp.fft.fft, jnp.fft.ifft)
        image = forward(blocks, self.length, axis=0)
        image = self.spectrum * image if blocks.ndim == 1 else jnp.einsum("fpq,fq->fp", self.spectrum, image)
        return backward(image, self.length, axis=0)[: self.rows].reshape(-1)

    def as_matrix(self) -> Inexact[Array, "_ _"]:
        """By products with unit vectors."""
        return jax.vmap(self.mv, in_axes=1, out_axes=1)(jnp.eye(self.shape[1], dtype=self.dtype))

    def transpose(self) -> Filter:
        """The convolution run backwards: frequency k becomes −k, which for real data is the conjugate."""
        turned = jnp.swapaxes(self.spectrum, 1, 2) if self.spectrum.ndim == 3 else jnp.asarray(self.spectrum)
        turned = jnp.conj(turned) if self.real else reverse(turned)
        return Filter(turned, self.length, self.columns, self.rows, self.real)


register(
    Filter,
    conj=lambda f: f if f.real else Filter(reverse(jnp.conj(f.spectrum)), f.length, f.rows, f.columns, f.real),
)


def spectrum(generator: Array) -> Inexact[Array, "..."]:
    """The unnormalised DFT along the first axis: half of it for real numbers."""
    return (jnp.fft.fft if is_complex(generator) else jnp.fft.rfft)(generator, axis=0)


def reverse(a: Array) -> Array:
    """a_{−k mod n}: the first entry stays, the others are reversed."""
    return jnp.roll(jnp.flip(a, 0), 1, 0)


def fast_length(least: int) -> int:
    """The smallest length from `least` on with small prime factors only."""
    length: Any = scipy.fft.next_fast_len(least, real=True)
    return int(length)


def convolve(generator: Array, vector: Array) -> Array:
    """The circular convolution of two vectors of the same length and kind of number."""
    n = vector.shape[0]
    return Filter(spectrum(generator), n, n, n, not is_complex(vector)).mv(vector)
