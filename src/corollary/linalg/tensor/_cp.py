"""CP decomposition by alternating least squares: the sum of `rank` outer products nearest to a tensor.

Use it for data with one underlying factor a mode: mixtures measured over two other variables (spectra), or relations.
Unlike a matrix factorisation it is unique under mild conditions, which the answer's Kruskal certificate checks. Cost of
a sweep: two passes over the tensor, 4 r Π n_j flops (with missing entries 2 r² Π n_j more).

Source: Carroll & Chang (1970), Harshman (1970); Kolda & Bader, SIAM Review 51 (2009), §3.4; extrapolation with restarts
as in Ang, Cohen, Gillis & Hien, Accelerating block coordinate descent for nonnegative tensor factorization (2021).
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.missing import observed
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.linalg.tensor._cp_loop import Outcome, Plan, run
from corollary.linalg.tensor._cp_mttkrp import DenseData, SparseData, coordinates
from corollary.linalg.tensor._cp_start import checked_init, squared_spectrum, start_factors
from corollary.linalg.tensor._formats import CP
from corollary.linalg.tensor._kruskal import kruskal_certificate

Data = DenseData | SparseData
KOLDA = "Kolda & Bader, SIAM Review 51 (2009), §3.4"


@follows_input
def cp_als(
    tensor: Any,
    rank: Any,
    *,
    mask: Any = None,
    starts: Any = 1,
    init: Any = "auto",
    nonnegative: bool = False,
    ridge: Any = 0.0,
    accelerate: bool = True,
    tol: Any = 1e-6,
    max_steps: Any = 500,
    history: bool = False,
    certify: Any = True,
    key: Key[Array, ""],
) -> Solution:
    """Factors whose sum of outer products is nearest to the tensor, by sweeps of exact least squares.

    Use it for mixtures and relations in three or more modes, also with missing entries. Cost: a sweep makes two passes
    over a dense tensor and 4 r Π n_j flops for each start; with missing entries 2 r (r + 1) Π n_j more, for the exact
    normal equations of every row (no imputation: it converges as without a mask, and never goes up). All starts share
    the passes. The function can be jitted and vmapped over dense tensors (mask given as an array, no NaN).

    Parameters
    ----------
    tensor
        (n_0, …, n_{d-1}) with d >= 2, real or complex; NaN is missing. Sparse: BCOO, or a triple (indices (m, d),
        values (m,), shape), where an entry that is not stored is zero, not missing.
    rank
        How many outer products; at most the product of all sizes but the largest, which suffice for any tensor.
    mask
        Booleans of the tensor's shape, True where observed.
    starts
        Starts side by side; the best one is returned.
    init
        "random" (Gaussian), "svd" (the first start from the leading singular vectors of the unfoldings), or a `CP`.
        "auto": for a large dense tensor of low rank without gaps the best of all starts on its compression, which costs
        four passes; else "svd", or "random" where the data are sparse or the factors must not be negative.
    nonnegative
        Factors without negative entries, by coordinate descent within each mode; real data only.
    ridge
        λ of the penalty λ Σ_k ‖A_k‖² beside ‖X − X̂‖²; it keeps factors that would cancel each other bounded.
    accelerate
        Extrapolate between sweeps, and restart from the last point where the error rose: at most a sweep is lost.
    tol
        Stop where in every mode ‖gradient‖ <= tol ‖X‖ ‖Khatri-Rao product‖; so does a relative error <= tol.
    max_steps
        Most sweeps.
    history
        Record the relative error after each sweep; compiles once for each `max_steps`.
    certify
        True; False for none of the checks that cost a pass; "full" for a lower bound on the error of any CP of this
        rank besides, from the singular values of the unfoldings.
    key
        `jax.random.key`.

    Returns
    -------
    Solution
        ``value``: a `CP` with unit columns, weights falling. Certificates: ``"error"`` (exact: the error reported is
        the one recomputed entry by entry over what was observed; an estimate for sparse data), ``"stationarity"`` and
        ``"monotone"`` (monitor), ``"kruskal"`` (theorem: the terms are unique; outside `jit`), ``"least_error"``
        (exact, "full"). ``stats``: ``error`` relative to ‖X‖, ``errors`` of all starts, ``method``. ``history``:
        ``error``. ``status``: MAX_STEPS, or PRECISION where sweeps no longer made a difference.

    Raises
    ------
    InputError
        For ranks that do not fit, slices without an observed entry, a mask or `nonnegative` with data that have none.

    Notes
    -----
    With ‖X − X̂‖² = ‖X‖² − 2⟨X, X̂⟩ + ‖X̂‖² half the digits are lost; below about √(10⁵ eps) the residual is formed. The
    infimum over rank r may not be attained (De Silva & Lim, SIMAX 30 (2008)): terms then grow and cancel; use `ridge`.

    Examples
    --------
    >>> import jax, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> A, B, C = (rng.standard_normal((n, 2)) for n in (4, 5, 6))
    >>> X = np.einsum("ir,jr,kr->ijk", A, B, C)
    >>> X[0, 0, 0] = np.nan
    >>> solution = cp_als(X, 2, key=jax.random.key(0))
    >>> bool(solution.stats["error"] < 1e-5), bool(solution.holds)
    (True, True)
    """
    data = _data(tensor, mask, nonnegative)
    _check_settings(data, rank, starts, nonnegative, ridge, accelerate, tol, max_steps, history, certify)
    checked_init(init, tuple(data.shape), int(rank), data.dtype, ("auto", "random", "svd"))
    data, scale = _unit(data)
    factors, how = start_factors(data, scale, int(rank), int(starts), init, nonnegative, key)
    real = factors[0].real.dtype
    plan = Plan(int(rank), bool(nonnegative), int(max_steps) if history else 0, certify is not False)
    limits = (jnp.asarray(tol, real), jnp.asarray(ridge, real), jnp.asarray(accelerate), jnp.asarray(max_steps))
    found = run(data, factors, scale, *limits, plan)
    value = CP(found.weights, tuple(found.factors))
    stats = {
        "error": found.error,
        "errors": found.errors,
        "start": found.best,
        "method": Note(f"{_method(data, nonnegative)}; start: {how}"),
    }
    status = Status.of(found.gradient <= tol, jnp.isfinite(found.error))
    status = jnp.where((status == Status.MAX_STEPS) & found.idle, Status.PRECISION, status).astype(jnp.int32)
    trace = {"error": found.history} if history else None
    certificates = _certificates(data, value, found, tol, certify)
    return Solution(value, certificates, status, found.steps, stats, trace)


def _data(tensor: Any, mask: Any, nonnegative: Any) -> Data:
    """Checked data, not scaled yet."""
    sparse = coordinates(tensor)
    if sparse is not None:
        if mask is not None:
            raise InputError("mask: found one for sparse data, expected None: an entry that is not stored is zero")
        data: Data = SparseData.of(*sparse)
    else:
        if isinstance(tensor, tuple | list):
            tensor = np.asarray(validation.tensor("tensor", tensor, low=2, complex=True, missing=True))
        dtype = getattr(tensor, "dtype", None)
        if dtype is not None and np.dtype(dtype).kind == "c" and nonnegative:
            raise InputError(f"tensor: found dtype {dtype}, expected real numbers where nonnegative=True")
        filled, seen = _observed(tensor, mask)
        filled = jnp.asarray(filled)
        data = DenseData(filled, None if seen is None else jnp.asarray(seen).astype(filled.real.dtype))
    if nonnegative and np.dtype(data.dtype).kind == "c":
        raise InputError(f"tensor: found dtype {data.dtype}, expected real numbers where nonnegative=True")
    return data


def _observed(tensor: Any, mask: Any) -> tuple[Any, Any]:
    """The library's convention, for complex data too."""
    tensor = validation.tensor("tensor", tensor, low=2, complex=True, missing=True, host=True)
    if tensor.dtype.kind != "c":
        return observed("tensor", tensor, mask, low=2)
    xp: Any = jnp if isinstance(tensor, jax.Array) else np
    gaps = xp.where(xp.isnan(tensor), xp.full((), np.nan, tensor.real.dtype), xp.abs(tensor))
    _, seen = observed("tensor", gaps, mask, low=2)
    return (tensor, None) if seen is None else (xp.where(seen, tensor, xp.zeros((), tensor.dtype)), seen)


