"""Maximal update parametrisation (μP): multipliers that keep the best learning rate the same at every width.

With r = fan-in of the target over that of the base model, for the matrices whose size grows with the width:

| parameter | grows | forward | initial std, relative to 1/√fan-in | Adam rate | SGD rate |
| --- | --- | --- | --- | --- | --- |
| input, bias | out | 1 | 1 | 1 | r_out |
| hidden | in and out | 1 | 1 | 1/r | r_out/r |
| output | in | 1/r | √r | 1 | r |

so that every layer's features move by Θ(1) per step at any width: the feature-learning limit, in which the tangent
kernel evolves. At the base width all multipliers are 1. When: tune a narrow model, train a wide one. O(parameters).
Source: Yang, Hu et al., "Tensor programs V" (2021), tables 3 and 8; the package microsoft/mup (MuReadout, MuAdam,
MuSGD), whose multipliers these are.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.errors import InputError


class MupScaling(eqx.Module):
    """Multipliers, one for each floating array of a model in the order of `jax.tree.leaves`.

    Attributes
    ----------
    forward
        What the parameter is multiplied by when it is used.
    initial
        What a draw of standard deviation ∝ 1/√fan-in is multiplied by, once.
    rate
        What the optimizer's step is multiplied by.
    """

    forward: tuple[Any, ...]
    initial: tuple[Any, ...]
    rate: tuple[Any, ...]

    def initialise(self, model: PyTree) -> PyTree:
        """The model drawn by the usual fan-in rule, brought to μP's start; call it once."""
        return _scaled(model, self.initial)

    def effective(self, model: PyTree) -> PyTree:
        """The model to evaluate: call it inside the loss."""
        return _scaled(model, self.forward)

    def scale_updates(self) -> optax.GradientTransformation:
        """To be chained after the optimizer: its steps times `rate`. No memory, O(1) per parameter."""

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            del params
            return _scaled(updates, self.rate), state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def mup(base: PyTree, target: PyTree, *, optimizer: str = "adam") -> MupScaling:
    """Multipliers of a model's arrays from the shapes of a base model of the same kind. O(arrays).

    When: a learning rate tuned on the base should serve the target. Weights are laid out
    (out, in, ...), as in Equinox, or, with more than two axes, (..., in, out) as in `corollary.nn.Conv`: the axes that
    grow tell. The table of an `equinox.nn.Embedding` is an input layer.

    Parameters
    ----------
    base, target
        Models (or trees of shapes, from `equinox.filter_eval_shape`) that differ in width only.
    optimizer
        ``"adam"`` (and other scale-free ones, as sign methods) or ``"sgd"`` (momentum included).

    Returns
    -------
    MupScaling
        Biases should start at zero, or at a size without fan-in in it.

    Raises
    ------
    InputError
        For models of unlike structure, kernels that grow in other axes than channels, or an unknown optimizer.

    Source
    ------
    Yang, Hu et al. (2021), table 8.

    Examples
    --------
    >>> import equinox as eqx, jax
    >>> net = lambda width: eqx.nn.MLP(4, 2, width, 2, use_bias=False, use_final_bias=False, key=jax.random.key(0))
    >>> scaling = mup(net(8), net(32))
    >>> scaling.forward, scaling.initial, scaling.rate
    ((1.0, 1.0, 0.25), (1.0, 1.0, 2.0), (1.0, 0.25, 1.0))
    """
    validation.one_of("adam", "sgd")("optimizer", optimizer)
    small, large = (jax.tree.leaves(eqx.filter(m, _has_shape)) for m in (base, target))
    is_table = lambda node: isinstance(node, eqx.nn.Embedding)  # noqa: E731
    nodes = jax.tree.leaves(eqx.filter(target, _has_shape), is_leaf=is_table)
    tables = [is_table(node) for node in nodes for _ in jax.tree.leaves(node)]
    if len(small) != len(large) or any(a.ndim != b.ndim for a, b in zip(small, large, strict=False)):
        raise InputError(f"target: found {len(large)} arrays unlike the {len(small)} of base, expected the same kinds")
    shapes = [_out_in(a.shape, b.shape, t) for a, b, t in zip(small, large, tables, strict=True)]
    rules = [_rule(a, b, optimizer) for a, b in shapes]
    return MupScaling(*(tuple(rule[k] for rule in rules) for k in range(3)))


def _out_in(base: tuple[int, ...], target: tuple[int, ...], table: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Both shapes as (out, in) or (out,)."""
    if table:
        return base[::-1], target[::-1]  # (ids, features)
    if len(base) < 3:
        return base, target
    grows = {k for k, (a, b) in enumerate(zip(base, target, strict=True)) if a != b}
    for out, into in ((0, 1), (len(base) - 1, len(base) - 2)):
        if grows <= {out, into}:
            return (base[out], base[into]), (target[out], target[into])
    raise InputError(f"target: found an array {target} against {base}, expected only channels to grow")


def _rule(base: tuple[int, ...], target: tuple[int, ...], optimizer: str) -> tuple[float, float, float]:
    """(forward, initial, rate) of one array (out, in, ...)."""
    if len(base) == 0 or base == target:
        return 1.0, 1.0, 1.0
    out = target[0] / base[0]
    into = target[1] / base[1] if len(base) > 1 else 1.0
    sgd = optimizer == "sgd"
    if len(base) == 1 or target[1] == base[1]:  # a bias, or an input layer
        return 1.0, 1.0, out if sgd else 1.0
    if target[0] == base[0]:  # an output layer
        return 1 / into, into**0.5, into if sgd else 1.0
    return 1.0, 1.0, out / into if sgd else 1 / into


def _has_shape(leaf: Any) -> bool:
    array = isinstance(leaf, jax.ShapeDtypeStruct) or eqx.is_array(leaf)
    return array and jnp.issubdtype(leaf.dtype, jnp.floating)


def _scaled(tree: PyTree, factors: tuple[Any, ...]) -> PyTree:
    """The arrays of a tree times their factors, in order; other leaves stay."""
    leaves, structure = jax.tree.flatten(tree)
    remaining = iter(factors)
    out = [leaf * jnp.asarray(next(remaining), leaf.dtype) if _has_shape(leaf) else leaf for leaf in leaves]
    if next(remaining, None) is not None:
        raise InputError(f"model: found fewer arrays than the {len(factors)} multipliers, expected as many")
    return jax.tree.unflatten(structure, out)
