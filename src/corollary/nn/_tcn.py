"""Temporal convolution network: causal dilated convolutions with residuals, for sequences (batch, length, channels).

Output t reads inputs up to t only; with dilations 1, 2, 4, ... the reach 1 + 2(k − 1)(2^levels − 1) grows exponentially
with depth. Trains in parallel over time, where a recurrent network steps. Cost O(batch·length·k·C²·levels).
Source: Bai, Kolter & Koltun, "An empirical evaluation of generic convolutional and recurrent networks for sequence
modeling" (2018), section 3 (its weight normalisation is left out).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.nn._conv import Conv
from corollary.nn._dropout import dropout

Sequences = Float[Array, "batch length channels"]


@final
class TCN(eqx.Module):
    """Causal dilated residual convolutions: ``y = net(x)``, (batch, length, in) to (batch, length, channels[-1]).

    Parameters
    ----------
    in_channels
        Of the sequences.
    channels
        Output channels of each level; level i has dilation 2^i.
    kernel_size
        Taps of each of the two convolutions of a level.
    dropout
        Rate behind each convolution; above 0 it needs a key, or ``inference=True``.
    dtype, key
        Precision and key of the weights.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> net = TCN(3, (8, 8), key=jax.random.key(0))
    >>> net(jnp.zeros((2, 20, 3))).shape, net.reach
    ((2, 20, 8), 13)
    """

    levels: tuple[tuple[Conv, Conv], ...]
    skips: tuple[Conv | None, ...]
    drop: eqx.nn.Dropout

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        *,
        kernel_size: int = 3,
        dropout: float = 0.0,
        dtype: Any = None,
        key: Key[Array, ""],
    ):
        validation.integer(1)("kernel_size", kernel_size)
        validation.number(0, 1)("dropout", dropout)
        keys = iter(jax.random.split(key, 3 * len(channels)))
        levels, skips = [], []
        for i, (a, b) in enumerate(zip((in_channels, *channels), channels, strict=False)):
            past: dict[str, Any] = {"dims": 1, "dilation": 2**i, "padding": (((kernel_size - 1) * 2**i, 0),)}
            levels.append(
                (
                    Conv(a, b, kernel_size, dtype=dtype, key=next(keys), **past),
                    Conv(b, b, kernel_size, dtype=dtype, key=next(keys), **past),
                )
            )
            skip = next(keys)
            skips.append(None if a == b else Conv(a, b, 1, dims=1, dtype=dtype, key=skip))
        self.levels, self.skips = tuple(levels), tuple(skips)
        self.drop = eqx.nn.Dropout(dropout)

    @property
    def reach(self) -> int:
        """How many inputs, the present one included, an output reads."""
        return 1 + sum(2 * (pair[0].kernel.shape[0] - 1) * pair[0].dilation[0] for pair in self.levels)

    def __call__(
        self, x: Sequences, *, key: Key[Array, ""] | None = None, inference: bool = False
    ) -> Float[Array, "batch length _"]:
        """The sequences of the last level; dropout of a rate above 0 needs a `key`, or ``inference=True``."""
        keys = [None] * (2 * len(self.levels)) if key is None else list(jax.random.split(key, 2 * len(self.levels)))
        for pair, skip in zip(self.levels, self.skips, strict=True):
            h = x
            for conv in pair:
                h = dropout(self.drop, jax.nn.relu(conv(h)), keys.pop(0), inference)
            x = jax.nn.relu(h + (x if skip is None else skip(x)))
        return x
