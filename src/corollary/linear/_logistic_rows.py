"""The logistic loss over a tall NumPy matrix in row blocks: every pass reads X once and copies nothing.

For n ≫ p the answer on a sample of the rows is nearly the answer, and so is its Hessian. Newton's method runs on the
sample; then full gradients with the sampled Hessian, improved by BFGS from the exact gradients, finish the work.
Cost: O(n p) per pass, about six passes, where a full Hessian alone would cost O(n p²).
Source: Byrd, Chin, Neveitt & Nocedal, SIAM J. Optim. 21 (2011) 977 (sampled Hessians); the certificate is that of
`_logistic_kernel` with the dual point moved along the intercept only.
"""

from __future__ import annotations

import concurrent.futures
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from corollary.linear import _logistic_kernel as kernel

BLOCK = 1 << 16  # entries of X per block: it stays in cache between z = Xw and Xᵀθ, and BLAS starts no threads for it
WORKERS = min(8, os.cpu_count() or 1)
PASSES = 25


def worthwhile(X: Any, k: int, l1_ratio: float, alpha: float) -> bool:
    """Whether X is a tall NumPy matrix, the problem binary and smooth, and a sample of the rows says enough."""
    tall = isinstance(X, np.ndarray) and X.size >= 1 << 21 and X.shape[0] >= 800 * X.shape[1]
    return tall and k == 1 and l1_ratio == 0 and alpha > 0


def fit(
    X: np.ndarray,
    y: np.ndarray,
    s: np.ndarray,
    l2: float,
    coef: np.ndarray,
    offset: float,
    tol: float,
    max_steps: int,
    intercept: bool,
) -> tuple[kernel.Fit, int] | None:
    """The fit and its passes over X, or None where the sampled Hessian was no good guide (then run the full Newton)."""
    n, p = X.shape
    stride = n // max(n // 32, 50 * p)
    rows = slice(stride // 2, None, stride)
    Xs, ys, ss = (np.ascontiguousarray(a[rows]) for a in (X, y, s))
    if not 0 < ys @ (ss > 0) < np.count_nonzero(ss):
        return None
    scale = np.sqrt(np.einsum("ij,ij->j", Xs, Xs, dtype=np.float64) / len(Xs))
    if not (np.all(scale > 1e-12) and np.all(scale < 1e12)):
        return None
    w, H = _sampled_newton(Xs, ys, ss / ss.sum(), l2, coef, offset, intercept)
    try:
        B = np.linalg.inv(H + np.diag(np.r_[np.full(p, l2), np.zeros(len(H) - p)]))
    except np.linalg.LinAlgError:
        return None
    F, g, h, slack = _pass(X, y, s, w, l2, intercept)
    dual, steps = F - _gap(w, g, h, l2, intercept), 1
    while F - dual > tol * F + slack:
        if steps == min(max_steps, PASSES):
            return None
        d = -B @ g
        new_F, new_g, new_h, slack = _pass(X, y, s, w + d, l2, intercept)
        if not new_F <= F + slack:
            return None
        change = new_g - g
        if (curve := d @ change) > 0:  # BFGS: the inverse Hessian learns the exact curvature along d
            u = d / curve
            Bc = B @ change
            B = B - np.outer(u, Bc) - np.outer(Bc, u) + (change @ Bc + curve) * np.outer(u, u)
        w, F, g, h = w + d, new_F, new_g, new_h
        dual, steps = max(dual, F - _gap(w, g, h, l2, intercept)), steps + 1
    L = 0.25 * float(scale @ scale + intercept) + l2
    gap = max(F - dual, 0.0)
    one = X.dtype.type
    value = np.r_[w, 0.0 if intercept else offset].astype(X.dtype)[: p + 1]
    return (
        kernel.Fit(
            jnp.asarray(value[:, None]),
            *(jnp.asarray(one(x)) for x in (F, gap, slack, np.sqrt(g @ g), L)),
            steps=jnp.int32(steps),
            converged=jnp.bool_(True),
            separated=jnp.bool_(False),
            stalled=jnp.bool_(False),
        ),
        steps,
    )


def _sampled_newton(
    X: np.ndarray, y: np.ndarray, s: np.ndarray, l2: float, coef: np.ndarray, offset: float, intercept: bool
) -> tuple[np.ndarray, np.ndarray]:
    dtype = X.dtype
    arrays = (
        X,
        y[:, None],
        s,
        dtype.type(0),
        dtype.type(l2),
        coef[:, None],
        np.array([offset], dtype),
        dtype.type(1e-4),
    )
    W, H = _sample_jit(*map(jnp.asarray, arrays), jnp.int32(20), intercept=intercept)
    return np.asarray(W, np.float64)[:, 0], np.asarray(H, np.float64)


def _sample(
    X: Any, Y: Any, s: Any, l1: Any, l2: Any, coef: Any, offset: Any, tol: Any, steps: Any, intercept: bool
) -> Any:
    W = kernel.fit_dense(X, Y, s, l1, l2, coef, offset, tol, steps, intercept, "cholesky").W
    W = W if intercept else W[:-1]
    U = jnp.concatenate([X, jnp.ones((X.shape[0], 1), X.dtype)], axis=1) if intercept else X
    return W, kernel.hessian(U, kernel.probabilities(U @ W), s)


_sample_jit = jax.jit(_sample, static_argnames=("intercept",))


def _pass(
    X: np.ndarray, y: np.ndarray, s: np.ndarray, w: np.ndarray, l2: float, intercept: bool
) -> tuple[float, np.ndarray, np.ndarray, float]:
    """F, its gradient, the Hessian's column of the intercept, and the rounding of F; sums in float64."""
    n, p = X.shape
    v, b = w[:p].astype(X.dtype), X.dtype.type(w[p]) if intercept else X.dtype.type(0)
    size = max(1, BLOCK // p)

    def part(rows: range) -> np.ndarray:
        sums = np.zeros(2 * p + 4)
        for start in rows:
            block, t, weight = X[start : start + size], y[start : start + size], s[start : start + size]
            z = block @ v + b
            q = scipy.special.expit(z)
            theta, curve = weight * (q - t), weight * q * (1 - q)
            loss = np.log1p(np.exp(-np.abs(z))) + np.maximum(np.where(t > 0.5, -z, z), 0)
            tail = theta.sum(), curve.sum(), weight @ loss, np.abs(theta) @ np.abs(z)
            sums += np.concatenate([theta @ block, curve @ block, tail])
        return sums

    starts = range(0, n, size)
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:  # NumPy lets go of the interpreter's lock
        sums = np.sum(list(pool.map(part, [starts[i::WORKERS] for i in range(WORKERS)])), axis=0)
    loss, moved = float(sums[-2]), float(sums[-1])
    G = np.stack([np.r_[sums[:p], sums[-4]], np.r_[sums[p : 2 * p], sums[-3]]])
    F = loss + 0.5 * l2 * float(w[:p] @ w[:p])
    g = G[0] if intercept else G[0, :p]
    g[:p] += l2 * w[:p]
    return F, g, G[1], 8 * float(np.finfo(X.dtype).eps) * (F + moved)


def _gap(w: np.ndarray, g: np.ndarray, h: np.ndarray, l2: float, intercept: bool) -> float:
    p = len(h) - 1
    if not intercept:
        return float(g @ g) / (2 * l2)
    d = -g[p] / h[p] if h[p] > 0 else np.inf
    if not abs(d) <= 1:
        return np.inf
    r = g[:p] + h[:p] * d
    return float(d * d * h[p] + (r @ r) / (2 * l2))
