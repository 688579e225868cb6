"""Spectral projected gradient: Barzilai-Borwein steps, projected on a convex set, with a non-monotone search.

d = P(x − α∇f(x)) − x, x⁺ = x + t d with t ≤ 1 from `nonmonotone_line_search`, α = ‖s‖²/⟨s, y⟩ of the last step. Every
iterate is feasible. Use it for bound-, simplex- or ball-constrained smooth problems whose projection is cheap: few
methods are simpler, and for many variables few are faster. Any convex penalty will do in place of the constraint;
without either it is `BarzilaiBorwein`.
Cost: two products with A, one with Aᵀ and two projections a step. Source: Birgin, Martínez & Raydan, "Nonmonotone
spectral projected gradient methods on convex sets" (2000), algorithm 2.2 and theorem 2.4.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from corollary.core import validation
from corollary.core.certificate import rounding
from corollary.core.errors import InputError
from corollary.optim._composite import Composite, composite
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.smooth._line_search import Point, armijo, blur_along, curvature_along, evaluate, follow, line
from corollary.optim.smooth._nonmonotone import remember

LIMIT = 1e10  # a spectral step changes by this factor at most from one step to the next
Kind = str


class SpectralState(eqx.Module):
    """The point, the spectral step α, the last M values, the count of steps, and the largest curvature met."""

    point: Point
    alpha: Scalar
    recent: Float[Array, " m"]
    count: Int[Array, ""]
    curvature: Scalar
    blur: Scalar  # ‖|∇²f||x|‖ from below: the rounding of the gradient over eps

    @property
    def x(self) -> PyTree:
        """The iterate."""
        return self.point.x


@final
class SpectralProjectedGradient(Solver):
    """Spectral projected gradient, for `minimize`: a smooth function on a convex set given by its projection.

    Parameters
    ----------
    memory
        M ≥ 1: how many values the search looks back; 1 is monotone.
    kind
        ``"bb1"`` (default), ``"bb2"`` or ``"alternating"``: which Barzilai-Borwein step.

    Raises
    ------
    InputError
        For a penalty that is not convex.

    Notes
    -----
    Certificates: ``stationarity``, ‖P(x − α∇f(x)) − x‖/α, which vanishes exactly at a stationary point of the
    constrained problem.

    Examples
    --------
    >>> from corollary.optim import Composite, LeastSquares, minimize, penalties
    >>> problem = Composite(LeastSquares([[1.0, 0.0], [0.0, 2.0]], [2.0, 1.0]), penalties.Box(0.0, 1.0))
    >>> minimize(problem, tol=1e-10, solver=SpectralProjectedGradient()).value.round(4).tolist()
    [1.0, 0.5]
    """

    memory: int = eqx.field(static=True, default=10)
    kind: Kind = eqx.field(static=True, default="bb1")

    def __check_init__(self):
        """Refuse a memory below 1 and an unknown kind."""
        validation.integer(1)("memory", self.memory)
        validation.one_of("bb1", "bb2", "alternating")("kind", self.kind)

    def check(self, problem: Problem) -> None:
        """A `Composite` with a convex penalty, usually an indicator."""
        penalty = composite(problem).penalty
        if not penalty.is_convex:
            raise InputError(f"problem: found the penalty {type(penalty).__name__}, expected a convex one")

    def init(self, problem: Composite, x0: PyTree) -> SpectralState:
        """The state at the projection of x0."""
        curvature = problem.smooth.curvature(x0)
        point = evaluate(problem.smooth, problem.penalty.prox(x0, 1 / curvature))
        total = point.value + problem.penalty.value(point.x)
        return SpectralState(
            point, 1 / curvature, jnp.full((self.memory,), total), jnp.int32(0), curvature, jnp.zeros_like(point.value)
        )

    def step(self, problem: Composite, state: SpectralState) -> tuple[SpectralState, Info]:
        """A projected spectral step, shortened by the non-monotone search; then the next spectral step."""
        old, smooth, penalty = state.point, problem.smooth, problem.penalty
        target = penalty.prox(optax.tree.add_scale(old.x, -state.alpha, old.gradient), state.alpha)
        direction = optax.tree.sub(target, old.x)
        # h is convex, so that h(x + td) ≤ h(x) + t(h(x + d) − h(x)): a search on f and this bound lowers F.
        here, there = penalty.value(old.x), penalty.value(target)
        along = line(smooth, old, direction, here, there - here)
        search = armijo(smooth, along, jnp.ones_like(state.alpha), reference=jnp.max(state.recent))
        point = follow(smooth, old, along, search.trial)
        # x + 1·(target − x) is the target but for rounding, and the target is feasible.
        whole = search.trial.step == 1
        point = eqx.tree_at(lambda p: p.x, point, optax.tree.where(whole, target, point.x))
        total = point.value + penalty.value(point.x)
        alpha, curvature, blur = next_alpha(state, point, optax.tree.sub(point.x, old.x), self.kind)
        # As α shrinks the scaled step grows to the distance from stationarity: no α above 1/L flatters it.
        curvature = jnp.maximum(curvature, state.curvature)
        unit = jnp.minimum(alpha, 1 / curvature)
        ahead = penalty.prox(optax.tree.add_scale(point.x, -unit, point.gradient), unit)
        residual = norm(optax.tree.sub(ahead, point.x)) / unit
        info = Info(
            objective=total,
            residual=residual,
            gradient_scale=jnp.maximum(norm(point.gradient), norm(old.gradient)),
            floor=rounding(blur, 4.0),
            step=alpha,
            stuck=~search.ok,
        )
        recent = remember(state.recent, state.count, total)
        return SpectralState(point, alpha, recent, state.count + 1, curvature, blur), info


def next_alpha(state: Any, point: Point, moved: PyTree, kind: Kind) -> tuple[Scalar, Scalar, Scalar]:
    """The spectral step of the last move, ‖s‖²/⟨s, y⟩ (BB1) or ⟨s, y⟩/‖y‖² (BB2), safeguarded; curvature; blur."""
    change = optax.tree.sub(point.gradient, state.point.gradient)
    length, turn = norm(moved), norm(change)
    unit_s = optax.tree.scale(1 / jnp.where(length > 0, length, 1), moved)
    unit_y = optax.tree.scale(1 / jnp.where(turn > 0, turn, 1), change)
    cosine = jnp.asarray(optax.tree.vdot(unit_s, unit_y))  # by unit vectors: squares of small steps would underflow
    ratio = length / jnp.where(turn > 0, turn, 1)
    long, short = ratio / jnp.where(cosine > 0, cosine, 1), ratio * cosine
    if kind == "alternating":
        alpha = jnp.where(state.count % 2 == 0, long, short)
    else:
        alpha = long if kind == "bb1" else short
    # No positive curvature along s: the longest step that the search may cut. No move at all: as before.
    grown = jnp.where(length > 0, 10.0, 1.0) * state.alpha
    alpha = jnp.where((cosine > 0) & (turn > 0) & jnp.isfinite(alpha), alpha, grown)
    alpha = jnp.clip(alpha, state.alpha / LIMIT, state.alpha * LIMIT)
    blur = blur_along(state.blur, point.x, moved, change)
    return alpha, curvature_along(state.curvature, point.x, moved, change), blur
