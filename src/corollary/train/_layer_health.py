"""A run's pulse, layer by layer: norms of parameters and gradients, update ratios, effective ranks.

When: to find the layer that stands still, blows up or collapses. Cost: O(d) for the norms; O(m n min(m, n)) per matrix
for the effective rank. Source: Roy & Vetterli, The effective rank (2007), eqs. 3-5.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from corollary.core.errors import InputError
from corollary.core.precision import as_float
from corollary.optim._tree import norm

Numbers = Float[Array | np.ndarray, "..."] | np.floating | float


class LayerNorms(eqx.Module):
    """Per parameter array, by its path in the pytree: ‖θ‖, ‖g‖ and ‖Δθ‖/‖θ‖."""

    parameter: dict[str, Numbers]
    gradient: dict[str, Numbers]
    update_ratio: dict[str, Numbers]


def layer_norms(params: PyTree, gradients: PyTree, updates: PyTree) -> LayerNorms:
    """Norms of parameters and gradients and the update ratio ‖Δθ‖/‖θ‖ of every array.

    Parameters
    ----------
    params, gradients, updates
        Pytrees of one structure; leaves that are None in all are passed over.

    Returns
    -------
    LayerNorms
        Dictionaries by path, e.g. ``".layers[0].weight"``. A ratio of about 1e-3 per step is usual in a healthy run;
        over an array that is zero it is infinite where the update is not, else 0.

    Raises
    ------
    InputError
        Where the structures differ.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> norms = layer_norms({"w": jnp.ones(4)}, {"w": jnp.zeros(4)}, {"w": jnp.full(4, 0.01)})
    >>> round(float(norms.update_ratio["['w']"]), 3)
    0.01
    """
    trees = (params, gradients, updates)
    if len({jax.tree.structure(tree) for tree in trees}) != 1:
        raise InputError("gradients, updates: found another structure than params has, expected the same pytree")
    parameter, gradient, update = (_norms(tree) for tree in trees)
    ratio: dict[str, Any] = {
        p: jnp.where(parameter[p] > 0, u / jnp.where(parameter[p] > 0, parameter[p], 1), jnp.where(u > 0, jnp.inf, 0.0))
        for p, u in update.items()
    }
    return LayerNorms(parameter, gradient, ratio)


def effective_rank(matrix: Any) -> Float[Array, "..."]:
    """exp of the entropy of the normalised singular values: between 1 and min(m, n), 0 for a zero matrix.

    Parameters
    ----------
    matrix
        Shape (..., m, n).

    Returns
    -------
    Array
        Shape (...). Continuous in the matrix, free of its scale and of rotations; a rank-r matrix with equal singular
        values has effective rank r.

    Raises
    ------
    InputError
        Where there are fewer than two axes.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> round(float(effective_rank(jnp.eye(5))), 4)
    5.0
    """
    matrix = as_float(matrix)
    if matrix.ndim < 2 or 0 in matrix.shape[-2:]:
        raise InputError(f"matrix: found shape {matrix.shape}, expected (..., m, n)")
    narrow = jnp.finfo(matrix.dtype).bits < 32  # no factorisation in half precision
    sigma = jnp.linalg.svd(matrix.astype(jnp.float32) if narrow else matrix, compute_uv=False)
    total = jnp.sum(sigma, axis=-1, keepdims=True)
    p = sigma / jnp.where(total > 0, total, 1)
    entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0), axis=-1)
    return jnp.where(total[..., 0] > 0, jnp.exp(entropy), 0)


def effective_ranks(params: PyTree) -> dict[str, Numbers]:
    """`effective_rank` of every matrix of a pytree by its path; kernels of more axes as (all but the last, last)."""
    return {p: effective_rank(x.reshape(-1, x.shape[-1])) for p, x in _named(params) if x.ndim >= 2}


def _norms(tree: PyTree) -> dict[str, Any]:
    return {path: norm(as_float(x)) for path, x in _named(tree)}


def _named(tree: PyTree) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
