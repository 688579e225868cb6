"""Convolution of images and sequences, batch first and channels last: the one entry point of the room.

`conv` is a cross-correlation (the kernel is not flipped),

    y[n, u, v, k] = Σ_{i,j,c} x[n, su + di, sv + dj, c]·w[i, j, c, k].

On a CPU its derivatives are kept in the layout that XLA runs at the speed of a matrix product, also inside a compiled
loop; depthwise kernels are sums of shifted images; on an accelerator XLA's own convolution and derivatives are used.
Cost: O(batch·places·kernel·C_in·C_out/groups), memory O(inputs + outputs): no patches are stored.
Source: Goodfellow, Bengio & Courville, "Deep learning" (2016), section 9.1 (equation 9.6) and 9.5; Dumoulin & Visin, "A
guide to convolution arithmetic for deep learning" (2016).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.nn._conv_kernels import Pads, Pair, bilinear, depthwise, plain
from corollary.optim.transforms._kfac_layers import LayerRule, register_layer

Padding = Literal["SAME", "VALID"] | int | Sequence[Any]


def conv(
    x: Float[Array, "batch *space channels"],
    kernel: Float[Array, "*window in_channels out_channels"],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Float[Array, "batch *places out_channels"]:
    """Convolve a batch of images (batch, height, width, C) or sequences (batch, length, C).

    Differentiable to any order in forward and reverse mode; jits and vmaps.

    Parameters
    ----------
    x
        Images or sequences, channels last.
    kernel
        (kh, kw, C/groups, K), or (k, C/groups, K) for sequences, in the precision of `x`.
    stride
        Keep every stride-th output, per axis.
    padding
        ``"SAME"``: zeros such that ceil(size/stride) outputs come out; ``"VALID"``: none; an integer: so many zeros on
        all sides; or a pair (low, high) for each axis.
    dilation
        The distance between the taps of the kernel.
    groups
        Channels fall into so many groups, each with its own kernels; groups = C is the depthwise convolution.

    Returns
    -------
    :
        (batch, out_height, out_width, K), or (batch, out_length, K).

    Raises
    ------
    InputError
        Where shapes, settings or precisions do not fit.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    >>> conv(x, jnp.ones((2, 2, 1, 1)), padding="VALID")[0, :, :, 0].tolist()
    [[8.0, 12.0], [20.0, 24.0]]
    """
    dims = x.ndim - 2
    if dims not in (1, 2):
        raise InputError(f"x: found shape {x.shape}, expected (batch, height, width, C) or (batch, length, C)")
    if kernel.ndim != dims + 2:
        raise InputError(f"kernel: found shape {kernel.shape}, expected {dims + 2} axes as in x")
    if kernel.dtype != x.dtype:
        raise InputError(f"kernel: found {kernel.dtype}, expected {x.dtype} as in x")
    validation.integer(1)("groups", groups)
    channels, inner, outer = x.shape[-1], kernel.shape[-2], kernel.shape[-1]
    if channels % groups or outer % groups or inner * groups != channels:
        raise InputError(
            f"kernel: found {inner} input and {outer} output channels, expected {channels}/{groups} input channels "
            f"and a multiple of {groups} output channels"
        )
    if dims == 1:
        line = {
            "stride": (1, *per_axis("stride", stride, 1)),
            "padding": ((0, 0), *pads(x, kernel, stride, padding, dilation)),
            "dilation": (1, *per_axis("dilation", dilation, 1)),
        }
        return conv(x[:, None], kernel[None], groups=groups, **line)[:, 0]

    settings: dict[str, Any] = {
        "stride": _two(per_axis("stride", stride, 2)),
        "pads": pads(x, kernel, stride, padding, dilation),
        "dilation": _two(per_axis("dilation", dilation, 2)),
    }
    for axis in (0, 1):
        reach = settings["dilation"][axis] * (kernel.shape[axis] - 1) + 1
        if x.shape[1 + axis] + sum(settings["pads"][axis]) < reach:
            raise InputError(f"x: found size {x.shape[1 + axis]}, expected at least the kernel's reach {reach}")
    if jax.default_backend() != "cpu":
        return plain(x, kernel, groups=groups, **settings)
    if groups == 1:
        return bilinear(x, kernel, **settings)
    if groups == channels:
        return depthwise(x, kernel, **settings)
    return plain(x, kernel, groups=groups, **settings)


@final
class Conv(eqx.Module):
    """A convolution layer with bias, for a batch of images or sequences, channels last.

    Parameters
    ----------
    in_channels, out_channels
        Channels of input and output.
    kernel_size
        Edge of the kernel, or one for each axis.
    stride, padding, dilation, groups
        As in `conv`.
    use_bias
        Add a bias to each output channel.
    dims
        2 for images, 1 for sequences.
    dtype
        Precision of the weights (default: JAX's).
    key
        Of the He initialisation: normal with variance 2/fan-in, bias 0.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> Conv(3, 8, 3, stride=2, key=jax.random.key(0))(jnp.zeros((4, 32, 32, 3))).shape
    (4, 16, 16, 8)
    """

    kernel: Float[Array, "..."]
    bias: Float[Array, " out_channels"] | None
    stride: tuple[int, ...] = eqx.field(static=True)
    padding: Any = eqx.field(static=True)
    dilation: tuple[int, ...] = eqx.field(static=True)
    groups: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        stride: int | Sequence[int] = 1,
        padding: Padding = "SAME",
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        use_bias: bool = True,
        dims: int = 2,
        dtype: Any = None,
        key: Key[Array, ""],
    ):
        validation.integer(1)("in_channels", in_channels)
        validation.integer(1)("out_channels", out_channels)
        validation.integer(1)("groups", groups)
        validation.one_of(1, 2)("dims", dims)
        if in_channels % groups or out_channels % groups:
            raise InputError(f"groups: found {groups}, expected a divisor of {in_channels} and {out_channels}")
        window = per_axis("kernel_size", kernel_size, dims)
        dtype = jnp.zeros(()).dtype if dtype is None else jnp.dtype(dtype)
        shape = (*window, in_channels // groups, out_channels)
        fan_in = math.prod(shape[:-1])
        self.kernel = jax.random.normal(key, shape, dtype) * jnp.asarray(math.sqrt(2 / fan_in), dtype)
        self.bias = jnp.zeros(out_channels, dtype) if use_bias else None
        self.stride, self.dilation = per_axis("stride", stride, dims), per_axis("dilation", dilation, dims)
        self.padding = padding if isinstance(padding, str | int) else _pairs(padding)
        self.groups = groups

    def __call__(self, x: Float[Array, "batch *space channels"]) -> Float[Array, "batch *places out_channels"]:
        """The convolved batch."""
        settings = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        y = conv(x, self.kernel, **settings)
        return y if self.bias is None else y + self.bias


def per_axis(name: str, value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """One positive integer for each axis."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * dims
    if len(values) != dims:
        raise InputError(f"{name}: found {value!r}, expected an integer or {dims} of them")
    for v in values:
        validation.integer(1)(name, v)
    return tuple(int(v) for v in values)


def pads(x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    """Zeros (low, high) on each axis of space."""
    dims = x.ndim - 2
    if isinstance(padding, str):
        validation.one_of("SAME", "VALID")("padding", padding)
        if padding == "VALID":
            return ((0, 0),) * dims
        out = []
        axes = zip(x.shape[1:-1], kernel.shape, per_axis("stride", stride, dims), strict=False)
        for (size, k, s), d in zip(axes, per_axis("dilation", dilation, dims), strict=True):
            total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            out.append((total // 2, total - total // 2))
        return tuple(out)
    if isinstance(padding, int):
        validation.integer(0)("padding", padding)
        return ((padding, padding),) * dims
    found = _pairs(padding)
    if len(found) != dims or any(p < 0 for pair in found for p in pair):
        raise InputError(f"padding: found {padding!r}, expected a pair (low, high) of integers >= 0 for each axis")
    return found


def _pairs(padding: Any) -> tuple[tuple[int, int], ...]:
    try:
        return tuple((operator.index(low), operator.index(high)) for low, high in padding)
    except (TypeError, ValueError):
        expected = '"SAME", "VALID", an integer or a pair (low, high) of integers for each axis'
        raise InputError(f"padding: found {padding!r}, expected {expected}") from None


def _patches(layer: Any, x: Array) -> Array:
    """(batch, places, channels · window [+ 1]): what each output is the product of, for K-FAC."""
    dims = x.ndim - 2
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    found = jax.lax.conv_general_dilated_patches(
        x,
        layer.kernel.shape[:dims],
        layer.stride,
        pads(x, layer.kernel, layer.stride, layer.padding, layer.dilation),
        rhs_dilation=layer.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC") if dims == 2 else ("NWC", "WIO", "NWC"),
    )
    rows = found.reshape(x.shape[0], -1, found.shape[-1])
    return rows if layer.bias is None else jnp.pad(rows, ((0, 0), (0, 0), (0, 1)), constant_values=1)


def _slopes(layer: Any, g: Array) -> Array:
    del layer
    return g.reshape(g.shape[0], -1, g.shape[-1]).astype(jnp.promote_types(g.dtype, jnp.float32))


def _matrix(layer: Any) -> Array:
    """(outputs, channels · window [+ 1]), the channel being the slowest of the inputs."""
    rows = jnp.moveaxis(layer.kernel, (-1, -2), (0, 1)).reshape(layer.kernel.shape[-1], -1)
    return rows if layer.bias is None else jnp.concatenate([rows, layer.bias[:, None]], axis=1)


def _unmatrix(layer: Any, M: Array) -> Any:
    shape = layer.kernel.shape
    M = M.astype(layer.kernel.dtype)
    kernel = M if layer.bias is None else M[:, :-1]
    kernel = jnp.moveaxis(kernel.reshape(shape[-1], shape[-2], *shape[:-2]), (0, 1), (-1, -2))
    if layer.bias is None:
        return eqx.tree_at(lambda one: one.kernel, layer, kernel)
    return eqx.tree_at(lambda one: (one.kernel, one.bias), layer, (kernel, M[:, -1]))


def _refused(layer: Any) -> str | None:
    return None if layer.groups == 1 else f"groups = {layer.groups}, expected 1"


register_layer(Conv, LayerRule("dense", _patches, _slopes, _matrix, _unmatrix, _refused))


def _two(values: tuple[int, ...]) -> Pair:
    return values[0], values[1]


__all__ = ["Conv", "Pads", "conv", "pads", "per_axis"]
