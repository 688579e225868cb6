"""Principal square root of a matrix, with its residual; its derivative is a Sylvester equation.

When: colouring noise by a covariance, geometric means, polar factors of small matrices; for one column of A^{1/2} of a
large symmetric A take ``krylov_function(A, v, "sqrt")``. Cost: a Schur form, 25 n³ (runs on the CPU), or an
eigendecomposition, 9 n³. Source: Björck & Hammarling (1983), through `jax.scipy.linalg.sqrtm`; Higham, Functions of
Matrices (2008), ch. 6.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg
from jaxtyping import Array, Inexact

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.linalg.functions._matrix_logarithm import as_complex
from corollary.linalg.functions._sylvester import solve
from corollary.linalg.functions._symmetric import symmetric_function


@follows_input
def sqrtm(A: Any, *, symmetric: bool = False) -> Solution:
    """The square root of A whose eigenvalues lie in the right half-plane.

    Parameters
    ----------
    A
        (n, n), real. Without eigenvalues on the negative real axis the root is real, up to rounding.
    symmetric
        A is symmetric positive semidefinite: an eigendecomposition and a real symmetric root.

    Returns
    -------
    Solution
        ``value``: (n, n), complex, or real for ``symmetric=True``. It jits, vmaps and differentiates: with R the root,
        R dR + dR R = dA.

    Raises
    ------
    InputError
        Where A is not square, real and finite.

    Notes
    -----
    Certificate: ``"residual"`` (exact): ‖R² − A‖_F against 100 n eps ‖R‖_F². ``status``: NON_FINITE where no root
    exists (a defective eigenvalue zero).

    Examples
    --------
    >>> import numpy as np
    >>> sqrtm(np.array([[2.0, 2.0], [2.0, 2.0]]), symmetric=True).value.round(9).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    validation.flag("symmetric", symmetric)
    A = jnp.asarray(validation.matrix("A", A))
    if A.shape[0] != A.shape[1]:
        raise InputError(f"A: found shape {A.shape}, expected a square matrix")
    R = symmetric_function(jnp.sqrt, A) if symmetric else _root(as_complex(A))
    held, held_A = jax.lax.stop_gradient((R, A))
    size = jnp.linalg.norm(held)
    certificate = Certificate(
        "‖R² − A‖_F <= 100 n eps ‖R‖_F²",
        measured=jnp.linalg.norm(held @ held - held_A.astype(held.dtype)),
        bound=100 * A.shape[0] * jnp.finfo(A.dtype).eps * size**2,
        source="Higham (2008), §6.2",
    )
    return Solution(R, {"residual": certificate}, Status.of(True, jnp.all(jnp.isfinite(R))), 1)


@jax.custom_jvp
def _root(A: Inexact[Array, "n n"]) -> Inexact[Array, "n n"]:
    return jax.scipy.linalg.sqrtm(A)


@_root.defjvp
def _root_jvp(primals: Any, tangents: Any) -> Any:
    R = _root(primals[0])
    return R, solve(R, R, tangents[0])[0]
