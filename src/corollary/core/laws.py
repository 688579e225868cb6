"""Probability laws through their moment generating functions ψ(t) = E exp(tX).

Each law gives its mean, the *centred* cumulant function K(t) = log E exp(t (X − E X)) in a form without cancellation or
overflow, the open interval of t where it is finite, and its support. Everything about a law that `mgf`, `moments`,
`chernoff` and `subgaussian_parameter` need follows from these; the cumulants are K's derivatives at 0.

Laws are pytrees: their parameters may be traced, differentiated and vmapped over. Cost: O(1) per t, O(n) for samples.

Source: S. Boucheron, G. Lugosi, P. Massart, "Concentration Inequalities" (2013), §2.2 to 2.4.
"""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corollary.core.errors import InputError

Number = Any  # a Python number, a NumPy or JAX scalar, or a batch of them under vmap
Scalar = Float[Array, ""]

_SERIES = 14  # terms of log(sinh(x)/x) below |x| = 1: the remainder is below (1/π)^28, under float64's rounding


class Law(eqx.Module):
    """The law of one real random variable. ``law_a + law_b`` and ``2.0 * law`` are of independent variables."""

    @property
    @abc.abstractmethod
    def mean(self) -> Any:
        """E[X]."""

    @abc.abstractmethod
    def centred(self, t: Scalar) -> Scalar:
        """K(t) = log E exp(t (X − E X)) at one t inside `domain`."""

    @property
    def domain(self) -> tuple[Any, Any]:
        """The open interval of t on which ψ is finite."""
        return -jnp.inf, jnp.inf

    @property
    def support(self) -> tuple[Any, Any]:
        """The least interval that carries the law."""
        return -jnp.inf, jnp.inf

    def __add__(self, other: Law) -> Combination:
        return Combination((self, other), (1.0, 1.0))

    def __mul__(self, weight: Number) -> Combination:
        return Combination((self,), (weight,))

    __rmul__ = __mul__


class Normal(Law):
    """Gaussian with a mean and a standard deviation."""

    location: Number = 0.0
    std: Number = 1.0

    def __check_init__(self):
        """Refuse a negative standard deviation."""
        _check("location", self.location)
        _check("std", self.std, 0)

    @property
    def mean(self) -> Any:
        """E[X]."""
        return self.location

    def centred(self, t: Scalar) -> Scalar:
        """σ²t²/2."""
        return (self.std * t) * (self.std * t) / 2

    @property
    def support(self) -> tuple[Any, Any]:
        """The line, or one point where the standard deviation is zero."""
        wide = jnp.where(jnp.asarray(self.std) > 0, jnp.inf, 0.0)
        return self.location - wide, self.location + wide


class Uniform(Law):
    """Uniform on [low, high]."""

    low: Number = 0.0
    high: Number = 1.0

    def __check_init__(self):
        """Refuse an interval that is the wrong way round."""
        _check("low", self.low)
        _check("high", self.high)
        _check("high - low", self.high - self.low, 0)

    @property
    def mean(self) -> Any:
        """The midpoint."""
        return self.low + (self.high - self.low) / 2

    def centred(self, t: Scalar) -> Scalar:
        """log(sinh(ht)/(ht)) with the half-width h."""
        x = t * ((self.high - self.low) / 2)
        near = jnp.abs(x) < 1
        square = jnp.square(jnp.where(near, x, 0))
        series = jnp.zeros_like(x)
        for coefficient in reversed(_log_sinhc_series()):
            series = (series + coefficient) * square
        far = jnp.where(near, 1, jnp.abs(x))
        return jnp.where(near, series, far + jnp.log1p(-jnp.exp(-2 * far)) - jnp.log(2 * far))

    @property
    def support(self) -> tuple[Any, Any]:
        """[low, high]."""
        return self.low, self.high


class Bernoulli(Law):
    """1 with probability p, else 0."""

    p: Number = 0.5

    def __check_init__(self):
        """Refuse p outside [0, 1]."""
        _check("p", self.p, 0, 1)

    @property
    def mean(self) -> Any:
        """P."""
        return self.p

    def centred(self, t: Scalar) -> Scalar:
        """log(1 − p + p eᵗ) − pt, with the larger exponential taken out."""
        up = t > 0
        # Toward a side of probability q: log(q + (1 − q) e^−|t|) + (1 − q)|t|, and expm1 keeps the small ones.
        q = jnp.where(up, self.p + 0 * t, 1 - self.p + 0 * t)
        size = jnp.where(up, t, -t)
        return jnp.log1p((1 - q) * jnp.expm1(-size)) + (1 - q) * size

    @property
    def support(self) -> tuple[Any, Any]:
        """{0, 1}, or the one of them that is certain."""
        p = jnp.asarray(self.p)
        return jnp.where(p == 1, 1.0, 0.0), jnp.where(p == 0, 0.0, 1.0)


