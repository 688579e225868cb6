"""The one driver of the room: it owns the loop, the stopping rule, the best answer so far and the bar.

It stops on a certificate: the duality gap F(x) − D(θ) relative to f(0) where the dual is known, else the stationarity
residual dist(0, ∂F(x)) relative to the size of the two terms that cancel in it. Both are free of scale, and each
carries its own rounding. Cost: `max_steps` steps of the solver at most.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Bool, Int, PyTree

from corollary.core import progress, validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.optim import _in_order
from corollary.optim._composite import Composite
from corollary.optim._implicit import Hoisted, attach, closes_over_tracers, has_optimality, join, split
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._smooth import Differentiable
from corollary.optim._tree import dtype, finite, like, norm
from corollary.optim.penalties._base import Scalar

WEAK_DUALITY = "weak duality: Rockafellar, Convex Analysis (1970), theorem 31.2"
FERMAT = "Fermat's rule: Rockafellar & Wets, Variational Analysis (1998), theorem 10.1"


@follows_input
def minimize(
    problem: Any,
    x0: Any = None,
    solver: Any = "auto",
    *,
    tol: Any = 1e-6,
    max_steps: int = 10_000,
    history: bool = False,
    reference: Any = None,
    verbose: bool = False,
    differentiate: str = "implicit",
) -> Solution:
    """Minimise f(x) + h(x) to a certified accuracy.

    Use it for a smooth loss plus a penalty or constraint that has a prox. Cost: one product with A and one with
    Aᵀ a step. It can be jitted and vmapped, with the data, the penalty's weights and the settings as traced values.

    Parameters
    ----------
    problem
        A problem of this room (`Composite`), or a differentiable function, to be minimised as it is.
    x0
        Where to start, an array or pytree; the origin if left out (where the problem knows its shape).
    solver
        ``"auto"``: what the problem names as its default (``stats["solver"]`` says what and why); or a solver.
    tol
        Relative accuracy: of the duality gap, to f(0) (½‖b‖² for least squares, n log 2 for the logistic loss); or of
        the stationarity residual, to the gradient's size at the start or now, whichever is larger.
    max_steps
        Limit of steps.
    history
        Record ``objective``, ``duality_gap`` or ``residual``, and with a `reference` also ``suboptimality`` and
        ``rate_bound``, per step; `Solution.plot` draws them.
    reference
        A minimiser x*, if one is at hand: the theorem's rate is then held against the run.
    verbose
        Show a bar.
    differentiate
        Where the call is differentiated by what the problem holds (data, weights, arrays that its function closes
        over): ``"implicit"``, through the optimality condition of the answer: one linear solve, both modes, no memory
        of the run; the start and the solver's settings have derivative 0. ``"unroll"``: through all `max_steps` steps,
        as a scan of that length, the start and the settings included; in reverse mode the solver must not search for
        its step. ``value`` and ``stats["objective"]`` carry the derivative, certificates do not. A problem without an
        ``optimality`` differentiates through the loop, in forward mode only.

    Returns
    -------
    Solution
        ``value`` is the best point met (also after an interrupt, or where the run left the finite numbers);
        ``stats`` holds ``objective``, ``step_size``, ``lower_bound`` (where known), ``solver`` and ``stopping`` notes.

    Raises
    ------
    InputError
        For an `x0` that is missing or not finite, and settings out of range.

    Notes
    -----
    Certificates: ``duality_gap`` (exact), F(x) − F* ≤ gap; or ``stationarity`` (monitor), dist(0, ∂F(x)); and with a
    `reference` ``rate`` (theorem), F(x_k) − F* against L‖x0 − x*‖²/(2k) or 2L‖x0 − x*‖²/(k + 1)².

    Examples
    --------
    >>> from corollary.optim import Composite, LeastSquares, penalties
    >>> problem = Composite(LeastSquares([[1.0, 0.0], [0.0, 2.0]], [2.0, 1.0]), penalties.L1(0.5))
    >>> solution = minimize(problem, tol=1e-10)
    >>> solution.value.round(4).tolist(), bool(solution.converged), bool(solution.holds)
    ([1.5, 0.375], True, True)
    """
    if not isinstance(problem, Problem):
        if not callable(problem):
            raise InputError(f"problem: found {type(problem).__name__}, expected a problem or a function")
        problem = Composite(problem)
    if not isinstance(tol, Tracer):
        validation.number(0.0, 1e300)("tol", float(tol) if isinstance(tol, jax.Array) else tol)
    validation.integer(1)("max_steps", max_steps)
    for name, value in (("history", history), ("verbose", verbose)):
        validation.flag(name, value)
    validation.one_of("implicit", "unroll")("differentiate", differentiate)
    x0 = _start_point(problem, x0)
    problem = _hoisted(problem, x0)
    if reference is not None:
        reference = optax.tree.cast(finite("reference", reference), dtype(x0))
        if jax.tree.map(jnp.shape, reference) != jax.tree.map(jnp.shape, x0):
            raise InputError("reference: found other shapes than those of x0, expected the same")
    solver, why = _choose(problem, solver)

    dynamic, static = split((problem, solver))
    dynamic = [jnp.asarray(d) if isinstance(d, np.ndarray) else d for d in dynamic]  # copied once, not at every call
    tol = like(tol, x0)
    given, traced = dynamic, _traced((dynamic, x0, reference, tol))
    implicit = traced and differentiate == "implicit" and has_optimality(problem)
    if implicit:  # the run itself is not differentiated: where only `grad` traces, it is the ordinary one
        dynamic, x0, reference, tol = jax.tree.map(_constant, (dynamic, x0, reference, tol))
    run = _start(dynamic, x0, reference, static, max_steps if history else 0)
    if traced and differentiate == "unroll":
        run, interrupted = _unroll(dynamic, run, tol, static, max_steps), False
    else:
        run, interrupted = _drive(dynamic, run, tol, static, max_steps, verbose)
    notes = {"solver": Note(f"{type(solver).__name__}: {why}")}
    if interrupted:
        notes["interrupted"] = Note("interrupted: the best point so far")
    solution = _finish(dynamic, run, tol, static, tuple(sorted((k, v.text) for k, v in notes.items())))
    if not implicit:
        return solution
    value, objective = attach(static, solution.value, solution.stats["objective"], run.last.step, given)
    return eqx.tree_at(lambda s: (s.value, s.stats["objective"]), solution, (value, objective))


class Run(eqx.Module):
    """The driver's carry: the solver's state, the best answer so far, and the flags. Success is a flag, not a count."""

    state: Any
    best: PyTree
    objective: Scalar  # at `best`
    merit: Scalar  # of `best`: what the best is judged by
    violation: Scalar  # of `best`: its gap, or its residual
    threshold: Scalar  # what the violation has to come down to, rounding included
    lower: Scalar  # the best lower bound so far
    first: Scalar  # the scale that the first step met
    last: Info
    steps: Int[Array, ""]
    converged: Bool[Array, ""]
    finite: Bool[Array, ""]
    stuck: Bool[Array, ""]
    reference: tuple[Scalar, Scalar] | None  # F(x*) and ‖x0 − x*‖
    history: dict[str, Array]


@partial(jax.jit, static_argnames=("static", "length"))
def _start(dynamic: list[Any], x0: PyTree, reference: PyTree | None, static: Hashable, length: int) -> Run:
    problem, solver = join(dynamic, static)
    state = solver.init(problem, x0)
    objective = problem.objective(x0)
    nowhere = jnp.full_like(objective, jnp.inf)
    _, info = jax.eval_shape(lambda: solver.step(problem, state))
    known = None
    if reference is not None:
        known = problem.objective(reference), norm(optax.tree.sub(x0, reference))
    names = ["objective", "step_size", "residual" if info.lower is None else "duality_gap", *info.extra]
    if reference is not None:
        rated = _rate(solver, problem, 1, jnp.ones_like(objective), nowhere) is not None
        names += ["suboptimality"] + (["rate_bound"] if rated else [])
    return Run(
        state=state,
        best=x0,
        objective=jnp.where(jnp.isnan(objective), jnp.inf, objective),
        merit=nowhere if info.merit is not None else jnp.where(jnp.isnan(objective), jnp.inf, objective),
        violation=nowhere,
        threshold=jnp.zeros_like(objective),
        lower=-nowhere,
        first=jnp.zeros_like(objective),
        last=jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), info),
        steps=jnp.int32(0),
        converged=jnp.array(False),
        finite=jnp.array(True),
        stuck=jnp.array(False),
        reference=known,
        history={name: jnp.full((length,), jnp.nan, objective.dtype) for name in names} if length else {},
    )


def _until(dynamic: list[Any], run: Run, tol: Scalar, until: Int[Array, ""], static: Hashable) -> Run:
    problem, solver = join(dynamic, static)

    def going(run: Run):
        return (run.steps < until) & ~run.converged & run.finite & ~run.stuck

    return jax.lax.while_loop(going, lambda run: _one_step(problem, solver, run, tol), run)


_advance = jax.jit(_until, static_argnames=("static",))
_advance_in_order = _in_order.jit(_until, static_argnames=("static",))


@partial(jax.jit, static_argnames=("static", "steps"))
def _unroll(dynamic: list[Any], run: Run, tol: Scalar, static: Hashable, steps: int) -> Run:
    """The same run as a scan of fixed length, which reverse mode can go back through."""
    problem, solver = join(dynamic, static)

    def body(run: Run, _: None) -> tuple[Run, None]:
        going = ~run.converged & run.finite & ~run.stuck
        return jax.lax.cond(going, lambda r: _one_step(problem, solver, r, tol, unroll=True), lambda r: r, run), None

    run, _ = jax.lax.scan(body, run, length=steps)
    return eqx.tree_at(lambda r: r.objective, run, problem.objective(run.best))


def _one_step(problem: Problem, solver: Solver, run: Run, tol: Scalar, *, unroll: bool = False) -> Run:
    state, info = solver.step(problem, run.state)
    if unroll:  # flags and bounds are not differentiated: an infinite bound times a zero would be a NaN
        info = jax.tree.map(jax.lax.stop_gradient, info)
    finite = jnp.isfinite(info.objective)
    for leaf in jax.tree.leaves(state.x):
        finite = finite & jnp.all(jnp.isfinite(leaf))
    merit = info.objective if info.merit is None else info.merit
    better = finite & (merit < run.merit)
    objective = jnp.where(better, info.objective, run.objective)

    if info.lower is None:
        lower, natural, violation = run.lower, info.gradient_scale, info.residual
        rounded = info.floor
    else:
        natural = _natural_scale(problem, objective)
        rounded = rounding(jnp.abs(objective) + natural, 16.0)
        # What is not finite, or above F itself, proves nothing.
        proves = jnp.isfinite(info.lower) & (info.lower <= info.objective + rounded)
        lower = jnp.where(proves, jnp.maximum(run.lower, info.lower), run.lower)
        violation = jnp.where(objective - lower >= -rounded, objective - lower, jnp.inf)  # a bound that F undercuts
    first = jnp.where(run.steps == 0, natural, run.first)
    threshold = tol * (first if info.from_start else jnp.maximum(first, natural)) + rounded
    converged = finite & (violation <= threshold) & jnp.isfinite(violation) & jnp.isfinite(threshold)
    if info.lower is None:  # a residual speaks of the point it was taken at
        better = better | converged
        objective = jnp.where(better, info.objective, run.objective)
        violation = jnp.where(better | ~jnp.isfinite(run.violation), violation, run.violation)

    values = {"objective": info.objective, "step_size": info.step, "residual": info.residual, **info.extra}
    values["duality_gap"] = objective - lower
    if run.reference is not None:
        values["suboptimality"] = info.objective - run.reference[0]
        bound = _rate(solver, problem, run.steps + 1, info.step, run.reference[1])
        values |= {} if bound is None else {"rate_bound": bound}
    return Run(
        state=state,
        best=optax.tree.where(better, state.x, run.best),
        objective=objective,
        merit=jnp.where(better, merit, run.merit),
        violation=violation,
        threshold=threshold,
        lower=lower,
        first=first,
        last=info,
        steps=run.steps + 1,
        converged=converged,
        finite=finite,
        stuck=jnp.array(False) if info.stuck is None else info.stuck & ~converged,
        reference=run.reference,
        history={name: series.at[run.steps].set(values[name]) for name, series in run.history.items()},
    )


@partial(jax.jit, static_argnames=("static", "notes"))
def _finish(
    dynamic: list[Any], run: Run, tol: Scalar, static: Hashable, notes: tuple[tuple[str, str], ...]
) -> Solution:
    problem, solver = join(dynamic, static)
    stats: dict[str, Any] = {name: Note(text) for name, text in notes}
    stats |= {"objective": run.objective, "step_size": run.last.step}
    if run.last.lower is None:
        stats["stopping"] = Note("stationarity residual")
        certificates = {
            "stationarity": Certificate(problem.claims()[0], run.violation, run.threshold, "monitor", FERMAT)
        }
    else:
        stats["stopping"] = Note("duality gap")
        stats["lower_bound"] = run.lower
        certificates = {
            "duality_gap": Certificate(problem.claims()[1], run.violation, run.threshold, "exact", WEAK_DUALITY)
        }
    bound = None
    if run.reference is not None:
        bound = _rate(solver, problem, run.steps, run.last.step, run.reference[1])
    if run.reference is not None and bound is not None:
        slack = rounding(jnp.abs(run.reference[0]) + jnp.abs(run.last.objective), 16.0)
        certificates["rate"] = Certificate(
            "F(x_k) − F* <= the theorem's rate",
            run.last.objective - run.reference[0],
            bound + slack,
            "theorem",
            solver.source(),
            assumptions=(Assumption("f and h convex, L = 1/step"), Assumption("the reference minimises F")),
        )
    certificates |= solver.certify(problem, run.state)
    stats |= solver.stats(problem, run.state)
    status = Status.of(run.converged, run.finite)
    status = jnp.where(run.stuck & run.finite, Status.PRECISION, status)
    unbounded = run.last.unbounded
    if unbounded is None:  # a merit other than F says that F need not fall
        unbounded = jnp.isneginf(run.last.objective) & (run.last.merit is None)
    status = jnp.where(unbounded, Status.UNBOUNDED, status).astype(jnp.int32)
    return Solution(run.best, certificates, status, run.steps, stats, run.history or None)


def _drive(
    dynamic: list[Any], run: Run, tol: Scalar, static: Hashable, max_steps: int, verbose: bool
) -> tuple[Run, bool]:
    """Call the compiled loop in chunks of a fraction of a second: a bar moves, and an interrupt loses nothing."""
    if _traced((dynamic, run, tol)):
        return _advance(dynamic, run, tol, jnp.int32(max_steps), static), False
    done, chunk = 0, 64
    advance = _advance_in_order if _in_order.pays((dynamic, run)) else _advance
    with progress.bar("minimize", max_steps, verbose):
        try:
            while done < max_steps and _going(run):
                started = time.perf_counter()
                done = min(done + chunk, max_steps)
                run = jax.block_until_ready(advance(dynamic, run, tol, jnp.int32(done), static))
                if verbose:
                    progress.show(int(run.steps), objective=float(run.objective), violation=float(run.violation))
                if time.perf_counter() - started < 0.2:
                    chunk *= 4
        except KeyboardInterrupt:
            return run, True
    return run, False


def _going(run: Run) -> bool:
    return not bool(run.converged) and bool(run.finite) and not bool(run.stuck)


def _natural_scale(problem: Problem, objective: Scalar) -> Scalar:
    """f(0), or the best objective met where that is zero (b = 0)."""
    scale = problem.scale()
    return jnp.abs(objective) if scale is None else jnp.where(scale > 0, scale, jnp.abs(objective))


def _rate(solver: Solver, problem: Problem, k: Any, step: Scalar, distance: Scalar) -> Scalar | None:
    if not solver.rated(problem):
        return None
    return solver.rate(jnp.asarray(k).astype(step.dtype), 1 / step, distance)


def _start_point(problem: Problem, x0: Any) -> PyTree:
    origin = problem.start()
    if x0 is None:
        if origin is None:
            raise InputError("x0: found None, expected a starting point (a function does not tell its shape)")
        return origin
    x0 = finite("x0", x0)
    if origin is None:
        return x0
    if (found := jax.tree.map(jnp.shape, x0)) != (expected := jax.tree.map(jnp.shape, origin)):
        raise InputError(f"x0: found shape {found}, expected {expected}")
    return jax.tree.map(lambda leaf, zero: leaf.astype(zero.dtype), x0, origin)


def _hoisted(problem: Problem, x0: PyTree) -> Problem:
    """Traced arrays that a plain function closes over, as part of the problem: it may be differentiated by them."""
    smooth = getattr(problem, "smooth", None)
    if not (isinstance(smooth, Differentiable) and closes_over_tracers(smooth.function)):
        return problem
    function, arrays = jax.closure_convert(smooth.function, x0)
    return eqx.tree_at(lambda p: p.smooth.function, problem, Hoisted(function, arrays))


def _traced(tree: PyTree) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def _constant(leaf: Any) -> Any:
    return jax.lax.stop_gradient(leaf) if isinstance(leaf, Tracer) else leaf


def _choose(problem: Problem, solver: Any) -> tuple[Solver, str]:
    if isinstance(solver, Solver):
        solver.check(problem)
        return solver, "named by the caller"
    validation.one_of("auto")("solver", solver)
    return problem.default_solver()
