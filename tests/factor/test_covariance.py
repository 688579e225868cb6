"""Covariance, explained variance and projection risk: against NumPy, scikit-learn and closed forms."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from sklearn.decomposition import PCA as Peer

from corollary.core import InputError
from corollary.factor import RunningCovariance, covariance, explained_variance, projection_risk

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 5)) @ RNG.standard_normal((5, 5))
W = RNG.integers(1, 5, 40)


@pytest.mark.covers("covariance")
@pytest.mark.parametrize("ddof", [0, 1])
def test_agrees_with_numpy(dtype, ddof):
    data, rtol = X.astype(dtype), 200 * np.finfo(dtype).eps
    mean, C = covariance(data, ddof=ddof).value
    np.testing.assert_allclose(mean, X.mean(axis=0), atol=10 * np.finfo(dtype).eps * np.abs(X).max())
    np.testing.assert_allclose(C, np.cov(X.T, ddof=ddof), rtol=rtol, atol=rtol)
    assert C.dtype == dtype
    np.testing.assert_array_equal(C, C.T)
    often = covariance(data, W.astype(dtype), ddof=ddof).value[1]
    np.testing.assert_allclose(often, np.cov(X.T, fweights=W, ddof=ddof), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(often, covariance(np.repeat(data, W, axis=0), ddof=ddof).value[1], rtol=rtol, atol=rtol)
    trusted = covariance(data, 0.3 * W.astype(dtype), ddof=ddof, reliability=True).value[1]
    np.testing.assert_allclose(trusted, np.cov(X.T, aweights=W, ddof=ddof), rtol=rtol, atol=rtol)
    if ddof == 0:
        np.testing.assert_allclose(C * 40 / 39, covariance(data).value[1], rtol=rtol)


@pytest.mark.covers("covariance")
@pytest.mark.parametrize("cuts", [(1, 2, 3), (20,), (7, 30), ()])
def test_any_split_of_the_stream_gives_the_same(cuts):
    parts, weights = np.split(X, cuts), np.split(W.astype(float), cuts)
    seen = RunningCovariance.of(parts[0], weights[0])
    for part, w in zip(parts[1:], weights[1:], strict=True):
        seen = seen.update(part, w)
    np.testing.assert_allclose(seen.covariance(), np.cov(X.T, fweights=W), rtol=1e-13)
    np.testing.assert_allclose(seen.mean, np.average(X, axis=0, weights=W), rtol=1e-12)
    np.testing.assert_allclose(seen.covariance(reliability=True), np.cov(X.T, aweights=W), rtol=1e-13)


@pytest.mark.covers("covariance")
def test_no_cancellation_at_a_mean_of_1e8():
    grid = np.round(X * 2**10) / 2**10  # exactly representable at the offset
    exact = covariance(grid).value[1]
    moved = covariance(grid + 1e8)
    np.testing.assert_allclose(moved.value[1], exact, rtol=1e-12)
    streamed = RunningCovariance.of(grid[:9] + 1e8).update(grid[9:] + 1e8)
    # the batches' means are kept to eps·1e8, and that is what their difference is known to
    np.testing.assert_allclose(streamed.covariance(), exact, atol=10 * np.finfo(float).eps * 1e8 * np.abs(grid).max())
    assert bool(moved.holds)


@pytest.mark.covers("covariance")
def test_positive_semidefinite_and_degenerate(dtype):
    wide = RNG.standard_normal((3, 10)).astype(dtype)
    assert bool(covariance(wide).holds)
    assert bool(covariance(np.ones((4, 2), dtype)).holds)
    np.testing.assert_array_equal(covariance(np.ones((4, 2), dtype)).value[1], 0)
    assert covariance(X[:1], ddof=0).value[1].max() == 0
    traced = jax.jit(lambda X: covariance(X).value[1])(jax.numpy.asarray(X.astype(np.float32)))
    np.testing.assert_allclose(traced, np.cov(X.T), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "settings", "match"),
    [
        ((X[:1],), {}, "X: found a total weight of 1"),
        ((X, -W), {}, "weights: found a negative"),
        ((X, 0 * W), {}, "weights"),
        ((X, W[:3]), {}, "weights: found 3 rows"),
        ((X * np.inf,), {}, "X: found NaN or inf"),
        ((X,), {"ddof": -1}, "ddof"),
        ((np.zeros((0, 3)),), {}, "X: found an empty"),
    ],
)
def test_bad_data(arguments, settings, match):
    with pytest.raises(InputError, match=match):
        covariance(*arguments, **settings)


def planted(n=400, p=12, rank=3, seed=1):
    rng = np.random.default_rng(seed)
    return 3 * rng.standard_normal((n, rank)) @ np.linalg.qr(rng.standard_normal((p, rank)))[0].T + rng.standard_normal(
        (n, p)
    )


@pytest.mark.covers("explained-variance")
def test_ratios_sum_to_one_and_the_planted_rank_is_found():
    for seed in range(3):
        data = planted(seed=seed)
        values = np.linalg.eigvalsh(covariance(data).value[1])[::-1]
        for rule in ("parallel", "mle"):
            found = explained_variance(values, rule, n_samples=len(data)).value
            assert found.n_components == 3, rule
            assert found.ratios.sum() == pytest.approx(1)
            np.testing.assert_allclose(found.cumulative, np.cumsum(found.ratios))
        assert (
            explained_variance(values, "mle", n_samples=len(data)).value.n_components
            == Peer("mle").fit(data).n_components_
        )
        assert (
            explained_variance(values, 0.5).value.n_components == Peer(0.5, svd_solver="full").fit(data).n_components_
        )
    kaiser = explained_variance(values).value
    assert kaiser.n_components == np.sum(values > values.mean())
    assert kaiser.plot().get_title() == "Scree"


@pytest.mark.covers("explained-variance")
def test_parallel_analysis_finds_nothing_in_noise():
    kept = []
    for seed in range(20):
        values = np.linalg.eigvalsh(np.cov(np.random.default_rng(seed).standard_normal((100, 12)).T))[::-1]
        kept.append(explained_variance(values, "parallel", n_samples=100).value.n_components)
    assert np.sum(np.array(kept) > 0) <= 5  # one in twenty is expected; more than 5 has probability below 4e-4


@pytest.mark.covers("explained-variance")
def test_edges():
    assert explained_variance(np.zeros(3)).value.n_components == 0
    assert explained_variance(np.ones(3)).value.n_components == 0  # none is above the average
    assert explained_variance(np.array([2.0]), "mle", n_samples=5).value.n_components == 0
    wide = explained_variance(np.array([3.0, 2.0, 0.0, 0.0]), "parallel", n_samples=3).value
    assert 0 <= wide.n_components <= 4
    for values, rule, match in (
        ([1.0, 2.0], "kaiser", "eigenvalues"),
        ([1.0, -1.0], "kaiser", "eigenvalues"),
        ([2.0, 1.0], "elbow", "rule: found 'elbow'"),
        ([2.0, 1.0], "mle", "n_samples: found None"),
    ):
        with pytest.raises(InputError, match=match):
            explained_variance(np.array(values), rule)


@pytest.mark.covers("projection-risk")
def test_projection_risk(dtype):
    C = np.cov(X.T).astype(dtype)
    Q = np.linalg.qr(RNG.standard_normal((5, 2)))[0].astype(dtype)
    P = Q @ Q.T
    found = projection_risk(C, P)
    rest = np.eye(5) - P
    rtol = 200 * float(np.finfo(dtype).eps)
    assert float(found.value) == pytest.approx(np.trace(rest @ C @ rest.T) / 2, rel=rtol)
    assert float(found.value) == pytest.approx((np.trace(C) - np.trace(P @ C @ P.T)) / 2, rel=rtol)  # ½(Var x − Var Px)
    assert bool(found.holds)
    centred = X - X.mean(axis=0)
    empirical = np.sum((centred - centred @ P) ** 2) / 2 / (len(X) - 1)
    assert float(found.value) == pytest.approx(empirical, rel=rtol)


@pytest.mark.covers("projection-risk")
@pytest.mark.parametrize("P", [0.5 * np.eye(5), np.eye(5) + np.diag(np.ones(4), 1), np.outer(np.ones(5), np.eye(5)[0])])
def test_other_matrices_are_told_apart(P):
    found = projection_risk(np.cov(X.T), P)  # a shrinkage, a shear, and an oblique projection: P² = P, but P ≠ Pᵀ
    rest = np.eye(5) - P
    assert not bool(found.holds)
    assert abs(float(found.value) - np.trace(rest @ np.cov(X.T) @ rest.T) / 2) > 1e-3
    with pytest.raises(InputError, match="covariance, P"):
        projection_risk(np.eye(3), np.eye(4))
