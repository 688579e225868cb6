"""Multinomial (softmax) regression: K classes, a matrix of coefficients. Cost: one product with X for K columns.

Source: Böhning, "Multinomial logistic regression algorithm" (1992), for the Lipschitz constant ‖X‖²/2.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

from corollary.core import operator, precision, validation
from corollary.core.errors import InputError
from corollary.optim.data_terms._rows import Rows, data


@final
class Multinomial(Rows):
    """f(W) = Σ_i w_i (log Σ_k e^{z_ik} − Σ_k y_ik z_ik), Z = X W of shape (n, K).

    Parameters
    ----------
    X
        Matrix (n, p), `scipy.sparse` matrix or operator.
    y
        Classes 0, ..., K − 1, (n,); or a row of probabilities per sample, (n, K), brought to the sum 1.
    n_classes
        K; the largest class plus one if left out.
    weights
        Sample weights (n,) ≥ 0.
    lipschitz
        ‖√W X‖₂²/2 or an upper bound; computed where min(n, p) ≤ 512 if left out.

    Raises
    ------
    InputError
        For classes that are not 0, ..., K − 1, rows that are not probabilities.

    Examples
    --------
    >>> f = Multinomial([[1.0], [-1.0], [0.5]], [0, 1, 2])
    >>> bool(jnp.isclose(f.value(jnp.zeros((1, 3))), 3 * jnp.log(3.0)))
    True
    """

    A: lx.AbstractLinearOperator
    y: Any
    weights: Any
    given: Any
    n_classes: int = eqx.field(static=True)

    def __init__(self, X: Any, y: Any, n_classes: int | None = None, weights: Any = None, lipschitz: Any = None):
        y = precision.follows_input(validation.vector_or_matrix)("y", y)
        self.A, _, self.weights, self.given = data(X, y if y.ndim == 1 else y[:, 0], weights, lipschitz)
        if y.ndim == 1:
            validation.integer(1, none=True)("n_classes", n_classes)
            if isinstance(y, Tracer):
                if n_classes is None:
                    raise InputError("n_classes: found None, expected the number of classes (y is traced)")
            else:
                labels = np.asarray(y)
                n_classes = int(labels.max()) + 1 if n_classes is None else n_classes
                if np.any(labels != np.round(labels)) or labels.min() < 0 or labels.max() >= n_classes:
                    raise InputError(f"y: found values {np.unique(labels)[:5]}, expected classes 0 to {n_classes - 1}")
            array = jnp if isinstance(y, jax.Array) else np
            y = array.eye(n_classes, dtype=operator.dtype(self.A))[array.asarray(y).astype(np.int32)]
        elif not isinstance(y, Tracer):
            rows = np.asarray(y)
            if rows.min() < 0 or np.any(np.abs(rows.sum(1) - 1) > 1e-4):
                raise InputError("y: found rows that are not probabilities, expected entries >= 0 with sum 1")
            array = jnp if isinstance(y, jax.Array) else np
            wide = y.astype(np.result_type(y.dtype, operator.dtype(self.A)))
            y = wide / array.sum(wide, 1, keepdims=True)  # to the last bit: the conjugate's domain has no more room
        self.y, self.n_classes = y.astype(operator.dtype(self.A)), y.shape[1]

    def row_loss(self, z: Array) -> Float[Array, " n"]:
        """log Σ e^z − ⟨y, z⟩, stable for any z."""
        return jax.nn.logsumexp(z, 1) - jnp.sum(self.y * z, 1)

    def row_slope(self, z: Array) -> Array:
        """softmax(z) − y."""
        return jax.nn.softmax(z, 1) - self.y

    def row_conjugate(self, theta: Array) -> Float[Array, " n"]:
        """Σ_k q_k log q_k for q = θ + y in the simplex."""
        q = theta + self.y
        slack = 8 * self.n_classes * jnp.finfo(theta.dtype).eps
        inside = (jnp.min(q, 1) >= -slack) & (jnp.abs(jnp.sum(theta, 1)) <= slack)
        q = jnp.maximum(q, 0)
        return jnp.where(inside, jnp.sum(xlogy(q, q), 1), jnp.inf)

    def row_lipschitz(self) -> float:
        """½, the largest eigenvalue of diag(q) − qqᵀ."""
        return 0.5

    def _shape(self, length: int) -> tuple[int, ...]:
        return (length, self.n_classes)
