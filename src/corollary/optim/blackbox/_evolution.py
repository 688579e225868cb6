"""Evolution strategies in the manner of OpenAI: a gradient of the smoothed function from antithetic pairs.

For f_σ(x) = E f(x + σε), ε ~ N(0, I), the estimate ĝ = Σ_i (f(x + σε_i) − f(x − σε_i)) ε_i/(2nσ) has the mean ∇f_σ(x)
exactly; on linear and quadratic f that is ∇f itself. Ranks in place of values make the step blind to the scale of f
and to outliers (the estimate is then of another gradient). Any number of evaluations runs in parallel; use it where d
is large and evaluations are many and cheap, else `cma_es`. Cost: 2·pairs evaluations a step, O(pairs·d) beside them.
Source: Salimans, Ho, Chen, Sidor & Sutskever (2017), algorithm 1; Nesterov & Spokoiny (2017), eq. (26).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import at_least_zero, like
from corollary.optim.blackbox._poll import Function, flat, poll, value_of, values_of
from corollary.optim.penalties._base import Scalar

FINAL, POLL_SIZE = 1e-3, 0.1  # what σ and the rate fall to, and the poll's length, both relative to their starts


def centred_ranks(values: Float[Array, " n"]) -> Float[Array, " n"]:
    """Ranks from −1/2 (least) to 1/2 (largest), equal values sharing theirs.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> centred_ranks(jnp.asarray([3.0, 1.0, 3.0])).tolist()
    [0.25, -0.5, 0.25]
    """
    ordered = jnp.sort(values)
    below, up_to = (jnp.searchsorted(ordered, values, side=side).astype(values.dtype) for side in ("left", "right"))
    return (below + up_to - 1) / 2 / max(values.size - 1, 1) - 0.5


@follows_input
def smoothed_gradient(
    f: Function, x: Any, sigma: Any, *, pairs: int = 32, shaping: str | None = None, key: Key[Array, ""]
) -> Solution:
    """An estimate of ∇E f(x + σε) from antithetic pairs.

    Parameters
    ----------
    f
        Function of an array or pytree.
    x
        Where.
    sigma
        σ > 0.
    pairs
        How many ε; each costs two evaluations.
    shaping
        None: values, an unbiased estimate; ``"ranks"``: centred ranks, free of the scale of f.
    key
        Of `jax.random.key`.

    Returns
    -------
    Solution
        ``value`` like x; ``stats["evaluations"]``, ``stats["stderr"]`` per entry (like x).

    Notes
    -----
    Certificate ``error`` (estimate): the norm of the estimate with its standard error.

    Examples
    --------
    >>> import jax, numpy as np
    >>> found = smoothed_gradient(lambda x: 2 * x[0], np.zeros(1), 0.1, pairs=5000, key=jax.random.key(0))
    >>> bool(abs(found.value[0] - 2) < 4 * found.stats["stderr"][0])
    True
    """
    x0, unravel = flat("x", x)
    at_least_zero("sigma", sigma, positive=True)
    validation.integer(2)("pairs", pairs)
    validation.one_of(None, "ranks")("shaping", shaping)
    each, _, _ = _pairs(f, x0, like(sigma, x0), key, unravel, pairs, shaping)
    mean, stderr = jnp.mean(each, 0), jnp.std(each, 0, ddof=1) / pairs**0.5
    size, error = jnp.sqrt(jnp.sum(mean**2)), jnp.sqrt(jnp.sum(stderr**2))
    source = "Salimans et al. (2017), algorithm 1"
    certificates = {"error": Certificate("‖ĝ‖", size, None, "estimate", source, stderr=error)}
    stats = {"evaluations": 2 * pairs, "stderr": unravel(stderr)}
    return Solution(unravel(mean), certificates, 0, 1, stats)


@follows_input
def evolution_strategy(
    f: Function,
    x0: Any,
    sigma: Any,
    steps: int = 300,
    *,
    pairs: int = 32,
    learning_rate: Any = None,
    shaping: str | None = "ranks",
    key: Key[Array, ""],
) -> Solution:
    """Minimise by Adam on the smoothed gradient; σ and the rate fall to a thousandth of their starts.

    Parameters
    ----------
    f
        Function of an array or pytree; NaN counts as infinitely bad (with ``shaping="ranks"``).
    x0
        The start.
    sigma
        First σ: the size of the region to look at.
    steps, pairs
        Steps, and antithetic pairs in each.
    learning_rate
        Adam's first rate, in units of x; σ/2 if left out.
    shaping
        ``"ranks"`` or None.
    key
        Of `jax.random.key`.

    Returns
    -------
    Solution
        ``value`` is the better of the last mean and the best point evaluated; ``stats`` hold its ``objective`` and the
        ``evaluations``; ``history["objective"]`` the best of each step.

    Notes
    -----
    Certificate ``poll`` (monitor): no step of a tenth of the first σ, nor of the last σ, along a coordinate improves
    on the answer, which is what the status rests on. Source: Salimans et al. (2017), algorithm 1; Kolda, Lewis &
    Torczon (2003).

    Examples
    --------
    >>> import jax
    >>> found = evolution_strategy(lambda x: ((x - 1) ** 2).sum(), [3.0, -2.0], 0.5, key=jax.random.key(0))
    >>> found.value.round(2).tolist(), bool(found.converged)
    ([1.0, 1.0], True)
    """
    start, unravel = flat("x0", x0)
    validation.integer(1)("steps", steps)
    validation.integer(2)("pairs", pairs)
    validation.one_of(None, "ranks")("shaping", shaping)
    at_least_zero("sigma", sigma, positive=True)
    at_least_zero("learning_rate", learning_rate, positive=True)
    width = like(sigma, start)
    rate = width / 2 if learning_rate is None else like(learning_rate, start)
    x, value, best, certificate = _evolve(f, start, width, rate, key, unravel, steps, pairs, shaping)
    status = Status.of(certificate.holds, jnp.isfinite(value))
    d = start.size
    stats = {"objective": value, "evaluations": 2 * pairs * steps + 4 * d + 1, "poll_size": POLL_SIZE * width}
    return Solution(unravel(x), {"poll": certificate}, status, steps, stats, {"objective": best})


def _pairs(
    f: Function,
    x: Float[Array, " d"],
    sigma: Scalar,
    key: Key[Array, ""],
    unravel: Any,
    pairs: int,
    shaping: str | None,
) -> tuple[Float[Array, "n d"], Float[Array, " d"], Scalar]:
    """Each pair's estimate, the best point evaluated and its value."""
    noise = jax.random.normal(key, (pairs, x.size), x.dtype)
    points = jnp.concatenate([x + sigma * noise, x - sigma * noise])
    values = values_of(f, points, unravel)
    best = jnp.argmin(values)
    shaped = centred_ranks(values) if shaping == "ranks" else values
    return ((shaped[:pairs] - shaped[pairs:]) / (2 * sigma))[:, None] * noise, points[best], values[best]


