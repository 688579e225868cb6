"""Tensors cut into equal blocks, and the inverse p-th roots of a stack of semidefinite matrices.

A block is at most `size` along every axis, so that its factors stay cheap to invert. Axes that do not divide evenly
are padded by zeros: the padded rows of a factor are zero, so they neither touch nor are touched by the others. All
blocks of a leaf lie along one leading axis, along which they can be spread over devices.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Plan(NamedTuple):
    """How one leaf is cut: its shape, the axes that are kept (size > 1), blocks along each of them, their size."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    counts: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def blocks(self) -> int:
        """How many blocks."""
        return math.prod(self.counts)


def plan(shape: tuple[int, ...], size: int) -> Plan:
    """Blocks of nearly equal size, none above `size`; axes of length 1 are dropped (a scalar is a vector of one)."""
    axes = tuple(n for n in shape if n != 1) or (1,)
    counts = tuple(max(-(-n // size), 1) for n in axes)
    return Plan(shape, axes, counts, tuple(-(-n // k) for n, k in zip(axes, counts, strict=True)))


def split(x: Array, plan: Plan) -> Array:
    """(blocks, b1, ..., br)."""
    x = x.reshape(plan.axes)
    if plan.blocks == 1:
        return x[None]
    pad = [(0, k * b - n) for n, k, b in zip(plan.axes, plan.counts, plan.sizes, strict=True)]
    x = jnp.pad(x, pad).reshape(tuple(d for pair in zip(plan.counts, plan.sizes, strict=True) for d in pair))
    rank = len(plan.axes)
    return x.transpose(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2)).reshape(plan.blocks, *plan.sizes)


def join(blocks: Array, plan: Plan) -> Array:
    """The inverse of `split`."""
    if plan.blocks == 1:
        return blocks[0].reshape(plan.shape)
    rank = len(plan.axes)
    x = blocks.reshape(*plan.counts, *plan.sizes)
    x = x.transpose(*(i for pair in zip(range(rank), range(rank, 2 * rank), strict=True) for i in pair))
    x = x.reshape(tuple(k * b for k, b in zip(plan.counts, plan.sizes, strict=True)))
    return x[tuple(slice(0, n) for n in plan.axes)].reshape(plan.shape)


def second_moment(blocks: Array, axis: int) -> Float[Array, "k b b"]:
    """Each block times itself, summed over all axes but one: GGᵀ for the first axis of a matrix, GᵀG for the second."""
    others = tuple(i for i in range(1, blocks.ndim) if i != axis + 1)
    return jax.vmap(lambda g: jnp.tensordot(g, g, (tuple(i - 1 for i in others),) * 2))(blocks)


def along(blocks: Array, matrices: Float[Array, "k b c"], axis: int) -> Array:
    """Each block times its matrix along one axis: the new axis is the matrix' second."""

    def one(g: Array, m: Array) -> Array:
        return jnp.moveaxis(jnp.tensordot(g, m, ((axis,), (0,))), -1, axis)

    return jax.vmap(one)(blocks, matrices)


def inverse_root(
    A: Float[Array, "k n n"], power: Array | float, ridge: Array, *, method: str = "eigh"
) -> Float[Array, "k n n"]:
    """A^(−power) of semidefinite matrices, with ridge·λ_max added; the identity where A is zero.

    ``"eigh"``: exact, 9 n³, any power. ``"newton"``: products only (for accelerators), power = 1/p with p an integer:
    the coupled iteration M ← T^p M, X ← XT with T = ((p + 1)I − M)/p (Guo & Higham, 2006, eq. (1.5)).
    """
    return (
        jax.lax.map(lambda a: _root(a, power, ridge, method), A)
        if A.shape[0] > 1
        else _root(A[0], power, ridge, method)[None]
    )


def _root(A: Float[Array, "n n"], power: Array | float, ridge: Array, method: str) -> Float[Array, "n n"]:
    n, dtype = A.shape[0], A.dtype
    if method == "newton":
        return _newton(A, round(1 / float(power)), ridge)
    top = jnp.max(jnp.abs(A))  # scaled to 1, so that squares inside the factorisation stay in range
    safe = jnp.where(top > 0, top, 1)
    values, U = jnp.linalg.eigh(A / safe)
    largest = values[-1]
    values = jnp.maximum(values, 0) + ridge * jnp.where(largest > 0, largest, 1)
    power = jnp.asarray(power, dtype)
    roots = jnp.where(values > 0, jnp.where(values > 0, values, 1) ** -power, 0)
    out = (U * roots) @ U.T * safe**-power
    return jnp.where(top > 0, out, jnp.eye(n, dtype=dtype))


def _newton(A: Float[Array, "n n"], p: int, ridge: Array) -> Float[Array, "n n"]:
    n, dtype = A.shape[0], A.dtype
    eye = jnp.eye(n, dtype=dtype)
    top = jnp.max(jnp.abs(A))
    safe = jnp.where(top > 0, top, 1)
    A = A / safe
    size = _largest(A)
    A = A + ridge * size * eye
    size = size * (1 + ridge)
    z = (1 + p) / (2 * jnp.where(size > 0, size, 1))
    tol = 10 * n**0.5 * float(jnp.finfo(dtype).eps)

    def going(carry: tuple[Array, Array, Array, Array]) -> Array:
        _, _, error, k = carry
        return (error > tol) & (k < 100) & jnp.isfinite(error)

    def step(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        X, M, error, k = carry
        T = ((p + 1) * eye - M) / p
        new = jnp.linalg.matrix_power(T, p) @ M
        after = jnp.max(jnp.abs(new - eye))
        better = after < error * 1.2  # rounding ends the fall of the error: keep the best and stop
        X = jnp.where(better, X @ T, X)
        return X, jnp.where(better, new, M), jnp.where(better, after, 0), k + 1

    start = (eye * z ** (1 / p), A * z, jnp.asarray(jnp.inf, dtype).at[()].set(3.0e38), jnp.zeros((), jnp.int32))
    X = jax.lax.while_loop(going, step, start)[0]
    return jnp.where(top > 0, X * safe ** (-1 / p), eye)


def _largest(A: Float[Array, "n n"]) -> Array:
    """An upper bound within a few per cent on λ_max: the power method's estimate, at most the ∞-norm."""

    def step(_: Any, v: Array) -> Array:
        w = A @ v
        size = jnp.linalg.norm(w)
        return w / jnp.where(size > 0, size, 1)

    # A random start: gradients of a softmax sum to zero over the classes, so that a start of ones would be lost.
    start = jnp.asarray(np.random.default_rng(0).standard_normal(A.shape[0]), A.dtype)
    v = jax.lax.fori_loop(0, 30, step, start / jnp.linalg.norm(start))
    bound = jnp.max(jnp.sum(jnp.abs(A), axis=1))
    return jnp.minimum(1.1 * jnp.linalg.norm(A @ v) + 1e-3 * bound, bound)
