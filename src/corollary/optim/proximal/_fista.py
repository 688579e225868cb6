"""FISTA: proximal gradient with Nesterov's momentum.

With θ_0 = 1 and θ_{k+1} = (1 + √(1 + 4θ_k²))/2:

    x_{k+1} = prox_{th}(y_k − t∇f(y_k)),    y_{k+1} = x_{k+1} + (θ_k − 1)/θ_{k+1} · (x_{k+1} − x_k).

Then F(x_k) − F* ≤ 2L‖x0 − x*‖²/(k + 1)², the best order that first-order methods reach, at the price of ISTA: A y is
extrapolated like y. F need not fall at every step; `minimize` keeps the best. Restarting the momentum when it points
uphill gives linear convergence under strong convexity without knowing its constant (there is no bound then).

Variants: θ_{k+1} = θ_k + 1/a with a > 2, for which the iterates themselves converge; a constant momentum where f is
known to be strongly convex; and a monotone form, in which F never rises.
Source: Beck & Teboulle (2009), theorem 4.4; O'Donoghue & Candès, "Adaptive restart for accelerated gradient schemes"
(2015), section 3.2; Chambolle & Dossal, "On the convergence of the iterates of FISTA" (2015), theorem 4.1; Chambolle &
Pock, "An introduction to continuous optimization for imaging" (2016), theorem 4.10; Beck & Teboulle, "Fast
gradient-based algorithms for constrained total variation image denoising" (2009), section 5.2 (the monotone form).
"""

from __future__ import annotations

from typing import Any, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim._composite import Composite, composite
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, like
from corollary.optim.penalties._base import Scalar
from corollary.optim.proximal._proximal_gradient import (
    check_step,
    first_step,
    forward_backward,
    measured,
    searches,
    subgradient,
)


class FistaState(eqx.Module):
    """The iterate x and the extrapolated point y with their images under A, the momentum θ, and the step length."""

    x: PyTree
    z: PyTree
    y: PyTree
    zy: PyTree
    theta: Scalar
    step: Scalar


