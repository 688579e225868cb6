"""Least squares three ways: what accuracy costs.

For matrices with prescribed condition number κ and a consistent right-hand side, solve by normal equations (unrefined),
QR and SVD, and fit the slope of log error against log κ: about 2 for the normal equations, about 1 for the other two.
A residual that is not small adds a κ²‖r‖ term to every solver: that part belongs to the problem. Refinement takes the
normal equations back to slope 1 as long as κ²·eps stays below one.
"""

from __future__ import annotations

import numpy as np

from corollary.linalg import lstsq

KAPPAS = 10.0 ** np.arange(2, 7)
METHODS = {"normal": {"solver": "normal", "refine": 0}, "qr": {"solver": "qr"}, "svd": {"solver": "svd"}}


def matrix(rng: np.random.Generator, n: int, p: int, kappa: float) -> np.ndarray:
    """Random singular vectors, singular values falling geometrically from 1 to 1/κ."""
    U, V = np.linalg.qr(rng.normal(size=(n, p)))[0], np.linalg.qr(rng.normal(size=(p, p)))[0]
    return (U * kappa ** -np.linspace(0, 1, p)) @ V.T


def errors(n: int = 60, p: int = 10, draws: int = 8, seed: int = 0, **extra: int) -> dict[str, np.ndarray]:
    """Median relative forward error by method and κ; x is exact by construction up to one rounding of A x."""
    found = {}
    for name, settings in METHODS.items():
        rng, rows = np.random.default_rng(seed), []
        for kappa in KAPPAS:
            cases = [(matrix(rng, n, p, kappa), rng.normal(size=p)) for _ in range(draws)]
            sizes = [
                np.linalg.norm(lstsq(A, A @ x, **{**settings, **extra}).value - x) / np.linalg.norm(x) for A, x in cases
            ]
            rows.append(np.median(sizes))
        found[name] = np.array(rows)
    return found


def slopes(table: dict[str, np.ndarray]) -> dict[str, float]:
    """Slope of log error against log κ by least squares."""
    return {name: float(np.polyfit(np.log(KAPPAS), np.log(values), 1)[0]) for name, values in table.items()}


def flops(n: int, p: int) -> dict[str, float]:
    """Operation counts: half a product and a Cholesky; Householder's triangle; that triangle's SVD on top."""
    triangle = 2 * n * p**2 - 2 * p**3 / 3
    return {"normal": n * p**2 + p**3 / 3, "qr": triangle, "svd": triangle + 20 * p**3}


if __name__ == "__main__":
    table = errors()
    for name, values in table.items():
        print(f"{name:8s}", " ".join(f"{v:.1e}" for v in values), f"slope {slopes(table)[name]:.2f}")
