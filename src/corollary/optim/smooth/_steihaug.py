"""Steihaug-Toint truncated CG: an approximate trust-region step from Hessian products only.

CG on Hδ = −g from δ = 0, left at the boundary ‖δ‖ = Δ, along a direction of negative curvature (to the boundary), or at
‖r‖ ≤ tol·‖g‖. The iterates grow in norm, so that the first crossing is the last, and the model falls at least as much
as at Cauchy's point, which is CG's first step: that is all that convergence needs. Cost: one product a step. It does
not find the exact minimiser at the boundary; `trust_region_subproblem` does.
Source: Steihaug, "The conjugate gradient method and trust regions in large scale optimization" (1983), theorem 2.1;
Toint (1981); Conn, Gould & Toint (2000), algorithm 7.5.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Int

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.operator import as_operator
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import at_least_zero, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.smooth._newton import Vector

TOLERANCE, BOUNDARY, NEGATIVE, LIMIT = 0, 1, 2, 3  # how CG ended


@follows_input
def steihaug_cg(hessian: Any, gradient: Any, radius: Any, *, tol: Any = 1e-8, max_steps: Any = None) -> Solution:
    """A step of truncated CG for min gᵀδ + ½ δᵀHδ over ‖δ‖ ≤ Δ.

    Parameters
    ----------
    hessian
        A symmetric operator, matrix or `lineax` operator, of any signs.
    gradient
        g (n,).
    radius
        Δ > 0, infinity allowed (``status`` is then `Status.UNBOUNDED` on negative curvature, δ a step along it).
    tol
        CG stops at ‖Hδ + g‖ ≤ tol·‖g‖.
    max_steps
        Limit of products; 2n if left out.

    Returns
    -------
    Solution
        ``value`` is δ; ``stats`` holds ``model`` (its decrease is −model), ``cauchy`` (the decrease of Cauchy's point)
        and ``ending``: 0 tolerance, 1 boundary, 2 negative curvature, 3 step limit.

    Raises
    ------
    InputError
        For shapes that do not fit, or settings out of range.

    Notes
    -----
    Certificates: ``cauchy`` (theorem), the model falls at least as far as at Cauchy's point; ``feasible`` (exact).
    Source: Steihaug (1983), theorem 2.1.

    Examples
    --------
    >>> solution = steihaug_cg([[2.0, 0.0], [0.0, 1.0]], [1.0, 1.0], 10.0)
    >>> solution.value.round(6).tolist(), int(solution.stats["ending"])
    ([-0.5, -1.0], 0)
    """
    H, g = as_operator(hessian), validation.vector("gradient", gradient)
    if not isinstance(H, lx.AbstractLinearOperator) or (H.in_size(), H.out_size()) != (g.size, g.size):
        raise InputError(f"hessian: found {H.out_size()} x {H.in_size()}, expected {g.size} x {g.size} as gradient has")
    at_least_zero("tol", tol)
    if not isinstance(radius, jax.Array):
        validation.number(0.0, open_low=True)("radius", radius)
    if not isinstance(max_steps, jax.Array):
        validation.integer(1, none=True)("max_steps", max_steps)
    limit = jnp.asarray(2 * g.size if max_steps is None else max_steps).astype(jnp.int32)
    dtype = g.dtype
    radius = jnp.asarray(radius).astype(dtype)
    end, cauchy = _solve(H, g, radius, jnp.asarray(tol).astype(dtype), limit)
    size, decrease = norm(end.delta), end.decrease
    slack = rounding(norm(g) * size + jnp.abs(decrease), 16.0)
    certificates = {
        "cauchy": Certificate(
            "Cauchy point's model decrease − ours <= 0",
            cauchy - decrease,
            slack,
            "theorem",
            "Steihaug (1983), theorem 2.1",
        ),
        "feasible": Certificate("‖δ‖ <= Δ", size, radius * (1 + 16 * jnp.finfo(dtype).eps)),
    }
    status = jnp.where(end.ending == LIMIT, Status.MAX_STEPS, Status.CONVERGED)
    unbounded = (end.ending == NEGATIVE) & jnp.isinf(radius)
    status = jnp.where(unbounded, Status.UNBOUNDED, status).astype(jnp.int32)
    stats = {"model": -decrease, "cauchy": cauchy, "ending": end.ending}
    return Solution(end.delta, certificates, status, end.products, stats)


@eqx.filter_jit
def _solve(H: Any, g: Vector, radius: Scalar, tol: Scalar, limit: Array) -> tuple[Truncated, Scalar]:
    """Where CG ended, and the decrease at Cauchy's point."""
    return truncated_cg(H.mv, g, radius, tol, limit), _cauchy_decrease(H.mv, g, radius)


class Truncated(eqx.Module):
    """Where CG ended: δ, Hδ, the model's decrease, how and after how many products."""

    delta: Vector
    image: Vector
    decrease: Scalar
    ending: Int[Array, ""]
    products: Int[Array, ""]


def truncated_cg(
    product: Callable[[Vector], Vector], g: Vector, radius: Scalar, tol: Scalar, max_steps: Any, line: bool = False
) -> Truncated:
    """CG from 0. With `line` a direction of negative curvature is not followed to the boundary: δ so far is returned.

    Where that is at the first step, δ = −tg with the length that |curvature| suggests. Numbers in units of ‖g‖.
    """
    size = norm(g)
    safe = jnp.where(size > 0, size, 1)
    b = g / safe
    zero = jnp.zeros_like(b)

    def going(carry: tuple) -> Array:
        return (carry[6] < 0) & (carry[5] < max_steps)

    def body(carry: tuple) -> tuple:
        delta, image, r, p, rr, count, _, boundary = carry
        length = norm(p)
        unit = p / jnp.where(length > 0, length, 1)
        Hu = product(unit)
        bend = jnp.dot(unit, Hu)
        negative = bend <= 0
        # steps along the unit vector: rr = ‖r‖² = −⟨r, p⟩
        alpha = rr / jnp.where(length > 0, length, 1) / jnp.where(negative, 1, bend)
        ahead = delta + alpha * unit
        crosses = ~(norm(ahead) < radius)
        stop = negative | crosses | ~jnp.isfinite(alpha)
        if line:
            slope = jnp.where(jnp.abs(bend) > 0, 1 / jnp.where(bend == 0, 1, jnp.abs(bend)), 1)
            out = jnp.where(count == 0, slope * rr / jnp.where(length > 0, length, 1), 0)
            out = jnp.where(crosses & ~negative, to_boundary(delta, unit, radius), out)
        else:  # in an infinite ball: as long as the size of the curvature suggests
            far = jnp.maximum(norm(delta), rr / jnp.where(length > 0, length, 1) / jnp.where(bend < 0, -bend, 1))
            out = jnp.where(jnp.isinf(radius), far, to_boundary(delta, unit, radius))
        alpha = jnp.where(stop, out, alpha)
        delta, image, r = delta + alpha * unit, image + alpha * Hu, r + alpha * Hu
        new = jnp.dot(r, r)
        small = jnp.sqrt(new) <= tol
        ending = jnp.where(negative, NEGATIVE, jnp.where(crosses, BOUNDARY, jnp.where(small, TOLERANCE, -1)))
        p = -r + (new / jnp.where(rr > 0, rr, 1)) * p
        return delta, image, r, p, new, count + 1, ending.astype(jnp.int32), boundary

    start = jnp.where(size > 0, -1, TOLERANCE).astype(jnp.int32)
    radius = jnp.where(size > 0, radius / safe, radius)
    first = (zero, zero, b, -b, jnp.dot(b, b), jnp.int32(0), start, radius)
    delta, image, _, _, _, count, ending, _ = jax.lax.while_loop(going, body, first)
    ending = jnp.where(ending < 0, LIMIT, ending).astype(jnp.int32)
    decrease = -(jnp.dot(b, delta) + jnp.dot(delta, image) / 2) * size * size
    return Truncated(delta * safe, image * safe, decrease, ending, count)


def to_boundary(delta: Vector, direction: Vector, radius: Scalar) -> Scalar:
    """The t > 0 with ‖δ + t·p‖ = Δ for ‖δ‖ ≤ Δ and a unit p, without cancellation; a huge t where Δ is infinite."""
    unit = jnp.where(jnp.isfinite(radius) & (radius > 0), radius, 1)
    inside = delta / unit
    along, size = jnp.dot(inside, direction), norm(inside)
    root = jnp.sqrt(along**2 + jnp.maximum((1 - size) * (1 + size), 0))
    room = jnp.maximum((1 - size) * (1 + size), 0)
    t = jnp.where(along > 0, room / jnp.where(along + root > 0, along + root, 1), root - along)
    return jnp.where(jnp.isfinite(radius), t * unit, 1e3 * jnp.where(size > 0, size, 1))


def _cauchy_decrease(product: Callable[[Vector], Vector], g: Vector, radius: Scalar) -> Scalar:
    """The largest decrease of the model along −g within the ball."""
    size = norm(g)
    unit = g / jnp.where(size > 0, size, 1)
    bend = jnp.dot(unit, product(unit))
    t = jnp.where(bend > 0, jnp.minimum(size / jnp.where(bend > 0, bend, 1), radius), radius)
    t = jnp.where(jnp.isfinite(t), t, 0)
    return t * (size - t * bend / 2)
