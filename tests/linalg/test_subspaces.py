"""Gram-Schmidt, the four subspaces, projectors and solvability: their theorems, their oracles and their edges."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg
import sympy

from corollary.core.errors import InputError
from corollary.linalg import (
    Projector,
    check_projector,
    four_subspaces,
    gram_schmidt,
    orthogonal_projector,
    solvability,
)

VARIANTS = ("classical", "modified", "twice")
M, N = 20, 8


def with_condition(kappa, seed=0, m=M, n=N):
    rng = np.random.default_rng(seed)
    U, V = np.linalg.qr(rng.normal(size=(m, n)))[0], np.linalg.qr(rng.normal(size=(n, n)))[0]
    return (U * np.geomspace(1, 1 / kappa, n)) @ V.T


def of_rank(r, seed=0, m=M, n=N):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, r)) @ rng.normal(size=(r, n))


def eps(dtype):
    return float(np.finfo(dtype).eps)


# Gram-Schmidt ---------------------------------------------------------------------------------------------------------


@pytest.mark.covers("gram-schmidt")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_factorises_and_agrees_with_householder(variant, dtype):
    A = with_condition(3.0).astype(dtype)
    found = gram_schmidt(A, variant=variant)
    Q, R = found.value
    assert Q.dtype == dtype
    assert np.all(np.tril(R, -1) == 0)
    assert np.linalg.norm(A - Q @ R) <= 50 * eps(dtype)
    q, r = np.linalg.qr(A.astype(np.float64))
    signs = np.sign(np.diag(r))  # the QR with a positive diagonal is unique
    np.testing.assert_allclose(Q, q * signs, atol=200 * eps(dtype))
    np.testing.assert_allclose(R, (r.T * signs).T, atol=200 * eps(dtype))
    assert bool(found.holds)
    assert int(found.stats["rank"]) == N
    scaled = gram_schmidt((A * np.ldexp(np.ones(N, dtype), np.arange(N) * 20 - 70)).astype(dtype), variant=variant)
    np.testing.assert_array_equal(scaled.value[0], Q)  # column scales do not matter, not even to rounding


@pytest.mark.covers("gram-schmidt")
def test_loss_of_orthogonality_follows_the_theorems(dtype):
    u = eps(dtype)
    kappas = u ** -np.array([0.15, 0.25, 0.35])
    slopes = {}
    for variant in VARIANTS:
        defects = []
        for kappa in kappas:
            runs = [gram_schmidt(with_condition(kappa, seed).astype(dtype), variant=variant) for seed in range(5)]
            assert all(bool(run.certificates["loss"].holds) or variant == "classical" for run in runs)
            assert all(not run.certificates["loss"].applies or bool(run.certificates["loss"].holds) for run in runs)
            defects.append(np.median([float(run.stats["defect"]) for run in runs]))
        slopes[variant] = np.polyfit(np.log(kappas), np.log(defects), 1)[0]
    assert 1.4 < slopes["classical"] < 2.3  # κ²u
    assert 0.7 < slopes["modified"] < 1.3  # κu
    assert abs(slopes["twice"]) < 0.2  # u


@pytest.mark.covers("gram-schmidt")
def test_lauchli_and_hilbert_separate_the_variants(dtype):
    tiny = 0.5 * eps(dtype) ** 0.5  # 1 + ε² rounds to one: the classical form sees no difference between the columns
    lauchli = np.vstack([np.ones(N), tiny * np.eye(N), np.zeros((M - N - 1, N))]).astype(dtype)
    hilbert = (1 / (np.arange(M)[:, None] + np.arange(N) + 1)).astype(dtype)
    for A in (lauchli, hilbert):
        runs = {variant: gram_schmidt(A, variant=variant) for variant in VARIANTS}
        assert bool(runs["twice"].holds)
        assert float(runs["twice"].stats["defect"]) < 20 * eps(dtype)
        assert not bool(runs["classical"].certificates["orthogonality"].holds)
        assert not bool(runs["classical"].certificates["loss"].applies)
        assert all(bool(run.certificates["reconstruction"].holds) for run in runs.values())
        defects = [float(runs[v].stats["defect"]) for v in VARIANTS]
        assert defects[0] > 3 * defects[1] > 9 * defects[2]


@pytest.mark.covers("gram-schmidt")
def test_dependent_columns_are_dropped_and_the_product_stays(dtype):
    A = of_rank(3).astype(dtype)
    A[:, 1] = 0
    for variant in VARIANTS:
        found = gram_schmidt(A, variant=variant)
        Q = found.value[0]
        assert np.isfinite(Q).all()
        assert bool(found.certificates["reconstruction"].holds)
        assert np.all(Q[:, 1] == 0)
    assert int(found.stats["rank"]) == 3  # the last one: twice
    assert bool(found.holds)
    wide = gram_schmidt(with_condition(3.0).T.astype(dtype))
    assert int(wide.stats["rank"]) == N
    assert bool(wide.certificates["reconstruction"].holds)
    zero = gram_schmidt(np.zeros((M, N), dtype))
    assert int(zero.stats["rank"]) == 0
    assert bool(zero.holds)


@pytest.mark.parametrize("variant", ["modified", "twice"])
def test_gram_schmidt_under_transformations(variant, x64):
    A = jnp.stack([jnp.asarray(with_condition(10.0, seed)) for seed in range(3)])
    weight, h = jnp.asarray(np.random.default_rng(1).normal(size=(M, N))), 1e-6

    @jax.jit
    def run(A):
        call = lambda a: gram_schmidt(a, variant=variant).value  # noqa: E731
        loss = lambda a: jnp.sum(call(a)[0] * weight) + jnp.sum(call(a)[1] ** 3)  # noqa: E731
        shifted = jax.vmap(loss)(jnp.stack([A[0] + h * weight, A[0] - h * weight]))
        gradients = jax.vmap(jax.grad(loss))(jnp.stack([A[0], 0 * A[0]]))
        return jax.vmap(call)(A), gradients, (shifted[0] - shifted[1]) / (2 * h)

    batched, gradients, central = run(A)
    for i in range(3):
        one = gram_schmidt(np.asarray(A[i]), variant=variant).value
        jax.tree.map(lambda b, one, i=i: np.testing.assert_allclose(b[i], one, atol=1e-13), batched, one)
    assert float(jnp.vdot(gradients[0], weight)) == pytest.approx(float(central), rel=1e-6)
    assert bool(jnp.all(jnp.isfinite(gradients)))


# Subspaces ------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("four-subspaces")
@pytest.mark.parametrize("shape", [(M, N), (N, M), (N, N)])
@pytest.mark.parametrize("r", [1, 5, 8])
def test_bases_are_scipys_and_orthogonal(shape, r, dtype):
    m, n = shape
    A = of_rank(r, m=m, n=n).astype(dtype)
    found = four_subspaces(A)
    spaces = found.value
    column, row, null, left = spaces.column_space, spaces.row_space, spaces.null_space, spaces.left_null_space
    assert [b.shape[1] for b in (column, row, null, left)] == [r, r, n - r, m - r]
    assert bool(found.certificates["null_space"].holds)
    assert bool(found.certificates["orthogonality"].holds)
    tol = 1e3 * eps(dtype) * np.linalg.cond(A[:, :r] if r < 2 else A @ row)
    for ours, theirs in ((column, scipy.linalg.orth(A)), (null, scipy.linalg.null_space(A))):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=tol)
    for basis in (np.hstack([column, left]), np.hstack([row, null])):
        np.testing.assert_allclose(basis.T @ basis, np.eye(len(basis)), atol=50 * eps(dtype))
    assert np.linalg.norm(A @ null) <= 50 * eps(dtype) * np.linalg.norm(A)
    assert np.linalg.norm(left.T @ A) <= 50 * eps(dtype) * np.linalg.norm(A)
    x = np.random.default_rng(2).normal(size=n).astype(dtype)
    parts = [spaces.project(space, x) for space in ("row", "null")]
    np.testing.assert_allclose(parts[0] + parts[1], x, atol=10 * eps(dtype))
    np.testing.assert_allclose(A @ parts[1], 0, atol=100 * eps(dtype) * np.linalg.norm(A))  # to zero, not to itself
    np.testing.assert_allclose(parts[1], null @ (null.T @ x), atol=100 * eps(dtype))


@pytest.mark.covers("four-subspaces")
def test_subspaces_at_the_edges(dtype):
    A = of_rank(3).astype(dtype)
    base = four_subspaces(A)
    scale = dtype.type(2.0**80)
    for scaled in (A * scale, A / scale):
        other = four_subspaces(scaled)
        assert int(other.stats["rank"]) == 3
        np.testing.assert_allclose(
            other.value.project("row", np.eye(N, dtype=dtype)),
            base.value.project("row", np.eye(N, dtype=dtype)),
            atol=100 * eps(dtype),
        )
    zero = four_subspaces(np.zeros((M, N), dtype))
    assert zero.value.null_space.shape == (N, N)
    assert zero.value.column_space.shape == (M, 0)
    assert bool(zero.holds)
    doubtful = four_subspaces(np.diag([1.0, 2 * N * eps(dtype)] + [0.0] * (N - 2)).astype(dtype))
    assert not bool(doubtful.certificates["rank"].holds)  # a singular value beside the cutoff
    jitted = jax.jit(lambda a: four_subspaces(a).value.project("null", jnp.eye(N, dtype=a.dtype)))(jnp.asarray(A))
    np.testing.assert_allclose(jitted, base.value.project("null", np.eye(N, dtype=dtype)), atol=100 * eps(dtype))
    with pytest.raises(InputError, match="traced rank"):
        jax.jit(lambda a: four_subspaces(a).value.null_space)(jnp.asarray(A))


# Projectors -----------------------------------------------------------------------------------------------------------


@pytest.mark.covers("orthogonal-projector")
def test_projector_from_any_basis_of_the_span(dtype):
    rng = np.random.default_rng(3)
    V = rng.normal(size=(M, 4)).astype(dtype)
    found = orthogonal_projector(V)
    P, tol = np.asarray(found.value.as_matrix()), 100 * eps(dtype)
    wide = V.astype(np.float64)
    np.testing.assert_allclose(P, wide @ np.linalg.solve(wide.T @ wide, wide.T), atol=tol)
    Q = np.linalg.qr(wide)[0]
    np.testing.assert_allclose(P, Q @ Q.T, atol=tol)
    np.testing.assert_allclose(P @ P, P, atol=tol)
    np.testing.assert_array_equal(P, P.T)
    assert np.trace(P) == pytest.approx(4, abs=tol)
    assert int(found.stats["rank"]) == 4
    assert bool(found.holds)
    A = rng.normal(size=(4, 4))
    again = orthogonal_projector((wide @ A).astype(dtype)).value.as_matrix()
    np.testing.assert_allclose(again, P, atol=tol * np.linalg.cond(A) * np.linalg.cond(wide))
    b = rng.normal(size=M).astype(dtype)
    x = np.linalg.lstsq(wide, b)[0]
    np.testing.assert_allclose(found.value.mv(b), wide @ x, atol=tol * np.linalg.norm(b))
    rest = found.value.residual(b)
    assert np.abs(V.T @ rest).max() <= 50 * eps(dtype) * np.linalg.norm(V) * np.linalg.norm(b)
    dependent = orthogonal_projector(np.hstack([V, V @ A.astype(dtype), 0 * V]))
    np.testing.assert_allclose(dependent.value.as_matrix(), P, atol=tol * np.linalg.cond(A))
    assert int(dependent.stats["rank"]) == 4


@pytest.mark.covers("orthogonal-projector")
def test_orthonormal_columns_are_taken_at_their_word_and_checked(dtype):
    Q = np.linalg.qr(np.random.default_rng(4).normal(size=(M, 4)))[0].astype(dtype)
    assert bool(orthogonal_projector(Q, orthonormal=True).holds)
    skewed = orthogonal_projector(Q * dtype.type(1.01), orthonormal=True)  # UUᵀ is then no projector
    assert not bool(skewed.holds)
    assert bool(orthogonal_projector(Q * dtype.type(1.01)).holds)


@pytest.mark.covers("orthogonal-projector")
def test_projector_matrices_are_told_from_oblique_and_other_ones(dtype):
    rng = np.random.default_rng(5)
    V, W = rng.normal(size=(2, N, 3))
    P = orthogonal_projector(V.astype(dtype)).value.as_matrix()
    found = check_projector(np.asarray(P))
    assert bool(found.holds)
    assert int(found.stats["rank"]) == 3
    assert float(found.stats["trace"]) == pytest.approx(3, abs=1e2 * eps(dtype))
    np.testing.assert_allclose(found.value.project("column", V.astype(dtype)), V, rtol=0, atol=1e3 * eps(dtype))
    oblique = (V @ np.linalg.solve(W.T @ V, W.T)).astype(dtype)
    verdicts = {name: bool(c.holds) for name, c in check_projector(oblique).certificates.items()}
    assert verdicts == {"idempotent": True, "symmetric": False, "orthogonal": False, "range": True}
    for other in (2 * P, np.eye(N, dtype=dtype) - 2 * np.asarray(P)):  # symmetric, not idempotent
        verdicts = {name: bool(c.holds) for name, c in check_projector(np.asarray(other)).certificates.items()}
        assert verdicts["symmetric"]
        assert not verdicts["idempotent"]
        assert not verdicts["orthogonal"]
    assert bool(check_projector(np.zeros((N, N), dtype)).holds)
    assert not bool(check_projector(np.full((N, N), 0.9 * float(np.finfo(dtype).max) ** 0.9, dtype)).holds)
    top = jax.jit(check_projector)(jnp.asarray(P, dtype))
    assert bool(top.holds)


def test_projector_is_an_operator(x64):
    V = jnp.asarray(np.random.default_rng(6).normal(size=(M, 4)))
    P = orthogonal_projector(V).value
    assert isinstance(P, Projector)
    assert lx.is_symmetric(P)
    assert lx.is_positive_semidefinite(P)
    assert P.transpose() is P
    x = jnp.ones(M)
    np.testing.assert_allclose((P @ P).mv(x), P.mv(x), atol=1e-13)
    np.testing.assert_allclose(jax.jit(lambda p, x: p.mv(x))(P, x), P.as_matrix() @ x, atol=1e-13)
    value, h = jax.jit(jax.value_and_grad(lambda v: jnp.sum(orthogonal_projector(v).value.mv(x) ** 2))), 1e-6
    D = jnp.asarray(np.random.default_rng(7).normal(size=V.shape))
    central = (value(V + h * D)[0] - value(V - h * D)[0]) / (2 * h)
    assert float(jnp.vdot(value(V)[1], D)) == pytest.approx(float(central), rel=1e-6)


# Solvability ----------------------------------------------------------------------------------------------------------


@pytest.mark.covers("linear-system-solvability")
def test_counts_agree_with_exact_arithmetic(dtype):
    """Small integer systems of every kind, with sympy's exact answer as the oracle."""
    rng, symbols, kinds = np.random.default_rng(8), sympy.symbols("x:3"), set()
    m, n = 4, 3
    for i in range(24):
        A = rng.integers(-3, 4, size=(m, n))
        if i % 2:
            A[:, 2] = 2 * A[:, 0] - A[:, 1]
        b = rng.integers(-3, 4, size=m) if i % 3 else A @ rng.integers(-2, 3, size=n)
        exact = sympy.linsolve((sympy.Matrix(A), sympy.Matrix(b)), *symbols[:n])
        free = set().union(*(tuple_.free_symbols for tuple_ in exact)) if exact else set()
        expected = "none" if not exact else "infinite" if free else "unique"
        found = solvability(A.astype(dtype), b.astype(dtype))
        assert found.value.count == expected
        assert bool(found.certificates["decision"].holds)
        augmented = np.linalg.matrix_rank(np.column_stack([A, b]))
        assert int(found.stats["augmented_rank"]) == augmented
        assert (augmented == int(found.stats["rank"])) == (expected != "none")
        x = found.value.particular
        np.testing.assert_allclose(x, np.linalg.lstsq(A, b)[0], atol=1e3 * eps(dtype))
        if expected != "none":
            moved = x + found.value.null_space @ np.ones(n - int(found.stats["rank"]), dtype)
            np.testing.assert_allclose(A @ moved, b, atol=1e3 * eps(dtype))
            assert float(found.stats["least_norm"]) == 0
        kinds.add(expected)
    assert kinds == {"none", "unique", "infinite"}


