"""Pivoted Cholesky of a positive semidefinite matrix, whole or from few of its entries: A ≈ L Lᵀ.

Use it for a low-rank factor of a kernel matrix that need not be formed (k + 1 columns are read: n (k + 1) entries), for
the rank of a semidefinite matrix, or as a preconditioner. "greedy" takes the largest remaining diagonal entry; "random"
draws the pivot in proportion to the remaining diagonal, which outliers cannot lead astray. Cost: O(n k²). Source:
Higham, Accuracy and Stability, 2nd ed., §10.3; Chen, Epperly, Tropp & Webber, Randomly pivoted Cholesky (2022),
Algorithm 1, Theorem 3.1; Epperly, Tropp & Webber (2024) for blocks by rejection, which keep the very same law.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.linalg
import scipy.sparse
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input, on_host
from corollary.core.solution import Note, Solution, Status
from corollary.linalg._products import products

FULL_CHECK = 1000  # order up to which ‖A − LLᵀ‖ is computed without being asked for
Entries = Callable[[Any, Any], Any]


class PivotedCholesky(eqx.Module):
    """A ≈ L Lᵀ in A's own order; L[perm] is lower trapezoidal, and perm begins with the pivots."""

    L: Float[Array | np.ndarray, "n k"]
    perm: Int[Array | np.ndarray, " n"]

    @property
    def matrix(self) -> Float[Array | np.ndarray, "n n"]:
        """The approximation, (n, n)."""
        return self.L @ self.L.T


@follows_input
def pivoted_cholesky(
    A: Any,
    rank: Any = None,
    *,
    tol: Any = None,
    diagonal: Any = None,
    pivoting: Any = "greedy",
    block: Any = 32,
    certify: Any = "auto",
    key: Key[Array, ""] | None = None,
) -> Solution:
    """Partial Cholesky factor with pivots: A ≈ L Lᵀ, the trace of the remainder at most tol · tr A.

    Use it for kernel matrices and for semidefinite matrices whose rank is wanted. Cost: O(n k²) and n (k + 1) entries
    of A; all of a dense matrix by LAPACK's pstrf, n³/3.

    Parameters
    ----------
    A
        (n, n) symmetric positive semidefinite: a dense or sparse matrix, an operator, or a function (rows, columns) ↦
        A[rows][:, columns] of two index arrays, with `diagonal`.
    rank
        The most columns that L may get; n by default.
    tol
        Stop where the remainder's trace is at most `tol` tr A; n machine epsilons by default (the numerical rank).
    diagonal
        (n,) diagonal of A, for a function or operator.
    pivoting
        "greedy" or "random" (RPCholesky).
    block
        Proposals at a time with "random": accepted by rejection, so that the pivots have the law of one at a time.
    certify
        "trace" (nothing of A but what was read), "full" (‖A − LLᵀ‖_F, of a dense or sparse matrix, which also finds out
        an A that is not semidefinite), or "auto": full up to order 1000.
    key
        For "random": `jax.random.key(0)` by default.

    Returns
    -------
    Solution
        ``value``: `PivotedCholesky` (under jit `rank` columns, zero beyond the numerical rank). Certificates:
        ``"trace"`` (exact: the largest remaining diagonal entry ≤ ‖A − LLᵀ‖₂ ≤ trace of the remainder), ``"psd"``
        (exact: no remaining diagonal entry is negative), ``"tolerance"`` (exact, given `tol`), ``"remainder"`` (exact,
        "full": ‖A − LLᵀ‖_F ≤ that trace). ``stats``: ``rank``, ``trace_remainder``, ``entries`` read.

    Raises
    ------
    InputError
        For a matrix that is not square, finite and real, or a function without `diagonal`.

    Notes
    -----
    A singular semidefinite A has Cholesky factors, though not a unique one, and the algorithm without pivots breaks
    down on it. With "random", k ≥ r/ε + r log(1/(εη)) columns leave E tr(A − LLᵀ) ≤ (1 + ε) tr(A − A_r), η = tr(A −
    A_r)/tr A (Chen et al. 2022, Theorem 3.1). Source: Higham (2002), Theorem 10.9 for the existence.

    Examples
    --------
    >>> import numpy as np
    >>> A = np.array([[1.0, 2.0], [2.0, 4.0]])  # singular
    >>> found = pivoted_cholesky(A)
    >>> found.value.L.ravel().tolist(), found.value.perm.tolist(), int(found.stats["rank"])
    ([1.0, 2.0], [1, 0], 1)
    """
    validation.one_of("greedy", "random")("pivoting", pivoting)
    validation.one_of("auto", "trace", "full")("certify", certify)
    validation.integer(1, none=True)("rank", rank)
    validation.number(0, 1, none=True)("tol", tol)
    validation.integer(1)("block", block)
    key = jax.random.key(0) if key is None else key
    source = _source(A, diagonal, key)
    n = len(source.diagonal)
    rank = n if rank is None else rank
    if rank > n:
        raise InputError(f"rank: found {rank}, expected at most {n}")
    if (source.diagonal.dtype.kind != "f") or (source.on_host and not np.isfinite(source.diagonal).all()):
        raise InputError("diagonal: found NaN, infinity or a non-floating type, expected finite real numbers")
    noise = n * float(np.finfo(source.diagonal.dtype).eps)
    stop = noise if tol is None else max(tol, noise)
    if source.on_host:
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
        L, pivots, d, read = _on_the_host(source, rank, stop, pivoting, block, rng)
        value, xp = PivotedCholesky(L, _complete(pivots, n)), np
        found = L.shape[1]
    else:
        if source.dense is None:
            raise InputError("A: found a function on an accelerator or under jit, expected a matrix there")
        L, perm, d, found = _in_jax(
            source.dense, rank, jnp.asarray(stop, source.dense.dtype), pivoting == "random", key
        )
        value, xp, read = PivotedCholesky(L, perm), jnp, n * (rank + 1)
    certificates = _certificates(source, value, d, tol, certify, xp)
    stats = {"rank": found, "trace_remainder": xp.sum(xp.maximum(d, 0)), "entries": read, "method": Note(pivoting)}
    small = xp.sum(d) <= stop * xp.sum(source.diagonal)
    status = xp.where(small | (tol is None), Status.CONVERGED, Status.MAX_STEPS).astype(np.int32)
    solution = Solution(value, certificates, status, found, stats)
    return jax.tree.map(jnp.asarray, solution) if source.on_host and source.in_jax else solution


