"""Shifted inverse iteration: the eigenpair nearest to a shift, from one factorisation.

When: an eigenvector for an eigenvalue that is known approximately, or the eigenvalue nearest to a given number (the
smallest in modulus only for μ = 0). Cost: one LU of A − μI (dense 2n³/3; sparse: its fill) and one solve and one
product a step; about log(1/tol)/log(|λ_j − μ|/|λ_i − μ|) steps. Source: Golub & Van Loan, Matrix Computations, 4th
ed., §7.6.1, §8.2.2; Ipsen, SIAM Review 39 (1997).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.operator import Function, Operator, Sparse, dtype
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg.eigen import _iteration as iteration
from corollary.linalg.eigen._iteration import (
    Pair,
    Run,
    Stop,
    begin,
    follow,
    going,
    iterate,
    norm_from_below,
    rayleigh,
    unit,
)
from corollary.linalg.eigen._shifted import dense_solve, host_csc, is_traced, multiplied, sparse_solve
from corollary.linalg.eigen._tangent import Known, known, rate, watcher


@follows_input
def inverse_iteration(
    A: Any,
    shift: Any = 0.0,
    v0: Any = None,
    *,
    solve: Any = None,
    tol: Any = None,
    max_steps: Any = 100,
    reference: Any = None,
    history: Any = False,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """Eigenpair nearest to `shift`, by x ← (A − μI)⁻¹x / ‖·‖ with one factorisation.

    Use it where a good shift is known: the closer it is, the fewer the steps; a shift that is an eigenvalue to the last
    bit is no harm. Cost: one LU, then a solve and a product a step.

    Parameters
    ----------
    A
        (n, n) dense or sparse matrix, symmetric or not; an operator only together with `solve`.
    shift
        μ, real.
    v0
        (n,) start; Gaussian by default.
    solve
        x ↦ (A − μI)⁻¹x, a JAX function or an operator, instead of the factorisation.
    tol
        Stop at ‖A x − θ x‖ ≤ tol ‖A‖; eps^(2/3) by default.
    max_steps
        Limit of steps.
    reference
        For the theorem, where A is symmetric: eigenpairs (values, vectors), at least the two nearest to μ; or True to
        compute them (dense, O(n³)).
    history
        Record ``value``, ``residual`` and with a reference ``tan_angle`` and ``tan_bound``.
    key
        For the default start.

    Returns
    -------
    Solution
        ``value``: (λ, v) with ‖v‖ = 1. ``stats``: ``distance`` |λ − μ|.

    Raises
    ------
    InputError
        For bad data or settings, an operator without `solve`, or a sparse matrix under `jit` without it.

    Notes
    -----
    Certificates (exact, see `eigenpair_certificates`): ``residual``, ``backward_error``, and where A is known to be
    symmetric ``eigenvalue_error`` and ``orthogonality``; with a `reference` ``rate`` (theorem): the angle to the
    nearest eigenvector shrinks by |λ_i − μ|/|λ_j − μ| a step. Two eigenvalues at the same distance (a complex pair
    always is) make it run to the step limit, as power iteration does. Source: Golub & Van Loan, 4th ed., §8.2.2.

    Examples
    --------
    >>> import numpy as np
    >>> found = inverse_iteration(np.diag([1.0, 2.0, 5.0]), 2.4)
    >>> round(float(found.value[0]), 9), bool(found.holds)
    (2.0, True)
    """
    op = iteration.operator(A)
    stop = iteration.stopping(op, tol, max_steps, history)
    mu = real_shift(op, shift)
    x = iteration.start_vector(op, v0, key)
    symmetric = iteration.is_symmetric(op)
    if reference is not None:
        iteration.require_symmetric(op, symmetric)
    theorem = known(op, reference, 1, mu)
    if solve is not None:
        run = _given(op, as_solve(op, solve), x, stop, theorem)
    elif isinstance(op, Sparse) and not is_traced((op, mu)):
        solved = sparse_solve(host_csc(op), float(mu))
        run = _begin(op, x, stop, theorem)
        while going(run, stop):  # the factorisation lives on the host, the rest of a step is compiled
            run = _follow(op, run, solved(run.pair.vector), stop, theorem)
    elif hasattr(op, "matrix") and not isinstance(op, Sparse):
        run = _dense(op, mu, x, stop, theorem)
    else:
        raise InputError("solve: found None, expected x ↦ (A − μI)⁻¹x for an operator (or a sparse matrix under jit)")
    certificates = iteration.certificates(run, stop, bool(symmetric))
    if theorem is not None:
        certificates["rate"] = rate(theorem, run.seen)
    value, stats = iteration.eigenpair(run), {"distance": jnp.abs(run.pair.value - mu)}
    return Solution(value, certificates, iteration.status(run), run.steps, stats, run.history or None)


def real_shift(op: Operator, shift: Any) -> Array:
    """A finite real scalar in the operator's precision; traced ones pass."""
    if not isinstance(shift, jax.Array):
        validation.number(-float(jnp.finfo(dtype(op)).max), float(jnp.finfo(dtype(op)).max))("shift", shift)
    elif shift.ndim:
        raise InputError(f"shift: found shape {shift.shape}, expected a number")
    return jnp.asarray(shift).astype(dtype(op))


def as_solve(op: Operator, solve: Any) -> Operator:
    """The caller's solve as an operator, which crosses `jit`."""
    if isinstance(solve, Operator):
        return solve
    if not callable(solve):
        raise InputError(f"solve: found {type(solve).__name__}, expected a function or an operator")
    inverse: Any = solve
    return Function(inverse, op.in_size(), inverse, dtype=dtype(op))  # the adjoint is never asked for


def _drive(A: Operator, solve: Any, x: Array, stop: Stop, theorem: Known | None) -> Run:
    def advance(pair: Pair) -> Pair:
        return rayleigh(A, unit(solve(pair.vector), pair.vector))

    start = rayleigh(A, unit(x, x))
    return iterate(advance, start, norm_from_below(A), stop, *watcher(theorem, start))


@jax.jit
def _begin(A: Operator, x: Array, stop: Stop, theorem: Known | None) -> Run:
    start = rayleigh(A, unit(x, x))
    return begin(start, norm_from_below(A), stop, watcher(theorem, start)[1])


@jax.jit
def _follow(A: Operator, run: Run, solved: Array, stop: Stop, theorem: Known | None) -> Run:
    pair = rayleigh(A, unit(solved, run.pair.vector))
    return follow(run, pair, stop, watcher(theorem, run.pair)[0])


@jax.jit
def _given(A: Operator, solve: Operator, x: Array, stop: Stop, theorem: Known | None) -> Run:
    return _drive(A, multiplied(solve), x, stop, theorem)


@jax.jit
def _dense(A: Any, mu: Array, x: Array, stop: Stop, theorem: Known | None) -> Run:
    return _drive(A, dense_solve(A.matrix, mu), x, stop, theorem)
