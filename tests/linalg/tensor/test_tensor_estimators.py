"""`TuckerDecomposition` and `TensorTrainDecomposition`: components, scores, gaps, the contract, and refusals."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone

from corollary.core import InputError
from corollary.core.errors import CertificateWarning
from corollary.linalg.tensor import TensorTrainDecomposition, TuckerDecomposition

RNG = np.random.default_rng(0)
SHAPE, RANK = (30, 6, 7), (3, 2, 3)


def planted(noise=0.0, dtype=np.float64):
    X = np.einsum(
        "abc,ia,jb,kc->ijk",
        np.random.default_rng(1).standard_normal(RANK),
        *(np.random.default_rng(n).standard_normal((n, r)) for n, r in zip(SHAPE, RANK, strict=True)),
    )
    return (X + noise * np.random.default_rng(2).standard_normal(SHAPE) * np.std(X)).astype(dtype)


MODELS = [TuckerDecomposition(RANK), TensorTrainDecomposition((3, 3))]


@pytest.mark.parametrize("model", MODELS, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_components_scores_and_back(model, dtype):
    X = planted(dtype=dtype)
    fitted = clone(model).fit(X)
    C = fitted.components_.reshape(3, -1)
    eps = float(100 * np.finfo(dtype).eps)
    assert fitted.components_.shape == (3, 6, 7)
    assert fitted.components_.dtype == fitted.transform(X).dtype == dtype
    np.testing.assert_allclose(C @ C.T, np.eye(3), atol=eps)
    scores = fitted.transform(X)
    np.testing.assert_allclose(np.linalg.norm(scores, axis=0), fitted.singular_values_, rtol=10 * eps)
    np.testing.assert_allclose(fitted.inverse_transform(scores), X, atol=eps * np.abs(X).max())
    assert fitted.score(X) == pytest.approx(1, abs=eps)
    assert all(c.holds for c in fitted.certificates_.values())
    assert list(fitted.get_feature_names_out()) == [f"{type(model).__name__.lower()}{j}" for j in range(3)]


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_the_share_explained_and_new_samples(model):
    X = planted(noise=0.3)
    fitted = clone(model).fit(X)
    error = np.linalg.norm(X - fitted.inverse_transform(fitted.transform(X))) / np.linalg.norm(X)
    assert fitted.score(X) == pytest.approx(1 - error**2, rel=1e-12)
    assert error <= fitted.relative_error_ + 1e-12  # scores are the best for these components
    new = np.tensordot(RNG.standard_normal((4, 3)), fitted.components_, axes=1)
    np.testing.assert_allclose(fitted.inverse_transform(fitted.transform(new)), new, atol=1e-10)
    for scale in (1e-150, 1e150):
        assert clone(model).fit(X * scale).score(X * scale) == pytest.approx(fitted.score(X), rel=1e-8)


@pytest.mark.parametrize("model", [TuckerDecomposition(2), TensorTrainDecomposition(2)], ids=repr)
def test_matrices_give_the_truncated_svd(model):
    A = RNG.standard_normal((12, 5))
    _, s, Vt = np.linalg.svd(A)
    fitted = clone(model).fit(A)
    np.testing.assert_allclose(fitted.singular_values_, s[:2], rtol=1e-10)
    np.testing.assert_allclose(np.abs(fitted.components_), np.abs(Vt[:2]), atol=1e-8)


def test_missing_entries():
    X = planted()
    gaps = np.random.default_rng(3).random(X.shape) < 0.3
    holed = np.where(gaps, np.nan, X)
    model = TuckerDecomposition(RANK, accuracy=1e-8, max_iter=1000).fit(holed)
    filled = model.inverse_transform(model.transform(holed))
    assert np.linalg.norm(filled - X) <= 1e-5 * np.linalg.norm(X)
    assert model.score(holed) == pytest.approx(1, abs=1e-9)
    holed[0] = np.nan
    with pytest.raises(InputError, match="sample 0"):
        model.transform(holed)
    with pytest.raises(InputError, match="slice 0 of mode 0"):
        TuckerDecomposition(RANK).fit(holed)
    with pytest.warns(CertificateWarning, match="step limit"):
        TuckerDecomposition(RANK, max_iter=1).fit(np.where(gaps, np.nan, X))


@pytest.mark.parametrize("model", [TuckerDecomposition(tol=0.2), TensorTrainDecomposition(tol=0.2)], ids=repr)
def test_a_tolerance_and_no_setting(model):
    X = planted(noise=0.1)
    fitted = clone(model).fit(X)
    assert fitted.relative_error_ <= 0.2
    assert fitted.score(X) >= 1 - 0.2**2
    whole = type(model)().fit(X)
    assert whole.score(X) == pytest.approx(1, abs=1e-12)
    assert len(whole.components_) == 30


def test_no_setting_on_more_features_than_samples():
    X = np.random.default_rng(0).standard_normal((4, 3000))
    model = TuckerDecomposition().fit(X)
    assert [U.shape for U in model.factors_] == [(4, 4), (3000, 4)]
    assert model.score(X) == pytest.approx(1, abs=1e-12)


def test_pictures():
    fitted = TuckerDecomposition(RANK).fit(planted())
    ax = fitted.plot(component=2)
    assert ax.get_title() == "Component 2"
    assert ax.images[0].get_array().shape == (6, 7)
    assert len(TensorTrainDecomposition(2).fit(planted()[:, :, 0]).plot().lines) == 2
    with pytest.raises(InputError, match="component: found 3"):
        fitted.plot(component=3)


@pytest.mark.parametrize(
    ("model", "X", "says"),
    [
        (TuckerDecomposition(0), planted(), "rank: found 0"),
        (TuckerDecomposition(7), planted(), r"rank\[1\]: found 7"),
        (TuckerDecomposition((1, 1)), planted(), "rank: found 2 ranks"),
        (TuckerDecomposition(1, tol=0.1), planted(), "exactly one"),
        (TuckerDecomposition(1, method="als"), planted(), "method: found 'als'"),
        (TuckerDecomposition(), np.where(planted() > 3, np.nan, planted()), "rank: found None with missing"),
        (TensorTrainDecomposition(0), planted(), "rank: found 0"),
        (TensorTrainDecomposition(1, tol=0.1), planted(), "expected one of them"),
        (TensorTrainDecomposition(1), np.where(planted() > 3, np.nan, planted()), "NaN"),
        (TensorTrainDecomposition(tol=2.0), planted(), "tol: found 2.0"),
    ],
)
def test_refusals(model, X, says):
    fresh = clone(model)
    before = dict(vars(fresh))
    with pytest.raises(ValueError, match=says):
        fresh.fit(X)
    assert vars(fresh) == before


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_other_shapes_are_refused_by_a_fitted_model(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = clone(model).fit(planted())
    with pytest.raises(InputError, match="found samples of shape"):
        fitted.transform(planted()[:, :, :-1])
    with pytest.raises(ValueError, match="6 features"):
        fitted.transform(planted()[:, :-1])
    with pytest.raises(InputError, match="expected 3 scores"):
        fitted.inverse_transform(np.ones((2, 4)))
