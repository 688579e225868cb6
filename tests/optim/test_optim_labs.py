"""The room's labs on stochastic gradients and implicit bias run, and their numbers are what they claim."""

import numpy as np
import pytest

from tests.core.test_labs import lab


@pytest.mark.covers("min-norm-implicit-bias")
def test_minimum_norm():
    module = lab("min_norm_implicit_bias")
    numbers = module.main(seed=1)
    assert all(value < 1e-8 for name, value in numbers.items() if "distance" in name or "residual" in name), numbers
    assert numbers["norm from 0"] < numbers["norm from w0"]
    X, y, w0 = module.data(seed=2)
    inverse = np.linalg.pinv(X)
    np.testing.assert_allclose(
        module.predicted(X, y, w0), inverse @ y + w0 - inverse @ (X @ w0), rtol=1e-10, atol=1e-12
    )


@pytest.mark.covers("max-margin-implicit-bias")
def test_maximum_margin():
    module = lab("max_margin_implicit_bias")
    Z = module.data()
    best = module.max_margin(Z)
    angles = np.linspace(0, 2 * np.pi, 100_001)
    grid = np.stack([np.cos(angles), np.sin(angles)])
    assert np.min(Z @ best) >= (Z @ grid).min(axis=0).max() * (1 - 1e-9)  # no direction has a larger margin
    table = module.main()
    for method in ("gd", "sgd"):
        row = table[method]
        assert row["slope of log loss"] == pytest.approx(-1, abs=0.1)  # 1/t, not exponential
        assert row["norm per log t"] == pytest.approx(1, abs=0.2)  # ‖w‖ ~ log t / margin
        assert row["cosine"] > 0.998  # SGD reaches the maximum margin, too
        assert row["loss"] > 1e-6
    assert table["gd"]["1 - cosine, early"] > 0.01
    assert table["normalised"]["log loss per step"] < -0.5  # exponential
    assert table["normalised"]["margin / best"] > 0.995
    found = module.run(Z, "gd")
    gap = 1 - found["direction"] @ best
    assert np.all(np.diff(gap[-10:]) < 0)
    assert gap[-1] * np.log(found["t"][-1]) > 1e-4  # slower than any power: 1/log t


@pytest.mark.covers("adam-implicit-bias")
def test_adams_margin():
    module = lab("adam_implicit_bias")
    table = module.main()
    for method in ("adam", "signum", "signum, one example"):
        assert table[method]["sup margin / best"] > 0.95
        assert table[method]["cosine to l2"] < 0.95
    for method in ("adam, one example", "proxy"):
        assert table[method]["cosine to l2"] > 0.999
        assert table[method]["l2 margin / best"] > 0.985
        assert table[method]["sup margin / best"] < 0.7
    Z = module.rademacher()
    assert table["ℓ2 classifier"]["l2 margin / best"] == pytest.approx(1)
    w = module.euclidean_margin(Z)[1]
    alpha = np.linalg.lstsq(Z.T, w, rcond=None)[0]
    np.testing.assert_allclose(Z.T @ alpha, w, atol=1e-10)  # the classifier lies in the cone of the examples
    assert np.all(alpha >= -1e-10)


@pytest.mark.covers("almost-sure-convergence")
def test_every_path_or_the_mean():
    table = lab("almost_sure_convergence").main()
    for alpha, row in table.items():
        assert row["Robbins-Monro"] == (alpha > 0.5)
        if row["Robbins-Monro"]:
            assert np.max(row["limsup"]) < 0.6 * np.max(row["early"])  # every path
            assert row["exponent of the mean square"] == pytest.approx(-alpha, abs=0.1)
            assert np.mean(row["exponents of the paths"]) < -0.5 * alpha
        else:
            assert np.min(row["limsup"]) > 1  # no path
            assert np.ptp(row["mean square"]) < 0.1 * np.mean(row["mean square"])  # though the mean settles


@pytest.mark.covers("saddle-escape-times")
def test_escape_times():
    module = lab("saddle_escape_times")
    z0 = module.starts()
    table = {}
    for method in module.METHODS:
        found = module.escape("x² − y²", method, z0)
        theory = module.predicted(method, z0[:, 1], 2.0)
        table[method] = np.median(found)
        assert np.all(found <= 600)  # the stable manifold is never hit
        assert np.max(np.abs(found - np.ceil(theory))) <= (0 if method == "gd" else 1)
    assert table["nesterov"] < table["heavy ball"] < table["gd"]
    assert np.all(module.escape("x² − y²", "gd", np.array([[1.0, 0.0]])) == 601)  # on it, never
    root = np.roots([1, -(1 + module.MOMENTUM + module.RATE * 2), module.MOMENTUM]).max()
    slow = module.predicted("heavy ball", np.array([1e-3, 1e-6]), 2.0)
    assert np.diff(slow)[0] == pytest.approx(np.log(1e3) / np.log(root))


@pytest.mark.covers("adam-batch-generalization")
def test_batches_of_adam():
    table = lab("adam_batch_generalization").main(seeds=2)
    assert np.all(table["full batch"]["training error"] <= 0.05)  # it memorises
    assert np.all(table["full batch"]["test error"] >= 0.3)
    assert np.all(table["one example"]["test error"] <= 0.02)
    assert np.all(table["one example"]["feature"] > table["full batch"]["feature"])
