"""The projected Newton steps of `_bounded` on the host: only the free block is factorised, and nothing is dispatched.

Compiled, the shapes are fixed and the whole matrix is factorised each step; on NumPy data the free block alone is,
which for a small problem costs less than one call of a compiled program. Same steps, same rule, same answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

from corollary.core.certificate import Assumption, Certificate
from corollary.core.solution import Solution, Status

HALVINGS = 30

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
        top = _norm(g) / float(sides.max(initial=0.0) or 1.0) or 1.0
    ridge = x.dtype.type(x.size * eps * top)
    steps, stuck = 0, False
    while not (done := _norm(_projected(x, g, lower, upper)) <= tol * size) and steps < max_steps and not stuck:
        x, moved = _newton_step(P, x, g, lower, upper, ridge)
        g, size = gradient(x)
        steps, stuck = steps + 1, not moved
    held = _norm(_projected(x, g, lower, upper))
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


def _newton_step(P: Array, x: Array, g: Array, lower: Array, upper: Array, ridge: Any) -> tuple[Array, bool]:
    free = np.flatnonzero(~(((x <= lower) & (g > 0)) | ((x >= upper) & (g < 0))))
    whole = free.size == x.size
    H = P.copy() if whole else P[np.ix_(free, free)]
    H.flat[:: free.size + 1] += ridge
    push = g[free]
    try:
        factor = scipy.linalg.cho_factor(H, lower=True, overwrite_a=True, check_finite=False)
        d = -scipy.linalg.cho_solve(factor, push, check_finite=False)
        usable = bool(np.isfinite(d).all() and push @ d < 0)
    except np.linalg.LinAlgError:
        usable, d = False, push
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
    margin = 16 * eps * (np.abs(P) @ np.abs(x) + np.abs(g))
    wanted = np.where(no_high, np.maximum(g, np.where(no_low, 0, margin)), g)
    r = np.where(no_low, np.minimum(wanted, np.where(no_high, 0, -margin)), wanted) - g
    d = np.zeros_like(x)
    if np.any(r != 0):
        try:
            factor = scipy.linalg.cho_factor(P, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return np.inf
        d = scipy.linalg.cho_solve(factor, r, check_finite=False)
    Pd = P @ d
    after = g + Pd
    after[no_low & no_high & (np.abs(after) <= margin)] = 0
    down, up = after > 0, after < 0
    terms = after[down] @ (x - lower)[down] + after[up] @ (x - upper)[up]
    return float(abs(d @ Pd) / 2 + terms + 8 * eps * _norm(x) * _norm(np.abs(g) + np.abs(Pd)))


def _definite(P: Array) -> bool:
    """Whether the Cholesky factorisation exists, after a shift of the size of its rounding."""
    shifted, real = P.copy(), np.finfo(P.dtype)
    shifted.flat[:: P.shape[0] + 1] += 16 * P.shape[0] * real.eps * P.diagonal().max(initial=0.0) + real.tiny
    try:
        scipy.linalg.cho_factor(shifted, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        return False
    return True


def _projected(x: Array, g: Array, lower: Array, upper: Array) -> Array:
    return np.where((x <= lower) & (g > 0) | (x >= upper) & (g < 0), 0, g)


def _norm(v: Array) -> float:
    return float(np.linalg.norm(v.astype(np.float64)))
