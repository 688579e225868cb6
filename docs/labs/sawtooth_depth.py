"""Depth separation by the sawtooth: L layers of two ReLU units have 2^L linear pieces on [0, 1].

The tent map t(x) = 2x on [0, ½] and 2 − 2x on [½, 1] is 2(x)₊ − 4(x − ½)₊. Its L-fold iterate needs two units per
layer, 2L in all; a network with one hidden layer needs one breakpoint per unit, so 2^L − 1 of them inside the interval.
(Telgarsky, "Benefits of depth in neural networks", 2016, lemma 3.10.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from corollary.nn import linear_regions

Layers = list[tuple[np.ndarray, np.ndarray]]


def sawtooth(depth: int) -> Layers:
    """(W, b) of the layers, a ReLU after all but the last."""
    first = (np.array([[2.0], [4.0]]), np.array([0.0, -2.0]))
    then = (np.array([[2.0, -2.0], [4.0, -4.0]]), np.array([0.0, -2.0]))
    return [first, *[then] * (depth - 1), (np.array([[1.0, -1.0]]), np.zeros(1))]


def run(layers: Layers, x: np.ndarray) -> np.ndarray:
    """The network at points x, (k,)."""
    z = x[:, None]
    for k, (W, b) in enumerate(layers):
        z = z @ W.T + b
        z = np.maximum(z, 0) if k < len(layers) - 1 else z
    return z[:, 0]


def iterated_tent(depth: int, x: np.ndarray) -> np.ndarray:
    """t∘…∘t."""
    for _ in range(depth):
        x = 1 - np.abs(2 * x - 1)
    return x


def one_layer(depth: int) -> Layers:
    """The same function with one hidden layer: a unit for x and one for each of the 2^L − 1 breakpoints."""
    n = 2**depth
    knots = np.arange(n) / n
    slopes = n * np.where(np.arange(n) % 2 == 0, 1.0, -1.0)
    changes = np.diff(slopes, prepend=0.0)
    return [(np.ones((n, 1)), -knots), (changes[None], np.zeros(1))]


def main(depths: tuple[int, ...] = (1, 2, 3, 4, 6)) -> dict[int, dict[str, Any]]:
    """By depth: pieces, the largest difference from the iterated map, and the hidden units of both networks."""
    x = np.linspace(0, 1, 2049)
    rows = {}
    for depth in depths:
        deep, shallow = sawtooth(depth), one_layer(depth)
        rows[depth] = {
            "pieces": linear_regions(deep, np.array([[0.0], [1.0]])),
            "difference": float(np.max(np.abs(run(deep, x) - iterated_tent(depth, x)))),
            "shallow difference": float(np.max(np.abs(run(shallow, x) - iterated_tent(depth, x)))),
            "deep units": 2 * depth,
            "breakpoints": len(shallow[0][1]) - 1,
        }
    return rows


if __name__ == "__main__":
    for depth, row in main().items():
        print(depth, row)
