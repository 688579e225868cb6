"""The Lanczos process as an answer of its own: T, the basis, Ritz pairs with residual bounds, the theorem's rate.

When: to see how Ritz values converge, or to take f(A)b or a spectral density from T. For a few eigenpairs to a
tolerance take `eigsh`, which restarts. Cost: 2 m products (half of them for the certificates), 4 n m²; memory 2 n m.
Source: Golub & Van Loan, Matrix Computations, 4th ed., §10.1; Kaniel (1966), Paige (1971).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.operator import Operator, as_operator, dtype, matmat, shape
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg.eigen._krylov import Lanczos, lanczos_process, length
from corollary.linalg.low_rank._rsvd_bounds import norms, orthogonality

GVL = "Golub & Van Loan, Matrix Computations, 4th ed."
Numbers = Float[Array | np.ndarray, "..."]


class LanczosResult(eqx.Module):
    """What `lanczos` found: A Q = Q T + β_m q_{m+1} e_mᵀ, and the Ritz pairs, largest first.

    A breakdown after `count` steps leaves the space invariant and its Ritz pairs exact; only the leading `count`
    columns and pairs count then, and the others are zero vectors.
    """

    T: Numbers
    Q: Numbers
    values: Numbers
    vectors: Numbers
    residual_bounds: Numbers  # β_m |s_mi| = ‖A x_i − θ_i x_i‖
    count: Int[Array | np.ndarray, ""] | np.integer


@follows_input
def lanczos(
    A: Any,
    start: Any = None,
    steps: int = 20,
    *,
    reference: Any = None,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """m steps of Lanczos with full reorthogonalisation for a symmetric operator.

    Parameters
    ----------
    A
        (n, n) dense or sparse matrix, or operator, symmetric (which is not checked).
    start
        (n,), not zero; ``None``: Gaussian from `key`.
    steps
        m, at most n.
    reference
        For the theorem: eigenvalues (n,) and eigenvectors (n, n) in ascending order, as `numpy.linalg.eigh` gives them,
        or True to compute them (dense).
    key
        `jax.random.key`; ``None``: a fixed one.

    Returns
    -------
    Solution
        ``value``: `LanczosResult`. ``history``: per step ``largest`` and ``smallest`` Ritz value, and with a
        reference ``error`` λ_1 − θ_1 and its ``error_bound``. ``steps``: m, or fewer after a breakdown.

    Raises
    ------
    InputError
        For a matrix that is not square, a zero start, or more steps than rows.

    Notes
    -----
    Certificates: ``factorisation`` (exact): ‖AQ − QT − β q eᵀ‖ at rounding level; ``orthogonality`` (exact);
    ``residual_bounds`` (exact): β|s_mi| is ‖A x_i − θ_i x_i‖ to rounding, so an eigenvalue lies within it of θ_i; with
    a `reference` ``kaniel_paige`` (theorem): λ_1 − θ_1 ≤ (λ_1 − λ_n)(tan φ_1/T_{j−1}(1 + 2ρ))² at every step j, with
    ρ = (λ_1 − λ_2)/(λ_2 − λ_n) and φ_1 between start and eigenvector (Theorem 10.1.2). Measured at its worst step.

    Examples
    --------
    >>> import numpy as np
    >>> run = lanczos(np.diag([4.0, 2.0, 1.0]), np.ones(3), 3, reference=True)
    >>> run.value.values.round(6).tolist(), bool(run.holds)
    ([4.0, 2.0, 1.0], True)
    """
    op, b = _given(A, start, steps, key)
    pairs = _pairs(op, reference)
    result, certificates, history = _run(op, b, pairs, steps)
    return Solution(result, certificates, steps=result.count, history=history)


def _given(A: Any, start: Any, steps: Any, key: Any) -> tuple[Operator, Array]:
    """A square operator and a start."""
    validation.integer(1)("steps", steps)
    op = as_operator(A if not isinstance(A, np.ndarray | list) else validation.matrix("A", A))
    n, columns = shape(op)
    if n != columns:
        raise InputError(f"A: found shape {(n, columns)}, expected a square matrix")
    if steps > n:
        raise InputError(f"steps: found {steps}, expected at most {n} for a matrix of {n} rows")
    if start is None:
        return op, jax.random.normal(jax.random.key(0) if key is None else key, (n,), dtype(op))
    b = validation.vector("start", start)
    if b.shape[0] != n or (not isinstance(b, Tracer) and not bool(jnp.any(b != 0))):
        raise InputError(f"start: found shape {b.shape} or zero, expected ({n},) with a non-zero entry")
    return op, b.astype(dtype(op))


def _pairs(op: Operator, reference: Any) -> tuple[Array, Array] | None:
    if reference is None or reference is False:
        return None
    if reference is True:
        return jnp.linalg.eigh(op.as_matrix())
    values, vectors = (jnp.asarray(x).astype(dtype(op)) for x in reference)
    n = shape(op)[0]
    if values.shape != (n,) or vectors.shape != (n, n):
        raise InputError(f"reference: found shapes {values.shape}, {vectors.shape}, expected ({n},), ({n}, {n})")
    return values, vectors


@eqx.filter_jit
def _run(op: Operator, b: Array, pairs: Any, steps: int) -> Any:
    run = lanczos_process(op.mv, b, steps)
    inside = jnp.arange(steps, dtype=jnp.int32) < run.count
    # Rows beyond a breakdown come out below the spectrum, that is last.
    T = run.T + jnp.diag(jnp.where(inside, 0, -4 * (run.scale + 1) - run.alpha))
    values, S = jnp.linalg.eigh(T)
    values, S = values[::-1], S[:, ::-1]
    values = jnp.where(inside, values, 0)
    X = run.Q @ S
    bounds = run.beta[-1] * jnp.abs(S[-1])
    image = matmat(op, run.Q)
    tail = jnp.zeros_like(run.Q).at[:, -1].set(run.beta[-1] * run.next)
    error = jnp.max(norms(image - run.Q @ run.T - tail, jnp))
    noise = 32 * jnp.finfo(b.dtype).eps * run.scale * steps**0.5
    actual = norms(image @ S - X * values, jnp)
    lost = 200 * jnp.finfo(b.dtype).eps * run.scale  # a breakdown drops a remainder of up to 100 eps ‖A‖
    certificates = {
        "factorisation": Certificate(
            "columns of AQ − QT − β q eᵀ at rounding level",
            measured=error,
            bound=noise + lost,
            source=f"{GVL}, eq. 10.1.4",
        ),
        "orthogonality": _orthogonal(run.Q, inside),
        "residual_bounds": Certificate(
            "β|s_mi| = ‖A x_i − θ_i x_i‖, so that an eigenvalue lies within it of θ_i: largest deviation",
            measured=jnp.max(jnp.where(inside, jnp.abs(actual - bounds), 0)),
            bound=noise * steps**0.5 + lost,
            source=f"{GVL}, Theorem 10.1.1 and §8.1.3",
        ),
    }
    largest, smallest = _by_step(run)
    history = {"largest": largest, "smallest": smallest}
    if pairs is not None:
        history["error"], history["error_bound"], certificates["kaniel_paige"] = kaniel_paige(run, b, largest, *pairs)
    return LanczosResult(run.T, run.Q, values, X, bounds, run.count), certificates, history


def _orthogonal(Q: Array, inside: Array) -> Certificate:
    """QᵀQ = I where there are columns; beyond a breakdown they are zero."""
    certificate = orthogonality(jnp, Q=Q)
    gram = Q.T @ Q - jnp.diag(inside.astype(Q.dtype))
    return Certificate(certificate.claim, jnp.linalg.norm(gram), certificate.bound, "exact", "computed")


def _by_step(run: Lanczos) -> tuple[Array, Array]:
    """Extreme Ritz values of every leading block; α_1, which lies between them, fills the rest of T."""
    m = run.alpha.shape[0]

    def extremes(j: Array) -> tuple[Array, Array]:
        inside = jnp.arange(m) <= j
        T = jnp.where(inside[:, None] & inside, run.T, 0) + jnp.diag(jnp.where(inside, 0, run.alpha[0]))
        values = jnp.linalg.eigvalsh(T)
        return values[-1], values[0]

    return jax.lax.map(extremes, jnp.arange(m))


def kaniel_paige(
    run: Lanczos, start: Array, largest: Array, values: Array, vectors: Array
) -> tuple[Array, Array, Certificate]:
    """(error, bound, certificate) of the largest Ritz value at every step."""
    top, second, bottom = values[-1], values[-2] if values.shape[0] > 1 else values[-1], values[0]
    q = start / length(start)
    cosine = jnp.abs(vectors[:, -1] @ q)
    sine = length(q - vectors[:, -1] * (vectors[:, -1] @ q))
    spread = second - bottom
    rho = (top - second) / jnp.where(spread > 0, spread, 1)
    j = jnp.arange(largest.shape[0], dtype=start.dtype)
    growth = jnp.minimum(j * jnp.arccosh(1 + 2 * rho), 0.4 * float(np.log(float(jnp.finfo(start.dtype).max))))
    decay = jnp.where(spread > 0, 1 / jnp.cosh(growth), (j == 0).astype(start.dtype))
    tangent = sine / jnp.maximum(cosine, jnp.finfo(start.dtype).tiny ** 0.5)
    worth = jnp.minimum(tangent * decay, 1e15 if start.dtype == jnp.float64 else 1e6)
    noise = 64 * jnp.finfo(start.dtype).eps * jnp.maximum(jnp.abs(top), jnp.abs(bottom)) * start.shape[0] ** 0.5
    bound = jnp.minimum((top - bottom) * jnp.square(worth), top - bottom) + noise
    error = top - largest
    worst = jnp.argmax(error / jnp.where(bound > 0, bound, 1))
    certificate = Certificate(
        "λ_1 − θ_1 <= (λ_1 − λ_n)(tan φ_1/T_{j−1}(1 + 2ρ))² at every step j",
        measured=error[worst],
        bound=bound[worst],
        kind="theorem",
        source=f"Kaniel (1966), Paige (1971); {GVL}, Theorem 10.1.2",
        assumptions=(Assumption("A is symmetric and the reference are its eigenpairs"),),
    )
    return error, bound, certificate
