"""Errors and certificates of Tucker decompositions, with their rounding.

The error is measured by ‖X‖² − ‖G‖² where that keeps its digits and by the residual where it is small. Cost: nothing,
or a product as large as the tensor.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from corollary.core.certificate import Certificate
from corollary.linalg.tensor._tucker_hooi import Run
from corollary.linalg.tensor._tucker_modes import adjoint, expand, machine_eps, square


def floor(X: Any) -> float:
    """Rounding of relative errors and gradients of a tensor: it grows with the root of the lengths of its modes."""
    return 16 * machine_eps(X) * math.sqrt(sum(X.shape))


def relative_error(X: Any, total: Any, core: Any, factors: Any, xp: Any) -> tuple[Any, float]:
    """‖X − T‖/‖X‖ and its rounding; Pythagoras where it keeps its digits, the residual where the error is small."""
    if xp is np and total > 0:
        squared = 1 - square(core, np) / total
        if squared > machine_eps(X) ** (1 / 3):
            error = math.sqrt(squared)
            return np.asarray(error, X.real.dtype), floor(X) / error
    residual = X - expand(core, factors)
    safe = xp.where(total > 0, total, 1)
    return xp.asarray(xp.sqrt(square(residual, xp) / safe), X.real.dtype), floor(X)


def orthonormality(factors: Any, xp: Any) -> Certificate:
    """‖UᴴU − I‖ of every factor."""
    defects = [xp.linalg.norm(adjoint(U) @ U - xp.eye(U.shape[1], dtype=U.dtype)) for U in factors]
    return Certificate(
        "‖UᴴU − I‖_F of every factor at rounding level",
        measured=functools.reduce(xp.maximum, defects),
        bound=16 * machine_eps(factors[0]) * max(math.sqrt(U.shape[0]) * U.shape[1] for U in factors),
        kind="exact",
        source="computed",
    )


def tail_noise(X: Any, tail: Any, by_norms: bool, xp: Any) -> Any:
    """Rounding of a squared tail over ‖X‖²: eps from Gram matrices and from differences of norms, less else."""
    noise, coarse = floor(X), math.sqrt(machine_eps(X))
    return xp.where((tail >= coarse) | by_norms, noise, 2 * noise * xp.sqrt(tail) + noise**2)


def bounds(X: Any, error: Any, doubt: Any, tails: Any, cut: Any, method: str, xp: Any) -> dict[str, Certificate]:
    """The error against the discarded parts, with their rounding."""
    tails = [t + tail_noise(X, t, method == "randomized", xp) for t in tails]
    summed = functools.reduce(lambda a, b: a + b, tails)
    modes = max(1, sum(U is not None for U in cut))
    certificates = {
        "error_bound": Certificate(
            "‖X − T‖² <= Σ_k (discarded part of mode k)², relative to ‖X‖²",
            measured=error,
            bound=xp.sqrt(summed) + doubt,
            kind="exact",
            source="De Lathauwer et al., SIMAX 21 (2000) 1253, Property 10; Vannieuwenhoven et al. (2012), Theorem 5.1",
        )
    }
    if method != "randomized":
        certificates["quasi_optimal"] = Certificate(
            f"‖X − T‖ <= √{modes} (largest tail of a mode) <= √{modes} (best error of these ranks), relative to ‖X‖",
            measured=error,
            bound=math.sqrt(modes) * xp.sqrt(functools.reduce(xp.maximum, tails)) + doubt,
            kind="theorem",
            source="De Lathauwer et al. (2000); Vannieuwenhoven et al., SISC 34 (2012), Theorem 6.2; Eckart-Young",
        )
    return certificates


def monitors(run: Run, limit: Any, X: Any, xp: Any) -> dict[str, Certificate]:
    """HOOI's own: a misfit that never rose, a gradient that vanished."""
    return {
        "monotone": Certificate(
            "largest rise of ‖X − T‖²/‖X‖² at a sweep is rounding",
            measured=run.rise,
            bound=floor(X),
            kind="monitor",
            source="each update is the best for its factor; Kiers (1997) for filled-in entries",
        ),
        "stationarity": Certificate(
            "‖gradient‖ in the factors (and the core, under a mask) <= accuracy ‖X‖²",
            measured=run.stationarity,
            bound=limit,
            kind="monitor",
            source="De Lathauwer et al., SIMAX 21 (2000) 1324, §4",
        ),
    }
