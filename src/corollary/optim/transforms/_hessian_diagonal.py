"""Hutchinson's estimate of the Hessian's diagonal for optimizers: z ∘ Hz with signs z, one product a sample.

Unbiased; exact where H is diagonal; the variance of entry i is the sum of its row's squared off-diagonal entries.
Cost: about two gradients a sample. Source: Bekas, Kokiopoulou & Saad (2007); Yao et al., "AdaHessian" (2021), eq. (8).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from corollary.core.errors import InputError
from corollary.core.hessian import hessian_operator
from corollary.optim.transforms._matrix_settings import with_extra, working_tree


def gradient_of(value_fn: Callable[[PyTree], Any] | None, grad_fn: Callable[[PyTree], PyTree] | None) -> Any:
    """The gradient function of the batch, from either."""
    if grad_fn is not None:
        return grad_fn
    if value_fn is None:
        raise InputError(
            "value_fn: found None and no grad_fn, expected the batch's loss as a function of the parameters"
        )
    return jax.grad(value_fn)


def diagonal(params: PyTree, value_fn: Any, grad_fn: Any, key: Key[Array, ""], samples: int) -> PyTree:
    """The mean of z ∘ Hz over so many draws of signs, in the working precision."""

    def product(z: PyTree) -> PyTree:
        if value_fn is not None and grad_fn is None:
            return hessian_operator(value_fn, params).mv(z)
        return jax.jvp(gradient_of(value_fn, grad_fn), (params,), (z,))[1]

    def one(key: Key[Array, ""]) -> PyTree:
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        z = structure.unflatten([jax.random.rademacher(k, p.shape, p.dtype) for k, p in zip(keys, leaves, strict=True)])
        return working_tree(jax.tree.map(jnp.multiply, z, product(z)))

    if samples == 1:
        return one(key)
    total = jax.lax.map(one, jax.random.split(key, samples))
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), total)


def spatial_average(h: Array, axes: int) -> Array:
    """|h|, averaged over the last `axes` axes of leaves that have more than as many (kernels), as the authors do."""
    h = jnp.abs(h)
    if axes == 0 or h.ndim <= axes:
        return h
    last = tuple(range(h.ndim - axes, h.ndim))
    return jnp.broadcast_to(jnp.mean(h, axis=last, keepdims=True), h.shape)


def gauss_newton_bartlett(seed: int = 0) -> optax.GradientTransformationExtraArgs:
    """Sophia's Gauss-Newton-Bartlett estimate of a diagonal, for `optax.contrib.sophia`'s ``hessian_diagonal_fn``.

    B ĝ∘ĝ, with ĝ the gradient of the mean loss of the batch on labels drawn from the model's own outputs: unbiased for
    the diagonal of the Gauss-Newton (Fisher) matrix, never negative, one gradient. Optax' own estimate is Hutchinson's.

    Parameters
    ----------
    seed
        Of the labels.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, sampled_loss_fn=..., batch_size=B)``; ``sampled_loss_fn(params, key)`` is the
        mean loss on labels drawn with the key, through which no derivative is taken. No memory beside a key.

    Raises
    ------
    InputError
        In ``update``, without the function, the batch size or the parameters.

    Notes
    -----
    Source: Liu, Li, Hall, Liang & Ma, "Sophia" (2024), Algorithm 2.

    Examples
    --------
    >>> estimate = gauss_newton_bartlett()
    >>> draw = lambda w, key: jax.random.bernoulli(key, jax.nn.sigmoid(w), (8,))
    >>> loss = lambda w, key: jnp.mean(jax.nn.softplus(w) - jnp.where(draw(w, key), w, 0.0))
    >>> w = jnp.array(0.0)
    >>> h, _ = estimate.update(w, estimate.init(w), w, sampled_loss_fn=loss, batch_size=8)
    >>> bool(h >= 0)
    True
    """

    def init(params: PyTree) -> Array:
        del params
        return jnp.zeros((), jnp.int32)

    def update(
        grads: PyTree,
        state: Array,
        params: Any = None,
        *,
        sampled_loss_fn: Callable[..., Any] | None = None,
        batch_size: Any = None,
        **_: Any,
    ) -> tuple[PyTree, Array]:
        del grads
        for name, value in (("params", params), ("sampled_loss_fn", sampled_loss_fn), ("batch_size", batch_size)):
            if value is None:
                raise InputError(f"{name}: found None, expected it for the Gauss-Newton-Bartlett estimate")
        key = jax.random.fold_in(jax.random.key(seed), state)
        drawn: Any = sampled_loss_fn
        g = jax.grad(lambda p: drawn(p, key))(params)
        return jax.tree.map(lambda g: jnp.asarray(batch_size).astype(g.dtype) * g * g, g), state + 1

    return with_extra(init, update)
