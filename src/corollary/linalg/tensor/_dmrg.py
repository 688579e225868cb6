"""Two-site DMRG: the ground state of a chain's Hamiltonian as a matrix product state.

Use it for Hamiltonians of one-dimensional systems given as matrix product operators, where exact diagonalisation ends
(twenty sites) and entanglement is low. A sweep visits every pair of neighbouring sites, finds the lowest eigenvector of
the Hamiltonian seen by that pair (a few Lanczos steps), and splits it by an SVD: the energy of a normalised state is
never below the ground state's, and only truncation can make it rise. The bond dimension grows from small to `rank` as
the tolerance demands. Cost: O(n d² D χ³) a sweep for an operator of rank D.

Source: White, Physical Review Letters 69 (1992), 2863; Schollwöck, Annals of Physics 326 (2011), §6.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from corollary.core import progress, validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import eps, float64, follows_input
from corollary.core.solution import Solution, Status
from corollary.linalg.tensor._dmrg_sweep import SweepState, sweep
from corollary.linalg.tensor._formats import TensorTrain
from corollary.linalg.tensor._mps_sweeps import Cores, checked_cores, common, isometry, orthogonalise, truncate
from corollary.linalg.tensor._tt_cores import length
from corollary.linalg.tensor._variance import hermitian_cores, rayleigh, unit_mpo, weinstein

STEPS = 8  # most Lanczos steps a bond
FIRST = 16  # bond dimension of the first sweeps
NEGLIGIBLE = 1e-4  # a weight of this times tol is dropped at any bond: it would be rounding and unfinished solves
SITES = 128  # shorter chains share the programs of this length, where memory is no matter
SIZES = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


class GroundState(eqx.Module):
    """What DMRG found.

    Parameters
    ----------
    energy
        ⟨ψ|H|ψ⟩: an upper bound of the lowest eigenvalue.
    state
        `TensorTrain` of norm one, right-canonical.
    """

    energy: Any
    state: TensorTrain


@follows_input
def dmrg(
    mpo: Any,
    *,
    rank: Any,
    tol: Any = None,
    max_sweeps: Any = 30,
    key: Any = None,
    start: Any = None,
    history: bool = False,
    verbose: bool = False,
) -> Solution:
    """Ground state of a Hermitian matrix product operator, by two-site sweeps.

    Use it where the ground state of a chain is asked and the chain is too long to diagonalise. Cost: O(n d² D χ³) a
    sweep; usually three to ten sweeps, a few more at a critical point. The compiled sweep serves every chain of the
    same sizes of sites and ranks, up to 64 sites, then up to 128 and so on.

    Parameters
    ----------
    mpo
        Hermitian `TensorTrainMatrix`, cores (D_k, n_k, n_k, D_{k+1}), real or complex; see `ising_mpo`,
        `heisenberg_mpo`, `mpo_of_terms`. A real one is solved in real numbers.
    rank
        Largest bond dimension χ.
    tol
        Relative accuracy of the energy: sweeps end when one changes it by less than tol · scale, the scale being
        max(|E|, ‖H‖_F/√dim); bonds grow while their discarded weight exceeds tol/10. ``None``: 1e-10, or
        64 √n eps where that is more; at most 1.
    max_sweeps
        Most sweeps, from left to right and back.
    key
        `jax.random.key` of the random start; needed unless `start` is given.
    start
        `TensorTrain` to begin from: of the operator's sizes, not zero; a rank above `rank` is truncated. A start
        orthogonal to the ground state by symmetry may stay so.
    history
        Keep of every sweep the energy, what it is above the best, the largest discarded weight and the largest rank.
    verbose
        Show progress.

    Returns
    -------
    Solution
        ``value``: `GroundState` (energy, state), the best of all sweeps. Certificates: ``"residual"`` (exact:
        ‖(H − E)ψ‖ by itself, which no cancellation spoils; an eigenvalue lies this close to E, and it is at most
        √tol · scale), ``"monotone"`` (monitor: no sweep raised the energy by more than its truncations account for),
        ``"truncation"`` (monitor: the largest discarded weight of the last sweep is within tol; fails where `rank`
        is what limits), ``"isometry"`` (exact). ``stats``: ``variance``, ``eigenvalue_error`` (the residual with its
        rounding), ``discarded``, ``rank``, ``products``. ``steps``: sweeps. ``status``: MAX_STEPS where the energy had
        not settled, PRECISION where it moves by rounding only, above `tol`.

    Raises
    ------
    InputError
        For an operator that is not Hermitian (‖H − Hᴴ‖_F is checked), NaN, a rank below 1, a start that is zero or of
        other sizes, or neither key nor start.

    Notes
    -----
    The residual shows that E is near an eigenvalue, not which; that it is the lowest rests on the sweeps. Where the
    lowest eigenvalues lie very close together (an ordered phase, a long chain), a mixture of their states may come out,
    its energy within their spread. Rank one is allowed and gives a product state, the best up to local minima.

    Examples
    --------
    >>> import jax
    >>> from corollary.linalg.tensor import ising_mpo
    >>> found = dmrg(ising_mpo(10), rank=16, key=jax.random.key(0))
    >>> round(float(found.value.energy), 6), bool(found.holds)
    (-12.38149, True)
    """
    validation.integer(1)("rank", rank)
    validation.number(0, 1, none=True)("tol", tol)
    validation.integer(1)("max_sweeps", max_sweeps)
    validation.flag("history", history)
    on_device = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((mpo, start)))
    H = hermitian_cores("mpo", mpo)
    cores = _start(start, key, [W.shape[1] for W in H], int(rank), H[0].dtype)
    mixed = common([*H, *cores])
    H, size = unit_mpo(mixed[: len(H)])
    small = eps(H[0])
    tol = max(1e-10, 64 * small * math.sqrt(len(H))) if tol is None else float(tol)
    start_cores = mixed[len(H) :]
    with float64(), progress.bar("dmrg", int(max_sweeps), verbose):
        several = len(H) > 1
        run = _sweeps(H, start_cores, int(rank), tol, int(max_sweeps)) if several else _single(H, start_cores)
    cores, rows = run.cores, run.rows
    residual, error = weinstein(H, cores, run.energy, size, tol)
    dtype = cores[0].real.dtype
    number = lambda x: np.asarray(x, dtype)  # noqa: E731
    certificates = {
        "residual": residual,
        "monotone": Certificate(
            "no sweep raised the energy by more than its truncations and rounding did",
            measured=number(run.rise * size),
            bound=number(run.allowed * size),
            kind="monitor",
            source="Schollwöck (2011), §6.3; Lanczos never ends above its start",
        ),
        "truncation": Certificate(
            "largest discarded weight of a bond in the last sweep <= tol",
            measured=number(run.discarded),
            bound=number(tol + 16 * small),
            kind="monitor",
            source="Schollwöck (2011), §6.4",
        ),
        "isometry": isometry(cores, 0),
    }
    train = TensorTrain(tuple(cores))
    stats = {
        "variance": residual.measured**2,
        "eigenvalue_error": number(error * size),
        "discarded": number(run.discarded),
        "rank": max(train.rank),
        "products": run.products,
    }
    past = _history(rows, int(max_sweeps), size, dtype) if history else None
    value = GroundState(number(run.energy * size), train)
    solution = Solution(value, certificates, run.status, len(rows), stats, past)
    return jax.tree.map(jnp.asarray, solution) if on_device else solution


class _Run(NamedTuple):
    """The best state of a run, in units of the operator's size, and what the certificates need of the sweeps."""

    cores: Cores
    energy: float
    discarded: float
    rise: float  # of the sweep that rose furthest beyond what is allowed to it
    allowed: float
    status: int
    products: int
    rows: list[tuple[float, float, int]]  # a sweep each: energy, discarded weight, rank


