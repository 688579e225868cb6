"""Validation: refuse bad input before any work, naming the argument, what was found and what was expected."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from corollary.core.errors import InputError
from corollary.core.precision import as_float, on_host

Check = Callable[[str, Any], Any]


def number(low: float = -np.inf, high: float = np.inf, *, open_low: bool = False, none: bool = False) -> Check:
    """A check for a real scalar in [low, high] (``open_low``: above low), or None where `none` allows it."""

    def check(name: str, value: Any) -> Any:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
        inside = real and low <= float(value) <= high and not (open_low and float(value) == low)
        if not (inside or (none and value is None)):
            left, right = "(" if open_low else "[", "]"
            also = " or None" if none else ""
            raise InputError(f"{name}: found {value!r}, expected a number in {left}{low:g}, {high:g}{right}{also}")
        return value

    return check


def integer(low: int = 1, *, none: bool = False) -> Check:
    """A check for an integer of at least `low`, or None where `none` allows it."""

    def check(name: str, value: Any) -> Any:
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_)
        if not ((whole and int(value) >= low) or (none and value is None)):
            raise InputError(f"{name}: found {value!r}, expected an integer >= {low}{' or None' if none else ''}")
        return value

    return check


def one_of(*options: Any) -> Check:
    """A check for one of a few values."""

    def check(name: str, value: Any) -> Any:
        if not any(value is o or (type(value) is type(o) and value == o) for o in options):
            raise InputError(f"{name}: found {value!r}, expected one of {', '.join(map(repr, options))}")
        return value

    return check


def flag(name: str, value: Any) -> bool:
    """A check for True or False."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name}: found {value!r}, expected True or False")
    return bool(value)


def either(*checks: Check) -> Check:
    """A check that passes where one of several does."""

    def check(name: str, value: Any) -> Any:
        found = []
        for one in checks:
            try:
                return one(name, value)
            except InputError as error:
                found.append(str(error).split("expected ")[1])
        raise InputError(f"{name}: found {value!r}, expected {' or '.join(found)}")

    return check


def matrix(name: str, value: Any, *, empty: bool = False, host: bool = False) -> Any:
    """A finite real floating matrix (rows, columns); tracers are checked for shape only.

    With ``host=True`` NumPy data stay NumPy (no copy into JAX), as methods that work on the host's BLAS want them.
    """
    return _array(name, value, (2,), empty, host)


def vector(name: str, value: Any, *, empty: bool = False, host: bool = False) -> Any:
    """A finite real floating vector."""
    return _array(name, value, (1,), empty, host)


def vector_or_matrix(name: str, value: Any, *, empty: bool = False, host: bool = False) -> Any:
    """A finite real floating vector or matrix: one right-hand side or several."""
    return _array(name, value, (1, 2), empty, host)


def tensor(
    name: str, value: Any, *, low: int = 1, complex: bool = False, missing: bool = False, host: bool = False
) -> Any:
    """A finite floating array of at least `low` modes; NaN passes where it marks a ``missing`` entry."""
    if not isinstance(value, jax.Array):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise InputError(f"{name}: found a ragged sequence, expected an array of numbers") from error
    if value.ndim < low:
        raise InputError(f"{name}: found an array of shape {value.shape}, expected at least {low} modes")
    kinds = "buifc" if complex else "buif"
    if value.dtype.kind not in kinds and value.dtype != jax.numpy.bfloat16:
        expected = "real or complex numbers" if complex else "real numbers"
        raise InputError(f"{name}: found dtype {value.dtype}, expected {expected}")
    if 0 in value.shape:
        raise InputError(f"{name}: found an empty array of shape {value.shape}, expected at least one entry")
    if not isinstance(value, Tracer) and value.dtype.kind in "fc":
        fine = not np.isinf(np.asarray(value)).any() if missing else _finite(value)
        if not fine:
            raise InputError(f"{name}: found {'' if missing else 'NaN or '}infinity, expected finite numbers")
    if host and isinstance(value, np.ndarray):
        return value if value.dtype.kind == "c" or value.dtype in (np.float32, np.float64) else value.astype(np.float64)
    return as_float(value)


def same_length(name_a: str, a: Any, name_b: str, b: Any) -> None:
    """Refuse two arrays whose first axes differ."""
    if a.shape[0] != b.shape[0]:
        raise InputError(f"{name_b}: found {b.shape[0]} rows, expected {a.shape[0]} as in {name_a}")


def _array(name: str, value: Any, ranks: tuple[int, ...], empty: bool, host: bool = False) -> Any:
    if not isinstance(value, jax.Array):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise InputError(f"{name}: found a ragged sequence, expected an array of numbers") from error
        if value.dtype.kind not in "buif":
            raise InputError(f"{name}: found dtype {value.dtype}, expected real numbers")
    if np.issubdtype(value.dtype, np.complexfloating):
        raise InputError(f"{name}: found dtype {value.dtype}, expected real numbers")
    if value.ndim not in ranks:
        expected = " or ".join({1: "a vector", 2: "a matrix"}[r] for r in ranks)
        raise InputError(f"{name}: found an array of shape {value.shape}, expected {expected}")
    if not empty and 0 in value.shape:
        raise InputError(f"{name}: found an empty array of shape {value.shape}, expected at least one entry")
    if not isinstance(value, Tracer) and value.dtype.kind == "f" and not _finite(value):
        raise InputError(f"{name}: found NaN or infinity, expected finite numbers")
    if host and isinstance(value, np.ndarray):
        return value if value.dtype in (np.float32, np.float64) else value.astype(np.float64)
    return as_float(value)


def _finite(value: Any) -> bool:
    if not on_host(value):
        return bool(_finite_there(value))
    # One pass without a temporary: the sum is finite unless an entry is not (or it overflowed: then look closely).
    value = np.asarray(value)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(value.sum())) or bool(np.isfinite(value).all())


@jax.jit
def _finite_there(value: jax.Array) -> jax.Array:
    """Where the entries lie: a copy to the host would cost more than what comes after."""
    return jax.numpy.isfinite(value).all()