def _check_settings(
    data: Data, rank: Any, starts: Any, nonnegative: Any, ridge: Any, accelerate: Any, tol: Any, *rest: Any
) -> None:
    max_steps, history, certify = rest
    shape = data.shape
    validation.integer(1)("rank", rank)
    most = math.prod(shape) // max(shape)
    if rank > most:
        raise InputError(f"rank: found {rank}, expected at most {most}: so many terms are any tensor of shape {shape}")
    validation.integer(1)("starts", starts)
    for name, value in (("nonnegative", nonnegative), ("accelerate", accelerate), ("history", history)):
        validation.flag(name, value)
    largest = float(jnp.finfo(data.dtype).max)
    for name, value, most in (("ridge", ridge, largest), ("tol", tol, math.inf)):
        if not isinstance(value, jax.Array):
            validation.number(0, most)(name, value)
    if not (isinstance(max_steps, jax.Array) and not history):
        validation.integer(1)("max_steps", max_steps)
    validation.one_of(True, False, "full")("certify", certify)


@eqx.filter_jit
def _unit(data: Data) -> tuple[Data, Array]:
    """The data divided by a power of two, exactly, so that the largest entry is in [1, 2); and that power."""
    entries = data.tensor if isinstance(data, DenseData) else data.values
    largest = jnp.max(jnp.abs(entries))
    _, exponent = jnp.frexp(jnp.where(largest > 0, largest, 1))
    scale = jnp.ldexp(jnp.ones((), largest.dtype), exponent - 1)  # no larger than an entry: finite
    scaled = entries / scale.astype(entries.dtype)
    if isinstance(data, DenseData):
        return DenseData(scaled, data.mask), scale
    return SparseData(data.indices, scaled, data.shape), scale


