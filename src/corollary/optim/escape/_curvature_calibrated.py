"""Saddle escape with a noise radius taken from the curvature that was found: deep saddles get a wide push.

Gradient descent (η = 1/(2L)) until ‖∇f‖ ≤ ε; then a probe of the smallest curvature λ. Where λ < −√(ρε), noise uniform
in a ball of radius |λ|/(8ρ) and (8L/|λ|)·log(16 d M/δ) gradient steps; each such episode is to take f down by
λ⁴/(128 L ρ²), which is at least ε²/(128 L). The probe is Lanczos on Hessian products, or on differences of gradients
(∇f(x + hv) − ∇f(x − hv))/(2h), which err by O(h²).
Cost: 2L(f(x0) − f*)·2/ε² gradients to descend, an episode as above, a probe its Lanczos steps.
Source: Alpay & Alakkad, "Escaping saddle points via curvature-calibrated perturbations" (2025), algorithm 1 with radius
√(ε/ρ)/8, here with the measured |λ| in the place of √(ρε). The finite-difference probe published with that paper draws
its curvatures at random instead of measuring them; this one measures.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import at_least_zero, finite, like, norm
from corollary.optim.escape._noise import Asked, Function, Vector, asked, ball, flat, log_ratio, verdict
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._extremes import extremes

SOURCE = "Alpay & Alakkad (2025), per-episode decrease ε²/(128 L) with ε = λ²/ρ"
LOOK = 30  # steps of Lanczos a probe


@follows_input
def curvature_probe(f: Function, x: Any, direction: Any, *, h: Any = None) -> Any:
    """The curvature uᵀ∇²f(x)u along a direction u = v/‖v‖, from a Hessian product or from two gradients.

    Parameters
    ----------
    f
        Function of an array or pytree.
    x, direction
        The point, and v ≠ 0 like it.
    h
        None: a Hessian product; else ⟨u, ∇f(x + hu) − ∇f(x − hu)⟩/(2h), which errs by O(h²).

    Returns
    -------
    Array
        A scalar.

    Raises
    ------
    InputError
        For values that are not finite, a direction that is zero or unlike x, and an h that is not positive.

    Examples
    --------
    >>> def f(x):
    ...     return x[0] ** 2 - 3 * x[1] ** 2
    >>> [round(float(curvature_probe(f, [1.0, 1.0], [0.0, 2.0], h=h)), 6) for h in (None, 1e-3)]
    [-6.0, -6.0]
    """
    at_least_zero("h", h, positive=True)
    x, v = finite("x", x), finite("direction", direction)
    if (found := jax.tree.map(jnp.shape, v)) != (expected := jax.tree.map(jnp.shape, x)):
        raise InputError(f"direction: found shape {found}, expected {expected} as x has")
    v = jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), v, x)
    if not any(isinstance(leaf, Tracer) or np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(v)):
        raise InputError("direction: found zeros alone, expected a direction")
    evaluate, flat_x, _ = flat(f, x)
    u = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(v)])
    size = norm(u)
    u = u / jnp.where(size > 0, size, 1)
    return u @ _product(evaluate, flat_x, u, None if h is None else like(h, x))


@follows_input
def curvature_calibrated_escape(
    f: Function,
    x0: Any,
    *,
    lipschitz: Any,
    rho: Any,
    eps: Any,
    lower: Any,
    key: Key[Array, ""],
    difference: Any = None,
    failure: Any = 0.1,
    max_steps: int = 100_000,
    max_episodes: int = 64,
) -> Solution:
    """Minimise a smooth function to an ε-second-order stationary point, with noise as wide as the curvature allows.

    Use it where Hessian products (or a few more gradients) are to be had: it tells a saddle from a minimum by a probe
    rather than by waiting. Where 30 steps of Lanczos do not see the negative curvature it stops, and reports success
    only if the check at the end, with up to 100 steps and a lower bound of λ_min, excludes it. It can be jitted (f and
    the limits static) and vmapped over x0 and key.

    Parameters
    ----------
    f, x0, lipschitz, rho, eps, lower, key, failure, max_steps
        As in `perturbed_gd`.
    difference
        None: probes are Hessian products; else they are differences of gradients over this length h.
    max_episodes
        Limit of escapes.

    Returns
    -------
    Solution
        ``value`` of the structure of x0. ``stats``: ``objective``, ``episodes``, and per episode, padded with NaN,
        ``curvature`` (λ), ``radius``, ``decrease``; ``gradient_norm``, ``lambda_min``, ``saddle``.

    Raises
    ------
    InputError
        For an x0 that is not finite, and settings out of range.

    Notes
    -----
    Certificates: ``gradient`` (monitor) and ``curvature`` (probabilistic) of `second_order_stationarity`; ``decrease``
    (probabilistic), each episode took f down by λ⁴/(128 L ρ²) at least.

    Examples
    --------
    >>> def f(x):
    ...     return x[0] ** 2 / 2 - x[1] ** 2 / 2 + x[1] ** 4 / 4
    >>> asked = {"lipschitz": 3.0, "rho": 8.0, "eps": 0.1, "lower": -0.25}
    >>> run = curvature_calibrated_escape(f, [0.0, 0.0], key=jax.random.key(0), **asked)
    >>> bool(run.converged), int(run.stats["episodes"]), round(float(run.stats["curvature"][0]), 6)
    (True, 1, -1.0)
    """
    x0, setting = asked(x0, lipschitz, rho, eps, lower, failure, 1.0, max_steps)
    validation.integer(1)("max_episodes", max_episodes)
    at_least_zero("difference", difference, positive=True)
    h = None if difference is None else like(difference, x0)
    return _escape(f, x0, setting, h, key, jnp.asarray(max_steps), max_episodes)


class Episodes(eqx.Module):
    """The carry: the iterate, steps left in this episode and the value before it, and what each episode did."""

    x: Vector
    left: Int[Array, ""]
    before: Scalar
    steps: Int[Array, ""]
    count: Int[Array, ""]
    key: Key[Array, ""]
    curvature: Float[Array, " e"]
    decrease: Float[Array, " e"]
    returned: Bool[Array, ""]
    full: Bool[Array, ""]
    finite: Bool[Array, ""]


@eqx.filter_jit
def _escape(
    f: Function, x0: PyTree, setting: Asked, h: Scalar | None, key: Key[Array, ""], max_steps: Any, max_episodes: int
) -> Solution:
    evaluate, x, back = flat(f, x0)
    value, _ = evaluate(x)
    L, rho, eps = setting.lipschitz, setting.rho, setting.eps
    root, eta = jnp.sqrt(rho) * jnp.sqrt(eps), 1 / (2 * L)
    # log(16 d M/δ) with M = 1 + 128 L Δ/ε² episodes
    logs = jnp.logaddexp(log_ratio(setting, x.size, value, (0.0, 2.0)) + jnp.log(128.0).astype(x.dtype), 0.0)
    logs = jnp.maximum(logs + jnp.log(16.0).astype(x.dtype), 1.0)
    look, run_key = jax.random.split(key)

    def probe(x: Vector, key: Key[Array, ""]) -> Scalar:
        return extremes(lambda v: _product(evaluate, x, v, h), x, LOOK, key).smallest

    def body(run: Episodes) -> Episodes:
        value, gradient = evaluate(run.x)
        ended = run.left == 0  # an episode's last step was taken
        decrease = jnp.where(ended, run.decrease.at[run.count - 1].set(run.before - value), run.decrease)
        key, draw, start = jax.random.split(run.key, 3)
        small = (norm(gradient) <= eps) & (run.left <= 0)
        curvature = jax.lax.cond(small, lambda: probe(run.x, start), lambda: jnp.zeros_like(value))
        saddle = small & (curvature < -root)
        push = saddle & (run.count < max_episodes)
        depth = jnp.where(push, -curvature, root)
        y = jnp.where(push, run.x + ball(draw, run.x, depth / (8 * rho)), run.x)
        slope = jax.lax.cond(push, lambda: evaluate(y)[1], lambda: gradient)
        length = jnp.ceil(jnp.minimum(8 * (L / depth) * logs, 1e9)).astype(jnp.int32)
        returned = small & ~saddle
        full = saddle & ~push
        new = jnp.where(small & ~push, run.x, y - eta * slope)
        at = jnp.where(push, run.count, max_episodes)  # out of range: not set
        return Episodes(
            x=new,
            left=jnp.where(push, length, jnp.maximum(run.left, 0)) - 1,
            before=jnp.where(push, value, run.before),
            steps=jnp.where(returned | full, run.steps, run.steps + 1),
            count=jnp.where(push, run.count + 1, run.count),
            key=key,
            curvature=run.curvature.at[at].set(curvature, mode="drop"),
            decrease=decrease,
            returned=returned,
            full=full,
            finite=jnp.isfinite(value) & jnp.isfinite(norm(new)),
        )

    zero, nothing = jnp.int32(0), jnp.full((max_episodes,), jnp.nan, x.dtype)
    start = Episodes(
        x=x,
        left=zero - 1,
        before=value,
        steps=zero,
        count=zero,
        key=run_key,
        curvature=nothing,
        decrease=nothing,
        returned=jnp.array(False),
        full=jnp.array(False),
        finite=jnp.isfinite(value),
    )
    run = jax.lax.while_loop(lambda r: ~r.returned & ~r.full & r.finite & (r.steps < max_steps), body, start)
    depth = -run.curvature
    promised = depth * (depth / rho) * (depth / rho) * (depth / (128 * L))
    seen = jnp.isfinite(run.decrease)
    noise = rounding(jnp.abs(value) + jnp.abs(run.before), 8.0)
    claim = Certificate(
        "f falls by λ⁴/(128 L ρ²) in each episode",
        jnp.max(jnp.where(seen, promised - run.decrease, -jnp.inf), initial=-jnp.inf),
        noise,
        "probabilistic",
        SOURCE,
        confidence=1 - setting.failure,
        assumptions=(Assumption("∇f is L-Lipschitz, ∇²f ρ-Lipschitz"),),
    )
    stats = {
        "episodes": run.count,
        "curvature": run.curvature,
        "radius": depth / (8 * rho),
        "decrease": run.decrease,
    }
    answer = back(jnp.where(jnp.isfinite(run.x).all(), run.x, x))
    return verdict(f, answer, setting, look, run.returned, run.finite, run.steps, {"decrease": claim}, stats, None)


def _product(evaluate: Any, x: Vector, v: Vector, h: Scalar | None) -> Vector:
    """∇²f(x) v."""

    def gradient(y: Vector) -> Vector:
        return evaluate(y)[1]

    if h is None:
        return jax.jvp(gradient, (x,), (v,))[1]
    size = norm(v)
    u = v / jnp.where(size > 0, size, 1)
    return (gradient(x + h * u) - gradient(x - h * u)) * (size / (2 * h))
