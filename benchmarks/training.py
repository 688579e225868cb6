"""Training: epochs and steps of whole networks against PyTorch, the trainer against a bare step, the first compile.

Each runner starts from its own initial weights and is judged by its time and by the loss it reaches.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import Entry, machine, table, write
from harness import run as measured

from corollary import nn
from corollary.train import ArrayFeed, Trainer, VitalSigns

EXAMPLES = int(os.environ.get("TRAINING_EXAMPLES", "60000"))
STEPS = int(os.environ.get("TRAINING_STEPS", "20"))
RNG = np.random.default_rng(0)


def cross_entropy(logits: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def vmapped_loss(model: Any, batch: Any, key: Any) -> Any:
    del key
    return cross_entropy(jax.vmap(model)(batch[0]), batch[1])


def batched_loss(model: Any, batch: Any, key: Any) -> Any:
    del key
    return cross_entropy(model(batch[0]), batch[1])


def torch_loop(module: Any, x: np.ndarray, y: np.ndarray, batch: int, steps: int, rate: float) -> Callable[[], float]:
    """PyTorch's plain loop over shuffled batches: the last batch's loss."""
    import torch

    optimizer = torch.optim.SGD(module.parameters(), rate)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    loss_of = torch.nn.functional.cross_entropy

    def run() -> float:
        order = torch.randperm(len(inputs))
        loss = torch.zeros(())
        for k in range(steps):
            index = order[k * batch : (k + 1) * batch]
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(module(inputs[index]), labels[index])
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    return run


def labelled(shape: tuple[int, ...], classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Inputs whose class a random linear map decides."""
    x = RNG.standard_normal(shape).astype(np.float32)
    flat = x.reshape(len(x), -1)
    y = (flat @ RNG.standard_normal((flat.shape[1], classes)).astype(np.float32)).argmax(1)
    return x, y


def mlp_epoch() -> Entry:
    import torch

    x, y = labelled((EXAMPLES, 784))
    steps = EXAMPLES // 128
    trainer = Trainer(eqx.nn.MLP(784, 10, 256, 2, key=jax.random.key(0)), vmapped_loss, optax.sgd(0.1))
    feed = ArrayFeed((x, y), 128)
    linear = torch.nn.Linear
    relu = torch.nn.ReLU
    module = torch.nn.Sequential(linear(784, 256), relu(), linear(256, 256), relu(), linear(256, 10))
    return Entry(
        name=f"MLP 784-256-256-10, batch 128, SGD, one epoch of {EXAMPLES}",
        quality="last batch's loss",
        runs={
            "corollary": lambda: float(trainer.fit(feed, epochs=1).history["loss"][-1]),
            "PyTorch": torch_loop(module, x, y, 128, steps, 0.1),
        },
        measure=lambda loss: loss,
        bar=2.0,
        note="Ours starts anew each time, PyTorch goes on: compare the losses after the first call only.",
    )


def telemetry() -> Entry:
    x, y = labelled((EXAMPLES, 784))
    trainer = Trainer(eqx.nn.MLP(784, 10, 256, 2, key=jax.random.key(0)), vmapped_loss, optax.sgd(0.1))
    feed = ArrayFeed((x, y), 128)
    signs = VitalSigns(feed)  # one object for all runs: its programs are compiled once, as in one long run
    return Entry(
        name=f"vital signs at their defaults: MLP 784-256-256-10, ten epochs of {EXAMPLES}",
        quality="last batch's loss",
        runs={
            "corollary": lambda: float(trainer.fit(feed, epochs=10, callback=signs).history["loss"][-1]),
            "the same run without": lambda: float(trainer.fit(feed, epochs=10).history["loss"][-1]),
        },
        measure=lambda loss: loss,
        bar=1 / 1.03,
        repeats=3,
    )


def toy_step() -> Entry:
    """The trainer's step beside a jitted step in a Python loop, on a network whose arithmetic costs nothing."""
    steps, batch = 100 * STEPS, 32
    x = RNG.standard_normal((1024, 16)).astype(np.float32)
    y = x.sum(1, keepdims=True)
    model = eqx.nn.MLP(16, 1, 16, 8, key=jax.random.key(0))
    optimizer = optax.adam(1e-3)

    def loss(model: Any, batch: Any, key: Any) -> Any:
        del key
        return jnp.mean((jax.vmap(model)(batch[0]) - batch[1]) ** 2)

    trainer, feed = Trainer(model, loss, optimizer), ArrayFeed((x, y), batch)
    start, static = eqx.partition(model, eqx.is_inexact_array)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, batch: Any) -> Any:
        value, gradient = jax.value_and_grad(lambda p: loss(eqx.combine(p, static), batch, None))(params)
        update, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, update), state, value

    batches = [jax.device_put((x[i], y[i])) for i in (feed.indices(k) for k in range(feed.steps_per_epoch))]

    def bare() -> float:
        params = jax.tree.map(jnp.copy, start)
        state, value = optimizer.init(params), jnp.zeros(())
        for k in range(steps):
            params, state, value = step(params, state, batches[k % len(batches)])
        return float(value)

    return Entry(
        name=f"8-layer width-16 MLP, batch 32, Adam, {steps} steps: the trainer's overhead",
        quality="last batch's loss",
        runs={
            "corollary": lambda: float(trainer.fit(feed, steps=steps).history["loss"][-1]),
            "bare jax.jit step": bare,
        },
        measure=lambda loss: loss,
        bar=1 / 1.2,
        note="The bare loop's batches lie ready on the device; the trainer's are shuffled and gathered.",
    )


