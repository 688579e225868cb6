"""The penalties that the laws are tested over: adding one here buys all the tests of test_penalties.py."""

import jax
import jax.numpy as jnp
import numpy as np

from corollary.optim import penalties as P
from corollary.optim import projections

VECTOR, MATRIX, SQUARE = (7,), (4, 3), (3, 3)
NORMAL = np.array([1.0, -2.0, 0.5, 1.0, 0.0, 3.0, -1.0])
SIGNS = np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0])
TARGETS = np.array([0.3, -1.0, 2.0, 0.0, 0.7, -0.2, 1.5])
REFERENCE = np.array([0.3, 1.0, 0.0, 2.0, 0.7, 0.1, 1.5])
EDGES = [[0, 1], [1, 2], [2, 0], [2, 3], [3, 4], [4, 5], [5, 6], [6, 3]]

# name: (penalty, shape of the variable, whether h(c·x) = c·h(x) for c > 0)
PENALTIES = {
    "zero": (P.Zero(), VECTOR, True),
    "l1": (P.L1(0.7), VECTOR, True),
    "weighted_l1": (P.L1(np.array([0.1, 2.0, 0.0, 0.5, 1.0, 0.3, 0.7])), VECTOR, True),
    "elastic_net": (P.ElasticNet(0.8, 0.6), VECTOR, False),
    "squared_l2": (P.SquaredL2(1.5), VECTOR, False),
    "l2": (P.L2Norm(1.2), VECTOR, True),
    "sup": (P.SupNorm(0.9), VECTOR, True),
    "group": (P.GroupLasso(0.9, [0, 0, 1, 1, 1, 2, 0]), VECTOR, True),
    "rows": (P.GroupLasso(0.9), MATRIX, True),
    "nuclear": (P.Nuclear(0.8), MATRIX, True),
    "total_variation": (P.TotalVariation(0.6), VECTOR, True),
    "box": (P.Box(-0.5, 0.75), VECTOR, False),
    "nonnegative": (P.Nonnegative(), VECTOR, True),
    "simplex": (P.Simplex(1.5), VECTOR, False),
    "l2_ball": (P.L2Ball(1.1), VECTOR, False),
    "l1_ball": (P.L1Ball(1.3), VECTOR, False),
    "projection": (P.Indicator(lambda v: projections.halfspace(v, NORMAL, -1.0)), VECTOR, False),
    "l0": (P.L0(0.4), VECTOR, False),
    "sorted_l1": (P.SortedL1(np.array([2.0, 1.0, 1.0, 0.6, 0.3, 0.0, 0.0])), VECTOR, True),
    "sparse_group": (P.SparseGroupLasso(0.9, 0.4, [0, 0, 1, 1, 1, 2, 0], np.array([1.5, 1.0, 0.8])), VECTOR, True),
    "huber": (P.Huber(0.8, 0.6), VECTOR, False),
    "hinge": (P.Hinge(SIGNS, 0.7), VECTOR, False),
    "quantile": (P.Quantile(TARGETS, 0.3, 0.9), VECTOR, False),
    "entropy": (P.NegativeEntropy(2.0), VECTOR, False),
    "kullback_leibler": (P.KullbackLeibler(REFERENCE, 1.5), VECTOR, False),
    "log_det": (P.LogDet(0.7), SQUARE, False),
    "image": (P.TotalVariation2D(0.6, tol=0.0), MATRIX, True),
    "image_by_axes": (P.TotalVariation2D(0.6, isotropic=False, tol=0.0), MATRIX, True),
    "graph": (P.GraphTotalVariation(EDGES, 0.5, tol=0.0), VECTOR, True),
    "halfspace": (P.Halfspace(NORMAL, -1.0), VECTOR, False),
    "affine": (P.AffineSet(np.stack([NORMAL, SIGNS, NORMAL - SIGNS]), np.array([1.0, 0.5, 0.5])), VECTOR, False),
    "capped_simplex": (P.CappedSimplex(2.2, 0.9), VECTOR, False),
    "second_order_cone": (P.SecondOrderCone(), VECTOR, True),
    "psd_cone": (P.PSDCone(), SQUARE, True),
    "spectral_ball": (P.SpectralBall(0.9), MATRIX, False),
    "nuclear_ball": (P.NuclearBall(1.4), MATRIX, False),
    "conjugate": (P.Conjugate(P.ElasticNet(0.8, 0.6)), VECTOR, False),
    "scaled": (P.Scaled(P.SupNorm(0.9), 1.7), VECTOR, True),
    "tilted": (P.Tilted(P.L1(0.7), TARGETS, NORMAL, 0.5), VECTOR, False),
    "mcp": (P.MCP(0.7, 3.0), VECTOR, False),
    "mcp_long_step": (P.MCP(0.7, 0.5), VECTOR, False),
    "scad": (P.SCAD(0.7, 3.7), VECTOR, False),
    "l_half": (P.LHalf(0.7), VECTOR, False),
}
CONVEX = [name for name, (h, _, _) in PENALTIES.items() if h.is_convex]
BY_ITERATION = ("image", "image_by_axes", "graph")  # no closed form: right to the inner tolerance
FINITE = [
    "zero",
    "l1",
    "weighted_l1",
    "elastic_net",
    "squared_l2",
    "l2",
    "sup",
    "group",
    "rows",
    "nuclear",
    "total_variation",
]


def points(name, dtype, count=6, seed=0):
    """Random points of a penalty's shape, at several scales, the origin among them."""
    shape = PENALTIES[name][1]
    scales = jnp.asarray([0.0, 0.1, 1.0, 1.0, 3.0, 30.0], dtype)[:count]
    return scales.reshape(-1, *[1] * len(shape)) * jax.random.normal(jax.random.key(seed), (count, *shape), dtype)
