"""The finite-sum problem, minimise F(x) = (1/n) Σ f_i(x) + (l2/2)‖x‖² + h(x): data by the row, terms by the block.

Two kinds of terms. Linear models, f_i(x) = φ(⟨a_i, x⟩, y_i) with A dense or sparse: a gradient is a number times a row,
so that tables of gradients are O(n), and φ* gives a duality gap. Any other function of x and an example: gradients by
automatic differentiation, tables of the size of x per block.

Solvers see the sum as N = ⌈n/b⌉ blocks of b neighbouring rows, F = (1/N) Σ f_B, with f_B = (N/n) Σ_{i in B} f_i; the
rows are shuffled once when the problem is made. Every theorem on n single terms holds for these N, with the smoothness
of a block, which is far below that of a single row where rows point in many directions. Cost: O(nd) for the copy.
Source: Bottou, Curtis & Nocedal, "Optimization methods for large-scale machine learning" (2018), section 3;
Gazagnadou, Gower & Salmon, "Optimal mini-batch and step sizes for SAGA" (2019), for the smoothness of blocks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse
from jax.core import Tracer
from jaxtyping import Array, Int, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.optim._problem import Problem, Solver
from corollary.optim._tree import at_least_zero, finite, floats, like, norm
from corollary.optim.penalties import Penalty, Zero
from corollary.optim.penalties._base import Scalar
from corollary.optim.stochastic._losses import LOSSES
from corollary.optim.stochastic._rows import Dense, Padded, Rows

Index = Int[Array, ""]


class Terms(eqx.Module):
    """The n terms. A block's gradient comes in two parts: `local`, what a table keeps of it, and `pull`, the rest."""

    @property
    @abstractmethod
    def n(self) -> int:
        """How many terms."""

    @abstractmethod
    def local(self, x: PyTree, k: Index, b: int) -> tuple[Scalar, PyTree]:
        """Σ f_i(x) over block k, and its gradient as a table keeps it."""

    @abstractmethod
    def pull(self, dual: PyTree, k: Index, b: int) -> PyTree:
        """∇f_B from that entry; linear in it."""

    @abstractmethod
    def table(self, x: PyTree, b: int) -> PyTree:
        """An empty table, a row per block."""

    @property
    def compact(self) -> bool:
        """Whether a table costs a number per example."""
        return False

    def blocks(self, b: int) -> int:
        """N = ⌈n/b⌉."""
        return -(-self.n // b)

    def place(self, k: Index, b: int) -> tuple[Index, Array | None]:
        """Where block k starts, and which of its rows count: the last one reaches back, and masks what it repeats."""
        first = jnp.asarray(k).astype(jnp.int32) * b
        start = jnp.minimum(first, self.n - b)
        return start, None if self.n % b == 0 else start + jnp.arange(b, dtype=jnp.int32) >= first


@final
class LinearTerms(Terms):
    """φ(⟨a_i, x⟩, y_i)."""

    rows: Rows
    y: Any
    loss: str = eqx.field(static=True)
    delta: Any = None

    @property
    def n(self) -> int:
        """How many rows."""
        return self.y.shape[0]

    @property
    def compact(self) -> bool:
        """A number per row."""
        return True

    def local(self, x: PyTree, k: Index, b: int) -> tuple[Scalar, PyTree]:
        """Σ φ(z_i, y_i) and θ_i = φ'(z_i, y_i), zero on masked rows."""
        start, mask = self.place(k, b)
        phi = LOSSES[self.loss]
        z, y = self.rows.mv(start, b, x), jax.lax.dynamic_slice_in_dim(jnp.asarray(self.y), start, b)
        value, theta = phi.value(z, y, self.delta), phi.slope(z, y, self.delta)
        if mask is not None:
            value, theta = jnp.where(mask, value, 0), jnp.where(mask, theta, 0)
        return jnp.sum(value), theta

    def pull(self, dual: PyTree, k: Index, b: int) -> PyTree:
        """(N/n) A_Bᵀ θ."""
        return self.rows.rmv(self.place(k, b)[0], dual) * (self.blocks(b) / self.n)

    def table(self, x: PyTree, b: int) -> PyTree:
        """(N, b) zeros."""
        return jnp.zeros((self.blocks(b), b), x.dtype)

    def conjugate(self, table: PyTree, scale: Scalar) -> Scalar:
        """(1/n) Σ φ*(s·θ_i) over a table of θ."""
        N, b = table.shape
        y = jnp.asarray(self.y)
        if self.n % b:  # the rows of the last block as it lies, and which of them count
            at = jnp.arange(N)[:, None] * b + jnp.arange(b)
            at = at.at[-1].set(self.n - b + jnp.arange(b))
            count = jnp.ones((N, b), bool).at[-1].set(at[-1] >= (N - 1) * b)
            y = y[at]
        else:
            y, count = y.reshape(N, b), True
        return jnp.sum(jnp.where(count, LOSSES[self.loss].conjugate(scale * table, y, self.delta), 0)) / self.n


@final
class FunctionTerms(Terms):
    """function(x, example_i), with the examples stacked along the first axis of each leaf."""

    function: Callable[[Any, Any], Any]
    examples: PyTree

    @property
    def n(self) -> int:
        """How many examples."""
        return jax.tree.leaves(self.examples)[0].shape[0]

    def local(self, x: PyTree, k: Index, b: int) -> tuple[Scalar, PyTree]:
        """Σ f_i(x), and ∇f_B."""
        start, mask = self.place(k, b)
        some = jax.tree.map(lambda e: jax.lax.dynamic_slice_in_dim(jnp.asarray(e), start, b), self.examples)

        def total(x):
            values = jax.vmap(self.function, in_axes=(None, 0))(x, some)
            return jnp.sum(values if mask is None else jnp.where(mask, values, 0))

        value, gradient = jax.value_and_grad(total)(x)
        return value, optax.tree.scale(self.blocks(b) / self.n, gradient)

    def pull(self, dual: PyTree, k: Index, b: int) -> PyTree:
        """The entry itself."""
        return dual

    def table(self, x: PyTree, b: int) -> PyTree:
        """N gradients."""
        return jax.tree.map(lambda leaf: jnp.zeros((self.blocks(b), *leaf.shape), leaf.dtype), x)


@final
class FiniteSum(Problem):
    """Minimise (1/n) Σ f_i(x) + (l2/2)‖x‖² + h(x).

    Use it where n is large: a solver of this kind (`SAGA`, `SVRG`, `Katyusha`, `SGD`, ...) moves after every block of
    rows. Scikit-learn's ``C`` is 1/(n·l2) here.

    Parameters
    ----------
    loss
        ``"logistic"``, ``"squared"`` (½(z − y)²), ``"huber"`` or ``"squared_hinge"`` (½max(0, 1 − yz)²); or a function
        of x and one example, made of JAX operations.
    data
        The matrix (n, d), dense or `scipy.sparse`; for a function the examples, a pytree of arrays with n rows each.
    y
        Targets (n,) of a named loss: numbers, or labels 0 and 1 or −1 and 1.
    l2
        Weight of (l2/2)‖x‖², ≥ 0.
    penalty
        h, a member of `corollary.optim.penalties` with a prox.
    lipschitz
        For a function: a Lipschitz constant of every ∇f_i, if one is known; else it is estimated by power iterations.
    strong_convexity
        A constant μ of (1/n) Σ f_i beyond `l2`, if one is known.
    delta
        The Huber loss's threshold.
    shuffle
        Shuffle the rows once, which copies them. False only for rows whose order carries nothing.

    Raises
    ------
    InputError
        For data that are not finite, do not fit, or are too unevenly sparse.

    Notes
    -----
    Certificates: with a named loss and a convex h of known conjugate (or any prox, where l2 > 0) `minimize` stops on
    the duality gap (exact); else on the stationarity residual dist(0, ∂F) at the epoch's end (monitor).

    Examples
    --------
    >>> from corollary.optim import SAGA, minimize
    >>> X, y = [[1.0], [-1.0], [2.0], [0.5]], [1, 0, 1, 0]
    >>> solution = minimize(FiniteSum("logistic", X, y, l2=0.1), solver=SAGA(), tol=1e-9)
    >>> bool(solution.converged), solution.value.round(3).tolist()
    (True, [1.052])
    """

    terms: Terms
    l2: Any
    penalty: Penalty
    lipschitz: Any
    strong_convexity: Any

    def __init__(
        self,
        loss: Any,
        data: Any,
        y: Any = None,
        *,
        l2: Any = None,
        penalty: Any = None,
        lipschitz: Any = None,
        strong_convexity: Any = None,
        delta: Any = 1.35,
        shuffle: bool = True,
    ):
        if penalty is not None and not isinstance(penalty, Penalty):
            raise InputError(f"penalty: found {type(penalty).__name__}, expected a member of optim.penalties")
        at_least_zero("l2", l2)
        at_least_zero("lipschitz", lipschitz, positive=True)
        at_least_zero("strong_convexity", strong_convexity)
        at_least_zero("delta", delta, positive=True)
        validation.flag("shuffle", shuffle)
        if callable(loss):
            if y is not None:
                raise InputError("y: found an array, expected None (a function's examples hold their targets)")
            self.terms = FunctionTerms(loss, _shuffled(shuffle, _examples(data)))
        else:
            validation.one_of(*LOSSES)("loss", loss)
            self.terms = _linear(loss, data, y, delta if loss == "huber" else None, shuffle)
        # No ridge is structure, not a number: without it other bounds hold. A traced l2 counts as positive.
        self.l2 = None if l2 is None or (not isinstance(l2, Tracer) and float(l2) == 0) else l2
        self.penalty = Zero() if penalty is None else penalty
        self.lipschitz, self.strong_convexity = lipschitz, strong_convexity

    @property
    def n(self) -> int:
        """How many terms."""
        return self.terms.n

    @follows_input
    def objective(self, x: Any) -> Any:
        """F(x)."""
        x = floats(x)
        total, _ = self.terms.local(x, jnp.int32(0), self.n)
        return total / self.n + self.ridge(x) + self.penalty.value(x)

    def ridge(self, x: PyTree) -> Scalar:
        """(l2/2)‖x‖²."""
        return like(0.0, x) if self.l2 is None else like(self.l2, x) / 2 * norm(x) ** 2

    def shrink(self, gradient: PyTree, x: PyTree) -> PyTree:
        """gradient + l2·x."""
        return gradient if self.l2 is None else optax.tree.add_scale(gradient, like(self.l2, x), x)

    def mu(self, x: PyTree) -> Scalar:
        """The strong convexity that is known."""
        known = [like(m, x) for m in (self.l2, self.strong_convexity) if m is not None]
        return sum(known, like(0.0, x))

    def default_solver(self) -> tuple[Solver, str]:
        """`SAGA` where its table is small, else `SVRG`."""
        from corollary.optim.stochastic._saga import SAGA
        from corollary.optim.stochastic._svrg import SVRG

        terms = self.terms
        if not isinstance(terms, LinearTerms):
            return SVRG(), "a sum of functions: SVRG keeps no table"
        if isinstance(self.penalty, Zero) and self.l2 is not None and isinstance(terms.rows, Dense):
            n, d = terms.rows.shape
            if d <= 512 and n >= 8 * d:
                return SVRG(precondition=True), "many rows, few columns, a ridge: SVRG in the metric of the Hessian"
        return SAGA(), "a linear model: its table is one number per row"

    def scale(self) -> Scalar | None:
        """F(0) without h, where the origin is known."""
        origin = self.start()
        return None if origin is None else self.terms.local(origin, jnp.int32(0), self.n)[0] / self.n

    def start(self) -> PyTree | None:
        """The origin, for a linear model."""
        if not isinstance(self.terms, LinearTerms):
            return None
        return jnp.zeros((self.terms.rows.shape[1],), self.terms.y.dtype)

    def lower_bound(self, table: PyTree, gradient: PyTree) -> Scalar | None:
        """−(1/n) Σ φ*(θ_i) − H*(−Aᵀθ/n), with H = h + (l2/2)‖·‖², for a table of θ and gradient = Aᵀθ/n.

        With l2 > 0 the supremum in H* is attained at prox_{h/l2}(u/l2): an exact prox will do, and one that stops at a
        duality gap is charged with it.
        """
        terms = self.terms
        if not isinstance(terms, LinearTerms) or not self.penalty.is_convex:
            return None
        u = -gradient
        bounds = []
        if self.l2 is not None:
            l2 = like(self.l2, u)
            safe = jnp.where(l2 > 0, l2, 1)
            best, missed = _prox_and_gap(self.penalty, u / safe, 1 / safe)
            if missed is not None:
                # ⟨u, p⟩ − (l2/2)‖p‖² in one product: ‖p‖² alone may overflow.
                conjugate = jnp.vdot(u - l2 / 2 * best, best) - self.penalty.value(best) + l2 * missed
                bound = -terms.conjugate(table, like(1.0, u)) - conjugate
                bounds.append(jnp.where(l2 > 0, bound, -jnp.inf))
        if (fit := self.penalty.dual_scaling(u)) is not None and self.penalty.conjugate(u) is not None:
            bounds += [-terms.conjugate(table, s) - self.penalty.conjugate(s * u) for s in (jnp.ones_like(fit), fit)]
        if not bounds:
            return None
        found = jnp.stack(bounds)
        return jnp.where(jnp.isfinite(found), found, -jnp.inf).max()  # what overflowed proves nothing


def _prox_and_gap(penalty: Penalty, v: PyTree, step: Scalar) -> tuple[PyTree, Scalar | None]:
    """The prox, and by how much its objective may exceed the least: 0 of an exact one, None where that is not known."""
    if hasattr(penalty, "_prox_and_gap"):
        p, gap, _ = penalty._prox_and_gap(v, step)  # type: ignore[attr-defined]
        return p, gap
    parts = jax.tree.leaves(penalty, is_leaf=lambda part: hasattr(part, "_prox_and_gap"))
    inexact = any(hasattr(part, "_prox_and_gap") for part in parts)
    return penalty.prox(v, step), None if inexact else jnp.zeros_like(step)


def finite_sum(problem: Any) -> FiniteSum:
    """Refuse anything but a `FiniteSum`."""
    if not isinstance(problem, FiniteSum):
        raise InputError(f"problem: found {type(problem).__name__}, expected a FiniteSum")
    return problem


def _linear(loss: str, X: Any, y: Any, delta: Any, shuffle: bool) -> LinearTerms:
    sparse = scipy.sparse.issparse(X) or hasattr(X, "nse")
    X = X if sparse else follows_input(validation.matrix)("data", X)
    if y is None:
        raise InputError("y: found None, expected the targets of a named loss")
    y = follows_input(validation.vector)("y", y)
    if y.shape[0] != X.shape[0]:
        raise InputError(f"y: found {y.shape[0]} entries, expected {X.shape[0]} as data has rows")
    if loss in ("logistic", "squared_hinge"):
        if not isinstance(y, Tracer) and not (set(np.unique(y)) <= {0.0, 1.0} or set(np.unique(y)) <= {-1.0, 1.0}):
            raise InputError(f"y: found values {np.unique(y)[:5]}, expected 0 and 1, or -1 and 1")
        y = (jnp if isinstance(y, jax.Array) else np).where(y > 0, 1.0, -1.0)
    if sparse:
        rows, y = Padded.of(X), np.asarray(y) if not isinstance(y, jax.Array) else y
    else:
        rows = Dense(X)
    parts = _shuffled(shuffle, {"rows": rows, "y": y.astype(rows.dtype)})
    return LinearTerms(parts["rows"], parts["y"], loss, delta)


def _examples(examples: Any) -> PyTree:
    leaves = jax.tree.leaves(examples)
    if not leaves or any(np.ndim(leaf) == 0 for leaf in leaves) or len({leaf.shape[0] for leaf in leaves}) != 1:
        found = [np.shape(leaf) for leaf in leaves]
        raise InputError(f"data: found shapes {found}, expected arrays with the same number of rows")
    if leaves[0].shape[0] == 0:
        raise InputError("data: found no rows, expected at least one")
    inexact = [leaf for leaf in leaves if np.issubdtype(leaf.dtype, np.floating)]
    if inexact:
        follows_input(finite)("data", inexact)
    return examples


def _shuffled(shuffle: bool, tree: PyTree) -> PyTree:
    """The rows of every leaf in one random order, the same at every run."""
    if not shuffle:
        return tree
    n = jax.tree.leaves(tree)[0].shape[0]
    order = np.random.default_rng(0).permutation(n)
    return jax.tree.map(lambda a: jnp.take(a, order, axis=0) if isinstance(a, jax.Array) else a[order], tree)
