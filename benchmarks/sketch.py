"""Sketches of tall matrices, random projections of points and streamed covariances, against SciPy and scikit-learn."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import scipy.linalg
import scipy.sparse
from harness import Entry, main
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection

from corollary.linalg import SRHT, CountSketch, FrequentDirections, SparseSignSketch, johnson_lindenstrauss

ROWS, COLUMNS = 200_000, 200
KEY = jax.random.key(0)


def _tall() -> tuple[np.ndarray, Any]:
    """A matrix, and how far a sketch of it bends its range: max |σ(S U) − 1|, from the triangle of its QR."""
    A = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)) * np.linspace(1, 1e-3, COLUMNS)
    R = np.linalg.qr(A, mode="r")
    distortion = lambda SA: np.max(np.abs(np.linalg.svd(SA @ np.linalg.inv(R), compute_uv=False) - 1))  # noqa: E731
    return A, lambda SA: float(distortion(SA))


def sparse_sign() -> Entry:
    A, distortion = _tall()
    size = 1600
    fixed = SparseSignSketch(size, ROWS, key=KEY).matrix(np.float64)
    return Entry(
        name=f"sparse sign sketch (8 nonzeros) of {ROWS} x {COLUMNS} float64 to {size} rows",
        quality="max |σ(SU) - 1|",
        runs={
            "corollary": lambda: SparseSignSketch(size, ROWS, key=KEY).apply(A),
            "scipy.sparse, by columns, S given": lambda: fixed @ A,
            "SRHT of the same size": lambda: SRHT(size, ROWS, key=KEY).apply(A),
            "scipy clarkson_woodruff (1 nonzero)": lambda: scipy.linalg.clarkson_woodruff_transform(A, size, 0),
        },
        measure=distortion,
        bar=1.0,
        against="scipy.sparse, by columns, S given",
        note="Ours draws S anew in its time. SciPy's CountSketch does an eighth of the additions.",
    )


def countsketch() -> Entry:
    A, distortion = _tall()
    size = 4000
    return Entry(
        name=f"CountSketch of {ROWS} x {COLUMNS} float64 to {size} rows",
        quality="max |σ(SU) - 1|",
        runs={
            "corollary": lambda: CountSketch(size, ROWS, key=KEY).apply(A),
            "scipy clarkson_woodruff": lambda: scipy.linalg.clarkson_woodruff_transform(A, size, 0),
        },
        measure=distortion,
        bar=1.0,
    )


def countsketch_sparse() -> Entry:
    rng = np.random.default_rng(0)
    A = scipy.sparse.random_array((1_000_000, 200), density=0.01, rng=rng).tocsr()
    gram = (A.T @ A).toarray()

    def measure(SA: Any) -> float:
        SA = SA.toarray() if scipy.sparse.issparse(SA) else SA
        return float(np.linalg.norm(SA.T @ SA - gram, 2) / np.linalg.norm(gram, 2))

    return Entry(
        name="CountSketch of a sparse 1000000 x 200 matrix (1 %) to 4000 rows",
        quality="relative error of the Gram matrix",
        runs={
            "corollary": lambda: CountSketch(4000, 1_000_000, key=KEY).apply(A),
            "scipy clarkson_woodruff": lambda: scipy.linalg.clarkson_woodruff_transform(A, 4000, 0),
        },
        measure=measure,
        bar=1.0,
    )


def _points(name: str, sketch: str, peer: Any) -> Entry:
    X = np.random.default_rng(0).standard_normal((2_000, 20_000)).astype(np.float32)
    i, j = np.random.default_rng(1).integers(0, 2_000, (2, 500))
    i, j = i[i != j], j[i != j]
    before = np.sum((X[i] - X[j]) ** 2, axis=1)

    def measure(Y: Any) -> float:
        Y = getattr(Y, "value", Y)
        return float(np.max(np.abs(np.sum((Y[i] - Y[j]) ** 2, axis=1) / before - 1)))

    return Entry(
        name=f"{name} projection of 2000 points from 20000 to 500 dimensions, float32",
        quality="worst distortion of 500 distances",
        runs={
            "corollary": lambda: johnson_lindenstrauss(X, 500, sketch=sketch, certify="none", key=KEY),
            "scikit-learn": lambda: peer.fit_transform(X),
        },
        measure=measure,
        bar=1.0,
    )


def projection_gaussian() -> Entry:
    return _points("Gaussian", "gaussian", GaussianRandomProjection(500, random_state=0))


def projection_sparse() -> Entry:
    return _points("sparse", "sparse_sign", SparseRandomProjection(500, random_state=0, dense_output=True))


def frequent_directions() -> Entry:
    size, rng = 64, np.random.default_rng(0)
    A = rng.standard_normal((20_000, 1_000)) * 0.99 ** np.arange(1_000)
    gram, energy = A.T @ A, np.sum(A**2)

    def by_svd() -> np.ndarray:
        """The published algorithm: an SVD of the full buffer whenever ℓ rows have come."""
        B = np.zeros((2 * size, A.shape[1]))
        for i in range(0, len(A) - size + 1, size):
            B[size:] = A[i : i + size]
            s, Vt = np.linalg.svd(B, full_matrices=False)[1:]
            B[:size] = np.sqrt(np.maximum(s**2 - s[size] ** 2, 0))[:size, None] * Vt[:size]
        return B[:size]

    return Entry(
        name=f"Frequent Directions, {len(A)} rows of length 1000, 64 rows kept",
        quality="|AᵀA - BᵀB| / |A|_F²",
        runs={
            "corollary": lambda: FrequentDirections(size, A.shape[1]).update(A).result().value,
            "NumPy, by SVD": by_svd,
        },
        measure=lambda B: float(np.linalg.norm(gram - B.T @ B, 2) / energy),
        bar=1.0,
    )


if __name__ == "__main__":
    entries = [
        sparse_sign,
        countsketch,
        countsketch_sparse,
        projection_gaussian,
        projection_sparse,
        frequent_directions,
    ]
    main("sketch", entries)
