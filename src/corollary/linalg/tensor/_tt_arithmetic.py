"""Arithmetic of tensor trains: sums, entrywise and matrix products, and the trains that one starts from.

Nothing here forms a full tensor or rounds: ranks add in a sum and multiply in a product, exactly; `tt_round` brings
them down. The operators `+ - *` of `TensorTrain` are the same functions. Cost: the size of the result.

Source: Oseledets, Tensor-Train Decomposition, SIAM J. Sci. Comput. 33 (2011), §4; Kazeev & Khoromskij, SIAM J. Matrix
Anal. Appl. 33 (2012), Lemma 3.1, for the Laplacian of rank two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import as_float, common_float, follows_input
from corollary.linalg.tensor._formats import TensorTrain
from corollary.linalg.tensor._tt_cores import checked_cores, module
from corollary.linalg.tensor._tt_matrix import TensorTrainMatrix


def tt_matvec(A: TensorTrainMatrix, x: TensorTrain) -> TensorTrain:
    """A x for a matrix and a vector in tensor-train form; ranks multiply.

    Parameters
    ----------
    A
        `TensorTrainMatrix` whose column modes are the modes of x.
    x
        `TensorTrain`.

    Returns
    -------
    TensorTrain
        With the row modes of A.

    Raises
    ------
    InputError
        Where the modes do not fit.

    Examples
    --------
    >>> tt_matvec(tt_laplacian((4, 4)), tt_ones((4, 4))).to_dense()[0].tolist()
    [2.0, 1.0, 1.0, 2.0]
    """
    if A.column_modes != x.shape:
        raise InputError(f"x: found modes {x.shape}, expected the column modes {A.column_modes} of A")
    xp = module(*A.cores, *x.cores)
    cores = []
    for a, b in zip(A.cores, x.cores, strict=True):
        product = xp.tensordot(a, b, axes=([2], [1])).transpose(0, 3, 1, 2, 4)
        cores.append(product.reshape(a.shape[0] * b.shape[0], a.shape[1], -1))
    return TensorTrain(tuple(cores))


def tt_matmat(A: TensorTrainMatrix, B: TensorTrainMatrix) -> TensorTrainMatrix:
    """The matrix product A B in tensor-train form; ranks multiply.

    Raises
    ------
    InputError
        Where the modes do not fit.

    Examples
    --------
    >>> tt_matmat(tt_identity((2, 2)), tt_identity((2, 2))).to_dense().trace().item()
    4.0
    """
    if A.column_modes != B.row_modes:
        raise InputError(f"B: found row modes {B.row_modes}, expected the column modes {A.column_modes} of A")
    xp = module(*A.cores, *B.cores)
    cores = []
    for a, b in zip(A.cores, B.cores, strict=True):
        product = xp.tensordot(a, b, axes=([2], [1])).transpose(0, 3, 1, 4, 2, 5)
        cores.append(product.reshape(a.shape[0] * b.shape[0], a.shape[1], b.shape[2], -1))
    return TensorTrainMatrix(tuple(cores))


def tt_ones(shape: Sequence[int]) -> TensorTrain:
    """The tensor of ones, of rank one; its inner product with a train is the sum of the train's entries.

    Examples
    --------
    >>> tt_ones((2, 3)).inner(tt_ones((2, 3))).item()
    6.0
    """
    return TensorTrain(tuple(np.ones((1, n, 1)) for n in checked_shape(shape)))


@follows_input
def tt_rank_one(vectors: Sequence[Any]) -> TensorTrain:
    """The outer product of vectors as a train of rank one: a product of functions of one variable each.

    Raises
    ------
    InputError
        For no vector, or something that is none.

    Examples
    --------
    >>> import numpy as np
    >>> tt_rank_one([np.array([1.0, 2.0]), np.array([3.0, 4.0])]).to_dense().tolist()
    [[3.0, 4.0], [6.0, 8.0]]
    """
    return TensorTrain(tuple(v[None, :, None] for v in _vectors(vectors)))


@follows_input
def tt_sum_of(vectors: Sequence[Any]) -> TensorTrain:
    """The train with entries Σ_k v_k[i_k], of rank two: a sum of functions of one variable each.

    Raises
    ------
    InputError
        For no vector, or something that is none.

    Examples
    --------
    >>> import numpy as np
    >>> tt_sum_of([np.array([1.0, 2.0]), np.array([3.0, 4.0])]).to_dense().tolist()
    [[4.0, 5.0], [5.0, 6.0]]
    """
    cores = _ladder([(jnp.ones_like(v)[:, None], v[:, None]) for v in _vectors(vectors)])
    return TensorTrain(tuple(c[:, :, 0, :] for c in cores))


def tt_random(shape: Sequence[int], rank: Any, *, key: Key[Array, ""], dtype: Any = None) -> TensorTrain:
    """A train of Gaussian cores, scaled so that its entries have variance one.

    Parameters
    ----------
    shape
        (n_0, …, n_{d-1}).
    rank
        One inner rank, cut to what the sizes allow, or all of them.
    key
        `jax.random.key`.
    dtype
        float64 as NumPy where none is given; else a dtype, and JAX arrays of it.

    Examples
    --------
    >>> import jax
    >>> tt_random((4, 5, 6), 3, key=jax.random.key(0)).rank
    (1, 3, 3, 1)
    """
    shape = checked_shape(shape)
    ranks = (1, *checked_ranks(rank, shape), 1)
    sizes = [(r, n, s) for r, n, s in zip(ranks, shape, ranks[1:], strict=False)]
    with jax.enable_x64(dtype is None or np.dtype(dtype).itemsize > 4):
        # One draw for all cores, on the host where NumPy is wanted: no shape of a core is compiled for.
        flat: Any = jax.random.normal(key, (sum(math.prod(s) for s in sizes),), np.float64 if dtype is None else dtype)
        flat = np.asarray(flat) if dtype is None else flat
        ends = np.cumsum([math.prod(s) for s in sizes])
        cores = [
            flat[end - math.prod(s) : end].reshape(s) / np.asarray(np.sqrt(s[0]), flat.real.dtype)
            for s, end in zip(sizes, ends, strict=True)
        ]
    return TensorTrain(tuple(cores))


def tt_identity(shape: Sequence[int]) -> TensorTrainMatrix:
    """The identity matrix, of rank one.

    Examples
    --------
    >>> tt_identity((2, 2)).to_dense().diagonal().tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    return TensorTrainMatrix(tuple(np.eye(n).reshape(1, n, n, 1) for n in checked_shape(shape)))


