"""Precision: what comes in decides.

NumPy in, NumPy out: float64 is computed in float64, float32 stays float32, integers and booleans become float64, and
JAX's global settings are never touched. JAX arrays in, JAX arrays out: they carry their own precision.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

P = ParamSpec("P")
R = TypeVar("R")


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Let float64 through for the duration; float32 arrays stay float32."""
    with jax.enable_x64(True):
        yield


def to_numpy(tree: Any) -> Any:
    """Every JAX array of a pytree, but keys and tracers, as a NumPy array: float64 survives outside `float64()`."""
    return jax.tree.map(lambda x: np.asarray(x) if _is_data(x) and not isinstance(x, Tracer) else x, tree)


def on_host(*arrays: Any) -> bool:
    """Whether all data lie whole in this process's memory: NumPy, SciPy, or JAX arrays on one CPU, no tracer."""
    for a in arrays:
        if isinstance(a, Tracer):
            return False
        if isinstance(a, jax.Array) and ({d.platform for d in a.devices()} != {"cpu"} or len(a.devices()) > 1):
            return False
    return True


def follows_input(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public function: where no argument is a JAX array, compute with float64 allowed and return NumPy.

    Random keys do not count as data. A call with JAX arrays (or tracers) passes straight through, so the function can
    be jitted, vmapped and differentiated as it stands.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if any(_is_data(leaf) for leaf in jax.tree.leaves((args, kwargs))):
            return function(*args, **kwargs)
        with float64():
            return to_numpy(function(*args, **kwargs))

    return wrapper


def as_float(x: Any) -> Array:
    """A floating JAX array of the same precision; integers and booleans get the widest float that is allowed."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.zeros(()).dtype)


def eps(x: Any) -> float:
    """Machine epsilon of an array's precision (or of a dtype)."""
    return float(jnp.finfo(x if isinstance(x, type | str) else getattr(x, "dtype", x)).eps)


def common_float(*arrays: Any) -> tuple[Array, ...]:
    """Arrays cast to the widest floating precision among them (strict promotion allows no silent mixture)."""
    floats = tuple(as_float(a) for a in arrays)
    dtype = functools.reduce(np.promote_types, [a.dtype for a in floats])
    return tuple(a.astype(dtype) for a in floats)


def _is_data(x: Any) -> bool:
    return isinstance(x, jax.Array) and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
