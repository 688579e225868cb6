"""Leverage scores: how much each column (or row) matters to the dominant k-dimensional subspace.

The score of column j is ‖v_j^(k)‖², the squared length of the j-th row of the leading right singular vectors, and the
j-th diagonal entry of the projector onto their span: between 0 and 1, with sum k. Use them to sample columns for a CUR
decomposition or rows of a regression. Cost: that of the leading k triplets; for all of a tall matrix's rows that of a
QR, 4 n² m. Source: Mahoney & Drineas, PNAS 106 (2009); Drineas, Mahoney & Muthukrishnan, SIMAX 30 (2008).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution
from corollary.linalg.low_rank._pivoted_qr import pivoted_qr
from corollary.linalg.low_rank._svd import svd


@follows_input
def leverage_scores(A: Any, rank: Any = None, *, axis: Any = "columns", key: Key[Array, ""] | None = None) -> Solution:
    """Rank-k leverage scores ‖v_j^(k)‖² of the columns (or of the rows, from U).

    Use it before `leverage_sample` or `cur`. Cost: that of `svd` for k triplets; without `rank`, of `pivoted_qr`.

    Parameters
    ----------
    A
        (m, n) dense or sparse matrix, or operator; dense without `rank`.
    rank
        k; without it the numerical rank: the scores of the whole column (row) space.
    axis
        "columns" or "rows".
    key
        For the sketches within: `jax.random.key(0)` by default.

    Returns
    -------
    Solution
        ``value``: the scores, (n,) or (m,). Certificates: ``"sum"`` (exact: k) and ``"range"`` (exact: in [0, 1]).
        ``stats``: ``rank``, and ``gap``, 1 − σ_{k+1}/σ_k with `rank`: the scores are ill-determined where it is small.

    Raises
    ------
    InputError
        For an unknown axis or a matrix that is not finite and real.

    Notes
    -----
    Source: Mahoney & Drineas, PNAS 106 (2009), eq. 3.

    Examples
    --------
    >>> import numpy as np
    >>> leverage_scores(np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 1.0]])).value.round(3).tolist()
    [1.0, 0.5, 0.5]
    """
    validation.one_of("columns", "rows")("axis", axis)
    validation.integer(1, none=True)("rank", rank)
    if rank is None:
        A = validation.matrix("A", A, host=True)
        found = pivoted_qr(A if axis == "rows" else A.T, key=key)
        basis, k, stats = found.value.Q, found.stats["rank"], {"method": Note(str(found.stats["solver"]))}
    else:
        wanted = min(rank + 1, *np.shape(A)) if hasattr(A, "shape") else rank
        found = svd(A, wanted, key=key)
        U, s, Vt = found.value
        s = jax.lax.stop_gradient(s) if isinstance(s, jax.Array) else s
        xp = jnp if isinstance(s, jax.Array) else np
        # a direction of singular value zero is arbitrary: the scores count those that A has
        kept = s[:rank] > max(U.shape[0], Vt.shape[1]) * float(np.finfo(s.dtype).eps) * s[0]
        basis, k = (U[:, :rank] if axis == "rows" else Vt[:rank].T) * kept.astype(s.dtype), xp.sum(kept)
        after = s[rank] if wanted > rank else xp.zeros((), s.dtype)
        stats = {"gap": 1 - after / xp.where(s[rank - 1] > 0, s[rank - 1], 1), "method": found.stats["solver"]}
    scores = (basis * basis).sum(axis=1)
    return Solution(scores, _certificates(scores, k, basis.shape[1]), found.status, stats={"rank": k, **stats})


def _certificates(scores: Any, k: Any, columns: int) -> dict[str, Certificate]:
    xp = jnp if isinstance(scores, jax.Array) else np
    frozen = jax.lax.stop_gradient(scores) if xp is jnp else scores
    noise = 16 * float(np.finfo(scores.dtype).eps) * max(columns, 1) * len(scores) ** 0.5
    return {
        "sum": Certificate(
            "|Σ scores − k| at rounding level", xp.abs(xp.sum(frozen) - k), noise, "exact", "trace of a projector"
        ),
        "range": Certificate(
            "every score lies in [0, 1]", xp.max(xp.abs(frozen - 0.5)), 0.5 + noise, "exact", "diagonal of a projector"
        ),
    }


class LeverageSample(eqx.Module):
    """Indices drawn with replacement, their probabilities and the weights 1/√(c p_i) that make C Cᵀ unbiased."""

    indices: Int[Array | np.ndarray, " c"]
    weights: Float[Array | np.ndarray, " c"]
    probabilities: Float[Array | np.ndarray, " n"]


@follows_input
def leverage_sample(scores: Any, count: Any, *, key: Key[Array, ""]) -> LeverageSample:
    """Draw `count` indices with probability proportional to their scores, with replacement.

    Use it to pick columns for `cur`, or rows of a regression: C = A[:, indices] * weights has E C Cᵀ = A Aᵀ where no
    score is zero. Cost: O(n + c).

    Parameters
    ----------
    scores
        (n,) non-negative, not all zero.
    count
        c.
    key
        `jax.random.key`.

    Returns
    -------
    LeverageSample
        ``indices``, ``weights``, ``probabilities``.

    Raises
    ------
    InputError
        For a negative score or no positive one.

    Examples
    --------
    >>> import jax, numpy as np
    >>> leverage_sample(np.array([0.0, 1.0, 0.0]), 2, key=jax.random.key(0)).indices.tolist()
    [1, 1]
    """
    scores = validation.vector("scores", scores)
    validation.integer(1)("count", count)
    if not isinstance(scores, Tracer) and (bool((scores < 0).any()) or not bool((scores > 0).any())):
        raise InputError("scores: found a negative score or none above zero, expected non-negative, not all zero")
    p = scores / jnp.sum(scores)
    indices = jax.random.choice(key, len(scores), (count,), p=p)
    return LeverageSample(indices, 1 / jnp.sqrt(count * p[indices]), p)
