"""The projected Newton steps of `_bounded` on the host: only the free block is factorised, and nothing is dispatched.

Compiled, the shapes are fixed and the whole matrix is factorised each step; on NumPy data the free block alone is,
which for a small problem costs less than one call of a compiled program. Same rule, same answers. Of a few hundred
variables on, projected gradient steps of Barzilai and Borwein's length, each one product with P, look for the bounds
that hold before anything is factorised: a Cholesky factorisation costs fifty of them.
Source: Barzilai & Borwein, IMA J. Numer. Anal. 8 (1988), eqs. (5) and (6).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg.lapack

from corollary.core.certificate import Assumption, Certificate
from corollary.core.solution import Solution, Status

LAPACK: Any = scipy.linalg.lapack
HALVINGS = 60  # of a step that is 1/eps too long where P is singular along the free variables
MANY, LOOKS, SETTLED = 256, 12, 3  # variables from which to look first, for how long, and unchanged for how long

Array = np.ndarray
Gradient = Callable[[Array], tuple[Array, float]]


def solve(
    P: Array,
    gradient: Gradient,
    objective: Callable[[Array, Array], tuple[float, float]],
    lower: Array,
    upper: Array,
    x: Array,
    tol: float,
    max_steps: int,
    with_gap: bool,
    texts: tuple[str, str, str],
    definite: str | None = None,
) -> Solution:
    """The minimiser within the bounds; `objective` gives F and the natural size that the gap is held against.

    `definite` is the text of the assumption on P, where it has to be checked.
    """
    eps = np.finfo(x.dtype).eps
    g, size = gradient(x)
    top = P.diagonal().max(initial=0.0)
    if not top > 0:  # without curvature: a step as long as the widest side of the box
        sides = (upper - lower)[np.isfinite(upper - lower)]
        top = norm(g) / float(sides.max(initial=0.0) or 1.0) or 1.0
    ridge = x.dtype.type(x.size * eps * top)
    steps, stuck = 0, False
    if x.size >= MANY and norm(_projected(x, g, lower, upper)) > tol * size:
        x = _looked(P, x, g, lower, upper)
        g, size = gradient(x)
    while not (done := norm(_projected(x, g, lower, upper)) <= tol * size) and steps < max_steps and not stuck:
        x, moved = _newton_step(P, x, g, lower, upper, ridge)
        g, size = gradient(x)
        steps, stuck = steps + 1, not moved
    held = norm(_projected(x, g, lower, upper))
    limit = tol * size + 16 * eps * size
    fine = done or held <= limit
    status = Status.CONVERGED if fine else Status.PRECISION if stuck else Status.MAX_STEPS
    status = status if np.isfinite(x).all() else Status.NON_FINITE
    value, natural = objective(x, g)
    claim, source, weak = texts
    certificates = {"stationarity": Certificate(claim, held, limit, "monitor", source)}
    if with_gap:
        bound = max(float(tol), float(eps**0.5)) * natural
        gap = _gap(P, x, g, lower, upper)
        told = () if definite is None else (Assumption(definite, checked=True, holds=_definite(P)),)
        certificates["duality_gap"] = Certificate(
            "F(x) − F* <= duality gap", gap, bound, "exact", weak, assumptions=told
        )
    stats = {"objective": value, "gradient": g, "free": int(np.sum((x > lower) & (x < upper)))}
    return Solution(x, certificates, np.int32(status), np.int32(steps), stats)


def _looked(P: Array, x: Array, g: Array, lower: Array, upper: Array) -> Array:
    """Projected gradient steps until the bounds that hold no longer change; F falls at each."""
    with np.errstate(all="ignore"):  # a length that leaves the range ends it
        p = _projected(x, g, lower, upper)
        length, still, held = (p @ p) / (p @ (P @ p)), 0, None
        for look in range(LOOKS):
            if not (np.isfinite(length) and length > 0):
                break
            s = np.clip(x - length * g, lower, upper) - x
            y = P @ s
            bend, slope = s @ y, g @ s
            if not (bend > 0 and slope < 0):
                break
            part = min(1.0, -slope / bend)  # the minimiser along s
            x = np.clip(x + part * s, lower, upper) if part < 1 else np.clip(x + s, lower, upper)
            g = g + part * y
            length = (s @ s) / bend if look % 2 else bend / (y @ y)
            now = (x <= lower) | (x >= upper)
            still = still + 1 if held is not None and np.array_equal(now, held) else 0
            held = now
            if still >= SETTLED:
                break
    return x


def _factor(H: Array) -> Array | None:
    """Cholesky's factor, in H's memory; None where H is not definite."""
    factor, wrong = (LAPACK.spotrf if H.dtype == np.float32 else LAPACK.dpotrf)(H.T, lower=1, clean=0, overwrite_a=1)
    return None if wrong else factor


def _solved(factor: Array, b: Array) -> Array:
    return (LAPACK.spotrs if factor.dtype == np.float32 else LAPACK.dpotrs)(factor, b, lower=1)[0]


def _newton_step(P: Array, x: Array, g: Array, lower: Array, upper: Array, ridge: Any) -> tuple[Array, bool]:
    free = np.flatnonzero(~(((x <= lower) & (g > 0)) | ((x >= upper) & (g < 0))))
    H = P.copy() if free.size == x.size else P.take(free, 0).take(free, 1)
    H.flat[:: free.size + 1] += ridge
    push = g[free]
    factor = _factor(H) if free.size else None
    usable, d = False, push
    if factor is not None:
        d = -_solved(factor, push)
        usable = bool(np.isfinite(d).all() and push @ d < 0)
    if not usable:
        d = -push / max(P.diagonal().max(initial=0.0) * x.size, ridge)
    step = np.zeros_like(x)
    step[free] = d
    for _ in range(HALVINGS):
        new = np.clip(x + step, lower, upper)
        s = new - x
        slope = g @ s
        fall = slope + s @ (P @ s) / 2
        if fall <= 1e-4 * slope:
            return (new, True) if fall < 0 else (x, False)
        step = step / 2
    return x, False


def _gap(P: Array, x: Array, g: Array, lower: Array, upper: Array) -> float:
    """As `_bounded.duality_gap`."""
    eps = np.finfo(g.dtype).eps
    no_low, no_high = np.isneginf(lower), np.isposinf(upper)
    boxed = not (no_low.any() or no_high.any())
    margin = g * 0 if boxed else 16 * eps * (np.abs(P) @ np.abs(x) + np.abs(g))
    wanted = np.where(no_high, np.maximum(g, np.where(no_low, 0, margin)), g)
    r = np.where(no_low, np.minimum(wanted, np.where(no_high, 0, -margin)), wanted) - g
    d = np.zeros_like(x)
    if np.any(r != 0):
        factor = _factor(P.copy())
        if factor is None:
            return np.inf
        d = _solved(factor, r)
    Pd = P @ d
    after = g + Pd
    after[no_low & no_high & (np.abs(after) <= margin)] = 0
    down, up = after > 0, after < 0
    terms = after[down] @ (x - lower)[down] + after[up] @ (x - upper)[up]
    return float(abs(d @ Pd) / 2 + terms + 8 * eps * norm(x) * norm(np.abs(g) + np.abs(Pd)))


def _definite(P: Array) -> bool:
    """Whether the Cholesky factorisation exists, after a shift of the size of its rounding."""
    n, real = P.shape[0], np.finfo(P.dtype)
    trace = float(P.diagonal().sum())
    if n >= MANY and P.dtype == np.float64 and 0 < trace < np.inf:
        # Half the time in float32, and a proof where the shift, now to the other side, covers its rounding:
        # Higham, "Accuracy and Stability of Numerical Algorithms" (2002), theorem 10.3, (|R|ᵀ|R|)_ij <= √(a_ii a_jj).
        scaled = (P / trace).astype(np.float32)
        scaled.flat[:: n + 1] -= np.float32((n + 4) * np.finfo(np.float32).eps)
        if _factor(scaled) is not None:
            return True
    shifted = P.copy()
    shifted.flat[:: n + 1] += 16 * n * real.eps * P.diagonal().max(initial=0.0) + real.tiny
    return _factor(shifted) is not None


def _projected(x: Array, g: Array, lower: Array, upper: Array) -> Array:
    return np.where((x <= lower) & (g > 0) | (x >= upper) & (g < 0), 0, g)


def norm(v: Array) -> float:
    v = v.astype(np.float64, copy=False)
    return math.sqrt(v.dot(v))
