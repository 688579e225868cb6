"""Tensor trains: the format, its arithmetic, TT-SVD and rounding, against the theorems, TensorLy and NumPy."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorly
import tensorly.decomposition

from corollary.core import InputError, Status
from corollary.linalg.tensor import (
    TensorTrain,
    TensorTrainMatrix,
    tt_identity,
    tt_kronecker_sum,
    tt_laplacian,
    tt_matmat,
    tt_matvec,
    tt_ones,
    tt_random,
    tt_rank_one,
    tt_round,
    tt_sum_of,
    tt_svd,
    unfold,
)
from corollary.linalg.tensor._tt_svd import _in_jax

SHAPE = (4, 5, 6, 3)
DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


def eps(dtype):
    return float(np.finfo(dtype).eps)


def draw(*shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def train(*ranks, shape=SHAPE, dtype=np.float64, seed=0):
    full = (1, *ranks, 1)
    return TensorTrain(
        tuple(draw(full[k], n, full[k + 1], dtype=dtype, seed=100 * seed + k) for k, n in enumerate(shape))
    )


def matrix(*ranks, rows=SHAPE, columns=SHAPE, dtype=np.float64, seed=0):
    full, pairs = (1, *ranks, 1), zip(rows, columns, strict=True)
    return TensorTrainMatrix(
        tuple(draw(full[k], m, n, full[k + 1], dtype=dtype, seed=seed + k) for k, (m, n) in enumerate(pairs))
    )


def decaying(seed, dtype: Any = np.float64, rate=0.3):
    """A full-rank tensor whose unfoldings' singular values fall."""
    T = draw(*SHAPE, dtype=dtype, seed=seed)
    for mode, n in enumerate(SHAPE):
        T = T * (rate ** np.arange(n)).reshape([-1 if k == mode else 1 for k in range(len(SHAPE))])
    return T.astype(dtype)


def error(solution, T):
    return np.linalg.norm((solution.value.to_dense().astype(np.complex128) - T).ravel()) / np.linalg.norm(T.ravel())


# The format ----------------------------------------------------------------------------------------------------------


@pytest.mark.covers("tt-format")
@pytest.mark.parametrize("dtype", DTYPES)
def test_entries_are_products_of_slices(dtype):
    t = train(2, 3, 2, dtype=dtype)
    full = t.to_dense()
    np.testing.assert_allclose(full, tensorly.tt_to_tensor(list(t.cores)), atol=64 * eps(dtype))
    for i in ((0, 0, 0, 0), (3, 4, 5, 2), (1, 2, 3, 0)):
        product = functools.reduce(np.matmul, [c[:, k, :] for c, k in zip(t.cores, i, strict=True)])
        np.testing.assert_allclose(product[0, 0], full[i], atol=64 * eps(dtype))
        np.testing.assert_allclose(t.entries(np.array([i]))[0], full[i], atol=64 * eps(dtype))
    r = t.rank
    assert t.size == sum(r[k] * n * r[k + 1] for k, n in enumerate(SHAPE)) == sum(c.size for c in t.cores)
    long = tt_ones((10,) * 30)
    assert long.size == 300  # beside 10³⁰ entries
    assert float(long.norm()) == pytest.approx(1e15)


@pytest.mark.covers("tt-format")
@pytest.mark.parametrize("dtype", DTYPES)
def test_arithmetic_is_that_of_the_full_tensors(dtype):
    a, b = train(2, 3, 2, dtype=dtype), train(1, 2, 3, dtype=dtype, seed=1)
    A, B = a.to_dense(), b.to_dense()
    near = functools.partial(np.testing.assert_allclose, rtol=0, atol=400 * eps(dtype))
    for found, expected in (((a + b), A + B), ((a - b), A - B), (a * b, A * B), (-a, -A), (2.5 * a, 2.5 * A)):
        near(found.to_dense() / np.abs(A).max(), expected / np.abs(A).max())
        assert found.cores[0].dtype == dtype
    assert (a + b).rank == (1, 3, 5, 5, 1)
    assert (a * b).rank == (1, 2, 6, 6, 1)
    scale = np.linalg.norm(A) * np.linalg.norm(B)
    near(a.inner(b) / scale, np.vdot(A, B) / scale)
    assert float(a.norm()) == pytest.approx(np.linalg.norm(A), rel=64 * eps(dtype))
    with pytest.raises(InputError, match="other: found a train of modes"):
        _ = a + tt_ones((2, 2))


