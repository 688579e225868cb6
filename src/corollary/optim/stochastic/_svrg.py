"""SVRG: stochastic steps whose noise vanishes, with a full gradient at a snapshot x̃ once an epoch.

    v = ∇f_B(x) − ∇f_B(x̃) + ∇f(x̃),    x ← prox_{ηh}(x − ηv).

E v = ∇f(x), and its variance falls to zero with x and x̃ → x*, so that a constant step converges linearly, after
O((N + L/μ) log 1/ε) blocks. (Gradient descent costs O(N·L/μ·log 1/ε); √(N·L/μ) takes `Katyusha`.) A linear model keeps
the snapshot's slopes, n numbers, so that an inner step costs one product with the block and one with its transpose.
Source: Johnson & Zhang (2013), theorem 1; Xiao & Zhang (2014), theorem 3.1, with a prox; Sebbouh et al., "Towards
closing the gap between the theory and practice of SVRG" (2019), theorem 4.1, for epochs of any length.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from corollary.core import validation
from corollary.core.precision import follows_input
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, like
from corollary.optim.penalties._base import Scalar
from corollary.optim.stochastic import _epoch as E
from corollary.optim.stochastic._finite_sum import FiniteSum


class SVRGState(eqx.Module):
    """The snapshot (its ``x`` is the iterate), where the next epoch starts, step, key and metric."""

    x: PyTree
    snapshot: E.Snapshot
    start: PyTree
    step: Scalar
    key: Key[Array, ""]
    metric: Array | None


@final
class SVRG(Solver):
    """SVRG and, with a penalty, Prox-SVRG, for `minimize`. A step is an epoch: `passes`·N blocks and a full gradient.

    Parameters
    ----------
    step_size
        η; 1/(6L) if left out (Sebbouh et al.), with L the smoothness of a block; see `theory` for the factor.
    batch_size
        b, rows a block; ``"auto"``: what fills the cache.
    passes
        Length of an epoch, in passes over the data.
    snapshot
        The next snapshot: the ``"last"`` point, the ``"average"`` of the epoch's (Xiao & Zhang), or a ``"random"`` one
        (Johnson & Zhang, option II). After the latter two the epoch starts at the snapshot.
    sampling
        Blocks drawn ``"iid"``, as the theorems want, or ``"reshuffle"``: each once a pass, which is mostly faster.
    precondition
        Measure steps in the metric of the Hessian on some rows: for linear models of up to some hundred columns with
        correlated features; without a penalty. One d × d product a block more.
    key
        Randomness, from `jax.random.key`.

    Examples
    --------
    >>> from corollary.optim import FiniteSum, minimize
    >>> problem = FiniteSum("squared", [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], [1.0, 2.0, 2.0], l2=0.1)
    >>> solution = minimize(problem, solver=SVRG(), tol=1e-9)
    >>> bool(solution.converged), solution.value.round(3).tolist()
    (True, [0.885, 0.965])
    """

    step_size: Any = None
    batch_size: int | str = eqx.field(static=True, default="auto")
    passes: int = eqx.field(static=True, default=1)
    snapshot: str = eqx.field(static=True, default="last")
    sampling: str = eqx.field(static=True, default="iid")
    precondition: bool = eqx.field(static=True, default=False)
    key: Any = None

    def __check_init__(self):
        """Refuse settings out of range."""
        validation.one_of("last", "average", "random")("snapshot", self.snapshot)
        E.check_settings(self)

    def check(self, problem: Problem) -> None:
        """A `FiniteSum`."""
        E.check_problem(problem, self)

    def init(self, problem: FiniteSum, x0: PyTree) -> SVRGState:
        """A full gradient at x0."""
        b = E.batch(problem, self.batch_size)
        metric = E.metric_of(problem, self.precondition)
        first = E.snapshot(problem, x0, b)
        step = E.step_of(self.step_size, problem, first, b, 1 / 6, metric)
        return SVRGState(x0, first, x0, step, E.first_key(self.key), metric)

    def direction(self, problem: FiniteSum, state: SVRGState, x: PyTree, k: Any) -> PyTree:
        """v at x for block k, l2 included (its gradient is exact)."""
        return difference(problem, state.snapshot, x, k, E.batch(problem, self.batch_size))

    def step(self, problem: FiniteSum, state: SVRGState) -> tuple[SVRGState, Info]:
        """An epoch, and the full gradient at its snapshot."""
        b = E.batch(problem, self.batch_size)
        N = problem.terms.blocks(b)
        steps = self.passes * N
        key, draws, which = jax.random.split(state.key, 3)
        order = E.order(draws, self.sampling, steps, N)
        chosen = jax.random.randint(which, (), 0, steps)
        averaged = self.snapshot == "average"

        def body(t, carry):
            x, kept = carry
            x = E.move(problem, x, self.direction(problem, state, x, order[t]), state.step, state.metric)
            if averaged:
                kept = optax.tree.add_scale(kept, 1 / steps, x)
            elif self.snapshot == "random":
                kept = optax.tree.where(t == chosen, x, kept)
            return x, kept

        kept = None if self.snapshot == "last" else optax.tree.zeros_like(state.x)
        last, kept = jax.lax.fori_loop(0, steps, body, (state.start, kept))
        x = last if kept is None else kept
        new = E.snapshot(problem, x, b, state.snapshot.curvature)
        after = SVRGState(x, new, x, state.step, key, state.metric)
        after, new = E.guarded(problem, after, state, new, state.snapshot, b, self.step_size)
        return after, E.report(problem, new, state.snapshot, state.step)

    def stats(self, problem: FiniteSum, state: SVRGState) -> dict[str, Any]:
        """The block's size."""
        return {"batch_size": E.batch(problem, self.batch_size)}


def difference(problem: FiniteSum, at: E.Snapshot, x: PyTree, k: Any, b: int, *, ridge: bool = True) -> PyTree:
    """∇f_B(x) − ∇f_B(x̃) + ∇f(x̃), each with l2 (or without)."""
    terms = problem.terms
    new = terms.local(x, k, b)[1]
    old = E.take(at.table, k) if terms.compact else terms.local(at.x, k, b)[1]
    change = terms.pull(optax.tree.sub(new, old), k, b)
    v = optax.tree.add(change, at.data)
    return problem.shrink(v, x) if ridge else v


@follows_input
def svrg_factor(step: Any, steps: int, lipschitz: Any, strong_convexity: Any) -> Any:
    """Johnson & Zhang's factor 1/(μη(1 − 2Lη)m) + 2Lη/(1 − 2Lη) of E F(x̃) − F* per epoch of m steps of option II.

    It proves convergence where it is below 1, for η < 1/(4L) and m large. Source: Johnson & Zhang (2013), theorem 1.

    Examples
    --------
    >>> round(float(svrg_factor(0.1, 500, 1.0, 0.1)), 3)
    0.5
    """
    at_least_zero("step", step, positive=True)
    validation.integer(1)("steps", steps)
    at_least_zero("lipschitz", lipschitz, positive=True)
    at_least_zero("strong_convexity", strong_convexity, positive=True)
    step = jnp.asarray(step)
    eta, L, mu = step, like(lipschitz, step), like(strong_convexity, step)
    rest = 1 - 2 * L * eta
    return jnp.where(rest > 0, 1 / (mu * eta * rest * steps) + 2 * L * eta / rest, jnp.inf)
