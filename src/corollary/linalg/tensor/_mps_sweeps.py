"""Sweeps over the cores of a matrix product state, and the checks of what comes in.

Everything here works on lists of cores (r_k, n_k, r_{k+1}), on NumPy arrays as on JAX's: NumPy's cost no compilation,
which matters where every core has a shape of its own. Cost: O(n d r³) a sweep.
Source: Schollwöck, Annals of Physics 326 (2011), §4; Oseledets, SIAM J. Sci. Comput. 33 (2011), Algorithm 1-2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import common_float, eps
from corollary.linalg.tensor._formats import TensorTrain
from corollary.linalg.tensor._tt_cores import checked_cores as checked_chain
from corollary.linalg.tensor._tt_cores import length, log_norms, module
from corollary.linalg.tensor._tt_matrix import TensorTrainMatrix

SCHOLLWOECK = "Schollwöck, Annals of Physics 326 (2011)"
Cores = list[Any]


def push(env: Any, core: Any, factor: Any, other: Any = None) -> Any:
    """The environment (bra, operator, ket) of the sites so far, one site further to the right; `other` is the bra."""
    xp = module(core)
    bra = (core if other is None else other).conj()
    moved = xp.tensordot(env, core, axes=([2], [0]))  # (a', w, i, b)
    if factor is None:
        return xp.tensordot(bra, moved, axes=([0, 1], [0, 2]))
    moved = xp.tensordot(moved, factor, axes=([1, 2], [0, 2]))  # (a', b, i', x)
    return xp.moveaxis(xp.tensordot(bra, moved, axes=([0, 1], [0, 2])), 1, 2)


def orthogonalise(cores: Sequence[Any], centre: int, *, scaled: bool = True) -> Cores:
    """QRs from both ends towards the centre; scales are taken out on the way, so that nothing overflows in between.

    They are put back into the centre unless the state is wanted up to a positive factor only (``scaled=False``).
    """
    cores, xp = list(cores), module(cores[0])
    total = xp.ones((), cores[0].real.dtype)

    def unit(matrix: Any) -> tuple[Any, Any]:
        size = abs(matrix).max()
        size = xp.where(size > 0, size, xp.ones_like(size))
        return matrix / size.astype(matrix.dtype), size

    for k in range(centre):
        r, n, s = cores[k].shape
        Q, R = xp.linalg.qr(cores[k].reshape(r * n, s))
        R, size = unit(R)
        cores[k], total = Q.reshape(r, n, -1), total * size
        cores[k + 1] = xp.tensordot(R, cores[k + 1], axes=1)
    for k in range(len(cores) - 1, centre, -1):
        r, n, s = cores[k].shape
        Q, R = xp.linalg.qr(cores[k].reshape(r, n * s).conj().T)
        R, size = unit(R)
        cores[k], total = Q.conj().T.reshape(-1, n, s), total * size
        cores[k - 1] = xp.tensordot(cores[k - 1], R.conj().T, axes=1)
    if scaled:
        cores[centre] = cores[centre] * total.astype(cores[centre].dtype)
    return cores


def truncate(cores: Cores, rank: Any, tol: Any) -> tuple[Cores, list[Any]]:
    """SVDs from right to left of cores whose centre is the last one; the discarded norms, a bond each."""
    xp, discarded = module(cores[0]), []
    allowed = _allowance(length(cores[-1]), cores[-1], len(cores), tol)
    for k in range(len(cores) - 1, 0, -1):
        r, n, s = cores[k].shape
        U, values, Vt = xp.linalg.svd(cores[k].reshape(r, n * s), full_matrices=False)
        keep = _kept(values, rank, allowed)
        discarded.append(length(values[keep:]))
        cores[k] = Vt[:keep].reshape(keep, n, s)
        cores[k - 1] = xp.tensordot(cores[k - 1], U[:, :keep] * values[:keep].astype(U.dtype), axes=1)
    return cores, discarded


def from_dense(amplitudes: Any, rank: Any, tol: Any) -> tuple[Cores, list[Any]]:
    """SVDs of the unfoldings from left to right."""
    xp, cores, discarded = module(amplitudes), [], []
    allowed = _allowance(length(amplitudes), amplitudes, amplitudes.ndim, tol)
    rest, left = amplitudes, 1
    for n in amplitudes.shape[:-1]:
        U, values, Vt = xp.linalg.svd(rest.reshape(left * n, -1), full_matrices=False)
        keep = _kept(values, rank, allowed)
        discarded.append(length(values[keep:]))
        cores.append(U[:, :keep].reshape(left, n, keep))
        rest, left = values[:keep, None].astype(Vt.dtype) * Vt[:keep], keep
    return [*cores, rest.reshape(left, -1, 1)], discarded


def _allowance(norm: Any, like: Any, sites: int, tol: Any) -> Any:
    """What each bond may discard, so that all together stay within the tolerance, or else within rounding."""
    least = 16 * eps(like) * norm
    if tol is None or sites < 2:
        return least
    bigger = np.maximum if isinstance(norm, np.ndarray | np.generic) else jnp.maximum
    return bigger(tol * norm / math.sqrt(sites - 1), least)


def _kept(values: Any, rank: Any, allowed: Any) -> int:
    """The fewest singular values whose discarded tail is allowed, at least one; under a trace all that `rank` lets."""
    most = len(values) if rank is None else min(int(rank), len(values))
    if isinstance(values, Tracer):
        return most
    tails = np.sqrt(np.cumsum(np.square(np.asarray(values, float) / max(float(values[0]), 1e-300))[::-1])[::-1])
    return min(most, max(1, int(np.sum(tails * float(values[0]) > float(allowed)))))


def isometry(cores: Sequence[Any], centre: int) -> Certificate:
    """How far the cores beside the centre are from isometries, the worst of them."""
    xp, worst = module(cores[0]), [0.0]
    for k, core in enumerate(cores):
        if k != centre:
            Q = core.reshape(-1, core.shape[2]) if k < centre else core.reshape(core.shape[0], -1).conj().T
            worst.append(xp.linalg.norm(Q.conj().T @ Q - xp.eye(Q.shape[1], dtype=Q.dtype)))
    real = cores[0].real.dtype
    size = max((c.shape[0] * c.shape[1] * c.shape[2] for c in cores), default=1)
    return Certificate(
        "‖QᴴQ − I‖_F <= rounding for every core but the centre",
        measured=xp.max(xp.stack([xp.asarray(w, real) for w in worst])),
        bound=32 * eps(cores[0]) * math.sqrt(size),
        source=f"{SCHOLLWOECK}, eq. 37 and 39",
    )


def natural_size(cores: Sequence[Any]) -> Any:
    """‖left part‖ · ‖right part‖ at the worst bond, at least the norm: what rounding in the cores is relative to."""
    xp = module(*cores)
    left, right = log_norms(cores), log_norms([c.transpose(2, 1, 0) for c in reversed(cores)])
    return xp.exp(xp.max(xp.stack([a + b for a, b in zip(left, reversed(right), strict=True)])))


def common(arrays: Sequence[Any]) -> Cores:
    """Arrays in their widest floating precision; NumPy arrays alone stay NumPy."""
    if all(isinstance(a, np.ndarray) for a in arrays):
        dtype = np.result_type(*arrays)
        return [a.astype(dtype, copy=False) for a in arrays]
    return list(common_float(*arrays))


def as_amplitudes(state: Any) -> Any:
    """Amplitudes with one mode a site."""
    array = validation.tensor("state", state, complex=True, host=True)
    if array.ndim > 1:
        return array
    sites = array.size.bit_length() - 1
    if array.size != 1 << sites or sites == 0:
        raise InputError(f"state: found {array.size} amplitudes, expected 2^n, or one mode for each site")
    return array.reshape((2,) * sites)


def is_chain(state: Any) -> bool:
    cores = isinstance(state, list | tuple) and len(state) > 0 and all(getattr(c, "ndim", 0) == 3 for c in state)
    return isinstance(state, TensorTrain) or cores


def checked_cores(name: str, state: Any) -> Cores:
    """The cores of a tensor train that fit together, in one precision."""
    if not is_chain(state):
        found = type(state).__name__
        raise InputError(f"{name}: found {found}, expected a TensorTrain or a list of its cores (r_k, n_k, r_k+1)")
    return common(checked_chain(name, state.cores if isinstance(state, TensorTrain) else state))


def checked_mpo(name: str, mpo: Any, shape: Sequence[int] | None = None) -> Cores:
    """The cores of a square operator in train form, of the given mode sizes where they are given."""
    if not isinstance(mpo, TensorTrainMatrix):
        raise InputError(f"{name}: found {type(mpo).__name__}, expected a TensorTrainMatrix")
    cores = common(checked_chain(name, mpo.cores, 4))
    rows, columns = [c.shape[1] for c in cores], [c.shape[2] for c in cores]
    if rows != columns or (shape is not None and rows != list(shape)):
        expected = "square local matrices" if shape is None else f"matrices of the sites' sizes {list(shape)}"
        raise InputError(f"{name}: found rows {rows} and columns {columns}, expected {expected}")
    return cores
