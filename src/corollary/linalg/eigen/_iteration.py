"""The one driver of the power-like iterations: it owns the loop, the stopping rule, the history and the flags.

A method is a rule that turns one `Pair` (a unit vector or an orthonormal block, its image under A, its Ritz value and
its residual) into the next. The driver stops on the residual relative to ‖A‖, i.e. on the backward error: the pair is
exact for A + E with ‖E‖ as small. Success is a flag in the carry, never a step count.
Source: Parlett, The Symmetric Eigenvalue Problem (1998), ch. 4; Golub & Van Loan, 4th ed., §7.3, §8.2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse
from jax.core import Tracer
from jax.experimental import sparse as jsparse
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.operator import Operator, Sparse, as_operator, dtype
from corollary.core.solution import Status
from corollary.linalg.eigen._pair import certify

Scalar = Float[Array, ""]
Seen = dict[str, Array]
NEAREST = "Parlett, The Symmetric Eigenvalue Problem (1998), Theorem 4.5.1"
SYMMETRIC = Assumption("A is symmetric")
DENSE_LIMIT = 25_000_000  # entries up to which an operator may be made dense for a direct method


class Pair(eqx.Module):
    """An approximate eigenpair, or k of them, with its image under A, so that looking at it costs no product."""

    vector: PyTree
    image: PyTree
    value: Array
    residual: Array  # ‖A v − θ v‖ of the unit vector v; (k,) for several


class Run(eqx.Module):
    """The driver's carry."""

    pair: Pair
    scale: Scalar  # ‖A‖ from below
    seen: Seen
    steps: Int[Array, ""]
    converged: Bool[Array, ""]
    finite: Bool[Array, ""]
    history: Seen


class Stop(eqx.Module):
    """When to stop: relative tolerance and step limit (traced), and whether to record every step (static)."""

    tol: Array
    limit: Array
    length: int = eqx.field(static=True)  # max_steps with a history, else 0


def iterate(
    advance: Callable[[Pair], Pair],
    start: Pair,
    scale: Scalar,
    stop: Stop,
    watch: Callable[[Pair, Pair, Seen], Seen] = lambda new, old, last: {},
    first: Seen | None = None,
) -> Run:
    """Apply `advance` until the residual is at most tol·‖A‖ (plus rounding); `watch` sees each step.

    What `watch` returns is recorded in the history, but for names that begin with an underscore.
    """
    run = begin(start, scale, stop, first)
    step = lambda run: follow(run, advance(run.pair), stop, watch)  # noqa: E731
    return jax.lax.while_loop(lambda run: going(run, stop), step, run)


def begin(start: Pair, scale: Scalar, stop: Stop, first: Seen | None = None) -> Run:
    """The run before its first step; a start may be an eigenvector already."""
    watched = dict(first or {})
    names = {"value": start.value, "residual": start.residual}
    names |= {k: v for k, v in watched.items() if not k.startswith("_")}
    history = {k: jnp.full((stop.length, *v.shape), jnp.nan, v.dtype) for k, v in names.items()} if stop.length else {}
    none, no = jnp.int32(0), jnp.asarray(False)
    return _look(Run(start, scale, watched, none, no, ~no, history), start, stop)


def going(run: Run, stop: Stop) -> Any:
    """Whether another step is due."""
    return ~run.converged & run.finite & (run.steps < stop.limit)


def follow(run: Run, pair: Pair, stop: Stop, watch: Callable[[Pair, Pair, Seen], Seen]) -> Run:
    """The run after a step to `pair`."""
    seen = watch(pair, run.pair, run.seen)
    values = {"value": pair.value, "residual": pair.residual, **seen}
    record = {k: series.at[run.steps].set(values[k]) for k, series in run.history.items()}
    return _look(Run(pair, run.scale, seen, run.steps + 1, run.converged, run.finite, record), pair, stop)


def _look(run: Run, pair: Pair, stop: Stop) -> Run:
    scale = jnp.maximum(run.scale, jnp.max(_lengths(pair)))
    worst = jnp.max(pair.residual)
    converged = worst <= threshold(scale, stop.tol, pair)
    finite = jnp.isfinite(worst) & jnp.isfinite(jnp.sum(pair.value))
    return Run(pair, scale, run.seen, run.steps, converged & finite, finite, run.history)


