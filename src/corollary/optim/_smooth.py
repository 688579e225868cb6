"""Smooth terms f(x) = ℓ(A x): least squares, logistic loss, or any differentiable function (then A is the identity).

Split this way, a solver extrapolates A x as it extrapolates x, so that an accelerated step costs one product with A and
one with Aᵀ; and the dual point θ = ∇ℓ(A x) that a duality gap needs is a by-product of the gradient Aᵀθ.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
from jax.core import Tracer
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, PyTree

from corollary.core import operator, precision, validation
from corollary.core.errors import InputError
from corollary.optim._tree import at_least_zero, floats, norm
from corollary.optim.penalties._base import Scalar

SMALL_SIDE = 512  # up to here ‖A‖₂ is computed exactly, at the price of a few dozen products with A


class SmoothTerm(eqx.Module):
    """A differentiable term f(x) = ℓ(A x), given by its parts."""

    @abstractmethod
    def forward(self, x: PyTree) -> PyTree:
        """z = A x."""

    @abstractmethod
    def adjoint(self, theta: PyTree) -> PyTree:
        """Aᵀθ; the gradient of f is ``adjoint(dual(forward(x)))``."""

    @abstractmethod
    def loss(self, z: PyTree) -> Scalar:
        """ℓ(z)."""

    @abstractmethod
    def dual(self, z: PyTree) -> PyTree:
        """θ = ∇ℓ(z)."""

    @abstractmethod
    def bregman(self, new: PyTree, z: PyTree) -> Scalar:
        """ℓ(new) − ℓ(z) − ⟨∇ℓ(z), new − z⟩, the error of the linear model that a step length must cover."""

    def value(self, x: PyTree) -> Scalar:
        """f(x)."""
        return self.loss(self.forward(x))

    def gradient(self, x: PyTree) -> PyTree:
        """∇f(x)."""
        return self.adjoint(self.dual(self.forward(x)))

    def value_and_gradient(self, x: PyTree) -> tuple[Scalar, PyTree]:
        """f(x) and ∇f(x), from one product with A and one with Aᵀ."""
        z = self.forward(x)
        return self.loss(z), self.adjoint(self.dual(z))

    def hessian_product(self, x: PyTree, v: PyTree) -> PyTree:
        """∇²f(x) v, without the Hessian."""
        return self.adjoint(jax.jvp(self.dual, (self.forward(x),), (self.forward(v),))[1])

    def conjugate(self, theta: PyTree) -> Scalar | None:
        """ℓ*(θ), or None where no closed form is at hand."""
        return None

    def lipschitz(self) -> Scalar | None:
        """A Lipschitz constant of ∇f, or None where it has to be searched for."""
        return None

    def scale(self) -> Scalar | None:
        """The natural size of the objective, f(0), which tolerances refer to; None where there is none."""
        return None

    def start(self) -> PyTree | None:
        """The origin of the space of x, where its shape is known."""
        return None

    def curvature(self, x: PyTree) -> Scalar:
        """A first guess of the Lipschitz constant: four power iterations with the Hessian at x (a lower bound)."""
        z = self.forward(x)

        def hessian(v):
            return self.adjoint(jax.jvp(self.dual, (z,), (self.forward(v),))[1])

        def turn(_, v_and_guess):
            v, _ = v_and_guess
            size = norm(v)
            Hv = hessian(optax.tree.scale(1 / jnp.where(size > 0, size, 1), v))
            return Hv, norm(Hv)

        gradient = self.adjoint(self.dual(z))
        start = jax.tree.map(lambda g: jnp.where(norm(gradient) > 0, g, jnp.ones_like(g)), gradient)
        _, guess = jax.lax.fori_loop(0, 4, turn, (start, norm(gradient)))
        # A function without curvature: any step will do; one that moves x by its own length keeps the scale.
        flat = norm(gradient) / jnp.where(norm(x) > 0, norm(x), 1)
        guess = jnp.where((guess > 0) & jnp.isfinite(guess), guess, flat)
        return jnp.where((guess > 0) & jnp.isfinite(guess), guess, 1.0)


@final
class LeastSquares(SmoothTerm):
    """f(x) = ½‖A x − b‖².

    Parameters
    ----------
    A
        Matrix (n, p), `scipy.sparse` matrix or operator. NumPy data keep their precision.
    b
        Right-hand side (n,), or (n, k) for k problems at once (x is then (p, k)).
    lipschitz
        ‖A‖₂² or an upper bound. Left out, it is computed where min(n, p) ≤ 512; beyond, the solver searches.

    Raises
    ------
    InputError
        For data that are not finite or do not fit.

    Examples
    --------
    >>> f = LeastSquares([[1.0, 0.0], [0.0, 2.0]], [1.0, 2.0])
    >>> f.b.tolist()
    [1.0, 2.0]
    """

    A: lx.AbstractLinearOperator
    b: Any
    given: Any

    def __init__(self, A: Any, b: Any, lipschitz: Any = None):
        self.A = _held(A)
        b = precision.follows_input(validation.vector_or_matrix)("b", b)
        if b.shape[0] != self.A.out_size():
            raise InputError(f"b: found {b.shape[0]} rows, expected {self.A.out_size()} as in A")
        at_least_zero("lipschitz", lipschitz, positive=True)
        self.b, self.given = b.astype(operator.dtype(self.A)), lipschitz

    def forward(self, x: PyTree) -> PyTree:
        """A x."""
        return _apply(self.A, x)

    def adjoint(self, theta: PyTree) -> PyTree:
        """Aᵀθ."""
        return _apply(self.A.T, theta)

    def loss(self, z: PyTree) -> Scalar:
        """½‖z − b‖²."""
        return jnp.sum(jnp.square(z - self.b)) / 2

    def dual(self, z: PyTree) -> PyTree:
        """The residual z − b."""
        return z - self.b

    def bregman(self, new: PyTree, z: PyTree) -> Scalar:
        """½‖new − z‖², free of cancellation."""
        return jnp.sum(jnp.square(new - z)) / 2

    def conjugate(self, theta: PyTree) -> Scalar:
        """½‖θ‖² + ⟨θ, b⟩."""
        return jnp.sum(jnp.square(theta)) / 2 + jnp.sum(theta * self.b)

    def lipschitz(self) -> Scalar | None:
        """‖A‖₂²."""
        return _squared_norm(self.A) if self.given is None else jnp.asarray(self.given).astype(self.b.dtype)

    def scale(self) -> Scalar:
        """½‖b‖²."""
        return jnp.sum(jnp.square(jnp.asarray(self.b))) / 2

    def start(self) -> PyTree:
        """Zeros."""
        return jnp.zeros((self.A.in_size(), *self.b.shape[1:]), self.b.dtype)


@final
class Logistic(SmoothTerm):
    """f(x) = Σ_i log(1 + exp(−s_i ⟨X_i, x⟩)) with s_i = ±1: the negative log-likelihood of logistic regression.

    Parameters
    ----------
    X
        Matrix (n, p), `scipy.sparse` matrix or operator.
    y
        Labels (n,), 0 and 1 or −1 and 1 (or booleans).
    lipschitz
        ‖X‖₂²/4 or an upper bound; computed where min(n, p) ≤ 512 if left out.

    Examples
    --------
    >>> f = Logistic([[1.0], [-1.0]], [1, 0])
    >>> f.sign.tolist()
    [1.0, -1.0]
    """

    A: lx.AbstractLinearOperator
    sign: Any
    given: Any

    def __init__(self, X: Any, y: Any, lipschitz: Any = None):
        self.A = _held(X)
        y = precision.follows_input(validation.vector)("y", y)
        if y.shape[0] != self.A.out_size():
            raise InputError(f"y: found {y.shape[0]} entries, expected {self.A.out_size()} as X has rows")
        if not isinstance(y, Tracer) and not set(np.unique(y)) <= {-1.0, 0.0, 1.0}:
            raise InputError(f"y: found values {np.unique(y)[:5]}, expected 0 and 1, or -1 and 1")
        at_least_zero("lipschitz", lipschitz, positive=True)
        array = jnp if isinstance(y, jax.Array) else np
        self.sign = array.where(y > 0, 1.0, -1.0).astype(operator.dtype(self.A))
        self.given = lipschitz

    def forward(self, x: PyTree) -> PyTree:
        """X x."""
        return _apply(self.A, x)

    def adjoint(self, theta: PyTree) -> PyTree:
        """Xᵀθ."""
        return _apply(self.A.T, theta)

    def loss(self, z: PyTree) -> Scalar:
        """Σ log(1 + exp(−s z)), stable for any z."""
        return jnp.sum(jax.nn.softplus(-self.sign * z))

    def dual(self, z: PyTree) -> PyTree:
        """−s·σ(−s z)."""
        return -self.sign * jax.nn.sigmoid(-self.sign * z)

    def bregman(self, new: PyTree, z: PyTree) -> Scalar:
        """Sum over the rows of a difference each, clipped at zero against rounding."""
        rows = jax.nn.softplus(-self.sign * new) - jax.nn.softplus(-self.sign * z) - self.dual(z) * (new - z)
        return jnp.sum(jnp.maximum(rows, 0))

    def conjugate(self, theta: PyTree) -> Scalar:
        """Σ q log q + (1 − q) log(1 − q) for q = −s θ in [0, 1]."""
        q = jnp.clip(-self.sign * theta, 0, 1)
        return jnp.sum(xlogy(q, q) + xlogy(1 - q, 1 - q))

    def lipschitz(self) -> Scalar | None:
        """‖X‖₂²/4."""
        if self.given is not None:
            return jnp.asarray(self.given).astype(self.sign.dtype)
        squared = _squared_norm(self.A)
        return None if squared is None else squared / 4

    def scale(self) -> Scalar:
        """n log 2."""
        return jnp.asarray(self.sign.shape[0] * np.log(2)).astype(self.sign.dtype)

    def start(self) -> PyTree:
        """Zeros."""
        return jnp.zeros((self.A.in_size(),), self.sign.dtype)


@final
class Differentiable(SmoothTerm):
    """Any differentiable function of an array or pytree.

    Parameters
    ----------
    function
        x to a scalar, made of JAX operations. A plain function is part of the structure (a new one compiles anew); for
        one that carries arrays pass a `jax.tree_util.Partial` or an `equinox.Module`.
    lipschitz
        A Lipschitz constant of the gradient, if one is known.

    Examples
    --------
    >>> f = Differentiable(lambda x: (x**2).sum(), lipschitz=2.0)
    >>> float(f.loss(jnp.ones(3)))
    3.0
    """

    function: Callable[[Any], Any]
    given: Any

    def __init__(self, function: Callable[[Any], Any], lipschitz: Any = None):
        at_least_zero("lipschitz", lipschitz, positive=True)
        self.function, self.given = function, lipschitz

    def forward(self, x: PyTree) -> PyTree:
        """x itself."""
        return x

    def adjoint(self, theta: PyTree) -> PyTree:
        """θ itself."""
        return theta

    def loss(self, z: PyTree) -> Scalar:
        """The function's value."""
        return self.function(z)

    def dual(self, z: PyTree) -> PyTree:
        """The gradient."""
        return jax.grad(self.function)(z)

    def bregman(self, new: PyTree, z: PyTree) -> Scalar:
        """By its definition; its rounding is allowed for in the step search."""
        value, gradient = jax.value_and_grad(self.function)(z)
        return self.function(new) - value - optax.tree.vdot(gradient, optax.tree.sub(new, z))

    def value_and_gradient(self, x: PyTree) -> tuple[Scalar, PyTree]:
        """Both from one pass forward and one back."""
        return jax.value_and_grad(self.function)(x)

    def lipschitz(self) -> Scalar | None:
        """As given."""
        return None if self.given is None else jnp.asarray(self.given)


