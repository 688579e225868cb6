"""Friendly SAM: SAM along the gradient's own noise, its average removed.

SAM's perturbation has a part along the full gradient, which raises the loss without probing sharpness. F-SAM estimates
that part by an average m of past gradients and climbs along d = g − σm. Use it where SAM helps.
Cost: two gradients a step. Source: Li, Zhou, He, Cheng & Huang, "Friendly sharpness-aware minimization" (2024),
algorithm 1. (The algorithm averages the new gradient into m before taking it off, the authors' code afterwards; with
σ = 1 both directions are parallel, so that ε is the same.)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.optim.transforms._sam import along, uphill
from corollary.optim.transforms._transform import at, check, moment, zeros


def friendly_sam(
    base: optax.GradientTransformation, rho: Any = 0.05, sigma: Any = 1.0, decay: Any = 0.9, *, order: str = "code"
) -> optax.GradientTransformationExtraArgs:
    """SAM that climbs along g − σm, with m = λm + (1 − λ)g the average gradient.

    Parameters
    ----------
    base
        The optimizer that steps.
    rho
        ρ ≥ 0, number or schedule.
    sigma
        σ ≥ 0, how much of the average is taken off; 0 is SAM.
    decay
        λ in [0, 1) of the average.
    order
        ``"code"``: take off m, then average (the authors' code; the first step is SAM's); ``"paper"``: average first.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, grad_fn=...)``, see `sam`; ``state.memory`` is m.

    Raises
    ------
    InputError
        For values out of range, and a call without `grad_fn`.

    Notes
    -----
    Memory: one number a parameter beside the base. Cost: two gradients a step.
    Defaults: ρ = 0.05, σ = 1, λ = 0.9 of the authors' code. When: small batches, whose gradients are mostly noise.

    Examples
    --------
    >>> loss = lambda x: (x**2).sum()
    >>> opt, x = friendly_sam(optax.sgd(0.25), rho=0.1), jnp.array([3.0, 4.0])
    >>> step, _ = opt.update(jax.grad(loss)(x), opt.init(x), x, grad_fn=jax.grad(loss))
    >>> print(*(f"{v:.2f}" for v in step))
    -1.53 -2.04
    """
    check("rho", rho, 0.0)
    check("sigma", sigma, 0.0)
    check("decay", decay, 0.0, 1.0)
    validation.one_of("code", "paper")("order", order)

    def perturbation(grads: PyTree, params: PyTree, memory: PyTree, count: Array) -> tuple[PyTree, PyTree]:
        new, s = moment(memory, grads, at(decay, count)), at(sigma, count)
        if order == "code":
            off, s = memory, jnp.where(count > 0, s, 0)
            new = optax.tree.where(count > 0, new, grads)
        else:
            off = new
        away = jax.tree.map(lambda g, m: g - s * m, grads, off)
        return along(away, at(rho, count)), new

    return uphill(base, zeros, perturbation)
