"""Is it convex? Violations with witnesses: Jensen gaps, linearisation gaps, curvature; for sets, segments that leave.

A violation beyond rounding is a disproof. None among samples is no proof; the certificates say "monitor". The
second-order condition is f'' ≥ 0 (not f' ≥ 0). Strict convexity gives at most one minimiser, not one: e^x has none.
Cost: a few evaluations and one gradient a pair, up to 60 Hessian products a point. Source: Boyd & Vandenberghe, "Convex
Optimization" (2004), eqs. (3.1), (3.2), (3.3) and section 2.1.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import at_least_zero
from corollary.optim.theory._samples import as_function, at, least_curvature, linear_error, pairs, sample, worst

BOYD = "Boyd & Vandenberghe (2004)"


@follows_input
def convexity_check(
    f: Any, points: Any, *, per_point: int = 4, second_order: bool = True, key: Key[Array, ""] | None = None
) -> Solution:
    """Look for violations of convexity of f at sampled points and between pairs of them.

    Use it before trusting a method that needs convexity. The domain is the convex hull of the points.

    Parameters
    ----------
    f
        Differentiable function of an array or pytree, or a smooth term.
    points
        Array or pytree with n ≥ 2 points along the leading axes (for scalars: (n,)).
    per_point
        Pairs that each point takes part in.
    second_order
        Look at Hessians, too.
    key
        `jax.random.key` for pairs and weights.

    Returns
    -------
    Solution
        ``value``: True where no violation was found. ``stats``: for each order (``jensen``, ``linearisation``,
        ``curvature``) the worst violation (negative: a margin), and ``witness`` with its points ``x``, ``y``, weight
        and direction.

    Raises
    ------
    InputError
        For points that are not finite, or fewer than two.

    Notes
    -----
    Certificates (monitor; measured ≤ rounding): ``jensen``, f(wx + (1 − w)y) − w f(x) − (1 − w) f(y);
    ``linearisation``, f(x) + ⟨∇f(x), y − x⟩ − f(y); ``curvature``, −λ_min(∇²f) by a Rayleigh quotient.

    Examples
    --------
    >>> import numpy as np
    >>> points = np.linspace(-2.0, 2.0, 20)
    >>> bool(convexity_check(lambda x: x**2, points).value), bool(convexity_check(jnp.sin, points).value)
    (True, False)
    """
    f, points = as_function(f), sample("points", points)
    validation.integer(1)("per_point", per_point)
    validation.flag("second_order", second_order)
    return _check(f, points, per_point, second_order, jax.random.key(0) if key is None else key)


@eqx.filter_jit
def _check(f: Callable[[Any], Any], points: PyTree, per_point: int, second_order: bool, key: Any) -> Solution:
    shuffle, weigh, start = jax.random.split(key, 3)
    x, y = pairs(points, per_point, shuffle)
    some = jax.tree.leaves(points)[0]
    weights = jax.random.uniform(weigh, (jax.tree.leaves(x)[0].shape[0],), some.dtype, 0.05, 0.95)

    def jensen(x: PyTree, y: PyTree, w: Array) -> tuple[Array, Array]:
        between = optax.tree.add_scale(y, w, optax.tree.sub(x, y))
        left, a, b = f(between), f(x), f(y)
        # The point between is rounded, too: f moves by its slope times that.
        slope = jax.grad(f)(between)
        size = jax.tree.map(lambda g, p, q: jnp.sum(jnp.abs(g) * (jnp.abs(p) + jnp.abs(q))), slope, x, y)
        return left - w * a - (1 - w) * b, rounding(
            jnp.abs(left) + jnp.abs(a) + jnp.abs(b) + sum(jax.tree.leaves(size))
        )

    def linearised(x: PyTree, y: PyTree) -> tuple[Array, Array]:
        gap, noise, _ = linear_error(f, x, y)
        return -gap, noise

    found, witness = {}, {}
    over, noise = jax.vmap(jensen)(x, y, weights)
    k = worst(over, noise)
    found["jensen"] = over[k], noise[k], "f(wx + (1 − w)y) <= w f(x) + (1 − w) f(y)", "eq. (3.1)"
    witness["jensen"] = {"x": at(x, k), "y": at(y, k), "weight": weights[k]}
    over, noise = jax.vmap(linearised)(x, y)
    k = worst(over, noise)
    found["linearisation"] = over[k], noise[k], "f(y) >= f(x) + ⟨∇f(x), y − x⟩", "eq. (3.2)"
    witness["linearisation"] = {"x": at(x, k), "y": at(y, k)}
    if second_order:
        low, _, direction, noise = jax.lax.map(lambda p: least_curvature(f, p, start), points)
        k = worst(-low, noise)
        found["curvature"] = -low[k], noise[k], "λ_min(∇²f) >= 0", "eq. (3.3)"
        witness["curvature"] = {"x": at(points, k), "direction": at(direction, k)}
    certificates = {
        name: Certificate(f"{claim}, at the samples", over, noise, "monitor", f"{BOYD}, {where}")
        for name, (over, noise, claim, where) in found.items()
    }
    stats: dict[str, Any] = {name: over for name, (over, *_) in found.items()} | {"witness": witness}
    solution = Solution(None, certificates, stats=stats)
    return Solution(jnp.asarray(solution.holds), certificates, stats=stats)


@follows_input
def jensen_gap(f: Callable[[Any], Any], points: Any, weights: Any = None) -> Any:
    """Σ wᵢ f(xᵢ) − f(Σ wᵢ xᵢ): at least zero for a convex f, zero for an affine one.

    With f = −log and equal weights it is the logarithm of the arithmetic over the geometric mean.

    Parameters
    ----------
    f
        A function of an array or pytree.
    points
        n points along the leading axes.
    weights
        (n,), at least zero; they are scaled to the sum 1; equal if left out.

    Raises
    ------
    InputError
        For negative weights, or another number of them.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(jensen_gap(lambda x: -jnp.log(x), np.array([1.0, 4.0]))), 6)  # log(2.5/2)
    0.223144
    """
    points = sample("points", points, 1)
    n = jax.tree.leaves(points)[0].shape[0]
    some = jax.tree.leaves(points)[0]
    at_least_zero("weights", weights)
    w = jnp.ones(n, some.dtype) if weights is None else jnp.asarray(weights).astype(some.dtype)
    if w.shape != (n,):
        raise InputError(f"weights: found shape {w.shape}, expected ({n},)")
    w = w / jnp.sum(w)
    mean = jax.tree.map(lambda leaf: jnp.tensordot(w.astype(leaf.dtype), leaf, 1), points)
    return jnp.sum(w * jax.vmap(f)(points)) - f(mean)


@follows_input
def set_convexity_check(
    contains: Callable[[Any], Any],
    points: Any,
    *,
    per_point: int = 8,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """Look for a segment between members of a set that leaves it.

    Parameters
    ----------
    contains
        Membership: x to a boolean, made of JAX operations.
    points
        n ≥ 2 points along the leading axes; those outside the set are left out.
    per_point
        Segments from each point; one random place on each is looked at.
    key
        `jax.random.key` for pairs and places.

    Returns
    -------
    Solution
        ``value``: True where no violation was found; ``stats``: ``violations``, ``segments`` (with both ends inside),
        ``witness`` with ``x``, ``y`` and ``weight`` (the last is NaN where there is none).

    Notes
    -----
    Certificate ``segments`` (monitor): no place outside.

    Examples
    --------
    >>> import numpy as np
    >>> points = np.random.default_rng(0).uniform(-1, 1, size=(50, 2))
    >>> ring = lambda x: (jnp.sum(x**2) <= 1) & (jnp.sum(x**2) >= 0.25)
    >>> bool(set_convexity_check(ring, points).value)
    False
    """
    points = sample("points", points)
    validation.integer(1)("per_point", per_point)
    found = _segments(contains, points, per_point, jax.random.key(0) if key is None else key)
    if not isinstance(found.stats["segments"], Tracer) and int(found.stats["segments"]) == 0:
        raise InputError("points: found no two members of the set that make a segment, expected some")
    return found


@eqx.filter_jit
def _segments(contains: Callable[[Any], Any], points: PyTree, per_point: int, key: Any) -> Solution:
    shuffle, weigh = jax.random.split(key)
    x, y = pairs(points, per_point, shuffle)
    some = jax.tree.leaves(x)[0]
    weights = jax.random.uniform(weigh, (some.shape[0],), some.dtype)

    def leaves(x: PyTree, y: PyTree, w: Array) -> tuple[Array, Array]:
        between = optax.tree.add_scale(y, w, optax.tree.sub(x, y))
        whole = contains(x) & contains(y)
        return whole, whole & ~contains(between)

    whole, out = jax.vmap(leaves)(x, y, weights)
    k = jnp.argmax(out)
    total = jnp.sum(out)
    claim = "wx + (1 − w)y stays in the set, at the samples"
    certificate = Certificate(claim, total.astype(some.dtype), 0.0, "monitor", f"{BOYD}, section 2.1.4")
    witness = {"x": at(x, k), "y": at(y, k), "weight": jnp.where(total > 0, weights[k], jnp.nan)}
    stats = {"violations": total, "segments": jnp.sum(whole), "witness": witness}
    return Solution(total == 0, {"segments": certificate}, stats=stats)
