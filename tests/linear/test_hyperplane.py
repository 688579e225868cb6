"""The geometry of a linear classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.svm

from corollary.core.errors import InputError
from corollary.linear import hyperplane


def points(dtype=np.float64):
    rng = np.random.default_rng(0)
    return rng.normal(size=3).astype(dtype), 0.5, rng.normal(size=(40, 3)).astype(dtype)


@pytest.mark.covers("linear-classifier")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_padded_form_projections_and_rescaling(dtype):
    w, b, X = points(dtype)
    plane = hyperplane(w, b, X)
    eps = np.finfo(dtype).eps
    padded = hyperplane(np.r_[w, dtype(b)], None, X)
    assert np.array_equal(plane.distances, padded.distances)
    np.testing.assert_allclose(plane.scores, np.c_[X, np.ones(40, dtype)] @ np.r_[w, dtype(b)], atol=20 * eps)
    np.testing.assert_allclose(plane.projections @ w + b, 0, atol=50 * eps)
    np.testing.assert_allclose(np.linalg.norm(X - plane.projections, axis=1), np.abs(plane.distances), rtol=50 * eps)
    scaled = hyperplane(4 * w, 4 * b, X)
    np.testing.assert_allclose(scaled.distances, plane.distances, rtol=1e-5 if dtype == np.float32 else 1e-12)
    assert np.array_equal(scaled.signs, plane.signs)


@pytest.mark.covers("linear-classifier")
def test_margin_is_positive_iff_separating_and_the_support_vector_machine_attains_it():
    w, b, X = points()
    y = np.where(X @ w + b > 0, 1, -1)
    keep = np.abs(X @ w + b) > 0.3
    X, y = X[keep], y[keep]
    assert hyperplane(w, b, X, y).margin > 0
    assert hyperplane(-w, -b, X, y).margin < 0
    svm = sklearn.svm.SVC(kernel="linear", C=1e8, tol=1e-8).fit(X, y)
    best = hyperplane(svm.coef_[0], float(svm.intercept_[0]), X, y).margin
    assert best == pytest.approx(1 / np.linalg.norm(svm.coef_), rel=1e-5)
    rng = np.random.default_rng(1)
    others = [hyperplane(svm.coef_[0] + 0.3 * rng.normal(size=3), 0.1 * rng.normal(), X, y).margin for _ in range(20)]
    assert max(others) <= best


@pytest.mark.covers("linear-classifier")
def test_a_point_on_the_plane_is_an_error_of_either_class():
    w, X = np.array([1.0, 0.0]), np.array([[0.0, 5.0]])
    plane = hyperplane(w, 0.0, X, np.array([1]))
    assert plane.signs[0] == -1
    assert not plane.margin > 0
    assert not hyperplane(w, 0.0, X, np.array([-1])).margin > 0


def test_extreme_scales_jit_and_refusals(x64):
    w, b, X = points()
    for scale in (1e-200, 1e200):
        np.testing.assert_allclose(
            hyperplane(w * scale, b * scale, X).distances, hyperplane(w, b, X).distances, rtol=1e-10
        )
    jitted = jax.jit(lambda w, X: hyperplane(w, jnp.asarray(0.5), X).distances)(jnp.asarray(w), jnp.asarray(X))
    np.testing.assert_allclose(jitted, hyperplane(w, b, X).distances, rtol=1e-12)
    with pytest.raises(InputError, match="w"):
        hyperplane(np.zeros(3), b, X)
    with pytest.raises(InputError, match="w"):
        hyperplane(np.ones(2), b, X)
    with pytest.raises(InputError, match="y"):
        hyperplane(w, b, X, np.zeros(40))
    with pytest.raises(InputError, match="b"):
        hyperplane(w, np.nan, X)
