"""DiLoCo: many inner steps, then one outer step along what they achieved together; Lookahead is its simplest case.

Each worker runs `period` steps of an inner optimizer from the shared anchor; the outer gradient Δ = anchor − mean of
the workers' parameters is handed to an outer optimizer (SGD with Nesterov's momentum), and everyone restarts from the
new anchor. Bytes sent fall by the factor `period`. With one worker, an outer rate α and no momentum it is Lookahead.
Cost: a mean over the workers every `period` steps. Source: Douillard et al., "DiLoCo: distributed low-communication
training of language models" (2023), algorithm 1; Zhang, Lucas, Hinton & Ba, "Lookahead optimizer" (2019), algorithm 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.optim.transforms._transform import check, counter, float32_state, rule


class DiLoCoState(NamedTuple):
    """Steps since the last outer step, the anchor, and the states of both optimizers."""

    since: Array
    anchor: PyTree
    inner: Any
    outer: Any


def diloco_outer(learning_rate: Any = 0.7, momentum: Any = 0.9, *, nesterov: bool = True) -> Any:
    """DiLoCo's outer optimizer: SGD with Nesterov's momentum on outer gradients.

    Parameters
    ----------
    learning_rate
        Outer η, number or schedule.
    momentum
        Outer momentum in [0, 1), or None.
    nesterov
        Look ahead.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        To be fed with `outer_gradient`, or as `outer` of `diloco`.

    Notes
    -----
    Memory: one number a parameter. Cost: O(n) an outer step. Defaults: 0.7 and 0.9 of Douillard et al., section 3.
    When: workers are joined by slow links.

    Examples
    --------
    >>> opt, x = diloco_outer(0.5, None), jnp.array([2.0])
    >>> step, _ = opt.update(outer_gradient(x, jnp.array([[1.0], [0.0]])), opt.init(x), x)
    >>> (x + step).tolist()
    [1.25]
    """
    check("learning_rate", learning_rate, 0.0)
    if momentum is not None:
        check("momentum", momentum, 0.0, 1.0)
    return float32_state(optax.sgd(learning_rate, momentum, nesterov=nesterov and momentum is not None))


def outer_gradient(anchor: PyTree, workers: PyTree) -> PyTree:
    """The outer gradient: the anchor minus the mean of the workers' parameters (leading axis).

    Parameters
    ----------
    anchor
        Where all workers started.
    workers
        Their parameters now, with a leading axis of workers.

    Returns
    -------
    PyTree
        Like `anchor`.

    Examples
    --------
    >>> outer_gradient(jnp.array([2.0]), jnp.array([[1.0], [0.0]])).tolist()
    [1.5]
    """
    return jax.tree.map(lambda a, w: a - jnp.mean(w, 0).astype(a.dtype), anchor, workers)


def diloco(
    inner: optax.GradientTransformation, outer: Any = None, *, period: int = 100, axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """Inner steps with an outer step every `period`: DiLoCo over `axis_name`, or for one worker.

    Parameters
    ----------
    inner
        The workers' optimizer.
    outer
        The outer one; `diloco_outer` if left out.
    period
        H, steps between two outer steps.
    axis_name
        Mesh or vmap axis of the workers, over which the parameters are averaged at an outer step; None: one worker.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Needs the parameters; extra arguments go to `inner`.

    Raises
    ------
    InputError
        For a period below 1.

    Notes
    -----
    Memory: two numbers a parameter (anchor, outer momentum) beside the inner state. Cost: O(n), and one mean over the
    workers every `period` steps. Defaults: H = 100, Douillard et al., figure 4. When: slow links; with one worker it
    smooths the path, often for free.

    Examples
    --------
    >>> opt, x = diloco(optax.sgd(0.5), diloco_outer(0.5, None), period=2), jnp.array([4.0])
    >>> state = opt.init(x)
    >>> for _ in range(2):
    ...     step, state = opt.update(x, state, x)
    ...     x = x + step
    >>> x.tolist()  # two halvings to 1, then half the way from 4
    [2.5]
    """
    validation.integer(1)("period", period)
    inner = optax.with_extra_args_support(inner)
    outer = optax.with_extra_args_support(diloco_outer() if outer is None else outer)

    def init(params: PyTree) -> DiLoCoState:
        return DiLoCoState(counter(), jax.tree.map(jnp.array, params), inner.init(params), outer.init(params))

    def update(grads: PyTree, state: DiLoCoState, params: PyTree, **extra: Any) -> tuple[PyTree, DiLoCoState]:
        moved, inner_state = inner.update(grads, state.inner, params, **extra)

        def stay(_: None) -> tuple[PyTree, PyTree, Any]:
            return moved, state.anchor, state.outer

        def meet(_: None) -> tuple[PyTree, PyTree, Any]:
            there = jax.tree.map(jnp.add, params, moved)
            if axis_name is not None:
                there = jax.lax.pmean(there, axis_name)
            delta = jax.tree.map(jnp.subtract, state.anchor, there)
            step, outer_state = outer.update(delta, state.outer, state.anchor)
            anchor = jax.tree.map(jnp.add, state.anchor, step)
            return jax.tree.map(jnp.subtract, anchor, params), anchor, outer_state

        due = state.since + 1 >= period
        updates, anchor, outer_state = jax.lax.cond(due, meet, stay, None)
        return updates, DiLoCoState(jnp.where(due, 0, state.since + 1), anchor, inner_state, outer_state)

    return rule(init, update, params=True)
