"""L1 logistic and softmax regression with many columns: solve on a working set, price the rest, grow, until done.

The columns outside the set have zero weight; one product Xᵀθ tells which of them want to enter, and gives the duality
gap of the whole problem. Cost: O(n p k) per round for pricing, and a proximal Newton fit on the few columns of the set.
Source: Massias, Gramfort & Salmon, ICML 2018 (Celer), for the scheme; the gap is that of `_logistic_kernel`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse

from corollary.core.errors import InputError
from corollary.linear import _logistic as logistic
from corollary.linear import _logistic_kernel as kernel

ROUNDS = 40


def fit(problem: tuple, k: int) -> kernel.Fit:
    """The fit, certified on all columns."""
    given, y, weight, alpha, l1_ratio, coef, offset, tol, max_steps, intercept = problem
    if not hasattr(given, "dtype"):
        raise InputError(logistic.NEEDS_COLUMNS)
    sparse, dtype = scipy.sparse.issparse(given), np.dtype(coef.dtype)
    (n, p), width = given.shape, max(1, 64 // k)
    X: Any = scipy.sparse.csc_array(given) if sparse else np.asarray(given)
    Y = logistic.targets(jnp.asarray(y), k, dtype)
    s = (
        jnp.full(n, 1 / n, dtype)
        if weight is None
        else jnp.asarray(weight, dtype) / jnp.sum(jnp.asarray(weight, dtype))
    )
    l1, l2 = jnp.asarray(alpha * l1_ratio, dtype), jnp.asarray(alpha * (1 - l1_ratio), dtype)
    W, b, inner, steps = np.asarray(coef), np.asarray(offset), float(tol), 0
    scale = _column_rms(X)
    dual, end, rounds = -np.inf, None, 0
    while True:
        Z = jnp.asarray(np.asarray(X @ W, dtype) + b)
        Q = kernel.probabilities(Z)
        F = s @ kernel.losses(Z, Y) + jnp.sum(l1 * jnp.abs(W) + 0.5 * l2 * W * W)
        shift, curve = _move_intercept(Q, Y, s, intercept)
        theta = s[:, None] * (Q - Y + shift)
        v = -jnp.asarray(np.asarray(X.T @ np.asarray(theta), dtype))
        one = jnp.ones(p, dtype)
        gap = kernel.duality_gap(
            jnp.asarray(W), v, l1 * one, l2 * one, jnp.zeros(p, bool), F, curve, kernel.misfit(Z, Y, s)
        )
        dual = max(dual, float(F - gap))
        allowance = float(kernel.rounding_of(jnp.asarray(W * scale), Z, Q, Y, s, F, l1 * one))
        if float(F) - dual <= float(tol) * float(F) + allowance or steps >= max_steps or rounds >= ROUNDS:
            break
        rounds += 1
        support = np.any(W != 0, axis=1)
        price = np.max(np.abs(np.asarray(v)), axis=1)
        wanted = int(np.sum((price > float(l1)) & ~support))
        if end is not None and wanted == 0:
            inner = max(inner * 1e-2, 1e-16)
        width = max(
            width, 1 << int(np.ceil(np.log2(int(support.sum()) + min(wanted, max(int(support.sum()), 32 // k)) + 1)))
        )
        width = min(width, p)
        columns = np.argsort(-np.where(support, np.inf, price), kind="stable")[:width]
        if sparse and n * width > logistic.DENSE_LIMIT:
            raise InputError(f"X: a dense copy of {width} columns, which the answer needs, would not fit; raise alpha")
        part = np.asarray(X[:, columns].todense()) if sparse else X[:, columns]
        end = kernel.fit_dense_jit(
            jnp.asarray(part, dtype), Y, s, l1, l2, jnp.asarray(W[columns]), jnp.asarray(b),
            jnp.asarray(inner, dtype), jnp.asarray(max_steps, jnp.int32), intercept, "cd",
        )  # fmt: skip
        W = np.zeros_like(W)
        W[columns], b, steps = np.asarray(end.W[:-1]), np.asarray(end.W[-1]), steps + int(end.steps)
    top = jnp.asarray(max(float(F) - dual, 0.0), dtype)
    done = float(top) <= float(tol) * float(F) + allowance
    L = (0.25 if k == 1 else 0.5) * jnp.sum(s[:, None] * jnp.asarray(_squares(X), dtype)) + l2
    G = _gradient_mapping(jnp.asarray(W), -v, l1, l2, L)
    return kernel.Fit(
        jnp.concatenate([jnp.asarray(W), jnp.asarray(b)[None]]), F, top, jnp.asarray(allowance, dtype), G, L,
        jnp.int32(steps), jnp.bool_(done), jnp.bool_(False), jnp.bool_(not done and steps < max_steps),
    )  # fmt: skip


def _move_intercept(Q: Any, Y: Any, s: Any, intercept: bool) -> tuple[Any, Any]:
    """S_i d_b for the d_b that makes the dual point's sums zero, and d_bᵀHd_b; infinite where the step is too long."""
    if not intercept:
        return jnp.zeros_like(Q), jnp.zeros((), Q.dtype)
    k = Q.shape[1]
    H = kernel.hessian(jnp.ones((Q.shape[0], 1), Q.dtype), Q, s)
    excess = s @ (Q - Y)
    d = -kernel._solve_intercept(H, excess)
    shift = kernel.curvature_times(Q, jnp.broadcast_to(d, Q.shape))
    fits = (jnp.max(d) - jnp.min(d) if k > 1 else jnp.abs(d[0])) <= 1
    feasible = fits & jnp.all(jnp.abs(excess + H @ d) <= 64 * jnp.finfo(Q.dtype).eps)
    return shift, jnp.where(feasible, d @ H @ d, jnp.inf)


def _column_rms(X: Any) -> np.ndarray:
    squares = np.asarray(X.multiply(X).mean(axis=0)).ravel() if scipy.sparse.issparse(X) else np.mean(X * X, axis=0)
    return np.sqrt(squares)[:, None].astype(X.dtype)


def _squares(X: Any) -> np.ndarray:
    """‖x_i‖² as a column."""
    if scipy.sparse.issparse(X):
        return np.asarray(X.multiply(X).sum(axis=1)).reshape(-1, 1)
    return np.sum(X * X, axis=1, keepdims=True)


def _gradient_mapping(W: Any, g: Any, l1: Any, l2: Any, L: Any) -> Any:
    ahead = W - (g + l2 * W) / L
    ahead = jnp.sign(ahead) * jnp.maximum(jnp.abs(ahead) - l1 / L, 0)
    return L * jnp.sqrt(jnp.sum((W - ahead) ** 2))
