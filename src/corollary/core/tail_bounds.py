"""Tail bounds from a few numbers: Markov, Chebyshev and Cantelli from moments, Hoeffding from sub-Gaussian parameters.

Use them to turn a mean, a variance or a range into a probability that holds for every law with those numbers, however
skewed. Each is an upper bound on a probability, so it is cut off at 1; each is the best possible for what it is told
(Chebyshev is attained by three atoms, Cantelli by two). Cost: O(1) a threshold; thresholds and moments broadcast.

Source: S. Boucheron, G. Lugosi, P. Massart, "Concentration Inequalities" (2013), §2.1 and exercise 2.3 (Cantelli);
W. Hoeffding, J. Amer. Statist. Assoc. 58 (1963), theorems 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input

Bound = Float[Array, "..."]

ANY = (lambda x: np.full(np.shape(x), True), "any number")
NONNEGATIVE = (lambda x: x >= 0, "no negative number")
POSITIVE = (lambda x: x > 0, "positive numbers")
AT_LEAST_ONE = (lambda x: x >= 1, "at least 1")
PROBABILITY = (lambda x: (x > 0) & (x <= 1), "probabilities in (0, 1]")


@follows_input
def markov(mean: Any, threshold: Any) -> Bound:
    """Markov's bound: P(X >= threshold) <= E[X] / threshold for X >= 0.

    Parameters
    ----------
    mean
        E[X], not negative: the bound is for nonnegative variables.
    threshold
        Where the tail starts; the bound is 1 for a threshold that does not exceed the mean.

    Returns
    -------
    min(1, mean / threshold).

    Raises
    ------
    InputError
        For a negative mean, NaN or an infinity.

    Examples
    --------
    >>> float(markov(1.0, 4.0))
    0.25
    """
    mean, threshold = _numbers(mean=(mean, NONNEGATIVE), threshold=(threshold, ANY))
    # Compared, then divided: no 0/0, and no overflow at thresholds near zero.
    beyond = threshold > mean
    return jnp.where(beyond, mean / jnp.where(beyond, threshold, 1), jnp.ones_like(mean))


@follows_input
def chebyshev(variance: Any, deviation: Any) -> Bound:
    """Chebyshev's bound: P(|X − E X| >= deviation) <= Var[X] / deviation².

    Attained by the law on {−k, 0, k} standard deviations with probabilities 1/(2k²), 1 − 1/k², 1/(2k²).

    Parameters
    ----------
    variance
        Var[X], not negative, in squared units of `deviation`.
    deviation
        Distance from the mean, not negative.

    Returns
    -------
    min(1, variance / deviation²).

    Raises
    ------
    InputError
        For a negative argument, NaN or an infinity.

    Examples
    --------
    >>> float(chebyshev(1.0, 2.0))
    0.25
    """
    variance, deviation = _numbers(variance=(variance, NONNEGATIVE), deviation=(deviation, NONNEGATIVE))
    ratio = _standardised(variance, deviation)
    return jnp.where(ratio > 1, jnp.square(1 / jnp.maximum(ratio, 1)), jnp.ones_like(ratio))


@follows_input
def cantelli(variance: Any, deviation: Any) -> Bound:
    """Cantelli's one-sided bound: P(X − E X >= deviation) <= Var[X] / (Var[X] + deviation²).

    Attained by the law on {k, −1/k} standard deviations with probabilities 1/(1 + k²) and k²/(1 + k²). The same bound
    holds for the lower tail.

    Parameters
    ----------
    variance
        Var[X], not negative, in squared units of `deviation`.
    deviation
        Signed distance above the mean; for zero or less the only bound is 1.

    Returns
    -------
    1 / (1 + deviation²/variance), and 1 where the deviation is not positive.

    Raises
    ------
    InputError
        For a negative variance, NaN or an infinity.

    Examples
    --------
    >>> float(cantelli(1.0, 2.0))
    0.2
    """
    variance, deviation = _numbers(variance=(variance, NONNEGATIVE), deviation=(deviation, ANY))
    above = jnp.maximum(deviation, 0)
    return 1 / (1 + jnp.square(_standardised(variance, above)))


@follows_input
def hoeffding(n: Any, proxy: Any, deviation: Any) -> Bound:
    """Hoeffding's bound: P(|mean of n − its expectation| >= t) <= 2 exp(−n t² / (2 σ²)) for sub-Gaussian terms.

    Parameters
    ----------
    n
        How many independent terms are averaged, at least 1.
    proxy
        σ²: the terms' sub-Gaussian parameter, or the average of theirs where they differ. A term within [a, b] has
        (b − a)²/4 (Hoeffding's lemma), a Gaussian its variance; see `subgaussian_parameter`.
    deviation
        t, not negative, in the unit of the terms.

    Returns
    -------
    min(1, 2 exp(−n t²/(2σ²))).

    Raises
    ------
    InputError
        For n below 1, a negative `proxy` or `deviation`, NaN or an infinity.

    See Also
    --------
    hoeffding_radius : t for a given probability.
    hoeffding_samples : n for a given t and probability.

    Examples
    --------
    >>> round(float(hoeffding(200, 0.25, 0.1)), 4)
    0.0366
    """
    n, proxy, deviation = _numbers(n=(n, AT_LEAST_ONE), proxy=(proxy, NONNEGATIVE), deviation=(deviation, NONNEGATIVE))
    ratio = _standardised(proxy, deviation)
    return jnp.minimum(1, 2 * jnp.exp(-n * jnp.square(ratio) / 2))


@follows_input
def hoeffding_radius(n: Any, proxy: Any, delta: Any) -> Bound:
    """The t within which a mean of n lies around its expectation with probability at least 1 − delta.

    Parameters
    ----------
    n, proxy
        As for `hoeffding`.
    delta
        Probability of failure, in (0, 1].

    Returns
    -------
    σ sqrt(2 log(2/delta) / n), in the unit of the terms.

    Raises
    ------
    InputError
        For n below 1, a negative `proxy`, or `delta` outside (0, 1].

    Examples
    --------
    >>> round(float(hoeffding_radius(200, 0.25, 0.05)), 4)
    0.096
    """
    n, proxy, delta = _numbers(n=(n, AT_LEAST_ONE), proxy=(proxy, NONNEGATIVE), delta=(delta, PROBABILITY))
    return jnp.sqrt(proxy) * jnp.sqrt(2 * (jnp.log(2.0).astype(delta.dtype) - jnp.log(delta)) / n)


@follows_input
def hoeffding_samples(proxy: Any, deviation: Any, delta: Any) -> Bound:
    """The least n for which the mean lies within `deviation` of its expectation with probability at least 1 − delta.

    Parameters
    ----------
    proxy, deviation
        As for `hoeffding`; `deviation` above zero.
    delta
        Probability of failure, in (0, 1].

    Returns
    -------
    ceil(2 σ² log(2/delta) / t²), at least 1, as a floating number (it may exceed any integer type).

    Raises
    ------
    InputError
        For a negative `proxy`, a `deviation` that is not positive, or `delta` outside (0, 1].

    Examples
    --------
    >>> int(hoeffding_samples(0.25, 0.1, 0.05))
    185
    """
    proxy, deviation, delta = _numbers(
        proxy=(proxy, NONNEGATIVE), deviation=(deviation, POSITIVE), delta=(delta, PROBABILITY)
    )
    log_term = 2 * (jnp.log(2.0).astype(delta.dtype) - jnp.log(delta))
    return jnp.maximum(1, jnp.ceil(log_term * jnp.square(jnp.sqrt(proxy) / deviation)))


def _standardised(variance: Array, deviation: Array) -> Array:
    """deviation / σ without squaring either (no overflow); 0/0, a constant at its own mean, is 0."""
    constant = variance == 0
    ratio = deviation / jnp.sqrt(jnp.where(constant, 1, variance))
    return jnp.where(constant, jnp.where(deviation > 0, jnp.inf, 0.0).astype(ratio.dtype), ratio)


def _numbers(**named: tuple[Any, tuple[Callable[[Any], Any], str]]) -> tuple[Array, ...]:
    """Finite real arguments in one precision, broadcast together; each is checked unless traced."""
    for name, (value, (good, words)) in named.items():
        if isinstance(value, jax.core.Tracer):
            continue
        found = np.asarray(value)
        if found.dtype.kind not in "buif":
            raise InputError(f"{name}: found dtype {found.dtype}, expected real numbers")
        if not np.isfinite(found).all():
            raise InputError(f"{name}: found NaN or infinity, expected finite numbers")
        if not np.all(good(found)):
            raise InputError(f"{name}: found {found[~good(found)].ravel()[0]:g}, expected {words}")
    try:
        return tuple(jnp.broadcast_arrays(*common_float(*(value for value, _ in named.values()))))
    except ValueError as error:
        shapes = ", ".join(f"{k} {np.shape(v)}" for k, (v, _) in named.items())
        raise InputError(f"{shapes}: found shapes that do not fit, expected ones that broadcast") from error
