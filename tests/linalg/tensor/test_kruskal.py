"""Kruskal's condition and what it promises, the edge where it fails, k-ranks, match scores, core consistency."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
import tensorly.metrics

from corollary.core import InputError
from corollary.linalg.tensor import CP, core_consistency, cp_als, factor_match_score, k_ranks, kruskal_certificate

SHAPE, RANK = (4, 4, 5), 4


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def full(factors):
    return np.einsum("ir,jr,kr->ijk", *factors)


@pytest.mark.covers("kruskal-certificate")
def test_where_it_holds_random_starts_return_the_same_factors():
    for seed in range(4):
        factors = [draw(n, RANK, seed=10 * seed + i) for i, n in enumerate(SHAPE)]
        certificate = kruskal_certificate(factors)
        assert certificate.holds
        assert certificate.value.total == 12
        assert certificate.value.needed == 10
        X = full(factors)
        for key in jax.random.split(jax.random.key(seed), 2):
            found = cp_als(X, RANK, init="random", starts=8, tol=1e-11, max_steps=2000, key=key)
            assert float(found.stats["error"]) < 1e-9
            assert factor_match_score(factors, found.value).score > 1 - 1e-6


@pytest.mark.covers("kruskal-certificate")
def test_one_less_is_not_enough():
    """Σ k = 2 + 2 + 1 = 5 = 2R + 1 for R = 2: the common column of the third mode leaves a matrix, which rotates."""
    A, B, C = draw(3, 2, seed=1), draw(3, 2, seed=2), np.outer(draw(3, seed=3), [1.0, 2.0])
    result = kruskal_certificate([A, B, C])
    assert result.value.k_ranks.ranks == (2, 2, 1)
    assert result.value.total == 5
    assert result.value.needed == 6
    assert not result.holds
    M = np.array([[1.0, 0.7], [-0.4, 1.3]])  # A D Bᵀ = (A M)(B D M⁻ᵀ)ᵀ
    other = [A @ M, B @ np.diag([1.0, 2.0]) @ np.linalg.inv(M).T, np.outer(C[:, 0], [1.0, 1.0])]
    np.testing.assert_allclose(full(other), full([A, B, C]), atol=1e-14)
    assert factor_match_score([A, B, C], other).score < 0.95
    assert not kruskal_certificate(other).holds


@pytest.mark.covers("kruskal-certificate")
def test_condition_for_more_modes_and_special_cases():
    four = [draw(3, 3, seed=i) for i in range(4)]
    assert kruskal_certificate(four).value.needed == 2 * 3 + 3
    assert kruskal_certificate(four).holds
    assert not kruskal_certificate(four[:2]).holds  # a matrix
    single = [draw(3, 1, seed=i) for i in range(2)]
    assert kruskal_certificate(single).holds  # rank one is unique
    assert not kruskal_certificate([single[0], 0 * single[1]]).holds
    assert not kruskal_certificate(CP(np.array([1.0, 0.0, 2.0]), tuple(four[:3]))).holds  # a term of weight zero
    assert kruskal_certificate(CP(np.array([1.0, 3.0, 2.0]), tuple(f * 1e-200 for f in four[:3]))).holds


def test_k_ranks_are_those_of_all_subsets():
    rng = np.random.default_rng(0)
    for seed in range(20):
        rows, columns = rng.integers(2, 5), rng.integers(2, 7)
        A = np.random.default_rng(seed).integers(-1, 2, size=(rows, columns)).astype(float)
        naive = 0
        for k in range(1, min(rows, columns) + 1):
            if all(np.linalg.matrix_rank(A[:, s]) == k for s in itertools.combinations(range(columns), k)):
                naive = k
            else:
                break
        found = k_ranks([A])
        assert found.ranks == (naive,)
        assert found.exact == (True,)


def test_beyond_the_limit_the_coherence_bounds_from_below():
    A = draw(60, 80)
    exact_two = k_ranks([A], limit=5000)
    assert not exact_two.exact[0]
    unit = A / np.linalg.norm(A, axis=0)
    mu = np.max(np.abs(unit.T @ unit - np.eye(80)))
    assert exact_two.ranks[0] >= max(2, np.ceil(1 / mu))
    assert exact_two.margin[0] > 0


def test_match_score_is_tensorlys_congruence():
    first = [draw(n, 3, seed=n) for n in (4, 5, 6)]
    order, scales = [2, 0, 1], np.array([-2.0, 0.1, 3.0])
    second = [f[:, order] * scales for f in first]
    match = factor_match_score(first, second)
    assert match.score == pytest.approx(1)
    assert [order[i] for i in match.order] == [0, 1, 2]
    noisy = [f + 0.3 * draw(*f.shape, seed=9) for f in second]
    ours = factor_match_score(first, noisy)
    score, permutation = tensorly.metrics.congruence_coefficient(first, noisy, absolute_value=True)
    assert ours.score == pytest.approx(score, rel=1e-12)
    assert ours.score < 0.99
    assert list(ours.order) == list(permutation)
    np.testing.assert_allclose(np.mean(np.prod(ours.congruence, axis=0)), ours.score)
    assert factor_match_score([f[:, :2] for f in first], second).score == pytest.approx(1)


def test_core_consistency_tells_the_rank():
    factors = [draw(n, 2, seed=n) for n in (6, 7, 8)]
    X = full(factors) + 0.01 * draw(6, 7, 8, seed=1)
    values = {}
    for rank in (1, 2, 3):
        found = cp_als(X, rank, key=jax.random.key(0), starts=4, tol=1e-8)
        values[rank] = core_consistency(X, found.value)
    assert values[2] > 99
    assert values[1] == pytest.approx(100)
    assert values[3] < 70
    assert core_consistency(1e6 * full(factors), CP.of([1e6 * factors[0], *factors[1:]])) == pytest.approx(100)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: k_ranks(3), "factors: found int"),
        (lambda: k_ranks([np.ones((2, 2)), np.ones((2, 3))]), "factors: found shapes"),
        (lambda: k_ranks([np.array([[np.nan]])]), "found NaN"),
        (lambda: k_ranks([np.ones((2, 2))], limit=0), "limit: found 0"),
        (lambda: kruskal_certificate([]), "factors: found list"),
        (lambda: factor_match_score([np.ones((2, 2))], [np.ones((3, 2))]), "second: found shapes"),
        (lambda: core_consistency(np.ones((2, 2)), [np.ones((2, 1)), np.ones((3, 1))]), "cp: found factors"),
    ],
)
def test_refusals(call, says):
    with pytest.raises(InputError, match=says):
        call()
