"""L-BFGS: a quasi-Newton direction from the last m changes of x and ∇f, with a weak Wolfe search.

The first choice for a smooth function of many variables. The direction −Hg comes from the compact form of the inverse
Hessian, H = γI + [S γY] M [S γY]ᵀ with M of size 2m: two passes over the history (2m, n) and small matrices, instead of
2m operations one after the other, which is what a compiled loop spends its time on. R⁻¹ (R the triangle of SᵀY) is
carried along: dropping a pair deletes a row and a column of it, and a new pair adds a column.

A step is one evaluation of f and ∇f: a trial that is not taken is a step as well, so that there is no loop in a loop
(and none of a batch waits for another's search). The search is Lewis & Overton's bracketing for the weak Wolfe
conditions, which make sᵀy > 0; near the answer, where f drowns in rounding, Armijo's condition is taken in its form in
slopes. Cost: one value and gradient and 6mn operations a step; memory 2mn.
Source: Byrd, Nocedal & Schnabel, "Representations of quasi-Newton matrices and their use in limited memory methods"
(1994), theorem 2.2; Lewis & Overton, "Nonsmooth optimization via quasi-Newton methods" (2013), algorithm 2.6; Hager &
Zhang (2005), eq. (4.1); Liu & Nocedal (1989), theorem 6.1, for convergence.
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
from corollary.optim._composite import Composite, smooth_only
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.smooth._line_search import NEAR
from corollary.optim.smooth._newton import Vector, cauchy_step

C1, C2 = 1e-4, 0.9  # Armijo's and Wolfe's constants, as usual for quasi-Newton directions
PATIENCE, TRIALS = 10, 40  # after so many trials Armijo's condition is enough; after so many the search has failed


class Pairs(eqx.Module):
    """The last m pairs s, y in a ring of m + 1 slots, and what the compact form needs of them, by slot.

    The slot to be written next is dead: its row and column of the small matrices are zero. So a trial's pair is written
    without asking whether it will be kept, and the history is never copied in a compiled loop. Gradients are in units
    of a power of two near ‖∇f(x0)‖, so that products of small ones stay in range.
    """

    rows: Float[Array, "rows n"]  # s of slot k in row 2k, y in row 2k + 1
    inverse: Float[Array, "slots slots"]  # R⁻¹
    diagonal: Float[Array, " slots"]  # sᵀy
    gram: Float[Array, "slots slots"]  # YᵀY
    gamma: Scalar
    slot: Int[Array, ""]

    @classmethod
    def empty(cls, memory: int, g: Vector, gamma: Scalar) -> Pairs:
        """No pairs: H = γI."""
        m = memory + 1
        square = jnp.zeros((m, m), g.dtype)
        return cls(jnp.zeros((2 * m, g.size), g.dtype), square, square[0], square, gamma, jnp.int32(0))

    def written(self, s: Vector, y: Vector, g: Vector) -> tuple[Array, Array]:
        """The rows with a pair in the dead slot, and their products with y and with g by slot: (m + 1, 2, 2)."""
        rows = jax.lax.dynamic_update_slice(self.rows, jnp.stack([s, y]), (2 * self.slot, jnp.int32(0)))
        # Two products: XLA's CPU code for a matrix with two columns takes three times as long.
        return rows, jnp.stack([rows @ y, rows @ g], axis=1).reshape(-1, 2, 2)

    def newest(self, products: Array) -> tuple[Scalar, Scalar, Scalar]:
        """sᵀy, yᵀy and sᵀg of the pair just written."""
        one = products[self.slot]
        return one[0, 0], one[1, 0], one[0, 1]

    def updated(self, rows: Array, products: Array, g: Vector, keep: Array, forget: Array) -> tuple[Pairs, Vector]:
        """With the pair written taken in (where `keep`), or all forgotten (where `forget`); and −Hg."""
        m = self.diagonal.size
        slots = jnp.arange(m, dtype=self.slot.dtype)
        following = jnp.where(self.slot + 1 == m, 0, self.slot + 1)
        here, live = slots == self.slot, slots != following  # on keeping, the oldest pair's slot dies
        one = here.astype(g.dtype)
        sy, yy, p, q = (products[:, i, j] for j in (0, 1) for i in (0, 1))  # of a dead slot: times zero below
        curvature, square, _ = self.newest(products)
        safe = jnp.where(keep, curvature, 1)
        column = (one - self.inverse @ jnp.where(here, 0, sy)) / safe
        both = live & live[:, None]
        inverse = jnp.where(both, jnp.where(here, column[:, None], self.inverse), 0)
        gram = jnp.where(both, jnp.where(here, yy[:, None], jnp.where(here[:, None], yy, self.gram)), 0)
        diagonal = jnp.where(live, jnp.where(here, sy, self.diagonal), 0)
        new = Pairs(rows, inverse, diagonal, gram, curvature / jnp.where(square > 0, square, 1), following)
        none = Pairs(
            rows, jnp.zeros_like(inverse), jnp.zeros_like(diagonal), jnp.zeros_like(gram), self.gamma, self.slot
        )
        old = Pairs(rows, self.inverse, self.diagonal, self.gram, self.gamma, self.slot)
        pairs = jax.tree.map(
            lambda a, b, c: a if a is b else jnp.where(keep, a, jnp.where(forget, b, c)), new, none, old
        )
        u = pairs.inverse @ p
        v = (pairs.diagonal * u + pairs.gamma * (pairs.gram @ u - q)) @ pairs.inverse
        weights = jnp.stack([v, -pairs.gamma * u], axis=1).reshape(-1)
        bare = -pairs.gamma * g
        return pairs, jnp.where(forget, bare, bare - weights @ rows)  # a trial's NaN stays in its row


class LBFGSState(eqx.Module):
    """The iterate with f and ∇f, the pairs, and the search under way: its direction, next trial and bracket."""

    x: PyTree
    value: Scalar
    gradient: Vector  # in units of `unit`
    size: Scalar  # ‖∇f(x)‖
    unit: Scalar
    pairs: Pairs
    direction: Vector
    slope: Scalar  # along it, in units of f / unit
    trial: Scalar
    low: Scalar
    high: Scalar
    trials: Int[Array, ""]
    bare: Bool[Array, ""]  # the direction is −γg
    curved: Scalar  # ‖y‖/max|s_i/x_i| ≤ ‖|∇²f||x|‖, which tells the rounding of ∇f from below
    accepted: Int[Array, ""]


@final
class LBFGS(Solver):
    """L-BFGS, for `minimize`. Cost: one value and gradient and 6mn operations a step, where a rejected trial is a step.

    Parameters
    ----------
    memory
        m, the number of pairs kept; 5 to 20 are usual.

    Notes
    -----
    Certificate: ``stationarity``, of `minimize`. ``stats["accepted"]`` counts iterations in the usual sense, the
    solution's ``steps`` evaluations. Source: Byrd, Nocedal & Schnabel (1994), theorem 2.2.

    Examples
    --------
    >>> from corollary.optim import functions, minimize
    >>> f = functions.rosenbrock(n=10)
    >>> solution = minimize(f, f.x0, LBFGS(), tol=1e-8)
    >>> bool(solution.converged), solution.value.round(4).max()
    (True, np.float64(1.0))
    """

    memory: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        """Refuse a memory below one."""
        validation.integer(1)("memory", self.memory)

    def check(self, problem: Problem) -> None:
        """A `Composite` without a penalty."""
        smooth_only(problem)

    def init(self, problem: Composite, x0: PyTree) -> LBFGSState:
        """The state at x0: the first trial has the length that the curvature along the gradient suggests."""
        value, gradient = problem.smooth.value_and_gradient(x0)
        g, unravel = ravel_pytree(gradient)
        unit = power_of_two(norm(g))
        g = g / unit
        bend = ravel_pytree(problem.smooth.hessian_product(x0, unravel(g)))[0] / unit
        length, size = norm(cauchy_step(g, bend)), norm(g)
        gamma = length / jnp.where(size > 0, size, 1)
        zero, one = jnp.zeros_like(value), jnp.ones_like(value)
        return LBFGSState(
            x=x0,
            value=value,
            gradient=g,
            size=size * unit,
            unit=unit,
            pairs=Pairs.empty(self.memory, g, gamma),
            direction=-gamma * g,
            slope=-gamma * size * size,
            trial=one,
            low=zero,
            high=zero + jnp.inf,
            trials=jnp.int32(0),
            bare=jnp.array(True),
            curved=zero,
            accepted=jnp.int32(0),
        )

    def step(self, problem: Composite, state: LBFGSState) -> tuple[LBFGSState, Info]:
        """One trial; where it is taken, a new direction."""
        x, unravel = ravel_pytree(state.x)
        s = state.trial * state.direction
        ahead = x + s
        value, gradient = problem.smooth.value_and_gradient(unravel(ahead))
        g = ravel_pytree(gradient)[0] / state.unit
        rows, products = state.pairs.written(s, g - state.gradient, g)
        bend, square, along = state.pairs.newest(products)
        before, after = state.slope, along / state.trial  # slopes, in units of f / unit

        lower = value <= state.value + C1 * state.trial * before * state.unit
        level = (value <= state.value + rounding(state.value, 4.0)) & (after <= (2 * C1 - 1) * before)
        fine = jnp.isfinite(value) & jnp.isfinite(after) & (before < 0)
        enough = fine & (lower | level)
        wolfe = after >= C2 * before
        taken = enough & (wolfe | (state.trials >= PATIENCE))
        keep = taken & wolfe & (bend > 0)
        share = jnp.max(jnp.abs(s) / jnp.maximum(jnp.abs(x), jnp.finfo(x.dtype).tiny))  # of x that is moved
        eps = jnp.finfo(x.dtype).eps
        failed = ~taken & ((state.trials >= TRIALS) | (share <= eps / 2) | (before >= 0))

        turn = taken | failed
        x, now, g_here = jax.tree.map(
            lambda a, b: jnp.where(taken, a, b), (ahead, value, g), (x, state.value, state.gradient)
        )
        pairs, direction = state.pairs.updated(rows, products, g_here, keep, failed)
        direction = jnp.where(turn, direction, state.direction)
        low, high = jnp.where(enough, state.trial, state.low), jnp.where(enough, state.high, state.trial)
        trial = next_trial(state, value, after, enough, low, high)
        zero, size = jnp.zeros_like(low), jnp.sqrt(jnp.dot(g_here, g_here)) * state.unit
        blurred = jnp.sqrt(square) * state.unit / jnp.where(share > 0, share, 1)
        told = jnp.where(keep & (share > eps**0.5), blurred, state.curved)
        new = LBFGSState(
            x=unravel(x),
            value=now,
            gradient=g_here,
            size=size,
            unit=state.unit,
            pairs=pairs,
            direction=direction,
            slope=jnp.dot(g_here, direction),
            trial=jnp.where(turn, 1, trial),
            low=jnp.where(turn, zero, low),
            high=jnp.where(turn, zero + jnp.inf, high),
            trials=jnp.where(turn, 0, state.trials + 1),
            bare=jnp.where(turn, failed, state.bare),
            curved=jnp.where(taken & (jnp.dot(s, s) > NEAR**2 * jnp.dot(x, x)), 0, told),
            accepted=state.accepted + taken.astype(jnp.int32),
        )
        info = Info(
            objective=now,
            residual=size,
            gradient_scale=state.size,
            from_start=True,
            floor=rounding(new.curved, 4.0),
            step=jnp.where(taken, state.trial, zero),
            stuck=failed & state.bare,
        )
        return new, info

    def stats(self, problem: Composite, state: LBFGSState) -> dict[str, Any]:
        """How many trials were taken."""
        return {"accepted": state.accepted}


def next_trial(state: LBFGSState, value: Scalar, after: Scalar, enough: Array, low: Scalar, high: Scalar) -> Scalar:
    """Outward by the secant of the slopes while there is no upper end; inward by a parabola first, then halfway."""
    t, before = state.trial, state.slope
    flatter = (after - before) / t
    reach = t - after / jnp.where(flatter > 0, flatter, 1)
    reach = jnp.where((flatter > 0) & jnp.isfinite(reach), jnp.clip(reach, 2 * t, 10 * t), 10 * t)
    slope = before * state.unit
    excess = (value - state.value) / t - slope
    ratio = -slope / (2 * jnp.where(excess > 0, excess, 1))
    ratio = jnp.where((excess > 0) & jnp.isfinite(ratio), jnp.clip(ratio, 0.1, 0.5), 0.1)
    inward = jnp.where((low == 0) & ~enough, ratio * t, low + (high - low) / 2)
    return jnp.where(jnp.isfinite(high), inward, reach)


def power_of_two(size: Scalar) -> Scalar:
    """The power of two below a size, 1 for zero: dividing by it rounds nothing."""
    _, exponent = jnp.frexp(size)
    usable = (size > 0) & jnp.isfinite(size)
    return jnp.where(usable, jnp.ldexp(jnp.ones_like(size), jnp.where(usable, exponent - 1, 0)), 1)