@final
class Fista(Solver):
    """FISTA, for `minimize`; h must be convex. Cost: one product with A, one with Aᵀ, one prox a step.

    Without a duality gap to stop on, one more product with Aᵀ.

    Parameters
    ----------
    restart
        ``"adaptive"`` (default): drop the momentum when it points uphill; None: the method of the theorem.
    step_size
        None: 1/L where the smooth term knows L, else a search; ``"backtracking"``; or a number.
    law
        How θ grows: ``"nesterov"``, or ``"chambolle-dossal"``, θ_{k+1} = θ_k + 1/a.
    a
        Of the latter law, > 2: F(x_k) − F* ≤ a²L‖x0 − x*‖²/(2(k + a − 1)²), and x_k converges.
    strong_convexity
        A constant m > 0 of f, if known: with restart=None the momentum is (1 − √(m t))/(1 + √(m t)) throughout, and
        F(x_k) − F* ≤ (1 − √(m t))^k·(F(x0) − F* + m/2·‖x0 − x*‖²).
    monotone
        Keep the old point where the new one is worse (one more evaluation of h a step); the bounds are the same.

    Examples
    --------
    >>> from corollary.optim import Composite, LeastSquares, minimize, penalties
    >>> problem = Composite(LeastSquares([[1.0, 0.0], [0.0, 2.0]], [2.0, 1.0]), penalties.L1(0.5))
    >>> minimize(problem, tol=1e-10, solver=Fista()).value.round(4).tolist()
    [1.5, 0.375]
    """

    restart: Literal["adaptive"] | None = eqx.field(static=True, default="adaptive")
    step_size: Any = None
    law: Literal["nesterov", "chambolle-dossal"] = eqx.field(static=True, default="nesterov")
    a: Any = 3.0
    strong_convexity: Any = None
    monotone: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        """Refuse an unknown option."""
        validation.one_of("adaptive", None)("restart", self.restart)
        check_step(self.step_size)
        validation.one_of("nesterov", "chambolle-dossal")("law", self.law)
        if not isinstance(self.a, jax.Array):
            validation.number(2.0, open_low=True)("a", self.a)
        if self.strong_convexity is not None:
            at_least_zero("strong_convexity", self.strong_convexity, positive=True)
            if self.restart is not None:
                raise InputError("restart: found 'adaptive', expected None where strong_convexity is given")
        validation.flag("monotone", self.monotone)

    def check(self, problem: Problem) -> None:
        """A `Composite` with a convex penalty."""
        penalty = composite(problem).penalty
        if not penalty.is_convex:
            found = type(penalty).__name__
            raise InputError(f"penalty: found {found}, expected a convex one (ProximalGradient takes any)")

    def init(self, problem: Composite, x0: PyTree) -> FistaState:
        """The state at x0, without momentum."""
        z = problem.smooth.forward(x0)
        return FistaState(x0, z, x0, z, like(1.0, x0), first_step(self.step_size, problem, x0))

    def step(self, problem: Composite, state: FistaState) -> tuple[FistaState, Info]:
        """A proximal gradient step from y, then the extrapolation."""
        smooth, y = problem.smooth, state.y
        dual = smooth.dual(state.zy)
        gradient = smooth.adjoint(dual)
        x, z, t = forward_backward(problem, y, state.zy, gradient, state.step, searches(self.step_size, problem))

        theta, momentum = self._momentum(state.theta, t)
        moved = optax.tree.sub(x, state.x)
        if self.restart == "adaptive":
            uphill = jnp.greater(optax.tree.vdot(optax.tree.sub(y, x), moved), 0)
            theta, momentum = jnp.where(uphill, 1.0, theta), jnp.where(uphill, 0.0, momentum)
        y_next = optax.tree.add_scale(x, momentum, moved)
        zy_next = optax.tree.add_scale(z, momentum, optax.tree.sub(z, state.z))
        u = subgradient(y, x, gradient, t)
        if self.monotone:
            return self._monotone(problem, state, (x, z, dual, gradient, u, t), (y_next, zy_next), theta)
        if problem.lower_bound(dual, gradient) is None:
            # The gradient at y proves a lower bound just as well as one at x would; a residual has to be taken at x.
            gradient = smooth.adjoint(smooth.dual(z))
        return FistaState(x, z, y_next, zy_next, theta, t), measured(problem, x, z, dual, gradient, u, t)

    def _momentum(self, theta: Scalar, step: Scalar) -> tuple[Scalar, Scalar]:
        if self.strong_convexity is not None:
            root = jnp.sqrt(like(self.strong_convexity, step) * step)
            return theta, (1 - root) / (1 + root)
        if self.law == "nesterov":
            new = (1 + jnp.sqrt(1 + 4 * theta**2)) / 2
        else:
            new = theta + 1 / like(self.a, theta)
        return new, (theta - 1) / new

    def _monotone(
        self, problem: Composite, state: FistaState, step: tuple[Any, ...], extrapolated: tuple[PyTree, PyTree], theta
    ) -> tuple[FistaState, Info]:
        """The better of the old point and the new one; the momentum still points to the new one."""
        x, z, dual, gradient, u, t = step
        new = problem.smooth.loss(z) + problem.penalty.value(x)
        old = problem.smooth.loss(state.z) + problem.penalty.value(state.x)
        better = new <= old
        # y = x⁺ + θ/θ'·(new − x⁺) + (θ − 1)/θ'·(x⁺ − x), which is the usual one where x⁺ is the new point.
        pull = state.theta / theta

        def kept(new, old, extrapolated):
            rejected = jax.tree.map(lambda n, o: o + pull * (n - o), new, old)
            return optax.tree.where(better, new, old), optax.tree.where(better, extrapolated, rejected)

        x_kept, y = kept(x, state.x, extrapolated[0])
        z_kept, zy = kept(z, state.z, extrapolated[1])
        if problem.lower_bound(dual, gradient) is None:
            gradient = problem.smooth.adjoint(problem.smooth.dual(z))
        info = measured(problem, x, z, dual, gradient, u, t)
        merit = jnp.where(better, new, old)
        return FistaState(x_kept, z_kept, y, zy, theta, t), eqx.tree_at(lambda i: i.objective, info, merit)

    def rate(self, k: Any, lipschitz: Scalar, distance: Scalar) -> Scalar | None:
        """2L‖x0 − x*‖²/(k + 1)², or a²L‖x0 − x*‖²/(2(k + a − 1)²), for the method without restarts."""
        if self.restart or self.strong_convexity is not None:
            return None
        if self.law == "nesterov":
            return 2 * lipschitz * distance**2 / (k + 1) ** 2
        a = like(self.a, lipschitz)
        return a**2 * lipschitz * distance**2 / (2 * (k + a - 1) ** 2)

    def source(self) -> str:
        """Where the rate stands."""
        if self.law == "chambolle-dossal":
            return "Chambolle & Dossal (2015), theorem 4.1: F(x_k) − F* ≤ a²L‖x0 − x*‖²/(2(k + a − 1)²)"
        return "Beck & Teboulle (2009), theorem 4.4: F(x_k) − F* ≤ 2L‖x0 − x*‖²/(k + 1)²"
