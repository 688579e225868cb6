"""A Chebyshev filter p(A): it lifts the wanted end of the spectrum and flattens the rest.

p(λ) = T_d((λ − c)/e)/T_d((top − c)/e), with [c − e, c + e] the unwanted interval and `top` the outermost eigenvalue:
|p| is small on the interval and grows like cosh outside, up to 1. A Krylov step with p(A) costs d products and moves as
far as d plain steps, but is orthogonalised once. d is odd, so that what lies beyond the far end comes out negative
instead of posing as wanted. Degree 1 on [−1, 1] is A itself.
Source: Zhou & Saad, SIMAX 29 (2007); Fang & Saad, SIAM J. Sci. Comput. 34 (2012).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

LEAST, LARGEST = 5, 1001  # degree


class Filter(NamedTuple):
    """Centre and half-width of the unwanted interval, degree (a whole float), and T_d at the outermost eigenvalue."""

    centre: Any
    width: Any
    degree: Any
    norm: Any

    def value(self, xp: Any, x: Any) -> Any:
        """p(λ)."""
        y = (x - self.centre) / self.width
        inside = xp.cos(self.degree * xp.arccos(xp.clip(y, -1, 1)))
        outside = xp.sign(y) * xp.cosh(xp.minimum(self.degree * _angle(xp, xp.abs(y)), 80))  # no overflow
        return xp.where(xp.abs(y) > 1, outside, inside) / self.norm

    def inverse(self, xp: Any, p: Any) -> Any:
        """λ outside the interval with p(λ) = p; its nearer end where p is too small for that."""
        y = p * self.norm
        far = xp.sign(y) * xp.cosh(_angle(xp, xp.abs(y)) / self.degree)
        return self.centre + self.width * xp.where(self.degree == 1, y, far)

    def conversion(self, xp: Any, p: Any) -> Any:
        """What a residual of p(A) is to be multiplied by: the largest |λ_i − λ|/|p(λ_i) − p(λ)| over the spectrum."""
        y = xp.abs(p * self.norm)
        angle = _angle(xp, y) / self.degree
        sinh = xp.sinh(angle)
        ratio = xp.where(sinh > 0, xp.sinh(self.degree * angle) / xp.where(sinh > 0, sinh, 1), self.degree)
        near = 1 / (self.degree * ratio)
        far = (xp.cosh(angle) + 1) / (y + 1)
        return xp.where(self.degree == 1, 1, xp.maximum(near, far)) * self.width * self.norm


def identity(xp: Any, dtype: Any) -> Filter:
    """p(λ) = λ."""
    zero, one = xp.zeros((), dtype), xp.ones((), dtype)
    return Filter(zero, one, one, one)


def designed(xp: Any, low: Any, high: Any, first: Any, last: Any, ratio: Any, gain: float, limit: Any) -> Filter:
    """The filter that flattens [low, high] and lifts the wanted values, which lie from `last` > high to `first`.

    `last` is lifted by `gain` over the interval, as far as `first` does not come to exceed it by more than `ratio`:
    p(A)'s rounding is relative to its largest value.
    """
    centre, width = (low + high) / 2, (high - low) / 2
    x_first, x_last = ((x - centre) / width for x in (first, last))
    a_first, a_last = _angle(xp, x_first), _angle(xp, x_last)
    tiny = 1e-6
    wished = xp.minimum(
        xp.log(xp.asarray(2 * gain, low.dtype)) / xp.maximum(a_last, tiny),
        xp.log(ratio) / xp.maximum(a_first - a_last, tiny),
    )
    degree = xp.maximum(xp.minimum(xp.minimum(wished, limit), LARGEST), LEAST)
    degree = (2 * xp.floor((degree - 1) / 2) + 1).astype(low.dtype)
    return Filter(centre, width, degree, xp.cosh(degree * a_first).astype(low.dtype))


def apply_filter(filter: Filter, product: Any, recur: Any, repeat: Any, V: Any) -> Any:
    """p(A) V by the three-term recurrence: `recur(Y, Z, α, β)` is αAY + βY − Z."""
    c, e, d, norm = filter
    first = (product(V) - c * V) / e
    _, last = repeat(
        (d - 1).astype(np.int32), lambda pair: (pair[1], recur(pair[1], pair[0], 2 / e, -2 * c / e)), (V, first)
    )
    return last / norm


def _angle(xp: Any, y: Any) -> Any:
    return xp.arccosh(xp.maximum(y, 1))
