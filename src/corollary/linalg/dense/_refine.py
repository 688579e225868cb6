"""Mixed-precision iterative refinement of A x = b: factor in float32, correct with float64 residuals.

When: a large, not too ill-conditioned system, where a float32 factorisation is twice as fast (far more on a GPU) and
needs half the memory. Each step multiplies the error by about κ(A)·u, u = 2⁻²⁴; for κ u ≥ 1 it diverges, and says so.

Cost: 2n³/3 flops in float32, then O(n²) a step.
Source: Wilkinson (1963); Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., ch. 12; Carson & Higham, SIAM
J. Sci. Comput. 40 (2018), Algorithm 1.1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import lu_factor, lu_solve
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.linalg.dense._condition import _inverse_norm
from corollary.linalg.least_squares._factors import exponent, shift


@follows_input
def refine(A: Any, b: Any, *, tol: Any = None, max_steps: int = 30) -> Solution:
    """Solve A x = b to float64 accuracy from a float32 factorisation.

    Parameters
    ----------
    A
        (n, n) float64 (NumPy input of any precision is taken to float64; JAX arrays need 64-bit types on).
    b
        (n,) or (n, k).
    tol
        Stop at a normwise backward error ‖b − A x‖_∞/(‖A‖_∞‖x‖_∞ + ‖b‖_∞) of this size; ``None``: √n · eps.
    max_steps
        Corrections at most. It may be traced.

    Returns
    -------
    Solution
        ``value``: the best x met; ``steps``: corrections; ``stats``: rate (‖d_k‖/‖d_{k−1}‖ at worst), condition (κ₁
        estimated from the float32 factors), diverged. Status: ``PRECISION`` where corrections stopped shrinking,
        ``NON_FINITE`` where the float32 factors are singular.

    Raises
    ------
    InputError
        For a matrix that is not square, lengths that differ, or float64 not at hand.

    Notes
    -----
    Certificates: ``backward_error`` (exact; Rigal & Gaches 1967): x solves a system perturbed by so much; its
    assumption κ₁·2⁻²⁴ < 1 is that of convergence and is shown, from the estimate. ``contraction``
    (monitor): corrections shrink.

    Examples
    --------
    >>> import numpy as np
    >>> A = np.array([[4.0, 1.0], [1.0, 3.0]])
    >>> solution = refine(A, np.array([1.0, 2.0]))
    >>> bool(np.allclose(A @ solution.value, [1.0, 2.0], rtol=1e-15)), bool(solution.converged)
    (True, True)
    """
    A, b = validation.matrix("A", A), validation.vector_or_matrix("b", b)
    if A.shape[0] != A.shape[1]:
        raise InputError(f"A: found shape {A.shape}, expected a square matrix; least squares: linalg.lstsq")
    validation.same_length("A", A, "b", b)
    validation.integer(0)("max_steps", max_steps) if not isinstance(max_steps, jax.Array) else None
    validation.number(0, none=True)("tol", tol) if not isinstance(tol, jax.Array) else None
    if not jax.config.read("jax_enable_x64"):
        raise InputError("A: found JAX arrays with 64-bit types off, expected jax_enable_x64 or NumPy data")
    A, b = A.astype(jnp.float64), b.astype(jnp.float64)
    default = A.shape[0] ** 0.5 * float(jnp.finfo(jnp.float64).eps)
    tol = jnp.asarray(default if tol is None else tol, jnp.float64)
    return _refine(A, b, tol, jnp.asarray(max_steps, jnp.int32))


@jax.jit
def _refine(A: Float[Array, "n n"], b: Array, tol: Float[Array, ""], max_steps: Array) -> Solution:
    ea, eb = exponent(A), exponent(b)
    A, B = shift(A, -ea), shift(b, -eb).reshape(b.shape[0], -1)
    low = lu_factor(A.astype(jnp.float32))
    top = lambda v: jnp.max(jnp.abs(v), axis=0)  # noqa: E731
    size = jnp.max(jnp.sum(jnp.abs(A), 1))

    def solve(r: Array) -> Array:
        scale = jnp.where(top(r) > 0, top(r), 1)  # the residual is tiny: bring it to one before float32
        return lu_solve(low, (r / scale).astype(jnp.float32)).astype(r.dtype) * scale

    def backward(x: Array, r: Array) -> Array:
        scale = size * top(x) + top(B)
        return jnp.max(top(r) / jnp.where(scale > 0, scale, 1))

    def correct(state: tuple) -> tuple:
        x, best, error, last, worst, step, _ = state
        d = solve(B - A @ x)
        moved = jnp.max(jnp.where(jnp.isfinite(d), jnp.abs(d), jnp.inf))
        rate = moved / jnp.where(last > 0, last, 1)
        x = x + d
        now = backward(x, B - A @ x)
        better = now < error
        # A correction that no longer shrinks although the error is not yet small: κ u is not below one.
        stalled = ~(rate < 1) & (step > 0)
        worst = jnp.where(step > 0, jnp.maximum(worst, rate), worst)
        return (
            x,
            jnp.where(better, x, best),
            jnp.where(better, now, error),
            moved,
            worst,
            step + 1,
            stalled | ~jnp.isfinite(moved),
        )

    def unfinished(state: tuple) -> Array:
        *_, error, _, _, step, stalled = state
        return (error > tol) & (step < max_steps) & ~stalled

    x = solve(B)
    start = jnp.where(jnp.all(jnp.isfinite(x)), x, jnp.zeros_like(x))
    zero = jnp.zeros((), B.dtype)
    first = backward(start, B - A @ start)
    state = (start, start, first, jnp.max(top(start)), zero, jnp.zeros((), jnp.int32), ~jnp.all(jnp.isfinite(x)))
    _, best, error, _, worst, steps, stalled = jax.lax.while_loop(unfinished, correct, state)
    inverse, _ = _inverse_norm(low, A.shape[0], jnp.float32)
    singular = ~jnp.isfinite(inverse)
    condition = jnp.where(singular, jnp.inf, inverse.astype(B.dtype) * jnp.max(jnp.sum(jnp.abs(A), 0)))
    converged = error <= tol
    unit = 2.0**-24
    certificates = {
        "backward_error": Certificate(
            "‖b − A x‖_∞ <= tol · (‖A‖_∞‖x‖_∞ + ‖b‖_∞)",
            error,
            tol,
            "exact",
            "Rigal & Gaches, J. ACM 14 (1967); Higham (2002), Theorem 7.1",
            assumptions=(Assumption(f"κ₁·{unit:.1e} < 1, else refinement may diverge"),),
        ),
        "contraction": Certificate(
            "each correction is smaller than the one before",
            worst,
            jnp.ones_like(worst),
            "monitor",
            "Higham (2002), §12.1",
        ),
    }
    status = jnp.where(converged, Status.CONVERGED, jnp.where(stalled, Status.PRECISION, Status.MAX_STEPS))
    status = jnp.where(singular & ~converged, Status.NON_FINITE, status).astype(jnp.int32)
    value = shift(best, eb - ea)
    value = value[:, 0] if b.ndim == 1 else value
    stats = {
        "rate": worst,
        "condition": condition,
        "diverged": stalled & ~converged,
        "solver": Note("LU in float32, residuals in float64"),
    }
    return Solution(value, certificates, status, steps, stats)
