"""Sequential quadratic programming for equality constraints: Newton's method on the KKT system, made global by a merit.

At x with multipliers ν each step solves  min ½ dᵀ∇²L d + ∇fᵀd  subject to  c + J d = 0,  L = f + νᵀc, whose KKT
conditions are Newton's equations for ∇L = 0, c = 0. Here in two parts: the shortest step back to the linearised
constraint, and a step in the null space of J with the reduced Hessian's eigenvalues made positive (|Λ|), so that it
goes downhill for f + μ‖c‖ whatever the curvature; a second-order correction keeps that merit from rejecting good steps
(Maratos' effect). Converges quadratically with least-squares multipliers. Cost a step: an SVD of J, an eigenproblem of
size n − m, and n Hessian products. J of deficient rank is taken by its pseudoinverse.
Source: Nocedal & Wright, "Numerical Optimization" (2006), algorithm 18.3, equations (18.36) and (15.27), theorem 18.4.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import floats, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.smooth._modified_newton import Spectrum
from corollary.optim.smooth._newton import Vector

C1, TRIALS = 1e-4, 40


@final
class EqualityConstrained(Problem):
    """Minimise f(x) subject to c(x) = 0.

    Parameters
    ----------
    function
        f: x to a scalar, twice differentiable; x any array or pytree.
    constraints
        c: x to an array or pytree of residuals, zero where x is feasible.

    Examples
    --------
    >>> from corollary.optim import minimize
    >>> problem = EqualityConstrained(lambda x: x[0] + x[1], lambda x: x @ x - 2)
    >>> solution = minimize(problem, [1.0, -0.5], tol=1e-10)
    >>> solution.value.round(6).tolist(), solution.stats["multipliers"].round(6).tolist()
    ([-1.0, -1.0], [0.5])
    """

    function: Any
    constraints: Any

    def __check_init__(self):
        """Refuse what cannot be called."""
        for name in ("function", "constraints"):
            if not callable(getattr(self, name)):
                raise InputError(f"{name}: found {type(getattr(self, name)).__name__}, expected a function of x")

    @follows_input
    def objective(self, x: Any) -> Any:
        """f(x)."""
        return self.function(floats(x))

    def claims(self) -> tuple[str, str]:
        """The KKT residual; there is no gap."""
        return "max(‖∇f + Jᵀν‖/‖∇f‖, ‖c(x)‖/(‖J‖‖x‖)) <= tol", super().claims()[1]

    def default_solver(self) -> tuple[Solver, str]:
        """`SQP`."""
        return SQP(), "equality constraints: Newton's method on the KKT system"


class SQPState(eqx.Module):
    """The iterate; f, ∇f, c, J there; the pseudoinverse and null space of J; multipliers, penalty and scales."""

    x: PyTree
    value: Scalar
    gradient: Vector
    constraint: Float[Array, " m"]
    pseudoinverse: Float[Array, "n m"]
    null: Float[Array, "n n"]  # a basis of J's null space, the other columns zero (the rank is not a shape)
    multipliers: Float[Array, " m"]
    penalty: Scalar
    gradient_scale: Scalar
    jacobian: Scalar  # ‖J‖
    reach: Scalar  # the largest ‖x‖ so far: times ‖J‖ it tells the rounding of c
    lowest: tuple[Scalar, Scalar]  # λ_min of the reduced Hessian, and ‖∇²L‖, at the last step's start


@final
class SQP(Solver):
    """Newton-KKT / SQP with a merit function, for `minimize` of an `EqualityConstrained` problem.

    Notes
    -----
    The residual is the larger of ‖∇f + Jᵀν‖ relative to ‖∇f‖ (largest so far) and ‖c‖, less its rounding, relative to
    ‖J‖‖x‖, both at x. ``value`` is the point with the least residual.
    ``stats``: ``multipliers`` ν, with which the minimum changes by −ν_i per unit of c_i = ε_i; ``violation`` ‖c‖,
    ``dual_residual`` ‖∇f + Jᵀν‖. Certificates: ``stationarity``, and ``second_order`` (monitor), the reduced Hessian
    ⪰ 0 at the last step's start. Source: Nocedal & Wright (2006), algorithm 18.3.

    Examples
    --------
    >>> from corollary.optim import minimize
    >>> problem = EqualityConstrained(lambda x: (x**2).sum(), lambda x: x.sum() - 3)
    >>> minimize(problem, [0.0, 0.0, 1.0], SQP(), tol=1e-10).value.round(6).tolist()
    [1.0, 1.0, 1.0]
    """

    def check(self, problem: Problem) -> None:
        """An `EqualityConstrained` problem."""
        if not isinstance(problem, EqualityConstrained):
            raise InputError(f"problem: found {type(problem).__name__}, expected EqualityConstrained")

    def init(self, problem: EqualityConstrained, x0: PyTree) -> SQPState:
        """The state at x0."""
        n = ravel_pytree(x0)[0].size
        m = jax.eval_shape(lambda: _constraint(problem, x0)).size
        if m > n:
            raise InputError(f"constraints: found {m}, expected at most {n}, as there are variables")
        value = problem.function(x0)
        zero = jnp.zeros_like(value)
        return _point(problem, x0, zero, zero, zero, (zero, zero))

    def step(self, problem: EqualityConstrained, state: SQPState) -> tuple[SQPState, Info]:
        """The step of the quadratic program, then the merit's line search."""
        x, unravel = ravel_pytree(state.x)

        def lagrangian(v: Vector) -> Scalar:
            at = unravel(v)
            return problem.function(at) + jnp.dot(state.multipliers, _constraint(problem, at))

        H = jax.jacfwd(jax.grad(lagrangian))(x)
        H = (H + H.T) / 2
        normal = -state.pseudoinverse @ state.constraint
        fixed = jnp.where(jnp.any(state.null != 0, axis=0), 0, jnp.max(jnp.abs(H)))  # directions that J holds
        reduced = Spectrum.of(state.null.T @ H @ state.null + jnp.diag(fixed))
        values, _ = reduced.modified("absolute")
        tangent = state.null @ reduced.solve(values, state.null.T @ (state.gradient + H @ normal))
        d = normal + tangent

        size = norm(state.constraint)
        slope, bend = jnp.dot(state.gradient, d), jnp.maximum(jnp.dot(d, H @ d), 0)
        wanted = (slope + bend / 2) / (size / 2 + jnp.where(size > 0, 0, 1))
        enough = jnp.maximum(wanted, 1.1 * norm(state.multipliers))
        penalty = jnp.where((size > 0) & (enough > state.penalty), 1.5 * enough, state.penalty)
        fall = slope - penalty * size
        base = state.value + penalty * size
        noise = rounding(jnp.abs(state.value) + penalty * size, 8.0)
        noise = noise + penalty * constraint_rounding(state)

        def merit(v: Vector) -> tuple[Scalar, Array]:
            c = _constraint(problem, unravel(v))
            return problem.function(unravel(v)) + penalty * norm(c), c

        def fine(value: Scalar, t: Scalar) -> Array:
            return value <= base + C1 * t * jnp.minimum(fall, 0) + noise

        one = jnp.ones_like(base)
        full, c_full = merit(x + d)
        corrected = d - state.pseudoinverse @ c_full
        second, _ = merit(x + corrected)
        use = ~fine(full, one) & fine(second, one)

        def shorter(carry: tuple) -> tuple:
            t, _, count = carry
            return t / 2, merit(x + d * (t / 2))[0], count + 1

        t, last, _ = jax.lax.while_loop(
            lambda carry: ~fine(carry[1], carry[0]) & ~use & (carry[2] < TRIALS), shorter, (one, full, jnp.int32(0))
        )
        ok = use | fine(last, t)
        moved = jnp.where(ok, jnp.where(use, corrected, t * d), 0)
        low = reduced.values[0], norm(H)
        new = _point(problem, unravel(x + moved), penalty, state.gradient_scale, state.reach, low)
        residual = kkt_residual(new)
        info = Info(
            objective=new.value,
            residual=residual,
            gradient_scale=jnp.ones_like(residual),
            floor=rounding(jnp.ones_like(residual), 4.0),
            step=t,
            merit=residual,
            stuck=~ok | ~jnp.any(moved != 0),
            extra={"violation": norm(new.constraint)},
        )
        return new, info

    def certify(self, problem: EqualityConstrained, state: SQPState) -> dict[str, Certificate]:
        """The reduced Hessian is positive semidefinite."""
        lowest, size = state.lowest
        claim = "−λ_min(Zᵀ∇²L Z) <= rounding, at the last step's start"
        bound = rounding(size, 1e3)
        return {"second_order": Certificate(claim, -lowest, bound, "monitor", "Nocedal & Wright (2006), theorem 12.5")}

    def stats(self, problem: EqualityConstrained, state: SQPState) -> dict[str, Any]:
        """Multipliers and residuals."""
        return {
            "multipliers": state.multipliers,
            "violation": norm(state.constraint),
            "dual_residual": norm(state.null.T @ state.gradient),
            "penalty": state.penalty,
        }


