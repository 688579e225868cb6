"""Proximal gradient on a nonconvex composite objective: what the Kurdyka-Łojasiewicz property makes of it.

With t < 1/L every step obeys, for any h whose prox is at hand,

    F(x_k) − F(x_{k+1}) ≥ a‖x_{k+1} − x_k‖²,              a = (1/t − L)/2,
    dist(0, ∂F(x_{k+1})) ≤ b‖x_{k+1} − x_k‖,              b = 1/t + L.

If F has the KL property (all semialgebraic F: least squares plus L0, L1/2, MCP, SCAD), the path then has finite length
and converges to a stationary point; with the exponent θ of the property the rate is finite (θ = 0), linear
(θ ≤ 1/2) or k^{−(1−θ)/(2θ−1)}. Least squares plus a piecewise quadratic h, L0 among them, has θ = 1/2.
Source: Attouch, Bolte & Svaiter, "Convergence of descent methods for semi-algebraic and tame problems" (2013),
theorem 2.9 and section 5.1; Attouch & Bolte (2009), theorem 2, for the rates; Li & Pong, "Calculus of the exponent of
Kurdyka-Łojasiewicz inequality" (2018), corollary 5.1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution
from corollary.optim._composite import Composite, composite
from corollary.optim._tree import at_least_zero, finite, like, norm
from corollary.optim.proximal._proximal_gradient import ProximalGradient
from corollary.optim.theory._convergence import fit_convergence

SOURCE = "Attouch, Bolte & Svaiter (2013), section 5.1"


@follows_input
def kl_proximal_rate(
    problem: Composite, x0: Any, steps: int, *, exponent: float = 0.5, step_size: Any = None
) -> Solution:
    """Run proximal gradient on f + h, h not necessarily convex, and hold it against the KL theory.

    Use it on a nonconvex penalty (`penalties.L0`: iterative hard thresholding) to see whether a run is long enough to
    show its rate. Cost: `steps` steps of `ProximalGradient`.

    Parameters
    ----------
    problem
        A `Composite` whose smooth term knows its Lipschitz constant L.
    x0
        The start.
    steps
        How many, at least 4.
    exponent
        The KL exponent θ in [0, 1) of F: known from theory, not estimated here.
    step_size
        t < 1/L; 0.9/L if left out.

    Returns
    -------
    Solution
        ``value`` is the last point. ``stats``: ``path_length``, ``decrease`` (the least ratio seen, against a),
        ``subgradient`` (the largest ratio seen, against b), ``rate_class`` (what θ predicts), ``observed`` (what the
        run shows: "finite", "linear", "sublinear"), ``factor`` (of the linear rate; NaN where it is not).
        ``history``: ``objective``, ``move``, ``residual``, ``path``.

    Raises
    ------
    InputError
        For a step that is not below 1/L, an exponent outside [0, 1), a smooth term that does not know L.

    Notes
    -----
    Certificates: ``sufficient_decrease`` and ``subgradient_bound`` (theorem, one claim per step); ``class`` (monitor):
    where θ ≤ 1/2 the moves fall by a factor below 1, else as a power of k; ``path`` (estimate): the length so far, and
    as its error what a geometric tail would add.

    Examples
    --------
    >>> from corollary.optim import LeastSquares, penalties
    >>> problem = Composite(LeastSquares([[2.0, 0.5], [0.5, 1.0]], [2.0, 0.3]), penalties.L0(0.1))
    >>> run = kl_proximal_rate(problem, [1.0, 1.0], 40)
    >>> str(run.stats["rate_class"]), str(run.stats["observed"]), bool(run.holds.all())
    ('linear', 'linear', True)
    """
    composite(problem)
    x0 = finite("x0", x0)
    validation.integer(4)("steps", steps)
    validation.number(0.0, 1.0)("exponent", exponent)
    if exponent >= 1:
        raise InputError(f"exponent: found {exponent!r}, expected a number in [0, 1)")
    known = problem.smooth.lipschitz()
    if known is None:
        raise InputError("problem: found a smooth term without a Lipschitz constant, expected one that knows L")
    L = like(known, x0)
    if step_size is not None:
        at_least_zero("step_size", step_size, positive=True)
        if bool(like(step_size, x0) * L >= 1):
            raise InputError(f"step_size: found {step_size!r}, expected less than 1/L = {1 / float(L):.6g}")
    t = 0.9 / L if step_size is None else like(step_size, x0)

    solver = ProximalGradient(step_size=t)

    def body(state, _):
        new, info = solver.step(problem, state)
        return new, (info.objective, norm(optax.tree.sub(new.x, state.x)), info.residual, info.floor)

    last, (objective, move, residual, floor) = jax.lax.scan(body, solver.init(problem, x0), length=steps)
    start = problem.objective(x0)
    before = jnp.concatenate([start[None], objective[:-1]])
    a, b = (1 / t - L) / 2, 1 / t + L
    noise = rounding(jnp.abs(start) + jnp.abs(objective), 16.0)
    moved = move > 64 * jnp.finfo(move.dtype).eps * norm(last.x)
    safe = jnp.where(moved, move, 1)
    convex = Assumption("∇f L-Lipschitz, for the L that the smooth term gives, t < 1/L")
    certificates = {
        "sufficient_decrease": Certificate(
            "a‖x_{k+1} − x_k‖² <= F(x_k) − F(x_{k+1})", a * move**2, before - objective + noise, "theorem", SOURCE,
            assumptions=(convex,),
        ),
        "subgradient_bound": Certificate(
            "dist(0, ∂F(x_{k+1})) <= b‖x_{k+1} − x_k‖", residual, b * move + 4 * floor, "theorem", SOURCE,
            assumptions=(convex,),
        ),
    }  # fmt: skip
    observed, factor, tail = _observed(np.asarray(move), np.asarray(moved))
    predicted = "finite" if exponent == 0 else "linear" if exponent <= 0.5 else "sublinear"
    order = ["finite", "linear", "sublinear"]
    certificates["class"] = Certificate(
        "the run is at least as fast as the exponent predicts (0: finite, 1: linear, 2: sublinear)",
        float(order.index(observed)),
        float(order.index(predicted)),
        "monitor",
        "Attouch & Bolte (2009), theorem 2",
        assumptions=(Assumption(f"F has the KL property with exponent {exponent:g} at the limit"),),
    )
    length = jnp.sum(move)
    certificates["path"] = Certificate(
        "length of the path", length, None, "estimate", "Attouch, Bolte & Svaiter (2013), theorem 2.9", stderr=tail
    )
    stats = {
        "path_length": length,
        "decrease": jnp.min(jnp.where(a * move**2 > 64 * noise, (before - objective) / safe**2, jnp.inf)),
        "subgradient": jnp.max(jnp.where(moved, residual / safe, 0.0)),
        "decrease_bound": a,
        "subgradient_constant": b,
        "rate_class": Note(predicted),
        "observed": Note(observed),
        "factor": factor,
    }
    history = {"objective": objective, "move": move, "residual": residual, "path": jnp.cumsum(move)}
    return Solution(last.x, certificates, 0, steps, stats, history)


def _observed(move: np.ndarray, moved: np.ndarray) -> tuple[str, float, float]:
    """The class that the moves show, the factor of a linear one, and what a geometric tail would add to the path."""
    if move[-1] == 0 and np.count_nonzero(move) < 8:
        return "finite", 0.0, 0.0
    usable = move[: int(np.argmin(moved))] if not moved.all() else move
    if usable.size < 8:
        return "finite", 0.0, float(usable[-1]) if usable.size else 0.0
    fit = fit_convergence(usable)
    if fit.model == "sublinear":
        return "sublinear", float("nan"), float("inf")
    factor = fit.parameter if fit.model == "linear" else 0.0
    return "linear", factor, float(usable[-1] * factor / max(1 - factor, np.finfo(float).eps))
