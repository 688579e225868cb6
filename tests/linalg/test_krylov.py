"""Lanczos, Arnoldi, CG's rate and eigenpair certificates: theorems at every step, oracles, breakdowns, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

from corollary.core import Function, InputError, Sparse
from corollary.linalg import arnoldi, cg_rate, eigenpair_certificates, lanczos
from corollary.linalg.eigen._krylov import arnoldi_process, lanczos_process

N, M = 40, 12


def symmetric(values, seed=0, dtype=np.float64):
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))[0]
    A = (Q * values) @ Q.T
    return ((A + A.T) / 2).astype(dtype)


def general(seed=0, dtype=np.float64, n=N):
    return np.random.default_rng(seed).standard_normal((n, n)).astype(dtype)


# Lanczos -------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("lanczos")
@pytest.mark.parametrize(
    "values", [np.linspace(-1, 1, N), np.r_[3.0, np.linspace(0, 1, N - 1)], 1 / np.arange(1, N + 1)]
)
def test_the_kaniel_paige_bound_holds_at_every_step(dtype, values):
    for seed in range(10):
        A = symmetric(values, seed, dtype)
        run = lanczos(A, np.random.default_rng(seed).standard_normal(N).astype(dtype), M, reference=True)
        assert bool(run.holds), {n: c.explain() for n, c in run.certificates.items()}
        assert np.all(run.history["error"] <= run.history["error_bound"])
        assert np.all(np.diff(run.history["largest"]) >= -100 * np.finfo(dtype).eps)
        assert run.value.T.dtype == dtype


@pytest.mark.covers("lanczos")
def test_the_bound_is_no_bound_for_a_matrix_that_is_not_symmetric():
    A = symmetric(np.linspace(-1, 1, N)) + 3 * np.triu(general(), 1)
    run = lanczos(A, np.ones(N), M, reference=np.linalg.eigh(A))
    assert not bool(run.certificates["factorisation"].holds)


@pytest.mark.covers("lanczos")
def test_factorisation_and_ritz_residuals(dtype):
    A, eps = symmetric(np.linspace(-1, 2, N), dtype=dtype), np.finfo(dtype).eps
    run = lanczos(A, np.arange(1.0, N + 1).astype(dtype), M).value
    rest = A @ run.Q - run.Q @ run.T
    assert np.linalg.norm(rest[:, :-1]) <= 50 * eps
    assert np.linalg.matrix_rank(rest, tol=100 * eps) == 1
    assert np.linalg.norm(run.Q.T @ run.Q - np.eye(M)) <= 50 * eps
    assert np.allclose(run.T, np.triu(np.tril(run.T, 1), -1))
    actual = np.linalg.norm(A @ run.vectors - run.vectors * run.values, axis=0)
    np.testing.assert_allclose(actual, run.residual_bounds, atol=100 * eps)
    true = np.linalg.eigvalsh(A.astype(np.float64))
    assert np.all(np.abs(run.values[:, None] - true).min(axis=1) <= run.residual_bounds + 100 * eps)


@pytest.mark.covers("lanczos")
def test_many_steps_keep_the_basis_orthogonal(x64):
    """Without reorthogonalisation the copies of a converged eigenvalue appear here (Paige): with it they do not."""
    A = symmetric(np.r_[100.0, np.linspace(0, 1, N - 1)])
    run = lanczos(A, np.ones(N), N)
    assert bool(run.holds)
    np.testing.assert_allclose(run.value.values, np.linalg.eigvalsh(A)[::-1], atol=1e-11)


@pytest.mark.covers("lanczos")
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_breakdown_on_an_invariant_subspace(dtype, scale):
    d = (np.arange(1.0, N + 1) * scale).astype(dtype)
    start = np.zeros(N, dtype)
    start[[2, 7, 30]] = 1
    run = lanczos(np.diag(d), start, M)
    assert int(run.value.count) == int(run.steps) == 3
    np.testing.assert_allclose(run.value.values[:3], d[[30, 7, 2]], rtol=50 * np.finfo(dtype).eps)
    assert np.all(run.value.residual_bounds == 0)
    assert bool(run.holds)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(run.value))
    f = np.linalg.eigh(np.float64(run.value.T) / scale)  # exp(T)e_1 is right as it stands
    e = run.value.Q @ (f[1] @ (np.exp(f[0]) * f[1][0])).astype(dtype) * dtype.type(3**0.5)
    np.testing.assert_allclose(e, np.exp(d / scale) * start, rtol=1e-3, atol=1e-4 * np.exp(31))


@pytest.mark.covers("lanczos")
def test_every_kind_of_input_gives_the_same(x64):
    A = symmetric(np.linspace(-1, 1, N)) * (np.abs(symmetric(np.linspace(-1, 1, N), 1)) > 0.05)
    start = np.ones(N)
    reference = lanczos(A, start, M).value.values
    for kind in (jnp.asarray(A), scipy.sparse.csr_array(A), Sparse(scipy.sparse.csc_array(A)),
                 Function(lambda x: jnp.asarray(A) @ x, N)):  # fmt: skip
        np.testing.assert_allclose(lanczos(kind, start, M).value.values, reference, atol=1e-12)


@pytest.mark.covers("lanczos", "arnoldi")
def test_processes_jit_vmap_and_differentiate(x64):
    A, starts = jnp.asarray(symmetric(np.linspace(1, 2, N))), jnp.asarray(general(9)[:, :3])
    traces = []

    @jax.jit
    def alphas(A, starts):
        traces.append(1)
        return jax.vmap(lambda b: lanczos_process(lambda x: A @ x, b, 6).alpha, 1)(starts)

    batch = alphas(A, starts)
    one = lanczos_process(lambda x: A @ x, starts[:, 1], 6).alpha
    np.testing.assert_allclose(batch[1], one, rtol=1e-12)
    np.testing.assert_allclose(alphas(3 * A, starts), 3 * batch, rtol=1e-11)
    assert len(traces) == 1
    top = lambda t: jnp.sum(lanczos_process(lambda x: A @ x + t * x**2, starts[:, 0], 4).alpha)  # noqa: E731
    slope, step = jax.grad(top)(0.1), 1e-5
    np.testing.assert_allclose(slope, (top(0.1 + step) - top(0.1 - step)) / (2 * step), rtol=1e-6)
    H = arnoldi_process(lambda x: A @ x, starts[:, 0], 6).H
    np.testing.assert_allclose(np.diag(H[:6]), lanczos_process(lambda x: A @ x, starts[:, 0], 6).alpha, rtol=1e-12)


# Arnoldi -------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("arnoldi")
def test_arnoldi_relation_and_oracle(dtype):
    A, eps = general(dtype=dtype), np.finfo(dtype).eps
    found = arnoldi(A, np.ones(N, dtype), M)
    run = found.value
    assert bool(found.holds)
    assert np.linalg.norm(A @ run.Q[:, :M] - run.Q @ run.H) <= 100 * eps * np.linalg.norm(A, 2)
    assert np.linalg.norm(run.Q.T @ run.Q - np.eye(M + 1)) <= 50 * eps
    assert np.all(np.tril(run.H, -2) == 0)
    full = arnoldi(A, np.ones(N, dtype), N).value
    true = np.linalg.eigvals(A.astype(np.float64))
    assert np.max(np.abs(full.values[:, None] - true).min(axis=1)) <= 1e4 * eps * np.linalg.norm(A, 2)


@pytest.mark.covers("arnoldi")
def test_arnoldi_of_a_symmetric_matrix_is_lanczos(dtype):
    A, start = symmetric(np.linspace(-1, 1, N), dtype=dtype), np.ones(N, dtype)
    H, T = arnoldi(A, start, M).value.H, lanczos(A, start, M).value.T
    np.testing.assert_allclose(H[:M], T, atol=200 * np.finfo(dtype).eps)


@pytest.mark.covers("arnoldi")
def test_arnoldi_breakdown_gives_exact_eigenvalues(dtype):
    A = np.triu(general(dtype=dtype), 3).astype(dtype)
    A[:3, :3] = [[0, 1, 2], [-1, 0, 3], [0, 0, 5]]
    found = arnoldi(A, np.eye(N, dtype=dtype)[2], M)
    assert int(found.value.count) == 3
    np.testing.assert_allclose(sorted(found.value.values[:3], key=lambda v: (v.real, v.imag)), [-1j, 1j, 5], atol=1e-4)
    assert bool(found.holds)


@pytest.mark.parametrize("method", [lanczos, arnoldi])
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((np.ones((2, 3)),), "square"),
        ((np.array([[np.nan]]),), "A: found NaN"),
        ((np.eye(3), np.zeros(3), 2), "start"),
        ((np.eye(3), np.ones(4), 2), "start"),
        ((np.eye(3), np.ones(3), 4), "steps: found 4"),
        ((np.eye(3), np.ones(3), 0), "steps: found 0"),
    ],
)
def test_refusals(method, arguments, match):
    with pytest.raises(InputError, match=match):
        method(*arguments)


# CG ------------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("cg-rate")
@pytest.mark.parametrize("kappa", [1.0, 10.0, 1e4])
def test_cg_never_exceeds_its_bound(dtype, kappa):
    for seed in range(20):
        A = symmetric(np.geomspace(1, kappa, N), seed, dtype)
        b = np.random.default_rng(seed).standard_normal(N).astype(dtype)
        run = cg_rate(A, b, 25)
        assert np.all(run.history["error"] <= run.history["error_bound"])
        assert bool(run.holds)
    wide = cg_rate(A * dtype.type(2.0**40), b, 25)  # a power of two: no bit of the run changes
    np.testing.assert_allclose(wide.history["error"] * 2.0**20, run.history["error"], rtol=1e-3)


@pytest.mark.covers("cg-rate")
def test_cg_ends_at_the_number_of_distinct_eigenvalues(x64):
    for distinct in (1, 3, 6):
        A = symmetric(np.resize(np.linspace(1, 5, distinct), N))
        error = cg_rate(A, np.ones(N), 8).history["error"]
        assert error[distinct] <= 1e-13 * error[0]
        assert error[distinct - 1] >= 1e-6 * error[0]


@pytest.mark.covers("cg-rate")
def test_the_rate_needs_the_true_extremes():
    A = symmetric(np.geomspace(1, 1e4, N))
    assert not bool(cg_rate(A, np.ones(N), 20, eigenvalues=(100.0, 200.0)).holds)
    with pytest.raises(InputError, match="positive definite"):
        cg_rate(symmetric(np.linspace(-1, 1, N)), np.ones(N), 5)
    with pytest.raises(InputError, match="b: found"):
        cg_rate(A, np.ones(3), 5)


# Certificates --------------------------------------------------------------------------------------------------------


@pytest.mark.covers("eigenpair-certificate")
def test_some_eigenvalue_lies_within_the_residual(dtype):
    rng = np.random.default_rng(0)
    for seed in range(30):
        A = symmetric(rng.standard_normal(8), seed, dtype)
        true = np.linalg.eigvalsh(A.astype(np.float64))
        v, lam = rng.standard_normal(8).astype(dtype), dtype.type(rng.standard_normal())
        checks = eigenpair_certificates(A, lam, v)
        assert np.abs(true - lam).min() <= checks["residual"].measured * (1 + 1e-4) + 50 * np.finfo(dtype).eps
        assert np.abs(true - lam).min() <= checks["eigenvalue_error"].measured
        assert not bool(checks["residual"].holds)  # a random pair is none


@pytest.mark.covers("eigenpair-certificate")
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_eigh_passes_to_rounding(dtype, scale):
    A = symmetric(np.r_[1, 1, np.linspace(-1, 0.5, N - 2)], dtype=dtype) * dtype.type(scale)
    checks = eigenpair_certificates(A, *np.linalg.eigh(A))
    assert set(checks) == {"residual", "backward_error", "orthogonality", "eigenvalue_error", "reconstruction"}
    assert all(bool(c.holds) for c in checks.values())
    assert checks["backward_error"].measured <= 50 * np.finfo(dtype).eps
    wrong = eigenpair_certificates(A, *np.linalg.eigh(A + np.diag(np.full(N, 0.01 * scale)).astype(dtype)))
    assert not bool(wrong["reconstruction"].holds)


@pytest.mark.covers("eigenpair-certificate")
def test_a_gap_squares_the_error(x64):
    A, rng = np.diag([1.0, 2.0, 5.0]), np.random.default_rng(1)
    for _ in range(50):
        v = np.eye(3)[0] + 1e-3 * rng.standard_normal(3)
        v /= np.linalg.norm(v)
        rho = v @ A @ v
        error = eigenpair_certificates(A, rho, v, gap=1 - abs(rho - 1))["eigenvalue_error"]
        assert abs(rho - 1) <= error.measured <= 1e-2 * np.linalg.norm(A @ v - rho * v)
    # two vectors that point to one eigenvector do not count for two
    twice = eigenpair_certificates(A, [1.0, 1.0], np.array([[1, 1], [1e-9, 0], [0, 0]]))
    assert not bool(twice["eigenvalue_error"].holds)


@pytest.mark.covers("eigenpair-certificate")
def test_the_scale_is_the_norm_not_the_spectral_radius():
    A = np.array([[0.0, 100.0], [0.0, 0.0]])
    v = np.array([1.0, 1e-8])
    checks = eigenpair_certificates(A, 0.0, v, symmetric=False, tol=1e-7)
    assert checks["backward_error"].measured == pytest.approx(1e-6 / (100 / 2**0.5), rel=1e-3)
    assert bool(checks["residual"].holds)
    full = eigenpair_certificates(A, np.zeros(2), np.eye(2), symmetric=False)  # defective: e_2 is no eigenvector
    assert not bool(full["residual"].holds)


@pytest.mark.covers("eigenpair-certificate")
def test_condition_weighted_bounds_of_a_non_normal_matrix(x64):
    A = np.diag(np.arange(1.0, 7.0)) + 5 * np.eye(6, k=1)
    values, V = np.linalg.eig(A)
    rng = np.random.default_rng(2)
    for _ in range(10):
        E = 1e-8 * rng.standard_normal((6, 6))
        near, U = np.linalg.eig(A + E)
        checks = eigenpair_certificates(A, near, U, symmetric=False, tol=1e-6)
        assert np.abs(values[:, None] - near).min(axis=1).max() <= checks["eigenvalue_error"].measured
    left = np.linalg.inv(V).T
    first = eigenpair_certificates(A, near[:2], U[:, :2], symmetric=False, left=left[:, :2])["eigenvalue_error"]
    assert first.kind == "estimate"
    assert np.abs(values[:, None] - near[:2]).min(axis=0).max() <= 2 * first.measured


def test_certificates_refuse_what_does_not_fit():
    for arguments, match in (
        ((np.eye(3), 1.0, np.zeros(3)), "zero"),
        ((np.eye(3), [1.0, 2.0], np.ones(3)), "vectors: found shape"),
        ((np.ones((2, 3)), 1.0, np.ones(3)), "square"),
    ):
        with pytest.raises(InputError, match=match):
            eigenpair_certificates(*arguments)
