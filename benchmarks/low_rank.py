"""Pivoted QR, interpolative decomposition, CUR and semidefinite approximations, against LAPACK, SciPy, scikit-learn."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import scipy.linalg
import scipy.linalg.interpolative as peer_id
from harness import Entry, main
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import rbf_kernel

from corollary.linalg import cur, interpolative, pivoted_cholesky, pivoted_qr, randomized_svd

KEY = jax.random.key(0)


def _tall(kappa: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((50_000, 200)) * kappa ** -np.linspace(0, 1, 200)
    return A @ np.linalg.qr(rng.standard_normal((200, 200)))[0]


def _defect(A: np.ndarray, result: Any) -> float:
    """The worse of ‖AP − QR‖/‖A‖ and ‖QᵀQ − I‖/√n; of R alone ‖PᵀAᵀAP − RᵀR‖/‖A‖²."""
    ours = hasattr(result, "value")
    *rest, perm = (result.value.Q, result.value.R, result.value.perm) if ours else result
    Q, R = rest if len(rest) == 2 else (None, rest[0])
    R = R[: A.shape[1]]
    if Q is None:
        B = A[:, perm]
        return float(np.linalg.norm(B.T @ B - R.T @ R) / np.linalg.norm(A) ** 2)
    lost = np.linalg.norm(Q.T @ Q - np.eye(Q.shape[1])) / np.sqrt(Q.shape[1])
    return float(max(np.linalg.norm(A[:, perm] - Q @ R) / np.linalg.norm(A), lost))


def _qr(kappa: float, mode: str) -> Entry:
    A = _tall(kappa)
    return Entry(
        name=f'column-pivoted QR 50000 x 200 float64, κ = {kappa:.0e}, mode "{mode}"',
        quality="defect of the factors",
        runs={
            "corollary": lambda: pivoted_qr(A, mode, key=KEY),
            "LAPACK geqp3 (scipy)": lambda: scipy.linalg.qr(A, mode=mode, pivoting=True),
        },
        measure=lambda result: _defect(A, result),
        bar=3.0,
        note="Same order of columns as LAPACK's; the time includes the certificates, from probes.",
    )


def qr_r_well() -> Entry:
    return _qr(1e1, "r")


def qr_r() -> Entry:
    return _qr(1e6, "r")


def qr_economic() -> Entry:
    return _qr(1e6, "economic")


def _decaying(m: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((m, n)) * np.arange(1, n + 1) ** -1.5
    return A @ np.linalg.qr(rng.standard_normal((n, n)))[0]


def interpolative_columns() -> Entry:
    A, k = _decaying(10_000, 1_000), 50

    def by_scipy() -> Any:
        J, T = peer_id.interp_decomp(A, k, rng=np.random.default_rng(0))
        return A[:, J[:k]], peer_id.reconstruct_interp_matrix(J, T)

    def by_ours() -> Any:
        value = interpolative(A, k, oversampling=8 * k, key=KEY).value
        return value.skeleton, value.right

    return Entry(
        name="interpolative decomposition 10000 x 1000 float64, k = 50",
        quality="relative Frobenius error",
        runs={"corollary": by_ours, "scipy.linalg.interpolative": by_scipy},
        measure=lambda r: float(np.linalg.norm(A - r[0] @ r[1]) / np.linalg.norm(A)),
        bar=1.0,
    )


def cur_columns_and_rows() -> Entry:
    A, k = _decaying(10_000, 1_000), 50

    def by_svd() -> Any:
        """What a user would write: the truncated SVD, whose error no CUR of the same rank can be below."""
        U, s, Vt = randomized_svd(A, k, accuracy=1e-2, key=KEY).value
        return (U * s), Vt

    def by_ours(selection: str) -> Any:
        value = cur(A, k, selection=selection, key=KEY).value
        return value.C @ value.U, value.R

    return Entry(
        name="CUR 10000 x 1000 float64, k = 50",
        quality="relative Frobenius error",
        runs={
            "corollary": lambda: by_ours("pivoted"),
            "corollary, deim": lambda: by_ours("deim"),
            "corollary, leverage (110 of each)": lambda: by_ours("leverage"),
            "truncated SVD (the least error)": by_svd,
        },
        measure=lambda r: float(np.linalg.norm(A - r[0] @ r[1]) / np.linalg.norm(A)),
        note="No package at hand has a CUR decomposition; the SVD shows what its error costs.",
    )


def kernel_low_rank() -> Entry:
    n, k, gamma = 3_000, 100, 0.5
    X = np.random.default_rng(0).standard_normal((n, 3))
    K = rbf_kernel(X, gamma=gamma)
    best = scipy.linalg.eigvalsh(K, subset_by_index=[n - k, n - 1]).sum()
    floor = n - best

    def by_ours(pivoting: str) -> Any:
        block = lambda i, j: rbf_kernel(X[i], X[j], gamma=gamma)  # noqa: E731
        return pivoted_cholesky(block, k, diagonal=np.ones(n), pivoting=pivoting, key=KEY).value.L

    def by_eigen() -> Any:
        values, vectors = scipy.linalg.eigh(rbf_kernel(X, gamma=gamma), subset_by_index=[n - k, n - 1])
        return vectors * np.sqrt(np.maximum(values, 0))

    return Entry(
        name="Gaussian kernel of 3000 points in 3 dimensions, rank 100",
        quality="trace of the remainder / the least possible",
        runs={
            "corollary": lambda: by_ours("random"),
            "corollary, greedy": lambda: by_ours("greedy"),
            "scikit-learn Nystroem (uniform)": lambda: Nystroem(
                gamma=gamma, n_components=k, random_state=0
            ).fit_transform(X),
            "eigen-decomposition (scipy eigh)": by_eigen,
        },
        measure=lambda L: float((n - np.sum(L * L)) / floor),
        against="eigen-decomposition (scipy eigh)",
        bar=1.0,
        note="Nystroem samples its columns uniformly: faster, at a larger error.",
    )


if __name__ == "__main__":
    main("low_rank", [qr_r_well, qr_r, qr_economic, interpolative_columns, cur_columns_and_rows, kernel_low_rank])
