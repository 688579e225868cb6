"""Shuffling SARAH: SARAH along permutations, with weights 1/N, with or without full gradients.

An epoch visits every block once, in the order π: v_0 = ∇f(x_0), x_1 = x_0 − ηv_0, and

    v_t = v_{t−1} + (1/N)(∇f_{π_t}(x_t) − ∇f_{π_t}(x_{t−1})),    x_{t+1} = prox_{ηh}(x_t − ηv_t),

The weight 1/N makes the N differences add up to one of ∇f, so that v stays near ∇f(x) for *every* permutation. Without
full gradients v_0 is the mean of the N gradients met during the epoch before. It converges linearly on strongly convex
sums with η = 1/(8NL); an epoch of N such steps goes as far as a gradient step of 1/(8L), so it pays where all blocks
are alike, or full gradients are not to be had. Source: Beznosikov & Takáč, "Random-reshuffled SARAH does not need full
gradient computations" (2023), algorithm 1 and theorem 1.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from corollary.core import validation
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim.penalties._base import Scalar
from corollary.optim.stochastic import _epoch as E
from corollary.optim.stochastic._finite_sum import FiniteSum


class ShufflingSARAHState(eqx.Module):
    """The iterate with its snapshot, the direction that the epoch starts with, step and key."""

    x: PyTree
    snapshot: E.Snapshot
    direction: PyTree
    step: Scalar
    key: Key[Array, ""]


@final
class ShufflingSARAH(Solver):
    """Shuffling SARAH for `minimize`. A step is an epoch over all blocks, and a pass that certifies.

    Parameters
    ----------
    full_gradient
        Start epochs with ∇f (True), or with the mean of the gradients met in the epoch before: the pass at the epoch's
        end then only measures.
    step_size
        η; 1/(8NL) if left out, with L the smoothness of a block.
    order
        A new permutation each epoch (``"reshuffle"``), one for all (``"once"``), or as the rows lie (``"cyclic"``).
    batch_size, key
        As in `SVRG`.

    Examples
    --------
    >>> from corollary.optim import FiniteSum, minimize
    >>> problem = FiniteSum("squared", [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], [1.0, 2.0, 2.0], l2=0.1)
    >>> minimize(problem, solver=ShufflingSARAH(), tol=1e-9).value.round(3).tolist()
    [0.885, 0.965]
    """

    full_gradient: bool = eqx.field(static=True, default=True)
    step_size: Any = None
    order: str = eqx.field(static=True, default="reshuffle")
    batch_size: int | str = eqx.field(static=True, default="auto")
    key: Any = None

    def __check_init__(self):
        """Refuse settings out of range."""
        validation.flag("full_gradient", self.full_gradient)
        validation.one_of("reshuffle", "once", "cyclic")("order", self.order)
        E.check_settings(self)

    def check(self, problem: Problem) -> None:
        """A `FiniteSum`."""
        E.check_problem(problem, self)

    def init(self, problem: FiniteSum, x0: PyTree) -> ShufflingSARAHState:
        """A full gradient at x0, once."""
        b = E.batch(problem, self.batch_size)
        first = E.snapshot(problem, x0, b)
        step = E.step_of(self.step_size, problem, first, b, 1 / (8 * problem.terms.blocks(b)))
        return ShufflingSARAHState(x0, first, first.gradient, step, E.first_key(self.key))

    def step(self, problem: FiniteSum, state: ShufflingSARAHState) -> tuple[ShufflingSARAHState, Info]:
        """An epoch along one permutation."""
        b = E.batch(problem, self.batch_size)
        terms, N = problem.terms, problem.terms.blocks(b)
        key, draw = jax.random.split(state.key)
        if self.order == "cyclic":
            permutation = jnp.arange(N)
        else:
            permutation = jax.random.permutation(draw if self.order == "reshuffle" else E.first_key(self.key), N)

        def body(t, carry):
            before, x, v, mean = carry
            k = permutation[t]
            new, old = terms.local(x, k, b)[1], terms.local(before, k, b)[1]
            change = problem.shrink(terms.pull(optax.tree.sub(new, old), k, b), optax.tree.sub(x, before))
            v = optax.tree.add_scale(v, 1 / N, change)
            if mean is not None:
                mean = optax.tree.add_scale(mean, 1 / N, problem.shrink(terms.pull(new, k, b), x))
            return x, E.move(problem, x, v, state.step), v, mean

        x1 = E.move(problem, state.x, state.direction, state.step)
        mean = None if self.full_gradient else optax.tree.zeros_like(state.x)
        _, x, _, mean = jax.lax.fori_loop(0, N, body, (state.x, x1, state.direction, mean))
        new = E.snapshot(problem, x, b, state.snapshot.curvature)
        after = ShufflingSARAHState(x, new, new.gradient if mean is None else mean, state.step, key)
        after, new = E.guarded(problem, after, state, new, state.snapshot, b, self.step_size)
        return after, E.report(problem, new, state.snapshot, state.step)

    def stats(self, problem: FiniteSum, state: ShufflingSARAHState) -> dict[str, Any]:
        """The block's size."""
        return {"batch_size": E.batch(problem, self.batch_size)}
