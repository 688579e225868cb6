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
from jaxtyping import Array, Bool, Float, Int, PyTree

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
        return _compiled(v, self._weights(v) * step)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        # Projecting w = −g onto ∂h(x) leaves the prox of the directional derivative h'(x; ·): linear where x jumps,
        # total variation where it does not.
        alpha, jump = self._weights(x), jnp.sign(jnp.diff(x))
        left = -gradient - _adjoint_difference(alpha * jump)
        return norm(_compiled(left, jnp.where(jump == 0, alpha, like(0.0, x))))


def _adjoint_difference(z: Float[Array, " q"]) -> Float[Array, " p"]:
    """Dᵀz for (Dx)_i = x_{i+1} − x_i."""
    return jnp.diff(-z, prepend=0.0, append=0.0) if z.size else jnp.zeros((1,), z.dtype)


class _Sweep(NamedTuple):
    """The forward sweep at vertex i: a piecewise linear increasing function, and the clips found so far."""

    i: Int[Array, ""]
    popping_left: Bool[Array, ""]
    left: Float[Array, ""]  # where the function meets −limit, once found
    first: Float[Array, " 2"]  # slope and intercept of the outermost pieces
    last: Float[Array, " 2"]
    knots: Float[Array, "m 3"]  # rows low, ..., high: position, and how slope and intercept change there
    at_low: Float[Array, " 3"]  # rows low and high again: with every read after every write, no array is ever copied
    at_high: Float[Array, " 3"]
    low: Int[Array, ""]
    high: Int[Array, ""]
    bounds: Float[Array, "p 2"]


@jax.custom_jvp
def _prox_tv(v: Float[Array, " p"], weight: Float[Array, " q"]) -> Float[Array, " p"]:
    n = v.shape[0]
    centre = jnp.mean(v)
    v = v - centre
    # The last vertex has no edge: limit 0 finds the root of its derivative.
    limits = jnp.concatenate([weight, jnp.zeros((1,), v.dtype)])

    def advance(s: _Sweep) -> _Sweep:
        """Drop one knot, or find one clip: a flat loop, in which the arrays are updated in place."""
        limit = limits[s.i]
        # A knot is dropped while the piece beyond it still lies outside [−limit, limit] at the knot.
        below = (s.low <= s.high) & (s.first[0] * s.at_low[0] + s.first[1] < -limit)
        above = (s.low <= s.high) & (s.last[0] * s.at_high[0] + s.last[1] > limit)
        drop_left, drop_right = s.popping_left & below, ~s.popping_left & above
        done = ~s.popping_left & ~above  # both clips are known

        left = jnp.where(s.popping_left, (-limit - s.first[1]) / s.first[0], s.left)
        right = jnp.maximum((limit - s.last[1]) / s.last[0], left)
        # Beyond the clips the function is ∓limit; the next vertex adds its own (x − v)' to every piece. What is written
        # before both are known falls outside the rows in use.
        below_all, above_all = jnp.stack([0 * limit, -limit]), jnp.stack([0 * limit, limit])
        row_left = jnp.concatenate([left[None], s.first - below_all])
        row_right = jnp.concatenate([right[None], above_all - s.last])
        term = jnp.stack([jnp.ones_like(limit), -v[jnp.minimum(s.i + 1, n - 1)]])
        one = done.astype(jnp.int32)
        knots = s.knots.at[s.low - 1].set(row_left).at[s.high + 1].set(row_right)
        low = s.low + drop_left.astype(jnp.int32) - one
        high = s.high - drop_right.astype(jnp.int32) + one
        return _Sweep(
            i=s.i + one,
            popping_left=drop_left | done,
            left=left,
            first=jnp.where(done, below_all + term, jnp.where(drop_left, s.first + s.at_low[1:], s.first)),
            last=jnp.where(done, above_all + term, jnp.where(drop_right, s.last - s.at_high[1:], s.last)),
            knots=knots,
            at_low=knots[low],
            at_high=knots[high],
            low=low,
            high=high,
            bounds=s.bounds.at[s.i].set(jnp.stack([left, right])),
        )

    piece = jnp.stack([jnp.ones((), v.dtype), -v[0]])
    knots, bounds = jnp.zeros((2 * n + 4, 3), v.dtype), jnp.zeros((n, 2), v.dtype)
    low, none = jnp.int32(n + 2), knots[0]
    start = _Sweep(jnp.int32(0), jnp.array(True), v[0], piece, piece, knots, none, none, low, low - 1, bounds)
    bounds = jax.lax.while_loop(lambda s: s.i < n, advance, start).bounds

    def backward(after, bound):
        x = jnp.clip(after, bound[0], bound[1])
        return x, x

    _, x = jax.lax.scan(backward, bounds[-1, 0], bounds, reverse=True)
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


_compiled = jax.jit(_prox_tv)  # an eager call compiles its loop once, not each time
