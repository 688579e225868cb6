"""Batch samplers and the law of a mini-batch gradient: coverage, inclusion, weights, covariance by enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core import InputError
from corollary.optim import minibatch_gradient, minibatch_sampler

KEY = jax.random.key(0)


@pytest.mark.covers("minibatch-sampler")
@pytest.mark.parametrize("scheme", ["shuffle", "reshuffle"])
@pytest.mark.parametrize(("n", "B"), [(12, 4), (10, 4)])
def test_shuffles_cover_every_index_once_an_epoch(scheme, n, B):
    N = -(-n // B)
    batches = minibatch_sampler(n, B, scheme, KEY, steps=3 * N)
    epochs = np.asarray(batches.indices).reshape(3, -1)
    counts = np.asarray(batches.weights).reshape(3, -1) > 0
    for row, count in zip(epochs, counts, strict=True):
        np.testing.assert_array_equal(np.sort(row[count]), np.arange(n))
    assert (scheme == "shuffle") == all(np.array_equal(epochs[0], e) for e in epochs)
    assert np.allclose(batches.inclusion, 1 / N)
    # The mean over an epoch's batches is the mean over the examples.
    g = np.random.default_rng(0).normal(size=n)
    estimates = (np.asarray(batches.weights) * g[np.asarray(batches.indices)]).sum(1)
    np.testing.assert_allclose(estimates.reshape(3, N).mean(1), g.mean(), atol=1e-6)


@pytest.mark.covers("minibatch-sampler")
@pytest.mark.parametrize("scheme", ["iid", "importance", "reshuffle"])
def test_inclusion_and_unbiasedness_of_many_batches(scheme):
    n, B, steps = 7, 3, 30_000
    p = np.arange(1.0, n + 1) if scheme == "importance" else None
    batches = minibatch_sampler(n, B, scheme, KEY, steps=steps, probabilities=p)
    indices, weights = np.asarray(batches.indices), np.asarray(batches.weights, dtype=float)
    counts = np.stack([((indices == i) & (weights > 0)).sum(1) for i in range(n)], axis=1)
    error = 5 * counts.std(0) / np.sqrt(steps) + 1e-12
    assert np.all(np.abs(counts.mean(0) - np.asarray(batches.inclusion)) <= error)
    g = np.random.default_rng(1).normal(size=n)
    estimates = (weights * g[indices]).sum(1)
    assert abs(estimates.mean() - g.mean()) <= 5 * estimates.std() / np.sqrt(steps)


@pytest.mark.covers("minibatch-sampler")
def test_importance_weights_are_exactly_unbiased():
    """Σ_i p_i·w_i·g_i = mean(g), with B draws each weighted by 1/(B n p_i)."""
    p = np.array([0.5, 2.0, 1.0, 4.0])
    batches = minibatch_sampler(4, 2, "importance", KEY, steps=200, probabilities=p)
    p = p / p.sum()
    np.testing.assert_allclose(batches.weights, 1 / (2 * 4 * p[np.asarray(batches.indices)]), rtol=1e-5)


def all_batches(n, B, replacement):
    return list(itertools.product(range(n), repeat=B) if replacement else itertools.combinations(range(n), B))


@pytest.mark.covers("minibatch-gradient")
@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("B", [2, 6])
def test_moments_are_those_of_all_batches(replacement, B, dtype):
    n = 6 if not replacement or B < 6 else 4
    B = min(B, n)
    g = np.random.default_rng(2).normal(size=(n, 3)).astype(dtype)
    moments = minibatch_gradient(g, B, replacement=replacement)
    means = np.array([g[list(batch)].mean(0) for batch in all_batches(n, B, replacement)], dtype=float)
    tol = 30 * np.finfo(dtype).eps
    np.testing.assert_allclose(moments.mean, means.mean(0), atol=tol)
    np.testing.assert_allclose(moments.covariance, np.cov(means.T, bias=True), atol=tol)
    assert moments.covariance.dtype == dtype
    assert moments.unbiased
    if n == B and not replacement:
        assert np.abs(moments.covariance).max() == 0


@pytest.mark.covers("minibatch-gradient")
def test_variance_falls_with_slope_minus_one():
    g = np.random.default_rng(3).normal(size=(64, 4))
    B = 4 ** np.arange(4)
    variance = [float(minibatch_gradient(g, int(b)).variance) for b in B]
    assert np.isclose(np.polyfit(np.log(B), np.log(variance), 1)[0], -1, atol=1e-12)
    without = [float(minibatch_gradient(g, int(b), replacement=False).variance) for b in B]
    assert np.polyfit(np.log(B[:-1]), np.log(without[:-1]), 1)[0] < -1.05
    assert without[-1] == 0


@pytest.mark.covers("minibatch-gradient", "minibatch-sampler")
def test_biased_samplers_are_detected():
    g = np.random.default_rng(4).normal(size=(6, 2))
    pairs = np.array(all_batches(6, 2, False))
    fair = np.full(pairs.shape, 0.5)
    assert minibatch_gradient(g, sampler=(pairs, fair, None)).unbiased
    p = np.ones(len(pairs))
    p[0] = 2.0  # one batch is drawn twice as often
    assert not minibatch_gradient(g, sampler=(pairs, fair, p / p.sum())).unbiased
    singles, p = np.arange(6)[:, None], np.arange(1.0, 7) / 21
    assert not minibatch_gradient(g, sampler=(singles, np.ones((6, 1)), p)).unbiased
    assert minibatch_gradient(g, sampler=(singles, 1 / (6 * p[:, None]), p)).unbiased
    epoch = minibatch_sampler(6, 4, "reshuffle", KEY)  # a short last batch
    assert minibatch_gradient(g, sampler=(epoch.indices, epoch.weights, None)).unbiased


def test_moments_scale_and_jit():
    g = np.random.default_rng(5).normal(size=(8, 2))
    for c in (1e-12, 1e12):
        moments = minibatch_gradient(c * g, 3)
        assert moments.unbiased
        np.testing.assert_allclose(moments.covariance, c**2 * minibatch_gradient(g, 3).covariance, rtol=1e-12)
    traced = jax.jit(lambda g: minibatch_gradient(g, 3).covariance)(jnp.asarray(g, jnp.float32))
    np.testing.assert_allclose(traced, minibatch_gradient(g, 3).covariance, rtol=1e-5)


BAD = [
    (lambda: minibatch_sampler(0, 1, "iid", KEY), "n: found 0"),
    (lambda: minibatch_sampler(4, 5, "shuffle", KEY), "batch_size: found 5, expected at most n = 4"),
    (lambda: minibatch_sampler(4, 2, "cyclic", KEY), "scheme: found 'cyclic'"),
    (lambda: minibatch_sampler(4, 2, "importance", KEY), "probabilities: found None"),
    (lambda: minibatch_sampler(4, 2, "iid", KEY, probabilities=np.ones(4)), "probabilities: found an array"),
    (lambda: minibatch_sampler(4, 2, "importance", KEY, probabilities=np.zeros(4)), "probabilities: found an entry"),
    (lambda: minibatch_sampler(4, 2, "importance", KEY, probabilities=np.ones(3)), "probabilities: found shape"),
    (lambda: minibatch_gradient(np.ones((3, 2))), "batch_size: found both or neither"),
    (lambda: minibatch_gradient(np.ones((3, 2)), 4, replacement=False), "batch_size: found 4"),
    (lambda: minibatch_gradient(np.ones((3, 2)) * np.nan, 1), "gradients: found NaN"),
    (lambda: minibatch_gradient(np.ones((3, 2)), sampler=([[5]], [[1.0]], None)), "index out of range"),
    (lambda: minibatch_gradient(np.ones((3, 2)), sampler=([[0]], [[1.0]], [0.5])), "add up to 1"),
    (lambda: minibatch_gradient(np.ones((3, 2)), sampler=([[0, 1]], [[1.0]], None)), "found shapes"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
