"""DiLoCo: workers train alone for H steps, then an outer optimizer takes their averaged difference as its gradient.

    θ_k ← H inner steps from θ on worker k's data,   Δ = θ − Σ_k w_k θ_k,   θ ← outer step along Δ.

Communication is one all-reduce of the parameters every H steps: H times less than data parallelism. Workers are a
leading axis, vmapped; on a mesh that axis is split, and the mean is the only collective of a round.

Cost per round: H steps a worker; memory: parameters and inner state per worker, parameters and outer state once.
Source: Douillard et al., "DiLoCo: distributed low-communication training of language models" (2023), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.errors import InputError


class DiLoCoState(eqx.Module):
    """Shared parameters, the workers' inner states (leading axis), the outer state, rounds so far and bytes sent."""

    params: PyTree
    inner: PyTree
    outer: PyTree
    rounds: Any
    communicated: Any


@final
class DiLoCo(eqx.Module):
    """Inner steps on every worker, then one outer step on the averaged difference; `local_sgd` is the plain case.

    Use it where workers are joined by a slow link. More steps per round communicate less and drift further apart
    (`local_sgd_drift` computes how far on quadratics).

    Parameters
    ----------
    loss
        ``loss(params, batch, key) -> scalar``.
    period
        H inner steps per round.
    inner
        Each worker's optimizer; its state stays with the worker. The default is AdamW as in the paper.
    outer
        The optimizer of the averaged difference: by default Nesterov momentum 0.9 with learning rate 0.7.
    mesh, axis
        Where given, the workers are split over this axis, which must divide their number.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, optax
    >>> run = DiLoCo(lambda w, x, key: jnp.mean((w - x) ** 2) / 2, 1, optax.sgd(1.0), optax.sgd(1.0))
    >>> state, losses = run.round(run.init(jnp.zeros(()), 2), jnp.array([[[1.0]], [[3.0]]]), jax.random.key(0))
    >>> float(state.params), losses.shape
    (2.0, (2, 1))
    """

    loss: Callable[..., Any] = eqx.field(static=True)
    period: int = eqx.field(static=True)
    inner: Any = eqx.field(static=True, default=optax.adamw(4e-4, weight_decay=0.1))
    outer: Any = eqx.field(static=True, default=optax.sgd(0.7, momentum=0.9, nesterov=True))
    mesh: Mesh | None = eqx.field(static=True, default=None)
    axis: str = eqx.field(static=True, default="data")

    def __check_init__(self):
        """Refuse a period below 1 and an axis that the mesh lacks."""
        validation.integer(1)("period", self.period)
        if self.mesh is not None and self.axis not in self.mesh.axis_names:
            raise InputError(f"mesh: found axes {self.mesh.axis_names}, expected one named {self.axis!r}")

    def init(self, params: PyTree, workers: int) -> DiLoCoState:
        """The state of `workers` workers that start from the same parameters."""
        validation.integer(1)("workers", workers)
        inner = jax.vmap(self.inner.init)(self._spread(params, workers))
        zero = jnp.zeros((), jnp.int32)
        return DiLoCoState(params, self._split(inner), self.outer.init(params), zero, jnp.zeros((), jnp.float32))

    def bytes_per_round(self, params: PyTree) -> int:
        """Bytes that a worker contributes to a round's all-reduce: the parameters', once."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))

    def round(self, state: DiLoCoState, batches: PyTree, key: Any, weights: Any = None) -> tuple[DiLoCoState, Any]:
        """One round: leaves of `batches` are (workers, H, ...); returns the state and the losses (workers, H).

        `weights` (workers,) weigh the mean, by examples seen for instance; None: equal.
        """
        lead = {leaf.shape[:2] for leaf in jax.tree.leaves(batches)}
        if len(lead) != 1 or (shape := next(iter(lead)))[1] != self.period:
            raise InputError(f"batches: found leading axes {sorted(lead)}, expected (workers, {self.period})")
        workers = shape[0]
        weights = jnp.ones(workers) if weights is None else jnp.asarray(weights)
        if weights.shape != (workers,):
            raise InputError(f"weights: found shape {weights.shape}, expected ({workers},)")
        if not isinstance(weights, Tracer) and not (bool(jnp.all(weights >= 0)) and float(jnp.sum(weights)) > 0):
            raise InputError("weights: found a negative one or none above 0, expected numbers >= 0 that are not all 0")
        return _round(self, state, batches, key, weights)

    def _spread(self, params: PyTree, workers: int) -> PyTree:
        return jax.tree.map(lambda p: jnp.broadcast_to(p, (workers, *jnp.shape(p))), params)

    def _split(self, tree: PyTree) -> PyTree:
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, PartitionSpec(self.axis)))

    def _whole(self, tree: PyTree) -> PyTree:
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, PartitionSpec()))


@eqx.filter_jit
def _round(run: DiLoCo, state: DiLoCoState, batches: Any, key: Any, weights: Any) -> tuple[DiLoCoState, Any]:
    workers = weights.shape[0]

    def worker(params: Any, inner: Any, batches: Any, key: Any) -> Any:
        def step(carry: Any, inputs: Any) -> Any:
            params, inner = carry
            batch, key = inputs
            value, gradient = jax.value_and_grad(run.loss)(params, batch, key)
            updates, inner = run.inner.update(gradient, inner, params)
            return (optax.apply_updates(params, updates), inner), value

        (params, inner), values = jax.lax.scan(step, (params, inner), (batches, jax.random.split(key, run.period)))
        return params, inner, values

    start = run._split(run._spread(state.params, workers))
    name = None if run.mesh is None else run.axis
    params, inner, values = jax.vmap(worker, spmd_axis_name=name)(
        start, state.inner, run._split(batches), jax.random.split(jax.random.fold_in(key, state.rounds), workers)
    )

    def difference(before: Any, after: Any) -> Any:
        w = (weights / jnp.sum(weights)).astype(after.dtype)
        # Differences, not parameters, are averaged: equal workers then give exactly their common point's change.
        return jnp.tensordot(w, before - after, 1)

    delta = run._whole(jax.tree.map(difference, start, params))
    updates, outer = run.outer.update(delta, state.outer, state.params)
    sent = state.communicated + run.bytes_per_round(state.params)
    new = optax.apply_updates(state.params, updates)
    return DiLoCoState(new, run._split(inner), outer, state.rounds + 1, sent), values
