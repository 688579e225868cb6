"""The convolution primitive: bilinear, with backward passes that stay in the one layout that is fast on a CPU.

XLA's CPU backend runs a convolution at the speed of a matrix product only in the canonical layout (images NHWC, kernel
HWIO, output NHWC). The gradients that JAX derives from a convolution use other layouts; XLA rewrites those at the top
of a program but not inside a loop (`lax.scan` over steps), where they fall back on plain loops that are a hundred times
slower. So the three products of a convolution are written here in the canonical layout:

    y  = conv(x, w),    x̄ = conv(ȳ dilated by the stride, w rotated),    w̄ = conv(xᵀ, ȳᵀ),

where ᵀ exchanges batch and channels. The gradient of a 1×1 kernel is one matrix product, that of a kernel over few
channels one matrix product of patches. As a bilinear primitive the convolution has forward and reverse mode of any
order and batches under `vmap`. Cost: O(batch·out_height·out_width·kernel·C_in·C_out) for each of the three products.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]

LAYOUT = ("NHWC", "HWIO", "NHWC")


def plain(x: jax.Array, w: jax.Array, *, stride: Pair, pads: Pads, dilation: Pair, groups: int = 1) -> jax.Array:
    """XLA's convolution with JAX's own derivatives: the choice on accelerators and for grouped kernels."""
    return _canonical(x, w, stride, pads, dilation=dilation, groups=groups)


def bilinear(x: jax.Array, w: jax.Array, *, stride: Pair, pads: Pads, dilation: Pair) -> jax.Array:
    """The same convolution with all derivatives in the canonical layout: the choice on a CPU."""
    axes = _varying(x) | _varying(w)
    return convolution_p.bind(_spread(x, axes), _spread(w, axes), stride=stride, pads=pads, dilation=dilation)


@functools.partial(jax.jit, static_argnames=("stride", "pads", "dilation"))
def depthwise(x: jax.Array, w: jax.Array, *, stride: Pair, pads: Pads, dilation: Pair) -> jax.Array:
    """One kernel for each channel, (kh, kw, 1, C·m): a sum of shifted images, without a product over channels."""
    kh, kw, _, out = w.shape
    repeat = out // x.shape[3]
    shape = _output(x.shape, w.shape, stride, pads, dilation)
    total = jnp.zeros(shape, x.dtype)
    for (i, j), image in zip(_taps(kh, kw), _shifted(x, (kh, kw), shape, stride, pads, dilation), strict=True):
        total = total + (jnp.repeat(image, repeat, axis=3) if repeat > 1 else image) * w[i, j, 0]
    return total


def patches(x: jax.Array, kernel: Pair, places: Any, stride: Pair) -> jax.Array:
    """The windows of an image without padding, (batch, out_height, out_width, kh·kw·C)."""
    out = (x.shape[0], *places)
    return jnp.concatenate(_shifted(x, kernel, out, stride, ((0, 0), (0, 0)), (1, 1)), axis=3)


def _canonical(
    x: jax.Array, w: jax.Array, stride: Pair, pads: Pads, base: Pair = (1, 1), dilation: Pair = (1, 1), groups: int = 1
) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        w,
        stride,
        pads,
        lhs_dilation=base,
        rhs_dilation=dilation,
        dimension_numbers=LAYOUT,
        feature_group_count=groups,
    )


def _input_gradient(g: Any, x: Any, w: jax.Array, *, stride: Pair, pads: Pads, dilation: Pair) -> jax.Array:
    """x̄: the cotangent, spread by the stride, under the rotated kernel with channels exchanged."""
    rotated = _kept(w[::-1, ::-1].swapaxes(2, 3))
    around = []
    for axis in (0, 1):
        extent = dilation[axis] * (w.shape[axis] - 1)
        low = extent - pads[axis][0]
        spread = (g.shape[1 + axis] - 1) * stride[axis] + 1
        around.append((low, x.aval.shape[1 + axis] + extent - low - spread))
    return (
        bilinear(g, rotated, stride=(1, 1), pads=tuple(around), dilation=dilation)
        if stride == (1, 1)
        else (_canonical(g, rotated, (1, 1), tuple(around), base=stride, dilation=dilation))
    )


def _kernel_gradient(g: Any, x: jax.Array, w: Any, *, stride: Pair, pads: Pads, dilation: Pair) -> jax.Array:
    """w̄[i, j] = Σ over batch and places of x shifted by (i, j), times ȳ."""
    kh, kw, c, k = w.aval.shape
    if kh * kw == 1 or c < 4 or x.shape[0] < 4:
        images = _shifted(x, (kh, kw), g.shape, stride, pads, dilation)
        patches = images[0] if kh * kw == 1 else _kept(jnp.concatenate(images, axis=3))
        flat = patches.reshape(-1, kh * kw * c)
        product = lax.dot_general(flat, g.reshape(-1, k), (((0,), (0,)), ((), ())))
        return product.reshape(kh, kw, c, k)
    around = []
    for axis in (0, 1):
        reach = (g.shape[1 + axis] - 1) * stride[axis] + dilation[axis] * (w.aval.shape[axis] - 1) + 1
        around.append((pads[axis][0], reach - x.shape[1 + axis] - pads[axis][0]))
    swapped, delta = _kept(x.transpose(3, 1, 2, 0)), _kept(g.transpose(1, 2, 0, 3))
    if stride == (1, 1):
        out = bilinear(swapped, delta, stride=dilation, pads=tuple(around), dilation=stride)
    else:
        out = _canonical(swapped, delta, dilation, tuple(around), dilation=stride)
    return out.transpose(1, 2, 0, 3)


def _varying(x: Any) -> frozenset[Any]:
    """The axes of a manual sharding (`jax.shard_map`) over which x differs from device to device."""
    kind = jax.typeof(x)
    return getattr(kind, "vma", None) or getattr(getattr(kind, "mat", None), "varying", None) or frozenset()


def _spread(x: Any, axes: frozenset[Any]) -> Any:
    """x as varying over `axes`: the transpose of this sums its gradient over the devices."""
    missing = tuple(axes - _varying(x))
    return lax.pcast(x, missing, to="varying") if missing else x


def _kept(x: jax.Array) -> jax.Array:
    """A value that XLA must not fold back into the convolution's layout."""
    return lax.optimization_barrier(x)


