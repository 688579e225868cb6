"""Preconditioners for symmetric positive definite systems, as operators for ``lineax.CG``, and what they are worth.

Conjugate gradients need about ½√κ ln(2/tol) steps; a preconditioner M ≈ A makes κ(M^{-1/2} A M^{-1/2}) of it. Jacobi
undoes bad scaling and nothing else; SSOR and incomplete Cholesky, from the entries of a sparse matrix, gain a constant
to a √ on grids; randomized Nyström, from products alone, removes the large eigenvalues of a matrix whose spectrum
falls off. Cost: Jacobi n, SSOR and IC(0) two sparse triangular solves, Nyström 4 n rank, each application.

Source: Saad, Iterative Methods for Sparse Linear Systems, 2nd ed. (2003), ch. 10; Meijerink & van der Vorst, Math.
Comp. 31 (1977); Frangella, Tropp & Udell, SIMAX 44 (2023); van der Sluis, Numer. Math. 14 (1969).
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float, Key

from corollary.core import operator as operators
from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.operator import Operator, as_operator, register
from corollary.core.precision import follows_input
from corollary.linalg._products import products
from corollary.linalg.least_squares._triangular import TriangularSolve, incomplete_cholesky, triangular_solve

KINDS = ("jacobi", "ssor", "ic0", "nystrom")
DENSE = 2000  # rows up to which the condition number comes from all eigenvalues
STEPS = 60  # of Lanczos beyond


class FactoredPreconditioner(lx.AbstractLinearOperator):
    """r ↦ U⁻¹ (d ∘ L⁻¹ r), with U = Lᵀ: SSOR and incomplete Cholesky."""

    lower: TriangularSolve
    upper: TriangularSolve
    middle: Float[Array, " n"]
    shift: float = eqx.field(static=True, default=0.0)

    def mv(self, vector: Float[Array, " n"]) -> Float[Array, " n"]:
        """M⁻¹ r."""
        return self.upper(self.middle * self.lower(vector))

    def as_matrix(self) -> Float[Array, "n n"]:
        """M⁻¹, by n solves."""
        return jax.vmap(self.mv, in_axes=1, out_axes=1)(jnp.eye(len(self.middle), dtype=self.middle.dtype))

    def transpose(self) -> FactoredPreconditioner:
        """M⁻¹ is symmetric."""
        return self

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of r."""
        return jax.ShapeDtypeStruct(self.middle.shape, self.middle.dtype)

    out_structure = in_structure


