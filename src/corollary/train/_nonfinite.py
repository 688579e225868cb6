"""Where a step went wrong: the first operation of one batch whose result is not finite, and whose weights it used last.

The batch is computed once more, operation by operation, from the last finite parameters. Each value remembers the
parameter that entered it last, so the first non-finite one names a layer by its path in the model. Cost: one slow
evaluation, once per report. An operation that XLA fused may round differently here: if nothing is found, that is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jaxtyping import PyTree

from corollary.train._feed import Feed
from corollary.train._loss_scale import all_finite
from corollary.train._state import TrainState, gradient_of, loss_of

if TYPE_CHECKING:
    from corollary.train._trainer import Trainer

INLINE = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint")


def first_non_finite(trainer: Trainer, state: TrainState, feed: Feed, step: int) -> str:
    """One sentence: the step, the layer, the batch's examples."""
    batch = feed.batch(step)
    key = jax.random.fold_in(state.key, step)
    indices = feed.indices(step)
    which = f"batch {step}"
    if indices is not None:
        shown = ", ".join(map(str, indices[:16])) + (", ..." if len(indices) > 16 else "")
        which += f" (examples {shown})"
    try:
        where = _where(trainer, state, batch, key)
    except Exception as error:  # the report must not hide what it is about
        where = f"where is not known, as the step could not be computed piece by piece ({type(error).__name__})"
    return f"step {step}, {which}: {where}"


def _where(trainer: Trainer, state: TrainState, batch: PyTree, key: Any) -> str:
    for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]:
        if not bool(all_finite(leaf)):
            return f"the batch itself is not finite at batch{jax.tree_util.keystr(path)}"
    recipe, fixed = trainer._recipe, trainer._fixed

    def loss(params):
        return loss_of(recipe, params, fixed, state.model_state, batch, key)[0]

    found = _trace(loss, state.params)
    if found is not None:
        return found
    scale = None if state.scale is None else state.scale.scale
    gradients = gradient_of(recipe, state.params, fixed, state.model_state, batch, key, scale)[1]
    bad = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_flatten_with_path(gradients)[0]
        if not bool(all_finite(leaf))
    ]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        return f"the loss is finite, its gradient is not at model{bad[-1]}{more}"
    return "the loss and its gradient are finite when computed anew: the update overflowed, or rounding differed"


def _trace(function: Any, params: PyTree) -> str | None:
    """The first operation with finite inputs and a non-finite output, in words; None where there is none."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    closed = jax.make_jaxpr(function)(params)
    labels = [f"model{jax.tree_util.keystr(path)}" for path, _ in leaves]
    values = [leaf for _, leaf in leaves]
    found: list[str] = []
    _walk(closed.jaxpr, closed.consts, values, labels, found)
    return found[0] if found else None


def _walk(jaxpr: Any, consts: Any, values: list[Any], labels: list[str], found: list[str]) -> tuple[list, list]:
    value_of: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    label_of: dict[Any, str] = {}
    value_of |= dict(zip(jaxpr.invars, values, strict=True))
    label_of |= dict(zip(jaxpr.invars, labels, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else value_of[atom]

    def label(atom: Any) -> str:
        return "" if isinstance(atom, jex.Literal) else label_of.get(atom, "")

    for eqn in jaxpr.eqns:
        if found:
            break
        inputs = [read(atom) for atom in eqn.invars]
        names = [label(atom) for atom in eqn.invars]
        inner = _inner(eqn)
        if inner is not None and len(inner.jaxpr.invars) == len(inputs):
            outputs, marks = _walk(inner.jaxpr, inner.consts, inputs, names, found)
            if found:
                break
        else:
            outputs = _evaluate(eqn, inputs)
            last = next((name for name in reversed(names) if name), "")
            marks = [last] * len(outputs)
            if _odd(outputs) and not _odd(inputs):
                after = f", the last layer to enter being {last}" if last else ", before any layer"
                found.append(f"the first non-finite value comes out of {eqn.primitive.name}{after}")
                break
        value_of |= dict(zip(eqn.outvars, outputs, strict=True))
        label_of |= dict(zip(eqn.outvars, marks, strict=True))
    if found:
        return [], []
    return [read(atom) for atom in jaxpr.outvars], [label(atom) for atom in jaxpr.outvars]


def _evaluate(eqn: Any, inputs: list[Any]) -> list[Any]:
    """The outputs of one operation."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, parameters = bound if isinstance(bound, tuple) else ((), bound)  # a pair before JAX 0.10
    outputs = eqn.primitive.bind(*functions, *inputs, **parameters)
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def _inner(eqn: Any) -> Any:
    if eqn.primitive.name not in INLINE:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(name)
        if inner is not None:
            return inner if isinstance(inner, jex.ClosedJaxpr) else jex.ClosedJaxpr(inner, ())
    return None


def _odd(values: list[Any]) -> bool:
    floats = [v for v in values if hasattr(v, "dtype") and jnp.issubdtype(v.dtype, jnp.inexact)]
    return any(
        not np.all(np.isfinite(np.asarray(v, dtype=np.float64 if v.dtype.kind != "c" else None))) for v in floats
    )
