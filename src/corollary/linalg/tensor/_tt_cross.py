"""TT-cross: a tensor train of a function of d indices from few of its values.

Use it where the tensor could never be formed: a function on a grid in ten dimensions, a table behind a simulation.
The train interpolates the function on nested crosses of fibres. A sweep looks at every bond along a random column of
the two-site block, then along the row where the interpolation errs most on it, and adds the cross through the entry
where it errs most on that row; crosses are only added. It ends when the error at points that had no part in the choice
is within the tolerance. Cost: Σ r_{k-1} n_k r_k values for the answer, about twice that with the searches.

Source: Oseledets & Tyrtyshnikov, Linear Algebra Appl. 432 (2010); Savostyanov, Linear Algebra Appl. 458 (2014),
Algorithm 2; Núñez Fernández et al., Phys. Rev. X 12, 041018 (2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.stats
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.linalg.tensor._formats import TensorTrain
from corollary.linalg.tensor._tt_arithmetic import checked_shape
from corollary.linalg.tensor._tt_cores import small_blas
from corollary.linalg.tensor._tt_round import tt_round

RISK = 1e-3  # of a larger share of bad entries than the check says
LOOKS = 4  # at fresh points, before an answer is given for what it is


@follows_input
def tt_cross(
    function: Any,
    grid: Any,
    *,
    tol: Any = 1e-6,
    max_rank: Any = 100,
    max_steps: Any = 100,
    checks: Any = 500,
    key: Key[Array, ""],
) -> Solution:
    """Tensor train of a black-box function, from a number of its values linear in the dimension.

    Use it for functions of many variables on a grid, or of indices. It finds what crosses of fibres reveal: a function
    that is zero but at a few isolated entries is invisible to it, as to every method that samples.

    Parameters
    ----------
    function
        From a batch of points (m, d) to m numbers, real or complex: indices as integers where `grid` is a shape,
        coordinates where it is a sequence of axes. NumPy or JAX; a batch for a function that returns JAX arrays is
        padded to a power of two, so that a jitted one compiles a few times only.
    grid
        (n_0, …, n_{d-1}), or d vectors of coordinates.
    tol
        Relative root-mean-square error at points that had no part in the choice.
    max_rank
        Of any bond.
    max_steps
        Sweeps; each adds at most a few crosses to each bond.
    checks
        Points that steer the stopping, at least 200; as many fresh ones certify the result. Where these disagree they
        join the first, and others certify, at most four times; the confidence counts all looks.
    key
        `jax.random.key`.

    Returns
    -------
    Solution
        ``value``: `TensorTrain`. Certificates: ``"held_out"`` (probabilistic: an upper limit of the share of entries
        that err by more than 10 tol, in units of the root mean square at the points that steered, held against 5%; an
        error of tol in the mean square leaves at most 1%), and ``"relative_error"`` (estimate with its standard error,
        in the same units). ``stats``: ``evaluations``, ``pivot_error`` (the largest last error at a cross, relative),
        ``scale`` (that root mean square). ``status``: MAX_STEPS where the tolerance was not reached.

    Raises
    ------
    InputError
        For a grid of fewer than two modes of more than one entry, a tolerance that is not positive, or a function that
        returns other than m finite numbers.

    Notes
    -----
    The train equals the function on every fibre of its crosses. Source: see the module.

    Examples
    --------
    >>> import jax, numpy as np
    >>> axes = [np.linspace(0, 1, 16)] * 6
    >>> solution = tt_cross(lambda x: np.sin(x.sum(axis=1)), axes, tol=1e-10, key=jax.random.key(0))
    >>> solution.value.rank, bool(solution.holds), solution.stats["evaluations"] < 5000
    ((1, 2, 2, 2, 2, 2, 1), True, True)
    """
    validation.number(0, open_low=True)("tol", tol)
    validation.integer(1)("max_rank", max_rank)
    validation.integer(1)("max_steps", max_steps)
    validation.integer(200)("checks", checks)
    if not callable(function):
        raise InputError(f"function: found {type(function).__name__}, expected a function of a batch of points")
    whole, axes = _grid(grid)
    keep = [k for k, n in enumerate(whole) if n > 1]  # a mode of one entry would only stand in the way of the searches
    if len(keep) < 2:
        raise InputError(f"grid: found modes {whole}, expected at least two of more than one entry")
    shape = tuple(whole[k] for k in keep)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    values = _Values(function, whole, keep, axes)
    test = np.stack([rng.integers(0, n, checks) for n in shape], axis=1)
    truth = values(test)
    cross = _Cross(values, shape, test[np.argmax(np.abs(truth))], rng)
    scale = _rms(truth) or cross.largest
    threshold, error, steps, idle, looks = tol, np.inf, 0, 0, 0
    final: _Look | None = None
    for step in range(1, max_steps + 1):
        steps = step
        limit = threshold * max(scale, np.finfo(float).tiny)
        added = cross.sweep(limit, max_rank, forward=step % 2 == 1)
        if added and step % 2:
            idle = 0
            continue
        train = cross.train()
        difference = np.abs(train.entries(test) - truth)
        error = _rms(difference) / scale if scale > 0 else 0.0
        if error <= tol:
            final = _look(cross, values, rng, tol, checks, scale)
            looks += 1
            if final.error <= tol or looks == LOOKS:
                break
            # The points that steered were too kind: the fresh ones join them, and others will certify.
            test, truth = np.concatenate([test, final.points]), np.concatenate([truth, final.truth])
            scale, difference = _rms(truth), np.abs(train.entries(test) - truth)
        idle = 0 if added else idle + 1
        if idle:  # nothing was found above the threshold, and yet the points disagree: start from the worst of them
            if threshold < 4 * values.eps or all(cross.full(k, max_rank) for k in range(1, len(shape))):
                break
            if idle > 2:
                threshold, idle = max(threshold / 10, 2 * values.eps), 0
            cross.seed = test[int(np.argmax(difference))]
        final = None
    return _answer(cross, values, final or _look(cross, values, rng, tol, checks, scale), tol, steps, error)


def _rms(values: np.ndarray) -> float:
    """Root mean square, whose squares neither overflow nor vanish."""
    sizes = np.abs(values).astype(np.float64)
    top = float(sizes.max())
    return top * math.sqrt(float(np.mean((sizes / top) ** 2))) if top > 0 else 0.0


class _Look(NamedTuple):
    """A candidate and its errors at points that it has not met."""

    train: TensorTrain
    points: np.ndarray
    truth: np.ndarray
    squares: np.ndarray
    scale: float

    @property
    def error(self) -> float:
        """Root mean square, relative."""
        return math.sqrt(float(np.mean(self.squares)))


def _look(cross: _Cross, values: _Values, rng: np.random.Generator, tol: float, checks: int, scale: float) -> _Look:
    """Superfluous ranks rounded away, and the error at fresh points, in units that these had no part in."""
    train = cross.train()
    reduced = tt_round(train, tol=tol / 10)
    if float(reduced.stats["relative_error"]) <= tol / 5:
        train = reduced.value
    points = np.stack([rng.integers(0, n, checks) for n in train.shape], axis=1)
    truth = values(points)
    scale = scale or _rms(truth) or 1.0  # nothing but zeros so far
    errors = np.abs(train.entries(points) - truth).astype(np.float64) / scale
    return _Look(train, points, truth, errors**2, scale)


def _answer(cross: _Cross, values: _Values, look: _Look, tol: float, steps: int, error: float) -> Solution:
    """The certificates of the last look; its risk is shared among as many looks as there may be."""
    train, measured, checks = look.train, look.error, len(look.truth)
    spread = float(np.std(look.squares)) / math.sqrt(checks) / (2 * measured) if measured > 0 else 0.0
    bad = int(np.sum(look.squares > (10 * tol) ** 2))
    certificates = {
        "held_out": Certificate(
            "the share of entries that err by more than 10 tol times the root mean square at the points that steered",
            measured=float(scipy.stats.beta.ppf(1 - RISK / LOOKS, bad + 1, checks - bad)),
            bound=0.05,
            kind="probabilistic",
            confidence=1 - RISK,
            source=f"Clopper & Pearson (1934), from {bad} of {checks} fresh points",
        ),
        "relative_error": Certificate(
            "root mean square error at fresh points over the function's root mean square at the points that steered",
            measured=measured,
            stderr=spread,
            kind="estimate",
            source=f"{checks} uniform points that had no part in the choice",
        ),
    }
    if len(values.keep) < len(values.shape):
        train = _with_ones(train, values.shape)
    status = Status.CONVERGED if measured <= tol + 64 * values.eps else Status.MAX_STEPS
    stats = {
        "evaluations": values.count,
        "pivot_error": cross.last_error / look.scale,
        "scale": look.scale,
        "rank": train.rank,
        "check_error": error,
    }
    solution = Solution(train, certificates, np.int32(status), steps, stats)
    return jax.tree.map(jnp.asarray, solution) if values.in_jax else solution


def _with_ones(train: TensorTrain, shape: tuple[int, ...]) -> TensorTrain:
    """The modes of one entry put back, as identities."""
    rest, cores, rank = list(train.cores), [], 1
    for n in shape:
        cores.append(rest.pop(0) if n > 1 else np.eye(rank, dtype=train.cores[0].dtype)[:, None, :])
        rank = cores[-1].shape[2]
    return TensorTrain(tuple(cores))


def _grid(grid: Any) -> tuple[tuple[int, ...], list[np.ndarray] | None]:
    """The shape, and the axes where coordinates were given."""
    if not isinstance(grid, Sequence | np.ndarray) or len(grid) < 2:
        raise InputError(f"grid: found {grid!r}, expected a shape or a sequence of axes of at least two modes")
    if np.ndim(grid[0]) == 0:
        return checked_shape(tuple(grid)), None
    axes = [np.asarray(validation.vector(f"grid[{k}]", a, host=True)) for k, a in enumerate(grid)]
    return tuple(len(a) for a in axes), axes


class _Values:
    """The function on indices, counted and checked."""

    def __init__(
        self, function: Callable[[Any], Any], shape: tuple[int, ...], keep: list[int], axes: list[np.ndarray] | None
    ):
        self.function, self.shape, self.keep, self.axes = function, shape, keep, axes
        self.count, self.in_jax, self.eps = 0, False, float(np.finfo(np.float64).eps)
        self.dtype: Any = None

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        m = len(indices)
        if self.in_jax:
            wide = 1 << max(6, (m - 1).bit_length())
            indices = np.concatenate([indices, np.broadcast_to(indices[:1], (wide - m, indices.shape[1]))])
        if len(self.keep) < len(self.shape):
            short, indices = indices, np.zeros((len(indices), len(self.shape)), np.int64)
            indices[:, self.keep] = short
        points: Any = indices
        if self.axes is not None:
            points = np.stack([a[indices[:, k]] for k, a in enumerate(self.axes)], axis=1)
        found = self.function(points)
        if isinstance(found, jax.Array):
            self.in_jax = True
        array = np.asarray(found)
        if array.shape != (len(indices),) or array.dtype.kind not in "buifc":
            raise InputError(
                f"function: found an array of shape {array.shape} and dtype {array.dtype}, expected {len(indices)} "
                "numbers, one for each point"
            )
        if array.dtype.kind in "bui":
            array = array.astype(np.float64)
        if self.dtype is None:
            self.dtype, self.eps = array.dtype, float(np.finfo(array.dtype).eps)
        array = array[:m]
        if not np.isfinite(array).all():
            bad = points[int(np.argmin(np.isfinite(array)))]
            raise InputError(f"function: found NaN or infinity at {bad}, expected finite numbers")
        self.count += m
        return array


class _Cross:
    """Nested crosses: rows I_k of multi-indices left of a bond, columns J_k right of it, and the cores between them.

    ``cores[k]`` holds the values at I_k × i_k × J_{k+1}; bond k lies left of core k; bonds 0 and d are trivial.
    """

    def __init__(self, values: _Values, shape: tuple[int, ...], start: np.ndarray, rng: np.random.Generator):
        self.values, self.shape, self.rng, d = values, shape, rng, len(shape)
        self.I = [start[None, :k].astype(np.int64) for k in range(d + 1)]
        self.J = [start[None, k:].astype(np.int64) for k in range(d + 1)]
        # where a row of bond k + 1 lies in the matrix (rows of bond k) × n_k, and a column of bond k likewise
        self.rows: list[list[int]] = [[int(start[k])] for k in range(d)]
        self.columns: list[list[int]] = [[int(start[k])] for k in range(d)]
        self.cores = [values(self._block(self.I[k], self.J[k + 1], k)).reshape(1, n, 1) for k, n in enumerate(shape)]
        self.largest = max(float(np.abs(c).max()) for c in self.cores)
        self.last_error = 0.0
        self.seed: np.ndarray | None = None  # a point where the train is known to be wrong

    def full(self, k: int, max_rank: int) -> bool:
        """Whether bond k has as many crosses as it may, or as the cores beside it have rows and columns."""
        return len(self.I[k]) >= min(max_rank, self.cores[k - 1][..., 0].size, self.cores[k][0].size)

    def _block(self, I: np.ndarray, J: np.ndarray, k: int) -> np.ndarray:
        """Indices I × i_k × J in C order."""
        n, (a, b) = self.shape[k], (len(I), len(J))
        left = np.repeat(I, n * b, axis=0)
        middle = np.tile(np.repeat(np.arange(n), b), a)[:, None]
        return np.concatenate([left, middle, np.tile(J, (a * n, 1))], axis=1)

    def sweep(self, limit: float, max_rank: int, *, forward: bool) -> int:
        """One look at every bond; how many crosses were added."""
        d, added, self.last_error = len(self.shape), 0, 0.0
        for bond in range(1, d) if forward else range(d - 1, 0, -1):
            if forward and self.seed is not None and not self.full(bond, max_rank):
                added += self._seeded(bond, limit)
            if not self.full(bond, max_rank):
                added += self._improve(bond, limit)
        self.seed = None if forward else self.seed
        return added

    def _seeded(self, k: int, limit: float) -> bool:
        """The cross through the row of the point that the train misses, where its left part is still among the rows."""
        assert self.seed is not None
        found = np.flatnonzero((self.I[k - 1] == self.seed[: k - 1]).all(axis=1))
        if not len(found):
            return False
        row = int(found[0]) * self.shape[k - 1] + int(self.seed[k - 1])
        if row in self.rows[k - 1]:
            return False
        right = self.cores[k]
        line, columns = self._row(k, row), self.columns[k]
        error = np.abs(line - line[columns] @ _interpolation(right.reshape(right.shape[0], -1).T, columns).T)
        column = int(np.argmax(error))
        if error[column] <= limit:
            return False
        self._add(k, row, column, self._column(k, column), line)
        return True

    def _improve(self, k: int, limit: float) -> bool:
        """A random column of the block around bond k, its worst row, and the cross through the worst entry of that."""
        left, right = self.cores[k - 1], self.cores[k]
        (a, n, r), (_, m, b) = left.shape, right.shape
        W = _interpolation(left.reshape(a * n, r), self.rows[k - 1])
        V = _interpolation(right.reshape(r, m * b).T, self.columns[k]).T
        column = int(self.rng.integers(m * b))
        values = self._column(k, column)
        error = np.abs(values - W @ values[self.rows[k - 1]])
        row = int(np.argmax(error))
        if error[row] == 0:
            return False
        line = self._row(k, row)
        error = np.abs(line - line[self.columns[k]] @ V)
        worst = int(np.argmax(error))
        self.last_error = max(self.last_error, float(error[worst]))
        if error[worst] <= limit:
            return False
        self._add(k, row, worst, values if worst == column else self._column(k, worst), line)
        return True

    def _column(self, k: int, column: int) -> np.ndarray:
        """The values at (I_{k-1} × i_{k-1}) × one right index."""
        i, j = divmod(column, len(self.J[k + 1]))
        return self.values(self._block(self.I[k - 1], np.concatenate([[i], self.J[k + 1][j]])[None], k - 1))

    def _row(self, k: int, row: int) -> np.ndarray:
        """The values at one left index × (i_k × J_{k+1})."""
        i, j = divmod(row, self.shape[k - 1])
        return self.values(self._block(np.concatenate([self.I[k - 1][i], [j]])[None], self.J[k + 1], k))

    def _add(self, k: int, row: int, column: int, values: np.ndarray, line: np.ndarray) -> None:
        """A row and a column more at bond k: one column more of the core before it, one row more of the core after."""
        a, n, r = self.cores[k - 1].shape
        _, m, b = self.cores[k].shape
        self.cores[k - 1] = np.concatenate([self.cores[k - 1], values.reshape(a, n, 1)], axis=2)
        self.cores[k] = np.concatenate([self.cores[k], line.reshape(1, m, b)], axis=0)
        i, j = divmod(row, n)
        self.I[k] = np.concatenate([self.I[k], np.concatenate([self.I[k - 1][i], [j]])[None]])
        i, j = divmod(column, b)
        self.J[k] = np.concatenate([self.J[k], np.concatenate([[i], self.J[k + 1][j]])[None]])
        self.rows[k - 1].append(row)
        self.columns[k].append(column)
        # Columns of the core before bond k − 1's matrix are numbered i · (columns of bond k) + j: one more of them now.
        if k > 1:
            self.columns[k - 1] = [(c // r) * (r + 1) + c % r for c in self.columns[k - 1]]

    def train(self) -> TensorTrain:
        """Cores times the inverses of the crosses' blocks, through QR: entries of modest size."""
        cores = []
        for k, core in enumerate(self.cores[:-1]):
            a, n, r = core.shape
            cores.append(_interpolation(core.reshape(a * n, r), self.rows[k]).reshape(a, n, r))
        return TensorTrain((*cores, self.cores[-1]))


def _interpolation(matrix: np.ndarray, rows: list[int]) -> np.ndarray:
    """M M[rows]⁻¹ from an orthonormal basis of M's columns."""
    with small_blas(matrix.shape[1]), np.errstate(all="ignore"):
        Q = np.linalg.qr(matrix)[0]
        found: Any = scipy.linalg.lstsq(Q[rows].T, Q.T, lapack_driver="gelsy", check_finite=False)
    return found[0].T
