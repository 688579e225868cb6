"""Pipeline parallelism: stages on devices, micro-batches in flight, by the schedules of GPipe and 1F1B.

With p stages and m micro-batches both schedules take 2(m + p − 1) ticks, of which a stage idles (p − 1)/(m + p − 1).
GPipe keeps all m micro-batches alive; 1F1B starts the backward pass of one as soon as it can and keeps at most p.
The schedule is a table, and one compiled loop carries out any table: at each tick a device computes a forward or a
backward of its stage (or idles), and passes activations up and gradients down by one permute each. Of a micro-batch
alive only the stage's input is kept; the backward recomputes the stage.

Cost per device: m forwards, m backwards with recomputation; messages of one activation each way per tick.
Source: Huang et al., "GPipe" (2019), §2.3; Narayanan et al., "PipeDream" (2019) and Megatron-LM (2021), §2.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.errors import InputError


class Schedule(eqx.Module):
    """Who computes what, when.

    ``table[t, s]`` is 0 where stage s idles at tick t, i + 1 for the forward of micro-batch i, −(i + 1) for its
    backward. `bubble` is the idle share and `alive` the most micro-batches between forward and backward on a stage.
    """

    table: Any = eqx.field(static=True)
    n_stages: int = eqx.field(static=True)
    micro_batches: int = eqx.field(static=True)

    @property
    def _array(self) -> np.ndarray:
        return np.asarray(self.table)

    @property
    def bubble(self) -> float:
        """Share of a stage's time that is idle, from the table."""
        return float(np.mean(self._array == 0))

    @property
    def alive(self) -> int:
        """The most micro-batches whose activations one stage holds, from the table."""
        return int(np.max(np.cumsum(np.sign(self._array), axis=0)))

    @property
    def slots(self) -> int:
        """How many inputs a stage must be able to hold, messages that wait for their turn included."""
        table, most = self._array, 1
        for s in range(self.n_stages):
            came = table[:, s - 1] if s else table[:, s]
            first = [int(np.argmax(came == i + 1)) for i in range(self.micro_batches)]
            last = [int(np.argmax(table[:, s] == -(i + 1))) for i in range(self.micro_batches)]
            for i, t in enumerate(first):
                most = max(most, i + 1 - sum(done < t for done in last))
        return most

    def plot(self, ax: Any = None) -> Any:
        """Draw the table: one row a stage, forwards dark, backwards light, numbered by micro-batch."""
        from corollary.core import draw

        ax = draw.axes(ax, xlabel="tick", ylabel="stage")
        for t, s in np.argwhere(self._array):
            task = int(self._array[t, s])
            ax.barh(s, 1, left=t, height=0.9, color=draw.INK if task > 0 else draw.ACCENT, edgecolor="white")
            ax.text(t + 0.5, s, str(abs(task)), ha="center", va="center", color="white", fontsize=7)
        ax.invert_yaxis()
        ax.set_yticks(range(self.n_stages))
        return ax


def pipeline_schedule(n_stages: int, micro_batches: int, kind: str = "1f1b") -> Schedule:
    """The table of a pipeline schedule, each operation one tick long.

    Use it to see or draw what a pipeline costs before it runs; `pipeline_loss` carries it out.

    Parameters
    ----------
    n_stages
        p.
    micro_batches
        m, into how many pieces the batch is cut.
    kind
        ``"gpipe"``: all forwards, then all backwards; ``"1f1b"``: one forward, one backward in turn.

    Returns
    -------
    Schedule
        No certificate: `bubble` and `alive` are read off the table, (p − 1)/(m + p − 1) and m or min(m, p).

    Raises
    ------
    InputError
        For counts below 1 or another kind.

    Source: Huang et al. (2019), §2.3; Narayanan et al. (2021), §2.2.

    Examples
    --------
    >>> s = pipeline_schedule(4, 12)
    >>> s.bubble, s.alive, pipeline_schedule(4, 12, "gpipe").alive
    (0.2, 4, 12)
    """
    validation.integer(1)("n_stages", n_stages)
    validation.integer(1)("micro_batches", micro_batches)
    validation.one_of("gpipe", "1f1b")("kind", kind)
    p, m = n_stages, micro_batches
    orders: list[list[int]] = []
    for s in range(p):
        ahead = m if kind == "gpipe" else min(p - 1 - s, m)
        order = [i + 1 for i in range(ahead)]
        for i in range(m):
            if ahead + i < m:
                order.append(ahead + i + 1)
            order.append(-(i + 1))
        orders.append(order)
    done: dict[tuple[int, int], int] = {}
    rows: list[list[int]] = []
    at = [0] * p
    while any(at[s] < 2 * m for s in range(p)):
        t, row = len(rows), [0] * p
        for s in range(p):
            if at[s] == 2 * m:
                continue
            task = orders[s][at[s]]
            needs = (s - 1, task) if task > 0 else ((s + 1, task) if s < p - 1 else (s, -task))
            if (task > 0 and s == 0) or done.get(needs, t) < t:
                row[s] = task
        for s in range(p):
            if row[s]:
                done[(s, row[s])] = t
                at[s] += 1
        rows.append(row)
    return Schedule(tuple(map(tuple, rows)), p, m)


