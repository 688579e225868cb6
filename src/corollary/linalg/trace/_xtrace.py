"""XTrace, XNysTrace and XDiag: every probe serves the low-rank part and the remainder, by leaving one out in turn.

When: products are dear and the spectrum decays; the error falls as fast as that of the best rank-k approximation,
with fewer products than Hutch++. `xnystrace` for PSD matrices, `xtrace` for any square one, `xdiag` for the diagonal.
Cost for m products: O(n m²). Source: Epperly, Tropp & Webber, SIAM J. Matrix Anal. Appl. 45 (2024), §§2-3; the
estimate of the error is their eq. (1.13), which claims no bound: the leave-one-out estimates are exchangeable, not
independent.

With Y = AΩ = QR and sᵢ the unit vector orthogonal to every column of R but the i-th, leaving probe i out gives the
projector Q(I − sᵢsᵢᵀ)Qᵀ: all k estimates follow from one factorisation.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import jax.scipy.linalg
import scipy.linalg
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg._products import Products
from corollary.linalg.trace._probes import (
    Assumption,
    confidence_and_tolerance,
    probe_block,
    square,
    student,
    with_interval,
)

SOURCE = "Epperly, Tropp & Webber, SIAM J. Matrix Anal. Appl. 45 (2024)"
EXCHANGEABLE = Assumption("the spread of the leave-one-out estimates shows the error of their mean, as if independent")


@follows_input
def xtrace(A: Any, *, products: int = 40, tol: Any = None, confidence: float = 0.95, key: Key[Array, ""]) -> Solution:
    """Trace of a square matrix or operator by XTrace, from an even number of products.

    Parameters
    ----------
    A
        (n, n) dense or sparse matrix, or operator.
    products
        m, even: half of them are probes, half multiply the basis. At least 4, at most 2n (there it is exact).
    tol, confidence, key
        As in `hutchinson`; the interval treats the leave-one-out estimates as if they were independent.

    Returns
    -------
    Solution
        ``value``: the estimate, unbiased (Gaussian probes, rescaled to the sphere within the complement: their §2.3);
        ``stats``: ``stderr``, ``interval``, ``products``.

    Raises
    ------
    InputError
        Where A is not square, real and finite.

    Notes
    -----
    Certificate: ``"estimate"`` (standard error, eq. 1.13), ``"interval"`` given `tol`. Exact to rounding where the rank
    of A is below m/2.

    Examples
    --------
    >>> import jax, numpy as np
    >>> A = np.outer(np.arange(1.0, 7.0), np.arange(1.0, 7.0))
    >>> round(float(xtrace(A, products=6, key=jax.random.key(0)).value), 9)
    91.0
    """
    P, k = _start(A, products, tol, confidence, key)
    xp, n = P.xp, P.shape[0]
    omega = probe_block(P, k, "gaussian", key)
    Y = P.apply(omega)
    Q, R = xp.linalg.qr(Y)
    S = _left_out(R, P)
    Z = P.apply(Q)
    H, W = Q.T @ Z, Q.T @ omega
    # ωᵢ − Qaᵢ is what of ωᵢ lies outside the basis that leaves ωᵢ out.
    a = W - S * xp.sum(S * W, axis=0)
    dots = lambda U, V: xp.sum(U * V, axis=0)  # noqa: E731
    remainder = dots(omega, Y) - dots(Z.T @ omega, a) - dots(a, R) + dots(a, H @ a)
    outside = dots(omega, omega) - 2 * dots(a, W) + dots(a, a)
    scale = (n - k + 1) / xp.where(outside > 0, outside, 1)
    estimates = xp.trace(H) - dots(S, H @ S) + scale * remainder
    return _mean(P, estimates, 2 * k, "tr A", tol, confidence)


@follows_input
def xnystrace(
    A: Any, *, products: int = 40, tol: Any = None, confidence: float = 0.95, key: Key[Array, ""]
) -> Solution:
    """Trace of a positive semidefinite matrix or operator by XNysTrace: every product is a probe.

    Parameters
    ----------
    A
        (n, n) symmetric positive semidefinite; no method can tell from products alone that it is not.
    products
        m probes, at least 2 and at most n.
    tol, confidence, key
        As in `xtrace`.

    Returns
    -------
    Solution
        As `xtrace`. ``status``: NON_FINITE where the sketched matrix ΩᵀAΩ turned out not to be positive semidefinite.

    Raises
    ------
    InputError
        Where A is not square, real and finite.

    Notes
    -----
    Certificate: as `xtrace`. A shift of eps‖Y‖_F/√n keeps the factorisation stable and is subtracted again (Epperly,
    Tropp & Webber 2024, §3; Tropp et al., 2017).

    Examples
    --------
    >>> import jax, numpy as np
    >>> A = np.outer(np.arange(1.0, 7.0), np.arange(1.0, 7.0))
    >>> round(float(xnystrace(A, products=4, key=jax.random.key(0)).value), 6)
    91.0
    """
    P, _ = _start(A, products, tol, confidence, key)
    xp, n = P.xp, P.shape[0]
    k = min(products, n)
    omega = probe_block(P, k, "gaussian", key)
    Y = P.apply(omega)
    top = xp.max(xp.abs(Y))
    size = top * xp.linalg.norm(Y / xp.where(top > 0, top, 1))  # no square over- or underflows
    shift = P.eps * xp.where(size > 0, size, 1) / n**0.5
    Y = Y + shift * omega
    R, upper = xp.linalg.qr(Y)[1], _cholesky(omega.T @ Y, xp)
    B = _solve(upper, R.T, P, transposed=True).T  # A⟨Ω⟩ = QB(QB)ᵀ
    inverse = _solve(upper, xp.eye(k, dtype=P.dtype), P)
    weight = xp.sqrt(xp.sum(inverse**2, axis=1))
    # A⟨Ω⟩ − A⟨Ω without ωᵢ⟩ = sᵢsᵢᵀ, and A⟨Ω⟩ωᵢ = Aωᵢ
    S = (B @ inverse.T) / weight
    t = 1 / weight  # sᵢᵀωᵢ, for ωᵢᵀ sᵢsᵢᵀ ωᵢ = 1/((ΩᵀAΩ)⁻¹)ᵢᵢ
    G = _solve(xp.linalg.qr(omega)[1], xp.eye(k, dtype=P.dtype), P)
    scale = (n - k + 1) * xp.sum(G**2, axis=1)  # (n − k + 1)/‖what of ωᵢ lies outside the others‖²
    estimates = xp.sum(B**2) - xp.sum(S**2, axis=0) + scale * t**2 - shift * n
    estimates = xp.where(size > 0, estimates, 0)
    return _mean(P, estimates, k, "tr A", tol, confidence)


@follows_input
def xdiag(A: Any, *, products: int = 40, tol: Any = None, confidence: float = 0.95, key: Key[Array, ""]) -> Solution:
    """Diagonal of a square matrix or operator by XDiag; it multiplies by A and by Aᵀ.

    Parameters
    ----------
    A
        (n, n) dense or sparse matrix, or operator with a transpose.
    products
        m, even: half with A, half with Aᵀ.
    tol, confidence, key
        As in `xtrace`; the interval is that of each entry.

    Returns
    -------
    Solution
        ``value``: (n,); ``stats``: ``stderr``, ``interval`` by entry, ``products``.

    Raises
    ------
    InputError
        Where A is not square, real and finite.

    Notes
    -----
    Certificate: as `xtrace`, by entry. Source: Epperly, Tropp & Webber (2024), §4.

    Examples
    --------
    >>> import jax, numpy as np
    >>> A = np.outer(np.arange(1.0, 5.0), np.arange(1.0, 5.0))
    >>> xdiag(A, products=6, key=jax.random.key(0)).value.round(9).tolist()
    [1.0, 4.0, 9.0, 16.0]
    """
    P, k = _start(A, products, tol, confidence, key)
    xp = P.xp
    omega = probe_block(P, k, "rademacher", key)
    Q, R = xp.linalg.qr(P.apply(omega))
    S = _left_out(R, P)
    Z = P.adjoint(Q)
    QS = Q @ S
    estimates = xp.sum(Q * Z, axis=1)[:, None] - QS * (Z @ S) + omega * QS * xp.sum(S * R, axis=0)
    return _mean(P, estimates.T, 2 * k, "diag A", tol, confidence)


def _start(A: Any, products: Any, tol: Any, confidence: Any, key: Any) -> tuple[Products, int]:
    validation.integer(4)("products", products)
    confidence_and_tolerance(tol, confidence)
    P = square(A, key)
    return P, min(products // 2, P.shape[0])


def _mean(P: Products, estimates: Any, products: int, name: str, tol: Any, confidence: float) -> Solution:
    xp, k = P.xp, estimates.shape[0]
    value = xp.mean(estimates, axis=0)
    stderr = xp.sqrt(xp.sum((estimates - value) ** 2, axis=0) / (k * max(k - 1, 1)))
    return P.out(
        with_interval(
            value,
            stderr,
            student(max(k, 2), confidence) * stderr,
            xp,
            name=name,
            tol=tol,
            confidence=confidence,
            source=f"{SOURCE}, eq. (1.13)",
            assumptions=(EXCHANGEABLE,),
            stats={"products": products},
        )
    )


def _left_out(R: Any, P: Products) -> Any:
    """Unit vectors sᵢ ⟂ all columns of R but the i-th: normalised columns of R⁻ᵀ.

    Where A's rank is below k, R is singular and any k − 1 probes span the range: a diagonal raised to rounding level
    picks one of the admissible answers.
    """
    xp, k = P.xp, R.shape[0]
    diagonal = xp.diagonal(R)
    size = xp.max(xp.abs(R))
    floor = P.eps * xp.where(size > 0, size, 1)
    raised = xp.where(xp.abs(diagonal) < floor, floor, diagonal)
    R = R + xp.diag(raised - diagonal)
    S = _solve(R, xp.eye(k, dtype=P.dtype), P, transposed=True)
    S = S / xp.max(xp.abs(S), axis=0)  # entries reach 1/eps: no overflow in the norm
    return S / xp.linalg.norm(S, axis=0)


def _cholesky(H: Any, xp: Any) -> Any:
    """Upper factor of a Gram matrix; NaN where it is indefinite, for NumPy data too."""
    return xp.asarray(jax.scipy.linalg.cholesky(jnp.asarray((H + H.T) / 2)))


def _solve(upper: Any, B: Any, P: Products, transposed: bool = False) -> Any:
    kind: Any = "T" if transposed else "N"
    if P.xp is jnp:
        return jax.scipy.linalg.solve_triangular(upper, B, trans=kind)
    return scipy.linalg.solve_triangular(upper, B, trans=kind, check_finite=False)
