"""The sub-Gaussian parameter of a law or a sample: the least σ² with E exp(t(X − E X)) <= exp(σ²t²/2) for all t.

It is sup_t 2 K(t)/t² with the centred cumulant function K, taken here over a grid that is refined about its best point;
t → 0 gives the variance, so σ² >= Var[X]. A law whose ψ diverges somewhere, or whose ratio still grows at the grid's
end, has no such parameter: the answer is then ∞. Cost: 5 × 65 evaluations of K a side.

Source: S. Boucheron, G. Lugosi, P. Massart, "Concentration Inequalities" (2013), §2.3; W. Hoeffding (1963), lemma 1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.generating import _one_precision, centred_cumulant, maximise, standard_deviation
from corollary.core.laws import Empirical, Law
from corollary.core.precision import follows_input
from corollary.core.solution import Solution


@follows_input
def subgaussian_parameter(law: Any, *, relative_error: float = 0.05) -> Solution:
    """The least σ² with E exp(t(X − E X)) <= exp(σ²t²/2) for every t, or ∞ where there is none.

    Use it to feed `hoeffding`: for a bounded variable it can be far below the (b − a)²/4 of Hoeffding's lemma.

    Parameters
    ----------
    law
        A law of `corollary.core.laws`, or samples of shape (n,).
    relative_error
        For samples: t is tried only as far as the mean of exp(tX) is known to this relative standard error.

    Returns
    -------
    `Solution` whose value is σ² in squared units of X; ``stats["t"]`` is where the supremum was found (0: the
    variance), ``stats["subgaussian"]`` whether there is a finite parameter as far as can be told.

    Certificates: ``variance`` (theorem: Var[X] <= σ²) and, for a law, ``hoeffding_lemma`` (theorem: σ² <= (b − a)²/4 on
    a bounded support); for samples ``estimate``, the value with its standard error.

    Raises
    ------
    InputError
        For samples that are not a finite vector with at least two entries.

    Examples
    --------
    >>> from corollary.core import laws
    >>> round(float(subgaussian_parameter(laws.Uniform(-1.0, 1.0)).value), 6)
    0.333333
    >>> float(subgaussian_parameter(laws.Exponential(1.0)).value)
    inf
    """
    if isinstance(law, Law):
        (law,) = _one_precision(law)
        return _of_law(law)
    samples = validation.vector("law", law)
    validation.number(0, open_low=True)("relative_error", relative_error)
    return _of_samples(samples, relative_error)


@jax.jit
def _of_law(law: Law) -> Solution:
    std = standard_deviation(law)
    variance = jax.grad(jax.grad(law.centred))(jnp.zeros_like(std))
    low, high = (jnp.asarray(end).astype(std.dtype) for end in law.domain)
    finite = jnp.isinf(low) & jnp.isinf(high)

    best, at = variance, jnp.zeros_like(std)
    for side in (1, -1):

        def ratio(size: Array, side: int = side) -> Array:
            # 2 K/t² less the rounding of K, which grows toward small t.
            return 2 * centred_cumulant(law, side * size) / jnp.square(size) - rounding(variance) / (size * std)

        value, size = maximise(ratio, jnp.full_like(std, jnp.inf), 1 / std, start=-8.0)
        # Where the ratio still grows at the far end it grows for ever (Poisson): there is no parameter.
        near_end, end = ratio(jnp.exp(jnp.asarray([10.0, 20.0], std.dtype)) / std)
        finite &= jnp.isfinite(end) & (end <= near_end * (1 + 1e-3))
        better = value > best
        best, at = jnp.where(better, value, best), jnp.where(better, side * size, at)

    constant = variance <= 0
    value = jnp.where(constant, 0, jnp.where(finite, best, jnp.inf))
    bottom, top = law.support
    certificates = {
        "variance": Certificate(
            "Var[X] <= sigma²",
            measured=variance,
            bound=value + rounding(value),
            kind="theorem",
            source="Boucheron, Lugosi, Massart (2013), §2.3",
        ),
        # An unbounded support gives the bound ∞, which says nothing and holds.
        "hoeffding_lemma": Certificate(
            "sigma² <= (b − a)²/4 for a support within [a, b]",
            measured=jnp.where(finite, value, 0),
            bound=(lemma := jnp.square(jnp.asarray(top - bottom).astype(std.dtype)) / 4) + rounding(lemma),
            kind="theorem",
            source="Hoeffding (1963), lemma 1",
        ),
    }
    return Solution(value, certificates, stats={"t": jnp.where(constant, 0, at), "subgaussian": constant | finite})


@jax.jit
def _of_samples(samples: Array, relative_error: float | Array) -> Solution:
    n = samples.shape[0]
    x = samples - Empirical(samples).mean
    std = jnp.sqrt(jnp.mean(jnp.square(x)))
    constant = std == 0
    z = x / jnp.where(constant, 1, std)
    sizes = jnp.geomspace(0.05, 50.0, 48).astype(z.dtype)

    def at(t: Array) -> tuple[Array, Array, Array]:
        """The ratio at t, its standard error, and the relative standard error of the mean of exp(tz)."""
        exponent = t * z
        top = jnp.max(exponent)
        weight = jnp.exp(exponent - top)
        mean = jnp.mean(weight)
        # K is known to the spread of its influence function, exp(tz)/ψ − 1 − tz.
        influence = weight / mean - 1
        relative = jnp.sqrt(jnp.mean(jnp.square(influence)) / n)
        spread = jnp.sqrt(jnp.mean(jnp.square(influence - exponent)) / n)
        return 2 * (jnp.log(mean) + top) / t**2, 2 * spread / t**2, relative

    variance_error = jnp.sqrt(jnp.mean(jnp.square(jnp.square(z) - 1)) / n)
    best, error, where, finite = jnp.ones_like(std), variance_error, jnp.zeros_like(std), jnp.asarray(True)
    for side in (1, -1):
        ratio, stderr, relative = jax.lax.map(at, side * sizes)
        known = jnp.cumprod(relative <= relative_error).astype(bool)
        last = jnp.maximum(jnp.sum(known) - 1, 0)
        shown = jnp.where(known, ratio, -jnp.inf)
        # Significantly above the variance, and growing to the end of what the sample can tell: no finite parameter.
        above = jnp.any(known & (ratio - 1 > 4 * (stderr + variance_error)))
        finite &= ~(above & (jnp.argmax(shown) == last) & ~jnp.all(known))
        k = jnp.argmax(shown)
        better = shown[k] > best
        best, error = jnp.where(better, ratio[k], best), jnp.where(better, stderr[k], error)
        where = jnp.where(better, side * sizes[k], where)
    scale = jnp.square(std)
    value = jnp.where(constant, 0, jnp.where(finite, scale * best, jnp.inf))
    certificates = {
        "estimate": Certificate(
            "sigma² of the law that the samples come from",
            measured=value,
            kind="estimate",
            stderr=scale * error,
            source="delta method on the empirical cumulant function",
        ),
        "variance": Certificate(
            "the samples' variance <= sigma²",
            measured=scale,
            bound=value + rounding(value),
            kind="theorem",
            source="Boucheron, Lugosi, Massart (2013), §2.3",
        ),
    }
    t = where / jnp.where(constant, 1, std)
    return Solution(value, certificates, stats={"t": t, "subgaussian": finite})
