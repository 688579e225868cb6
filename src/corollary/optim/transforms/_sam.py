"""Sharpness-aware minimisation (SAM, ASAM): the base optimizer's step with the gradient taken uphill.

SAM takes the gradient at θ + ε, ε = ρg/‖g‖, the first-order maximiser of the loss in a ball of radius ρ; ASAM measures
the ball relative to the weights, ε = ρT²g/‖Tg‖ with T = |θ| + η, so that rescaling a layer changes nothing.
Use it where a network overfits and twice the gradients can be paid. Cost: one more gradient a step, by `grad_fn`.
Source: Foret, Kleiner, Mobahi & Neyshabur, "Sharpness-aware minimization for efficiently improving generalization"
(2021), eq. (2) and algorithm 1; Kwon, Kim, Park & Choi, "ASAM" (2021), eq. (7) and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.optim._tree import norm
from corollary.optim.transforms._transform import after, at, check, counter, needs, rule

Perturbation = Callable[[PyTree, PyTree, Any, Array], tuple[PyTree, Any]]


class SharpnessState(NamedTuple):
    """Steps taken, the state of the perturbation, the base's state, and ρ‖g‖, the first-order sharpness."""

    count: Array
    memory: Any
    base: Any
    sharpness: Array


def uphill(
    base: optax.GradientTransformation, memory: Callable[[PyTree], Any], perturbation: Perturbation
) -> optax.GradientTransformationExtraArgs:
    """`base` on gradients at θ + ε, with ``ε, memory = perturbation(grads, params, memory, count)``."""
    base = optax.with_extra_args_support(base)

    def init(params: PyTree) -> SharpnessState:
        kind = jnp.result_type(*jax.tree.leaves(params))
        return SharpnessState(counter(), memory(params), base.init(params), jnp.zeros([], kind))

    def update(
        grads: PyTree, state: SharpnessState, params: PyTree, grad_fn: Any = None, **extra: Any
    ) -> tuple[PyTree, SharpnessState]:
        needs("grad_fn", grad_fn, "a function from parameters to the gradient on the same batch")
        away, kept = perturbation(grads, params, state.memory, state.count)
        away = jax.lax.stop_gradient(away)
        there = grad_fn(optax.tree.add(params, away))
        updates, inner = base.update(there, state.base, params, grad_fn=grad_fn, **extra)
        rise = optax.tree.vdot(grads, away)
        return updates, SharpnessState(after(state.count), kept, inner, jnp.asarray(rise))

    return rule(init, update, params=True)


def along(direction: PyTree, radius: Any) -> PyTree:
    """radius·direction/‖direction‖; zero where the direction is."""
    size = norm(direction)
    return optax.tree.scale(radius * jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0), direction)


def sam(
    base: optax.GradientTransformation, rho: Any = 0.05, *, adaptive: bool = False, eta: Any = 0.01
) -> optax.GradientTransformationExtraArgs:
    """Sharpness-aware minimisation around any optimizer; ``adaptive=True`` is ASAM.

    Parameters
    ----------
    base
        The optimizer that steps, e.g. ``optax.sgd(0.1, 0.9)``.
    rho
        Radius ρ of the ball, number or schedule; 0 is the base. ASAM wants ten times as much (0.5).
    adaptive
        Measure the ball relative to the weights.
    eta
        ASAM's η, added to |θ| so that zero weights move, too.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, grad_fn=...)`` with `grad_fn` from parameters to the gradient on the same batch.
        ``state.sharpness`` is ⟨g, ε⟩, the first-order rise of the loss (ρ‖g‖ for SAM).

    Raises
    ------
    InputError
        For a negative ρ or η, and a call without `grad_fn`.

    Notes
    -----
    No gradient flows through ε. Memory: that of the base. Cost: two gradients a step.
    Defaults: ρ = 0.05 of Foret et al., section 3.1; η = 0.01 of Kwon et al., section 5. When: networks that overfit.

    Examples
    --------
    >>> loss = lambda x: (x**2).sum()
    >>> opt, x = sam(optax.sgd(0.25), rho=0.1), jnp.array([3.0, 4.0])
    >>> step, _ = opt.update(jax.grad(loss)(x), opt.init(x), x, grad_fn=jax.grad(loss))
    >>> print(*(f"{v:.2f}" for v in step))  # −0.25·2·(x + 0.1·x/5)
    -1.53 -2.04
    """
    check("rho", rho, 0.0)
    check("eta", eta, 0.0)

    def perturbation(grads: PyTree, params: PyTree, memory: Any, count: Array) -> tuple[PyTree, Any]:
        if not adaptive:
            return along(grads, at(rho, count)), memory
        scale = jax.tree.map(lambda p: jnp.abs(p) + eta, params)
        ball = along(jax.tree.map(jnp.multiply, scale, grads), at(rho, count))
        return jax.tree.map(jnp.multiply, scale, ball), memory

    return uphill(base, lambda params: (), perturbation)
