"""Restarted PDHG for linear and quadratic programmes, in the style of PDLP: only products with the matrix.

    x⁺ = clip(x − τ(P x + c + Aᵀu)),    v = u + σA(2x⁺ − x),    u⁺ = v − σ·clip(v/σ; rows' limits).

Rows and columns are scaled first (Ruiz, then Pock-Chambolle, after which ‖A‖ ≤ 1); a step is reflected and averaged
with the last restart's point (Halpern); it restarts when its own residual has fallen enough, and balances τ against σ
by the ways that x and u have gone. Convergence is linear for every feasible and bounded linear programme. An iteration:
one product with A, one with Aᵀ (and one with P). Of a problem without a solution the difference of iterates tends to a
ray that proves it. Source: Applegate et al. (2021); Lu & Yang, "Restarted Halpern PDHG for linear
programming" (2024); Pock & Chambolle, "Diagonal preconditioning" (2011), lemma 2.
"""

from __future__ import annotations

import dataclasses
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, Int

from corollary.core import operator, validation
from corollary.core.certificate import rounding
from corollary.core.errors import InputError
from corollary.core.operator import Sparse
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.splitting._chambolle_pock import MARGIN, rebalanced, restart_now
from corollary.optim.splitting._linear_map import POWER_STEPS
from corollary.optim.splitting._programs import Accuracy, Program, accuracy, program
from corollary.optim.splitting._splitting import SETTLING

RUIZ_ROUNDS = 10
RELIEF = 1e-3  # where a number vanishes at the solution: this part of its size in the first steps
RAY = 1e-6  # how nearly a ray has to prove that there is no solution


class Iterate(eqx.Module):
    """A pair in scaled variables with its products, all linear in it."""

    x: Array
    u: Array
    Ax: Array
    ATu: Array
    Px: Array | None


class RestartedPDHGState(eqx.Module):
    """The answer x, the iterates in scaled variables, and what decides on steps and restarts."""

    x: Array
    row: Float[Array, " m"]  # the scaling: A is taken as row ∘ A ∘ column
    column: Float[Array, " n"]
    last: Iterate  # T(z), which the answer is read off
    point: Iterate  # z
    anchor: Iterate
    before: Iterate  # the z that `last` came from
    anorm: Scalar  # ‖A‖² and ‖P‖ of the scaled problem
    pnorm: Scalar
    weight: Scalar
    since: Int[Array, ""]
    count: Int[Array, ""]
    restarts: Int[Array, ""]
    opening: Scalar
    latest: Scalar
    first: Float[Array, "3"]
    found: Accuracy


