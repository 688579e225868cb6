"""Recurrent networks against PyTorch: one training step (forward, backward, SGD) of whole sequences."""

from __future__ import annotations

import os
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from harness import Entry, main

from corollary.nn import RNN, LinearRecurrentUnit

RATE = 1e-2


def _data(batch: int, length: int, features: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, length, features)).astype(np.float32)


def _step(net, x, call):
    """A compiled step that returns the new weights and the loss."""
    arrays, static = eqx.partition(net, eqx.is_inexact_array)

    def loss(arrays, x):
        return jnp.mean(call(eqx.combine(arrays, static), x) ** 2)

    @jax.jit
    def step(arrays, x):
        value, gradient = jax.value_and_grad(loss)(arrays, x)
        return jax.tree.map(lambda w, g: w - RATE * g, arrays, gradient), value

    x = jnp.asarray(x)
    return arrays, lambda: jax.block_until_ready(step(arrays, x))


def _size(net, x, call):
    """The largest relative difference of our gradient from plain automatic differentiation's."""
    plain = RNN(
        x.shape[-1], net.hidden_size, len(net.cells), cell=_factory(net), reverse_only=False, key=jax.random.key(0)
    )
    plain = eqx.tree_at(lambda n: n.cells, plain, net.cells)

    def gradient(net):
        arrays, static = eqx.partition(net, eqx.is_inexact_array)
        loss = lambda a: jnp.mean(call(eqx.combine(a, static), jnp.asarray(x)) ** 2)  # noqa: E731
        return jax.tree.leaves(jax.jit(jax.grad(loss))(arrays))

    pairs = zip(gradient(net), gradient(plain), strict=True)
    return max(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in pairs)


def _factory(net):
    kinds = {eqx.nn.LSTMCell: "lstm", eqx.nn.GRUCell: "gru"}
    return kinds.get(type(net.cells[0][0]), "elman")


def _against_torch(kind: str, bar: float | None) -> Entry:
    batch, length, hidden, depth = (int(os.environ.get(n, str(v))) for n, v in
                                    (("BATCH", 32), ("LENGTH", 128), ("HIDDEN", 256), ("DEPTH", 2)))  # fmt: skip
    x = _data(batch, length, hidden)
    net = RNN(hidden, hidden, depth, cell=kind, key=jax.random.key(0))

    def last(net, x):
        return net(x)[0][:, -1]

    _, ours = _step(net, x, last)
    _, mapped = _step(net, x, lambda net, x: jax.vmap(lambda row: net(row)[0][-1])(x))
    difference = _size(net, x, last)
    runs = {"corollary": ours, "corollary, vmap": mapped}
    skipped = {}
    try:
        import torch

        make = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}[kind]
        peer, data = make(hidden, hidden, depth, batch_first=True), torch.tensor(x)
        optimizer = torch.optim.SGD(peer.parameters(), lr=RATE)

        def step():
            optimizer.zero_grad()
            loss = (peer(data)[0][:, -1] ** 2).mean()
            loss.backward()
            optimizer.step()

        runs["torch"] = step
    except ImportError:
        skipped["torch"] = "not installed"
    return Entry(
        name=f"{kind} {depth}x{hidden}, batch {batch}, length {length}: one training step",
        runs=runs,
        measure=lambda result: difference if result is not None else float("nan"),
        quality="gradient against plain autodiff, relative",
        bar=bar,
        skipped=skipped,
        repeats=9,
        against="torch" if "torch" in runs else None,
        note="torch's gradient is not compared here (other weights); the tests do that with copied weights.",
    )


def lstm_step() -> Entry:
    return _against_torch("lstm", 1.0)


def gru_step() -> Entry:
    return _against_torch("gru", None)


def elman_step() -> Entry:
    return _against_torch("elman", None)


def lru_step() -> Entry:
    """The linear recurrent unit by the associative scan, against a plain scan over time."""
    x = _data(8, int(os.environ.get("LENGTH", "1024")), 64)
    layer = LinearRecurrentUnit(64, 128, key=jax.random.key(0))

    def sequential(layer, x):
        values, B = layer.eigenvalues, layer.input_matrix
        driven = jnp.moveaxis(x.astype(B.dtype) @ B.T, 1, 0)
        _, states = jax.lax.scan(lambda s, u: ((s := values * s + u), s), jnp.zeros_like(driven[0]), driven)
        states = jnp.moveaxis(states, 0, 1)
        return jnp.real(states) @ layer.C[0].T - jnp.imag(states) @ layer.C[1].T + x @ layer.D.T

    _, ours = _step(layer, x, lambda m, x: m(x))
    _, loop = _step(layer, x, sequential)
    return Entry(
        name=f"LRU, 128 states, batch 8, length {x.shape[1]}: one training step",
        runs={"corollary": ours, "scan over time": loop},
        measure=lambda result: float(result[1]),
        quality="loss",
    )


if __name__ == "__main__":
    main("recurrent", [lstm_step, gru_step, elman_step, lru_step])
