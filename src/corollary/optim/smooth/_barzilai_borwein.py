"""Barzilai-Borwein gradient: x ← x − αg with α from the last move s = x − x_before and change y = g − g_before.

BB1: α = ‖s‖²/⟨s, y⟩, which minimises ‖s/α − y‖; BB2: α = ⟨s, y⟩/‖y‖², which minimises ‖s − αy‖; or one after the other.
A multiple of the identity that fits the secant equation, no diagonal Hessian. On a quadratic 1/α lies between the
extreme eigenvalues, and in two dimensions convergence is superlinear; f rises and falls on the way, so that the search
that keeps other functions safe is non-monotone.
Cost: two products with A (one without a search) and one with Aᵀ a step. Source: Barzilai & Borwein, "Two-point step
size gradient methods" (1988), eqs. (5) and (6); Raydan, "The Barzilai and Borwein gradient method for the large scale
unconstrained minimization problem" (1997), section 2.
"""

from __future__ import annotations

from typing import final

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core import validation
from corollary.optim._composite import Composite, smooth_only
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim.smooth._line_search import armijo, evaluate, follow, line, smooth_info
from corollary.optim.smooth._nonmonotone import remember
from corollary.optim.smooth._spectral_projected import Kind, SpectralState, next_alpha


@final
class BarzilaiBorwein(Solver):
    """Barzilai-Borwein gradient on a smooth function, for `minimize`.

    Parameters
    ----------
    kind
        ``"bb1"`` (default), ``"bb2"`` or ``"alternating"``.
    memory
        How many values the non-monotone search looks back (10); None: no search, as on a convex quadratic.

    Raises
    ------
    InputError
        For unknown options, and for a problem with a penalty.

    Notes
    -----
    Certificate: ``stationarity``. A search that finds no step stops the run (`Status.PRECISION`).

    Examples
    --------
    >>> from corollary.optim import Composite, LeastSquares, minimize
    >>> problem = Composite(LeastSquares([[1.0, 0.0], [0.0, 2.0]], [2.0, 1.0]))
    >>> minimize(problem, tol=1e-9, solver=BarzilaiBorwein()).value.round(4).tolist()
    [2.0, 0.5]
    """

    kind: Kind = eqx.field(static=True, default="bb1")
    memory: int | None = eqx.field(static=True, default=10)

    def __check_init__(self):
        """Refuse an unknown kind and a memory below 1."""
        validation.one_of("bb1", "bb2", "alternating")("kind", self.kind)
        validation.integer(1, none=True)("memory", self.memory)

    def check(self, problem: Problem) -> None:
        """A smooth `Composite`."""
        smooth_only(problem)

    def init(self, problem: Composite, x0: PyTree) -> SpectralState:
        """The state at x0; the first step is that of a curvature guess."""
        point, curvature = evaluate(problem.smooth, x0), problem.smooth.curvature(x0)
        recent = jnp.full((self.memory or 1,), point.value)
        return SpectralState(point, 1 / curvature, recent, jnp.int32(0), curvature, jnp.zeros_like(point.value))

    def step(self, problem: Composite, state: SpectralState) -> tuple[SpectralState, Info]:
        """A step of length α (or less, where the search says so), and the next α."""
        old, smooth, stuck = state.point, problem.smooth, None
        direction = optax.tree.scale(-state.alpha, old.gradient)
        if self.memory is None:
            point = evaluate(smooth, optax.tree.add(old.x, direction))
        else:
            along = line(smooth, old, direction)
            search = armijo(smooth, along, jnp.ones_like(state.alpha), reference=jnp.max(state.recent))
            point, stuck = follow(smooth, old, along, search.trial), ~search.ok
        alpha, curvature, blur = next_alpha(state, point, optax.tree.sub(point.x, old.x), self.kind)
        recent = remember(state.recent, state.count, point.value)
        info = smooth_info(point, old.gradient, state.alpha, blur, stuck=stuck)
        return SpectralState(point, alpha, recent, state.count + 1, curvature, blur), info
