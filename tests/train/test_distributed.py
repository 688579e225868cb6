"""Eight host devices and two processes: the same steps as on one device, bytes and memory by the formulas."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

EPS = 1.2e-7

SETUP = """
import json
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from corollary import train
from corollary.core import compile_cache
"""

PROGRAM = """
compile_cache.enable(".cache/xla")
report = {"devices": len(jax.devices())}
mesh = Mesh(jax.devices(), ("data",))
keys = jax.random.split(jax.random.key(0), 6)
key = jax.random.key(1)


def loss(params, batch, key):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["a"] + params["c"]) @ params["b"] - y) ** 2)


params = {"a": jax.random.normal(keys[0], (8, 16)), "b": jax.random.normal(keys[1], (16, 8)), "c": jnp.zeros(16)}
batch = jax.random.normal(keys[2], (16, 8)), jax.random.normal(keys[3], (16, 8))
optimizer = optax.adam(1e-2)


def far(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(np.asarray(x) - np.asarray(y)), initial=0)) for x, y in pairs)


def plain_step(params, state, batch, key):
    value, gradient = jax.value_and_grad(loss)(params, batch, key)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value


plain_step = jax.jit(plain_step)
here = plain_step(params, optimizer.init(params), batch, key)
here = plain_step(*here[:2], batch, key)

layouts = {"data_parallel": train.data_parallel(mesh)} | {f"zero{s}": train.fsdp(mesh, stage=s) for s in (1, 2, 3)}
for name, layout in layouts.items():
    for how in ("auto", "explicit"):
        step = train.sharded_step(loss, optimizer, layout, collectives=how)
        state = jax.device_put(optimizer.init(params), layout.optimizer(optimizer.init(params)))
        args = layout.put(params), state, layout.put_batch(batch), key
        compiled = step.lower(*args).compile()
        there = compiled(*args)
        there = compiled(*there[:2], args[2], key)
        report[f"{name} {how}"] = far(there, here)
        if how == "explicit":
            model = train.communication_model(params, 8, name, program=compiled).certificates["counted"]
            report[f"{name} bytes"] = [float(model.measured), float(model.bound)]
            gradients = jax.device_put(params, layout.gradients(params))
            moments = there[1][0].mu, there[1][0].nu
            held = train.bytes_per_device((there[0], gradients, moments))
            stage = layout.stage
            n = sum(leaf.size for leaf in jax.tree.leaves(params))
            formula = train.zero_memory(n, 8, stage=stage, parameter_bytes=4, gradient_bytes=4, optimizer_bytes=8)
            report[f"{name} memory"] = [list(held.values()), formula]

# Thirteen examples on eight devices: padded, the padding weighing nothing; some devices see padding only.
uneven = jax.tree.map(lambda a: a[:11], batch)
padded = train.pad_batch(uneven, 8)
value, gradient = jax.value_and_grad(loss)(params, uneven, key)
sgd = optax.sgd(1.0)
expected = jax.tree.map(lambda p, g: p - g, params, gradient), value
for how in ("auto", "explicit"):
    layout = layouts["zero3"]
    step = train.sharded_step(loss, sgd, layout, collectives=how, weighted=True)
    new, _, value = step(layout.put(params), sgd.init(params), layout.put_batch(padded), key)
    report[f"uneven {how}"] = far((new, value), expected)

