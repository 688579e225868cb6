"""Optimizer state on the host: the device keeps parameters and gradients, the host keeps moments and updates.

Per step the gradients (and parameters, where the optimizer looks at them) travel to the host and the updates back: 3Ψ
numbers over the bus in place of K bytes per parameter of device memory (8 for Adam in float32).

Source: Ren et al., "ZeRO-Offload: democratizing billion-scale model training" (2021), §3.
"""

from __future__ import annotations

from typing import Any

import jax
import optax
from jax.core import Tracer

from corollary.core.errors import InputError


def offload_optimizer(optimizer: Any, *, host: Any = None) -> optax.GradientTransformationExtraArgs:
    """Keep an optimizer's state, and compute its update, on the host.

    Use it where Adam's moments do not fit beside the model on the device. The trajectory is the same to the rounding
    of two compilers; the step waits for the bus.

    Parameters
    ----------
    optimizer
        An `optax.GradientTransformation`.
    host
        The device that holds the state; None: the first CPU.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params)`` for use outside `jit` (its halves are compiled): the updates lie where the
        gradients lay. No certificate: `bytes_per_device` measures who holds what.

    Raises
    ------
    InputError
        Inside `jit`, where arrays cannot change their device.

    Source: Ren et al. (2021), §3.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> opt = offload_optimizer(optax.sgd(0.5))
    >>> w = jnp.ones(2)
    >>> opt.update(w, opt.init(w), w)[0].tolist()
    [-0.5, -0.5]
    """
    optimizer = optax.with_extra_args_support(optimizer)
    device = jax.devices("cpu")[0] if host is None else host
    update_there = jax.jit(optimizer.update)  # nothing donated: an old state stays usable, as of any transformation

    def there(tree: Any) -> Any:
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree)):
            raise InputError("offload_optimizer: found a traced array, expected a call outside jit")
        return jax.device_put(tree, device)

    def init(params: Any) -> Any:
        return jax.device_put(optimizer.init(there(params)), device)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        places = jax.tree.map(lambda g: getattr(g, "sharding", None) or device, updates)
        updates, state = update_there(there(updates), state, None if params is None else there(params), **there(extra))
        return jax.device_put(updates, places), state

    return optax.GradientTransformationExtraArgs(init, update)
