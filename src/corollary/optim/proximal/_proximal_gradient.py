"""Proximal gradient (ISTA): x ← prox_{th}(x − t∇f(x)).

The plain method: one product with A and one with Aᵀ a step, F never rises, and F(x_k) − F* ≤ L‖x0 − x*‖²/(2k). With
h = 0 it is gradient descent, with an indicator projected gradient, with L1 iterative soft thresholding. It also serves
penalties that are not convex (every limit point is stationary). `Fista` needs fewer steps where h is convex.
Source: Beck & Teboulle, "A fast iterative shrinkage-thresholding algorithm" (2009), theorem 3.1.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.certificate import rounding
from corollary.optim._composite import Composite, composite
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, like, norm
from corollary.optim.penalties._base import Scalar

SHRINK, TRIALS = 0.7, 100  # a step search multiplies by SHRINK; 0.7^100 is below any precision


class ProximalGradientState(eqx.Module):
    """The iterate, its image z = A x, the dual point θ = ∇ℓ(z), the gradient Aᵀθ, and the step length."""

    x: PyTree
    z: PyTree
    theta: PyTree
    gradient: PyTree
    step: Scalar


@final
class ProximalGradient(Solver):
    """Proximal gradient (ISTA), for `minimize`. Cost: one product with A, one with Aᵀ, one prox a step.

    Parameters
    ----------
    step
        None: 1/L where the smooth term knows L, else a search; ``"backtracking"``: always a search, which starts from a
        curvature guess and only ever shortens the step; or a number.

    Examples
    --------
    >>> from corollary.optim import Composite, LeastSquares, minimize, penalties
    >>> problem = Composite(LeastSquares([[1.0, 0.0], [0.0, 2.0]], [2.0, 1.0]), penalties.L1(0.5))
    >>> minimize(problem, tol=1e-10, solver=ProximalGradient()).value.round(4).tolist()
    [1.5, 0.375]
    """

    step_size: Any = None

    def __check_init__(self):
        """Refuse anything but None, "backtracking" or a positive number."""
        check_step(self.step_size)

    def check(self, problem: Problem) -> None:
        """A `Composite`."""
        composite(problem)

    def init(self, problem: Composite, x0: PyTree) -> ProximalGradientState:
        """The state at x0."""
        z = problem.smooth.forward(x0)
        theta = problem.smooth.dual(z)
        return ProximalGradientState(
            x0, z, theta, problem.smooth.adjoint(theta), first_step(self.step_size, problem, x0)
        )

    def step(self, problem: Composite, state: ProximalGradientState) -> tuple[ProximalGradientState, Info]:
        """x⁺ = prox_{th}(x − t∇f(x))."""
        x, z, t = forward_backward(
            problem, state.x, state.z, state.gradient, state.step, searches(self.step_size, problem)
        )
        theta = problem.smooth.dual(z)
        gradient = problem.smooth.adjoint(theta)
        u = subgradient(state.x, x, state.gradient, t)
        return ProximalGradientState(x, z, theta, gradient, t), measured(problem, x, z, theta, gradient, u, t)

    def rate(self, k: Any, lipschitz: Scalar, distance: Scalar) -> Scalar:
        """L‖x0 − x*‖²/(2k)."""
        return lipschitz * distance**2 / (2 * k)

    def source(self) -> str:
        """Where the rate stands."""
        return "Beck & Teboulle (2009), theorem 3.1: F(x_k) − F* ≤ L‖x0 − x*‖²/(2k)"


def forward_backward(
    problem: Composite, y: PyTree, zy: PyTree, gradient: PyTree, step: Scalar, search: bool
) -> tuple[PyTree, PyTree, Scalar]:
    """x = prox_{th}(y − t·gradient), its image A x, and t: where `search`, shortened till the model covers f."""

    def attempt(t):
        x = problem.penalty.prox(optax.tree.add_scale(y, -t, gradient), t)
        return x, problem.smooth.forward(x)

    x, z = attempt(step)
    if not search:
        return x, z, step
    value = problem.smooth.loss(zy)

    def too_long(trial):
        x, z, t, count = trial
        model = norm(optax.tree.sub(x, y)) ** 2 / (2 * t)
        # Not "error > model": a NaN has to shorten the step, too.
        return ~(problem.smooth.bregman(z, zy) <= model + rounding(value)) & (count < TRIALS)

    def shorten(trial):
        t = SHRINK * trial[2]
        return *attempt(t), t, trial[3] + 1

    x, z, step, _ = jax.lax.while_loop(too_long, shorten, (x, z, step, 0))
    return x, z, step


def subgradient(y: PyTree, x: PyTree, gradient: PyTree, step: Scalar) -> PyTree:
    """(y − x)/t − ∇f(y), which lies in ∂h(x) because x is a proximal point."""
    return jax.tree.map(lambda y, x, g: (y - x) / step - g, y, x, gradient)


def measured(problem: Composite, x: PyTree, z: PyTree, theta: PyTree, gradient: PyTree, u: PyTree, t: Scalar) -> Info:
    """`Composite.measure`, and what an inexact prox leaves: u is then but an ε-subgradient of h.

    For convex f, F(x) − F* ≤ ⟨∇f(x) + u, x − x*⟩ + ε: ε is held against h's part of the objective, ⟨u, x⟩ and t‖u‖²/2.
    """
    info = problem.measure(x, z, theta, gradient, u, t)
    excess = problem.penalty._fenchel_excess(x, u)
    if excess is None:
        return info
    size = jnp.abs(problem.penalty.value(x)) + t * norm(u) ** 2 / 2
    share = excess / jnp.where(size > 0, size, 1)
    return eqx.tree_at(lambda i: i.residual, info, jnp.maximum(info.residual, share * info.gradient_scale))


def searches(step_size: Any, problem: Composite) -> bool:
    """Whether the step length is to be searched for."""
    return isinstance(step_size, str) or (step_size is None and problem.smooth.lipschitz() is None)


def first_step(step_size: Any, problem: Composite, x0: PyTree) -> Scalar:
    """1/L, the number that was given, or a guess to search from."""
    if searches(step_size, problem):
        return 1 / problem.smooth.curvature(x0)
    return 1 / like(problem.smooth.lipschitz(), x0) if step_size is None else like(step_size, x0)


def check_step(step_size: Any) -> None:
    """Refuse anything but None, "backtracking" or a positive number."""
    if step_size is None or isinstance(step_size, str):
        validation.one_of(None, "backtracking")("step_size", step_size)
    else:
        at_least_zero("step_size", step_size, positive=True)
