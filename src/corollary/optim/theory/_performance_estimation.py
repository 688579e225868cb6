"""Performance estimation: the exact worst case of a first-order method with fixed steps, by a semidefinite programme.

The points are p_i = x0 − Σ_{j<i} H_ij ∇f(p_j)/L, i = 0, ..., N. Over all L-smooth, μ-strongly convex functions and all
dimensions the worst f(p_N) − f* (or ‖∇f(p_N)‖², or ‖p_N − x*‖²) with ‖x0 − x*‖ ≤ R is a semidefinite programme in the
Gram matrix of x0 − x* and the gradients: the interpolation conditions say exactly which values and gradients belong to
a function of the class. Its dual is a proof of the rate; its solution is a function that attains it.
Cost: a semidefinite programme of order N + 2 with (N + 2)(N + 1) inequalities, well below a second to N = 10, a minute
at N = 40. Needs `clarabel` (the extra ``pep``).
Source: Drori & Teboulle, "Performance of first-order methods for smooth convex minimization" (2014); Taylor, Hendrickx
& Glineur, "Smooth strongly convex interpolation and exact worst-case performance of first-order methods" (2017),
theorems 4 and 5.
"""

from __future__ import annotations

import importlib
from typing import Any

import equinox as eqx
import numpy as np
import scipy.sparse
from jaxtyping import Float

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Solution, Status

SOURCE = "Taylor, Hendrickx & Glineur (2017), theorems 4 and 5"
Matrix = Float[np.ndarray, "_ _"]


class WorstFunction(eqx.Module):
    """A function of the class that attains the worst case: the largest one through the points that were found.

    Attributes
    ----------
    points, gradients, values
        p_0, ..., p_N and x* = 0 (the last row), with their gradients (0 at x*) and values (0 at x*).
    start
        p_0, from which the method meets its worst case.
    """

    points: Matrix
    gradients: Matrix
    values: Float[np.ndarray, " m"]
    lipschitz: float
    strong_convexity: float

    @property
    def start(self) -> Float[np.ndarray, " n"]:
        """p_0."""
        return self.points[0]

    def value_and_gradient(self, x: Any) -> tuple[float, Float[np.ndarray, " n"]]:
        """f(x) and ∇f(x), by a quadratic programme over the simplex of the points' upper parabolas."""
        x, m = np.asarray(x, dtype=float), self.strong_convexity
        L = self.lipschitz - m
        slopes = self.gradients - m * self.points
        levels = self.values - m / 2 * np.sum(self.points**2, axis=1) - np.sum(slopes**2, axis=1) / (2 * L)
        centres = self.points - slopes / L
        n = len(levels)
        problem = L * centres @ centres.T
        linear = levels - L * centres @ x
        A = scipy.sparse.csc_matrix(np.vstack([np.ones((1, n)), -np.eye(n)]))
        b, clarabel = np.append(1.0, np.zeros(n)), _clarabel()
        cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(n)]
        alpha, _, _, _ = _solve(problem, linear, A, b, cones)
        alpha = np.maximum(alpha, 0)
        away = x - (alpha / alpha.sum()) @ centres
        value = L / 2 * away @ away + alpha @ levels / alpha.sum()
        return float(value + m / 2 * x @ x), L * away + m * x