@final
class RestartedPDHG(Solver):
    """Restarted PDHG (PDLP style) for a `LinearProgram` or a `QuadraticProgram`.

    Parameters
    ----------
    inner
        Iterations per step of the driver: certificates and restarts are looked at after that many.

    Notes
    -----
    `minimize` stops where the largest of three relative numbers is within `tol`: the rows' violation, the dual
    residual, and the gap. ``stats`` has each, the multipliers ``dual``, ``iterations``, ``restarts``, and two flags
    ``primal_infeasible`` (no feasible point of norm up to a million times ‖x‖) and ``dual_infeasible`` (the objective
    falls along a ray; the run then ends). Where all bounds are finite, ``lower_bound`` is a true lower bound of the
    minimum. Certificate ``stationarity`` (monitor): the largest of the three.

    Examples
    --------
    >>> from corollary.optim import LinearProgram, minimize
    >>> problem = LinearProgram([1.0, 1.0], A_eq=[[1.0, 2.0]], b_eq=[2.0])
    >>> solution = minimize(problem, solver=RestartedPDHG(), tol=1e-9)
    >>> solution.value.round(4).tolist(), solution.stats["dual"].round(4).tolist()
    ([0.0, 1.0], [-0.5])
    """

    inner: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        """Refuse a count that is not positive."""
        validation.integer(1)("inner", self.inner)

    def check(self, problem: Problem) -> None:
        """A programme."""
        program(problem)

    def init(self, problem: Program, x0: Array) -> RestartedPDHGState:
        """The scaled problem at x0, with u = 0."""
        x0 = jnp.clip(jnp.asarray(x0), jnp.asarray(problem.lower), jnp.asarray(problem.upper))
        row, column = _scaling(problem.A)
        m, dtype = row.shape[0], x0.dtype
        A, AT, P = _products(problem, row, column)
        x, u = x0 / column, jnp.zeros((m,), dtype)
        z = Iterate(x, u, A(x), jnp.zeros_like(x), None if P is None else P(x))
        # Pock and Chambolle's scaling has brought ‖A‖ to 1 at most.
        anorm = jnp.clip(MARGIN * _largest(lambda v: AT(A(v)), x), 1e-8, 1.0)
        pnorm = jnp.zeros((), dtype) if P is None else MARGIN * _largest(P, x)
        b = row * _finite_limit(problem)
        # Without right-hand sides the bounds tell the size of x.
        sides = [jnp.where(jnp.isfinite(v), jnp.abs(v), 0) for v in map(jnp.asarray, (problem.lower, problem.upper))]
        b = jnp.where(norm(b) > 0, norm(b), norm(jnp.maximum(*sides) / column))
        cost, side = norm(column * jnp.asarray(problem.c)), norm(b)
        usable = (cost > 0) & (side > 0)
        weight = jnp.where(usable, jnp.where(usable, cost, 1) / jnp.where(usable, side, 1), 1.0)
        zero, none = jnp.zeros((), dtype), jnp.int32(0)
        found = accuracy(problem, x0, row * u, z.Ax / row, z.ATu, None if z.Px is None else z.Px / column)
        return RestartedPDHGState(
            x0,
            row,
            column,
            z,
            z,
            z,
            z,
            anorm,
            pnorm,
            weight,
            none,
            none,
            none,
            zero,
            zero,
            jnp.zeros((3,), dtype),
            found,
        )

    def step(self, problem: Program, state: RestartedPDHGState) -> tuple[RestartedPDHGState, Info]:
        """`inner` iterations, then the certificate, and perhaps a restart."""
        row, column = state.row, state.column
        tau, sigma = _steps(state)
        advance = _iteration(problem, row, column, tau, sigma)
        reflect = jnp.where(state.pnorm > 0, 1.5, 2.0).astype(tau.dtype)

        def body(i, carry):
            _, z, _ = carry
            new = advance(z)
            share = 1 / ((state.since + i).astype(tau.dtype) + 2)
            after = jax.tree.map(
                lambda t, z, a: (1 - share) * (reflect * t + (1 - reflect) * z) + share * a, new, z, state.anchor
            )
            return new, after, z

        new, after, z = jax.lax.fori_loop(0, self.inner, body, (state.last, state.point, state.before))
        dx, du, dA = new.x - z.x, new.u - z.u, new.Ax - z.Ax
        error = jnp.sqrt(jnp.maximum(dx @ dx / tau + du @ du / sigma - 2 * (du @ dA), 0))
        count, since = state.count + self.inner, state.since + self.inner
        opening = jnp.where(state.since == 0, error, state.opening)
        restarts = (state.since > 0) & restart_now(error, state.latest, opening, since, count)
        moved = norm(new.x - state.anchor.x), norm(new.u - state.anchor.u)
        weight = jnp.where(restarts, rebalanced(state.weight, *moved, z.x, z.u), state.weight)

        x = jnp.clip(column * new.x, jnp.asarray(problem.lower), jnp.asarray(problem.upper))
        Px = None if new.Px is None else new.Px / column
        found = accuracy(problem, x, row * new.u, new.Ax / row, new.ATu / column, Px)
        early = state.count < SETTLING * self.inner
        first = jnp.where(early, jnp.maximum(state.first, found.sizes), state.first)
        sizes = jnp.maximum(RELIEF * first, found.sizes)
        residual = jnp.max(_relative(found, sizes))
        floor = rounding(jnp.ones_like(residual))
        extra = {"primal_residual": found.primal, "dual_residual": found.dual, "gap": found.gap}
        one = jnp.ones_like(residual)
        info = Info(found.primal_objective, residual, one, floor, tau, merit=residual, extra=extra)
        unbounded = _dual_infeasible(problem, state, dx) & (count > 100)
        fallen = jnp.where(unbounded, -jnp.inf, info.objective)  # which ends the run
        info = dataclasses.replace(info, objective=fallen, unbounded=unbounded)
        return RestartedPDHGState(
            x=x,
            row=row,
            column=column,
            last=new,
            point=_choose(restarts, new, after),
            anchor=_choose(restarts, new, state.anchor),
            before=z,
            anorm=state.anorm,
            pnorm=state.pnorm,
            weight=weight,
            since=jnp.where(restarts, 0, since),
            count=count,
            restarts=state.restarts + restarts.astype(jnp.int32),
            opening=opening,
            latest=error,
            first=first,
            found=found,
        ), info

    def stats(self, problem: Program, state: RestartedPDHGState) -> dict[str, Any]:
        """The three numbers, the multipliers, counts, and whether a ray proves that there is no solution."""
        found = state.found
        relative = _relative(found, jnp.maximum(RELIEF * state.first, found.sizes))
        dx, du = state.last.x - state.before.x, state.last.u - state.before.u
        bounded = jnp.all(jnp.isfinite(jnp.asarray(problem.lower)) & jnp.isfinite(jnp.asarray(problem.upper)))
        return {
            "dual": state.row * state.last.u,
            "primal_residual": relative[0],
            "dual_residual": relative[1],
            "gap": relative[2],
            "dual_objective": found.dual_objective,
            "lower_bound": jnp.where(bounded, found.dual_objective, -jnp.inf),
            "iterations": state.count,
            "restarts": state.restarts,
            "primal_infeasible": _primal_infeasible(problem, state, du),
            "dual_infeasible": _dual_infeasible(problem, state, dx),
        }