@pytest.mark.covers("linear-system-solvability")
def test_full_column_rank_alone_is_not_enough(dtype):
    A = with_condition(10.0).astype(dtype)
    inside = A @ np.ones(N, dtype)
    outside = inside + four_subspaces(A).value.left_null_space[:, 0] * np.linalg.norm(inside)
    assert solvability(A, inside).value.count == "unique"
    found = solvability(A, outside)
    assert found.value.count == "none"
    assert int(found.stats["rank"]) == N
    assert float(found.stats["least_norm"]) > 1e3  # no solution of reasonable size even after a small change
    for e in (-60, 60):
        assert solvability(np.ldexp(A, e), inside).value.count == "unique"
        assert solvability(A, np.ldexp(outside, e)).value.count == "none"
        assert bool(solvability(np.ldexp(A, e), outside).certificates["decision"].holds)
    zero = np.zeros((M, N), dtype)
    assert solvability(zero, 0 * inside).value.count == "infinite"
    assert solvability(zero, inside).value.count == "none"
    assert bool(solvability(zero, inside).certificates["decision"].holds)


def test_ill_conditioned_but_solvable_systems_stay_solvable(x64):
    call = jax.jit(solvability)
    for seed in range(20):
        A = with_condition(1e10, seed)
        found = call(jnp.asarray(A), jnp.asarray(A @ np.random.default_rng(seed).normal(size=N)))
        assert bool(found.value.solvable)
        assert bool(found.value.unique)
        assert bool(found.certificates["decision"].holds)


