"""The compiled loop of `cp_als`: sweeps of exact least squares, extrapolation with restarts, and the measured error.

All starts run side by side: their columns stand next to one another, so that one pass over the data serves them all.
A mode's update is a proximal Newton step on its own least squares problem, A ← A − ∇(G + D)⁻¹ with D = 2 r eps diag(G):
the exact solution where G is not singular to rounding, and otherwise one that stands still where the data say nothing.
It never raises the objective (Grippo & Sciandrone, Oper. Res. Lett. 26 (2000): proximal block coordinate descent).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array

from corollary.linalg.tensor._cp_mttkrp import DenseData, SparseData, pairs, unpair

Data = DenseData | SparseData
DIRECT = 1e5  # below DIRECT · eps the squared error is summed entry by entry
IDLE = 10  # sweeps without a decrease above rounding, after which the precision is spent
PASSES = 5  # over the columns of a nonnegative factor, at each visit


class Plan(eqx.Module):
    """What is compiled for: everything static."""

    rank: int = eqx.field(static=True)
    nonnegative: bool = eqx.field(static=True)
    recorded: int = eqx.field(static=True)  # steps of history, 0 for none
    certify: bool = eqx.field(static=True)


class Measure(NamedTuple):
    """Of one point, for each start; squares are relative to nothing, the data have been scaled."""

    squared: Array  # ‖X − X̂‖²
    objective: Array  # with the penalty
    noise: Array  # rounding of the objective
    gradient: Array  # scaled, the largest over the modes


class State(NamedTuple):
    """What the next step needs, arrays by start."""

    step: Array
    factors: list[Array]
    previous: list[Array]
    measure: Measure
    beta: Array
    damping: Array  # multiples of rounding in D; more where rounding made a sweep go up
    plain: Array
    idle: Array
    done: Array
    steps: Array
    rise: Array
    allowed: Array
    history: Array


class Outcome(NamedTuple):
    """Of the best start."""

    factors: list[Array]  # of unit columns
    weights: Array
    error: Array
    bound: Array  # of the error, rounding included
    measured: Array
    gradient: Array
    idle: Array
    steps: Array
    rise: Array
    allowed: Array
    history: Array
    errors: Array
    best: Array


@eqx.filter_jit
def run(
    data: Data,
    factors: list[Array],
    scale: Array,
    tol: Array,
    ridge: Array,
    accelerate: Array,
    max_steps: Array,
    plan: Plan,
) -> Outcome:
    """From starting factors (n_k, starts · rank) for data of size about one to the best start's outcome, times scale.

    A ridge is that of the data as they came, and is changed to fit the scaled ones; far above their size, where the
    answer is zero, it is cut so that its products stay finite.
    """
    total, modes = _total(data), len(factors)
    ridge = jnp.where(ridge > 0, ridge * scale ** (2 / modes - 2), 0)
    ridge = jnp.minimum(ridge, float(jnp.finfo(total.dtype).eps) ** -2)
    factors = _balanced(factors, plan.rank)
    starts = factors[0].shape[1] // plan.rank
    real = total.dtype
    unknown = Measure(*(jnp.full(starts, jnp.inf, real) for _ in range(4)))
    state = State(
        jnp.asarray(0),
        factors,
        factors,
        unknown,
        jnp.where(accelerate, jnp.full(starts, 0.5, real), 0),
        jnp.full(starts, 2.0, real),
        jnp.ones(starts, bool),
        jnp.zeros(starts, jnp.int32),
        jnp.zeros(starts, bool),
        jnp.zeros(starts, jnp.int32),
        jnp.full(starts, -jnp.inf, real),
        jnp.zeros(starts, real),
        jnp.full((plan.recorded, starts), jnp.nan, real),
    )
    state = jax.lax.while_loop(
        lambda s: (s.step < max_steps) & ~jnp.all(s.done),
        lambda s: _step(s, data, total, tol, ridge, plan),
        state,
    )
    size = jnp.where(total > 0, total, 1)
    objective = jnp.where(jnp.isfinite(state.measure.objective), state.measure.objective, jnp.inf)
    best = jnp.argmin(objective)
    chosen = [_blocks(f, plan.rank)[:, best] for f in state.factors]
    squared = state.measure.squared[best]
    error = jnp.sqrt(jnp.maximum(squared, 0) / size)
    noise = _root_noise(squared, state.measure.noise[best]) / jnp.sqrt(size)
    measured, gradient = error, state.measure.gradient[best]
    if plan.certify:
        gradient = _gradient(data, chosen, total, ridge, plan)[0]
        if isinstance(data, DenseData):
            measured = jnp.sqrt(data.residual_squared(chosen) / size)
    weights, units = normalised([f[:, None] for f in chosen])
    return Outcome(
        [f[:, 0] for f in units],
        (weights[0] * scale).astype(units[0].dtype),
        error,
        error + noise + 8 * jnp.finfo(total.dtype).eps,
        measured,
        gradient,
        state.idle[best] >= IDLE,
        state.steps[best],
        jnp.maximum(state.rise[best], 0) / size,
        state.allowed[best] / size,
        jnp.sqrt(jnp.maximum(state.history[:, best], 0) / size),
        jnp.sqrt(jnp.maximum(state.measure.squared, 0) / size),
        best,
    )


def _step(s: State, data: Data, total: Array, tol: Array, ridge: Array, plan: Plan) -> State:
    """One sweep from the extrapolated point; where the objective rose, back to the last point and no extrapolation."""
    beta = jnp.where(s.plain, 0, s.beta)
    point = [x + _wide(beta, plan.rank, x.dtype) * (x - p) for x, p in zip(s.factors, s.previous, strict=True)]
    if plan.nonnegative:
        point = [jnp.maximum(p, 0) for p in point]
    new, measure = sweep(data, point, total, ridge, s.damping, plan)
    noise = measure.noise + jnp.where(jnp.isfinite(s.measure.noise), s.measure.noise, 0)
    started = jnp.isfinite(s.measure.objective)
    rise = jnp.where(started, measure.objective - s.measure.objective, -jnp.inf)
    finite = jnp.isfinite(measure.objective)  # a Cholesky factor that broke down asks for more damping
    rejected = (started & ~(rise <= noise)) | ~finite
    plainly = rejected & (beta == 0)
    kept = rejected | s.done
    take = functools.partial(jnp.where, kept)
    wide = _wide(kept, plan.rank, bool)
    worse = ~kept & (rise - noise > s.rise - s.allowed)
    idle = jnp.where(plainly | (~rejected & started & (-rise <= noise / 8)), s.idle + 1, 0)
    measured = Measure(*(take(old, now) for old, now in zip(s.measure, measure, strict=True)))
    damping = jnp.where(plainly, s.damping * 16, jnp.where(rejected, s.damping, s.damping / 4))
    converged = ~rejected & (measure.gradient <= tol / 2)
    hidden = 0 if isinstance(data, DenseData) else measured.noise  # what cancellation may hide
    squared = jnp.maximum(measured.squared, 0) + hidden
    fitted = (ridge == 0) & jnp.any(jnp.sqrt(squared) <= tol / 2 * jnp.sqrt(total))
    history = s.history.at[s.step].set(measured.squared) if plan.recorded else s.history
    return State(
        s.step + 1,
        [jnp.where(wide, x, n) for x, n in zip(s.factors, new, strict=True)],
        [jnp.where(_wide(s.done, plan.rank, bool), p, x) for p, x in zip(s.previous, s.factors, strict=True)],
        measured,
        jnp.where(s.done | (s.beta == 0), s.beta, jnp.clip(jnp.where(rejected, s.beta / 1.5, s.beta * 1.05), 1e-3, 1)),
        jnp.where(s.done, s.damping, jnp.clip(damping, 2, 1e9)),
        rejected | ~started,
        jnp.where(s.done, s.idle, idle),
        s.done | converged | fitted | (idle >= IDLE),
        jnp.where(s.done, s.steps, s.steps + 1),
        jnp.where(worse, rise, s.rise),
        jnp.where(worse, noise, s.allowed),
        history,
    )


def sweep(
    data: Data, factors: list[Array], total: Array, ridge: Array, damping: Array, plan: Plan
) -> tuple[list[Array], Measure]:
    """Every mode solved once, the columns balanced, and the exact error of the result."""
    gradients: list[Array] = []
    last: dict[str, Array] = {}

    def update(mode: int, products: tuple[Array, ...], current: list[Array]) -> Array:
        old, M = _blocks(current[mode], plan.rank), _blocks(products[0], plan.rank)
        G = _normal(mode, products, current, plan.rank)
        gradient = _times(old, G) + ridge.astype(old.dtype) * old - M
        gradients.append(_scaled(gradient, old, G, total, plan.nonnegative))
        if plan.nonnegative:
            new = _descended(old, M, G, ridge)
        else:
            new = old - solved(gradient, G, ridge, damping)
        last.update(M=M, G=G, a=new)
        return new.reshape(current[mode].shape)

    factors = data.sweep(factors, update, (jnp.conj, functools.partial(pairs, rank=plan.rank)))
    squared, noise = _squared(data, factors, last["M"], last["G"], last["a"], total, plan.rank)
    factors = _balanced(factors, plan.rank)
    penalty = ridge * sum(jnp.sum(jnp.square(jnp.abs(_blocks(f, plan.rank))), axis=(0, 2)) for f in factors)
    eps = jnp.finfo(total.dtype).eps
    return factors, Measure(
        squared, squared + penalty, noise + 8 * eps * penalty, jnp.max(jnp.stack(gradients), axis=0)
    )


def _gradient(data: Data, factors: list[Array], total: Array, ridge: Array, plan: Plan) -> Array:
    """Scaled, the largest of any mode, at the point itself: nothing moves."""
    gradients: list[Array] = []

    def look(mode: int, products: tuple[Array, ...], current: list[Array]) -> Array:
        a, M = _blocks(current[mode], plan.rank), _blocks(products[0], plan.rank)
        G = _normal(mode, products, current, plan.rank)
        gradients.append(_scaled(_times(a, G) + ridge.astype(a.dtype) * a - M, a, G, total, plan.nonnegative))
        return current[mode]

    data.sweep(factors, look, (jnp.conj, functools.partial(pairs, rank=plan.rank)))
    return jnp.max(jnp.stack(gradients), axis=0)


def _squared(
    data: Data, factors: list[Array], M: Array, G: Array, a: Array, total: Array, rank: int
) -> tuple[Array, Array]:
    """‖X − X̂‖² by start with its rounding: ‖X‖² − 2⟨X, X̂⟩ + ‖X̂‖² where that keeps digits, else entry by entry."""
    eps = jnp.finfo(total.dtype).eps
    inner = jnp.sum((M * a.conj()).real, axis=(0, 2))
    quadratic = jnp.sum((_times(a, G) * a.conj()).real, axis=(0, 2))
    size = jnp.sum(_times(jnp.abs(a), jnp.abs(G)) * jnp.abs(a), axis=(0, 2))
    squared = total - 2 * inner + quadratic
    noise = 16 * eps * (total + size)
    if not isinstance(data, DenseData):
        return squared, noise
    small = squared <= DIRECT * eps * (total + size)
    by_start = [jnp.moveaxis(_blocks(f, rank), 1, 0) for f in factors]
    direct = jax.lax.cond(
        jnp.any(small), lambda: jax.lax.map(data.residual_squared, by_start), lambda: jnp.zeros_like(squared)
    )
    step = 4 * eps * jnp.sqrt(total + size)
    fine = step * (2 * jnp.sqrt(direct) + step)
    return jnp.where(small, direct, squared), jnp.where(small, fine, noise)


def solved(gradient: Array, G: Array, ridge: Array, damping: Array) -> Array:
    """∇(G + ridge + D)⁻¹, where D is `damping` · r · eps · diag(G): enough for Cholesky as a rule."""
    rank = G.shape[-1]
    diagonal = jnp.diagonal(G, axis1=-2, axis2=-1).real
    eps = jnp.finfo(diagonal.dtype).eps

    raised = diagonal * (damping[:, None] * (rank * eps)) + ridge
    raised = jnp.where(diagonal + raised > 0, raised, 1)
    system = jnp.swapaxes(G, -1, -2) + (raised[..., None] * jnp.eye(rank, dtype=raised.dtype)).astype(G.dtype)
    lower = jnp.linalg.cholesky(system, symmetrize_input=False)
    if G.ndim == 3:  # one matrix for all rows
        return jnp.moveaxis(cho_solve((lower, True), jnp.moveaxis(gradient, 0, -1)), -1, 0)
    return cho_solve((lower, True), gradient[..., None])[..., 0]


def _descended(a: Array, M: Array, G: Array, ridge: Array) -> Array:
    """Nonnegative least squares, column after column exactly (HALS): no column's move raises the objective."""
    rank = G.shape[-1]

    def column(i: Array, a: Array) -> Array:
        j = i % rank
        gradient = jnp.sum(a * G[..., :, j], axis=-1) + ridge * a[..., j] - M[..., j]
        curvature = G[..., j, j] + ridge
        step = jnp.where(curvature > 0, gradient / jnp.where(curvature > 0, curvature, 1), 0)
        return a.at[..., j].set(jnp.maximum(a[..., j] - step, 0))

    return jax.lax.fori_loop(0, PASSES * rank, column, a)


