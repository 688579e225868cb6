"""Indicators of more sets: halfspace, affine subspace, capped simplex, and the balls of singular values.

Cost: O(p); O(p·rank) for the affine set after one decomposition; O(p log p) for the capped simplex; one SVD for the
balls. Source: Parikh & Boyd, "Proximal algorithms" (2014), section 6.2; linear minimisers: Jaggi, "Revisiting
Frank-Wolfe" (2013), table 1.
"""

from __future__ import annotations

from typing import Any, final

import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from corollary.core import precision, validation
from corollary.core.errors import InputError
from corollary.optim import projections
from corollary.optim._tree import at_least_zero, finite, like, norm
from corollary.optim.penalties._base import Penalty, Scalar
from corollary.optim.penalties._indicators import inside
from corollary.optim.penalties._norms import singular_values


@final
class Halfspace(Penalty):
    """The halfspace ⟨normal, x⟩ ≤ offset.

    Examples
    --------
    >>> Halfspace([1.0, 1.0], 1.0).prox([2.0, 0.0]).round(12).tolist()
    [1.5, -0.5]
    """

    normal: Any
    offset: Any

    def __init__(self, normal: Any, offset: Any = 0.0):
        self.normal = np.asarray(normal, float) if isinstance(normal, list | tuple) else normal
        self.offset = offset
        for name, value in (("normal", normal), ("offset", offset)):
            finite(name, value)

    def _value(self, x: PyTree) -> Scalar:
        (x, _), (a, _) = ravel_pytree(x), ravel_pytree(self.normal)
        a = a.astype(x.dtype)
        size, b = norm(a), like(self.offset, x)
        slack = 16 * x.size**0.5 * jnp.finfo(x.dtype).eps * (norm(x) * size + jnp.abs(b))
        return jnp.where(a @ x - b <= slack, 0.0, jnp.inf).astype(x.dtype)

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return projections.halfspace(v, self.normal, self.offset)

    def _conjugate(self, u: PyTree) -> Scalar:
        (u, _), (a, _) = ravel_pytree(u), ravel_pytree(self.normal)
        a = a.astype(u.dtype)
        size = norm(a)
        along = u @ (a / jnp.where(size > 0, size, 1))
        off = norm(u - along * a / jnp.where(size > 0, size, 1))
        allowed = (along >= 0) & (off <= 16 * u.size**0.5 * jnp.finfo(u.dtype).eps * norm(u))
        value = along * like(self.offset, u) / jnp.where(size > 0, size, 1)
        return jnp.where(allowed | (norm(u) == 0), value, jnp.inf)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        ((x, _), (g, _)), (a, _) = (ravel_pytree(x), ravel_pytree(gradient)), ravel_pytree(self.normal)
        a = a.astype(x.dtype)
        size, b = norm(a), like(self.offset, x)
        unit = a / jnp.where(size > 0, size, 1)
        slack = 8 * x.size**0.5 * jnp.finfo(x.dtype).eps * (norm(x) * size + jnp.abs(b))
        out = jnp.where(a @ x >= b - slack, jnp.maximum(-(g @ unit), 0), 0.0)
        return norm(g + out * unit)


@final
class AffineSet(Penalty):
    """The affine subspace A x = b (of the least-squares solutions, where there is no exact one); A may lack rank.

    Examples
    --------
    >>> AffineSet([[1.0, 1.0]], [1.0]).prox([1.0, 1.0]).round(12).tolist()
    [0.5, 0.5]
    """

    basis: Any  # orthonormal columns that span the rows of A
    point: Any  # the solution of least norm

    def __init__(self, A: Any, b: Any):
        A = precision.follows_input(validation.matrix)("A", A)
        b = precision.follows_input(validation.vector)("b", b)
        validation.same_length("A", A, "b", b)
        array = jnp if not isinstance(A, np.ndarray) or not isinstance(b, np.ndarray) else np
        U, s, Vt = array.linalg.svd(A, full_matrices=False)
        kept = s > max(A.shape) * jnp.finfo(A.dtype).eps * s[0]
        self.basis = Vt.T * kept.astype(A.dtype)
        self.point = self.basis @ ((U.T @ b.astype(A.dtype)) / array.where(kept, s, 1).astype(A.dtype))

    def _parts(self, x: Any) -> tuple[Any, Any]:
        if getattr(x, "shape", None) != self.point.shape:
            raise InputError(
                f"x: found shape {getattr(x, 'shape', None)}, expected {self.point.shape} as A has columns"
            )
        return jnp.asarray(self.basis).astype(x.dtype), jnp.asarray(self.point).astype(x.dtype)

    def _value(self, x: PyTree) -> Scalar:
        Q, point = self._parts(x)
        off, eps = norm(Q.T @ (x - point)), jnp.finfo(x.dtype).eps
        return jnp.where(off <= 16 * eps * x.size**0.5 * (norm(x) + norm(point)), 0.0, jnp.inf).astype(x.dtype)

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        Q, point = self._parts(v)
        away = v - point
        free = away - Q @ (Q.T @ away)
        # What is left of a long v is rounding of its length: taken off once more, or dropped if it is all.
        free = free - Q @ (Q.T @ free)
        noise = 4 * jnp.finfo(v.dtype).eps * v.size**0.5 * norm(away)
        return point + jnp.where(norm(free) > noise, free, 0)

    def _conjugate(self, u: PyTree) -> Scalar:
        Q, point = self._parts(u)
        off = norm(u - Q @ (Q.T @ u))
        return jnp.where(off <= 16 * jnp.finfo(u.dtype).eps * u.size**0.5 * norm(u), u @ point, jnp.inf)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar:
        Q, _ = self._parts(x)
        return norm(gradient - Q @ (Q.T @ gradient))