def pipeline_loss(
    stage: Callable[..., Any],
    loss: Callable[..., Any],
    mesh: Mesh,
    *,
    micro_batches: int,
    axis: str = "pipeline",
    schedule: str = "1f1b",
) -> Callable[..., Any]:
    """A loss ``(params, (x, y), key) -> scalar`` whose gradient runs as a pipeline over a mesh axis.

    Use it for `sharded_step` or `Trainer` where a model's layers do not fit one device, on slow links: each device
    passes activations to one neighbour only. Other axes of the mesh (data, model) stay with the partitioner.

    Parameters
    ----------
    stage
        ``stage(params of one stage, x) -> x`` of the same shape and dtype, as equal blocks of a network do.
    loss
        ``loss(output, y) -> scalar``, a mean over the examples.
    mesh
        A mesh with the axis; its size is the number of stages p.
    micro_batches
        m; it must divide the batch.
    axis
        The pipeline's axis.
    schedule
        ``"1f1b"`` or ``"gpipe"``.

    Returns
    -------
    Callable
        The loss. Its parameters are one pytree with a leading axis of p stages; its gradient equals that of the
        sequential network to rounding. Differentiate it with respect to the parameters (x and y get no gradient).

    Raises
    ------
    InputError
        Where the mesh lacks the axis, a leaf has not p stages, or m does not divide the batch.

    Source: Huang et al. (2019); Narayanan et al. (2019, 2021).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from jax.sharding import Mesh
    >>> mesh = Mesh(jax.devices()[:1], ("pipeline",))
    >>> f = pipeline_loss(lambda w, x: w * x, lambda o, y: jnp.mean((o - y) ** 2), mesh, micro_batches=2)
    >>> x = jnp.ones((4, 1))
    >>> float(jax.jit(jax.grad(f))(jnp.full((1,), 3.0), (x, x), None)[0])
    4.0
    """
    if axis not in mesh.axis_names:
        raise InputError(f"mesh: found axes {mesh.axis_names}, expected one named {axis!r}")
    p = mesh.shape[axis]
    plan = pipeline_schedule(p, micro_batches, schedule)

    def sequential(params: PyTree, batch: Any) -> Any:
        x, y = batch
        out, _ = jax.lax.scan(lambda h, w: (stage(w, h), None), x, params)
        return loss(out, y)

    @jax.custom_vjp
    def run(params: PyTree, batch: Any) -> Any:
        return sequential(params, batch)

    def forward(params: PyTree, batch: Any) -> Any:
        return _gradient(stage, loss, mesh, axis, plan, params, batch)

    def backward(grads: PyTree, cotangent: Any) -> Any:
        return jax.tree.map(lambda g: g * cotangent.astype(g.dtype), grads), None

    run.defvjp(forward, backward)

    def checked(params: PyTree, batch: Any, key: Any = None) -> Any:
        lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(params)}
        if lengths != {p}:
            raise InputError(f"params: found leading lengths {sorted(lengths)}, expected {p} stages in every leaf")
        n = batch[0].shape[0]
        if n % micro_batches:
            raise InputError(f"batch: found {n} examples, expected a multiple of {micro_batches} micro-batches")
        return run(params, batch)

    return checked


