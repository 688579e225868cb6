"""Butterfly matrices: products of log₂ n sparse factors, each n/2 blocks of 2 × 2.

When: a trainable stand-in for a dense square layer that can be any fast transform. 2 n log₂ n parameters; product and
solve O(n log n). FFT and Hadamard transform are special cases. Source: Dao, Gu, Eichhorn, Rudra & Ré, ICML 2019
(arXiv:1903.05895), Definition 2.1; the factors are those of the Cooley-Tukey FFT (Golub & Van Loan, 4th ed., §1.4.1).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from corollary.core.errors import InputError
from corollary.core.operator import register
from corollary.core.precision import common_float
from corollary.linalg.structured._base import Matrix, Numbers, Structured, Vector, compiled, numbers
from corollary.linalg.structured._permutation import Permutation


class Butterfly(Structured):
    """B = B_{log n} ⋯ B₂ B₁ P: a permutation, then factors that mix entries at distance 1, 2, 4, …, n/2.

    Parameters
    ----------
    twiddles
        (log₂ n, n/2, 2, 2): the blocks, factor by factor. Block k of the factor for distance s mixes the entries
        i and i + s with i = 2 s h + l, where k = l n/(2s) + h: blocks of equal place l within a stretch lie together.
    permutation
        σ as in `Permutation`, applied first; ``None``: none. Integers, so a gradient is `equinox.filter_grad`'s.

    Examples
    --------
    >>> Butterfly.hadamard(4).as_matrix().astype(int).tolist()
    [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    >>> F = Butterfly.dft(8)
    >>> bool(np.allclose(F.mv(np.arange(8.0)), np.fft.fft(np.arange(8.0))))
    True
    """

    twiddles: Numbers
    permutation: Int[Array | np.ndarray, " n"] | None
    transposed: bool = eqx.field(static=True)

    def __init__(self, twiddles: Any, permutation: Any = None, *, transposed: bool = False):
        self.twiddles = numbers("twiddles", twiddles, 4)
        levels, half = self.twiddles.shape[:2]
        if 2 * half != 2**levels or self.twiddles.shape[2:] != (2, 2):
            raise InputError(f"twiddles: found shape {self.twiddles.shape}, expected (log₂ n, n/2, 2, 2)")
        self.permutation = None if permutation is None else Permutation(permutation).image
        if self.permutation is not None and self.permutation.shape[0] != 2 * half:
            raise InputError(f"permutation: found {self.permutation.shape[0]} entries, expected {2 * half}")
        self.transposed = transposed

    @classmethod
    def dft(cls, n: int) -> Butterfly:
        """The unnormalised DFT: bit reversal, then Cooley-Tukey's factors [[1, w], [1, −w]]."""
        levels = _levels(n)
        k = np.arange(n // 2)
        factors = []
        for level in range(levels):
            w = np.exp(-1j * np.pi * (k // (n // 2 ** (level + 1))) / 2**level)
            factors.append(np.stack([np.stack([0 * w + 1, w], -1), np.stack([0 * w + 1, -w], -1)], -2))
        reversal = np.array([int(format(i, f"0{levels}b")[::-1], 2) for i in range(n)])
        return cls(np.stack(factors), reversal)

    @classmethod
    def hadamard(cls, n: int) -> Butterfly:
        """Sylvester's Hadamard matrix: entries ±1, every block [[1, 1], [1, −1]]."""
        levels = _levels(n)
        return cls(np.broadcast_to(np.array([[1.0, 1.0], [1.0, -1.0]]), (levels, n // 2, 2, 2)).copy())

    @classmethod
    def orthogonal(cls, n: int, key: Key[Array, ""], dtype: Any = None) -> Butterfly:
        """Random rotations: an orthogonal start for training."""
        angle = jax.random.uniform(key, (_levels(n), n // 2), dtype or jnp.zeros(()).dtype, 0, 2 * np.pi)
        c, s = jnp.cos(angle), jnp.sin(angle)
        return cls(jnp.stack([jnp.stack([c, -s], -1), jnp.stack([s, c], -1)], -2))

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        n = 2 * self.twiddles.shape[1]
        return n, n

    @property
    def dtype(self) -> Any:
        """That of the blocks."""
        return self.twiddles.dtype

    @compiled
    def mv(self, vector: Vector) -> Vector:
        """B x, factor by factor."""
        twiddles, vector = common_float(self.twiddles, vector)
        return self._run(twiddles, vector, self.transposed)

    @compiled
    def solve(self, vector: Vector) -> Vector:
        """B⁻¹ b: the inverse blocks in the reverse order; `linalg.solve` adds a certificate."""
        twiddles, vector = common_float(self.twiddles, vector)
        return self._run(_inverted(twiddles).swapaxes(-1, -2), vector, not self.transposed)

    @compiled
    def as_matrix(self) -> Matrix:
        """The dense matrix, by products with unit vectors."""
        eye = jnp.eye(self.shape[0], dtype=self.dtype)
        return jax.vmap(lambda x: self._run(jnp.asarray(self.twiddles), x, self.transposed), 1, 1)(eye)

    def transpose(self) -> Butterfly:
        """Bᵀ: the same blocks, transposed, from the last factor to the first."""
        return Butterfly(self.twiddles, self.permutation, transposed=not self.transposed)

    @compiled
    def slogdet(self) -> tuple[Numbers, Float[Array | np.ndarray, ""]]:
        """(sign, log|det|): from the blocks' determinants and the sign of the permutation."""
        size = _determinants(jnp.asarray(self.twiddles))
        sign = jnp.prod(size / jnp.where(size != 0, jnp.abs(size), 1).astype(size.dtype))
        if self.permutation is not None:
            sign = sign * jnp.asarray(Permutation(self.permutation).sign()).astype(sign.dtype)
        return sign, jnp.sum(jnp.log(jnp.abs(size)))

    def _run(self, twiddles: Array, x: Array, transposed: bool) -> Array:
        # Each factor mixes neighbours and then rotates the bits of the index, so that all of them have one shape
        # (Pease, J. ACM 15, 1968) and one loop runs over them; after log₂ n rotations the order is the old one.
        P = None if self.permutation is None else Permutation(jnp.asarray(self.permutation))

        def forth(x: Array, blocks: Array) -> tuple[Array, None]:
            return jnp.sum(blocks * x.reshape(-1, 1, 2), axis=2).T.reshape(-1), None

        def back(x: Array, blocks: Array) -> tuple[Array, None]:
            return jnp.sum(blocks * x.reshape(2, -1).T[:, :, None], axis=1).reshape(-1), None

        if transposed:
            x = jax.lax.scan(back, x, twiddles, reverse=True)[0]
            return x if P is None else jnp.asarray(P.solve(x))
        return jax.lax.scan(forth, x if P is None else jnp.asarray(P.mv(x)), twiddles)[0]


register(Butterfly, conj=lambda B: Butterfly(B.twiddles.conj(), B.permutation, transposed=B.transposed))


def _determinants(blocks: Array) -> Array:
    return blocks[..., 0, 0] * blocks[..., 1, 1] - blocks[..., 0, 1] * blocks[..., 1, 0]


def _inverted(blocks: Array) -> Array:
    """The inverses by Cramer's rule, each block first brought to size one."""
    top = jnp.max(jnp.abs(blocks), axis=(-1, -2), keepdims=True)
    unit = blocks / jnp.where(top > 0, top, 1).astype(blocks.dtype)
    (a, b), (c, d) = (unit[..., 0, 0], unit[..., 0, 1]), (unit[..., 1, 0], unit[..., 1, 1])
    adjugate = jnp.stack([jnp.stack([d, -b], -1), jnp.stack([-c, a], -1)], -2)
    return adjugate / _determinants(unit)[..., None, None] / top.astype(blocks.dtype)


def _levels(n: int) -> int:
    if n < 2 or n & (n - 1):
        raise InputError(f"n: found {n}, expected a power of two from 2 on")
    return n.bit_length() - 1
