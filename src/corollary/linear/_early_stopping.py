"""Early stopping as a spectral filter, beside ridge's: gradient descent stopped after t steps shrinks like α = 1/(ηt).

On ½‖y − Xβ‖² from zero, t steps of size η keep the share 1 − (1 − ησ²)^t of a component with singular value σ; ridge
with α = 1/(ηt) keeps σ²/(σ² + 1/(ηt)). Under gradient flow the risk is within 1.6862 of ridge's, component by
component, whatever the truth. Cost O(p).
Source: Ali, Kolter & Tibshirani (2019), *A continuous-time view of early stopping for least squares*, thms 1-2.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Solution

RATIO = 1.6862  # max over x of ((1 − e⁻ˣ)(1 + x)/x)²

Numbers = Float[Array | np.ndarray, "..."] | np.floating | float


class Filters(eqx.Module):
    """Shares kept of each component, by descent and by ridge at α = 1/(ηt); with a truth, both risks, their ratio."""

    descent: Float[Array | np.ndarray, " p"]
    ridge: Float[Array | np.ndarray, " p"]
    descent_risk: Numbers | None
    ridge_risk: Numbers | None
    ratio: Numbers | None


@follows_input
def early_stopping_filter(
    sigma: Any, step_size: Any, steps: Any, *, signal: Any = None, noise: Any = 1.0, flow: bool = False
) -> Solution:
    """The filter of t gradient steps and of the ridge with α = 1/(ηt); with a truth, both estimation risks.

    Parameters
    ----------
    sigma : (p,)
        Singular values of X.
    step_size, steps
        η and t; ησ² < 2 for descent to converge.
    signal : (p,), optional
        True coefficients in the basis of right singular vectors: then E‖β̂ − β‖² is computed for both.
    noise
        Variance of the errors of y.
    flow
        True: the limit of small steps, 1 − exp(−ηtσ²), for which the theorem speaks.

    Returns
    -------
    Solution
        ``value`` is a `Filters`. Certificate ``risk_ratio`` (theorem) where `signal` is given: risk of descent over
        risk of ridge ≤ 1.6862, under gradient flow. For finite steps it is claimed where ησ_max² ≤ 1/100 brings them
        within 2 % of that flow.

    Raises
    ------
    InputError
        For negative singular values, η ≤ 0, t < 0, ησ² ≥ 2, shapes that do not match.

    References
    ----------
    Ali, Kolter & Tibshirani (2019), theorems 1 and 2.

    Examples
    --------
    >>> import numpy as np
    >>> out = early_stopping_filter(np.array([1.0, 0.1]), 0.5, 4).value
    >>> np.round(out.descent, 4).tolist(), np.round(out.ridge, 4).tolist()
    ([0.9375, 0.0199], [0.6667, 0.0196])
    """
    validation.flag("flow", flow)
    sigma = validation.vector("sigma", sigma)
    truth = jnp.zeros_like(sigma) if signal is None else validation.vector("signal", signal)
    validation.same_length("sigma", sigma, "signal", truth)
    sigma, truth = common_float(sigma, truth)
    eta, t, noise = (jnp.asarray(a, sigma.dtype) for a in (step_size, steps, noise))
    u = eta * sigma**2
    if not any(isinstance(a, Tracer) for a in (sigma, eta, t, noise)):
        if not (bool((sigma >= 0).all()) and float(eta) > 0 and float(t) >= 0 and float(noise) >= 0):
            raise InputError(
                "sigma, step_size, steps, noise: found a negative number, expected all >= 0 and step_size > 0"
            )
        if not flow and float(u.max()) >= 2:
            raise InputError(
                f"step_size: found {float(eta):g}, expected less than 2/σ² = {2 / float(sigma.max()) ** 2:g}"
            )
    if flow:
        descent = -jnp.expm1(-t * u)
    else:  # log1p keeps the small components' digits; beyond u = 1 the factor changes its sign each step
        small = -jnp.expm1(t * jnp.log1p(-jnp.minimum(u, 0.5)))
        descent = jnp.where(u <= 0.5, small, 1 - (1 - u) ** t)
    keep = u * t / (1 + u * t)
    if signal is None:
        return Solution(Filters(descent, keep, None, None, None))

    def risk(share: Any) -> Any:
        squares = jnp.where(sigma > 0, sigma, 1.0) ** 2
        return jnp.sum(((1 - share) * truth) ** 2 + noise * jnp.where(sigma > 0, share**2 / squares, 0.0))

    ours, theirs = risk(descent), risk(keep)
    ratio = jnp.where(theirs > 0, ours / jnp.where(theirs > 0, theirs, 1.0), jnp.where(ours > 0, jnp.inf, 1.0))
    eps = float(jnp.finfo(sigma.dtype).eps)
    near = jnp.asarray(True) if flow else jnp.max(u) <= 0.01
    bound = Certificate(
        "risk of early stopping ≤ 1.6862 · risk of ridge at α = 1/(ηt)",
        ratio,
        RATIO * (1 + (0.0 if flow else 0.02)) + 8 * eps * len(sigma),
        "theorem",
        "Ali, Kolter & Tibshirani (2019), thms 1-2",
        assumptions=(
            Assumption("gradient flow (or ησ² ≤ 1/100)", True, near),
            Assumption("zero start, uncorrelated errors"),
        ),
    )
    return Solution(Filters(descent, keep, ours, theirs, ratio), {"risk_ratio": bound})
