"""The composite problem, minimise F(x) = f(x) + h(x) with f smooth and h known by its prox; how far a point is from it.

Source of the bounds: weak duality, F(x) − F* ≤ F(x) + ℓ*(θ) + h*(−Aᵀθ) for every θ (Rockafellar, "Convex Analysis"
(1970), theorem 31.2), and Fermat's rule, x is stationary iff −∇f(x) ∈ ∂h(x).
"""

from __future__ import annotations

from typing import Any, final

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core.certificate import rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._smooth import Differentiable, SmoothTerm
from corollary.optim._tree import floats, norm
from corollary.optim.penalties import Penalty, Zero
from corollary.optim.penalties._base import Scalar


@final
class Composite(Problem):
    """Minimise f(x) + h(x).

    Parameters
    ----------
    smooth
        `LeastSquares`, `Logistic`, another `SmoothTerm`, or any differentiable function of a pytree.
    penalty
        A member of `corollary.optim.penalties`; none if left out.

    Examples
    --------
    >>> from corollary.optim import LeastSquares, penalties
    >>> problem = Composite(LeastSquares([[1.0], [1.0]], [1.0, 3.0]), penalties.L1(1.0))
    >>> float(problem.objective(jnp.ones(1)))
    3.0
    """

    smooth: SmoothTerm
    penalty: Penalty

    def __init__(self, smooth: Any, penalty: Any = None):
        if not isinstance(smooth, SmoothTerm) and not callable(smooth):
            raise InputError(f"smooth: found {type(smooth).__name__}, expected a smooth term or a function")
        if penalty is not None and not isinstance(penalty, Penalty):
            raise InputError(f"penalty: found {type(penalty).__name__}, expected a member of optim.penalties")
        self.smooth = smooth if isinstance(smooth, SmoothTerm) else Differentiable(smooth)
        self.penalty = Zero() if penalty is None else penalty

    @follows_input
    def objective(self, x: Any) -> Any:
        """F(x)."""
        x = floats(x)
        return self.smooth.loss(self.smooth.forward(x)) + self.penalty.value(x)

    def default_solver(self) -> tuple[Solver, str]:
        """`LBFGS` for a function as it is, `Fista` where the penalty is convex, else `ProximalGradient`."""
        from corollary.optim.proximal._fista import Fista
        from corollary.optim.proximal._group_working_set import GroupWorkingSet, suits
        from corollary.optim.proximal._proximal_gradient import ProximalGradient
        from corollary.optim.smooth._lbfgs import LBFGS

        if isinstance(self.penalty, Zero) and isinstance(self.smooth, Differentiable):
            return LBFGS(), "a smooth function without a penalty or a known dual: a quasi-Newton method"
        if suits(self):
            return GroupWorkingSet(), "groups of many columns, of which few are expected: working sets"
        if self.penalty.is_convex:
            return Fista(), "the penalty is convex, so momentum with restarts is the fastest"
        return ProximalGradient(), "the penalty is not convex, so plain descent, which never raises the objective"

    def scale(self) -> Scalar | None:
        """f(0), where the smooth term knows it."""
        return self.smooth.scale()

    def start(self) -> PyTree | None:
        """The origin, where the smooth term knows its shape."""
        return self.smooth.start()

    def lower_bound(self, theta: PyTree, gradient: PyTree) -> Any:
        """The dual objective −ℓ*(sθ) − h*(−s Aᵀθ) at the better of s = 1 and the s that makes it feasible."""
        u = jax.tree.map(jnp.negative, gradient)
        fit = self.penalty.dual_scaling(u)
        if fit is None or self.smooth.conjugate(theta) is None:
            return None

        def dual(s):
            return -(self.smooth.conjugate(optax.tree.scale(s, theta)) + self.penalty.conjugate(optax.tree.scale(s, u)))

        return jnp.maximum(dual(jnp.ones_like(fit)), dual(fit))

    def measure(self, x: PyTree, z: PyTree, theta: PyTree, gradient: PyTree, subgradient: PyTree, step: Scalar) -> Info:
        """How good x is, from z = A x, a dual point θ with its Aᵀθ, and a subgradient of h at x."""
        # The prox divides the rounding of x by the step; a step far below 1/L would pass any residual for rounding.
        known, slope = self.smooth.lipschitz(), 1 / step
        slope = slope if known is None else jnp.minimum(slope, known.astype(slope.dtype))
        return Info(
            objective=self.smooth.loss(z) + self.penalty.value(x),
            lower=self.lower_bound(theta, gradient),
            residual=norm(optax.tree.add(gradient, subgradient)),
            gradient_scale=norm(gradient) + norm(subgradient),
            floor=rounding(norm(x) * slope + norm(gradient)),
            step=step,
        )


def composite(problem: Any) -> Composite:
    """Refuse anything but a `Composite`."""
    if not isinstance(problem, Composite):
        raise InputError(f"problem: found {type(problem).__name__}, expected a Composite")
    return problem


def smooth_only(problem: Any) -> Composite:
    """Refuse anything but a `Composite` without a penalty: what a Newton or quasi-Newton method needs."""
    if not isinstance(composite(problem).penalty, Zero):
        found = type(problem.penalty).__name__
        raise InputError(f"problem: found the penalty {found}, expected a smooth problem (Composite without a penalty)")
    return problem
