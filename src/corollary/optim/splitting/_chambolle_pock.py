"""Chambolle-Pock, the primal-dual hybrid gradient method (PDHG), for f(x) + g(K x).

    x⁺ = prox_{τf}(x − τKᵀu),    u⁺ = prox_{σg*}(u + σK(2x⁺ − x)),    τσ‖K‖² ≤ 1.

Neither term need be smooth, no system is solved: one product with K and one with Kᵀ a step. For the averages X_N, U_N
of the iterates and every (x, u), L(X_N, u) − L(x, U_N) ≤ (‖x − x0‖²/τ + ‖u − u0‖²/σ)/N. The restarted form (default)
steps from a mean of the reflected step and of the last restart's point (Halpern), restarts when the step's own residual
has fallen enough, and balances τ against σ by how far x and u have moved; it is linear where the problem is sharp.
Source: Chambolle & Pock, "On the ergodic convergence rates of a first-order primal-dual algorithm" (2016), theorem 1;
Lu & Yang, "Restarted Halpern PDHG for linear programming" (2024), section 3.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.splitting import _linear_map as lm
from corollary.optim.splitting._splitting import Point, Splitting, curvature_guess, settle, splitting

SUFFICIENT, NECESSARY, ARTIFICIAL = 0.2, 0.8, 0.36
MARGIN = 1.05  # the power iteration's ‖K‖² is a lower bound


class Pair(eqx.Module):
    """(x, u) with its images K x and Kᵀu, all linear in it: means and differences need no product."""

    x: PyTree
    u: PyTree
    Kx: PyTree
    KTu: PyTree


class Averages(eqx.Module):
    """The start, and the mean of the iterates so far."""

    start: Pair
    mean: Pair


class ChambollePockState(eqx.Module):
    """The answer x, the pair to step from, the last restart's pair, and what decides on the next restart."""

    x: PyTree
    point: Pair
    anchor: Pair
    u: PyTree
    averages: Averages | None
    knorm: Scalar  # ‖K‖², as far as known
    weight: Scalar  # ω: τ = η/ω, σ = ηω with η²‖K‖² < 1
    tau: Scalar
    sigma: Scalar
    since: Int[Array, ""]
    count: Int[Array, ""]
    opening: Scalar  # the residual at the restart, and the last one
    latest: Scalar
    first: tuple[Scalar, Scalar]


