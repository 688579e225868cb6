"""Optimistix's solvers under this room's driver: BFGS, Gauss-Newton, Levenberg-Marquardt, dogleg and others.

Their steps, our stopping rule: Optimistix stops on the length of steps and falls of f, with absolute tolerances, and
can call a stalled run a success; here the gradient is computed at the point reached, and only its size, relative to
that at the start, counts. A run whose iterate rests for 64 steps is reported as out of precision. The solver sees x
and f in units of Cauchy's step. Cost: the wrapped solver's step, plus one value and gradient.
Source: Rader, Lyons & Kidger, "Optimistix: modular optimisation in JAX and Equinox" (2024); Nocedal & Wright (2006),
algorithm 6.1 (BFGS), sections 10.3 (Gauss-Newton, Levenberg-Marquardt) and 4.1 (dogleg).
"""

from __future__ import annotations

import functools
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import optimistix as optx
from jaxtyping import Array, Int, PyTree

from corollary.core.certificate import rounding
from corollary.core.errors import InputError
from corollary.optim._composite import Composite, smooth_only
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.smooth._lbfgs import power_of_two
from corollary.optim.smooth._nonlinear_least_squares import NonlinearLeastSquares
from corollary.optim.smooth._trust_region import first_length

REST = 64
ROOT = 8.0  # ROOT² times a Cauchy step is the first that BFGS tries: halved at leisure, while too short a scale lasts


class WrappedState(eqx.Module):
    """The iterate, ‖∇f‖ there, the arrays of the wrapped solver's state, and for how many steps x has rested."""

    x: PyTree
    size: Scalar
    inner: PyTree
    rested: Int[Array, ""]
    length: Scalar  # the units that the wrapped solver sees: x/length, f/root²
    root: Scalar


class Held:
    """A box around a solver of Optimistix, compared by identity: another one compiles anew."""

    def __init__(self, solver: Any):
        self.solver = solver


@final
class Wrapped(Solver):
    """A minimiser or least-squares solver of Optimistix, for `minimize`.

    Parameters
    ----------
    solver
        An instance, e.g. ``optimistix.BFGS(rtol=0, atol=0)``; its own tolerances are not used. Least-squares solvers
        need a `NonlinearLeastSquares`.

    Notes
    -----
    Certificate: ``stationarity``, of `minimize`.

    Examples
    --------
    >>> import optimistix
    >>> from corollary.optim import functions, minimize
    >>> f = functions.beale()
    >>> minimize(f, f.x0, Wrapped(optimistix.BFGS(rtol=0.0, atol=0.0)), tol=1e-8).value.round(5).tolist()
    [3.0, 0.5]
    """

    held: Held  # not a pytree: the wrapped solver's flags shape the program

    def __init__(self, solver: Any):
        if not isinstance(solver, optx.AbstractMinimiser | optx.AbstractLeastSquaresSolver):
            found = type(solver).__name__
            raise InputError(f"solver: found {found}, expected a minimiser or least-squares solver of Optimistix")
        self.held = Held(solver)

    @property
    def solver(self) -> Any:
        """The solver of Optimistix."""
        return self.held.solver

    def check(self, problem: Problem) -> None:
        """Smooth; least squares where the solver needs residuals."""
        smooth = smooth_only(problem).smooth
        if isinstance(self.solver, optx.AbstractLeastSquaresSolver) and not isinstance(smooth, NonlinearLeastSquares):
            raise InputError(f"problem: found {type(smooth).__name__}, expected NonlinearLeastSquares")

    def init(self, problem: Composite, x0: PyTree) -> WrappedState:
        """The state at x0."""
        gradient = problem.smooth.gradient(x0)
        size = norm(gradient)
        length = power_of_two(first_length(problem, x0, gradient))
        root = power_of_two(jnp.sqrt(size) * jnp.sqrt(length)) / ROOT
        inner = eqx.filter(self._init(problem, x0, length, root), eqx.is_array)
        return WrappedState(x0, size, inner, jnp.int32(0), length, root)

    def step(self, problem: Composite, state: WrappedState) -> tuple[WrappedState, Info]:
        """The wrapped solver's step; the gradient where it ended."""
        # What is not an array (functions that the state holds) is the same at every step: taken from a dry start.
        length, root = state.length, state.root
        dry = eqx.filter_eval_shape(lambda: self._init(problem, state.x, length, root))
        rest = eqx.filter(dry, lambda leaf: not isinstance(leaf, jax.ShapeDtypeStruct))
        function, u = self._function(problem, length, root), optax.tree.scale(1 / length, state.x)
        u, inner, _ = self.solver.step(function, u, None, {}, eqx.combine(state.inner, rest), frozenset())
        x = optax.tree.scale(length, u)
        value, gradient = problem.smooth.value_and_gradient(x)
        size = norm(gradient)
        resting = norm(optax.tree.sub(x, state.x)) == 0
        rested = jnp.where(resting, state.rested + 1, 0)
        info = Info(
            objective=value,
            residual=size,
            gradient_scale=state.size,
            from_start=True,
            floor=rounding(jnp.zeros_like(size)),
            step=norm(optax.tree.sub(x, state.x)),
            stuck=rested >= REST,
        )
        return WrappedState(x, size, eqx.filter(inner, eqx.is_array), rested, length, root), info

    def _function(self, problem: Composite, length: Scalar, root: Scalar) -> Any:
        """u to r(ℓu)/ρ or f(ℓu)/ρ²: Optimistix starts from the identity, which is right in one system of units only."""
        if isinstance(self.solver, optx.AbstractLeastSquaresSolver):
            residual = getattr(problem.smooth, "residual")  # noqa: B009  (`check` has seen to it)
            return lambda u, _: (optax.tree.scale(1 / root, residual(optax.tree.scale(length, u))), None)
        return lambda u, _: (problem.smooth.value(optax.tree.scale(length, u)) / root / root, None)

    def _init(self, problem: Composite, x: PyTree, length: Scalar, root: Scalar) -> Any:
        function, u = self._function(problem, length, root), optax.tree.scale(1 / length, x)
        shapes, _ = jax.eval_shape(lambda: function(u, None))
        return self.solver.init(function, u, None, {}, shapes, None, frozenset())


@functools.cache
def BFGS() -> Wrapped:
    """BFGS, O(n²) a step, for up to a few thousand variables.

    Examples
    --------
    >>> type(BFGS().solver).__name__
    'BFGS'
    """
    return Wrapped(optx.BFGS(rtol=0.0, atol=0.0))


@functools.cache
def GaussNewton() -> Wrapped:
    """Gauss-Newton with full steps, for `NonlinearLeastSquares` near its answer.

    Examples
    --------
    >>> type(GaussNewton().solver).__name__
    'GaussNewton'
    """
    return Wrapped(optx.GaussNewton(rtol=0.0, atol=0.0))


@functools.cache
def LevenbergMarquardt() -> Wrapped:
    """Levenberg-Marquardt, Gauss-Newton damped by a trust region, for `NonlinearLeastSquares`.

    Examples
    --------
    >>> type(LevenbergMarquardt().solver).__name__
    'LevenbergMarquardt'
    """
    return Wrapped(optx.LevenbergMarquardt(rtol=0.0, atol=0.0))


@functools.cache
def Dogleg() -> Wrapped:
    """Powell's dogleg between the gradient's and Gauss-Newton's step, for `NonlinearLeastSquares`.

    Examples
    --------
    >>> type(Dogleg().solver).__name__
    'Dogleg'
    """
    return Wrapped(optx.Dogleg(rtol=0.0, atol=0.0))
