"""Gradients by finite differences, so that every gradient solver of the room runs on a black box.

`FiniteDifference` is a smooth term whose gradient is a forward or central difference with the step that balances
truncation against rounding (or against the noise of f, where that is known): a `Composite` of it goes to any solver of
`minimize`. `difference_gradient` wraps a function so that `jax.grad` of it is that difference. Cost: d + 1 (forward) or
2d (central) evaluations a gradient. A gradient is then right to about √u or u^(2/3) of f's size over x's, so a
tolerance below that cannot be met, and the run says so. Source: Nocedal & Wright (2006), section 8.1; Moré & Wild
(2012).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.finite_differences import finite_difference
from corollary.optim._smooth import SmoothTerm
from corollary.optim._tree import at_least_zero, dtype, norm, spread
from corollary.optim.penalties._base import Scalar

Function = Callable[[Any], Any]


def difference_gradient(
    f: Function, *, scheme: str = "central", scale: Any = 1.0, noise: float | None = None
) -> Function:
    """f with a derivative by finite differences: `jax.grad` and `jax.value_and_grad` of it need values of f only.

    Parameters
    ----------
    f
        Scalar function of an array or pytree; one that is no JAX code goes through `jax.pure_callback`.
    scheme
        ``"central"`` (2d evaluations) or ``"forward"`` (d + 1).
    scale
        Typical size of the variables (a number, or a pytree like x): steps are relative to max(|x_i|, scale).
    noise
        Standard deviation of f's own noise relative to f's change over `scale`; the rounding of f if left out. The step
        is then noise^(1/3) (central) or noise^(1/2).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> f = difference_gradient(lambda x: (x**2).sum(), scheme="central")
    >>> [round(float(g), 2) for g in jax.grad(f)(jnp.asarray([1.0, -2.0]))]
    [2.0, -4.0]
    """
    validation.one_of("forward", "central")("scheme", scheme)
    at_least_zero("scale", scale, positive=True)
    validation.number(0.0, 1.0, open_low=True, none=True)("noise", noise)
    step = None if noise is None else float(noise) ** (1 / 3 if scheme == "central" else 1 / 2)

    @jax.custom_jvp
    def wrapped(x):
        return f(x)

    @wrapped.defjvp
    def _(primals, tangents):
        (x,), (v,) = primals, tangents
        return f(x), optax.tree.vdot(_gradient(f, x, scheme, scale, step), v)

    return wrapped


def _gradient(f: Function, x: PyTree, scheme: str, scale: Any, step: float | None) -> PyTree:
    sizes = spread(scale, x)
    u = jax.tree.map(jnp.divide, x, sizes)
    found = finite_difference(lambda u: f(jax.tree.map(jnp.multiply, u, sizes)), u, scheme=scheme, step=step)
    return jax.tree.map(jnp.divide, found.gradient, sizes)


@final
class FiniteDifference(SmoothTerm):
    """A black-box function as a smooth term, its gradient by finite differences.

    Parameters
    ----------
    function, scheme, scale, noise
        As in `difference_gradient`.
    lipschitz
        A Lipschitz constant of the gradient, if one is known.

    Examples
    --------
    >>> from corollary.optim import Composite, minimize
    >>> problem = Composite(FiniteDifference(lambda x: ((x - 1) ** 2).sum()))
    >>> minimize(problem, [3.0, -2.0], tol=1e-6).value.round(5).tolist()
    [1.0, 1.0]
    """

    function: Callable[[Any], Any]
    scheme: str = eqx.field(static=True)
    scale_of_x: Any
    noise: float | None = eqx.field(static=True)
    given: Any

    def __init__(
        self,
        function: Any,
        *,
        scheme: str = "central",
        scale: Any = 1.0,
        noise: float | None = None,
        lipschitz: Any = None,
    ):
        if not callable(function):
            raise InputError(f"function: found {type(function).__name__}, expected a function")
        difference_gradient(function, scheme=scheme, scale=scale, noise=noise)  # refuses bad settings
        at_least_zero("lipschitz", lipschitz, positive=True)
        self.function, self.scheme, self.scale_of_x = function, scheme, scale
        self.noise, self.given = noise, lipschitz

    def forward(self, x: PyTree) -> PyTree:
        """x itself."""
        return x

    def adjoint(self, theta: PyTree) -> PyTree:
        """θ itself."""
        return theta

    def loss(self, z: PyTree) -> Scalar:
        """The function's value (differentiable by differences)."""
        return self._wrapped()(z)

    def dual(self, z: PyTree) -> PyTree:
        """The difference gradient."""
        step = None if self.noise is None else self.noise ** (1 / 3 if self.scheme == "central" else 1 / 2)
        return _gradient(self.function, z, self.scheme, self.scale_of_x, step)

    def bregman(self, new: PyTree, z: PyTree) -> Scalar:
        """By its definition, with the difference gradient."""
        return self.function(new) - self.function(z) - optax.tree.vdot(self.dual(z), optax.tree.sub(new, z))

    def hessian_product(self, x: PyTree, v: PyTree) -> PyTree:
        """(∇f(x + hv) − ∇f(x − hv))/2h of difference gradients, with the step u^(1/5) in units of the scale."""
        sizes = spread(self.scale_of_x, x)
        length = norm(jax.tree.map(jnp.divide, v, sizes))
        size = jnp.maximum(1, norm(jax.tree.map(jnp.divide, x, sizes)))
        h = float(jnp.finfo(dtype(x)).eps) ** 0.2 * size / jnp.where(length > 0, length, 1)
        up, down = (self.dual(optax.tree.add_scale(x, s * h, v)) for s in (1, -1))
        return jax.tree.map(lambda a, b: (a - b) / (2 * h), up, down)

    def curvature(self, x: PyTree) -> Scalar:
        """‖∇²f(x) g‖/‖g‖ along the gradient, from values alone (a lower bound of L)."""
        g = self.dual(x)
        size = norm(g)
        direction = jax.tree.map(lambda g: jnp.where(size > 0, g / jnp.where(size > 0, size, 1), jnp.ones_like(g)), g)
        guess = norm(self.hessian_product(x, direction))
        flat = size / jnp.where(norm(x) > 0, norm(x), 1)
        guess = jnp.where((guess > 0) & jnp.isfinite(guess), guess, flat)
        return jnp.where((guess > 0) & jnp.isfinite(guess), guess, 1.0)

    def lipschitz(self) -> Scalar | None:
        """As given."""
        return None if self.given is None else jnp.asarray(self.given)

    def _wrapped(self) -> Function:
        return difference_gradient(self.function, scheme=self.scheme, scale=self.scale_of_x, noise=self.noise)
