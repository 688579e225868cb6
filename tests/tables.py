"""The tables that the law tests run over: adding an object to its table buys it all the tests of its kind."""

from __future__ import annotations

from sklearn.base import BaseEstimator

from corollary import factor, linalg, linear, train

QUICK = {"max_iter": 40, "learning_rate": 0.05, "random_state": 0}  # of the networks


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
        train.Autoencoder(1, 4, **QUICK),
        train.ConvNetClassifier(channels=(2,), **QUICK),
        train.MLPClassifier(4, **QUICK),
        train.MLPRegressor(4, **QUICK),
        train.ResNetClassifier(depth=(1,), width=2, **QUICK),
        train.SequenceClassifier(4, cell="gru", **QUICK),
        train.SequenceForecaster(4, cell="gru", **QUICK),
    ]
