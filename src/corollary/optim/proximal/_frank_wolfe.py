"""Frank-Wolfe (conditional gradient): no projection, only linear minimisation over the set.

    s = argmin_{s ∈ C} ⟨∇f(x), s⟩,    x⁺ = x + γ(s − x).

Use it where a projection costs much and a linear minimiser little (nuclear norm ball), or where sparse combinations of
corners are wanted: after k steps x is a convex combination of at most k + 1 of them. The gap ⟨∇f(x), x − s⟩ bounds
F(x) − F* for convex f, at no extra cost. Cost: one product with A, one with Aᵀ, one linear minimisation a step; it is
sublinear, F(x_k) − F* ≤ 2 C/(k + 2) with C ≤ L·diameter².
Source: Jaggi, "Revisiting Frank-Wolfe: projection-free sparse convex optimization" (2013), theorems 1 and 2.
"""

from __future__ import annotations

from typing import Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Int, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.optim._composite import Composite, composite
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import floats, like, norm
from corollary.optim.penalties import Box
from corollary.optim.penalties._base import Scalar

BISECTIONS = 40  # of the line search: γ to 1e-12; each costs O(n), no product with A


class FrankWolfeState(eqx.Module):
    """The iterate x with its image z = A x, how many steps were taken, and the least gap so far."""

    x: PyTree
    z: PyTree
    k: Int[Array, ""]
    best_gap: Scalar


@final
class FrankWolfe(Solver):
    """Frank-Wolfe, for `minimize`, over a penalty that is a bounded set with a ``linear_minimizer``.

    Parameters
    ----------
    step_rule
        ``"exact"`` (default): line search along the segment, for convex f; ``"short"``: γ = gap/(L‖s − x‖²), which
        needs L; ``"open-loop"``: γ = 2/(k + 2).

    Raises
    ------
    InputError
        For a penalty that is no bounded set, and ``"short"`` without a Lipschitz constant.

    Notes
    -----
    Certificates: ``duality_gap`` (exact) for a convex data term, else the gap as ``stationarity``; and ``gap_rate``
    (theorem, where L and the diameter are known): the least gap so far is at most 6.75 C/(k + 1), C = L·diameter².

    Examples
    --------
    >>> from corollary.optim import Composite, LeastSquares, minimize, penalties
    >>> problem = Composite(LeastSquares([[1.0, 0.0], [0.0, 2.0]], [2.0, 1.0]), penalties.L1Ball(1.0))
    >>> minimize(problem, tol=1e-3, solver=FrankWolfe()).value.round(2).tolist()
    [0.8, 0.2]
    """

    step_rule: Literal["exact", "short", "open-loop"] = eqx.field(static=True, default="exact")

    def __check_init__(self):
        """Refuse an unknown rule."""
        validation.one_of("exact", "short", "open-loop")("step_rule", self.step_rule)

    def check(self, problem: Problem) -> None:
        """A `Composite` whose penalty has a linear minimiser."""
        penalty = composite(problem).penalty
        start = problem.start()
        probe = jnp.zeros((2,)) if start is None else start
        try:
            known = penalty.linear_minimizer(probe) is not None
        except (TypeError, ValueError):  # a set of matrices refuses a vector, which tells that it knows one
            known = True
        if not known:
            raise InputError(f"penalty: found {type(penalty).__name__}, expected a bounded set with a linear_minimizer")
        if isinstance(penalty, Box):
            ends = [leaf for leaf in jax.tree.leaves((penalty.lower, penalty.upper)) if not isinstance(leaf, Tracer)]
            if not all(np.all(np.isfinite(leaf)) for leaf in ends):
                raise InputError("penalty: found a Box with an infinite side, expected a bounded set")
        if self.step_rule == "short" and composite(problem).smooth.lipschitz() is None:
            raise InputError("step_rule: found 'short', expected 'exact' (the smooth term does not know L)")

    def init(self, problem: Composite, x0: PyTree) -> FrankWolfeState:
        """The state at the point of the set that is nearest to x0."""
        x = problem.penalty.prox(x0)
        return FrankWolfeState(x, problem.smooth.forward(x), jnp.int32(0), like(jnp.inf, x0))

    def step(self, problem: Composite, state: FrankWolfeState) -> tuple[FrankWolfeState, Info]:
        """Towards the corner that the gradient points to."""
        smooth, x, z = problem.smooth, state.x, state.z
        theta = smooth.dual(z)
        gradient = smooth.adjoint(theta)
        corner = problem.penalty.linear_minimizer(gradient)
        move = optax.tree.sub(corner, x)
        gap = -jnp.asarray(optax.tree.vdot(gradient, move))
        along = optax.tree.sub(smooth.forward(corner), z)
        size = self._size(problem, state, gap, norm(move), along)
        x_new = optax.tree.add_scale(x, size, move)
        z_new = optax.tree.add_scale(z, size, along)

        value, terms = smooth.loss(z), norm(gradient) * (norm(x) + norm(corner))
        convex = smooth.conjugate(theta) is not None
        info = Info(
            objective=smooth.loss(z_new),
            residual=gap,
            gradient_scale=terms,
            floor=rounding(terms, 16.0),
            step=size,
            lower=value - gap if convex else None,
            extra={"gap": gap},
        )
        return FrankWolfeState(x_new, z_new, state.k + 1, jnp.minimum(state.best_gap, gap)), info

    def _size(self, problem: Composite, state: FrankWolfeState, gap: Scalar, length: Scalar, along: PyTree) -> Scalar:
        smooth = problem.smooth
        if self.step_rule == "open-loop":
            return 2 / (state.k.astype(gap.dtype) + 2)
        if self.step_rule == "short":
            curvature = like(smooth.lipschitz(), gap) * length**2
            return jnp.clip(gap / jnp.where(curvature > 0, curvature, 1), 0, 1)

        def slope(size):
            return jnp.asarray(optax.tree.vdot(smooth.dual(optax.tree.add_scale(state.z, size, along)), along))

        def halve(_, ends):
            low, high = ends
            middle = (low + high) / 2
            rising = slope(middle) >= 0
            return jnp.where(rising, low, middle), jnp.where(rising, middle, high)

        low, high = jax.lax.fori_loop(0, BISECTIONS, halve, (jnp.zeros_like(gap), jnp.ones_like(gap)))
        return jnp.where(slope(jnp.ones_like(gap)) <= 0, 1.0, (low + high) / 2)

    def certify(self, problem: Composite, state: FrankWolfeState) -> dict[str, Certificate]:
        """The theorem's bound on the least gap so far."""
        lipschitz, diameter = problem.smooth.lipschitz(), problem.penalty._diameter(floats(state.x))
        if lipschitz is None or diameter is None:
            return {}
        k = state.k.astype(state.best_gap.dtype)
        curvature = like(lipschitz, k) * diameter**2
        slack = rounding(problem.smooth.loss(state.z) + curvature, 16.0)
        certificate = Certificate(
            "min over the steps of the gap <= 27/4·C/(k + 1), C = L·diameter²",
            state.best_gap,
            6.75 * curvature / (k + 1) + slack,
            "theorem",
            "Jaggi (2013), theorem 2",
            assumptions=(Assumption("f convex, ∇f L-Lipschitz"), Assumption("k >= 3", checked=True, holds=k >= 3)),
        )
        return {"gap_rate": certificate}
