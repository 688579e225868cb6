"""Proximal points, certified: prox of a penalty or of any convex function; Moreau's decomposition; thresholding.

prox_{γh}(v) = argmin_x h(x) + ‖x − v‖²/(2γ). Inside loops call `penalty.prox(v, step)`, which is the bare formula; here
the same answer comes with its certificate. Source: Moreau, "Proximité et dualité dans un espace hilbertien" (1965);
Parikh & Boyd, "Proximal algorithms" (2014).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optimistix as optx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._spectral import spectral_map
from corollary.optim._tree import at_least_zero, finite, floats, like, norm
from corollary.optim.penalties import L1, GraphTotalVariation, Nuclear, Penalty, TotalVariation2D

INCLUSION = "Parikh & Boyd (2014), eq. (3.4): p = prox_γh(v) iff (v − p)/γ ∈ ∂h(p)"


@follows_input
def prox(
    penalty: Penalty | Callable[[Any], Any], v: Any, step: Any = 1.0, *, tol: float = 1e-8, max_steps: int = 256
) -> Solution:
    """The proximal point argmin_x h(x) + ‖x − v‖²/(2·step), with the inclusion that proves it.

    Use it to get one proximal point; a closed form costs that of the penalty, a callable a BFGS minimisation.

    Parameters
    ----------
    penalty
        A penalty of `corollary.optim.penalties`, or a differentiable convex function of an array or pytree.
    v
        Array or pytree.
    step
        γ > 0.
    tol, max_steps
        For a callable only: relative tolerance on the proximal point, and the limit of BFGS steps.

    Returns
    -------
    Solution
        ``value`` of the shape of `v`.

    Raises
    ------
    InputError
        For a step that is not positive, or values that are not finite.

    Notes
    -----
    Certificates: ``inclusion``, dist((v − p)/γ, ∂h(p)) within rounding, where the subdifferential is known (a
    stationarity ``monitor`` where h is not convex). ``gap`` (exact) where the prox is an iteration of its own: the
    duality gap of the proximal problem, ‖p − prox‖ ≤ √(2·gap). For a callable ``distance``: by strong convexity of the
    proximal objective, ‖p − prox‖ ≤ γ‖∇h(p) + (p − v)/γ‖, where h is convex (assumed).

    Examples
    --------
    >>> from corollary.optim import penalties
    >>> prox(penalties.L1(1.0), [3.0, -0.5]).value.tolist()
    [2.0, 0.0]
    >>> prox(lambda x: (x**2).sum() / 2, [3.0, -1.0]).value.round(6).tolist()
    [1.5, -0.5]
    """
    at_least_zero("step", step, positive=True)
    v = finite("v", v)
    step = like(step, v)
    if not isinstance(penalty, Penalty):
        return _prox_of_function(penalty, v, step, tol, max_steps)
    p = penalty.prox(v, step)
    excess = penalty._fenchel_excess(p, optax.tree.scale(1 / step, optax.tree.sub(v, p)))
    if excess is not None:
        return _prox_by_iteration(penalty, p, v, step, step * excess)
    return Solution(p, {name: c for name, c in [("inclusion", _inclusion(penalty, p, v, step))] if c is not None})


@follows_input
def moreau_decomposition(penalty: Penalty, v: Any, step: Any = 1.0) -> Solution:
    """Split v = prox_{γh}(v) + γ·prox_{h*/γ}(v/γ): a point, and a dual point that proves it.

    Cost: that of one prox. It turns a known prox into that of the conjugate: with h a norm, the second part is the
    projection onto the dual norm's ball.

    Returns
    -------
    Solution
        ``value`` is the pair (p, d) with p = prox_{γh}(v) and d = prox_{h*/γ}(v/γ), so that v = p + γ d.

    Notes
    -----
    Certificates: ``fenchel`` (exact), h(p) + h*(d) = ⟨p, d⟩ up to rounding, where h* is known: equality holds iff
    d ∈ ∂h(p); else ``inclusion``.

    Examples
    --------
    >>> from corollary.optim import penalties
    >>> p, d = moreau_decomposition(penalties.L1(1.0), [3.0, -0.5], 2.0).value
    >>> p.tolist(), d.tolist()
    ([1.0, 0.0], [1.0, -0.25])
    """
    if not penalty.is_convex:
        raise InputError(f"penalty: found {type(penalty).__name__}, expected a convex one (Moreau needs it)")
    at_least_zero("step", step, positive=True)
    v = finite("v", v)
    step = like(step, v)
    p = penalty.prox(v, step)
    d = optax.tree.scale(1 / step, optax.tree.sub(v, p))
    conjugate = penalty.conjugate(d)
    if conjugate is None:
        found = _inclusion(penalty, p, v, step)
        return Solution((p, d), {} if found is None else {"inclusion": found})
    value, product = penalty.value(p), optax.tree.vdot(p, d)
    size = sum(leaf.size for leaf in jax.tree.leaves(v))
    lengths = norm(v) + norm(p)  # p alone has a length where v = 0 lies outside the domain of h
    scale = lengths * (lengths / step) + jnp.where(jnp.isfinite(value), jnp.abs(value), 0)
    # Rounding may leave d a hair outside the domain of h*: bring it in, and charge the way it had to go.
    fit = penalty.dual_scaling(d)
    fit = like(1.0, v) if fit is None else jnp.where(jnp.isfinite(conjugate), 1.0, fit)
    conjugate = penalty.conjugate(optax.tree.scale(fit, d))
    certificate = Certificate(
        "h(p) + h*(d) = <p, d>",
        jnp.abs(value + conjugate - product) + (1 - fit) * norm(d) * norm(v),
        rounding(scale, 16.0 * size**0.5),
        "exact",
        "Moreau (1965); Fenchel-Young equality, Rockafellar (1970), theorem 23.5",
    )
    return Solution((p, d), {"fenchel": certificate})


@follows_input
def soft_threshold(v: Any, threshold: Any) -> Any:
    """sign(v)·max(|v| − threshold, 0), entry by entry; v less it is v clipped to [−threshold, threshold].

    Examples
    --------
    >>> soft_threshold([3.0, -0.5], 1.0).tolist()
    [2.0, 0.0]
    """
    return L1(threshold).prox(floats(v))


@follows_input
def singular_value_soft_threshold(A: Any, tau: Any) -> Solution:
    """U (S − τ)_+ Vᵀ, which minimises ½‖A − B‖_F² + τ‖B‖_*: the step of low-rank recovery. Cost O(m n min(m, n)).

    Differentiable in A and τ, also where singular values coincide (not where one equals τ).

    Parameters
    ----------
    A
        Matrix (m, n).
    tau
        Threshold τ ≥ 0, in the units of A.

    Returns
    -------
    Solution
        ``value`` (m, n).

    Notes
    -----
    Certificate ``inclusion``: A − B lies in τ∂‖·‖_* at B, up to rounding.
    Source: Cai, Candès & Shen (2010), theorem 2.1.

    Examples
    --------
    >>> singular_value_soft_threshold([[3.0, 0.0], [0.0, 1.0]], 2.0).value.round(12).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    A = validation.matrix("A", A)
    at_least_zero("tau", tau)
    tau = like(tau, A)
    B = spectral_map(A, tau)
    measured = Nuclear(tau).subdifferential_distance(B, B - A)
    bound = rounding(norm(A), 16.0 * max(A.shape))
    source = "Cai, Candès & Shen, A singular value thresholding algorithm (2010), theorem 2.1"
    return Solution(B, {"inclusion": Certificate("dist(A − B, τ∂‖B‖_*) = 0", measured, bound, "exact", source)})


