"""Ranger21: AdamW with eight additions, each of which can be switched off.

In the order of a step: adaptive gradient clipping, gradient centralisation, gradient normalisation, positive-negative
momentum, stable weight decay, norm loss, softplus under the division, linear warm-up and warm-down, Lookahead. The core
is AdamW (not rectified Adam, which is Ranger's); with everything off it is `optax.adamw`.
Cost: O(n). Source: Wright & Demeure, "Ranger21: a synergistic deep learning optimizer" (2021), algorithm 1.
Where paper and code differ, this follows the paper: the momentum is normalised by √((1 + β0)² + β0²) (the code puts β2
for β0, 0.1 % apart at the defaults), and all leaves decay (the code decays the last leaf it has touched).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.optim.transforms._diloco_outer import diloco, diloco_outer
from corollary.optim.transforms._norm_loss import unit_norms
from corollary.optim.transforms._positive_negative_momentum import positive_negative
from corollary.optim.transforms._schedules import warmdown_schedule
from corollary.optim.transforms._stable_weight_decay import inverse_root, mean
from corollary.optim.transforms._transform import after, at, check, counter, moment, rule, zeros


class Ranger21State(NamedTuple):
    """Steps taken, the momentum (two buffers with positive-negative momentum), and the second moment."""

    count: Array
    older: PyTree
    newer: PyTree
    nu: PyTree


def ranger21(
    learning_rate: Any,
    total_steps: int,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    clipping: Any = 1e-2,
    beta0: Any = 1.0,
    norm_loss: Any = 1e-4,
    softplus: Any = 50.0,
    floor: Any = 3e-5,
    *,
    centralize: bool = True,
    normalize: bool = True,
    stable_decay: bool = True,
    warmup_steps: int | None = None,
    warmdown: bool = True,
    lookahead: int | None = 5,
) -> optax.GradientTransformationExtraArgs:
    """AdamW with adaptive clipping, centralisation, normalisation, PNM, stable decay, norm loss, warm-up, Lookahead.

    Parameters
    ----------
    learning_rate
        The peak η; a schedule replaces warm-up and warm-down.
    total_steps
        Length of the run.
    b1, b2, eps, weight_decay
        Of AdamW.
    clipping
        Largest ratio of a unit's gradient norm to its weight norm; None: off.
    beta0
        β0 of positive-negative momentum; None: Adam's momentum.
    norm_loss
        Factor of the norm loss; None: off.
    softplus
        β of softplus_β(√v̂ + ε), a smooth floor of 1/β·log 2 under the division; None: off.
    floor
        η at the end of the warm-down.
    centralize, normalize
        Subtract the mean over all but the first axis (weights of two dimensions or more); divide by the deviation
        (leaves of more than two entries).
    stable_decay
        Divide the decay by √(mean of v̂).
    warmup_steps
        None: 2/(1 − β2), or 22 % of the run where that is more than 45 % of it; 0: off.
    warmdown
        Linear to the floor in the last 28 %.
    lookahead
        Period of Lookahead with α = 1/2; None: off.

    Returns
    -------
    optax.GradientTransformationExtraArgs

    Raises
    ------
    InputError
        For values out of range, and a call without parameters.

    Notes
    -----
    Memory: four numbers a parameter (two momenta, v, slow weights). Cost: one gradient, O(n). Defaults: the authors'
    code. When: vision, with a fixed number of steps and little tuning.

    Examples
    --------
    >>> opt, x = ranger21(0.1, 1000), jnp.ones((2, 3))
    >>> state = opt.init(x)
    >>> step, state = opt.update(x * jnp.arange(3.0), state, x)
    >>> step.shape, bool(jnp.isfinite(step).all())
    ((2, 3), True)
    """
    validation.integer(1)("total_steps", total_steps)
    validation.integer(1, none=True)("lookahead", lookahead)
    validation.integer(0, none=True)("warmup_steps", warmup_steps)
    for name, value in (("b1", b1), ("b2", b2)):
        check(name, value, 0.0, 1.0)
    for name, value in (("learning_rate", learning_rate), ("eps", eps), ("weight_decay", weight_decay)):
        check(name, value, 0.0)
    for name, value in (("clipping", clipping), ("beta0", beta0), ("norm_loss", norm_loss)):
        if value is not None:
            check(name, value, 0.0)
    if softplus is not None:
        check("softplus", softplus, 0.0, open_low=True)

    def rate(count: Array) -> Any:
        """η in the step that follows `count` steps: the ramps are taken at the step's own number, from 1."""
        if callable(learning_rate):
            return learning_rate(count)
        t = count + 1
        if warmup_steps is None:
            untuned = jnp.ceil(2 / (1 - jnp.asarray(b2)) - 1e-3)
            ramp = jnp.where(untuned > 0.45 * total_steps, jnp.floor(0.22 * total_steps), untuned)
        else:
            ramp = jnp.asarray(float(warmup_steps))
        up = jnp.where(ramp > 0, jnp.minimum(t / jnp.where(ramp > 0, ramp, 1), 1), 1)
        if not warmdown:
            return learning_rate * up
        down = warmdown_schedule(1.0, total_steps)(jnp.minimum(t, total_steps))
        return jnp.where(down < 1, floor + (learning_rate - floor) * down, learning_rate * up)

    def init(params: PyTree) -> Ranger21State:
        other = zeros(params) if beta0 is not None else ()
        return Ranger21State(counter(), zeros(params), other, zeros(params))

    def update(grads: PyTree, state: Ranger21State, params: PyTree, **_: Any) -> tuple[PyTree, Ranger21State]:
        now, count = state.count, after(state.count)
        beta1, beta2 = jnp.asarray(at(b1, now)), jnp.asarray(at(b2, now))
        if clipping is not None:
            grads = jax.tree.map(lambda g, p: _clip(g, p, at(clipping, now)), grads, params)
        if centralize:
            grads = optax.centralize().update(grads, optax.EmptyState())[0]
        if normalize:
            grads = jax.tree.map(_normalize, grads)
        nu = moment(state.nu, jax.tree.map(jnp.square, grads), beta2)
        first, second = 1 - beta1**count, 1 - beta2**count
        if beta0 is None:
            m, older, newer = moment(state.older, grads, beta1), None, state.newer
            older, direction = m, m
        else:
            m = moment(state.older, grads, beta1**2)
            direction, older, newer = positive_negative(m, state.newer, at(beta0, now)), state.newer, m
        decay = at(weight_decay, now)
        if stable_decay:
            decay = decay * inverse_root(mean(nu) / second)
        lr = rate(now)

        def step(d: Array, v: Array, p: Array) -> Array:
            below = jnp.sqrt(v / second) + at(eps, now)
            if softplus is not None:
                beta = at(softplus, now)
                below = jax.nn.softplus(beta * below) / beta
            kept = p * (1 - lr * decay)
            if norm_loss is not None:
                size = unit_norms(kept)
                pull = jnp.where(size > 0, 2 * (1 - 1 / jnp.where(size > 0, size, 1)), 0)
                kept = kept * (1 - lr * at(norm_loss, now) * pull)
            return (kept - p) - lr * (d / first) / below

        return jax.tree.map(step, direction, nu, params), Ranger21State(count, older, newer, nu)

    core = rule(init, update, params=True)
    return core if lookahead is None else diloco(core, diloco_outer(0.5, None), period=lookahead)


def _clip(gradient: Array, weight: Array, limit: Any) -> Array:
    """Each unit's gradient to at most limit·max(‖w‖, 1e-3), the unit being a slice of the first axis."""
    size, most = unit_norms(gradient), limit * jnp.maximum(unit_norms(weight), 1e-3)
    return gradient * jnp.where(size > most, most / jnp.where(size > most, size, 1), 1)


def _normalize(gradient: Array) -> Array:
    """Divided by its (unbiased) standard deviation, where it has more than two entries and is not constant."""
    if gradient.size <= 2:
        return gradient
    deviation = jnp.std(gradient, ddof=1)
    return gradient / jnp.where(deviation > 0, deviation, 1)
