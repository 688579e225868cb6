"""Positive-negative momentum: two alternating momenta, one with weight 1 + β0, the other with −β0.

m_t = β1²·m_{t−2} + (1 − β1²)g_t, so that the odd and the even steps keep separate averages with independent noise, and

    θ ← θ − η·((1 + β0)m_t − β0·m_{t−1})/√((1 + β0)² + β0²).

The mean step is that of momentum, while the noise's variance is (1 + β0)² + β0² times as large (before the
normalisation): noise of a chosen strength at no cost, said to help leave sharp minima. β0 = 0 is momentum.
Cost: O(n). Source: Xie, Yuan, Zhu & Sugiyama, "Positive-negative momentum" (2021), algorithm 1 and eq. (9).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.optim.transforms._transform import after, at, check, counter, descend, moment, rule, zeros


class PNMState(NamedTuple):
    """Steps taken, the buffer that is updated next, and the other one."""

    count: Array
    older: PyTree
    newer: PyTree


def scale_by_positive_negative_momentum(b1: Any = 0.9, beta0: Any = 1.0) -> optax.GradientTransformationExtraArgs:
    """The direction of positive-negative momentum, without learning rate; see `positive_negative_momentum`.

    Parameters
    ----------
    b1
        β1 in [0, 1); each buffer decays by β1² every second step.
    beta0
        β0 ≥ 0.

    Returns
    -------
    optax.GradientTransformationExtraArgs

    Notes
    -----
    Memory: two numbers a parameter. Cost: O(n). Defaults: β1 = 0.9, β0 = 1 of Xie et al., section 5. When: in a chain.

    Examples
    --------
    >>> opt, x = scale_by_positive_negative_momentum(0.0, beta0=0.0), jnp.array([1.0])
    >>> opt.update(x, opt.init(x))[0].tolist()
    [1.0]
    """
    check("b1", b1, 0.0, 1.0)
    check("beta0", beta0, 0.0)

    def init(params: PyTree) -> PNMState:
        return PNMState(counter(), zeros(params), zeros(params))

    def update(grads: PyTree, state: PNMState, params: Any = None, **_: Any) -> tuple[PyTree, PNMState]:
        m = moment(state.older, grads, at(b1, state.count) ** 2)
        direction = positive_negative(m, state.newer, at(beta0, state.count))
        return direction, PNMState(after(state.count), state.newer, m)

    return rule(init, update)


def positive_negative(positive: PyTree, negative: PyTree, beta0: Any) -> PyTree:
    """((1 + β0)m⁺ − β0·m⁻)/√((1 + β0)² + β0²)."""
    beta0 = jnp.asarray(beta0)
    size = jnp.sqrt((1 + beta0) ** 2 + beta0**2)
    return jax.tree.map(lambda p, n: ((1 + beta0) * p - beta0 * n) / size, positive, negative)


def positive_negative_momentum(
    learning_rate: Any, b1: Any = 0.9, beta0: Any = 1.0, weight_decay: Any = 0.0
) -> optax.GradientTransformationExtraArgs:
    """SGD with positive-negative momentum and decoupled weight decay.

    Parameters
    ----------
    learning_rate
        η, number or schedule.
    b1
        β1 in [0, 1).
    beta0
        β0 ≥ 0; 0 is momentum (on the odd and the even gradients separately).
    weight_decay
        Decoupled λ.

    Returns
    -------
    optax.GradientTransformationExtraArgs

    Raises
    ------
    InputError
        For values out of range.

    Notes
    -----
    Memory: two numbers a parameter. Cost: O(n). Defaults: β1 = 0.9, β0 = 1 of Xie et al., section 5.
    When: large batches, whose noise is too small to leave sharp minima.

    Examples
    --------
    >>> opt, x = positive_negative_momentum(0.1, 0.0, beta0=0.0), jnp.array([1.0])
    >>> print(opt.update(x, opt.init(x), x)[0])
    [-0.1]
    """
    return descend(scale_by_positive_negative_momentum(b1, beta0), learning_rate, weight_decay)
