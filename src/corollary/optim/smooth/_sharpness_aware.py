"""Sharpness-aware gradient descent on a function, not on a network: gradients taken where f is higher.

``"gradient"``: x ← x − t∇f(x + ρ∇f(x)). Its fixed points are those of f, and with ρ < 1/L and t as below it keeps
gradient descent's descent and an O(1/k) rate. ``"ball"``: x ← x − t∇f(x + e) with e a maximiser of f over ‖e‖ ≤ ρ:
a subgradient step on the largest value nearby, whose minimiser lies on the flat side of a lopsided valley.
For networks use `optax.contrib.sam`. Cost: two gradients a step (``"ball"``: 2 + 2·`ascents`).
Source: Foret, Kleiner, Mobahi & Neyshabur, "Sharpness-aware minimization" (2021), eqs. (1) and (2); Andriushchenko &
Flammarion, "Towards understanding sharpness-aware minimization" (2022), section 3, for the step without normalisation.
The bounds are proved here. Write g = ∇f(x), h = ∇f(x + ρg). Cocoercivity between the two points gives ⟨g, h⟩ ≥ ‖g‖² and
‖h‖² ≤ (2 + Lρ)⟨g, h⟩ − (1 + Lρ)‖g‖², so that for t ≤ 2/(L(2 + Lρ)) the descent lemma for the step −th implies
f(x⁺) ≤ f(x) − t(1 − Lt/2)‖g‖²; and ⟨h, x − x*⟩ ≥ (1/L − ρ)‖h‖², so that for t ≤ 2(1/L − ρ) the distance to x* never
grows. Together: f(x_k) − f* ≤ 2‖x0 − x*‖²/(t(k + 4)). For any e with ‖e‖ ≤ ρ and t ≤ 1/L, convex or not,
f(x⁺) ≤ f(x) − t/2·‖g‖² + tL²ρ²/2.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import at_least_zero, dtype, finite, like, norm
from corollary.optim.penalties._base import Scalar

SOURCE = "Foret et al. (2021), eq. (2); proof in the module's docstring"


@follows_input
def sharpness_aware_gd(
    f: Any,
    x0: Any,
    rho: Any,
    lipschitz: Any,
    steps: int,
    *,
    mode: str = "gradient",
    step: Any = None,
    reference: Any = None,
    ascents: int = 3,
) -> Solution:
    """Gradient descent on gradients of f at x + ρ∇f(x), or at the worst point within ρ.

    Parameters
    ----------
    f
        Convex differentiable function of an array or pytree.
    x0
        The start.
    rho
        ρ ≥ 0; 0 is gradient descent.
    lipschitz
        L > 0.
    steps
        How many.
    mode
        ``"gradient"`` or ``"ball"``.
    step
        t; left out, the longest that the bounds allow: min(2/(L(2 + Lρ)), 2(1/L − ρ), 1/L) for ``"gradient"`` with
        ρ < 1/L (the first and last of them for larger ρ), 1/L for ``"ball"``.
    reference
        A minimiser x* of f, for the rate of ``"gradient"``.
    ascents
        Linearised ascents on the ball, e ← ρ∇f(x + e)/‖∇f(x + e)‖, from both ±ρ∇f/‖∇f‖ (exact in one dimension).

    Returns
    -------
    Solution
        ``value`` is the last point; ``history`` holds ``objective``, ``worst`` (f(x + e)), ``gradient`` and, with a
        `reference`, ``suboptimality`` and ``rate_bound``, entry k − 1 for x_k.

    Raises
    ------
    InputError
        For values that are not finite or out of range.

    Notes
    -----
    Certificates: ``critical`` (theorem), Σ‖∇f(x_i)‖² against 2(f(x0) − f(x_k))/t + kL²ρ² (``"ball"``; without the last
    term, and with t(2 − Lt) for t, in ``"gradient"``); ``rate`` (theorem, with a `reference`, ``"gradient"``).

    Examples
    --------
    >>> run = sharpness_aware_gd(lambda x: (x**2).sum(), [1.0, 2.0], 0.1, 2.0, 50, reference=[0.0, 0.0])
    >>> bool(run.certificates["rate"].holds.all()), bool(run.certificates["critical"].holds)
    (True, True)
    """
    x0 = finite("x0", x0)
    at_least_zero("rho", rho)
    at_least_zero("lipschitz", lipschitz, positive=True)
    at_least_zero("step", step, positive=True)
    validation.integer(1)("steps", steps)
    validation.integer(0)("ascents", ascents)
    validation.one_of("gradient", "ball")("mode", mode)
    L, rho = like(lipschitz, x0), like(rho, x0)
    near = 2 * (1 / L - rho)
    descent = 2 / (L * (2 + L * rho)) if mode == "gradient" else 1 / L
    limit = jnp.where(near > 0, jnp.minimum(descent, near), descent) if mode == "gradient" else descent
    t = jnp.minimum(limit, 1 / L) if step is None else like(step, x0)
    last, series = _run(f, x0, rho, t, mode, steps, ascents)
    first, size = f(x0), series["before"]
    squares = jnp.sum(size**2)
    drop = first - series["objective"][-1]
    slack = rounding(jnp.abs(first) + jnp.max(jnp.abs(series["objective"])), 16.0)
    if mode == "gradient":
        claim, share, extra = "Σ‖∇f(x_i)‖² <= 2(f(x0) − f(x_k))/(t(2 − Lt))", 2 - L * t, jnp.zeros_like(L)
        known = (Assumption("f convex, ∇f L-Lipschitz"),)
    else:
        claim, share, extra = "Σ‖∇f(x_i)‖² <= 2(f(x0) − f(x_k))/t + kL²ρ²", jnp.ones_like(L), steps * (L * rho) ** 2
        known = (Assumption("∇f L-Lipschitz"),)
    edge = rounding(jnp.ones_like(t), 16.0)
    known += (Assumption("step within the descent's limit", checked=True, holds=t <= descent * (1 + edge)),)
    bound = 2 * (drop + slack * steps) / (t * share) + extra + rounding(squares, 16.0)
    certificates = {"critical": Certificate(claim, squares, bound, "theorem", SOURCE, assumptions=known)}
    history = {"objective": series["objective"], "worst": series["worst"], "gradient": size}
    if reference is not None:
        reference = optax.tree.cast(finite("reference", reference), dtype(x0))
        if jax.tree.map(jnp.shape, reference) != jax.tree.map(jnp.shape, x0):
            raise InputError("reference: found other shapes than those of x0, expected the same")
        history["suboptimality"] = series["objective"] - f(reference)
        if mode == "gradient":
            k = jnp.arange(1, steps + 1).astype(t.dtype)
            rate = 2 * norm(optax.tree.sub(x0, reference)) ** 2 / (t * (k + 4))
            fits = (near > 0) & (t <= jnp.minimum(jnp.minimum(near, descent), 1 / L) * (1 + edge))
            known = (
                Assumption("f convex, ∇f L-Lipschitz"),
                Assumption("the reference minimises f"),
                Assumption("rho < 1/L, step within its limits", checked=True, holds=fits),
            )
            claim = "f(x_k) − f* <= 2‖x0 − x*‖²/(t(k + 4))"
            measured = history["suboptimality"]
            certificates["rate"] = Certificate(claim, measured, rate + slack, "theorem", SOURCE, assumptions=known)
            history["rate_bound"] = rate
    return Solution(last, certificates, Status.of(True, jnp.isfinite(norm(last))), steps, {"step_size": t}, history)


@eqx.filter_jit
def _run(
    f: Any, x0: PyTree, rho: Scalar, t: Scalar, mode: str, steps: int, ascents: int
) -> tuple[PyTree, dict[str, Array]]:
    gradient = jax.grad(f)

    def body(x: PyTree, _: None) -> tuple[PyTree, dict[str, Array]]:
        g = gradient(x)
        away = optax.tree.scale(rho, g) if mode == "gradient" else _worst(f, gradient, x, g, rho, ascents)
        there = optax.tree.add(x, away)
        new = optax.tree.add_scale(x, -t, gradient(there))
        return new, {"objective": f(new), "worst": f(there), "before": norm(g)}

    return jax.lax.scan(body, x0, length=steps)


def _worst(f: Any, gradient: Any, x: PyTree, g: PyTree, rho: Scalar, ascents: int) -> PyTree:
    """A local maximiser of f(x + e) over ‖e‖ ≤ ρ: for convex f on the sphere, where linearised ascent never falls."""

    def on_sphere(direction: PyTree, before: PyTree) -> PyTree:
        size = norm(direction)
        e = optax.tree.scale(rho / jnp.where(size > 0, size, 1), direction)
        return optax.tree.where(size > 0, e, before)

    def climb(e: PyTree) -> PyTree:
        return jax.lax.fori_loop(0, ascents, lambda _, e: on_sphere(gradient(optax.tree.add(x, e)), e), e)

    nowhere = on_sphere(jax.tree.map(jnp.ones_like, x), x)
    up = climb(on_sphere(g, nowhere))
    down = climb(on_sphere(optax.tree.scale(-1.0, g), nowhere))
    higher = f(optax.tree.add(x, up)) >= f(optax.tree.add(x, down))
    return optax.tree.where(higher, up, down)
