"""Low-rank updates A + U C Vᵀ: products, solves (Woodbury), determinants, and the inverse without one row and column.

When: A is easy to solve with (diagonal, Toeplitz, Kronecker, an inverse at hand) and the update has few columns k. Cost
beside k + 1 solves with A: O(n k² + k³); only a k × k system is solved. The identity is not backward stable: where A is
much worse conditioned than A + U C Vᵀ it loses digits, so the condition of the capacitance matrix is watched and the
residual is measured.

Source: Hager, SIAM Review 31 (1989) 221-239; Yip, SIAM J. Sci. Stat. Comput. 7 (1986) 507-513 (stability).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from corollary.core import operator as operators
from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.operator import as_operator, register
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Solution, Status
from corollary.linalg.structured._base import Matrix, Numbers, Structured, Vector, compiled, numbers, square
from corollary.linalg.structured._inverse import columns, inverse


class LowRankUpdate(Structured):
    """A + U C Vᵀ as an operator, by default A + U Vᵀ.

    Parameters
    ----------
    base
        A, (m, n): array, sparse matrix or operator.
    U, V
        (m, k) and (n, k). A rank-one update may be given as two vectors. ``V=None``: V = U.
    C
        (k, k), any, singular too; ``None``: the identity.

    Examples
    --------
    >>> A = LowRankUpdate(lx.DiagonalLinearOperator(jnp.ones(2)), jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0]))
    >>> A.as_matrix().tolist(), A.mv(jnp.array([1.0, 2.0])).tolist()
    ([[2.0, 1.0], [0.0, 1.0]], [4.0, 2.0])
    """

    base: Any
    U: Numbers
    V: Numbers
    C: Numbers | None

    def __init__(self, base: Any, U: Any, V: Any = None, C: Any = None):
        array = hasattr(base, "__array__") and not isinstance(base, lx.AbstractLinearOperator)
        self.base = numbers("base", base, 2) if array else as_operator(base)
        self.U, self.V, self.C = _factors(U, V, C)
        if self.shape != (self.U.shape[0], self.V.shape[0]):
            expected = f"({self.shape[0]}, k) and ({self.shape[1]}, k)"
            raise InputError(f"U, V: found shapes {self.U.shape} and {self.V.shape}, expected {expected}")

    @property
    def shape(self) -> tuple[int, int]:
        """That of A."""
        return operators.shape(self.base) if isinstance(self.base, lx.AbstractLinearOperator) else self.base.shape

    @property
    def dtype(self) -> Any:
        """The widest of all parts."""
        base = operators.dtype(self.base) if isinstance(self.base, lx.AbstractLinearOperator) else self.base.dtype
        parts = [self.U.dtype, self.V.dtype] + ([] if self.C is None else [self.C.dtype])
        return functools.reduce(np.promote_types, parts, base)

    @compiled
    def mv(self, vector: Vector) -> Vector:
        """A x + U (C (Vᵀ x))."""
        U, V, C, x = self._parts(vector)
        return self._operator().mv(x) + U @ (C @ (V.T @ x))

    @compiled
    def as_matrix(self) -> Matrix:
        """The dense matrix."""
        U, V, C, base = self._parts(self._operator().as_matrix())
        return base + U @ C @ V.T

    @compiled
    def transpose(self) -> LowRankUpdate:
        """Aᵀ + V Cᵀ Uᵀ."""
        base = self.base.transpose() if isinstance(self.base, lx.AbstractLinearOperator) else jnp.asarray(self.base).T
        return LowRankUpdate(base, self.V, self.U, None if self.C is None else jnp.asarray(self.C).T)

    @compiled
    def solve(self, vector: Vector) -> Vector:
        """(A + U C Vᵀ)⁻¹ b by Woodbury's identity; `linalg.solve` refines it and adds a certificate."""
        U, V, C, b = self._parts(vector)
        both = columns(inverse(self._operator()))(jnp.concatenate([U, b[:, None]], axis=1))
        return _identity(both, U, V, C)[0][:, 0]

    @compiled
    def slogdet(self) -> tuple[Numbers, Float[Array | np.ndarray, ""]]:
        """(sign, log|det|) by the determinant lemma: det(A + U C Vᵀ) = det(A) det(I + C Vᵀ A⁻¹ U)."""
        base = self._operator()
        square("A", base)
        U, V, C, _ = self._parts(self.U)
        solved = columns(inverse(base))(U)
        own = getattr(base, "slogdet", None)
        known = jnp.linalg.slogdet(base.as_matrix()) if own is None else own()
        s, size = jnp.linalg.slogdet(jnp.eye(C.shape[0], dtype=C.dtype) + C @ (V.T @ solved))
        return known[0] * s, known[1] + size

    def _operator(self) -> lx.AbstractLinearOperator:
        """A, in the precision of the whole where it is an array."""
        if isinstance(self.base, lx.AbstractLinearOperator):
            return self.base
        return lx.MatrixLinearOperator(jnp.asarray(self.base).astype(self.dtype))

    def _parts(self, other: Any) -> tuple[Array, Array, Array, Array]:
        U, V, other = common_float(self.U, self.V, other)
        C = jnp.eye(U.shape[1], dtype=U.dtype) if self.C is None else jnp.asarray(self.C)
        wide = jnp.zeros((), self.dtype)
        return common_float(U, V, C, other, wide)[:4]  # type: ignore[return-value]