def performance_estimation(
    steps: Any,
    *,
    lipschitz: float = 1.0,
    strong_convexity: float = 0.0,
    radius: float = 1.0,
    measure: str = "objective",
) -> Solution:
    """The exact worst case of a method with fixed steps over all L-smooth, μ-strongly convex functions.

    Use it to check a rate, to compare methods to the last constant, or to see what a schedule is worth.

    Parameters
    ----------
    steps
        (N,): the steps h_k of gradient descent, in units of 1/L (a `Schedule` will do). (N, N), lower triangular: row i
        holds the weights of ∇f(p_0), ..., ∇f(p_i) in L(x0 − p_{i+1}); see `nesterov_steps`.
    lipschitz, strong_convexity
        0 ≤ μ < L.
    radius
        R > 0, ‖x0 − x*‖ ≤ R.
    measure
        ``"objective"``, f(p_N) − f*; ``"gradient"``, ‖∇f(p_N)‖²; ``"distance"``, ‖p_N − x*‖².

    Returns
    -------
    Solution
        ``value`` is the `WorstFunction`; ``stats`` hold ``worst`` (the worst case), ``dual`` (its proof's value) and
        ``multipliers``, entry (i, j) the weight of the inequality that says how p_j's tangent bounds f(p_i); the last
        index is x*.

    Raises
    ------
    InputError
        For steps that are not (N,) or lower triangular, and constants out of range.
    ImportError
        Without `clarabel`.

    Notes
    -----
    Certificates: ``dual_gap`` (exact), the worst case against the proof's value; ``dual`` (exact), how far the
    multipliers are from a proof: negative parts, the linear identity, the least eigenvalue of the slack matrix.
    Source: Taylor, Hendrickx & Glineur (2017), theorems 4 and 5.

    Examples
    --------
    Gradient descent with step 1/L after 3 steps, L R²/(4·3 + 2):

    >>> run = performance_estimation([1.0, 1.0, 1.0])  # doctest: +SKIP
    >>> round(float(run.stats["worst"]) * 14, 4)  # doctest: +SKIP
    1.0
    """
    H = _coefficients(steps)
    number = validation.number(0.0, open_low=True)
    L, R = float(number("lipschitz", lipschitz)), float(number("radius", radius))
    m = float(validation.number(0.0, L)("strong_convexity", strong_convexity)) / L
    if m >= 1:
        raise InputError(f"strong_convexity: found {strong_convexity}, expected less than lipschitz = {lipschitz}")
    validation.one_of("objective", "gradient", "distance")("measure", measure)
    clarabel = _clarabel()

    x, g, f = _basis(H)
    forms, lines, pairs = _interpolation(x, g, f, m)
    n, k = x.shape[1], f.shape[1]
    target, line = np.zeros((n, n)), np.zeros(k)
    if measure == "objective":
        line = f[-2]
    else:
        along = g[-2] if measure == "gradient" else x[-2]
        target = np.outer(along, along)
    # Variables: the upper triangle of the Gram matrix (off the diagonal times √2), then the values.
    rows = [np.concatenate([_svec(form), a]) for form, a in zip(forms, lines, strict=True)]
    rows.append(np.concatenate([_svec(np.outer(x[0], x[0])), np.zeros(k)]))
    size = n * (n + 1) // 2
    cone = np.hstack([-np.eye(size), np.zeros((size, k))])
    A, b = scipy.sparse.csc_matrix(np.vstack([*rows, cone])), np.zeros(len(rows) + size)
    b[len(rows) - 1] = 1.0
    q = -np.concatenate([_svec(target), line])
    cones = [clarabel.NonnegativeConeT(len(rows)), clarabel.PSDTriangleConeT(n)]
    found, dual, solved, iterations = _solve(np.zeros((size + k,) * 2), q, A, b, cones)

    unit = {"objective": L * R**2, "gradient": (L * R) ** 2, "distance": R**2}[measure]
    gram, values = _smat(found[:size], n), found[size:]
    worst, proof = float(-q @ found), float(dual[len(rows) - 1])
    weights = dual[: len(rows) - 1]
    slack = proof * np.outer(x[0], x[0]) - target + sum(w * form for w, form in zip(weights, forms, strict=True))
    identity = sum(w * a for w, a in zip(weights, lines, strict=True)) - line
    wrong = max(-float(weights.min()), float(np.abs(identity).max()), -float(np.linalg.eigvalsh(slack)[0]), 0.0)
    multipliers = np.zeros((len(x), len(x)))
    for (i, j), w in zip(pairs, weights, strict=True):
        multipliers[i, j] = w

    eigenvalues, vectors = np.linalg.eigh(gram)
    root = np.sqrt(np.maximum(eigenvalues, 0))[:, None] * vectors.T
    keep = eigenvalues > 1e-9 * eigenvalues[-1]
    root = root[keep][::-1]
    function = WorstFunction(R * x @ root.T, L * R * g @ root.T, L * R**2 * f @ values, L, m * L)
    tolerance = 1e-6 * (1 + float(np.trace(gram)) + proof)
    exact = (Assumption("the conic solver converged", checked=True, holds=bool(solved)),)
    gap = Certificate(
        "worst case = value of its proof",
        abs(worst - proof) * unit,
        tolerance * unit,
        "exact",
        SOURCE,
        assumptions=exact,
    )
    proved = Certificate("the multipliers are a proof", wrong, tolerance, "exact", SOURCE, assumptions=exact)
    stats = {"worst": worst * unit, "dual": proof * unit, "multipliers": multipliers}
    status = Status.CONVERGED if solved else Status.PRECISION
    return Solution(function, {"dual_gap": gap, "dual": proved}, status, iterations, stats)


