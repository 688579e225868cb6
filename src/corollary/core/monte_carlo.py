"""Means, variances and covariances with their standard errors, in one streaming pass that is safe from cancellation.

`RunningMoments` holds the count, the mean and the centred sums of a stream; batches and whole streams merge exactly as
if they had been seen at once (on other devices or hosts, too), and the sums are always about the current mean, never
E[X²] − E[X]². `expectation` runs it over samples of f(X); `expectation_on_grid` integrates against a density, or sums
against probabilities. Cost: O(n d²) time, O(d²) memory beside one chunk.

Source: T. F. Chan, G. H. Golub, R. J. LeVeque, Amer. Statist. 37 (1983), eq. 2.1; P. Pébay, Sandia report
SAND2008-6212 (2008), for orders three and four.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Solution
from corollary.core.tail_bounds import hoeffding_radius

Vector = Float[Array | np.ndarray, " d"]
Matrix = Float[Array | np.ndarray, "d d"]


class RunningMoments(eqx.Module):
    """Count, mean and centred sums of a stream of vectors; start one with `RunningMoments.start`.

    The mean is kept as an origin (the first sample) plus an offset, so that data far from zero lose no digits.

    Examples
    --------
    >>> stream = RunningMoments.start(jnp.zeros(1)).update(jnp.array([[1.0], [2.0]])).update(jnp.array([[6.0]]))
    >>> stream.mean.tolist(), stream.covariance.tolist()
    ([3.0], [[7.0]])
    """

    count: Float[Array | np.ndarray, ""]
    origin: Vector
    offset: Vector
    m11: Matrix  # Σ yᵢ yⱼ with y = x − mean
    m21: Matrix  # Σ yᵢ² yⱼ
    m22: Matrix  # Σ yᵢ² yⱼ²

    @classmethod
    def start(cls, origin: Array) -> RunningMoments:
        """An empty stream of vectors like `origin`, any point near the data."""
        square = jnp.zeros((origin.shape[0], origin.shape[0]), origin.dtype)
        return cls(jnp.zeros((), origin.dtype), origin, jnp.zeros_like(origin), square, square, square)

    @property
    def mean(self) -> Vector:
        """Σ x / n."""
        return self.origin + self.offset

    @property
    def covariance(self) -> Matrix:
        """Σ (x − mean)(x − mean)ᵀ / (n − 1); zero for a single sample."""
        return self.m11 / jnp.maximum(self.count - 1, 1)

    @property
    def variance(self) -> Vector:
        """The covariance's diagonal."""
        return jnp.diagonal(self.covariance)

    @property
    def mean_stderr(self) -> Vector:
        """Standard error of the mean: sqrt(variance/n)."""
        return jnp.sqrt(self.variance / self.count)

    @property
    def covariance_stderr(self) -> Matrix:
        """Standard error of each covariance: sqrt((E[yᵢ²yⱼ²] − cov²)/n)."""
        second = self.m11 / self.count
        return jnp.sqrt(jnp.maximum(self.m22 / self.count - jnp.square(second), 0) / self.count)

    def interval(self, confidence: float = 0.95) -> tuple[Vector, Vector]:
        """Lower and upper limit for the mean by the central limit theorem: asymptotic, not a bound."""
        half = jax.scipy.special.ndtri(jnp.asarray((1 + confidence) / 2, self.offset.dtype)) * self.mean_stderr
        return self.mean - half, self.mean + half

    def update(self, batch: Float[Array, "n d"], weights: Float[Array, " n"] | None = None) -> RunningMoments:
        """The stream with more samples, each counted once or by its weight."""
        w = jnp.ones_like(batch[:, 0]) if weights is None else weights
        y = batch - self.origin
        count = jnp.sum(w)
        offset = w @ y / jnp.where(count > 0, count, 1)
        y = y - offset
        wy, square = w[:, None] * y, jnp.square(y)
        new = RunningMoments(count, self.origin, offset, wy.T @ y, (wy * y).T @ y, (w[:, None] * square).T @ square)
        return self.merge(new)

    def merge(self, other: RunningMoments) -> RunningMoments:
        """Both streams as one (associative and commutative up to rounding)."""
        theirs = other.offset + (other.origin - self.origin)
        count = self.count + other.count
        share = other.count / jnp.where(count > 0, count, 1)
        offset = self.offset + share * (theirs - self.offset)
        a, b = self._about(offset - self.offset), other._about(offset - theirs)
        return RunningMoments(count, self.origin, offset, *(p + q for p, q in zip(a, b, strict=True)))

    def _about(self, s: Vector) -> tuple[Matrix, Matrix, Matrix]:
        """The three sums about mean + s; the sum of first powers about the mean is 0, so that its terms are gone."""
        n, square, si, sj = self.count, jnp.diagonal(self.m11), s[:, None], s[None, :]
        m11 = self.m11 + n * si * sj
        m21 = self.m21 - sj * square[:, None] - 2 * si * self.m11 - n * si**2 * sj
        m22 = self.m22 - 2 * sj * self.m21 - 2 * si * self.m21.T + sj**2 * square[:, None] + si**2 * square[None, :]
        return m11, m21, m22 + 4 * si * sj * self.m11 + n * si**2 * sj**2


