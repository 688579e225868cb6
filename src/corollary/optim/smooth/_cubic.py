"""Newton's method with adaptive cubic regularisation: minimise f + gᵀδ + ½ δᵀHδ + σ/3 ‖δ‖³, globally, and adapt σ.

The cubic bounds f from above where σ exceeds half the Lipschitz constant of the Hessian, so that each step makes sure
progress: ‖∇f‖ ≤ ε and λ_min ≥ −√ε within O(ε^(−3/2)) steps, the best order of any second-order method, where
trust regions with their usual rules have O(ε⁻²). Use it near saddles and where f is far from quadratic. Cost a step:
about 9n³ and n Hessian products; the exact subproblem is that of a trust region with λ = σ‖δ‖.
Source: Nesterov & Polyak, "Cubic regularization of Newton method and its global performance" (2006), theorem 1;
Cartis, Gould & Toint, "Adaptive cubic regularisation methods" (2011), algorithm 2.1.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from corollary.core.errors import InputError
from corollary.optim._composite import Composite, smooth_only
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, norm
from corollary.optim.smooth._modified_newton import Spectrum
from corollary.optim.smooth._newton import gradient_rounding, hessian_matrix
from corollary.optim.smooth._trust_region import TrustState, advance, begin, first_length, judge, renewed, tell
from corollary.optim.smooth._trust_region_subproblem import cubic_step


@final
class CubicNewton(Solver):
    """Adaptive cubic regularisation, for `minimize`. Cost: about 9n³ and n Hessian products a step.

    Parameters
    ----------
    sigma
        The first σ; ‖g‖/ℓ² with ℓ the length of Cauchy's step if left out.
    accept
        The least ratio of the falls of f and model at which a step is taken, in [0, 0.9).

    Notes
    -----
    Certificate: ``stationarity``, of `minimize`. The history has ``sigma`` and ``ratio``.
    Source: Cartis, Gould & Toint (2011), algorithm 2.1.

    Examples
    --------
    >>> from corollary.optim import minimize
    >>> saddle = lambda x: x[0] ** 2 + (x[1] ** 2 - 1) ** 2
    >>> minimize(saddle, [1.0, 0.01], CubicNewton(), tol=1e-10).value.round(6).tolist()
    [0.0, 1.0]
    """

    sigma: Any = None
    accept: Any = 1e-4

    def __check_init__(self):
        """Refuse settings out of range."""
        at_least_zero("sigma", self.sigma, positive=True)
        if isinstance(self.accept, float | int) and not 0 <= self.accept < 0.9:
            raise InputError(f"accept: found {self.accept!r}, expected a number in [0, 0.9)")

    def check(self, problem: Problem) -> None:
        """A `Composite` without a penalty."""
        smooth_only(problem)

    def init(self, problem: Composite, x0: PyTree) -> TrustState:
        """The state at x0; its `radius` is σ."""
        state = begin(problem, x0, _curvature)
        if self.sigma is not None:
            sigma = jnp.asarray(self.sigma).astype(state.value.dtype)
        else:
            length = first_length(problem, x0, state.gradient)
            sigma = state.first / length / length
            sigma = jnp.where((sigma > 0) & jnp.isfinite(sigma), sigma, 1)
        return eqx.tree_at(lambda s: s.radius, state, sigma)

    def step(self, problem: Composite, state: TrustState) -> tuple[TrustState, Info]:
        """One trial."""
        curvature = renewed(problem, state, _curvature)
        g, unravel = ravel_pytree(state.gradient)
        sigma = state.radius
        found = cubic_step(curvature, g, sigma)
        judged = judge(problem, state, unravel(found.delta), found.decrease, self.accept, jnp.array(False))
        tiny = jnp.finfo(sigma.dtype).tiny
        new_sigma = jnp.where(judged.rho > 0.9, sigma / 3, jnp.where(judged.rho < 0.1, 3 * sigma, sigma))
        new_sigma = jnp.where((new_sigma > tiny) & jnp.isfinite(new_sigma), new_sigma, sigma)
        new = advance(state, judged, new_sigma, curvature)
        floor = gradient_rounding(curvature.matrix, state.x)
        return new, tell(state, new, judged, floor, norm(found.delta), {"sigma": sigma, "ratio": judged.rho})

    def stats(self, problem: Composite, state: TrustState) -> dict[str, Any]:
        """Counts, and the last σ."""
        return {"evaluations": state.evaluations, "accepted": state.accepted, "sigma": state.radius}


def _curvature(problem: Composite, x: PyTree) -> Spectrum:
    return Spectrum.of(hessian_matrix(problem.smooth, x))
