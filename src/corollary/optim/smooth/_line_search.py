"""Line searches along x + t·p: Armijo (monotone or not) and strong Wolfe, with the rounding of f allowed for.

For f(x) = ℓ(A x) a search costs one product with A, for A p, and none per trial: φ(t) = ℓ(A x + t·A p) and
φ'(t) = ⟨∇ℓ, A p⟩; the gradient at the accepted point is one product with Aᵀ more. (Optax's and Optimistix's searches
see f as a black box and would pay both products at every trial.)

Near a minimum f(x + t·p) − f(x) drowns in the rounding of f while the slopes still tell: there Armijo's condition is
replaced by its form in slopes, φ'(t) ≤ (2c₁ − 1)φ'(0), for a quadratic the same thing.
Source: Armijo (1966); Nocedal & Wright (2006), algorithms 3.5 and 3.6; the form in slopes: Hager & Zhang, "A new
conjugate gradient method with guaranteed descent" (2005), eq. (4.1).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree

from corollary.core.certificate import rounding
from corollary.optim._problem import Info
from corollary.optim._smooth import SmoothTerm
from corollary.optim._tree import norm
from corollary.optim.penalties._base import Scalar

REFRESH = 32  # steps over which A x may be carried along; its drift then stays at a few dozen eps
NEAR = 0.1  # of ‖x‖: along longer steps a rounding measured from gradients is not that of their end


class Trial(eqx.Module):
    """f at x + t·p: φ(t), φ'(t), the image z = A(x + t·p) and the dual point θ = ∇ℓ(z); the gradient is Aᵀθ."""

    step: Scalar
    value: Scalar
    slope: Scalar
    z: PyTree
    theta: PyTree


class Line(eqx.Module):
    """F along x + t·p, with the trial at t = 0: f, and of a convex h the bound h(x) + t·(h(x + p) − h(x))."""

    x: PyTree
    direction: PyTree
    image: PyTree
    start: Trial
    base: Scalar
    rise: Scalar

    def at(self, smooth: SmoothTerm, t: Scalar) -> Trial:
        """The trial at t."""
        z = optax.tree.add_scale(self.start.z, t, self.image)
        theta = smooth.dual(z)
        value = smooth.loss(z) + self.base + t * self.rise
        return Trial(t, value, jnp.asarray(optax.tree.vdot(theta, self.image)) + self.rise, z, theta)

    def point(self, t: Scalar) -> PyTree:
        """x + t·p."""
        return optax.tree.add_scale(self.x, t, self.direction)


class Search(eqx.Module):
    """What a search found: a trial that lowers f enough (`ok`), or the start (not `ok`: no step helps).

    `wolfe` says that the curvature condition holds as well.
    """

    trial: Trial
    ok: Bool[Array, ""]
    wolfe: Bool[Array, ""]
    evaluations: Int[Array, ""]


class Point(eqx.Module):
    """x with all that is known there: z = A x, θ = ∇ℓ(z), f(x), ∇f(x), and how many steps ago z was a product."""

    x: PyTree
    z: PyTree
    theta: PyTree
    value: Scalar
    gradient: PyTree
    age: Int[Array, ""]


def evaluate(smooth: SmoothTerm, x: PyTree) -> Point:
    """The point x: one product with A and one with Aᵀ."""
    z = smooth.forward(x)
    theta = smooth.dual(z)
    return Point(x, z, theta, smooth.loss(z), smooth.adjoint(theta), jnp.int32(0))


def line(smooth: SmoothTerm, point: Point, direction: PyTree, base: Any = 0.0, rise: Any = 0.0) -> Line:
    """The line from a point, with h(x) and h(x + p) − h(x) where there is a convex h: one product with A."""
    image = smooth.forward(direction)
    base, rise = (jnp.asarray(h).astype(point.value.dtype) for h in (base, rise))
    slope = optax.tree.vdot(point.theta, image) + rise
    start = Trial(jnp.zeros_like(point.value), point.value + base, slope, point.z, point.theta)
    return Line(point.x, direction, image, start, base, rise)


