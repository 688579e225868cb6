"""Moment generating functions: values, moments by Taylor-mode derivatives, Chernoff's bound.

`mgf` evaluates ψ(t) = E exp(tX) of a `laws.Law`, `moments` differentiates it at 0 in one Taylor-mode pass (O(order²)
instead of exponential), and `chernoff` minimises exp(−tx) ψ(t) over t. A linear combination of independent variables is
``2.0 * laws.Normal() + laws.Poisson(3.0)``, with ψ(t) = Π ψ_i(a_i t).

Source: S. Boucheron, G. Lugosi, P. Massart, "Concentration Inequalities" (2013), §2.2 (Cramér-Chernoff).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.experimental.jet import jet
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import rounding
from corollary.core.errors import InputError
from corollary.core.laws import Law
from corollary.core.precision import as_float, common_float, follows_input


class LawMoments(eqx.Module):
    """Moments of a law up to an order; entry k − 1 of each array is of order k."""

    raw: Float[Array | np.ndarray, " order"]
    central: Float[Array | np.ndarray, " order"]
    cumulants: Float[Array | np.ndarray, " order"]


class ChernoffBound(eqx.Module):
    """Chernoff's bound on a tail: P <= `probability` = exp(−`exponent`), attained at the tilt `t`."""

    probability: Float[Array | np.ndarray, ""]
    exponent: Float[Array | np.ndarray, ""]
    t: Float[Array | np.ndarray, ""]


@follows_input
def mgf(law: Any, t: Any) -> Float[Array, "..."]:
    """ψ(t) = E exp(tX), and +∞ where the expectation diverges. Cost O(1) per t.

    Parameters
    ----------
    law
        A law of `corollary.core.laws`.
    t
        Real numbers, in one over the unit of X.

    Returns
    -------
    ψ(t) in the shape of `t`.

    Raises
    ------
    InputError
        Where `law` is not a law.

    Examples
    --------
    >>> from corollary.core import laws
    >>> round(float(mgf(laws.Gamma(3.0, 2.0), 0.25)), 6)
    8.0
    >>> float(mgf(laws.Exponential(1.0), 1.5))
    inf
    """
    return jnp.exp(log_mgf.__wrapped__(law, t))  # type: ignore[attr-defined]


@follows_input
def log_mgf(law: Any, t: Any) -> Float[Array, "..."]:
    """log ψ(t), the cumulant generating function: finite where ψ itself would overflow. Parameters as for `mgf`.

    Examples
    --------
    >>> from corollary.core import laws
    >>> float(log_mgf(laws.Normal(0.0, 2.0), 100.0))
    20000.0
    """
    law, t = _one_precision(law, t)
    return t * law.mean + centred_cumulant(law, t)


@follows_input
def moments(law: Any, order: int = 4) -> LawMoments:
    """E[X^k], E[(X − E X)^k] and the cumulants for k = 1..order, as derivatives at 0. Cost O(order²) evaluations of K.

    Parameters
    ----------
    law
        A law of `corollary.core.laws`.
    order
        Highest order, at least 1 (and at most 28, where the uniform law's series ends).

    Returns
    -------
    `LawMoments`.

    Raises
    ------
    InputError
        Where `law` is not a law, or `order` is not such an integer.

    Examples
    --------
    >>> from corollary.core import laws
    >>> moments(laws.Normal(1.0, 2.0)).raw.round(6).tolist()
    [1.0, 5.0, 13.0, 73.0]
    """
    validation.integer(1)("order", order)
    if order > 28:
        raise InputError(f"order: found {order}, expected at most 28")
    (law,) = _one_precision(law)
    return _moments(law, order)


@functools.partial(jax.jit, static_argnums=1)
def _moments(law: Law, order: int) -> LawMoments:
    mean = as_float(law.mean)
    zero, one = jnp.zeros((), mean.dtype), jnp.ones((), mean.dtype)
    # One pass of Taylor arithmetic along t: the series of K at 0 holds its derivatives, which are the cumulants.
    _, series = jet(law.centred, (zero,), ([one, *[zero] * (order - 1)],))
    centred = [zero, *[jnp.asarray(s, mean.dtype) for s in series[1:]]]
    cumulants = jnp.stack([mean, *centred[1:]])
    return LawMoments(_from_cumulants(list(cumulants)), _from_cumulants(centred), cumulants)


