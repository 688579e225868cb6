"""The backward pass of a convolution is made of convolutions.

Let y = correlate(x, w): y_u = Σ_i x_{u+i} w_i (what networks call a convolution). With the upstream gradient δ = ∂L/∂y,

    ∂L/∂w_i = Σ_u δ_u x_{u+i}: a plain correlation of x with δ, no flip,
    ∂L/∂x_v = Σ_i δ_{v−i} w_i: a full convolution of δ with w, that is a correlation with the kernel turned by 180°.

Each weight is used at every place. Were every use a weight of its own, its gradient would be one term of the sum over
u: the gradient of a shared weight is the sum over its uses. (Goodfellow, Bengio & Courville, 2016, section 9.5.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from corollary.nn import conv, locally_connected


def forward(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Valid correlation of an image with a kernel, as a sum of shifted images."""
    height, width = x.shape[0] - w.shape[0] + 1, x.shape[1] - w.shape[1] + 1
    return sum(w[i, j] * x[i : i + height, j : j + width] for i in range(w.shape[0]) for j in range(w.shape[1]))


def backward(x: np.ndarray, w: np.ndarray, delta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(∂L/∂x, ∂L/∂w) from δ = ∂L/∂y, by two more correlations."""
    p, q = w.shape[0] - 1, w.shape[1] - 1
    full = np.pad(delta, ((p, p), (q, q)))
    return forward(full, w[::-1, ::-1]), forward(x, delta)


def main(seed: int = 0) -> dict[str, float]:
    """Largest differences between the formulas and automatic differentiation."""
    rng = np.random.default_rng(seed)
    x, w, delta = (rng.standard_normal(s) for s in ((7, 6), (3, 2), (5, 5)))
    dx, dw = backward(x, w, delta)
    with jax.enable_x64(True):

        def network(x, w):
            return conv(x[None, :, :, None], w[:, :, None, None], padding="VALID")[0, :, :, 0]

        y, back = jax.vjp(network, jnp.asarray(x), jnp.asarray(w))
        gx, gw = (np.asarray(g) for g in back(jnp.asarray(delta)))
        untied = jnp.broadcast_to(jnp.asarray(w)[:, :, None, None], (5, 5, 3, 2, 1, 1))
        uses = jax.grad(
            lambda k: jnp.sum(locally_connected(jnp.asarray(x)[None, :, :, None], k)[0, :, :, 0] * jnp.asarray(delta))
        )(untied)
        uses = np.asarray(uses)[..., 0, 0]
    line = rng.standard_normal(9), rng.standard_normal(6)
    return {
        "y": float(np.abs(forward(x, w) - np.asarray(y)).max()),
        "dx": float(np.abs(dx - gx).max()),
        "dw": float(np.abs(dw - gw).max()),
        "unflipped": float(np.abs(forward(np.pad(delta, ((2, 2), (1, 1))), w) - gx).max()),
        "sum of uses": float(np.abs(uses.sum((0, 1)) - gw).max()),
        "np.correlate": float(
            np.abs(np.correlate(line[0], line[1], "valid") - forward(line[0][:, None], line[1][:, None])[:, 0]).max()
        ),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:12} {value:.1e}")
