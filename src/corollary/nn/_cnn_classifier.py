"""A plain convolutional classifier: (convolution, rectifier, pooling) × depth, then dense layers.

For small images (digits, thumbnails) where a residual network would be too much. Shared kernels make it equivariant to
shifts up to the pooling, which is why it beats a dense network of equal size on shifted patterns.
Cost per image O(Σ places·kernel²·C_in·C_out). Source: LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied
to document recognition" (1998), section II.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.nn._conv import Conv
from corollary.nn._dropout import dropout
from corollary.nn._pool import global_avg_pool, max_pool


@final
class ConvNet(eqx.Module):
    """Convolutional classifier for images (batch, height, width, channels): ``logits = net(x)``.

    Parameters
    ----------
    image_shape
        (height, width, channels).
    classes
        Number of outputs.
    channels
        Output channels of each convolution; each is followed by a rectifier and 2×2 max pooling.
    kernel_size
        Edge of the kernels ("same" padding).
    hidden
        Widths of dense layers before the last.
    pool
        ``"flatten"`` the last map, or take its ``"mean"`` over all places (fewer weights, any image size).
    dropout
        Rate before the last layer; 0 for none.
    dtype
        Precision of the weights.
    key
        Of the initialisation.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> net = ConvNet((28, 28, 1), 10, key=jax.random.key(0))
    >>> net(jnp.zeros((2, 28, 28, 1))).shape, net.features(jnp.zeros((2, 28, 28, 1))).shape
    ((2, 10), (2, 3136))
    """

    convs: tuple[Conv, ...]
    dense: tuple[eqx.nn.Linear, ...]
    drop: eqx.nn.Dropout
    image_shape: tuple[int, int, int] = eqx.field(static=True)
    pool: str = eqx.field(static=True)

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        channels: Sequence[int] = (32, 64),
        *,
        kernel_size: int = 3,
        hidden: Sequence[int] = (),
        pool: str = "flatten",
        dropout: float = 0.0,
        dtype: Any = None,
        key: Key[Array, ""],
    ):
        if len(image_shape) != 3:
            raise InputError(f"image_shape: found {tuple(image_shape)}, expected (height, width, channels)")
        validation.integer(1)("classes", classes)
        validation.one_of("flatten", "mean")("pool", pool)
        validation.number(0, 1)("dropout", dropout)
        height, width, depth = (int(s) for s in image_shape)
        shrink = 2 ** len(channels)
        if min(height, width) < shrink:
            raise InputError(f"image_shape: found {height} x {width}, expected at least {shrink} for the poolings")
        keys = iter(jax.random.split(key, len(channels) + len(hidden) + 1))
        widths = (depth, *channels)
        self.convs = tuple(Conv(a, b, kernel_size, dtype=dtype, key=next(keys)) for a, b in itertools.pairwise(widths))
        places = (height // shrink) * (width // shrink)
        sizes = (widths[-1] * (places if pool == "flatten" else 1), *hidden, classes)
        self.dense = tuple(eqx.nn.Linear(a, b, dtype=dtype, key=next(keys)) for a, b in itertools.pairwise(sizes))
        self.drop = eqx.nn.Dropout(dropout)
        self.image_shape, self.pool = (height, width, depth), pool

    def maps(self, x: Float[Array, "batch height width channels"]) -> list[Array]:
        """The map behind each pooling."""
        if x.shape[-1] != self.image_shape[-1] or (self.pool == "flatten" and x.shape[1:] != self.image_shape):
            raise InputError(f"x: found images of shape {x.shape[1:]}, expected {self.image_shape}")
        out = []
        for conv in self.convs:
            x = max_pool(jax.nn.relu(conv(x)))
            out.append(x)
        return out

    def features(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch features"]:
        """What the dense layers read."""
        last = self.maps(x)[-1] if self.convs else x
        return global_avg_pool(last) if self.pool == "mean" else last.reshape(x.shape[0], math.prod(last.shape[1:]))

    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        *,
        key: Key[Array, ""] | None = None,
        inference: bool = False,
    ) -> Float[Array, "batch classes"]:
        """Logits; dropout of a rate above 0 needs a `key`, or ``inference=True``."""
        h = self.features(x)
        for layer in self.dense[:-1]:
            h = jax.nn.relu(jax.vmap(layer)(h))
        h = dropout(self.drop, h, key, inference)
        return jax.vmap(self.dense[-1])(h)

    def probabilities(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        """Softmax of the logits."""
        return jax.nn.softmax(self(x, inference=True))
