"""Moment generating functions, moments, Chernoff's bound and the sub-Gaussian parameter against closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats as st

from corollary.core import InputError, chernoff, laws, log_mgf, mgf, moments, subgaussian_parameter
from corollary.core.precision import eps

PAIRS = [
    (laws.Normal(0.5, 1.5), st.norm(0.5, 1.5)),
    (laws.Uniform(-1.0, 2.5), st.uniform(-1, 3.5)),
    (laws.Gamma(2.5, 0.4), st.gamma(2.5, scale=0.4)),
    (laws.Exponential(0.7), st.expon(scale=0.7)),
    (laws.Laplace(0.3, 0.4), st.laplace(0.3, 0.4)),
    (laws.Bernoulli(0.2), st.bernoulli(0.2)),
    (laws.Poisson(1.7), st.poisson(1.7)),
]
IDS = [type(law).__name__ for law, _ in PAIRS]


@pytest.mark.covers("moment-generating-function")
@pytest.mark.parametrize(("law", "peer"), PAIRS, ids=IDS)
def test_closed_form_is_the_integral(law, peer):
    t = np.array([-1.2, -0.3, 0.0, 1e-6, 0.4, 1.1])
    if hasattr(peer, "pdf") and not isinstance(peer.dist, st.rv_discrete):
        low, high = max(peer.support()[0], -60), min(peer.support()[1], 60)
        integral = [
            scipy.integrate.quad(
                lambda x, s=s: np.exp(s * x) * peer.pdf(x), low, high, points=[peer.mean()], limit=200, epsabs=1e-12
            )[0]
            for s in t
        ]
    else:
        k = np.arange(200)
        integral = [np.sum(np.exp(s * k) * peer.pmf(k)) for s in t]
    np.testing.assert_allclose(mgf(law, t), integral, rtol=1e-7)


@pytest.mark.covers("moment-generating-function")
@pytest.mark.parametrize(("law", "peer"), PAIRS, ids=IDS)
def test_derivatives_at_zero_are_the_moments(law, peer):
    found = moments(law, 6)
    raw = [peer.moment(k) for k in range(1, 7)]
    np.testing.assert_allclose(found.raw, raw, rtol=1e-8)  # SciPy integrates some of these numerically
    mean, variance, skew, kurtosis = (float(v) for v in peer.stats("mvsk"))
    central = [0, variance, skew * variance**1.5, (kurtosis + 3) * variance**2]
    np.testing.assert_allclose(found.central[:4], central, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        found.cumulants[:4], [mean, variance, central[2], kurtosis * variance**2], rtol=1e-9, atol=1e-11
    )
    with jax.enable_x64(True):  # the same from nested reverse-mode derivatives of ψ itself
        psi = lambda t: mgf(law, t)  # noqa: E731
        zero = jnp.zeros(())
        np.testing.assert_allclose([jax.grad(psi)(zero), jax.grad(jax.grad(psi))(zero)], raw[:2], rtol=1e-12)


@pytest.mark.covers("moment-generating-function")
def test_independent_combinations(dtype):
    t = jnp.asarray([-0.7, 0.2, 0.9], dtype)
    rtol = 200 * eps(dtype)
    gaussian = 2.0 * laws.Normal(1.0, 0.5) + (-3.0) * laws.Normal(0.2, 1.0)
    np.testing.assert_allclose(
        log_mgf(gaussian, t), log_mgf(laws.Normal(2 - 0.6, np.sqrt(10.0)), t), rtol=rtol, atol=rtol
    )
    poisson = laws.Poisson(0.5) + laws.Poisson(1.25)
    np.testing.assert_allclose(mgf(poisson, t), mgf(laws.Poisson(1.75), t), rtol=rtol)
    gamma = laws.Combination((laws.Exponential(0.5),) * 3, (1.0, 1.0, 1.0))
    np.testing.assert_allclose(mgf(gamma, t), mgf(laws.Gamma(3.0, 0.5), t), rtol=rtol)
    flipped = -1.0 * laws.Exponential(2.0)
    assert np.isinf(mgf(flipped, jnp.asarray(-0.6, dtype)))
    assert np.isfinite(mgf(flipped, jnp.asarray(0.6, dtype)))
    assert np.isfinite(mgf(0.0 * laws.Exponential(2.0), jnp.asarray(5.0, dtype)))
    assert mgf(gaussian, t).dtype == dtype


@pytest.mark.covers("moment-generating-function")
def test_gamma_by_scale_and_its_domain():
    np.testing.assert_allclose(mgf(laws.Gamma(3.0, 2.0), [0.25, -1.0]), [0.5**-3, 3.0**-3])
    assert mgf(laws.Gamma(3.0, 2.0), [0.5, 0.6]).tolist() == [np.inf] * 2
    assert mgf(laws.Laplace(0.0, 1.0), [-1.0, 1.5]).tolist() == [np.inf] * 2


def test_no_overflow_and_no_cancellation():
    assert np.isfinite(log_mgf(laws.Bernoulli(0.3), [1e5, -1e5])).all()
    assert np.isfinite(log_mgf(laws.Uniform(-1.0, 1.0), [1e8, -1e8])).all()
    assert np.isfinite(log_mgf(laws.Empirical(np.array([1e4, -1e4, 3.0])), [1e3])).all()
    for law, variance in ((laws.Uniform(-1.0, 1.0), 1 / 3), (laws.Rademacher(), 1.0), (laws.Normal(1e6, 1.0), 1.0)):
        np.testing.assert_allclose(law.centred(jnp.float32(1e-3)), variance * 1e-6 / 2, rtol=1e-3)
    x = np.random.default_rng(0).standard_normal(50) + 3
    np.testing.assert_allclose(moments(laws.Empirical(x)).raw, [np.mean(x**k) for k in (1, 2, 3, 4)], rtol=1e-10)


@pytest.mark.covers("moment-generating-function")
def test_chernoff_exponents(dtype):
    rtol = 1e-4 if dtype == "float32" else 1e-9
    x = jnp.asarray(3.0, dtype)
    np.testing.assert_allclose(chernoff(laws.Normal(1.0, 2.0), x).exponent, 0.5, rtol=rtol)
    np.testing.assert_allclose(chernoff(laws.Poisson(1.0), x).exponent, 3 * np.log(3) - 2, rtol=rtol)
    np.testing.assert_allclose(chernoff(laws.Exponential(1.0), x).exponent, 2 - np.log(3), rtol=rtol)
    q, p = 0.7, 0.4  # the binary relative entropy
    mean = laws.Combination((laws.Bernoulli(p),) * 5, (0.2,) * 5)
    relative = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
    np.testing.assert_allclose(chernoff(mean, jnp.asarray(q, dtype)).exponent, 5 * relative, rtol=rtol)
    np.testing.assert_allclose(chernoff(laws.Exponential(1.0), x / 30).exponent, 0.1 - 1 - np.log(0.1), rtol=rtol)
    assert float(chernoff(laws.Uniform(), x).probability) == 0.0
    assert float(chernoff(laws.Normal(3.0, 1.0), x).probability) == 1.0
    assert float(chernoff(laws.Normal(1.0, 0.0), x).probability) == 0.0
    batch = jax.vmap(lambda s: chernoff(laws.Normal(0.0, s), x).exponent)(jnp.asarray([1.0, 3.0], dtype))
    np.testing.assert_allclose(batch, [4.5, 0.5], rtol=rtol)


@pytest.mark.covers("moment-generating-function")
@pytest.mark.parametrize(("law", "peer"), PAIRS, ids=IDS)
def test_chernoff_is_never_below_the_tail(law, peer):
    for q in (1e-6, 0.1, 0.6, 0.99, 1 - 1e-9):
        x = float(peer.ppf(q))
        tail = peer.sf(np.nextafter(x, -np.inf)) if x > peer.mean() else peer.cdf(x)
        assert tail <= chernoff(law, x).probability * (1 + 1e-12)


@pytest.mark.covers("subgaussian-parameter")
@pytest.mark.parametrize(
    ("law", "expected"),
    [
        (laws.Normal(3.0, 2.0), 4.0),
        (laws.Rademacher(), 1.0),
        (laws.Uniform(-2.0, 2.0), 4 / 3),
        (laws.Bernoulli(0.5), 0.25),
        (laws.Bernoulli(0.1), 0.4 / np.log(9)),  # Kearns and Saul: (1 − 2p)/(2 log((1 − p)/p)), above the variance 0.09
        (laws.Bernoulli(1e-6), (0.5 - 1e-6) / np.log(1e6 - 1)),
        (2.0 * laws.Rademacher() + laws.Normal(), 5.0),
        (laws.Normal(1.0, 0.0), 0.0),
        (laws.Exponential(2.0), np.inf),
        (laws.Laplace(), np.inf),
        (laws.Poisson(1.0), np.inf),
        (laws.Poisson(1e8), np.inf),
    ],
    ids=repr,
)
def test_subgaussian_parameter_of_laws(law, expected, dtype):
    precise = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), law)
    if not jax.tree.leaves(law):
        precise = law + laws.Normal(jnp.zeros((), dtype), jnp.zeros((), dtype))
    found = subgaussian_parameter(precise)
    np.testing.assert_allclose(found.value, expected, rtol=2e-3 if dtype == "float32" else 1e-6, atol=1e-12)
    assert bool(found.holds)
    assert bool(found.stats["subgaussian"]) == np.isfinite(expected)


@pytest.mark.covers("subgaussian-parameter")
def test_subgaussian_parameter_bounds_the_mgf():
    for law in (laws.Bernoulli(0.1), laws.Uniform(-1.0, 3.0), laws.Uniform() + 0.5 * laws.Bernoulli(0.02)):
        s2 = float(subgaussian_parameter(law).value)
        t = np.concatenate([-np.geomspace(1e-2, 1e3, 200), np.geomspace(1e-2, 1e3, 200)])
        centred = log_mgf(law, t) - t * float(law.mean)
        assert (centred <= s2 * t**2 / 2 * (1 + 1e-6)).all()


@pytest.mark.covers("subgaussian-parameter")
def test_subgaussian_parameter_of_samples():
    rng = np.random.default_rng(0)
    n = 40_000
    for draw, expected in (
        (2 * rng.standard_normal(n) + 7, 4.0),
        (rng.choice([-1.0, 1.0], n), 1.0),
        (rng.uniform(-1, 1, n), 1 / 3),
        ((rng.random(n) < 0.1).astype(float), 0.4 / np.log(9)),
    ):
        found = subgaussian_parameter(draw)
        estimate = found.certificates["estimate"]
        assert abs(found.value - expected) <= 5 * estimate.stderr + 0.01 * expected
        assert bool(found.holds)
        np.testing.assert_allclose(subgaussian_parameter(1e6 * draw).value, 1e12 * found.value, rtol=1e-9)
    flagged = subgaussian_parameter(rng.exponential(1.0, n))
    assert np.isinf(flagged.value)
    assert not bool(flagged.stats["subgaussian"])
    assert not bool(flagged.certificates["estimate"].holds)
    assert float(subgaussian_parameter(np.ones(5)).value) == 0.0


def test_one_compilation_for_other_parameters():
    traced = 0

    @jax.jit
    def exponent(std, x):
        nonlocal traced
        traced += 1
        return chernoff(laws.Normal(0.0, std), x).exponent

    one = jnp.ones(())
    assert [float(exponent(one, 2 * one)), float(exponent(2 * one, one))] == pytest.approx([2.0, 0.125], rel=1e-4)
    assert traced == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: laws.Normal(0.0, -1.0), "std: found -1.0"),
        (lambda: laws.Uniform(2.0, 1.0), "high - low"),
        (lambda: laws.Bernoulli(1.5), r"p: found 1.5, expected finite numbers in \[0, 1\]"),
        (lambda: laws.Gamma(0.0, 1.0), "shape: found 0.0"),
        (lambda: laws.Poisson(np.nan), "rate: found nan"),
        (lambda: laws.Empirical(np.zeros(0)), "samples: found shape"),
        (lambda: laws.Combination((laws.Normal(),), ()), "weights: found 0"),
        (lambda: mgf("normal", 1.0), "law: found str"),
        (lambda: moments(laws.Normal(), 0), "order: found 0"),
        (lambda: moments(laws.Normal(), 99), "order: found 99"),
        (lambda: chernoff(laws.Normal(), np.ones(2)), "x: found"),
        (lambda: chernoff(laws.Normal(), np.nan), "x: found nan"),
        (lambda: subgaussian_parameter(np.array([1.0, np.nan])), "law: found NaN"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(InputError, match=words):
        call()
