"""Hypergradients: the gradient of an outer objective through the solution of an inner problem.

For x*(θ) = argmin_x inner(x, θ) the chain rule and the implicit function theorem give

    d/dθ outer(x*(θ), θ) = ∂_θ outer − (∂_θ∇_x inner)ᵀ u,    H u = ∇_x outer,    H = ∇²_x inner,

one linear solve with the inner Hessian at the solution, whatever found it. The solve is conjugate gradients, a Neumann
series or dense. For penalised regression `minimize` differentiates by itself; use this where the inner problem is a
function. Source: Pedregosa, "Hyperparameter optimization with approximate gradient" (2016), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._implicit import solved_flat
from corollary.optim._tree import at_least_zero, finite, like, norm
from corollary.optim.penalties._base import Scalar

Outer = Callable[[Any, Any], Any]


@follows_input
def hypergradient(
    inner: Callable[[Any, Any], Any],
    outer: Callable[[Any, Any], Any],
    x: Any,
    parameters: Any,
    *,
    method: str = "cg",
    tol: Any = 1e-8,
    max_steps: int = 1000,
    step_size: Any = None,
) -> Solution:
    """The gradient of θ ↦ outer(x*(θ), θ), where x*(θ) minimises inner(·, θ), from one inner solution.

    Use it to tune penalties or data weights by gradient descent on a validation loss. Cost: one linear solve with the
    inner Hessian (a Hessian-vector product a step), and three gradients.

    Parameters
    ----------
    inner, outer
        ``inner(x, θ)``, twice differentiable and strongly convex near x; ``outer(x, θ)``, differentiable.
    x
        The inner solution, an array or pytree.
    parameters
        θ, an array or pytree.
    method
        ``"cg"``; ``"neumann"``, η Σ (I − ηH)^k; or ``"dense"``.
    tol
        Relative accuracy of the linear solve.
    max_steps
        Limit of its steps (the number of Neumann terms).
    step_size
        η of the Neumann series, at most 1/L for L the largest eigenvalue of H: needed with ``"neumann"``.

    Returns
    -------
    Solution
        ``value``: the gradient, like θ. ``stats``: ``adjoint``, the u with H u = ∇_x outer; ``outer``, its value.

    Raises
    ------
    InputError
        For values that are not finite, and settings out of range.

    Notes
    -----
    Certificates: ``adjoint`` (exact), ‖H u − ∇_x outer‖ ≤ tol·‖∇_x outer‖: the gradient is then wrong by at most
    ‖∂_θ∇_x inner‖·(that)/μ for μ the least eigenvalue of H; ``curvature`` (monitor), uᵀHu > 0 as strong convexity asks.
    Source: Pedregosa, "Hyperparameter optimization with approximate gradient" (2016), algorithm 1; Ghadimi & Wang
    (2018), lemma 2.1, and lemma 3.2 for the Neumann series.

    Examples
    --------
    >>> def inner(x, a):  # x* = 1/a
    ...     return (a * x**2 / 2 - x).sum()
    >>> run = hypergradient(inner, lambda x, a: (x**2).sum(), [0.5], [2.0])  # d/da a⁻² = −2a⁻³
    >>> run.value.round(6).tolist(), bool(run.holds)
    ([-0.25], True)
    """
    validation.one_of("cg", "neumann", "dense")("method", method)
    validation.integer(1)("max_steps", max_steps)
    if not isinstance(tol, jax.Array):
        validation.number(0.0, 1.0, open_low=True)("tol", tol)
    if (step_size is None) == (method == "neumann"):
        raise InputError(f"step_size: found {step_size!r} with method {method!r}, expected it for 'neumann' alone")
    at_least_zero("step_size", step_size, positive=True)
    x, parameters = finite("x", x), finite("parameters", parameters)
    eta = like(1.0 if step_size is None else step_size, x)
    return _hypergradient(inner, outer, x, parameters, eta, like(tol, x), method, max_steps)


@partial(jax.jit, static_argnames=("inner", "outer", "method", "max_steps"))
def _hypergradient(
    inner: Outer, outer: Outer, x: PyTree, parameters: PyTree, eta: Scalar, tol: Scalar, method: str, max_steps: int
) -> Solution:
    def slope(x, theta):
        return jax.grad(inner)(x, theta)

    def hessian(v):
        return jax.jvp(lambda y: slope(y, parameters), (x,), (v,))[1]

    value, (by_x, by_theta) = jax.value_and_grad(outer, argnums=(0, 1))(x, parameters)
    u = solved_flat(
        lambda v: optax.tree.scale(eta, hessian(v)),
        optax.tree.scale(eta, by_x),
        solver=method,
        tol=tol,
        limit=max_steps,
    )
    _, transpose = jax.vjp(lambda theta: slope(x, theta), parameters)
    gradient = optax.tree.sub(by_theta, transpose(u)[0])
    image = hessian(u)
    size, bend = norm(by_x), jnp.asarray(optax.tree.vdot(u, image))
    residual = norm(optax.tree.sub(image, by_x))
    bound = tol * size + rounding(size + norm(image), 64.0)
    adjoint = Certificate("‖H u − ∇outer‖ <= tol·‖∇outer‖", residual, bound, "exact", "Pedregosa (2016), algorithm 1")
    curvature = Certificate(
        "−uᵀHu <= 0", -bend, rounding(norm(u) * norm(image)), "monitor", "strong convexity of the inner problem"
    )
    status = Status.of(adjoint.holds, jnp.isfinite(norm(gradient)))
    stats = {"adjoint": u, "outer": value}
    return Solution(gradient, {"adjoint": adjoint, "curvature": curvature}, status, stats=stats)
