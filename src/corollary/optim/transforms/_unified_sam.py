"""Unified SAM: between the normalised perturbation of SAM and the unnormalised one of USAM.

ε = ρ(1 − λ + λ/‖g‖)g: λ = 1 is SAM, λ = 0 is USAM, whose perturbation vanishes with the gradient and which therefore
converges to a stationary point with a constant ρ. λ may be a schedule, such as 1/t or 1 − 1/t.
Cost: two gradients a step. Source: Oikonomou & Loizou, "Sharpness-aware minimization: general analysis and improved
rates" (2025), eq. (4).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.optim._tree import norm
from corollary.optim.transforms._sam import uphill
from corollary.optim.transforms._transform import at, check


def unified_sam(
    base: optax.GradientTransformation, rho: Any = 0.1, weight: Any = 0.5
) -> optax.GradientTransformationExtraArgs:
    """SAM with a perturbation between normalised (``weight=1``, SAM) and unnormalised (``weight=0``, USAM).

    Parameters
    ----------
    base
        The optimizer that steps.
    rho
        ρ ≥ 0, number or schedule.
    weight
        λ in [0, 1], number or schedule.

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
    Memory: that of the base. Cost: two gradients a step. Defaults: ρ = 0.1 and λ = 0.5 of the authors' package.
    When: SAM's last steps circle the minimum at distance ρ; a λ that falls to 0 lets them settle.

    Examples
    --------
    >>> import jax
    >>> loss = lambda x: (x**2).sum()
    >>> opt, x = unified_sam(optax.sgd(0.5), rho=0.1, weight=0.0), jnp.array([3.0, 4.0])
    >>> step, _ = opt.update(jax.grad(loss)(x), opt.init(x), x, grad_fn=jax.grad(loss))
    >>> print(*(f"{v:.2f}" for v in step))
    -3.60 -4.80
    """
    check("rho", rho, 0.0)
    check("weight", weight, 0.0, 1.0)

    def perturbation(grads: PyTree, params: PyTree, memory: Any, count: Array) -> tuple[PyTree, Any]:
        size, lam = norm(grads), at(weight, count)
        inverse = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
        return optax.tree.scale(at(rho, count) * (1 - lam + lam * inverse), grads), memory

    return uphill(base, lambda params: (), perturbation)
