"""CMA-ES: evolution with an adapted covariance, for rugged or ill-conditioned black boxes up to d ~ 100.

λ points are drawn from N(m, σ²C); the mean moves to the better half, σ follows the length of the path of means, and C
learns from that path (rank one), from the good points and, with negative weights, from the bad ones (rank μ). Only the
order of the values counts: any increasing function of f gives the same run, and so does any rotation or shift. Restarts
double λ (IPOP), which turns it into a global method. In a box the space is folded: points outside are reflected.
Cost: λ = 4 + 3 log d evaluations a generation, O(d²) a point, O(d³) for an eigendecomposition every d/10 generations.
Source: Hansen, "The CMA evolution strategy: a tutorial" (2016), figure 6 and table 1; Auger & Hansen (2005), restarts.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import at_least_zero, like
from corollary.optim.blackbox._poll import Function, box, flat, poll, value_of, values_of
from corollary.optim.penalties._base import Scalar

SOURCE = "Hansen (2016), section B.3: termination"
Vector = Float[Array, " d"]
Matrix = Float[Array, "d d"]
Points = Float[Array, "n d"]
Limits = tuple[Vector, Vector] | None


class Constants(eqx.Module):
    """Table 1 of the tutorial, functions of d and λ alone."""

    weights: np.ndarray
    mu_eff: float
    c_sigma: float
    d_sigma: float
    c_c: float
    c_1: float
    c_mu: float
    chi: float  # E‖N(0, I)‖

    @classmethod
    def of(cls, d: int, population: int) -> Constants:
        """The defaults, with negative weights."""
        raw = math.log((population + 1) / 2) - np.log(np.arange(1, population + 1))
        good = np.maximum(raw, 0)
        bad = np.minimum(raw, 0)
        mu_eff = good.sum() ** 2 / (good**2).sum()
        mu_bad = bad.sum() ** 2 / (bad**2).sum()
        c_1 = 2 / ((d + 1.3) ** 2 + mu_eff)
        c_mu = min(1 - c_1, 2 * (0.25 + mu_eff + 1 / mu_eff - 2) / ((d + 2) ** 2 + mu_eff))
        limit = min(1 + c_1 / c_mu, 1 + 2 * mu_bad / (mu_eff + 2), (1 - c_1 - c_mu) / (d * c_mu))
        c_sigma = (mu_eff + 2) / (d + mu_eff + 5)
        return cls(
            weights=good / good.sum() + limit * bad / -bad.sum(),
            mu_eff=float(mu_eff),
            c_sigma=float(c_sigma),
            d_sigma=float(1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (d + 1)) - 1) + c_sigma),
            c_c=float((4 + mu_eff / d) / (d + 4 + 2 * mu_eff / d)),
            c_1=float(c_1),
            c_mu=float(c_mu),
            chi=math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d**2)),
        )


class CmaState(eqx.Module):
    """Mean, step size, covariance with its eigensystem, the two paths, and the best so far."""

    mean: Vector
    sigma: Scalar
    C: Matrix
    axes: Matrix
    lengths: Vector  # square roots of the eigenvalues
    path_sigma: Vector
    path_c: Vector
    generation: Int[Array, ""]
    best: Vector
    value: Scalar
    spread: Scalar  # range of the values of the last generation
    recent: Float[Array, " m"]  # the best of the last generations, in a ring
    collapsed: Bool[Array, ""]
    broken: Bool[Array, ""]


@follows_input
def cma_es(
    f: Function,
    x0: Any,
    sigma: Any,
    *,
    population: int | None = None,
    bounds: Any = None,
    restarts: int = 0,
    max_evaluations: int = 100_000,
    tol: Any = 1e-9,
    key: Key[Array, ""],
) -> Solution:
    """Minimise a black box by CMA-ES.

    Parameters
    ----------
    f
        Function of an array or pytree; NaN counts as infinitely bad.
    x0
        The first mean.
    sigma
        First standard deviation, in units of x: about a quarter of the region to look at. Variables of very different
        sizes are better rescaled.
    population
        λ ≥ 4; 4 + ⌊3 log d⌋ if left out.
    bounds
        None, or ``(lower, upper)``: numbers, arrays or pytrees like x0, infinite where open.
    restarts
        Each with twice the population, from x0 (or a random point of a finite box); a new population compiles anew.
    max_evaluations
        For all runs together, the poll of each run's answer included.
    tol
        Stop where the largest standard deviation has come down to tol·σ, or the values no longer differ.
    key
        Of `jax.random.key`.

    Returns
    -------
    Solution
        ``value`` is the best point met; ``stats`` hold its ``objective``, the ``evaluations``, the last ``sigma``, the
        ``covariance`` (d, d) of the search distribution and ``runs``. Steps are generations.

    Notes
    -----
    Certificates: ``spread`` (monitor), the search distribution has collapsed; ``poll`` (monitor), no step along a
    coordinate, ε^(1/3)·σ or ten times the last standard deviation long, improves on the answer. The status is CONVERGED
    only where both hold; that is no proof of a global minimum. Source: Hansen (2016), figure 6.

    Examples
    --------
    >>> import jax
    >>> def rosenbrock(x):
    ...     return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
    >>> found = cma_es(rosenbrock, [-1.0, 2.0], 0.5, key=jax.random.key(0))
    >>> found.value.round(6).tolist(), bool(found.converged)
    ([1.0, 1.0], True)
    """
    start, unravel = flat("x0", x0)
    d = start.size
    validation.integer(4, none=True)("population", population)
    validation.integer(0)("restarts", restarts)
    validation.integer(1)("max_evaluations", max_evaluations)
    for name, value in (("sigma", sigma), ("tol", tol)):
        at_least_zero(name, value, positive=True)
    limits = box(bounds, unravel(start))
    if limits is not None and not isinstance(start, Tracer) and not _inside(start, limits):
        raise InputError("x0: found a point outside the bounds, expected one inside")
    width, tol = like(sigma, start), like(tol, start)
    size = 4 + int(3 * math.log(d)) if population is None else population
    if restarts and isinstance(start, Tracer):
        raise InputError("restarts: found a traced start, expected restarts=0 under jit (the budget has to be counted)")
    state, certificate = _run(f, start, width, tol, key, _budget(max_evaluations, 0, size, d), limits, unravel, size)
    used, generations, runs = _count(state, size, d), state.generation, 1
    while runs <= restarts and int(used) + 2 * size + 2 * d < max_evaluations:
        size *= 2
        again = jax.random.fold_in(key, 2**31 + runs)
        mean = _restart_point(jax.random.fold_in(again, 2**32 - 1), start, limits)
        left = _budget(max_evaluations, int(used), size, d)
        new = _run(f, mean, width, tol, again, left, limits, unravel, size)
        used, generations, runs = used + _count(new[0], size, d), generations + new[0].generation, runs + 1
        if bool(new[0].value < state.value):
            state, certificate = new
    ratio = jnp.min(_ratios(state, width, tol))
    claim = "least of: σ√λ_max(C)/(tol·σ0), the same over the rounding of m, range of f over its rounding"
    spread = Certificate(claim, ratio, jnp.ones_like(ratio), "monitor", SOURCE)
    status = Status.of(state.collapsed & certificate.holds, jnp.isfinite(state.value) & jnp.isfinite(state.sigma))
    stuck = (state.broken | (state.collapsed & ~certificate.holds)) & (status == Status.MAX_STEPS)
    status = jnp.where(stuck, Status.PRECISION, status)
    status = jnp.where(jnp.isneginf(state.value), Status.UNBOUNDED, status).astype(jnp.int32)
    stats = {
        "objective": state.value,
        "evaluations": used,
        "sigma": state.sigma,
        "covariance": state.sigma**2 * state.C,
        "runs": runs,
    }
    return Solution(unravel(state.best), {"spread": spread, "poll": certificate}, status, generations, stats)


def _inside(x: Vector, limits: tuple[Vector, Vector]) -> bool:
    return bool(jnp.all((limits[0] <= x) & (x <= limits[1])))


def _budget(evaluations: int, used: int, population: int, d: int) -> Int[Array, ""]:
    return jnp.int32(max((evaluations - used - 2 * d - 1) // population, 1))


def _count(state: CmaState, population: int, d: int) -> Int[Array, ""]:
    return state.generation * population + 2 * d + 1


def _restart_point(key: Key[Array, ""], start: Vector, limits: Limits) -> Vector:
    if limits is None:
        return start
    low, high = limits
    closed = jnp.isfinite(low) & jnp.isfinite(high)
    drawn = jnp.where(closed, low, 0) + jax.random.uniform(key, start.shape, start.dtype) * jnp.where(
        closed, high - low, 0
    )
    return jnp.where(closed, drawn, start)


def _fold(x: Float[Array, "... d"], limits: Limits) -> Float[Array, "... d"]:
    """Reflect at the limits, as often as it takes; one open side reflects once."""
    if limits is None:
        return x
    low, high = limits
    closed = jnp.isfinite(low) & jnp.isfinite(high)
    period = jnp.where(closed, high - low, 1)
    wave = jnp.mod(x - jnp.where(closed, low, 0), 2 * period)
    both = jnp.where(closed, low, 0) + jnp.minimum(wave, 2 * period - wave)
    one = jnp.where(x < low, 2 * low - x, jnp.where(x > high, 2 * high - x, x))
    return jnp.clip(jnp.where(closed, both, one), low, high)


@eqx.filter_jit
def _run(
    f: Function,
    mean: Vector,
    sigma: Scalar,
    tol: Scalar,
    key: Key[Array, ""],
    generations: Int[Array, ""],
    limits: Limits,
    unravel: Any,
    population: int,
) -> tuple[CmaState, Certificate]:
    d, dtype = mean.size, mean.dtype
    constants = Constants.of(d, population)
    eye = jnp.eye(d, dtype=dtype)
    memory = 10 + math.ceil(30 * d / population)
    state = CmaState(
        mean,
        sigma,
        eye,
        eye,
        jnp.ones_like(mean),
        jnp.zeros_like(mean),
        jnp.zeros_like(mean),
        jnp.int32(0),
        mean,
        value_of(f, unravel(mean)),
        jnp.full((), jnp.inf, dtype),
        jnp.full((memory,), jnp.inf, dtype),
        jnp.array(False),
        jnp.array(False),
    )

    def going(state):
        return (state.generation < generations) & ~state.collapsed & ~state.broken

    def body(state):
        noise = jax.random.normal(jax.random.fold_in(key, state.generation), (population, d), dtype)
        steps = (noise * state.lengths) @ state.axes.T
        points = _fold(state.mean + state.sigma * steps, limits)
        state = _update(state, constants, noise, steps, points, values_of(f, points, unravel))
        every = max(1, int(1 / (10 * d * (constants.c_1 + constants.c_mu))))
        due = state.generation % every == 0
        axes, lengths = jax.lax.cond(due, _eigen, lambda C: (state.axes, state.lengths), state.C)
        return _judge(state, axes, lengths, sigma, tol)

    state = jax.lax.while_loop(going, body, state)
    eps = float(jnp.finfo(dtype).eps)
    # Long against the distribution's size, which the answer's own error is of, and against the rounding of x.
    h = jnp.maximum(eps ** (1 / 3) * sigma, 10 * state.sigma * jnp.max(state.lengths))
    h = jnp.maximum(h, 8 * eps * jnp.max(jnp.abs(state.best)))
    return state, poll(f, state.best, state.value, h, unravel, limits)


def _update(
    state: CmaState, k: Constants, noise: Points, steps: Points, points: Points, values: Float[Array, " n"]
) -> CmaState:
    """One generation: equations (38) to (47) of the tutorial."""
    d = state.mean.size
    order = jnp.argsort(values)
    noise, steps = noise[order], steps[order]
    w = jnp.asarray(k.weights, noise.dtype)
    good = jnp.maximum(w, 0)
    moved = good @ steps
    whitened = state.axes @ (good @ noise)  # C^(−1/2) of the step
    path_sigma = (1 - k.c_sigma) * state.path_sigma + math.sqrt(k.c_sigma * (2 - k.c_sigma) * k.mu_eff) * whitened
    length = jnp.linalg.norm(path_sigma)
    age = (state.generation + 1).astype(noise.dtype)
    settled = length / jnp.sqrt(1 - (1 - k.c_sigma) ** (2 * age)) < (1.4 + 2 / (d + 1)) * k.chi
    h = settled.astype(noise.dtype)
    path_c = (1 - k.c_c) * state.path_c + h * math.sqrt(k.c_c * (2 - k.c_c) * k.mu_eff) * moved

    # Bad directions are taken back by their own length in the metric of C, so that C stays positive definite.
    squares = jnp.sum(noise**2, 1)
    weights = jnp.where(w < 0, w * d / jnp.maximum(squares, jnp.finfo(noise.dtype).tiny), w)
    late = (1 - h) * k.c_c * (2 - k.c_c)
    C = (1 + k.c_1 * late - k.c_1 - k.c_mu * jnp.sum(w)) * state.C
    C = C + k.c_1 * jnp.outer(path_c, path_c) + k.c_mu * (steps.T * weights) @ steps
    first, lowest = order[0], values[order[0]]
    better = lowest < state.value
    slot = state.generation % state.recent.size
    return eqx.tree_at(
        lambda s: (s.mean, s.sigma, s.C, s.path_sigma, s.path_c, s.generation, s.best, s.value, s.spread, s.recent),
        state,
        (
            state.mean + state.sigma * moved,
            state.sigma * jnp.exp(jnp.minimum(1, k.c_sigma / k.d_sigma * (length / k.chi - 1))),
            (C + C.T) / 2,
            path_sigma,
            path_c,
            state.generation + 1,
            jnp.where(better, points[first], state.best),
            jnp.where(better, lowest, state.value),
            values[order[-1]] - lowest,
            state.recent.at[slot].set(lowest),
        ),
    )


def _eigen(C: Matrix) -> tuple[Matrix, Vector]:
    values, axes = jnp.linalg.eigh(C)
    return axes, jnp.sqrt(jnp.maximum(values, jnp.finfo(C.dtype).tiny))


def _judge(state: CmaState, axes: Matrix, lengths: Vector, first: Scalar, tol: Scalar) -> CmaState:
    """Whether the distribution has collapsed (onto a point, or onto equal values), or broken down."""
    eps = jnp.finfo(lengths.dtype).eps
    state = eqx.tree_at(lambda s: (s.axes, s.lengths), state, (axes, lengths))
    condition = jnp.max(lengths) > jnp.min(lengths) / (4 * eps**0.5)  # of √C: beyond, C is no covariance any more
    sound = jnp.isfinite(state.sigma) & jnp.isfinite(jnp.max(lengths)) & ~jnp.isneginf(state.value)
    collapsed = jnp.min(_ratios(state, first, tol)) <= 1
    return eqx.tree_at(lambda s: (s.collapsed, s.broken), state, (collapsed, condition | ~sound))


def _ratios(state: CmaState, first: Scalar, tol: Scalar) -> Float[Array, " 3"]:
    """The stopping criteria, each met at 1 or below: a small distribution, one below rounding, equal values."""
    eps = jnp.finfo(state.sigma.dtype).eps
    reached = state.sigma * jnp.max(state.lengths)
    drift = jnp.maximum(state.spread, jnp.max(state.recent) - jnp.min(state.recent))
    sizes = jnp.stack([tol * first, 2 * eps * jnp.max(jnp.abs(state.mean)), 4 * eps * jnp.abs(state.value)])
    measured = jnp.stack([reached, reached, drift])
    ratio = measured / jnp.where(sizes > 0, sizes, 1)
    return jnp.where((sizes > 0) & ~jnp.isnan(ratio), ratio, jnp.where(measured == 0, 0, jnp.inf))
