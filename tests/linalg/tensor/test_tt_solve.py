"""Linear systems and completion in tensor-train form: dense solves, monotone energies and misfits, bad input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core import InputError, Status
from corollary.linalg.tensor import (
    TensorTrain,
    TensorTrainMatrix,
    tt_complete,
    tt_identity,
    tt_kronecker_sum,
    tt_laplacian,
    tt_matvec,
    tt_ones,
    tt_random,
    tt_rank_one,
    tt_solve,
    tt_sum_of,
)

KEY = jax.random.key(0)
SHAPE = (6, 5, 6)


def cast(tree, dtype):
    return jax.tree.map(lambda c: c.astype(dtype), tree)


def convection():
    """Not symmetric: diffusion with a drift along every axis."""
    return tt_kronecker_sum([2.5 * np.eye(n) - 1.6 * np.eye(n, k=1) - 0.4 * np.eye(n, k=-1) for n in SHAPE])


# Linear systems ------------------------------------------------------------------------------------------------------


@pytest.mark.covers("tt-format")
@pytest.mark.parametrize("method", ["als", "mals"])
@pytest.mark.parametrize("positive_definite", [True, False])
def test_the_dense_solution_is_found(method, positive_definite):
    A = tt_laplacian(SHAPE) if positive_definite else convection()
    b = tt_sum_of([np.linspace(1, 2, n) for n in SHAPE])
    truth = np.linalg.solve(A.to_dense(), b.to_dense().ravel())
    condition = np.linalg.cond(A.to_dense())
    for seed in range(3):
        solution = tt_solve(
            A, b, method=method, positive_definite=positive_definite, rank=6, tol=1e-8, key=jax.random.key(seed)
        )
        x = solution.value.to_dense().ravel()
        residual = np.linalg.norm(A.to_dense() @ x - b.to_dense().ravel()) / float(b.norm())
        assert residual <= 1e-8
        assert float(solution.certificates["relative_residual"].measured) == pytest.approx(residual, rel=0.1, abs=1e-11)
        assert np.linalg.norm(x - truth) <= 1e-8 * condition * np.linalg.norm(truth)
        assert bool(solution.holds), [c.explain() for c in solution.certificates.values()]
        assert solution.status == Status.CONVERGED


@pytest.mark.covers("tt-format")
def test_als_lowers_the_energy_and_falls_short_honestly():
    A, b = tt_laplacian(SHAPE), tt_sum_of([np.linspace(1, 2, n) ** 3 for n in SHAPE])
    solution = tt_solve(A, b, method="als", positive_definite=True, rank=1, tol=1e-8, key=KEY)
    assert solution.status == Status.MAX_STEPS
    assert not bool(solution.certificates["relative_residual"].holds)
    assert bool(solution.certificates["monotone"].holds)
    energy = solution.history["energy"] if solution.history else np.empty(0)
    assert np.all(np.diff(energy) <= 1e-13 * abs(energy[0]))
    truth = np.linalg.solve(A.to_dense(), b.to_dense().ravel())
    least = -b.to_dense().ravel() @ truth / float(b.norm()) ** 2
    assert energy[-1] >= least
    # the best rank-one energy is stationary: another start ends there too
    other = tt_solve(A, b, method="als", positive_definite=True, rank=1, tol=1e-8, key=jax.random.key(7))
    np.testing.assert_allclose(other.value.to_dense(), solution.value.to_dense(), rtol=0.02, atol=1e-3)


@pytest.mark.covers("tt-format")
def test_local_systems_too_large_to_factor(monkeypatch):
    from corollary.linalg.tensor import _tt_solve

    monkeypatch.setattr(_tt_solve, "DENSE", 10)
    A, b = tt_laplacian((5, 5, 5, 5)), tt_ones((5, 5, 5, 5))
    solution = tt_solve(A, b, positive_definite=True, tol=1e-7, key=KEY)
    assert bool(solution.holds)
    assert solution.stats["local_iterations"] > 0
    truth = np.linalg.solve(A.to_dense(), b.to_dense().ravel())
    np.testing.assert_allclose(solution.value.to_dense().ravel(), truth, rtol=1e-5)


@pytest.mark.covers("tt-format")
def test_eight_dimensions():
    """Five to the eighth unknowns; the right-hand side is an eigenvector, so that the answer is known."""
    n, d = 5, 8
    mode = np.sin(np.pi * np.arange(1, n + 1) / (n + 1))
    b = tt_rank_one([mode] * d)
    solution = tt_solve(tt_laplacian((n,) * d), b, positive_definite=True, tol=1e-9, key=KEY)
    eigenvalue = d * (2 - 2 * np.cos(np.pi / (n + 1)))
    assert float((eigenvalue * solution.value - b).norm() / b.norm()) <= 1e-8
    assert bool(solution.holds)


@pytest.mark.parametrize("kind", [np.float32, np.complex128])
def test_kinds_of_numbers(kind):
    A, b = cast(tt_laplacian(SHAPE), kind), cast(tt_ones(SHAPE), kind)
    if kind == np.complex128:
        A = tt_kronecker_sum([tt_laplacian((n,)).to_dense() * (1 + 0.2j) for n in SHAPE])
        b = b * 1j
    tol = 1e-3 if kind == np.float32 else 1e-8
    solution = tt_solve(A, b, tol=tol, key=KEY)
    assert solution.value.cores[0].dtype == kind
    assert bool(solution.holds)
    wide = [cast(t, np.complex128).to_dense() for t in (A, solution.value, b)]
    residual = np.linalg.norm(wide[0] @ wide[1].ravel() - wide[2].ravel()) / np.linalg.norm(wide[2])
    assert residual <= tol
    measured = float(solution.certificates["relative_residual"].measured)
    assert measured == pytest.approx(residual, abs=float(solution.stats["residual_uncertainty"]))
    held = tt_solve(jax.tree.map(jnp.asarray, A), b, tol=1e-3, key=KEY)
    assert isinstance(held.value.cores[0], jax.Array)


def test_what_single_precision_cannot_reach_is_said():
    A, b = (cast(t, np.float32) for t in (tt_laplacian((12, 12, 12)), tt_ones((12, 12, 12))))
    solution = tt_solve(A, b, tol=1e-6, key=KEY)  # the normal equations square the condition number
    assert solution.status == Status.PRECISION
    assert not bool(solution.certificates["relative_residual"].holds)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scale_changes_only_the_scale(scale):
    A, b = tt_laplacian(SHAPE), tt_ones(SHAPE)
    one = tt_solve(A, b, positive_definite=True, tol=1e-8, key=KEY).value
    other = tt_solve(A, b * scale, positive_definite=True, tol=1e-8, key=KEY).value
    np.testing.assert_allclose(other.to_dense() / scale, one.to_dense(), rtol=1e-6)
    other = tt_solve(
        TensorTrainMatrix((A.cores[0] * scale, *A.cores[1:])), b, positive_definite=True, tol=1e-8, key=KEY
    )
    np.testing.assert_allclose(other.value.to_dense() * scale, one.to_dense(), rtol=1e-6)
    zero = tt_solve(A, b * 0.0, key=KEY)
    assert not zero.value.to_dense().any()
    assert bool(zero.holds)


# Completion ----------------------------------------------------------------------------------------------------------


def observed(train, count, seed=0):
    rng = np.random.default_rng(seed)
    i = np.stack([rng.integers(0, n, count) for n in train.shape], axis=1)
    return i, train.entries(i)


@pytest.mark.covers("tt-format")
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_a_train_is_recovered_from_a_part_of_its_entries(dtype):
    for seed in range(3):
        exact = tt_random((8, 9, 8, 7), 2, key=jax.random.key(seed))
        if dtype == np.complex128:
            exact = exact * 1j + tt_random(exact.shape, 1, key=jax.random.key(9)) * (1 + 0j)
        rank = exact.rank[1]
        i, v = observed(exact, 2500)  # of 4032
        solution = tt_complete(i, v, exact.shape, rank=rank, tol=1e-7, key=KEY)
        T = exact.to_dense()
        error = np.linalg.norm(solution.value.to_dense() - T) / np.linalg.norm(T)
        assert error <= 1e-5
        assert bool(solution.holds), [c.explain() for c in solution.certificates.values()]
        assert solution.status == Status.CONVERGED
        assert error / 3 <= float(solution.certificates["held_out"].measured) <= 3 * error
        trace = solution.history["misfit"] if solution.history else np.ones(1)
        assert np.all(np.diff(trace) <= 1e-12)


@pytest.mark.covers("tt-format")
def test_noise_is_not_fitted_away_and_is_said():
    exact = tt_random((10, 10, 10), 2, key=jax.random.key(1))
    i, v = observed(exact, 700)
    noisy = v + 0.05 * np.std(v) * np.random.default_rng(3).standard_normal(len(v))
    solution = tt_complete(i, noisy, exact.shape, rank=2, tol=1e-6, key=KEY)
    assert solution.status == Status.MAX_STEPS
    assert not bool(solution.certificates["misfit"].holds)
    assert bool(solution.certificates["monotone"].holds)
    T = exact.to_dense()
    assert np.linalg.norm(solution.value.to_dense() - T) / np.linalg.norm(T) <= 0.05
    assert 0.03 <= float(solution.certificates["held_out"].measured) <= 0.1
    assert "held_out" not in tt_complete(i, v, exact.shape, rank=2, holdout=0, key=KEY).certificates


@pytest.mark.covers("tt-format")
def test_what_is_held_out_is_not_seen_in_another_row():
    rng = np.random.default_rng(0)
    cells = np.stack(np.unravel_index(rng.choice(125, 100, replace=False), (5, 5, 5)), axis=1)
    v = rng.standard_normal(100)
    i, v = np.tile(cells, (8, 1)), np.tile(v, 8)
    solution = tt_complete(i, v, (5, 5, 5), rank=5, max_steps=20, starts=1, key=KEY)  # more unknowns than entries
    assert float(solution.certificates["misfit"].measured) < 0.5
    assert float(solution.certificates["held_out"].measured) > 0.8


@pytest.mark.parametrize("scale", [1e-150, 1e-12, 1e12, 1e150])
def test_completion_scales(scale):
    exact = tt_random((6, 6, 6), 2, key=jax.random.key(0))
    i, v = observed(exact, 400)
    one, other = (tt_complete(i, v * s, exact.shape, rank=2, key=KEY) for s in (1.0, scale))
    np.testing.assert_allclose(other.value.to_dense() / scale, one.value.to_dense(), atol=1e-4)
    assert bool(other.holds)
    single = tt_complete(i, v.astype(np.float32), exact.shape, rank=2, tol=1e-4, key=KEY)
    assert single.value.cores[0].dtype == np.float32
    assert bool(single.holds)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda A, b: tt_solve(np.eye(3), b, key=KEY), "A: found ndarray, expected a TensorTrainMatrix"),
        (lambda A, b: tt_solve(A, np.ones(3), key=KEY), "b: found ndarray, expected a TensorTrain"),
        (lambda A, b: tt_solve(A, tt_ones((3, 3)), key=KEY), "b: found modes"),
        (lambda A, b: tt_solve(TensorTrainMatrix((np.ones((1, 2, 3, 1)),)), b, key=KEY), "A: found row modes"),
        (lambda A, b: tt_solve(A, b, method="amen", key=KEY), "method: found 'amen'"),
        (lambda A, b: tt_solve(A, b, rank=0, key=KEY), "rank: found 0"),
        (lambda A, b: tt_solve(A, b, max_rank=0, key=KEY), "max_rank: found 0"),
        (lambda A, b: tt_solve(A, b, tol=-1, key=KEY), "tol: found -1"),
        (lambda A, b: tt_solve(A, b, positive_definite="yes", key=KEY), "positive_definite: found 'yes'"),
        (lambda A, b: tt_solve(A, b, x0=tt_ones((2, 2)), key=KEY), "x0: found modes"),
        (lambda A, b: tt_solve(A, b, x0=b * 1j, key=KEY), "x0: found complex cores"),
        (lambda A, b: tt_solve(A, TensorTrain((np.full((1, 4, 1), np.nan),) * 2), key=KEY), "found NaN"),
        (lambda A, b: tt_complete(np.ones((3, 2)), np.ones(3), (4, 4), rank=1, key=KEY), "indices: found shape"),
        (lambda A, b: tt_complete([[0, 4]], [1.0], (4, 4), rank=1, key=KEY), "indices: found from"),
        (lambda A, b: tt_complete([[0, -1]], [1.0], (4, 4), rank=1, key=KEY), "indices: found from"),
        (lambda A, b: tt_complete([[0, 1]], [1.0, 2.0], (4, 4), rank=1, key=KEY), "values: found shape"),
        (lambda A, b: tt_complete([[0, 1]], [np.nan], (4, 4), rank=1, key=KEY), "values: found NaN"),
        (lambda A, b: tt_complete([[0, 1]], [1.0], (4, 4), rank=0, key=KEY), "rank: found 0"),
        (lambda A, b: tt_complete([[0, 1]], [1.0], (4, 4), rank=1, holdout=0.9, key=KEY), "holdout: found 0.9"),
        (lambda A, b: tt_complete([[0]], [1.0], (4,), rank=1, key=KEY), "shape: found"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call(tt_identity((4, 4)), tt_ones((4, 4)))


def test_matvec_agrees_with_the_identity():
    b = tt_random(SHAPE, 2, key=KEY)
    np.testing.assert_allclose(tt_matvec(tt_identity(SHAPE), b).to_dense(), b.to_dense())
