"""Randomized SVD: a few leading singular triplets of a large matrix from products with blocks of vectors.

Use it where k ≪ min(m, n), or where A is sparse or only known by its products. The default builds a block Krylov space
of AᵀA from a Gaussian start and stops when the singular values have settled to the accuracy asked for; it needs about
half the passes over A of subspace iteration. An integer `power_iterations` asks for the classical scheme instead, and
`tol` for the smallest rank that reaches a tolerance. Cost: (2t − 1) products of A with k + p columns for t Krylov
steps, O(m k² t²) beside them. Source: Halko, Martinsson & Tropp (2011); Musco & Musco (2015), Algorithm 2.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.linalg._products import Block, Products, Values, orthonormal, products
from corollary.linalg._range_finder import (
    ALPHA,
    PROBES,
    draw,
    finite_status,
    fitting,
    grow,
    settings,
    subspace_iteration,
)
from corollary.linalg._rsvd_bounds import HMT, _spectral_factors, confidence, orthogonality, probe_certificates

FIXED_STEPS = 4  # Krylov steps where the matrix is traced and nothing can be looked at


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

    Use it where k ≪ min(m, n). Cost: (2t − 1) products of A with k + p columns for t Krylov steps (`accuracy` decides
    t; 3 or 4 are usual), or 2q + 2 of them for an integer q. The error's probes are part of the first product: 8
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
        p: the block has k + p columns.
    power_iterations
        "auto" (block Krylov steps until `accuracy`), or q of the classical scheme (AAᵀ)^q A Ω.
    max_steps
        Most Krylov steps.
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
    P = products(A, key)
    auto = isinstance(power_iterations, str) and power_iterations == "auto"
    q: Any = 1 if auto else power_iterations
    settings(rank, tol, oversampling, q, block)
    validation.number(0, open_low=True)("accuracy", accuracy)
    validation.integer(1)("max_steps", max_steps)
    if tol is not None:
        return P.out(_to_tolerance(P, tol, block, q, key))
    k = fitting(rank, P.shape)
    wide = P.shape[0] < P.shape[1]
    if auto:
        solution = _krylov(P.T if wide else P, k, oversampling, accuracy, max_steps, key)
        if wide:
            solution = _transposed(solution, P.xp)
        return P.out(solution)
    return P.out(_classical(P, k, oversampling, q, key))


def sign_fixed(U: Block, Vt: Block, xp: Any) -> tuple[Block, Block]:
    """The convention of the house: the largest entry of each right singular vector is positive."""
    top = xp.take_along_axis(Vt, xp.argmax(xp.abs(Vt), axis=1)[:, None], axis=1)
    sign = xp.where(top < 0, -1.0, 1.0).astype(Vt.dtype)
    return U * sign[:, 0], Vt * sign


def _krylov(P: Products, k: int, oversampling: int, accuracy: float, max_steps: int, key: Key[Array, ""]) -> Solution:
    """Rayleigh-Ritz on V, (AᵀA)V, (AᵀA)²V, ...: works in the shorter space, where orthogonalisation is cheap."""
    xp, n = P.xp, P.shape[1]
    width = min(k + oversampling, n)
    omega, test = draw(P, n, width, key)
    V = orthonormal(omega, [], xp)
    Y = P.apply(xp.concatenate([V, test], axis=1))
    if not P.traced and not bool(xp.isfinite(xp.sum(Y))):
        raise InputError("A: its products overflow, expected a matrix that is scaled to moderate entries")
    # A power of two brings A to the order of one: squares then neither overflow nor vanish, and no bit is lost.
    scale = xp.ldexp(xp.ones((), P.dtype), xp.frexp(xp.max(xp.abs(Y)))[1])
    if P.traced or not 2.0**-30 < scale < 2.0**30:
        P, Y = P.scaled(scale), Y / scale
    else:
        scale = 1.0
    image = Y[:, width:]
    basis, images, pulled = [V], [Y[:, :width]], []
    gram = images[0].T @ images[0]
    theta, previous, settled, filled = xp.linalg.eigvalsh(gram)[::-1], None, False, width
    error = xp.ones((), P.dtype)  # relative error of the values: nothing is known before the second step
    for _ in range(min(FIXED_STEPS, max_steps) - 1 if P.traced else max_steps - 1):
        more = min(width, n - filled)
        if more == 0:
            break
        pulled.append(P.adjoint(images[-1]))
        V = orthonormal(pulled[-1][:, :more], basis, xp)
        Y = P.apply(V)
        # YᵢᵀY = (AᵀYᵢ)ᵀV: the long products are done already
        cross = xp.concatenate([*(W.T @ V for W in pulled), Y.T @ Y])
        gram = xp.concatenate([xp.concatenate([gram, cross[:filled].T]), cross], axis=1)
        basis.append(V)
        images.append(Y)
        filled += more
        old, theta = theta, xp.linalg.eigvalsh(gram)[::-1]
        noise = 8 * P.eps * theta[0]
        rise = xp.maximum(theta[:k] - old[:k] - noise, 0)
        change = xp.max(rise / xp.maximum(2 * theta[:k], P.eps * P.eps))
        rate = xp.minimum(0.9 if previous is None else change / previous, 0.9)
        if len(basis) == 3:  # errors go with 1/T_j(γ)² (Chebyshev): two of them give γ, hence the next
            rate = xp.where(rate < 0.1, rate / (2 - rate) ** 2, rate)
        error, previous = change * rate / (1 - rate), xp.maximum(change, P.eps)
        if not P.traced and bool(error <= accuracy):
            settled = True
            break
    if filled == n:  # the basis spans everything
        settled, error = True, xp.asarray(P.eps, P.dtype)
    below = xp.sqrt(xp.maximum(theta[k] - 8 * P.eps * theta[0], 0)) if filled > k else 0.0  # <= σ_{k+1} <= ‖E‖₂
    U, s, Vt = _ritz(basis, images, gram, k, P)
    U, Vt = sign_fixed(U, Vt, xp)
    residual = image - U @ (s[:, None] * (Vt @ test))
    certificates = probe_certificates(residual * scale, test, image * scale, ALPHA, "A − UΣVᵀ", xp, below * scale)
    certificates["orthogonality"] = orthogonality(xp, U=U, V=Vt.T)
    certificates["singular_values"] = Certificate(
        "the leading singular values have settled: relative error, extrapolated from the last two Krylov steps",
        measured=error,
        bound=accuracy,
        kind="monitor",
        source="Ritz values increase to σ_i at Chebyshev's rate (Saad, SIAM J. Numer. Anal. 17 (1980), Theorem 6)",
        assumptions=(Assumption("the last two steps show the rate"),),
    )
    done = error <= accuracy if P.traced else settled
    finite = xp.isfinite(xp.sum(s))
    status = xp.where(finite, xp.where(done, Status.CONVERGED, Status.MAX_STEPS), Status.NON_FINITE).astype(jnp.int32)
    steps = len(basis)
    columns = (2 * steps - 1) * width + PROBES
    stats = {"rank": k, "products": columns, "method": Note(f"block Krylov, {steps} steps of {width} columns")}
    return Solution((U, s * scale, Vt), certificates, status=status, steps=steps, stats=stats)


def _ritz(basis: list[Any], images: list[Any], gram: Block, k: int, P: Products) -> tuple[Block, Values, Block]:
    """The k leading triplets in span(basis), given the images Y = A V and their Gram matrix.

    The Gram matrix squares the condition, so it only picks the k-dimensional subspace, and only where its rounding,
    eps (σ_1/σ_k)², cannot turn it; the values come from an SVD of the k images themselves. Elsewhere Y is factorised.
    """
    xp = P.xp
    theta, W = xp.linalg.eigh(gram)
    theta, W = theta[::-1], W[:, ::-1][:, :k]
    if P.traced or not bool(theta[k - 1] > theta[0] * math.sqrt(P.eps)):
        Q, R = xp.linalg.qr(xp.concatenate(images, axis=1))
        left, s, Wt = xp.linalg.svd(R, full_matrices=False)
        U, s, W = Q @ left[:, :k], s[:k], Wt[:k].T
        return U, s, _combine(basis, W).T
    # Scaled to unit length the images are nearly orthogonal: one step of Cholesky QR makes them so to rounding.
    unit = W / xp.sqrt(theta[:k])
    Y = _combine(images, unit)
    R = xp.linalg.cholesky(Y.T @ Y).T
    left, s, right = xp.linalg.svd(R * xp.sqrt(theta[:k]))
    U = Y @ scipy.linalg.solve_triangular(np.asarray(R), np.asarray(left))
    return U, s, right @ _combine(basis, W).T


def _combine(blocks: list[Any], W: Block) -> Block:
    """[B_1 B_2 ...] W without joining the blocks."""
    total, start = 0, 0
    for B in blocks:
        total = total + B @ W[start : start + B.shape[1]]
        start += B.shape[1]
    return total  # type: ignore[return-value]


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
