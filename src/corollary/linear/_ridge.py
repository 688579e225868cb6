"""Ridge regression: min_β ‖y − Xβ − b‖² + α‖β‖², for one α or a whole path from one factorisation.

The filter σ/(σ² + α) on the singular values; in the normal form V(Λ + α)⁻¹VᵀX̃ᵀy, refined, or the dual X̃ᵀ(X̃X̃ᵀ + α)⁻¹y.
Ridge changes the solution (it is no preconditioner), and equals weight decay for plain gradient descent only.
Cost O(n p min(n, p)) once, then O(n p) per α. Source: Hoerl & Kennard (1970); Hastie, Tibshirani & Friedman, §3.4.1.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linear import _spectrum
from corollary.linear._design import Rows, Whole, design
from corollary.linear._ols import in_units, status

Numbers = Float[Array | np.ndarray, "..."] | np.floating | float


class RidgeFit(eqx.Module):
    """Ridge solutions; a path of m alphas adds a first axis.

    Attributes
    ----------
    coef, intercept
        Of shapes (p,) and (), or (p, k) and (k,) for k targets.
    alpha
        As given.
    rss
        Residual sum of squares, weighted.
    effective_dof
        tr X̃(X̃ᵀX̃ + α)⁻¹X̃ᵀ, plus one with an intercept.
    gcv
        Generalised cross-validation score (rss/n) / (1 − dof/n)².
    """

    coef: Any
    intercept: Any
    alpha: Any
    rss: Numbers
    effective_dof: Numbers
    gcv: Numbers

    def predict(self, X: Any) -> Any:
        """X β + b, the path's axis first."""
        path = min(np.ndim(self.alpha), 1)
        if np.ndim(self.coef) - path == 1:  # one target
            return (X @ self.coef.T).T + (self.intercept[:, None] if path else self.intercept)
        return X @ self.coef + (self.intercept[:, None, :] if path else self.intercept)


@follows_input
def ridge(
    X: Any,
    y: Any,
    alpha: Any = 1.0,
    *,
    sample_weight: Any = None,
    fit_intercept: bool = True,
    solver: str = "auto",
) -> Solution:
    """Ridge regression for one penalty, a path of them, or one per target.

    Use it where columns are nearly dependent or outnumber the rows. O(n p min(n, p)), and O(n p) per further alpha.

    Parameters
    ----------
    X : (n, p)
        NumPy, SciPy sparse or JAX. Neither copied nor densified on the host.
    y : (n,) or (n, k)
    alpha
        The penalty of ½‖r‖² + ½α‖β‖² (scikit-learn's; n·λ where the loss is a mean): a number; a vector, for a path;
        or a matrix (path, k), one per target. α = 0 gives the minimum-norm least-squares solution.
    sample_weight : (n,), optional
    fit_intercept
        Add an unpenalised constant, by centring.
    solver
        ``"normal"``, ``"svd"``, ``"dual"`` or ``"auto"``: the cheapest that keeps the accuracy.

    Returns
    -------
    Solution
        ``value`` is a `RidgeFit`. Certificates: ``gradient`` (exact: against its rounding) and ``duality_gap`` (exact:
        F(β) − F* ≤ ‖∇F(β)‖²/2α, relative to F(0)), the latter where every α > 0.

    Raises
    ------
    InputError
        For shapes that do not match, NaN or infinity, a negative alpha, an unknown solver.

    References
    ----------
    Hoerl & Kennard (1970); the gap: Boyd & Vandenberghe, *Convex Optimization*, §9.1.2 and §5.2.

    Examples
    --------
    >>> import numpy as np
    >>> path = ridge(np.eye(2), np.array([1.0, 2.0]), np.array([0.0, 1.0]), fit_intercept=False)
    >>> np.round(path.value.coef, 12).tolist(), bool(path.holds)
    ([[1.0, 2.0], [0.5, 1.0]], True)
    """
    rows = design(X, y, sample_weight, fit_intercept)
    alpha, flat, _ = penalties(rows, alpha)
    spectrum = _spectrum.decompose(rows, flat, solver)
    flat = flat * rows.scale**2
    fit = _spectrum.solve(rows, spectrum, flat)
    value = ridge_fit(rows, spectrum, fit, alpha, flat)
    certificates = ridge_certificates(rows, fit, flat)
    finite = rows.xp.isfinite(value.coef).all()
    stats = {"solver": spectrum.route, "reason": spectrum.reason, "refinements": fit.refinements}
    return Solution(value, certificates, status(certificates["gradient"].holds, finite), fit.refinements, stats)


