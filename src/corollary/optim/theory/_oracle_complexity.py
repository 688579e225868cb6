"""How many gradients a class of functions costs: lower and upper counts, with the method that attains the upper one.

Deterministic counts are of gradients, stochastic ones of noisy gradients. Orders agree between lower and upper,
constants do not. Smooth non-convex: Θ(LΔ/ε²) gradients; only with noise does it become Θ(LΔσ²/ε⁴).
Source: Nesterov, "Lectures on Convex Optimization" (2018), theorems 2.1.7, 2.1.13, 2.2.3, 3.2.1 and 3.2.2; Carmon,
Duchi, Hinder & Sidford, "Lower bounds for finding stationary points I" (2020), theorem 2; Arjevani, Carmon, Duchi,
Foster, Srebro & Woodworth, "Lower bounds for non-convex stochastic optimization" (2023), theorem 1; Ghadimi & Lan
(2013); the two-point method: Agarwal, Bartlett, Ravikumar & Wainwright (2012).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import equinox as eqx

from corollary.core import validation
from corollary.core.errors import InputError

FunctionClass = Literal[
    "smooth-convex",
    "smooth-strongly-convex",
    "lipschitz-convex",
    "smooth-nonconvex",
    "stochastic-convex",
    "stochastic-smooth-nonconvex",
]
CHAIN = 152 * 12  # of Carmon et al. (2020), lemma 3: smoothness and descent of their chain per link


class OracleComplexity(eqx.Module):
    """Counts of gradients for one class.

    Attributes
    ----------
    lower
        No method is certain to get there with so many gradients or fewer (in high enough dimension).
    upper
        `method` gets there with so many.
    order
        Both, in O(·).
    method, goal, source
        In words.
    """

    lower: int
    upper: int
    order: str = eqx.field(static=True)
    method: str = eqx.field(static=True)
    goal: str = eqx.field(static=True)
    source: str = eqx.field(static=True)


def oracle_complexity(
    kind: str,
    eps: float,
    *,
    lipschitz: float | None = None,
    strong_convexity: float | None = None,
    radius: float | None = None,
    gap: float | None = None,
    slope: float | None = None,
    noise: float | None = None,
) -> OracleComplexity:
    """Lower and upper counts of gradients to accuracy ε for a class of functions.

    Parameters
    ----------
    kind
        ``"smooth-convex"`` (L, R), ``"smooth-strongly-convex"`` (L, μ, R), ``"lipschitz-convex"`` (G, R),
        ``"smooth-nonconvex"`` (L, Δ), ``"stochastic-convex"`` (σ, R), ``"stochastic-smooth-nonconvex"`` (L, Δ, σ).
    eps
        ε: of f(x) − f* in the convex classes, of ‖∇f(x)‖ otherwise.
    lipschitz, strong_convexity
        L and μ of the gradient.
    radius
        R ≥ ‖x0 − x*‖.
    gap
        Δ ≥ f(x0) − f*.
    slope
        G ≥ ‖subgradients‖.
    noise
        σ: root mean square of a noisy gradient (convex), standard deviation of it (non-convex).

    Raises
    ------
    InputError
        For an unknown class, a missing constant or one out of range.

    Examples
    --------
    >>> count = oracle_complexity("smooth-convex", 1e-4, lipschitz=1.0, radius=1.0)
    >>> count.lower, count.upper, count.method
    (29, 141, 'Nesterov')
    """
    validation.one_of(*get_args(FunctionClass))("kind", kind)
    given = {
        "lipschitz": lipschitz,
        "strong_convexity": strong_convexity,
        "radius": radius,
        "gap": gap,
        "slope": slope,
        "noise": noise,
    }

    def take(name: str) -> float:
        if given[name] is None:
            raise InputError(f"{name}: found None, expected a number for the class {kind!r}")
        return float(validation.number(0.0, open_low=True)(name, given[name]))

    eps = float(validation.number(0.0, open_low=True)("eps", eps))
    if kind == "smooth-convex":
        scale = take("lipschitz") * take("radius") ** 2 / eps
        lower, upper = math.sqrt(3 * scale / 32) - 1, math.sqrt(2 * scale) - 1
        words = ("√(LR²/ε)", "Nesterov", "f(x) − f* <= ε", "Nesterov (2018), theorems 2.1.7 and 2.2.3")
    elif kind == "smooth-strongly-convex":
        L, m, R = take("lipschitz"), take("strong_convexity"), take("radius")
        if m >= L:
            raise InputError(f"strong_convexity: found {m}, expected less than lipschitz = {L}")
        root = math.sqrt(L / m)
        lower = math.log(max(m * R**2 / (2 * eps), 1.0)) / (2 * math.log((root + 1) / (root - 1)))
        upper = root * math.log(max((L + m) * R**2 / (2 * eps), 1.0))
        words = ("√κ log(1/ε)", "Nesterov", "f(x) − f* <= ε", "Nesterov (2018), theorems 2.1.13 and 2.2.3")
    elif kind == "lipschitz-convex":
        scale = take("slope") * take("radius") / eps
        lower, upper = max(scale / 2 - 2, 0.0) ** 2 - 1, scale**2
        words = ("(GR/ε)²", "subgradient method", "f(x) − f* <= ε", "Nesterov (2018), theorems 3.2.1 and 3.2.2")
    elif kind == "smooth-nonconvex":
        scale = take("lipschitz") * take("gap") / eps**2
        lower, upper = scale / CHAIN, 2 * scale
        words = ("LΔ/ε²", "gradient descent", "‖∇f(x)‖ <= ε", "Carmon et al. (2020), theorem 2")
    elif kind == "stochastic-convex":
        scale = (take("noise") * take("radius") / eps) ** 2
        # Two points: slopes ±2ε/R hidden in steps of ±σ; valid to ε = σR/4.
        lower, upper = scale / 24 if scale >= 16 else 0.0, scale
        words = (
            "(σR/ε)²",
            "SGD, averaged",
            "E f(x) − f* <= ε",
            "Agarwal et al. (2012); Nesterov (2018), theorem 3.2.2",
        )
    else:
        L, gap_, sigma = take("lipschitz"), take("gap"), take("noise")
        scale = L * gap_ / eps**2
        # The stochastic lower bound has no explicit constant; the deterministic one holds here, too.
        lower, upper = scale / CHAIN, 4 * scale * max(1.0, 2 * sigma**2 / eps**2)
        words = ("LΔσ²/ε⁴", "SGD", "E‖∇f(x)‖² <= ε²", "Arjevani et al. (2023), theorem 1; Ghadimi & Lan (2013)")
    return OracleComplexity(max(math.floor(lower * (1 + 1e-12)), 0), max(math.ceil(upper * (1 - 1e-12)), 0), *words)