class Convolutional(eqx.Module):
    """Two 3×3 convolutions with pooling, and a linear layer."""

    first: nn.Conv
    second: nn.Conv
    out: eqx.nn.Linear

    def __init__(self, key: Any):
        keys = jax.random.split(key, 3)
        self.first = nn.Conv(1, 32, 3, padding=1, key=keys[0])
        self.second = nn.Conv(32, 64, 3, padding=1, key=keys[1])
        self.out = eqx.nn.Linear(64 * 49, 10, key=keys[2])

    def __call__(self, x: Any) -> Any:
        x = nn.max_pool(jax.nn.relu(self.first(x)), 2)
        x = nn.max_pool(jax.nn.relu(self.second(x)), 2)
        return jax.vmap(self.out)(x.reshape(len(x), -1))


def cnn_steps() -> Entry:
    import torch

    x, y = labelled((128 * STEPS, 28, 28, 1))
    trainer = Trainer(Convolutional(jax.random.key(0)), batched_loss, optax.sgd(0.05))
    feed = ArrayFeed((x, y), 128)
    conv, relu, pool = torch.nn.Conv2d, torch.nn.ReLU, torch.nn.MaxPool2d
    layers = [conv(1, 32, 3, padding=1), relu(), pool(2), conv(32, 64, 3, padding=1), relu(), pool(2)]
    module = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(64 * 49, 10))
    images = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return Entry(
        name=f"CNN 32/64 3×3 on 28×28, batch 128, SGD, {STEPS} steps",
        quality="last batch's loss",
        runs={
            "corollary": lambda: float(trainer.fit(feed, epochs=1).history["loss"][-1]),
            "PyTorch": torch_loop(module, images, y, 128, STEPS, 0.05),
        },
        measure=lambda loss: loss,
        bar=0.75,
    )


class Recurrent(eqx.Module):
    """Two LSTM layers, read out at the last time."""

    layers: Any
    out: eqx.nn.Linear

    def __init__(self, features: int, hidden: int, key: Any):
        keys = jax.random.split(key)
        self.layers = nn.LSTM(features, hidden, 2, key=keys[0])
        self.out = eqx.nn.Linear(hidden, 10, key=keys[1])

    def __call__(self, x: Any) -> Any:
        outputs, _ = self.layers(x)
        return jax.vmap(self.out)(outputs[:, -1])


def lstm_steps() -> Entry:
    import torch

    features, hidden = 64, 256
    x, y = labelled((32 * STEPS, 128, features))
    trainer = Trainer(Recurrent(features, hidden, jax.random.key(0)), batched_loss, optax.sgd(0.05))
    feed = ArrayFeed((x, y), 32)

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.LSTM(features, hidden, 2, batch_first=True)
            self.out = torch.nn.Linear(hidden, 10)

        def forward(self, x: Any) -> Any:
            return self.out(self.layers(x)[0][:, -1])

    return Entry(
        name=f"LSTM 2×256, batch 32, length 128, SGD, {STEPS} steps",
        quality="last batch's loss",
        runs={
            "corollary": lambda: float(trainer.fit(feed, epochs=1).history["loss"][-1]),
            "PyTorch": torch_loop(Module(), x, y, 32, STEPS, 0.05),
        },
        measure=lambda loss: loss,
        bar=1.0,
    )


FIRST_STEP = """
import sys, time
import equinox as eqx, jax, jax.numpy as jnp, numpy as np, optax
from corollary import nn
from corollary.core import compile_cache
from corollary.train import ArrayFeed, Trainer, VitalSigns
compile_cache.enable(sys.argv[1])

def loss(model, state, batch, key):
    logits, state = model(batch[0], state, key=key)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean(), state

start = time.perf_counter()
model, state = eqx.nn.make_with_state(nn.ResNet)(18, 10, stem="cifar", key=jax.random.key(0))
x = np.zeros((32, 32, 32, 3), np.float32)
trainer = Trainer(model, loss, optax.sgd(0.1), state=state)
trainer.fit(ArrayFeed((x, np.zeros(32, np.int32)), 32), steps=1)
print(time.perf_counter() - start)
"""


def first_step(writes: bool) -> None:
    """ResNet-18 on 32×32: building, compiling and taking one step, in fresh processes."""

    def seconds(folder: str) -> float:
        command = [sys.executable, "-c", FIRST_STEP, folder]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])

    with tempfile.TemporaryDirectory() as folder:
        cold = seconds(folder)
        warm = statistics.median(seconds(folder) for _ in range(3))
    text = "\n".join(
        [
            "### First step of ResNet-18 on 32×32, compile included, imports not counted",
            "",
            "| cache | s | bar s | |",
            "| --- | --- | --- | --- |",
            f"| empty | {cold:.1f} | 15 | {'met' if cold <= 15 else 'NOT met'} |",
            f"| filled (median of 3) | {warm:.1f} | 5 | {'met' if warm <= 5 else 'NOT met'} |",
            "",
        ]
    )
    print(text, flush=True)
    if writes:
        write("training", "first_step", text)


ENTRIES = (mlp_epoch, telemetry, toy_step, cnn_steps, lstm_steps)


def main() -> None:
    names = [entry.__name__ for entry in ENTRIES] + ["first_step"]
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("names", nargs="*", help=f"some of {', '.join(names)}; all where none is named")
    cli.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    args = cli.parse_args()
    unknown = set(args.names) - set(names)
    if unknown:
        sys.exit(f"names: found {sorted(unknown)}, expected some of {names}")
    print(machine(), time.strftime("%Y-%m-%d"), flush=True)
    for make in ENTRIES:
        if not args.names or make.__name__ in args.names:
            entry = make()
            text = table(entry, measured(entry))
            print(text, flush=True)
            if args.write:
                write("training", make.__name__, text)
    if not args.names or "first_step" in args.names:
        first_step(args.write)


if __name__ == "__main__":
    main()
