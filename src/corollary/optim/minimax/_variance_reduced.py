"""Variance-reduced forward-backward: zeros of (1/n)Σ G_i + ∂h, at the price of a few G_i a step.

An epoch takes the mean field at a snapshot w, then m steps with fresh rows i,

    v = G_i(z) − G_i(w) + G(w),    z ← prox_{ηh}(z − ηv),

whose estimate v is unbiased and whose variance vanishes as z and w approach the solution, so that a constant step
converges linearly where G is strongly monotone and its rows cocoercive. Rows that only turn (bilinear ones) are not
cocoercive: add a quadratic, or use `Extragradient`. Cost of an epoch: n + 2m row fields.
Source: Palaniappan & Bach, "Stochastic variance reduction methods for saddle-point problems" (2016), theorem 2; Zhang,
Haskell & Ye, "A unifying framework for variance-reduced algorithms for finding zeroes of monotone operators" (2022).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, finite, like, norm
from corollary.optim.minimax._game import Equilibrium, steepness
from corollary.optim.penalties import Penalty, Zero
from corollary.optim.penalties._base import Scalar


@final
class FiniteSumGame(Equilibrium):
    """Find z with 0 ∈ (1/n)Σ_i G(row_i, z) + ∂h(z).

    Parameters
    ----------
    function
        ``G(row, z)``, of the structure of z.
    rows
        Array or pytree with a leading axis of length n: the data of the rows.
    penalty
        h; none if left out.
    lipschitz
        A constant L with ‖G_i(z) − G_i(w)‖² ≤ L⟨G_i(z) − G_i(w), z − w⟩ for every row (cocoercivity), if one is known.

    Examples
    --------
    >>> from corollary.optim import minimize
    >>> game = FiniteSumGame(lambda row, z: z - row, jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), lipschitz=1.0)
    >>> bool(jnp.allclose(minimize(game, jnp.zeros(2)).value, jnp.array([2.0, 3.0])))
    True
    """

    function: Callable[[Any, Any], Any]
    rows: PyTree
    penalty: Penalty
    given: Any

    def __init__(
        self, function: Callable[[Any, Any], Any], rows: Any, penalty: Penalty | None = None, lipschitz: Any = None
    ):
        at_least_zero("lipschitz", lipschitz, positive=True)
        lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(finite("rows", rows))}
        if len(lengths) != 1 or lengths == {()} or lengths == {(0,)}:
            raise InputError(f"rows: found leading axes {sorted(lengths)}, expected one length >= 1 for all leaves")
        self.function, self.rows, self.given = function, rows, lipschitz
        self.penalty = Zero() if penalty is None else penalty

    @property
    def size(self) -> int:
        """The number n of rows."""
        return jax.tree.leaves(self.rows)[0].shape[0]

    def at(self, indices: Int[Array, " b"], z: PyTree) -> PyTree:
        """The mean of G_i(z) over some rows."""
        chosen = jax.tree.map(lambda leaf: jnp.asarray(leaf)[indices], self.rows)
        return jax.tree.map(lambda g: jnp.mean(g, 0), jax.vmap(lambda row: self.function(row, z))(chosen))

    def field(self, z: PyTree) -> PyTree:
        """The mean of all rows' fields."""
        return self.at(jnp.arange(self.size), z)

    def lipschitz(self) -> Scalar | None:
        """As given."""
        return None if self.given is None else jnp.asarray(self.given)

    def objective(self, x: PyTree) -> Scalar:
        """The natural residual ‖z − prox_h(z − G(z))‖."""
        return norm(self.optimality(x, like(1.0, x)))

    def default_solver(self) -> tuple[Solver, str]:
        """`VarianceReducedForwardBackward`."""
        return VarianceReducedForwardBackward(), "a finite sum: a step costs a few rows"


