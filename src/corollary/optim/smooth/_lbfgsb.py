"""L-BFGS in a box: projected quasi-Newton steps with an active set (two-metric projection).

At x the variables that sit at a bound with the gradient pointing out of the box are held; the others take an L-BFGS
step whose pairs are restricted to them, and the whole is projected back, x(t) = P(x + td), with Armijo's rule along
that arc. As the scaling is diagonal with respect to the held variables, d leads downhill, every limit point is
stationary, and near a strict minimum the active set is found in finitely many steps. (SciPy's L-BFGS-B takes the
generalised Cauchy point and a subspace step instead: another route to the same points, with a sequential search through
breakpoints.) Use it for bounds; without any it is L-BFGS with backtracking, and `LBFGS` is faster. Cost: one value and
gradient and (4m² + 8m)n operations a step; a rejected trial is a step. Memory 2mn.
Source: Bertsekas, "Projected Newton methods for optimization problems with simple constraints" (1982), propositions 2
and 3; Byrd, Nocedal & Schnabel (1994), theorem 2.2; compare Byrd, Lu, Nocedal & Zhu (1995).
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from corollary.core import validation
from corollary.core.certificate import rounding
from corollary.core.errors import InputError
from corollary.optim._composite import Composite, composite
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import norm, spread
from corollary.optim.penalties import Box, Nonnegative, Zero
from corollary.optim.penalties._base import Scalar
from corollary.optim.smooth._lbfgs import power_of_two
from corollary.optim.smooth._newton import Vector, cauchy_step

C1, TRIALS = 1e-4, 40
NEAR = 1e-2  # a variable this share of the projected step's length from its bound counts as there


class LBFGSBState(eqx.Module):
    """The iterate with f and ∇f (in units of `unit`), the pairs, oldest first, the length of the next trial, counts."""

    x: PyTree
    value: Scalar
    gradient: Vector
    unit: Scalar
    s: Float[Array, "m n"]
    y: Float[Array, "m n"]
    gamma: Scalar
    trial: Scalar
    trials: Int[Array, ""]
    bare: Bool[Array, ""]
    accepted: Int[Array, ""]


@final
class LBFGSB(Solver):
    """L-BFGS within bounds, for `minimize` of a `Composite` with `penalties.Box` or `Nonnegative`.

    Parameters
    ----------
    memory
        m, the number of pairs kept.

    Notes
    -----
    Certificate: ``stationarity``: the norm of the projected gradient, which is dist(0, ∂F(x)). ``stats``: ``accepted``
    and ``active``, the number of variables at a bound. Source: Bertsekas (1982), propositions 2 and 3.

    Examples
    --------
    >>> from corollary.optim import Composite, functions, minimize, penalties
    >>> f = functions.rosenbrock()
    >>> problem = Composite(f, penalties.Box(-2.0, 0.5))
    >>> minimize(problem, f.x0, LBFGSB(), tol=1e-8).value.round(6).tolist()
    [0.5, 0.25]
    """

    memory: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        """Refuse a memory below one."""
        validation.integer(1)("memory", self.memory)

    def check(self, problem: Problem) -> None:
        """A `Composite` with bounds, or without a penalty."""
        penalty = composite(problem).penalty
        if not isinstance(penalty, Box | Nonnegative | Zero):
            found = type(penalty).__name__
            raise InputError(f"problem: found the penalty {found}, expected Box, Nonnegative or none")

    def init(self, problem: Composite, x0: PyTree) -> LBFGSBState:
        """The state at x0, projected into the box."""
        flat, unravel = ravel_pytree(x0)
        flat = jnp.clip(flat, *bounds(problem, x0))
        x0 = unravel(flat)
        value, gradient = problem.smooth.value_and_gradient(x0)
        g = ravel_pytree(gradient)[0]
        unit = power_of_two(norm(g))
        g = g / unit
        bend = ravel_pytree(problem.smooth.hessian_product(x0, unravel(g)))[0] / unit
        gamma = norm(cauchy_step(g, bend)) / jnp.where(norm(g) > 0, norm(g), 1)
        none = jnp.zeros((self.memory, flat.size), flat.dtype)
        zero = jnp.int32(0)
        return LBFGSBState(x0, value, g, unit, none, none, gamma, jnp.ones_like(value), zero, jnp.array(True), zero)

    def step(self, problem: Composite, state: LBFGSBState) -> tuple[LBFGSBState, Info]:
        """One trial along the projected arc."""
        x, unravel = ravel_pytree(state.x)
        low, high = bounds(problem, state.x)
        g, t = state.gradient, state.trial
        reach = NEAR * norm(x - jnp.clip(x - state.gamma * g, low, high))
        held = ((x - low <= reach) & (g > 0)) | ((high - x <= reach) & (g < 0))
        free = (~held).astype(x.dtype)
        d = reduced_direction(state.s, state.y, g, free, state.gamma)
        d = jnp.where(held, -state.gamma * g, d)
        downhill = jnp.dot(g * free, d) < 0
        d = jnp.where(downhill & jnp.all(jnp.isfinite(d)), d, -state.gamma * g)

        ahead = jnp.clip(x + t * d, low, high)
        value, gradient = problem.smooth.value_and_gradient(unravel(ahead))
        new_g = ravel_pytree(gradient)[0] / state.unit
        # Bertsekas (1982), eq. (19): the linear fall of the free part, and the true one of the held part
        fall = t * jnp.dot(g * free, d) + jnp.dot(g * (1 - free), ahead - x)
        lower = value <= state.value + C1 * fall * state.unit
        before, after = projected(x, g, low, high), projected(ahead, new_g, low, high)
        size, now = norm(before), norm(after)
        level = (value <= state.value + rounding(state.value, 4.0)) & (now < size)
        moved = jnp.any(ahead != x)
        taken = jnp.isfinite(value) & jnp.all(jnp.isfinite(new_g)) & (lower | level) & moved
        failed = ~taken & ((state.trials >= TRIALS) | ~moved)

        s, y = ahead - x, new_g - g
        keep = taken & (jnp.dot(s, y) > rounding(norm(s) * norm(y), 1.0))
        ratio = jnp.dot(s, y) / jnp.where(keep, jnp.dot(y, y), 1)
        excess = (value - state.value) / state.unit - fall
        shrink = -fall / (2 * jnp.where(excess > 0, excess, 1))
        shrink = jnp.where((excess > 0) & jnp.isfinite(shrink), jnp.clip(shrink, 0.1, 0.5), 0.1)

        def pushed(history: Array, row: Array) -> Array:
            history = jnp.where(keep, jnp.concatenate([history[1:], row[None]]), history)
            return jnp.where(failed, 0, history)

        size = jnp.where(taken, now, size) * state.unit
        g_here, x_here = jnp.where(taken, new_g, g), jnp.where(taken, ahead, x)
        new = LBFGSBState(
            x=unravel(x_here),
            value=jnp.where(taken, value, state.value),
            gradient=g_here,
            unit=state.unit,
            s=pushed(state.s, s),
            y=pushed(state.y, y),
            gamma=jnp.where(keep & jnp.isfinite(ratio) & (ratio > 0), ratio, state.gamma),
            trial=jnp.where(taken | failed, 1, t * shrink),
            trials=jnp.where(taken | failed, 0, state.trials + 1),
            bare=jnp.where(taken, False, state.bare | failed),
            accepted=state.accepted + taken.astype(jnp.int32),
        )
        info = Info(
            objective=new.value,
            residual=size,
            gradient_scale=jnp.maximum(size, norm(before) * state.unit),
            floor=rounding(norm(g_here) * state.unit, 4.0),
            step=jnp.where(taken, t, 0),
            stuck=failed & state.bare,
        )
        return new, info

    def stats(self, problem: Composite, state: LBFGSBState) -> dict[str, Any]:
        """Counts."""
        x = ravel_pytree(state.x)[0]
        low, high = bounds(problem, state.x)
        return {"accepted": state.accepted, "active": jnp.sum((x <= low) | (x >= high))}


def bounds(problem: Composite, x: PyTree) -> tuple[Vector, Vector]:
    """The bounds, flat."""
    penalty = problem.penalty
    ends = (-jnp.inf, jnp.inf)
    if isinstance(penalty, Box):
        ends = (penalty.lower, penalty.upper)
    elif isinstance(penalty, Nonnegative):
        ends = (0.0, jnp.inf)

    def flat(end: Any) -> Vector:
        return ravel_pytree(jax.tree.map(lambda e, leaf: jnp.broadcast_to(e, leaf.shape), spread(end, x), x))[0]

    return flat(ends[0]), flat(ends[1])


def projected(x: Vector, g: Vector, low: Vector, high: Vector) -> Vector:
    """The gradient without its parts that push against a bound: its norm is dist(0, ∂F(x))."""
    g = jnp.where(x <= low, jnp.minimum(g, 0), g)
    return jnp.where(x >= high, jnp.maximum(g, 0), g)


def reduced_direction(s: Array, y: Array, g: Vector, free: Vector, gamma: Scalar) -> Vector:
    """−Hg over the free variables, H from the pairs restricted to them, without those that lose their curvature."""
    m = s.shape[0]
    rows = jnp.concatenate([s, y]) * free
    gram = rows @ rows.T
    products = rows @ (g * free)
    sy, yy = gram[:m, m:], gram[m:, m:]
    bend = jnp.diagonal(sy)
    scale = jnp.sqrt(jnp.diagonal(gram)[:m]) * jnp.sqrt(jnp.diagonal(yy))
    live = bend > rounding(scale, 8.0)
    both = live & live[:, None]
    newest = jnp.max(jnp.where(live, jnp.arange(m), -1))
    at = jnp.maximum(newest, 0)
    gamma = jnp.where(newest >= 0, bend[at] / jnp.where(yy[at, at] > 0, yy[at, at], 1), gamma)
    R = jnp.where(both, jnp.triu(sy), 0) + jnp.diag(jnp.where(live, 0.0, 1.0).astype(g.dtype))
    p, q = jnp.where(live, products[:m], 0), jnp.where(live, products[m:], 0)
    u = jax.scipy.linalg.solve_triangular(R, p)
    inner = jnp.where(live, bend, 0) * u + gamma * (jnp.where(both, yy, 0) @ u - q)
    v = jax.scipy.linalg.solve_triangular(R, inner, trans=1)
    return -(gamma * g * free + jnp.concatenate([jnp.where(live, v, 0), -gamma * u]) @ rows)
