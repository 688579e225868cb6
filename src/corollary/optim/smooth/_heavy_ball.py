"""Polyak's heavy ball: x_{k+1} = x_k − α∇f(x_k) + β(x_k − x_{k−1}).

On a quadratic with eigenvalues in [m, L], α = 4/(√L + √m)² and β = ((√L − √m)/(√L + √m))² contract by √β a step,
the best rate there is; κ enters by its root. Beyond quadratics there is no such promise: with these very constants it
can cycle forever on a strongly convex function (the lab `heavy_ball_cycle`). `Nesterov` is safe there.
Cost: one product with A and one with Aᵀ a step. Source: Polyak (1964), theorem 9; Lessard, Recht & Packard, "Analysis
and design of optimization algorithms via integral quadratic constraints" (2016), section 4.6.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim._composite import Composite, smooth_only
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, like
from corollary.optim.penalties._base import Scalar
from corollary.optim.smooth._line_search import Point, blur_along, evaluate, smooth_info


class HeavyBallState(eqx.Module):
    """The point, the last move, step and momentum, and ‖|∇²f||x|‖ from below."""

    point: Point
    moved: PyTree
    step: Scalar
    momentum: Scalar
    blur: Scalar

    @property
    def x(self) -> PyTree:
        """The iterate."""
        return self.point.x


@final
class HeavyBall(Solver):
    """Heavy ball on a smooth function, for `minimize`. f need not fall at every step: the best point is kept.

    Parameters
    ----------
    step_size
        α; the best for quadratics with a `strong_convexity`, else 1/L.
    momentum
        β in [0, 1); 0.9, or (1 − √(αm))² with a `strong_convexity`, the best for quadratics.
    strong_convexity
        m > 0, if known.

    Raises
    ------
    InputError
        For settings out of range, and for a smooth term that does not know L where no `step_size` is given.

    Notes
    -----
    Certificate: ``stationarity``. No rate holds beyond quadratics.

    Examples
    --------
    >>> from corollary.optim import Composite, LeastSquares, minimize
    >>> problem = Composite(LeastSquares([[1.0, 0.0], [0.0, 2.0]], [2.0, 1.0]))
    >>> minimize(problem, tol=1e-9, solver=HeavyBall(strong_convexity=1.0)).value.round(4).tolist()
    [2.0, 0.5]
    """

    step_size: Any = None
    momentum: Any = None
    strong_convexity: Any = None

    def __check_init__(self):
        """Refuse settings out of range."""
        at_least_zero("step_size", self.step_size, positive=True)
        at_least_zero("strong_convexity", self.strong_convexity, positive=True)
        if isinstance(self.momentum, float | int):
            validation.number(0.0, 1.0)("momentum", self.momentum)
            if self.momentum == 1:
                raise InputError("momentum: found 1, expected a number in [0, 1)")

    def check(self, problem: Problem) -> None:
        """A smooth `Composite` that knows L, or a step size."""
        if smooth_only(problem).smooth.lipschitz() is None and self.step_size is None:
            raise InputError("step_size: found None, expected a number (the smooth term does not know L)")

    def init(self, problem: Composite, x0: PyTree) -> HeavyBallState:
        """The state at x0, at rest."""
        step, momentum = self._constants(problem, x0)
        point = evaluate(problem.smooth, x0)
        return HeavyBallState(point, optax.tree.zeros_like(x0), step, momentum, jnp.zeros_like(point.value))

    def _constants(self, problem: Composite, x0: PyTree) -> tuple[Scalar, Scalar]:
        L = problem.smooth.lipschitz()
        m = None if self.strong_convexity is None else like(self.strong_convexity, x0)
        if self.step_size is not None:
            step = like(self.step_size, x0)
        else:
            step = 1 / like(L, x0) if m is None else (2 / (jnp.sqrt(like(L, x0)) + jnp.sqrt(m))) ** 2
        if self.momentum is not None:
            return step, like(self.momentum, x0)
        return step, like(0.9, x0) if m is None else (1 - jnp.sqrt(step * m)) ** 2

    def step(self, problem: Composite, state: HeavyBallState) -> tuple[HeavyBallState, Info]:
        """A gradient step, and a share of the last move."""
        old = state.point
        moved = optax.tree.add_scale(optax.tree.scale(-state.step, old.gradient), state.momentum, state.moved)
        point = evaluate(problem.smooth, optax.tree.add(old.x, moved))
        change = optax.tree.sub(point.gradient, old.gradient)
        blur = blur_along(state.blur, point.x, moved, change)
        info = smooth_info(point, old.gradient, state.step, blur)
        return HeavyBallState(point, moved, state.step, state.momentum, blur), info
