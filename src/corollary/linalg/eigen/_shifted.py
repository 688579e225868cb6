"""Solves with A − μI for inverse and Rayleigh quotient iteration: dense LU in JAX, sparse LU on the host.

A − μI may be singular, and near an eigenvalue it is nearly so: that is no harm, as the error lies along the wanted
eigenvector (Peters & Wilkinson, SIAM Review 21, 1979). A pivot that is exactly zero is replaced by eps·‖A − μI‖.
Everything is scaled by a power of two first, so that no solution overflows. Cost: dense 2n³/3 and 2n² a solve.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jax.core import Tracer
from jax.scipy.linalg import lu_factor, lu_solve
from jaxtyping import Array

from corollary.core.operator import Sparse

Solve = Callable[[Array], Array]


def dense_solve(matrix: Array, mu: Array) -> Solve:
    """x ↦ a multiple of (A − μI)⁻¹x, factorised once."""
    top = jnp.maximum(jnp.max(jnp.abs(matrix)), jnp.abs(mu))
    e = jnp.where(top > 0, jnp.frexp(top)[1], 0)
    half = e // 2  # in two halves: a single power of two may overflow
    down = lambda a: a * jnp.ldexp(jnp.ones((), a.dtype), -half) * jnp.ldexp(jnp.ones((), a.dtype), half - e)  # noqa: E731
    shifted = down(matrix) - down(mu) * jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    lu, pivots = lu_factor(shifted)
    size = jnp.max(jnp.abs(shifted))
    tiny = jnp.finfo(matrix.dtype).eps * jnp.where(size > 0, size, 1)
    diagonal = jnp.diagonal(lu)
    lu = lu + jnp.diag(jnp.where(diagonal == 0, tiny, 0))
    return lambda x: lu_solve((lu, pivots), x)


def host_csc(A: Sparse) -> Any:
    """The sparse matrix of an operator, in SciPy's column format and scaled to entries of the order of one."""
    parts = tuple(np.asarray(part) for part in (A.matrix.data, A.matrix.indices, A.matrix.indptr))
    return scipy.sparse.csr_array(parts, shape=A.shape).tocsc()


def sparse_solve(matrix: Any, mu: float) -> Solve:
    """The same for a sparse matrix, by SuperLU on the host; not under `jit`."""
    kind = matrix.dtype
    top = max(float(np.abs(matrix.data).max(initial=0)), abs(mu))
    scale = 2.0 ** float(np.clip(np.frexp(top)[1], -1000, 1000)) if top > 0 else 1.0
    small = (matrix.astype(np.float64) / scale).astype(kind)
    eye = scipy.sparse.eye_array(matrix.shape[0], dtype=kind, format="csc")
    factor = None
    for nudge in (0.0, 1.0, 64.0):  # an exactly singular matrix is moved by rounding's size
        shifted = (small - kind.type(mu / scale + nudge * float(np.finfo(kind).eps)) * eye).tocsc()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", scipy.sparse.linalg.MatrixRankWarning)
                factor = scipy.sparse.linalg.splu(shifted)
            break
        except RuntimeError as error:
            if "singular" not in str(error):
                raise
    if factor is None:
        raise np.linalg.LinAlgError("A − μI stays singular after a shift of rounding's size")
    return lambda x: jnp.asarray(factor.solve(np.asarray(x)))


def multiplied(inverse: Any) -> Solve:
    """The caller's own solve, a function or an operator."""
    return inverse.mv if hasattr(inverse, "mv") else inverse


def is_traced(tree: Any) -> bool:
    """Whether a host factorisation is impossible."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))