def tt_laplacian(shape: Sequence[int], *, spacing: Any = 1.0) -> TensorTrainMatrix:
    """Minus the finite-difference Laplacian on a box, zero at its boundary: Σ_k I ⊗ … tridiag(−1, 2, −1)/h² … ⊗ I.

    Symmetric positive definite with eigenvalues Σ_k (2 − 2cos(π j_k/(n_k+1)))/h_k², and of rank two in any dimension.

    Parameters
    ----------
    shape
        Inner grid points along each axis.
    spacing
        h, one number or one for each axis.

    Raises
    ------
    InputError
        For a shape or a spacing that is not positive.

    Examples
    --------
    >>> tt_laplacian((3, 3)).to_dense()[0].tolist()[:4]
    [4.0, -1.0, 0.0, -1.0]
    """
    shape = checked_shape(shape)
    steps = np.asarray(spacing)
    real = steps.dtype.kind in "iuf" and steps.shape in ((), (len(shape),))
    if not (real and np.all(np.isfinite(steps)) and np.all(steps > 0)):
        raise InputError(
            f"spacing: found {spacing!r}, expected a positive number, or one for each of {len(shape)} axes"
        )
    steps = np.broadcast_to(steps.astype(float), (len(shape),))
    second = [(2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)) / h**2 for n, h in zip(shape, steps, strict=True)]
    return tt_kronecker_sum(second)


