"""What the matrix optimizers share: settings that may be schedules, float32 state for bfloat16 parameters, refusals."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, PyTree

from corollary.core.errors import InputError
from corollary.optim._tree import at_least_zero

Setting = Any  # a number, a traced scalar, or a schedule: step count -> number


def setting(value: Setting, count: Array, dtype: Any = jnp.float32) -> Array:
    """The value of a setting at a step."""
    return jnp.asarray(value(count) if callable(value) else value).astype(dtype)


def check_setting(name: str, value: Setting, *, positive: bool = False, below: float | None = None) -> None:
    """Refuse a negative number (or zero, or one not below a limit); schedules and tracers pass."""
    if callable(value):
        return
    at_least_zero(name, value, positive=positive)
    if below is not None and not isinstance(value, Tracer) and not float(value) < below:
        raise InputError(f"{name}: found {value!r}, expected a number below {below:g}")


def check_every(name: str, value: Any) -> None:
    """Refuse an interval that is not a whole number of steps; traced ones pass."""
    if isinstance(value, Tracer):
        return
    if isinstance(value, bool) or float(value) != int(value) or int(value) < 1:
        raise InputError(f"{name}: found {value!r}, expected an integer >= 1")


def increment(count: Array) -> Array:
    """The next step's number, which never overflows."""
    return jnp.asarray(optax.safe_increment(count))


def transformation(init: Any, update: Any) -> Any:
    """An Optax transformation; its types do not know that states are of one kind."""
    return optax.GradientTransformation(init, update)


def with_extra(init: Any, update: Any) -> Any:
    """One whose update takes extra arguments."""
    return optax.GradientTransformationExtraArgs(init, update)


def needs_params(params: Any) -> None:
    """Refuse an update without the parameters."""
    if params is None:
        raise InputError("params: found None, expected the parameters (weight decay and shapes need them)")


def working(x: Array) -> Array:
    """The array in float32 where its own precision is lower."""
    return x.astype(precision(x.dtype))


def precision(dtype: Any) -> Any:
    """float32 for what has fewer bits."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def working_tree(tree: PyTree) -> PyTree:
    """`working` for every leaf."""
    return jax.tree.map(working, tree)


def zeros(x: Array) -> Array:
    """Zeros like `working(x)`: state that lies where the parameter lies."""
    return jnp.zeros_like(x, dtype=precision(x.dtype))


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Every leaf in the precision of its counterpart."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)


def debias(decay: Array, count: Array) -> Array:
    """1 − β^t for the count t >= 1: what an average that began at zero is to be divided by."""
    return 1 - decay ** count.astype(decay.dtype)


def finish(
    transform: optax.GradientTransformationExtraArgs | optax.GradientTransformation,
    learning_rate: Setting,
    weight_decay: Setting,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """The transform, decoupled weight decay λθ, then −η."""
    parts: list[Any] = [transform]
    if callable(weight_decay) or isinstance(weight_decay, jax.Array) or weight_decay != 0:
        parts.append(decayed(weight_decay, mask))
    parts.append(optax.scale_by_learning_rate(learning_rate))
    return optax.with_extra_args_support(optax.chain(*parts))


def decayed(weight_decay: Setting, mask: Any = None) -> optax.GradientTransformation:
    """u + λθ, with λ a number or a schedule."""
    if not callable(weight_decay):
        return optax.add_decayed_weights(weight_decay, mask)
    return optax.inject_hyperparams(functools.partial(optax.add_decayed_weights, mask=mask))(weight_decay)


class AdamState(NamedTuple):
    """Step count and both moments."""

    count: Array
    mean: PyTree
    square: PyTree


def adam(b1: Setting, b2: Setting, eps: Setting) -> optax.GradientTransformation:
    """Optax' `scale_by_adam` with schedules anywhere and float32 state, for the leaves that a method leaves aside."""

    def init(params: PyTree) -> AdamState:
        return AdamState(jnp.zeros((), jnp.int32), jax.tree.map(zeros, params), jax.tree.map(zeros, params))

    def update(grads: PyTree, state: AdamState, params: Any = None) -> tuple[PyTree, AdamState]:
        del params
        count = increment(state.count)

        def leaf(g: Array, m: Array, v: Array) -> tuple[Array, Array, Array]:
            g = working(g)
            beta1, beta2 = setting(b1, state.count, g.dtype), setting(b2, state.count, g.dtype)
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            root = jnp.sqrt(v / debias(beta2, count)) + setting(eps, state.count, g.dtype)
            return m / debias(beta1, count) / jnp.where(root > 0, root, 1), m, v

        steps, mean, square = map_leaves(leaf, grads, state.mean, state.square)
        return cast_like(steps, grads), AdamState(count, mean, square)

    return transformation(init, update)


def map_leaves(function: Callable[..., tuple[Any, ...]], tree: PyTree, *others: Any) -> tuple[Any, ...]:
    """`jax.tree.map` of a function with several results: that many trees. A result may itself be a pytree."""
    leaves, structure = jax.tree.flatten(tree)
    results = [function(*row) for row in zip(leaves, *(structure.flatten_up_to(o) for o in others), strict=True)]
    if not results:
        return (tree, *others)
    return tuple(structure.unflatten(column) for column in zip(*results, strict=True))
