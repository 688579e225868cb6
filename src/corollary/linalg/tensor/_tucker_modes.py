"""What Tucker's algorithms share: products over one mode, leading subspaces of unfoldings, ranks from a tolerance.

Written over `xp`, which is `numpy` for data in host memory and `jax.numpy` else. Products over a mode are reshapes and
(batched) matrix products, without a transpose. Cost of a subspace of an (n, N) unfolding: n²N flops for its Gram
matrix, or 2n²N for the triangle of its QR.

Source: De Lathauwer, De Moor & Vandewalle, SIMAX 21 (2000), §3; Vannieuwenhoven, Vandebril & Meerbergen, SISC 34
(2012), §6.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corollary.linalg._rows import one_thread

SMALL = 2**14  # entries up to which compiling the choice of an algorithm costs more than the exact one

Factors = tuple[Any, ...]  # a matrix for each mode, or None where the mode is left whole


def machine_eps(array: Any) -> float:
    """Machine epsilon of real or complex floating data."""
    return float(np.finfo(np.dtype(array.dtype)).eps)


def adjoint(U: Any) -> Any:
    """Uᴴ."""
    return U.conj().T


def multiply(tensor: Any, matrix: Any, mode: int) -> Any:
    """T ×_mode M, by reshapes and matrix products only."""
    shape = tensor.shape
    left, n, right = math.prod(shape[:mode]), shape[mode], math.prod(shape[mode + 1 :])
    if left == 1:
        product = matrix @ tensor.reshape(n, right)
    elif right == 1:
        product = tensor.reshape(left, n) @ matrix.T
    else:
        product = matrix @ tensor.reshape(left, n, right)
    return product.reshape(*shape[:mode], matrix.shape[0], *shape[mode + 1 :])


def project(tensor: Any, factors: Sequence[Any], skip: Sequence[int] = ()) -> Any:
    """T ×_k U_kᴴ over every mode that has a factor, but those in `skip`."""
    for mode, U in enumerate(factors):
        if U is not None and mode not in skip:
            tensor = multiply(tensor, adjoint(U), mode)
    return tensor


def expand(core: Any, factors: Sequence[Any]) -> Any:
    """G ×_k U_k over every mode that has a factor."""
    for mode, U in enumerate(factors):
        if U is not None:
            core = multiply(core, U, mode)
    return core


def rows(tensor: Any, mode: int, xp: Any) -> Any:
    """The mode's unfolding; a view for the first and the last mode."""
    if mode == tensor.ndim - 1:
        return tensor.reshape(-1, tensor.shape[mode]).T
    return xp.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)


def square(array: Any, xp: Any) -> Any:
    """‖A‖²; on the host the partial sums are added in float64, so that float32 keeps its digits over many entries."""
    if xp is not np:
        return xp.sum(xp.square(xp.abs(array)))
    flat = array.reshape(-1)
    parts = (flat[i : i + 2**16] for i in range(0, flat.size, 2**16))
    return sum(float(np.vdot(part, part).real) for part in parts)  # inf where it overflows, for `scaled` to see


def calm(A: Any, xp: Any) -> contextlib.AbstractContextManager[Any]:
    """LAPACK on one thread while the matrix is small: its threads wait for each other longer than they work."""
    return one_thread() if xp is np and A.size <= 2**20 else contextlib.nullcontext()


def gram_spectrum(A: Any, xp: Any) -> tuple[Any, Any]:
    """(U, σ²) of A from AAᴴ: half the work of a QR; squares below eps ‖A‖² are lost in rounding."""
    W = A @ adjoint(A)
    with calm(W, xp):
        values, vectors = xp.linalg.eigh(W)
    return vectors[:, ::-1], xp.maximum(values[::-1], 0)


def exact_spectrum(A: Any, rank: int, xp: Any) -> tuple[Any, Any]:
    """(U, σ²) of A by the triangle of Aᴴ and its SVD: every σ to eps ‖A‖. U has at least `rank` columns.

    Columns beyond those of the thin SVD are any that are orthonormal to it.
    """
    n, columns = A.shape
    with calm(A, xp):
        L = adjoint(xp.linalg.qr(adjoint(A), mode="r")) if columns > n else A
    with calm(L, xp):
        U, s, _ = xp.linalg.svd(L, full_matrices=False)
        if rank > len(s):
            more = xp.linalg.qr(xp.concatenate([U, xp.eye(n, rank - len(s), dtype=U.dtype)], axis=1))[0]
            U = xp.concatenate([U, more[:, len(s) :]], axis=1)
    return U, xp.concatenate([xp.square(s), xp.zeros(n - len(s), s.dtype)])


