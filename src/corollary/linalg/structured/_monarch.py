"""Monarch matrices M = P L Pᵀ R with block-diagonal L and R, and the projection of a dense matrix onto them.

When: a trainable stand-in for a dense layer in O(n^1.5) that runs as two batched matrix products. Seen as a grid of
blocks the entries M[(a, j), (i, k)] = L_j[a, i] R_i[j, k] have rank one in (a, k) for each (j, i), so that the nearest
Monarch matrix in the Frobenius norm is found block by block with an SVD (Eckart-Young).
Source: Dao et al., ICML 2022 (arXiv:2204.00595), §3 and Theorem 1.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.operator import register
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Solution
from corollary.linalg.structured._base import Matrix, Numbers, Structured, Vector, compiled, numbers
from corollary.linalg.structured._permutation import Permutation


class Monarch(Structured):
    """M x = P L Pᵀ R (Q x): blocks R_i on b stretches of x, then blocks L_j across them.

    Parameters
    ----------
    left
        L, (p, s, b): block L_j mixes the j-th outputs of all b blocks of R.
    right
        R, (b, p, q): block R_i maps the i-th stretch of length q. M is (s p, b q); with p = q = s = b = √n it has
        2 n^1.5 parameters.
    permutation
        Q, as in `Permutation`, applied to x first; ``None``: none. The DFT is a Monarch matrix only with one.

    Examples
    --------
    >>> M = Monarch.dft(2, 3)
    >>> bool(np.allclose(M.mv(np.arange(6.0)), np.fft.fft(np.arange(6.0))))
    True
    """

    left: Numbers
    right: Numbers
    permutation: Int[Array | np.ndarray, " n"] | None

    def __init__(self, left: Any, right: Any, permutation: Any = None):
        self.left, self.right = numbers("left", left, 3), numbers("right", right, 3)
        (p, _, b), (blocks, rows, q) = self.left.shape, self.right.shape
        if (p, b) != (rows, blocks):
            raise InputError(f"right: found {blocks} blocks with {rows} rows, expected {b} with {p} as in left")
        self.permutation = None if permutation is None else Permutation(permutation).image
        if self.permutation is not None and self.permutation.shape[0] != b * q:
            raise InputError(f"permutation: found {self.permutation.shape[0]} entries, expected {b * q}")

    @classmethod
    def dft(cls, b: int, q: int) -> Monarch:
        """The unnormalised DFT of length b q (Cooley-Tukey): q-point transforms, twiddle factors, b-point transforms.

        The permutation brings x_{i + b k} to place (i, k); without it the blocks have rank above one.
        """
        a, i, j, k = np.arange(b), np.arange(b), np.arange(q), np.arange(q)
        right = np.exp(-2j * np.pi * np.outer(j, k) / q)
        left = np.exp(-2j * np.pi * ((np.outer(a, i) / b)[None] + np.multiply.outer(j, i)[:, None, :] / (b * q)))
        image = np.empty(b * q, dtype=int)
        image[(i[:, None] + b * k).reshape(-1)] = np.arange(b * q)
        return cls(left, np.broadcast_to(right, (b, q, q)).copy(), image)

    @property
    def shape(self) -> tuple[int, int]:
        """(s p, b q)."""
        return self.left.shape[0] * self.left.shape[1], self.right.shape[0] * self.right.shape[2]

    @property
    def dtype(self) -> Any:
        """The wider of L and R."""
        return np.promote_types(self.left.dtype, self.right.dtype)

    @compiled
    def mv(self, vector: Vector) -> Vector:
        """Two batched products."""
        left, right, x = common_float(self.left, self.right, vector)
        x = x if self.permutation is None else jnp.asarray(Permutation(jnp.asarray(self.permutation)).mv(x))
        inner = jnp.einsum("ijk,ik->ji", right, x.reshape(right.shape[0], -1))
        return jnp.einsum("jai,ji->aj", left, inner).reshape(-1)

    @compiled
    def as_matrix(self) -> Matrix:
        """The dense matrix."""
        left, right = common_float(self.left, self.right)
        dense = jnp.einsum("jai,ijk->ajik", left, right).reshape(self.shape)
        return dense if self.permutation is None else dense[:, jnp.asarray(self.permutation)]

    @compiled
    def transpose(self) -> MonarchTransposed:
        """Mᵀ = Qᵀ Rᵀ P Lᵀ Pᵀ."""
        return MonarchTransposed(self)

    @compiled
    def solve(self, vector: Vector) -> Vector:
        """M⁻¹ b for square blocks of L and of R (no others make M invertible factor by factor)."""
        left, right, b = common_float(*self._square(), vector)
        inner = jnp.linalg.solve(left, b.reshape(left.shape[1], -1).T[..., None])[..., 0]
        x = jnp.linalg.solve(right, inner.T[..., None]).reshape(-1)
        return x if self.permutation is None else x[jnp.asarray(self.permutation)]

    @compiled
    def slogdet(self) -> tuple[Numbers, Float[Array | np.ndarray, ""]]:
        """(sign, log|det|): P and Pᵀ cancel, so the blocks and Q are all there is."""
        (s, a), (t, b) = (jnp.linalg.slogdet(f) for f in common_float(*self._square()))
        sign = jnp.prod(s) * jnp.prod(t)
        if self.permutation is not None:
            sign = sign * jnp.asarray(Permutation(self.permutation).sign()).astype(sign.dtype)
        return sign, jnp.sum(a) + jnp.sum(b)

    def _square(self) -> tuple[Numbers, Numbers]:
        if self.left.shape[1] != self.left.shape[2] or self.right.shape[1] != self.right.shape[2]:
            raise InputError(f"M: found blocks {self.left.shape} and {self.right.shape}, expected square blocks")
        return self.left, self.right


class MonarchTransposed(Structured):
    """The transpose of a Monarch matrix."""

    monarch: Monarch

    @property
    def shape(self) -> tuple[int, int]:
        """(b q, s p)."""
        m, n = self.monarch.shape
        return n, m

    @property
    def dtype(self) -> Any:
        """That of M."""
        return self.monarch.dtype

    @compiled
    def mv(self, vector: Vector) -> Vector:
        """Mᵀ y."""
        M = self.monarch
        left, right, y = common_float(M.left, M.right, vector)
        inner = jnp.einsum("jai,aj->ij", left, y.reshape(left.shape[1], -1))
        x = jnp.einsum("ijk,ij->ik", right, inner).reshape(-1)
        return x if M.permutation is None else x[jnp.asarray(M.permutation)]

    @compiled
    def as_matrix(self) -> Matrix:
        """The dense matrix."""
        return jnp.asarray(self.monarch.as_matrix()).T

    def transpose(self) -> Monarch:
        """M."""
        return self.monarch

    @compiled
    def solve(self, vector: Vector) -> Vector:
        """M⁻ᵀ b, as `Monarch.solve`."""
        M = self.monarch
        left, right, b = common_float(*M._square(), vector)
        b = b if M.permutation is None else jnp.asarray(Permutation(jnp.asarray(M.permutation)).mv(b))
        inner = jnp.linalg.solve(right.swapaxes(1, 2), b.reshape(right.shape[0], -1)[..., None])[..., 0]
        return jnp.linalg.solve(left.swapaxes(1, 2), inner.T[..., None])[..., 0].T.reshape(-1)


register(Monarch, conj=lambda M: Monarch(M.left.conj(), M.right.conj(), M.permutation))
register(
    MonarchTransposed, conj=lambda T: Monarch(T.monarch.left.conj(), T.monarch.right.conj(), T.monarch.permutation).T
)


@follows_input
def monarch_projection(A: Any, blocks: int, rows: int) -> Solution:
    """The Monarch matrix nearest to A in the Frobenius norm; cost O(m n min(m/p, n/b)).

    Parameters
    ----------
    A
        (m, n), real or complex.
    blocks
        b, the blocks of R, a divisor of n.
    rows
        p, the rows of each of them and the blocks of L, a divisor of m. √n for both suits a square matrix.

    Returns
    -------
    Solution
        ``value``: a `Monarch`. ``stats["error"]``: ‖A − M‖_F.

    Raises
    ------
    InputError
        Where `blocks` does not divide n or `rows` does not divide m.

    Notes
    -----
    Certificate ``distance`` (exact): ‖A − M‖_F is at most the root of the sum of all squared singular values but the
    first of each of the b p blocks, which no Monarch matrix can beat (Eckart-Young).
    Source: Dao et al. (2022), Theorem 1.

    Examples
    --------
    >>> M = monarch_projection(np.ones((4, 4)), 2, 2)
    >>> bool(np.allclose(M.value.as_matrix(), 1)), bool(M.holds)
    (True, True)
    """
    A = numbers("A", A, 2)
    m, n = A.shape
    if blocks < 1 or n % blocks or rows < 1 or m % rows:
        raise InputError(f"blocks, rows: found {blocks} and {rows}, expected divisors of {n} and of {m}")
    return _nearest(jnp.asarray(A), blocks, rows)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _nearest(A: Array, blocks: int, rows: int) -> Solution:
    m, n = A.shape
    grid = A.reshape(m // rows, rows, blocks, n // blocks).transpose(1, 2, 0, 3)  # (j, i, a, k)
    scale = jnp.max(jnp.abs(grid))
    U, s, V = jnp.linalg.svd(grid / jnp.where(scale > 0, scale, 1).astype(A.dtype), full_matrices=False)
    root = jnp.sqrt(s[..., 0] * scale).astype(A.dtype)[..., None]
    M = Monarch((U[..., 0] * root).transpose(0, 2, 1), (V[..., 0, :] * root).transpose(1, 0, 2))
    error = jnp.linalg.norm((A - jnp.asarray(M.as_matrix())) / jnp.where(scale > 0, scale, 1).astype(A.dtype)) * scale
    least = jnp.sqrt(jnp.sum(s[..., 1:] ** 2)) * scale
    certificate = Certificate(
        "‖A − M‖_F is the least that any Monarch matrix of these block sizes reaches",
        error,
        least + rounding(jnp.sqrt(jnp.sum(s**2)) * scale, 8 * (m + n) ** 0.5),
        "exact",
        "Dao et al. (2022), Theorem 1; Eckart & Young (1936) block by block",
    )
    return Solution(M, {"distance": certificate}, stats={"error": error, "least": least})
