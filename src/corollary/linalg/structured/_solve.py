"""Solve A x = b by the structure of A, with a backward-error certificate.

When: whenever A is square and known by more than its entries (circulant, Toeplitz, Kronecker, butterfly, low-rank
update, sparse, triangular, positive definite, ...), or by its entries alone. One pass of the structure's own method is
followed by refinement with fresh residuals until the backward error is at rounding level, or no longer halves.

Cost: that of the method, plus one product with A a pass and nine for a lower bound of ‖A‖₂ where none is known.
Source: Rigal & Gaches, J. ACM 14 (1967); Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., ch. 12.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from jaxtyping import Array, Float, Inexact

from corollary.core import operator as operators
from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.operator import Sparse, as_operator, matmat
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.linalg.least_squares._lstsq import lstsq
from corollary.linalg.structured._base import Structured, is_complex, norm_below, numbers, square
from corollary.linalg.structured._inverse import columns, inverse, plan
from corollary.linalg.structured._toeplitz import Hankel, Toeplitz

SOLVERS = ("auto", "structure", "cg", "gmres", "levinson", "lu")
PASSES = 6
UNPACKED = "lu: the structure's own method fell short"
SMALL = 1024  # Levinson's n² beats the start of an iteration up to about here
DENSE = 4096  # rows up to which an operator may be unpacked when its own method falls short


@follows_input
def solve(A: Any, b: Any, *, solver: str = "auto", tol: Any = None) -> Solution:
    """Solve A x = b by what is known of A.

    Parameters
    ----------
    A
        (n, n): array (LU), sparse matrix (SuperLU on the host, GMRES when traced), or operator: circulant, Toeplitz,
        Hankel, Kronecker, low-rank update, ... by their structure, a triangular, diagonal, tridiagonal or positive
        definite `lineax` operator accordingly, compositions factor by factor, any other by CG (tagged positive
        semidefinite) or GMRES.
    b
        (n,) or (n, k).
    solver
        ``"auto"``; ``"structure"`` (no fallback), ``"cg"``, ``"gmres"`` (without preconditioner), ``"levinson"``
        (Toeplitz and Hankel, O(n²), on the host), ``"lu"`` (unpacked into a dense matrix).
        ``"auto"`` takes the structure's method and, on data that are not traced, where this misses the tolerance:
        Levinson's recursion, LU up to 4096 rows, and for a singular matrix the minimum-norm least-squares solution.
        The choice is in ``stats["solver"]``.
    tol
        Backward error at which refinement stops; ``None``: a few eps. It may be traced.

    Returns
    -------
    Solution
        ``value``: x. ``steps``: passes of the method. ``stats``: solver, norm (a lower bound of ‖A‖₂). It can be
        jitted, vmapped and differentiated (implicitly: one more solve with Aᵀ), in A's parameters too.
        Status: ``PRECISION`` where refinement stalls above the tolerance (a singular matrix, say).

    Raises
    ------
    InputError
        For an operator that is not square, data that are not finite, other lengths, or a solver that does not fit.

    Notes
    -----
    Certificate ``backward_error`` (exact): η = ‖b − A x‖₂/(‖A‖₂‖x‖₂ + ‖b‖₂) ≤ tol plus rounding, so that (A + E) x =
    b + f with ‖E‖₂ ≤ η‖A‖₂ and ‖f‖₂ ≤ η‖b‖₂. A lower bound stands for ‖A‖₂, which makes η larger. The error of x is up
    to κ(A) times as large. Source: Rigal & Gaches (1967); Higham (2002), Theorem 7.1.

    Examples
    --------
    >>> from corollary.linalg import Toeplitz
    >>> T = Toeplitz(np.array([2.0, -1.0, 0.0, 0.0]))
    >>> solution = solve(T, np.array([1.0, 0.0, 0.0, 1.0]))
    >>> solution.value.round(12).tolist(), bool(solution.holds)
    ([1.0, 1.0, 1.0, 1.0], True)
    """
    validation.one_of(*SOLVERS)("solver", solver)
    if not isinstance(tol, jax.Array):
        validation.number(0, none=True)("tol", tol)
    A, b = _read(A, b)
    real = jnp.finfo(b.dtype)
    unit = float(real.eps) * (8 + 2 * b.shape[0] ** 0.5)  # √n: rounding errors of long sums grow like a random walk
    tol = jnp.asarray(unit if tol is None else tol).astype(real.dtype)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((A, b, tol)))
    block = b.reshape(b.shape[0], -1)
    solution = _choose(A, block, tol, unit, solver, traced)
    return Solution(
        solution.value.reshape(b.shape), solution.certificates, solution.status, solution.steps, solution.stats
    )


def _choose(A: lx.AbstractLinearOperator, b: Array, tol: Array, unit: float, solver: str, traced: bool) -> Solution:
    core = A.operator if isinstance(A, lx.TaggedLinearOperator) else A
    toeplitz = isinstance(core, Toeplitz | Hankel)
    if solver == "levinson":
        if traced or not toeplitz:
            raise InputError(
                "solver: found 'levinson', expected it for Toeplitz and Hankel matrices that are not traced"
            )
        return _host(A, b, tol, unit, _levinson, "levinson: as asked")
    if solver == "lu":
        return _by_structure(_unpacked(A), b, tol, unit, "auto", "lu: as asked")
    if solver != "auto":
        return _by_structure(A, b, tol, unit, "auto" if solver == "structure" else solver, "")
    if traced:
        return _by_structure(A, b, tol, unit, solver, "")
    found: list[Solution] = []
    for attempt in _attempts(A, core, toeplitz):
        found.append(attempt(b, tol, unit))
        if bool(np.all(found[-1].converged)):
            return found[-1]
    error = lambda s: float(np.nan_to_num(np.asarray(s.certificates["backward_error"].measured), nan=np.inf))  # noqa: E731
    return min(found, key=error)


def _attempts(A: Any, core: Any, toeplitz: bool) -> list[Any]:
    """What to try in turn on concrete data; each takes (b, tol, unit)."""
    n = A.in_size()
    structure = lambda b, tol, unit: _by_structure(_tagged(A, core), b, tol, unit, "auto", "")  # noqa: E731
    dense = lambda b, tol, unit: _by_structure(_unpacked(A), b, tol, unit, "auto", UNPACKED)  # noqa: E731
    host = lambda method, reason: lambda b, tol, unit: _host(A, b, tol, unit, method, reason)  # noqa: E731
    levinson = host(_levinson, "levinson: O(n²) on the host")
    if isinstance(core, Sparse):
        attempts = [host(_superlu, "SuperLU: a sparse matrix on the host")]
    elif toeplitz and n <= SMALL:
        attempts = [levinson, dense, structure]
    elif toeplitz:
        attempts = [structure, levinson] + [dense] * (n <= DENSE)
    elif isinstance(core, lx.MatrixLinearOperator):
        attempts = [structure]
    else:
        attempts = [structure] + [dense] * (n <= DENSE)
    if n <= DENSE and not jnp.issubdtype(operators.dtype(A), jnp.complexfloating):
        attempts.append(host(_minimum_norm, "lstsq: a singular matrix, so the least-norm x"))
    return attempts


def _tagged(A: Any, core: Any) -> Any:
    """A symmetric Toeplitz matrix whose circulant is positive is taken to be positive definite: CG instead of GMRES."""
    if isinstance(core, Toeplitz) and lx.is_symmetric(core) and not lx.is_positive_semidefinite(A):
        spectrum = jnp.asarray(core.preconditioner().eigenvalues()).real
        if bool(jnp.min(spectrum) > 0):
            return lx.TaggedLinearOperator(core, lx.positive_semidefinite_tag)
    return A


def _unpacked(A: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    tags = lx.positive_semidefinite_tag if lx.is_positive_semidefinite(A) else ()
    return lx.MatrixLinearOperator(jnp.asarray(A.as_matrix()), tags)


def _by_structure(
    A: lx.AbstractLinearOperator, b: Array, tol: Array, unit: float, solver: str, reason: str
) -> Solution:
    method = reason or plan(A, solver).name
    x, (error, size, passes) = _refined(A, b, tol, solver)
    iterative = any(word in method for word in ("cg", "gmres"))
    return _certified(x, error, size, tol, unit, passes, method, Status.MAX_STEPS if iterative else Status.PRECISION)


@functools.partial(jax.jit, static_argnums=3)
def _refined(A: lx.AbstractLinearOperator, b: Array, tol: Array, solver: str) -> tuple[Array, Any]:
    """x and (backward errors, ‖A‖₂ from below, passes); implicitly differentiable in A and b."""

    def refine(A: lx.AbstractLinearOperator, b: Array) -> tuple[Array, Any]:
        apply = columns(inverse(A, solver))
        size = norm_below(A).astype(tol.dtype)

        def improve(state: tuple) -> tuple:
            x, r, error, _, step = state
            scale = norms(r)
            scale = jnp.where(scale > 0, scale, 1).astype(r.dtype)
            moved = x + apply(r / scale) * scale
            fresh = b - matmat(A, moved)
            now = backward_error(size, moved, b, fresh)
            better = now < error
            going = jnp.any(better & (now <= error / 2) & (now > tol))
            x, r = jnp.where(better, moved, x), jnp.where(better, fresh, r)
            return x, r, jnp.where(better, now, error), going, step + 1

        start = jnp.zeros_like(b)
        first = backward_error(size, start, b, b)
        state = (start, b, first, jnp.any(first > tol), jnp.zeros((), jnp.int32))
        x, _, error, _, passes = jax.lax.while_loop(lambda s: s[3] & (s[4] < PASSES), improve, state)
        return x, (error, size, passes)

    return jax.lax.custom_linear_solve(
        lambda x: matmat(A, x),
        b,
        lambda _, rhs: refine(jax.lax.stop_gradient(A), rhs),
        lambda _, rhs: refine(jax.lax.stop_gradient(A).transpose(), rhs),
        has_aux=True,
    )


def norms(a: Inexact[Array, "n k"]) -> Float[Array, " k"]:
    """Norms of the columns, without overflow of their squares."""
    top = jnp.max(jnp.abs(a), axis=0)
    safe = jnp.where((top > 0) & jnp.isfinite(top), top, 1)
    return safe * jnp.linalg.norm(a / safe.astype(a.dtype), axis=0)


def backward_error(size: Array, x: Array, b: Array, r: Array) -> Float[Array, " k"]:
    """‖r‖/(‖A‖‖x‖ + ‖b‖) by columns: Rigal & Gaches; 0 for b = 0 = x, infinite for what is not finite."""
    scale = size * norms(x) + norms(b)
    error = norms(r) / jnp.where(scale > 0, scale, 1)
    return jnp.where(jnp.isfinite(error), error, jnp.inf)


def _host(A: Any, b: Array, tol: Array, unit: float, method: Any, reason: str) -> Solution:
    """A direct method on the host, then the same audit."""
    try:
        x = method(A.operator if isinstance(A, lx.TaggedLinearOperator) else A, np.asarray(b))
    except (np.linalg.LinAlgError, scipy.linalg.LinAlgError, RuntimeError):  # a singular minor or pivot
        x = np.full(b.shape, np.inf)
    x = jnp.asarray(np.where(np.isfinite(x), x, 0).astype(b.dtype))
    error, size = _audit(A, b, x)
    return _certified(x, error, size, tol, unit, jnp.ones((), jnp.int32), reason, Status.PRECISION)


@jax.jit
def _audit(A: lx.AbstractLinearOperator, b: Array, x: Array) -> tuple[Array, Array]:
    size = norm_below(A).astype(jnp.finfo(b.dtype).dtype)
    return backward_error(size, x, b, b - matmat(A, x)), size


def _levinson(A: Any, b: np.ndarray) -> np.ndarray:
    T = A.reversed() if isinstance(A, Hankel) else A
    column, row = (np.asarray(part) for part in T._pair())
    x = scipy.linalg.solve_toeplitz((column, row), b)
    return x[::-1] if isinstance(A, Hankel) else x


def _superlu(A: Any, b: np.ndarray) -> np.ndarray:
    parts = tuple(np.asarray(part) for part in (A.matrix.data, A.matrix.indices, A.matrix.indptr))
    csc = scipy.sparse.csr_array(parts, shape=A.shape).tocsc()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.sparse.linalg.MatrixRankWarning)
        return scipy.sparse.linalg.splu(csc).solve(b.astype(csc.dtype))


def _minimum_norm(A: Any, b: np.ndarray) -> np.ndarray:
    return np.asarray(lstsq(np.asarray(A.as_matrix()), b, solver="svd").value)


def _certified(
    x: Array, error: Array, size: Array, tol: Array, unit: float, passes: Any, method: str, failure: int
) -> Solution:
    certificate = Certificate(
        "‖b − A x‖₂ <= tol · (‖A‖₂‖x‖₂ + ‖b‖₂)",
        jnp.max(error),
        tol + unit,  # the residual's own rounding
        "exact",
        "Rigal & Gaches, J. ACM 14 (1967); Higham (2002), Theorem 7.1",
    )
    certificate = jax.lax.stop_gradient(certificate)
    status = jnp.where(certificate.holds, Status.CONVERGED, failure)
    status = jnp.where(jnp.all(jnp.isfinite(x)), status, Status.NON_FINITE).astype(jnp.int32)
    stats = {"solver": Note(method), "norm": jax.lax.stop_gradient(size)}
    return Solution(x, {"backward_error": certificate}, status, passes, stats)


def _read(A: Any, b: Any) -> tuple[lx.AbstractLinearOperator, Array]:
    """A as a square operator and b in the precision of its products."""
    rank = np.ndim(b)
    if rank not in (1, 2):
        raise InputError(f"b: found an array of {rank} dimensions, expected a vector or a matrix")
    b = numbers("b", b, rank)
    if not isinstance(A, lx.AbstractLinearOperator) and hasattr(A, "__array__"):
        A = numbers("A", A, 2)
        wide = np.promote_types(A.dtype, b.dtype)
        A = lx.MatrixLinearOperator(jnp.asarray(A).astype(wide))
    A = as_operator(A)
    n = square("A", A)
    if b.shape[0] != n:
        raise InputError(f"b: found {b.shape[0]} rows, expected {n} as in A")
    dtype = operators.dtype(A)
    if isinstance(A, Structured):
        dtype = np.promote_types(dtype, b.dtype)
    elif is_complex(b) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise InputError("b: found complex numbers, expected real ones for a real operator")
    return A, jnp.asarray(b).astype(jax.dtypes.canonicalize_dtype(dtype))
