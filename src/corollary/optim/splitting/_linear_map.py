"""Linear maps as the splitting methods take them: matrices, operators, numbers, or linear functions of any pytree.

A plain function is transposed by JAX (`jax.linear_transpose`), so that finite differences or a convolution of an image
need no matrix and no adjoint of their own. Cost: that of the products.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
from jaxtyping import PyTree

from corollary.core import operator, precision, validation
from corollary.core.errors import InputError
from corollary.optim._tree import floats, like, norm
from corollary.optim.penalties._base import Scalar

LinearMap = Any
POWER_STEPS = 40


def linear_map(name: str, K: Any) -> LinearMap:
    """None (the identity), a number, an operator, or a linear function; NumPy data keep their precision."""
    if K is None or isinstance(K, lx.AbstractLinearOperator):
        return K
    if callable(K):
        return K
    if not hasattr(K, "nnz") and not hasattr(K, "nse"):
        if np.ndim(K) == 0:
            if not isinstance(K, jax.Array) and not np.isfinite(K):
                raise InputError(f"{name}: found {K}, expected a finite number")
            return K
        K = precision.follows_input(validation.matrix)(name, K)
    try:
        return precision.follows_input(operator.as_operator)(K)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: found {type(K).__name__}, expected a matrix, an operator or a function") from error


def forward(K: LinearMap, x: PyTree) -> PyTree:
    """K x."""
    if K is None:
        return x
    if isinstance(K, lx.AbstractLinearOperator):
        return operator.matmat(K, x) if getattr(x, "ndim", 1) == 2 else K.mv(x)
    return K(x) if callable(K) else optax.tree.scale(like(K, x), x)


def adjoint(K: LinearMap, u: PyTree, x: PyTree) -> PyTree:
    """Kᵀu, of the shape of x."""
    if K is None:
        return u
    if isinstance(K, lx.AbstractLinearOperator):
        return operator.rmatmat(K, u) if getattr(u, "ndim", 1) == 2 else K.T.mv(u)
    return jax.linear_transpose(K, x)(u)[0] if callable(K) else optax.tree.scale(like(K, u), u)


def origin(K: LinearMap) -> PyTree | None:
    """Zeros of the space K acts on, where K knows it."""
    if not isinstance(K, lx.AbstractLinearOperator):
        return None
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), K.in_structure())


def norm_squared(K: LinearMap, x: PyTree) -> Scalar:
    """‖K‖² by power iteration from a fixed pseudo-random start: a lower bound, a few percent off at most as a rule."""
    if K is None:
        return like(1.0, x)
    if not callable(K) and not isinstance(K, lx.AbstractLinearOperator):
        return jnp.where(like(K, x) != 0, like(K, x) ** 2, 1.0)
    x = floats(x)
    leaves, structure = jax.tree.flatten(x)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    start = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]

    def turn(_, v_and_guess):
        v, _ = v_and_guess
        size = norm(v)
        v = adjoint(K, forward(K, optax.tree.scale(1 / jnp.where(size > 0, size, 1), v)), x)
        return v, norm(v)

    _, guess = jax.lax.fori_loop(0, POWER_STEPS, turn, (jax.tree.unflatten(structure, start), like(0.0, x)))
    return jnp.where(guess > 0, guess, 1.0)
