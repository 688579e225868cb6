"""The risk of keeping only a projection of the data, read off the covariance. Cost: O(p³)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Solution


@follows_input
def projection_risk(covariance: Any, P: Any) -> Solution:
    """½ E‖x − Px‖² = ½(tr Σ − tr PΣ) for centred x with covariance Σ and an orthogonal projection P.

    Use it to price a subspace before any data are projected. Cost: O(p³).

    Parameters
    ----------
    covariance
        (p, p) Σ.
    P
        (p, p) orthogonal projection: P² = P and Pᵀ = P. Both are checked; idempotency alone is not enough, since
        ⟨x, P²x⟩ = ⟨Px, Px⟩ uses that P is self-adjoint.

    Returns
    -------
    Solution
        ``value``: ½(tr Σ − tr PΣ). Certificate ``"direct"`` (exact): it equals ½ tr (I − P)Σ(I − P)ᵀ, given that P is
        an orthogonal projection; for another P the certificate fails and the value is not the risk.

    Raises
    ------
    InputError
        For matrices that are not square and of one size.

    Examples
    --------
    >>> import numpy as np
    >>> float(projection_risk(np.diag([3.0, 2.0, 1.0]), np.diag([1.0, 0.0, 0.0])).value)
    1.5
    """
    C, P = common_float(validation.matrix("covariance", covariance), validation.matrix("P", P))
    if C.shape != P.shape or C.shape[0] != C.shape[1]:
        raise InputError(
            f"covariance, P: found shapes {C.shape} and {P.shape}, expected two square matrices of one size"
        )
    eps, p = float(jnp.finfo(C.dtype).eps), C.shape[0]
    rest = jnp.eye(p, dtype=C.dtype) - P
    value = (jnp.trace(C) - jnp.sum(P * C.T)) / 2
    direct = jnp.sum((rest @ C) * rest) / 2
    size = jnp.maximum(jnp.linalg.norm(P), 1)
    scale = jnp.sum(jnp.abs(C)) * size**2 * p
    small = 16 * p * eps * size**2
    assumptions = (
        Assumption("P² = P", checked=True, holds=jnp.linalg.norm(P @ P - P) <= small),
        Assumption("Pᵀ = P", checked=True, holds=jnp.linalg.norm(P - P.T) <= small),
    )
    certificate = Certificate(
        "½(tr Σ − tr PΣ) = ½ tr (I − P)Σ(I − P)ᵀ",
        measured=jnp.abs(value - direct),
        bound=16 * eps * scale,
        kind="exact",
        source="⟨x, P²x⟩ = ⟨Px, Px⟩ for self-adjoint P",
        assumptions=assumptions,
    )
    return Solution(value, {"direct": certificate})
