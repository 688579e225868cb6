"""Principal logarithm of a matrix by inverse scaling and squaring on its Schur form.

When: the generator of a flow or of a Markov chain, a mean of rotations or covariances. Cost: a Schur form (25 n³) and
about ten square roots and sixteen solves with triangles. Runs on the CPU, where JAX has a Schur form. Source: Higham,
Functions of Matrices (2008), Algorithm 11.9 (Schur form, square roots, Gauss-Legendre form of the Padé approximant,
eq. 11.18) with the diagonal taken from the eigenvalues' own logarithms (Al-Mohy & Higham, SIAM J. Sci. Comput. 34,
2012).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Complex, Inexact

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import as_float, follows_input
from corollary.core.solution import Solution, Status
from corollary.linalg.functions._symmetric import symmetric_function

NODES, RADIUS = 7, 0.264  # within this radius the [7/7] approximant is accurate to double precision (table 11.1)
ROOTS = 100


@follows_input
def logm(A: Any, *, symmetric: bool = False) -> Solution:
    """Principal logarithm: the matrix with e^X = A whose eigenvalues have imaginary parts in (−π, π].

    Parameters
    ----------
    A
        (n, n), real or complex, with no eigenvalue on the closed negative real axis (on it, where A is nonsingular: the
        limit from above, with imaginary part π).
    symmetric
        A is symmetric positive definite: an eigendecomposition, a real symmetric answer, and gradients.

    Returns
    -------
    Solution
        ``value``: (n, n), complex (as `eig` is: whether it is real depends on the numbers), or real for
        ``symmetric=True``. ``stats``: ``roots``, the square roots taken. It jits and vmaps; derivatives for
        ``symmetric=True`` only.

    Raises
    ------
    InputError
        Where A is not square and finite.

    Notes
    -----
    Certificates: ``"residual"`` (monitor): ‖e^X − A‖_F against 100 n eps ‖A‖_F max(1, ‖X‖_F), what a backward stable
    logarithm leaves of a well-conditioned one; a non-normal A may exceed it, and then the answer deserves distrust.
    ``"principal"`` (monitor): imaginary parts of the eigenvalues within (−π, π]; it checks that none is on the negative
    axis. ``status``: NON_FINITE for a singular matrix.

    Examples
    --------
    >>> import numpy as np
    >>> turn = np.array([[0.0, -1.0], [1.0, 0.0]])  # by 90 degrees
    >>> bool(np.allclose(logm(turn).value, np.pi / 2 * turn))
    True
    """
    validation.flag("symmetric", symmetric)
    A = _square(A)
    if symmetric:
        X = symmetric_function(jnp.log, A)
        theta = jnp.linalg.eigvalsh(jax.lax.stop_gradient(A)).astype(A.dtype)
        return _solution(A, X, theta, jnp.int32(0))
    return _solution(A, *_by_schur(as_complex(A)))


def _square(A: Any) -> Array:
    if not (np.iscomplexobj(A) and getattr(A, "ndim", 0) == 2):
        A = validation.matrix("A", A)
    elif not isinstance(A, Tracer) and not np.isfinite(np.asarray(A)).all():
        raise InputError("A: found NaN or infinity, expected finite numbers")
    A = as_float(A)
    if A.shape[0] != A.shape[1]:
        raise InputError(f"A: found shape {A.shape}, expected a square matrix")
    return A


def as_complex(x: Array) -> Array:
    """The same numbers with an imaginary part."""
    return x if jnp.iscomplexobj(x) else jax.lax.complex(x, jnp.zeros_like(x))


@jax.jit
def _by_schur(A: Complex[Array, "n n"]) -> tuple[Array, Array, Array]:
    T, U = jax.scipy.linalg.schur(A, output="complex")
    eye = jnp.eye(A.shape[0], dtype=T.dtype)

    def far(carry: tuple[Array, Array]) -> Array:
        R, k = carry
        return (jnp.max(jnp.sum(jnp.abs(R - eye), axis=0)) > RADIUS) & (k < ROOTS)

    R, k = jax.lax.while_loop(far, lambda c: (_triangular_root(c[0]), c[1] + 1), (T, jnp.int32(0)))
    X = R - eye
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    terms = [
        w / 2 * jax.scipy.linalg.solve_triangular(eye + (x + 1) / 2 * X, X)
        for x, w in zip(nodes.tolist(), weights.tolist(), strict=True)
    ]
    log = sum(terms) * jnp.exp2(k.astype(R.real.dtype)).astype(R.dtype)
    theta = jnp.diagonal(T)
    log = log - jnp.diag(jnp.diagonal(log)) + jnp.diag(jnp.log(theta))
    return U @ log @ U.conj().T, theta, k


def _triangular_root(T: Inexact[Array, "n n"]) -> Inexact[Array, "n n"]:
    """Principal square root of an upper triangle (Björck & Hammarling, 1983), by superdiagonals from the main one."""
    n = T.shape[0]
    rows = jnp.arange(n)
    root = jnp.sqrt(jnp.diagonal(T))

    def superdiagonal(d: Any, R: Array) -> Array:
        # Entry (i, i + d): what is known of (R²)ᵢⱼ has factors on lower superdiagonals only; the rest of R is zero.
        j = jnp.minimum(rows + d, n - 1)
        known = jnp.sum(R * R[:, j].T, axis=1)
        total = root + root[j]
        entry = (T[rows, j] - known) / jnp.where(total == 0, 1, total)
        entry = jnp.where((total == 0) & (T[rows, j] != known), jnp.nan, entry)
        return R.at[rows, j].set(jnp.where(rows + d < n, entry, R[rows, j]))

    return jax.lax.fori_loop(1, n, superdiagonal, jnp.diag(root))


def _solution(A: Array, X: Array, theta: Array, roots: Array) -> Solution:
    n, eps = A.shape[0], jnp.finfo(A.dtype).eps
    held_A, held = jax.lax.stop_gradient((A, X))
    size = jnp.linalg.norm(held_A)
    residual = jnp.linalg.norm(jax.scipy.linalg.expm(held) - held_A.astype(held.dtype))
    logs = jnp.log(as_complex(theta))
    on_axis = (theta.real <= 0) & (jnp.abs(jnp.imag(theta)) <= 10 * n * eps * jnp.max(jnp.abs(theta)))
    clear = Assumption(
        "no eigenvalue on the closed negative real axis, to rounding", checked=True, holds=~jnp.any(on_axis)
    )
    certificates = {
        "residual": Certificate(
            "‖e^X − A‖_F <= 100 n eps ‖A‖_F max(1, ‖X‖_F)",
            measured=residual,
            bound=100 * n * eps * size * jnp.maximum(jnp.linalg.norm(held), 1),
            kind="monitor",
            source="Higham (2008), §11.2",
        ),
        "principal": Certificate(
            "imaginary parts of the eigenvalues lie in (−π, π]",
            measured=jnp.max(jnp.abs(logs.imag)),
            bound=jnp.asarray(jnp.pi, logs.real.dtype) * (1 + 4 * eps),
            kind="monitor",
            source="Higham (2008), Theorem 1.31",
            assumptions=(clear,),
        ),
    }
    status = Status.of(True, jnp.all(jnp.isfinite(X)))
    return Solution(X, certificates, status, 1, {"roots": roots})
