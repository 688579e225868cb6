"""The non-monotone line search of Grippo, Lampariello and Lucidi: Armijo's condition against the largest recent value.

f(x + tp) ≤ max of the last M values + c·t·⟨∇f(x), p⟩. M = 1 is Armijo's rule. A step that is right for the next steps,
though f rises for now, is not cut short: Barzilai-Borwein and spectral steps live from it.
Cost: one evaluation of f and its slope per trial. Source: Grippo, Lampariello & Lucidi, "A nonmonotone line search
technique for Newton's method" (1986), section 3.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._smooth import Differentiable, SmoothTerm
from corollary.optim._tree import at_least_zero, dtype, finite, like
from corollary.optim.penalties._base import Scalar
from corollary.optim.smooth._line_search import Search, armijo, evaluate, line

GLL = "Grippo, Lampariello & Lucidi (1986), section 3"


@follows_input
def nonmonotone_line_search(
    f: Any, x: Any, direction: Any, recent: Any = None, *, step: Any = 1.0, c1: Any = 1e-4, max_trials: int = 60
) -> Solution:
    """A step t ≤ `step` along p with f(x + tp) ≤ max(recent) + c₁·t·⟨∇f(x), p⟩.

    Parameters
    ----------
    f
        A differentiable function, or a smooth term.
    x, direction
        A point and a descent direction p of the same shape.
    recent
        The last M values of f, f(x) among them; f(x) alone, Armijo's rule, if left out.
    step
        The first trial.
    c1
        In (0, 1/2).
    max_trials
        Limit of evaluations.

    Returns
    -------
    Solution
        ``value`` is the point x + tp; ``stats`` hold ``step``, ``objective``, ``reference`` (the largest recent value)
        and ``evaluations``. Where p is not downhill, or no step helps, t = 0 and the status says so.

    Raises
    ------
    InputError
        For shapes that differ, values that are not finite and constants out of range.

    Notes
    -----
    Certificate ``decrease`` (exact): the condition, with the rounding of f. Source: Grippo, Lampariello & Lucidi
    (1986), section 3.

    Examples
    --------
    >>> one = nonmonotone_line_search(lambda x: (x**2).sum(), [1.0, 1.0], [-4.0, -4.0])
    >>> one.value.round(6).tolist(), bool(one.holds)
    ([0.0, 0.0], True)
    """
    x, direction = finite("x", x), finite("direction", direction)
    if not callable(f) and not isinstance(f, SmoothTerm):
        raise InputError(f"f: found {type(f).__name__}, expected a function or a smooth term")
    if [leaf.shape for leaf in map(jnp.asarray, jax.tree.leaves(x))] != [
        d.shape for d in map(jnp.asarray, jax.tree.leaves(direction))
    ]:
        raise InputError("direction: found other shapes than those of x, expected the same")
    at_least_zero("step", step, positive=True)
    if isinstance(c1, float | int):
        validation.number(0.0, 0.5, open_low=True)("c1", c1)
    validation.integer(1)("max_trials", max_trials)
    smooth = f if isinstance(f, SmoothTerm) else Differentiable(f)
    c1 = like(c1, x)
    values = None if recent is None else validation.vector("recent", recent).astype(dtype(x))
    direction = optax.tree.cast(direction, dtype(x))
    value, search, reference, slope = _search(smooth, x, direction, values, like(step, x), c1, max_trials)
    trial = search.trial
    bound = reference + c1 * trial.step * slope + rounding(jnp.abs(reference) + jnp.abs(trial.value), 4.0)
    certificate = Certificate("f(x + tp) <= max(recent) + c₁·t·⟨∇f, p⟩", trial.value, bound, "exact", GLL)
    status = jnp.where(search.ok, Status.CONVERGED, Status.PRECISION).astype(jnp.int32)
    stats = {
        "step": trial.step,
        "objective": trial.value,
        "reference": reference,
        "evaluations": search.evaluations,
    }
    return Solution(value, {"decrease": certificate}, status, search.evaluations, stats)


@eqx.filter_jit
def _search(
    smooth: SmoothTerm,
    x: PyTree,
    direction: PyTree,
    recent: Float[Array, " m"] | None,
    step: Scalar,
    c1: Scalar,
    max_trials: int,
) -> tuple[PyTree, Search, Scalar, Scalar]:
    point = evaluate(smooth, x)
    reference = point.value if recent is None else jnp.maximum(jnp.max(recent), point.value)
    along = line(smooth, point, direction)
    search = armijo(smooth, along, step, c1=c1, reference=reference, max_trials=max_trials)
    return along.point(search.trial.step), search, reference, along.start.slope


def remember(recent: Float[Array, " m"], count: Int[Array, ""], value: Scalar) -> Float[Array, " m"]:
    """The last M values with a new one in the place of the oldest; it starts full of the first."""
    return recent.at[count % recent.shape[0]].set(value)
