"""A locally connected layer: a convolution whose kernel differs from place to place.

For inputs without shift invariance (aligned faces, sensors at fixed places). It has positions times the weights of a
convolution, (kh·kw·C + 1)·positions·K with biases; with tied kernels it is the convolution. Cost and memory
O(batch·positions·kh·kw·C·K) and O(positions·kh·kw·C·K).
Source: Goodfellow, Bengio & Courville, "Deep learning" (2016), section 9.5, equation 9.9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.nn._conv import per_axis
from corollary.nn._conv_arithmetic import conv_output_size
from corollary.nn._conv_kernels import patches


def locally_connected(
    x: Float[Array, "batch height width channels"],
    kernels: Float[Array, "out_height out_width kh kw channels filters"],
    *,
    stride: int | Sequence[int] = 1,
) -> Float[Array, "batch out_height out_width filters"]:
    """Unshared convolution without padding: y[n, u, v] = Σ x[n, su + i, sv + j, c]·kernels[u, v, i, j, c].

    Parameters
    ----------
    x
        Images.
    kernels
        One kernel for each output place.
    stride
        Distance between places, per axis.

    Raises
    ------
    InputError
        Where the number of places does not fit.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    >>> locally_connected(x, jnp.ones((2, 2, 2, 2, 1, 1)))[0, :, :, 0].tolist()
    [[8.0, 12.0], [20.0, 24.0]]
    """
    steps = per_axis("stride", stride, 2)
    places = tuple(
        conv_output_size(n, k, stride=s) for n, k, s in zip(x.shape[1:3], kernels.shape[2:4], steps, strict=True)
    )
    if kernels.shape[:2] != places or kernels.shape[4] != x.shape[3]:
        raise InputError(
            f"kernels: found {kernels.shape}, expected places {places} and {x.shape[3]} input channels for these images"
        )
    kh, kw = kernels.shape[2:4]
    columns = patches(x, (kh, kw), places, (steps[0], steps[1]))
    return jnp.einsum("buvp,uvpk->buvk", columns, kernels.reshape(*places, -1, kernels.shape[5]))


@final
class LocallyConnected(eqx.Module):
    """Locally connected layer with a bias at each place: ``y = layer(x)``.

    Parameters
    ----------
    image_shape
        (height, width, channels) of the input.
    filters
        Output channels.
    kernel_size, stride
        Per axis; no padding.
    use_bias
        Add a bias for each place and filter.
    dtype, key
        Precision and key of the weights (He normal).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> layer = LocallyConnected((6, 5, 2), 3, 3, key=jax.random.key(0))
    >>> layer(jnp.zeros((4, 6, 5, 2))).shape, layer.kernels.size + layer.bias.size == (3 * 3 * 2 + 1) * (4 * 3) * 3
    ((4, 4, 3, 3), True)
    """

    kernels: Float[Array, "out_height out_width kh kw channels filters"]
    bias: Float[Array, "out_height out_width filters"] | None
    stride: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        image_shape: Sequence[int],
        filters: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        stride: int | Sequence[int] = 1,
        use_bias: bool = True,
        dtype: Any = None,
        key: Key[Array, ""],
    ):
        if len(image_shape) != 3:
            raise InputError(f"image_shape: found {tuple(image_shape)}, expected (height, width, channels)")
        validation.integer(1)("filters", filters)
        window, self.stride = per_axis("kernel_size", kernel_size, 2), per_axis("stride", stride, 2)
        places = tuple(
            conv_output_size(n, k, stride=s) for n, k, s in zip(image_shape, window, self.stride, strict=False)
        )
        dtype = jnp.zeros(()).dtype if dtype is None else jnp.dtype(dtype)
        shape = (*places, *window, image_shape[2], filters)
        factor = math.sqrt(2 / math.prod(shape[2:5]))
        self.kernels = jax.random.normal(key, shape, dtype) * jnp.asarray(factor, dtype)
        self.bias = jnp.zeros((*places, filters), dtype) if use_bias else None

    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width filters"]:
        """The unshared convolution of a batch."""
        y = locally_connected(x, self.kernels, stride=self.stride)
        return y if self.bias is None else y + self.bias
