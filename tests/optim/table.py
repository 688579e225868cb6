"""The penalties that the laws are tested over: adding one here buys all the tests of test_penalties.py."""

import jax
import jax.numpy as jnp
import numpy as np

from corollary.optim import penalties as P
from corollary.optim import projections

VECTOR, MATRIX = (7,), (4, 3)
NORMAL = np.array([1.0, -2.0, 0.5, 1.0, 0.0, 3.0, -1.0])

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
    "halfspace": (P.Indicator(lambda v: projections.halfspace(v, NORMAL, -1.0)), VECTOR, False),
    "spectral_ball": (P.Indicator(lambda v: projections.spectral_ball(v, 0.9)), MATRIX, False),
    "l0": (P.L0(0.4), VECTOR, False),
}
CONVEX = [name for name, (h, _, _) in PENALTIES.items() if h.is_convex]
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
