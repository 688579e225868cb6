"""A run's vital signs against brute force: noise scale, sharpness, effective rank, update ratios."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from corollary.core import InputError
from corollary.train import (
    ArrayFeed,
    Trainer,
    VitalSigns,
    effective_rank,
    effective_ranks,
    gradient_noise_scale,
    layer_norms,
    sharpness,
)
from corollary.train._noise_scale import summarise

D, N = 6, 4096


def regression_loss(params, batch, key):
    x, y = batch
    return 0.5 * jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def regression(dtype, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (N, D), dtype)
    y = x @ jnp.arange(1, D + 1, dtype=dtype) + jax.random.normal(keys[1], (N,), dtype)
    return {"w": jnp.zeros(D, dtype), "b": jnp.ones((), dtype)}, (x, y)


def test_the_noise_scale_is_that_of_brute_force(dtype):
    params, (x, y) = regression(dtype)
    each = jax.vmap(lambda xi, yi: jax.grad(regression_loss)(params, (xi[None], yi[None]), None))(x, y)
    rows = np.concatenate([np.asarray(each["w"], np.float64), np.asarray(each["b"], np.float64)[:, None]], axis=1)
    mean = rows.mean(axis=0)
    noise, signal = rows.var(axis=0, ddof=1).sum(), mean @ mean
    truth = noise / (signal - noise / N)
    batches = jax.tree.map(lambda a: a.reshape(32, N // 32, *a.shape[1:]), (x, y))
    solution = gradient_noise_scale(regression_loss, params, batches, parts=32)
    certificate, value = solution.certificates["noise_scale"], solution.value
    assert abs(float(value.scale) / truth - 1) < 0.1  # the bar
    assert abs(float(value.scale) - truth) < 4 * float(certificate.stderr)
    assert value.low < truth < value.high
    # Another unit of the loss and of the parameters changes nothing.
    scaled = gradient_noise_scale(lambda *a: 2.0**40 * regression_loss(*a), params, batches, parts=32).value
    for name in ("scale", "low", "high"):
        np.testing.assert_allclose(getattr(scaled, name), getattr(value, name), rtol=200 * jnp.finfo(dtype).eps)


def test_fieller_covers_as_often_as_it_says(x64):
    """Coverage over 400 planted quadratics: the interval holds the true ratio with about its confidence."""

    def mean_loss(w, batch, key):
        return 0.5 * jnp.mean(jnp.sum((w - batch) ** 2, axis=-1))

    def once(key, where=0.0):
        x = 0.5 + jax.random.normal(key, (10, 16, 3))
        return gradient_noise_scale(mean_loss, jnp.zeros(3) + where, x, confidence=0.9).value

    answers = jax.vmap(once)(jax.random.split(jax.random.key(1), 400))
    truth = 3 / (3 * 0.25)
    covered = np.mean(np.asarray((answers.low <= truth) & (truth <= answers.high)))
    assert abs(covered - 0.9) < 4 * np.sqrt(0.9 * 0.1 / 400)
    # At the minimum there is no gradient: the interval must be open above, or nearly always so.
    at_rest = jax.vmap(lambda k: once(k, 0.5))(jax.random.split(jax.random.key(2), 400))
    assert np.mean(np.isinf(np.asarray(at_rest.high))) > 0.85


def test_the_interval_is_all_that_fieller_allows(x64):
    """Against the inequality itself on a grid, where the gradient does not stand out from its noise."""
    grid, seen, z = np.linspace(0, 5, 401), set(), stats.t.ppf(0.975, 5)
    draws = np.random.default_rng(0).normal(size=(3, 40, 6))
    runs = 0.6 + draws[0] + 0.05 * draws[1:]
    values = jax.vmap(lambda a, b: summarise(a, b, 0.95)[0])(*jnp.asarray(runs))
    for k, (noise, signal) in enumerate(runs.swapaxes(0, 1)):
        value = jax.tree.map(lambda v, k=k: float(v[k]), values)
        rest = noise[None] - grid[:, None] * signal[None]  # a ratio r is allowed where the mean of n − r·s is near 0
        allowed = np.abs(rest.mean(1)) <= z * rest.std(1, ddof=1) / np.sqrt(6)
        assert np.all((value.low <= grid[allowed] + 1e-9) & (grid[allowed] <= value.high + 1e-9))
        seen.add((bool(np.isinf(value.high)), bool(value.low > 0), bool(allowed[0])))
    assert len(seen) >= 3  # bounded ones, open ones, and those that hold 0
    nothing, stderr = summarise(jnp.zeros(4), jnp.zeros(4))
    assert float(nothing.scale) == 0
    assert np.isinf(stderr)


def test_sharpness_is_the_top_eigenvalue(dtype):
    params, batch = regression(dtype)
    H = jnp.block([[batch[0].T @ batch[0], batch[0].sum(0)[:, None]], [batch[0].sum(0)[None], jnp.full((1, 1), N)]])
    top = float(np.linalg.eigvalsh(np.asarray(H, np.float64) / N)[-1])
    full = sharpness(regression_loss, params, batch, steps=D + 1)
    eps = float(jnp.finfo(dtype).eps)
    assert full.converged
    np.testing.assert_allclose(full.value, top, rtol=100 * N**0.5 * eps)
    short = sharpness(regression_loss, params, batch, steps=3)
    assert float(short.value) <= top * (1 + 100 * N**0.5 * eps)
    spectrum = np.linalg.eigvalsh(np.asarray(H, np.float64) / N)
    gap = np.min(np.abs(spectrum - float(short.value)))
    assert gap <= float(short.certificates["residual"].measured) + 100 * N**0.5 * eps * top
    warm = sharpness(regression_loss, params, batch, steps=3, start=full.stats["vector"])
    np.testing.assert_allclose(warm.value, top, rtol=100 * N**0.5 * eps)


def test_sharpness_of_a_maximum_and_of_nothing():
    flat = sharpness(lambda w, b, k: jnp.sum(0 * w), jnp.ones(3), None)
    assert float(flat.value) == 0
    half = sharpness(
        lambda w, b, k: jnp.sum(w * w * b) / 2, jnp.ones(3, jnp.bfloat16), jnp.arange(1, 4, dtype="bfloat16")
    )
    np.testing.assert_allclose(half.value, 3, rtol=0.02)
    assert half.stats["vector"].dtype == jnp.float32
    concave = sharpness(lambda w, b, k: -jnp.sum(w**2 * jnp.arange(1.0, 5.0)), jnp.ones(4), None)
    np.testing.assert_allclose(concave.value, -2, rtol=1e-4)
    with pytest.raises(InputError, match="no entries"):
        sharpness(lambda w, b, k: 0.0, (), None)


def test_effective_rank(dtype):
    key = jax.random.key(0)
    U = jnp.linalg.qr(jax.random.normal(key, (8, 8), dtype))[0]
    M = U[:, :3] @ U[:3, :]
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(effective_rank(U), 8, rtol=100 * eps)
    np.testing.assert_allclose(effective_rank(jnp.outer(U[0], U[1])), 1, rtol=1e4 * eps)
    np.testing.assert_allclose(effective_rank(1e6 * M), effective_rank(M), rtol=1e3 * eps)
    np.testing.assert_allclose(effective_rank(U @ M), effective_rank(M), rtol=1e3 * eps)
    assert float(effective_rank(jnp.zeros((2, 3), dtype))) == 0
    assert float(effective_rank(jnp.eye(3, dtype=jnp.bfloat16))) == pytest.approx(3)
    assert set(effective_ranks({"a": M, "b": M[0]})) == {"['a']"}
    with pytest.raises(InputError, match="shape"):
        effective_rank(jnp.ones(3, dtype))


def test_update_ratios_by_path():
    params = {"a": jnp.ones((2, 2)), "z": jnp.zeros(2)}
    updates = {"a": jnp.full((2, 2), 1e-3), "z": jnp.ones(2)}
    norms = layer_norms(params, params, updates)
    np.testing.assert_allclose(norms.update_ratio["['a']"], 1e-3, rtol=1e-5)
    assert np.isinf(norms.update_ratio["['z']"])
    small = jax.tree.map(lambda x: x * jnp.float32(1e-25), (params, updates))
    np.testing.assert_allclose(layer_norms(small[0], *small).update_ratio["['a']"], 1e-3, rtol=1e-5)
    np.testing.assert_allclose(norms.gradient["['a']"], 2.0)
    with pytest.raises(InputError, match="another structure"):
        layer_norms(params, params, {"a": updates["a"]})


def test_batches_are_refused_by_name():
    with pytest.raises(InputError, match="expected 4 or more of a multiple of parts=4"):
        gradient_noise_scale(regression_loss, jnp.zeros(2), jnp.ones((3, 8)))
    with pytest.raises(InputError, match="leading shapes"):
        gradient_noise_scale(regression_loss, jnp.zeros(2), (jnp.ones((4, 8)), jnp.ones((4, 4))))


def test_watching_a_run_changes_no_bit_of_it_and_keeps_within_its_share():
    params, (x, y) = regression(jnp.dtype("float32"))
    feed = ArrayFeed((x, y), 32, seed=1)
    trainer = Trainer(params, regression_loss, optax.sgd(0.05))
    alone = trainer.fit(feed, steps=40).value
    signs = VitalSigns(feed, share=1.0)
    calls = []

    def watch(event):
        signs(event)
        calls.append(event.step)

    watched = trainer.fit(feed, steps=40, callback=watch).value
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(watched), strict=True):
        np.testing.assert_array_equal(a, b)
    assert signs.history[0]["step"] == calls[0]
    batches = jax.tree.map(lambda *a: jnp.stack(a), *[feed.batch(k) for k in range(8)])
    assert signs.history[0]["noise_low"] <= signs.history[0]["noise_scale"] <= signs.history[0]["noise_high"]
    direct = sharpness(regression_loss, params, jax.tree.map(lambda a: a[0], batches), steps=D + 1)
    np.testing.assert_allclose(signs.history[0]["sharpness"], direct.value, rtol=1e-4)  # quadratic: the same everywhere
    left, right = signs.plot()
    assert left.get_title() == "gradient noise scale"
    assert right.lines
    never = VitalSigns(feed, share=1e-9)
    trainer.fit(feed, steps=40, callback=lambda event: never(event) or never(event))
    assert len(never.history) <= 2  # the first, and the one that used up the share
    with pytest.raises(InputError, match="parts: found 5"):
        VitalSigns(feed, parts=5)
    with pytest.raises(InputError, match="share: found 0"):
        VitalSigns(feed, share=0)
    with pytest.raises(InputError, match="feed: found a list"):
        VitalSigns([1])
    with pytest.raises(ValueError, match="found none"):
        VitalSigns(feed).plot()