@follows_input
def hard_threshold(z: Any, s: int) -> Any:
    """Keep the s entries of largest magnitude, zero the rest: the projection onto s-sparse vectors. Cost O(p log s).

    Ties go to the lower index. The set is not convex: the projection is not unique at a tie, and not nonexpansive.

    Parameters
    ----------
    z
        Array; the count is over all its entries.
    s
        How many to keep, at least 0; all are kept where s exceeds their number.

    Examples
    --------
    >>> hard_threshold([1.0, -3.0, 1.0], 2).tolist()
    [1.0, -3.0, 0.0]
    """
    validation.integer(0)("s", s)
    z = finite("z", z)
    flat, back = ravel_pytree(z)
    _, kept = jax.lax.top_k(jnp.abs(flat), min(s, flat.size))
    return back(jnp.zeros_like(flat).at[kept].set(flat[kept]))


def _inclusion(penalty: Penalty, p: PyTree, v: PyTree, step: Float[Array, ""]) -> Certificate | None:
    residual = optax.tree.scale(1 / step, optax.tree.sub(p, v))
    measured = penalty.subdifferential_distance(p, residual)
    if measured is None:
        return None
    size = max(sum(leaf.size for leaf in jax.tree.leaves(v)), 1)
    bound = rounding((norm(v) + norm(p)) / step, 16.0 * size)
    kind = "exact" if penalty.is_convex else "monitor"
    return Certificate("dist((v − p)/γ, ∂h(p)) = 0", measured, bound, kind, INCLUSION)


