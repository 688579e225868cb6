"""Trilinear mixture recovery: fluorescence without calibration.

A dilute mixture of fluorophores that is excited at wavelength i and observed at j emits Σ_r c_r e_r(i) m_r(j)
(Beer-Lambert): a table of excitation times emission for each sample, a tensor for several samples. Its CP
decomposition gives the excitation and emission spectra of the single substances and their concentrations, up to scale,
although no sample is pure and no spectrum is known beforehand. A table of samples times wavelengths alone does not:
any invertible mixture of its factors explains it as well, so that an SVD, or even a nonnegative factorisation, returns
something else.
"""

from __future__ import annotations

import jax
import numpy as np
from sklearn.decomposition import NMF

from corollary.linalg.tensor import cp_als, factor_match_score, kruskal_certificate

SAMPLES, EXCITATION, EMISSION = 12, 31, 61
BANDS = (((310, 18), (380, 25)), ((330, 20), (400, 30)), ((350, 22), (430, 28)))  # (centre, width) in nanometres


def spectra() -> tuple[np.ndarray, np.ndarray]:
    """Excitation (31, 3) and emission (61, 3): overlapping bands, the emission with a tail to the red."""
    excitation, emission = np.linspace(260, 410, EXCITATION), np.linspace(340, 520, EMISSION)
    e = np.stack([np.exp(-(((excitation - c) / w) ** 2)) for (c, w), _ in BANDS], axis=1)
    m = np.stack(
        [
            np.exp(-(((emission - c) / w) ** 2)) + 0.3 * np.exp(-(((emission - c - 30) / (1.5 * w)) ** 2))
            for _, (c, w) in BANDS
        ],
        axis=1,
    )
    return e, m


def mixture(noise: float = 0.01, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """The measured tensor (samples, excitation, emission), and the concentrations and spectra behind it."""
    rng = np.random.default_rng(seed)
    factors = [rng.uniform(0.1, 1, (SAMPLES, 3)), *spectra()]
    tensor = np.einsum("sr,er,mr->sem", *factors)
    return tensor + noise * np.std(tensor) * rng.standard_normal(tensor.shape), factors


def rotated(factors: list[np.ndarray], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Other factors of the same matrix of samples times excitation (summed over emission): (C M)(M⁻¹ Eᵀ)."""
    C, E = factors[0] * factors[2].sum(axis=0), factors[1]
    M = np.eye(3) + 0.5 * np.random.default_rng(seed).uniform(size=(3, 3))
    return C @ M, E @ np.linalg.inv(M).T


def congruence(first: np.ndarray, second: np.ndarray) -> float:
    """The least |cosine| of matched columns."""
    return float(factor_match_score([first], [second]).congruence.min())


def main(noise: float = 0.01, seed: int = 0) -> dict[str, float]:
    """Least congruence with the truth, of CP (also with a third of the entries missing) and of matrices' factors."""
    tensor, factors = mixture(noise, seed)
    run = {"rank": 3, "nonnegative": True, "starts": 2, "tol": 1e-5, "max_steps": 2000, "key": jax.random.key(0)}
    found = cp_als(tensor, **run)
    match = factor_match_score(factors, found.value)
    seen = np.random.default_rng(seed).random(tensor.shape) > 1 / 3
    gaps = factor_match_score(factors, cp_als(tensor, mask=seen, **run).value)
    table = np.maximum(tensor.sum(axis=2), 0)
    C, E = rotated(factors)
    nmf = NMF(3, init="nndsvda", max_iter=2000, tol=1e-4).fit(table)
    left = np.linalg.svd(table, full_matrices=False)[2][:3].T
    exact = factors[0] * factors[2].sum(axis=0) @ factors[1].T
    return {
        "CP, worst spectrum or concentration": float(match.congruence.min()),
        "CP, a third of the entries missing": float(gaps.congruence.min()),
        "matrix: SVD": congruence(factors[1], left),
        "matrix: nonnegative factorisation": congruence(factors[1], nmf.components_.T),
        "matrix: a rotation of the truth": congruence(factors[1], E),
        "error of that rotation": float(np.linalg.norm(C @ E.T - exact) / np.linalg.norm(exact)),
        "k-ranks needed for uniqueness": float(kruskal_certificate(found.value).value.needed),
        "k-ranks found": float(kruskal_certificate(found.value).value.total),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:38} {value:.4g}")
