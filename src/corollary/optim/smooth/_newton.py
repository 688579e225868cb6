"""Newton's method: solve ∇²f(x) δ = −∇f(x), the point where the *gradient* of the quadratic model vanishes.

Use it for up to a few thousand variables and a Hessian that is positive definite near the answer: the error is squared
at every step, and a linear change of variables changes nothing. Cost: n Hessian products and n³/3 a step, memory n².
Away from there it needs a line search, and a Hessian that is not definite has to be replaced: here by the identity
(steepest descent, slow where the Hessian is singular at the answer too, as in least squares of deficient rank: use
`TrustRegion` there); `RegularizedNewton` and `TrustRegion` use its negative curvature.
Source: Nocedal & Wright, "Numerical Optimization" (2006), theorem 3.5 and section 3.4; Boyd & Vandenberghe, "Convex
Optimization" (2004), section 9.5.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._composite import Composite, smooth_only
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._smooth import SmoothTerm
from corollary.optim._tree import dtype, finite, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.smooth._line_search import Point, armijo, evaluate, follow, line, near

Vector = Float[Array, " n"]
Matrix = Float[Array, "n n"]
QUADRATIC = "Nocedal & Wright (2006), theorem 3.5: ‖x⁺ − x*‖ ≤ C‖x − x*‖²"


def hessian_matrix(smooth: SmoothTerm, x: PyTree) -> Matrix:
    """∇²f(x) over the flattened variable, made symmetric: n Hessian products at once."""
    flat, unravel = ravel_pytree(x)

    def product(v: Vector) -> Vector:
        return ravel_pytree(smooth.hessian_product(x, unravel(v)))[0]

    H = jax.vmap(product)(jnp.eye(flat.size, dtype=flat.dtype))
    return (H + H.T) / 2


def gradient_rounding(H: Matrix, x: PyTree) -> Scalar:
    """The rounding of ∇f(x): what x's last digit changes in it, entry by entry, 4 eps ‖|H||x|‖."""
    return rounding(norm(jnp.abs(H) @ jnp.abs(ravel_pytree(x)[0])), 4.0)


@follows_input
def newton_model(f: Callable[[Any], Any], x: Any) -> Solution:
    """The quadratic model m(δ) = f + gᵀδ + ½ δᵀHδ at x, its minimiser −H⁻¹g and the decrease ½ gᵀH⁻¹g.

    Newton's method sets the gradient of this model to zero, g + Hδ = 0, not the model. Where H is
    singular and g lies in its range, all of x − H⁺g + ker H are minimisers: the shortest step is given. Otherwise,
    where H is not positive semidefinite or g not in its range, the model falls without end: ``status`` is then
    `Status.UNBOUNDED` and the value 0. Cost: O(n³).

    Parameters
    ----------
    f
        Twice differentiable function of an array or pytree (or a `SmoothTerm`).
    x
        A point.

    Returns
    -------
    Solution
        ``value`` is δ* = −H⁻¹g; ``stats`` holds ``objective`` f(x), ``model`` m(δ*), ``decrease`` ½ gᵀH⁻¹g, the Newton
        decrement's half square, and ``bounded``.

    Raises
    ------
    InputError
        For an x that is not finite.

    Notes
    -----
    Certificate ``stationary`` (exact): ‖g + Hδ*‖ against rounding. Source: Boyd & Vandenberghe (2004), section 9.5.1.

    Examples
    --------
    >>> solution = newton_model(lambda x: x[0] ** 2 + 2 * x[1] ** 2 - x[1], [1.0, 1.0])
    >>> solution.value.round(9).tolist(), float(solution.stats["decrease"])
    ([-1.0, -0.75], 2.125)
    """
    x = finite("x", x)
    smooth = Composite(f).smooth
    value, gradient = smooth.value_and_gradient(x)
    g, unravel = ravel_pytree(gradient)
    H = hessian_matrix(smooth, x)
    factor, definite = cholesky(H)
    values, vectors = jnp.linalg.eigh(H)
    edge = rounding(jnp.max(jnp.abs(values)), 4.0 * g.size)
    kept = values > edge
    rotated = vectors.T @ g
    shortest = -vectors @ jnp.where(kept, rotated / jnp.where(kept, values, 1), 0)
    step = jnp.where(definite, -_solve(factor, g), shortest)
    outside, slack = (
        norm(jnp.where(kept, 0, rotated)),
        rounding(norm(jnp.abs(H) @ jnp.abs(step)) + norm(g), 16.0 * g.size),
    )
    definite = definite | ((values[0] >= -edge) & (outside <= slack))
    step = jnp.where(definite, step, 0)
    decrease = jnp.where(definite, -jnp.dot(g, step) / 2, jnp.inf)
    terms = norm(jnp.abs(H) @ jnp.abs(step)) + norm(g)
    certificate = Certificate(
        "‖∇m(δ*)‖ = ‖g + Hδ*‖ <= rounding",
        jnp.where(definite, norm(g + H @ step), norm(g)),
        rounding(terms, 16.0 * (1 + g.size)),
        "exact",
        "Boyd & Vandenberghe (2004), section 9.5.1; Higham, Accuracy and Stability (2002), theorem 10.4",
    )
    stats = {"objective": value, "model": value - decrease, "decrease": decrease, "bounded": definite}
    status = jnp.where(definite, Status.CONVERGED, Status.UNBOUNDED).astype(jnp.int32)
    return Solution(unravel(step), {"stationary": certificate}, status, 1, stats)


