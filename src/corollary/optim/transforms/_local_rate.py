"""Local linear rates of Adam and RMSProp near a minimum, and rates fitted from runs on the quadratic.

Near a minimum the second moment dies out under ε, and Adam is Polyak's heavy ball with steps (η/ε)(1 − β1), RMSProp
gradient descent with steps η/ε. With the best parameters their rates are, for κ = L/μ of the Hessian's eigenvalues,

    Adam: (√κ − 1)/(√κ + 1) at β1 = that squared;    RMSProp: (κ − 1)/(κ + 1).

Use it to see what momentum is worth at a given conditioning. Cost: O(steps·n) for the fit.
Source: Dereich, Jentzen & Riekert, "Sharp higher order convergence rates for the Adam optimizer" (2025), theorem 1.1;
Polyak, "Some methods of speeding up the convergence of iteration methods" (1964).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import norm

SOURCE = "Dereich, Jentzen & Riekert (2025), theorem 1.1"


@follows_input
def adam_rmsprop_local_rate(eigenvalues: Any, *, steps: int = 400) -> Solution:
    """Best local rates of Adam and RMSProp for a Hessian's spectrum, beside rates fitted from runs.

    Parameters
    ----------
    eigenvalues
        Positive eigenvalues of the Hessian, a vector.
    steps
        Length of the runs; several times √κ is needed for the fit.

    Returns
    -------
    Solution
        ``value``: a dict of ``adam`` and ``rmsprop``, the factors by which the error falls a step; ``history``: the
        errors of both runs; ``stats``: the fitted rates with standard errors, and the best parameters (η for ε = 1).

    Raises
    ------
    InputError
        For eigenvalues that are not positive, and fewer than 20 steps.

    Notes
    -----
    Certificates: ``adam``, ``rmsprop`` (estimate): the rates fitted from runs, with the standard error of the slope;
    the theorem is of limits and bounds no finite run. ``order`` (exact): Adam's rate is at most RMSProp's. The fit over
    the second half is log e_t = a + t·log ρ for RMSProp and log(e_t/t) for Adam, whose double root gives e_t ~ tρ^t;
    what it neglects moves log ρ by O(1/steps²).

    Examples
    --------
    >>> run = adam_rmsprop_local_rate([1.0, 9.0])
    >>> [round(float(run.value[k]), 3) for k in ("adam", "rmsprop")], bool(run.holds)
    ([0.5, 0.8], True)
    """
    h = jnp.asarray(validation.vector("eigenvalues", eigenvalues))
    validation.integer(20)("steps", steps)
    if not isinstance(h, Tracer) and not bool(jnp.all(h > 0)):
        raise InputError("eigenvalues: found one <= 0, expected positive ones")
    low, high = jnp.min(h), jnp.max(h)
    root = jnp.sqrt(high / low)
    rates = {"adam": (root - 1) / (root + 1), "rmsprop": (high - low) / (high + low)}
    b1 = rates["adam"] ** 2
    # Heavy ball: (η/ε)(1 − β1) = 4/(√L + √μ)²; gradient descent: η/ε = 2/(L + μ).
    settings = {
        "b1": b1,
        "adam_learning_rate": 4 / (jnp.sqrt(high) + jnp.sqrt(low)) ** 2 / (1 - b1),
        "rmsprop_learning_rate": 2 / (high + low),
    }
    # In units of the largest curvature, so that the scale of the loss plays no part.
    lengths = {k: v if k == "b1" else v * high for k, v in settings.items()}
    errors = _runs(h / high, lengths, rates, steps)
    certificates, stats = {}, dict(settings)
    for name in rates:
        fitted, stderr = _fit(errors[name], double_root=name == "adam")
        stats |= {f"{name}_fitted": fitted, f"{name}_stderr": stderr}
        local = jnp.max(errors[name]) * _nearness(h.dtype) * h.size**0.5 <= 1e-3
        known = (Assumption("the second moment is far below ε", True, local),)
        certificates[name] = Certificate(
            f"fitted rate of {name}", fitted, None, "estimate", SOURCE, stderr=stderr, assumptions=known
        )
    bound = rates["rmsprop"] + rounding(jnp.ones_like(root))
    certificates["order"] = Certificate("rate of Adam <= rate of RMSProp", rates["adam"], bound, "exact", SOURCE)
    return Solution(rates, certificates, 0, steps, stats, errors)


@partial(jax.jit, static_argnames="steps")
def _runs(h: Array, settings: dict[str, Array], rates: dict[str, Array], steps: int) -> dict[str, Array]:
    # So near the minimum that √v is far below ε = 1, through the growth at the start too (a step over 1 − β1).
    start = _nearness(h.dtype) / h
    decay = {name: 0.25 * rate**2 for name, rate in rates.items()}
    direction = {
        "adam": optax.scale_by_adam(settings["b1"], decay["adam"], eps=1.0),
        "rmsprop": optax.scale_by_rms(decay["rmsprop"], eps=1.0, eps_in_sqrt=False),
    }
    found = {}
    for name, method in direction.items():
        lr = settings[f"{name}_learning_rate"]

        def body(carry: Any, _: None, method: Any = method, lr: Any = lr) -> Any:
            x, state = carry
            with jax.numpy_dtype_promotion("standard"):
                updates, state = method.update(h * x, state)
            x = x - lr * updates.astype(x.dtype)
            return (x, state), norm(x * h) / norm(start * h)

        _, found[name] = jax.lax.scan(body, (start, method.init(start)), length=steps)
    return found


def _nearness(dtype: Any) -> float:
    """Size of the gradients at the start, in units of ε."""
    return float(jnp.finfo(dtype).tiny) ** 0.25


def _fit(errors: Array, *, double_root: bool) -> tuple[Array, Array]:
    """The rate and its standard error from log e (or log e/t) = a + t·log ρ, over the second half above underflow."""
    t = jnp.arange(1, errors.shape[0] + 1).astype(errors.dtype)
    alive = errors * _nearness(errors.dtype) > 1e6 * jnp.finfo(errors.dtype).tiny
    last = jnp.sum(alive)
    w = (alive & (t > last / 2)).astype(errors.dtype)
    y = jnp.log(jnp.where(alive, errors, 1)) - (jnp.log(t) if double_root else 0)
    count = jnp.maximum(jnp.sum(w), 1)
    t, y = t - jnp.sum(w * t) / count, y - jnp.sum(w * y) / count
    spread = jnp.maximum(jnp.sum(w * t**2), 1)
    slope = jnp.sum(w * t * y) / spread
    variance = jnp.sum(w * (y - slope * t) ** 2) / jnp.maximum(count - 2, 1) / spread
    known = last > 8
    rate = jnp.where(known, jnp.exp(slope), 0)
    return rate, jnp.where(known, rate * jnp.sqrt(variance), 0)
