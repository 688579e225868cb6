"""Akaike's and the Bayesian information criterion: −2 log L + 2p and −2 log L + p log n. Cost O(models).

BIC's penalty is the heavier from n = 8 on (n > e²). As statsmodels counts: p is the number of coefficients, the
constant included, σ² not. Source: Akaike (1974); Schwarz (1978); Hastie, Tibshirani & Friedman, eqs. 7.29 and 7.35.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import as_float, follows_input

Numbers = Float[Array | np.ndarray, "..."] | np.floating | float
Index = Int[Array | np.ndarray, ""] | np.integer | int


class InformationCriteria(eqx.Module):
    """`aic` and `bic` of each model, and the index of the model that minimises each."""

    aic: Numbers
    bic: Numbers
    best_aic: Index
    best_bic: Index


@follows_input
def information_criteria(log_likelihood: Any, n_params: Any, n: int) -> InformationCriteria:
    """AIC and BIC of one or several models fitted to the same n rows.

    Parameters
    ----------
    log_likelihood : () or (models,)
        Maximised log-likelihoods (natural logarithm), e.g. ``ols(X, y).value.log_likelihood``.
    n_params : () or (models,)
        Coefficients of each, the constant included, σ² not.
    n
        Rows.

    Returns
    -------
    InformationCriteria
        Smaller is better; ties go to the first.

    Raises
    ------
    InputError
        For shapes that do not match, negative counts, n < 1.

    References
    ----------
    Akaike (1974); Schwarz (1978).

    Examples
    --------
    >>> import numpy as np
    >>> out = information_criteria(np.array([-10.0, -9.5]), np.array([1, 2]), 100)
    >>> out.aic.tolist(), int(out.best_bic)
    ([22.0, 23.0], 0)
    """
    validation.integer(1)("n", n)
    likelihood, count = as_float(log_likelihood), as_float(n_params)
    count = count.astype(likelihood.dtype)
    if likelihood.ndim > 1 or count.shape not in ((), likelihood.shape):
        raise InputError(f"n_params: found shape {count.shape}, expected {likelihood.shape} as log_likelihood")
    for name, value, wrong in (("log_likelihood", likelihood, jnp.isnan), ("n_params", count, lambda c: ~(c >= 0))):
        if not isinstance(value, Tracer) and bool(wrong(value).any()):
            raise InputError(f"{name}: found {np.asarray(value)}, expected numbers (counts >= 0)")
    aic = -2 * likelihood + 2 * count
    bic = -2 * likelihood + jnp.log(jnp.asarray(float(n), likelihood.dtype)) * count
    return InformationCriteria(aic, bic, jnp.argmin(aic), jnp.argmin(bic))


@follows_input
def gaussian_log_likelihood(rss: Any, n: int) -> Any:
    """The maximised Gaussian log-likelihood −(n/2)(log(2π rss/n) + 1) of a fit with residual sum of squares `rss`.

    Examples
    --------
    >>> round(float(gaussian_log_likelihood(2.0, 2)), 6)
    -2.837877
    """
    validation.integer(1)("n", n)
    rss = as_float(rss)
    return -n / 2 * (jnp.log(2 * jnp.pi * rss / n) + 1)
