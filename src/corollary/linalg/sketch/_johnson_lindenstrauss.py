"""Johnson-Lindenstrauss projection: points to few coordinates with every pairwise distance nearly kept.

Use it before anything that only looks at distances or inner products (neighbours, clustering, kernels) in many
dimensions. The map is linear and knows nothing of the data: y = S x with E SᵀS = I, so that E ‖y_i − y_j‖² =
‖x_i − x_j‖²; k = O(log m / ε²) coordinates are enough for m points, whatever their dimension. Cost: that of the sketch,
and O(m² (d + k)) to measure all pairs.

Source: Johnson & Lindenstrauss (1984); Dasgupta & Gupta (2003); Achlioptas (2003); Laurent & Massart, Ann. Statist. 28
(2000), Lemma 1.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg.sketch._base import AbstractSketch
from corollary.linalg.sketch._dense import GaussianSketch, RademacherSketch
from corollary.linalg.sketch._embedding import chi2_tail, fewest, least, planned
from corollary.linalg.sketch._sparse_sign import CountSketch, SparseSignSketch
from corollary.linalg.sketch._srht import SRHT

SKETCHES: dict[str, Any] = {
    "gaussian": GaussianSketch,
    "rademacher": RademacherSketch,
    "sparse_sign": SparseSignSketch,
    "countsketch": CountSketch,
    "srht": SRHT,
    "dct": lambda *args, **settings: SRHT(*args, transform="dct", **settings),
}
TAILS = {
    "gaussian": "union bound over the pairs, exact chi-squared tails",
    "rademacher": "union bound over the pairs, Achlioptas (2003), section 5",
    "sparse_sign": "union bound over the pairs, Chebyshev's inequality with Var ‖Sx‖² <= 2/k",
    "countsketch": "union bound over the pairs, Chebyshev's inequality with Var ‖Sx‖² <= 2/k",
    "srht": "union bound over the pairs, Hoeffding's inequality for H D x, Chernoff's for the sample",
    "dct": "union bound over the pairs, Hoeffding's inequality for H D x, Chernoff's for the sample",
}
ALL_PAIRS = 2000  # points up to which every pair is measured without being asked
SAMPLED = 200_000  # pairs that are measured beyond


@follows_input
def johnson_lindenstrauss(
    X: Any,
    k: int | None = None,
    *,
    eps: Any = None,
    delta: float = 0.01,
    sketch: str = "gaussian",
    certify: str = "auto",
    key: Key[Array, ""],
) -> Solution:
    """Project points at random to k dimensions, and tell the worst distortion of a squared distance.

    Parameters
    ----------
    X
        (m, d) points, a dense array or a `scipy.sparse` matrix.
    k
        Target dimension; or
    eps
        ε in (0, 1): take the k that `jl_dimension` proves enough for m points and `delta`. Give one of the two.
    delta
        Failure probability.
    sketch
        ``"gaussian"``, ``"rademacher"``, ``"sparse_sign"`` (8 nonzeros; for sparse or very long rows),
        ``"countsketch"``, ``"srht"`` or ``"dct"``.
    certify
        ``"full"`` measures all pairs, ``"sample"`` 200 000 random ones, ``"none"`` none; ``"auto"`` is full up to 2000
        points.
    key
        `jax.random.key`.

    Returns
    -------
    Solution
        ``value``: (m, k). Certificate ``"distortion"`` (probabilistic): the worst |‖y_i − y_j‖²/‖x_i − x_j‖² − 1| over
        the pairs that were measured, against the ε that holds for all pairs but with probability `delta`. ``stats``:
        ``k``, ``eps``, ``pairs`` measured.

    Raises
    ------
    InputError
        Unless exactly one of `k` and `eps` is given.

    Notes
    -----
    The certificate's ε comes from the sharpest tail known for the family (the exact chi-squared law for the Gaussian),
    so it stays below `eps`. Under `jit` give `k`.

    Examples
    --------
    >>> import jax, numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 3000))
    >>> found = johnson_lindenstrauss(X, eps=0.5, key=jax.random.key(0))
    >>> found.value.shape, bool(found.holds), bool(found.certificates["distortion"].measured < 0.5)
    ((50, 398), True, True)
    """
    if (k is None) == (eps is None):
        raise InputError(f"k, eps: found k={k!r} and eps={eps!r}, expected exactly one of them")
    validation.one_of("auto", "full", "sample", "none")("certify", certify)
    X = _points(X)
    m, d = X.shape
    family = planned(0.5 if eps is None else eps, delta, sketch, d, min(8, k or 8))
    if k is None and eps is not None:
        k = jl_dimension(m, eps, delta, sketch=sketch, length=d)
        k = min(k, family.length or k) if sketch in ("srht", "dct") else k
    k = int(validation.integer(1)("k", k))
    settings = {"nonzeros": min(8, k)} if sketch == "sparse_sign" else {}
    S: AbstractSketch = SKETCHES[sketch](k, d, key=key, dtype=X.dtype, **settings)
    Y = S.apply_rows(X)
    pairs, certificates = m * (m - 1) // 2, {}
    proved = least(lambda e: pairs * family.vector(k, e), delta, 1e12) if pairs else 0.0
    if certify == "auto":
        certify = "full" if m <= ALL_PAIRS else "sample"
    if certify != "none":
        worst, seen = _worst(X, Y, certify, jax.random.fold_in(key, 1))
        certificates["distortion"] = Certificate(
            f"|‖y_i − y_j‖²/‖x_i − x_j‖² − 1| <= ε for all pairs ({'all' if seen == pairs else seen} measured)",
            measured=worst,
            bound=proved + 64 * float(np.finfo(X.dtype).eps) * math.sqrt(d),
            kind="probabilistic",
            confidence=1 - float(delta),
            source=TAILS[sketch],
        )
        pairs = seen
    return Solution(Y, certificates, stats={"k": k, "eps": proved, "pairs": pairs if certify != "none" else 0})


def jl_dimension(
    points: int,
    eps: float,
    delta: float = 0.01,
    *,
    sketch: str = "gaussian",
    exact: bool = False,
    length: int | None = None,
    nonzeros: int = 8,
) -> int:
    """Smallest k that keeps all squared distances of m points within 1 ± ε, but with probability δ.

    Parameters
    ----------
    points
        m, how many points.
    eps, delta
        Both in (0, 1).
    sketch
        For ``"gaussian"`` and ``"rademacher"``: the least k with 2 C(m, 2) exp(−k ε²/8) <= δ. For the others the tail
        bounds of `Family.vector`.
    exact
        For ``"gaussian"``: with the exact chi-squared tail in place of 2 exp(−kε²/8); about half the dimension.
    length, nonzeros
        Dimension of the points, for ``"srht"`` and ``"dct"``; nonzeros for ``"sparse_sign"``.

    Returns
    -------
    k. It carries a factor ε⁻² log m: an oversampling of 10 to 20 is a rule for range finders, not for distances.

    Examples
    --------
    >>> jl_dimension(1000, 0.2, 0.01), jl_dimension(1000, 0.2, 0.01, exact=True)
    (3684, 1700)
    """
    validation.integer(1)("points", points)
    validation.flag("exact", exact)
    family = planned(eps, delta, sketch, length, nonzeros)
    pairs = points * (points - 1) // 2
    if pairs == 0:
        return 1
    if exact and sketch == "gaussian":
        return fewest(lambda k: pairs * chi2_tail(k, eps), delta)
    if sketch in ("gaussian", "rademacher"):
        return max(1, math.ceil(8 * math.log(2 * pairs / delta) / eps**2))
    return fewest(lambda k: pairs * family.vector(k, eps), delta, family.nonzeros)


@follows_input
def chi2_concentration(k: Any, eps: Any) -> Solution:
    """Concentration of the mean of k squared standard normals: P(|Σ Z_i²/k − 1| > ε) <= 2 exp(−kε²/8) for 0 < ε < 1.

    Use it for the length of one randomly projected vector. Cost: O(1); it broadcasts.

    Parameters
    ----------
    k
        Degrees of freedom, positive.
    eps
        ε in (0, 1): the bound is false beyond (k = 5, ε = 12 has a tail above it), so larger values are refused.

    Returns
    -------
    Solution
        ``value``: the exact two-sided tail. Certificate ``"chi2"`` (theorem): the tail against the bound.

    Examples
    --------
    >>> found = chi2_concentration(100, 0.5)
    >>> bool(found.holds), round(float(found.certificates["chi2"].bound), 4)
    (True, 0.0879)
    """
    for name, value, inside, expected in (
        ("k", k, lambda x: x > 0, "positive numbers"),
        ("eps", eps, lambda x: (x > 0) & (x < 1), "numbers in (0, 1)"),
    ):
        if not isinstance(value, Tracer) and not np.all(inside(np.asarray(value))):
            raise InputError(f"{name}: found {value!r}, expected {expected}")
    dtype = jnp.result_type(*(x.dtype for x in map(jnp.asarray, (k, eps)) if jnp.issubdtype(x.dtype, jnp.floating)))
    k, eps = jnp.asarray(k).astype(dtype), jnp.asarray(eps).astype(dtype)
    half = k / 2
    tail = jax.scipy.special.gammaincc(half, half * (1 + eps)) + jax.scipy.special.gammainc(half, half * (1 - eps))
    bound = 2 * jnp.exp(-k * eps**2 / 8)
    source = "Laurent & Massart (2000), Lemma 1; Wainwright, High-Dimensional Statistics (2019), Example 2.11"
    return Solution(
        tail,
        {"chi2": Certificate("P(|χ²_k/k − 1| > ε) <= 2 exp(−kε²/8)", tail, bound, kind="theorem", source=source)},
    )


def _points(X: Any) -> Any:
    if not scipy.sparse.issparse(X):
        return validation.matrix("X", X, host=True)
    X = scipy.sparse.csr_array(X)
    X = X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)
    if 0 in X.shape or not np.isfinite(X.data).all():
        raise InputError(f"X: found shape {X.shape}, NaN or infinity, expected at least one entry, all finite")
    return X


def _worst(X: Any, Y: Any, certify: str, key: Any) -> tuple[Any, int]:
    """The largest |‖y_i − y_j‖²/‖x_i − x_j‖² − 1|, from differences: coordinates far from 0 cancel nothing."""
    m = X.shape[0]
    total = m * (m - 1) // 2
    if certify == "sample" and total > SAMPLED:
        first, gap = jax.random.split(key)
        i = jax.random.randint(first, (SAMPLED,), 0, m)
        j = (i + jax.random.randint(gap, (SAMPLED,), 1, m)) % m
        i, j = (np.asarray(v) if isinstance(Y, np.ndarray) else v for v in (i, j))
        seen = SAMPLED
    else:
        i, j, seen = *np.triu_indices(m, 1), total
    if isinstance(Y, jax.Array):
        scale = jnp.max(jnp.abs(X))
        X, Y = (jnp.asarray(V) / jnp.where(scale > 0, scale, 1) for V in (X, Y))
        if seen < total:
            return jnp.max(jax.lax.map(lambda p: _distortion(X[p[0]] - X[p[1]], Y[p[0]] - Y[p[1]]), (i, j))), seen
        return jnp.max(jax.lax.map(lambda i: jnp.max(_distortion(X - X[i], Y - Y[i])), jnp.arange(m))), seen
    return _worst_on_host(X, Y, i, j), seen


def _distortion(dx: Float[Array, "... d"], dy: Float[Array, "... k"]) -> Float[Array, "..."]:
    before, after = jnp.sum(jnp.square(dx), axis=-1), jnp.sum(jnp.square(dy), axis=-1)
    return jnp.where(before > 0, jnp.abs(after / jnp.where(before > 0, before, 1) - 1), 0)


def _worst_on_host(X: Any, Y: Any, i: Any, j: Any) -> Any:
    """By blocks of pairs, so that the differences stay small."""
    sparse = scipy.sparse.issparse(X)
    scale = abs(X).max()
    scale = scale if scale > 0 else scale.dtype.type(1)
    X, Y = X / scale, Y / scale
    worst = X.dtype.type(0)
    block = max(1, 2**20 // (min(X.shape[1], 512) if sparse else X.shape[1]))
    for start in range(0, len(i), block):
        a, b = i[start : start + block], j[start : start + block]
        dx, dy = X[a] - X[b], Y[a] - Y[b]
        before = dx.multiply(dx).sum(axis=1) if sparse else np.einsum("ij,ij->i", dx, dx)
        after = np.einsum("ij,ij->i", dy, dy)
        apart = before > 0
        worst = max(worst, np.max(np.abs(after[apart] / before[apart] - 1), initial=0))
    return worst
