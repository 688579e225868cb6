"""Step schedules that make plain gradient descent faster by steps that are now and then far too long.

Silver: h_t = 1 + ρ^{ν(t) − 1}, ρ = 1 + √2, ν(t) the exponent of 2 in t. After 2^k − 1 steps
f − f* ≤ LR²/(1 + √(4ρ^2k − 3)) = O(t^{−1.2716}) for every L-smooth convex f, without momentum; in between f may be
large. Anytime: silver blocks whose order grows slowly, so that f is small wherever one stops, O(t^{−1.119}). A block
of order j is joined by φ(A, B) = (−(A + B) + √((A + B + 2)² + 4(A + 1)(B + 1)))/2, A and B the sums of the steps
before and in it, and comes into use once A + 1 ≥ ρ^2j: its longest step then costs no more than has been gained.
Cost: O(n) to make, nothing to use. Source: Altschuler & Parrilo, "Acceleration by stepsize hedging II" (2023), theorem
1.1; Zhang, Lee, Du & Chen, "Anytime acceleration of gradient descent" (2024), theorem 1; joins: Zhang & Jiang,
"Accelerated gradient descent by concatenation of stepsize schedules" (2024), theorem 3.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import at_least_zero, dtype, finite, like, norm

RHO = 1 + 2**0.5
# The exact worst cases of the first 24 steps of `anytime_stepsize`, times 4t + 2, by `performance_estimation`.
PROVED = np.array(
    [
        0.783612,
        0.857865,
        0.656855,
        0.578412,
        0.598208,
        0.546697,
        0.563749,
        0.526357,
        0.540911,
        0.512000,
        0.524586,
        0.501244,
        0.512292,
        0.492846,
        0.502673,
        0.486083,
        0.494923,
        0.588609,
        0.461036,
        0.462795,
        0.470354,
        0.474126,
        0.444505,
        0.446528,
    ]
)
SILVER = "Altschuler & Parrilo (2023), theorem 1.1"
ANYTIME = "Zhang, Lee, Du & Chen (2024); Zhang & Jiang (2024), theorem 3"


@final
class Schedule(eqx.Module):
    """Steps of gradient descent in units of 1/L, with what is proved of them.

    Attributes
    ----------
    steps
        h_1, ..., h_n; step t is h_t/L.
    bounds
        (f(x_t) − f*)/(LR²) at most, R = ‖x0 − x*‖, for t = 1, ..., n; infinite where nothing is proved of x_t.
    best_bounds
        The same for the best of x_0, ..., x_t, which is what `minimize` returns.
    source
        Where the theorem stands.
    """

    steps: Any
    bounds: Any
    best_bounds: Any
    source: str = eqx.field(static=True, default="")

    def bound(self, k: Any) -> Array:
        """`bounds` at k (traced), infinite beyond the end."""
        bounds = jnp.asarray(self.bounds)
        at = jnp.clip(jnp.asarray(k).astype(jnp.int32), 1, bounds.shape[0]) - 1
        return jnp.where(jnp.asarray(k) <= bounds.shape[0], bounds[at], jnp.inf)


def silver_stepsize(k: int) -> Schedule:
    """The silver schedule of 2^k − 1 steps, a palindrome, with its bounds at t = 1, 3, 7, ..., 2^k − 1.

    Use it with `GradientDescent` where the number of steps is fixed beforehand: the rate is of the last point only.

    Parameters
    ----------
    k
        1 to 24.

    Returns
    -------
    Schedule
        With ``bounds`` 1/(1 + √(4ρ^2j − 3)) at t = 2^j − 1, infinite in between.

    Raises
    ------
    InputError
        For k out of range.

    Notes
    -----
    Source: Altschuler & Parrilo (2023), theorem 1.1.

    Examples
    --------
    >>> silver_stepsize(3).steps.round(3).tolist()
    [1.414, 2.0, 1.414, 3.414, 1.414, 2.0, 1.414]
    """
    validation.integer(1)("k", k)
    if k > 24:
        raise InputError(f"k: found {k}, expected at most 24")
    steps = _silver(k)
    bounds = np.full(len(steps), np.inf)
    for j in range(1, k + 1):
        bounds[2**j - 2] = 1 / (1 + np.sqrt(4 * RHO ** (2 * j) - 3))
    return Schedule(steps, bounds, _so_far(bounds), SILVER)


def anytime_stepsize(n: int) -> Schedule:
    """The first n steps of an endless schedule after which, wherever one stops, f is below gradient descent's bound.

    Use it with `GradientDescent` where the number of steps is not known beforehand.

    Parameters
    ----------
    n
        How many steps.

    Returns
    -------
    Schedule
        ``bounds`` are finite for t ≤ 24, the exact worst cases by `performance_estimation`, and beyond at the ends of
        blocks: 1/(2(A_t + 1)), A_t the sum of the first t steps. In between the theorem gives the order O(t^{−1.119})
        of the last point without a constant. ``best_bounds`` hold everywhere.

    Raises
    ------
    InputError
        For n below 1.

    Notes
    -----
    Source: Zhang, Lee, Du & Chen (2024); for the ends of blocks Zhang & Jiang (2024), theorem 3.

    Examples
    --------
    >>> anytime_stepsize(5).steps.round(3).tolist()
    [1.414, 2.0, 1.414, 2.452, 1.414]
    """
    validation.integer(1)("n", n)
    steps = _silver(1)
    total, ends = float(steps.sum()), [1]
    parts = [steps]
    while ends[-1] < n:
        order = 1
        while RHO ** (2 * (order + 1)) <= total + 1:
            order += 1
        block = _silver(order)
        inside = RHO**order - 1
        join = (-(total + inside) + np.sqrt((total + inside + 2) ** 2 + 4 * (total + 1) * (inside + 1))) / 2
        parts += [np.array([join]), block]
        total += join + inside
        ends.append(ends[-1] + 1 + len(block))
    steps = np.concatenate(parts)
    bounds = np.full(len(steps), np.inf)
    at = np.array(ends) - 1
    bounds[at] = 1 / (2 * (np.cumsum(steps)[at] + 1))
    first = min(len(bounds), len(PROVED))
    bounds[:first] = PROVED[:first] / (4 * np.arange(1, first + 1) + 2)
    return Schedule(steps[:n], bounds[:n], _so_far(bounds[:n]), ANYTIME)


@follows_input
def schedule_rate(f: Any, x0: Any, reference: Any, lipschitz: Any, schedule: Schedule) -> Solution:
    """Gradient descent by a schedule against its bounds: the last point where they speak of it, the best at every step.

    Parameters
    ----------
    f
        Convex differentiable function of an array or pytree.
    x0, reference
        The start and a minimiser x*.
    lipschitz
        L > 0.
    schedule
        From `silver_stepsize` or `anytime_stepsize`.

    Returns
    -------
    Solution
        ``value`` is the last point; ``history`` holds ``suboptimality``, ``best``, ``rate_bound``, ``best_bound`` and
        ``gd_bound``, L‖x0 − x*‖²/(4t + 2), entry t − 1 for x_t.

    Notes
    -----
    Certificates: ``rate`` and ``best_rate`` (theorem, one claim per step).

    Examples
    --------
    >>> run = schedule_rate(lambda x: (x**2).sum(), [1.0, 2.0], [0.0, 0.0], 2.0, silver_stepsize(3))
    >>> bool(run.certificates["rate"].holds.all())
    True
    """
    x0, reference = finite("x0", x0), finite("reference", reference)
    if jax.tree.map(jnp.shape, x0) != jax.tree.map(jnp.shape, reference):
        raise InputError("reference: found other shapes than those of x0, expected the same")
    at_least_zero("lipschitz", lipschitz, positive=True)
    L = like(lipschitz, x0)
    steps = jnp.asarray(schedule.steps).astype(dtype(x0))
    best = f(reference)
    last, gaps = _follow(f, x0, steps / L, best)
    scale = L * norm(jax.tree.map(jnp.subtract, x0, reference)) ** 2
    so_far = jnp.minimum(jax.lax.cummin(gaps), f(x0) - best)
    slack = rounding(jnp.abs(best) + jnp.abs(f(x0)), 16.0)
    known = (Assumption("f convex, ∇f L-Lipschitz"), Assumption("the reference minimises f"))
    last_bound, best_bound = (
        jnp.asarray(b).astype(gaps.dtype) * scale for b in (schedule.bounds, schedule.best_bounds)
    )
    certificates = {
        name: Certificate(claim, measured, bound + slack, "theorem", schedule.source, assumptions=known)
        for name, claim, measured, bound in (
            ("rate", "f(x_t) − f* <= b_t L‖x0 − x*‖²", gaps, last_bound),
            ("best_rate", "min_{i <= t} f(x_i) − f* <= min_{i <= t} b_i L‖x0 − x*‖²", so_far, best_bound),
        )
    }
    t = jnp.arange(1, gaps.shape[0] + 1).astype(gaps.dtype)
    history = {"suboptimality": gaps, "best": so_far, "rate_bound": last_bound, "best_bound": best_bound}
    history["gd_bound"] = scale / (4 * t + 2)
    return Solution(last, certificates, Status.of(True, jnp.isfinite(norm(last))), int(gaps.shape[0]), history=history)


@eqx.filter_jit
def _follow(f: Any, x0: PyTree, steps: Array, best: Array) -> tuple[PyTree, Array]:
    """Gradient descent by these steps: the last point, and the gaps."""

    def body(x: PyTree, t: Array) -> tuple[PyTree, Array]:
        x = optax.tree.add_scale(x, -t, jax.grad(f)(x))
        return x, f(x) - best

    return jax.lax.scan(body, x0, steps)


def _silver(order: int) -> Float[np.ndarray, " n"]:
    t = np.arange(1, 2**order)
    return 1 + RHO ** (np.log2(t & -t) - 1)


def _so_far(bounds: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The least bound up to each step, that of x0 (L-smoothness: 1/2) among them."""
    return np.minimum(np.minimum.accumulate(bounds), 0.5)
