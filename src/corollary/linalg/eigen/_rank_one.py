"""The best rank-one approximation A ≈ σ₁u₁v₁ᵀ by alternating power iteration.

When: the leading singular triplet of a large matrix from products with A and Aᵀ; it is power iteration on AᵀA without
forming it, so its squared ratio (σ₂/σ₁)² a step, and no tie of signs can stop it. Cost: one product with A and one with
Aᵀ a step. Source: Golub & Van Loan, Matrix Computations, 4th ed., §8.6.1, §12.4.3 (the rank-one case of alternating
least squares).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, Key

from corollary.core.certificate import Certificate
from corollary.core.operator import Operator, Sparse, dtype
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg.eigen import _iteration as iteration
from corollary.linalg.eigen._iteration import Pair, Run, Stop, iterate, length, norm_from_below, unit

SINGULAR = "Weyl, on [[0, A], [Aᵀ, 0]]: Golub & Van Loan, Matrix Computations, 4th ed., §8.6.1, Corollary 8.6.2"


class RankOne(eqx.Module):
    """σ u vᵀ: the largest value of uᵀA v over unit vectors, and where it is taken."""

    sigma: Float[Array, ""] | np.ndarray | np.floating
    u: Float[Array, " m"] | np.ndarray
    v: Float[Array, " n"] | np.ndarray


@follows_input
def rank_one_approximation(
    A: Any,
    v0: Any = None,
    *,
    tol: Any = None,
    max_steps: Any = 1000,
    history: Any = False,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """Leading singular triplet by u ← A v/‖A v‖, v ← Aᵀu/‖Aᵀu‖; σ₁u vᵀ is the best rank-one approximation of A.

    Use it for one factor of a large matrix. Each half step maximises uᵀA v over one unit vector, so the objective never
    falls. All its stationary pairs are singular pairs, and of these only the leading one is stable. Cost: two products
    a step. It can be jitted and vmapped.

    Parameters
    ----------
    A
        (m, n) dense or sparse matrix, or operator (its transpose is needed).
    v0
        (n,) start; Gaussian by default.
    tol
        Stop at ‖A v − σ u‖ ≤ tol ‖A‖ (Aᵀu = σ v holds by construction); eps^(2/3) by default.
    max_steps
        Limit of steps.
    history
        Record ``value`` (σ, never falling) and ``residual``.
    key
        For the default start.

    Returns
    -------
    Solution
        ``value``: `RankOne` (sigma, u, v). ``stats``: ``loss`` ½‖A − σuvᵀ‖_F² = ½(‖A‖_F² − σ²), NaN where the entries
        of A are not at hand.

    Raises
    ------
    InputError
        For bad data, a zero start and settings out of range.

    Notes
    -----
    Certificates: ``residual`` (exact): a singular value of A lies within ‖A v − σ u‖ of σ; ``monotone`` (monitor): σ
    never fell. That it is the largest one is assumed: no residual can tell.
    Source: Golub & Van Loan, 4th ed., §8.6.1 and Theorem 2.4.8 (Eckart & Young).

    Examples
    --------
    >>> import numpy as np
    >>> found = rank_one_approximation(np.outer([3.0, 4.0], [1.0, 0.0, 0.0]))
    >>> float(found.value.sigma), np.abs(found.value.u).round(6).tolist(), bool(found.holds)
    (5.0, [0.6, 0.8], True)
    """
    op = iteration.operator(A, square=False)
    stop = iteration.stopping(op, tol, max_steps, history)
    v = iteration.start_vector(op, v0, key)
    run, bound, loss = _alternate(op, v, stop)
    u, v = run.pair.vector
    certificates = {
        "residual": Certificate(
            "a singular value of A lies within ‖A v − σ u‖ <= tol·‖A‖ of σ", run.pair.residual, bound, "exact", SINGULAR
        ),
        "monotone": Certificate(
            "σ = uᵀA v never falls from one step to the next: its largest fall",
            run.seen["_fall"],
            iteration.rounding(run.scale, iteration.slack(max(u.shape[0], v.shape[0]))),
            "monitor",
            "each half step is the maximiser over one unit vector (Cauchy-Schwarz)",
        ),
    }
    value = RankOne(run.pair.value, u, v)
    return Solution(value, certificates, iteration.status(run), run.steps, {"loss": loss}, run.history or None)


@jax.jit
def _alternate(A: Operator, v: Array, stop: Stop) -> tuple[Run, Array, Array]:
    transpose = A.transpose()

    def look(u: Array, v: Array) -> Pair:
        image = A.mv(v)  # A v; beside it Aᵀu = σ v by construction
        sigma = jnp.maximum(u @ image, 0)
        return Pair((u, v), image, sigma, length(image - sigma * u))

    def advance(pair: Pair) -> Pair:
        u, v = pair.vector
        u = unit(pair.image, u)
        return look(u, unit(transpose.mv(u), v))

    v = unit(v, v)
    any_u = jnp.full(A.out_size(), A.out_size() ** -0.5, dtype(A))
    u = unit(A.mv(v), any_u)
    start = look(u, unit(transpose.mv(u), v))  # so that Aᵀu = σ v from the start
    watch = lambda new, old, last: {"_fall": jnp.maximum(last["_fall"], old.value - new.value)}  # noqa: E731
    run = iterate(advance, start, norm_from_below(A), stop, watch, {"_fall": 0 * start.value})
    u, v = run.pair.vector
    sign = jnp.where(v[jnp.argmax(jnp.abs(v))] < 0, -1, 1).astype(v.dtype)  # v's largest entry is positive
    run = eqx.tree_at(lambda run: run.pair.vector, run, (sign * u, sign * v))
    return run, iteration.threshold(run.scale, stop.tol, run.pair), _loss(A, run.pair.value)


def _loss(A: Operator, sigma: Array) -> Array:
    """½(‖A‖_F² − σ²) as ½(‖A‖_F − σ)(‖A‖_F + σ)."""
    entries = A.matrix if isinstance(A, lx.MatrixLinearOperator) else A.matrix.data if isinstance(A, Sparse) else None
    if entries is None:
        return jnp.full_like(sigma, jnp.nan)
    norm = length(entries.reshape(-1))
    return 0.5 * jnp.maximum(norm - sigma, 0) * (norm + sigma)
