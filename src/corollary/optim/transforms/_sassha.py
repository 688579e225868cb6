"""Sassha: sharpness-aware steps scaled by the root of |diag H|, taken at the perturbed point and only now and then.

θ̃ = θ + ρ g/‖g‖, then g̃ = ∇f(θ̃) and D = |z ∘ H(θ̃)z|; θ ← θ − η m̂/(√D̂ + ε), D̂ the average of D, renewed every so
many steps. Along such a path the curvature is smaller and steadier, so that an old D still serves. When: generalisation
matters and a diagonal Newton method is too brittle. Memory: two numbers a parameter. Cost: two gradients a step, and
`samples` Hessian products every `every` steps.
Source: Shin, Lee, Chung & Lee, "Sassha" (2025), Algorithm 1. The authors' code divides D^p by (1 − β₂^t)^p with the
step count t although D is averaged only every `every` steps; here t counts the averages, so that D̂ is unbiased.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from corollary.core import validation
from corollary.optim._tree import norm
from corollary.optim.transforms._hessian_diagonal import diagonal, gradient_of, spatial_average
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
    working_tree,
    zeros,
)


class SasshaState(NamedTuple):
    """Step count, how often the diagonal was estimated, momentum and the averaged |diagonal|."""

    count: Array
    estimates: Array
    mean: PyTree
    curvature: PyTree


def sassha(
    learning_rate: Setting,
    b1: Setting = 0.9,
    b2: Setting = 0.999,
    eps: Setting = 1e-4,
    *,
    rho: Setting = 0.2,
    power: Setting = 0.5,
    every: Setting = 10,
    samples: int = 1,
    average_axes: int = 0,
    weight_decay: Setting = 0.0,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Sassha with decoupled weight decay.

    Parameters
    ----------
    learning_rate
        η, a number or a schedule; the authors take 0.15.
    b1, b2, eps
        Of the averages of g̃ and of D, and what is added to the root.
    rho
        ρ, the length of the perturbation; 0: none.
    power
        Of D̂; the authors take 1/2.
    every
        Steps between estimates of D.
    samples
        Hessian products an estimate; static.
    average_axes
        As for `adahessian`.
    weight_decay
        Decoupled, times η.
    seed
        Of the signs, where ``update`` gets no ``key``.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, value_fn=..., key=...)``: ``grads`` at the parameters, ``value_fn`` (or
        ``grad_fn``) for the current batch.

    Raises
    ------
    InputError
        For settings out of range; without ``value_fn`` and ``grad_fn``.

    Examples
    --------
    >>> optimizer = sassha(1.0, 0.0, 0.0, 0.0, rho=0.0, power=1.0)
    >>> loss = lambda x: jnp.sum(jnp.array([1.0, 100.0]) * x**2)
    >>> x = jnp.array([3.0, -2.0])
    >>> updates, _ = optimizer.update(jax.grad(loss)(x), optimizer.init(x), x, value_fn=loss)
    >>> (x + updates).round(5).tolist()
    [0.0, 0.0]
    """
    for name, value in (("b1", b1), ("b2", b2)):
        check_setting(name, value, below=1)
    for name, value in (("eps", eps), ("rho", rho), ("power", power), ("weight_decay", weight_decay)):
        check_setting(name, value)
    check_every("every", every)
    validation.integer(1)("samples", samples)
    validation.integer(0)("average_axes", average_axes)
    validation.integer(0)("seed", seed)

    def init(params: PyTree) -> SasshaState:
        nought = jnp.zeros((), jnp.int32)
        return SasshaState(nought, nought, jax.tree.map(zeros, params), jax.tree.map(zeros, params))

    def update(
        grads: PyTree,
        state: SasshaState,
        params: Any = None,
        *,
        value_fn: Callable[[PyTree], Any] | None = None,
        grad_fn: Callable[[PyTree], PyTree] | None = None,
        key: Key[Array, ""] | None = None,
        **_: Any,
    ) -> tuple[PyTree, SasshaState]:
        needs_params(params)
        slope = gradient_of(value_fn, grad_fn)
        t, count = state.count, increment(state.count)
        signs = jax.random.fold_in(jax.random.key(seed), t) if key is None else key
        size = norm(working_tree(grads))
        radius = setting(rho, t, size.dtype) / jnp.where(size > 0, size, 1)
        moved = jax.tree.map(lambda p, g: p + (radius.astype(g.dtype) * g).astype(p.dtype), params, grads)
        perturbed = slope(moved)
        due = t % setting(every, t).astype(jnp.int32) == 0

        def estimate(old: PyTree) -> PyTree:
            h = diagonal(moved, value_fn, grad_fn, signs, samples)

            def leaf(d: Array, h: Array) -> Array:
                beta = setting(b2, t, d.dtype)
                return beta * d + (1 - beta) * spatial_average(h, average_axes)

            return jax.tree.map(leaf, old, h)

        curvature = jax.lax.cond(due, estimate, lambda old: old, state.curvature)
        estimates = state.estimates + due.astype(jnp.int32)

        def leaf(g: Array, m: Array, d: Array) -> tuple[Array, Array]:
            at = lambda s: setting(s, t, m.dtype)  # noqa: E731
            m = at(b1) * m + (1 - at(b1)) * working(g)
            d = d / debias(at(b2), estimates)
            root = jnp.where(d > 0, jnp.where(d > 0, d, 1) ** at(power), 0) + at(eps)
            return m / debias(at(b1), count) / jnp.where(root > 0, root, 1), m

        step, mean = map_leaves(leaf, perturbed, state.mean, curvature)
        return cast_like(step, grads), SasshaState(count, estimates, mean, curvature)

    return finish(with_extra(init, update), learning_rate, weight_decay)
