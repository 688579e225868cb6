"""Area law of ground-state entanglement.

Ground states of gapped chains have little entanglement across a cut, whatever the length: matrix product states hold
them with a fixed bond dimension. At a critical point the half-chain entropy grows as (c/6) log n for an open chain,
(1/12) log n for the Ising chain's c = 1/2, and the bond dimension with it. A random state is entangled about as much as
it can be: Page's mean, linear in n, so that its bond dimension doubles with every second site. (Page, PRL 71 (1993),
1291; Calabrese & Cardy, J. Stat. Mech. (2004), P06002.)
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from corollary.linalg.tensor import dmrg, entanglement_entropy, ising_mpo

SIZES = (8, 16, 32, 64)
RANDOM = (4, 6, 8, 10, 12)


def needed(schmidt_values: Any, weight: float = 1e-6) -> int:
    """The least bond dimension whose discarded weight Σ s² is at most `weight`."""
    tails = np.cumsum(np.asarray(schmidt_values)[::-1] ** 2)[::-1]
    return int(np.sum(tails > weight))


def half_chain(n: int, h: float) -> tuple[float, int]:
    """Entropy and needed bond dimension in the middle of the Ising chain's ground state."""
    state = dmrg(ising_mpo(n, 1.0, h), rank=32, tol=1e-10, key=jax.random.key(n)).value.state
    middle = entanglement_entropy(state, n // 2).value
    return float(middle.entropy), needed(middle.schmidt_values)


def random_state(n: int, draws: int = 20) -> tuple[float, int]:
    """Mean entropy in the middle of random states of n sites, and the bond dimension of the last."""
    rng = np.random.default_rng(n)
    states = [rng.standard_normal(2**n) + 1j * rng.standard_normal(2**n) for _ in range(draws)]
    middles = [entanglement_entropy(psi, n // 2).value for psi in states]
    return float(np.mean([m.entropy for m in middles])), needed(middles[-1].schmidt_values)


def page(n: int) -> float:
    """Page's mean entropy of half of n sites, m = 2^{n/2}: Σ_{k=m+1}^{m²} 1/k − (m − 1)/(2m)."""
    m = 2 ** (n // 2)
    return float(np.sum(1 / np.arange(m + 1, m * m + 1)) - (m - 1) / (2 * m))


def slope(sizes: Any, entropies: Any) -> float:
    """Of S against log n, with the known correction: S = s log n + a + b/n by least squares."""
    n = np.asarray(sizes, float)
    design = np.stack([np.log(n), np.ones_like(n), 1 / n], axis=1)
    return float(np.linalg.lstsq(design, np.asarray(entropies), rcond=None)[0][0])


def main() -> dict[str, Any]:
    """Half-chain entropies and bond dimensions of the three kinds of state, and the critical slope."""
    rows: dict[str, Any] = {
        "gapped": {n: half_chain(n, 2.0) for n in SIZES},
        "critical": {n: half_chain(n, 1.0) for n in SIZES},
        "random": {n: random_state(n) for n in RANDOM},
    }
    rows["slope"] = slope(SIZES, [rows["critical"][n][0] for n in SIZES])
    return rows


if __name__ == "__main__":
    numbers = main()
    for kind in ("gapped", "critical", "random"):
        print(f"{kind} state" + (" (Page's mean beside)" if kind == "random" else ""))
        for n, (entropy, bond) in numbers[kind].items():
            beside = f"  {page(n):.4f}" if kind == "random" else ""
            print(f"  n = {n:2d}: half-chain entropy {entropy:.4f}{beside}, bond dimension for weight 1e-6: {bond}")
    print(f"critical slope {numbers['slope']:.5f}, 1/12 = {1 / 12:.5f}")
