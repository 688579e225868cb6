"""Working sets for the (sparse) group lasso: least squares over the columns that matter, by their Gram matrix.

Few columns of many are in the answer. A step takes those where the iterate is not zero, and with them the columns of
the groups nearest to entering, solves the problem over these k columns alone (FISTA with restarts on their Gram
matrix, to far below the error outside), and then passes once over all data for the gradient and the duality gap. Where
the iterate has more than k/2 entries, a step is one of FISTA over all columns, so that nothing depends on the answer
being sparse. F falls at each step of the first kind.
Cost: one product with Aᵀ, O(n k²) for the Gram matrix and O(k²) for each inner step, instead of two products with all
of A for each step of FISTA.
Source: Massias, Gramfort & Salmon, "Celer: a fast solver for the lasso with dual extrapolation" (2018), section 4, for
the choice of columns; Ndiaye, Fercoq, Gramfort & Salmon, "GAP safe screening rules for sparse-group lasso" (2016) for
the dual of these groups; O'Donoghue & Candès (2015), section 3.2, for the restarts.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.core import Tracer
from jaxtyping import Array, Bool, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim._composite import Composite, composite
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._smooth import LeastSquares
from corollary.optim._tree import norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.penalties._norms import GroupLasso
from corollary.optim.penalties._separable import soft
from corollary.optim.penalties._sparse_group import SparseGroupLasso
from corollary.optim.proximal._fista import Fista, FistaState
from corollary.optim.proximal._proximal_gradient import first_step, forward_backward, searches, subgradient

INNER = 400  # inner steps at most
LARGE = 2**20  # entries of A from which a pass over it is what a step costs


class WorkingSetState(eqx.Module):
    """FISTA's state, with the gradient at its point y; its step is 0 until it is needed."""

    fista: FistaState
    gradient: Array
    idle: Bool[Array, ""]  # the last working set could not lower F

    @property
    def x(self) -> Array:
        """The iterate."""
        return self.fista.x


@final
class GroupWorkingSet(Solver):
    """Working sets for `LeastSquares` with `penalties.GroupLasso` or `SparseGroupLasso`, for `minimize`.

    The default where A is large and nothing is traced. Cost: a pass over A and O(n k²) a step.

    Parameters
    ----------
    columns
        k, the size of a working set: more than twice the entries that the answer is expected to have.

    Notes
    -----
    Certificate: ``duality_gap``, of `minimize`. Source: Massias, Gramfort & Salmon (2018), section 4.

    Examples
    --------
    >>> from corollary.optim import Composite, LeastSquares, minimize, penalties
    >>> problem = Composite(LeastSquares([[1.0, 0.0], [0.0, 2.0]], [2.0, 1.0]), penalties.GroupLasso(0.5, [0, 1]))
    >>> minimize(problem, tol=1e-10, solver=GroupWorkingSet()).value.round(4).tolist()
    [1.5, 0.375]
    """

    columns: int = eqx.field(static=True, default=256)

    def __check_init__(self):
        """Refuse a set without room."""
        validation.integer(2)("columns", self.columns)

    def check(self, problem: Problem) -> None:
        """Least squares with one right-hand side and a dense matrix, and groups of entries."""
        if not speaks_of(composite(problem)):
            raise InputError(
                "problem: found another, expected LeastSquares of a dense matrix and a vector, with GroupLasso or "
                "SparseGroupLasso over labelled groups"
            )

    def init(self, problem: Composite, x0: PyTree) -> WorkingSetState:
        """The gradient at x0."""
        z, zero = problem.smooth.forward(x0), jnp.zeros((), x0.dtype)
        gradient = problem.smooth.adjoint(problem.smooth.dual(z))
        return WorkingSetState(FistaState(x0, z, x0, z, zero + 1, zero), gradient, jnp.array(False))

    def step(self, problem: Composite, state: WorkingSetState) -> tuple[WorkingSetState, Info]:
        """One working set, or one step of FISTA."""
        smooth = problem.smooth
        size = min(self.columns, state.x.size)
        fits = (size == state.x.size) | (2 * jnp.sum(state.fista.y != 0) <= size)
        inner = fits & ~state.idle
        fista, length, residual, lower = jax.lax.cond(
            inner, lambda s: _working_set(problem, s, size), lambda s: _fista(problem, s), state
        )
        dual = smooth.dual(fista.zy)
        gradient = smooth.adjoint(dual)
        # What u adds to the gradient is known by its length alone: it goes into the residual below.
        info = problem.measure(fista.x, fista.z, dual, gradient, -gradient, length)
        distance: Any = problem.penalty._distance(fista.x, gradient)
        residual = jnp.where(inner, distance, residual)
        info = eqx.tree_at(lambda i: i.residual, info, residual)
        return WorkingSetState(fista, gradient, inner & ~lower), info


def _fista(problem: Composite, state: WorkingSetState) -> tuple[FistaState, Scalar, Scalar, Array]:
    """A step of FISTA with restarts from the gradient at y."""
    s, rule = state.fista, Fista()
    step = jax.lax.cond(s.step > 0, lambda: s.step, lambda: first_step(None, problem, s.x))
    x, z, t = forward_backward(problem, s.y, s.zy, state.gradient, step, searches(None, problem))
    theta, momentum = rule._momentum(s.theta, t)
    uphill = jnp.dot(s.y - x, x - s.x) > 0
    theta, momentum = jnp.where(uphill, 1, theta), jnp.where(uphill, 0, momentum)
    y, zy = x + momentum * (x - s.x), z + momentum * (z - s.z)
    residual = norm(state.gradient + subgradient(s.y, x, state.gradient, t))
    return FistaState(x, z, y, zy, theta, t), t, residual, jnp.array(True)


