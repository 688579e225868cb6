"""Natural gradient descent: θ ← θ − η (F + λI)⁻¹ ∇J(θ), with F the Fisher matrix of the model's own distribution.

The direction is steepest in the distribution's own geometry. Steps are invariant under affine changes of the parameters
(λ = 0); under nonlinear ones only the flow η → 0 is, steps agree to O(η²). For an exponential family in its mean
parameters one step with η = 1 is the maximum-likelihood estimate. Cost: a gradient and one JVP and VJP a CG step.
Source: Amari, Neural Computation 10 (1998) 251-276; Martens, JMLR 21 (2020), sections 6 and 12.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optax
from jaxtyping import Array, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import rounding
from corollary.core.errors import InputError
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, like, norm
from corollary.optim.curvature._cg import conjugate_gradients
from corollary.optim.curvature._ggn import damped
from corollary.optim.curvature._network_loss import Descent, NetworkLoss, descent, likelihood


@final
class NaturalGradient(Solver):
    """Natural gradient steps by conjugate gradients, for `minimize` on a `NetworkLoss` with an `OutputDistribution`.

    Use it where the parametrisation is arbitrary. There is no safeguard: a step that is too long raises the loss; take
    `HessianFree` for a method that adapts its damping. Cost: a gradient, and one JVP and VJP a CG step.

    Parameters
    ----------
    learning_rate
        η > 0.
    damping
        λ ≥ 0, in the units of F.
    samples
        None: the exact Fisher matrix; a number: that many labels an example are drawn from the model each step.
    batch
        Examples that the Fisher matrix is taken over; None: all.
    tol, cg_steps
        CG ends at ‖(F + λI)δ + g‖ ≤ tol‖g‖, or after so many steps.
    key
        `jax.random.key` for labels and batches.

    Raises
    ------
    InputError
        For settings out of range.

    Examples
    --------
    >>> from corollary.optim import minimize
    >>> from corollary.optim.curvature import Bernoulli
    >>> y = jnp.array([1.0, 0.0, 0.0, 0.0])
    >>> problem = NetworkLoss(lambda p, x: jnp.log(p / (1 - p)), Bernoulli(), y, y)  # p is the mean parameter
    >>> one = minimize(problem, jnp.array(0.6), NaturalGradient(), max_steps=1)
    >>> round(float(one.value), 5)
    0.25
    """

    learning_rate: Any = 1.0
    damping: Any = 0.0
    samples: int | None = eqx.field(static=True, default=None)
    batch: int | None = eqx.field(static=True, default=None)
    tol: Any = 1e-6
    cg_steps: int = eqx.field(static=True, default=100)
    key: Key[Array, ""] | None = None

    def __check_init__(self):
        """Refuse settings out of range."""
        check_settings(self)
        validation.integer(1, none=True)("samples", self.samples)

    def check(self, problem: Problem) -> None:
        """A `NetworkLoss` whose loss is an `OutputDistribution`."""
        likelihood(problem)

    def init(self, problem: NetworkLoss, x0: PyTree) -> Descent:
        """The state at x0."""
        return descent(problem, x0, self.key)

    def step(self, problem: NetworkLoss, state: Descent) -> tuple[Descent, Info]:
        """θ − η (F + λI)⁻¹ ∇J."""
        rows, labels, after = jax.random.split(state.key, 3)
        operator = problem.fisher(state.x, problem.batch(rows, self.batch), self.samples, labels)
        return preconditioned(self, problem, state, operator, after)


def check_settings(solver: Any) -> None:
    """Of the solvers with a fixed rate and damping."""
    at_least_zero("learning_rate", solver.learning_rate, positive=True)
    at_least_zero("damping", solver.damping)
    at_least_zero("tol", solver.tol, positive=True)
    validation.integer(1, none=True)("batch", solver.batch)
    validation.integer(1)("cg_steps", solver.cg_steps)
    if solver.key is not None and not jnp.issubdtype(solver.key.dtype, jax.dtypes.prng_key):
        raise InputError(f"key: found dtype {solver.key.dtype}, expected a jax.random.key")


def preconditioned(
    solver: Any, problem: NetworkLoss, state: Descent, operator: lx.AbstractLinearOperator, key: Key[Array, ""]
) -> tuple[Descent, Info]:
    """x − η (C + λI)⁻¹ g, and what is to know of it."""
    g, size = state.gradient, norm(state.gradient)
    total = damped(operator, like(solver.damping, state.x))
    run = conjugate_gradients(total.mv, g, tol=solver.tol, max_steps=solver.cg_steps)
    x = optax.tree.add_scale(state.x, -like(solver.learning_rate, state.x), run.x)
    value, gradient = jax.value_and_grad(problem.objective)(x)
    length = norm(run.x)
    curved = size / jnp.where(length > 0, length, 1)  # g ≈ (C + λI)δ: the curvature that x's rounding is seen through
    info = Info(
        objective=value,
        residual=norm(gradient),
        gradient_scale=size,
        from_start=True,
        floor=rounding(curved * norm(x) + size),
        step=like(solver.learning_rate, state.x),
        extra={"cg_steps": run.steps.astype(value.dtype)},
    )
    return Descent(x, value, gradient, key), info
