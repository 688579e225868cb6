"""Collinearity: variance inflation factors and scaled condition indices. Cost O(n p²).

VIF_j = 1/(1 − R_j²), the factor by which the other columns inflate the variance of coefficient j; condition indices
σ_max/σ_j of the columns scaled to unit length. Source: Belsley, Kuh & Welsch (1980), §3.1-3.2.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.precision import follows_input
from corollary.core.solution import Solution


class Collinearity(eqx.Module):
    """`vif` (p,): at least 1, infinite under exact collinearity; `condition_indices`: ascending from 1."""

    vif: Float[Array | np.ndarray, " p"]
    condition_indices: Float[Array | np.ndarray, " _"]


@follows_input
def vif(X: Any, *, fit_intercept: bool = True) -> Solution:
    """Variance inflation factors and condition indices of the columns of X.

    Use it before trusting single coefficients: VIF above 10, or an index above 30, is the usual alarm. O(n p²).

    Parameters
    ----------
    X : (n, p)
    fit_intercept
        Regress each column on the others and a constant (R_j² centred). False: on the others alone, R_j² uncentred.

    Returns
    -------
    Solution
        ``value`` is a `Collinearity`. A column that the others (or the constant) determine up to rounding has VIF inf.
        Certificate ``rounding`` (monitor): the largest finite VIF is below 1/(eps max(n, p)), where rounding decides.

    Raises
    ------
    InputError
        For bad shapes, NaN or infinity.

    References
    ----------
    Belsley, Kuh & Welsch (1980), *Regression Diagnostics*, §3.2 (indices include the constant's column, uncentred).

    Examples
    --------
    >>> import numpy as np
    >>> out = vif(np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])).value
    >>> np.round(out.vif, 12).tolist(), np.round(out.condition_indices, 12).tolist()
    ([1.0, 1.0], [1.0, 1.0, 1.0])
    """
    validation.flag("fit_intercept", fit_intercept)
    X = validation.matrix("X", X)
    n, p = X.shape
    eps = float(jnp.finfo(X.dtype).eps)
    X = X / _positive(jnp.max(jnp.abs(X), axis=0))  # scale-free before any square is taken
    middle = X
    if fit_intercept:
        middle = X - X[:1]
        middle = middle - jnp.mean(middle, axis=0)
    size = jnp.linalg.norm(middle, axis=0)
    _, sigma, vt = jnp.linalg.svd(middle / _positive(size), full_matrices=False)
    cutoff = max(n, p) * eps * jnp.max(sigma)
    keep = sigma > cutoff
    inverse = jnp.where(keep, 1.0 / jnp.where(keep, sigma, 1.0), 0.0)
    factors = jnp.sum((inverse[:, None] * vt) ** 2, axis=0)
    missing = 1.0 - jnp.sum(jnp.where(keep[:, None], vt, 0.0) ** 2, axis=0)  # share of e_j in the null space
    factors = jnp.where((missing > eps**0.5) | (size == 0), jnp.inf, jnp.maximum(factors, 1.0))
    all_columns = jnp.concatenate([jnp.ones((n, 1), X.dtype), X], axis=1) if fit_intercept else X
    spread = jnp.linalg.svd(all_columns / _positive(jnp.linalg.norm(all_columns, axis=0)), compute_uv=False)
    low = jnp.where(spread > max(n, p) * eps * spread[0], spread, 0.0)
    indices = jnp.where(low > 0, spread[0] / jnp.where(low > 0, low, 1.0), jnp.inf)
    finite = jnp.max(jnp.where(jnp.isfinite(factors), factors, 0.0))
    rounding = Certificate(
        "the largest finite VIF is one that rounding cannot have made: VIF · max(n, p) · eps ≤ 1",
        finite * max(n, p) * eps,
        1.0,
        "monitor",
        "Belsley, Kuh & Welsch (1980), §3.2",
    )
    return Solution(Collinearity(factors, indices), {"rounding": rounding})


def _positive(x: Any) -> jax.Array:
    return jnp.where(x > 0, x, 1.0)
