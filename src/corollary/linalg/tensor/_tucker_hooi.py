"""HOOI: alternating updates of Tucker's factors until their gradient vanishes, on whole or on incomplete tensors.

Each update takes the leading subspace of the tensor projected on the other factors, so the captured ‖G‖² never falls.
Missing entries are filled from the model before every sweep (expectation-maximisation), so the misfit over the observed
entries never rises. Cost: two passes over the tensor a sweep, 2 r N flops each; a masked sweep needs five.

Source: De Lathauwer, De Moor & Vandewalle, SIMAX 21 (2000) 1324, Algorithm 4.2; Kiers, Psychometrika 62 (1997).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from corollary.linalg.tensor._tucker_modes import Factors, adjoint, expand, leading, multiply, project, rows, square


class Run(NamedTuple):
    """Where HOOI stands: the model, what the next sweep needs, and what was observed on the way."""

    factors: Factors
    core: Any
    carried: Any  # X ×_last Uᴴ, or the filled tensor under a mask
    misfit: Any  # squared error over ‖X‖²
    stationarity: Any  # ‖gradient‖ over ‖X‖²
    rise: Any  # largest rise of the misfit at a sweep
    steps: Any
    history: Any  # relative error after each sweep


def hooi(X: Any, seen: Any, factors: Factors, core: Any, accuracy: Any, max_steps: Any, recorded: int) -> Run:
    """Sweeps until the stationarity is within `accuracy`, or `max_steps` of them; at least one.

    The errors of the first `recorded` sweeps are kept.
    """
    if isinstance(X, np.ndarray):
        return _sweeps(X, seen, factors, core, accuracy, max_steps, recorded, np)
    return _compiled(X, seen, factors, core, accuracy, max_steps, recorded)


@functools.partial(jax.jit, static_argnames="recorded")
def _compiled(X: Any, seen: Any, factors: Factors, core: Any, accuracy: Any, max_steps: Any, recorded: int) -> Run:
    return _sweeps(X, seen, factors, core, accuracy, max_steps, recorded, jnp)


def _sweeps(
    X: Any, seen: Any, factors: Factors, core: Any, accuracy: Any, max_steps: Any, recorded: int, xp: Any
) -> Run:
    real = xp.zeros(1, X.dtype).real.dtype
    number: Callable[[Any], Any] = float if xp is np else lambda x: jnp.asarray(x, real)
    total = square(X, xp)
    total = xp.where(total > 0, total, 1)
    if seen is None:
        carried = X if factors[-1] is None else multiply(X, adjoint(factors[-1]), X.ndim - 1)
        misfit = 1 - square(core, xp) / total
    else:
        dense = expand(core, factors)
        carried = xp.where(seen, X, dense)
        misfit = square(xp.where(seen, X - dense, 0), xp) / total
    history = xp.full(recorded, np.nan, real)
    run = Run(factors, core, carried, number(misfit), number(np.inf), number(0), xp.asarray(0), history)

    def going(run: Run) -> Any:
        return (run.steps < max_steps) & ~(run.stationarity <= accuracy)

    def body(run: Run) -> Run:
        done = _whole(X, run, total, xp) if seen is None else _masked(X, seen, run, total, xp)
        factors, core, carried, misfit, gradient = done
        error = xp.sqrt(xp.maximum(misfit, 0))
        history = xp.where(xp.arange(recorded) == run.steps, error, run.history).astype(real)
        rise = xp.maximum(run.rise, misfit - run.misfit)
        stationarity = xp.sqrt(gradient) / total
        return Run(factors, core, carried, number(misfit), number(stationarity), number(rise), run.steps + 1, history)

    if xp is not np:
        return jax.lax.while_loop(going, body, run)
    while going(run):
        run = body(run)
    return run


def _sweep(X: Any, carried: Any, factors: Factors, xp: Any) -> tuple[Factors, Any]:
    """One update of every factor, given X ×_last Uᴴ; and the core."""
    last, found = X.ndim - 1, list(factors)
    for mode in range(last):
        if found[mode] is not None:
            Y = project(carried, found, skip=(mode, last))
            found[mode] = leading(rows(Y, mode, xp), found[mode].shape[1], xp)[0]
    core = project(X, found, skip=(last,))
    if found[last] is not None:
        found[last] = leading(rows(core, last, xp), found[last].shape[1], xp)[0]
        core = multiply(core, adjoint(found[last]), last)
    return tuple(found), core


def _whole(X: Any, run: Run, total: Any, xp: Any) -> tuple[Any, ...]:
    """A sweep on a tensor without gaps. The last factor has just been solved for: its gradient is zero."""
    last = X.ndim - 1
    factors, core = _sweep(X, run.carried, run.factors, xp)
    carried = X if factors[last] is None else multiply(X, adjoint(factors[last]), last)
    gradient = xp.zeros((), core.real.dtype)
    for mode in range(last):
        if factors[mode] is not None:
            G = rows(core, mode, xp)
            lost = rows(project(carried, factors, skip=(mode, last)), mode, xp) - factors[mode] @ G
            gradient = gradient + square(lost @ adjoint(G), xp)
    return factors, core, carried, 1 - square(core, xp) / total, gradient


def _masked(X: Any, seen: Any, run: Run, total: Any, xp: Any) -> tuple[Any, ...]:
    """A sweep on the filled tensor; then the residual over the observed entries is the gradient in all unknowns."""
    last = X.ndim - 1
    start = run.carried if run.factors[last] is None else multiply(run.carried, adjoint(run.factors[last]), last)
    factors, core = _sweep(run.carried, start, run.factors, xp)
    dense = expand(core, factors)
    residual = xp.where(seen, X - dense, xp.zeros((), X.dtype))
    gradient = square(project(residual, factors), xp) * total  # in the core: one power of ‖X‖ less
    for mode, U in enumerate(factors):
        if U is not None:
            R = rows(project(residual, factors, skip=(mode,)), mode, xp)
            gradient = gradient + square((R - U @ (adjoint(U) @ R)) @ adjoint(rows(core, mode, xp)), xp)
    return factors, core, xp.where(seen, X, dense), square(residual, xp) / total, gradient
