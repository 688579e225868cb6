"""The labs on Tucker's gauge and on compressing a convolution run, and their numbers are what they claim."""

from __future__ import annotations

import numpy as np
import pytest

from tests.core.test_labs import lab


@pytest.mark.covers("tucker-gauge")
def test_tucker_gauge():
    module = lab("tucker_gauge")
    for seed in range(3):
        numbers = module.main(seed)
        assert numbers["difference of the tensors"] <= 1e-12
        assert numbers["difference of the factors"] > 0.1
        assert numbers["difference of their subspaces"] <= 1e-12
        assert numbers["after the HOSVD's gauge"] <= 1e-10


def test_convolution_compression():
    module = lab("convolution_compression")
    table = module.main(size=24)
    K = module.kernel()
    x = np.random.default_rng(2).standard_normal((module.IN, 9, 9))
    for name, solution in module.decompositions(K).items():
        form, row = solution.value, table[name]
        whole = module.convolve(x, module.dense(form))
        np.testing.assert_allclose(module.chain(x, form), whole, atol=1e-10 * np.abs(whole).max())  # the chain is it
        assert row["output error"] == pytest.approx(row["kernel error"], rel=0.1)  # white inputs
        assert row["multiplications"] < table["dense"]["multiplications"]
    assert table["Tucker"]["kernel error"] <= module.NOISE * 1.01  # the noise is what is left out
    assert table["Tucker"]["numbers"] < table["dense"]["numbers"] / 10
    assert table["Tucker"]["multiplications"] < table["dense"]["multiplications"] / 10
    assert table["tensor train"]["kernel error"] <= 0.06
