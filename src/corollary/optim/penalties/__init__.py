"""Penalties: the terms of a composite objective that are known by their proximal operators."""

from corollary.optim.penalties._base import Penalty
from corollary.optim.penalties._blocks import Blocks
from corollary.optim.penalties._indicators import Box, Indicator, L1Ball, L2Ball, Nonnegative, Simplex
from corollary.optim.penalties._norms import GroupLasso, L2Norm, Nuclear, SupNorm
from corollary.optim.penalties._separable import L0, L1, ElasticNet, SquaredL2, Zero
from corollary.optim.penalties._total_variation import TotalVariation

__all__ = [
    "L0",
    "L1",
    "Blocks",
    "Box",
    "ElasticNet",
    "GroupLasso",
    "Indicator",
    "L1Ball",
    "L2Ball",
    "L2Norm",
    "Nonnegative",
    "Nuclear",
    "Penalty",
    "Simplex",
    "SquaredL2",
    "SupNorm",
    "TotalVariation",
    "Zero",
]
