"""The sorted L1 norm (SLOPE): h(x) = Σ α_k |x|_(k), the largest magnitude times the largest weight, and so on.

It clusters coefficients of equal size, and controls the false discovery rate for a fitting choice of weights. The prox
is exact: sort, subtract the weights, isotonic regression by pooling adjacent violators, clip at zero. Cost O(p log p).
Source: Bogdan, van den Berg, Sabatti, Su & Candès, "SLOPE: adaptive variable selection via convex optimization" (2015),
section 2.1 and algorithm 4; Larsson, Bogdan & Wallin, "The strong screening rule for SLOPE" (2020), theorem 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from corollary.core.errors import InputError
from corollary.optim._tree import at_least_zero, norm
from corollary.optim.penalties._base import Penalty, Scalar


@final
class SortedL1(Penalty):
    """The sorted L1 norm h(x) = Σ_k α_k |x|_(k) with |x|_(1) ≥ |x|_(2) ≥ ... and α_1 ≥ α_2 ≥ ... ≥ 0.

    Equal weights make it `L1`, weights (α, 0, ..., 0) `SupNorm`; α_k = a + b(p − k) is OSCAR.

    Parameters
    ----------
    alpha
        Weights (p,), falling, one per entry of the variable; or one number for all.

    Raises
    ------
    InputError
        For weights that are negative or rise.

    Examples
    --------
    >>> SortedL1([3.0, 1.0, 0.0]).prox([5.0, -4.0, 0.5]).tolist()
    [2.5, -2.5, 0.5]
    """

    alpha: Any = 1.0

    def __check_init__(self):
        """Refuse weights that are negative or rise."""
        at_least_zero("alpha", self.alpha)
        if not isinstance(self.alpha, Tracer) and np.any(
            np.diff(np.atleast_1d(np.asarray(self.alpha, dtype=float))) > 0
        ):
            raise InputError("alpha: found weights that rise, expected them sorted, the largest first")

    def _weights(self, flat: Float[Array, " p"]) -> Float[Array, " p"]:
        alpha = jnp.asarray(self.alpha).astype(flat.dtype)
        if alpha.ndim and alpha.shape != flat.shape:
            raise InputError(f"alpha: found {alpha.shape[0]} weights, expected {flat.size}, one per entry of x")
        return jnp.broadcast_to(alpha, flat.shape)

    def _value(self, x: PyTree) -> Scalar:
        flat, _ = ravel_pytree(x)
        return self._weights(flat) @ _sorted(jnp.abs(flat))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        flat, back = ravel_pytree(v)
        size = jnp.abs(flat)
        order = jnp.argsort(-size)
        level = size[order] - step * self._weights(flat)
        kept = jnp.maximum(_compiled(level, jnp.zeros(flat.shape, bool)), 0)
        return back(jnp.sign(flat) * jnp.zeros_like(flat).at[order].set(kept))

    def _dual_norm(self, u: PyTree) -> Scalar:
        """max_k Σ_{i ≤ k} |u|_(i) / Σ_{i ≤ k} α_i."""
        flat, _ = ravel_pytree(u)
        sums, weights = jnp.cumsum(_sorted(jnp.abs(flat))), jnp.cumsum(self._weights(flat))
        ratio = sums / jnp.where(weights > 0, weights, 1)
        return jnp.max(jnp.where(weights > 0, ratio, jnp.where(sums > 0, jnp.inf, 0.0)))

    def _conjugate(self, u: PyTree) -> Scalar:
        size = self._dual_norm(u)
        length = sum(leaf.size for leaf in jax.tree.leaves(u))
        # The running sums are added up pairwise: their rounding grows as the logarithm of the length.
        allowed = 1 + (16 + 4 * length.bit_length()) * jnp.finfo(size.dtype).eps
        return jnp.where(size <= allowed, 0.0, jnp.inf).astype(size.dtype)

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return 1 / jnp.maximum(self._dual_norm(u), 1)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        # What is left of w = −g after projecting onto ∂h(x) is the prox of the directional derivative h'(x; ·): in
        # every cluster of equal |x| a sorted sum with the cluster's own weights, signed where x is not zero.
        (x, _), (g, _) = ravel_pytree(x), ravel_pytree(gradient)
        size = jnp.abs(x)
        w = jnp.where(x != 0, -g * jnp.sign(x), jnp.abs(g))
        order = jnp.lexsort((-w, -size))
        size, level = size[order], w[order] - self._weights(x)
        fresh = jnp.concatenate([jnp.ones((1,), bool), size[1:] != size[:-1]])
        left = _compiled(level, fresh)
        return norm(jnp.where(size > 0, left, jnp.maximum(left, 0)))


def _sorted(size: Float[Array, " p"]) -> Float[Array, " p"]:
    return -jnp.sort(-size)


class _Pool(NamedTuple):
    """The block at hand (sum, count, whether a wall stands before it), and the finished ones on a stack."""

    i: Int[Array, ""]
    top: Int[Array, ""]
    block: Float[Array, " 3"]
    below: Float[Array, " 3"]  # the stack's last row again: every read comes after every write, so no array is copied
    stack: Float[Array, "p1 3"]


@jax.custom_jvp
def falling(y: Float[Array, " p"], wall: Bool[Array, " p"]) -> Float[Array, " p"]:
    """The nearest falling vector, by pooling adjacent violators in one flat loop of at most 2p turns.

    Where ``wall[i]``, entry i may lie above entry i − 1: the runs between walls are independent.
    """
    n = y.shape[0]
    rows = jnp.stack([y, jnp.ones_like(y), wall.astype(y.dtype)], 1)

    def turn(s: _Pool) -> _Pool:
        rises = s.below[0] * s.block[1] <= s.block[0] * s.below[1]
        merge = (s.top > 0) & (s.block[2] == 0) & rises
        stack = s.stack.at[s.top].set(s.block)  # where merging, this lies above what is in use
        joined = (s.block + s.below).at[2].set(s.below[2])
        fresh = rows[jnp.minimum(s.i, n - 1)]
        one = merge.astype(jnp.int32)
        top = s.top + 1 - 2 * one
        return _Pool(s.i + 1 - one, top, jnp.where(merge, joined, fresh), stack[top - 1], stack)

    stack = jnp.zeros((n + 1, 3), y.dtype)
    start = _Pool(jnp.int32(1), jnp.int32(0), rows[0], stack[0], stack)
    done = jax.lax.while_loop(lambda s: s.i <= n, turn, start)
    used = jnp.arange(n + 1, dtype=jnp.int32) < done.top
    ends = jnp.cumsum(jnp.where(used, done.stack[:, 1], 0.0).astype(jnp.int32), dtype=jnp.int32)
    means = done.stack[:, 0] / jnp.where(used, done.stack[:, 1], 1)
    return means[jnp.searchsorted(ends, jnp.arange(n, dtype=jnp.int32), side="right")]


@falling.defjvp
def _falling_jvp(primals, tangents):
    """The mean of the tangent over every block."""
    y, wall = primals
    x = falling(y, wall)
    fresh = jnp.concatenate([jnp.zeros((1,), bool), (x[1:] != x[:-1]) | wall[1:]])
    block = jnp.cumsum(fresh)
    sums = jax.ops.segment_sum(tangents[0], block, y.shape[0])
    counts = jax.ops.segment_sum(jnp.ones_like(y), block, y.shape[0])
    return x, (sums / jnp.maximum(counts, 1))[block]


_compiled = jax.jit(falling)  # an eager call compiles its loop once, not each time
