"""The modulus of strong convexity μ = inf λ_min(∇²f): from above by samples, from below over a box.

f is μ-strongly convex iff f − (μ/2)‖x‖² is convex, μ > 0 (μ = 0 is plain convexity, with no unique minimiser). The
least eigenvalue at samples bounds μ from above only; interval arithmetic on the Hessian bounds it from below. What it
promises is checked: the quadratic lower bound, and the Polyak-Łojasiewicz inequality with the same μ.
Cost: up to 60 Hessian products a point. Source: Nesterov (2018), theorem 2.1.11; Karimi, Nutini & Schmidt (2016),
theorem 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import at_least_zero, like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._lipschitz import SMOOTH, checked_region, jacobian_over
from corollary.optim.theory._samples import as_function, at, least_curvature, linear_error, pairs, sample, worst


@follows_input
def strong_convexity(
    f: Any,
    points: Any,
    *,
    minimum: Any = None,
    region: tuple[Any, Any] | None = None,
    splits: int = 1,
    modulus: Any = None,
    per_point: int = 2,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """Bounds of the modulus of strong convexity over a region, and checks of what it promises.

    Use it to choose the momentum of a method for strongly convex functions. Cost: Lanczos at each point.

    Parameters
    ----------
    f
        Twice differentiable function of an array or pytree, or a smooth term.
    points
        n ≥ 2 samples of the region, along the leading axes.
    minimum
        f*, for the Polyak-Łojasiewicz check; the least sample if left out (a weaker check).
    region, splits
        A box (low, high) of vectors, cut into splits^d pieces: a lower bound by interval arithmetic on the Hessian.
    modulus
        A μ ≥ 0 to be checked; the estimate, where it is positive, if left out.
    per_point
        Pairs that each point takes part in.
    key
        `jax.random.key` for pairs and Lanczos.

    Returns
    -------
    Solution
        ``value``: the least eigenvalue at the samples, an upper bound of μ (exact for quadratics; negative: not
        convex). ``stats``: ``upper``, ``lower`` (−∞ where nothing is known), ``witness``, the point of the least
        eigenvalue.

    Raises
    ------
    InputError
        For points that are not finite, operations without an interval rule, and settings out of range.

    Notes
    -----
    Certificates: ``quadratic_bound`` (monitor), f(y) ≥ f(x) + ⟨∇f(x), y − x⟩ + (μ/2)‖y − x‖²; ``pl`` (monitor),
    ‖∇f‖² ≥ 2μ(f − f*); ``bracket`` (exact, for a continuous ∇f), with a `region`: lower ≤ μ ≤ upper.

    Examples
    --------
    >>> import numpy as np
    >>> points = np.random.default_rng(0).normal(size=(8, 2))
    >>> found = strong_convexity(lambda x: 2 * x[0] ** 2 + x[1] ** 2, points, minimum=0.0)
    >>> round(float(found.value), 6), bool(found.holds)
    (2.0, True)
    """
    f, points = as_function(f), sample("points", points)
    validation.integer(1)("per_point", per_point)
    at_least_zero("modulus", modulus)
    dtype = jax.tree.leaves(points)[0].dtype
    below = None if region is None else least_over(f, region, splits, dtype)
    given = None if modulus is None else like(modulus, points)
    best = None if minimum is None else like(minimum, points)
    return _bounds(f, points, best, below, given, per_point, jax.random.key(0) if key is None else key)


def least_over(f: Callable[[Any], Any], region: tuple[Any, Any], splits: int, dtype: Any) -> Scalar:
    """A lower bound of λ_min(∇²f) over a box: λ_min of the midpoint less the norm of the radius (Weyl)."""
    validation.integer(1)("splits", splits)
    low, high = checked_region(region)
    a, b = jacobian_over(jax.grad(f), (low.astype(dtype), high.astype(dtype)), splits)

    def one(a: Array, b: Array) -> Scalar:
        # The true Hessian is symmetric: it lies in both the enclosure and its transpose.
        a, b = jnp.maximum(a, a.T), jnp.minimum(b, b.T)
        middle = (a + b) / 2
        radius = jnp.maximum(b - middle, middle - a)
        value = jnp.linalg.eigvalsh(jnp.nan_to_num(middle))[0] - jnp.linalg.norm(jnp.nan_to_num(radius), 2)
        noise = rounding(jnp.linalg.norm(jnp.nan_to_num(middle)) + jnp.linalg.norm(jnp.nan_to_num(radius)), 32.0)
        return jnp.where(jnp.all(jnp.isfinite(middle) & jnp.isfinite(radius)), value - noise, -jnp.inf)

    return jnp.min(jax.vmap(one)(a, b))


@eqx.filter_jit
def _bounds(
    f: Callable[[Any], Any],
    points: PyTree,
    best: Scalar | None,
    below: Scalar | None,
    given: Scalar | None,
    per_point: int,
    key: Any,
) -> Solution:
    shuffle, start = jax.random.split(key)
    low, _, _, noise = jax.lax.map(lambda p: least_curvature(f, p, start), points)
    k = jnp.argmin(low)
    upper = low[k]
    mu = jnp.maximum(upper - noise[k], 0) if given is None else given
    values, gradients = jax.vmap(jax.value_and_grad(f))(points)
    least = jnp.min(values) if best is None else best
    sizes = jax.vmap(norm)(gradients)
    allowed = sizes**2 + 2 * mu * rounding(jnp.abs(values) + jnp.abs(least), 16.0) + rounding(sizes**2, 32.0)
    needed = 2 * mu * (values - least)
    j = worst(needed, allowed)
    x, y = pairs(points, per_point, shuffle)
    gap, slack, apart = jax.vmap(lambda x, y: linear_error(f, x, y))(x, y)
    i = worst(mu / 2 * apart**2 - gap, slack + rounding(mu * apart**2))
    certificates = {
        "quadratic_bound": Certificate(
            "f(x) + ⟨∇f(x), y − x⟩ + (μ/2)‖y − x‖² − f(y) <= 0, at the pairs",
            (mu / 2 * apart**2 - gap)[i],
            (slack + rounding(mu * apart**2))[i],
            "monitor",
            "Nesterov (2018), definition 2.1.3",
        ),
        "pl": Certificate(
            "2μ(f(x) − f*) <= ‖∇f(x)‖², at the samples",
            needed[j],
            allowed[j],
            "monitor",
            "Karimi, Nutini & Schmidt (2016), theorem 2",
        ),
    }
    stats: dict[str, Any] = {"upper": upper, "lower": jnp.full_like(upper, -jnp.inf), "witness": at(points, k)}
    if below is not None:
        stats["lower"] = below
        certificates["bracket"] = Certificate(
            "lower <= μ <= upper", below, upper + noise[k], "exact", "Weyl", assumptions=(SMOOTH,)
        )
    return Solution(upper, certificates, stats=stats)
