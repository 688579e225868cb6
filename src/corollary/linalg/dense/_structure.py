"""Which structure a matrix has: symmetric, orthogonal, triangular, a permutation, ..., with the defect of each.

Use it on a matrix whose origin is unknown, to pick the solver and to hand `lineax` its tags. Every defect is the
largest entry of the difference to the structure, relative to the largest entry of the matrix (to one, where the
structure fixes the scale), so that one wrong entry counts however large the matrix is. Cost: O(n²) for the patterns,
one product and one symmetric eigendecomposition, O(n³), for orthogonality and definiteness.

Source: Horn & Johnson, Matrix Analysis, 2nd ed. (2013), §0.9, §2.1, §7.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Inexact

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import follows_input

TAGS = {
    "symmetric": lx.symmetric_tag,
    "diagonal": lx.diagonal_tag,
    "tridiagonal": lx.tridiagonal_tag,
    "unit_diagonal": lx.unit_diagonal_tag,
    "lower_triangular": lx.lower_triangular_tag,
    "upper_triangular": lx.upper_triangular_tag,
    "positive_semidefinite": lx.positive_semidefinite_tag,
    "negative_semidefinite": lx.negative_semidefinite_tag,
}
Defect = Float[Array | np.ndarray, ""] | np.floating | float


class MatrixStructure(eqx.Module):
    """Which structures hold within the tolerance, the defect of each, and the tags that `lineax` takes."""

    holds: Mapping[str, Bool[Array | np.ndarray, ""] | np.bool_]
    defects: Mapping[str, Defect]
    tol: Defect

    @property
    def names(self) -> frozenset[str]:
        """The structures that hold."""
        return frozenset(name for name, holds in self.holds.items() if bool(holds))

    @property
    def tags(self) -> frozenset[object]:
        """For ``lineax.MatrixLinearOperator(A, tags)``. A matrix under `jit` has none."""
        if any(isinstance(holds, Tracer) for holds in self.holds.values()):
            raise InputError("A: found a traced matrix (under jit or vmap), expected a concrete one: tags are static")
        return frozenset(tag for name, tag in TAGS.items() if bool(self.holds[name]))


@follows_input
def matrix_structure(A: Any, *, tol: Any = None) -> MatrixStructure:
    """Test a square matrix, real or complex, for the structures that a solver can use.

    A Haar-distributed orthogonal matrix to try it on: `jax.random.orthogonal`. A Hessian is symmetric wherever the
    function is twice continuously differentiable, not at its critical points alone.

    Parameters
    ----------
    A
        (n, n) matrix.
    tol
        Largest defect that passes; ``None``: 8 √n · eps. It may be traced.

    Returns
    -------
    MatrixStructure
        ``holds``, ``defects`` and ``tags``. Names: ``identity``, ``diagonal``, ``tridiagonal``, ``lower_triangular``,
        ``upper_triangular``, ``unit_diagonal``, ``permutation``, ``symmetric`` (A = Aᵀ), ``hermitian`` (A = Aᴴ),
        ``skew`` (A = −Aᵀ), ``orthogonal`` (real, AᵀA = I), ``unitary`` (AᴴA = I), ``positive_semidefinite`` and
        ``negative_semidefinite`` (hermitian, no eigenvalue on the wrong side by more than n·eps·‖A‖). The zero matrix
        is diagonal, symmetric, skew and both semidefinite.

    Raises
    ------
    InputError
        For anything but a finite square matrix.

    Examples
    --------
    >>> import numpy as np
    >>> sorted(matrix_structure(np.array([[0.0, 1.0], [1.0, 0.0]])).names)
    ['hermitian', 'orthogonal', 'permutation', 'symmetric', 'tridiagonal', 'unitary']
    """
    A = _square(A)
    if not isinstance(tol, jax.Array):
        validation.number(0, 1, none=True)("tol", tol)
    eps = float(jnp.finfo(A.dtype).eps)
    return _structure(A, jnp.asarray(8 * A.shape[0] ** 0.5 * eps if tol is None else tol, jnp.finfo(A.dtype).dtype))


@jax.jit
def _structure(A: Inexact[Array, "n n"], tol: Float[Array, ""]) -> MatrixStructure:
    n, eps = A.shape[0], float(jnp.finfo(A.dtype).eps)
    largest = jnp.max(jnp.abs(A))
    eye, row, column = jnp.eye(n, dtype=A.dtype), jnp.arange(n)[:, None], jnp.arange(n)
    unit = A / jnp.where(largest > 0, largest, 1).astype(A.dtype)  # no square over- or underflows
    top = lambda D: jnp.max(jnp.abs(D))  # noqa: E731
    outside = lambda kept: top(jnp.where(kept, 0, unit))  # noqa: E731
    adjoint = jnp.conj(unit.T)
    # AᴴA − I is off by (largest² − 1) at least where the entries are huge: no need to form it there.
    inside = jnp.clip(largest, 0, 4).astype(A.dtype)
    unitary = jnp.where(largest > 4, jnp.inf, top((inside * adjoint) @ (inside * unit) - eye))
    values = jnp.linalg.eigvalsh((unit + adjoint) / 2)
    size = jnp.max(jnp.abs(values))
    wrong = lambda sign: jnp.maximum(-jnp.min(sign * values), 0) / jnp.where(size > 0, size, 1)  # noqa: E731
    hermitian = top(unit - adjoint)
    defects = {
        "identity": top(A - eye),
        "diagonal": outside(row == column),
        "tridiagonal": outside(jnp.abs(row - column) <= 1),
        "lower_triangular": outside(row >= column),
        "upper_triangular": outside(row <= column),
        "unit_diagonal": jnp.max(jnp.abs(jnp.diagonal(A) - 1)),
        "permutation": _permutation(A),
        "symmetric": top(unit - unit.T),
        "hermitian": hermitian,
        "skew": top(unit + unit.T),
        "orthogonal": jnp.maximum(unitary, jnp.max(jnp.abs(jnp.imag(A)))),
        "unitary": unitary,
        "positive_semidefinite": jnp.maximum(hermitian, wrong(1)),
        "negative_semidefinite": jnp.maximum(hermitian, wrong(-1)),
    }
    limits = dict.fromkeys(defects, tol)
    limits["positive_semidefinite"] = limits["negative_semidefinite"] = jnp.maximum(tol, n * eps)
    return MatrixStructure({name: defect <= limits[name] for name, defect in defects.items()}, defects, tol)


def _permutation(A: Inexact[Array, "n n"]) -> Float[Array, ""]:
    """Largest difference to the 0-1 matrix that is nearest, infinite where that is no permutation."""
    ones = jnp.real(A) > 0.5
    single = jnp.all(jnp.sum(ones, 0) == 1) & jnp.all(jnp.sum(ones, 1) == 1)
    return jnp.where(single, jnp.max(jnp.abs(A - ones.astype(A.dtype))), jnp.inf)


def _square(A: Any) -> Inexact[Array, "n n"]:
    """A square matrix; complex entries are welcome here."""
    kind = np.dtype(A.dtype).kind if isinstance(A, jax.Array) else np.asarray(A).dtype.kind
    if kind == "c":
        A = jnp.asarray(A)
        validation.matrix("A", jnp.real(A), empty=False)
        validation.matrix("A", jnp.imag(A), empty=False)
    else:
        A = validation.matrix("A", A)
    if A.shape[0] != A.shape[1]:
        raise InputError(f"A: found shape {A.shape}, expected a square matrix")
    return A
