"""b ↦ A⁻¹b in one pass, by the structure of A: what `solve` refines and certifies, and what Kronecker factors call.

Structured operators bring their own `solve`; lineax solves dense, triangular, diagonal and tridiagonal matrices; all
else goes to preconditioned CG (positive semidefinite) or GMRES. No certificate is issued here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Inexact

from corollary.linalg.structured._base import square

Solve = Callable[[Inexact[Array, " n"]], Inexact[Array, " n"]]

CONCRETE = (
    lx.MatrixLinearOperator,
    lx.DiagonalLinearOperator,
    lx.TridiagonalLinearOperator,
    lx.IdentityLinearOperator,
)
DIRECT = {
    "LU": lx.LU,
    "Cholesky": lx.Cholesky,
    "triangular substitution": lx.Triangular,
    "division by the diagonal": lx.Diagonal,
    "tridiagonal elimination": lx.Tridiagonal,
}


class Plan(NamedTuple):
    """How A is inverted: in words, and a function that factorises and returns the map."""

    name: str
    build: Callable[[], Solve]


def inverse(A: lx.AbstractLinearOperator, solver: str = "auto") -> Solve:
    """The map b ↦ A⁻¹b on vectors; factorisations are made once, here."""
    return plan(A, solver).build()


def plan(A: lx.AbstractLinearOperator, solver: str = "auto", positive: bool = False) -> Plan:
    """Choose by structure; nothing is computed yet."""
    square("A", A)
    if solver in ("cg", "gmres"):
        return Plan(solver, lambda: lambda b: krylov(A, b, None, solver == "cg"))
    if isinstance(A, lx.TaggedLinearOperator) and not isinstance(A.operator, CONCRETE):
        return plan(A.operator, solver, positive or lx.is_positive_semidefinite(A))
    if hasattr(A, "preconditioner"):  # an iteration, which gains from knowing that A is positive
        name = f"{'cg' if positive else 'gmres'}, circulant preconditioner"
        return Plan(name, lambda: lambda b: A.solve(b, positive=positive))  # type: ignore[attr-defined]
    if hasattr(A, "solve"):
        return Plan(f"the structure of {type(A).__name__}", lambda: A.solve)  # type: ignore[attr-defined]
    match A:
        case lx.ComposedLinearOperator() if A.operator1.in_size() == A.operator1.out_size():
            outer, inner = plan(A.operator1), plan(A.operator2)

            def both() -> Solve:
                first, then = outer.build(), inner.build()
                return lambda b: then(first(b))

            return Plan(f"{outer.name}, then {inner.name}", both)
        case lx.MulLinearOperator() | lx.DivLinearOperator() | lx.NegLinearOperator():
            core = plan(A.operator, solver, positive and not isinstance(A, lx.NegLinearOperator))
            return Plan(core.name, lambda: _rescaled(A, core.build()))
    if isinstance(A, (*CONCRETE, lx.TaggedLinearOperator)):
        return _direct(A)
    positive = positive or lx.is_positive_semidefinite(A)
    return Plan("cg" if positive else "gmres", lambda: lambda b: krylov(A, b, None, positive))


def _rescaled(A: Any, solve: Solve) -> Solve:
    match A:
        case lx.MulLinearOperator():
            return lambda b: solve(b) / A.scalar
        case lx.DivLinearOperator():
            return lambda b: solve(b) * A.scalar
        case _:
            return lambda b: -solve(b)


def _direct(A: lx.AbstractLinearOperator) -> Plan:
    rule = lx.AutoLinearSolver(well_posed=True)
    chosen = rule.select_solver(A)
    name = next((name for name, kind in DIRECT.items() if isinstance(chosen, kind)), type(chosen).__name__)

    def build() -> Solve:
        state = rule.init(A, {})
        return lambda b: lx.linear_solve(A, b, rule, state=state, throw=False).value

    return Plan(name, build)


def krylov(
    A: lx.AbstractLinearOperator, b: Inexact[Array, " n"], M: lx.AbstractLinearOperator | None, positive: bool
) -> Inexact[Array, " n"]:
    """CG (A and M positive definite) or restarted GMRES to half the digits; the outer refinement doubles them.

    Asking for half the digits at a time keeps the stopping rule ‖r‖ <= rtol ‖b‖ within reach at any condition number
    below 1/√eps, and lets refinement with fresh residuals do the rest.
    """
    rtol = float(jnp.finfo(b.dtype).eps) ** 0.5
    n = b.shape[0]
    limit = min(10 * n, 1000 if M is None else 240)  # with a preconditioner: soon, or not at all
    tags: Any = lx.positive_semidefinite_tag
    options = {} if M is None else {"preconditioner": lx.TaggedLinearOperator(M, tags) if positive else M}
    if positive:
        rule: Any = lx.CG(rtol, 0.0, max_steps=limit, norm=jnp.linalg.norm)
        return lx.linear_solve(lx.TaggedLinearOperator(A, tags), b, rule, options=options, throw=False).value
    rule = lx.GMRES(rtol, 0.0, max_steps=limit, restart=min(n, 40), norm=jnp.linalg.norm)
    value = lx.linear_solve(A, b, rule, options=options, throw=False).value
    return jnp.where(jnp.all(jnp.isfinite(value)), value, jnp.zeros_like(b))


def columns(solve: Solve) -> Callable[[Inexact[Array, "n k"]], Inexact[Array, "n k"]]:
    """The same on every column of a block."""
    return jax.vmap(solve, in_axes=1, out_axes=1)
