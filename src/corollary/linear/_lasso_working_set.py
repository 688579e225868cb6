"""Working sets with Newton steps on a Gram matrix: the solver of the Lasso and the elastic net.

Outer loop: the exact residual and Xᵀr give the duality gap; the features nearest to their constraint (smallest
(1 − |x_jᵀθ|)/‖x_j‖) form a working set whose size doubles with the support. Inner loop, on G = X_WᵀX_W: a cycle of
coordinate descent finds the support A, then a Newton step solves (G_AA + μ) w_A = X_Aᵀy − λ sign(w_A) and is
accepted, cut at the sign changes, where the objective falls. Both only lower the objective, and once the support is
found one Newton step is exact, so ill-conditioned data cost little more than good ones. The gradient is refreshed
from X at every outer step: the Gram matrix only ever acts on corrections, so its rounding does not limit the
accuracy.

Cost: O(np) per outer step, O(n k²) once for the Gram matrix of k features, O(k) per coordinate, O(|A|³/3) per Newton
step. Source: Massias, Gramfort and Salmon (2018) for the working sets; Friedman, Hastie and Tibshirani (2010) for
covariance updates.
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.linalg

from corollary.core.solution import Status
from corollary.linear import _lasso_coordinate as _coordinate
from corollary.linear._lasso_design import Design
from corollary.linear._lasso_duality import Gap, duality_gap

FIRST, EARLY_ROUNDS, INNER_ROUNDS = 64, 2, 40
SUPPORT_ROUNDS, SWEEPS = 1, 20


class Penalty(NamedTuple):
    """λ‖w‖₁ + ½μ‖w‖², and w ≥ 0 where `positive`."""

    lam: float
    mu: float
    positive: bool


class Residual(NamedTuple):
    """What the gap needs to know of r = y − Xw: ‖r‖², ⟨y, r⟩ and Xᵀr over all features."""

    rr: float
    yr: float
    corr: np.ndarray


class Quadratic(abc.ABC):
    """½‖y − Xw‖² restricted to a working set; holds its Gram matrix, padded to a power of two."""

    ids: np.ndarray  # features of the working set
    w: np.ndarray  # their coefficients
    G: np.ndarray  # padded Gram matrix
    yy: float
    size: int  # p
    eps: float
    norm2: np.ndarray

    @abc.abstractmethod
    def residual(self) -> Residual:
        """Afresh, from the data."""

    @abc.abstractmethod
    def choose(self, res: Residual, gap: Gap, pen: Penalty) -> bool:
        """Adapt the working set to the violated constraints; whether anything changed."""

    def rounding(self) -> float:
        """Rounding of the objective at the current coefficients: a few eps times its largest terms."""
        reach = np.sqrt(self.yy) + float(np.sqrt(self.norm2[self.ids]) @ np.abs(self.w))
        return 8 * self.eps * reach * np.sqrt(self.yy)

    def full(self) -> np.ndarray:
        """Coefficients over all features."""
        out = np.zeros(self.size)
        out[self.ids] = self.w
        return out


class Gram(Quadratic):
    """All features at once, from XᵀX and Xᵀy alone: for many more rows than features."""

    def __init__(self, G: np.ndarray, c: np.ndarray, yy: float, w: np.ndarray | None = None):
        p = len(c)
        self.size, self.ids, self.yy, self.c, self.eps = p, np.arange(p), yy, c, 2.0**-52
        self.G = _aligned(_coordinate.bucket(p))
        self.G[:p, :p] = G
        self.norm2 = np.diagonal(G)
        self.w = np.zeros(p) if w is None else w.copy()

    def residual(self) -> Residual:
        corr = self.c - self.G[: self.size, : self.size] @ self.w
        rr, yr = self.yy - float(self.w @ (self.c + corr)), self.yy - float(self.w @ self.c)
        return Residual(max(rr, 0.0), yr, corr)

    def choose(self, res: Residual, gap: Gap, pen: Penalty) -> bool:
        return False


class Columns(Quadratic):
    """A growing set of columns of X: where the Gram matrix of all would cost more than it saves."""

    def __init__(self, design: Design, y: np.ndarray, w: np.ndarray | None = None):
        self.design, self.y, self.yy = design, y, float(y @ y)
        self.size, self.norm2, self.eps = design.shape[1], design.norm2, design.eps
        self.ids, self.w = np.zeros(0, np.intp), np.zeros(0)
        self.block: Any = design.rows(self.ids)
        self.G = _aligned(0)
        if w is not None and w.any():
            self._set(np.flatnonzero(w))
            self.w = w[self.ids].copy()

    def residual(self) -> Residual:
        live = self.w != 0
        r = self.y - self.design.combine(self.block[live], self.ids[live], self.w[live]) if live.any() else self.y
        return Residual(float(r @ r), float(self.y @ r), self.design.correlate(r))

    def choose(self, res: Residual, gap: Gap, pen: Penalty) -> bool:
        room = len(self.ids)
        if room == self.size:
            return False
        support = self.ids[self.w != 0]
        size = np.abs(res.corr) if not pen.positive else res.corr
        live = np.sqrt(np.maximum(self.norm2, np.finfo(float).tiny))
        score = (pen.lam - gap.scale * size) / live  # distance to the constraint; support first
        score[support] = -np.inf
        score[self.norm2 == 0] = np.inf
        inside = np.zeros(self.size, bool)
        inside[self.ids] = True
        violators = np.flatnonzero((size > pen.lam) & ~inside)
        wanted = _coordinate.bucket(max(3 * len(support) // 2, len(support) + len(violators) // 4), FIRST)
        if wanted > room or room == 0:
            target = min(max(wanted, room), 2 * max(room, FIRST // 2, len(support)), self.size)
            target = min(_coordinate.bucket(target, FIRST), self.size)
            if target > room:
                self._set(_smallest(score, target))
                return True
        if not len(violators):
            return False
        # Full house: the nearest violators replace idle features that are farthest from their constraint.
        idle = np.flatnonzero(self.w == 0)
        count = min(len(violators), len(idle))
        enter = violators[_smallest(score[violators], count)]
        leave = idle[_smallest(-score[self.ids[idle]], count)]
        self._replace(leave, enter)
        return count > 0

    def _set(self, ids: np.ndarray) -> None:
        """Grow to the features `ids`, keeping what is stored and needed."""
        new = np.setdiff1d(ids, self.ids)
        old = len(self.ids)
        G = _aligned(_coordinate.bucket(old + len(new), FIRST))
        G[:old, :old] = self.G[:old, :old]
        self.G, self.ids = G, np.concatenate([self.ids, new])
        self.w = np.concatenate([self.w, np.zeros(len(new))])
        self._fill(np.arange(old, len(self.ids)))

    def _replace(self, slots: np.ndarray, ids: np.ndarray) -> None:
        self.ids[slots] = ids
        self._fill(slots)

    def _fill(self, slots: np.ndarray) -> None:
        k, new = len(self.ids), self.ids[slots]
        rows = self.design.rows(new)
        if isinstance(rows, np.ndarray):
            if len(self.block) < k:
                self.block = np.concatenate([self.block, rows])
            else:
                self.block[slots] = rows
        else:
            self.block = self.design.rows(self.ids)
        part = self.design.inner(rows, new, self.block, self.ids)
        self.G[slots, :k] = part
        self.G[:k, slots] = part.T


class Outcome(NamedTuple):
    """How one penalty's solve ended."""

    w: np.ndarray
    gap: Gap
    residual: Residual
    rounding: float
    status: int
    steps: int
    history: list[float]


