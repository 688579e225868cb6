"""Parallel training and the laws of scale: what a layout costs on one device, pruning, fitting a scaling law.

What many devices gain cannot be measured on two cores that pretend to be eight; equality, bytes and memory are tested.
"""

from __future__ import annotations

import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import Entry, main
from jax.sharding import Mesh
from scipy import optimize

from corollary import train

SMALL = bool(os.environ.get("SMOKE"))


def layout_overhead() -> Entry:
    """A step through `sharded_step` on one device against the bare jitted step."""
    width, batch_size, steps = (8, 4, 2) if SMALL else (256, 128, 200)
    net = eqx.nn.MLP(width, 10, width, 2, key=jax.random.key(0))
    params, static = eqx.partition(net, eqx.is_array)
    batch = jnp.ones((batch_size, width)), jnp.zeros(batch_size, jnp.int32)
    optimizer, key = optax.adam(1e-3), jax.random.key(0)

    def loss(params, batch, key):
        x, y = batch
        logits = jax.vmap(eqx.combine(params, static))(x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    @jax.jit
    def bare(params, state, batch, key):
        value, grads = jax.value_and_grad(loss)(params, batch, key)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    layout = train.fsdp(Mesh(jax.devices()[:1], ("data",)))
    sharded = train.sharded_step(loss, optimizer, layout)

    def many(step, place):
        def call():
            p, s = place(params), optimizer.init(params)
            for _ in range(steps):
                p, s, value = step(p, s, batch, key)
            return float(value)

        return call

    return Entry(
        name=f"{steps} steps of an MLP {width}-{width}-{width}-10 under a layout of one device",
        quality="loss",
        runs={"corollary": many(sharded, layout.put), "bare jax.jit step": many(bare, lambda p: p)},
        measure=float,
        bar=0.9,
    )


def pruning() -> Entry:
    """Half of ten million weights by magnitude."""
    n = 1000 if SMALL else 3162
    w = np.random.default_rng(0).standard_normal((n, n)).astype(np.float32)
    runs = {"corollary": lambda: np.asarray(train.prune(jnp.asarray(w), 0.5).value[0])}
    skipped = {}
    try:
        import torch
        from torch.nn.utils import prune

        def peer():
            layer = torch.nn.Linear(n, n, bias=False)
            layer.weight.data = torch.from_numpy(w)
            prune.l1_unstructured(layer, "weight", amount=0.5)
            return layer.weight.detach().numpy()

        runs["torch.nn.utils.prune"] = peer
    except ImportError:
        skipped["torch.nn.utils.prune"] = "PyTorch is not installed"
    return Entry(
        name=f"prune half of {n} × {n} weights",
        quality="share of zeros",
        runs=runs,
        measure=lambda out: float(np.mean(out == 0)),
        bar=1.0,
        skipped=skipped,
    )


def scaling_law() -> Entry:
    """A fit of L(N, D) to 36 runs against the recipe of Hoffmann et al.: BFGS from a grid of starts."""
    rng = np.random.default_rng(0)
    N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6)))
    L = (1.69 + 406.4 / N**0.34 + 410.7 / D**0.28) * np.exp(2e-3 * rng.standard_normal(36))
    u, v, z, delta = np.log(N), np.log(D), np.log(L), 1e-3

    def objective(theta):
        a, b, e, alpha, beta = theta
        terms = np.stack([a - alpha * u, b - beta * v, np.full_like(u, e)])
        top = np.logaddexp.reduce(terms, axis=0)
        r, share = top - z, np.exp(terms - top)
        psi = np.clip(r, -delta, delta)
        gradient = [psi @ share[0], psi @ share[1], psi @ share[2], -(psi * u) @ share[0], -(psi * v) @ share[1]]
        return np.sum(np.where(np.abs(r) < delta, r**2 / 2, delta * (np.abs(r) - delta / 2))), np.array(gradient)

    def recipe():
        best = None
        for a in (0, 10, 20):
            for b in (0, 10, 20):
                for e in (-1, 0, 1):
                    for alpha in (0, 0.5, 1):
                        for beta in (0, 0.5, 1):
                            run = optimize.minimize(objective, [a, b, e, alpha, beta], jac=True, method="BFGS")
                            best = run if best is None or run.fun < best.fun else best
        return best.x

    def ours():
        law = train.fit_scaling_law(N, D, L).value
        return np.array([np.log(law.A), np.log(law.B), np.log(law.E), law.alpha, law.beta])

    return Entry(
        name="scaling law from 36 runs",
        quality="Huber objective",
        runs={"corollary": ours, "SciPy BFGS, 243 starts (Hoffmann's recipe, thinned)": recipe},
        measure=lambda theta: float(objective(theta)[0]),
        bar=1.0,
        repeats=1 if SMALL else 3,
    )


if __name__ == "__main__":
    main("parallel", [layout_overhead, pruning, scaling_law])
