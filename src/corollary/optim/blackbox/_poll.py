"""What the black-box methods share: evaluation of many points, and a test of stationarity by values alone.

If no poll point x ± h e_i improves on x and ∇f is L-Lipschitz, then |∂_i f(x)| ≤ Lh/2 for every i, so that
‖∇f(x)‖ ≤ √d·Lh/2: a run that collapsed onto a point where f still falls is found out by 2d evaluations.
Source: Kolda, Lewis & Torczon, "Optimization by direct search" (2003), theorem 3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.optim._tree import dtype, finite
from corollary.optim.penalties._base import Scalar

Function = Callable[..., Any]
POLL = "Kolda, Lewis & Torczon (2003), theorem 3.3: ‖∇f‖ <= √d·Lh/2"


def value_of(f: Function, x: PyTree, *rest: Any) -> Scalar:
    """f(x) as a scalar in the precision of x; what is not a number counts as infinitely bad."""
    value = jnp.asarray(f(x, *rest))
    if value.ndim:
        raise InputError(f"f: returned an array of shape {value.shape}, expected a scalar")
    value = value.astype(dtype(x))
    return jnp.where(jnp.isnan(value), jnp.inf, value)


def values_of(f: Function, points: Float[Array, "n d"], unravel: Callable[[Array], PyTree]) -> Float[Array, " n"]:
    """f at each row."""
    return jax.vmap(lambda row: value_of(f, unravel(row)))(points)


def flat(name: str, x: Any) -> tuple[Float[Array, " d"], Callable[[Array], PyTree]]:
    """A finite array or pytree as a vector, and the way back."""
    vector, unravel = ravel_pytree(finite(name, x))
    return vector.astype(vector.dtype), unravel  # no longer weakly typed


def box(bounds: Any, x: PyTree) -> tuple[Float[Array, " d"], Float[Array, " d"]] | None:
    """Lower and upper limits as vectors, from a pair of scalars, arrays or pytrees like x (infinite where open)."""
    if bounds is None:
        return None
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise InputError("bounds: found something else, expected a pair (lower, upper)")
    ends = []
    for end in bounds:
        if isinstance(x, jax.Array) and isinstance(end, list | tuple):
            end = np.asarray(end, float)
        if jax.tree.structure(end) != jax.tree.structure(x):
            shared = end
            end = jax.tree.map(lambda _, shared=shared: shared, x)
        try:
            spread = jax.tree.map(lambda e, leaf: jnp.broadcast_to(jnp.asarray(e, leaf.dtype), leaf.shape), end, x)
        except ValueError as error:
            raise InputError("bounds: found other shapes than those of x0, expected the same") from error
        ends.append(ravel_pytree(spread)[0])
    low, high = ends
    if not isinstance(low, Tracer) and not bool(jnp.all(low < high)):
        raise InputError("bounds: found a lower limit that is not below the upper one, expected lower < upper")
    return low, high


def poll(
    f: Function,
    x: Float[Array, " d"],
    value: Scalar,
    h: Scalar,
    unravel: Callable[[Array], PyTree],
    limits: tuple[Float[Array, " d"], Float[Array, " d"]] | None,
) -> Certificate:
    """Whether a step of length h along a coordinate, within the limits, improves on x beyond the rounding of f."""
    steps = h * jnp.eye(x.size, dtype=x.dtype)
    points = jnp.concatenate([x + steps, x - steps])
    if limits is not None:
        points = jnp.clip(points, *limits)
    around = values_of(f, points, unravel)
    best = jnp.min(around)
    gain = jnp.where(jnp.isfinite(value), value - best, jnp.inf)
    return Certificate("f(x) − min f(x ± h e_i) <= rounding", gain, rounding(value, 16.0), "monitor", POLL)
