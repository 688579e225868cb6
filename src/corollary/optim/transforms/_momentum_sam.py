"""Momentum-SAM (MSAM): SAM for the price of SGD, with the last step's momentum as perturbation.

The momentum buffer v stands in for the gradient, so that no second gradient is needed. The gradient is taken at
θ̃ = θ − ρv/‖v‖, AHEAD along the coming move: the sign is opposite to SAM's ascent (the direction that was just
descended rises again where it is sharp). The caller holds the perturbed parameters θ̃; `momentum_sam_params`
gives θ, for evaluation. Cost: one gradient a step.
Source: Becker, Altrock & Risse, "Momentum-SAM: sharpness aware minimization without computational overhead" (2024),
algorithm 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core.errors import InputError
from corollary.optim.transforms._sam import along
from corollary.optim.transforms._transform import after, at, check, counter, rule, same_types, zeros


class MomentumSAMState(NamedTuple):
    """Steps taken, the momentum v, and the ρ with which the caller's parameters are perturbed."""

    count: Array
    momentum: PyTree
    radius: Array


def momentum_sam(
    learning_rate: Any, rho: Any = 0.3, momentum: Any = 0.9, weight_decay: Any = 0.0
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum whose gradients are taken at θ − ρv/‖v‖; ρ = 0 is SGD with momentum.

    Parameters
    ----------
    learning_rate
        η, number or schedule.
    rho
        ρ ≥ 0, number or schedule.
    momentum
        Of v ← momentum·v + g.
    weight_decay
        Coupled decay, added to the gradient at the point where it was taken.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Updates lead from one perturbed point to the next; no extra arguments.

    Raises
    ------
    InputError
        For values out of range.

    Notes
    -----
    Evaluate and save `momentum_sam_params`, not the perturbed parameters.
    Memory: one number a parameter. Cost: one gradient a step. Defaults: ρ = 0.3, momentum 0.9 of the authors' code.
    When: SAM's accuracy is wanted and its second gradient cannot be paid.

    Examples
    --------
    >>> opt, x = momentum_sam(0.1, rho=0.5), jnp.array([3.0, 4.0])
    >>> step, state = opt.update(2 * x, opt.init(x), x)
    >>> print(momentum_sam_params(optax.apply_updates(x, step), state).round(3))  # x − 0.1·2x
    [2.4 3.2]
    """
    check("learning_rate", learning_rate, 0.0)
    check("rho", rho, 0.0)
    check("momentum", momentum, 0.0, 1.0)
    check("weight_decay", weight_decay, 0.0)

    def init(params: PyTree) -> MomentumSAMState:
        return MomentumSAMState(counter(), zeros(params), jnp.zeros([], jnp.result_type(*jax.tree.leaves(params))))

    def update(grads: PyTree, state: MomentumSAMState, params: PyTree, **_: Any) -> tuple[PyTree, MomentumSAMState]:
        now = state.count
        decay, lr, radius = at(weight_decay, now), at(learning_rate, now), at(rho, now)
        grads = jax.tree.map(lambda g, p: g + decay * p, grads, params)
        v = jax.tree.map(lambda m, g: at(momentum, now) * m + g, state.momentum, grads)
        back, ahead = along(state.momentum, state.radius), along(v, radius)
        updates = jax.tree.map(lambda b, m, a: b - lr * m - a, back, v, ahead)
        return updates, MomentumSAMState(after(now), v, jnp.asarray(radius))

    return rule(init, update, params=True)


def momentum_sam_params(params: PyTree, state: Any) -> PyTree:
    """The unperturbed parameters θ of `momentum_sam`, from the perturbed ones and its state.

    Parameters
    ----------
    params
        What the caller holds.
    state
        The state of `momentum_sam`, alone or inside a chain's.

    Returns
    -------
    PyTree
        θ = θ̃ + ρv/‖v‖.

    Raises
    ------
    InputError
        Where the state holds none of `momentum_sam`, or several.

    Examples
    --------
    >>> x = jnp.ones(2)
    >>> momentum_sam_params(x, momentum_sam(0.1).init(x)).tolist()
    [1.0, 1.0]
    """

    def ours(node: Any) -> bool:
        return isinstance(node, MomentumSAMState)

    found = [node for node in jax.tree.leaves(state, is_leaf=ours) if ours(node)]
    if len(found) != 1:
        raise InputError(f"state: found {len(found)} states of momentum_sam in it, expected one")
    (own,) = found
    return jax.tree.map(lambda p, b: p + b.astype(p.dtype), params, same_types(along(own.momentum, own.radius), params))
