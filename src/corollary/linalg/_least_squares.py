"""Least squares min ‖A x − b‖ with a certificate: dense by normal equations, QR or SVD, sparse and matrix-free by LSMR.

When: whenever you would call `numpy.linalg.lstsq` and want to know how far to trust the answer, differentiate through
it, or solve it for a sparse matrix. ``solver="auto"`` takes the cheapest route that the conditioning allows.

Cost for an (n, p) matrix, n ≥ p: normal n p² (symmetric product), QR 2 n p², SVD 2 n p² + 20 p³, LSMR and CG one
product with A and one with Aᵀ a step; p and n change places for a wide matrix.

Source: Björck, Numerical Methods for Least Squares Problems (1996), ch. 1-2; Higham, Accuracy and Stability of
Numerical Algorithms, 2nd ed. (2002), ch. 20.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse
from jax.experimental import sparse as jsparse
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.operator import Operator, as_operator, frobenius_squared, matmat, rmatmat
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.linalg import _least_squares_claims as claims
from corollary.linalg._factors import Factor, exponent, from_gram, from_qr, shift

SOLVERS = ("auto", "normal", "qr", "svd", "lsmr", "cg")
SMALL = 1e7  # flops below which the choice is not worth an extra look: QR
DENSE_LIMIT = 1e7  # entries that a named direct solver may unpack from an operator


@follows_input
def lstsq(
    A: Any,
    b: Any,
    *,
    solver: str = "auto",
    rcond: Any = None,
    refine: int = 2,
    tol: Any = None,
    max_steps: int | None = None,
) -> Solution:
    """Minimise ‖A x − b‖₂; among several minimisers, the one of least norm.

    Parameters
    ----------
    A
        (n, p): NumPy or JAX array, ``scipy.sparse`` matrix, or operator. Any shape; any rank for the direct solvers.
    b
        (n,) or (n, k): one right-hand side or several.
    solver
        ``"normal"`` (Cholesky of AᵀA, then `refine` corrections), ``"qr"``, ``"svd"``, ``"lsmr"``, ``"cg"`` (on the
        normal equations), or ``"auto"``: LSMR for sparse matrices and operators; else QR where the problem is small or
        traced, normal equations where a bound on the condition number allows them, QR otherwise. A QR whose triangle
        is numerically singular goes on to the triangle's SVD. The choice and its reason are in ``stats["solver"]``.
    rcond
        Singular values at most ``rcond`` · σ₁ count as zero; ``None``: max(n, p) · eps. Scale-free. It may be traced.
        The iterative solvers make no such decision.
    refine
        Corrections x ← x + (AᵀA)⁻¹Aᵀ(b − A x) after the normal equations; each wins a factor of about κ²·eps.
    tol, max_steps
        For the iterative solvers: relative size of the backward error (``None``: eps^(2/3)) and step limit
        (``None``: 10 min(n, p), at least 100).

    Returns
    -------
    Solution
        ``value`` (p,) or (p, k); ``stats``: solver, rank, condition (an upper bound unless from an SVD), residual_norm.
        It can be jitted, vmapped and differentiated (at constant rank).

    Raises
    ------
    InputError
        For data that are not finite, real, two-dimensional and of matching lengths, or an unknown solver.

    Notes
    -----
    Certificates: ``backward_error`` (x solves a problem with A perturbed by so much), ``orthogonality`` (‖Aᵀr‖ against
    ‖A‖‖r‖), and from the direct solvers ``rank`` (no singular value near the cutoff), ``forward_error`` (Wedin's bound;
    it keeps the κ²·‖r‖ term that no solver can avoid) and ``minimum_norm`` (x lies in the row space).
    Sources: Waldén, Karlson & Sun, NLAA 2 (1995); Stewart, SIAM Review 19 (1977); Wedin, BIT 13 (1973); Higham,
    Theorem 20.1.

    Examples
    --------
    >>> import numpy as np
    >>> A = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> solution = lstsq(A, np.array([1.0, 2.0, 4.0]))
    >>> solution.value.round(3).tolist()
    [0.833, 1.5]
    >>> bool(solution.holds), str(solution.stats["solver"])
    (True, 'qr: a small problem')
    """
    validation.one_of(*SOLVERS)("solver", solver)
    validation.integer(0)("refine", refine)
    validation.integer(1, none=True)("max_steps", max_steps)
    for name, value in (("rcond", rcond), ("tol", tol)):
        if not isinstance(value, jax.Array):
            validation.number(0, 1, none=True)(name, value)
    abstract = isinstance(A, Operator | jsparse.BCOO | jsparse.BCSR) or scipy.sparse.issparse(A)
    unpacked = ""
    if isinstance(A, lx.MatrixLinearOperator):
        A, abstract = A.matrix, False
    if abstract and solver in ("normal", "qr", "svd"):
        A, abstract, unpacked = _unpack(A, solver), False, " (unpacked into a dense matrix)"
    if not abstract:
        A = validation.matrix("A", A, host=True)
    b = validation.vector_or_matrix("b", b, host=True)
    if abstract or solver in ("lsmr", "cg"):
        return _iterative(A, b, "lsmr" if solver == "auto" else solver, solver == "auto", tol, max_steps)
    validation.same_length("A", A, "b", b)
    if isinstance(A, np.ndarray) and isinstance(b, np.ndarray):
        A, b = (a.astype(np.result_type(A, b), copy=False) for a in (A, b))
    else:
        A, b = common_float(A, b)
    rcond = jnp.asarray(max(A.shape) * float(jnp.finfo(A.dtype).eps) if rcond is None else rcond).astype(A.dtype)
    if solver != "auto":
        return _direct(solver, refine, A, b, rcond, "as asked" + unpacked)
    if any(isinstance(a, jax.core.Tracer) for a in (A, b, rcond)):
        return _direct("qr", refine, A, b, rcond, "traced data; SVD of the triangle where that is singular")
    if max(A.shape) * min(A.shape) ** 2 <= SMALL:
        return _direct("qr", refine, A, b, rcond, "a small problem")
    return _by_conditioning(A, b, rcond, refine)


def _by_conditioning(A: Any, b: Any, rcond: Array, refine: int) -> Solution:
    """Normal equations if their κ²·eps is harmless after refinement and the rank is beyond doubt; else QR."""
    solution = _direct("normal", refine, A, b, rcond, "")
    condition, p = float(solution.stats["condition"]), min(A.shape)
    safe = condition**2 * p * float(jnp.finfo(A.dtype).eps) <= 1e-2 and int(solution.stats["rank"]) == p
    if safe and bool(np.all(solution.holds)):
        reason = f"condition number at most {condition:.1e}, so squaring it is harmless"
        return _noted(solution, "normal", reason)
    found = f"condition number up to {condition:.1e}" if np.isfinite(condition) else "a singular Gram matrix"
    return _direct("qr", refine, A, b, rcond, f"{found} is too much for the normal equations")


def _direct(solver: str, refine: int, A: Any, b: Any, rcond: Array, reason: str) -> Solution:
    if solver == "normal" and not isinstance(A, jax.core.Tracer) and isinstance(A, np.ndarray):
        solution = _normal_on_host(refine, A, b, rcond)
    else:
        solution = _in_jax(solver, refine, jnp.asarray(A), jnp.asarray(b), rcond)
    return _noted(solution, solver, reason)


def _noted(solution: Solution, solver: str, reason: str) -> Solution:
    stats = {**solution.stats, "solver": Note(f"{solver}: {reason}")}
    return Solution(solution.value, solution.certificates, solution.status, solution.steps, stats)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _in_jax(solver: str, refine: int, A: Float[Array, "n p"], b: Array, rcond: Float[Array, ""]) -> Solution:
    # Powers of two in front of A and b keep squares within range and change no bit of the answer.
    ea, eb = jax.lax.stop_gradient((exponent(A), exponent(b)))
    scaled, B = shift(A, -ea), shift(b, -eb).reshape(b.shape[0], -1)
    x, factor = _solve(solver, refine, scaled, B, rcond)
    audit = _audit(*jax.lax.stop_gradient((scaled, B, x, factor)))
    solution = claims.dense((A.shape[0], A.shape[1]), *jax.lax.stop_gradient((factor, audit)))
    return _finish(solution, x, b, eb - ea, eb)


def _normal_on_host(refine: int, A: np.ndarray, b: Any, rcond: Array) -> Solution:
    """As `_in_jax`, with the products of the large matrix left to the host's BLAS, where it lies."""
    tall = A if A.shape[0] >= A.shape[1] else A.T
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        G, ea = tall.T @ tall, 0
    size, limit = np.diag(G), np.finfo(A.dtype).maxexp // 4
    if not np.isfinite(G).all() or size.max(initial=0) < 2.0**-limit:
        ea = int(exponent(A))
        A = np.ldexp(A, -ea)
        tall = A if A.shape[0] >= A.shape[1] else A.T
        G = tall.T @ tall
    eb = exponent(b)
    B = np.asarray(shift(jnp.asarray(b), -eb)).reshape(b.shape[0], -1)
    x, factor = _normal(refine, A, B, jnp.asarray(G), rcond)
    solution = _claims_jit(A.shape, factor, _audit(A, B, x, factor))
    return _finish(solution, jnp.asarray(x), b, eb - ea, eb)


