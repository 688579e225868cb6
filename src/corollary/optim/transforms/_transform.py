"""What every transformation here shares: wide state, schedules wherever a number is, and the call's extra arguments.

`float32_state` lets bfloat16 and float16 parameters keep float32 moments: gradients and parameters are widened before
the rule, the update is narrowed after it, and the state never changes its precision. Cost: one cast a leaf, nothing
where the parameters are float32 or float64 already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.core.errors import InputError

NARROW = (jnp.dtype("bfloat16"), jnp.dtype("float16"))


def wide(tree: PyTree) -> PyTree:
    """Half-precision leaves as float32; others as they are."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if jnp.asarray(x).dtype in NARROW else jnp.asarray(x), tree)


def same_types(tree: PyTree, pattern: PyTree) -> PyTree:
    """Every floating leaf in the precision of the like leaf of `pattern`."""

    def cast(x: Any, p: Any) -> Any:
        floating = jnp.issubdtype(jnp.asarray(p).dtype, jnp.floating) if hasattr(p, "dtype") else False
        return jnp.asarray(x).astype(p.dtype) if floating else x

    return jax.tree.map(cast, tree, pattern)


def at(value: Any, count: Any) -> Any:
    """A hyperparameter now: a schedule at the count of steps taken, or the number itself."""
    return value(count) if callable(value) else value


def check(
    name: str, value: Any, low: float, high: float = float("inf"), *, open_low: bool = False, open_high: bool = False
) -> None:
    """Refuse a number out of range; schedules and traced values pass, they are not known yet."""
    if not (callable(value) or isinstance(value, Tracer | jax.Array)):
        validation.number(low, high, open_low=open_low)(name, value)
        if open_high and value == high:
            raise InputError(f"{name}: found {value!r}, expected a number below {high:g}")


def rule(
    init: Callable[[PyTree], Any], update: Callable[..., tuple[PyTree, Any]], *, params: bool = False
) -> optax.GradientTransformationExtraArgs:
    """A transformation from a rule on wide leaves: ``init(params)``, ``update(grads, state, params, **extra)``.

    ``params=True`` refuses a call without parameters.
    """

    def wide_init(start: PyTree) -> Any:
        return init(wide(start))

    def wide_update(updates: PyTree, state: Any, at: PyTree | None = None, **extra: Any) -> tuple[PyTree, Any]:
        if at is None and params:
            raise InputError("params: found None, expected the parameters as third argument of update")
        inputs = updates if at is None else at
        calls = {name: _widened(extra[name], inputs) for name in ("grad_fn", "full_grad_fn") if name in extra}
        # Optax's own rules mix counts with floats; the casts below keep every precision what it was.
        with jax.numpy_dtype_promotion("standard"):
            new, after = update(wide(updates), state, None if at is None else wide(at), **{**extra, **calls})
            return same_types(new, updates), same_types(after, state)

    pair: Any = (wide_init, wide_update)
    return optax.GradientTransformationExtraArgs(*pair)


def _widened(function: Any, pattern: PyTree) -> Any:
    """A gradient function of parameters in their own precision, seen from the wide side."""
    if function is None:
        return None
    return lambda params, *rest: wide(function(same_types(params, pattern), *rest))


def float32_state(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Any transformation with float32 state and arithmetic for bfloat16 or float16 parameters.

    Parameters
    ----------
    inner
        An Optax transformation. Float32 and float64 leaves pass through it as they are.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        The same rule; its updates have the parameters' precision, ready for `optax.apply_updates`.

    Notes
    -----
    Memory: that of `inner`, counted in float32. Cost: a cast each way. Defaults: none.
    When: bfloat16 parameters, whose moments stall otherwise: 0.999 is 1 in bfloat16.

    Examples
    --------
    >>> state = float32_state(optax.adam(1e-3)).init(jnp.ones(3, jnp.bfloat16))
    >>> state[0].nu.dtype
    dtype('float32')
    """
    inner = optax.with_extra_args_support(inner)
    return rule(inner.init, inner.update)


def descend(
    direction: optax.GradientTransformation, learning_rate: Any, weight_decay: Any = 0.0, mask: Any = None
) -> optax.GradientTransformationExtraArgs:
    """A direction, decoupled weight decay, and the step: θ ← θ − η(direction + λθ)."""
    check("learning_rate", learning_rate, 0.0)
    check("weight_decay", weight_decay, 0.0)
    parts = [direction]
    if not (isinstance(weight_decay, int | float) and weight_decay == 0):
        parts.append(optax.add_decayed_weights(weight_decay, mask))
    return float32_state(optax.chain(*parts, optax.scale_by_learning_rate(learning_rate)))


def needs(name: str, value: Any, what: str) -> Any:
    """Refuse a missing extra argument of `update`."""
    if value is None:
        raise InputError(f"{name}: found None, expected {what}, as extra argument of update")
    return value


def zeros(params: PyTree) -> PyTree:
    """A buffer like the parameters."""
    return jax.tree.map(jnp.zeros_like, params)


def moment(buffer: PyTree, new: PyTree, decay: Any) -> PyTree:
    """decay·buffer + (1 − decay)·new, leaf by leaf."""
    return jax.tree.map(lambda b, n: decay * b + (1 - decay) * n, buffer, new)


def counter() -> Array:
    """The count of steps taken, at the start."""
    return jnp.zeros([], jnp.int32)


def after(count: Array) -> Array:
    """The count one step later; it stays at the largest integer."""
    return jnp.asarray(optax.safe_increment(count))
