"""Does a direction separate the classes? Then the unpenalised likelihood has no finite maximum.

A recession direction r has y_i ⟨x_i, r⟩ ≥ 0 for all rows and > 0 for one (for softmax: the margin against every other
class). Along it every loss with a positive margin falls to zero, so a fit within `gap` of the infimum proves margin 0
for all rows whose share of the loss exceeds `gap`: r lies in the null space of those rows. Full rank there settles the
matter in O(n m²), m unknowns; else a linear program in the null space does (HiGHS).
Source: Albert & Anderson, Biometrika 71 (1984) 1-10; Konis, DPhil thesis, Oxford (2007), §4.
"""

from __future__ import annotations

from typing import Any

import lineax as lx
import numpy as np
import scipy.optimize
import scipy.sparse
import scipy.special

from corollary.linear import _logistic_kernel as kernel

LIMIT = 1 << 25  # entries of the margins' matrix that are formed at most


def exists(X: Any, y: np.ndarray, k: int, weight: Any, fit: kernel.Fit, intercept: bool) -> bool | None:
    """Whether the classes are (quasi-)separable; None where that is too large to settle."""
    if bool(fit.separated):
        return True
    rows = np.ones(len(y), bool) if weight is None else np.asarray(weight) > 0
    if isinstance(X, lx.AbstractLinearOperator) or X.shape[0] * X.shape[1] * max(k - 1, 1) * k > LIMIT:
        return None
    X = (X.toarray() if scipy.sparse.issparse(X) else np.asarray(X))[rows]
    X = np.asarray(X / np.where((top := np.abs(X).max(axis=0)) > 0, top, 1), np.float64)
    if intercept:
        X = np.c_[X, np.ones(len(X))]
    y = y[rows]
    M = _margins(X, y, k)
    gap = float(fit.gap + fit.allowance)
    if np.isfinite(gap):
        W = np.asarray(fit.W, np.float64) * np.r_[np.where(top > 0, top, 1), 1.0][:, None]
        share = np.full(len(y), 1 / len(y)) if weight is None else np.asarray(weight, float)[rows] / np.sum(weight)
        wrong = _other_probabilities(X @ W[: X.shape[1]], y)
        # Where the margin against class c grows without end, the row's loss falls by at least -log(1 - q_c).
        busy = (share[:, None] * -np.log1p(-np.minimum(wrong, 1 - 1e-16)) > 4 * gap).ravel()
        N = _null_space(M[busy], M.shape[1])
        M = M[~busy] @ N
    else:
        N = np.eye(M.shape[1])
    M = M[np.abs(M).max(axis=1, initial=0) > 1e-9]
    if not M.size:
        return False
    M = M / np.abs(M).max(axis=1, keepdims=True)
    total = M.sum(axis=0)
    cost = -total / np.abs(total).max(initial=1e-300)
    answer = scipy.optimize.linprog(cost, A_ub=-M, b_ub=np.zeros(len(M)), bounds=(-1, 1))
    return None if answer.status != 0 else bool((M @ answer.x).max() > 1e-7)


def _margins(X: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """Rows whose product with the weights (class by class) are the margins y⟨x, w⟩, or z_y − z_c for every c ≠ y."""
    if k == 1:
        return np.where(y > 0, 1.0, -1.0)[:, None] * X
    n, p = X.shape
    M = np.zeros((n, k, k, p))
    i = np.arange(n)
    M[i, :, y] += X[:, None]
    M[:, np.arange(k), np.arange(k)] -= X[:, None]
    other = np.arange(k)[None] != y[:, None]
    return M.reshape(n, k, k * p)[other]


def _other_probabilities(Z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Probabilities of the classes that the row is not of, in the order of `_margins`."""
    if Z.shape[1] == 1:
        return scipy.special.expit(np.where(y[:, None] > 0, -Z, Z))
    other = np.arange(Z.shape[1])[None] != y[:, None]
    return scipy.special.softmax(Z, axis=1)[other].reshape(len(y), -1)


def _null_space(M: np.ndarray, m: int) -> np.ndarray:
    if not len(M):
        return np.eye(m)
    values, V = np.linalg.eigh(M.T @ M)
    return V[:, values <= m * 1e-13 * max(values[-1], 1e-300)]
