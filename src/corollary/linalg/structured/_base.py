"""What the structured operators share: shapes, the reading of their parameters, and a lower bound of ‖A‖₂.

A structured operator keeps its parameters (O(n) numbers where the matrix has n²) as leaves of a pytree: `jax.grad`
with respect to the operator is the gradient in its parameters, so each is a trainable layer as it stands. NumPy
parameters stay NumPy, and products with NumPy vectors then follow their precision.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Inexact

from corollary.core.errors import InputError
from corollary.core.operator import matmat, rmatmat
from corollary.core.precision import as_float, follows_input

F = TypeVar("F", bound=Callable[..., Any])
Numbers = Inexact[Array | np.ndarray, "..."]
Vector = Inexact[Array | np.ndarray, " _"]
Matrix = Inexact[Array | np.ndarray, "_ _"]


class Structured(lx.AbstractLinearOperator):
    """A linear operator that is known by few parameters. Abstract: `mv`, `as_matrix`, `transpose` are the leaf's."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """Precision of the products."""

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of x in A x."""
        return jax.ShapeDtypeStruct((self.shape[1],), self.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of A x."""
        return jax.ShapeDtypeStruct((self.shape[0],), self.dtype)


def compiled(method: F) -> F:
    """Compile a method of an operator, as one program an operator's shape; NumPy in, NumPy out."""
    return follows_input(jax.jit(method))  # type: ignore[return-value]


def numbers(name: str, value: Any, rank: int) -> Any:
    """Finite real or complex numbers in `rank` dimensions, none of them empty; NumPy stays NumPy, integers float."""
    if not isinstance(value, jax.Array):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise InputError(f"{name}: found a ragged sequence, expected an array of numbers") from error
        if value.dtype.kind not in "buifc":
            raise InputError(f"{name}: found dtype {value.dtype}, expected numbers")
        if value.dtype.kind in "bui":
            value = value.astype(np.float64)
    if value.ndim != rank or 0 in value.shape:
        expected = {1: "a vector", 2: "a matrix"}.get(rank, f"an array of {rank} dimensions")
        raise InputError(f"{name}: found an array of shape {value.shape}, expected {expected} with at least one entry")
    if not isinstance(value, Tracer) and not np.isfinite(np.asarray(value)).all():
        raise InputError(f"{name}: found NaN or infinity, expected finite numbers")
    return as_float(value) if isinstance(value, jax.Array) else value


def square(name: str, operator: lx.AbstractLinearOperator) -> int:
    """The size of a square operator."""
    m, n = operator.out_size(), operator.in_size()
    if m != n:
        raise InputError(f"{name}: found shape ({m}, {n}), expected a square operator")
    return n


def is_complex(*arrays: Any) -> bool:
    """Whether any of the arrays is complex."""
    return any(jnp.issubdtype(a.dtype, jnp.complexfloating) for a in arrays)


def norm_below(A: lx.AbstractLinearOperator, steps: int = 5) -> Float[Array, ""]:
    """A lower bound of ‖A‖₂: the operator's own (`norm_below`) or ‖A v‖/‖v‖ after a few power steps with AᴴA."""
    if (known := getattr(A, "norm_below", None)) is not None:
        return known()
    shape = A.in_structure()
    v = jax.random.normal(jax.random.key(0), (*shape.shape, 1), jnp.finfo(shape.dtype).dtype).astype(shape.dtype)

    real = jnp.finfo(shape.dtype).dtype

    def power(_: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        v, best = state
        size = jnp.linalg.norm(v)
        image = matmat(A, v / jnp.where(size > 0, size, 1).astype(v.dtype))
        return jnp.conj(rmatmat(A, jnp.conj(image))), jnp.maximum(best, jnp.linalg.norm(image))

    return jax.lax.fori_loop(0, steps, power, (v, jnp.zeros((), real)))[1]
