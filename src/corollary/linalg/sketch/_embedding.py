"""How many rows a sketch needs, and how well a given sketch keeps a given subspace.

`embedding_dimension` inverts a theorem with its constants for each family of sketches; `sketch_distortion` measures
the singular values of S U for an orthonormal basis U of a matrix's range. The theorems for sparse and Fourier sketches
are pessimistic (the sketch of half the rows usually does as well), so plan by the first and check by the second.
Cost: O(1); O(m n²) and one sketch.

The failure probabilities, for an n-dimensional subspace, sketch size m and singular values of S U in [1 − ε, 1 + ε]
(that follows from ‖(SU)ᵀSU − I‖ <= η for η = 2ε − ε²):

- gaussian: 2 exp(−(ε√m − √n)²/2). Davidson & Szarek (2001), Theorem II.13.
- rademacher: 9ⁿ (e^{−m(h − log(1 + h))/2} + e^{−mh²/6}) with h = η/2: lengths of one vector (Achlioptas 2003, §5) over
  a quarter-net of the sphere (Vershynin, High-Dimensional Probability, 2018, §4.4).
- sparse_sign, countsketch: (n² + n)/(m η²), Markov's inequality for ‖(SU)ᵀSU − I‖_F² (Nelson & Nguyen 2013, Theorem 3;
  the same expectation for every number of nonzeros). With more nonzeros the truth is O(n log n/ε²) (Cohen 2016), of
  which no constant is known.
- srht: min over M of N e^{−(√M − √n)²/8} + n (e^η/(1 + η)^{1 + η})^{m/M} + n (e^{−η}/(1 − η)^{1 − η})^{m/M} for a
  transform of length N. Tropp (2011), Lemmas 3.3 and 3.4. The cosine transform (dct), whose entries reach √(2/N),
  has M/2 for M in the first term.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg.sketch._base import AbstractSketch
from corollary.linalg.sketch._dense import GaussianSketch
from corollary.linalg.sketch._sparse_sign import CountSketch, SparseSignSketch
from corollary.linalg.sketch._srht import SRHT

DENSE_LIMIT = 1e7  # entries of a sparse matrix that are unpacked for its singular vectors
Number = Float[Array | np.ndarray, ""] | np.floating | float
THEOREMS = {
    "gaussian": "Davidson & Szarek (2001), Theorem II.13",
    "rademacher": "Achlioptas (2003), section 5, over a quarter-net; Vershynin (2018), section 4.4",
    "sparse_sign": "Nelson & Nguyen (2013), Theorem 3",
    "countsketch": "Nelson & Nguyen (2013), Theorem 3",
    "srht": "Tropp (2011), Lemmas 3.3 and 3.4",
    "dct": "Tropp (2011), Lemmas 3.3 and 3.4, for entries up to √(2/N)",
}


class EmbeddingDimension(NamedTuple):
    """The least sketch size, the failure probability that is proved for it, and the theorem."""

    rows: int
    failure: float
    theorem: str


class Family(NamedTuple):
    """What a theorem needs to know of a sketch: its family, its transform's length, its nonzeros in a column."""

    name: str
    length: int | None = None
    nonzeros: int = 1

    @classmethod
    def of(cls, sketch: AbstractSketch) -> Family:
        """The family of an operator."""
        match sketch:
            case SRHT():
                return cls("srht" if sketch.transform == "hadamard" else "dct", sketch.length)
            case SparseSignSketch():
                return cls("sparse_sign", nonzeros=sketch.nonzeros)
            case CountSketch():
                return cls("countsketch")
            case _:
                return cls("gaussian" if isinstance(sketch, GaussianSketch) else "rademacher")

    def subspace(self, rows: int, n: int, eps: float) -> float:
        """Bound on P(some singular value of S U leaves [1 − ε, 1 + ε]), for 0 < ε < 1."""
        eta = 2 * eps - eps**2
        match self.name:
            case "gaussian":
                return 2 * math.exp(-(max(eps * math.sqrt(rows) - math.sqrt(n), 0) ** 2) / 2)
            case "rademacher":
                return _exp(n * math.log(9) - rows * _upper(eta / 2)) + _exp(n * math.log(9) - rows * eta**2 / 24)
            case "srht" | "dct":
                return self._sampled(rows, n, eta, lambda M: self._length() * _exp(-(max(M**0.5 - n**0.5, 0) ** 2) / 8))
            case _:
                return (n**2 + n) * self._collisions(rows) / eta**2

    def vector(self, rows: int, eps: float) -> float:
        """Bound on P(|‖Sx‖² − 1| > ε) for one unit vector x and any ε > 0."""
        match self.name:
            case "gaussian":
                return chi2_tail(rows, eps)
            case "rademacher":
                return _exp(-rows * _upper(eps)) + (_exp(-rows * eps**2 / 6) if eps < 1 else 0.0)
            case "srht" | "dct":
                return self._sampled(rows, 1, eps, lambda M: 2 * self._length() * _exp(-M / 2))
            case _:
                return 2 * self._collisions(rows) / eps**2

    def _collisions(self, rows: int) -> float:
        """Σ over blocks of 1/(block size · s²): the chance that two columns meet, which is 1/rows for equal blocks."""
        return 1 / (self.nonzeros * (rows // self.nonzeros)) if rows >= self.nonzeros else math.inf

    def _length(self) -> int:
        if self.length is None:
            raise InputError(f"length: found None, expected the length of what a {self.name} sketch is applied to")
        return self.length

    def _sampled(self, rows: int, n: int, eta: float, uneven: Callable[[float], float]) -> float:
        """Uneven rows (squared lengths above M n-th parts), plus the matrix Chernoff bound at M; the best M."""
        N = self._length()
        if rows >= N:
            return 0.0  # all rows are kept: an isometry
        flat = 1 if self.name == "srht" else 2
        lower = _rate(-eta) if eta < 1 else math.inf
        best = math.inf
        for M in np.geomspace(n, flat * max(32 * (n + math.log(N)), N), 200):
            chernoff = n * (_exp(-rows * _rate(eta) / M) + _exp(-rows * lower / M))
            best = min(best, (0.0 if M >= N else uneven(M / flat)) + chernoff)
        return best


def embedding_dimension(
    dimension: int, eps: float, delta: float, *, sketch: str = "gaussian", length: int | None = None, nonzeros: int = 8
) -> EmbeddingDimension:
    """Fewest rows with which a sketch is proved to embed every subspace of a dimension, up to failures.

    Use it to plan; `sketch_distortion` tells what a sketch does to a matrix at hand. Cost: O(1).

    Parameters
    ----------
    dimension
        n, of the subspace: the rank of the matrix that will be sketched.
    eps
        ε in (0, 1): singular values of S U in [1 − ε, 1 + ε], that is ‖S y‖ = (1 ± ε) ‖y‖ over the subspace.
    delta
        Failure probability in (0, 1).
    sketch
        ``"gaussian"``, ``"rademacher"``, ``"sparse_sign"``, ``"countsketch"``, ``"srht"`` or ``"dct"``.
    length
        Columns of the sketch; for the last two.
    nonzeros
        For ``"sparse_sign"``.

    Returns
    -------
    EmbeddingDimension
        ``rows``, ``failure`` (proved for these rows, at most `delta`), ``theorem``.

    Notes
    -----
    The formulas stand in the module's docstring. Real sketches do better: expect ε ≈ √(n/rows), for any family.

    Examples
    --------
    >>> embedding_dimension(100, 0.5, 1e-3).rows
    773
    >>> embedding_dimension(10, 0.5, 0.01, sketch="countsketch").rows
    19556
    """
    validation.integer(1)("dimension", dimension)
    family = planned(eps, delta, sketch, length, nonzeros)
    fails = lambda rows: family.subspace(rows, dimension, eps)  # noqa: E731
    rows = fewest(fails, delta, max(1, family.nonzeros))
    return EmbeddingDimension(rows, fails(rows), THEOREMS[sketch])


@follows_input
def sketch_distortion(S: AbstractSketch, A: Any, *, delta: float = 0.01) -> Solution:
    """Singular values of S U for an orthonormal basis U of the range of A: what the sketch did to this matrix.

    Use it to check a sketch before it is trusted, or to compare families. Cost: O(m n²) for an (m, n) matrix, more
    than most uses of the sketch itself.

    Parameters
    ----------
    S
        A sketch with m columns.
    A
        (m, n) matrix; a `scipy.sparse` one is unpacked, up to 10⁷ entries. Singular values below max(m, n) · eps · σ₁
        count as zero.
    delta
        Failure probability of the theorem that the measurement is held against.

    Returns
    -------
    Solution
        ``value``: (σ_min, σ_max) of S U. The condition number of A R⁻¹, for R from the QR of S A, is σ_max/σ_min.
        Certificate ``"embedding"``: max |σ − 1|, probabilistic where a theorem gives an ε < 1 at this size, else an
        estimate. ``stats``: ``rank``.

    Examples
    --------
    >>> import jax, numpy as np
    >>> from corollary.linalg import GaussianSketch
    >>> found = sketch_distortion(GaussianSketch(400, 1000, key=jax.random.key(0)), np.eye(1000)[:, :4])
    >>> bool(found.certificates["embedding"].measured < 0.25), bool(found.holds)
    (True, True)
    """
    validation.number(0, 1, open_low=True)("delta", delta)
    if scipy.sparse.issparse(A) and np.prod(A.shape) > DENSE_LIMIT:
        raise InputError(f"A: found a sparse matrix of shape {A.shape}, expected at most {DENSE_LIMIT:.0e} entries")
    A = validation.matrix("A", A.toarray() if scipy.sparse.issparse(A) else A, host=True)
    xp = np if isinstance(A, np.ndarray) else jnp
    Q, R = xp.linalg.qr(A)
    W, s, _ = xp.linalg.svd(R, full_matrices=False)
    kept = s > max(A.shape) * float(np.finfo(A.dtype).eps) * s[0]
    sigma = xp.linalg.svd(S.apply((Q @ W) * kept.astype(A.dtype)), compute_uv=False)[: s.shape[0]]
    rank = xp.sum(kept)
    inside = xp.arange(s.shape[0]) < rank
    inside = inside[: sigma.shape[0]]  # fewer rows than the rank: some of the range is lost
    smallest = xp.where(rank > S.rows, 0, xp.min(xp.where(inside, sigma, xp.inf)))
    smallest, largest = xp.where(rank > 0, xp.stack([smallest, sigma[0]]), xp.ones(2, A.dtype)).astype(A.dtype)
    distortion = xp.maximum(largest - 1, 1 - smallest)
    bound = None if isinstance(rank, Tracer) else _subspace_eps(Family.of(S), S.rows, int(rank), delta)
    rounding = 16 * float(np.finfo(A.dtype).eps) * math.sqrt(A.shape[0])
    certificate = Certificate(
        "max |σ − 1| over the singular values of S U",
        measured=distortion,
        bound=None if bound is None else bound + rounding,
        kind="estimate" if bound is None else "probabilistic",
        confidence=1 - float(delta),
        source="measured" if bound is None else THEOREMS[Family.of(S).name],
    )
    return Solution((smallest, largest), {"embedding": certificate}, stats={"rank": rank})


def planned(eps: Any, delta: Any, sketch: str, length: Any, nonzeros: Any) -> Family:
    """The checks that plans share; the length of a Hadamard transform is a power of two."""
    validation.number(0, 1, open_low=True)("eps", eps)
    validation.number(0, 1, open_low=True)("delta", delta)
    validation.one_of(*THEOREMS)("sketch", sketch)
    validation.integer(1, none=True)("length", length)
    validation.integer(1)("nonzeros", nonzeros)
    if max(eps, delta) == 1:
        raise InputError(f"eps, delta: found {eps} and {delta}, expected numbers below 1")
    if length is not None and sketch == "srht":
        length = 1 << (length - 1).bit_length()
    return Family(sketch, length, nonzeros if sketch == "sparse_sign" else 1)


def fewest(fails: Callable[[int], float], delta: float, low: int = 1) -> int:
    """The least number of rows with fails(rows) <= delta, for a falling bound."""
    if fails(low) <= delta:
        return low
    high = 2 * low
    while fails(high) > delta:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(middle) <= delta else (middle, high)
    return high


def least(fails: Callable[[float], float], delta: float, high: float) -> float:
    """The least ε below `high` with fails(ε) <= delta, rounded up; infinite where there is none."""
    if fails(high) > delta:
        return math.inf
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if fails(middle) <= delta else (middle, high)
    return high


def chi2_tail(k: int, eps: float) -> float:
    """P(|χ²_k/k − 1| > ε)."""
    from scipy.stats import chi2

    return float(chi2.sf(k * (1 + eps), k) + chi2.cdf(k * (1 - eps), k))


def _subspace_eps(family: Family, rows: int, n: int, delta: float) -> float | None:
    eps = least(lambda eps: family.subspace(rows, n, eps), delta, 1 - 1e-9) if n else 0.0
    return eps if eps < 1 else None


def _upper(eps: float) -> float:
    """(ε − log(1 + ε))/2: the exponent of the upper tail of a mean of squares of normals."""
    return (eps - math.log1p(eps)) / 2


def _rate(eta: float) -> float:
    """(1 + η) log(1 + η) − η: Chernoff's exponent."""
    return (1 + eta) * math.log1p(eta) - eta if eta > -1 else 1.0


def _exp(x: float) -> float:
    """e^x, infinite rather than an error."""
    return math.exp(x) if x < 700 else math.inf
