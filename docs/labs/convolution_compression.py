"""Compressing a convolution by Tucker, CP and tensor train.

A kernel of size out x in x h x w is a tensor; a decomposition of it is a chain of smaller convolutions. Tucker in the
two channel modes: a 1 x 1 convolution, a small h x w one, a 1 x 1 one. A train over (in, h, w, out): 1 x 1, h x 1,
1 x w, 1 x 1. CP: the same with the two middle ones channel by channel. For white inputs the relative error of the
outputs is on average that of the kernel, so the decomposition's certificate says what the network will feel. The kernel
here is made up: channels that mix through few directions, and noise; Tucker fits it because it was made so.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from corollary.linalg.tensor import CP, TensorTrain, Tucker, cp_als, mode_product, tt_svd, tucker

OUT, IN, SIDE = 32, 24, 3
RANKS = (6, 4)  # of the output and input channels
NOISE = 0.05


def kernel(seed: int = 0) -> np.ndarray:
    """(out, in, h, w): a random core of few channels in random directions, and noise of 5 % of its norm."""
    rng = np.random.default_rng(seed)
    K = rng.standard_normal((*RANKS, SIDE, SIDE))
    for mode, (n, r) in enumerate(zip((OUT, IN), RANKS, strict=True)):
        K = mode_product(K, np.linalg.qr(rng.standard_normal((n, r)))[0], mode)
    noise = rng.standard_normal(K.shape)
    return K + NOISE * np.linalg.norm(K) / np.linalg.norm(noise) * noise


def convolve(x: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Valid correlation of (channels, rows, columns) with (out, channels, h, w)."""
    windows = np.lib.stride_tricks.sliding_window_view(x, K.shape[2:], axis=(1, 2))
    return np.einsum("crsij,ocij->ors", windows, K, optimize=True)


def by_channel(x: np.ndarray, K: np.ndarray) -> np.ndarray:
    """The same, each channel with its own (h, w)."""
    windows = np.lib.stride_tricks.sliding_window_view(x, K.shape[1:], axis=(1, 2))
    return np.einsum("crsij,cij->crs", windows, K, optimize=True)


def chain(x: np.ndarray, form: Any) -> np.ndarray:
    """The convolution as the chain of small ones that the decomposition stands for."""
    if isinstance(form, Tucker):
        A, B, H, W = form.factors
        small = np.einsum("abij,hi,wj->abhw", form.core, H, W)
        return np.tensordot(A, convolve(np.tensordot(B.T, x, axes=1), small), axes=1)
    if isinstance(form, CP):
        A, B, H, W = form.factors
        middle = by_channel(by_channel(np.tensordot(B.T, x, axes=1), H.T[:, :, None]), W.T[:, None, :])
        return np.tensordot(A * form.weights, middle, axes=1)
    first, rows, columns, last = form.cores
    x = np.tensordot(first[0].T, x, axes=1)
    x = convolve(x, np.moveaxis(rows, (2, 0), (0, 1))[..., None])
    x = convolve(x, np.moveaxis(columns, (2, 0), (0, 1))[:, :, None, :])
    return np.tensordot(last[:, :, 0].T, x, axes=1)


def multiplications(form: Any) -> int:
    """Of the chain, for one output pixel (borders left aside)."""
    if isinstance(form, Tucker):
        a, b = form.rank[:2]
        return IN * b + a * b * SIDE**2 + a * OUT
    if isinstance(form, CP):
        return form.rank * (IN + 2 * SIDE + OUT)
    return form.size


def decompositions(K: np.ndarray) -> dict[str, Any]:
    """Solutions by name; the train's modes are (in, h, w, out)."""
    return {
        "Tucker": tucker(K, (*RANKS, None, None)),
        "CP": cp_als(K, 24, key=jax.random.key(0)),
        "tensor train": tt_svd(np.transpose(K, (1, 2, 3, 0)), tol=0.06),
    }


def dense(form: Any) -> np.ndarray:
    """(out, in, h, w) again."""
    full = np.asarray(form.to_dense())
    return np.moveaxis(full, -1, 0) if isinstance(form, TensorTrain) else full


def main(size: int = 40) -> dict[str, dict[str, float]]:
    """Numbers stored, multiplications a pixel, and the errors of kernel and outputs on white noise."""
    K = kernel()
    x = np.random.default_rng(1).standard_normal((IN, size, size))
    exact = convolve(x, K)
    table = {"dense": {"numbers": K.size, "multiplications": K.size, "kernel error": 0.0, "output error": 0.0}}
    for name, solution in decompositions(K).items():
        form = solution.value
        table[name] = {
            "numbers": form.size,
            "multiplications": multiplications(form),
            "kernel error": float(np.linalg.norm(dense(form) - K) / np.linalg.norm(K)),
            "output error": float(np.linalg.norm(chain(x, form) - exact) / np.linalg.norm(exact)),
        }
    return table


if __name__ == "__main__":
    print("              numbers  multiplications a pixel  kernel error  output error")
    for name, row in main().items():
        print(
            f"{name:12s}  {row['numbers']:7d}  {row['multiplications']:23d}  {row['kernel error']:12.4f}"
            f"  {row['output error']:12.4f}"
        )
