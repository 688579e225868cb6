"""Full Gauss-Newton preconditioning: the step δ of (G + λI) δ = −g over a mini-batch, by conjugate gradients.

One undamped step solves a linear model with squared loss; λ → ∞ gives −g/λ, a short gradient step. No factorisation
and no approximation of G. Cost: a gradient and one JVP and VJP a CG step. (For nonlinear least squares with a dense
Jacobian take Gauss-Newton or Levenberg-Marquardt with a factorisation.)
Source: Schraudolph, Neural Computation 14 (2002) 1723-1738; Martens (2010), section 4.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
from jaxtyping import Array, Key, PyTree

from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import finite
from corollary.optim.curvature._cg import curvature_step
from corollary.optim.curvature._ggn import Loss, Model
from corollary.optim.curvature._natural_gradient import check_settings, preconditioned
from corollary.optim.curvature._network_loss import Descent, NetworkLoss, descent, network_loss


@follows_input
def gauss_newton_step(
    model: Model,
    params: Any,
    loss: Loss,
    *data: Any,
    damping: Any = 0.0,
    tol: Any = 1e-6,
    max_steps: int = 200,
) -> Solution:
    """The step δ with (G + λI)δ = −g for the mean of convex losses over a mini-batch.

    Use it as the direction of a training loop of your own; `GaussNewtonStep` is the solver for `minimize`.

    Parameters
    ----------
    model, params, loss, *data
        As for `ggn_operator`.
    damping
        λ ≥ 0, in the units of G.
    tol, max_steps
        CG ends at ‖(G + λI)δ + g‖ ≤ tol‖g‖, or after so many steps.

    Returns
    -------
    Solution
        ``value`` is δ, of the structure of `params`; ``stats``: ``objective``, the loss at `params`, and those of
        `curvature_step`.

    Raises
    ------
    InputError
        For parameters that are not finite, data of different lengths, and settings out of range.

    Notes
    -----
    Certificates: ``residual`` (exact), ``descent`` (monitor), as of `curvature_step`.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([1.0, 1.0])
    >>> gauss_newton_step(lambda w, x: x @ w, np.zeros(2), lambda z, y: (z - y) ** 2 / 2, X, y).value.round(6).tolist()
    [1.0, 0.5]
    """
    params = finite("params", params)
    problem = NetworkLoss(model, loss, *data)
    value, gradient = jax.value_and_grad(problem.objective)(params)
    operator = problem.ggn(params, problem.data)
    solution = curvature_step(operator, gradient, damping=damping, tol=tol, max_steps=max_steps)
    return eqx.tree_at(lambda s: s.stats, solution, solution.stats | {"objective": value})


@final
class GaussNewtonStep(Solver):
    """θ ← θ − η (G + λI)⁻¹ ∇J(θ) by conjugate gradients, for `minimize` on a `NetworkLoss`.

    Use it near a solution, where Gauss-Newton steps need no safeguard; else `HessianFree`. Cost: a gradient, and one
    JVP and VJP a CG step.

    Parameters
    ----------
    learning_rate
        η > 0.
    damping
        λ ≥ 0, in the units of G.
    batch
        Examples that G is taken over (the gradient is over all); None: all.
    tol, cg_steps
        CG ends at ‖(G + λI)δ + g‖ ≤ tol‖g‖, or after so many steps.
    key
        `jax.random.key` for the batches.

    Raises
    ------
    InputError
        For settings out of range.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from corollary.optim import minimize
    >>> X, y = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([1.0, 1.0])
    >>> problem = NetworkLoss(lambda w, x: x @ w, lambda z, y: (z - y) ** 2 / 2, X, y)
    >>> solution = minimize(problem, jnp.zeros(2), GaussNewtonStep())
    >>> solution.value.round(4).tolist(), int(solution.steps)
    ([1.0, 0.5], 1)
    """

    learning_rate: Any = 1.0
    damping: Any = 0.0
    batch: int | None = eqx.field(static=True, default=None)
    tol: Any = 1e-6
    cg_steps: int = eqx.field(static=True, default=100)
    key: Key[Array, ""] | None = None

    def __check_init__(self):
        """Refuse settings out of range."""
        check_settings(self)

    def check(self, problem: Problem) -> None:
        """A `NetworkLoss`."""
        network_loss(problem)

    def init(self, problem: NetworkLoss, x0: PyTree) -> Descent:
        """The state at x0."""
        return descent(problem, x0, self.key)

    def step(self, problem: NetworkLoss, state: Descent) -> tuple[Descent, Info]:
        """θ − η (G + λI)⁻¹ ∇J."""
        rows, after = jax.random.split(state.key)
        return preconditioned(self, problem, state, problem.ggn(state.x, problem.batch(rows, self.batch)), after)
