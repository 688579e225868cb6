"""Diagonal curvature methods (AdaHessian, Sassha, Sophia, AdaFisher); preconditioners spread over devices; transfer."""

from __future__ import annotations

import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from corollary.core.errors import InputError
from corollary.optim.transforms import (
    adafisher,
    adahessian,
    gauss_newton_bartlett,
    muon,
    sassha,
    shampoo,
    sharded_inverse_roots,
    sharded_shampoo,
    transfer_hyperparameters,
)

SCALES = np.asarray([1.0, 10.0, 100.0])


def bowl(x):
    return jnp.sum(jnp.asarray(SCALES, x.dtype) * x**2) / 2


def descend(optimizer, f, x, steps, **extra):
    """All iterates, in one compiled scan; an update may ask for the function of the batch."""

    @jax.jit
    def all_steps(x):
        def step(carry, _):
            x, state = carry
            with jax.numpy_dtype_promotion("standard"):  # Optax' own need it
                updates, state = optimizer.update(jax.grad(f)(x), state, x, **extra)
            x = optax.apply_updates(x, updates)
            return (x, state), x

        return jax.lax.scan(step, (x, optimizer.init(x)), length=steps)[1]

    return np.asarray(all_steps(x))


@pytest.mark.covers("adahessian")
def test_adahessian_is_newtons_method_on_a_diagonal_quadratic_and_its_naive_twin(x64):
    x = jnp.asarray([3.0, -2.0, 1.0])
    np.testing.assert_allclose(descend(adahessian(1.0, 0.0, 0.0, 0.0), bowl, x, 1, value_fn=bowl)[0], 0, atol=1e-12)
    ours = descend(adahessian(0.1, 0.9, 0.99, 1e-8, power=1.0, every=2, weight_decay=0.1), bowl, x, 5, value_fn=bowl)
    theta, m, v, k, D = np.asarray(x), 0.0, 0.0, 0, np.asarray(SCALES)
    for t in range(1, 6):
        g = D * theta
        m = 0.9 * m + 0.1 * g
        if (t - 1) % 2 == 0:
            v, k = 0.99 * v + 0.01 * D**2, k + 1
        step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**k)) + 1e-8)
        theta = theta - 0.1 * (step + 0.1 * theta)
        np.testing.assert_allclose(ours[t - 1], theta, atol=1e-10)


@pytest.mark.covers("adahessian")
def test_the_estimate_is_unbiased_and_kernels_are_averaged_over_space(x64):
    A = np.random.default_rng(0).standard_normal((4, 4))
    H = jnp.asarray(A + A.T + 8 * np.eye(4))
    f = lambda x: x @ H @ x / 2  # noqa: E731
    # b2 = 0 leaves |diagonal estimate| in the state; many samples bring it to |diag H| within 5 standard errors.
    optimizer = adahessian(1.0, 0.0, 0.0, 0.0, samples=2000)
    x = jnp.ones(4)
    _, state = jax.jit(lambda x: optimizer.update(x, optimizer.init(x), x, value_fn=f))(x)
    error = np.sqrt(np.sum(np.asarray(H) ** 2, axis=1) - np.diag(H) ** 2) / 2000**0.5
    assert np.all(np.abs(np.sqrt(state[0].square) - np.abs(np.diag(H))) <= 5 * error)
    kernel = jnp.asarray(np.random.default_rng(1).standard_normal((2, 3, 2, 2)))
    g = lambda k: jnp.sum(jnp.arange(1.0, 5.0).reshape(2, 2) * k**2) / 2  # noqa: E731
    averaged = adahessian(1.0, 0.0, 0.0, 0.0, average_axes=2)
    update = averaged.update(jax.grad(g)(kernel), averaged.init(kernel), kernel, value_fn=g)[0]
    np.testing.assert_allclose(update, -jax.grad(g)(kernel) / 2.5, rtol=1e-12)


@pytest.mark.covers("sassha")
def test_sassha_against_a_naive_twin_and_without_perturbation(x64):
    x = jnp.asarray([3.0, -2.0, 1.0])
    # ρ = 0, k = 1: momentum over |D|^(1/2), exact on a diagonal quadratic.
    plain = descend(sassha(0.1, 0.9, 0.99, 0.0, rho=0.0, every=1), bowl, x, 3, value_fn=bowl)
    perturbed = descend(sassha(0.1, 0.9, 0.99, 1e-4, rho=0.3, every=3), bowl, x, 7, grad_fn=jax.grad(bowl))
    D = np.asarray(SCALES)
    for ours, rho, eps in ((plain, 0.0, 0.0), (perturbed, 0.3, 1e-4)):
        theta, m = np.asarray(x), 0.0
        for t in range(1, len(ours) + 1):
            g = D * theta
            g = D * (theta + rho * g / np.linalg.norm(g))
            m = 0.9 * m + 0.1 * g
            theta = theta - 0.1 * m / (1 - 0.9**t) / (np.sqrt(D) + eps)
            np.testing.assert_allclose(ours[t - 1], theta, rtol=1e-9, atol=1e-9)


