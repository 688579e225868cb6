"""Sketched least squares: its exact law and certificates, and `lstsq` on tall matrices, where sketches precondition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.stats

from corollary.core.errors import InputError
from corollary.linalg import lstsq, sketched_lstsq
from corollary.linalg.least_squares import _sketched as sketched
from corollary.linalg.least_squares import _tall as tall

N, P = 1200, 24
ALL = ("rank", "backward_error", "orthogonality", "forward_error", "minimum_norm")


def haar(rng, n, p):
    return np.linalg.qr(rng.normal(size=(n, p)))[0]


def spectrum(kappa, seed=0, n=N, p=P):
    rng = np.random.default_rng(seed)
    return (haar(rng, n, p) * np.geomspace(1, 1 / kappa, p)) @ haar(rng, p, p).T


def backward_error(A, b, x):
    """Karlson & Waldén's estimate of the optimal one, relative to ‖A‖_F, by the SVD and in float64."""
    A, b, x = (np.asarray(a, float) for a in (A, b, x))
    U, s, _ = np.linalg.svd(A, full_matrices=False)
    r, size = b - A @ x, np.linalg.norm(x)
    if size == 0:
        return 0.0
    return np.linalg.norm(s * (U.T @ r) / np.hypot(s, np.linalg.norm(r) / size)) / size / np.linalg.norm(A)


def householder(A, b):
    R = np.linalg.qr(np.column_stack([A, b]), mode="r")
    return scipy.linalg.solve_triangular(R[:-1, :-1], R[:-1, -1])


def matrices():
    rng = np.random.default_rng(0)
    G = rng.normal(size=(N, P))
    laeuchli = np.zeros((N, P))
    laeuchli[0], laeuchli[1 : P + 1] = 1, 1e-7 * np.eye(P)
    spiky = 1e-8 * G
    spiky[:P] = np.diag(np.geomspace(1, 1e-4, P))
    return {
        "gaussian": G,
        "κ = 1e6": spectrum(1e6),
        "κ = 1e10": spectrum(1e10),
        "Läuchli": laeuchli,
        "Hilbert": np.hstack([1 / (1 + np.arange(N)[:, None] + np.arange(6)), G[:, 6:]]),
        "Vandermonde": np.linspace(-1, 1, N)[:, None] ** np.arange(P),
        "spiky": spiky,
        "identity": np.eye(N, P),
        "rows scaled": G * 10 ** rng.uniform(-8, 8, (N, 1)),
        "one-hot": np.eye(P)[rng.integers(0, P, N)],
    }


def deficient():
    rng = np.random.default_rng(0)
    G = rng.normal(size=(N, P))
    product = G[:, :8] @ rng.normal(size=(8, P))
    return {
        "rank 8": (product, 8),
        "nearly rank 8": (product + 1e-15 * G, 8),
        "a column twice": (np.hstack([G[:, 1:], G[:, 1:2]]), P - 1),
        "a zero column": (np.hstack([G[:, 1:], np.zeros((N, 1))]), P - 1),
        "constant": (np.ones((N, P)), 1),
        "zero": (np.zeros((N, P)), 0),
    }


# lstsq on tall matrices ----------------------------------------------------------------------------------------------


@pytest.mark.covers("lstsq", "sketch-and-solve")
@pytest.mark.parametrize("few", [400, 0], ids=["whitened", "conjugate gradients"])
@pytest.mark.parametrize("solver", ["auto", "sketch"])
def test_backward_error_is_that_of_householder(solver, few, monkeypatch):
    monkeypatch.setattr(tall, "FEW", few)
    rng = np.random.default_rng(1)
    for name, A in matrices().items():
        noise = rng.normal(size=N)
        inside = A @ rng.normal(size=A.shape[1])
        for b in (noise, inside, inside + 1e-6 * np.linalg.norm(inside) / 35 * noise):
            solution = lstsq(A, b, solver=solver, rcond=1e-13)
            ours, theirs = backward_error(A, b, solution.value), backward_error(A, b, householder(A, b))
            assert ours <= 10 * max(theirs, 1e-17), name
            failed = [c.explain() for k, c in solution.certificates.items() if k != "rank" and not bool(c.holds)]
            assert not failed, (name, failed)
            assert ours <= 4 * float(solution.certificates["backward_error"].measured) + 8e-16, name
            assert bool(solution.converged)
            assert set(solution.certificates) == set(ALL)


@pytest.mark.covers("lstsq")
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["auto", "sketch"])
def test_deficient_rank_gives_the_minimum_norm(solver, kind):
    b = np.random.default_rng(1).normal(size=N).astype(kind)
    for name, (A, rank) in deficient().items():
        A = A.astype(kind)
        solution = lstsq(A, b, solver=solver)
        eps = np.finfo(kind).eps
        exact = np.linalg.lstsq(A.astype(float), b.astype(float), rcond=N * eps)[0]
        assert int(solution.stats["rank"]) == rank, name
        assert np.linalg.norm(solution.value - exact) <= 2000 * eps * max(np.linalg.norm(exact), 1e-3), name
        assert solution.value.dtype == kind
        assert bool(solution.certificates["minimum_norm"].holds), name
        assert bool(solution.certificates["backward_error"].holds), name


