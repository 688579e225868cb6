"""Two other ways to see ridge: as least squares on augmented data, and as the cure of a badly conditioned XᵀX.

[X; √α I_p] and [y; 0] have the ridge solution as their least-squares solution, with p artificial rows; all eigenvalues
σ² + α are positive for every α > 0. With a mean loss and λ‖β‖², α = nλ.
Source: Hoerl & Kennard (1970), §2; Marquardt (1970).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Solution

Numbers = Float[Array | np.ndarray, "..."] | np.floating | float


class Augmented(eqx.Module):
    """[X; √α I], [y; 0] and their least-squares solution, without intercept."""

    X: Float[Array | np.ndarray, "rows p"]
    y: Numbers
    coef: Numbers


class RidgeConditioning(eqx.Module):
    """Eigenvalues σ² + α of XᵀX + αI, ascending, and their ratio; a path of alphas adds a first axis."""

    eigenvalues: Numbers
    condition_number: Numbers


@follows_input
def ridge_augmentation(X: Any, y: Any, alpha: Any) -> Solution:
    """Ridge as least squares on p artificial rows √α e_jᵀ with target 0. O(n p²) by QR, κ not squared.

    Parameters
    ----------
    X : (n, p)
    y : (n,) or (n, k)
    alpha
        One number > 0 (n·λ for a mean loss).

    Returns
    -------
    Solution
        ``value`` is an `Augmented`. Certificate ``stationarity`` (exact): the ridge gradient at its solution.

    Raises
    ------
    InputError
        For shapes that do not match, NaN or infinity, alpha ≤ 0.

    References
    ----------
    Marquardt (1970); Golub & Van Loan, §6.1.4.

    Examples
    --------
    >>> import numpy as np
    >>> out = ridge_augmentation(np.eye(2), np.array([1.0, 2.0]), 1.0).value
    >>> out.X.shape, np.round(out.coef, 12).tolist()
    ((4, 2), [0.5, 1.0])
    """
    X, y, alpha = _inputs(X, y, alpha)
    p = X.shape[1]
    zeros = jnp.zeros((p, *y.shape[1:]), y.dtype)
    rows = jnp.concatenate([X, jnp.sqrt(alpha) * jnp.eye(p, dtype=X.dtype)])
    targets = jnp.concatenate([y, zeros])
    q, r = jnp.linalg.qr(rows)
    coef = jax.scipy.linalg.solve_triangular(r, q.T @ targets)
    gradient = X.T @ (y - X @ coef) - alpha * coef
    size = jnp.linalg.norm(X)
    scale = size * jnp.linalg.norm(y) + (size**2 + alpha) * jnp.linalg.norm(coef)
    measured = jnp.linalg.norm(gradient) / jnp.where(scale > 0, scale, 1.0)
    bound = 8 * float(jnp.finfo(X.dtype).eps) * float(sum(rows.shape)) ** 0.5
    claim = "‖Xᵀ(y − Xβ) − αβ‖ ≤ rounding · its natural scale"
    return Solution(
        Augmented(rows, targets, coef),
        {"stationarity": Certificate(claim, measured, bound, "exact", "Marquardt (1970)")},
    )


@follows_input
def ridge_conditioning(X: Any, alpha: Any) -> Solution:
    """Eigenvalues of XᵀX + αI and its condition number (σ_max² + α)/(σ_min² + α), from the singular values of X.

    Parameters
    ----------
    X : (n, p)
    alpha
        A number or a path (m,), ≥ 0. With α = 0 a rank-deficient X has an infinite condition number.

    Returns
    -------
    Solution
        ``value`` is a `RidgeConditioning`. Certificate ``bound`` (theorem): κ ≤ 1 + σ_max²/α, where α > 0.

    Raises
    ------
    InputError
        For bad shapes, NaN or infinity, a negative alpha.

    References
    ----------
    Hoerl & Kennard (1970), §2: full rank for every α > 0, κ falling in α.

    Examples
    --------
    >>> import numpy as np
    >>> out = ridge_conditioning(np.array([[1.0, 1.0], [0.0, 1e-6]]), np.array([1.0, 2.0])).value
    >>> np.round(out.condition_number, 6).tolist()
    [3.0, 2.0]
    """
    X, _, alpha = _inputs(X, None, alpha, low_open=False)
    n, p = X.shape
    sigma = jnp.linalg.svd(X, compute_uv=False)
    sigma = jnp.concatenate([sigma, jnp.zeros(max(p - n, 0), X.dtype)])[::-1]
    eigenvalues = sigma**2 + alpha[..., None]
    low, top = eigenvalues[..., 0], eigenvalues[..., -1]
    kappa = jnp.where(low > 0, top / jnp.where(low > 0, low, 1.0), jnp.inf)
    bound = 1 + jnp.where(alpha > 0, sigma[-1] ** 2 / jnp.where(alpha > 0, alpha, 1.0), jnp.inf)
    eps = float(jnp.finfo(X.dtype).eps)
    claim = Certificate(
        "κ(XᵀX + αI)/(1 + σ_max²/α) ≤ 1", jnp.max(kappa / bound) if p else 0.0, 1 + 8 * eps, "theorem", "by inspection"
    )
    certificates = {} if not isinstance(alpha, Tracer) and bool((alpha == 0).any()) else {"bound": claim}
    return Solution(RidgeConditioning(eigenvalues, kappa), certificates)


def _inputs(X: Any, y: Any, alpha: Any, low_open: bool = True) -> tuple[Any, Any, Any]:
    X = validation.matrix("X", X)
    y = X[:, 0] if y is None else validation.vector_or_matrix("y", y)
    validation.same_length("X", X, "y", y)
    alpha = jnp.asarray(alpha, X.dtype)
    if not isinstance(alpha, Tracer):
        wrong = ~(jnp.isfinite(alpha) & ((alpha > 0) if low_open else (alpha >= 0)))
        if bool(wrong.any()) or alpha.ndim > (0 if low_open else 1):
            raise InputError(f"alpha: found {alpha}, expected {'a number > 0' if low_open else 'numbers >= 0'}")
    X, y = common_float(X, y)
    return X, y, alpha.astype(X.dtype)
