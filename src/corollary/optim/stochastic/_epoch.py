"""What the finite-sum solvers share: snapshots, block orders, step lengths, a metric, and a guard against long steps.

A snapshot is a point with its full gradient, from one pass over the blocks; what a solver reports at an epoch's end is
read off it: objective, residual, and for a linear model a lower bound from the slopes θ_i. Cost of a pass: O(nd), once
through memory.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import rounding
from corollary.core.errors import InputError
from corollary.optim._problem import Info, Problem
from corollary.optim._tree import at_least_zero, like, norm
from corollary.optim.penalties import Zero
from corollary.optim.penalties._base import Scalar
from corollary.optim.stochastic._finite_sum import FiniteSum, LinearTerms, finite_sum
from corollary.optim.stochastic._losses import LOSSES
from corollary.optim.stochastic._rows import Dense

CACHE = 2**18  # bytes of a block: both of its products then read it once from memory
SAMPLED, BUDGET = 16, 10**8  # blocks whose smoothness is bounded where all would cost more than BUDGET operations
BLOWN = 10.0  # a residual that grows by this in an epoch tells of a step beyond the smoothness
FAR = 100.0


class Snapshot(eqx.Module):
    """A point, F there, its gradients (`data`: of (1/n) Σ f_i; `gradient`: with l2·x), a linear model's table.

    `curvature` is a Lipschitz constant of ∇f taken once from the data (or at the start): it sets the rounding, and the
    length of the proximal step in the residual. The step that a solver takes has no part in either.
    """

    x: PyTree
    objective: Scalar
    data: PyTree
    gradient: PyTree
    table: PyTree | None
    lower: Scalar | None
    residual: Scalar
    curvature: Scalar


def snapshot(problem: FiniteSum, x: PyTree, b: int, curvature: Scalar | None = None) -> Snapshot:
    """One pass over the blocks. Linear models keep their table, a number per row."""
    return snapshot_and_mean(problem, x, b, curvature, None)[0]


def snapshot_and_mean(
    problem: FiniteSum, x: PyTree, b: int, curvature: Scalar | None, other: PyTree | None
) -> tuple[Snapshot, PyTree]:
    """A snapshot, and from the same pass the mean gradient of another table."""
    terms = problem.terms
    N = terms.blocks(b)
    keep = terms.compact

    def body(k, carry):
        total, gradient, table, mean = carry
        value, dual = terms.local(x, k, b)
        gradient = optax.tree.add_scale(gradient, 1 / N, terms.pull(dual, k, b))
        if keep:
            table = put(table, k, dual)
        if other is not None:
            mean = optax.tree.add_scale(mean, 1 / N, terms.pull(take(other, k), k, b))
        return total + value, gradient, table, mean

    zero = optax.tree.zeros_like(x)
    start = (like(0.0, x), zero, terms.table(x, b) if keep else None, None if other is None else zero)
    total, data, table, mean = jax.lax.fori_loop(0, N, body, start)
    gradient = problem.shrink(data, x)
    curvature = _curvature_of_data(problem, x, b) if curvature is None else curvature
    residual = problem.penalty.subdifferential_distance(x, gradient)
    if residual is None:
        t = 1 / _usable(curvature, gradient, x)
        near = problem.penalty.prox(optax.tree.add_scale(x, -t, gradient), t)
        residual = norm(optax.tree.sub(x, near)) / t
    objective = total / problem.n + problem.ridge(x) + problem.penalty.value(x)
    lower = problem.lower_bound(table, data) if keep else None
    return Snapshot(x, objective, data, gradient, table, lower, residual, curvature), mean


def report(problem: FiniteSum, new: Snapshot, old: Snapshot, step: Scalar, **extra: Scalar) -> Info:
    """What a person wants to know at the epoch's end."""
    scale = _terms(problem, new)
    return Info(
        objective=new.objective,
        lower=new.lower,
        residual=new.residual,
        gradient_scale=jnp.maximum(scale, _terms(problem, old)),
        floor=_floor(new, scale),
        step=step,
        extra=extra,
    )


