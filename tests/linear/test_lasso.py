"""The Lasso and the elastic net: against their peers, their optimality conditions, and the promises of the gap."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from sklearn import linear_model

from corollary import linear
from corollary.core.errors import InputError
from corollary.core.model_file import load
from corollary.linear import _lasso_coordinate as coordinate

EPS = {np.float64: 2.0**-52, np.float32: 2.0**-23}


def data(n=60, p=20, seed=0, dtype=np.float64, correlation=0.0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    X = np.sqrt(1 - correlation) * X + np.sqrt(correlation) * rng.standard_normal((n, 1)) + 1
    y = X[:, :5] @ np.array([1.0, -2.0, 3.0, 1.0, 1.0]) + 0.5 * rng.standard_normal(n) + 3
    return X.astype(dtype), y.astype(dtype)


def objective(X, y, fit, alpha, l1_ratio=1.0, weight=None):
    X, y, w, b = (np.asarray(a, np.float64) for a in (X, y, fit.coef, fit.intercept))
    s = np.ones(len(y)) if weight is None else weight / np.mean(weight)
    penalty = l1_ratio * np.abs(w).sum() + (1 - l1_ratio) / 2 * (w @ w)
    return s @ (y - X @ w - b) ** 2 / (2 * len(y)) + alpha * penalty


def naive(X, y, alpha, l1_ratio=1.0, positive=False, sweeps=20000):
    """Coordinate descent as in the textbook, on centred data, until nothing moves."""
    X, y = X - X.mean(0), y - y.mean()
    n, w, r = len(y), np.zeros(X.shape[1]), y.copy()
    lam, mu = n * alpha * l1_ratio, n * alpha * (1 - l1_ratio)
    for _ in range(sweeps):
        before = w.copy()
        for j in range(X.shape[1]):
            z = X[:, j] @ r + X[:, j] @ X[:, j] * w[j]
            new = max(z - lam, 0) if positive else np.sign(z) * max(abs(z) - lam, 0)
            new /= X[:, j] @ X[:, j] + mu
            r -= X[:, j] * (new - w[j])
            w[j] = new
        if np.abs(w - before).max() <= 1e-14 * max(np.abs(w).max(), 1e-300):
            break
    return w


# A thousand random instances: the first hundred in the fast tier too.
THOUSAND = [range(100), pytest.param(range(100, 1000), marks=pytest.mark.slow)]
CASES = list(itertools.product([(60, 20), (40, 100)], [1.0, 0.5, 0.05], [False, True], [False, True]))


@pytest.mark.covers("lasso", "elastic-net")
@pytest.mark.parametrize(("shape", "l1_ratio", "positive", "fit_intercept"), CASES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equals_scikit_learn_dense_and_sparse_weighted(shape, l1_ratio, positive, fit_intercept, dtype):
    X, y = data(*shape, dtype=dtype)
    weight = np.random.default_rng(1).integers(0, 3, len(y)).astype(dtype)
    settings = {"fit_intercept": fit_intercept, "positive": positive}
    alpha = 0.05 * float(linear.alpha_max(X, y, sample_weight=weight, **settings))
    tol = 1e-12 if dtype == np.float64 else 1e-6
    settings |= {"l1_ratio": l1_ratio}
    ours = linear.lasso(X, y, alpha, sample_weight=weight, tol=tol, **settings)
    sparse = linear.lasso(scipy.sparse.csr_array(X), y, alpha, sample_weight=weight, tol=tol, **settings)
    peer = linear_model.ElasticNet(alpha=alpha, tol=1e-13, max_iter=10**6, **settings)
    peer.fit(X.astype(np.float64), y.astype(np.float64), sample_weight=weight)
    for s in (ours, sparse):
        assert bool(s.converged)
        assert bool(s.holds)
        assert s.value.coef.dtype == dtype
        # Strong convexity on the support (curvature of a few tenths) turns the gap into a distance.
        spread = np.sqrt(2 * tol * np.mean((y - y.mean()) ** 2)) * 10 + 1e-6
        np.testing.assert_allclose(s.value.coef, peer.coef_, atol=max(spread, 5e-4 if dtype == np.float32 else 0))
        np.testing.assert_allclose(s.value.intercept, peer.intercept_, atol=20 * max(spread, 5e-4))
        best = objective(X, y, linear.LassoFit(peer.coef_, peer.intercept_, 0.0, 0.0), alpha, l1_ratio, weight)
        mine = objective(X, y, s.value, alpha, l1_ratio, weight)
        assert mine - best <= float(s.certificates["duality_gap"].bound) + 1e-12 * abs(best)


@pytest.mark.covers("lasso")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equals_celer(dtype):
    celer = pytest.importorskip("celer", reason="celer has no build for this Python")
    X, y = data(40, 100, seed=3, dtype=dtype)
    alpha = 0.1 * float(linear.alpha_max(X, y))
    peer = celer.Lasso(alpha=alpha, tol=1e-10 if dtype == np.float64 else 1e-6).fit(np.asfortranarray(X), y)
    ours = linear.lasso(X, y, alpha, tol=1e-12 if dtype == np.float64 else 1e-6).value
    np.testing.assert_allclose(ours.coef, peer.coef_, atol=1e-4 if dtype == np.float64 else 5e-3)


@pytest.mark.covers("lasso")
@pytest.mark.parametrize("instances", THOUSAND)
def test_gap_bounds_the_suboptimality(instances):
    for i in instances:
        rng = np.random.default_rng(i)
        n, p = (12, 8) if i % 2 else (8, 16)
        X, y = rng.standard_normal((n, p)), rng.standard_normal(n)
        alpha = float(linear.alpha_max(X, y)) * 10 ** -rng.uniform(0.05, 2)
        l1_ratio = float(rng.choice([1.0, 0.5]))
        settings = {"l1_ratio": l1_ratio, "positive": bool(i % 3 == 0)}
        rough = linear.lasso(X, y, alpha, tol=10 ** -rng.uniform(0, 4), **settings)
        best = linear.lasso(X, y, alpha, tol=1e-14, **settings)
        fall = objective(X, y, rough.value, alpha, l1_ratio) - objective(X, y, best.value, alpha, l1_ratio)
        gap = rough.certificates["duality_gap"]
        slack = 100 * EPS[np.float64] * np.var(y)
        assert fall <= float(gap.measured) + slack
        assert bool(rough.holds)
        assert float(best.certificates["duality_gap"].measured) <= 1e-14 * np.var(y) + slack


@pytest.mark.covers("lasso")
@pytest.mark.parametrize("correlation", [0.0, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_support_is_the_equicorrelation_set(seed, correlation):
    X, y = data(30, 60, seed, correlation=correlation)
    alpha = 0.05 * float(linear.alpha_max(X, y))
    fit = linear.lasso(X, y, alpha, tol=1e-14).value
    r = y - X @ fit.coef - fit.intercept
    correlations = (X - X.mean(0)).T @ r / len(y)
    assert np.array_equal(np.abs(correlations) >= alpha * (1 - 1e-9), fit.coef != 0)
    assert np.array_equal(np.sign(correlations[fit.coef != 0]), np.sign(fit.coef[fit.coef != 0]))


@pytest.mark.covers("lasso", "elastic-net")
@pytest.mark.parametrize("l1_ratio", [1.0, 0.3])
@pytest.mark.parametrize("positive", [False, True])
def test_equals_a_naive_twin(l1_ratio, positive):
    X, y = data(30, 12, seed=4)
    fit = linear.elastic_net(X, y, 0.1, l1_ratio, positive=positive, tol=1e-15)
    np.testing.assert_allclose(fit.value.coef, naive(X, y, 0.1, l1_ratio, positive), atol=1e-9)


@pytest.mark.covers("elastic-net")
def test_the_ends_are_ridge_and_lasso():
    X, y = data()
    ridge = linear_model.Ridge(alpha=0.3 * len(y)).fit(X, y)
    np.testing.assert_allclose(linear.elastic_net(X, y, 0.3, 0.0, tol=1e-14).value.coef, ridge.coef_, atol=1e-7)
    end, lasso = linear.elastic_net(X, y, 0.3, 1.0), linear.lasso(X, y, 0.3)
    np.testing.assert_array_equal(end.value.coef, lasso.value.coef)


@pytest.mark.covers("elastic-net")
@pytest.mark.parametrize("seed", range(10))
def test_grouping_effect(seed):
    # Zou and Hastie, theorem 1, for unit-norm centred columns and coefficients of one sign:
    # |w_i - w_j| <= |y| sqrt(2 (1 - rho)) / mu with mu = n alpha (1 - l1_ratio) for the loss |y - Xw|^2 / 2.
    X, y = data(40, 12, seed, correlation=0.8)
    X = X - X.mean(0)
    X /= np.linalg.norm(X, axis=0)
    y = y - y.mean()
    alpha, l1_ratio = 0.02, 0.3
    w = linear.elastic_net(X, y, alpha, l1_ratio, tol=1e-14).value.coef
    bound = np.linalg.norm(y) * np.sqrt(2 * np.maximum(1 - X.T @ X, 0)) / (len(y) * alpha * (1 - l1_ratio))
    same = w[:, None] * w[None, :] > 0
    assert np.all((np.abs(w[:, None] - w[None, :]) <= bound + 1e-6)[same])
    # Outside the assumption: without the squared penalty, equal columns may share their weight at will.
    twins = linear.elastic_net(np.column_stack([X[:, 0], X[:, 0]]), X[:, 0], 0.001, 0.5, tol=1e-14).value.coef
    assert abs(twins[0] - twins[1]) <= 1e-6


def test_weights_count_as_repetition():
    X, y = data(30, 10)
    weight = np.random.default_rng(0).integers(0, 4, len(y))
    one = linear.lasso(X, y, 0.1, sample_weight=weight, tol=1e-14).value
    two = linear.lasso(np.repeat(X, weight, axis=0), np.repeat(y, weight), 0.1, tol=1e-14).value
    np.testing.assert_allclose(one.coef, two.coef, atol=1e-7)
    np.testing.assert_allclose(one.intercept, two.intercept, atol=1e-6)


@pytest.mark.covers("regularization-path")
@pytest.mark.parametrize("factor", [1.0 + 1e-9, 2.0])
def test_zero_from_alpha_max_on(factor):
    X, y = data(40, 100)
    for l1_ratio in (1.0, 0.5):
        alpha = float(linear.alpha_max(X, y, l1_ratio=l1_ratio))
        centred = (X - X.mean(0)).T @ (y - y.mean())
        assert np.isclose(alpha, np.abs(centred).max() / len(y) / l1_ratio, rtol=1e-12)
        fit = linear.lasso(X, y, alpha * factor, l1_ratio=l1_ratio)
        assert not fit.value.coef.any()
        assert bool(fit.holds)
        assert linear.lasso(X, y, alpha * 0.99, l1_ratio=l1_ratio).value.coef.any()


@pytest.mark.parametrize("shape", [(60, 20), (20, 30)])
def test_alpha_zero_is_least_squares(shape):
    X, y = data(*shape)
    fit = linear.lasso(X, y, 0.0)
    expected = np.linalg.lstsq(X - X.mean(0), y - y.mean(), rcond=None)[0]
    np.testing.assert_allclose(fit.value.coef, expected, atol=1e-9)
    assert bool(fit.holds)
    with pytest.raises(InputError, match="alpha: found 0"):
        linear.lasso(scipy.sparse.csr_array(X), y, 0.0)


def test_several_targets_and_history():
    X, y = data()
    Y = np.column_stack([y, -2 * y, np.ones_like(y)])
    fit = linear.lasso(X, Y, 0.1, history=True, tol=1e-12)
    assert fit.value.coef.shape == (20, 3)
    assert fit.certificates["duality_gap"].measured.shape == (3,)
    for k in range(3):
        np.testing.assert_allclose(
            fit.value.coef[:, k], linear.lasso(X, Y[:, k], 0.1, tol=1e-12).value.coef, atol=1e-10
        )
    assert not fit.value.coef[:, 2].any()
    assert np.nanmin(fit.history["duality_gap"][:, 0]) <= fit.certificates["duality_gap"].bound[0]
    assert linear.lasso(X, y, 0.1, history=True).plot() is not None


def test_warm_start_and_step_limit():
    X, y = data(40, 100)
    alpha = 0.01 * float(linear.alpha_max(X, y))
    cold = linear.lasso(X, y, alpha)
    warm = linear.lasso(X, y, alpha, init=cold.value.coef)
    assert int(warm.steps) == 0
    short = linear.lasso(X, y, alpha, max_steps=1, tol=1e-12)
    assert not bool(short.converged)
    assert not bool(short.holds)


@pytest.mark.parametrize("scale", [1e150, 1e-150, 1e12])
def test_scales_change_only_the_scale(scale):
    X, y = data(40, 100)
    one = linear.lasso(X, y, 0.2, tol=1e-12).value
    both = linear.lasso(X * scale, y * scale, 0.2 * scale * scale, tol=1e-12)
    assert bool(both.holds)
    np.testing.assert_allclose(both.value.coef, one.coef, atol=1e-9)
    only = linear.lasso(X, y * scale, 0.2 * scale, tol=1e-12).value
    np.testing.assert_allclose(only.coef / scale, one.coef, atol=1e-9)


def test_degenerate_columns():
    X, y = data(40, 10)
    X = np.column_stack([X, np.full(40, 7.3), np.zeros(40), X[:, 0], 1e9 + X[:, 1]])
    fit = linear.lasso(X, y, 0.05, tol=1e-10)
    assert bool(fit.holds)
    assert np.isfinite(fit.value.coef).all()
    assert fit.value.coef[10] == fit.value.coef[11] == 0
    sparse = linear.lasso(scipy.sparse.csr_array(X[:, :13]), y, 0.05, tol=1e-10)
    assert bool(sparse.holds)
    assert sparse.value.coef[10] == 0
    one_row = linear.lasso(X[:1], y[:1], 0.05)
    assert not one_row.value.coef.any()
    assert one_row.value.intercept == y[0]


def test_ill_conditioned_data_converge():
    rng = np.random.default_rng(0)
    U, _ = np.linalg.qr(rng.standard_normal((200, 40)))
    X = U * np.logspace(0, -8, 40) @ np.linalg.qr(rng.standard_normal((40, 40)))[0]
    y = X @ rng.standard_normal(40)
    fit = linear.lasso(X, y, 1e-6 * float(linear.alpha_max(X, y)), tol=1e-8)
    assert bool(fit.holds)
    assert bool(fit.converged)


@pytest.mark.parametrize(
    ("arguments", "settings", "name"),
    [
        ((np.ones((3, 2)), np.ones(4), 1.0), {}, "y"),
        ((np.ones(3), np.ones(3), 1.0), {}, "X"),
        ((np.ones((0, 2)), np.ones(0), 1.0), {}, "X"),
        ((np.full((3, 2), np.nan), np.ones(3), 1.0), {}, "X"),
        ((np.ones((3, 2)), np.array([1, np.inf, 2]), 1.0), {}, "y"),
        ((np.ones((3, 2)) * 1j, np.ones(3), 1.0), {}, "X"),
        ((np.array([["a", "b"]]), np.ones(1), 1.0), {}, "X"),
        ((scipy.sparse.csr_array(np.array([[np.nan, 1.0]])), np.ones(1), 1.0), {}, "X"),
        ((np.ones((3, 2)), np.ones(3), -1.0), {}, "alpha"),
        ((np.ones((3, 2)), np.ones(3), np.inf), {}, "alpha"),
        ((np.ones((3, 2)), np.ones(3), "much"), {}, "alpha"),
        ((np.ones((3, 2)), np.ones(3), 1.0), {"l1_ratio": 1.5}, "l1_ratio"),
        ((np.ones((3, 2)), np.ones(3), 1.0), {"max_steps": 0}, "max_steps"),
        ((np.ones((3, 2)), np.ones(3), 1.0), {"tol": -1.0}, "tol"),
        ((np.ones((3, 2)), np.ones(3), 1.0), {"sample_weight": -np.ones(3)}, "sample_weight"),
        ((np.ones((3, 2)), np.ones(3), 1.0), {"sample_weight": np.zeros(3)}, "sample_weight"),
        ((np.ones((3, 2)), np.ones(3), 1.0), {"init": np.ones(3)}, "init"),
    ],
)
def test_refusals(arguments, settings, name):
    with pytest.raises(InputError, match=f"^{name}"):
        linear.lasso(*arguments, **settings)


@pytest.mark.covers("lasso")
def test_traced_equals_host_and_differentiates(dtype):
    X, y = data(40, 20, seed=5, dtype=dtype.type)
    X, y = jnp.asarray(X), jnp.asarray(y)
    alpha = jnp.asarray(0.1, dtype) * linear.alpha_max(X, y)
    tol = 1e-13 if dtype == jnp.float64 else 1e-6

    def fit(alpha):
        return linear.lasso(X, y, alpha, tol=tol)

    host, traced = fit(alpha), jax.jit(fit)(alpha)
    assert isinstance(host.value.coef, jax.Array)
    assert host.value.coef.dtype == traced.value.coef.dtype == dtype
    atol = 1e-6 if dtype == jnp.float64 else 1e-2
    np.testing.assert_allclose(host.value.coef, traced.value.coef, atol=atol)
    assert bool(traced.holds)
    assert bool(traced.converged)
    batch = jax.jit(jax.vmap(fit))(jnp.stack([alpha, 2 * alpha]))
    np.testing.assert_allclose(batch.value.coef[1], fit(2 * alpha).value.coef, atol=atol)

    def size(alpha):
        return jnp.sum(fit(alpha).value.coef ** 2)

    # On a fixed support the path is linear in alpha: a central difference of the quadratic is exact up to rounding.
    h = 1e-4 * float(alpha) if dtype == jnp.float64 else 1e-2 * float(alpha)
    difference = (float(size(alpha + h)) - float(size(alpha - h))) / (2 * h)
    assert np.isclose(float(jax.jit(jax.grad(size))(alpha)), difference, rtol=1e-5 if dtype == jnp.float64 else 0.05)


@pytest.mark.covers("regularization-path")
@pytest.mark.parametrize("shape", [(60, 20), (40, 100)])
@pytest.mark.parametrize("sparse", [False, True])
def test_path_equals_single_fits(shape, sparse):
    X, y = data(*shape)
    M = scipy.sparse.csr_array(X) if sparse else X
    path = linear.lasso_path(M, y, n_alphas=12, eps=1e-2, tol=1e-12)
    assert path.value.coef.shape == (12, shape[1])
    assert np.all(path.holds)
    assert not path.value.coef[0].any()
    for i in (3, 11):
        one = linear.lasso(M, y, float(path.value.alpha[i]), tol=1e-12)
        np.testing.assert_allclose(path.value.coef[i], one.value.coef, atol=1e-5)
    predicted = path.value.predict(X)
    np.testing.assert_allclose(predicted[3], X @ path.value.coef[3] + path.value.intercept[3])


@pytest.mark.covers("regularization-path")
def test_path_keeps_the_order_given_and_compiles_once():
    X, y = data(60, 20)
    alphas = np.array([0.1, 1.0, 0.3])
    path = linear.elastic_net_path(X, y, alphas, 0.5)
    one = linear.elastic_net(X, y, 0.3, 0.5).value
    np.testing.assert_allclose(path.value.coef[2], one.coef, atol=1e-3)
    before = coordinate.gram_path._cache_size(), coordinate.sweep._cache_size()
    linear.elastic_net_path(X, 2 * y, alphas / 3, 0.7)
    linear.elastic_net(X, 2 * y, 0.1, 0.9)
    assert (coordinate.gram_path._cache_size(), coordinate.sweep._cache_size()) == before


@pytest.mark.covers("regularization-path")
def test_path_of_traced_data(x64):
    X, y = (jnp.asarray(a) for a in data(40, 20))
    alphas = jnp.asarray([0.5, 0.1])
    traced = jax.jit(lambda X, y: linear.lasso_path(X, y, alphas, tol=1e-12))(X, y)
    host = linear.lasso_path(X, y, alphas, tol=1e-12)
    np.testing.assert_allclose(traced.value.coef, host.value.coef, atol=1e-5)
    assert bool(traced.holds.all())


@pytest.mark.covers("gap-safe-screening")
@pytest.mark.parametrize("instances", THOUSAND)
def test_screening_never_discards_a_nonzero_feature(instances):
    dropped = 0
    for i in instances:
        rng = np.random.default_rng(i)
        n, p = (12, 8) if i % 2 else (8, 16)
        correlation = float(rng.choice([0.0, 0.5, 0.99]))
        X = np.sqrt(1 - correlation) * rng.standard_normal((n, p)) + np.sqrt(correlation) * rng.standard_normal((n, 1))
        y = rng.standard_normal(n)
        settings = {"l1_ratio": float(rng.choice([1.0, 0.6])), "positive": bool(i % 5 == 0)}
        alpha = float(linear.alpha_max(X, y)) * rng.uniform(0.05, 0.99)
        exact = linear.lasso(X, y, alpha, tol=1e-12, **settings)
        rough = linear.lasso(X, y, alpha, tol=10 ** -rng.uniform(0, 6), **settings)
        found = linear.gap_safe_screening(X, y, rough.value.coef, alpha, **settings)
        assert found.keep[exact.value.coef != 0].all()
        dropped += int((~found.keep).sum())
    assert dropped > len(instances)  # and it does discard


@pytest.mark.covers("gap-safe-screening")
def test_screening_at_the_optimum_leaves_the_equicorrelation_set():
    X, y = data(40, 100)
    alpha = 0.2 * float(linear.alpha_max(X, y))
    fit = linear.lasso(X, y, alpha, tol=1e-15)
    found = linear.gap_safe_screening(X, y, fit.value.coef, alpha)
    assert np.array_equal(found.keep, fit.value.coef != 0)
    assert found.plot() is not None
    with pytest.raises(InputError, match=r"^coef"):
        linear.gap_safe_screening(X, y, np.ones(3), alpha)


@pytest.mark.parametrize("shape", [(60, 20), (40, 60)])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_validation_equals_scikit_learn(shape, weighted):
    X, y = data(*shape)
    weight = np.random.default_rng(2).uniform(0.5, 2, len(y)) if weighted else None
    ours = linear.LassoCV(n_alphas=12, eps=1e-2, cv=4, tol=1e-10).fit(X, y, weight)
    peer = linear_model.LassoCV(alphas=ours.alphas_, cv=4, tol=1e-8, max_iter=10**5).fit(X, y, weight)
    np.testing.assert_allclose(ours.mse_path_, peer.mse_path_, rtol=1e-3)
    assert ours.alpha_ == peer.alpha_
    np.testing.assert_allclose(ours.coef_, peer.coef_, atol=1e-3)
    assert all(bool(c.holds) for c in ours.certificates_.values())
    assert ours.solution_.value.plot() is not None


def test_elastic_net_cross_validation_chooses_the_ratio(tmp_path):
    X, y = data(60, 20)
    ours = linear.ElasticNetCV(l1_ratio=[0.2, 0.9], n_alphas=8, eps=1e-2, cv=3).fit(scipy.sparse.csr_array(X), y)
    peer = linear_model.ElasticNetCV(l1_ratio=[0.2, 0.9], alphas=8, eps=1e-2, cv=3, tol=1e-8).fit(X, y)
    assert ours.l1_ratio_ == peer.l1_ratio_
    assert np.isclose(ours.alpha_, peer.alpha_)
    ours.save(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").predict(X), ours.predict(X))


def test_estimator_round_trip_and_warm_start(tmp_path):
    X, y = data(40, 100)
    model = linear.Lasso(alpha=0.1, warm_start=True).fit(X, np.column_stack([y, -y]))
    assert model.coef_.shape == (2, 100)
    first = model.coef_.copy()
    assert model.fit(X, np.column_stack([y, -y])).n_iter_ == 1
    np.testing.assert_array_equal(model.coef_, first)
    model.save(tmp_path / "model")
    back = load(tmp_path / "model")
    np.testing.assert_array_equal(back.predict(X), model.predict(X))
    before = vars(model).copy()
    with pytest.raises(InputError, match="alpha"):
        model.set_params(alpha=-1.0).fit(X, y)
    assert model.coef_ is before["coef_"]
