"""Shampoo: each axis of a gradient tensor is multiplied by an inverse root of its own second-moment matrix.

A matrix G becomes L^{−1/4} G R^{−1/4}, L = Σ GGᵀ, R = Σ GᵀG; a tensor with k axes takes exponents −1/(2k), so that a
vector gets full-matrix AdaGrad. When: ill-conditioned problems where the roots, renewed every so many steps, are cheap
beside the gradient. Memory: Σ over the axes of b numbers per parameter of a block b × ... × b, twice (factors, roots).
Sources: Gupta, Koren & Singer, "Shampoo" (2018), Algorithms 1 and 2; Anil, Gupta, Koren, Regan & Singer, "Scalable
second order optimization" (2020), for blocks, grafting and the coupled Newton iteration; Shi et al. (2023).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim.transforms._blocks import Plan, along, inverse_root, join, plan, second_moment, split
from corollary.optim.transforms._matrix_settings import (
    Setting,
    cast_like,
    check_every,
    check_setting,
    debias,
    finish,
    increment,
    map_leaves,
    setting,
    transformation,
    working,
    zeros,
)

GRAFTS = ("none", "sgd", "adagrad", "rmsprop", "adam")


class ShampooState(NamedTuple):
    """Step count, momentum, factors and their inverse roots (a tuple of (blocks, b, b) a leaf), the graft's state."""

    count: Array
    momentum: PyTree
    factors: PyTree
    roots: PyTree
    graft: PyTree


def scale_by_shampoo(
    momentum: Setting = 0.9,
    decay: Setting = 0.999,
    eps: Setting = 1e-6,
    *,
    every: Setting = 10,
    block_size: int = 512,
    graft: str = "rmsprop",
    graft_eps: Setting = 1e-8,
    exponent: float | None = None,
    nesterov: bool = False,
    root: str = "eigh",
) -> optax.GradientTransformation:
    """Gradients preconditioned by inverse roots of their axes' second moments.

    Parameters
    ----------
    momentum
        β₁ of the average of the preconditioned gradients; 0: none.
    decay
        β₂ of the factors' averages (bias-corrected); 1: sums, as in the first paper.
    eps
        Times each factor's largest eigenvalue is added to it; nothing depends on the gradients' scale.
    every
        Steps between two computations of the roots (9 b³ each); a block's first root is taken at once.
    block_size
        Longest side of a block; static.
    graft
        The length of a leaf's step is that of ``"sgd"``, ``"adagrad"``, ``"rmsprop"``, ``"adam"``, or for ``"none"``
        its own.
    graft_eps
        Added to the graft's root.
    exponent
        Of every axis; None: 1/(2k) for k axes. 0.5 for matrices makes it K-FAC-like (Shi et al.).
    nesterov
        A Nesterov step with the momentum.
    root
        ``"eigh"``, or ``"newton"``: products only.

    Returns
    -------
    optax.GradientTransformation
        Memory: 1 to 2 numbers a parameter, and 2 b² a block and axis.

    Raises
    ------
    InputError
        For settings out of range.

    Examples
    --------
    >>> transform = scale_by_shampoo(0.0, 1.0, 1e-9, every=1, graft="none")
    >>> G = jnp.array([[3.0, 0.0], [0.0, -2.0]])
    >>> transform.update(G, transform.init(G))[0].round(3).tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """
    validation.one_of(*GRAFTS)("graft", graft)
    validation.one_of("eigh", "newton")("root", root)
    validation.integer(1)("block_size", block_size)
    validation.number(0, open_low=True, none=True)("exponent", exponent)
    validation.flag("nesterov", nesterov)
    check_setting("momentum", momentum, below=1)
    check_setting("decay", decay, below=1 + 1e-12)
    check_setting("eps", eps)
    check_setting("graft_eps", graft_eps)
    check_every("every", every)
    if root == "newton" and exponent is not None and abs(1 / exponent - round(1 / exponent)) > 1e-6:
        raise InputError(f"exponent: found {exponent!r}, expected 1/p with an integer p for root='newton'")

    def cut(x: Array) -> Plan:
        return plan(x.shape, block_size)

    def init(params: PyTree) -> ShampooState:
        def factors(p: Array) -> tuple[Array, ...]:
            made, dtype = cut(p), zeros(p).dtype
            return tuple(jnp.zeros((made.blocks, b, b), dtype) for b in made.sizes)

        def roots(p: Array) -> tuple[Array, ...]:
            made, dtype = cut(p), zeros(p).dtype
            return tuple(jnp.broadcast_to(jnp.eye(b, dtype=dtype), (made.blocks, b, b)) for b in made.sizes)

        def grafted(p: Array) -> tuple[Array, Array]:
            none = jnp.zeros((), zeros(p).dtype)
            return zeros(p) if graft == "adam" else none, none if graft in ("none", "sgd") else zeros(p)

        return ShampooState(
            jnp.zeros((), jnp.int32),
            jax.tree.map(zeros, params),
            jax.tree.map(factors, params),
            jax.tree.map(roots, params),
            jax.tree.map(grafted, params),
        )

    def update(grads: PyTree, state: ShampooState, params: Any = None) -> tuple[PyTree, ShampooState]:
        del params
        count = increment(state.count)
        due = state.count % jnp.asarray(setting(every, state.count), jnp.int32) == 0

        def leaf(g: Array, m: Array, L: tuple[Array, ...], P: tuple[Array, ...], graft_state: Any) -> tuple[Any, ...]:
            g = working(g)
            if g.size == 0:
                return g, m, L, P, graft_state
            at = lambda s: setting(s, state.count, g.dtype)  # noqa: E731
            made, blocks = cut(g), split(g, cut(g))
            b1, b2 = at(momentum), at(decay)
            fresh = jnp.where(b2 < 1, 1 - b2, 1)
            empty = _traces(L[0]) == 0
            L = tuple(b2 * old + fresh * second_moment(blocks, axis) for axis, old in enumerate(L))
            # A block whose first gradients were zero has no root yet, and may not wait for one with the scale of G.
            now = due | jnp.any(empty & (_traces(L[0]) > 0))
            correction = jnp.where(b2 < 1, debias(b2, count), 1)
            power = 1 / (2 * len(L)) if exponent is None else exponent

            def renew(factors: tuple[Array, ...]) -> tuple[Array, ...]:
                return tuple(inverse_root(f / correction, power, at(eps), method=root) for f in factors)

            P = jax.lax.cond(now, lambda both: renew(both[0]), lambda both: both[1], (L, P))
            out = blocks
            for axis, matrix in enumerate(P):
                out = along(out, matrix, axis)
            direction = join(out, made)
            if graft != "none":
                target, graft_state = _graft(graft, g, graft_state, at(decay), b1, at(graft_eps), count)
                direction = direction * (_length(target) / _positive(_length(direction)))
            m = b1 * m + (1 - b1) * direction
            step = m / debias(b1, count)
            if nesterov:
                step = b1 * m / debias(b1, count + 1) + (1 - b1) * direction / debias(b1, count)
            return step, m, L, P, graft_state

        results = map_leaves(leaf, grads, state.momentum, state.factors, state.roots, state.graft)
        return cast_like(results[0], grads), ShampooState(count, *results[1:])

    return transformation(init, update)


