"""The learning rate at another batch size: linear, square root, or capped by the critical batch size.

With κ = B/B0: SGD keeps its noise temperature η/B under η ∝ κ, as long as steps stay small against the curvature;
Adam's update is normalised by its own noise, and its limit is kept by η ∝ √κ with 1 − β ∝ κ and ε ∝ 1/√κ. Past the
critical batch size B_c neither helps: η = η_∞/(1 + B_c/B) is linear below it and flat above.

Source: Goyal et al. (2017); Malladi et al., "On the SDEs and scaling rules for adaptive gradient algorithms" (2022);
McCandlish et al., "An empirical model of large-batch training" (2018), equation
2.6.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from corollary.core import validation
from corollary.core.errors import InputError


class ScaledSettings(NamedTuple):
    """Settings at another batch size; Adam's are None where they were not given."""

    learning_rate: Any
    b1: Any = None
    b2: Any = None
    eps: Any = None


def scale_learning_rate(
    learning_rate: float,
    batch_from: int,
    batch_to: int,
    rule: str = "linear",
    *,
    critical: float | None = None,
    b1: float | None = None,
    b2: float | None = None,
    eps: float | None = None,
) -> ScaledSettings:
    """The learning rate for another batch size.

    Use ``"linear"`` for SGD, ``"sqrt"`` for Adam and its kin (pass their other settings too: they scale with it), and
    ``"capped"`` for SGD near the critical batch size.

    Parameters
    ----------
    learning_rate, batch_from
        η0, tuned at batch size B0.
    batch_to
        B.
    rule
        ``"linear"``, ``"sqrt"`` or ``"capped"``.
    critical
        The critical batch size: needed for ``"capped"``; for the other rules it caps B.
    b1, b2, eps
        Adam's settings at B0, scaled by the square root rule only; b1 and b2 stop at 0.

    Returns
    -------
    ScaledSettings
        ``learning_rate``, and ``b1``, ``b2``, ``eps`` where given. No certificate: the rules keep a diffusion limit,
        which holds for small steps.

    Raises
    ------
    InputError
        For an unknown rule, sizes or rates that are not positive, or ``"capped"`` without `critical`.

    Source: Malladi et al. (2022); McCandlish et al. (2018), equation 2.6.

    Examples
    --------
    >>> scale_learning_rate(0.1, 256, 1024).learning_rate
    0.4
    >>> scale_learning_rate(1e-3, 256, 1024, "sqrt", b1=0.9).learning_rate
    0.002
    """
    validation.number(0, open_low=True)("learning_rate", learning_rate)
    validation.number(0, open_low=True)("batch_from", batch_from)
    validation.number(0, open_low=True)("batch_to", batch_to)
    validation.one_of("linear", "sqrt", "capped")("rule", rule)
    validation.number(0, open_low=True, none=True)("critical", critical)
    for name, value in (("b1", b1), ("b2", b2)):
        validation.number(0, 1, none=True)(name, value)
    validation.number(0, none=True)("eps", eps)
    if rule == "capped":
        if critical is None:
            raise InputError("critical: found None, expected the critical batch size for rule='capped'")
        factor = (1 + critical / batch_from) / (1 + critical / batch_to)
        return ScaledSettings(learning_rate * factor, b1, b2, eps)
    reach = batch_to if critical is None else min(batch_to, max(critical, batch_from))
    ratio = reach / batch_from
    if rule == "linear":
        return ScaledSettings(learning_rate * ratio, b1, b2, eps)
    return ScaledSettings(
        learning_rate * ratio**0.5,
        None if b1 is None else max(0.0, 1 - ratio * (1 - b1)),
        None if b2 is None else max(0.0, 1 - ratio * (1 - b2)),
        None if eps is None else eps / ratio**0.5,
    )
