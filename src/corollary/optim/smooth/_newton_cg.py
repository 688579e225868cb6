"""Line-search Newton-CG: Newton's direction to the accuracy that pays, by CG on Hessian products.

CG stops at ‖Hδ + g‖ ≤ η‖g‖ with Eisenstat & Walker's η = min(½, (‖g_k‖/‖g_{k−1}‖)²) (safeguarded), which goes to zero
with the gradient: few products far away, superlinear convergence near the answer. On negative curvature CG leaves with
the direction so far (at its first step −tg), which leads downhill. Use it for many variables. Cost: a few gradients per
CG step; memory O(n). Source: Nocedal & Wright (2006), algorithm 7.1 and theorem 7.2; Eisenstat & Walker, "Choosing the
forcing terms in an inexact Newton method" (1996), choice 2 with γ = 0.9, α = 2.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Int, PyTree

from corollary.core import validation
from corollary.core.certificate import rounding
from corollary.core.errors import InputError
from corollary.optim._composite import Composite, smooth_only
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.smooth._newton import DescentState, counts, descend, start
from corollary.optim.smooth._steihaug import NEGATIVE, Truncated, truncated_cg


class NewtonCGState(eqx.Module):
    """The state of a descent method, the last forcing term and ‖g‖, and the count of Hessian products."""

    descent: DescentState
    forcing: Scalar
    before: Scalar
    products: Int[Array, ""]

    @property
    def x(self) -> PyTree:
        """The iterate."""
        return self.descent.x


@final
class NewtonCG(Solver):
    """Newton-CG with Armijo's rule, for `minimize`. Cost: up to `max_inner` Hessian products a step; memory O(n).

    Parameters
    ----------
    max_inner
        Limit of CG steps a step; min(2n, 200) if left out.
    forcing
        None: Eisenstat & Walker's rule; a number in (0, 1): that η always (then convergence is linear).

    Notes
    -----
    Certificate: ``stationarity``, of `minimize`. ``stats``: ``evaluations``, ``products``, ``indefinite_steps``.
    Source: Nocedal & Wright (2006), algorithm 7.1.

    Examples
    --------
    >>> from corollary.optim import functions, minimize
    >>> f = functions.rosenbrock(n=6)
    >>> bool(minimize(f, f.x0, NewtonCG(), tol=1e-8).converged)
    True
    """

    max_inner: int | None = eqx.field(static=True, default=None)
    forcing: Any = None

    def __check_init__(self):
        """Refuse limits below one and a forcing outside (0, 1)."""
        validation.integer(1, none=True)("max_inner", self.max_inner)
        if isinstance(self.forcing, float | int) and not 0 < self.forcing < 1:
            raise InputError(f"forcing: found {self.forcing!r}, expected None or a number in (0, 1)")

    def check(self, problem: Problem) -> None:
        """A `Composite` without a penalty."""
        smooth_only(problem)

    def init(self, problem: Composite, x0: PyTree) -> NewtonCGState:
        """The state at x0, with η = ½."""
        descent = start(problem.smooth, x0)
        return NewtonCGState(descent, like(0.5, x0), norm(descent.point.gradient), jnp.int32(0))

    def step(self, problem: Composite, state: NewtonCGState) -> tuple[NewtonCGState, Info]:
        """A CG direction, then Armijo's rule from its full length."""
        here = state.descent
        inner, forcing, far = inexact_direction(
            problem, here, state.forcing, state.before, self.forcing, self.max_inner
        )
        _, unravel = ravel_pytree(here.point.gradient)
        floor = rounding(far, 4.0)
        here = eqx.tree_at(lambda s: s.indefinite, here, here.indefinite + (inner.ending == NEGATIVE).astype(jnp.int32))
        size = norm(here.point.gradient)
        new, info = descend(problem.smooth, here, unravel(inner.delta), True, floor)
        return NewtonCGState(new, forcing, size, state.products + inner.products + 1), info

    def stats(self, problem: Composite, state: NewtonCGState) -> dict[str, Any]:
        """Counts."""
        return counts(state.descent) | {"products": state.products}


def inexact_direction(
    problem: Composite, here: DescentState, forcing: Scalar, before: Scalar, fixed: Any, limit: int | None
) -> tuple[Truncated, Scalar, Scalar]:
    """CG's direction, the forcing term used, and ‖Hx‖, which tells the rounding of the gradient."""
    g, unravel = ravel_pytree(here.point.gradient)

    def product(v: Array) -> Array:
        return ravel_pytree(problem.smooth.hessian_product(here.x, unravel(v)))[0]

    if fixed is None:
        ratio = norm(g) / jnp.where(before > 0, before, 1)
        eta = 0.9 * ratio * ratio
        kept = 0.9 * forcing * forcing  # Eisenstat & Walker's safeguard: no sudden fall of η
        eta = jnp.clip(jnp.where(kept > 0.1, jnp.maximum(eta, kept), eta), 8 * jnp.finfo(g.dtype).eps, 0.5)
    else:
        eta = jnp.asarray(fixed).astype(g.dtype)
    limit = min(2 * g.size, 200) if limit is None else limit
    inner = truncated_cg(product, g, jnp.full_like(eta, jnp.inf), eta, limit, line=True)
    return inner, eta, norm(product(ravel_pytree(here.x)[0]))
