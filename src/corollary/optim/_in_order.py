"""Compiled loops of many small operations, run one operation after the other on a CPU.

XLA's CPU runtime hands operations that are ready at the same time to other threads. For vectors that fit a core's cache
the handing over costs more than the work: twice the time of a step of L-BFGS with a thousand variables. With the
schedule that saves memory the operations of a loop's body run in a row on one thread (products of matrices still have
theirs). Larger loops keep the ordinary schedule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

SMALL = 2**20  # bytes that a step touches
OPTIONS: dict[str, Any] = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def pays(tree: PyTree) -> bool:
    """Whether a loop over these arrays is small, and on a CPU whose compiler knows the schedule."""
    leaves = jax.tree.leaves(tree)
    if sum(getattr(leaf, "nbytes", 0) for leaf in leaves) > SMALL:
        return False
    devices = {device for leaf in leaves if isinstance(leaf, jax.Array) for device in leaf.devices()}
    return len(devices) == 1 and next(iter(devices)).platform == "cpu" and _known()


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit` with that schedule; for calls that are not part of a larger compiled function."""
    return jax.jit(function, compiler_options=OPTIONS, **options)


@functools.cache
def _known() -> bool:
    """The option's name is not part of JAX's interface: asked for once."""
    try:
        jax.jit(lambda: 0, compiler_options=OPTIONS).lower().compile()
    except RuntimeError:
        return False
    return True
