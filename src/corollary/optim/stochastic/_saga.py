"""SAGA: variance reduction by a table of the last gradient seen of every block, without full gradients.

    v = ∇f_B(x) − g_B + (1/N) Σ g,    x ← prox_{ηh}(x − ηv),    then g_B ← ∇f_B(x before the step).

E v = ∇f(x). With η = 1/(3L) the error falls by 1 − min(1/(4N), μ/(3L)) a step in expectation, without knowing μ. For a
linear model a table entry is one number a row: O(n), not O(nd). A penalty enters by its prox; `SAG` is the biased
variant. Every epoch ends with a pass that certifies the point and sums the table's mean anew, free of drift.
Source: Defazio, Bach & Lacoste-Julien, "SAGA" (2014), corollary 1 and theorem 1.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from corollary.optim._problem import Info, Problem, Solver
from corollary.optim.penalties._base import Scalar
from corollary.optim.stochastic import _epoch as E
from corollary.optim.stochastic._finite_sum import FiniteSum


class SAGAState(eqx.Module):
    """The iterate, the table and its mean gradient, the last snapshot (at ``x``), step, key and metric."""

    x: PyTree
    table: PyTree
    mean: PyTree
    snapshot: E.Snapshot
    step: Scalar
    key: Key[Array, ""]
    metric: Array | None


@final
class SAGA(Solver):
    """SAGA for `minimize`. A step is an epoch of `passes`·N blocks, and a pass that certifies.

    Parameters
    ----------
    step_size
        η; 1/(3L) if left out, with L the smoothness of a block.
    batch_size
        b, rows a block; ``"auto"``: what fills the cache.
    passes
        Passes over the data between two certificates.
    sampling
        Blocks drawn ``"iid"``, as the theorem wants, or ``"reshuffle"``: each once a pass, which is mostly faster.
    precondition
        Measure steps in the metric of the Hessian on some rows, as in `SVRG`.
    key
        Randomness, from `jax.random.key`.

    Examples
    --------
    >>> from corollary.optim import FiniteSum, minimize, penalties
    >>> problem = FiniteSum("squared", [[1.0, 0.0], [0.0, 2.0]], [2.0, 1.0], penalty=penalties.L1(0.25))
    >>> minimize(problem, solver=SAGA(), tol=1e-10).value.round(4).tolist()
    [1.5, 0.375]
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
        """A `FiniteSum`."""
        E.check_problem(problem, self)

    def init(self, problem: FiniteSum, x0: PyTree) -> SAGAState:
        """The table of the gradients at x0."""
        b = E.batch(problem, self.batch_size)
        metric = E.metric_of(problem, self.precondition)
        return start(problem, x0, b, self.step_size, 1 / 3, self.key, metric)

    def direction(self, problem: FiniteSum, state: SAGAState, k: Any) -> PyTree:
        """v for block k, l2 included (its gradient is exact)."""
        change, _ = change_of(problem, state.x, state.table, k, E.batch(problem, self.batch_size))
        return problem.shrink(optax.tree.add(change, state.mean), state.x)

    def step(self, problem: FiniteSum, state: SAGAState) -> tuple[SAGAState, Info]:
        """An epoch of SAGA steps, and the full gradient after it."""
        b = E.batch(problem, self.batch_size)

        def move(x, change, mean):
            v = problem.shrink(optax.tree.add(change, mean), x)
            return E.move(problem, x, v, state.step, state.metric)

        return epoch(problem, state, b, self.passes, self.sampling, move, self.step_size)

    def stats(self, problem: FiniteSum, state: SAGAState) -> dict[str, Any]:
        """The block's size."""
        return {"batch_size": E.batch(problem, self.batch_size)}


def start(
    problem: FiniteSum, x0: PyTree, b: int, step_size: Any, fraction: float, key: Any, metric: Array | None = None
) -> SAGAState:
    """The state whose table holds the gradients at x0."""
    first = E.snapshot(problem, x0, b)
    step = E.step_of(step_size, problem, first, b, fraction, metric)
    table = first.table
    if table is None:
        table = jax.lax.map(lambda k: problem.terms.local(x0, k, b)[1], jnp.arange(problem.terms.blocks(b)))
    else:  # the state's own table; the snapshot's has served its bound
        first = eqx.tree_at(lambda s: s.table, first, None)
    return SAGAState(x0, table, first.data, first, step, E.first_key(key), metric)


def change_of(problem: FiniteSum, x: PyTree, table: PyTree, k: Any, b: int) -> tuple[PyTree, PyTree]:
    """∇f_B(x) − g_B, and the new entry."""
    new = problem.terms.local(x, k, b)[1]
    return problem.terms.pull(optax.tree.sub(new, E.take(table, k)), k, b), new


def epoch(
    problem: FiniteSum, state: SAGAState, b: int, passes: int, sampling: str, move: Any, step_size: Any
) -> tuple[SAGAState, Info]:
    """Steps along a table of gradients: ``move(x, change of the entry, mean of the table)`` says how."""
    N = problem.terms.blocks(b)
    key, draws = jax.random.split(state.key)
    order = E.order(draws, sampling, passes * N, N)

    def body(t, carry):
        x, table, mean = carry
        k = order[t]
        change, new = change_of(problem, x, table, k, b)
        x = move(x, change, mean)
        return x, E.put(table, k, new), optax.tree.add_scale(mean, 1 / N, change)

    x, table, mean = jax.lax.fori_loop(0, passes * N, body, (state.x, state.table, state.mean))
    new, mean = E.snapshot_and_mean(problem, x, b, state.snapshot.curvature, table)
    new = eqx.tree_at(lambda s: s.table, new, None, is_leaf=lambda leaf: leaf is None)
    after = SAGAState(x, table, mean, new, state.step, key, state.metric)
    after, new = E.guarded(problem, after, state, new, state.snapshot, b, step_size)
    return after, E.report(problem, new, state.snapshot, state.step)
