"""The Rayleigh quotient with its bounds, and the iteration that shifts by it.

When: `rayleigh_quotient` to judge any vector as an eigenvector; `rayleigh_quotient_iteration` to finish one that is
roughly known: it triples the digits at each step, but from a rough start nobody can say which eigenpair it will find.
Cost: one product; the iteration one factorisation a step (2n³/3 dense), about four steps.
Source: Parlett, The Symmetric Eigenvalue Problem (1998), §1.5, §4.6-4.9.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.operator import Operator, Sparse
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg.eigen import _iteration as iteration
from corollary.linalg.eigen._iteration import (
    Pair,
    Run,
    Scalar,
    Seen,
    Stop,
    begin,
    follow,
    going,
    iterate,
    norm_from_below,
    rayleigh,
    unit,
)
from corollary.linalg.eigen._shifted import dense_solve, host_csc, is_traced, sparse_solve

COURANT = "Courant-Fischer: Parlett, The Symmetric Eigenvalue Problem (1998), §10.2"


class RayleighQuotient(eqx.Module):
    """R(x) = xᵀAx/xᵀx with its gradient and the residual that bounds its distance to an eigenvalue."""

    value: Float[Array, ""] | np.ndarray | np.floating
    gradient: Float[Array, " n"] | np.ndarray  # 2(Ax − Rx)/xᵀx
    residual: Float[Array, ""] | np.ndarray | np.floating  # ‖Ax − Rx‖/‖x‖
    certificates: dict[str, Certificate]


@follows_input
def rayleigh_quotient(A: Any, x: Any, *, certify: Any = "residual") -> RayleighQuotient:
    """R(x) = xᵀAx/xᵀx, which is Σ λ_i (q_iᵀx)²/‖x‖²: its gradient, and where it lies in the spectrum.

    Use it to judge a vector as an eigenvector of a symmetric matrix. At an angle φ from an eigenvector R is off by
    O(φ²) only. Cost: one product. It can be jitted, vmapped and differentiated.

    Parameters
    ----------
    A
        (n, n) symmetric matrix or operator.
    x
        (n,), not zero; any length.
    certify
        "residual", or "full" to compute the eigenvalues too (dense, O(n³)).

    Returns
    -------
    RayleighQuotient
        ``value``, ``gradient`` 2(Ax − Rx)/xᵀx, ``residual`` ‖Ax − Rx‖/‖x‖, ``certificates``.

    Raises
    ------
    InputError
        For a matrix that is not symmetric, or the zero vector.

    Notes
    -----
    Certificates: ``spectrum`` (exact, a coarse one): |R| ≤ a bound of ‖A‖ where the entries are at hand; with "full"
    ``courant_fischer`` (exact), λ_min ≤ R ≤ λ_max, and ``residual`` (exact), an eigenvalue lies within the residual.
    Source: Parlett, The Symmetric Eigenvalue Problem (1998), §1.5 and Theorem 4.5.1.

    Examples
    --------
    >>> import numpy as np
    >>> found = rayleigh_quotient(np.diag([1.0, 3.0]), np.array([1.0, 1.0]), certify="full")
    >>> float(found.value), found.gradient.tolist(), bool(found.certificates["courant_fischer"].holds)
    (2.0, [-1.0, 1.0], True)
    """
    validation.one_of("residual", "full")("certify", certify)
    op = iteration.operator(A)
    iteration.require_symmetric(op, iteration.is_symmetric(op))
    x = iteration.start_vector(op, x, None, "x")
    values = jnp.linalg.eigvalsh(iteration.dense(op)) if certify == "full" else None
    return _quotient(op, x, values)


@jax.jit
def _quotient(A: Operator, x: Array, values: Array | None) -> RayleighQuotient:
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    z = x / size  # R knows no scale of x, and squares of z do not overflow
    zz = z @ z
    image = A.mv(z)
    value = (z @ image) / zz
    outside = image - value * z
    residual = iteration.length(jax.lax.stop_gradient(outside)) / jnp.sqrt(jax.lax.stop_gradient(zz))
    fixed, certificates = jax.lax.stop_gradient(value), {}
    radius = gershgorin(A)
    if radius is not None:
        radius = jax.lax.stop_gradient(radius)
        noise = rounding(radius, iteration.slack(x.shape[0]))
        certificates["spectrum"] = Certificate(
            "|R(x)| <= ‖A‖_∞, which bounds every |λ|", jnp.abs(fixed), radius + noise, "exact", COURANT
        )
    if values is not None:
        values = jax.lax.stop_gradient(values)
        noise = rounding(jnp.max(jnp.abs(values)), iteration.slack(x.shape[0]))
        certificates["courant_fischer"] = Certificate(
            "λ_min <= R(x) <= λ_max: how far R(x) lies outside",
            jnp.maximum(values[0] - fixed, fixed - values[-1]),
            noise,
            "exact",
            COURANT,
        )
        certificates["residual"] = Certificate(
            "an eigenvalue of A lies within ‖Ax − Rx‖/‖x‖ of R(x)",
            jnp.min(jnp.abs(values - fixed)),
            residual + noise,
            "exact",
            iteration.NEAREST,
        )
    return RayleighQuotient(value, 2 * outside / zz / size, residual, certificates)


def gershgorin(A: Operator) -> Scalar | None:
    """‖A‖_∞ where the entries are at hand."""
    if isinstance(A, Sparse):
        return jnp.max(jax.ops.segment_sum(jnp.abs(A.matrix.data), A.rows, num_segments=A.shape[0]))
    matrix = getattr(A, "matrix", None)
    return None if matrix is None else jnp.max(jnp.sum(jnp.abs(matrix), axis=1))


@follows_input
def rayleigh_quotient_iteration(
    A: Any,
    x0: Any = None,
    *,
    solve: Any = None,
    tol: Any = None,
    max_steps: Any = 50,
    history: Any = False,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """An eigenpair of a symmetric matrix by x ← (A − θI)⁻¹x/‖·‖ with the current Rayleigh quotient θ.

    Use it to finish an approximate eigenvector: near one the angle is cubed at each step. Cost: one factorisation a
    step.

    Parameters
    ----------
    A
        (n, n) symmetric matrix, dense or sparse; an operator only together with `solve`.
    x0
        (n,) start; Gaussian by default, and then any eigenpair may come out.
    solve
        ``solve(theta, x)``, a vector along (A − θI)⁻¹x, instead of the factorisation. It has to return something
        finite where A − θI is singular.
    tol
        Stop at ‖A x − θ x‖ ≤ tol ‖A‖; eps^(2/3) by default.
    max_steps
        Limit of steps.
    history
        Record ``value`` and ``residual``.
    key
        For the default start.

    Returns
    -------
    Solution
        ``value``: (λ, x) with ‖x‖ = 1.

    Raises
    ------
    InputError
        For a matrix that is not symmetric, an operator without `solve`, or a sparse matrix under `jit` without it.

    Notes
    -----
    Certificates: ``residual``, ``backward_error``, ``eigenvalue_error``, ``orthogonality`` (exact, see
    `eigenpair_certificates`); ``monotone`` (monitor): the residual norm
    never rises (Parlett, §4.8), whatever the start.
    Source: Parlett, The Symmetric Eigenvalue Problem (1998), §4.6-4.9; Ostrowski (1958).

    Examples
    --------
    >>> import numpy as np
    >>> found = rayleigh_quotient_iteration(np.diag([1.0, 2.0, 5.0]), np.array([0.1, 1.0, 0.2]))
    >>> round(float(found.value[0]), 12), bool(found.holds)
    (2.0, True)
    """
    op = iteration.operator(A)
    stop = iteration.stopping(op, tol, max_steps, history)
    x = iteration.start_vector(op, x0, key, "x0")
    symmetric = iteration.is_symmetric(op)
    iteration.require_symmetric(op, symmetric)
    if solve is not None:
        run = _drive(op, solve, x, stop) if callable(solve) else _refuse(solve)
    elif isinstance(op, Sparse) and not is_traced(op):
        matrix = host_csc(op)
        run = _begin(op, x, stop)
        while going(run, stop):  # the factorisations live on the host, the rest of a step is compiled
            run = _follow(op, run, sparse_solve(matrix, float(run.pair.value))(run.pair.vector), stop)
    elif hasattr(op, "matrix") and not isinstance(op, Sparse):
        run = _dense(op, x, stop)
    else:
        raise InputError("solve: found None, expected (θ, x) ↦ (A − θI)⁻¹x for an operator (or sparse under jit)")
    certificates = {
        **iteration.certificates(run, stop, symmetric),
        "monotone": Certificate(
            "‖A x − θ x‖ never rises from one step to the next: its largest rise",
            run.seen["_rise"],
            rounding(run.scale, 2 * iteration.slack(x.shape[0])),
            "monitor",
            "Parlett, The Symmetric Eigenvalue Problem (1998), §4.8",
            assumptions=() if symmetric else (iteration.SYMMETRIC,),
        ),
    }
    return Solution(iteration.eigenpair(run), certificates, iteration.status(run), run.steps, {}, run.history or None)


def _refuse(solve: Any) -> Run:
    raise InputError(f"solve: found {type(solve).__name__}, expected a function (θ, x) ↦ (A − θI)⁻¹x")


def _drive(A: Operator, solve: Any, x: Array, stop: Stop) -> Run:
    def advance(pair: Pair) -> Pair:
        return rayleigh(A, unit(solve(pair.value, pair.vector), pair.vector))

    start = rayleigh(A, unit(x, x))
    return iterate(advance, start, norm_from_below(A), stop, _watch, {"_rise": 0 * start.residual})


def _watch(new: Pair, old: Pair, last: Seen) -> Seen:
    return {"_rise": jnp.maximum(last["_rise"], new.residual - old.residual)}


@jax.jit
def _begin(A: Operator, x: Array, stop: Stop) -> Run:
    start = rayleigh(A, unit(x, x))
    return begin(start, norm_from_below(A), stop, {"_rise": 0 * start.residual})


@jax.jit
def _follow(A: Operator, run: Run, solved: Array, stop: Stop) -> Run:
    return follow(run, rayleigh(A, unit(solved, run.pair.vector)), stop, _watch)


@jax.jit
def _dense(A: Any, x: Array, stop: Stop) -> Run:
    return _drive(A, lambda theta, v: dense_solve(A.matrix, theta)(v), x, stop)
