"""Markov, Chebyshev, Cantelli and Hoeffding: never below the true tail, attained where they can be, and inverted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

from corollary.core import InputError, cantelli, chebyshev, hoeffding, hoeffding_radius, hoeffding_samples, markov
from corollary.core.precision import eps

LAWS = [
    st.norm(),
    st.expon(),
    st.gamma(0.3, scale=5),
    st.uniform(-1, 2),
    st.t(5),
    st.poisson(2.5),
    st.binom(10, 0.1),
    st.lognorm(1),
]
SIZES = np.array([0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0])


@pytest.mark.covers("chebyshev-bound")
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.dist.name)
def test_never_below_the_true_tail(law):
    mean, variance = law.stats("mv")
    t = SIZES * np.sqrt(variance)
    below_edge = np.nextafter(mean + t, -np.inf)  # P(X >= x) = P(X > x−) also for laws with atoms
    upper, lower = law.sf(below_edge), law.cdf(mean - t)
    slack = 1 + 1e-12
    assert (upper + lower <= slack * chebyshev(variance, t)).all()
    assert (upper <= slack * cantelli(variance, t)).all()
    assert (lower <= slack * cantelli(variance, t)).all()
    if law.support()[0] >= 0:
        assert (law.sf(np.nextafter(t, -np.inf)) <= slack * markov(mean, t)).all()


@pytest.mark.covers("chebyshev-bound")
@pytest.mark.parametrize("k", [1.0, 1.5, 3.0, 100.0])
def test_attained(k, dtype):
    """Chebyshev by atoms at −k, 0, k standard deviations, Cantelli by atoms at k and −1/k, Markov by 0 and x."""
    rtol = 8 * eps(dtype)
    k = jnp.asarray(k, dtype)
    p = 1 / (2 * k**2)
    variance = 2 * p * k**2
    np.testing.assert_allclose(chebyshev(variance, k), 2 * p, rtol=rtol)
    p = 1 / (1 + k**2)
    variance = p * k**2 + (1 - p) / k**2
    np.testing.assert_allclose(cantelli(variance, k), p, rtol=rtol)
    np.testing.assert_allclose(markov(0.25 * k, k), 0.25, rtol=rtol)


def test_edges_and_invariance(dtype):
    one = jnp.ones((), dtype)
    assert [float(f(0 * one, 0 * one)) for f in (markov, chebyshev, cantelli)] == [1.0] * 3  # a constant at its mean
    assert [float(f(0 * one, one)) for f in (markov, chebyshev, cantelli)] == [0.0] * 3
    assert float(cantelli(one, -one)) == 1.0
    assert float(markov(one, -one)) == 1.0
    scale = jnp.asarray(1e-15 if dtype == "float32" else 1e-150, dtype)
    for f in (chebyshev, cantelli):
        np.testing.assert_allclose(f(scale**2, 2 * scale), f(one, 2 * one), rtol=16 * eps(dtype))
    np.testing.assert_allclose(jax.jit(chebyshev)(one, 2 * one), 0.25)
    np.testing.assert_allclose(jax.vmap(cantelli, (None, 0))(one, jnp.asarray([1.0, 2.0], dtype)), [0.5, 0.2])
    slope = jax.grad(chebyshev, 1)(one, 2 * one)
    np.testing.assert_allclose(slope, -0.25, rtol=8 * eps(dtype))
    assert cantelli(one, 2 * one).dtype == dtype


@pytest.mark.covers("hoeffding-bound")
@pytest.mark.parametrize("case", ["bounded", "gaussian", "heterogeneous"])
def test_simulated_tail_stays_below_hoeffding(case):
    n, runs = 50, 40_000
    rng = np.random.default_rng(0)
    match case:
        case "bounded":
            terms, proxy = rng.beta(0.3, 0.3, (runs, n)) - 0.5, 0.25
        case "gaussian":
            terms, proxy = 2 * rng.standard_normal((runs, n)), 4.0
        case "heterogeneous":
            sigma = np.linspace(0.1, 3, n)
            terms, proxy = sigma * rng.choice([-1.0, 1.0], (runs, n)), np.mean(sigma**2)
    means = np.abs(terms.mean(axis=1))
    for t in np.sqrt(proxy / n) * np.array([0.5, 1, 2, 3]):
        tail = np.mean(means >= t)
        bound = hoeffding(n, proxy, t)
        assert tail <= bound + 4 * np.sqrt(bound * (1 - min(bound, 1)) / runs + 1 / runs**2)


@pytest.mark.covers("hoeffding-bound")
def test_exact_binomial_tail_and_inverses(dtype):
    for n in (1, 10, 1000):
        t = np.linspace(0.01, 0.49, 9)
        exact = st.binom.sf(np.ceil(n * (0.5 + t) - 1e-9) - 1, n, 0.5) * 2
        assert (exact <= hoeffding(n, 0.25, t) * (1 + 1e-12)).all()
    n, proxy, delta = jnp.asarray(300.0, dtype), jnp.asarray(2.0, dtype), jnp.asarray(1e-3, dtype)
    radius = hoeffding_radius(n, proxy, delta)
    # exp amplifies the rounding of its argument, log(2/delta) ≈ 7.6
    np.testing.assert_allclose(hoeffding(n, proxy, radius), delta, rtol=64 * eps(dtype))
    need = hoeffding_samples(proxy, radius * (1 - 1e-3), delta)
    assert (
        float(hoeffding(need, proxy, radius * (1 - 1e-3)))
        <= float(delta)
        <= float(hoeffding(need - 1, proxy, radius * (1 - 1e-3)))
    )
    assert float(hoeffding_samples(0 * proxy, radius, delta)) == 1.0
    assert float(hoeffding_radius(n, proxy, jnp.ones((), dtype))) > 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: markov(-1.0, 1.0), "mean: found -1, expected no negative"),
        (lambda: chebyshev(1.0, -0.5), "deviation: found -0.5"),
        (lambda: chebyshev(np.nan, 1.0), "variance: found NaN"),
        (lambda: cantelli(1.0, np.inf), "deviation: found NaN or infinity"),
        (lambda: cantelli("1", 1.0), "variance: found dtype"),
        (lambda: chebyshev(np.ones(2), np.ones(3)), "expected ones that broadcast"),
        (lambda: hoeffding(0, 1.0, 1.0), "n: found 0, expected at least 1"),
        (lambda: hoeffding_radius(5, 1.0, 0.0), "delta: found 0, expected probabilities"),
        (lambda: hoeffding_samples(1.0, 0.0, 0.1), "deviation: found 0, expected positive"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(InputError, match=words):
        call()