def _sweeps(H: Cores, cores: Cores, rank: int, tol: float, max_sweeps: int) -> _Run:
    """Sweeps until the energy has settled at bonds large enough, or at the largest allowed."""
    n, small, real = len(H), eps(H[0]), cores[0].real.dtype
    dims = [W.shape[1] for W in H]
    rank = min(rank, _largest_rank(dims))
    chi = _padded(min(rank, max(FIRST, *(c.shape[0] for c in cores))))
    # Ranks below three share the programs of three.
    N, D, d = _sites(n, chi), max(3, *(W.shape[0] for W in H)), max(dims)
    W = _stack(H, (N, D, d, d, D))
    state = _stack(cores, (N, chi, d, chi))
    envs = _stack(_environments(H, cores), (N + 1, chi, D, chi))
    weight = np.asarray(NEGLIGIBLE * tol, real)
    best, previous, rows, products, rise, allowed = None, math.inf, [], 0, 0.0, math.inf
    status = Status.MAX_STEPS
    try:
        for _ in range(max_sweeps):
            # The error of a local energy goes with the residual squared: far below what a sweep must settle to.
            goal = max(0.03 * math.sqrt(tol), 32 * small * (max(1.0, abs(previous)) if rows else 1.0))
            found, energy = sweep(
                state, envs, W, np.int32(n), np.int32(rank), np.asarray(goal, real), weight, steps=STEPS
            )
            state, envs, energy, discarded = found.cores, found.envs, float(energy), float(found.discarded)
            products += int(found.products)
            rows.append((energy, discarded, max(_ranks(found))))
            progress.show(len(rows), energy=energy, discarded=discarded)
            if not math.isfinite(energy):
                status = Status.NON_FINITE
                break
            if best is None or energy <= best[0]:
                best = energy, found, discarded
            scale, change = max(abs(energy), 1.0), previous - energy
            noise = 32 * small * math.sqrt(n) * scale
            if -change - (float(found.rise) + noise) > rise - allowed:
                rise, allowed = max(-change, 0.0), float(found.rise) + noise
            previous = energy
            if discarded > tol / 10 and chi < rank:
                chi = _padded(min(rank, 2 * chi))
                N = _sites(n, chi)
                W, state = _resized(W, (N, D, d, d, D)), _resized(state, (N, chi, d, chi))
                envs = _resized(envs, (N + 1, chi, D, chi))
            elif abs(change) <= max(tol * scale, noise):
                status = Status.CONVERGED if abs(change) <= tol * scale else Status.PRECISION
                break
    except KeyboardInterrupt:  # the best state so far is an answer
        if best is None:
            raise
    if best is None:
        raise InputError("mpo: met NaN or infinity in the first sweep, expected entries of more moderate sizes")
    if not math.isfinite(allowed):  # a single sweep has nothing to be compared with
        allowed = 0.0
    energy, found, discarded = best
    return _Run(_trim(found, dims), energy, discarded, rise, allowed, status, products, rows)


