"""MNSAM: momentum in SAM's ascent, Nesterov's momentum in its descent.

The perturbation climbs along an average of gradients, ε = ρb/‖b‖ with b = β1·b + (1 − β1)g, which is steadier than one
batch's; the step is SGD with Nesterov's momentum. Cost: two gradients a step.
Source: the authors' code (kksmd520/MNSAM). That code divides by the norm of each tensor's b from the second step on,
while the first step and SAM use the norm over all; here it is the norm over all, so that β1 = 0 is SAM.
"""

from __future__ import annotations

from typing import Any

import optax
from jaxtyping import Array, PyTree

from corollary.optim.transforms._sam import along, uphill
from corollary.optim.transforms._transform import at, check, moment, zeros


def mnsam(
    learning_rate: Any, rho: Any = 0.05, b1: Any = 0.9, momentum: Any = 0.9, base: Any = None
) -> optax.GradientTransformationExtraArgs:
    """SAM with a momentum ascent and a Nesterov descent; both momenta 0 is SAM around SGD.

    Parameters
    ----------
    learning_rate
        η of the descent, number or schedule.
    rho
        ρ ≥ 0, number or schedule.
    b1
        β1 of the ascent's average, in [0, 1).
    momentum
        Nesterov's, of the descent.
    base
        Another optimizer for the descent; `learning_rate` and `momentum` are then not used.

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
    Memory: two numbers a parameter. Cost: two gradients a step. Defaults: ρ = 0.05, β1 = 0.9 of the authors' code.
    When: SAM helps, but its perturbation follows one noisy batch.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> loss = lambda x: (x**2).sum()
    >>> opt, x = mnsam(0.25, rho=0.1, momentum=0.0), jnp.array([3.0, 4.0])
    >>> step, _ = opt.update(jax.grad(loss)(x), opt.init(x), x, grad_fn=jax.grad(loss))
    >>> print(*(f"{v:.2f}" for v in step))
    -1.53 -2.04
    """
    check("rho", rho, 0.0)
    check("b1", b1, 0.0, 1.0)
    if base is None:
        check("learning_rate", learning_rate, 0.0)
        check("momentum", momentum, 0.0, 1.0)
        base = optax.sgd(learning_rate, momentum, nesterov=True)

    def perturbation(grads: PyTree, params: PyTree, memory: PyTree, count: Array) -> tuple[PyTree, PyTree]:
        new = optax.tree.where(count > 0, moment(memory, grads, at(b1, count)), grads)
        return along(new, at(rho, count)), new

    return uphill(base, zeros, perturbation)
