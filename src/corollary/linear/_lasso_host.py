"""The Lasso family on the host: validated data in, coefficients and certificates out, one penalty after another.

Internally F is ½‖y − Xw‖² + λ‖w‖₁ + ½μ‖w‖² with λ = n·alpha·l1_ratio and μ = n·alpha·(1 − l1_ratio), weights scaled
to mean one, and X and y divided by powers of two, so that no scale of the data overflows. Answers and gaps are
reported in scikit-learn's units: the loss is 1/(2n) times the weighted sum of squares.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.sparse
from threadpoolctl import threadpool_limits

from corollary.core import precision, validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Note, Solution, Status
from corollary.linear import _lasso_coordinate as coordinate
from corollary.linear._lasso_design import Design, make_design
from corollary.linear._lasso_duality import Gap, optimality_residual
from corollary.linear._lasso_working_set import Columns, Gram, Outcome, Penalty, Quadratic, Residual, solve

SOURCE = "Fercoq, Gramfort & Salmon (2015), eqs. 2-6: P(w) - D(theta) for feasible theta"
WIDEST = 8192  # features that may enter one Gram matrix: 0.5 GB in float64


class Data(NamedTuple):
    """Validated data, ready for products."""

    design: Design
    targets: np.ndarray  # (k, n), each divided by its `scale`
    scale: np.ndarray  # powers of two
    mean: np.ndarray  # of the targets, in their own units
    single: bool
    dtype: Any
    n: int

    def penalty(self, alpha: float, l1_ratio: float, k: int, positive: bool) -> Penalty:
        """λ and μ in the units of the scaled data."""
        strength, X, y = self.n * alpha, self.design.scale, float(self.scale[k])
        return Penalty(strength * l1_ratio / X / y, strength * (1 - l1_ratio) / X / X, positive)

    def unit(self, k: int) -> float:
        """What one unit of the internal objective is worth in F: multiply by it."""
        return float(self.scale[k]) * (float(self.scale[k]) / self.n)

    def coef(self, w: np.ndarray, k: int) -> np.ndarray:
        """Internal coefficients in the data's units and precision."""
        return (w * (self.scale[k] / self.design.scale)).astype(self.dtype)

    def inner(self, coef: np.ndarray, k: int) -> np.ndarray:
        """The way back."""
        return coef.astype(np.float64) / (self.scale[k] / self.design.scale)

    def intercept(self, coef: np.ndarray, k: int) -> float:
        """ȳ − x̄ᵀw."""
        if self.design.mean is None:
            return 0.0
        return float(self.mean[k] - self.design.mean @ self.inner(coef, k) * self.scale[k])


class Fitted(NamedTuple):
    """One target at one penalty, in the data's units."""

    coef: np.ndarray
    intercept: float
    outcome: Outcome
    gap: float
    bound: float
    kkt: float
    kkt_bound: float


def prepare(X: Any, y: Any, sample_weight: Any, fit_intercept: bool) -> Data:
    """Check and wrap NumPy or SciPy sparse data; a dense X is neither copied nor converted."""
    validation.flag("fit_intercept", fit_intercept)
    X = _sparse(X) if scipy.sparse.issparse(X) else np.asarray(validation.matrix("X", X, host=True))
    Y = np.asarray(validation.vector_or_matrix("y", y, host=True))
    validation.same_length("X", X, "y", Y)
    weight = None
    if sample_weight is not None:
        weight = np.asarray(validation.vector("sample_weight", sample_weight, host=True)).astype(np.float64)
        validation.same_length("X", X, "sample_weight", weight)
        if (weight < 0).any() or not weight.any():
            raise InputError("sample_weight: found negative or all-zero weights, expected some > 0 and none < 0")
        weight = weight / weight.max()
        weight = weight / weight.mean()
    dtype = np.promote_types(X.dtype, Y.dtype)
    design = make_design(X, weight, fit_intercept)
    rows = Y.astype(np.float64).reshape(len(Y), -1).T
    top = np.abs(rows).max(axis=1)
    scale = np.where(top > 0, 2.0 ** np.round(np.log2(np.where(top > 0, top, 1))), 1.0)
    rows = rows / scale[:, None]
    mean = np.average(rows, axis=1, weights=weight) * scale
    targets = np.stack([design.target(row) for row in rows])
    if fit_intercept:  # a constant target is exactly zero once centred
        targets[np.abs(targets).max(axis=1) <= 8 * np.finfo(float).eps] = 0
    return Data(design, targets, scale, mean, Y.ndim == 1, dtype, X.shape[0])


def alpha_max_of(data: Data, l1_ratio: float, positive: bool) -> float:
    """The smallest alpha whose solution is zero for every target."""
    tops = []
    for k, t in enumerate(data.targets):
        c = data.design.correlate(t)
        top = float(np.max(c if positive else np.abs(c), initial=0.0))
        tops.append(max(top, 0.0) / data.n * data.design.scale * float(data.scale[k]))
    return max(tops) / l1_ratio