register(
    LowRankUpdate,
    conj=lambda A: LowRankUpdate(
        lx.conj(A.base) if isinstance(A.base, lx.AbstractLinearOperator) else A.base.conj(),
        A.U.conj(),
        A.V.conj(),
        None if A.C is None else A.C.conj(),
    ),
)


@follows_input
def woodbury(inverse: Any, b: Any, U: Any, V: Any = None, C: Any = None, *, max_condition: Any = None) -> Solution:
    """x = (A + U C Vᵀ)⁻¹ b from A⁻¹, or a solver for A, by solving k × k only.

    Use it where A⁻¹ or a factorisation of A is at hand. With an operator for A at hand use ``linalg.solve`` on a
    `LowRankUpdate`, which refines. Cost: k + 1 applications of A⁻¹ and O(n k² + k³).

    Parameters
    ----------
    inverse
        A⁻¹: (n, n) array, operator, or a function b ↦ A⁻¹ b of a vector.
    b
        (n,) or (n, c).
    U, V, C
        (n, k), (n, k) (``None``: U) and (k, k) (``None``: identity); vectors for k = 1.
    max_condition
        The guard: the answer counts as converged only up to this condition number of the capacitance matrix
        I + C Vᵀ A⁻¹ U; ``None``: eps^(−1/2), half the digits. It may be traced.

    Returns
    -------
    Solution
        ``value`` x; ``stats``: condition, the capacitance's. Status ``PRECISION`` beyond the guard.

    Raises
    ------
    InputError
        For shapes that do not fit.

    Notes
    -----
    Certificates: ``conditioning`` (exact): the capacitance's condition number against the guard. ``residual`` (exact):
    ‖(I + A⁻¹ U C Vᵀ) x − A⁻¹ b‖ against eps times the terms' sizes and that condition number; A need not be known.
    Source: Hager, SIAM Review 31 (1989), eq. (2); Yip (1986).

    Examples
    --------
    >>> import numpy as np
    >>> x = woodbury(np.eye(2), np.array([2.0, 1.0]), np.array([1.0, 0.0])).value
    >>> x.tolist()
    [1.0, 1.0]
    """
    b = _block(b)
    U, V, C = _factors(U, V, C)
    n = b.shape[0]
    if not U.shape[0] == V.shape[0] == n:
        raise InputError(f"U, V: found shapes {U.shape} and {V.shape}, expected ({n}, k) as in b")
    if not isinstance(max_condition, jax.Array):
        validation.number(1, none=True)("max_condition", max_condition)
    inverse = _checked(inverse, n)
    known = [a for a in (C, inverse) if hasattr(a, "dtype")]
    U, V, b, *_ = common_float(U, V, b, *known)
    C = jnp.eye(U.shape[1], dtype=U.dtype) if C is None else jnp.asarray(C).astype(U.dtype)
    apply: Any = inverse if callable(inverse) else lx.MatrixLinearOperator(jnp.asarray(inverse).astype(U.dtype)).mv
    B = b.reshape(n, -1)
    real = jnp.finfo(U.dtype)
    guard = jnp.asarray(real.eps**-0.5 if max_condition is None else max_condition).astype(real.dtype)
    solution = _certified(columns(apply)(jnp.concatenate([U, B], axis=1)), U, V, C, guard)
    return Solution(solution.value.reshape(b.shape), solution.certificates, solution.status, 1, solution.stats)


