"""Barzilai-Borwein steps for SGD and SVRG: the step of the next epoch from the last two, nothing to tune.

SVRG-BB: η_k = (1/m)·‖s‖²/⟨s, y⟩, with s and y the differences of the last two snapshots and of their full gradients.
⟨s, y⟩ lies between μ‖s‖² and L‖s‖², so 1/(mL) ≤ η_k ≤ 1/(mμ), L the smoothness of f. SGD-BB: the same with moving
averages of the block gradients in place of full ones, in absolute value, and smoothed to C/(k + 1) with a geometric
mean C, so that steps fall as they must. Cost: as `SVRG` and `SGD`, and two inner products an epoch.

The theorem wants epochs far longer than two passes: 1/(mμ) can be too long for a block, and the run then diverges.
So no step is longer than 1/(2L) here (1/L for SGD-BB), with L the smoothness of a block, and an epoch that blew up is
taken back. That is a safeguard of this library, not the paper's.
Source: Tan, Ma, Dai & Qian, "Barzilai-Borwein step size for stochastic gradient descent" (2016), algorithms 1 to 3 and
theorem 3.8.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key, PyTree

from corollary.core import validation
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.stochastic import _epoch as E
from corollary.optim.stochastic._finite_sum import FiniteSum
from corollary.optim.stochastic._svrg import difference

CAP = 0.5  # times 1/L of a block: the longest step of SVRG-BB


class SVRGBBState(eqx.Module):
    """The snapshot (at ``x``), the step and its cap, the key."""

    x: PyTree
    snapshot: E.Snapshot
    step: Scalar
    cap: Scalar
    key: Key[Array, ""]


@final
class SVRGBB(Solver):
    """SVRG with Barzilai-Borwein steps, for `minimize`, without a penalty (l2 is welcome). A step is an epoch.

    Parameters
    ----------
    first_step
        Of the first epoch; 1/(6L) if left out.
    batch_size, sampling, key
        As in `SVRG`.
    passes
        Length m of an epoch in passes: 2 in the paper.

    Examples
    --------
    >>> from corollary.optim import FiniteSum, minimize
    >>> problem = FiniteSum("squared", [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], [1.0, 2.0, 2.0], l2=0.1)
    >>> minimize(problem, solver=SVRGBB(), tol=1e-9).value.round(3).tolist()
    [0.885, 0.965]
    """

    first_step: Any = None
    batch_size: int | str = eqx.field(static=True, default="auto")
    passes: int = eqx.field(static=True, default=2)
    sampling: str = eqx.field(static=True, default="iid")
    key: Any = None

    def __check_init__(self):
        """Refuse settings out of range."""
        at_least_zero("first_step", self.first_step, positive=True)
        E.check_settings(self)

    def check(self, problem: Problem) -> None:
        """A `FiniteSum` without a penalty."""
        E.check_problem(problem, self, smooth=True)

    def init(self, problem: FiniteSum, x0: PyTree) -> SVRGBBState:
        """A full gradient at x0."""
        b = E.batch(problem, self.batch_size)
        first = E.snapshot(problem, x0, b)
        cap = E.step_of(None, problem, first, b, CAP)
        step = cap / (6 * CAP) if self.first_step is None else like(self.first_step, x0)
        return SVRGBBState(x0, first, step, cap, E.first_key(self.key))

    def step(self, problem: FiniteSum, state: SVRGBBState) -> tuple[SVRGBBState, Info]:
        """An epoch, and the step of the next."""
        b = E.batch(problem, self.batch_size)
        steps = self.passes * problem.terms.blocks(b)
        key, draws = jax.random.split(state.key)
        order = E.order(draws, self.sampling, steps, problem.terms.blocks(b))
        at = state.snapshot

        def body(t, x):
            return E.move(problem, x, difference(problem, at, x, order[t], b), state.step)

        new = E.snapshot(problem, jax.lax.fori_loop(0, steps, body, state.x), b, at.curvature)
        moved, turned = optax.tree.sub(new.x, at.x), optax.tree.sub(new.gradient, at.gradient)
        square, curved = norm(moved) ** 2, jnp.asarray(optax.tree.vdot(moved, turned))
        usable = (curved > 0) & jnp.isfinite(square / jnp.where(curved > 0, curved, 1))
        step = jnp.where(usable, square / jnp.where(usable, curved, 1) / steps, state.step)
        after = SVRGBBState(new.x, new, jnp.minimum(step, state.cap), state.cap, key)
        after, new = E.guarded(problem, after, state, new, at, b, None, always=True)
        return after, E.report(problem, new, at, state.step)


class SGDBBState(eqx.Module):
    """The last point (``x``), its epoch's averaged gradient, Σ log(η_i φ(i)), count of epochs, step, cap, key."""

    x: PyTree
    snapshot: E.Snapshot
    gradient: PyTree
    logs: Scalar
    epochs: Int[Array, ""]
    step: Scalar
    cap: Scalar
    key: Key[Array, ""]


