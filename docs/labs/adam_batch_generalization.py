"""Mini-batch Adam generalises where full-batch Adam memorises.

Each example has two patches: y·v, the feature, and −α y·v + ξ with noise ξ on a few random coordinates. A two-layer
convolutional network with the activation max(0, z)³ is trained to zero training error. Adam moves every coordinate that
has a gradient by about the same length. With the full batch the many noise coordinates all have one at every step, and
together they outrun the single feature: the noise of the training set is learnt first, after which the feature noise
−α y·v turns the feature coordinate the wrong way. In a mini-batch a noise coordinate has a gradient only when its
example is drawn: Adam's second moment then damps it, while the feature, which every example shares, keeps its pace.
So the same optimiser reaches a test error near zero with small batches, and one far from zero with the full batch.
(Zou, Cao, Li & Gu, 2023, for the data; Tang, Zhang, Cao & Zou, 2025, "Understanding the generalization of stochastic
gradient Adam in learning neural networks".)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

EXAMPLES, DIMENSION, SPARSITY, FILTERS = 32, 400, 10, 8
FEATURE_NOISE, NOISE, START, RATE, DECAY = 0.2, 0.5, 0.01, 4e-3, 1e-5


def draw(key: Any, n: int) -> tuple[Any, Any]:
    """The noise patches (n, d) and the labels ±1; the feature v is the first coordinate, its patch is y·v."""
    sign, places, sizes = jax.random.split(key, 3)
    y = jax.random.rademacher(sign, (n,), jnp.float32)
    where = jax.random.randint(places, (n, SPARSITY), 1, DIMENSION)
    noise = NOISE * jax.random.normal(sizes, (n, SPARSITY))
    return jnp.zeros((n, DIMENSION)).at[jnp.arange(n)[:, None], where].set(noise).at[:, 0].set(-FEATURE_NOISE * y), y


def logit(w: Any, x: Any, y: Any) -> Any:
    """F_{+1} − F_{−1} for filters w (2·filters, d), the first half of class +1."""
    outputs = jnp.maximum(x @ w.T, 0) ** 3 + jnp.maximum(jnp.outer(y, w[:, 0]), 0) ** 3
    return jnp.sum(outputs[:, :FILTERS], 1) - jnp.sum(outputs[:, FILTERS:], 1)


def loss(w: Any, x: Any, y: Any) -> Any:
    """Logistic loss with the paper's ℓ2 regularisation."""
    return jnp.mean(jax.nn.softplus(-y * logit(w, x, y))) + DECAY / 2 * jnp.sum(w**2)


@partial(jax.jit, static_argnames=("batch", "epochs"))
def train(keys: Any, batch: int, epochs: int) -> tuple[Any, Any, Any]:
    """Training errors, test errors and mean feature alignments ⟨w_j, j v⟩ of the largest filters, one for each key."""
    return jax.lax.map(lambda key: _train(key, batch, epochs), keys)


def _train(key: Any, batch: int, epochs: int) -> tuple[Any, Any, Any]:
    data, start, test, order = jax.random.split(key, 4)
    x, y = draw(data, EXAMPLES)
    w = START * jax.random.normal(start, (2 * FILTERS, DIMENSION))
    optimiser = optax.adam(RATE, eps=1e-15)

    def step(carry, rows):
        w, state = carry
        with jax.numpy_dtype_promotion("standard"):  # Optax's bias correction mixes floats and counts
            updates, state = optimiser.update(jax.grad(loss)(w, x[rows], y[rows]), state)
        return (optax.apply_updates(w, updates), state), None

    shuffles = jax.vmap(lambda k: jax.random.permutation(k, EXAMPLES))(jax.random.split(order, epochs))
    (w, _), _ = jax.lax.scan(step, (w, optimiser.init(w)), shuffles.reshape(-1, batch))
    fresh = draw(test, 500)
    errors = [
        jnp.mean((labels * logit(w, patches, labels) <= 0).astype(w.dtype)) for patches, labels in ((x, y), fresh)
    ]
    return errors[0], errors[1], (jnp.max(w[:FILTERS, 0]) - jnp.min(w[FILTERS:, 0])) / 2


def main(seeds: int = 2, steps: int = 600) -> dict[str, dict[str, np.ndarray]]:
    """For the full batch and for single examples, over seeds: training and test error, feature alignment."""
    keys = jax.random.split(jax.random.key(0), seeds)
    table = {}
    for name, batch in (("full batch", EXAMPLES), ("one example", 1)):
        found = train(keys, batch, steps * batch // EXAMPLES)
        train_error, test_error, feature = (np.asarray(f) for f in found)
        table[name] = {"training error": train_error, "test error": test_error, "feature": feature}
    return table


if __name__ == "__main__":
    for name, row in main().items():
        print(f"{name:13}", *(f"{key} {np.round(value, 3)};" for key, value in row.items()))