def penalties(rows: Rows | Whole, alpha: Any, low: float = 0.0) -> tuple[Any, Any, int]:
    """`alpha` as an array, as one column per (alpha, target), and how many alphas."""
    xp, dtype = rows.xp, np.float64 if rows.xp is np else rows.dtype
    try:
        alpha = xp.asarray(alpha, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise InputError(f"alpha: found {alpha!r}, expected numbers >= {low:g}") from error
    if not isinstance(alpha, Tracer) and not (np.isfinite(alpha) & (np.asarray(alpha) >= low)).all():
        raise InputError(f"alpha: found {np.min(alpha)}, expected finite numbers >= {low:g}")
    if alpha.ndim > 2 or alpha.size == 0 or (alpha.ndim == 2 and alpha.shape[1] != rows.k):
        raise InputError(f"alpha: found shape {alpha.shape}, expected a number, (path,) or (path, {rows.k})")
    if alpha.ndim == 2:
        return alpha, alpha.reshape(-1), alpha.shape[0]
    return alpha, xp.repeat(alpha.reshape(-1), rows.k), alpha.size


def shaped(rows: Rows | Whole, alpha: Any, columns: Any) -> Any:
    """(..., q) with q = (alpha, target) to (alpha, ..., target), without the axes that the caller did not give."""
    xp = rows.xp
    out = columns.reshape(*columns.shape[:-1], -1, rows.k)
    out = xp.moveaxis(out, -2, 0)
    out = out[0] if alpha.ndim == 0 else out
    return (out[..., 0] if rows.one_target else out).astype(rows.dtype)


def ridge_fit(rows: Rows | Whole, spectrum: Any, fit: Any, alpha: Any, flat: Any) -> RidgeFit:
    """The solution in the caller's units and shapes."""
    xp = rows.xp
    coef, intercept = in_units(rows, fit.coef)
    weight = spectrum.filter(flat)
    dof = xp.sum(spectrum.values[:, None] * weight, axis=0) + int(rows.fit_intercept)
    rss = fit.rss * rows.y_scale**-2
    left = xp.maximum(1.0 - dof / rows.n, float(jnp.finfo(rows.dtype).eps))
    out = [shaped(rows, alpha, a) for a in (coef, intercept, rss, dof, rss / rows.n / left**2)]
    return RidgeFit(out[0], out[1], alpha.astype(rows.dtype), *out[2:])


def ridge_certificates(rows: Rows | Whole, fit: Any, flat: Any) -> dict[str, Certificate]:
    """The gradient against its rounding; the duality gap against what that rounding allows, relative to F(0)."""
    xp = rows.xp
    certificates = {
        "gradient": _spectrum.gradient_certificate(
            rows,
            fit,
            flat,
            "‖Xᵀr − αβ‖ ≤ rounding · (‖X‖(‖r‖ + ‖X‖‖β‖) + α‖β‖)",
            "stationarity; Hoerl & Kennard (1970)",
        )
    }
    if not isinstance(flat, Tracer) and (np.asarray(flat) > 0).all():
        size = xp.linalg.norm(fit.gradient, axis=0) + fit.slack
        start = xp.tile(xp.sum(rows.Y**2, axis=0), flat.shape[0] // rows.k)  # 2 F(0)
        start = xp.where(start > 0, start, 1.0)
        allowed = 8 * float(jnp.finfo(rows.dtype).eps) * rows.p**0.5 * _spectrum.natural_scale(rows, fit, flat)
        # Of a path, the alpha that is worst relative to what rounding allows it.
        gap, bound = size**2 / flat / start, 2 * allowed**2 / flat / start
        worst = xp.argmax(xp.where(bound > 0, gap / xp.where(bound > 0, bound, 1.0), 0.0))
        certificates["duality_gap"] = Certificate(
            "(F(β) − F*)/F(0) ≤ ‖∇F(β)‖²/(2α F(0)), the duality gap at ν = r, ≤ what rounding of β allows",
            gap[worst],
            bound[worst],
            "exact",
            "Boyd & Vandenberghe, eq. 9.9, with strong convexity α",
        )
    return certificates
