"""Indicators of cones: second-order and positive semidefinite. Their conjugates are indicators of the polar cones.

Cost: O(p) for the second-order cone, one eigendecomposition, O(n³), for the semidefinite one. Source: Parikh & Boyd,
"Proximal algorithms" (2014), section 6.3; normal cones: Rockafellar & Wets, "Variational Analysis" (1998), section 6.
"""

from __future__ import annotations

from typing import final

import jax.numpy as jnp
from jaxtyping import PyTree

from corollary.core.errors import InputError
from corollary.optim import projections
from corollary.optim._tree import like, norm
from corollary.optim.penalties._base import Penalty, Scalar
from corollary.optim.penalties._indicators import inside
from corollary.optim.penalties._symmetric import square, symmetric_map


@final
class SecondOrderCone(Penalty):
    """The second-order (ice-cream) cone of the vectors (s, z) with ‖z‖₂ ≤ s; the first entry is s.

    Examples
    --------
    >>> SecondOrderCone().prox([0.0, 3.0, 4.0]).round(12).tolist()
    [2.5, 1.5, 2.0]
    """

    def _value(self, x: PyTree) -> Scalar:
        return inside(x, self._prox(x, like(1.0, x)))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return projections.second_order_cone(_vector(v))

    def _conjugate(self, u: PyTree) -> Scalar:
        return self._value(-u)  # the cone is its own dual

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        # The normal cone: −K at the origin, the ray of (−1, z/‖z‖) on the boundary, {0} inside.
        size = norm(_vector(x)[1:])
        ray = jnp.concatenate([-jnp.ones((1,), x.dtype), x[1:] / jnp.where(size > 0, size, 1)]) / 2**0.5
        along = jnp.maximum(-(gradient @ ray), 0)
        boundary = x[0] - size <= 8 * jnp.finfo(x.dtype).eps * x.size**0.5 * size
        face = jnp.where(boundary, norm(gradient + along * ray), norm(gradient))
        apex = norm(gradient - projections.second_order_cone(gradient))
        return jnp.where(norm(x) > 0, face, apex)


@final
class PSDCone(Penalty):
    """The symmetric positive semidefinite matrices.

    Examples
    --------
    >>> PSDCone().prox([[1.0, 0.0], [0.0, -2.0]]).round(12).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """

    def _value(self, x: PyTree) -> Scalar:
        return inside(x, self._prox(x, like(1.0, x)))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return symmetric_map(square(v), like(1.0, v), "positive")

    def _conjugate(self, u: PyTree) -> Scalar:
        return self._value(-(square(u) + u.T) / 2)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        # Normals at X: −W with W ⪰ 0 on the null space of X, and every skew matrix.
        d, V = jnp.linalg.eigh((square(x) + x.T) / 2)
        g = V.T @ ((gradient + gradient.T) / 2) @ V
        null = (d <= 8 * x.shape[0] * jnp.finfo(x.dtype).eps * jnp.max(jnp.abs(d))).astype(x.dtype)
        block = null[:, None] * null
        # On the null space −g must be negative semidefinite; what is not, is left.
        negative = jnp.minimum(jnp.linalg.eigvalsh(g * block), 0)
        return jnp.hypot(norm(g * (1 - block)), norm(negative))


def _vector(x):
    if getattr(x, "ndim", None) != 1 or x.shape[0] < 2:
        raise InputError(f"x: found shape {getattr(x, 'shape', None)}, expected a vector (s, z) of at least 2 entries")
    return x
