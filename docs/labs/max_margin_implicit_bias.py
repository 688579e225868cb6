"""Gradient descent on separable logistic loss turns towards the maximum margin.

On separable data without a bias term, the loss (1/n) Σ log(1 + exp(−y_i⟨x_i, w⟩)) has no minimum: w grows as log t, and
its direction tends to the hard-margin SVM's, at the slow rate 1/log t, long after every example is classified. The loss
itself falls as 1/t for a constant step, not exponentially; only the 0-1 error reaches zero soon. With the step divided
by the loss (normalised gradient descent) the loss falls exponentially in t and the margin comes much sooner.
SGD with a constant step has the same limit. (Soudry, Hoffer, Nacson, Gunasekar & Srebro, 2018; Nacson, Srebro & Soudry,
2019, for SGD; Nacson et al., 2019, "Convergence of gradient descent on separable data", for normalised steps.)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import nnls

from corollary.core.precision import follows_input

METHODS = ("gd", "sgd", "normalised")


def data(n: int = 40, seed: int = 0) -> np.ndarray:
    """Rows y_i x_i (n, 2), separable through the origin, with a margin that the mean direction does not show."""
    rng = np.random.default_rng(seed)
    support = np.array([[0.5, 1.5], [1.5, 0.5]])
    far = np.stack([rng.uniform(1.0, 4.0, n - 2), rng.uniform(1.0, 1.8, n - 2)], axis=1)
    return np.concatenate([support, far])


def max_margin(Z: np.ndarray) -> np.ndarray:
    """The direction of min ‖w‖² subject to Z w ≥ 1, by least-distance programming (Lawson & Hanson, ch. 23)."""
    E = np.vstack([Z.T, np.ones(len(Z))])
    u, _ = nnls(E, np.append(np.zeros(Z.shape[1]), 1.0))
    r = E @ u - np.append(np.zeros(Z.shape[1]), 1.0)
    w = -r[:-1] / r[-1]
    return w / np.linalg.norm(w)


@follows_input
def run(Z: Any, method: str = "gd", steps: int = 20_000, rate: float = 0.5, seed: int = 0) -> dict[str, Any]:
    """Loss, ‖w‖, normalised margin and direction at geometrically spaced steps."""
    marks = np.unique(np.geomspace(10, steps, 24).astype(int)) - 1
    rows = jax.random.randint(jax.random.key(seed), (steps,), 0, len(Z))
    w = _path(jnp.asarray(Z), jnp.asarray(rate), rows, METHODS.index(method))[marks]
    norms = jnp.linalg.norm(w, axis=1)
    margins = jnp.min(w @ jnp.asarray(Z).T, axis=1) / norms
    losses = jnp.mean(jax.nn.softplus(-w @ jnp.asarray(Z).T), axis=1)
    return {"t": marks + 1, "loss": losses, "norm": norms, "margin": margins, "direction": w / norms[:, None]}


@partial(jax.jit, static_argnames=("method",))
def _path(Z: Any, rate: Any, rows: Any, method: int) -> Any:
    optimiser = optax.sgd(rate)

    def loss(w, Z):
        return jnp.mean(jax.nn.softplus(-Z @ w))

    def body(carry, i):
        w, state = carry
        g = jax.grad(loss)(w, Z[i][None] if method == 1 else Z)
        if method == 2:  # the loss itself is the natural length of the gradient, and does not vanish before it
            g = g / loss(w, Z)
        updates, state = optimiser.update(g, state)
        w = optax.apply_updates(w, updates)
        return (w, state), w

    start = jnp.zeros_like(Z[0])
    return jax.lax.scan(body, (start, optimiser.init(start)), rows)[1]


def main(steps: int = 20_000) -> dict[str, dict[str, float]]:
    """For each method: slopes of the loss and ‖w‖, the last loss, margin / best margin, cosine to the SVM."""
    Z = data()
    best = max_margin(Z)
    top = float(np.min(Z @ best))
    table = {}
    for method in METHODS:
        found = run(Z, method, steps if method != "normalised" else steps // 100)
        late = found["t"] > found["t"][-1] / 20
        table[method] = {
            "slope of log loss": float(np.polyfit(np.log(found["t"][late]), np.log(found["loss"][late]), 1)[0]),
            "log loss per step": float(np.polyfit(found["t"][late], np.log(found["loss"][late]), 1)[0]),
            "norm per log t": float(np.polyfit(np.log(found["t"][late]), found["norm"][late], 1)[0] * top),
            "loss": float(found["loss"][-1]),
            "margin / best": float(found["margin"][-1] / top),
            "cosine": float(found["direction"][-1] @ best),
            "1 - cosine, early": float(1 - found["direction"][0] @ best),
        }
    return table


if __name__ == "__main__":
    for method, row in main().items():
        print(f"{method:11}", *(f"{name} {value:.3g};" for name, value in row.items()))
