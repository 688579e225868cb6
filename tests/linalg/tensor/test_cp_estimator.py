"""`CPDecomposition`: parts found again, scores by least squares, gaps, plots and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from corollary.core import InputError
from corollary.linalg.tensor import CPDecomposition, factor_match_score

SHAPE = (9, 5, 6)


def planted(positive=True):
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((n, 2)) for n in SHAPE]
    factors = [np.abs(f) for f in factors] if positive else factors
    return np.einsum("ir,jr,kr->ijk", *factors), factors


@pytest.mark.covers("cp-als")
@pytest.mark.parametrize("nonnegative", [False, True])
def test_parts_scores_and_back(nonnegative):
    X, factors = planted()
    model = CPDecomposition(2, nonnegative=nonnegative, tol=1e-8, random_state=0).fit(X)
    scores = model.transform(X)
    assert factor_match_score(factors[1:], model.components_).score > 1 - 1e-6
    np.testing.assert_allclose(scores, model.scores_, atol=1e-5)
    np.testing.assert_allclose(model.inverse_transform(scores), X, atol=1e-5)
    assert model.score(X) > 1 - 1e-8
    assert all(c.holds for c in model.certificates_.values())
    gaps = X.copy()
    gaps[0, :3] = np.nan
    gaps[4, 2, 1] = np.nan
    np.testing.assert_allclose(model.transform(gaps), scores, atol=1e-5)
    assert model.score(gaps) > 1 - 1e-8
    refit = CPDecomposition(2, nonnegative=nonnegative, tol=1e-8, random_state=0).fit(gaps)
    np.testing.assert_allclose(refit.inverse_transform(refit.transform(gaps)), X, atol=1e-4)
    if nonnegative:
        assert scores.min() >= 0
        assert model.transform(-X).max() == 0


def test_transform_is_least_squares():
    X, _ = planted(positive=False)
    model = CPDecomposition(2, random_state=0).fit(X)
    new = np.random.default_rng(1).standard_normal((3, *SHAPE[1:])).astype(np.float32)
    B, C = model.components_
    basis = np.einsum("jr,kr->jkr", B, C).reshape(-1, 2)
    expected = np.linalg.lstsq(basis, new.reshape(3, -1).T, rcond=None)[0].T
    found = model.transform(new)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def collinear(dtype, spread):
    """A fitted model whose two parts are nearly the same one."""
    model = CPDecomposition(2, random_state=0).fit(planted()[0].astype(dtype))
    rng = np.random.default_rng(2)
    parts = [rng.random((n, 1)) + spread * rng.standard_normal((n, 2)) for n in SHAPE[1:]]
    model.components_ = tuple((p / np.linalg.norm(p, axis=0)).astype(dtype) for p in parts)
    B, C = model.components_
    return model, np.einsum("jr,kr->jkr", B, C).reshape(-1, 2).astype(np.float64)


def test_scores_of_collinear_parts_in_single_precision():
    model, basis = collinear(np.float32, 1e-2)
    assert np.linalg.cond(basis) > 30  # its square times eps is 1e-4
    new = np.random.default_rng(1).standard_normal((3, *SHAPE[1:])).astype(np.float32)
    expected = np.linalg.lstsq(basis, new.reshape(3, -1).T.astype(float), rcond=None)[0].T
    found = model.transform(new)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_nonnegative_scores_do_not_depend_on_their_neighbours():
    model, basis = collinear(np.float64, 0.1)
    model.nonnegative = True
    small = 1e-12 * (basis @ [1.0, 2.0]).reshape(1, *SHAPE[1:])
    alone = model.transform(small)
    large = basis[:, 0].reshape(small.shape)  # found at once: no reason to stop for the other
    together = model.transform(np.concatenate([small, large]))
    np.testing.assert_allclose(alone, [[1e-12, 2e-12]], rtol=1e-9)
    np.testing.assert_allclose(together[:1], alone, rtol=1e-9)


def test_score_at_any_scale_of_single_precision():
    X = planted()[0] + 0.1 * np.random.default_rng(1).standard_normal(SHAPE)
    X = X.astype(np.float32)
    model = CPDecomposition(2, random_state=0).fit(X)
    plain = model.score(X)
    assert 0.5 < plain < 0.9999
    for scale in (1e-25, 1e25):
        assert model.score(X * np.float32(scale)) == pytest.approx(plain, rel=1e-5)


def test_plots_and_refusals():
    X, _ = planted(positive=False)
    model = CPDecomposition(2, random_state=0).fit(X)
    assert len(np.ravel(model.plot())) == 2
    with pytest.raises(InputError, match="samples of shape"):
        model.transform(X[:, :, :4])
    with pytest.raises(InputError, match="3 columns, expected 2 scores"):
        model.inverse_transform(np.ones((2, 3)))
    empty = X.copy()
    empty[2] = np.nan
    with pytest.raises(InputError, match="slice 2 of mode 0"):
        model.transform(empty)
    with pytest.raises(InputError, match="slice 2 of mode 0"):
        CPDecomposition(2).fit(empty)
    with pytest.raises(InputError, match="n_components: found 0"):
        CPDecomposition(0).fit(X)
    with pytest.raises(InputError, match="n_components: found 100, expected at most 30"):
        CPDecomposition(100).fit(X)
