"""Local SGD (federated averaging): workers take H steps alone, then their parameters are averaged.

It is `DiLoCo` with the outer step "take the mean". Where the workers' data differ, more than one local step moves the
fixed point: on quadratics f_k = ½(x − c_k)ᵀA_k(x − c_k) with step η, it solves

    Σ_k (I − (I − ηA_k)^H)(x − c_k) = 0   instead of   Σ_k A_k (x − c_k) = 0,

and they agree for H = 1, for equal A_k, and as η → 0.
Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data" (2017),
algorithm 1; Stich, "Local SGD converges fast and communicates little" (2019); Malinovsky et al., "From local SGD to
local fixed-point methods" (2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import Mesh

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Solution
from corollary.train.parallel._diloco import DiLoCo


def local_sgd(
    loss: Callable[..., Any], optimizer: Any, *, period: int, mesh: Mesh | None = None, axis: str = "data"
) -> DiLoCo:
    """Workers that average their parameters every `period` steps.

    Use it where an all-reduce per step is too dear. With ``period=1`` and SGD it is data-parallel SGD.

    Parameters
    ----------
    loss
        ``loss(params, batch, key) -> scalar``.
    optimizer
        Each worker's optimizer (`optax.sgd` in the papers); its state is not averaged.
    period
        H local steps between averages.
    mesh, axis
        Where given, the workers are split over this axis.

    Returns
    -------
    DiLoCo
        With an outer step of length 1: ``state = run.init(params, workers)``, then ``run.round(state, batches, key)``.
        No certificate: ``state.communicated`` counts the bytes.

    Raises
    ------
    InputError
        For a period below 1, or an axis that the mesh lacks.

    Source: McMahan et al. (2017), algorithm 1.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> local_sgd(lambda w, x, key: jnp.mean((w - x) ** 2), optax.sgd(0.1), period=4).period
    4
    """
    return DiLoCo(loss, period, optimizer, optax.sgd(1.0), mesh, axis)


@follows_input
def local_sgd_drift(A: Any, c: Any, *, learning_rate: float, period: int) -> Solution:
    """Where local gradient descent settles on quadratics, and how far that is from the common minimum.

    Use it to choose the period: the drift vanishes for H = 1 and grows with H and the workers' differences.

    Parameters
    ----------
    A
        The workers' curvatures (workers, n, n), symmetric positive definite.
    c
        The workers' minima (workers, n).
    learning_rate
        η, below 2 over the largest curvature.
    period
        H.

    Returns
    -------
    `Solution` whose value is the fixed point (n,); ``stats["optimum"]`` and ``stats["drift"]`` (the distance).

    Certificates: ``stable`` (theorem: every local map contracts, ρ(I − ηA_k) < 1, and so does their mean).

    Raises
    ------
    InputError
        For mismatched shapes, an A that is not symmetric, or a setting out of range.

    Source: Malinovsky et al. (2020).

    Examples
    --------
    >>> import numpy as np
    >>> A, c = np.array([[[1.0]], [[0.1]]]), np.array([[0.0], [1.0]])
    >>> float(local_sgd_drift(A, c, learning_rate=0.5, period=1).stats["drift"])
    0.0
    >>> round(float(local_sgd_drift(A, c, learning_rate=0.5, period=20).stats["drift"]), 3)
    0.3
    """
    A, c = common_float(validation.tensor("A", A, low=3), validation.matrix("c", c))
    if A.ndim != 3 or A.shape[1] != A.shape[2] or A.shape[:2] != c.shape:
        raise InputError(f"A, c: found shapes {A.shape} and {c.shape}, expected (workers, n, n) and (workers, n)")
    validation.number(0, open_low=True)("learning_rate", learning_rate)
    validation.integer(1)("period", period)
    if not isinstance(A, Tracer):
        skew = jnp.max(jnp.abs(A - jnp.swapaxes(A, 1, 2)))
        if float(skew) > float(rounding(jnp.max(jnp.abs(A)), 64.0)):
            raise InputError(f"A: found one that differs from its transpose by {float(skew):.2g}, expected symmetric")
    values, vectors = jnp.linalg.eigh(A)
    step = jnp.asarray(learning_rate).astype(A.dtype) * values
    contraction = 1 - step
    # 1 − (1 − ηλ)^H without cancellation for small ηλ, in units of the largest: a common factor moves no fixed point.
    share = jnp.where(step < 0.5, -jnp.expm1(period * jnp.log1p(-jnp.minimum(step, 0.5))), 1 - contraction**period)
    share = share / jnp.max(jnp.abs(share))
    M = (vectors * share[:, None, :]) @ jnp.swapaxes(vectors, 1, 2)
    pull = jnp.einsum("kij,kj->i", M, c)
    fixed = jnp.linalg.solve(M.sum(0), pull)
    optimum = jnp.linalg.solve(A.sum(0), jnp.einsum("kij,kj->i", A, c))
    drift = jnp.linalg.norm(fixed - optimum)
    scale = jnp.max(jnp.abs(c))
    # Two solves of well-conditioned means: what is below their rounding is no drift.
    condition = jnp.max(values) / jnp.maximum(jnp.min(values), jnp.finfo(A.dtype).tiny)
    drift = jnp.where(drift <= rounding(scale * condition, 4.0), 0, drift)
    certificate = Certificate(
        "max |1 − ηλ| < 1 over all workers: the averaged map contracts",
        measured=jnp.max(jnp.abs(contraction)),
        bound=1 - jnp.finfo(A.dtype).eps,
        kind="theorem",
        source="Malinovsky et al. (2020)",
    )
    return Solution(fixed, {"stable": certificate}, stats={"optimum": optimum, "drift": drift})
