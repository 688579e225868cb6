"""Streaming moments: merged as if seen at once, safe from cancellation, with intervals that cover."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

from corollary.core import InputError, RunningMoments, expectation, expectation_on_grid, hoeffding_radius
from corollary.core.precision import eps


def _data(dtype, n=500, d=3, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + 1).astype(dtype)


def _naive(x):
    """The definitions, in two plain passes."""
    x = x.astype(float)
    y, n = x - x.mean(0), len(x)
    second = y.T @ y / n
    return x.mean(0), second * n / (n - 1), np.sqrt(((y**2).T @ y**2 / n - second**2) / n)


@pytest.mark.covers("monte-carlo-estimate")
@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_streaming_is_the_definition(chunk, dtype):
    x = _data(dtype)
    mean, covariance, stderr = _naive(x)
    found = expectation(x, chunk=chunk).value
    assert found.mean.dtype == dtype
    assert isinstance(found.mean, np.ndarray)
    rtol = 1000 * eps(dtype)
    np.testing.assert_allclose(found.mean, mean, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(found.covariance, covariance, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(found.covariance_stderr, stderr, rtol=10 * rtol)
    np.testing.assert_allclose(found.mean_stderr, np.sqrt(np.diag(covariance) / len(x)), rtol=rtol)


@pytest.mark.covers("monte-carlo-estimate")
def test_cancellation_safe(dtype):
    """Far from zero E[X²] − E[X]² loses every digit; the streamed sums lose only those that the data lost."""
    x = np.random.default_rng(0).integers(-8, 9, 4096).astype(dtype) * 0.25
    far = x + np.asarray(2.0**18 if dtype == "float32" else 2.0**44, dtype)  # exact: the data are multiples of 1/4
    variance = np.var(x.astype(float), ddof=1)
    found = expectation(far, chunk=500).value
    np.testing.assert_allclose(found.variance[0], variance, rtol=200 * eps(dtype))
    textbook = np.mean(far**2) - np.mean(far) ** 2
    assert not 0.5 * variance < textbook < 2 * variance
    # Streams that started elsewhere merge as well.
    whole = jnp.asarray(far)[:, None]
    parts = [RunningMoments.start(part[0]).update(part) for part in (whole[:1000], whole[1000:1500], whole[1500:])]
    merged = parts[0].merge(parts[1].merge(parts[2]))
    np.testing.assert_allclose(merged.variance[0], variance, rtol=200 * eps(dtype))
    np.testing.assert_allclose(merged.m22, found.m22, rtol=2000 * eps(dtype))
    assert float(merged.count) == 4096


@pytest.mark.covers("monte-carlo-estimate")
def test_linear_maps_of_the_variance(x64):
    x = jnp.asarray(_data("float64"))
    A = jnp.asarray(np.random.default_rng(1).standard_normal((2, 3)))
    direct = expectation(x, lambda row: A @ row).value
    plain = expectation(x).value
    np.testing.assert_allclose(direct.covariance, A @ plain.covariance @ A.T, rtol=1e-12)
    np.testing.assert_allclose(direct.mean, A @ plain.mean, rtol=1e-12)
    # Variance of a linear combination of independent variables, against its closed form within its own error.
    key = jax.random.key(0)
    z = jax.random.normal(key, (20_000, 3)) * jnp.asarray([1.0, 2.0, 0.5])
    found = expectation(z, lambda row: row @ jnp.asarray([1.0, -2.0, 4.0])).value
    assert abs(float(found.variance[0]) - (1 + 16 + 4)) <= 4 * float(found.covariance_stderr[0, 0])


@pytest.mark.covers("monte-carlo-estimate")
def test_intervals_cover_at_their_rate(x64):
    runs, n, confidence = 4000, 400, 0.9

    @jax.jit
    @jax.vmap
    def covers(key):
        x = jax.random.exponential(key, (n,))
        value = expectation(x, confidence=confidence).value
        low, high = value.interval(confidence)
        inside_variance = jnp.abs(value.variance - 1) <= 3 * value.covariance_stderr[0]
        return (low[0] <= 1) & (high[0] >= 1), inside_variance[0]

    mean, variance = covers(jax.random.split(jax.random.key(1), runs))
    # Four binomial standard errors, plus the skewness term of the normal approximation, which is O(1/n).
    assert abs(float(jnp.mean(mean)) - confidence) <= 4 * np.sqrt(0.09 / runs) + 3 / n
    assert float(jnp.mean(variance)) > 0.95


@pytest.mark.covers("monte-carlo-estimate", "hoeffding-bound")
def test_hoeffding_certificate():
    x = np.random.default_rng(0).uniform(0, 1, 2000)
    found = expectation(x, bounds=(0.0, 1.0), tol=0.05, confidence=0.95)
    certificate = found.certificates["hoeffding"]
    np.testing.assert_allclose(certificate.measured, hoeffding_radius(2000, 0.25, 0.05), rtol=1e-12)
    assert bool(certificate.holds)
    assert abs(found.value.mean[0] - 0.5) <= certificate.measured
    assert not bool(expectation(x, bounds=(0.0, 1.0), tol=1e-3).holds)
    assert not bool(expectation(2 * x, bounds=(0.0, 1.0), tol=0.05).holds)  # a sample left the bounds
    assert "hoeffding" not in expectation(x, bounds=(0.0, 1.0)).certificates


@pytest.mark.covers("monte-carlo-estimate")
def test_density_on_a_grid_and_atoms(dtype):
    grid = np.linspace(-9, 9, 2001).astype(dtype)
    found = expectation_on_grid(
        jnp.asarray(grid), lambda x: jnp.exp(-x * x / 2) / np.sqrt(2 * np.pi), lambda x: jnp.stack([x, x * x])
    )
    assert np.all(found.holds)
    atol = len(grid) * eps(dtype)  # γ_n Σ|terms|: a plain sum of so many (Higham 2002, §4.2)
    np.testing.assert_allclose(found.value.mean, [0, 1], atol=atol)
    np.testing.assert_allclose(found.value.m11, [[1, 0], [0, 2]], atol=10 * atol)
    uneven = np.concatenate([np.linspace(0, 1, 400), np.linspace(1, 60, 4000)[1:]]).astype(dtype)
    coarse = expectation_on_grid(uneven, st.expon.pdf(uneven).astype(dtype), tol=1e-3)
    error = abs(coarse.value.mean[0] - 1)
    assert error <= 2 * coarse.certificates["mean"].stderr[0] + atol
    atoms = expectation_on_grid(
        np.arange(60).astype(dtype), st.poisson(3.0).pmf(np.arange(60)).astype(dtype), discrete=True
    )
    np.testing.assert_allclose([atoms.value.mean[0], atoms.value.m11[0, 0]], 3.0, rtol=200 * eps(dtype))
    # The same probabilities taken for a density of a continuous law on a coarse grid: the mass gives it away.
    assert not bool(expectation_on_grid(np.array([0.0, 1.0]), np.array([0.3, 0.7])).holds)


def test_transformations_and_single_samples(dtype):
    x = jnp.asarray(_data(dtype))
    eager, compiled = expectation(x), jax.jit(expectation)(x)
    np.testing.assert_allclose(eager.value.m11, compiled.value.m11, rtol=100 * eps(dtype))
    batch = jax.vmap(lambda x: expectation(x).value.mean)(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(batch[1], 2 * eager.value.mean, rtol=100 * eps(dtype))
    slope = jax.grad(lambda x: expectation(x[:, 0], chunk=64).value.variance[0])(x)[:, 0]
    expected = 2 * (x[:, 0] - jnp.mean(x[:, 0])) / (x.shape[0] - 1)
    np.testing.assert_allclose(slope, expected, atol=100 * eps(dtype))
    single = expectation(x[:1])
    assert single.value.covariance.tolist() == [[0.0] * 3] * 3
    assert bool(jnp.all(jnp.isfinite(single.value.covariance_stderr)))
    np.testing.assert_array_equal(single.value.mean, x[0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: expectation(np.array([1.0, np.nan])), "samples: found NaN"),
        (lambda: expectation(np.zeros((0, 2))), "samples: found an empty"),
        (lambda: expectation([1.0, 2.0], lambda x: np.zeros((2, 2))), "function: returned"),
        (lambda: expectation([1.0, 2.0], chunk=0), "chunk: found 0"),
        (lambda: expectation([1.0, 2.0], confidence=1), "confidence: found 1"),
        (lambda: expectation([1.0, 2.0], tol=0.1), "tol: found one without bounds"),
        (lambda: expectation([1.0, 2.0], bounds=(1.0, 0.0)), "bounds: found"),
        (lambda: expectation_on_grid([0.0, 1.0, 0.5], [1.0, 1.0, 1.0]), "grid: found points that do not increase"),
        (lambda: expectation_on_grid([0.0, 1.0], [1.0, -1.0]), "density: found a negative"),
        (lambda: expectation_on_grid([0.0, 1.0], [1.0]), "density: found 1 rows"),
        (lambda: expectation_on_grid([0.0], [1.0]), "grid: found 1 point"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(InputError, match=words):
        call()
