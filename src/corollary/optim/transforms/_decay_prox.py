"""Decoupled weight decay and the proximal step of the penalty (λ/2)‖θ‖²: how far apart they are.

prox_{η(λ/2)‖·‖²}(θ) = θ/(1 + ηλ), while AdamW multiplies by 1 − ηλ; the difference is (ηλ)²/(1 + ηλ)·θ, exactly: the
decay is the proximal step to first order, and overshoots zero where ηλ > 1, which the proximal step never does.
Cost: O(n). Source: Zhuang, Liu, Cutkosky & Orabona, "Understanding AdamW through proximal methods and scale-freeness"
(2022), section 3.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from corollary.core.certificate import Certificate, rounding
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import at_least_zero, finite, like, norm


@follows_input
def weight_decay_prox(params: Any, learning_rate: Any, weight_decay: Any) -> Solution:
    """θ/(1 + ηλ), the proximal step, against (1 − ηλ)θ, the decoupled decay.

    Use it to see whether ηλ is small enough for the two to be the same thing.

    Parameters
    ----------
    params
        θ, an array or pytree.
    learning_rate, weight_decay
        η ≥ 0 and λ ≥ 0.

    Returns
    -------
    Solution
        ``value``: a dict of ``prox``, ``decay`` and ``difference`` (prox − decay).

    Raises
    ------
    InputError
        For values that are not finite or negative.

    Notes
    -----
    Certificate: ``difference`` (exact), ‖prox − decay‖ ≤ (ηλ)²/(1 + ηλ)·‖θ‖, an equality up to rounding.
    Source: Zhuang et al. (2022), section 3.

    Examples
    --------
    >>> run = weight_decay_prox([1.0, -2.0], 0.5, 1.0)
    >>> run.value["difference"].round(4).tolist(), bool(run.holds)
    ([0.1667, -0.3333], True)
    """
    params = finite("params", params)
    at_least_zero("learning_rate", learning_rate)
    at_least_zero("weight_decay", weight_decay)
    a = like(learning_rate, params) * like(weight_decay, params)
    prox = jax.tree.map(lambda p: p / (1 + a.astype(p.dtype)), params)
    decay = jax.tree.map(lambda p: p * (1 - a.astype(p.dtype)), params)
    difference = jax.tree.map(jnp.subtract, prox, decay)
    size = norm(params)
    bound = a * (a / (1 + a)) * size + rounding(size * (1 + a))
    certificate = Certificate(
        "‖θ/(1 + ηλ) − (1 − ηλ)θ‖ <= (ηλ)²/(1 + ηλ)·‖θ‖",
        norm(difference),
        bound,
        "exact",
        "Zhuang et al. (2022), section 3",
    )
    return Solution({"prox": prox, "decay": decay, "difference": difference}, {"difference": certificate})
