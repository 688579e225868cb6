"""Least squares with a tall matrix in host memory, at the speed of products: preconditioned, then refined.

Every route finds a small W that makes the columns of A W nearly orthonormal, and then corrects x by conjugate gradients
on (AW)ᵀAW until the residual of A itself leaves nothing to correct. Where W comes from depends on the matrix:

- well conditioned: the Cholesky factor of AᵀA, in float32 for many columns, in float64 for float32 data;
- otherwise: the triangle of a sparse sketch S A of 4p rows. With few columns the Gram matrix of A W is formed too,
  whose Cholesky factor makes the whitening exact; with many, each iteration halves the error;
- numerically singular: Householder's triangle by blocks of rows, and its SVD.

A solve from a sketch, refined once to full precision, is not backward stable; restarted from the true residual it is
(Epperly, Meier & Nakatsukasa 2024). Here it is restarted until the backward error says so. Cost: the sketch 8 n p, its
QR 8 p³, then 2.5 n p² flops, or about 45 readings of A.

Source: Rokhlin & Tygert, PNAS 105 (2008); Avron, Maymounkov & Toledo, SISC 32 (2010), Blendenpik; Meier, Nakatsukasa,
Townsend & Webb, SIMAX 45 (2024), why these are not stable; Epperly, Meier & Nakatsukasa, Fast randomized least-squares
solvers can be just as accurate and stable as classical direct solvers, CPAM (2025); Higgins et al., multisketching
Cholesky QR (2023).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float, Key

from corollary.core.errors import InputError
from corollary.core.precision import float64
from corollary.linalg._rows import Matrix, Rows, SparseRows, one_thread, read, triangle
from corollary.linalg.least_squares import _claims as claims
from corollary.linalg.least_squares._factors import Factor, from_gram, from_qr, norm_bound
from corollary.linalg.sketch._sparse_sign import SparseSignSketch

OVERSAMPLING = 4  # rows of the sketch for each column
FEW = 400  # columns up to which the Gram matrix of A W costs less than forty readings of A
REDUCTION = 1e-6  # of the preconditioned residual between two looks at the true one
ROUNDS, ITERATIONS = 12, 60
SHARP = 0.03  # a step without conjugate gradients that leaves more of the residual is the last of its kind


class Answer(NamedTuple):
    """x, the factor it rests on, what the certificates need, and why this route."""

    x: Matrix
    factor: Factor
    audit: claims.Audit
    route: str
    products: int
    converged: bool


def solve(A: Matrix, B: Matrix, rcond: Array, key: Key[Array, ""], route: str = "auto") -> Answer | None:
    """Minimise ‖A X − B‖ column by column; None where squares of the entries leave the range of the precision."""
    with read(A) as rows, np.errstate(over="ignore", under="ignore", invalid="ignore"):
        answer, p = None, A.shape[1]
        if route == "auto" and A.dtype == np.float32:
            answer = _wide_gram(rows, B, rcond)
        elif route == "auto":
            guess = _sampled_condition(A, key)
            if p > FEW and guess < 100:
                answer = _half_gram(rows, B, rcond)
            elif p <= FEW and guess**2 * p * float(np.finfo(A.dtype).eps) < 1e-2:
                answer = _gram(rows, B, rcond)
        return answer or _sketched(rows, B, rcond, key)


def solve_sparse(A: Any, B: Matrix, rcond: Array, key: Key[Array, ""]) -> Answer | None:
    """As `solve` for a `scipy.sparse` matrix; None where the rank is in doubt."""
    if not np.isfinite(A.data).all():
        raise InputError("A: found NaN or infinity, expected finite numbers")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return _sketched(SparseRows(A), B, rcond, key)


def is_tall(shape: tuple[int, int]) -> bool:
    """Whether a sketch would be much smaller than the matrix."""
    return shape[0] >= 2 * sketch_rows(shape[1])


# Where the preconditioner comes from ---------------------------------------------------------------------------------


def _gram(rows: Rows, B: Matrix, rcond: Array) -> Answer | None:
    """Few well-conditioned columns: AᵀA itself, where κ²·p·eps is small enough to take its factor for exact."""
    G = rows.gram(rows.A.dtype)
    try:
        R = scipy.linalg.cholesky(G, check_finite=False)
    except scipy.linalg.LinAlgError:
        return None
    factor = _triangle_factor(R, _inverse(R), rcond)
    condition = float(factor.condition)
    if not (condition**2 * len(R) * float(np.finfo(R.dtype).eps) <= 1e-2 and float(factor.gap) < 1):
        return None
    why = f"normal: condition number at most {condition:.1e}, so squaring it is harmless"
    return _finish(rows, B, np.zeros((len(R), B.shape[1]), B.dtype), factor, why)


def _wide_gram(rows: Rows, B: Matrix, rcond: Array) -> Answer | None:
    """float32 data: AᵀA in float64 knows singular values down to 1e-7 σ₁, below what the data themselves can tell."""
    G = rows.gram(np.float64)
    top = np.diagonal(G).max()
    if not (np.isfinite(top) and 1e-30 < top < 1e30):
        return None
    root, turn = _root(G)
    eps = float(np.finfo(np.float64).eps)
    regular = (_largest(root) * _largest(turn)) ** 2 * len(G) * eps < 1e-2
    with float64():
        cutoff, nothing = jnp.asarray(np.asarray(rcond, np.float64)), jnp.zeros((len(G), 1))
        if regular:
            wide = _from_qr(jnp.asarray(root), nothing, cutoff)[2]
        else:
            wide = _from_gram(jnp.asarray(G), nothing, cutoff)[1]
        factor = jax.tree.map(lambda a: a.astype(jnp.float32), wide)
    start = np.zeros((len(G), B.shape[1]), B.dtype)
    return _finish(rows, B, start, factor, "normal: float32 data, Gram matrix in float64")


def _half_gram(rows: Rows, B: Matrix, rcond: Array) -> Answer | None:
    """Many well-conditioned columns: AᵀA in float32, half the price, only preconditions."""
    G = rows.gram(np.float32)
    scale = np.sqrt(np.diagonal(G))
    if not (np.isfinite(G).all() and (scale > 1e-15).all()):
        return None
    try:
        R = scipy.linalg.cholesky(G / scale / scale[:, None], check_finite=False, overwrite_a=True)
    except scipy.linalg.LinAlgError:
        return None
    W = _inverse(R)
    # ‖UᵀU − I‖ <= ‖W‖² times the rounding of the scaled Gram matrix, whose p² entries carry a few eps at random.
    off = 16 * float(np.finfo(np.float32).eps) * math.sqrt(len(G)) * _largest(W) ** 2
    if off > 0.2:
        return None
    factor = _triangle_factor(R * scale, W / scale[:, None], rcond, off, "float32 rounding errors behave as if random")
    if not float(factor.gap) < 1:
        return None
    start = np.zeros((len(G), B.shape[1]), B.dtype)
    why = "normal: float32 Gram matrix as preconditioner, since a sample of rows is well conditioned"
    return _finish(rows, B, start, factor, why)


def _sketched(rows: Rows | SparseRows, B: Matrix, rcond: Array, key: Key[Array, ""]) -> Answer | None:
    A, p = rows.A, rows.A.shape[1]
    d = sketch_rows(p)
    S = SparseSignSketch(d, A.shape[0], key=key, dtype=A.dtype)
    Y = np.hstack([S.apply(A), S.apply(B)])
    top, limit = np.abs(Y[:, :p]).max(), np.finfo(A.dtype).maxexp // 4
    if top != 0 and not 2.0**-limit < top < 2.0**limit:
        return None
    whole = triangle(Y)
    R, target = whole[:p, :p], whole[:p, p:]
    diagonal = np.abs(np.diagonal(R))
    if not diagonal.min() > 0.01 * float(rcond) * diagonal.max():
        return _householder(rows, B, rcond, "a numerically singular sketch")
    W, off = _inverse(R), distortion(p, d)
    condition = _largest(W) * _largest(R)
    why, start = f"condition number about {condition:.1e}", W @ target
    stretch, doubt = (1 + off) / (1 - off), f"{why}, so the rank is in doubt"
    only = p > FEW or isinstance(rows, SparseRows)  # the sketch alone, or the Gram matrix of A W beside it
    if not condition * float(rcond) * (stretch if only else 1 / stretch) < 1:
        return _householder(rows, B, rcond, doubt)
    if only or isinstance(rows, SparseRows):
        factor = _triangle_factor(R, W, rcond, off, "the sketch embeds the range of A as a Gaussian one would")
        return _finish(rows, B, start, factor, f"sketch: {why}; conjugate gradients preconditioned by its triangle")
    G = rows.whitened_gram(W)
    root, turn = _root(G)
    lost = rows.whitened_error() * float(np.trace(G)) * _largest(turn) ** 2
    lost += 2 * p * float(np.finfo(A.dtype).eps) * condition  # A W is formed with W, not by substitution
    if not lost < 0.5:
        return _householder(rows, B, rcond, f"{why}, too much for a whitened Gram matrix")
    R, W = (root @ R).astype(A.dtype), (W @ turn).astype(A.dtype)
    factor = _triangle_factor(R, W, rcond, lost)
    if not float(factor.gap) < 1:
        return _householder(rows, B, rcond, doubt)
    return _finish(rows, B, start, factor, f"sketch: {why}; Cholesky factor of the whitened Gram matrix", direct=True)


def _root(G: Matrix) -> tuple[Matrix, Matrix]:
    """The Cholesky factor and its inverse, not finite where there is none."""
    try:
        root = scipy.linalg.cholesky(G, check_finite=False)
    except scipy.linalg.LinAlgError:
        root = np.full_like(G, np.nan)
    return root, _inverse(root)


def _householder(rows: Rows | SparseRows, B: Matrix, rcond: Array, why: str) -> Answer | None:
    if isinstance(rows, SparseRows):
        return None
    whole, p = rows.triangle(B), rows.A.shape[1]
    x, _, factor = _from_qr(jnp.asarray(whole[:p, :p]), jnp.asarray(whole[:p, p:]), rcond)
    return _finish(rows, B, np.asarray(x), factor, f"qr: by blocks of rows: {why}")


_from_gram = jax.jit(from_gram)
_from_qr = jax.jit(lambda R, d, rcond: from_qr(R, d, rcond, False))


def sketch_rows(p: int) -> int:
    """Rows of the sketch: enough that few columns are embedded as safely as many."""
    return OVERSAMPLING * p + 64


def distortion(p: int, d: int) -> float:
    """Bound η on |‖SAv‖/‖Av‖ − 1| for a Gaussian S with d rows, but for a chance of 1e-6 (Davidson & Szarek, 2001)."""
    return min(math.sqrt(p / d) + math.sqrt(2 * math.log(2 / claims.FAILURE) / d), 0.95)


def _triangle_factor(R: Matrix, W: Matrix, rcond: Array, off: float | None = None, assumed: str = "") -> Factor:
    stretch = 1.0 if off is None else (1 + off) / (1 - off)
    condition = stretch * float(_norm_bound(R)) * float(_norm_bound(W))
    gap = stretch * _largest(R) * _largest(W) * float(rcond)
    condition, rank, gap = (jnp.asarray(a, R.dtype) for a in (condition, len(R), gap))
    held = None if off is None else jnp.asarray(off, R.dtype)
    return Factor(jnp.asarray(R), jnp.asarray(W), condition, rank, gap, held, assumed)


_norm_bound = jax.jit(norm_bound)


def _inverse(R: Matrix) -> Matrix:
    """R⁻¹ of an upper triangle: half the flops of a solve with the identity."""
    (trtri,) = scipy.linalg.get_lapack_funcs(("trtri",), (R,))
    return trtri(R)[0]


def _largest(M: Matrix) -> float:
    """‖M‖₂ by power iteration: from below, and within a few hundredths for what decides between routes."""
    v = np.random.default_rng(0).standard_normal(M.shape[1]).astype(M.dtype)
    size = 0.0
    for _ in range(20):
        length = np.linalg.norm(v)
        if length == 0 or not np.isfinite(length):
            return float(length)
        v = v / length
        image = M @ v
        size = float(np.linalg.norm(image))
        v = M.T @ image
    return size


def _sampled_condition(A: Matrix, key: Key[Array, ""]) -> float:
    """Condition number of 2p random rows with columns of length one: a guess, checked by what follows."""
    n, p = A.shape
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    sample = A[np.sort(rng.choice(n, min(n, 2 * p), replace=False))].astype(np.float32)
    G = sample.T @ sample
    scale = np.sqrt(np.diagonal(G))
    try:
        R = scipy.linalg.cholesky(G / scale / scale[:, None], check_finite=False)
    except scipy.linalg.LinAlgError:
        return math.inf
    return _largest(_inverse(R)) * _largest(R)


# Refinement ----------------------------------------------------------------------------------------------------------


def whitened(A: Float[Array, "n p"], rcond: Float[Array, ""], key: Key[Array, ""]) -> Factor:
    """The factor of A by a sketch and the Cholesky factor of the whitened Gram matrix, in JAX: products only.

    It can be jitted, and rows sharded over devices stay where they are. Where the sketch is numerically singular, a
    ridge of a few eps keeps its triangle invertible; the SVD of the whole triangle then decides on the rank.
    """
    p, d = A.shape[1], sketch_rows(A.shape[1])
    eps = float(jnp.finfo(A.dtype).eps)
    Y = SparseSignSketch(d, A.shape[0], key=key, dtype=A.dtype).mm(A)
    floor = 8 * eps * jnp.linalg.norm(Y)
    ridge = jnp.where(floor > 0, floor, 1) * jnp.eye(p, dtype=A.dtype)
    R = jnp.linalg.qr(jnp.concatenate([Y, ridge]), mode="r")
    U = jax.scipy.linalg.solve_triangular(R, A.T, trans=1).T
    root = jnp.linalg.cholesky(U.T @ U + p * eps * jnp.eye(p, dtype=A.dtype)).T
    return from_qr(root @ R, jnp.zeros((p, 1), A.dtype), rcond, False)[2]


def _finish(
    rows: Rows | SparseRows, B: Matrix, start: Matrix, factor: Factor, route: str, direct: bool = False
) -> Answer:
    W, R = np.asarray(factor.W), np.asarray(factor.R)
    exact = factor.distortion is None
    size = float(np.linalg.norm(R)) if exact else math.sqrt(float(rows.squares().sum()))
    with one_thread():
        x, r, g, products, converged = refine(rows, B, start, W, R, size, direct or exact)
        lift = W @ (R @ x)
    held = None if exact else jnp.asarray(size, R.dtype)
    seen = [jnp.asarray(a) for a in (x, r, g, lift)]
    audit = claims.Audit(seen[0], seen[1], seen[2], seen[3], claims.norms(jnp.asarray(B)), held)
    if float(_shortfall(rows.A.shape, factor, audit)) > 1:
        z = np.asarray(_filtered(factor, audit))
        rest, gradient = rows.residual(z, r)
        image, gradient = r - rest, R.T @ (W.T @ gradient)
        found = _moved(*map(jnp.asarray, (x, image, rest, gradient)))
        audit = claims.Audit(audit.x, audit.r, audit.g, audit.lift, audit.b_norm, held, found)
    return Answer(x, factor, audit, route, products, converged)


_shortfall = jax.jit(claims.shortfall, static_argnums=0)
_filtered = jax.jit(claims.filtered)
_moved = jax.jit(claims.moved_backward)


def refine(
    rows: Rows | SparseRows, B: Matrix, x: Matrix, W: Matrix, R: Matrix, size: float, direct: bool = False
) -> tuple[Matrix, Matrix, Matrix, int, bool]:
    """x ← x + W y, with y from conjugate gradients on (AW)ᵀAW y = Wᵀ Aᵀ(B − A x), until nothing is left to correct.

    Where A W is orthonormal to a few digits (`direct`), y is the right side itself for as long as that serves: one
    reading of A a step. Returns x, B − A x, Aᵀ(B − A x), the products with AᵀA, and whether the backward error is at
    rounding level.
    """
    tol = size * float(np.finfo(x.dtype).eps) / 4
    r, g = rows.residual(x, B)
    used, s = 1, W.T @ g
    left = np.linalg.norm(s, axis=0)
    for _ in range(ROUNDS):
        goal = tol * np.linalg.norm(x, axis=0)
        done = (np.linalg.norm(R.T @ s, axis=0) <= tol * np.linalg.norm(r, axis=0)) | (left <= goal)
        if done.all():
            return x, r, g, used, True
        y, steps = (s, 0) if direct else _conjugate_gradients(rows, W, s, np.maximum(goal, REDUCTION * left) / 2)
        new_x = x + W @ y
        new_r, new_g = rows.residual(new_x, B)
        used += steps + 1
        new_s = W.T @ new_g
        new_left = np.linalg.norm(new_s, axis=0)
        slow = direct and not (done | (new_left <= SHARP * left)).all()
        direct = direct and not slow
        halved, better = (new_left < left / 2).any(), new_left < left
        pairs = (new_x, x), (new_r, r), (new_g, g), (new_s, s), (new_left, left)
        x, r, g, s, left = (np.where(better, new, old) for new, old in pairs)
        if not (halved or slow):  # rounding has the last word
            return x, r, g, used, True
    return x, r, g, used, False


def _conjugate_gradients(rows: Rows | SparseRows, W: Matrix, s: Matrix, goal: Any) -> tuple[Matrix, int]:
    """(AW)ᵀAW y = s for each column; a column that has reached its goal rests."""
    y, p, rho = np.zeros_like(s), s.copy(), np.sum(s * s, axis=0)
    for step in range(1, ITERATIONS + 1):
        q = W.T @ rows.normal(W @ p)
        curvature = np.sum(p * q, axis=0)
        active = (np.sqrt(rho) > goal) & (curvature > 0)
        alpha = np.where(active, rho / np.where(active, curvature, 1), 0)
        y, s = y + alpha * p, s - alpha * q
        new = np.where(active, np.sum(s * s, axis=0), rho)
        if not (np.sqrt(new[active]) > goal[active]).any():
            return y, step
        p, rho = np.where(active, s + new / np.where(rho > 0, rho, 1) * p, p), new
    return y, ITERATIONS
