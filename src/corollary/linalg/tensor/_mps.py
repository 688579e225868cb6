"""Matrix product states: many-body states as tensor trains in canonical form.

A state of n sites has Π n_k amplitudes; where its entanglement is low, a chain of small cores holds it: a `TensorTrain`
is a matrix product state, there is no second class. The cores are not unique: for any invertible X between two of them
A X and X⁻¹ B give the same state (gauge freedom). The canonical form fixes that up to unitaries: all cores left of one
site, the centre, are isometries from the left and all cores right of it from the right; the norm then sits in the
centre, and truncating there is optimal. Cost: O(n d r³) a sweep.

Source: Schollwöck, Annals of Physics 326 (2011), §4; Oseledets, SIAM J. Sci. Comput. 33 (2011), Theorem 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jax.core import Tracer

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import eps, follows_input
from corollary.core.solution import Solution
from corollary.linalg.tensor._formats import TensorTrain
from corollary.linalg.tensor._mps_sweeps import (
    SCHOLLWOECK,
    as_amplitudes,
    checked_cores,
    checked_mpo,
    common,
    from_dense,
    is_chain,
    isometry,
    natural_size,
    orthogonalise,
    push,
    truncate,
)
from corollary.linalg.tensor._tt_cores import length, module, summed
from corollary.linalg.tensor._tt_matrix import TensorTrainMatrix


@follows_input
def matrix_product_state(state: Any, *, rank: Any = None, tol: Any = None, form: Any = "left") -> Solution:
    """A canonical matrix product state from amplitudes or from local tensors, truncated to a rank or a tolerance.

    Use it to enter: from 2^n amplitudes where they fit, from cores of any gauge where they do not. Cost: for amplitudes
    an SVD of each unfolding, O(N r) to O(N^{3/2}) for N of them; for cores O(n d r³).

    Parameters
    ----------
    state
        (2^n,) amplitudes of n two-level sites, the first site slowest; or (n_0, …, n_{d-1}) amplitudes of sites of
        any sizes; or a `TensorTrain`, or a list of its cores (r_k, n_k, r_{k+1}). Real or complex; any norm.
    rank
        Largest bond dimension; ``None``: as large as needed.
    tol
        Relative error allowed: ‖ψ − MPS‖ <= tol ‖ψ‖; ``None``: rounding. Not under `jit`.
    form
        "left" (centre at the last site), "right" (at the first), or the centre's site, from 0.

    Returns
    -------
    Solution
        ``value``: the `TensorTrain`, with ψ's own norm. Certificates: ``"truncation"`` (exact: the measured error
        against the root of the sum of the squared discarded parts), ``"isometry"`` (exact: the worst defect of a core),
        and given `tol` ``"tolerance"`` (exact; fails where `rank` forbids it, or cores that cancel do). ``stats``:
        ``norm``, ``rank``, ``centre``.

    Raises
    ------
    InputError
        For amplitudes that are not 2^n, cores that do not fit together, NaN, or a rank below 1.

    Notes
    -----
    The sweep's error is at most √(n−1) times the least possible for its ranks (Oseledets, Corollary 2.4).

    Examples
    --------
    >>> import numpy as np
    >>> ghz = np.zeros(8)
    >>> ghz[[0, 7]] = 1.0
    >>> found = matrix_product_state(ghz)
    >>> found.value.rank, round(float(found.stats["norm"]), 6)
    ((1, 2, 2, 1), 1.414214)
    """
    validation.integer(1, none=True)("rank", rank)
    validation.number(0, none=True)("tol", tol)
    if is_chain(state):
        given = checked_cores("state", state)
        xp, centre = module(given[0]), _centre(form, len(given))
        cores, discarded = truncate(orthogonalise(given, len(given) - 1), rank, tol)
        error, natural = TensorTrain(summed(given, cores, -1)).norm(), natural_size(given)
    else:
        amplitudes = as_amplitudes(state)
        xp, centre = module(amplitudes), _centre(form, amplitudes.ndim)
        cores, discarded = from_dense(amplitudes, rank, tol)
        error, natural = length(TensorTrain(tuple(cores)).to_dense() - amplitudes), length(amplitudes)
    cores = orthogonalise(cores, centre)
    norm = length(cores[centre])
    total = length(xp.stack([0 * norm, *discarded]))
    whole = xp.hypot(norm, total)
    small = 32 * len(cores) * eps(cores[0])
    certificates = {
        "truncation": Certificate(
            "‖ψ − MPS‖ <= √(Σ ε_k²) of the discarded singular values",
            measured=error,
            bound=total + small * xp.maximum(whole, natural),  # of cores that cancel more is lost
            kind="exact",
            source="Oseledets, SIAM J. Sci. Comput. 33 (2011), Theorem 2.2",
        ),
        "isometry": isometry(cores, centre),
    }
    if tol is not None:
        certificates["tolerance"] = Certificate(
            "‖ψ − MPS‖ <= tol ‖ψ‖", measured=error, bound=(tol + small) * whole, source="computed"
        )
    train = TensorTrain(tuple(cores))
    return Solution(train, certificates, stats={"norm": norm, "rank": max(train.rank), "centre": centre})


@follows_input
def canonical_form(state: Any, form: Any = "left") -> Solution:
    """The same state in canonical form: all cores isometric but one, the centre, which holds the norm.

    Use it before reading anything off single cores. Nothing is truncated: bonds shrink only where the sizes force it.
    Cost: one sweep of QRs, O(n d r³). It can be jitted and differentiated.

    Parameters
    ----------
    state
        `TensorTrain`, or a list of its cores.
    form
        "left" (centre at the last site), "right" (at the first), or the centre's site, from 0.

    Returns
    -------
    Solution
        ``value``: `TensorTrain`. Certificates: ``"isometry"`` (exact: ‖QᴴQ − I‖_F of the worst core) and ``"same"``
        (exact: the distance from the state that was given). ``stats``: ``norm``, ``centre``.

    Raises
    ------
    InputError
        For cores that do not fit together, NaN, or a centre outside the chain.

    Examples
    --------
    >>> import numpy as np
    >>> state = TensorTrain((np.array([[[3.0], [0.0]]]), np.array([[[0.0], [4.0]]])))
    >>> found = canonical_form(state, "right")
    >>> abs(found.value.cores[1]).ravel().tolist(), float(found.stats["norm"])
    ([0.0, 1.0], 12.0)
    """
    given = checked_cores("state", state)
    centre = _centre(form, len(given))
    cores = orthogonalise(given, centre)
    norm = length(cores[centre])
    same = Certificate(
        "‖ψ − canonical ψ‖ <= rounding, of the size of the cores where these cancel",
        measured=TensorTrain(summed(given, cores, -1)).norm(),
        bound=32 * len(cores) * eps(cores[0]) * natural_size(given),
        source=f"{SCHOLLWOECK}, §4.4; computed",
    )
    certificates = {"isometry": isometry(cores, centre), "same": same}
    return Solution(TensorTrain(tuple(cores)), certificates, stats={"norm": norm, "centre": centre})


@follows_input
def expectation(state: Any, operator: Any) -> Any:
    """⟨ψ|O|ψ⟩/⟨ψ|ψ⟩ for a local operator, a product of local ones (a correlation) or an operator in train form.

    Use it for whatever is measured on a state; it need not be canonical nor of norm one. Cost: O(n d r³), times the
    operator's rank. It can be jitted and differentiated; there bring cores that cancel into canonical form first.

    Parameters
    ----------
    state
        `TensorTrain`, or a list of its cores.
    operator
        ``{site: matrix}``, matrices (n_k, n_k) whose product is meant, e.g. ``{3: Z, 7: Z}``; or a
        `TensorTrainMatrix` of the state's size.

    Returns
    -------
    scalar
        Of the state's and the operator's common precision: complex where one of them is, even where O is Hermitian.

    Raises
    ------
    InputError
        For sizes that do not fit, NaN, or the zero state.

    Examples
    --------
    >>> import numpy as np
    >>> ghz = np.zeros(8)
    >>> ghz[[0, 7]] = 1.0
    >>> psi, Z = matrix_product_state(ghz).value, np.diag([1.0, -1.0])
    >>> round(float(expectation(psi, {0: Z})), 6), round(float(expectation(psi, {0: Z, 2: Z})), 6)
    (0.0, 1.0)
    """
    cores = checked_cores("state", state)
    shape = [c.shape[1] for c in cores]
    if isinstance(operator, Mapping):
        local = _local_operators(operator, shape)
        factors = [local.get(k) for k in range(len(cores))]
    elif isinstance(operator, TensorTrainMatrix):
        factors = checked_mpo("operator", operator, shape)
    else:
        found = type(operator).__name__
        raise InputError(f"operator: found {found}, expected {{site: matrix}} or a TensorTrainMatrix")
    mixed = common([*cores, *(f for f in factors if f is not None)])
    cores, rest = mixed[: len(cores)], iter(mixed[len(cores) :])
    factors = [None if f is None else next(rest) for f in factors]
    xp = module(cores[0])
    if not any(isinstance(core, Tracer) for core in cores):
        cores = orthogonalise(cores, 0, scaled=False)  # else cores that cancel would leave ⟨ψ|ψ⟩ to rounding
    above = below = xp.ones((1, 1, 1), cores[0].dtype)
    for core, factor in zip(cores, factors, strict=True):
        below = push(below, core, None)
        above = push(above, core, factor if factor is None or factor.ndim == 4 else factor[None, :, :, None])
        scale = abs(below).max()  # both carries by the same number: their ratio is what is asked
        if not isinstance(scale, Tracer) and not scale > 0:
            raise InputError("state: found the zero state, expected one with a norm")
        above, below = (env / scale.astype(env.dtype) for env in (above, below))
    return above[0, 0, 0] / below[0, 0, 0]


def _local_operators(operator: Mapping[Any, Any], shape: Sequence[int]) -> dict[int, Any]:
    local = {}
    for site, matrix in operator.items():
        validation.integer(0)("operator: site", site)
        if site >= len(shape):
            raise InputError(f"operator: found site {site}, expected at most {len(shape) - 1}")
        local[int(site)] = validation.tensor(f"operator[{site}]", matrix, low=2, complex=True, host=True)
        if local[int(site)].shape != (shape[site], shape[site]):
            found = local[int(site)].shape
            raise InputError(f"operator[{site}]: found shape {found}, expected ({shape[site]}, {shape[site]})")
    return local


def _centre(form: Any, sites: int) -> int:
    if isinstance(form, str):
        validation.one_of("left", "right")("form", form)
        return sites - 1 if form == "left" else 0
    validation.integer(0)("form", form)
    if form >= sites:
        raise InputError(f"form: found {form}, expected a site from 0 to {sites - 1}, 'left' or 'right'")
    return int(form)
