"""Which factorisation: exact or approximate, by products or by entries, chosen from shape, goal, rank and budget.

Use it before a large computation. It compares operation counts and passes over the data, says why, and, given the
matrix, tries its choice on a small part of it where the truth can be had. A dense randomized method still reads the
matrix: O(m n) at the least; only entries on demand (`pivoted_cholesky`) read less. Cost: O(1); the trial is that of a
dense SVD of a few hundred rows and columns. Source: Halko, Martinsson & Tropp (2011), §1.4; Martinsson & Tropp (2020).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np
import scipy.sparse
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution
from corollary.linalg.low_rank._cur import cur
from corollary.linalg.low_rank._interpolative import interpolative
from corollary.linalg.low_rank._nystrom import nystrom
from corollary.linalg.low_rank._pivoted_cholesky import pivoted_cholesky
from corollary.linalg.low_rank._randomized_svd import randomized_svd
from corollary.linalg.low_rank._range_finder import range_finder
from corollary.linalg.low_rank._rrqr import randomized_rrqr

GOALS = ("svd", "basis", "rank", "columns", "columns and rows", "psd")
EXACT = {
    "svd": "svd",
    "basis": "pivoted_qr",
    "rank": "numerical_rank",
    "columns": "pivoted_qr",
    "columns and rows": "cur",
}
APPROXIMATE = {
    "svd": "randomized_svd",
    "basis": "range_finder",
    "rank": "randomized_rrqr",
    "columns": "interpolative",
    "columns and rows": "cur",
    "psd": "nystrom",
}
TRIAL = 300  # rows and columns of the part on which a choice is tried


class Choice(eqx.Module):
    """The method by its name in `corollary.linalg`, why, what it costs, and how often it goes over the data."""

    method: Note
    reason: Note
    flops: float
    exact_flops: float
    passes: float


@follows_input
def choose_factorisation(
    shape: Any = None,
    rank: Any = None,
    goal: Any = "svd",
    *,
    A: Any = None,
    solver: Any = "auto",
    accuracy: Any = 1e-6,
    decay: Any = "unknown",
    entries: Any = False,
    sparse: Any = False,
    budget: Any = None,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """Choose a factorisation for a shape, a rank and a goal, and try it on a part of the matrix if that is given.

    Use it as a checked version of the page 'Which factorisation, which sketch'. Cost: O(1) without `A`.

    Parameters
    ----------
    shape
        (m, n); taken from `A` where that is given.
    rank
        k that is wanted; None: all of it, or unknown.
    goal
        "svd", "basis", "rank", "columns" (an interpolative decomposition), "columns and rows" (CUR) or "psd" (a factor
        of a positive semidefinite matrix).
    A
        The matrix, dense or sparse: the choice is tried on at most 300 of its rows and columns.
    solver
        A method's name, which is then obeyed, or "auto".
    accuracy
        Relative accuracy that is wanted of the part that is kept.
    decay
        "fast", "slow" or "unknown": how the singular values fall. Slow decay costs products.
    entries
        Whether single entries can be had without forming the matrix (a kernel).
    sparse
        Whether A is sparse, or known by its products only.
    budget
        Floating-point operations that may be spent; None: no limit.
    key
        For the trial: `jax.random.key(0)` by default.

    Returns
    -------
    Solution
        ``value``: `Choice`. With `A`, the certificate ``"subproblem"`` (probabilistic): on the part, the true error is
        within the bound that the method itself computed.

    Raises
    ------
    InputError
        For an unknown goal, a rank beyond the shape, or a budget that no method keeps.

    Notes
    -----
    The decision table, first match: (1) a named solver; (2) psd: all of it, or k > n/4, `pivoted_cholesky`; entries at
    hand, `pivoted_cholesky` (random pivots); else `nystrom`, or `pivoted_cholesky` where accuracy < 1e-8 asks for more
    than a single pass gives; (3) sparse or products only with a rank: the approximate method; (4) no rank: the exact
    method; (5) k > min(m, n)/20, or min(m, n) <= 500: exact; (6) approximate. A budget below the cost of what (1)-(6)
    chose moves it to the approximate method, if a rank is given.

    Examples
    --------
    >>> str(choose_factorisation((100000, 2000), 20).value.method)
    'randomized_svd'
    >>> str(choose_factorisation((300, 200), 20).value.method)
    'svd'
    """
    validation.one_of(*GOALS)("goal", goal)
    validation.one_of("fast", "slow", "unknown")("decay", decay)
    validation.one_of("auto", *sorted({*EXACT.values(), *APPROXIMATE.values(), "pivoted_cholesky"}))("solver", solver)
    validation.integer(1, none=True)("rank", rank)
    validation.number(0, 1, open_low=True)("accuracy", accuracy)
    validation.number(0, open_low=True, none=True)("budget", budget)
    if A is not None:
        shape, sparse = A.shape, sparse or scipy.sparse.issparse(A)
    if not (isinstance(shape, tuple) and len(shape) == 2 and all(isinstance(i, int) and i > 0 for i in shape)):
        raise InputError(f"shape: found {shape!r}, expected (rows, columns), both positive, or a matrix A")
    if rank is not None and rank > min(shape):
        raise InputError(f"rank: found {rank}, expected at most {min(shape)} for shape {shape}")
    if goal == "psd" and shape[0] != shape[1]:
        raise InputError(f"shape: found {shape}, expected a square one for goal 'psd'")
    method, reason = _choose(shape, rank, goal, solver, accuracy, entries, sparse)
    exact = _exact_flops(shape, goal)
    flops, passes = _cost(method, shape, rank, decay, exact)
    if budget is not None and flops > budget and solver == "auto":
        cheaper = APPROXIMATE[goal]
        if rank is None or _cost(cheaper, shape, rank, decay, exact)[0] > budget:
            raise InputError(f"budget: found {budget:.2g} operations, expected at least {flops:.2g}, or a smaller rank")
        method, reason = cheaper, f"the exact method's {flops:.1e} operations are beyond the budget of {budget:.1e}"
        flops, passes = _cost(method, shape, rank, decay, exact)
    value = Choice(Note(method), Note(reason), float(flops), float(exact), float(passes))
    key = jax.random.key(0) if key is None else key
    certificates = {} if A is None or rank is None else {"subproblem": _try(A, method, rank, accuracy, key)}
    return Solution(value, certificates, stats={"method": Note(f"{method}: {reason}")})


def _choose(
    shape: tuple[int, int], k: int | None, goal: str, solver: str, accuracy: float, entries: bool, sparse: bool
) -> tuple[str, str]:
    small = min(shape)
    if solver != "auto":
        return solver, "as asked"
    if goal == "psd":
        if k is None or 4 * k > small:
            return "pivoted_cholesky", "a large share of the factor is wanted: n³/3 by LAPACK"
        if entries:
            return (
                "pivoted_cholesky",
                f"entries on demand: {k + 1} of {small} columns are read, the matrix never formed",
            )
        if accuracy < 1e-8:
            return "pivoted_cholesky", "a single pass reaches about half of the digits"
        return "nystrom", "a single product with a block"
    if k is None and not sparse:
        return EXACT[goal], "no rank is given, so all of it is wanted"
    if k is None:
        return APPROXIMATE[goal], "sparse or known by its products: give `tol`, and the rank is found"
    if sparse and 2 * (k + 10) < small:
        return APPROXIMATE[goal], "sparse or known by its products, and few directions are wanted"
    if small <= 500 or 20 * k > small:
        return EXACT[goal], "small, or a large share of the directions is wanted"
    return APPROXIMATE[goal], f"{k} of {small} directions: a few passes over the matrix, O(m n k), instead of O(m n²)"


def _exact_flops(shape: tuple[int, int], goal: str) -> float:
    m, n = max(shape), min(shape)
    return {"psd": n**3 / 3, "svd": 6 * m * n**2 + 20 * n**3}.get(goal, 4 * m * n**2)


def _cost(method: str, shape: tuple[int, int], k: int | None, decay: str, exact: float) -> tuple[float, float]:
    """Operations, and passes over the matrix: a dense method reads each of its m n entries at least once."""
    (m, n), width = shape, (k or min(shape)) + 10
    if method in ("svd", "pivoted_qr", "numerical_rank"):
        return exact, 1
    if method == "pivoted_cholesky":
        rank = k or n
        return min(n * rank**2 + 1.0 * n, exact), min((rank + 1) / n, 1)
    passes = {"fast": 2, "unknown": 6, "slow": 12}[decay] if method == "randomized_svd" else 2
    passes = 1 if method == "nystrom" else passes
    return 2.0 * passes * m * n * width + 4.0 * (m + n) * width**2, passes


def _try(A: Any, method: str, rank: int, accuracy: float, key: Key[Array, ""]) -> Certificate:
    """The method on a random part of A: the error that it claims, against the true one."""
    m, n = A.shape
    pick_rows, pick_columns, run = jax.random.split(key, 3)
    rows = np.asarray(jax.random.choice(pick_rows, m, (min(TRIAL, m),), replace=False))
    square = method in ("nystrom", "pivoted_cholesky")
    columns = rows if square else np.asarray(jax.random.choice(pick_columns, n, (min(TRIAL, n),), replace=False))
    part = (
        scipy.sparse.csr_array(A)[rows][:, columns].toarray()
        if scipy.sparse.issparse(A)
        else np.asarray(A)[np.ix_(rows, columns)]
    )
    k = min(rank, *part.shape)
    approximation, bound = _run(part, method, k, accuracy, run)
    error = part - approximation
    return Certificate(
        f"on {part.shape[0]} rows and {part.shape[1]} columns: true ‖error‖₂ <= the bound that the method computed",
        measured=np.linalg.norm(error, 2),
        bound=bound,
        kind="probabilistic",
        confidence=1 - 1e-6,
        source="a dense singular value decomposition of the part's error",
    )


def _run(part: np.ndarray, method: str, k: int, accuracy: float, key: Key[Array, ""]) -> tuple[np.ndarray, Any]:
    if method == "nystrom":
        found = nystrom(part, k, key=key)
        return found.value.matrix, found.certificates["spectral_error"].bound
    if method == "pivoted_cholesky":
        found = pivoted_cholesky(part, k, pivoting="random", key=key)
        return found.value.matrix, found.certificates["trace"].bound
    if method == "randomized_svd":
        found = randomized_svd(part, k, accuracy=max(accuracy, 1e-6), key=key)
        U, s, Vt = found.value
        return (U * s) @ Vt, found.certificates["spectral_error"].bound
    if method == "range_finder":
        found = range_finder(part, k, key=key)
        return found.value @ (found.value.T @ part), found.certificates["spectral_error"].bound
    if method == "randomized_rrqr":
        found = randomized_rrqr(part, k, key=key)
        Q = found.value.Q
        return Q @ (Q.T @ part), found.certificates["spectral_error"].bound
    if method in ("interpolative", "cur"):
        found = interpolative(part, k, key=key) if method == "interpolative" else cur(part, k, key=key)
        return found.value.matrix, found.certificates["spectral_error"].bound
    U, s, Vt = np.linalg.svd(part, full_matrices=False)  # an exact method, cut at rank k: the error is σ_{k+1}
    noise = 16 * np.finfo(part.dtype).eps * max(part.shape) * s[0]
    return (U[:, :k] * s[:k]) @ Vt[:k], (s[k] if k < len(s) else 0.0) + noise
