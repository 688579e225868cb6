"""Gradient descent from zero gives the minimum norm.

An underdetermined system X w = y has a whole affine space of solutions. Gradient descent and SGD only ever add rows of
X to w, so they stay in w0 + range(Xᵀ) and end in the one solution there: X⁺y + (I − X⁺X) w0, the solution nearest to
w0, which is the one of least norm for w0 = 0. Nothing in the loss asks for a small norm; the start and the method do.
SGD reaches it exactly with a constant step, since every example's gradient vanishes at a solution (interpolation).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from corollary.core.precision import follows_input
from corollary.linalg import lstsq


def data(n: int = 5, p: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X (n, p) with n < p, y, and a start w0 that is not in the range of Xᵀ."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)), rng.normal(size=n), rng.normal(size=p)


def predicted(X: Any, y: Any, w0: Any) -> np.ndarray:
    """X⁺y + (I − X⁺X) w0 = w0 + X⁺(y − X w0)."""
    return w0 + lstsq(X, y - X @ w0).value


@follows_input
def descend(X: Any, y: Any, w0: Any, steps: int = 1000, stochastic: bool = False, seed: int = 0) -> Any:
    """The limit of gradient descent with 1/‖X‖², or of SGD on single rows with 1/max ‖x_i‖²."""
    X, y, w0 = jnp.asarray(X), jnp.asarray(y), jnp.asarray(w0)
    squares = jnp.sum(X**2, axis=1)
    rate = 1 / jnp.max(squares) if stochastic else 1 / jnp.linalg.norm(X, 2) ** 2
    rows = jax.random.randint(jax.random.key(seed), (steps,), 0, X.shape[0])
    return _run(X, y, w0, rate, rows, stochastic)


@partial(jax.jit, static_argnames=("stochastic",))
def _run(X: Any, y: Any, w0: Any, rate: Any, rows: Any, stochastic: bool) -> Any:
    optimiser = optax.sgd(rate)

    def body(carry, i):
        w, state = carry
        g = X[i] * (X[i] @ w - y[i]) if stochastic else X.T @ (X @ w - y)
        updates, state = optimiser.update(g, state)
        return (optax.apply_updates(w, updates), state), None

    return jax.lax.scan(body, (w0, optimiser.init(w0)), rows)[0][0]


def main(seed: int = 0) -> dict[str, float]:
    """Distances of the limits to the prediction, and norms: of the limit, and of another solution."""
    X, y, w0 = data(seed=seed)
    zero = np.zeros_like(w0)
    from_zero, from_w0 = descend(X, y, zero), descend(X, y, w0)
    return {
        "GD from 0: distance to X⁺y": float(np.linalg.norm(from_zero - predicted(X, y, zero))),
        "GD from w0: distance to X⁺y + (I − X⁺X)w0": float(np.linalg.norm(from_w0 - predicted(X, y, w0))),
        "SGD from 0: distance to X⁺y": float(
            np.linalg.norm(descend(X, y, zero, 5000, True, seed) - predicted(X, y, zero))
        ),
        "SGD from w0: distance": float(np.linalg.norm(descend(X, y, w0, 5000, True, seed) - predicted(X, y, w0))),
        "residual from w0": float(np.linalg.norm(X @ from_w0 - y)),
        "norm from 0": float(np.linalg.norm(from_zero)),
        "norm from w0": float(np.linalg.norm(from_w0)),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:45} {value:.3g}")
