"""The residual linear block x + Wx: eigenvalues 1 + λ, and an inverse by fixed point where ‖W‖ < 1.

I + W has W's eigenvectors and eigenvalues 1 + λ(W): small W gives a map near the identity, whatever the depth. With
‖W‖ < 1 the block is invertible, and x_{k+1} = y − W x_k converges with ‖x_{k+1} − x*‖ ≤ ‖W‖·‖x_k − x*‖ (Banach); the
rate is reached where y has a component along W's dominant directions.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np


def block(W: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x + Wx."""
    return x + W @ x


def inverse(W: np.ndarray, y: np.ndarray, steps: int) -> list[np.ndarray]:
    """The iterates x_0 = y, x_{k+1} = y − W x_k."""
    out = [y]
    for _ in range(steps):
        out.append(y - W @ out[-1])
    return out


def main(n: int = 6, norm: float = 0.8, steps: int = 60, seed: int = 0) -> dict[str, Any]:
    """The spectra's distance, the largest error ratio, the measured rate, for a general and a symmetric W."""
    rng = np.random.default_rng(seed)
    out: dict[str, Any] = {}
    for name in ("general", "symmetric"):
        W = rng.normal(size=(n, n))
        W = W + W.T if name == "symmetric" else W
        W *= norm / np.linalg.norm(W, 2)
        x = rng.normal(size=n)
        moved = np.linalg.eigvals(np.eye(n) + W) - 1
        own = np.linalg.eigvals(W)
        shift = max(float(np.min(np.abs(own - m))) for m in moved)
        errors = [float(np.linalg.norm(z - x)) for z in inverse(W, block(W, x), steps)]
        ratios = np.array([b / a for a, b in itertools.pairwise(errors) if a > 1e-9])  # above rounding
        out[name] = {"shift": shift, "worst ratio": float(ratios.max()), "last ratio": float(ratios[-1]),
                     "radius": float(np.abs(own).max()), "norm": norm, "error": errors[-1]}  # fmt: skip
    return out


if __name__ == "__main__":
    for name, row in main().items():
        print(name, row)
