"""Vectorisation and trace identities, right and wrong, on integer matrices.

On integers every residual is exactly zero or it is an error. ⟨A, B⟩ = tr(AᵀB) = Σ a_ij b_ij. Moving a factor to the
other side transposes it and keeps its side: ⟨AB, C⟩ = ⟨B, AᵀC⟩ and ⟨A, BC⟩ = ⟨ACᵀ, B⟩ = ⟨BᵀA, C⟩. The trace is cyclic,
not symmetric: tr(ABC) = tr(BCA) ≠ tr(BAC). Row-major vec (NumPy's `ravel`) gives vec(AXB) = (A ⊗ Bᵀ) vec(X), where
column-major vec gives (Bᵀ ⊗ A). The wrong rows are errors that are often printed; they must fail. Source: Horn &
Johnson, Topics in Matrix Analysis (1991), §4.3; Magnus & Neudecker (2019), ch. 2.
"""

from __future__ import annotations

import numpy as np

N = 4


def vec(X: np.ndarray) -> np.ndarray:
    """Row-major vectorisation, the order in which NumPy and JAX store: rows one after another."""
    return X.ravel()


def inner(A: np.ndarray, B: np.ndarray) -> int:
    """⟨A, B⟩ = Σ a_ij b_ij, for vectors and matrices alike."""
    return np.sum(A * B)


def draws(seed: int) -> dict[str, np.ndarray]:
    """Random integer matrices and vectors."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(-9, 10, (N, N)) for name in "ABCQX"} | {"x": rng.integers(-9, 10, N)}


def right(p: dict[str, np.ndarray]) -> dict[str, tuple]:
    """Identities: the two sides of each."""
    A, B, C, Q, X, x = (p[name] for name in "ABCQXx")
    tr, kron = np.trace, np.kron
    return {
        "⟨A, B⟩ = tr(AᵀB) = vec(A)·vec(B)": (inner(A, B), tr(A.T @ B), vec(A) @ vec(B)),
        "⟨AB, C⟩ = ⟨B, AᵀC⟩": (inner(A @ B, C), inner(B, A.T @ C)),
        "⟨A, BC⟩ = ⟨ACᵀ, B⟩ = ⟨BᵀA, C⟩": (inner(A, B @ C), inner(A @ C.T, B), inner(B.T @ A, C)),
        "⟨x, Qx⟩ = ⟨xxᵀ, Q⟩": (inner(x, Q @ x), inner(np.outer(x, x), Q)),
        "‖A‖_F² = tr(AᵀA) = ‖vec(A)‖²": (np.sum(A**2), tr(A.T @ A), vec(A) @ vec(A)),
        "tr(2A + 3B) = 2 tr(A) + 3 tr(B)": (tr(2 * A + 3 * B), 2 * tr(A) + 3 * tr(B)),
        "tr(A) = tr(Aᵀ)": (tr(A), tr(A.T)),
        "tr(AB) = tr(BA)": (tr(A @ B), tr(B @ A)),
        "tr(ABC) = tr(BCA) = tr(CAB)": (tr(A @ B @ C), tr(B @ C @ A), tr(C @ A @ B)),
        "tr(A ⊗ B) = tr(A) tr(B)": (tr(kron(A, B)), tr(A) * tr(B)),
        "vec(AXB) = (A ⊗ Bᵀ) vec(X), rows first": (vec(A @ X @ B), kron(A, B.T) @ vec(X)),
        "vec(xxᵀ) = x ⊗ x": (vec(np.outer(x, x)), kron(x, x)),
    }


def wrong(p: dict[str, np.ndarray]) -> dict[str, tuple]:
    """What is printed by mistake."""
    A, B, C, X = (p[name] for name in "ABCX")
    tr, kron = np.trace, np.kron
    return {
        "⟨A, BC⟩ = ⟨ABᵀ, C⟩": (inner(A, B @ C), inner(A @ B.T, C)),
        "⟨AB, C⟩ = ⟨B, CAᵀ⟩": (inner(A @ B, C), inner(B, C @ A.T)),
        "tr(ABC) = tr(BAC)": (tr(A @ B @ C), tr(B @ A @ C)),
        "tr(AB) = tr(A) tr(B)": (tr(A @ B), tr(A) * tr(B)),
        "‖A‖_F² = tr(A²)": (np.sum(A**2), tr(A @ A)),
        "vec(AXB) = (Bᵀ ⊗ A) vec(X), rows first": (vec(A @ X @ B), kron(B.T, A) @ vec(X)),
    }


def residual(sides: tuple) -> int:
    """Largest difference between the sides; zero on integers, or the identity is false."""
    return max(int(np.abs(np.asarray(side) - sides[0]).max()) for side in sides[1:])


def main(seeds: int = 20) -> dict:
    """The worst residual of each right row, the best of each wrong one, and tr(A) against the sum of eigenvalues."""
    every = [draws(seed) for seed in range(seeds)]
    gap = max(abs(np.trace(p["A"]) - np.linalg.eigvals(p["A"]).sum()) for p in every)
    return {
        "right": {text: max(residual(right(p)[text]) for p in every) for text in right(every[0])},
        "wrong": {text: min(residual(wrong(p)[text]) for p in every) for text in wrong(every[0])},
        "eigenvalues": float(gap),
    }


if __name__ == "__main__":
    numbers = main()
    for kind in ("right", "wrong"):
        for text, value in numbers[kind].items():
            print(f"{kind:6s} {value:6d}  {text}")
    print(f"right  {numbers['eigenvalues']:6.0e}  tr(A) = Σ λ_i")