def quadratic(data: Data, k: int, many: bool, shared: dict[str, Any]) -> Quadratic:
    """Gram mode where n ≫ p and the matrix pays for itself (`many` penalties), else a growing set of columns."""
    n, p = data.design.shape
    t = data.targets[k]
    if n >= 2 * p and p <= (2048 if many else 256):
        if "gram" not in shared:
            shared["gram"] = data.design.gram()
        return Gram(shared["gram"], data.design.correlate(t), float(t @ t))
    return Columns(data.design, t)


def fit(
    data: Data,
    penalties: Iterable[tuple[float, float]],
    positive: bool,
    tol: float,
    max_steps: int,
    init: np.ndarray | None,
) -> tuple[list[list[Fitted]], str]:
    """All targets at all penalties (alpha, l1_ratio), warm-started in the order given; and which solver was used."""
    penalties = list(penalties)
    shared: dict[str, Any] = {}
    fits, note = [], ""
    for k in range(len(data.targets)):
        problem = quadratic(data, k, len(penalties) > 1, shared)
        note = NOTES[type(problem)]
        if init is not None:
            problem = _start(problem, data, k, init[:, k])
        pens = [data.penalty(alpha, l1_ratio, k, positive) for alpha, l1_ratio in penalties]
        guesses = gram_guesses(problem, pens, tol) if isinstance(problem, Gram) and len(pens) > 1 else None
        fits.append([])
        with _blas_for(problem, data):
            for i, pen in enumerate(pens):
                if guesses is not None:
                    problem.w = guesses[i]
                fits[k].append(_one(problem, data, k, pen, tol, max_steps))
    return fits, note


def _blas_for(problem: Quadratic, data: Data) -> contextlib.AbstractContextManager[Any]:
    """One BLAS thread for working sets: their Cholesky factors are small, and idle BLAS threads spin beside XLA's."""
    large = isinstance(problem, Columns) and math.prod(data.design.shape) > 2**20
    return threadpool_limits(1, user_api="blas") if large else contextlib.nullcontext()


def _one(problem: Quadratic, data: Data, k: int, pen: Penalty, tol: float, max_steps: int) -> Fitted:
    if pen.lam == 0 and pen.mu == 0:
        return _least_squares(data, k, tol, pen)
    goal = tol * problem.yy
    outcome = solve(problem, pen, goal, max_steps)
    if isinstance(problem, Gram) and outcome.rounding > max(goal, 0.0) and outcome.rounding > 0:
        # The Gram matrix has squared the condition number: go on from the columns themselves.
        problem = Columns(data.design, data.targets[k], outcome.w)
        outcome = solve(problem, pen, goal, max_steps, outcome.history)
    return report(problem, data, k, pen, outcome, goal)


def report(problem: Quadratic, data: Data, k: int, pen: Penalty, outcome: Outcome, goal: float) -> Fitted:
    """The answer in the data's units and precision, its gap and optimality residual measured for what is returned."""
    coef = data.coef(outcome.w, k)
    gap, res, w = outcome.gap, outcome.residual, outcome.w
    if data.dtype != np.float64:
        kept, problem.w = problem.w, data.inner(coef, k)[problem.ids]
        rounded = solve(problem, pen, np.inf, 0)
        gap, res, w, problem.w = rounded.gap, rounded.residual, rounded.w, kept
    eps = float(np.finfo(data.dtype).eps)
    slack = max(outcome.rounding, outcome.rounding * eps / problem.eps)
    kkt = optimality_residual(res.corr, w, problem.norm2, pen.lam, pen.mu, pen.positive)
    unit = data.unit(k)
    with np.errstate(over="ignore", under="ignore"):
        kkt_unit = float(data.scale[k]) / math.sqrt(data.n)
        bound = goal + slack
        kkt_slack = 8 * eps * math.sqrt(problem.yy)
        return Fitted(
            coef,
            data.intercept(coef, k),
            outcome._replace(gap=gap),
            max(gap.gap, 0.0) * unit,
            bound * unit,
            kkt * kkt_unit,
            (math.sqrt(2 * bound) + kkt_slack) * kkt_unit,
        )


def gram_guesses(problem: Gram, pens: list[Penalty], tol: float, rounds: int = 30) -> np.ndarray:
    """Coordinate descent over the whole path inside one compiled loop; what it leaves unfinished, `solve` finishes."""
    c = np.zeros(len(problem.G))
    c[: problem.size] = problem.c
    lams, mus = np.array([p.lam for p in pens]), np.array([p.mu for p in pens])
    with jax.enable_x64(True):
        args = (np.float64(problem.yy), lams, mus, np.float64(0.5 * tol * problem.yy), np.bool_(pens[0].positive))
        path = coordinate.gram_path(jax.dlpack.from_dlpack(problem.G), c, *args, np.int64(rounds))
        return np.array(path)[:, : problem.size]


