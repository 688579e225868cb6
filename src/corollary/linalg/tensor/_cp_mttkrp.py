"""Matricised tensor times Khatri-Rao product (MTTKRP): all modes of a sweep from two passes over a dense tensor.

A dimension tree splits the modes into two halves. One GEMM contracts the tensor with the factors of one half and leaves
a small array from which every mode of the other half follows; the tensor is never transposed and the Khatri-Rao product
of all modes never formed. Cost of a sweep: 4 r Π n_j flops where one product a mode costs 2 d r Π n_j, and O(r) times
the square root of the size in memory. A sparse tensor costs O(m d r) a mode for m entries.

Source: Phan, Tichavský & Cichocki, Fast Alternating LS Algorithms for High Order CANDECOMP/PARAFAC Tensor
Factorizations, IEEE Trans. Signal Process. 61 (2013), §III; Bader & Kolda, SISC 30 (2007), §5.2.4 (sparse).
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse as jsparse
from jaxtyping import Array

from corollary.core import validation
from corollary.core.errors import InputError

Factors = list[Any]
Update = Callable[[int, tuple[Any, ...], Factors], Any]
Lift = Callable[[Any], Any]


class DenseData(eqx.Module):
    """Dense arrays of one shape that are contracted side by side: the tensor, and its mask where entries are missing.

    ``mask`` is None, or of the tensor's real type with zeros at missing entries, where the tensor is zero too.
    """

    tensor: Array
    mask: Array | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.tensor.shape

    @property
    def dtype(self) -> Any:
        """Of the tensor."""
        return self.tensor.dtype

    def sweep(self, factors: Factors, update: Update, lifts: tuple[Lift, Lift]) -> Factors:
        """New factors, mode after mode: ``update(mode, products, factors)`` gets (n_k, columns) of each array.

        ``lifts`` say which columns the tensor and the mask are multiplied by, given a factor.
        """
        parts = (self.tensor,) if self.mask is None else (self.tensor, self.mask)
        return _descend(parts, tuple(range(len(factors))), list(factors), update, lifts, root=True)

    def residual_squared(self, factors: Factors) -> Array:
        """‖X − X̂‖² entry by entry: right to rounding however small it is, for one more pass and the size of X."""
        half = _split(self.shape)
        left, right = krao(factors[:half]), krao(factors[half:])
        residual = self.tensor.reshape(left.shape[0], -1) - left @ right.T
        if self.mask is not None:
            residual = residual * self.mask.reshape(residual.shape).astype(residual.dtype)
        return jnp.sum(jnp.square(jnp.abs(residual)))


class SparseData(eqx.Module):
    """Entries of a sparse tensor, kept once for each mode in the order of its index; what is not stored is zero."""

    indices: Array  # (d, m, d): [k] sorted by the index of mode k
    values: Array  # (d, m)
    shape: tuple[int, ...] = eqx.field(static=True)
    mask: None = None

    @property
    def dtype(self) -> Any:
        """Of the values."""
        return self.values.dtype

    @classmethod
    def of(cls, indices: np.ndarray, values: np.ndarray, shape: tuple[int, ...]) -> SparseData:
        """From coalesced entries in host memory."""
        if max(shape) > np.iinfo(np.int32).max:
            raise InputError(f"shape: found {shape}, expected sizes below 2**31, as indices are kept in 32 bits")
        orders = [np.argsort(indices[:, k], kind="stable") for k in range(len(shape))]
        kept = np.stack([indices[o] for o in orders]).astype(np.int32)
        return cls(jnp.asarray(kept), jnp.asarray(np.stack([values[o] for o in orders])), shape)

    def sweep(self, factors: Factors, update: Update, lifts: tuple[Lift, Lift]) -> Factors:
        """As `DenseData.sweep`."""
        factors = list(factors)
        for k in range(len(factors)):
            factors[k] = update(k, (self.product(k, [lifts[0](f) for f in factors]),), factors)
        return factors

    def product(self, mode: int, factors: Sequence[Any]) -> Array:
        """X_(k) times the Khatri-Rao product of the others."""
        where = self.indices[mode]
        terms = self.values[mode][:, None]
        for j, factor in enumerate(factors):
            if j != mode:
                terms = terms * factor.at[where[:, j]].get(mode="promise_in_bounds")
        return jax.ops.segment_sum(terms, where[:, mode], self.shape[mode], indices_are_sorted=True)


def krao(factors: Sequence[Any]) -> Any:
    """Khatri-Rao product of checked factors, the last one's rows fastest."""
    return functools.reduce(lambda a, b: (a[:, None, :] * b[None, :, :]).reshape(-1, b.shape[1]), factors)


def pairs(factor: Any, rank: int) -> Any:
    """Columns a_q conj(a_r) for q <= r (real) or all q, r (complex), start by start: a Gram matrix's entries.

    With these for factors the mask's MTTKRP holds the normal matrix of every row at once.
    """
    blocks = factor.reshape(factor.shape[0], -1, rank)
    rows, columns = _upper(rank) if not jnp.iscomplexobj(factor) else _all(rank)
    return (blocks[:, :, rows] * blocks[:, :, columns].conj()).reshape(factor.shape[0], -1)


