"""PCA by every route, its estimator, and the truncated SVD: against scikit-learn, closed forms and hard data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import sklearn.decomposition

import corollary
from corollary.core import InputError
from corollary.factor import PCA, TruncatedSVD, pca

RNG = np.random.default_rng(0)
N, P = 80, 8
DATA = RNG.standard_normal((N, P)) @ np.diag(1.0 / np.arange(1, P + 1)) @ RNG.standard_normal((P, P)) + 5.0
SOLVERS = ["full", "covariance", "randomized"]


@pytest.mark.covers("pca")
@pytest.mark.parametrize("solver", SOLVERS)
def test_agrees_with_scikit_learn(dtype, solver):
    X = DATA.astype(dtype)
    ours, theirs = (
        PCA(3, svd_solver=solver, random_state=0).fit(X),
        sklearn.decomposition.PCA(3, svd_solver="full").fit(DATA),
    )
    rtol = max(2000 * np.finfo(dtype).eps, 2e-5 if solver == "randomized" else 0)
    for name in ("explained_variance_", "explained_variance_ratio_", "singular_values_", "noise_variance_", "mean_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=rtol, err_msg=name)
    np.testing.assert_allclose(ours.components_, theirs.components_, atol=100 * rtol)
    np.testing.assert_allclose(ours.transform(X), theirs.transform(DATA), atol=500 * rtol)
    np.testing.assert_allclose(
        ours.inverse_transform(ours.transform(X)), theirs.inverse_transform(theirs.transform(DATA)), atol=500 * rtol
    )
    assert ours.transform(X).dtype == dtype
    assert all(bool(c.holds) for c in ours.certificates_.values())


@pytest.mark.covers("pca")
def test_residual_variance_is_the_sum_of_what_is_left(x64):
    found = pca(DATA, 3).value
    every = pca(DATA).value.explained_variance
    centred = DATA - DATA.mean(axis=0)
    rest = centred - centred @ found.components.T @ found.components
    np.testing.assert_allclose(np.sum(rest**2) / (N - 1), every[3:].sum(), rtol=1e-12)
    np.testing.assert_allclose(found.noise_variance, every[3:].mean(), rtol=1e-12)
    captured = np.sum((centred @ found.components.T) ** 2)
    for _ in range(200):
        Q = np.linalg.qr(RNG.standard_normal((P, 3)))[0]
        assert np.sum((centred @ Q) ** 2) <= captured


@pytest.mark.covers("pca")
def test_laeuchli_data_keep_their_precision():
    # two columns that differ by 1e-9: the covariance route cannot see the second variance, and auto must not take it
    t = RNG.standard_normal(200)
    d = RNG.standard_normal(200)
    X = np.column_stack([t, t + 1e-9 * d])
    auto = pca(X, solver="auto")
    assert str(auto.stats["solver"]).startswith("full: the covariance would blur")
    t, d = t - t.mean(), d - d.mean()
    expected = 1e-9 * np.sqrt(d @ d - (d @ t) ** 2 / (t @ t)) / np.sqrt(2)
    assert abs(auto.value.singular_values[1] - expected) <= 1e-15 * np.linalg.norm(X) * 10
    assert abs(pca(X, solver="covariance").value.singular_values[1] - expected) > 1e-12
    first = pca(X, 1)  # one component is far above rounding: the cheap route will do
    assert str(first.stats["solver"]).startswith("covariance")


@pytest.mark.covers("pca")
def test_a_large_mean_costs_no_digits():
    exact = pca(DATA, 3).value
    moved = pca(DATA + 2.0**30, 3).value  # the shift rounds the data to 2^-22 at worst
    np.testing.assert_allclose(moved.explained_variance, exact.explained_variance, rtol=1e-6)


@pytest.mark.covers("pca")
def test_routes_agree_and_auto_tells_why():
    full, cov = pca(DATA, solver="full").value, pca(DATA, solver="covariance").value
    np.testing.assert_allclose(full.explained_variance, cov.explained_variance, rtol=1e-10)
    np.testing.assert_allclose(full.components, cov.components, atol=1e-8)
    assert str(pca(DATA, 2).stats["solver"]).startswith("covariance")
    assert str(pca(DATA[:20], 2).stats["solver"]).startswith("full")
    large = RNG.standard_normal((600, 120)) * 0.7 ** np.arange(120)
    assert str(pca(large, 5, solver="auto").stats["solver"]).startswith(("covariance", "randomized"))


@pytest.mark.covers("randomized-pca")
@pytest.mark.parametrize("power_iterations", ["auto", 4])
def test_randomized_agrees_with_full_on_a_decaying_spectrum(power_iterations):
    X = RNG.standard_normal((120, 60)) * 0.7 ** np.arange(60) + 3.0
    ours = pca(X, 5, solver="randomized", power_iterations=power_iterations, key=jax.random.key(1))
    theirs = sklearn.decomposition.PCA(5, svd_solver="full").fit(X)
    np.testing.assert_allclose(ours.value.explained_variance, theirs.explained_variance_, rtol=3e-5)
    np.testing.assert_allclose(ours.value.components, theirs.components_, atol=1e-2)
    np.testing.assert_allclose(ours.value.noise_variance, theirs.noise_variance_, rtol=1e-3)
    assert bool(ours.holds)


@pytest.mark.covers("randomized-pca")
def test_subspace_angle_falls_with_power_iterations():
    X = RNG.standard_normal((120, 60)) / np.arange(1, 61)
    exact = pca(X, 5, solver="full").value.components
    angles = []
    for q in (0, 1, 2, 4):
        sines = []
        for seed in range(10):
            V = pca(X, 5, solver="randomized", power_iterations=q, key=jax.random.key(seed)).value.components
            sines.append(np.linalg.norm(exact - exact @ V.T @ V, 2))
        angles.append(np.mean(sines))
    assert np.all(np.diff(angles) < 0)
    assert angles[-1] < 0.1 * angles[0]


@pytest.mark.covers("randomized-pca", "pca")
def test_sparse_data_are_centred_but_not_densified(dtype):
    X = scipy.sparse.random_array((120, 60), density=0.2, rng=np.random.default_rng(3)).tocsr()
    X = (X @ scipy.sparse.diags_array(0.8 ** np.arange(60))).tocsr().astype(dtype)
    dense = X.toarray()
    ours, full = PCA(4, random_state=0).fit(X), PCA(4, svd_solver="full").fit(dense)
    rtol = 5e-5 if dtype == np.float64 else 1e-3
    np.testing.assert_allclose(ours.explained_variance_, full.explained_variance_, rtol=rtol)
    np.testing.assert_allclose(ours.explained_variance_ratio_, full.explained_variance_ratio_, rtol=rtol)
    np.testing.assert_allclose(ours.noise_variance_, full.noise_variance_, rtol=1e-2)
    np.testing.assert_allclose(ours.transform(X), ours.transform(dense), atol=20 * np.finfo(dtype).eps * 10)
    for refused in ({"solver": "full"}, {"n_components": 60}):
        with pytest.raises(InputError):
            pca(X, **{"n_components": 2, **refused})


@pytest.mark.covers("pca")
def test_choice_of_the_number(x64):
    share = PCA(0.9).fit(DATA)
    reference = sklearn.decomposition.PCA(0.9, svd_solver="full").fit(DATA)
    assert share.n_components_ == reference.n_components_
    assert share.explained_variance_ratio_.sum() > 0.9
    noisy = RNG.standard_normal((300, 3)) @ RNG.standard_normal((3, 10)) * 3 + RNG.standard_normal((300, 10))
    assert PCA("mle").fit(noisy).n_components_ == sklearn.decomposition.PCA("mle").fit(noisy).n_components_ == 3
    assert PCA().fit(DATA).n_components_ == P
    assert PCA().fit(DATA[:5]).n_components_ == 5


@pytest.mark.covers("pca")
def test_whitening_and_likelihood():
    ours, theirs = PCA(3, whiten=True).fit(DATA), sklearn.decomposition.PCA(3, whiten=True, svd_solver="full").fit(DATA)
    np.testing.assert_allclose(ours.transform(DATA), theirs.transform(DATA), atol=1e-9)
    np.testing.assert_allclose(np.cov(ours.transform(DATA).T), np.eye(3), atol=1e-10)
    np.testing.assert_allclose(
        ours.inverse_transform(ours.transform(DATA)), theirs.inverse_transform(theirs.transform(DATA)), atol=1e-9
    )
    # whitening does not change the model (scikit-learn 1.9 multiplies its components by the deviations there)
    theirs = sklearn.decomposition.PCA(3, svd_solver="full").fit(DATA)
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance(), atol=1e-10)
    np.testing.assert_allclose(ours.get_precision(), theirs.get_precision(), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(ours.score_samples(DATA), theirs.score_samples(DATA), rtol=1e-8)
    assert ours.score(DATA) == pytest.approx(theirs.score(DATA))
    flat = PCA(1).fit(np.outer(np.arange(5.0), [1.0, 2.0]))
    with pytest.raises(InputError, match="no density"):
        flat.score_samples(np.ones((1, 2)))


@pytest.mark.covers("pca")
@pytest.mark.parametrize("solver", ["auto", *SOLVERS])
def test_degenerate_data(dtype, solver):
    k = 1
    for X, variance in (
        (np.ones((6, 3)), 0.0),
        (np.outer(np.arange(6.0), np.ones(3)), 3 * 3.5),
        (np.arange(4.0)[:, None], 5 / 3),
    ):
        model = PCA(k, svd_solver=solver, whiten=True, random_state=0).fit(X.astype(dtype))
        np.testing.assert_allclose(model.explained_variance_, [variance], rtol=1e-5, atol=1e-6)
        assert np.all(np.isfinite(model.components_))
        assert np.all(np.isfinite(model.explained_variance_ratio_))
        assert np.all(np.isfinite(model.transform(X.astype(dtype))))


@pytest.mark.parametrize("scale", [1e-140, 1e140])
def test_scaling(scale):
    for solver in SOLVERS:
        plain, scaled = pca(DATA, 2, solver=solver).value, pca(DATA * scale, 2, solver=solver).value
        np.testing.assert_allclose(scaled.singular_values, plain.singular_values * scale, rtol=1e-10)
        np.testing.assert_allclose(scaled.explained_variance_ratio, plain.explained_variance_ratio, rtol=1e-8)


@pytest.mark.covers("pca")
def test_jit_vmap_and_gradient(x64):
    X = jnp.asarray(DATA)
    traces = []

    @jax.jit
    def first(X):
        traces.append(1)
        return pca(X, 2).value.explained_variance

    np.testing.assert_allclose(first(X), pca(DATA, 2).value.explained_variance, rtol=1e-10)
    first(2 * X)
    assert len(traces) == 1
    both = jax.vmap(lambda X: pca(X, 2).value.explained_variance)(jnp.stack([X, 2 * X]))
    np.testing.assert_allclose(both[1], 4 * both[0], rtol=1e-10)
    dX = jnp.asarray(RNG.standard_normal(X.shape))
    slope = jax.jvp(lambda X: pca(X, 2).value.explained_variance[0], (X,), (dX,))[1]
    h = 1e-6
    finite = (first(X + h * dX)[0] - first(X - h * dX)[0]) / (2 * h)
    np.testing.assert_allclose(slope, finite, rtol=1e-6)


@pytest.mark.covers("pca", "truncated-svd")
def test_saved_models_predict_the_same(tmp_path):
    for i, model in enumerate((PCA(2, whiten=True).fit(DATA), TruncatedSVD(2, random_state=0).fit(DATA))):
        model.save(tmp_path / str(i))
        loaded = corollary.load(tmp_path / str(i))
        np.testing.assert_array_equal(loaded.transform(DATA), model.transform(DATA))
        assert loaded.certificates_.keys() == model.certificates_.keys()
        assert list(loaded.get_feature_names_out()) == [f"{type(model).__name__.lower()}{j}" for j in range(2)]


@pytest.mark.parametrize(
    ("X", "settings", "match"),
    [
        (DATA, {"n_components": 9}, "n_components: found 9"),
        (DATA, {"n_components": 0}, "n_components: found 0"),
        (DATA, {"n_components": 1.5}, "n_components: found 1.5"),
        (DATA, {"n_components": True}, "n_components: found True"),
        (DATA, {"n_components": "all"}, "n_components: found 'all'"),
        (DATA[:5], {"n_components": "mle"}, "n_components: found 'mle'"),
        (DATA, {"n_components": 0.5, "solver": "randomized"}, "n_components: found 0.5"),
        (DATA, {"solver": "arpack"}, "solver: found 'arpack'"),
        (DATA[:1], {}, "X: found 1 sample"),
        (DATA * np.nan, {}, "X: found NaN"),
        (DATA[0], {}, "X: found an array of shape"),
        (scipy.sparse.csr_array([[np.nan, 1.0], [0.0, 1.0]]), {"n_components": 1}, "X: found NaN"),
    ],
)
def test_bad_input(X, settings, match):
    with pytest.raises(InputError, match=match):
        pca(X, **settings)


def test_a_failed_fit_leaves_no_trace():
    model = PCA(2).fit(DATA)
    before = model.components_.copy()
    with pytest.raises(ValueError, match="n_components"):
        model.set_params(n_components=20).fit(DATA)
    np.testing.assert_array_equal(model.components_, before)


RATINGS = scipy.sparse.random_array((90, 50), density=0.3, rng=np.random.default_rng(5)).tocsr()


@pytest.mark.covers("truncated-svd")
@pytest.mark.parametrize("X", [RATINGS, RATINGS.toarray()])
def test_truncated_svd_agrees_with_its_peers(X):
    ours = TruncatedSVD(4, random_state=0).fit(X)
    theirs = sklearn.decomposition.TruncatedSVD(4, algorithm="arpack", tol=1e-12).fit(X)
    np.testing.assert_allclose(ours.singular_values_, theirs.singular_values_, rtol=1e-7)
    np.testing.assert_allclose(
        ours.singular_values_,
        np.sort(scipy.sparse.linalg.svds(RATINGS, 4, return_singular_vectors=False))[::-1],
        rtol=1e-7,
    )
    np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_, rtol=1e-5)
    np.testing.assert_allclose(ours.explained_variance_ratio_, theirs.explained_variance_ratio_, rtol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(ours.components_ * theirs.components_, axis=1)), 1, atol=1e-6)
    np.testing.assert_allclose(ours.fit_transform(X), ours.transform(X), atol=1e-6)
    assert all(bool(c.holds) for c in ours.certificates_.values())


@pytest.mark.covers("truncated-svd")
def test_truncated_svd_recovers_a_planted_matrix(dtype):
    L = (RNG.standard_normal((60, 3)) @ RNG.standard_normal((3, 40))).astype(dtype)
    for solver in ("direct", "krylov"):
        model = TruncatedSVD(3, solver=solver, random_state=0).fit(L)
        recovered = model.inverse_transform(model.transform(L))
        assert np.max(np.abs(recovered - L)) <= 500 * np.finfo(dtype).eps * np.max(np.abs(L))
    with pytest.raises(InputError, match="n_components"):
        TruncatedSVD(41).fit(L)
