"""The splitting problem, minimise f(x) + s(x) + g(K x): two terms known by their proximal operators, joined by K.

Its saddle form is min_x max_u f(x) + s(x) + ⟨K x, u⟩ − g*(u). How far (x, u) is from a solution is told by the duality
gap where the conjugates have closed forms, else by the two inclusions −Kᵀu − ∇s(x) ∈ ∂f(x) and K x ∈ ∂g*(u).
Source: Rockafellar, "Convex Analysis" (1970), theorems 31.2 and 31.3; with the smooth term s(x) = ℓ(A x) the dual is
−f*(−Kᵀu − Aᵀθ) − ℓ*(θ) − g*(u) for any θ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.certificate import rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._smooth import Differentiable, SmoothTerm
from corollary.optim._tree import floats, like, norm
from corollary.optim.penalties import Penalty
from corollary.optim.penalties._base import Scalar, is_indicator
from corollary.optim.splitting import _linear_map as lm

TRIALS, RAISE = 200, 2.0  # of the smooth term's L
SETTLING = 10  # the first steps, which tell the natural sizes of the two residuals


@final
class Splitting(Problem):
    """Minimise f(x) + s(x) + g(K x), with f and g known by their proximal operators and s smooth.

    Use it where one penalty acts through a linear map (total variation, analysis sparsity), or where two are to be
    combined. Cost: set by the solver, a product with K and one with Kᵀ a step.

    Parameters
    ----------
    f, g
        Members of `corollary.optim.penalties`, both convex.
    K
        A matrix, a sparse matrix, an operator, or a linear function of x; the identity if left out.
    smooth
        A `SmoothTerm` or a differentiable function; none if left out.
    stop
        ``"gap"``: the duality gap; ``"residual"``: the two inclusions; ``"auto"``: the gap where the conjugates are
        known and g is not an indicator (nor made of one: say ``"residual"`` then).

    Raises
    ------
    InputError
        For terms of another kind, and a penalty that is not convex.

    Examples
    --------
    >>> from corollary.optim import minimize, penalties
    >>> K, smooth = [[1.0, -1.0]], lambda x: (x * x - x).sum()
    >>> problem = Splitting(penalties.Box(0.0, 1.0), penalties.L1(1.0), K, smooth)
    >>> minimize(problem, [0.0, 1.0], tol=1e-9).value.round(3).tolist()
    [0.5, 0.5]
    """

    f: Penalty
    g: Penalty
    K: Any
    smooth: SmoothTerm | None
    stop: Literal["auto", "gap", "residual"] = eqx.field(static=True)

    def __init__(
        self,
        f: Any,
        g: Any,
        K: Any = None,
        smooth: Any = None,
        stop: Literal["auto", "gap", "residual"] = "auto",
    ):
        for name, term in (("f", f), ("g", g)):
            if not isinstance(term, Penalty):
                raise InputError(f"{name}: found {type(term).__name__}, expected a member of optim.penalties")
            if not term.is_convex:
                raise InputError(f"{name}: found {type(term).__name__}, expected a convex penalty")
        if smooth is not None and not isinstance(smooth, SmoothTerm) and not callable(smooth):
            raise InputError(f"smooth: found {type(smooth).__name__}, expected a smooth term or a function")
        validation.one_of("auto", "gap", "residual")("stop", stop)
        self.f, self.g, self.stop = f, g, stop
        self.K = lm.linear_map("K", K)
        self.smooth = smooth if smooth is None or isinstance(smooth, SmoothTerm) else Differentiable(smooth)

    @follows_input
    def objective(self, x: Any) -> Any:
        """f(x) + s(x) + g(K x)."""
        x = floats(x)
        return self.first(x) + self.g.value(self.forward(x))

    def default_solver(self) -> tuple[Solver, str]:
        """`ChambollePock`, or `CondatVu` where there is a smooth term."""
        from corollary.optim.splitting._chambolle_pock import ChambollePock
        from corollary.optim.splitting._condat_vu import CondatVu

        if self.smooth is None:
            return ChambollePock(), "two proximal terms joined by a linear map"
        return CondatVu(), "a smooth term and two proximal terms"

    def scale(self) -> Scalar | None:
        """s(0), where the smooth term knows it."""
        return None if self.smooth is None else self.smooth.scale()

    def claims(self) -> tuple[str, str]:
        """Of the primal and the dual inclusion, and of a gap relative to F where no f(0) is known."""
        residual = "the larger of the primal and the dual residual, each relative to its terms, is <= tol"
        return residual, "F(x) − F* <= duality gap <= tol·" + ("|F(x)|" if self.scale() is None else "s(0)")

    def start(self) -> PyTree | None:
        """The origin, where K or the smooth term knows its shape."""
        found = lm.origin(self.K)
        return found if found is not None or self.smooth is None else self.smooth.start()

    def forward(self, x: PyTree) -> PyTree:
        """K x."""
        return lm.forward(self.K, x)

    def adjoint(self, u: PyTree, x: PyTree) -> PyTree:
        """Kᵀu, of the shape of x."""
        return lm.adjoint(self.K, u, x)

    def first(self, x: PyTree) -> Scalar:
        """f(x) + s(x)."""
        value = self.f.value(x)
        return value if self.smooth is None else value + self.smooth.value(x)

    def slope(self, x: PyTree) -> tuple[PyTree | None, PyTree]:
        """θ = ∇ℓ(A x) and ∇s(x) = Aᵀθ; None and zero where there is no smooth term."""
        if self.smooth is None:
            return None, optax.tree.zeros_like(x)
        theta = self.smooth.dual(self.smooth.forward(x))
        return theta, self.smooth.adjoint(theta)

    def dual_prox(self, v: PyTree, sigma: Scalar) -> tuple[PyTree, PyTree]:
        """prox_{σg*}(v) by Moreau's identity, and the point p of dom g with p ∈ ∂g*(prox_{σg*}(v))."""
        p = self.g.prox(optax.tree.scale(1 / sigma, v), 1 / sigma)
        return optax.tree.add_scale(v, -sigma, p), p

    def lower_bound(self, u: PyTree, KTu: PyTree, theta: PyTree | None = None, gradient: PyTree | None = None) -> Any:
        """The dual objective at s·(u, θ), for the better of s = 1 and the s that makes it feasible; None if unknown."""
        w = KTu if gradient is None or self.smooth is None else optax.tree.add(KTu, gradient)
        w = jax.tree.map(jnp.negative, w)
        fit, fit_u = self.f.dual_scaling(w), self.g.dual_scaling(u)
        known = self.f.conjugate(w) is not None and self.g.conjugate(u) is not None
        if fit is None or not known or (self.smooth is not None and self.smooth.conjugate(theta) is None):
            return None
        fit = fit if fit_u is None else jnp.minimum(fit, fit_u)

        def dual(s):
            value = self.f.conjugate(optax.tree.scale(s, w)) + self.g.conjugate(optax.tree.scale(s, u))
            if self.smooth is not None:
                value = value + self.smooth.conjugate(optax.tree.scale(s, theta))
            return jnp.negative(value)

        return jnp.maximum(dual(jnp.ones_like(fit)), dual(fit))

    def lagrangian(self, x: PyTree, Kx: PyTree, u: PyTree) -> Scalar | None:
        """f(x) + s(x) + ⟨K x, u⟩ − g*(u); None where g* is not known."""
        fit = self.g.dual_scaling(u)
        if fit is not None:  # a mean of points of dom g* may leave it by a rounding
            near = fit > 1 - 64 * jnp.finfo(fit.dtype).eps
            u = optax.tree.scale(jnp.where(near, fit, 1), u)
        conjugate = self.g.conjugate(u)
        return None if conjugate is None else self.first(x) + optax.tree.vdot(Kx, u) - conjugate

    def measure(self, point: Point, step: Scalar, first: tuple[Scalar, Scalar]) -> Info:
        """What the driver stops on: the duality gap, or the larger of the two residuals, each relative to its terms."""
        lower = None if self.stop == "residual" else self.lower_bound(point.u, point.KTu, point.theta, point.gradient)
        if self.stop == "gap" and lower is None:
            raise InputError("stop: found 'gap', but a conjugate has no closed form; expected 'residual'")
        if self.stop == "auto" and is_indicator(self.g):
            lower = None  # K x need not lie in its set before the limit
        residual, floor = relative(point, first)
        if lower is None:
            objective = self.first(point.x) + self.g.value(point.p)
            return Info(objective, residual, jnp.ones_like(residual), floor, step, merit=residual)
        objective, split = self.first(point.x) + self.g.value(point.Kx), self.first(point.x) + self.g.value(point.p)
        inside = jnp.isfinite(objective)  # outside the domain of g the split objective is shown, and no gap is claimed
        merit = jnp.where(inside, objective, jnp.inf)
        objective = jnp.where(inside, objective, split)
        one = jnp.ones_like(residual)
        return Info(objective, residual, one, floor, step, lower=jnp.where(inside, lower, -jnp.inf), merit=merit)


