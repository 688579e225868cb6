"""Low rank from a matrix's own rows and columns, and from single passes: RRQR, ID, CUR, Nyström, ranks, the chooser."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.stats
import sympy

from corollary.core import Function, InputError, as_operator
from corollary.linalg import (
    choose_factorisation,
    cur,
    eckart_young,
    effective_rank,
    interpolative,
    leverage_sample,
    leverage_scores,
    numerical_rank,
    nystrom,
    randomized_rrqr,
    svd,
)
from corollary.linalg.low_rank._cur import deim

KEY = jax.random.key(0)
M, N, K = 60, 40, 6
HARMONIC = 1.0 / np.arange(1, N + 1)
SPECTRA = [HARMONIC, HARMONIC**3, 0.7 ** np.arange(N), np.ones(N)]


def with_spectrum(s, m=M, n=N, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((d, len(s))))[0] for d in (m, n))
    return ((U * s) @ V.T).astype(dtype)


def psd(s, seed=0, dtype=np.float64):
    U = np.linalg.qr(np.random.default_rng(seed).standard_normal((N, len(s))))[0]
    A = (U * s) @ U.T
    return ((A + A.T) / 2).astype(dtype)


def kahan(n=N, c=0.285):
    return np.diag((1 - c * c) ** (np.arange(n) / 2)) @ (np.eye(n) - c * np.triu(np.ones((n, n)), 1))


def explain(found):
    return {n: c.explain() for n, c in found.certificates.items()}


# Rank-revealing QR ---------------------------------------------------------------------------------------------------


@pytest.mark.covers("randomized-rrqr")
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_rrqr_error_is_within_the_theorem_of_the_optimum_and_near_lapacks(dtype, spectrum):
    A = with_spectrum(spectrum, dtype=dtype)
    optimum = spectrum[K] if len(spectrum) > K else 0
    eps = np.finfo(dtype).eps
    for seed in range(5):
        found = randomized_rrqr(A, K, key=jax.random.key(seed))
        Q, R, perm = found.value.Q, found.value.R, found.value.perm
        assert Q.shape == (M, K)
        assert R.shape == (K, N)
        error = np.linalg.norm(A - Q @ (Q.T @ A), 2)
        # √(1 + f² k(n − k)), twice for the sketch's distortion
        assert error <= 2 * np.sqrt(1 + 4 * K * (N - K)) * optimum + 100 * eps
        assert error >= optimum * (1 - 100 * eps)
        np.testing.assert_allclose(A[:, perm] - Q @ R, (A - Q @ (Q.T @ A))[:, perm], atol=100 * eps)
        np.testing.assert_allclose(A[:, perm[:K]], Q @ R[:, :K], atol=100 * eps)  # its own columns, exactly
        assert np.all(np.tril(R[:, :K], -1) == 0)
        certificate = found.certificates["spectral_error"]
        assert certificate.measured <= error * (1 + 100 * eps) + 100 * eps
        assert error <= certificate.bound
        assert bool(found.holds), explain(found)
    Qs, _, _ = scipy.linalg.qr(A, mode="economic", pivoting=True)
    theirs = np.linalg.norm(A - Qs[:, :K] @ (Qs[:, :K].T @ A), 2)
    assert error <= 3 * theirs + 100 * eps


@pytest.mark.covers("randomized-rrqr")
@pytest.mark.parametrize("settings", [{"rank": 10}, {"rank": 4}, {"tol": 1e-3}])
def test_rrqr_is_exact_on_low_rank(dtype, settings):
    A = with_spectrum(np.linspace(1, 0.5, 4), dtype=dtype)
    found = randomized_rrqr(A, key=KEY, **settings)
    assert found.stats["rank"] == 4
    Q, R, perm = found.value.Q, found.value.R, found.value.perm
    assert np.linalg.norm(A[:, perm] - Q @ R) <= 50 * np.finfo(dtype).eps
    assert bool(found.holds), explain(found)


@pytest.mark.covers("randomized-rrqr")
def test_swaps_mend_what_pivoting_gets_wrong():
    A = kahan()
    A = A * (1 - 1e-13) ** np.arange(N)  # so that rounding does not choose among equal columns
    k = N - 1
    _, R, _ = scipy.linalg.qr(A, mode="economic", pivoting=True)
    least = np.linalg.svd(A, compute_uv=False)
    assert abs(R[k, k]) > 100 * least[k]  # LAPACK's diagonal misses σ_n by orders of magnitude
    found = randomized_rrqr(A, k, oversampling=1, key=KEY)
    assert found.certificates["strong"].measured <= 2
    Q = found.value.Q
    assert np.linalg.norm(A - Q @ (Q.T @ A), 2) <= np.sqrt(1 + 4 * k * (N - k)) * least[k] * (1 + 1e-6)


@pytest.mark.covers("randomized-rrqr", "interpolative-decomposition")
@pytest.mark.parametrize("tol", [0.2, 0.02])
def test_a_tolerance_is_met_with_few_columns(tol):
    A = with_spectrum(HARMONIC**2)
    smallest = int((tol < HARMONIC**2).sum())
    for seed in range(4):
        found = randomized_rrqr(A, tol=tol, key=jax.random.key(seed))
        Q = found.value.Q
        assert np.linalg.norm(A - Q @ (Q.T @ A), 2) <= tol
        assert smallest <= found.stats["rank"] <= 2 * smallest + 5
        assert bool(found.holds)
        assert bool(found.converged)
        columns = interpolative(A, tol=tol, key=jax.random.key(seed))
        assert np.linalg.norm(A - columns.value.matrix, 2) <= 4 * tol


# Interpolative -------------------------------------------------------------------------------------------------------


@pytest.mark.covers("interpolative-decomposition")
@pytest.mark.parametrize("axis", ["columns", "rows", "both"])
@pytest.mark.parametrize("spectrum", SPECTRA[:3])
def test_interpolative_uses_its_own_entries_with_small_coefficients(dtype, axis, spectrum):
    A = with_spectrum(spectrum, dtype=dtype)
    found = interpolative(A, K, axis=axis, key=KEY)
    value, eps = found.value, np.finfo(dtype).eps
    part = A if value.rows is None else A[value.rows]
    np.testing.assert_array_equal(value.skeleton, part if value.columns is None else part[:, value.columns])
    if value.right is not None:
        np.testing.assert_array_equal(value.right[:, value.columns], np.eye(K))
        assert np.abs(value.right).max() <= 2
    if value.left is not None:
        np.testing.assert_array_equal(value.left[value.rows], np.eye(K))
        assert np.abs(value.left).max() <= 2
    error = np.linalg.norm(A - value.matrix, 2)
    factor = np.sqrt(1 + 4 * K * (max(M, N) - K))
    assert error <= 2 * factor * spectrum[K] * (1 if axis != "both" else 1 + factor) + 100 * eps
    certificate = found.certificates["spectral_error"]
    assert certificate.measured <= error * (1 + 1e-3) + 100 * eps
    assert error <= certificate.bound
    assert bool(found.holds), explain(found)
    low = with_spectrum(np.linspace(1, 0.5, 4), dtype=dtype)
    exact = interpolative(low, 4, axis=axis, key=KEY)
    assert np.linalg.norm(low - exact.value.matrix) <= 500 * eps


# Leverage scores -----------------------------------------------------------------------------------------------------


@pytest.mark.covers("leverage-scores")
@pytest.mark.parametrize("rank", [None, 1, K])
@pytest.mark.parametrize("axis", ["columns", "rows"])
def test_scores_are_the_diagonal_of_the_projector(dtype, rank, axis):
    for A in (with_spectrum(HARMONIC, dtype=dtype), with_spectrum(HARMONIC[:8], dtype=dtype)):
        found = leverage_scores(A, rank, axis=axis)
        r = np.linalg.matrix_rank(A) if rank is None else rank
        U, _, Vt = np.linalg.svd(A)
        basis = U[:, :r] if axis == "rows" else Vt[:r].T
        np.testing.assert_allclose(found.value, np.diagonal(basis @ basis.T), atol=3e3 * np.finfo(dtype).eps)
        assert found.value.dtype == dtype
        assert found.value.sum() == pytest.approx(r, rel=1e-4)
        assert found.value.min() >= 0
        assert found.value.max() <= 1 + 100 * np.finfo(dtype).eps
        assert bool(found.holds), explain(found)


@pytest.mark.covers("leverage-scores")
def test_sampling_frequencies(x64):
    scores = leverage_scores(with_spectrum(HARMONIC), 3).value
    drawn = leverage_sample(scores, 20_000, key=KEY)
    counts = np.bincount(drawn.indices, minlength=N)
    assert scipy.stats.chisquare(counts, 20_000 * scores / scores.sum()).pvalue > 1e-4
    np.testing.assert_allclose(drawn.weights, 1 / np.sqrt(20_000 * drawn.probabilities[drawn.indices]))
    # E C Cᵀ = A Aᵀ: the mean of many small samples comes near
    A = with_spectrum(HARMONIC)
    C = A[:, drawn.indices] * drawn.weights
    assert np.linalg.norm(C @ C.T - A @ A.T) <= 0.05 * np.linalg.norm(A) ** 2
    zero = leverage_sample(np.r_[0.0, 1.0, 0.0, 3.0, np.zeros(N - 4)], 20_000, key=KEY)
    assert set(zero.indices.tolist()) == {1, 3}


# CUR -----------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("cur-decomposition")
@pytest.mark.parametrize("selection", ["deim", "leverage", "pivoted"])
def test_the_core_is_the_frobenius_minimiser(dtype, selection):
    A = with_spectrum(HARMONIC, dtype=dtype)
    found = cur(A, K, selection=selection, key=KEY)
    value, eps = found.value, np.finfo(dtype).eps
    np.testing.assert_array_equal(value.C, A[:, value.columns])
    np.testing.assert_array_equal(value.R, A[value.rows])
    C, U, R = (x.astype(float) for x in (value.C, value.U, value.R))
    E = A.astype(float) - C @ U @ R
    gradient = C.T @ E @ R.T
    assert np.linalg.norm(gradient) <= 1e4 * eps * np.linalg.norm(C) * np.linalg.norm(R)
    best = np.linalg.pinv(C) @ A.astype(float) @ np.linalg.pinv(R)
    assert np.linalg.norm(E) <= np.linalg.norm(A - C @ best @ R) * (1 + 1e3 * eps)
    rng = np.random.default_rng(0)
    for _ in range(10):  # no perturbation improves
        D = rng.standard_normal(U.shape) * np.abs(U).max()
        for h in (1e-1, -1e-3):
            assert np.linalg.norm(A - C @ (U + h * D) @ R) >= np.linalg.norm(E)
    assert bool(found.holds), explain(found)


@pytest.mark.covers("cur-decomposition")
def test_the_pseudoinverse_of_the_intersection_is_not_the_best_core():
    A = with_spectrum(HARMONIC)
    value = cur(A, K).value
    worse = value.C @ np.linalg.pinv(A[np.ix_(value.rows, value.columns)]) @ value.R
    assert np.linalg.norm(A - worse) > 1.05 * np.linalg.norm(A - value.matrix)
    low = with_spectrum(HARMONIC[:K])  # rank exactly K: there they are the same
    value = cur(low, K).value
    same = value.C @ np.linalg.pinv(low[np.ix_(value.rows, value.columns)]) @ value.R
    np.testing.assert_allclose(same, value.matrix, atol=1e-10)


@pytest.mark.covers("cur-decomposition")
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_error_is_below_the_computed_bound_and_near_the_best(spectrum):
    A = with_spectrum(spectrum)
    best = float(eckart_young(A, K).value.frobenius_error)
    for seed in range(4):
        for selection in ("deim", "leverage"):
            found = cur(A, K, selection=selection, key=jax.random.key(seed))
            error = np.linalg.norm(A - found.value.matrix)
            assert error == pytest.approx(found.certificates["error"].measured)
            assert bool(found.certificates["error"].holds)
            assert found.stats["best"] == pytest.approx(best, rel=1e-6)
        enough = cur(A, K, selection="leverage", count=38, key=jax.random.key(seed))
        assert np.linalg.norm(A - enough.value.matrix) <= 2 * best  # (2 + ε) of the best for enough samples
    # bad indices: the bound grows with them and still holds
    worst = cur(A, K, columns=[0, 1], rows=list(range(K)))
    assert bool(worst.holds)


@pytest.mark.covers("cur-decomposition")
def test_exact_where_the_selection_has_the_rank(dtype):
    A = with_spectrum(np.linspace(1, 0.3, 5), dtype=dtype)
    for settings in ({"rank": 5}, {"rank": 8}, {"columns": list(range(7)), "rows": list(range(9))}):
        found = cur(A, **settings)
        assert np.linalg.norm(A - found.value.matrix) <= 3e3 * np.finfo(dtype).eps
        assert bool(found.holds), explain(found)


@pytest.mark.covers("cur-decomposition")
def test_deim_is_its_naive_twin():
    V = np.linalg.svd(with_spectrum(HARMONIC))[2][:K].T
    chosen = [int(np.abs(V[:, 0]).argmax())]
    for j in range(1, K):
        c = np.linalg.solve(V[chosen, :j], V[chosen, j])
        chosen.append(int(np.abs(V[:, j] - V[:, :j] @ c).argmax()))
    assert deim(V).tolist() == chosen


# Nyström -------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("nystrom-approximation")
def test_nystrom_expected_error_is_below_the_theorem_and_the_remainder_is_semidefinite():
    # untruncated (rank = k + p), Theorem 4.1: E ‖A − Â‖_* <= (1 + k/(p − 1)) Σ_{j>k} λ_j
    k, p, count = 6, 5, 40
    for spectrum in (HARMONIC, HARMONIC**2):
        A = psd(spectrum)
        keys = jax.random.split(KEY, count)
        E = A - np.stack([nystrom(A, k + p, oversampling=0, key=key).value.matrix for key in keys])
        trace, least = np.trace(E, axis1=1, axis2=2), np.linalg.eigvalsh(E)
        bound = (1 + k / (p - 1)) * spectrum[k:].sum()
        assert trace.mean() <= bound + 4 * trace.std() / np.sqrt(count)
        assert trace.min() >= spectrum[k + p :].sum() * (1 - 1e-10)
        assert least.min() >= -1e-12  # never overshoots


@pytest.mark.covers("nystrom-approximation")
def test_nystrom_on_every_kind_of_input(dtype):
    A = psd(HARMONIC**2, dtype=dtype)
    eps = np.finfo(dtype).eps
    found = nystrom(A, K, key=KEY)
    reference = found.value.matrix
    error = np.linalg.norm(A - reference, 2)
    assert error <= found.certificates["spectral_error"].bound
    assert error <= found.certificates["trace_error"].bound
    assert np.all(np.diff(found.value.eigenvalues) <= 0)
    assert np.all(found.value.eigenvalues >= 0)
    assert found.value.U.dtype == dtype
    assert bool(found.holds), explain(found)
    kinds = [scipy.sparse.csr_array(A), jnp.asarray(A), as_operator(A)]
    for kind in kinds:
        other = nystrom(kind, K, key=KEY, trace=float(np.trace(A)))
        np.testing.assert_allclose(other.value.matrix, reference, atol=3e3 * eps)
        assert bool(other.holds)
    exact = nystrom(psd(HARMONIC[:4], dtype=dtype), K, key=KEY)
    assert np.linalg.norm(psd(HARMONIC[:4]) - exact.value.matrix) <= 300 * eps
    for scale in (1e-12, 1e12):
        scaled = nystrom((A * scale).astype(dtype), K, key=KEY)
        np.testing.assert_allclose(scaled.value.matrix / scale, reference, atol=100 * eps)
        assert bool(scaled.holds)


@pytest.mark.covers("nystrom-approximation", "interpolative-decomposition")
def test_operators_known_by_their_products(x64):
    A = jnp.asarray(psd(HARMONIC**2))
    f = jax.jit(lambda op: (nystrom(op, K, key=KEY), interpolative(op, K, key=KEY)))
    one, two = f(Function(lambda x: A @ x, N))
    np.testing.assert_allclose(one.value.matrix, nystrom(np.asarray(A), K, key=KEY).value.matrix, atol=1e-10)
    assert np.linalg.norm(A - two.value.matrix, 2) <= 10 * HARMONIC[K] ** 2
    assert bool(two.holds)


@pytest.mark.covers("nystrom-approximation")
def test_nystrom_finds_out_an_indefinite_matrix():
    assert not bool(nystrom(-np.eye(N), K, key=KEY).certificates["psd"].holds)
    assert not bool(nystrom(np.diag(np.r_[1.0, -np.ones(N - 1)]), K, key=KEY).certificates["psd"].holds)
    assert bool(nystrom(np.zeros((N, N)), K, key=KEY).holds)


# Ranks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("numerical-rank")
@pytest.mark.parametrize("method", ["svd", "qr"])
def test_rank_of_planted_matrices(dtype, method):
    rng = np.random.default_rng(1)
    for m, n, r in ((12, 9, 4), (9, 12, 4), (12, 9, 9), (5, 5, 0), (1, 1, 1), (6, 1, 1), (1, 6, 1)):
        A = (rng.standard_normal((m, r)) @ rng.standard_normal((r, n))).astype(dtype)
        found = numerical_rank(A, method=method)
        value = found.value
        assert value.rank == np.linalg.matrix_rank(A) == r
        assert value.rank + value.nullity == n
        assert value.basis.shape == (m, r)
        assert value.null_space.shape == (n, n - r)
        eps, size = np.finfo(dtype).eps, max(float(np.abs(A).max(initial=0)), 1.0)
        assert np.linalg.norm(A @ value.null_space) <= 200 * eps * size * n
        np.testing.assert_allclose(value.null_space.T @ value.null_space, np.eye(n - r), atol=50 * eps)
        np.testing.assert_allclose(value.basis @ (value.basis.T @ A), A, atol=200 * eps * size)
        assert np.linalg.norm(value.relation) == pytest.approx(1 if r < n else 0, rel=1e-5)
        subset = A[:, value.independent].astype(float)
        assert len(value.independent) == r
        if r:
            assert np.linalg.det(subset.T @ subset) > 0
        assert bool(found.holds), explain(found)
        noisy = A + (1e-4 * size * rng.standard_normal((m, n))).astype(dtype)
        assert numerical_rank(noisy, tol=1e-2, method=method).value.rank == r or r == 0
        if r:  # dimension is blind to order and to invertible maps
            shuffled = (rng.standard_normal((m, m)).astype(dtype) @ A)[:, rng.permutation(n)]
            assert numerical_rank(shuffled, tol=1e-4 if dtype == np.float32 else 1e-10, method=method).value.rank == r


@pytest.mark.covers("numerical-rank")
def test_rank_of_integer_matrices_is_sympys():
    rng = np.random.default_rng(2)
    for _ in range(10):
        A = rng.integers(-2, 3, size=(5, 6))
        A[:, 3] = A[:, 0] - 2 * A[:, 1]
        _, pivots = sympy.Matrix(A).rref()
        value = numerical_rank(A).value
        assert value.rank == len(pivots)
        assert sympy.Matrix(A[:, value.independent]).rank() == len(pivots)


@pytest.mark.covers("numerical-rank")
def test_what_qr_may_miss_and_an_unclear_rank():
    A = kahan(90)
    tol = 1e-10  # between σ_n and R_nn
    assert numerical_rank(A, tol=tol).value.rank == np.linalg.matrix_rank(A, tol=tol * np.linalg.norm(A, 2)) < 90
    unclear = with_spectrum(np.r_[np.ones(5), 1e-8, 1e-8 * (1 + 1e-9), np.zeros(3)], 20, 10)
    assert not bool(numerical_rank(unclear, tol=1e-8).certificates["clear"].holds)
    assert bool(numerical_rank(unclear, tol=1e-6).certificates["clear"].holds)


@pytest.mark.covers("numerical-rank")
def test_rank_under_jit(x64):
    rng = np.random.default_rng(1)
    f = jax.jit(numerical_rank)
    for r in (4, 0):
        A = rng.standard_normal((12, r)) @ rng.standard_normal((r, 9))
        found = f(jnp.asarray(A))
        value = found.value
        assert int(value.rank) == r
        assert value.null_space.shape == (9, 9)
        assert float(jnp.linalg.norm(A @ value.null_space)) <= 1e-12
        assert int(jnp.sum(jnp.linalg.norm(value.null_space, axis=0) > 0.5)) == 9 - r
        assert bool(found.holds)
    assert f._cache_size() == 1


@pytest.mark.covers("effective-rank")
def test_effective_and_stable_rank(dtype):
    for k in (1, 3, 7):
        s = np.r_[np.full(k, 2.5), np.zeros(9 - k)].astype(dtype)
        for scale in (1.0, 1e-12, 1e12):
            found = effective_rank((s * scale).astype(dtype))
            assert float(found.value.entropy) == pytest.approx(k, rel=1e-5)
            assert float(found.value.stable) == pytest.approx(k, rel=1e-5)
            assert bool(found.holds)
    A = with_spectrum(HARMONIC, dtype=dtype)
    value = effective_rank(A).value
    assert float(value.stable) == pytest.approx(np.linalg.norm(A) ** 2 / np.linalg.norm(A, 2) ** 2, rel=1e-4)
    p = HARMONIC / HARMONIC.sum()
    assert float(value.entropy) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-4)
    assert 1 <= value.stable <= value.entropy <= np.linalg.matrix_rank(A) + 1e-3
    zero = effective_rank(np.zeros((3, 2), dtype))
    assert float(zero.value.entropy) == float(zero.value.stable) == 0
    assert bool(zero.holds)


@pytest.mark.covers("effective-rank")
def test_effective_rank_gradient(x64):
    s = jnp.asarray([3.0, 2.0, 0.5])
    h, d = 1e-6, jnp.asarray([1.0, -1.0, 0.5])
    for field in ("entropy", "stable"):
        f = jax.jit(lambda s, field=field: getattr(effective_rank(s).value, field))
        numeric = (f(s + h * d) - f(s - h * d)) / (2 * h)
        assert float(jax.jvp(f, (s,), (d,))[1]) == pytest.approx(float(numeric), rel=1e-7)


# The chooser ---------------------------------------------------------------------------------------------------------


@pytest.mark.covers("approximation-chooser")
@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"shape": (100_000, 2000), "rank": 20, "solver": "svd"}, "svd"),  # 1: a named solver is obeyed
        ({"shape": (300, 300), "rank": 2, "solver": "nystrom", "goal": "psd"}, "nystrom"),
        ({"shape": (5000, 5000), "goal": "psd"}, "pivoted_cholesky"),  # 2: semidefinite
        ({"shape": (5000, 5000), "rank": 2000, "goal": "psd"}, "pivoted_cholesky"),
        ({"shape": (5000, 5000), "rank": 50, "goal": "psd", "entries": True}, "pivoted_cholesky"),
        ({"shape": (5000, 5000), "rank": 50, "goal": "psd", "accuracy": 1e-10}, "pivoted_cholesky"),
        ({"shape": (5000, 5000), "rank": 50, "goal": "psd"}, "nystrom"),
        ({"shape": (300, 300), "rank": 5, "sparse": True}, "randomized_svd"),  # 3: products only
        ({"shape": (300, 300), "goal": "basis", "sparse": True}, "range_finder"),
        ({"shape": (50_000, 200)}, "svd"),  # 4: no rank
        ({"shape": (50_000, 200), "goal": "rank"}, "numerical_rank"),
        ({"shape": (50_000, 200), "goal": "columns"}, "pivoted_qr"),
        ({"shape": (2000, 2000), "rank": 500}, "svd"),  # 5: a large share, or small
        ({"shape": (400, 300), "rank": 3, "goal": "basis"}, "pivoted_qr"),
        ({"shape": (2000, 1000), "rank": 20}, "randomized_svd"),  # 6: few directions of a large matrix
        ({"shape": (2000, 1000), "rank": 20, "goal": "basis"}, "range_finder"),
        ({"shape": (2000, 1000), "rank": 20, "goal": "rank"}, "randomized_rrqr"),
        ({"shape": (2000, 1000), "rank": 20, "goal": "columns"}, "interpolative"),
        ({"shape": (2000, 1000), "rank": 20, "goal": "columns and rows"}, "cur"),
        ({"shape": (2000, 2000), "rank": 300, "budget": 2e10}, "randomized_svd"),  # the budget decides
    ],
)
def test_every_row_of_the_decision_table(settings, method):
    found = choose_factorisation(**settings)
    assert str(found.value.method) == method
    assert str(found.stats["method"]).startswith(method + ": ")
    m, n = settings["shape"]
    if not settings.get("entries") and method != "pivoted_cholesky":
        assert found.value.flops >= m * n  # a dense method reads the matrix
        assert found.value.passes >= 1


@pytest.mark.covers("approximation-chooser")
@pytest.mark.parametrize(
    ("goal", "settings"),
    [
        ("svd", {}),
        ("basis", {}),
        ("rank", {}),
        ("columns", {}),
        ("columns and rows", {}),
        ("svd", {"solver": "svd"}),
        ("psd", {}),
        ("psd", {"entries": True}),
    ],
)
def test_the_trial_on_a_part_covers_the_true_error(goal, settings):
    A = with_spectrum(1.0 / np.arange(1, 521) ** 1.5, 520, 520)
    A = A @ A.T if goal == "psd" else A
    found = choose_factorisation(A=A, rank=8, goal=goal, key=KEY, **settings)
    certificate = found.certificates["subproblem"]
    assert 0 < certificate.measured <= certificate.bound
    assert bool(found.holds)
    assert bool(choose_factorisation(A=scipy.sparse.csr_array(A), rank=8, goal=goal, key=KEY, **settings).holds)


@pytest.mark.covers("approximation-chooser")
def test_svd_agrees_with_the_chooser():
    for shape, k in (((600, 520), 8), ((90, 60), 8), ((600, 520), 200)):
        chosen = str(choose_factorisation(shape, k).value.method)
        made = str(svd(with_spectrum(np.ones(min(shape)), *shape), k).stats["solver"])
        assert made.startswith("krylov" if chosen == "randomized_svd" else "direct")


# All of them ---------------------------------------------------------------------------------------------------------


METHODS = {
    "rrqr": lambda A: randomized_rrqr(A, 5, key=KEY),
    "columns": lambda A: interpolative(A, 5, key=KEY),
    "rows": lambda A: interpolative(A, 5, axis="rows", key=KEY),
    "both": lambda A: interpolative(A, 5, axis="both", key=KEY),
    "cur": lambda A: cur(A, 5, selection="pivoted", key=KEY),
}


def product(name, value):
    if name == "rrqr":
        return np.asarray(value.Q @ value.R)[:, np.argsort(value.perm)]
    return np.asarray(value.matrix)


@pytest.mark.parametrize("name", ["rrqr", "both", "cur"])
def test_jit_vmap_scale_and_kinds_of_input(x64, name):
    A = with_spectrum(HARMONIC**2)
    method = METHODS[name]
    reference = product(name, method(A).value)
    f = jax.jit(jax.vmap(method))
    batch = f(jnp.stack([jnp.asarray(A), 3 * jnp.asarray(A)]))
    for i, scale in enumerate((1, 3)):
        one = jax.tree.map(lambda x, i=i: x[i] if isinstance(x, jax.Array) and x.ndim else x, batch)
        np.testing.assert_allclose(product(name, one.value), scale * reference, atol=1e-10)
    assert bool(np.all(batch.holds))
    f(2 * jnp.stack([jnp.asarray(A)] * 2))
    assert f._cache_size() == 1
    for scale in (1e-200, 1e-12, 1e12, 1e150):
        scaled = method(A * scale)
        np.testing.assert_allclose(product(name, scaled.value) / scale, reference, atol=1e-9)
        assert bool(scaled.holds), explain(scaled)
    for kind in (scipy.sparse.csc_array(A), as_operator(A)):
        np.testing.assert_allclose(product(name, method(kind).value), reference, atol=1e-9)
    assert isinstance(jax.tree.leaves(method(jnp.asarray(A)).value)[0], jax.Array)
    assert isinstance(jax.tree.leaves(method(A).value)[0], np.ndarray)


@pytest.mark.parametrize("name", METHODS)
def test_degenerate_input(dtype, name):
    for A in (np.zeros((M, N)), np.ones((M, N)), np.outer(np.eye(M)[3], np.eye(N)[5])):
        found = METHODS[name](A.astype(dtype))
        np.testing.assert_allclose(product(name, found.value), A, atol=50 * np.finfo(dtype).eps)
        assert bool(found.holds), explain(found)
    one = {"rrqr": randomized_rrqr, "cur": cur}.get(name, interpolative)(np.full((1, 1), -3.0, dtype), 1, key=KEY)
    np.testing.assert_allclose(product(name, one.value), [[-3.0]], rtol=10 * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: randomized_rrqr(np.eye(3), key=KEY), "exactly one"),
        (lambda: randomized_rrqr(np.eye(3), 1, tol=0.1, key=KEY), "exactly one"),
        (lambda: randomized_rrqr(np.eye(3), 4, key=KEY), "rank: found 4"),
        (lambda: randomized_rrqr(np.array([[np.nan]]), 1, key=KEY), "A: found NaN"),
        (lambda: interpolative(np.eye(3), 1, axis="all", key=KEY), "axis"),
        (lambda: interpolative(np.eye(3), tol=0.0, key=KEY), "tol"),
        (lambda: jax.jit(lambda A: interpolative(A, tol=0.1, key=KEY))(jnp.eye(3)), "tol"),
        (lambda: leverage_scores(np.eye(3), axis="both"), "axis"),
        (lambda: leverage_scores(np.eye(3), 0), "rank"),
        (lambda: leverage_sample(np.array([-1.0, 2.0]), 1, key=KEY), "scores"),
        (lambda: leverage_sample(np.zeros(3), 1, key=KEY), "scores"),
        (lambda: cur(np.eye(3)), "rank: found None"),
        (lambda: cur(np.eye(3), 1, selection="best"), "selection"),
        (lambda: cur(np.eye(3), columns=[3], rows=[0]), "columns: found an index"),
        (lambda: cur(np.eye(3), columns=[0], rows=[0.5]), "rows"),
        (lambda: cur(np.eye(3), columns=[], rows=[0]), "columns"),
        (lambda: jax.jit(lambda A: cur(A, 1).value.U)(jnp.eye(3)), "selection"),
        (lambda: nystrom(np.ones((2, 3)), 1, key=KEY), "A: found shape"),
        (lambda: nystrom(np.eye(3), 4, key=KEY), "rank: found 4"),
        (lambda: numerical_rank(np.eye(3), method="lu"), "method"),
        (lambda: numerical_rank(np.eye(3), tol=-1.0), "tol"),
        (lambda: numerical_rank(np.zeros((0, 3))), "A: found an empty"),
        (lambda: effective_rank(np.array([1.0, -1.0])), "A: found a negative"),
        (lambda: choose_factorisation((3, 0)), "shape"),
        (lambda: choose_factorisation((3, 3), 4), "rank: found 4"),
        (lambda: choose_factorisation((3, 3), goal="lu"), "goal"),
        (lambda: choose_factorisation((3, 4), goal="psd"), "shape"),
        (lambda: choose_factorisation((3, 4), solver="magic"), "solver"),
        (lambda: choose_factorisation((3000, 3000), budget=1e3), "budget"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(InputError, match=match):
        call()
