"""Gradient descent on a manifold: the sphere, the Stiefel manifold of orthonormal columns, the rotations SO(n).

The gradient is projected on the tangent space, the step taken along it and retracted: x⁺ = R_x(−t P_x∇f(x)), with the
exponential map on the sphere and SO(n), a QR factorisation on the Stiefel manifold. t starts from Barzilai and
Borwein's guess and is shortened till Armijo's condition holds. Iterates stay on the manifold to rounding; convergence
to a stationary point is global, the rate linear near a strict minimiser. Cost: a gradient and a few values; O(n p²)
on the Stiefel manifold, O(n³) on SO(n). Source: Absil, Mahony & Sepulchre, "Optimization Algorithms on Matrix
Manifolds" (2008), algorithm 1, theorem 4.3.1, examples 3.6.1, 4.1.2; Boumal, "An Introduction to Optimization on
Smooth Manifolds" (2023), section 4.3.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.optim._composite import Composite, smooth_only
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import norm
from corollary.optim.penalties._base import Scalar

SUFFICIENT, SHRINK, TRIALS = 1e-4, 0.5, 50
ABSIL = "Absil, Mahony & Sepulchre (2008)"


class Manifold(eqx.Module):
    """A set of arrays with orthogonal projections on its tangent spaces, and a retraction."""

    @abstractmethod
    def check(self, x: Array) -> None:
        """Refuse arrays of a shape that has no place here."""

    @abstractmethod
    def nearest(self, x: Array) -> Array:
        """The nearest point of the manifold."""

    @abstractmethod
    def tangent(self, x: Array, v: Array) -> Array:
        """The orthogonal projection of v on the tangent space at x."""

    @abstractmethod
    def retract(self, x: Array, v: Array) -> Array:
        """A point of the manifold that agrees with x + v to first order, for a tangent v."""

    @abstractmethod
    def defect(self, x: Array) -> Scalar:
        """How far x is from the manifold."""


@final
class Sphere(Manifold):
    """‖x‖ = 1, arrays of any shape; the retraction is the exponential map.

    Examples
    --------
    >>> [round(float(entry), 4) for entry in Sphere().nearest(jnp.array([3.0, 4.0]))]
    [0.6, 0.8]
    """

    def check(self, x: Array) -> None:
        """Any array."""

    def nearest(self, x: Array) -> Array:
        """x/‖x‖; of the origin, which is as near to all, (1, ..., 1)/√n."""
        size = norm(x)
        return jnp.where(size > 0, x / jnp.where(size > 0, size, 1), jnp.full_like(x, x.size**-0.5))

    def tangent(self, x: Array, v: Array) -> Array:
        """v − x⟨x, v⟩."""
        return v - x * jnp.sum(x * v)

    def retract(self, x: Array, v: Array) -> Array:
        """cos‖v‖ x + sin‖v‖ v/‖v‖, normalised against drift."""
        angle = norm(v)
        return self.nearest(jnp.cos(angle) * x + jnp.sin(angle) * v / jnp.where(angle > 0, angle, 1))

    def defect(self, x: Array) -> Scalar:
        """|‖x‖ − 1|."""
        return jnp.abs(norm(x) - 1)


@final
class Stiefel(Manifold):
    """n × p matrices with orthonormal columns, XᵀX = I; the retraction is the Q factor (R with a positive diagonal).

    Examples
    --------
    >>> x = Stiefel().nearest(jnp.array([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]]))
    >>> float(Stiefel().defect(x)) < 1e-6
    True
    """

    def check(self, x: Array) -> None:
        """A tall matrix."""
        if x.ndim != 2 or x.shape[0] < x.shape[1]:
            raise InputError(f"x0: found shape {x.shape}, expected a matrix with at least as many rows as columns")

    def nearest(self, x: Array) -> Array:
        """The polar factor."""
        u, _, vh = jnp.linalg.svd(x, full_matrices=False)
        return u @ vh

    def tangent(self, x: Array, v: Array) -> Array:
        """v − x sym(xᵀv)."""
        inner = x.T @ v
        return v - x @ ((inner + inner.T) / 2)

    def retract(self, x: Array, v: Array) -> Array:
        """qf(x + v)."""
        q, r = jnp.linalg.qr(x + v)
        return q * jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(x.dtype)

    def defect(self, x: Array) -> Scalar:
        """‖XᵀX − I‖."""
        return norm(x.T @ x - jnp.eye(x.shape[1], dtype=x.dtype))


@final
class SpecialOrthogonal(Manifold):
    """Rotations, n × n matrices with XᵀX = I and determinant 1; the retraction is the exponential map.

    Examples
    --------
    >>> x = SpecialOrthogonal().nearest(jnp.array([[0.0, 2.0], [1.0, 0.0]]))
    >>> round(float(jnp.linalg.det(x)), 4)
    1.0
    """

    def check(self, x: Array) -> None:
        """A square matrix."""
        if x.ndim != 2 or x.shape[0] != x.shape[1]:
            raise InputError(f"x0: found shape {x.shape}, expected a square matrix")

    def nearest(self, x: Array) -> Array:
        """The polar factor, the last singular direction turned where the determinant would be −1."""
        u, _, vh = jnp.linalg.svd(x)
        sign = jnp.where(jnp.linalg.det(u @ vh) < 0, -1, 1).astype(x.dtype)
        return u.at[:, -1].multiply(sign) @ vh

    def tangent(self, x: Array, v: Array) -> Array:
        """x skew(xᵀv)."""
        inner = x.T @ v
        return x @ ((inner - inner.T) / 2)

    def retract(self, x: Array, v: Array) -> Array:
        """x exp(xᵀv), with one Newton-Schulz step against drift."""
        inner = x.T @ v
        y = x @ jax.scipy.linalg.expm((inner - inner.T) / 2)
        return y @ (3 * jnp.eye(x.shape[0], dtype=x.dtype) - y.T @ y) / 2

    def defect(self, x: Array) -> Scalar:
        """‖XᵀX − I‖, or 2 where the determinant is negative."""
        gap = norm(x.T @ x - jnp.eye(x.shape[1], dtype=x.dtype))
        return jnp.where(jnp.linalg.det(x) > 0, gap, 2.0)


class RiemannianState(eqx.Module):
    """Iterate, value, Euclidean and Riemannian gradient, and the next step length to try."""

    x: Array
    value: Scalar
    gradient: Array
    slope: Array
    step: Scalar


@final
class RiemannianGradient(Solver):
    """Riemannian gradient descent, for `minimize` on a smooth problem over a manifold of arrays.

    Use it for eigenvectors, orthonormal factors, rotations. The start is moved to the nearest point of the manifold.
    Cost: a gradient, one or a few values, a retraction each. No problem without a manifold: take a gradient method.

    Parameters
    ----------
    manifold
        `Sphere`, `Stiefel` or `SpecialOrthogonal`.

    Raises
    ------
    InputError
        For something that is no manifold; for a start of a shape that does not fit.

    Notes
    -----
    Certificates, besides the driver's ``stationarity`` of the Riemannian gradient: ``on_manifold`` (exact).

    Examples
    --------
    >>> from corollary.optim import minimize
    >>> A = jnp.diag(jnp.array([3.0, 2.0, 1.0]))
    >>> top = minimize(lambda x: -x @ A @ x, jnp.ones(3), RiemannianGradient(Sphere()), tol=1e-4)
    >>> jnp.abs(top.value).round(3).tolist(), bool(top.holds)
    ([1.0, 0.0, 0.0], True)
    """

    manifold: Any

    def __check_init__(self):
        """Refuse what is no manifold."""
        if not isinstance(self.manifold, Manifold):
            raise InputError(f"manifold: found {type(self.manifold).__name__}, expected Sphere(), Stiefel(), ...")

    def check(self, problem: Problem) -> None:
        """A smooth problem: the manifold is the constraint."""
        smooth_only(problem)

    def init(self, problem: Composite, x0: Any) -> RiemannianState:
        """The state at the nearest point of the manifold."""
        if not isinstance(x0, jax.Array):
            raise InputError(f"x0: found {type(x0).__name__}, expected one array")
        self.manifold.check(x0)
        x = self.manifold.nearest(x0)
        value, gradient = problem.smooth.value_and_gradient(x)
        slope = self.manifold.tangent(x, gradient)
        # The first trial turns x by a tenth of its length: free of the objective's scale.
        size = norm(slope)
        return RiemannianState(x, value, gradient, slope, 0.1 * norm(x) / jnp.where(size > 0, size, 1))

    def step(self, problem: Composite, state: RiemannianState) -> tuple[RiemannianState, Info]:
        """x⁺ = R_x(−t grad f(x))."""
        x, slope, size = state.x, state.slope, norm(state.slope)
        noise = rounding(state.value, 2.0)

        def attempt(t: Scalar) -> tuple[Array, Scalar]:
            y = self.manifold.retract(x, -t * slope)
            return y, problem.smooth.value(y)

        def enough(t: Scalar, value: Scalar) -> Any:
            return value <= state.value - SUFFICIENT * (t * size) * size + noise

        def shorten(trial):
            t = SHRINK * trial[0]
            return t, *attempt(t), trial[3] + 1

        first = (state.step, *attempt(state.step), jnp.int32(0))
        t, y, value, _ = jax.lax.while_loop(
            lambda trial: ~enough(trial[0], trial[2]) & (trial[3] < TRIALS), shorten, first
        )
        taken = enough(t, value)
        y, value = jnp.where(taken, y, x), jnp.where(taken, value, state.value)
        _, gradient = problem.smooth.value_and_gradient(y)
        new = self.manifold.tangent(y, gradient)
        # Barzilai-Borwein, with the old gradient carried over by projection.
        moved, bent = self.manifold.tangent(y, y - x), new - self.manifold.tangent(y, slope)
        curved, along = jnp.sum(moved * bent), jnp.sum(moved * moved)
        guess = jnp.where(curved > 0, along / jnp.where(curved > 0, curved, 1), 4 * t)
        longest = np.pi / 2 * norm(y) / jnp.where(norm(new) > 0, norm(new), 1)
        guess = jnp.clip(guess, 1e-3 * t, jnp.minimum(1e3 * t, longest))
        info = Info(
            objective=value,
            residual=norm(new),
            gradient_scale=jnp.maximum(norm(state.gradient), norm(gradient)),
            floor=rounding(norm(gradient) * norm(y)),
            step=t,
            merit=value,  # the start need not lie on the manifold
            stuck=~taken,
            extra={"defect": self.manifold.defect(y)},
        )
        return RiemannianState(y, value, gradient, new, jnp.where(taken, guess, t)), info

    def certify(self, problem: Composite, state: RiemannianState) -> dict[str, Certificate]:
        """That the iterate lies on the manifold."""
        n = state.x.size**0.5
        bound = rounding(jnp.ones_like(state.value), 16.0 * n)
        claim = "distance from the manifold at rounding level"
        return {"on_manifold": Certificate(claim, self.manifold.defect(state.x), bound, "exact", "computed")}

    def source(self) -> str:
        """Global convergence to stationary points."""
        return f"{ABSIL}, theorem 4.3.1"
