"""Layouts: where parameters, gradients, optimizer state and batches lie on a mesh of devices.

A layout only names shardings; `jit` inserts the communication, so a step under a layout is the single-device step to
rounding. `data_parallel` is the plain one: every device has the whole model and its share of the batch, and the
gradients are summed by one all-reduce of the parameters' size, 2(N − 1)/N·Ψ bytes sent by each of N devices.

Source: Li et al., "PyTorch Distributed" (2020); Xu et al., "GSPMD" (2021), §3; Patarasuk & Yuan, "Bandwidth optimal
all-reduce algorithms for clusters of workstations" (2009).
"""

from __future__ import annotations

import math
import re
from typing import Any, final

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.errors import InputError


@final
class Layout(eqx.Module):
    """Shardings for training on a mesh; made by `data_parallel`, `fsdp`, `tensor_parallel` or `mesh_parallel`.

    Parameters
    ----------
    mesh
        Devices with named axes.
    data
        Names of the axes over which the batch is split; they also carry the shards of a ZeRO stage.
    stage
        0: parameters, gradients and optimizer state are whole on every data shard; 1: the optimizer state is split;
        2: the gradients too; 3: the parameters too.
    model
        The axis over which linear layers are split, or None.
    columns, rows
        Regular expressions, searched in a parameter's path (``".layers[0].weight"``): layers whose outputs
        (``columns``) or inputs (``rows``) are split over `model`. Weights are (out, in) as in Equinox.
    stacked
        The axis over which leaves named by `stack` are split along their leading axis (pipeline stages), or None.
    stack
        Regular expression of the stacked parameters.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from jax.sharding import Mesh
    >>> layout = data_parallel(Mesh(jax.devices()[:1], ("data",)))
    >>> tuple(layout.batch({"x": jnp.ones((4, 2))})["x"].spec)
    ('data',)
    """

    mesh: Mesh = eqx.field(static=True)
    data: tuple[str, ...] = eqx.field(static=True, default=("data",))
    stage: int = eqx.field(static=True, default=0)
    model: str | None = eqx.field(static=True, default=None)
    columns: str | None = eqx.field(static=True, default=None)
    rows: str | None = eqx.field(static=True, default=None)
    stacked: str | None = eqx.field(static=True, default=None)
    stack: str | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        """Refuse axes that the mesh lacks, or one axis with two uses."""
        validation.one_of(0, 1, 2, 3)("stage", self.stage)
        used = [*self.data, *(a for a in (self.model, self.stacked) if a is not None)]
        for axis in used:
            if axis not in self.mesh.axis_names:
                raise InputError(f"mesh: found axes {self.mesh.axis_names}, expected one named {axis!r}")
        if len(set(used)) < len(used):
            raise InputError(f"mesh: found axes {used} with one used twice, expected different ones")

    @property
    def shards(self) -> int:
        """Over how many devices the batch is split."""
        return math.prod(self.mesh.shape[axis] for axis in self.data)

    def parameters(self, tree: PyTree) -> PyTree:
        """A tree of `NamedSharding`, one per parameter."""
        return self._shardings(tree, self.stage >= 3)

    def gradients(self, tree: PyTree) -> PyTree:
        """A tree of `NamedSharding`, one per gradient."""
        return self._shardings(tree, self.stage >= 2)

    def optimizer(self, tree: PyTree) -> PyTree:
        """A tree of `NamedSharding` for an optimizer's state: moments follow their parameters, counters are whole."""
        return self._shardings(tree, self.stage >= 1)

    def batch(self, tree: PyTree) -> PyTree:
        """A tree of `NamedSharding` for a batch: the leading axis over the data axes, which must divide it."""
        n = self.shards

        def one(path: Any, leaf: Any) -> NamedSharding:
            if np.ndim(leaf) == 0:
                return self.replicated
            if leaf.shape[0] % n:
                name = jax.tree_util.keystr(path)
                raise InputError(
                    f"batch{name}: found {leaf.shape[0]} examples, expected a multiple of {n} (pad_batch makes one)"
                )
            return self._named(self._data_axes)

        return jax.tree_util.tree_map_with_path(one, tree)

    @property
    def replicated(self) -> NamedSharding:
        """Whole on every device."""
        return self._named()

    def put(self, params: PyTree) -> PyTree:
        """Parameters placed on the mesh; in several processes each passes the same values."""
        return jax.device_put(params, self.parameters(params))

    def put_batch(self, batch: PyTree) -> PyTree:
        """A batch placed on the mesh; in several processes each passes its own examples, equally many."""
        if jax.process_count() == 1:
            return jax.device_put(batch, self.batch(batch))

        def one(leaf: Any) -> jax.Array:
            sharding = self._named(self._data_axes) if np.ndim(leaf) else self.replicated
            return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

        return jax.tree.map(one, batch)

    @property
    def _data_axes(self) -> Any:
        return self.data[0] if len(self.data) == 1 else self.data

    def _named(self, *spec: Any) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def _shardings(self, tree: PyTree, split: bool) -> PyTree:
        def one(path: Any, leaf: Any) -> NamedSharding:
            return self._named(*self._spec(jax.tree_util.keystr(path), np.shape(leaf), split))

        return jax.tree_util.tree_map_with_path(one, tree)

    def _spec(self, path: str, shape: tuple[int, ...], split: bool) -> list[Any]:
        spec: list[Any] = [None] * len(shape)
        first = 0
        if self.stacked is not None and self.stack is not None and shape and re.search(self.stack, path):
            _claim(spec, shape, 0, self.stacked, self.mesh.shape[self.stacked])
            first = 1
        if self.model is not None and len(shape) > first:
            size = self.mesh.shape[self.model]
            if self.columns is not None and re.search(self.columns, path):
                _claim(spec, shape, first, self.model, size)
            elif self.rows is not None and re.search(self.rows, path) and len(shape) > first + 1:
                _claim(spec, shape, first + 1, self.model, size)
        if split and self.shards > 1:
            free = [d for d in range(first, len(shape)) if spec[d] is None and shape[d] % self.shards == 0 and shape[d]]
            if free:
                spec[max(free, key=lambda d: shape[d])] = self._data_axes
        while spec and spec[-1] is None:
            spec.pop()
        return spec


