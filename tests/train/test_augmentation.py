"""Augmentation and the frequency curriculum: symmetries, planted covariance, spectral bias."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from corollary import train
from corollary.core.errors import InputError


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(0), (5, 8, 8, 3))


@pytest.mark.covers("data-augmentation")
def test_flips_crops_and_keys(images):
    x, key = images[0], jax.random.key(1)
    np.testing.assert_array_equal(train.flip(train.flip(x)), x)
    steps = (train.random_flip, functools.partial(train.random_crop, padding=2), train.colour_jitter)
    run = jax.jit(lambda images, key: train.augment(images, key, steps))
    one, again, other = run(images, key), run(images, key), run(images, jax.random.key(2))
    assert one.shape == images.shape
    assert one.dtype == images.dtype
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    # Every crop is a window of the padded image.
    padded = np.pad(np.asarray(x), ((2, 2), (2, 2), (0, 0)))
    windows = [padded[i : i + 8, j : j + 8] for i in range(5) for j in range(5)]
    crops = jax.vmap(lambda k: train.random_crop(x, k, padding=2))(jax.random.split(key, 200))
    found = [next(n for n, w in enumerate(windows) if np.array_equal(w, crop)) for crop in np.asarray(crops)]
    assert len(set(found)) == 25  # 200 draws miss one of 25 with probability below 1%
    flips = jax.vmap(lambda k: train.random_flip(x, k))(jax.random.split(key, 400))
    share = np.mean([np.array_equal(f, train.flip(x)) for f in np.asarray(flips)])
    assert abs(share - 0.5) < 4 * 0.5 / 20


@pytest.mark.covers("data-augmentation")
def test_colour_jitter_along_principal_axes_has_the_given_covariance(images):
    C = train.colour_covariance(images)
    np.testing.assert_allclose(C, np.cov(np.asarray(images).reshape(-1, 3).T, bias=True), rtol=1e-4, atol=1e-6)
    C = jnp.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.5]])
    draws = jax.vmap(lambda k: train.pca_jitter(images[0], k, C, scale=0.1) - images[0])(
        jax.random.split(jax.random.key(3), 4000)
    )
    draws = np.asarray(draws, dtype=float)
    assert np.ptp(draws, axis=(1, 2)).max() < 1e-5  # one colour for all pixels
    found = np.cov(draws[:, 0, 0].T)
    error = 0.01 * np.sqrt((np.outer(np.diag(C), np.diag(C)) + np.asarray(C) ** 2) / 4000)
    assert np.all(np.abs(found - 0.01 * np.asarray(C)) < 5 * error)


@pytest.mark.covers("frequency-curriculum")
def test_low_pass_keeps_what_is_below_the_band(dtype):
    t = jnp.arange(32, dtype=dtype) * jnp.asarray(2 * np.pi / 32, dtype)
    low, high = jnp.sin(2 * t), jnp.cos(11 * t)
    eps = float(jnp.finfo(dtype).eps)
    # Frequencies in units of the highest, 16: 2/16 and 11/16.
    np.testing.assert_allclose(train.low_pass(low + high, 0.5), low, atol=60 * eps)
    np.testing.assert_allclose(train.low_pass(low + high, 11 / 16), low + high, atol=60 * eps)
    np.testing.assert_array_equal(train.low_pass(low + high, 1.0), low + high)
    # The roll-off is a number like the others: 1 − (11/16 − 0.5)/0.5 of the fast wave is left, and no new program.
    from corollary.train._frequency_curriculum import _low_pass

    rolled = train.low_pass(low + high, 0.5, soft=0.5)
    np.testing.assert_allclose(rolled, low + 0.625 * high, atol=60 * eps)
    programs = _low_pass._cache_size()
    train.low_pass(low + high, 0.5, soft=0.25)
    assert _low_pass._cache_size() == programs
    both = train.low_pass(jnp.outer(low, low + high), 0.5, axes=(0, 1))
    np.testing.assert_allclose(both, jnp.outer(low, low), atol=60 * eps)


@pytest.mark.covers("frequency-curriculum")
def test_all_pass_schedule_is_plain_training_and_fourier_features_learn_high_frequencies_faster():
    x = jnp.linspace(0, 1, 64, endpoint=False)[:, None]
    y = jnp.sin(2 * np.pi * x[:, 0]) + jnp.sin(2 * np.pi * 12 * x[:, 0])
    features = train.FourierFeatures(1, 16, bandwidth=8.0, key=jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 2)
    plain_inputs = jnp.concatenate([x, jnp.zeros((64, 31))], axis=1)
    inputs = jnp.stack([plain_inputs, plain_inputs, jax.vmap(features)(x)])
    params = {
        "a": jax.random.normal(keys[0], (32, 32)) / 4,
        "c": jnp.linspace(-1, 1, 32),
        "b": jax.random.normal(keys[1], (32,)) / 4,
    }
    optimizer = optax.adam(1e-2)
    opening = train.frequency_curriculum(optax.linear_schedule(0.1, 1.0, 200))
    always = train.frequency_curriculum(lambda step: 1.0)
    targets = {0: lambda s: y, 1: lambda s: always(y, s), 2: lambda s: y, 3: lambda s: opening(y, s)}

    def train_on(z, which):
        def loss(p, s):
            out = jnp.tanh(z @ p["a"] + p["c"]) @ p["b"]
            target = jax.lax.switch(which, list(targets.values()), s)
            return jnp.mean((out - target) ** 2)

        def step(carry, s):
            p, state = carry
            updates, state = optimizer.update(jax.grad(loss)(p, s), state, p)
            return (optax.apply_updates(p, updates), state), None

        (p, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(300))
        error = jnp.tanh(z @ p["a"] + p["c"]) @ p["b"] - y
        return p, jnp.abs(jnp.fft.rfft(error))[12] / 32

    with jax.numpy_dtype_promotion("standard"):  # as Optax wants it
        p, high = jax.jit(jax.vmap(train_on))(inputs, jnp.arange(3))
    for leaf in jax.tree.leaves(p):
        np.testing.assert_array_equal(leaf[0], leaf[1])
    assert high[2] < 0.2 < 0.8 < high[0]
    assert opening(y, jnp.asarray(0)) @ y < y @ y * 0.6  # at first only the slow half is asked for


def test_refusals(images):
    for call, words in (
        (lambda: train.augment(images[0], jax.random.key(0)), "images: found shape"),
        (lambda: train.random_crop(images[0], jax.random.key(0), padding=-1), "padding: found -1"),
        (lambda: train.pca_jitter(images[0], jax.random.key(0), jnp.eye(2)), "covariance: found shape"),
        (lambda: train.low_pass(images, 2.0), "bandwidth: found 2.0"),
        (lambda: train.low_pass(images, 0.5, axes=(7,)), "axes: found"),
        (lambda: train.low_pass(images.astype(jnp.complex64), 0.5), "targets: found dtype complex64"),
        (lambda: train.FourierFeatures(0, 2, key=jax.random.key(0)), "n_inputs: found 0"),
    ):
        with pytest.raises(InputError, match=words):
            call()
