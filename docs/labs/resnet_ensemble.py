"""A residual network as an ensemble of 2^L paths, exact where its blocks are linear.

(I + W_L) ⋯ (I + W_1) = Σ over subsets S of the blocks of ∏_{k∈S} W_k (later blocks on the left): C(L, k) paths of
length k. Deleting a block removes the half of the paths through it, and the network degrades gently; deleting a layer
of a plain network W_L ⋯ W_1 removes all of them. For nonlinear blocks the expansion is a picture, not an identity.
(Veit, Wilber & Belongie, "Residual networks behave like ensembles of relatively shallow networks", 2016, §3.)
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np


def blocks(depth: int, n: int = 5, size: float = 0.5, seed: int = 0) -> list[np.ndarray]:
    """Random W_1, …, W_L of spectral norm about `size`."""
    rng = np.random.default_rng(seed)
    return [size * rng.normal(size=(n, n)) / (2 * np.sqrt(n)) for _ in range(depth)]


def network(weights: list[np.ndarray], x: np.ndarray, deleted: tuple[int, ...] = ()) -> np.ndarray:
    """The residual network, without some blocks."""
    for k, W in enumerate(weights):
        x = x if k in deleted else x + W @ x
    return x


def paths(weights: list[np.ndarray], x: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
    """The output of every path, by the blocks it goes through."""
    out = {}
    for length in range(len(weights) + 1):
        for chosen in itertools.combinations(range(len(weights)), length):
            z = x
            for k in chosen:
                z = weights[k] @ z
            out[chosen] = z
    return out


def main(depth: int = 8) -> dict[str, Any]:
    """The sum against the network, the counts of paths by length, what deletions do, and a nonlinear contrast."""
    weights, x = blocks(depth), np.random.default_rng(1).normal(size=5)
    y, every = network(weights, x), paths(weights, x)
    counts = [sum(len(chosen) == k for chosen in every) for k in range(depth + 1)]
    without = sum(z for chosen, z in every.items() if 3 not in chosen)
    effect = [float(np.linalg.norm(network(weights, x, (k,)) - y) / np.linalg.norm(y)) for k in range(depth)]
    mass = [float(sum(np.linalg.norm(z) for c, z in every.items() if len(c) == k)) for k in range(depth + 1)]
    bent, bent_paths = x, np.zeros_like(x)
    for W in weights:
        bent = bent + np.tanh(4 * W @ bent)
    for chosen in every:
        z = x
        for k in chosen:
            z = np.tanh(4 * weights[k] @ z)
        bent_paths = bent_paths + z
    return {
        "difference": float(np.max(np.abs(sum(every.values()) - y))),
        "counts": counts,
        "binomial": [math.comb(depth, k) for k in range(depth + 1)],
        "deleted difference": float(np.max(np.abs(without - network(weights, x, (3,))))),
        "deletion effect": effect,
        "mass by length": mass,
        "nonlinear difference": float(np.linalg.norm(bent - bent_paths) / np.linalg.norm(bent)),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(name, value)
