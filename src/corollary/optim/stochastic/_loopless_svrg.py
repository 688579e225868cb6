"""Loopless SVRG: SVRG's step, with a coin in place of the outer loop.

After every step the snapshot moves to x with probability p = 1/N. With η = 1/(6L) the Lyapunov function
‖x − x*‖² + (4η²/(pN)) Σ ‖∇f_B(x̃) − ∇f_B(x*)‖² falls by 1 − min(ημ, p/2) a step in expectation: no epoch length to
choose, no knowledge of μ. Cost: as `SVRG`, on average. What is reported at an epoch's end is the last snapshot, at no
extra cost; it may be that of the epoch before.
Source: Kovalev, Horváth & Richtárik, "Don't jump through hoops and remove those loops" (2020), theorem 5.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from corollary.core import validation
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import like
from corollary.optim.penalties._base import Scalar
from corollary.optim.stochastic import _epoch as E
from corollary.optim.stochastic._finite_sum import FiniteSum
from corollary.optim.stochastic._svrg import difference


class LooplessSVRGState(eqx.Module):
    """The snapshot (its ``x`` is the iterate that is reported), the running point, step, key and metric."""

    x: PyTree
    snapshot: E.Snapshot
    running: PyTree
    step: Scalar
    key: Key[Array, ""]
    metric: Array | None


@final
class LooplessSVRG(Solver):
    """Loopless SVRG for `minimize`, with an optional prox. A step is `passes`·N blocks.

    Parameters
    ----------
    probability
        p of a new snapshot after a block; 1/N if left out.
    step_size
        η; 1/(6L) if left out, with L the smoothness of a block.
    batch_size, passes, sampling, precondition, key
        As in `SVRG`.

    Examples
    --------
    >>> from corollary.optim import FiniteSum, minimize
    >>> problem = FiniteSum("squared", [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], [1.0, 2.0, 2.0], l2=0.1)
    >>> minimize(problem, solver=LooplessSVRG(), tol=1e-9).value.round(3).tolist()
    [0.885, 0.965]
    """

    probability: Any = None
    step_size: Any = None
    batch_size: int | str = eqx.field(static=True, default="auto")
    passes: int = eqx.field(static=True, default=1)
    sampling: str = eqx.field(static=True, default="iid")
    precondition: bool = eqx.field(static=True, default=False)
    key: Any = None

    def __check_init__(self):
        """Refuse settings out of range."""
        if not isinstance(self.probability, jax.Array):
            validation.number(0, 1, open_low=True, none=True)("probability", self.probability)
        E.check_settings(self)

    def check(self, problem: Problem) -> None:
        """A `FiniteSum`."""
        E.check_problem(problem, self)

    def init(self, problem: FiniteSum, x0: PyTree) -> LooplessSVRGState:
        """A full gradient at x0."""
        b = E.batch(problem, self.batch_size)
        metric = E.metric_of(problem, self.precondition)
        first = E.snapshot(problem, x0, b)
        step = E.step_of(self.step_size, problem, first, b, 1 / 6, metric)
        return LooplessSVRGState(x0, first, x0, step, E.first_key(self.key), metric)

    def step(self, problem: FiniteSum, state: LooplessSVRGState) -> tuple[LooplessSVRGState, Info]:
        """An epoch; the snapshot moves where the coin says so, and is what counts."""
        b = E.batch(problem, self.batch_size)
        N = problem.terms.blocks(b)
        steps = self.passes * N
        key, draws, coins = jax.random.split(state.key, 3)
        order = E.order(draws, self.sampling, steps, N)
        p = like(1 / N if self.probability is None else self.probability, state.x)
        heads = jax.random.uniform(coins, (steps,), p.dtype) < p

        def body(t, carry):
            x, at = carry
            x = E.move(problem, x, difference(problem, at, x, order[t], b), state.step, state.metric)
            at = jax.lax.cond(heads[t], lambda: E.snapshot(problem, x, b, at.curvature), lambda: at)
            return x, at

        running, new = jax.lax.fori_loop(0, steps, body, (state.running, state.snapshot))
        after = LooplessSVRGState(new.x, new, running, state.step, key, state.metric)
        after, new = E.guarded(problem, after, state, new, state.snapshot, b, self.step_size)
        snapshots = jnp.sum(heads).astype(p.dtype)
        return after, E.report(problem, new, state.snapshot, state.step, snapshots=snapshots)

    def stats(self, problem: FiniteSum, state: LooplessSVRGState) -> dict[str, Any]:
        """The block's size."""
        return {"batch_size": E.batch(problem, self.batch_size)}
