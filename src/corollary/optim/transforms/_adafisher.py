"""AdaFisher: momentum over running averages of the diagonals of K-FAC's factors, without a root.

F̃ = h sᵀ + λ per layer, h and s running averages of the diagonals of A and G, each scaled to [0, 1] by its own least
and largest entry. When: a curvature scale per input and per output at about Adam's price. Memory: one number a
parameter and n + m a layer (m, n). Cost: Adam's step, and a capture of diagonals every so many steps.
Source: Gomes, Zhang, Belilovsky, Wolf & Hosseini, "AdaFisher: adaptive second order optimization via Fisher
information" (2025), Algorithm 1, and the authors' code: averages begin at 1 and follow (1 − γ₁)·old + γ₂·new, which is
no average unless γ₁ = γ₂; theirs are 0.92 and 0.008. Their linear layers without a bias leave out the mean over the
batch in h, which the scaling to [0, 1] undoes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim.transforms._capture import CURVATURES, Statistics, capture_statistics, empty_statistics
from corollary.optim.transforms._kfac_layers import check_layers, is_layer, layer_rule
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
    with_extra,
    working,
    working_tree,
    zeros,
)


class AdaFisherState(NamedTuple):
    """Step count, momentum, the averaged diagonals a layer."""

    count: Array
    momentum: PyTree
    diagonals: list[Statistics]


def adafisher(
    model: PyTree,
    learning_rate: Setting,
    *,
    momentum: Setting = 0.9,
    damping: Setting = 1e-3,
    forget: Setting = 0.92,
    gain: Setting = 0.008,
    every: Setting = 100,
    curvature: str = "empirical",
    distribution: Any = None,
    weight_decay: Setting = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """AdaFisher, and with a decoupled weight decay AdaFisherW, for Equinox modules of layers that `kfac` knows.

    Parameters
    ----------
    model
        The module; its layers are checked.
    learning_rate
        η, a number or a schedule; the authors take 1e-3.
    momentum
        β of the gradients' average.
    damping
        λ, added to products of numbers between 0 and about gain/forget.
    forget, gain
        γ₁ and γ₂ of average ← (1 − γ₁)·average + γ₂·diagonal.
    every
        Steps between captures.
    curvature, distribution
        As for `kfac`; the authors use the empirical Fisher.
    weight_decay
        Decoupled, times η (AdaFisherW).

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, losses_fn=...)``, a function of the module to the batch's losses (``outputs_fn``
        where the curvature is not empirical). Norms: their diagonal Fisher block, scaled likewise.

    Raises
    ------
    InputError
        For parameters that lie in no supported layer, by name; settings out of range; missing functions.

    Examples
    --------
    >>> layer = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    >>> x = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    >>> losses = lambda model: jnp.sum(jax.vmap(model)(x) ** 2, axis=1)
    >>> optimizer = adafisher(layer, 1e-3)
    >>> updates, _ = optimizer.update(layer, optimizer.init(layer), layer, losses_fn=losses)
    >>> updates.weight.shape
    (1, 2)
    """
    check_layers(model)
    static = eqx.partition(model, eqx.is_inexact_array)[1]
    validation.one_of(*CURVATURES)("curvature", curvature)
    check_setting("momentum", momentum, below=1)
    check_setting("damping", damping, positive=True)
    check_setting("forget", forget, below=1)
    check_setting("gain", gain, below=1)
    check_setting("weight_decay", weight_decay)
    check_every("every", every)
    if curvature != "empirical" and distribution is None:
        raise InputError("distribution: found None, expected the OutputDistribution whose Fisher matrix is meant")

    def init(params: PyTree) -> AdaFisherState:
        params = eqx.filter(params, eqx.is_inexact_array)
        ones = jax.tree.map(jnp.ones_like, empty_statistics(eqx.combine(params, static), ("a", "g", "f")))
        return AdaFisherState(jnp.zeros((), jnp.int32), jax.tree.map(zeros, params), ones)

    def update(
        grads: PyTree,
        state: AdaFisherState,
        params: Any = None,
        *,
        losses_fn: Callable[[Any], Any] | None = None,
        outputs_fn: Callable[[Any], Any] | None = None,
        key: Key[Array, ""] | None = None,
        **_: Any,
    ) -> tuple[PyTree, AdaFisherState]:
        if params is None:
            raise InputError("params: found None, expected the parameters")
        t = state.count
        whole = eqx.combine(eqx.filter(params, eqx.is_inexact_array), static)
        seed = jax.random.fold_in(jax.random.key(0), t) if key is None else key

        def capture(old: list[Statistics]) -> list[Statistics]:
            new = capture_statistics(
                whole,
                losses_fn=losses_fn,
                outputs_fn=outputs_fn,
                distribution=distribution,
                curvature=curvature,
                names=("a", "g", "f", "rows"),
                key=seed,
            )
            dtype = jax.tree.leaves(old)[0].dtype
            keep, add = 1 - setting(forget, t, dtype), setting(gain, t, dtype)
            return [
                {name: keep.astype(x.dtype) * x + add.astype(x.dtype) * _to_unit(n[name]) for name, x in o.items()}
                for o, n in zip(old, new, strict=True)
            ]

        due = t % setting(every, t).astype(jnp.int32) == 0
        diagonals = jax.lax.cond(due, capture, lambda old: old, state.diagonals)
        count = increment(t)

        def mean(g: Array, m: Array) -> tuple[Array]:
            beta = setting(momentum, t, m.dtype)
            return (beta * m + (1 - beta) * working(g),)

        (average,) = map_leaves(mean, grads, state.momentum)
        rest = iter(diagonals)

        def divide(node: Any) -> Any:
            if not is_layer(node):
                return node
            d, rule = next(rest), layer_rule(node)
            assert rule is not None
            M = rule.matrix(node)
            F = d["f"] if "f" in d else jnp.outer(d["g"], d["a"])
            corrected = M / debias(setting(momentum, t, M.dtype), count)
            return rule.unmatrix(node, corrected / (F + setting(damping, t, M.dtype)))

        step = jax.tree.map(divide, working_tree(average), is_leaf=is_layer)
        return cast_like(step, grads), AdaFisherState(count, average, diagonals)

    return finish(with_extra(init, update), learning_rate, weight_decay)


def _to_unit(x: Array) -> Array:
    """Scaled to [0, 1] by its own least and largest entry; zeros where all are equal."""
    low, high = jnp.min(x), jnp.max(x)
    return (x - low) / jnp.where(high > low, high - low, 1)