# Megatron: half blocks, one sum each way.
model_mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))
mlp, mlp_static = eqx.partition(eqx.nn.MLP(8, 8, 16, 1, key=keys[4]), eqx.is_array)
heads, heads_static = eqx.partition(eqx.nn.MultiheadAttention(4, 8, key=keys[5]), eqx.is_array)
blocks = {
    "mlp": (mlp, lambda p, x: jax.vmap(eqx.combine(p, mlp_static))(x)),
    "attention": (heads, lambda p, x: eqx.combine(p, heads_static)(x, x, x)),
}
x = batch[0]
for name, (block, call) in blocks.items():
    layout = train.tensor_parallel(Mesh(jax.devices()[:4], ("model",)))
    where, whole = layout.parameters(block), layout.replicated
    forward = jax.jit(call, in_shardings=(where, whole), out_shardings=whole).lower(block, x).compile()

    def both(p, x, y, call=call):
        return jax.vjp(call, p, x)[1](y)

    backward = jax.jit(both, in_shardings=(where, whole, whole), out_shardings=(where, whole))
    backward = backward.lower(block, x, x).compile()
    split = jax.device_put((block, x), (where, whole))
    slopes = far(backward(*split, split[1]), jax.jit(both)(block, x, x))
    report[f"{name} forward"] = far(forward(*split), jax.jit(call)(block, x))
    report[f"{name} backward"] = slopes
    report[f"{name} sums"] = [[c.kind for c in train.count_collectives(f)] for f in (forward, backward)]
    if name == "mlp":
        model = train.communication_model(block, 4, "tensor_parallel", activation_bytes=x.nbytes, blocks=1)
        report["tensor bytes"] = [sum(c.sent for f in (forward, backward) for c in train.count_collectives(f)), float(
            model.value
        )]
    report[f"{name} memory"] = list(train.bytes_per_device(split[0]).values())

# Three axes: batch, stages, layers.
cube = Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("data", "pipeline", "model"))


def stage(w, h):
    return h + jnp.tanh(h @ w["up"].T + w["shift"]) @ w["down"].T


def square(out, y):
    return jnp.mean((out - y) ** 2)


def stack(p):
    draws = jax.random.split(keys[4], 2)
    up, down = jax.random.normal(draws[0], (p, 16, 8)), jax.random.normal(draws[1], (p, 8, 16))
    return {"up": up * 0.3, "shift": jnp.zeros((p, 16)), "down": down * 0.3}


def sequential(weights, batch, key=None):
    out, _ = jax.lax.scan(lambda h, w: (stage(w, h), None), batch[0], weights)
    return square(out, batch[1])


weights = stack(2)
layout = train.mesh_parallel(cube, pipeline="pipeline", columns="up|shift", rows="down", stage=1)
pipelined = train.pipeline_loss(stage, square, cube, micro_batches=4)
step = train.sharded_step(pipelined, sgd, layout)
new, _, value = step(layout.put(weights), sgd.init(weights), layout.put_batch(batch), key)
slope = jax.jit(jax.value_and_grad(sequential))
expected = slope(weights, batch)
report["mesh"] = far((new, value), (jax.tree.map(lambda p, g: p - g, weights, expected[1]), expected[0]))
report["mesh memory"] = list(train.bytes_per_device(new).values())
report["ranks"] = sorted(train.rank_mapping(cube).values())

line = Mesh(jax.devices()[:4], ("pipeline",))
weights = stack(4)
expected = slope(weights, batch)
for kind in ("gpipe", "1f1b"):
    pipelined = train.pipeline_loss(stage, square, line, micro_batches=8, schedule=kind)
    compiled = jax.jit(jax.value_and_grad(pipelined)).lower(weights, batch, None).compile()
    report[f"pipeline {kind}"] = far(compiled(weights, batch, None), expected)
    report[f"pipeline {kind} temporaries"] = compiled.memory_analysis().temp_size_in_bytes

# Workers on devices: one sum a round, whatever the period.
data = jax.random.normal(keys[3], (8, 3, 4, 8)), jax.random.normal(keys[5], (8, 3, 4, 8))
one = train.DiLoCo(loss, 3, optax.adam(1e-2))
many = train.DiLoCo(loss, 3, optax.adam(1e-2), mesh=mesh)
alone = one.round(one.init(params, 8), data, key)
spread = jax.jit(many.round)
state = many.init(params, 8)
split = jax.device_put(data, jax.tree.map(lambda _: train.data_parallel(mesh).batch(data)[0], data))
compiled = spread.lower(state, split, key).compile()
report["diloco"] = far(compiled(state, split, key), alone)
report["diloco kinds"] = [[c.kind, c.payload] for c in train.count_collectives(compiled)]
report["diloco size"] = many.bytes_per_round(params)

