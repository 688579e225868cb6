"""Losses known by their prox: hinge, quantile (pinball) and Huber, used as g(K x) in the splitting solvers, or as h.

Cost O(p) for value, prox and conjugate. Source: Parikh & Boyd, "Proximal algorithms" (2014), section 6.1; conjugates of
the hinge and quantile losses: Shalev-Shwartz & Zhang (2013), section 5.
"""

from __future__ import annotations

from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim._tree import at_least_zero, elementwise, largest, norm, total
from corollary.optim.penalties._base import Penalty, Scalar


@final
class Hinge(Penalty):
    """The hinge loss g(z) = Σ α max(0, 1 − y_i z_i) of a support vector machine, with z the scores.

    Parameters
    ----------
    y
        Labels −1 and 1, of the shape of z (or a scalar).
    alpha
        Weight ≥ 0: a scalar, or one per entry (sample weights).

    Examples
    --------
    >>> Hinge([1.0, 1.0, -1.0]).prox([-1.0, 0.5, -3.0]).tolist()
    [0.0, 1.0, -3.0]
    """

    y: Any = 1.0
    alpha: Any = 1.0

    def __init__(self, y: Any = 1.0, alpha: Any = 1.0):
        at_least_zero("alpha", alpha)
        for leaf in jax.tree.leaves(y):
            if not isinstance(leaf, Tracer) and not set(np.unique(np.asarray(leaf, dtype=float))) <= {-1.0, 1.0}:
                raise InputError(f"y: found {np.unique(np.asarray(leaf))[:5]}, expected labels -1 and 1")
        self.y, self.alpha = np.asarray(y, float) if isinstance(y, list | tuple) else y, alpha

    def _value(self, x: PyTree) -> Scalar:
        return total(elementwise(lambda z, y, a: a * jnp.maximum(1 - y * z, 0), x, self.y, self.alpha))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return elementwise(lambda z, y, a, t: z + y * jnp.clip(1 - y * z, 0, a * t), v, self.y, self.alpha, step)

    def _conjugate(self, u: PyTree) -> Scalar:
        def entry(u, y, a):
            q, slack = -y * u, 4 * jnp.finfo(u.dtype).eps * a
            return jnp.where((q >= -slack) & (q <= a + slack), -q, jnp.inf)

        return total(elementwise(entry, u, self.y, self.alpha))

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return _into(elementwise(lambda u, y, a: _ratio(-y * u, 0 * a, a), u, self.y, self.alpha))

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        def entry(z, g, y, a):
            # In terms of the margin: slope −a below 1, 0 above, all between at 1; at 1 up to rounding.
            q, margin = -y * g, y * z
            at_one = jnp.abs(margin - 1) <= 4 * jnp.finfo(z.dtype).eps
            off = jnp.where(margin < 1, q + a, q)
            return jnp.where(at_one, q - jnp.clip(q, -a, 0), off)

        return norm(elementwise(entry, x, gradient, self.y, self.alpha))


