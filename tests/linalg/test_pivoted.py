"""Pivoted factorisations: column-pivoted QR by sketching, pivoted and randomly pivoted Cholesky, LDLᵀ."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

from corollary.core import InputError, Status, as_operator
from corollary.linalg import ldlt, pivoted_cholesky, pivoted_qr
from corollary.linalg.low_rank import _pivoted_cholesky, _tall_qr

KEY = jax.random.key(0)
M, N = 320, 40
RNG = np.random.default_rng(0)


def orthonormal(m, k, rng=RNG):
    return np.linalg.qr(rng.standard_normal((m, k)))[0]


def graded(kappa, m=M, n=N, seed=0):
    rng = np.random.default_rng(seed)
    return (orthonormal(m, n, rng) * kappa ** -np.linspace(0, 1, n)) @ orthonormal(n, n, rng).T


def kernel(n=60, width=0.3, seed=0):
    x = np.sort(np.random.default_rng(seed).uniform(0, 1, n))
    return np.exp(-((x[:, None] - x) ** 2) / (2 * width**2))


def check_qr(A, found, rank=None):
    Q, R, perm = found.value.Q, found.value.R, found.value.perm
    eps, size = np.finfo(A.dtype).eps, np.linalg.norm(A.astype(float))
    assert sorted(perm.tolist()) == list(range(A.shape[1]))
    assert rank is None or found.stats["rank"] == rank
    assert np.linalg.norm(A[:, perm] - Q @ R) <= 30 * eps * np.sqrt(A.shape[1]) * size
    assert np.linalg.norm(Q.T @ Q - np.eye(Q.shape[1])) <= 10 * eps * A.shape[1] * np.sqrt(A.shape[1])
    diagonal = np.diagonal(R)
    assert np.all(diagonal > 0)
    assert np.all(np.diff(diagonal) <= 8 * eps * diagonal[:1])
    assert np.all(np.tril(R[:, : len(R)], -1) == 0)
    assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
    assert bool(found.converged)


@pytest.mark.covers("pivoted-qr")
@pytest.mark.parametrize("kappa", [1.0, 1e3, 1e10])
@pytest.mark.parametrize("solver", ["sketched", "lapack"])
def test_order_and_triangle_are_lapacks(dtype, kappa, solver):
    A = (RNG.standard_normal((M, N)) * np.linspace(1, 0.3, N) if kappa == 1 else graded(kappa)).astype(dtype)
    found = pivoted_qr(A, solver=solver, key=KEY)
    check_qr(A, found)
    R, perm = scipy.linalg.qr(A, mode="r", pivoting=True)
    r = found.stats["rank"]
    eps = np.finfo(dtype).eps
    # backward errors of a few eps ‖A‖ move R_kk by that, times the sensitivity of a pivot: at most κ of what is before
    reliable = np.abs(np.diagonal(R)) > 1e4 * eps * abs(R[0, 0])
    k = int(np.argmin(reliable)) if not reliable.all() else N
    k = min(k, r)
    assert found.value.perm[:k].tolist() == perm[:k].tolist()
    np.testing.assert_allclose(np.diagonal(found.value.R)[:k], np.abs(np.diagonal(R))[:k], rtol=1e-2)
    only = pivoted_qr(A, "r", solver=solver, key=KEY)
    assert only.value.Q is None
    assert bool(only.holds)
    np.testing.assert_allclose(only.value.R, found.value.R, atol=1e4 * eps * abs(R[0, 0]))


@pytest.mark.covers("pivoted-qr")
@pytest.mark.parametrize("solver", ["sketched", "lapack"])
def test_rank_deficient_zero_and_constant(dtype, solver):
    low = (RNG.standard_normal((M, 7)) @ RNG.standard_normal((7, N))).astype(dtype)
    repeated = np.repeat(RNG.standard_normal((M, N // 2)), 2, axis=1).astype(dtype)
    for A, rank in ((low, 7), (repeated, N // 2), (np.ones((M, N), dtype), 1), (np.zeros((M, N), dtype), 0)):
        found = pivoted_qr(A, solver=solver, key=KEY)
        check_qr(A, found, rank)
        assert bool(pivoted_qr(A, "r", solver=solver, key=KEY).holds)
    for A in (np.ones((1, 1), dtype), np.ones((2, 5), dtype), np.zeros((1, 3), dtype)):
        check_qr(A, pivoted_qr(A))


@pytest.mark.covers("pivoted-qr")
def test_hard_matrices_for_a_sketch():
    spikes = np.zeros((M, N))
    spikes[np.arange(N), np.arange(N)] = 1 + np.arange(N)  # all of it in a few rows: coherent
    vander = np.vander(np.linspace(0, 1, M), N)
    laeuchli = np.vstack([np.ones((1, N)), 1e-9 * np.eye(N), np.zeros((M - N - 1, N))])
    scaled = RNG.standard_normal((M, N)) * 10.0 ** -np.arange(N)
    c = 0.285
    kahan = np.vstack([np.diag((1 - c * c) ** (np.arange(N) / 2)) @ (np.eye(N) - c * np.triu(np.ones((N, N)), 1))] * 8)
    for A in (spikes, vander, laeuchli, scaled, kahan):
        for seed in range(3):
            check_qr(A, pivoted_qr(A, solver="sketched", certify="full", key=jax.random.key(seed)))
            check_qr(A, pivoted_qr(A, solver="sketched", key=jax.random.key(seed)))


@pytest.mark.covers("pivoted-qr")
def test_a_useless_sketch_is_found_out_and_mended(monkeypatch):
    A = graded(1e6)

    def useless(shape, key):
        return type("Blind", (), {"on_host": staticmethod(lambda A: A[: 2 * N] * 1.0)})()

    B = A.copy()
    B[: 2 * N] = 1e-9 * RNG.standard_normal((2 * N, N))  # the first rows know nothing of the rest
    monkeypatch.setattr(_tall_qr, "_sketch", useless)
    found = pivoted_qr(B, solver="sketched")
    check_qr(B, found)
    rounds = found.stats.get("rounds", 0)
    assert rounds > 1 or "lapack" in str(found.stats["solver"])
    A[: 2 * N] = 0  # the sketch sees nothing at all
    found = pivoted_qr(A, solver="sketched")
    check_qr(A, found)
    assert "lapack" in str(found.stats["solver"])


@pytest.mark.covers("pivoted-qr")
def test_certificates_can_fail(x64):
    A = graded(1e3)
    found = pivoted_qr(A, solver="sketched")
    good = _tall_qr.on_host(A, 1e-14, KEY, with_q=True)
    from corollary.linalg.low_rank import _pivoted_qr as module

    for part in ("residual", "defect"):
        bad = good._replace(**{part: getattr(good, part) + 1e-6})
        assert not bool(module._claims(A, bad, "", 1e-14, "probes", np).holds)
    worse = good._replace(R=good.R * np.where(np.arange(N) == 20, 3.0, 1.0))  # a column that should have gone first
    assert not bool(module._claims(A, worse, "", 1e-14, "probes", np).certificates["pivoting"].holds)
    assert bool(found.holds)


@pytest.mark.covers("pivoted-qr")
def test_scaling_by_any_power(dtype):
    A = graded(1e3).astype(dtype)
    plain = pivoted_qr(A, solver="sketched", key=KEY)
    for scale in (1e-12, 1e12, 1e30) if dtype == np.float32 else (1e-200, 1e-12, 1e12, 1e200):
        scaled = pivoted_qr(A * dtype.type(scale), solver="sketched", key=KEY)
        assert bool(scaled.holds)
        k = 30
        assert scaled.value.perm[:k].tolist() == plain.value.perm[:k].tolist()
        np.testing.assert_allclose(
            scaled.value.R[:k] / dtype.type(scale), plain.value.R[:k], atol=1e3 * np.finfo(dtype).eps
        )


@functools.partial(jax.jit, static_argnames=("solver", "mode"))
def jitted(A, key, solver, mode="economic"):
    return pivoted_qr(A, mode, solver=solver, key=key)


@pytest.mark.covers("pivoted-qr")
@pytest.mark.parametrize("solver", ["sketched", "lapack"])
def test_jit_agrees_and_keeps_fixed_shapes(x64, solver):
    A = graded(1e3)
    low = RNG.standard_normal((M, 7)) @ RNG.standard_normal((7, N))
    for B in (A, low, low * 1e150):
        host = pivoted_qr(B, solver=solver, key=KEY)
        found = jitted(jnp.asarray(B), KEY, solver)
        r = int(found.stats["rank"])
        assert r == host.stats["rank"]
        Q, R, perm = (np.asarray(x) for x in (found.value.Q, found.value.R, found.value.perm))
        assert Q.shape == (M, N)
        assert np.all(Q[:, r:] == 0)
        assert np.all(R[r:] == 0)
        scale = np.abs(B).max()
        np.testing.assert_allclose(Q @ (R / scale), B[:, perm] / scale, atol=1e-12)
        assert perm[:r].tolist() == host.value.perm[:r].tolist()
        assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
    assert jitted._cache_size() <= 2  # one for each solver: other values, no other program
    assert isinstance(pivoted_qr(jnp.asarray(A), solver=solver).value.R, jax.Array)


@pytest.mark.covers("pivoted-qr")
def test_gradients_match_finite_differences(x64):
    A, W = jnp.asarray(RNG.standard_normal((12, 4))), jnp.asarray(RNG.standard_normal((12, 4)))
    dA = jnp.asarray(RNG.standard_normal((12, 4)))

    @jax.jit
    def f(A):
        v = pivoted_qr(A).value
        return jnp.sum(v.Q * W) + jnp.sum(v.R**2 * jnp.arange(1.0, 5))

    h = 1e-5
    numeric = (f(A + h * dA) - f(A - h * dA)) / (2 * h)
    _, exact = jax.jvp(f, (A,), (dA,))
    assert float(exact) == pytest.approx(float(numeric), rel=1e-6)
    batch = jax.jit(jax.vmap(lambda A: pivoted_qr(A).value.R))(jnp.stack([A, 2 * A]))
    np.testing.assert_allclose(batch[1], 2 * batch[0], rtol=1e-12)


@pytest.mark.covers("pivoted-qr")
def test_solver_is_chosen_and_a_named_one_obeyed():
    tall = np.asarray(RNG.standard_normal((9000, 50)))
    assert str(pivoted_qr(tall, "r").stats["solver"]).startswith("sketched: 9000 rows")
    assert str(pivoted_qr(tall, "r", solver="lapack").stats["solver"]) == "lapack: as asked"
    assert str(pivoted_qr(graded(10.0)).stats["solver"]).startswith("lapack")
    check_qr(np.asfortranarray(tall), pivoted_qr(np.asfortranarray(tall)))
    check_qr(tall.astype(np.float32), pivoted_qr(tall.astype(np.float32)))


# Pivoted Cholesky ----------------------------------------------------------------------------------------------------


@pytest.mark.covers("pivoted-cholesky")
@pytest.mark.parametrize("pivoting", ["greedy", "random"])
def test_the_factor_reproduces_up_to_the_reported_trace(dtype, pivoting):
    K = kernel().astype(dtype)
    eps = np.finfo(dtype).eps
    traces = []
    for rank in (1, 4, 8, 60):
        found = pivoted_cholesky(K, rank, pivoting=pivoting, key=KEY)
        L, perm = found.value.L, found.value.perm
        rest = K.astype(float) - L.astype(float) @ L.T.astype(float)
        np.testing.assert_allclose(np.trace(rest), found.stats["trace_remainder"], atol=60 * eps * np.trace(K))
        assert np.linalg.norm(rest, 2) <= found.certificates["trace"].bound
        assert np.all(np.triu(L[perm], 1) == 0)  # lower trapezoidal in the order of the pivots
        assert L.dtype == dtype
        assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
        traces.append(float(found.stats["trace_remainder"]))
    assert np.all(np.diff(traces) <= 60 * eps * np.trace(K))


@pytest.mark.covers("pivoted-cholesky")
def test_agrees_with_cholesky_on_definite_input(dtype):
    G = RNG.standard_normal((30, 30))
    A = (G @ G.T + 30 * np.eye(30)).astype(dtype)
    A = (A + A.T) / 2
    for pivoting in ("greedy", "random"):
        found = pivoted_cholesky(A, pivoting=pivoting)
        perm = found.value.perm
        direct = np.asarray(jnp.linalg.cholesky(jnp.asarray(A[np.ix_(perm, perm)])))
        np.testing.assert_allclose(found.value.L[perm], direct, atol=300 * np.finfo(dtype).eps * np.abs(direct).max())
    few = pivoted_cholesky(A, 5)  # column by column, not by LAPACK
    np.testing.assert_allclose(few.value.L, pivoted_cholesky(A).value.L[:, :5], atol=1e3 * np.finfo(dtype).eps * 8)


@pytest.mark.covers("pivoted-cholesky")
@pytest.mark.parametrize("pivoting", ["greedy", "random"])
def test_exact_at_the_rank_where_the_plain_algorithm_breaks_down(dtype, pivoting):
    F = RNG.standard_normal((25, 5))
    F[:, 0] = 0
    A = (F @ F.T).astype(dtype)
    A = (A + A.T) / 2
    found = pivoted_cholesky(A, pivoting=pivoting)
    assert found.stats["rank"] == 4
    assert np.linalg.norm(A - found.value.matrix) <= 100 * np.finfo(dtype).eps * np.trace(A)
    plain = np.asarray(jnp.linalg.cholesky(jnp.asarray(np.ones((3, 3), dtype) - 1e-3 * np.eye(3, dtype=dtype))))
    assert np.isnan(plain).any()  # fails iff not positive definite


@pytest.mark.covers("pivoted-cholesky")
@pytest.mark.parametrize("A", [-np.eye(4), np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[1.0, 3.0], [3.0, 1.0]])])
@pytest.mark.parametrize("pivoting", ["greedy", "random"])
def test_what_is_not_semidefinite_is_found_out(A, pivoting):
    found = pivoted_cholesky(A, pivoting=pivoting)
    assert np.all(np.isfinite(found.value.L))
    assert not bool(found.holds)


@pytest.mark.covers("pivoted-cholesky")
@pytest.mark.parametrize("pivoting", ["greedy", "random"])
def test_degenerate(dtype, pivoting):
    for A, rank in ((np.zeros((4, 4)), 0), (np.ones((5, 5)), 1), (np.full((1, 1), 4.0), 1), (np.diag([0.0, 2.0]), 1)):
        found = pivoted_cholesky(A.astype(dtype), pivoting=pivoting)
        assert found.stats["rank"] == rank
        np.testing.assert_allclose(found.value.matrix, A)
        assert bool(found.holds)
    for scale in (1e-12, 1e12):
        found = pivoted_cholesky((kernel() * scale).astype(dtype), 6, pivoting=pivoting)
        plain = pivoted_cholesky(kernel().astype(dtype), 6, pivoting=pivoting)
        assert found.value.perm.tolist() == plain.value.perm.tolist()
        np.testing.assert_allclose(
            found.value.L / np.sqrt(scale), plain.value.L, atol=1e-5 if dtype == np.float32 else 1e-9
        )


@pytest.mark.covers("pivoted-cholesky")
def test_entries_on_demand_read_only_what_is_needed():
    K, seen = kernel(200), []

    def entries(rows, columns):
        seen.append((len(rows), len(columns)))
        return K[np.ix_(rows, columns)]

    found = pivoted_cholesky(entries, 6, diagonal=np.ones(200))
    reference = pivoted_cholesky(K, 6)
    np.testing.assert_allclose(found.value.L, reference.value.L, atol=1e-12)
    assert sum(a * b for a, b in seen) + 200 == found.stats["entries"] == 200 * 7
    for kind in (scipy.sparse.csr_array(K), as_operator(K.astype(np.float32))):
        np.testing.assert_allclose(pivoted_cholesky(kind, 6).value.L, reference.value.L, atol=1e-3)
    by_tolerance = pivoted_cholesky(entries, tol=1e-3, diagonal=np.ones(200))
    assert bool(by_tolerance.certificates["tolerance"].holds)
    assert by_tolerance.stats["trace_remainder"] <= 1e-3 * 200
    before = pivoted_cholesky(K, by_tolerance.stats["rank"] - 1)
    assert before.stats["trace_remainder"] > 1e-3 * 200  # and not a column more than that
    short = pivoted_cholesky(K, 2, tol=1e-6)
    assert short.status == Status.MAX_STEPS
    assert not bool(short.certificates["tolerance"].holds)


@functools.partial(jax.jit, static_argnums=1)
def random_traces(K, rank, keys):
    return jax.vmap(lambda k: pivoted_cholesky(K, rank, pivoting="random", key=k).stats["trace_remainder"])(keys)


@pytest.mark.covers("pivoted-cholesky")
def test_randomly_pivoted_expected_trace_is_below_the_theorem(x64):
    # Chen et al. 2022, Theorem 3.1: k >= r/ε + r log(1/(εη)) gives E tr(A − Â) <= (1 + ε) tr(A − A_r)
    spectrum = np.r_[1.0, 0.5, 0.002 * np.ones(58)]
    U = orthonormal(60, 60)
    A, r, eps, count = (U * spectrum) @ U.T, 2, 0.5, 200
    tail = spectrum[r:].sum()
    eta = tail / spectrum.sum()
    k = int(np.ceil(r / eps + r * np.log(1 / (eps * eta))))
    traces = np.asarray(random_traces(jnp.asarray(A), k, jax.random.split(KEY, count)))
    assert traces.mean() <= (1 + eps) * tail + 4 * traces.std() / np.sqrt(count)
    best = spectrum[k:].sum()
    assert traces.min() >= best * (1 - 1e-10)  # and never below the optimum of that rank
    # fewer columns than the theorem asks for, on a matrix that needs them: the bound does not hold there
    flat = _pivoted_cholesky._source(np.diag(np.r_[1.0, np.full(59, 0.2)]), None, KEY)
    draw = lambda seed: _pivoted_cholesky._on_the_host(flat, 1, 0.0, "random", 1, np.random.default_rng(seed))  # noqa: E731
    assert np.mean([draw(seed)[2].sum() for seed in range(50)]) > 1.05 * 59 * 0.2


@pytest.mark.covers("pivoted-cholesky")
def test_blocks_by_rejection_have_the_law_of_one_at_a_time(x64):
    # the set of the first two pivots, over many seeds, against its exact probabilities
    A = np.array([[2.0, 1.0, 0.0], [1.0, 1.0, 0.2], [0.0, 0.2, 0.5]])
    count, found = 1500, np.zeros((3, 3))
    source = _pivoted_cholesky._source(A, None, KEY)
    for seed in range(count):
        pivots = _pivoted_cholesky._on_the_host(source, 2, 0.0, "random", 2, np.random.default_rng(seed))[1]
        found[pivots[0], pivots[1]] += 1
    expected = np.zeros((3, 3))
    for i in range(3):
        rest = np.diag(A) - A[:, i] ** 2 / A[i, i]
        rest[i] = 0
        expected[i] = A[i, i] / np.trace(A) * rest / rest.sum()
    error = np.abs(found / count - expected)
    assert np.all(error <= 4.5 * np.sqrt(expected * (1 - expected) / count) + 1e-12)


@pytest.mark.covers("pivoted-cholesky")
def test_jit_and_gradients(x64):
    K, dK = jnp.asarray(kernel()), jnp.asarray(kernel(width=0.5))
    f = jax.jit(lambda K: pivoted_cholesky(K, 5))
    inside, outside = f(K), pivoted_cholesky(np.asarray(K), 5)
    np.testing.assert_allclose(inside.value.L, outside.value.L, atol=1e-9)
    assert inside.value.perm.tolist() == outside.value.perm.tolist()
    assert bool(inside.holds)
    f(K * 2)
    assert f._cache_size() == 1
    g = jax.jit(lambda K: jnp.sum(pivoted_cholesky(K, 3).value.L ** 3))
    h = 1e-6
    numeric = (g(K + h * dK) - g(K - h * dK)) / (2 * h)
    _, exact = jax.jvp(g, (K,), (dK,))
    assert float(exact) == pytest.approx(float(numeric), rel=1e-6)


# LDLᵀ ----------------------------------------------------------------------------------------------------------------


jitted_ldlt = jax.jit(ldlt)


@pytest.mark.covers("pivoted-cholesky", "symmetric-indefinite-factorisation")
def test_ldlt_reproduces_and_counts_signs(dtype):
    n = 24
    S = RNG.standard_normal((n, n))
    low = orthonormal(n, 5)
    cases = [S + S.T, np.kron(np.eye(12), [[0.0, 1.0], [1.0, 0.0]]), np.zeros((n, n)), np.ones((n, n))]
    cases += [(low * [3.0, -1.0, 2.0, -0.5, 1.0]) @ low.T, (S + S.T) * (1e30 if dtype == np.float32 else 1e200)]
    for A in cases:
        A = ((A + A.T) / 2).astype(dtype)
        scale = max(float(np.abs(A).max()), np.finfo(dtype).tiny)
        values = np.linalg.eigvalsh(A.astype(float) / scale)
        cut = n * np.finfo(dtype).eps * np.linalg.norm(A.astype(float) / scale)
        for found in (ldlt(A), jitted_ldlt(jnp.asarray(A))):
            L, D, perm = (np.asarray(x) for x in (found.value.L, found.value.D, found.value.perm))
            assert np.all(np.triu(L[perm], 1) == 0)
            assert np.all(np.diagonal(L[perm]) == 1)
            assert np.all(np.abs(np.triu(D, 2)) == 0)
            defect = np.linalg.norm(A / scale - L @ (D / scale) @ L.T)
            assert defect <= 50 * n * np.finfo(dtype).eps
            assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
            signs = (int(found.stats[s]) for s in ("positive", "negative", "zero"))
            assert tuple(signs) == ((values > cut).sum(), (values < -cut).sum(), (np.abs(values) <= cut).sum())
    assert jitted_ldlt._cache_size() <= 2


def test_ldlt_finds_out_asymmetry():
    assert not bool(ldlt(np.array([[1.0, 2.0], [0.0, 1.0]])).holds)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: pivoted_qr(np.array([[1.0, np.nan]])), "A: found NaN"),
        (lambda: pivoted_qr(np.full((9000, 50), np.inf)), "A: found NaN"),
        (lambda: pivoted_qr(np.zeros((0, 3))), "A: found an empty"),
        (lambda: pivoted_qr(np.zeros(3)), "A: found an array of shape"),
        (lambda: pivoted_qr(np.eye(3, dtype=complex)), "A: found dtype complex"),
        (lambda: pivoted_qr(np.eye(3), "full"), "mode"),
        (lambda: pivoted_qr(np.eye(3), solver="qr"), "solver"),
        (lambda: pivoted_qr(np.eye(3), solver="sketched"), "solver: found 'sketched'"),
        (lambda: pivoted_qr(np.eye(3), rcond=-1.0), "rcond"),
        (lambda: pivoted_cholesky(np.ones((2, 3))), "A: found shape"),
        (lambda: pivoted_cholesky(scipy.sparse.csr_array(np.ones((2, 3)))), "A: found shape"),
        (lambda: pivoted_cholesky(np.eye(3), 4), "rank: found 4"),
        (lambda: pivoted_cholesky(np.eye(3), 0), "rank: found 0"),
        (lambda: pivoted_cholesky(np.eye(3), tol=-1.0), "tol"),
        (lambda: pivoted_cholesky(np.eye(3), pivoting="none"), "pivoting"),
        (lambda: pivoted_cholesky(lambda i, j: np.eye(3)[np.ix_(i, j)], 2), "diagonal"),
        (lambda: pivoted_cholesky(lambda i, j: 0, 2, diagonal=np.array([1.0, np.nan])), "diagonal"),
        (lambda: pivoted_cholesky(lambda i, j: 0, 2, diagonal=np.ones(3), certify="full"), "certify"),
        (lambda: ldlt(np.ones((2, 3))), "A: found shape"),
        (lambda: ldlt(np.array([[np.inf]])), "A: found NaN"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(InputError, match=match):
        call()
