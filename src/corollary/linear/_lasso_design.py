"""The design matrix as the Lasso solvers see it: weighted, centred and scaled without a copy, dense or sparse.

A column is √s ∘ (x_j − m_j) for row weights s and weighted means m (zero without an intercept). Dense columns are
formed only for the few features in the working set; a sparse matrix is never densified: its centring is a rank-one
correction. What is returned is float64, so that the small dense algebra is accurate for float32 data too.
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import scipy.sparse

CHUNK = 2**19  # entries per block of rows: it stays in cache
FAR = {8: 1e5, 4: 1e2}  # mean over spread, by item size, from which the products' rounding would swamp a column


class Design(abc.ABC):
    """Products with the weighted and centred matrix."""

    shape: tuple[int, int]
    eps: float  # precision of the big product Xᵀr
    root: np.ndarray | None  # √s
    mean: Any  # None, or weighted means of the columns, over `scale`
    norm2: np.ndarray  # squared norms of the weighted and centred columns; 0 for a constant one
    scale: float  # a power of two that the entries were divided by

    @abc.abstractmethod
    def correlate(self, r: np.ndarray) -> np.ndarray:
        """X̃ᵀ r for all p features."""

    @abc.abstractmethod
    def rows(self, ids: np.ndarray) -> Any:
        """The columns `ids`, as the rows of a block."""

    @abc.abstractmethod
    def inner(self, a: Any, ids_a: np.ndarray, b: Any, ids_b: np.ndarray) -> np.ndarray:
        """The Gram matrix of two blocks."""

    @abc.abstractmethod
    def combine(self, block: Any, ids: np.ndarray, w: np.ndarray) -> np.ndarray:
        """X̃ w for coefficients on a block."""

    @abc.abstractmethod
    def gram(self) -> np.ndarray:
        """X̃ᵀX̃ over all features."""

    def target(self, y: np.ndarray) -> np.ndarray:
        """The target, weighted and centred like the columns."""
        y = y.astype(np.float64)
        if self.mean is not None:
            for _ in range(2):  # twice: the second pass removes the first one's rounding
                y = y - np.average(y, weights=None if self.root is None else self.root**2)
        return y if self.root is None else self.root * y

    def _weights(self, dtype: Any) -> np.ndarray:
        return np.ones(self.shape[0], dtype) if self.root is None else (self.root**2).astype(dtype)


class DenseDesign(Design):
    """A NumPy matrix, read as it lies; copied only where its scale or its offset would spoil the arithmetic."""

    def __init__(self, X: np.ndarray, root: np.ndarray | None, centre: bool):
        self.X, self.shape, self.root, self.scale = X, X.shape, root, 1.0
        self.centred, self.eps = not centre, float(np.finfo(X.dtype).eps)
        self.dead = np.zeros(X.shape[1], bool)
        raw2 = _norm2(X, root)
        huge, tiny = (1e250, 1e-250) if X.dtype == np.float64 else (1e30, 1e-30)
        if not (raw2.max() < huge and raw2[raw2 > 0].min(initial=1.0) > tiny and (raw2.max() > 0)):
            top = float(np.abs(X).max())
            self.scale = float(2.0 ** np.round(np.log2(top))) if top > 0 else 1.0
            self.X = X.astype(np.float64) / self.scale
            raw2 = _norm2(self.X, root)
        self.mean, self.norm2 = None, raw2
        if centre:
            self._centre(raw2)

    def _centre(self, raw2: np.ndarray) -> None:
        s = self._weights(self.X.dtype)
        total = s.sum(dtype=np.float64)
        self.mean = (s @ self.X).astype(np.float64) / total
        self.norm2 = np.maximum(raw2 - total * self.mean**2, 0)
        far = np.flatnonzero(raw2 > FAR[self.X.itemsize] ** 2 * self.norm2)
        if not len(far):
            return
        columns = self.X[:, far].astype(np.float64)
        self.mean[far] = np.average(columns, axis=0, weights=s.astype(np.float64))
        self.norm2[far] = _norm2(columns - self.mean[far], self.root)
        constant = self.norm2[far] <= (8 * 2.0**-52) ** 2 * raw2[far]
        self.norm2[far[constant]], self.dead[far[constant]] = 0, True
        if not constant.all():
            self.X, self.centred, self.eps = self.X.astype(np.float64) - self.mean, True, 2.0**-52

    def correlate(self, r: np.ndarray) -> np.ndarray:
        v = r if self.root is None else self.root * r
        out = (v.astype(self.X.dtype) @ self.X).astype(np.float64)
        if not self.centred:
            out -= self.mean * v.sum()
        out[self.dead] = 0
        return out

    def rows(self, ids: np.ndarray) -> np.ndarray:
        rows = self.X.T[ids].astype(np.float64)
        if not self.centred:
            rows -= self.mean[ids, None]
        rows[self.dead[ids]] = 0
        return rows if self.root is None else rows * self.root

    def inner(self, a: np.ndarray, ids_a: np.ndarray, b: np.ndarray, ids_b: np.ndarray) -> np.ndarray:
        return a @ b.T

    def combine(self, block: np.ndarray, ids: np.ndarray, w: np.ndarray) -> np.ndarray:
        return w @ block

    def part(self, samples: Any) -> np.ndarray:
        """Some rows of X̃ over all features."""
        block = self.X[samples].astype(np.float64)
        if not self.centred:
            block -= self.mean
        if self.root is not None:
            block *= self.root[samples, None]
        block[:, self.dead] = 0
        return block

    def gram(self) -> np.ndarray:
        n, p = self.shape
        if self.centred and self.root is None and self.X.dtype == np.float64:
            G = self.X.T @ self.X
        else:
            G, step = np.zeros((p, p)), max(64, CHUNK // p)
            for start in range(0, n, step):
                rows = self.part(slice(start, start + step))
                G += rows.T @ rows
        G[self.dead], G[:, self.dead] = 0, 0
        return G


class SparseDesign(Design):
    """A SciPy sparse matrix; centring is the correction X − 1mᵀ, never formed."""

    def __init__(self, X: Any, root: np.ndarray | None, centre: bool):
        XT: Any = scipy.sparse.csr_array(scipy.sparse.csc_array(X).T).astype(np.float64)
        self.shape, self.root, self.eps = X.shape, root, 2.0**-52
        top = float(np.abs(XT.data).max(initial=0.0))
        extreme = top > 0 and not 1e-100 < top < 1e100
        self.scale = float(2.0 ** np.round(np.log2(top))) if extreme else 1.0
        XT = XT / self.scale if extreme else XT
        s = self._weights(np.float64)
        self.mean = XT @ s / s.sum() if centre else None
        self.XT: Any = XT if root is None else scipy.sparse.csr_array(XT.multiply(root[None, :]))
        self.ones = np.ones(self.shape[0]) if root is None else root
        raw2 = np.asarray(self.XT.multiply(self.XT).sum(axis=1)).ravel()
        self.norm2 = raw2 if self.mean is None else np.maximum(raw2 - s.sum() * self.mean**2, 0)
        self.dead = self.norm2 <= 64 * self.eps * raw2
        self.norm2[self.dead] = 0

    def correlate(self, r: np.ndarray) -> np.ndarray:
        out = self.XT @ r
        if self.mean is not None:
            out -= self.mean * (self.ones @ r)
        out[self.dead] = 0
        return out

    def rows(self, ids: np.ndarray) -> Any:
        return self.XT[ids]

    def inner(self, a: Any, ids_a: np.ndarray, b: Any, ids_b: np.ndarray) -> np.ndarray:
        G = (a @ b.T).toarray()
        if self.mean is not None:
            G -= (self.ones @ self.ones) * np.outer(self.mean[ids_a], self.mean[ids_b])
        G[self.dead[ids_a]], G[:, self.dead[ids_b]] = 0, 0
        return G

    def combine(self, block: Any, ids: np.ndarray, w: np.ndarray) -> np.ndarray:
        out = block.T @ w
        return out if self.mean is None else out - self.ones * (self.mean[ids] @ w)

    def gram(self) -> np.ndarray:
        ids = np.arange(self.shape[1])
        return self.inner(self.XT, ids, self.XT, ids)


def make_design(X: Any, sample_weight: np.ndarray | None, centre: bool) -> Design:
    """The design of validated data: a NumPy matrix or a SciPy sparse one."""
    root = None if sample_weight is None else np.sqrt(sample_weight.astype(np.float64))
    return (SparseDesign if scipy.sparse.issparse(X) else DenseDesign)(X, root, centre)


def _norm2(X: np.ndarray, root: np.ndarray | None) -> np.ndarray:
    """Squared norms of the columns, summed in float64, block by block; an overflow shows as an infinity."""
    n, p = X.shape
    with np.errstate(over="ignore", under="ignore"):
        if root is None and X.dtype == np.float64:
            return np.einsum("ij,ij->j", X, X)
        out, step = np.zeros(p), max(64, CHUNK // p)
        for start in range(0, n, step):
            rows = X[start : start + step].astype(np.float64)
            if root is not None:
                rows *= root[start : start + step, None]
            out += np.einsum("ij,ij->j", rows, rows)
    return out