def solution(value: Any, fits: list[list[Fitted]], data: Data, note: str, path: bool, history: bool) -> Solution:
    """Certificates and status over targets (and the path, first axis), without the axes that were not given."""

    def shaped(field: Any, dtype: Any = np.float64) -> Any:
        table = np.array([[field(f) for f in row] for row in fits], dtype).T  # (path, target)
        table = table[:, 0] if data.single else table
        return table if path else table[0]

    gap = Certificate(
        "F(w) - F* <= duality gap <= tol |y|^2 / n",
        shaped(lambda f: f.gap),
        shaped(lambda f: f.bound),
        "exact",
        SOURCE,
    )
    kkt = Certificate(
        "largest coordinate step sqrt(L_j) |w_j - argmin_j| <= sqrt(2 tol |y|^2 / n)",
        shaped(lambda f: f.kkt),
        shaped(lambda f: f.kkt_bound),
        "exact",
        "a step lowers F by at least L_j step^2 / 2, so the residual is at most sqrt(2 (F(w) - F*))",
    )
    stats = {
        "solver": Note(note),
        "support": shaped(lambda f: np.count_nonzero(f.coef), np.int64),
        "objective": shaped(lambda f: f.outcome.gap.primal, np.float64) * _units(data, path),
    }
    record = None
    if history and not path:
        length = max(len(row[0].outcome.history) for row in fits)
        gaps = np.full((length, len(fits)), np.nan)
        for k, row in enumerate(fits):
            gaps[: len(row[0].outcome.history), k] = np.array(row[0].outcome.history) * data.unit(k)
        record = {"duality_gap": gaps[:, 0] if data.single else gaps}
    status, steps = shaped(lambda f: f.outcome.status, np.int32), shaped(lambda f: f.outcome.steps, np.int32)
    return Solution(value, {"duality_gap": gap, "kkt": kkt}, status, steps, stats, record)


def _units(data: Data, path: bool) -> Any:
    units = np.array([data.unit(k) for k in range(len(data.targets))])
    return units[0] if data.single else units


def _start(problem: Quadratic, data: Data, k: int, coef: np.ndarray) -> Quadratic:
    w = data.inner(coef, k)
    if isinstance(problem, Gram):
        problem.w = w
        return problem
    return Columns(data.design, data.targets[k], w)


def _least_squares(data: Data, k: int, tol: float, pen: Penalty) -> Fitted:
    """alpha = 0: the minimum-norm least-squares solution; its gap is ½‖P r‖², P the projection on the column space."""
    n, p = data.design.shape
    if pen.positive or scipy.sparse.issparse(block := data.design.rows(np.arange(p))):
        raise InputError("alpha: found 0 with positive=True or a sparse X, expected alpha > 0 (or linalg.lstsq)")
    t = data.targets[k]
    U, s, Vt = np.linalg.svd(block.T, full_matrices=False)
    live = s > max(n, p) * np.finfo(float).eps * s.max(initial=0.0)
    w = Vt[live].T @ ((U[:, live].T @ t) / s[live])
    coef = data.coef(w, k)
    r = t - data.inner(coef, k) @ block
    reach = float(np.linalg.norm(U[:, live].T @ r))
    size = float(np.linalg.norm(t) + s.max(initial=0.0) * np.linalg.norm(w))
    goal = tol * float(t @ t) + (64 * float(np.finfo(data.dtype).eps) * size) ** 2
    gap, res = Gap(reach**2 / 2, float(r @ r) / 2, 1.0, 0.0), Residual(float(r @ r), float(t @ r), block @ r)
    status = Status.CONVERGED if gap.gap <= goal else Status.PRECISION
    outcome = Outcome(w, gap, res, 0.0, status, 0, [gap.gap])
    unit, root = data.unit(k), float(data.scale[k]) / math.sqrt(data.n)
    intercept = data.intercept(coef, k)
    return Fitted(coef, intercept, outcome, gap.gap * unit, goal * unit, reach * root, math.sqrt(2 * goal) * root)


def is_jax(*arrays: Any) -> bool:
    """Whether an argument is a JAX array, so that the answer should be one."""
    return any(isinstance(a, jax.Array) for a in arrays)


def give_back(tree: Any, jax_out: bool) -> Any:
    """The result in the caller's kind of array."""
    if not jax_out:
        return precision.to_numpy(tree)
    return jax.tree.map(lambda a: jax.numpy.asarray(a) if isinstance(a, np.ndarray | np.generic) else a, tree)


def _sparse(X: Any) -> Any:
    if 0 in X.shape:
        raise InputError(f"X: found an empty matrix of shape {X.shape}, expected at least one entry")
    if X.dtype.kind not in "buif":
        raise InputError(f"X: found dtype {X.dtype}, expected real numbers")
    X = scipy.sparse.csc_array(X)
    X.sum_duplicates()
    X = X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)
    if not np.isfinite(X.data).all():
        raise InputError("X: found NaN or infinity, expected finite numbers")
    return X


NOTES = {
    Gram: "Gram mode: many rows for few features, so XᵀX is formed once",
    Columns: "working sets: Gram matrices of the few features that can be active",
}
