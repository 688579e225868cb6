"""Is a CP decomposition unique, does it match another one, and are its terms really outer products.

A matrix factorisation can be rotated; a sum of outer products in three or more modes usually cannot. Kruskal's theorem
says when, through the k-rank of each factor: the largest k such that any k of its columns are independent. Cost: one
SVD a factor of full column rank; else of all subsets of columns, up to `limit` of them.

Source: Kruskal, Linear Algebra Appl. 18 (1977), Theorem 4a; Sidiropoulos & Bro, J. Chemometrics 14 (2000), Theorem 3;
Bro & Kiers, J. Chemometrics 17 (2003) (core consistency).
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Solution
from corollary.linalg.tensor._basics import apply_modes
from corollary.linalg.tensor._formats import CP


class KRanks(NamedTuple):
    """The k-rank of each factor matrix.

    Attributes
    ----------
    ranks : tuple of int
        Numerical k-ranks; from below where not exact.
    exact : tuple of bool
        Whether all subsets of columns were looked at, or their number settled the matter.
    margin : tuple of float
        The least singular value of any k-rank many unit columns: how clearly they are independent.
    """

    ranks: tuple[int, ...]
    exact: tuple[bool, ...]
    margin: tuple[float, ...]


class Uniqueness(NamedTuple):
    """Kruskal's condition in numbers: `total` >= `needed`."""

    k_ranks: KRanks
    total: int
    needed: int
    unique: bool


class Match(NamedTuple):
    """How two CP decompositions agree: term r of the first is term ``order[r]`` of the second."""

    score: float
    order: np.ndarray
    congruence: np.ndarray


def k_ranks(factors: Any, *, tol: Any = None, limit: Any = 20_000) -> KRanks:
    """The largest k for which any k columns are linearly independent, for each factor.

    Use it to judge whether a CP decomposition is unique. Cost: one SVD where the columns are independent; otherwise an
    SVD of each subset, as long as a size has at most `limit` of them; beyond it the coherence bound k >= 1/μ.

    Parameters
    ----------
    factors
        A `CP`, or matrices (n_k, r).
    tol
        Unit columns count as dependent where their least singular value is at most this; 64 eps max(n, r) where None.
    limit
        Most subsets of one size to look at.

    Returns
    -------
    KRanks
        Ranks, whether they are exact, and margins.

    Raises
    ------
    InputError
        For factors that are no matrices of one width.

    Notes
    -----
    With coherence μ = max |cos(a_i, a_j)| any k < 1 + 1/μ columns are independent by Gershgorin's theorem (Donoho &
    Elad, PNAS 100 (2003), Theorem 7).

    Examples
    --------
    >>> import numpy as np
    >>> k_ranks([np.eye(2), np.array([[1.0, 2.0], [0.0, 0.0]])]).ranks
    (2, 1)
    """
    validation.number(0, none=True)("tol", tol)
    validation.integer(1)("limit", limit)
    found = [_k_rank(matrix, tol, limit) for matrix in _matrices(factors)]
    return KRanks(*(tuple(part) for part in zip(*found, strict=True)))


