"""Penalties: the terms of a composite objective that are known by their proximal operators."""

from corollary.optim.penalties._base import Penalty
from corollary.optim.penalties._blocks import Blocks
from corollary.optim.penalties._cones import PSDCone, SecondOrderCone
from corollary.optim.penalties._entropy import KullbackLeibler, NegativeEntropy
from corollary.optim.penalties._images import GraphTotalVariation, TotalVariation2D
from corollary.optim.penalties._indicators import Box, Indicator, L1Ball, L2Ball, Nonnegative, Simplex
from corollary.optim.penalties._log_det import LogDet
from corollary.optim.penalties._losses import Hinge, Huber, Quantile
from corollary.optim.penalties._nonconvex import MCP, SCAD, LHalf
from corollary.optim.penalties._norms import GroupLasso, L2Norm, Nuclear, SupNorm
from corollary.optim.penalties._separable import L0, L1, ElasticNet, SquaredL2, Zero
from corollary.optim.penalties._sets import AffineSet, CappedSimplex, Halfspace, NuclearBall, SpectralBall
from corollary.optim.penalties._sorted import SortedL1
from corollary.optim.penalties._sparse_group import SparseGroupLasso
from corollary.optim.penalties._total_variation import TotalVariation
from corollary.optim.penalties._transforms import Conjugate, Scaled, Tilted

__all__ = [
    "L0",
    "L1",
    "MCP",
    "SCAD",
    "AffineSet",
    "Blocks",
    "Box",
    "CappedSimplex",
    "Conjugate",
    "ElasticNet",
    "GraphTotalVariation",
    "GroupLasso",
    "Halfspace",
    "Hinge",
    "Huber",
    "Indicator",
    "KullbackLeibler",
    "L1Ball",
    "L2Ball",
    "L2Norm",
    "LHalf",
    "LogDet",
    "NegativeEntropy",
    "Nonnegative",
    "Nuclear",
    "NuclearBall",
    "PSDCone",
    "Penalty",
    "Quantile",
    "Scaled",
    "SecondOrderCone",
    "Simplex",
    "SortedL1",
    "SparseGroupLasso",
    "SpectralBall",
    "SquaredL2",
    "SupNorm",
    "Tilted",
    "TotalVariation",
    "TotalVariation2D",
    "Zero",
]
