"""Leave-one-out in closed form, leverages and the hat matrix: what each row does to the fit, from one factorisation.

The residual of row i under the fit without it is e_i/(1 − h_i), with h the diagonal of H = X(XᵀX + αI)⁻¹Xᵀ: exact for
least squares and for ridge, intercept and weights included. Wide data use (K + α)⁻¹y / diag((K + α)⁻¹), where nothing
cancels. Cost O(n p min(n, p)) once, then O(n p) per alpha.
Source: Allen (1974), PRESS; Cook & Weisberg (1982), §2.2 and A.2;
Rifkin & Lippert, *Notes on Regularized Least Squares* (2007).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float

from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linear import _spectrum
from corollary.linear._design import Rows, Whole, design
from corollary.linear._ridge import RidgeFit, penalties, ridge, ridge_certificates, ridge_fit, shaped

Numbers = Float[Array | np.ndarray, "..."] | np.floating | float
NEAR_ONE = 1e-8  # 1 − h below which a row is refitted rather than trusted to the formula (on the host)


class LeaveOneOut(eqx.Module):
    """Leave-one-out at every alpha; a path of alphas adds a first axis.

    Attributes
    ----------
    residuals
        y_i − ŷ_i⁽⁻ⁱ⁾, of shape (n,) or (n, k).
    mse
        Their mean square, weighted by the sample weights.
    leverages
        h_i, of the shape of `residuals`.
    fit
        The full fit, a `RidgeFit`.
    """

    residuals: Numbers
    mse: Numbers
    leverages: Numbers
    fit: RidgeFit


@follows_input
def leave_one_out(
    X: Any, y: Any, alpha: Any = 0.0, *, sample_weight: Any = None, fit_intercept: bool = True, solver: str = "auto"
) -> Solution:
    """Leave-one-out residuals of least squares (α = 0) or ridge, equal to n refits, for every alpha of a path.

    Use it to choose alpha, or to see outliers; no random splits. O(n p min(n, p)) once and O(n p) per alpha.

    Parameters
    ----------
    X : (n, p)
        NumPy, SciPy sparse or JAX.
    y : (n,) or (n, k)
    alpha
        A number, a path (m,), or one per target (m, k); see `ridge`.
    sample_weight : (n,), optional
    fit_intercept
        Refit the intercept too, each time.
    solver
        See `ridge`.

    Returns
    -------
    Solution
        ``value`` is a `LeaveOneOut`. Certificates: ``leverage_sum`` (exact: Σh_i equals the effective degrees of
        freedom, two ways), ``rounding`` (monitor: the formula's amplified rounding, about eps·κ/(1 − max h), is below
        eps^¼) and those of `ridge`.
        A row that fixes a coefficient alone (h_i = 1) is refitted without it, by minimum norm.

    Raises
    ------
    InputError
        As `ridge`; also for fewer than two rows.

    References
    ----------
    Allen (1974); Cook & Weisberg (1982), eq. 2.2.8; Rifkin & Lippert (2007), §4.

    Examples
    --------
    >>> import numpy as np
    >>> loo = leave_one_out(np.array([[0.0], [1.0], [2.0]]), np.array([0.0, 1.0, 5.0]))
    >>> np.round(loo.value.residuals, 12).tolist()
    [3.0, -1.5, 3.0]
    """
    rows, spectrum, alpha, flat, residual, leverage = loo_parts(X, y, alpha, sample_weight, fit_intercept, solver)
    xp = rows.xp
    fit = _spectrum.solve(rows, spectrum, flat)
    weights = xp.ones(rows.n, residual.dtype) if rows.weights is None else rows.weights
    mse = weights @ residual**2 / rows.total
    value = LeaveOneOut(
        shaped(rows, alpha, residual),
        shaped(rows, alpha, mse),
        shaped(rows, alpha, leverage),
        ridge_fit(rows, spectrum, fit, alpha, flat),
    )
    certificates = {**loo_certificates(rows, spectrum, flat, leverage), **ridge_certificates(rows, fit, flat)}
    stats = {"solver": spectrum.route, "reason": spectrum.reason, "refinements": fit.refinements}
    return Solution(value, certificates, stats=stats)


def loo_parts(X: Any, y: Any, alpha: Any, sample_weight: Any, fit_intercept: bool, solver: str) -> Any:
    """The design, its spectrum, and leave-one-out residuals and leverages in columns (alpha, target)."""
    rows = design(X, y, sample_weight, fit_intercept)
    if rows.n < 2:
        raise InputError("X: found one row (n_samples=1), expected at least two to leave one out")
    alpha, flat, _ = penalties(rows, alpha)
    budget = float(np.finfo(rows.dtype).eps) ** 0.7  # 1e-11 in float64
    spectrum = _spectrum.decompose(rows, flat, solver, budget)
    flat = flat * rows.scale**2
    xp = rows.xp
    shared = alpha.ndim < 2 and rows.k > 1
    distinct = flat[:: rows.k] if shared else flat
    scaled, complement = (_tall if spectrum.left is None else _wide)(rows, spectrum, flat, distinct)
    if shared:
        complement = xp.repeat(complement, rows.k, axis=1)
    root = rows.root_column
    leverage = 1.0 - (complement if spectrum.left is None else complement * _share(spectrum, flat, xp))
    residual = scaled / xp.where(complement > 0, complement, xp.finfo(scaled.dtype).eps) / xp.where(root > 0, root, 1.0)
    residual = residual / rows.y_scale
    if isinstance(rows, Rows):
        _refit(rows, X, y, alpha, sample_weight, residual, complement, spectrum, flat)
    return rows, spectrum, alpha, flat, residual, leverage


def loo_certificates(rows: Rows | Whole, spectrum: Any, flat: Any, leverage: Any) -> dict[str, Certificate]:
    """Σh against the spectrum's trace, and the rounding that 1/(1 − h) amplifies."""
    xp, eps = rows.xp, float(jnp.finfo(np.float64 if rows.xp is np else rows.dtype).eps)
    dof = xp.sum(spectrum.values[:, None] * spectrum.filter(flat), axis=0) + int(rows.fit_intercept)
    kept = xp.where(spectrum.values[:, None] + flat > spectrum.cutoff, spectrum.values[:, None] + flat, xp.inf)
    low, top = xp.min(kept, axis=0, initial=xp.inf), xp.max(spectrum.values, initial=0.0)
    # The Gram route errs by error/(λ + α), the others by eps·κ.
    lost = eps * xp.sqrt(top / low) + (
        spectrum.error / low if np.ndim(spectrum.error) or spectrum.error < np.inf else 0.0
    )
    lost = lost + eps * rows.n**0.5
    measured = xp.max(abs(xp.sum(leverage, axis=0) - dof) / (1 + dof) / lost)
    # Tall: 1 − h is a difference, whose rounding h → 1 amplifies (rows at 1 were refitted). Wide: a sum of squares.
    left = 1.0 - leverage if spectrum.left is None else xp.ones_like(leverage)
    amplified = xp.max(lost / xp.min(xp.where(left > NEAR_ONE, left, 1.0), axis=0))
    return {
        "leverage_sum": Certificate(
            "|Σ h_i − tr H| ≤ 16 · rounding of the factorisation (in units of it)",
            measured,
            16.0,
            "exact",
            "tr H = Σ λ/(λ + α); Hastie, Tibshirani & Friedman, eq. 3.50",
        ),
        "rounding": Certificate(
            "leave-one-out equals n refits: rounding of the factor / (1 − max h) ≤ eps^¼",
            amplified,
            float(jnp.finfo(rows.dtype).eps) ** 0.25,
            "monitor",
            "first-order analysis of e_i/(1 − h_i)",
        ),
    }


