"""scikit-learn's own contract, over every public estimator."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from tests.tables import estimators


@pytest.mark.filterwarnings("ignore")  # the checks feed degenerate data on purpose
@parametrize_with_checks(estimators())
def test_scikit_learn_contract(estimator, check):
    check(estimator)
