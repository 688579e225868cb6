"""The order of convergence, read off a history of errors, gaps or gradient norms.

Three regressions on the logarithms: log e against log t (sublinear, e ~ t^−p), log e against t (linear, e ~ q^t), and
log e_{t+1} against log e_t, whose slope is the order (2: quadratic). Cost: O(n). Source: Nocedal & Wright, "Numerical
Optimization" (2006), section A.2, for the definitions; intervals are the regressions' own.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np
import scipy.stats

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError

SUPERLINEAR = 1.2  # an order whose whole interval lies above this is not linear convergence


class ConvergenceFit(eqx.Module):
    """What a history of errors looks like.

    Attributes
    ----------
    model
        ``"sublinear"`` (e ~ t^−p), ``"linear"`` (e ~ q^t), ``"superlinear"`` or ``"quadratic"`` (e ~ e_prev^order).
    parameter, interval
        p, q or the order, with its confidence interval.
    entry
        First step of the locally linear phase (from there on every ratio is within a tenth of the last ones); None
        where there is none.
    certificate
        The parameter as an ``estimate`` with its standard error.
    """

    model: str
    parameter: float
    interval: tuple[float, float]
    entry: int | None
    certificate: Certificate


def fit_convergence(errors: Any, *, confidence: float = 0.95, start: int = 1) -> ConvergenceFit:
    """Which order of convergence a history of positive errors shows, with an interval.

    Use it on ``solution.history["suboptimality"]`` or on gradient norms. It looks at the second half of the history
    (the first has not settled), and at all of it for an order above one, where a history is short. NaN padding, and the
    floor of rounding where the errors stop falling, are cut off. An estimate: no theorem stands behind it.

    Parameters
    ----------
    errors
        Vector of at least 4 positive numbers; a trailing part that is zero or NaN is ignored.
    confidence
        Of the interval.
    start
        The t of the first entry.

    Raises
    ------
    InputError
        Where fewer than 4 positive errors are left.

    Examples
    --------
    >>> fit = fit_convergence([0.9**t for t in range(1, 60)])
    >>> fit.model, round(fit.parameter, 6)
    ('linear', 0.9)
    """
    validation.number(0.0, 1.0, open_low=True)("confidence", confidence)
    if confidence == 1:
        raise InputError("confidence: found 1, expected a number in (0, 1)")
    e = _usable(errors)
    if np.ptp(e[:-1]) == 0:
        raise InputError("errors: found equal numbers, expected errors that fall")
    t, log_e = start + np.arange(e.size), np.log(e)
    order = _line(log_e[:-1], log_e[1:], confidence)
    if order[1][0] > SUPERLINEAR:
        quadratic = order[1][0] <= 2 <= order[1][1] or abs(order[0] - 2) < 0.1
        return _fit("quadratic" if quadratic else "superlinear", order, None, confidence)
    tail = slice(e.size // 2 if e.size >= 8 else 0, None)
    power, linear = _line(np.log(t[tail]), log_e[tail], confidence), _line(t[tail], log_e[tail], confidence)
    if power[3] < linear[3]:
        return _fit("sublinear", (-power[0], (-power[1][1], -power[1][0]), power[2]), None, confidence)
    q, interval = np.exp(linear[0]), (float(np.exp(linear[1][0])), float(np.exp(linear[1][1])))
    return _fit("linear", (float(q), interval, float(q * linear[2])), start + _entry(log_e), confidence)


def _usable(errors: Any) -> np.ndarray:
    e = np.asarray(errors, dtype=float)
    if e.ndim != 1:
        raise InputError(f"errors: found an array of shape {e.shape}, expected a vector")
    positive = np.isfinite(e) & (e > 0)
    e = e[: int(np.argmin(positive))] if not positive.all() else e
    if e.size < 4:
        raise InputError(f"errors: found {e.size} leading positive numbers, expected at least 4")
    # The floor: nothing after the smallest error (and its equals) tells of convergence.
    last = int(np.argmin(e)) + 1
    return e[: max(last, 4)]


def _line(x: np.ndarray, y: np.ndarray, confidence: float) -> tuple[float, tuple[float, float], float, float]:
    """Slope, its interval, its standard error, and the mean squared residual of a least-squares line."""
    fit: Any = scipy.stats.linregress(x, y)
    slope, stderr = float(fit.slope), float(fit.stderr)
    half = float(scipy.stats.t.ppf((1 + confidence) / 2, max(x.size - 2, 1))) * stderr
    residual = y - (fit.intercept + slope * x)
    return slope, (slope - half, slope + half), stderr, float(np.mean(residual**2))


def _entry(log_e: np.ndarray) -> int:
    ratios = np.diff(log_e)
    settled = np.median(ratios[-max(ratios.size // 4, 1) :])
    off = np.flatnonzero(np.abs(ratios - settled) > 0.1 * np.abs(settled))
    return int(off[-1]) + 1 if off.size else 0


def _fit(model: str, found: tuple, entry: int | None, confidence: float) -> ConvergenceFit:
    parameter, interval, stderr = found[:3]
    certificate = Certificate(
        f"{model} convergence",
        float(parameter),
        None,
        "estimate",
        "regression of log errors",
        confidence,
        float(stderr),
    )
    return ConvergenceFit(model, float(parameter), (float(interval[0]), float(interval[1])), entry, certificate)