def _working_set(problem: Composite, state: WorkingSetState, size: int) -> tuple[FistaState, Scalar, Scalar, Array]:
    """The minimiser over `size` columns, from y."""
    s, p = state.fista, problem.penalty
    smooth: Any = problem.smooth
    first = jnp.where(s.y != 0, jnp.inf, nearness(p, state.gradient))
    ids = jax.lax.top_k(first, size)[1]
    A = smooth.A.matrix[:, ids]
    start, slope = s.y[ids], state.gradient[ids]
    w, lower, length = restricted(A.T @ A, slope, start, of_columns(p, ids))
    x = jnp.zeros_like(s.y).at[ids].set(w)
    z = A @ w
    return FistaState(x, z, x, z, jnp.ones_like(s.theta), s.step), length, jnp.zeros_like(length), lower


def nearness(penalty: Any, gradient: Array) -> Array:
    """Of each column: how near its group is to entering, ‖S(A_gᵀr, α)‖ over the group's weight."""
    single, group, weight = parts(penalty, gradient)
    sizes = group._sizes(soft(gradient, single))
    return group._back(sizes / jnp.where(weight > 0, weight, jnp.finfo(sizes.dtype).tiny), gradient)


def parts(penalty: Any, x: Array) -> tuple[Any, GroupLasso, Array]:
    """The entries' weight, the groups, and the weight of each."""
    if isinstance(penalty, SparseGroupLasso):
        single, weight, _ = penalty._parts(x)
        return single, penalty.group, weight
    return jnp.zeros((), x.dtype), penalty, penalty._weights(penalty._sizes(x))


def of_columns(penalty: Any, ids: Array) -> Any:
    """The penalty of a vector that is zero outside `ids`, of these entries."""

    def labels(p: Any) -> Any:
        return (p.group if isinstance(p, SparseGroupLasso) else p).groups

    return eqx.tree_at(labels, penalty, jnp.asarray(labels(penalty))[ids])


def restricted(G: Array, slope: Array, start: Array, penalty: Any) -> tuple[Array, Array, Scalar]:
    """The minimiser of slopeᵀd + ½dᵀGd + h(start + d), as start + d; whether it is lower than start; and 1/L.

    L is guessed by power iteration, and raised where a step shows it to be too small.
    """
    eps = jnp.finfo(G.dtype).eps

    def turn(_: Any, v: Array) -> Array:
        Gv = G @ v
        size = norm(Gv)
        return Gv / jnp.where(size > 0, size, 1)

    v = jax.lax.fori_loop(0, 8, turn, jnp.ones_like(start) / start.size**0.5)
    guess = 1.05 * norm(G @ v)
    guess = jnp.where(guess > 0, guess, 1)

    def going(c: Any) -> Array:
        return ~c[-1] & (c[-2] < INNER)

    def body(c: Any) -> Any:
        w, Gw, y, Gy, theta, L, largest, k, _ = c
        new = penalty.prox(y - (slope + Gy) / L, 1 / L)
        s = new - y
        Gn = G @ (new - start)
        square, bend = jnp.dot(s, s), jnp.dot(s, Gn - Gy)
        fine = bend <= L * square * (1 + 16 * eps) + eps * L * jnp.dot(new, new)
        uphill = jnp.dot(y - new, new - w) > 0
        following = jnp.where(uphill, 1, (1 + jnp.sqrt(1 + 4 * theta**2)) / 2)
        momentum = jnp.where(uphill, 0, (theta - 1) / following)
        moved = L * jnp.sqrt(square)
        largest = jnp.maximum(largest, moved)
        done = fine & (moved <= eps**0.5 * largest)
        ahead = (new, Gn, new + momentum * (new - w), Gn + momentum * (Gn - Gw), following, L)
        steeper = 1.1 * jnp.maximum(L, bend / jnp.where(square > 0, square, 1))
        back = (w, Gw, y, Gy, theta, steeper)
        kept = jax.tree.map(lambda a, b: jnp.where(fine, a, b), ahead, back)
        return *kept, largest, k + 1, done

    zero, one = jnp.zeros_like(start), jnp.ones((), G.dtype)
    begin = (start, zero, start, zero, one, guess, jnp.zeros_like(one), jnp.int32(0), jnp.array(False))
    w, Gw, _, _, _, L, _, _, _ = jax.lax.while_loop(going, body, begin)
    d = w - start
    change = jnp.dot(slope, d) + jnp.dot(d, Gw) / 2 + penalty.value(w) - penalty.value(start)
    lower = change < 0
    return jnp.where(lower, w, start), lower, 1 / L


def speaks_of(problem: Composite) -> bool:
    """Whether the solver knows this kind of problem."""
    smooth, penalty = problem.smooth, problem.penalty
    if not (isinstance(smooth, LeastSquares) and isinstance(penalty, GroupLasso | SparseGroupLasso)):
        return False
    groups = (penalty.group if isinstance(penalty, SparseGroupLasso) else penalty).groups
    return groups is not None and isinstance(smooth.A, lx.MatrixLinearOperator) and smooth.b.ndim == 1


def suits(problem: Composite, columns: int = 256) -> bool:
    """Whether it is the faster one: a pass over A costs far more than a working set, and nothing is batched."""
    if not speaks_of(problem) or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(problem)):
        return False
    smooth: Any = problem.smooth
    matrix = smooth.A.matrix
    spread = isinstance(matrix, jax.Array) and len(matrix.devices()) > 1
    return not spread and matrix.size >= LARGE and matrix.shape[1] >= 8 * columns
