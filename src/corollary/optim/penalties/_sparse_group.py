"""The sparse-group lasso: few groups, and few entries inside them.

Cost O(p) for value and prox, O(p) times about ten Newton steps for the dual scaling. Source: Simon, Friedman, Hastie &
Tibshirani, "A sparse-group lasso" (2013), section 3; the dual norm: Ndiaye, Fercoq, Gramfort & Salmon, "GAP safe
screening rules for sparse-group lasso" (2016), section 3.
"""

from __future__ import annotations

from typing import Any, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from corollary.core import validation
from corollary.optim._tree import like, norm
from corollary.optim.penalties._base import Penalty, Scalar
from corollary.optim.penalties._norms import GroupLasso, shrink
from corollary.optim.penalties._separable import soft

NEWTON_STEPS = 60  # a safety limit: the iteration ends after the support has settled, in about ten


@final
class SparseGroupLasso(Penalty):
    """The sparse-group lasso h(x) = α(ρ‖x‖₁ + (1 − ρ) Σ_g w_g‖x_g‖₂).

    Its prox is soft thresholding, then that of the group lasso.

    Parameters
    ----------
    alpha
        Weight α ≥ 0.
    l1_ratio
        ρ in [0, 1]: 1 is the lasso, 0 the group lasso.
    groups
        Group labels 0, 1, ..., G−1, one per entry of the first axis; None: every row of a matrix.
    weights
        w_g, a scalar or one per group (often √size).

    Examples
    --------
    >>> SparseGroupLasso(2.0, 0.5, [0, 0, 1]).prox([4.0, 5.0, 1.5]).round(12).tolist()
    [2.4, 3.2, 0.0]
    """

    alpha: Any
    l1_ratio: Any
    group: GroupLasso

    def __init__(self, alpha: Any = 1.0, l1_ratio: Any = 0.5, groups: Any = None, weights: Any = 1.0):
        GroupLasso(alpha)  # refuses a negative weight by name
        if not isinstance(l1_ratio, jax.Array):
            validation.number(0.0, 1.0)("l1_ratio", l1_ratio)
        self.alpha, self.l1_ratio, self.group = alpha, l1_ratio, GroupLasso(weights, groups)

    def _parts(self, x: Float[Array, "p ..."]) -> tuple[Scalar, Float[Array, " g"], Float[Array, " g"]]:
        """αρ, the weight of each group, and its norm."""
        alpha, ratio = like(self.alpha, x), like(self.l1_ratio, x)
        sizes = self.group._sizes(x)
        return alpha * ratio, alpha * (1 - ratio) * self.group._weights(sizes), sizes

    def _value(self, x: PyTree) -> Scalar:
        single, weight, sizes = self._parts(x)
        return single * jnp.sum(jnp.abs(x)) + weight @ sizes

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        single, weight, _ = self._parts(v)
        inner = soft(v, single * step)
        return inner * self.group._back(shrink(self.group._sizes(inner), weight * step), v)

    def _conjugate(self, u: PyTree) -> Scalar:
        single, weight, sizes = self._parts(u)
        outside = self.group._sizes(soft(u, single)) > weight + 32 * jnp.finfo(u.dtype).eps * (weight + sizes)
        return jnp.where(jnp.any(outside), jnp.inf, 0.0).astype(u.dtype)

    def _dual_scaling(self, u: PyTree) -> Scalar:
        # Per group the ν with ‖S(u, ν·single)‖ = ν·weight. The left side less the right is convex and falls with ν, so
        # that Newton's method from ν = 0 rises to the root, and ends when the support no longer changes.
        single, weight, sizes = self._parts(u)

        def better(nu_and_more):
            nu, _, count = nu_and_more
            kept = soft(u, single * self.group._back(nu, u))
            norms = self.group._sizes(kept)
            # d/dν ‖S(u, ν s)‖ = −s Σ|S|/‖S‖
            inner = jnp.abs(kept) if u.ndim == 1 else jnp.sum(jnp.abs(kept), tuple(range(1, u.ndim)))
            if self.group.groups is not None:
                inner = jax.ops.segment_sum(inner, self.group.groups, self.group.n_groups)
            slope = single * inner / jnp.where(norms > 0, norms, 1) + weight
            move = jnp.maximum(norms - weight * nu, 0) / jnp.where(slope > 0, slope, 1)
            new = jnp.where(slope > 0, nu + move, jnp.where(norms > 0, jnp.inf, nu))
            more = jnp.any(new > nu * (1 + 4 * jnp.finfo(u.dtype).eps))
            return new, more & jnp.all(jnp.isfinite(new)), count + 1

        start = jnp.zeros_like(sizes), jnp.array(True), 0
        nu, _, _ = jax.lax.while_loop(lambda s: s[1] & (s[2] < NEWTON_STEPS), better, start)
        return 1 / jnp.maximum(jnp.max(nu), 1)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        single, weight, sizes = self._parts(x)
        along = self.group._back(jnp.where(sizes > 0, weight / jnp.where(sizes > 0, sizes, 1), 0.0), x) * x
        entry = jnp.where(x != 0, gradient + single * jnp.sign(x) + along, soft(gradient, single))
        off = jnp.maximum(self.group._sizes(soft(gradient, single)) - weight, 0)
        return norm(jnp.where(sizes > 0, self.group._sizes(entry), off))
