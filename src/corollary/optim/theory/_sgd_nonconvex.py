"""SGD without convexity: the mean of E‖∇f‖² over the iterates is at most 2(f0 − f*)/(ηT) + ηLσ².

For an L-smooth f, noise of variance σ² at most and a constant step η ≤ 1/L. The best step min(1/L, √(2(f0 −
f*)/(LTσ²))) makes it √(8L(f0 − f*)σ²/T) once T is large. It bounds the average over x_0 … x_{T−1} (hence the smallest),
neither the last iterate nor the function value. Cost: `runs`·`steps` stochastic and full gradients.
Source: Ghadimi & Lan (2013), theorem 2.1; Bottou, Curtis & Nocedal (2018), theorem 4.8.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, rounding
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import dtype, finite, like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._sgd_runs import (
    Function,
    StochasticGradient,
    mean_and_stderr,
    mean_within,
    moment_within,
    positive,
    run_settings,
    sgd_runs,
    square_distance,
)

SOURCE = "Ghadimi & Lan (2013), theorem 2.1; Bottou, Curtis & Nocedal (2018), theorem 4.8"


@follows_input
def sgd_rate_nonconvex(
    f: Function,
    gradient: StochasticGradient,
    x0: Any,
    steps: int,
    *,
    lipschitz: Any,
    noise: Any,
    lower_bound: Any,
    step: Any = None,
    runs: int = 64,
    confidence: float = 0.99,
    key: Key[Array, ""],
) -> Solution:
    """SGD with a constant step against (1/t) Σ_{s<t} E‖∇f(x_s)‖² ≤ 2(f(x0) − f*)/(ηt) + ηLσ², for every t ≤ T.

    Parameters
    ----------
    f
        Differentiable function of an array or pytree.
    gradient
        ``gradient(x, key)``: an unbiased stochastic gradient.
    x0
        The start.
    steps
        T.
    lipschitz, noise
        L of ∇f; σ with E‖g − ∇f‖² ≤ σ² (checked along the runs).
    lower_bound
        f*, or any number below f: the gap f(x0) − f* enters the bound.
    step
        η ≤ 1/L; the best one for T, min(1/L, √(2(f0 − f*)/(LTσ²))), if left out.
    runs, confidence, key
        As in `sgd_rate_convex`.

    Returns
    -------
    Solution
        ``value`` is the bound at T; ``history`` holds, for each t, ``mean_square_gradient`` (the running average, mean
        over the runs), its ``stderr``, ``rate_bound`` and ``last_square_gradient`` (of x_t alone);
        ``stats["best_step"]`` and ``stats["best_bound"]`` are for T.

    Notes
    -----
    Certificate ``rate`` (probabilistic, one claim for each t). Source: Ghadimi & Lan (2013), theorem 2.1.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> def gradient(x, key):
    ...     return jnp.sin(x) + 0.5 * jax.random.normal(key, x.shape, x.dtype)
    >>> run = sgd_rate_nonconvex(lambda x: -jnp.cos(x).sum(), gradient, [2.0], 100, lipschitz=1.0, noise=0.5,
    ...                          lower_bound=-1.0, key=jax.random.key(0))
    >>> round(float(run.stats["best_step"]), 4), round(float(run.value), 4), bool(run.holds.all())
    (0.3366, 0.1683, True)
    """
    x0 = finite("x0", x0)
    validation.integer(1)("steps", steps)
    L, sigma = positive("lipschitz", lipschitz, x0), positive("noise", noise, x0)
    keys = run_settings(runs, confidence, key)
    gap = f(x0) - like(lower_bound, x0)
    T = like(steps, x0)
    best = jnp.minimum(1 / L, jnp.sqrt(2 * jnp.maximum(gap, 0) / L / T) / sigma)
    eta = best if step is None else positive("step", step, x0)
    averages, last, noises = _runs(f, gradient, x0, eta, keys, steps)

    def bound(eta, t):
        return 2 * gap / (eta * t) + eta * L * sigma**2

    t = jnp.arange(1, steps + 1).astype(dtype(x0))
    known = (
        Assumption("∇f is L-Lipschitz"),
        Assumption("lower_bound <= f(x0)", checked=True, holds=gap >= 0),
        Assumption("step <= 1/L", checked=True, holds=eta * L <= 1 + rounding(jnp.ones_like(L))),
        moment_within("E‖g − ∇f‖² <= σ² on average over the first t steps, for every t", noises, sigma**2, confidence),
    )
    claim = "(1/t) Σ E‖∇f(x_s)‖² <= 2(f0 − f*)/(ηt) + ηLσ²"
    mean, stderr = mean_and_stderr(averages)
    rates = bound(eta, t)
    history = {
        "mean_square_gradient": mean,
        "stderr": stderr,
        "rate_bound": rates,
        "last_square_gradient": jnp.mean(last, 0),
    }
    stats = {"best_step": best, "best_bound": bound(best, T), "step_size": eta}
    certificates = {"rate": mean_within(claim, averages, rates, confidence, SOURCE, known)}
    return Solution(rates[-1], certificates, 0, steps, stats, history)


@eqx.filter_jit
def _runs(
    f: Function, gradient: StochasticGradient, x0: PyTree, eta: Scalar, keys: Key[Array, " runs"], steps: int
) -> tuple[Float[Array, "runs t"], Float[Array, "runs t"], Float[Array, "runs t"]]:
    """Running averages of ‖∇f(x_t)‖², ‖∇f(x_t)‖² itself, and the running average of the square noise."""

    def observe(memory, t, x, g, new):
        exact = jax.grad(f)(x)
        square = norm(exact) ** 2
        memory = memory + (square - memory) / (t + 1).astype(eta.dtype)
        return memory, (memory, square, square_distance(g, exact))

    start = jnp.zeros((), eta.dtype)
    _, _, (averages, squares, noises) = sgd_runs(gradient, x0, keys, steps, optax.sgd(eta), observe, start)
    return averages, squares, jnp.cumsum(noises, 1) / jnp.arange(1, steps + 1).astype(eta.dtype)
