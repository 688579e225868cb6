"""Gradient descent-ascent and the optimistic gradient: one field a step.

Descent-ascent, z ← prox(z − ηF(z)), converges where F is strongly monotone (η < 2μ/L²) or cocoercive; where F only
turns it spirals out: on f(x, y) = xy it multiplies ‖z‖² by exactly 1 + η² a step. The optimistic gradient,
z ← prox(z − η(2F(z) − F(z_before))), corrects by the last change of the field, which repairs that at the cost of one
stored field; it converges for every monotone field and η < 1/(2L).
Source: Daskalakis et al., "Training GANs with optimism" (2018), proposition 1; Popov (1980); Malitsky & Tam, "A
forward-backward splitting method for monotone inclusions without cocoercivity" (2020), theorem 2.5.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import optax
from jaxtyping import PyTree

from corollary.core.errors import InputError
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, like, norm
from corollary.optim.minimax._game import Equilibrium, equilibrium, steepness
from corollary.optim.penalties._base import Scalar


class FieldState(eqx.Module):
    """The iterate, the field there, the field of the iterate before, the step length, and L at the start."""

    x: PyTree
    field: PyTree
    before: PyTree
    step: Scalar
    lipschitz: Scalar


@final
class GradientDescentAscent(Solver):
    """Simultaneous gradient descent-ascent, for `minimize` on a game. Cost: one field and one prox a step.

    Use it where the game is strongly convex-concave; else `Extragradient` or `OptimisticGradient`.

    Parameters
    ----------
    step_size
        η > 0, below 2μ/L² for a μ-strongly monotone L-Lipschitz field. No default is safe.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from corollary.optim import SaddlePoint, minimize
    >>> problem = SaddlePoint(lambda x, y: x @ y)
    >>> spiral = minimize(problem, (jnp.ones(1), jnp.ones(1)), GradientDescentAscent(0.1), max_steps=50)
    >>> bool(spiral.converged)
    False
    """

    step_size: Any

    def __check_init__(self):
        """Refuse a step that is not positive."""
        if self.step_size is None:
            raise InputError("step_size: found None, expected a positive number (below 2μ/L²)")
        at_least_zero("step_size", self.step_size, positive=True)

    def check(self, problem: Problem) -> None:
        """A game."""
        equilibrium(problem)

    def init(self, problem: Equilibrium, x0: PyTree) -> FieldState:
        """The state at x0."""
        field = problem.field(x0)
        return FieldState(x0, field, field, like(self.step_size, x0), steepness(problem, x0))

    def step(self, problem: Equilibrium, state: FieldState) -> tuple[FieldState, Info]:
        """z ← prox(z − ηF(z))."""
        return _move(problem, state, state.field)


@final
class OptimisticGradient(Solver):
    """The optimistic gradient, for `minimize` on a game. Cost: one field and one prox a step, half of extragradient's.

    Parameters
    ----------
    step_size
        None: 0.45/L, with L from the problem or else from power iterations with the field's Jacobian at the start. They
        come to within a few percent of ‖J‖ there, and say nothing of it elsewhere: where it grows name L, or a
        step, or take `Extragradient`, which searches. Or a number.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from corollary.optim import SaddlePoint, minimize
    >>> run = minimize(SaddlePoint(lambda x, y: x @ y, lipschitz=1.0), (jnp.ones(1), jnp.ones(1)), OptimisticGradient())
    >>> bool(run.converged)
    True
    """

    step_size: Any = None

    def __check_init__(self):
        """Refuse a step that is not positive."""
        at_least_zero("step_size", self.step_size, positive=True)

    def check(self, problem: Problem) -> None:
        """A game."""
        equilibrium(problem)

    def init(self, problem: Equilibrium, x0: PyTree) -> FieldState:
        """The state at x0, as if the field had not changed before."""
        field, L = problem.field(x0), steepness(problem, x0)
        step = 0.45 / L if self.step_size is None else self.step_size
        return FieldState(x0, field, field, like(step, x0), L)

    def step(self, problem: Equilibrium, state: FieldState) -> tuple[FieldState, Info]:
        """z ← prox(z − η(2F(z) − F(before)))."""
        return _move(problem, state, jax.tree.map(lambda f, b: 2 * f - b, state.field, state.before))


def _move(problem: Equilibrium, state: FieldState, direction: PyTree) -> tuple[FieldState, Info]:
    t = state.step
    new = problem.penalty.prox(optax.tree.add_scale(state.x, -t, direction), t)
    field = problem.field(new)
    u = jax.tree.map(lambda a, b, d: (a - b) / t - d, state.x, new, direction)
    info = problem.measure(new, field, u, norm(state.field), t, state.lipschitz)
    return FieldState(new, field, state.field, t, state.lipschitz), info