# The optimizer's state lies on another device than the model.
host, device = jax.devices()[1], jax.devices()[0]
away = train.offload_optimizer(optimizer, host=host)
w, state = params, away.init(params)
p, kept = params, optimizer.init(params)
for _ in range(3):
    slopes = jax.grad(loss)(w, batch, key)
    updates, state = away.update(slopes, state, w)
    w = optax.apply_updates(w, updates)
    p, kept, _ = plain_step(p, kept, batch, key)
report["offload"] = far(w, p)
held = train.bytes_per_device((w, state))
stays = train.bytes_per_device((p, kept))
report["offload bytes"] = [held[device], held[host], stays[device], train.bytes_per_device(kept)[device]]

# The same trainer with its arrays laid out.
net = eqx.nn.MLP(8, 8, 16, 1, key=keys[4])


def net_loss(model, batch, key):
    x, y = batch
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


rows = jax.random.normal(keys[0], (64, 8)), jax.random.normal(keys[1], (64, 8))
feed = train.ArrayFeed(rows, 16, seed=3)
ends = [train.Trainer(net, net_loss, optimizer, layout=where).fit(feed, steps=6) for where in (None, layouts["zero3"])]
report["trainer"] = far(*(eqx.filter(end.value, eqx.is_array) for end in ends))
report["trainer loss"] = far(*(end.history["loss"] for end in ends))
kept = ends[1].stats["train_state"]
report["trainer leaves"] = sorted(
    len(leaf.sharding.device_set) * leaf.addressable_shards[0].data.size // leaf.size
    for leaf in jax.tree.leaves(eqx.filter(kept, eqx.is_inexact_array))
    if leaf.ndim == 2
)
print(json.dumps(report))
"""

PAIR = """
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]), initialization_timeout=60)
mesh = Mesh(jax.devices(), ("data",))
layout = train.fsdp(mesh, stage=int(sys.argv[3]))


def loss(params, batch, key):
    return jnp.mean((batch["x"] @ params - batch["y"]) ** 2)


# Five examples, three here and two there: weighted by what is real.
x, y = np.arange(20.0, dtype=np.float32).reshape(5, 4) / 10, np.ones(5, np.float32)
mine = slice(0, 3) if jax.process_index() == 0 else slice(3, 5)
batch, weights = train.pad_batch({"x": x[mine], "y": y[mine]}, 3)
opt = optax.adam(0.1)
params = layout.put(np.ones(4, np.float32))
state = jax.jit(opt.init, out_shardings=layout.optimizer(jax.eval_shape(opt.init, params)))(params)
step = train.sharded_step(loss, opt, layout, collectives="explicit", weighted=True)
for _ in range(3):
    params, state, value = step(params, state, layout.put_batch((batch, weights)), jax.random.key(0))
whole = jax.jit(lambda p: p, out_shardings=layout.replicated)(params)
p = jnp.ones(4)
kept = opt.init(p)
for _ in range(3):
    at, g = jax.value_and_grad(loss)(p, {"x": jnp.asarray(x), "y": jnp.asarray(y)}, None)
    u, kept = opt.update(g, kept, p)
    p = optax.apply_updates(p, u)