@final
class ChambollePock(Solver):
    """Chambolle-Pock (PDHG) for a `Splitting` without a smooth term. Cost: one product with K and one with Kᵀ a step.

    Parameters
    ----------
    tau, sigma
        Step lengths with τσ‖K‖² ≤ 1; left out, from an estimate of ‖K‖, balanced as the run goes on (with restarts).
    restart
        ``"halpern"`` (default): restarted Halpern form; None: the method of the theorem, whose averages
        come in ``stats["average"]`` and whose bound is the certificate ``ergodic_gap``.

    Raises
    ------
    InputError
        For steps that are not positive, only one of them given, or another kind of problem.

    Notes
    -----
    Certificates: ``duality_gap`` (exact) or ``stationarity`` (monitor) from `minimize`; with ``restart=None``
    ``ergodic_gap`` (theorem): the averages' partial gap at the last iterate against its bound.

    Examples
    --------
    >>> from corollary.optim import Splitting, minimize, penalties
    >>> problem = Splitting(penalties.Box(1.0, 4.0), penalties.L1(1.0), [[1.0, 1.0], [0.0, 2.0]])
    >>> solution = minimize(problem, solver=ChambollePock(), tol=1e-10)
    >>> solution.value.round(6).tolist(), bool(solution.holds)
    ([1.0, 1.0], True)
    """

    tau: Any = None
    sigma: Any = None
    restart: Literal["halpern"] | None = eqx.field(static=True, default="halpern")

    def __check_init__(self):
        """Refuse steps that are not positive, and one without the other."""
        check_steps(self.tau, self.sigma)
        validation.one_of("halpern", None)("restart", self.restart)

    def check(self, problem: Problem) -> None:
        """A `Splitting` without a smooth term."""
        if splitting(problem).smooth is not None:
            raise InputError("problem: found a smooth term, expected none (CondatVu takes one)")

    def init(self, problem: Splitting, x0: PyTree) -> ChambollePockState:
        """The state at x0, with u = 0."""
        x0 = jax.tree.map(jnp.asarray, x0)
        knorm = MARGIN * lm.norm_squared(problem.K, x0)
        weight = curvature_guess(problem, x0, knorm) * jnp.sqrt(knorm)
        tau, sigma = self._steps(weight, knorm, x0)
        Kx = problem.forward(x0)
        pair = Pair(x0, optax.tree.zeros_like(Kx), Kx, optax.tree.zeros_like(x0))
        averages = None if self.restart else Averages(pair, pair)
        zero, none = like(0.0, x0), jnp.int32(0)
        return ChambollePockState(
            x0, pair, pair, pair.u, averages, knorm, weight, tau, sigma, none, none, zero, zero, (zero, zero)
        )

    def _steps(self, weight: Scalar, knorm: Scalar, x: PyTree) -> tuple[Scalar, Scalar]:
        if self.tau is not None:
            return like(self.tau, x), like(self.sigma, x)
        eta = 1 / jnp.sqrt(knorm)
        return eta / weight, eta * weight

    def step(self, problem: Splitting, state: ChambollePockState) -> tuple[ChambollePockState, Info]:
        """One primal-dual step; with restarts, its reflection averaged with the anchor."""
        z, tau, sigma = state.point, state.tau, state.sigma
        new, point = primal_dual(problem, z, None, optax.tree.zeros_like(z.x), tau, sigma)
        first = settle(state.first, point, state.count)
        info = problem.measure(point, tau, first)

        # K has been met along one more direction: where it stretches more than was known, the steps were too long.
        dx, du = norm(optax.tree.sub(new.x, z.x)), norm(optax.tree.sub(new.u, z.u))
        knorm = stretched(state.knorm, z.x, new.x, z.Kx, new.Kx)

        count = state.count + 1
        if state.averages is not None:
            share, mean = 1 / count.astype(dx.dtype), state.averages.mean
            mean = optax.tree.add_scale(mean, share, optax.tree.sub(new, mean))
            tau, sigma = self._steps(state.weight, knorm, z.x)
            return dataclasses.replace(
                state,
                x=new.x,
                point=new,
                u=new.u,
                averages=Averages(state.averages.start, mean),
                knorm=knorm,
                tau=tau,
                sigma=sigma,
                count=count,
                first=first,
            ), info

        cross = optax.tree.vdot(optax.tree.sub(new.u, z.u), optax.tree.sub(new.Kx, z.Kx))
        error = jnp.sqrt(jnp.maximum(dx**2 / tau + du**2 / sigma - 2 * cross, 0))
        opening = jnp.where(state.since == 0, error, state.opening)
        restarts = restart_now(error, state.latest, opening, state.since, count) | (knorm > state.knorm)
        moved = norm(optax.tree.sub(new.x, state.anchor.x)), norm(optax.tree.sub(new.u, state.anchor.u))
        weight = jnp.where(restarts, rebalanced(state.weight, *moved, z.x, z.u), state.weight)
        tau, sigma = self._steps(weight, knorm, z.x)
        k = state.since.astype(dx.dtype)
        after = halpern(new, z, state.anchor, k)
        return ChambollePockState(
            x=new.x,
            point=optax.tree.where(restarts, new, after),
            anchor=optax.tree.where(restarts, new, state.anchor),
            u=new.u,
            averages=None,
            knorm=knorm,
            weight=weight,
            tau=tau,
            sigma=sigma,
            since=jnp.where(restarts, 0, state.since + 1),
            count=count,
            opening=opening,
            latest=error,
            first=first,
        ), info

    def certify(self, problem: Splitting, state: ChambollePockState) -> dict[str, Certificate]:
        """The theorem's bound on the averages' partial gap, at the last iterate."""
        if state.averages is None:
            return {}
        steps, given = (state.tau, state.sigma), self.tau is not None
        certificate = ergodic_gap(problem, state.averages, state.point, *steps, state.count, None, state.knorm, given)
        return {} if certificate is None else {"ergodic_gap": certificate}

    def stats(self, problem: Splitting, state: ChambollePockState) -> dict[str, Any]:
        """The dual answer, the steps, and the averages where they are kept."""
        found: dict[str, Any] = {"dual": state.u, "tau": state.tau, "sigma": state.sigma}
        return found if state.averages is None else found | {"average": state.averages.mean.x}


def primal_dual(
    problem: Splitting, z: Pair, theta: Any, gradient: PyTree, tau: Scalar, sigma: Scalar
) -> tuple[Pair, Point]:
    """The step from z, where ∇s(z.x) = gradient, and the new point with all that its certificate needs."""
    pull = optax.tree.add(z.KTu, gradient)
    x = problem.f.prox(optax.tree.add_scale(z.x, -tau, pull), tau)
    Kx = problem.forward(x)
    ahead = jax.tree.map(lambda new, old: 2 * new - old, Kx, z.Kx)
    u, p = problem.dual_prox(optax.tree.add_scale(z.u, sigma, ahead), sigma)
    new = Pair(x, u, Kx, problem.adjoint(u, x))
    xi = jax.tree.map(lambda old, new, w: (old - new) / tau - w, z.x, x, pull)
    theta, after = problem.slope(x)
    point = Point(x, u, Kx, new.KTu, theta, after, xi, p, (norm(x) / tau, norm(u) / sigma))
    return new, point