def _finish(solution: Solution, x: Array, b: Any, e: Array, eb: Array) -> Solution:
    stats = {**solution.stats, "residual_norm": shift(solution.stats["residual_norm"], eb)}
    value = shift(x, e)
    if b.ndim == 1:
        value, stats["residual_norm"] = value[:, 0], stats["residual_norm"][0]
    return Solution(value, solution.certificates, solution.status, 1, stats)


_claims_jit = jax.jit(claims.dense, static_argnums=0)


# The solvers ---------------------------------------------------------------------------------------------------------


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _solve(solver: str, refine: int, A: Array, B: Array, rcond: Array) -> tuple[Float[Array, "p k"], Factor]:
    if solver == "normal":
        tall = A if A.shape[0] >= A.shape[1] else A.T
        return _normal(refine, A, B, tall.T @ tall, rcond)
    return _orthogonal(A, B, rcond, always_svd=solver == "svd")


def _normal(refine: int, A: Any, B: Any, G: Array, rcond: Array) -> tuple[Any, Factor]:
    if A.shape[0] >= A.shape[1]:
        x, factor = _gram_solve(G, jnp.asarray(A.T @ B), rcond)
    else:
        y, factor = _gram_solve(G, jnp.asarray(B), rcond)
        x = A.T @ _like(A, y)
    x = _like(A, x)
    for _ in range(refine):
        x = x + _pinv(A, factor, B - A @ x)
    return x, factor