def _certificates(data: Data, value: CP, found: Outcome, tol: Any, certify: Any) -> dict[str, Certificate]:
    """What is known of the best start."""
    real = found.error.dtype
    certificates = {
        "monotone": Certificate(
            "the error (with its penalty) never rose from one sweep to the next: largest rise of ‖X − X̂‖²/‖X‖²",
            measured=found.rise,
            bound=found.allowed,
            kind="monitor",
            source=f"{KOLDA}: each mode is a least squares problem",
        )
    }
    if certify is False:
        return certificates
    certificates["stationarity"] = Certificate(
        "‖gradient of ½‖X − X̂‖² in any mode‖ <= tol ‖X‖ ‖Khatri-Rao product of the others‖",
        measured=found.gradient,
        bound=jnp.asarray(tol, real),
        kind="monitor",
        source=KOLDA,
    )
    if isinstance(data, DenseData):
        where = "" if data.mask is None else " over the observed entries"
        certificates["error"] = Certificate(
            f"‖X − X̂‖/‖X‖{where}, summed entry by entry, is at most the error reported",
            measured=found.measured,
            bound=found.bound,
            kind="exact",
            source="definition of the residual",
        )
    else:
        certificates["error"] = Certificate(
            "‖X − X̂‖/‖X‖ from ‖X‖² − 2⟨X, X̂⟩ + ‖X̂‖²",
            measured=found.error,
            kind="estimate",
            stderr=found.bound - found.error,
            source=KOLDA,
        )
    if certify == "full" and isinstance(data, DenseData) and data.mask is None:
        certificates["least_error"] = Certificate(
            "no CP of this rank has an error below max_k √(Σ_(i > r) σ_i²(X_(k)))/‖X‖ <= the error found",
            measured=_least_error(data.tensor, value.rank),
            bound=found.measured + 8 * jnp.finfo(real).eps,
            kind="exact",
            source="Eckart-Young on the unfoldings, whose rank is at most r",
        )
    if not isinstance(value.weights, Tracer):
        certificates["kruskal"] = kruskal_certificate(value).certificates["kruskal"]
    return certificates


def _least_error(tensor: Array, rank: int) -> Array:
    """From below: the eigenvalues of the Gram matrices lose half the digits, which are taken off."""
    total = jnp.sum(jnp.square(jnp.abs(tensor)))
    tails = [jnp.sum(squared_spectrum(tensor, k)[rank:]) for k in range(tensor.ndim)]
    lost = 8 * max(tensor.shape) * jnp.finfo(total.dtype).eps
    return jnp.sqrt(jnp.maximum(jnp.max(jnp.stack(tails)) / jnp.where(total > 0, total, 1) - lost, 0))


def _method(data: Data, nonnegative: bool) -> str:
    how = "nonnegative coordinate descent" if nonnegative else "least squares"
    if isinstance(data, SparseData):
        return f"sparse, {how} in every mode"
    return f"dense, {how} in every mode" if data.mask is None else f"{how} row by row on the observed entries"
