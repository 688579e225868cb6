"""Spectral radius and transient growth: how large A^k becomes, at last and on the way.

When: before iterating x ← A x (a recurrent network, a fixed-point method, a time step): ρ(A) < 1 makes the powers decay
in the end, but a non-normal A may amplify hugely first. The Kreiss constant K = sup_{|z|>1} (|z| − 1)‖(zI − A)⁻¹‖
brackets the peak: K ≤ sup_k ‖A^k‖ ≤ e n K. Cost: O(n³) for each power and each of about 300 resolvent norms.
Source: Kreiss (1962); Spijker (1991); Trefethen & Embree, Spectra and Pseudospectra (2005), §16, §18.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Complex, Float

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.linalg.eigen._iteration import Scalar

Number = Float[Array, ""] | np.ndarray | np.floating
ANGLES, RADII, STARTS, ROUNDS = 12, 12, 2, 16
KREISS = "Kreiss (1962), Spijker (1991): Trefethen & Embree, Spectra and Pseudospectra (2005), §18"


class SpectralRadius(eqx.Module):
    """ρ(A), the norms of the powers, and the Kreiss constant; `.plot()` draws them."""

    radius: Number
    power_norms: Float[Array, " k"] | np.ndarray  # ‖A^k‖₂ for k = 0, 1, ..., powers
    peak: Number  # the largest of them
    kreiss: Number  # a lower estimate of K (infinite for ρ > 1)
    kreiss_point: Complex[Array, ""] | np.ndarray | np.complexfloating  # the z that gives it
    transient_bound: Number  # e·n·kreiss
    certificates: dict[str, Certificate]

    def plot(self, ax: Any = None) -> Any:
        """‖A^k‖ over k beside ρ^k and the two Kreiss bounds of its peak."""
        from corollary.core import draw

        ax = draw.axes(ax, title="Transient growth", xlabel="power k", ylabel="‖A^k‖₂")
        norms = np.asarray(self.power_norms, dtype=float)
        k = np.arange(len(norms))
        shown = np.isfinite(norms) & (norms > 0)
        ax.plot(k[shown], norms[shown], color=draw.ACCENT, linewidth=1.6, label="‖A^k‖")
        decay = float(self.radius) ** k
        ax.plot(k[decay > 0], decay[decay > 0], color=draw.INK, linewidth=1.2, label="ρ^k")
        for value, label in ((self.kreiss, "K"), (self.transient_bound, "e n K")):
            if np.isfinite(value):
                ax.axhline(float(value), color=draw.BOUND, linestyle="--", linewidth=1.2, label=label)
        ax.set_yscale("log")
        ax.legend(frameon=False)
        return ax


@follows_input
def spectral_radius(A: Any, *, powers: Any = 100) -> SpectralRadius:
    """ρ(A), ‖A^k‖₂ for k ≤ `powers`, and the Kreiss constant with its bound of the transient.

    Use it for dense matrices up to a few hundred rows. It can be jitted and vmapped on a CPU (the eigenvalues of a
    general matrix are LAPACK's).

    Parameters
    ----------
    A
        (n, n) real matrix.
    powers
        How many powers to form. Their norms are kept through a running scale, so none over- or underflows early.

    Returns
    -------
    SpectralRadius
        ``radius``, ``power_norms`` (powers + 1,), ``peak``, ``kreiss``, ``kreiss_point``, ``transient_bound``,
        ``certificates``. ``kreiss`` is the largest value found by a grid and its refinement: a lower estimate of K.
        With ρ > 1 it is infinite; with ρ = 1 it is finite only if the eigenvalues of modulus one are semisimple, and a
        value that keeps growing as z nears the circle is then all that can be seen.

    Raises
    ------
    InputError
        For a matrix that is not square, real and finite.

    Notes
    -----
    Certificates: ``gelfand`` (theorem): ρ ≤ ‖A^k‖^{1/k} for every k, with the rounding of the computed eigenvalues,
    which for a defective one of order m is of the order eps^{1/m}; ``kreiss_lower`` (theorem): K ≤ sup ‖A^k‖, which
    may need more powers to be seen (its assumption then fails); ``kreiss_upper`` (theorem): sup ‖A^k‖ ≤ e n K, against
    the lower estimate of K, hence sharper than the theorem.
    Source: Trefethen & Embree (2005), §18 (the Kreiss matrix theorem); Horn & Johnson (2013), Corollary 5.6.14.

    Examples
    --------
    >>> import numpy as np
    >>> found = spectral_radius(np.array([[0.9, 100.0], [0.0, 0.9]]))
    >>> float(found.radius), round(float(found.peak)), bool(found.kreiss > 100)
    (0.9, 387, True)
    """
    validation.integer(1)("powers", powers)
    A = validation.matrix("A", A)
    if A.shape[0] != A.shape[1]:
        raise InputError(f"A: found shape {A.shape}, expected a square matrix")
    return _analyse(powers, A)


@partial(jax.jit, static_argnums=0)
def _analyse(powers: int, A: Float[Array, "n n"]) -> SpectralRadius:
    n, eps = A.shape[0], jnp.finfo(A.dtype).eps
    top = jnp.max(jnp.abs(A))
    unit = A / jnp.where(top > 0, top, 1)  # A/max|a_ij|, whose norm is between 1 and n
    size = jnp.linalg.norm(unit, 2)
    safe = jnp.where(size > 0, size, 1)
    B = unit / safe  # ‖B‖ = 1
    eigenvalues = jnp.linalg.eigvals(B)
    radius = jnp.max(jnp.abs(eigenvalues))
    norm = top * size
    k = jnp.arange(1, powers + 1, dtype=A.dtype)
    logs = _log_norms(B, powers)  # of ‖B^k‖
    log_norm = jnp.where(norm > 0, jnp.log(jnp.where(norm > 0, norm, 1)), -jnp.inf)
    power_norms = jnp.concatenate([jnp.ones(1, A.dtype), jnp.exp(logs + k * log_norm)])
    peak = jnp.max(power_norms)
    kreiss, point = _kreiss(A, radius * norm, eigenvalues * lax.complex(norm, jnp.zeros_like(norm)), norm)

    # The eigenvalues are exact for B + E, ‖E‖ <= δ; with ‖B‖ = 1, ‖(B + E)^k‖ <= ‖B^k‖ + k δ (1 + δ)^k.
    delta, slack = 8 * n * eps, 1 + (64 + 8 * n**0.5) * eps
    roots = (jnp.exp(logs) + k * delta * (1 + delta) ** k) ** (1 / k)
    blows_up = radius * norm > 1 + delta * norm
    # Where ‖A^{k₀}‖ <= 1, ‖A^{k₀+j}‖ <= ‖A^j‖: the peak is then over all k.
    seen = (kreiss <= peak * slack) | jnp.any(power_norms[1:] <= 1) | blows_up
    certificates = {
        "gelfand": Certificate(
            "ρ(A) <= ‖A^k‖^{1/k} for every k: against the least of them",
            radius * norm,
            jnp.min(roots) * norm * slack,
            "theorem",
            "Gelfand (1941): Horn & Johnson, Matrix Analysis, 2nd ed. (2013), Corollary 5.6.14",
        ),
        "kreiss_lower": Certificate(
            "K <= sup ‖A^k‖ (both infinite for ρ > 1)",
            kreiss,
            jnp.where(blows_up, jnp.inf, peak * slack),
            "theorem",
            KREISS,
            assumptions=(Assumption("enough powers: the peak reaches K, or some ‖A^k‖ <= 1, or ρ > 1", True, seen),),
        ),
        "kreiss_upper": Certificate(
            "sup ‖A^k‖ <= e n K, with the estimate of K from below",
            peak,
            math.e * n * kreiss * slack,
            "theorem",
            KREISS,
        ),
    }
    return SpectralRadius(radius * norm, power_norms, peak, kreiss, point, math.e * n * kreiss, certificates)


def _log_norms(B: Float[Array, "n n"], powers: int) -> Float[Array, " k"]:
    """log ‖B^k‖₂, k = 1..powers; −∞ from where the power is zero."""

    def step(state: tuple, _: None) -> tuple:
        P, log = state
        P = P @ B
        size = jnp.linalg.norm(P, 2)
        log = log + jnp.where(size > 0, jnp.log(jnp.where(size > 0, size, 1)), -jnp.inf)
        return (P / jnp.where(size > 0, size, 1), log), log

    return lax.scan(step, (jnp.eye(B.shape[0], dtype=B.dtype), jnp.zeros((), B.dtype)), None, powers)[1]


def _kreiss(A: Array, radius: Scalar, eigenvalues: Array, norm: Scalar) -> tuple[Scalar, Complex[Array, ""]]:
    """max of f(z) = (|z| − 1)/σ_min(zI − A) over a polar grid, then over ever smaller crosses about the best points."""
    kind = A.dtype
    eye, complex_A = jnp.eye(A.shape[0], dtype=eigenvalues.dtype), lax.complex(A, jnp.zeros_like(A))

    def f(log_height: Array, angle: Array) -> Array:
        z = _polar(1 + jnp.exp(log_height), angle)
        # From below: less the rounding of |z| − 1, over σ_min plus that of the SVD.
        noise = 8 * jnp.finfo(kind).eps * (jnp.abs(z) + norm)
        height = jnp.maximum(jnp.exp(log_height) - 2 * jnp.finfo(kind).eps * jnp.abs(z), 0)
        return height / (jnp.linalg.svd(z * eye - complex_A, compute_uv=False)[-1] + noise)

    f = jnp.vectorize(f)
    # Heights |z| − 1 from well inside the gap 1 − ρ to beyond the norm; A is real, so half of the circle is enough.
    low = jnp.clip(jnp.abs(1 - radius) / 30, jnp.finfo(kind).eps ** 0.5, 0.1)
    heights = jnp.linspace(
        jnp.log(low), jnp.log(10 * (1 + jnp.minimum(norm, jnp.finfo(kind).max / 100))), RADII, dtype=kind
    )
    outermost = jnp.abs(eigenvalues) >= jnp.sort(jnp.abs(eigenvalues))[-min(4, A.shape[0])]
    special = jnp.where(outermost, jnp.abs(jnp.angle(eigenvalues)), 0)[jnp.argsort(~outermost)][: min(4, A.shape[0])]
    angles = jnp.concatenate([jnp.linspace(0, jnp.pi, ANGLES, dtype=kind), special.astype(kind)])
    grid_h, grid_a = (g.reshape(-1) for g in jnp.meshgrid(heights, angles))
    values = f(grid_h, grid_a)
    best = jnp.argsort(-values)[:STARTS]
    spread_h, spread_a = heights[1] - heights[0], jnp.asarray(jnp.pi / (ANGLES - 1), kind)
    offsets = jnp.asarray([(1, 0), (-1, 0), (0, 1), (0, -1)], kind)

    def refine(state: tuple, _: None) -> tuple:
        value, h, a, dh, da = state
        hs, as_ = h[:, None] + dh * offsets[:, 0], a[:, None] + da * offsets[:, 1]
        around = f(hs, as_)
        pick = jnp.argmax(around, axis=1)
        rows = jnp.arange(value.shape[0])
        better = around[rows, pick] > value
        value = jnp.where(better, around[rows, pick], value)
        h, a = jnp.where(better, hs[rows, pick], h), jnp.where(better, as_[rows, pick], a)
        return (value, h, a, dh * 0.6, da * 0.6), None

    start = (values[best], grid_h[best], grid_a[best], spread_h / 2, spread_a / 2)
    (value, h, a, _, _), _ = lax.scan(refine, start, None, ROUNDS)
    i = jnp.argmax(value)
    point = _polar(1 + jnp.exp(h[i]), a[i])
    beyond = radius > 1 + 8 * A.shape[0] * jnp.finfo(kind).eps * norm
    at = eigenvalues[jnp.argmax(jnp.abs(eigenvalues))]
    # f tends to 1 at infinity, so K >= 1.
    return jnp.where(beyond, jnp.inf, jnp.maximum(value[i], 1)), jnp.where(beyond, at, point)


def _polar(radius: Array, angle: Array) -> Complex[Array, "..."]:
    return lax.complex(radius * jnp.cos(angle), radius * jnp.sin(angle))
