"""Hutch++: a trace from a sketched range, exactly, plus Hutchinson on what the range leaves out.

When: A's spectrum decays, so that its trace sits mostly in few directions. With m products the relative error for a
PSD matrix falls as 1/m where Hutchinson's falls as 1/√m. Cost: m products in three blocks of m/3, and O(n m²). Source:
Meyer, Musco, Musco & Woodruff, SOSA (2021), Algorithm 1 and Theorem 4.
"""

from __future__ import annotations

from typing import Any

from jax import random
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg._products import orthonormal
from corollary.linalg.trace._probes import confidence_and_tolerance, probe_block, square, summarise


@follows_input
def hutchpp(A: Any, *, products: int = 60, tol: Any = None, confidence: float = 0.95, key: Key[Array, ""]) -> Solution:
    """Trace of a square matrix or operator: tr(QᵀAQ) + Hutchinson on (I − QQᵀ)A(I − QQᵀ), with Q = orth(AS).

    Parameters
    ----------
    A
        (n, n) dense or sparse matrix, or operator.
    products
        m, in all: m/3 columns for the sketch, m/3 for AQ, and the rest (at least two) as probes. Exact to rounding
        where the rank of A is at most m/3.
    tol, confidence, key
        As in `hutchinson`. Given Q the probes are independent, so that the interval is Student's.

    Returns
    -------
    Solution
        ``value``: the estimate, unbiased; ``stats``: ``stderr``, ``interval``, ``products``, ``rank`` of Q.

    Raises
    ------
    InputError
        Where A is not square, real and finite, or fewer than 4 products are asked for.

    Notes
    -----
    Certificates: ``"estimate"`` (standard error), ``"interval"`` (probabilistic, given `tol`). Source: Meyer, Musco,
    Musco & Woodruff (2021), Algorithm 1; its Theorem 4 gives O(1/m) for PSD matrices.

    Examples
    --------
    >>> import jax, numpy as np
    >>> A = np.outer(np.arange(1.0, 7.0), np.arange(1.0, 7.0))  # rank one, trace 91
    >>> round(float(hutchpp(A, products=6, key=jax.random.key(0)).value), 9)
    91.0
    """
    validation.integer(4)("products", products)
    confidence_and_tolerance(tol, confidence)
    P = square(A, key)
    rank = min(products // 3, P.shape[0])
    probes = products - 2 * rank
    if probes < 2:
        raise InputError(f"products: found {products}, expected at least 4")
    sketch, rest = random.split(key)
    Q = orthonormal(P.apply(probe_block(P, rank, "rademacher", sketch)), [], P.xp)
    G = probe_block(P, probes, "rademacher", rest)
    G = G - Q @ (Q.T @ G)
    known = P.xp.sum(Q * P.apply(Q))
    samples = P.xp.sum(G * P.apply(G), axis=0)
    source = "Meyer, Musco, Musco & Woodruff (2021), Algorithm 1"
    stats = {"products": 2 * rank + probes, "rank": rank}
    return P.out(
        summarise(samples, known, P.xp, name="tr A", tol=tol, confidence=confidence, source=source, stats=stats)
    )
