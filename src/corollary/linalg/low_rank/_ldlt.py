"""Symmetric indefinite factorisation A = L D Lᵀ with 1×1 and 2×2 blocks, and the inertia that it shows.

Use it to solve with, or count the signs of the eigenvalues of, a symmetric matrix that is not definite; a Cholesky
factor does not exist there. Cost: n³/3 by LAPACK's Bunch-Kaufman on the host; in JAX Bunch-Parlett's complete pivoting,
O(n³) one pivot at a time. Source: Bunch & Kaufman (1977); Bunch & Parlett (1971); Higham, Accuracy and Stability, 2nd
ed., §11.1; Sylvester's law of inertia.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input, on_host
from corollary.core.solution import Note, Solution

ALPHA = (1 + math.sqrt(17)) / 8  # bounds the growth of one 2×2 step by that of two 1×1 steps


class LDLT(eqx.Module):
    """A = L D Lᵀ in A's own order: L[perm] is unit lower triangular, D block diagonal with blocks of one or two."""

    L: Float[Array | np.ndarray, "n n"]
    D: Float[Array | np.ndarray, "n n"]
    perm: Int[Array | np.ndarray, " n"]


@follows_input
def ldlt(A: Any) -> Solution:
    """LDLᵀ factorisation of a symmetric matrix, definite or not.

    Use it for indefinite symmetric matrices; for a semidefinite one `pivoted_cholesky` gives a rank. Cost: n³/3.

    Parameters
    ----------
    A
        (n, n) symmetric; the lower triangle is read by LAPACK, all of it under jit.

    Returns
    -------
    Solution
        ``value``: `LDLT`. Certificates: ``"backward_error"`` (exact: ‖A − LDLᵀ‖_F at rounding level of ‖|L||D||Lᵀ|‖),
        ``"symmetric"`` (exact). ``stats``: ``positive``, ``negative``, ``zero``: how many eigenvalues have that sign
        (Sylvester; zero: |d| ≤ n ε ‖A‖).

    Raises
    ------
    InputError
        For a matrix that is not square, finite and real.

    Notes
    -----
    Source: Higham (2002), Theorem 11.3 (backward error), eq. 11.1 (inertia).

    Examples
    --------
    >>> import numpy as np
    >>> found = ldlt(np.array([[0.0, 1.0], [1.0, 0.0]]))  # no Cholesky factor, and no pivot on the diagonal
    >>> int(found.stats["positive"]), int(found.stats["negative"]), bool(found.holds)
    (1, 1, True)
    """
    in_jax = isinstance(A, jax.Array)
    A = validation.matrix("A", A, host=True)
    if A.shape[0] != A.shape[1]:
        raise InputError(f"A: found shape {A.shape}, expected a square (symmetric) matrix")
    if isinstance(A, Tracer) or (in_jax and not on_host(A)):
        top = jnp.max(jnp.abs(A))
        scale = jnp.where(top > 0, top, 1)
        L, D, perm = _bunch_parlett(A / scale)
        return _solution(A / scale, L, D, perm, scale, "Bunch-Parlett", jnp)
    A = np.asarray(A)
    scale = np.ldexp(np.ones((), A.dtype), np.frexp(np.abs(A).max())[1])
    L, D, perm = scipy.linalg.ldl(A / scale)
    solution = _solution(A / scale, L, D, perm, scale, "Bunch-Kaufman, LAPACK", np)
    return jax.tree.map(jnp.asarray, solution) if in_jax else solution


def _solution(A: Any, L: Any, D: Any, perm: Any, scale: Any, method: str, xp: Any) -> Solution:
    n, eps = A.shape[0], float(np.finfo(A.dtype).eps)
    values = xp.linalg.eigvalsh(D)  # of blocks of one and two: exact to rounding
    cut = n * eps * xp.linalg.norm(A)
    growth = xp.linalg.norm(xp.abs(L) @ xp.abs(D) @ xp.abs(L.T)) + xp.linalg.norm(A)
    certificates = {
        "backward_error": Certificate(
            "‖A − LDLᵀ‖_F <= 8 n ε (‖A‖_F + ‖|L||D||Lᵀ|‖_F)",
            measured=xp.linalg.norm(A - L @ D @ L.T) * scale,
            bound=8 * n * eps * growth * scale,
            kind="exact",
            source="Higham, Accuracy and Stability, 2nd ed., Theorem 11.3",
        ),
        "symmetric": Certificate(
            "‖A − Aᵀ‖_F at rounding level",
            xp.linalg.norm(A - A.T) * scale,
            8 * eps * xp.linalg.norm(A) * scale,
            "exact",
            "computed",
        ),
    }
    signs = {"positive": xp.sum(values > cut), "negative": xp.sum(values < -cut), "zero": xp.sum(xp.abs(values) <= cut)}
    return Solution(LDLT(L, D * scale, perm), certificates, stats={**signs, "method": Note(method)})


@jax.jit
def _bunch_parlett(A: Float[Array, "n n"]) -> tuple[Array, Array, Array]:
    """Complete pivoting without moving anything: pivots are struck off a mask, one or two at a time."""
    n = A.shape[0]
    noise = n * jnp.finfo(A.dtype).eps * jnp.max(jnp.abs(A))

    def one(A: Array, L: Array, D: Array, perm: Array, k: Array, i: Array, free: Array) -> Any:
        pivot = A[i, i]
        zero = jnp.abs(pivot) <= noise
        column = jnp.where(free, A[:, i], 0)
        scaled = jnp.where(zero, 0, column / jnp.where(zero, 1, pivot)).at[i].set(1)
        A = jnp.where(zero, A, A - jnp.outer(scaled, column))
        return (
            A,
            L.at[:, k].set(scaled),
            D.at[k, k].set(jnp.where(zero, 0, pivot)),
            perm.at[k].set(i),
            k + 1,
            free.at[i].set(False),
        )

    def two(A: Array, L: Array, D: Array, perm: Array, k: Array, i: Array, j: Array, free: Array) -> Any:
        pair = jnp.stack([i, j])
        E, C = A[pair][:, pair], jnp.where(free[:, None], A[:, pair], 0)
        scaled = (C @ jnp.linalg.inv(E)).at[pair].set(jnp.eye(2, dtype=A.dtype))
        places = jnp.stack([k, k + 1])
        D = D.at[places[:, None], places].set(E)
        return (
            A - scaled @ C.T,
            L.at[:, places].set(scaled),
            D,
            perm.at[places].set(pair),
            k + 2,
            free.at[pair].set(False),
        )

    def body(carry: Any) -> Any:
        A, L, D, perm, k, free = carry
        live = jnp.where(free & free[:, None], jnp.abs(A), -1)
        diagonal = jnp.diagonal(live)
        i, flat = jnp.argmax(diagonal).astype(jnp.int32), jnp.argmax(live).astype(jnp.int32)
        r, s = flat // n, flat % n
        single = diagonal[i] >= ALPHA * live[r, s]
        return jax.lax.cond(
            single,
            lambda: one(A, L, D, perm, k, i, free),
            lambda: two(A, L, D, perm, k, r, s, free),
        )

    start = (A, jnp.zeros_like(A), jnp.zeros_like(A), jnp.zeros(n, jnp.int32), jnp.int32(0), jnp.ones(n, bool))
    _, L, D, perm, *_ = jax.lax.while_loop(lambda carry: carry[4] < n, body, start)
    return L, D, perm