def _taps(kh: int, kw: int) -> list[Pair]:
    return [(i, j) for i in range(kh) for j in range(kw)]


def _shifted(x: jax.Array, kernel: Pair, out: Any, stride: Pair, pads: Pads, dilation: Pair) -> list[jax.Array]:
    """The image under each tap of the kernel, at the places of the output."""
    zero = jnp.zeros((), x.dtype)
    padded = lax.pad(x, zero, ((0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)))
    padded = _kept(padded) if any(p != (0, 0) for p in pads) else padded
    (sh, sw), (dh, dw) = stride, dilation
    return [
        lax.slice(
            padded,
            (0, i * dh, j * dw, 0),
            (x.shape[0], i * dh + (out[1] - 1) * sh + 1, j * dw + (out[2] - 1) * sw + 1, x.shape[3]),
            (1, sh, sw, 1),
        )
        for i, j in _taps(*kernel)
    ]


def _output(x: Any, w: Any, stride: Pair, pads: Pads, dilation: Pair) -> tuple[int, int, int, int]:
    size = [(x[1 + a] + sum(pads[a]) - dilation[a] * (w[a] - 1) - 1) // stride[a] + 1 for a in (0, 1)]
    return (x[0], size[0], size[1], w[3])


def _abstract(x: Any, w: Any, *, stride: Pair, pads: Pads, dilation: Pair) -> Any:
    return x.update(shape=_output(x.shape, w.shape, stride, pads, dilation))


def _batched(args: Any, axes: Any, **settings: Any) -> tuple[jax.Array, int]:
    """Under vmap over images alone the batches are joined; over kernels too, XLA groups the channels."""
    (x, w), (xa, wa) = args, axes
    if wa is None:
        x = jnp.moveaxis(x, xa, 0)
        out = bilinear(x.reshape(-1, *x.shape[2:]), w, **settings)
        return out.reshape(*x.shape[:2], *out.shape[1:]), 0
    if xa is None:
        w = jnp.moveaxis(w, wa, 3)
        out = bilinear(x, w.reshape(*w.shape[:3], -1), **settings)
        return out.reshape(*out.shape[:3], *w.shape[3:]), 3
    return jax.vmap(lambda x, w: plain(x, w, **settings), (xa, wa))(x, w), 0


convolution_p = Primitive("corollary_convolution")
convolution_p.def_impl(jax.jit(plain, static_argnames=("stride", "pads", "dilation", "groups")))
convolution_p.def_abstract_eval(_abstract)
ad.defbilinear(convolution_p, _input_gradient, _kernel_gradient)
batching.primitive_batchers[convolution_p] = _batched
mlir.register_lowering(convolution_p, mlir.lower_fun(plain, multiple_results=False))
