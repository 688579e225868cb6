"""The room's labs on plain and residual networks run, and their numbers are what they claim."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.core.test_labs import lab


@pytest.mark.covers("mlp-backprop")
def test_mlp_backprop():
    module = lab("mlp_backprop")
    numbers = module.main()
    assert max(numbers["rows"].values()) < 1e-12
    assert numbers["shapes"]
    np.testing.assert_allclose(numbers["tensor"], numbers["expected"], atol=1e-15)
    for width in (10, 100, 1000):
        multiplications, parameters = module.flops((width, width, width))
        assert multiplications <= 2 * parameters  # linear in the parameters


@pytest.mark.covers("xor-network")
def test_xor_network():
    numbers = lab("xor_network").main()
    np.testing.assert_array_equal(numbers["scores"], [-1, 1, 1, -1])
    assert abs(numbers["linear"] - 1) < 1e-12
    assert numbers["learnt"][8] >= 0.8
    assert numbers["learnt"][8] > numbers["learnt"][2]


@pytest.mark.covers("linear-collapse")
def test_linear_collapse():
    for seed in range(5):
        numbers = lab("linear_collapse").main(seed)
        assert numbers["difference"] < 1e-12
        assert numbers["rank"] <= numbers["least rank"] == 3
        assert numbers["commutator"] > 1


@pytest.mark.covers("sigmoid-tanh-conversion")
def test_sigmoid_tanh_conversion():
    for seed in range(5):
        assert max(lab("sigmoid_tanh_conversion").main(seed).values()) < 1e-12


@pytest.mark.covers("sawtooth-depth")
def test_sawtooth_depth():
    for depth, row in lab("sawtooth_depth").main().items():
        assert row["pieces"] == 2**depth
        assert row["difference"] < 1e-12
        assert row["shallow difference"] < 1e-10
        assert row["deep units"] == 2 * depth
        assert row["breakpoints"] == 2**depth - 1


@pytest.mark.covers("universal-approximation")
def test_universal_approximation():
    numbers = lab("universal_approximation").main()
    for error, bound in [*numbers["smooth"].values(), *numbers["rough"].values()]:
        assert error <= bound * (1 + 1e-9)
    smooth = [error for error, _ in numbers["smooth"].values()]
    assert -2.2 < np.polyfit(np.log(list(numbers["smooth"])), np.log(smooth), 1)[0] < -1.8
    for name in ("tanh, one dimension", "tanh, two dimensions"):
        assert numbers[name][-1] < 1e-2 * numbers[name][0]
    assert min(numbers["quadratic"]) > 0.1  # a polynomial activation stalls at every width
    assert numbers["outside"] > 1  # nothing is promised beyond the compact set


@pytest.mark.covers("residual-linear")
def test_residual_linear():
    numbers = lab("residual_linear").main()
    for row in numbers.values():
        assert row["shift"] < 1e-13
        assert row["worst ratio"] <= row["norm"] * (1 + 1e-9)
    assert abs(numbers["symmetric"]["last ratio"] - numbers["symmetric"]["norm"]) < 1e-2  # the rate is attained


@pytest.mark.covers("resnet-ensemble")
def test_resnet_ensemble():
    numbers = lab("resnet_ensemble").main()
    assert numbers["difference"] < 1e-14 * 2**8
    assert numbers["counts"] == numbers["binomial"] == [math.comb(8, k) for k in range(9)]
    assert numbers["deleted difference"] < 1e-13
    assert max(numbers["deletion effect"]) < 0.8
    assert np.argmax(numbers["mass by length"]) < 4  # short paths carry the output
    assert numbers["nonlinear difference"] > 0.1


@pytest.mark.covers("resnet-gradient")
def test_resnet_gradient():
    numbers = lab("resnet_gradient").main()
    assert numbers["difference"] < 1e-10
    assert numbers["wrong order"] > 1e-3
    residual, plain = numbers["residual norms"], numbers["plain norms"]
    depth, J = len(residual) - 1, numbers["largest J"]
    assert all((1 - J) ** k <= r <= (1 + J) ** k for k, r in enumerate(residual))
    assert 0.1 < residual[depth] < 10
    assert plain[depth] < J**depth * (1 + 1e-9) < 1e-2
    assert numbers["near −I"] < 1e-20
