"""Power iteration: the eigenvalue of largest modulus from products with A alone.

When: the dominant pair of a large operator where a modest accuracy does, and as the yardstick of better methods (a
Krylov method needs about the square root of the steps). It needs |λ₁| > |λ₂|: with a dominant complex pair or with
λ₂ = −λ₁ the vector turns or swings forever, and `stats` says so. Cost: one product and O(n) a step; about
log(1/tol)/log|λ₁/λ₂| steps. Source: Golub & Van Loan, Matrix Computations, 4th ed., §7.3.1, §8.2.1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Key

from corollary.core.operator import Operator
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg.eigen import _iteration as iteration
from corollary.linalg.eigen._iteration import Pair, Run, Scalar, Stop, iterate, norm_from_below, rayleigh, unit
from corollary.linalg.eigen._tangent import Known, known, rate, watcher


@follows_input
def power_iteration(
    A: Any,
    v0: Any = None,
    *,
    tol: Any = None,
    max_steps: Any = 1000,
    reference: Any = None,
    history: Any = False,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """Leading eigenpair by x ← A x/‖A x‖ with the Rayleigh quotient xᵀA x.

    Use it where only products with A are affordable and |λ₂/λ₁| is well below one. Cost: one product a step. It can be
    jitted and vmapped.

    Parameters
    ----------
    A
        (n, n) dense or sparse matrix, or operator; symmetric or not.
    v0
        (n,) start; Gaussian by default. One that is orthogonal to the (left) leading eigenvector leads, in exact
        arithmetic, to another eigenpair: no residual can tell.
    tol
        Stop at ‖A x − θ x‖ ≤ tol ‖A‖ (a lower bound of ‖A‖ is used); eps^(2/3) by default.
    max_steps
        Limit of steps.
    reference
        For the theorem, where A is symmetric: eigenpairs (values, vectors), at least the two largest in modulus, as
        `numpy.linalg.eigh` gives them; or True to compute them (dense, O(n³)).
    history
        Record ``value`` (Rayleigh quotients), ``residual`` and with a reference ``tan_angle`` and ``tan_bound``.
    key
        For the default start; ``jax.random.key(0)`` by default.

    Returns
    -------
    Solution
        ``value``: (λ, v), ‖v‖ = 1, the sign of v's largest entry positive. ``stats``: ``ritz_pair``, the two
        eigenvalues of A on span{x, A x}; ``tie``, True where the run did not converge and these two are invariant and
        of one modulus (λ₂ = −λ₁, or a complex pair): no number of steps will do.

    Raises
    ------
    InputError
        For a matrix that is not square, real and finite, a zero start, and settings out of range.

    Notes
    -----
    Certificates (exact, see `eigenpair_certificates`): ``residual``, ``backward_error``, and where A is known to be
    symmetric ``eigenvalue_error`` and ``orthogonality``. Which eigenvalue it is, no residual can tell. With a
    `reference` ``rate`` (theorem): tan∠(x_t, u₁) ≤ |λ₂/λ₁|^t tan∠(x_0, u₁) at every t.
    Source: Golub & Van Loan, 4th ed., Theorem 8.2.1. The limit is ±u₁, and the sign alternates if λ₁ < 0.

    Examples
    --------
    >>> import numpy as np
    >>> found = power_iteration(np.diag([1.0, -3.0, 2.0]))
    >>> value, vector = found.value
    >>> round(float(value), 6), np.abs(vector).round(6).tolist(), bool(found.holds)
    (-3.0, [0.0, 1.0, 0.0], True)
    """
    op = iteration.operator(A)
    stop = iteration.stopping(op, tol, max_steps, history)
    x = iteration.start_vector(op, v0, key)
    symmetric = iteration.is_symmetric(op)
    if reference is not None:
        iteration.require_symmetric(op, symmetric)
    theorem = known(op, reference, 1)
    run, pair, tie = _power(op, x, stop, theorem)
    certificates = iteration.certificates(run, stop, bool(symmetric))
    if theorem is not None:
        certificates["rate"] = rate(theorem, run.seen)
    stats = {"ritz_pair": pair, "tie": tie}
    value, status = iteration.eigenpair(run), iteration.status(run)
    return Solution(value, certificates, status, run.steps, stats, run.history or None)


@jax.jit
def _power(
    A: Operator, x: Array, stop: Stop, theorem: Known | None
) -> tuple[Run, Complex[Array, " 2"], Bool[Array, ""]]:
    def advance(pair: Pair) -> Pair:
        return rayleigh(A, unit(pair.image, pair.vector))  # a vector that A sends to zero is an eigenvector

    start = rayleigh(A, unit(x, x))
    run = iterate(advance, start, norm_from_below(A), stop, *watcher(theorem, start))
    pair, defect = ritz_pair(A, run.pair)
    near = jnp.sqrt(stop.tol) * run.scale
    size = jnp.abs(pair)
    tie = ~run.converged & (defect <= near) & (jnp.max(size) - jnp.min(size) <= near)
    return run, pair, tie


def ritz_pair(A: Operator, pair: Pair) -> tuple[Complex[Array, " 2"], Scalar]:
    """The eigenvalues of A on span{x, A x}, and how far that plane is from invariant; (θ, 0) for a line."""
    x, residual = pair.vector, pair.image - pair.value * pair.vector
    residual = residual - (x @ residual) * x
    q = unit(residual, jnp.zeros_like(x))
    image = A.mv(q)
    a, b, c, d = pair.value, x @ image, q @ pair.image, q @ image
    defect = iteration.length(image - b * x - d * q)
    top = jnp.maximum(jnp.max(jnp.abs(jnp.stack([a, b, c, d]))), jnp.finfo(x.dtype).tiny)
    a, b, c, d = (z / top for z in (a, b, c, d))
    square, middle = (a - d) ** 2 / 4 + b * c, (a + d) / 2
    size = jnp.sqrt(jnp.abs(square)) * top
    real, imaginary = jnp.where(square > 0, size, 0), jnp.where(square < 0, size, 0)
    values = (jax.lax.complex(middle * top + s * real, s * imaginary) for s in (1, -1))
    return jnp.stack(list(values)), defect