def _relative(found: Accuracy, sizes: Float[Array, "3"]) -> Float[Array, "3"]:
    return jnp.stack([found.primal, found.dual, found.gap]) / jnp.where(sizes > 0, sizes, 1)


def _steps(state: RestartedPDHGState) -> tuple[Scalar, Scalar]:
    root = jnp.sqrt(state.anorm)
    return 1 / (state.pnorm + state.weight * root), state.weight / root


def _products(problem: Program, row: Array, column: Array) -> tuple[Any, Any, Any]:
    A, AT, P = problem.A, problem.A.T, problem.P
    scaled = None if P is None else lambda x: column * P.mv(column * x)
    return lambda x: row * A.mv(column * x), lambda u: column * AT.mv(row * u), scaled


def _iteration(problem: Program, row: Array, column: Array, tau: Scalar, sigma: Scalar):
    A, AT, P = _products(problem, row, column)
    c, lower, upper = (
        jnp.asarray(problem.c) * column,
        *(jnp.asarray(v) / column for v in (problem.lower, problem.upper)),
    )
    low, high = (jnp.asarray(v) * row for v in (problem.row_lower, problem.row_upper))

    def advance(z: Iterate) -> Iterate:
        slope = c + z.ATu if z.Px is None else c + z.ATu + z.Px
        x = jnp.clip(z.x - tau * slope, lower, upper)
        Ax = A(x)
        v = z.u + sigma * (2 * Ax - z.Ax)
        u = v - jnp.clip(v, sigma * low, sigma * high)
        return Iterate(x, u, Ax, AT(u), None if P is None else P(x))

    return advance


def _choose(which: Array, a: Iterate, b: Iterate) -> Iterate:
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), a, b)


def _finite_limit(problem: Program) -> Array:
    low, high = jnp.asarray(problem.row_lower), jnp.asarray(problem.row_upper)
    return jnp.where(jnp.isfinite(high), high, jnp.where(jnp.isfinite(low), low, 0))


def _largest(product: Any, x: Array) -> Scalar:
    """The largest eigenvalue of a positive semidefinite map, by power iteration from a fixed start."""
    v = jax.random.normal(jax.random.key(0), x.shape, x.dtype)
    turn = lambda _, v: product(v / jnp.maximum(norm(v), jnp.finfo(v.dtype).tiny))  # noqa: E731
    return norm(jax.lax.fori_loop(0, POWER_STEPS, turn, v))


