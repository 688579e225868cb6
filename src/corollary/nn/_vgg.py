"""VGG: nothing but 3×3 convolutions and 2×2 poolings; two of them see 5×5 pixels with 18C² weights against 25C².

A simple feature extractor (perceptual losses, style transfer); as a classifier a ResNet is cheaper and better.
Cost 15.5 G multiply-adds an image at depth 16 and 224 pixels. Source: Simonyan & Zisserman, "Very deep convolutional
networks for large-scale image recognition" (2015), table 1 (A, B, D, E) and section 2.3.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.nn._alexnet import dense_head, wide_head
from corollary.nn._conv import Conv
from corollary.nn._pool import adaptive_avg_pool, max_pool

Images = Float[Array, "batch height width channels"]

BLOCKS: dict[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


@final
class VGG(eqx.Module):
    """VGG 11, 13, 16 or 19 without batch normalisation: ``logits = net(x, key=...)``.

    Parameters
    ----------
    depth
        11, 13, 16 or 19 layers with weights.
    classes, in_channels
        Of output and image (at least 32×32 pixels).
    dropout
        Rate behind the two wide dense layers; needs a key, or ``inference=True``.
    dtype, key
        Precision and key of the weights.

    Examples
    --------
    >>> import equinox as eqx, jax
    >>> from corollary.nn import parameter_count
    >>> parameter_count(eqx.filter_eval_shape(VGG, 16, key=jax.random.key(0)))
    138357544
    """

    blocks: tuple[tuple[Conv, ...], ...]
    dense: tuple[eqx.nn.Linear, ...]
    drop: eqx.nn.Dropout

    def __init__(
        self,
        depth: int = 16,
        classes: int = 1000,
        *,
        in_channels: int = 3,
        dropout: float = 0.5,
        dtype: Any = None,
        key: Key[Array, ""],
    ):
        validation.one_of(*BLOCKS)("depth", depth)
        validation.integer(1)("classes", classes)
        validation.number(0, 1)("dropout", dropout)
        counts = BLOCKS[depth]
        keys = iter(jax.random.split(key, sum(counts) + 3))
        blocks, channels = [], in_channels
        for count, out in zip(counts, (64, 128, 256, 512, 512), strict=True):
            block = []
            for _ in range(count):
                block.append(Conv(channels, out, 3, padding=1, dtype=dtype, key=next(keys)))
                channels = out
            blocks.append(tuple(block))
        self.blocks = tuple(blocks)
        self.dense = wide_head(512 * 7 * 7, classes, dtype, list(keys))
        self.drop = eqx.nn.Dropout(dropout)

    def maps(self, x: Images) -> list[Array]:
        """The map behind each of the five poolings."""
        out = []
        for block in self.blocks:
            for conv in block:
                x = jax.nn.relu(conv(x))
            x = max_pool(x)
            out.append(x)
        return out

    def __call__(
        self, x: Images, *, key: Key[Array, ""] | None = None, inference: bool = False
    ) -> Float[Array, "batch classes"]:
        """Logits; dropout needs a `key`, or ``inference=True``."""
        h = adaptive_avg_pool(self.maps(x)[-1], 7).reshape(x.shape[0], -1)
        return dense_head(self.dense, self.drop, h, key, inference, first=False)
