"""Mirror descent: gradient steps in the geometry of the set. On the simplex, with the entropy as mirror:

    x⁺_i = x_i·exp(−t ∂_i f(x))/normaliser,

exponentiated gradient. The step must cover f in the ‖·‖₁ geometry, where the Lipschitz constant max_j ‖A_j‖² can be p
times smaller than ‖A‖₂². With t = 1/L: F(x_k) − F* ≤ L·KL(x*, x0)/k, and KL(x*, uniform) ≤ radius·log p. Cost: one
product with A and one with Aᵀ a step. Source: Beck & Teboulle, "Mirror descent and nonlinear projected subgradient
methods" (2003), section 5; Bauschke, Bolte & Teboulle, "A descent lemma beyond Lipschitz gradient continuity" (2017),
theorem 1.
"""

from __future__ import annotations

from typing import Any, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import xlogy
from jaxtyping import Array, Bool, PyTree

from corollary.core import validation
from corollary.core.certificate import rounding
from corollary.core.errors import InputError
from corollary.optim._composite import Composite, composite
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import largest, like, norm, total
from corollary.optim.penalties import Simplex, Zero
from corollary.optim.penalties._base import Scalar, is_indicator
from corollary.optim.proximal._proximal_gradient import SHRINK, TRIALS, check_step

GROW = 1.5  # a searched step may grow again


class MirrorDescentState(eqx.Module):
    """The iterate x with its image z = A x, the step length, and whether it may grow."""

    x: PyTree
    z: PyTree
    step: Scalar
    grow: Bool[Array, ""]


@final
class MirrorDescent(Solver):
    """Mirror descent, for `minimize`, over a simplex (entropy) or any set with a projection (Euclidean).

    Parameters
    ----------
    mirror
        ``"entropy"`` (default): a `Simplex`, multiplicative steps from a positive point (the centre, if x0 has zeros);
        ``"euclidean"``: projected gradient.
    step_size
        None or ``"backtracking"``: a search for the longest step that the model covers; or a number.

    Examples
    --------
    >>> from corollary.optim import Composite, LeastSquares, minimize, penalties
    >>> problem = Composite(LeastSquares([[1.0, 0.0], [0.0, 2.0]], [2.0, 1.0]), penalties.Simplex())
    >>> minimize(problem, tol=1e-6, solver=MirrorDescent()).value.round(3).tolist()
    [0.8, 0.2]
    """

    mirror: Literal["entropy", "euclidean"] = eqx.field(static=True, default="entropy")
    step_size: Any = None

    def __check_init__(self):
        """Refuse an unknown option."""
        validation.one_of("entropy", "euclidean")("mirror", self.mirror)
        check_step(self.step_size)

    def check(self, problem: Problem) -> None:
        """A `Composite` over a simplex, for the entropy."""
        penalty = composite(problem).penalty
        if self.mirror == "entropy" and not isinstance(penalty, Simplex):
            raise InputError(f"penalty: found {type(penalty).__name__}, expected a Simplex for the entropy")
        if not isinstance(penalty, Zero) and not is_indicator(penalty):
            raise InputError(f"penalty: found {type(penalty).__name__}, expected the indicator of a convex set")

    def init(self, problem: Composite, x0: PyTree) -> MirrorDescentState:
        """The state at the nearest point of the set; for the entropy at the centre, where that has zeros."""
        x = problem.penalty.prox(x0)
        if self.mirror == "entropy":
            size = sum(leaf.size for leaf in jax.tree.leaves(x))
            centre = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1 / size), x)
            centre = optax.tree.scale(_radius(problem, x), centre)
            positive = -largest(jax.tree.map(jnp.negative, x)) > 0
            x = optax.tree.where(positive, x, centre)
        if self._fixed():
            step = like(self.step_size, x0)
        else:
            # KL(u, x) ≥ ‖u − x‖²/(2·radius) on the simplex: a step for ‖·‖² is one for KL, divided by the radius.
            step = 1 / problem.smooth.curvature(x)
            step = step / _radius(problem, x) if self.mirror == "entropy" else step
        return MirrorDescentState(x, problem.smooth.forward(x), step, jnp.array(True))

    def step(self, problem: Composite, state: MirrorDescentState) -> tuple[MirrorDescentState, Info]:
        """argmin ⟨∇f(x), u⟩ + D(u, x)/t over the set."""
        smooth = problem.smooth
        theta = smooth.dual(state.z)
        gradient = smooth.adjoint(theta)

        def attempt(t):
            x = self._move(problem, state.x, gradient, t)
            return x, smooth.forward(x)

        def too_long(trial):
            x, z, t, count = trial
            model = self._divergence(x, state.x) / t
            return ~(smooth.bregman(z, state.z) <= model + rounding(smooth.loss(state.z))) & (count < TRIALS)

        def shorten(trial):
            t = SHRINK * trial[2]
            return *attempt(t), t, trial[3] + 1

        t = state.step if self._fixed() else jnp.where(state.grow, GROW, 1.0) * state.step
        x, z = attempt(t)
        if not self._fixed():
            x, z, t, _ = jax.lax.while_loop(too_long, shorten, (x, z, t, 0))
        # Where the model is lost in the rounding of f, every step passes: it must not grow on that evidence.
        grow = self._divergence(x, state.x) / t > rounding(smooth.loss(z))

        theta = smooth.dual(z)
        gradient = smooth.adjoint(theta)
        corner = problem.penalty.linear_minimizer(gradient)
        lower = None
        if corner is None:
            nearest = problem.penalty.prox(optax.tree.add_scale(x, -t, gradient), t)
            residual, scale = norm(optax.tree.sub(x, nearest)) / t, norm(gradient)
        else:
            residual = jnp.asarray(optax.tree.vdot(gradient, optax.tree.sub(x, corner)))
            scale = norm(gradient) * (norm(x) + norm(corner))
            lower = None if smooth.conjugate(theta) is None else smooth.loss(z) - residual
        floor = rounding(scale if corner is not None else norm(x) / t + scale, 16.0)
        info = Info(smooth.loss(z), residual, scale, floor, t, lower)
        return MirrorDescentState(x, z, t, grow), info

    def _fixed(self) -> bool:
        return self.step_size is not None and not isinstance(self.step_size, str)

    def _move(self, problem: Composite, x: PyTree, gradient: PyTree, t: Scalar) -> PyTree:
        if self.mirror == "euclidean":
            return problem.penalty.prox(optax.tree.add_scale(x, -t, gradient), t)
        tiny = jnp.finfo(t.dtype).tiny
        logs = jax.tree.map(lambda x, g: jnp.log(jnp.maximum(x, tiny)) - t * g, x, gradient)
        top = largest(logs)
        weights = jax.tree.map(lambda leaf: jnp.exp(leaf - top), logs)
        return optax.tree.scale(_radius(problem, x) / total(weights), weights)

    def _divergence(self, new: PyTree, x: PyTree) -> Scalar:
        if self.mirror == "euclidean":
            return norm(optax.tree.sub(new, x)) ** 2 / 2

        def entry(new, x):
            # x(r log r − r + 1), r = new/x, each entry ≥ 0; by its series where the terms would cancel.
            ratio = new / jnp.maximum(x, jnp.finfo(x.dtype).tiny)
            d = ratio - 1
            series = d**2 / 2 - d**3 / 6
            return x * jnp.where(jnp.abs(d) < 1e-4, series, xlogy(ratio, ratio) - d)

        return total(jax.tree.map(entry, new, x))


def _radius(problem: Composite, x: PyTree) -> Scalar:
    penalty: Any = problem.penalty
    return like(penalty.radius, x)
