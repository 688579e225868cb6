"""Entropies: Σ α x log x, and the Kullback-Leibler divergence to a reference; the mirrors of mirror descent.

The prox solves x + c log x = d through Wright's function ω(z) + log ω(z) = z, by four steps of third order.
Cost O(p). Source: Combettes & Pesquet, "Proximal splitting methods in signal processing" (2011), table 2; Lawrence,
Corless & Jeffrey, "Algorithm 917: complex double-precision evaluation of the Wright ω function" (2012), section 2.
"""

from __future__ import annotations

from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, PyTree

from corollary.optim._tree import at_least_zero, elementwise, largest, norm, total
from corollary.optim.penalties._base import Penalty, Scalar


@final
class NegativeEntropy(Penalty):
    """The negative entropy h(x) = Σ α x_i log x_i of nonnegative numbers (0 log 0 = 0).

    Parameters
    ----------
    alpha
        Weight > 0, a scalar or one per coordinate.

    Examples
    --------
    >>> NegativeEntropy().prox([1.0]).round(6).tolist()
    [0.567143]
    """

    alpha: Any = 1.0

    def __check_init__(self):
        """Refuse a weight that is not positive."""
        at_least_zero("alpha", self.alpha, positive=True)

    def _value(self, x: PyTree) -> Scalar:
        return total(
            elementwise(lambda x, a: _inside(x, a * xlogy(jnp.maximum(x, 0), jnp.maximum(x, 0))), x, self.alpha)
        )

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return elementwise(lambda v, a, t: a * t * wright(v / (a * t) - 1 - jnp.log(a * t)), v, self.alpha, step)

    def _conjugate(self, u: PyTree) -> Scalar:
        return total(elementwise(lambda u, a: a * jnp.exp(u / a - 1), u, self.alpha))

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return jnp.ones((), largest(u).dtype)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        return norm(elementwise(lambda x, g, a: _residual(x, g + a, a, jnp.ones_like(x)), x, gradient, self.alpha))


@final
class KullbackLeibler(Penalty):
    """The divergence to a reference, h(x) = Σ α (x_i log(x_i/y_i) − x_i + y_i), for x ≥ 0.

    Parameters
    ----------
    reference
        y ≥ 0, of the shape of x (or a scalar); x_i must be 0 where y_i is.
    alpha
        Weight > 0, a scalar or one per coordinate.

    Examples
    --------
    >>> KullbackLeibler([1.0, 0.0]).prox([1.0, 3.0]).round(6).tolist()
    [1.0, 0.0]
    """

    reference: Any
    alpha: Any

    def __init__(self, reference: Any = 1.0, alpha: Any = 1.0):
        at_least_zero("reference", reference)
        at_least_zero("alpha", alpha, positive=True)
        self.reference = np.asarray(reference, float) if isinstance(reference, list | tuple) else reference
        self.alpha = alpha

    def _value(self, x: PyTree) -> Scalar:
        def entry(x, y, a):
            ratio = jnp.maximum(x, 0) / jnp.where(y > 0, y, 1)
            return jnp.where((y == 0) & (x > 0), jnp.inf, _inside(x, a * (y * xlogy(ratio, ratio) - x + y)))

        return total(elementwise(entry, x, self.reference, self.alpha))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        def entry(v, y, a, t):
            level = v / (a * t) + jnp.log(jnp.where(y > 0, y, 1) / (a * t))
            return jnp.where(y > 0, a * t * wright(level), 0.0)

        return elementwise(entry, v, self.reference, self.alpha, step)

    def _conjugate(self, u: PyTree) -> Scalar:
        return total(elementwise(lambda u, y, a: a * y * jnp.expm1(u / a), u, self.reference, self.alpha))

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return jnp.ones((), largest(u).dtype)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        def entry(x, g, y, a):
            return jnp.where(y > 0, _residual(x, g, a, jnp.where(y > 0, y, 1)), 0.0)

        return norm(elementwise(entry, x, gradient, self.reference, self.alpha))


@jax.custom_jvp
def wright(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Wright's function: the ω > 0 with ω + log ω = z, to a few roundings; e^z far to the left.

    Examples
    --------
    >>> float(wright(jnp.asarray(1.0)))
    1.0
    """
    far = z < 1.5 * jnp.log(jnp.finfo(z.dtype).eps)  # there ω = e^z(1 − e^z + ...) is e^z to the last bit
    safe = jnp.where(far, 0.0, z)
    w = jnp.where(
        safe > 1,
        safe - jnp.log(jnp.maximum(safe, 1)),
        jnp.exp(jnp.minimum(safe, 1) - jnp.exp(jnp.minimum(safe, 1) - 1)),
    )

    for _ in range(4):
        # r/(1 + w)·(b − r)/(b − 2r) with b = 2(1 + w)(1 + w + 2r/3), all divided by (1 + w)², which would overflow.
        r = (safe - w - jnp.log(w)) / (1 + w)
        b, c = 2 * (1 + 2 * r / 3), r / (1 + w)
        w = w * (1 + r * (b - c) / (b - 2 * c))
    return jnp.where(far, jnp.exp(z), w)


@wright.defjvp
def _wright_jvp(primals, tangents):
    w = wright(primals[0])
    return w, w / (1 + w) * tangents[0]


def _inside(x, value):
    return jnp.where(x >= 0, value, jnp.inf)


def _residual(x, g, a, y):
    """g + α log(x/y); an x that underflowed to zero stands for anything up to the least positive number."""
    tiny = jnp.finfo(x.dtype).tiny
    slope = g + a * jnp.log(jnp.maximum(x, tiny) / y)
    return jnp.where(x > tiny, slope, jnp.where(x >= 0, jnp.minimum(slope, 0), jnp.inf))
