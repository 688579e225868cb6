"""Norm loss: a soft pull of every output unit's weights to unit norm, instead of to zero.

Adds the gradient of c·Σ_o (1 − ‖w_o‖)², that is 2c(1 − 1/‖w_o‖)w_o, to the gradient of each leaf of two dimensions or
more. Its fixed points have ‖w_o‖ = 1. Use it in place of weight decay in networks with normalisation layers.
Cost: O(n). Source: Georgiou, Schmitt, Bäck, Chen & Lew, "Norm loss: an efficient yet effective regularization method
for deep neural networks" (2021), eqs. (6) to (8).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.optim._tree import norm
from corollary.optim.transforms._transform import after, at, check, counter, rule


class NormLossState(NamedTuple):
    """Steps taken, for a scheduled factor."""

    count: Array


def norm_loss(factor: Any = 0.01, *, output_axis: int = 0) -> optax.GradientTransformationExtraArgs:
    """Add the gradient of factor·Σ_o (1 − ‖w_o‖)² over the output units of each weight.

    Parameters
    ----------
    factor
        c ≥ 0, number or schedule.
    output_axis
        Which axis counts output units: 0 as in Equinox's linear layers, −1 for kernels that end in output channels.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        To be chained before the optimizer; it needs the parameters.

    Raises
    ------
    InputError
        For a negative factor, and a call without parameters.

    Notes
    -----
    Leaves of less than two dimensions pass unchanged; a unit of norm 0 gets no pull.
    Memory: none. Cost: O(n). Defaults: 0.01 of Georgiou et al., section 4. When: weight decay is used for scale only.

    Examples
    --------
    >>> opt, w = norm_loss(0.5), jnp.array([[3.0, 4.0], [0.6, 0.8]])
    >>> print(opt.update(jnp.zeros((2, 2)), opt.init(w), w)[0].round(6) + 0.0)
    [[2.4 3.2]
     [0. 0. ]]
    """
    check("factor", factor, 0.0)
    validation.integer(-8)("output_axis", output_axis)

    def update(grads: PyTree, state: NormLossState, params: PyTree, **_: Any) -> tuple[PyTree, NormLossState]:
        c = at(factor, state.count)
        new = jax.tree.map(lambda g, p: g + c * unit_pull(p, output_axis), grads, params)
        return new, NormLossState(after(state.count))

    return rule(lambda params: NormLossState(counter()), update, params=True)


def unit_norms(weight: Array, output_axis: int = 0) -> Array:
    """‖w_o‖ of every output unit, kept broadcastable; of the whole where there are less than two dimensions."""
    if weight.ndim < 2:
        return norm(weight)
    axes = tuple(k for k in range(weight.ndim) if k != output_axis % weight.ndim)
    return jnp.expand_dims(norm(weight, axes), axes)


def unit_pull(weight: Array, output_axis: int = 0) -> Array:
    """2(1 − 1/‖w_o‖)w_o, zero where w_o is and for leaves of less than two dimensions."""
    if weight.ndim < 2:
        return jnp.zeros_like(weight)
    size = unit_norms(weight, output_axis)
    return jnp.where(size > 0, 2 * (1 - 1 / jnp.where(size > 0, size, 1)), 0) * weight
