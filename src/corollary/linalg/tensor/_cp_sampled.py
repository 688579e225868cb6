"""CP decomposition by sampled alternating least squares: each solve looks at a few fibres instead of the whole tensor.

Use it for dense tensors so large that a pass over them costs more than everything else, to a few digits; finish with
`cp_als(init=solution.value)` where more are wanted. The rows of a least squares problem in a Khatri-Rao product are
drawn with probabilities proportional to the product of the factors' leverage scores, which bounds the product's own.
Cost of a sweep: d (s n + s r²) for s samples, independent of the tensor's size; three passes over it in all.

Source: Larsen & Kolda, Practical Leverage-Based Sampling for Low-Rank Tensor Decomposition, SIMAX 43 (2022),
Algorithm 2 and Theorem 8; Battaglino, Ballard & Kolda, SIMAX 39 (2018), §4.3 (estimated fit).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.linalg.tensor._cp_loop import normalised, solved
from corollary.linalg.tensor._cp_mttkrp import DenseData
from corollary.linalg.tensor._cp_start import checked_init
from corollary.linalg.tensor._formats import CP

CHECKED = 2**14  # entries on which the error is watched
PATIENCE = 6  # sweeps without a clear fall of the error before it stops
SIGMAS = 4.0


class State(NamedTuple):
    """What the next sweep needs, and the best point so far."""

    step: Array
    key: Key[Array, ""]
    factors: list[Array]
    best: list[Array]
    error: Array
    stderr: Array
    mark: Array  # the error at its last clear fall
    since: Array  # sweeps ago


@follows_input
def cp_sampled(
    tensor: Any,
    rank: Any,
    *,
    samples: Any = None,
    init: Any = "random",
    tol: Any = 1e-3,
    max_steps: Any = 200,
    key: Key[Array, ""],
) -> Solution:
    """CP factors from leverage-score samples of the tensor's fibres.

    Use it where the tensor is large and two to three digits of its factors will do, or for the start of `cp_als`. Cost:
    three passes over the tensor; a sweep costs O(d s (n + r²)) whatever the tensor's size.

    Parameters
    ----------
    tensor
        (n_0, …, n_{d-1}), d >= 2, real or complex, without gaps.
    rank
        How many outer products.
    samples
        s, rows drawn for each solve; max(1000, 40 r log₂(r + 1)) where None.
    init
        "random", or a `CP`.
    tol
        Stop where the watched error has not fallen by this share in 6 sweeps.
    max_steps
        Most sweeps.
    key
        `jax.random.key`.

    Returns
    -------
    Solution
        ``value``: the `CP` with the least watched error. Certificates: ``"error"`` (probabilistic: the exact error,
        from a pass at the end, against the one watched on 2¹⁴ entries and four standard errors). ``stats``: ``error``
        (exact), ``watched``, ``samples``. ``status``: MAX_STEPS where the error was still falling; NON_FINITE where no
        sweep gave finite factors: ``value`` is then the start, and nothing is known of its error.

    Raises
    ------
    InputError
        For ranks or data that do not fit.

    Notes
    -----
    With s = O(r^{d-1} max(log r, 1/(δε))) samples a solve is (1 + ε)-optimal with probability 1 − δ (Theorem 8).

    Examples
    --------
    >>> import jax, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = np.einsum("ir,jr,kr->ijk", *(rng.standard_normal((20, 2)) for _ in range(3)))
    >>> bool(cp_sampled(X, 2, key=jax.random.key(0)).stats["error"] < 1e-3)
    True
    """
    tensor = validation.tensor("tensor", tensor, low=2, complex=True)
    validation.integer(1)("rank", rank)
    most = math.prod(tensor.shape) // max(tensor.shape)
    if rank > most:
        raise InputError(f"rank: found {rank}, expected at most {most} for shape {tensor.shape}")
    validation.integer(1, none=True)("samples", samples)
    validation.number(0)("tol", tol)
    validation.integer(1)("max_steps", max_steps)
    s = int(samples) if samples is not None else max(1000, math.ceil(40 * rank * math.log2(rank + 1)))
    checked_init(init, tensor.shape, int(rank), tensor.dtype, ("random",))
    start, later = jax.random.split(key)
    if isinstance(init, CP):
        weights, factors = jax.tree.map(lambda a: jnp.asarray(a).astype(tensor.dtype), (init.weights, init.factors))
        factors = [factors[0] * weights, *factors[1:]]
    else:
        keys = jax.random.split(start, tensor.ndim)
        factors = [jax.random.normal(k, (n, rank), tensor.dtype) for k, n in zip(keys, tensor.shape, strict=True)]
    real = tensor.real.dtype
    weights, units, exact, state = _run(
        tensor, factors, later, jnp.asarray(tol, real), jnp.asarray(max_steps), s, isinstance(init, CP)
    )
    certificate = Certificate(
        "‖X − X̂‖/‖X‖, of all entries, <= the error watched on a sample + four standard errors",
        measured=exact,
        bound=state.error + SIGMAS * state.stderr + 64 * jnp.finfo(real).eps,
        kind="probabilistic",
        confidence=1 - 1 / SIGMAS**2,
        source="Chebyshev's inequality; Battaglino, Ballard & Kolda (2018), §4.3",
        assumptions=(
            Assumption("the sample's variance is that of all entries, and its choice of the best sweep harmless"),
        ),
    )
    stats = {"error": exact, "watched": state.error, "samples": s}
    status = Status.of(state.since >= PATIENCE, jnp.isfinite(exact))
    return Solution(CP(weights, tuple(units)), {"error": certificate}, status, state.step, stats)


@functools.partial(jax.jit, static_argnames=("s", "given"))
def _run(
    tensor: Array, factors: list[Array], key: Key[Array, ""], tol: Array, max_steps: Array, s: int, given: bool
) -> tuple[Array, list[Array], Array, State]:
    """Weights, unit columns, the exact relative error and the last state."""
    largest = jnp.max(jnp.abs(tensor))
    scale = jnp.ldexp(jnp.ones((), largest.dtype), jnp.frexp(jnp.where(largest > 0, largest, 1))[1] - 1)
    small = scale.astype(tensor.dtype)
    total = jnp.sum(jnp.square(jnp.abs(tensor / small)))
    safe = jnp.where(total > 0, total, 1)
    first, key = jax.random.split(key)
    count = min(CHECKED, tensor.size)
    watched = tuple(
        jax.random.randint(k, (count,), 0, n)
        for k, n in zip(jax.random.split(first, tensor.ndim), tensor.shape, strict=True)
    )
    values = tensor[watched] / small
    factors = [factors[0] / small if given else factors[0], *factors[1:]]

    def sweep(state: State) -> State:
        key, factors = state.key, list(state.factors)
        for k in range(tensor.ndim):
            key, draw = jax.random.split(key)
            factors[k] = _solve(tensor, factors, k, draw, s, small)
        weights, units = normalised([f[:, None] for f in factors], sort=False)
        factors = [units[0][:, 0] * weights[0].astype(tensor.dtype), *(u[:, 0] for u in units[1:])]
        row = functools.reduce(lambda a, b: a * b, [f[i] for f, i in zip(factors, watched, strict=True)])
        squares = jnp.square(jnp.abs(values - jnp.sum(row, axis=1)))
        error = jnp.sqrt(jnp.mean(squares) * tensor.size / safe)
        spread = jnp.std(squares) / math.sqrt(count) * (tensor.size / safe)
        stderr = jnp.sqrt(error**2 + spread) - error
        better = error < state.error
        clearly = error < (1 - tol) * state.mark
        return State(
            state.step + 1,
            key,
            factors,
            [jnp.where(better, n, b) for n, b in zip(factors, state.best, strict=True)],
            jnp.where(better, error, state.error),
            jnp.where(better, stderr, state.stderr),
            jnp.where(clearly, error, state.mark),
            jnp.where(clearly, 0, state.since + 1),
        )

    infinite = jnp.full((), jnp.inf, total.dtype)
    state = State(jnp.asarray(0), key, factors, factors, infinite, infinite, infinite, jnp.asarray(0))
    state = jax.lax.while_loop(lambda t: (t.step < max_steps) & (t.since < PATIENCE), sweep, state)
    exact = jnp.sqrt(DenseData(tensor / small, None).residual_squared(state.best) / safe)
    exact = jnp.where(jnp.isfinite(state.error), exact, jnp.nan)  # else no sweep was better than the start
    weights, units = normalised([f[:, None] for f in state.best])
    return (weights[0] * scale).astype(tensor.dtype), [u[:, 0] for u in units], exact, state


def _solve(tensor: Array, factors: list[Array], mode: int, key: Key[Array, ""], s: int, small: Array) -> Array:
    """One mode's weighted least squares on s sampled rows of the Khatri-Rao product."""
    keys = jax.random.split(key, len(factors))
    chosen: list[Any] = [slice(None)] * len(factors)
    weight = jnp.full(s, 1 / s, small.real.dtype)
    rows: Any = 1
    for j, factor in enumerate(factors):
        if j == mode:
            continue
        share = _leverage(factor)
        chosen[j] = jnp.searchsorted(jnp.cumsum(share), jax.random.uniform(keys[j], (s,), share.dtype))
        chosen[j] = jnp.minimum(chosen[j], factor.shape[0] - 1)
        weight = weight / share[chosen[j]]
        rows = rows * factor[chosen[j]]
    fibres = jnp.moveaxis(tensor, mode, -1)[tuple(c for c in chosen if not isinstance(c, slice))] / small
    weighted = rows.conj() * weight[:, None].astype(rows.dtype)
    normal = (rows.T @ weighted)[None]
    old = factors[mode][:, None]
    gradient = jnp.einsum("nsq,sqr->nsr", old, normal) - (fibres.T @ weighted)[:, None]
    zero, usual = jnp.zeros((), weight.dtype), jnp.full(1, 64.0, weight.dtype)
    return (old - solved(gradient, normal, zero, usual))[:, 0]


def _leverage(factor: Array) -> Array:
    """Leverage scores over their sum, mixed with a hundredth of the uniform ones so that no row is out of reach."""
    scores = jnp.sum(jnp.square(jnp.abs(jnp.linalg.qr(factor)[0])), axis=1)
    return 0.99 * scores / jnp.sum(scores) + 0.01 / factor.shape[0]
