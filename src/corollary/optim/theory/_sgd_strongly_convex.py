"""SGD on strongly convex functions: O(1/t) with falling steps, a noise ball with constant ones.

One exact gradient step contracts the distance to x* by ρ = max(|1 − ημ|, |1 − ηL|), and unbiased fresh noise of
variance σ² at most adds η²σ² to its square: d_{t+1} ≤ ρ_t² d_t + η_t²σ² for d_t = E‖x_t − x*‖². Unrolled,

    η constant:            d_t ≤ ρ^{2t} d_0 + η²σ²(1 − ρ^{2t})/(1 − ρ²),    ball of radius² η²σ²/(1 − ρ²) ≈ ησ²/(2μ);
    η_t = 1/(μ(t + t0)):   d_t ≤ ((t0 − 1)² d_0 + t σ²/μ²)/(t + t0 − 1)²,   which is O(1/t), never linear.

Both are attained on μ/2·‖x‖². Linear convergence to x* itself needs noise that vanishes there (interpolation) or
variance reduction. Cost: `runs`·`steps` stochastic and full gradients.
Source: the recursion of Bottou, Curtis & Nocedal (2018), theorems 4.6 and 4.7, with the contraction of Nesterov (2018),
theorem 2.1.15.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import dtype, like
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._sgd_runs import (
    Function,
    StochasticGradient,
    log_slope,
    mean_and_stderr,
    mean_within,
    moment_within,
    point_and_reference,
    positive,
    run_settings,
    sgd_runs,
    square_distance,
)

SOURCE = "Bottou, Curtis & Nocedal (2018), theorems 4.6 and 4.7"


@follows_input
def sgd_rate_strongly_convex(
    f: Function,
    gradient: StochasticGradient,
    x0: Any,
    reference: Any,
    steps: int,
    *,
    strong_convexity: Any,
    lipschitz: Any,
    noise: Any,
    step: Any = None,
    offset: Any = None,
    runs: int = 64,
    confidence: float = 0.99,
    key: Key[Array, ""],
) -> Solution:
    """SGD on a strongly convex function against its bound on E‖x_t − x*‖², for every t ≤ T.

    Parameters
    ----------
    f
        Differentiable function of an array or pytree.
    gradient
        ``gradient(x, key)``: an unbiased stochastic gradient.
    x0, reference
        The start and the minimiser x*.
    steps
        T.
    strong_convexity, lipschitz, noise
        0 < μ ≤ L; σ with E‖g − ∇f‖² ≤ σ² (checked at every step of the runs).
    step
        A constant η < 2/L; steps 1/(μ(t + t0)) if left out.
    offset
        t0 ≥ (μ + L)/(2μ), so that the first step is at most 2/(μ + L); that number if left out.
    runs, confidence, key
        As in `sgd_rate_convex`.

    Returns
    -------
    Solution
        ``value`` is the bound at T; ``history`` holds ``square_distance`` (mean over the runs), ``stderr`` and
        ``rate_bound``, entry t − 1 for x_t; ``stats["ball"]`` is the radius √(η²σ²/(1 − ρ²)) for a constant step.

    Notes
    -----
    Certificates: ``rate`` (probabilistic, one claim for each t); ``slope`` (estimate) of log E‖x_t − x*‖² on log t over
    the last half, −1 for falling steps. Source: Bottou, Curtis & Nocedal (2018), theorems 4.6 and 4.7.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> def gradient(x, key):
    ...     return x + jax.random.normal(key, x.shape, x.dtype)
    >>> constants = {"strong_convexity": 1.0, "lipschitz": 1.0, "noise": 1.0, "key": jax.random.key(0)}
    >>> falling = sgd_rate_strongly_convex(lambda x: (x**2).sum() / 2, gradient, [3.0], [0.0], 50, **constants)
    >>> round(float(falling.value), 4), bool(falling.holds.all())
    (0.02, True)
    >>> fixed = sgd_rate_strongly_convex(lambda x: (x**2).sum() / 2, gradient, [3.0], [0.0], 50, step=0.1, **constants)
    >>> round(float(fixed.stats["ball"]) ** 2, 4)
    0.0526
    """
    x0, reference = point_and_reference(x0, reference)
    validation.integer(4)("steps", steps)
    mu, L, sigma = (
        positive(name, value, x0)
        for name, value in (("strong_convexity", strong_convexity), ("lipschitz", lipschitz), ("noise", noise))
    )
    keys = run_settings(runs, confidence, key)
    t = jnp.arange(1, steps + 1).astype(dtype(x0))
    start = square_distance(x0, reference)
    least = (mu + L) / (2 * mu)
    stats: dict[str, Any] = {}
    if step is not None:
        eta = positive("step", step, x0)
        rho = jnp.maximum(jnp.abs(1 - eta * mu), jnp.abs(1 - eta * L)) ** 2
        ball = eta**2 * sigma**2 / (1 - rho)
        bound = rho**t * start + ball * (1 - rho**t)
        stats |= {"ball": jnp.sqrt(ball), "step_size": eta, "factor": rho}
        short = Assumption("step < 2/L", checked=True, holds=eta * L < 2)
        growth, first = jnp.zeros_like(mu), 1 / eta  # a member of the same family, so that one program serves both
        claim = "E‖x_t − x*‖² <= ρ^{2t}‖x0 − x*‖² + η²σ²(1 − ρ^{2t})/(1 − ρ²)"
    else:
        t0 = least if offset is None else positive("offset", offset, x0)
        bound = ((t0 - 1) ** 2 * start + t * sigma**2 / mu**2) / jnp.maximum(t + t0 - 1, 1) ** 2
        stats |= {"offset": t0}
        short = Assumption("first step <= 2/(μ + L)", checked=True, holds=t0 >= least - rounding(least))
        growth, first = mu, mu * t0
        claim = "E‖x_t − x*‖² <= ((t0 − 1)²‖x0 − x*‖² + tσ²/μ²)/(t + t0 − 1)²"
    squares, noises = _runs(f, gradient, x0, reference, growth, first, keys, steps)

    known = (
        Assumption("f μ-strongly convex, ∇f L-Lipschitz"),
        Assumption("the reference minimises f"),
        Assumption("μ <= L", checked=True, holds=mu <= L),
        short,
        moment_within("E‖g − ∇f‖² <= σ² at every step of the runs", noises, sigma**2, confidence),
    )
    certificates = {"rate": mean_within(claim, squares, bound, confidence, SOURCE, known, rounding(start, 32.0))}
    mean, stderr = mean_and_stderr(squares)
    half = steps // 2
    slope, error = log_slope(t[half:], mean[half:])
    certificates["slope"] = Certificate(
        "slope of log E‖x_t − x*‖² on log t", slope, None, "estimate", "regression over the last half", stderr=error
    )
    history = {"square_distance": mean, "stderr": stderr, "rate_bound": bound}
    return Solution(bound[-1], certificates, 0, steps, stats, history)


@eqx.filter_jit
def _runs(
    f: Function,
    gradient: StochasticGradient,
    x0: PyTree,
    reference: PyTree,
    growth: Scalar,
    first: Scalar,
    keys: Key[Array, " runs"],
    steps: int,
) -> tuple[Float[Array, "runs t"], Float[Array, "runs t"]]:
    """‖x_t − x*‖² for t ≥ 1 and the square noise of every step, with steps 1/(growth·t + first)."""

    def observe(memory, t, x, g, new):
        return memory, (square_distance(new, reference), square_distance(g, jax.grad(f)(x)))

    optimiser = optax.sgd(lambda t: 1 / (growth * like(t, growth) + first))
    _, _, (squares, noises) = sgd_runs(gradient, x0, keys, steps, optimiser, observe)
    return squares, noises