@final
class Quantile(Penalty):
    """The quantile (pinball) loss g(z) = Σ α ρ_q(y_i − z_i), ρ_q(r) = max(q r, (q − 1) r); q = ½: half |r|.

    Parameters
    ----------
    y
        Targets, of the shape of z (or a scalar).
    quantile
        q in [0, 1].
    alpha
        Weight ≥ 0: a scalar, or one per entry (sample weights).

    Examples
    --------
    >>> Quantile([1.0, 1.0, 1.0], 0.5).prox([3.0, 1.2, -1.0]).tolist()
    [2.5, 1.0, -0.5]
    """

    y: Any = 0.0
    quantile: Any = 0.5
    alpha: Any = 1.0

    def __init__(self, y: Any = 0.0, quantile: Any = 0.5, alpha: Any = 1.0):
        at_least_zero("alpha", alpha)
        if not isinstance(quantile, jax.Array):
            validation.number(0.0, 1.0)("quantile", quantile)
        self.y, self.quantile, self.alpha = np.asarray(y, float) if isinstance(y, list | tuple) else y, quantile, alpha

    def _value(self, x: PyTree) -> Scalar:
        def entry(z, y, q, a):
            return a * jnp.maximum(q * (y - z), (q - 1) * (y - z))

        return total(elementwise(entry, x, self.y, self.quantile, self.alpha))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        def entry(z, y, q, a, t):
            away = z - y
            moved = z - jnp.clip(away, -q * a * t, (1 - q) * a * t)
            return jnp.where((away >= -q * a * t) & (away <= (1 - q) * a * t), y, moved)  # y itself, to the last bit

        return elementwise(entry, v, self.y, self.quantile, self.alpha, step)

    def _conjugate(self, u: PyTree) -> Scalar:
        def entry(u, y, q, a):
            slack = 4 * jnp.finfo(u.dtype).eps * a
            return jnp.where((u >= -q * a - slack) & (u <= (1 - q) * a + slack), u * y, jnp.inf)

        return total(elementwise(entry, u, self.y, self.quantile, self.alpha))

    def _dual_scaling(self, u: PyTree) -> Scalar:
        ratio = elementwise(lambda u, q, a: _ratio(u, -q * a, (1 - q) * a), u, self.quantile, self.alpha)
        return _into(ratio)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        def entry(z, g, y, q, a):
            slope = jnp.where(z > y, (1 - q) * a, -q * a)
            return jnp.where(z == y, g - jnp.clip(g, -(1 - q) * a, q * a), g + slope)

        return norm(elementwise(entry, x, gradient, self.y, self.quantile, self.alpha))


@final
class Huber(Penalty):
    """The Huber function Σ α φ(x_i), φ(r) = r²/2 up to |r| = δ and δ|r| − δ²/2 beyond: L1's tails, ridge's centre.

    Parameters
    ----------
    alpha
        Weight ≥ 0, a scalar or one per coordinate.
    delta
        δ > 0: where the parabola ends.

    Examples
    --------
    >>> Huber(1.0, 1.0).prox([1.0, 5.0]).tolist()
    [0.5, 4.0]
    """

    alpha: Any = 1.0
    delta: Any = 1.0

    def __check_init__(self):
        """Refuse a negative weight."""
        at_least_zero("alpha", self.alpha)
        at_least_zero("delta", self.delta, positive=True)

    def _value(self, x: PyTree) -> Scalar:
        def entry(x, a, d):
            inner = jnp.clip(x, -d, d)
            return a * (inner**2 / 2 + d * jnp.abs(x - inner))

        return total(elementwise(entry, x, self.alpha, self.delta))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        def entry(v, a, d, t):
            return v - a * t * jnp.clip(v / (1 + a * t), -d, d)

        return elementwise(entry, v, self.alpha, self.delta, step)

    def _conjugate(self, u: PyTree) -> Scalar:
        def entry(u, a, d):
            inside = jnp.abs(u) <= a * d * (1 + 4 * jnp.finfo(u.dtype).eps)
            return jnp.where(inside, u**2 / (2 * jnp.where(a > 0, a, 1)), jnp.inf)

        return total(elementwise(entry, u, self.alpha, self.delta))

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return _into(elementwise(lambda u, a, d: _ratio(u, -a * d, a * d), u, self.alpha, self.delta))

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        return norm(elementwise(lambda x, g, a, d: g + a * jnp.clip(x, -d, d), x, gradient, self.alpha, self.delta))


def _ratio(u, low, high):
    """The largest s ≤ 1 with low ≤ s·u ≤ high, where low ≤ 0 ≤ high."""
    edge = jnp.where(u > 0, high, low)
    return jnp.where((u < low) | (u > high), edge / jnp.where(u != 0, u, 1), 1.0)


def _into(ratios: PyTree) -> Scalar:
    return -largest(jax.tree.map(jnp.negative, ratios))
