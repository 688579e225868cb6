"""Shampoo whose factors live, and are inverted, spread over the devices of a mesh, and that communicates every H steps.

Each device keeps the factors of its share of the blocks and takes their roots; every H steps the roots are gathered by
all, and in between the old ones serve. So the O(n³) work and the factors' memory are divided by the number of devices,
and the traffic of a step by H. When: data-parallel training, gradients averaged already. Memory a device: 1/D of the
factors, all roots, momentum. Traffic: (D − 1)/D of the roots' bytes every H steps, counted in the state.
Sources: Anil, Gupta, Koren, Regan & Singer (2020), section 4; Shi et al., "A distributed data-parallel PyTorch
implementation of the distributed Shampoo optimizer" (2023), sections 4 and 5.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim.transforms._blocks import along, inverse_root, join, plan, second_moment, split
from corollary.optim.transforms._matrix_settings import (
    Setting,
    cast_like,
    check_every,
    check_setting,
    debias,
    finish,
    increment,
    setting,
    transformation,
    working,
    zeros,
)


class ShardedState(NamedTuple):
    """Step count, momentum, factors by block size and rank (spread), roots (everywhere), bytes a device received."""

    count: Array
    momentum: PyTree
    factors: dict[str, Array]
    roots: dict[str, Array]
    traffic: Array


def sharded_inverse_roots(
    factors: Array, mesh: Mesh, *, axis: str, power: float = 0.25, eps: Any = 1e-6, gather: bool = True
) -> Array:
    """A^(−power) of a stack of semidefinite matrices, each device of a mesh axis taking its share.

    Cost on a device: 9n³k/D; traffic: k n² numbers where gathered.

    Parameters
    ----------
    factors
        (k, n, n).
    mesh, axis
        The devices.
    power
        The exponent; static.
    eps
        Times the largest eigenvalue of each is added.
    gather
        Whether every device ends with all of them.

    Returns
    -------
    Array
        (k, n, n), replicated, or spread along the first axis.

    Raises
    ------
    InputError
        For an axis that the mesh does not have, or factors that are not square.

    Examples
    --------
    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> sharded_inverse_roots(16 * jnp.eye(2)[None], mesh, axis="data").round(3).tolist()
    [[[0.5, 0.0], [0.0, 0.5]]]
    """
    devices, mesh = _devices(mesh, axis), Mesh(mesh.devices, mesh.axis_names)  # automatic axes, whatever they were
    if factors.ndim != 3 or factors.shape[1] != factors.shape[2]:
        raise InputError(f"factors: found shape {factors.shape}, expected (k, n, n)")
    k = factors.shape[0]
    padded = _pad(factors, devices)
    ridge = jnp.asarray(eps).astype(factors.dtype)

    def local(mine: Array, ridge: Array) -> Array:
        roots = inverse_root(mine, power, ridge)
        return jax.lax.all_gather(roots, axis, tiled=True) if gather else roots

    spec = P() if gather else P(axis)
    run = jax.shard_map(local, mesh=mesh, in_specs=(P(axis), P()), out_specs=spec, check_vma=False)
    roots = run(padded, ridge)
    return roots[:k] if gather else roots


def sharded_shampoo(
    learning_rate: Setting,
    mesh: Mesh,
    *,
    axis: str = "data",
    momentum: Setting = 0.9,
    decay: Setting = 0.999,
    eps: Setting = 1e-6,
    every: Setting = 10,
    block_size: int = 512,
    weight_decay: Setting = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Shampoo without grafting, its preconditioner spread over a mesh axis.

    Parameters
    ----------
    learning_rate
        η, a number or a schedule.
    mesh, axis
        The devices that share the work. Gradients and parameters are to be the same on all of them.
    momentum, decay, eps, block_size
        As for `shampoo`.
    every
        H: steps between two synchronisations. 1 equals `shampoo` with ``every=1`` and ``graft="none"``.
    weight_decay
        Decoupled, times η.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``state[0].traffic``: bytes that each device has received.

    Raises
    ------
    InputError
        For settings out of range, or an axis that the mesh does not have.

    Examples
    --------
    >>> optimizer = sharded_shampoo(0.1, jax.make_mesh((1,), ("data",)), every=1)
    >>> W = jnp.eye(2)
    >>> jnp.diag(optimizer.update(W, optimizer.init(W), W)[0]).round(3).tolist()
    [-0.1..., -0.1...]
    """
    devices, mesh = _devices(mesh, axis), Mesh(mesh.devices, mesh.axis_names)  # automatic axes, whatever they were
    check_setting("momentum", momentum, below=1)
    check_setting("decay", decay, below=1)
    check_setting("eps", eps)
    check_setting("weight_decay", weight_decay)
    check_every("every", every)
    validation.integer(1)("block_size", block_size)

    def moments(grads: list[Array]) -> dict[str, list[Array]]:
        """Second moments by block size and number of axes (which sets the exponent), in the leaves' order."""
        out: dict[str, list[Array]] = {}
        for g in grads:
            made = plan(g.shape, block_size)
            blocks = split(g, made)
            for i, b in enumerate(made.sizes):
                out.setdefault(f"{b}/{len(made.sizes)}", []).append(second_moment(blocks, i))
        return out

    def init(params: PyTree) -> ShardedState:
        empty = jax.tree.map(zeros, params)
        factors, roots = {}, {}
        for name, parts in jax.eval_shape(lambda: moments(jax.tree.leaves(empty))).items():
            k, b, dtype = sum(p.shape[0] for p in parts), parts[0].shape[1], parts[0].dtype
            stack = _pad(jnp.zeros((k, b, b), dtype), devices)
            factors[name] = jax.device_put(stack, NamedSharding(mesh, P(axis)))
            eye = jnp.broadcast_to(jnp.eye(b, dtype=dtype), stack.shape)
            roots[name] = jax.device_put(eye, NamedSharding(mesh, P()))
        nought = jax.device_put(jnp.zeros((), jnp.float32), NamedSharding(mesh, P()))
        return ShardedState(jnp.zeros((), jnp.int32), empty, factors, roots, nought)

    def update(grads: PyTree, state: ShardedState, params: Any = None) -> tuple[PyTree, ShardedState]:
        del params
        t, count = state.count, increment(state.count)
        due = t % setting(every, t).astype(jnp.int32) == 0
        leaves, structure = jax.tree.flatten(jax.tree.map(working, grads))
        factors, roots, received = {}, {}, 0.0
        for name, parts in moments(leaves).items():
            new = _pad(jnp.concatenate(parts), devices)
            power = 1 / (2 * int(name.split("/")[1]))
            b2 = setting(decay, t, new.dtype)
            settings = (b2, debias(b2, count), setting(eps, t, new.dtype), due)

            def local(old: Array, new: Array, roots: Array, settings: Any, power: float = power) -> tuple[Array, Array]:
                b2, correction, ridge, due = settings
                mine = b2 * old + (1 - b2) * new

                def synchronise() -> Array:
                    return jax.lax.all_gather(inverse_root(mine / correction, power, ridge), axis, tiled=True)

                return mine, jax.lax.cond(due, synchronise, lambda: roots)

            run = jax.shard_map(
                local,
                mesh=mesh,
                in_specs=(P(axis), P(axis), P(), P()),
                out_specs=(P(axis), P()),
                check_vma=False,
            )
            factors[name], roots[name] = run(state.factors[name], new, state.roots[name], settings)
            received += new.size * new.dtype.itemsize * (devices - 1) / devices
        used = dict.fromkeys(roots, 0)
        steps, means = [], []
        for g, m in zip(leaves, structure.flatten_up_to(state.momentum), strict=True):
            made = plan(g.shape, block_size)
            out = split(g, made)
            for i, b in enumerate(made.sizes):
                name = f"{b}/{len(made.sizes)}"
                out = along(out, roots[name][used[name] : used[name] + made.blocks], i)
                used[name] += made.blocks
            b1 = setting(momentum, t, g.dtype)
            means.append(b1 * m + (1 - b1) * join(out, made))
            steps.append(means[-1] / debias(b1, count))
        traffic = state.traffic + jnp.where(due, jnp.float32(received), jnp.float32(0))
        new_state = ShardedState(count, structure.unflatten(means), factors, roots, traffic)
        return cast_like(structure.unflatten(steps), grads), new_state

    return finish(transformation(init, update), learning_rate, weight_decay)


def _devices(mesh: Mesh, axis: str) -> int:
    if axis not in mesh.shape:
        raise InputError(f"axis: found {axis!r}, expected one of the mesh's axes {tuple(mesh.shape)}")
    return mesh.shape[axis]


def _pad(stack: Array, devices: int) -> Array:
    """Zero matrices appended, so that every device has as many."""
    return jnp.pad(stack, ((0, -stack.shape[0] % devices), (0, 0), (0, 0)))
