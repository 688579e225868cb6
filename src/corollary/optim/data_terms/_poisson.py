"""Poisson regression with the logarithmic link. The gradient has no global Lipschitz constant: steps are searched for.

Cost: one product with X for f, one with Xᵀ for ∇f. Source: McCullagh & Nelder, "Generalized linear models" (1989),
section 6.2 (half the deviance).
"""

from __future__ import annotations

from typing import Any, final

import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

from corollary.core.errors import InputError
from corollary.optim.data_terms._rows import Rows, data


@final
class Poisson(Rows):
    """f(x) = Σ_i w_i (e^{z_i} − y_i z_i + y_i log y_i − y_i), z = X x: half the deviance, ≥ 0.

    Parameters
    ----------
    X
        Matrix (n, p), `scipy.sparse` matrix or operator.
    y
        Counts (n,) ≥ 0; they need not be whole.
    weights
        Sample weights (n,) ≥ 0 (exposures).
    lipschitz
        A Lipschitz constant of ∇f on the region of interest, if one is known.

    Examples
    --------
    >>> float(Poisson([[1.0], [1.0]], [1.0, 0.0]).value(jnp.zeros(1)))
    1.0
    """

    A: lx.AbstractLinearOperator
    y: Any
    weights: Any
    given: Any

    def __init__(self, X: Any, y: Any, weights: Any = None, lipschitz: Any = None):
        self.A, self.y, self.weights, self.given = data(X, y, weights, lipschitz)
        if not isinstance(self.y, Tracer) and np.any(np.asarray(self.y) < 0):
            raise InputError(f"y: found {float(np.min(self.y)):g}, expected counts >= 0")

    def row_loss(self, z: Array) -> Float[Array, " n"]:
        """e^z − y z + y log y − y."""
        return jnp.exp(z) - self.y * z + self._constant()

    def row_slope(self, z: Array) -> Array:
        """e^z − y."""
        return jnp.exp(z) - self.y

    def row_bregman(self, new: Array, z: Array) -> Float[Array, " n"]:
        """e^z (e^d − 1 − d), d = new − z."""
        d = new - z
        return jnp.exp(z) * jnp.maximum(jnp.expm1(d) - d, 0)

    def row_conjugate(self, theta: Array) -> Float[Array, " n"]:
        """t log t − t − y log y + y for t = θ + y ≥ 0."""
        t = theta + self.y
        kept = jnp.maximum(t, 0)
        slack = -4 * jnp.finfo(theta.dtype).eps * (jnp.abs(theta) + self.y)
        return jnp.where(t >= slack, xlogy(kept, kept) - kept - self._constant(), jnp.inf)

    def row_lipschitz(self) -> None:
        """There is none."""
        return

    def _constant(self) -> Float[Array, " n"]:
        y = jnp.asarray(self.y)
        return xlogy(y, y) - y
