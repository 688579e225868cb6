"""Krylov processes as compiled kernels: an orthonormal basis of span{b, Ab, A²b, …} and A's compression to it.

Others build on these: Ritz pairs, quadrature of spectral densities, f(A)b. Every new vector is orthogonalised against
the whole basis, twice, so that ‖QᵀQ − I‖ stays at rounding level ("twice is enough"). Shapes are fixed: both run under
`jit`, `vmap` and `grad`, and keep a sharded start sharded.
Cost for m steps: m products and 4 n m² flops; memory n (m + 1).
Source: Golub & Van Loan, Matrix Computations, 4th ed., Algorithms 10.1.1 and 10.5.1; Parlett, The Symmetric Eigenvalue
Problem, §6.9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

BREAKDOWN = 100.0  # times eps ‖A‖: a shorter remainder is amplified rounding, the space is invariant


class Lanczos(NamedTuple):
    """A Q = Q T + β_m q_{m+1} e_mᵀ, with T tridiagonal: the diagonal `alpha`, `beta[:-1]` beside it, β_m = `beta[-1]`.

    After a breakdown at `count` < m steps the space is invariant: the further columns of Q and entries of `beta` are
    zero, those of `alpha` repeat α_1. So T stays the direct sum of the true T and a harmless block: f(T)e_1 is right
    as it stands, and finite where f is on the spectrum's hull. Eigenvalues of T itself: take the leading `count` rows.
    """

    alpha: Float[Array, " m"]
    beta: Float[Array, " m"]
    Q: Float[Array, "n m"]
    next: Float[Array, " n"]  # q_{m+1}; zero after a breakdown
    count: Int[Array, ""]
    norm: Float[Array, ""]  # ‖start‖: start = norm · q_1
    scale: Float[Array, ""]  # max ‖A q_j‖, a lower bound of ‖A‖

    @property
    def T(self) -> Float[Array, "m m"]:
        """The tridiagonal matrix."""
        return jnp.diag(self.alpha) + jnp.diag(self.beta[:-1], 1) + jnp.diag(self.beta[:-1], -1)

    @property
    def invariant(self) -> Bool[Array, ""]:
        """Whether the first `count` columns span an invariant subspace to rounding."""
        return self.beta[-1] == 0


class Arnoldi(NamedTuple):
    """A Q[:, :m] = Q H with Q (n, m + 1) and H (m + 1, m) upper Hessenberg.

    After a breakdown at `count` < m steps (or at the last) the space is invariant: the further columns of Q and of H
    are zero, but for H's diagonal, which repeats h_11. So f(H[:m])e_1 is right as it stands.
    """

    H: Float[Array, "m1 m"]
    Q: Float[Array, "n m1"]
    count: Int[Array, ""]
    norm: Float[Array, ""]
    scale: Float[Array, ""]

    @property
    def invariant(self) -> Bool[Array, ""]:
        """Whether the first `count` columns span an invariant subspace to rounding."""
        return self.H[-1, -1] == 0


def lanczos_process(matvec: Callable[[Array], Array], start: Float[Array, " n"], steps: int) -> Lanczos:
    """m steps of Lanczos for a symmetric operator; `steps` is static and at least 1.

    Examples
    --------
    >>> d = jnp.array([1.0, 2.0, 4.0])
    >>> run = lanczos_process(lambda x: d * x, jnp.ones(3), 3)
    >>> jnp.linalg.eigvalsh(run.T).round(4).tolist(), int(run.count)
    ([1.0, 2.0, 4.0], 3)
    """
    H, rows, count, norm, scale = _process(matvec, start, steps, symmetric=True)
    return Lanczos(H[0], H[1], rows[:steps].T, rows[steps], count, norm, scale)


def arnoldi_process(matvec: Callable[[Array], Array], start: Float[Array, " n"], steps: int) -> Arnoldi:
    """m steps of Arnoldi for any square operator; `steps` is static and at least 1.

    Examples
    --------
    >>> A = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> run = arnoldi_process(lambda x: A @ x, jnp.array([1.0, 0.0]), 2)
    >>> run.H[:2].tolist(), bool(run.invariant)
    ([[0.0, -1.0], [1.0, 0.0]], True)
    """
    H, rows, count, norm, scale = _process(matvec, start, steps, symmetric=False)
    return Arnoldi(H.T, rows.T, count, norm, scale)


def length(x: Float[Array, " n"]) -> Float[Array, ""]:
    """‖x‖ without overflow or underflow of the squares, with a derivative at zero."""
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    safe = jnp.where(top > 0, top, 1)
    squares = jnp.sum(jnp.square(x / safe))
    return jnp.where(top > 0, safe * jnp.sqrt(jnp.where(top > 0, squares, 1)), 0)


def _process(matvec: Callable[[Array], Array], start: Array, steps: int, *, symmetric: bool) -> Any:
    """The basis by rows, and α and β (symmetric) or Hᵀ."""
    start = jnp.asarray(start)
    n, dtype = start.shape[0], start.dtype
    noise = BREAKDOWN * jnp.finfo(dtype).eps
    norm = length(start)
    first = start / jnp.where(norm > 0, norm, 1)
    rows = jnp.zeros((steps + 1, n), dtype).at[0].set(first)  # by rows: both products of a pass stream through memory
    H = jnp.zeros((2, steps) if symmetric else (steps, steps + 1), dtype)

    def step(j: Any, carry: Any) -> Any:
        rows, H, count, scale, alive = carry
        w = matvec(rows[j])
        scale = jnp.maximum(scale, length(jax.lax.stop_gradient(w)))
        coefficients = jnp.zeros(steps + 1, dtype)
        for _ in range(2):
            h = rows @ w
            w = w - h @ rows
            coefficients = coefficients + h
        beta = length(w)
        go_on = alive & (beta > noise * scale) & (j + 1 < n)
        beta = jnp.where(go_on, beta, 0)
        rows = rows.at[j + 1].set(jnp.where(go_on, w / jnp.where(go_on, beta, 1), 0))
        if symmetric:
            alpha = jnp.where(alive, coefficients[j], H[0, 0])
            H = H.at[:, j].set(jnp.stack([alpha, beta]))
        else:
            column = coefficients.at[j + 1].set(beta)
            padding = jnp.zeros(steps + 1, dtype).at[j].set(H[0, 0])
            H = H.at[j].set(jnp.where(alive, column, padding))
        return rows, H, count + alive.astype(jnp.int32), scale, go_on

    begin = (rows, H, jnp.int32(0), jnp.zeros((), dtype), norm > 0)
    rows, H, count, scale, _ = jax.lax.fori_loop(0, steps, step, begin)
    return H, rows, count, norm, scale
