"""Feeds: every example once an epoch, batch k a pure function of (seed, k), in memory as memory-mapped."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from corollary.core.errors import InputError
from corollary.train import ArrayFeed, GeneratedFeed, StreamFeed, Trainer

X = np.arange(46, dtype=np.float32).reshape(23, 2)


def mean_loss(w, batch, key):
    del key
    return jnp.mean((batch @ w - 1) ** 2)


SGD = optax.sgd(1e-4)


def drawn(seed, step):
    """The key of a feed's batch."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0x66656564), step)


@pytest.mark.parametrize("remainder", ["drop", "weights"])
def test_an_epoch_holds_every_example_once(remainder):
    feed = ArrayFeed(X, 5, seed=3, remainder=remainder)
    per = feed.steps_per_epoch
    assert per == (4 if remainder == "drop" else 5)
    for epoch in range(3):
        seen = []
        for k in range(epoch * per, (epoch + 1) * per):
            rows = feed.indices(k)
            if remainder == "weights":
                batch, weights = feed.batch(k)
                assert np.array_equal(batch, X[rows])
                assert weights.shape == (5,)
                rows = rows[np.asarray(weights) == 1]
            seen += rows.tolist()
        assert len(seen) == len(set(seen)) == (20 if remainder == "drop" else 23)
    orders = [tuple(feed.indices(k)) for k in (0, per, 2 * per)]
    assert len(set(orders)) == 3


def test_batch_k_is_a_pure_function_of_seed_and_k():
    """Any order of asking, another object, another process: the words are Philox's, pinned here."""
    ask = ArrayFeed(X, 5, seed=3)
    backwards = [ask.indices(k) for k in reversed(range(30))][::-1]
    again = ArrayFeed(X, 5, seed=3)
    assert all(np.array_equal(a, again.indices(k)) for k, a in enumerate(backwards))
    assert not np.array_equal(ArrayFeed(X, 5, seed=4).indices(0), again.indices(0))
    words = np.random.Philox(key=np.array([3, 2], np.uint64)).random_raw(23)
    assert np.array_equal(again.indices(8), np.argsort(words)[:5])
    assert ArrayFeed(X, 5, shuffle=False).indices(5).tolist() == [5, 6, 7, 8, 9]


def test_the_orders_are_uniform():
    """Each example is as likely first: χ² over many epochs, at five standard deviations."""
    feed = ArrayFeed(np.zeros(6), 6, seed=0)
    counts = np.bincount([feed.indices(k)[0] for k in range(1200)], minlength=6)
    chi = ((counts - 200) ** 2 / 200).sum()
    assert abs(chi - 5) < 5 * np.sqrt(10)


def test_memory_mapped_and_streamed_data_train_to_the_same_bits(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, X)
    mapped = ArrayFeed(np.load(path, mmap_mode="r"), 5, seed=3)
    inside = ArrayFeed(X, 5, seed=3)
    assert mapped.resident() is None
    streamed = StreamFeed(lambda k: X[inside.indices(k)], steps_per_epoch=4)
    trainer = Trainer(jnp.ones(2), mean_loss, SGD)
    runs = [trainer.fit(feed, steps=70).value for feed in (inside, mapped, streamed)]
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0], runs[2])


def test_a_transform_sees_its_own_key_and_weights_reach_the_loss():
    def jitter(batch, key):
        return batch + jax.random.normal(key, batch.shape)

    feed = ArrayFeed(X, 5, seed=3, transform=jitter)
    key = drawn(3, 7)
    expected = X[feed.indices(7)] + jax.random.normal(key, (5, 2))
    np.testing.assert_allclose(feed.batch(7), expected, rtol=1e-6)

    def weighted(w, batch, key):
        del key
        x, weights = batch
        return jnp.sum(weights * (x @ w - 1) ** 2) / jnp.sum(weights)

    padded = ArrayFeed(X, 16, shuffle=False, remainder="weights")
    w = jnp.ones(2)
    solution = Trainer(w, weighted, SGD).fit(padded, steps=2)
    assert solution.history["loss"][0] == pytest.approx(float(mean_loss(w, jnp.asarray(X[:16]), None)), rel=1e-5)
    one = Trainer(w, mean_loss, SGD).fit(ArrayFeed(X[:16], 16, shuffle=False), steps=1).value
    assert solution.history["loss"][1] == pytest.approx(float(mean_loss(one, jnp.asarray(X[16:]), None)), rel=1e-5)


def test_generated_batches_are_drawn_from_the_steps_key():
    feed = GeneratedFeed(lambda key: jax.random.normal(key, (3,)), seed=2)
    expected = jax.random.normal(drawn(2, 9), (3,))
    assert np.array_equal(feed.batch(9), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ArrayFeed({}, 2), "arrays: found none"),
        (lambda: ArrayFeed((X, X[:3]), 2), r"arrays: found leading axes \[3, 23\]"),
        (lambda: ArrayFeed(X, 24), "arrays: found 23 examples"),
        (lambda: ArrayFeed(X, 0), "batch_size: found 0"),
        (lambda: ArrayFeed(X, 2, seed=-1), "seed: found -1"),
        (lambda: ArrayFeed(X, 2, remainder="pad"), "remainder: found 'pad'"),
        (lambda: ArrayFeed(X, 2).batch(-1), "k: found -1"),
        (lambda: GeneratedFeed(jax.random.normal, steps_per_epoch=0), "steps_per_epoch: found 0"),
    ],
)
def test_bad_feeds_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_noise_in_the_data_is_not_that_of_the_loss():
    """With equal seeds: the keys of step k must differ."""

    def loss(w, batch, key):
        return jnp.sum(w), {"apart": jnp.abs(batch - jax.random.normal(key, (2,))).min()}

    feed = GeneratedFeed(lambda key: jax.random.normal(key, (2,)))
    assert Trainer(jnp.ones(2), loss, SGD).fit(feed, steps=3).history["apart"].min() > 1e-3


def test_a_stream_read_ahead_keeps_float64(x64):
    """The feeding thread must know of the caller's switch: more steps than one call carries."""
    feed = StreamFeed(lambda k: np.full((2, 2), 1 + 1e-12 * k))
    seen = Trainer(jnp.ones(2), mean_loss, optax.sgd(0.0)).fit(feed, steps=40).history["loss"]
    np.testing.assert_allclose(seen, (1 + 2e-12 * np.arange(40)) ** 2, rtol=1e-14)


def test_few_rows_more_or_less_share_a_program():
    """Rows in memory are filled up, and what fills them up is never seen."""
    feed = ArrayFeed(X, 5, seed=3, remainder="weights")
    assert feed.resident().shape == (32, 2)
    batch, weights = feed.batch(feed.steps_per_epoch - 1)
    assert np.array_equal(batch, X[feed.indices(feed.steps_per_epoch - 1)])
    assert weights.tolist() == [1, 1, 1, 0, 0]
