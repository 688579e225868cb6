"""Barron's theorem, constructively: n step neurons reach a mean squared error of (2rC_f)²/n, in any dimension.

For f(x) = Σ_k a_k cos(ω_k·x + φ_k) the Barron constant is C_f = Σ|a_k|‖ω_k‖. On the ball of radius r, f(x) − f(0)
is the mean of single neurons of height at most 2rC_f: draw k with probability |a_k|‖ω_k‖/C_f and s uniformly on
[−r, r]; the neuron is a step at ω_k·x/‖ω_k‖ = s. The mean of n of them has mean squared error at most (2rC_f)²/n: no d
in it, except through C_f. When: how many neurons a smooth function needs, O(ε⁻²) for an error ε. O(n·points·d).
Source: Barron, "Universal approximation bounds for superpositions of a sigmoidal function" (1993), theorem 1, lemma 1.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.solution import Solution


class StepNetwork(eqx.Module):
    """f_n(x) = f(0) + Σ_j height_j·(1[u_j·x ≥ s_j] for s_j ≥ 0, 1[u_j·x < s_j] for s_j < 0), over leading axes."""

    directions: Float[Array, "n d"]
    thresholds: Float[Array, " n"]
    heights: Float[Array, " n"]
    offset: Float[Array, ""]

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "..."]:
        """(..., d) to (...)."""
        t = x @ self.directions.T
        on = jnp.where(self.thresholds >= 0, t >= self.thresholds, t < self.thresholds)
        return self.offset + on.astype(x.dtype) @ self.heights


def barron_approximation(
    amplitudes: Float[Array, " k"],
    frequencies: Float[Array, "k d"],
    phases: Float[Array, " k"],
    n: int,
    x: Float[Array, "m d"],
    *,
    radius: Any,
    key: Any,
    draws: int = 8,
) -> Solution:
    """n step neurons for Σ a_k cos(ω_k·x + φ_k), sampled from its Fourier representation. O(draws·n·m·d).

    Parameters
    ----------
    amplitudes, frequencies, phases
        a (k,), ω (k, d), φ (k,).
    n
        Neurons.
    x
        (m, d): the points that the mean square is taken over, within the ball.
    radius
        r.
    key
        From `jax.random.key`.
    draws
        Independent networks are drawn, and the best kept.

    Returns
    -------
    Solution
        ``value``: `StepNetwork`. Certificate ``mean_square`` (probabilistic): the mean squared error on the points ≤
        (2rC_f)²/n; with Markov's inequality each draw fails with probability at most the mean of sin² along the
        thresholds. ``stats``: ``constant``, C_f; ``mean_error``, the mean squared error averaged over the draws.

    Raises
    ------
    InputError
        For shapes that do not match, n or draws below one, a radius that is not positive.

    Source
    ------
    Barron (1993), theorem 1; the step representation is the proof's.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> one, x = jnp.ones(1), jnp.linspace(-1, 1, 50)[:, None]
    >>> found = barron_approximation(one, 2 * one[None], 0 * one, 100, x, radius=1.0, key=jax.random.key(0))
    >>> bool(found.holds), float(found.stats["constant"])
    (True, 2.0)
    """
    validation.integer()("n", n)
    validation.integer()("draws", draws)
    k, d = frequencies.shape
    if amplitudes.shape != (k,) or phases.shape != (k,) or x.ndim != 2 or x.shape[1] != d:
        found = f"{amplitudes.shape}, {frequencies.shape}, {phases.shape}, {x.shape}"
        raise InputError(
            f"amplitudes, frequencies, phases, x: found shapes {found}, expected (k,), (k, d), (k,), (m, d)"
        )
    if not isinstance(radius, Tracer):
        validation.number(0, open_low=True)("radius", float(radius))
    r = jnp.asarray(radius, x.dtype)
    speed = jnp.linalg.norm(frequencies, axis=1)
    weight = jnp.abs(amplitudes) * speed
    constant = jnp.sum(weight)
    # A constant function (C_f = 0) needs no neuron: any choice will do, all heights are zero.
    varies = constant > 0
    share_of = jnp.where(varies, weight, 1.0 / k) / jnp.where(varies, constant, 1.0)
    target = jnp.cos(x @ frequencies.T + phases) @ amplitudes

    def draw(key: Array) -> tuple[StepNetwork, Array]:
        first, second = jax.random.split(key)
        chosen = jax.random.choice(first, k, (n,), p=share_of)
        s = jax.random.uniform(second, (n,), x.dtype, -r, r)
        w, phase = speed[chosen], phases[chosen]
        # cos(wt + φ) − cos φ is the integral of −w sin(ws + φ) over [0, t], or of w sin(ws + φ) over [t, 0].
        sign = -jnp.where(s >= 0, 1.0, -1.0).astype(x.dtype) * jnp.sign(amplitudes[chosen])
        height = sign * jnp.sin(w * s + phase) * 2.0 * r * constant / n
        offset = jnp.sum(amplitudes * jnp.cos(phases))
        net = StepNetwork(frequencies[chosen] / jnp.where(w > 0, w, 1.0)[:, None], s, height, offset)
        return net, jnp.mean((net(x) - target) ** 2)

    nets, errors = jax.lax.map(draw, jax.random.split(key, draws))
    best = jnp.argmin(errors)
    net = jax.tree.map(lambda leaf: leaf[best], nets)
    bound = (2 * r * constant) ** 2 / n
    # The mean of sin²(ws + φ) over s in [−r, r], by k.
    turn = 2 * speed * r
    share = 0.5 - jnp.cos(2 * phases) * jnp.sin(turn) / (2 * jnp.where(turn > 0, turn, 1.0))
    risk = jnp.where(varies, jnp.clip(jnp.sum(share_of * share), 0.0, 1.0) ** draws, 0.0)
    inside = jnp.max(jnp.linalg.norm(x, axis=1)) <= r * (1 + 8 * jnp.finfo(x.dtype).eps)
    claim = Certificate(
        "mean (f − f_n)² ≤ (2rC_f)²/n, for the best of the draws",
        errors[best],
        bound + rounding(bound, 8.0 * n) + rounding(jnp.sum(jnp.abs(amplitudes)), 8.0 * k) ** 2,
        "probabilistic",
        "Barron (1993), theorem 1",
        confidence=1 - risk,
        assumptions=(Assumption("the points lie in the ball of radius r", checked=True, holds=inside),),
    )
    return Solution(net, {"mean_square": claim}, 0, 1, {"constant": constant, "mean_error": jnp.mean(errors)})
