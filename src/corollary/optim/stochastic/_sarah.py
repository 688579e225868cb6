"""SARAH: a recursive gradient estimate, whose steps vanish within an epoch.

    v_0 = ∇f(x̃),    v_t = ∇f_B(x_t) − ∇f_B(x_{t−1}) + v_{t−1},    x_{t+1} = prox_{ηh}(x_t − ηv_t).

Given the past v_t is biased (E v_t = ∇f(x_t) − ∇f(x_{t−1}) + v_{t−1}); only in total expectation is E v_t = E ∇f(x_t).
In return ‖v_t‖ falls linearly within an epoch where F is strongly convex, which SVRG's does not. Cost of an inner step:
the block's gradient at two points. Source: Nguyen, Liu, Scheinberg & Takáč, "SARAH" (2017), theorems 1 and 4; with a
prox: Pham, Nguyen, Phan & Tran-Dinh, "ProxSARAH" (2020), with averaging weight 1.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import optax
from jaxtyping import Array, Key, PyTree

from corollary.core import validation
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim.penalties._base import Scalar
from corollary.optim.stochastic import _epoch as E
from corollary.optim.stochastic._finite_sum import FiniteSum


class SARAHState(eqx.Module):
    """The snapshot (at ``x``), step and key."""

    x: PyTree
    snapshot: E.Snapshot
    step: Scalar
    key: Key[Array, ""]


@final
class SARAH(Solver):
    """SARAH for `minimize`, with an optional prox. A step is an epoch: a full gradient and `passes`·N blocks.

    Parameters
    ----------
    step_size
        η; 1/(2L) if left out, with L the smoothness of a block (the theorem wants η < 2/L for ‖v_t‖ to fall, and
        1/(μη(m + 1)) + ηL/(2 − ηL) < 1 for the random iterate of an epoch of m steps).
    batch_size, passes, sampling, key
        As in `SVRG`.
    snapshot
        The next epoch starts at the ``"last"`` point, or at a ``"random"`` one, as the theorem has it.

    Examples
    --------
    >>> from corollary.optim import FiniteSum, minimize
    >>> problem = FiniteSum("squared", [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], [1.0, 2.0, 2.0], l2=0.1)
    >>> minimize(problem, solver=SARAH(), tol=1e-9).value.round(3).tolist()
    [0.885, 0.965]
    """

    step_size: Any = None
    batch_size: int | str = eqx.field(static=True, default="auto")
    passes: int = eqx.field(static=True, default=1)
    snapshot: str = eqx.field(static=True, default="last")
    sampling: str = eqx.field(static=True, default="iid")
    key: Any = None

    def __check_init__(self):
        """Refuse settings out of range."""
        validation.one_of("last", "random")("snapshot", self.snapshot)
        E.check_settings(self)

    def check(self, problem: Problem) -> None:
        """A `FiniteSum`."""
        E.check_problem(problem, self)

    def init(self, problem: FiniteSum, x0: PyTree) -> SARAHState:
        """A full gradient at x0."""
        b = E.batch(problem, self.batch_size)
        first = E.snapshot(problem, x0, b)
        step = E.step_of(self.step_size, problem, first, b, 1 / 2)
        return SARAHState(x0, first, step, E.first_key(self.key))

    def step(self, problem: FiniteSum, state: SARAHState) -> tuple[SARAHState, Info]:
        """An epoch, and the full gradient at its end."""
        b = E.batch(problem, self.batch_size)
        steps = self.passes * problem.terms.blocks(b)
        key, draws, which = jax.random.split(state.key, 3)
        order = E.order(draws, self.sampling, steps, problem.terms.blocks(b))
        chosen = jax.random.randint(which, (), 0, steps + 1)

        def body(t, carry):
            before, x, v, kept = carry
            kept = optax.tree.where(t == chosen, before, kept) if kept is not None else None
            v = optax.tree.add(v, step_change(problem, before, x, order[t], b))
            return x, E.move(problem, x, v, state.step), v, kept

        x0, v0 = state.x, state.snapshot.gradient
        x1 = E.move(problem, x0, v0, state.step)
        kept = x0 if self.snapshot == "random" else None
        before, last, _, kept = jax.lax.fori_loop(0, steps, body, (x0, x1, v0, kept))
        x = last if kept is None else optax.tree.where(chosen == steps, before, kept)
        new = E.snapshot(problem, x, b, state.snapshot.curvature)
        after = SARAHState(x, new, state.step, key)
        after, new = E.guarded(problem, after, state, new, state.snapshot, b, self.step_size)
        return after, E.report(problem, new, state.snapshot, state.step)

    def stats(self, problem: FiniteSum, state: SARAHState) -> dict[str, Any]:
        """The block's size."""
        return {"batch_size": E.batch(problem, self.batch_size)}


def step_change(problem: FiniteSum, before: PyTree, x: PyTree, k: Any, b: int) -> PyTree:
    """∇f_B(x) − ∇f_B(before), with l2."""
    terms = problem.terms
    new, old = terms.local(x, k, b)[1], terms.local(before, k, b)[1]
    return problem.shrink(terms.pull(optax.tree.sub(new, old), k, b), optax.tree.sub(x, before))
