"""The tables that the law tests run over: adding an object to its table buys it all the tests of its kind."""

from __future__ import annotations

from sklearn.base import BaseEstimator

from corollary import linear


def estimators() -> list[BaseEstimator]:
    """Every public estimator, with settings that keep scikit-learn's checks quick."""
    return [
        linear.LinearRegression(),
        linear.Ridge(),
        linear.RidgeCV(alphas=(0.1, 1.0, 10.0)),
    ]
