"""The inception module, branches of 1×1, 3×3, 5×5 and pooling side by side, and GoogLeNet, nine of them in a row.

1×1 convolutions narrow the map before the wide kernels: inception (3a) has 163,696 weights. This is the network of the
paper, without its local response normalisation and without the two auxiliary heads, which served training only; the 5×5
branch has 5×5 kernels (torchvision's has 3×3 by mistake, and batch normalisation).
Cost 1.6 G multiply-adds an image at 224 pixels.
Source: Szegedy et al., "Going deeper with convolutions" (2015), table 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.nn._conv import Conv
from corollary.nn._dropout import dropout
from corollary.nn._pool import global_avg_pool, max_pool

Images = Float[Array, "batch height width channels"]
Maps = Float[Array, "batch _ _ _"]

# Per module: 1×1; 1×1 before 3×3, 3×3; 1×1 before 5×5, 5×5; 1×1 behind the pooling. A pooling halves before 3a, 4a, 5a.
MODULES: dict[str, tuple[int, int, int, int, int, int]] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


@final
class Inception(eqx.Module):
    """One inception module: its output channels are the sum of the branches'.

    Parameters
    ----------
    in_channels
        Of the input.
    widths
        (1×1, narrow 3×3, 3×3, narrow 5×5, 5×5, pooled).
    dtype, key
        Precision and key of the weights.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> Inception(8, (2, 3, 4, 1, 2, 3), key=jax.random.key(0))(jnp.zeros((1, 6, 6, 8))).shape
    (1, 6, 6, 11)
    """

    branches: tuple[tuple[Conv, ...], ...]

    def __init__(self, in_channels: int, widths: Sequence[int], *, dtype: Any = None, key: Key[Array, ""]):
        if len(widths) != 6:
            raise InputError(f"widths: found {widths!r}, expected six channel counts")
        one, near, three, far, five, pooled = widths
        keys = iter(jax.random.split(key, 6))

        def conv(a: int, b: int, size: int) -> Conv:
            return Conv(a, b, size, padding=size // 2, dtype=dtype, key=next(keys))

        self.branches = (
            (conv(in_channels, one, 1),),
            (conv(in_channels, near, 1), conv(near, three, 3)),
            (conv(in_channels, far, 1), conv(far, five, 5)),
            (conv(in_channels, pooled, 1),),
        )

    def __call__(self, x: Images) -> Maps:
        """The branches' maps, one behind the other."""
        out = []
        for i, branch in enumerate(self.branches):
            h = max_pool(x, 3, stride=1, padding=1) if i == 3 else x
            for conv in branch:
                h = jax.nn.relu(conv(h))
            out.append(h)
        return jnp.concatenate(out, axis=-1)


@final
class GoogLeNet(eqx.Module):
    """GoogLeNet for images of 224 pixels (at least 32): ``logits = net(x, key=...)``.

    Parameters
    ----------
    classes, in_channels
        Of output and image.
    dropout
        Rate before the last layer; needs a key, or ``inference=True``.
    dtype, key
        Precision and key of the weights.

    Examples
    --------
    >>> import equinox as eqx, jax
    >>> from corollary.nn import parameter_count
    >>> parameter_count(eqx.filter_eval_shape(GoogLeNet, key=jax.random.key(0)))
    6998552
    """

    stem: tuple[Conv, Conv, Conv]
    modules: tuple[Inception, ...]
    head: eqx.nn.Linear
    drop: eqx.nn.Dropout

    def __init__(
        self,
        classes: int = 1000,
        *,
        in_channels: int = 3,
        dropout: float = 0.4,
        dtype: Any = None,
        key: Key[Array, ""],
    ):
        validation.integer(1)("classes", classes)
        validation.number(0, 1)("dropout", dropout)
        keys = jax.random.split(key, len(MODULES) + 4)
        self.stem = (
            Conv(in_channels, 64, 7, stride=2, padding=3, dtype=dtype, key=keys[0]),
            Conv(64, 64, 1, dtype=dtype, key=keys[1]),
            Conv(64, 192, 3, padding=1, dtype=dtype, key=keys[2]),
        )
        modules, channels = [], 192
        for widths, k in zip(MODULES.values(), keys[3:], strict=False):
            modules.append(Inception(channels, widths, dtype=dtype, key=k))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.modules = tuple(modules)
        self.head = eqx.nn.Linear(channels, classes, dtype=dtype, key=keys[-1])
        self.drop = eqx.nn.Dropout(dropout)

    def maps(self, x: Images) -> list[Array]:
        """The stem's map, then that of each module."""
        h = _halved(jax.nn.relu(self.stem[0](x)))
        h = jax.nn.relu(self.stem[2](jax.nn.relu(self.stem[1](h))))
        out = [_halved(h)]
        for name, module in zip(MODULES, self.modules, strict=True):
            out.append(module(_halved(out[-1]) if name in ("4a", "5a") else out[-1]))
        return out

    def __call__(
        self, x: Images, *, key: Key[Array, ""] | None = None, inference: bool = False
    ) -> Float[Array, "batch classes"]:
        """Logits; dropout needs a `key`, or ``inference=True``."""
        h = dropout(self.drop, global_avg_pool(self.maps(x)[-1]), key, inference)
        return jax.vmap(self.head)(h)


def _halved(x: Images) -> Maps:
    """3×3 maxima with stride 2; a last row or column is kept (ceil mode): even sizes are padded by one."""
    h, w = x.shape[1:3]
    grown = ((0, 0), (0, 2 * (-(-(h - 1) // 2)) + 1 - h), (0, 2 * (-(-(w - 1) // 2)) + 1 - w), (0, 0))
    return max_pool(jnp.pad(x, grown, constant_values=jnp.asarray(-jnp.inf, x.dtype)), 3, stride=2)
