"""Rounding: a tensor train of too large ranks as one of smaller ranks, with a measured error.

Use it after sums and products of trains. The full tensor is never formed, and the error is exact to rounding, even
where it is far below √eps. Cost: O(d n r³).

Source: Oseledets, Tensor-Train Decomposition, SIAM J. Sci. Comput. 33 (2011), Algorithm 2.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import follows_input, on_host
from corollary.core.solution import Solution
from corollary.linalg.tensor._formats import TensorTrain
from corollary.linalg.tensor._tt_arithmetic import checked_ranks, checked_train
from corollary.linalg.tensor._tt_cores import divided, length, log_norms, small_blas, summed
from corollary.linalg.tensor._tt_svd import certified, cut

SAFE = 1e10  # the squares of such a norm times eps, or over it, are far within float32


@follows_input
def tt_round(train: Any, *, rank: Any = None, tol: Any = None) -> Solution:
    """The same tensor train with smaller ranks, to a tolerance or to given ranks.

    Use it after sums, Hadamard and matrix products, whose ranks add or multiply. One sweep of QRs from the right, one
    of SVDs from the left. Cost: O(d n r³). The full tensor is never formed: the error is the norm of the difference
    train by a sweep of QRs, which knows it to eps where ‖a‖² − 2⟨a, b⟩ + ‖b‖² would know it to √eps. Given `rank` it
    can be jitted and differentiated.

    Parameters
    ----------
    train
        `TensorTrain`, real or complex.
    rank
        The largest inner rank, or the inner ranks. Give this or `tol`.
    tol
        Relative Frobenius error.

    Returns
    -------
    Solution
        ``value``: `TensorTrain`, left-orthogonal but for its last core. Certificates and ``stats`` as of `tt_svd`, the
        rounding in them scaled by how much the cores of the input cancel (``stats["cancellation"]``).

    Raises
    ------
    InputError
        Unless exactly one of `rank` and `tol` is given, and `train` is a finite tensor train.

    Notes
    -----
    Source: Oseledets, SIAM J. Sci. Comput. 33 (2011), Algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> ones = TensorTrain((np.ones((1, 4, 1)),) * 3)
    >>> tt_round(ones + ones, tol=1e-12).value.rank
    (1, 1, 1, 1)
    """
    if (rank is None) == (tol is None):
        raise InputError(f"rank, tol: found {rank!r}, {tol!r}, expected exactly one of them")
    if tol is not None:
        validation.number(0)("tol", tol)
    train = checked_train("train", train)
    ranks = None if rank is None else checked_ranks(rank, train.shape)
    leaves = train.cores
    traced = any(isinstance(c, Tracer) for c in leaves)
    if traced and tol is not None:
        raise InputError("tol: found a traced train, whose ranks must be known: pass rank in place of tol")
    xp: Any = np if on_host(*leaves) else jnp
    with small_blas(max(train.rank)):
        solution = _rounded(TensorTrain(tuple(xp.asarray(c) for c in leaves)), ranks, tol, xp)
    in_jax = any(isinstance(c, jax.Array) for c in leaves)
    return jax.tree.map(jnp.asarray, solution) if in_jax and xp is np else solution


def _rounded(train: TensorTrain, ranks: tuple[int, ...] | None, tol: Any, xp: Any) -> Solution:
    """QRs to the left, SVDs to the right, on cores whose product stays near size one so that nothing overflows."""
    d, eps = len(train.cores), float(jnp.finfo(train.cores[0].dtype).eps)
    sizes = _sizes(train, xp)
    unit, orthogonal, interfaces, norm = _scaled(train, sizes, xp)
    if not isinstance(norm, Tracer) and not 1 / SAFE < norm < SAFE:
        growth = float(log_norms(unit.cores)[-1])
        if math.isfinite(growth):  # else it is zero
            sizes = [s * math.exp(growth / d) for s in sizes]
            unit, orthogonal, interfaces, norm = _scaled(train, sizes, xp)
    scale = xp.where(norm > 0, norm, xp.ones_like(norm))
    # A train whose cores cancel is itself only known to eps of what cancels: ‖left part‖ ‖right part‖ at the bonds.
    lost = xp.max(xp.stack([a * b for a, b in zip(left_norms(unit, xp), interfaces, strict=True)])) / scale
    cores, discarded, used, carry = [], [], 0.0, orthogonal.cores[0]
    for k in range(d - 1):
        r_left, n, _ = carry.shape
        U, s, Vh = xp.linalg.svd(carry.reshape(r_left * n, -1), full_matrices=False)
        if ranks is not None and xp is jnp:
            r = min(ranks[k], len(s))
        else:
            cap = len(s) if ranks is None else ranks[k]
            budget = None if tol is None else max((tol * float(norm)) ** 2 - used, 0.0) / (d - 1 - k)
            r, _ = cut(np.asarray(s, np.float64), cap, budget, float(norm), eps)
        tail = xp.sqrt(xp.sum(s[r:] ** 2))
        used = used if tol is None else used + float(tail) ** 2
        discarded.append(tail)
        cores.append(U[:, :r].reshape(r_left, n, r))
        carry = xp.tensordot(s[:r, None].astype(Vh.dtype) * Vh[:r], orthogonal.cores[k + 1], axes=([1], [0]))
    cores.append(carry)
    rounded = TensorTrain(tuple(cores))
    error = TensorTrain(summed(unit.cores, rounded.cores, -1)).norm() / scale
    parts = xp.stack(discarded) / scale if discarded else xp.zeros(1, norm.dtype)
    amplified = eps * xp.maximum(lost, 1)
    rounded = TensorTrain(tuple(c * s.astype(c.dtype) for c, s in zip(rounded.cores, sizes, strict=True)))
    solution = certified(rounded, error, parts, tol, amplified, "QR and SVD sweeps", xp)
    return Solution(
        rounded, solution.certificates, solution.status, d - 1, {**solution.stats, "cancellation": xp.maximum(lost, 1)}
    )


def _sizes(train: TensorTrain, xp: Any) -> list[Any]:
    """‖G_k‖/√r_{k+1}: one for an orthogonal core, and the growth from bond to bond for a random one."""
    held = [lax.stop_gradient(c) if xp is jnp else c for c in train.cores]
    sizes = [length(c) / math.sqrt(c.shape[2]) for c in held]
    return [xp.where(s > 0, s, xp.ones_like(s)) for s in sizes]


def _scaled(train: TensorTrain, sizes: list[Any], xp: Any) -> tuple[TensorTrain, TensorTrain, list[Any], Any]:
    """The train of the divided cores, right-orthogonal also, with the norms of its right parts and of the whole."""
    unit = TensorTrain(tuple(divided(c, s) for c, s in zip(train.cores, sizes, strict=True)))
    with np.errstate(over="ignore", invalid="ignore"):  # the caller looks, and scales again
        orthogonal, interfaces = right_orthogonal(unit, xp)
        return unit, orthogonal, interfaces, length(orthogonal.cores[0])


def right_orthogonal(train: TensorTrain, xp: Any) -> tuple[TensorTrain, list[Any]]:
    """All cores but the first with orthonormal rows, and the norms of the right parts at the inner and outer bonds."""
    cores, triangle = [], xp.ones((1, 1), train.cores[0].dtype)
    norms = [xp.linalg.norm(triangle)]
    for core in reversed(train.cores[1:]):
        r, n, _ = core.shape
        pushed = xp.tensordot(core, triangle, axes=([2], [0])).reshape(r, -1)
        Q, R = xp.linalg.qr(pushed.conj().T)
        cores.append(Q.conj().T.reshape(-1, n, triangle.shape[1]))
        triangle = R.conj().T
        norms.append(xp.linalg.norm(triangle))
    cores.append(xp.tensordot(train.cores[0], triangle, axes=([2], [0])))
    norms.append(xp.linalg.norm(cores[-1].ravel()))
    return TensorTrain(tuple(reversed(cores))), norms[::-1]


def left_norms(train: TensorTrain, xp: Any) -> list[Any]:
    """Norms of the left parts at every bond from 0 to d, by QRs."""
    triangle = xp.ones((1, 1), train.cores[0].dtype)
    norms = [xp.linalg.norm(triangle)]
    for core in train.cores:
        pushed = xp.tensordot(triangle, core, axes=([1], [0])).reshape(-1, core.shape[2])
        triangle = xp.linalg.qr(pushed, mode="r")
        norms.append(xp.linalg.norm(triangle))
    return norms