@pytest.mark.covers("tt-format")
@pytest.mark.parametrize("dtype", DTYPES)
def test_matrices_in_the_format(dtype):
    other = (2, 3, 2, 4)
    A, B = matrix(2, 1, 3, columns=other, dtype=dtype), matrix(1, 2, 2, rows=other, columns=SHAPE, dtype=dtype, seed=9)
    x = train(2, 2, 2, shape=other, dtype=dtype)
    full, near = A.to_dense(), functools.partial(np.testing.assert_allclose, rtol=0, atol=2000 * eps(dtype))
    assert full.shape == A.shape == (math.prod(SHAPE), math.prod(other))
    i, j = (3, 1, 4, 2), (1, 2, 0, 3)
    entry = functools.reduce(np.matmul, [c[:, m, n, :] for c, m, n in zip(A.cores, i, j, strict=True)])[0, 0]
    near(full[np.ravel_multi_index(i, SHAPE), np.ravel_multi_index(j, other)], entry)
    product = full @ x.to_dense().ravel()
    near(tt_matvec(A, x).to_dense().ravel() / np.abs(product).max(), product / np.abs(product).max())
    square = full @ B.to_dense()
    near(tt_matmat(A, B).to_dense() / np.abs(square).max(), square / np.abs(square).max())
    near(A.adjoint().to_dense(), full.conj().T)
    assert float(A.norm()) == pytest.approx(np.linalg.norm(full), rel=64 * eps(dtype))
    near(A.inner(A) / np.linalg.norm(full) ** 2, 1)
    near(TensorTrainMatrix.of_train(A.as_train(), A.row_modes).to_dense(), full)
    assert A.size == sum(c.size for c in A.cores)
    assert A.rank == (1, 2, 1, 3, 1)


@pytest.mark.covers("tt-format")
def test_constructors():
    v = [np.arange(1.0, n + 1) for n in SHAPE]
    grid = np.meshgrid(*v, indexing="ij")
    np.testing.assert_allclose(tt_rank_one(v).to_dense(), math.prod(grid))
    np.testing.assert_allclose(tt_sum_of(v).to_dense(), sum(grid))
    assert tt_sum_of(v).rank == (1, 2, 2, 2, 1)
    np.testing.assert_array_equal(tt_sum_of(v[:1]).to_dense(), v[0])
    np.testing.assert_array_equal(tt_identity((2, 3)).to_dense(), np.eye(6))
    matrices = [draw(n, n, seed=n) for n in (2, 3, 2)]
    I2, I3 = np.eye(2), np.eye(3)
    expected = (
        np.kron(np.kron(matrices[0], I3), I2)
        + np.kron(np.kron(I2, matrices[1]), I2)
        + np.kron(np.kron(I2, I3), matrices[2])
    )
    np.testing.assert_allclose(tt_kronecker_sum(matrices).to_dense(), expected)
    L = tt_laplacian((4, 3), spacing=(0.5, 1.0))
    values = [(2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))) / h**2 for n, h in ((4, 0.5), (3, 1.0))]
    np.testing.assert_allclose(np.linalg.eigvalsh(L.to_dense()), np.sort(np.add.outer(*values).ravel()), atol=1e-12)
    assert L.rank == (1, 2, 1)
    one = tt_random(SHAPE, 3, key=jax.random.key(0))
    assert one.rank == (1, 3, 3, 3, 1)
    assert one.cores[0].dtype == np.float64
    squares = [np.mean(tt_random(SHAPE, 3, key=jax.random.key(k)).to_dense() ** 2) for k in range(100)]
    assert np.mean(squares) == pytest.approx(1, abs=0.4 * float(np.std(squares, ddof=1)))  # four standard errors
    single = tt_random(SHAPE, 2, key=jax.random.key(0), dtype=jnp.float32)
    assert single.cores[0].dtype == jnp.float32