def data_parallel(mesh: Mesh, *, axis: str = "data") -> Layout:
    """Plain data parallelism: the model whole on every device, the batch split, the gradients all-reduced.

    Use it while parameters, gradients and optimizer state fit one device; `fsdp` splits those. A step sends
    2(N − 1)/N times the parameters' bytes from every device.

    Parameters
    ----------
    mesh
        A mesh with the axis; other axes hold copies.
    axis
        The axis over which the batch is split.

    Returns
    -------
    Layout
        For `Trainer(layout=...)` or `sharded_step`. No certificate: the step equals the single-device one to rounding.

    Raises
    ------
    InputError
        Where the mesh has no such axis.

    Source: Li et al., "PyTorch Distributed" (2020), §2.3.

    Examples
    --------
    >>> import jax
    >>> from jax.sharding import Mesh
    >>> data_parallel(Mesh(jax.devices()[:1], ("data",))).shards
    1
    """
    return Layout(mesh, (axis,))


def bytes_per_device(tree: PyTree) -> dict[Any, int]:
    """Bytes of a tree's arrays on each device of this process, from their addressable shards.

    Parameters
    ----------
    tree
        A pytree of JAX arrays.

    Returns
    -------
    dict
        Device to bytes, measured and not predicted.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> list(bytes_per_device({"w": jnp.ones((4, 2), jnp.float32)}).values())
    [32]
    """
    total: dict[Any, int] = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            total[shard.device] = total.get(shard.device, 0) + shard.data.nbytes
    return total


def _claim(spec: list[Any], shape: tuple[int, ...], dimension: int, axis: str, size: int) -> None:
    """Split one dimension where the axis divides it; an indivisible one stays whole (and the answer the same)."""
    if shape[dimension] % size == 0:
        spec[dimension] = axis
