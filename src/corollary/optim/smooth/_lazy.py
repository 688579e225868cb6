"""Lazy curvature: keep the factored Hessian for k steps, and pay for a new one only then.

Use it where the Hessian and its factor cost much more than a gradient: a step in between costs O(n²). With k = 1 it is
the method itself. Within a cycle of k steps the error is raised to the power k + 1 (near the answer each step of the
frozen method multiplies it by C times the error at the cycle's start), against 2ᵏ for k Newton steps.
Source: Traub, "Iterative methods for the solution of equations" (1964); Doikov, Chayti & Jaggi, "Second-order
optimization with lazy Hessians" (2023), theorem 3.1.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim._composite import Composite
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim.smooth._newton import DenseNewton, DescentState


class LazyState(eqx.Module):
    """The wrapped solver's state, the curvature kept, and the count of steps."""

    inner: DescentState
    curvature: Any
    count: Int[Array, ""]

    @property
    def x(self) -> PyTree:
        """The iterate."""
        return self.inner.x


@final
class Lazy(Solver):
    """A Newton-type solver whose curvature is recomputed every k steps only.

    Parameters
    ----------
    solver
        `Newton` or `RegularizedNewton`.
    every
        k ≥ 1.

    Notes
    -----
    Certificate: ``stationarity``, of `minimize`. ``stats["factorizations"]`` counts Hessians.
    Source: Doikov, Chayti & Jaggi (2023), algorithm 1.

    Examples
    --------
    >>> from corollary.optim import minimize
    >>> from corollary.optim import Newton
    >>> import jax.numpy as jnp
    >>> f = lambda x: jnp.sum(jnp.cosh(x))
    >>> solution = minimize(f, [1.0, -0.5], Lazy(Newton(), every=3), tol=1e-10)
    >>> bool(solution.converged), int(solution.stats["factorizations"]) < int(solution.steps)
    (True, True)
    """

    solver: Any
    every: Any = 5

    def __check_init__(self):
        """Refuse a solver that keeps no curvature, and k < 1."""
        if not isinstance(self.solver, DenseNewton):
            found = type(self.solver).__name__
            raise InputError(f"solver: found {found}, expected one that factors a Hessian (Newton, RegularizedNewton)")
        if not isinstance(self.every, jax.Array):
            validation.integer(1)("every", self.every)

    def check(self, problem: Problem) -> None:
        """As the wrapped solver."""
        self.solver.check(problem)

    def init(self, problem: Composite, x0: PyTree) -> LazyState:
        """The state at x0; the first step computes the curvature."""
        shapes = jax.eval_shape(lambda: self.solver.curvature(problem.smooth, x0))
        empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return LazyState(self.solver.init(problem, x0), empty, jnp.int32(0))

    def step(self, problem: Composite, state: LazyState) -> tuple[LazyState, Info]:
        """A step with the curvature at hand, or with a new one where its time has come."""
        curvature = jax.lax.cond(
            state.count % self.every == 0,
            lambda: self.solver.curvature(problem.smooth, state.inner.x),
            lambda: state.curvature,
        )
        inner, info = self.solver.step_with(problem, state.inner, curvature)
        return LazyState(inner, curvature, state.count + 1), info

    def stats(self, problem: Composite, state: LazyState) -> dict[str, Any]:
        """The wrapped solver's, and how many Hessians were factored."""
        return self.solver.stats(problem, state.inner) | {"factorizations": (state.count - 1) // self.every + 1}
