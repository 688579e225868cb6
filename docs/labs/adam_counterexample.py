"""Adam on the convex problem of Reddi, Kale and Kumar: it walks to the worst point.

On [−1, 1] the losses f_t(x) = Cx where t mod 3 = 1 and −x otherwise have the mean (C − 2)/3·x, minimised at −1 for
C > 2. With β1 = 0 and β2 = 1/(1 + C²) Adam divides the one large gradient by its own size while the two small ones
are divided by what is left of it, so that their steps to +1 win: the regret grows linearly. AMSGrad keeps the largest
second moment, SGD has none, and both go to −1. (Reddi, Kale & Kumar, 2018, "On the convergence of Adam and beyond",
theorem 1.) The steps are 1/√t, without bias correction as in the theorem.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

METHODS = ("adam", "amsgrad", "sgd")


@partial(jax.jit, static_argnames=("method", "steps"))
def run(C: Any, method: str, steps: int = 3000, start: float = 0.0) -> dict[str, Any]:
    """The points x_t and the regret against −1 after each step."""
    b2 = 1 / (1 + C**2)

    def gradient(t):
        return jnp.where(t % 3 == 1, C, -1.0)

    def body(carry, t):
        x, v, top, regret = carry
        g = gradient(t)
        regret = regret + g * (x + 1)  # f_t(x) − f_t(−1)
        v = b2 * v + (1 - b2) * g**2
        top = jnp.maximum(top, v)
        # Optax's rules with these settings, written out: β1 = 0, no bias correction, ε = 0.
        below = {"adam": jnp.sqrt(v), "amsgrad": jnp.sqrt(top), "sgd": jnp.ones_like(v)}[method]
        eta = 1 / jnp.sqrt(t.astype(x.dtype))
        x = jnp.clip(optax.apply_updates(x, -eta * g / below), -1, 1)
        return (x, v, top, regret), (x, regret)

    zero = jnp.zeros_like(C)
    _, (x, regret) = jax.lax.scan(body, (zero + start, zero, zero, zero), jnp.arange(1, steps + 1))
    return {"x": x, "regret": regret}


def main(C: float = 3.0, steps: int = 3000) -> dict[str, dict[str, float]]:
    """Last points, mean regret a step over the second half, and its exponent in t."""
    table = {}
    for method in METHODS:
        found = {k: np.asarray(v) for k, v in run(jnp.asarray(C), method, steps).items()}
        regret, half = found["regret"], steps // 2
        grown = max(regret[-1], 1e-12) / max(regret[half - 1], 1e-12)
        table[method] = {
            "last x": float(found["x"][-3:].mean()),
            "regret per step": float((regret[-1] - regret[half - 1]) / (steps - half)),
            "exponent": float(np.log2(grown)),
        }
    return table


if __name__ == "__main__":
    for method, row in main().items():
        print(f"{method:8}", *(f"{name} {value:.3f};" for name, value in row.items()))
