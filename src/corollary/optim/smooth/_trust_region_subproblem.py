"""The exact trust-region subproblem: the global minimiser of gᵀδ + ½ δᵀHδ over ‖δ‖ ≤ Δ, H of any signs.

δ solves it if and only if (H + λI)δ = −g, H + λI ⪰ 0 and λ(Δ − ‖δ‖) = 0 for some λ ≥ 0: though the problem need not be
convex, the answer is checked to be global. In the hard case g has no part in the lowest eigenspace, λ = −λ_min, and an
eigenvector is added to reach the boundary. Here by one eigendecomposition (about 9n³) and Newton's method on
1/‖δ(λ)‖ = 1/Δ in the distance to the pole −λ_min, which keeps its digits next to the hard case; Moré & Sorensen use a
Cholesky factor per λ. The same code solves the cubic model, where λ = σ‖δ‖.
Source: Moré & Sorensen, "Computing a trust region step" (1983), lemmas 2.1 and 2.3; Conn, Gould & Toint, "Trust-Region
Methods" (2000), section 7.3; Cartis, Gould & Toint (2011), theorem 3.1, for the cubic.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from corollary.core.certificate import Certificate, rounding
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import at_least_zero, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.smooth._modified_newton import Spectrum, symmetric_system
from corollary.optim.smooth._newton import Matrix, Vector

ITERATIONS = 100


@follows_input
def trust_region_subproblem(gradient: Any, hessian: Any, radius: Any) -> Solution:
    """Minimise gᵀδ + ½ δᵀHδ over ‖δ‖ ≤ Δ, globally. Cost: O(n³).

    Parameters
    ----------
    gradient, hessian
        g (n,) and a symmetric H (n, n), of any signs.
    radius
        Δ > 0.

    Returns
    -------
    Solution
        ``value`` is δ; ``stats`` holds ``multiplier`` λ, ``model`` (the least value), ``boundary`` and ``hard``
        (whether an eigenvector had to be added).

    Raises
    ------
    InputError
        For shapes that do not fit, a Hessian that is not symmetric, or a radius that is not positive.

    Notes
    -----
    Certificates, all exact, together sufficient for a global minimum: ``stationary`` ‖(H + λI)δ + g‖, ``semidefinite``
    −λ_min(H + λI), ``complementary`` λ(Δ − ‖δ‖), and ``feasible`` ‖δ‖ ≤ Δ.
    Source: Moré & Sorensen (1983), lemma 2.3.

    Examples
    --------
    >>> solution = trust_region_subproblem([0.0, 1.0], [[-2.0, 0.0], [0.0, 1.0]], 1.0)
    >>> solution.value.round(6).tolist(), float(solution.stats["multiplier"]), bool(solution.stats["hard"])
    ([0.942809, -0.333333], 2.0, True)
    """
    g, H = symmetric_system(gradient, hessian)
    at_least_zero("radius", radius, positive=True)
    radius = jnp.asarray(radius).astype(g.dtype)
    step = _solve(H, g, radius)
    size, n = norm(step.delta), g.size
    scale = norm(jnp.abs(H) @ jnp.abs(step.delta)) + step.multiplier * size + norm(g)
    top = norm(H) + step.multiplier
    slack = rounding(scale, 16.0 * (1 + n**0.5))
    source = "Moré & Sorensen (1983), lemma 2.3"
    gap = jnp.abs(radius - size)
    lowest = jnp.linalg.eigvalsh(H + step.multiplier * jnp.eye(n, dtype=H.dtype))[0]
    certificates = {
        "stationary": Certificate(
            "‖(H + λI)δ + g‖ <= rounding", norm(H @ step.delta + step.multiplier * step.delta + g), slack, source=source
        ),
        "semidefinite": Certificate("−λ_min(H + λI) <= rounding", -lowest, rounding(top, 4.0 * n), source=source),
        "complementary": Certificate(
            "λ(Δ − ‖δ‖) <= rounding", step.multiplier * gap, rounding(step.multiplier * radius, 64.0), source=source
        ),
        "feasible": Certificate("‖δ‖ <= Δ", size, radius + rounding(radius, 64.0), source=source),
    }
    fine = certificates["stationary"].holds & certificates["complementary"].holds & certificates["feasible"].holds
    status = jnp.where(fine & certificates["semidefinite"].holds, Status.CONVERGED, Status.PRECISION).astype(jnp.int32)
    stats = {"multiplier": step.multiplier, "model": -step.decrease, "boundary": step.boundary, "hard": step.hard}
    return Solution(step.delta, certificates, status, step.iterations, stats)


@eqx.filter_jit
def _solve(H: Matrix, g: Vector, radius: Scalar) -> ModelStep:
    return exact_step(Spectrum.of(H), g, radius)


class ModelStep(eqx.Module):
    """A step, its multiplier λ, the decrease of the model that it promises, and where it ended."""

    delta: Vector
    multiplier: Scalar
    decrease: Scalar
    boundary: Bool[Array, ""]
    hard: Bool[Array, ""]
    iterations: Any


def exact_step(spectrum: Spectrum, g: Vector, radius: Scalar) -> ModelStep:
    """The minimiser over the ball of that radius. Units: lengths in Δ, curvatures in max(‖H‖, ‖g‖/Δ)."""
    rotated = spectrum.vectors.T @ g
    unit = jnp.maximum(radius * jnp.max(jnp.abs(spectrum.values)), norm(g))
    unit = jnp.where(unit > 0, unit, 1)
    a, b = spectrum.values * (radius / unit), rotated / unit
    tau, hard, inside, iterations = _secular(a, b, cubic=False)
    u, multiplier = _coefficients(a, b, tau, hard, jnp.ones_like(tau))
    u = jnp.where(inside | hard, u, u / jnp.where(norm(u) > 0, norm(u), 1))
    return ModelStep(
        radius * (spectrum.vectors @ u),
        jnp.where(inside, 0, multiplier) * (unit / radius),
        radius * unit * _decrease(a, b, u),
        ~inside,
        hard,
        iterations,
    )


def cubic_step(spectrum: Spectrum, g: Vector, sigma: Scalar) -> ModelStep:
    """The minimiser of gᵀδ + ½ δᵀHδ + σ/3 ‖δ‖³; `decrease` is that of the cubic model."""
    rotated = spectrum.vectors.T @ g
    length = jnp.maximum(jnp.sqrt(norm(g)) / jnp.sqrt(sigma), jnp.max(jnp.abs(spectrum.values)) / sigma)
    length = jnp.where(length > 0, length, 1)
    a, b = spectrum.values / (sigma * length), rotated / (sigma * length) / length
    tau, hard, _, iterations = _secular(a, b, cubic=True)
    u, multiplier = _coefficients(a, b, tau, hard, jnp.maximum(-a[0], 0))
    decrease = _decrease(a, b, u) - norm(u) ** 3 / 3
    no = jnp.array(False)
    scale = sigma * length * length
    return ModelStep(
        length * (spectrum.vectors @ u), sigma * length * multiplier, length * scale * decrease, no, hard, iterations
    )


def _decrease(a: Vector, b: Vector, u: Vector) -> Scalar:
    return -jnp.sum(b * u + a * jnp.square(u) / 2)


def _low(a: Vector) -> Array:
    """The lowest eigenspace, up to rounding."""
    return a - a[0] <= rounding(jnp.ones_like(a[0]), 2.0 * a.size**0.5)


def _coefficients(a: Vector, b: Vector, tau: Scalar, hard: Array, length: Scalar) -> tuple[Vector, Scalar]:
    """u = −b/(a + μ) with μ = τ − a_1, to which the hard case adds an eigenvector to reach the length."""
    low = _low(a)
    gaps = jnp.where(hard & low, 1, a - a[0] + tau)
    u = jnp.where(hard & low, 0, -b / jnp.where(gaps > 0, gaps, 1))
    rest = norm(u)
    missing = jnp.sqrt(jnp.maximum((length - rest) * (length + rest), 0))
    first = jnp.where(b[0] > 0, -missing, missing)
    return u.at[0].set(jnp.where(hard, first, u[0])), jnp.maximum(tau - a[0], 0)


def _secular(a: Vector, b: Vector, cubic: bool) -> tuple[Scalar, Array, Array, Array]:
    """τ = μ + a_1 with ‖b/(a + μ)‖ = 1 (or = μ for the cubic); whether the case is hard; whether δ is inside.

    With all numbers of order 1. The function t/‖u‖ − 1 (t = 1 or μ) rises with τ; a Newton step that leaves its bracket
    is replaced by the geometric mean of the ends.
    """
    d = a - a[0]
    least = jnp.maximum(a[0], 0)  # τ there is λ = 0 or the pole
    low = _low(a)
    part, size = norm(jnp.where(low, b, 0)), norm(b)

    def target(tau: Scalar) -> Scalar:
        return tau - a[0] if cubic else jnp.ones_like(tau)

    def lengths(tau: Scalar) -> tuple[Scalar, Scalar]:
        """‖u‖ and −d‖u‖/dτ."""
        u = b / jnp.where(d + tau > 0, d + tau, 1)
        whole = norm(u)
        return whole, jnp.sum(u * u / jnp.where(d + tau > 0, d + tau, 1)) / jnp.where(whole > 0, whole, 1)

    flat = (part <= rounding(size, 2.0 * a.size**0.5)) | (size == 0)
    at_pole = norm(jnp.where(low, 0, b / jnp.where(low, 1, d)))
    hard = (a[0] <= 0) & flat & (at_pole <= target(jnp.zeros_like(least)))
    inside = jnp.array(False)
    if not cubic:
        inside = (a[0] > 0) & (lengths(least)[0] <= 1)
        hard = hard & ((a[0] < 0) | (size > 0))
        inside = inside | ((a[0] >= 0) & (size == 0))
    done = hard | inside

    floor = jnp.finfo(a.dtype).tiny ** 0.5
    lower = jnp.maximum(least, floor if cubic else jnp.maximum(part - jnp.max(jnp.where(low, d, 0)), floor))
    upper = jnp.maximum(2 * (jnp.sqrt(size) if cubic else size) + least, 2 * lower)

    def going(carry: tuple) -> Array:
        _, _lo, _hi, moved, count = carry
        return ~done & moved & (count < ITERATIONS)

    def body(carry: tuple) -> tuple:
        tau, lo, hi, _, count = carry
        whole, fall = lengths(tau)
        t, slope = target(tau), 1.0 if cubic else 0.0
        value = t / jnp.where(whole > 0, whole, 1) - 1
        rise = (slope * whole + t * fall) / jnp.where(whole > 0, whole, 1) ** 2
        value = jnp.where(whole > 0, value, 1)
        lo, hi = jnp.where(value < 0, tau, lo), jnp.where(value < 0, hi, tau)
        new = tau - value / jnp.where(rise > 0, rise, 1)
        new = jnp.where((new > lo) & (new < hi) & (rise > 0), new, jnp.sqrt(lo) * jnp.sqrt(hi))
        moved = (jnp.abs(new - tau) > jnp.finfo(a.dtype).eps * tau) & (value != 0)
        return jnp.where(moved, new, tau), lo, hi, moved, count + 1

    first = (lower, lower, upper, jnp.array(True), jnp.int32(0))
    tau, _, _, _, count = jax.lax.while_loop(going, body, first)
    return jnp.where(hard, jnp.zeros_like(tau), jnp.where(inside, least, tau)), hard, inside, count


def model_value(H: Matrix, g: Vector, delta: Vector) -> Scalar:
    """gᵀδ + ½ δᵀHδ."""
    return jnp.dot(g, delta) + jnp.dot(delta, H @ delta) / 2