class DescentState(eqx.Module):
    """The point reached, and counts."""

    point: Point
    evaluations: Int[Array, ""]
    indefinite: Int[Array, ""]  # steps at which the Hessian was not positive definite

    @property
    def x(self) -> PyTree:
        """The iterate."""
        return self.point.x


class DenseNewton(Solver):
    """A solver whose step is a direction from a factored Hessian; `Lazy` keeps the factors for several steps."""

    @abstractmethod
    def curvature(self, smooth: SmoothTerm, x: PyTree) -> Any:
        """What is worth keeping of ∇²f(x)."""

    @abstractmethod
    def direction(self, curvature: Any, gradient: Vector) -> tuple[Vector, Bool[Array, ""]]:
        """The step for that curvature, and whether the Hessian was positive definite."""

    @abstractmethod
    def searches(self) -> bool:
        """Whether a line search follows."""

    @abstractmethod
    def floor(self, curvature: Any, x: PyTree) -> Scalar:
        """The rounding of ∇f(x)."""

    def check(self, problem: Problem) -> None:
        """A `Composite` without a penalty."""
        smooth_only(problem)

    def init(self, problem: Composite, x0: PyTree) -> DescentState:
        """The state at x0."""
        return start(problem.smooth, x0)

    def step(self, problem: Composite, state: DescentState) -> tuple[DescentState, Info]:
        """A step along the direction of the curvature at the iterate."""
        return self.step_with(problem, state, self.curvature(problem.smooth, state.x))

    def step_with(self, problem: Composite, state: DescentState, curvature: Any) -> tuple[DescentState, Info]:
        """A step along the direction of a given curvature."""
        g, unravel = ravel_pytree(state.point.gradient)
        direction, definite = self.direction(curvature, g)
        state = eqx.tree_at(lambda s: s.indefinite, state, state.indefinite + (~definite).astype(jnp.int32))
        return descend(problem.smooth, state, unravel(direction), self.searches(), self.floor(curvature, state.x))

    def stats(self, problem: Composite, state: DescentState) -> dict[str, Any]:
        """Counts."""
        return counts(state)


class Factored(eqx.Module):
    """A Hessian and its Cholesky factor (NaN where it is not positive definite)."""

    matrix: Matrix
    factor: Matrix
    definite: Bool[Array, ""]


