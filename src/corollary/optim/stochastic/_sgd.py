"""Stochastic gradient descent with the classical schedules, averages of iterates, mini-batches and a prox.

    x ← prox_{η_t h}(x − η_t ∇f_B(x)).

A constant step converges to a ball of radius ~ √(ησ²/μ) about the solution; falling steps converge, at 1/√t without
and 1/t with strong convexity; an average of the iterates forgets the noise that the last one carries. Per block it is
the cheapest method, and for a low accuracy the fastest; for a high one take `SVRG` or `SAGA`.
Source: Bottou, Curtis & Nocedal (2018), theorems 4.6 and 4.7; Polyak & Juditsky (1992); Lacoste-Julien, Schmidt & Bach
(2012), for the weighted average; Rakhlin, Shamir & Sridharan (2012), for the suffix.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import like
from corollary.optim.penalties._base import Scalar
from corollary.optim.stochastic import _epoch as E
from corollary.optim.stochastic._finite_sum import FiniteSum


class SGDState(eqx.Module):
    """What is reported (``x``: the average, or the last point), the running point, the step count, 1/(2L), the key."""

    x: PyTree
    snapshot: E.Snapshot
    running: PyTree
    average: PyTree
    count: Int[Array, ""]
    step: Scalar
    key: Key[Array, ""]


@final
class SGD(Solver):
    """SGD for `minimize`. A step is `passes`·N blocks, and a pass that certifies.

    Without falling steps it does not converge: `minimize` then says so.

    Parameters
    ----------
    schedule
        ``"constant"``: η; ``"sqrt"``: η/√(t + 1); ``"inverse"``: 2/(2/η + μt), which is 2/(μ(t + 4L/μ)) for η = 1/(2L);
        or an Optax schedule, from the count of blocks to the step itself.
    step_size
        η; 1/(2L) if left out, with L the smoothness of a block. None beside an Optax schedule.
    average
        Report the last point (None), the ``"uniform"`` mean (Polyak & Ruppert), the mean with ``"weighted"`` weights
        t + 1, or that of a ``"suffix"``, which is restarted whenever the count doubles.
    batch_size, passes, sampling, key
        As in `SVRG`.

    Examples
    --------
    >>> from corollary.optim import FiniteSum, minimize
    >>> problem = FiniteSum("squared", [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], [1.0, 2.0, 2.0], l2=0.1)
    >>> minimize(problem, solver=SGD("inverse", average="weighted"), tol=1e-3).value.round(1).tolist()
    [0.9, 1.0]
    """

    schedule: Any = "inverse"
    step_size: Any = None
    average: str | None = eqx.field(static=True, default=None)
    batch_size: int | str = eqx.field(static=True, default="auto")
    passes: int = eqx.field(static=True, default=1)
    sampling: str = eqx.field(static=True, default="reshuffle")
    key: Any = None

    def __check_init__(self):
        """Refuse settings out of range."""
        if not callable(self.schedule):
            validation.one_of("constant", "sqrt", "inverse")("schedule", self.schedule)
        elif self.step_size is not None:
            raise InputError(f"step_size: found {self.step_size!r} beside a schedule that is a function, expected None")
        validation.one_of(None, "uniform", "weighted", "suffix")("average", self.average)
        E.check_settings(self)

    def check(self, problem: Problem) -> None:
        """A `FiniteSum`."""
        E.check_problem(problem, self)

    def init(self, problem: FiniteSum, x0: PyTree) -> SGDState:
        """The objective at x0 and the first step length."""
        b = E.batch(problem, self.batch_size)
        first = E.snapshot(problem, x0, b)
        step = like(1.0, x0) if callable(self.schedule) else E.step_of(self.step_size, problem, first, b, 1 / 2)
        return SGDState(x0, first, x0, x0, jnp.int32(0), step, E.first_key(self.key))

    def length(self, count: Any, first: Scalar, mu: Scalar) -> Scalar:
        """η_t."""
        t = jnp.asarray(count).astype(first.dtype)
        if callable(self.schedule):
            return like(self.schedule(t), first)
        if self.schedule == "sqrt":
            return first / jnp.sqrt(t + 1)
        return 2 / (2 / first + mu * t) if self.schedule == "inverse" else first

    def step(self, problem: FiniteSum, state: SGDState) -> tuple[SGDState, Info]:
        """An epoch of SGD steps."""
        b, terms = E.batch(problem, self.batch_size), problem.terms
        N = terms.blocks(b)
        key, draws = jax.random.split(state.key)
        order = E.order(draws, self.sampling, self.passes * N, N)
        mu = problem.mu(state.x)

        def body(i, carry):
            x, mean, t = carry
            gradient = problem.shrink(terms.pull(terms.local(x, order[i], b)[1], order[i], b), x)
            x = E.move(problem, x, gradient, self.length(t, state.step, mu))
            return x, self._averaged(mean, x, t), t + 1

        x, mean, count = jax.lax.fori_loop(0, self.passes * N, body, (state.running, state.average, state.count))
        length = self.length(count, state.step, mu)
        new = E.snapshot(problem, x if self.average is None else mean, b, state.snapshot.curvature)
        return SGDState(new.x, new, x, mean, count, state.step, key), E.report(problem, new, state.snapshot, length)

    def _averaged(self, mean: PyTree, x: PyTree, t: Any) -> PyTree:
        """The average of what came before x, and x, the (t + 1)-th."""
        now = (t + 1).astype(jax.tree.leaves(x)[0].dtype)
        if self.average == "weighted":
            weight = 2 / (now + 1)
        elif self.average == "suffix":
            begin = 2 ** (31 - jax.lax.clz(t + 1))  # the largest power of two up to now
            weight = 1 / (t + 2 - begin).astype(now.dtype)
        else:
            weight = 1 / now
        return mean if self.average is None else optax.tree.add_scale(mean, weight, optax.tree.sub(x, mean))

    def stats(self, problem: FiniteSum, state: SGDState) -> dict[str, Any]:
        """The block's size."""
        return {"batch_size": E.batch(problem, self.batch_size)}
