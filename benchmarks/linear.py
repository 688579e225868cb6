"""Least squares and ridge with leave-one-out, against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from harness import Entry, main
from sklearn import linear_model as peers

from corollary.linear import LinearRegression, RidgeCV


def ridge_cv() -> Entry:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20_000, 500))
    y = X @ rng.standard_normal(500) + rng.standard_normal(20_000)
    alphas = np.geomspace(1e-2, 1e4, 20)
    errors: Any = peers.RidgeCV(alphas, gcv_mode="svd").fit(X, y)
    return Entry(
        name="RidgeCV, exact leave-one-out, 20000 x 500 float64, 20 alphas",
        quality="|best score - that by SVD| / |that by SVD|",
        runs={
            "corollary": lambda: RidgeCV(alphas).fit(X, y),
            "scikit-learn": lambda: peers.RidgeCV(alphas).fit(X, y),
        },
        measure=lambda model: abs(model.best_score_ - errors.best_score_) / abs(errors.best_score_) + 1e-16,
        bar=7.0,
    )


def linear_regression() -> Entry:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500_000, 128), dtype=np.float32)
    X += 1
    y = X @ rng.standard_normal(128, dtype=np.float32) + rng.standard_normal(500_000, dtype=np.float32)
    wide, target = X - X.mean(0, dtype=np.float64), y - y.mean(dtype=np.float64)
    exact = np.linalg.solve(wide.T @ wide, wide.T @ target)
    del wide
    return Entry(
        name="LinearRegression 500000 x 128 float32",
        quality="|coef - float64's| / |coef|",
        runs={
            "corollary": lambda: LinearRegression().fit(X, y),
            "scikit-learn": lambda: peers.LinearRegression().fit(X, y),
        },
        measure=lambda model: float(np.linalg.norm(model.coef_ - exact) / np.linalg.norm(exact)),
        bar=5.0,
    )


def predict() -> Entry:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1_000_000, 64))
    model = LinearRegression().fit(X[:1000], X[:1000] @ np.ones(64))
    return Entry(
        name="LinearRegression.predict, 1e6 x 64 float64, beside numpy's own product",
        quality="max |prediction - X coef - intercept|",
        runs={"corollary": lambda: model.predict(X), "numpy": lambda: X @ model.coef_ + model.intercept_},
        measure=lambda out: float(np.abs(out - (X @ model.coef_ + model.intercept_)).max()),
        bar=0.5,
    )


if __name__ == "__main__":
    main("linear", [ridge_cv, linear_regression, predict])
