"""Deflation: further eigenpairs by power iteration, each found one removed from the matrix.

When: a handful of dominant eigenpairs one after another, with products only. Hotelling's A − λuuᵀ (‖u‖ = 1, A
symmetric) removes one eigenvalue and leaves the rest; Wielandt's A − λ q wᵀ with wᵀq = 1 does so for any A: here w = q
is the Schur vector (Schur-Wielandt), the choice that disturbs the other eigenvectors least. Blocked methods
(`subspace_iteration`, Krylov) need fewer products. Cost: m power iterations, O(n m) more a step.
Source: Saad, Numerical Methods for Large Eigenvalue Problems, 2nd ed. (2011), §4.2; Parlett (1998), §5.1.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.operator import Operator, dtype, matmat
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.linalg.eigen import _iteration as iteration
from corollary.linalg.eigen._iteration import Pair, Stop, iterate, length, norm_from_below, sign_fixed, unit
from corollary.linalg.eigen._pair import certify


@follows_input
def deflation(
    A: Any,
    m: Any,
    *,
    method: Any = "hotelling",
    tol: Any = None,
    max_steps: Any = 1000,
    history: Any = False,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """The m eigenpairs of largest modulus by power iteration and deflation.

    Use "hotelling" for symmetric A, "wielandt" for any A whose m leading eigenvalues are real and of distinct modulus.
    Cost: m power iterations. It can be jitted and vmapped.

    Parameters
    ----------
    A
        (n, n) dense or sparse matrix, or operator.
    m
        Pairs wanted.
    method
        "hotelling": A − Σ λ_i u_i u_iᵀ, which needs ‖u_i‖ = 1 and a symmetric A. "wielandt": A − Σ λ_i q_i q_iᵀ with
        orthonormal Schur vectors; the eigenvectors follow from the triangle QᵀA Q.
    tol
        Per pair, relative to ‖A‖; eps^(2/3) by default. Later pairs inherit the errors of earlier ones.
    max_steps
        Limit per pair.
    history
        Record ``value`` and ``residual`` (of the deflated matrix), (m, max_steps).
    key
        For the starts.

    Returns
    -------
    Solution
        ``value``: (values (m,), vectors (n, m)), unit columns. ``steps``: of all pairs; ``stats``:
        ``steps`` of each, ``residuals`` ‖A v_i − λ_i v_i‖ (m,), ``basis``: the orthonormal (n, m) that was removed.

    Raises
    ------
    InputError
        For "hotelling" with a matrix that is not symmetric, m > n, and settings out of range.

    Notes
    -----
    Certificates (exact): those of `eigenpair_certificates` for the original A, and ``removed``: the deflated matrix
    sends every q_i to zero (Wielandt: to a combination of earlier ones), to the tolerance, so that the removed
    eigenvalues have become 0 (Saad, Theorem 4.2). Each step also projects, since the subtraction alone lets the errors
    of earlier vectors grow back.
    A pair of eigenvalues of one modulus (±λ, complex) stops it, as it stops power iteration: the status says so.

    Examples
    --------
    >>> import numpy as np
    >>> found = deflation(np.diag([1.0, 4.0, -3.0]), 2)
    >>> found.value[0].round(6).tolist(), bool(found.holds)
    ([4.0, -3.0], True)
    """
    validation.one_of("hotelling", "wielandt")("method", method)
    op = iteration.operator(A)
    validation.integer(1)("m", m)
    if m > op.in_size():
        raise InputError(f"m: found {m}, expected at most {op.in_size()}, the size of A")
    stop = iteration.stopping(op, tol, max_steps, history)
    hotelling, symmetric = method == "hotelling", iteration.is_symmetric(op)
    if hotelling:
        iteration.require_symmetric(op, symmetric)
    starts = jax.random.normal(jax.random.key(0) if key is None else key, (m, op.in_size()), dtype(op))
    found = _deflate(m, hotelling, op, stop, starts)
    values, vectors, basis, certificates, residuals, steps, converged, finite, records = found
    if hotelling:
        certificates = iteration.mark(certificates, symmetric)
    stats = {"steps": steps, "residuals": residuals, "basis": basis}
    status = Status.of(jnp.all(converged), jnp.all(finite))
    return Solution((values, vectors), certificates, status, jnp.sum(steps), stats, records or None)


@partial(jax.jit, static_argnums=(0, 1))
def _deflate(m: int, hotelling: bool, A: Operator, stop: Stop, starts: Array) -> tuple:
    n, kind = A.in_size(), dtype(A)

    def stage(carry: tuple, x: Array) -> tuple:
        Q, removed, scale, i = carry

        def project(x: Array) -> Array:
            return x - Q @ (Q.T @ x)

        def look(x: Array) -> Pair:
            x = unit(project(project(x)), x)
            image = project(A.mv(x) - Q @ (removed * (Q.T @ x)))
            value = x @ image
            return Pair(x, image, value, length(image - value * x))

        start = look(unit(x, x))
        run = iterate(lambda pair: look(unit(pair.image, pair.vector)), start, scale, stop)
        carry = (Q.at[:, i].set(run.pair.vector), removed.at[i].set(run.pair.value), run.scale, i + 1)
        return carry, (run.steps, run.converged, run.finite, run.history)

    none = (jnp.zeros((n, m), kind), jnp.zeros(m, kind), norm_from_below(A), jnp.int32(0))
    (Q, values, scale, _), (steps, converged, finite, history) = jax.lax.scan(stage, none, starts)
    AQ = matmat(A, Q)
    R = jnp.triu(Q.T @ AQ, 1) + jnp.diag(values)
    vectors = sign_fixed(Q if hotelling else Q @ triangular_vectors(R))
    image = matmat(A, vectors)
    # The errors of m pairs add up, with the weights of a vector's coordinates where it is made of several.
    weights = 1.0 if hotelling else jnp.max(jnp.sum(jnp.abs(Q.T @ vectors), axis=0))
    tol = 2 * m**0.5 * (stop.tol + 2 * iteration.slack(n) * jnp.finfo(kind).eps)
    certificates = certify(jnp, values, vectors, image, scale, symmetric=hotelling, tol=weights * tol)
    certificates["removed"] = Certificate(
        "‖(A − Σ λ_i q_i q_iᵀ) q_j‖: in place of every λ_j the deflated matrix has eigenvalue 0",
        jnp.max(length(AQ - Q @ (jnp.diag(values) if hotelling else R))),
        tol * scale,
        "exact",
        "Saad, Numerical Methods for Large Eigenvalue Problems, 2nd ed. (2011), Theorem 4.2",
    )
    residuals = length(image - vectors * values)
    return values, vectors, Q, certificates, residuals, steps, converged, finite, history


def triangular_vectors(R: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """Unit eigenvectors of an upper triangular matrix, one a column, by back substitution.

    Equal diagonal entries are moved apart by rounding's size, as LAPACK's trevc does: the vector of a defective
    eigenvalue then comes out parallel to the earlier one.
    """
    m = R.shape[0]
    top = jnp.max(jnp.abs(R))
    R, tiny = R / jnp.where(top > 0, top, 1), jnp.finfo(R.dtype).eps
    index = jnp.arange(m)

    def one(j: Array) -> Array:
        M = R - R[j, j] * jnp.eye(m, dtype=R.dtype)
        gap = jnp.diagonal(M)
        M = M + jnp.diag(jnp.where(jnp.abs(gap) < tiny, tiny, 0))
        leading = (index[:, None] < j) & (index[None, :] < j)
        M = jnp.where(leading, M, jnp.eye(m, dtype=R.dtype))
        right = jnp.where(index < j, -R[:, j], jnp.where(index == j, 1, 0))
        y = jax.scipy.linalg.solve_triangular(M, right)
        return unit(y, y)

    return jax.vmap(one, out_axes=1)(index)