# TT-SVD --------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("tt-svd")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tol", [0.5, 1e-2, 1e-4, 1e-6, 1e-8, 1e-12, 0])
def test_the_measured_error_is_within_the_tolerance_always(dtype, tol):
    rounding = 16 * len(SHAPE) * eps(dtype)
    for seed in range(6):
        T = draw(*SHAPE, dtype=dtype, seed=seed) if seed == 0 else decaying(seed, dtype)
        solution = tt_svd(T, tol=tol)
        measured = error(solution, T)
        assert measured <= tol + rounding
        assert float(solution.stats["relative_error"]) == pytest.approx(measured, rel=1e-3, abs=rounding)
        # The error is at most the ROOT of the sum of squares; the plain sum is looser.
        root = np.sqrt(np.sum(solution.stats["discarded"] ** 2))
        assert measured <= root * (1 + 1e-3) + rounding
        assert root <= np.sum(solution.stats["discarded"]) + 1e-16
        assert bool(solution.holds), [c.explain() for c in solution.certificates.values()]
        assert solution.status == Status.CONVERGED
        assert solution.value.cores[0].dtype == dtype
        for k, r in enumerate(solution.value.rank[1:-1], 1):
            assert r <= np.linalg.matrix_rank(T.reshape(math.prod(SHAPE[:k]), -1), tol=eps(dtype) * np.linalg.norm(T))
        if dtype == np.float64 and tol >= 1e-8:  # no unfolding can be cut below these ranks at this tolerance
            for k, r in enumerate(solution.value.rank[1:-1], 1):
                s = np.linalg.svd(T.reshape(math.prod(SHAPE[:k]), -1), compute_uv=False)
                classical = tol / math.sqrt(len(SHAPE) - 1) * np.linalg.norm(s)
                tails = np.sqrt(np.append(np.cumsum(s[::-1] ** 2)[::-1], 0))
                assert np.argmax(tails <= tol * tails[0]) <= r <= np.argmax(tails <= classical * (1 - 1e-3)) + 0


@pytest.mark.covers("tt-svd")
@pytest.mark.parametrize("dtype", DTYPES)
def test_given_ranks_the_bound_and_quasi_optimality_hold(dtype):
    for seed in range(6):
        T = decaying(seed, dtype)
        for ranks in (1, 2, (2, 4, 2), (1, 3, 3, 2, 1)):
            solution = tt_svd(T, rank=ranks)
            inner = solution.value.rank[1:-1]
            tails = [
                np.linalg.norm(np.linalg.svd(T.reshape(math.prod(SHAPE[:k]), -1), compute_uv=False)[r:])
                for k, r in enumerate(inner, 1)
            ]
            measured = error(solution, T) * np.linalg.norm(T)
            slack = 1 + 1e-3
            assert measured <= np.linalg.norm(tails) * slack
            assert measured <= math.sqrt(3) * max(tails) * slack  # max(tails) is below the best error at these ranks
            for found, tail in zip(solution.stats["discarded"] * np.linalg.norm(T), tails, strict=True):
                assert found <= tail * slack
            assert bool(solution.holds)
            theirs = tensorly.decomposition.tensor_train(T, [1, *inner, 1])
            other = np.linalg.norm(tensorly.tt_to_tensor(theirs) - T)
            assert measured <= math.sqrt(3) * other * slack
            assert measured == pytest.approx(other, rel=0.2)