@pytest.mark.covers("lstsq")
def test_float32_data_solve_a_nearby_problem():
    rng = np.random.default_rng(2)
    eps = np.finfo(np.float32).eps
    for name, A in matrices().items():
        A, b = A.astype(np.float32), rng.normal(size=N).astype(np.float32)
        solution = lstsq(A, b)
        assert solution.value.dtype == np.float32
        kept = int(solution.stats["rank"])
        U, s, Vt = np.linalg.svd(A.astype(float), full_matrices=False)
        assert backward_error((U[:, :kept] * s[:kept]) @ Vt[:kept], b, solution.value) <= 4 * eps, name
        assert bool(solution.certificates["backward_error"].holds), name
        assert bool(solution.certificates["orthogonality"].holds), name


@pytest.mark.covers("lstsq")
def test_forward_error_bound_holds_against_many_digits():
    import mpmath

    A = spectrum(1e9, n=120, p=4)
    b = np.random.default_rng(3).normal(size=120)
    with mpmath.workdps(60):
        exact = np.array(mpmath.lu_solve(mpmath.matrix(A), mpmath.matrix(b)).tolist(), float)[:, 0]
    for few in (400, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tall, "FEW", few)
            patch.setattr(tall, "OVERSAMPLING", 0)  # 64 rows: 120 are enough for them
            patch.setattr(tall, "is_tall", lambda shape: True)
            solution = lstsq(A, b, solver="sketch", rcond=1e-14)
        assert str(solution.stats["solver"]).startswith("sketch")
        error = np.linalg.norm(solution.value - exact) / np.linalg.norm(exact)
        assert error <= float(solution.certificates["forward_error"].bound)
        assert bool(solution.holds)


def test_auto_chooses_and_says_why(monkeypatch):
    rng = np.random.default_rng(0)
    b = rng.normal(size=N)
    monkeypatch.setattr("corollary.linalg.least_squares._lstsq.SMALL", 0)
    choice = lambda A: str(lstsq(A, b.astype(A.dtype)).stats["solver"])  # noqa: E731
    gauss = rng.normal(size=(N, P))
    assert choice(gauss).startswith("normal: condition number at most")
    assert choice(gauss.astype(np.float32)).startswith("normal: float32 data")
    assert choice(spectrum(1e8)).startswith("sketch: condition number about")
    assert choice(gauss @ np.ones((P, P))).startswith("qr: by blocks of rows")
    monkeypatch.setattr(tall, "FEW", 0)
    assert choice(gauss).startswith("normal: float32 Gram matrix as preconditioner")
    probable = lstsq(spectrum(1e8), b)
    assert "conjugate gradients" in str(probable.stats["solver"])
    assert probable.certificates["backward_error"].kind == "probabilistic"
    assert int(probable.stats["products"]) < 100


def test_a_wrong_solution_is_found_out(monkeypatch):
    """Certificates can fail: stop the refinement of a bad start at once."""
    A, b = spectrum(1e8), np.random.default_rng(0).normal(size=N)
    monkeypatch.setattr(tall, "FEW", 0)
    monkeypatch.setattr(tall, "ROUNDS", 0)
    solution = lstsq(A, b, solver="sketch")
    assert not bool(solution.converged)
    assert not bool(solution.certificates["backward_error"].holds)
    assert not bool(solution.certificates["orthogonality"].holds)


def test_scale_permutation_order_and_several_columns():
    A, rng = spectrum(1e7), np.random.default_rng(0)
    B = rng.normal(size=(N, 3))
    base = lstsq(A, B, solver="sketch").value
    tol = 1e-16 * 1e14 * np.linalg.norm(base)  # κ² eps, for b is far from the range
    for e in (-40, 40):
        np.testing.assert_array_equal(lstsq(np.ldexp(A, e), B, solver="sketch").value, np.ldexp(base, -e))
        np.testing.assert_array_equal(lstsq(A, np.ldexp(B, e), solver="sketch").value, np.ldexp(base, e))
    for e in (-600, 600):  # squares leave the range of float64
        solution = lstsq(np.ldexp(A, e), B, solver="sketch")
        assert np.linalg.norm(np.ldexp(solution.value, e) - base) <= tol
        assert bool(solution.certificates["backward_error"].holds)
    assert np.linalg.norm(lstsq(np.asfortranarray(A), B, solver="sketch").value - base) <= tol
    assert np.linalg.norm(lstsq(A[::-1], B[::-1], solver="sketch").value - base) <= tol
    assert np.linalg.norm(lstsq(A, B, solver="sketch", key=jax.random.key(7)).value - base) <= tol
    assert np.linalg.norm(lstsq(A, B[:, 1], solver="sketch").value - base[:, 1]) <= tol


