"""How much room the inequalities between norms leave: spectral, Frobenius and nuclear; Cauchy and Schwarz.

Use it to see how near a matrix is to rank one or to a multiple of an orthogonal one, how near two vectors are to
parallel, or to replace a norm by a cheaper one at a known price. The slack is never taken as a difference of two norms,
which would cancel: it is a sum of non-negative terms (Lagrange's identity), zero exactly in the equality case.

Cost: one SVD; O(n) for vectors. Source: Golub & Van Loan, Matrix Computations, 4th ed., §2.3; Horn & Johnson, Matrix
Analysis, 2nd ed. (2013), §5.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Solution
from corollary.linalg.least_squares._factors import exponent, shift

Number = Float[Array | np.ndarray, "..."] | np.floating
Truth = Bool[Array | np.ndarray, "..."] | np.bool_
SOURCE = "Golub & Van Loan, Matrix Computations, 4th ed., §2.3; Horn & Johnson (2013), §5.6"


class NormInequalities(eqx.Module):
    """Norms, the slack (right side − left side ≥ 0) of each inequality, and where equality holds to rounding."""

    norms: Mapping[str, Number]
    slack: Mapping[str, Number]
    equality: Mapping[str, Truth]


@follows_input
def norm_inequalities(A: Any, *, rcond: Any = None) -> Solution:
    """‖A‖₂ ≤ ‖A‖_F ≤ √r‖A‖₂ and ‖A‖_F ≤ ‖A‖_* ≤ √r‖A‖_F, with r the rank, and how much room each leaves.

    Equality on the left (``"frobenius>=spectral"``, ``"nuclear>=frobenius"``): rank at most one. On the right
    (``"spectral>=frobenius"``, ``"frobenius>=nuclear"``): all non-zero singular values are equal, as for an orthogonal
    matrix. Cost: O(mn min(m, n)).

    Parameters
    ----------
    A
        (m, n) matrix.
    rcond
        Singular values at most ``rcond`` · σ₁ count as zero in r; ``None``: max(m, n) · eps.

    Returns
    -------
    Solution
        ``value``: `NormInequalities` with ``norms`` (spectral, frobenius from the squared entries, nuclear), ``slack``
        and ``equality`` by inequality; ``stats``: ``rank``, and ``frobenius_squared``: (Σ a_ij², tr AᵀA, Σ σ_i²) / 4^e,
        the three forms of one number, with ``exponent`` e, so that none overflows.

    Raises
    ------
    InputError
        For anything but a finite real matrix.

    Notes
    -----
    Certificates, one for each inequality (theorem): left side against right side and rounding, where ‖A‖_F comes from
    the entries and the others from the singular values; ``"identity"`` (exact): the three forms of ‖A‖_F² agree.

    Examples
    --------
    >>> import numpy as np
    >>> found = norm_inequalities(np.diag([3.0, 4.0])).value
    >>> found.norms["frobenius"].item(), found.norms["nuclear"].item()
    (5.0, 7.0)
    >>> round(found.slack["nuclear>=frobenius"].item(), 9)
    2.0
    """
    A = validation.matrix("A", A)
    if not isinstance(rcond, jax.Array):
        validation.number(0, 1, none=True)("rcond", rcond)
    return _matrix(A, jnp.asarray(max(A.shape) * float(jnp.finfo(A.dtype).eps) if rcond is None else rcond, A.dtype))


@jax.jit
def _matrix(A: Float[Array, "m n"], rcond: Float[Array, ""]) -> Solution:
    e = jax.lax.stop_gradient(exponent(A))
    unit = shift(A, -e)
    s = jnp.linalg.svd(unit, compute_uv=False)
    kept = s > rcond * s[0]
    s = jnp.where(kept, s, 0)
    rank = jnp.maximum(jnp.sum(kept), 1).astype(s.dtype)  # the zero matrix: 0 = 0 everywhere
    entries, trace, values = jnp.sum(jnp.square(unit)), jnp.trace(unit.T @ unit), jnp.sum(jnp.square(s))
    spectral, frobenius, nuclear = s[0], jnp.sqrt(entries), jnp.sum(s)
    root = jnp.sqrt(rank)
    # a − b = (a² − b²)/(a + b), and every a² − b² below is a sum of squares or products.
    gaps = jnp.where(kept[:, None] & kept, jnp.square(s[:, None] - s), 0)
    excess = {
        "frobenius>=spectral": jnp.sum(jnp.square(s[1:])),
        "spectral>=frobenius": jnp.sum(jnp.where(kept, (s[0] - s) * (s[0] + s), 0)),
        "nuclear>=frobenius": jnp.sum(jnp.where(jnp.eye(s.shape[0], dtype=bool), 0, s[:, None] * s)),
        "frobenius>=nuclear": jnp.sum(gaps) / 2,
    }
    sides = {
        "frobenius>=spectral": (spectral, frobenius, "‖A‖₂ <= ‖A‖_F"),
        "spectral>=frobenius": (frobenius, root * spectral, "‖A‖_F <= √r‖A‖₂"),
        "nuclear>=frobenius": (frobenius, nuclear, "‖A‖_F <= ‖A‖_*"),
        "frobenius>=nuclear": (nuclear, root * frobenius, "‖A‖_* <= √r‖A‖_F"),
    }
    m, n = A.shape
    noise = 8 * max(m, n) * float(jnp.finfo(A.dtype).eps)
    # The equality cases are read off the singular values, which see σ₂ ≪ σ₁ where its square is lost.
    single, flat = jnp.sum(kept) <= 1, s[0] - jnp.min(jnp.where(kept, s, s[0])) <= noise * s[0]
    slack, equality, certificates = {}, {}, {}
    for name, (small, large, claim) in sides.items():
        both = small + large
        gap = jnp.maximum(excess[name], 0) / jnp.where(both > 0, both, 1)
        slack[name], equality[name] = shift(gap, e), flat if name.startswith(("spectral", "frobenius>=n")) else single
        bound = shift(large * (1 + noise), e)
        certificates[name] = Certificate(f"{claim}, rounding added", shift(small, e), bound, "theorem", SOURCE)
    three = jnp.stack([entries, trace, values])
    certificates["identity"] = Certificate(
        "Σ a_ij² = tr AᵀA = Σ σ_i² to rounding",
        jnp.max(three) - jnp.min(three),
        noise * jnp.max(three),
        "exact",
        "Golub & Van Loan, Matrix Computations, 4th ed., eq. 2.3.1 and Corollary 2.4.3",
    )
    norms = {"spectral": shift(spectral, e), "frobenius": shift(frobenius, e), "nuclear": shift(nuclear, e)}
    stats = {"rank": jnp.sum(kept), "frobenius_squared": three, "exponent": e}
    return Solution(NormInequalities(norms, slack, equality), certificates, 0, 1, stats)


@follows_input
def cauchy_schwarz(u: Any, v: Any, *, weights: Any = None) -> Solution:
    """|⟨u, v⟩| ≤ ‖u‖‖v‖, for vectors, sums and expectations, and how much room it leaves.

    With `weights` w ≥ 0 the product is Σ w_i u_i v_i: for probabilities that is E[UV]² ≤ E[U²]E[V²]. Equality holds
    if and only if u and v are parallel (where w > 0). Cost: O(n).

    Parameters
    ----------
    u, v
        (n,) vectors, or matrices of one shape (the Frobenius product).
    weights
        Of the same shape, non-negative; ``None``: ones.

    Returns
    -------
    Solution
        ``value``: `NormInequalities` with ``norms`` (inner, u, v), ``slack["cauchy_schwarz"]`` and
        ``equality["cauchy_schwarz"]``; ``stats["cosine"]`` is 0 where a vector is zero.

    Raises
    ------
    InputError
        For shapes that differ or a negative weight.

    Notes
    -----
    The slack is ‖u‖²‖v − proj_u v‖²/(‖u‖‖v‖ + |⟨u, v⟩|): no cancellation where u and v are nearly parallel.
    Certificate ``"cauchy_schwarz"`` (theorem): |⟨u, v⟩| against ‖u‖‖v‖ and rounding.

    Examples
    --------
    >>> import numpy as np
    >>> found = cauchy_schwarz(np.array([1.0, 2.0]), np.array([2.0, 4.0])).value
    >>> bool(found.equality["cauchy_schwarz"]), round(float(found.slack["cauchy_schwarz"]), 12)
    (True, 0.0)
    """
    u, v = validation.vector_or_matrix("u", u), validation.vector_or_matrix("v", v)
    if u.shape != v.shape:
        raise InputError(f"v: found shape {v.shape}, expected {u.shape} as of u")
    if weights is None:
        return _vectors(*common_float(u, v), None)
    weights = validation.vector_or_matrix("weights", weights)
    if weights.shape != u.shape:
        raise InputError(f"weights: found shape {weights.shape}, expected {u.shape} as of u")
    if not isinstance(weights, Tracer) and bool(jnp.any(weights < 0)):
        raise InputError("weights: found a negative weight, expected weights >= 0")
    return _vectors(*common_float(u, v, weights))


@jax.jit
def _vectors(u: Float[Array, "..."], v: Float[Array, "..."], weights: Float[Array, "..."] | None) -> Solution:
    eu, ev = jax.lax.stop_gradient((exponent(u), exponent(v)))
    u, v, half = shift(u, -eu).ravel(), shift(v, -ev).ravel(), jnp.zeros((), jnp.int32)
    if weights is not None:
        half = jax.lax.stop_gradient(exponent(weights)) // 2
        root = jnp.sqrt(shift(weights, -2 * half)).ravel()
        u, v = root * u, root * v
    inner, a, b = jnp.sum(u * v), jnp.sum(jnp.square(u)), jnp.sum(jnp.square(v))
    norm = lambda square: jnp.sqrt(jnp.where(square > 0, square, 1)) * (square > 0).astype(square.dtype)  # noqa: E731
    product = norm(a) * norm(b)
    rest = v - inner / jnp.where(a > 0, a, 1) * u
    noise = 8 * u.shape[0] * float(jnp.finfo(u.dtype).eps)
    parallel = norm(jnp.sum(jnp.square(rest))) <= noise * norm(b)
    parallel = parallel | (a == 0)
    both = product + jnp.abs(inner)
    slack = a * jnp.sum(jnp.square(rest)) / jnp.where(both > 0, both, 1)
    e = eu + ev + 2 * half
    norms = {"inner": shift(inner, e), "u": shift(norm(a), eu + half), "v": shift(norm(b), ev + half)}
    certificate = Certificate(
        "|⟨u, v⟩| <= ‖u‖‖v‖, rounding added",
        jnp.abs(norms["inner"]),
        shift(product * (1 + noise), e),
        "theorem",
        "Horn & Johnson (2013), Theorem 5.1.4",
    )
    value = NormInequalities(norms, {"cauchy_schwarz": shift(slack, e)}, {"cauchy_schwarz": parallel})
    cosine = inner / jnp.where(product > 0, product, 1)
    return Solution(value, {"cauchy_schwarz": certificate}, 0, 1, {"cosine": cosine})