def test_sassha_estimates_the_curvature_at_the_perturbed_point(x64):
    f = lambda x: jnp.sum(x**4)  # noqa: E731
    x = jnp.asarray([1.0, 2.0])
    optimizer = sassha(1.0, 0.0, 0.0, 0.0, rho=0.5, power=1.0)
    g = jax.grad(f)(x)
    _, state = optimizer.update(g, optimizer.init(x), x, value_fn=f)
    moved = np.asarray(x + 0.5 * g / jnp.linalg.norm(g))
    np.testing.assert_allclose(state[0].curvature, 12 * moved**2, rtol=1e-12)


@pytest.mark.covers("sophia")
def test_sophia_clips_to_signs_and_else_divides_by_the_curvature(x64):
    x = jnp.asarray([3.0, -2.0, 1.0])
    settings = {"b1": 0.0, "b2": 0.0, "eps": 1e-12, "weight_decay": 0.0, "update_interval": 1}
    clipped = descend(optax.contrib.sophia(0.1, gamma=1e-9, **settings), bowl, x, 2, obj_fn=bowl)
    np.testing.assert_allclose(clipped[1] - clipped[0], -0.1 * np.sign(clipped[0]), atol=1e-12)
    # Optax divides by the diagonal of the step before; unclipped and exact here, its second step is Newton's.
    newton = descend(optax.contrib.sophia(1.0, gamma=1.0, clip_threshold=None, **settings), bowl, x, 2, obj_fn=bowl)
    np.testing.assert_allclose(newton[1], 0, atol=1e-3 * np.max(np.abs(newton[0])))


@pytest.mark.covers("sophia")
def test_the_gauss_newton_bartlett_estimate_is_unbiased(x64):
    X = jnp.asarray(np.random.default_rng(0).standard_normal((6, 3)))
    w = jnp.asarray([0.3, -0.5, 0.2])
    p = jax.nn.sigmoid(X @ w)
    exact = np.mean(np.asarray((p * (1 - p))[:, None] * X**2), axis=0)

    def sampled(w, key):
        z = X @ w
        y = jax.lax.stop_gradient(jax.random.bernoulli(key, jax.nn.sigmoid(z)).astype(z.dtype))
        return jnp.mean(jax.nn.softplus(z) - y * z)

    estimate = gauss_newton_bartlett()
    draw = jax.jit(jax.vmap(lambda s: estimate.update(w, s, w, sampled_loss_fn=sampled, batch_size=6)[0]))
    drawn = np.asarray(draw(jnp.arange(4000)))
    assert np.all(drawn >= 0)
    assert np.all(np.abs(drawn.mean(0) - exact) <= 5 * drawn.std(0) / 4000**0.5)
    with pytest.raises(InputError, match="batch_size: found None"):
        estimate.update(w, estimate.init(w), w, sampled_loss_fn=sampled)


@pytest.mark.covers("adafisher")
def test_adafisher_against_a_naive_twin_of_the_authors_code(x64):
    layer = eqx.nn.Linear(3, 2, key=jax.random.key(0), dtype=jnp.float64)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 3)))
    losses = lambda m: jnp.sum(jnp.sin(jax.vmap(m)(x)), axis=1)  # noqa: E731
    optimizer = adafisher(layer, 0.1, every=2, weight_decay=0.1)

    @jax.jit
    def step(model, state):
        grads = jax.grad(lambda m: jnp.mean(losses(m)))(model)
        updates, state = optimizer.update(grads, state, model, losses_fn=losses)
        return eqx.apply_updates(model, updates), state

    unit = lambda v: (v - v.min()) / (v.max() - v.min())  # noqa: E731
    a = np.column_stack([x, np.ones(5)])
    theta, m, h, s = np.column_stack([layer.weight, layer.bias]), 0.0, np.ones(4), np.ones(2)
    model, state = layer, optimizer.init(layer)
    for t in range(1, 5):
        g = np.cos(a @ theta.T)
        if (t - 1) % 2 == 0:
            h = 0.08 * h + 0.008 * unit(np.mean(a**2, axis=0))
            s = 0.08 * s + 0.008 * unit(np.mean(g**2, axis=0))
        m = 0.9 * m + 0.1 * g.T @ a / 5
        theta = theta - 0.1 * (m / (1 - 0.9**t) / (np.outer(s, h) + 1e-3) + 0.1 * theta)
        model, state = step(model, state)
        np.testing.assert_allclose(np.column_stack([model.weight, model.bias]), theta, atol=1e-10)


