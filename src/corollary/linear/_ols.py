"""Ordinary least squares: min_β ‖y − Xβ − b‖², with what statistics says about the answer.

Coefficients from the normal equations refined in float64 where conditioning allows, from QR and SVD where it does not;
minimum norm where X is rank-deficient. Cost O(n p²) once and O(n p) per refinement.
Source: Björck (1996), §2.8.2 and §6.6; Gauss-Markov: Seber & Lee, *Linear Regression Analysis*, theorem 3.2.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array, Float, Int

from corollary.core.certificate import Assumption, Certificate
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.linear import _spectrum
from corollary.linear._design import Rows, Whole, design

Numbers = Float[Array | np.ndarray, "..."] | np.floating | float


class OLSFit(eqx.Module):
    """What least squares found; k targets add a last axis to all but `covariance` (k×p×p) and `unscaled_covariance`.

    Attributes
    ----------
    coef, intercept
        Of shapes (p,) and (), or (p, k) and (k,).
    sigma2
        Residual variance ‖r‖²/(n − rank), weighted; NaN-free: zero where no degree of freedom is left.
    unscaled_covariance
        (X̃ᵀX̃)⁺ of the centred, weighted design; σ² times it is `covariance`.
    stderr, intercept_stderr
        Standard errors of coefficients and intercept.
    r2, rss, tss, loss
        R², residual and total sum of squares, mean loss rss/n.
    gradient
        (2/n) Xᵀ(Xβ + b − y), the gradient of the mean loss at the fit: zero up to rounding.
    rank, dof_residual
        Rank of the centred design; n − rank − (1 with an intercept).
    """

    coef: Numbers
    intercept: Numbers
    sigma2: Numbers | None
    unscaled_covariance: Numbers | None
    stderr: Numbers | None
    intercept_stderr: Numbers | None
    r2: Numbers
    rss: Numbers
    tss: Numbers
    loss: Numbers
    gradient: Numbers
    log_likelihood: Numbers
    rank: Int[Array | np.ndarray, ""] | np.integer | int
    dof_residual: Int[Array | np.ndarray, ""] | np.integer | int

    @property
    def covariance(self) -> Any:
        """σ²(X̃ᵀX̃)⁺, of shape (p, p), or (k, p, p) for k targets."""
        if self.unscaled_covariance is None or self.sigma2 is None:
            return None
        xp = np if isinstance(self.unscaled_covariance, np.ndarray) else jnp
        return xp.asarray(self.sigma2)[..., None, None] * self.unscaled_covariance

    @property
    def tvalues(self) -> Any:
        """Coefficients over their standard errors."""
        return None if self.stderr is None else self.coef / self.stderr

    @property
    def pvalues(self) -> np.ndarray:
        """Two-sided p-values of `tvalues` by Student's t."""
        return 2 * scipy.stats.t.sf(np.abs(np.asarray(self.tvalues)), np.asarray(self.dof_residual))

    def predict(self, X: Any) -> Any:
        """X β + b."""
        return X @ self.coef + self.intercept


@follows_input
def ols(
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    fit_intercept: bool = True,
    solver: str = "auto",
    covariance: bool = True,
) -> Solution:
    """Ordinary (or weighted) least squares with its covariance, standard errors and R².

    Use it where the rows outnumber the columns and no penalty is wanted; where columns are nearly dependent it says so,
    and `ridge` helps. O(n p²), one pass over X for the factor and one or two for refinement.

    Parameters
    ----------
    X : (n, p)
        NumPy, SciPy sparse or JAX. Neither copied nor densified on the host.
    y : (n,) or (n, k)
    sample_weight : (n,), optional
        Weights w ≥ 0 of the squared residuals (inverse variances).
    fit_intercept
        Add an unpenalised constant, by centring.
    solver
        ``"normal"`` (Gram matrix and refinement), ``"svd"`` (QR, then SVD), ``"dual"`` (n×n) or ``"auto"``.
    covariance
        False skips what needs (XᵀX)⁻¹ accurately, which lets float32 data use a float32 Gram matrix.

    Returns
    -------
    Solution
        ``value`` is an `OLSFit`. Certificates: ``normal_equations`` (exact: ‖Xᵀr‖ against its rounding) and
        ``backward_error`` (exact: a relative perturbation of X for which the answer is the exact fit).
        Stats: the solver, why, κ, refinements.

    Raises
    ------
    InputError
        For shapes that do not match, NaN or infinity, negative weights, an unknown solver.

    References
    ----------
    Björck (1996) §2.8.2, §6.6; backward error: Waldén, Karlson & Sun (1995), estimated as Gratton et al. (2012), thm 2.

    Examples
    --------
    >>> import numpy as np
    >>> fit = ols(np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0]))
    >>> np.round(fit.value.coef, 12), round(float(fit.value.intercept), 12), bool(fit.holds)
    (array([2.]), 1.0, True)
    """
    rows = design(X, y, sample_weight, fit_intercept)
    xp = rows.xp
    alpha = xp.zeros(rows.k, np.float64 if xp is np else rows.dtype)
    spectrum = _spectrum.decompose(rows, alpha, solver, budget=1e-9 if covariance else 1e-2)
    fit = _spectrum.solve(rows, spectrum, alpha)
    value = _statistics(rows, spectrum, fit, covariance)
    gradient = _spectrum.gradient_certificate(
        rows, fit, alpha, "‖Xᵀr‖ ≤ rounding · ‖X‖(‖r‖ + ‖X‖‖β‖)", "normal equations; Björck (1996), eq. 1.1.15"
    )
    certificates = {"normal_equations": gradient, "backward_error": _backward_error(rows, spectrum, fit, alpha)}
    finite = xp.isfinite(value.coef).all()
    low = xp.where(spectrum.values > spectrum.cutoff, spectrum.values, xp.inf).min(initial=xp.inf)
    stats = {
        "solver": spectrum.route,
        "reason": spectrum.reason,
        "condition_number": xp.sqrt(spectrum.values.max(initial=0.0) / low),
        "refinements": fit.refinements,
    }
    return Solution(value, certificates, status(gradient.holds, finite), fit.refinements, stats)


