"""Counting: parameters of a network, floating-point operations of a call, and both from a layer's configuration.

`parameter_count` looks at shapes only, so a network of billions is counted from `equinox.filter_eval_shape` without
memory. `flops` traces a function and counts matrix products and convolutions, a multiply-add as two operations;
elementwise work is left out, as is usual (but a depthwise convolution counts, however it is computed; not in its
derivatives). Loops count their trips, `while` loops count once.
Source: Radford et al., "Language models are unsupervised multitask learners" (2019), table 2; Brown et al., "Language
models are few-shot learners" (2020), table 2.1, for the transformer's shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.errors import InputError


class LayerCost(eqx.Module):
    """Parameters of a layer and floating-point operations of one example's forward pass."""

    parameters: int = eqx.field(static=True)
    flops: int = eqx.field(static=True)


def parameter_count(tree: PyTree) -> int:
    """Number of floating-point entries of a network: arrays or shapes. Running statistics (state) do not count.

    Parameters
    ----------
    tree
        A module or any pytree; `jax.ShapeDtypeStruct` leaves count as arrays.

    Examples
    --------
    >>> import equinox as eqx, jax
    >>> parameter_count(eqx.nn.Linear(3, 4, key=jax.random.key(0)))
    16
    """
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, eqx.nn.StateIndex))
    return sum(math.prod(leaf.shape) for leaf in leaves if _is_float(leaf))


def flops(function: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of ``function(*args)`` in matrix products and convolutions.

    Parameters
    ----------
    function
        Any JAX function or module.
    *args
        Its arguments; `jax.ShapeDtypeStruct` will do.

    Examples
    --------
    >>> import jax
    >>> x = jax.ShapeDtypeStruct((8, 16), "float32")
    >>> flops(lambda x: x @ x.T, x)
    2048
    """
    closed = eqx.filter_make_jaxpr(function)(*args)[0]
    return _count(closed.jaxpr)


def layer_cost(kind: str, **size: int) -> LayerCost:
    """Parameters and operations of a layer from its sizes alone.

    Parameters
    ----------
    kind
        | kind | sizes |
        | --- | --- |
        | ``"dense"`` | inputs, outputs |
        | ``"conv"``, ``"locally_connected"``, ``"dense_map"`` | height, width, channels, kernel_height, kernel_width, |
        | | filters |
        | ``"rnn"``, ``"gru"``, ``"lstm"`` | inputs, hidden |
        | ``"transformer"`` | layers, width, vocabulary, context |

        The three of images map the valid (m − p + 1)(n − q + 1) places; ``"dense_map"`` joins each output to every
        pixel. Recurrent layers are counted for one step with one bias for each gate. The transformer is GPT-2's:
        learnt positions, four-fold feed-forward, biases, layer norms, tied output; operations for a full context.
    **size
        The sizes of the table, and ``bias`` (0 for none, default 1) for dense and image layers.

    Returns
    -------
    LayerCost
        ``parameters`` and ``flops``.

    Raises
    ------
    InputError
        For an unknown kind, or missing or foreign sizes.

    Examples
    --------
    >>> layer_cost("conv", height=32, width=32, channels=1, kernel_height=5, kernel_width=5, filters=6).parameters
    156
    >>> layer_cost("transformer", layers=48, width=1600, vocabulary=50257, context=1024).parameters
    1557611200
    """
    image = ("height", "width", "channels", "kernel_height", "kernel_width", "filters")
    needs = {
        "dense": ("inputs", "outputs"),
        **dict.fromkeys(("conv", "locally_connected", "dense_map"), image),
        **dict.fromkeys(("rnn", "gru", "lstm"), ("inputs", "hidden")),
        "transformer": ("layers", "width", "vocabulary", "context"),
    }
    validation.one_of(*needs)("kind", kind)
    bias = size.pop("bias", 1) if needs[kind] in (needs["dense"], image) else 1
    if set(size) != set(needs[kind]):
        raise InputError(f"size: found {sorted(size)}, expected {sorted(needs[kind])}")
    for name, value in size.items():
        validation.integer(1)(name, value)
    v = [size[name] for name in needs[kind]]
    if kind == "dense":
        return LayerCost((v[0] + bias) * v[1], 2 * v[0] * v[1])
    if needs[kind] == image:
        return _image_cost(kind, *v, bias=bias)
    if kind == "transformer":
        return _transformer_cost(*v)
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[kind]
    inputs, hidden = v
    return LayerCost(gates * hidden * (inputs + hidden + 1), 2 * gates * hidden * (inputs + hidden))


def _image_cost(kind: str, m: int, n: int, c: int, p: int, q: int, k: int, *, bias: int) -> LayerCost:
    if p > m or q > n:
        raise InputError(f"kernel_height: found a kernel {p} x {q}, expected at most the image {m} x {n}")
    places = (m - p + 1) * (n - q + 1)
    fan_in = m * n * c if kind == "dense_map" else p * q * c
    copies = 1 if kind == "conv" else places
    return LayerCost((fan_in + bias) * copies * k, 2 * fan_in * places * k)


def _transformer_cost(layers: int, width: int, vocabulary: int, context: int) -> LayerCost:
    block = 12 * width**2 + 13 * width  # attention 4d² + 4d, feed-forward 8d² + 5d, two norms 4d
    parameters = layers * block + (vocabulary + context) * width + 2 * width
    products = layers * (12 * width**2 + 2 * context * width) + vocabulary * width
    return LayerCost(parameters, 2 * context * products)


def _is_float(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, settings = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = settings["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)
        elif name in ("conv_general_dilated", "corollary_convolution"):
            kernel = equation.invars[1].aval.shape
            layout = settings.get("dimension_numbers")
            out = kernel[3] if layout is None else kernel[layout.rhs_spec[0]]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * (math.prod(kernel) // out)
        elif name in ("jit", "pjit") and settings.get("name") == "depthwise" and len(equation.outvars) == 1:
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(equation.invars[1].aval.shape[:2])
        trips = settings.get("length", 1) if name == "scan" else 1
        inner = [v for v in jax.tree.leaves(settings, is_leaf=_is_jaxpr) if _is_jaxpr(v)]
        counts = [_count(getattr(j, "jaxpr", j)) for j in inner]
        total += int(np.max(counts)) if name == "cond" and counts else trips * sum(counts)
    return total


def _is_jaxpr(x: Any) -> bool:
    return hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns")
