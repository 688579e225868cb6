"""One pass of orthogonalisation in Lanczos' process on the host: as good as two, and not taken where it is not."""

import numpy as np
import pytest

from corollary.linalg import eigsh
from corollary.linalg.eigen import _sides
from corollary.linalg.eigen._sides import Host

N, M = 300, 40


def symmetric(kind):
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(N, N)))[0]
    values = {
        "spread": rng.uniform(-1, 1, N),
        "clustered": np.concatenate([np.full(5, 1.0), 0.99 + 1e-6 * rng.random(20), rng.uniform(-0.5, 0.9, N - 25)]),
        "outliers": np.concatenate([1e6 * np.arange(1, 6), rng.random(N - 5)]),
        "graded": 10.0 ** -np.linspace(0, 12, N),
        "few": np.repeat([1.0, 2.0, 3.0, 4.0], N // 4),  # the Krylov space is invariant after four steps
    }[kind]
    A = (Q * values) @ Q.T
    return (A + A.T) / 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["spread", "clustered", "outliers", "graded", "few"])
def test_the_basis_is_orthonormal_and_fits_the_matrix(kind, dtype, monkeypatch):
    A = symmetric(kind).astype(dtype)
    eps, size = np.finfo(dtype).eps, np.linalg.norm(A, 2)
    taken = []
    one = _sides._one_pass
    monkeypatch.setattr(_sides, "_one_pass", lambda W, V: taken.append(found := one(W, V)) or found)
    side, rng = Host(lambda V: A @ V), np.random.default_rng(1)
    start, spare = (rng.normal(size=(N, 1)).astype(dtype) for _ in range(2))
    V = side.put(side.empty(N, M + 1, dtype), start / np.linalg.norm(start), 0)
    V, T, R = side.extend(lambda W: A @ W, V, np.zeros((M, M), dtype), 0, spare)
    assert V.dtype == dtype
    assert len(taken) == M - 1
    assert np.abs(V.T.astype(float) @ V - np.eye(M + 1)).max() <= 32 * eps
    full = np.triu(T) + np.triu(T, 1).T
    rest = A.astype(float) @ V[:, :M] - V[:, :M].astype(float) @ full
    rest[:, -1] -= V[:, M] * float(R[0, 0])
    assert np.abs(rest).max() <= 64 * eps * size
    assert kind == "few" or sum(found is not None for found in taken) > M / 2


def test_one_pass_is_refused_where_little_is_left_or_nothing_is_finite():
    rng = np.random.default_rng(2)
    V = np.asfortranarray(np.linalg.qr(rng.normal(size=(N, 8)))[0])
    inside = V @ rng.normal(size=(8, 1))
    assert _sides._one_pass(inside, V) is None
    assert _sides._one_pass(inside + 0.1 * rng.normal(size=(N, 1)) / N**0.5, V) is None
    assert _sides._one_pass(np.full((N, 1), np.nan), V) is None
    W = rng.normal(size=(N, 1))
    before = W.copy()
    q, h, length = _sides._one_pass(W, V)
    np.testing.assert_array_equal(W, before)
    np.testing.assert_allclose(V @ h + q * length, W, atol=1e-14 * np.abs(W).max() * 10)


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_pairs_are_found_and_certified_with_one_pass(which):
    A = symmetric("clustered")
    found = eigsh(A, 4, which=which)
    values = np.linalg.eigvalsh(A)
    order = {"LA": -values, "SA": values, "LM": -np.abs(values)}[which].argsort()[:4]
    assert bool(found.holds)
    np.testing.assert_allclose(found.value[0], values[order], atol=1e-9)
