"""Sparse triangular solves and incomplete Cholesky factors, by levels: what does not depend on one another, at once.

Row i of a triangular solve needs the rows named in it; rows whose needs are met form a level and are solved together
(Anderson & Saad 1989). The factor LLᵀ ≈ A with no entry outside the pattern of A is computed entry by entry in the same
way (Meijerink & van der Vorst 1977). Cost: O(nnz) a solve, in as many steps as there are levels: 2√n for a plane grid
in natural order, n for a tridiagonal matrix. The levels are found on the host, the solve runs in JAX.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float, Int

Entries = Float[np.ndarray, " _"]
Indices = Int[np.ndarray, " _"]


class TriangularSolve(eqx.Module):
    """x = T⁻¹ b for a sparse triangular T with a nonzero diagonal; make it by `triangular_solve`."""

    rows: Int[Array, "steps width"]  # the rows of each step, filled up with n
    columns: Int[Array, "steps width most"]
    values: Float[Array, "steps width most"]
    inverse: Float[Array, " n1"]  # 1/diagonal, and a zero for the filling

    def __call__(self, b: Float[Array, " n"]) -> Float[Array, " n"]:
        """T⁻¹ b."""
        padded = jnp.concatenate([b, jnp.zeros(1, b.dtype)])

        def step(x: Array, part: tuple[Array, Array, Array]) -> tuple[Array, None]:
            rows, columns, values = part
            rest = padded[rows] - jnp.sum(values * x[columns], axis=-1)
            return x.at[rows].set(rest * self.inverse[rows]), None

        return jax.lax.scan(step, jnp.zeros_like(padded), (self.rows, self.columns, self.values))[0][:-1]


def triangular_solve(T: scipy.sparse.csr_array) -> TriangularSolve:
    """The levels of a lower or upper triangular CSR matrix, each cut into steps of equal width."""
    T = scipy.sparse.csr_array(T)
    diagonal = T.diagonal()
    n = len(diagonal)
    strict = scipy.sparse.csr_array(T - scipy.sparse.diags_array(diagonal))
    strict.eliminate_zeros()
    row = np.repeat(np.arange(n), np.diff(strict.indptr))
    level = levels(n, strict.indices, row)
    order = np.argsort(level, kind="stable")
    sizes = np.bincount(level)
    width = max(1, -(-n // len(sizes)))  # at most twice as many steps as levels, at most twice the rows in all
    most = max(1, int(np.diff(strict.indptr).max(initial=0)))
    steps = -(-sizes // width)
    first = np.concatenate([[0], np.cumsum(steps)[:-1]])
    inside = np.arange(n) - np.repeat(np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
    place = (np.repeat(first, sizes) + inside // width) * width + inside % width
    rows = np.full(steps.sum() * width, n)
    rows[place] = order
    where = np.empty(n, int)
    where[order] = place
    position = np.arange(strict.nnz) - strict.indptr[row]
    columns, values = np.full((len(rows), most), n), np.zeros((len(rows), most), T.dtype)
    columns[where[row], position], values[where[row], position] = strict.indices, strict.data
    shape = (int(steps.sum()), width)
    return TriangularSolve(
        jnp.asarray(rows.reshape(shape), jnp.int32),
        jnp.asarray(columns.reshape(*shape, most), jnp.int32),
        jnp.asarray(values.reshape(*shape, most)),
        jnp.asarray(np.concatenate([1 / diagonal, [0]]).astype(T.dtype)),
    )


def levels(count: int, source: Indices, target: Indices) -> Int[np.ndarray, " n"]:
    """The longest path to each node of an acyclic graph with edges source → target."""
    order = np.argsort(source, kind="stable")
    target = np.asarray(target)[order]
    starts = np.searchsorted(np.asarray(source)[order], np.arange(count + 1))
    waiting = np.bincount(target, minlength=count)
    level, front, depth = np.zeros(count, int), np.flatnonzero(waiting == 0), 0
    while front.size:
        level[front] = depth
        lengths = starts[front + 1] - starts[front]
        reached = target[np.repeat(starts[front] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())]
        nodes, met = np.unique(reached, return_counts=True)
        waiting[nodes] -= met
        front, depth = nodes[waiting[nodes] == 0], depth + 1
    return level


def incomplete_cholesky(A: scipy.sparse.csr_array) -> tuple[scipy.sparse.csr_array, float]:
    """L, lower triangular in the pattern of A, with (LLᵀ)_ij = a_ij there; and the shift α that was needed.

    Where a pivot is not positive, which a positive definite A does not exclude, A + α diag(A) is factored instead, with
    α doubled until it works (Manteuffel 1980).
    """
    lower = scipy.sparse.csc_array(scipy.sparse.tril(A))
    lower.sort_indices()
    root = np.sqrt(A.diagonal())
    n, rows = len(root), lower.indices.astype(np.int64)
    columns = np.repeat(np.arange(n), np.diff(lower.indptr))
    data = lower.data / root[rows] / root[columns]
    diagonal = lower.indptr[:-1].astype(np.int64)  # first in its column
    target, left, right = _products(n, rows, columns, lower.indptr)
    off = np.flatnonzero(rows != columns)
    edges = np.concatenate([left, right, diagonal[columns[off]]]), np.concatenate([target, target, off])
    level = levels(len(rows), *edges)
    alpha = 0.0
    while True:
        values = _factor(data, rows, columns, diagonal, target, left, right, level, alpha)
        if values is not None:
            L = scipy.sparse.csc_array((values * root[rows], rows, lower.indptr), shape=A.shape)
            return scipy.sparse.csr_array(L), alpha
        alpha = max(2 * alpha, 1e-3)


def _products(n: int, rows: Indices, columns: Indices, starts: Indices) -> tuple[Indices, Indices, Indices]:
    """All products l_ik l_jk whose target (i, j) lies in the pattern: (target, ik, jk) by position."""
    below = np.flatnonzero(rows != columns)
    inside = below - starts[columns[below]]  # 1, 2, ... within the column: it meets as many, itself included
    left = np.repeat(below, inside)
    right = left - (np.arange(inside.sum()) - np.repeat(np.cumsum(inside) - inside, inside))
    keys = columns * n + rows
    wanted = rows[right] * n + rows[left]
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    hit = keys[at] == wanted
    return at[hit], left[hit], right[hit]


def _factor(
    data: Entries, rows: Indices, columns: Indices, diagonal: Indices, target: Indices, left: Indices, right: Indices,
    level: Indices, alpha: float,
) -> Entries | None:  # fmt: skip
    values, count = np.zeros_like(data), int(level.max(initial=0)) + 1
    data = data + alpha * (rows == columns)
    entries, products = np.argsort(level, kind="stable"), np.argsort(level[target], kind="stable")
    entry_cuts = np.searchsorted(level[entries], np.arange(count + 1))
    product_cuts = np.searchsorted(level[target][products], np.arange(count + 1))
    rest = data.copy()
    for k in range(count):
        part, e = products[product_cuts[k] : product_cuts[k + 1]], entries[entry_cuts[k] : entry_cuts[k + 1]]
        np.subtract.at(rest, target[part], values[left[part]] * values[right[part]])
        pivot = rows[e] == columns[e]
        if (rest[e[pivot]] <= np.finfo(data.dtype).eps).any():
            return None
        values[e[pivot]] = np.sqrt(rest[e[pivot]])
        values[e[~pivot]] = rest[e[~pivot]] / values[diagonal[columns[e[~pivot]]]]
    return values