class _Source(NamedTuple):
    entries: Entries
    diagonal: Any
    dense: Any  # the matrix, where it is at hand
    on_host: bool
    in_jax: bool


def _source(A: Any, diagonal: Any, key: Any) -> _Source:
    """Where entries come from: a matrix or a function; on the host unless traced or on an accelerator."""
    if callable(A) and not isinstance(A, lx.AbstractLinearOperator | jax.Array):
        if diagonal is None:
            raise InputError("diagonal: found None with a function, expected the (n,) diagonal of A")
        d = np.asarray(diagonal)
        d = d if d.dtype.kind == "f" else d.astype(np.float64)
        return _Source(lambda i, j: np.asarray(A(i, j), d.dtype), d, None, True, isinstance(diagonal, jax.Array))
    if isinstance(A, lx.MatrixLinearOperator):
        A = A.matrix
    if isinstance(A, lx.AbstractLinearOperator):
        P = products(A, key)
        d = np.asarray(lx.diagonal(A) if diagonal is None else diagonal, P.dtype)
        if P.shape != (len(d), len(d)):
            raise InputError(f"A: found shape {P.shape} with a diagonal of {len(d)}, expected a square matrix")
        unit = lambda j: np.eye(len(d), dtype=P.dtype)[:, j]  # noqa: E731
        return _Source(lambda i, j: np.asarray(P.apply(P.xp.asarray(unit(j))))[i], d, None, True, True)
    if scipy.sparse.issparse(A):
        csc: Any = scipy.sparse.csc_array(A)
        csc = csc if csc.dtype in (np.float32, np.float64) else csc.astype(np.float64)
        _square(csc.shape)
        return _Source(lambda i, j: csc[:, j].toarray()[i], csc.diagonal(), csc, True, False)
    in_jax = isinstance(A, jax.Array)
    A = validation.matrix("A", A, host=True)
    _square(A.shape)
    traced = isinstance(A, Tracer) or isinstance(key, Tracer)
    if traced or (in_jax and not on_host(A)):
        A = jnp.asarray(A)
        return _Source(lambda i, j: A[i][:, j], jnp.diagonal(A), A, False, True)
    A = np.asarray(A)
    return _Source(lambda i, j: A[np.ix_(i, j)], np.diagonal(A), A, True, in_jax)


def _square(shape: tuple[int, int]) -> None:
    if shape[0] != shape[1]:
        raise InputError(f"A: found shape {shape}, expected a square (symmetric positive semidefinite) matrix")


