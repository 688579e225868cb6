"""Lion with a diagonal curvature estimate: between Lion, which knows no curvature, and Sophia, which clips by it.

No published algorithm of this name exists; it is defined by its limits. With c = β1·m + (1 − β1)g and an average h of
the curvature estimates handed in:

    ``"scale"``: sign(c)·(h̄/h)^p, h̄ the geometric mean of a leaf's h: constant h gives Lion;
    ``"clip"``:  clip(c/max(γh, ε), −1, 1): with β1 = β2 it is Sophia's update, and where all is clipped, Lion's.

Cost: O(n), and that of the estimates, which may be handed in every step or seldom. Source: Chen et al., "Symbolic
discovery of optimization algorithms" (2023), algorithm 2; Liu et al., "Sophia" (2024), algorithm 3, for the clip.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.optim.transforms._transform import after, at, check, counter, descend, moment, rule, wide, zeros


class CurvatureLionState(NamedTuple):
    """Steps taken, momentum, the averaged curvature and how many estimates it has seen."""

    count: Array
    momentum: PyTree
    curvature: PyTree
    seen: Array


def curvature_scaled_lion(
    learning_rate: Any,
    b1: Any = 0.965,
    b2: Any = 0.99,
    gamma: Any = 0.01,
    power: Any = 0.5,
    curvature_decay: Any = 0.99,
    weight_decay: Any = 0.0,
    *,
    mode: str = "clip",
    eps: Any = 1e-12,
) -> optax.GradientTransformationExtraArgs:
    """Lion's update scaled or clipped by a diagonal curvature estimate.

    Parameters
    ----------
    learning_rate
        η, number or schedule.
    b1, b2
        β1 of the interpolation c, β2 of the momentum.
    gamma
        γ > 0 of ``"clip"``: the larger, the fewer coordinates are clipped.
    power
        p of ``"scale"``.
    curvature_decay
        Of the average of estimates (bias-corrected), in [0, 1); 0 keeps the last.
    weight_decay
        Decoupled λ.
    mode
        ``"clip"`` or ``"scale"``.
    eps
        ε > 0 under the division; relative to a leaf's largest h in ``"scale"``, absolute as in Sophia in ``"clip"``.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, curvature=...)``, a pytree of diagonal estimates (negative entries count as 0);
        left out, the average stays. Before the first estimate the update is Lion's.

    Raises
    ------
    InputError
        For values out of range.

    Notes
    -----
    Memory: two numbers a parameter. Cost: O(n) and the estimates. Defaults: β1, γ and ε of Sophia, β2 of Lion.
    When: Lion's steps are too long in sharp directions and a curvature estimate is at hand.

    Examples
    --------
    >>> opt, x = curvature_scaled_lion(0.1, 0.0, gamma=1.0), jnp.array([1.0, 1.0])
    >>> step, _ = opt.update(x, opt.init(x), x, curvature=jnp.array([0.1, 4.0]))
    >>> print(*(f"{v:.3f}" for v in step))
    -0.100 -0.025
    """
    for name, value in (("b1", b1), ("b2", b2)):
        check(name, value, 0.0, 1.0)
    check("curvature_decay", curvature_decay, 0.0, 1.0, open_high=True)
    check("gamma", gamma, 0.0, open_low=True)
    check("power", power, 0.0)
    check("eps", eps, 0.0, open_low=True)
    validation.one_of("clip", "scale")("mode", mode)

    def init(params: PyTree) -> CurvatureLionState:
        return CurvatureLionState(counter(), zeros(params), zeros(params), counter())

    def update(
        grads: PyTree, state: CurvatureLionState, params: Any = None, curvature: Any = None, **_: Any
    ) -> tuple[PyTree, CurvatureLionState]:
        now = state.count
        h, seen, decay = state.curvature, state.seen, at(curvature_decay, now)
        if curvature is not None:
            h = moment(h, jax.tree.map(lambda x: jnp.maximum(x, 0), wide(curvature)), decay)
            seen = after(seen)
        known = seen > 0
        weight = jnp.where(known, 1 - jnp.asarray(decay) ** jnp.maximum(seen, 1), 1)

        def direction(c: Array, h: Array) -> Array:
            h = h / weight
            if mode == "clip":
                moved = jnp.clip(c / jnp.maximum(at(gamma, now) * h, eps), -1, 1)
            else:
                h = jnp.maximum(h, eps * jnp.max(h, initial=0))
                logs = jnp.log(jnp.where(h > 0, h, 1))
                moved = jnp.sign(c) * jnp.exp(at(power, now) * (jnp.mean(logs) - logs))
            return jnp.where(known, moved, jnp.sign(c))

        c = moment(state.momentum, grads, at(b1, now))
        m = moment(state.momentum, grads, at(b2, now))
        return jax.tree.map(direction, c, h), CurvatureLionState(after(now), m, h, seen)

    return descend(rule(init, update), learning_rate, weight_decay)
