"""Backpropagation written out: δ^(l), dW = δaᵀ, db = δ, and the pull-back Wᵀδ, layer by layer.

A network a_l = φ_l(W_l a_{l−1} + b_l). With δ_l = ∂L/∂z_l the recursion is δ_l = φ_l'(z_l) ⊙ (W_{l+1}ᵀ δ_{l+1}), and
∂L/∂W_l = δ_l a_{l−1}ᵀ, ∂L/∂b_l = δ_l. d(Wx)/dW is the third-order tensor I ⊗ xᵀ; "xᵀ" is a shorthand that works, since
the δ on its left contracts the I. One backward pass costs as much as two forward ones, linear in the parameters.
(Rumelhart, Hinton & Williams, 1986, eq. 1-7.)
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Layers = list[tuple[np.ndarray, np.ndarray]]

ACTIVATIONS = {
    "identity": (lambda z: z, np.ones_like),
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(z.dtype)),
}
JAX_ACTIVATIONS = {"identity": lambda z: z, "sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu}


def _softmax(a: np.ndarray) -> np.ndarray:
    e = np.exp(a - a.max())
    return e / e.sum()


# L(a, y) and ∂L/∂a.
LOSSES = {
    "squared": (lambda a, y: 0.5 * np.sum((a - y) ** 2), lambda a, y: a - y),
    "cross entropy": (lambda a, y: np.log(np.sum(np.exp(a))) - y @ a, lambda a, y: _softmax(a) - y),
    "logistic": (lambda a, y: np.sum(np.log1p(np.exp(-y * a))), lambda a, y: -y / (1 + np.exp(y * a))),
}


def network(sizes: tuple[int, ...], seed: int = 0) -> Layers:
    """Random layers (W, b)."""
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(m, n)) / np.sqrt(n), rng.normal(size=m)) for n, m in itertools.pairwise(sizes)]


def forward(layers: Layers, names: list[str], x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Activations a_0 = x, …, a_L and pre-activations z_1, …, z_L."""
    activations, inputs = [x], []
    for (W, b), name in zip(layers, names, strict=True):
        inputs.append(W @ activations[-1] + b)
        activations.append(ACTIVATIONS[name][0](inputs[-1]))
    return activations, inputs


def backward(layers: Layers, names: list[str], loss: str, x: np.ndarray, y: np.ndarray) -> tuple[Layers, np.ndarray]:
    """(dW_l, db_l) for every layer, and ∂L/∂x."""
    activations, inputs = forward(layers, names, x)
    pulled, gradients = LOSSES[loss][1](activations[-1], y), []
    for k in reversed(range(len(layers))):
        delta = ACTIVATIONS[names[k]][1](inputs[k]) * pulled
        gradients.append((np.outer(delta, activations[k]), delta))
        pulled = layers[k][0].T @ delta
    return gradients[::-1], pulled


def jax_gradient(layers: Layers, names: list[str], loss: str, x: np.ndarray, y: np.ndarray) -> Any:
    """The same by automatic differentiation."""

    def value(layers: Any, x: Any) -> Any:
        for (W, b), name in zip(layers, names, strict=True):
            x = JAX_ACTIVATIONS[name](W @ x + b)
        if loss == "squared":
            return 0.5 * jnp.sum((x - y) ** 2)
        return jax.nn.logsumexp(x) - y @ x if loss == "cross entropy" else jnp.sum(jnp.log1p(jnp.exp(-y * x)))

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(jax.grad(value, argnums=(0, 1)))(layers, x))


def flops(sizes: tuple[int, ...]) -> tuple[int, int]:
    """Multiplications of the backward recursion, and the number of parameters."""
    pairs = list(itertools.pairwise(sizes))
    return sum(2 * n * m + 2 * m for n, m in pairs), sum(m * (n + 1) for n, m in pairs)


def main() -> dict[str, Any]:
    """The largest difference from `jax.grad` for every activation and loss, by depth; and whether shapes agree."""
    rows, shapes = {}, True
    for sizes in ((4, 5, 3), (4, 5, 6, 3)):
        for activation in ("sigmoid", "tanh", "relu"):
            for loss in LOSSES:
                layers, names = network(sizes), [activation] * (len(sizes) - 2) + ["identity"]
                x, y = np.random.default_rng(1).normal(size=4), np.array([1.0, 0.0, 0.0])
                y = np.array([1.0, -1.0, -1.0]) if loss == "logistic" else y
                ours = backward(layers, names, loss, x, y)
                theirs = jax_gradient(layers, names, loss, x, y)
                pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
                rows[len(sizes) - 1, activation, loss] = max(float(np.max(np.abs(a - b))) for a, b in pairs)
                shapes &= all(
                    g.shape == p.shape for g, p in zip(jax.tree.leaves(ours[0]), jax.tree.leaves(layers), strict=True)
                )
    W, x = network((3, 2))[0][0], np.arange(3.0)
    with jax.enable_x64(True):
        third_order = np.asarray(jax.jacobian(lambda W: W @ x)(jnp.asarray(W)))  # (i, j, k): δ_ij x_k
    return {"rows": rows, "shapes": shapes, "tensor": third_order, "expected": np.einsum("ij,k->ijk", np.eye(2), x)}


if __name__ == "__main__":
    for (depth, activation, loss), error in main()["rows"].items():
        print(f"{depth} layers, {activation:8}, {loss:14}: {error:.1e} from jax.grad")
