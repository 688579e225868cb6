"""The estimators LinearRegression, Ridge and RidgeCV against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from sklearn import linear_model as peers

import corollary
from corollary.core import CertificateWarning, InputError
from corollary.linear import LinearRegression, Ridge, RidgeCV
from tests.linear.test_ols import problem

PAIRS = [
    (LinearRegression(), peers.LinearRegression()),
    (LinearRegression(fit_intercept=False), peers.LinearRegression(fit_intercept=False)),
    (Ridge(alpha=0.7), peers.Ridge(alpha=0.7)),
    (Ridge(alpha=np.array([0.1, 4.0])), peers.Ridge(alpha=np.array([0.1, 4.0]))),
    (RidgeCV(), peers.RidgeCV()),
    (RidgeCV(alpha_per_target=True), peers.RidgeCV(alpha_per_target=True)),
    (RidgeCV(scoring="r2"), peers.RidgeCV(scoring="r2")),
    (RidgeCV(cv=3), peers.RidgeCV(cv=3)),
]


@pytest.mark.parametrize("pair", PAIRS, ids=[str(a) for a, _ in PAIRS])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_scikit_learn(pair, sparse, weighted, tmp_path):
    ours, peer = pair
    X, Y, w = problem(0, 40, 5, k=2)
    X = np.where(X > 1.5, X, 0)
    w = w if weighted else None
    ours.fit(scipy.sparse.csr_matrix(X) if sparse else X, Y, sample_weight=w)
    peer.fit(X, Y, sample_weight=w)
    np.testing.assert_allclose(ours.coef_, peer.coef_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.intercept_, peer.intercept_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.predict(X), peer.predict(X), rtol=1e-9)
    if isinstance(ours, RidgeCV):
        np.testing.assert_allclose(ours.alpha_, peer.alpha_)
        np.testing.assert_allclose(ours.best_score_, peer.best_score_, rtol=1e-9)
    assert all(np.all(c.holds) for c in ours.certificates_.values())
    ours.save(tmp_path)
    again = corollary.load(tmp_path)
    np.testing.assert_array_equal(again.predict(X), ours.predict(X))
    assert again.certificates_.keys() == ours.certificates_.keys()


@pytest.mark.parametrize("scoring", [None, "neg_mean_absolute_error"])
def test_store_cv_results(scoring):
    X, y, w = problem(1, 30, 4)
    options = {"scoring": scoring, "store_cv_results": True}
    ours, peer = RidgeCV(**options).fit(X, y, w), peers.RidgeCV(**options).fit(X, y, w)
    np.testing.assert_allclose(ours.cv_results_, peer.cv_results_, rtol=1e-9)
    np.testing.assert_allclose(ours.best_score_, peer.best_score_, rtol=1e-9)


def test_shapes_precision_and_what_failure_leaves():
    X, y, _ = problem(2, 30, 4)
    model = LinearRegression().fit(X.astype(np.float32), y.astype(np.float32))
    assert model.coef_.dtype == np.float32
    assert model.coef_.shape == (4,)
    assert np.ndim(model.intercept_) == 0
    assert model.predict(X.astype(np.float32)).dtype == np.float32
    before = model.coef_.copy()
    with pytest.raises(InputError, match="X"):
        model.fit(np.where(X > 3, np.nan, X), y)
    np.testing.assert_array_equal(model.coef_, before)
    with pytest.raises(InputError, match="alpha"):
        Ridge(alpha=-1).fit(X, y)
    with pytest.raises(InputError, match="alpha"):
        RidgeCV(alphas=[0.0]).fit(X, y)
    with pytest.raises(InputError, match="solver"):
        Ridge(solver="sag").fit(X, y)
    with pytest.raises(InputError, match="fit_intercept"):
        LinearRegression(fit_intercept="no").fit(X, y)
    column = LinearRegression().fit(X, y[:, None])
    assert column.coef_.shape == (1, 4)
    assert column.predict(X).shape == (30, 1)


def test_a_certificate_that_fails_is_told():
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.standard_normal((60, 4)))
    X = u * np.array([1, 1e-3, 1e-6, 1e-8])
    with pytest.warns(CertificateWarning, match="LinearRegression"):
        LinearRegression(solver="normal", fit_intercept=False).fit(X, X @ np.array([1, 1e3, 1e6, 1e8]) + 1e-9)
