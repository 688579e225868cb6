"""AdaHessian: Adam with Hutchinson's estimate of the Hessian's diagonal in the gradient's place in the second moment.

When: curvature that differs widely between parameters and a budget of about three gradients a step. It is a diagonal
method, not a Kronecker-factored one. Memory: two numbers a parameter. Cost: a gradient and `samples` Hessian products
every `every` steps. Source: Yao, Gholami, Shen, Mustafa, Keutzer & Mahoney, "AdaHessian" (2021), Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from corollary.core import validation
from corollary.optim.transforms._hessian_diagonal import diagonal, spatial_average
from corollary.optim.transforms._matrix_settings import (
    Setting,
    cast_like,
    check_every,
    check_setting,
    debias,
    finish,
    increment,
    map_leaves,
    needs_params,
    setting,
    with_extra,
    working,
    zeros,
)


class AdaHessianState(NamedTuple):
    """Step count, how often the diagonal was estimated, and both moments."""

    count: Array
    estimates: Array
    mean: PyTree
    square: PyTree


def adahessian(
    learning_rate: Setting,
    b1: Setting = 0.9,
    b2: Setting = 0.999,
    eps: Setting = 1e-8,
    *,
    power: Setting = 1.0,
    every: Setting = 1,
    samples: int = 1,
    average_axes: int = 0,
    weight_decay: Setting = 0.0,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """AdaHessian with decoupled weight decay.

    Parameters
    ----------
    learning_rate
        η, a number or a schedule; the authors take 0.15.
    b1, b2, eps
        Adam's.
    power
        k of the denominator (√v̂)^k.
    every
        Steps between estimates of the diagonal.
    samples
        Hessian products an estimate; static.
    average_axes
        How many trailing axes of larger leaves |diagonal| is averaged over: 2 for OIHW kernels; static.
    weight_decay
        Decoupled, times η.
    seed
        Of the signs, where ``update`` gets no ``key``.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, value_fn=..., key=...)``: ``value_fn`` (or ``grad_fn``) of the parameters, for
        the current batch.

    Raises
    ------
    InputError
        For settings out of range; without ``value_fn`` and ``grad_fn``.

    Examples
    --------
    >>> optimizer = adahessian(1.0, 0.0, 0.0, 0.0)
    >>> loss = lambda x: jnp.sum(jnp.array([1.0, 100.0]) * x**2)
    >>> x = jnp.array([3.0, -2.0])
    >>> updates, _ = optimizer.update(jax.grad(loss)(x), optimizer.init(x), x, value_fn=loss)
    >>> (x + updates).round(5).tolist()  # a Newton step, for a diagonal quadratic
    [0.0, 0.0]
    """
    check_setting("b1", b1, below=1)
    check_setting("b2", b2, below=1)
    check_setting("eps", eps)
    check_setting("power", power)
    check_setting("weight_decay", weight_decay)
    check_every("every", every)
    validation.integer(1)("samples", samples)
    validation.integer(0)("average_axes", average_axes)
    validation.integer(0)("seed", seed)

    def init(params: PyTree) -> AdaHessianState:
        nought = jnp.zeros((), jnp.int32)
        return AdaHessianState(nought, nought, jax.tree.map(zeros, params), jax.tree.map(zeros, params))

    def update(
        grads: PyTree,
        state: AdaHessianState,
        params: Any = None,
        *,
        value_fn: Callable[[PyTree], Any] | None = None,
        grad_fn: Callable[[PyTree], PyTree] | None = None,
        key: Key[Array, ""] | None = None,
        **_: Any,
    ) -> tuple[PyTree, AdaHessianState]:
        needs_params(params)
        t, count = state.count, increment(state.count)
        seed_key = jax.random.fold_in(jax.random.key(seed), t) if key is None else key
        due = t % setting(every, t).astype(jnp.int32) == 0

        def estimate(square: PyTree) -> PyTree:
            h = diagonal(params, value_fn, grad_fn, seed_key, samples)

            def leaf(v: Array, h: Array) -> Array:
                beta = setting(b2, t, v.dtype)
                return beta * v + (1 - beta) * jnp.square(spatial_average(h, average_axes))

            return jax.tree.map(leaf, square, h)

        square = jax.lax.cond(due, estimate, lambda square: square, state.square)
        estimates = state.estimates + due.astype(jnp.int32)

        def leaf(g: Array, m: Array, v: Array) -> tuple[Array, Array]:
            at = lambda s: setting(s, t, m.dtype)  # noqa: E731
            m = at(b1) * m + (1 - at(b1)) * working(g)
            v = v / debias(at(b2), estimates)
            root = jnp.where(v > 0, jnp.where(v > 0, v, 1) ** (at(power) / 2), 0) + at(eps)
            return m / debias(at(b1), count) / jnp.where(root > 0, root, 1), m

        step, mean = map_leaves(leaf, grads, state.mean, square)
        return cast_like(step, grads), AdaHessianState(count, estimates, mean, square)

    return finish(with_extra(init, update), learning_rate, weight_decay)
