"""Sigmoid and tanh networks represent the same functions: σ(z) = ½(1 + tanh(z/2)).

A sigmoid layer a = σ(Wx + b) is (1 + t)/2 with t = tanh((Wx + b)/2): halve the layer's weights and bias, and let the
next layer absorb the map t ↦ (1 + t)/2, that is V ← V/2 and c ← c + V1/2 (the old V). Back: tanh(z) = 2σ(2z) − 1.
What differs is training: tanh is centred, σ is not.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

Layers = list[tuple[np.ndarray, np.ndarray]]


def run(layers: Layers, x: np.ndarray, activation: Any) -> np.ndarray:
    """An MLP with a linear output, on rows of x."""
    for k, (W, b) in enumerate(layers):
        x = x @ W.T + b
        x = activation(x) if k < len(layers) - 1 else x
    return x


def sigmoid(z: np.ndarray) -> np.ndarray:
    """σ, without overflow."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def to_tanh(layers: Layers) -> Layers:
    """The tanh network of a sigmoid network."""
    return _convert(layers, slope=0.5, scale=0.5, shift=0.5)


def to_sigmoid(layers: Layers) -> Layers:
    """The sigmoid network of a tanh network."""
    return _convert(layers, slope=2.0, scale=2.0, shift=-1.0)


def _convert(layers: Layers, slope: float, scale: float, shift: float) -> Layers:
    """From φ to ψ where φ(z) = shift + scale·ψ(slope·z)."""
    out = []
    for k, (W, b) in enumerate(layers):
        if k:
            W, b = scale * W, b + shift * W.sum(1)
        if k < len(layers) - 1:
            W, b = slope * W, slope * b
        out.append((W, b))
    return out


def main(seed: int = 0) -> dict[str, float]:
    """Differences of outputs, there, back, and of the weights after the round trip."""
    rng = np.random.default_rng(seed)
    sizes = (3, 8, 6, 2)
    layers = [(2 * rng.normal(size=(m, n)), rng.normal(size=m)) for n, m in itertools.pairwise(sizes)]
    x = rng.normal(size=(200, 3))
    there, back = to_tanh(layers), to_sigmoid(layers)
    round_trip = to_sigmoid(there)
    weights = [
        np.max(np.abs(a - b)) for p, q in zip(layers, round_trip, strict=True) for a, b in zip(p, q, strict=True)
    ]
    return {
        "sigmoid to tanh": float(np.max(np.abs(run(layers, x, sigmoid) - run(there, x, np.tanh)))),
        "tanh to sigmoid": float(np.max(np.abs(run(layers, x, np.tanh) - run(back, x, sigmoid)))),
        "round trip": float(np.max(weights)),
    }


if __name__ == "__main__":
    print(main())
