"""ADMM: the two blocks in turn, then the multiplier.

    x⁺ = argmin_x f(x) + ρ/2‖A x + B z − c + u/ρ‖²,    z⁺ = argmin_z g(z) + ρ/2‖A x⁺ + B z − c + u/ρ‖²,
    u⁺ = u + ρ(A x⁺ + B z⁺ − c).

Primal residual r = A x⁺ + B z⁺ − c, dual residual s = ρAᵀB(z⁺ − z): both vanish exactly at a solution, since
−Bᵀu⁺ ∈ ∂g(z⁺) and −Aᵀu⁺ + s ∈ ∂f(x⁺) hold by construction. With fixed ρ, ρ‖B(z − z*)‖² + ‖u − u*‖²/ρ never grows, and
the averages' objective gap is O(1/k). Over-relaxation replaces A x⁺ by αA x⁺ − (1 − α)(B z − c). ρ is balanced, more
and more rarely, so that neither residual lags. For a `Splitting` with a K other than the identity, or with a smooth
term, the x-step is linearised: a gradient step on all but f, then its prox, so that no system is solved.
Source: Boyd et al. (2011), sections 3.2 to 3.4.3 and appendix A; He & Yuan, "On the O(1/n) convergence rate of the
Douglas-Rachford alternating direction method" (2012), theorem 4.1; linearised: Yang & Yuan (2013).
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from corollary.core import validation
from corollary.core.certificate import rounding
from corollary.core.errors import InputError
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.splitting import _linear_map as lm
from corollary.optim.splitting._chambolle_pock import MARGIN, stretched
from corollary.optim.splitting._splitting import SETTLING, Splitting, covered, curvature_guess
from corollary.optim.splitting._two_block import TwoBlock

FIRST_BALANCE = 5


class ADMMState(eqx.Module):
    """The answer x (the pair (x, z) of a `TwoBlock`), z, the multiplier u, ρ and what balances it."""

    x: PyTree
    z: PyTree
    u: PyTree
    Ax: PyTree
    Bz: PyTree
    rho: Scalar
    knorm: Scalar
    lipschitz: Scalar
    count: Int[Array, ""]
    balance_at: Int[Array, ""]
    first: tuple[Scalar, Scalar]


@final
class ADMM(Solver):
    """ADMM for a `TwoBlock`, or for a `Splitting`. Cost: the two oracles, and a product with A, B and Aᵀ a step.

    Parameters
    ----------
    rho
        ρ > 0 at the start; 1 for a `TwoBlock`, from the problem's own scale for a `Splitting` if left out.
    relaxation
        α in (0, 2); 1.5 to 1.8 is often faster.
    balance
        Let ρ follow the ratio of the residuals (default); False: fixed ρ, the method of the theorems.

    Raises
    ------
    InputError
        For settings out of range, and another kind of problem.

    Notes
    -----
    ``stats``: ``multiplier``, ``primal_residual``, ``dual_residual`` (norms, as they are) and ``rho``; the history has
    both residuals. `minimize` stops on the larger of the two relative to their terms.

    Examples
    --------
    >>> from corollary.optim import Splitting, minimize, penalties
    >>> problem = Splitting(penalties.L1(1.0), penalties.Box(0.5, 2.0))
    >>> minimize(problem, [3.0, -1.0], ADMM(relaxation=1.6), tol=1e-9).value.round(6).tolist()
    [0.5, 0.5]
    """

    rho: Any = None
    relaxation: Any = 1.0
    balance: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        """Refuse settings out of range."""
        if self.rho is not None:
            at_least_zero("rho", self.rho, positive=True)
        at_least_zero("relaxation", self.relaxation, positive=True)
        if not isinstance(self.relaxation, jax.Array):
            validation.number(0.0, 1.9999)("relaxation", self.relaxation)
        validation.flag("balance", self.balance)

    def check(self, problem: Problem) -> None:
        """A `TwoBlock` or a `Splitting`."""
        if not isinstance(problem, TwoBlock | Splitting):
            raise InputError(f"problem: found {type(problem).__name__}, expected a TwoBlock or a Splitting")

    def init(self, problem: Any, x0: PyTree) -> ADMMState:
        """The state at x0, with u = 0; of a `Splitting`, z = K x0."""
        x0 = jax.tree.map(jnp.asarray, x0)
        one, zero = like(1.0, x0), like(0.0, x0)
        if isinstance(problem, TwoBlock):
            (x, z), knorm, L, rho = x0, one, zero, one
            Ax, Bz = lm.forward(problem.A, x), lm.forward(problem.B, z)
        else:
            knorm = MARGIN * lm.norm_squared(problem.K, x0)
            L, rho = zero, curvature_guess(problem, x0, knorm)
            if problem.smooth is not None:
                known = problem.smooth.lipschitz()
                L = like(1.5 * problem.smooth.curvature(x0) if known is None else known, x0)
            Ax = z = problem.forward(x0)
            Bz = jax.tree.map(jnp.negative, z)
        rho = rho if self.rho is None else like(self.rho, x0)
        u = optax.tree.zeros_like(Ax)
        return ADMMState(x0, z, u, Ax, Bz, rho, knorm, L, jnp.int32(0), jnp.int32(FIRST_BALANCE), (zero, zero))

    def step(self, problem: Any, state: ADMMState) -> tuple[ADMMState, Info]:
        """Both blocks and the multiplier, then ρ."""
        rho, alpha = state.rho, like(self.relaxation, state.u)
        two = isinstance(problem, TwoBlock)
        old = state.x[0] if two else state.x
        c = problem.gap(optax.tree.zeros_like(old), optax.tree.zeros_like(state.z)) if two else None
        rest = state.Bz if c is None else optax.tree.add(state.Bz, c)  # B z − c
        target = jax.tree.map(lambda bz, u: -(bz + u / rho), rest, state.u)
        x, Ax, xi, L = _x_step(problem, state, old, target)

        mixed = jax.tree.map(lambda ax, bz: alpha * ax - (1 - alpha) * bz, Ax, rest)
        shift = optax.tree.zeros_like(mixed) if c is None else c
        target = jax.tree.map(lambda ax, u, c: -(ax + c + u / rho), mixed, state.u, shift)
        if two:
            z = problem.argmin_z(target, rho)
            Bz = lm.forward(problem.B, z)
            answer, objective = (x, z), problem.f(x) + problem.g(z)
        else:
            z = problem.g.prox(jax.tree.map(jnp.negative, target), 1 / rho)
            Bz = jax.tree.map(jnp.negative, z)
            answer, objective = x, problem.first(x) + problem.g.value(z)
        u = jax.tree.map(lambda u, ax, bz, c: u + rho * (ax + bz + c), state.u, mixed, Bz, shift)

        # How far the pair is from a solution.
        r = jax.tree.map(lambda ax, bz, c: ax + bz + c, Ax, Bz, shift)
        ATu = lm.adjoint(problem.A if two else problem.K, u, x)
        pull = ATu if two else optax.tree.add(ATu, problem.slope(x)[1])
        primal, dual = norm(r), norm(optax.tree.add(xi, pull))
        sizes = norm(Ax) + norm(Bz) + norm(shift), norm(xi) + norm(pull)
        early = state.count < SETTLING
        first = (
            jnp.where(early, jnp.maximum(state.first[0], sizes[0]), state.first[0]),
            jnp.where(early, jnp.maximum(state.first[1], sizes[1]), state.first[1]),
        )
        sizes = jnp.maximum(first[0], sizes[0]), jnp.maximum(first[1], sizes[1])
        parts = [r / jnp.where(s > 0, s, 1) for r, s in zip((primal, dual), sizes, strict=True)]
        residual = jnp.maximum(*parts)
        floor = rounding(1 + rho * (norm(Ax) + norm(Bz)) / jnp.where(sizes[1] > 0, sizes[1], 1))
        extra = {"primal_residual": primal, "dual_residual": dual}
        info = Info(objective, residual, jnp.ones_like(residual), floor, 1 / rho, merit=residual, extra=extra)

        # ρ follows √(ratio of the relative residuals), tenfold at most, at steps that grow ever rarer.
        count, balance_at = state.count + 1, state.balance_at
        if self.balance:
            told = (parts[0] > 0) & (parts[1] > 0) & (count >= balance_at)
            factor = jnp.sqrt(jnp.where(told, parts[0], 1) / jnp.where(told, parts[1], 1))
            factor = jnp.where(told & ((factor > 1.5) | (factor < 1 / 1.5)), jnp.clip(factor, 0.1, 10.0), 1.0)
            rho = rho * factor
            balance_at = jnp.where(count >= balance_at, count + jnp.maximum(FIRST_BALANCE, count // 4), balance_at)
        knorm = state.knorm if two or problem.K is None else stretched(state.knorm, old, x, state.Ax, Ax)
        return ADMMState(answer, z, u, Ax, Bz, rho, knorm, L, count, balance_at, first), info

    def stats(self, problem: Any, state: ADMMState) -> dict[str, Any]:
        """The multiplier, z, and ρ."""
        return {"multiplier": state.u, "z": state.z, "rho": state.rho}


def _x_step(problem: Any, state: ADMMState, old: PyTree, target: PyTree) -> tuple[PyTree, PyTree, PyTree, Scalar]:
    """x⁺, A x⁺, a member of ∂f(x⁺) (of the smooth term's gradient freed), and the L that covered the step."""
    rho, L = state.rho, state.lipschitz
    if isinstance(problem, TwoBlock):
        x = problem.argmin_x(target, rho)
        Ax = lm.forward(problem.A, x)
        away = lm.adjoint(problem.A, optax.tree.sub(target, Ax), x)
        return x, Ax, optax.tree.scale(rho, away), L
    if problem.K is None and problem.smooth is None:
        x = problem.f.prox(target, 1 / rho)
        return x, x, optax.tree.scale(rho, optax.tree.sub(target, x)), L
    away = problem.adjoint(optax.tree.sub(state.Ax, target), old)
    pull = optax.tree.add_scale(problem.slope(old)[1], rho, away)

    def move(L):
        tau = 1 / (rho * state.knorm + L)
        return problem.f.prox(optax.tree.add_scale(old, -tau, pull), tau)

    L = covered(problem, L, old, move)
    x, tau = move(L), 1 / (rho * state.knorm + L)
    return x, problem.forward(x), jax.tree.map(lambda a, b, w: (a - b) / tau - w, old, x, pull), L