def _scaled(gradient: Array, a: Array, G: Array, total: Array, nonnegative: bool) -> Array:
    """‖gradient‖ / (‖X‖ ‖KR‖), at most the relative error; the KKT residual min(∇, a G_jj) where a must be >= 0."""
    diagonal = jnp.diagonal(G, axis1=-2, axis2=-1).real
    if nonnegative:
        gradient = jnp.minimum(gradient, a * diagonal)
    columns = jnp.sum(diagonal, axis=-1)
    columns = columns if columns.ndim == 1 else jnp.max(columns, axis=0)
    size = jnp.sqrt(total * columns)
    norm = jnp.sqrt(jnp.sum(jnp.square(jnp.abs(gradient)), axis=(0, 2)))
    return norm / jnp.where(size > 0, size, 1)


def _normal(mode: int, products: tuple[Array, ...], factors: list[Array], rank: int) -> Array:
    """Normal matrices G_qr = Σ k_q conj(k_r): (starts, r, r), or (n, starts, r, r) from the mask's products."""
    if len(products) == 2:
        return unpair(products[1], rank, jnp.iscomplexobj(factors[mode]))
    grams = [gram(_blocks(f, rank)) for j, f in enumerate(factors) if j != mode]
    return functools.reduce(lambda a, b: a * b, grams)


