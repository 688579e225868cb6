"""Tensor ring decomposition by a sequence of truncated SVDs: a tensor train whose ends are joined.

Use it where no mode is naturally first or last; with r_0 = 1 it is the tensor train. The first SVD's rank is split into
r_0 r_1, r_0 is carried along to the last core, and every further SVD is that of TT-SVD. Cost: as TT-SVD, of a tensor
r_0 times as large after the first step.

Source: Zhao, Zhou, Xie, Zhang & Cichocki, Tensor Ring Decomposition, arXiv:1606.05535 (2016), Algorithm 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input, on_host
from corollary.core.solution import Note, Solution, Status
from corollary.linalg.tensor._formats import TensorRing
from corollary.linalg.tensor._tucker import scaled
from corollary.linalg.tensor._tucker_certificates import floor, tail_noise
from corollary.linalg.tensor._tucker_modes import adjoint, calm, leading, machine_eps, phases, square, to_limit


@follows_input
def tensor_ring(tensor: Any, rank: Any = None, *, tol: Any = None, r0: Any = None, start: Any = 0) -> Solution:
    """A tensor ring of given ranks, or of the smallest that this algorithm finds for a tolerance.

    Use it to compress a tensor whose modes have no ends. The ranks that a ring needs depend on where it is opened and
    on how the first rank is split; try `start` and `r0`. Cost: O(n N) for N entries and sides n, then less. Given
    `rank`, JAX arrays can be jitted and vmapped.

    Parameters
    ----------
    tensor
        (n_0, …, n_{d-1}), d >= 2, real or complex.
    rank
        (r_0, …, r_{d-1}), the rank before each mode, counted from `start`; a further entry r_d must equal r_0. With s
        for `start`, r_0 r_1 is at most min(n_s, product of the others). Larger later ranks are cut to what the
        unfoldings have. Give this or `tol`.
    tol
        Relative error in the Frobenius norm that is not to be exceeded.
    r0
        With `tol`: r_0; by default the divisor of the first SVD's rank that lies closest below its root, so that r_0
        and r_1 are balanced. 1 gives a tensor train.
    start
        The mode at which the ring is opened: the answer for ``start=s`` is that for the modes shifted by s, with its
        cores shifted back.

    Returns
    -------
    Solution
        ``value``: a `TensorRing`. Certificates: ``"error_bound"`` (exact: error² <= Σ (discarded part of a step)²),
        ``"tolerance"`` (exact, with `tol`). ``stats``: ``relative_error``, measured by the residual; ``discarded``,
        the discarded part of each step over ‖X‖. ``status``: PRECISION where rounding hides `tol`.

    Raises
    ------
    InputError
        Unless exactly one of `rank` and `tol` is given; for ranks that the shape does not allow, `r0` with `rank`, or
        data that are not finite.

    Notes
    -----
    Steps project on orthonormal columns one after another, so their discarded parts are orthogonal and add up in
    squares. No bound against the best ring is known: rings of given ranks do not form a closed set (Landsberg, Qi & Ye,
    Quantum Inf. Comput. 12 (2012)). Nor does the algorithm find the smallest ring: the first step's singular vectors
    come in no particular order for the split into r_0 and r_1, so that even a tensor that is a ring of small ranks
    needs larger later ones; compare `stats` with those for ``r0=1``.
    Source: Zhao et al. (2016), Algorithm 1 and §2.2; Oseledets, SISC 33 (2011), Theorem 2.2, for the bound.

    Examples
    --------
    >>> import numpy as np
    >>> T = np.arange(24.0).reshape(4, 3, 2)
    >>> ring = tensor_ring(T, tol=1e-10).value
    >>> bool(np.allclose(ring.to_dense(), T))
    True
    """
    validation.number(0, 1, open_low=True, none=True)("tol", tol)
    validation.integer(1, none=True)("r0", r0)
    if (rank is None) == (tol is None):
        raise InputError(f"rank, tol: found rank={rank!r} and tol={tol!r}, expected exactly one of them")
    X = validation.tensor("tensor", tensor, low=2, complex=True, host=True)
    in_jax = isinstance(X, jax.Array)
    validation.integer(0)("start", start)
    if start >= X.ndim:
        raise InputError(f"start: found {start}, expected at most {X.ndim - 1} for a tensor of {X.ndim} modes")
    shape = X.shape[start:] + X.shape[:start]
    if rank is not None:
        if r0 is not None:
            raise InputError(f"r0: found {r0} beside `rank`, expected it with `tol`: the ranks begin with it")
        rank = _checked(rank, shape)
    else:
        if isinstance(X, Tracer):
            raise InputError("tol: found a traced tensor (under jit or vmap), expected `rank`, which has a fixed shape")
        most = min(shape[0], math.prod(shape[1:]))
        if r0 is not None and r0 > most:
            raise InputError(f"r0: found {r0}, expected at most {most} for a tensor opened as {shape}")
    if on_host(X):
        X = np.asarray(X)
    xp: Any = np if isinstance(X, np.ndarray) else jnp
    X = xp.moveaxis(X, range(start), range(X.ndim - start, X.ndim))
    solution = _decompose(X, rank, tol, r0, xp) if rank is None or xp is np else _compiled(X, rank)
    cores = solution.value.cores
    cores = cores[len(shape) - start :] + cores[: len(shape) - start]
    solution = Solution(TensorRing(cores), solution.certificates, solution.status, 0, solution.stats)
    if in_jax and xp is np:
        return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray | np.generic) else x, solution)
    return solution


def _checked(rank: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(r_0, …, r_{d-1}) that the first step allows."""
    if not isinstance(rank, Sequence | np.ndarray) or isinstance(rank, str):
        raise InputError(f"rank: found {rank!r}, expected a sequence of {len(shape)} ranks, r_0 first")
    ranks = [int(validation.integer(1)(f"rank[{i}]", r)) for i, r in enumerate(rank)]
    if len(ranks) == len(shape) + 1 and ranks[0] == ranks[-1]:
        ranks.pop()
    if len(ranks) != len(shape):
        raise InputError(f"rank: found {ranks}, expected {len(shape)} ranks, or one more that equals the first")
    most = min(shape[0], math.prod(shape[1:]))
    if ranks[0] * ranks[1] > most:
        raise InputError(
            f"rank: found r_0 r_1 = {ranks[0] * ranks[1]}, expected at most {most} for a tensor opened as {shape}"
        )
    return tuple(ranks)


