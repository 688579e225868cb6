"""SOAP: Adam in the eigenbasis of Shampoo's factors, which is renewed every so many steps by one QR.

When: where Shampoo helps, with fewer settings and less harm from a basis that is a few steps old. The first moment
lives in the rotated basis and is turned with it, which equals the paper's and saves a third of the products. The first
gradient only sets the basis and moves nothing: Adam in the eigenbasis of that very gradient would divide rounding noise
by itself. Memory: two numbers a parameter, and 2n² for each axis n that is rotated. Cost of a step for (m, n):
6(m²n + mn²) flops, half that with ``one_sided``; every `every` steps a product and a QR of each side, about 4n³.
Source: Vyas et al., "SOAP: improving and stabilizing Shampoo using Adam" (2024), Algorithms 3 and 4.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
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


class SoapState(NamedTuple):
    """Step count, both moments in the rotated basis; per leaf the factors and the bases of its rotated axes."""

    count: Array
    mean: PyTree
    square: PyTree
    factors: PyTree
    bases: PyTree


def scale_by_soap(
    b1: Setting = 0.95,
    b2: Setting = 0.95,
    eps: Setting = 1e-8,
    *,
    every: Setting = 10,
    factor_decay: Setting | None = None,
    max_size: int = 2048,
    one_sided: bool = False,
    precondition_1d: bool = False,
    bias_correction: bool = True,
) -> optax.GradientTransformation:
    """Adam's update, taken in the eigenbasis of the running GGᵀ and GᵀG.

    Parameters
    ----------
    b1, b2, eps
        Adam's.
    every
        Steps between two renewals of the basis.
    factor_decay
        Of the averages of GGᵀ and GᵀG; `b2` where None.
    max_size
        Axes longer than this are not rotated; static. With 0 nothing is, and this is Adam one step late.
    one_sided
        Rotate the shortest axis of a leaf only; static.
    precondition_1d
        Rotate vectors too; static.
    bias_correction
        Adam's.

    Returns
    -------
    optax.GradientTransformation
        The first update is zero.

    Raises
    ------
    InputError
        For settings out of range.

    Examples
    --------
    >>> transform = scale_by_soap(every=1)
    >>> G = jnp.array([[3.0, 1.0], [0.0, -2.0]])
    >>> state = transform.init(G)
    >>> first, state = transform.update(G, state)
    >>> second, state = transform.update(G, state)
    >>> first.tolist(), second.shape
    ([[0.0, 0.0], [0.0, 0.0]], (2, 2))
    """
    check_setting("b1", b1, below=1)
    check_setting("b2", b2, below=1)
    check_setting("eps", eps)
    check_every("every", every)
    if factor_decay is not None:
        check_setting("factor_decay", factor_decay, below=1)
    validation.integer(0)("max_size", max_size)
    for name, value in (
        ("one_sided", one_sided),
        ("precondition_1d", precondition_1d),
        ("bias_correction", bias_correction),
    ):
        validation.flag(name, value)

    def axes(x: Array) -> tuple[int, ...]:
        """The axes that are rotated."""
        long = [i for i, n in enumerate(x.shape) if n > 1]
        if len(long) < 2 and not precondition_1d:
            return ()
        chosen = [i for i in long if x.shape[i] <= max_size]
        return tuple(sorted(chosen, key=lambda i: x.shape[i])[:1] if one_sided else chosen)

    def init(params: PyTree) -> SoapState:
        def factors(p: Array) -> tuple[Array, ...]:
            return tuple(jnp.zeros((p.shape[i],) * 2, zeros(p).dtype) for i in axes(p))

        def bases(p: Array) -> tuple[Array, ...]:
            return tuple(jnp.eye(p.shape[i], dtype=zeros(p).dtype) for i in axes(p))

        return SoapState(
            jnp.zeros((), jnp.int32),
            jax.tree.map(zeros, params),
            jax.tree.map(zeros, params),
            jax.tree.map(factors, params),
            jax.tree.map(bases, params),
        )

    def update(grads: PyTree, state: SoapState, params: Any = None) -> tuple[PyTree, SoapState]:
        del params
        t = state.count  # the number of this Adam step; 0 is the one that sets the basis
        first = t == 0
        due = t % jnp.asarray(setting(every, t), jnp.int32) == 0

        def leaf(g: Array, m: Array, v: Array, L: tuple[Array, ...], Q: tuple[Array, ...]) -> tuple[Any, ...]:
            g = working(g)
            at = lambda s: setting(s, t, g.dtype)  # noqa: E731
            beta1, beta2, turned = at(b1), at(b2), axes(g)
            rotated = _turn(g, Q, turned)
            moving = jnp.where(first, 0, 1).astype(g.dtype)
            m = moving * (beta1 * m + (1 - beta1) * rotated)
            v = moving * (beta2 * v + (1 - beta2) * rotated * rotated)
            later = jnp.maximum(t, 1)
            c1, c2 = (debias(beta1, later), debias(beta2, later)) if bias_correction else (1, 1)
            root = jnp.sqrt(v / c2)
            step = _turn(m / c1 / jnp.where(root > 0, root + at(eps), 1), Q, turned, back=True)
            if turned:
                decay = beta2 if factor_decay is None else at(factor_decay)
                decay = jnp.where(first, 0, decay)
                L = tuple(decay * old + (1 - decay) * _factor(g, axis) for axis, old in zip(turned, L, strict=True))
                same = lambda L, Q, m, v: (Q, m, v)  # noqa: E731
                Q, m, v = jax.lax.cond(
                    due,
                    lambda L, Q, m, v: jax.lax.cond(first, _begin, _renew(turned), L, Q, m, v),
                    same,
                    L,
                    Q,
                    m,
                    v,
                )
            return step, m, v, L, Q

        results = map_leaves(leaf, grads, state.mean, state.square, state.factors, state.bases)
        return cast_like(results[0], grads), SoapState(increment(state.count), *results[1:])

    return transformation(init, update)


def soap(
    learning_rate: Setting,
    b1: Setting = 0.95,
    b2: Setting = 0.95,
    eps: Setting = 1e-8,
    *,
    every: Setting = 10,
    factor_decay: Setting | None = None,
    max_size: int = 2048,
    one_sided: bool = False,
    precondition_1d: bool = False,
    bias_correction: bool = True,
    weight_decay: Setting = 0.01,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """SOAP with decoupled weight decay.

    Use it in AdamW's place, with AdamW's learning rate, where large batches make the gradient cost far more than a few
    products of the weights' size. Cost and memory: see the module's head.

    Parameters
    ----------
    learning_rate
        η, a number or a schedule; the authors take 3e-3.
    b1, b2, eps, every, factor_decay, max_size, one_sided, precondition_1d, bias_correction
        See `scale_by_soap`; the defaults are the authors', but for `max_size`, theirs being 10 000.
    weight_decay, mask
        Decoupled decay, times η, of the leaves that the mask allows.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        The first step moves the parameters by their decay only: it sets the basis.

    Raises
    ------
    InputError
        For settings out of range.

    Examples
    --------
    >>> optimizer = soap(3e-3)
    >>> W = jnp.ones((2, 3))
    >>> optimizer.update(W, optimizer.init(W), W)[0].shape
    (2, 3)
    """
    check_setting("weight_decay", weight_decay)
    transform = scale_by_soap(
        b1,
        b2,
        eps,
        every=every,
        factor_decay=factor_decay,
        max_size=max_size,
        one_sided=one_sided,
        precondition_1d=precondition_1d,
        bias_correction=bias_correction,
    )
    return finish(transform, learning_rate, weight_decay, mask)


def _turn(x: Array, bases: tuple[Array, ...], axes: tuple[int, ...], *, back: bool = False) -> Array:
    """x in the bases' coordinates along the axes, or back from them."""
    for Q, axis in zip(bases, axes, strict=True):
        x = jnp.moveaxis(jnp.tensordot(x, Q, ((axis,), (1 if back else 0,))), -1, axis)
    return x


