"""Convolutions against PyTorch: a training step of a small network and of ResNet-18, layers alone, the first call.

Our steps run as the trainer runs them, several inside one compiled loop; the time is that of one loop. PyTorch runs the
same number of steps, eagerly, with as many threads as there are cores. ``--tiny`` shrinks all of it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import Entry, main
from jax import lax

from corollary import nn

TINY = "--tiny" in sys.argv
if TINY:
    sys.argv.remove("--tiny")
STEPS = 2 if TINY else 8

try:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
except ImportError:  # the entries then say so
    torch = None

WHY = {} if torch is not None else {"PyTorch": "not installed"}


def small_cnn() -> Entry:
    """Two convolutions 32/64 of 3×3 on 28×28, batch 128."""
    batch = 16 if TINY else 128
    x, y = data(batch, 28, 1)
    net = nn.ConvNet((28, 28, 1), 10, (32, 64), key=jax.random.key(0))
    w, run = loop(lambda net, x, s: (net(x), s), net, None, x, y)
    runs: dict[str, Any] = {"corollary": lambda: run(w)}
    if torch is not None:
        t = torch.nn
        layers = [t.Conv2d(1, 32, 3, padding=1), t.Conv2d(32, 64, 3, padding=1)]
        head = t.Linear(3136, 10)
        with torch.no_grad():
            for ours, theirs in zip(net.convs, layers, strict=True):
                theirs.weight.copy_(torch.tensor(np.asarray(ours.kernel).transpose(3, 2, 0, 1).copy()))
                theirs.bias.zero_()
            kernel = np.asarray(net.dense[0].weight).reshape(10, 7, 7, 64).transpose(0, 3, 1, 2)
            head.weight.copy_(torch.tensor(kernel.reshape(10, -1).copy()))
            head.bias.copy_(torch.tensor(np.asarray(net.dense[0].bias)))
        parts = [(c, t.ReLU(), t.MaxPool2d(2)) for c in layers]
        model = t.Sequential(*parts[0], *parts[1], t.Flatten(), head)
        runs |= peers(model, x, y)
    return Entry(
        name=f"{STEPS} training steps, convolutions 32/64 of 3x3 on 28x28, batch {batch}",
        runs=runs,
        measure=float,
        quality="loss at the last step",
        bar=0.75,
        against="PyTorch",  # as the bar was set: in its default layout
        skipped=WHY,
    )


def resnet18() -> Entry:
    """ResNet-18 with the small stem on 32×32, batch 32; the first call holds the compile time."""
    batch, width = (4, 8) if TINY else (32, 64)
    x, y = data(batch, 32, 3)
    net, state = eqx.nn.make_with_state(nn.ResNet)(18, 10, width=width, stem="cifar", key=jax.random.key(0))
    w, run = loop(lambda net, x, s: net(x, s), net, state, x, y)
    runs: dict[str, Any] = {"corollary": lambda: run(w)}
    if torch is not None:
        runs |= peers(torch_resnet(width), x, y)
    return Entry(
        name=f"{STEPS} training steps, ResNet-18 (width {width}) on 32x32, batch {batch}",
        runs=runs,
        measure=float,
        quality="loss at the last step (other weights)",
        bar=0.75,
        skipped=WHY,
    )


def layer_wide() -> Entry:
    """One 3×3 layer of a ResNet's first stage."""
    return layer(32, 32, 64, 64, 3, 1)


def layer_deep() -> Entry:
    """One 3×3 layer of a ResNet's third stage."""
    return layer(32, 8, 256, 256, 3, 1)


def layer_strided() -> Entry:
    """One 3×3 layer with stride 2."""
    return layer(32, 32, 64, 128, 3, 2)


