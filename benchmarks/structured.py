"""Structured operators: Toeplitz and circulant products and solves against SciPy, Kronecker against dense."""

from __future__ import annotations

import jax
import numpy as np
import scipy.linalg
from harness import Entry, main

from corollary.linalg import Circulant, Kronecker, Toeplitz, solve


def toeplitz_product() -> Entry:
    n = 100_000
    c, r, x = np.random.default_rng(0).standard_normal((3, n))
    r[0] = c[0]
    T = Toeplitz(c, r)
    rows = slice(None, None, n // 50)
    i = np.arange(n)[rows]
    diagonals = np.concatenate([c[::-1], r[1:]])
    exact = np.array([diagonals[n - 1 - k : 2 * n - 1 - k] @ x for k in i])
    return Entry(
        name=f"Toeplitz product, n = {n}, float64",
        quality="max error of 51 rows / max entry",
        runs={"corollary": lambda: T.mv(x), "scipy matmul_toeplitz": lambda: scipy.linalg.matmul_toeplitz((c, r), x)},
        measure=lambda y: float(np.abs(np.asarray(y)[rows] - exact).max() / np.abs(exact).max()),
        bar=1.0,
    )


def _toeplitz_solve(name: str, column: np.ndarray, bar: float) -> Entry:
    n = len(column)
    b = np.random.default_rng(0).standard_normal(n)
    T = Toeplitz(column)

    def backward(x: np.ndarray) -> float:
        r = b - scipy.linalg.matmul_toeplitz(column, x)
        return float(np.linalg.norm(r) / (np.linalg.norm(column) * np.linalg.norm(x) + np.linalg.norm(b)))

    return Entry(
        name=f"Toeplitz solve, n = {n}, {name}, float64",
        quality="backward error",
        runs={
            "corollary": lambda: solve(T, b).value,
            "scipy solve_toeplitz": lambda: scipy.linalg.solve_toeplitz(column, b),
        },
        measure=backward,
        bar=bar,
        note="Ours: CG with T. Chan's circulant preconditioner, refined; the time includes the certificate.",
    )


def toeplitz_solve_exponential() -> Entry:
    return _toeplitz_solve("t_k = 0.9^k", 0.9 ** np.arange(10_000), 3.0)


def toeplitz_solve_algebraic() -> Entry:
    return _toeplitz_solve("t_k = (1 + k)^(-1.2)", (1.0 + np.arange(10_000)) ** -1.2, 3.0)


def circulant_solve() -> Entry:
    n = 200_000
    c, b = np.random.default_rng(0).standard_normal((2, n))
    C = Circulant(c)
    residual = lambda x: np.linalg.norm(C.mv(x) - b) / np.linalg.norm(b)  # noqa: E731
    return Entry(
        name=f"circulant solve, n = {n}, float64",
        quality="relative residual",
        runs={
            "corollary": lambda: C.solve(b),
            "scipy solve_circulant": lambda: scipy.linalg.solve_circulant(c, b),
        },
        measure=lambda x: float(residual(np.asarray(x))),
        bar=1.0,
        note="`Circulant.solve`, as SciPy's without a certificate; `linalg.solve` costs two products more.",
    )


def kronecker_solve() -> Entry:
    rng = np.random.default_rng(0)
    A, G = (rng.standard_normal((m, m)) + 8 * np.eye(m) for m in (50, 40))
    b = rng.standard_normal(2000)
    K, dense = Kronecker(A, G), np.kron(A, G)
    return Entry(
        name="Kronecker solve, 50 and 40, against the dense 2000 x 2000, float64",
        quality="relative residual",
        runs={
            "corollary": lambda: jax.block_until_ready(solve(K, b).value),
            "scipy, dense": lambda: scipy.linalg.solve(dense, b),
        },
        measure=lambda x: float(np.linalg.norm(dense @ x - b) / np.linalg.norm(b)),
        bar=10.0,
    )


if __name__ == "__main__":
    main(
        "structured",
        [toeplitz_product, toeplitz_solve_exponential, toeplitz_solve_algebraic, circulant_solve, kronecker_solve],
    )