_gram_solve = jax.jit(from_gram)


def _orthogonal(A: Array, B: Array, rcond: Array, always_svd: bool) -> tuple[Array, Factor]:
    n, p = A.shape
    if n >= p:
        # The triangle of [A b] holds R and Qᵀb: Householder's method without ever forming Q.
        triangle = jnp.linalg.qr(jnp.concatenate([A, B], 1), mode="r")
        x, _, factor = from_qr(triangle[:p, :p], triangle[:p, p:], rcond, always_svd)
        return x, factor
    Q, R = jnp.linalg.qr(A.T)
    _, turn, factor = from_qr(R, jnp.zeros_like(B), rcond, always_svd)
    back = lambda v: Q @ (turn @ (factor.W.T @ v))  # noqa: E731
    x = back(B)
    return x + back(B - A @ x), factor


@_solve.defjvp
def _solve_jvp(solver: str, refine: int, primals: Any, tangents: Any) -> Any:
    """Golub & Pereyra's derivative of A⁺b at constant rank (SIAM J. Numer. Anal. 10, 1973, eq. 4.12)."""
    (A, B, rcond), (dA, dB, _) = primals, tangents
    x, factor = _solve(solver, refine, A, B, rcond)
    zero = jax.tree.map(jnp.zeros_like, factor)
    pinv = functools.partial(_pinv, A, factor)
    outside = dA.T @ _pinv_transposed(A, factor, x)
    dx = pinv(dB - dA @ x + _pinv_transposed(A, factor, dA.T @ (B - A @ x))) + outside - pinv(A @ outside)
    return (x, factor), (dx, zero)


