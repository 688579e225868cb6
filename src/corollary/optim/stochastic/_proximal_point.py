"""Stochastic proximal point: each step minimises one term and a proximity, instead of following its gradient.

    x⁺ = argmin_u f_i(u) + (l2/2)‖u‖² + ‖u − x‖²/(2η).

For a linear model this is one equation in one number, z + ηφ'(z)‖a_i‖² = ⟨a_i, x⟩: in closed form for the squared
loss, by safeguarded Newton else. No step is too long: it stays put where SGD blows up, and for the squared loss η → ∞
gives the Kaczmarz projection. A constant step leaves noise, like SGD's; variance reduction (SVRP) removes it: the step
is taken from x − η(∇f(x̃) − ∇f_i(x̃)) with a snapshot x̃ an epoch. Cost: O(d) a term.
Source: Bertsekas, "Incremental proximal methods" (2011); Asi & Duchi, "Stochastic (approximate) proximal point methods"
(2019); Khaled & Jin, "Faster federated optimization under second-order similarity" (2023), algorithm 1, for SVRP.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import floats, like
from corollary.optim.penalties._base import Scalar
from corollary.optim.stochastic import _epoch as E
from corollary.optim.stochastic._finite_sum import FiniteSum, LinearTerms
from corollary.optim.stochastic._losses import LOSSES

NEWTON = 200  # steps at most; halving alone covers float64


class ProximalPointState(eqx.Module):
    """The iterate with its snapshot, the count of steps, η, the key."""

    x: PyTree
    snapshot: E.Snapshot
    count: Int[Array, ""]
    step: Scalar
    key: Key[Array, ""]


@final
class StochasticProximalPoint(Solver):
    """Stochastic proximal point for linear models without a penalty, for `minimize`. A step is an epoch of n terms.

    Parameters
    ----------
    step_size
        η, or an Optax schedule of the count of terms; 1/L if left out, with L the largest smoothness of a term.
    variance_reduced
        Correct each step by a snapshot's gradients, so that a constant η converges (default).
    passes, sampling, key
        As in `SVRG`; the blocks are single rows.

    Examples
    --------
    >>> from corollary.optim import FiniteSum, minimize
    >>> problem = FiniteSum("squared", [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], [1.0, 2.0, 2.0], l2=0.1)
    >>> minimize(problem, solver=StochasticProximalPoint(), tol=1e-9).value.round(3).tolist()
    [0.885, 0.965]
    """

    step_size: Any = None
    variance_reduced: bool = eqx.field(static=True, default=True)
    passes: int = eqx.field(static=True, default=1)
    sampling: str = eqx.field(static=True, default="iid")
    key: Any = None

    def __check_init__(self):
        """Refuse settings out of range."""
        validation.flag("variance_reduced", self.variance_reduced)
        E.check_settings(self)

    def check(self, problem: Problem) -> None:
        """A `FiniteSum` of a named loss without a penalty."""
        E.check_problem(problem, self, smooth=True, linear=True)

    def init(self, problem: FiniteSum, x0: PyTree) -> ProximalPointState:
        """A full gradient at x0."""
        fixed = None if callable(self.step_size) else self.step_size
        first = E.snapshot(problem, x0, 1)
        step = E.step_of(fixed, problem, first, 1, 1.0)
        return ProximalPointState(x0, first, jnp.int32(0), step, E.first_key(self.key))

    def step(self, problem: FiniteSum, state: ProximalPointState) -> tuple[ProximalPointState, Info]:
        """An epoch, and the full gradient after it."""
        terms: Any = problem.terms
        n = terms.n
        key, draws = jax.random.split(state.key)
        order = E.order(draws, self.sampling, self.passes * n, n)
        at = state.snapshot

        def length(t):
            return like(self.step_size(t), state.x) if callable(self.step_size) else state.step

        def body(i, carry):
            x, t = carry
            k, eta = order[i], length(t)
            if self.variance_reduced:
                correction = at.data - terms.pull(E.take(at.table, k), k, 1)
                x = x - eta * correction
            return prox_of_term(problem, x, k, eta), t + 1

        x, count = jax.lax.fori_loop(0, self.passes * n, body, (state.x, state.count))
        new = E.snapshot(problem, x, 1, at.curvature)
        after = ProximalPointState(x, new, count, state.step, key)
        after, new = E.guarded(problem, after, state, new, at, 1, self.step_size)
        return after, E.report(problem, new, at, length(count))


@follows_input
def prox_of_term(problem: FiniteSum, x: Any, k: Any, eta: Any) -> Any:
    """argmin_u f_k(u) + (l2/2)‖u‖² + ‖u − x‖²/(2η) for one term of a linear model, to rounding. Cost: O(d).

    Use it as a step of one's own. Terms are counted as the problem holds them: shuffled, unless it was made with
    ``shuffle=False``. The answer is (x − ηθ a_k)/(1 + η·l2) with θ = φ'(z) at the root z of
    z(1 + η·l2) + ηφ'(z)‖a_k‖² = ⟨a_k, x⟩, which is increasing in z.

    Examples
    --------
    >>> from corollary.optim import FiniteSum
    >>> problem = FiniteSum("squared", [[3.0, 4.0]], [10.0])
    >>> [round(float(u), 3) for u in prox_of_term(problem, jnp.zeros(2), 0, 1e12)]  # the Kaczmarz projection
    [1.2, 1.6]
    """
    terms = problem.terms
    if not isinstance(terms, LinearTerms):
        raise InputError("problem: found a sum of functions, expected a named loss")
    x = floats(x)
    eta = like(eta, x)
    shrink = 1 if problem.l2 is None else 1 + eta * like(problem.l2, x)
    a = terms.rows.rmv(k, jnp.ones((1,), x.dtype))
    y = jax.lax.dynamic_index_in_dim(jnp.asarray(terms.y), k, keepdims=False)
    pulled = eta / shrink * jnp.vdot(a, a)
    theta = slope_at_prox(terms, jnp.vdot(a, x) / shrink, y, pulled)
    return (x - eta * theta * a) / shrink


def slope_at_prox(terms: LinearTerms, z0: Scalar, y: Scalar, weight: Scalar) -> Scalar:
    """θ = φ'(z) at the root of z + weight·φ'(z) = z0."""
    phi = LOSSES[terms.loss]
    if terms.loss == "squared":
        return (z0 - y) / (1 + weight)
    # The root lies between z0 and z0 − weight·φ'(z0), as φ' is monotone.
    first = z0 - weight * phi.slope(z0, y, terms.delta)
    low, high = jnp.minimum(z0, first), jnp.maximum(z0, first)

    def excess(z):
        return z - z0 + weight * phi.slope(z, y, terms.delta)

    def going(carry):
        z, _, _, moved, count = carry
        return (count < NEWTON) & (jnp.abs(moved) > jnp.finfo(z.dtype).eps * jnp.abs(z))

    def body(carry):
        z, low, high, moved, count = carry
        value = excess(z)
        low, high = jnp.where(value <= 0, z, low), jnp.where(value >= 0, z, high)
        newton = -value / (1 + weight * phi.curvature(z, y, terms.delta))
        # Newton's step where it stays inside and halves the one before; else to the middle.
        fine = (z + newton >= low) & (z + newton <= high) & (jnp.abs(newton) <= jnp.abs(moved) / 2)
        move = jnp.where(fine, newton, low + (high - low) / 2 - z)
        return z + move, low, high, move, count + 1

    z, *_ = jax.lax.while_loop(going, body, (z0, low, high, 2 * (high - low), 0))
    # Where the equation is stiff the root is known better than the slope at it.
    stiff = weight * phi.curvature(z, y, terms.delta) > 1
    return jnp.where(stiff, (z0 - z) / jnp.where(weight > 0, weight, 1), phi.slope(z, y, terms.delta))