@pytest.mark.covers("tt-svd")
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_at_full_rank_and_equal_to_tensorly(dtype):
    T = draw(*SHAPE, dtype=dtype)
    full = tt_svd(T, rank=100)
    assert full.value.rank == (1, 4, 18, 3, 1)
    assert error(full, T) <= 16 * eps(dtype)
    # Three equal modes: both methods cut the same unfoldings in the same order.
    C = decaying(3, dtype)[:, :4, :4, 0]
    for r in (1, 2, 3):
        theirs = tensorly.tt_to_tensor(tensorly.decomposition.tensor_train(C, [1, r, r, 1]))
        ours = tt_svd(C, rank=r).value.to_dense()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=200 * eps(dtype) * float(np.linalg.norm(C)))
    exact = train(2, 3, 2, dtype=dtype)
    for solution in (tt_svd(exact.to_dense(), rank=10), tt_svd(exact.to_dense(), tol=100 * eps(dtype))):
        assert solution.value.rank == (1, 2, 3, 2, 1)  # not above the unfoldings' ranks
        assert error(solution, exact.to_dense()) <= 100 * eps(dtype)
        assert bool(solution.holds)


@pytest.mark.covers("tt-svd")
def test_a_matrix_is_its_truncated_svd():
    A = decaying(0)[:, :, 0, 0]
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    for r in (1, 2, 4):
        np.testing.assert_allclose(tt_svd(A, rank=r).value.to_dense(), (U[:, :r] * s[:r]) @ Vt[:r], atol=1e-14)


@pytest.mark.covers("tt-svd")
def test_a_tensor_above_the_threads_threshold():
    x = np.linspace(0, 1, 34)
    T = 1 / (1 + x[:, None, None, None] + x[:, None, None] + x[:, None] * x)
    for kind, tol in ((np.float64, 1e-4), (np.float64, 1e-9), (np.float32, 1e-5)):
        solution = tt_svd(T.astype(kind), tol=tol)
        assert error(solution, T) <= tol
        assert bool(solution.holds)
        assert max(solution.value.rank) <= 10
    assert "Gram" in str(tt_svd(T, tol=1e-4).stats["method"])
    assert "QR" in str(tt_svd(T, tol=1e-9).stats["method"])
    T[3, 3, 3, 3] = np.nan
    with pytest.raises(InputError, match="tensor: found NaN"):
        tt_svd(T, tol=1e-4)
    with pytest.raises(InputError, match="tensor: found NaN"):
        tt_svd(T, tol=1e-12)


@pytest.mark.covers("tt-svd")
@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1e12, 1e200])
def test_scale_changes_only_the_scale(scale):
    T = decaying(1)
    one, other = tt_svd(T, tol=1e-3), tt_svd(T * scale, tol=1e-3)
    assert other.value.rank == one.value.rank
    assert bool(other.holds)
    np.testing.assert_allclose(other.value.to_dense() / scale, one.value.to_dense(), atol=1e-12)
    if 1e-100 < scale < 1e100:
        small = tt_svd((T * scale).astype(np.float32), tol=1e-3)
        assert small.value.rank == one.value.rank
        assert bool(small.holds)
    doubled = TensorTrain((one.value.cores[0] * scale, *one.value.cores[1:]))
    rounded = tt_round(doubled + doubled, tol=1e-8)
    assert rounded.value.rank == one.value.rank
    assert bool(rounded.holds)


@pytest.mark.covers("tt-svd")
def test_edges_of_the_input():
    zero = tt_svd(np.zeros(SHAPE), tol=1e-3)
    assert zero.value.rank == (1, 1, 1, 1, 1)
    assert not zero.value.to_dense().any()
    assert bool(zero.holds)
    thin = draw(1, 4, 1, 5)
    assert tt_svd(thin, tol=1e-14).value.rank == (1, 1, 4, 4, 1)
    np.testing.assert_allclose(tt_svd(thin, rank=9).value.to_dense(), thin, atol=1e-14)
    ints = tt_svd(np.arange(24).reshape(2, 3, 4), tol=1e-12)
    assert ints.value.cores[0].dtype == np.float64
    assert ints.value.rank == (1, 2, 2, 1)


