"""What a run is, between two steps: one pytree of arrays, and the one step that changes it.

Everything that the next step needs is in `TrainState`, hence a checkpoint of it resumes to the same bits. The step is
written once, and runs inside a compiled loop whose number of trips is an argument: a chunk of any length is one and the
same program, so the bits do not depend on where chunks begin or end.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from corollary.core.errors import InputError
from corollary.train._averaging import AverageState
from corollary.train._loss_scale import ScaleState, all_finite
from corollary.train._policy import Policy, at_least_float32


class TrainState(eqx.Module):
    """A run between two steps.

    Parameters
    ----------
    step
        Steps taken: the number of the next batch.
    params
        The trainable arrays of the model.
    model_state
        The arrays of the model's own state (running statistics), or None.
    optimizer
        The optimizer's state.
    average
        The average beside the parameters, or None.
    scale
        The loss scale, or None.
    skipped
        Steps skipped: their loss or gradient was not finite.
    overflows
        Those of them that the dynamic loss scale caused and answered.
    stopped
        Whether the last step was not finite, and no matter of scaling: the compiled loop leaves at such a step.
    key
        Of the run's randomness: step k uses it folded with k.
    """

    step: Int[Array, ""]
    params: PyTree
    model_state: PyTree
    optimizer: PyTree
    average: AverageState | None
    scale: ScaleState | None
    skipped: Int[Array, ""]
    overflows: Int[Array, ""]
    stopped: Bool[Array, ""]
    key: Array


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The structure of a run: all that is static. Equal recipes share one compiled program."""

    loss: Callable[..., Any]
    optimizer: optax.GradientTransformation
    model: Static
    state: Static | None
    accumulate: int
    policy: Policy
    skip: bool
    layout: Any

    def build(self, params: PyTree, fixed: PyTree, model_state: PyTree) -> tuple[PyTree, PyTree]:
        """The model and its state from their arrays."""
        model = eqx.combine(params, fixed, self.model.tree)
        return model, None if self.state is None else eqx.combine(model_state, self.state.tree)


class Static:
    """A pytree without arrays, hashable: by its leaves where they are, else by identity."""

    def __init__(self, tree: PyTree):
        self.tree = tree
        leaves, structure = jax.tree.flatten(tree)
        self._identity: Hashable = (structure, tuple((type(leaf), leaf) for leaf in leaves))
        try:
            self._hash = hash(self._identity)
        except TypeError:
            self._identity = id(tree)
            self._hash = hash(self._identity)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and self._identity == other._identity


def loss_of(
    recipe: Recipe, params: PyTree, fixed: PyTree, model_state: PyTree, batch: PyTree, key: Any
) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
    """(loss, (arrays of the new model state, metrics)) in the recipe's precision."""

    def call(params, fixed, batch):
        model, state = recipe.build(params, fixed, model_state)
        return recipe.loss(model, batch, key) if state is None else recipe.loss(model, state, batch, key)

    answer = recipe.policy.apply(call)(params, fixed, batch)
    metrics: dict[str, Array] = {}
    arrays = None
    if recipe.state is None:
        value, metrics = answer if isinstance(answer, tuple) else (answer, {})
    else:
        value, state = answer
        if isinstance(state, tuple):
            state, metrics = state
        arrays = eqx.filter(state, eqx.is_array)
        arrays = jax.tree.map(lambda new, old: new.astype(old.dtype), arrays, model_state)
    for name, x in {"loss": value, **metrics}.items():
        if jnp.shape(x) != ():
            raise InputError(f"loss: found a value of shape {jnp.shape(x)} for {name!r}, expected a scalar")
    return value, (arrays, dict(metrics))


