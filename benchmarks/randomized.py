"""Randomized SVD and PCA to a requested accuracy, against scikit-learn and fbpca at the iterations that reach it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fbpca
import jax
import numpy as np
import scipy.sparse
from harness import Entry, main
from sklearn.decomposition import PCA as PeerPCA
from sklearn.utils.extmath import randomized_svd as peer

from corollary.factor import PCA
from corollary.linalg import randomized_svd

ROWS, COLUMNS, RANK, ACCURACY = 50_000, 1_000, 20, 1e-3


def _matrix(s: np.ndarray) -> np.ndarray:
    """U diag(s) Vᵀ with Haar V and U orthonormal: the singular values are s to rounding."""
    rng = np.random.default_rng(0)
    U = np.linalg.qr(rng.standard_normal((ROWS, COLUMNS)))[0]
    return (U * s) @ np.linalg.qr(rng.standard_normal((COLUMNS, COLUMNS)))[0].T


def _fewest(run: Callable[[int, int], Any], error: Callable[[Any], float]) -> int:
    """The fewest iterations with which three seeds out of three reach the accuracy."""
    return next(q for q in range(1, 20) if all(error(run(q, seed)) <= ACCURACY for seed in range(3)))


def _svd(name: str, s: np.ndarray) -> Entry:
    A = _matrix(s)
    error = lambda result: float(1 - getattr(result, "value", result)[1][RANK - 1] / s[RANK - 1])  # noqa: E731
    by_sklearn = lambda q, seed: peer(A, RANK, n_iter=q, random_state=seed)  # noqa: E731

    def by_fbpca(q: int, seed: int) -> Any:
        np.random.seed(seed)  # noqa: NPY002
        return fbpca.pca(A, RANK, raw=True, n_iter=q, l=RANK + 10)

    q_sklearn, q_fbpca = _fewest(by_sklearn, error), _fewest(by_fbpca, error)
    key = jax.random.key(0)
    return Entry(
        name=f"randomized SVD {ROWS} x {COLUMNS} float64, k = {RANK}, {name}, σ_{RANK} asked to {ACCURACY:g}",
        quality=f"relative error of σ_{RANK}",
        runs={
            "corollary": lambda: randomized_svd(A, RANK, accuracy=ACCURACY, key=key),
            f"scikit-learn, n_iter={q_sklearn}": lambda: by_sklearn(q_sklearn, 0),
            f"fbpca, n_iter={q_fbpca}": lambda: by_fbpca(q_fbpca, 0),
        },
        measure=error,
        bar=1.5,
        note="Peers run with the fewest iterations that reach the accuracy for three seeds; ours finds its own; "
        "its time includes the error estimate.",
    )


def svd_harmonic() -> Entry:
    return _svd("σ_i = 1/i", 1.0 / np.arange(1, COLUMNS + 1))


def svd_slow() -> Entry:
    return _svd("σ_i = i^(-1/2)", np.arange(1, COLUMNS + 1) ** -0.5)


def svd_noise() -> Entry:
    i = np.arange(1, COLUMNS + 1)
    return _svd("σ_i = exp(-i/10) + noise of 0.05", np.exp(-i / 10.0) + 0.05 * np.sqrt(1 - i / (1.2 * COLUMNS)))


def pca_tall() -> Entry:
    X = np.random.default_rng(0).standard_normal((100_000, 200)) * np.linspace(2, 1, 200) + 3
    exact = np.linalg.eigvalsh(np.cov(X.T))[::-1][:10]
    return Entry(
        name="PCA 100000 x 200 float64, 10 components",
        quality="max relative error of the variances",
        runs={"corollary": lambda: PCA(10).fit(X), "scikit-learn": lambda: PeerPCA(10).fit(X)},
        measure=lambda model: float(np.max(np.abs(model.explained_variance_ / exact - 1)) + 1e-16),
        bar=1.0,
    )


def pca_sparse() -> Entry:
    rng = np.random.default_rng(0)
    X = scipy.sparse.random_array((50_000, 2_000), density=0.01, rng=rng).tocsr()
    X = (X @ scipy.sparse.diags_array(np.arange(1.0, 2_001) ** -0.5)).tocsr()
    exact = PeerPCA(10, svd_solver="arpack", tol=1e-12, random_state=0).fit(X).explained_variance_
    return Entry(
        name="PCA of sparse data 50000 x 2000, 1 %, 10 components",
        quality="max relative error of the variances",
        runs={
            "corollary": lambda: PCA(10, random_state=0).fit(X),
            "scikit-learn, arpack": lambda: PeerPCA(10, svd_solver="arpack", random_state=0).fit(X),
        },
        measure=lambda model: float(np.max(np.abs(model.explained_variance_ / exact - 1)) + 1e-16),
        bar=1.0,
    )


if __name__ == "__main__":
    main("randomized", [svd_harmonic, svd_slow, svd_noise, pca_tall, pca_sparse])
