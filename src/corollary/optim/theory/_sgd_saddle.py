"""How gradient noise carries SGD off a saddle along a direction of curvature λ < 0.

From the saddle itself x ← (1 + η|λ|)x − ηξ, Var ξ = s², has Var x_t = η²s²((1 + η|λ|)^{2t} − 1)/((1 + η|λ|)² − 1).
A run has left |x| < r by step t at least as often as |x_t| ≥ r, which for Gaussian noise gives the median time

    t = log(1 + (r/0.6745)² ((1 + η|λ|)² − 1)/(η²s²)) / (2 log(1 + η|λ|)),

of order log(r²|λ|/(ηs²))/(2η|λ|). Gradient descent without noise never leaves. Cost: `runs`·`steps` gradients.
Source: the variance of a first-order autoregression; Daneshmand, Kohler, Lucchi & Hofmann (2018), lemma 4, for SGD.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import at_least_zero
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._sgd_runs import run_settings, sgd_runs

MEDIAN = float(scipy.stats.norm.ppf(0.75))  # of |Z| for a standard normal Z
SOURCE = "x_t = η Σ (1 + η|λ|)^{t−1−s} ξ_s"


@follows_input
def sgd_saddle_escape(
    curvature: Any,
    step: Any,
    noise_variance: Any,
    radius: Any,
    *,
    steps: int | None = None,
    runs: int = 1000,
    confidence: float = 0.99,
    key: Key[Array, ""],
) -> Solution:
    """Predicted variance and escape time of SGD started at a saddle, beside simulated ones.

    Parameters
    ----------
    curvature
        λ < 0.
    step, noise_variance, radius
        η, s² and r, > 0.
    steps
        Length of the runs; one and a half times the predicted median if left out (not under `jit`).
    runs, confidence, key
        As in `sgd_rate_convex`; the noise is Gaussian.

    Returns
    -------
    Solution
        ``value`` is the predicted median escape step (real; the measured one is the next integer at the latest);
        ``stats["median"]`` the measured one, ``stats["time_scale"]`` 1/(η|λ|), ``stats["escapes"]`` each run's step
        (`steps` + 1 where it had not left); ``history`` holds ``variance``, ``predicted_variance``, ``escaped`` (the
        fraction that had left by t) and ``predicted_escaped`` (a lower bound), entry t − 1 for x_t.

    Notes
    -----
    Certificates, both probabilistic: ``variance``, |measured/predicted − 1| within the χ² quantiles; ``escaped``,
    P(left by t) ≥ P(|x_t| ≥ r). Each is one claim for each t.

    Examples
    --------
    >>> import jax
    >>> found = sgd_saddle_escape(-1.0, 0.1, 1e-4, 1.0, key=jax.random.key(0))
    >>> round(float(found.value), 1), bool(found.holds.all()), bool(found.stats["median"] <= found.value + 1)
    (68.4, True, True)
    """
    for name, value in (("step", step), ("noise_variance", noise_variance), ("radius", radius)):
        at_least_zero(name, value, positive=True)
    keys = run_settings(runs, confidence, key)
    rate, eta, square, r = common_float(curvature, step, noise_variance, radius)
    a = -eta * rate
    if not isinstance(a, Tracer) and not (float(a) > 0 and np.isfinite(a)):
        raise InputError(f"curvature: found {float(rate):.3g}, expected a finite number < 0")
    growth = 2 * jnp.log1p(a)
    # (1 + a)² − 1 = a(2 + a); η²s² by factors, lest its square underflow.
    predicted = jnp.log1p(jnp.square(r / MEDIAN / (eta * jnp.sqrt(square))) * a * (2 + a)) / growth
    if steps is None:
        if isinstance(predicted, Tracer):
            raise InputError("steps: found None under jit, expected an integer")
        steps = max(int(np.ceil(1.5 * float(predicted))), 8)
    validation.integer(1)("steps", steps)

    t = jnp.arange(1, steps + 1).astype(a.dtype)
    variance = eta**2 * square * jnp.expm1(t * growth) / (a * (2 + a))
    measured, left = _runs(rate, eta, square, r, keys, steps)
    tail = (1 - confidence) / (2 * steps)
    edges = scipy.stats.chi2.ppf([tail, 1 - tail], runs) / runs - 1
    escaped = jnp.mean((left[:, None] <= t).astype(a.dtype), 0)
    least = 2 * jax.scipy.stats.norm.sf(r / jnp.sqrt(variance))
    log = math.log(steps / (1 - confidence))
    slack = jnp.sqrt(2 * least * (1 - least) * log / runs) + 2 * log / (3 * runs)  # Bernstein's inequality
    known = (Assumption("the noise is Gaussian, independent of x and over the steps"),)
    certificates = {
        "variance": Certificate(
            "|measured/predicted variance − 1|",
            jnp.abs(measured / variance - 1),
            jnp.full_like(t, float(np.max(np.abs(edges)))),
            "probabilistic",
            SOURCE,
            confidence,
            assumptions=known,
        ),
        "escaped": Certificate(
            "P(|x_t| >= r) − fraction that has left by t",
            least - escaped,
            slack,
            "probabilistic",
            SOURCE,
            confidence,
            assumptions=known,
        ),
    }
    history = {
        "variance": measured,
        "predicted_variance": variance,
        "escaped": escaped,
        "predicted_escaped": least,
    }
    stats = {"median": jnp.median(left), "time_scale": 1 / a, "escapes": left}
    return Solution(predicted, certificates, 0, steps, stats, history)


@eqx.filter_jit
def _runs(
    rate: Scalar, eta: Scalar, square: Scalar, r: Scalar, keys: Key[Array, " runs"], steps: int
) -> tuple[Float[Array, " t"], Float[Array, " runs"]]:
    """Mean square of x_t over the runs, and the first t with |x_t| ≥ r (steps + 1: never)."""

    def gradient(x, key):
        return rate * x + jnp.sqrt(square) * jax.random.normal(key, (), x.dtype)

    def observe(memory, t, x, g, new):
        first = jnp.where((jnp.abs(new) >= r) & (memory > steps), (t + 1).astype(memory.dtype), memory)
        return first, new

    never = jnp.full((), steps + 1, eta.dtype)
    _, left, paths = sgd_runs(gradient, jnp.zeros_like(eta), keys, steps, optax.sgd(eta), observe, never)
    return jnp.mean(jnp.square(paths), 0), left