def _complete(pivots: Any, n: int) -> np.ndarray:
    """The pivots, then everything else in order."""
    rest = np.ones(n, bool)
    rest[pivots] = False
    return np.concatenate([np.asarray(pivots, int), np.flatnonzero(rest)])


# On the host ---------------------------------------------------------------------------------------------------------


def _on_the_host(
    source: _Source, rank: int, stop: float, pivoting: str, block: int, rng: np.random.Generator
) -> tuple[Any, Any, Any, int]:
    """L, the pivots, the remaining diagonal, and how many entries were read."""
    d = np.array(source.diagonal)
    n, total = len(d), float(d.sum())
    if pivoting == "greedy" and isinstance(source.dense, np.ndarray) and 4 * rank > n:
        return _lapack(source.dense, d, rank, stop)
    L, pivots, read = np.zeros((n, rank), d.dtype, order="F"), [], n
    everything = np.arange(n)
    while len(pivots) < rank and d.sum() > stop * total and d.max() > 0:
        k = len(pivots)
        if pivoting == "greedy":
            chosen = np.array([d.argmax()])
            corner = np.array([[1.0]])
        else:
            weights = np.maximum(d, 0).astype(float)
            proposed = rng.choice(n, min(block, rank - k), p=weights / weights.sum())
            H = source.entries(proposed, proposed) - L[proposed, :k] @ L[proposed, :k].T
            read += len(proposed) ** 2
            accepted, corner = _reject(H.astype(float), d[proposed].astype(float), rng)
            if not accepted:
                d[proposed] = np.minimum(d[proposed], np.maximum(np.diagonal(H), 0))  # rounding, or not semidefinite
                continue
            chosen = proposed[accepted]
        G = source.entries(everything, chosen) - L[:, :k] @ L[chosen, :k].T
        read += n * len(chosen)
        if pivoting == "greedy":
            if not G[chosen[0], 0] > 0:
                d[chosen[0]] = min(G[chosen[0], 0], 0)  # not semidefinite: the certificate says so
                break
            corner = np.sqrt(G[chosen])
        new = scipy.linalg.solve_triangular(corner, G.T.astype(float), lower=True).T.astype(d.dtype)
        new[pivots] = 0  # an earlier pivot's row is done: exactly triangular, not only to rounding
        for c, i in enumerate(chosen):
            new[chosen[:c], c] = 0
            new[i, c] = corner[c, c]
        L[:, k : k + len(chosen)] = new
        d = d - np.sum(new * new, axis=1)
        d[chosen] = 0
        pivots.extend(int(i) for i in chosen)
    return np.ascontiguousarray(L[:, : len(pivots)]), pivots, d, read


def _reject(H: np.ndarray, proposal: np.ndarray, rng: np.random.Generator) -> tuple[list[int], np.ndarray]:
    """Which of the proposals one-at-a-time sampling would have drawn, and the Cholesky factor of their block of H.

    Proposal i, drawn by the old diagonal, is kept with probability (its diagonal now) / (its diagonal then).
    """
    accepted: list[int] = []
    H = np.array(H)
    columns = []
    for i in range(len(H)):
        if H[i, i] > 8 * np.finfo(float).eps * proposal[i] and rng.random() * proposal[i] < H[i, i]:
            column = H[:, i] / math.sqrt(H[i, i])
            H -= np.outer(column, column)
            accepted.append(i)
            columns.append(column)
    return accepted, np.tril(np.array(columns).T[accepted]) if accepted else np.zeros((0, 0))


