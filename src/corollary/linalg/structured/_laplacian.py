"""Graph Laplacians as sparse operators, the spectra that are known in closed form, and Cheeger's inequality.

When: spectral clustering, diffusion on graphs, finite differences. Cost: O(nnz). Source: Chung, Spectral Graph Theory
(1997), ch. 1 and 2; Brouwer & Haemers, Spectra of Graphs (2012), §1.4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.operator import Sparse
from corollary.core.solution import Solution


def graph_laplacian(adjacency: Any, *, normalised: bool = False) -> Sparse:
    """L = D − W, or I − D^(−1/2) W D^(−1/2), as a sparse operator. Cost O(nnz).

    Positive semidefinite, with as many zero eigenvalues as the graph has components; the normalised one has its
    eigenvalues in [0, 2], where 2 is reached by bipartite components only.

    Parameters
    ----------
    adjacency
        (n, n) symmetric matrix W of weights ≥ 0, dense or sparse; the diagonal (loops) is ignored. Host data.
    normalised
        Scale by the degrees. A vertex without edges gets the row 0, so that it counts as a component.

    Raises
    ------
    InputError
        For a matrix that is not square, symmetric, finite and non-negative.

    Examples
    --------
    >>> import numpy as np
    >>> graph_laplacian(np.array([[0.0, 1.0], [1.0, 0.0]])).as_matrix().tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    validation.flag("normalised", normalised)
    W = _weights(adjacency)
    degrees = np.asarray(W.sum(axis=1)).reshape(-1)
    if not normalised:
        return Sparse(scipy.sparse.csr_array(scipy.sparse.diags_array(degrees) - W))
    root = _inverse_root(degrees)
    scaled = scipy.sparse.diags_array(root) @ W @ scipy.sparse.diags_array(root)
    return Sparse(scipy.sparse.csr_array(scipy.sparse.diags_array((degrees > 0).astype(W.dtype)) - scaled))


def laplacian_spectrum(graph: str, *sizes: int) -> Float[np.ndarray, " n"]:
    """The eigenvalues of D − W, ascending, for graphs where they are known in closed form. Cost O(n log n).

    Parameters
    ----------
    graph
        ``"path"``: 2 − 2 cos(πk/n); ``"cycle"`` (n ≥ 3): 2 − 2 cos(2πk/n); ``"complete"``: 0 once and n;
        ``"star"``: 0, 1 (n − 2 times), n; ``"grid"``: sums of those of paths, for any number of dimensions.
    sizes
        The number of vertices; for a grid that along each axis.

    Notes
    -----
    Source: Brouwer & Haemers, Spectra of Graphs (2012), §1.4; sums for Cartesian products: §1.4.6.

    Examples
    --------
    >>> laplacian_spectrum("complete", 3).tolist()
    [0.0, 3.0, 3.0]
    """
    validation.one_of("path", "cycle", "complete", "star", "grid")("graph", graph)
    if not sizes or (graph != "grid" and len(sizes) > 1):
        raise InputError(f"sizes: found {sizes}, expected {'one or more sizes' if graph == 'grid' else 'one size'}")
    for size in sizes:
        validation.integer(3 if graph == "cycle" else 1)("sizes", size)
    n = next(iter(sizes))
    k = np.arange(n)
    match graph:
        case "path":
            values = 4 * np.sin(np.pi * k / (2 * n)) ** 2  # 2 − 2 cos θ without its cancellation
        case "cycle":
            values = 4 * np.sin(np.pi * k / n) ** 2
        case "complete":
            values = np.where(k > 0, float(n), 0.0)
        case "star":
            values = np.where(k > 0, 1.0, 0.0)
            values[-1] = float(n) if n > 1 else 0.0
        case _:
            values = np.zeros(1)
            for size in sizes:
                values = np.add.outer(values, laplacian_spectrum("path", size)).reshape(-1)
    return np.sort(values)


