"""Gaussian elimination: what pivoting buys, and the growth factor that it cannot always hold.

One elimination for exact fractions and for floating-point numbers, with no, partial (by rows) or complete pivoting. The
growth factor max |a_ij^(k)| / max |a_ij| bounds the backward error, ‖A − LU‖ ≤ c n u · growth · ‖A‖. Without pivoting
it is unbounded, and [[ε, 1], [1, 1]] is solved wrongly though its condition number is 2.6. With partial pivoting it is
at most 2^(n−1), which Wilkinson's matrix reaches; random matrices grow like n^(2/3), which is why partial pivoting is
what everybody uses. With complete pivoting nobody has met a large one. Source: Wilkinson, J. ACM 8 (1961); Higham,
Accuracy and Stability of Numerical Algorithms, 2nd ed. (2002), ch. 9; Trefethen & Schreiber (1990).
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

PIVOTING = ("none", "partial", "complete")


class Elimination(NamedTuple):
    """A[rows][:, columns] = L U, the solution of A x = b, and how far the entries grew on the way."""

    x: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    growth: float


def eliminate(A: np.ndarray, b: np.ndarray, pivoting: str = "partial") -> Elimination:
    """Solve A x = b; entries may be floats or `Fraction`, and the arithmetic is theirs."""
    if pivoting not in PIVOTING:
        raise ValueError(f"pivoting: found {pivoting!r}, expected one of {PIVOTING}")
    U, n = np.array(A), len(A)
    L = np.zeros_like(U)
    rows, columns = np.arange(n), np.arange(n)
    start = largest = np.abs(U).max()
    for k in range(n):
        i, j = _pivot(U, k, pivoting)
        for array in (U, L, rows):
            array[[k, i]] = array[[i, k]]
        for array in (U.T, columns):
            array[[k, j]] = array[[j, k]]
        if U[k, k] == 0:
            raise ZeroDivisionError(f"zero pivot in step {k + 1}: singular, or in need of pivoting")
        L[k, k] = 1 if U.dtype != object else Fraction(1)
        L[k + 1 :, k] = U[k + 1 :, k] / U[k, k]
        U[k + 1 :, k:] = U[k + 1 :, k:] - np.outer(L[k + 1 :, k], U[k, k:])
        U[k + 1 :, k] = 0
        largest = max(largest, np.abs(U).max())
    y = np.array(b)[rows]
    for k in range(n):
        y[k] = y[k] - L[k, :k] @ y[:k]
    z = y.copy()
    for k in reversed(range(n)):
        z[k] = (y[k] - U[k, k + 1 :] @ z[k + 1 :]) / U[k, k]
    x = z.copy()
    x[columns] = z
    return Elimination(x, L, U, rows, columns, float(largest / start))


def _pivot(U: np.ndarray, k: int, pivoting: str) -> tuple[int, int]:
    """Row and column of the pivot of step k."""
    if pivoting == "none":
        return k, k
    if pivoting == "partial":
        return k + int(np.argmax(np.abs(U[k:, k]))), k
    i, j = np.unravel_index(np.argmax(np.abs(U[k:, k:])), U[k:, k:].shape)
    return k + int(i), k + int(j)


def wilkinson(n: int) -> np.ndarray:
    """Ones on the diagonal and in the last column, −1 below: every step doubles the last column."""
    A = np.eye(n) - np.tril(np.ones((n, n)), -1)
    A[:, -1] = 1
    return A


def main(n: int = 24, draws: int = 20, seed: int = 0) -> dict:
    """Growth factors and errors of the three strategies on three kinds of matrix."""
    rng = np.random.default_rng(seed)
    small = np.array([[1e-17, 1.0], [1.0, 1.0]])
    ones = {name: eliminate(small, small @ np.ones(2), name).x for name in PIVOTING}
    random = [rng.standard_normal((n, n)) for _ in range(draws)]
    W, x = wilkinson(n), rng.standard_normal(n)
    runs = {name: eliminate(W, W @ x, name) for name in PIVOTING}
    return {
        "epsilon": {name: float(np.abs(found - 1).max()) for name, found in ones.items()},
        "wilkinson": {name: run.growth for name, run in runs.items()},
        "wilkinson error": {name: float(np.abs(run.x - x).max()) for name, run in runs.items()},
        "random": {
            name: float(np.median([eliminate(A, A @ np.ones(n), name).growth for A in random])) for name in PIVOTING
        },
    }


if __name__ == "__main__":
    numbers = main()
    titles = {
        "epsilon": "error of [[1e-17, 1], [1, 1]] x = b",
        "wilkinson": "growth on Wilkinson's matrix, n = 24",
        "wilkinson error": "its error",
        "random": "median growth on 20 random matrices, n = 24",
    }
    print(f"{'':45s}" + "".join(f"{name:>12s}" for name in PIVOTING))
    for kind, row in numbers.items():
        print(f"{titles[kind]:45s}" + "".join(f"{row[name]:12.2g}" for name in PIVOTING))