def _gradient(
    stage: Callable[..., Any], loss: Callable[..., Any], mesh: Mesh, axis: str, plan: Schedule, params: Any, batch: Any
) -> Any:
    """The loss and its gradient, by carrying out the table."""
    p, m, slots = plan.n_stages, plan.micro_batches, plan.slots
    table = jnp.asarray(plan.table, jnp.int32)
    idle = jnp.zeros((1, p), jnp.int32)
    before = jnp.concatenate([idle, table[:-1]])
    # Micro-batch i has the examples i, i + m, ...: each is then spread over the data axis like the batch.
    cut = jax.tree.map(lambda a: jnp.swapaxes(jnp.reshape(a, (a.shape[0] // m, m, *a.shape[1:])), 0, 1), batch)
    up, down = [(s, s + 1) for s in range(p - 1)], [(s + 1, s) for s in range(p - 1)]

    def device(params: PyTree, batch: Any) -> Any:
        x, y = batch
        here = jax.lax.axis_index(axis)
        mine = jax.tree.map(lambda leaf: leaf[0], params)
        blank = jnp.zeros_like(x[0])
        dtype = jnp.result_type(blank)

        def forward(carry: Any, i: Any, inputs: Any, _: Any) -> Any:
            grads, value = carry
            return (grads, value), stage(mine, inputs), blank

        def backward(carry: Any, i: Any, inputs: Any, received: Any) -> Any:
            grads, value = carry
            out, pull = jax.vjp(stage, mine, inputs)
            one, slope = jax.value_and_grad(loss)(out, jax.tree.map(lambda leaf: leaf[i], y))
            last = here == p - 1
            more, sent = pull(jnp.where(last, slope / m, received).astype(out.dtype))
            value = value + jnp.where(last, one / m, 0).astype(value.dtype)
            return (jax.tree.map(jnp.add, grads, more), value), blank, sent

        def nothing(carry: Any, i: Any, inputs: Any, received: Any) -> Any:
            return carry, blank, blank

        def tick(state: Any, rows: Any) -> Any:
            carry, kept, slopes, from_below, from_above = state
            now, then = rows
            task = now[here]
            # What the neighbours did a tick ago tells what has just arrived.
            below, above = then[jnp.maximum(here - 1, 0)], then[jnp.minimum(here + 1, p - 1)]
            kept = _store(kept, from_below, below - 1, (here > 0) & (below > 0), slots)
            slopes = _store(slopes, from_above, -above - 1, (here < p - 1) & (above < 0), slots)
            i = jnp.abs(task) - 1
            inputs = jnp.where(here == 0, x[i], kept[i % slots])
            which = jnp.where(task == 0, 0, jnp.where(task > 0, 1, 2))
            carry, sent_up, sent_down = jax.lax.switch(
                which, (nothing, forward, backward), carry, i, inputs, slopes[i % slots]
            )
            from_below = jax.lax.ppermute(sent_up, axis, up)
            from_above = jax.lax.ppermute(sent_down, axis, down)
            return (carry, kept, slopes, from_below, from_above), None

        buffer = jnp.zeros((slots, *blank.shape), dtype)
        # The loss in its own precision: bfloat16 activations may end in a float32 loss.
        kind = jax.eval_shape(loss, blank, jax.tree.map(lambda leaf: leaf[0], y)).dtype
        start = ((jax.tree.map(jnp.zeros_like, mine), jnp.zeros((), kind)), buffer, buffer, blank, blank)
        ((grads, value), *_), _ = jax.lax.scan(tick, start, (table, before))
        return jax.lax.psum(value, axis), jax.tree.map(lambda g: g[None], grads)

    split = jax.tree.map(lambda _: PartitionSpec(axis), params)
    whole = jax.tree.map(lambda _: PartitionSpec(), cut)
    return jax.shard_map(
        device,
        mesh=mesh,
        in_specs=(split, whole),
        out_specs=(PartitionSpec(), split),
        axis_names={axis},
        check_vma=False,
    )(params, cut)


def _store(buffer: Any, value: Any, i: Any, arrived: Any, slots: int) -> Any:
    return jnp.where(arrived, buffer.at[i % slots].set(value), buffer)
