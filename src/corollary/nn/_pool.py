"""Pooling of images: maximum, average, minimum, softmax-weighted and global, batch first and channels last.

Windows that tile the image are a reshape and a few elementwise maxima, which run several times faster on a CPU than a
windowed reduction, and so does their gradient; overlapping windows are separable: first along the height, then along
the width, 2k instead of k² slices. Where several entries share the maximum, the gradient is divided among them.
Cost O(batch·places·channels·k). Source: Goodfellow, Bengio & Courville, "Deep learning" (2016), section 9.3; softmax
pooling: Boureau, Ponce & LeCun, "A theoretical analysis of feature pooling in visual recognition" (2010), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.nn._conv import per_axis

Images = Float[Array, "batch height width channels"]
Maps = Float[Array, "batch _ _ channels"]


def max_pool(x: Images, window: int | Sequence[int] = 2, *, stride: Any = None, padding: Any = 0) -> Maps:
    """The maximum of each window (padding never wins).

    Parameters
    ----------
    x
        Images (batch, height, width, channels).
    window
        Edge of the window, or one for each axis.
    stride
        Distance between windows; the window itself where None.
    padding
        Rows and columns added on all sides, at most half a window; an integer or one for each axis.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    return _pooled(x, window, stride, padding, jnp.maximum, -jnp.inf)


def min_pool(x: Images, window: int | Sequence[int] = 2, *, stride: Any = None, padding: Any = 0) -> Maps:
    """The minimum of each window, −max_pool(−x); parameters as in `max_pool`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> min_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[0.0, 2.0], [8.0, 10.0]]
    """
    return -max_pool(-x, window, stride=stride, padding=padding)


def avg_pool(x: Images, window: int | Sequence[int] = 2, *, stride: Any = None, padding: Any = 0) -> Maps:
    """The mean of each window, padding counted as zeros; parameters as in `max_pool`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> avg_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    kh, kw = per_axis("window", window, 2)
    return _pooled(x, window, stride, padding, jnp.add, 0.0) * jnp.asarray(1 / (kh * kw), x.dtype)


def global_avg_pool(x: Images) -> Float[Array, "batch channels"]:
    """The mean over all places of each image: invariant to circular shifts.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> global_avg_pool(jnp.arange(4.0).reshape(1, 2, 2, 1)).tolist()
    [[1.5]]
    """
    return jnp.mean(x, axis=(1, 2))


def adaptive_avg_pool(x: Images, size: int | Sequence[int]) -> Maps:
    """Means over size × size near-equal windows: bin i of n over m rows is ⌊im/n⌋ to ⌈(i+1)m/n⌉.

    Two small matrix products, so that any input size gives the same output size.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> adaptive_avg_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 1).tolist()
    [[[[7.5]]]]
    """
    n = per_axis("size", size, 2)
    if n == x.shape[1:3]:
        return x
    rows, columns = (_bins(m, k, x.dtype) for m, k in zip(x.shape[1:3], n, strict=True))
    return jnp.einsum("uh,vw,bhwc->buvc", rows, columns, x)


def softmax_pool(
    x: Images, window: int | Sequence[int] = 2, *, stride: Any = None, padding: Any = 0, temperature: Any = 1.0
) -> Maps:
    """Softmax-weighted mean of each window, Σ x·exp(x/τ)/Σ exp(x/τ): between mean (τ → ∞) and maximum (τ → 0).

    Smooth in x; weights are shifted by the window's maximum, so that nothing overflows. Padding has no weight.

    Parameters
    ----------
    x, window, stride, padding
        As in `max_pool`.
    temperature
        τ ≥ 0; 0 is the mean over the maximal entries, infinity the plain mean. May be traced.

    Source: Boureau, Ponce & LeCun (2010), section 3.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> x = jnp.array([0.0, 1.0, 2.0, 3.0]).reshape(1, 2, 2, 1)
    >>> [round(float(softmax_pool(x, temperature=t)[0, 0, 0, 0]), 3) for t in (0.0, 1.0, jnp.inf)]
    [3.0, 2.493, 1.5]
    """
    if not isinstance(temperature, Tracer):
        validation.number(0)("temperature", float(temperature))
    tau = jnp.asarray(temperature, x.dtype)
    parts = _windows(x, window, stride, padding, -jnp.inf)
    top = lax.stop_gradient(reduce(jnp.maximum, parts))
    top_weight = total = jnp.zeros((), x.dtype)
    for part in parts:
        inside = part > -jnp.inf
        gap = jnp.where(inside, part - top, 0)  # ≤ 0; exactly 0 at the maximum, also where τ is 0
        soft = jnp.where(tau > 0, jnp.exp(gap / jnp.where(tau > 0, tau, 1)), (gap == 0).astype(x.dtype))
        weight = jnp.where(inside, soft, 0)
        total = total + weight * gap
        top_weight = top_weight + weight
    return top + total / top_weight


def _pooled(x: Any, window: Any, stride: Any, padding: Any, join: Callable[..., Any], neutral: float) -> Any:
    (kh, kw), s, p = _settings(x, window, stride, padding)
    b, h, w, c = x.shape
    if s == (kh, kw) and p == (0, 0):
        x = x[:, : h // kh * kh, : w // kw * kw]
        tiles = x.reshape(b, h // kh, kh, w // kw, kw, c)
        return reduce(join, [tiles[:, :, i, :, j] for i in range(kh) for j in range(kw)])
    x = _padded(x, p, neutral)
    for axis, k in ((1, kh), (2, kw)):
        count = (x.shape[axis] - k) // s[axis - 1] + 1
        x = reduce(join, [_every(x, axis, i, count, s[axis - 1]) for i in range(k)])
    return x


def _windows(x: Any, window: Any, stride: Any, padding: Any, neutral: float) -> list[Any]:
    """The entries of each window, one array for each place in it."""
    (kh, kw), s, p = _settings(x, window, stride, padding)
    x = _padded(x, p, neutral)
    rows = [_every(x, 1, i, (x.shape[1] - kh) // s[0] + 1, s[0]) for i in range(kh)]
    return [_every(r, 2, j, (x.shape[2] - kw) // s[1] + 1, s[1]) for r in rows for j in range(kw)]


def _settings(x: Any, window: Any, stride: Any, padding: Any) -> Any:
    k = per_axis("window", window, 2)
    s = k if stride is None else per_axis("stride", stride, 2)
    p = tuple(padding) if isinstance(padding, Sequence) else (padding, padding)
    if len(p) != 2:
        raise InputError(f"padding: found {padding!r}, expected an integer or two of them")
    for q, edge, size in zip(p, k, x.shape[1:3], strict=True):
        validation.integer(0)("padding", q)
        if 2 * q > edge:
            raise InputError(f"padding: found {q}, expected at most half the window {edge}")
        if size + 2 * q < edge:
            raise InputError(f"x: found size {size}, expected at least the window {edge}")
    return k, s, p


def _padded(x: Any, p: Any, neutral: float) -> Any:
    if p == (0, 0):
        return x
    return jnp.pad(x, ((0, 0), (p[0], p[0]), (p[1], p[1]), (0, 0)), constant_values=jnp.asarray(neutral, x.dtype))


def _every(x: Any, axis: int, start: int, count: int, step: int) -> Any:
    return lax.slice_in_dim(x, start, start + (count - 1) * step + 1, step, axis)


def _bins(m: int, n: int, dtype: Any) -> Any:
    edges = [(i * m // n, -((-(i + 1) * m) // n)) for i in range(n)]
    return jnp.asarray([[(low <= j < high) / (high - low) for j in range(m)] for low, high in edges], dtype)
