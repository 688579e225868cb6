"""Polar factor by matrix products alone: Newton-Schulz iterations, fixed or with the Polar Express schedule.

When: G is on an accelerator, where products are cheap and factorisations are not; orthogonalised momentum (Muon). For
G = UΣVᵀ each step applies an odd polynomial to the singular values, X ← X(aI + bXᵀX + c(XᵀX)²), which drives them to 1:

- ``"cubic"``: 1.5x − 0.5x³; converges quadratically for singular values in (0, √3), slowly from tiny ones;
- ``"quintic"``: (3.4445, −4.7750, 2.0315), fast and rough: about [0.68, 1.13] in the end, never 1;
- ``"polar_express"``: at each step the odd quintic nearest to 1 on the interval where the singular values now lie.

Cost: three products (two for the cubic) of the shape of G a step. The exact factor is `jax.scipy.linalg.polar`.
Sources: Björck & Bowie (1971); Higham, Functions of Matrices (2008), ch. 8; Jordan et al. (2024), Muon; Amsel,
Persson, Musco & Gower (2025), The Polar Express, Theorem 3.1 and Algorithm 1.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status

Coefficients = tuple[float, float, float]

CUBIC: Coefficients = (1.5, -0.5, 0.0)
QUINTIC: Coefficients = (3.4445, -4.7750, 2.0315)
SPREAD = {"cubic": 0.0, "quintic": 0.33}  # how far from 1 a schedule leaves the singular values in the end


@follows_input
def newton_schulz(
    G: Any, *, schedule: str = "polar_express", steps: int = 10, smallest: float = 1e-3, scale: str = "frobenius"
) -> Solution:
    """Approximate polar factor UVᵀ of G.

    Parameters
    ----------
    G
        (m, n), any shape; the factor has orthonormal columns, or rows where m < n.
    schedule
        ``"cubic"``, ``"quintic"`` or ``"polar_express"``.
    steps
        How many; static.
    smallest
        For Polar Express: a lower bound on the singular values of G after scaling. Smaller ones are still raised,
        without the guarantee.
    scale
        ``"frobenius"``: G is divided by ‖G‖_F first, so that its singular values are at most 1; ``"none"``: as it is
        (the cubic then diverges from ‖G‖₂ > √3 on).

    Returns
    -------
    Solution
        ``value``: P, (m, n). ``stats``: ``defect``, ‖PᵀP − I‖₂. It can be jitted, vmapped and differentiated.

    Raises
    ------
    InputError
        Where G is not real and finite, or a setting is unknown.

    Notes
    -----
    Certificate: ``"orthogonality"`` (theorem for Polar Express, whose E is the minimax error of its composition on
    [`smallest`, 1]; a monitor for the others): ‖PᵀP − I‖₂ ≤ E(2 + E), E = 0 for the cubic and 0.33 for the quintic. It
    fails where G is rank-deficient or the steps are too few. ``status``: MAX_STEPS there.

    Examples
    --------
    >>> import numpy as np
    >>> newton_schulz(np.array([[3.0, 0.0], [0.0, -4.0]])).value.round(6).tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """
    validation.one_of("cubic", "quintic", "polar_express")("schedule", schedule)
    validation.one_of("frobenius", "none")("scale", scale)
    validation.integer(1)("steps", steps)
    validation.number(0, 1, open_low=True)("smallest", smallest)
    G = jnp.asarray(validation.matrix("G", G))
    if schedule == "polar_express" and scale == "none":
        raise InputError("scale: found 'none' with schedule 'polar_express', expected 'frobenius'")
    if schedule == "polar_express":
        coefficients, spread = polar_express(float(smallest), steps)
    else:
        coefficients, spread = (CUBIC if schedule == "cubic" else QUINTIC,) * steps, SPREAD[schedule]
    P = _iterate(G, jnp.asarray(coefficients, G.dtype), scale == "frobenius", schedule == "cubic")
    held = jax.lax.stop_gradient(P)
    tall = held if G.shape[0] >= G.shape[1] else held.T
    finite = jnp.all(jnp.isfinite(held))
    gram = tall.T @ tall
    defect = jnp.max(jnp.abs(jnp.linalg.eigvalsh(jnp.where(finite, gram, 0)) - 1))
    defect = jnp.where(finite, defect, jnp.inf)
    bound = spread * (2 + spread) + rounding(jnp.ones((), G.dtype), 8.0 * max(G.shape) ** 0.5 * steps)
    certificate = Certificate(
        f"‖PᵀP − I‖₂ <= E(2 + E), the singular values left within E of 1 by {schedule}",
        measured=defect,
        bound=bound,
        kind="theorem" if schedule == "polar_express" else "monitor",
        source="Amsel, Persson, Musco & Gower (2025), Theorem 3.1; Higham (2008), ch. 8; Jordan et al. (2024)",
        assumptions=(Assumption("G has full rank; scaled, its singular values are at least `smallest`"),),
    )
    status = Status.of(certificate.holds, finite)
    return Solution(P, {"orthogonality": certificate}, status, steps, {"defect": defect})


@functools.partial(jax.jit, static_argnums=(2, 3))
def _iterate(G: Float[Array, "m n"], coefficients: Array, scaled: bool, cubic: bool) -> Float[Array, "m n"]:
    wide = G.shape[0] < G.shape[1]
    X = G.T if wide else G
    if scaled:
        top = jnp.max(jnp.abs(X))
        X = X / jnp.where(top > 0, top, 1)
        norm = jnp.linalg.norm(X)
        X = X / jnp.where(norm > 0, norm, 1)

    def step(X: Array, abc: Array) -> tuple[Array, None]:
        a, b, c = abc
        S = X.T @ X
        if cubic:
            return a * X + X @ (b * S), None
        return a * X + X @ (b * S + c * (S @ S)), None

    X = jax.lax.scan(step, X, coefficients)[0]
    return X.T if wide else X


@functools.cache
def polar_express(smallest: float, steps: int) -> tuple[tuple[Coefficients, ...], float]:
    """The minimax quintics for [`smallest`, 1] one after another, and how far from 1 they leave that interval.

    Greedy choices are optimal for the composition (their Theorem 3.1): the best polynomial maps [l, u] to
    [1 − E, 1 + E], and the next one starts from there. Near the end, where E is rounding, the limit
    (15, −10, 3)/8 takes over.
    """
    low, high, chosen = smallest, 1.0, []
    for _ in range(steps):
        if 1 - low / high < 1e-4:
            coefficients: Coefficients = (15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5)
            E = 10 * (1 - low / high) ** 3
        else:
            coefficients, E = _minimax(low, high)
        chosen.append(coefficients)
        low, high = 1 - E, 1 + E
    return tuple(chosen), high - 1


def _minimax(low: float, high: float) -> tuple[Coefficients, float]:
    """Remez' exchange: ax + bx³ + cx⁵ nearest to 1 on [low, high], which equioscillates at four points."""
    q, r = (3 * low + high) / 4, (low + 3 * high) / 4
    a = b = c = E = 0.0
    for _ in range(200):
        x = np.array([low, q, r, high])
        a, b, c, E = np.linalg.solve(np.stack([x, x**3, x**5, np.array([1.0, -1.0, 1.0, -1.0])], axis=1), np.ones(4))
        root = np.sqrt(max(9 * b * b - 20 * a * c, 0.0))
        new = np.sqrt(np.clip([(-3 * b - root) / (10 * c), (-3 * b + root) / (10 * c)], low**2, high**2))
        if np.max(np.abs(new - [q, r])) <= 1e-15 * high:
            break
        q, r = new
    return (float(a), float(b), float(c)), abs(float(E))
