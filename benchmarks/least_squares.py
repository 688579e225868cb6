"""Least squares with many more rows than columns, against LAPACK and LSMR by SciPy, as accurate as Householder QR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
from harness import Entry, main

from corollary.linalg import lstsq


def _matrix(n: int, p: int, kappa: float, kind: Any = np.float64) -> np.ndarray:
    """A Gaussian matrix times diag(1 … 1/κ) times a Haar matrix, block by block: its condition number is about κ."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((p, p)))[0] * np.geomspace(1, 1 / kappa, p)[:, None]
    A = np.empty((n, p), kind)
    for i in range(0, n, 8192):
        block = rng.standard_normal((min(8192, n - i), p))
        A[i : i + 8192] = block if kappa == 1 else block @ turn
    return A


class _Quality:
    """Karlson & Waldén's estimate of the backward error, as a multiple of that of Householder's QR."""

    def __init__(self, A: np.ndarray, b: np.ndarray):
        self.A, self.b, p = A, b, A.shape[1]
        R = np.empty((0, p + 1), A.dtype)
        step = max(4 * p, 8192)
        for i in range(0, len(A), step):  # the triangle of [A b], by blocks of rows: memory stays at one matrix
            block = np.column_stack([A[i : i + step], b[i : i + step]])
            R = np.linalg.qr(np.vstack([R, block]), mode="r")
        _, self.s, self.Vt = np.linalg.svd(R[:p, :p].astype(float))
        x = scipy.linalg.solve_triangular(R[:p, :p], R[:p, p])
        self.householder = self.error(x.astype(A.dtype))

    def error(self, x: np.ndarray) -> float:
        r = self.b - self.A @ x
        size = np.linalg.norm(x.astype(float))
        phi = np.linalg.norm(r.astype(float)) / size
        g = self.Vt @ (self.A.T @ r).astype(float)
        return float(np.linalg.norm(g / np.hypot(self.s, phi)) / size / np.linalg.norm(self.s))

    def __call__(self, result: Any) -> float:
        return self.error(getattr(result, "value", result)) / self.householder


def _entry(n: int, p: int, kappa: float, bar: float | None, kind: Any = np.float64, repeats: int = 5) -> Entry:
    A, rng = _matrix(n, p, kappa, kind), np.random.default_rng(1)
    b = (A @ rng.standard_normal(p) + 0.1 * rng.standard_normal(n)).astype(kind)
    driver: Callable[[str], Any] = lambda name: scipy.linalg.lstsq(A, b, lapack_driver=name)[0]  # noqa: E731
    label = f", κ about {kappa:.0e}" if kappa > 1 else ""
    return Entry(
        name=f"lstsq {n} x {p} {np.dtype(kind)}{label}",
        quality="backward error / Householder QR's",
        runs={
            "corollary": lambda: lstsq(A, b),
            "SciPy, gelsd": lambda: driver("gelsd"),
            "SciPy, gelsy": lambda: driver("gelsy"),
        },
        measure=_Quality(A, b),
        bar=bar,
        repeats=repeats,
        note=f"Solver: {lstsq(A, b).stats['solver']}. Its time includes the certificates.",
    )


def ill_conditioned() -> Entry:
    return _entry(200_000, 200, 1e10, 2.0)


def well_conditioned() -> Entry:
    return _entry(200_000, 200, 1, 2.0)


def many_columns() -> Entry:
    return _entry(100_000, 2_000, 1, 4.0, repeats=2)


def many_columns_ill_conditioned() -> Entry:
    return _entry(100_000, 2_000, 1e8, None, repeats=2)


def single_precision() -> Entry:
    return _entry(200_000, 200, 1, 1.0, np.float32)


def tall_sparse() -> Entry:
    rng = np.random.default_rng(0)
    A = scipy.sparse.random_array((200_000, 300), density=0.02, rng=rng).tocsr()
    A = (A @ scipy.sparse.diags_array(np.geomspace(1, 1e-4, 300)) @ scipy.sparse.eye_array(300)).tocsr()
    b = A @ rng.standard_normal(300) + 1e-3 * rng.standard_normal(200_000)
    dense = A.toarray()
    quality = _Quality(dense, b)
    return Entry(
        name="lstsq 200000 x 300 sparse, 2 %, columns of length 1 to 1e-4",
        quality="backward error / Householder QR's",
        runs={
            "corollary": lambda: lstsq(A, b),
            "SciPy, lsmr at 1e-14": lambda: scipy.sparse.linalg.lsmr(A, b, atol=1e-14, btol=1e-14, maxiter=20_000)[0],
            "SciPy, gelsd on the dense matrix": lambda: scipy.linalg.lstsq(dense, b)[0],
        },
        measure=quality,
        bar=1.0,
        repeats=3,
    )


if __name__ == "__main__":
    main(
        "least squares",
        [
            ill_conditioned,
            well_conditioned,
            many_columns,
            many_columns_ill_conditioned,
            single_precision,
            tall_sparse,
        ],
    )
