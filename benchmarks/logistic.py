"""Logistic regression against scikit-learn (and celer, skglm for L1): tall and dense, L1 wide, sparse, multinomial."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse
import scipy.special
from harness import Entry, main
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as Peer

from corollary.linear import LogisticRegression

QUALITY = "objective (per row)"


def data(n, p, classes=2, seed=0, correlated=True):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    if correlated:
        X = X @ rng.normal(size=(p, p)) / np.sqrt(p) + 1
    Z = (X - X.mean(axis=0)) @ rng.normal(size=(p, classes)) * 0.3 + rng.gumbel(size=(n, classes))
    return X, Z.argmax(axis=1)


def objective(X, y, C=1.0, l1_ratio=0.0):
    def measure(model):
        Z = np.asarray(X @ model.coef_.T + model.intercept_)
        Z = np.c_[np.zeros(len(y)), Z] if Z.shape[1] == 1 else Z
        loss = np.sum(scipy.special.logsumexp(Z, axis=1) - Z[np.arange(len(y)), y])
        w = model.coef_
        return (C * loss + l1_ratio * np.abs(w).sum() + (1 - l1_ratio) / 2 * np.sum(w * w)) / (C * len(y))

    return measure


def peer(X, y, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return Peer(max_iter=1000, **settings).fit(X, y)


def tall(correlated=True) -> Entry:
    X, y = data(200_000, 64, correlated=correlated)
    return Entry(
        name=f"L2, 200000 x 64 float64, {'correlated' if correlated else 'independent'} columns",
        quality=QUALITY,
        runs={
            "corollary": lambda: LogisticRegression().fit(X, y),
            "scikit-learn lbfgs": lambda: peer(X, y),
            "scikit-learn lbfgs, tol 1e-6": lambda: peer(X, y, tol=1e-6),
        },
        measure=objective(X, y),
        bar=2.0,
    )


def tall_independent() -> Entry:
    return tall(correlated=False)


def small() -> Entry:
    X, y = data(1000, 20)
    return Entry(
        name="L2, 1000 x 20 float64",
        quality=QUALITY,
        runs={"corollary": lambda: LogisticRegression().fit(X, y), "scikit-learn lbfgs": lambda: peer(X, y)},
        measure=objective(X, y),
    )


def multinomial() -> Entry:
    X, y = data(20_000, 30, classes=5)
    return Entry(
        name="softmax L2, 20000 x 30, 5 classes",
        quality=QUALITY,
        runs={
            "corollary": lambda: LogisticRegression().fit(X, y),
            "scikit-learn lbfgs": lambda: peer(X, y),
            "scikit-learn newton-cholesky": lambda: peer(X, y, solver="newton-cholesky"),
        },
        measure=objective(X, y),
    )


def l1_wide() -> Entry:
    rng = np.random.default_rng(0)
    n, p = 500, 5000
    X = rng.normal(size=(n, p))
    y = (X[:, :10].sum(axis=1) + rng.normal(size=n) > 0).astype(int)
    C = 10 / np.abs(X.T @ (y - y.mean())).max()
    return Entry(
        name="L1, 500 x 5000, alpha_max/10",
        quality=QUALITY,
        runs={
            "corollary": lambda: LogisticRegression(C=C, l1_ratio=1.0).fit(X, y),
            "scikit-learn liblinear": lambda: peer(
                X, y, solver="liblinear", C=C, l1_ratio=1.0, intercept_scaling=100.0
            ),
        },
        measure=objective(X, y, C, 1.0),
    )


def sparse() -> Entry:
    rng = np.random.default_rng(0)
    X = scipy.sparse.random_array((50_000, 5_000), density=0.002, format="csr", rng=rng)
    w = rng.normal(size=5_000)
    y = (X @ w + 0.5 * rng.normal(size=50_000) > 0).astype(int)
    return Entry(
        name="L2, sparse 50000 x 5000, 10 entries a row",
        quality=QUALITY,
        runs={"corollary": lambda: LogisticRegression().fit(X, y), "scikit-learn lbfgs": lambda: peer(X, y)},
        measure=objective(X, y),
    )


if __name__ == "__main__":
    main("logistic", [tall, tall_independent, small, multinomial, l1_wide, sparse])