def nesterov_steps(n: int, law: str = "(t-1)/(t+2)", *, condition: float | None = None) -> Matrix:
    """The steps of Nesterov's method for `performance_estimation`: N points ahead, then the iterate x_N.

    Parameters
    ----------
    n
        N ≥ 1.
    law
        As in `Nesterov`.
    condition
        κ ≥ 1, for the constant law.

    Examples
    --------
    >>> nesterov_steps(2).tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    """
    validation.integer(1)("n", n)
    validation.one_of("(t-1)/(t+2)", "t/(t+3)", "constant")("law", law)
    if (law == "constant") != (condition is not None):
        raise InputError('condition: expected for law="constant", and only there')
    H, before, ahead = np.zeros((n, n)), np.zeros(n), np.zeros(n)
    for k in range(1, n + 1):
        x = ahead.copy()
        x[k - 1] += 1
        if condition is not None:
            momentum = (np.sqrt(condition) - 1) / (np.sqrt(condition) + 1)
        else:
            momentum = k / (k + 3) if law == "t/(t+3)" else (k - 1) / (k + 2)
        ahead = x + momentum * (x - before)
        before = x
        H[k - 1] = x if k == n else ahead
    return H


def _coefficients(steps: Any) -> Matrix:
    """L(x0 − p_i) as a combination of the gradients, one row for each point after the first."""
    steps = np.asarray(getattr(steps, "steps", steps), dtype=float)
    if steps.ndim == 1 and steps.size:
        steps = np.tril(np.broadcast_to(steps, (steps.size, steps.size)))
    if steps.ndim != 2 or steps.shape[0] != steps.shape[1] or not steps.size or np.any(np.triu(steps, 1)):
        raise InputError(f"steps: found an array of shape {steps.shape}, expected (N,) or (N, N), lower triangular")
    if not np.all(np.isfinite(steps)):
        raise InputError("steps: found NaN or infinity, expected finite numbers")
    return steps


def _basis(H: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Points, gradients and values as combinations of (x0 − x*, gradients) and of the values; x* is the last row."""
    N = len(H)
    x, g, f = np.zeros((N + 2, N + 2)), np.zeros((N + 2, N + 2)), np.zeros((N + 2, N + 1))
    x[: N + 1, 0] = 1
    x[1 : N + 1, 1 : N + 1] = -H
    g[: N + 1, 1:] = np.eye(N + 1)
    f[: N + 1] = np.eye(N + 1)
    return x, g, f


def _interpolation(
    x: Matrix, g: Matrix, f: Matrix, m: float
) -> tuple[list[Matrix], list[np.ndarray], list[tuple[int, int]]]:
    """Inequalities tr(form·G) + line·values ≤ 0, with L = 1, for every pair of points."""
    forms, lines, pairs = [], [], []
    for i in range(len(x)):
        for j in range(len(x)):
            if i == j:
                continue
            d, e = x[i] - x[j], g[i] - g[j]
            quadratic = np.outer(e, e) + m * np.outer(d, d) - m * (np.outer(e, d) + np.outer(d, e))
            cross = np.outer(g[j], d)
            forms.append((cross + cross.T) / 2 + quadratic / (2 * (1 - m)))
            lines.append(f[j] - f[i])
            pairs.append((i, j))
    return forms, lines, pairs


def _solve(P: Matrix, q: np.ndarray, A: Any, b: np.ndarray, cones: list[Any]) -> tuple[Any, Any, bool, int]:
    clarabel = _clarabel()
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    upper = scipy.sparse.csc_matrix(np.triu(P))
    found = clarabel.DefaultSolver(upper, q, A, b, cones, settings).solve()
    solved = str(found.status) in ("Solved", "AlmostSolved")
    return np.asarray(found.x), np.asarray(found.z), solved, int(found.iterations)


def _svec(matrix: Matrix) -> np.ndarray:
    """The upper triangle, column by column, off the diagonal times √2: inner products are kept."""
    rows, columns = np.tril_indices(len(matrix))
    return matrix[rows, columns] * np.where(rows == columns, 1, np.sqrt(2))


def _smat(vector: np.ndarray, n: int) -> Matrix:
    rows, columns = np.tril_indices(n)
    matrix = np.zeros((n, n))
    matrix[rows, columns] = matrix[columns, rows] = vector * np.where(rows == columns, 1, np.sqrt(0.5))
    return matrix


def _clarabel() -> Any:
    try:
        return importlib.import_module("clarabel")
    except ImportError as error:
        raise ImportError("performance estimation needs clarabel: pip install 'corollary[pep]'") from error