def shampoo(
    learning_rate: Setting,
    momentum: Setting = 0.9,
    decay: Setting = 0.999,
    eps: Setting = 1e-6,
    *,
    every: Setting = 10,
    block_size: int = 512,
    graft: str = "rmsprop",
    graft_eps: Setting = 1e-8,
    exponent: float | None = None,
    nesterov: bool = False,
    root: str = "eigh",
    weight_decay: Setting = 0.0,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Shampoo with blocks, grafting and decoupled weight decay.

    Use it for ill-conditioned networks of moderate width; with ``graft="adam"`` or ``"rmsprop"`` AdamW's learning rate
    can be kept. Cost of a step: Σ over the axes of 4·b flops a parameter, and 9 b³ a block and axis every so often.

    Parameters
    ----------
    learning_rate
        η, a number or a schedule.
    momentum, decay, eps, every, block_size, graft, graft_eps, exponent, nesterov, root
        See `scale_by_shampoo`; the defaults follow Shi et al. (2023), but for `every` (10) and a relative `eps`.
    weight_decay, mask
        Decoupled decay, times η, of the leaves that the mask allows.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Memory: see `scale_by_shampoo`.

    Raises
    ------
    InputError
        For settings out of range.

    Examples
    --------
    >>> optimizer = shampoo(0.1)
    >>> x = jnp.array([1.0, 2.0])
    >>> optimizer.update(x, optimizer.init(x), x)[0].shape
    (2,)
    """
    check_setting("weight_decay", weight_decay)
    transform = scale_by_shampoo(
        momentum,
        decay,
        eps,
        every=every,
        block_size=block_size,
        graft=graft,
        graft_eps=graft_eps,
        exponent=exponent,
        nesterov=nesterov,
        root=root,
    )
    return finish(transform, learning_rate, weight_decay, mask)


def _graft(
    kind: str, g: Array, state: tuple[Array, Array], b2: Array, b1: Array, eps: Array, count: Array
) -> tuple[Array, tuple[Array, Array]]:
    """The step whose length is borrowed, and its averages."""
    m, v = state
    if kind == "sgd":
        return g, state
    sums = (kind == "adagrad") | (b2 >= 1)
    v = jnp.where(sums, v + g * g, b2 * v + (1 - b2) * g * g)
    root = jnp.sqrt(jnp.where(sums, v, v / _positive(debias(b2, count)))) + eps
    if kind == "adam":
        m = b1 * m + (1 - b1) * g
        return m / debias(b1, count) / _positive(root), (m, v)
    return g / _positive(root), (m, v)


def _traces(L: Array) -> Array:
    return jnp.trace(L, axis1=1, axis2=2)


def _length(x: Array) -> Array:
    top = jnp.max(jnp.abs(x), initial=0.0)
    safe = _positive(top)
    return safe * jnp.linalg.norm((x / safe).reshape(-1))


def _positive(x: Array) -> Array:
    return jnp.where(x > 0, x, 1)
