"""Tucker decomposition: a tensor as a small core times a matrix with orthonormal columns in every mode.

Use it to compress a tensor whose modes each have few directions that matter, to denoise it, or as the higher-order SVD.
HOSVD and its sequential form are as good as the best up to √d and need one or two passes; HOOI improves them to a
stationary point. Cost: the first Gram matrix, n_0 Π n_k flops, dominates the sequential form.

Source: Tucker, Psychometrika 31 (1966); De Lathauwer, De Moor & Vandewalle, SIMAX 21 (2000) 1253 and 1324.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.missing import observed
from corollary.core.precision import follows_input, on_host
from corollary.core.solution import Note, Solution, Status
from corollary.linalg.tensor._formats import Tucker
from corollary.linalg.tensor._tucker_certificates import (
    bounds,
    floor,
    monitors,
    orthonormality,
    relative_error,
    tail_noise,
)
from corollary.linalg.tensor._tucker_hooi import hooi
from corollary.linalg.tensor._tucker_modes import (
    adjoint,
    canonical,
    leading,
    machine_eps,
    multiply,
    phases,
    rows,
    sketched,
    square,
    to_limit,
)
from corollary.linalg.tensor._tucker_nonnegative import nonnegative_tucker

METHODS = ("hooi", "st-hosvd", "hosvd", "randomized")


@follows_input
def tucker(
    tensor: Any,
    rank: Any = None,
    *,
    tol: Any = None,
    method: Any = "hooi",
    mask: Any = None,
    nonnegative: Any = False,
    accuracy: Any = 1e-5,
    max_steps: Any = 100,
    oversampling: Any = 10,
    power_iterations: Any = 1,
    history: Any = False,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """Tucker decomposition for given ranks, or the smallest found that meet a tolerance.

    Use "st-hosvd" for speed, "hooi" for the best fit of these ranks, "hosvd" for the classical truncation of all modes
    at once, "randomized" where the modes are long and the ranks small. Cost: "st-hosvd" n_0 N flops for N entries and
    little after; "hosvd" Σ n_k N; a sweep of "hooi" 4 r N; "randomized" 2(2q + 2)(r + p) N. Given `rank`, JAX arrays
    can be jitted and vmapped; concrete data in host memory are worked on by the host's BLAS where they lie.

    Parameters
    ----------
    tensor
        (n_0, …, n_{d-1}), d >= 2, real or complex. NaN marks a missing entry (real data, "hooi").
    rank
        The core's size: an integer for all modes, or one for each; at most min(n_k, product of the other
        n_j), which is what the mode's unfolding has: None in a sequence keeps all of it. Give this or `tol`.
    tol
        Relative error in the Frobenius norm that is not to be exceeded; every mode may spend what is left over d.
    method
        "hooi", "st-hosvd", "hosvd" or "randomized".
    mask
        True where observed, of the tensor's shape.
    nonnegative
        Factors and core not negative (method "hooi", given `rank`, real data); the factors are then not orthonormal.
    accuracy
        Norm of the gradient in all factors over ‖X‖², at which "hooi" stops; rounding is the least that it asks for.
    max_steps
        Most sweeps of "hooi".
    oversampling, power_iterations
        p and q of "randomized".
    history
        Keep the relative error after every sweep of "hooi".
    key
        For "randomized": ``jax.random.key(0)`` by default.

    Returns
    -------
    Solution
        ``value``: a `Tucker` in the gauge of the HOSVD: orthonormal factors, core slices mutually orthogonal and of
        falling norm in every mode. ``stats``: ``relative_error`` (over the observed entries), ``tails`` (the
        discarded part of each mode over ‖X‖), ``best_error_at_least`` (no Tucker of these ranks has a smaller relative
        error), ``method``. ``steps``: sweeps. ``status``: MAX_STEPS where HOOI has not met `accuracy`; PRECISION
        where rounding hides `tol`.
        Certificates: ``"error_bound"`` (exact: error² <= Σ tails²), ``"quasi_optimal"`` (theorem: error <= √d times
        the best; not for "randomized", whose tails are not singular values), ``"tolerance"`` (exact, with `tol`),
        ``"orthonormality"`` (exact); for "hooi" ``"monotone"`` and ``"stationarity"`` (monitor); with missing entries
        ``"fit"`` (estimate) in place of the bounds; for nonnegative ones ``"nonnegative"`` (exact) beside
        ``"monotone"`` and ``"stationarity"``.

    Raises
    ------
    InputError
        Unless exactly one of `rank` and `tol` is given; for ranks that the shape does not allow, a slice without any
        observed entry, missing entries or nonnegativity with a method other than "hooi" or with `tol`.

    Notes
    -----
    The error is measured by ‖X‖² − ‖G‖² where that keeps its digits and by the residual itself where it is small.
    Gram matrices are used where the tail asked for is above √eps ‖X‖², QR and SVD below. Mode-k tails of the
    sequential form are those of a projected tensor, hence no larger than the tensor's own, so the best error is at
    least the largest of them. JAX differentiates all methods but "hooi",
    whose loop has no reverse mode.
    Source: De Lathauwer et al. (2000a), Property 10, and (2000b), Algorithm 4.2; Vannieuwenhoven et al., SIAM J. Sci.
    Comput. 34 (2012), Theorems 5.1 and 6.2; Minster, Saibaba & Kilmer, SIAM J. Math. Data Sci. 2 (2020).

    Examples
    --------
    >>> import numpy as np
    >>> T = np.einsum("i,j,k->ijk", [1.0, 2.0], [1.0, 1.0, 1.0], [1.0, -1.0])
    >>> found = tucker(T, tol=1e-8)
    >>> found.value.rank, bool(found.holds)
    ((1, 1, 1), True)
    """
    validation.one_of(*METHODS)("method", method)
    validation.flag("nonnegative", nonnegative)
    validation.number(0, open_low=True)("accuracy", accuracy)
    validation.integer(1)("max_steps", max_steps)
    validation.integer(0)("oversampling", oversampling)
    validation.integer(0)("power_iterations", power_iterations)
    validation.flag("history", history)
    validation.number(0, 1, open_low=True, none=True)("tol", tol)
    if (rank is None) == (tol is None):
        raise InputError(f"rank, tol: found rank={rank!r} and tol={tol!r}, expected exactly one of them")
    X, seen = read(tensor, mask)
    in_jax = isinstance(X, jax.Array)
    ranks = None if rank is None else checked_ranks(rank, X.shape)
    _fitting(X, seen, ranks, method, nonnegative)
    if on_host(X) and (seen is None or on_host(seen)) and not isinstance(key, Tracer):
        X, seen = np.asarray(X), None if seen is None else np.asarray(seen)
    key = jax.random.key(0) if key is None else key
    xp: Any = np if isinstance(X, np.ndarray) else jnp
    X, scale = scaled(X, xp)
    recorded = int(max_steps) if history else 0
    if nonnegative:
        assert ranks is not None
        found = nonnegative_tucker(X, seen, ranks, accuracy, max_steps, recorded)
    elif seen is not None:
        assert ranks is not None
        found = _incomplete(X, seen, ranks, accuracy, max_steps, recorded, xp)
    else:
        sketch = (oversampling, power_iterations, key)
        found = _complete(X, ranks, tol, method, accuracy, max_steps, recorded, sketch, xp)
    core = found.value.core * scale
    kept = found.history if history else None
    value = Tucker(core, found.value.factors)
    solution = Solution(value, found.certificates, found.status, found.steps, found.stats, kept)
    if in_jax and xp is np:
        return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray | np.generic) else x, solution)
    return solution


def read(tensor: Any, mask: Any) -> tuple[Any, Any]:
    """The tensor with zeros where entries are missing, and what was observed (None where all were)."""
    tensor = tensor if isinstance(tensor, jax.Array) else np.asarray(tensor)
    if mask is None and (tensor.dtype.kind == "c" or isinstance(tensor, Tracer) or _finite(tensor)):
        return validation.tensor("tensor", tensor, low=2, complex=True, host=True), None
    return observed("tensor", tensor, mask, low=2)


def _finite(tensor: Any) -> bool:
    if tensor.dtype.kind not in "biuf":
        return True  # validation says what is wrong with it
    with np.errstate(all="ignore"):
        return bool(np.isfinite((np.asarray(tensor) if on_host(tensor) else tensor).sum()))


def checked_ranks(rank: Any, shape: tuple[int, ...], name: str = "rank") -> tuple[int, ...]:
    """A rank for each mode that the shape allows; for None all that the mode's unfolding has."""
    if isinstance(rank, Sequence | np.ndarray) and not isinstance(rank, str):
        if len(rank) != len(shape):
            raise InputError(f"{name}: found {len(rank)} ranks, expected {len(shape)}, one for each mode")
        each: list[Any] = list(rank)
    else:
        each = [validation.integer(1)(name, rank)] * len(shape)
    most = [min(n, math.prod(shape) // n) for n in shape]
    for mode, r in enumerate(each):
        validation.integer(1, none=True)(f"{name}[{mode}]", r)
        if r is not None and r > most[mode]:
            raise InputError(f"{name}[{mode}]: found {r}, expected at most {most[mode]} for a tensor of shape {shape}")
    return tuple(m if r is None else int(r) for r, m in zip(each, most, strict=True))


def _fitting(X: Any, seen: Any, ranks: Any, method: str, nonnegative: bool) -> None:
    """Refuse what does not go together."""
    for asked, what in ((seen is not None, "missing entries"), (nonnegative, "nonnegative=True")):
        if asked and method != "hooi":
            raise InputError(f"method: found {method!r} with {what}, expected 'hooi'")
        if asked and ranks is None:
            raise InputError(f"tol: found a tolerance with {what}, expected `rank`")
    if nonnegative and X.dtype.kind == "c":
        raise InputError("tensor: found complex numbers with nonnegative=True, expected real ones")
    if ranks is None and isinstance(X, Tracer):
        raise InputError("tol: found a traced tensor (under jit or vmap), expected `rank`, which has a fixed shape")


def scaled(X: Any, xp: Any) -> tuple[Any, Any]:
    """X over a power of two that keeps fourth powers of norms within range, and that power; 1 where all is well."""
    safe = float(np.finfo(X.real.dtype).max) ** 0.1
    if xp is np:
        with np.errstate(over="ignore", under="ignore"):
            size = math.sqrt(square(X, np))
        if 1 / safe < size < safe:
            return X, np.ones((), X.real.dtype)
    scale = xp.ldexp(xp.ones((), X.real.dtype), xp.frexp(xp.max(xp.abs(X)))[1] - 1)  # no larger than an entry: finite
    return X / scale, scale


class Parts(NamedTuple):
    """A decomposition before it is put in form: core, factors (None: whole), squared tails over ‖X‖² by mode."""

    core: Any
    factors: tuple[Any, ...]
    tails: tuple[Any, ...]


def _complete(
    X: Any, ranks: Any, tol: Any, method: str, accuracy: Any, max_steps: Any, recorded: int, sketch: Any, xp: Any
) -> Solution:
    """The decomposition of a tensor without gaps, with its certificates."""
    if xp is jnp and ranks is not None:
        return _compiled(X, ranks, method, accuracy, max_steps, recorded, sketch[2], sketch[:2])
    return _decompose(X, ranks, tol, method, accuracy, max_steps, recorded, sketch, xp)


@functools.partial(jax.jit, static_argnames=("ranks", "method", "recorded", "numbers"))
def _compiled(
    X: Any, ranks: Any, method: str, accuracy: Any, max_steps: Any, recorded: int, key: Any, numbers: Any
) -> Solution:
    return _decompose(X, ranks, None, method, accuracy, max_steps, recorded, (*numbers, key), jnp)


def _decompose(
    X: Any, ranks: Any, tol: Any, method: str, accuracy: Any, max_steps: Any, recorded: int, sketch: Any, xp: Any
) -> Solution:
    total = square(X, xp)
    safe = xp.where(total > 0, total, 1)
    parts = _truncate(X, ranks, None if tol is None else tol**2 * float(total), method, sketch, xp)
    tails = tuple(t / safe for t in parts.tails)
    factors, core = parts.factors, parts.core
    run = None
    whole = all(U is None for U in factors)
    if method == "hooi" and not whole:
        limit = xp.maximum(accuracy, floor(X))
        run = hooi(X, None, factors, core, limit, max_steps, recorded)
        factors, core = run.factors, run.core
    core, factors = canonical(core, factors, xp)
    error, doubt = relative_error(X, total, core, factors, xp)
    certificates = bounds(X, error, doubt, tails, parts.factors, method, xp)
    if tol is not None:
        certificates["tolerance"] = Certificate(
            "‖X − T‖ <= tol ‖X‖", measured=error, bound=tol + floor(X), kind="exact", source="measured"
        )
    certificates["orthonormality"] = orthonormality(factors, xp)
    status = Status.of(True if run is None else run.stationarity <= limit, xp.isfinite(error))
    if tol is not None and float(error) > tol and int(status) == Status.CONVERGED:
        status = Status.PRECISION
    if run is not None:
        certificates |= monitors(run, limit, X, xp)
    stats = {
        "relative_error": error,
        "tails": xp.sqrt(xp.asarray(xp.stack([xp.asarray(t) for t in tails]))),
        "method": Note(method),
    }
    if method != "randomized":
        sure = [xp.maximum(t - tail_noise(X, t, False, xp), 0) for t in tails]
        stats["best_error_at_least"] = xp.sqrt(functools.reduce(xp.maximum, sure))
    steps = 0 if run is None else run.steps
    trace = None if run is None else {"relative_error": run.history}
    return Solution(Tucker(core, factors), certificates, status, steps, stats, trace)


def _truncate(X: Any, ranks: Any, limit: Any, method: str, sketch: Any, xp: Any) -> Parts:
    """HOSVD of all modes at once, or one mode after another (shortest first: its Gram matrix is the cheapest)."""
    d = X.ndim
    factors: list[Any] = [None] * d
    tails: list[Any] = [xp.zeros((), X.real.dtype)] * d
    core, left = X, limit
    order = range(d) if method == "hosvd" else sorted(range(d), key=lambda k: X.shape[k])
    for count, mode in enumerate(order):
        if ranks is not None and ranks[mode] == X.shape[mode]:
            continue
        A = rows(X if method == "hosvd" else core, mode, xp)
        if ranks is None:
            allowed = limit / d if method == "hosvd" else left / (d - count)
            U, tail = _within(A, allowed, method, sketch, xp)
            left = left - tail
            if U.shape[1] == X.shape[mode]:
                continue
        elif method == "randomized":
            U, tail = sketched(A, ranks[mode], sketch[0], sketch[1], jax.random.fold_in(sketch[2], mode), xp)
            U = U * phases(U, xp)  # else the next mode's sketch depended on signs that LAPACK leaves open
        else:
            U, tail = leading(A, ranks[mode], xp)
        factors[mode], tails[mode] = U, tail
        core = multiply(core, adjoint(U), mode)
    return Parts(core, tuple(factors), tuple(tails))


def _within(A: Any, limit: float, method: str, sketch: Any, xp: Any) -> tuple[Any, float]:
    """A basis that leaves at most `limit` of ‖A‖²: from a growing sketch for "randomized", half for the sketch."""
    total, width = float(square(A, xp)), 16
    if method != "randomized" or limit <= 4 * math.sqrt(machine_eps(A)) * total:
        return to_limit(A, limit, xp)  # a sketch's misses, a difference of norms, are not known so finely
    while 2 * width < min(A.shape):
        U, missed = sketched(A, width, sketch[0], sketch[1], sketch[2], xp)
        if float(missed) <= limit / 2:
            V, tail = to_limit(adjoint(U) @ A, limit - float(missed), xp)
            return U @ V, float(missed) + tail
        width *= 2
    return to_limit(A, limit, xp)


def _incomplete(X: Any, seen: Any, ranks: Any, accuracy: Any, max_steps: Any, recorded: int, xp: Any) -> Solution:
    """HOOI with the gaps filled from the model; it starts from the HOSVD with the gaps at the observed mean."""
    mean = xp.sum(X) / xp.sum(seen).astype(X.dtype)
    parts = _truncate(xp.where(seen, X, mean), ranks, None, "st-hosvd", None, xp)
    limit = xp.maximum(accuracy, floor(X))
    run = hooi(X, seen, parts.factors, parts.core, limit, max_steps, recorded)
    error = xp.sqrt(run.misfit)
    core, factors = canonical(run.core, run.factors, xp)
    certificates = {
        "fit": Certificate("relative error over the observed entries", measured=error, kind="estimate"),
        "orthonormality": orthonormality(factors, xp),
        **monitors(run, limit, X, xp),
    }
    status = Status.of(run.stationarity <= limit, xp.isfinite(error))
    stats = {
        "relative_error": error,
        "observed": xp.mean(seen.astype(X.dtype)),
        "method": Note("hooi, missing entries filled from the model"),
    }
    return Solution(Tucker(core, factors), certificates, status, run.steps, stats, {"relative_error": run.history})
