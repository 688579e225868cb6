"""How good are these eigenpairs? Residuals, and what they say about the spectrum.

When: after any eigensolver, ours or another's. For a symmetric A the residual alone places an eigenvalue; for others it
must be weighted by a condition number, and the scale of A is its largest singular value, never its spectral radius:
[[0, 100], [0, 0]] has radius 0 and norm 100.

Cost: one product of A with the k vectors and O(n k²).
Source: Parlett, The Symmetric Eigenvalue Problem (1980), §4.5, §11.5; Cao, Xie & Li, SIMAX 17 (1996); Bauer & Fike
(1960); Stewart & Sun, Matrix Perturbation Theory (1990), §IV.2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from corollary.core import operator
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.linalg._products import Products, products
from corollary.linalg.low_rank._rsvd_bounds import norms

PARLETT = "Parlett, The Symmetric Eigenvalue Problem (1980)"


@follows_input
def eigenpair_certificates(
    A: Any,
    values: Any,
    vectors: Any,
    *,
    symmetric: bool = True,
    tol: Any = None,
    gap: Any = None,
    left: Any = None,
    norm: Any = None,
) -> dict[str, Certificate]:
    """Certify eigenpairs: residuals, backward errors, and the distance of each value to the spectrum.

    Cost: one product of A with k vectors, O(n k²).

    Parameters
    ----------
    A
        (n, n) dense or sparse real matrix, or operator; it is not checked to be symmetric.
    values
        (k,) or a scalar: the eigenvalues, real for a symmetric A.
    vectors
        (n, k) or (n,): their eigenvectors, of any non-zero length.
    symmetric
        Whether A is symmetric and the vectors are meant to be orthonormal.
    tol
        Relative to ‖A‖: what counts as small. ``None``: rounding, max(n, 16) · eps.
    gap
        Scalar or (k,): a distance from each value to all eigenvalues but the nearest, where you know one: the error is
        then at most residual² / gap.
    left
        (n, k) left eigenvectors, for the condition number ‖y‖‖x‖/|yᴴx| of each value of a non-symmetric A.
    norm
        ‖A‖₂ or a lower bound of it; ``None``: the largest ‖Av‖/‖v‖ and, off the entries, ‖A‖_F/√n.

    Returns
    -------
    dict of Certificate
        See Notes; ``measured`` is the worst over the pairs.

    Raises
    ------
    InputError
        For shapes that do not fit, or a zero vector.

    Notes
    -----
    ``"residual"`` (exact): ‖Av − λv‖ for unit v. ``"backward_error"`` (exact): ‖Av − λv‖/‖A‖: (λ, v) is an exact pair
    of A + E with ‖E‖ that much of ‖A‖. Symmetric: ``"eigenvalue_error"`` (exact): k eigenvalues of A, counted with
    multiplicity, lie one by one within ‖AV − VΛ‖_F/σ_min(V) of the λ_i (Cao, Xie & Li; Weyl's bound for one pair), or
    within residual²/gap given a gap (Parlett, Theorem 4.5.1; then of kind ``theorem``); ``"orthogonality"`` (exact):
    ‖VᵀV − I‖_F; for k = n ``"reconstruction"`` (exact): ‖VΛVᵀ − A‖_F. Non-symmetric: ``"eigenvalue_error"``: for
    k = n, every eigenvalue of A is within κ(V)‖AV − VΛ‖_F/σ_min(V) of some λ_i (exact; Bauer & Fike), else with `left`
    to first order residual/|yᴴx| (estimate).

    Examples
    --------
    >>> import numpy as np
    >>> A = np.array([[2.0, 1.0], [1.0, 2.0]])
    >>> checks = eigenpair_certificates(A, 2.9, np.array([1.0, 1.0]))
    >>> round(float(checks["residual"].measured), 3), bool(checks["residual"].holds)
    (0.1, False)
    """
    P, values, V = _arguments(A, values, vectors)
    xp = P.xp
    image = _apply(P, V)
    known = operator.frobenius_squared(operator.as_operator(A)) if _has_entries(A) and norm is None else None
    scale = _largest(xp, image)
    if norm is not None:
        scale = xp.maximum(scale, norm)
    if known is not None:
        scale = xp.maximum(scale, xp.sqrt(xp.asarray(known, P.dtype)) / math.sqrt(P.shape[0]))
    left = None if left is None else _unit(xp, xp.asarray(left))
    certificates = certify(xp, values, V, image, scale, symmetric=symmetric, tol=tol, gap=gap, left=left)
    if symmetric and V.shape[0] == V.shape[1] and _has_entries(A):
        certificates["reconstruction"] = _reconstruction(P, values, V, scale, tol)
    return P.out(certificates)


def certify(
    xp: Any,
    values: Any,
    V: Any,
    image: Any,
    scale: Any,
    *,
    symmetric: bool,
    tol: Any = None,
    gap: Any = None,
    left: Any = None,
    slack: float = 16.0,
    units: Any = None,
) -> dict[str, Certificate]:
    """The certificates from `image` = AV for unit columns V; `scale` is ‖A‖ or a lower bound; all times `units`."""
    n, k = V.shape
    eps = float(np.finfo(V.dtype).eps)
    tol = max(n, 16) * eps if tol is None else tol
    residual = image - V * values
    each = norms(xp.abs(residual), xp)
    noise = slack * eps * scale
    bound = tol * scale + noise
    safe = xp.where(scale > 0, scale, 1)
    certificates = {
        "residual": Certificate(
            "‖Av − λv‖ <= tol·‖A‖ for every pair with ‖v‖ = 1",
            measured=xp.max(each),
            bound=bound,
            kind="exact",
            source="computed",
        ),
        "backward_error": Certificate(
            "(λ, v) is an eigenpair of A + E with ‖E‖ <= tol·‖A‖",
            measured=xp.max(each) / safe,
            bound=tol + slack * eps,
            kind="exact",
            source="E = −(Av − λv)vᴴ; Stewart & Sun, Matrix Perturbation Theory (1990), Theorem IV.1.12",
        ),
    }
    if symmetric:
        gram = V.T @ V - xp.eye(k, dtype=V.dtype)
        defect = xp.linalg.norm(gram)
        certificates["orthogonality"] = Certificate(
            "orthonormal vectors: ‖VᵀV − I‖_F at rounding level",
            measured=defect,
            bound=16 * eps * math.sqrt(n) * k,
            kind="exact",
            source="computed",
        )
        certificates["eigenvalue_error"] = _symmetric_error(
            xp, values, xp.sum(V * image, axis=0), each + noise, defect, gap, noise, math.sqrt(k) * (bound + noise)
        )
    elif k == n:
        certificates["eigenvalue_error"] = _bauer_fike(xp, V, each + noise, math.sqrt(n) * (bound + noise))
    elif left is not None:
        certificates["eigenvalue_error"] = Certificate(
            "distance of each λ_i to an eigenvalue, to first order: ‖Av − λv‖/|yᴴx|",
            measured=xp.max(each * conditions(xp, V, left)),
            kind="estimate",
            source="Stewart & Sun, Matrix Perturbation Theory (1990), Theorem IV.2.3",
        )
    for name in ("residual", "eigenvalue_error"):
        if units is not None and name in certificates:
            certificates[name] = _in_units(certificates[name], units)
    return certificates


def _in_units(c: Certificate, units: Any) -> Certificate:
    bound = None if c.bound is None else c.bound * units
    return Certificate(c.claim, c.measured * units, bound, c.kind, c.source, c.confidence, c.stderr, c.assumptions)


def conditions(xp: Any, right: Any, left: Any) -> Any:
    """1/|yᴴx| for unit left and right eigenvectors: how far an eigenvalue moves per unit of perturbation."""
    cosine = xp.abs(xp.sum(xp.conj(left) * right, axis=0))
    return 1 / xp.maximum(cosine, float(np.finfo(cosine.dtype).tiny))


def _symmetric_error(
    xp: Any, values: Any, rayleigh: Any, residuals: Any, defect: Any, gap: Any, noise: Any, allowed: Any
) -> Certificate:
    """‖R‖_F/σ_min(V) for all values at once; residual²/gap where that is smaller and a gap is known."""
    smallest = xp.sqrt(xp.maximum(1 - defect, 0.25))
    joint, allowed = _length(xp, residuals) / smallest, allowed / smallest
    trusted = Assumption("V has full rank: ‖VᵀV − I‖_F <= 3/4", checked=True, holds=defect <= 0.75)
    if gap is None:
        return Certificate(
            "k eigenvalues of A lie one by one within ‖AV − VΛ‖_F/σ_min(V) of the λ_i, and that is <= √k·tol·‖A‖",
            measured=joint,
            bound=allowed,
            kind="exact",
            source="Cao, Xie & Li, SIMAX 17 (1996); Weyl's inequality for one pair",
            assumptions=(trusted,),
        )
    moved = xp.abs(values - rayleigh) + noise
    gap = gap - moved
    quadratic = moved + residuals * (residuals / xp.where(gap > 0, gap, 1))
    return Certificate(
        "k eigenvalues of A lie one by one within min(‖AV − VΛ‖_F, residual²/gap) of the λ_i, at most √k·tol·‖A‖",
        measured=xp.max(xp.where(gap > joint, xp.minimum(quadratic, joint), joint)),
        bound=allowed,
        kind="theorem",
        source=f"{PARLETT}, Theorem 4.5.1; Cao, Xie & Li, SIMAX 17 (1996)",
        assumptions=(trusted, Assumption("no other eigenvalue is nearer than the gap that was given")),
    )


def _bauer_fike(xp: Any, V: Any, residuals: Any, allowed: Any) -> Certificate:
    """A + E = VΛV⁻¹ with ‖E‖ <= ‖R‖_F/σ_min(V), to which Bauer and Fike's theorem applies as it stands."""
    s = xp.linalg.svd(V, compute_uv=False)
    singular = s[-1] <= V.shape[0] * float(np.finfo(V.dtype).eps) * s[0]
    weight = xp.where(singular, xp.inf, s[0] / xp.square(xp.where(singular, 1, s[-1])))
    return Certificate(
        "every eigenvalue of A lies within κ(V)·‖AV − VΛ‖_F/σ_min(V) of some λ_i; infinite where A is defective",
        measured=weight * _length(xp, residuals),
        bound=weight * allowed,
        kind="exact",
        source="Bauer & Fike (1960), for A + E = VΛV⁻¹",
    )


def _reconstruction(P: Products, values: Any, V: Any, scale: Any, tol: Any) -> Certificate:
    n, xp = V.shape[0], P.xp
    error = _length(xp, (V * values) @ V.T - P.apply(xp.eye(n, dtype=P.dtype)))
    relative = max(n, 16) * float(np.finfo(P.dtype).eps) if tol is None else tol
    return Certificate(
        "‖VΛVᵀ − A‖_F <= √n·tol·‖A‖",
        measured=error,
        bound=math.sqrt(n) * (relative + 16 * float(np.finfo(P.dtype).eps)) * scale,
        kind="exact",
        source="computed",
    )


def _arguments(A: Any, values: Any, vectors: Any) -> tuple[Products, Any, Any]:
    P = square(A)
    xp = P.xp
    values, V = xp.atleast_1d(xp.asarray(values)), xp.asarray(vectors)
    V = V[:, None] if V.ndim == 1 else V
    if V.ndim != 2 or values.ndim != 1 or V.shape != (P.shape[0], values.shape[0]) or 0 in V.shape:
        raise InputError(f"vectors: found shape {V.shape} for {values.shape} values, expected ({P.shape[0]}, k)")
    kind = np.complex64 if np.dtype(P.dtype) == np.float32 else np.complex128
    dtype = kind if "c" in (V.dtype.kind, values.dtype.kind) else P.dtype
    V, values = V.astype(dtype), values.astype(dtype)
    lengths = norms(xp.abs(V), xp)
    if not P.traced and not bool(xp.all((lengths > 0) & xp.isfinite(lengths))):
        raise InputError("vectors: found a zero or non-finite column, expected eigenvectors")
    return P, values, _unit(xp, V)


def square(A: Any, key: Any = None) -> Products:
    """The products with a square matrix; refuse any other."""
    P = products(A, key)
    if P.shape[0] != P.shape[1]:
        raise InputError(f"A: found shape {P.shape}, expected a square matrix")
    return P


def _length(xp: Any, x: Any) -> Any:
    """‖x‖ of all entries, without overflow or underflow of the squares: A may be scaled by 1e±150."""
    return norms(xp.abs(x).reshape(-1, 1), xp)[0]


def _unit(xp: Any, V: Any) -> Any:
    lengths = norms(xp.abs(V), xp)
    return V / xp.where(lengths > 0, lengths, 1)


def _apply(P: Products, V: Any) -> Any:
    if V.dtype.kind == "c":
        return P.apply(P.xp.real(V)) + 1j * P.apply(P.xp.imag(V))
    return P.apply(V)


def _largest(xp: Any, image: Any) -> Any:
    return xp.max(norms(xp.abs(image), xp))


def _has_entries(A: Any) -> bool:
    return not isinstance(A, operator.Operator) or isinstance(A, operator.Sparse) or hasattr(A, "matrix")
