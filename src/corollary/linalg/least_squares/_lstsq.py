"""Least squares min ‖A x − b‖ with a certificate: dense by normal equations, sketch, QR or SVD, else by LSMR.

When: whenever you would call `numpy.linalg.lstsq` and want to know how far to trust the answer, differentiate through
it, or solve it for a sparse matrix. ``solver="auto"`` takes the cheapest route that the conditioning allows.

Cost for an (n, p) matrix, n ≥ p: normal n p² (symmetric product), sketch 2.5 n p² or about 45 readings of A (see
`_tall`), QR 2 n p², SVD 2 n p² + 20 p³, LSMR and CG one product with A and one with Aᵀ a step; p and n change places
for a wide matrix.

Source: Björck, Numerical Methods for Least Squares Problems (1996), ch. 1-2; Higham, Accuracy and Stability of
Numerical Algorithms, 2nd ed. (2002), ch. 20.
"""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse
from jax.experimental import sparse as jsparse
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.operator import Operator, as_operator
from corollary.core.precision import common_float, follows_input, on_host
from corollary.core.solution import Note, Solution, Status
from corollary.linalg.least_squares import _claims as claims
from corollary.linalg.least_squares import _tall as host
from corollary.linalg.least_squares._factors import Factor, exponent, from_gram, from_qr, shift
from corollary.linalg.least_squares._iterative import iterative