@jax.jit
def _certified(both: Array, U: Array, V: Array, C: Array, guard: Array) -> Solution:
    """Woodbury's answer and its certificates, from A⁻¹[U B]."""
    n, real = U.shape[0], jnp.finfo(U.dtype)
    x, base, solved, capacitance = _identity(both, U, V, C)
    condition = _condition(capacitance)
    norms = lambda a: jnp.linalg.norm(a, axis=0)  # noqa: E731
    residual = norms(x + solved @ (C @ (V.T @ x)) - base)
    size = norms(x) + norms(base) + jnp.linalg.norm(solved) * jnp.linalg.norm(C) * jnp.linalg.norm(V) * norms(x)
    measured = jnp.max(jnp.where(size > 0, residual / jnp.where(size > 0, size, 1), 0))
    unit = real.eps * (16 + 4 * n**0.5)
    certificates = {
        "residual": Certificate(
            "‖(I + A⁻¹UCVᵀ)x − A⁻¹b‖ at rounding level, times the capacitance's condition number",
            jnp.where(jnp.isfinite(measured), measured, jnp.inf),
            unit * jnp.where(jnp.isfinite(condition), condition, 1),
            "exact",
            "Hager, SIAM Review 31 (1989), eq. (2)",
        ),
        "conditioning": Certificate(
            "condition number of I + C Vᵀ A⁻¹ U within the guard",
            condition,
            guard,
            "exact",
            "Yip, SIAM J. Sci. Stat. Comput. 7 (1986) 507-513",
        ),
    }
    finite = jnp.all(jnp.isfinite(x))
    status = jnp.where(condition <= guard, Status.CONVERGED, Status.PRECISION)
    status = jnp.where(finite, status, Status.NON_FINITE).astype(jnp.int32)
    return Solution(x, certificates, status, 1, {"condition": condition})


@follows_input
def inverse_downdate(inverse: Any, index: int) -> Solution:
    """The inverse of A without row and column i, from A⁻¹: E − f gᵀ/h, O(n²) instead of O(n³).

    Use it for leave-one-out formulas, active sets and subset selection. With A⁻¹ split at row and column i into E, the
    column f, the row gᵀ and the corner h, h = det(A without i)/det A: a small h means that what remains is singular.

    Parameters
    ----------
    inverse
        A⁻¹, (n, n), n ≥ 2.
    index
        i, from 0 (negative counts from the end).

    Returns
    -------
    Solution
        ``value``: (n−1, n−1). ``stats``: ``growth``, the factor by which rounding errors in A⁻¹ may grow. Status
        ``PRECISION`` where half the digits or more are lost, ``NON_FINITE`` for h = 0.

    Raises
    ------
    InputError
        For a matrix that is not square, of size below 2, or an index outside it.

    Notes
    -----
    Certificate ``cancellation`` (exact): the larger of (‖E‖_F + ‖f‖‖g‖/|h|)/‖E − f gᵀ/h‖_F, lost by the subtraction,
    and ‖row or column i‖/|h|, lost by h before, against eps^(−1/2). Source: block inversion, Golub & Van Loan, 4th ed.,
    §2.1.4; Hager, SIAM Review 31 (1989), §1.

    Examples
    --------
    >>> import numpy as np
    >>> A = np.array([[2.0, 1.0], [1.0, 3.0]])
    >>> inverse_downdate(np.linalg.inv(A), 0).value.round(12).tolist()
    [[0.333333333333]]
    """
    B = jnp.asarray(numbers("inverse", inverse, 2))
    n = B.shape[0]
    if B.shape != (n, n) or n < 2:
        raise InputError(f"inverse: found shape {B.shape}, expected a square matrix of size 2 at least")
    if not -n <= index < n:
        raise InputError(f"index: found {index}, expected -{n} to {n - 1}")
    return _downdated(B, jnp.asarray(np.delete(np.arange(n), index)), index % n)


