"""Missing entries, one convention everywhere: NaN in the data is missing, and so is False in a boolean `mask`.

Methods that can learn from incomplete arrays take ``X`` with NaN, a ``mask`` of the same shape (True: observed), or
both, and call `observed` first.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from corollary.core import validation
from corollary.core.errors import InputError


def observed(name: str, X: Any, mask: Any = None, *, low: int = 1) -> tuple[Any, Any]:
    """The data with zeros where they are missing, and the boolean array of what was observed (None where all were).

    Parameters
    ----------
    name
        The argument's name, for messages.
    X
        Array of any shape with at least `low` modes; NaN is missing, infinity refused. NumPy stays NumPy.
    mask
        True where observed, of the shape of X; NaN at an observed place is missing all the same.

    Raises
    ------
    InputError
        For a mask of another shape or type, and where a whole slice along some mode is missing: nothing speaks of it.

    Examples
    --------
    >>> filled, seen = observed("X", np.array([[1.0, np.nan], [3.0, 4.0]]))
    >>> filled.tolist(), seen.tolist()
    ([[1.0, 0.0], [3.0, 4.0]], [[True, False], [True, True]])
    """
    X = validation.tensor(name, X, low=low, missing=True, host=True)
    xp: Any = jnp if isinstance(X, jax.Array) or isinstance(mask, jax.Array) else np
    seen = ~xp.isnan(X)
    if mask is not None:
        mask = mask if isinstance(mask, jax.Array) else np.asarray(mask)
        if mask.dtype.kind != "b" or mask.shape != X.shape:
            raise InputError(
                f"mask: found {mask.dtype} of shape {mask.shape}, expected booleans, True where observed, "
                f"of shape {X.shape} as {name}"
            )
        seen = seen & xp.asarray(mask)
    if isinstance(seen, Tracer):
        return xp.where(seen, X, xp.zeros((), X.dtype)), seen if mask is not None else None
    if bool(seen.all()):
        return X, None
    for mode in range(X.ndim):
        empty = ~np.asarray(seen).any(axis=tuple(m for m in range(X.ndim) if m != mode))
        if empty.any():
            raise InputError(
                f"{name}: found no observed entry in slice {int(np.argmax(empty))} of mode {mode}, "
                "expected at least one in every slice; drop the slice"
            )
    return xp.where(seen, X, xp.zeros((), X.dtype)), seen
