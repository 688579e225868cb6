"""ZSharp: SAM along the outliers of each layer's gradient.

In each layer (leaf) the gradient's entries are standardised, and only those with the largest |z| stay in the
perturbation: it KEEPS the outliers and drops the rest. Use it where SAM helps and gradients have heavy tails.
Cost: two gradients and one sort of the gradient a step, O(n log n).
Source: Yun, "Sharpness-aware minimization with Z-score gradient filtering" (2025), algorithm 1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.optim._tree import norm
from corollary.optim.transforms._sam import along, uphill
from corollary.optim.transforms._transform import at, check


def zsharp(
    base: optax.GradientTransformation, rho: Any = 0.05, percentile: Any = 0.95
) -> optax.GradientTransformationExtraArgs:
    """SAM whose perturbation keeps, per layer, the entries of the gradient with the largest |z|.

    Parameters
    ----------
    base
        The optimizer that steps.
    rho
        ρ ≥ 0, number or schedule.
    percentile
        Share of a layer's entries that is dropped, in [0, 1]; 0 is SAM. Of n entries the ``round(percentile·n)``
        smallest |z| go (more stay where values tie). Where nothing is left, the whole gradient is used.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, grad_fn=...)``, see `sam`.

    Raises
    ------
    InputError
        For values out of range, and a call without `grad_fn`.

    Notes
    -----
    Memory: that of the base. Cost: two gradients and a sort a step. Defaults: ρ = 0.05, 0.95 of Yun (2025).
    When: SAM helps, and few entries carry the sharp directions.

    Examples
    --------
    >>> loss = lambda x: (x**2).sum()
    >>> opt, x = zsharp(optax.sgd(0.25), rho=0.1, percentile=0.5), jnp.array([3.0, 3.5, -8.0, 3.2])
    >>> step, _ = opt.update(jax.grad(loss)(x), opt.init(x), x, grad_fn=jax.grad(loss))
    >>> print(*(f"{v:.2f}" for v in step))
    -1.50 -1.77 4.05 -1.60
    """
    check("rho", rho, 0.0)
    check("percentile", percentile, 0.0, 1.0)

    def perturbation(grads: PyTree, params: PyTree, memory: Any, count: Array) -> tuple[PyTree, Any]:
        share = at(percentile, count)
        kept = jax.tree.map(lambda g: g * zscore_mask(g, share), grads)
        empty = norm(kept) == 0
        return along(optax.tree.where(empty, grads, kept), at(rho, count)), memory

    return uphill(base, lambda params: (), perturbation)


def zscore_mask(gradient: Array, share: Any) -> Array:
    """1 where |z| is not among the ``round(share·n)`` smallest of its layer, 0 elsewhere."""
    if gradient.size == 0:
        return gradient
    # The order of |z| is that of the distance from the mean: dividing by the deviation changes nothing.
    size = jnp.abs(gradient - jnp.mean(gradient))
    order = jnp.sort(size.ravel())
    n = order.shape[0]
    drop = jnp.round(jnp.asarray(share) * n).astype(jnp.int32)
    threshold = jnp.where(drop < n, order[jnp.minimum(drop, n - 1)], jnp.inf)
    return (size >= threshold).astype(gradient.dtype)
