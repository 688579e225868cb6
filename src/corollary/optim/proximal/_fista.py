"""FISTA: proximal gradient with Nesterov's momentum.

With θ_0 = 1 and θ_{k+1} = (1 + √(1 + 4θ_k²))/2:

    x_{k+1} = prox_{th}(y_k − t∇f(y_k)),    y_{k+1} = x_{k+1} + (θ_k − 1)/θ_{k+1} · (x_{k+1} − x_k).

Then F(x_k) − F* ≤ 2L‖x0 − x*‖²/(k + 1)², the best order that first-order methods reach, at the price of ISTA: A y is
extrapolated like y. F need not fall at every step; `minimize` keeps the best. Restarting the momentum when it points
uphill gives linear convergence under strong convexity without knowing its constant (there is no bound then).
Source: Beck & Teboulle (2009), theorem 4.4; O'Donoghue & Candès, "Adaptive restart for accelerated gradient schemes"
(2015), section 3.2.
"""

from __future__ import annotations

from typing import Any, Literal, final

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core import validation
from corollary.optim._composite import Composite, composite
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import like
from corollary.optim.penalties._base import Scalar
from corollary.optim.proximal._proximal_gradient import check_step, first_step, forward_backward, searches, subgradient


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

    Examples
    --------
    >>> from corollary.optim import Composite, LeastSquares, minimize, penalties
    >>> problem = Composite(LeastSquares([[1.0, 0.0], [0.0, 2.0]], [2.0, 1.0]), penalties.L1(0.5))
    >>> minimize(problem, tol=1e-10, solver=Fista()).value.round(4).tolist()
    [1.5, 0.375]
    """

    restart: Literal["adaptive"] | None = eqx.field(static=True, default="adaptive")
    step_size: Any = None

    def __check_init__(self):
        """Refuse an unknown option."""
        validation.one_of("adaptive", None)("restart", self.restart)
        check_step(self.step_size)

    def check(self, problem: Problem) -> None:
        """A `Composite`."""
        composite(problem)

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

        theta = (1 + jnp.sqrt(1 + 4 * state.theta**2)) / 2
        momentum = (state.theta - 1) / theta
        moved = optax.tree.sub(x, state.x)
        if self.restart == "adaptive":
            uphill = jnp.greater(optax.tree.vdot(optax.tree.sub(y, x), moved), 0)
            theta, momentum = jnp.where(uphill, 1.0, theta), jnp.where(uphill, 0.0, momentum)
        y_next = optax.tree.add_scale(x, momentum, moved)
        zy_next = optax.tree.add_scale(z, momentum, optax.tree.sub(z, state.z))

        u = subgradient(y, x, gradient, t)
        if problem.lower_bound(dual, gradient) is None:
            # The gradient at y proves a lower bound just as well as one at x would; a residual has to be taken at x.
            gradient = smooth.adjoint(smooth.dual(z))
        return FistaState(x, z, y_next, zy_next, theta, t), problem.measure(x, z, dual, gradient, u, t)

    def rate(self, k: Any, lipschitz: Scalar, distance: Scalar) -> Scalar | None:
        """2L‖x0 − x*‖²/(k + 1)², for the method without restarts."""
        return None if self.restart else 2 * lipschitz * distance**2 / (k + 1) ** 2

    def source(self) -> str:
        """Where the rate stands."""
        return "Beck & Teboulle (2009), theorem 4.4: F(x_k) − F* ≤ 2L‖x0 − x*‖²/(k + 1)²"