def status(holds: Any, finite: Any) -> Any:
    """Converged where the gradient is within its rounding, else short of precision."""
    xp = np if isinstance(holds, np.bool_ | bool) else jnp
    code = xp.where(holds, Status.CONVERGED, Status.PRECISION)
    return xp.where(finite, code, Status.NON_FINITE).astype(np.int32)


def in_units(rows: Rows | Whole, coef: Any) -> tuple[Any, Any]:
    """Coefficients (p, q) and intercepts (q,) in the caller's units and precision, from the design's scaled ones."""
    xp = rows.xp
    if rows.fit_intercept:
        intercept = (xp.tile(rows.y_mean, coef.shape[1] // rows.k) - rows.x_mean @ coef) / rows.y_scale
    else:
        intercept = xp.zeros(coef.shape[1], coef.dtype)
    return (coef * (rows.scale / rows.y_scale)).astype(rows.dtype), intercept.astype(rows.dtype)


def _statistics(rows: Rows | Whole, spectrum: Any, fit: Any, covariance: bool) -> OLSFit:
    xp, n = rows.xp, rows.n
    coef, intercept = in_units(rows, fit.coef)
    observed = n if rows.weights is None else (rows.weights > 0).sum()
    dof = xp.maximum(observed - spectrum.rank - int(rows.fit_intercept), 0)
    unit = rows.y_scale**-2  # scaled sums of squares to the caller's
    tss = xp.sum(rows.Y**2, axis=0)
    spread = xp.where(tss > 0, tss, 1.0)
    r2 = xp.where(tss > 0, 1.0 - fit.rss / spread, xp.where(fit.rss > 0, 0.0, 1.0))
    sigma2 = unscaled = stderr = intercept_stderr = None
    if covariance:
        if spectrum.right is not None:
            right = spectrum.right
        else:
            left = spectrum.left * _spectrum.inverse_root(spectrum)
            right = rows.adjoint(left)
        half = right * _spectrum.inverse_root(spectrum)
        inverse = half @ half.T
        sigma2 = xp.where(dof > 0, fit.rss / xp.maximum(dof, 1).astype(fit.rss.dtype), 0.0)
        stderr = xp.sqrt(xp.sum(half**2, axis=1)[:, None] * sigma2) * (rows.scale / rows.y_scale)
        middle = 1 / rows.total + xp.sum((rows.x_mean @ half) ** 2)
        intercept_stderr = xp.sqrt(middle * sigma2) / rows.y_scale * int(rows.fit_intercept)
        unscaled, sigma2 = inverse * rows.scale**2, sigma2 * unit
    count = observed if isinstance(observed, int) else observed.astype(fit.rss.dtype)
    variance = xp.where(fit.rss > 0, fit.rss * unit, xp.finfo(rows.dtype).tiny) / count
    logs = 0.0 if rows.weights is None else xp.sum(xp.log(xp.where(rows.weights > 0, rows.weights, 1.0)))
    likelihood = -count / 2 * (xp.log(2 * np.pi * variance) + 1) + logs / 2
    one = rows.one_target

    def shaped(value: Any) -> Any:
        if value is None:
            return None
        value = value[..., 0] if one else value
        return value.astype(rows.dtype)

    return OLSFit(
        shaped(coef),
        shaped(intercept),
        shaped(sigma2),
        None if unscaled is None else unscaled.astype(rows.dtype),
        shaped(stderr),
        shaped(intercept_stderr),
        shaped(r2),
        shaped(fit.rss * unit),
        shaped(tss * unit),
        shaped(fit.rss * unit / n),
        shaped(-2 / n * fit.gradient / (rows.scale * rows.y_scale)),
        shaped(likelihood),
        spectrum.rank,
        dof,
    )


def _backward_error(rows: Rows | Whole, spectrum: Any, fit: Any, alpha: Any) -> Certificate:
    xp = rows.xp
    measured = xp.max(_spectrum.backward_error(rows, spectrum, fit, alpha))
    # Directions below the rank tolerance were dropped: that is a perturbation of its size.
    work = float(jnp.finfo(spectrum.values.dtype).eps)
    dropped = xp.where(spectrum.rank < spectrum.values.shape[0], max(rows.n, rows.p) * work, 0.0)
    return Certificate(
        "‖E‖/‖X‖ ≤ bound for some E with β the exact fit of X + E",
        measured,
        dropped + 8 * float(jnp.finfo(rows.dtype).eps) * rows.p**0.5,
        "exact",
        "Waldén, Karlson & Sun (1995); Gratton, Jiránek & Titley-Peloquin (2012), thm 2",
        assumptions=(Assumption("the factor used in the estimate is accurate to first order"),),
    )
