"""Which optimizer to start with: a decision table over size, batch, noise and the price of curvature, with reasons.

The rules are coarse and say why; the leaderboard in `benchmarks/` is the evidence. Cost: none.
Source: Bottou, Curtis & Nocedal, "Optimization methods for large-scale machine learning" (2018), sections 4 to 6 (noise
against curvature); McCandlish et al., "An empirical model of large-batch training" (2018), section 2 (the noise scale).
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim.transforms._transform import check


@final
class Recommendation(eqx.Module):
    """A family, the name to hand to `optimizer` (None: a solver of `minimize`), why, and what else to try."""

    family: str = eqx.field(static=True)
    name: str | None = eqx.field(static=True)
    reasons: tuple[str, ...] = eqx.field(static=True)
    alternatives: tuple[str, ...] = eqx.field(static=True, default=())

    def __str__(self) -> str:
        return f"{self.family} ({self.name or 'corollary.optim.minimize'}): " + "; ".join(self.reasons)


def recommend_optimizer(
    parameters: int,
    *,
    full_batch: bool = False,
    noise_ratio: float | None = None,
    curvature_cost: float | None = None,
    matrices: bool = True,
    memory_per_parameter: float | None = None,
) -> Recommendation:
    """A family of optimizers for a problem's size, noise and the price of curvature, with the reasons.

    Parameters
    ----------
    parameters
        How many.
    full_batch
        Whether gradients are exact.
    noise_ratio
        Gradient noise scale over batch size: far above 1, averaging over steps is what counts; below, curvature pays.
    curvature_cost
        What one curvature step costs, in gradients.
    matrices
        Whether most parameters are weight matrices.
    memory_per_parameter
        How many extra numbers a parameter fit, None: enough.

    Returns
    -------
    Recommendation
        ``family``, ``name``, ``reasons``, ``alternatives``.

    Raises
    ------
    InputError
        For values out of range.

    Examples
    --------
    >>> recommend_optimizer(5_000, full_batch=True).family, recommend_optimizer(10**9, memory_per_parameter=1).name
    ('L-BFGS', 'lion')
    """
    validation.integer(1)("parameters", parameters)
    validation.flag("full_batch", full_batch)
    validation.flag("matrices", matrices)
    for name, value in (("noise_ratio", noise_ratio), ("curvature_cost", curvature_cost)):
        if value is not None:
            check(name, value, 0.0)
    room: Any = float("inf") if memory_per_parameter is None else memory_per_parameter
    check("memory_per_parameter", room, 0.0)
    if full_batch and noise_ratio not in (None, 0, 0.0):
        raise InputError(f"noise_ratio: found {noise_ratio} with full_batch=True, expected 0 or None")
    size = f"{parameters:,} parameters"
    if full_batch:
        if parameters <= 1_000 and (curvature_cost is None or curvature_cost <= parameters):
            why = (f"exact gradients and {size}: a dense Hessian fits", "converges quadratically")
            return Recommendation("Newton", None, why, ("L-BFGS",))
        if parameters <= 1_000_000 or curvature_cost is None or curvature_cost > 50:
            why = (f"exact gradients and {size}", "superlinear in practice for two vectors a pair of memory")
            return Recommendation("L-BFGS", None, why, ("Hessian-free",))
        why = (f"exact gradients, {size}", f"Hessian products cost {curvature_cost:g} gradients")
        return Recommendation("Hessian-free", None, why, ("L-BFGS",))
    if room < 1:
        why = ("no room for a moment per parameter", "factored second moments")
        return Recommendation("Adafactor", "adafactor", why, ("sgd",))
    if room < 2:
        why = (f"{size} and room for one moment", "one buffer instead of Adam's two")
        return Recommendation("Lion", "lion", why, ("muon",))
    noisy = noise_ratio is not None and noise_ratio > 10
    cheap = curvature_cost is None or curvature_cost <= 3
    if not noisy and matrices and cheap and parameters <= 10**9:
        if room >= 3 and noise_ratio is not None and noise_ratio <= 1:
            why = (
                f"noise scale is {noise_ratio:g} batches: curvature is visible",
                "matrix weights: Shampoo's eigenbasis",
            )
            return Recommendation("Kronecker-factored", "soap", why, ("muon", "kfac", "adamw"))
        why = ("matrix weights: one orthogonalisation a step", "one buffer a parameter")
        return Recommendation("orthogonalised momentum", "muon", why, ("soap", "adamw"))
    if noisy:
        why = (
            f"noise scale is {noise_ratio:g} batches: steps average noise, curvature would be noise",
            "robust defaults",
        )
    elif not cheap:
        why = (f"a curvature step costs {curvature_cost:g} gradients, more than it usually saves", "robust defaults")
    else:
        why = (f"{size}, no matrix structure to use" if not matrices else size, "robust defaults")
    return Recommendation("AdamW", "adamw", why, ("lion", "muon") if matrices else ("lion",))
