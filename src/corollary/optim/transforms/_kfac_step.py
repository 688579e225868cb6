"""The length of a K-FAC step: rate and momentum from the exact quadratic model, and the damping from how it fared.

Source: Martens & Grosse (2015), sections 6.4, 6.5 and 7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.optim.transforms._matrix_settings import cast_like

SHRINK = 19 / 20  # of the damping, a step, where the quadratic model can be trusted (Martens & Grosse, section 6.5)


def combine(a: Array, x: PyTree, b: Array, y: PyTree) -> PyTree:
    """ax + by."""
    return jax.tree.map(lambda x, y: a.astype(x.dtype) * x + b.astype(y.dtype) * y, x, y)


def best_step(
    forward: Callable[[PyTree], Any],
    params: PyTree,
    distribution: Any,
    grads: PyTree,
    direction: PyTree,
    previous: PyTree,
    damping: Array,
) -> tuple[PyTree, Array]:
    """δ = αΔ + μδ₀ with the least ½δᵀ(F + λI)δ + ∇ᵀδ, F the exact Fisher matrix of the batch; and that value."""
    first, second = jax.tree.map(jnp.negative, direction), previous
    z, push = jax.linearize(forward, params)
    vectors = (first, second)
    images = [push(cast_like(v, params)) for v in vectors]
    size = jax.tree.leaves(z)[0].shape[0]

    def curved(a: int, b: int) -> Array:
        through = jax.vmap(distribution.fisher)(z, images[b])
        return optax.tree.vdot(images[a], through) / size + damping * optax.tree.vdot(vectors[a], vectors[b])

    q11, q12, q22 = curved(0, 0), curved(0, 1), curved(1, 1)
    b1, b2 = jnp.asarray(optax.tree.vdot(grads, first)), jnp.asarray(optax.tree.vdot(grads, second))
    det = q11 * q22 - q12 * q12
    both = det > 1e-6 * q11 * q22
    safe = jnp.where(both, det, 1)
    alone = -jnp.asarray(b1) / jnp.where(q11 > 0, q11, 1)
    alpha = jnp.where(both, (-q22 * b1 + q12 * b2) / safe, alone)
    mu = jnp.where(both, (q12 * b1 - q11 * b2) / safe, 0)
    return combine(alpha, first, mu, second), jnp.asarray(alpha * b1 + mu * b2) / 2


def adapt(losses_fn: Any, static: Any, params: PyTree, step: PyTree, promised: Any, damping: Array) -> Array:
    """Levenberg-Marquardt's rule on the ratio of what the loss did to what the model promised."""
    before = jnp.mean(losses_fn(eqx.combine(params, static)))
    moved = jax.tree.map(lambda p, s: p + s.astype(p.dtype), params, step)
    after = jnp.mean(losses_fn(eqx.combine(moved, static)))
    ratio = (after - before) / jnp.where(promised < 0, promised, -1)
    trusted, distrusted = ratio > 0.75, ~(ratio >= 0.25)
    factor = jnp.where(trusted, SHRINK**5, jnp.where(distrusted, SHRINK**-5, 1.0))
    return damping * factor.astype(damping.dtype)
