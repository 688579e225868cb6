"""Effective and stable rank: how many directions a matrix really has, as numbers that do not jump.

The effective rank is exp of the entropy of σ/Σσ; the stable rank is ‖A‖_F²/‖A‖₂², the one that sampling bounds depend
on. Both are k for k equal singular values, at most the rank, and blind to scale. Cost: O(k) from singular values, those
of A otherwise. Source: Roy & Vetterli, EUSIPCO 2007; Rudelson & Vershynin, J. ACM 54 (2007).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg.low_rank._svd import svd

Number = Float[Array, ""] | Float[np.ndarray, ""] | Float[np.floating, ""] | float


class EffectiveRank(eqx.Module):
    """exp H(σ/Σσ), and ‖A‖_F²/‖A‖₂²; both 0 for the zero matrix."""

    entropy: Number
    stable: Number


@follows_input
def effective_rank(A: Any) -> Solution:
    """Effective rank exp(−Σ p_i log p_i), p = σ/Σσ, and stable rank Σσ²/σ₁².

    Use it to judge whether a low-rank approximation can work, or how far an embedding has collapsed. Cost: O(k) for
    singular values, that of `svd` for a matrix. It can be jitted, vmapped and differentiated.

    Parameters
    ----------
    A
        (m, n) matrix or operator, or a vector of singular values (non-negative, any order).

    Returns
    -------
    Solution
        ``value``: `EffectiveRank`. Certificate: ``"order"`` (exact: stable rank ≤ effective rank ≤ rank).

    Raises
    ------
    InputError
        For a negative singular value, or data that are not finite and real.

    Notes
    -----
    Stable ≤ entropy rank: with p_i = σ_i/Σσ, exp H(p) ≥ 1/Σp² = (Σσ)²/Σσ² ≥ Σσ²/σ₁². Source: Roy & Vetterli (2007).

    Examples
    --------
    >>> import numpy as np
    >>> ranks = effective_rank(np.diag([2.0, 2.0, 2.0, 0.0])).value
    >>> round(float(ranks.entropy), 12), float(ranks.stable)
    (3.0, 3.0)
    """
    if getattr(A, "ndim", None) == 1 or (isinstance(A, list) and np.ndim(A) == 1):
        s = validation.vector("A", A)
        if not isinstance(s, Tracer) and bool((s < 0).any()):
            raise InputError("A: found a negative singular value, expected s >= 0")
    else:
        s = svd(A).value[1]
    return _ranks(jnp.asarray(s))


@jax.jit
def _ranks(s: Float[Array, " k"]) -> Solution:
    top = jnp.max(s)
    s = s / jnp.where(top > 0, top, 1)
    total = jnp.sum(s)
    p = s / jnp.where(total > 0, total, 1)
    entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0))
    value = EffectiveRank(jnp.where(top > 0, jnp.exp(entropy), 0), jnp.sum(s * s))
    rank = jnp.sum(s > 0).astype(s.dtype)
    frozen = jax.lax.stop_gradient(value)
    worst = jnp.maximum(frozen.stable - frozen.entropy, frozen.entropy - rank)
    noise = 16 * jnp.finfo(s.dtype).eps * s.shape[0]
    certificate = Certificate(
        "stable rank <= effective rank <= rank", worst, noise, "exact", "Rényi entropies fall with their order"
    )
    return Solution(value, {"order": certificate})
