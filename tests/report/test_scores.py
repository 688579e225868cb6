"""Scores against scikit-learn, their intervals against statsmodels, theory and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from statsmodels.stats.proportion import proportion_confint

from corollary.report import scores


def test_values_are_scikit_learns():
    rng = np.random.default_rng(0)
    y, p = rng.normal(size=200), rng.normal(size=200)
    r2, rmse, mae = scores.regression(y, p)
    assert r2.value == pytest.approx(sklearn.metrics.r2_score(y, p))
    assert rmse.value == pytest.approx(sklearn.metrics.root_mean_squared_error(y, p))
    assert mae.value == pytest.approx(sklearn.metrics.mean_absolute_error(y, p))
    classes = np.array(["no", "yes"])
    t = rng.random(200)
    labels = classes[(rng.random(200) < t).astype(int)]
    probability = np.stack([1 - t, t], axis=1)
    made = scores.classification(labels, classes[(t > 0.5).astype(int)], probability, classes, np.array([0.5, 0.5]))
    accuracy, loss, area = made
    assert accuracy.value == pytest.approx(sklearn.metrics.accuracy_score(labels, classes[(t > 0.5).astype(int)]))
    assert loss.value == pytest.approx(sklearn.metrics.log_loss(labels, probability))
    assert area.value == pytest.approx(sklearn.metrics.roc_auc_score(labels, t))
    assert (accuracy.low, accuracy.high) == pytest.approx(
        proportion_confint(round(accuracy.value * 200), 200, method="wilson")
    )


def test_perfect_classifier_still_has_an_interval():
    y = np.array([0, 1] * 10)
    (accuracy,) = scores.classification(y, y, None, np.array([0, 1]), np.array([0.5, 0.5]))
    assert accuracy.value == 1.0
    assert accuracy.low < 0.9


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_scale_free(scale):
    rng = np.random.default_rng(1)
    y = rng.normal(size=50)
    p = y + 0.3 * rng.normal(size=50)
    plain, scaled = scores.regression(y, p), scores.regression(scale * y, scale * p)
    assert scaled[0].value == pytest.approx(plain[0].value, rel=1e-10)
    assert scaled[1].high == pytest.approx(scale * plain[1].high, rel=1e-10)


def test_constant_target_has_no_r2():
    r2 = scores.regression(np.ones(6), np.zeros(6))[0]
    assert np.isnan(r2.value)


def test_delta_method_agrees_with_the_bootstrap(monkeypatch):
    rng = np.random.default_rng(2)
    y = rng.normal(size=4000)
    p = y + rng.normal(size=4000)
    boot = scores.regression(y, p)
    monkeypatch.setattr(scores, "BOOTSTRAP_ROWS", 0)
    delta = scores.regression(y, p)
    for b, d in zip(boot, delta, strict=True):
        assert (d.method, b.value) == ("standard error", d.value)
        # 1000 resamples know a percentile's half-width to about 4 %; three such errors
        assert d.high - d.low == pytest.approx(b.high - b.low, rel=0.13)


def test_intervals_cover():
    rng = np.random.default_rng(3)
    n, runs = 60, 100
    rmse = area = 0
    for seed in range(runs):
        r = rng.normal(size=n)
        s = scores.regression(np.linspace(-3, 3, n), np.linspace(-3, 3, n) + r, seed)[1]
        rmse += s.low <= 1.0 <= s.high
        positive = np.arange(n) < n // 2
        x = rng.normal(size=n) + positive
        s = scores._roc_area(x, positive)
        area += s.low <= scipy.stats.norm.cdf(1 / np.sqrt(2)) <= s.high
    # nominal 95 %; both methods fall a few points short at 60 rows; 3 standard errors of 100 runs are 6.5 points
    assert rmse / runs > 0.84
    assert area / runs > 0.86


def test_reconstruction():
    rng = np.random.default_rng(4)
    Z = rng.normal(size=(40, 3))
    (kept,) = scores.reconstruction(Z, Z, Z.mean(axis=0))
    assert kept.value == 1.0
    (none,) = scores.reconstruction(Z, np.broadcast_to(Z.mean(axis=0), Z.shape).copy(), Z.mean(axis=0))
    assert none.value == pytest.approx(0.0, abs=1e-12)
