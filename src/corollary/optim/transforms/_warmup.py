"""How long to warm up: 2/(1 − β2) steps of a linear ramp, which is what rectified Adam does by its own formula.

Adam's first steps divide by a second moment of few samples. RAdam scales them by r_t, the ratio of the standard
deviations; Ma and Yarats find that a linear ramp of 2/(1 − β2) steps does the same, and the gap is computed here.
Lengths proportional to the model's size are a heuristic without a law behind it. Cost: O(length).
Source: Ma & Yarats, "On the adequacy of untuned warmup for adaptive optimization" (2021), section 5; Liu et al., "On
the variance of the adaptive learning rate and beyond" (2020), eqs. (4) and (5).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.solution import Solution
from corollary.optim.transforms._transform import check


def warmup_length(b2: float = 0.999, *, parameters: int | None = None, per_million: float = 10.0) -> Solution:
    """Steps of linear warm-up for Adam: 2/(1 − β2), or in proportion to the model's size.

    Parameters
    ----------
    b2
        β2 in [0, 1).
    parameters
        How many parameters the model has: gives the heuristic length ``per_million·parameters/10⁶`` instead.
    per_million
        Steps a million parameters.

    Returns
    -------
    Solution
        ``value``: the number of steps. ``history``: ``ramp`` and ``rectification`` r_t, t = 1, 2, ..., over twice the
        rule's length; ``stats``: ``gap`` at the worst step, ``mean_gap``.

    Raises
    ------
    InputError
        For values out of range.

    Notes
    -----
    Certificate: ``gap`` (estimate), the mean of |ramp − r_t| over the history, with its standard error.
    Source: Ma & Yarats (2021), section 5.

    Examples
    --------
    >>> int(warmup_length(0.999).value), int(warmup_length(parameters=50_000_000).value)
    (2000, 500)
    """
    check("b2", b2, 0.0, 1.0)
    if b2 >= 1:
        validation.number(0.0, 1 - 1e-12)("b2", b2)
    validation.integer(1, none=True)("parameters", parameters)
    check("per_million", per_million, 0.0, open_low=True)
    rule = int(np.ceil(2 / (1 - b2) - 1e-9))
    length = rule if parameters is None else max(1, int(np.ceil(per_million * parameters / 1e6 - 1e-9)))
    t = np.arange(1, 2 * rule + 1)
    ramp, r = np.minimum(t / length, 1.0), np.asarray(_rectification(t, b2))
    gap = np.abs(ramp - r)
    certificate = Certificate(
        "mean |ramp − r_t|",
        float(gap.mean()),
        kind="estimate",
        stderr=float(gap.std() / np.sqrt(gap.size)),
        source="Ma & Yarats (2021), section 5",
    )
    history = {"ramp": ramp, "rectification": r}
    stats = {"gap": float(gap.max()), "mean_gap": float(gap.mean())}
    return Solution(length, {"gap": certificate}, steps=0, stats=stats, history=history)


def radam_rectification(count: Any, b2: Any = 0.999) -> Array:
    """Rectified Adam's factor r_t after `count` steps (1, 2, ...), 0 where the variance is not yet tractable (ρ_t ≤ 5).

    Parameters
    ----------
    count
        t, an integer or array.
    b2
        β2 in (0, 1).

    Returns
    -------
    Array
        r_t in [0, 1], growing to 1.

    Examples
    --------
    >>> print(*(f"{v:.3f}" for v in radam_rectification(jnp.array([1, 10, 1000, 100000]))))
    0.000 0.049 0.645 1.000
    """
    t = jnp.asarray(count)
    return jnp.asarray(_rectification(t.astype(jnp.zeros([]).dtype), b2, jnp))


def _rectification(t: Any, b2: Any, lib: Any = np) -> Any:
    limit = 2 / (1 - b2) - 1
    # β2^t/(1 − β2^t) without its cancellation; at β2 = 0 it is 0.
    rho = limit - 2 * t / lib.expm1(-t * lib.log(lib.maximum(b2, 1e-30)))
    usable = rho > 5  # never where limit <= 5
    safe, top = lib.where(usable, rho, 6.0), lib.where(usable, limit, 6.0)
    r = lib.sqrt((safe - 4) * (safe - 2) * top / ((top - 4) * (top - 2) * safe))
    return lib.where(usable, r, 0.0)
