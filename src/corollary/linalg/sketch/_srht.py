"""Fast Walsh-Hadamard transform, and the subsampled randomized Hadamard (or cosine) transform.

The sketch with Gaussian quality at O(nnz log) cost for dense data: random signs D, an orthonormal transform H that
spreads every vector evenly, and a random choice R of rows, S = √(N/rows) R H D. The transform goes by factors of 16
(each a small product with a Hadamard matrix, which runs at the speed of the BLAS), and only the rows that are kept go
through the last factor: a matrix is read once, in chunks of 2^b rows, so the memory is that of a chunk and of the
result. Cost: O(log chunk + rows/chunk) additions an entry.

Source: Ailon & Chazelle, SIAM J. Comput. 39 (2009); Tropp, Adv. Adapt. Data Anal. 3 (2011); Fino & Algazi, IEEE Trans.
Comput. C-25 (1976).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
import scipy.linalg
import scipy.sparse
from jaxtyping import Array, Float, Inexact, Int, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.operator import register
from corollary.core.precision import as_float, follows_input
from corollary.linalg.sketch._base import AbstractSketch, sizes

RADIX = 16  # order of the small Hadamard matrices: the fastest product on a CPU by measurement
CHUNK = 1024  # rows that are transformed at a time, at least
IN_CACHE = 2**18  # entries that are transformed at a time on the host: they stay in cache from factor to factor


@follows_input
def walsh_hadamard(x: Any, *, orthonormal: bool = False) -> Float[Array, "n ..."]:
    """H x along the first axis, for the Hadamard matrix H of Sylvester's (natural) order, H_ij = (−1)^popcount(i & j).

    Use it for exact ±1 transforms, for mixing before sampling, for designs of experiments. Cost: O(n log n) an axis
    vector; linear, so `jit`, `vmap` and `grad` work.

    Parameters
    ----------
    x
        (n,) or (n, ...), n a power of two.
    orthonormal
        H/√n, which is its own inverse, instead of H.

    Returns
    -------
    The transform, of the same shape.

    Raises
    ------
    InputError
        Where n is no power of two.

    Notes
    -----
    H is symmetric with H² = n I. Source: Fino & Algazi (1976).

    Examples
    --------
    >>> import numpy as np
    >>> walsh_hadamard(np.array([1.0, 2.0, 3.0, 4.0])).tolist()
    [10.0, -2.0, -4.0, 0.0]
    """
    x = as_float(x)
    if x.ndim == 0 or x.shape[0] & (x.shape[0] - 1) or x.size == 0:
        raise InputError(f"x: found an array of shape {x.shape}, expected a first axis whose length is a power of two")
    result = _transform(x.reshape(x.shape[0], -1), jnp).reshape(x.shape)
    return result / jnp.asarray(math.sqrt(x.shape[0]), x.dtype) if orthonormal else result


class SRHT(AbstractSketch):
    """S = √(N/rows) R H D: random signs, an orthonormal transform, and `rows` of its N rows without replacement.

    Use it for dense data where a Gaussian sketch costs too much, or where rows of A must be mixed evenly.

    Parameters
    ----------
    rows, columns
        Shape of S: `rows` is the sketch size, `columns` the length of what is sketched.
    transform
        ``"hadamard"``: N is `columns` rounded up to a power of two (the data are padded by zeros, nothing is copied);
        ``"dct"``: the cosine transform, N = `columns` whatever its factors, through the fast Fourier transform.
    key
        `jax.random.key`; it may be traced.
    dtype
        Precision of `as_matrix` and `mv`; products follow the data's own.

    Raises
    ------
    InputError
        Where `rows` exceeds N.

    Notes
    -----
    E SᵀS = I; with rows = N, S is an isometry. Theorem: `embedding_dimension` evaluates Tropp (2011), Lemmas 3.3-3.4.

    Examples
    --------
    >>> import jax, numpy as np
    >>> S = SRHT(4, 6, key=jax.random.key(0))
    >>> np.round(abs(S.as_matrix())[0], 3).tolist()
    [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    """

    signs: Int[Array, "..."]  # (columns,)
    sample: Int[Array, "..."]  # (rows,)
    rows: int = eqx.field(static=True)
    columns: int = eqx.field(static=True)
    transform: str = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, rows: int, columns: int, *, transform: str = "hadamard", key: Key[Array, ""], dtype: Any = None):
        self.rows, self.columns, self.dtype = sizes(rows, columns, dtype)
        self.transform = validation.one_of("hadamard", "dct")("transform", transform)
        if rows > self.length:
            raise InputError(f"rows: found {rows}, expected at most the length of the transform, {self.length}")
        self.signs, self.sample = _draw(self.rows, self.columns, self.length, key)

    @property
    def length(self) -> int:
        """N, the order of the transform."""
        return 1 << (self.columns - 1).bit_length() if self.transform == "hadamard" else self.columns

    @jax.jit
    def mm(self, block: Inexact[Array, "n k"]) -> Inexact[Array, "m k"]:
        """S V."""
        signed = self.signs[:, None].astype(block.dtype) * block
        if self.transform == "dct":
            mixed = jax.scipy.fft.dct(signed, axis=0, norm="ortho")[self.sample]
            return mixed * jnp.asarray(math.sqrt(self.length / self.rows), block.dtype)
        chunk, count = self._chunks()
        padded = jnp.concatenate([signed, jnp.zeros((count * chunk - self.columns, block.shape[1]), block.dtype)])
        low, high = self.sample % chunk, self.sample // chunk

        def add(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
            index, rows = part
            return total + _parity(high & index, jnp, rows.dtype)[:, None] * _transform(rows, jnp)[low], None

        parts = (jnp.arange(count, dtype=jnp.int32), padded.reshape(count, chunk, -1))
        start = jnp.zeros((self.rows, block.shape[1]), block.dtype)
        total = add(start, (parts[0][0], parts[1][0]))[0] if count == 1 else jax.lax.scan(add, start, parts)[0]
        return total * jnp.asarray(1 / math.sqrt(self.rows), block.dtype)

    @jax.jit
    def rmm(self, block: Inexact[Array, "m k"]) -> Inexact[Array, "n k"]:
        """Sᵀ U: the rows are put back in their places, transformed back, and signed."""
        full = jnp.zeros((self.length, block.shape[1]), block.dtype).at[self.sample].set(block)
        if self.transform == "dct":
            mixed = jax.scipy.fft.idct(full, axis=0, norm="ortho") * math.sqrt(self.length / self.rows)
        else:
            mixed = _transform(full, jnp)[: self.columns] / jnp.asarray(math.sqrt(self.rows), block.dtype)
        return self.signs[:, None].astype(block.dtype) * mixed.astype(block.dtype)

    def on_host(self, A: Any) -> np.ndarray:
        """S A in one pass over A, chunk by chunk; the cosine transform by blocks of columns."""
        signs, sample = np.asarray(self.signs), np.asarray(self.sample)
        if self.transform == "dct":
            result = np.empty((self.rows, A.shape[1]), A.dtype)
            width = max(1, 4 * IN_CACHE // self.columns)
            for j in range(0, A.shape[1], width):
                block = np.ascontiguousarray(_dense(A[:, j : j + width]).T) * signs.astype(A.dtype)
                mixed = np.asarray(scipy.fft.dct(block, axis=1, norm="ortho", overwrite_x=True))
                result[:, j : j + width] = mixed[:, sample].T
            return result * A.dtype.type(math.sqrt(self.length / self.rows))
        chunk, count = self._chunks()
        low, high = sample % chunk, sample // chunk
        width = max(1, IN_CACHE // chunk)
        total = np.zeros((self.rows, A.shape[1]), A.dtype)
        for index in range(count):
            rows = _dense(A[index * chunk : (index + 1) * chunk])
            sign = signs[index * chunk : (index + 1) * chunk, None].astype(A.dtype)
            parity = _parity(high & index, np, A.dtype)[:, None]
            for j in range(0, A.shape[1], width):
                signed = sign * rows[:, j : j + width]
                if len(signed) < chunk:
                    signed = np.pad(signed, ((0, chunk - len(signed)), (0, 0)))
                total[:, j : j + width] += parity * _transform(signed, np)[low]
        return total * A.dtype.type(1 / math.sqrt(self.rows))

    def _chunks(self) -> tuple[int, int]:
        """Rows of a chunk, a power of two not far below the sketch size, and the chunks that hold data."""
        chunk = min(self.length, max(CHUNK, 1 << (self.rows - 1).bit_length()))
        return chunk, -(-self.columns // chunk)


register(SRHT)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _draw(rows: int, columns: int, length: int, key: Key[Array, ""]) -> tuple[Int[Array, " n"], Int[Array, " m"]]:
    """Signs, and rows of the transform without replacement; the same whether or not JAX allows float64."""
    signs, sample = jax.random.split(key)
    bits = jax.random.bits(signs, (columns,), jnp.uint32) & jnp.uint32(1)
    return 2 * bits.astype(jnp.int8) - 1, jax.random.permutation(sample, jnp.arange(length, dtype=jnp.int32))[:rows]


def _transform(x: Any, xp: Any) -> Any:
    """H x for a power of two of rows: H is a Kronecker product of small Hadamard matrices, one product for each."""
    n, k = x.shape
    left = 1
    while left < n:
        radix = min(RADIX, n // left)
        small = xp.asarray(scipy.linalg.hadamard(radix), dtype=x.dtype)
        x = xp.matmul(small, x.reshape(left, radix, n // (left * radix) * k))
        left *= radix
    return x.reshape(n, k)


def _parity(x: Any, xp: Any, dtype: Any) -> Any:
    """(−1)^popcount(x)."""
    count = xp.bitwise_count(x) if xp is np else jax.lax.population_count(x)
    return (1 - 2 * (count & 1).astype(xp.int32)).astype(dtype)


def _dense(rows: Any) -> np.ndarray:
    """A chunk of a sparse matrix, unpacked: a transform mixes all rows, so nothing would stay sparse."""
    return rows.toarray() if scipy.sparse.issparse(rows) else rows