@follows_input
def chernoff(law: Any, x: Any) -> ChernoffBound:
    """Chernoff's bound on the tail beyond x: P(X >= x) for x above the mean, P(X <= x) below it.

    The exponent sup_t (t x − log ψ(t)) is found by refining a grid of t; every t gives a valid bound, so the number
    that is returned holds whatever the grid missed, and rounding is taken off it. Cost: 5 × 65 evaluations of K.

    Parameters
    ----------
    law
        A law of `corollary.core.laws`.
    x
        Threshold in the unit of X.

    Returns
    -------
    `ChernoffBound` with ``probability``, ``exponent`` and the tilt ``t``.

    Raises
    ------
    InputError
        Where `law` is not a law, or `x` is not one finite number.

    Examples
    --------
    >>> from corollary.core import laws
    >>> round(float(chernoff(laws.Normal(), 2.0).exponent), 6)
    2.0
    """
    if not isinstance(x, jax.core.Tracer) and (np.ndim(x) != 0 or not np.isfinite(x)):
        raise InputError(f"x: found {x!r}, expected one finite number")
    return _chernoff(*_one_precision(law, x))


@jax.jit
def _chernoff(law: Law, x: Float[Array, ""]) -> ChernoffBound:
    deviation = x - law.mean
    side = jnp.where(deviation < 0, -1, 1).astype(x.dtype)
    low, high = (jnp.asarray(end).astype(x.dtype) for end in law.domain)
    end = jnp.where(side > 0, high, -low)

    def exponent(size: Array) -> Array:
        t = side * size
        linear, cumulant = t * deviation, centred_cumulant(law, t)
        value = linear - cumulant - rounding(jnp.abs(linear) + jnp.abs(cumulant))
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    scale = 1 / standard_deviation(law)
    best, size = maximise(exponent, end, scale)
    best, size = jnp.maximum(best, 0), jnp.where(best > 0, size, 0)
    bottom, top = (jnp.asarray(end).astype(x.dtype) for end in law.support)
    beyond = (x > top) | (x < bottom)
    best = jnp.where(beyond, jnp.inf, jnp.where(deviation == 0, 0, best))
    return ChernoffBound(jnp.exp(-best), best, jnp.where(beyond, side * jnp.inf, side * size))


def centred_cumulant(law: Law, t: Float[Array, "..."]) -> Float[Array, "..."]:
    """K(t) for an array of t, +∞ outside the law's domain."""
    low, high = (jnp.asarray(end).astype(t.dtype) for end in law.domain)
    inside = (t > low) & (t < high)
    values = jnp.vectorize(law.centred)(jnp.where(inside, t, 0))
    return jnp.where(inside, values, jnp.inf)


def standard_deviation(law: Law) -> Array:
    """sqrt(K''(0)), and 1 for a constant."""
    zero = jnp.zeros((), as_float(law.mean).dtype)
    variance = jax.grad(jax.grad(law.centred))(zero)
    return jnp.where(variance > 0, jnp.sqrt(variance), 1)


def maximise(f: Callable[[Array], Array], end: Array, scale: Array, start: float = -20.0) -> tuple[Array, Array]:
    """Largest value found, and where, of f over 0 < t < end: five rounds of a grid in the logarithm of t.

    It starts at t = scale · exp(start). Where `end` is finite the grid is logarithmic toward both ends instead, so that
    an optimum just short of it is found.
    """
    finite = jnp.isfinite(end)
    stop = jnp.where(finite, end, 1)

    def at(u: Array) -> Array:
        return jnp.where(finite, stop * jax.nn.sigmoid(u), scale * jnp.exp(u))

    left, right = jnp.full_like(scale, start), jnp.full_like(scale, 20.0)
    best, where = jnp.full_like(scale, -jnp.inf), jnp.zeros_like(scale)

    def zoom(_: Any, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        left, right, best, where = carry
        grid = jnp.linspace(left, right, 65, dtype=scale.dtype)
        values = f(at(grid))
        k = jnp.argmax(values)
        better = values[k] > best
        best, where = jnp.where(better, values[k], best), jnp.where(better, at(grid[k]), where)
        step = (right - left) / 64
        return grid[k] - step, grid[k] + step, best, where

    _, _, best, where = jax.lax.fori_loop(0, 5, zoom, (left, right, best, where))
    return best, where


def _from_cumulants(kappa: list[Array]) -> Array:
    """m_n = Σ_j C(n−1, j−1) κ_j m_{n−j}."""
    from math import comb

    m = [jnp.ones_like(kappa[0])]
    for n in range(1, len(kappa) + 1):
        terms = (comb(n - 1, j - 1) * kappa[j - 1] * m[n - j] for j in range(1, n + 1))
        m.append(functools.reduce(jnp.add, terms))
    return jnp.stack(m[1:])


def _one_precision(law: Any, *others: Any) -> tuple[Any, ...]:
    if not isinstance(law, Law):
        raise InputError(f"law: found {type(law).__name__}, expected a law of corollary.core.laws")
    leaves, tree = jax.tree.flatten(law)
    cast = common_float(*leaves, *others) if leaves or others else ()
    return jax.tree.unflatten(tree, cast[: len(leaves)]), *cast[len(leaves) :]