@functools.partial(jax.jit, static_argnames="rank")
def _compiled(X: Any, rank: tuple[int, ...]) -> Solution:
    return _decompose(X, rank, None, None, jnp)


def _decompose(X: Any, rank: Any, tol: Any, r0: Any, xp: Any) -> Solution:
    """TR-SVD of a tensor opened at its first mode."""
    X, scale = scaled(X, xp)
    shape, total = X.shape, square(X, xp)
    d = len(shape)
    left = 0.0 if tol is None else tol**2 * float(total)
    A = X.reshape(shape[0], -1)
    if rank is None:
        U, tail = to_limit(A, left / (d - 1), xp)
        r0, U = _split(U, r0, xp)
        left, r1 = left - tail, U.shape[1] // r0
    else:
        r0, r1 = rank[:2]
        U, tail = leading(A, r0 * r1, xp)
    U = U * phases(U, xp)  # the split into r_0 and r_1 is not blind to signs: fix them
    tails, cores = [tail], [xp.moveaxis(U.reshape(shape[0], r0, r1), 0, 1)]
    rest = xp.moveaxis((adjoint(U) @ A).reshape(r0, -1), 0, 1)  # (r_1 n_1 …, r_0): r_0 goes to the last core
    for mode in range(1, d - 1):
        A = rest.reshape(cores[-1].shape[2] * shape[mode], -1)
        if rank is None:
            U, rest, tail = _within(A, left / (d - 1 - mode), xp)
            left = left - tail
        else:
            U, rest, tail = _cut(A, min(rank[mode + 1], *A.shape), xp)
        tails.append(tail)
        cores.append(U.reshape(-1, shape[mode], U.shape[1]))
    cores.append(rest.reshape(-1, shape[-1], r0) * scale)
    ring = TensorRing(tuple(cores))
    safe = xp.where(total > 0, total, 1)
    dense = TensorRing((*cores[:-1], cores[-1] / scale)).to_dense()
    error = xp.asarray(xp.sqrt(square(X - dense, xp) / safe), X.real.dtype)
    certificates = {"error_bound": _bound(X, error, [t / safe for t in tails], xp)}
    status = Status.of(True, xp.isfinite(error))
    if tol is not None:
        certificates["tolerance"] = Certificate(
            "‖X − T‖ <= tol ‖X‖", measured=error, bound=tol + floor(X), kind="exact", source="measured"
        )
        status = Status.PRECISION if float(error) > tol else status
    stats = {
        "relative_error": error,
        "discarded": xp.sqrt(xp.stack([xp.asarray(t) for t in tails]) / safe),
        "method": Note(f"TR-SVD with r_0 = {r0}"),
    }
    return Solution(ring, certificates, status, 0, stats)