report = {
    "processes": jax.process_count(),
    "error": float(np.max(np.abs(np.asarray(whole.addressable_data(0)) - np.asarray(p)))),
    "value": abs(float(value.addressable_data(0)) - float(at)),
    "bytes": sum(train.bytes_per_device(params).values()),
}
print(json.dumps(report))
"""


def _environment(devices: int) -> dict[str, str]:
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}


@pytest.fixture(scope="module")
def report():
    """Every check on eight devices, in one process: starting one and tracing are what costs."""
    program = SETUP + PROGRAM
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=_environment(8), check=False, timeout=240
    )
    assert out.returncode == 0, out.stderr[-3000:]
    found = json.loads(out.stdout.splitlines()[-1])
    assert found["devices"] == 8
    return found


@pytest.mark.covers("data-parallel")
def test_data_parallel_is_the_single_device_step(report):
    # Two Adam steps of length 1e-2: an entry whose gradient is of rounding size may differ by its share of a step.
    for how in ("auto", "explicit"):
        assert report[f"data_parallel {how}"] < 1e-5
        assert report[f"uneven {how}"] < 100 * EPS


@pytest.mark.covers("fsdp")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_stages_equal_the_plain_step_within_their_memory(report, stage):
    for how in ("auto", "explicit"):
        assert report[f"zero{stage} {how}"] < 1e-5
    held, formula = report[f"zero{stage} memory"]
    assert held == [formula] * 8  # every leaf has a dimension that eight divides


@pytest.mark.covers("fsdp")
def test_trainer_under_a_layout_is_the_trainer(report):
    assert report["trainer"] < 1e-5
    assert report["trainer loss"] < 1e-5
    assert set(report["trainer leaves"]) == {1}  # parameters and moments split over eight devices


@pytest.mark.covers("communication-model")
def test_predicted_bytes_are_those_of_the_compiled_step(report):
    for name in ("data_parallel", "zero1", "zero2", "zero3"):
        measured, bound = report[f"{name} bytes"]
        assert measured <= bound, name
    counted, predicted = report["tensor bytes"]
    assert counted == predicted


@pytest.mark.covers("tensor-parallel")
def test_split_blocks_equal_dense_ones_with_one_sum_each_way(report):
    for name in ("mlp", "attention"):
        assert report[f"{name} forward"] < 100 * EPS
        assert report[f"{name} backward"] < 1000 * EPS
        assert report[f"{name} sums"] == [["all-reduce"], ["all-reduce"]]
    # 16·8 weights twice and 16 biases over four devices; the last bias whole.
    assert report["mlp memory"] == [4 * ((2 * 128 + 16) // 4 + 8)] * 4


@pytest.mark.covers("mesh-parallel")
def test_three_axes_equal_the_single_device_step(report):
    assert report["mesh"] < 100 * EPS
    assert report["mesh memory"] == [4 * 2 * (2 * 128 + 16) // 4] * 8
    assert report["ranks"] == list(range(8))


@pytest.mark.covers("pipeline-parallel")
def test_pipelined_gradients_equal_the_sequential_one(report):
    for kind in ("gpipe", "1f1b"):
        assert report[f"pipeline {kind}"] < 100 * EPS
    assert report["pipeline 1f1b temporaries"] < report["pipeline gpipe temporaries"]


@pytest.mark.covers("diloco")
def test_workers_on_devices_meet_once_a_round(report):
    assert report["diloco"] < 1e-5
    assert {kind for kind, _ in report["diloco kinds"]} == {"all-reduce"}
    assert sum(payload for _, payload in report["diloco kinds"]) == report["diloco size"]


@pytest.mark.covers("optimizer-offload")
def test_offloaded_state_leaves_the_device(report):
    assert report["offload"] < 1e-6
    device, host, before, state = report["offload bytes"]
    assert device == before - state
    assert host == state


@pytest.mark.covers("data-parallel", "fsdp")
def test_two_processes_train_as_one():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        address = f"localhost:{s.getsockname()[1]}"
    command = [sys.executable, "-c", SETUP + PAIR, address]
    runs = [
        subprocess.Popen(
            [*command, str(rank), "3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(1)
        )
        for rank in range(2)
    ]
    try:
        outputs = [run.communicate(timeout=120) for run in runs]
    finally:
        for run in runs:
            run.kill()
    for run, (out, err) in zip(runs, outputs, strict=True):
        assert run.returncode == 0, err[-3000:]
        found = json.loads(out.splitlines()[-1])
        assert found["processes"] == 2
        assert found["error"] < 20 * EPS
        assert found["value"] < 20 * EPS
        assert found["bytes"] == 8
