"""SAM and its kin against plain NumPy twins of the papers' (or the authors') algorithms, and their limits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from corollary.core.errors import InputError
from corollary.optim import transforms as T

A = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]])
START = {"w": np.array([1.0, -2.0]), "b": np.array([0.5])}


def flat(tree):
    return np.concatenate([np.ravel(x) for x in (tree["w"], tree["b"])])


def tree(x):
    return {"w": x[:2], "b": x[2:]}


def gradient(x):
    """Of a quadratic plus a quartic: not linear, so that the perturbation shows."""
    return A @ x + x**3


def jax_gradient(p):
    x = jnp.concatenate([p["w"], p["b"]])
    g = jnp.asarray(A, x.dtype) @ x + x**3
    return {"w": g[:2], "b": g[2:]}


def trajectory(opt, steps=6, dtype=np.float64):
    p = jax.tree.map(lambda v: jnp.asarray(v, dtype), START)
    state = opt.init(p)
    found = []
    for _ in range(steps):
        updates, state = opt.update(jax_gradient(p), state, p, grad_fn=jax_gradient)
        p = jax.tree.map(jnp.add, p, updates)
        found.append(flat(p))
    return np.array(found), state


def twin(epsilon, steps=6, lr=0.05, momentum=0.9, nesterov=False):
    """SGD with momentum on gradients at x + epsilon(g, k)."""
    x, v, found = flat(START), np.zeros(3), []
    for k in range(steps):
        g = gradient(x + epsilon(gradient(x), x, k))
        v = momentum * v + g
        x = x - lr * (g + momentum * v if nesterov else v)
        found.append(x)
    return np.array(found)


def unit(v):
    return v / np.linalg.norm(v)


RHO = 0.1
SGD = optax.sgd(0.05, 0.9)


@pytest.mark.covers("sam")
def test_sam_and_asam(x64):
    ours, state = trajectory(T.sam(SGD, RHO))
    np.testing.assert_allclose(ours, twin(lambda g, x, k: RHO * unit(g)), rtol=1e-12)
    # The first-order sharpness of the last step is ρ‖g‖ at its start.
    assert float(state.sharpness) == pytest.approx(RHO * np.linalg.norm(gradient(ours[-2])))
    base, _ = trajectory(T.sam(SGD, 0.0))
    np.testing.assert_allclose(base, twin(lambda g, x, k: 0 * g), rtol=1e-12)

    def adaptive(g, x, k):
        scale = np.abs(x) + 0.01
        return RHO * scale * unit(scale * g)

    ours, _ = trajectory(T.sam(SGD, RHO, adaptive=True))
    np.testing.assert_allclose(ours, twin(adaptive), rtol=1e-12)
    # A schedule is followed; a zero gradient is no NaN; Optax's own SAM agrees where its period is 2.
    ours, _ = trajectory(T.sam(SGD, lambda count: RHO / (count + 1)))
    np.testing.assert_allclose(ours, twin(lambda g, x, k: RHO / (k + 1) * unit(g)), rtol=1e-12)
    still = {"w": jnp.zeros(2), "b": jnp.zeros(1)}
    opt = T.sam(SGD, RHO)
    updates, _ = opt.update(jax_gradient(still), opt.init(still), still, grad_fn=jax_gradient)
    assert not np.any(flat(updates))
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
    peer = optax.contrib.sam(SGD, adversary, sync_period=2, opaque_mode=True)
    p, state = jax.tree.map(jnp.asarray, START), peer.init(jax.tree.map(jnp.asarray, START))
    reference, _ = trajectory(opt)
    for row in reference:
        updates, state = peer.update(jax_gradient(p), state, p, grad_fn=lambda q, i: jax_gradient(q))
        p = jax.tree.map(jnp.add, p, updates)
        np.testing.assert_allclose(flat(p), row, rtol=1e-10)


def test_no_gradient_flows_through_the_perturbation(x64):
    opt, x = T.sam(optax.identity(), 0.3), jnp.asarray(flat(START))

    def grad(q):
        return jnp.asarray(A) @ q + q**3

    def update(p):
        return opt.update(grad(x), opt.init(x), p, grad_fn=grad)[0]

    def through(rho):
        return T.sam(optax.identity(), rho).update(grad(x), opt.init(x), x, grad_fn=grad)[0]

    there = np.asarray(x) + 0.3 * unit(gradient(np.asarray(x)))
    np.testing.assert_allclose(jax.jacobian(update)(x), A + np.diag(3 * there**2), rtol=1e-12)
    np.testing.assert_array_equal(jax.jacobian(through)(0.3), np.zeros(3))


@pytest.mark.covers("unified-sam")
def test_unified_sam(x64):
    sam, _ = trajectory(T.sam(SGD, RHO))
    ours, _ = trajectory(T.unified_sam(SGD, RHO, 1.0))
    np.testing.assert_allclose(ours, sam, rtol=1e-12)
    ours, _ = trajectory(T.unified_sam(SGD, RHO, 0.0))
    np.testing.assert_allclose(ours, twin(lambda g, x, k: RHO * g), rtol=1e-12)
    for schedule, weight in (  # the package's '1/t', '1-1/t' and a number
        (lambda count: 1 / (count + 1.0), lambda k: 1 / (k + 1)),
        (lambda count: 1 - 1 / (count + 1.0), lambda k: 1 - 1 / (k + 1)),
        (0.5, lambda k: 0.5),
    ):

        def reference(g, x, k, weight=weight):
            return RHO * (1 - weight(k) + weight(k) / (np.linalg.norm(g) + 1e-12)) * g

        ours, _ = trajectory(T.unified_sam(SGD, RHO, schedule))
        np.testing.assert_allclose(ours, twin(reference), rtol=1e-10)
    # USAM settles at the minimum with a constant ρ; SAM circles it.
    slow = optax.sgd(0.1)
    usam, _ = trajectory(T.unified_sam(slow, RHO, 0.0), 60)
    sam, _ = trajectory(T.sam(slow, 0.5), 60)
    assert np.linalg.norm(usam[-1]) < 2e-2 < np.linalg.norm(sam[-1])


@pytest.mark.covers("friendly-sam")
def test_friendly_sam(x64):
    def reference(sigma, lam, order):
        kept = {}

        def epsilon(g, x, k):
            if order == "code":
                if k == 0:
                    kept["m"], d = g, g
                else:
                    d = g - sigma * kept["m"]
                    kept["m"] = lam * kept["m"] + (1 - lam) * g
            else:
                kept["m"] = lam * kept.get("m", 0 * g) + (1 - lam) * g
                d = g - sigma * kept["m"]
            return RHO * d / (np.linalg.norm(d) + 1e-12)

        return epsilon

    for sigma, lam, order in ((1.0, 0.9, "code"), (0.5, 0.6, "code"), (0.5, 0.6, "paper")):
        ours, _ = trajectory(T.friendly_sam(SGD, RHO, sigma, lam, order=order))
        np.testing.assert_allclose(ours, twin(reference(sigma, lam, order)), rtol=1e-9)
    sam, _ = trajectory(T.sam(SGD, RHO))
    for order in ("code", "paper"):
        ours, _ = trajectory(T.friendly_sam(SGD, RHO, 0.0, order=order))
        np.testing.assert_allclose(ours, sam, rtol=1e-12)


@pytest.mark.covers("momentum-sam")
def test_momentum_sam(x64):
    lr, rho, mu, decay = 0.05, 0.3, 0.9, 0.01
    # The authors' code: back by the last buffer, SGD, ahead by the new one; gradients at the perturbed point.
    x, v, inverse, points = flat(START), np.zeros(3), 0.0, []
    for _ in range(6):
        g = gradient(x) + decay * x
        x = x + rho * inverse * v
        v = mu * v + g
        x = x - lr * v
        points.append(x)
        inverse = 1 / (np.linalg.norm(v) + 1e-12)
        x = x - rho * inverse * v
    opt, calls = T.momentum_sam(lr, rho, mu, decay), []

    def counted(p):
        calls.append(p)
        return jax_gradient(p)

    p = jax.tree.map(jnp.asarray, START)
    state = opt.init(p)
    for reference in points:
        updates, state = opt.update(counted(p), state, p, grad_fn=counted)  # offered a second gradient, takes none
        p = jax.tree.map(jnp.add, p, updates)
        np.testing.assert_allclose(flat(T.momentum_sam_params(p, state)), reference, rtol=1e-9)
    assert len(calls) == len(points)
    with pytest.raises(InputError, match="state: found 0 states of momentum_sam"):
        T.momentum_sam_params(p, ())
    # The perturbation points ahead: opposite to SAM's ascent.
    ahead = flat(p) - flat(T.momentum_sam_params(p, state))
    np.testing.assert_allclose(ahead, -rho * unit(flat(state.momentum)), rtol=1e-9)
    ours, _ = trajectory(T.momentum_sam(lr, 0.0, mu))
    np.testing.assert_allclose(ours, twin(lambda g, x, k: 0 * g), rtol=1e-12)


@pytest.mark.covers("mnsam")
def test_mnsam(x64):
    kept = {}

    def reference(g, x, k):
        kept["b"] = g if k == 0 else 0.8 * kept["b"] + 0.2 * g
        return RHO * kept["b"] / (np.linalg.norm(kept["b"]) + 1e-12)

    ours, _ = trajectory(T.mnsam(0.05, RHO, b1=0.8, momentum=0.9))
    np.testing.assert_allclose(ours, twin(reference, nesterov=True), rtol=1e-9)
    ours, _ = trajectory(T.mnsam(0.05, RHO, b1=0.0, momentum=0.0))
    np.testing.assert_allclose(ours, twin(lambda g, x, k: RHO * unit(g), momentum=0.0), rtol=1e-12)


@pytest.mark.covers("zsharp")
def test_zsharp(x64):
    sam, _ = trajectory(T.sam(SGD, RHO))
    ours, _ = trajectory(T.zsharp(SGD, RHO, 0.0))
    np.testing.assert_allclose(ours, sam, rtol=1e-12)
    ours, _ = trajectory(T.zsharp(SGD, RHO, 1.0))  # nothing is left: falls back to SAM
    np.testing.assert_allclose(ours, sam, rtol=1e-12)
    rng = np.random.default_rng(0)
    g = {"w": rng.normal(size=(5, 8)) + 2, "b": rng.normal(size=10)}
    opt = T.zsharp(optax.identity(), RHO, 0.75)
    p = jax.tree.map(lambda v: jnp.zeros(v.shape), g)
    moved, _ = opt.update(jax.tree.map(jnp.asarray, g), opt.init(p), p, grad_fn=lambda q: q)
    for name, size in (("w", 40), ("b", 10)):
        away = np.asarray(moved[name]).ravel()
        z = np.abs((g[name] - g[name].mean()) / g[name].std()).ravel()
        kept = away != 0
        assert kept.sum() == size - round(0.75 * size)  # the mask's share is exact
        assert z[kept].min() > z[~kept].max()  # the outliers stay
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([np.ravel(moved["w"]), moved["b"]])), RHO, rtol=1e-12)
    empty = {"a": jnp.zeros(0), "b": jnp.ones(2)}
    assert opt.update(empty, opt.init(empty), empty, grad_fn=lambda q: q)[0]["a"].shape == (0,)


def test_single_precision_and_refusals():
    ours, _ = trajectory(T.sam(SGD, RHO), dtype=np.float32)
    np.testing.assert_allclose(ours, twin(lambda g, x, k: RHO * unit(g)), rtol=1e-5)
    for call, text in (
        (lambda: T.sam(SGD, -1.0), "rho: found -1.0"),
        (lambda: T.unified_sam(SGD, 0.1, 2.0), "weight: found 2.0"),
        (lambda: T.friendly_sam(SGD, 0.1, -1.0), "sigma: found -1.0"),
        (lambda: T.friendly_sam(SGD, order="both"), "order: found 'both'"),
        (lambda: T.zsharp(SGD, 0.1, 1.5), "percentile: found 1.5"),
        (lambda: T.momentum_sam(0.1, momentum=1.5), "momentum: found 1.5"),
        (lambda: T.mnsam(0.1, b1=-0.1), "b1: found -0.1"),
    ):
        with pytest.raises(InputError, match=text):
            call()
