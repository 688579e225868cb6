"""Dropout as the networks of this room run it: a missing key is refused where it would switch dropout off in silence.

Where: between the layers of every network with a rate. O(size). Source: Srivastava, Hinton, Krizhevsky, Sutskever &
Salakhutdinov, "Dropout" (2014), in the inverted form (Equinox's `Dropout`).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
from jaxtyping import Array

from corollary.core.errors import InputError


def active(drop: eqx.nn.Dropout, key: Any, inference: bool) -> bool:
    """Whether dropout acts; refused where it should and no key is there. `equinox.nn.inference_mode` counts, too."""
    known = isinstance(drop.p, int | float)  # under a plain `jax.jit` of the module the rate is traced
    if inference or drop.inference or (known and drop.p == 0) or (key is None and not known):
        return False
    if key is None:
        raise InputError(f"key: found None, expected a key for dropout of rate {drop.p:g}, or inference=True")
    return True


def dropout(drop: eqx.nn.Dropout, x: Array, key: Any, inference: bool) -> Array:
    """x with entries dropped where dropout is active."""
    return drop(x, key=key, inference=not active(drop, key, inference))