class Rademacher(Law):
    """+1 or −1 with equal chance."""

    @property
    def mean(self) -> Any:
        """0."""
        return 0.0

    def centred(self, t: Scalar) -> Scalar:
        """log cosh t."""
        size = jnp.where(t > 0, t, -t)
        return size + jnp.log1p(jnp.expm1(-2 * size) / 2)

    @property
    def support(self) -> tuple[Any, Any]:
        """{−1, 1}."""
        return -1.0, 1.0


class Poisson(Law):
    """Counts with a rate."""

    rate: Number = 1.0

    def __check_init__(self):
        """Refuse a negative rate."""
        _check("rate", self.rate, 0)

    @property
    def mean(self) -> Any:
        """The rate."""
        return self.rate

    def centred(self, t: Scalar) -> Scalar:
        """λ(eᵗ − 1 − t)."""
        return self.rate * (jnp.expm1(t) - t)

    @property
    def support(self) -> tuple[Any, Any]:
        """[0, ∞), or {0} at rate zero."""
        return 0.0, jnp.where(jnp.asarray(self.rate) > 0, jnp.inf, 0.0)


class Gamma(Law):
    """Gamma with a shape α and a *scale* β: ψ(t) = (1 − βt)^−α for t < 1/β."""

    shape: Number = 1.0
    scale: Number = 1.0

    def __check_init__(self):
        """Refuse a shape or a scale that is not positive."""
        _check("shape", self.shape, 0, open_low=True)
        _check("scale", self.scale, 0, open_low=True)

    @property
    def mean(self) -> Any:
        """αβ."""
        return self.shape * self.scale

    def centred(self, t: Scalar) -> Scalar:
        """−α (log(1 − βt) + βt)."""
        x = self.scale * t
        return -self.shape * (jnp.log1p(-x) + x)

    @property
    def domain(self) -> tuple[Any, Any]:
        """T < 1/β."""
        return -jnp.inf, 1 / self.scale

    @property
    def support(self) -> tuple[Any, Any]:
        """[0, ∞)."""
        return 0.0, jnp.inf


class Exponential(Law):
    """Waiting time with a *scale* (its mean): Gamma of shape 1."""

    scale: Number = 1.0

    def __check_init__(self):
        """Refuse a scale that is not positive."""
        _check("scale", self.scale, 0, open_low=True)

    @property
    def mean(self) -> Any:
        """The scale."""
        return self.scale

    def centred(self, t: Scalar) -> Scalar:
        """−log(1 − βt) − βt."""
        return Gamma(1.0, self.scale).centred(t)

    @property
    def domain(self) -> tuple[Any, Any]:
        """T < 1/β."""
        return -jnp.inf, 1 / self.scale

    @property
    def support(self) -> tuple[Any, Any]:
        """[0, ∞)."""
        return 0.0, jnp.inf


class Laplace(Law):
    """Double exponential about a location, with a scale: ψ(t) = exp(t·location)/(1 − scale²t²)."""

    location: Number = 0.0
    scale: Number = 1.0

    def __check_init__(self):
        """Refuse a scale that is not positive."""
        _check("location", self.location)
        _check("scale", self.scale, 0, open_low=True)

    @property
    def mean(self) -> Any:
        """The location."""
        return self.location

    def centred(self, t: Scalar) -> Scalar:
        """−log(1 − β²t²)."""
        return -jnp.log1p(-jnp.square(self.scale * t))

    @property
    def domain(self) -> tuple[Any, Any]:
        """|t| < 1/β."""
        return -1 / self.scale, 1 / self.scale