@follows_input
def expectation(
    samples: Any,
    function: Callable[[Any], Any] | None = None,
    *,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
    tol: float | None = None,
    chunk: int = 16384,
) -> Solution:
    """E f(X), Var f(X) and Cov f(X) from independent samples of X, with standard errors.

    Parameters
    ----------
    samples
        Shape (n,) or (n, p): one row per sample.
    function
        One sample to a scalar or a vector (d,); the sample itself where it is left out.
    confidence
        Of the Hoeffding radius.
    bounds
        (low, high) where f is known to lie always: gives a radius that holds for every n, by Hoeffding's bound (over
        all d entries at once).
    tol
        With `bounds`: what the radius is held against.
    chunk
        Rows per step of the stream.

    Returns
    -------
    `Solution` whose value is the `RunningMoments` of f: ``mean``, ``variance``, ``covariance``, their standard errors
    and ``interval(confidence)``.

    Certificates: ``mean`` (estimate with its standard error); ``hoeffding`` (probabilistic), with `bounds` and `tol`:
    |mean − E f(X)| <= radius <= tol, on the checked assumption that no sample leaves the bounds. With `bounds` alone
    the radius is in ``stats["hoeffding_radius"]``.

    Raises
    ------
    InputError
        For samples or settings out of range, or a function that returns neither a scalar nor a vector.

    Examples
    --------
    >>> import numpy as np
    >>> found = expectation(np.array([1.0, 2.0, 6.0]), lambda x: 2.0 * x)
    >>> float(found.value.mean[0]), float(found.value.variance[0])
    (6.0, 28.0)
    """
    samples = validation.vector_or_matrix("samples", samples)
    validation.integer(1)("chunk", chunk)
    number = validation.number(0, 1, open_low=True)("confidence", confidence)
    if number == 1:
        raise InputError("confidence: found 1, expected a number below 1")
    validation.number(0, none=True)("tol", tol)
    if bounds is None and tol is not None:
        raise InputError("tol: found one without bounds, expected bounds = (low, high) on the function's values")
    moments, low, high = _stream(samples, function, chunk)
    d, n = moments.offset.shape[0], samples.shape[0]
    certificates = {
        "mean": Certificate(
            "E f(X)", moments.mean, None, "estimate", "central limit theorem", confidence, moments.mean_stderr
        )
    }
    stats: dict[str, Any] = {"samples": n}
    if bounds is not None:
        left, right = (float(validation.number()("bounds", end)) for end in bounds)
        if left > right:
            raise InputError(f"bounds: found {bounds!r}, expected low <= high")
        inside = Assumption("every sample's value lies within the bounds", True, (low >= left) & (high <= right))
        radius = hoeffding_radius.__wrapped__(n, (right - left) ** 2 / 4, (1 - confidence) / d)  # type: ignore[attr-defined]
        radius = radius.astype(moments.offset.dtype)
        stats["hoeffding_radius"] = radius
        if tol is not None:
            certificates["hoeffding"] = Certificate(
                "|mean − E f(X)| <= Hoeffding radius <= tol",
                measured=radius,
                bound=tol + rounding(radius),
                kind="probabilistic",
                confidence=confidence,
                source="Hoeffding (1963), theorem 2, and the union bound over the entries",
                assumptions=(inside, Assumption("independent samples of one law")),
            )
    return Solution(moments, certificates, stats=stats)


