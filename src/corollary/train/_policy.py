"""Mixed precision: which dtypes parameters are kept, computed and answered in.

Low-precision arithmetic is fast and small, but an update below half an ulp of its weight is lost: the weights stay
where they are. Hence float32 master weights: the policy casts a copy for each evaluation and the gradient comes back in
the weights' own precision. bfloat16 has float32's range and needs no loss scaling; float16 does (`DynamicScale`).
Cost: one cast of the parameters a step. Source: Micikevicius et al., "Mixed precision training" (2018), section 3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from corollary.core.errors import InputError


@final
class Policy(eqx.Module):
    """The precisions of a computation: of stored parameters, of the arithmetic, of what comes out.

    None leaves a precision alone, so ``Policy()`` changes nothing; only floating arrays are cast.

    Parameters
    ----------
    compute
        Of the arithmetic: ``"bfloat16"``, ``"float16"``, ``"float32"``, ``"float64"``.
    params
        Of the stored (master) weights: leave it alone, or float32, unless sub-ulp updates are kept (`delayed_updates`).
    output
        Of what a function answers: the loss and the metrics.

    Raises
    ------
    InputError
        Where a name is no floating precision.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> half = Policy(compute="bfloat16", output="float32")
    >>> half.apply(lambda w, x: w * x)(jnp.float32(1.001), jnp.float32(2.0)).item()
    2.0
    """

    compute: str | None = eqx.field(static=True, default=None)
    params: str | None = eqx.field(static=True, default=None)
    output: str | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        """Refuse what is no floating precision."""
        for name in ("compute", "params", "output"):
            value = getattr(self, name)
            try:
                fine = value is None or (isinstance(value, str) and jnp.issubdtype(jnp.dtype(value), jnp.floating))
            except TypeError:
                fine = False
            if not fine:
                raise InputError(f"{name}: found {value!r}, expected the name of a floating precision or None")

    def apply(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with floating inputs cast to `compute` and floating outputs to `output`.

        Its derivative with respect to float32 weights is float32: the cast's transpose casts back.
        """

        @functools.wraps(function)
        def cast(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = cast_floats((args, kwargs), self.compute)
            return cast_floats(function(*args, **kwargs), self.output)

        return cast

    def store(self, params: PyTree) -> PyTree:
        """The parameters in the precision they are kept in."""
        return cast_floats(params, self.params)


def at_least_float32(x: Any) -> jax.Array:
    """Numbers as float32, or in their own precision where that is wider (or complex)."""
    x = jnp.asarray(x)
    return x if x.dtype in (jnp.float32, jnp.float64, jnp.complex64, jnp.complex128) else x.astype(jnp.float32)


def cast_floats(tree: PyTree, dtype: str | None) -> PyTree:
    """Every real floating array of a tree in `dtype`; all else, and all where `dtype` is None, as it is."""
    if dtype is None:
        return tree

    def one(x: Any) -> Any:
        floating = isinstance(x, jax.Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.asarray(x).astype(dtype) if floating else x

    return jax.tree.map(one, tree)