def guarded(
    problem: FiniteSum,
    state: Any,
    old: Any,
    new: Snapshot,
    before: Snapshot,
    b: int,
    step_size: Any,
    *,
    always: bool = False,
) -> tuple[Any, Snapshot]:
    """The new state, with half the step where the epoch led uphill; the old one, with a quarter, where it blew up.

    Only where the smoothness is an estimate: a step that was given, or that a bound stands behind, is kept
    (`always`: for steps that no bound stands behind, however well the smoothness is known).
    """
    metric = getattr(old, "metric", None)
    if not always and (step_size is not None or _is_exact(problem, b, metric)):
        return state, new
    noise = _floor(before, norm(before.gradient))
    fine = (new.residual <= BLOWN * jnp.maximum(before.residual, FAR * noise)) | (new.objective <= before.objective)
    if hasattr(state, "running"):  # it runs on between snapshots: it must be a number, and starts anew at the last one
        fine = fine & jnp.isfinite(norm(state.running))
        old = eqx.tree_at(lambda s: s.running, old, before.x)
    # A gradient that is saturated has the same length on either side of the valley: hence "no smaller" alone.
    rose = new.objective > before.objective + rounding(jnp.abs(before.objective), 4.0)
    worse = rose & (new.residual >= 0.999 * before.residual) & (new.residual > FAR * noise)
    shorter = eqx.tree_at(lambda s: s.step, state, jnp.where(worse, state.step / 2, state.step))
    back = eqx.tree_at(lambda s: (s.step, s.key), old, (old.step / 4, state.key))  # other blocks the next time
    keep = lambda a, b: jnp.where(fine, a, b)  # noqa: E731
    return jax.tree.map(keep, shorter, back), jax.tree.map(keep, new, before)


