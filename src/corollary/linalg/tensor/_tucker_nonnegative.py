"""Nonnegative Tucker decomposition: factors and core without a negative entry, by block coordinate descent.

Factors are updated column by column (HALS: the exact minimiser of each column), the core by accelerated projected
gradient steps, of which the best is kept; missing entries are filled from the model before each sweep. No step raises
the misfit. The columns have unit length, so that gradients have a scale. Cost: d + 2 passes over the tensor a sweep.

Source: Cichocki & Phan, IEICE Trans. Fundamentals E92-A (2009) 708 (HALS); Xu & Yin, SIAM J. Imaging Sci. 6 (2013),
§2; Beck & Teboulle, SIAM J. Imaging Sci. 2 (2009), §4.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from corollary.core.certificate import Certificate
from corollary.core.solution import Note, Solution, Status
from corollary.linalg.tensor._formats import Tucker
from corollary.linalg.tensor._tucker_certificates import floor
from corollary.linalg.tensor._tucker_modes import calm, expand, leading, machine_eps, multiply, project, rows, square

# Within a sweep: both are cheap beside a pass over the tensor.
INNER = 10  # gradient steps on the core
PASSES = 3  # over the columns of a factor


class _Run(NamedTuple):
    factors: tuple[Any, ...]
    core: Any
    dense: Any
    misfit: Any
    gradient: Any
    rise: Any
    steps: Any
    history: Any


def nonnegative_tucker(
    X: Any, seen: Any, ranks: tuple[int, ...], accuracy: Any, max_steps: Any, recorded: int
) -> Solution:
    """`tucker(nonnegative=True)` on checked, scaled data; the errors of the first `recorded` sweeps are kept."""
    if isinstance(X, np.ndarray):
        return _solve(X, seen, accuracy, max_steps, ranks, recorded, np)
    return _compiled(X, seen, accuracy, max_steps, ranks, recorded)


@functools.partial(jax.jit, static_argnames=("ranks", "recorded"))
def _compiled(X: Any, seen: Any, accuracy: Any, max_steps: Any, ranks: tuple[int, ...], recorded: int) -> Solution:
    return _solve(X, seen, accuracy, max_steps, ranks, recorded, jnp)


def _solve(
    X: Any, seen: Any, accuracy: Any, max_steps: Any, ranks: tuple[int, ...], recorded: int, xp: Any
) -> Solution:
    total = square(X, xp)
    total = xp.where(total > 0, total, 1)
    limit = xp.maximum(accuracy, floor(X))
    factors, core = _start(X, seen, ranks, xp)
    dense = expand(core, factors)
    number: Any = float if xp is np else lambda x: jnp.asarray(x, X.dtype)
    history = xp.full(recorded, np.nan, X.dtype)
    misfit = square(_gap(X, seen, dense, xp), xp) / total
    run = _Run(factors, core, dense, number(misfit), number(np.inf), number(0), xp.asarray(0), history)

    def going(run: _Run) -> Any:
        return (run.steps < max_steps) & ~(run.gradient <= limit)

    def body(run: _Run) -> _Run:
        filled = X if seen is None else xp.where(seen, X, run.dense)
        factors, core, gradient = _sweep(filled, run.factors, run.core, total, xp)
        dense = expand(core, factors)
        misfit = square(_gap(X, seen, dense, xp), xp) / total
        trace = xp.where(xp.arange(recorded) == run.steps, xp.sqrt(misfit), run.history).astype(X.dtype)
        rise = xp.maximum(run.rise, misfit - run.misfit)
        return _Run(factors, core, dense, number(misfit), number(gradient), number(rise), run.steps + 1, trace)

    if xp is np:
        while going(run):
            run = body(run)
    else:
        run = jax.lax.while_loop(going, body, run)
    filled = X if seen is None else xp.where(seen, X, run.dense)
    at_end = _stationarity(filled, run.factors, run.core, total, xp)
    certificates = {
        "nonnegative": Certificate(
            "no entry of the core or of a factor is negative",
            measured=functools.reduce(xp.maximum, [xp.max(-part) for part in (run.core, *run.factors)]),
            bound=0.0,
            kind="exact",
            source="projections",
        ),
        "fit": Certificate("relative error over the observed entries", measured=xp.sqrt(run.misfit), kind="estimate"),
        "monotone": Certificate(
            "largest rise of ‖X − T‖²/‖X‖² at a sweep is rounding",
            measured=run.rise,
            bound=floor(X),
            kind="monitor",
            source="Cichocki & Phan (2009); descent lemma, Beck & Teboulle (2009), Lemma 2.3",
        ),
        "stationarity": Certificate(
            "‖projected gradient‖ <= accuracy ‖X‖², for factors with unit columns",
            measured=at_end,
            bound=limit,
            kind="monitor",
            source="Xu & Yin (2013), §2",
        ),
    }
    method = Note("HALS for the factors, accelerated projected gradients for the core")
    stats = {"relative_error": xp.sqrt(run.misfit), "method": method}
    status = Status.of(at_end <= limit, xp.isfinite(run.misfit))
    value = Tucker(run.core, run.factors)
    return Solution(value, certificates, status, run.steps, stats, {"relative_error": run.history})


def _gap(X: Any, seen: Any, dense: Any, xp: Any) -> Any:
    """What the model misses of the observed entries."""
    return X - dense if seen is None else xp.where(seen, X - dense, xp.zeros((), X.dtype))


def _start(X: Any, seen: Any, ranks: tuple[int, ...], xp: Any) -> tuple[tuple[Any, ...], Any]:
    """Absolute values of the leading vectors of each unfolding; the core's positive part, at its best scale."""
    filled = X if seen is None else xp.where(seen, X, xp.sum(X) / xp.sum(seen).astype(X.dtype))
    found = [xp.abs(leading(rows(filled, k, xp), r, xp)[0]) for k, r in enumerate(ranks)]
    factors = tuple(_unit(U, xp)[0] for U in found)
    core = xp.maximum(project(filled, factors), 0)
    image = _normal(core, factors)
    length = xp.sum(core * image)
    safe = xp.where(length > 0, length, xp.ones_like(length))
    return factors, core * xp.where(length > 0, xp.sum(core * core) / safe, xp.zeros_like(length))


