"""Extragradient: look one step ahead, and follow the field found there.

    w_k = prox_{ηh}(z_k − ηF(z_k)),    z_{k+1} = prox_{ηh}(z_k − ηF(w_k)).

It converges for every monotone L-Lipschitz field and η < 1/L, where plain descent-ascent spirals out: on f(x, y) = xy
‖z‖² is multiplied by (1 − η²)² + η² a step (by 1 at η = 1/L, hence the default 1/(√2 L)). The average of the w_k has a
restricted gap of at most R²/(2ηk), η ≤ 1/L. Cost: two fields and two proxes a step.
Source: Korpelevich (1976); Nemirovski, "Prox-method with rate of convergence O(1/t)" (2004), theorem 3.2; the
search: Khobotov (1987).
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, like, norm
from corollary.optim.minimax._game import Equilibrium, MatrixGame, equilibrium, steepness
from corollary.optim.penalties import Zero
from corollary.optim.penalties._base import Scalar

AHEAD, SHRINK, TRIALS = 0.5**0.5, 0.7, 100
ERGODIC = "Nemirovski (2004), theorem 3.2; Tseng (2008), corollary 1"


class Ergodic(eqx.Module):
    """What the average's gap needs: the start, Ση, the averages of F(w) and ⟨F(w), w⟩, and whether each η was short."""

    start: PyTree
    weight: Scalar
    field: PyTree
    product: Scalar
    short: Bool[Array, ""]


class ExtragradientState(eqx.Module):
    """The answer so far x (the iterate z, or the average), z with F(z), the step length, and L at the start."""

    x: PyTree
    z: PyTree
    field: PyTree
    step: Scalar
    ergodic: Ergodic | None
    lipschitz: Scalar


@final
class Extragradient(Solver):
    """Extragradient, for `minimize` on a `Game`, `SaddlePoint` or `MatrixGame`. Cost: two fields, two proxes a step.

    Parameters
    ----------
    step_size
        None: 1/(√2 L) where the problem knows L, else a search that only ever shortens; or a number.
    average
        Return the average of the looked-ahead points, with its O(1/k) gap as a certificate (one more field a step).

    Notes
    -----
    Certificate with ``average=True``: ``ergodic_gap`` (theorem), the gap of the average over a ball at the start, of
    twice the length that it moved (for a matrix game over all strategies) against R²/(2Ση), which holds for
    every η‖F(w) − F(z)‖ ≤ ‖w − z‖ (checked). With a penalty of another kind there is none.

    Examples
    --------
    >>> from corollary.optim import SaddlePoint, minimize
    >>> run = minimize(SaddlePoint(lambda x, y: x @ y, lipschitz=1.0), (jnp.ones(1), jnp.ones(1)), Extragradient())
    >>> bool(run.converged), float(abs(run.value[0][0])) < 1e-5
    (True, True)
    """

    step_size: Any = None
    average: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        """Refuse a step that is not positive."""
        at_least_zero("step_size", self.step_size, positive=True)
        validation.flag("average", self.average)

    def check(self, problem: Problem) -> None:
        """A game."""
        equilibrium(problem)

    def init(self, problem: Equilibrium, x0: PyTree) -> ExtragradientState:
        """The state at x0."""
        field, L = problem.field(x0), steepness(problem, x0)
        step = AHEAD / L if self.step_size is None else self.step_size
        zero = optax.tree.zeros_like(x0)
        nothing = like(0.0, x0)
        ergodic = Ergodic(x0, nothing, zero, nothing, jnp.array(True)) if self.average else None
        return ExtragradientState(x0, x0, field, like(step, x0), ergodic, L)

    def step(self, problem: Equilibrium, state: ExtragradientState) -> tuple[ExtragradientState, Info]:
        """Look ahead, then step."""
        z, field = state.z, state.field

        def ahead(t):
            w = problem.penalty.prox(optax.tree.add_scale(z, -t, field), t)
            return w, problem.field(w)

        def turned(w, there, t):
            """η‖F(w) − F(z)‖ and ‖w − z‖; the rounding of the former."""
            size = norm(field) + norm(there)
            return t * norm(optax.tree.sub(there, field)), norm(optax.tree.sub(w, z)), rounding(t * size + norm(z))

        t = state.step
        w, there = ahead(t)
        if self.step_size is None and problem.lipschitz() is None:

            def too_long(trial):
                w, there, t, count = trial
                change, moved, noise = turned(w, there, t)
                return ~(change <= AHEAD * moved + noise) & (count < TRIALS)

            def shorten(trial):
                t = SHRINK * trial[2]
                return *ahead(t), t, trial[3] + 1

            w, there, t, _ = jax.lax.while_loop(too_long, shorten, (w, there, t, 0))

        new = problem.penalty.prox(optax.tree.add_scale(z, -t, there), t)
        after = problem.field(new)
        if state.ergodic is None:
            u = jax.tree.map(lambda a, b, f: (a - b) / t - f, z, new, there)
            info = problem.measure(new, after, u, norm(field), t, state.lipschitz)
            return ExtragradientState(new, new, after, t, None, state.lipschitz), info

        past = state.ergodic
        weight = past.weight + t
        change, moved, noise = turned(w, there, t)
        x = _blend(state.x, w, t / weight)
        ergodic = Ergodic(
            past.start,
            weight,
            _blend(past.field, there, t / weight),
            _blend(past.product, optax.tree.vdot(there, w), t / weight),
            past.short & (change <= moved + noise),
        )
        at_x = problem.field(x)
        # No subgradient is at hand at an average: the natural residual, which vanishes at solutions alone, serves.
        s = 1 / state.lipschitz
        u = jax.tree.map(lambda r, f: r / s - f, problem.optimality(x, s), at_x)
        info = problem.measure(x, at_x, u, norm(field), t, state.lipschitz, average=True)
        return ExtragradientState(x, new, after, t, ergodic, state.lipschitz), info

    def certify(self, problem: Equilibrium, state: ExtragradientState) -> dict[str, Certificate]:
        """The gap of the average against its theorem."""
        run = state.ergodic
        if run is None or not isinstance(problem.penalty, Zero) | isinstance(problem, MatrixGame):
            return {}
        if isinstance(problem, MatrixGame):
            radius, measured = problem.farthest(run.start), problem.gap(state.x)
            noise, where = rounding(problem.scale(), 64.0), "all strategies"
        else:
            radius = 2 * norm(optax.tree.sub(state.x, run.start))
            size = norm(run.field)
            measured = run.product - optax.tree.vdot(run.field, run.start) + radius * size
            noise = rounding(jnp.abs(run.product) + size * (radius + norm(run.start)), 256.0)
            where = "the ball around z0"
        claim = f"gap of the average over {where} <= R²/(2Ση)"
        known = (
            Assumption("F is monotone"),
            Assumption("η‖F(w) − F(z)‖ <= ‖w − z‖ at every step", checked=True, holds=run.short),
        )
        bound = radius**2 / (2 * run.weight) + noise
        return {"ergodic_gap": Certificate(claim, measured, bound, "theorem", ERGODIC, assumptions=known)}


def _blend(mean: PyTree, new: PyTree, share: Scalar) -> PyTree:
    return jax.tree.map(lambda m, n: m + share * (n - m), mean, new)
