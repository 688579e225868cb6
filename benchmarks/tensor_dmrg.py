"""Two-site DMRG against TeNPy: the Heisenberg chain of 64 sites at bond dimension 64, to equal energy."""

from __future__ import annotations

import warnings
from typing import Any

import jax
from harness import Entry, main

from corollary.linalg.tensor import dmrg, heisenberg_mpo

KEY = jax.random.key(0)
SITES, RANK = 64, 64
ENERGY = -28.1754248597  # ours at χ = 160, with ‖(H − E)ψ‖ = 6e-6


def _tenpy() -> float:
    """With the spin conserved, so that its matrices are blocks; no mixer, which would cost it several times as much."""
    from tenpy.algorithms import dmrg as peer
    from tenpy.models.spins import SpinChain
    from tenpy.networks.mps import MPS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"S": 0.5, "L": SITES, "Jx": 1.0, "Jy": 1.0, "Jz": 1.0, "bc_MPS": "finite", "conserve": "Sz"}
        model = SpinChain(settings)
        psi = MPS.from_product_state(model.lat.mps_sites(), ["up", "down"] * (SITES // 2), bc="finite")
        truncation = {"chi_max": RANK, "svd_min": 1e-10}
        options = {"mixer": None, "max_E_err": 1e-10, "trunc_params": truncation, "combine": True}
        return float(peer.run(psi, model, options)["E"])


def heisenberg() -> Entry:
    H = heisenberg_mpo(SITES)
    runs: dict[str, Any] = {
        "corollary": lambda: float(dmrg(H, rank=RANK, tol=1e-9, key=KEY).value.energy),
    }
    skipped = {}
    try:
        import tenpy  # noqa: F401  # pyright: ignore[reportMissingImports]

        runs["TeNPy, spin conserved"] = _tenpy
    except ImportError:
        skipped["TeNPy"] = "not installed (physics-tenpy)"
    return Entry(
        name=f"DMRG, Heisenberg chain of {SITES} sites, bond dimension {RANK}, float64",
        quality="energy above that of χ = 160",
        runs=runs,
        measure=lambda energy: energy - ENERGY,
        skipped=skipped,
        against="TeNPy, spin conserved",
        bar=0.5,
        repeats=3,
        note="Ours uses no symmetry and starts from a random state; the time includes the residual ‖(H − E)ψ‖.",
    )


if __name__ == "__main__":
    main("tensor_dmrg", [heisenberg])