class Point(eqx.Module):
    """A primal-dual pair with all that its certificate needs.

    ``xi`` lies in ∂f(x) and ``p`` in ∂g*(u), as the proximal steps that made them left them.
    """

    x: PyTree
    u: PyTree
    Kx: PyTree
    KTu: PyTree
    theta: PyTree | None
    gradient: PyTree
    xi: PyTree
    p: PyTree
    rounded: tuple[Scalar, Scalar]  # ‖x‖/τ and ‖u‖/σ: what xi and p are differences of


def residuals(point: Point) -> tuple[tuple[Scalar, Scalar], tuple[Scalar, Scalar]]:
    """‖ξ + Kᵀu + ∇s(x)‖ and ‖p − K x‖, and the sizes of their terms."""
    pull = optax.tree.add(point.KTu, point.gradient)
    sizes = norm(point.xi) + norm(point.KTu) + norm(point.gradient), norm(point.p) + norm(point.Kx)
    return (norm(optax.tree.add(point.xi, pull)), norm(optax.tree.sub(point.p, point.Kx))), sizes


def relative(point: Point, first: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
    """The larger of the two residuals relative to their terms, now or in the first steps; and its rounding."""
    found, sizes = residuals(point)
    parts, floors = [], []
    for residual, size, start, rounded in zip(found, sizes, first, point.rounded, strict=True):
        size = jnp.maximum(size, start)
        usable = jnp.where(size > 0, size, 1)
        parts.append(residual / usable)
        floors.append(rounding((size + rounded) / usable))
    return jnp.maximum(*parts), jnp.maximum(*floors)


def settle(first: tuple[Scalar, Scalar], point: Point, count: Any) -> tuple[Scalar, Scalar]:
    """The largest terms met in the first steps, which residuals are relative to where the terms themselves vanish."""
    _, sizes = residuals(point)
    return tuple(jnp.where(count < SETTLING, jnp.maximum(a, b), a) for a, b in zip(first, sizes, strict=True))  # type: ignore[return-value]


def covered(problem: Splitting, L: Scalar, old: PyTree, move: Callable[[Scalar], PyTree]) -> Scalar:
    """L, raised till s(x) ≤ s(old) + ⟨∇s(old), x − old⟩ + L/2‖x − old‖² holds at x = move(L), the step it would allow.

    Where the smooth term knows its L nothing is tried. A trial costs a prox of f and a value of s.
    """
    smooth = problem.smooth
    if smooth is None or smooth.lipschitz() is not None:
        return L
    z = smooth.forward(old)
    slack = rounding(smooth.loss(z))

    def short(trial):
        L, count = trial
        x = move(L)
        dx = norm(optax.tree.sub(x, old))
        # Not "error > model": a NaN has to shorten the step, too.
        return ~(smooth.bregman(smooth.forward(x), z) <= L / 2 * dx * dx + slack) & (count < TRIALS)

    return jax.lax.while_loop(short, lambda trial: (RAISE * trial[0], trial[1] + 1), (L, jnp.int32(0)))[0]


def splitting(problem: Any) -> Splitting:
    """Refuse anything but a `Splitting`."""
    if not isinstance(problem, Splitting):
        raise InputError(f"problem: found {type(problem).__name__}, expected a Splitting")
    return problem


def curvature_guess(problem: Splitting, x0: PyTree, knorm: Scalar) -> Scalar:
    """A number with the units of u/(K x), hence of a step σ: from the smooth term's L, or values at a natural point.

    Natural points are x0, the minimiser of f, and Kᵀ of the minimiser of g, whichever is not zero; 1 where all are.
    It scales with the problem, so that a rescaled problem takes the same steps.
    """
    far = like(1e25, x0)
    Kx0 = problem.forward(x0)
    back = problem.adjoint(problem.g.prox(Kx0, far), x0)
    points = [x0, problem.f.prox(x0, far), optax.tree.scale(1 / knorm, back)]
    guess = like(1.0, x0)
    for x in reversed(points):
        value = jnp.abs(problem.first(x)) + jnp.abs(problem.g.value(problem.forward(x)))
        found = value / norm(x) ** 2 / knorm
        guess = jnp.where((norm(x) > 0) & (found > 0) & jnp.isfinite(found), found, guess)
    if problem.smooth is not None:
        L = problem.smooth.lipschitz()
        L = problem.smooth.curvature(x0) if L is None else L
        guess = L / knorm
    return guess
