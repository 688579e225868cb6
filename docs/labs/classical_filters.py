"""Edges and blur by fixed kernels: what convolutions did before they were learnt.

Sobel's kernel is a smoothing [1, 2, 1] across and a difference [−1, 0, 1] along: its response to a constant image is
zero. The Laplacian [[0, 1, 0], [1, −4, 1], [0, 1, 0]] answers to curvature. A Gaussian kernel sums to one, so it keeps
constants, and it is the product of two one-dimensional kernels: two passes of 2r + 1 taps instead of one of (2r + 1)².
(Gonzalez & Woods, "Digital image processing", 2018, sections 3.5 and 10.2.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from corollary.nn import conv

SOBEL = np.outer([1.0, 2.0, 1.0], [-1.0, 0.0, 1.0])
LAPLACE = np.array([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])


def apply(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlate with mirrored borders, at the image's size."""
    p, q = kernel.shape[0] // 2, kernel.shape[1] // 2
    with jax.enable_x64(True):
        wide = jnp.pad(jnp.asarray(image), ((p, p), (q, q)), mode="symmetric")
        y = conv(wide[None, :, :, None], jnp.asarray(kernel)[:, :, None, None], padding="VALID")
        return np.asarray(y[0, :, :, 0])


def gaussian_taps(sigma: float, reach: float = 4.0) -> np.ndarray:
    """A Gaussian at the integers, cut off at reach·σ, with sum one."""
    radius = int(reach * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return taps / taps.sum()


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing in two passes."""
    taps = gaussian_taps(sigma)
    return apply(apply(image, taps[:, None]), taps[None])


def edges(image: np.ndarray) -> np.ndarray:
    """Length of the Sobel gradient."""
    return np.hypot(apply(image, SOBEL), apply(image, SOBEL.T))


def main(sigma: float = 1.5) -> dict[str, np.ndarray]:
    """Filters on a noisy disc."""
    row, column = np.mgrid[:48, :48]
    disc = ((row - 24) ** 2 + (column - 20) ** 2 < 144).astype(float)
    image = disc + 0.1 * np.random.default_rng(0).standard_normal(disc.shape)
    taps = gaussian_taps(sigma)
    return {
        "image": image,
        "sobel": apply(image, SOBEL),
        "laplacian": apply(image, LAPLACE),
        "blur": blur(image, sigma),
        "blur in one pass": apply(image, np.outer(taps, taps)),
        "edges": edges(blur(image, sigma)),
        "disc": disc,
    }


if __name__ == "__main__":
    numbers = main()
    ring = numbers["edges"] > 0.5 * numbers["edges"].max()
    print(f"pixels on the edge: {int(ring.sum())}, the disc's circumference: {2 * np.pi * 12:.0f}")
    print("two passes equal one:", bool(np.allclose(numbers["blur"], numbers["blur in one pass"])))
