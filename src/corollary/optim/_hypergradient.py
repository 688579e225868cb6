"""Hypergradients: the gradient of an outer objective through the solution of an inner problem.

For x*(θ) = argmin_x inner(x, θ) the chain rule and the implicit function theorem give

    d/dθ outer(x*(θ), θ) = ∂_θ outer − (∂_θ∇_x inner)ᵀ u,    H u = ∇_x outer,    H = ∇²_x inner,

one linear solve with the inner Hessian at the solution, whatever found it. The solve is conjugate gradients, a Neumann
series or dense. For penalised regression `minimize` differentiates by itself; use this where the inner problem is a
function. Source: Pedregosa, "Hyperparameter optimization with approximate gradient" (2016), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
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
    inner_tol: Any = 1e-4,
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
    inner_tol
        How nearly x must solve the inner problem, relative to the terms that cancel in its gradient.
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
    ‖∂_θ∇_x inner‖·(that)/μ for μ the least eigenvalue of H, if x is the inner solution; ``stationarity`` (monitor), it
    nearly is: ‖∇_x inner‖ is small, and the gradient errs further by O(‖∇_x inner‖/μ); ``curvature`` (monitor),
    uᵀHu > 0 as strong convexity asks. Converged where the first two hold.
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
    for name, number in (("tol", tol), ("inner_tol", inner_tol)):
        if not isinstance(number, jax.Array):
            validation.number(0.0, 1.0, open_low=True)(name, number)
    if (step_size is None) == (method == "neumann"):
        raise InputError(f"step_size: found {step_size!r} with method {method!r}, expected it for 'neumann' alone")
    at_least_zero("step_size", step_size, positive=True)
    x, parameters = finite("x", x), finite("parameters", parameters)
    eta = like(1.0 if step_size is None else step_size, x)
    return _hypergradient(inner, outer, x, parameters, eta, like(tol, x), like(inner_tol, x), method, max_steps)


@eqx.filter_jit
def _hypergradient(
    inner: Outer,
    outer: Outer,
    x: PyTree,
    parameters: PyTree,
    eta: Scalar,
    tol: Scalar,
    inner_tol: Scalar,
    method: str,
    max_steps: int,
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
    along_theta = jax.jvp(lambda theta: slope(x, theta), (parameters,), (parameters,))[1]
    steep, terms = norm(slope(x, parameters)), norm(hessian(x)) + norm(along_theta)
    stationarity = Certificate(
        "‖∇_x inner‖ <= inner_tol·(‖H x‖ + ‖∂_θ∇_x inner θ‖)",
        steep,
        inner_tol * terms + rounding(terms, 64.0),
        "monitor",
        "Pedregosa (2016), algorithm 1",
    )
    status = Status.of(adjoint.holds & stationarity.holds, jnp.isfinite(norm(gradient)))
    stats = {"adjoint": u, "outer": value}
    certificates = {"adjoint": adjoint, "curvature": curvature, "stationarity": stationarity}
    return Solution(gradient, certificates, status, stats=stats)
