"""Gram matrices AᵀA (and cross products AᵀB) at the price of a symmetric product.

Data that lie in host memory (NumPy arrays, and JAX arrays on a CPU outside `jit`) go to the host's BLAS, whose `syrk`
needs half the flops of the plain product and reads them where they lie; traced, sharded and accelerator arrays take
XLA's product, which has no symmetric form. Cost: n p² flops on the host, 2 n p² under XLA; memory O(p²) beside A.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import common_float, on_host

BLOCK_ROWS = 8192


def gram(A: Any, B: Any = None, *, weights: Any = None, accumulate: str | None = None) -> Any:
    """AᵀWA, and AᵀWB beside it where `B` is given.

    Use it wherever normal equations, covariances or kernels of features are formed. Cost: O(n p²), half of a plain
    product for data in host memory; a large NumPy array is neither copied nor converted.

    Parameters
    ----------
    A
        (n, p) matrix: NumPy, JAX or ``scipy.sparse`` (the result is dense).
    B
        (n,) or (n, k), optional: also return AᵀWB.
    weights
        (n,) non-negative row weights, optional. They are applied by blocks of rows.
    accumulate
        ``"float64"``: products of float32 blocks of rows are summed, and returned, in float64. The error then grows
        with the block's rows (8192) and not with n. Needs JAX's 64-bit switch where A is a JAX array.

    Returns
    -------
    array or (array, array)
        (p, p), exactly symmetric; with `B` also (p,) or (p, k). NumPy for NumPy, JAX for JAX.

    Raises
    ------
    InputError
        For anything but a finite real matrix with matching rows and non-negative weights.

    Notes
    -----
    |computed − exact| ≤ γ_n |A|ᵀ|A| entrywise (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.5):
    a small eigenvalue is known only to n·eps·‖A‖², which is why normal equations square the condition number.

    Examples
    --------
    >>> import numpy as np
    >>> gram(np.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[10.0, 14.0], [14.0, 20.0]]
    """
    validation.one_of(None, "float64")("accumulate", accumulate)
    if scipy.sparse.issparse(A):
        return _sparse(A, B, weights)
    A = validation.matrix("A", A, host=True)
    if B is not None:
        B = validation.vector_or_matrix("B", B, host=True)
        validation.same_length("A", A, "B", B)
    if weights is not None:
        weights = _checked_weights(A, weights)
    given = [a for a in (A, B, weights) if a is not None]
    in_jax = any(isinstance(a, jax.Array) for a in given)
    if in_jax and accumulate and not jax.config.read("jax_enable_x64"):
        raise InputError("accumulate: found 'float64' with JAX's 64-bit types off, expected them on, or NumPy data")
    if not on_host(*given):
        return _traced(A, B, weights, accumulate)
    B, weights = (None if a is None else np.asarray(a) for a in (B, weights))
    result = _host(np.asarray(A), B, weights, accumulate=accumulate)
    return jax.tree.map(jnp.asarray, result) if in_jax else result


def _host(A: np.ndarray, B: np.ndarray | None, weights: np.ndarray | None, *, accumulate: str | None) -> Any:
    if weights is None and accumulate is None:
        # NumPy recognises X.T @ X and calls syrk; in C and in Fortran order alike.
        return A.T @ A if B is None else (A.T @ A, A.T @ B)
    pick = lambda a, rows: None if a is None else a[rows]  # noqa: E731
    pick = lambda a, rows: None if a is None else a[rows]  # noqa: E731
    parts = (_block(A[rows], pick(B, rows), pick(weights, rows)) for rows in _rows(A))
    total: Any = None
    for part in parts:
        part = tuple(p.astype(np.float64) for p in part) if accumulate else part
        total = part if total is None else tuple(t + p for t, p in zip(total, part, strict=True))
    return total[0] if B is None else total


def _block(a: np.ndarray, b: np.ndarray | None, w: np.ndarray | None) -> tuple[np.ndarray, ...]:
    if w is not None:
        root = np.sqrt(w).astype(a.dtype)  # √w on both sides keeps the product symmetric
        a, b = a * root[:, None], None if b is None else (b.T * root).T
    return (a.T @ a,) if b is None else (a.T @ a, a.T @ b)


def _rows(A: np.ndarray) -> Iterator[slice]:
    return (slice(i, i + BLOCK_ROWS) for i in range(0, A.shape[0], BLOCK_ROWS))


def _traced(A: Any, B: Any, weights: Any, accumulate: str | None) -> Any:
    A, *rest = common_float(*(a for a in (A, B, weights) if a is not None))
    B = rest.pop(0) if B is not None else None
    left = A if weights is None else A * rest[0][:, None]
    if accumulate and A.dtype == jnp.float32:
        wide = jax.dtypes.canonicalize_dtype(jnp.float64)
        left, A, B = left.astype(wide), A.astype(wide), None if B is None else B.astype(wide)
    G = left.T @ A
    G = (G + G.T) / 2 if weights is not None else G
    return G if B is None else (G, left.T @ B)


def _sparse(A: Any, B: Any, weights: Any) -> Any:
    A = scipy.sparse.csr_array(A)
    A = A if A.dtype in (np.float32, np.float64) else A.astype(np.float64)
    if not np.isfinite(A.data).all():
        raise InputError("A: found NaN or infinity, expected finite numbers")
    left = A if weights is None else A * _checked_weights(A, weights)[:, None].astype(A.dtype)
    G = (left.T @ A).toarray()
    if B is None:
        return G
    B = validation.vector_or_matrix("B", B, host=True)
    validation.same_length("A", A, "B", B)
    return G, left.T @ np.asarray(B)


def _checked_weights(A: Any, weights: Any) -> Any:
    weights = validation.vector("weights", weights, host=True)
    validation.same_length("A", A, "weights", weights)
    if not isinstance(weights, jax.core.Tracer) and bool((weights < 0).any()):
        raise InputError("weights: found a negative weight, expected weights >= 0")
    return weights