def stretched(knorm: Scalar, old: PyTree, new: PyTree, Kold: PyTree, Knew: PyTree) -> Scalar:
    """‖K‖², raised where K has stretched the last step by more than was known."""
    dx, dK = norm(optax.tree.sub(new, old)), norm(optax.tree.sub(Knew, Kold))
    seen = (dK / jnp.where(dx > 0, dx, 1)) ** 2
    return jnp.where((dx > 1e3 * jnp.finfo(dx.dtype).eps * norm(old)) & (seen > knorm), seen, knorm)


def halpern(new: Pair, z: Pair, anchor: Pair, k: Scalar) -> Pair:
    """(k + 1)/(k + 2)·(2T(z) − z) + 1/(k + 2)·anchor, with T(z) = new."""
    share = 1 / (k + 2)
    return jax.tree.map(lambda t, z, a: (1 - share) * (2 * t - z) + share * a, new, z, anchor)


def restart_now(error: Scalar, latest: Scalar, opening: Scalar, since: Any, count: Any) -> Bool[Array, ""]:
    """Enough progress; some, and none lately; or a long wait."""
    far = since.astype(error.dtype) >= ARTIFICIAL * count.astype(error.dtype)
    some = (error <= NECESSARY * opening) & (error > latest)
    return (since > 0) & ((error <= SUFFICIENT * opening) | some | far)


def rebalanced(weight: Scalar, dx: Scalar, du: Scalar, x: PyTree, u: PyTree) -> Scalar:
    """ω drawn half way (of its logarithm) to ‖Δu‖/‖Δx‖, where both have moved by more than their rounding."""
    eps = 100 * jnp.finfo(weight.dtype).eps
    told = (dx > eps * norm(x)) & (du > eps * norm(u))
    ratio = jnp.sqrt(jnp.where(told, du, 1)) / jnp.sqrt(jnp.where(told, dx, 1))  # a product would leave float32's range
    return jnp.where(told, jnp.sqrt(weight) * ratio, weight)


def ergodic_gap(
    problem: Splitting,
    averages: Averages,
    at: Pair,
    tau: Scalar,
    sigma: Scalar,
    count: Any,
    smooth: Scalar | None,
    seen: Scalar,
    given: bool,
) -> Certificate | None:
    """L(X_N, u) − L(x, U_N) ≤ (‖x − x0‖²/τ + ‖u − u0‖²/σ)/N at the pair (x, u); None where g* is not known."""
    mean, start = averages.mean, averages.start
    upper, lower = problem.lagrangian(mean.x, mean.Kx, at.u), problem.lagrangian(at.x, at.Kx, mean.u)
    if upper is None or lower is None:
        return None
    distance = norm(optax.tree.sub(at.x, start.x)) ** 2 / tau + norm(optax.tree.sub(at.u, start.u)) ** 2 / sigma
    scale = jnp.abs(upper) + jnp.abs(lower) + distance + norm(mean.Kx) * norm(at.u) + norm(at.Kx) * norm(mean.u)
    # The power iteration's ‖K‖² is a lower bound: it can refute the assumption, not prove it.
    knorm = lm.norm_squared(problem.K, at.x)
    raised = seen > MARGIN * knorm * (1 + 16 * jnp.finfo(knorm.dtype).eps)  # K stretched a step by more
    knorm, constant = jnp.where(raised, seen, knorm), True if given else ~raised
    short = sigma * knorm * tau <= 1 if smooth is None else sigma * knorm <= 1 / tau - smooth
    text = "τσ‖K‖² <= 1" if smooth is None else "σ‖K‖² <= 1/τ − L"
    return Certificate(
        "L(X_N, u) − L(x, U_N) <= (‖x − x0‖²/τ + ‖u − u0‖²/σ)/N",
        upper - lower,
        distance / count.astype(distance.dtype) + rounding(scale, 64.0),
        "theorem",
        "Chambolle & Pock (2016), theorem 1",
        assumptions=(
            Assumption("f and g convex"),
            Assumption("constant steps"),
            Assumption(text),
            Assumption(text + ", not refuted by an estimate of ‖K‖ from below", checked=True, holds=short & constant),
        ),
    )


def check_steps(tau: Any, sigma: Any) -> None:
    """Refuse steps that are not positive, and one without the other."""
    for name, value in (("tau", tau), ("sigma", sigma)):
        if value is not None:
            at_least_zero(name, value, positive=True)
    if (tau is None) != (sigma is None):
        raise InputError(f"{'tau' if tau is None else 'sigma'}: found None, expected both tau and sigma, or neither")
