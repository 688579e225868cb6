"""Gradient descent on any L-smooth function, convex or not: how soon it meets a point with a small gradient.

min_{i ≤ k} ‖∇f(x_i)‖ ≤ √(2(f(x0) − f*)/(t(k + 1))) for t ≤ 1/L, by summing the descent lemma; so ⌈2L(f(x0) − f*)/ε²⌉
steps of 1/L bring it to ε. Nothing says that such a point is a minimum: it may be a saddle. Cost: that of the steps.
Source: Nesterov, "Lectures on Convex Optimization" (2018), eq. (1.2.24).
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import at_least_zero, finite, like, norm

SOURCE = "Nesterov (2018), eq. (1.2.24)"


def critical_point_steps(lipschitz: float, gap: float, eps: float) -> int:
    """⌈2L(f(x0) − f*)/ε²⌉: so many steps 1/L, and one of the points has ‖∇f‖ ≤ ε.

    Examples
    --------
    >>> critical_point_steps(10.0, 1.0, 0.1)
    2000
    """
    for name, value in (("lipschitz", lipschitz), ("eps", eps)):
        validation.number(0.0, open_low=True)(name, value)
    validation.number(0.0)("gap", gap)
    exact = 2 * lipschitz * gap / eps**2
    return math.ceil(exact * (1 - 1e-12))  # a rounding above an integer is not a step more


@follows_input
def critical_point_rate(f: Any, x0: Any, lower: Any, lipschitz: Any, steps: int, *, step: Any = None) -> Solution:
    """Gradient descent against min_{i ≤ k} ‖∇f(x_i)‖ ≤ √(2(f(x0) − f*)/(t(k + 1))).

    Parameters
    ----------
    f
        Differentiable function of an array or pytree; it need not be convex.
    x0
        The start.
    lower
        f*, or any lower bound of f.
    lipschitz
        L > 0, at least on the level set of x0.
    steps
        How many.
    step
        t ≤ 1/L; 1/L if left out.

    Returns
    -------
    Solution
        ``value`` is the point with the smallest gradient; ``history`` holds ``gradient``, ``least`` and ``rate_bound``,
        entry k for x_k, k = 0, ..., steps; ``stats["gradient"]`` the least gradient norm.

    Raises
    ------
    InputError
        For values that are not finite or out of range.

    Notes
    -----
    Certificate ``rate`` (theorem, one claim per step). Source: Nesterov (2018), eq. (1.2.24).

    Examples
    --------
    >>> run = critical_point_rate(lambda x: jnp.sin(x).sum(), [1.0, 2.0], -2.0, 1.0, 50)
    >>> bool(run.certificates["rate"].holds.all())
    True
    """
    x0 = finite("x0", x0)
    at_least_zero("lipschitz", lipschitz, positive=True)
    at_least_zero("step", step, positive=True)
    validation.integer(1)("steps", steps)
    L, lower = like(lipschitz, x0), like(finite("lower", lower), x0)
    t = 1 / L if step is None else like(step, x0)
    best, sizes, first = _descend(f, x0, t, steps)
    k = jnp.arange(steps + 1).astype(sizes.dtype)
    gap = jnp.maximum(first - lower, 0)
    # The rounding of the gap under the root, and that of a gradient.
    bound = jnp.sqrt(2 * (gap + rounding(jnp.abs(first) + jnp.abs(lower))) / (t * (k + 1))) + rounding(sizes[0])
    least = jax.lax.cummin(sizes)
    known = (
        Assumption("∇f is L-Lipschitz"),
        Assumption("lower <= f"),
        Assumption("step <= 1/L", checked=True, holds=t * L <= 1 + rounding(jnp.ones_like(t))),
    )
    claim = "min_{i <= k} ‖∇f(x_i)‖ <= √(2(f(x0) − f*)/(t(k + 1)))"
    certificate = Certificate(claim, least, bound, "theorem", SOURCE, assumptions=known)
    history = {"gradient": sizes, "least": least, "rate_bound": bound}
    return Solution(
        best, {"rate": certificate}, Status.of(True, jnp.isfinite(sizes[-1])), steps, {"gradient": least[-1]}, history
    )


@eqx.filter_jit
def _descend(f: Any, x0: PyTree, t: Array, steps: int) -> tuple[PyTree, Array, Array]:
    value, gradient = jax.value_and_grad(f)(x0)

    def body(carry: tuple, _: None) -> tuple[tuple, Array]:
        x, gradient, best, least = carry
        x = optax.tree.add_scale(x, -t, gradient)
        gradient = jax.grad(f)(x)
        size = norm(gradient)
        better = size < least
        return (x, gradient, optax.tree.where(better, x, best), jnp.minimum(size, least)), size

    size = norm(gradient)
    (_, _, best, _), sizes = jax.lax.scan(body, (x0, gradient, x0, size), length=steps)
    return best, jnp.concatenate([size[None], sizes]), value