@follows_input
def tt_kronecker_sum(matrices: Sequence[Any]) -> TensorTrainMatrix:
    """Σ_k I ⊗ … A_k … ⊗ I as a tensor-train matrix of rank two, for an operator that is separate in its variables.

    Raises
    ------
    InputError
        Unless all are square matrices.

    Examples
    --------
    >>> import numpy as np
    >>> tt_kronecker_sum([np.diag([1.0, 2.0]), np.diag([10.0, 20.0])]).to_dense().diagonal().tolist()
    [11.0, 21.0, 12.0, 22.0]
    """
    if not isinstance(matrices, Sequence) or not matrices:
        raise InputError(f"matrices: found {type(matrices).__name__}, expected a sequence of at least one matrix")
    checked = [validation.tensor(f"matrices[{k}]", A, low=2, complex=True) for k, A in enumerate(matrices)]
    if any(A.ndim != 2 or A.shape[0] != A.shape[1] for A in checked):
        raise InputError(f"matrices: found shapes {[A.shape for A in checked]}, expected square matrices")
    floats = common_float(*checked)
    return TensorTrainMatrix(tuple(_ladder([(jnp.eye(len(A), dtype=A.dtype), A) for A in floats])))


def _ladder(pairs: Sequence[tuple[Any, Any]]) -> list[Any]:
    """Cores of Σ_k e ⊗ … a_k … ⊗ e of rank two: on the way down nothing has been chosen yet, or one a_k has."""
    if len(pairs) == 1:
        return [pairs[0][1][None, ..., None]]
    cores = []
    for k, (e, a) in enumerate(pairs):
        above, below = jnp.stack([e, a], axis=-1), jnp.stack([jnp.zeros_like(e), e], axis=-1)
        if k == 0:
            cores.append(above[None])
        elif k == len(pairs) - 1:
            cores.append(jnp.stack([a, e])[..., None])
        else:
            cores.append(jnp.stack([above, below]))
    return cores


def _vectors(vectors: Any) -> tuple[Any, ...]:
    if not isinstance(vectors, Sequence) or not vectors:
        raise InputError(f"vectors: found {type(vectors).__name__}, expected a sequence of at least one vector")
    checked = [as_float(validation.tensor(f"vectors[{k}]", v, complex=True)) for k, v in enumerate(vectors)]
    if any(v.ndim != 1 for v in checked):
        raise InputError(f"vectors: found shapes {[v.shape for v in checked]}, expected vectors")
    return common_float(*checked)


def checked_shape(shape: Any) -> tuple[int, ...]:
    """Modes of at least one entry each."""
    if not isinstance(shape, Sequence) or not shape:
        raise InputError(f"shape: found {shape!r}, expected a sequence of at least one mode")
    for k, n in enumerate(shape):
        validation.integer(1)(f"shape[{k}]", n)
    return tuple(int(n) for n in shape)


def checked_ranks(rank: Any, shape: Sequence[int]) -> tuple[int, ...]:
    """Inner ranks (r_1, …, r_{d-1}) that the sizes allow; one number is a cap."""
    d = len(shape)
    most = [min(math.prod(shape[:k]), math.prod(shape[k:])) for k in range(1, d)]
    if not isinstance(rank, Sequence | np.ndarray):
        validation.integer(1)("rank", rank)
        return tuple(min(int(rank), m) for m in most)
    inner = list(rank)[1:-1] if len(rank) == d + 1 and rank[0] == rank[-1] == 1 else list(rank)
    if len(inner) != d - 1:
        raise InputError(f"rank: found {len(rank)} numbers, expected {d - 1} inner ranks, or {d + 1} from 1 to 1")
    for k, (r, m) in enumerate(zip(inner, most, strict=True), 1):
        validation.integer(1)(f"rank[{k}]", r)
        if r > m:
            raise InputError(f"rank: found {r} at bond {k}, expected at most {m} for modes {tuple(shape)}")
    return tuple(int(r) for r in inner)


def checked_train(name: str, train: Any) -> TensorTrain:
    """A `TensorTrain` with checked cores, or InputError."""
    if not isinstance(train, TensorTrain):
        raise InputError(f"{name}: found {type(train).__name__}, expected a TensorTrain")
    return TensorTrain(checked_cores(name, train.cores))


def checked_matrix(name: str, matrix: Any) -> TensorTrainMatrix:
    """A `TensorTrainMatrix` with checked cores, or InputError."""
    if not isinstance(matrix, TensorTrainMatrix):
        raise InputError(f"{name}: found {type(matrix).__name__}, expected a TensorTrainMatrix")
    return TensorTrainMatrix(checked_cores(name, matrix.cores, 4))
