"""Duality of ½‖y − Xw‖² + λ‖w‖₁ + ½μ‖w‖²: the gap, the optimality residual and the safe sphere around the dual
optimum.

Any multiple s of the residual r (continued by −s√μ w below y, which turns the elastic net into a Lasso with more
rows) is dual feasible once |s| ‖Xᵀr − μw‖_∞ ≤ λ, and D(s) = s⟨y, r⟩ − ½s²(‖r‖² + μ‖w‖²) is a lower bound of the
optimum; the best s is chosen. For μ > 0 the other dual, D = ⟨y, r⟩ − ½‖r‖² − Σ(|x_jᵀr| − λ)₊² / 2μ, needs no
scaling; the larger of the two counts. Source: Fercoq, Gramfort and Salmon (2015), section 2; Massias, Gramfort and
Salmon (2018), section 2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Gap(NamedTuple):
    """F(w) less its best lower bound; and, for the safe sphere, F(w) − D(s·r) with s itself."""

    gap: float
    primal: float
    scale: float
    sphere: float


def duality_gap(
    rr: float, yr: float, corr: np.ndarray, w: np.ndarray, active: np.ndarray, lam: float, mu: float, positive: bool
) -> Gap:
    """The gap of coefficients `w` on the features `active`, from ‖r‖², ⟨y, r⟩ and Xᵀr over all features."""
    ww = float(w @ w)
    q = corr.copy()
    q[active] -= mu * w
    top = max(float(q.max(initial=0.0)), 0.0 if positive else -float(q.min(initial=0.0)))
    norm = rr + mu * ww
    primal = rr / 2 + lam * float(np.abs(w).sum()) + mu * ww / 2
    s = max(yr / norm, 0.0) if norm > 0 else 0.0
    s = min(s, lam / top) if top > 0 else s
    dual = s * yr - s * s * norm / 2
    sphere = primal - dual
    if mu > 0:
        excess = np.maximum((corr if positive else np.abs(corr)) - lam, 0)
        dual = max(dual, yr - rr / 2 - float(excess @ excess) / (2 * mu))
    return Gap(primal - max(dual, 0.0), primal, s, sphere)


def optimality_residual(
    corr: np.ndarray, w: np.ndarray, norm2: np.ndarray, lam: float, mu: float, positive: bool
) -> float:
    """max_j √L_j |w_j − argmin over w_j|, L_j = ‖x_j‖² + μ: zero only at the optimum.

    Each exact coordinate step lowers F by at least ½L_j·step², so this never exceeds √(2 (F(w) − F*)).
    """
    L = norm2 + mu
    z = norm2 * w + corr
    best = np.maximum(z - lam, 0) if positive else np.sign(z) * np.maximum(np.abs(z) - lam, 0)
    live = norm2 > 0
    steps = np.where(live, w - best / np.where(live, L, 1), w)
    return float((np.sqrt(L) * np.abs(steps)).max(initial=0.0))


def safe_to_discard(
    corr: np.ndarray, w: np.ndarray, norm2: np.ndarray, gap: Gap, lam: float, mu: float, positive: bool, slack: float
) -> np.ndarray:
    """Features that are zero at every optimum: |x̃_jᵀ θ| + ‖x̃_j‖ √(2 gap) < λ (gap-safe sphere).

    `slack` is the rounding of the gap; it widens the sphere.
    """
    q = gap.scale * (corr - mu * w)
    radius = np.sqrt(2 * (max(gap.sphere, 0.0) + slack))
    reach = np.sqrt(norm2 + mu) * (radius + np.sqrt(slack))
    return (q if positive else np.abs(q)) + reach < lam
