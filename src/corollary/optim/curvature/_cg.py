"""Conjugate gradients on pytrees, with what second-order training asks of them: iterates on the way, a progress rule.

`lineax.CG` gives up where the curvature along a direction is below 100 n eps in absolute terms, so on operators of
small scale, and it shows neither the model's values nor the iterates on the way; hence a loop here. The right-hand
side is scaled to norm one: no square over- or underflows. Cost: one product a step.
Source: Nocedal & Wright, "Numerical Optimization" (2006), algorithm 5.3; Martens (2010), sections 4.4 and 4.6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optax
from jaxtyping import Array, Bool, Int, PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.solution import Solution, Status
from corollary.optim._tree import at_least_zero, finite, like, norm
from corollary.optim.curvature._ggn import damped, dot
from corollary.optim.penalties._base import Scalar

Map = Callable[[PyTree], PyTree]


class CGRun(eqx.Module):
    """What CG on A x = b found: x, ‖b − A x‖ (by recursion), and the iterates at the marked steps."""

    x: PyTree
    residual: Scalar
    steps: Int[Array, ""]
    converged: Bool[Array, ""]  # the residual is within the tolerance
    saved: PyTree
    count: Int[Array, ""]  # how many are saved


def marks(max_steps: int, spacing: float) -> tuple[int, ...]:
    """1, ⌈spacing⌉, ⌈spacing²⌉, ... without repeats."""
    found, value = [], 1.0
    while value <= max_steps:
        if not found or int(value) > found[-1]:
            found.append(int(value))
        value *= spacing
    return tuple(found)


def conjugate_gradients(
    product: Map,
    b: PyTree,
    x0: PyTree | None = None,
    *,
    tol: Any,
    max_steps: int,
    precondition: Map | None = None,
    progress: Any = None,
    keep: tuple[int, ...] = (),
) -> CGRun:
    """CG for a positive semidefinite A and a b in its range, till ‖b − A x‖ ≤ tol‖b‖.

    It also ends at a direction without positive curvature, and with `progress` ε where the model ½xᵀAx − bᵀx fell by
    less than kε of itself over the last k = max(10, i/10) steps.
    """
    size = norm(b)
    unit = jnp.where(size > 0, size, 1)
    b = optax.tree.scale(1 / unit, b)
    apply = (lambda r: r) if precondition is None else precondition
    if x0 is None:
        x, r = optax.tree.zeros_like(b), b
    else:
        x = optax.tree.scale(1 / unit, x0)
        r = optax.tree.sub(b, product(x))
    tol = like(tol, b)
    zero = jnp.zeros_like(size)
    fell = jnp.zeros((max_steps + 1 if progress is not None else 1,), size.dtype)
    keeping = jnp.asarray(keep or (0,), jnp.int32)
    saved = jax.tree.map(lambda leaf: jnp.zeros((len(keep), *leaf.shape), leaf.dtype), x)

    def going(carry):
        *_, gamma, step, done, _, _ = carry
        return ~done & (step < max_steps) & (gamma > 0)

    def turn(carry):
        x, r, p, gamma, step, _, fell, saved = carry
        image = product(p)
        curvature = dot(p, image)
        positive = curvature > 0  # not so of a NaN
        alpha = jnp.where(positive, gamma / jnp.where(positive, curvature, 1), zero)
        x = optax.tree.add_scale(x, alpha, p)
        r = optax.tree.add_scale(r, -alpha, image)
        step = step + 1
        z = apply(r)
        new = dot(r, z)
        p = optax.tree.add_scale(z, new / gamma, p)
        done = ~positive | (norm(r) <= tol)
        if progress is not None:
            model = -dot(x, optax.tree.add(r, b)) / 2
            fell = fell.at[step].set(model)
            back = jnp.maximum(10, step // 10)
            slow = (fell[step - back] - model) < -back.astype(model.dtype) * like(progress, b) * model
            done = done | ((step > back) & (model < 0) & slow)
        if keep:
            here = step == keeping
            saved = jax.tree.map(lambda s, leaf: jnp.where(here.reshape(-1, *[1] * leaf.ndim), leaf, s), saved, x)
        return x, r, p, new, step, done, fell, saved

    z = apply(r)
    begin = (x, r, z, dot(r, z), jnp.int32(0), norm(r) <= tol, fell, saved)
    x, r, _, _, step, _, _, saved = jax.lax.while_loop(going, turn, begin)
    residual = norm(r)
    return CGRun(
        x=optax.tree.scale(unit, x),
        residual=unit * residual,
        steps=step,
        converged=residual <= tol,
        saved=optax.tree.scale(unit, saved) if keep else saved,
        count=jnp.sum(keeping <= step) if keep else jnp.int32(0),
    )


def curvature_step(
    operator: lx.AbstractLinearOperator,
    gradient: Any,
    *,
    damping: Any = 0.0,
    tol: Any = 1e-6,
    max_steps: int = 200,
) -> Solution:
    """The step δ with (C + λI)δ = −g for a positive semidefinite curvature C, by conjugate gradients.

    Use it with any operator of `corollary.optim.curvature`. Cost: a product with C a step of CG.

    Parameters
    ----------
    operator
        C, tagged positive semidefinite.
    gradient
        g, of the operator's structure. Without damping it must lie in the range of C.
    damping
        λ ≥ 0, in the units of C.
    tol
        ‖(C + λI)δ + g‖ ≤ tol‖g‖.
    max_steps
        Limit of CG steps.

    Returns
    -------
    Solution
        ``value`` is δ; ``stats``: ``decrease``, −⟨g, δ⟩ ≥ 0, and ``products``.

    Raises
    ------
    InputError
        For an operator that is not tagged positive semidefinite (CG needs that), and settings out of range.

    Notes
    -----
    Certificates: ``residual`` (exact), recomputed from its definition; ``descent`` (monitor), ⟨g, δ⟩ ≤ 0.
    Source: Nocedal & Wright (2006), algorithm 5.3 and section 7.1.

    Examples
    --------
    >>> C = lx.DiagonalLinearOperator(jnp.array([1.0, 3.0]))
    >>> C = lx.TaggedLinearOperator(C, lx.positive_semidefinite_tag)
    >>> curvature_step(C, jnp.array([2.0, 4.0]), damping=1.0).value.round(4).tolist()
    [-1.0, -1.0]
    """
    if not isinstance(operator, lx.AbstractLinearOperator) or not lx.is_positive_semidefinite(operator):
        raise InputError("operator: found one without the tag, expected a positive semidefinite lineax operator")
    at_least_zero("damping", damping)
    at_least_zero("tol", tol, positive=True)
    validation.integer(1)("max_steps", max_steps)
    gradient = finite("gradient", gradient)
    if jax.tree.map(jnp.shape, gradient) != jax.tree.map(lambda s: s.shape, operator.in_structure()):
        raise InputError("gradient: found other shapes than the operator's, expected the same")
    total = damped(operator, damping)
    b = optax.tree.scale(-1, gradient)
    run = conjugate_gradients(total.mv, b, tol=tol, max_steps=max_steps)
    image, size = total.mv(run.x), norm(b)
    measured = norm(optax.tree.sub(image, b))
    noise = rounding((norm(image) + size) * like(jnp.sqrt(1.0 + max_steps), b))
    slope = dot(gradient, run.x)
    certificates = {
        "residual": Certificate(
            "‖(C + λI)δ + g‖ <= tol·‖g‖", measured, like(tol, b) * size + noise, "exact", "computed"
        ),
        "descent": Certificate(
            "⟨g, δ⟩ <= 0", slope, rounding(size * norm(run.x)), "monitor", "Nocedal & Wright (2006), section 7.1"
        ),
    }
    known = jnp.isfinite(measured)
    stats = {"decrease": -slope, "products": run.steps + 1}
    return Solution(run.x, certificates, Status.of(certificates["residual"].holds, known), run.steps, stats)
