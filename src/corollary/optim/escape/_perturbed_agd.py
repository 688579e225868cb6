"""Perturbed accelerated gradient descent: momentum, noise where the gradient is small, negative curvature exploited.

    y = x + (1 − θ)v,    x⁺ = y − η∇f(y),    v⁺ = x⁺ − x.

Where f is too concave between x and y for momentum to pay, the velocity is itself a direction of negative curvature:
step along it by s, or drop it. The Hamiltonian f(x) + ‖v‖²/(2η) then falls at every step. Steps: Õ(ε^(−7/4)) against
the ε^(−2) of gradient descent; a saddle with λ_min = −√(ρε) is left in √(L/√(ρε)) steps rather than L/√(ρε), up to
logarithms. The paper's test fires at v = 0, where it compares f(x) with itself and has no direction: here v ≠ 0.
Its χ = log(dLΔ/(ρεδ)) changes with the unit of x; here it is log(dLΔ/(ε²δ)), as for gradient descent, which does not.
Source: Jin, Netrapalli & Jordan, "Accelerated gradient descent escapes saddle points faster than gradient descent"
(2018), algorithms 2 and 3, eq. (3), lemma 7 (Hamiltonian).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import norm
from corollary.optim.escape._noise import (
    Asked,
    Constants,
    Function,
    Vector,
    asked,
    ball,
    flat,
    log_ratio,
    right_chance,
    verdict,
)
from corollary.optim.penalties._base import Scalar

HAMILTONIAN = "Jin, Netrapalli & Jordan (2018), lemma 7"


@follows_input
def perturbed_agd(
    f: Function,
    x0: Any,
    *,
    lipschitz: Any,
    rho: Any,
    eps: Any,
    lower: Any,
    key: Key[Array, ""],
    failure: Any = 0.1,
    c: Any = 1.0,
    max_steps: int = 100_000,
    history: bool = False,
) -> Solution:
    """Minimise a smooth function to an ε-second-order stationary point, by accelerated gradients.

    Use it like `perturbed_gd` where L/√(ρε) is large. Cost: two gradients and four values a step, and a Lanczos run for
    the certificate at the end. It can be jitted (f static) and vmapped over x0 and key.

    Parameters
    ----------
    f, x0, lipschitz, rho, eps, lower, key, failure, max_steps
        As in `perturbed_gd`.
    c
        The constant of the theory (which asks it to be large enough): the longer the wait, the smaller the noise.
    history
        Record ``objective``, ``hamiltonian``, ``gradient_norm`` and ``perturbed`` per step.

    Returns
    -------
    Solution
        ``value`` of the structure of x0. ``stats``: ``objective``, ``episodes``, ``exploitations`` of negative
        curvature, ``gradient_norm``, ``lambda_min``, ``saddle``, ``constants``.

    Raises
    ------
    InputError
        For an x0 that is not finite, and settings out of range.

    Notes
    -----
    Certificates: ``gradient`` (monitor) and ``curvature`` (probabilistic) of `second_order_stationarity`, and
    ``hamiltonian`` (theorem), it rose at no step except by noise. The paper runs for a fixed number of steps; here an
    episode of noise that takes the Hamiltonian down by less than its share ends the run, as in `perturbed_gd`.
    Source: Jin, Netrapalli & Jordan (2018), algorithm 2 and theorem 3.

    Examples
    --------
    >>> def f(x):  # a saddle at 0, minima at x = (0, ±1)
    ...     return x[0] ** 2 / 2 - x[1] ** 2 / 2 + x[1] ** 4 / 4
    >>> run = perturbed_agd(f, [0.0, 0.0], lipschitz=3.0, rho=8.0, eps=0.1, lower=-0.25, key=jax.random.key(0))
    >>> bool(run.converged), bool(abs(abs(run.value[1]) - 1) < 0.1)
    (True, True)
    """
    x0, setting = asked(x0, lipschitz, rho, eps, lower, failure, c, max_steps)
    validation.flag("history", history)
    return accelerate(
        f, x0, setting, jnp.zeros((), setting.eps.dtype), key, jnp.asarray(max_steps), max_steps if history else 0, 0
    )


class Glide(eqx.Module):
    """The carry: iterate and velocity, the point before the last noise with its Hamiltonian, flags and counts."""

    x: Vector
    v: Vector
    before: Vector
    before_energy: Scalar
    since: Int[Array, ""]
    steps: Int[Array, ""]
    episodes: Int[Array, ""]
    exploited: Int[Array, ""]
    rise: Scalar
    key: Key[Array, ""]
    past: Float[Array, "w d"]
    returned: Bool[Array, ""]
    finite: Bool[Array, ""]
    history: dict[str, Array]


@eqx.filter_jit
def accelerate(
    f: Function,
    x0: PyTree,
    setting: Asked,
    aversion: Scalar,
    key: Key[Array, ""],
    max_steps: Any,
    length: int,
    window: int,
) -> Solution:
    """The loop; with a window of past points the noise avoids where they were."""
    evaluate, x, back = flat(f, x0)
    value, _ = evaluate(x)
    L, rho, eps, c = setting.lipschitz, setting.rho, setting.eps, setting.c
    root = jnp.sqrt(rho) * jnp.sqrt(eps)
    kappa = jnp.maximum(L / root, 1.0)
    chi = jnp.maximum(log_ratio(setting, x.size, value, (0.0, 2.0)), 1.0)
    eta, theta = 1 / (4 * L), 1 / (4 * jnp.sqrt(kappa))
    gamma = theta * (theta / eta)
    reach = gamma / (4 * rho)
    constants = Constants(
        eta=eta,
        radius=eta * eps / (chi**5 * c**8),
        gradient=eps,
        fall=eps * jnp.sqrt(eps / rho) / (chi**5 * c**7),
        wait=jnp.ceil(jnp.minimum(jnp.sqrt(kappa) * chi * c, 1e9)).astype(jnp.int32),
    )
    look, run_key = jax.random.split(key)

    def energy(value: Scalar, v: Vector) -> Scalar:
        return value + norm(v) * (norm(v) / (2 * eta))

    def body(run: Glide) -> Glide:
        value, gradient = evaluate(run.x)
        now = energy(value, run.v)
        share = constants.fall + rounding(jnp.abs(value) + jnp.abs(run.before_energy), 4.0)
        returned = (run.since == constants.wait) & ~(run.before_energy - now >= share)
        push = ~returned & (norm(gradient) <= eps) & (run.since > constants.wait)
        key, draw = jax.random.split(run.key)
        chance = right_chance(run.past, run.x, aversion) if window else 0.5
        x = jnp.where(push, run.x + ball(draw, run.x, constants.radius, chance), run.x)
        value_x = jax.lax.cond(push, lambda: evaluate(x)[0], lambda: value)

        y = x + (1 - theta) * run.v
        value_y, slope = evaluate(y)
        away = x - y
        linear = value_y + slope @ away
        noise = rounding(jnp.abs(value_x) + jnp.abs(value_y) + norm(slope) * norm(away), 4.0)
        concave = (norm(away) > 0) & (value_x - linear + gamma / 2 * norm(away) ** 2 < -noise)

        size = norm(run.v)
        along = reach * run.v / jnp.where(size > 0, size, 1)
        ends = evaluate(x + along)[0], evaluate(x - along)[0]
        side = jnp.where(ends[0] <= ends[1], x + along, x - along)
        exploited = jnp.where(size >= reach, x, side)
        new = jnp.where(concave, exploited, y - eta * slope)
        velocity = jnp.where(concave, jnp.zeros_like(x), new - x)
        value_new = evaluate(new)[0]
        rise = energy(value_new, velocity) - energy(value_x, run.v)
        slack = rounding(
            jnp.abs(value_new) + jnp.abs(value_x) + size * (size / (2 * eta)) + norm(slope) * norm(new), 8.0
        )
        values = {
            "objective": value,
            "hamiltonian": now,
            "gradient_norm": norm(gradient),
            "perturbed": push.astype(value.dtype),
        }
        return Glide(
            x=jnp.where(returned, run.before, new),
            v=velocity,
            before=jnp.where(push, run.x, run.before),
            before_energy=jnp.where(push, now, run.before_energy),
            since=jnp.where(push, 0, run.since) + 1,
            steps=jnp.where(returned, run.steps, run.steps + 1),
            episodes=jnp.where(push, run.episodes + 1, run.episodes),
            exploited=jnp.where(concave & ~returned, run.exploited + 1, run.exploited),
            rise=jnp.where(returned, run.rise, jnp.fmax(run.rise, rise - slack)),
            key=key,
            past=jnp.roll(run.past, 1, 0).at[0].set(run.x) if window else run.past,
            returned=returned,
            finite=jnp.isfinite(value) & jnp.isfinite(norm(new)),
            history={name: series.at[run.steps].set(values[name]) for name, series in run.history.items()},
        )

    names = ("objective", "hamiltonian", "gradient_norm", "perturbed") if length else ()
    zero = jnp.int32(0)
    start = Glide(
        x=x,
        v=jnp.zeros_like(x),
        before=x,
        before_energy=value,
        since=constants.wait + 1,
        steps=zero,
        episodes=zero,
        exploited=zero,
        rise=-jnp.full_like(value, jnp.inf),
        key=run_key,
        past=jnp.full((window, x.size), jnp.nan, x.dtype),
        returned=jnp.array(False),
        finite=jnp.isfinite(value),
        history={name: jnp.full((length,), jnp.nan, x.dtype) for name in names},
    )
    run = jax.lax.while_loop(lambda r: ~r.returned & r.finite & (r.steps < max_steps), body, start)
    answer = back(jnp.where(run.finite, run.x, run.before))
    fell = Certificate(
        "f(x) + ‖v‖²/(2η) rises at no step but by noise",
        jnp.where(run.steps > 0, run.rise, 0),
        jnp.zeros_like(run.rise),
        "theorem",
        HAMILTONIAN,
        assumptions=(Assumption("∇f is L-Lipschitz, ∇²f ρ-Lipschitz"),),
    )
    stats = {"episodes": run.episodes, "exploitations": run.exploited, "constants": constants}
    return verdict(
        f, answer, setting, look, run.returned, run.finite, run.steps, {"hamiltonian": fell}, stats, run.history
    )
