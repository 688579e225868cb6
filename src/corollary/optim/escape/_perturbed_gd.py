"""Perturbed gradient descent: uniform noise where the gradient is small, and a stop where noise no longer helps.

Gradient descent stays where it started on the stable manifold of a saddle, and may need exponentially many steps near
it. A small random push, then descent, leaves a saddle with λ_min ≤ −√(ρε) within (L/√(ρε))·log d steps and takes f down
by a fixed amount; where f does not fall, the point before the push is second-order stationary with high probability.
Cost: Õ(L(f(x0) − f*)/ε²) gradients. `aversion` bends the noise away from half-lines already visited.
Source: Jin, Ge, Netrapalli, Kakade & Jordan, "How to escape saddle points efficiently" (2017), algorithm 2, theorem 3;
Guo, Han, Tajrobehkar & Tang, "Escaping saddle points efficiently with occupation-time-adapted perturbations" (2020).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import rounding
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import norm
from corollary.optim.escape._noise import (
    Asked,
    Function,
    Vector,
    asked,
    ball,
    flat,
    pgd_constants,
    right_chance,
    steps_certificate,
    verdict,
)
from corollary.optim.penalties._base import Scalar

SOURCE = "Jin et al. (2017), algorithm 2 and theorem 3"


@follows_input
def perturbed_gd(
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
    """Minimise a smooth function to an ε-second-order stationary point, with gradients alone.

    Use it where saddles are in the way and a Hessian is not to be had. Cost: one gradient a step, and a Lanczos run for
    the certificate at the end. It can be jitted (f static) and vmapped over x0 and key.

    Parameters
    ----------
    f
        Function of an array or pytree.
    x0
        The start.
    lipschitz, rho
        Lipschitz constants L of the gradient and ρ of the Hessian.
    eps
        ε: asked are ‖∇f‖ ≤ ε and λ_min ≥ −√(ρε).
    lower
        A lower bound of f: f(x0) − lower enters the constants by its logarithm.
    key
        `jax.random.key`.
    failure
        δ, the chance of failure that is accepted.
    c
        The constant of the theory (which asks it to be small enough): η = c/L.
    max_steps
        Limit of gradient steps.
    history
        Record ``objective``, ``gradient_norm`` and ``perturbed`` (0 or 1) per step.

    Returns
    -------
    Solution
        ``value`` of the structure of x0: the point before the noise that no longer helped. ``stats``: ``objective``,
        ``episodes`` (how often noise was added), ``gradient_norm``, ``lambda_min``, ``saddle``, ``constants``.
        Converged only where the method stopped by itself and the check at the end proved (with its confidence) a small
        gradient and no saddle; in many dimensions its 100 steps of Lanczos may leave that open.

    Raises
    ------
    InputError
        For an x0 that is not finite, and settings out of range.

    Notes
    -----
    Certificates: ``gradient`` (monitor) and ``curvature`` (probabilistic) of `second_order_stationarity`; ``steps``
    (theorem), the count of steps that the stopping rule permits.
    Source: Jin et al. (2017), algorithm 2 and theorem 3.

    Examples
    --------
    >>> def f(x):  # a saddle at 0, minima at x = (0, ±1)
    ...     return x[0] ** 2 / 2 - x[1] ** 2 / 2 + x[1] ** 4 / 4
    >>> run = perturbed_gd(f, [0.0, 0.0], lipschitz=3.0, rho=8.0, eps=0.1, lower=-0.25, key=jax.random.key(0))
    >>> bool(run.converged), bool(abs(abs(run.value[1]) - 1) < 0.01)
    (True, True)
    """
    x0, setting = asked(x0, lipschitz, rho, eps, lower, failure, c, max_steps)
    validation.flag("history", history)
    return descend(
        f, x0, setting, jnp.zeros((), setting.eps.dtype), key, jnp.asarray(max_steps), max_steps if history else 0, 0
    )


class Walk(eqx.Module):
    """The carry: the iterate, the point before the last noise with its value, how long ago that was, and the past."""

    x: Vector
    before: Vector
    before_value: Scalar
    since: Int[Array, ""]
    steps: Int[Array, ""]
    episodes: Int[Array, ""]
    key: Key[Array, ""]
    past: Float[Array, "w d"]
    returned: Bool[Array, ""]
    finite: Bool[Array, ""]
    history: dict[str, Array]


@eqx.filter_jit
def descend(
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
    constants = pgd_constants(setting, x.size, value)
    look, run_key = jax.random.split(key)

    def going(walk: Walk) -> Any:
        return ~walk.returned & walk.finite & (walk.steps < max_steps)

    def body(walk: Walk) -> Walk:
        value, gradient = evaluate(walk.x)
        fell = walk.before_value - value
        enough = fell >= constants.fall + rounding(jnp.abs(value) + jnp.abs(walk.before_value), 4.0)
        returned = (walk.since == constants.wait) & ~enough
        push = ~returned & (norm(gradient) <= constants.gradient) & (walk.since > constants.wait)
        key, now = jax.random.split(walk.key)

        def pushed() -> tuple[Vector, Vector]:
            chance = right_chance(walk.past, walk.x, aversion) if window else 0.5
            y = walk.x + ball(now, walk.x, constants.radius, chance)
            return y, evaluate(y)[1]

        y, slope = jax.lax.cond(push, pushed, lambda: (walk.x, gradient))
        new = jnp.where(returned, walk.before, y - constants.eta * slope)
        values = {"objective": value, "gradient_norm": norm(gradient), "perturbed": push.astype(value.dtype)}
        return Walk(
            x=new,
            before=jnp.where(push, walk.x, walk.before),
            before_value=jnp.where(push, value, walk.before_value),
            since=jnp.where(push, 0, walk.since) + 1,
            steps=jnp.where(returned, walk.steps, walk.steps + 1),
            episodes=jnp.where(push, walk.episodes + 1, walk.episodes),
            key=key,
            past=jnp.roll(walk.past, 1, 0).at[0].set(walk.x) if window else walk.past,
            returned=returned,
            finite=jnp.isfinite(value) & jnp.isfinite(norm(new)),
            history={name: series.at[walk.steps].set(values[name]) for name, series in walk.history.items()},
        )

    names = ("objective", "gradient_norm", "perturbed") if length else ()
    zero = jnp.int32(0)
    start = Walk(
        x=x,
        before=x,
        before_value=value,
        since=constants.wait + 1,
        steps=zero,
        episodes=zero,
        key=run_key,
        past=jnp.full((window, x.size), jnp.nan, x.dtype),
        returned=jnp.array(False),
        finite=jnp.isfinite(value),
        history={name: jnp.full((length,), jnp.nan, x.dtype) for name in names},
    )
    walk = jax.lax.while_loop(going, body, start)
    # Where the numbers left the finite ones, the last point at which the gradient was small is the better answer.
    answer = back(jnp.where(walk.finite, walk.x, walk.before))
    certificates = {"steps": steps_certificate(walk.steps, setting, constants, value, SOURCE)}
    stats = {"episodes": walk.episodes, "constants": constants}
    return verdict(f, answer, setting, look, walk.returned, walk.finite, walk.steps, certificates, stats, walk.history)
