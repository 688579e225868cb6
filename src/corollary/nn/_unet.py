"""U-Net: a contracting and an expanding path with skips, from an image to a map of the same size.

For per-pixel labels, and as the noise predictor of diffusion models (with a time embedding). With ``padding="VALID"``
it is the paper's network, 572 pixels in and 388 out, whose skips are cropped; with ``"SAME"`` sizes are kept and must
be divisible by 2^levels. Cost per image O(Σ places·9·C²).
Source: Ronneberger, Fischer & Brox, "U-Net: convolutional networks for biomedical image segmentation" (2015), figure 1;
Ho, Jain & Abbeel, "Denoising diffusion probabilistic models" (2020), appendix B, for the time embedding.
"""

from __future__ import annotations

import math
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.nn._conv import Conv
from corollary.nn._pool import max_pool

Images = Float[Array, "batch height width channels"]
Maps = Float[Array, "batch _ _ _"]


@final
class UNet(eqx.Module):
    """U-Net: ``y = net(x)`` or ``net(x, time)``.

    Parameters
    ----------
    in_channels, out_channels
        Of image and map.
    width
        Channels of the first level; they double at each level.
    levels
        Number of 2×2 poolings.
    padding
        ``"SAME"`` or ``"VALID"``.
    time_features
        Length of the time embedding; 0 for none.
    dtype, key
        Precision and key of the weights.

    Examples
    --------
    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> net = UNet(1, 2, width=4, levels=2, key=jax.random.key(0))
    >>> net(jnp.zeros((1, 8, 12, 1))).shape
    (1, 8, 12, 2)
    >>> paper = eqx.filter_eval_shape(UNet, 1, 2, padding="VALID", key=jax.random.key(0))
    >>> eqx.filter_eval_shape(paper, jax.ShapeDtypeStruct((1, 572, 572, 1), jnp.float32)).shape
    (1, 388, 388, 2)
    """

    down: tuple[tuple[Conv, Conv], ...]
    up: tuple[Conv, ...]
    merge: tuple[tuple[Conv, Conv], ...]
    last: Conv
    shifts: tuple[eqx.nn.Linear, ...]
    padding: str = eqx.field(static=True)
    time_features: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 64,
        levels: int = 4,
        padding: str = "SAME",
        time_features: int = 0,
        dtype: Any = None,
        key: Key[Array, ""],
    ):
        validation.integer(1)("width", width)
        validation.integer(1)("levels", levels)
        validation.one_of("SAME", "VALID")("padding", padding)
        validation.integer(0)("time_features", time_features)
        if time_features % 2:
            raise InputError(f"time_features: found {time_features}, expected an even number")
        keys = iter(jax.random.split(key, 7 * levels + 5))

        def double(a: int, b: int) -> tuple[Conv, Conv]:
            return (
                Conv(a, b, 3, padding=padding, dtype=dtype, key=next(keys)),
                Conv(b, b, 3, padding=padding, dtype=dtype, key=next(keys)),
            )

        widths = [width * 2**i for i in range(levels + 1)]
        self.down = tuple(double(a, b) for a, b in zip([in_channels, *widths], widths, strict=False))
        # A transposed 2×2 convolution with stride 2 is a 1×1 convolution to four phases.
        self.up = tuple(Conv(2 * w, 4 * w, 1, use_bias=False, dtype=dtype, key=next(keys)) for w in widths[-2::-1])
        self.merge = tuple(double(2 * w, w) for w in widths[-2::-1])
        self.last = Conv(width, out_channels, 1, dtype=dtype, key=next(keys))
        self.shifts = tuple(
            eqx.nn.Linear(time_features, w, dtype=dtype, key=next(keys)) for w in (widths if time_features else ())
        )
        self.padding, self.time_features = padding, time_features

    def __call__(
        self,
        x: Images,
        time: Float[Array, " batch"] | None = None,
        *,
        key: Key[Array, ""] | None = None,
        inference: bool = False,
    ) -> Maps:
        """The map; `time` where the network was made with `time_features`. `key` and `inference` are not used."""
        levels = len(self.up)
        if self.padding == "SAME" and any(n % 2**levels for n in x.shape[1:3]):
            raise InputError(f"x: found images of {x.shape[1:3]}, expected sizes divisible by {2**levels}")
        if (time is None) != (not self.shifts):
            raise InputError("time: expected exactly where the network was made with time_features > 0")
        embedded = None if time is None else time_embedding(time, self.time_features).astype(x.dtype)
        kept = []
        for i, pair in enumerate(self.down):
            x = pair[0](x)
            if embedded is not None:
                x = x + jax.vmap(self.shifts[i])(embedded)[:, None, None]
            x = jax.nn.relu(pair[1](jax.nn.relu(x)))
            if i < levels:
                if self.padding == "VALID" and any(n % 2 for n in x.shape[1:3]):
                    raise InputError(f"x: found a map of {x.shape[1:3]} at level {i}, expected even sizes")
                kept.append(x)
                x = max_pool(x)
        for up, pair, skip in zip(self.up, self.merge, reversed(kept), strict=True):
            x = _spread(up(x))
            top, left = ((a - b) // 2 for a, b in zip(skip.shape[1:3], x.shape[1:3], strict=True))
            skip = skip[:, top : top + x.shape[1], left : left + x.shape[2]]
            x = jnp.concatenate([skip, x], axis=-1)
            for conv in pair:
                x = jax.nn.relu(conv(x))
        return self.last(x)


def time_embedding(time: Float[Array, " batch"], features: int) -> Float[Array, "batch features"]:
    """Sines and cosines of `time` at geometric frequencies from 1 to 1/10000.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> time_embedding(jnp.array([0.0]), 4).tolist()
    [[0.0, 0.0, 1.0, 1.0]]
    """
    validation.integer(2)("features", features)
    half = features // 2
    rates = jnp.exp(-math.log(10_000) * jnp.arange(half, dtype=time.dtype) / max(half - 1, 1))
    angles = time[:, None] * rates
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _spread(x: Images) -> Maps:
    """Four phases of channels (row, column, channel) to a map of twice the size."""
    b, h, w, c = x.shape
    return x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c // 4)
