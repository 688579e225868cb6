"""AdamW's weights as an exponential average of its updates, with the time scale 1/(ηλ).

θ_t = (1 − ηλ)θ_{t−1} − ηu_t = (1 − ηλ)θ_{t−1} + ηλ·(−u_t/λ): an average of −u/λ over the last 1/(ηλ) steps, that is
B/(ηλD) epochs of D examples in batches of B. What transfers between batch sizes and data sets is the scale in epochs:
at fixed η, λ ∝ B. Cost: O(1).
Source: Wang & Aitchison, "How to set AdamW's weight decay as you scale model and dataset size" (2024), eqs. (3) to (7).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.solution import Solution
from corollary.optim.transforms._transform import check


def adamw_timescale(
    learning_rate: Any, weight_decay: Any, batch_size: int, data_size: int, *, target_epochs: Any = None
) -> Solution:
    """The time scale of AdamW's average in steps and epochs, and the λ for a wanted one.

    Parameters
    ----------
    learning_rate, weight_decay
        η > 0 and λ > 0, with ηλ < 1.
    batch_size, data_size
        B and D, in examples.
    target_epochs
        A wanted time scale in epochs (about 1 trains well in Wang & Aitchison): gives the λ for it.

    Returns
    -------
    Solution
        ``value``: a dict of ``steps`` 1/(ηλ), ``epochs`` B/(ηλD), ``exact_steps`` −1/log(1 − ηλ), and, with a target,
        ``weight_decay``.

    Raises
    ------
    InputError
        For values out of range.

    Notes
    -----
    Certificate: ``window`` (exact), |steps − exact_steps| ≤ 1 (it lies between 1/2 and 1): the average forgets by
    a factor e in −1/log(1 − ηλ) steps. Source: Wang & Aitchison (2024), eqs. (3) to (7).

    Examples
    --------
    >>> run = adamw_timescale(1e-3, 0.1, 100, 10_000, target_epochs=50.0)
    >>> [round(float(run.value[k]), 4) for k in ("steps", "epochs", "weight_decay")]
    [10000.0, 100.0, 0.2]
    """
    learning_rate, weight_decay = float(learning_rate), float(weight_decay)
    check("learning_rate", learning_rate, 0.0, open_low=True)
    check("weight_decay", weight_decay, 0.0, open_low=True)
    validation.integer(1)("batch_size", batch_size)
    validation.integer(1)("data_size", data_size)
    if target_epochs is not None:
        check("target_epochs", target_epochs, 0.0, open_low=True)
    lr, decay = jnp.asarray(learning_rate), jnp.asarray(weight_decay)
    validation.number(0.0, 1.0, open_low=True)("learning_rate·weight_decay", learning_rate * weight_decay)
    steps = 1 / (lr * decay)
    exact = -1 / jnp.log1p(-lr * decay)
    value = {"steps": steps, "epochs": steps * batch_size / data_size, "exact_steps": exact}
    if target_epochs is not None:
        value["weight_decay"] = batch_size / (lr * float(target_epochs) * data_size)
    certificate = Certificate(
        "|1/(ηλ) + 1/log(1 − ηλ)| <= 1",
        jnp.abs(steps - exact),
        1 + rounding(steps, 8.0),
        "exact",
        "Wang & Aitchison (2024), eq. (4)",
    )
    return Solution(value, {"window": certificate})
