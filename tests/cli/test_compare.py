"""`corollary compare` and `corollary atlas`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold, cross_val_score

from corollary.cli.folds import paired
from corollary.core import atlas
from tests.cli.runner import run


def test_same_folds_as_scikit_learn(tmp_path):
    from sklearn.datasets import load_diabetes

    words = ("--models", "ols,ridge,lasso", "--set", "lasso.alpha=2", "--out", tmp_path / "run")
    result = run("compare", "diabetes", "--target", "target", *words)
    assert "●" in result.stdout
    assert "hold" in result.stdout
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    peer = cross_val_score(
        LinearRegression(), *load_diabetes(return_X_y=True), cv=KFold(5, shuffle=True, random_state=0)
    )
    np.testing.assert_allclose(metrics["models"]["ols"]["folds"], peer, rtol=1e-9)
    assert metrics["models"]["ols"]["standard_error"] == pytest.approx(scipy.stats.sem(peer))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<svg" in page
    assert "Nadeau" in page
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["metrics.json", "report.html"]


def test_paired_interval():
    score = np.array([[0.5, 0.6, 0.7, 0.6], [0.4, 0.55, 0.6, 0.58]])
    (best, (mean, half)) = paired(score)
    d = score[1] - score[0]
    assert best is None
    assert mean == pytest.approx(d.mean())
    plain = scipy.stats.t.ppf(0.975, 3) * scipy.stats.sem(d)
    assert half == pytest.approx(plain * np.sqrt(1 + 4 / 3))  # Nadeau & Bengio: 1/k becomes 1/k + 1/(k - 1)


def test_atlas(monkeypatch):
    rows = (
        atlas.Entry("lasso", "Lasso", "corollary.linear.lasso", "duality_gap", "Tibshirani 1996"),
        atlas.Entry("ridge", "Ridge regression", "corollary.linear.ridge", "residual", "Hoerl & Kennard 1970"),
        atlas.Entry("jvp", "Forward mode", "jax.jvp", "-", "JAX"),
    )
    monkeypatch.setattr(atlas, "entries", lambda: rows)
    assert [e.id for e in atlas.find(["DUALITY"])] == ["lasso"]
    assert [e.room for e in rows] == ["linear", "linear", "jax"]
    assert "corollary.linear.ridge" in run("atlas", "hoerl").stdout
    assert "2 methods" in run("atlas", "--room", "linear").stdout
    assert "Near: lasso" in run("atlas", "lassso").stdout


def test_atlas_file_is_sound():
    ids = [entry.id for entry in atlas.entries()]
    assert ids == sorted(set(ids))
    assert all(entry.name and entry.object for entry in atlas.entries())
