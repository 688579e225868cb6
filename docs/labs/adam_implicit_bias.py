"""Adam and sign descent on separable data tend to another margin than gradient descent.

Full-batch Adam and sign descent with momentum (Signum) drive the direction of w to the classifier whose margin is the
largest relative to the largest entry of w: max min_i ⟨z_i, w⟩ with ‖w‖_∞ ≤ 1, a linear program; gradient descent goes
to the ℓ2 one. For Signum the batch does not matter when β1 is near 1. For Adam it does: fed one example at a time it
sees gradients whose second moments are those of the single rows. On rows of ±s entries (Rademacher data) these are
equal in all coordinates, so that cyclic one-sample Adam steps along the plain gradient and reaches the ℓ2 margin: its
limit for β2 → 1 is the fixed point of w ∝ Σ_i α_i z_i with the coordinates divided by √(Σ_i α_i² z_ij²), and equal
divisors leave the SVM. (Zhang, Zou & Cao, 2024, "The implicit bias of Adam on separable data"; Baek, Song & Yun,
2025, on one-sample Adam.)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import linprog, nnls

from corollary.core.precision import follows_input

METHODS = ("adam", "signum", "signum, one example", "adam, one example")


def rademacher(n: int = 6, p: int = 24, seed: int = 0) -> np.ndarray:
    """Rows s_i·(±1, …, ±1) of different sizes s_i: separable, with different ℓ2 and ℓ_∞ margins."""
    rng = np.random.default_rng(seed)
    return rng.choice([-1.0, 1.0], size=(n, p)) * np.linspace(0.5, 1.5, n)[:, None]


def sup_margin(Z: np.ndarray) -> float:
    """The largest min_i ⟨z_i, w⟩ over ‖w‖_∞ ≤ 1."""
    n, p = Z.shape
    found = linprog(
        np.append(np.zeros(p), -1.0),
        A_ub=np.hstack([-Z, np.ones((n, 1))]),
        b_ub=np.zeros(n),
        bounds=[(-1, 1)] * p + [(0, None)],
    )
    return float(-found.fun)


def euclidean_margin(Z: np.ndarray) -> tuple[float, np.ndarray]:
    """The largest min_i ⟨z_i, w⟩ over ‖w‖_2 ≤ 1, and its w."""
    E = np.vstack([Z.T, np.ones(len(Z))])
    goal = np.append(np.zeros(Z.shape[1]), 1.0)
    u, _ = nnls(E, goal)
    r = E @ u - goal
    w = -r[:-1] / r[-1]
    w = w / np.linalg.norm(w)
    return float(np.min(Z @ w)), w


def proxy_fixed_point(Z: np.ndarray, steps: int = 4000) -> np.ndarray:
    """One-sample Adam's limit for β2 → 1: ascent of the margin with the coordinates' own divisors."""
    alpha = np.full(len(Z), 1 / len(Z))
    w = np.zeros(Z.shape[1])
    for t in range(steps):
        divisor = np.sqrt(np.sum((alpha[:, None] * Z) ** 2, axis=0))
        w += (alpha @ Z) / np.where(divisor > 0, divisor, 1) / np.sqrt(t + 1.0)
        margins = Z @ w
        weights = np.exp(-(margins - margins.min()))
        alpha = weights / weights.sum()
    return w / np.linalg.norm(w)


@follows_input
def run(Z: Any, method: str, steps: int = 20_000) -> Any:
    """The last w, with steps ~ 1/√t."""
    return _last(jnp.asarray(Z), METHODS.index(method), steps)


@partial(jax.jit, static_argnames=("method", "steps"))
def _last(Z: Any, method: int, steps: int) -> Any:
    n = Z.shape[0]

    def schedule(t):
        return (0.1, 0.1, 0.03, 0.3)[method] / jnp.sqrt(jnp.asarray(t + 1).astype(Z.dtype))

    if METHODS[method].startswith("adam"):
        optimiser = optax.adam(schedule, 0.9, 0.95 if method == 0 else 0.99, eps=0.0, eps_root=1e-300)
    else:
        average = optax.trace(0.9 if method == 1 else 0.99)
        optimiser = optax.chain(average, optax.scale_by_sign(), optax.scale_by_schedule(lambda t: -schedule(t)))

    def body(carry, t):
        w, state = carry
        rows = Z if method < 2 else Z[t % n][None]
        g = -(jax.nn.sigmoid(-rows @ w) @ rows) / rows.shape[0]
        with jax.numpy_dtype_promotion("standard"):  # Optax's bias correction mixes floats and counts
            updates, state = optimiser.update(g, state, w)
        return (optax.apply_updates(w, updates), state), None

    start = jnp.zeros_like(Z[0])
    return jax.lax.scan(body, (start, optimiser.init(start)), jnp.arange(steps))[0][0]


def main(seed: int = 0, steps: int = 20_000) -> dict[str, dict[str, float]]:
    """For each method its ℓ_∞ and ℓ2 margins relative to the best ones, and the cosine to the ℓ2 classifier."""
    Z = rademacher(seed=seed)
    top, (best, svm) = sup_margin(Z), euclidean_margin(Z)
    table = {}
    found = {method: np.asarray(run(Z, method, steps)) for method in METHODS}
    found |= {"ℓ2 classifier": svm, "proxy": proxy_fixed_point(Z)}
    for method, w in found.items():
        margin = np.min(Z @ w)
        table[method] = {
            "sup margin / best": float(margin / np.max(np.abs(w)) / top),
            "l2 margin / best": float(margin / np.linalg.norm(w) / best),
            "cosine to l2": float(w @ svm / np.linalg.norm(w)),
        }
    return table


if __name__ == "__main__":
    for method, row in main().items():
        print(f"{method:20}", *(f"{name} {value:.4f};" for name, value in row.items()))