def _unit(U: Any, xp: Any) -> tuple[Any, Any]:
    """Columns of unit length and their lengths; a zero column stays, with length one."""
    lengths = xp.linalg.norm(U, axis=0)
    lengths = xp.where(lengths > 0, lengths, xp.ones_like(lengths))
    return U / lengths, lengths


def _normal(core: Any, factors: tuple[Any, ...]) -> Any:
    """G ×_k U_kᵀU_k."""
    return expand(core, [U.T @ U for U in factors])


def _system(X: Any, factors: Any, core: Any, mode: int, xp: Any) -> tuple[Any, Any]:
    """A and M of the mode's least squares problem ½⟨U, U M⟩ − ⟨U, A⟩."""
    G = rows(core, mode, xp)
    others = [None if k == mode else U.T @ U for k, U in enumerate(factors)]
    return rows(project(X, factors, skip=(mode,)), mode, xp) @ G.T, rows(expand(core, others), mode, xp) @ G.T


def _mapping(U: Any, gradient: Any, curvature: Any, xp: Any) -> tuple[Any, Any]:
    """The projected gradient step of length 1/L, and ‖L (U − step)‖², which vanishes at a stationary point only."""
    safe = xp.where(curvature > 0, curvature, xp.ones_like(curvature))
    moved = xp.maximum(U - gradient / safe, 0)
    return moved, square(safe * (U - moved), xp)


def _top(M: Any, xp: Any) -> Any:
    """‖M‖₂ of a symmetric matrix, a rounding above."""
    with calm(M, xp):
        top = xp.linalg.eigvalsh(M)[-1]
    return top * (1 + 64 * machine_eps(M))


def _sweep(X: Any, factors: tuple[Any, ...], core: Any, total: Any, xp: Any) -> tuple[tuple[Any, ...], Any, Any]:
    """One update of every factor and of the core; the projected gradient met on the way."""
    found, gradient = list(factors), xp.zeros((), X.dtype)
    for mode in range(X.ndim):
        A, M = _system(X, found, core, mode, xp)
        _, missed = _mapping(found[mode], found[mode] @ M - A, _top(M, xp), xp)
        gradient = gradient + missed
        U, lengths = _unit(_hals(found[mode], A, M, xp), xp)
        found[mode], core = U, multiply(core, xp.diag(lengths), mode)
    target, curvature = project(X, found), math.prod([_top(U.T @ U, xp) for U in found])
    curvature = xp.asarray(curvature, X.dtype)
    gradient = gradient + _mapping(core, _normal(core, tuple(found)) - target, curvature, xp)[1] * total
    core = _core_steps(core, tuple(found), target, curvature, xp)
    return tuple(found), core, xp.sqrt(gradient) / total


def _core_steps(core: Any, factors: tuple[Any, ...], target: Any, curvature: Any, xp: Any) -> Any:
    """FISTA on ½⟨G, G ×_k U_kᵀU_k⟩ − ⟨G, X ×_k U_kᵀ⟩ over G >= 0; the best of its points, no worse than `core`."""
    value = lambda G: xp.sum(G * (_normal(G, factors) / 2 - target))  # noqa: E731

    def step(_: Any, state: Any) -> Any:
        best, least, here, point, t = state
        new, _ = _mapping(point, _normal(point, factors) - target, curvature, xp)
        longer = (1 + xp.sqrt(1 + 4 * t * t)) / 2
        found = value(new)
        best, least = xp.where(found < least, new, best), xp.minimum(least, found)
        return best, least, new, new + (t - 1) / longer * (new - here), longer

    state = core, value(core), core, core, xp.ones((), core.dtype)
    return _repeat(INNER, step, state, xp)[0]


def _repeat(times: int, step: Any, state: Any, xp: Any) -> Any:
    """`step(i, state)` so many times."""
    if xp is not np:
        return jax.lax.fori_loop(0, times, step, state)
    for i in range(times):
        state = step(i, state)
    return state


def _hals(U: Any, A: Any, M: Any, xp: Any) -> Any:
    """Each column in turn at its minimiser over the nonnegative ones; a column without weight stays."""

    def column(j: Any, U: Any) -> Any:
        weight = M[j, j]
        safe = xp.where(weight > 0, weight, xp.ones_like(weight))
        new = xp.maximum(U[:, j] + xp.where(weight > 0, (A[:, j] - U @ M[:, j]) / safe, xp.zeros_like(weight)), 0)
        if xp is np:
            U[:, j] = new
            return U
        return U.at[:, j].set(new)

    U = U.copy()
    return _repeat(PASSES * U.shape[1], lambda i, U: column(i % U.shape[1], U), U, xp)


def _stationarity(X: Any, factors: tuple[Any, ...], core: Any, total: Any, xp: Any) -> Any:
    """The projected gradient in all blocks at one point."""
    gradient = xp.zeros((), X.dtype)
    for mode, U in enumerate(factors):
        A, M = _system(X, factors, core, mode, xp)
        gradient = gradient + _mapping(U, U @ M - A, _top(M, xp), xp)[1]
    curvature = xp.asarray(math.prod([_top(U.T @ U, xp) for U in factors]), X.dtype)
    step = _mapping(core, _normal(core, factors) - project(X, factors), curvature, xp)[1]
    return xp.sqrt(gradient + step * total) / total
