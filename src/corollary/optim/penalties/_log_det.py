"""The barrier −log det X of the positive definite matrices: the likelihood term of a Gaussian's precision matrix.

Cost O(n³), one eigendecomposition. Source: Parikh & Boyd, "Proximal algorithms" (2014), section 6.7.5.
"""

from __future__ import annotations

from typing import Any, final

import jax.numpy as jnp
from jaxtyping import PyTree

from corollary.optim._tree import at_least_zero, like, norm
from corollary.optim.penalties._base import Penalty, Scalar
from corollary.optim.penalties._symmetric import square, symmetric_map


@final
class LogDet(Penalty):
    """h(X) = −α log det X for symmetric positive definite X, +inf elsewhere; its prox maps d to (d + √(d² + 4αt))/2.

    Parameters
    ----------
    alpha
        Weight > 0.

    Examples
    --------
    >>> LogDet().prox([[1.5, 0.0], [0.0, 0.0]]).round(12).tolist()
    [[2.0, 0.0], [0.0, 1.0]]
    """

    alpha: Any = 1.0

    def __check_init__(self):
        """Refuse a weight that is not positive."""
        at_least_zero("alpha", self.alpha, positive=True)

    def _value(self, x: PyTree) -> Scalar:
        symmetric = norm(square(x) - x.T) <= 32 * x.shape[0] * jnp.finfo(x.dtype).eps * norm(x)
        d = jnp.linalg.eigvalsh((x + x.T) / 2)
        inside = symmetric & (d[0] > 0)
        return jnp.where(inside, -like(self.alpha, x) * jnp.sum(jnp.log(jnp.where(d > 0, d, 1))), jnp.inf)

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return symmetric_map(square(v), like(self.alpha, v) * step, "barrier")

    def _conjugate(self, u: PyTree) -> Scalar:
        alpha, d = like(self.alpha, u), jnp.linalg.eigvalsh(-(square(u) + u.T) / 2)
        finite = jnp.sum(jnp.log(alpha / jnp.where(d > 0, d, 1)) - 1)
        return jnp.where(d[0] > 0, alpha * finite, jnp.inf)

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return jnp.ones((), u.dtype)  # a cone: no scaling brings a point in that is not there

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        # The domain lies in the symmetric matrices: skew parts of the gradient are free.
        d, V = jnp.linalg.eigh((square(x) + x.T) / 2)
        alpha = like(self.alpha, x)
        turned = V.T @ ((gradient + gradient.T) / 2) @ V
        inverse = alpha / jnp.where(d > 0, d, 1)
        # X is known to eps·‖X‖, hence α X⁻¹ to eps·‖X‖·α‖X⁻¹‖²: that much says nothing.
        unknown = 4 * x.shape[0] * jnp.finfo(x.dtype).eps * d[-1] * inverse[0] / jnp.where(d[0] > 0, d[0], 1)
        return jnp.where(d[0] > 0, jnp.maximum(norm(turned - jnp.diag(inverse)) - unknown, 0), jnp.inf)
