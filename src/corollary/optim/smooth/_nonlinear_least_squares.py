"""Nonlinear least squares, f(x) = ½‖r(x)‖², as a smooth term: every solver of the room takes it.

Gauss-Newton methods use only the Jacobian of r, JᵀJ in place of the Hessian: right where residuals are small or r is
nearly linear. Cost: that of r, and of one product with Jᵀ for the gradient Jᵀr.
Source: Nocedal & Wright (2006), section 10.2.
"""

from __future__ import annotations

from typing import Any, final

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from corollary.core.errors import InputError
from corollary.optim._smooth import SmoothTerm
from corollary.optim.penalties._base import Scalar


@final
class NonlinearLeastSquares(SmoothTerm):
    """f(x) = ½‖r(x)‖².

    Parameters
    ----------
    residual
        r: an array or pytree to an array or pytree of residuals.

    Examples
    --------
    >>> from corollary.optim import LevenbergMarquardt, minimize
    >>> f = NonlinearLeastSquares(lambda x: jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]]))
    >>> minimize(f, [-1.2, 1.0], LevenbergMarquardt(), tol=1e-8).value.round(5).tolist()
    [1.0, 1.0]
    """

    residual: Any

    def __check_init__(self):
        """Refuse what cannot be called."""
        if not callable(self.residual):
            raise InputError(f"residual: found {type(self.residual).__name__}, expected a function of x")

    def __call__(self, x: Any) -> Any:
        """f(x)."""
        return self.loss(x)

    def forward(self, x: PyTree) -> PyTree:
        """x itself: r is not a linear image."""
        return x

    def adjoint(self, theta: PyTree) -> PyTree:
        """θ itself."""
        return theta

    def loss(self, z: PyTree) -> Scalar:
        """½‖r(z)‖²."""
        return jnp.sum(jnp.square(ravel_pytree(self.residual(z))[0])) / 2

    def dual(self, z: PyTree) -> PyTree:
        """J(z)ᵀ r(z)."""
        return self.value_and_gradient(z)[1]

    def value_and_gradient(self, x: PyTree) -> tuple[Scalar, PyTree]:
        """Both from one pass forward and one back."""
        return jax.value_and_grad(self.loss)(x)

    def bregman(self, new: PyTree, z: PyTree) -> Scalar:
        """By its definition."""
        value, gradient = self.value_and_gradient(z)
        return self.loss(new) - value - optax.tree.vdot(gradient, optax.tree.sub(new, z))
