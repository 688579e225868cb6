"""Barzilai-Borwein steps as a transformation: the step length from the last move and the last change of the gradient.

BB1: η = ‖s‖²/⟨s, y⟩, BB2: η = ⟨s, y⟩/‖y‖², s = θ − θ₋ and y = g − g₋. For full batches; noise in y
ruins the quotient, so that for mini-batches it is taken from averages over `period` steps (SGD-BB).
Where ⟨s, y⟩ ≤ 0 the last step stays. Cost: two inner products, O(n).
Source: Barzilai & Borwein, "Two-point step size gradient methods" (1988), eqs. (5) and (6); Tan, Ma, Dai & Qian,
"Barzilai-Borwein step size for stochastic gradient descent" (2016), algorithm 3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.optim._tree import norm
from corollary.optim.transforms._transform import after, check, counter, rule, zeros


class BarzilaiBorweinState(NamedTuple):
    """Steps taken, the point and mean gradient of the last epoch, the mean gradient of this one, and the step."""

    count: Array
    params: PyTree
    grads: PyTree
    running: PyTree
    step: Array


def barzilai_borwein(
    initial_step: Any, *, kind: str = "bb1", period: int = 1, max_step: Any = float("inf")
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent with Barzilai-Borwein steps, for full or (with ``period`` > 1) mini-batch gradients.

    Parameters
    ----------
    initial_step
        η until a quotient is known.
    kind
        ``"bb1"`` (long steps) or ``"bb2"`` (short ones).
    period
        Steps between two new step lengths; gradients are averaged in between, and the quotient is divided by `period`.
    max_step
        The longest step.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``state.step`` is η.

    Raises
    ------
    InputError
        For settings out of range, and a call without parameters.

    Notes
    -----
    The loss rises and falls on the way; there is no line search. (`corollary.optim.BarzilaiBorwein` has one.)
    Memory: three numbers a parameter. Cost: one gradient, O(n). Defaults: BB1 of the paper. When: full batches.

    Examples
    --------
    >>> opt, x = barzilai_borwein(0.1), jnp.array([1.0, 1.0])
    >>> state = opt.init(x)
    >>> for _ in range(3):
    ...     step, state = opt.update(4 * x, state, x)
    ...     x = x + step
    >>> f"{state.step:.3f} {jnp.abs(x).max():.6f}"
    '0.250 0.000000'
    """
    check("initial_step", initial_step, 0.0, open_low=True)
    check("max_step", max_step, 0.0, open_low=True)
    validation.one_of("bb1", "bb2")("kind", kind)
    validation.integer(1)("period", period)

    def init(params: PyTree) -> BarzilaiBorweinState:
        step = jnp.asarray(initial_step, jnp.result_type(*jax.tree.leaves(params)))
        return BarzilaiBorweinState(counter(), jax.tree.map(jnp.array, params), zeros(params), zeros(params), step)

    def update(
        grads: PyTree, state: BarzilaiBorweinState, params: PyTree, **_: Any
    ) -> tuple[PyTree, BarzilaiBorweinState]:
        running = jax.tree.map(lambda r, g: r + g / period, state.running, grads)
        if period == 1:
            ends, ready = jnp.ones([], bool), state.count > 0
            mean = grads
        else:
            # At the first step of an epoch the last epoch's mean is compared with the one before.
            ends = (state.count % period == 0) & (state.count > 0)
            ready = ends & (state.count > period)
            mean = state.running
        s = jax.tree.map(jnp.subtract, params, state.params)
        y = jax.tree.map(jnp.subtract, mean, state.grads)
        # By lengths and their cosine: squares would leave float32's range long before the steps do.
        long, change = norm(s), norm(y)
        moved = (long > 0) & (change > 0)
        units = (optax.tree.scale(1 / jnp.where(moved, n, 1), v) for n, v in ((long, s), (change, y)))
        cosine = jnp.asarray(optax.tree.vdot(*units))
        usable = ready & moved & (cosine > 0)
        ratio = long / jnp.where(moved, change, 1)
        quotient = (ratio / jnp.where(usable, cosine, 1) if kind == "bb1" else ratio * cosine) / period
        step = jnp.where(usable, jnp.minimum(quotient, max_step), state.step)
        keep = (lambda a, b: a) if period == 1 else (lambda a, b: optax.tree.where(ends, a, b))
        if period > 1:
            fresh = jax.tree.map(lambda g: g / period, grads)
            running = optax.tree.where(ends | (state.count == 0), fresh, running)
        new = BarzilaiBorweinState(
            after(state.count),
            keep(params, state.params),
            keep(mean, state.grads),
            running,
            step,
        )
        return jax.tree.map(lambda g: -step * g, grads), new

    return rule(init, update, params=True)
