"""Indicators of convex sets: 0 inside, +inf outside; their prox is the Euclidean projection, whatever the step.

Cost: that of the projection (`corollary.optim.projections`). Source: Parikh & Boyd, "Proximal algorithms" (2014),
section 6.2; normal cones: Rockafellar & Wets, "Variational Analysis" (1998), section 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from corollary.core.errors import InputError
from corollary.optim import projections
from corollary.optim._tree import at_least_zero, elementwise, largest, like, norm, total
from corollary.optim.penalties._base import Penalty, Scalar


def inside(x: PyTree, projected: PyTree) -> Scalar:
    """0 where x is its own projection up to rounding, else +inf."""
    eps = jnp.finfo(jax.tree.leaves(x)[0].dtype).eps
    size = sum(leaf.size for leaf in jax.tree.leaves(x))
    away = norm(optax.tree.sub(x, projected))
    return jnp.where(away <= 8 * eps * size**0.5 * norm(x), 0.0, jnp.inf).astype(away.dtype)


@final
class Indicator(Penalty):
    """The indicator of any convex set, given by its projection.

    Parameters
    ----------
    project
        v to its nearest point of the set. A plain function is part of the structure (a new one compiles anew); for one
        that carries arrays pass a `jax.tree_util.Partial` or an `equinox.Module`.

    Examples
    --------
    >>> Indicator(projections.psd).prox([[1.0, 0.0], [0.0, -1.0]]).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """

    project: Callable[[Any], Any]

    def _value(self, x: PyTree) -> Scalar:
        return inside(x, self.project(x))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return self.project(v)


@final
class Box(Penalty):
    """The box lower ≤ x ≤ upper; a bound may be infinite, a scalar, an array or a pytree like the variable.

    Examples
    --------
    >>> Box(0.0, 1.0).prox([2.0, -1.0, 0.5]).tolist()
    [1.0, 0.0, 0.5]
    """

    lower: Any = 0.0
    upper: Any = 1.0

    def __check_init__(self):
        """Refuse NaN, and a lower bound above its upper one."""
        ends = []
        for name in ("lower", "upper"):
            leaves = jax.tree.leaves(getattr(self, name))
            ends.append([None if isinstance(leaf, Tracer) else np.asarray(leaf, dtype=float) for leaf in leaves])
            if any(leaf is not None and np.isnan(leaf).any() for leaf in ends[-1]):
                raise InputError(f"{name}: found NaN, expected numbers")
        for low in ends[0]:
            for high in ends[1] if len(ends[0]) == 1 or len(ends[1]) == 1 else []:
                if low is not None and high is not None and np.any(low > high):
                    raise InputError("lower: found a bound above the upper one, expected lower <= upper")

    def _value(self, x: PyTree) -> Scalar:
        return inside(x, self._prox(x, like(1.0, x)))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return projections.box(v, self.lower, self.upper)

    def _conjugate(self, u: PyTree) -> Scalar:
        def entry(u, low, high):
            return jnp.where(u == 0, 0.0, jnp.where(u > 0, u * high, u * low))

        return total(elementwise(entry, u, self.lower, self.upper))

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        def entry(x, g, low, high):
            # −g must point out of the box where x is on a face, and vanish where it is not.
            g = jnp.where(x <= low, jnp.minimum(g, 0), g)
            return jnp.where(x >= high, jnp.maximum(g, 0), g)

        return norm(elementwise(entry, x, gradient, self.lower, self.upper))

    def _linear_minimizer(self, gradient: PyTree) -> PyTree:
        return elementwise(lambda g, low, high: jnp.where(g > 0, low, high), gradient, self.lower, self.upper)

    def _diameter(self, x: PyTree) -> Scalar:
        return norm(elementwise(lambda x, low, high: jnp.broadcast_to(high - low, x.shape), x, self.lower, self.upper))


@final
class Nonnegative(Penalty):
    """The orthant x ≥ 0.

    Examples
    --------
    >>> Nonnegative().prox([2.0, -1.0]).tolist()
    [2.0, 0.0]
    """

    def _value(self, x: PyTree) -> Scalar:
        return jnp.where(-largest(jax.tree.map(jnp.negative, x)) >= 0, 0.0, jnp.inf).astype(largest(x).dtype)

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return projections.nonnegative(v)

    def _conjugate(self, u: PyTree) -> Scalar:
        return jnp.where(largest(u) <= 0, 0.0, jnp.inf).astype(largest(u).dtype)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        return norm(jax.tree.map(lambda x, g: jnp.where(x > 0, g, jnp.minimum(g, 0)), x, gradient))


@final
class Simplex(Penalty):
    """The simplex x ≥ 0, Σ x_i = radius (probability vectors for radius 1).

    Examples
    --------
    >>> Simplex().prox([2.0, 1.5, 0.0]).tolist()
    [0.75, 0.25, 0.0]
    """

    radius: Any = 1.0

    def __check_init__(self):
        """Refuse a radius that is not positive."""
        at_least_zero("radius", self.radius, positive=True)

    def _value(self, x: PyTree) -> Scalar:
        return inside(x, self._prox(x, like(1.0, x)))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return projections.simplex(v, self.radius)

    def _conjugate(self, u: PyTree) -> Scalar:
        return like(self.radius, u) * largest(u)

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return like(1.0, u)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        (x, _), (g, _) = ravel_pytree(x), ravel_pytree(gradient)
        return residual_at_level(jnp.negative(g), x > 0)

    def _linear_minimizer(self, gradient: PyTree) -> PyTree:
        flat, back = ravel_pytree(gradient)
        return back(jnp.zeros_like(flat).at[jnp.argmin(flat)].set(like(self.radius, flat)))

    def _diameter(self, x: PyTree) -> Scalar:
        return like(self.radius, x) * 2**0.5


@final
class L2Ball(Penalty):
    """The ball ‖x‖₂ ≤ radius.

    Examples
    --------
    >>> L2Ball(1.0).prox([3.0, 4.0]).round(12).tolist()
    [0.6, 0.8]
    """

    radius: Any = 1.0

    def __check_init__(self):
        """Refuse a negative radius."""
        at_least_zero("radius", self.radius)

    def _value(self, x: PyTree) -> Scalar:
        return inside(x, self._prox(x, like(1.0, x)))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return projections.l2_ball(v, self.radius)

    def _conjugate(self, u: PyTree) -> Scalar:
        return like(self.radius, u) * norm(u)

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return like(1.0, u)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        size, r = norm(x), like(self.radius, x)
        on_sphere = size >= r * (1 - 8 * jnp.finfo(size.dtype).eps)
        unit = optax.tree.scale(1 / jnp.where(size > 0, size, 1), x)
        outward = jnp.where(on_sphere, jnp.maximum(jnp.negative(optax.tree.vdot(gradient, unit)), 0), 0.0)
        distance = norm(optax.tree.add_scale(gradient, outward, unit))
        return jnp.where(r > 0, distance, 0.0)  # the normal cone of a single point is everything

    def _linear_minimizer(self, gradient: PyTree) -> PyTree:
        size = norm(gradient)
        return optax.tree.scale(-like(self.radius, gradient) / jnp.where(size > 0, size, 1), gradient)

    def _diameter(self, x: PyTree) -> Scalar:
        return 2 * like(self.radius, x)


@final
class L1Ball(Penalty):
    """The ball ‖x‖₁ ≤ radius: the constrained form of the lasso.

    Examples
    --------
    >>> L1Ball(1.0).prox([2.0, -1.5, 0.0]).tolist()
    [0.75, -0.25, 0.0]
    """

    radius: Any = 1.0

    def __check_init__(self):
        """Refuse a negative radius."""
        at_least_zero("radius", self.radius)

    def _value(self, x: PyTree) -> Scalar:
        return inside(x, self._prox(x, like(1.0, x)))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return projections.l1_ball(v, self.radius)

    def _conjugate(self, u: PyTree) -> Scalar:
        return like(self.radius, u) * largest(jax.tree.map(jnp.abs, u))

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return like(1.0, u)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        (x, _), (g, _) = ravel_pytree(x), ravel_pytree(gradient)
        r = like(self.radius, x)
        on_face = jnp.sum(jnp.abs(x)) >= r * (1 - 8 * x.size**0.5 * jnp.finfo(x.dtype).eps)
        support = x != 0
        values = jnp.where(support, -g * jnp.sign(x), jnp.abs(g))
        at_face = residual_at_level(values, support, floor=0.0)
        return jnp.where(r > 0, jnp.where(on_face, at_face, norm(g)), 0.0)

    def _linear_minimizer(self, gradient: PyTree) -> PyTree:
        flat, back = ravel_pytree(gradient)
        top = jnp.argmax(jnp.abs(flat))
        return back(jnp.zeros_like(flat).at[top].set(jnp.where(flat[top] > 0, -1, 1) * like(self.radius, flat)))

    def _diameter(self, x: PyTree) -> Scalar:
        return 2 * like(self.radius, x)


def residual_at_level(
    values: Float[Array, " p"], support: Bool[Array, " p"], floor: float = -jnp.inf
) -> Float[Array, ""]:
    """min over μ ≥ floor of √(Σ_support (w_i − μ)² + Σ_rest max(w_i − μ, 0)²): distance to a face's normal cone.

    The best μ is the mean of the support's values and of the largest others, as many as lie above that mean.
    """
    key = jnp.where(support, jnp.inf, values)
    order = jnp.argsort(-key)
    w, on_support = values[order], support[order]
    count = jnp.arange(1, w.size + 1, dtype=w.dtype)
    means = jnp.cumsum(w) / count
    active = on_support | (w > jnp.concatenate([jnp.full((1,), -jnp.inf, w.dtype), means[:-1]]))
    active = jnp.cumsum(~active) == 0  # a prefix
    last = jnp.maximum(jnp.sum(active) - 1, 0)
    level = jnp.maximum(means[last], floor)
    return norm(jnp.where(support, values - level, jnp.maximum(values - level, 0)))
