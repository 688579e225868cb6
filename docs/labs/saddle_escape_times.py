"""How long methods take to leave a strict saddle, against what a linear recursion predicts.

At x² − y² gradient descent multiplies y by 1 + 2η a step, so it passes |y| = r at the first t ≥ log(r/|y0|)/log(1 +
2η): exactly. Heavy ball and Nesterov follow second-order recursions, whose larger root ρ > 1 gives log(r/(c|y0|))/log ρ
with the start's share c of the unstable mode: z² − (1 + β + ηλ)z + β for heavy ball, z² − (1 + β)(1 + ηλ)z + β(1 + ηλ)
for Nesterov, λ = |curvature| = 2. Adam divides by the gradient's size and moves y by about the rate a step whatever y0
is: about r/rate steps. Only starts on the stable manifold y = 0 never leave, a set of measure zero. (Lee, Simchowitz,
Jordan & Recht, 2016; O'Neill & Wright, 2019, for heavy ball.)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from corollary.core.precision import follows_input

RATE, MOMENTUM, RADIUS = 0.05, 0.8, 1.0
METHODS = {
    "gd": optax.sgd(RATE),
    "heavy ball": optax.sgd(RATE, momentum=MOMENTUM),
    "nesterov": optax.sgd(RATE, momentum=MOMENTUM, nesterov=True),
    "adam": optax.adam(RATE, eps=1e-12),
}
SADDLES = {
    "x² − y²": (lambda z: z[0] ** 2 - z[1] ** 2, 2.0),
    "x²/2 − y²/2 + y⁴/4": (lambda z: z[0] ** 2 / 2 - z[1] ** 2 / 2 + z[1] ** 4 / 4, 1.0),
}


def starts(runs: int = 100, spread: float = 1e-3, seed: int = 0) -> np.ndarray:
    """Random starts (runs, 2) around the saddle."""
    return spread * np.random.default_rng(seed).normal(size=(runs, 2))


@follows_input
def escape(saddle: str, method: str, z0: Any, steps: int = 600, radius: float = RADIUS) -> Any:
    """The first step at which |y| ≥ radius, for each start; `steps` + 1 where it never was."""
    return _escape(jnp.asarray(z0), jnp.asarray(radius), SADDLES[saddle][0], METHODS[method], steps)


@partial(jax.jit, static_argnames=("f", "optimiser", "steps"))
def _escape(z0: Any, radius: Any, f: Any, optimiser: Any, steps: int) -> Any:
    def one(z):
        def body(carry, t):
            z, state, first = carry
            with jax.numpy_dtype_promotion("standard"):  # Optax's bias correction mixes floats and counts
                updates, state = optimiser.update(jax.grad(f)(z), state)
            z = optax.apply_updates(z, updates)
            first = jnp.where((jnp.abs(z[1]) >= radius) & (first > steps), t + 1, first)
            return (z, state, first), None

        carry = (z, optimiser.init(z), jnp.asarray(steps + 1, jnp.int32))
        return jax.lax.scan(body, carry, jnp.arange(steps, dtype=jnp.int32))[0][2]

    return jax.vmap(one)(z0)


def predicted(method: str, y0: np.ndarray, curvature: float, radius: float = RADIUS) -> np.ndarray:
    """Escape steps (real) of the linearised recursion; for Adam r/rate."""
    if method == "adam":
        return np.full(len(y0), radius / RATE)
    gain, beta = 1 + RATE * curvature, MOMENTUM
    if method == "gd":
        return np.log(radius / np.abs(y0)) / np.log(gain)
    if method == "heavy ball":
        root, other = np.sort(np.roots([1, -(beta + gain), beta]))[::-1]
        first = gain  # y1/y0
    else:
        root, other = np.sort(np.roots([1, -(1 + beta) * gain, beta * gain]))[::-1]
        first = 1 + (1 + beta) * (gain - 1)  # Optax's first step looks ahead already
    share = (first - other) / (root - other)
    return np.log(radius / (share * np.abs(y0))) / np.log(root)


def main(seed: int = 0) -> dict[tuple[str, str], dict[str, float]]:
    """For each saddle and method: median measured and predicted steps, and the largest deviation."""
    z0 = starts(seed=seed)
    table = {}
    for saddle, (_, curvature) in SADDLES.items():
        radius = RADIUS if saddle == "x² − y²" else 0.1  # the quartic term is small up to here
        for method in METHODS:
            found = escape(saddle, method, z0, radius=radius)
            theory = predicted(method, z0[:, 1], curvature, radius)
            table[saddle, method] = {
                "measured": float(np.median(found)),
                "predicted": float(np.median(theory)),
                "deviation": float(np.max(np.abs(found - np.ceil(theory)))),
                "never left": float(np.sum(found > 600)),
            }
    return table


if __name__ == "__main__":
    for (saddle, method), row in main().items():
        print(f"{saddle:20} {method:11}", *(f"{name} {value:.3g};" for name, value in row.items()))
