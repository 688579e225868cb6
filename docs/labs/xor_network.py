"""XOR by two ReLU units: the fixed network of two hidden units, and the same task learnt from its four points.

f(x) = wᵀ(Wx + c)₊ + b with W = [[1, 1], [1, 1]], c = (0, −1), w = (2, −4), b = −1 has the values −1, 1, 1, −1 on
(0, 0), (0, 1), (1, 0), (1, 1); no linear function of x separates these. (Goodfellow, Bengio & Courville, 2016, §6.1,
with the output moved to ±1.) Learnt from data, two units often stick in a local minimum, eight rarely do.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

POINTS = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
LABELS = np.array([-1.0, 1, 1, -1])


def fixed(x: np.ndarray) -> np.ndarray:
    """The scores of the fixed network; their signs are XOR."""
    hidden = np.maximum(x @ np.array([[1.0, 1], [1, 1]]).T + np.array([0.0, -1]), 0)
    return hidden @ np.array([2.0, -4]) - 1


def linear_error() -> float:
    """The least squared error of an affine function: 1, as of the zero function."""
    A = np.column_stack([POINTS, np.ones(4)])
    return float(np.mean((A @ np.linalg.lstsq(A, LABELS)[0] - LABELS) ** 2))


def train(width: int, seeds: int = 16, steps: int = 400) -> np.ndarray:
    """The share of the four points that are right after training, by seed."""

    def score(params: Any, x: Any) -> Any:
        W, c, w, b = params
        return jax.nn.relu(x @ W.T + c) @ w + b

    def loss(params: Any) -> Any:
        return jnp.mean(jax.nn.softplus(-jnp.asarray(LABELS, jnp.float32) * score(params, x)))

    x = jnp.asarray(POINTS, jnp.float32)
    optimizer = optax.adam(0.05)

    def run(key: Any) -> Any:
        first, second = jax.random.split(key)
        zero = jnp.zeros(())
        params = (jax.random.normal(first, (width, 2)), jnp.zeros(width), jax.random.normal(second, (width,)), zero)

        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, length=steps)
        return jnp.mean(jnp.sign(score(params, x)) == jnp.asarray(LABELS, jnp.float32))

    return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), seeds)))


def main() -> dict[str, Any]:
    """Scores of the fixed network, the affine error, and the share of seeds that learn XOR with 2 and 8 units."""
    learnt = {width: float(np.mean(train(width) == 1)) for width in (2, 8)}
    return {"scores": fixed(POINTS), "linear": linear_error(), "learnt": learnt}


if __name__ == "__main__":
    numbers = main()
    print("scores", numbers["scores"], "best affine error", round(numbers["linear"], 12))
    print("share of seeds that learn it, by units:", numbers["learnt"])
