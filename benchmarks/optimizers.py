"""Steps of the matrix and curvature optimizers beside AdamW's on the same model, batch and gradient."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import Entry, main

from corollary.optim.curvature import Bernoulli
from corollary.optim.transforms import ekfac, muon, soap

WIDTH, LAYERS, HEADS, VOCABULARY, CONTEXT, BATCH = 128, 4, 4, 65, 128, 32
SIZES, EXAMPLES = (784, 1000, 500, 250, 30, 250, 500, 1000, 784), 1024


def _transformer() -> tuple[Any, Any, Any]:
    """Parameters of a character GPT, and its loss on one batch of CONTEXT x BATCH tokens."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape) / shape[-1] ** 0.5, jnp.float32)  # noqa: E731
    layer = lambda: {  # noqa: E731
        "qkv": normal(3 * WIDTH, WIDTH),
        "out": normal(WIDTH, WIDTH),
        "up": normal(4 * WIDTH, WIDTH),
        "down": normal(WIDTH, 4 * WIDTH),
    }
    params = {
        "tokens": normal(VOCABULARY, WIDTH),
        "positions": normal(CONTEXT, WIDTH),
        "layers": [layer() for _ in range(LAYERS)],
        "head": normal(VOCABULARY, WIDTH),
    }
    text = jnp.asarray(rng.integers(0, VOCABULARY, (BATCH, CONTEXT + 1)))
    mask = jnp.tril(jnp.ones((CONTEXT, CONTEXT), bool))

    def normed(x: Any) -> Any:
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)

    def loss(params: Any, text: Any) -> Any:
        x = params["tokens"][text[:, :-1]] + params["positions"]
        for w in params["layers"]:
            q, k, v = jnp.split(normed(x) @ w["qkv"].T, 3, axis=-1)
            heads = lambda a: a.reshape(BATCH, CONTEXT, HEADS, -1).transpose(0, 2, 1, 3)  # noqa: E731
            scores = heads(q) @ heads(k).swapaxes(-1, -2) / (WIDTH / HEADS) ** 0.5
            mixed = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf)) @ heads(v)
            x = x + mixed.transpose(0, 2, 1, 3).reshape(x.shape) @ w["out"].T
            x = x + jax.nn.gelu(normed(x) @ w["up"].T) @ w["down"].T
        logits = normed(x) @ params["head"].T
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, text[:, 1:]))

    return params, loss, text


def _runner(optimizer: Any, params: Any, loss: Any, batch: Any, steps: int, extra: Any = None) -> Any:
    """``steps`` compiled steps from the same start; the last loss."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(grads, state, params, **(extra(batch) if extra else {}))
        return optax.apply_updates(params, updates), state, value

    def run() -> Any:
        p = jax.tree.map(jnp.copy, params)
        state, value = optimizer.init(p), None
        for _ in range(steps):
            p, state, value = step(p, state, batch)
        return jax.block_until_ready(value)

    return run


def _beside_adamw(name: str, ours: Any, bar: float, steps: int, others: dict[str, Any]) -> Entry:
    params, loss, text = _transformer()
    made = {"corollary": ours, "optax.adamw": optax.adamw(3e-4), **others}
    return Entry(
        name=f"{name}, {steps} steps of a character GPT ({LAYERS} layers of width {WIDTH}, {BATCH} x {CONTEXT} tokens)",
        quality="last training loss",
        runs={who: _runner(optimizer, params, loss, text, steps) for who, optimizer in made.items()},
        measure=float,
        bar=bar,
        against="optax.adamw",
    )


def _mask(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key == "layers", params)


def muon_step() -> Entry:
    """A step at most 1.25 times AdamW's."""
    peer = optax.contrib.muon(
        0.02,
        muon_weight_dimension_numbers=lambda params: jax.tree.map(
            lambda hidden: optax.contrib.MuonDimensionNumbers(1, 0) if hidden else None, _mask(params)
        ),
        adam_learning_rate=3e-4,
    )
    ours = muon(0.02, mask=_mask, adam_learning_rate=3e-4)
    return _beside_adamw("Muon", ours, 1 / 1.25, 10, {"optax.contrib.muon": peer})


def normuon_step() -> Entry:
    return _beside_adamw("NorMuon", muon(0.02, mask=_mask, normalise=True, adam_learning_rate=3e-4), 1 / 1.25, 10, {})


def soap_step() -> Entry:
    """A step at most 1.6 times AdamW's, the basis renewed every 10 steps."""
    return _beside_adamw("SOAP, basis every 10", soap(3e-4, every=10), 1 / 1.6, 20, {})


class Autoencoder(eqx.Module):
    layers: list

    def __init__(self, key: Any):
        keys = jax.random.split(key, len(SIZES) - 1)
        self.layers = [eqx.nn.Linear(m, n, key=k) for m, n, k in zip(SIZES[:-1], SIZES[1:], keys, strict=True)]

    def __call__(self, x: Any) -> Any:
        for k, layer in enumerate(self.layers):
            x = layer(x)
            x = x if k in (3, 7) else jnp.tanh(x)
        return x


def ekfac_step() -> Entry:
    """A step at most 2.5 times AdamW's, the inverse every 20 steps."""
    model = Autoencoder(jax.random.key(0))
    codes = np.random.default_rng(0).standard_normal((EXAMPLES, 30))
    x = codes @ np.random.default_rng(1).standard_normal((30, 784)) > 0
    x = jnp.asarray(x, jnp.float32)
    loss = lambda m, x: jnp.mean(jax.vmap(Bernoulli())(jax.vmap(m)(x), x))  # noqa: E731
    extra = lambda x: {"outputs_fn": lambda m: jax.vmap(m)(x)}  # noqa: E731
    ours = ekfac(model, 0.1, distribution=Bernoulli(), damping=1e-2, inverse_every=20, norm_constraint=1e-2)
    return Entry(
        name=f"EKFAC, 40 steps of the autoencoder 784-1000-500-250-30 mirrored, {EXAMPLES} examples, inverse every 20",
        quality="last training loss",
        runs={
            "corollary": _runner(ours, model, loss, x, 40, extra),
            "optax.adamw": _runner(optax.adamw(1e-3), model, loss, x, 40),
        },
        measure=float,
        bar=1 / 2.5,
        against="optax.adamw",
        repeats=3,
    )


if __name__ == "__main__":
    main("optimizers", [muon_step, normuon_step, soap_step, ekfac_step])