def _factor(g: Array, axis: int) -> Array:
    others = tuple(i for i in range(g.ndim) if i != axis)
    return jnp.tensordot(g, g, (others, others))


def _begin(L: tuple[Array, ...], Q: tuple[Array, ...], m: Array, v: Array) -> tuple[tuple[Array, ...], Array, Array]:
    """The first basis: eigenvectors by falling eigenvalue; the moments are still zero."""
    del Q
    return tuple(jnp.linalg.eigh(_unit(factor))[1][:, ::-1] for factor in L), m, v


def _renew(axes: tuple[int, ...]) -> Any:
    """One step of the power method and a QR for each factor; the moments follow the basis."""

    def renew(L: tuple[Array, ...], Q: tuple[Array, ...], m: Array, v: Array) -> tuple[tuple[Array, ...], Array, Array]:
        new = []
        for factor, old, axis in zip(L, Q, axes, strict=True):
            pushed = _unit(factor) @ old
            order = jnp.argsort(-jnp.sum(old * pushed, axis=0))
            v = jnp.take(v, order, axis=axis)
            new.append(jnp.linalg.qr(pushed[:, order])[0])
        m = _turn(_turn(m, Q, axes, back=True), tuple(new), axes)
        return tuple(new), m, v

    return renew


def _unit(A: Array) -> Array:
    """A over its largest entry: the eigenvectors are the same, and nothing in a factorisation under- or overflows."""
    top = jnp.max(jnp.abs(A))
    return A / jnp.where(top > 0, top, 1)
