"""Optimisation: penalties and their proximal operators, projections, composite problems and their solvers."""

from corollary.optim import penalties, projections
from corollary.optim._prox import (
    hard_threshold,
    moreau_decomposition,
    prox,
    singular_value_soft_threshold,
    soft_threshold,
)

__all__ = [
    "hard_threshold",
    "moreau_decomposition",
    "penalties",
    "projections",
    "prox",
    "singular_value_soft_threshold",
    "soft_threshold",
]
