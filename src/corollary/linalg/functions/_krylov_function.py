"""f(A)v from products with A: Lanczos for symmetric A, Arnoldi for any square A, with an estimate of the error.

When: A is large or known by its products and one column of f(A) is wanted: A^{1/2}z for a Gaussian sample with
covariance A, sign(A)v, (A + λ)⁻¹v. Cost: `steps` products and O(n · steps²). The approximation is ‖v‖ Q f(T) e₁, the
interpolation of f in the Ritz values; for symmetric A its error is at most 2‖v‖ times that of the best polynomial of
degree below `steps` on the spectrum's hull. Source: Druskin & Knizhnerman (1989); Saad, SIAM J. Numer. Anal. 29
(1992); Higham, Functions of Matrices (2008), §13.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core import operator, validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Solution, Status
from corollary.linalg._products import products
from corollary.linalg.eigen._krylov import arnoldi_process, lanczos_process
from corollary.linalg.functions._symmetric import symmetric_function
from corollary.linalg.trace._quadrature import spectral

GENERAL: dict[str, Callable[[Array], Array]] = {"exp": jax.scipy.linalg.expm, "inverse": jnp.linalg.inv}


@follows_input
def krylov_function(A: Any, v: Any, f: Any, *, steps: int = 30, symmetric: bool = True, tol: Any = None) -> Solution:
    """f(A)v by Lanczos or Arnoldi.

    Parameters
    ----------
    A
        (n, n) dense or sparse matrix, or operator.
    v
        (n,).
    f
        Symmetric A: an elementwise JAX function of the eigenvalues, or ``"log"``, ``"sqrt"``, ``"inverse"``,
        ``"inverse_sqrt"``, ``"exp"``. Else: a function from matrices to matrices (`jax.scipy.linalg.expm`), or
        ``"exp"``, ``"inverse"``.
    steps
        Dimension of the Krylov space, at least 3; static.
    symmetric
        Whether A is symmetric: Lanczos and an eigendecomposition instead of Arnoldi.
    tol
        Relative to ‖f(A)v‖: what the certificate and the status compare with; ``None``: eps^(1/2).

    Returns
    -------
    Solution
        ``value``: (n,). ``stats``: ``error``, the estimate. ``status``: CONVERGED where it is within `tol`. It can be
        jitted, vmapped and differentiated with respect to A, v and what f closes over.

    Raises
    ------
    InputError
        Where A is not square, real and finite, or v does not fit.

    Notes
    -----
    Certificates: ``"error"`` (monitor: the last change of the answer, extrapolated geometrically, against `tol`; an
    estimate, not a bound; zero where the space became invariant), ``"symmetry"`` (monitor, symmetric A: sampled as
    |xᵀAy − yᵀAx| on two vectors of the space).

    Examples
    --------
    >>> import numpy as np
    >>> A = np.diag([1.0, 4.0, 9.0])
    >>> krylov_function(A, np.ones(3), "sqrt", steps=3).value.round(9).tolist()
    [1.0, 2.0, 3.0]
    """
    validation.integer(3)("steps", steps)
    validation.flag("symmetric", symmetric)
    if not isinstance(tol, Tracer):
        validation.number(0, none=True)("tol", tol)
    op, v = operands(A, v)
    tol = jnp.finfo(v.dtype).eps ** 0.5 if tol is None else tol
    certificates: dict[str, Certificate] = {}
    columns: Any
    if symmetric:
        g, run = spectral(f), _process(op, v, steps, lanczos_process)
        T, Q, norm, invariant = run.T, run.Q, run.norm, run.invariant
        columns = [symmetric_function(g.f, _leading(T, d))[:, 0] for d in (steps, steps - 1, steps - 2)]
        certificates["symmetry"] = _symmetry(op, Q)
    else:
        function: Any = GENERAL.get(f) if isinstance(f, str) else f
        if not callable(function):
            raise InputError(f"f: found {f!r}, expected a function of matrices or one of {', '.join(GENERAL)}")
        of: Any = function
        run = _process(op, v, steps, arnoldi_process)
        H, Q, norm, invariant = run.H, run.Q[:, :steps], run.norm, run.invariant
        columns = [of(_leading(H[:steps], d))[:, 0] for d in (steps, steps - 1, steps - 2)]
    value = norm * (Q @ columns[0])
    error = jax.lax.stop_gradient(norm * _extrapolated(columns))
    size = jax.lax.stop_gradient(jnp.linalg.norm(value))
    error = jnp.where(invariant, rounding(size), error)
    certificates["error"] = Certificate(
        "‖f(A)v − value‖ <= tol·‖value‖, by extrapolation",
        measured=error,
        bound=tol * size + rounding(size, 8.0 * steps),
        kind="monitor",
        source="difference of consecutive Krylov approximations",
        assumptions=(Assumption("the error falls geometrically, as the last two changes did"),),
    )
    status = Status.of(certificates["error"].holds, jnp.all(jnp.isfinite(value)))
    return Solution(value, certificates, status, steps, {"error": error})


@eqx.filter_jit
def _process(A: operator.Operator, v: Array, steps: int, kernel: Any) -> Any:
    return kernel(A.mv, v, steps)


def operands(A: Any, v: Any, *, block: bool = False) -> tuple[operator.Operator, Array]:
    """A square operator and a vector (or a block of them) of its precision."""
    P = products(A)
    op = operator.as_operator(A)
    if P.shape[0] != P.shape[1]:
        raise InputError(f"A: found shape {P.shape}, expected a square matrix")
    v = jnp.asarray(validation.vector_or_matrix("v", v) if block else validation.vector("v", v))
    if v.shape[0] != P.shape[0]:
        raise InputError(f"v: found {v.shape[0]} rows, expected {P.shape[0]} as in A")
    return op, v.astype(common_float(v, jnp.zeros((), P.dtype))[0].dtype)


def _leading(T: Array, d: int) -> Array:
    """The leading d rows and columns, and beside them h₁₁ on the diagonal: f of it acts on e₁ as f of the block alone.

    One shape for all depths: f is compiled once.
    """
    inside = jnp.arange(T.shape[0]) < d
    return jnp.where(inside[:, None] & inside[None, :], T, jnp.diag(jnp.where(inside, 0, T[0, 0])))


def _extrapolated(columns: list[Array]) -> Float[Array, ""]:
    """Size of the error after the last change, if changes go on shrinking as they did."""
    last, before, earlier = columns
    change, previous = jnp.linalg.norm(last - before), jnp.linalg.norm(before - earlier)
    rate = jnp.clip(change / jnp.where(previous > 0, previous, 1), 0.1, 0.95)
    return change * rate / (1 - rate)


def _symmetry(A: operator.Operator, Q: Array) -> Certificate:
    held, Q = jax.lax.stop_gradient((A, Q))
    n = Q.shape[0]
    x, y = Q[:, 0], jnp.cos(jnp.arange(n, dtype=Q.dtype)) * (2 / n) ** 0.5
    Ax, Ay = held.mv(x), held.mv(y)
    size = jnp.linalg.norm(Ax) + jnp.linalg.norm(Ay)
    return Certificate(
        "|xᵀAy − yᵀAx| <= rounding, for two fixed vectors",
        measured=jnp.abs(y @ Ax - x @ Ay),
        bound=rounding(size, 8.0 * n**0.5),
        kind="monitor",
    )