def _lengths(pair: Pair) -> Array:
    image = jax.tree.leaves(pair.image)[0]
    return length(image)


def threshold(scale: Scalar, tol: Array, pair: Pair) -> Scalar:
    """tol·‖A‖ and the rounding of the products that the residual is made of."""
    n = max(leaf.shape[0] for leaf in jax.tree.leaves(pair.vector))
    return tol.astype(scale.dtype) * scale + rounding(scale, slack(n))


def certificates(run: Run, stop: Stop, symmetric: bool | None, *, k: int | None = None) -> dict[str, Certificate]:
    """Those of the pair (or of the first k): `eigenpair_certificates`, from the image that the run ended with.

    Where the method needs a symmetric A and nobody could check it (None), the claims that rest on it say so.
    """
    return mark(_certificates(run, stop, symmetric is not False, k), symmetric)


def mark(found: dict[str, Certificate], symmetric: bool | None) -> dict[str, Certificate]:
    """Add the assumption of symmetry where it was not checked."""
    if symmetric is not None or "eigenvalue_error" not in found:
        return found
    error = found["eigenvalue_error"]
    assumed = eqx.tree_at(lambda c: c.assumptions, error, (*error.assumptions, SYMMETRIC))
    return {**found, "eigenvalue_error": assumed}


@partial(jax.jit, static_argnames=("symmetric", "k"))
def _certificates(run: Run, stop: Stop, symmetric: bool, k: int | None) -> dict[str, Certificate]:
    n = run.pair.vector.shape[0]
    V, image = (x.reshape(n, -1)[:, :k] for x in (run.pair.vector, run.pair.image))
    values = run.pair.value.reshape(-1)[:k]
    return certify(jnp, values, V, image, run.scale, symmetric=symmetric, tol=stop.tol, slack=slack(n))


def slack(n: int) -> float:
    """Rounding of a product with n terms, in units of eps: the worst case grows with n, the usual one with √n."""
    return 8 + 2 * n**0.5


def status(run: Run) -> Array:
    """From the flags of the run."""
    return Status.of(run.converged, run.finite)


# Vectors -------------------------------------------------------------------------------------------------------------


def length(v: Array) -> Array:
    """Euclidean length (of each column), without overflow of the squares."""
    top = jnp.max(jnp.abs(v))
    safe = jnp.where((top > 0) & jnp.isfinite(top), top, 1)
    return safe * jnp.sqrt(jnp.sum(jnp.square(v / safe), axis=0))


def unit(v: Array, otherwise: Array) -> Array:
    """v/‖v‖, in two steps so that no size is lost; `otherwise` where v is zero."""
    top = jnp.max(jnp.abs(v))
    v = v / jnp.where(top > 0, top, 1)
    return jnp.where(top > 0, v / jnp.where(top > 0, jnp.sqrt(jnp.sum(v * v)), 1), otherwise)


def rayleigh(A: Operator, x: Array) -> Pair:
    """The pair of a unit vector x with its Rayleigh quotient: one product."""
    image = A.mv(x)
    value = x @ image
    return Pair(x, image, value, length(image - value * x))


def sign_fixed(v: Array) -> Array:
    """±v, (n,) or by columns, with the largest entry positive."""
    largest = jnp.take_along_axis(v, jnp.argmax(jnp.abs(v), axis=0, keepdims=True), axis=0)
    return jnp.where(largest < 0, -v, v)


@jax.jit
def eigenpair(run: Run) -> tuple[Array, Array]:
    """The answer: (value, vector), or several by columns, of fixed signs."""
    return run.pair.value, sign_fixed(run.pair.vector)


