"""Smooth data terms: derivatives, conjugates, Lipschitz constants, weights, and the gap that they give a solver."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import HuberRegressor, LogisticRegression, PoissonRegressor
from sklearn.svm import LinearSVC

from corollary.core import InputError
from corollary.optim import Composite, Huber, Multinomial, Poisson, SquaredHinge, minimize
from corollary.optim import penalties as P

N, D, K = 24, 4, 3


@functools.cache
def data(dtype="float64"):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, D))
    return X.astype(dtype), rng.uniform(0.2, 2, N).astype(dtype), rng


def terms(dtype="float64", weights=True):
    X, w, _ = data(dtype)
    rng = np.random.default_rng(1)
    w = w if weights else None
    return {
        "huber": Huber(X, (X[:, 0] + rng.standard_t(2, N)).astype(dtype), 0.8, w),
        "squared_hinge": SquaredHinge(X, rng.random(N) < 0.5, w),
        "poisson": Poisson(X, rng.poisson(1.5, N).astype(dtype), w),
        "multinomial": Multinomial(X, rng.integers(0, K, N), K, w),
    }


NAMES = list(terms())


def variable(f, dtype, seed=0, scale=0.5):
    return scale * jax.random.normal(jax.random.key(seed), f.start().shape, dtype)


@pytest.mark.parametrize("name", NAMES)
def test_parts_fit_together(name, dtype):
    f = terms(dtype.name)[name]
    x, d = variable(f, dtype), variable(f, dtype, 1)
    z, new = f.forward(x), f.forward(x + d)
    loose = 1e-10 if dtype == "float64" else 2e-4
    value, gradient = jax.value_and_grad(lambda x: f.loss(f.forward(x)))(x)
    np.testing.assert_allclose(f.value(x), value, rtol=loose)
    np.testing.assert_allclose(f.gradient(x), gradient, atol=loose * 20)
    direct = f.loss(new) - f.loss(z) - jnp.sum(f.dual(z) * (new - z))
    np.testing.assert_allclose(f.bregman(new, z), direct, rtol=10 * loose)
    np.testing.assert_allclose(f.scale(), f.value(jnp.zeros_like(x)), rtol=loose)
    # Fenchel-Young: equality at θ = ∇ℓ(z), inequality between any two points; +inf outside the domain.
    theta = f.dual(z)
    np.testing.assert_allclose(f.conjugate(theta), jnp.sum(theta * z) - f.loss(z), rtol=10 * loose)
    assert f.conjugate(theta) + f.loss(new) >= jnp.sum(theta * new) - loose * 20
    outside = 1e3 * jnp.asarray(f.y).astype(dtype) if name == "squared_hinge" else -1e3 * jnp.ones_like(theta)
    assert jnp.isinf(f.conjugate(theta + outside))


@pytest.mark.parametrize("name", NAMES)
def test_lipschitz_constant_covers_and_is_not_far(name, x64):
    f = terms()[name]
    L = f.lipschitz()
    if name == "poisson":
        assert L is None
        return
    steepest = 0.0
    for seed in range(20):
        x = variable(f, "float64", seed, 0.02)
        d = f.gradient(x) - f.gradient(-x)
        for _ in range(3):  # a power iteration on secants
            y = x + 1e-3 * d / jnp.linalg.norm(d)
            d = f.gradient(y) - f.gradient(x)
        steepest = max(steepest, float(jnp.linalg.norm(d)) / 1e-3)
    assert 0.4 * L < steepest <= L * (1 + 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_is_a_count(name, x64):
    X, _, _ = data()
    plain = terms(weights=False)[name]
    counts = np.r_[np.zeros(4, int), np.ones(N - 8, int), np.full(4, 3)]
    make = {"huber": lambda X, y, w: Huber(X, y, 0.8, w), "squared_hinge": SquaredHinge, "poisson": Poisson}
    make["multinomial"] = lambda X, y, w: Multinomial(X, y, weights=w)
    weighted = make[name](X, plain.y, counts.astype(float))
    repeated = make[name](np.repeat(X, counts, 0), np.repeat(plain.y, counts, 0), None)
    x = variable(plain, "float64")
    np.testing.assert_allclose(weighted.value(x), repeated.value(x), rtol=1e-12)
    np.testing.assert_allclose(weighted.gradient(x), repeated.gradient(x), atol=1e-12)
    if name != "poisson":
        np.testing.assert_allclose(weighted.lipschitz(), repeated.lipschitz(), rtol=1e-12)
    theta = weighted.dual(weighted.forward(x))
    assert np.isfinite(weighted.conjugate(theta))
    assert np.isinf(weighted.conjugate(theta.at[0].set(1.0)))  # no weight, no slope


def peer(name, f, alpha):
    """The minimiser of f + α/2·‖x‖² by scikit-learn."""
    X, y = np.asarray(f.A.matrix), np.asarray(f.y)
    if name == "squared_hinge":
        return LinearSVC(C=0.5 / alpha, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(X, y).coef_[0]
    if name == "poisson":
        return PoissonRegressor(alpha=alpha / N, fit_intercept=False, tol=1e-12, max_iter=10_000).fit(X, y).coef_
    fit = LogisticRegression(C=1 / alpha, fit_intercept=False, tol=1e-12, max_iter=10_000).fit(X, y.argmax(1))
    return fit.coef_.T


@pytest.mark.parametrize("name", ["squared_hinge", "poisson", "multinomial"])
def test_ridge_limit_is_scikit_learns_with_a_true_gap(name):
    f = terms(weights=False)[name]
    alpha = 1.0
    # LinearSVC's loss has no factor ½.
    problem = Composite(f, P.SquaredL2(alpha))
    run = minimize(problem, tol=1e-11)
    assert run.converged
    assert "duality_gap" in run.certificates
    expected = peer(name, f, alpha if name != "squared_hinge" else 1.0)
    np.testing.assert_allclose(run.value, expected, atol=2e-5)
    rough = minimize(problem, tol=0.0, max_steps=4)
    true = rough.stats["objective"] - run.stats["objective"]
    assert true <= rough.certificates["duality_gap"].measured + 1e-12
    single = minimize(Composite(terms("float32", False)[name], P.SquaredL2(alpha)), tol=1e-5)
    assert single.converged
    assert single.value.dtype == np.float32


def test_huber_resists_an_outlier():
    X, _, _ = data()
    y = X @ np.arange(1.0, D + 1)
    y[0] = 1e6
    run = minimize(Composite(Huber(X, y, 0.01)), tol=1e-10, max_steps=50_000)
    assert run.converged
    np.testing.assert_allclose(run.value, np.arange(1.0, D + 1), atol=0.1)
    # scikit-learn scales δ by its own σ: at its optimum ours agrees with δ = ε σ.
    rng = np.random.default_rng(2)
    y = X @ np.ones(D) + rng.standard_t(2, N)
    fit = HuberRegressor(epsilon=1.5, alpha=0.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(X, y)
    ours = minimize(Composite(Huber(X, y, 1.5 * fit.scale_)), tol=1e-10)
    np.testing.assert_allclose(ours.value, fit.coef_, atol=1e-4)


def test_poisson_in_its_closed_form_and_far_from_it():
    # One constant feature: x = log of the mean count.
    y = np.array([0.0, 3.0, 1.0, 4.0])
    for start in (0.0, 5.0, -5.0):
        run = minimize(Composite(Poisson(np.ones((4, 1)), y)), np.full(1, start), tol=1e-9, max_steps=20_000)
        assert run.converged
        np.testing.assert_allclose(run.value, np.log(2.0), atol=1e-6)


def test_multinomial_takes_probabilities_and_sparse_data(x64):
    X, _, rng = data()
    soft = rng.dirichlet(np.ones(K), N)
    f = Multinomial(X, soft)
    x = variable(f, "float64")
    z = X @ np.asarray(x)
    np.testing.assert_allclose(f.value(x), np.sum(np.log(np.exp(z).sum(1)) - (soft * z).sum(1)), rtol=1e-12)
    sparse = Multinomial(scipy.sparse.csr_array(X), soft, lipschitz=float(f.lipschitz()))
    np.testing.assert_allclose(sparse.gradient(x), f.gradient(x), atol=1e-12)


@pytest.mark.parametrize("c", [1e-12, 1e12])
def test_rescaling_the_variable_changes_nothing_else(c, x64):
    X, _, _ = data()
    y = np.random.default_rng(1).integers(0, K, N)
    plain = minimize(Composite(Multinomial(X, y, K), P.SquaredL2(1.0)), tol=1e-9)
    scaled = minimize(Composite(Multinomial(X / c, y, K), P.SquaredL2(1.0 / c**2)), tol=1e-9)
    assert scaled.converged
    assert abs(int(scaled.steps) - int(plain.steps)) <= 2
    np.testing.assert_allclose(scaled.value / c, plain.value, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda X: Huber(X, np.ones(3)), "y: found 3 entries"),
        (lambda X: Huber(X, np.ones(N), 0.0), "delta: found 0.0"),
        (lambda X: Huber(X, np.ones(N), weights=-np.ones(N)), "weights"),
        (lambda X: Huber(X, np.ones(N), weights=np.ones(2)), "weights: found 2 entries"),
        (lambda X: SquaredHinge(X, np.arange(N)), "y: found values"),
        (lambda X: Poisson(X, -np.ones(N)), "y: found -1"),
        (lambda X: Multinomial(X, np.full(N, 0.5)), "y: found values"),
        (lambda X: Multinomial(X, np.full(N, 3), 3), "expected classes 0 to 2"),
        (lambda X: Multinomial(X, np.ones((N, 2))), "y: found rows that are not probabilities"),
        (lambda X: Huber(X * np.nan, np.ones(N)), "A: found NaN"),
    ],
)
def test_bad_input(make, says):
    with pytest.raises(InputError, match=says):
        make(data()[0])


def test_rounded_probabilities_keep_their_dual(x64):
    rows = np.asarray(jax.nn.softmax(jnp.asarray(data()[0][:, :K], jnp.float32), 1)).astype(float)
    term = Multinomial(data()[0], rows)
    assert jnp.isfinite(term.conjugate(term.dual(jnp.zeros((N, K)))))


def test_mixed_labels_are_refused():
    with pytest.raises(InputError, match="y: found values"):
        SquaredHinge(np.eye(3), [-1, 0, 1])
