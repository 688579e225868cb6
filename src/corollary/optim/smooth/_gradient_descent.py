"""Gradient descent, x ← x − t∇f(x), with every classical choice of t.

Fixed (1/L, or 2/(m + L) for an m-strongly convex f), found by a line search (Armijo, strong Wolfe, nearly exact),
Polyak's (f(x) − f*)/‖∇f(x)‖² where the minimum is known, or from a schedule (`silver_stepsize`,
`anytime_stepsize`). Use it as a yardstick: `BarzilaiBorwein`, `Nesterov` and `NonlinearCG` need far fewer steps at the
same price each. Cost: one product with A and one with Aᵀ a step.
Source: Drori & Teboulle, "Performance of first-order methods for smooth convex minimization" (2014), theorem 3.1;
Nesterov, "Lectures on Convex Optimization" (2018), theorem 2.1.15; Polyak, "Introduction to Optimization" (1987),
section 5.3.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim._composite import Composite, smooth_only
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.smooth._line_search import (
    Point,
    Search,
    armijo,
    blur_along,
    evaluate,
    follow,
    line,
    smooth_info,
    strong_wolfe,
)
from corollary.optim.smooth._schedules import Schedule

SEARCHES = ("armijo", "wolfe", "exact")


class GradientDescentState(eqx.Module):
    """The point, the last step length, an estimate of the curvature, and the count of steps."""

    point: Point
    step: Scalar
    blur: Scalar
    count: Int[Array, ""]

    @property
    def x(self) -> PyTree:
        """The iterate."""
        return self.point.x


@final
class GradientDescent(Solver):
    """Gradient descent on a smooth function, for `minimize`.

    Parameters
    ----------
    step_size
        None: 1/L where the smooth term knows L (2/(m + L) with a `strong_convexity` m), else ``"armijo"``; a number;
        ``"armijo"`` (backtracking from twice the last step); ``"wolfe"``; ``"exact"`` (the slope at the new point is a
        thousandth of the old one); or ``"polyak"``.
    schedule
        A `Schedule`: step k is then h_k/L, L as above or the inverse of the number `step_size`.
    strong_convexity
        m > 0, if known.
    minimum
        f*, for ``"polyak"``; a lower bound of f makes it overshoot.

    Raises
    ------
    InputError
        For unknown options; for a schedule or ``"polyak"`` without what it needs.

    Notes
    -----
    Certificates: ``stationarity``; with a `reference` ``rate`` for the fixed steps and the schedules:
    L‖x0 − x*‖²/(4k + 2), or L/2·((κ − 1)/(κ + 1))^2k‖x0 − x*‖² with step 2/(m + L).

    Examples
    --------
    >>> from corollary.optim import Composite, LeastSquares, minimize
    >>> problem = Composite(LeastSquares([[1.0, 0.0], [0.0, 2.0]], [2.0, 1.0]))
    >>> minimize(problem, tol=1e-9, solver=GradientDescent("wolfe")).value.round(4).tolist()
    [2.0, 0.5]
    """

    step_size: Any = None
    schedule: Schedule | None = None
    strong_convexity: Any = None
    minimum: Any = None

    def __check_init__(self):
        """Refuse unknown options and combinations that say nothing."""
        if self.step_size is None or isinstance(self.step_size, str):
            validation.one_of(None, *SEARCHES, "polyak")("step_size", self.step_size)
        else:
            at_least_zero("step_size", self.step_size, positive=True)
        at_least_zero("strong_convexity", self.strong_convexity, positive=True)
        if self.schedule is not None and isinstance(self.step_size, str):
            raise InputError(f"step_size: found {self.step_size!r}, expected None or 1/L beside a schedule")
        if (self.step_size == "polyak") != (self.minimum is not None):
            raise InputError('minimum: expected for step_size="polyak", and only there')

    def check(self, problem: Problem) -> None:
        """A smooth `Composite`; one that knows L for a schedule."""
        known = smooth_only(problem).smooth.lipschitz() is not None or self.step_size is not None
        if self.schedule is not None and not known:
            raise InputError("step_size: found None, expected 1/L for a schedule (the smooth term does not know L)")

    def init(self, problem: Composite, x0: PyTree) -> GradientDescentState:
        """The state at x0."""
        point = evaluate(problem.smooth, x0)
        curvature = problem.smooth.curvature(x0)
        known = problem.smooth.lipschitz()
        if self.step_size is not None and not isinstance(self.step_size, str):
            step = like(self.step_size, x0)
        elif known is None or isinstance(self.step_size, str):
            step = 1 / curvature
        elif self.strong_convexity is not None and self.schedule is None:
            step = 2 / (like(known, x0) + like(self.strong_convexity, x0))
        else:
            step = 1 / like(known, x0)
        return GradientDescentState(point, step, jnp.zeros_like(point.value), jnp.int32(0))

    def step(self, problem: Composite, state: GradientDescentState) -> tuple[GradientDescentState, Info]:
        """x⁺ = x − t∇f(x)."""
        old, smooth, t = state.point, problem.smooth, state.step
        stuck = None
        if self._mode(problem) in SEARCHES:
            found = self._search(problem, state)
            # The direction is −t∇f, so that a trial of 1 repeats the last step.
            along = line(smooth, old, optax.tree.scale(-t, old.gradient))
            search = found(along)
            point, stuck = follow(smooth, old, along, search.trial), ~search.ok
            t = jnp.where(search.ok, search.trial.step, 0.5) * t
        else:
            length = self._length(state)
            point = evaluate(smooth, optax.tree.add_scale(old.x, -length, old.gradient))
            t = t if self.step_size is None or self._mode(problem) == "fixed" else length
        moved, change = optax.tree.sub(point.x, old.x), optax.tree.sub(point.gradient, old.gradient)
        blur = blur_along(state.blur, point.x, moved, change)
        info = smooth_info(point, old.gradient, t, blur, stuck=stuck)
        return GradientDescentState(point, t, blur, state.count + 1), info

    def _mode(self, problem: Composite) -> str:
        if isinstance(self.step_size, str):
            return self.step_size
        searched = self.step_size is None and problem.smooth.lipschitz() is None
        return "armijo" if searched else "fixed"

    def _search(self, problem: Composite, state: GradientDescentState) -> Any:
        mode = self._mode(problem)

        def found(along: Any) -> Search:
            one = like(1.0, state.x)
            if mode == "armijo":
                return armijo(problem.smooth, along, jnp.where(state.count > 0, 2 * one, one))
            return strong_wolfe(problem.smooth, along, one, c2=1e-3 if mode == "exact" else 0.9)

        return found

    def _length(self, state: GradientDescentState) -> Scalar:
        if self.schedule is not None:
            steps = jnp.asarray(self.schedule.steps).astype(state.step.dtype)
            return steps[state.count % steps.shape[0]] * state.step
        if self.step_size == "polyak":
            size = norm(state.point.gradient)
            gap = jnp.maximum(state.point.value - like(self.minimum, state.x), 0)
            safe = jnp.where(size > 0, size, 1)
            return gap / safe / safe
        return state.step

    def rated(self, problem: Composite) -> bool:
        """A fixed step or a schedule: of a search the theorem says nothing."""
        return self._mode(problem) == "fixed"

    def rate(self, k: Any, lipschitz: Scalar, distance: Scalar) -> Scalar | None:
        """The bound of a fixed step or of the schedule; `lipschitz` is the inverse of the step."""
        if isinstance(self.step_size, str):
            return None
        if self.schedule is not None:
            return self.schedule.bound(k).astype(distance.dtype) * lipschitz * distance**2
        if self.step_size is None and self.strong_convexity is not None:
            m = jnp.asarray(self.strong_convexity).astype(distance.dtype)
            L = 2 * lipschitz - m
            return L / 2 * ((L - m) / (L + m)) ** (2 * k) * distance**2
        return lipschitz * distance**2 / (4 * k + 2)

    def source(self) -> str:
        """Where the rate stands."""
        if self.schedule is not None:
            return self.schedule.source
        if self.step_size is None and self.strong_convexity is not None:
            return "Nesterov (2018), theorem 2.1.15"
        return "Drori & Teboulle (2014), theorem 3.1: F(x_k) − F* ≤ L‖x0 − x*‖²/(4k + 2)"
