"""Numerical rank with what goes with it: an independent subset, bases of range and null space, one null relation.

Use it to decide whether vectors are independent, which of them suffice, and what relation holds between the others.
Cost: O(m n min(m, n)). Source: Golub & Van Loan, Matrix Computations, 4th ed., §5.4.1-5.4.2; Weyl for the certificate;
Gu & Eisenstat (1996) for the subset.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg.low_rank import _skeleton as skeleton
from corollary.linalg.low_rank._svd import svd

Part = Float[Array | np.ndarray, "_ _"]


class NumericalRank(eqx.Module):
    """The rank of a set of columns, the dimension of their null space, and bases for what they span and annihilate."""

    rank: Int[Array | np.ndarray, ""] | int | np.integer
    nullity: Int[Array | np.ndarray, ""] | int | np.integer
    independent: Int[Array | np.ndarray, " _"]
    basis: Part
    null_space: Part
    relation: Float[Array | np.ndarray, " n"]
    singular_values: Float[Array | np.ndarray, " _"]


@follows_input
def numerical_rank(A: Any, *, tol: Any = None, method: Any = "svd") -> Solution:
    """Rank of A's columns to a tolerance, with an independent subset, bases, and a relation between them.

    Use it for `numpy.linalg.matrix_rank` with an answer to "which ones". Cost: O(m n min(m, n)).

    Parameters
    ----------
    A
        (m, n): n vectors as columns.
    tol
        Singular values at most `tol` σ₁ count as zero; max(m, n) machine epsilons by default, as in NumPy.
    method
        "svd" (the distance to lower rank, exactly), or "qr" (R's diagonal of `pivoted_qr`, which may miss by a factor:
        Kahan's matrix).

    Returns
    -------
    Solution
        ``value``: `NumericalRank`: ``rank``, ``nullity`` n − rank, ``independent`` (indices of `rank` columns),
        ``basis`` (m, rank) and ``null_space`` (n, nullity), orthonormal, ``relation`` (n,) a unit vector with A x ≈ 0,
        zero where there is none, ``singular_values``. Under jit the shapes are those of full rank: `independent` is the
        whole order of columns, unused columns of the bases are zero. Certificates: ``"clear"`` (exact: no singular
        value is within rounding of the cutoff), ``"null"`` (exact: ‖A N‖), ``"independent"`` (theorem; not under jit).

    Raises
    ------
    InputError
        For a matrix that is not dense, finite and real.

    Notes
    -----
    The Gram determinant of the independent subset is positive: its least singular value is at least
    σ_r/√(1 + f² r(n − r)), f = 2 (Gu & Eisenstat 1996, Theorem 3.2).

    Examples
    --------
    >>> import numpy as np
    >>> found = numerical_rank(np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]])).value
    >>> int(found.rank), int(found.nullity), sorted(found.independent.tolist())
    (2, 1, [1, 2])
    """
    validation.one_of("svd", "qr")("method", method)
    validation.number(0, 1, none=True)("tol", tol)
    A = validation.matrix("A", A, host=True)
    traced = isinstance(A, Tracer)
    (m, n), eps = A.shape, float(np.finfo(A.dtype).eps)
    xp = np if isinstance(A, np.ndarray) else jnp
    tol = max(m, n) * eps if tol is None else tol
    found = svd(A)
    U, s, Vt = found.value
    order = _order(A)
    if method == "svd":
        rank = xp.sum(s > tol * s[0])
    else:
        R = xp.linalg.qr(A[:, order], mode="r")
        diagonal = xp.abs(xp.diagonal(xp.asarray(R)))
        rank = xp.sum(diagonal > tol * diagonal[0])
    if traced:
        value = _full(xp, U, s, Vt, n, rank, order)
    else:
        rank = int(rank)
        value = _cut(A, xp, U, s, Vt, rank)
    return Solution(value, _certificates(A, value, s, found, rank, tol, traced, xp), found.status, stats={"rank": rank})


def _order(A: Any) -> Any:
    if isinstance(A, np.ndarray):
        return skeleton.of_sketch(np.asarray(np.linalg.qr(A, mode="r")), min(A.shape)).perm
    scale = jnp.maximum(jnp.max(jnp.abs(A)), jnp.finfo(A.dtype).tiny)
    return jax.scipy.linalg.qr(A / scale, mode="r", pivoting=True)[1]


def _cut(A: Any, xp: Any, U: Any, s: Any, Vt: Any, rank: int) -> NumericalRank:
    n = A.shape[1]
    chosen = (
        skeleton.of_sketch(np.asarray(np.linalg.qr(np.asarray(A), mode="r")), rank).perm[:rank]
        if rank
        else np.arange(0)
    )
    null = xp.linalg.qr(Vt[:rank].T, mode="complete")[0][:, rank:] if rank else xp.eye(n, dtype=A.dtype)
    relation = null[:, -1] if rank < n else xp.zeros(n, A.dtype)
    return NumericalRank(rank, n - rank, xp.asarray(chosen), U[:, :rank], null, relation, s)


def _full(xp: Any, U: Any, s: Any, Vt: Any, n: int, rank: Any, order: Any) -> NumericalRank:
    small = s.shape[0]
    full = xp.linalg.qr(Vt.T, mode="complete")[0]
    null = xp.concatenate([Vt.T, full[:, small:]], axis=1) * (xp.arange(n) >= rank).astype(s.dtype)
    relation = null[:, -1]
    return NumericalRank(rank, n - rank, order, U * (xp.arange(small) < rank).astype(s.dtype), null, relation, s)


def _certificates(
    A: Any, value: NumericalRank, s: Any, found: Solution, rank: Any, tol: Any, traced: bool, xp: Any
) -> dict[str, Certificate]:
    (m, n), eps = A.shape, float(np.finfo(A.dtype).eps)
    cutoff, small = tol * s[0], s.shape[0]
    kept = xp.where(xp.arange(small) < rank, s, xp.inf)
    left = xp.where(xp.arange(small) < rank, 0, s)
    error, highest = found.certificates["weyl"].measured, xp.max(left)
    # a value within its error of zero may be zero; any other must keep clear of the cutoff, as those above it must
    below = xp.where(highest <= 2 * error, xp.inf, cutoff - highest)
    size = xp.max(xp.abs(A))
    scale = xp.where(size > 0, size, 1)
    certificates = {
        "clear": Certificate(
            "no singular value that must be positive is within its error of the cutoff",
            measured=error,
            bound=xp.maximum(xp.minimum(xp.min(kept) - cutoff, below), 0),
            kind="exact",
            source="Weyl; Golub & Van Loan, Matrix Computations, 4th ed., §5.4.1",
        ),
        "null": Certificate(
            "‖A N‖_F is what the singular values left out add up to",
            measured=xp.linalg.norm((A / scale) @ value.null_space) * scale,
            bound=xp.linalg.norm(left / scale) * scale + 16 * eps * max(m, n) * math.sqrt(n) * s[0],
            kind="exact",
            source="computed",
        ),
    }
    if not traced and rank:
        least = xp.linalg.svd(A[:, value.independent] / scale, compute_uv=False)[-1] * scale
        certificates["independent"] = Certificate(
            "σ_r(A)/√(1 + 4 r(n − r)) <= σ_r of the independent columns",
            measured=s[rank - 1] / math.sqrt(1 + skeleton.GROWTH**2 * rank * (n - rank)),
            bound=least + 16 * eps * max(m, n) * s[0],
            kind="theorem",
            source="Gu & Eisenstat, SIAM J. Sci. Comput. 17 (1996), Theorem 3.2",
        )
    return certificates