def _scaling(A: lx.AbstractLinearOperator) -> tuple[Float[Array, " m"], Float[Array, " n"]]:
    """Ruiz's rounds by the largest entries, then Pock and Chambolle's by the sums of moduli."""
    m, n = operator.shape(A)
    if not isinstance(A, Sparse | lx.MatrixLinearOperator):
        raise InputError(f"A: found {type(A).__name__}, expected a dense or a sparse matrix")

    def by(largest: bool, r: Array, c: Array) -> tuple[Array, Array]:
        """The largest (or the sum) of the scaled moduli of each row, and of each column."""
        if isinstance(A, Sparse):
            rows, columns = A.rows, A.matrix.indices
            entries = jnp.abs(A.matrix.data) * r[rows] * c[columns]
            kernel = jax.ops.segment_max if largest else jax.ops.segment_sum
            return jnp.maximum(kernel(entries, rows, m), 0), jnp.maximum(kernel(entries, columns, n), 0)
        entries = jnp.abs(jnp.asarray(A.matrix)) * r[:, None] * c
        kernel = jnp.max if largest else jnp.sum
        return kernel(entries, axis=1), kernel(entries, axis=0)

    def root(v):
        return jnp.where(v > 0, 1 / jnp.sqrt(jnp.where(v > 0, v, 1)), 1.0)

    def rescale(largest: bool, r: Array, c: Array) -> tuple[Array, Array]:
        by_row, by_column = by(largest, r, c)
        return r * root(by_row), c * root(by_column)

    start = jnp.ones((m,), operator.dtype(A)), jnp.ones((n,), operator.dtype(A))
    r, c = jax.lax.fori_loop(0, RUIZ_ROUNDS, lambda _, rc: rescale(True, *rc), start)
    return rescale(False, r, c)


def _moduli(A: lx.AbstractLinearOperator, x: Array) -> Float[Array, " m"]:
    """|A| x."""
    if isinstance(A, Sparse):
        m = operator.shape(A)[0]
        return jax.ops.segment_sum(jnp.abs(A.matrix.data) * x[A.matrix.indices], A.rows, m)
    return jnp.abs(jnp.asarray(A.matrix)) @ x  # type: ignore[union-attr]


def _primal_infeasible(problem: Program, state: RestartedPDHGState, du: Array) -> Array:
    """A dual ray y with no reduced cost left over and a positive objective: Farkas."""
    y = state.row * du
    ATy = problem.A.T.mv(y)
    low, high = jnp.asarray(problem.row_lower), jnp.asarray(problem.row_upper)
    y = jnp.where((y > 0) & ~jnp.isfinite(high) | (y < 0) & ~jnp.isfinite(low), 0, y)
    costless = eqx.tree_at(lambda p: p.c, problem, jnp.zeros_like(jnp.asarray(problem.c)))
    ray = accuracy(costless, state.x, y, problem.A.mv(state.x), ATy, None)
    # A feasible t has dual_objective ≤ −⟨the reduced costs left over, t⟩ ≤ ray.dual·‖t‖.
    return (ray.dual_objective > 0) & (ray.dual * norm(state.x) <= RAY * ray.dual_objective)


def _dual_infeasible(problem: Program, state: RestartedPDHGState, dx: Array) -> Array:
    """A primal ray d that no bound and no row stops and along which the objective falls."""
    d = state.column * dx
    lower, upper = jnp.isfinite(jnp.asarray(problem.lower)), jnp.isfinite(jnp.asarray(problem.upper))
    d = jnp.where((d < 0) & lower | (d > 0) & upper, 0, d)
    Ad = problem.A.mv(d)
    stopped = jnp.where(jnp.isfinite(jnp.asarray(problem.row_upper)), jnp.maximum(Ad, 0), 0)
    stopped = stopped + jnp.where(jnp.isfinite(jnp.asarray(problem.row_lower)), jnp.maximum(-Ad, 0), 0)
    fall = -(jnp.asarray(problem.c) @ d)
    falls = fall > 1e-3 * norm(jnp.asarray(problem.c)) * norm(d)
    straight = True if problem.P is None else norm(problem.P.mv(d)) <= RAY * fall / norm(d)
    size = jnp.sqrt(state.anorm) * norm(d / state.column)
    candidate = falls & straight & (norm(state.row * stopped) <= RAY * size)

    def unstopped() -> Array:
        # Row by row: a row with a small coefficient stops the ray just as well, after a longer way. What it takes from
        # the ray must be nothing but the rounding of its own terms.
        return jnp.all(stopped <= 64 * jnp.finfo(d.dtype).eps * _moduli(problem.A, jnp.abs(d)))

    return jax.lax.cond(candidate, unstopped, lambda: jnp.array(False))
