"""Sylvester and Lyapunov equations AX + XB = Q by two Schur forms, with the residual as certificate.

When: controllability Gramians, derivatives of matrix square roots, separating blocks of a spectrum. Unique where no
eigenvalue of A is the negative of one of B. Cost: two Schur forms, about 25 (n³ + m³), and n m (n + m) for the
triangular solves, column by column (`jax.scipy.linalg.solve_sylvester` goes entry by entry and takes any eigenvalue
sum below an absolute 1e-8 for zero). Runs on the CPU, where JAX has a Schur form. Source: Bartels & Stewart, Comm.
ACM 15 (1972); Higham, Accuracy and Stability of Numerical Algorithms (2002), ch. 16.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg
from jaxtyping import Array, Float, Inexact

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Solution, Status


@follows_input
def sylvester(A: Any, B: Any, Q: Any) -> Solution:
    """X with AX + XB = Q.

    Parameters
    ----------
    A, B, Q
        (n, n), (m, m) and (n, m), real.

    Returns
    -------
    Solution
        ``value``: X, (n, m). ``stats``: ``separation``, the least |λᵢ(A) + λⱼ(B)|, an upper bound of the equation's
        true separation. It jits, vmaps and differentiates, by the adjoint equation.

    Raises
    ------
    InputError
        Where the matrices are not real, finite and of fitting shapes.

    Notes
    -----
    Certificate: ``"residual"`` (exact): ‖AX + XB − Q‖_F against 100 max(n, m) eps ((‖A‖_F + ‖B‖_F)‖X‖_F), the backward
    stability of Schur methods. A small residual does not make X backward stable in A and B: near-singular equations
    show in ``separation``. ``status``: NON_FINITE where they are singular.

    Examples
    --------
    >>> import numpy as np
    >>> sylvester(np.diag([1.0, 2.0]), np.diag([1.0, 3.0]), np.array([[2.0, 4.0], [3.0, 5.0]])).value.round(9).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    A, B, Q = common_float(validation.matrix("A", A), validation.matrix("B", B), validation.matrix("Q", Q))
    for name, M in (("A", A), ("B", B)):
        if M.shape[0] != M.shape[1]:
            raise InputError(f"{name}: found shape {M.shape}, expected a square matrix")
    if Q.shape != (A.shape[0], B.shape[0]):
        raise InputError(f"Q: found shape {Q.shape}, expected {(A.shape[0], B.shape[0])}")
    return _solution(A, B, Q, *solve(A, B, Q))


@follows_input
def lyapunov(A: Any, Q: Any) -> Solution:
    """X with AX + XAᵀ = Q; symmetric where Q is.

    Parameters
    ----------
    A, Q
        (n, n), real. For a stable A and Q = −BBᵀ, X is the controllability Gramian.

    Returns
    -------
    Solution
        As `sylvester`.

    Raises
    ------
    InputError
        As `sylvester`.

    Examples
    --------
    >>> import numpy as np
    >>> lyapunov(np.diag([-1.0, -2.0]), -np.eye(2)).value.round(9).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    A = validation.matrix("A", A)
    return sylvester.__wrapped__(A, A.T, Q)  # type: ignore[attr-defined]


@jax.jit
def solve(A: Inexact[Array, "n n"], B: Inexact[Array, "m m"], Q: Inexact[Array, "n m"]) -> tuple[Array, Array]:
    """X and the least |λᵢ(A) + λⱼ(B)|, differentiable by the adjoint equation AᴴY + YBᴴ = X̄."""
    held = jax.lax.stop_gradient((A, B))
    U, T = _schur(held[0])
    V, S = _schur(held[1])
    real = not jnp.iscomplexobj(Q)

    def by_schur(_: Any, F: Array) -> Array:
        X = U @ _triangular(T, S, U.conj().T @ F.astype(U.dtype) @ V) @ V.conj().T
        return X.real if real else X

    def transposed(_: Any, F: Array) -> Array:
        # AᵀY + YBᵀ = F has the Schur vectors conj(U), conj(V), and its triangles are solved backwards.
        flip = lambda M: M[::-1, ::-1]  # noqa: E731
        G = U.T @ F.astype(U.dtype) @ V.conj()
        Y = _triangular(flip(T.T), flip(S.T), G[::-1, ::-1])[::-1, ::-1]
        Y = U.conj() @ Y @ V.T
        return Y.real if real else Y

    X = jax.lax.custom_linear_solve(lambda X: A @ X + X @ B, Q, by_schur, transpose_solve=transposed)
    separation = jnp.min(jnp.abs(jnp.diagonal(T)[:, None] + jnp.diagonal(S)[None, :]))
    return X, separation


def _schur(M: Array) -> tuple[Array, Array]:
    """Unitary U and upper triangular T with M = U T Uᴴ."""
    T, U = jax.scipy.linalg.schur(M, output="complex")
    return U, T


def _triangular(T: Array, S: Array, F: Array) -> Array:
    """T Y + Y S = F for upper triangular T and S, column by column."""
    eye = jnp.eye(T.shape[0], dtype=T.dtype)

    def column(k: Any, Y: Array) -> Array:
        rest = F[:, k] - Y @ S[:, k]  # columns from k on are still zero
        return Y.at[:, k].set(jax.scipy.linalg.solve_triangular(T + S[k, k] * eye, rest))

    return jax.lax.fori_loop(0, S.shape[0], column, jnp.zeros_like(F))


def _solution(A: Array, B: Array, Q: Array, X: Array, separation: Float[Array, ""]) -> Solution:
    held_A, held_B, held_Q, held = jax.lax.stop_gradient((A, B, Q, X))
    residual = jnp.linalg.norm(held_A @ held + held @ held_B - held_Q)
    scale = (jnp.linalg.norm(held_A) + jnp.linalg.norm(held_B)) * jnp.linalg.norm(held)
    certificate = Certificate(
        "‖AX + XB − Q‖_F <= 100 max(n, m) eps (‖A‖_F + ‖B‖_F)‖X‖_F",
        measured=residual,
        bound=100 * max(Q.shape) * jnp.finfo(X.dtype).eps * scale,
        source="Higham (2002), §16.1",
    )
    status = Status.of(True, jnp.all(jnp.isfinite(X)))
    return Solution(X, {"residual": certificate}, status, 1, {"separation": separation})
