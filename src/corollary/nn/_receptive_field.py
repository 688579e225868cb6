"""Receptive fields: which inputs a unit of a convolutional network can see.

For layers with kernel k, stride s, dilation d and padding p: r_l = r_{l−1} + d(k − 1)·j_{l−1}, j_l = s·j_{l−1}, from
r_0 = j_0 = 1. For any differentiable function the set is the support of a row of its Jacobian; a zero there may be an
accident of the weights, so give it positive weights (or several draws) to see the graph.
Cost O(layers), or one reverse pass. Source: Araujo, Norris & Sim, "Computing receptive fields of convolutional neural
networks" (2019), equations 2 to 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from corollary.core import validation
from corollary.core.errors import InputError


class ReceptiveField(eqx.Module):
    """Receptive fields along one axis, behind each layer.

    Parameters
    ----------
    sizes
        Inputs that a unit can see.
    jumps
        Distance of neighbouring units' fields.
    starts
        First input of unit 0's field; negative where padding is read.
    """

    sizes: tuple[int, ...] = eqx.field(static=True)
    jumps: tuple[int, ...] = eqx.field(static=True)
    starts: tuple[int, ...] = eqx.field(static=True)

    @property
    def size(self) -> int:
        """Of the last layer."""
        return self.sizes[-1]

    @property
    def jump(self) -> int:
        """Of the last layer."""
        return self.jumps[-1]

    @property
    def offset(self) -> float:
        """The centre of the last layer's unit 0, in input coordinates."""
        return self.starts[-1] + (self.sizes[-1] - 1) / 2

    def interval(self, unit: int, length: int | None = None) -> range:
        """The inputs between the ends of the field of `unit` of the last layer, within an input of `length`.

        With dilated or strided layers some inputs between the ends may not be read.
        """
        start = self.starts[-1] + unit * self.jumps[-1]
        stop = start + self.sizes[-1]
        return range(start, stop) if length is None else range(max(start, 0), max(min(stop, length), 0))


def receptive_field(layers: Sequence[Sequence[int]]) -> ReceptiveField:
    """Receptive fields of a chain of convolutions and poolings along one axis.

    Parameters
    ----------
    layers
        (kernel, stride, dilation, padding) for each layer; later entries may be left out (1, 1, 0).

    Raises
    ------
    InputError
        For an empty chain or sizes out of range.

    Examples
    --------
    >>> receptive_field([(3,), (3,)]).size  # two 3-wide layers see as much as one of width 5
    5
    >>> vgg16 = [layer for n in (2, 2, 3, 3, 3) for layer in [(3, 1, 1, 1)] * n + [(2, 2)]]
    >>> receptive_field(vgg16).size
    212
    """
    if not layers:
        raise InputError("layers: found none, expected at least one")
    sizes, jumps, starts = [1], [1], [0]
    for layer in layers:
        if not 1 <= len(layer) <= 4:
            raise InputError(f"layers: found {tuple(layer)}, expected (kernel, stride, dilation, padding)")
        k, s, d, p = (*layer, *(1, 1, 1, 0)[len(layer) :])
        for name, value in (("kernel", k), ("stride", s), ("dilation", d)):
            validation.integer(1)(name, value)
        validation.integer(0)("padding", p)
        sizes.append(sizes[-1] + d * (k - 1) * jumps[-1])
        starts.append(starts[-1] - p * jumps[-1])
        jumps.append(jumps[-1] * s)
    return ReceptiveField(tuple(sizes[1:]), tuple(jumps[1:]), tuple(starts[1:]))


def receptive_set(function: Callable[[Array], Array], x: Array, unit: tuple[int, ...]) -> Bool[Array, "..."]:
    """Which entries of x the output entry `unit` depends on at x: the support of its gradient, as a mask.

    Parameters
    ----------
    function
        From x to an array; for a linear map x ↦ W x the set is {j: W_ij ≠ 0}.
    x
        The input at which the gradient is taken.
    unit
        Index of one entry of the output.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> W = jnp.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
    >>> receptive_set(lambda x: W @ x, jnp.ones(3), (0,)).tolist()
    [True, False, True]
    """

    def one(x: Any) -> Any:
        y = function(x)
        if len(unit) != y.ndim or any(not -n <= i < n for i, n in zip(unit, y.shape, strict=True)):
            raise InputError(f"unit: found {unit}, expected an index into an output of shape {y.shape}")
        return y[unit]

    return jnp.asarray(jax.grad(one)(x) != 0)