def layer(batch: int, size: int, c: int, k: int, edge: int, stride: int) -> Entry:
    """Forward and both gradients, inside a loop, beside XLA's own derivatives and PyTorch."""
    if TINY:
        batch, size, c, k = 2, 8, 4, 4
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((batch, size, size, c)), jnp.float32)
    w = jnp.asarray(rng.standard_normal((edge, edge, c, k)) / np.sqrt(edge * edge * c), jnp.float32)
    pad = edge // 2

    def own(x: Any, w: Any) -> Any:
        window = ((pad, pad), (pad, pad))
        return lax.conv_general_dilated(x, w, (stride, stride), window, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def repeated(f: Any, steps: int) -> Any:
        def step(carry: Any, _: Any) -> Any:
            gx, gw = jax.grad(lambda x, w: jnp.mean(f(x, w) ** 2), (0, 1))(*carry)
            return (carry[0] - gx, carry[1] - gw), None

        run = jax.jit(lambda x, w: jnp.vdot(*[lax.scan(step, (x, w), None, length=steps)[0][1]] * 2))
        return lambda: jax.block_until_ready(run(x, w))

    runs: dict[str, Any] = {
        "corollary": repeated(lambda x, w: nn.conv(x, w, stride=stride, padding=pad), STEPS),
    }
    if torch is not None:
        xt = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2).copy())
        wt = torch.tensor(np.asarray(w).transpose(3, 2, 0, 1).copy())

        def theirs() -> Any:
            a, b = xt, wt
            for _ in range(STEPS):
                a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
                (torch.nn.functional.conv2d(a, b, stride=stride, padding=pad) ** 2).mean().backward()
                a, b = a - a.grad, b - b.grad
            return (b * b).sum().item()

        runs["PyTorch"] = theirs
    one = repeated(own, 1)
    note = "XLA's own derivatives in a loop of one step: "
    one()
    import time

    start = time.perf_counter()
    one()
    note += f"{time.perf_counter() - start:.3g} s a step."
    return Entry(
        name=f"{STEPS} x forward and gradients, {edge}x{edge}, {c} to {k} channels, stride {stride}, {size}x{size}",
        runs=runs,
        measure=float,
        quality="|w|^2 at the end",
        bar=0.75,
        skipped=WHY,
        note=note,
    )


def data(batch: int, size: int, channels: int) -> tuple[Any, Any]:
    """Noise with labels."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, size, size, channels)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(rng.integers(0, 10, batch))


def loop(apply: Any, net: Any, state: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """The weights, and STEPS steps of gradient descent on one batch as one compiled call."""
    arrays, static = eqx.partition(net, eqx.is_inexact_array)

    def step(carry: Any, _: Any) -> Any:
        w, state = carry

        def loss(w: Any) -> Any:
            logits, after = apply(eqx.combine(w, static), x, state)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), after

        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(w)
        return (jax.tree.map(lambda a, g: a - 0.01 * g, w, gradient), state), value

    run = jax.jit(lambda w: lax.scan(step, (w, state), None, length=STEPS)[1][-1])
    return arrays, lambda w: jax.block_until_ready(run(w))


def peers(model: Any, x: Any, y: Any) -> dict[str, Any]:
    """PyTorch's steps from the same start, in its default layout and channels last."""
    import copy

    def make(layout: Any) -> Any:
        xt = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2).copy()).contiguous(memory_format=layout)
        yt = torch.tensor(np.asarray(y, np.int64))
        start = copy.deepcopy(model).to(memory_format=layout)

        def run() -> Any:
            net = copy.deepcopy(start)
            optimiser = torch.optim.SGD(net.parameters(), 0.01)
            for _ in range(STEPS):
                optimiser.zero_grad()
                loss = torch.nn.functional.cross_entropy(net(xt), yt)
                loss.backward()
                optimiser.step()
            return loss.item()

        return run

    return {"PyTorch": make(torch.contiguous_format), "PyTorch, channels last": make(torch.channels_last)}


def torch_resnet(width: int) -> Any:
    """ResNet-18 with the small stem."""
    t = torch.nn

    class Block(t.Module):
        def __init__(self, a: int, b: int, stride: int):
            super().__init__()
            self.branch = t.Sequential(
                t.Conv2d(a, b, 3, stride, 1, bias=False),
                t.BatchNorm2d(b),
                t.ReLU(),
                t.Conv2d(b, b, 3, 1, 1, bias=False),
                t.BatchNorm2d(b),
            )
            changes = stride != 1 or a != b
            self.skip = (
                t.Sequential(t.Conv2d(a, b, 1, stride, bias=False), t.BatchNorm2d(b)) if changes else t.Identity()
            )

        def forward(self, x: Any) -> Any:
            return torch.relu(self.branch(x) + self.skip(x))

    blocks, a = [], width
    for i in range(4):
        for j in range(2):
            blocks.append(Block(a, width * 2**i, 2 if i and not j else 1))
            a = width * 2**i
    stem = (t.Conv2d(3, width, 3, 1, 1, bias=False), t.BatchNorm2d(width), t.ReLU())
    return t.Sequential(*stem, *blocks, t.AdaptiveAvgPool2d(1), t.Flatten(), t.Linear(a, 10))


if __name__ == "__main__":
    main("convolution", [small_cnn, resnet18, layer_wide, layer_deep, layer_strided])
