"""Nonlinear conjugate gradients: Polak-Ribière with β⁺, a nearly exact line search, and restarts.

p_{k+1} = −g_{k+1} + β p_k with β = max(0, ⟨g_{k+1}, g_{k+1} − g_k⟩/‖g_k‖²). On a quadratic it is linear CG. Use it for
large smooth problems where even the few vectors of L-BFGS are too many. It restarts along −g when successive gradients
are far from orthogonal (Powell), or the direction is not downhill.
Cost: one product with A and one with Aᵀ a step, and a few evaluations of ℓ. Source: Polak & Ribière (1969); Powell
(1977); Gilbert & Nocedal, "Global convergence properties of conjugate gradient methods for optimization" (1992),
section 4; Nocedal & Wright (2006), section 5.2.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core import validation
from corollary.optim._composite import Composite, smooth_only
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.smooth._line_search import (
    Point,
    blur_along,
    evaluate,
    follow,
    line,
    smooth_info,
    strong_wolfe,
)


class NonlinearCGState(eqx.Module):
    """The point, the next direction, the last step's gain, the unit of directions, and ‖|∇²f||x|‖ from below."""

    point: Point
    direction: PyTree
    gain: Scalar
    unit: Scalar
    blur: Scalar

    @property
    def x(self) -> PyTree:
        """The iterate."""
        return self.point.x


@final
class NonlinearCG(Solver):
    """Polak-Ribière⁺ conjugate gradients on a smooth function, for `minimize`.

    Parameters
    ----------
    c1, c2
        Constants of the strong Wolfe search, 0 < c₁ < c₂ < 1/2.
    restart
        Powell's ν: restart where |⟨g_{k+1}, g_k⟩| ≥ ν‖g_{k+1}‖²; infinity never does.

    Notes
    -----
    Certificate: ``stationarity``. A search that finds no lower point stops the run (`Status.PRECISION`).

    Examples
    --------
    >>> from corollary.optim import minimize
    >>> rosenbrock = lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
    >>> run = minimize(rosenbrock, [-1.2, 1.0], NonlinearCG(), tol=1e-5)
    >>> run.value.round(2).tolist(), bool(run.converged)
    ([1.0, 1.0], True)
    """

    c1: Any = 1e-4
    c2: Any = 0.1
    restart: Any = 0.2

    def __check_init__(self):
        """Refuse constants out of order."""
        if all(isinstance(c, float | int) for c in (self.c1, self.c2, self.restart)):
            validation.number(0.0, 0.5, open_low=True)("c2", self.c2)
            validation.number(0.0, float(self.c2), open_low=True)("c1", self.c1)
            validation.number(0.0, open_low=True)("restart", self.restart)

    def check(self, problem: Problem) -> None:
        """A smooth `Composite`."""
        smooth_only(problem)

    def init(self, problem: Composite, x0: PyTree) -> NonlinearCGState:
        """The state at x0, along −∇f."""
        point, curvature = evaluate(problem.smooth, x0), problem.smooth.curvature(x0)
        direction = optax.tree.scale(-1 / curvature, point.gradient)
        return NonlinearCGState(point, direction, like(jnp.inf, x0), 1 / curvature, jnp.zeros_like(point.value))

    def step(self, problem: Composite, state: NonlinearCGState) -> tuple[NonlinearCGState, Info]:
        """A search along the direction, and the next direction."""
        smooth, old = problem.smooth, state.point
        along = line(smooth, old, state.direction)
        # As long a step as gains to first order what the last one did (Nocedal & Wright, eq. (3.60)).
        first = state.gain / jnp.where(along.start.slope < 0, -along.start.slope, 1)
        first = jnp.where(jnp.isfinite(first) & (first > 0), first, 1.0)
        search = strong_wolfe(smooth, along, first, c1=like(self.c1, old.x), c2=like(self.c2, old.x))
        t, point = search.trial.step, follow(smooth, old, along, search.trial)

        before, now = norm(old.gradient), norm(point.gradient)
        inverse = 1 / jnp.where(before > 0, before, 1)
        old_unit, new_unit = optax.tree.scale(inverse, old.gradient), optax.tree.scale(inverse, point.gradient)
        overlap = optax.tree.vdot(new_unit, old_unit)
        ratio = (now * inverse) ** 2
        far = jnp.abs(overlap) >= like(self.restart, old.x) * ratio
        beta = jnp.where(far | ~search.ok, 0, jnp.maximum(ratio - overlap, 0))
        direction = optax.tree.add_scale(optax.tree.scale(-state.unit, point.gradient), beta, state.direction)
        downhill = jnp.less(optax.tree.vdot(optax.tree.scale(inverse, direction), new_unit), 0)
        plain = optax.tree.scale(-state.unit, point.gradient)
        direction = optax.tree.where(downhill, direction, plain)

        # A search that fails along a mixed direction is tried again along −∇f; along −∇f it is the end.
        steepest = state.gain < 0
        stuck = ~search.ok & steepest
        gain = jnp.where(search.ok, -t * along.start.slope, -1.0)
        moved, change = optax.tree.scale(t, state.direction), optax.tree.sub(point.gradient, old.gradient)
        blur = blur_along(state.blur, point.x, moved, change)
        info = smooth_info(point, old.gradient, t * state.unit, blur, stuck=stuck)
        return NonlinearCGState(point, direction, gain, state.unit, blur), info