@pytest.mark.covers("tt-svd")
@pytest.mark.parametrize("scale", [1e-25, 1, 1e20])
def test_the_way_for_other_devices(x64, scale):
    T = decaying(1, np.float32)
    A, rounding = jnp.asarray(T * np.float32(scale)), 16 * len(SHAPE) * eps(np.float32)
    for tol in (1e-1, 1e-3, 1e-5):  # the first unfolding is so wide that the triangle of a QR stands for it
        solution = _in_jax(A, None, tol)
        assert error(solution, np.asarray(A, np.complex128)) <= tol + rounding
        assert bool(solution.holds)
        assert solution.value.rank == _in_jax(jnp.asarray(T), None, tol).value.rank
    jitted = jax.jit(lambda A: tt_svd(A, rank=1))(A)
    measured = float(jitted.stats["relative_error"])
    assert measured == pytest.approx(error(jitted, np.asarray(A, np.complex128)), rel=1e-4)
    assert bool(jitted.holds)


@pytest.mark.covers("tt-svd")
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_under_jit_and_its_gradient(x64, dtype):
    T = np.ascontiguousarray(decaying(2, dtype)[:3, :3, :3, 0])
    held = jnp.asarray(T)
    plain = tt_svd(T, rank=2).value.to_dense()
    jitted = jax.jit(lambda A: tt_svd(A, rank=2))(held)
    assert bool(jitted.holds)
    assert np.linalg.norm(jitted.value.to_dense() - T) == pytest.approx(np.linalg.norm(plain - T), rel=0.05)
    loss = jax.jit(lambda A: jnp.sum(tt_svd(A, rank=2).value.to_dense().real ** 3))
    gradient, step = jax.jit(jax.grad(loss))(held), jnp.asarray(draw(3, 3, 3, dtype=dtype, seed=8))
    h = 1e-5
    slope = (loss(held + h * step) - loss(held - h * step)) / (2 * h)
    assert float(jnp.sum(gradient * step).real) == pytest.approx(float(slope), rel=1e-5)
    again = jax.jit(lambda A: tt_round(tt_svd(A, rank=3).value, rank=2).value.to_dense())(held)
    np.testing.assert_allclose(again, jitted.value.to_dense(), atol=0.05 * np.abs(T).max())
    with pytest.raises(InputError, match="tol: found a traced tensor"):
        jax.jit(lambda A: tt_svd(A, tol=0.1))(held)
    concrete = tt_svd(held, tol=1e-3)
    assert isinstance(concrete.value.cores[0], jax.Array)
    assert concrete.value.rank == tt_svd(T, tol=1e-3).value.rank


@pytest.mark.covers("tt-format")
def test_gradients_through_the_format_and_vmap(x64):
    a, b = (jax.tree.map(jnp.asarray, train(2, 2, shape=(3, 3, 3), seed=s)) for s in (0, 1))
    direction, h = jax.tree.map(jnp.cos, a), 1e-6
    for value in (lambda t: t.inner(b), lambda t: jnp.sum(t.to_dense() ** 2), lambda t: (t * b - t).norm()):
        moved = [value(jax.tree.map(lambda c, e, s=s: c + s * h * e, a, direction)) for s in (1, -1)]
        gradient = jax.jit(jax.grad(value))(a)
        slope = sum(jnp.vdot(g, e) for g, e in zip(gradient.cores, direction.cores, strict=True))
        assert float(slope) == pytest.approx(float(moved[0] - moved[1]) / (2 * h), rel=1e-6)
    batch = jnp.stack([jnp.asarray(draw(3, 3, 3, seed=s)) for s in range(3)])
    both = jax.jit(jax.vmap(lambda A: tt_svd(A, rank=2)))(batch)
    assert both.holds.shape == (3,)
    assert bool(both.holds.all())
    for k in range(3):
        alone = tt_svd(np.asarray(batch[k]), rank=2)
        assert float(both.stats["relative_error"][k]) == pytest.approx(alone.stats["relative_error"], rel=0.1)


