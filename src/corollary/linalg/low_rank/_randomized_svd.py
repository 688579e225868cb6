"""Randomized SVD: a few leading singular triplets of a large matrix from products with blocks of vectors.

Use it where k ≪ min(m, n), or where A is sparse or only known by its products. The default builds a block Krylov space
of AᵀA from a Gaussian start and stops when the singular values have settled to the accuracy asked for; it needs about
half the passes over A of subspace iteration (`_block_krylov`). An integer `power_iterations` asks for the classical
scheme instead, and `tol` for the smallest rank that reaches a tolerance. Cost: about 6 products of A with k + p columns
to three digits of the values, O(m k²) beside each. Source: Halko, Martinsson & Tropp (2011); Musco & Musco (2015),
Algorithm 2.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg._products import Block, Products, Values, products
from corollary.linalg.low_rank._block_krylov import FIXED_STEPS, block_krylov, sign_fixed
from corollary.linalg.low_rank._range_finder import (
    ALPHA,
    finite_status,
    fitting,
    grow,
    settings,
    subspace_iteration,
)
from corollary.linalg.low_rank._rsvd_bounds import HMT, _spectral_factors, confidence, orthogonality, probe_certificates


@follows_input
def randomized_svd(
    A: Any,
    rank: Any = None,
    *,
    tol: Any = None,
    accuracy: Any = 1e-3,
    oversampling: Any = 10,
    power_iterations: Any = "auto",
    max_steps: Any = 20,
    block: Any = 16,
    key: Key[Array, ""],
) -> Solution:
    """Leading singular triplets: rank in, error out; or tolerance in, rank out.

    Use it where k ≪ min(m, n). Cost: products of A or Aᵀ with k + p columns, as many as `accuracy` needs (5 to 7 are
    usual for 1e-3), or 2q + 2 of them for an integer q. The error's probes are part of the first product: 8
    columns in all. Data in host memory are multiplied where they lie. Given `rank` it can be jitted and vmapped; under
    a trace the steps are fixed (4 where `power_iterations` is "auto").

    Parameters
    ----------
    A
        (m, n) dense or sparse matrix, or operator.
    rank
        k, how many triplets. Give this or `tol`.
    tol
        Relative tolerance: the smallest rank with ‖A − UΣVᵀ‖₂ ≤ tol ‖A‖₂ certified, with probability 1 − 10⁻⁶.
    accuracy
        Relative accuracy at which the k singular values must have settled, given `rank`. Values are never too large;
        those below √eps σ_1 are not told from noise by this rule.
    oversampling
        p: the block has k + p columns ("auto": rounded up to a multiple of 8, which costs BLAS nothing).
    power_iterations
        "auto" (a block Krylov space, grown until `accuracy`), or q of the classical scheme (AAᵀ)^q A Ω.
    max_steps
        Most Krylov steps, of two products each.
    block
        Columns at a time, given `tol`.
    key
        `jax.random.key`.

    Returns
    -------
    Solution
        ``value``: (U, s, Vt), shapes (m, k), (k,), (k, n); the largest entry of each row of Vt is positive.
        Certificates: ``"spectral_error"`` (probabilistic; brackets ‖A − UΣVᵀ‖₂), ``"frobenius_error"`` (estimate with
        standard error, from 8 probes that the factors have not seen), ``"orthogonality"`` (exact), and
        ``"singular_values"`` (monitor, "auto"), or ``"theorem"`` (q given: the deviation bound). ``stats``: ``rank``,
        ``products``, ``method``. ``status``: MAX_STEPS where the values had not settled.

    Raises
    ------
    InputError
        Unless exactly one of `rank` and `tol` is given and A is a finite real matrix.

    Notes
    -----
    No rank-k answer has an error below σ_{k+1} (Eckart-Young); the scheme behind an integer q is (AAᵀ)^q A Ω.
    Source: Halko, Martinsson & Tropp, SIAM Review 53 (2011), §5.1; Musco & Musco, NeurIPS 2015, Algorithm 2.

    Examples
    --------
    >>> import jax, numpy as np
    >>> A = np.diag([4.0, 3.0, 2.0, 1.0])
    >>> U, s, Vt = randomized_svd(A, 2, key=jax.random.key(0)).value
    >>> s.round(6).tolist()
    [4.0, 3.0]
    """
    auto = isinstance(power_iterations, str) and power_iterations == "auto"
    q: Any = 1 if auto else power_iterations
    settings(rank, tol, oversampling, q, block)
    validation.number(0, open_low=True)("accuracy", accuracy)
    validation.integer(1)("max_steps", max_steps)
    P = products(A, key, look=tol is not None or not auto)
    if tol is not None:
        return P.out(_to_tolerance(P, tol, block, q, key))
    k = fitting(rank, P.shape)
    if not auto:
        return P.out(_classical(P, k, oversampling, q, key))
    if P.on_accelerator and max_steps >= FIXED_STEPS:
        # One program of fixed steps takes a fifth of the time of its parts; they are for what it does not settle.
        solution = _compiled(A, k, oversampling, jnp.asarray(accuracy, P.dtype), key)
        if bool(solution.converged):
            return solution
    return P.out(_krylov(P, k, oversampling, accuracy, max_steps, key))


def _krylov(P: Products, k: int, oversampling: int, accuracy: Any, max_steps: int, key: Key[Array, ""]) -> Solution:
    """`block_krylov` on the tall one of A and Aᵀ."""
    wide = P.shape[0] < P.shape[1]
    solution = block_krylov(P.T if wide else P, k, oversampling, accuracy, max_steps, key)
    return _transposed(solution, P.xp) if wide else solution


@eqx.filter_jit
def _compiled(A: Any, k: int, oversampling: int, accuracy: Any, key: Key[Array, ""]) -> Solution:
    return _krylov(products(A, key), k, oversampling, accuracy, FIXED_STEPS, key)


def _classical(P: Products, k: int, oversampling: int, q: int, key: Key[Array, ""]) -> Solution:
    """Q from subspace iteration, then the SVD of QᵀA, cut from k + p to k at the end."""
    xp, width = P.xp, min(k + oversampling, *P.shape)
    found, test, image = subspace_iteration(P, width, q, key)
    U, s, Vt = _from_range(found.value, P.adjoint(found.value), xp)
    theorem = _theorem(found, s, k, width, q, P)
    below = s[k] if width > k else 0.0  # <= σ_{k+1} <= ‖E‖₂
    U, Vt = sign_fixed(U[:, :k], Vt[:k], xp)
    s = s[:k]
    residual = image - U @ (s[:, None] * (Vt @ test))
    certificates = probe_certificates(residual, test, image, ALPHA, "A − UΣVᵀ", xp, below * (1 - 8 * P.eps))
    certificates["orthogonality"] = orthogonality(xp, U=U, V=Vt.T)
    certificates |= theorem
    stats = {**found.stats, "rank": k, "products": found.stats["products"] + width}
    return Solution((U, s, Vt), certificates, finite_status(xp.sum(s), xp), q, stats)


def _theorem(found: Solution, s: Values, k: int, width: int, q: int, P: Products) -> dict[str, Certificate]:
    """The deviation bound with σ_{k+1} from below, where p >= 4 columns are left over: what holds here, holds there."""
    p = width - k
    if p < 4 or width >= min(P.shape):
        return {}
    _, factor = _spectral_factors(k, p, min(P.shape), q)
    measured = found.certificates["spectral_error"].measured
    return {
        "theorem": Certificate(
            "‖(I − QQᵀ)A‖₂, from below by the probes, <= (1 + 11√(k+p)√min(m,n))^{1/(2q+1)} σ_{k+1}",
            measured=measured,
            bound=factor * s[k] + 8 * P.eps * s[0] * math.sqrt(max(P.shape)),
            kind="theorem",
            confidence=confidence(p),
            source=f"{HMT}, eq. 1.9, and Theorem 9.2 for the power scheme; σ_(k+1) replaced by its Ritz value below it",
        )
    }


def _from_range(Q: Block, factor: Block, xp: Any) -> tuple[Block, Values, Block]:
    """SVD of Q Qᵀ A, given Bᵀ = AᵀQ."""
    left, s, right = xp.linalg.svd(factor.T, full_matrices=False)
    return Q @ left, s, right


def _to_tolerance(P: Products, tol: float, block: int, q: int, key: Key[Array, ""]) -> Solution:
    """Half the tolerance for the range, the rest for the cut: ‖A − UΣVᵀ‖² <= ‖A − QQᵀA‖² + σ_{k+1}²."""
    xp = P.xp
    grown = grow(P, tol / 2, block, q, key, keep_factor=True)
    if grown.factor:
        U, s, Vt = _from_range(grown.Q, xp.concatenate(grown.factor, axis=1), xp)
        grown = grown._replace(norm=float(s[0]))
    else:  # the zero matrix
        U, s, Vt = grown.Q, xp.zeros(0, P.dtype), xp.zeros((0, P.shape[1]), P.dtype)
    errors = np.hypot(grown.error, np.append(np.asarray(s, float), 0.0))  # after a cut to k = 0, 1, ...
    k = int(np.argmax(errors <= max(tol * grown.norm, errors[-1])))
    U, Vt = sign_fixed(U[:, :k], Vt[:k], xp)
    certificates = {
        "spectral_error": grown.certify("‖A − UΣVᵀ‖₂", float(errors[k]), tol),
        "orthogonality": orthogonality(xp, U=U, V=Vt.T),
    }
    stats = {"rank": k, "products": grown.products, "norm": grown.norm, "method": grown.method}
    return Solution((U, s[:k], Vt), certificates, grown.status(tol), grown.steps, stats)


def _transposed(solution: Solution, xp: Any) -> Solution:
    """The triplets of A from those of Aᵀ."""
    U, s, Vt = solution.value
    U, Vt = sign_fixed(Vt.T, U.T, xp)
    return Solution((U, s, Vt), solution.certificates, solution.status, solution.steps, solution.stats)
