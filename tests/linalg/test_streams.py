"""Streams: Frequent Directions and the single-pass SVD against their theorems, merged, batched, jitted."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from corollary.core import InputError
from corollary.linalg import FrequentDirections, StreamingSVD, frequent_directions

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
M, D, SIZE = 130, 24, 8


def stream(decay=0.8, m=M, d=D, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((m, d)) * decay ** np.arange(d) @ np.linalg.qr(rng.standard_normal((d, d)))[0]).astype(
        dtype
    )


def twin(A, size):
    """Liberty's algorithm, row by row, by SVD: the paper's, with the (ℓ + 1)-th value subtracted."""
    B, shed = np.zeros((0, A.shape[1])), 0.0
    for row in A:
        B = np.vstack([B, row])
        if len(B) == 2 * size + 1:
            s, Vt = np.linalg.svd(B[:-1], full_matrices=False)[1:]
            delta = s[size] ** 2
            shed += delta
            B = np.vstack([np.sqrt(np.maximum(s[:size] ** 2 - delta, 0))[:, None] * Vt[:size], row])
    s, Vt = np.linalg.svd(B, full_matrices=False)[1:]
    delta = s[size] ** 2 if len(s) > size else 0.0
    return np.sqrt(np.maximum(s[:size] ** 2 - delta, 0))[:, None] * Vt[:size], shed + delta


def assert_theorem(A, found, size, tol=1e-12):
    """0 ⪯ AᵀA − BᵀB ⪯ Δ I, and Δ <= ‖A − A_k‖_F²/(ℓ − k) for all k < ℓ, with the computed bound in between."""
    A, B = A.astype(float), np.asarray(found.value, float)
    gap = np.linalg.eigvalsh(A.T @ A - B.T @ B)
    energy = np.sum(A**2)
    shed = float(found.certificates["covariance_error"].measured)
    assert gap[0] >= -tol * energy
    assert gap[-1] <= float(found.stats["error"]) * (1 + 1e-6) + 1e-300
    assert gap[-1] <= shed + tol * energy
    tails = energy - np.r_[0, np.cumsum(np.linalg.svd(A, compute_uv=False) ** 2)]
    for k in range(min(size, len(tails))):
        assert shed <= max(tails[k], 0) / (size - k) + tol * energy
    assert bool(found.holds)


@pytest.mark.covers("frequent-directions")
@pytest.mark.parametrize("decay", [1.0, 0.8, 0.3])
@pytest.mark.parametrize("size", [1, 3, SIZE, D, 40])
def test_covariance_bound_for_every_k(decay, size):
    for seed in range(3):
        A = stream(decay, seed=seed)
        found = frequent_directions(A, size)
        assert found.value.shape == (size, D)
        assert_theorem(A, found, size)
    if size >= D:
        np.testing.assert_allclose(found.value.T @ found.value, A.T @ A, atol=1e-12 * np.sum(A**2))


@pytest.mark.covers("frequent-directions")
def test_agrees_with_the_papers_algorithm():
    A = stream()
    state = FrequentDirections(SIZE, D)
    for row in A:
        state = state.update(row)
    found = state.result()
    B, shed = twin(A, SIZE)
    np.testing.assert_allclose(found.value.T @ found.value, B.T @ B, atol=1e-12 * np.sum(A**2))
    assert found.certificates["covariance_error"].measured == pytest.approx(shed, rel=1e-10)
    assert found.stats["rows"] == M
    assert found.stats["energy"] == pytest.approx(np.sum(A**2))
    gram = found.value @ found.value.T
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-12 * gram[0, 0])  # orthogonal rows,
    assert np.all(np.diff(np.diag(gram)) <= 1e-12 * gram[0, 0])  # the longest first


@pytest.mark.covers("frequent-directions")
def test_a_stream_made_for_it_attains_the_bound():
    """ℓ + 1 orthogonal rows of one length: every k gives the same bound, and it is attained."""
    A = np.eye(SIZE + 1, D)
    found = frequent_directions(A, SIZE)
    assert np.linalg.norm(A.T @ A - found.value.T @ found.value, 2) == pytest.approx(1.0)
    assert found.certificates["covariance_error"].bound == pytest.approx(1.0)


@pytest.mark.covers("frequent-directions")
def test_merging_keeps_the_bound(dtype):
    parts = [stream(decay, m, seed=i, dtype=dtype) for i, (decay, m) in enumerate([(0.7, 50), (0.9, 3), (0.8, 90)])]
    states = [FrequentDirections(SIZE, D, dtype=dtype).update(part) for part in parts]
    merged = states[0].merge(states[1]).merge(states[2])
    other = states[2].merge(states[1].merge(states[0]))
    A = np.vstack(parts)
    later = np.vstack([A, parts[0]])
    for state, seen in ((merged, A), (other, A), (merged.update(parts[0]), later)):
        assert_theorem(seen, state.result(), SIZE, tol=200 * np.finfo(dtype).eps)
        assert state.result().value.dtype == dtype
    empty = FrequentDirections(SIZE, D, dtype=dtype)
    with_empty, plain = (np.abs(state.result().value) for state in (states[0].merge(empty), states[0]))
    np.testing.assert_allclose(with_empty, plain, atol=200 * np.finfo(dtype).eps)  # rows up to their signs


@pytest.mark.covers("frequent-directions")
def test_batches_sparse_jax_and_jit_agree(x64):
    A = stream()
    update = jax.jit(lambda state, rows: state.update(rows))
    whole = FrequentDirections(SIZE, D).update(A)
    by_jax = update(jax.tree.map(jnp.asarray, FrequentDirections(SIZE, D)), jnp.asarray(A))
    sparse = FrequentDirections(SIZE, D).update(scipy.sparse.csr_array(A))
    reference = whole.result().value
    for state in (by_jax, sparse):
        found = state.result()
        np.testing.assert_allclose(found.value.T @ found.value, reference.T @ reference, atol=1e-11)
        np.testing.assert_allclose(state.shed, whole.shed, rtol=1e-10)
    assert isinstance(by_jax.result().value, jax.Array)
    size = update._cache_size()
    update(by_jax, jnp.asarray(2 * A))
    assert update._cache_size() == size
    both = jax.vmap(lambda rows: FrequentDirections(SIZE, D).update(rows).shed)(jnp.stack([jnp.asarray(A)[:30]] * 2))
    np.testing.assert_allclose(both[0], FrequentDirections(SIZE, D).update(A[:30]).shed, rtol=1e-10)


@pytest.mark.covers("frequent-directions")
@pytest.mark.parametrize("scale", [1e-12, 1e12, 1e-140])
def test_scaling_changes_the_scale_only(scale):
    A = stream()
    plain, scaled = frequent_directions(A, SIZE), frequent_directions(A * scale, SIZE)
    np.testing.assert_allclose(np.abs(scaled.value), np.abs(plain.value) * scale, atol=1e-11 * scale)
    assert scaled.stats["error"] == pytest.approx(plain.stats["error"] * scale**2, rel=1e-10)
    assert bool(scaled.holds)


@pytest.mark.covers("frequent-directions")
def test_protected_gradients_leave_the_stream_alone(dtype):
    A = stream(0.3, dtype=dtype)
    state = FrequentDirections(SIZE, D, dtype=dtype).update(A)
    V = state.basis(4)
    np.testing.assert_allclose(V.T @ V, np.eye(4), atol=50 * np.finfo(dtype).eps)
    g = RNG.standard_normal((3, D)).astype(dtype)
    found = state.protect(g, 4)
    assert found.value.dtype == dtype
    np.testing.assert_allclose(found.value @ V, 0, atol=50 * np.finfo(dtype).eps)
    np.testing.assert_allclose(found.value, g - g @ V @ V.T, atol=50 * np.finfo(dtype).eps)
    certificate = found.certificates["interference"]
    moved = np.sum((found.value.astype(float) @ A.astype(float).T) ** 2, axis=1)
    assert np.all(moved <= certificate.measured * (1 + 1e-5))
    assert np.all(certificate.measured < 1e-2 * np.sum((g @ A.T) ** 2, axis=1))
    assert bool(np.all(certificate.holds))
    one = state.protect(jnp.asarray(g[0]), 4)
    np.testing.assert_allclose(one.value, found.value[0], atol=1e-5)
    # nothing seen: nothing is protected
    np.testing.assert_array_equal(FrequentDirections(SIZE, D, dtype=dtype).protect(g).value, g)
    few = FrequentDirections(SIZE, D, dtype=dtype).update(A[:2])
    assert np.linalg.matrix_rank(few.basis()) == 2
    assert np.max(np.abs(few.protect(A[:2]).value)) <= 100 * np.finfo(dtype).eps * np.max(np.abs(A))


@pytest.mark.covers("frequent-directions")
def test_directions_at_the_edges():
    for A in (np.zeros((5, 3)), np.full((1, 1), -2.0), np.ones((20, 1)), np.ones((7, 3)), np.zeros((20, 4))):
        for size in (1, 2, 5):
            found = frequent_directions(A, size)
            assert_theorem(A, found, size)
            if np.linalg.matrix_rank(A) <= size:
                np.testing.assert_allclose(found.value.T @ found.value, A.T @ A, atol=1e-13)
    assert frequent_directions(np.arange(6).reshape(2, 3), 2).value.dtype == np.float64
    assert np.all(FrequentDirections(2, 3).result().value == 0)
    before = FrequentDirections(2, 3)
    before.update(np.ones((2, 3)))
    assert np.all(before.buffer == 0)  # states are immutable
    for call, match in (
        (lambda: FrequentDirections(0, 3), "size"),
        (lambda: FrequentDirections(2, 3).update(np.ones((2, 4))), "rows: found 4"),
        (lambda: FrequentDirections(2, 3).update(np.full((2, 3), np.nan)), "rows: found NaN"),
        (lambda: FrequentDirections(2, 3).merge(FrequentDirections(3, 3)), "other"),
        (lambda: FrequentDirections(2, 3).basis(3), "rank: found 3"),
        (lambda: frequent_directions(np.zeros((0, 2)), 2), "A: found an empty"),
    ):
        with pytest.raises(InputError, match=match):
            call()


# Single-pass SVD -----------------------------------------------------------------------------------------------------

ROWS, COLUMNS, RANK, CORE = 60, 40, 3, 9


def with_spectrum(s, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((d, len(s))))[0] for d in (ROWS, COLUMNS))
    return ((U * s) @ V.T).astype(dtype)


def svd_of(A, key=KEY, **settings):
    return StreamingSVD(*A.shape, **({"rank": RANK, "core": CORE, "key": key, "dtype": A.dtype} | settings)).update(A)


def dense(found):
    U, s, Vt = found.value
    return (U * s) @ Vt


@functools.cache
def many():
    """Errors of 200 draws on a slowly decaying matrix, in one compiled call."""
    s = 1.0 / np.arange(1, COLUMNS + 1)
    A = jnp.asarray(with_spectrum(s, dtype=np.float32))

    @jax.jit
    def errors(A, keys):
        def one(key):
            found = svd_of(A, key).result()
            error = jnp.linalg.norm(A - dense(found))
            return error, found.certificates["frobenius_error"].measured, found.stats["error_bound"]

        return jax.vmap(one)(keys)

    return s, *(np.asarray(v, float) for v in errors(A, jax.random.split(jax.random.key(1), 200)))


def test_single_pass_error_is_that_of_the_theorem():
    spectrum, errors, _, _ = many()
    k, s = CORE, 2 * CORE + 1
    tails = [np.sum(spectrum[rho:] ** 2) for rho in range(k - 1)]
    squares = min((k + rho - 1) / (k - rho - 1) * tails[rho] for rho in range(k - 1)) * (s - 1) / (s - k - 1)
    best = math.sqrt(np.sum(spectrum[RANK:] ** 2))
    assert errors.min() >= best * (1 - 1e-5)  # Eckart-Young
    assert errors.mean() <= best + 2 * math.sqrt(squares)
    assert errors.mean() <= 2 * best  # in fact not far from the best possible


def test_error_estimate_is_unbiased_and_its_bound_holds():
    _, errors, estimates, bounds = many()
    ratio = (estimates / errors) ** 2
    assert abs(ratio.mean() - 1) <= 4 * ratio.std() / math.sqrt(len(ratio))
    assert np.mean(errors > bounds) <= 0.01 / 2 + 4 * math.sqrt(0.005 / 200)


def test_exact_where_the_rank_fits(dtype):
    A = with_spectrum(np.array([3.0, 2.0, 1.0]), dtype=dtype)
    found = svd_of(A).result(tol=1e-3)
    eps = np.finfo(dtype).eps
    U, s, Vt = found.value
    np.testing.assert_allclose(dense(found), A, atol=500 * eps)
    np.testing.assert_allclose(s, [3, 2, 1], rtol=500 * eps)
    np.testing.assert_allclose(U.T @ U, np.eye(3), atol=50 * eps)
    np.testing.assert_allclose(Vt @ Vt.T, np.eye(3), atol=50 * eps)
    assert {v.dtype for v in found.value} == {dtype}
    assert bool(found.certificates["tolerance"].holds)
    rough = with_spectrum(np.ones(COLUMNS), dtype=dtype)
    assert not bool(svd_of(rough).result(tol=1e-3).holds)  # a flat spectrum cannot be kept: it is said


def test_any_batches_in_any_order_on_any_side_give_the_same(x64):
    A = with_spectrum(1.0 / np.arange(1, COLUMNS + 1))
    reference = svd_of(A)
    fresh = StreamingSVD(ROWS, COLUMNS, rank=RANK, core=CORE, key=KEY)
    batched = fresh
    for batch in np.split(A, [7, 8, 40]):
        batched = batched.update(batch)
    merged = fresh.update(A[40:], start=40).merge(fresh.update(A[:40]))
    by_sum = fresh.update(A - 1.0, start=0).update(np.ones_like(A), start=0)
    sparse = fresh.update(scipy.sparse.csr_array(A))
    update = jax.jit(lambda state, rows: state.update(rows))
    by_jax = update(fresh, jnp.asarray(A[:30]))
    by_jax = update(by_jax, jnp.asarray(A[30:]))
    assert update._cache_size() <= 2  # NumPy state, then a JAX one
    for state in (batched, merged, by_sum, sparse, by_jax):
        for name in "XYZW":
            np.testing.assert_allclose(getattr(state, name), getattr(reference, name), atol=1e-10)
        np.testing.assert_allclose(dense(state.result()), dense(reference.result()), atol=1e-10)
        assert int(state.seen) == ROWS
    assert isinstance(reference.result().value[0], np.ndarray)
    assert isinstance(by_jax.result().value[0], jax.Array)


def test_single_pass_at_the_edges():
    zero = svd_of(np.zeros((ROWS, COLUMNS))).result(tol=0.1)
    assert np.all(zero.value[1] == 0)
    assert bool(zero.holds)
    one = StreamingSVD(1, 1, rank=1, key=KEY).update(np.full((1, 1), -2.0)).result()
    assert dense(one)[0, 0] == pytest.approx(-2.0)
    A = with_spectrum(1.0 / np.arange(1, COLUMNS + 1))
    for scale in (1e-100, 1e100):
        np.testing.assert_allclose(dense(svd_of(A * scale).result()), dense(svd_of(A).result()) * scale, rtol=1e-8)
    fresh = StreamingSVD(ROWS, COLUMNS, rank=RANK, key=KEY)
    for call, match in (
        (lambda: StreamingSVD(4, 3, rank=4, key=KEY), "rank: found 4"),
        (lambda: StreamingSVD(4, 3, rank=2, core=1, key=KEY), "core: found 1"),
        (lambda: fresh.update(np.ones((2, 3))), "rows: found 3"),
        (lambda: fresh.update(np.ones((ROWS + 1, COLUMNS))), "rows: found rows 0"),
        (lambda: fresh.update(np.full((1, COLUMNS), np.inf)), "rows: found NaN"),
        (lambda: fresh.merge(StreamingSVD(ROWS, COLUMNS, rank=RANK, key=jax.random.key(9))), "another key"),
        (lambda: fresh.merge(StreamingSVD(ROWS, COLUMNS, rank=RANK, core=20, key=KEY)), "other"),
    ):
        with pytest.raises(InputError, match=match):
            call()