def _lapack(A: np.ndarray, d: np.ndarray, rank: int, stop: float) -> tuple[Any, Any, Any, int]:
    """All of it by LAPACK, cut where the trace of the remainder is small enough."""
    n, (pstrf,) = len(A), scipy.linalg.get_lapack_funcs(("pstrf",), (A,))
    e = int(np.frexp(np.abs(A).max())[1]) // 2 * 2
    factor, order, found, _ = pstrf(np.ldexp(A, -e), lower=1)
    L = np.tril(factor)[:, : min(found, rank)]
    remaining = np.diagonal(np.ldexp(A, -e))[order - 1][:, None] - np.cumsum(L * L, axis=1)
    # remaining[i, j]: what is left of entry i after j + 1 columns; of the pivots nothing is
    below = np.where(np.arange(n)[:, None] > np.arange(L.shape[1]), remaining, 0)
    enough = np.flatnonzero(below.sum(axis=0) <= stop * max(np.ldexp(d.sum(), -e), 0))
    k = min(L.shape[1], enough[0] + 1 if len(enough) else n)
    k = k if d.sum() > 0 else 0
    left = np.ldexp(below[:, k - 1], e) if k else d[order - 1]
    out, back = np.empty((n, k), A.dtype), np.empty(n, A.dtype)
    out[order - 1], back[order - 1] = np.ldexp(L[:, :k], e // 2), left
    return out, order[:k] - 1, back, n * n


# In JAX --------------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(1, 3))
def _in_jax(
    A: Float[Array, "n n"], rank: int, stop: Array, random: bool, key: Any
) -> tuple[Array, Array, Array, Array]:
    """One pivot at a time, fixed shapes: columns beyond the numerical rank are zero."""
    n, total = A.shape[0], jnp.trace(A)

    def step(carry: Any, sub: Any) -> Any:
        L, d, free, perm, j = carry
        weights = jnp.where(free, jnp.maximum(d, 0), 0)
        go = (jnp.sum(weights) > stop * total) & (jnp.max(weights) > 0)
        i = jax.random.categorical(sub, jnp.log(jax.lax.stop_gradient(weights))) if random else jnp.argmax(weights)
        column = jnp.where(free, A[:, i] - L @ L[i], 0)
        go = go & (column[i] > 0)
        column = jnp.where(go, column / jnp.sqrt(jnp.where(go, column[i], 1)), 0)
        L = L.at[:, j].set(column)
        d, free = jnp.where(free, d - column * column, 0), free & ~(go & (jnp.arange(n) == i))
        return (
            L,
            jnp.where(free, d, 0),
            free,
            perm.at[i].set(jnp.where(go, j, perm[i])),
            j + go.astype(jnp.int32),
        ), None

    places = n + jnp.arange(n, dtype=jnp.int32)
    start = (jnp.zeros((n, rank), A.dtype), jnp.diagonal(A), jnp.ones(n, bool), places, jnp.int32(0))
    (L, d, _, places, found), _ = jax.lax.scan(step, start, jax.random.split(key, rank))
    return L, jnp.argsort(places), d, found


# Certificates --------------------------------------------------------------------------------------------------------


def _certificates(
    source: _Source, value: PivotedCholesky, d: Any, tol: Any, certify: str, xp: Any
) -> dict[str, Certificate]:
    n, eps = len(d), float(np.finfo(d.dtype).eps)
    constant = (lambda x: x) if xp is np else jax.lax.stop_gradient
    d, diagonal, L = constant(d), constant(source.diagonal), constant(value.L)
    total = xp.sum(xp.abs(diagonal))
    noise, left = 8 * eps * n * total, xp.sum(xp.maximum(d, 0))
    certificates = {
        "trace": Certificate(
            "largest remaining diagonal entry <= ‖A − LLᵀ‖₂ <= tr(A − LLᵀ), as the remainder is semidefinite",
            measured=xp.max(d),
            bound=left + noise,
            kind="exact",
            source="Higham, Accuracy and Stability, 2nd ed., §10.3",
            assumptions=(Assumption("A is positive semidefinite: only what was read of it is checked"),),
        ),
        "psd": Certificate(
            "no diagonal entry of the remainder is negative beyond rounding",
            measured=xp.maximum(-xp.min(d), 0),
            bound=8 * eps * n * xp.max(xp.abs(diagonal)),
            kind="exact",
            source="Higham, Accuracy and Stability, 2nd ed., Theorem 10.9",
        ),
    }
    if tol is not None:
        certificates["tolerance"] = Certificate(
            "tr(A − LLᵀ) <= tol · tr A", left, tol * total + noise, "exact", "the remaining diagonal, added up"
        )
    if certify == "full" and source.dense is None:
        raise InputError("certify: found 'full' without a matrix, expected 'trace'")
    if source.dense is not None and (certify == "full" or (certify == "auto" and n <= FULL_CHECK)):
        dense = constant(source.dense)
        dense = dense.toarray() if scipy.sparse.issparse(dense) else dense
        top = xp.max(xp.abs(dense))
        scale = xp.where(top > 0, top, 1)
        certificates["remainder"] = Certificate(
            "‖A − LLᵀ‖_F <= tr(A − LLᵀ), which fails for an A that is not semidefinite",
            measured=scale * xp.linalg.norm(dense / scale - (L / scale) @ L.T),
            bound=left + noise + 8 * eps * n**0.5 * total,
            kind="exact",
            source="‖E‖_F <= tr E for semidefinite E",
        )
    return certificates
