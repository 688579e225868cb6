"""The lab of the CP decomposition runs, and its numbers are what it claims."""

from __future__ import annotations

import pytest

from tests.core.test_labs import lab


@pytest.mark.covers("trilinear-unmixing")
def test_spectra_are_recovered_from_the_tensor_and_not_from_a_matrix():
    module = lab("trilinear_unmixing")
    for seed in range(2):
        numbers = module.main(seed=seed)
        assert numbers["CP, worst spectrum or concentration"] > 0.99
        assert numbers["CP, a third of the entries missing"] > 0.99
        assert numbers["matrix: SVD"] < 0.9
        assert numbers["matrix: nonnegative factorisation"] < 0.99
        assert numbers["matrix: a rotation of the truth"] < 0.99
        assert numbers["error of that rotation"] < 1e-14
        assert numbers["k-ranks found"] >= numbers["k-ranks needed for uniqueness"]
