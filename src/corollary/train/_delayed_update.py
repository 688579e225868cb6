"""Updates too small for low-precision weights: keep the remainder, and apply it once it is representable.

A bfloat16 weight near 1 has an ulp of 2⁻⁷ above it: an update below half of that is rounded away, every time. Here each
step adds the remainder of the steps before, rounds, and keeps what the rounding left (Kahan's compensation): the sum of
all updates is kept to one ulp. Memory: one more copy of the parameters in `dtype`, against a whole float32 copy beside
the weights for master weights. Cost: four elementwise operations a parameter.
Source: Zamirai et al., "Revisiting BFloat16 training" (2020), algorithm 1; Kahan (1965).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core.errors import InputError


class DelayedUpdateState(NamedTuple):
    """What rounding has kept from the weights so far."""

    remainder: PyTree


def delayed_updates(dtype: str = "float32") -> optax.GradientTransformation:
    """An Optax transformation, last of a chain, that loses no update of low-precision weights.

    Use it where float32 master weights do not fit: ``optax.chain(optax.adam(1e-4), delayed_updates())`` with
    ``Policy(params="bfloat16")``. On float32 weights it is compensated summation and does no harm. No certificate.

    Parameters
    ----------
    dtype
        Of the remainder: ``"float32"``, or ``"bfloat16"`` for half the memory and a remainder of eight bits.

    Returns
    -------
    optax.GradientTransformation
        Its `update` needs the parameters.

    Raises
    ------
    InputError
        Where `dtype` is no floating precision, or the parameters are not given.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> rule, w = delayed_updates(), jnp.ones((), jnp.bfloat16)
    >>> state = rule.init(w)
    >>> for _ in range(64):
    ...     update, state = rule.update(jnp.full((), 2.0**-12, jnp.bfloat16), state, w)
    ...     w = optax.apply_updates(w, update)
    >>> float(w)  # 1 + 64 / 4096; plain bfloat16 stays at 1
    1.015625
    """
    if dtype not in ("bfloat16", "float16", "float32", "float64"):
        raise InputError(f"dtype: found {dtype!r}, expected 'bfloat16', 'float16', 'float32' or 'float64'")

    def init(params: PyTree) -> DelayedUpdateState:
        return DelayedUpdateState(jax.tree.map(lambda p: jnp.zeros(p.shape, dtype), params))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        if params is None:
            raise InputError("params: found None, expected the parameters that are updated")

        def one(u, remainder, p):
            wide = jnp.float64 if "float64" in (p.dtype, u.dtype, dtype) else jnp.float32
            due = u.astype(wide) + remainder.astype(wide)
            applied = due.astype(p.dtype)
            # What `optax.apply_updates` will do; spelt out, or the compiler might carry more digits than p has.
            info = jnp.finfo(p.dtype)
            moved = jax.lax.reduce_precision(p.astype(wide) + applied.astype(wide), info.nexp, info.nmant)
            return applied, (due - (moved - p.astype(wide))).astype(dtype)

        pairs = jax.tree.map(one, updates, state.remainder, params)
        applied, remainder = jax.tree.transpose(jax.tree.structure(updates), jax.tree.structure((0, 0)), pairs)
        return applied, DelayedUpdateState(remainder)

    return optax.GradientTransformation(init, update)
