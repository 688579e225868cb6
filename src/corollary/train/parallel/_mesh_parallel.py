"""Data, tensor and pipeline parallelism on one mesh, and the map between ranks and coordinates.

The fastest axis of the mesh (the last) belongs to tensor parallelism, whose sums are on the critical path; then come
the pipeline and the data axis, which tolerate slow links. Split stages are `pipeline_loss`'s; this layout places them.

Source: Narayanan et al., "Efficient large-scale language model training on GPU clusters using Megatron-LM" (2021), §3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.sharding import Mesh

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.train.parallel._layout import Layout
from corollary.train.parallel._tensor_parallel import COLUMNS, ROWS


def mesh_parallel(
    mesh: Mesh,
    *,
    data: str = "data",
    model: str | None = "model",
    pipeline: str | None = None,
    columns: str = COLUMNS,
    rows: str = ROWS,
    stack: str = "",
    stage: int = 0,
) -> Layout:
    """A layout that splits the batch, the layers and the stack of pipeline stages over one mesh.

    Use it where no single way of splitting suffices. Pipeline stages are one pytree whose leaves have a leading axis of
    stages; their step comes from ``sharded_step(pipeline_loss(...), optimizer, layout)``.

    Parameters
    ----------
    mesh
        A mesh with the named axes.
    data, model, pipeline
        Axes for the batch, for linear layers, for stages; None leaves one out.
    columns, rows
        As in `tensor_parallel`, searched in a parameter's path.
    stack
        Which parameters have a leading axis of stages, a regular expression; the default names all.
    stage
        ZeRO's stage over the data axis.

    Returns
    -------
    Layout
        For `Trainer(layout=...)` or `sharded_step`. No certificate: the step equals the single-device one to rounding.

    Raises
    ------
    InputError
        Where the mesh lacks an axis, or one axis is named twice.

    Source: Narayanan et al. (2021), §3.

    Examples
    --------
    >>> import jax, numpy as np
    >>> from jax.sharding import Mesh
    >>> mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model"))
    >>> mesh_parallel(mesh).shards
    1
    """
    validation.one_of(0, 1, 2, 3)("stage", stage)
    split = (columns, rows) if model is not None else (None, None)
    return Layout(mesh, (data,), stage, model, *split, pipeline, stack if pipeline is not None else None)


def rank_mapping(mesh: Mesh) -> dict[tuple[int, ...], int]:
    """The device id at each coordinate of a mesh: a bijection between coordinates and devices.

    Use it to see which devices sum, gather or pass messages together: those that differ in one coordinate only.

    Parameters
    ----------
    mesh
        Any mesh.

    Returns
    -------
    dict
        Coordinates (one per axis, in the mesh's order) to device id. No certificate.

    Raises
    ------
    InputError
        Where a device stands at two coordinates.

    Examples
    --------
    >>> import jax
    >>> from jax.sharding import Mesh
    >>> rank_mapping(Mesh(jax.devices()[:1], ("data",)))
    {(0,): 0}
    """
    grid: Any = mesh.devices
    ranks = {tuple(int(i) for i in at): int(grid[at].id) for at in np.ndindex(*grid.shape)}
    if len(set(ranks.values())) < len(ranks):
        raise InputError("mesh: found one device at two coordinates, expected each once")
    return ranks
