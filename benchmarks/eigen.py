"""A few eigenpairs of large sparse matrices to a given residual, against `scipy.sparse.linalg` (ARPACK)."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from harness import Entry, main
from scipy.sparse.linalg import eigs as peer_eigs
from scipy.sparse.linalg import eigsh as peer_eigsh

from corollary.linalg import eigs, eigsh

PAIRS, TOLERANCE = 10, 1e-8


def _laplacian(n: int, edges: tuple[np.ndarray, np.ndarray]) -> Any:
    """I − D^{-1/2} A D^{-1/2} of an undirected graph."""
    A = scipy.sparse.coo_array((np.ones(len(edges[0])), edges), shape=(n, n)).tocsr()
    A = A + A.T
    A.data[:] = 1
    weight = 1 / np.sqrt(np.maximum(np.diff(A.indptr), 1))
    scaled = scipy.sparse.diags_array(weight) @ A @ scipy.sparse.diags_array(weight)
    return scipy.sparse.csr_array(scipy.sparse.eye_array(n) - scaled)


def _random(n: int, degree: int = 9) -> Any:
    rng = np.random.default_rng(0)
    i, j = rng.integers(0, n, (2, n * degree // 2))
    return _laplacian(n, (i[i != j], j[i != j]))


def _small_world(n: int, degree: int = 8, rewired: float = 0.1) -> Any:
    rng = np.random.default_rng(0)
    i = np.tile(np.arange(n), degree // 2)
    j = (i + np.repeat(np.arange(1, degree // 2 + 1), n)) % n
    j = np.where(rng.random(len(i)) < rewired, rng.integers(0, n, len(i)), j)
    return _laplacian(n, (i[i != j], j[i != j]))


def _residual(A: Any) -> Any:
    def measure(result: Any) -> float:
        values, vectors = getattr(result, "value", result)
        return float(np.linalg.norm(A @ vectors - vectors * values, axis=0).max())

    return measure


def _symmetric(name: str, L: Any, repeats: int) -> Entry:
    start = np.random.default_rng(1).standard_normal(L.shape[0])
    return Entry(
        name=f"{PAIRS} largest eigenpairs, normalised Laplacian, {name}, {L.shape[0]} rows, {L.nnz} entries",
        quality="largest residual",
        runs={
            "corollary": lambda: eigsh(L, PAIRS, tol=TOLERANCE),
            "scipy eigsh": lambda: peer_eigsh(L, PAIRS, which="LA", tol=TOLERANCE, v0=start),
        },
        measure=_residual(L),
        bar=1.0,
        repeats=repeats,
        note="Ours includes the certificates and the last look for missed pairs.",
    )


def random_small() -> Entry:
    return _symmetric("random graph of mean degree 9", _random(100_000), 3)


def random_large() -> Entry:
    return _symmetric("random graph of mean degree 9", _random(1_000_000), 1)


def small_world_large() -> Entry:
    return _symmetric("small world of degree 8", _small_world(1_000_000), 1)


def directed() -> Entry:
    """A directed random graph with weights and heavy self-loops: a leading part outside a disc of bulk."""
    n = 100_000
    rng = np.random.default_rng(0)
    i, j = rng.integers(0, n, (2, 8 * n))
    A = scipy.sparse.coo_array((rng.random(8 * n), (i, j)), shape=(n, n)).tocsr()
    A = A + scipy.sparse.diags_array(4 * np.arange(1.0, n + 1) ** -0.3)
    start = rng.standard_normal(n)
    return Entry(
        name=f"{PAIRS} largest eigenpairs in modulus, non-symmetric, {n} rows, {A.nnz} entries",
        quality="largest residual",
        runs={
            "corollary": lambda: eigs(A, PAIRS, tol=TOLERANCE),
            "scipy eigs": lambda: peer_eigs(A, PAIRS, tol=TOLERANCE, v0=start),
        },
        measure=_residual(A),
        bar=1.0,
        repeats=3,
    )


if __name__ == "__main__":
    main("eigen", [random_small, random_large, small_world_large, directed])
