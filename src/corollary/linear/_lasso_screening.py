"""Gap-safe screening: features that are provably zero at every Lasso optimum, from any primal guess and its duality
gap.

The dual optimum lies within √(2·gap) of any feasible dual point, so that |x_jᵀθ| + ‖x_j‖√(2·gap) < λ proves w*_j =
0. The test never errs (unlike the strong rule) and keeps ever fewer features as the gap falls. Cost O(np).
Source: Fercoq, Gramfort and Salmon (2015), theorem 2; Ndiaye et al. (2017).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import follows_input, on_host
from corollary.linear import _lasso_host as host
from corollary.linear._lasso import check_settings, scalar
from corollary.linear._lasso_duality import duality_gap, safe_to_discard


class Screening(eqx.Module):
    """What the test found.

    Attributes
    ----------
    keep : (p,)
        False where a feature is proven zero at every optimum.
    duality_gap
        Of the given coefficients, in the objective's units (loss 1/(2n)).
    """

    keep: Bool[Array | np.ndarray, " p"]
    duality_gap: Float[Array | np.ndarray, ""] | np.floating | float

    def plot(self, ax: Any = None) -> Any:
        """How many features are proven zero."""
        from corollary.core.draw import axes

        ax = axes(ax, title="gap-safe screening", xlabel="feature", ylabel="kept")
        ax.plot(np.asarray(self.keep), ".", markersize=3)
        return ax


@follows_input
def gap_safe_screening(
    X: Any,
    y: Any,
    coef: Any,
    alpha: Any,
    *,
    l1_ratio: Any = 1.0,
    sample_weight: Any = None,
    fit_intercept: bool = True,
    positive: bool = False,
) -> Screening:
    """Which features can be dropped without changing the Lasso (or elastic net) at `alpha`, proven from a guess
    `coef`.

    Use it to shrink a problem before a costly solve, or to certify a support. O(np). The data are read on the host.

    Parameters
    ----------
    X : (n, p)
        NumPy, SciPy sparse or concrete JAX.
    y : (n,)
    coef : (p,)
        Any coefficients: zeros, or those of a larger alpha. The closer to the optimum, the more is discarded.
    alpha, l1_ratio, sample_weight, fit_intercept, positive
        The problem, as in `lasso`; alpha · l1_ratio > 0 (else nothing can be discarded).

    Returns
    -------
    Screening

    Raises
    ------
    InputError
        As `lasso`; for negative coefficients where `positive`.

    References
    ----------
    Fercoq, Gramfort & Salmon (2015), theorem 2, with θ in units of the residual; the rounding widens the sphere.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.eye(3), np.array([3.0, 0.3, -0.1])
    >>> gap_safe_screening(X, y, np.array([2.4, 0.0, 0.0]), 0.2, fit_intercept=False).keep.tolist()
    [True, False, False]
    """
    check_settings(l1_ratio, positive, 0.0, 1)
    if not on_host(X, y, coef, alpha, l1_ratio, sample_weight):
        raise InputError("X: found traced or accelerator data, expected concrete arrays in host memory")
    alpha, l1_ratio = scalar("alpha", alpha), scalar("l1_ratio", l1_ratio, 1.0)
    jax_out = host.is_jax(X, y, coef, sample_weight)
    data = host.prepare(X, y, sample_weight, fit_intercept)
    coef = np.asarray(validation.vector("coef", coef, host=True))
    if not data.single or coef.shape != (data.design.shape[1],):
        raise InputError(f"coef: found shape {coef.shape}, expected ({data.design.shape[1]},) and a single target")
    if positive and (coef < 0).any():
        raise InputError("coef: found negative entries with positive=True, expected none")
    pen, w = data.penalty(alpha, l1_ratio, 0, positive), data.inner(coef, 0)
    design, t = data.design, data.targets[0]
    live = np.flatnonzero(w)
    r = t - design.combine(design.rows(live), live, w[live]) if len(live) else t
    corr, everywhere = design.correlate(r), np.arange(len(w))
    gap = duality_gap(float(r @ r), float(t @ r), corr, w, everywhere, pen.lam, pen.mu, positive)
    reach = np.linalg.norm(t) + np.sqrt(design.norm2[live]) @ np.abs(w[live])
    slack = float(16 * design.eps * reach**2)
    drop = safe_to_discard(corr, w, design.norm2, gap, pen.lam, pen.mu, positive, slack)
    return host.give_back(Screening(~drop, np.asarray(max(gap.gap, 0.0) * data.unit(0))), jax_out)
