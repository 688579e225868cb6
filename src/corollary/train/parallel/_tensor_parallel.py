"""Tensor parallelism after Megatron: linear layers split over an axis, one all-reduce a half block and direction.

An MLP y = B f(A x) splits the rows of A (outputs) and the columns of B (inputs): each device computes its share of the
hidden units, and one sum over devices gives y. Attention splits its heads: query, key and value by outputs, the output
projection by inputs. Backward, the gradient with respect to x is summed once. A bias of the second layer is whole.
(Of attention XLA sums the three parts of query, key and value in that one operation: three times the bytes backward.)

Cost per block and device: work and weights over N; an all-reduce of the activations' bytes, 4 per transformer layer.
Source: Shoeybi et al., "Megatron-LM" (2019), §3, figures 3 and 4.
"""

from __future__ import annotations

import re

from jax.sharding import Mesh

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.train.parallel._layout import Layout

COLUMNS = r"(query|key|value)_proj|\.layers\[\d*[02468]\]"
ROWS = r"output_proj|\.layers\[\d*[13579]\]"


def tensor_parallel(
    mesh: Mesh,
    *,
    axis: str = "model",
    data: str | None = None,
    columns: str = COLUMNS,
    rows: str = ROWS,
    stage: int = 0,
) -> Layout:
    """Split linear layers over a mesh axis, by outputs (`columns`) and then by inputs (`rows`).

    Use it where one layer is too large for a device, between devices with a fast link: the sums are on the critical
    path. Any choice of split gives the same numbers to rounding; only pairs (columns, then rows) need one sum.

    Parameters
    ----------
    mesh
        A mesh with the axis, and with `data` where that is given.
    axis
        The axis over which layers are split; it should divide the hidden width and the number of heads.
    data
        An axis over which the batch is split too, or None.
    columns, rows
        Regular expressions searched in a parameter's path. The defaults name the layers of `equinox.nn.MLP` (even ones
        columns, odd ones rows) and `equinox.nn.MultiheadAttention`; weights are (out, in).
    stage
        ZeRO's stage over the data axis.

    Returns
    -------
    Layout
        For `Trainer(layout=...)` or `sharded_step`. No certificate: `count_collectives` counts the sums.

    Raises
    ------
    InputError
        Where the mesh lacks an axis, or a pattern is no regular expression.

    Source: Shoeybi et al. (2019), §3.

    Examples
    --------
    >>> import jax, equinox as eqx
    >>> from jax.sharding import Mesh
    >>> layout = tensor_parallel(Mesh(jax.devices()[:1], ("model",)))
    >>> mlp = eqx.filter(eqx.nn.MLP(2, 2, 8, 1, key=jax.random.key(0)), eqx.is_array)
    >>> [tuple(layer.weight.spec) for layer in layout.parameters(mlp).layers]
    [('model',), (None, 'model')]
    """
    for name, pattern in {"columns": columns, "rows": rows}.items():
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise InputError(f"{name}: found {pattern!r}, expected a regular expression") from error
    validation.one_of(0, 1, 2, 3)("stage", stage)
    return Layout(mesh, () if data is None else (data,), stage, axis, columns, rows)
