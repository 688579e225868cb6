"""What Adam divides by: the square ROOT of an empirical-Fisher diagonal, not the Hessian diagonal.

For a correctly specified negative log-likelihood at its optimum E[g²] = diag F = diag H for single-example gradients g.
Adam's v averages squared gradients, so that with batches of one v ≈ diag H there, and Adam divides by (diag H)^{1/2}:
half a Newton step in the exponent. With batches of B examples v is diag H/B. Away from the optimum, or with a wrong
model (here: noise of twice the assumed deviation), v and diag H differ; they may still correlate.
(Kunstner, Balles & Hennig, 2019, "Limitations of the empirical Fisher approximation", sections 2 and 3.)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def data(n: int = 20_000, p: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Columns of scales from 3 to 1/3, and a true parameter."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)) * np.geomspace(3, 1 / 3, p), rng.normal(size=p) / 4


@partial(jax.jit, static_argnames=("model",))
def diagonals(X: Any, y: Any, w: Any, model: str) -> dict[str, Any]:
    """Hessian diagonal of the mean loss, empirical-Fisher diagonal (mean of squared gradients), and Adam's v."""

    def one(w, x, y):
        z = x @ w
        return jax.nn.softplus(z) - y * z if model == "logistic" else (z - y) ** 2 / 2

    gradients = jax.vmap(jax.grad(one), (None, 0, 0))(w, X, y)
    hessian = jax.hessian(lambda w: jnp.mean(jax.vmap(one, (None, 0, 0))(w, X, y)))(w)
    adam = optax.scale_by_adam(b2=0.9995)

    def body(state, g):
        with jax.numpy_dtype_promotion("standard"):
            return adam.update(g, state)[1], None

    state, _ = jax.lax.scan(body, adam.init(w), gradients)  # batches of one, at a fixed point
    v = state.nu / (1 - 0.9995 ** gradients.shape[0])
    return {"hessian": jnp.diag(hessian), "fisher": jnp.mean(gradients**2, 0), "v": v}


@partial(jax.jit, static_argnames=("model",))
def optimum(X: Any, y: Any, model: str) -> Any:
    """The maximum-likelihood estimate, by Newton."""
    if model != "logistic":
        return jnp.linalg.lstsq(X, y)[0]

    def step(w, _):
        q = jax.nn.sigmoid(X @ w)
        return w - jnp.linalg.solve((X.T * (q * (1 - q))) @ X, X.T @ (q - y)), None

    return jax.lax.scan(step, jnp.zeros(X.shape[1], X.dtype), length=12)[0]


def main(seed: int = 0) -> dict[str, dict[str, float]]:
    """Ratios and correlations of the logarithms: at the optimum, away from it, with a wrong model."""
    X, w = data(seed=seed)
    rng = np.random.default_rng(seed + 1)
    y = (rng.random(len(X)) < 1 / (1 + np.exp(-X @ w))).astype(float)
    noisy = X @ w + 2 * rng.normal(size=len(X))  # the model assumes a deviation of 1
    best = {"logistic": optimum(jnp.asarray(X), jnp.asarray(y), "logistic")}
    best["linear"] = optimum(jnp.asarray(X), jnp.asarray(noisy), "linear")
    cases = {
        "optimum": ("logistic", y, best["logistic"]),
        "away": ("logistic", y, -3 * best["logistic"]),
        "misspecified": ("linear", noisy, best["linear"]),
    }
    table = {}
    for name, (model, target, at) in cases.items():
        d = {k: np.asarray(x) for k, x in diagonals(jnp.asarray(X), jnp.asarray(target), at, model).items()}
        slope = np.polyfit(np.log(d["hessian"]), np.log(np.sqrt(d["v"])), 1)[0]
        table[name] = {
            "fisher / hessian": float(np.mean(d["fisher"] / d["hessian"])),
            "v / hessian": float(np.mean(d["v"] / d["hessian"])),
            "correlation": float(np.corrcoef(np.log(d["hessian"]), np.log(d["v"]))[0, 1]),
            "slope of log sqrt v": float(slope),
            "largest error": float(np.max(np.abs(d["fisher"] / d["hessian"] - 1))),
        }
    return table


if __name__ == "__main__":
    for name, row in main().items():
        print(f"{name:14}", *(f"{key} {value:.3f};" for key, value in row.items()))