@follows_input
def expectation_on_grid(
    grid: Any, density: Any, function: Callable[[Any], Any] | None = None, *, discrete: bool = False, tol: float = 1e-6
) -> Solution:
    """E f(X), Var f(X) and Cov f(X) of a law on the line from its density on a grid, or from its probabilities.

    The integral ∫ f(x) p(x) dx is taken by the trapezoidal rule and is for continuous laws only: an atom has no
    density, and a law on points goes in with ``discrete=True`` and is summed.

    Parameters
    ----------
    grid
        Increasing points, shape (n,), that cover the law; or the atoms.
    density
        Values at the points, or a function of one point; not negative. Probabilities where `discrete`.
    function
        One point to a scalar or a vector (d,); the point itself where it is left out.
    discrete
        Whether the law sits on the points.
    tol
        How far the total mass may be from 1.

    Returns
    -------
    `Solution` whose value is the `RunningMoments` of f, of total count 1: ``mean`` and ``m11``, the covariance (there
    is no sampling, hence no n − 1).

    Certificates: ``mass`` (monitor): |∫p − 1| against `tol`; ``mean`` (estimate): its error is taken from the grid's
    even points alone, where the law is continuous.

    Raises
    ------
    InputError
        For a grid that does not increase, a negative density or lengths that differ.

    Examples
    --------
    >>> import numpy as np
    >>> die = expectation_on_grid(np.arange(1, 7), np.full(6, 1 / 6), discrete=True)
    >>> round(float(die.value.mean[0]), 6), round(float(die.value.m11[0, 0]), 6)
    (3.5, 2.916667)
    """
    grid = validation.vector("grid", grid)
    density = jax.vmap(density)(grid) if callable(density) else validation.vector("density", density)
    grid, density = common_float(grid, density)
    validation.same_length("grid", grid, "density", density)
    validation.flag("discrete", discrete)
    validation.number(0)("tol", tol)
    if not isinstance(grid, jax.core.Tracer) and not discrete and not bool(jnp.all(jnp.diff(grid) > 0)):
        raise InputError("grid: found points that do not increase, expected increasing ones")
    if not isinstance(density, jax.core.Tracer) and not bool(jnp.all(density >= 0)):
        raise InputError("density: found a negative or missing value, expected none")
    total, moments, error = _integrate(grid, density, function, discrete)
    source = "definition" if discrete else "trapezoidal rule"
    certificates = {
        "mass": Certificate("|total mass − 1| <= tol", jnp.abs(total - 1), tol + rounding(total), "monitor", source),
        "mean": Certificate("E f(X)", moments.mean, None, "estimate", source, stderr=error),
    }
    return Solution(moments, certificates, stats={"mass": total})


@eqx.filter_jit
def _stream(samples: Array, function: Callable[[Any], Any] | None, chunk: int) -> tuple[RunningMoments, Array, Array]:
    """The moments of f over all rows, its least and its greatest value, a chunk at a time."""
    n, chunk, rows = samples.shape[0], min(chunk, samples.shape[0]), _on_rows(function, samples)
    first = rows(samples[:1])[0]
    whole = n - n % chunk

    def step(carry: Any, batch: Array) -> tuple[Any, None]:
        moments, low, high = carry
        values = rows(batch)
        return (moments.update(values), jnp.minimum(low, jnp.min(values)), jnp.maximum(high, jnp.max(values))), None

    carry = (RunningMoments.start(first), jnp.min(first), jnp.max(first))
    carry, _ = jax.lax.scan(step, carry, samples[:whole].reshape(-1, chunk, *samples.shape[1:]))
    return carry if whole == n else step(carry, samples[whole:])[0]


@eqx.filter_jit
def _integrate(
    grid: Array, density: Array, function: Callable[[Any], Any] | None, discrete: bool
) -> tuple[Array, RunningMoments, Array | None]:
    """Total mass, moments and, for a density, how far the mean moves when every other point is left out."""
    values = _on_rows(function, grid)(grid)
    weights = density if discrete else density * _trapezoid(grid)
    total = jnp.sum(weights)
    start = RunningMoments.start(values[0])
    moments = start.update(values, weights / total)
    if discrete or grid.shape[0] < 3:
        return total, moments, None
    stop = grid.shape[0] - 1 + grid.shape[0] % 2  # an even count of points leaves the last one out
    w = _trapezoid(grid[:stop:2]) * density[:stop:2]
    return total, moments, jnp.abs(start.update(values[:stop:2], w / jnp.sum(w)).mean - moments.mean)


def _on_rows(function: Callable[[Any], Any] | None, samples: Array) -> Callable[[Array], Array]:
    """Function of a batch of rows, with values of shape (n, d)."""
    one = (lambda x: x) if function is None else function
    shape = jax.eval_shape(one, jax.ShapeDtypeStruct(samples.shape[1:], samples.dtype))
    if not hasattr(shape, "ndim") or shape.ndim > 1:
        raise InputError(f"function: returned {getattr(shape, 'shape', shape)}, expected a scalar or a vector")

    def rows(batch: Array) -> Array:
        values = jax.vmap(one)(batch)
        return values.reshape(batch.shape[0], -1).astype(samples.dtype)

    return rows


def _trapezoid(grid: Array) -> Array:
    """Weights of the trapezoidal rule on a grid of any spacing."""
    if grid.shape[0] < 2:
        raise InputError(f"grid: found {grid.shape[0]} point, expected at least 2 for a density")
    steps = jnp.diff(grid) / 2
    return jnp.zeros_like(grid).at[:-1].add(steps).at[1:].add(steps)
