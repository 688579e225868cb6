"""Pytree arithmetic that Optax's `optax.tree` leaves out: parameters spread over leaves, norms that do not overflow."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from corollary.core.errors import InputError
from corollary.core.precision import as_float


def floats(tree: Any) -> PyTree:
    """Every leaf as a floating JAX array; a list of plain numbers is an array, not a pytree of scalars."""
    if isinstance(tree, list | tuple) and all(isinstance(leaf, numbers.Number) for leaf in jax.tree.leaves(tree)):
        tree = np.asarray(tree)
    return jax.tree.map(as_float, tree)


def finite(name: str, tree: Any) -> PyTree:
    """`floats`, refused where an entry is not a finite real number; tracers are not looked at."""
    try:
        tree = floats(tree)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: found {type(tree).__name__}, expected an array or pytree of real numbers") from error
    if not jax.tree.leaves(tree):
        raise InputError(f"{name}: found no array in it, expected at least one")
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise InputError(f"{name}: found dtype {leaf.dtype}, expected real numbers")
        if not isinstance(leaf, Tracer) and not np.all(np.isfinite(leaf)):
            raise InputError(f"{name}: found NaN or infinity, expected finite numbers")
    return tree


def dtype(tree: PyTree) -> Any:
    """The precision of a pytree whose leaves share one."""
    return jax.tree.leaves(tree)[0].dtype


def like(scalar: Any, tree: PyTree) -> Float[Array, ""]:
    """A scalar in the precision of a pytree: strict promotion allows no silent mixture."""
    return jnp.asarray(scalar).astype(dtype(tree))


def spread(parameter: Any, tree: PyTree) -> PyTree:
    """A parameter per leaf, in the leaf's precision: a scalar or an array serves all leaves, a like pytree its own."""
    if jax.tree.structure(parameter) != jax.tree.structure(tree):
        shared = parameter
        parameter = jax.tree.map(lambda _: shared, tree)
    return jax.tree.map(lambda p, leaf: jnp.asarray(p).astype(leaf.dtype), parameter, tree)


def elementwise(function: Callable[..., Array], tree: PyTree, *parameters: Any) -> PyTree:
    """``function(leaf, parameter, ...)`` leaf by leaf."""
    return jax.tree.map(function, tree, *(spread(p, tree) for p in parameters))


def total(tree: PyTree) -> Float[Array, ""]:
    """The sum of all entries of all leaves."""
    return jnp.stack([jnp.sum(leaf) for leaf in jax.tree.leaves(tree)]).sum()


def largest(tree: PyTree) -> Float[Array, ""]:
    """The largest entry of all leaves."""
    return jnp.stack([jnp.max(leaf, initial=-jnp.inf) for leaf in jax.tree.leaves(tree)]).max()


def norm(tree: PyTree, axis: int | tuple[int, ...] | None = None) -> Float[Array, "..."]:
    """Euclidean norm (of one array along `axis`), safe from overflow and underflow, with gradient 0 at the origin."""
    if axis is None:
        parts = jnp.stack([norm(leaf, tuple(range(leaf.ndim))) for leaf in jax.tree.leaves(tree)])
        return parts[0] if parts.size == 1 else norm(parts, 0)
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(tree), axis=axis, keepdims=True, initial=0.0))
    usable = (scale > 0) & jnp.isfinite(scale)
    safe = jnp.where(usable, scale, 1.0)
    squares = jnp.sum(jnp.square(tree / safe), axis=axis)
    zero = squares == 0
    root = jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squares)))
    return jnp.squeeze(safe, axis) * root


def at_least_zero(name: str, value: Any, *, positive: bool = False) -> None:
    """Refuse a negative (or zero) weight, scalar or pytree of arrays; tracers pass."""
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, Tracer):
            continue
        try:
            found = np.asarray(leaf, dtype=float)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name}: found {leaf!r}, expected numbers") from error
        inside = found > 0 if positive else found >= 0
        if not np.all(inside & np.isfinite(found)):
            raise InputError(f"{name}: found {leaf!r}, expected a finite number {'> 0' if positive else '>= 0'}")
