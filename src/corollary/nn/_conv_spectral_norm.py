"""The exact spectral norm of a convolution as a linear map of images.

With circular padding the map is block-diagonal in the Fourier basis, one (C_in × C_out) block for each frequency, so
its norm is the largest norm of h·w small matrices: O(h·w·C²(C + log hw)). With zero padding it is a compression of a
circular convolution on a torus that is k − 1 larger, whose norm therefore bounds it from above; the norm itself is
found by Lanczos on AᵀA. The norm of the kernel reshaped to a matrix is neither: it can be smaller by a factor
up to the kernel's edge, or larger.
Source: Sedghi, Gupta & Long, "The singular values of convolutional layers" (2019), theorem 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.operator import Function
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.linalg import eigsh
from corollary.nn._conv import conv, per_axis


@follows_input
def conv_spectral_norm(
    kernel: Any,
    size: int | Sequence[int],
    *,
    padding: str = "CIRCULAR",
    tol: float | None = None,
    max_steps: int = 300,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """Operator norm ‖x ↦ conv(x, kernel)‖ for stride 1.

    Use it for Lipschitz bounds and spectral normalisation of convolutional layers.

    Parameters
    ----------
    kernel
        (kh, kw, C_in, C_out).
    size
        Height and width of the input, each at least the kernel's.
    padding
        ``"CIRCULAR"``: closed form; ``"SAME"`` or ``"VALID"`` (zeros): the Lanczos method.
    tol, max_steps, key
        Of `corollary.linalg.eigsh` on AᵀA.

    Returns
    -------
    Solution
        ``value``: the norm. Certificates: ``"reshaped"`` (exact): the norm is at most that of the kernel as a matrix
        (kh·kw·C_in × C_out) times √(kh·kw); for zero padding ``"torus"`` (exact): it is at most the circular norm on
        the larger torus, so with the value, a lower bound, it is enclosed. ``stats``: ``reshaped``, the norm of the
        reshaped kernel, and ``upper``.

    Raises
    ------
    InputError
        For a kernel that is not a finite array of four axes, or larger than the image.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> box = jnp.ones((3, 3, 1, 1)) / 9  # a mean keeps constants: norm 1; the reshaped kernel's norm is 1/3
    >>> found = conv_spectral_norm(box, 8)
    >>> round(float(found.value), 5), round(float(found.stats["reshaped"]), 5)
    (1.0, 0.33333)
    """
    kernel = validation.tensor("kernel", kernel)
    if kernel.ndim != 4:
        raise InputError(f"kernel: found shape {kernel.shape}, expected (kh, kw, C_in, C_out)")
    validation.one_of("CIRCULAR", "SAME", "VALID")("padding", padding)
    h, w = per_axis("size", size, 2)
    kh, kw, c, k = kernel.shape
    if h < kh or w < kw:
        raise InputError(f"size: found {h} x {w}, expected at least the kernel's {kh} x {kw}")
    flat = _norm(kernel.reshape(-1, k))
    upper = _circular(kernel, (h, w) if padding == "CIRCULAR" else (h + kh - 1, w + kw - 1))
    stats: dict[str, Any] = {"reshaped": flat, "upper": upper}
    if padding == "CIRCULAR":
        value, steps, status = upper, 0, Status.of(True, jnp.isfinite(upper))
        stats["solver"] = Note("closed form: one singular value problem for each frequency")
    else:
        scale = jnp.max(jnp.abs(kernel))
        gram = _gram(kernel / jnp.where(scale > 0, scale, 1), (h, w, c), padding)
        pair = eigsh(gram, 1, tol=tol, max_steps=max_steps, complete=False, key=key)
        value = jnp.sqrt(jnp.maximum(pair.value[0][0], 0)).astype(kernel.dtype) * scale
        steps, status = pair.steps, pair.status
        stats["solver"] = Note("Lanczos on AᵀA: the value is a lower bound")
    certificates = {
        "reshaped": Certificate(
            "‖A‖ <= √(kh·kw)·‖reshaped kernel‖",
            measured=value,
            bound=flat * jnp.sqrt(jnp.asarray(kh * kw, flat.dtype)) + rounding(flat, 64.0 * kh * kw),
            kind="exact",
            source="Singla & Feizi, 'Fantastic four' (2021), theorem 1",
        )
    }
    if padding != "CIRCULAR":
        certificates["torus"] = Certificate(
            "‖A‖ <= circular norm on the torus larger by the kernel",
            measured=value,
            bound=upper + rounding(upper, 64.0 * kh * kw),
            kind="exact",
            source="A is a compression of that circular convolution; Sedghi, Gupta & Long (2019), theorem 6",
        )
    return Solution(value, certificates, status, steps, stats)


def _norm(matrices: Any) -> Any:
    return jnp.max(jnp.linalg.svd(matrices, compute_uv=False))


def _circular(kernel: Any, size: tuple[int, int]) -> Any:
    return _norm(jnp.fft.fft2(kernel, s=size, axes=(0, 1)))


def _gram(kernel: Any, image: tuple[int, int, int], padding: str) -> Function:
    """AᵀA of the convolution, on images as vectors."""

    def product(x: Any) -> Any:
        y, back = jax.vjp(lambda x: conv(x.reshape(1, *image), kernel, padding=padding), x)
        return back(y)[0]

    return Function(product, image[0] * image[1] * image[2], product, kernel.dtype)
