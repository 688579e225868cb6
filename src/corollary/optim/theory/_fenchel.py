"""The Fenchel conjugate f*(s) = sup_x s·x − f(x) of a function of one variable, by search; and the biconjugate f**.

Use it to find or to check a closed form. The search looks at a grid that is geometric towards the ends of the domain
(so that the scale of x does not matter), and bisects the slope beside the best point. Every value s·x − f(x) is a lower
bound of the supremum. f** = f where f is convex and closed (lower semicontinuous); else f** is its closed convex hull.
Cost O(1000) evaluations of f for each s, and the square of that for f**.
Source: Rockafellar, "Convex Analysis" (1970), theorem 12.2 and section 12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import finite

OCTAVES, PER_OCTAVE, BISECTIONS = 60, 4, 64
Scalar = Float[Array, ""]
Function = Callable[[Any], Any]


@follows_input
def fenchel_conjugate(f: Function, s: Any, *, domain: tuple[float, float] = (-np.inf, np.inf)) -> Solution:
    """f*(s) = sup_x s·x − f(x), entry by entry of s, with the x that attains it.

    Parameters
    ----------
    f
        Function of a scalar, made of JAX operations; it may be +inf. It need not be convex.
    s
        Slopes, of any shape.
    domain
        The interval on which f is finite; an end may be infinite.

    Returns
    -------
    Solution
        ``value`` of the shape of `s`, +inf where s·x − f(x) still rises at the far end (|x| = 2^60);
        ``stats["maximiser"]`` beside it.

    Raises
    ------
    InputError
        For slopes that are not finite, and a domain that is no interval.

    Notes
    -----
    Certificate ``young`` (monitor): Young's inequality s·x ≤ f(x) + f*(s) at a second grid of points x, which the
    search did not use.

    Examples
    --------
    >>> found = fenchel_conjugate(lambda t: t**2 / 2, [3.0, -1.0])
    >>> found.value.round(6).tolist(), found.stats["maximiser"].round(3).tolist()
    ([4.5, 0.5], [3.0, -1.0])
    """
    s = finite("s", s)
    grid, check = _grids(domain, s.dtype)
    value, maximiser, excess, scale = _over(f, s, grid, check)
    certificate = Certificate(
        "s·x − f(x) <= f*(s) at every x of a second grid",
        excess,
        rounding(scale, 32.0),
        "monitor",
        "Fenchel-Young inequality: Rockafellar (1970), section 12",
    )
    return Solution(value, {"young": certificate}, 0, grid.size, {"maximiser": maximiser})


@follows_input
def fenchel_biconjugate(
    f: Function,
    x: Any,
    *,
    domain: tuple[float, float] = (-np.inf, np.inf),
    slopes: tuple[float, float] = (-np.inf, np.inf),
) -> Solution:
    """f**(x) = sup_s s·x − f*(s): f itself where f is convex and closed, else its closed convex hull.

    Parameters
    ----------
    f, domain
        As in `fenchel_conjugate`.
    x
        Points, of any shape.
    slopes
        The interval of the slopes s. Bound it where f is not closed: f* is then seen at a grid's distance from the
        domain's end, and slopes of 1e18 tell.

    Returns
    -------
    Solution
        ``value`` of the shape of `x`; ``stats["slope"]``, a subgradient of f** there.

    Notes
    -----
    Certificate ``minorant`` (exact): f**(x) ≤ f(x).

    Examples
    --------
    >>> hull = fenchel_biconjugate(lambda t: (t**2 - 1) ** 2, [0.0, 2.0])  # flat between the two minima
    >>> hull.value.round(4).tolist()
    [0.0, 9.0]
    """
    x = finite("x", x)
    grid, _ = _grids(domain, x.dtype)
    dual_grid, dual_check = _grids(slopes, x.dtype)

    def conjugate(s):
        return _search(f, s, grid)[0]

    value, slope, _, scale = _over(conjugate, x, dual_grid, dual_check)
    at = jax.vmap(f)(x.ravel()).reshape(x.shape)
    excess = jnp.where(jnp.isfinite(at), value - at, 0.0)
    claim, source = "f**(x) <= f(x)", "Rockafellar (1970), theorem 12.2"
    size = jnp.where(jnp.isfinite(at), jnp.abs(at), 0) + scale
    return Solution(
        value, {"minorant": Certificate(claim, excess, rounding(size, 64.0), "exact", source)}, 0, 0, {"slope": slope}
    )


def _over(f: Function, s: Array, grid: Array, check: Array) -> tuple[Array, Array, Array, Array]:
    """The search for every entry of s, and the most by which a point of the second grid does better."""

    def one(s):
        value, x = _search(f, s, grid)
        excess = jnp.max(_line(f, s, check)) - value
        scale = jnp.where(jnp.isfinite(value), jnp.abs(value) + jnp.abs(s * x), 0)
        return value, x, jnp.where(jnp.isfinite(value), excess, jnp.where(value > 0, 0.0, jnp.inf)), scale

    found = jax.jit(jax.vmap(one))(s.ravel())
    return tuple(part.reshape(s.shape) for part in found)  # type: ignore[return-value]


def _search(f: Function, s: Scalar, grid: Float[Array, " g"]) -> tuple[Scalar, Scalar]:
    values = _line(f, s, grid)
    best = jnp.argmax(values)
    slope = jax.grad(lambda x: s * x - f(x))

    def halve(_, ends):
        low, high = ends
        middle = low / 2 + high / 2
        rises = slope(middle) > 0
        return jnp.where(rises, middle, low), jnp.where(rises, high, middle)

    ends = grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, grid.size - 1)]
    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, ends)
    candidates = jnp.stack([grid[best], low, high, low / 2 + high / 2])
    found = _line(f, s, candidates)
    x = jax.lax.stop_gradient(candidates[jnp.argmax(found)])
    value = jnp.where(jnp.isfinite(found.max()), s * x - jnp.where(jnp.isfinite(f(x)), f(x), 0), found.max())
    # The supremum is not attained, and infinite, where the line still rises at an end that stands for infinity.
    far = jnp.abs(grid[best]) >= 2.0 ** (OCTAVES - 1)
    outward = slope(grid[best]) * jnp.sign(grid[best])
    rising = far & (outward > 64 * jnp.finfo(s.dtype).eps * (jnp.abs(s) + jnp.abs(outward)))
    return jnp.where(rising, jnp.inf, value), x


def _line(f: Function, s: Scalar, x: Float[Array, " g"]) -> Float[Array, " g"]:
    values = s * x - jax.vmap(f)(x)
    return jnp.where(jnp.isnan(values), -jnp.inf, values)


def _grids(domain: tuple[float, float], dtype: Any) -> tuple[Array, Array]:
    """The grid of the search, and one between its points."""
    try:
        low, high = (float(end) for end in domain)
    except (TypeError, ValueError) as error:
        raise InputError(f"domain: found {domain!r}, expected two numbers") from error
    if not low < high:
        raise InputError(f"domain: found {domain!r}, expected low < high")
    powers = 2.0 ** (np.arange(-OCTAVES * PER_OCTAVE, OCTAVES * PER_OCTAVE + 1) / PER_OCTAVE)
    if np.isinf(low) and np.isinf(high):
        grid = np.concatenate([-powers[::-1], [0.0], powers])
    elif np.isinf(high):
        grid = np.concatenate([[low], low + powers])
    elif np.isinf(low):
        grid = np.concatenate([high - powers[::-1], [high]])
    else:
        inner = powers[powers <= 0.5] * (high - low)
        grid = np.concatenate([[low], low + inner, (high - inner)[::-1], [high]])
    grid = np.unique(grid.astype(dtype))
    between = grid[:-1] / 2 + grid[1:] / 2
    return jnp.asarray(grid), jnp.asarray(between.astype(dtype))
