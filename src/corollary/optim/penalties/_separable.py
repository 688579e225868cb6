"""Penalties that act entry by entry: none, L1, elastic net, squared L2, L0.

Each works on any pytree; its weight may be a scalar, an array that broadcasts, or a pytree like the variable.
Cost: O(p) for value and prox. Source: Parikh & Boyd, "Proximal algorithms" (2014), section 6.
"""

from __future__ import annotations

from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from corollary.core import validation
from corollary.optim._tree import at_least_zero, elementwise, floats, largest, norm, total
from corollary.optim.penalties._base import Penalty, Scalar


def soft(v, threshold):
    """sign(v)·max(|v| − threshold, 0), written as v less its clipped self: exact zeros, no sign(0)."""
    return v - jnp.clip(v, -threshold, threshold)


@final
class Zero(Penalty):
    """No penalty: h = 0. `ProximalGradient` is then gradient descent.

    Examples
    --------
    >>> Zero().prox([1.0, -2.0]).tolist()
    [1.0, -2.0]
    """

    def _value(self, x: PyTree) -> Scalar:
        return total(jax.tree.map(jnp.zeros_like, x))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return v

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        return norm(gradient)


@final
class L1(Penalty):
    """The lasso's penalty h(x) = Σ α|x_i|; its prox is soft thresholding.

    Parameters
    ----------
    alpha
        Weight α ≥ 0: a scalar, or one per coordinate (adaptive lasso). Where a weight is 0 the dual point has to vanish
        there exactly: no duality gap closes, and a run ends at its step limit though x is right.

    Examples
    --------
    >>> L1(1.0).prox([3.0, -0.5, -2.0]).tolist()
    [2.0, 0.0, -1.0]
    """

    alpha: Any = 1.0

    def __check_init__(self):
        """Refuse a negative weight."""
        at_least_zero("alpha", self.alpha)

    def _value(self, x: PyTree) -> Scalar:
        return total(elementwise(lambda x, a: a * jnp.abs(x), x, self.alpha))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return elementwise(lambda v, a, t: soft(v, a * t), v, self.alpha, step)

    def _conjugate(self, u: PyTree) -> Scalar:
        # The indicator of |u_i| <= α_i; `dual_scaling` lands on its edge, hence the allowance for one rounding.
        excess = elementwise(lambda u, a: jnp.abs(u) - a * (1 + 4 * jnp.finfo(a.dtype).eps), u, self.alpha)
        return jnp.where(largest(excess) <= 0, 0.0, jnp.inf).astype(largest(excess).dtype)

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return _shrink_into(u, self.alpha)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        return norm(_l1_violation(x, gradient, self.alpha))


@final
class ElasticNet(Penalty):
    """The elastic net h(x) = α(ρ‖x‖₁ + (1 − ρ)/2·‖x‖²), in scikit-learn's parameters.

    Parameters
    ----------
    alpha
        Weight α ≥ 0, a scalar or one per coordinate.
    l1_ratio
        ρ in [0, 1]: 1 is the lasso, 0 is ridge.

    Examples
    --------
    >>> ElasticNet(2.0, 0.5).prox([3.0, -0.5]).tolist()
    [1.0, 0.0]
    """

    alpha: Any = 1.0
    l1_ratio: Any = 0.5

    def __check_init__(self):
        """Refuse a negative weight and a ratio outside [0, 1]."""
        at_least_zero("alpha", self.alpha)
        if not isinstance(self.l1_ratio, jax.Array):
            validation.number(0.0, 1.0)("l1_ratio", self.l1_ratio)

    def _value(self, x: PyTree) -> Scalar:
        return total(
            elementwise(lambda x, a, r: a * (r * jnp.abs(x) + (1 - r) / 2 * x**2), x, self.alpha, self.l1_ratio)
        )

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return elementwise(
            lambda v, a, r, t: soft(v, a * r * t) / (1 + a * (1 - r) * t), v, self.alpha, self.l1_ratio, step
        )

    def _conjugate(self, u: PyTree) -> Scalar:
        def entry(u, a, r):
            excess, curvature = jnp.maximum(jnp.abs(u) - a * r * (1 + 4 * jnp.finfo(u.dtype).eps), 0), a * (1 - r)
            finite = excess**2 / (2 * jnp.where(curvature > 0, curvature, 1))
            return jnp.where(excess == 0, 0.0, jnp.where(curvature > 0, finite, jnp.inf))

        return total(elementwise(entry, u, self.alpha, self.l1_ratio))

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return _shrink_into(u, elementwise(lambda _, a, r: a * r, u, self.alpha, self.l1_ratio))

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        weight = elementwise(lambda _, a, r: a * r, x, self.alpha, self.l1_ratio)
        ridge = elementwise(lambda x, a, r: a * (1 - r) * x, x, self.alpha, self.l1_ratio)
        return norm(_l1_violation(x, jax.tree.map(jnp.add, gradient, ridge), weight))


