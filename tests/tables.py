"""The tables that the law tests run over: adding an object to its table buys it all the tests of its kind."""

from __future__ import annotations

from sklearn.base import BaseEstimator

from corollary import factor, linalg, linear


def estimators() -> list[BaseEstimator]:
    """Every public estimator, with settings that keep scikit-learn's checks quick."""
    return [
        factor.PCA(),
        factor.TruncatedSVD(1),
        linalg.tensor.CPDecomposition(1, n_init=1),
        linalg.tensor.TensorTrainDecomposition(1),
        linalg.tensor.TuckerDecomposition(1),
        linear.ElasticNet(alpha=0.1),
        linear.ElasticNetCV(l1_ratio=[0.5, 0.9], n_alphas=5, cv=3),
        linear.Lasso(alpha=0.1),
        linear.LassoCV(n_alphas=5, cv=3),
        linear.LinearRegression(),
        linear.LogisticRegression(tol=1e-13),
        linear.Ridge(),
        linear.RidgeCV(alphas=(0.1, 1.0, 10.0)),
    ]
