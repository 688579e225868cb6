"""SAG: steps along the average of a table of the last gradient seen of every block.

    g_B ← ∇f_B(x),    x ← x − η·(1/N) Σ g.

Biased, unlike `SAGA`, which weighs the new entry N times as much; of less variance, and with η = 1/(16L) it converges
linearly by the factor 1 − min(μ/(16L), 1/(8N)) a step in expectation. No prox: there is no theorem for one; take
`SAGA`. Cost as `SAGA`.
Source: Schmidt, Le Roux & Bach, "Minimizing finite sums with the stochastic average gradient" (2017),
theorem 1.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import optax
from jaxtyping import PyTree

from corollary.optim._problem import Info, Problem, Solver
from corollary.optim.stochastic import _epoch as E
from corollary.optim.stochastic._finite_sum import FiniteSum
from corollary.optim.stochastic._saga import SAGAState, change_of, epoch, start


@final
class SAG(Solver):
    """SAG for `minimize`, without a penalty (l2 is welcome). A step is `passes`·N blocks, and a pass that certifies.

    Parameters
    ----------
    step_size
        η; 1/(16L) if left out, with L the smoothness of a block.
    batch_size, passes, sampling, precondition, key
        As in `SAGA`.

    Examples
    --------
    >>> from corollary.optim import FiniteSum, minimize
    >>> problem = FiniteSum("squared", [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], [1.0, 2.0, 2.0], l2=0.1)
    >>> minimize(problem, solver=SAG(), tol=1e-9).value.round(3).tolist()
    [0.885, 0.965]
    """

    step_size: Any = None
    batch_size: int | str = eqx.field(static=True, default="auto")
    passes: int = eqx.field(static=True, default=1)
    sampling: str = eqx.field(static=True, default="iid")
    precondition: bool = eqx.field(static=True, default=False)
    key: Any = None

    def __check_init__(self):
        """Refuse settings out of range."""
        E.check_settings(self)

    def check(self, problem: Problem) -> None:
        """A `FiniteSum` without a penalty."""
        E.check_problem(problem, self, smooth=True)

    def init(self, problem: FiniteSum, x0: PyTree) -> SAGAState:
        """The table of the gradients at x0."""
        b = E.batch(problem, self.batch_size)
        metric = E.metric_of(problem, self.precondition)
        return start(problem, x0, b, self.step_size, 1 / 16, self.key, metric)

    def direction(self, problem: FiniteSum, state: SAGAState, k: Any) -> PyTree:
        """The mean of the table with block k's entry renewed, and l2."""
        b = E.batch(problem, self.batch_size)
        change, _ = change_of(problem, state.x, state.table, k, b)
        N = problem.terms.blocks(b)
        return problem.shrink(optax.tree.add_scale(state.mean, 1 / N, change), state.x)

    def step(self, problem: FiniteSum, state: SAGAState) -> tuple[SAGAState, Info]:
        """An epoch of SAG steps, and the full gradient after it."""
        b = E.batch(problem, self.batch_size)
        N = problem.terms.blocks(b)

        def move(x, change, mean):
            v = problem.shrink(optax.tree.add_scale(mean, 1 / N, change), x)
            return E.move(problem, x, v, state.step, state.metric)

        return epoch(problem, state, b, self.passes, self.sampling, move, self.step_size)

    def stats(self, problem: FiniteSum, state: SAGAState) -> dict[str, Any]:
        """The block's size."""
        return {"batch_size": E.batch(problem, self.batch_size)}