class VarianceReducedState(eqx.Module):
    """The iterate, which is the next snapshot, the mean field there, the step length, L at the start, the key."""

    x: PyTree
    field: PyTree
    step: Scalar
    lipschitz: Scalar
    key: Key[Array, ""]


@final
class VarianceReducedForwardBackward(Solver):
    """Variance-reduced forward-backward splitting, for `minimize` on a `FiniteSumGame`; a step of it is an epoch.

    Parameters
    ----------
    step_size
        η; None: 1/(4 L), with the problem's L. With one row any η < 2/L will do: the method is then forward-backward.
    batch
        Rows a step.
    length
        Steps an epoch; n/batch if left out.
    key
        `jax.random.key`; ``None``: a fixed one.

    Examples
    --------
    >>> from corollary.optim import minimize
    >>> game = FiniteSumGame(lambda row, z: row * z - 1, jnp.asarray([1.0, 2.0, 3.0]), lipschitz=3.0)
    >>> run = minimize(game, jnp.zeros(1), VarianceReducedForwardBackward(batch=2))
    >>> bool(run.converged), bool(jnp.allclose(run.value, 0.5))
    (True, True)
    """

    step_size: Any = None
    batch: int = eqx.field(static=True, default=1)
    length: int | None = eqx.field(static=True, default=None)
    key: Any = None

    def __check_init__(self):
        """Refuse settings out of range."""
        at_least_zero("step_size", self.step_size, positive=True)
        validation.integer(1)("batch", self.batch)
        validation.integer(1, none=True)("length", self.length)

    def check(self, problem: Problem) -> None:
        """A `FiniteSumGame`, with L where no step is named."""
        if not isinstance(problem, FiniteSumGame):
            raise InputError(f"problem: found {type(problem).__name__}, expected a FiniteSumGame")
        if self.step_size is None and problem.lipschitz() is None:
            raise InputError("step_size: found None, expected a number (the problem does not know L)")

    def init(self, problem: FiniteSumGame, x0: PyTree) -> VarianceReducedState:
        """The state at x0."""
        self.check(problem)
        known = problem.lipschitz()
        step = self.step_size if known is None or self.step_size is not None else 0.25 / known
        key = jax.random.key(0) if self.key is None else self.key
        return VarianceReducedState(x0, problem.field(x0), like(step, x0), steepness(problem, x0), key)

    def estimate(self, problem: FiniteSumGame, z: PyTree, snapshot: PyTree, mean: PyTree, indices: Any) -> PyTree:
        """v = G_i(z) − G_i(w) + G(w), averaged over `indices`."""
        return jax.tree.map(lambda a, b, m: a - b + m, problem.at(indices, z), problem.at(indices, snapshot), mean)

    def step(self, problem: FiniteSumGame, state: VarianceReducedState) -> tuple[VarianceReducedState, Info]:
        """One epoch."""
        n, t = problem.size, state.step
        length = self.length or -(-n // self.batch)
        key, now = jax.random.split(state.key)
        indices = jax.random.randint(now, (length, self.batch), 0, n)

        def inner(carry: Any, chosen: Any) -> Any:
            z, _, _ = carry
            v = self.estimate(problem, z, state.x, state.field, chosen)
            return (problem.penalty.prox(optax.tree.add_scale(z, -t, v), t), z, v), None

        (new, before, v), _ = jax.lax.scan(inner, (state.x, state.x, state.field), indices)
        field = problem.field(new)
        u = jax.tree.map(lambda a, b, w: (a - b) / t - w, before, new, v)
        info = problem.measure(new, field, u, norm(state.field), t, state.lipschitz)
        return VarianceReducedState(new, field, t, state.lipschitz, key), info

    def stats(self, problem: FiniteSumGame, state: VarianceReducedState) -> dict[str, Any]:
        """The row fields that an epoch evaluates."""
        length = self.length or -(-problem.size // self.batch)
        return {"row_fields_per_epoch": jnp.asarray(problem.size + 2 * length * self.batch)}