def kruskal_certificate(cp: Any, *, tol: Any = None, limit: Any = 20_000) -> Solution:
    """Whether the terms of a CP decomposition are unique up to their order and scales, by Kruskal's condition.

    Use it before giving the columns a meaning: Σ k-ranks >= 2R + d − 1 suffices for d modes and R terms. It is not
    necessary, and no matrix (d = 2) of rank above one fulfils it: its factors can be rotated. Cost: see `k_ranks`.

    Parameters
    ----------
    cp
        A `CP`, or its factor matrices (n_k, R).
    tol, limit
        See `k_ranks`.

    Returns
    -------
    Solution
        ``value``: (k_ranks, total, needed, unique). Certificates: ``"kruskal"`` (theorem), of the tensor that the CP
        is; that the data are near it is the decomposition's own certificate.

    Raises
    ------
    InputError
        As `k_ranks`.

    Notes
    -----
    A single term (R = 1) is unique without the condition, provided that no column is zero. Terms of weight zero count
    as columns of zeros. Source: Kruskal (1977), Theorem 4a, for d = 3; Sidiropoulos & Bro (2000), Theorem 3, for any d.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> factors = [rng.standard_normal((n, 3)) for n in (3, 4, 5)]
    >>> bool(kruskal_certificate(factors).holds), bool(kruskal_certificate(factors[:2]).holds)
    (True, False)
    """
    matrices = _matrices(cp)
    if isinstance(cp, CP):
        matrices[0] = matrices[0] * (np.abs(np.asarray(cp.weights)) > 0)
    ranks = k_ranks(matrices, tol=tol, limit=limit)
    modes, terms, total = len(matrices), matrices[0].shape[1], sum(ranks.ranks)
    needed = 2 * terms + modes - 1 if terms > 1 else modes
    certificate = Certificate(
        "the terms are unique up to order and scales: 2R + d − 1 <= Σ k-ranks" if terms > 1 else "the term is no zero",
        measured=float(needed),
        bound=float(total),
        kind="theorem",
        source="Kruskal (1977), Theorem 4a; Sidiropoulos & Bro (2000), Theorem 3",
        assumptions=(
            Assumption(f"k-ranks {', '.join(map(str, ranks.ranks))}: numerical, at least so large"),
            Assumption("it speaks of the tensor that the factors stand for"),
        ),
    )
    return Solution(Uniqueness(ranks, total, needed, total >= needed), {"kruskal": certificate})


def factor_match_score(first: Any, second: Any) -> Match:
    """How well two CP decompositions agree, term by term in the best order: 1 where they are the same.

    Use it to compare with a planted truth, or two runs with each other. The score is the mean over the terms of the
    product over the modes of |cosine of the angle between the columns|; weights do not enter. Cost: O(r³ + d n r²).

    Parameters
    ----------
    first, second
        `CP`, or factor matrices (n_k, r) and (n_k, s); with r < s each term of the first finds its own in the second.

    Returns
    -------
    Match
        ``score``; ``order``; ``congruence`` (d, r), |cosine| by mode and term.

    Raises
    ------
    InputError
        For factors of different sizes, or more terms in the first.

    Notes
    -----
    Source: Acar, Dunlavy, Kolda & Mørup, Chemometr. Intell. Lab. 106 (2011), §4.2 (without the weights' part).

    Examples
    --------
    >>> import numpy as np
    >>> factors = [np.eye(3), np.eye(3), np.eye(3)]
    >>> match = factor_match_score(factors, [-f[:, ::-1] for f in factors])
    >>> float(match.score), match.order.tolist()
    (1.0, [2, 1, 0])
    """
    one, two = _matrices(first), _matrices(second)
    if [m.shape[0] for m in one] != [m.shape[0] for m in two] or one[0].shape[1] > two[0].shape[1]:
        raise InputError(
            f"second: found shapes {[m.shape for m in two]}, expected the sizes of the first, "
            f"{[m.shape for m in one]}, and at least as many columns"
        )
    cosines = np.stack([np.abs(_unit(a).conj().T @ _unit(b)) for a, b in zip(one, two, strict=True)])
    product = np.prod(cosines, axis=0)
    rows, order = scipy.optimize.linear_sum_assignment(-product)
    return Match(float(np.mean(product[rows, order])), order, np.minimum(cosines[:, rows, order], 1))


