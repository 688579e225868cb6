"""Stable weight decay: AdamW whose decay is measured in the optimizer's own average step.

    θ ← θ − η·m̂/(√v̂ + ε) − η·λ/√v̄·θ,    v̄ the mean of v̂ over all parameters.

Adam's effective rate is η/√v̂, so that plain decoupled decay is strong late in training, when v̂ is small, relative to
it; divided by √v̄ both shrink together. Use it for λ that need not be tuned anew with the scale of the loss.
Cost: AdamW and one mean.
Source: Xie, Sato & Sugiyama, "Stable weight decay regularization" (2020), algorithm 3 (AdamS).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.optim.transforms._transform import after, at, check, counter, moment, rule, zeros


class StableDecayState(NamedTuple):
    """Steps taken and Adam's moments."""

    count: Array
    mu: PyTree
    nu: PyTree


def stable_weight_decay(
    learning_rate: Any, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8, weight_decay: Any = 5e-4
) -> optax.GradientTransformationExtraArgs:
    """AdamS: Adam with decoupled weight decay divided by √(mean of v̂).

    Parameters
    ----------
    learning_rate
        η, number or schedule.
    b1, b2, eps
        Adam's.
    weight_decay
        λ ≥ 0, number or schedule. It carries the unit of a gradient over a parameter.

    Returns
    -------
    optax.GradientTransformationExtraArgs

    Raises
    ------
    InputError
        For values out of range, and a call without parameters.

    Notes
    -----
    Where all v̂ are 0 there is no decay.
    Memory: two numbers a parameter. Cost: one gradient, O(n). Defaults: λ = 5e-4 of Xie et al., section 5, Adam's β.
    When: AdamW's λ has to be tuned again whenever the loss is rescaled.

    Examples
    --------
    >>> opt, x = stable_weight_decay(0.1, weight_decay=1.0), jnp.array([1.0, 1.0])
    >>> print(opt.update(2 * x, opt.init(x), x)[0])  # −0.1·1 − 0.1·(1/2)·1
    [-0.15 -0.15]
    """
    check("learning_rate", learning_rate, 0.0)
    check("b1", b1, 0.0, 1.0)
    check("b2", b2, 0.0, 1.0)
    check("eps", eps, 0.0)
    check("weight_decay", weight_decay, 0.0)

    def init(params: PyTree) -> StableDecayState:
        return StableDecayState(counter(), zeros(params), zeros(params))

    def update(grads: PyTree, state: StableDecayState, params: PyTree, **_: Any) -> tuple[PyTree, StableDecayState]:
        now, count = state.count, after(state.count)
        beta1, beta2 = jnp.asarray(at(b1, now)), jnp.asarray(at(b2, now))
        mu = moment(state.mu, grads, beta1)
        nu = moment(state.nu, jax.tree.map(jnp.square, grads), beta2)
        first, second = 1 - beta1**count, 1 - beta2**count
        decay = at(weight_decay, now) * inverse_root(mean(nu) / second)
        lr = at(learning_rate, now)

        def step(m: Array, v: Array, p: Array) -> Array:
            return -lr * ((m / first) / (jnp.sqrt(v / second) + at(eps, now)) + decay * p)

        return jax.tree.map(step, mu, nu, params), StableDecayState(count, mu, nu)

    return rule(init, update, params=True)


def mean(tree: PyTree) -> Array:
    """The mean over all entries of all leaves."""
    leaves = jax.tree.leaves(tree)
    return sum((jnp.sum(x) for x in leaves), jnp.zeros([])) / sum(x.size for x in leaves)


def inverse_root(value: Array) -> Array:
    """1/√value, 0 at 0."""
    return jnp.where(value > 0, 1 / jnp.sqrt(jnp.where(value > 0, value, 1)), 0)
