"""A few eigenpairs of a large symmetric operator, at an end of its spectrum or near a shift.

When: matrices too large for `numpy.linalg.eigh`, or known by their products only: graphs, kernels, Hessians.
Cost: products with A, fewer than `scipy.sparse.linalg.eigsh` takes on clustered ends, and 4 n m² a cycle; memory
n (m + block), m = max(2k, k + 20). Small matrices are decomposed in full.
Source: thick-restart Lanczos, Wu & Simon, SIMAX 22 (2000), with the filter of `_chebyshev`.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse
from jax.core import Tracer
from jaxtyping import Array, Key

from corollary.core import operator, validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.linalg._products import Products
from corollary.linalg.eigen import _shifted
from corollary.linalg.eigen._pair import certify, square
from corollary.linalg.eigen._sides import Device, Host
from corollary.linalg.eigen._thick_restart import DONE, Plan, State, column_norms, plan, rayleigh_ritz, run

WHICH = ("LA", "SA", "LM")
FAILURE = 1e-3  # of a single random vector


@follows_input
def eigsh(
    A: Any,
    k: int = 6,
    *,
    which: str = "LA",
    sigma: Any = None,
    inverse: Any = None,
    tol: Any = None,
    max_steps: Any = 300,
    block: int = 1,
    basis: int | None = None,
    complete: bool = True,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """k eigenpairs of a symmetric A: the largest, the smallest, the largest in modulus, or those nearest to a shift.

    Parameters
    ----------
    A
        (n, n) dense or sparse matrix, or operator, symmetric (which is not checked).
    k
        How many pairs.
    which
        ``"LA"`` largest, ``"SA"`` smallest, ``"LM"`` largest in modulus. For the smallest in modulus of an indefinite
        A take ``sigma=0``.
    sigma
        Shift: the k eigenvalues nearest to it, by Lanczos on (A − σI)⁻¹ from an LU factorisation, dense or sparse.
    inverse
        The map x ↦ (A − σI)⁻¹x, function or operator, where you have a better one; required for operators.
    tol
        ‖Av − λv‖ ≤ tol ‖A‖ for each pair; ``None``: eps^(2/3).
    max_steps
        Limit of cycles (restarts).
    block
        Vectors that a step adds: a multiple eigenvalue is seen at once with as many copies.
    basis
        m, vectors in the basis; ``None``: max(2k, k + 20).
    complete
        Look once more, from a random start orthogonal to the answer, for pairs that were missed (copies of multiple
        eigenvalues), and go on if there are any. Costs a cycle.
    key
        `jax.random.key` of the random start; ``None``: a fixed one.

    Returns
    -------
    Solution
        ``value``: (values (k,), vectors (n, k)), the outermost (or nearest to sigma) first. ``steps``: cycles;
        ``stats``: ``products`` (columns that A, or its inverse, was applied to), ``residuals`` (k,), ``method``.

    Raises
    ------
    InputError
        For a matrix that is not square, real and finite, or settings that do not fit.

    Notes
    -----
    Certificates: those of `eigenpair_certificates` (``residual``, ``backward_error``, ``orthogonality``,
    ``eigenvalue_error``, all exact), and with `complete` ``none_missed`` (probabilistic): no eigenvector orthogonal to
    the answer has p(λ) above the bound, from the growth of Chebyshev polynomials and the chance that a random vector
    has less than 1.25·10⁻³/√n of a given direction.

    Examples
    --------
    >>> import numpy as np, scipy.sparse
    >>> A = scipy.sparse.diags_array(np.arange(400.0)).tocsr()
    >>> found = eigsh(A, 3)
    >>> found.value[0].round(6).tolist(), bool(found.holds)
    ([399.0, 398.0, 397.0], True)
    """
    validation.one_of(*WHICH)("which", which)
    validation.integer(1)("k", k)
    validation.integer(1)("block", block)
    validation.integer(1, none=True)("basis", basis)
    validation.flag("complete", complete)
    for name, value, check in (("tol", tol, validation.number(0, 1, open_low=True, none=True)),
                               ("max_steps", max_steps, validation.integer(1)),
                               ("sigma", sigma, validation.number(-1e300, 1e300, none=True))):  # fmt: skip
        if not isinstance(value, jax.Array):
            check(name, value)
    key = jax.random.key(0) if key is None else key
    P = square(A, (key, tol, sigma))
    n = P.shape[0]
    if k > n:
        raise InputError(f"k: found {k}, expected at most {n} for a matrix of {n} rows")
    if basis is not None and basis < k + 2 * block:
        raise InputError(f"basis: found {basis}, expected at least k + 2·block = {k + 2 * block}")
    tol = P.eps ** (2 / 3) if tol is None else tol
    sizes = plan(n, k, which == "LM" or sigma is not None, sigma is None, complete, block, basis)
    if n < sizes.m + 2 * sizes.b:
        return P.out(_in_full(P, k, which, sigma, tol))
    return P.out(_krylov(A, P, sizes, which, sigma, inverse, tol, max_steps, key))


def _krylov(
    A: Any, P: Products, sizes: Plan, which: str, sigma: Any, inverse: Any, tol: Any, max_steps: Any, key: Any
) -> Solution:
    """Scale A to the order of one, run, and certify with A itself."""
    xp, n = P.xp, P.shape[0]
    keys = jax.random.split(key, 3)
    start, again = (P.normal(one, n, sizes.b) for one in (keys[0], keys[1]))
    mix = P.normal(keys[2], sizes.p, sizes.b)
    sign = -1.0 if which == "SA" and sigma is None else 1.0
    apply = P.apply if sigma is None and inverse is None else _inverse(A, P, sigma, inverse)
    top = xp.max(xp.abs(apply(start)))
    if xp is np and not np.isfinite(top):
        raise InputError("A: its products overflow, expected a matrix that is scaled to moderate entries")
    # A power of two: squares stay within range and no bit is lost.
    scale = xp.ldexp(xp.ones((), P.dtype), xp.where(top > 0, xp.frexp(top)[1], 0))
    if xp is np:
        side: Any = Host(apply, _csr(A) if sigma is None and inverse is None else None, P.dtype.type(sign / scale))
    else:
        side = Device(lambda V: apply(V / scale) * sign)
    try:
        state = run(side, sizes, n, P.dtype, start, mix, again, xp.asarray(tol, P.dtype), max_steps)
    finally:
        side.close()
    return _answer(P, sizes, state, sigma, inverse, sign, scale, tol)


def _answer(
    P: Products, sizes: Plan, s: State, sigma: Any, inverse: Any, sign: float, scale: Any, tol: Any
) -> Solution:
    """Ritz pairs of A itself on the last basis, with their certificates."""
    xp, k = P.xp, sizes.k
    shifted = sigma is not None or inverse is not None
    # At order one, so that nothing overflows; what the certificates say goes back to A's scale.
    size = _order_of_one(P, s.V[:, :1]) if shifted else scale
    own = Device(lambda V: P.apply(V / size)) if P.xp is jnp else Host(lambda V: P.apply(V / size))
    V = xp.linalg.qr(s.V[:, : k if shifted else sizes.p])[0]
    X, image, values = rayleigh_ritz(own, V, V.shape[1], False)
    centre = (0 if sigma is None else xp.asarray(sigma, P.dtype)) / size
    order = xp.argsort(xp.abs(values - centre) if shifted else -(xp.abs(values) if sizes.both else sign * values))[:k]
    X, image, values = X[:, order], image[:, order], values[order]
    norm = xp.maximum(xp.max(xp.abs(values)), 0 if shifted else s.scale)
    certificates = certify(xp, values, X, image, norm, symmetric=True, tol=tol, units=size)
    residuals = column_norms(xp, image - X * values)
    if sizes.verify and not shifted:
        certificates["none_missed"] = _none_missed(xp, sizes, s, P.shape[0], tol)
    small = xp.max(residuals) <= (tol + 16 * P.eps) * norm
    done = ((s.phase == DONE) & small) | (norm == 0)
    exhausted = xp.max(residuals) <= 200 * P.eps * norm
    status = xp.where(done, Status.CONVERGED, xp.where(exhausted, Status.PRECISION, Status.MAX_STEPS))
    status = xp.where(xp.isfinite(xp.sum(values)), status, Status.NON_FINITE).astype(jnp.int32)
    method = Note("block Lanczos, thick restart" + (", inverse of A − σI" if shifted else ", Chebyshev filter"))
    stats = {"products": s.products, "residuals": residuals * size, "method": method}
    return Solution((values * size, X), certificates, status, s.cycles, stats)


def _none_missed(xp: Any, sizes: Plan, s: State, n: int, tol: Any) -> Certificate:
    """How large p(λ) of an unseen eigenvector could be, given what a random Krylov space orthogonal to the answer saw.

    Let θ be the largest Ritz value of p(A), h >= θ that of the last wanted pair, and q the Chebyshev polynomial of the
    space with |q| <= 1 where p(λ) <= h. If a unit start has the component c along an eigenvector with p* > h, the
    Rayleigh quotient of q(A)b exceeds h unless (p* − h) q(λ*)² c² <= h − min p. So p* is at most what solves this.
    """
    top, bottom, degree = s.reach
    f = s.filter
    lam = s.values[sizes.k - 1]
    h = xp.maximum(f.value(xp, xp.abs(lam) if sizes.both else lam), top)
    below = -h if sizes.both else xp.minimum(bottom, -1 / f.norm)
    component = (FAILURE * 1.2533) ** 2 / n
    edge = f.inverse(xp, h)
    angle = lambda x: xp.arccosh(xp.maximum((x - f.centre) / f.width, 1))  # noqa: E731
    steps = degree / f.degree
    low, high = h * 0, h * 0 + 1  # bisect the excess of λ over the edge, relative to the width
    for _ in range(40):
        middle = (low + high) / 2
        x = edge + middle * f.width
        if_plain = xp.arccosh(1 + 2 * xp.maximum(f.value(xp, x) - h, 0) / xp.maximum(h - below, 1e-30))
        growth = xp.maximum(degree * (angle(x) - angle(edge)), steps * if_plain)
        gain = 2 * (growth + xp.log1p(xp.exp(-2 * growth)) - 0.6931) + np.log(component)  # log q²c²
        tiny = float(np.finfo(h.dtype).tiny)
        found = xp.log(xp.maximum(f.value(xp, x) - h, tiny)) + gain > xp.log(xp.maximum(h - below, tiny))
        low, high = xp.where(found, low, middle), xp.where(found, middle, high)
    scale = xp.where(s.scale > 0, s.scale, 1)
    seen = xp.maximum(f.inverse(xp, top) - (xp.abs(lam) if sizes.both else lam), 0) / scale
    return Certificate(
        "an eigenvalue of A outside the answer is farther out than its last by at most the bound, relative to ‖A‖; "
        "measured: what the last look saw farther out",
        measured=seen,
        bound=high * f.width / scale + xp.minimum(seen, 4 * (tol + 16 * float(np.finfo(h.dtype).eps))),
        kind="probabilistic",
        confidence=1 - FAILURE**sizes.b,
        source="as Kuczyński & Woźniakowski, SIMAX 13 (1992)",
        assumptions=(
            Assumption("the last look was taken", checked=True, holds=(degree > 0) | (s.scale == 0)),
            Assumption("the far end of the spectrum is where Lanczos saw it"),
        ),
    )


def _in_full(P: Products, k: int, which: str, sigma: Any, tol: Any) -> Solution:
    """All pairs of a small matrix."""
    xp, n = P.xp, P.shape[0]
    A = P.apply(xp.eye(n, dtype=P.dtype))
    top = xp.max(xp.abs(A))
    size = xp.ldexp(xp.ones((), P.dtype), xp.where(top > 0, xp.frexp(top)[1], 0))
    A = A / size
    values, V = xp.linalg.eigh((A + A.T) / 2)
    if sigma is not None:
        order = xp.argsort(xp.abs(values - xp.asarray(sigma, P.dtype) / size))
    else:
        order = xp.argsort({"LA": -values, "SA": values, "LM": -xp.abs(values)}[which])
    norm = xp.max(xp.abs(values))
    values, V = values[order[:k]], V[:, order[:k]]
    image = A @ V
    certificates = certify(xp, values, V, image, norm, symmetric=True, tol=xp.maximum(tol, n * P.eps), units=size)
    status = xp.where(xp.isfinite(xp.sum(values)), Status.CONVERGED, Status.NON_FINITE).astype(jnp.int32)
    stats = {
        "products": n,
        "residuals": column_norms(xp, image - V * values) * size,
        "method": Note("all pairs: a small matrix"),
    }
    return Solution((values * size, V), certificates, status, 1, stats)


def _order_of_one(P: Products, v: Any) -> Any:
    xp = P.xp
    top = xp.max(xp.abs(P.apply(v)))
    return xp.ldexp(xp.ones((), P.dtype), xp.where(top > 0, xp.frexp(top)[1], 0))


def _inverse(A: Any, P: Products, sigma: Any, inverse: Any) -> Any:
    """V ↦ (A − σI)⁻¹V on the side of P."""
    xp = P.xp
    if inverse is not None:
        one = _shifted.multiplied(inverse)
        if xp is np:
            return lambda V: np.stack([np.asarray(one(v)) for v in V.T], axis=1).astype(P.dtype)
        return jax.vmap(one, in_axes=1, out_axes=1)
    csr = _csr(A)
    if csr is not None and xp is np:
        factorise: Any = functools.partial(_shifted.sparse_solve, csr.tocsc())
    elif isinstance(A, operator.Operator) and not isinstance(A, lx.MatrixLinearOperator):
        raise InputError(f"inverse: found None for {type(A).__name__}, expected x ↦ (A − σI)⁻¹x")
    else:
        dense = jnp.asarray(A.matrix if isinstance(A, lx.MatrixLinearOperator) else A).astype(P.dtype)
        factorise = lambda mu: _shifted.dense_solve(dense, jnp.asarray(mu, P.dtype))  # noqa: E731
    solve = factorise(sigma)
    if not P.traced:
        # On an eigenvalue the inverse shows nothing else: step aside by less than tells two neighbours apart.
        probe = P.normal(jax.random.key(1), P.shape[0], 1) / P.shape[0] ** 0.5
        size, back = (float(xp.linalg.norm(x)) for x in (P.apply(probe), xp.asarray(solve(probe))))
        if not size * back <= P.eps ** (-2 / 3):
            solve = factorise(sigma + P.eps ** (1 / 3) * size)
    return (lambda V: np.asarray(solve(V))) if xp is np else solve


def _csr(A: Any) -> Any:
    """The matrix in SciPy's row format, where it is sparse and in host memory."""
    if scipy.sparse.issparse(A):
        csr = scipy.sparse.csr_array(A)
        return csr if csr.dtype.kind == "f" else csr.astype(np.float64)
    if isinstance(A, operator.Sparse) and not isinstance(A.matrix.data, Tracer):
        parts = tuple(np.asarray(part) for part in (A.matrix.data, A.matrix.indices, A.matrix.indptr))
        return scipy.sparse.csr_array(parts, shape=A.shape)
    return None
