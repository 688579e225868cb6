"""Games and saddle points as problems: find z with 0 ∈ F(z) + ∂h(z), F a monotone field.

A saddle point min_x max_y f(x, y) has F = (∇_x f, −∇_y f), whose Jacobian is not symmetric: F is no gradient, and
methods that follow it may turn in circles. Solved by `minimize`; what ranks the iterates is the residual ‖F(z) + u‖
with u ∈ ∂h(z), for a matrix game the duality gap.
Source: Facchinei & Pang, "Finite-Dimensional Variational Inequalities and Complementarity Problems" (2003), chapter 1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, finite, like, norm
from corollary.optim.penalties import Blocks, Penalty, Simplex, Zero
from corollary.optim.penalties._base import Scalar

PRODUCTS = 32  # with J and with Jᵀ: a relative error of ‖J‖ of about log(dimension)/128


class Equilibrium(Problem):
    """What a solver of games needs: the field F, the term h with a prox, and a Lipschitz constant of F where known."""

    penalty: eqx.AbstractVar[Penalty]

    @abstractmethod
    def field(self, z: PyTree) -> PyTree:
        """F(z), of the structure of z."""

    def lipschitz(self) -> Scalar | None:
        """A Lipschitz constant of F, or None."""
        return None

    def default_solver(self) -> tuple[Solver, str]:
        """`Extragradient`: descent-ascent diverges where F only turns."""
        from corollary.optim.minimax._extragradient import Extragradient

        return Extragradient(), "it converges for every monotone field"

    def claims(self) -> tuple[str, str]:
        """Of the natural residual, and of a matrix game's gap."""
        return (
            "dist(0, F(z) + ∂h(z)) <= tol·(‖F‖ + ‖subgradient‖)",
            "what the players could gain, max (Aᵀx) − min (A y), is <= tol·(max A − min A)/2",
        )

    def optimality(self, z: PyTree, step: Scalar) -> PyTree:
        """z − prox_{th}(z − tF(z)), zero exactly at a solution."""
        point = optax.tree.add_scale(z, -step, self.field(z))
        return optax.tree.sub(z, self.penalty.prox(point, step))

    def measure(
        self,
        z: PyTree,
        field: PyTree,
        subgradient: PyTree,
        before: Scalar,
        step: Scalar,
        lipschitz: Scalar,
        average: bool = False,
    ) -> Info:
        """How good z is, from F(z), a u ∈ ∂h(z), ‖F‖ where the step began, and an L for the rounding of F.

        u was divided by the step, and so was its rounding: it serves only where the penalty knows no distance, and at
        an average (where it is the natural residual of the length 1/L).
        """
        size, L = jnp.maximum(norm(field), before), like(lipschitz, z)
        residual = None if average else self.penalty.subdifferential_distance(z, field)
        if residual is None:
            residual = norm(optax.tree.add(field, subgradient))
            size, L = size + norm(subgradient), L if average else jnp.maximum(L, 1 / step)
        return Info(
            objective=self.objective(z),
            residual=residual,
            gradient_scale=size,
            floor=rounding(L * norm(z) + size),
            step=step,
            merit=residual,
        )


@final
class Game(Equilibrium):
    """Find z with 0 ∈ F(z) + ∂h(z), for a field of any pytree.

    Parameters
    ----------
    function
        z to F(z), of the same structure; monotone for the solvers' guarantees. A plain function is part of the
        structure (a new one compiles anew); for one that carries arrays pass a `jax.tree_util.Partial`.
    penalty
        h, a member of `corollary.optim.penalties` (an indicator makes it a variational inequality); none if left out.
    lipschitz
        A Lipschitz constant of F, if one is known; else solvers search for their step.

    Examples
    --------
    >>> from corollary.optim import minimize
    >>> turn = Game(lambda z: jnp.stack([z[1], -z[0]]), lipschitz=1.0)
    >>> bool(jnp.all(jnp.abs(minimize(turn, jnp.ones(2)).value) < 1e-5))
    True
    """

    function: Callable[[Any], Any]
    penalty: Penalty
    given: Any

    def __init__(self, function: Any, penalty: Penalty | None = None, lipschitz: Any = None):
        at_least_zero("lipschitz", lipschitz, positive=True)
        if not callable(function):
            raise InputError(f"function: found {type(function).__name__}, expected a field, z to F(z)")
        self.function, self.penalty, self.given = function, Zero() if penalty is None else penalty, lipschitz

    def field(self, z: PyTree) -> PyTree:
        """F(z)."""
        return self.function(z)

    def lipschitz(self) -> Scalar | None:
        """As given."""
        return None if self.given is None else jnp.asarray(self.given)

    def objective(self, x: PyTree) -> Scalar:
        """The natural residual ‖z − prox_h(z − F(z))‖."""
        return norm(self.optimality(x, like(1.0, x)))


