"""The weighted, centred design X̃ = √w (X − 1 x̄ᵀ) of a linear regression, and the few products that its methods need.

`Rows` works on the host from NumPy or SciPy sparse data: blocks of rows go through BLAS on all cores, X is neither
copied nor densified, and a column that is constant stays exactly zero. `Whole` is the same in JAX, to be jitted,
vmapped and differentiated. Cost: one pass over X per call.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.core import Tracer
from threadpoolctl import threadpool_limits

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import common_float

BLOCK = 2**18  # entries of a block: it stays in cache between its passes
SMALL = 2**20  # entries of X below which threads cost more than they bring


def design(X: Any, Y: Any, sample_weight: Any = None, fit_intercept: bool = True) -> Rows | Whole:
    """`Whole` where an argument is a JAX array, else `Rows`; bad input is refused by name."""
    validation.flag("fit_intercept", fit_intercept)
    if any(isinstance(a, jax.Array) for a in (X, Y, sample_weight)):
        return Whole(X, Y, sample_weight, fit_intercept)
    return Rows(X, Y, sample_weight, fit_intercept)


class Rows:
    """The design on the host. Products are float64 (`gram` alone may run in float32); shapes: X n×p, Y n×k."""

    xp = np

    def __init__(self, X: Any, Y: Any, sample_weight: Any, fit_intercept: bool):
        self.sparse = scipy.sparse.issparse(X)
        X = scipy.sparse.csr_array(X) if self.sparse else _array("X", X, (2,))
        Y = np.zeros(X.shape[0], X.dtype) if Y is None else _array("y", Y, (1, 2))
        if 0 in X.shape or 0 in Y.shape:
            raise InputError(f"X, y: found shapes {X.shape} and {Y.shape}, expected at least one row and one column")
        validation.same_length("X", X, "y", Y)
        if X.dtype.kind not in "buif":  # a sparse matrix of something else
            raise InputError(f"X: found dtype {X.dtype}, expected real numbers")
        self.dtype = X.dtype if X.dtype in (np.float32, np.float64) else np.dtype(np.float64)
        if not np.isfinite(Y).all():
            raise InputError("y: found NaN or infinity, expected finite numbers")
        (self.n, self.p), self.one_target = X.shape, Y.ndim == 1
        self.fit_intercept, self.scale = fit_intercept, 1.0
        self.weights = None if sample_weight is None else _weights(sample_weight, self.n)
        self.total = float(self.n if self.weights is None else self.weights.sum())
        self.root = None if self.weights is None else np.sqrt(self.weights)
        Y = Y.reshape(self.n, -1).astype(np.float64)
        self.y_scale = _power_of_two(np.abs(Y).max())
        Y *= self.y_scale
        self.y_raw, self.k = Y, Y.shape[1]
        self.y_mean = np.average(Y, axis=0, weights=self.weights) if fit_intercept else np.zeros(self.k)
        root = np.ones(self.n) if self.root is None else self.root
        self.Y = (Y - self.y_mean) * root[:, None]
        self.root_column = root[:, None]
        self.columns = np.column_stack([root, self.Y])
        if self.sparse:
            self.X = X.astype(self.dtype)
            if self.root is not None:
                self.X = (scipy.sparse.diags_array(self.root.astype(self.dtype)) @ self.X).tocsr()
        else:
            self.X = X
        # Shift by an entry near each column's middle: sums then cancel nothing, and a constant column is exactly 0.
        self.shift = _middle(X, self.dtype) if fit_intercept and not self.sparse else None
        self.offset = np.zeros(self.p)  # x̄ − shift, once known
        self.norm2 = np.inf
        self.gram_error = self.gram_bound = np.inf

    @property
    def wide(self) -> bool:
        """Whether X̃ has at most as many independent rows as columns (centring takes one)."""
        return self.n - self.fit_intercept <= self.p

    @property
    def x_mean(self) -> np.ndarray:
        """x̄ in the (scaled) units of the products; zero without intercept."""
        return self.offset if self.shift is None else self.offset + self.shift.astype(np.float64) * self.scale

    def gram(self, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
        """X̃ᵀX̃ and X̃ᵀỸ, summed over blocks in float64; also finds x̄, ‖X̃‖_F² and the rounding of the Gram matrix."""

        def work(block: Any, rows: slice) -> list[Any]:
            square = block.T @ block
            return [square.toarray() if self.sparse else square, block.T @ self.columns[rows].astype(dtype)]

        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            square, cross = self._sum(work, dtype, whole=self.sparse)
        top = np.diag(square).max(initial=0.0)
        low = 1e-200 if dtype == np.float64 else 1e-25
        healthy = np.isfinite(square).all() and np.isfinite(cross).all() and top > low
        if not healthy and (self._rescale() or dtype != np.float64):  # float64 may need no scale where float32 does
            return self.gram(np.float64)
        self._set_offset(cross[:, 0])
        square -= self.total * np.outer(self.offset, self.offset)
        moment = cross[:, 1:] - np.outer(self.offset, self.columns[:, 0] @ self.Y)
        self.norm2 = max(float(np.trace(square)), 0.0)
        eps = float(np.finfo(dtype).eps)
        size = self.norm2 + self.total * float(self.offset @ self.offset)
        self.gram_error = 8 * eps * size  # what to expect
        steps = self._step * eps + (self.n / self._step + self.p) * float(np.finfo(np.float64).eps)
        self.gram_bound = (
            2 * steps * size
        )  # what can happen, eigh included: blocks in their precision, their sum in float64
        return square, moment

    def outer(self) -> np.ndarray:
        """X̃X̃ᵀ, n×n, over blocks of columns: for wide data."""
        self._find_mean()
        if self.sparse:
            square = (self.X @ self.X.T).toarray().astype(np.float64) * self.scale**2
            root = self.columns[:, 0]
            cross = np.outer(self.scale * (self.X @ self.x_mean), root)
            return square - cross - cross.T + float(self.x_mean @ self.x_mean) * np.outer(root, root)
        step, total = max(1, BLOCK // self.n), np.zeros((self.n, self.n))
        for i in range(0, self.p, step):
            block = self._dense(slice(0, self.n), slice(i, i + step))
            total += block @ block.T
        return total

    def gradient(self, coef: np.ndarray, penalty: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """X̃ᵀ(ỹ − X̃ β) − α β and ‖ỹ − X̃ β‖² for columns β (each target's, alpha after alpha), in float64."""
        repeats, middle = coef.shape[1] // self.k, self.offset @ coef

        def work(block: Any, rows: slice) -> list[Any]:
            residual = np.tile(self.Y[rows], (1, repeats)) - block @ coef + self.columns[rows, :1] * middle
            columns = np.concatenate([self.columns[rows, :1], residual], axis=1)
            return [block.T @ columns, self.columns[rows, 0] @ residual, np.einsum("ij,ij->j", residual, residual)]

        cross, total, rss = self._sum(work, np.float64)
        self._set_offset(cross[:, 0])
        if self.fit_intercept:  # x̄ may have come from float32 sums: the residual is centred exactly only here
            cross[:, 1:] -= np.outer(self.offset, total)
            rss = np.maximum(rss - total**2 / self.total, 0.0)
        return cross[:, 1:] - penalty * coef, rss

    def residual(self, coef: np.ndarray) -> np.ndarray:
        """Ỹ − X̃ β, n×q."""
        return self.rotated(coef, np.zeros((coef.shape[1], 0)), np.eye(coef.shape[1]))[1]

    def rotated(self, right: np.ndarray, weight: np.ndarray, amount: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For Z = X̃ V: row sums Z² F and residuals Ỹ − Z T, one pass, Z never kept."""
        repeats = amount.shape[1] // self.k
        sums, residual = np.empty((self.n, weight.shape[1])), np.empty((self.n, amount.shape[1]))
        middle = self.offset @ right

        def work(block: Any, rows: slice) -> list[Any]:
            z = block @ right
            if self.fit_intercept:
                z -= np.outer(self.columns[rows, 0], middle)
            residual[rows] = np.tile(self.Y[rows], (1, repeats)) - z @ amount
            np.square(z, out=z)
            sums[rows] = z @ weight
            return []

        self._sum(work, np.float64)
        return sums, residual

    def triangle(self) -> np.ndarray:
        """R of [X̃ Ỹ] = QR by blocks of rows (backward stable, Q never formed): (p+k)×(p+k) or fewer rows."""
        self._find_mean()
        states: dict[int, np.ndarray] = {}

        def work(block: Any, rows: slice) -> list[Any]:
            block = block.toarray() if self.sparse else block
            block = np.column_stack([block - np.outer(self.columns[rows, 0], self.offset), self.Y[rows]])
            key = rows.start // self._step % self._threads
            states[key] = _triangle(np.concatenate([states[key], block]) if key in states else block)
            return []

        self._sum(work, np.float64)
        return _triangle(np.concatenate(list(states.values())))

    def matrix(self) -> np.ndarray:
        """X̃ as a dense array: a copy, for small or wide data."""
        self._find_mean()
        if self.sparse:
            return self.X.toarray() * self.scale - np.outer(self.columns[:, 0], self.offset)
        return self._dense(slice(0, self.n), slice(0, self.p))

    def adjoint(self, left: np.ndarray) -> np.ndarray:
        """X̃ᵀ U."""

        def work(block: Any, rows: slice) -> list[Any]:
            return [block.T @ left[rows]]

        (product,) = self._sum(work, np.float64)
        return product - np.outer(self.offset, self.columns[:, 0] @ left)

    def _find_mean(self) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            (total,) = self._sum(lambda block, rows: [block.T @ self.columns[rows, :1]], np.float64)
            (square,) = self._sum(lambda block, rows: [np.asarray(abs(block).max()) ** 2], np.float64)
        healthy = np.isfinite(total).all() and np.isfinite(square) and square > 1e-200
        if not healthy and self._rescale():
            return self._find_mean()
        self._set_offset(total[:, 0])
        if not np.isfinite(self.norm2):
            self.norm2 = self._frobenius()

    def _frobenius(self) -> float:
        def work(block: Any, rows: slice) -> list[Any]:
            dense = block.data if self.sparse else block - np.outer(self.columns[rows, 0], self.offset)
            return [np.asarray(np.vdot(dense, dense))]

        (total,) = self._sum(work, np.float64)
        return float(total) - (self.total * float(self.offset @ self.offset) if self.sparse else 0.0)

    def _set_offset(self, total: np.ndarray) -> None:
        if self.fit_intercept:
            self.offset = total / self.total

    def _rescale(self) -> bool:
        """After a sum that overflowed or underflowed: refuse NaN and infinities, else divide X by a power of two."""
        data = self.X.data if self.sparse else self.X
        if not np.isfinite(data).all():
            raise InputError("X: found NaN or infinity, expected finite numbers")
        scale = _power_of_two(np.abs(data).max(initial=0.0))
        changed, self.scale = scale != self.scale, scale
        return changed

    def _dense(self, rows: slice, columns: slice) -> np.ndarray:
        block = self.X[rows, columns].astype(np.float64)
        block *= self.scale
        block -= self.x_mean[columns]
        if self.root is not None:
            block *= self.root[rows, None]
        return block

    def _block(self, rows: slice, buffer: np.ndarray | None, dtype: Any) -> Any:
        """√w (X − shift) for some rows, in `dtype`: a view of X where nothing is to be done."""
        if self.sparse:
            block = self.X[rows].astype(dtype)
            return block * self.scale if self.scale != 1.0 else block
        if buffer is None:
            return self.X[rows]
        block = buffer[: rows.stop - rows.start]
        np.copyto(block, self.X[rows], casting="same_kind")
        if self.scale != 1.0:
            block *= self.scale
        if self.shift is not None:
            block -= (self.shift * self.scale if self.scale != 1.0 else self.shift).astype(dtype)
        if self.root is not None:
            block *= self.root[rows, None].astype(dtype)
        return block

    def _sum(self, work: Callable[[Any, slice], list[Any]], dtype: Any, whole: bool = False) -> list[Any]:
        """Sum in float64 of what `work` returns for each block of rows; blocks are shared out among the cores."""
        self._step = self.n if whole else max(64, BLOCK // self.p)
        starts = range(0, self.n, self._step)
        size = self.X.nnz if self.sparse else self.X.size
        self._threads = 1 if size < SMALL else min(len(starts), _cores())
        plain = self.shift is None and self.root is None and self.scale == 1.0 and self.X.dtype == dtype

        def share(first: int) -> list[Any]:
            buffer = None if plain or self.sparse else np.empty((min(self._step, self.n), self.p), dtype)
            totals: list[Any] = []
            for start in starts[first :: self._threads]:
                rows = slice(start, min(start + self._step, self.n))
                terms = work(self._block(rows, buffer, dtype), rows)
                totals = (
                    [t.astype(np.float64) for t in terms]
                    if not totals
                    else [s + t for s, t in zip(totals, terms, strict=True)]
                )
            return totals

        if self._threads == 1:
            return share(0)
        with _single_blas(), ThreadPoolExecutor(self._threads) as pool:
            parts = list(pool.map(share, range(self._threads)))
        return [np.sum(terms, axis=0) for terms in zip(*parts, strict=True)]


class Whole:
    """The design in JAX: X̃ and Ỹ as arrays, in the precision that came in."""

    xp = jnp
    sparse = False
    scale = y_scale = 1.0

    def __init__(self, X: Any, Y: Any, sample_weight: Any, fit_intercept: bool):
        X = validation.matrix("X", X)
        Y = jnp.zeros(X.shape[0], X.dtype) if Y is None else validation.vector_or_matrix("y", Y)
        validation.same_length("X", X, "y", Y)
        X, Y = common_float(X, Y)
        (self.n, self.p), self.one_target, self.dtype = X.shape, Y.ndim == 1, X.dtype
        self.fit_intercept = fit_intercept
        Y = Y.reshape(self.n, -1)
        self.y_raw, self.k = Y, Y.shape[1]
        if sample_weight is None:
            self.weights, self.root = None, jnp.ones(self.n, X.dtype)
        else:
            self.weights = validation.vector("sample_weight", sample_weight).astype(X.dtype)
            validation.same_length("X", X, "sample_weight", self.weights)
            if not isinstance(self.weights, Tracer) and bool((self.weights < 0).any()):
                raise InputError("sample_weight: found a negative weight, expected weights >= 0")
            self.root = jnp.sqrt(self.weights)
        self.root_column = self.root[:, None]
        square = self.root**2
        self.total = jnp.sum(square)
        mean = (lambda a: square @ a / self.total) if fit_intercept else (lambda a: jnp.zeros(a.shape[1], a.dtype))
        first = mean(X)
        self.x_mean = first + mean(X - first)  # twice: the second mean removes the rounding of the first
        self.y_mean = mean(Y)
        self.X = self.root[:, None] * (X - self.x_mean)
        self.Y = self.root[:, None] * (Y - self.y_mean)
        self.norm2 = jnp.sum(self.X**2)

    @property
    def wide(self) -> bool:
        """Whether X̃ has at most as many independent rows as columns (centring takes one)."""
        return self.n - self.fit_intercept <= self.p

    def gradient(self, coef: jax.Array, penalty: jax.Array) -> tuple[jax.Array, jax.Array]:
        """X̃ᵀ(ỹ − X̃ β) − α β and ‖ỹ − X̃ β‖² for columns β."""
        residual = jnp.tile(self.Y, (1, coef.shape[1] // self.k)) - self.X @ coef
        return self.X.T @ residual - penalty * coef, jnp.sum(residual**2, axis=0)

    def residual(self, coef: jax.Array) -> jax.Array:
        """Ỹ − X̃ β, n×q."""
        return jnp.tile(self.Y, (1, coef.shape[1] // self.k)) - self.X @ coef

    def adjoint(self, left: jax.Array) -> jax.Array:
        """X̃ᵀ U."""
        return self.X.T @ left

    def rotated(self, right: jax.Array, weight: jax.Array, amount: jax.Array) -> tuple[jax.Array, jax.Array]:
        """For Z = X̃ V: row sums Z² F and residuals Ỹ − Z T."""
        z = self.X @ right
        return z**2 @ weight, jnp.tile(self.Y, (1, amount.shape[1] // self.k)) - z @ amount


def _array(name: str, value: Any, ranks: tuple[int, ...]) -> np.ndarray:
    """A NumPy array of real numbers, neither copied nor scanned."""
    try:
        value = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{name}: found a ragged sequence, expected an array of numbers") from error
    if value.dtype.kind not in "buif":
        raise InputError(f"{name}: found dtype {value.dtype}, expected real numbers")
    if value.ndim not in ranks:
        expected = " or ".join({1: "a vector", 2: "a matrix"}[r] for r in ranks)
        raise InputError(f"{name}: found an array of shape {value.shape}, expected {expected}")
    return value


def _weights(value: Any, n: int) -> np.ndarray:
    weights = _array("sample_weight", value, (1,)).astype(np.float64)
    if weights.shape != (n,):
        raise InputError(f"sample_weight: found {weights.shape[0]} weights, expected {n}, one per row of X")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise InputError("sample_weight: found a negative, non-finite or all-zero vector, expected weights >= 0")
    return weights


def _power_of_two(size: Any) -> float:
    """2^-e that brings `size` near one; 1 where it is of ordinary size already."""
    if size == 0 or 1e-60 < size < 1e60:
        return 1.0
    return float(2.0 ** -np.clip(np.frexp(float(size))[1], -1000, 1000))


def _triangle(A: np.ndarray) -> Any:
    return np.linalg.qr(A, mode="r")


def _middle(X: np.ndarray, dtype: Any) -> np.ndarray:
    """The median of an odd number of rows, column by column: always an entry of X."""
    rows = X[:: max(1, len(X) // 9)][:9]
    rows = rows[: len(rows) - (len(rows) + 1) % 2]
    return np.sort(rows, axis=0)[len(rows) // 2].astype(dtype)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _single_blas() -> contextlib.AbstractContextManager[Any]:
    return threadpool_limits(1, user_api="blas")