SOLVERS = ("auto", "normal", "sketch", "qr", "svd", "lsmr", "cg")
SMALL = 1e7  # flops below which the choice is not worth an extra look: QR
SPARSE_WORK = 800  # flops of the triangle for each stored entry that a sketch may cost: some fifty steps of LSMR
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
    key: Key[Array, ""] | None = None,
) -> Solution:
    """Minimise ‖A x − b‖₂; among several minimisers, the one of least norm.

    Parameters
    ----------
    A
        (n, p): NumPy or JAX array, ``scipy.sparse`` matrix, or operator. Any shape; any rank for the direct solvers.
    b
        (n,) or (n, k): one right-hand side or several.
    solver
        ``"normal"`` (Cholesky of AᵀA, then `refine` corrections), ``"sketch"`` (a sparse random sketch as
        preconditioner, corrected until the backward error is at rounding level: for many more rows than columns),
        ``"qr"``, ``"svd"``, ``"lsmr"``, ``"cg"`` (on the normal equations), or ``"auto"``. That takes QR where the
        problem is small or traced; for a tall matrix in host memory the normal equations where a sample of rows
        promises a small condition number, else the sketch, else (the rank in doubt) QR; LSMR for sparse matrices and
        operators, the sketch for a sparse matrix with few columns. Elsewhere, normal equations where a bound on the
        condition number allows them, else QR. A QR whose triangle is numerically singular goes on to the triangle's
        SVD. The choice and its reason are in ``stats["solver"]``.
    rcond
        Singular values at most ``rcond`` · σ₁ count as zero; ``None``: max(n, p) · eps. Scale-free. It may be traced.
        The iterative solvers make no such decision.
    refine
        Corrections x ← x + (AᵀA)⁻¹Aᵀ(b − A x) after the normal equations; each wins a factor of about κ²·eps.
    tol, max_steps
        For the iterative solvers: relative size of the backward error (``None``: eps^(2/3)) and step limit
        (``None``: 10 min(n, p), at least 100).
    key
        `jax.random.key` of the sketch; ``None``: a fixed one.

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
    it keeps the κ²·‖r‖ term that no solver can avoid) and ``minimum_norm`` (x lies in the row space). Where a sketch
    only preconditions (hundreds of columns, or a sparse matrix), the first two rest on its distortion: they are
    ``probabilistic``, with confidence 1 − 10⁻⁶, and say what they assume.
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
    key = jax.random.key(0) if key is None else key
    if scipy.sparse.issparse(A) and solver in ("auto", "sketch"):
        solution = _sparse(A, b, rcond, key, solver)
        if solution is not None:
            return solution
    if abstract and solver == "sketch":
        raise InputError("solver: found 'sketch' for an operator, expected a dense or SciPy matrix; take 'lsmr'")
    if abstract or solver in ("lsmr", "cg"):
        solution = iterative(A, b, "lsmr" if solver == "auto" else solver, tol, max_steps)
        reason = "a sparse matrix or an operator, so only products with it" if solver == "auto" else "as asked"
        return _noted(solution, "lsmr" if solver == "auto" else solver, reason)
    validation.same_length("A", A, "b", b)
    if isinstance(A, np.ndarray) and isinstance(b, np.ndarray):
        A, b = (a.astype(np.result_type(A, b), copy=False) for a in (A, b))
    else:
        A, b = common_float(A, b)
    rcond = jnp.asarray(max(A.shape) * float(jnp.finfo(A.dtype).eps) if rcond is None else rcond).astype(A.dtype)
    traced = any(isinstance(a, jax.core.Tracer) for a in (A, b, rcond, key))
    at_hand = not traced and on_host(A, b) and host.is_tall(A.shape)
    if solver == "sketch" and at_hand:
        return _tall(np.asarray(A), np.asarray(b), rcond, key, solver)
    if solver != "auto":
        return _direct(solver, refine, A, b, rcond, key, "as asked" + unpacked)
    if traced:
        return _direct("qr", refine, A, b, rcond, key, "traced data; SVD of the triangle where that is singular")
    if max(A.shape) * min(A.shape) ** 2 <= SMALL:
        return _direct("qr", refine, A, b, rcond, key, "a small problem")
    if at_hand:
        return _tall(np.asarray(A), np.asarray(b), rcond, key, solver)
    return _by_conditioning(A, b, rcond, refine, key)


def _by_conditioning(A: Any, b: Any, rcond: Array, refine: int, key: Key[Array, ""]) -> Solution:
    """Normal equations if their κ²·eps is harmless after refinement and the rank beyond doubt; else QR or a sketch."""
    solution = _direct("normal", refine, A, b, rcond, key, "")
    condition, p = float(solution.stats["condition"]), min(A.shape)
    safe = condition**2 * p * float(jnp.finfo(A.dtype).eps) <= 1e-2 and int(solution.stats["rank"]) == p
    if safe and bool(np.all(solution.holds)):
        reason = f"condition number at most {condition:.1e}, so squaring it is harmless"
        return _noted(solution, "normal", reason)
    found = f"condition number up to {condition:.1e}" if np.isfinite(condition) else "a singular Gram matrix"
    other = "qr" if on_host(A) or not host.is_tall(A.shape) else "sketch"  # rows sharded over devices stay so
    return _direct(other, refine, A, b, rcond, key, f"{found} is too much for the normal equations")


def _direct(solver: str, refine: int, A: Any, b: Any, rcond: Array, key: Key[Array, ""], reason: str) -> Solution:
    if solver == "normal" and not isinstance(A, jax.core.Tracer) and isinstance(A, np.ndarray):
        solution = _normal__on_host(refine, A, b, rcond)
    else:
        data = jnp.asarray(A), jnp.asarray(b), rcond, key
        solution = _in_jax(solver, refine, False, *data)
        holds = solution.certificates["backward_error"].holds
        if not isinstance(holds, jax.core.Tracer) and not bool(holds) and A.shape[0] >= A.shape[1]:
            solution = _in_jax(solver, refine, True, *data)
    return _noted(solution, solver, reason)


def _noted(solution: Solution, solver: str, reason: str) -> Solution:
    stats = {**solution.stats, "solver": Note(f"{solver}: {reason}")}
    return Solution(solution.value, solution.certificates, solution.status, solution.steps, stats)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _in_jax(
    solver: str,
    refine: int,
    thorough: bool,
    A: Float[Array, "n p"],
    b: Array,
    rcond: Float[Array, ""],
    key: Key[Array, ""],
) -> Solution:
    # Powers of two in front of A and b keep squares within range and change no bit of the answer.
    ea, eb = jax.lax.stop_gradient((exponent(A), exponent(b)))
    scaled, B = shift(A, -ea), shift(b, -eb).reshape(b.shape[0], -1)
    x, factor = _solve(solver, refine, scaled, B, rcond, key)
    audit = _audit(*jax.lax.stop_gradient((scaled, B, x, factor)))
    if thorough:  # the costlier bound, where the cheap ones do not show a backward error at rounding level
        moved = _moved(*jax.lax.stop_gradient((scaled, factor, audit)))
        audit = eqx.tree_at(lambda a: a.moved, audit, moved, is_leaf=lambda a: a is None)
    solution = claims.dense((A.shape[0], A.shape[1]), *jax.lax.stop_gradient((factor, audit)))
    return _finish(solution, x, b, eb - ea, eb)


def _normal__on_host(refine: int, A: np.ndarray, b: Any, rcond: Array) -> Solution:
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


def _tall(A: np.ndarray, b: np.ndarray, rcond: Array, key: Key[Array, ""], solver: str) -> Solution:
    """A tall matrix in host memory: `_tall.solve`, in a scale in which squares neither over- nor underflow."""
    eb, ea = exponent(b), 0
    B = np.asarray(shift(jnp.asarray(b), -eb)).reshape(b.shape[0], -1)
    answer = host.solve(A, B, rcond, key, solver)
    if answer is None:
        ea = int(np.frexp(np.abs(A).max())[1])
        answer = host.solve(np.ldexp(A, -ea), B, rcond, key, solver)
    return _answered(answer, A.shape, b, eb - ea, eb)


def _sparse(A: Any, b: Any, rcond: Any, key: Key[Array, ""], solver: str) -> Solution | None:
    """A tall sparse matrix with so few columns that a dense p × p triangle is cheap; None where LSMR should go on."""
    A = scipy.sparse.csr_array(A)
    A = A if A.dtype in (np.float32, np.float64) else A.astype(np.float64)
    named = solver == "sketch"
    validation.same_length("A", A, "b", b)
    worth = host.is_tall(A.shape) and 8 * A.shape[1] ** 3 <= SPARSE_WORK * max(A.nnz, SMALL)
    if isinstance(b, jax.core.Tracer) or not (worth or named):
        return None
    eb = exponent(b)
    B = np.asarray(shift(jnp.asarray(b).astype(A.dtype), -eb)).reshape(b.shape[0], -1)
    # Like LSMR it decides on no rank unless asked to: only a triangle that rounding may have made is refused.
    cutoff = jnp.asarray(16 * float(jnp.finfo(A.dtype).eps) if rcond is None else rcond).astype(A.dtype)
    answer = host.solve_sparse(A, B, cutoff, key)
    if answer is None:
        if named:
            raise InputError("solver: found 'sketch' for a matrix of numerically deficient rank, expected 'lsmr' there")
        return None
    return _answered(answer, A.shape, b, eb, eb)


def _answered(answer: Any, shape: tuple[int, int], b: Any, e: Array, eb: Array) -> Solution:
    solution = _claims_jit(shape, answer.factor, answer.audit)
    solution = _noted(_finish(solution, jnp.asarray(answer.x), b, e, eb), *answer.route.split(": ", 1))
    stats = {**solution.stats, "products": answer.products}
    status = jnp.where(solution.status == 0, Status.of(answer.converged), solution.status)
    return Solution(solution.value, solution.certificates, status, answer.products, stats)


def _finish(solution: Solution, x: Array, b: Any, e: Array, eb: Array) -> Solution:
    stats = {**solution.stats, "residual_norm": shift(solution.stats["residual_norm"], eb)}
    value = shift(x, e)
    if b.ndim == 1:
        value, stats["residual_norm"] = value[:, 0], stats["residual_norm"][0]
    return Solution(value, solution.certificates, solution.status, 1, stats)


_claims_jit = jax.jit(claims.dense, static_argnums=0)


# The solvers ---------------------------------------------------------------------------------------------------------


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _solve(
    solver: str, refine: int, A: Array, B: Array, rcond: Array, key: Key[Array, ""]
) -> tuple[Float[Array, "p k"], Factor]:
    if solver == "sketch" and host.is_tall((A.shape[0], A.shape[1])):
        factor = host.whitened(A, rcond, key)
        x = jnp.zeros((A.shape[1], B.shape[1]), A.dtype)
        for _ in range(3):  # seminormal equations, corrected: each step wins a factor of κ·eps
            x = x + _pinv(A, factor, B - A @ x)
        return x, factor
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
    (A, B, rcond, key), (dA, dB, _, _) = primals, tangents
    x, factor = _solve(solver, refine, A, B, rcond, key)
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


def _moved(A: Array, factor: Factor, audit: claims.Audit) -> Array:
    """The last of the backward errors in `claims`."""
    z = claims.filtered(factor, audit)
    image = A @ z
    rest = audit.r - image
    return claims.moved_backward(audit.x, image, rest, factor.R.T @ (factor.W.T @ (A.T @ rest)))


def _like(A: Any, small: Any) -> Any:
    return np.asarray(small) if isinstance(A, np.ndarray) else small


def _unpack(A: Any, solver: str) -> Array:
    operator = as_operator(A)
    n, p = operator.out_size(), operator.in_size()
    if n * p > DENSE_LIMIT:
        raise InputError(
            f"solver: found {solver!r} for an operator of {n} × {p}, expected at most {DENSE_LIMIT:.0e} entries to "
            "unpack; take 'lsmr' or 'cg', or pass a dense matrix"
        )
    return operator.as_matrix()