def _tall(rows: Rows | Whole, spectrum: Any, flat: Any, distinct: Any) -> tuple[Any, Any]:
    """√w e and 1 − h from Z = X̃V: h = Z² (Λ + α)⁻¹ + w/Σw."""
    moment = rows.xp.tile(spectrum.moment, (1, flat.shape[0] // rows.k))
    sums, residual = rows.rotated(spectrum.right, spectrum.filter(distinct), spectrum.filter(flat) * moment)
    return residual, 1.0 - sums - _constant(rows)


def _wide(rows: Rows | Whole, spectrum: Any, flat: Any, distinct: Any) -> tuple[Any, Any]:
    """√w e and 1 − h, both over the same factor: U g Uᵀỹ and U² g with g = share/(λ + α), without subtraction."""
    xp, left = rows.xp, spectrum.left
    moment = xp.tile(left.T @ rows.Y, (1, flat.shape[0] // rows.k))
    values = xp.where(spectrum.values > spectrum.cutoff, spectrum.values, 0.0)[:, None]

    def inverse(alpha: Any) -> Any:
        total = values + alpha[None, :]
        low = xp.min(xp.where(total > 0, total, xp.inf), axis=0, initial=xp.inf)
        # α = 0: what lies in the kernel decides; where nothing does, the limit α → 0 is 1/λ.
        limit = xp.where(
            xp.any(total == 0, axis=0), xp.where(total == 0, 1.0, 0.0), low / xp.where(total > 0, total, 1.0)
        )
        return limit

    return left @ (inverse(flat) * moment), left**2 @ inverse(distinct)


def _share(spectrum: Any, flat: Any, xp: Any) -> Any:
    """What `_wide` divided by: 1 − h = share · U² g."""
    values = xp.where(spectrum.values > spectrum.cutoff, spectrum.values, 0.0)[:, None]
    total = values + flat[None, :]
    low = xp.min(xp.where(total > 0, total, xp.inf), axis=0, initial=xp.inf)
    return xp.where(xp.any(total == 0, axis=0), 1.0, flat / low)


def _constant(rows: Rows | Whole) -> Any:
    """w/Σw: the intercept's share of each leverage."""
    if not rows.fit_intercept:
        return 0.0
    return rows.root_column**2 / rows.total


def _refit(
    rows: Rows, X: Any, y: Any, alpha: Any, weight: Any, residual: Any, complement: Any, spectrum: Any, flat: Any
) -> None:
    """Rows that the formula cannot serve: of zero weight (the full fit is theirs), or with 1 − h ≈ 0 (a refit)."""
    if rows.weights is not None and (rows.weights == 0).any():
        out = rows.weights == 0
        fit = ridge_fit(rows, spectrum, _spectrum.solve(rows, spectrum, flat), *penalties(rows, alpha)[:1], flat)
        residual[out] = _columns(rows, alpha, rows.y_raw[out] / rows.y_scale, _take(X, out), fit)
    suspect = complement <= (NEAR_ONE if spectrum.left is None else 1e-13)
    for i in np.flatnonzero(suspect.any(axis=1)):
        keep = np.arange(rows.n) != i
        w = None if weight is None else np.asarray(weight)[keep]
        fit = ridge(
            _take(X, keep), np.asarray(y)[keep], alpha, sample_weight=w, fit_intercept=rows.fit_intercept, solver="svd"
        )
        one = _columns(rows, alpha, rows.y_raw[i : i + 1] / rows.y_scale, _take(X, ~keep), fit.value)
        residual[i] = np.where(suspect[i], one[0], residual[i])


def _columns(rows: Rows, alpha: Any, truth: np.ndarray, X: Any, fit: RidgeFit) -> np.ndarray:
    """Residuals of a few rows under a fit, in columns (alpha, target)."""
    coef = np.asarray(fit.coef, np.float64).reshape(-1, rows.p, rows.k)
    intercept = np.asarray(fit.intercept, np.float64).reshape(-1, 1, rows.k)
    X = X.toarray() if scipy.sparse.issparse(X) else np.asarray(X)
    out = truth[None] - (X.astype(np.float64) @ coef + intercept)
    return np.moveaxis(out, 0, 1).reshape(len(truth), -1)


def _take(X: Any, keep: np.ndarray) -> Any:
    return scipy.sparse.csr_array(X)[np.flatnonzero(keep)] if scipy.sparse.issparse(X) else np.asarray(X)[keep]