def gradient_of(
    recipe: Recipe, params: PyTree, fixed: PyTree, model_state: PyTree, batch: PyTree, key: Any, scale: Any = None
) -> tuple[Array, PyTree, PyTree, dict[str, Array]]:
    """(loss, gradient, model state, metrics) of one batch: the mean over its micro-batches."""

    def scaled(params, model_state, batch, key):
        value, rest = loss_of(recipe, params, fixed, model_state, batch, key)
        return value if scale is None else value * scale.astype(value.dtype), (value, *rest)

    derivative = jax.grad(scaled, has_aux=True)
    if recipe.accumulate == 1:
        gradients, (value, model_state, metrics) = derivative(params, model_state, batch, key)
    else:
        m = recipe.accumulate
        size = jax.tree.leaves(batch)[0].shape[0]
        if size % m:
            raise InputError(f"accumulate: found {m}, expected a divisor of the batch size {size}")
        parts = jax.tree.map(lambda a: a.reshape(m, a.shape[0] // m, *a.shape[1:]), batch)

        def micro(carry, part):
            total, model_state = carry
            j, batch = part
            gradients, (value, model_state, metrics) = derivative(
                params, model_state, batch, jax.random.fold_in(key, j)
            )
            return (jax.tree.map(jnp.add, total, gradients), model_state), (value, metrics)

        start = (jax.tree.map(jnp.zeros_like, params), model_state)
        (total, model_state), (values, metrics) = lax.scan(micro, start, (jnp.arange(m), parts))
        gradients = jax.tree.map(lambda g: g / m, total)
        value, metrics = values.mean(), jax.tree.map(lambda x: x.mean(0), metrics)
    if scale is not None:
        gradients = jax.tree.map(lambda g: g / scale.astype(g.dtype), gradients)
    return value, gradients, model_state, metrics


def one_step(
    recipe: Recipe, fixed: PyTree, rules: tuple[Any, Any], state: TrainState, batch: PyTree
) -> tuple[TrainState, dict[str, Array]]:
    """One step on one batch: the new state, and what there is to know of it."""
    averaging, scaling = rules
    key = jax.random.fold_in(state.key, state.step)
    if recipe.layout is not None:
        batch = lax.with_sharding_constraint(batch, recipe.layout.batch(batch))
    scale = None if state.scale is None else state.scale.scale
    value, gradients, model_state, metrics = gradient_of(
        recipe, state.params, fixed, state.model_state, batch, key, scale
    )
    if recipe.layout is not None and hasattr(recipe.layout, "gradients"):
        gradients = lax.with_sharding_constraint(gradients, recipe.layout.gradients(gradients))
    updates, optimizer = _update(recipe, fixed, state, batch, key, value, gradients)
    params = optax.apply_updates(state.params, updates)
    if recipe.layout is not None:
        params = lax.with_sharding_constraint(params, recipe.layout.parameters(params))
        optimizer = lax.with_sharding_constraint(optimizer, recipe.layout.optimizer(optimizer))

    # Once the gradient is known to be finite, selecting costs nothing: it fuses with the update. The new parameters are
    # looked at afterwards (an update may overflow), which only their own selection has to wait for.
    squared = optax.tree.norm(gradients, squared=True)
    sound = jnp.isfinite(value) & (
        jnp.isfinite(squared) | lax.cond(jnp.isfinite(squared), lambda _: jnp.ones((), bool), all_finite, gradients)
    )
    finite = sound & _zero_times(params)
    average = None if averaging is None else averaging.update(state.average, params, state.step)
    params, average = _where(finite, (params, average), (state.params, state.average))
    model_state, optimizer = _where(sound, (model_state, optimizer), (state.model_state, state.optimizer))

    harmless = jnp.zeros((), bool)
    if scaling is not None:
        harmless = jnp.isfinite(value) & scaling.harmless(state.scale)
    stopped = ~(finite | harmless)
    passed = ~stopped | recipe.skip
    new = TrainState(
        step=state.step + passed.astype(jnp.int32),
        params=params,
        model_state=model_state,
        optimizer=optimizer,
        average=average,
        scale=None if scaling is None else scaling.update(state.scale, finite),
        skipped=state.skipped + (~finite & passed).astype(jnp.int32),
        overflows=state.overflows + (~finite & harmless).astype(jnp.int32),
        stopped=stopped,
        key=state.key,
    )
    return new, jax.tree.map(at_least_float32, {"loss": value, "gradient_norm": jnp.sqrt(squared), **metrics})


def _where(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def _zero_times(tree: PyTree) -> Array:
    """Whether all is finite, in one vectorised pass: 0·x is 0 for every finite x, and NaN for the others."""
    sums = [(0 * leaf).sum() for leaf in jax.tree.leaves(tree)]
    return functools.reduce(jnp.logical_and, [jnp.isfinite(s) for s in sums])


def _update(recipe, fixed, state, batch, key, value, gradients):
    """The optimizer's update, with what the methods beyond first order ask for."""

    def value_fn(params, grad_fn=None, key=key):  # Optax's line searches pass on by name what a function takes
        del grad_fn
        return loss_of(recipe, params, fixed, state.model_state, batch, key)[0]

    def grad_fn(params, key=key):
        return gradient_of(recipe, params, fixed, state.model_state, batch, key)[1]

    optimizer = optax.with_extra_args_support(recipe.optimizer)
    extra = {"value": value, "grad": gradients, "value_fn": value_fn, "grad_fn": grad_fn, "key": key}
    with jax.numpy_dtype_promotion("standard"):  # Optax's own steps mix integer counts and floating decays
        return optimizer.update(gradients, state.optimizer, state.params, **extra)


@functools.partial(jax.jit, static_argnames=("recipe", "taker"), donate_argnames="state")
def run_chunk(state: TrainState, fixed, rules, data, rows, count, *, recipe: Recipe, taker: Any):
    """`count` steps (at most as many as there are rows) in one call: the new state, and each step's metrics.

    The loop leaves early at a non-finite step; that step's metrics stand at its place.
    """

    def body(carry):
        i, state, log = carry
        row = jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False), rows)
        state, metrics = one_step(recipe, fixed, rules, state, taker(data, row))
        return i + 1, state, jax.tree.map(lambda l, x: l.at[i].set(x.astype(l.dtype)), log, metrics)

    def metrics(state):
        batch = taker(data, jax.tree.map(lambda a: a[0], rows))
        value, (_, more) = loss_of(recipe, state.params, fixed, state.model_state, batch, state.key)
        norm = optax.tree.norm(state.params)
        return jax.tree.map(at_least_float32, {"loss": value, "gradient_norm": norm, **more})

    capacity = jax.tree.leaves(rows)[0].shape[0]
    log = jax.tree.map(lambda m: jnp.full((capacity, *m.shape), jnp.nan, m.dtype), jax.eval_shape(metrics, state))
    more = lambda carry: (carry[0] < count) & ~carry[1].stopped  # noqa: E731
    taken, state, log = lax.while_loop(more, body, (jnp.zeros((), jnp.int32), state, log))
    return state, log, taken


@functools.partial(jax.jit, static_argnames="recipe")
def run_step(state: TrainState, fixed, rules, batch, *, recipe: Recipe):
    """One step by hand."""
    return one_step(recipe, fixed, rules, state, batch)
