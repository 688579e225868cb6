"""The Polyak-Łojasiewicz constant, ½‖∇f(x)‖² ≥ μ(f(x) − f*), and gradient descent's linear rate that follows from it.

It asks for no convexity: x² + 3 sin²x, ½(aᵀx)² and over-parameterised losses have it. It coincides with strong
convexity only for C² functions on a sublevel set with a bounded set of minimisers. The least ratio over samples
bounds μ from above (an estimate); for least squares μ = σ_r², the smallest nonzero squared singular value, exactly;
for ½‖r(θ)‖² the tangent kernel K = JJᵀ gives μ ≥ λ_min(K) where K stays positive. Cost: a gradient a point.
Source: Karimi, Nutini & Schmidt (2016), theorem 1; Liu, Zhu & Belkin (2022), theorem 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._smooth import LeastSquares
from corollary.optim._tree import at_least_zero, finite, like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._samples import as_function, at, sample

KARIMI = "Karimi, Nutini & Schmidt (2016), theorem 1"


@follows_input
def pl_constant(f: Any, points: Any = None, *, minimum: Any = None) -> Solution:
    """μ = inf ‖∇f‖²/(2(f − f*)): the least ratio over samples, or exactly for least squares.

    Parameters
    ----------
    f
        Differentiable function of an array or pytree; `LeastSquares` needs no points.
    points
        n samples along the leading axes; those whose f is f* to rounding are left out.
    minimum
        f*; needed for a function.

    Returns
    -------
    Solution
        ``value``: μ. ``stats``: ``witness``, the sample of the least ratio.

    Raises
    ------
    InputError
        For a function without `minimum` or `points`, and points that are not finite.

    Notes
    -----
    Certificate ``pl``: for samples an ``estimate``, an upper bound of the constant over the region; for least squares
    ``exact``: σ_r² is above the rounding that decides the rank.

    Examples
    --------
    >>> import numpy as np
    >>> f = lambda x: x**2 + 3 * jnp.sin(x) ** 2
    >>> round(float(pl_constant(f, np.linspace(-10.0, 10.0, 4001), minimum=0.0).value), 4)
    0.1755
    """
    if isinstance(f, LeastSquares) and points is None:
        return _least_squares(f)
    function = as_function(f)
    if points is None or minimum is None:
        raise InputError("minimum, points: found None, expected f* and samples (only least squares needs neither)")
    points = sample("points", points, 1)
    return _ratios(function, points, like(minimum, points))


def _least_squares(f: LeastSquares) -> Solution:
    matrix = jnp.asarray(f.A.as_matrix())
    s = jnp.linalg.svd(matrix, compute_uv=False)
    floor = max(matrix.shape) * jnp.finfo(s.dtype).eps * s[0]
    least = jnp.min(jnp.where(s > floor, s, jnp.inf))
    certificate = Certificate("rounding of the rank decision <= σ_r", floor, least, "exact", KARIMI)
    rank = jnp.sum(s > floor)
    return Solution(jnp.where(rank > 0, least, 0) ** 2, {"pl": certificate}, stats={"rank": rank})


@eqx.filter_jit
def _ratios(f: Callable[[Any], Any], points: PyTree, best: Scalar) -> Solution:
    values, gradients = jax.vmap(jax.value_and_grad(f))(points)
    gap, size = values - best, jax.vmap(norm)(gradients)
    known = gap > 256 * rounding(jnp.abs(values) + jnp.abs(best))
    ratio = jnp.where(known, size / jnp.where(known, gap, 1) * size / 2, jnp.inf)
    k = jnp.argmin(ratio)
    claim = "μ over the samples, an upper bound of the infimum"
    return Solution(
        ratio[k], {"pl": Certificate(claim, ratio[k], None, "estimate", KARIMI)}, stats={"witness": at(points, k)}
    )


@follows_input
def tangent_kernel_pl(residuals: Callable[[Any], Any], points: Any) -> Solution:
    """The Polyak-Łojasiewicz constant of ½‖r(θ)‖² from the tangent kernel K = JJᵀ of the residuals.

    ‖∇f‖² = rᵀKr ≥ λ_min(K)·2f, so that with f* = 0 the constant at θ is at least λ_min(K(θ)); over a region the infimum
    counts, of which the samples give an upper bound. It is zero where there are more residuals than parameters.
    Cost: a Jacobian and O(m³) for m residuals a point.

    Parameters
    ----------
    residuals
        θ to an array of m residuals.
    points
        n parameters along the leading axes.

    Returns
    -------
    Solution
        ``value``: the least λ_min(K) at the samples; ``stats``: ``per_point`` (n,), ``loss`` (n,).

    Notes
    -----
    Certificate ``pl`` (exact, at each sample): 2λ_min(K)·f ≤ ‖∇f‖².

    Examples
    --------
    >>> import numpy as np
    >>> found = tangent_kernel_pl(lambda w: jnp.array([[3.0, 4.0]]) @ w - 1, np.zeros((1, 2)))
    >>> round(float(found.value), 6)
    25.0
    """
    return _kernel(residuals, sample("points", points, 1))


@eqx.filter_jit
def _kernel(residuals: Callable[[Any], Any], points: PyTree) -> Solution:
    def one(point: PyTree) -> tuple[Scalar, Scalar, Scalar, Scalar]:
        flat, unravel = ravel_pytree(point)
        flattened = lambda p: residuals(unravel(p)).reshape(-1)  # noqa: E731
        r, J = flattened(flat), jax.jacobian(flattened)(flat)
        values = jnp.linalg.eigvalsh(J @ J.T)
        noise = rounding(values[-1], 8.0 * J.shape[0] ** 0.5)
        return jnp.maximum(values[0], 0), jnp.sum(r**2) / 2, norm(r @ J), noise

    least, loss, size, noise = jax.vmap(one)(points)
    over = 2 * least * loss - size**2
    claim = "2 λ_min(K) f(θ) − ‖∇f(θ)‖² <= 0"
    certificate = Certificate(claim, over, 2 * noise * loss + rounding(size**2), "exact", "Liu, Zhu & Belkin (2022)")
    return Solution(jnp.min(least), {"pl": certificate}, stats={"per_point": least, "loss": loss})


@follows_input
def pl_rate(f: Callable[[Any], Any], x0: Any, steps: int, *, mu: Any, lipschitz: Any, minimum: Any) -> Solution:
    """Gradient descent with the step 1/L against f(x_k) − f* ≤ (1 − μ/L)^k (f(x0) − f*).

    Parameters
    ----------
    f
        Differentiable function of an array or pytree.
    x0
        The start.
    steps
        How many.
    mu, lipschitz, minimum
        μ, L > 0 and f*.

    Returns
    -------
    Solution
        ``value``: the last point; ``history``: ``suboptimality`` and ``rate_bound``, entry k − 1 for x_k.

    Notes
    -----
    Certificate ``rate`` (theorem, one claim per step).

    Examples
    --------
    >>> run = pl_rate(lambda x: x**2 + 3 * jnp.sin(x) ** 2, 3.0, 20, mu=1 / 32, lipschitz=8.0, minimum=0.0)
    >>> bool(run.holds.all())
    True
    """
    x0 = finite("x0", x0)
    validation.integer(1)("steps", steps)
    for name, value in (("mu", mu), ("lipschitz", lipschitz)):
        at_least_zero(name, value, positive=True)
    return _descend(f, x0, like(mu, x0), like(lipschitz, x0), like(minimum, x0), steps)


@eqx.filter_jit
def _descend(f: Callable[[Any], Any], x0: PyTree, mu: Scalar, L: Scalar, best: Scalar, steps: int) -> Solution:
    def body(x, _):
        x = optax.tree.add_scale(x, -1 / L, jax.grad(f)(x))
        return x, f(x) - best

    last, gaps = jax.lax.scan(body, x0, length=steps)
    first = f(x0) - best
    bound = (1 - mu / L) ** jnp.arange(1, steps + 1).astype(gaps.dtype) * first
    slack = rounding(jnp.abs(f(x0)) + jnp.abs(best), 16.0)
    known = (
        Assumption("∇f is L-Lipschitz and f has the constant μ along the run"),
        Assumption("mu <= lipschitz", checked=True, holds=mu <= L),
    )
    claim = "f(x_k) − f* <= (1 − μ/L)^k (f(x0) − f*)"
    certificate = Certificate(claim, gaps, bound + slack, "theorem", KARIMI, assumptions=known)
    status = Status.of(True, jnp.isfinite(gaps[-1]))
    return Solution(last, {"rate": certificate}, status, steps, history={"suboptimality": gaps, "rate_bound": bound})
