"""Trust-region methods: minimise a quadratic model within ‖δ‖ ≤ Δ, and let the ratio of falls set Δ.

ρ = (f(x) − f(x + δ))/(m(0) − m(δ)): the step is taken where ρ > η, Δ shrinks where ρ < ¼, and grows only where ρ > ¾
*and* the step lies on the boundary (an interior step was not held back by Δ). f never rises, saddles are left, and
indefinite Hessians need no repair. Use ``"exact"`` for up to a few hundred variables, ``"steihaug"`` for many (products
only), ``"dogleg"`` where the Hessian is positive definite. Near the answer the falls drown in the rounding of f: there
the gradient's norm decides. Cost a step: one value, one gradient, and the subproblem (about 9n³; CG products; n³/3).
Source: Nocedal & Wright (2006), algorithm 4.1, theorems 4.6 and 4.9; Conn, Gould & Toint (2000), section 17.4.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Int, PyTree

from corollary.core import validation
from corollary.core.certificate import rounding
from corollary.core.errors import InputError
from corollary.optim._composite import Composite, smooth_only
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.smooth._line_search import near
from corollary.optim.smooth._modified_newton import Spectrum
from corollary.optim.smooth._newton import (
    Factored,
    Vector,
    cauchy_step,
    cholesky,
    gradient_rounding,
    hessian_matrix,
)
from corollary.optim.smooth._steihaug import BOUNDARY, NEGATIVE, to_boundary, truncated_cg
from corollary.optim.smooth._trust_region_subproblem import exact_step, model_value

NOISE = 8.0  # a fall below NOISE·eps·|f| is rounding


class TrustState(eqx.Module):
    """The iterate with f and ∇f, the radius (or σ of a cubic model), the curvature at x, and counts."""

    x: PyTree
    value: Scalar
    gradient: PyTree
    radius: Scalar
    curvature: Any
    fresh: Bool[Array, ""]  # the iterate has moved since the curvature was taken
    first: Scalar  # ‖∇f(x0)‖
    evaluations: Int[Array, ""]
    accepted: Int[Array, ""]


class Judged(eqx.Module):
    """What became of a trial: the next point, whether it was taken, ρ, and whether rounding ends the run."""

    x: PyTree
    value: Scalar
    gradient: PyTree
    taken: Bool[Array, ""]
    rho: Scalar
    blind: Bool[Array, ""]  # the predicted fall drowns in rounding only because the radius is so small
    stuck: Bool[Array, ""]


@final
class TrustRegion(Solver):
    """A trust-region method for `minimize`.

    Parameters
    ----------
    subproblem
        ``"exact"`` (Moré & Sorensen), ``"steihaug"`` (truncated CG) or ``"dogleg"`` (between −tg and Newton's step).
    radius
        The first Δ; the length of Cauchy's step if left out.
    accept
        η in [0, ¼): the least ρ of a step that is taken.

    Notes
    -----
    Certificate: ``stationarity``, of `minimize`. The history has ``radius`` and ``ratio``; ``stats``
    ``evaluations``, ``accepted`` and ``radius``. Source: Nocedal & Wright (2006), algorithm 4.1.

    Examples
    --------
    >>> from corollary.optim import functions, minimize
    >>> f = functions.powell_singular()
    >>> solution = minimize(f, f.x0, TrustRegion(), tol=1e-10)
    >>> bool(solution.converged), bool(solution.stats["objective"] < 1e-8)
    (True, True)
    """

    subproblem: str = "exact"
    radius: Any = None
    accept: Any = 1e-4

    def __check_init__(self):
        """Refuse an unknown subproblem, a radius that is not positive, and an η outside [0, ¼)."""
        validation.one_of("exact", "steihaug", "dogleg")("subproblem", self.subproblem)
        at_least_zero("radius", self.radius, positive=True)
        if isinstance(self.accept, float | int) and not 0 <= self.accept < 0.25:
            raise InputError(f"accept: found {self.accept!r}, expected a number in [0, 0.25)")

    def check(self, problem: Problem) -> None:
        """A `Composite` without a penalty."""
        smooth_only(problem)

    def init(self, problem: Composite, x0: PyTree) -> TrustState:
        """The state at x0."""
        state = begin(problem, x0, self._curvature)
        if self.radius is not None:
            radius = jnp.asarray(self.radius).astype(state.value.dtype)
        else:
            radius = first_length(problem, x0, state.gradient)
        return eqx.tree_at(lambda s: s.radius, state, radius)

    def step(self, problem: Composite, state: TrustState) -> tuple[TrustState, Info]:
        """One trial."""
        curvature = renewed(problem, state, self._curvature)
        g, unravel = ravel_pytree(state.gradient)
        delta, predicted, boundary = self._trial(problem, state, curvature, g)
        judged = judge(problem, state, unravel(delta), predicted, self.accept, boundary)
        length = norm(delta)
        grow = ((judged.rho > 0.75) | judged.blind) & boundary
        radius = jnp.where(grow, 2 * state.radius, jnp.where(judged.rho < 0.25, length / 4, state.radius))
        radius = jnp.where(jnp.isfinite(radius), radius, state.radius)
        new = advance(state, judged, radius, curvature)
        if self.subproblem == "steihaug":
            flat = ravel_pytree(state.x)[0]
            floor = rounding(norm(problem.smooth.hessian_product(state.x, unravel(flat))), 4.0)
        else:
            floor = gradient_rounding(curvature.matrix, state.x)
        return new, tell(state, new, judged, floor, length, {"radius": state.radius, "ratio": judged.rho})

    def stats(self, problem: Composite, state: TrustState) -> dict[str, Any]:
        """Counts, and the last radius."""
        return {"evaluations": state.evaluations, "accepted": state.accepted, "radius": state.radius}

    def _curvature(self, problem: Composite, x: PyTree) -> Any:
        if self.subproblem == "steihaug":
            return None  # products only
        H = hessian_matrix(problem.smooth, x)
        return Spectrum.of(H) if self.subproblem == "exact" else Factored(H, *cholesky(H))

    def _trial(self, problem: Composite, state: TrustState, curvature: Any, g: Vector) -> tuple[Vector, Scalar, Array]:
        """δ, the fall of the model, and whether δ lies on the boundary."""
        if self.subproblem == "exact":
            found = exact_step(curvature, g, state.radius)
            return found.delta, found.decrease, found.boundary
        if self.subproblem == "dogleg":
            return dogleg(curvature, g, state.radius)
        _, unravel = ravel_pytree(state.gradient)

        def product(v: Vector) -> Vector:
            return ravel_pytree(problem.smooth.hessian_product(state.x, unravel(v)))[0]

        tol = jnp.minimum(jnp.sqrt(norm(g) / jnp.where(state.first > 0, state.first, 1)), 0.5)  # superlinear in the end
        found = truncated_cg(product, g, state.radius, tol, 2 * g.size)
        return found.delta, found.decrease, (found.ending == BOUNDARY) | (found.ending == NEGATIVE)


def dogleg(curvature: Factored, g: Vector, radius: Scalar) -> tuple[Vector, Scalar, Array]:
    """Along −g to Cauchy's point, on to Newton's, and out at the boundary; H ≻ 0, else −g as far as it pays.

    Source: Powell (1970); Nocedal & Wright (2006), section 4.1.
    """
    H = curvature.matrix
    cauchy = cauchy_step(g, H @ g)
    newton = jnp.where(curvature.definite, -jax.scipy.linalg.cho_solve((curvature.factor, True), g), cauchy)
    newton = jnp.where(jnp.all(jnp.isfinite(newton)), newton, cauchy)
    short, full = norm(cauchy), norm(newton)
    leg = newton - cauchy
    unit = leg / jnp.where(norm(leg) > 0, norm(leg), 1)
    bent = cauchy + to_boundary(jnp.where(short < radius, cauchy, 0), unit, radius) * unit
    scaled = cauchy * (radius / jnp.where(short > 0, short, 1))
    # Where H is not definite the model may fall without end along −g: go to the boundary.
    outward = jnp.where(curvature.definite, short >= radius, True)
    delta = jnp.where(outward, scaled, jnp.where(full <= radius, newton, bent))
    boundary = outward | (full > radius)
    return delta, -model_value(H, g, delta), boundary


def begin(problem: Composite, x0: PyTree, curvature: Callable[[Composite, PyTree], Any]) -> TrustState:
    """The state at x0, without a radius."""
    value, gradient = problem.smooth.value_and_gradient(x0)
    one, no = jnp.int32(1), jnp.array(False)
    return TrustState(
        x0, value, gradient, jnp.ones_like(value), curvature(problem, x0), no, norm(gradient), one, jnp.int32(0)
    )


def renewed(problem: Composite, state: TrustState, curvature: Callable[[Composite, PyTree], Any]) -> Any:
    """The curvature at the iterate: a trial that was not taken leaves it as it was."""
    return jax.lax.cond(state.fresh, lambda: curvature(problem, state.x), lambda: state.curvature)


def first_length(problem: Composite, x: PyTree, gradient: PyTree) -> Scalar:
    """The length of Cauchy's step."""
    size = norm(gradient)
    unit = optax.tree.scale(1 / jnp.where(size > 0, size, 1), gradient)  # small gradients would underflow
    bend = jnp.abs(jnp.asarray(optax.tree.vdot(unit, problem.smooth.hessian_product(x, unit))))
    length = jnp.where(bend > 0, size / jnp.where(bend > 0, bend, 1), size)
    return jnp.where((length > 0) & jnp.isfinite(length), length, 1)


def judge(problem: Composite, state: TrustState, delta: PyTree, predicted: Scalar, accept: Any, held: Any) -> Judged:
    """ρ of a trial. A predicted fall that drowns in the rounding of f is judged by the gradient's norm.

    Where such a step was held back by the radius (`held`), as next to a saddle, the radius has to grow.
    """
    x = optax.tree.add(state.x, delta)
    value, gradient = problem.smooth.value_and_gradient(x)
    noise = rounding(state.value, NOISE)
    drowned = predicted <= noise
    rho = (state.value - value + noise) / jnp.where(predicted + noise > 0, predicted + noise, 1)
    now, before = norm(gradient), norm(state.gradient)
    rho = jnp.where(drowned, jnp.where(now < before, 1.0, -1.0), rho)
    fine = jnp.isfinite(value) & jnp.isfinite(now)
    rho = jnp.where(fine, rho, -1)
    taken = rho > jnp.asarray(accept).astype(rho.dtype)
    moved = jnp.stack([jnp.any(a != b) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(state.x), strict=True)])
    blind = ~taken & fine & drowned & held
    stuck = ~taken & fine & (drowned | ~jnp.any(moved)) & ~blind
    return Judged(x, value, gradient, taken, rho, blind, stuck)


def advance(state: TrustState, judged: Judged, radius: Scalar, curvature: Any) -> TrustState:
    """The next state: the trial's point where it was taken."""
    x, value, gradient = optax.tree.where(
        judged.taken, (judged.x, judged.value, judged.gradient), (state.x, state.value, state.gradient)
    )
    count = state.accepted + judged.taken.astype(jnp.int32)
    return TrustState(x, value, gradient, radius, curvature, judged.taken, state.first, state.evaluations + 1, count)


def tell(
    state: TrustState, new: TrustState, judged: Judged, floor: Scalar, length: Scalar, extra: dict[str, Scalar]
) -> Info:
    """What a step says of its point."""
    now = norm(new.gradient)
    return Info(
        objective=new.value,
        residual=now,
        gradient_scale=norm(state.gradient),
        from_start=True,
        floor=near(floor, jnp.where(judged.taken, length, 0), new.x),
        step=jnp.where(judged.taken, length, 0),
        stuck=judged.stuck,
        extra=extra,
    )
