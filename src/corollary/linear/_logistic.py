"""Logistic and softmax regression, L2, L1, elastic-net or unpenalised, each fit with its duality gap.

Dense X takes Newton's method (Cholesky, or coordinate descent on the Hessian where there is an L1 term), sparse X and
operators take Newton-CG without densifying, tall NumPy matrices are read in row blocks, wide L1 problems are solved on
working sets of columns. See `_logistic_kernel` for the mathematics.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse
import scipy.special
from jax.core import Tracer
from jax.experimental import sparse as jsparse
from jaxtyping import Array, Float

from corollary.core import operator as op
from corollary.core import precision, validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Note, Solution, Status
from corollary.linear import _logistic_kernel as kernel
from corollary.linear import _logistic_rows as rows
from corollary.linear import _separation as separation

SOLVERS = ("auto", "newton-cholesky", "newton-cg", "prox-newton")
DUALITY = (
    "Fenchel duality, Boyd & Vandenberghe, Convex Optimization (2004), §5.1.6; dual point moved along the Newton step"
)
NESTEROV = "Nesterov, Introductory Lectures on Convex Optimization (2004), Theorem 2.1.5 and Corollary 2.2.1"
ALBERT = "Albert & Anderson, Biometrika 71 (1984) 1-10: the maximum exists iff no direction separates the classes"
NEEDS_COLUMNS = "X: found an operator with an L1 penalty, expected an array or a sparse matrix (columns are needed)"
DENSE_LIMIT = 1 << 27  # entries of the largest dense copy of sparse columns
WORKING_SET = 512  # unknowns from which an L1 problem goes column set by column set

Real = Float[Array | np.ndarray, "..."] | Float[np.floating, ""]


class LogisticModel(eqx.Module):
    """Weights of a logistic (one row) or softmax (one row per class) model, and what follows from them.

    Parameters
    ----------
    coef
        Shape (p,) for the binary model, (k, p) for the softmax model.
    intercept
        Shape () or (k,).

    Examples
    --------
    >>> model = LogisticModel(jnp.array([1.0, -1.0]), jnp.array(0.0))
    >>> model.probabilities(jnp.array([[2.0, 2.0]])).tolist()
    [0.5]
    """

    coef: Real
    intercept: Real

    def log_odds(self, X: Any) -> Real:
        """Xw + b of shape (n,), which is log(p/(1−p)); for softmax the logits (n, k). NumPy in, NumPy out."""
        return X @ self.coef.T + self.intercept

    def probabilities(self, X: Any) -> Real:
        """P(y = 1 | x) of shape (n,); for softmax (n, k). Without overflow at any logit."""
        Z = self.log_odds(X)
        if isinstance(Z, jax.Array):
            return jax.nn.softmax(Z, axis=1) if Z.ndim == 2 else jax.nn.sigmoid(Z)
        return scipy.special.softmax(Z, axis=1) if Z.ndim == 2 else scipy.special.expit(Z)

    def predict(self, X: Any) -> Any:
        """The likelier class: 1 where ⟨w, x⟩ + b > 0, or the argmax of the logits."""
        Z = self.log_odds(X)
        return Z.argmax(axis=1) if Z.ndim == 2 else (Z > 0).astype(int)

    def gradient(self, X: Any, y: Any) -> Real:
        """Gradient of the mean loss in `coef`: (1/n) Xᵀ(σ(Xw + b) − y), or (1/n) (P − Y)ᵀX of shape (k, p)."""
        P = self.probabilities(X)
        Y = (y[:, None] == np.arange(P.shape[1])).astype(P.dtype) if P.ndim == 2 else y.astype(P.dtype)
        return (P - Y).T @ X / X.shape[0]

    def hessian(self, X: Any) -> Real:
        """Hessian of the mean loss in `coef`: (1/n) XᵀSX with S = diag(p(1−p)); for softmax (k, p, k, p)."""
        P = jnp.asarray(self.probabilities(X))
        X = jnp.asarray(X)
        (n, p), k = X.shape, P.shape[1] if P.ndim == 2 else 1
        H = kernel.hessian(X, P.reshape(n, k), jnp.full(n, 1 / n, X.dtype))
        return H if P.ndim == 1 else H.reshape(p, k, p, k).transpose(1, 0, 3, 2)


@precision.follows_input
def logistic_regression(
    X: Any,
    y: Any,
    *,
    alpha: Any = 0.0,
    l1_ratio: float = 0.0,
    sample_weight: Any = None,
    fit_intercept: bool = True,
    init: LogisticModel | None = None,
    solver: str = "auto",
    tol: float = 1e-8,
    max_steps: int = 100,
) -> Solution:
    """Binary logistic regression by Newton's method, with an exact duality gap.

    Minimises Σ s_i log(1 + exp(−y_i z_i)) / Σ s_i + α (l1_ratio ‖w‖₁ + (1 − l1_ratio)/2 ‖w‖²), over w and an intercept
    b without penalty; z = Xw + b and y_i = ±1. Use it for a probability and the evidence behind it; scikit-learn's C is
    1/(α Σ s_i). Cost per step O(n p²), or O(n p) per product for sparse X; about six steps.

    Parameters
    ----------
    X
        Shape (n, p): an array, a SciPy or JAX sparse matrix, or a `lineax` operator.
    y
        Shape (n,): 0/1, False/True or −1/+1.
    alpha
        Strength of the penalty, at least 0 and per observation; 0 is maximum likelihood.
    l1_ratio
        0 for L2, 1 for L1, between them the elastic net.
    sample_weight
        Shape (n,), non-negative; an integer weight is a repetition.
    fit_intercept
        Whether there is an intercept.
    init
        Where to start (a warm start); zeros when left out.
    solver
        ``"newton-cholesky"`` (smooth), ``"newton-cg"`` (smooth, any operator), ``"prox-newton"`` (any penalty) or
        ``"auto"``.
    tol
        The duality gap to reach, relative to F. Rounding (some 8 eps of F) is added.
    max_steps
        Newton steps at most.

    Returns
    -------
    Solution
        ``value`` is a `LogisticModel`; ``stats`` has ``objective``, ``gap`` and ``solver``. Status is UNBOUNDED where
        `alpha` is 0 and a direction separates the classes: there is no finite optimum.

    Raises
    ------
    InputError
        For bad input, y of a single class, or a solver that cannot treat the penalty.

    Notes
    -----
    Certificates: ``duality_gap`` (exact: F(w) − F* is at most this), ``stationarity`` (theorem: the gradient mapping
    against √(2L·gap)), and for ``alpha=0`` ``finite_optimum`` (exact where all arrays are concrete: no direction
    separates the classes; inside `jit` only iterates that separate are noticed).

    References
    ----------
    Boyd & Vandenberghe, Convex Optimization (2004), §7.1.1 and §9.5; Albert & Anderson, Biometrika 71 (1984).
    Lee, Sun & Saunders, SIAM J. Optim. 24 (2014) 1420 for the proximal Newton step.

    Examples
    --------
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> fit = logistic_regression(X, np.array([0, 1, 0, 1]), alpha=0.1)
    >>> bool(fit.holds), round(float(fit.value.probabilities(X)[0]), 2)
    (True, 0.28)
    """
    return _regression(X, y, 1, alpha, l1_ratio, sample_weight, fit_intercept, init, solver, tol, max_steps)


@precision.follows_input
def softmax_regression(
    X: Any,
    y: Any,
    n_classes: int | None = None,
    *,
    alpha: Any = 0.0,
    l1_ratio: float = 0.0,
    sample_weight: Any = None,
    fit_intercept: bool = True,
    init: LogisticModel | None = None,
    solver: str = "auto",
    tol: float = 1e-8,
    max_steps: int = 100,
) -> Solution:
    """Multinomial logistic regression by Newton's method, with an exact duality gap.

    Minimises Σ s_i (log Σ_c exp(z_ic) − z_i,y_i) / Σ s_i + α (l1_ratio ‖W‖₁ + (1 − l1_ratio)/2 ‖W‖²) with Z = XWᵀ + b.
    Use it for more than two classes. Adding one vector to all class weights changes no probability: the penalty, or the
    start where there is none, settles it (the intercepts sum to what they started with). Cost per step O(n (pk)²)
    with the full Hessian, or O(n p k) per conjugate-gradient step.

    Parameters
    ----------
    X
        Shape (n, p), as in `logistic_regression`.
    y
        Shape (n,): integers 0 … k−1, each class at least once.
    n_classes
        k; needed inside `jit`, else read off y.
    alpha, l1_ratio, sample_weight, fit_intercept, init, solver, tol, max_steps
        As in `logistic_regression`; `init` has ``coef`` (k, p) and ``intercept`` (k,).

    Returns
    -------
    Solution
        ``value`` is a `LogisticModel` with ``coef`` (k, p) and ``intercept`` (k,).

    Raises
    ------
    InputError
        As in `logistic_regression`.

    Notes
    -----
    Certificates: ``duality_gap`` (exact), ``stationarity`` (theorem), ``finite_optimum`` where ``alpha=0``.

    References
    ----------
    Böhning, Ann. Inst. Statist. Math. 44 (1992) 197; Boyd & Vandenberghe, Convex Optimization (2004), §7.1.1.

    Examples
    --------
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]])
    >>> fit = softmax_regression(X, np.array([0, 0, 1, 1, 2, 2]), alpha=0.1)
    >>> fit.value.predict(X).tolist()
    [0, 0, 1, 1, 2, 2]
    """
    if n_classes is None:
        if isinstance(y, Tracer):
            raise InputError("n_classes: found None, expected the number of classes inside jit")
        found = np.asarray(y)
        n_classes = int(found.max()) + 1 if found.size and found.dtype.kind in "bui" else 2
    validation.integer(2)("n_classes", n_classes)
    return _regression(X, y, n_classes, alpha, l1_ratio, sample_weight, fit_intercept, init, solver, tol, max_steps)


def _regression(
    X: Any,
    y: Any,
    k: int,
    alpha: Any,
    l1_ratio: Any,
    weight: Any,
    intercept: Any,
    init: Any,
    solver: Any,
    tol: Any,
    max_steps: Any,
) -> Solution:
    X, y, weight = _checked(X, y, k, weight)
    for name, value, check in (
        ("alpha", alpha, validation.number(0, float(np.finfo(float).max))),
        ("l1_ratio", l1_ratio, validation.number(0, 1)),
        ("tol", tol, validation.number(0)),
        ("max_steps", max_steps, validation.integer(1)),
    ):
        if not isinstance(value, jax.Array):
            check(name, value)
    validation.one_of(*SOLVERS)("solver", solver)
    intercept = validation.flag("fit_intercept", intercept)
    _, p = X.shape if hasattr(X, "shape") else op.shape(X)
    dtype = np.dtype(X.dtype) if hasattr(X, "dtype") else np.dtype(op.dtype(X))
    coef, offset = _start(init, p, k, dtype)
    composite = isinstance(l1_ratio, jax.Array) or l1_ratio > 0
    method, why = _method(X, solver, composite, (p + intercept) * k)
    problem = (X, y, weight, alpha, l1_ratio, coef, offset, tol, max_steps, intercept)
    fit, why = _run(problem, k, method, why)
    return _solution(problem, k, fit, why)


def _method(X: Any, solver: str, composite: bool, unknowns: int) -> tuple[kernel.Method, str]:
    """How the Newton model is solved, and why."""
    dense = isinstance(X, np.ndarray | jax.Array)
    if solver == "auto":
        if composite:
            return "cd", "prox-newton: the penalty has an L1 term"
        if not dense:
            return "cg", "newton-cg: X is sparse or an operator"
        if unknowns > 2048:
            return "cg", f"newton-cg: {unknowns} unknowns are many for a Hessian"
        return "cholesky", "newton-cholesky: smooth, and the Hessian is small"
    if composite and solver != "prox-newton":
        raise InputError(f"solver: found {solver!r} with l1_ratio > 0, expected 'prox-newton' or 'auto'")
    if solver == "newton-cholesky" and not dense:
        raise InputError("solver: found 'newton-cholesky' without a dense X, expected 'newton-cg' or 'auto'")
    methods: dict[str, kernel.Method] = {"newton-cholesky": "cholesky", "newton-cg": "cg", "prox-newton": "cd"}
    return methods[solver], f"{solver}: as asked"


def _run(problem: tuple, k: int, method: kernel.Method, why: str) -> tuple[kernel.Fit, str]:
    X, y, weight, alpha, l1_ratio, coef, offset, tol, max_steps, intercept = problem
    n, p = X.shape if hasattr(X, "shape") else op.shape(X)
    dtype = coef.dtype
    concrete = not any(isinstance(a, Tracer) for a in (X, y, weight, alpha))
    if concrete and method == "cholesky" and rows.worthwhile(X, k, l1_ratio, alpha):
        s = np.full(n, 1 / n, dtype) if weight is None else np.asarray(weight / weight.sum(), dtype)
        start = np.asarray(coef)[:, 0], float(np.asarray(offset)[0])
        if (found := rows.fit(X, np.asarray(y, dtype), s, float(alpha), *start, tol, max_steps, intercept)) is not None:
            return found[0], f"row blocks with a sampled Hessian: X is tall; {found[1]} full passes"
    if concrete and method == "cd" and p * k > WORKING_SET:
        from corollary.linear import _logistic_columns as columns

        return columns.fit(problem, k), "prox-newton on working sets of columns: wide, with an L1 term"
    if method == "cd" and not isinstance(X, np.ndarray | jax.Array):
        X = _densified(X)
    s = (
        jnp.full(n, 1 / n, dtype)
        if weight is None
        else jnp.asarray(weight, dtype) / jnp.sum(jnp.asarray(weight, dtype))
    )
    a, r = (jnp.asarray(x, dtype) for x in (alpha, l1_ratio))
    end = (a * r, a * (1 - r))
    tail = (coef, offset, jnp.asarray(tol, dtype), jnp.asarray(max_steps, jnp.int32), intercept)
    Y = targets(jnp.asarray(y), k, dtype)
    if isinstance(X, np.ndarray | jax.Array):
        return kernel.fit_dense_jit(jnp.asarray(X), Y, s, *end, *tail, method), why
    operator, inverse = _scaled(X, weight, dtype)
    return kernel.fit_operator_jit(operator, Y, s, *end, inverse, *tail), why


def targets(y: Array, k: int, dtype: Any) -> Float[Array, "n k"]:
    """Labels as one column of 0/1, or one-hot."""
    return (y.astype(dtype) > 0).astype(dtype)[:, None] if k == 1 else jax.nn.one_hot(y, k, dtype=dtype)


def shares(weight: Any, n: int, dtype: Any) -> Float[Array, " n"]:
    """The weights over their sum."""
    if weight is None:
        return jnp.full(n, 1 / n, dtype)
    weight = jnp.asarray(weight, dtype)
    weight = weight / jnp.max(weight)
    return weight / jnp.sum(weight)


def _scaled(X: Any, weight: Any, dtype: Any) -> tuple[Any, Float[Array, " p"]]:
    """A sparse matrix with columns of unit root mean square as an operator, and the scales; operators as they are."""
    if not scipy.sparse.issparse(X):
        return X, jnp.ones(X.in_size(), dtype)
    if weight is not None:
        X = scipy.sparse.diags_array((np.asarray(weight) > 0).astype(dtype)) @ X
    top = abs(X).max(axis=0).toarray().ravel()
    top = np.where(top > 0, top, 1).astype(dtype)
    unit = X @ scipy.sparse.diags_array(1 / top)
    rms = np.sqrt(np.asarray(unit.multiply(unit).mean(axis=0)).ravel())
    inverse = np.where(rms > 0, 1 / np.where(rms > 0, rms, 1), 0).astype(dtype)
    return op.Sparse((unit @ scipy.sparse.diags_array(inverse)).tocsr().astype(dtype)), jnp.asarray(inverse / top)


def _densified(X: Any) -> Array:
    if not scipy.sparse.issparse(X):
        raise InputError(NEEDS_COLUMNS)
    if X.shape[0] * X.shape[1] > DENSE_LIMIT:
        raise InputError(f"X: a dense copy of its {X.shape} entries is needed for the L1 penalty and would not fit")
    return jnp.asarray(X.toarray())


def _checked(X: Any, y: Any, k: int, weight: Any) -> tuple[Any, Any, Any]:
    """X as NumPy, JAX, scipy.sparse or operator; labels; weights: refused where they make no sense."""
    if isinstance(X, jsparse.BCOO | jsparse.BCSR):
        X = op._to_csr(X)
    if scipy.sparse.issparse(X):
        X = scipy.sparse.csr_array(X)
        X = X if X.dtype.kind == "f" else X.astype(np.float64)
        validation.vector("X", X.data, empty=True)
        if 0 in X.shape:
            raise InputError(f"X: found an empty matrix of shape {X.shape}, expected at least one entry")
    elif isinstance(X, np.ndarray) and X.ndim == 2 and X.size and X.dtype in (np.float32, np.float64):
        if not validation._finite(X):  # a tall matrix is not copied
            raise InputError("X: found NaN or infinity, expected finite numbers")
    elif not isinstance(X, lx.AbstractLinearOperator):
        X = validation.matrix("X", X)
    n = op.shape(X)[0] if isinstance(X, lx.AbstractLinearOperator) else X.shape[0]
    if not isinstance(y, jax.Array):
        y = np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "buif":
        raise InputError(f"y: found shape {y.shape} and dtype {y.dtype}, expected a vector of class labels")
    if y.shape[0] != n:
        raise InputError(f"y: found {y.shape[0]} rows, expected {n} as in X")
    if weight is not None:
        weight = validation.vector("sample_weight", weight)
        validation.same_length("X", np.empty((n, 0)), "sample_weight", weight)
    if isinstance(y, Tracer) or isinstance(weight, Tracer):
        return X, y, weight
    labels = np.asarray(y)
    if weight is not None and (not np.all(np.asarray(weight) >= 0) or not np.any(np.asarray(weight) > 0)):
        raise InputError("sample_weight: found negative numbers or only zeros, expected weights >= 0, some > 0")
    present = np.unique(labels if weight is None else labels[np.asarray(weight) > 0])
    if k == 1 and not (set(np.unique(labels).tolist()) <= {0, 1} or set(np.unique(labels).tolist()) <= {-1, 1}):
        raise InputError(f"y: found the values {np.unique(labels)[:5]}, expected 0/1, False/True or -1/+1")
    if k > 1 and (labels.dtype.kind == "f" or present[0] < 0 or present[-1] >= k):
        raise InputError(
            f"y: found {labels.dtype} from {present[0]} to {present[-1]}, expected integers in 0 ... {k - 1}"
        )
    if len(present) < max(k, 2):
        raise InputError(f"y: found {len(present)} class(es) of positive weight, expected {max(k, 2)}")
    return X, y, weight


def without_value(solution: Solution) -> Solution:
    """The solution without its model, which an estimator keeps as its own attributes."""
    return eqx.tree_at(lambda s: s.value, solution, None, is_leaf=lambda x: x is None)


def _start(init: LogisticModel | None, p: int, k: int, dtype: Any) -> tuple[Array, Array]:
    if init is None:
        return jnp.zeros((p, k), dtype), jnp.zeros(k, dtype)
    coef, offset = (jnp.asarray(a, dtype) for a in (init.coef, init.intercept))
    if coef.size != p * k or offset.size != k:
        raise InputError(f"init: found coef {coef.shape} and intercept {offset.shape}, expected {k} rows of {p}")
    return coef.reshape(k, p).T, offset.reshape(k)


def _solution(problem: tuple, k: int, fit: kernel.Fit, why: str) -> Solution:
    X, y, weight, alpha, _, _, _, tol, _, intercept = problem
    concrete = not any(isinstance(a, Tracer) for a in (fit.F, y, weight, alpha))
    unpenalised = isinstance(alpha, jax.Array) or alpha == 0
    coef = fit.W[:-1, 0] if k == 1 else fit.W[:-1].T
    model = LogisticModel(coef, fit.W[-1, 0] if k == 1 else fit.W[-1])
    goal = jnp.asarray(tol, fit.F.dtype) * fit.F + fit.allowance
    assumed = (Assumption("the dual point's zero sums hold to rounding"),) if intercept or unpenalised else ()
    claim = "F(w) - F* <= duality gap <= tol F(w)"
    certificates = {
        "duality_gap": Certificate(claim, fit.gap, goal, "exact", DUALITY, assumptions=assumed),
        "stationarity": Certificate(
            "gradient mapping <= sqrt(2 L gap)", fit.residual, jnp.sqrt(2 * fit.smoothness * goal), "theorem", NESTEROV
        ),
    }
    separated = fit.separated
    if unpenalised:
        kind = "monitor"
        if concrete and bool(np.all(np.asarray(alpha) == 0)):
            verdict = separation.exists(X, np.asarray(y), k, weight, fit, intercept)
            separated, kind = (separated, kind) if verdict is None else (jnp.bool_(verdict), "exact")
        certificates["finite_optimum"] = Certificate(
            "directions that separate the classes: none", separated.astype(fit.F.dtype), 0.0 * fit.F, kind, ALBERT
        )
    finite = jnp.isfinite(fit.F)
    status = Status.of(fit.converged, finite)
    status = jnp.where(fit.stalled & ~fit.converged & finite, Status.PRECISION, status)
    status = jnp.where(separated, Status.UNBOUNDED, status).astype(jnp.int32)
    stats = {"objective": fit.F, "gap": fit.gap, "solver": Note(why)}
    return Solution(model, certificates, status, fit.steps, stats)
