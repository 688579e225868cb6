"""Which layers K-FAC knows, and how: a table that is checked. A parameter in no layer of it is named and refused.

A rule reads a layer's inputs and output gradients as rows, and its gradient as one matrix (outputs, inputs), a bias
being the column of an input that is always 1. Three kinds: ``"dense"`` (F ≈ A ⊗ G), ``"lookup"`` (embeddings: A is
diagonal, the frequencies of the rows) and ``"affine"`` (a norm's scale and shift: their own full Fisher block, exact).
Other layers join by `register_layer`. Sources: Martens & Grosse, "Optimizing neural networks with Kronecker-factored
approximate curvature" (2015); Grosse & Martens, "A Kronecker-factored approximate Fisher matrix for convolution layers"
(2016), eqs. (14)-(25).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from corollary.core.errors import InputError
from corollary.optim.transforms._matrix_settings import working


class LayerRule(eqx.Module):
    """How K-FAC reads one type of layer. `inputs` and `slopes` see static fields, and the shapes of arrays only.

    Parameters
    ----------
    kind
        ``"dense"``, ``"lookup"`` or ``"affine"``.
    inputs
        ``inputs(layer, x)``: the rows that meet the weights, (T, n) for one example or (batch, T, n) for a layer that
        takes whole batches, with a column of ones for the bias. ``"lookup"``: indices (T,). ``"affine"``: (T, n).
    slopes
        ``slopes(layer, g)``: the output gradient as rows, (T, m) or (batch, T, m).
    matrix
        ``matrix(layer)``: its parameters (or their gradients, in the layer's structure) as (m, n); ``"affine"``: (p,).
    unmatrix
        ``unmatrix(layer, M)``: the layer with its parameters replaced by those of M.
    refuse
        ``refuse(layer)``: why this instance is not supported, or None.

    Examples
    --------
    >>> layer_rule(eqx.nn.Linear(2, 3, key=jax.random.key(0))).kind
    'dense'
    """

    kind: str = eqx.field(static=True)
    inputs: Callable[[Any, Array], Array] = eqx.field(static=True)
    slopes: Callable[[Any, Array], Array] = eqx.field(static=True)
    matrix: Callable[[Any], Array] = eqx.field(static=True)
    unmatrix: Callable[[Any, Array], Any] = eqx.field(static=True)
    refuse: Callable[[Any], str | None] = eqx.field(static=True, default=lambda layer: None)


RULES: dict[type, LayerRule] = {}


def register_layer(type_: type, rule: LayerRule) -> None:
    """Teach K-FAC a type of layer (and its subclasses); a later rule replaces an earlier one.

    Raises
    ------
    InputError
        For a rule of an unknown kind.

    Examples
    --------
    >>> class Scaled(eqx.nn.Linear): ...
    >>> register_layer(Scaled, layer_rule(eqx.nn.Linear(2, 3, key=jax.random.key(0))))
    """
    if rule.kind not in ("dense", "lookup", "affine"):
        raise InputError(f"kind: found {rule.kind!r}, expected 'dense', 'lookup' or 'affine'")
    RULES[type_] = rule


def layer_rule(layer: Any) -> LayerRule | None:
    """The rule of a layer's type or its nearest ancestor; None where there is none."""
    return next((RULES[t] for t in type(layer).__mro__ if t in RULES), None)


def is_layer(node: Any) -> bool:
    """Whether the node is a layer with a rule and with parameters."""
    return layer_rule(node) is not None and bool(jax.tree.leaves(node))


def layers_of(model: PyTree) -> tuple[list[str], list[Any]]:
    """Paths and layers of a model (or of its parameters or gradients), in order."""
    found = [
        (jax.tree_util.keystr(path), node)
        for path, node in jax.tree_util.tree_flatten_with_path(model, is_leaf=is_layer)[0]
        if is_layer(node)
    ]
    return [path for path, _ in found], [node for _, node in found]


def check_layers(model: PyTree) -> list[str]:
    """Paths of the supported layers.

    Raises
    ------
    InputError
        Naming every parameter that lies in no supported layer, and why where the layer is known but this one is not.

    Examples
    --------
    >>> check_layers(eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0)))
    ['.layers[0]', '.layers[1]']
    """
    complaints = []
    for path, node in jax.tree_util.tree_flatten_with_path(model, is_leaf=is_layer)[0]:
        name, rule = jax.tree_util.keystr(path), layer_rule(node) if is_layer(node) else None
        if rule is None:
            if eqx.is_inexact_array(node):
                complaints.append(f"{name} (in no supported layer)")
        elif (why := rule.refuse(node)) is not None:
            complaints.append(f"{name} ({why})")
        elif (more := _size(node) - rule.matrix(node).size) != 0:
            complaints.append(f"{name} (with {more} parameters that its rule does not know)")
    paths = layers_of(model)[0]
    if complaints or not paths:
        known = ", ".join(t.__name__ for t in RULES)
        found = "; ".join(complaints) or "no layer at all"
        raise InputError(f"model: found unsupported parameters: {found}; expected layers of these types: {known}")
    return paths


def _size(layer: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(layer) if eqx.is_inexact_array(leaf))


def _rows(layer: Any, x: Array) -> Array:
    x = working(jnp.atleast_1d(x))[None, :]
    return jnp.concatenate([x, jnp.ones((1, 1), x.dtype)], axis=1) if layer.use_bias else x


def _with_bias(layer: Any) -> Array:
    weight = layer.weight.reshape(layer.weight.shape[0], -1)
    return weight if layer.bias is None else jnp.concatenate([weight, layer.bias.reshape(-1, 1)], axis=1)


def _without_bias(layer: Any, M: Array) -> Any:
    if layer.bias is None:
        return eqx.tree_at(lambda one: one.weight, layer, M.reshape(layer.weight.shape).astype(layer.weight.dtype))
    new = M[:, :-1].reshape(layer.weight.shape), M[:, -1].reshape(layer.bias.shape)
    new = new[0].astype(layer.weight.dtype), new[1].astype(layer.bias.dtype)
    return eqx.tree_at(lambda one: (one.weight, one.bias), layer, new)


def _patches(layer: Any, x: Array) -> Array:
    """(locations, channels · kernel [+ 1]): the rows of im2col, in the order of the reshaped kernel."""
    padding = layer.padding.upper() if isinstance(layer.padding, str) else layer.padding
    patches = jax.lax.conv_general_dilated_patches(
        working(x)[None], layer.kernel_size, layer.stride, padding, rhs_dilation=layer.dilation
    )[0]
    rows = patches.reshape(patches.shape[0], -1).T
    return jnp.concatenate([rows, jnp.ones((rows.shape[0], 1), rows.dtype)], axis=1) if layer.use_bias else rows


def _refuse_conv(layer: Any) -> str | None:
    if layer.groups != 1:
        return f"groups = {layer.groups}, expected 1"
    if layer.padding_mode != "ZEROS":
        return f"padding_mode = {layer.padding_mode!r}, expected 'ZEROS'"
    return None


def _normed(layer: Any, x: Array) -> Array:
    """What the scale multiplies."""
    x = working(x)
    if isinstance(layer, eqx.nn.RMSNorm):
        x = x * jax.lax.rsqrt(jnp.mean(x * x) + layer.eps)
    else:
        x = x - jnp.mean(x)
        x = x * jax.lax.rsqrt(jnp.maximum(jnp.mean(x * x), 0) + layer.eps)
    return x.reshape(1, -1)


def _affine(layer: Any) -> Array:
    return jnp.concatenate([p.reshape(-1) for p in (layer.weight, layer.bias) if p is not None])


def _set_affine(layer: Any, M: Array) -> Any:
    used = [name for name in ("weight", "bias") if getattr(layer, name) is not None]
    parts = jnp.split(M, len(used))
    for name, part in zip(used, parts, strict=True):
        old = getattr(layer, name)
        layer = eqx.tree_at(lambda one, name=name: getattr(one, name), layer, part.reshape(old.shape).astype(old.dtype))
    return layer


DENSE = LayerRule(
    "dense",
    _rows,
    lambda layer, g: working(jnp.atleast_1d(g))[None, :],
    _with_bias,
    _without_bias,
)
register_layer(eqx.nn.Linear, DENSE)
register_layer(
    eqx.nn.Conv,
    LayerRule(
        "dense",
        _patches,
        lambda layer, g: working(g).reshape(g.shape[0], -1).T,
        _with_bias,
        _without_bias,
        _refuse_conv,
    ),
)
register_layer(
    eqx.nn.Embedding,
    LayerRule(
        "lookup",
        lambda layer, x: jnp.asarray(x).reshape(1),
        lambda layer, g: working(g)[None, :],
        lambda layer: layer.weight.T,
        lambda layer, M: eqx.tree_at(lambda one: one.weight, layer, M.T.astype(layer.weight.dtype)),
    ),
)
NORM = LayerRule(
    "affine",
    _normed,
    lambda layer, g: working(g).reshape(1, -1),
    _affine,
    _set_affine,
    lambda layer: None if layer.use_weight else "without a scale, expected use_weight=True",
)
register_layer(eqx.nn.LayerNorm, NORM)
register_layer(eqx.nn.RMSNorm, NORM)
