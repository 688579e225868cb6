"""Kronecker and Khatri-Rao products of any number of factors, multiplied and solved without being formed.

When: separable models on grids, Gaussian processes on product grids, vec-form matrix equations, CP decompositions. For
A₁ ⊗ … ⊗ A_k with n_i × n_i factors and N = n₁⋯n_k: product O(N Σ n_i), where the dense one is O(N²); solve O(Σ n_i³ +
N Σ n_i). Source: Van Loan, J. Comput. Appl. Math. 123 (2000) 85-100; Golub & Van Loan, 4th ed., §1.3.6 and §12.3.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from corollary.core import operator as operators
from corollary.core.errors import InputError
from corollary.core.operator import as_operator, matmat, register
from corollary.core.precision import common_float
from corollary.linalg.structured._base import Matrix, Numbers, Structured, Vector, compiled, norm_below, numbers, square
from corollary.linalg.structured._inverse import columns, inverse


class Kronecker(Structured):
    """A₁ ⊗ A₂ ⊗ … ⊗ A_k as an operator.

    On a vector that lists an array X of shape (n₁, …, n_k) row by row, A_i acts along axis i; for two factors
    (A ⊗ G) vec(X) = vec(G X Aᵀ) with vec listing columns.

    Parameters
    ----------
    factors
        Matrices (arrays, sparse) or operators, Toeplitz and others of this room included. A factor of a different
        precision than the vector is brought to the wider of the two where it is an array.

    Notes
    -----
    (A ⊗ G)⁻¹ = A⁻¹ ⊗ G⁻¹ and eigenvalues, singular values and determinants multiply: `solve`, `eigenvalues`,
    `slogdet` cost no more than those of the factors.

    Examples
    --------
    >>> K = Kronecker(np.array([[1.0, 2.0]]), np.array([[1.0], [3.0]]))
    >>> K.as_matrix().tolist()
    [[1.0, 2.0], [3.0, 6.0]]
    >>> K.mv(np.array([1.0, 1.0])).tolist()
    [3.0, 9.0]
    """

    factors: tuple[Any, ...]

    def __init__(self, *factors: Any):
        if not factors:
            raise InputError("factors: found none, expected at least one matrix")
        self.factors = tuple(_factor(f"factors[{i}]", factor) for i, factor in enumerate(factors))

    @property
    def shape(self) -> tuple[int, int]:
        """The products of the factors' rows and columns."""
        sizes = [_shape(f) for f in self.factors]
        return math.prod(m for m, _ in sizes), math.prod(n for _, n in sizes)

    @property
    def dtype(self) -> Any:
        """The widest of the factors'."""
        return functools.reduce(np.promote_types, (_dtype(f) for f in self.factors))

    @compiled
    def mv(self, vector: Vector) -> Vector:
        """Each factor along its own axis."""
        return self._along(jnp.asarray(vector), [functools.partial(_times, f) for f in self.factors])

    @compiled
    def as_matrix(self) -> Matrix:
        """The dense matrix; ask for it only where it fits."""
        return functools.reduce(jnp.kron, common_float(*(as_operator(f).as_matrix() for f in self.factors)))

    @compiled
    def transpose(self) -> Kronecker:
        """A₁ᵀ ⊗ … ⊗ A_kᵀ."""
        flip = lambda f: f.transpose() if _abstract(f) else jnp.asarray(f).T  # noqa: E731
        return Kronecker(*(flip(f) for f in self.factors))

    @compiled
    def solve(self, vector: Vector) -> Vector:
        """(A₁⁻¹ ⊗ … ⊗ A_k⁻¹) b; `linalg.solve` adds a certificate."""
        vector = jnp.asarray(vector)
        for i, f in enumerate(self.factors):
            square(f"factors[{i}]", as_operator(f))
        return self._along(vector, [_solver(f, vector) for f in self.factors])

    @compiled
    def eigenvalues(self) -> Numbers:
        """All products λ_i μ_j …, in the order of the Kronecker product of the factors' spectra, which must be square.

        Real where every factor is known to be symmetric (tagged); else complex, and of factors that LAPACK takes (CPU).
        """
        return functools.reduce(jnp.kron, common_float(*(_eigenvalues(as_operator(f)) for f in self.factors)))

    @compiled
    def slogdet(self) -> tuple[Numbers, Float[Array | np.ndarray, ""]]:
        """(sign, log|det|): Π det(A_i)^(N/n_i)."""
        sign: Any = 1
        total: Any = 0
        for i, f in enumerate(self.factors):
            power = self.shape[0] // square(f"factors[{i}]", as_operator(f))
            s, logarithm = f.slogdet() if hasattr(f, "slogdet") else jnp.linalg.slogdet(as_operator(f).as_matrix())
            sign, total = sign * s**power, total + power * logarithm
        return sign, total

    def norm_below(self) -> Float[Array, ""]:
        """A lower bound of ‖A₁‖₂⋯‖A_k‖₂, which is the norm."""
        return functools.reduce(jnp.multiply, common_float(*(norm_below(as_operator(f)) for f in self.factors)))

    def _along(self, vector: Array, maps: list[Any]) -> Array:
        """Apply a map to each axis in turn; rotating the axes leaves the first one ready for the next factor."""
        block = vector
        for f, along in zip(self.factors, maps, strict=True):
            block = along(block.reshape(_shape(f)[1], -1)).T
        return block.reshape(-1)


