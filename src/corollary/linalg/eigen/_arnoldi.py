"""The Arnoldi process as an answer of its own: the Hessenberg matrix, the basis, Ritz values with residuals.

When: to look at a non-symmetric operator through a small matrix, or to take f(A)b from it. For a few eigenpairs to a
tolerance take `eigs`, which restarts. Cost: 2 m products (half of them for the certificate), 4 n m²; memory 2 n m.
Source: Golub & Van Loan, Matrix Computations, 4th ed., §10.5.1; Saad, Numerical Methods for Large Eigenvalue Problems.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int, Key

from corollary.core.certificate import Certificate
from corollary.core.operator import Operator, matmat
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg.eigen._krylov import arnoldi_process
from corollary.linalg.eigen._lanczos import GVL, _given, _orthogonal
from corollary.linalg.low_rank._rsvd_bounds import norms


class ArnoldiResult(eqx.Module):
    """What `arnoldi` found: A Q_m = Q_{m+1} H, and the Ritz values, largest modulus first.

    After a breakdown at `count` steps the space is invariant: its Ritz values are eigenvalues, and the rest are zero.
    """

    H: Float[Array | np.ndarray, "m1 m"]
    Q: Float[Array | np.ndarray, "n m1"]
    values: Complex[Array | np.ndarray, " m"]
    residual_bounds: Float[Array | np.ndarray, " m"]  # h_{m+1,m}|y_mi| = ‖A x_i − θ_i x_i‖
    count: Int[Array | np.ndarray, ""] | np.integer


@follows_input
def arnoldi(A: Any, start: Any = None, steps: int = 20, *, key: Key[Array, ""] | None = None) -> Solution:
    """m steps of Arnoldi with full reorthogonalisation for any square operator.

    Parameters
    ----------
    A
        (n, n) dense or sparse matrix, or operator.
    start
        (n,), not zero; ``None``: Gaussian from `key`.
    steps
        m, at most n.
    key
        `jax.random.key`; ``None``: a fixed one.

    Returns
    -------
    Solution
        ``value``: `ArnoldiResult`. ``steps``: m, or fewer after a breakdown.

    Raises
    ------
    InputError
        For a matrix that is not square, a zero start, or more steps than rows.

    Notes
    -----
    Certificates: ``factorisation`` (exact): ‖AQ_m − Q_{m+1}H‖ at rounding level; ``orthogonality`` (exact). A small
    residual of a non-normal A does not place an eigenvalue: see `eigenpair_certificates`. The Ritz values need
    `jax.numpy.linalg.eig`, which some accelerators lack.

    Examples
    --------
    >>> import numpy as np
    >>> run = arnoldi(np.array([[0.0, 1.0], [-1.0, 0.0]]), np.array([1.0, 0.0]), 2)
    >>> sorted(run.value.values.imag.round(6).tolist()), bool(run.holds)
    ([-1.0, 1.0], True)
    """
    op, b = _given(A, start, steps, key)
    result, certificates = _run(op, b, steps)
    return Solution(result, certificates, steps=result.count)


@eqx.filter_jit
def _run(op: Operator, b: Array, steps: int) -> Any:
    run = arnoldi_process(op.mv, b, steps)
    inside = jnp.arange(steps, dtype=jnp.int32) < run.count
    H = jnp.where(inside[:, None] & inside, run.H[:steps], 0)
    size = jnp.where(run.scale > 0, run.scale, 1)
    values, Y = jnp.linalg.eig(H / size)
    order = jnp.argsort(-jnp.abs(values))
    values, Y = values[order] * size.astype(values.dtype), Y[:, order]
    image = matmat(op, run.Q[:, :steps])
    eps = jnp.finfo(b.dtype).eps
    deviation = jnp.where(inside, norms(image - run.Q @ run.H, jnp), 0)
    certificates = {
        "factorisation": Certificate(
            "columns of AQ_m − Q_{m+1}H at rounding level",
            measured=jnp.max(deviation),
            bound=(32 * steps**0.5 + 200) * eps * run.scale,  # a breakdown drops a remainder of up to 100 eps ‖A‖
            source=f"{GVL}, eq. 10.5.2",
        ),
        "orthogonality": _orthogonal(run.Q[:, :steps], inside),
    }
    return ArnoldiResult(run.H, run.Q, values, run.H[-1, -1] * jnp.abs(Y[-1]), run.count), certificates
