"""Entanglement entropy: how much the two parts of a chain know of each other, cut by cut.

A state ψ = Σ s_i u_i ⊗ v_i (Schmidt decomposition across a cut) has entropy S = −Σ s_i² log s_i²; it is the same seen
from either side, zero for a product, at most log of the number of Schmidt values, so at most log of the bond dimension
of any matrix product state of ψ. Cost: one SVD of the unfolding, or for a matrix product state one sweep, O(n d² r³).

Source: Nielsen & Chuang, Quantum Computation and Quantum Information (2000), Theorem 2.7, §11.3; Schollwöck, Annals of
Physics 326 (2011), §4.2.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
from jax.core import Tracer

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import eps, follows_input
from corollary.core.solution import Solution
from corollary.linalg.tensor._mps_sweeps import as_amplitudes, checked_cores, is_chain, orthogonalise
from corollary.linalg.tensor._tt_cores import length, module


class Entanglement(eqx.Module):
    """Entropy and Schmidt values across one cut, or across every cut.

    Parameters
    ----------
    entropy
        In nats; a scalar, or (n − 1,) for every cut.
    schmidt_values
        Falling, of squares that sum to one; for every cut a tuple of such vectors.
    """

    entropy: Any
    schmidt_values: Any


@follows_input
def entanglement_entropy(state: Any, cut: Any = None, *, order: Any = 1) -> Solution:
    """Schmidt values and entropy of a state across a cut, dense or as a matrix product state.

    Use it to see how large a bond dimension a state needs. Cost: dense an SVD; a matrix product state two sweeps,
    O(n d r³), and an SVD at each cut asked for. It can be jitted and vmapped.

    Parameters
    ----------
    state
        (2^n,) amplitudes, (n_0, …, n_{d-1}) amplitudes, `TensorTrain` or a list of its cores; of any norm but zero.
    cut
        How many sites are on the left, from 1 to n − 1; ``None``: every cut.
    order
        1: von Neumann. Else the Rényi entropy log(Σ s_i^{2α})/(1 − α); 0 counts the Schmidt values (above rounding),
        ``inf`` is −log s_1².

    Returns
    -------
    Solution
        ``value``: `Entanglement`. Certificates: ``"bond_dimension"`` (theorem: S − log χ <= 0; the worst cut) and
        ``"normalised"`` (exact: the squares of the Schmidt values add up to the state's norm, found without them).

    Raises
    ------
    InputError
        For the zero state, a single site, or a cut outside the chain.

    Examples
    --------
    >>> import numpy as np
    >>> bell = np.array([1.0, 0.0, 0.0, 1.0])
    >>> found = entanglement_entropy(bell, 1)
    >>> round(float(found.value.entropy), 6), found.value.schmidt_values.round(6).tolist()
    (0.693147, [0.707107, 0.707107])
    """
    validation.number(0)("order", order)
    if is_chain(state):
        cores = checked_cores("state", state)
        sites, xp = len(cores), module(cores[0])
        cuts = _cuts(cut, sites)
        cores = orthogonalise(cores, 0, scaled=False)
        bonds = [cores[c].shape[0] for c in cuts]
        norm, found = length(cores[0]), _of_chain(cores, cuts)
    else:
        amplitudes = as_amplitudes(state)
        sites, xp = amplitudes.ndim, module(amplitudes)
        cuts = _cuts(cut, sites)
        rows = [math.prod(amplitudes.shape[:c]) for c in cuts]
        bonds = [min(r, amplitudes.size // r) for r in rows]
        norm = length(amplitudes)
        found = [xp.linalg.svd(amplitudes.reshape(r, -1), compute_uv=False) for r in rows]
    if not isinstance(norm, Tracer) and not norm > 0:
        raise InputError("state: found the zero state, expected one with a norm")
    small = eps(found[0])
    sizes = [xp.linalg.norm(s / norm) for s in found]
    values = [s / norm / size for s, size in zip(found, sizes, strict=True)]
    entropies = [_entropy(xp, s, float(order), small) for s in values]
    slack = 64 * small * sites
    excess = xp.stack([s - math.log(b) for s, b in zip(entropies, bonds, strict=True)])
    certificates = {
        "bond_dimension": Certificate(
            "S − log χ <= 0, χ the bond dimension at the cut",
            measured=xp.max(excess),
            bound=slack * (1 + math.log(max(bonds))),
            kind="theorem",
            source="Nielsen & Chuang (2000), Theorem 11.8",
        ),
        "normalised": Certificate(
            "|‖s‖ − ‖ψ‖| <= rounding · ‖ψ‖",
            measured=xp.max(xp.abs(xp.stack(sizes) - 1)),
            bound=slack,
            source="Nielsen & Chuang (2000), Theorem 2.7; computed",
        ),
    }
    if cut is None:
        return Solution(Entanglement(xp.stack(entropies), tuple(values)), certificates)
    return Solution(Entanglement(entropies[0], values[0]), certificates)


def _of_chain(cores: list[Any], cuts: list[int]) -> list[Any]:
    """Singular values at the cuts while the centre moves from the first site to the right."""
    xp, found = module(cores[0]), []
    centre = cores[0]
    for k in range(cuts[-1]):
        R = xp.linalg.qr(centre.reshape(-1, centre.shape[2]))[1]
        if k + 1 in cuts:
            found.append(xp.linalg.svd(R, compute_uv=False))
        centre = xp.tensordot(R, cores[k + 1], axes=1)
    return found


def _entropy(xp: Any, s: Any, order: float, small: float) -> Any:
    p = s * s
    if order == 1:
        safe = xp.where(p > 0, p, xp.ones_like(p))
        return xp.maximum(-xp.sum(p * xp.log(safe)), 0)
    if order == math.inf:
        return xp.maximum(-xp.log(p[0]), 0)
    if order == 0:
        return xp.log(xp.sum((s > 16 * small * s[0]).astype(s.dtype)))
    if abs(order - 1) < 0.1:  # Σ p^α = 1 + Σ p (p^{α−1} − 1): the difference from one, without cancellation
        safe = xp.where(p > 0, p, xp.ones_like(p))
        return xp.maximum(xp.log1p(xp.sum(p * xp.expm1((order - 1) * xp.log(safe)))) / (1 - order), 0)
    # Relative to the largest, so that high orders do not underflow.
    total = xp.log(xp.sum((p / p[0]) ** order)) + order * xp.log(p[0])
    return xp.maximum(total / (1 - order), 0)


def _cuts(cut: Any, sites: int) -> list[int]:
    if sites < 2:
        raise InputError(f"state: found {sites} site, expected at least two to cut between")
    if cut is None:
        return list(range(1, sites))
    validation.integer(1)("cut", cut)
    if cut >= sites:
        raise InputError(f"cut: found {cut}, expected from 1 to {sites - 1} sites on the left")
    return [int(cut)]