@pytest.mark.covers("lstsq", "sketch-and-solve")
def test_under_jit_and_gradient(x64):
    A, b = spectrum(1e1, n=300, p=6), np.random.default_rng(0).normal(size=300)
    J, c = jnp.asarray(A), jnp.asarray(b)
    solve = jax.jit(lambda A, b: lstsq(A, b, solver="sketch"))
    solution = solve(J, c)
    assert bool(solution.holds)
    assert str(solution.stats["solver"]).startswith("sketch")
    np.testing.assert_allclose(solution.value, np.linalg.lstsq(A, b, rcond=None)[0], rtol=1e-9)
    np.testing.assert_allclose(lstsq(J, c, solver="sketch").value, solution.value, rtol=1e-9)
    dA, db = (jnp.asarray(np.random.default_rng(1).normal(size=a.shape)) * 1e-3 for a in (A, b))
    f = jax.jit(lambda t: jnp.sum(jnp.sin(lstsq(J + t * dA, c + t * db, solver="sketch").value)))
    h = 1e-5
    slope = jax.grad(f)(0.0)
    assert slope == pytest.approx(float((f(h) - f(-h)) / (2 * h)), rel=1e-5)
    singular = solve(J.at[:, 0].set(J[:, 1]), c)
    assert int(singular.stats["rank"]) == 5
    assert bool(singular.certificates["minimum_norm"].holds)
    assert bool(jnp.all(jnp.isfinite(singular.value)))


@pytest.mark.covers("lstsq")
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_tall_sparse_matrices(kind):
    rng = np.random.default_rng(0)
    A = scipy.sparse.random_array((4000, 30), density=0.1, rng=rng).tocsr()
    A = (A @ scipy.sparse.diags_array(np.geomspace(1, 1e-3, 30))).tocsr().astype(kind)
    b = rng.normal(size=4000).astype(kind)
    solution = lstsq(A, b)
    assert str(solution.stats["solver"]).startswith("sketch")
    assert bool(solution.holds)
    eps = np.finfo(kind).eps
    exact = np.linalg.lstsq(A.toarray().astype(float), b.astype(float), rcond=None)[0]
    assert np.linalg.norm(solution.value - exact) <= 64 * 1e3 * eps * np.linalg.norm(exact)
    empty = A.copy()
    empty.data[empty.indices == 3] = 0
    assert str(lstsq(empty, b).stats["solver"]).startswith("lsmr")
    with pytest.raises(InputError, match="numerically deficient rank"):
        lstsq(empty, b, solver="sketch")


# The sketched problem ------------------------------------------------------------------------------------------------


@pytest.mark.covers("sketch-and-solve")
def test_residual_ratio_has_its_exact_law(x64):
    """Gaussian S: ratio² − 1 is χ²_p/χ²_{d−p+1}, of mean p/(d − p − 1) (Theorem: Muirhead 1982, 3.2.12)."""
    rng = np.random.default_rng(0)
    A, p, d = jnp.asarray(rng.normal(size=(300, 6))), 6, 40
    b = jnp.asarray(rng.normal(size=300)) + A @ jnp.ones(6)
    best = float(jnp.linalg.norm(b - A @ jnp.linalg.lstsq(A, b)[0]))
    run = jax.jit(jax.vmap(lambda key: sketched_lstsq(A, b, rows=d, sketch="gaussian", key=key)))
    batch = run(jax.random.split(jax.random.key(0), 1000))
    squares = (np.asarray(batch.stats["residual_norm"]) / best) ** 2
    stderr = squares.std() / np.sqrt(len(squares))
    assert abs(squares.mean() - (1 + p / (d - p - 1))) < 4 * stderr
    law = scipy.stats.f(p, d - p + 1)
    assert scipy.stats.kstest((squares - 1) * (d - p + 1) / p, law.cdf).pvalue > 1e-3
    claim = batch.certificates["residual_ratio"]
    assert bool(claim.holds.all())
    assert np.all(claim.measured >= np.sqrt(squares) * (1 - 1e-9))  # from above, and sharp:
    assert np.median(claim.measured / np.sqrt(squares)) < 1.01


