"""scikit-learn's own contract, over every public estimator."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from tests.tables import estimators


def expected_failures(estimator) -> dict[str, str]:
    if type(estimator).__name__ == "ResNetClassifier":
        return {"check_sample_weight_equivalence_on_dense_data": "batch statistics do not see weights (documented)"}
    return {}


@pytest.mark.filterwarnings("ignore")  # the checks feed degenerate data on purpose
@parametrize_with_checks(estimators(), expected_failed_checks=expected_failures)
def test_scikit_learn_contract(estimator, check):
    check(estimator)
