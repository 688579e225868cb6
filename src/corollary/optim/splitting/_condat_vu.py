"""Condat-Vũ: f(x) + s(x) + g(K x) with s smooth, by one gradient, two proximal steps, K and Kᵀ.

    x⁺ = prox_{τf}(x − τ(∇s(x) + Kᵀu)),    u⁺ = prox_{σg*}(u + σK(2x⁺ − x)),    1/τ ≥ L + σ‖K‖².

With s = 0 it is Chambolle-Pock, with g = 0 proximal gradient. For the averages X_N, U_N and every (x, u),
L(X_N, u) − L(x, U_N) ≤ (‖x − x0‖²/τ + ‖u − u0‖²/σ)/N. No term's prox is ever joined with the smooth one.
Source: Condat, "A primal-dual splitting method for convex optimization" (2013), theorem 3.1; Vũ (2013);
Chambolle & Pock (2016), theorem 1 for the bound.
"""

from __future__ import annotations

import dataclasses
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from corollary.core.certificate import Certificate, rounding
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.splitting import _linear_map as lm
from corollary.optim.splitting._chambolle_pock import (
    MARGIN,
    Averages,
    Pair,
    check_steps,
    ergodic_gap,
    primal_dual,
    rebalanced,
    stretched,
)
from corollary.optim.splitting._splitting import Splitting, covered, curvature_guess, settle, splitting

FIRST_BALANCE = 16  # then at every doubling of the step count, so that the steps settle


class CondatVuState(eqx.Module):
    """The answer x, the pair with its ∇s(x), the averages, and the steps with the constants they rest on."""

    x: PyTree
    point: Pair
    gradient: PyTree
    averages: Averages
    anchor: Pair
    knorm: Scalar
    lipschitz: Scalar
    weight: Scalar  # σ = weight
    count: Int[Array, ""]
    first: tuple[Scalar, Scalar]


