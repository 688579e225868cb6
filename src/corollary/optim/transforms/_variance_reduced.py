"""SVRG and SAGA as transformations: gradients of a finite data set whose noise vanishes, for any optimizer after them.

SVRG: v = g_B(θ) − g_B(θ̃) + ∇f(θ̃), with a snapshot θ̃ and its full gradient, every `period` steps. SAGA: v =
g_i(θ) − t_i + mean(t), with a table t of the last gradient of each of N batches. Both are unbiased, and their
variance falls to zero with θ → θ*. For deep networks they rarely pay: the noise changes faster than the snapshot.
Cost: SVRG one more gradient a step and a full one every period; SAGA O(n), and N copies of the parameters.
Source: Johnson & Zhang, "Accelerating stochastic gradient descent using predictive variance reduction" (2013), fig. 1;
Defazio, Bach & Lacoste-Julien, "SAGA" (2014), algorithm 1; Defazio & Bottou, "On the ineffectiveness of variance
reduced optimization for deep learning" (2019).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim.transforms._transform import after, counter, needs, rule, zeros


class SVRGState(NamedTuple):
    """Steps taken, the snapshot and its full gradient."""

    count: Array
    snapshot: PyTree
    gradient: PyTree


class SAGAState(NamedTuple):
    """The table of gradients, their mean, and how many entries are filled."""

    table: PyTree
    mean: PyTree
    filled: Array


def svrg(period: int = 100) -> optax.GradientTransformationExtraArgs:
    """SVRG's gradient, to be chained before an optimizer.

    Parameters
    ----------
    period
        Steps between two snapshots; the first step takes one.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, grad_fn=..., full_grad_fn=...)``: the gradients of this batch and of all data, as
        functions of the parameters.

    Raises
    ------
    InputError
        For a period below 1, and missing functions.

    Notes
    -----
    Memory: two numbers a parameter. Cost: two gradients a step, a full one every `period`. Defaults: none in general,
    two passes over the data in Johnson & Zhang. When: convex problems on finite data.

    Examples
    --------
    >>> opt, x = svrg(10), jnp.array([1.0])
    >>> batch, full = (lambda p: 3 * p), (lambda p: 2 * p)
    >>> opt.update(batch(x), opt.init(x), x, grad_fn=batch, full_grad_fn=full)[0].tolist()
    [2.0]
    """
    validation.integer(1)("period", period)

    def init(params: PyTree) -> SVRGState:
        return SVRGState(counter(), jax.tree.map(jnp.array, params), zeros(params))

    def update(
        grads: PyTree, state: SVRGState, params: PyTree, grad_fn: Any = None, full_grad_fn: Any = None, **_: Any
    ) -> tuple[PyTree, SVRGState]:
        needs("grad_fn", grad_fn, "a function from parameters to the gradient on this batch")
        needs("full_grad_fn", full_grad_fn, "a function from parameters to the gradient on all data")
        due = state.count % period == 0
        snapshot, full = jax.lax.cond(
            due, lambda: (params, full_grad_fn(params)), lambda: (state.snapshot, state.gradient)
        )
        new = jax.tree.map(lambda g, s, f: g - s + f, grads, grad_fn(snapshot), full)
        return new, SVRGState(after(state.count), snapshot, full)

    return rule(init, update, params=True)


def saga(batches: int) -> optax.GradientTransformationExtraArgs:
    """SAGA's gradient, to be chained before an optimizer.

    Parameters
    ----------
    batches
        N, into how many fixed batches the data are cut.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, index=i)`` with the number i of the batch that gave the gradients.

    Raises
    ------
    InputError
        For N below 1, and an index that is missing or not in 0, ..., N − 1 (a traced one is not looked at).

    Notes
    -----
    A batch that is seen first has no entry: the mean is over the filled ones (with none, the gradient passes).
    Memory: N + 1 numbers a parameter. Cost: one gradient, O(n). Defaults: none. When: small models on finite data.

    Examples
    --------
    >>> opt, g = saga(2), jnp.array([1.0])
    >>> first, state = opt.update(g, opt.init(g), index=0)
    >>> opt.update(3 * g, state, index=0)[0].tolist()  # 3 − 1 + 1
    [3.0]
    """
    validation.integer(1)("batches", batches)

    def init(params: PyTree) -> SAGAState:
        table = jax.tree.map(lambda p: jnp.zeros((batches, *p.shape), p.dtype), params)
        return SAGAState(table, zeros(params), jnp.zeros(batches, bool))

    def update(
        grads: PyTree, state: SAGAState, params: Any = None, index: Any = None, **_: Any
    ) -> tuple[PyTree, SAGAState]:
        i = needs("index", index, "the number of this batch")
        if not isinstance(i, Tracer) and not 0 <= int(i) < batches:
            raise InputError(f"index: found {int(i)}, expected a batch's number from 0 to {batches - 1}")
        i = jnp.asarray(i)
        old, known = jax.tree.map(lambda t: t[i], state.table), state.filled[i]
        before = jnp.sum(state.filled)
        filled = state.filled.at[i].set(True)
        # An unseen batch has no difference to correct: then its gradient takes the place of the missing entry.
        new = jax.tree.map(lambda g, o, m: jnp.where(known, g - o + m, g), grads, old, state.mean)
        change = jax.tree.map(jnp.subtract, grads, old)
        count = jnp.sum(filled)
        mean = jax.tree.map(lambda m, c: (m * before + c) / count, state.mean, change)
        table = jax.tree.map(lambda t, g: t.at[i].set(g), state.table, grads)
        return new, SAGAState(table, mean, filled)

    return rule(init, update)