def test_bad_settings_and_missing_functions_are_refused():
    x = jnp.ones(2)
    for make in (adahessian, sassha):
        with pytest.raises(InputError, match=r"value_fn: found None and no grad_fn"):
            make(0.1).update(x, make(0.1).init(x), x)
        with pytest.raises(InputError, match="params: found None"):
            make(0.1).update(x, make(0.1).init(x), value_fn=bowl)
    with pytest.raises(InputError, match="rho: found -1"):
        sassha(0.1, rho=-1.0)
    with pytest.raises(InputError, match="samples: found 0"):
        adahessian(0.1, samples=0)
    layer = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    with pytest.raises(InputError, match="losses_fn: found None"):
        adafisher(layer, 0.1).update(layer, adafisher(layer, 0.1).init(layer), layer)
    mesh = jax.make_mesh((1,), ("data",))
    with pytest.raises(InputError, match="axis: found 'model'"):
        sharded_shampoo(0.1, mesh, axis="model")
    with pytest.raises(InputError, match="factors: found shape"):
        sharded_inverse_roots(jnp.ones((2, 3)), mesh, axis="data")


# Spread over devices

SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from corollary.core import compile_cache
from corollary.optim.transforms import muon, sharded_shampoo, soap
compile_cache.enable(sys.argv[2])
grads = jnp.asarray(np.random.default_rng(0).standard_normal((3, 8, 16)), jnp.float32)
out = []
for devices in (1, 8):
    mesh = Mesh(np.asarray(jax.devices()[:devices]), ("data",))
    make = lambda every: sharded_shampoo(0.1, mesh, every=every, block_size=4)
    update = jax.jit(lambda every, g, state: make(every).update(g, state, grads[0]))
    for every in (1, 3):
        state = make(1).init(grads[0])
        for g in grads:
            updates, state = update(every, g, state)
        out += [np.asarray(updates), np.asarray(state[0].traffic)]
    for optimizer in (muon(0.1), soap(0.1, every=1)):
        put = lambda g: jax.device_put(g, NamedSharding(mesh, P(None, "data")))
        state, update = optimizer.init(put(grads[0])), jax.jit(optimizer.update)
        for g in grads[:2]:
            updates, state = update(put(g), state, put(grads[0]))
        out.append(np.asarray(updates))