def order(key: Key[Array, ""], sampling: str, steps: int, N: int) -> Int[Array, " steps"]:
    """Which blocks an epoch of `steps` visits: independent draws, or one permutation after the other."""
    if sampling == "iid":
        return jax.random.randint(key, (steps,), 0, N, jnp.int32)  # in either precision the same blocks
    rounds = -(-steps // N)
    return jax.vmap(lambda k: jax.random.permutation(k, N))(jax.random.split(key, rounds)).reshape(-1)[:steps]


def first_key(key: Any) -> Key[Array, ""]:
    """The solver's key, or the one that stands for none."""
    return jax.random.key(0) if key is None else key


def batch(problem: FiniteSum, batch_size: Any) -> int:
    """The block's size: as given, or what fills the cache while leaving some 16 blocks."""
    if batch_size != "auto":
        return min(int(batch_size), problem.n)
    d = 32
    if isinstance(problem.terms, LinearTerms):
        rows: Any = problem.terms.rows
        width = rows.shape[1] if isinstance(rows, Dense) else rows.values.shape[1]
        d = width * jnp.dtype(rows.dtype).itemsize
    size = min(max(CACHE // max(d, 1), 1), 512, max(problem.n // 16, 1))
    return 1 << (size.bit_length() - 1)


def take(table: PyTree, k: Any) -> PyTree:
    """Row k."""
    return jax.tree.map(lambda t: jax.lax.dynamic_index_in_dim(t, k, keepdims=False), table)


def put(table: PyTree, k: Any, row: PyTree) -> PyTree:
    """The table with another row k."""
    return jax.tree.map(lambda t, r: jax.lax.dynamic_update_index_in_dim(t, r, k, 0), table, row)


def move(problem: FiniteSum, x: PyTree, direction: PyTree, step: Scalar, metric: Array | None = None) -> PyTree:
    """prox_{step·h}(x − step·M·direction)."""
    if metric is not None:
        return x - step * (metric @ direction)
    return problem.penalty.prox(optax.tree.add_scale(x, -step, direction), step)


def metric_of(problem: FiniteSum, precondition: bool) -> Float[Array, "d d"] | None:
    """M = P⁻¹, with P the Hessian's bound on some of the rows: φ''·A_SᵀA_S/|S| + l2, lifted where S says too little.

    Source: Frangella, Rathore, Zhao & Udell, "PROMISE" (2023), section 3, with a subsample in place of a sketch.
    """
    if not precondition:
        return None
    terms: Any = problem.terms
    n, d = terms.rows.shape
    some = terms.rows.block(0, min(n, max(64 * d, 4096)))
    P = LOSSES[terms.loss].smoothness / some.shape[0] * (some.T @ some)
    lift = jnp.trace(P) / d * (1e-6 if P.dtype == jnp.float64 else 1e-4) + (
        0 if problem.l2 is None else like(problem.l2, P)
    )
    P = P + jnp.where(lift > 0, lift, 1) * jnp.eye(d, dtype=P.dtype)
    half = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(P), jnp.eye(d, dtype=P.dtype), lower=True)
    return half.T @ half


def smoothness(problem: FiniteSum, x: PyTree, b: int, metric: Array | None = None) -> Scalar:
    """A Lipschitz constant of ∇(f_B + (l2/2)‖·‖²) for every block, in the metric.

    Linear models: max over all blocks of φ''·(N/n)·λ_max(A_BᵀA_B), exactly, where that is cheap; else over some blocks,
    from above by ‖G⁸‖_F^{1/8}. Functions: as given, else twice what power iterations with the Hessian find at x.
    """
    N, n = problem.terms.blocks(b), problem.n
    if problem.lipschitz is not None and metric is None:
        L = like(problem.lipschitz, x) * (N * b / n)  # f_B = (N/n) Σ f_i over b terms
    elif isinstance(problem.terms, LinearTerms):
        L = _linear_smoothness(problem, b, metric)
    else:
        L = 2 * _curvature(problem, x, b)
    if problem.l2 is not None and metric is None:
        L = L + like(problem.l2, x)
    elif problem.l2 is not None and metric is not None:
        L = L + jnp.minimum(like(problem.l2, x) * norm(metric), 1)  # M⁻¹ is at least l2
    return L


def _curvature_of_data(problem: FiniteSum, x: PyTree, b: int) -> Scalar:
    """A Lipschitz constant of ∇f: for linear models the trace bound φ''·‖A‖²_F/n + l2, else `smoothness` at x."""
    terms: Any = problem.terms
    if not isinstance(terms, LinearTerms):
        return smoothness(problem, x, b)
    rows: Any = terms.rows
    size = norm(jnp.asarray(rows.matrix if isinstance(rows, Dense) else rows.values)) / problem.n**0.5
    L = LOSSES[terms.loss].smoothness * jnp.square(size)
    return L if problem.l2 is None else L + like(problem.l2, x)


def _usable(L: Scalar, gradient: PyTree, x: PyTree) -> Scalar:
    """L, or where it is zero one whose gradient step has the length of x (of 1, at the origin)."""
    away = norm(gradient) / jnp.where(norm(x) > 0, norm(x), 1)
    L = jnp.where((L > 0) & jnp.isfinite(L), L, away)
    return jnp.where((L > 0) & jnp.isfinite(L), L, 1)


def _linear_smoothness(problem: FiniteSum, b: int, metric: Array | None) -> Scalar:
    terms: Any = problem.terms
    (n, d), N, rows = terms.rows.shape, terms.blocks(b), terms.rows
    curvature = LOSSES[terms.loss].smoothness * N / n
    if b == 1 and metric is None:
        return curvature * jnp.max(rows.squares()) * (1 + 8 * jnp.finfo(rows.dtype).eps)
    side = min(b, d)
    starts = jnp.minimum(jnp.arange(N) * b, n - b)
    if not isinstance(rows, Dense):
        return curvature * _power(problem, b, starts[:: max(N // SAMPLED, 1)])
    exact = _is_exact(problem, b, metric)
    if not exact:
        starts = starts[:: max(N // SAMPLED, 1)]
    root = None if metric is None else jnp.linalg.cholesky(metric)

    def top(start):
        A = rows.block(start, b)
        A = A if root is None else A @ root
        size = jnp.max(jnp.abs(A))
        A = A / jnp.where(size > 0, size, 1)
        G = A @ A.T if b <= d else A.T @ A
        if exact:
            return jnp.linalg.eigvalsh(G)[-1] * size**2
        norm_ = jnp.linalg.norm(G)
        G = G / jnp.where(norm_ > 0, norm_, 1)
        for _ in range(3):
            G = G @ G
        return norm_ * jnp.linalg.norm(G) ** 0.125 * size**2

    return curvature * jnp.max(jax.lax.map(top, starts)) * (1 + 8 * side * jnp.finfo(rows.dtype).eps)


def _is_exact(problem: FiniteSum, b: int, metric: Array | None) -> bool:
    """Whether `smoothness` is a bound over all blocks: linear models whose blocks are few and small, or single rows."""
    terms: Any = problem.terms
    if not isinstance(terms, LinearTerms) or (problem.lipschitz is not None and metric is None):
        return False
    (_, d), N = terms.rows.shape, terms.blocks(b)
    side = min(b, d)
    small = N * b * d * side + 20 * N * side**3 <= BUDGET
    return (b == 1 and metric is None) or (small and isinstance(terms.rows, Dense))


def _power(problem: FiniteSum, b: int, starts: Int[Array, " s"]) -> Scalar:
    """λ_max(A_BᵀA_B) of sparse blocks by 30 power iterations, and a fifth more."""
    terms: Any = problem.terms
    rows = terms.rows

    def top(start):
        def turn(_, v):
            u = rows.mv(start, b, rows.rmv(start, v))
            size = norm(u)
            return u / jnp.where(size > 0, size, 1)

        v = jax.lax.fori_loop(0, 30, turn, jnp.ones((b,), rows.dtype) / b**0.5)
        return norm(rows.mv(start, b, rows.rmv(start, v)))

    return 1.2 * jnp.max(jax.lax.map(top, starts))


def _curvature(problem: FiniteSum, x: PyTree, b: int) -> Scalar:
    """The largest ‖∇²f_B(x)‖ of some blocks by eight power iterations."""
    terms = problem.terms
    N = terms.blocks(b)
    blocks = jnp.arange(N)[:: max(N // 8, 1)]

    def top(k):
        def gradient(x):
            return terms.local(x, k, b)[1]

        def turn(_, v):
            size = norm(v)
            return jax.jvp(gradient, (x,), (optax.tree.scale(1 / jnp.where(size > 0, size, 1), v),))[1]

        start = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape, leaf.dtype), x)
        return norm(jax.lax.fori_loop(0, 8, turn, start))

    return jnp.max(jax.lax.map(top, blocks))


def step_of(step_size: Any, problem: FiniteSum, at: Snapshot, b: int, fraction: float, metric: Any = None) -> Scalar:
    """`step_size` where it is given, else fraction/L, with L of the blocks at the first snapshot."""
    if step_size is not None:
        return like(step_size, at.x)
    linear = isinstance(problem.terms, LinearTerms)
    L = smoothness(problem, at.x, b, metric) if linear else at.curvature
    return fraction / _usable(L, at.gradient, at.x)


def check_settings(solver: Any) -> None:
    """Refuse settings out of range, of those that a solver has."""
    for name in ("batch_size", "passes"):
        value = getattr(solver, name, 1)
        if not (name == "batch_size" and isinstance(value, str) and value == "auto"):
            validation.integer(1)(name, value)
    if not callable(step := getattr(solver, "step_size", None)):
        at_least_zero("step_size", step, positive=True)
    if hasattr(solver, "sampling"):
        validation.one_of("iid", "reshuffle")("sampling", solver.sampling)
    if hasattr(solver, "precondition"):
        validation.flag("precondition", solver.precondition)
    key = getattr(solver, "key", None)
    if key is not None and not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise InputError(f"key: found {type(key).__name__}, expected one made by jax.random.key")


def check_problem(problem: Problem, solver: Any, *, smooth: bool = False, linear: bool = False) -> None:
    """A `FiniteSum`: without a penalty where `smooth` (or preconditioned), of a named loss where `linear`."""
    name = type(solver).__name__
    terms = finite_sum(problem).terms
    metric = getattr(solver, "precondition", False)
    if (smooth or metric) and not isinstance(problem.penalty, Zero):  # type: ignore[attr-defined]
        why = f"{name}(precondition=True)" if metric else name
        found = type(problem.penalty).__name__  # type: ignore[attr-defined]
        raise InputError(f"problem: found the penalty {found}, expected none for {why} (l2 is welcome)")
    if (linear or metric) and not isinstance(terms, LinearTerms):
        raise InputError(f"problem: found a sum of functions, expected a named loss for {name}")
    if metric and not isinstance(terms.rows, Dense):  # type: ignore[attr-defined]
        raise InputError("problem: found sparse data, expected a dense matrix for precondition=True")


def _terms(problem: FiniteSum, at: Snapshot) -> Scalar:
    """The size of what has to cancel in the residual."""
    scale = norm(at.data)
    return scale if problem.l2 is None else scale + like(problem.l2, at.x) * norm(at.x)


def _floor(at: Snapshot, scale: Scalar) -> Scalar:
    return rounding(at.curvature * norm(at.x) + scale)