@final
class SaddlePoint(Equilibrium):
    """min_x max_y g(x) + f(x, y) − h(y); the variable is the pair (x, y), each an array or pytree.

    Parameters
    ----------
    payoff
        ``f(x, y)``, differentiable; convex in x and concave in y for the solvers' guarantees.
    penalty_x, penalty_y
        g and h, members of `corollary.optim.penalties`; none if left out.
    lipschitz
        A Lipschitz constant of (∇_x f, −∇_y f), if one is known.

    Examples
    --------
    >>> from corollary.optim import minimize
    >>> problem = SaddlePoint(lambda x, y: jnp.sum(x**2 + 2 * x * y - y**2 + 4 * x))
    >>> x, y = minimize(problem, (jnp.zeros(1), jnp.zeros(1)), tol=1e-6).value
    >>> x.round(4).tolist(), y.round(4).tolist()
    ([-1.0], [-1.0])
    """

    payoff: Callable[[Any, Any], Any]
    penalty: Penalty
    given: Any

    def __init__(
        self,
        payoff: Any,
        penalty_x: Penalty | None = None,
        penalty_y: Penalty | None = None,
        lipschitz: Any = None,
    ):
        at_least_zero("lipschitz", lipschitz, positive=True)
        if not callable(payoff):
            raise InputError(f"payoff: found {type(payoff).__name__}, expected a function f(x, y)")
        self.payoff, self.given = payoff, lipschitz
        none = penalty_x is None and penalty_y is None
        self.penalty = Zero() if none else Blocks((penalty_x or Zero(), penalty_y or Zero()))

    def field(self, z: PyTree) -> PyTree:
        """(∇_x f, −∇_y f)."""
        by_x, by_y = jax.grad(self.payoff, argnums=(0, 1))(*z)
        return by_x, jax.tree.map(jnp.negative, by_y)

    def lipschitz(self) -> Scalar | None:
        """As given."""
        return None if self.given is None else jnp.asarray(self.given)

    def objective(self, x: PyTree) -> Scalar:
        """The payoff f(x, y)."""
        return self.payoff(*x)


@final
class MatrixGame(Equilibrium):
    """The zero-sum game min_x max_y xᵀA y over mixed strategies (probability vectors) x and y.

    Its objective is the duality gap max_j (Aᵀx)_j − min_i (A y)_i, zero exactly at an equilibrium; the game's value
    lies between the two. The relative tolerance refers to (max A − min A)/2: a constant added to A changes nothing.

    Parameters
    ----------
    A
        Payoff matrix (m, n): what the row player, who minimises, pays.

    Examples
    --------
    >>> from corollary.optim import minimize
    >>> x, y = minimize(MatrixGame([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])).value
    >>> x.round(3).tolist()
    [0.333, 0.333, 0.333]
    """

    A: Any
    penalty: Penalty

    def __init__(self, A: Any):
        self.A = follows_input(validation.matrix)("A", A)
        self.penalty = Blocks((Simplex(), Simplex()))

    def centred(self) -> Float[Array, "m n"]:
        """A less the middle of its entries: no projection onto a simplex, and no gap, feels a constant."""
        A = jnp.asarray(self.A)
        return A - (jnp.max(A) / 2 + jnp.min(A) / 2)

    def field(self, z: PyTree) -> PyTree:
        """(A y, −Aᵀx), for the centred A."""
        A = self.centred()
        return A @ z[1], -(z[0] @ A)

    def lipschitz(self) -> Scalar:
        """‖A‖₂ of the centred A, or its bound √(‖A‖₁‖A‖_∞) where A is large."""
        A = self.centred()
        size = jnp.max(jnp.abs(A))
        size = jnp.where(size > 0, size, 1)
        A = A / size
        rows, columns = jnp.sum(jnp.abs(A), 1).max(), jnp.sum(jnp.abs(A), 0).max()
        bound = jnp.sqrt(rows * columns)
        if min(A.shape) <= 256:
            bound = jnp.minimum(bound, jnp.linalg.norm(A, 2) * (1 + 64 * jnp.finfo(A.dtype).eps))
        return jnp.where(bound > 0, bound, 1) * size

    def objective(self, x: PyTree) -> Scalar:
        """The duality gap; +inf for vectors that are no probabilities."""
        return self.gap(x) + self.penalty.value(x)

    def gap(self, z: PyTree) -> Scalar:
        """max_j (Aᵀx)_j − min_i (A y)_i."""
        A = self.centred()
        return jnp.max(z[0] @ A) - jnp.min(A @ z[1])

    def scale(self) -> Scalar:
        """max |A_ij| of the centred A."""
        return jnp.max(jnp.abs(self.centred()))

    def start(self) -> PyTree:
        """The uniform strategies."""
        m, n = self.A.shape
        return jnp.full((m,), 1 / m, self.A.dtype), jnp.full((n,), 1 / n, self.A.dtype)

    def measure(
        self,
        z: PyTree,
        field: PyTree,
        subgradient: PyTree,
        before: Scalar,
        step: Scalar,
        lipschitz: Scalar,
        average: bool = False,
    ) -> Info:
        """The gap, whose least value is 0."""
        gap = self.gap(z)
        residual, size = norm(optax.tree.add(field, subgradient)), norm(field)
        return Info(gap, residual, size + norm(subgradient), rounding(size), step, lower=jnp.zeros_like(gap))

    def farthest(self, z: PyTree) -> Scalar:
        """max ‖z − u‖ over pairs u of strategies (attained at vertices)."""
        return norm(jnp.stack([jnp.sqrt(jnp.max(p @ p - 2 * p + 1)) for p in z]))


