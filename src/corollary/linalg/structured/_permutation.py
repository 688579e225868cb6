"""Permutations in all their forms: two-line, cycles, matrix; sign, inverse, composition, action on rows and columns.

Source: Golub & Van Loan, Matrix Computations, 4th ed., §1.2.8. Cost: O(n), the sign O(n log n).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int

from corollary.core.errors import InputError
from corollary.core.operator import register
from corollary.linalg.structured._base import Matrix, Structured, Vector, compiled


class Permutation(Structured):
    """The permutation σ as a matrix: P e_j = e_{σ(j)}, so (P x)_{σ(j)} = x_j and P A permutes rows, A Pᵀ columns.

    With this convention ``P @ Q`` is the matrix of σ∘τ, τ first. Orthogonal: the inverse is the transpose.

    Parameters
    ----------
    image
        σ(0), …, σ(n−1): the second row of the two-line notation over the first row 0, …, n−1.
    dtype
        Precision of the matrix as an operator; ``None``: float64 (float32 for JAX data with 64-bit types off).

    Examples
    --------
    >>> P = Permutation.from_cycles([(0, 1, 2)], 4)
    >>> P.mv(np.array([10.0, 20.0, 30.0, 40.0])).tolist()
    [30.0, 10.0, 20.0, 40.0]
    >>> P.cycles(), int(P.sign()), P.two_line()
    ([(0, 1, 2)], 1, [[0, 1, 2, 3], [1, 2, 0, 3]])
    """

    image: Int[Array | np.ndarray, " n"]
    precision: Any = eqx.field(static=True)

    def __init__(self, image: Any, dtype: Any = None):
        self.image = image if isinstance(image, jax.Array) else np.asarray(image)
        if self.image.ndim != 1 or self.image.size == 0 or not jnp.issubdtype(self.image.dtype, jnp.integer):
            raise InputError(
                f"image: found {self.image.dtype} of shape {self.image.shape}, expected a vector of integers"
            )
        if not isinstance(image, Tracer) and not np.array_equal(np.sort(self.image), np.arange(self.image.size)):
            raise InputError(f"image: found {_brief(self.image)}, expected each of 0 to {self.image.size - 1} once")
        self.precision = None if dtype is None else jnp.dtype(dtype)

    @classmethod
    def from_two_line(cls, top: Any, bottom: Any, dtype: Any = None) -> Permutation:
        """From both rows, top[k] ↦ bottom[k], the top in any order: without it the bottom row says nothing."""
        first, second = cls(np.asarray(top)), cls(np.asarray(bottom))
        if first.shape != second.shape:
            raise InputError(f"bottom: found {second.shape[0]} entries, expected {first.shape[0]} as in top")
        return cls(np.asarray(second.image)[np.argsort(np.asarray(first.image))], dtype)

    @classmethod
    def from_cycles(cls, cycles: Iterable[Sequence[int]], n: int, dtype: Any = None) -> Permutation:
        """From disjoint cycles, (a, b, c): a ↦ b ↦ c ↦ a; what is not named stays."""
        image, seen = np.arange(n), [int(i) for cycle in cycles for i in cycle]
        if len(set(seen)) < len(seen) or any(not 0 <= i < n for i in seen):
            raise InputError(f"cycles: found {_brief(seen)}, expected disjoint cycles of 0 to {n - 1}")
        for cycle in cycles:
            image[list(cycle)] = np.roll(np.asarray(cycle, dtype=int), -1)
        return cls(image, dtype)

    @classmethod
    def from_matrix(cls, matrix: Any, dtype: Any = None) -> Permutation:
        """From a 0-1 matrix with one 1 in each row and column."""
        M = np.asarray(matrix)
        ones = M.ndim == 2 and M.shape[0] == M.shape[1] and np.isin(M, (0, 1)).all()
        if not (ones and (M.sum(0) == 1).all() and (M.sum(1) == 1).all()):
            raise InputError(f"matrix: found shape {M.shape}, expected one 1 in each row and column and 0 elsewhere")
        return cls(M.argmax(axis=0), dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        return self.image.shape[0], self.image.shape[0]

    @property
    def dtype(self) -> Any:
        """Real."""
        return self.precision or (jnp.zeros(()).dtype if isinstance(self.image, jax.Array) else np.dtype(np.float64))

    @compiled
    def mv(self, vector: Vector) -> Vector:
        """P x: entry j goes to place σ(j)."""
        vector = jnp.asarray(vector)
        return jnp.zeros_like(vector).at[jnp.asarray(self.image)].set(vector, unique_indices=True)

    @compiled
    def as_matrix(self) -> Matrix:
        """The dense 0-1 matrix."""
        return jnp.zeros(self.shape, self.dtype).at[jnp.asarray(self.image), np.arange(self.shape[0])].set(1)

    @compiled
    def transpose(self) -> Permutation:
        """Pᵀ = P⁻¹."""
        image = jnp.asarray(self.image)
        places = jnp.arange(image.shape[0], dtype=image.dtype)
        return Permutation(jnp.zeros_like(image).at[image].set(places), self.dtype)

    def inverse(self) -> Permutation:
        """σ⁻¹."""
        return self.transpose()

    @compiled
    def solve(self, vector: Vector) -> Vector:
        """P⁻¹ b = Pᵀ b: entry σ(j) goes to place j."""
        return jnp.asarray(vector)[jnp.asarray(self.image)]

    @compiled
    def sign(self) -> Int[Array | np.ndarray, ""]:
        """+1 for an even number of transpositions, −1 for an odd one: (−1)^(n − cycles), the determinant."""
        label, jump = jnp.arange(self.shape[0]), jnp.asarray(self.image)
        for _ in range(max(self.shape[0] - 1, 1).bit_length()):  # the least label of 2, 4, 8, … steps ahead
            label, jump = jnp.minimum(label, label[jump]), jump[jump]
        cycles = jnp.sum(label == jnp.arange(self.shape[0]))
        return 1 - 2 * ((self.shape[0] - cycles) % 2)

    @compiled
    def slogdet(self) -> tuple[Any, Any]:
        """(sign, 0)."""
        return self.sign().astype(self.dtype), jnp.zeros((), self.dtype)

    def cycles(self) -> list[tuple[int, ...]]:
        """The cycles of length two or more, each from its least element, in order of these (host only)."""
        image, seen, found = np.asarray(self.image), set(), []
        for start in range(len(image)):
            cycle, i = [], start
            while i not in seen:
                seen.add(i)
                cycle.append(i)
                i = int(image[i])
            if len(cycle) > 1:
                found.append(tuple(cycle))
        return found

    def two_line(self) -> list[list[int]]:
        """Both rows of the two-line notation (host only)."""
        return [list(range(self.shape[0])), [int(i) for i in self.image]]

    def norm_below(self) -> Array:
        """‖P‖₂ = 1."""
        return jnp.ones((), self.dtype)

    def __matmul__(self, other: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
        """σ∘τ, τ first: again a permutation where both are."""
        if isinstance(other, Permutation) and other.shape == self.shape:
            return Permutation(self.image[other.image], self.precision)
        return super().__matmul__(other)


register(Permutation)


def _brief(values: Any) -> str:
    text = str([int(v) for v in values[:8]])
    return text if len(values) <= 8 else text[:-1] + ", …]"
