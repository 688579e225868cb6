"""TT-SVD: a full tensor as a tensor train with a measured error.

Use `tt_svd` where the tensor fits in memory, `tt_round` after sums and products of trains, `tt_cross` where only a
function of the indices is at hand. A tolerance in gives the ranks, ranks in give the error, and the measured error is
within the tolerance. The first unfolding costs by far the most: its shorter side's Gram matrix takes one pass over the
data, where the tolerance is so far above √eps that the half of the digits it loses do not matter; else a QR. Cost:
O(N n) for N entries with the smallest mode n, plus O(N r) for the check. Memory: r/n of the tensor beside it.

Source: Oseledets, Tensor-Train Decomposition, SIAM J. Sci. Comput. 33 (2011), Algorithm 1, Theorem 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input, on_host
from corollary.core.solution import Note, Solution, Status
from corollary.linalg._rows import one_thread, read
from corollary.linalg.tensor._formats import TensorTrain
from corollary.linalg.tensor._tt_arithmetic import checked_ranks
from corollary.linalg.tensor._tt_cores import divided, small_blas

SOURCE = "Oseledets, SIAM J. Sci. Comput. 33 (2011)"
GRAM = 1e3  # a discarded part above √(GRAM · eps) of the tensor is known well enough from squares
DOUBT = 100 * float(np.finfo(np.float64).eps)  # by which a squared part may be wrong, relative to ‖T‖²
CHUNK = 2**17  # entries at a time when a difference is measured


@follows_input
def tt_svd(tensor: Any, *, rank: Any = None, tol: Any = None) -> Solution:
    """Tensor train of a full tensor: tolerance in, ranks out; or ranks in, error out.

    Use it to compress a tensor that is at hand. It peels modes off the two ends in turn, the shorter side first, by
    truncated SVDs of unfoldings that shrink as it goes. Given `rank`, it can be jitted and differentiated.

    Parameters
    ----------
    tensor
        (n_0, …, n_{d-1}), real or complex, of at least two modes.
    rank
        The largest inner rank, or the d − 1 inner ranks (or d + 1 with the ones at the ends). Give this or `tol`.
    tol
        Relative Frobenius error: ‖T − train‖ <= tol ‖T‖. Zero keeps all but rounding.

    Returns
    -------
    Solution
        ``value``: `TensorTrain`. Certificates: ``"relative_error"`` (exact, given `tol`: measured entry by entry
        against `tol`), ``"error_bound"`` (exact: the same against √Σε_k², the root of the sum of the squared discarded
        parts), ``"quasi_optimality"`` (theorem: error <= √(d−1) max ε_k <= √(d−1) times the least error at these
        ranks). ``stats``: ``relative_error``, ``discarded`` (ε_k/‖T‖ for each bond), ``compression``, ``method``.
        ``status``: PRECISION where `tol` is below what the dtype can represent and was not reached.

    Raises
    ------
    InputError
        Unless exactly one of `rank` and `tol` is given; for ranks below 1 or a sequence above what the sizes allow.

    Notes
    -----
    Each truncation is an orthogonal projection of what the last one left, so ‖T − train‖² = Σ ε_k², and no ε_k exceeds
    the distance of T's k-th unfolding from rank r_k (Theorem 2.2). Ranks never exceed those of the unfoldings. The
    error is at most the root of the sum of squares; the plain sum of the ε_k would be looser.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(0, 1, 8)
    >>> solution = tt_svd(np.sin(x[:, None, None] + x[:, None] + x), tol=1e-10)
    >>> solution.value.rank, bool(solution.holds)
    ((1, 2, 2, 1), True)
    """
    if (rank is None) == (tol is None):
        raise InputError(f"rank, tol: found {rank!r}, {tol!r}, expected exactly one of them")
    if tol is not None:
        validation.number(0)("tol", tol)
    plain = isinstance(tensor, np.ndarray) and tensor.dtype in (np.float32, np.float64) and tensor.size > CHUNK
    if not (plain and tensor.ndim > 1):  # a large array is searched for NaN in its Gram matrix
        tensor = validation.tensor("tensor", tensor, low=2, complex=True, host=True)
    ranks = None if rank is None else checked_ranks(rank, tensor.shape)
    if not on_host(tensor):
        return _in_jax(tensor, ranks, tol)
    solution = _on_host(np.asarray(tensor), ranks, tol)
    return jax.tree.map(jnp.asarray, solution) if isinstance(tensor, jax.Array) else solution


# On the host ---------------------------------------------------------------------------------------------------------


def _on_host(A: np.ndarray, ranks: tuple[int, ...] | None, tol: Any, e: int = 0) -> Solution:
    """Peel the shorter end until one bond is left; `e` is the power of two that was divided out."""
    shape, d, eps = A.shape, A.ndim, float(np.finfo(A.dtype).eps)
    left, right = [], []  # cores found from either end
    discarded = np.zeros(d - 1)
    a, b, norm, used = 0, d, 0.0, 0.0  # modes a … b−1 are still in X
    X, methods = A.reshape(1, -1), set()
    r_left, r_right = 1, 1
    while b - a > 1:
        p, q = r_left * shape[a], shape[b - 1] * r_right
        from_left = p <= q
        short, bond = (p, a) if from_left else (q, b - 2)
        X = X.reshape(short, -1) if from_left else X.reshape(-1, short)
        tall = X.T if from_left else X
        cap = short if ranks is None else min(ranks[bond], short)
        share = None if tol is None else tol / math.sqrt(d - 1)
        # Squares are known to eps of ‖T‖²: enough wherever what is thrown away is far above √eps.
        exact = share is not None and share**2 < GRAM * np.finfo(np.float64).eps
        U, s = _short_side(tall, gram=not exact)
        if not left and not right:
            norm = float(np.linalg.norm(s))
            unit = _extreme(A, norm)
            if unit:
                return _on_host(_scaled(A, -unit), ranks, tol, unit)
        budget = None if tol is None else max((tol * norm) ** 2 - used, 0.0) / (b - a - 1)
        r, tail = cut(s, cap, budget, norm, eps, gram=not exact)
        if ranks is not None and not exact and short > 1 and tail**2 < GRAM * np.finfo(np.float64).eps * norm**2:
            U, s = _short_side(tall, gram=False)
            exact = True
            r, tail = cut(s, cap, budget, norm, eps)
        methods.add("QR" if exact else "Gram")
        discarded[bond], used = tail, used + tail**2
        U = U[:, :r].astype(A.dtype, copy=False)
        if from_left:
            left.append(U.reshape(r_left, shape[a], r))
            X, r_left, a = U.conj().T @ X, r, a + 1
        else:
            right.append(np.ascontiguousarray(U.T).reshape(r, shape[b - 1], r_right))
            X, r_right, b = X @ U.conj(), r, b - 1
    cores = (*left, X.reshape(r_left, shape[a], r_right), *reversed(right))
    error = _measured(A, cores)
    doubt = (d - 1) * DOUBT if "Gram" in methods else 0.0
    middle = len(left)
    if e:
        cores = tuple(_scaled(c, e) if k == middle else c for k, c in enumerate(cores))
    scale = norm if norm > 0 else 1.0
    method = " and ".join(sorted(methods))
    return certified(TensorTrain(cores), error / scale, discarded / scale, tol, eps, method, np, doubt)


def _short_side(tall: np.ndarray, *, gram: bool) -> tuple[np.ndarray, np.ndarray]:
    """Left singular vectors and values of X = tallᵀ, p × q with p <= q."""
    real = tall.dtype.kind == "f"
    if gram:
        G: Any
        if real:
            with read(tall) as rows, one_thread(), np.errstate(over="ignore", invalid="ignore"):
                G = rows.gram(np.float64)
        else:
            step = max(1, CHUNK // tall.shape[1])
            blocks = (tall[i : i + step].astype(np.complex128) for i in range(0, len(tall), step))
            G = sum(block.T @ block.conj() for block in blocks)
        if not np.isfinite(np.trace(G)) and not np.isfinite(tall).all():
            raise InputError("tensor: found NaN or infinity, expected finite numbers")
        if np.isfinite(G).all():
            with small_blas(len(G)):
                values, U = np.linalg.eigh(G)
            return U[:, ::-1], np.sqrt(np.maximum(values[::-1], 0))
        return np.eye(len(G)), np.full(len(G), np.inf)  # squares overflowed: the caller rescales
    top = np.abs(tall).max()
    if not np.isfinite(top):
        raise InputError("tensor: found NaN or infinity, expected finite numbers")
    R: Any
    if real:
        with read(tall) as rows, one_thread():
            R = rows.triangle(np.empty((len(tall), 0), tall.dtype))
    else:
        R = np.linalg.qr(tall, mode="r")
    with small_blas(len(R)):
        U, s, _ = np.linalg.svd(R.T, full_matrices=False)
    return U, s.astype(np.float64)


def cut(
    s: np.ndarray, cap: int, budget: float | None, norm: float, eps: float, *, gram: bool = False
) -> tuple[int, float]:
    """The smallest rank, at least 1, whose squared tail is within the budget, and that tail; rounding always goes."""
    tails = np.sqrt(np.append(np.cumsum(s[::-1] ** 2)[::-1], 0.0))  # tails[r]: what rank r throws away
    allowed = 4 * eps * norm
    if budget is not None:
        doubt = DOUBT * norm**2 if gram else 0.0
        allowed = max(allowed, math.sqrt(max(budget - doubt, 0.0)) - allowed)
    r = min(max(int(np.argmax(tails <= allowed)), 1), cap)
    return r, float(tails[r])


def _extreme(A: Any, norm: float) -> int:
    """The exponent to divide out where squares would overflow or vanish; 0 where none needs to."""
    high = 1e36 if A.real.dtype == np.float64 else 1e15
    if 1 / high < norm < high:
        return 0
    top = float(np.abs(A).max())
    return int(np.frexp(top)[1]) if np.isfinite(top) and top > 0 else 0


def _scaled(A: Any, e: int) -> Any:
    """A · 2^e, changing no bit of the mantissas."""
    if A.dtype.kind == "c":
        out = np.empty_like(A)
        out.real, out.imag = np.ldexp(A.real, e), np.ldexp(A.imag, e)
        return out
    return np.ldexp(A, e)


def _measured(A: np.ndarray, cores: Sequence[np.ndarray]) -> float:
    """‖A − train‖, entry by entry, split at the bond where forming the entries costs least."""
    shape, d = A.shape, A.ndim

    def cost(k: int) -> float:
        r = cores[k].shape[0]
        return r * (A.size + 4 * r * (math.prod(shape[:k]) + math.prod(shape[k:])))

    k = min(range(1, d), key=cost)
    L = _product(cores[:k]).reshape(-1, cores[k].shape[0])
    R = _product(cores[k:]).reshape(cores[k].shape[0], -1)
    flat = A.reshape(L.shape[0], -1)
    step = max(1, CHUNK // flat.shape[1])

    def work(start: int) -> float:
        difference = L[start : start + step] @ R
        difference -= flat[start : start + step]
        return float(np.linalg.norm(difference.astype(np.result_type(difference, np.float64), copy=False))) ** 2

    return math.sqrt(math.fsum(_threaded(work, range(0, len(L), step), A.size)))


def _product(cores: Sequence[np.ndarray]) -> np.ndarray:
    """The dense (r, n_k ⋯ n_l, s) of neighbouring cores."""
    full = cores[0]
    for core in cores[1:]:
        full = (full.reshape(-1, core.shape[0]) @ core.reshape(core.shape[0], -1)).reshape(
            full.shape[0], -1, core.shape[2]
        )
    return full


def _threaded(work: Callable[[int], float], starts: Iterable[int], size: int) -> list[float]:
    """`work` on every start, shared among the cores where there is enough of it."""
    if size < 8 * CHUNK:
        return [work(s) for s in starts]
    with one_thread(), ThreadPoolExecutor() as pool:
        return list(pool.map(work, starts))


def certified(
    train: TensorTrain, error: Any, discarded: Any, tol: Any, eps: Any, method: str, xp: Any, doubt: float = 0.0
) -> Solution:
    """The three claims about one measured relative error, each carrying a few eps for every core."""
    d = len(train.cores)
    rounding = 16 * d * eps  # of the products along the chain, and of the comparison
    root = xp.sqrt(xp.sum(discarded**2) + doubt)
    largest = xp.sqrt(xp.max(discarded) ** 2 + doubt / max(d - 1, 1))
    certificates = {
        "error_bound": Certificate(
            "‖T − train‖/‖T‖ <= √(Σ ε_k²)/‖T‖, the root of the squared discarded parts",
            measured=error,
            bound=root + rounding,
            kind="exact",
            source=f"{SOURCE}, Theorem 2.2",
        ),
        "quasi_optimality": Certificate(
            "‖T − train‖ <= √(d−1) max_k ε_k, and no train of these ranks is closer to T than max_k ε_k",
            measured=error,
            bound=math.sqrt(d - 1) * largest + rounding,
            kind="theorem",
            source=f"{SOURCE}, Corollary 2.4",
        ),
    }
    status: Any = xp.asarray(Status.CONVERGED, xp.int32)
    if tol is not None:
        certificates = {
            "relative_error": Certificate(
                f"measured ‖T − train‖/‖T‖ <= tol, to {16 * d} eps",
                measured=error,
                bound=tol + rounding,
                kind="exact",
                source="measured entry by entry",
            )
        } | certificates
        status = xp.where(error <= tol + rounding, Status.CONVERGED, Status.PRECISION).astype(xp.int32)
    stats = {
        "relative_error": error,
        "discarded": discarded,
        "compression": math.prod(train.shape) / train.size,
        "method": Note(method),
    }
    return Solution(train, certificates, status, d - 1, stats)


# In JAX --------------------------------------------------------------------------------------------------------------


def _in_jax(A: Any, ranks: tuple[int, ...] | None, tol: Any) -> Solution:
    """The same peeling from the left by jnp: for traced arrays (given ranks) and other devices."""
    if ranks is None and isinstance(A, Tracer):
        raise InputError("tol: found a traced tensor, whose ranks must be known: pass rank in place of tol")
    shape, d, eps = A.shape, A.ndim, float(jnp.finfo(A.dtype).eps)
    size = jnp.max(jnp.abs(lax.stop_gradient(A)))
    size = jnp.where(size > 0, size, jnp.ones_like(size))
    A = divided(A, size)  # else squares could overflow or vanish
    norm = jnp.linalg.norm(A.ravel())
    cores, discarded, X, r_left, used = [], [], A.reshape(1, -1), 1, 0.0
    for k in range(d - 1):
        X = X.reshape(r_left * shape[k], -1)
        wide = X.shape[1] > 4 * X.shape[0] and not isinstance(A, Tracer)  # a triangle's derivative needs full rank
        U, s, _ = jnp.linalg.svd(jnp.linalg.qr(X.conj().T, mode="r").conj().T if wide else X, full_matrices=False)
        if ranks is None:
            budget = max((tol * float(norm)) ** 2 - used, 0.0) / (d - 1 - k)
            r, _ = cut(np.asarray(s, np.float64), len(s), budget, float(norm), eps)
        else:
            r = min(ranks[k], len(s))
        tail = jnp.sqrt(jnp.sum(s[r:] ** 2))
        used = used if ranks is not None else used + float(tail) ** 2
        discarded.append(tail)
        cores.append(U[:, :r].reshape(r_left, shape[k], r))
        X, r_left = U[:, :r].conj().T @ X, r
    cores.append(X.reshape(r_left, shape[-1], 1))
    scale = jnp.where(norm > 0, norm, 1)
    error = jnp.linalg.norm((TensorTrain(tuple(cores)).to_dense() - A).ravel()) / scale
    train = TensorTrain((*cores[:-1], cores[-1] * size.astype(A.dtype)))
    return certified(train, error, jnp.stack(discarded) / scale, tol, eps, "SVD", jnp)
