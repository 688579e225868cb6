"""Nesterov's accelerated gradient method: a gradient step from a point ahead, y = x + β(x − x_before).

    x_k = y_{k−1} − t∇f(y_{k−1}),    y_k = x_k + β_k(x_k − x_{k−1}).

Three laws of β_k: (k − 1)/(k + 2) and k/(k + 3) for convex f, O(1/k²); and the constant (√κ − 1)/(√κ + 1) for
m-strongly convex f with κ = 1/(tm), 1 − 1/√κ a step. The momentum of the first two grows by itself, whatever the
Hessian. The gradient is taken at y_k, which is not an iterate. For the plain rate of FISTA with a penalty see `Fista`.
Cost: one product with A and one with Aᵀ for the step, and another of each for the gradient at x_k that the certificate
needs. Source: Nesterov (1983); Su, Boyd & Candès, "A differential equation for modeling Nesterov's accelerated gradient
method" (2016), theorem 6; Nesterov, "Lectures on Convex Optimization" (2018), section 2.2.1; restarts: O'Donoghue &
Candès (2015), section 3.2.
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
from corollary.optim._tree import at_least_zero, like
from corollary.optim.penalties._base import Scalar
from corollary.optim.proximal._proximal_gradient import check_step, first_step, forward_backward, searches
from corollary.optim.smooth._line_search import Point, blur_along, evaluate, smooth_info

LAWS = ("(t-1)/(t+2)", "t/(t+3)", "constant")


class NesterovState(eqx.Module):
    """The iterate, the point ahead with its image, the step length, the count since the last restart, a curvature."""

    point: Point
    y: PyTree
    zy: PyTree
    step: Scalar
    count: Int[Array, ""]
    blur: Scalar

    @property
    def x(self) -> PyTree:
        """The iterate."""
        return self.point.x


@final
class Nesterov(Solver):
    """Nesterov's accelerated gradient on a smooth convex function, for `minimize`.

    Parameters
    ----------
    law
        The momentum after step t: ``"(t-1)/(t+2)"`` (default), ``"t/(t+3)"``, or ``"constant"``,
        (√κ − 1)/(√κ + 1), which needs `strong_convexity`.
    strong_convexity
        m > 0, for the constant law.
    restart
        ``"adaptive"`` (default): start the growing momentum anew when it points uphill, linear convergence without
        knowing m; None: the method of the theorem. The constant law does not restart.
    step_size
        None: 1/L where the smooth term knows L, else a search; ``"backtracking"``; or a number t ≤ 1/L.

    Raises
    ------
    InputError
        For unknown options, or the constant law without m.

    Notes
    -----
    Certificates: ``stationarity``; with a `reference` ``rate`` where nothing restarts:
    2‖x0 − x*‖²/(t(k + 1)²), 7‖x0 − x*‖²/(2t(k + 2)²), (1 − 1/√κ)^k (1/t + m)/2·‖x0 − x*‖².

    Examples
    --------
    >>> from corollary.optim import Composite, LeastSquares, minimize
    >>> problem = Composite(LeastSquares([[1.0, 0.0], [0.0, 2.0]], [2.0, 1.0]))
    >>> minimize(problem, tol=1e-9, solver=Nesterov("constant", 1.0)).value.round(4).tolist()
    [2.0, 0.5]
    """

    law: str = eqx.field(static=True, default="(t-1)/(t+2)")
    strong_convexity: Any = None
    restart: str | None = eqx.field(static=True, default="adaptive")
    step_size: Any = None

    def __check_init__(self):
        """Refuse an unknown law, and the constant one without its constant."""
        validation.one_of(*LAWS)("law", self.law)
        validation.one_of("adaptive", None)("restart", self.restart)
        check_step(self.step_size)
        at_least_zero("strong_convexity", self.strong_convexity, positive=True)
        if (self.law == "constant") != (self.strong_convexity is not None):
            raise InputError('strong_convexity: expected for law="constant", and only there')

    def check(self, problem: Problem) -> None:
        """A smooth `Composite`."""
        smooth_only(problem)

    def init(self, problem: Composite, x0: PyTree) -> NesterovState:
        """The state at x0, at rest."""
        point, step = evaluate(problem.smooth, x0), first_step(self.step_size, problem, x0)
        return NesterovState(point, x0, point.z, step, jnp.int32(0), jnp.zeros_like(point.value))

    def step(self, problem: Composite, state: NesterovState) -> tuple[NesterovState, Info]:
        """A gradient step from the point ahead, then the next point ahead."""
        smooth, old = problem.smooth, state.point
        ahead = smooth.adjoint(smooth.dual(state.zy))
        search = searches(self.step_size, problem)
        x, z, t = forward_backward(problem, state.y, state.zy, ahead, state.step, search)
        theta = smooth.dual(z)
        point = Point(x, z, theta, smooth.loss(z), smooth.adjoint(theta), jnp.int32(0))
        moved = optax.tree.sub(x, old.x)
        count, momentum = state.count + 1, self._momentum(state.count + 1, t)
        if self.restart == "adaptive" and self.law != "constant":
            uphill = jnp.greater(optax.tree.vdot(ahead, moved), 0)
            count, momentum = jnp.where(uphill, 0, count), jnp.where(uphill, 0, momentum)
        y = optax.tree.add_scale(x, momentum, moved)
        zy = optax.tree.add_scale(z, momentum, optax.tree.sub(z, old.z))
        change = optax.tree.sub(point.gradient, ahead)
        blur = blur_along(state.blur, x, optax.tree.sub(x, state.y), change)
        return NesterovState(point, y, zy, t, count, blur), smooth_info(point, ahead, t, blur)

    def _momentum(self, count: Int[Array, ""], step: Scalar) -> Scalar:
        k = count.astype(step.dtype)
        if self.law == "constant":
            root = jnp.sqrt(like(self.strong_convexity, step) * step)
            return (1 - root) / (1 + root)
        return k / (k + 3) if self.law == "t/(t+3)" else (k - 1) / (k + 2)

    def rated(self, problem: Composite) -> bool:
        """The constant law's theorem is for a fixed step."""
        return self.law != "constant" or not searches(self.step_size, problem)

    def rate(self, k: Any, lipschitz: Scalar, distance: Scalar) -> Scalar | None:
        """The bound of the law; none with restarts."""
        if self.law == "constant":
            m = like(self.strong_convexity, distance)
            return (1 - jnp.sqrt(m / lipschitz)) ** k * (lipschitz + m) / 2 * distance**2
        if self.restart:
            return None
        if self.law == "t/(t+3)":
            return 7 * lipschitz * distance**2 / (2 * (k + 2) ** 2)
        return 2 * lipschitz * distance**2 / (k + 1) ** 2

    def source(self) -> str:
        """Where the rate stands."""
        if self.law == "constant":
            return "Nesterov (2018), theorem 2.2.3: (1 − √(m/L))^k (f(x0) − f* + m/2·‖x0 − x*‖²)"
        if self.law == "t/(t+3)":
            return "Su, Boyd & Candès (2016), theorem 6, by the same energy with θ_k = 2/(k + 3)"
        return "Su, Boyd & Candès (2016), theorem 6: F(x_k) − F* ≤ 2L‖x0 − x*‖²/(k + 1)²"
