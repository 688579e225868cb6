"""Choosing the Lasso's alpha (and l1_ratio) by cross-validation, folds and alphas batched.

With n ≥ 2p the Gram matrix of every training fold is the total less that of the rows left out, and one compiled loop
solves all folds along the path; else each fold's path is warm-started on its working set. Cost: O(np²) once plus
O(p²) per sweep, or that of `lasso_path` per fold. Source: Hastie, Tibshirani and Friedman, section 7.10.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float
from sklearn.model_selection import check_cv

from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input, on_host
from corollary.core.solution import Solution
from corollary.linear import _lasso_coordinate as coordinate
from corollary.linear import _lasso_host as host
from corollary.linear._lasso import LassoFit, check_settings, lasso
from corollary.linear._lasso_design import DenseDesign
from corollary.linear._lasso_path import grid, lasso_path
from corollary.linear._lasso_working_set import Gram, Penalty, solve

Folds = list[tuple[np.ndarray, np.ndarray]]


class LassoCVFit(eqx.Module):
    """The chosen fit and how it was chosen.

    Attributes
    ----------
    best : LassoFit
        Refitted on all rows at the best (alpha, l1_ratio).
    alphas : (l, a)
        The grids, one row per l1_ratio.
    l1_ratios : (l,)
    mse : (l, a, folds)
        Mean squared errors on the rows left out.
    """

    best: LassoFit
    alphas: Float[Array | np.ndarray, "l a"]
    l1_ratios: Float[Array | np.ndarray, " l"]
    mse: Float[Array | np.ndarray, "l a f"]

    def plot(self, ax: Any = None) -> Any:
        """Mean error along the path with one standard error over folds."""
        from corollary.core.draw import axes

        ax = axes(ax, title="cross-validation", xlabel="alpha", ylabel="mean squared error")
        for ratio, alphas, mse in zip(self.l1_ratios, self.alphas, self.mse, strict=True):
            mean, spread = mse.mean(axis=1), mse.std(axis=1) / np.sqrt(mse.shape[1])
            ax.plot(alphas, mean, label=f"l1_ratio {float(ratio):g}")
            ax.fill_between(alphas, mean - spread, mean + spread, alpha=0.2)
        ax.axvline(float(np.asarray(self.best.alpha)), linestyle="--")
        ax.set_xscale("log")
        ax.legend(frameon=False)
        return ax


@follows_input
def lasso_cv(
    X: Any,
    y: Any,
    alphas: Any = None,
    *,
    n_alphas: int = 100,
    eps: float = 1e-3,
    l1_ratio: Any = 1.0,
    cv: Any = 5,
    sample_weight: Any = None,
    fit_intercept: bool = True,
    positive: bool = False,
    tol: float = 1e-6,
    max_steps: int = 100,
) -> Solution:
    """The Lasso or elastic net at the alpha (and l1_ratio) of least cross-validated error.

    Use it to predict; for choosing variables the alpha of least error is known to keep too many. Cost: that of a path
    per fold, or of all folds at once where n ≥ 2p.

    Parameters
    ----------
    X : (n, p)
        NumPy, SciPy sparse or concrete JAX.
    y : (n,)
    alphas, n_alphas, eps
        The grid, as in `lasso_path`; taken from all rows.
    l1_ratio
        One number or a sequence to choose from.
    cv
        A number of folds, a scikit-learn splitter, or a list of (train, test) index arrays.
    sample_weight, fit_intercept, positive, tol, max_steps
        As in `lasso`. The errors are weighted too.

    Returns
    -------
    Solution
        ``value`` is a `LassoCVFit`. Certificates ``duality_gap`` and ``kkt`` of the final fit, and
        ``fold_duality_gap`` (exact): the largest gap of any fold and alpha, relative to its own bound.

    Raises
    ------
    InputError
        As `lasso`; for several targets.

    References
    ----------
    Hastie, Tibshirani & Friedman, *The Elements of Statistical Learning*, 2nd ed., section 7.10.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((60, 5))
    >>> fit = lasso_cv(X, 3 * X[:, 0], n_alphas=10)
    >>> bool(fit.value.best.coef[0] > 2.9), bool(fit.holds)
    (True, True)
    """
    ratios = np.atleast_1d(np.asarray(l1_ratio, np.float64))
    if ratios.ndim != 1 or not len(ratios) or not ((ratios > 0) & (ratios <= 1)).all():
        raise InputError(f"l1_ratio: found {l1_ratio!r}, expected numbers in (0, 1]")
    check_settings(1.0, positive, tol, max_steps)
    if not on_host(X, y, sample_weight):
        raise InputError("X: found traced or accelerator data, expected concrete arrays in host memory")
    jax_out = host.is_jax(X, y, sample_weight)
    X = X if scipy.sparse.issparse(X) else np.asarray(X)
    y = np.asarray(y)
    weight = None if sample_weight is None else np.asarray(sample_weight)
    data = host.prepare(X, y, weight, fit_intercept)
    if not data.single:
        raise InputError(f"y: found shape {y.shape}, expected a vector")
    X = scipy.sparse.csr_array(X) if scipy.sparse.issparse(X) else X
    folds = _folds(cv, X, y)
    grids = np.stack([np.sort(grid(data, alphas, n_alphas, eps, float(r), positive))[::-1] for r in ratios])
    n, p = data.design.shape
    batched = n >= 2 * p and p <= 1024 and not scipy.sparse.issparse(X)
    settings = {"fit_intercept": fit_intercept, "positive": positive, "tol": tol, "max_steps": max_steps}
    run = _batched if batched else _one_by_one
    mse, worst = run(X, y, weight, folds, grids, ratios, settings)
    mean = mse.mean(axis=2) if weight is None else np.average(mse, axis=2, weights=[weight[t].sum() for _, t in folds])
    i, j = np.unravel_index(np.argmin(mean), mean.shape)
    chosen = {"l1_ratio": float(ratios[i]), "sample_weight": weight}
    best = lasso(X, y, float(grids[i, j]), **chosen, **settings)
    fold_gap = Certificate(
        "largest duality gap of any fold and alpha, relative to tol |y|^2 / n and rounding",
        np.asarray(worst),
        np.asarray(1.0),
        "exact",
        host.SOURCE,
    )
    value = LassoCVFit(best.value, grids, ratios, mse)
    certificates = {**best.certificates, "fold_duality_gap": fold_gap}
    answer = Solution(value, certificates, best.status, best.steps, best.stats)
    return host.give_back(answer, jax_out)


def _folds(cv: Any, X: Any, y: np.ndarray) -> Folds:
    try:
        splitter: Any = check_cv(cv)  # takes lists of index pairs too
        splits: Iterable[Any] = splitter.split(X, y)
        folds = [(np.asarray(a), np.asarray(b)) for a, b in splits]
    except (TypeError, ValueError) as error:
        expected = "fewer folds than rows, a splitter or index pairs"
        raise InputError(f"cv: found {cv!r} for n_samples={len(y)}, expected {expected}") from error
    if not folds or any(len(a) == 0 or len(b) == 0 for a, b in folds):
        raise InputError("cv: found an empty fold, expected rows to train and to test on in each")
    return folds


def _one_by_one(
    X: Any, y: np.ndarray, weight: Any, folds: Folds, grids: np.ndarray, ratios: np.ndarray, settings: dict[str, Any]
) -> tuple[np.ndarray, float]:
    mse, worst = np.empty((*grids.shape, len(folds))), 0.0
    for f, (train, test) in enumerate(folds):
        w = None if weight is None else weight[train]
        for i, ratio in enumerate(ratios):
            path = lasso_path(X[train], y[train], grids[i], l1_ratio=float(ratio), sample_weight=w, **settings)
            gap = path.certificates["duality_gap"]
            worst = max(worst, _relative(gap.measured, gap.bound))
            mse[i, :, f] = _errors(path.value.predict(X[test]), y[test], None if weight is None else weight[test])
    return mse, worst


def _batched(
    X: np.ndarray,
    y: np.ndarray,
    weight: Any,
    folds: Folds,
    grids: np.ndarray,
    ratios: np.ndarray,
    settings: dict[str, Any],
) -> tuple[np.ndarray, float]:
    """All folds at once: the moments of the training rows are those of all rows less those of the rows left out."""
    centre, positive, tol = settings["fit_intercept"], settings["positive"], settings["tol"]
    n, p = X.shape
    s = np.ones(n) if weight is None else weight.astype(np.float64)
    s = s / s.mean()
    root = None if weight is None else s
    data = host.prepare(X, y, root, centre)
    assert isinstance(data.design, DenseDesign)
    design, target, scale = data.design, data.targets[0], float(data.scale[0])
    total = design.gram(), design.correlate(target), float(target @ target)
    r = np.sqrt(s)
    K = coordinate.bucket(p)
    G, c, yy = np.zeros((len(folds), K, K)), np.zeros((len(folds), K)), np.zeros(len(folds))
    means, offsets, strength = np.zeros((len(folds), p)), np.zeros(len(folds)), np.zeros(len(folds))
    for f, (train, _) in enumerate(folds):
        out, mass = np.setdiff1d(np.arange(n), train), float(s[train].sum())
        if len(out) + len(train) != n or mass == 0:  # rows drawn twice, or none that counts
            return _one_by_one(X, y, weight, folds, grids, ratios, settings)
        rows, t = design.part(out), target[out]
        x_sum, y_sum = (-(r[out] @ rows), -float(r[out] @ t)) if centre else (np.zeros(p), 0.0)  # all rows sum to zero
        G[f, :p, :p] = total[0] - rows.T @ rows - np.outer(x_sum, x_sum) / mass
        c[f, :p] = total[1] - rows.T @ t - x_sum * y_sum / mass
        yy[f] = max(total[2] - float(t @ t) - y_sum**2 / mass, 0.0)
        means[f], offsets[f], strength[f] = x_sum / mass, y_sum / mass, mass
        constant = np.diagonal(G[f])[:p] <= 64 * 2.0**-52 * np.diagonal(total[0])  # on the training rows
        G[f, :p][constant], G[f, :, :p][:, constant], c[f, :p][constant] = 0, 0, 0
    mse, worst = np.empty((*grids.shape, len(folds))), 0.0
    for i, ratio in enumerate(ratios):
        lam = np.outer(strength, grids[i] * ratio) / design.scale / scale
        mu = np.outer(strength, grids[i] * (1 - ratio)) / design.scale**2
        with jax.enable_x64(True):
            goal = (0.5 * tol * yy, np.bool_(positive), np.int64(30))
            W = np.array(coordinate.gram_paths(G, c, yy, lam, mu, *goal))[:, :, :p]
        for f, (_, test) in enumerate(folds):
            problem = Gram(G[f, :p, :p], c[f, :p], float(yy[f]))
            for a in range(grids.shape[1]):
                problem.w = W[f, a]
                end = solve(problem, Penalty(lam[f, a], mu[f, a], positive), tol * problem.yy, settings["max_steps"])
                W[f, a] = end.w
                worst = max(worst, _relative(end.gap.gap, tol * problem.yy + end.rounding))
            coef = W[f] * (scale / design.scale)
            b = np.zeros(len(coef))
            if design.mean is not None:
                b = data.mean[0] + scale * offsets[f] - coef @ (design.scale * (design.mean + means[f]))
            mse[i, :, f] = _errors(coef @ X[test].T + b[:, None], y[test], None if weight is None else weight[test])
    return mse, worst


def _errors(predicted: np.ndarray, y: np.ndarray, weight: Any) -> np.ndarray:
    if weight is not None and not weight.any():
        weight = None
    return np.average((predicted - y) ** 2, axis=1, weights=weight)


def _relative(gap: Any, bound: Any) -> float:
    gap, bound = np.maximum(gap, 0), np.asarray(bound)
    return float(np.max(np.where(gap > 0, gap / np.where(bound > 0, bound, np.finfo(float).tiny), 0)))