@final
class CappedSimplex(Penalty):
    """The capped simplex 0 ≤ x ≤ cap, Σ x_i = radius: its corners choose radius/cap of the entries.

    Parameters
    ----------
    radius
        The sum > 0, at most cap times the number of entries.
    cap
        Largest entry > 0.

    Examples
    --------
    >>> CappedSimplex(2.0).prox([3.0, 0.5, 0.25, -1.0]).round(12).tolist()
    [1.0, 0.625, 0.375, 0.0]
    """

    radius: Any = 1.0
    cap: Any = 1.0

    def __check_init__(self):
        """Refuse numbers that are not positive."""
        at_least_zero("radius", self.radius, positive=True)
        at_least_zero("cap", self.cap, positive=True)

    def _value(self, x: PyTree) -> Scalar:
        return inside(x, self._prox(x, like(1.0, x)))

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return projections.capped_simplex(v, self.radius, self.cap)

    def _conjugate(self, u: PyTree) -> Scalar:
        return jnp.asarray(optax.tree.vdot(u, self._linear_minimizer(optax.tree.scale(-1, u))))

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return like(1.0, u)

    def _linear_minimizer(self, gradient: PyTree) -> PyTree:
        flat, back = ravel_pytree(gradient)
        cap, radius = like(self.cap, flat), like(self.radius, flat)
        order = jnp.argsort(flat)
        filled = jnp.clip(radius - cap * jnp.arange(flat.size).astype(flat.dtype), 0, cap)
        return back(jnp.zeros_like(flat).at[order].set(filled))


@final
class SpectralBall(Penalty):
    """The matrices with largest singular value at most radius.

    Examples
    --------
    >>> SpectralBall(1.0).prox([[3.0, 0.0], [0.0, 0.5]]).round(12).tolist()
    [[1.0, 0.0], [0.0, 0.5]]
    """

    radius: Any = 1.0

    def __check_init__(self):
        """Refuse a negative radius."""
        at_least_zero("radius", self.radius)

    def _value(self, x: PyTree) -> Scalar:
        slack = 1 + 16 * max(x.shape) * jnp.finfo(x.dtype).eps
        return jnp.where(singular_values(x)[0] <= like(self.radius, x) * slack, 0.0, jnp.inf).astype(x.dtype)

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return projections.spectral_ball(v, self.radius)

    def _conjugate(self, u: PyTree) -> Scalar:
        return like(self.radius, u) * jnp.sum(singular_values(u))

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return like(1.0, u)

    def _linear_minimizer(self, gradient: PyTree) -> PyTree:
        U, _, Vt = jnp.linalg.svd(gradient, full_matrices=False)
        return -like(self.radius, gradient) * (U @ Vt)

    def _diameter(self, x: PyTree) -> Scalar:
        return 2 * like(self.radius, x) * min(x.shape) ** 0.5


@final
class NuclearBall(Penalty):
    """The matrices whose singular values sum to at most radius: the constrained form of the nuclear norm.

    Examples
    --------
    >>> NuclearBall(1.0).prox([[2.0, 0.0], [0.0, 1.5]]).round(12).tolist()
    [[0.75, 0.0], [0.0, 0.25]]
    """

    radius: Any = 1.0

    def __check_init__(self):
        """Refuse a negative radius."""
        at_least_zero("radius", self.radius)

    def _value(self, x: PyTree) -> Scalar:
        slack = 1 + 16 * max(x.shape) * jnp.finfo(x.dtype).eps
        return jnp.where(jnp.sum(singular_values(x)) <= like(self.radius, x) * slack, 0.0, jnp.inf).astype(x.dtype)

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return projections.nuclear_ball(v, self.radius)

    def _conjugate(self, u: PyTree) -> Scalar:
        return like(self.radius, u) * singular_values(u)[0]

    def _dual_scaling(self, u: PyTree) -> Scalar:
        return like(1.0, u)

    def _linear_minimizer(self, gradient: PyTree) -> PyTree:
        U, _, Vt = jnp.linalg.svd(gradient, full_matrices=False)
        return -like(self.radius, gradient) * jnp.outer(U[:, 0], Vt[0])

    def _diameter(self, x: PyTree) -> Scalar:
        return 2 * like(self.radius, x)