def core_consistency(tensor: Any, cp: Any) -> float:
    """Core consistency in percent: 100 where the data have no interaction between the terms, low or negative else.

    Use it to choose the rank: the largest with a value near 100. It compares the least squares Tucker core for the
    given factors with the superdiagonal of ones that CP assumes. Cost: one pass over the tensor, and d SVDs.

    Parameters
    ----------
    tensor
        (n_0, …, n_{d-1}) without missing entries.
    cp
        A `CP` of that shape.

    Returns
    -------
    float
        100 (1 − ‖G − I‖²/R).

    Raises
    ------
    InputError
        Where the shapes differ, or the data are not finite.

    Notes
    -----
    Weights go into the first factor; collinear columns make the number arbitrary, and large. Source: Bro & Kiers,
    A New Efficient Method for Determining the Number of Components in PARAFAC Models (2003), eq. 6.

    Examples
    --------
    >>> import numpy as np
    >>> cp = CP(np.array([2.0]), (np.array([[1.0], [2.0]]), np.array([[1.0], [3.0]]), np.array([[1.0], [1.0]])))
    >>> round(core_consistency(cp.to_dense(), cp), 6)
    100.0
    """
    tensor = np.asarray(validation.tensor("tensor", tensor, low=2, complex=True, host=True))
    matrices = _matrices(cp)
    if tensor.shape != tuple(m.shape[0] for m in matrices):
        raise InputError(f"cp: found factors {[m.shape for m in matrices]}, expected those of shape {tensor.shape}")
    rank = matrices[0].shape[1]
    unit = [_unit(m) for m in matrices]
    core = apply_modes(tensor, [np.linalg.pinv(m) for m in unit])
    sizes = np.prod([np.linalg.norm(m, axis=0) for m in matrices], axis=0)
    sizes = sizes * np.asarray(cp.weights) if isinstance(cp, CP) else sizes
    # Put each term's size into the first factor: its pseudo-inverse divides by it.
    core = core / np.where(sizes == 0, 1, sizes).reshape(-1, *[1] * (tensor.ndim - 1))
    ideal = np.zeros(core.shape, core.dtype)
    ideal[tuple([np.arange(rank)] * tensor.ndim)] = 1
    return float(100 * (1 - np.sum(np.abs(core - ideal) ** 2) / rank))


def _k_rank(matrix: np.ndarray, tol: float | None, limit: int) -> tuple[int, bool, float]:
    rows, columns = matrix.shape
    cut = 64 * float(np.finfo(matrix.dtype).eps) * max(rows, columns) if tol is None else float(tol)
    unit = _unit(matrix)
    if not np.all(np.any(unit != 0, axis=0)):
        return 0, True, 0.0
    if columns <= rows and (margin := _least(unit[None])) > cut:
        return columns, True, margin
    coherence = np.abs(unit.conj().T @ unit)
    np.fill_diagonal(coherence, 0)
    mu = float(coherence.max()) if columns > 1 else 0.0
    best, margin, most = 1, 1.0, min(rows, columns - 1)
    for size in range(2, most + 1):
        if math.comb(columns, size) > limit:
            sure = min(most, math.ceil(1 / mu) if mu > 0 else most)
            bound = math.sqrt(max(1 - (sure - 1) * mu, 0))
            return (sure, False, bound) if sure > best and bound > cut else (best, False, margin)
        subsets = np.array(list(itertools.combinations(range(columns), size)))
        least = min(
            _least(np.moveaxis(unit[:, part], 0, 1)) for part in np.array_split(subsets, len(subsets) // 512 + 1)
        )
        if least <= cut:
            break
        best, margin = size, least
    return best, True, margin


def _least(stack: np.ndarray) -> float:
    """Least singular value of any matrix of a stack."""
    return float(np.linalg.svd(stack, compute_uv=False)[:, -1].min())


def _unit(matrix: np.ndarray) -> np.ndarray:
    largest = np.max(np.abs(matrix), axis=0)
    matrix = matrix / np.where(largest > 0, largest, 1)
    norms = np.linalg.norm(matrix, axis=0)
    return matrix / np.where(norms > 0, norms, 1)


def _matrices(factors: Any) -> list[np.ndarray]:
    """Checked factor matrices in host memory, in the precision they came in."""
    given: Any = factors.factors if isinstance(factors, CP) else factors
    if not isinstance(given, tuple | list) or not given:
        raise InputError(f"factors: found {type(given).__name__}, expected a CP or a sequence of matrices")
    checked = [
        np.asarray(validation.tensor(f"factors[{k}]", np.asarray(f), low=2, complex=True, host=True))
        for k, f in enumerate(given)
    ]
    if any(m.ndim != 2 or m.shape[1] != checked[0].shape[1] for m in checked):
        raise InputError(f"factors: found shapes {[m.shape for m in checked]}, expected matrices of one width")
    return checked