@final
class SquaredL2(Penalty):
    """The ridge penalty h(x) = α/2·‖x‖²; its prox is the shrinkage v/(1 + step·α).

    Parameters
    ----------
    alpha
        Weight α ≥ 0, a scalar or one per coordinate.

    Examples
    --------
    >>> SquaredL2(1.0).prox([2.0, -4.0]).tolist()
    [1.0, -2.0]
    """

    alpha: Any = 1.0

    def __check_init__(self):
        """Refuse a negative weight."""
        at_least_zero("alpha", self.alpha)

    def _value(self, x: PyTree) -> Scalar:
        return total(elementwise(lambda x, a: a / 2 * x**2, x, self.alpha))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return elementwise(lambda v, a, t: v / (1 + a * t), v, self.alpha, step)

    def _conjugate(self, u: PyTree) -> Scalar:
        def entry(u, a):
            return jnp.where(a > 0, u**2 / (2 * jnp.where(a > 0, a, 1)), jnp.where(u == 0, 0.0, jnp.inf))

        return total(elementwise(entry, u, self.alpha))

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return jnp.ones((), largest(u).dtype)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        return norm(elementwise(lambda x, g, a: g + a * x, x, gradient, self.alpha))


@final
class L0(Penalty):
    """The count of nonzeros h(x) = α‖x‖₀; its prox keeps the entries with |v| > √(2·step·α). Not convex.

    Parameters
    ----------
    alpha
        Weight α ≥ 0. At the threshold itself both answers are optimal; the entry is dropped.

    Examples
    --------
    >>> L0(2.0).prox([3.0, 1.9, -2.5]).tolist()
    [3.0, 0.0, -2.5]
    """

    alpha: Any = 1.0
    is_convex: ClassVar[bool] = False

    def __check_init__(self):
        """Refuse a negative weight."""
        at_least_zero("alpha", self.alpha)

    def _value(self, x: PyTree) -> Scalar:
        return total(elementwise(lambda x, a: jnp.where(x != 0, a, 0.0), x, self.alpha))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return elementwise(lambda v, a, t: jnp.where(jnp.abs(v) > jnp.sqrt(2 * a * t), v, 0.0), v, self.alpha, step)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        # Limiting subdifferential: {0} where x_i is not zero, all of R where it is (and α > 0).
        return norm(elementwise(lambda x, g, a: jnp.where((x != 0) | (a == 0), g, 0.0), x, gradient, self.alpha))


def _l1_violation(x: PyTree, gradient: PyTree, weight: Any) -> PyTree:
    def entry(x, g, a):
        return jnp.where(x != 0, g + a * jnp.sign(x), jnp.maximum(jnp.abs(g) - a, 0))

    return elementwise(entry, x, floats(gradient), weight)


def _shrink_into(u: PyTree, weight: Any) -> Scalar:
    """The largest s ≤ 1 with |s·u_i| ≤ weight_i for all i."""

    def entry(u, a):
        size = jnp.abs(u)
        return -jnp.where(size > a, a / jnp.where(size > 0, size, 1), 1.0)

    return -largest(elementwise(entry, u, weight))