def norm_from_below(A: Operator) -> Scalar:
    """A lower bound of ‖A‖₂ from its entries, max(max|a_ij|, ‖A‖_F/√min(m, n)); 0 where they are not at hand."""
    entries = A.matrix if isinstance(A, lx.MatrixLinearOperator) else A.matrix.data if isinstance(A, Sparse) else None
    if entries is None or entries.size == 0:
        return jnp.zeros((), dtype(A))
    top = jnp.max(jnp.abs(entries))
    safe = jnp.where(top > 0, top, 1)
    return top * jnp.maximum(1, jnp.sqrt(jnp.sum(jnp.square(entries / safe)) / min(A.in_size(), A.out_size())))


# Arguments -----------------------------------------------------------------------------------------------------------


def operator(A: Any, *, square: bool = True) -> Operator:
    """A real operator, square unless told otherwise, from anything that is one."""
    if not scipy.sparse.issparse(A) and not isinstance(A, Operator | jsparse.JAXSparse):
        A = validation.matrix("A", A)
    op = as_operator(A)
    shape = (op.out_size(), op.in_size())
    if square and shape[0] != shape[1]:
        raise InputError(f"A: found shape {shape}, expected a square matrix")
    if 0 in shape:
        raise InputError(f"A: found an empty matrix of shape {shape}, expected at least one entry")
    if not jnp.issubdtype(dtype(op), jnp.floating):
        raise InputError(f"A: found dtype {dtype(op)}, expected real numbers")
    return op


def is_symmetric(A: Operator) -> bool | None:
    """Whether A = Aᵀ to rounding, or as its tag says; None where nobody can tell (products only, or traced)."""
    if lx.is_symmetric(A):
        return True
    matrix = A.matrix if isinstance(A, lx.MatrixLinearOperator | Sparse) else None
    if matrix is None or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(matrix)):
        return None
    if isinstance(A, Sparse):
        parts = tuple(np.asarray(part) for part in (A.matrix.data, A.matrix.indices, A.matrix.indptr))
        csr = scipy.sparse.csr_array(parts, shape=A.shape)
        gap, top = np.abs((csr - csr.T).data), np.abs(csr.data)
    else:
        gap, top = np.abs(np.asarray(matrix) - np.asarray(matrix).T), np.abs(np.asarray(matrix))
    slack = 16 * A.in_size() * float(jnp.finfo(dtype(A)).eps) * top.max(initial=0)
    return bool(gap.max(initial=0) <= slack)


def require_symmetric(A: Operator, symmetric: bool | None) -> None:
    """Refuse an operator that is known not to be symmetric."""
    if symmetric is False:
        raise InputError("A: found a matrix that differs from its transpose, expected a symmetric one")


def dense(A: Operator) -> Array:
    """The matrix itself; refuse to unpack a large operator silently."""
    if not isinstance(A, lx.MatrixLinearOperator) and A.in_size() * A.out_size() > DENSE_LIMIT:
        raise InputError(f"A: found an operator of size {A.in_size()}, expected at most {DENSE_LIMIT:.0e} entries here")
    return A.as_matrix()


def start_vector(A: Operator, v0: Any, key: Key[Array, ""] | None, name: str = "v0") -> Array:
    """The caller's start, or a Gaussian one: it has a part in every direction with probability one."""
    n, kind = A.in_size(), dtype(A)
    if v0 is None:
        return jax.random.normal(jax.random.key(0) if key is None else key, (n,), kind)
    v0 = jnp.asarray(validation.vector(name, v0)).astype(kind)
    if v0.shape[0] != n:
        raise InputError(f"{name}: found length {v0.shape[0]}, expected {n} as A has columns")
    if not isinstance(v0, Tracer) and not bool(jnp.any(v0 != 0)):
        raise InputError(f"{name}: found the zero vector, expected a direction")
    return v0


def stopping(A: Operator, tol: Any, max_steps: Any, history: Any) -> Stop:
    """The settings that all the iterations share; the default tolerance is eps^(2/3)."""
    if not isinstance(tol, jax.Array):
        validation.number(0, 1, none=True)("tol", tol)
    validation.integer(1)("max_steps", max_steps)
    validation.flag("history", history)
    kind = dtype(A)
    tol = float(jnp.finfo(kind).eps) ** (2 / 3) if tol is None else tol
    return Stop(jnp.asarray(tol).astype(kind), jnp.int32(max_steps), max_steps if history else 0)
