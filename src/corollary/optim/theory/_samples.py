"""Points to check a function at, and pairs of them: what the checks of convexity, smoothness and growth share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from corollary.core.certificate import rounding
from corollary.core.errors import InputError
from corollary.core.hessian import hessian_operator
from corollary.optim._smooth import SmoothTerm
from corollary.optim._tree import finite, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._extremes import extremes

LANCZOS = 60  # steps: exact (almost surely) up to as many variables


def as_function(f: Any) -> Callable[[Any], Any]:
    """A function; of a smooth term its value."""
    if isinstance(f, SmoothTerm):
        return f.value
    if not callable(f):
        raise InputError(f"f: found {type(f).__name__}, expected a function or a smooth term")
    return f


def sample(name: str, points: Any, least: int = 2) -> PyTree:
    """Points along the leading axis of every leaf."""
    points = finite(name, points)
    counts = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(points)}
    if len(counts) != 1 or min(counts) < least:
        raise InputError(
            f"{name}: found leading axes {sorted(counts)}, expected one number of points, at least {least}"
        )
    return points


def count(points: PyTree) -> int:
    """How many points."""
    return jax.tree.leaves(points)[0].shape[0]


def pairs(points: PyTree, per_point: int, key: Key[Array, ""]) -> tuple[PyTree, PyTree]:
    """Each point beside `per_point` others, at random distances in a shuffled order: (x, y)."""
    n = count(points)
    order = jax.random.permutation(key, n)
    shifts = 1 + jnp.arange(per_point) % max(n - 1, 1)
    rows = jnp.arange(n)
    left = jnp.tile(order, per_point)
    right = order[(rows + shifts[:, None]) % n].reshape(-1)
    return at(points, left), at(points, right)


def at(points: PyTree, rows: Any) -> PyTree:
    """The points of these rows."""
    return jax.tree.map(lambda leaf: leaf[rows], points)


def least_curvature(f: Callable[[Any], Any], x: PyTree, key: Key[Array, ""]) -> tuple[Scalar, Scalar, PyTree, Scalar]:
    """Smallest and largest Ritz value of the Hessian, the vector of the smallest, and the rounding."""
    found = extremes(hessian_operator(f, x).mv, x, LANCZOS, key)
    return found.smallest, found.largest, found.low_vector, found.noise


def linear_error(f: Callable[[Any], Any], x: PyTree, y: PyTree) -> tuple[Scalar, Scalar, Scalar]:
    """f(y) − f(x) − ⟨∇f(x), y − x⟩, its rounding, and ‖y − x‖."""
    value, gradient = jax.value_and_grad(f)(x)
    moved, new = optax.tree.sub(y, x), f(y)
    slope = optax.tree.vdot(gradient, moved)
    sizes = jax.tree.map(lambda g, a, b: jnp.sum(jnp.abs(g) * (jnp.abs(a) + jnp.abs(b))), gradient, x, y)
    noise = rounding(jnp.abs(value) + jnp.abs(new) + sum(jax.tree.leaves(sizes)), 16.0)
    return new - value - slope, noise, norm(moved)


def worst(measured: Float[Array, " n"], allowed: Float[Array, " n"]) -> Array:
    """Where the measured exceeds the allowed by most; NaNs never."""
    excess = measured - allowed
    return jnp.argmax(jnp.where(jnp.isnan(excess), -jnp.inf, excess))
