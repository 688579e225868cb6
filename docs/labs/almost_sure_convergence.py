"""Convergence of every path, or of the mean only.

With steps c/t^α, 1/2 < α ≤ 1, SGD on a convex loss converges along almost every path (Robbins & Siegmund, 1971): the
largest error met after time t goes to zero with t. With a constant step the mean of the square error settles, and yet
no path converges: each returns to a fixed distance again and again, so that its limsup stays positive (for a chain with
Gaussian noise it even grows, as the square root of log t). Convergence of the mean square says nothing of one run; and
the other way round, an estimate that is right but for a rare large error converges almost surely without its mean.
Fitted exponents: the mean square falls as t^−α, and so does the path's own running maximum, up to logarithms.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from corollary.core.precision import follows_input
from corollary.optim import robbins_monro_check

ALPHAS = (1.0, 0.75, 0.6, 0.0)


@follows_input
def paths(alpha: float, scale: float, steps: int = 4096, runs: int = 100, seed: int = 0) -> Any:
    """|x_t| of SGD on x²/2 with standard normal noise from x = 1 and steps scale/t^α: (runs, steps)."""
    return _paths(jnp.asarray(alpha), jnp.asarray(scale), jax.random.key(seed), steps, runs)


@partial(jax.jit, static_argnames=("steps", "runs"))
def _paths(alpha: Any, scale: Any, key: Any, steps: int, runs: int) -> Any:
    optimiser = optax.sgd(lambda t: scale * jnp.asarray(t + 1).astype(alpha.dtype) ** -alpha)
    start = jnp.ones(runs, alpha.dtype)

    def body(carry, key):
        x, state = carry
        updates, state = optimiser.update(x + jax.random.normal(key, x.shape, x.dtype), state)
        x = optax.apply_updates(x, updates)
        return (x, state), jnp.abs(x)

    return jax.lax.scan(body, (start, optimiser.init(start)), jax.random.split(key, steps))[1].T


def summary(errors: np.ndarray) -> dict[str, Any]:
    """Largest error per doubling of t for each path; its quantiles, the mean square, and exponents fitted to them."""
    steps = errors.shape[1]
    edges = 2 ** np.arange(5, int(np.log2(steps)) + 1)
    blocks = np.stack([errors[:, a - 1 : b - 1].max(axis=1) for a, b in itertools.pairwise(edges)], 1)
    square = np.array([np.mean(errors[:, a - 1 : b - 1] ** 2) for a, b in itertools.pairwise(edges)])
    t = np.log(edges[:-1])
    each = np.polyfit(t, np.log(blocks**2).T, 1)[0]
    return {
        "limsup": blocks[:, -1],
        "early": blocks[:, 0],
        "quantiles": np.quantile(blocks[:, -1], (0.05, 0.5, 0.95)),
        "mean square": square,
        "exponent of the mean square": float(np.polyfit(t, np.log(square), 1)[0]),
        "exponents of the paths": each,
    }


def main(seed: int = 0) -> dict[float, dict[str, Any]]:
    """For each α: what `summary` says, and whether the Robbins-Monro conditions hold."""
    table = {}
    for alpha in ALPHAS:
        found = summary(paths(alpha, 2.0 if alpha == 1 else 0.5, seed=seed))
        table[alpha] = found | {"Robbins-Monro": robbins_monro_check(alpha).classical}
    return table


if __name__ == "__main__":
    for alpha, row in main().items():
        low, middle, high = row["quantiles"]
        each = np.mean(row["exponents of the paths"])
        print(f"alpha {alpha:4}: Robbins-Monro {row['Robbins-Monro']!s:5}", end=" ")
        print(f"largest late error {low:.3f} {middle:.3f} {high:.3f}", end="  ")
        print(f"exponents: mean square {row['exponent of the mean square']:.2f}, paths {each:.2f}")