register(
    Kronecker,
    is_symmetric=lambda K: all(_abstract(f) and lx.is_symmetric(f) for f in K.factors),
    is_positive_semidefinite=lambda K: all(_abstract(f) and lx.is_positive_semidefinite(f) for f in K.factors),
    is_diagonal=lambda K: all(_abstract(f) and lx.is_diagonal(f) for f in K.factors),
    is_lower_triangular=lambda K: all(_abstract(f) and lx.is_lower_triangular(f) for f in K.factors),
    is_upper_triangular=lambda K: all(_abstract(f) and lx.is_upper_triangular(f) for f in K.factors),
    conj=lambda K: Kronecker(*(lx.conj(f) if _abstract(f) else f.conj() for f in K.factors)),
)


class KhatriRao(Structured):
    """A₁ ⊙ … ⊙ A_k, the column-wise Kronecker product: column j is a₁ⱼ ⊗ … ⊗ a_kⱼ.

    Parameters
    ----------
    factors
        Matrices (m_i, n) with the same number of columns.
    transposed
        Stand for the transpose.

    Notes
    -----
    A product costs 2 M n flops and O(M n / m_k) memory for M = m₁⋯m_k rows. `gram` uses (A ⊙ B)ᴴ(A ⊙ B) =
    AᴴA ∘ BᴴB, O(n² Σ m_i).

    Examples
    --------
    >>> KhatriRao(np.array([[1.0, 2.0]]), np.array([[1.0, 1.0], [0.0, 3.0]])).as_matrix().tolist()
    [[1.0, 2.0], [0.0, 6.0]]
    """

    factors: tuple[Numbers, ...]
    transposed: bool = eqx.field(static=True)

    def __init__(self, *factors: Any, transposed: bool = False):
        if not factors:
            raise InputError("factors: found none, expected at least one matrix")
        self.factors = tuple(numbers(f"factors[{i}]", factor, 2) for i, factor in enumerate(factors))
        self.transposed = transposed
        widths = [f.shape[1] for f in self.factors]
        if len(set(widths)) > 1:
            raise InputError(f"factors: found {widths} columns, expected the same number in each")

    @property
    def shape(self) -> tuple[int, int]:
        """(m₁⋯m_k, n), or its reverse."""
        m, n = math.prod(f.shape[0] for f in self.factors), self.factors[0].shape[1]
        return (n, m) if self.transposed else (m, n)

    @property
    def dtype(self) -> Any:
        """The widest of the factors'."""
        return functools.reduce(np.promote_types, (f.dtype for f in self.factors))

    @compiled
    def mv(self, vector: Vector) -> Vector:
        """Σ_j x_j a₁ⱼ ⊗ … ⊗ a_kⱼ, or the inner products with these columns."""
        *first, last, vector = common_float(*self.factors, vector)
        if not self.transposed:
            return (_product(first, vector[None, :]) @ last.T).reshape(-1)
        block = vector.reshape(-1, last.shape[0]) @ last
        for f in reversed(first):
            block = jnp.sum(block.reshape(-1, f.shape[0], f.shape[1]) * f, axis=1)
        return block[0]

    @compiled
    def as_matrix(self) -> Matrix:
        """The dense matrix."""
        factors = common_float(*self.factors)
        dense = _product(list(factors), jnp.ones((1, factors[0].shape[1]), factors[0].dtype))
        return dense.T if self.transposed else dense

    def transpose(self) -> KhatriRao:
        """The transpose."""
        return KhatriRao(*self.factors, transposed=not self.transposed)

    @compiled
    def gram(self) -> Matrix:
        """(A₁ ⊙ … ⊙ A_k)ᴴ(A₁ ⊙ … ⊙ A_k), the entry-wise product of the factors' Gram matrices."""
        return functools.reduce(jnp.multiply, (f.conj().T @ f for f in common_float(*self.factors)))


register(KhatriRao, conj=lambda K: KhatriRao(*(f.conj() for f in K.factors), transposed=K.transposed))


def _product(factors: list[Array], start: Array) -> Array:
    for f in factors:
        start = (start[:, None, :] * f).reshape(-1, f.shape[1])
    return start


def _factor(name: str, factor: Any) -> Any:
    return (
        factor
        if _abstract(factor)
        else numbers(name, factor, 2)
        if hasattr(factor, "__array__")
        else as_operator(factor)
    )


def _abstract(factor: Any) -> bool:
    return isinstance(factor, lx.AbstractLinearOperator)


def _shape(factor: Any) -> tuple[int, int]:
    return operators.shape(factor) if _abstract(factor) else factor.shape


def _dtype(factor: Any) -> Any:
    return operators.dtype(factor) if _abstract(factor) else factor.dtype


def _times(factor: Any, block: Array) -> Array:
    if _abstract(factor):
        return matmat(factor, block)
    factor, block = common_float(factor, block)
    return factor @ block


def _solver(factor: Any, vector: Array) -> Any:
    if not _abstract(factor):
        factor = common_float(factor, vector)[0]
    solve = columns(inverse(as_operator(factor)))
    return lambda block: solve(block.astype(np.promote_types(block.dtype, _dtype(factor))))


def _eigenvalues(factor: lx.AbstractLinearOperator) -> Array:
    square("factors", factor)
    if (known := getattr(factor, "eigenvalues", None)) is not None:
        return jnp.asarray(known())
    matrix = factor.as_matrix()
    symmetric = lx.is_symmetric(factor) or lx.is_positive_semidefinite(factor)
    return jnp.linalg.eigvalsh(matrix) if symmetric else jnp.linalg.eigvals(matrix)