def kkt_residual(state: SQPState) -> Scalar:
    """The larger of the relative residuals; ∇f + Jᵀν with least-squares ν is the part of ∇f in J's null space."""
    dual = norm(state.null.T @ state.gradient) / jnp.where(state.gradient_scale > 0, state.gradient_scale, 1)
    excess = jnp.maximum(norm(state.constraint) - constraint_rounding(state), 0)
    scale = state.jacobian * norm(state.x)
    usable = scale > 0
    primal = excess / jnp.where(usable, scale, 1)
    primal = jnp.where(usable, primal, jnp.where(excess > 0, 1 / jnp.finfo(primal.dtype).eps, 0))
    return jnp.maximum(dual, primal)


def constraint_rounding(state: SQPState) -> Scalar:
    """The rounding of c(x): of its terms, some ‖J‖‖x‖ in size, for the largest x so far."""
    return rounding(state.jacobian * state.reach, 8.0)


def _constraint(problem: EqualityConstrained, x: PyTree) -> Float[Array, " m"]:
    return ravel_pytree(problem.constraints(x))[0]


def _point(
    problem: EqualityConstrained, x: PyTree, penalty: Scalar, g_scale: Scalar, reach: Scalar, lowest: tuple
) -> SQPState:
    """All that a step needs at x."""
    flat, unravel = ravel_pytree(x)
    value, gradient = jax.value_and_grad(lambda v: problem.function(unravel(v)))(flat)

    def constraint(v: Vector) -> tuple[Array, Array]:
        c = _constraint(problem, unravel(v))
        return c, c

    J, c = jax.jacrev(constraint, has_aux=True)(flat)
    m = c.size
    top = jnp.max(jnp.abs(J), initial=0.0)
    top = jnp.where((top > 0) & jnp.isfinite(top), top, 1)
    U, s, Vt = jnp.linalg.svd(jnp.where(jnp.isfinite(J), J, 0) / top, full_matrices=True)
    keep = s > rounding(jnp.max(s, initial=0.0), float(max(J.shape)))
    inverse = jnp.where(keep, 1 / jnp.where(keep, s, 1), 0) / top
    pseudoinverse = (Vt[:m].T * inverse) @ U.T
    g_scale = jnp.maximum(g_scale, norm(gradient))
    reach = jnp.maximum(reach, norm(flat))
    multipliers = -pseudoinverse.T @ gradient
    null = Vt.T * jnp.concatenate([~keep, jnp.ones(flat.size - m, bool)]).astype(flat.dtype)
    return SQPState(x, value, gradient, c, pseudoinverse, null, multipliers, penalty, g_scale, norm(J), reach, lowest)
