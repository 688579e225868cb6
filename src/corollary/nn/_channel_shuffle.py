"""Channel shuffle: mixes the groups of a grouped convolution by a fixed permutation, at no cost in arithmetic.

With g groups of n channels, channel (i, j) moves to (j, i): a transposition of the g × n table of channels, whose
inverse is the shuffle with n groups. Source: Zhang, Zhou, Lin & Sun, "ShuffleNet" (2018), section 3.1 and figure 1.
"""

from __future__ import annotations

from jaxtyping import Array, Shaped

from corollary.core import validation
from corollary.core.errors import InputError


def channel_shuffle(
    x: Shaped[Array, "*axes channels"], groups: int, *, inverse: bool = False
) -> Shaped[Array, "*axes channels"]:
    """Permute the last axis: channel i·n + j goes to place j·g + i, for g groups of n channels.

    Parameters
    ----------
    x
        Any array, channels last.
    groups
        A divisor of the number of channels.
    inverse
        Undo a shuffle with the same `groups`.

    Raises
    ------
    InputError
        Where the groups do not divide the channels.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> y = channel_shuffle(jnp.arange(6), 2)
    >>> y.tolist(), channel_shuffle(y, 2, inverse=True).tolist()
    ([0, 3, 1, 4, 2, 5], [0, 1, 2, 3, 4, 5])
    """
    validation.integer(1)("groups", groups)
    validation.flag("inverse", inverse)
    channels = x.shape[-1]
    if channels % groups:
        raise InputError(f"groups: found {groups}, expected a divisor of {channels} channels")
    first = channels // groups if inverse else groups
    return x.reshape(*x.shape[:-1], first, channels // first).swapaxes(-1, -2).reshape(x.shape)
