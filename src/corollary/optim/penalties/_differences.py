"""Differences of neighbours: of an image's pixels along both axes, and along the edges of a graph; with their adjoints.

D maps an image (m, n) to its forward differences (2, m, n), zero beyond the border; ‖D‖ < √8.
A graph's D maps x on the vertices to x_j − x_i on the edges (i, j); ‖D‖² ≤ max over the edges of
deg(i) + deg(j). Cost O(size), no matrix. Source: Chambolle, "An algorithm for total variation minimization and
applications" (2004), section 2 and theorem 3.1; Anderson & Morley, "Eigenvalues of the Laplacian of a graph" (1985).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

DIFFERENCES_NORM = math.sqrt(8.0)  # an upper bound of ‖D‖ for images, whatever their size


def differences(x: Float[Array, "m n"]) -> Float[Array, "2 m n"]:
    """D x: forward differences down the rows and along the columns, zero at the last row and column.

    Examples
    --------
    >>> differences(jnp.asarray([[1.0, 2.0], [4.0, 8.0]])).tolist()
    [[[3.0, 6.0], [0.0, 0.0]], [[1.0, 0.0], [4.0, 0.0]]]
    """
    return jnp.stack([jnp.diff(x, axis=0, append=x[-1:]), jnp.diff(x, axis=1, append=x[:, -1:])])


def differences_adjoint(p: Float[Array, "2 m n"]) -> Float[Array, "m n"]:
    """Dᵀp, minus the discrete divergence: ⟨D x, p⟩ = ⟨x, Dᵀp⟩.

    Examples
    --------
    >>> differences_adjoint(jnp.asarray([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [2.0, 0.0]]])).tolist()
    [[-1.0, 0.0], [-1.0, 2.0]]
    """
    down = jnp.pad(p[0, :-1], ((1, 1), (0, 0)))
    along = jnp.pad(p[1, :, :-1], ((0, 0), (1, 1)))
    return down[:-1] - down[1:] + along[:, :-1] - along[:, 1:]


def edge_differences(x: Float[Array, " p"], edges: Int[Array, "q 2"]) -> Float[Array, " q"]:
    """x_j − x_i for every edge (i, j).

    Examples
    --------
    >>> edge_differences(jnp.asarray([1.0, 2.0, 5.0]), jnp.asarray([[0, 1], [0, 2]])).tolist()
    [1.0, 4.0]
    """
    return x[edges[:, 1]] - x[edges[:, 0]]


def edge_differences_adjoint(p: Float[Array, " q"], edges: Int[Array, "q 2"], vertices: int) -> Float[Array, " p"]:
    """Σ over the edges (i, j) of p_e (e_j − e_i)."""
    ends = jnp.concatenate([edges[:, 1], edges[:, 0]])
    return jax.ops.segment_sum(jnp.concatenate([p, -p]), ends, vertices)


def edge_norm(edges: Int[np.ndarray, "q 2"]) -> float:
    """An upper bound of ‖D‖ for a graph: √(max over the edges of deg(i) + deg(j))."""
    degree = np.bincount(edges.ravel())
    return float(np.sqrt((degree[edges[:, 0]] + degree[edges[:, 1]]).max()))