class NystromPreconditioner(lx.AbstractLinearOperator):
    """r ↦ U diag((λ_ℓ + μ)/(λ_i + μ)) Uᵀ r + (I − U Uᵀ) r, from a Nyström approximation U diag(λ) Uᵀ of A."""

    vectors: Float[Array, "n rank"]
    values: Float[Array, " rank"]
    regularisation: Float[Array, ""]

    def mv(self, vector: Float[Array, " n"]) -> Float[Array, " n"]:
        """M⁻¹ r."""
        top = self.values + self.regularisation
        inside = self.vectors.T @ vector
        return vector + self.vectors @ ((top[-1] / top - 1) * inside)

    def as_matrix(self) -> Float[Array, "n n"]:
        """M⁻¹."""
        return jax.vmap(self.mv, in_axes=1, out_axes=1)(jnp.eye(len(self.vectors), dtype=self.vectors.dtype))

    def transpose(self) -> NystromPreconditioner:
        """M⁻¹ is symmetric."""
        return self

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of r."""
        return jax.ShapeDtypeStruct(self.vectors.shape[:1], self.vectors.dtype)

    out_structure = in_structure

    def condition_bound(self, error: Any) -> Any:
        """κ(M^{-1/2}(A + μI)M^{-1/2}) ≤ (λ_ℓ + μ + ‖A − Â‖)/μ (Frangella, Tropp & Udell 2023, Proposition 5.3)."""
        return (self.values[-1] + self.regularisation + error) / self.regularisation


for _class in (FactoredPreconditioner, NystromPreconditioner):
    register(_class, is_symmetric=True, is_positive_semidefinite=True)


def preconditioner(
    A: Any,
    kind: str = "jacobi",
    *,
    omega: float = 1.0,
    rank: int = 50,
    shift: Any = 0.0,
    key: Key[Array, ""] | None = None,
) -> Operator:
    """An operator that applies M⁻¹ for an M ≈ A + shift · I, for ``options={"preconditioner": ...}`` of ``lineax.CG``.

    Use ``"ic0"`` for sparse matrices from grids and graphs, ``"ssor"`` where that breaks down, ``"jacobi"`` against bad
    scaling, ``"nystrom"`` for kernel and other matrices with a falling spectrum, of which only products may be known.

    Parameters
    ----------
    A
        (n, n) symmetric positive definite: dense, `scipy.sparse`, or (``"nystrom"`` alone) any operator.
    kind
        ``"jacobi"``, ``"ssor"``, ``"ic0"`` or ``"nystrom"``.
    omega
        Of SSOR, in (0, 2); 1 is symmetric Gauss-Seidel.
    rank
        Of the Nyström approximation: 2⌈1.5 d_eff⌉ + 1 columns make κ ≤ 28 in expectation, for the effective dimension
        d_eff = tr A(A + shift I)⁻¹. At most n.
    shift
        μ ≥ 0 of the regularised system (A + μI) x = b, which M then approximates.
    key
        `jax.random.key` of the Nyström sketch; ``None``: a fixed one.

    Returns
    -------
    lineax operator
        Symmetric and tagged positive semidefinite; it crosses jit and vmap. ``"ic0"``: its ``shift`` is the α of
        A + α diag(A) that had to be factored because a pivot was not positive, 0 as a rule.

    Raises
    ------
    InputError
        Where A is not square and symmetric, its diagonal not positive, or a kind needs entries that A does not show.

    Notes
    -----
    `preconditioned_condition` tells what it is worth. Jacobi is within a factor m of the best diagonal preconditioner,
    for at most m nonzeros in a row (van der Sluis 1969, Theorem 4.1); no diagonal undoes a rotated ill-conditioning.

    Examples
    --------
    >>> import lineax as lx, numpy as np, scipy.sparse
    >>> A = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(50, 50)).tocsr().astype(np.float32)
    >>> M = preconditioner(A, "ic0")  # a tridiagonal matrix has no fill: M is A itself
    >>> bool(jnp.allclose(M.mv(jnp.asarray(A @ np.ones(50, np.float32))), 1, atol=1e-3))
    True
    """
    validation.one_of(*KINDS)("kind", kind)
    validation.integer(1)("rank", rank)
    validation.number(0, 2, open_low=True)("omega", omega)
    if not isinstance(shift, jax.Array):
        validation.number(0)("shift", shift)
    if kind == "nystrom":
        return _nystrom(A, rank, shift, jax.random.key(0) if key is None else key)
    if omega == 2:
        raise InputError("omega: found 2, expected a number in (0, 2)")
    if kind == "jacobi" and isinstance(A, jax.Array):
        diagonal = jnp.diagonal(validation.matrix("A", A)) + jnp.asarray(shift, A.dtype)
        _positive(diagonal)
        return lx.TaggedLinearOperator(lx.DiagonalLinearOperator(1 / diagonal), lx.positive_semidefinite_tag)
    A = _entries(A, shift)
    diagonal = A.diagonal()
    _positive(diagonal)
    if kind == "jacobi":
        return lx.TaggedLinearOperator(
            lx.DiagonalLinearOperator(jnp.asarray(1 / diagonal)), lx.positive_semidefinite_tag
        )
    if kind == "ic0":
        L, moved = incomplete_cholesky(A)
        middle = jnp.ones(len(diagonal), A.dtype)
        return FactoredPreconditioner(triangular_solve(L), triangular_solve(_csr(L.T)), middle, moved)
    scaled = (diagonal / omega).astype(A.dtype)
    L = _csr(scipy.sparse.tril(A, -1) + scipy.sparse.diags_array(scaled))
    middle = jnp.asarray(((2 - omega) * scaled).astype(A.dtype))
    return FactoredPreconditioner(triangular_solve(L), triangular_solve(_csr(L.T)), middle)


def _nystrom(A: Any, rank: int, shift: Any, key: Key[Array, ""]) -> NystromPreconditioner:
    """Frangella, Tropp & Udell (2023), Algorithm 2.1: a shift of rounding size keeps the core positive definite."""
    P = products(A, key)
    _square(P.shape)
    n, rank = P.shape[0], min(rank, P.shape[0])
    dtype = jax.dtypes.canonicalize_dtype(P.dtype)
    test = jnp.linalg.qr(jax.random.normal(key, (n, rank), dtype))[0]
    Y = jnp.asarray(P.apply(P.xp.asarray(test)))
    nu = jnp.asarray(math.sqrt(n) * float(jnp.finfo(dtype).eps), dtype) * jnp.linalg.norm(Y)
    Y = Y + nu * test
    core = test.T @ Y
    root = jnp.linalg.cholesky((core + core.T) / 2)
    B = jax.scipy.linalg.solve_triangular(root, Y.T, lower=True).T
    U, s, _ = jnp.linalg.svd(B, full_matrices=False)
    values = jnp.maximum(s**2 - nu, 0)
    if not isinstance(values, jax.core.Tracer) and not bool(jnp.isfinite(values).all()):
        raise InputError("A: found a matrix that is not positive semidefinite, expected one that is")
    # Without regularisation an eigenvalue that rounding has wiped out would divide by zero.
    mu = jnp.maximum(jnp.asarray(shift).astype(dtype), jnp.where(values[-1] > 0, 0, jnp.where(nu > 0, nu, 1)))
    return NystromPreconditioner(U, values, mu)


class PreconditionedCondition(eqx.Module):
    """κ of the preconditioned matrix, its extreme eigenvalues, and the steps that conjugate gradients may need."""

    condition: Any
    smallest: Any
    largest: Any
    steps: Any
    certificates: dict[str, Certificate]


@follows_input
def preconditioned_condition(A: Any, P: Any = None, *, tol: Any = 1e-8) -> PreconditionedCondition:
    """κ(P^{-1/2} A P^{-1/2}) and the number of steps that conjugate gradients need at most for it.

    Use it to compare preconditioners. Cost: up to 2000 rows all eigenvalues, O(n³); beyond, 60 steps of Lanczos, whose
    extreme Ritz values lie within the spectrum: κ is then from below.

    Parameters
    ----------
    A
        (n, n) symmetric positive definite matrix, sparse matrix or operator.
    P
        Operator or matrix that applies P⁻¹ (as `preconditioner` returns); ``None``: the identity.
    tol
        Relative error in the A-norm that the prediction is for.

    Returns
    -------
    PreconditionedCondition
        ``condition``, ``smallest`` and ``largest`` eigenvalue of P⁻¹A, ``steps``.

    Raises
    ------
    InputError
        For matrices that are not square and of one size.

    Notes
    -----
    ``steps`` is the least k with 2((√κ − 1)/(√κ + 1))ᵏ ≤ tol (Saad 2003, eq. 6.128). Certificate ``eigenvalues``: exact
    where all were computed (residuals of the two extreme pairs, which bound their errors by Weyl), else an estimate.
    A diagonal preconditioner, Adam's included, cannot remove an ill-conditioning that is not aligned with the axes.

    Examples
    --------
    >>> import numpy as np
    >>> A = np.diag([1.0, 10.0, 1000.0])
    >>> found = preconditioned_condition(A)
    >>> round(float(found.condition)), round(float(preconditioned_condition(A, np.diag(1 / np.diag(A))).condition))
    (1000, 1)
    """
    if not isinstance(tol, jax.Array):
        validation.number(0, 1, open_low=True)("tol", tol)
    op = as_operator(A if isinstance(A, Operator) or scipy.sparse.issparse(A) else validation.matrix("A", A))
    n, dtype = op.in_size(), operators.dtype(op)
    _square(operators.shape(op))
    inverse = lx.IdentityLinearOperator(op.in_structure()) if P is None else as_operator(P)
    if operators.shape(inverse) != (n, n):
        raise InputError(f"P: found shape {operators.shape(inverse)}, expected {(n, n)} as A")
    if n <= DENSE:
        low, high, certificate = _dense_extremes(op.as_matrix(), inverse.as_matrix().astype(dtype))
    else:
        low, high = _ritz_extremes(op, inverse)
        certificate = Certificate("extreme Ritz values, inside the spectrum", high / low, kind="estimate")
    condition = high / low
    root = jnp.sqrt(condition)
    rate = jnp.where(root > 1, (root - 1) / (root + 1), 0)
    wanted = jnp.log(jnp.asarray(tol).astype(dtype) / 2)
    steps = jnp.where(rate > 0, jnp.ceil(wanted / jnp.log(jnp.where(rate > 0, rate, 0.5))), 1)
    return PreconditionedCondition(condition, low, high, steps.astype(int), {"eigenvalues": certificate})


@jax.jit
def _dense_extremes(A: Float[Array, "n n"], P: Float[Array, "n n"]) -> tuple[Array, Array, Certificate]:
    weights, V = jnp.linalg.eigh((P + P.T) / 2)
    root = V * jnp.sqrt(jnp.maximum(weights, 0))  # P⁻¹ = root rootᵀ
    H = root.T @ ((A + A.T) / 2) @ root
    H = (H + H.T) / 2
    values, vectors = jnp.linalg.eigh(H)
    ends = jnp.array([0, -1])
    error = jnp.max(jnp.linalg.norm(H @ vectors[:, ends] - vectors[:, ends] * values[ends], axis=0))
    eps = jnp.finfo(A.dtype).eps
    certificate = Certificate(
        "both extreme eigenvalues of P^{-1/2} A P^{-1/2} are within ‖Hv − λv‖ of the truth, relative to ‖H‖",
        error / jnp.max(jnp.abs(values)),
        jnp.asarray(8 * eps * A.shape[0] ** 0.5, A.dtype),
        "exact",
        "Weyl; Parlett, The Symmetric Eigenvalue Problem (1998), Theorem 4.5.1",
        assumptions=(
            Assumption("A and P are positive definite", True, (values[0] > 0) & (weights[0] > 0)),
            Assumption("A and P are symmetric", True, _symmetric(A) & _symmetric(P)),
        ),
    )
    return values[0], values[-1], certificate


def _symmetric(A: Array) -> Array:
    return jnp.max(jnp.abs(A - A.T)) <= 64 * jnp.finfo(A.dtype).eps * jnp.max(jnp.abs(A)) * A.shape[0] ** 0.5


@jax.jit
def _ritz_extremes(A: Operator, P: Operator) -> tuple[Array, Array]:
    """Extreme eigenvalues of the tridiagonal matrix that conjugate gradients build (Saad 2003, §6.7.3)."""
    n, dtype = A.in_size(), operators.dtype(A)
    r = jax.random.normal(jax.random.key(0), (n,), dtype)
    z = P.mv(r)
    start = (r, z, r @ z)

    def step(state: Any, _: Any) -> Any:
        r, p, rho = state
        q = A.mv(p)
        alpha = rho / jnp.where(p @ q > 0, p @ q, 1)
        r = r - alpha * q
        z = P.mv(r)
        new = r @ z
        beta = new / jnp.where(rho > 0, rho, 1)
        going = rho > 1e-2 * jnp.finfo(dtype).eps * start[2]  # else an invariant subspace has been found
        alpha, beta = jnp.where(going, alpha, 1), jnp.where(going, beta, 0)
        return (r, z + beta * p, new), (alpha, beta, going)

    _, (alpha, beta, going) = jax.lax.scan(step, start, length=min(STEPS, n))
    diagonal = 1 / alpha + jnp.concatenate([jnp.zeros(1, dtype), beta[:-1] / alpha[:-1]])
    diagonal = jnp.where(going, diagonal, diagonal[0])
    off = jnp.where(going[1:], jnp.sqrt(jnp.maximum(beta[:-1], 0)) / alpha[:-1], 0)
    values = jnp.linalg.eigvalsh(jnp.diag(diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1))
    return values[0], values[-1]


def _entries(A: Any, shift: Any) -> scipy.sparse.csr_array:
    """A + shift · I as a symmetric CSR matrix on the host."""
    if isinstance(A, lx.MatrixLinearOperator):
        A = A.matrix
    if isinstance(A, operators.Sparse):
        parts = (np.asarray(part) for part in (A.matrix.data, A.matrix.indices, A.matrix.indptr))
        A = scipy.sparse.csr_array(tuple(parts), shape=A.shape)
    if isinstance(A, Operator | jax.core.Tracer):
        raise InputError("A: found an operator or traced array, expected a concrete matrix; take kind='nystrom'")
    if not scipy.sparse.issparse(A):
        A = np.asarray(validation.matrix("A", A, host=True))
    A = _csr(A)
    A = A if A.dtype in (np.float32, np.float64) else A.astype(np.float64)
    _square(A.shape)
    if not np.isfinite(A.data).all():
        raise InputError("A: found NaN or infinity, expected finite numbers")
    if abs(A - A.T).max() > 64 * np.finfo(A.dtype).eps * abs(A).max():
        raise InputError("A: found a matrix that is not symmetric, expected a symmetric one")
    shift = np.asarray(shift, A.dtype)
    return _csr(A + scipy.sparse.diags_array(np.full(A.shape[0], shift))) if shift > 0 else A


def _csr(A: Any) -> scipy.sparse.csr_array:
    A = scipy.sparse.csr_array(A)
    A.sum_duplicates()
    return A


def _square(shape: tuple[int, int]) -> None:
    if shape[0] != shape[1] or 0 in shape:
        raise InputError(f"A: found shape {shape}, expected a square matrix")


def _positive(diagonal: Any) -> None:
    if not isinstance(diagonal, jax.core.Tracer) and not bool((diagonal > 0).all()):
        raise InputError("A: found a diagonal entry that is not positive, expected a positive definite matrix")