@final
class Newton(DenseNewton):
    """Newton's method for `minimize`. Cost: n Hessian products and n³/3 a step.

    Parameters
    ----------
    line_search
        True: Armijo backtracking from the full step (damped Newton), and steepest descent where the Hessian is not
        positive definite. False: the plain iteration x − H⁻¹g, which is attracted to saddles and maxima as to minima.

    Notes
    -----
    Certificate: ``stationarity``, of `minimize`. Source: Nocedal & Wright (2006), theorem 3.5.

    Examples
    --------
    >>> from corollary.optim import functions, minimize
    >>> f = functions.rosenbrock()
    >>> solution = minimize(f, f.x0, Newton(), tol=1e-12)
    >>> solution.value.round(6).tolist(), bool(solution.converged)
    ([1.0, 1.0], True)
    """

    line_search: Any = eqx.field(static=True, default=True)

    def __check_init__(self):
        """Refuse what is not a flag."""
        validation.flag("line_search", self.line_search)

    def curvature(self, smooth: SmoothTerm, x: PyTree) -> Factored:
        """The Hessian and its Cholesky factor."""
        H = hessian_matrix(smooth, x)
        return Factored(H, *cholesky(H))

    def direction(self, curvature: Factored, gradient: Vector) -> tuple[Vector, Bool[Array, ""]]:
        """−H⁻¹g; where H is not positive definite −tg with t from the curvature along g, or with LU."""
        if self.line_search:
            other = cauchy_step(gradient, curvature.matrix @ gradient)
        else:
            other = -jnp.linalg.solve(curvature.matrix, gradient)
        step = jnp.where(curvature.definite, -_solve(curvature.factor, gradient), other)
        return step, curvature.definite

    def searches(self) -> bool:
        """As set."""
        return self.line_search

    def floor(self, curvature: Factored, x: PyTree) -> Scalar:
        """4 eps ‖|H||x|‖."""
        return gradient_rounding(curvature.matrix, x)


def start(smooth: SmoothTerm, x0: PyTree) -> DescentState:
    """The state at x0."""
    return DescentState(evaluate(smooth, x0), jnp.int32(1), jnp.int32(0))


def descend(
    smooth: SmoothTerm, state: DescentState, direction: PyTree, search: bool, floor: Scalar
) -> tuple[DescentState, Info]:
    """Go along a direction, by Armijo's rule or its full length; say how good the new point is."""
    before = state.point
    along = line(smooth, before, direction)
    one = jnp.ones((), dtype(state.x))
    if search:
        found = armijo(smooth, along, one)
        trial, count, stuck = found.trial, found.evaluations, ~found.ok
    else:
        trial, count, stuck = along.at(smooth, one), jnp.int32(1), None
    point = follow(smooth, before, along, trial)
    now = norm(point.gradient)
    info = Info(
        objective=point.value,
        residual=now,
        gradient_scale=norm(before.gradient),
        from_start=True,
        floor=near(floor, norm(optax.tree.sub(point.x, before.x)), point.x),
        step=trial.step,
        merit=None if search else now,
        stuck=stuck,
    )
    return DescentState(point, state.evaluations + count, state.indefinite), info


def counts(state: DescentState) -> dict[str, Any]:
    """For the solution's ``stats``."""
    return {"evaluations": state.evaluations, "indefinite_steps": state.indefinite}


def cauchy_step(gradient: Vector, product: Vector) -> Vector:
    """−tg with t = ‖g‖²/|gᵀHg|, the length that the curvature along g suggests (a unit of x where there is none)."""
    size = norm(gradient)
    unit = gradient / jnp.where(size > 0, size, 1)
    bend = jnp.abs(jnp.dot(unit, product / jnp.where(size > 0, size, 1)))
    length = size / jnp.where(bend > 0, bend, 1)
    return -unit * jnp.where((bend > 0) & jnp.isfinite(length), length, size)


def cholesky(H: Matrix) -> tuple[Matrix, Bool[Array, ""]]:
    """The Cholesky factor of the matrix scaled to a unit diagonal, with that scaling, and whether it exists."""
    diagonal = jnp.diagonal(H)
    root = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    factor = jnp.linalg.cholesky(H / root / root[:, None], symmetrize_input=False)
    definite = jnp.all(jnp.isfinite(factor)) & jnp.all(diagonal > 0)
    return factor * root[:, None], definite


def _solve(factor: Matrix, b: Vector) -> Vector:
    return jax.scipy.linalg.cho_solve((factor, True), b)
