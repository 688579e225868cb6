"""The gradient of a residual network as an ordered product: ∂L/∂h_l = ∂L/∂h_L · (I + J_{L−1}) ⋯ (I + J_l).

With a row gradient on the left the factors run from k = L − 1 down to l; the other order is wrong where Jacobians do
not commute. For small J the product stays of order one, (1 − ‖J‖)^L to (1 + ‖J‖)^L, while a plain network's ∏J_k
decays geometrically. Vanishing is not excluded: with J near −I a block forgets. (He et al., "Identity mappings in deep
residual networks", 2016, eq. 5.)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

DEPTH, SIZE = 12, 6


def weights(scale: float, seed: int = 0) -> np.ndarray:
    """(depth, size, size): of spectral norm about `scale`."""
    return scale * np.random.default_rng(seed).normal(size=(DEPTH, SIZE, SIZE)) / (2 * np.sqrt(SIZE))


def states(W: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    """h_0 = x, h_{k+1} = h_k + tanh(W_k h_k)."""
    out = [x]
    for w in W:
        out.append(out[-1] + np.tanh(w @ out[-1]))
    return out


def jacobians(W: np.ndarray, h: list[np.ndarray]) -> list[np.ndarray]:
    """J_k = diag(1 − tanh²) W_k."""
    return [(1 - np.tanh(w @ z) ** 2)[:, None] * w for w, z in zip(W, h, strict=False)]


def product(last: np.ndarray, J: list[np.ndarray], wrong: bool = False, plain: bool = False) -> list[np.ndarray]:
    """∂L/∂h_l for l = L, …, 0; in the wrong order, or of a network without shortcuts, where asked."""
    out = [last]
    for length in range(1, len(J) + 1):
        chosen = J[len(J) - length :]
        row = last
        for A in chosen if wrong else reversed(chosen):
            row = row @ A if plain else row + row @ A
        out.append(row)
    return out


def main(scale: float = 0.6) -> dict[str, Any]:
    """Differences from `jax.grad` at every depth, and the norms of gradients with and without shortcuts."""
    W, x = weights(scale), np.random.default_rng(1).normal(size=SIZE)
    h = states(W, x)
    J = jacobians(W, h)
    rows = product(h[-1], J)  # L = ½‖h_L‖²

    def loss_from(start: int) -> Any:
        def value(z: Any) -> Any:
            for w in W[start:]:
                z = z + jnp.tanh(w @ z)
            return 0.5 * jnp.sum(z**2)

        return value

    with jax.enable_x64(True):
        true = [np.asarray(jax.grad(loss_from(k))(jnp.asarray(h[k]))) for k in (0, DEPTH // 2, DEPTH - 1)]
    difference = max(
        float(np.max(np.abs(rows[DEPTH - k] - g))) for k, g in zip((0, DEPTH // 2, DEPTH - 1), true, strict=True)
    )
    forget = [-0.99 * np.eye(SIZE)] * DEPTH
    size = np.linalg.norm(h[-1])
    return {
        "difference": difference,
        "wrong order": float(np.linalg.norm(product(h[-1], J, wrong=True)[-1] - true[0]) / np.linalg.norm(true[0])),
        "residual norms": [float(np.linalg.norm(r) / size) for r in rows],
        "plain norms": [float(np.linalg.norm(r) / size) for r in product(h[-1], J, plain=True)],
        "largest J": max(float(np.linalg.norm(A, 2)) for A in J),
        "near −I": float(np.linalg.norm(product(h[-1], forget)[-1]) / size),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(name, value)
