"""Image compression by truncated SVD.

The best rank-k approximation of a picture, channel by channel: k(m + n + 1) numbers instead of m n, and the mean
squared error is Σ_{i>k} σ_i²/(m n), so that the peak signal-to-noise ratio is known before any picture is formed. It
falls behind what compresses pictures in practice, and for a reason: JPEG codes blocks of a cosine transform and JPEG
2000 wavelets, whose bases are fixed and need not be stored; neither is an SVD method.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_sample_images

from corollary.linalg import svd

RANKS = (5, 20, 50, 100, 200)


def picture(index: int = 0) -> np.ndarray:
    """A sample picture, (m, n, 3) in [0, 255]: 0 is the temple, 1 the flower."""
    return load_sample_images().images[index].astype(float)


def compress(image: np.ndarray, k: int) -> np.ndarray:
    """The rank-k approximation of each channel."""
    return np.stack([_rank_k(image[..., c], k) for c in range(image.shape[2])], axis=2)


def _rank_k(channel: np.ndarray, k: int) -> np.ndarray:
    U, s, Vt = svd(channel, k, solver="direct").value
    return (U * s) @ Vt


def ratio(m: int, n: int, k: int) -> float:
    """Stored numbers over the picture's: k(m + n + 1)/(m n); above 1 it is no compression."""
    return k * (m + n + 1) / (m * n)


def psnr(image: np.ndarray, other: np.ndarray, peak: float = 255.0) -> float:
    """10 log10(peak²/MSE) in decibels."""
    return float(10 * np.log10(peak**2 / np.mean((image - other) ** 2)))


def predicted_psnr(image: np.ndarray, ranks: tuple[int, ...] = RANKS, peak: float = 255.0) -> list[float]:
    """The same from the singular values alone: MSE = Σ_channels Σ_{i>k} σ_i²/(3 m n)."""
    values = [np.linalg.svd(image[..., c], compute_uv=False) for c in range(image.shape[2])]
    return [float(10 * np.log10(peak**2 * image.size / sum(np.sum(s[k:] ** 2) for s in values))) for k in ranks]


def main(step: int = 2) -> dict[int, dict[str, float]]:
    """Ratio and PSNR by rank, for every `step`-th pixel of the temple."""
    image = picture()[::step, ::step]
    m, n, channels = image.shape
    factors = [svd(image[..., c]).value for c in range(channels)]
    rows = {}
    for k, predicted in zip(RANKS, predicted_psnr(image), strict=True):
        approximation = np.stack([(U[:, :k] * s[:k]) @ Vt[:k] for U, s, Vt in factors], axis=2)
        rows[k] = {"ratio": ratio(m, n, k), "psnr": psnr(image, approximation), "predicted": predicted}
    return rows


if __name__ == "__main__":
    print("   k  numbers stored  PSNR dB  predicted dB")
    for k, row in main().items():
        print(f"{k:4d}  {row['ratio']:14.1%}  {row['psnr']:7.2f}  {row['predicted']:12.2f}")