def gram(blocks: Array) -> Array:
    """(starts, r, r) of Σ_n a_nq conj(a_nr)."""
    return jnp.einsum("nsq,nsr->sqr", blocks, blocks.conj())


def _times(a: Array, G: Array) -> Array:
    """Rows of a times their normal matrix."""
    return jnp.einsum("nsq,sqr->nsr", a, G) if G.ndim == 3 else jnp.einsum("nsq,nsqr->nsr", a, G)


def _balanced(factors: list[Array], rank: int) -> list[Array]:
    """The same tensor with each column of one norm in all modes, where any penalty of squares is least."""
    norms = [jnp.linalg.norm(_blocks(f, rank), axis=0) for f in factors]
    roots = [jnp.where(n > 0, n, 1) ** (1 / len(norms)) for n in norms]  # root by root: the product may overflow
    whole = functools.reduce(lambda a, b: a & b, [n > 0 for n in norms])
    common = functools.reduce(lambda a, b: a * b, roots)
    return [
        (_blocks(f, rank) * jnp.where(whole, common / jnp.where(n > 0, n, 1), 1).astype(f.dtype)).reshape(f.shape)
        for f, n in zip(factors, norms, strict=True)
    ]


def normalised(blocks: list[Array], sort: bool = True) -> tuple[Array, list[Array]]:
    """Weights (starts, r), falling where sorted for a single start, and unit columns of (n, starts, r)."""
    norms = [jnp.linalg.norm(f, axis=0) for f in blocks]
    weights = functools.reduce(lambda a, b: a * b, norms)
    units = [f / jnp.where(n > 0, n, 1).astype(f.dtype) for f, n in zip(blocks, norms, strict=True)]
    if not sort:
        return weights, units
    order = jnp.argsort(-weights[0])
    return weights[:, order], [f[:, :, order] for f in units]


def _blocks(factor: Array, rank: int) -> Array:
    """(n, starts, r)."""
    return factor.reshape(factor.shape[0], -1, rank)


def _wide(by_start: Array, rank: int, dtype: Any) -> Array:
    return jnp.repeat(by_start, rank).astype(dtype)


def _total(data: Data) -> Array:
    entries = data.tensor if isinstance(data, DenseData) else data.values[0]
    return jnp.sum(jnp.square(jnp.abs(entries)))


def _root_noise(squared: Array, noise: Array) -> Array:
    """How far √(squared + noise) is above √squared."""
    squared = jnp.maximum(squared, 0)
    return jnp.sqrt(squared + noise) - jnp.sqrt(squared)
