"""The tables that the law tests run over: adding an object to its table buys it all the tests of its kind."""

from __future__ import annotations

from sklearn.base import BaseEstimator


def estimators() -> list[BaseEstimator]:
    """Every public estimator, with settings that keep scikit-learn's checks quick."""
    return []
