"""Douglas-Rachford splitting: minimise f(x) + g(x) where both are known by their prox only.

    x = prox_{tf}(y),   w = prox_{tg}(2x − y),   y⁺ = y + λ(w − x).

Neither term need be smooth or finite: it finds a point of two sets, a basis pursuit solution, the nearest matrix with
two properties. Cost: two prox a step. For convex f, g and any t > 0, ‖y_{k+1} − y_k‖ = O(1/√k), and x converges.
Source: Eckstein & Bertsekas, "On the Douglas-Rachford splitting method" (1992), theorem 8; He & Yuan, "On the
convergence rate of Douglas-Rachford operator splitting method" (2015), theorem 3.1.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, floats, like, norm
from corollary.optim.penalties import Penalty
from corollary.optim.penalties._base import Scalar


@final
class PenaltySum(Problem):
    """Minimise f(x) + g(x), both penalties.

    Parameters
    ----------
    first, second
        Members of `corollary.optim.penalties`.

    Examples
    --------
    >>> from corollary.optim import penalties
    >>> problem = PenaltySum(penalties.L1(1.0), penalties.Box(0.0, 1.0))
    >>> float(problem.objective(jnp.asarray([0.5, 1.0])))
    1.5
    """

    first: Penalty
    second: Penalty

    def __check_init__(self):
        """Refuse anything but penalties."""
        for name in ("first", "second"):
            if not isinstance(getattr(self, name), Penalty):
                found = type(getattr(self, name)).__name__
                raise InputError(f"{name}: found {found}, expected a member of optim.penalties")

    def objective(self, x: Any) -> Any:
        """f(x) + g(x)."""
        x = floats(x)
        return self.first.value(x) + self.second.value(x)

    def claims(self) -> tuple[str, str]:
        """Of two relative numbers."""
        worst = "‖x − w‖ relative to ‖x‖ + ‖w‖, and ‖x − w‖/t relative to the two subgradients, are <= tol"
        return worst, super().claims()[1]

    def default_solver(self) -> tuple[Solver, str]:
        """`DouglasRachford`."""
        return DouglasRachford(), "two terms that are known by their prox"


class DouglasRachfordState(eqx.Module):
    """The governing point y, its shadow x = prox_{tf}(y), the step t, and what the rate needs."""

    y: PyTree
    x: PyTree
    step: Scalar
    k: Int[Array, ""]
    first: tuple[Scalar, Scalar]  # the sizes of the points and of the subgradients in the first step
    last_move: Scalar
    grew: Scalar


@final
class DouglasRachford(Solver):
    """Douglas-Rachford splitting, for `minimize`, of a `PenaltySum`.

    Parameters
    ----------
    step_size
        t > 0, in units of x per unit of subgradient: about the size of the answer over that of a subgradient. Any t
        converges, a good one sooner. Left out: ‖x‖²/(f(x) + g(x)) at the first of x0, prox_f(x0) and prox_g(x0), both
        of a very long step, where that is a positive number, so that a rescaled problem takes the same steps; else 1.
    relaxation
        λ in (0, 2).

    Notes
    -----
    The answer is x, which lies in the domain of f (up to rounding) and only in the limit in that of g; the objective
    that is reported is f(x) + g(w), at the two copies. Certificates: ``stationarity`` (monitor), ‖x − w‖ relative to
    ‖x‖ + ‖w‖, and ‖x − w‖/t, which is the distance of 0 to ∂f(x) + ∂g(w), relative to the two subgradients, the larger
    of both; where there is no solution (two sets without a common point) it does not fall. And ``move`` (monitor),
    ‖y_{k+1} − y_k‖ never grew (for convex terms it cannot).

    Examples
    --------
    >>> from corollary.optim import minimize, penalties
    >>> problem = PenaltySum(penalties.L1(1.0), penalties.AffineSet([[1.0, 2.0]], [2.0]))
    >>> minimize(problem, [0.0, 0.0], tol=1e-6).value.round(4).tolist()
    [0.0, 1.0]
    """

    step_size: Any = None
    relaxation: Any = 1.0

    def __check_init__(self):
        """Refuse settings out of range."""
        if self.step_size is not None:
            at_least_zero("step_size", self.step_size, positive=True)
        if not isinstance(self.relaxation, jax.Array):
            validation.number(0.0, 2.0, open_low=True)("relaxation", self.relaxation)

    def check(self, problem: Problem) -> None:
        """A `PenaltySum`."""
        if not isinstance(problem, PenaltySum):
            raise InputError(f"problem: found {type(problem).__name__}, expected a PenaltySum")

    def init(self, problem: PenaltySum, x0: PyTree) -> DouglasRachfordState:
        """The state at y = x0."""
        step, zero = _natural_step(problem, x0) if self.step_size is None else like(self.step_size, x0), like(0.0, x0)
        x = problem.first.prox(x0, step)
        return DouglasRachfordState(x0, x, step, jnp.int32(0), (zero, zero), zero + jnp.inf, zero)

    def step(self, problem: PenaltySum, state: DouglasRachfordState) -> tuple[DouglasRachfordState, Info]:
        """Two prox, and the move of the governing point."""
        t, y, x = state.step, state.y, state.x
        w = problem.second.prox(jax.tree.map(lambda x, y: 2 * x - y, x, y), t)
        move = optax.tree.sub(w, x)
        y_new = optax.tree.add_scale(y, like(self.relaxation, t), move)
        x_new = problem.first.prox(y_new, t)
        size = norm(move)
        a = norm(optax.tree.sub(y, x)) / t  # the subgradients whose sum has to vanish
        b = norm(jax.tree.map(lambda x, y, w: 2 * x - y - w, x, y, w)) / t
        lengths = norm(x) + norm(w)
        opening = state.k == 0
        first = jnp.where(opening, lengths, state.first[0]), jnp.where(opening, a + b, state.first[1])
        # Both are needed: on sets without a common point the subgradients grow without end, and ‖x − w‖ does not fall.
        points, pulls = jnp.maximum(first[0], lengths), jnp.maximum(first[1], a + b) * t
        points, pulls = (jnp.where(s > 0, s, 1) for s in (points, pulls))
        residual = jnp.maximum(size / points, size / pulls)
        info = Info(
            objective=problem.first.value(x_new) + problem.second.value(w),
            residual=residual,
            gradient_scale=jnp.ones_like(residual),
            floor=jnp.maximum(*(rounding((lengths + norm(y)) / s) for s in (points, pulls))),
            step=t,
            merit=residual,
        )
        grew = jnp.maximum(state.grew, jnp.where(state.k > 0, size - state.last_move, 0.0))
        return DouglasRachfordState(y_new, x_new, t, state.k + 1, first, size, grew), info

    def certify(self, problem: PenaltySum, state: DouglasRachfordState) -> dict[str, Certificate]:
        """That the moves of the governing point never grew."""
        slack = rounding(norm(state.y) + norm(state.x), 32.0)
        source = "He & Yuan (2015), theorem 3.1: ‖y_{k+1} − y_k‖ falls, and is O(1/√k)"
        convex = problem.first.is_convex and problem.second.is_convex
        assumption = Assumption("f and g convex", checked=True, holds=convex)
        claim = "‖x_k − w_k‖ never grew"
        return {"move": Certificate(claim, state.grew, slack, "monitor", source, assumptions=(assumption,))}


def _natural_step(problem: PenaltySum, x0: PyTree) -> Scalar:
    """‖x‖²/(f(x) + g(x)) at the first natural point where it is a positive number, else 1."""
    far, t = like(1e25, x0), like(1.0, x0)
    for x in (problem.second.prox(x0, far), problem.first.prox(x0, far), x0):
        value, size = jnp.abs(problem.first.value(x) + problem.second.value(x)), norm(x)
        found = size / jnp.where(value > 0, value, 1) * size
        t = jnp.where((value > 0) & (found > 0) & jnp.isfinite(found) & jnp.isfinite(value), found, t)
    return t
