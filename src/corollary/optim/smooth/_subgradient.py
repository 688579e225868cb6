"""The subgradient method for convex functions without a gradient: x ← P(x − t g), g any subgradient.

With steps t = R/(‖g‖√T) the best of T points, and the average weighted by the steps, have f − f* ≤ RG/√T, for
‖x0 − x*‖ ≤ R and subgradients of length at most G: slow, and the best possible for a black box. f does not fall at
every step and no gradient vanishes at the end, so that it stops on a gap: the subgradients met bound f from below on
the ball. For f = smooth + a term with a prox use `Fista`: far faster.
Cost: one subgradient a step. Source: Nesterov, "Lectures on Convex Optimization" (2018), theorem 3.2.2 (and 3.2.1 for
the lower bound); Polyak (1987), section 5.3, for the step that knows f*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import at_least_zero, dtype, finite, like, norm
from corollary.optim.penalties._base import Scalar

Oracle = Callable[[Any], tuple[Any, Any]]  # x to f(x) and a subgradient at x
SOURCE = "Nesterov (2018), theorem 3.2.2"


@follows_input
def subgradient_method(
    f: Any,
    x0: Any,
    *,
    radius: Any,
    steps: int,
    oracle: Oracle | None = None,
    step: str = "constant",
    minimum: Any = None,
    slope: Any = None,
    tol: Any = None,
) -> Solution:
    """Minimise a convex function by subgradients over the ball ‖x − x0‖ ≤ R.

    Parameters
    ----------
    f
        Convex function of an array or pytree, made of JAX operations.
    x0
        The start, and the centre of the ball.
    radius
        R > 0: a minimiser within R of x0 minimises f everywhere.
    steps
        T, how many.
    oracle
        x to (f(x), subgradient); `jax.value_and_grad` if left out, which is a subgradient where f is built of sums,
        positive multiples and maxima of convex functions of affine maps. See `sum_oracle`, `max_oracle`,
        `hinge_oracle`.
    step
        ``"constant"``: R/(‖g‖√T); ``"decreasing"``: R/(‖g‖√(k + 1)), for any T; ``"polyak"``: (f(x) − f*)/‖g‖².
    minimum
        f*, for ``"polyak"``.
    slope
        G ≥ all subgradients; the largest met, if left out.
    tol
        Of the gap, relative to RG; what the theorem promises, 1/√T, if left out.

    Returns
    -------
    Solution
        ``value`` is the better of the best point and the average; ``stats`` hold ``objective``, ``best``, ``average``
        (points), ``lower_bound`` of f on the ball, ``slope``; ``history`` holds ``objective``, ``best`` and
        ``rate_bound``: of ``best``, above f* (where it is not given, above the least value found). The status is
        converged where the gap is within `tol`.

    Raises
    ------
    InputError
        For settings out of range.

    Notes
    -----
    Certificates: ``gap`` (theorem, for a convex f), f(x) less the lower bound, within tol·RG; ``rate`` (theorem),
    the same gap against RG/√T (``"constant"``) or RG(2 + log T)/(2√T) (``"decreasing"``).
    Source: Nesterov (2018), theorem 3.2.2.

    Examples
    --------
    >>> run = subgradient_method(lambda x: jnp.abs(x - 1).sum(), [0.0, 0.0], radius=2.0, steps=400)
    >>> bool(run.holds), float(run.stats["objective"]) < 0.15
    (True, True)
    """
    x0 = finite("x0", x0)
    for name, value in (("radius", radius), ("slope", slope), ("tol", tol)):
        at_least_zero(name, value, positive=True)
    validation.integer(1)("steps", steps)
    validation.one_of("constant", "decreasing", "polyak")("step", step)
    if (step == "polyak") != (minimum is not None):
        raise InputError('minimum: expected for step="polyak", and only there')
    if not callable(f) or not (oracle is None or callable(oracle)):
        raise InputError("f: expected a function (and a function as its oracle)")
    R = like(radius, x0)
    target = like(0.0 if minimum is None else minimum, x0)
    best, average, lower, largest, history = _run(f, oracle, x0, R, target, step, steps)

    values = jnp.stack([jnp.asarray(f(best)), jnp.asarray(f(average))])
    value = optax.tree.where(values[0] <= values[1], best, average)
    found = jnp.min(values)
    G = largest if slope is None else like(slope, x0)
    T = jnp.asarray(steps).astype(found.dtype)
    factor = 1 / jnp.sqrt(T) if step != "decreasing" else (2 + jnp.log(T)) / (2 * jnp.sqrt(T))
    noise = rounding(jnp.abs(found) + jnp.abs(lower) + R * G, 16.0)
    gap, threshold = found - lower, (factor if tol is None else like(tol, x0)) * R * G + noise
    small = Assumption("‖subgradients‖ <= G", checked=True, holds=largest <= G + rounding(G))
    known = (Assumption("f convex"), Assumption("the oracle gives subgradients"), small)
    claim = "f(x) − min over the ball <= RG/√T" if step != "decreasing" else "f(x) − min <= RG(2 + log T)/(2√T)"
    # The theorem's minimum is not known: the lower bound that its own proof uses takes its place.
    certificates = {
        "gap": Certificate(
            "f(x) − min over the ball <= gap <= tol·RG", gap, threshold, "theorem", SOURCE, assumptions=known[:2]
        ),
    }
    if step != "polyak":
        certificates["rate"] = Certificate(claim, gap, R * G * factor + noise, "theorem", SOURCE, assumptions=known)
    k = jnp.arange(1, steps + 1).astype(found.dtype)
    if step == "constant":
        factors = (T + k) / (2 * k * jnp.sqrt(T))
    else:
        factors = (2 + jnp.log(k)) / (2 * jnp.sqrt(k)) if step == "decreasing" else 1 / jnp.sqrt(k)
    history |= {"rate_bound": (target if step == "polyak" else found) + R * G * factors}
    stats = {"objective": found, "best": best, "average": average, "lower_bound": lower, "gap": gap, "slope": largest}
    return Solution(value, certificates, Status.of(gap <= threshold), steps, stats, history)


@eqx.filter_jit
def _run(
    f: Any, oracle: Oracle | None, x0: PyTree, R: Scalar, target: Scalar, step: str, steps: int
) -> tuple[PyTree, PyTree, Scalar, Scalar, dict[str, Array]]:
    at = jax.value_and_grad(f) if oracle is None else oracle  # made here: outside, it would be compiled at every call
    value, g = at(x0)
    zero = optax.tree.zeros_like(x0)

    def body(carry: tuple, k: Float[Array, ""]) -> tuple[tuple, tuple[Array, Array]]:
        x, best, lowest, mean, slopes, levels, weight, largest = carry
        value, g = at(x)
        size = norm(g)
        safe = jnp.where(size > 0, size, 1)
        if step == "polyak":
            length = jnp.maximum(value - target, 0) / safe
        else:
            length = R / jnp.sqrt(jnp.asarray(steps).astype(k.dtype) if step == "constant" else k)
        better = value < lowest
        best, lowest = optax.tree.where(better, x, best), jnp.minimum(value, lowest)
        # A point with subgradient 0 minimises f: from there on nothing moves.
        share = jnp.where(size > 0, length / safe, R / jnp.where(largest > 0, largest, 1))
        total = weight + share
        part = jnp.where(total > 0, share / jnp.where(total > 0, total, 1), 0)
        away = optax.tree.sub(x, x0)
        level = value - optax.tree.vdot(g, away)
        mean = optax.tree.add_scale(mean, part, optax.tree.sub(x, mean))
        slopes = optax.tree.add_scale(slopes, part, optax.tree.sub(g, slopes))
        levels = levels + part * (level - levels)
        x = optax.tree.add_scale(x, -length / safe, g)
        out = norm(optax.tree.sub(x, x0))
        x = optax.tree.add_scale(x0, jnp.minimum(1, R / jnp.where(out > 0, out, 1)), optax.tree.sub(x, x0))
        carry = (x, best, lowest, mean, slopes, levels, total, jnp.maximum(largest, size))
        return carry, (value, lowest)

    k = jnp.arange(1, steps + 1).astype(dtype(x0))
    nowhere = jnp.full_like(value, jnp.inf)
    start = (x0, x0, nowhere, x0, zero, jnp.zeros_like(value), jnp.zeros_like(value), norm(g))
    (_, best, _, mean, slopes, levels, _, largest), (values, so_far) = jax.lax.scan(body, start, k)
    # The average of the tangents lies below f; its least value on the ball is known.
    lower = levels - R * norm(slopes)
    return best, mean, lower, largest, {"objective": values, "best": so_far}


def sum_oracle(*oracles: Oracle) -> Oracle:
    """A subgradient of a sum: the sum of subgradients (Rockafellar (1970), theorem 23.8).

    Examples
    --------
    >>> oracle = sum_oracle(jax.value_and_grad(lambda x: abs(x)), jax.value_and_grad(lambda x: abs(x - 1.0)))
    >>> [float(v) for v in oracle(0.5)]
    [1.0, 0.0]
    """

    def oracle(x: PyTree) -> tuple[Any, PyTree]:
        values, gradients = zip(*(one(x) for one in oracles), strict=True)
        return sum(values[1:], values[0]), jax.tree.map(lambda *g: sum(g[1:], g[0]), *gradients)

    return oracle


def max_oracle(*oracles: Oracle) -> Oracle:
    """A subgradient of a maximum: that of a function that attains it (Danskin; Nesterov (2018), lemma 3.1.13).

    Examples
    --------
    >>> oracle = max_oracle(jax.value_and_grad(lambda x: x), jax.value_and_grad(lambda x: -2.0 * x))
    >>> [float(v) for v in oracle(0.0)]
    [0.0, 1.0]
    """

    def oracle(x: PyTree) -> tuple[Any, PyTree]:
        values, gradients = zip(*(one(x) for one in oracles), strict=True)
        stacked = jnp.stack([jnp.asarray(value) for value in values])
        first = jnp.argmax(stacked)
        return jnp.max(stacked), jax.tree.map(lambda *g: jnp.stack(g)[first], *gradients)

    return oracle


def hinge_oracle(A: Any, b: Any) -> Oracle:
    """f(x) = Σ max(0, b − A x) with the subgradient that takes 0 at the kinks.

    Examples
    --------
    >>> value, g = hinge_oracle([[1.0], [2.0]], [1.0, 1.0])(jnp.zeros(1))
    >>> float(value), g.tolist()
    (2.0, [-3.0])
    """
    A, b = (jnp.asarray(validation.matrix("A", A)), jnp.asarray(validation.vector("b", b)))
    if A.shape[0] != b.shape[0]:
        raise InputError(f"b: found {b.shape[0]} entries, expected {A.shape[0]} as A has rows")

    def oracle(x: Float[Array, " p"]) -> tuple[Array, Array]:
        margin = b - A @ x
        return jnp.sum(jnp.maximum(margin, 0)), -A.T @ (margin > 0).astype(A.dtype)

    return oracle
