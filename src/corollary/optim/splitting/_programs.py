"""Linear and quadratic programmes: minimise ½xᵀP x + cᵀx subject to A x ≤ b, A_eq x = b_eq and bounds.

All rows are kept as one matrix with a lower and an upper limit each, dense or sparse. How far a pair (x, u) of answer
and multipliers is from optimal is told by three numbers: the rows' violation, the part of the reduced costs
r = P x + c + Aᵀu that no bound absorbs, and the gap of the primal and the dual objective.
Source: Applegate et al., "Practical large-scale linear programming using primal-dual hybrid gradient" (2021).
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core import operator, precision, validation
from corollary.core.errors import InputError
from corollary.core.operator import Sparse
from corollary.optim._problem import Problem, Solver
from corollary.optim._tree import floats, norm
from corollary.optim.penalties._base import Scalar


class Program(Problem):
    """½xᵀP x + cᵀx subject to row_lower ≤ A x ≤ row_upper and lower ≤ x ≤ upper; P is None for a linear programme."""

    P: eqx.AbstractVar[lx.AbstractLinearOperator | None]
    c: eqx.AbstractVar[Any]
    A: eqx.AbstractVar[lx.AbstractLinearOperator]
    row_lower: eqx.AbstractVar[Any]
    row_upper: eqx.AbstractVar[Any]
    lower: eqx.AbstractVar[Any]
    upper: eqx.AbstractVar[Any]

    @precision.follows_input
    def objective(self, x: Any) -> Any:
        """½xᵀP x + cᵀx, whether x is feasible or not."""
        x = floats(x)
        linear = jnp.asarray(self.c) @ x
        return linear if self.P is None else linear + x @ self.P.mv(x) / 2

    def default_solver(self) -> tuple[Solver, str]:
        """`RestartedPDHG`."""
        from corollary.optim.splitting._restarted_pdhg import RestartedPDHG

        return RestartedPDHG(), "a programme with rows: only products with the matrix"

    def claims(self) -> tuple[str, str]:
        """Of the largest of three relative numbers."""
        worst = "the rows' violation, the dual residual and the gap, each relative to its terms, are <= tol"
        return worst, super().claims()[1]

    def start(self) -> Float[Array, " n"]:
        """The point of the bounds that is nearest to the origin."""
        zero = jnp.zeros((self.A.in_size(),), operator.dtype(self.A))
        return jnp.clip(zero, jnp.asarray(self.lower), jnp.asarray(self.upper))


@final
class LinearProgram(Program):
    """Minimise cᵀx subject to A_ub x ≤ b_ub, A_eq x = b_eq, lower ≤ x ≤ upper.

    Use it where one solve to moderate accuracy (1e-4 to 1e-8 relative) is wanted and the matrix is large; only products
    with it are taken. The data have to be concrete: a programme cannot be built inside a jitted function.

    Parameters
    ----------
    c
        Costs (n,).
    A_ub, b_ub, A_eq, b_eq
        Rows, dense or ``scipy.sparse``, and right-hand sides.
    bounds
        As in SciPy, ``(0, None)`` if left out: a tuple (lower, upper) for all variables, numbers or arrays (n,), None
        for no limit; or a list of such pairs, one per variable.

    Raises
    ------
    InputError
        For data that are not finite or do not fit, no rows at all, and a lower bound above its upper.

    Examples
    --------
    >>> from corollary.optim import minimize
    >>> problem = LinearProgram([-1.0, -2.0], A_ub=[[1.0, 1.0], [1.0, 3.0]], b_ub=[4.0, 6.0])
    >>> minimize(problem, tol=1e-9).value.round(4).tolist()
    [3.0, 1.0]
    """

    P: None
    c: Any
    A: lx.AbstractLinearOperator
    row_lower: Any
    row_upper: Any
    lower: Any
    upper: Any

    def __init__(
        self, c: Any, A_ub: Any = None, b_ub: Any = None, A_eq: Any = None, b_eq: Any = None, bounds: Any = (0, None)
    ):
        self.P = None
        self.c, self.A, self.row_lower, self.row_upper, self.lower, self.upper = _standard(
            "c", c, A_ub, b_ub, A_eq, b_eq, bounds
        )


@final
class QuadraticProgram(Program):
    """Minimise ½xᵀP x + qᵀx subject to A_ub x ≤ b_ub, A_eq x = b_eq, lower ≤ x ≤ upper.

    Parameters
    ----------
    P
        Symmetric positive semidefinite (n, n), dense or ``scipy.sparse``. Symmetry is checked, definiteness assumed.
    q
        Linear term (n,).
    A_ub, b_ub, A_eq, b_eq
        Rows, dense or ``scipy.sparse``, and right-hand sides. Without rows `box_qp` is faster.
    bounds
        As in `LinearProgram`; free if left out.

    Examples
    --------
    >>> from corollary.optim import minimize
    >>> problem = QuadraticProgram([[2.0, 0.0], [0.0, 2.0]], [-2.0, -5.0], A_ub=[[1.0, 1.0]], b_ub=[2.0])
    >>> minimize(problem, tol=1e-9).value.round(4).tolist()
    [0.25, 1.75]
    """

    P: lx.AbstractLinearOperator
    c: Any
    A: lx.AbstractLinearOperator
    row_lower: Any
    row_upper: Any
    lower: Any
    upper: Any

    def __init__(
        self,
        P: Any,
        q: Any,
        A_ub: Any = None,
        b_ub: Any = None,
        A_eq: Any = None,
        b_eq: Any = None,
        bounds: Any = (None, None),
    ):
        self.c, self.A, self.row_lower, self.row_upper, self.lower, self.upper = _standard(
            "q", q, A_ub, b_ub, A_eq, b_eq, bounds
        )
        n = self.A.in_size()
        P = _matrix("P", P)
        if P.shape != (n, n):
            raise InputError(f"P: found shape {P.shape}, expected ({n}, {n})")
        skew = abs(P - P.T).max()
        if skew > 1e3 * np.finfo(P.dtype).eps * abs(P).max():
            raise InputError(f"P: found an entry that differs by {skew:.3g} from its mirror image, expected symmetry")
        self.P = _operator(P.astype(operator.dtype(self.A)))


class Accuracy(eqx.Module):
    """How far (x, u) is from optimal: norms and numbers as they are, and the natural size of each."""

    primal: Scalar
    dual: Scalar
    primal_objective: Scalar
    dual_objective: Scalar
    sizes: Float[Array, "3"]

    @property
    def gap(self) -> Scalar:
        """|primal − dual objective|."""
        return jnp.abs(self.primal_objective - self.dual_objective)


def accuracy(problem: Program, x: Array, u: Array, Ax: Array, ATu: Array, Px: Array | None) -> Accuracy:
    """Violation of the rows, reduced costs that no bound absorbs, and both objectives."""
    low, high, lower, upper, c = (
        jnp.asarray(v) for v in (problem.row_lower, problem.row_upper, problem.lower, problem.upper, problem.c)
    )
    r = c + ATu if Px is None else c + ATu + Px
    quadratic = 0 * c[0] if Px is None else x @ Px
    below, above = jnp.isfinite(lower), jnp.isfinite(upper)
    absorbed = jnp.where(r > 0, jnp.where(below, r, 0), jnp.where(above, r, 0))
    at = jnp.where(r > 0, jnp.where(below, lower, 0), jnp.where(above, upper, 0))
    support = jnp.where(u > 0, jnp.where(jnp.isfinite(high), high, 0), jnp.where(jnp.isfinite(low), low, 0)) * u
    b = jnp.where(jnp.isfinite(high), high, jnp.where(jnp.isfinite(low), low, 0))
    primal, dual = c @ x + quadratic / 2, absorbed @ at - jnp.sum(support) - quadratic / 2
    sizes = jnp.stack(
        [
            jnp.maximum(norm(b), norm(Ax)),
            jnp.maximum(norm(c), norm(ATu)) + (0 if Px is None else norm(Px)),
            jnp.maximum(jnp.abs(primal), jnp.abs(dual)),
        ]
    )
    return Accuracy(norm(Ax - jnp.clip(Ax, low, high)), norm(r - absorbed), primal, dual, sizes)


def program(problem: Any) -> Program:
    """Refuse anything but a programme."""
    if not isinstance(problem, Program):
        raise InputError(f"problem: found {type(problem).__name__}, expected a LinearProgram or a QuadraticProgram")
    return problem


def _matrix(name: str, A: Any) -> Any:
    if scipy.sparse.issparse(A):
        A = scipy.sparse.csr_array(A)
        if not np.isfinite(A.data).all():
            raise InputError(f"{name}: found NaN or infinity, expected finite numbers")
        return A if A.dtype.kind == "f" else A.astype(np.float64)
    return np.asarray(precision.follows_input(validation.matrix)(name, A))


def _operator(A: Any) -> lx.AbstractLinearOperator:
    return precision.follows_input(lambda: Sparse(A) if scipy.sparse.issparse(A) else operator.as_operator(A))()


def _standard(name: str, c: Any, A_ub: Any, b_ub: Any, A_eq: Any, b_eq: Any, bounds: Any) -> tuple[Any, ...]:
    c = np.asarray(precision.follows_input(validation.vector)(name, c))
    n, parts, limits = c.size, [], []
    for rows, side, what in ((A_ub, b_ub, "ub"), (A_eq, b_eq, "eq")):
        if rows is None and side is None:
            continue
        if rows is None or side is None:
            missing, other = ("A", "b") if rows is None else ("b", "A")
            raise InputError(f"{missing}_{what}: found None, expected it beside {other}_{what}")
        rows = _matrix(f"A_{what}", rows)
        side = np.asarray(precision.follows_input(validation.vector)(f"b_{what}", side))
        if rows.shape != (side.size, n):
            raise InputError(f"A_{what}: found shape {rows.shape}, expected ({side.size}, {n})")
        parts.append(rows)
        limits.append((np.full_like(side, -np.inf) if what == "ub" else side, side))
    if not parts:
        raise InputError("A_ub: found None, expected rows in A_ub or A_eq (without any, use box_qp)")
    sparse = any(scipy.sparse.issparse(p) for p in parts)
    A = scipy.sparse.csr_array(scipy.sparse.vstack(parts)) if sparse else np.concatenate(parts)
    lower, upper = limits_of(bounds, n)
    dtype = np.result_type(A.dtype, c.dtype)
    low, high = (np.concatenate([pair[i] for pair in limits]) for i in (0, 1))
    return c.astype(dtype), _operator(A.astype(dtype)), *(v.astype(dtype) for v in (low, high, lower, upper))


def limits_of(bounds: Any, n: int) -> tuple[Any, Any]:
    """Lower and upper limits (n,), infinite where there is none."""
    if isinstance(bounds, tuple):
        if len(bounds) != 2:
            raise InputError(f"bounds: found a tuple of {len(bounds)}, expected (lower, upper), or a list of pairs")
        if n == 2 and all(isinstance(v, tuple) for v in bounds):
            raise InputError("bounds: found a tuple of two tuples, expected arrays (lower, upper), or a list of pairs")
        lower, upper = bounds
    else:
        pairs = np.array([[np.nan if v is None else v for v in pair] for pair in bounds], dtype=float)
        if pairs.shape != (n, 2):
            raise InputError(f"bounds: found shape {pairs.shape}, expected ({n}, 2)")
        lower, upper = pairs[:, 0], pairs[:, 1]
    ends: list[Any] = []
    for value, none in ((lower, -np.inf), (upper, np.inf)):
        if isinstance(value, Tracer):  # a batch of bounds: not looked at
            if value.shape not in ((), (n,)):
                raise InputError(f"bounds: found shape {value.shape}, expected a number or ({n},)")
            ends.append(jnp.broadcast_to(jnp.where(jnp.isnan(value), none, value), (n,)))
            continue
        value = np.asarray(none if value is None else value, dtype=float)
        if value.shape not in ((), (n,)):
            raise InputError(f"bounds: found shape {value.shape}, expected a number or ({n},)")
        ends.append(np.broadcast_to(np.where(np.isnan(value), none, value), (n,)).copy())
    if any(isinstance(end, Tracer) for end in ends):
        return ends[0], ends[1]
    if np.any(ends[0] > ends[1]) or np.any(ends[0] == np.inf) or np.any(ends[1] == -np.inf):
        raise InputError("bounds: found a lower bound above its upper bound, expected lower <= upper")
    return ends[0], ends[1]