def _prox_by_iteration(penalty: Penalty, p: PyTree, v: PyTree, step: Float[Array, ""], gap: Array) -> Solution:
    """The gap of an inexact prox, γ(h(p) + h*(u) − ⟨u, p⟩) for u = (v − p)/γ, against its own tolerance."""
    away = optax.tree.sub(v, jax.tree.map(jnp.mean, v))
    tol = like(_inner_tolerance(penalty), v)
    certificate = Certificate(
        "‖p − prox‖²/2 <= duality gap <= tol·‖v − mean‖²/2",
        gap,
        (tol + rounding(like(1.0, v), 16.0)) * norm(away) ** 2 / 2,
        "exact",
        "weak duality and strong convexity: Beck & Teboulle (2009), section 4",
    )
    return Solution(p, {"gap": certificate}, Status.of(certificate.holds))


def _inner_tolerance(penalty: Any) -> Any:
    """The largest ``tol`` of the iterations inside."""
    if isinstance(penalty, TotalVariation2D | GraphTotalVariation):
        return penalty.tol
    parts = jax.tree.leaves(
        [value for name, value in vars(penalty).items() if name in ("penalty", "parts")],
        is_leaf=lambda part: isinstance(part, Penalty),
    )
    return max((_inner_tolerance(part) for part in parts if isinstance(part, Penalty)), default=0.0)


def _prox_of_function(
    h: Callable[[Any], Any], v: PyTree, step: Float[Array, ""], tol: float, max_steps: int
) -> Solution:
    validation.number(0.0, open_low=True)("tol", tol)
    validation.integer(1)("max_steps", max_steps)
    flat, back = ravel_pytree(v)

    def objective(x, _=None):
        return step * h(back(x)) + jnp.sum(jnp.square(x - flat)) / 2

    gradient = jax.grad(objective)
    slope = norm(gradient(flat))  # at v this is γ‖∇h(v)‖
    scale = norm(flat) + slope
    scale = jnp.where(scale > 0, scale, 1.0)
    scaled = jnp.where(slope > 0, slope, 1.0)  # so that BFGS's own tolerances are relative
    solver = optx.BFGS(rtol=tol, atol=tol * 1e-3)
    run = optx.minimise(
        lambda x, _: objective(x * scale) / (scale * scaled), solver, flat / scale, max_steps=max_steps, throw=False
    )
    p = run.value * scale
    measured = norm(gradient(p))
    bound = tol * scale + rounding(scale, 16.0 * flat.size**0.5)
    certificate = Certificate(
        "‖p − prox_γh(v)‖ ≤ ‖γ∇h(p) + p − v‖ ≤ tol·(‖v‖ + γ‖∇h(v)‖)",
        measured,
        bound,
        "theorem",
        "1-strong convexity of γh + ½‖· − v‖²: Nesterov (2018), theorem 2.1.10",
        assumptions=(Assumption("h convex"),),
    )
    status = Status.of(certificate.holds, jnp.isfinite(measured))
    return Solution(back(p), {"distance": certificate}, status, run.stats["num_steps"])