# Rounding ------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("tt-svd", "tt-format")
@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_keeps_the_tolerance_without_the_full_tensor(dtype):
    for seed in range(4):
        exact = tt_svd(decaying(seed, dtype), rank=100).value
        doubled = exact + train(1, 1, 1, dtype=dtype, seed=seed) * np.float64(1e-3) - exact * 0.5
        T = doubled.to_dense().astype(np.complex128)
        for tol in (0.3, 1e-2, 1e-5, 0):
            solution = tt_round(doubled, tol=tol)
            limit = tol + 200 * eps(dtype) * float(solution.stats["cancellation"])
            measured = error(solution, T)
            assert measured <= limit
            assert float(solution.stats["relative_error"]) == pytest.approx(
                measured, rel=1e-2, abs=200 * eps(dtype) * float(solution.stats["cancellation"])
            )
            assert bool(solution.holds), [c.explain() for c in solution.certificates.values()]
            assert all(
                r <= min(math.prod(SHAPE[:k]), math.prod(SHAPE[k:])) for k, r in enumerate(solution.value.rank[:-1])
            )
    exact = train(2, 3, 2, dtype=dtype)
    assert tt_round(exact + exact - exact, tol=1e3 * eps(dtype)).value.rank == exact.rank


@pytest.mark.covers("tt-svd")
def test_rounding_equals_tt_svd_and_measures_tiny_errors():
    exact = train(3, 4, 3)
    small = exact + 1e-11 * train(1, 1, 1, seed=5)
    rounded = tt_round(small, tol=1e-9)
    assert rounded.value.rank == exact.rank
    truth = 1e-11 * float(train(1, 1, 1, seed=5).norm()) / float(exact.norm())
    # ‖a‖² − 2⟨a, b⟩ + ‖b‖² would know nothing below √eps = 1.5e-8
    assert 0.01 * truth < float(rounded.stats["relative_error"]) <= 1.1 * truth
    # both are between the least error and √(d−1) times it
    one = float(tt_round(exact, rank=2).stats["relative_error"])
    other = error(tt_svd(exact.to_dense(), rank=2), exact.to_dense())
    assert max(one, other) <= math.sqrt(3) * min(one, other)


@pytest.mark.covers("tt-svd")
def test_long_trains_do_not_overflow():
    t = tt_random((10,) * 60, 3, key=jax.random.key(0), dtype=jnp.float32)
    t = TensorTrain(tuple(np.asarray(c) for c in t.cores))
    ones = TensorTrain((np.ones((1, 10, 1), np.float32),) * 40)
    a, b = (TensorTrain((np.array(v, np.float32).reshape(1, 2, 1),) * 200) for v in ([0.7, 0.7], [0.6, 0.0]))
    tol = 1e-5
    for given, rank in ((t + t, 3), (ones, 1), (a + b, 1)):  # the blocks of a + b grow unequally: cores mislead
        rounded = tt_round(given, tol=tol)
        assert max(rounded.value.rank) == rank
        assert bool(rounded.holds)
        wide, exact = (TensorTrain(tuple(c.astype(np.float64) for c in s.cores)) for s in (rounded.value, given))
        limit = tol + 16 * len(given.cores) * eps(np.float32) * float(rounded.stats["cancellation"])
        assert float((wide - exact).norm()) <= limit * float(exact.norm())
        assert rounded.value.cores[0].dtype == np.float32


