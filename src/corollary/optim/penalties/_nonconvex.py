"""Penalties that are not convex, with closed-form prox: MCP, SCAD, the square root of the magnitude.

They drop small entries as L1 does, and leave large ones unbiased. `ProximalGradient` finds a stationary point.
Cost O(p). Source: Zhang, "Nearly unbiased variable selection under minimax concave penalty" (2010); Fan & Li, "Variable
selection via nonconcave penalized likelihood" (2001); Xu, Chang, Xu & Zhang, "L1/2 regularization" (2012), theorem 1.
"""

from __future__ import annotations

from typing import Any, ClassVar, final

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from corollary.core.errors import InputError
from corollary.optim._tree import at_least_zero, elementwise, norm, total
from corollary.optim.penalties._base import Penalty, Scalar
from corollary.optim.penalties._separable import soft


@final
class MCP(Penalty):
    """The minimax concave penalty: α|x| − x²/(2γ) up to |x| = γα, constant beyond.

    Parameters
    ----------
    alpha
        Weight ≥ 0, the slope at zero: a scalar or one per coordinate.
    gamma
        γ > 0: where it levels off. For a step below γ the prox is continuous (firm thresholding).

    Examples
    --------
    >>> MCP(1.0, 3.0).prox([0.5, 2.0, 4.0]).round(12).tolist()
    [0.0, 1.5, 4.0]
    """

    alpha: Any = 1.0
    gamma: Any = 3.0
    is_convex: ClassVar[bool] = False

    def __check_init__(self):
        """Refuse a negative weight."""
        at_least_zero("alpha", self.alpha)
        at_least_zero("gamma", self.gamma, positive=True)

    def _value(self, x: PyTree) -> Scalar:
        return total(elementwise(_mcp, x, self.alpha, self.gamma))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        def entry(v, a, c, t):
            firm = jnp.where(jnp.abs(v) <= c * a, soft(v, a * t) / jnp.where(t < c, 1 - t / c, 1), v)
            hard = _lower(lambda x: _mcp(x, a, c), v, t, jnp.zeros_like(v), jnp.maximum(jnp.abs(v), c * a))
            return jnp.where(t < c, firm, hard)

        return elementwise(entry, v, self.alpha, self.gamma, step)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        def entry(x, g, a, c):
            slope = jnp.sign(x) * jnp.maximum(a - jnp.abs(x) / c, 0)
            return jnp.where(x != 0, g + slope, jnp.maximum(jnp.abs(g) - a, 0))

        return norm(elementwise(entry, x, gradient, self.alpha, self.gamma))


@final
class SCAD(Penalty):
    """The smoothly clipped absolute deviation: α|x| up to α, then a parabola, constant beyond γα.

    Parameters
    ----------
    alpha
        Weight ≥ 0, the slope at zero.
    gamma
        γ > 2 (3.7 is usual). For a step below γ − 1 the prox is continuous.

    Examples
    --------
    >>> SCAD(1.0, 3.0).prox([0.5, 1.5, 2.5, 4.0]).tolist()
    [0.0, 0.5, 2.0, 4.0]
    """

    alpha: Any = 1.0
    gamma: Any = 3.7
    is_convex: ClassVar[bool] = False

    def __check_init__(self):
        """Refuse a negative weight, and γ ≤ 2."""
        at_least_zero("alpha", self.alpha)
        at_least_zero("gamma", self.gamma, positive=True)
        if not isinstance(self.gamma, Tracer) and np.any(np.asarray(self.gamma, dtype=float) <= 2):
            raise InputError(f"gamma: found {self.gamma!r}, expected a number > 2")

    def _value(self, x: PyTree) -> Scalar:
        return total(elementwise(_scad, x, self.alpha, self.gamma))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        def entry(v, a, c, t):
            size, short = jnp.abs(v), t < c - 1
            middle = soft(v, c * a * t / (c - 1)) / jnp.where(short, 1 - t / (c - 1), 1)
            smooth = jnp.where(size <= a * (1 + t), soft(v, a * t), jnp.where(size <= c * a, middle, v))
            low = jnp.clip(jnp.abs(soft(v, a * t)), 0, a)
            return jnp.where(short, smooth, _lower(lambda x: _scad(x, a, c), v, t, low, jnp.maximum(size, c * a)))

        return elementwise(entry, v, self.alpha, self.gamma, step)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        def entry(x, g, a, c):
            size = jnp.abs(x)
            slope = jnp.sign(x) * jnp.where(size <= a, a, jnp.maximum(c * a - size, 0) / (c - 1))
            return jnp.where(x != 0, g + slope, jnp.maximum(jnp.abs(g) - a, 0))

        return norm(elementwise(entry, x, gradient, self.alpha, self.gamma))


@final
class LHalf(Penalty):
    """The half quasi-norm h(x) = Σ α √|x_i|: sparser answers than L1 gives.

    Parameters
    ----------
    alpha
        Weight ≥ 0, a scalar or one per coordinate. At the threshold itself the entry is dropped.

    Examples
    --------
    >>> LHalf(1.0).prox([1.0, 4.0]).round(4).tolist()
    [0.0, 3.7415]
    """

    alpha: Any = 1.0
    is_convex: ClassVar[bool] = False

    def __check_init__(self):
        """Refuse a negative weight."""
        at_least_zero("alpha", self.alpha)

    def _value(self, x: PyTree) -> Scalar:
        return total(elementwise(lambda x, a: a * jnp.sqrt(jnp.abs(x)), x, self.alpha))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        def entry(v, a, t):
            weight = a * t
            kept = jnp.abs(v) > 1.5 * jnp.cbrt(weight) ** 2
            size = jnp.where(kept, jnp.abs(v), 1 + 2 * weight)
            angle = jnp.arccos(jnp.clip(weight / 4 * (3 / size) / jnp.sqrt(size / 3), 0, 1))
            return jnp.where(kept, v * (2 / 3) * (1 + jnp.cos(2 * (jnp.pi - angle) / 3)), 0.0)

        return elementwise(entry, v, self.alpha, step)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        # Limiting subdifferential: all of R at zero (where α > 0).
        def entry(x, g, a):
            slope = a * jnp.sign(x) / (2 * jnp.sqrt(jnp.where(x != 0, jnp.abs(x), 1)))
            return jnp.where((x != 0) | (a == 0), g + slope, 0.0)

        return norm(elementwise(entry, x, gradient, self.alpha))


def _mcp(x, a, c):
    size = jnp.minimum(jnp.abs(x), c * a)
    return a * size - size**2 / (2 * c)


def _scad(x, a, c):
    size = jnp.abs(x)
    middle = (2 * c * a * size - size**2 - a**2) / (2 * (c - 1))
    return jnp.where(size <= a, a * size, jnp.where(size <= c * a, middle, a**2 * (c + 1) / 2))


def _lower(h, v, t, low, high):
    """Where the proximal objective is not convex: the better of its minima before and after the concave piece."""

    def objective(x):
        return h(x) + (x - jnp.abs(v)) ** 2 / (2 * t)

    return jnp.sign(v) * jnp.where(objective(high) < objective(low), high, low)
