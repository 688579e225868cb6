"""Nesterov's method against its theorem, and how many steps an accuracy takes, beside plain gradient descent.

Convex: f(x_k) − f* ≤ 2L‖x0 − x*‖²/(k + 1)², so k = ⌈√(2LR²/ε)⌉ − 1 steps. m-strongly convex:
(1 − 1/√κ)^k (f(x0) − f* + m/2·‖x0 − x*‖²), so k = ⌈√κ log((f(x0) − f* + mR²/2)/ε)⌉. Gradient descent needs about √κ
times as many in the second case. Cost: that of the steps. Source: Su, Boyd & Candès (2016), theorem 6; Nesterov,
"Lectures on Convex Optimization" (2018), theorem 2.2.3.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import at_least_zero, dtype, finite, like, norm

CONVEX, STRONG = "Su, Boyd & Candès (2016), theorem 6", "Nesterov (2018), theorem 2.2.3"


def nesterov_count(
    eps: float, lipschitz: float, radius: float, *, strong_convexity: float | None = None, gap: float | None = None
) -> int:
    """How many steps of Nesterov's method reach f(x_k) − f* ≤ ε for certain.

    Parameters
    ----------
    eps, lipschitz, radius
        ε, L and R ≥ ‖x0 − x*‖, all > 0.
    strong_convexity
        m > 0: then with the constant momentum.
    gap
        f(x0) − f* or more; LR²/2 if left out.

    Examples
    --------
    >>> nesterov_count(1e-4, 1.0, 1.0), nesterov_count(1e-4, 1.0, 1.0, strong_convexity=0.01)
    (141, 86)
    """
    for name, value in (("eps", eps), ("lipschitz", lipschitz), ("radius", radius)):
        validation.number(0.0, open_low=True)(name, value)
    validation.number(0.0, open_low=True, none=True)("strong_convexity", strong_convexity)
    validation.number(0.0, none=True)("gap", gap)
    if strong_convexity is None:
        return max(math.ceil(math.sqrt(2 * lipschitz * radius**2 / eps) * (1 - 1e-12)) - 1, 0)
    if strong_convexity > lipschitz:
        raise InputError(f"strong_convexity: found {strong_convexity}, expected at most lipschitz = {lipschitz}")
    gap = lipschitz * radius**2 / 2 if gap is None else gap
    start = gap + strong_convexity * radius**2 / 2
    return max(math.ceil(math.sqrt(lipschitz / strong_convexity) * math.log(max(start / eps, 1.0)) * (1 - 1e-12)), 0)


@follows_input
def nesterov_rate(
    f: Any,
    x0: Any,
    reference: Any,
    lipschitz: Any,
    steps: int,
    *,
    strong_convexity: Any = None,
    eps: Any = None,
) -> Solution:
    """Nesterov's method against its bound, and its count of steps to an accuracy beside gradient descent's.

    Parameters
    ----------
    f
        Convex differentiable function of an array or pytree.
    x0, reference
        The start and a minimiser x*.
    lipschitz
        L > 0.
    steps
        How many, of both methods.
    strong_convexity
        m in (0, L]: the constant momentum and its bound.
    eps
        An accuracy of f; the largest that the theorem promises within `steps` if left out.

    Returns
    -------
    Solution
        ``value`` is the last point of Nesterov's method; ``history`` holds ``suboptimality``, ``rate_bound`` and
        ``gradient_descent``, entry k − 1 for x_k; ``stats`` hold ``count`` and ``gradient_descent_count``, the steps to
        within ε for good (−1: not within `steps`), and ``count_bound``, the theorem's.

    Raises
    ------
    InputError
        For values that are not finite or out of range.

    Notes
    -----
    Certificates: ``rate`` (theorem, one claim per step), ``count`` (theorem).

    Examples
    --------
    >>> f = lambda x: (x[0] ** 2 + 100 * x[1] ** 2) / 2
    >>> run = nesterov_rate(f, [1.0, 1.0], [0.0, 0.0], 100.0, 60, strong_convexity=1.0)
    >>> bool(run.certificates["rate"].holds.all()), bool(run.certificates["count"].holds)
    (True, True)
    """
    x0, reference = finite("x0", x0), finite("reference", reference)
    if jax.tree.map(jnp.shape, x0) != jax.tree.map(jnp.shape, reference):
        raise InputError("reference: found other shapes than those of x0, expected the same")
    reference = optax.tree.cast(reference, dtype(x0))
    for name, value in (("lipschitz", lipschitz), ("strong_convexity", strong_convexity), ("eps", eps)):
        at_least_zero(name, value, positive=True)
    validation.integer(1)("steps", steps)
    L = like(lipschitz, x0)
    known = not any(isinstance(v, Tracer) for v in (lipschitz, strong_convexity))
    if strong_convexity is not None and known and float(strong_convexity) > float(lipschitz):
        raise InputError(f"strong_convexity: found {strong_convexity}, expected at most lipschitz = {lipschitz}")
    m = None if strong_convexity is None else like(strong_convexity, x0)
    last, gaps, plain, first = _race(f, x0, reference, L, m, steps)
    distance = norm(optax.tree.sub(x0, reference))
    slack = rounding(jnp.abs(f(reference)) + jnp.abs(f(x0)), 16.0)
    k = jnp.arange(1, steps + 1).astype(gaps.dtype)
    known = (Assumption("f convex, ∇f L-Lipschitz"), Assumption("the reference minimises f"))
    if m is None:
        rate, claim, source = 2 * L * distance**2 / (k + 1) ** 2, "f(x_k) − f* <= 2L‖x0 − x*‖²/(k + 1)²", CONVEX
    else:
        start = first + m * distance**2 / 2
        rate = (1 - jnp.sqrt(m / L)) ** k * start
        claim, source = "f(x_k) − f* <= (1 − 1/√κ)^k (f(x0) − f* + m/2·‖x0 − x*‖²)", STRONG
        known = (Assumption("f m-strongly convex, ∇f L-Lipschitz"), known[1])
    eps = rate[-1] if eps is None else like(eps, x0)
    if m is None:
        promised = jnp.maximum(jnp.ceil(jnp.sqrt(2 * L / eps) * distance) - 1, 1)
    else:
        promised = jnp.maximum(jnp.ceil(jnp.sqrt(L / m) * jnp.log(start / eps)), 1)
    count, slow = (_reached(series, eps + slack) for series in (gaps, plain))
    # A count beyond the run is not refuted by it.
    measured = jnp.where((count < 0) & (promised > steps), 0, jnp.where(count < 0, jnp.inf, count.astype(eps.dtype)))
    certificates = {
        "rate": Certificate(claim, gaps, rate + slack, "theorem", source, assumptions=known),
        "count": Certificate(
            "steps to within ε <= the theorem's", measured, promised, "theorem", source, assumptions=known
        ),
    }
    history = {"suboptimality": gaps, "rate_bound": rate, "gradient_descent": plain}
    stats = {"count": count, "gradient_descent_count": slow, "count_bound": promised, "eps": eps}
    return Solution(last, certificates, Status.of(True, jnp.isfinite(norm(last))), steps, stats, history)


def _reached(gaps: Array, eps: Array) -> Array:
    """The step from which on all gaps are within ε; −1 where the last is not."""
    above = jnp.where(gaps > eps, jnp.arange(1, gaps.shape[0] + 1), 0)
    last = jnp.max(above)
    return jnp.where(last == gaps.shape[0], -1, last + 1).astype(jnp.int32)


@eqx.filter_jit
def _race(
    f: Any, x0: PyTree, reference: PyTree, L: Array, m: Array | None, steps: int
) -> tuple[PyTree, Array, Array, Array]:
    best, gradient = f(reference), jax.grad(f)

    def body(carry: tuple, k: Array) -> tuple[tuple, tuple[Array, Array]]:
        x, y, plain = carry
        new = optax.tree.add_scale(y, -1 / L, gradient(y))
        if m is None:
            momentum = (k - 1) / (k + 2)
        else:
            root = jnp.sqrt(m / L)
            momentum = (1 - root) / (1 + root)
        y = optax.tree.add_scale(new, momentum, optax.tree.sub(new, x))
        plain = optax.tree.add_scale(plain, -1 / L, gradient(plain))
        return (new, y, plain), (f(new) - best, f(plain) - best)

    k = jnp.arange(1, steps + 1).astype(L.dtype)
    (last, _, _), (gaps, plain) = jax.lax.scan(body, (x0, x0, x0), k)
    return last, gaps, plain, f(x0) - best
