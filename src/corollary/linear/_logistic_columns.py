"""L1 logistic and softmax regression with many columns: solve on a working set, price the rest, grow, until done.

The columns outside the set have zero weight; one product Xᵀθ tells which of them want to enter, and gives the duality
gap of the whole problem. Cost: O(n p k) per round for pricing, and a proximal Newton fit on the few columns of the set.
Source: Massias, Gramfort & Salmon, ICML 2018 (Celer), for the scheme; the gap is that of `_logistic_kernel`.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
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
    s = logistic.shares(weight, n, dtype)
    l1, l2 = jnp.asarray(alpha * l1_ratio, dtype), jnp.asarray(alpha * (1 - l1_ratio), dtype)
    W, b, inner, steps = np.asarray(coef), np.asarray(offset), 1e-2, 0
    scale = _column_rms(X)
    dual, rounds = -np.inf, 0
    while True:
        Z = jnp.asarray(np.asarray(X @ W, dtype) + b)
        theta, moved, misfit = _dual_point(Z, Y, s, intercept)
        v = -np.asarray(X.T @ np.asarray(theta), dtype)
        F, gap, allowance = _gap(jnp.asarray(W), jnp.asarray(v), Z, Y, s, l1, l2, moved, misfit, scale)
        F, allowance = float(F), float(allowance)
        dual = max(dual, F - float(gap))
        if F - dual <= float(tol) * F + allowance or steps >= max_steps or rounds >= ROUNDS:
            break
        rounds += 1
        support, price = np.any(W != 0, axis=1), np.max(np.abs(v), axis=1)
        active, wanted = int(support.sum()), int(np.sum((price > float(l1)) & ~support))
        width = min(p, max(width, 1 << (active + min(wanted, max(active, 64 // k))).bit_length()))
        columns = np.argsort(-np.where(support, np.inf, price), kind="stable")[:width]
        if sparse and n * width > logistic.DENSE_LIMIT:
            raise InputError(f"X: a dense copy of {width} columns, which the answer needs, would not fit; raise alpha")
        # Each round solves its columns a little better than all of them are solved; the last ones to `tol`.
        inner = inner * 1e-2 if wanted == 0 else min(inner, 0.1 * (F - dual) / F)
        stuck = wanted == 0 and inner <= np.finfo(dtype).eps * 1e-2
        inner = max(inner, 0.1 * float(tol) if wanted else 1e-3 * np.finfo(dtype).eps)
        if stuck:
            break
        part = np.asarray(X[:, columns].todense()) if sparse else X[:, columns]
        fitted = kernel.fit_dense_jit(
            jnp.asarray(part, dtype), Y, s, l1, l2, jnp.asarray(W[columns]), jnp.asarray(b),
            jnp.asarray(inner, dtype), jnp.asarray(max_steps, jnp.int32), intercept, "cd",
        )  # fmt: skip
        W = np.zeros_like(W)
        W[columns], b, steps = np.asarray(fitted.W[:-1]), np.asarray(fitted.W[-1]), steps + int(fitted.steps)
    top = max(F - dual, 0.0)
    done = top <= float(tol) * F + allowance
    L = (0.25 if k == 1 else 0.5) * jnp.sum(s[:, None] * jnp.asarray(_squares(X), dtype)) + l2
    G = _gradient_mapping(jnp.asarray(W), -jnp.asarray(v), l1, l2, L)
    F, top, allowance = (jnp.asarray(x, dtype) for x in (F, top, allowance))
    stalled = not done and steps < max_steps
    weights = jnp.concatenate([jnp.asarray(W), jnp.asarray(b)[None]])
    flags = (jnp.bool_(flag) for flag in (done, False, stalled))
    return kernel.Fit(weights, F, top, allowance, G, L, jnp.int32(steps), *flags)


@functools.partial(jax.jit, static_argnames=("intercept",))
def _dual_point(Z: Any, Y: Any, s: Any, intercept: bool) -> tuple[Any, Any, Any]:
    """s θ' with the intercepts' sums at zero, and what `duality_gap` needs to know of it."""
    Q = kernel.probabilities(Z)
    shift, moved = _move_intercept(Q, Y, s, intercept)
    return s[:, None] * (Q - Y + shift), moved, kernel.misfit(Z, Y, s)


@jax.jit
def _gap(W: Any, v: Any, Z: Any, Y: Any, s: Any, l1: Any, l2: Any, moved: Any, misfit: Any, scale: Any) -> tuple:
    """F, the duality gap over all columns, and its rounding."""
    one = jnp.ones(W.shape[0], W.dtype)
    F = s @ kernel.losses(Z, Y) + jnp.sum(l1 * jnp.abs(W) + 0.5 * l2 * W * W)
    gap = kernel.duality_gap(W, v, l1 * one, l2 * one, one < 0, F, moved, misfit)
    return F, gap, kernel.rounding_of(W * scale, Z, kernel.probabilities(Z), Y, s, F, l1 * one)


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