def follow(smooth: SmoothTerm, point: Point, line: Line, trial: Trial) -> Point:
    """The point at a trial: one product with Aᵀ. The image z is made anew every `REFRESH` steps."""
    x = line.point(trial.step)

    def anew(_: None) -> tuple[PyTree, PyTree]:
        z = smooth.forward(x)
        return z, smooth.dual(z)

    old = point.age >= REFRESH
    z, theta = jax.lax.cond(old, anew, lambda _: (trial.z, trial.theta), None)
    return Point(x, z, theta, smooth.loss(z), smooth.adjoint(theta), jnp.where(old, 0, point.age + 1))


def sufficient(line: Line, trial: Trial, c1: Any, reference: Scalar) -> Bool[Array, ""]:
    """Armijo's condition against the reference value, or within rounding its form in slopes; never true of a NaN."""
    start = line.start
    armijo = trial.value <= reference + c1 * trial.step * start.slope
    level = trial.value <= start.value + rounding(start.value, 4.0)
    return jnp.isfinite(trial.value) & (armijo | (level & (trial.slope <= (2 * c1 - 1) * start.slope)))


def armijo(
    smooth: SmoothTerm,
    line: Line,
    step: Scalar,
    *,
    c1: Any = 1e-4,
    reference: Scalar | None = None,
    max_trials: int = 60,
) -> Search:
    """The first t ≤ step, by safeguarded quadratic interpolation, with φ(t) ≤ reference + c₁·t·φ'(0).

    Parameters
    ----------
    smooth, line
        The function, and the line along a descent direction (φ'(0) < 0; otherwise the search fails).
    step
        The first trial.
    c1
        In (0, 1/2).
    reference
        φ(0) if left out: monotone. The largest of the last M values: the non-monotone search.
    max_trials
        Limit of evaluations.
    """
    start = line.start
    reference = start.value if reference is None else reference

    def going(carry: tuple[Trial, Array, Array]) -> Array:
        _, ok, count = carry
        return ~ok & (count < max_trials)

    def shorten(carry: tuple[Trial, Array, Array]) -> tuple[Trial, Array, Array]:
        last, _, count = carry
        t = last.step
        excess = last.value - start.value - t * start.slope
        ratio = -start.slope * t / (2 * jnp.where(excess > 0, excess, 1))
        ratio = jnp.where((excess > 0) & jnp.isfinite(ratio), jnp.clip(ratio, 0.1, 0.5), 0.1)
        trial = line.at(smooth, ratio * t)
        return trial, sufficient(line, trial, c1, reference), count + 1

    first = line.at(smooth, step)
    trial, ok, count = jax.lax.while_loop(going, shorten, (first, sufficient(line, first, c1, reference), jnp.int32(1)))
    ok = ok & (start.slope < 0)
    return Search(optax.tree.where(ok, trial, start), ok, jnp.array(False), count)


