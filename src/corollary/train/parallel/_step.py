"""One training step under a layout, and batches that the devices do not divide.

With ``collectives="auto"`` the partitioner of XLA places the communication: any layout, any optimizer, batch statistics
over the whole batch. With ``"explicit"`` the step spells out ZeRO's own (all-gather of split parameters, reduce-scatter
or all-reduce of gradients), which costs the bytes of `communication_model` on every platform; each device then sees its
own examples only (batch statistics and random keys are per device, as in PyTorch's DistributedDataParallel).

Cost: the single-device step's work over N, plus the communication.
Source: Rajbhandari et al., "ZeRO" (2020), §7; Xu et al., "GSPMD" (2021).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.train.parallel._layout import Layout


def sharded_step(
    loss: Callable[..., Any], optimizer: Any, layout: Layout, *, collectives: str = "auto", weighted: bool = False
) -> Callable[..., Any]:
    """A compiled step ``(params, state, batch, key) -> (params, state, value)`` under a layout.

    Use it where `Trainer` is too much; place the arguments by ``layout.put`` and ``layout.put_batch`` first.

    Parameters
    ----------
    loss
        ``loss(params, batch, key) -> scalar``, a mean over the batch; `params` a pytree of arrays.
    optimizer
        An `optax.GradientTransformation`.
    layout
        From `data_parallel`, `fsdp`, `tensor_parallel` or `mesh_parallel`.
    collectives
        ``"auto"``: XLA's partitioner; ``"explicit"``: spelled out, for layouts that split over data axes only.
    weighted
        The batch is ``(examples, weights)`` from `pad_batch` and `loss` is averaged with these weights.

    Returns
    -------
    Callable
        The step; parameters and state keep their shardings. No certificate: it equals the single-device step to
        rounding.

    Raises
    ------
    InputError
        For another choice of collectives, or explicit ones with a layout that splits layers.

    Source: Rajbhandari et al. (2020), §7.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, optax
    >>> from jax.sharding import Mesh
    >>> from corollary.train import data_parallel
    >>> layout = data_parallel(Mesh(jax.devices()[:1], ("data",)))
    >>> step = sharded_step(lambda w, x, key: jnp.mean((x - w) ** 2), optax.sgd(0.5), layout)
    >>> w, _, value = step(jnp.zeros(()), optax.sgd(0.5).init(jnp.zeros(())), jnp.ones(4), jax.random.key(0))
    >>> float(w), float(value)
    (1.0, 1.0)
    """
    validation.one_of("auto", "explicit")("collectives", collectives)
    if collectives == "explicit" and (layout.model is not None or layout.stacked is not None):
        raise InputError("collectives: found 'explicit' with split layers, expected 'auto' for this layout")
    gradient = _explicit(loss, layout, weighted) if collectives == "explicit" else _auto(loss, weighted)
    alone = layout.mesh.size == 1  # a constraint would only keep XLA from fusing
    constrain = (lambda tree, _: tree) if alone else jax.lax.with_sharding_constraint

    def step(params: PyTree, state: PyTree, batch: PyTree, key: Any) -> tuple[PyTree, PyTree, Any]:
        # Said of the inputs too: the partitioner would otherwise choose a place for what comes without one.
        params, state = constrain(params, layout.parameters(params)), constrain(state, layout.optimizer(state))
        value, grads = gradient(params, batch, key)
        grads = constrain(grads, layout.gradients(grads))
        # At stages 1 and 2 the update is computed where its state lies, and gathered once.
        near = constrain(params, layout.optimizer(params))
        updates, state = optimizer.update(grads, state, near)
        params = optax.apply_updates(near, constrain(updates, layout.optimizer(updates)))
        params = constrain(params, layout.parameters(params))
        return params, constrain(state, layout.optimizer(state)), value

    return jax.jit(step)


def pad_batch(batch: PyTree, multiple: int) -> tuple[PyTree, np.ndarray]:
    """A batch padded to a multiple of the number of devices, with weights that are 0 on the padding.

    Use it for the last batch of an epoch, or where processes hold unequally many examples, with
    ``sharded_step(weighted=True)``: the mean stays the mean over the real examples.

    Parameters
    ----------
    batch
        Pytree of arrays with one leading length n.
    multiple
        What the padded length is a multiple of, e.g. ``layout.shards``.

    Returns
    -------
    tuple
        The batch, its last example repeated, on the host; and float32 weights (padded length,).

    Raises
    ------
    InputError
        For an empty batch or unequal lengths.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = pad_batch(np.arange(3.0), 4)
    >>> x.tolist(), w.tolist()
    ([0.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.0, 0.0])
    """
    validation.integer(1)("multiple", multiple)
    lengths = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in jax.tree.leaves(batch)}
    if len(lengths) != 1 or 0 in lengths:
        raise InputError(f"batch: found leading lengths {sorted(lengths)}, expected one length of at least 1")
    (n,) = lengths
    more = -n % multiple
    index = np.minimum(np.arange(n + more), n - 1)
    weights = np.where(np.arange(n + more) < n, 1.0, 0.0).astype(np.float32)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], batch), weights


def _mean(loss: Callable[..., Any], params: PyTree, batch: PyTree, key: Any, weighted: bool) -> tuple[Any, Any]:
    """The (weighted) mean of a shard of a batch, and its weight."""
    if not weighted:
        return loss(params, batch, key), None
    examples, weights = batch
    one = jax.tree.map(lambda leaf: leaf[:, None], examples)
    keys = jax.random.split(key, weights.shape[0])
    values = jax.vmap(loss, (None, 0, 0))(params, one, keys)
    weights = weights.astype(values.dtype)
    total = jnp.sum(weights)
    # A device with nothing but padding adds nothing; it must not divide by zero either.
    values = jnp.where(weights > 0, values, 0)
    return jnp.sum(weights * values) / jnp.where(total > 0, total, 1), total


def _auto(loss: Callable[..., Any], weighted: bool) -> Callable[..., Any]:
    return jax.value_and_grad(lambda params, batch, key: _mean(loss, params, batch, key, weighted)[0])


def _explicit(loss: Callable[..., Any], layout: Layout, weighted: bool) -> Callable[..., Any]:
    axes, n = layout.data, layout.shards

    def gradient(params: PyTree, batch: PyTree, key: Any) -> tuple[Any, PyTree]:
        stored, wanted = layout.parameters(params), layout.gradients(params)
        where = jax.tree.map(lambda s: _split_at(s.spec), stored), jax.tree.map(lambda s: _split_at(s.spec), wanted)

        def gather(p: Any, at: int) -> Any:
            return p if at < 0 else jax.lax.all_gather(p, axes, axis=at, tiled=True)

        def local(params: PyTree, batch: PyTree, key: Any) -> tuple[Any, PyTree]:
            whole = jax.tree.map(gather, params, where[0])
            key = jax.random.fold_in(key, jax.lax.axis_index(axes))
            (value, weight), grads = jax.value_and_grad(lambda p: _mean(loss, p, batch, key, weighted), has_aux=True)(
                whole
            )
            share = 1 / n if weight is None else weight / jax.lax.psum(weight, axes)

            def reduce(g: Any, at: int) -> Any:
                g = g * jnp.asarray(share).astype(g.dtype)
                if at < 0:
                    return jax.lax.psum(g, axes)
                return jax.lax.psum_scatter(g, axes, scatter_dimension=at, tiled=True)

            return jax.lax.psum(value * share, axes), jax.tree.map(reduce, grads, where[1])

        def specs(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda s: s.spec, tree)

        return jax.shard_map(
            local,
            mesh=layout.mesh,
            in_specs=(specs(stored), specs(layout.batch(batch)), jax.sharding.PartitionSpec()),
            out_specs=(jax.sharding.PartitionSpec(), specs(wanted)),
            check_vma=False,
        )(params, batch, key)

    return gradient


def _split_at(spec: Any) -> int:
    """The dimension that is split, or −1 (None would vanish from a pytree)."""
    return next((d for d, name in enumerate(spec) if name is not None), -1)
