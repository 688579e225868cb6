"""Stacked linear layers are one linear layer: W_L(…(W_1 x + b_1)…) + b_L = Wx + b, of no greater rank than any of them.

W = W_L ⋯ W_1 and b = Σ_l W_L ⋯ W_{l+1} b_l. The order matters: products of matrices do not commute. What depth adds in
a linear network is not what it can express but how gradient descent moves through it.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

Layers = list[tuple[np.ndarray, np.ndarray]]


def collapse(layers: Layers) -> tuple[np.ndarray, np.ndarray]:
    """The fused (W, b)."""
    W, b = layers[0]
    for W_next, b_next in layers[1:]:
        W, b = W_next @ W, W_next @ b + b_next
    return W, b


def run(layers: Layers, x: np.ndarray) -> np.ndarray:
    """The stack."""
    for W, b in layers:
        x = W @ x + b
    return x


def main(seed: int = 0) -> dict[str, Any]:
    """The difference of outputs, the ranks, and how far two orders of the same layers are apart."""
    rng = np.random.default_rng(seed)
    sizes = (6, 8, 3, 7, 5)
    layers = [(rng.normal(size=(m, n)), rng.normal(size=m)) for n, m in itertools.pairwise(sizes)]
    W, b = collapse(layers)
    xs = rng.normal(size=(50, 6))
    outputs = [run(layers, x) for x in xs]
    difference = max(float(np.max(np.abs(W @ x + b - y))) for x, y in zip(xs, outputs, strict=True))
    A, B = np.array([[0.0, 1], [0, 0]]), np.array([[0.0, 0], [1, 0]])
    return {
        "difference": difference / float(np.max(np.abs(outputs))),
        "rank": int(np.linalg.matrix_rank(W)),
        "least rank": min(int(np.linalg.matrix_rank(V)) for V, _ in layers),
        "commutator": float(np.linalg.norm(A @ B - B @ A)),
    }


if __name__ == "__main__":
    print(main())