def _single(H: Cores, cores: Cores) -> _Run:
    """One site: a small dense eigenproblem."""
    _, vectors = np.linalg.eigh(H[0][0, :, :, 0])
    core = vectors[:, 0].reshape(1, -1, 1).astype(cores[0].dtype)
    energy = float(rayleigh(H, [core]))
    return _Run([core], energy, 0.0, 0.0, 0.0, Status.CONVERGED, 0, [(energy, 0.0, 1)])


def _start(start: Any, key: Any, dims: list[int], rank: int, dtype: Any) -> Cores:
    """The start, right-canonical and of norm one."""
    if start is None:
        if key is None:
            raise InputError("key: found None, expected a jax.random.key, or a start")
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
        ranks = [min(rank, FIRST // 2, x) for x in _full_ranks(dims)]
        cores = [_normal(rng, (a, d, b), dtype) for a, d, b in zip(ranks, dims, ranks[1:], strict=False)]
    else:
        cores = [np.asarray(c) for c in checked_cores("start", start)]
        if [c.shape[1] for c in cores] != dims:
            raise InputError(f"start: found sites of sizes {[c.shape[1] for c in cores]}, expected {dims}")
        cores, _ = truncate(orthogonalise(cores, len(cores) - 1, scaled=False), rank, None)
    cores = orthogonalise(cores, 0, scaled=False)
    norm = length(cores[0])
    if not norm > 0:
        raise InputError("start: found the zero state, expected one with a norm")
    cores[0] = cores[0] / norm
    return cores


def _normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Any:
    draw = rng.standard_normal(shape)
    return (draw + 1j * rng.standard_normal(shape) if dtype.kind == "c" else draw).astype(dtype)


def _full_ranks(dims: list[int]) -> list[int]:
    """The largest rank that each bond can have, ends included."""
    return [min(math.prod(dims[:k]), math.prod(dims[k:])) for k in range(len(dims) + 1)]


def _largest_rank(dims: list[int]) -> int:
    return max(_full_ranks(dims))


def _padded(rank: int) -> int:
    """The next of the few sizes that programs are compiled for."""
    return next((s for s in SIZES if s >= rank), -(-rank // 512) * 512)


def _sites(n: int, chi: int) -> int:
    """The next length that programs are compiled for."""
    return max(SITES if chi <= 64 else 16, 1 << (n - 1).bit_length())


def _stack(arrays: Cores, shape: tuple[int, ...]) -> Any:
    """Arrays of unequal shapes in the corners of a larger one."""
    stacked = np.zeros(shape, arrays[0].dtype)
    for k, array in enumerate(arrays):
        stacked[(k, *map(slice, array.shape))] = array
    return jnp.asarray(stacked)


def _resized(array: Any, shape: tuple[int, ...]) -> Any:
    """More room, zero, or less of what is zero."""
    array = np.asarray(array)
    common_part = tuple(slice(min(a, b)) for a, b in zip(array.shape, shape, strict=True))
    resized = np.zeros(shape, array.dtype)
    resized[common_part] = array[common_part]
    return jnp.asarray(resized)


def _environments(H: Cores, cores: Cores) -> Cores:
    """Environments (bra, operator, ket) before each site: from the right for a right-canonical state; trivial first."""
    env = np.ones((1, 1, 1), cores[0].dtype)
    envs = [env]
    for A, W in zip(cores[:0:-1], H[:0:-1], strict=True):
        moved = np.tensordot(A, envs[-1], axes=([2], [2]))  # (a, i, b', x)
        moved = np.tensordot(W, moved, axes=([2, 3], [1, 3]))  # (w, i', a, b')
        envs.append(np.tensordot(A.conj(), moved, axes=([1, 2], [1, 3])))  # (a', w, a)
    return [env, *envs[::-1]]


def _ranks(found: SweepState) -> list[int]:
    """How many Schmidt values each bond kept."""
    return np.sum(np.asarray(found.schmidt) > 0, axis=1).tolist()


def _trim(found: SweepState, dims: list[int]) -> Cores:
    """The cores without their padding."""
    n = len(dims)
    ranks = [1, *_ranks(found)[1:n], 1]
    cores = np.asarray(found.cores)
    return [np.ascontiguousarray(cores[k, : ranks[k], : dims[k], : ranks[k + 1]]) for k in range(n)]


def _history(rows: list[Any], length: int, size: float, dtype: Any) -> dict[str, Any]:
    table = np.full((length, 3), np.nan)
    table[: len(rows)] = rows
    names = ("energy", "discarded", "rank")
    past = {name: (table[:, i] * (size if i == 0 else 1)).astype(dtype) for i, name in enumerate(names)}
    return past | {"above_best": ((table[:, 0] - np.nanmin(table[:, 0])) * size).astype(dtype)}
