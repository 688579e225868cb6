"""The hat matrix, leverages, deletion effects and effective degrees of freedom of least squares and ridge.

H = X(XᵀX + αI)⁻¹Xᵀ (plus 11ᵀ/n with an intercept) maps y to the fitted values. All follows from one factorisation.
Source: Cook & Weisberg (1982), §2.1-2.2; Hastie, Tibshirani & Friedman, eq. 3.50.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corollary.core.certificate import Certificate
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linear import _spectrum
from corollary.linear._design import Rows, design
from corollary.linear._leave_one_out import loo_certificates, loo_parts
from corollary.linear._ridge import penalties, shaped

Numbers = Float[Array | np.ndarray, "..."] | np.floating | float


class Deletion(eqx.Module):
    """Row i: the fit without row i. `coef` (n, p) or (n, p, k); `intercept` (n,) or (n, k)."""

    coef: Numbers
    intercept: Numbers


@follows_input
def hat_matrix(X: Any, alpha: Any = 0.0, *, fit_intercept: bool = True) -> Solution:
    """The matrix H with ŷ = H y, n×n: for small n; `leverages` gives its diagonal for large n. O(n² p).

    Parameters
    ----------
    X : (n, p)
    alpha
        Ridge penalty, one number; 0 for least squares, where H is the orthogonal projection onto the columns.
    fit_intercept
        Project onto the constant too.

    Returns
    -------
    Solution
        ``value`` is H. Certificate ``trace`` (exact): |tr H − Σ λ/(λ + α)| within its rounding.

    Raises
    ------
    InputError
        For bad shapes, NaN or infinity, a negative alpha.

    References
    ----------
    Hoaglin & Welsch (1978), *The hat matrix in regression and ANOVA*.

    Examples
    --------
    >>> import numpy as np
    >>> H = hat_matrix(np.array([[0.0], [1.0], [2.0]])).value
    >>> np.round(np.diag(H), 6).tolist()
    [0.833333, 0.333333, 0.833333]
    """
    rows, spectrum, _, flat, _, leverage = loo_parts(X, None, alpha, None, fit_intercept, "svd")
    xp = rows.xp
    weight = spectrum.filter(flat)[:, 0]
    if spectrum.left is not None:
        square = (spectrum.left * (spectrum.values * weight)) @ spectrum.left.T
    else:
        z = (rows.matrix() if isinstance(rows, Rows) else rows.X) @ spectrum.right
        square = (z * weight) @ z.T
    square = square + (1.0 / rows.n if fit_intercept else 0.0)
    dof = xp.sum(spectrum.values * weight) + int(fit_intercept)
    lost = loo_certificates(rows, spectrum, flat, leverage)["leverage_sum"]
    certificates = {
        "trace": Certificate(
            "|tr H − Σ λ/(λ + α)| ≤ 1e-4 and 16 times the factor's rounding (in units of that)",
            xp.maximum(lost.measured, xp.abs(xp.trace(square) - dof) * 1.6e5),
            16.0,
            "exact",
            "Hastie, Tibshirani & Friedman, eq. 3.50",
        )
    }
    return Solution(square.astype(rows.dtype), certificates, stats={"effective_dof": dof, "rank": spectrum.rank})


@follows_input
def leverages(
    X: Any, alpha: Any = 0.0, *, sample_weight: Any = None, fit_intercept: bool = True, solver: str = "auto"
) -> Solution:
    """Leverages h_i = H_ii: how far each row pulls its own fitted value. O(n p min(n, p)), nothing n×n.

    Parameters
    ----------
    X : (n, p)
        NumPy, SciPy sparse or JAX.
    alpha
        Ridge penalty: a number, or a path (m,).
    sample_weight : (n,), optional
    fit_intercept, solver
        See `ridge`.

    Returns
    -------
    Solution
        ``value`` is h, of shape (n,) or (m, n): between 1/n (0 without intercept) and 1, their sum the effective
        degrees of freedom. Certificates ``leverage_sum``, ``rounding`` as in `leave_one_out`.

    Raises
    ------
    InputError
        As `ridge`.

    References
    ----------
    Cook & Weisberg (1982), §2.1.

    Examples
    --------
    >>> import numpy as np
    >>> np.round(leverages(np.array([[0.0], [1.0], [2.0]])).value, 6).tolist()
    [0.833333, 0.333333, 0.833333]
    """
    rows, spectrum, alpha, flat, _, leverage = loo_parts(X, None, alpha, sample_weight, fit_intercept, solver)
    certificates = loo_certificates(rows, spectrum, flat, leverage)
    return Solution(
        shaped(rows, alpha, leverage), certificates, stats={"solver": spectrum.route, "reason": spectrum.reason}
    )


@follows_input
def deletion_effects(
    X: Any, y: Any, alpha: Any = 0.0, *, sample_weight: Any = None, fit_intercept: bool = True, solver: str = "auto"
) -> Solution:
    """For every row, the coefficients and intercept without it: β − (X̃ᵀX̃ + αI)⁻¹ x̃_i w_i e_i/(1 − h_i).

    Use it to see which rows carry the fit. O(n p min(n, p)), and n·p numbers out.

    Parameters
    ----------
    X : (n, p)
    y : (n,) or (n, k)
    alpha
        One number; 0 for least squares.
    sample_weight, fit_intercept, solver
        See `ridge`. A row with h_i = 1 has no such formula: its effect is the limit's, and ``rounding`` fails.

    Returns
    -------
    Solution
        ``value`` is a `Deletion`. Certificates as in `leave_one_out`.

    Raises
    ------
    InputError
        As `ridge`.

    References
    ----------
    Cook & Weisberg (1982), eq. 2.2.1 and A.2.1 (Sherman-Morrison-Woodbury).

    Examples
    --------
    >>> import numpy as np
    >>> out = deletion_effects(np.array([[0.0], [1.0], [2.0]]), np.array([0.0, 1.0, 5.0])).value
    >>> np.round(out.coef[:, 0], 12).tolist(), np.round(out.intercept + 1, 12).tolist()
    ([4.0, 2.5, 1.0], [-2.0, 1.0, 1.0])
    """
    rows, spectrum, alpha, flat, residual, leverage = loo_parts(X, y, alpha, sample_weight, fit_intercept, solver)
    xp = rows.xp
    fit = _spectrum.solve(rows, spectrum, flat)
    weight = spectrum.filter(flat[:1])[:, 0]
    matrix = rows.matrix() if isinstance(rows, Rows) else rows.X
    basis = (
        spectrum.right if spectrum.right is not None else rows.adjoint(spectrum.left * _spectrum.inverse_root(spectrum))
    )
    influence = (matrix @ basis * weight) @ basis.T  # rows √w_i (X̃ᵀX̃ + α)⁻¹ x̃_i
    moved = rows.root_column * residual * rows.y_scale  # √w_i e_i/(1 − h_i)
    coef = fit.coef[None] - influence[:, :, None] * moved[:, None, :]
    start = xp.tile(rows.y_mean, fit.coef.shape[1] // rows.k) - rows.x_mean @ fit.coef
    shift = rows.root_column / rows.total - (influence @ rows.x_mean)[:, None]
    intercept = (start - moved * shift) if fit_intercept else 0.0 * moved
    coef, intercept = coef * (rows.scale / rows.y_scale), intercept / rows.y_scale
    value = Deletion(shaped(rows, alpha, coef), shaped(rows, alpha, intercept))
    return Solution(value, loo_certificates(rows, spectrum, flat, leverage), stats={"solver": spectrum.route})


@follows_input
def effective_dof(X: Any, alpha: Any = 0.0, *, fit_intercept: bool = True, solver: str = "auto") -> Solution:
    """Effective degrees of freedom tr H = Σ λ/(λ + α), plus one with an intercept. O(n p min(n, p)) for a whole path.

    Parameters
    ----------
    X : (n, p)
    alpha
        A number, or a path (m,). At 0 the rank of X; it falls strictly as alpha grows.
    fit_intercept
        Centre the columns and count the constant.
    solver
        See `ridge`.

    Returns
    -------
    Solution
        ``value`` of shape () or (m,). Certificate ``rounding`` (exact, by Weyl): Σ α E/(λ + α)² for an error E of the
        factorised matrix, relative to the answer.

    Raises
    ------
    InputError
        As `ridge`.

    References
    ----------
    Hastie, Tibshirani & Friedman, eq. 3.50; Efron (2004) for Σ Cov(ŷ_i, y_i)/σ².

    Examples
    --------
    >>> import numpy as np
    >>> float(effective_dof(np.eye(3), 1.0, fit_intercept=False).value)
    1.5
    """

    rows = design(X, None, None, fit_intercept)
    alpha, flat, _ = penalties(rows, alpha)
    xp = rows.xp
    eps = float(jnp.finfo(rows.dtype).eps)
    spectrum = _spectrum.decompose(rows, flat, solver, budget=eps**0.7)
    flat = flat * rows.scale**2
    weight = spectrum.filter(flat)
    counted = xp.where(flat == 0, (weight > 0).astype(weight.dtype), spectrum.values[:, None] * weight)
    dof = xp.sum(counted, axis=0) + int(fit_intercept)
    if "Gram" in str(spectrum.route):
        error = spectrum.error
    else:  # an error δ of σ is one of 2σδ + δ² of λ
        work = float(jnp.finfo(weight.dtype).eps)
        delta = 8 * work * min(rows.n, rows.p) ** 0.5 * xp.sqrt(xp.max(spectrum.values, initial=0.0))
        error = (2 * xp.sqrt(spectrum.values) * delta + delta**2)[:, None]
    moved = xp.max(xp.sum(flat * error * weight**2, axis=0) / xp.maximum(dof, 1.0))
    bound = Certificate(
        "|dof − exact| ≤ Σ α E/(λ + α)² ≤ √eps · dof",
        moved,
        max(eps, 1e-16) ** 0.5,
        "exact",
        "Weyl; Golub & Van Loan, thm 8.1.5",
    )
    stats = {"rank": spectrum.rank, "solver": spectrum.route, "reason": spectrum.reason}
    return Solution(shaped(rows, alpha, dof), {"rounding": bound}, stats=stats)
