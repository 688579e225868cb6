"""Tensor-train completion: a train of small ranks through some observed entries of a tensor.

Use it for tables of many modes of which few entries are known, in coordinate form; for a dense array with gaps first
take the indices of what is there. Alternating least squares over the cores, each slice from the entries that fall into
it, always by the smallest correction of what stands; ranks grow from one by columns that change nothing until the next
solve, so that the misfit never rises. Part of the entries is held out and says how far to trust the rest. Cost: a
sweep O(m d r⁴) for m entries. There is no guarantee: entries must see every slice often, and r² n d ≪ m.

Source: Grasedyck, Kluge & Krämer, Variants of Alternating Least Squares Tensor Completion in the Tensor Train Format,
SIAM J. Sci. Comput. 37 (2015), §2-3.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.linalg.tensor._formats import TensorTrain
from corollary.linalg.tensor._tt_arithmetic import checked_ranks, checked_shape
from corollary.linalg.tensor._tt_cores import small_blas

SOURCE = "Grasedyck, Kluge & Krämer, SIAM J. Sci. Comput. 37 (2015)"


@follows_input
def tt_complete(
    indices: Any,
    values: Any,
    shape: Any,
    *,
    rank: Any,
    tol: Any = 1e-6,
    max_steps: Any = 100,
    holdout: Any = 0.1,
    starts: Any = 3,
    key: Key[Array, ""],
) -> Solution:
    """Tensor train of given ranks through observed entries.

    Parameters
    ----------
    indices
        (m, d) integers, 0 <= indices[:, k] < n_k; repeated ones are averaged by the fit.
    values
        (m,), real or complex.
    shape
        (n_0, …, n_{d-1}).
    rank
        The largest inner rank, or the d − 1 inner ranks.
    tol
        Root mean square misfit at the fitted entries, relative to theirs.
    max_steps
        Sweeps there and back at the final ranks, and at most a fifth of it for every smaller rank.
    holdout
        Share of the entries that the fit does not see, in [0, 0.5]; an entry goes with all its repetitions.
    starts
        Random starts; the search ends with the first that reaches `tol`, else the least misfit is the answer.
    key
        `jax.random.key`, for what is held out and for the start.

    Returns
    -------
    Solution
        ``value``: `TensorTrain`. Certificates: ``"misfit"`` (exact: the measured relative misfit, against `tol`),
        ``"monotone"`` (monitor: no solve raised it), ``"held_out"`` (estimate with standard error: the relative error
        at entries not seen; absent where none are held out). ``history``: ``misfit`` after each sweep. ``status``:
        MAX_STEPS where `tol` was not reached.

    Raises
    ------
    InputError
        For indices outside the shape or not integers, values that are not m finite numbers, ranks out of range.

    Examples
    --------
    >>> import jax, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> i = rng.integers(0, 8, (300, 3))
    >>> solution = tt_complete(i, 1.0 + i.sum(axis=1), (8, 8, 8), rank=2, key=jax.random.key(0))
    >>> bool(solution.holds), round(float(solution.value.entries(np.array([[7, 7, 7]]))[0]), 3)
    (True, 22.0)
    """
    shape = checked_shape(shape)
    if len(shape) < 2:
        raise InputError(f"shape: found {shape}, expected at least two modes")
    ranks = checked_ranks(rank, shape)
    validation.number(0)("tol", tol)
    validation.integer(1)("max_steps", max_steps)
    validation.integer(1)("starts", starts)
    validation.number(0, 0.5)("holdout", holdout)
    i, v = _observed(indices, values, shape)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    cells = np.unique(i, axis=0, return_inverse=True)[1].ravel()
    order = rng.permutation(int(cells.max()) + 1)
    held = order[: int(holdout * len(order))]  # with all their repetitions: one that the fit sees would tell
    unseen = np.isin(cells, held)
    seen = ~unseen
    top = float(np.abs(v).max()) or 1.0
    unit = np.asarray(1 / top, v.real.dtype)
    fit: Any = None
    for _ in range(starts):
        tried = _Fit(i[seen], v[seen] * unit, shape, rng)
        with small_blas(max(ranks) ** 2):
            tried.run(ranks, tol, max_steps)
        fit = tried if fit is None or tried.misfits[-1] < fit.misfits[-1] else fit
        if fit.misfits[-1] <= tol:
            break
    train = TensorTrain((fit.cores[0] * np.asarray(top, v.real.dtype), *fit.cores[1:]))
    solution = _certified(train, fit, i[unseen], v[unseen], len(held), tol)
    return jax.tree.map(jnp.asarray, solution) if isinstance(values, jax.Array) else solution


def _observed(indices: Any, values: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, Any]:
    i = np.asarray(indices)
    if i.ndim != 2 or i.shape[1] != len(shape) or i.dtype.kind not in "iu":
        raise InputError(f"indices: found shape {i.shape} and dtype {i.dtype}, expected (m, {len(shape)}) integers")
    if len(i) and (i.min() < 0 or np.any(i.max(axis=0) >= shape)):
        raise InputError(f"indices: found from {i.min(axis=0)} to {i.max(axis=0)}, expected 0 <= i < {shape}")
    v = np.asarray(validation.tensor("values", values, complex=True, host=True))
    if v.shape != (len(i),):
        raise InputError(f"values: found shape {v.shape}, expected ({len(i)},) as the rows of indices")
    return i.astype(np.int64), v


def _certified(train: TensorTrain, fit: _Fit, indices: Any, values: Any, cells: int, tol: float) -> Solution:
    eps = float(np.finfo(fit.v.dtype).eps)
    rounding = 64 * len(train.cores) * eps
    misfits = np.array(fit.misfits)
    certificates = {
        "misfit": Certificate(
            "root mean square misfit at the fitted entries, relative to theirs, <= tol",
            measured=fit.misfit(),
            bound=tol + rounding,
            kind="exact",
            source="measured entry by entry",
        ),
        "monotone": Certificate(
            "no solve for a core raised the misfit",
            measured=float(np.max(np.diff(misfits), initial=0.0)),
            bound=rounding,
            kind="monitor",
            source=f"{SOURCE}, §2.2",
        ),
    }
    if len(values):
        scale = math.sqrt(float(np.mean(np.abs(values) ** 2))) or 1.0
        squares = (np.abs(train.entries(indices) - values) / scale) ** 2
        error = math.sqrt(float(np.mean(squares)))
        spread = float(np.std(squares)) / math.sqrt(cells) / (2 * error) if error > 0 else 0.0
        certificates["held_out"] = Certificate(
            "relative error at the entries held out",
            measured=error,
            stderr=spread,
            kind="estimate",
            source=f"{cells} entries that the fit has not seen",
        )
    status = Status.CONVERGED if bool(certificates["misfit"].holds) else Status.MAX_STEPS
    stats = {"rank": train.rank, "unknowns": train.size, "entries": len(fit.v)}
    return Solution(train, certificates, np.int32(status), fit.steps, stats, {"misfit": np.array(fit.trace)})


class _Fit:
    """Entries, cores, and the products of the cores left and right of each one at every entry."""

    def __init__(self, i: np.ndarray, v: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator):
        self.i, self.v, self.shape, self.rng = i, v, shape, rng
        self.norm = float(np.linalg.norm(v)) or 1.0
        self.slices = []  # for each mode, the entries of each slice
        for k, n in enumerate(shape):
            order = np.argsort(i[:, k], kind="stable")
            self.slices.append(np.split(order, np.searchsorted(i[order, k], np.arange(1, n))))
        level = float(np.mean(np.abs(v))) ** (1 / len(shape))
        self.cores: list[Any] = [np.full((1, n, 1), level, v.dtype) for n in shape]
        self.steps = 0
        self.misfits, self.trace = [self.misfit()], []

    def misfit(self) -> float:
        """Relative to the entries."""
        return float(np.linalg.norm(TensorTrain(tuple(self.cores)).entries(self.i) - self.v)) / self.norm

    def run(self, ranks: tuple[int, ...], tol: float, max_steps: int) -> None:
        """Ranks from one upwards, a few sweeps at each."""
        for r in range(1, max(ranks) + 1):
            if r > 1:
                self._widen(tuple(min(r, s) for s in ranks))
            sweeps = max_steps if r == max(ranks) else max(1, max_steps // 5)
            for _ in range(sweeps):
                before = self.misfits[-1]
                self._there_and_back()
                self.steps += 1
                self.trace.append(self.misfits[-1])
                if self.misfits[-1] <= tol:
                    return
                if before - self.misfits[-1] <= (0.03 if r < max(ranks) else 1e-5) * before:
                    break

    def _widen(self, ranks: tuple[int, ...]) -> None:
        """Larger ranks, the same tensor: new columns are random, the rows that they meet are zero."""
        full = (1, *ranks, 1)
        for k, core in enumerate(self.cores):
            a, n, b = core.shape
            wide = np.zeros((full[k], n, full[k + 1]), core.dtype)
            wide[:a, :, :b] = core
            size = float(np.linalg.norm(core)) / math.sqrt(core.size)
            wide[:a, :, b:] = size * self.rng.standard_normal((a, n, full[k + 1] - b))
            self.cores[k] = wide

    def _there_and_back(self) -> None:
        d, one = len(self.shape), np.ones((len(self.v), 1), self.v.dtype)
        left = [one]
        for k in range(d - 1):
            left.append(self._step(left[-1], k))
        right = one
        for k in range(d - 1, 0, -1):
            self._solve(k, left[k], right)
            a, n, b = self.cores[k].shape
            Q, R = np.linalg.qr(self.cores[k].reshape(a, n * b).conj().T)
            if len(R) == a:  # else the rank exceeds the sizes for the moment: keep the core
                self.cores[k] = Q.conj().T.reshape(a, n, b)
                self.cores[k - 1] = np.tensordot(self.cores[k - 1], R.conj().T, axes=([2], [0]))
            right = np.einsum("msb,mb->ms", self._at(k), right)
        rights = [one]
        for k in range(d - 1, 0, -1):
            rights.append(np.einsum("msb,mb->ms", self._at(k), rights[-1]))
        here = one
        for k in range(d):
            self._solve(k, here, rights[d - 1 - k])
            if k < d - 1:
                a, n, b = self.cores[k].shape
                Q, R = np.linalg.qr(self.cores[k].reshape(a * n, b))
                if len(R) == b:
                    self.cores[k] = Q.reshape(a, n, b)
                    self.cores[k + 1] = np.tensordot(R, self.cores[k + 1], axes=([1], [0]))
                here = self._step(here, k)

    def _at(self, k: int) -> Any:
        """The slice of core k for every entry, (m, a, b)."""
        return np.moveaxis(self.cores[k][:, self.i[:, k], :], 1, 0)

    def _step(self, left: Any, k: int) -> Any:
        return np.einsum("ma,mas->ms", left, self._at(k))

    def _solve(self, k: int, left: Any, right: Any) -> None:
        """Least squares for each slice of core k, by the smallest correction."""
        a, _, b = self.cores[k].shape
        core = self.cores[k].copy()
        total = 0.0
        for j, entries in enumerate(self.slices[k]):
            if not len(entries):
                continue
            D = (left[entries][:, :, None] * right[entries][:, None, :]).reshape(len(entries), a * b)
            rest = self.v[entries] - D @ core[:, j, :].ravel()
            found: Any = scipy.linalg.lstsq(D, rest, cond=None, lapack_driver="gelsy", check_finite=False)
            after = rest - D @ found[0]
            if np.linalg.norm(after) <= np.linalg.norm(rest):
                core[:, j, :] += found[0].reshape(a, b)
                rest = after
            total += float(np.linalg.norm(rest)) ** 2
        self.cores[k] = core
        self.misfits.append(math.sqrt(total) / self.norm)
