"""Universal approximation, with numbers: a two-layer ReLU network on an interval, trained ones, and what fails.

Any continuous f on a compact set is a uniform limit of two-layer networks with a non-polynomial activation (Cybenko,
1989; Leshno, Lin, Pinkus & Schocken, 1993, theorem 1); not over all of R^d, and not with a polynomial activation, whose
networks of any width are polynomials of its degree. In one dimension the interpolant at n + 1 knots is a ReLU
network of n units, with error ≤ h²/8·max|f''| for smooth f and ≤ ω(f, h), its modulus of continuity, for any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter1d, minimum_filter1d

Net = tuple[np.ndarray, np.ndarray, np.ndarray, float]


def interpolant(f: Callable[[np.ndarray], np.ndarray], n: int, low: float = 0.0, high: float = 1.0) -> Net:
    """(w, c, v, b): b + Σ v_k (w_k x + c_k)₊ passes through f at n + 1 equal knots of [low, high]."""
    knots = np.linspace(low, high, n + 1)
    values = f(knots)
    slopes = np.diff(values) / np.diff(knots)
    return np.ones(n), -knots[:-1], np.diff(slopes, prepend=0.0), float(values[0])


def evaluate(net: Net, x: np.ndarray) -> np.ndarray:
    """The network on points x."""
    w, c, v, b = net
    return np.maximum(np.outer(x, w) + c, 0) @ v + b


def sup_error(net: Net, f: Callable[[np.ndarray], np.ndarray], points: int = 20_001) -> float:
    """max |f − net| on a fine grid of [0, 1]."""
    x = np.linspace(0, 1, points)
    return float(np.max(np.abs(evaluate(net, x) - f(x))))


def modulus(f: Callable[[np.ndarray], np.ndarray], h: float, points: int = 20_001) -> float:
    """ω(f, h) = max |f(x) − f(y)| over |x − y| ≤ h, on a grid."""
    x = np.linspace(0, 1, points)
    values, window = f(x), max(round(h * (points - 1)), 1)
    size = 2 * (window // 2) + 1
    spread = maximum_filter1d(values, size, mode="nearest") - minimum_filter1d(values, size, mode="nearest")
    return float(np.max(spread))


def random_features(
    f: Callable[[np.ndarray], np.ndarray], width: int, activation: Callable[[np.ndarray], np.ndarray], d: int = 1
) -> float:
    """Sup error on a test grid of a network whose output layer is trained by least squares, inner weights drawn."""
    rng = np.random.default_rng(width)
    W, c = 3 * rng.normal(size=(width, d)), 3 * rng.uniform(-1, 1, size=width)
    train, test = rng.uniform(-1, 1, size=(600, d)), rng.uniform(-1, 1, size=(600, d))
    features = [np.column_stack([activation(x @ W.T + c), np.ones(len(x))]) for x in (train, test)]
    v = np.linalg.lstsq(features[0], f(train), rcond=1e-10)[0]
    return float(np.max(np.abs(features[1] @ v - f(test))))


def main() -> dict[str, Any]:
    """Errors and bounds of the interpolants by width; of trained tanh networks; of quadratic ones; on R."""
    smooth = lambda x: np.sin(6 * x)  # noqa: E731
    rough = lambda x: np.sqrt(np.abs(x - 0.3))  # noqa: E731
    widths = (4, 8, 16, 32, 64)
    target = lambda x: np.sin(3 * x[:, 0]) * np.cos(2 * x[:, -1])  # noqa: E731
    trained = (5, 20, 80, 160)
    net = interpolant(smooth, 64)
    return {
        "smooth": {n: (sup_error(interpolant(smooth, n), smooth), 36 / 8 / n**2) for n in widths},
        "rough": {n: (sup_error(interpolant(rough, n), rough), modulus(rough, 1 / n)) for n in widths},
        "tanh, one dimension": [random_features(target, n, np.tanh) for n in trained],
        "tanh, two dimensions": [random_features(target, n, np.tanh, 2) for n in trained],
        "quadratic": [random_features(target, n, np.square) for n in trained],
        "outside": float(np.max(np.abs(evaluate(net, np.linspace(1, 10, 100)) - smooth(np.linspace(1, 10, 100))))),
    }


if __name__ == "__main__":
    for name, numbers in main().items():
        print(name, numbers)
