"""What every sketching operator is: a random (rows, columns) linear map S with E SᵀS = I, and its products.

A sketch compresses a tall matrix A to S A, whose few rows still tell lengths in the range of A. Apply it by `apply`
(S A) or `apply_rows` (X Sᵀ): NumPy and `scipy.sparse` data and JAX arrays in host memory are multiplied on the host
where they lie, traced, sharded and accelerator arrays by JAX; both sides use the same S. As a `lineax` operator it has
`mv`, `transpose` and `as_matrix` besides. Source: Martinsson & Tropp, Acta Numerica 29 (2020), §§8-9.
"""

from __future__ import annotations

import abc
import functools
import operator
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse
from jax.core import Tracer
from jaxtyping import Array, Inexact

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.operator import register
from corollary.core.precision import on_host

HOST_WORK = 2e7  # multiplications below which a second thread costs more than it saves


class AbstractSketch(lx.AbstractLinearOperator):
    """The interface of the sketching operators; see the module's docstring."""

    rows: eqx.AbstractVar[int]
    columns: eqx.AbstractVar[int]
    dtype: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def mm(self, block: Inexact[Array, "n k"]) -> Inexact[Array, "m k"]:
        """S V for a block of vectors."""

    @abc.abstractmethod
    def rmm(self, block: Inexact[Array, "m k"]) -> Inexact[Array, "n k"]:
        """Sᵀ U for a block of vectors."""

    @abc.abstractmethod
    def on_host(self, A: Any) -> np.ndarray:
        """S A for a NumPy or `scipy.sparse` matrix with as many rows as S has columns."""

    def apply(self, A: Any) -> Any:
        """S A, for a vector or a matrix with `columns` rows: NumPy or `scipy.sparse` in, NumPy out; JAX in, JAX out."""
        host, on_host = _host_form("A", A, self)
        if host.shape[0] != self.columns:
            raise InputError(f"A: found {host.shape[0]} rows, expected {self.columns} as the sketch has columns")
        flat = host[:, None] if host.ndim == 1 else host
        result = self.on_host(flat) if on_host else self.mm(flat)
        result = result[:, 0] if host.ndim == 1 else result
        return jnp.asarray(result) if isinstance(A, jax.Array) else result

    def apply_rows(self, X: Any) -> Any:
        """X Sᵀ: every row of X, (k, `columns`), sketched; as a random projection of points does."""
        host, on_host = _host_form("X", X, self)
        if host.ndim != 2 or host.shape[1] != self.columns:
            raise InputError(f"X: found shape {host.shape}, expected {self.columns} columns as the sketch has")
        result = self.on_host(host.T).T if on_host else self.mm(host.T).T
        return jnp.asarray(result) if isinstance(X, jax.Array) else result

    def mv(self, vector: Inexact[Array, " n"]) -> Inexact[Array, " m"]:
        """S x."""
        return self.mm(vector[:, None])[:, 0]

    def as_matrix(self) -> Inexact[Array, "m n"]:
        """The dense matrix; ask for it only where it fits."""
        return self.rmm(jnp.eye(self.rows, dtype=self.dtype)).T

    def transpose(self) -> SketchTranspose:
        """Sᵀ."""
        return SketchTranspose(self)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of x in S x."""
        return jax.ShapeDtypeStruct((self.columns,), self.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of S x."""
        return jax.ShapeDtypeStruct((self.rows,), self.dtype)


class SketchTranspose(lx.AbstractLinearOperator):
    """Sᵀ of a sketch S: the test matrix of a range finder, or the way back."""

    sketch: AbstractSketch

    def mv(self, vector: Inexact[Array, " m"]) -> Inexact[Array, " n"]:
        """Sᵀ y."""
        return self.sketch.rmm(vector[:, None])[:, 0]

    def mm(self, block: Inexact[Array, "m k"]) -> Inexact[Array, "n k"]:
        """Sᵀ U."""
        return self.sketch.rmm(block)

    def as_matrix(self) -> Inexact[Array, "n m"]:
        """The dense transpose."""
        return self.sketch.as_matrix().T

    def transpose(self) -> AbstractSketch:
        """S."""
        return self.sketch

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of y in Sᵀ y."""
        return self.sketch.out_structure()

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of Sᵀ y."""
        return self.sketch.in_structure()


register(SketchTranspose)


def sizes(rows: Any, columns: Any, dtype: Any) -> tuple[int, int, Any]:
    """The three settings that all sketches share, checked."""
    validation.integer(1)("rows", rows)
    validation.integer(1)("columns", columns)
    dtype = jnp.dtype(dtype or jnp.zeros(()).dtype)
    if dtype.kind != "f":
        raise InputError(f"dtype: found {dtype}, expected a floating type")
    return int(rows), int(columns), dtype


def in_parts(part: Callable[[int, int], np.ndarray], length: int, work: float) -> np.ndarray:
    """Σ part(start, stop) over a partition of the rows: one part a core, in threads, where there is enough to do."""
    count = min(4, os.cpu_count() or 1) if work >= HOST_WORK else 1
    if count == 1:
        return part(0, length)
    cuts = [length * i // count for i in range(count + 1)]
    with ThreadPoolExecutor(count) as pool:
        return functools.reduce(operator.add, pool.map(part, cuts[:-1], cuts[1:]))


def _host_form(name: str, A: Any, sketch: AbstractSketch) -> tuple[Any, bool]:
    """A as NumPy or SciPy data and True where the host should multiply, else as a JAX array and False."""
    leaves = jax.tree.leaves((A, sketch))
    traced = any(isinstance(leaf, Tracer) for leaf in leaves)
    if scipy.sparse.issparse(A):
        if traced:
            raise InputError(f"{name}: found a SciPy matrix under jit or vmap, expected a dense array there")
        return scipy.sparse.csr_array(A), True
    if isinstance(A, jax.Array):
        if not jnp.issubdtype(A.dtype, jnp.floating):
            A = A.astype(sketch.dtype)
        if traced or not on_host(A):
            return A, False
        return np.asarray(A), True
    array = np.asarray(A)
    if array.dtype.kind not in "buif" or array.ndim not in (1, 2):
        raise InputError(f"{name}: found shape {array.shape} of {array.dtype}, expected a real vector or matrix")
    array = array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    return (jnp.asarray(array), False) if traced else (array, True)