@eqx.filter_jit
def _evolve(
    f: Function,
    x0: Float[Array, " d"],
    sigma: Scalar,
    rate: Scalar,
    key: Key[Array, ""],
    unravel: Any,
    steps: int,
    pairs: int,
    shaping: str | None,
) -> tuple[Float[Array, " d"], Scalar, Float[Array, " k"], Certificate]:
    def share(k):
        return FINAL ** (like(k, x0) / steps)

    # ε far below any gradient: Adam is then free of the scale of f.
    optimiser = optax.adam(lambda k: rate * share(k), eps=float(jnp.finfo(x0.dtype).tiny) ** 0.5)

    def body(carry, key_and_k):
        x, state, best, lowest = carry
        key, k = key_and_k
        each, point, value = _pairs(f, x, sigma * share(k), key, unravel, pairs, shaping)
        with jax.numpy_dtype_promotion("standard"):  # Optax's bias correction mixes floats and counts
            updates, state = optimiser.update(jnp.mean(each, 0), state)
        better = value < lowest
        best, lowest = jnp.where(better, point, best), jnp.where(better, value, lowest)
        return (x + updates, state, best, lowest), value

    first = value_of(f, unravel(x0))
    keys = jax.random.split(key, steps), jnp.arange(steps, dtype=jnp.int32)
    (x, _, best, lowest), values = jax.lax.scan(body, (x0, optimiser.init(x0), x0, first), keys)
    last = value_of(f, unravel(x))
    x, value = jnp.where(last <= lowest, x, best), jnp.minimum(last, lowest)
    # At two lengths: a coarse poll alone steps over a narrow descent, a fine one drowns in the noise of a wide valley.
    coarse, fine = (poll(f, x, value, h * sigma, unravel, None) for h in (POLL_SIZE, FINAL))
    return x, value, values, jax.tree.map(lambda a, b: jnp.where(coarse.holds, b, a), coarse, fine)
