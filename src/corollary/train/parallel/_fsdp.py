"""ZeRO stages 1 to 3: optimizer state, gradients and parameters split over the data axis (stage 3 is FSDP).

With p, g and K bytes per parameter for weights, gradients and optimizer state (2, 2 and 12 in mixed precision with
Adam), N devices and Ψ parameters, a device holds

    stage 0: (p + g + K)Ψ    1: (p + g + K/N)Ψ    2: (p + (g + K)/N)Ψ    3: (p + g + K)Ψ/N.

A leaf is split along its largest dimension that N divides; one with none (a small bias) stays whole.
Source: Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter models" (2020), §5, figure 1.
"""

from __future__ import annotations

from typing import Any

from jax.sharding import Mesh

from corollary.core import validation
from corollary.train.parallel._layout import Layout


def fsdp(mesh: Mesh, *, stage: int = 3, axis: str = "data") -> Layout:
    """Split what data parallelism repeats: optimizer state (stage 1), gradients (2) and parameters (3).

    Use it when model and optimizer state outgrow one device. Stage 2 sends as many bytes as data parallelism (a
    reduce-scatter and an all-gather); stage 3 gathers the parameters for the forward and the backward pass.

    Parameters
    ----------
    mesh
        A mesh with the axis.
    stage
        1, 2 or 3, as in ZeRO.
    axis
        The axis over which the batch and the shards are split.

    Returns
    -------
    Layout
        For `Trainer(layout=...)` or `sharded_step`. No certificate: `bytes_per_device` measures what
        `zero_memory` predicts.

    Raises
    ------
    InputError
        For another stage, or where the mesh has no such axis.

    Source: Rajbhandari et al. (2020), §5.

    Examples
    --------
    >>> import jax
    >>> from jax.sharding import Mesh
    >>> fsdp(Mesh(jax.devices()[:1], ("data",)), stage=2).stage
    2
    """
    validation.one_of(1, 2, 3)("stage", stage)
    return Layout(mesh, (axis,), stage)


def zero_memory(
    n_parameters: int,
    n_devices: int,
    *,
    stage: int = 3,
    parameter_bytes: Any = 2,
    gradient_bytes: Any = 2,
    optimizer_bytes: Any = 12,
) -> float:
    """Bytes of model state per device by ZeRO's formulas; activations are not counted.

    Parameters
    ----------
    n_parameters
        Ψ, how many parameters.
    n_devices
        N, over how many devices they are split.
    stage
        0 (plain data parallelism) to 3.
    parameter_bytes, gradient_bytes, optimizer_bytes
        Bytes per parameter. The defaults are half precision with Adam and float32 master weights, K = 12; for float32
        training with Adam they are 4, 4 and 8.

    Returns
    -------
    float
        Bytes per device. Exact where N divides a dimension of every leaf. No certificate.

    Raises
    ------
    InputError
        For counts below 1, negative sizes or another stage.

    Source: Rajbhandari et al. (2020), figure 1.

    Examples
    --------
    >>> [round(zero_memory(7_500_000_000, 64, stage=s) / 1e9, 1) for s in range(4)]
    [120.0, 31.4, 16.6, 1.9]
    """
    validation.integer(1)("n_parameters", n_parameters)
    validation.integer(1)("n_devices", n_devices)
    validation.one_of(0, 1, 2, 3)("stage", stage)
    sizes = {"parameter": parameter_bytes, "gradient": gradient_bytes, "optimizer": optimizer_bytes}
    for name, value in sizes.items():
        validation.number(0)(f"{name}_bytes", value)
    split_from = {"parameter": 3, "gradient": 2, "optimizer": 1}
    return float(sum(v * n_parameters / (n_devices if stage >= split_from[k] else 1) for k, v in sizes.items()))