def _split(U: Any, r0: Any, xp: Any) -> tuple[int, Any]:
    """r_0 and the basis, padded to a multiple of it by zero columns, which change nothing, where r_0 was asked for."""
    found = U.shape[1]
    if r0 is None:
        return max(k for k in range(1, math.isqrt(found) + 1) if found % k == 0), U
    short = -found % r0
    return r0, xp.concatenate([U, xp.zeros((U.shape[0], short), U.dtype)], axis=1) if short else U


def _cut(A: Any, rank: int, xp: Any) -> tuple[Any, Any, Any]:
    """A ≈ U (UᴴA) of the given rank, and the squared tail."""
    if A.shape[0] <= A.shape[1]:
        U, tail = leading(A, rank, xp)
        return U, adjoint(U) @ A, tail
    with calm(A, xp):
        U, s, Vh = xp.linalg.svd(A, full_matrices=False)
    return U[:, :rank], s[:rank, None] * Vh[:rank], xp.sum(xp.square(s[rank:]))


def _within(A: Any, limit: float, xp: Any) -> tuple[Any, Any, float]:
    """`_cut` at the smallest rank whose squared tail, rounding counted in, is within the limit."""
    if A.shape[0] <= A.shape[1]:
        U, tail = to_limit(A, limit, xp)
        return U, adjoint(U) @ A, tail
    with calm(A, xp):
        U, s, Vh = xp.linalg.svd(A, full_matrices=False)
    left = np.append(np.cumsum(np.asarray(s, float)[::-1] ** 2)[::-1][1:], 0.0)
    doubt = 16 * machine_eps(A) * math.sqrt(A.shape[1] * max(float(square(A, xp)), 0))
    fits = np.square(np.sqrt(left) + doubt) <= limit
    rank = int(np.argmax(fits)) + 1 if fits.any() else len(s)
    return U[:, :rank], s[:rank, None] * Vh[:rank], float(left[rank - 1])


def _bound(X: Any, error: Any, tails: list[Any], xp: Any) -> Certificate:
    """error² <= Σ tails², with their rounding."""
    tails = [t + tail_noise(X, t, False, xp) for t in tails]
    return Certificate(
        "‖X − T‖² <= Σ (discarded part of a step)², relative to ‖X‖²",
        measured=error,
        bound=xp.sqrt(functools.reduce(lambda a, b: a + b, tails)) + floor(X),
        kind="exact",
        source="orthogonal projections one after another; Oseledets, SISC 33 (2011), Theorem 2.2",
    )
