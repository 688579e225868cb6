"""Malitsky-Pock: the primal-dual method with a line search, for which ‖K‖ need not be known.

Each step tries a longer τ and shortens it till √β·τ·‖Kᵀ(u⁺ − u)‖ ≤ δ‖u⁺ − u‖, with σ = βτ: the steps follow the K that
is met along the way, not the worst direction. A trial costs one product with Kᵀ; K x is computed once a step.
Source: Malitsky & Pock, "A first-order primal-dual algorithm with linesearch" (2018), algorithm 1.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from corollary.core import validation
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.splitting import _linear_map as lm
from corollary.optim.splitting._chambolle_pock import ChambollePock, Pair
from corollary.optim.splitting._splitting import Point, Splitting, curvature_guess, settle

TRIALS = 60


class MalitskyPockState(eqx.Module):
    """The answer x, the last pair, the step τ, its growth θ, and √β, with β = σ/τ."""

    x: PyTree
    point: Pair
    tau: Scalar
    growth: Scalar
    root: Scalar
    count: Int[Array, ""]
    trials: Int[Array, ""]
    first: tuple[Scalar, Scalar]


@final
class MalitskyPock(Solver):
    """The primal-dual method with line search, for a `Splitting` without a smooth term.

    Parameters
    ----------
    beta
        σ/τ > 0; from the problem's own scale if left out.
    delta
        In (0, 1): how much of the admissible step is used.
    shrink
        In (0, 1): the factor of a shorter trial.

    Examples
    --------
    >>> from corollary.optim import Splitting, minimize, penalties
    >>> problem = Splitting(penalties.Box(1.0, 4.0), penalties.L1(1.0), [[1.0, 1.0], [0.0, 2.0]])
    >>> minimize(problem, solver=MalitskyPock(), tol=1e-9).value.round(6).tolist()
    [1.0, 1.0]
    """

    beta: Any = None
    delta: Any = 0.99
    shrink: Any = 0.7

    def __check_init__(self):
        """Refuse settings out of range."""
        if self.beta is not None:
            at_least_zero("beta", self.beta, positive=True)
        for name, value in (("delta", self.delta), ("shrink", self.shrink)):
            at_least_zero(name, value, positive=True)
            if not isinstance(value, jax.Array):
                validation.number(0.0, 0.999)(name, value)

    def check(self, problem: Problem) -> None:
        """A `Splitting` without a smooth term."""
        ChambollePock().check(problem)

    def init(self, problem: Splitting, x0: PyTree) -> MalitskyPockState:
        """The state at x0, with u = 0 and a first step from a few products with K."""
        x0 = jax.tree.map(jnp.asarray, x0)
        knorm = lm.norm_squared(problem.K, x0)
        weight = curvature_guess(problem, x0, knorm) * jnp.sqrt(knorm)
        root = weight if self.beta is None else jnp.sqrt(like(self.beta, x0))  # √β: β itself may leave float32's range
        Kx = problem.forward(x0)
        pair = Pair(x0, optax.tree.zeros_like(Kx), Kx, optax.tree.zeros_like(x0))
        zero, none = like(0.0, x0), jnp.int32(0)
        return MalitskyPockState(x0, pair, 1 / (root * jnp.sqrt(knorm)), like(1.0, x0), root, none, none, (zero, zero))

    def step(self, problem: Splitting, state: MalitskyPockState) -> tuple[MalitskyPockState, Info]:
        """x⁺ with the last step, then the longest admissible step for u⁺."""
        z, root = state.point, state.root
        x = problem.f.prox(optax.tree.add_scale(z.x, -state.tau, z.KTu), state.tau)
        Kx = problem.forward(x)

        def attempt(tau):
            theta = tau / state.tau
            ahead = jax.tree.map(lambda new, old: new + theta * (new - old), Kx, z.Kx)
            sigma = root * (root * tau)
            u, p = problem.dual_prox(optax.tree.add_scale(z.u, sigma, ahead), sigma)
            return u, p, problem.adjoint(u, x)

        def too_long(trial):
            tau, (u, _, KTu), count = trial
            stretch = root * tau * norm(optax.tree.sub(KTu, z.KTu))
            slack = 8 * jnp.finfo(tau.dtype).eps * norm(u)
            return ~(stretch <= like(self.delta, x) * norm(optax.tree.sub(u, z.u)) + slack) & (count < TRIALS)

        def shorten(trial):
            tau = trial[0] * like(self.shrink, x)
            return tau, attempt(tau), trial[2] + 1

        longest = state.tau * jnp.sqrt(1 + state.growth)
        tau, (u, p, KTu), trials = jax.lax.while_loop(too_long, shorten, (longest, attempt(longest), jnp.int32(1)))

        new = Pair(x, u, Kx, KTu)
        xi = jax.tree.map(lambda old, new, w: (old - new) / state.tau - w, z.x, x, z.KTu)
        rounded = norm(x) / state.tau, norm(u) / (root * (root * tau))
        point = Point(x, u, Kx, KTu, None, optax.tree.zeros_like(x), xi, p, rounded)
        first = settle(state.first, point, state.count)
        info = problem.measure(point, tau, first)
        return MalitskyPockState(
            x, new, tau, tau / state.tau, root, state.count + 1, state.trials + trials, first
        ), info

    def stats(self, problem: Splitting, state: MalitskyPockState) -> dict[str, Any]:
        """The dual answer, the last step, and how many steps were tried."""
        return {
            "dual": state.point.u,
            "tau": state.tau,
            "sigma": state.root * (state.root * state.tau),
            "trials": state.trials,
        }