def sweep_cut(adjacency: Any, vector: Any) -> Solution:
    """The best cut {i : x_i above a threshold} of a graph, with Cheeger's guarantee. Cost O(nnz + n log n).

    Use it on an approximate eigenvector of the normalised Laplacian's second eigenvalue, from any solver: the guarantee
    holds for every vector, through its Rayleigh quotient.

    Parameters
    ----------
    adjacency
        As in `graph_laplacian`.
    vector
        f, (n,): an approximate eigenvector of I − D^(−1/2) W D^(−1/2). The cut orders the vertices by D^(−1/2) f.

    Returns
    -------
    Solution
        ``value``: a boolean mask (n,), the side of smaller volume. ``stats``: conductance (weight that is cut over the
        smaller volume), rayleigh.

    Raises
    ------
    InputError
        For a bad adjacency, a graph without edges, or a vector that is a multiple of D^(1/2) 1.

    Notes
    -----
    Certificate ``cheeger`` (theorem): conductance ≤ √(2R), R the Rayleigh quotient of f after its part along D^(1/2) 1
    is taken out. No cut has a conductance below λ₂/2. Source: Chung (1997), Lemma 2.1 and
    Theorem 2.2, whose proof uses no more of f than R.

    Examples
    --------
    >>> import numpy as np
    >>> W = np.zeros((4, 4)); W[0, 1] = W[1, 0] = W[2, 3] = W[3, 2] = 1.0; W[1, 2] = W[2, 1] = 0.1
    >>> cut = sweep_cut(W, np.array([1.0, 1.0, -1.0, -1.0]))
    >>> cut.value.tolist() in ([True, True, False, False], [False, False, True, True]), bool(cut.holds)
    (True, True)
    """
    W = _weights(adjacency)
    f = np.asarray(validation.vector("vector", vector, host=True), dtype=np.float64)
    degrees = np.asarray(W.sum(axis=1), dtype=np.float64).reshape(-1)
    if f.shape != degrees.shape:
        raise InputError(f"vector: found {f.shape[0]} entries, expected {degrees.shape[0]} as in adjacency")
    total = degrees.sum()
    if total == 0:
        raise InputError("adjacency: found no edges, expected at least one")
    x = f * _inverse_root(degrees)
    x = np.where(degrees > 0, x - degrees @ x / total, 0.0)
    top = np.abs(x).max()
    if top <= 64 * np.finfo(W.dtype).eps * np.abs(f * _inverse_root(degrees)).max(initial=0):
        raise InputError("vector: found a multiple of D^(1/2) 1, expected a vector that tells vertices apart")
    x = x / top
    coo = W.tocoo()
    rayleigh = 0.5 * np.sum(coo.data * (x[coo.row] - x[coo.col]) ** 2) / np.sum(degrees * x**2)
    order = np.argsort(x, kind="stable")
    place = np.empty(len(order), dtype=np.intp)
    place[order] = np.arange(len(order))
    # an edge is cut by the prefixes that end between its two places
    low, high = np.minimum(place[coo.row], place[coo.col]), np.maximum(place[coo.row], place[coo.col])
    change = np.bincount(low, coo.data, len(order)) - np.bincount(high, coo.data, len(order))
    cut, volume = np.cumsum(change)[:-1] / 2, np.cumsum(degrees[order])[:-1]
    smaller = np.minimum(volume, total - volume)
    quality = np.where(smaller > 0, cut / np.where(smaller > 0, smaller, 1), np.inf)
    best = int(np.argmin(quality))
    mask = place <= best
    mask = mask if volume[best] <= total - volume[best] else ~mask
    inside = mask[coo.row]
    conductance = coo.data[inside & ~mask[coo.col]].sum() / degrees[mask].sum()  # anew: sums of differences cancel
    eps = float(np.finfo(np.float64).eps)
    certificate = Certificate(
        "conductance of the cut <= √(2R), R the Rayleigh quotient of f",
        conductance,
        float(np.sqrt(2 * rayleigh)) * (1 + 64 * eps) + 8 * len(f) * eps,
        "theorem",
        "Cheeger's inequality; Chung, Spectral Graph Theory (1997), Theorem 2.2",
        assumptions=(Assumption("weights symmetric and non-negative", checked=True, holds=True),),
    )
    return Solution(mask, {"cheeger": certificate}, stats={"conductance": conductance, "rayleigh": rayleigh})


def _weights(adjacency: Any) -> Any:
    if isinstance(adjacency, Sparse):
        adjacency = adjacency.matrix
        parts = tuple(np.asarray(p) for p in (adjacency.data, adjacency.indices, adjacency.indptr))
        adjacency = scipy.sparse.csr_array(parts, shape=adjacency.shape)
    if not scipy.sparse.issparse(adjacency):
        adjacency = np.asarray(validation.matrix("adjacency", adjacency, host=True))
    W: Any = scipy.sparse.csr_array(adjacency)
    if W.shape[0] != W.shape[1] or 0 in W.shape:
        raise InputError(f"adjacency: found shape {W.shape}, expected a square matrix")
    if W.dtype.kind not in "buif":
        raise InputError(f"adjacency: found dtype {W.dtype}, expected real numbers")
    W = W if W.dtype in (np.float32, np.float64) else W.astype(np.float64)
    if not np.isfinite(W.data).all() or (W.data < 0).any():
        raise InputError("adjacency: found negative, infinite or NaN weights, expected finite weights >= 0")
    W = W - scipy.sparse.diags_array(W.diagonal())
    W.eliminate_zeros()
    if (W - W.T).nnz and np.abs((W - W.T).data).max() > 0:
        raise InputError("adjacency: found a matrix that is not symmetric, expected an undirected graph")
    return W


def _inverse_root(degrees: np.ndarray) -> np.ndarray:
    return np.where(degrees > 0, 1 / np.sqrt(np.where(degrees > 0, degrees, 1)), 0).astype(degrees.dtype)