@pytest.mark.covers("sketch-and-solve")
@pytest.mark.parametrize("eps", [0.1, 0.3])
def test_rows_of_order_p_over_eps_squared_give_a_ratio_of_one_plus_eps(eps):
    rng = np.random.default_rng(0)
    spiky = np.vstack([np.eye(10) * 100, rng.normal(size=(2990, 10))])
    for A in (rng.normal(size=(3000, 10)), spiky):
        b = rng.normal(size=3000)
        best = np.linalg.norm(b - A @ np.linalg.lstsq(A, b, rcond=None)[0])
        rows, good = int(10 / eps**2), 0
        for seed in range(20):
            x = sketched_lstsq(A, b, rows=rows, key=jax.random.key(seed)).value
            good += np.linalg.norm(b - A @ x) <= (1 + eps) * best
        assert good == 20


@pytest.mark.covers("sketch-and-solve")
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_hessian_sketch_converges_at_its_rate(kind):
    A, b = spectrum(1e3).astype(kind), np.random.default_rng(0).normal(size=N).astype(kind)
    exact = np.linalg.lstsq(A.astype(float), b.astype(float), rcond=None)[0]
    best = np.linalg.norm(b - A @ exact)
    for data in (A, scipy.sparse.csr_array(A)):
        solution = sketched_lstsq(data, b, method="hessian", key=jax.random.key(0))
        tol = np.finfo(kind).eps ** (2 / 3)
        assert bool(solution.holds), [c.explain() for c in solution.certificates.values()]
        assert np.linalg.norm(A @ (solution.value - exact)) <= 2 * tol * np.linalg.norm(b)
        assert np.linalg.norm(b - A @ solution.value) <= best * (1 + 4 * tol)
        rate = np.sqrt(P / (8 * P + 64))
        assert int(solution.steps) <= 2 + 1.5 * np.log(tol) / np.log(rate)
    short = sketched_lstsq(A, b, method="hessian", max_steps=2, key=jax.random.key(0))
    assert not bool(short.converged)
    assert not bool(short.certificates["prediction_error"].holds)


@pytest.mark.covers("sketch-and-solve")
def test_preconditioning_reaches_machine_precision():
    A, b = spectrum(1e8), np.random.default_rng(0).normal(size=N)
    solution = sketched_lstsq(A, b, method="precondition", key=jax.random.key(0))
    assert backward_error(A, b, solution.value) < 2e-15
    plain = sketched_lstsq(A, b, key=jax.random.key(0))
    assert backward_error(A, b, plain.value) > 1e-11


def test_sketched_scale_shapes_and_consistent_data():
    A, key = spectrum(1e2), jax.random.key(0)
    x = np.arange(1.0, P + 1)
    for method in ("solve", "hessian"):
        exact = sketched_lstsq(A, A @ x, method=method, key=key)
        np.testing.assert_allclose(exact.value, x, rtol=1e-8)
        assert bool(exact.certificates["residual_ratio"].holds)
        B = np.random.default_rng(0).normal(size=(N, 2))
        two = sketched_lstsq(A, B, method=method, key=key)
        one = sketched_lstsq(A, B[:, 0], method=method, key=key)
        scaled = sketched_lstsq(A * 2.0**40, B * 2.0**20, method=method, key=key)
        assert one.stats["residual_norm"].shape == ()
        np.testing.assert_allclose(two.value[:, 0], one.value, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(scaled.value * 2.0**20, two.value, rtol=1e-9, atol=1e-11)


def test_another_key_compiles_nothing_new(x64):
    A, b = jnp.asarray(spectrum(1e2)), jnp.ones(N)
    f = jax.jit(lambda key, tol: sketched_lstsq(A, b, method="hessian", tol=tol, key=key).value)
    f(jax.random.key(0), 1e-6)
    f(jax.random.key(1), 1e-4)
    assert f._cache_size() == 1


@pytest.mark.parametrize(
    ("A", "b", "kwargs", "message"),
    [
        (np.ones((50, 3)), np.ones(49), {}, "b: found 49 rows"),
        (np.ones((50, 3)), np.ones(50), {"rows": 4}, "rows: found 4"),
        (np.ones((50, 3)), np.ones(50), {}, "rows: found 88"),
        (np.ones((50, 3)), np.ones(50), {"method": "newton"}, "method: found 'newton'"),
        (np.ones((50, 3)), np.ones(50), {"sketch": "srft"}, "sketch: found 'srft'"),
        (np.ones((50, 3)), np.full(50, np.nan), {"rows": 20}, "b: found NaN"),
        (np.full((50, 3), np.inf), np.ones(50), {"rows": 20}, "A: found NaN"),
        (np.ones((50, 3)), np.ones(50), {"tol": -1.0}, "tol: found -1"),
    ],
)
def test_refusals(A, b, kwargs, message):
    with pytest.raises(InputError, match=message):
        sketched_lstsq(A, b, key=jax.random.key(0), **kwargs)


def test_bound_of_the_ratio_is_the_quantile():
    assert sketched.gaussian_ratio(10, 200) == pytest.approx(
        np.sqrt(1 + 10 / 191 * scipy.stats.f.isf(1e-6, 10, 191)), rel=1e-12
    )