np.savez(sys.argv[1], *out)
"""


@pytest.mark.slow
@pytest.mark.covers("sharded-preconditioner", "soap")
def test_eight_devices_give_what_one_gives_and_traffic_falls(tmp_path):
    path, cache = str(tmp_path / "out.npz"), os.environ.get("COROLLARY_CACHE", ".cache/xla")
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", SHARDED, path, cache], check=True, env=env)
    results = list(np.load(path).values())
    one, eight = results[:6], results[6:]
    for k in (0, 2, 4, 5):
        np.testing.assert_allclose(eight[k], one[k], atol=2e-4)
    gathered = 16 * 16 * 4 * 7 / 8  # the 8 blocks have two factors 4 x 4 each, in float32
    assert (one[1], one[3]) == (0, 0)
    assert eight[1] == pytest.approx(3 * gathered)
    assert eight[3] == pytest.approx(gathered)  # every 3 steps: a third


@pytest.mark.covers("sharded-preconditioner")
def test_synchronised_every_step_it_is_shampoo(x64):
    mesh = jax.make_mesh((1,), ("data",))
    rng = np.random.default_rng(0)
    params = {"W": jnp.zeros((5, 6)), "b": jnp.zeros(3)}
    spread = sharded_shampoo(0.1, mesh, every=1, block_size=3)
    whole = shampoo(0.1, every=1, block_size=3, graft="none")
    states = [spread.init(params), whole.init(params)]
    updates = [jax.jit(spread.update), jax.jit(whole.update)]
    for _ in range(3):
        g = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape)), params)
        steps = [update(g, state, params) for update, state in zip(updates, states, strict=True)]
        states = [state for _, state in steps]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), steps[0][0], steps[1][0])
    A = rng.standard_normal((3, 4, 4))
    A = A @ np.swapaxes(A, 1, 2)
    roots = sharded_inverse_roots(jnp.asarray(A), mesh, axis="data", power=0.5, eps=0.0)
    np.testing.assert_allclose(roots @ A @ roots, np.broadcast_to(np.eye(4), (3, 4, 4)), atol=1e-8)


# Transfer


def network(width, key):
    keys = jax.random.split(key, 3)
    normal = lambda k, m, n: jax.random.normal(k, (m, n)) / n**0.5  # noqa: E731
    return {
        "in": normal(keys[0], width, 4),
        "mid": normal(keys[1], width, width),
        "out": normal(keys[2], 2, width) / width**0.5,
    }


def features(params, x):
    h = jnp.tanh(x @ params["in"].T)
    return jnp.tanh(h @ params["mid"].T)


def trained(optimizer, params, steps, rate):
    """Losses, and how far the hidden features have moved, an entry."""
    x = jax.random.normal(jax.random.key(1), (8, 4))
    y = jnp.sin(2 * x[:, :2])
    loss = lambda p: jnp.mean((features(p, x) @ p["out"].T - y) ** 2)  # noqa: E731

    def step(carry, _):
        p, state = carry
        updates, state = optimizer.update(jax.grad(loss)(p), state, p)
        p = jax.tree.map(lambda a, u: a + rate * u, p, updates)
        return (p, state), loss(p)

    (new, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return losses, jnp.sqrt(jnp.mean(jnp.square(features(new, x) - features(params, x))))


@pytest.mark.covers("hyperparameter-transfer")
@pytest.mark.parametrize("name", ["muon", "shampoo"])
def test_features_move_alike_at_every_width_and_the_best_rate_stays(name):
    base, moved, best, plain = network(16, jax.random.key(0)), [], [], []
    rates = jnp.exp2(jnp.arange(-7.0, 1.0))
    for width in (16, 64):
        params = network(width, jax.random.key(0))
        made = {
            "muon": lambda: muon(1.0, scale="none"),
            "shampoo": lambda: shampoo(1.0, every=1, graft="none", block_size=64),
        }[name]()
        transfer = transfer_hyperparameters(name, params, base, learning_rate=1.0)
        chained = optax.chain(made, transfer.scale())
        if name == "muon":
            losses, shifts = jax.jit(jax.vmap(lambda r, p=params, o=chained: trained(o, p, 6, r)))(rates)
            best.append(int(jnp.argmin(losses[:, -1])))
            moved.append(float(shifts[1]))
        else:
            moved.append(float(jax.jit(lambda p=params, o=chained: trained(o, p, 3, 0.01)[1])()))
    assert moved[1] / moved[0] == pytest.approx(1, abs=0.35)
    if name == "muon":
        assert abs(best[0] - best[1]) <= 1
        adam = optax.GradientTransformation(
            lambda p: (), lambda g, s, p=None: (jax.tree.map(lambda x: -jnp.sign(x), g), s)
        )
        plain = [
            float(jax.jit(lambda w=w: trained(adam, network(w, jax.random.key(0)), 3, 0.01)[1])()) for w in (16, 64)
        ]
        assert plain[1] > 1.5 * plain[0]  # without the rule, entrywise steps move wide features further


@pytest.mark.covers("hyperparameter-transfer")
def test_transferred_numbers():
    small, large = network(8, jax.random.key(0)), network(32, jax.random.key(0))
    found = transfer_hyperparameters("soap", large, small, learning_rate=0.1, weight_decay=0.4, depth=12, base_depth=3)
    assert {k: float(v) for k, v in found.multipliers.items()} == {"in": 2.0, "mid": 1.0, "out": 0.5}
    assert (found.weight_decay, found.residual) == (pytest.approx(0.1), 0.25)
    grafted = transfer_hyperparameters("shampoo", large, small, learning_rate=0.1, graft="adam").multipliers
    assert {k: float(v) for k, v in grafted.items()} == {"in": 1.0, "mid": 0.25, "out": 0.25}
    done = transfer_hyperparameters("muon", large, small, learning_rate=0.1, scale="mup").multipliers
    assert set(done.values()) == {1.0}
    with pytest.raises(InputError, match="graft: found 'adam' for 'muon'"):
        transfer_hyperparameters("muon", large, small, learning_rate=0.1, graft="adam")
    with pytest.raises(InputError, match="base: found a pytree of another structure"):
        transfer_hyperparameters("muon", large, {"in": jnp.ones((2, 2))}, learning_rate=0.1)