def solve(problem: Quadratic, pen: Penalty, tol: float, max_steps: int, history: list[float] | None = None) -> Outcome:
    """Minimise F from the problem's current coefficients until the exact gap is at most `tol`."""
    history = [] if history is None else history
    best, stalled = np.inf, 0
    for step in range(max_steps + 1):
        res = problem.residual()
        gap = duality_gap(res.rr, res.yr, res.corr, problem.w, problem.ids, pen.lam, pen.mu, pen.positive)
        history.append(gap.gap)
        if not np.isfinite(gap.gap):
            status = Status.NON_FINITE
            break
        if gap.gap <= tol:
            status = Status.CONVERGED
            break
        if step == max_steps:
            status = Status.MAX_STEPS
            break
        changed = problem.choose(res, gap, pen)
        stalled = 0 if changed or gap.gap < 0.9 * best else stalled + 1
        best = min(best, gap.gap)
        if stalled > 5:
            status = Status.PRECISION
            break
        inner_tol = 0.3 * tol if not changed else max(0.3 * gap.gap, 0.3 * tol)
        _descend(problem, res, pen, inner_tol, EARLY_ROUNDS if changed else INNER_ROUNDS)
    return Outcome(problem.full(), gap, res, problem.rounding(), status, step, history)


def _descend(problem: Quadratic, res: Residual, pen: Penalty, tol: float, rounds: int) -> None:
    """Lower F on the working set until its own gap is at most `tol`.

    Each round sweeps once over the working set, then works on the support alone: its small Gram matrix stays in
    cache.
    """
    k, w, g = len(problem.ids), problem.w.copy(), res.corr[problem.ids]
    G, w0, g0 = problem.G[:k, :k], w.copy(), g.copy()
    c = g0 + G @ w0  # X_Wᵀ y

    def gap() -> float:
        d = w - w0
        rr, yr = res.rr - float(d @ (g0 + g)), res.yr - float(d @ c)
        return duality_gap(max(rr, 0.0), yr, g, w, np.arange(k), pen.lam, pen.mu, pen.positive).gap

    for _ in range(rounds):
        w, g = _sweep(problem.G, w, g, pen, 1)
        A = np.flatnonzero(w)
        if len(A) and gap() > tol:
            a = len(A)
            H = _aligned(_coordinate.bucket(a))
            H[:a, :a] = G[np.ix_(A, A)]
            wA, gA = w[A], g[A]
            for _ in range(SUPPORT_ROUNDS):
                wA, gA = _sweep(H, wA, gA, pen, SWEEPS)
                if _newton(H[:a, :a], wA, gA, pen):
                    break
            step = wA - w[A]
            w[A] = wA
            g = g - step @ G[A]
        if not gap() > tol:
            break
    problem.w = w


