"""What the data terms of this folder share: a sum over the rows, f(x) = Σ_i w_i φ_i(⟨X_i, x⟩), with sample weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from corollary.core import operator, precision, validation
from corollary.core.errors import InputError
from corollary.optim._smooth import SmoothTerm, _apply, _held, _squared_norm
from corollary.optim._tree import at_least_zero
from corollary.optim.penalties._base import Scalar


class Rows(SmoothTerm):
    """A sum over rows; a leaf holds ``A``, the targets ``y``, ``weights`` or None and ``given``, and knows its φ."""

    A: eqx.AbstractVar[lx.AbstractLinearOperator]
    y: eqx.AbstractVar[Any]
    weights: eqx.AbstractVar[Any]
    given: eqx.AbstractVar[Any]

    @abstractmethod
    def row_loss(self, z: Array) -> Float[Array, " n"]:
        """φ_i(z_i)."""

    @abstractmethod
    def row_slope(self, z: Array) -> Array:
        """φ_i'(z_i)."""

    @abstractmethod
    def row_conjugate(self, theta: Array) -> Float[Array, " n"]:
        """φ_i*(θ_i), +inf outside its domain."""

    @abstractmethod
    def row_lipschitz(self) -> float | None:
        """sup φ_i''; None where there is none."""

    def row_bregman(self, new: Array, z: Array) -> Float[Array, " n"]:
        """φ_i(new) − φ_i(z) − φ_i'(z)(new − z); by its definition, clipped at zero against rounding."""
        product = self.row_slope(z) * (new - z)
        inner = product if product.ndim == 1 else jnp.sum(product, 1)
        return jnp.maximum(self.row_loss(new) - self.row_loss(z) - inner, 0)

    def forward(self, x: PyTree) -> PyTree:
        """X x."""
        return _apply(self.A, x)

    def adjoint(self, theta: PyTree) -> PyTree:
        """Xᵀθ."""
        return _apply(self.A.T, theta)

    def loss(self, z: PyTree) -> Scalar:
        """Σ w_i φ_i(z_i)."""
        return self._sum(self.row_loss(z))

    def dual(self, z: PyTree) -> PyTree:
        """w_i φ_i'(z_i)."""
        slope = self.row_slope(z)
        return slope if self.weights is None else slope * self._weights(slope)

    def bregman(self, new: PyTree, z: PyTree) -> Scalar:
        """Row by row, so that nothing cancels across rows."""
        return self._sum(self.row_bregman(new, z))

    def conjugate(self, theta: PyTree) -> Scalar:
        """Σ w_i φ_i*(θ_i/w_i)."""
        if self.weights is None:
            return jnp.sum(self.row_conjugate(theta))
        w = self._weights(theta)
        rows = self.row_conjugate(theta / jnp.where(w > 0, w, 1))
        flat = w if w.ndim == 1 else w[:, 0]
        empty = theta if theta.ndim == 1 else jnp.max(jnp.abs(theta), 1)
        return jnp.sum(jnp.where(flat > 0, flat * rows, jnp.where(empty == 0, 0.0, jnp.inf)))

    def lipschitz(self) -> Scalar | None:
        """sup φ''·‖√W X‖₂²."""
        if self.given is not None:
            return jnp.asarray(self.given).astype(operator.dtype(self.A))
        constant, a = self.row_lipschitz(), self.A
        if constant is None:
            return None
        if self.weights is not None and isinstance(a, lx.MatrixLinearOperator):
            m = jnp.asarray(a.matrix)
            a = lx.MatrixLinearOperator(m * jnp.sqrt(jnp.asarray(self.weights).astype(m.dtype))[:, None])
        squared = _squared_norm(a)
        return None if squared is None else constant * squared

    def scale(self) -> Scalar:
        """f(0)."""
        return self.loss(jnp.zeros(self._shape(self.A.out_size()), operator.dtype(self.A)))

    def start(self) -> PyTree:
        """Zeros."""
        return jnp.zeros(self._shape(self.A.in_size()), operator.dtype(self.A))

    def _shape(self, length: int) -> tuple[int, ...]:
        return (length,)

    def _weights(self, z: Array) -> Array:
        w = jnp.asarray(self.weights).astype(z.dtype)
        return w if z.ndim == 1 else jnp.broadcast_to(w[:, None], z.shape)

    def _sum(self, rows: Float[Array, " n"]) -> Scalar:
        return jnp.sum(rows) if self.weights is None else jnp.sum(self._weights(rows) * rows)


def data(X: Any, y: Any, weights: Any, lipschitz: Any) -> tuple[lx.AbstractLinearOperator, Any, Any, Any]:
    """The four fields, checked: the operator, targets and weights in its precision, and the Lipschitz constant."""
    A = _held(X)
    y = precision.follows_input(validation.vector)("y", y)
    if y.shape[0] != A.out_size():
        raise InputError(f"y: found {y.shape[0]} entries, expected {A.out_size()} as X has rows")
    at_least_zero("lipschitz", lipschitz, positive=True)
    if weights is not None:
        weights = precision.follows_input(validation.vector)("weights", weights)
        at_least_zero("weights", weights)
        if weights.shape[0] != A.out_size():
            raise InputError(f"weights: found {weights.shape[0]} entries, expected {A.out_size()} as X has rows")
        weights = weights.astype(operator.dtype(A))
    return A, y.astype(operator.dtype(A)), weights, lipschitz


def signs(y: Any) -> Any:
    """Labels 0 and 1, or −1 and 1, as signs."""
    found = set() if isinstance(y, Tracer) else set(np.unique(y))
    if not (found <= {0.0, 1.0} or found <= {-1.0, 1.0}):
        raise InputError(f"y: found values {np.unique(y)[:5]}, expected 0 and 1, or -1 and 1")
    array = jnp if not isinstance(y, np.ndarray) else np
    return array.where(y > 0, 1.0, -1.0).astype(y.dtype)
