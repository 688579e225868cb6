"""The leaderboard's tasks: a character LSTM, a small convolutional net, an autoencoder, an ill-conditioned PINN.

Each is small enough for two cores, and has stand-ins of the same shapes for the data that it reads from files.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets

from corollary.core import read_images
from corollary.nn import ConvNet, RecurrentNetwork
from corollary.optim.curvature import Bernoulli, Gaussian

SYMBOLS, CONTEXT = 65, 32


class Task(NamedTuple):
    """A model by key, a batch by key, the loss of a batch, and what is measured of a model."""

    about: str
    data: str
    steps: int
    every: int
    seeds: int
    make: Callable[[Any], Any]
    batch: Callable[[Any], Any]
    loss: Callable[[Any, Any], Any]
    measure: Callable[[Any], Any]
    outputs: Callable[[Any, Any], Any] | None = None
    losses: Callable[[Any, Any], Any] | None = None
    distribution: Any = None
    curvature: str = "fisher"


def text(path: str | None, _: str | None) -> Task:
    """A character LSTM."""
    if path:
        raw = np.frombuffer(pathlib.Path(path).read_bytes(), np.uint8)
        ids = np.unique(raw, return_inverse=True)[1].astype(np.int32)
    else:  # a Markov chain of the second order: few successors for each pair
        rng = np.random.default_rng(0)
        successors = rng.integers(0, SYMBOLS, (SYMBOLS, SYMBOLS, 4))
        drawn = rng.choice(4, 100_000, p=(0.6, 0.2, 0.1, 0.1))
        ids = np.zeros(100_000, np.int32)
        for i in range(2, len(ids)):
            ids[i] = successors[ids[i - 2], ids[i - 1], drawn[i]]
    cut = len(ids) * 9 // 10
    train = jnp.asarray(ids[:cut])
    held = jnp.asarray(ids[cut:][: 128 * (CONTEXT + 1)].reshape(128, CONTEXT + 1))

    def batch(key: Any) -> Any:
        starts = jax.random.randint(key, (32,), 0, len(train) - CONTEXT - 1)
        return train[starts[:, None] + jnp.arange(CONTEXT + 1)]

    def loss(net: Any, rows: Any) -> Any:
        logits = net(jax.nn.one_hot(rows[:, :-1], SYMBOLS))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:]))

    return Task(
        "character LSTM, 64 units, context 32, batch 32; held-out cross-entropy in nats",
        "tinyshakespeare" if path else "Markov chain",
        300,
        10,
        3,
        lambda key: RecurrentNetwork(SYMBOLS, 64, SYMBOLS, pool="each", key=key),
        batch,
        loss,
        lambda net: loss(net, held),
    )


def images(_: str | None, folder: str | None) -> Task:
    """A convolutional net on small digits."""
    if folder:
        found = read_images(folder, "test")
        pixels = found.pixels.reshape(-1, 14, 2, 14, 2).mean((2, 4)) / 255
        labels = found.labels
    else:
        digits = sklearn.datasets.load_digits()
        pixels, labels = np.pad(digits.images / 16, ((0, 0), (3, 3), (3, 3))), digits.target
    order = np.random.default_rng(0).permutation(len(pixels))
    x = jnp.asarray(pixels[order][..., None], jnp.float32)
    y = jnp.asarray(np.asarray(labels)[order], jnp.int32)
    cut = len(x) * 9 // 10

    def batch(key: Any) -> Any:
        rows = jax.random.randint(key, (64,), 0, cut)
        return x[rows], y[rows]

    def loss(net: Any, both: Any) -> Any:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(net(both[0]), both[1]))

    return Task(
        "two convolutions (8 and 16 channels) and a dense layer, 14 x 14 pixels, batch 64; held-out cross-entropy",
        "MNIST-10k" if folder else "digits",
        300,
        10,
        3,
        lambda key: ConvNet((14, 14, 1), 10, (8, 16), key=key),
        batch,
        loss,
        lambda net: loss(net, (x[cut:], y[cut:])),
    )


class Autoencoder(eqx.Module):
    layers: list

    def __init__(self, key: Any):
        sizes = (64, 64, 32, 8, 32, 64, 64)
        keys = jax.random.split(key, len(sizes) - 1)
        self.layers = [eqx.nn.Linear(m, n, key=k) for m, n, k in zip(sizes[:-1], sizes[1:], keys, strict=True)]

    def __call__(self, x: Any) -> Any:
        for k, layer in enumerate(self.layers):
            x = layer(x) if k in (2, 5) else jnp.tanh(layer(x))
        return x


def autoencoder(*_: Any) -> Task:
    """The usual ill-conditioned net, small."""
    x = jnp.asarray(sklearn.datasets.load_digits().data / 16, jnp.float32)

    def losses(net: Any, x: Any) -> Any:
        return jax.vmap(Bernoulli())(jax.vmap(net)(x), x)

    def loss(net: Any, x: Any) -> Any:
        return jnp.mean(losses(net, x))

    return Task(
        "autoencoder 64-64-32-8-32-64-64, tanh, batch 128; training cross-entropy of an image, all 1797",
        "digits",
        600,
        10,
        4,
        Autoencoder,
        lambda key: x[jax.random.randint(key, (128,), 0, len(x))],
        loss,
        lambda net: loss(net, x),
        lambda net, x: jax.vmap(net)(x),
        losses,
        Bernoulli(),
    )


class Taylor(eqx.Module):
    """(u, u', u'') of u(x) = x(1 - x) N(x), N an MLP whose layers see all three coefficients (and carry no bias apart
    from a constant input), so that each is one dense layer used three times."""

    layers: list

    def __init__(self, key: Any):
        sizes = (1, 32, 32, 32, 1)
        keys = jax.random.split(key, len(sizes) - 1)
        self.layers = [
            eqx.nn.Linear(m + 1, n, use_bias=False, key=k) for m, n, k in zip(sizes[:-1], sizes[1:], keys, strict=True)
        ]

    def __call__(self, x: Any) -> Any:
        h = jnp.stack([2 * x - 1, jnp.full_like(x, 2), jnp.zeros_like(x)])[:, None]
        one = jnp.array([[1.0], [0.0], [0.0]], h.dtype)
        for k, layer in enumerate(self.layers):
            z, dz, ddz = jax.vmap(layer)(jnp.concatenate([h, one], axis=1))
            t = jnp.tanh(z)
            s = 1 - t * t
            h = jnp.stack([z, dz, ddz] if k == len(self.layers) - 1 else [t, s * dz, s * ddz - 2 * t * s * dz * dz])
        n, dn, ddn = h[:, 0]
        return x * (1 - x) * ddn + 2 * (1 - 2 * x) * dn - 2 * n


def pinn(*_: Any) -> Task:
    """u'' = f on (0, 1), u = 0 at both ends: the loss is the mean squared residual over that of u = 0."""
    x = (jnp.arange(128, dtype=jnp.float32) + 0.5) / 128
    f = -(jnp.sin(jnp.pi * x) + 16 * jnp.sin(4 * jnp.pi * x) * 0.5)
    size = jnp.sqrt(jnp.mean(f * f))

    def outputs(net: Any, x: Any) -> Any:
        return (jax.vmap(net)(x) / size)[:, None]

    def losses(net: Any, x: Any) -> Any:
        return (outputs(net, x)[:, 0] - f / size) ** 2

    def loss(net: Any, x: Any) -> Any:
        return jnp.mean(losses(net, x))

    return Task(
        "PINN, u'' = f on (0, 1) by a tanh MLP 1-32-32-32-1, all 128 points; mean squared residual over that of u = 0",
        "128 points",
        1000,
        20,
        4,
        Taylor,
        lambda key: x,
        loss,
        lambda net: loss(net, x),
        outputs,
        losses,
        Gaussian(math.sqrt(0.5)),
        "ggn",
    )


TASKS = {"text": text, "images": images, "autoencoder": autoencoder, "pinn": pinn}
