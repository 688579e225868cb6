"""Linear operators: everything that only needs products with A takes one.

`as_operator` turns a matrix, a `scipy.sparse` matrix, a JAX sparse matrix or a `lineax` operator into a
`lineax.AbstractLinearOperator`; `Function` makes one from a pair of products. `matmat` and `rmatmat` multiply a block
of vectors at once: one GEMM for a dense matrix, one BCSR product for a sparse one. Cost: that of the product.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse
from jax.experimental import sparse as jsparse
from jaxtyping import Array, Float, Inexact, Int

from corollary.core.errors import InputError
from corollary.core.precision import as_float

Operator = lx.AbstractLinearOperator


class Sparse(lx.AbstractLinearOperator):
    """A sparse matrix that multiplies fast from both sides: A and Aᵀ are both kept as BCSR.

    Neither product ever densifies. On a CPU a BCSR product with eight columns or more runs at SciPy's speed, but with
    a single vector twenty times slower, so that `mv` there gathers and adds up by row. Cost O(nnz) a product; memory
    O(nnz), twice.

    Parameters
    ----------
    matrix
        ``scipy.sparse`` matrix or array of any format, JAX ``BCOO`` or ``BCSR``; real and finite; duplicates are
        summed. Not traced: build it outside `jit` and pass it in. Integers and booleans become the widest float.

    Raises
    ------
    InputError
        For complex, NaN or infinite entries, and for anything that is not a sparse matrix.

    Examples
    --------
    >>> import scipy.sparse, numpy as np
    >>> A = Sparse(scipy.sparse.csr_array(np.eye(3, dtype=np.float32)[:2]))
    >>> A.mv(jnp.arange(3, dtype=jnp.float32)).tolist()
    [0.0, 1.0]
    """

    matrix: jsparse.BCSR
    adjoint: jsparse.BCSR
    rows: Int[Array, " nnz"]  # the row of each stored entry of `matrix`; `columns` is the same for `adjoint`
    columns: Int[Array, " nnz"]

    def __init__(self, matrix: Any):
        csr = _to_csr(matrix)
        self.matrix, self.rows = _to_bcsr(csr)
        self.adjoint, self.columns = _to_bcsr(csr.T.tocsr())

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.matrix.shape  # type: ignore[return-value]

    @property
    def nnz(self) -> int:
        """Stored entries."""
        return self.matrix.nse

    def mv(self, vector: Inexact[Array, " n"]) -> Inexact[Array, " m"]:
        """A x."""
        return jax.lax.platform_dependent(
            self.matrix, self.rows, vector, cpu=_add_up_rows, default=lambda matrix, _, x: matrix @ x
        )

    def as_matrix(self) -> Inexact[Array, "m n"]:
        """The dense matrix; ask for it only where it fits."""
        return self.matrix.todense()

    def transpose(self) -> Sparse:
        """Aᵀ: the two stored matrices change places."""
        return _swapped(self, matrix="adjoint", rows="columns")

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of x in A x."""
        return jax.ShapeDtypeStruct((self.shape[1],), self.matrix.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of A x."""
        return jax.ShapeDtypeStruct((self.shape[0],), self.matrix.dtype)


class Function(lx.AbstractLinearOperator):
    """A matrix-free operator from its two products, each on a single vector.

    Parameters
    ----------
    mv_fn
        x of shape (n,) to A x of shape (m,).
    n
        Length of x.
    rmv_fn
        y of shape (m,) to Aᵀ y of shape (n,). Left out, it is derived by transposing `mv_fn` (`jax.linear_transpose`).
    dtype
        Of x; the result may be of another.

    Raises
    ------
    InputError
        Where a product returns anything but a vector of the right length.

    Examples
    --------
    >>> difference = Function(lambda x: x[1:] - x[:-1], 3)
    >>> difference.mv(jnp.array([1.0, 4.0, 9.0])).tolist()
    [3.0, 5.0]
    >>> difference.transpose().mv(jnp.array([1.0, 1.0])).tolist()
    [-1.0, 0.0, 1.0]
    """

    # Arrays that the functions close over become leaves, so that the operator may cross jit, vmap and grad.
    mv_fn: Callable[[Array], Array]
    rmv_fn: Callable[[Array], Array]
    n: int = eqx.field(static=True)
    m: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)
    out_dtype: Any = eqx.field(static=True)

    def __init__(
        self,
        mv_fn: Callable[[Array], Array],
        n: int,
        rmv_fn: Callable[[Array], Array] | None = None,
        dtype: Any = None,
    ):
        self.dtype = jnp.dtype(dtype or jnp.zeros(()).dtype)
        x = jax.ShapeDtypeStruct((n,), self.dtype)
        self.mv_fn = _closed(mv_fn, x)
        y = jax.eval_shape(self.mv_fn, x)
        if y.ndim != 1:
            raise InputError(f"mv_fn: returned shape {y.shape} for a vector of length {n}, expected a vector")
        # The transpose runs through `mv_fn` as it was converted: the arrays it closes over are shared, not kept twice.
        given = rmv_fn or _Transposed(self.mv_fn, x)
        self.rmv_fn = given if rmv_fn is None else _closed(given, y)
        if (back := jax.eval_shape(given, y)).shape != x.shape:
            raise InputError(f"rmv_fn: returned shape {back.shape} for a vector of {y.shape}, expected ({n},)")
        self.n, self.m, self.out_dtype = n, y.shape[0], y.dtype

    def mv(self, vector: Inexact[Array, " n"]) -> Inexact[Array, " m"]:
        """A x."""
        return self.mv_fn(vector)

    def as_matrix(self) -> Inexact[Array, "m n"]:
        """The dense matrix by n products."""
        return jax.vmap(self.mv_fn, in_axes=1, out_axes=1)(jnp.eye(self.n, dtype=self.dtype))

    def transpose(self) -> Function:
        """Aᵀ: the two products change places."""
        return _swapped(self, mv_fn="rmv_fn", n="m", dtype="out_dtype")

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of x in A x."""
        return jax.ShapeDtypeStruct((self.n,), self.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of A x."""
        return jax.ShapeDtypeStruct((self.m,), self.out_dtype)


class _Closed(eqx.Module):
    """A function whose closed-over arrays are leaves and whose code is static, so that plain `jit` takes it."""

    arrays: list[Any]
    code: Any = eqx.field(static=True)

    def __call__(self, vector: Array) -> Array:
        others, tree = self.code
        return jax.tree.unflatten(tree, eqx.combine(self.arrays, list(others)))(vector)


def _closed(function: Callable[[Array], Array], x: jax.ShapeDtypeStruct) -> _Closed:
    leaves, tree = jax.tree.flatten(eqx.filter_closure_convert(function, x))
    arrays, others = eqx.partition(leaves, lambda leaf: isinstance(leaf, jax.Array | np.ndarray))
    return _Closed(arrays, (tuple(others), tree))


class _Transposed(eqx.Module):
    """y to Aᵀ y, by transposing x to A x."""

    mv_fn: Callable[[Array], Array]
    x: jax.ShapeDtypeStruct = eqx.field(static=True)

    def __call__(self, vector: Array) -> Array:
        return jax.linear_transpose(self.mv_fn, self.x)(vector)[0]


class Centred(lx.AbstractLinearOperator):
    """A − 1 μᵀ without forming it: a sparse matrix stays sparse while its columns are centred."""

    operator: lx.AbstractLinearOperator
    mean: Inexact[Array, " n"]
    side: str = eqx.field(static=True, default="right")  # "right": A − 1 μᵀ; "left": A − μ 1ᵀ

    def mv(self, vector: Inexact[Array, " n"]) -> Inexact[Array, " m"]:
        """A x − 1 (μᵀ x)."""
        if self.side == "right":
            return self.operator.mv(vector) - self.mean @ vector
        return self.operator.mv(vector) - self.mean * jnp.sum(vector)

    def as_matrix(self) -> Inexact[Array, "m n"]:
        """The dense centred matrix."""
        mean = self.mean if self.side == "right" else self.mean[:, None]
        return self.operator.as_matrix() - mean

    def transpose(self) -> Centred:
        """Aᵀ − μ 1ᵀ."""
        return Centred(self.operator.transpose(), self.mean, "left" if self.side == "right" else "right")

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of x in A x."""
        return self.operator.in_structure()

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of A x."""
        return self.operator.out_structure()


def as_operator(a: Any) -> lx.AbstractLinearOperator:
    """A `lineax` operator from a 2-d array, a SciPy or JAX sparse matrix, or an operator (returned as it is).

    Raises
    ------
    InputError
        For anything that is not two-dimensional.
    """
    if isinstance(a, lx.AbstractLinearOperator):
        return a
    if scipy.sparse.issparse(a) or isinstance(a, jsparse.BCOO | jsparse.BCSR):
        return Sparse(a)
    matrix = as_float(a)
    if matrix.ndim != 2:
        raise InputError(f"A: found an array of shape {matrix.shape}, expected a matrix (two dimensions)")
    return lx.MatrixLinearOperator(matrix)


def shape(a: lx.AbstractLinearOperator) -> tuple[int, int]:
    """(rows, columns) of an operator."""
    return a.out_size(), a.in_size()


def dtype(a: lx.AbstractLinearOperator) -> Any:
    """Precision of an operator's products."""
    return a.out_structure().dtype


def matmat(a: lx.AbstractLinearOperator, block: Inexact[Array, "n k"]) -> Inexact[Array, "m k"]:
    """A V for a block of k vectors: one GEMM where A is dense, one sparse product where it is sparse.

    An operator with a product of its own for blocks brings it as a method ``mm``. Any other (`Function`,
    ``lineax.JacobianLinearOperator``) is vmapped over its `mv`: a Jacobian is then linearised once and pushed forward k
    times.
    """
    match a:
        case lx.MatrixLinearOperator():
            return a.matrix @ block
        case Sparse():
            return a.matrix @ block
        case Centred():
            inner = matmat(a.operator, block)
            if a.side == "right":
                return inner - (a.mean @ block)[None, :]
            return inner - jnp.outer(a.mean, jnp.sum(block, axis=0))
        case _ if hasattr(a, "mm"):
            return a.mm(block)  # type: ignore[attr-defined]
        case _:
            return jax.vmap(a.mv, in_axes=1, out_axes=1)(block)


def rmatmat(a: lx.AbstractLinearOperator, block: Inexact[Array, "m k"]) -> Inexact[Array, "n k"]:
    """Aᵀ U for a block of k vectors, as `matmat` on the transpose: a Jacobian is pulled back k times."""
    if isinstance(a, lx.MatrixLinearOperator):
        return a.matrix.T @ block  # no transposed copy: the GEMM reads A as it lies
    return matmat(a.transpose(), block)


def frobenius_squared(a: lx.AbstractLinearOperator) -> Float[Array, ""] | None:
    """‖A‖_F² where it can be read off the entries, else None."""
    match a:
        case lx.MatrixLinearOperator():
            return jnp.sum(jnp.square(jnp.abs(a.matrix)))
        case Sparse():
            return jnp.sum(jnp.square(jnp.abs(a.matrix.data)))
        case Centred() if a.side == "right" and (inner := frobenius_squared(a.operator)) is not None:
            total = rmatmat(a.operator, jnp.ones((a.out_size(), 1), a.mean.dtype))[:, 0]
            # Σ(a_ij − μ_j)² from sums; the subtraction cancels only where the matrix is nearly constant by column.
            return jnp.maximum(inner - 2 * a.mean @ total + a.out_size() * a.mean @ a.mean, 0)
        case Centred() if a.side == "left":
            return frobenius_squared(a.transpose())
        case _:
            return None


def _to_csr(matrix: Any) -> Any:
    if isinstance(matrix, jsparse.BCOO):
        matrix = jsparse.BCSR.from_bcoo(matrix.sum_duplicates())
    if isinstance(matrix, jsparse.BCSR):
        parts = tuple(np.asarray(p) for p in (matrix.data, matrix.indices, matrix.indptr))
        matrix = scipy.sparse.csr_array(parts, shape=matrix.shape)
    if not scipy.sparse.issparse(matrix) or matrix.ndim != 2:
        raise InputError(f"matrix: found {type(matrix).__name__}, expected a SciPy or JAX sparse matrix")
    csr = scipy.sparse.csr_array(matrix)
    csr.sum_duplicates()
    if csr.dtype.kind not in "buif":
        raise InputError(f"matrix: found dtype {csr.dtype}, expected real numbers")
    if csr.dtype not in (np.float32, np.float64):
        csr = csr.astype(np.float64)
    if not np.isfinite(csr.data).all():
        raise InputError("matrix: found NaN or infinity, expected finite numbers")
    return csr


def _to_bcsr(csr: Any) -> tuple[jsparse.BCSR, Array]:
    rows = np.repeat(np.arange(csr.shape[0], dtype=np.int32), np.diff(csr.indptr))
    parts = (jnp.asarray(csr.data), jnp.asarray(csr.indices.astype(np.int32)), jnp.asarray(csr.indptr.astype(np.int32)))
    return jsparse.BCSR(parts, shape=csr.shape, indices_sorted=True, unique_indices=True), jnp.asarray(rows)


def _add_up_rows(matrix: jsparse.BCSR, rows: Int[Array, " nnz"], x: Inexact[Array, " n"]) -> Inexact[Array, " m"]:
    terms = matrix.data * x.at[matrix.indices].get(mode="promise_in_bounds")
    return jax.ops.segment_sum(terms, rows, num_segments=matrix.shape[0], indices_are_sorted=True)


def _swapped(operator: Any, **pairs: str) -> Any:
    """The same operator with fields exchanged pairwise: its transpose, without building anything."""
    names = pairs | {b: a for a, b in pairs.items()}
    other = object.__new__(type(operator))
    for field in dataclasses.fields(operator):
        object.__setattr__(other, field.name, getattr(operator, names.get(field.name, field.name)))
    return other


C = TypeVar("C", bound=type[lx.AbstractLinearOperator])
QUERIES: tuple[Any, ...] = (
    lx.is_symmetric,
    lx.is_diagonal,
    lx.is_tridiagonal,
    lx.has_unit_diagonal,
    lx.is_lower_triangular,
    lx.is_upper_triangular,
    lx.is_positive_semidefinite,
    lx.is_negative_semidefinite,
)


def register(cls: C, **truths: Any) -> C:
    """Tell `lineax` what it asks of an operator class: once for each class, beneath it (or as a bare decorator).

    Parameters
    ----------
    cls
        The class; its operators count as their own linearisation, and materialise by `as_matrix`.
    truths
        By name of a query (``is_symmetric``, ``is_positive_semidefinite``, ...): True, or a function of the operator;
        what is left out is False. ``diagonal``, ``conj``: functions of the operator; left out, the diagonal is read off
        the dense matrix, and the conjugate is the operator itself, which is right for real entries only.

    Examples
    --------
    >>> class Twice(Function): ...
    >>> _ = register(Twice, is_symmetric=True, is_diagonal=lambda operator: operator.n == 1)
    >>> twice = Twice(lambda x: 2 * x, 3)
    >>> lx.is_symmetric(twice), lx.is_diagonal(twice), lx.is_positive_semidefinite(twice)
    (True, False, False)
    """
    diagonal = truths.pop("diagonal", lambda operator: jnp.diag(operator.as_matrix()))
    conj = truths.pop("conj", lambda operator: operator)
    for query in QUERIES:
        truth = truths.pop(query.__name__, False)
        query.register(cls, truth if callable(truth) else lambda _, truth=truth: truth)
    if truths:
        raise InputError(f"truths: found {', '.join(truths)}, expected names of lineax's queries")
    lx.linearise.register(cls, lambda operator: operator)
    lx.materialise.register(cls, lambda operator: lx.MatrixLinearOperator(operator.as_matrix()))
    lx.diagonal.register(cls, diagonal)
    lx.conj.register(cls, conj)
    return cls


for _class in (Sparse, Function, Centred):
    register(_class)
