"""PID optimizer: gradient, momentum and change of the gradient as a controller's three terms.

    I ← μI + g,   D ← μD + (1 − μ)(g − g_before),   θ ← θ − η(Kp·g + Ki·I + Kd·D).

Momentum is an integral term and overshoots as integrators do; the derivative damps it. Kd = 0 with Kp = 0, Ki = 1 is
SGD with momentum. `pid_poles` gives the closed loop's poles on a quadratic, whose largest modulus is the rate.
Cost: O(n). Source: An, Wang, Sun, Xu, Dai & Zhang, "A PID controller approach for stochastic optimization of deep
networks" (2018), eqs. (10) to (12).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.core.precision import follows_input
from corollary.optim.transforms._transform import after, at, check, counter, descend, moment, rule, zeros


class PIDState(NamedTuple):
    """Steps taken, integral, derivative and the last gradient."""

    count: Array
    integral: PyTree
    derivative: PyTree
    last: PyTree


def pid(
    learning_rate: Any, kp: Any = 0.0, ki: Any = 1.0, kd: Any = 1.0, momentum: Any = 0.9, weight_decay: Any = 0.0
) -> optax.GradientTransformationExtraArgs:
    """SGD as a PID controller: momentum damped by the change of the gradient.

    Parameters
    ----------
    learning_rate
        η, number or schedule.
    kp, ki, kd
        Weights of gradient, integral (momentum) and derivative; numbers or schedules.
    momentum
        μ in [0, 1), of both averages.
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
    The first derivative is 0. (The authors' code takes the gradient before the first as 0 in the second step.)
    Memory: three numbers a parameter. Cost: O(n). Defaults: μ = 0.9 and Kp = 0, Ki = 1 of An et al., eq. (12), with
    Kd = 1, mild damping; they tune Kd by Ziegler and Nichols' rule. When: momentum overshoots.

    Examples
    --------
    >>> opt, x = pid(0.1, kd=0.0), jnp.array([1.0])
    >>> print(opt.update(x, opt.init(x), x)[0])
    [-0.1]
    """
    for name, value in (("kp", kp), ("ki", ki), ("kd", kd)):
        check(name, value, 0.0)
    check("momentum", momentum, 0.0, 1.0)

    def init(params: PyTree) -> PIDState:
        return PIDState(counter(), zeros(params), zeros(params), zeros(params))

    def update(grads: PyTree, state: PIDState, params: Any = None, **_: Any) -> tuple[PyTree, PIDState]:
        now = state.count
        mu, p, i, d = (at(value, now) for value in (momentum, kp, ki, kd))
        change = jax.tree.map(lambda g, last: jnp.where(now > 0, g - last, 0), grads, state.last)
        total = jax.tree.map(lambda m, g: mu * m + g, state.integral, grads)
        slope = moment(state.derivative, change, mu)
        direction = jax.tree.map(lambda g, m, s: p * g + i * m + d * s, grads, total, slope)
        return direction, PIDState(after(now), total, slope, grads)

    return descend(rule(init, update), learning_rate, weight_decay)


@follows_input
def pid_poles(curvature: Any, learning_rate: Any, kp: Any = 0.0, ki: Any = 1.0, kd: Any = 1.0, momentum: Any = 0.9):
    """Poles of the PID optimizer's closed loop on a quadratic, for each curvature.

    The roots z of (z − 1)(z − μ)z + ηh(Kp·(z − μ)z + Ki·z² + (1 − μ)Kd·(z − 1)z) = 0 without the common root z = 0;
    the run converges where all moduli are below 1, at the rate of the largest. Cost: O(1) a curvature.

    Parameters
    ----------
    curvature
        Second derivatives h, a number or array.
    learning_rate, kp, ki, kd, momentum
        As in `pid`.

    Returns
    -------
    Array
        Complex, with a last axis of two poles.

    Notes
    -----
    Source: An et al. (2018), section 4, in discrete time.

    Examples
    --------
    >>> abs(pid_poles(1.0, 0.1, kd=0.0)).round(4).tolist()  # heavy ball: √μ
    [0.9487, 0.9487]
    """
    h = jnp.asarray(validation.tensor("curvature", curvature, low=0))
    gain = learning_rate * h
    # The polynomial over z: both terms of the controller share the pole μ, and the derivative's z cancels one root.
    linear = -(1 + momentum) + gain * (kp + ki + (1 - momentum) * kd)
    constant = momentum - gain * (kp * momentum + (1 - momentum) * kd)
    discriminant = linear**2 - 4 * constant
    root = jnp.sqrt(jax.lax.complex(discriminant, jnp.zeros_like(discriminant)))
    linear = jax.lax.complex(linear, jnp.zeros_like(linear))
    return jnp.stack([(-linear + root) / 2, (-linear - root) / 2], -1)