@final
class SGDBB(Solver):
    """SGD with smoothed Barzilai-Borwein steps, for `minimize`. A step is an epoch, and a pass that certifies.

    Parameters
    ----------
    first_step
        Of the first two epochs; 1/(2L) if left out.
    decay
        β in (0, 1): the weight of the newest gradient in the moving average; 10/m if left out, as in the paper.
    batch_size, passes, sampling, key
        As in `SVRG`.

    Examples
    --------
    >>> from corollary.optim import FiniteSum, minimize
    >>> problem = FiniteSum("squared", [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], [1.0, 2.0, 2.0], l2=0.1)
    >>> bool(minimize(problem, solver=SGDBB(), tol=1e-2).converged)
    True
    """

    first_step: Any = None
    decay: Any = None
    batch_size: int | str = eqx.field(static=True, default="auto")
    passes: int = eqx.field(static=True, default=1)
    sampling: str = eqx.field(static=True, default="reshuffle")
    key: Any = None

    def __check_init__(self):
        """Refuse settings out of range."""
        at_least_zero("first_step", self.first_step, positive=True)
        if not isinstance(self.decay, jax.Array):
            validation.number(0, 1, open_low=True, none=True)("decay", self.decay)
        E.check_settings(self)

    def check(self, problem: Problem) -> None:
        """A `FiniteSum` without a penalty."""
        E.check_problem(problem, self, smooth=True)

    def init(self, problem: FiniteSum, x0: PyTree) -> SGDBBState:
        """The objective at x0 and the first step."""
        b = E.batch(problem, self.batch_size)
        first = E.snapshot(problem, x0, b)
        cap = E.step_of(None, problem, first, b, 1.0)
        step = cap / 2 if self.first_step is None else like(self.first_step, x0)
        zero = optax.tree.zeros_like(x0)
        return SGDBBState(x0, first, zero, jnp.zeros_like(step), jnp.int32(0), step, cap, E.first_key(self.key))

    def step(self, problem: FiniteSum, state: SGDBBState) -> tuple[SGDBBState, Info]:
        """An epoch, and the step of the next from the averages of this and the last."""
        b, terms = E.batch(problem, self.batch_size), problem.terms
        N = terms.blocks(b)
        steps = self.passes * N
        key, draws = jax.random.split(state.key)
        order = E.order(draws, self.sampling, steps, N)
        beta = like(min(10 / steps, 0.5) if self.decay is None else self.decay, state.x)

        def body(t, carry):
            x, mean = carry
            gradient = problem.shrink(terms.pull(terms.local(x, order[t], b)[1], order[t], b), x)
            mean = jax.tree.map(lambda m, g: (1 - beta) * m + beta * g, mean, gradient)
            return optax.tree.add_scale(x, -state.step, gradient), mean

        zero = optax.tree.zeros_like(state.x)
        x, mean = jax.lax.fori_loop(0, steps, body, (state.x, zero))
        epochs = state.epochs + 1
        moved, turned = optax.tree.sub(x, state.x), optax.tree.sub(mean, state.gradient)
        curved = jnp.abs(optax.tree.vdot(moved, turned))
        raw = norm(moved) ** 2 / jnp.where(curved > 0, curved, 1) / steps
        known = (state.epochs >= 1) & (curved > 0) & (raw > 0) & jnp.isfinite(raw)
        # The geometric mean C of η_i φ(i), i = 1, ..., k, with φ(i) = i + 1; the step of epoch k is C/φ(k).
        k = epochs.astype(state.step.dtype)
        logs = state.logs + jnp.log(jnp.where(known, raw, state.step) * (k + 1))
        step = jnp.minimum(jnp.exp(logs / k) / (k + 1), state.cap)
        new = E.snapshot(problem, x, b, state.snapshot.curvature)
        after = SGDBBState(x, new, mean, logs, epochs, step, state.cap, key)
        after, new = E.guarded(problem, after, state, new, state.snapshot, b, None)
        return after, E.report(problem, new, state.snapshot, state.step)
