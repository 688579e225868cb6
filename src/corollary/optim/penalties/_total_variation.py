"""One-dimensional total variation: h(x) = Σ_i α_i |x_{i+1} − x_i|; piecewise constant answers.

The prox is exact after one sweep forth and one back. Cost O(p), Johnson's dynamic programme: the derivative of the
best cost so far, as a function of the last value, is piecewise linear; each edge clips it to [−λ_i, λ_i], which drops
knots at the ends and adds two. Source: Johnson, "A dynamic programming algorithm for the fused lasso and
L0-segmentation" (2013), section 3. Going backwards, x_i = clip(x_{i+1}, low_i, high_i).
"""

from __future__ import annotations

from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from corollary.core.errors import InputError
from corollary.optim._tree import at_least_zero, like, norm
from corollary.optim.penalties._base import Penalty, Scalar


@final
class TotalVariation(Penalty):
    """Total variation of a vector, h(x) = Σ_i α_i |x_{i+1} − x_i| (the fused lasso's second term).

    Parameters
    ----------
    alpha
        Weight ≥ 0: a scalar, or one per edge, shape (p − 1,).

    Examples
    --------
    >>> TotalVariation(1.0).prox([0.0, 0.0, 6.0, 6.0]).tolist()
    [0.5, 0.5, 5.5, 5.5]
    """

    alpha: Any = 1.0

    def __check_init__(self):
        """Refuse a negative weight."""
        at_least_zero("alpha", self.alpha)

    def _weights(self, x: Any) -> Float[Array, " q"]:
        if x.ndim != 1:
            raise InputError(f"x: found shape {x.shape}, expected a vector for one-dimensional total variation")
        return jnp.broadcast_to(jnp.asarray(self.alpha).astype(x.dtype), (x.shape[0] - 1,))

    def _value(self, x: PyTree) -> Scalar:
        return self._weights(x) @ jnp.abs(jnp.diff(x))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return _prox_tv(v, self._weights(v) * step)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        # Projecting w = −g onto ∂h(x) leaves the prox of the directional derivative h'(x; ·): linear where x jumps,
        # total variation where it does not.
        alpha, jump = self._weights(x), jnp.sign(jnp.diff(x))
        left = -gradient - _adjoint_difference(alpha * jump)
        return norm(_prox_tv(left, jnp.where(jump == 0, alpha, like(0.0, x))))


def _adjoint_difference(z: Float[Array, " q"]) -> Float[Array, " p"]:
    """Dᵀz for (Dx)_i = x_{i+1} − x_i."""
    return jnp.diff(-z, prepend=0.0, append=0.0) if z.size else jnp.zeros((1,), z.dtype)


class _Deque(NamedTuple):
    """A piecewise linear increasing function: outermost pieces (slope, intercept), and knots where pieces change."""

    first: Float[Array, " 2"]
    last: Float[Array, " 2"]
    where: Float[Array, " m"]
    change: Float[Array, "m 2"]
    low: Int[Array, ""]
    high: Int[Array, ""]


@jax.custom_jvp
def _prox_tv(v: Float[Array, " p"], weight: Float[Array, " q"]) -> Float[Array, " p"]:
    n = v.shape[0]
    centre = jnp.mean(v)
    v = v - centre

    def forward(d: _Deque, edge):
        value, limit = edge
        # Add (x − v_i)' = 1·x − v_i to every piece.
        term = jnp.stack([jnp.ones_like(value), -value])
        first, last = d.first + term, d.last + term

        def from_left(s):
            return s[0] + d.change[s[1]], s[1] + 1

        def from_right(s):
            return s[0] - d.change[s[1]], s[1] - 1

        def below(s):  # the piece still lies under −limit at its right end
            return (s[1] <= d.high) & (s[0][0] * d.where[s[1]] + s[0][1] < -limit)

        first, low = jax.lax.while_loop(below, from_left, (first, d.low))
        left = (-limit - first[1]) / first[0]

        def above(s):
            return (s[1] >= low) & (s[0][0] * d.where[s[1]] + s[0][1] > limit)

        last, high = jax.lax.while_loop(above, from_right, (last, d.high))
        right = jnp.maximum((limit - last[1]) / last[0], left)

        flat_low, flat_high = jnp.stack([0 * limit, -limit]), jnp.stack([0 * limit, limit])
        where = d.where.at[low - 1].set(left).at[high + 1].set(right)
        change = d.change.at[low - 1].set(first - flat_low).at[high + 1].set(flat_high - last)
        return _Deque(flat_low, flat_high, where, change, low - 1, high + 1), (left, right)

    zero = jnp.zeros((2,), v.dtype)
    start = _Deque(
        zero, zero, jnp.zeros((2 * n + 2,), v.dtype), jnp.zeros((2 * n + 2, 2), v.dtype), jnp.int32(n + 1), jnp.int32(n)
    )
    # The last vertex has no edge: limit 0 finds the root of its derivative.
    limits = jnp.concatenate([weight, jnp.zeros((1,), v.dtype)])
    _, (left, right) = jax.lax.scan(forward, start, (v, limits))

    def backward(after, bounds):
        x = jnp.clip(after, bounds[0], bounds[1])
        return x, x

    _, x = jax.lax.scan(backward, left[-1], (left, right), reverse=True)
    return x + centre


@_prox_tv.defjvp
def _prox_tv_jvp(primals, tangents):
    """The answer is, on each constant stretch, the mean of v plus what the jumps at its ends pull."""
    (v, weight), (dv, dweight) = primals, tangents
    x = _prox_tv(v, weight)
    jump = jnp.sign(jnp.diff(x))
    stretch = jnp.concatenate([jnp.zeros((1,), jnp.int32), jnp.cumsum(jump != 0, dtype=jnp.int32)])
    pulled = dv - _adjoint_difference(jump * dweight)
    sums = jax.ops.segment_sum(pulled, stretch, v.shape[0])
    counts = jax.ops.segment_sum(jnp.ones_like(v), stretch, v.shape[0])
    return x, (sums / jnp.maximum(counts, 1))[stretch]
