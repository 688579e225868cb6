"""The step-size conditions of Robbins and Monro: Σ η_t = ∞ and Σ η_t² < ∞, or the relaxed Σ η_t^p < ∞ with p > 2.

For η_t = c/t^α they are questions of the exponent: Σ η_t = ∞ iff α ≤ 1, and Σ η_t^p < ∞ iff αp > 1. So 1/t passes, 1/√t
does not (Σ 1/t diverges), nor do t^{−1/3} or t^{−2}; with p > 2 the range 1/p < α ≤ 1/2 passes as well. Where they
hold, SGD converges almost surely on convex problems; without convexity only ‖∇f(x_t)‖ → 0 follows, not a minimum. Any
finite list of steps is the start of a schedule that passes and of one that fails: of a list, only an estimate can be
given. Source: Robbins & Monro (1951); Robbins & Siegmund (1971); Mertikopoulos, Hallak, Kavis & Cevher (2020), for p >
2.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError

SOURCE = "Robbins & Monro (1951), conditions (26) and (27); p-series test"


class StepConditions(eqx.Module):
    """Which of the conditions a schedule meets.

    Attributes
    ----------
    exponent
        α of η_t ~ c/t^α, as given or fitted to the tail.
    diverges
        Σ η_t = ∞: the iterates can reach any point.
    square_summable, power_summable
        Σ η_t² < ∞, and Σ η_t^p < ∞: the noise dies out.
    classical, relaxed
        `diverges` with `square_summable`; `diverges` with `power_summable`.
    certificate
        ``exact`` for a given exponent (the distance of α to the interval of those that pass the relaxed test, zero
        within); for a fitted one the exponent as an ``estimate`` with its standard error.
    """

    exponent: float
    diverges: bool
    square_summable: bool
    power_summable: bool
    classical: bool
    relaxed: bool
    certificate: Certificate


def robbins_monro_check(schedule: Any, *, p: float = 2.0, steps: int = 100_000) -> StepConditions:
    """Whether a step-size schedule meets the Robbins-Monro conditions, classical and relaxed.

    Parameters
    ----------
    schedule
        The exponent α ≥ 0 of c/t^α; or a vector of steps η_1, η_2, …, or a function of the step's number t ≥ 1 (as
        Optax schedules are), whose tail is fitted.
    p
        Power of the relaxed condition, ≥ 2.
    steps
        At how many steps a function is looked at, on a geometric grid.

    Returns
    -------
    StepConditions
        The fit of a tail counts as on the boundary (1, 1/2 or 1/p) where that is within two standard errors.

    Raises
    ------
    InputError
        For steps that are not positive.

    Examples
    --------
    >>> [robbins_monro_check(a).classical for a in (1.0, 0.75, 0.5, 1 / 3, 2.0)]
    [True, True, False, False, False]
    >>> robbins_monro_check(0.4, p=3.0).relaxed, robbins_monro_check(0.4, p=3.0).classical
    (True, False)
    >>> robbins_monro_check(lambda t: 1 / (10 + t)).classical
    True
    """
    validation.number(2.0)("p", p)
    if np.isscalar(schedule):
        alpha, error = float(validation.number(0.0)("schedule", schedule)), None
    else:
        alpha, error = _tail(schedule, steps)
    grain = 0.0 if error is None else 2 * error + 1e-3
    # On the edge Σ 1/t diverges: α = 1 counts for the first condition, α = 1/2 and α = 1/p against the others.
    diverges = alpha <= 1 + grain
    square, power = alpha > 0.5 + grain, alpha * p > 1 + p * grain
    if error is None:
        outside = max(alpha - 1, 0.0) if power else max(1 / p - alpha, np.finfo(float).tiny)
        certificate = Certificate("1/p < α <= 1", outside, 0.0, "exact", SOURCE)
    else:
        certificate = Certificate("exponent of the tail", alpha, None, "estimate", "regression", stderr=error)
    return StepConditions(alpha, diverges, square, power, diverges and square, diverges and power, certificate)


def _tail(schedule: Any, steps: int) -> tuple[float, float]:
    """The exponent fitted to the last decades, and its standard error; the drift between its halves counts as error."""
    if callable(schedule):
        validation.integer(100)("steps", steps)
        t = np.unique(np.geomspace(max(steps / 100, 1), steps, 64).astype(int))
        eta = np.array([schedule(int(k)) for k in t], dtype=float)
    else:
        eta = validation.vector("schedule", schedule, host=True)
        eta = np.asarray(eta, dtype=float)
        if eta.size < 16:
            raise InputError(f"schedule: found {eta.size} steps, expected at least 16")
        t = np.arange(1, eta.size + 1)[eta.size // 4 :]
        eta = eta[eta.size // 4 :]
    if not np.all(eta > 0) or not np.all(np.isfinite(eta)):
        raise InputError("schedule: found steps that are not positive and finite, expected η_t > 0")
    x, y = np.log(t), np.log(eta)
    slope, stderr = _line(x, y)
    # A schedule c/(t + t0)^α has a slope that still drifts: the later half is the better guess, the drift its error.
    late = x >= (x[0] + x[-1]) / 2
    if late.sum() >= 4:
        later, later_error = _line(x[late], y[late])
        return -later, later_error + abs(later - slope)
    return -slope, stderr


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    residual = y - y.mean() - slope * x
    return slope, float(np.sqrt(residual @ residual / max(x.size - 2, 1) / (x @ x)))
