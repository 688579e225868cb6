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

    def default_solver(self) -> tuple[Solver, str]:
        """`DouglasRachford`."""
        return DouglasRachford(), "two terms that are known by their prox"


class DouglasRachfordState(eqx.Module):
    """The governing point y, its shadow x = prox_{tf}(y), the step t, and what the rate needs."""

    y: PyTree
    x: PyTree
    step: Scalar
    k: Int[Array, ""]
    first_move: Scalar
    last_move: Scalar
    grew: Scalar


@final
class DouglasRachford(Solver):
    """Douglas-Rachford splitting, for `minimize`, of a `PenaltySum`.

    Parameters
    ----------
    step_size
        t > 0, in units of x per unit of subgradient: about the size of the answer over that of a subgradient. Any t
        converges, a good one sooner.
    relaxation
        λ in (0, 2).

    Notes
    -----
    The answer is x, which lies in the domain of f (up to rounding) and only in the limit in that of g; the objective
    that is reported is f(x) + g(w), at the two copies. Certificates: ``stationarity`` (monitor), ‖x − w‖/t, which is
    the distance of 0 to ∂f(x) + ∂g(w); and ``move`` (monitor), ‖y_{k+1} − y_k‖ never grew (for convex terms it
    cannot).

    Examples
    --------
    >>> from corollary.optim import minimize, penalties
    >>> problem = PenaltySum(penalties.L1(1.0), penalties.AffineSet([[1.0, 2.0]], [2.0]))
    >>> minimize(problem, [0.0, 0.0], tol=1e-6).value.round(4).tolist()
    [0.0, 1.0]
    """

    step_size: Any = 1.0
    relaxation: Any = 1.0

    def __check_init__(self):
        """Refuse settings out of range."""
        at_least_zero("step_size", self.step_size, positive=True)
        if not isinstance(self.relaxation, jax.Array):
            validation.number(0.0, 2.0, open_low=True)("relaxation", self.relaxation)

    def check(self, problem: Problem) -> None:
        """A `PenaltySum`."""
        if not isinstance(problem, PenaltySum):
            raise InputError(f"problem: found {type(problem).__name__}, expected a PenaltySum")

    def init(self, problem: PenaltySum, x0: PyTree) -> DouglasRachfordState:
        """The state at y = x0."""
        step, zero = like(self.step_size, x0), like(0.0, x0)
        return DouglasRachfordState(x0, problem.first.prox(x0, step), step, jnp.int32(0), zero, zero + jnp.inf, zero)

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
        info = Info(
            objective=problem.first.value(x_new) + problem.second.value(w),
            residual=size / t,
            gradient_scale=a + b + (norm(x) + norm(w)) / t * jnp.finfo(t.dtype).eps,
            floor=rounding((norm(x) + norm(y)) / t),
            step=t,
            merit=size / t,
        )
        first = jnp.where(state.k == 0, size, state.first_move)
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