def test_other_values_compile_nothing_new(x64):
    counted = []

    @jax.jit
    def call(A, b, rcond):
        counted.append(1)
        return (
            gram_schmidt(A).value,
            four_subspaces(A, rcond=rcond).value.rank,
            orthogonal_projector(A, rcond=rcond).value.mv(b),
            solvability(A, b, rcond=rcond).value.solvable,
        )

    for seed in range(3):
        call(jnp.asarray(of_rank(4, seed)), jnp.ones(M) * seed, jnp.asarray(10.0 ** -(seed + 8)))
    assert len(counted) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gram_schmidt(np.eye(2), variant="householder"), "variant: found 'householder'"),
        (lambda: gram_schmidt(np.full((2, 2), np.nan)), "A: found NaN"),
        (lambda: four_subspaces(np.ones(3)), "expected a matrix"),
        (lambda: four_subspaces(np.eye(2), rcond=2.0), "rcond: found 2.0"),
        (lambda: four_subspaces(np.eye(2)).value.project("kernel", np.ones(2)), "space: found 'kernel'"),
        (lambda: orthogonal_projector(np.zeros((0, 2))), "V: found an empty"),
        (lambda: orthogonal_projector(np.eye(2), orthonormal="yes"), "orthonormal: found 'yes'"),
        (lambda: check_projector(np.ones((2, 3))), "expected a square"),
        (lambda: solvability(np.eye(2), np.ones(3)), "b: found 3 rows"),
        (lambda: solvability(np.eye(2), np.eye(2)), "expected a vector"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
