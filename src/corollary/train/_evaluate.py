"""A metric averaged over a feed: every example once, the model in inference mode, one compiled program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import PyTree

from corollary.core.errors import InputError
from corollary.train._feed import Feed
from corollary.train._policy import at_least_float32
from corollary.train._state import Recipe, TrainState

if TYPE_CHECKING:
    from corollary.train._trainer import Trainer


def evaluate(trainer: Trainer, state: TrainState, feed: Feed, metric: Callable[..., Any] | None) -> dict[str, float]:
    """The mean of a metric over one epoch of `feed`, the tail that fills no batch included."""
    if feed.steps_per_epoch is None:
        raise InputError("validation: found a feed without epochs, expected one with steps_per_epoch")
    arrays = (state.params, trainer._fixed, state.model_state)
    capacity, data = feed.capacity(), trainer._replicated(feed.resident())
    total: dict[str, float] = {}
    weight = 0.0
    for first in range(0, feed.steps_per_epoch, capacity):
        rows = feed.rows(first, min(capacity, feed.steps_per_epoch - first))
        sums, size = _over_rows(*arrays, data, rows, recipe=trainer._recipe, metric=metric, taker=feed.taker)
        weight += float(size)
        total = {name: total.get(name, 0.0) + float(value) for name, value in sums.items()}
    tail = feed.tail()
    if tail is not None:
        size = jax.tree.leaves(tail)[0].shape[0]
        values = _over_batch(*arrays, tail, recipe=trainer._recipe, metric=metric)
        weight += size
        total = {name: total[name] + size * float(value) for name, value in values.items()}
    return {name: value / weight for name, value in total.items()}


@functools.partial(jax.jit, static_argnames=("recipe", "metric"))
def _over_batch(params, fixed, model_state, batch, *, recipe: Recipe, metric: Any) -> dict[str, Any]:
    return _values(recipe, metric, params, fixed, model_state, batch)


@functools.partial(jax.jit, static_argnames=("recipe", "metric", "taker"))
def _over_rows(params, fixed, model_state, data, rows, *, recipe: Recipe, metric: Any, taker: Any) -> Any:
    """Sums over batches of (mean × examples), and the examples: padding does not count."""

    def one(carry, row):
        batch = taker(data, row)
        values = _values(recipe, metric, params, fixed, model_state, batch)
        size = row["weights"].sum() if "weights" in row else np.float32((*jax.tree.leaves(batch)[0].shape, 1)[0])
        return carry, ({name: value * jnp.asarray(size, value.dtype) for name, value in values.items()}, size)

    _, (sums, sizes) = lax.scan(one, None, rows)
    return {name: value.sum() for name, value in sums.items()}, jnp.sum(sizes)


def _values(recipe: Recipe, metric: Any, params: PyTree, fixed: PyTree, model_state: PyTree, batch: PyTree) -> Any:
    def call(params, fixed, batch):
        model, state = recipe.build(params, fixed, model_state)
        model = eqx.nn.inference_mode(model)
        if metric is not None:
            return metric(model, batch) if state is None else metric(model, state, batch)
        if state is None:
            answer = recipe.loss(model, batch, None)
            value, more = answer if isinstance(answer, tuple) else (answer, {})
        else:
            value, rest = recipe.loss(model, state, batch, None)
            more = rest[1] if isinstance(rest, tuple) else {}
        return {"loss": value, **more}

    values = recipe.policy.apply(call)(params, fixed, batch)
    values = values if isinstance(values, dict) else {"loss": values}
    return {name: at_least_float32(value) for name, value in values.items()}
