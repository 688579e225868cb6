"""The Huber loss: least squares that outliers do not move. Cost: one product with X for f, one with Xᵀ for ∇f.

Source: Huber, "Robust estimation of a location parameter" (1964), equation (3.1).
"""

from __future__ import annotations

from typing import Any, final

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from corollary.optim._tree import at_least_zero
from corollary.optim.data_terms._rows import Rows, data


@final
class Huber(Rows):
    """f(x) = Σ_i w_i φ(⟨X_i, x⟩ − y_i), φ(r) = r²/2 up to |r| = δ and δ|r| − δ²/2 beyond.

    Parameters
    ----------
    X
        Matrix (n, p), `scipy.sparse` matrix or operator.
    y
        Targets (n,).
    delta
        δ > 0, in the units of y.
    weights
        Sample weights (n,) ≥ 0.
    lipschitz
        ‖√W X‖₂² or an upper bound; computed where min(n, p) ≤ 512 if left out.

    Examples
    --------
    >>> f = Huber([[1.0], [1.0]], [0.0, 10.0], delta=1.0)
    >>> float(f.value(jnp.zeros(1)))
    9.5
    """

    A: lx.AbstractLinearOperator
    y: Any
    weights: Any
    given: Any
    delta: Any

    def __init__(self, X: Any, y: Any, delta: Any = 1.0, weights: Any = None, lipschitz: Any = None):
        at_least_zero("delta", delta, positive=True)
        self.A, self.y, self.weights, self.given = data(X, y, weights, lipschitz)
        self.delta = delta

    def row_loss(self, z: Array) -> Float[Array, " n"]:
        """r²/2, or δ|r| − δ²/2."""
        r = z - self.y
        inner = self._clip(r)
        return inner**2 / 2 + jnp.asarray(self.delta).astype(r.dtype) * jnp.abs(r - inner)

    def row_slope(self, z: Array) -> Array:
        """The residual, clipped to [−δ, δ]."""
        return self._clip(z - self.y)

    def row_conjugate(self, theta: Array) -> Float[Array, " n"]:
        """θ²/2 + θ y for |θ| ≤ δ."""
        delta = jnp.asarray(self.delta).astype(theta.dtype)
        inside = jnp.abs(theta) <= delta * (1 + 4 * jnp.finfo(theta.dtype).eps)
        return jnp.where(inside, theta**2 / 2 + theta * self.y, jnp.inf)

    def row_lipschitz(self) -> float:
        """1."""
        return 1.0

    def _clip(self, r: Array) -> Array:
        delta = jnp.asarray(self.delta).astype(r.dtype)
        return jnp.clip(r, -delta, delta)
