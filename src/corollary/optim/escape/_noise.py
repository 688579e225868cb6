"""What the escape methods share: constants of the theory, uniform noise, occupation counts, the verdict at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.solution import Solution, Status
from corollary.optim._tree import at_least_zero, finite, like
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._second_order import second_order_stationarity

Function = Callable[[Any], Any]
Vector = Float[Array, " d"]


LANCZOS = 100  # steps, at most, of the check at the end


class Constants(eqx.Module):
    """Step η, noise radius r, the gradient that counts as small, the fall that is asked for, and the wait for it."""

    eta: Scalar
    radius: Scalar
    gradient: Scalar
    fall: Scalar
    wait: Int[Array, ""]


class Asked(eqx.Module):
    """The setting of every escape method: L, ρ, ε, a lower bound of f, the chance of failure, the constant c."""

    lipschitz: Scalar
    rho: Scalar
    eps: Scalar
    lower: Scalar
    failure: Scalar
    c: Scalar


def asked(x0: Any, lipschitz: Any, rho: Any, eps: Any, lower: Any, failure: Any, c: Any, max_steps: int) -> tuple:
    """Refuse bad settings; the start, and the settings in its precision."""
    x0 = finite("x0", x0)
    for name, value in (("lipschitz", lipschitz), ("rho", rho), ("eps", eps), ("c", c)):
        at_least_zero(name, value, positive=True)
    if not isinstance(lower, jax.Array):
        validation.number()("lower", lower)
    if not isinstance(failure, jax.Array):
        validation.number(0.0, 1.0, open_low=True)("failure", failure)
    validation.integer(1)("max_steps", max_steps)
    return x0, Asked(*(like(v, x0) for v in (lipschitz, rho, eps, lower, failure, c)))


def log_ratio(setting: Asked, size: int, value: Scalar, powers: tuple[float, float]) -> Scalar:
    """log(d L (f(x0) − lower) / (ρ^p ε^q c δ)), from logarithms: no power over- or underflows."""
    tiny = jnp.finfo(value.dtype).tiny
    fall = jnp.log(jnp.maximum(value - setting.lower, tiny))
    p, q = powers
    logs = p * jnp.log(setting.rho) + q * jnp.log(setting.eps) + jnp.log(setting.failure)
    return jnp.log(like(float(size), value)) + jnp.log(setting.lipschitz) + fall - logs


def pgd_constants(setting: Asked, size: int, value: Scalar) -> Constants:
    """Jin et al. (2017), algorithm 2, line 1: χ = 3 max(log(d L Δ/(c ε² δ)), 4) and what follows from it."""
    c, eps, rho, L = setting.c, setting.eps, setting.rho, setting.lipschitz
    chi = 3 * jnp.maximum(log_ratio(setting, size, value, (0.0, 2.0)) - jnp.log(c), 4.0)
    wait = chi / c**2 * (L / (jnp.sqrt(rho) * jnp.sqrt(eps)))
    return Constants(
        eta=c / L,
        radius=jnp.sqrt(c) / chi**2 * (eps / L),
        gradient=jnp.sqrt(c) / chi**2 * eps,
        fall=c / chi**3 * (eps * jnp.sqrt(eps / rho)),
        wait=jnp.ceil(jnp.minimum(wait, 1e9)).astype(jnp.int32),
    )


def ball(key: Key[Array, ""], x: Vector, radius: Any, right: Any = 0.5) -> Vector:
    """Uniform in the ball of a radius, where each coordinate is then given the sign + with the chance `right`."""
    towards, length, sign = jax.random.split(key, 3)
    direction = jax.random.normal(towards, x.shape, x.dtype)
    length = radius * jax.random.uniform(length, (), x.dtype) ** (1 / x.size)
    point = jnp.abs(direction) * (length / jnp.linalg.norm(direction))
    chance = jnp.broadcast_to(jnp.asarray(right).astype(x.dtype), x.shape)
    return jnp.where(jax.random.uniform(sign, x.shape, x.dtype) < chance, point, -point)


def right_chance(past: Float[Array, "w d"], x: Vector, aversion: Scalar) -> Vector:
    """The chance to move to the right, w(R)/(w(L) + w(R)): L and R count visits on either side, w(n) = (1 + n)^−β."""
    left = jnp.sum(past < x, 0).astype(x.dtype)
    right = jnp.sum(past > x, 0).astype(x.dtype)
    log_odds = -aversion * (jnp.log1p(right) - jnp.log1p(left))
    return jax.nn.sigmoid(log_odds)


def flat(
    f: Function, x0: PyTree
) -> tuple[Callable[[Vector], tuple[Scalar, Vector]], Vector, Callable[[Vector], PyTree]]:
    """Value and gradient on flat vectors."""
    x, back = ravel_pytree(x0)
    return jax.value_and_grad(lambda v: f(back(v))), x, back


def verdict(
    f: Function,
    value: PyTree,
    setting: Asked,
    key: Key[Array, ""],
    returned: Bool[Array, ""],
    finite_run: Bool[Array, ""],
    steps: Int[Array, ""],
    certificates: dict[str, Certificate],
    stats: dict[str, Any],
    history: dict[str, Array] | None,
) -> Solution:
    """The solution, with the second-order certificate of the answer; converged only where that holds, too.

    No saddle found is no proof that there is none: a Ritz value lies above λ_min. What counts is the lower bound.
    """
    look = second_order_stationarity(f, value, eps=setting.eps, rho=setting.rho, key=key, steps=LANCZOS)
    certificates = look.certificates | certificates
    stats = stats | {"objective": f(value)} | {n: look.stats[n] for n in ("gradient_norm", "lambda_min", "saddle")}
    done = returned & look.certificates["gradient"].holds & look.certificates["curvature"].holds
    return Solution(value, certificates, Status.of(done, finite_run), steps, stats, history or None)


def steps_certificate(steps: Any, setting: Asked, constants: Constants, value: Scalar, source: str) -> Certificate:
    """Every step either had a large gradient, and fell by η/2·g², or belongs to an episode that fell by its share."""
    room = jnp.maximum(value - setting.lower, 0)
    wait = constants.wait.astype(room.dtype)
    descents = 2 * (room / constants.gradient) / (constants.eta * constants.gradient)
    bound = descents + (room / constants.fall + 1) * (wait + 2) + 1
    return Certificate(
        "gradient steps <= 2Δ/(η g²) + (Δ/f_thres + 1)(t_thres + 2) + 1",
        steps.astype(room.dtype),
        bound,
        "theorem",
        source,
        assumptions=(
            Assumption("∇f is L-Lipschitz, and η = c/L <= 1/L"),
            Assumption("lower <= inf f"),
            Assumption("lower <= f(x0)", checked=True, holds=setting.lower <= value),
        ),
    )