class Empirical(Law):
    """The law that puts mass 1/n on each sample."""

    samples: Float[Array | np.ndarray, " n"]

    def __check_init__(self):
        """Refuse samples that are not a finite vector."""
        _check("samples", self.samples)
        if np.ndim(self.samples) != 1 or np.size(self.samples) == 0:
            raise InputError(f"samples: found shape {np.shape(self.samples)}, expected a vector with an entry")

    @property
    def mean(self) -> Any:
        """The sample mean."""
        return self.samples[0] + jnp.mean(self.samples - self.samples[0])

    def centred(self, t: Scalar) -> Scalar:
        """log mean exp(t (x − x̄)), near 0 by expm1 so that small t keep their digits."""
        x = t * (self.samples - self.mean)
        small = jnp.max(jnp.abs(x)) < 1
        near = jnp.log1p(jnp.mean(jnp.expm1(jnp.where(small, x, 0))))
        top = jnp.max(x)
        return jnp.where(small, near, top + jnp.log(jnp.mean(jnp.exp(x - top))))

    @property
    def support(self) -> tuple[Any, Any]:
        """From the least to the greatest sample."""
        return jnp.min(self.samples), jnp.max(self.samples)


class Combination(Law):
    """Σ a_i X_i of independent variables: ψ(t) = Π ψ_i(a_i t)."""

    laws: tuple[Law, ...]
    weights: tuple[Number, ...]

    def __check_init__(self):
        """Refuse a list of weights that does not fit."""
        if not self.laws or len(self.laws) != len(self.weights):
            raise InputError(f"weights: found {len(self.weights)}, expected one for each of {len(self.laws)} laws")
        for weight in self.weights:
            _check("weights", weight)

    @property
    def mean(self) -> Any:
        """Σ a_i E[X_i]."""
        return sum(a * law.mean for a, law in self._pairs())

    def centred(self, t: Scalar) -> Scalar:
        """Σ K_i(a_i t)."""
        return sum((law.centred(a * t) for a, law in self._pairs()), start=jnp.zeros_like(t))

    @property
    def domain(self) -> tuple[Any, Any]:
        """The t for which every a_i t lies in its own domain."""
        ends = [_scaled(law.domain, a, divide=True) for a, law in self._pairs()]
        return jnp.max(jnp.stack([low for low, _ in ends])), jnp.min(jnp.stack([high for _, high in ends]))

    @property
    def support(self) -> tuple[Any, Any]:
        """The Minkowski sum of the scaled supports."""
        ends = [_scaled(law.support, a) for a, law in self._pairs()]
        return sum(low for low, _ in ends), sum(high for _, high in ends)

    def _pairs(self) -> list[tuple[Number, Law]]:
        return list(zip(self.weights, self.laws, strict=True))


def _scaled(interval: tuple[Any, Any], a: Number, divide: bool = False) -> tuple[Array, Array]:
    """{a x} over an interval of x, or with `divide` {t: a t in the interval}; a = 0 is handled, not 0·∞."""
    a = jnp.asarray(a)
    a = a if jnp.issubdtype(a.dtype, jnp.floating) else a.astype(jnp.zeros(()).dtype)
    low, high = (jnp.asarray(end).astype(a.dtype) for end in interval)
    safe = jnp.where(a == 0, 1, a)
    one, two = (low / safe, high / safe) if divide else (low * safe, high * safe)
    rest = jnp.inf if divide else 0.0
    return (
        jnp.where(a == 0, -rest, jnp.minimum(one, two)).astype(a.dtype),
        jnp.where(a == 0, rest, jnp.maximum(one, two)).astype(a.dtype),
    )


def _log_sinhc_series() -> list[float]:
    """Coefficients c_k of log(sinh(x)/x) = Σ c_k x^{2k}: ζ(2k)(−1)^{k+1}/(k π^{2k})."""
    from scipy.special import zeta

    return [float((-1) ** (k + 1) * zeta(2 * k) / (k * np.pi ** (2 * k))) for k in range(1, _SERIES + 1)]


def _check(name: str, value: Any, low: float = -np.inf, high: float = np.inf, *, open_low: bool = False) -> None:
    if isinstance(value, jax.core.Tracer):
        return
    found = np.asarray(value)
    if found.dtype.kind not in "buif":
        raise InputError(f"{name}: found {value!r}, expected real numbers")
    inside = np.isfinite(found) & (found >= low) & (found <= high) & ~(open_low & (found == low))
    if not inside.all():
        left, right = "(" if open_low or low == -np.inf else "[", ")" if high == np.inf else "]"
        raise InputError(f"{name}: found {value!r}, expected finite numbers in {left}{low:g}, {high:g}{right}")