def _sweep(G: np.ndarray, w: np.ndarray, g: np.ndarray, pen: Penalty, times: int) -> tuple[np.ndarray, np.ndarray]:
    """Sweeps of coordinate descent by the compiled kernel, which reads the padded Gram matrix where it lies."""
    k, K = len(w), len(G)
    padded = np.zeros((2, K))
    padded[0, :k], padded[1, :k] = w, g
    with jax.enable_x64(True):
        settings = np.float64(pen.lam), np.float64(pen.mu), np.bool_(pen.positive), np.int64(k), np.int64(times)
        w, g = _coordinate.sweep(jax.dlpack.from_dlpack(G), padded[0], padded[1], *settings)
        return np.array(w)[:k], np.array(g)[:k]  # copies, and so waited for before G changes again


def _newton(H: np.ndarray, w: np.ndarray, g: np.ndarray, pen: Penalty) -> bool:
    """Newton steps on the support and its signs, in place; whether the last one was exact there.

    Coefficients that would change their sign are cut to zero if F falls; else the best point of the line is taken,
    which mostly is where a coefficient vanishes: many cheap steps for a small support, few for a large one.
    """
    for _ in range(1 + 512 // len(w)):
        A = np.flatnonzero(w)
        if not len(A):
            return True
        wA, sign = w[A], np.sign(w[A])
        HA = H if len(A) == len(w) else H[np.ix_(A, A)]
        slope = g[A] - pen.mu * wA - pen.lam * sign
        d = _solve_positive(HA, slope, pen.mu)
        if d is None:
            return True
        kept = (wA + d) * sign > 0
        step = np.where(kept, d, -wA)
        exact = bool(kept.all())
        if not exact and _change(step, HA @ step, wA, slope, sign, pen) > 0:
            t, gone = _line_search(wA, d, HA @ d, slope, sign, pen)
            step = np.where(gone, -wA, t * d)
        w[A] = wA + step
        g -= step @ H[A]
        if exact:
            return True
    return False


def _change(d: np.ndarray, Hd: np.ndarray, w: np.ndarray, slope: np.ndarray, sign: np.ndarray, pen: Penalty) -> float:
    """F(w + d) − F(w)."""
    curved = d @ Hd / 2 + pen.mu * (d @ d) / 2 - slope @ d
    return float(curved + pen.lam * (np.abs(w + d) - np.abs(w) - sign * d).sum())


def _line_search(
    w: np.ndarray, d: np.ndarray, Hd: np.ndarray, slope: np.ndarray, sign: np.ndarray, pen: Penalty
) -> tuple[float, np.ndarray]:
    """The exact minimiser t of F(w + t d) on [0, 1], quadratic between zeros of coefficients; and which vanish at t."""
    zeros = np.full(len(w), np.inf)
    np.divide(-w, d, out=zeros, where=d != 0)
    crossing = np.flatnonzero((zeros > 0) & (zeros < 1))
    order = crossing[np.argsort(zeros[crossing])]
    curvature = float(d @ Hd + pen.mu * (d @ d))
    fall, t = float(slope @ d), 0.0
    for end, kink in [(float(zeros[j]), 2 * pen.lam * abs(float(d[j]))) for j in order] + [(1.0, 0.0)]:
        if fall <= end * curvature:  # the slope at `end` is no longer negative
            t = max(fall / curvature, t) if curvature > 0 else t
            break
        t, fall = end, fall - kink
        if pen.positive:
            break
    return t, zeros == t


def _solve_positive(H: np.ndarray, b: np.ndarray, mu: float) -> np.ndarray | None:
    """(H + μ)⁻¹ b by Cholesky; a singular H is lifted by the least multiple of its rounding that makes it definite."""
    top = float(H.diagonal().max())
    for lift in (0.0, 1e-14, 1e-12, 1e-10, 1e-8):
        M = H.copy()
        M[np.diag_indices_from(M)] += mu + lift * top * len(b)
        try:
            factor = scipy.linalg.cho_factor(M, lower=True, overwrite_a=True, check_finite=False)
        except scipy.linalg.LinAlgError:
            continue
        d = scipy.linalg.cho_solve(factor, b, check_finite=False)
        if np.isfinite(d).all() and b @ d >= 0:
            return d
    return None


def _smallest(score: np.ndarray, count: int) -> np.ndarray:
    return np.arange(len(score)) if count >= len(score) else np.argpartition(score, count)[:count]


def _aligned(k: int) -> np.ndarray:
    """A zero (k, k) matrix on a 64-byte boundary, which the compiled kernels read without a copy."""
    raw = np.zeros(k * k * 8 + 64, np.uint8)
    offset = -raw.ctypes.data % 64
    return raw[offset : offset + k * k * 8].view(np.float64).reshape(k, k)