@final
class CondatVu(Solver):
    """Condat-Vũ for a `Splitting`. Cost: one product with K, one with Kᵀ and one gradient a step.

    Parameters
    ----------
    tau, sigma
        Step lengths with 1/τ ≥ L + σ‖K‖². Left out, they come from L (of the smooth term, else estimated and raised
        where the function proves steeper) and an estimate of ‖K‖, and are rebalanced at every doubling of the steps.

    Raises
    ------
    InputError
        For steps that are not positive, only one of them given, or another kind of problem.

    Notes
    -----
    Certificates: those of `minimize`; with `tau` and `sigma` given, ``ergodic_gap`` (theorem): the averages' partial
    gap at the last iterate against its bound. ``stats["average"]`` holds the averages.

    Examples
    --------
    >>> from corollary.optim import LeastSquares, Splitting, minimize, penalties
    >>> fit = LeastSquares([[1.0, 0.0], [0.0, 1.0]], [3.0, 1.0])
    >>> problem = Splitting(penalties.Nonnegative(), penalties.L1(0.5), [[-1.0, 1.0]], smooth=fit)
    >>> minimize(problem, solver=CondatVu(), tol=1e-9).value.round(4).tolist()
    [2.5, 1.5]
    """

    tau: Any = None
    sigma: Any = None

    def __check_init__(self):
        """Refuse steps that are not positive, and one without the other."""
        check_steps(self.tau, self.sigma)

    def check(self, problem: Problem) -> None:
        """A `Splitting`."""
        splitting(problem)

    def init(self, problem: Splitting, x0: PyTree) -> CondatVuState:
        """The state at x0, with u = 0."""
        x0 = jax.tree.map(jnp.asarray, x0)
        knorm = MARGIN * lm.norm_squared(problem.K, x0)
        L = like(0.0, x0)
        if problem.smooth is not None:
            known = problem.smooth.lipschitz()
            L = like(problem.smooth.curvature(x0) if known is None else known, x0)
        Kx = problem.forward(x0)
        pair = Pair(x0, optax.tree.zeros_like(Kx), Kx, optax.tree.zeros_like(x0))
        _, gradient = problem.slope(x0)
        zero = like(0.0, x0)
        weight = curvature_guess(problem, x0, knorm) if self.sigma is None else like(self.sigma, x0)
        return CondatVuState(
            x0, pair, gradient, Averages(pair, pair), pair, knorm, L, weight, jnp.int32(0), (zero, zero)
        )

    def _steps(self, state: CondatVuState) -> tuple[Scalar, Scalar]:
        if self.tau is not None:
            return like(self.tau, state.x), like(self.sigma, state.x)
        return 1 / (state.lipschitz + state.weight * state.knorm), state.weight

    def step(self, problem: Splitting, state: CondatVuState) -> tuple[CondatVuState, Info]:
        """x⁺, then u⁺."""
        z = state.point
        L = state.lipschitz
        if self.tau is None:

            def move(L):
                tau = 1 / (L + state.weight * state.knorm)
                return problem.f.prox(optax.tree.add_scale(z.x, -tau, optax.tree.add(z.KTu, state.gradient)), tau)

            L = covered(problem, L, z.x, move)
        state = dataclasses.replace(state, lipschitz=L)
        tau, sigma = self._steps(state)
        new, point = primal_dual(problem, z, None, state.gradient, tau, sigma)
        first = settle(state.first, point, state.count)
        info = problem.measure(point, tau, first)

        count = state.count + 1
        share = like(1 / count.astype(tau.dtype), z.x)
        mean = optax.tree.add_scale(state.averages.mean, share, optax.tree.sub(new, state.averages.mean))
        weight, anchor = state.weight, state.anchor
        if self.tau is None:
            # At powers of two: σ from how far u and x have moved since the last time.
            now = (count >= FIRST_BALANCE) & ((count & (count - 1)) == 0)
            moved = norm(optax.tree.sub(new.x, anchor.x)), norm(optax.tree.sub(new.u, anchor.u))
            half = jnp.sqrt(state.knorm)
            weight = jnp.where(now, rebalanced(weight * half, *moved, z.x, z.u) / half, weight)
            anchor = optax.tree.where(now, new, anchor)
        return CondatVuState(
            x=new.x,
            point=new,
            gradient=point.gradient,
            averages=Averages(state.averages.start, mean),
            anchor=anchor,
            knorm=stretched(state.knorm, z.x, new.x, z.Kx, new.Kx),
            lipschitz=L if self.tau is None else _steeper(problem, L, z.x, new.x),
            weight=weight,
            count=count,
            first=first,
        ), info

    def certify(self, problem: Splitting, state: CondatVuState) -> dict[str, Certificate]:
        """The theorem's bound on the averages' partial gap, where the steps were constant."""
        if self.tau is None:
            return {}
        tau, sigma = self._steps(state)
        L, seen = state.lipschitz, state.knorm
        certificate = ergodic_gap(problem, state.averages, state.point, tau, sigma, state.count, L, seen, True)
        return {} if certificate is None else {"ergodic_gap": certificate}

    def stats(self, problem: Splitting, state: CondatVuState) -> dict[str, Any]:
        """The dual answer, the averages, the steps."""
        tau, sigma = self._steps(state)
        return {"dual": state.point.u, "average": state.averages.mean.x, "tau": tau, "sigma": sigma}


def _steeper(problem: Splitting, L: Scalar, old: PyTree, new: PyTree) -> Scalar:
    """L, raised where the smooth term's linear model has failed it."""
    if problem.smooth is None or problem.smooth.lipschitz() is not None:
        return L
    dx = norm(optax.tree.sub(new, old))
    z = problem.smooth.forward(old)
    error = problem.smooth.bregman(problem.smooth.forward(new), z)
    error = error - rounding(problem.smooth.loss(z))
    seen = 2 * error / jnp.where(dx > 0, dx, 1) ** 2
    return jnp.where((dx > 0) & (seen > L), 1.2 * seen, L)