@jax.jit
def _downdated(B: Array, keep: Array, index: Any) -> Solution:
    E, f, g, h = B[keep[:, None], keep], B[keep, index], B[index, keep], B[index, index]
    possible = h != 0
    correction = jnp.outer(f, g / jnp.where(possible, h, 1))
    value = E - correction
    size, terms = jnp.linalg.norm(value), jnp.linalg.norm(E) + jnp.linalg.norm(correction)
    growth = jnp.where(size > 0, terms / jnp.where(size > 0, size, 1), jnp.where(terms > 0, jnp.inf, 1.0))
    # an h that is small beside its own row has lost digits before it is divided by
    row = jnp.maximum(jnp.linalg.norm(B[index]), jnp.linalg.norm(B[:, index]))
    loss = jnp.where(possible, row / jnp.where(possible, jnp.abs(h), 1), jnp.inf)
    growth = jnp.maximum(growth, loss)
    certificate = Certificate(
        "rounding errors of A⁻¹ grow by at most the square root of 1/eps",
        growth,
        jnp.asarray(jnp.finfo(B.dtype).eps ** -0.5).astype(growth.dtype),
        "exact",
        "Golub & Van Loan, Matrix Computations, 4th ed., §2.1.4",
    )
    status = jnp.where(certificate.holds, Status.CONVERGED, Status.PRECISION)
    status = jnp.where(possible, status, Status.NON_FINITE).astype(jnp.int32)
    return Solution(value, {"cancellation": certificate}, status, 1, {"growth": growth})


def _identity(both: Array, U: Array, V: Array, C: Array) -> tuple[Array, Array, Array, Array]:
    """x = A⁻¹B − A⁻¹U (I + C VᵀA⁻¹U)⁻¹ C VᵀA⁻¹B, which needs no inverse of C; also A⁻¹B, A⁻¹U, and the capacitance."""
    k = U.shape[1]
    solved, base = both[:, :k], both[:, k:]
    capacitance = jnp.eye(k, dtype=U.dtype) + C @ (V.T @ solved)
    return base - solved @ jnp.linalg.solve(capacitance, C @ (V.T @ base)), base, solved, capacitance


def _condition(K: Array) -> Float[Array, ""]:
    s = jnp.linalg.svd(K, compute_uv=False)
    return jnp.where(s[-1] > 0, s[0] / jnp.where(s[-1] > 0, s[-1], 1), jnp.inf)


def _checked(inverse: Any, n: int) -> Any:
    """A function of a vector, or an array (n, n)."""
    if callable(inverse):
        return inverse
    operator = isinstance(inverse, lx.AbstractLinearOperator)
    given: Any = inverse if operator else numbers("inverse", inverse, 2)
    shape = operators.shape(given) if operator else given.shape
    if shape != (n, n):
        raise InputError(f"inverse: found shape {shape}, expected ({n}, {n}) as in b")
    return given.mv if operator else given


def _factors(U: Any, V: Any, C: Any) -> tuple[Any, Any, Any]:
    U = _block(U, "U")
    V = U if V is None else _block(V, "V")
    U, V = (a.reshape(a.shape[0], -1) for a in (U, V))
    C = None if C is None else numbers("C", C, 2)
    if U.shape[1] != V.shape[1] or (C is not None and C.shape != (U.shape[1], V.shape[1])):
        found = f"{U.shape}, {V.shape}" + ("" if C is None else f", C {C.shape}")
        raise InputError(f"U, V: found shapes {found}, expected (m, k), (n, k), and (k, k) for C")
    return U, V, C


def _block(value: Any, name: str = "b") -> Any:
    """One right-hand side or several, real or complex."""
    rank = np.ndim(value)
    if rank not in (1, 2):
        raise InputError(f"{name}: found an array of {rank} dimensions, expected a vector or a matrix")
    return numbers(name, value, rank)
