"""What the certificates of the room promise, in their own words, held against the truth in extended precision.

Each function takes a matrix and an answer and yields (claim, true value, bound); `torture_table` says which is whose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import scipy.optimize

from corollary.core.solution import Solution
from tests.linalg import torture
from tests.linalg.torture import WIDE, Matrix, defect, eigenvalues, frobenius, jacobi, norm, singular_values

M, N, K = 24, 16, 5
KEY = jax.random.key(0)
Claims = Iterator[tuple[str, Any, Any]]  # what is promised in words, the true value, its bound


def wide(*arrays: Any) -> Any:
    """Arrays in extended precision."""
    found = tuple(a.astype(np.result_type(a, WIDE)) for a in map(np.asarray, arrays))
    return found if len(found) > 1 else found[0]


def rhs(A: Matrix) -> Matrix:
    """A right-hand side outside the range."""
    return np.random.default_rng(9).standard_normal(len(A)).astype(A.dtype)


def ratio(a: Any, b: Any) -> Any:
    """a / b, 0 / 0 being 0."""
    return a / b if b > 0 else (WIDE(0) if a == 0 else WIDE(np.inf))


# What the certificates promise, from their words ----------------------------------------------------------------------


def svd_truth(A: Matrix, found: Solution) -> Claims:
    U, s, Vt = wide(*found.value)
    yield "weyl", np.abs(singular_values(A)[: len(s)] - s).max(), found.certificates["weyl"].bound
    yield "orthogonality", max(defect(U), defect(Vt.T)), found.certificates["orthogonality"].bound


def low_rank_truth(A: Matrix, found: Solution) -> Claims:
    U, s, Vt = wide(*found.value)
    error = norm(wide(A) - (U * s) @ Vt)
    yield "spectral error", error, found.certificates["spectral_error"].bound
    yield "orthogonality", max(defect(U), defect(Vt.T)), found.certificates["orthogonality"].bound
    rounded = 32 * np.finfo(A.dtype).eps * norm(A)
    yield "lower bound", wide(found.certificates["spectral_error"].measured), error + rounded
    best = singular_values(A)
    below = best[len(s)] if len(s) < len(best) else 0
    yield "no better than the best", below, error * (1 + 1e-12) + rounded


def range_truth(A: Matrix, found: Solution) -> Claims:
    Q = wide(found.value)
    rest = wide(A) - Q @ (Q.T @ wide(A))
    yield "spectral error", norm(rest), found.certificates["spectral_error"].bound
    yield "orthogonality", defect(Q), found.certificates["orthogonality"].bound


def lstsq_truth(A: Matrix, found: Solution) -> Claims:
    if not bool(found.certificates["rank"].holds):
        return  # which matrix was solved is in doubt, and the certificate says so
    U, s, V = jacobi(A)
    r = int(found.stats["rank"])
    U, s, V = U[:, :r], s[:r], V[:, :r]
    x, b = wide(found.value, rhs(A))
    rest, size = b - wide(A) @ x, frobenius(A)
    kept, inside = frobenius(s * (U.T @ rest)), frobenius(U.T @ rest)
    length, left = frobenius(x), frobenius(rest)
    backward = min(ratio(inside, length), ratio(kept, left), ratio(left, length)) if length + left > 0 else 0
    bound = {name: wide(c.bound) for name, c in found.certificates.items()}
    yield "backward error", ratio(backward, size), bound["backward_error"]
    yield "orthogonality", ratio(kept, size * left), bound["orthogonality"]
    yield "minimum norm", ratio(frobenius(x - V @ (V.T @ x)), length), bound["minimum_norm"]
    if bool(found.certificates["forward_error"].applies):
        exact = V @ ((U.T @ b) / s)
        yield "forward error", ratio(frobenius(x - exact), length), bound["forward_error"]


def iterative_truth(A: Matrix, found: Solution) -> Claims:
    x, b = wide(found.value, rhs(A))
    rest = b - wide(A) @ x
    backward = min(ratio(frobenius(wide(A).T @ rest), frobenius(rest)), ratio(frobenius(rest), frobenius(x)))
    yield "backward error", ratio(backward, frobenius(A)), found.certificates["backward_error"].bound


def sketched_truth(A: Matrix, found: Solution) -> Claims:
    U, s, _ = jacobi(A)
    x, b = wide(found.value, rhs(A))
    U = U[:, s > s[0] * max(A.shape) * np.finfo(A.dtype).eps]
    least, reached = frobenius(b - U @ (U.T @ b)), frobenius(b - wide(A) @ x)
    yield "residual ratio", reached / least, found.certificates["residual_ratio"].bound


def tikhonov_truth(A: Matrix, found: Solution) -> Claims:
    U, s, V = jacobi(A)
    lam = WIDE(lambda_of(A))
    x, b = wide(found.value, rhs(A))
    exact = V @ (s / (s**2 + lam**2) * (U.T @ b))
    # κ of the regularised problem is at most ‖A‖/λ; its residual term squares it.
    unit, kappa = np.finfo(A.dtype).eps, 1 + ratio(s[0], lam)
    yield "x", frobenius(x - exact), 64 * unit * kappa**2 * (frobenius(exact) + ratio(frobenius(b), lam) / kappa)


def lambda_of(A: Matrix) -> float:
    """The root of the penalty."""
    return 1e-2 * float(np.abs(A).max()) or 1.0


def condition_truth(A: Matrix, found: Solution) -> Claims:
    U, s, V = jacobi(A)
    value, unit = float(found.value), float(np.finfo(A.dtype).eps)
    if s[-1] == 0:
        return
    one = np.abs((V / s) @ U.T).sum(0).max() * np.abs(wide(A)).sum(0).max()
    if value == np.inf:
        yield "called singular", 1e-2 / unit, one
    else:
        yield "lower bound", value, one * (1 + 8 * len(A) * unit * one)


def refine_truth(A: Matrix, found: Solution) -> Claims:
    x, b = wide(found.value, rhs(A))
    top = lambda v: np.abs(v).max()  # noqa: E731
    scale = np.abs(wide(A)).sum(1).max() * top(x) + top(b)
    yield "backward error", ratio(top(b - wide(A) @ x), scale), 2 * wide(found.certificates["backward_error"].bound)


def gram_truth(A: Matrix, G: Matrix) -> Claims:
    gap = np.abs(wide(G) - wide(A).T @ wide(A)) - len(A) * np.finfo(A.dtype).eps * (np.abs(wide(A)).T @ np.abs(wide(A)))
    yield "γ_n |A|ᵀ|A|", gap.max(), WIDE(np.finfo(A.dtype).tiny)


def gram_schmidt_truth(A: Matrix, found: Solution) -> Claims:
    Q, R = wide(*found.value)
    kept = np.diag(R) > 0
    sizes = np.sqrt((wide(A) ** 2).sum(0))
    errors = np.sqrt(((wide(A) - Q @ R) ** 2).sum(0)) / np.where(sizes > 0, sizes, 1)
    bound = {name: wide(c.bound) for name, c in found.certificates.items()}
    yield "reconstruction", errors.max(), bound["reconstruction"]
    for name in ("orthogonality", "loss"):
        yield name, defect(Q[:, kept]) if kept.any() else 0, bound[name]


def subspaces_truth(A: Matrix, found: Solution) -> Claims:
    spaces = found.value
    top = max(singular_values(A)[0], np.finfo(WIDE).tiny)
    null, left = wide(spaces.null_space, spaces.left_null_space)
    both = np.hstack([wide(spaces.row_space), null]), np.hstack([wide(spaces.column_space), left])
    noise = WIDE(64 * max(A.shape) * np.finfo(A.dtype).eps)
    yield "dimensions", abs(both[0].shape[1] - A.shape[1]) + abs(both[1].shape[1] - A.shape[0]), 0
    yield "orthogonality", max(map(defect, both)), noise
    for name, image in (("null_space", wide(A) @ null), ("left_null_space", wide(A).T @ left)):
        yield name, frobenius(image) / top, found.certificates[name].bound * (1 + noise) + noise


def projector_truth(A: Matrix, found: Solution) -> Claims:
    Q = wide(found.value.basis)
    P, noise = Q @ Q.T, WIDE(64 * max(A.shape) * np.finfo(A.dtype).eps)
    yield "idempotent", frobenius(P @ P - P), noise
    top = max(singular_values(A)[0], np.finfo(WIDE).tiny)
    yield "range", frobenius(wide(A) - P @ wide(A)) / top, found.certificates["range"].bound
    yield "rank", abs(np.trace(P) - int(found.stats["rank"])), noise


def solvability_truth(A: Matrix, found: Solution) -> Claims:
    x, b, tol = wide(found.value.particular, rhs(A), found.certificates["decision"].bound)
    rest, scale = b - wide(A) @ x, singular_values(A)[0] * frobenius(x) + frobenius(b)
    if bool(found.value.solvable):
        yield "backward error", frobenius(rest) / scale, tol * (1 + 1e-3)
    else:
        yield "witness", ratio(frobenius(wide(A).T @ rest), singular_values(A)[0] * scale), tol * (1 + 1e-3)
        yield "a positive product", -(rest @ b), 0


def norms_truth(A: Matrix, found: Solution) -> Claims:
    s, unit = singular_values(A), 64 * max(A.shape) * np.finfo(A.dtype).eps
    truth = {"spectral": s[0], "frobenius": frobenius(A), "nuclear": s.sum()}
    for name, value in truth.items():
        yield name, abs(wide(found.value.norms[name]) - value), unit * value
    for name, slack in found.value.slack.items():
        yield f"slack of {name}", -wide(slack), 0


def structure_truth(A: Matrix, found: Any) -> Claims:
    top = np.abs(A).max() or 1
    wrong = {
        "symmetric": np.abs(wide(A) - wide(A).T).max() / top,
        "orthogonal": np.abs(wide(A).T @ wide(A) - np.eye(len(A), dtype=WIDE)).max(),
        "diagonal": np.abs(wide(A) - np.diag(np.diag(wide(A)))).max() / top,
    }
    for name, gap in wrong.items():
        if bool(found.holds[name]):
            yield name, gap, 2 * wide(found.tol)


def solve_truth(A: Matrix, found: Solution) -> Claims:
    x, b = wide(found.value, rhs(A))
    scale = norm(A) * frobenius(x) + frobenius(b)
    yield "backward error", ratio(frobenius(b - wide(A) @ x), scale), found.certificates["backward_error"].bound


def directions_truth(A: Matrix, found: Solution) -> Claims:
    B = wide(found.value)
    left = eigenvalues(wide(A).T @ wide(A) - B.T @ B)
    rounded = 64 * max(A.shape) * np.finfo(A.dtype).eps * frobenius(A) ** 2
    yield "error", left[0], found.stats["error"]
    yield "nothing added", -left[-1], rounded


def matmul_truth(A: Matrix, found: Solution) -> Claims:
    error = frobenius(wide(found.value) - wide(A).T @ wide(A))
    yield "frobenius error", error, found.certificates["frobenius_error"].bound


def pivoted_truth(A: Matrix, found: Solution) -> Claims:
    Q, R = wide(found.value.Q, found.value.R)
    yield "orthogonality", defect(Q), found.certificates["orthogonality"].bound
    error = wide(A)[:, found.value.perm] - Q @ R
    for name, size in (("residual", frobenius), ("spectral_error", norm)):
        if name in found.certificates:
            yield name, size(error), found.certificates[name].bound


def interpolative_truth(A: Matrix, found: Solution) -> Claims:
    error = norm(wide(A) - wide(found.value.skeleton) @ wide(found.value.right))
    yield "spectral error", error, found.certificates["spectral_error"].bound
    yield "coefficients", np.abs(wide(found.value.right)).max(initial=0), 2 + 1e4 * np.finfo(A.dtype).eps


def cur_truth(A: Matrix, found: Solution) -> Claims:
    C, U, R = wide(found.value.C, found.value.U, found.value.R)
    yield "error", frobenius(wide(A) - C @ U @ R), found.certificates["error"].bound


def nystrom_truth(A: Matrix, found: Solution) -> Claims:
    U, values = wide(found.value.U, found.value.eigenvalues)
    error = norm(wide(A) - (U * values) @ U.T)
    yield "spectral error", error, found.certificates["spectral_error"].bound
    yield "trace error", error, found.certificates["trace_error"].bound
    yield "orthogonality", defect(U), found.certificates["orthogonality"].bound


def cholesky_truth(A: Matrix, found: Solution) -> Claims:
    L = wide(found.value.L)
    yield "trace", norm(wide(A) - L @ L.T), found.certificates["trace"].bound


def ldlt_truth(A: Matrix, found: Solution) -> Claims:
    L, D = wide(found.value.L, found.value.D)
    yield "backward error", frobenius(wide(A) - L @ D @ L.T), found.certificates["backward_error"].bound
    values = eigenvalues(A)
    sure = 1e3 * len(A) * np.finfo(A.dtype).eps * np.abs(values).max()
    yield "positive", (values > sure).sum(), found.stats["positive"]
    yield "negative", (values < -sure).sum(), found.stats["negative"]


def leverage_truth(A: Matrix, found: Solution) -> Claims:
    _, s, V = jacobi(A)
    k, unit = int(found.stats["rank"]), np.finfo(A.dtype).eps
    yield "sum", abs(wide(found.value).sum() - k), 64 * max(A.shape) * unit
    if 0 < k < len(s) and s[k] < 0.9 * s[k - 1]:  # else they are ill-determined
        gap = (s[k - 1] - s[k]) / s[0]
        yield "scores", np.abs((V[:, :k] ** 2).sum(1) - wide(found.value)).max(), 1e2 * max(A.shape) * unit / gap


def trace_truth(function: Callable[[Matrix], Any]) -> Callable[[Matrix, Solution], Claims]:
    """An estimate claims its standard error: twenty of them and rounding is as far as it may be off."""

    def truth(A: Matrix, found: Solution) -> Claims:
        rounded = 1e2 * len(A) * np.finfo(A.dtype).eps * frobenius(A) * len(A) ** 0.5
        gap = np.abs(wide(found.value) - function(wide(A)))
        yield "twenty standard errors", (gap - 20 * wide(found.stats["stderr"])).max(), rounded

    return truth


def pairs_truth(A: Matrix, found: Solution) -> Claims:
    values, V = wide(*found.value)
    values, V = np.atleast_1d(values), V.reshape(len(A), -1)
    lengths = np.sqrt((V**2).sum(0))
    residuals = np.sqrt(((wide(A) @ V - V * values) ** 2).sum(0)) / lengths
    bound = {name: wide(c.bound) for name, c in found.certificates.items()}
    yield "residual", residuals.max(), bound["residual"]
    yield "orthogonality", defect(V), bound["orthogonality"]
    near = np.abs(values[:, None] - eigenvalues(A)) <= wide(found.certificates["eigenvalue_error"].measured)
    rows, columns = scipy.optimize.linear_sum_assignment(~near)
    yield "eigenvalue_error", (~near)[rows, columns].sum(), 0  # one by one, multiplicities counted


def schur_truth(A: Matrix, found: Solution) -> Claims:
    T, Q = wide(found.value.T, found.value.Q)
    error = np.sqrt((np.abs(wide(A) - Q @ T @ Q.conj().T) ** 2).sum())
    lost = np.sqrt((np.abs(Q.conj().T @ Q - np.eye(len(A))) ** 2).sum())
    yield "backward error", error, found.certificates["backward_error"].bound
    yield "unitary", lost, found.certificates["unitary"].bound


def rank_one_truth(A: Matrix, found: Solution) -> Claims:
    near = np.abs(singular_values(A) - wide(found.value.sigma)).min()
    yield "residual", near, found.certificates["residual"].bound


def definiteness_truth(A: Matrix, found: Any) -> Claims:
    values = eigenvalues(A)
    sure = 1e2 * len(A) * np.finfo(A.dtype).eps * np.abs(values).max()
    kind, low, high = found.kind, values[-1], values[0]
    yield "nothing below zero", -low if "positive" in kind else 0, sure
    yield "nothing above zero", high if "negative" in kind else 0, sure
    yield "something on either side", 0 if kind != "indefinite" else 1, int(low < 0 < high)
    yield "zero", np.abs(values).max() if kind == "zero" else 0, 0
    yield "semidefinite is not indefinite", int(kind == "indefinite" and (low > -sure / 1e2 or high < sure / 1e2)), 0


def diagonalizability_truth(A: Matrix, found: Any) -> Claims:
    yield "multiplicities", abs(found.algebraic.sum() - len(A)), 0
    yield "geometric <= algebraic", (found.geometric - found.algebraic).max(), 0
    if found.P is not None:
        P, D = wide(found.P, found.D)
        error = np.sqrt((np.abs(wide(A) @ P - P @ D) ** 2).sum())
        yield "eigendecomposition", error, wide(found.certificates["eigendecomposition"].bound) * (1 + 1e-3)


def effective_rank_truth(A: Matrix, found: Solution) -> Claims:
    s, unit = singular_values(A), 1e2 * max(A.shape) * np.finfo(A.dtype).eps
    if s[0] > 0:
        p = s[s > 0] / s.sum()
        entropy, stable = np.exp(-(p * np.log(p)).sum()), (s / s[0] @ (s / s[0]))
        yield "entropy", abs(wide(found.value.entropy) - entropy), unit * entropy * len(s)
        yield "stable", abs(wide(found.value.stable) - stable), unit * stable
    else:
        yield "zero", found.value.entropy + found.value.stable, 0


def rank_truth(A: Matrix, found: Solution) -> Claims:
    s, (null, basis) = singular_values(A), wide(found.value.null_space, found.value.basis)
    r, unit = int(found.value.rank), max(A.shape) * np.finfo(A.dtype).eps
    yield "null", frobenius(wide(A) @ null) if null.size else 0, found.certificates["null"].bound
    yield "orthonormal", max(defect(null), defect(basis)), 64 * unit
    yield "independent columns", r - np.linalg.matrix_rank(A[:, found.value.independent] / (A.max() or 1), tol=0), 0
    if bool(found.certificates["clear"].holds) and r < len(s):
        yield "rank", s[r], 4 * unit * s[0]


def streaming_truth(A: Matrix, found: Solution) -> Claims:
    U, s, Vt = wide(*found.value)
    error, estimate = frobenius(wide(A) - (U * s) @ Vt), found.certificates["frobenius_error"]
    rounded = 64 * max(A.shape) * np.finfo(A.dtype).eps * frobenius(A)
    yield "twenty standard errors", abs(error - wide(estimate.measured)) - 20 * wide(estimate.stderr), rounded


def sqrt_truth(A: Matrix, found: Solution) -> Claims:
    R = wide(found.value)
    yield "residual", np.sqrt((np.abs(R @ R - wide(A)) ** 2).sum()), found.certificates["residual"].bound


def lyapunov_truth(A: Matrix, found: Solution) -> Claims:
    S, X = wide(shifted(A)), wide(found.value)
    yield "residual", frobenius(S @ X + X @ S.T - wide(A)), found.certificates["residual"].bound


def log_truth(A: Matrix, found: Solution) -> Claims:
    yield "residual", frobenius(torture.expm(found.value) - wide(shifted(A))), found.certificates["residual"].bound


def expm_truth(A: Matrix, found: Solution) -> Claims:
    exact = torture.expm(wide(A) * WIDE(step(A))) @ wide(rhs(A))
    yield "error", frobenius(wide(found.value) - exact), found.stats["error"]


def polar_truth(A: Matrix, found: Solution) -> Claims:
    P = wide(found.value)
    gap = norm(P.T @ P - np.eye(P.shape[1], dtype=WIDE)) - wide(found.stats["defect"])
    yield "defect", abs(gap), 64 * max(A.shape) * np.finfo(A.dtype).eps


def shifted(A: Matrix) -> Matrix:
    """A semidefinite matrix made definite, in its own scale."""
    return A + (np.abs(A).max() or A.dtype.type(1)) * np.eye(len(A), dtype=A.dtype)


def step(A: Matrix) -> float:
    """A time in which e^{tA} stays moderate."""
    return 1 / float(np.abs(A).sum(0).max() or 1)
