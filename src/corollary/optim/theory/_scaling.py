"""Scaling an objective by c > 0 moves its minimum value and nothing else: argmin cf = argmin f, min cf = c·min f.

A solver should know that as well: its tolerances are relative, so that it takes the same steps. c < 0 turns minima into
maxima. Cost: two runs. Source: Rockafellar & Wets, "Variational Analysis" (1998), section 1.A.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._minimize import minimize
from corollary.optim._smooth import Differentiable
from corollary.optim._tree import finite, like, norm


class Scaled(eqx.Module):
    """c·f, with c traced."""

    function: Any
    factor: Any

    def __call__(self, x: PyTree) -> Any:
        """c·f(x)."""
        value = self.function(x)
        return jnp.asarray(self.factor).astype(value.dtype) * value


@follows_input
def optimum_scaling(
    f: Any, x0: Any, factor: Any, *, solver: Any = "auto", tol: Any = 1e-8, max_steps: int = 10_000
) -> Solution:
    """The minimisers of f and of c·f, side by side.

    Parameters
    ----------
    f
        Differentiable function of an array or pytree.
    x0
        The start of both runs.
    factor
        c; a negative one turns minima into maxima, and its certificates fail.
    solver, tol, max_steps
        As for `minimize`.

    Returns
    -------
    Solution
        ``value`` is the pair (argmin f, argmin cf); ``stats`` hold ``minima`` (min f, min cf) and ``steps`` of both.

    Raises
    ------
    InputError
        For c = 0, which has every point for a minimiser.

    Notes
    -----
    Certificates (monitor): ``argmin``, f at the second point against f at the first; ``minimum``, min cf against c·min
    f; both to within what `tol` leaves, ε‖∇f(x0)‖·‖x − x0‖. Source: Rockafellar & Wets (1998), section 1.A.

    Examples
    --------
    >>> both = optimum_scaling(lambda x: ((x - 1) ** 2).sum(), [3.0, 0.0], 1e6)
    >>> both.value[1].round(6).tolist(), bool(both.holds)
    ([1.0, 1.0], True)
    """
    if isinstance(factor, float | int):
        validation.number()("factor", factor)
        if factor == 0:
            raise InputError("factor: found 0, expected another number (every point minimises 0·f)")
    x0 = finite("x0", x0)
    c = like(factor, x0)
    runs = [minimize(Scaled(f, scale), x0, solver, tol=tol, max_steps=max_steps) for scale in (jnp.ones_like(c), c)]
    first, second = (run.value for run in runs)
    low, at_second = f(first), f(second)
    scaled = runs[1].stats["objective"]
    gradient = Differentiable(f).gradient(x0)
    reach = norm(optax.tree.sub(first, x0)) + norm(optax.tree.sub(second, x0))
    allowed = like(tol, x0) * norm(gradient) * reach + rounding(jnp.abs(low) + jnp.abs(f(x0)), 16.0)
    source = "Rockafellar & Wets (1998), section 1.A"
    certificates = {
        "argmin": Certificate("f(argmin cf) = min f", jnp.abs(at_second - low), allowed, "monitor", source),
        "minimum": Certificate("min cf = c·min f", jnp.abs(scaled - c * low), jnp.abs(c) * allowed, "monitor", source),
    }
    status = jnp.maximum(jnp.asarray(runs[0].status), jnp.asarray(runs[1].status)).astype(jnp.int32)
    stats = {"minima": (low, scaled), "steps": (runs[0].steps, runs[1].steps)}
    return Solution((first, second), certificates, status, runs[0].steps + runs[1].steps, stats)
