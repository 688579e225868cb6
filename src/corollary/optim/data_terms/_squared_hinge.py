"""The squared hinge loss: a support vector machine's margin, once differentiable. Cost as least squares.

Source: Chang, Hsieh & Lin, "Coordinate descent method for large-scale L2-loss linear SVM" (2008), equation (2).
"""

from __future__ import annotations

from typing import Any, final

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from corollary.optim.data_terms._rows import Rows, data, signs


@final
class SquaredHinge(Rows):
    """f(x) = ½ Σ_i w_i max(0, 1 − s_i⟨X_i, x⟩)² with s_i = ±1.

    Parameters
    ----------
    X
        Matrix (n, p), `scipy.sparse` matrix or operator.
    y
        Labels (n,), 0 and 1 or −1 and 1.
    weights
        Sample weights (n,) ≥ 0.
    lipschitz
        ‖√W X‖₂² or an upper bound; computed where min(n, p) ≤ 512 if left out.

    Examples
    --------
    >>> float(SquaredHinge([[1.0], [-1.0]], [1, 0]).value(jnp.zeros(1)))
    1.0
    """

    A: lx.AbstractLinearOperator
    y: Any
    weights: Any
    given: Any

    def __init__(self, X: Any, y: Any, weights: Any = None, lipschitz: Any = None):
        self.A, y, self.weights, self.given = data(X, y, weights, lipschitz)
        self.y = signs(y)

    def row_loss(self, z: Array) -> Float[Array, " n"]:
        """½ max(0, 1 − s z)²."""
        return jnp.square(jnp.maximum(1 - self.y * z, 0)) / 2

    def row_slope(self, z: Array) -> Array:
        """−s max(0, 1 − s z)."""
        return -self.y * jnp.maximum(1 - self.y * z, 0)

    def row_conjugate(self, theta: Array) -> Float[Array, " n"]:
        """q²/2 − q for q = −s θ ≥ 0."""
        q = -self.y * theta
        return jnp.where(q >= 0, q**2 / 2 - q, jnp.inf)

    def row_lipschitz(self) -> float:
        """1."""
        return 1.0
