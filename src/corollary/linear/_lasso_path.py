"""Regularisation paths: the Lasso or elastic net on a whole grid of alphas, each point with its exact gap.

Where rows outnumber features twice, one Gram matrix and one compiled loop serve all alphas; else the working set,
its Gram matrix and the coefficients are carried from one alpha to the next. Cost: O(np) per alpha beside O(n k²) for
the k features that are ever active. Source: Friedman, Hastie and Tibshirani (2010), section 2.5.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import follows_input, on_host
from corollary.core.solution import Solution
from corollary.linear import _lasso_host as host
from corollary.linear import _lasso_traced as traced
from corollary.linear._lasso import LassoFit, check_settings, scalar


@follows_input
def lasso_path(
    X: Any,
    y: Any,
    alphas: Any = None,
    *,
    n_alphas: int = 100,
    eps: float = 1e-3,
    l1_ratio: Any = 1.0,
    sample_weight: Any = None,
    fit_intercept: bool = True,
    positive: bool = False,
    tol: Any = 1e-6,
    max_steps: int = 100,
) -> Solution:
    """All Lasso solutions on a grid of penalties, by warm starts.

    Use it to see how coefficients enter, or to choose alpha (`lasso_cv` does). O(np) per alpha, less where n ≥ 2p.

    Parameters
    ----------
    X : (n, p)
        NumPy, SciPy sparse (never densified) or JAX.
    y : (n,) or (n, k)
    alphas : (a,), optional
        Positive penalties, in any order. Left out: `n_alphas` of them from `alpha_max` down to ``eps · alpha_max``.
    n_alphas, eps
        Size and span of the default grid.
    l1_ratio, sample_weight, fit_intercept, positive, tol, max_steps
        As in `lasso`; for the default grid l1_ratio > 0.

    Returns
    -------
    Solution
        ``value`` is a `LassoFit` whose fields have the path as first axis: coef (a, p) or (a, p, k). The certificates
        ``duality_gap`` and ``kkt`` (exact) hold a number per alpha.

    Raises
    ------
    InputError
        As `lasso`; for alphas that are not positive.

    References
    ----------
    Friedman, Hastie & Tibshirani (2010), section 2.5.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.eye(2), np.array([4.0, 2.0])
    >>> path = lasso_path(X, y, [2.0, 1.0, 0.5], fit_intercept=False)
    >>> np.round(path.value.coef, 6).tolist()
    [[0.0, 0.0], [2.0, 0.0], [3.0, 1.0]]
    """
    check_settings(l1_ratio, positive, tol, max_steps)
    if not on_host(X, y, alphas, l1_ratio, sample_weight, tol):
        if alphas is None:
            validation.integer(1)("n_alphas", n_alphas)
            top = traced.alpha_max(X, y, l1_ratio, sample_weight, fit_intercept, positive)
            alphas = top * jax.numpy.asarray(np.logspace(0, np.log10(eps), n_alphas), top.dtype)
        problem = (l1_ratio, sample_weight, fit_intercept, positive, tol, 100 * max_steps, None)
        return jax.vmap(lambda a: traced.fit(X, y, a, *problem))(jax.numpy.asarray(alphas))
    jax_out = host.is_jax(X, y, alphas, sample_weight)
    l1_ratio = scalar("l1_ratio", l1_ratio, 1.0)
    data = host.prepare(X, y, sample_weight, fit_intercept)
    alphas = grid(data, alphas, n_alphas, eps, l1_ratio, positive)
    order = np.argsort(-alphas, kind="stable")
    penalties = [(float(a), l1_ratio) for a in alphas[order]]
    fits, note = host.fit(data, penalties, positive, float(tol), max_steps, None)
    given = np.argsort(order)
    fits = [[row[i] for i in given] for row in fits]
    coef = np.stack([np.stack([f.coef for f in row]) for row in fits], axis=2)
    intercept = np.array([[f.intercept for f in row] for row in fits], data.dtype).T
    if data.single:
        coef, intercept = coef[:, :, 0], intercept[:, 0]
    value = LassoFit(coef, intercept, alphas, np.asarray(l1_ratio))
    return host.give_back(host.solution(value, fits, data, note, True, False), jax_out)


@follows_input
def elastic_net_path(X: Any, y: Any, alphas: Any = None, l1_ratio: Any = 0.5, **settings: Any) -> Solution:
    """All elastic nets on a grid of penalties: `lasso_path` with a squared penalty beside the l1 norm.

    Parameters
    ----------
    X : (n, p)
    y : (n,) or (n, k)
    alphas : (a,), optional
    l1_ratio
        Share of the l1 norm, from 0 to 1.
    **settings
        Those of `lasso_path`.

    Returns
    -------
    Solution
        As of `lasso_path`.

    References
    ----------
    Zou & Hastie (2005); Friedman, Hastie & Tibshirani (2010).

    Examples
    --------
    >>> import numpy as np
    >>> path = elastic_net_path(np.eye(3), np.array([3.0, 2.0, 1.0]), n_alphas=5)
    >>> path.value.coef.shape, bool(path.holds.all())
    ((5, 3), True)
    """
    return lasso_path(X, y, alphas, l1_ratio=l1_ratio, **settings)


def grid(data: host.Data, alphas: Any, n_alphas: int, eps: float, l1_ratio: float, positive: bool) -> np.ndarray:
    """The given alphas, checked, or the default grid."""
    if alphas is not None:
        alphas = np.asarray(validation.vector("alphas", alphas, host=True)).astype(np.float64)
        if (alphas <= 0).any():
            raise InputError(f"alphas: found {alphas.min()}, expected numbers > 0")
        return alphas
    validation.integer(1)("n_alphas", n_alphas)
    validation.number(0, 1, open_low=True)("eps", eps)
    if l1_ratio == 0:
        raise InputError("alphas: found none with l1_ratio=0, expected a grid (no alpha makes all coefficients zero)")
    top = host.alpha_max_of(data, l1_ratio, positive)
    top = top if top > 0 else float(np.finfo(float).eps)  # a constant target: every alpha gives zero
    return top * np.logspace(0, np.log10(eps), n_alphas)