@pytest.mark.covers("tt-svd")
def test_a_train_that_cancels_is_not_called_exact():
    a = train(2, 3, 2)
    nothing = a - a * (1 + 1e-10)
    solution = tt_round(nothing, tol=1e-12)
    assert float(solution.stats["cancellation"]) > 1e8
    assert float(solution.certificates["relative_error"].bound or 0) > 1e-8
    assert bool(solution.holds)
    assert float(solution.value.norm()) == pytest.approx(1e-10 * float(a.norm()), rel=1e-4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: tt_svd(np.ones((2, 2)), rank=0), "rank: found 0"),
        (lambda: tt_svd(np.ones((2, 2))), "rank, tol: found"),
        (lambda: tt_svd(np.ones((2, 2)), rank=1, tol=0.1), "rank, tol: found"),
        (lambda: tt_svd(np.ones((2, 2)), tol=-0.1), "tol: found -0.1"),
        (lambda: tt_svd(np.ones((2, 2)), tol=np.nan), "tol: found nan"),
        (lambda: tt_svd(np.ones((2, 2, 2)), rank=(2, 5)), "rank: found 5 at bond 2, expected at most 2"),
        (lambda: tt_svd(np.ones((2, 2, 2)), rank=(2, 2, 2)), "rank: found 3 numbers"),
        (lambda: tt_svd(np.ones(4), tol=0.1), "tensor: found an array of shape"),
        (lambda: tt_svd(np.ones((2, 0)), tol=0.1), "tensor: found an empty array"),
        (lambda: tt_svd(np.array([[np.nan, 1.0]]), tol=0.1), "tensor: found NaN"),
        (lambda: tt_svd(np.array([["a", "b"]]), tol=0.1), "tensor: found dtype"),
        (lambda: tt_round(np.ones((2, 2)), tol=0.1), "train: found ndarray, expected a TensorTrain"),
        (lambda: tt_round(TensorTrain((np.ones((1, 2, 2)), np.ones((3, 2, 1)))), tol=0.1), "train: found shapes"),
        (lambda: tt_round(TensorTrain((np.full((1, 2, 1), np.inf),)), tol=0.1), "found NaN or infinity"),
        (lambda: TensorTrain.of([np.ones((2, 2, 1))]), "cores: found shapes"),
        (lambda: tt_ones(()), "shape: found"),
        (lambda: tt_ones((2, 0)), r"shape\[1\]: found 0"),
        (lambda: tt_random((2, 2), 0, key=jax.random.key(0)), "rank: found 0"),
        (lambda: tt_rank_one([np.ones((2, 2))]), "vectors: found shapes"),
        (lambda: tt_kronecker_sum([np.ones((2, 3))]), "matrices: found shapes"),
        (lambda: tt_laplacian((2, 2), spacing=0.0), "spacing: found"),
        (lambda: tt_laplacian((2, 2), spacing=np.inf), "spacing: found"),
        (lambda: tt_laplacian((2, 2), spacing=1j), "spacing: found"),
        (lambda: tt_laplacian((2, 2), spacing="wide"), "spacing: found"),
        (lambda: tt_laplacian((2, 2), spacing=(1.0, 1.0, 1.0)), "spacing: found"),
        (lambda: tt_ones((2, 2)) * np.ones(2), "factor: found an array of shape"),
        (lambda: np.ones(2) * tt_ones((2, 2)), "factor: found an array of shape"),
        (lambda: tt_matvec(tt_identity((2, 2)), tt_ones((2, 3))), "x: found modes"),
        (lambda: tt_matmat(tt_identity((2, 2)), tt_identity((2, 3))), "B: found row modes"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_unfoldings_bound_the_ranks_of_the_middle_bonds():
    """The k-th unfolding of a train has rank at most r_k (Theorem 2.1's converse), seen through `unfold`."""
    t = train(2, 3, 2)
    assert np.linalg.matrix_rank(unfold(t.to_dense(), 0)) == 2
    assert np.linalg.matrix_rank(t.to_dense().reshape(20, -1)) == 3
