"""The two products that randomized methods need, on the side where the matrix lies.

A NumPy array, a `scipy.sparse` matrix or a JAX array in host memory is multiplied by the host's BLAS where it lies:
moving 400 MB into JAX costs more than ten products. Traced, sharded and accelerator arrays and every `lineax` operator
are multiplied by JAX. The algorithms are written once over `xp`, which is `numpy` or `jax.numpy`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse
from jax.core import Tracer
from jax.experimental import sparse as jsparse
from jaxtyping import Array, Float, Key

from corollary.core import operator, validation
from corollary.core.errors import InputError
from corollary.core.precision import on_host

Block = Float[Array | np.ndarray, "_ _"]
Values = Float[Array | np.ndarray, " _"]


class Products(NamedTuple):
    """A matrix as seen by a randomized method: its shape, its precision, V ↦ AV and U ↦ AᵀU."""

    xp: Any
    shape: tuple[int, int]
    dtype: Any
    apply: Callable[[Any], Any]
    adjoint: Callable[[Any], Any]
    traced: bool
    in_jax: bool
    on_accelerator: bool = False  # every dispatch costs as much as a small product

    @property
    def T(self) -> Products:
        """The transpose: the two products change places."""
        return self._replace(shape=self.shape[::-1], apply=self.adjoint, adjoint=self.apply)

    @property
    def eps(self) -> float:
        """Machine epsilon of the products."""
        return float(np.finfo(self.dtype).eps)

    def scaled(self, scale: Any) -> Products:
        """A / scale, by scaling the thin factor only."""
        adjoint = self.adjoint
        return self._replace(apply=lambda V, f=self.apply: f(V / scale), adjoint=lambda U: adjoint(U) / scale)

    def normal(self, key: Key[Array, ""], rows: int, columns: int) -> Block:
        """A Gaussian block, the same on both sides."""
        block = jax.random.normal(key, (rows, columns), self.dtype)
        return np.asarray(block) if self.xp is np else block

    def out(self, tree: Any) -> Any:
        """Results in the caller's kind of array: JAX arrays that were computed on the host go back."""
        if self.in_jax and self.xp is np:
            return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray | np.generic) else x, tree)
        return tree


def products(A: Any, key: Any = None, name: str = "A", look: bool = True) -> Products:
    """See a dense or sparse matrix or an operator as its two products; refuse what is none, or is not finite.

    A traced `key` (a batch of seeds under `vmap`, say) needs JAX's products as much as a traced matrix does.
    Without `look` a NumPy matrix is not searched for NaN, a pass over it: the caller looks at its first product.
    """
    in_jax = isinstance(A, jax.Array | lx.AbstractLinearOperator | jsparse.JAXSparse)
    A = _checked(name, A, look)
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((A, key)))
    pair = None if traced else _host_pair(A)
    if pair is not None:
        shape: Any = operator.shape(A) if isinstance(A, lx.AbstractLinearOperator) else A.shape
        dtype = operator.dtype(A) if isinstance(A, lx.AbstractLinearOperator) else A.dtype
        return Products(np, shape, np.dtype(dtype), *pair, False, in_jax)
    op = operator.as_operator(A)
    apply, adjoint = lambda V: operator.matmat(op, V), lambda U: operator.rmatmat(op, U)
    remote = not traced and not on_host(*jax.tree.leaves(op))
    return Products(jnp, operator.shape(op), np.dtype(operator.dtype(op)), apply, adjoint, traced, True, remote)


def _checked(name: str, A: Any, look: bool) -> Any:
    """A real, finite, non-empty matrix (array, CSR or operator) with floating entries."""
    if isinstance(A, jsparse.JAXSparse):
        A = operator.as_operator(A)
    if isinstance(A, lx.AbstractLinearOperator):
        _real(name, operator.dtype(A))
        return A
    if not look and isinstance(A, np.ndarray) and A.ndim == 2 and A.size and A.dtype in (np.float32, np.float64):
        return A
    if not scipy.sparse.issparse(A):
        return validation.matrix(name, A, host=True)
    csr = scipy.sparse.csr_array(A)
    csr = csr if csr.dtype in (np.float32, np.float64) else csr.astype(_real(name, csr.dtype))
    shape: Any = csr.shape
    if 0 in shape:
        raise InputError(f"{name}: found an empty matrix of shape {shape}, expected at least one entry")
    if not np.isfinite(csr.data).all():
        raise InputError(f"{name}: found NaN or infinity, expected finite numbers")
    return csr


def _host_pair(A: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]] | None:
    """V ↦ AV and U ↦ AᵀU in NumPy or SciPy, where every number of A lies in host memory; else None."""
    if isinstance(A, lx.MatrixLinearOperator):
        A = A.matrix
    if isinstance(A, operator.Sparse) and on_host(A.matrix.data):
        parts = (np.asarray(part) for part in (A.matrix.data, A.matrix.indices, A.matrix.indptr))
        A = scipy.sparse.csr_array(tuple(parts), shape=A.shape)
    if isinstance(A, jax.Array) and on_host(A):
        A = np.asarray(A)
    if isinstance(A, np.ndarray) or scipy.sparse.issparse(A):
        transpose = A.T
        return lambda V: A @ V, lambda U: transpose @ U
    if isinstance(A, operator.Centred) and on_host(A.mean):
        inner, mean = _host_pair(A.operator), np.asarray(A.mean)
        if inner is None:
            return None
        apply, adjoint = inner
        rows = lambda V, f: f(V) - mean @ V  # noqa: E731
        columns = lambda V, f: f(V) - mean[:, None] * V.sum(axis=0)  # noqa: E731
        first, second = (rows, columns) if A.side == "right" else (columns, rows)
        return lambda V: first(V, apply), lambda U: second(U, adjoint)
    return None


def orthonormal(block: Block, basis: list[Any], xp: Any) -> Block:
    """Orthonormal columns that span `block` less its part in `basis`; random directions where nothing is left.

    Projecting, normalising and projecting once more keeps the whole basis orthogonal to rounding ("twice is enough",
    Parlett, The Symmetric Eigenvalue Problem, §6.9), also where the block is numerically dependent on the basis.
    """
    for _ in range(2):
        block = xp.linalg.qr(deflate(block, basis))[0]
    return block


def deflate(block: Block, basis: list[Any]) -> Block:
    """(I − QQᵀ) block, for Q in blocks of fixed shape."""
    for Q in basis:
        block = block - Q @ (Q.T @ block)
    return block


def _real(name: str, dtype: Any) -> Any:
    if np.dtype(dtype).kind not in "buif":
        raise InputError(f"{name}: found dtype {dtype}, expected real numbers")
    return np.float64
