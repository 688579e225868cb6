"""The gauge of a Tucker form: different factors, the same tensor.

A Tucker form may be turned by any orthogonal matrix Q_k in every mode: G ×_k Q_kᵀ with U_k Q_k in place of U_k. The
tensor does not change, so single columns of a factor mean nothing by themselves; the subspace that they span does. The
HOSVD picks one form of each such class, up to signs: the one whose core has mutually orthogonal slices of falling norm.
"""

from __future__ import annotations

import numpy as np

from corollary.linalg.tensor import Tucker, mode_product, tucker

SHAPE, RANK = (12, 10, 8), (4, 3, 2)


def rotated(form: Tucker, turns: list[np.ndarray]) -> Tucker:
    """The Tucker form with U_k Q_k in place of U_k."""
    core = form.core
    for mode, Q in enumerate(turns):
        core = mode_product(core, Q.T, mode)
    return Tucker(core, tuple(U @ Q for U, Q in zip(form.factors, turns, strict=True)))


def main(seed: int = 0) -> dict[str, float]:
    """What a random rotation changes, and what it leaves."""
    rng = np.random.default_rng(seed)
    form = tucker(rng.standard_normal(SHAPE), RANK, method="st-hosvd").value
    turns = [np.linalg.qr(rng.standard_normal((r, r)))[0] for r in RANK]
    other = rotated(form, turns)
    full = form.to_dense()
    back = tucker(other.to_dense(), RANK, method="st-hosvd").value
    pairs = list(zip(form.factors, other.factors, strict=True))
    return {
        "difference of the tensors": float(np.linalg.norm(other.to_dense() - full) / np.linalg.norm(full)),
        "difference of the factors": float(min(np.linalg.norm(U - V) for U, V in pairs)),
        "difference of their subspaces": float(max(np.linalg.norm(U @ U.T - V @ V.T) for U, V in pairs)),
        "after the HOSVD's gauge": float(
            max(np.linalg.norm(U - V) for U, V in zip(form.factors, back.factors, strict=True))
        ),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:30s} {value:.1e}")
