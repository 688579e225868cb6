"""The validator of approximations: right verdicts at its stated confidence, and quantiles that are the errors' own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

from corollary.core import InputError, validate_approximation


def _instance(key):
    return jax.random.uniform(key, (4,), minval=-1.0)


def _exact(x):
    return {"sine": jnp.sin(x), "sum": jnp.sum(x)}


def _perturbed(size):
    def approximate(x):
        good = _exact(x)
        return {"sine": good["sine"] * (1 + size), "sum": good["sum"] * (1 + size)}

    return approximate


@pytest.mark.covers("approximation-validator")
def test_verdicts():
    exactly = validate_approximation(_exact, _exact, _instance, tol=0.0)
    assert bool(exactly.value.passed)
    assert bool(exactly.holds)
    assert exactly.value.errors.max() == 0
    assert bool(validate_approximation(_exact, _perturbed(9e-4), _instance, tol=1e-3).value.passed)
    assert not bool(validate_approximation(_exact, _perturbed(1.1e-3), _instance, tol=1e-3).value.passed)

    def bug(x):  # wrong on one instance in twenty only
        good = _exact(x)
        return {"sine": jnp.where(x[0] > 0.9, -good["sine"], good["sine"]), "sum": good["sum"]}

    planted = validate_approximation(_exact, bug, _instance, tol=1e-3)
    assert not bool(planted.value.passed)
    assert planted.value.quantiles[0] == 0
    assert planted.value.quantiles[-1] > 0.1
    nan = validate_approximation(_exact, lambda x: jax.tree.map(lambda v: v * jnp.nan, _exact(x)), _instance, tol=1e9)
    assert not bool(nan.value.passed)
    assert np.isinf(nan.value.errors).all()


@pytest.mark.covers("approximation-validator")
def test_quantiles_match_a_direct_simulation():
    """The error is |z| with z normal: its quantiles are known, and the limits cover at their confidence."""
    found = validate_approximation(
        lambda z: 1.0 + 0 * z,
        lambda z: 1.0 + z,
        jax.random.normal,
        tol=4.0,
        n_instances=4000,
        levels=[0.5, 0.9, 0.99, 1.0],
    )
    value = found.value
    levels = value.levels[:3]
    truth = st.halfnorm.ppf(levels)
    stderr = np.sqrt(levels * (1 - levels) / 4000) / st.halfnorm.pdf(truth)
    assert (np.abs(value.quantiles[:3] - truth) <= 4 * stderr).all()
    assert (value.upper[:3] >= value.quantiles[:3]).all()
    assert (value.upper[:3] <= truth + 6 * stderr).all()
    assert np.isinf(value.upper[3])
    direct = np.abs(np.random.default_rng(0).standard_normal(400_000))
    np.testing.assert_allclose(value.quantiles[:3], np.quantile(direct, levels), atol=float(4 * stderr.max()))
    np.testing.assert_array_equal(value.quantiles[:3], np.quantile(value.errors, levels, method="inverted_cdf"))


@pytest.mark.covers("approximation-validator")
def test_confidence_is_kept():
    """At a failure rate just above what is allowed, 'passed' is wrong: it may come up once in a hundred."""
    rng = np.random.default_rng(0)  # a black box that cannot be traced
    found = validate_approximation(
        lambda u: 1.0,
        lambda u: 2.0 if u < 0.02 else 1.0,
        lambda key: rng.random(),
        tol=0.5,
        n_instances=460,
        traceable=False,
    )
    interval = st.binomtest(found.stats["failures"], 460).proportion_ci(0.98, "exact")
    np.testing.assert_allclose(found.value.failure_rate, interval.high, rtol=1e-9)
    assert not bool(found.value.passed)
    # The rule itself, at its exact level: P(Bin(n, p) <= k) <= 1 − confidence for every k that passes.
    for n in (459, 1000, 5000):
        k = np.arange(200)
        passing = k[st.beta.ppf(0.99, k + 1, n - k) <= 0.01]
        assert passing.size
        assert (st.binom.cdf(passing, n, 0.01) <= 0.01 * (1 + 1e-9)).all()


def test_absolute_errors_zero_references_and_keys():
    double = validate_approximation(lambda x: 0.0 * x, lambda x: 0.0 * x + 1e-3, _instance, tol=1e-2, error="absolute")
    np.testing.assert_allclose(double.value.errors, 2e-3)
    assert bool(double.value.passed)
    against_zero = validate_approximation(lambda x: 0.0 * x, lambda x: 0.0 * x + 1e-3, _instance, tol=1e9)
    assert np.isinf(against_zero.value.errors).all()
    huge = validate_approximation(lambda x: 1e200 * x, lambda x: 1.01e200 * x, _instance, tol=0.011)
    np.testing.assert_allclose(huge.value.errors, 0.01, rtol=1e-10)
    same = [validate_approximation(_exact, _perturbed(0.1), _instance, tol=1, key=jax.random.key(k)) for k in (3, 3, 4)]
    np.testing.assert_array_equal(same[0].value.errors, same[1].value.errors)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tol": -1.0}, "tol: found -1.0"),
        ({"n_instances": 100}, "n_instances: found 100, expected an integer >= 459"),
        ({"coverage": 1}, "expected numbers below 1"),
        ({"confidence": 0.0}, "confidence: found 0.0"),
        ({"error": "ratio"}, "error: found 'ratio'"),
        ({"levels": [1.5]}, "levels: found"),
        ({"approximate": jnp.sum}, "approximate: returned shape"),
        ({"approximate": lambda x: (x, x)}, "approximate: returned another structure"),
        ({"exact": lambda x: jnp.log(-jnp.abs(x))}, "exact: found NaN or infinity on 1000 of 1000"),
    ],
)
def test_refusals(settings, words):
    with pytest.raises(InputError, match=words):
        validate_approximation(
            **{"exact": jnp.sin, "approximate": jnp.sin, "generate": _instance, "tol": 0.1, **settings}
        )
