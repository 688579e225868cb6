"""Many independent stochastic gradient runs in one compiled scan, and how their means are held against an expectation.

A theorem on SGD bounds an expectation; a run gives one draw of it. So each function of this family runs a few dozen
seeds side by side (vmapped, the steps by Optax), and holds the mean against the bound plus t standard errors, t being
Student's quantile shared out over all the claims at once: a true theorem passes with the stated confidence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import scipy.stats
from jaxtyping import Array, Float, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.optim._tree import at_least_zero, dtype, finite, like, norm
from corollary.optim.penalties._base import Scalar

Function = Callable[[Any], Any]
StochasticGradient = Callable[[Any, Any], Any]  # x and a key to an unbiased estimate of ∇f(x)
NORMAL = Assumption("the runs' mean is near normal (central limit theorem)")
UNBIASED = Assumption("the stochastic gradient is unbiased, with fresh noise at every step")


def sgd_runs(
    gradient: StochasticGradient,
    x0: PyTree,
    keys: Key[Array, " runs"],
    steps: int,
    optimiser: optax.GradientTransformation,
    observe: Callable[..., tuple[Any, Any]],
    memory: Any = None,
) -> tuple[PyTree, Any, Any]:
    """Last iterates, last memories and what `observe` saw at every step, each with a leading axis of runs.

    ``observe(memory, t, x, g, new)`` returns the next memory and the step's record. To be called under `jit`.
    """

    def one(key):
        def body(carry, key_and_t):
            x, state, memory = carry
            key, t = key_and_t
            g = gradient(x, key)
            updates, state = optimiser.update(g, state)
            new: Any = optax.tree.add(x, updates)
            memory, seen = observe(memory, t, x, g, new)
            return (new, state, memory), seen

        keys_and_times = jax.random.split(key, steps), jnp.arange(steps, dtype=jnp.int32)
        (x, _, last), seen = jax.lax.scan(body, (x0, optimiser.init(x0), memory), keys_and_times)
        return x, last, seen

    return jax.vmap(one)(keys)


def mean_and_stderr(values: Float[Array, "runs ..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Mean over the runs and its standard error."""
    return jnp.mean(values, 0), jnp.std(values, 0, ddof=1) / values.shape[0] ** 0.5


def quantile(runs: int, confidence: float, claims: int = 1, sides: int = 1) -> float:
    """Student's quantile such that all the claims together fail with probability 1 − confidence at most."""
    return float(scipy.stats.t.ppf(1 - (1 - confidence) / (sides * claims), runs - 1))


def mean_within(
    claim: str,
    values: Float[Array, "runs ..."],
    bound: Float[Array, "..."],
    confidence: float,
    source: str,
    assumptions: tuple[Assumption, ...],
    slack: Any = 0.0,
) -> Certificate:
    """The mean over the runs held against a bound on the expectation, plus t standard errors and the rounding."""
    mean, stderr = mean_and_stderr(values)
    t = quantile(values.shape[0], confidence, max(mean.size, 1))
    return Certificate(
        claim,
        mean,
        bound + t * stderr + rounding(jnp.abs(bound) + jnp.abs(mean), 32.0) + slack,
        "probabilistic",
        source,
        confidence,
        stderr,
        (UNBIASED, *assumptions, NORMAL),
    )


def moment_within(text: str, values: Float[Array, "runs ..."], bound: Scalar, confidence: float) -> Assumption:
    """The assumption that mean squares are at most `bound`, each checked on the runs up to t standard errors."""
    mean, stderr = mean_and_stderr(values)
    t = quantile(values.shape[0], confidence, max(mean.size, 1))
    return Assumption(text, checked=True, holds=jnp.all(mean <= bound + t * stderr + rounding(bound, 64.0)))


def log_slope(t: Any, values: Float[Array, "... n"]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Slope of log values on log t along the last axis, and the regression's own standard error."""
    tiny = jnp.finfo(values.dtype).tiny
    x, y = jnp.log(jnp.asarray(t).astype(values.dtype)), jnp.log(jnp.maximum(values, tiny))
    x = x - jnp.mean(x)
    slope = jnp.sum(x * y, -1) / jnp.sum(x**2)
    residual = y - jnp.mean(y, -1, keepdims=True) - slope[..., None] * x
    return slope, jnp.sqrt(jnp.sum(residual**2, -1) / max(x.size - 2, 1) / jnp.sum(x**2))


def run_settings(runs: int, confidence: Any, key: Any) -> Key[Array, " runs"]:
    """Refuse a bad number of runs or confidence; one key for each run."""
    validation.integer(2)("runs", runs)
    validation.number(0.0, 1.0, open_low=True)("confidence", confidence)
    if confidence == 1:
        raise InputError("confidence: found 1, expected a number in (0, 1)")
    return jax.random.split(key, runs)


def positive(name: str, value: Any, tree: PyTree) -> Scalar:
    """A positive finite number in the precision of the tree."""
    at_least_zero(name, value, positive=True)
    return like(value, tree)


def point_and_reference(x0: Any, reference: Any) -> tuple[PyTree, PyTree]:
    """Both as floats, of the same shapes and the precision of x0."""
    x0, reference = finite("x0", x0), finite("reference", reference)
    if jax.tree.map(jnp.shape, x0) != jax.tree.map(jnp.shape, reference):
        raise InputError("reference: found other shapes than those of x0, expected the same")
    return x0, optax.tree.cast(reference, dtype(x0))


def square_distance(x: PyTree, y: PyTree) -> Scalar:
    """‖x − y‖²."""
    return norm(optax.tree.sub(x, y)) ** 2
