"""Is this map linear, what is its matrix, and is this its adjoint? A check for black boxes, by products only.

Use it on a hand-written operator (a blur, a finite difference, a Jacobian product) before handing it to a solver. It
tests additivity and homogeneity on random vectors over several magnitudes, so that a map which is linear only near the
origin, or merely affine, is caught. Cost: the products of the probes, and n more for the matrix.

Source: the dot-product test; J. Claerbout, "Earth Soundings Analysis" (1992), §5 ("the adjoint test").
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution

# Powers of two, so that a truly linear floating-point map scales without any rounding.
MAGNITUDES = (2.0**-10, 1.0, 2.0**10)


@follows_input
def check_linear(
    function: Any,
    n: int | None = None,
    *,
    adjoint: Callable[[Any], Any] | None = None,
    key: Any = None,
    n_probes: int = 8,
    dtype: Any = None,
    traceable: bool = True,
    matrix: bool = True,
) -> Solution:
    """The matrix [T(e_1) ... T(e_n)] of a map, with its linearity defect and its adjoint defect.

    Parameters
    ----------
    function
        x of shape (n,) to a vector (m,), or to a scalar (a functional); or a ``lineax`` operator.
    n
        Length of x; left out for an operator.
    adjoint
        y of shape (m,) to (n,), to be checked as Aᵀ. For an operator its own transpose is checked.
    key
        From `jax.random.key`; fixed where it is left out.
    n_probes
        Random pairs at each of three magnitudes.
    dtype
        Of x: float64 for NumPy callers unless said otherwise.
    traceable
        False for a function that JAX cannot trace (NumPy or a foreign library inside): it is then called on NumPy
        vectors, one at a time.
    matrix
        False to leave the matrix out (value None) where n products are too many.

    Returns
    -------
    `Solution` whose value is the matrix (m, n), or the weights w_i = f(e_i) of shape (n,) for a functional.

    Certificates: ``linearity`` (monitor): the largest ‖T(ax + by) − aT(x) − bT(y)‖ relative to the terms, against
    rounding; ``matrix`` (monitor): the same of T(x) − Ax; ``adjoint`` (monitor), where there is one:
    |⟨Ax, y⟩ − ⟨x, Aᵀy⟩| relative to ‖Ax‖‖y‖ + ‖x‖‖Aᵀy‖. A failed one is proof; a passed one is evidence: an analytic
    map that is not linear passes with probability 0 in exact arithmetic.

    Raises
    ------
    InputError
        Where the map returns something else than a scalar or a vector, or the adjoint not a vector of length n.

    Examples
    --------
    >>> found = check_linear(lambda x: x[::-1] * 2.0, 2)
    >>> found.value.tolist(), bool(found.holds)
    ([[0.0, 2.0], [2.0, 0.0]], True)
    >>> bool(check_linear(lambda x: x + 1.0, 2).holds)
    False
    """
    if isinstance(function, lx.AbstractLinearOperator):
        operator = function
        n, dtype, function = operator.in_size(), operator.in_structure().dtype, operator.mv
        adjoint = adjoint or operator.transpose().mv
    validation.integer(1)("n", n)
    validation.integer(1)("n_probes", n_probes)
    assert n is not None
    dtype = jnp.dtype(dtype or jnp.zeros(()).dtype)
    key = jax.random.key(0) if key is None else key
    size = n_probes * len(MAGNITUDES)
    apply = _rows_of(function, traceable)

    draws = jax.random.normal(key, (2 * size + n_probes, n), dtype)
    magnitude = jnp.repeat(jnp.asarray(MAGNITUDES, dtype), n_probes)[:, None]
    x, y = draws[:size] * magnitude, draws[size : 2 * size] * jnp.flip(magnitude)
    a, b = 0.75, -1.5  # exact in every binary format
    images = apply(jnp.concatenate([x, y, a * x + b * y, 2 * x, jnp.zeros((1, n), dtype)]))
    functional = images.ndim == 1
    if images.ndim > 2:
        raise InputError(f"function: returned shape {images.shape[1:]}, expected a scalar or a vector")
    images = images[:, None] if functional else images
    # Rounding of a map with n-term sums: some n eps of its terms.
    allowed = 32.0 * n * float(jnp.finfo(dtype).eps)
    certificates = {
        "linearity": _monitor("T(ax + by) = a T(x) + b T(y) and T(0) = 0", _linearity(images, a, b), allowed)
    }
    value = None
    if matrix:
        columns = apply(jnp.eye(n, dtype=dtype))
        columns = columns[:, None] if functional else columns
        gap = _matrix_defect(images[:size], x, columns)
        certificates["matrix"] = _monitor("T(x) = [T(e_1) ... T(e_n)] x", gap, allowed)
        value = columns[:, 0] if functional else columns.T
    if adjoint is not None:
        dual = jax.random.normal(jax.random.fold_in(key, 1), (size, images.shape[1]), images.dtype)
        pulled = _rows_of(adjoint, traceable)(dual[:, 0] if functional else dual)
        if pulled.shape != (size, n):
            raise InputError(f"adjoint: returned shape {pulled.shape[1:]}, expected ({n},)")
        gap = _adjoint_defect(images[:size], dual, x.astype(images.dtype), pulled.astype(images.dtype))
        certificates["adjoint"] = _monitor("⟨Ax, y⟩ = ⟨x, Aᵀy⟩", gap, allowed)
    return Solution(value, certificates, stats={"probes": size})


def _rows_of(function: Callable[[Any], Any], traceable: bool) -> Callable[[Array], Array]:
    """The function on each row of a batch."""

    def loop(rows: Array) -> Array:
        return jnp.asarray(np.stack([np.asarray(function(row)) for row in np.asarray(rows)]))

    return functools.partial(_map_rows, function) if traceable else loop


@eqx.filter_jit
def _map_rows(function: Callable[[Any], Any], rows: Array) -> Any:
    return jax.vmap(function)(rows)


@jax.jit
def _linearity(images: Float[Array, "k m"], a: Any, b: Any) -> Float[Array, ""]:
    """Largest defect of additivity and homogeneity from the images of x, y, ax + by, 2x (stacked) and 0 (last)."""
    tx, ty, combined, double = jnp.split(images[:-1], 4)
    additive = _relative(combined - (a * tx + b * ty), a * tx, b * ty, combined)
    homogeneous = _relative(double - 2 * tx, double, 2 * tx)
    origin = jnp.where(jnp.any(images[-1] != 0), 1.0, 0.0).astype(images.dtype)
    return jnp.maximum(jnp.maximum(additive, homogeneous), origin)


@jax.jit
def _matrix_defect(tx: Float[Array, "k m"], x: Float[Array, "k n"], columns: Float[Array, "n m"]) -> Float[Array, ""]:
    """Largest ‖T(x) − Ax‖ relative to what the sums in Ax are made of."""
    x = x.astype(columns.dtype)
    return _relative(tx - x @ columns, jnp.abs(x) @ jnp.abs(columns), tx)


@jax.jit
def _adjoint_defect(
    tx: Float[Array, "k m"], y: Float[Array, "k m"], x: Float[Array, "k n"], pulled: Float[Array, "k n"]
) -> Float[Array, ""]:
    """Largest |⟨Ax, y⟩ − ⟨x, Aᵀy⟩| relative to ‖Ax‖‖y‖ + ‖x‖‖Aᵀy‖."""
    # Rows of unit size first, so that the products neither overflow nor vanish.
    tops = [jnp.max(jnp.abs(rows), axis=1, keepdims=True) for rows in (tx, pulled)]
    top = jnp.maximum(jnp.maximum(*tops), jnp.finfo(tx.dtype).tiny)
    tx, pulled = tx / top, pulled / top
    gap = jnp.abs(jnp.sum(tx * y, axis=1) - jnp.sum(x * pulled, axis=1))
    scale = _norm(tx) * _norm(y) + _norm(x) * _norm(pulled)
    return jnp.max(jnp.where(gap == 0, 0, gap / jnp.where(scale > 0, scale, 1)))


def _norm(rows: Array) -> Float[Array, " k"]:
    """Euclidean norm of each row, safe from overflow."""
    top = jnp.max(jnp.abs(rows), axis=1, keepdims=True, initial=0)
    unit = rows / jnp.where(top > 0, top, 1)
    return top[:, 0] * jnp.sqrt(jnp.sum(jnp.square(unit), axis=1))


def _relative(defect: Array, *terms: Array) -> Float[Array, ""]:
    """Largest ‖defect‖ / Σ‖terms‖ over the rows; NaN where the map returned one."""
    scale = sum((_norm(t) for t in terms), start=jnp.zeros_like(defect[:, 0]))
    return jnp.max(jnp.where(scale > 0, _norm(defect) / jnp.where(scale > 0, scale, 1), jnp.sum(defect * 0, axis=1)))


def _monitor(claim: str, measured: Array, allowed: float) -> Certificate:
    bound = jnp.asarray(allowed, measured.dtype)
    return Certificate(claim, measured, bound, "monitor", "definition; bound: 32 n machine epsilons")
