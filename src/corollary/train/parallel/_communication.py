"""Bytes that training sends: counted in a compiled program, and predicted by the ring formulas.

A ring over N devices sends from each of them, for a tensor of S bytes,

    all-reduce 2(N − 1)/N·S,   all-gather and reduce-scatter (N − 1)/N·S,   all-to-all (N − 1)/N·S,   permute S.

Cost: reading the program's text.
Source: Patarasuk & Yuan (2009); Rajbhandari et al., "ZeRO" (2020), §7; Shoeybi et al., "Megatron-LM" (2019), §3.
"""

from __future__ import annotations

import math
import re
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Solution

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
SCHEMES = ("data_parallel", "zero1", "zero2", "zero3", "local_sgd", "tensor_parallel")

_OP = re.compile(rf"= (.+?) ({'|'.join(KINDS)})(-start)?\(")
_SHAPE = re.compile(r"\b(pred|bf16|[a-z]\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]")


class Collective(eqx.Module):
    """One collective of a compiled program: its kind, the bytes of the whole tensor, and how many devices join."""

    kind: str = eqx.field(static=True)
    payload: int = eqx.field(static=True)
    group: int = eqx.field(static=True)

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a ring."""
        return ring_bytes(self.kind, self.payload, self.group)


def ring_bytes(kind: str, payload: float, group: int) -> float:
    """Bytes that each device of a ring sends for one collective.

    Parameters
    ----------
    kind
        ``"all-reduce"``, ``"all-gather"``, ``"reduce-scatter"``, ``"all-to-all"`` or ``"collective-permute"``.
    payload
        Bytes of the whole tensor (of an all-gather's result, of a reduce-scatter's operand).
    group
        How many devices join.

    Returns
    -------
    float
        Bytes. No certificate.

    Raises
    ------
    InputError
        For another kind, or fewer than one device.

    Source: Patarasuk & Yuan (2009), §3.

    Examples
    --------
    >>> ring_bytes("all-reduce", 800, 8)
    1400.0
    """
    validation.one_of(*KINDS)("kind", kind)
    validation.number(0)("payload", payload)
    validation.integer(1)("group", group)
    if kind == "collective-permute":
        return float(payload)
    return (2 if kind == "all-reduce" else 1) * (group - 1) / group * payload


def count_collectives(program: Any) -> list[Collective]:
    """The collectives of a compiled program, from its text.

    Use it to see what a layout costs: ``count_collectives(jax.jit(f).lower(...).compile())``. A collective in a loop's
    body is listed once, however often the loop runs.

    Parameters
    ----------
    program
        A compiled function (``.as_text()``), or the text of an HLO module.

    Returns
    -------
    list of Collective
        In the program's order; several tensors in one operation add their bytes. No certificate: this is a count.

    Raises
    ------
    InputError
        For something that has no text.

    Examples
    --------
    >>> count_collectives("%r = f32[4,2]{1,0} all-reduce(%x), replica_groups={{0,1}}")[0].payload
    32
    """
    text = program if isinstance(program, str) else getattr(program, "as_text", lambda: None)()
    if not isinstance(text, str):
        raise InputError(f"program: found {type(program).__name__}, expected a compiled function or its text")
    found = []
    counts = [int(n) for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", text.split("\n", 1)[0])]
    everyone = math.prod(counts)
    for line in text.splitlines():
        match = _OP.search(line)
        if match is None:
            continue
        result, kind, asynchronous = match.groups()
        group = _group(line, everyone)
        shapes = _SHAPE.findall(result)
        if asynchronous and kind == "collective-permute":  # operands, results and two scalars of context
            shapes = [shape for shape in shapes if shape != ("u32", "")]
        payload = sum(_bytes(*shape) for shape in shapes)
        if asynchronous and kind == "all-gather":  # the result lists the operands too
            payload = payload * group // (group + 1)
        elif asynchronous and kind == "collective-permute":
            payload //= 2
        elif kind == "reduce-scatter":
            payload = payload * group // (group + 1 if asynchronous else 1)
        found.append(Collective(kind, payload, group))
    return found


def communication_model(
    params: PyTree,
    n_devices: int,
    scheme: str = "data_parallel",
    *,
    period: int = 1,
    activation_bytes: int = 0,
    blocks: int = 0,
    program: Any = None,
) -> Solution:
    """Bytes that each device sends per training step, by the scheme of parallelism.

    Use it to choose a scheme before there are machines, or to hold a compiled step against the formula.

    Parameters
    ----------
    params
        The parameters (arrays, or shapes by `jax.eval_shape`).
    n_devices
        N devices in a ring.
    scheme
        ``"data_parallel"``: all-reduce of the gradients; ``"zero1"``: that, and an all-gather of the parameters;
        ``"zero2"``: reduce-scatter and all-gather; ``"zero3"``: all-gather of the parameters for the pass (``blocks``
        more times where they are gathered again backward), reduce-scatter of the gradients; ``"local_sgd"``:
        all-reduce of the parameters every `period` steps (DiLoCo too); ``"tensor_parallel"``: an all-reduce of the
        activations per half block, forward and backward.
    period
        H of ``"local_sgd"``.
    activation_bytes
        For ``"tensor_parallel"``: bytes of one half block's output.
    blocks
        For ``"tensor_parallel"``: how many half blocks; for ``"zero3"``: how many further gathers.
    program
        A compiled step to be held against the prediction; leaves that N does not divide are all-reduced, and the loss
        itself is a scalar of 4 bytes more, so compare with sizes that divide.

    Returns
    -------
    `Solution` whose value is bytes sent per device and step; ``stats["payload"]`` has the tensors' bytes by kind.

    Certificates: with `program`, ``counted`` (exact: |counted − predicted| is at most the all-reduced scalars' bytes).

    Raises
    ------
    InputError
        For an unknown scheme or counts below their least.

    Source: Rajbhandari et al. (2020), §7.1–7.2; Shoeybi et al. (2019), §3; Douillard et al., "DiLoCo" (2023).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(communication_model(jnp.ones(100, jnp.float32), 8).value)
    700.0
    """
    validation.integer(1)("n_devices", n_devices)
    validation.one_of(*SCHEMES)("scheme", scheme)
    validation.integer(1)("period", period)
    validation.integer(0)("activation_bytes", activation_bytes)
    validation.integer(0)("blocks", blocks)
    size = sum(math.prod(np.shape(leaf)) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(params))
    payload: dict[str, float] = {
        "data_parallel": {"all-reduce": size},
        "zero1": {"all-reduce": size, "all-gather": size},
        "zero2": {"reduce-scatter": size, "all-gather": size},
        "zero3": {"reduce-scatter": size, "all-gather": size * (1 + blocks)},
        "local_sgd": {"all-reduce": size / period},
        "tensor_parallel": {"all-reduce": 2 * blocks * activation_bytes},
    }[scheme]
    value = sum(ring_bytes(kind, bytes_, n_devices) for kind, bytes_ in payload.items())
    certificates = {}
    if program is not None:
        found = [c for c in count_collectives(program) if c.group > 1]
        counted = sum(c.sent for c in found)
        certificates["counted"] = Certificate(
            "|bytes sent by the compiled step − predicted| <= bytes of the scalar loss",
            measured=abs(counted - value),
            bound=ring_bytes("all-reduce", 4, n_devices) + 1e-9 * value,
            kind="exact",
            source="Patarasuk & Yuan (2009), §3",
        )
    return Solution(float(value), certificates, stats={"payload": payload})


def _bytes(dtype: str, dimensions: str) -> int:
    if dtype == "pred":
        bits = 8
    else:
        bits = int(re.findall(r"\d+", dtype)[0])
    n = math.prod(int(d) for d in dimensions.split(",") if d)
    return n * max(bits, 8) // 8


def _group(line: str, everyone: int) -> int:
    """How many devices join: ``{{0,1},{2,3}}``, ``[4,2]<=[8]`` or ``mesh['a'=4,'b'=2] {'b'}``."""
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return match[1].count(",") + 1
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    if match := re.search(r"replica_groups=(?:@\w+|mesh)\[([^\]]*)\]\S* *\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'([^']+)'", match[2]) if name in sizes)
    if match := re.search(r"source_target_pairs=\{(.*?)\}\}", line):
        return len(set(re.findall(r"\d+", match[1])))
    return everyone  # no groups, or empty ones: all devices join