def leading(A: Any, rank: int, xp: Any) -> tuple[Any, Any]:
    """The leading left singular vectors (n, rank) and the squared tail Σ_{i>rank} σ_i².

    The Gram matrix's eigenvectors miss at most about eps ‖A‖² of the best squared error. Where the tail is above
    √eps ‖A‖² that is a relative loss of √eps at most, and the cheap way is taken; below it the exact one.
    """
    if A.shape[1] <= A.shape[0] or (xp is not np and A.size <= SMALL):
        U, values = exact_spectrum(A, rank, xp)
    else:
        U, values = gram_spectrum(A, xp)
        low = xp.sum(values[rank:]) < math.sqrt(machine_eps(A)) * xp.sum(values)
        if xp is np:
            U, values = exact_spectrum(A, rank, xp) if low else (U, values)
        else:
            U, values = jax.lax.cond(low, lambda: exact_spectrum(A, rank, jnp), lambda: (U, values))
    return U[:, :rank], xp.sum(values[rank:])


def to_limit(A: Any, limit: float, xp: Any) -> tuple[Any, float]:
    """As few leading left singular vectors as leave a squared tail <= limit, rounding counted in; and that tail."""
    n, e = A.shape[0], machine_eps(A)
    total = float(square(A, xp))
    if total == 0:
        return xp.eye(n, 1, dtype=A.dtype), 0.0
    cheap = A.shape[1] > n and limit > 2 * math.sqrt(e) * total
    U, values = gram_spectrum(A, xp) if cheap else exact_spectrum(A, 1, xp)
    left = np.append(np.cumsum(np.asarray(values, float)[::-1])[::-1][1:], 0.0)  # beyond rank 1, 2, ..., n
    doubt = 8 * e * math.sqrt(n)
    worst = left + 2 * doubt * total if cheap else np.square(np.sqrt(left) + doubt * math.sqrt(total))
    fits = worst <= limit
    rank = int(np.argmax(fits)) + 1 if fits.any() else min(A.shape)
    return U[:, :rank], float(left[rank - 1])


def sketched(A: Any, rank: int, oversampling: int, power: int, key: Any, xp: Any) -> tuple[Any, Any]:
    """`leading` from AΩ for a Gaussian Ω of rank + oversampling columns, sharpened by `power` products with AAᴴ.

    The library's range finder is for real matrices; here complex ones are welcome.
    """
    n, columns = A.shape
    width = rank + oversampling
    if width >= min(n, columns):
        return leading(A, rank, xp)
    if xp is np:
        with jax.ensure_compile_time_eval():  # also where a caller's trace is under way
            omega = np.asarray(jax.random.normal(key, (columns, width), A.dtype))
    else:
        omega = jax.random.normal(key, (columns, width), A.dtype)
    Q = _basis(A @ omega, xp)
    for _ in range(power):
        Q = _basis(A @ _basis(adjoint(A) @ Q, xp), xp)
    U = Q @ leading(adjoint(Q) @ A, rank, xp)[0]
    missed = square(A, xp) - square(adjoint(U) @ A, xp)
    return U, xp.maximum(missed, 0)


def _basis(A: Any, xp: Any) -> Any:
    """Orthonormal columns that span A's."""
    with calm(A, xp):
        return xp.linalg.qr(A)[0]


def phases(U: Any, xp: Any) -> Any:
    """Signs (phases) that make the largest entry of each column positive."""
    top = xp.take_along_axis(U, xp.argmax(xp.abs(U), axis=0)[None], axis=0)[0].conj()
    size = xp.abs(top)
    return xp.where(size > 0, top / xp.where(size > 0, size, xp.ones_like(size)).astype(U.dtype), xp.ones_like(top))


def canonical(core: Any, factors: Sequence[Any], xp: Any) -> tuple[Any, Factors]:
    """The same tensor in the gauge of the HOSVD: core slices mutually orthogonal, of falling norm, in every mode.

    The largest entry of each factor's column is made positive (real, for complex data).
    """
    turned = core
    found: list[Any] = []
    for mode, U in enumerate(factors):
        V, _ = exact_spectrum(rows(core, mode, xp), core.shape[mode], xp)
        U = V if U is None else U @ V
        turn = phases(U, xp)
        found.append(U * turn)
        turned = multiply(turned, adjoint(V * turn), mode)
    return turned, tuple(found)
