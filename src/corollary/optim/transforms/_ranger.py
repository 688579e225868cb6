"""Ranger: rectified Adam on centralised gradients, inside Lookahead.

The composition of `optax.centralize`, `optax.radam` and Lookahead. Unlike `optax.lookahead` it keeps the slow weights
in its state, so that it is used like any other optimizer. Cost: O(n).
Source: Wright, "Ranger: a synergistic optimizer" (2019); its parts: Liu et al., "On the variance of the adaptive
learning rate and beyond" (2020), algorithm 2; Zhang et al. (2019), algorithm 1; Yong et al. (2020), eq. (1).
"""

from __future__ import annotations

from typing import Any

import optax

from corollary.core import validation
from corollary.optim.transforms._diloco_outer import diloco, diloco_outer
from corollary.optim.transforms._transform import check, descend


def ranger(
    learning_rate: Any,
    b1: Any = 0.95,
    b2: Any = 0.999,
    eps: Any = 1e-5,
    weight_decay: Any = 0.0,
    sync_rate: Any = 0.5,
    *,
    sync_period: int = 6,
    centralize: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Rectified Adam with gradient centralisation and Lookahead.

    Parameters
    ----------
    learning_rate
        η, number or schedule.
    b1, b2, eps
        Of rectified Adam.
    weight_decay
        Decoupled λ.
    sync_rate
        Lookahead's α in [0, 1]; 1 is none.
    sync_period
        Lookahead's k.
    centralize
        Subtract the mean over all but the first axis from the gradients of weights of two dimensions or more.

    Returns
    -------
    optax.GradientTransformationExtraArgs

    Raises
    ------
    InputError
        For values out of range.

    Notes
    -----
    Between two synchronisations the parameters are the fast weights; the slow ones are ``state.anchor``.
    Memory: three numbers a parameter. Cost: one gradient, O(n). Defaults: the author's, β1 = 0.95, ε = 1e-5, k = 6,
    α = 0.5. When: a safe choice without warm-up.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> opt, x = ranger(0.1), jnp.array([1.0])
    >>> print(f"{opt.update(x, opt.init(x), x)[0][0]:.3f}")  # before the rectification sets in: momentum
    -0.100
    """
    validation.integer(1)("sync_period", sync_period)
    check("sync_rate", sync_rate, 0.0, 1.0)
    parts = [optax.scale_by_radam(b1, b2, eps)]
    if centralize:
        parts.insert(0, optax.centralize())
    fast = descend(optax.chain(*parts), learning_rate, weight_decay)
    return diloco(fast, diloco_outer(sync_rate, None), period=sync_period)
