"""Gradient noise scale: from which batch size on a larger batch stops paying.

When: to choose a batch size, or to see whether a run is limited by noise (scale above the batch) or by curvature
(below). Cost: one pass of gradients over the batches given; memory two gradients. The interval is Fieller's, for a
ratio of two means: it is unbounded above where the gradient does not stand out from its noise, as near a minimum.
Source: McCandlish, Kaplan, Amodei & the OpenAI Dota team, An empirical model of large-batch training (2018), eqs. 2.9
and A.2; Fieller, Some problems in interval estimation (1954).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from jaxtyping import Array, Float, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Solution

Scalar = Float[Array | np.ndarray, ""] | np.floating | float


class NoiseScale(eqx.Module):
    """B_noise = tr Σ / |G|² in examples, its interval and parts: Σ is the covariance per example, G the gradient."""

    scale: Scalar
    low: Scalar
    high: Scalar
    noise: Scalar  # tr Σ
    signal: Scalar  # |G|²


def gradient_noise_scale(
    loss: Callable[..., Any],
    params: PyTree,
    batches: PyTree,
    *,
    key: Key[Array, ""] | None = None,
    parts: int = 4,
    confidence: float = 0.95,
) -> Solution:
    """The gradient noise scale tr Σ / |G|² at `params`, with a confidence interval.

    Parameters
    ----------
    loss
        ``loss(params, batch, key)``, a mean over the examples of the batch.
    params
        Any pytree of floating arrays.
    batches
        Arrays of shape ``(t, b, ...)``: t >= 4 independent batches of b examples; each is split into `parts`.
    key
        Handed to the loss (dropout); ``None``: a fixed one.
    parts
        Micro-batches per batch, a divisor of b and at least 2.
    confidence
        Of the interval: with t batches, Student's t with t − 1 degrees of freedom.

    Returns
    -------
    Solution
        ``value`` is a `NoiseScale`. Certificate ``noise_scale`` (estimate), its standard error by the delta method. A
        scale that is not positive, or an infinite `high`, says that |G|² does not stand out from the noise: take more
        or larger batches.

    Raises
    ------
    InputError
        Where there are fewer than 4 batches, or `parts` does not divide their size.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> x = 3 + jax.random.normal(jax.random.key(0), (64, 32, 5))  # the gradient's mean is -3, its variance 1
    >>> mean_loss = lambda w, batch, key: 0.5 * jnp.mean(jnp.sum((w - batch) ** 2, axis=-1))
    >>> answer = gradient_noise_scale(mean_loss, jnp.zeros(5), x).value
    >>> bool(answer.low < 5 / 45 < answer.high)
    True
    """
    validation.integer(2)("parts", parts)
    validation.number(0, 1, open_low=True)("confidence", confidence)
    shapes = {leaf.shape[:2] for leaf in jax.tree.leaves(batches)}
    if len(shapes) != 1 or len(*shapes) != 2:
        raise InputError(f"batches: found leading shapes {sorted(shapes)}, expected one (t, b) for every array")
    ((t, b),) = shapes
    if t < 4 or b % parts or b < parts:
        raise InputError(f"batches: found {t} batches of {b}, expected 4 or more of a multiple of parts={parts}")
    noise, signal = noise_moments(loss, params, batches, jax.random.key(0) if key is None else key, parts)
    estimate, stderr = summarise(noise, signal, confidence)
    certificate = Certificate(
        "gradient noise scale, tr Σ / |G|², in examples",
        measured=estimate.scale,
        kind="estimate",
        stderr=stderr,
        confidence=confidence,
        source="McCandlish et al. (2018), eq. 2.9; Fieller (1954)",
    )
    return Solution(estimate, {"noise_scale": certificate}, stats={"batches": t, "parts": parts})


@functools.partial(jax.jit, static_argnames=("loss", "parts"))
def noise_moments(
    loss: Callable[..., Any], params: PyTree, batches: PyTree, key: Key[Array, ""], parts: int
) -> tuple[Float[Array, " t"], Float[Array, " t"]]:
    """Unbiased estimates of tr Σ and |G|², one of each per batch."""

    def one(batch: PyTree) -> tuple[Float[Array, ""], Float[Array, ""]]:
        micro = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batch)
        size = jax.tree.leaves(batch)[0].shape[0]

        def add(carry: Any, part: PyTree) -> tuple[Any, None]:
            total, squares = carry
            g = jax.grad(loss)(params, part, key)
            return (optax.tree.add(total, g), squares + _square(g)), None

        zero = jax.tree.map(jnp.zeros_like, params)
        (total, squares), _ = jax.lax.scan(add, (zero, jnp.zeros_like(_square(zero))), micro)
        mean = _square(total) / parts**2
        # Micro-batches of b' examples scatter with covariance Σ/b' about G.
        noise = (squares / parts - mean) * (parts / (parts - 1)) * (size // parts)
        return noise, mean - noise / size

    return jax.lax.map(one, batches)


def summarise(noise: Any, signal: Any, confidence: float = 0.95) -> tuple[NoiseScale, Scalar]:
    """The ratio of the means of t measurements, Fieller's interval for it, and its standard error."""
    t = noise.shape[0]
    # In units of the largest: fourth powers of a gradient would leave float32's range.
    unit = jnp.maximum(jnp.max(jnp.abs(noise)), jnp.max(jnp.abs(signal)))
    safe = jnp.where((unit > 0) & jnp.isfinite(unit), unit, 1)
    noise, signal = noise / safe, signal / safe
    n, s = jnp.mean(noise), jnp.mean(signal)
    nn, ss = jnp.var(noise, ddof=1) / t, jnp.var(signal, ddof=1) / t
    ns = jnp.mean((noise - n) * (signal - s)) / (t - 1)
    known = s != 0
    ratio = jnp.where(known, n / jnp.where(known, s, 1), jnp.where(n > 0, jnp.inf, 0.0))
    finite = jnp.where(known, ratio, 0)
    spread = nn - 2 * finite * ns + finite**2 * ss
    z = float(scipy.stats.t.ppf(0.5 + confidence / 2, t - 1))
    # Fieller: all r with (n − r s)² ≤ z² (nn − 2 r ns + r² ss); a bounded interval where s stands out from zero.
    a, b, c = s**2 - z**2 * ss, n * s - z**2 * ns, n**2 - z**2 * nn
    root = jnp.sqrt(jnp.maximum(b**2 - a * c, 0.0))
    divisor = jnp.where(a == 0, 1.0, a)
    bounded = (a > 0) & (s > 0)
    # With a < 0 all but the numbers between two roots belong to it: from 0 on, unless one root is negative (c > 0).
    beyond = (a < 0) & (c > 0)
    low = jnp.where(bounded | beyond, (b - root) / divisor, 0.0)
    high = jnp.where(bounded, (b + root) / divisor, jnp.inf)
    stderr = jnp.where(known, jnp.sqrt(jnp.maximum(spread, 0.0)) / jnp.where(known, jnp.abs(s), 1), jnp.inf)
    return NoiseScale(ratio, jnp.maximum(low, 0.0), high, n * safe, s * safe), stderr


def _square(tree: PyTree) -> Float[Array, ""]:
    return jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)]).sum()
