"""Unfoldings, mode products and the products of factor matrices: the alphabet of tensor decompositions.

Unfoldings are in C order, as NumPy and TensorLy have it: the columns of the mode-k unfolding run over the other modes
with the last one fastest, so that X_(k) = A_k (A_0 ⊙ … ⊙ A_d without k)ᵀ for a sum of outer products. Kolda & Bader's
order is the reverse of it, and so is the order of their Khatri-Rao products. Cost: one pass over the data.

Source: Kolda & Bader, Tensor Decompositions and Applications, SIAM Review 51 (2009), §2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input


def checked_mode(mode: Any, modes: int) -> int:
    """A mode in [0, modes), or InputError."""
    validation.integer(0)("mode", mode)
    if mode >= modes:
        raise InputError(f"mode: found {mode}, expected at most {modes - 1} for a tensor of {modes} modes")
    return int(mode)


@follows_input
def unfold(tensor: Any, mode: int) -> Any:
    """The mode-k unfolding: mode k as rows, the others in their order, the last fastest, as columns.

    Parameters
    ----------
    tensor
        (n_0, …, n_{d-1}), real or complex.
    mode
        k, from 0.

    Returns
    -------
    array
        (n_k, Π n_j / n_k).

    Raises
    ------
    InputError
        For a mode that the tensor does not have, or data that are not finite numbers.

    Examples
    --------
    >>> import numpy as np
    >>> unfold(np.arange(8.0).reshape(2, 2, 2), 1).tolist()
    [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]
    """
    tensor = jnp.asarray(validation.tensor("tensor", tensor, complex=True))
    mode = checked_mode(mode, tensor.ndim)
    return jnp.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)


@follows_input
def fold(matrix: Any, mode: int, shape: Sequence[Any]) -> Any:
    """The tensor of the given shape whose mode-k unfolding is `matrix`: the inverse of `unfold`.

    Raises
    ------
    InputError
        Where matrix, mode and shape do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> T = np.arange(24.0).reshape(2, 3, 4)
    >>> bool(np.all(fold(unfold(T, 1), 1, T.shape) == T))
    True
    """
    matrix = jnp.asarray(validation.tensor("matrix", matrix, low=2, complex=True))
    mode, shape = checked_mode(mode, len(shape)), tuple(shape)
    rest = shape[:mode] + shape[mode + 1 :]
    if matrix.shape != (shape[mode], math.prod(rest)):
        raise InputError(f"matrix: found shape {matrix.shape}, expected the mode-{mode} unfolding of {shape}")
    return jnp.moveaxis(matrix.reshape(shape[mode], *rest), 0, mode)


@follows_input
def mode_product(tensor: Any, matrix: Any, mode: int) -> Any:
    """The mode-k product T ×_k U, whose mode-k unfolding is U T_(k).

    Use it to change the basis of one mode, or with a vector to contract it. Cost: rows(U) times the size of T.

    Parameters
    ----------
    tensor
        (n_0, …, n_{d-1}).
    matrix
        (m, n_k); a vector (n_k,) contracts the mode away.
    mode
        k, from 0.

    Returns
    -------
    array
        The tensor with n_k replaced by m, or without mode k.

    Raises
    ------
    InputError
        Where the sizes do not fit.

    Notes
    -----
    Products over different modes commute; over the same one (T ×_k U) ×_k V = T ×_k (V U) (Kolda & Bader, §2.5).

    Examples
    --------
    >>> import numpy as np
    >>> mode_product(np.ones((2, 3, 4)), np.ones((5, 3)), 1).shape
    (2, 5, 4)
    """
    tensor = validation.tensor("tensor", tensor, complex=True)
    matrix = validation.tensor("matrix", matrix, complex=True)
    mode = checked_mode(mode, tensor.ndim)
    if matrix.ndim > 2 or matrix.shape[-1] != tensor.shape[mode]:
        raise InputError(
            f"matrix: found shape {matrix.shape}, expected {tensor.shape[mode]} columns, the size of mode {mode}"
        )
    tensor, matrix = common_float(tensor, matrix)
    return apply_mode(tensor, matrix, mode)


def apply_mode(tensor: Any, matrix: Any, mode: int) -> Any:
    """`mode_product` on checked JAX or NumPy arrays."""
    xp: Any = np if isinstance(tensor, np.ndarray) else jnp
    product = xp.tensordot(tensor, matrix, axes=([mode], [matrix.ndim - 1]))
    return product if matrix.ndim == 1 else xp.moveaxis(product, -1, mode)


def apply_modes(tensor: Any, matrices: Sequence[Any], skip: int | None = None, *, transpose: bool = False) -> Any:
    """T ×_0 U_0 ×_1 U_1 … (with Uᴴ where `transpose`), leaving mode `skip` alone; checked arrays."""
    for mode, matrix in enumerate(matrices):
        if mode != skip and matrix is not None:
            tensor = apply_mode(tensor, matrix.conj().T if transpose else matrix, mode)
    return tensor


@follows_input
def khatri_rao(factors: Sequence[Any]) -> Any:
    """The column-wise Kronecker product A_0 ⊙ A_1 ⊙ …; the last factor's rows run fastest.

    Use it for the unfoldings of a sum of outer products: X_(k) = A_k · khatri_rao(the others in order)ᵀ. Algorithms
    here never form it. Cost: its size, r Π n_j.

    Parameters
    ----------
    factors
        Matrices (n_j, r) of equally many columns.

    Returns
    -------
    array
        (Π n_j, r).

    Raises
    ------
    InputError
        For no factor, or factors of different numbers of columns.

    Examples
    --------
    >>> import numpy as np
    >>> khatri_rao([np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]])]).tolist()
    [[3.0, 8.0], [5.0, 12.0]]
    """
    checked = checked_factors(factors)
    product = checked[0]
    for factor in checked[1:]:
        product = (product[:, None, :] * factor[None, :, :]).reshape(-1, factor.shape[1])
    return product


def checked_factors(factors: Sequence[Any], name: str = "factors") -> tuple[Any, ...]:
    """Matrices with one number of columns, in one precision."""
    if not isinstance(factors, Sequence) or not factors:
        raise InputError(f"{name}: found {type(factors).__name__}, expected a sequence of at least one matrix")
    checked = [validation.tensor(f"{name}[{i}]", f, low=2, complex=True) for i, f in enumerate(factors)]
    found = [f.shape for f in checked]
    if any(len(s) != 2 or s[1] != found[0][1] for s in found):
        raise InputError(f"{name}: found shapes {found}, expected matrices with one number of columns")
    return common_float(*checked)


@follows_input
def outer(vectors: Sequence[Any]) -> Any:
    """The outer product a_0 ∘ a_1 ∘ …: a tensor whose unfoldings all have rank one.

    Raises
    ------
    InputError
        For no vector, or something that is none.

    Examples
    --------
    >>> import numpy as np
    >>> outer([np.array([1.0, 2.0]), np.array([3.0, 4.0])]).tolist()
    [[3.0, 4.0], [6.0, 8.0]]
    """
    if not isinstance(vectors, Sequence) or not vectors:
        raise InputError(f"vectors: found {type(vectors).__name__}, expected a sequence of at least one vector")
    checked = [validation.tensor(f"vectors[{i}]", v, complex=True) for i, v in enumerate(vectors)]
    if any(v.ndim != 1 for v in checked):
        raise InputError(f"vectors: found shapes {[v.shape for v in checked]}, expected vectors")
    return functools.reduce(lambda a, b: a[..., None] * b, common_float(*checked))
