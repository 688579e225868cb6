"""AlexNet in one tower: five convolutions, three overlapping poolings, three dense layers; about 61 M weights.

Kept for comparison and for old weights: a ResNet-18 is smaller, cheaper and better. Maps of 55, 27, 13, 13, 13 and 6:
the first convolution (11×11, stride 4) gives 55 from 227 pixels without padding, from 224 only with padding 2.
Cost 0.7 G multiply-adds an image. Source: Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep
convolutional neural networks" (2012), section 3.5; Krizhevsky, "One weird trick for parallelizing convolutional neural
networks" (2014), the single tower with 64 first filters.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.nn._conv import Conv
from corollary.nn._dropout import dropout
from corollary.nn._pool import adaptive_avg_pool, max_pool

Images = Float[Array, "batch height width channels"]
Maps = Float[Array, "batch _ _ _"]


@final
class AlexNet(eqx.Module):
    """AlexNet (single tower) for images of 224 or 227 pixels: ``logits = net(x, key=...)``.

    Parameters
    ----------
    classes, in_channels
        Of output and image.
    padding
        Of the first convolution: 2 for 224 pixels, 0 for 227.
    dropout
        Rate before the two wide dense layers; needs a key, or ``inference=True``.
    dtype, key
        Precision and key of the weights.

    Examples
    --------
    >>> import equinox as eqx, jax
    >>> from corollary.nn import parameter_count
    >>> parameter_count(eqx.filter_eval_shape(AlexNet, key=jax.random.key(0)))
    61100840
    """

    convs: tuple[Conv, ...]
    dense: tuple[eqx.nn.Linear, ...]
    drop: eqx.nn.Dropout

    def __init__(
        self,
        classes: int = 1000,
        *,
        in_channels: int = 3,
        padding: int = 2,
        dropout: float = 0.5,
        dtype: Any = None,
        key: Key[Array, ""],
    ):
        validation.integer(1)("classes", classes)
        validation.number(0, 1)("dropout", dropout)
        keys = jax.random.split(key, 8)
        layout = ((64, 11, 4, padding), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
        convs, channels = [], in_channels
        for k, (out, size, stride, pad) in zip(keys, layout, strict=False):
            convs.append(Conv(channels, out, size, stride=stride, padding=pad, dtype=dtype, key=k))
            channels = out
        self.convs = tuple(convs)
        self.dense = wide_head(256 * 6 * 6, classes, dtype, keys[5:])
        self.drop = eqx.nn.Dropout(dropout)

    def maps(self, x: Images) -> list[Array]:
        """The first convolution's map and the inputs of all that follow: 55, 27, 13, 13, 13, 6 pixels wide."""
        first = jax.nn.relu(self.convs[0](x))
        out = [first, max_pool(first, 3, stride=2)]
        for i, conv in enumerate(self.convs[1:], 1):
            h = jax.nn.relu(conv(out[-1]))
            out.append(max_pool(h, 3, stride=2) if i in (1, 4) else h)
        return out

    def __call__(
        self, x: Images, *, key: Key[Array, ""] | None = None, inference: bool = False
    ) -> Float[Array, "batch classes"]:
        """Logits; dropout needs a `key`, or ``inference=True``."""
        h = adaptive_avg_pool(self.maps(x)[-1], 6).reshape(x.shape[0], -1)
        return dense_head(self.dense, self.drop, h, key, inference, first=True)


def wide_head(features: int, classes: int, dtype: Any, keys: Any) -> tuple[eqx.nn.Linear, ...]:
    """Dense layers of 4096, 4096 and `classes`."""
    sizes = (features, 4096, 4096, classes)
    return tuple(eqx.nn.Linear(a, b, dtype=dtype, key=k) for a, b, k in zip(sizes, sizes[1:], keys, strict=False))


def dense_head(
    layers: tuple[eqx.nn.Linear, ...],
    drop: eqx.nn.Dropout,
    h: Float[Array, "batch features"],
    key: Key[Array, ""] | None,
    inference: bool,
    first: bool,
) -> Float[Array, "batch classes"]:
    """Dense layers with rectifiers; dropout before the hidden layers (``first=True``) or behind them."""
    keys = (None, None) if key is None else jax.random.split(key, 2)
    for layer, k in zip(layers[:-1], keys, strict=True):
        h = dropout(drop, h, k, inference) if first else h
        h = jax.nn.relu(jax.vmap(layer)(h))
        h = h if first else dropout(drop, h, k, inference)
    return jax.vmap(layers[-1])(h)
