"""Approximate second-order stationarity: ‖∇f‖ ≤ ε and λ_min(∇²f) ≥ −√(ρε), each held against what was measured.

The smallest Ritz value of Lanczos is at least λ_min: below −√(ρε) it proves a saddle, above it proves nothing.
Stationarity is certified by the probabilistic lower bound of `_extremes`. Cost: a gradient and `steps` Hessian
products. Source: Nesterov & Polyak, "Cubic regularization of Newton method" (2006), for the pair of conditions;
Royer, O'Neill & Wright (2020), for their check by Lanczos.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.hessian import hessian_operator
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import at_least_zero, finite, like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._extremes import SOURCE, extremes


@follows_input
def second_order_stationarity(
    f: Callable[[Any], Any],
    x: Any,
    *,
    eps: Any,
    rho: Any,
    key: Key[Array, ""] | None = None,
    steps: int = 40,
    failure: Any = 1e-3,
) -> Solution:
    """Whether x is an (ε, √(ρε)) second-order stationary point, and a way down where it is not.

    Use it where a gradient method stopped. Cost: one gradient and `steps` Hessian-vector products. It can be jitted
    and vmapped over x and key.

    Parameters
    ----------
    f
        Twice differentiable function of an array or pytree.
    x
        The point.
    eps
        ε > 0.
    rho
        A Lipschitz constant ρ > 0 of the Hessian, which sets how much negative curvature counts.
    key
        `jax.random.key` of the random start; ``None``: a fixed one (the start must not depend on f).
    steps
        Of Lanczos; the dimension at most is taken.
    failure
        The probability with which the lower bound of λ_min may fail.

    Returns
    -------
    Solution
        ``value``: True where both conditions are certified. ``stats``: ``gradient_norm``; ``lambda_min``, the smallest
        Ritz value, λ_min ≤ it; ``lambda_min_lower``, the probabilistic bound λ_min ≥ it; ``residual`` ‖Hv − θv‖;
        ``direction``, the unit vector v of that Ritz value, with ⟨∇f, v⟩ ≤ 0; ``saddle``, True where vᵀHv < −√(ρε):
        certain, as a Rayleigh quotient. Status ``MAX_STEPS`` where neither could be shown: raise `steps`.

    Raises
    ------
    InputError
        For an x that is not finite, and settings out of range.

    Notes
    -----
    Certificates: ``gradient`` (monitor), ‖∇f(x)‖ ≤ ε; ``curvature`` (probabilistic), −λ_min ≤ −(lower bound) ≤ √(ρε).

    Examples
    --------
    >>> found = second_order_stationarity(lambda x: x[0] ** 2 - x[1] ** 2, [0.0, 0.0], eps=1e-4, rho=1.0)
    >>> bool(found.value), bool(found.stats["saddle"]), round(float(found.stats["lambda_min"]), 6)
    (False, True, -2.0)
    """
    x = finite("x", x)
    for name, value in (("eps", eps), ("rho", rho)):
        at_least_zero(name, value, positive=True)
    validation.integer(1)("steps", steps)
    if not isinstance(failure, jax.Array):
        validation.number(0.0, 1.0, open_low=True)("failure", failure)
    key = jax.random.key(0) if key is None else key
    return _look(f, x, like(eps, x), like(rho, x), key, steps, like(failure, x))


@eqx.filter_jit
def _look(
    f: Callable[[Any], Any], x: PyTree, eps: Scalar, rho: Scalar, key: Key[Array, ""], steps: int, failure: Scalar
) -> Solution:
    gradient = jax.grad(f)(x)
    found = extremes(hessian_operator(f, x).mv, x, steps, key, failure)
    size, depth = norm(gradient), jnp.sqrt(rho) * jnp.sqrt(eps)
    uphill = jnp.greater(optax.tree.vdot(gradient, found.low_vector), 0)
    direction = optax.tree.scale(jnp.where(uphill, -1, 1).astype(size.dtype), found.low_vector)
    certificates = {
        "gradient": Certificate(
            "‖∇f(x)‖ <= ε", size, eps + rounding(eps), "monitor", "Nesterov & Polyak (2006), section 3"
        ),
        "curvature": Certificate(
            "−λ_min(∇²f(x)) <= √(ρε), from a lower bound of λ_min",
            -found.lower,
            depth + rounding(depth) + found.noise,
            "probabilistic",
            SOURCE,
            confidence=1 - failure,
            assumptions=(Assumption("the start of Lanczos was drawn independently of f"),),
        ),
    }
    second = certificates["curvature"].holds
    saddle = found.smallest < -depth - found.noise
    known = jnp.isfinite(size) & jnp.isfinite(found.scale)
    stats = {
        "gradient_norm": size,
        "lambda_min": found.smallest,
        "lambda_min_lower": found.lower,
        "residual": found.residual,
        "direction": direction,
        "saddle": saddle,
    }
    status = Status.of(second | saddle, known)
    return Solution(certificates["gradient"].holds & second, certificates, status, found.count, stats)
