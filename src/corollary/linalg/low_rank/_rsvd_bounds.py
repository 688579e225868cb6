"""Errors of randomized factorisations: before the run from the spectrum, after it from a few probe vectors.

A priori (Halko, Martinsson & Tropp 2011): how far the range finder's error exceeds the best rank-k error. A posteriori:
a Gaussian probe ω that the factorisation has not seen measures its error, since E‖Eω‖² = ‖E‖_F² and, with r probes,
‖E‖₂ ≤ α √(2/π) max ‖Eω_i‖ except with probability α^{-r}. Cost: O(1) from a spectrum; r products with A after the run.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg._products import Block, products

HMT = "Halko, Martinsson & Tropp, Finding structure with randomness, SIAM Review 53 (2011)"
Number = Float[Array, ""] | Float[np.ndarray, ""] | Float[np.floating, ""] | float


class RsvdBounds(eqx.Module):
    """What theory promises of a rank-k range finder with p extra columns; see `rsvd_error_bounds`."""

    expected_frobenius: Number
    expected_spectral: Number
    deviation_spectral: Number
    confidence: Number


@follows_input
def rsvd_error_bounds(
    singular_values: Any, rank: Any, oversampling: Any, m: Any, n: Any, *, power_iterations: Any = 0
) -> RsvdBounds:
    """A priori bounds on ‖A − QQᵀA‖ for a Gaussian range finder of k + p columns.

    Use it to choose the oversampling, or to hold a run against its theorem. Cost: O(min(m, n)).

    Parameters
    ----------
    singular_values
        All min(m, n) singular values of A, decreasing (those left out count as zero).
    rank
        k ≥ 2 in the theorem; k = 1 is accepted.
    oversampling
        p ≥ 2: the variance of a Gaussian pseudo-inverse is infinite below. The deviation bound needs p ≥ 4.
    m, n
        The matrix's shape.
    power_iterations
        q of the power scheme (AAᵀ)^q A Ω; the spectral bounds contract to their (2q + 1)-th root in front of σ_{k+1}.

    Returns
    -------
    RsvdBounds
        ``expected_frobenius``: √(1 + k/(p−1)) (Σ_{j>k} σ_j²)^{1/2} (Theorem 10.5; stated for q = 0 and monotone in q);
        ``expected_spectral``: (1 + 4√(k+p)/(p−1) √min(m,n)) σ_{k+1} (eq. 1.8), and for q ≥ 1 Corollary 10.10;
        ``deviation_spectral``: (1 + 11 √(k+p) √min(m,n))^{1/(2q+1)} σ_{k+1} (eq. 1.9), which holds with probability
        at least ``confidence`` = 1 − 6 p^{−p}.

    Raises
    ------
    InputError
        For p < 2, k < 1, or singular values that are negative or increase.

    Notes
    -----
    The factor 4√(k+p)/(p−1) bounds the expectation only; the deviation bound has 11 √(k+p) and its own probability.

    Examples
    --------
    >>> import numpy as np
    >>> b = rsvd_error_bounds(np.array([1.0, 0.1, 0.1]), 1, 3, 3, 3)
    >>> round(float(b.expected_frobenius), 4)  # √(1 + 1/2) · √0.02
    0.1732
    """
    s = validation.vector("singular_values", singular_values)
    k, p = validation.integer(1)("rank", rank), validation.integer(2)("oversampling", oversampling)
    small = min(validation.integer(1)("m", m), validation.integer(1)("n", n))
    q = validation.integer(0)("power_iterations", power_iterations)
    if not isinstance(s, Tracer) and bool((jnp.diff(s) > rounding(s[:-1])).any() or (s < 0).any()):
        raise InputError("singular_values: found a negative or an increasing entry, expected s_1 >= s_2 >= ... >= 0")
    tail = s[k:] if k < s.shape[0] else jnp.zeros(1, s.dtype)
    top = jnp.max(jnp.abs(tail))
    frobenius = top * jnp.sqrt(jnp.sum(jnp.square(tail / jnp.where(top > 0, top, 1))))
    spectral, deviation = _spectral_factors(k, p, small, q)
    return RsvdBounds(math.sqrt(1 + k / (p - 1)) * frobenius, spectral * tail[0], deviation * tail[0], confidence(p))


def _spectral_factors(k: int, p: int, small: int, q: int) -> tuple[float, float]:
    """What multiplies σ_{k+1}: in expectation, and with probability 1 − 6 p^{−p}."""
    if q == 0:
        expected = 1 + 4 * math.sqrt(k + p) / (p - 1) * math.sqrt(small)
    else:
        inner = 1 + math.sqrt(k / (p - 1)) + math.e * math.sqrt(k + p) / p * math.sqrt(max(small - k, 0))
        expected = inner ** (1 / (2 * q + 1))
    return expected, (1 + 11 * math.sqrt(k + p) * math.sqrt(small)) ** (1 / (2 * q + 1))


def confidence(p: int) -> float:
    """1 − 6 p^{−p}, from p = 4 on; 0 where the theorem says nothing."""
    return max(1 - 6 * float(p) ** -p, 0.0) if p >= 4 else 0.0


@follows_input
def posterior_error(A: Any, Q: Any, *, probes: Any = 10, alpha: Any = 10.0, key: Key[Array, ""]) -> Solution:
    """A posteriori error of a range: ‖A − QQᵀA‖₂ ≤ α √(2/π) max_i ‖(I − QQᵀ) A ω_i‖ with probability 1 − α^{−r}.

    Use it to check any orthonormal Q, wherever it came from, provided that it does not depend on `key`. Cost: one block
    product with A for r columns and O(m l r).

    Parameters
    ----------
    A
        (m, n) dense or sparse matrix, or operator.
    Q
        (m, l) with orthonormal columns.
    probes
        r, the number of fresh Gaussian vectors ω_i.
    alpha
        α > 1: a smaller one gives a tighter bound with less confidence.
    key
        `jax.random.key`; must not be the one that `Q` was drawn with.

    Returns
    -------
    Solution
        ``value``: the bound on the spectral error. ``certificates``: ``"spectral_error"`` (probabilistic: the largest
        ‖(I − QQᵀ)Aω_i‖/‖ω_i‖, which the error cannot be below, against the bound, which it exceeds with probability
        at most α^{−r}), ``"frobenius_error"`` (estimate with standard error) and ``"orthogonality"`` (exact).

    Raises
    ------
    InputError
        For shapes that do not fit.

    Notes
    -----
    Source: Halko, Martinsson & Tropp (2011), Lemma 4.1 and eq. 4.3.

    Examples
    --------
    >>> import jax, numpy as np
    >>> bound = posterior_error(np.diag([3.0, 2.0, 0.0]), np.eye(3)[:, :2], key=jax.random.key(0)).value
    >>> bool(bound < 1e-12)
    True
    """
    P = products(A, key)
    r = validation.integer(1)("probes", probes)
    validation.number(1, open_low=True)("alpha", alpha)
    Q = P.xp.asarray(validation.matrix("Q", Q, host=True)).astype(P.dtype)
    if Q.shape[0] != P.shape[0]:
        raise InputError(f"Q: found {Q.shape[0]} rows, expected {P.shape[0]} as in A")
    omega = P.normal(key, P.shape[1], r)
    image = P.apply(omega)
    residual = image - Q @ (Q.T @ image)
    certificates = probe_certificates(residual - Q @ (Q.T @ residual), omega, image, alpha, "A − QQᵀA", P.xp)
    certificates["orthogonality"] = orthogonality(P.xp, Q=Q)
    return P.out(Solution(certificates["spectral_error"].bound, certificates))


def probe_certificates(
    residual: Block, omega: Block, image: Block, alpha: float, what: str, xp: Any, floor: Any = 0.0
) -> dict[str, Certificate]:
    """Both errors of E = `what` from its products E ω_i (`residual`); `image` = A ω_i sets the rounding.

    `floor` is a lower bound of ‖E‖₂ that is known otherwise: for a rank-k factorisation, a Ritz value below σ_{k+1}.
    """
    r = omega.shape[1]
    lengths = norms(residual, xp)
    noise = 8 * float(np.finfo(residual.dtype).eps) * xp.max(norms(image, xp))
    top = xp.max(lengths)
    scaled = xp.square(lengths / xp.where(top > 0, top, 1))  # E‖Eω‖² = ‖E‖_F²; scaled, so that squares cannot overflow
    mean = xp.mean(scaled)
    spread = xp.sqrt(xp.sum(xp.square(scaled - mean)) / max(r - 1, 1) / r)
    root = xp.sqrt(xp.where(mean > 0, mean, 1))
    return {
        "spectral_error": Certificate(
            f"lower bound <= ‖E‖₂ <= {alpha:.3g}·√(2/π)·max ‖Eω‖ for E = {what} and {r} fresh Gaussian ω",
            measured=xp.maximum(xp.max(lengths / norms(omega, xp)), floor),
            bound=alpha * math.sqrt(2 / math.pi) * (top + noise),
            kind="probabilistic",
            confidence=1 - float(alpha) ** -r,
            source=f"{HMT}, Lemma 4.1",
        ),
        "frobenius_error": Certificate(
            f"‖E‖_F for E = {what}, from {r} fresh Gaussian probes",
            measured=top * xp.sqrt(mean),
            stderr=top * spread / (2 * root),
            kind="estimate",
            source="E‖Eω‖² = ‖E‖_F²",
        ),
    }


def orthogonality(xp: Any, **factors: Any) -> Certificate:
    """‖FᵀF − I‖_F of each named factor F with orthonormal columns, against the rounding of its products."""
    defects = [xp.linalg.norm(F.T @ F - xp.eye(F.shape[1], dtype=F.dtype)) for F in factors.values()]
    scale = max(math.sqrt(F.shape[0]) * F.shape[1] for F in factors.values())
    first = next(iter(factors.values()))
    return Certificate(
        f"orthonormal columns: ‖FᵀF − I‖_F at rounding level for F = {', '.join(factors)}",
        measured=xp.max(xp.stack(defects)),
        bound=16 * float(np.finfo(first.dtype).eps) * scale,
        kind="exact",
        source="computed",
    )


def norms(block: Block, xp: Any) -> Any:
    """Column lengths, without overflow of the squares."""
    top = xp.max(xp.abs(block))
    safe = xp.where(top > 0, top, 1)
    return safe * xp.sqrt(xp.sum(xp.square(block / safe), axis=0))
