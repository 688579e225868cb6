"""Asynchronous SGD with a fixed delay: the gradient that arrives was computed τ steps ago.

    x_{t+1} = x_t − η g(x_{t−τ}).

On a quadratic with curvature λ this is stable exactly when all roots of z^{τ+1} − z^τ + ηλ lie inside the unit circle,
that is ηλ < 2 sin(π/(2(2τ + 1))): 2 for τ = 0, 1 for τ = 1, about π/(2τ + 1) for long delays.

Cost: one gradient a step; memory τ + 1 copies of the parameters.
Source: Agarwal & Duchi, "Distributed delayed stochastic optimization" (2011); Levin & May, "A note on
difference-delay equations" (1976), theorem 1 (the region).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import finite, norm, spread


def asynchronous_sgd(
    gradient: Callable[..., Any],
    x0: PyTree,
    *,
    learning_rate: float,
    delay: int,
    steps: int,
    key: Any = None,
    curvature: float | None = None,
) -> Solution:
    """SGD with gradients that are `delay` steps old.

    Use it to see what a stale gradient costs before building a parameter server; `delay_stability` gives the step that
    a delay allows.

    Parameters
    ----------
    gradient
        ``gradient(x, key) -> gradient``, a pytree like x.
    x0
        Starting point, any pytree; also what the first τ gradients are taken at.
    learning_rate
        η.
    delay
        τ >= 0; 0 is SGD.
    steps
        How many updates.
    key
        A random key; None: ``jax.random.key(0)``.
    curvature
        The largest curvature λ, where known.

    Returns
    -------
    `Solution` whose value is the last iterate; ``history["step_norm"]`` has ‖x_{t+1} − x_t‖. A fixed number of steps
    is run, so the status is the step limit, or non-finite.

    Certificates: with `curvature`, ``stable`` (theorem: ηλ is below the limit; it assumes a quadratic).

    Raises
    ------
    InputError
        For a setting out of range or an x0 that is not finite.

    Source: Agarwal & Duchi (2011).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> run = asynchronous_sgd(lambda x, key: x, jnp.ones(()), learning_rate=0.3, delay=2, steps=200, curvature=1.0)
    >>> abs(float(run.value)) < 1e-6, bool(run.certificates["stable"].holds)
    (True, True)
    """
    x0 = finite("x0", x0)
    validation.number(0, open_low=True)("learning_rate", learning_rate)
    validation.integer(0)("delay", delay)
    validation.integer(1)("steps", steps)
    validation.number(0, open_low=True, none=True)("curvature", curvature)
    key = jax.random.key(0) if key is None else key
    value, history = _run(gradient, delay, steps, x0, jnp.asarray(learning_rate), key)
    fine = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(value)]))
    certificates = {}
    if curvature is not None:
        certificates["stable"] = _certificate(learning_rate * curvature, delay)
    return Solution(value, certificates, Status.of(False, fine), steps, history={"step_norm": history})


@follows_input
def delay_stability(curvature: Any, delay: int, learning_rate: float | None = None) -> Solution:
    """The largest stable step of delayed gradient descent on a quadratic, and the rate at a given one.

    Use it to rescale a learning rate for a delay. Cost: an eigenvalue problem of size τ + 1 per curvature.

    Parameters
    ----------
    curvature
        Positive curvatures λ (n,), or one.
    delay
        τ >= 0.
    learning_rate
        A step η to judge, or None.

    Returns
    -------
    `Solution` whose value is the limit 2 sin(π/(2(2τ + 1)))/λ_max; with `learning_rate`, ``stats["radius"]`` is the
    largest modulus of the roots over the curvatures: errors shrink by it per step.

    Certificates: with `learning_rate`, ``stable`` (theorem: ηλ_max is below the limit).

    Raises
    ------
    InputError
        For curvatures that are not positive, or a negative delay.

    Source: Levin & May (1976), theorem 1.

    Examples
    --------
    >>> import numpy as np
    >>> [round(float(delay_stability(np.array([1.0]), tau).value), 3) for tau in (0, 1, 2)]
    [2.0, 1.0, 0.618]
    """
    values = np.atleast_1d(np.asarray(curvature, dtype=float))
    validation.number(0, open_low=True)("curvature", float(values.min()))
    validation.vector("curvature", values)
    validation.integer(0)("delay", delay)
    validation.number(0, open_low=True, none=True)("learning_rate", learning_rate)
    limit = 2 * np.sin(np.pi / (2 * (2 * delay + 1)))
    top = float(values.max())
    if learning_rate is None:
        return Solution(np.asarray(limit / top))
    radius = max(float(np.abs(_roots(learning_rate * value, delay)).max()) for value in values)
    certificate = _certificate(learning_rate * top, delay)
    return Solution(np.asarray(limit / top), {"stable": certificate}, stats={"radius": np.asarray(radius)})


def _roots(product: float, delay: int) -> np.ndarray:
    polynomial = np.zeros(delay + 2)
    polynomial[0], polynomial[-1] = 1.0, product
    polynomial[1] -= 1.0
    return np.roots(polynomial)


def _certificate(product: float, delay: int) -> Certificate:
    limit = 2 * np.sin(np.pi / (2 * (2 * delay + 1)))
    return Certificate(
        "eta·lambda < 2 sin(pi/(2(2 tau + 1)))",
        measured=float(product),
        bound=float(limit * (1 - 4 * np.finfo(float).eps)),
        kind="theorem",
        source="Levin & May (1976), theorem 1",
        assumptions=(Assumption("a quadratic with curvatures in (0, λ]"),),
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(gradient: Callable[..., Any], delay: int, steps: int, x0: PyTree, rate: Any, key: Any) -> Any:
    old = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (delay + 1, *leaf.shape)), x0)
    rates = spread(rate, x0)

    def step(carry: Any, t: Any) -> Any:
        x, old = carry
        slot = t % (delay + 1)
        old = jax.tree.map(lambda o, leaf: o.at[slot].set(leaf), old, x)
        stale = jax.tree.map(lambda o: o[(t + 1) % (delay + 1)], old)
        moved = jax.tree.map(lambda g, r: -r * g, gradient(stale, jax.random.fold_in(key, t)), rates)
        return (jax.tree.map(jnp.add, x, moved), old), norm(moved)

    (x, _), history = jax.lax.scan(step, (x0, old), jnp.arange(steps))
    return x, history