def unpair(products: Any, rank: int, complex: bool) -> Any:
    """The (n, starts, r, r) normal matrices whose `pairs` are given as (n, starts · pairs)."""
    if complex:
        return products.reshape(products.shape[0], -1, rank, rank)
    rows, columns = _upper(rank)
    place = np.zeros((rank, rank), int)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    return products.reshape(products.shape[0], -1, len(rows))[:, :, place]


def coordinates(tensor: Any) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]] | None:
    """(indices, values, shape) of a sparse tensor, checked and with repeated entries added; None for a dense one.

    Sparse are a triple of that kind, and JAX's BCOO without batch or dense axes.
    """
    if isinstance(tensor, jsparse.BCOO):
        if tensor.n_batch or tensor.n_dense:
            raise InputError("tensor: found a BCOO with batch or dense axes, expected sparse axes only")
        inside = np.all(np.asarray(tensor.indices) < np.asarray(tensor.shape), axis=1)  # JAX pads beyond the end
        tensor = (np.asarray(tensor.indices)[inside], np.asarray(tensor.data)[inside], tensor.shape)
    # Three rows or slices as nested tuples are dense: then the first is like the last.
    triple = isinstance(tensor, tuple) and len(tensor) == 3
    if not (triple and _is_numbers(tensor[2]) and not _is_numbers(tensor[0])):
        return None
    if not all(isinstance(n, numbers.Integral) for n in tensor[2]):
        raise InputError(f"shape: found {tensor[2]}, expected integers")
    values = np.asarray(validation.tensor("values", tensor[1], complex=True, host=True))
    indices, shape = np.asarray(tensor[0]), tuple(int(n) for n in tensor[2])
    if len(shape) < 2 or min(shape) < 1 or math.prod(shape) > 2**62:
        raise InputError(f"shape: found {shape}, expected at least 2 modes of size >= 1, below 2**62 entries in all")
    if indices.dtype.kind not in "iu" or indices.shape != (values.size, len(shape)) or values.ndim != 1:
        raise InputError(
            f"indices: found {indices.dtype} of shape {indices.shape} with {values.shape} values, "
            f"expected integers (m, {len(shape)}) with (m,) values"
        )
    if np.any(indices < 0) or np.any(indices >= np.asarray(shape)):
        raise InputError(f"indices: found entries outside the shape, expected 0 <= index < {shape}")
    flat = np.ravel_multi_index(tuple(indices.T.astype(np.int64)), shape)
    unique, inverse = np.unique(flat, return_inverse=True)
    if unique.size < flat.size:
        total = np.zeros(unique.size, values.dtype)
        np.add.at(total, inverse, values)
        indices, values = np.stack(np.unravel_index(unique, shape), axis=1), total
    return indices, values, shape


def _is_numbers(value: Any) -> bool:
    """Whether it is a tuple of numbers."""
    return isinstance(value, tuple) and all(isinstance(n, numbers.Number) for n in value)


def _descend(
    parts: tuple[Any, ...], modes: tuple[int, ...], factors: Factors, update: Update, lifts: Sequence[Lift], root: bool
) -> Factors:
    """Both halves of `modes`, the left one first; `parts` are contracted with all other modes already."""
    if len(modes) == 1:
        factors[modes[0]] = update(modes[0], parts, factors)
        return factors
    half = _split(tuple(factors[m].shape[0] for m in modes))
    left, right = modes[:half], modes[half:]
    for keep, away in ((left, right), (right, left)):
        children = tuple(
            _contract(part, krao([lift(factors[m]) for m in away]), keep is left, root)
            for part, lift in zip(parts, lifts, strict=False)
        )
        factors = _descend(children, keep, factors, update, lifts, root=False)
    return factors


def _contract(part: Any, product: Any, keep_left: bool, root: bool) -> Any:
    """(left, right[, columns]) with its right or left modes multiplied by `product` (size, columns) and summed."""
    part = part.astype(product.dtype)  # a real mask meets complex columns
    if root:
        matrix = part.reshape(-1, product.shape[0]) if keep_left else part.reshape(product.shape[0], -1)
        return matrix @ product if keep_left else matrix.T @ product
    columns = product.shape[1]
    if keep_left:
        return jnp.sum(part.reshape(-1, product.shape[0], columns) * product[None], axis=1)
    return jnp.sum(part.reshape(product.shape[0], -1, columns) * product[:, None], axis=0)


def _split(shape: tuple[int, ...]) -> int:
    """Where to cut the modes so that the two halves together are smallest."""
    sizes = [math.prod(shape[:h]) + math.prod(shape[h:]) for h in range(1, len(shape))]
    return 1 + int(np.argmin(sizes))


def _upper(rank: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(rank)


def _all(rank: int) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.indices((rank, rank))
    return rows.ravel(), columns.ravel()