def strong_wolfe(
    smooth: SmoothTerm, line: Line, step: Scalar, *, c1: Any = 1e-4, c2: Any = 0.9, max_trials: int = 30
) -> Search:
    """A t with φ(t) ≤ φ(0) + c₁·t·φ'(0) and |φ'(t)| ≤ c₂|φ'(0)|.

    It keeps an interval whose left end lowers f enough and points downhill, and whose right end does not: there is such
    a t between them. Trials are secant steps of the slopes, kept off the ends, with a bisection every third time;
    before there is a right end they grow by 2 to 10. Where the limit of trials or the precision ends it first, the
    best trial that lowers f enough is returned (`ok`, not `wolfe`).

    Parameters
    ----------
    smooth, line
        The function, and the line along a descent direction (φ'(0) < 0; otherwise the search fails).
    step
        The first trial.
    c1, c2
        0 < c₁ < c₂ < 1, c₁ < 1/2. A small c₂ (0.1, for conjugate gradients) makes the search more exact.
    max_trials
        Limit of evaluations.
    """
    start = line.start
    eps = jnp.finfo(start.value.dtype).eps
    infinity = jnp.full_like(start.value, jnp.inf)

    def going(carry: tuple) -> Array:
        _, _, wolfe, _, low, high, count = carry
        apart = ~jnp.isfinite(high[0]) | (high[0] - low[0] > 4 * eps * high[0])
        return ~wolfe & (count < max_trials) & apart

    def body(carry: tuple) -> tuple:
        best, ok, _, t, low, high, count = carry
        trial = line.at(smooth, t)
        fine = sufficient(line, trial, c1, start.value) & jnp.isfinite(trial.slope)
        wolfe = fine & (jnp.abs(trial.slope) <= -c2 * start.slope)
        keep = fine & (wolfe | ~ok | (trial.value <= best.value))
        left = fine & (trial.slope < 0)
        before = low
        low = jax.tree.map(lambda a, b: jnp.where(left, a, b), (t, trial.slope), low)
        high = jax.tree.map(lambda a, b: jnp.where(left, b, a), (t, trial.slope), high)
        # Further out while there is no right end: where the slope's secant vanishes, within limits.
        flatter = trial.slope - before[1]
        reach = t - trial.slope * (t - before[0]) / jnp.where(flatter > 0, flatter, 1)
        reach = jnp.where((flatter > 0) & jnp.isfinite(reach), jnp.clip(reach, 2 * t, 10 * t), 10 * t)
        # Between the ends: the secant, where the right end points uphill; else halfway.
        width = high[0] - low[0]
        turn = high[1] - low[1]
        share = jnp.where((high[1] > 0) & jnp.isfinite(turn), -low[1] / jnp.where(turn > 0, turn, 1), 0.5)
        share = jnp.where(count % 3 == 2, 0.5, jnp.clip(share, 0.05, 0.95))
        t = jnp.where(jnp.isfinite(high[0]), low[0] + share * jnp.where(jnp.isfinite(width), width, 1), reach)
        return optax.tree.where(keep, trial, best), ok | keep, wolfe, t, low, high, count + 1

    no, ends = jnp.array(False), ((start.step, start.slope), (infinity, infinity))
    best, ok, wolfe, _, _, _, count = jax.lax.while_loop(going, body, (start, no, no, step, *ends, jnp.int32(0)))
    ok = ok & (start.slope < 0)
    return Search(optax.tree.where(ok, best, start), ok, wolfe & ok, count)


def blur_along(blur: Scalar, x: PyTree, moved: PyTree, change: PyTree) -> Scalar:
    """‖∇f(x) − ∇f(x − s)‖/max|s_i/x_i| ≤ ‖|∇²f||x|‖ where x moved enough to tell, else the last such estimate.

    Times eps it is the rounding of a gradient at x, from below. The curvature along s times ‖x‖ would be none: it pairs
    the stiffest direction with the whole length of x, and makes any residual a small one.
    """
    tiny = jnp.finfo(blur.dtype).tiny

    def shares(s: Array, a: Array) -> Array:
        return jnp.max(jnp.abs(s) / jnp.maximum(jnp.maximum(jnp.abs(a), jnp.abs(a - s)), tiny), initial=0.0)

    share = jnp.stack(jax.tree.leaves(jax.tree.map(shares, moved, x))).max()
    found = norm(change) / jnp.where(share > 0, share, 1)
    told = jnp.where((share > jnp.finfo(blur.dtype).eps ** 0.5) & jnp.isfinite(found), found, blur)
    return near(told, norm(moved), x)


def near(floor: Scalar, moved: Scalar, x: PyTree) -> Scalar:
    """A rounding that was measured on the way to x: nothing where the way was long, for the curvature was another's.

    On badly scaled functions a start far off has a Hessian 10¹² times the minimiser's; its rounding would pass any
    gradient for a small one.
    """
    return jnp.where(moved <= NEAR * norm(x), floor, 0)


def curvature_along(curvature: Scalar, x: PyTree, moved: PyTree, change: PyTree) -> Scalar:
    """‖∇f(x) − ∇f(x − s)‖/‖s‖ where s is long enough for it to be trusted, else the last such estimate.

    A step of rounding's own size would make it as large as one likes.
    """
    length, far = norm(moved), jnp.sqrt(jnp.finfo(curvature.dtype).eps) * norm(x)
    found = norm(change) / jnp.where(length > 0, length, 1)
    return jnp.where((length > far) & jnp.isfinite(found), found, curvature)


def smooth_info(point: Point, before: PyTree, step: Scalar, blur: Scalar, **more: Any) -> Info:
    """The `Info` of a step on a smooth function: its gradient, relative to the one at the start."""
    now = norm(point.gradient)
    return Info(
        objective=point.value,
        residual=now,
        gradient_scale=norm(before),
        from_start=True,
        floor=rounding(blur, 4.0),
        step=step,
        **more,
    )