@follows_input
def restricted_gap(problem: Equilibrium, z: Any, center: Any, radius: Any) -> Solution:
    """How far z is from equilibrium against all u in a ball: sup ⟨F(z), z − u⟩ over ‖u − center‖ ≤ radius.

    Where no constraint bounds the players the full gap is infinite; the restricted one is zero at a solution inside the
    ball, and it bounds sup f(x, v) − f(w, y) over (w, v) in it (exactly where f is bilinear). Cost: two fields.

    Parameters
    ----------
    problem
        A `Game` or `SaddlePoint` without penalties.
    z
        The point.
    center, radius
        The ball.

    Returns
    -------
    Solution
        ``value`` is the bound; ``stats["worst"]`` the u that attains it.

    Raises
    ------
    InputError
        For a problem with penalties, values that are not finite, a radius that is not positive.

    Notes
    -----
    Certificate ``gap`` (exact): the gap found at that u, f(x, v) − f(w, y) or ⟨F(u), z − u⟩, is at most the bound, as
    monotonicity asks; the restricted gap lies between the two. Source: Nesterov (2007), "Dual extrapolation and its
    applications", section 2; Facchinei & Pang (2003), section 1.5.

    Examples
    --------
    >>> z, center = (jnp.array([0.5]), jnp.zeros(1)), (jnp.zeros(1), jnp.zeros(1))
    >>> run = restricted_gap(SaddlePoint(lambda x, y: x @ y), z, center, 2.0)
    >>> float(run.value), bool(run.holds)
    (1.0, True)
    """
    if not isinstance(problem, Game | SaddlePoint) or not isinstance(problem.penalty, Zero):
        raise InputError(f"problem: found {type(problem).__name__}, expected a Game or SaddlePoint without penalties")
    at_least_zero("radius", radius, positive=True)
    z, center = finite("z", z), finite("center", center)
    R = like(radius, z)
    field = problem.field(z)
    size = norm(field)
    away = optax.tree.vdot(field, optax.tree.sub(z, center))
    bound = away + R * size
    worst = optax.tree.add_scale(center, -R / jnp.where(size > 0, size, 1), field)
    if isinstance(problem, SaddlePoint):
        up, down = problem.payoff(z[0], worst[1]), problem.payoff(worst[0], z[1])
        found, noise = up - down, jnp.abs(up) + jnp.abs(down)
    else:
        found = jnp.asarray(optax.tree.vdot(problem.field(worst), optax.tree.sub(z, worst)))
        noise = norm(problem.field(worst)) * norm(optax.tree.sub(z, worst))
    slack = rounding(noise + size * (R + norm(z) + norm(center)), 16.0)
    certificate = Certificate(
        "gap at the worst u of the ball <= sup ⟨F(z), z − u⟩",
        found,
        bound + slack,
        "exact",
        "monotonicity: Facchinei & Pang (2003), section 1.5",
        assumptions=(Assumption("F is monotone"),),
    )
    return Solution(bound, {"gap": certificate}, stats={"worst": worst})


def equilibrium(problem: Any) -> Equilibrium:
    """Refuse anything but a game."""
    if not isinstance(problem, Equilibrium):
        raise InputError(f"problem: found {type(problem).__name__}, expected a Game, SaddlePoint or MatrixGame")
    return problem


def steepness(problem: Equilibrium, z: PyTree) -> Float[Array, ""]:
    """L as the problem knows it, else `turning`."""
    known = problem.lipschitz()
    return turning(problem, z) if known is None else like(known, z)


def turning(problem: Equilibrium, z: PyTree) -> Float[Array, ""]:
    """‖J‖₂ of the field's Jacobian at z, from below by a few percent: power iterations with JᵀJ from a random start."""
    field, pull = jax.vjp(problem.field, z)

    def unit(v: PyTree) -> PyTree:
        size = norm(v)
        return optax.tree.scale(1 / jnp.where(size > 0, size, 1), v)

    def turn(_: Any, carry: Any) -> Any:
        v, guess = carry
        image = jax.jvp(problem.field, (z,), (unit(v),))[1]
        size = norm(image)
        return pull(unit(image))[0], jnp.where(size > guess, size, guess)

    leaves, structure = jax.tree.flatten(z)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    _, guess = jax.lax.fori_loop(0, PRODUCTS, turn, (jax.tree.unflatten(structure, drawn), like(0.0, z)))
    flat = norm(field) / jnp.where(norm(z) > 0, norm(z), 1)
    guess = jnp.where((guess > 0) & jnp.isfinite(guess), guess, flat)
    return jnp.where((guess > 0) & jnp.isfinite(guess), guess, 1.0)
