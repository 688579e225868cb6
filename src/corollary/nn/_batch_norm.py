"""Batch normalisation, batch first: y = γ·(x − μ)/√(σ² + ε) + β over all axes but the last.

In training μ and σ² are those of the batch (σ² with divisor n) and move the running statistics (variance with divisor
n − 1); in inference the running ones are used. Statistics are taken in float32 at least. Cost O(size of x).
Source: Ioffe & Szegedy, "Batch normalization" (2015), algorithms 1 and 2.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.nn._conv import Conv


@final
class BatchNorm(eqx.Module):
    """Normalise each channel over the batch (and over all places of an image), channels last.

    Unlike `equinox.nn.BatchNorm` it takes the whole batch, without `vmap` and axis names. Make the network that holds
    it by `equinox.nn.make_with_state`; the running statistics live in the state.

    Parameters
    ----------
    channels
        Length of the last axis.
    momentum
        Share of the old running statistics that is kept at each step.
    eps
        Added to the variance. A constant channel gives β.
    zero_scale
        Start with γ = 0: the layer, and a residual block that ends with it, starts without effect.
    affine
        Learn γ and β.
    dtype
        Precision of γ, β and of the running statistics.

    Raises
    ------
    InputError
        For another number of channels, or in training for a batch with one value per channel: its variance is 0.

    Examples
    --------
    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> norm, state = eqx.nn.make_with_state(BatchNorm)(3)
    >>> x = 5 + 2 * jax.random.normal(jax.random.key(0), (64, 8, 8, 3))
    >>> y, state = norm(x, state)
    >>> bool(jnp.all(jnp.abs(y.mean((0, 1, 2))) < 1e-4)), bool(jnp.all(jnp.abs(y.var((0, 1, 2)) - 1) < 1e-3))
    (True, True)
    """

    scale: Float[Array, " channels"] | None
    bias: Float[Array, " channels"] | None
    running: eqx.nn.StateIndex
    momentum: float = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        *,
        momentum: float = 0.9,
        eps: float = 1e-5,
        zero_scale: bool = False,
        affine: bool = True,
        dtype: Any = None,
    ):
        validation.integer(1)("channels", channels)
        validation.number(0, 1)("momentum", momentum)
        validation.number(0, open_low=True)("eps", eps)
        dtype = jnp.zeros(()).dtype if dtype is None else jnp.dtype(dtype)
        start = jnp.zeros if zero_scale else jnp.ones
        self.scale = start(channels, dtype) if affine else None
        self.bias = jnp.zeros(channels, dtype) if affine else None
        self.running = eqx.nn.StateIndex((jnp.zeros(channels, dtype), jnp.ones(channels, dtype)))
        self.momentum, self.eps = float(momentum), float(eps)

    def __call__(
        self, x: Float[Array, "batch *space channels"], state: eqx.nn.State, *, inference: bool = False
    ) -> tuple[Float[Array, "batch *space channels"], eqx.nn.State]:
        """The normalised batch and the new state."""
        mean, variance = state.get(self.running)
        if x.shape[-1] != mean.shape[0]:
            raise InputError(f"x: found {x.shape[-1]} channels, expected {mean.shape[0]}")
        wide = x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)
        if not inference:
            axes = tuple(range(x.ndim - 1))
            n = x.size // x.shape[-1]
            if n < 2:
                raise InputError(f"x: found shape {x.shape}, expected at least two values per channel in training")
            mean_now = jnp.mean(wide, axes)
            variance_now = jnp.mean(jnp.square(wide - mean_now), axes)
            keep = self.momentum
            unbiased = variance_now * (n / (n - 1))
            moved = (
                keep * mean + (1 - keep) * jax.lax.stop_gradient(mean_now).astype(mean.dtype),
                keep * variance + (1 - keep) * jax.lax.stop_gradient(unbiased).astype(mean.dtype),
            )
            state = state.set(self.running, moved)
            mean, variance = mean_now, variance_now
        mean, variance = mean.astype(wide.dtype), variance.astype(wide.dtype)
        factor = jax.lax.rsqrt(variance + self.eps)
        if self.scale is not None:
            factor = factor * self.scale.astype(wide.dtype)
        y = (wide - mean) * factor
        if self.bias is not None:
            y = y + self.bias.astype(wide.dtype)
        return y.astype(x.dtype), state


@final
class ConvNorm(eqx.Module):
    """Convolution without bias, batch normalisation and, with ``relu=True``, a rectifier: the brick of ResNets.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, groups
        As in `Conv`.
    relu
        End with max(0, ·).
    zero_scale, momentum, eps, dtype
        As in `BatchNorm`.
    key
        Of the kernel.

    Examples
    --------
    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> brick, state = eqx.nn.make_with_state(ConvNorm)(3, 8, 3, key=jax.random.key(0))
    >>> brick(jnp.ones((2, 6, 6, 3)), state)[0].shape
    (2, 6, 6, 8)
    """

    conv: Conv
    norm: BatchNorm
    relu: bool = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: Any = "SAME",
        groups: int = 1,
        relu: bool = True,
        zero_scale: bool = False,
        momentum: float = 0.9,
        eps: float = 1e-5,
        dtype: Any = None,
        key: Key[Array, ""],
    ):
        self.conv = Conv(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            groups=groups,
            use_bias=False,
            dtype=dtype,
            key=key,
        )
        self.norm = BatchNorm(out_channels, momentum=momentum, eps=eps, zero_scale=zero_scale, dtype=dtype)
        self.relu = relu

    def __call__(
        self, x: Float[Array, "batch *space channels"], state: eqx.nn.State, *, inference: bool = False
    ) -> tuple[Float[Array, "batch *places out_channels"], eqx.nn.State]:
        """The normalised convolution and the new state."""
        y, state = self.norm(self.conv(x), state, inference=inference)
        return (jax.nn.relu(y) if self.relu else y), state
