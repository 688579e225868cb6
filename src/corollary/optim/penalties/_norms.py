"""Norms as penalties: L2, sup norm, groups, nuclear. Each conjugate is the indicator of the dual norm's ball.

Source: Parikh & Boyd, "Proximal algorithms" (2014), sections 6.5 and 6.7; for a norm, prox_{tα‖·‖} = v − P_{tα B*}(v)
by Moreau, where B* is the dual norm's unit ball.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from corollary.core.errors import InputError
from corollary.optim import projections
from corollary.optim._spectral import spectral_map
from corollary.optim._tree import at_least_zero, largest, like, norm
from corollary.optim.penalties._base import Penalty, Scalar


def within(dual_norm: Scalar, alpha: Scalar) -> Scalar:
    """0 where the dual norm is at most alpha (up to a few roundings), else +inf."""
    slack = alpha * (1 + 16 * jnp.finfo(alpha.dtype).eps)
    return jnp.where(dual_norm <= slack, 0.0, jnp.inf).astype(alpha.dtype)


def scaling(dual_norm: Scalar, alpha: Scalar) -> Scalar:
    """The largest s ≤ 1 with s·dual_norm ≤ alpha."""
    return jnp.where(dual_norm > alpha, alpha / jnp.where(dual_norm > alpha, dual_norm, 1), 1.0)


def shrink(size: Float[Array, "..."], threshold: Float[Array, "..."]) -> Float[Array, "..."]:
    """The factor max(1 − threshold/size, 0) of block soft thresholding."""
    return jnp.where(size > threshold, 1 - threshold / jnp.where(size > threshold, size, 1), 0.0)


@final
class L2Norm(Penalty):
    """The norm itself (not squared), h(x) = α‖x‖₂: all of x is kept or dropped together. Cost O(p).

    Examples
    --------
    >>> L2Norm(2.5).prox([3.0, 4.0]).round(12).tolist()
    [1.5, 2.0]
    """

    alpha: Any = 1.0

    def __check_init__(self):
        """Refuse a negative weight."""
        at_least_zero("alpha", self.alpha)

    def _value(self, x: PyTree) -> Scalar:
        return like(self.alpha, x) * norm(x)

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return optax.tree.scale(shrink(norm(v), like(self.alpha, v) * step), v)

    def _conjugate(self, u: PyTree) -> Scalar:
        return within(norm(u), like(self.alpha, u))

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return scaling(norm(u), like(self.alpha, u))

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        size, alpha = norm(x), like(self.alpha, x)
        along = optax.tree.add_scale(gradient, jnp.where(size > 0, alpha / jnp.where(size > 0, size, 1), 0.0), x)
        return jnp.where(size > 0, norm(along), jnp.maximum(norm(gradient) - alpha, 0))


@final
class SupNorm(Penalty):
    """The largest magnitude h(x) = α max|x_i|; its prox is v less its projection onto an L1 ball, O(p log p).

    Examples
    --------
    >>> SupNorm(1.0).prox([3.0, -2.5, 0.0]).tolist()
    [2.25, -2.25, 0.0]
    """

    alpha: Any = 1.0

    def __check_init__(self):
        """Refuse a negative weight."""
        at_least_zero("alpha", self.alpha)

    def _value(self, x: PyTree) -> Scalar:
        return like(self.alpha, x) * largest(jax.tree.map(jnp.abs, x))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        # By Moreau the prox is v − P(v), P the projection onto the L1 ball of radius step·α. What is left has its
        # largest entries equal; clipping at that level makes them equal to the last bit.
        left = optax.tree.sub(v, projections.l1_ball(v, like(self.alpha, v) * step))
        level = largest(jax.tree.map(jnp.abs, left))
        inside = optax.tree.norm(v, 1) <= like(self.alpha, v) * step
        return jax.tree.map(lambda leaf: jnp.where(inside, 0.0, jnp.clip(leaf, -level, level)), v)

    def _conjugate(self, u: PyTree) -> Scalar:
        return within(optax.tree.norm(u, 1), like(self.alpha, u))

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return scaling(optax.tree.norm(u, 1), like(self.alpha, u))

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        (x, _), (g, _) = ravel_pytree(x), ravel_pytree(gradient)
        alpha, size = like(self.alpha, x), jnp.max(jnp.abs(x))
        # ∂h(x) = α·conv{sign(x_i) e_i : |x_i| largest}: a simplex on those coordinates, 0 elsewhere.
        top = jnp.abs(x) == size
        w = jnp.where(top, -g * jnp.sign(x), -jnp.inf)
        w = jnp.where(top, w, jnp.min(jnp.where(top, w, jnp.inf)) - 4 * alpha)  # too low to enter the projection
        nearest = jnp.where(alpha > 0, projections.simplex(w, jnp.where(alpha > 0, alpha, 1)), 0.0)
        off = jnp.where(top, -g * jnp.sign(x) - nearest, g)
        at_zero = norm(g - projections.l1_ball(g, alpha))
        return jnp.where(size > 0, norm(off), at_zero)


@final
class GroupLasso(Penalty):
    """The group lasso h(x) = Σ_g α_g‖x_g‖₂: whole groups enter or leave. Cost O(p).

    Parameters
    ----------
    alpha
        Weight, a scalar or one per group (the textbook's √size is up to you).
    groups
        Group labels 0, 1, ..., G−1, one per entry of the first axis of `x`; further axes belong to the same group.
        None: every row of a matrix is a group (the multi-task lasso).

    Examples
    --------
    >>> GroupLasso(2.5, [0, 0, 1]).prox([3.0, 4.0, 1.0]).round(12).tolist()
    [1.5, 2.0, 0.0]
    """

    alpha: Any
    groups: Any
    n_groups: int | None = eqx.field(static=True)

    def __init__(self, alpha: Any = 1.0, groups: Any = None):
        at_least_zero("alpha", alpha)
        self.alpha, self.groups, self.n_groups = alpha, None, None
        if groups is not None:
            labels = np.asarray(groups)
            if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iu" or labels.min() < 0:
                raise InputError(f"groups: found {groups!r}, expected a vector of labels 0, 1, ..., G-1")
            self.groups, self.n_groups = labels.astype(np.int32), int(labels.max()) + 1

    def _sizes(self, x: Float[Array, "p ..."]) -> Float[Array, " g"]:
        """The norm of each group."""
        rows = norm(x, tuple(range(1, x.ndim))) if x.ndim > 1 else jnp.abs(x)
        if self.groups is None:
            return rows
        if x.shape[0] != self.groups.shape[0]:
            raise InputError(f"groups: found {self.groups.shape[0]} labels, expected {x.shape[0]}, one per entry")
        top = jnp.max(rows)
        safe = jnp.where(top > 0, top, 1)
        squares = jax.ops.segment_sum(jnp.square(rows / safe), self.groups, self.n_groups)
        return jnp.where(squares > 0, safe * jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0.0)

    def _back(self, per_group: Float[Array, " g"], x: Float[Array, "p ..."]) -> Float[Array, "p ..."]:
        rows = per_group if self.groups is None else per_group[self.groups]
        return rows.reshape((-1,) + (1,) * (x.ndim - 1))

    def _weights(self, sizes: Float[Array, " g"]) -> Float[Array, " g"]:
        return jnp.broadcast_to(jnp.asarray(self.alpha).astype(sizes.dtype), sizes.shape)

    def _value(self, x: PyTree) -> Scalar:
        sizes = self._sizes(x)
        return self._weights(sizes) @ sizes

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        sizes = self._sizes(v)
        return v * self._back(shrink(sizes, self._weights(sizes) * step), v)

    def _conjugate(self, u: PyTree) -> Scalar:
        sizes = self._sizes(u)
        return jnp.max(jax.vmap(within)(sizes, self._weights(sizes)))

    def _dual_scaling(self, u: PyTree) -> Scalar:
        sizes = self._sizes(u)
        return jnp.min(jax.vmap(scaling)(sizes, self._weights(sizes)))

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        sizes = self._sizes(x)
        alpha = self._weights(sizes)
        along = gradient + self._back(jnp.where(sizes > 0, alpha / jnp.where(sizes > 0, sizes, 1), 0.0), x) * x
        off = jnp.maximum(self._sizes(gradient) - alpha, 0)
        return norm(jnp.where(sizes > 0, self._sizes(along), off))


@final
class Nuclear(Penalty):
    """The nuclear norm h(X) = α Σ σ_i(X) of a matrix; its prox soft-thresholds singular values, O(m n min(m, n)).

    Examples
    --------
    >>> Nuclear(1.0).prox([[3.0, 0.0], [0.0, 0.5]]).round(12).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """

    alpha: Any = 1.0

    def __check_init__(self):
        """Refuse a negative weight."""
        at_least_zero("alpha", self.alpha)

    def _value(self, x: PyTree) -> Scalar:
        return like(self.alpha, x) * jnp.sum(singular_values(x))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return spectral_map(_matrix(v), like(self.alpha, v) * step)

    def _conjugate(self, u: PyTree) -> Scalar:
        return within(singular_values(u)[0], like(self.alpha, u))

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return scaling(singular_values(u)[0], like(self.alpha, u))

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        # ∂h(X) = {α(U Vᵀ + W): UᵀW = 0, W V = 0, ‖W‖₂ ≤ 1}, U and V those of the nonzero singular values.
        U, s, Vt = jnp.linalg.svd(_matrix(x), full_matrices=False)
        alpha = like(self.alpha, x)
        kept = (s > max(x.shape) * jnp.finfo(s.dtype).eps * s[0]).astype(s.dtype)
        U, V = U * kept, Vt.T * kept
        outside = gradient - U @ (U.T @ gradient)
        outside = outside - (outside @ V) @ V.T
        tangent = gradient - outside + alpha * (U @ V.T)
        excess = jnp.maximum(singular_values(outside) - alpha, 0)
        return jnp.hypot(norm(tangent), norm(excess))


def singular_values(x: Float[Array, "m n"]) -> Float[Array, " k"]:
    """Singular values, largest first."""
    return jnp.linalg.svd(_matrix(x), compute_uv=False)


def _matrix(x):
    if getattr(x, "ndim", None) != 2:
        raise InputError(f"x: found shape {getattr(x, 'shape', None)}, expected a matrix for the nuclear norm")
    return x
