"""How far a linear system A x = b may be trusted: its condition number, estimated, and Wilkinson's forward bound.

`condition_estimate` needs a few solves with a factorisation that is at hand anyway, O(n²) each, where κ₁ itself needs
the inverse, O(n³). Sources: Hager, SIAM J. Sci. Stat. Comput. 5 (1984); Higham, ACM TOMS 14 (1988) 381-396, and
Accuracy and Stability of Numerical Algorithms, 2nd ed., Algorithm 15.1 and Theorem 7.2.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax.scipy.linalg import lu_factor, lu_solve
from jaxtyping import Array, Float, Int

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Solution
from corollary.linalg.least_squares._factors import exponent, shift

MAX_STEPS = 5  # Higham: the estimate hardly ever changes after the third


@follows_input
def condition_estimate(A: Any, *, factor: Any = None) -> Solution:
    """Estimate κ₁(A) = ‖A‖₁‖A⁻¹‖₁ from below by a few solves with A and Aᵀ (Hager & Higham).

    Use it to judge a solve whose LU factors are at hand: O(n²) a step, at most five steps. It is almost always within a
    factor 3 of κ₁, and exact for diagonal matrices; counter-examples exist, so it is no upper bound.

    Parameters
    ----------
    A
        (n, n) matrix.
    factor
        ``(lu, piv)`` of `jax.scipy.linalg.lu_factor` or `scipy.linalg.lu_factor`; ``None``: computed, 2n³/3.

    Returns
    -------
    Solution
        ``value``: the estimate, infinite for a singular matrix; ``stats["inverse_norm"]`` estimates ‖A⁻¹‖₁.

    Raises
    ------
    InputError
        For a matrix that is not square, or factors that do not fit it.

    Notes
    -----
    Certificate ``lower_bound`` (exact): a vector w with ‖w‖₁/‖A w‖₁ of this size is exhibited, so κ₁ is no smaller.

    Examples
    --------
    >>> import numpy as np
    >>> float(condition_estimate(np.diag([1.0, 10.0, 100.0])).value)
    100.0
    """
    A = _square(A)
    if factor is None:
        return _estimate(A, None)
    lu, piv = jnp.asarray(factor[0]).astype(A.dtype), jnp.asarray(factor[1]).astype(jnp.int32)
    if lu.shape != A.shape or piv.shape != A.shape[:1]:
        raise InputError(f"factor: found shapes {lu.shape} and {piv.shape}, expected {A.shape} and {A.shape[:1]}")
    return _estimate(A, (lu, piv))


@jax.jit
def _estimate(A: Float[Array, "n n"], factor: tuple[Float[Array, "n n"], Int[Array, " n"]] | None) -> Solution:
    n, dtype, e = A.shape[0], A.dtype, exponent(A)
    scaled = shift(A, -e)  # κ knows no scale; powers of two keep its parts within range
    lu = (
        lu_factor(scaled)
        if factor is None
        else (jnp.where(jnp.tri(n, k=-1, dtype=bool), factor[0], shift(factor[0], -e)), factor[1])
    )
    singular = jnp.any(jnp.diag(lu[0]) == 0)
    estimate, w = _inverse_norm(lu, n, dtype)
    estimate = jnp.where(singular | ~jnp.isfinite(estimate), jnp.inf, estimate)
    value = jnp.where(singular, jnp.inf, jnp.max(jnp.sum(jnp.abs(scaled), 0)) * estimate)
    w = w / jnp.where(jnp.max(jnp.abs(w)) > 0, jnp.max(jnp.abs(w)), 1)
    stretch = jnp.sum(jnp.abs(w)) / jnp.sum(jnp.abs(scaled @ w))
    eps = jnp.finfo(dtype).eps
    # A w is known to n·eps·‖A‖‖w‖: relative to ‖A w‖ that is n·eps·κ.
    witness = jnp.where(singular, jnp.inf, stretch * (1 + 8 * n * eps * value) * jnp.max(jnp.sum(jnp.abs(scaled), 0)))
    certificate = Certificate(
        "κ₁(A) is at least the estimate: ‖A‖₁‖w‖₁/‖A w‖₁ reaches it for the vector w found",
        value,
        witness,
        "exact",
        "Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., Algorithm 15.1",
    )
    return Solution(value, {"lower_bound": certificate}, stats={"inverse_norm": shift(estimate, -e)})


def _inverse_norm(lu: Any, n: int, dtype: Any) -> tuple[Float[Array, ""], Float[Array, " n"]]:
    """Higham's Algorithm 15.1: climb ‖A⁻¹x‖₁ over the unit ball's vertices, then try one alternating vector."""
    solve, solve_transposed = (lambda v: lu_solve(lu, v)), (lambda v: lu_solve(lu, v, trans=1))
    sign = lambda v: jnp.where(v >= 0, 1, -1).astype(dtype)  # noqa: E731

    def climb(state: tuple) -> tuple:
        best, w, signs, step, _ = state
        gradient = solve_transposed(signs)
        j = jnp.argmax(jnp.abs(gradient))
        v = solve(jnp.zeros(n, dtype).at[j].set(1))
        size = jnp.sum(jnp.abs(v))
        rises = size > best
        moving = rises & jnp.any(sign(v) != signs)
        return jnp.maximum(best, size), jnp.where(rises, v, w), sign(v), step + 1, moving

    v = solve(jnp.full(n, 1 / n, dtype))
    start = (jnp.sum(jnp.abs(v)), v, sign(v), jnp.zeros((), jnp.int32), jnp.asarray(n > 1))
    best, w, *_ = jax.lax.while_loop(lambda s: s[4] & (s[3] < MAX_STEPS), climb, start)
    i = jnp.arange(n, dtype=dtype)
    v = solve((1 - 2 * (jnp.arange(n) % 2).astype(dtype)) * (1 + i / max(n - 1, 1)))
    other = 2 * jnp.sum(jnp.abs(v)) / (3 * n)
    return jnp.maximum(best, other), jnp.where(other > best, v, w)


@follows_input
def linear_system_error(A: Any, b: Any, dA: Any, db: Any) -> Solution:
    """The forward error bound κ/(1 − κα)·(α + β) of A x = b under perturbations, beside the error that they cause.

    α = ‖dA‖/‖A‖ and β = ‖db‖/‖b‖ in the 2-norm. Without the denominator the bound is of first order only; for κα ≥ 1
    A + dA may be singular and there is no bound. Cost: one SVD and two solves, O(n³).

    Parameters
    ----------
    A, b
        (n, n), non-singular, and (n,), not zero.
    dA, db
        The perturbations, of the same shapes.

    Returns
    -------
    Solution
        ``value``: the bound, infinite where κα ≥ 1; ``stats``: error ‖x' − x‖/‖x‖, condition, alpha, beta.

    Notes
    -----
    Certificate ``forward_error`` (theorem): error ≤ bound, assumption κα < 1 checked. Source: Higham (2002), Theorem
    7.2 with E = ‖A‖, f = ‖b‖.

    Examples
    --------
    >>> import numpy as np
    >>> solution = linear_system_error(np.eye(2), np.ones(2), 0.1 * np.eye(2), np.zeros(2))
    >>> round(float(solution.value), 4), round(float(solution.stats["error"]), 4)
    (0.1111, 0.0909)
    """
    A = _square(A)
    b, dA, db = validation.vector("b", b), _square(dA, "dA"), validation.vector("db", db)
    A, b, dA, db = common_float(A, b, dA, db)
    if not (dA.shape == A.shape and b.shape == db.shape == A.shape[:1]):
        found = f"A {A.shape}, b {b.shape}, dA {dA.shape}, db {db.shape}"
        raise InputError(f"dA: found {found}, expected (n, n), (n,), (n, n), (n,)")
    if not isinstance(b, jax.core.Tracer) and not bool(jnp.any(b != 0)):
        raise InputError("b: found zero, expected a vector to which an error can be relative")
    return _error(A, b, dA, db)


@jax.jit
def _error(A: Float[Array, "n n"], b: Float[Array, " n"], dA: Float[Array, "n n"], db: Float[Array, " n"]) -> Solution:
    s = jnp.linalg.svd(A, compute_uv=False)
    condition = jnp.where(s[-1] > 0, s[0] / jnp.where(s[-1] > 0, s[-1], 1), jnp.inf)
    alpha = jnp.where(s[0] > 0, jnp.linalg.svd(dA, compute_uv=False)[0] / jnp.where(s[0] > 0, s[0], 1), jnp.inf)
    beta = jnp.linalg.norm(db) / jnp.linalg.norm(b)
    loss = jnp.where(alpha > 0, condition * alpha, 0)
    valid = (loss < 1) & jnp.isfinite(condition)
    bound = jnp.where(valid, condition * (alpha + beta) / jnp.where(valid, 1 - loss, 1), jnp.inf)
    x = jnp.linalg.solve(A, b)
    error = jnp.linalg.norm(jnp.linalg.solve(A + dA, b + db) - x) / jnp.linalg.norm(x)
    rounding = 8 * A.shape[0] * jnp.finfo(A.dtype).eps * condition  # two backward stable solves
    certificate = Certificate(
        "‖x' − x‖/‖x‖ <= κ/(1 − κα)·(α + β), (A + dA)x' = b + db",
        jnp.where(jnp.isnan(error), jnp.inf, error),
        bound + rounding,
        "theorem",
        "Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., Theorem 7.2",
        assumptions=(Assumption("κ‖dA‖/‖A‖ < 1", checked=True, holds=valid),),
    )
    stats = {"error": error, "condition": condition, "alpha": alpha, "beta": beta}
    return Solution(bound, {"forward_error": certificate}, 0, 0, stats)


def _square(A: Any, name: str = "A") -> Array:
    A = validation.matrix(name, A)
    if A.shape[0] != A.shape[1]:
        raise InputError(f"{name}: found shape {A.shape}, expected a square matrix")
    return A