def _pinv(A: Any, factor: Factor, v: Any) -> Any:
    """A⁺v through the factor: W Wᵀ Aᵀ v, or Aᵀ W Wᵀ v for a wide matrix."""
    W = _like(A, factor.W)
    return W @ (W.T @ (A.T @ v)) if A.shape[0] >= A.shape[1] else A.T @ (W @ (W.T @ v))


def _pinv_transposed(A: Any, factor: Factor, v: Any) -> Any:
    W = factor.W
    return A @ (W @ (W.T @ v)) if A.shape[0] >= A.shape[1] else W @ (W.T @ (A @ v))


def _audit(A: Any, B: Any, x: Any, factor: Factor) -> claims.Audit:
    """What the certificates need of the large matrix: three more products with it."""
    r = B - A @ x
    g = A.T @ r
    tall = A.shape[0] >= A.shape[1]
    W, R = _like(A, factor.W), _like(A, factor.R)
    lift = W @ (R @ x) if tall else A.T @ (W @ (W.T @ (B - r)))
    x, r, g, lift, b = map(jnp.asarray, (x, r, g, lift, B))
    return claims.Audit(x, r, g, lift, claims.norms(b))


def _like(A: Any, small: Any) -> Any:
    return np.asarray(small) if isinstance(A, np.ndarray) else small


# Iterative -----------------------------------------------------------------------------------------------------------


def _iterative(A: Any, b: Any, solver: str, chosen: bool, tol: Any, max_steps: int | None) -> Solution:
    operator = as_operator(A)
    n, p = operator.out_size(), operator.in_size()
    if b.shape[0] != n:
        raise InputError(f"b: found {b.shape[0]} rows, expected {n} as in A")
    dtype = operator.out_structure().dtype
    b = jnp.asarray(b).astype(dtype)
    tol = jnp.asarray(float(jnp.finfo(dtype).eps) ** (2 / 3) if tol is None else tol).astype(dtype)
    solution = _iterate(solver, max_steps or max(10 * min(n, p), 100), operator, b, tol)
    reason = "a sparse matrix or an operator, so only products with it" if chosen else "as asked"
    return _noted(solution, solver, reason)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _iterate(solver: str, max_steps: int, A: Operator, b: Array, tol: Any) -> Solution:
    eb = jax.lax.stop_gradient(exponent(b))
    B = shift(b, -eb).reshape(b.shape[0], -1)
    rule: Any = (
        lx.LSMR(tol, tol, max_steps=max_steps, conlim=jnp.inf)
        if solver == "lsmr"
        else lx.Normal(lx.CG(tol, 0 * tol, max_steps=max_steps))
    )
    solve = lambda column: lx.linear_solve(A, column, rule, throw=False)  # noqa: E731
    answer = jax.vmap(solve, in_axes=1)(B)
    x = answer.value.T
    finite = jnp.all(jnp.isfinite(x))
    held_A, held_x = jax.lax.stop_gradient((A, x))
    r = jax.lax.stop_gradient(B) - matmat(held_A, held_x)
    g = rmatmat(held_A, r)
    squared = frobenius_squared(held_A)
    certificates, residual = claims.iterative(held_x, r, g, squared, tol)
    done = jnp.all(certificates["backward_error"].holds)
    value, residual = shift(x, eb), shift(residual, eb)
    if b.ndim == 1:
        value, residual = value[:, 0], residual[0]
    steps = jnp.max(answer.stats["num_steps"])
    return Solution(value, certificates, Status.of(done, finite), steps, {"residual_norm": residual})


def _unpack(A: Any, solver: str) -> Array:
    operator = as_operator(A)
    n, p = operator.out_size(), operator.in_size()
    if n * p > DENSE_LIMIT:
        raise InputError(
            f"solver: found {solver!r} for an operator of {n} × {p}, expected at most {DENSE_LIMIT:.0e} entries to "
            "unpack; take 'lsmr' or 'cg', or pass a dense matrix"
        )
    return operator.as_matrix()