def _held(a: Any) -> lx.AbstractLinearOperator:
    """An operator whose NumPy data stay NumPy, in their own precision, until they are computed with."""
    if isinstance(a, lx.AbstractLinearOperator):
        return a
    if not hasattr(a, "nnz") and not hasattr(a, "nse"):
        a = precision.follows_input(validation.matrix)("A", a)
    return precision.follows_input(operator.as_operator)(a)


def _apply(a: lx.AbstractLinearOperator, x: Array) -> Array:
    return a.mv(x) if x.ndim == 1 else operator.matmat(a, x)


def _squared_norm(a: lx.AbstractLinearOperator) -> Float[Array, ""] | None:
    """‖A‖₂² from the smaller Gram matrix, with its rounding added; None where that is too large."""
    if not isinstance(a, lx.MatrixLinearOperator) or min(operator.shape(a)) > SMALL_SIDE:
        return None
    m = jnp.asarray(floats(a.matrix))
    top = jnp.max(jnp.abs(m))
    top = jnp.where(top > 0, top, 1)
    m = m / top
    gram = m @ m.T if m.shape[0] <= m.shape[1] else m.T @ m
    squared = jnp.linalg.eigvalsh(gram)[-1] * (1 + 8 * max(m.shape) ** 0.5 * jnp.finfo(m.dtype).eps)
    return jnp.where(squared > 0, squared, 1) * top**2
