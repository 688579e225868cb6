"""Norm inequalities with their equality cases, and matrix structures planted and missed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.stats

from corollary.core.errors import InputError
from corollary.linalg import cauchy_schwarz, matrix_structure, norm_inequalities

M, N = 8, 5
SIDES = ("frobenius>=spectral", "spectral>=frobenius", "nuclear>=frobenius", "frobenius>=nuclear")


def eps(dtype):
    return float(np.finfo(dtype).eps)


# Norms ----------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("norm-inequalities")
def test_inequalities_hold_with_slack_that_is_never_negative(dtype):
    A = jax.random.normal(jax.random.key(0), (500, M, N), dtype)
    A = A * jnp.exp2(jax.random.randint(jax.random.key(1), (500, 1, N), -8, 8).astype(dtype))
    found = jax.jit(jax.vmap(norm_inequalities))(A)
    assert bool(jnp.all(found.holds))
    wide = np.asarray(A, np.float64)
    s = np.linalg.svd(wide, compute_uv=False)
    two, frobenius, nuclear = s[:, 0], np.sqrt((wide**2).sum((1, 2))), s.sum(1)
    for name, oracle in (("spectral", two), ("frobenius", frobenius), ("nuclear", nuclear)):
        np.testing.assert_allclose(found.value.norms[name], oracle, rtol=50 * eps(dtype))
    root = np.sqrt(N)
    for name, gap in zip(
        SIDES, (frobenius - two, root * two - frobenius, nuclear - frobenius, root * frobenius - nuclear), strict=True
    ):
        slack = np.asarray(found.value.slack[name])
        assert slack.min() >= 0
        np.testing.assert_allclose(slack, gap, atol=50 * eps(dtype) * frobenius.max())
        assert not np.asarray(found.value.equality[name]).any()


@pytest.mark.covers("norm-inequalities")
def test_three_forms_of_the_frobenius_norm_and_unitary_invariance():
    rng = np.random.default_rng(0)
    for _ in range(20):
        A = rng.normal(size=(M, N))
        Q, Z = np.linalg.qr(rng.normal(size=(M, M)))[0], np.linalg.qr(rng.normal(size=(N, N)))[0]
        base, turned = norm_inequalities(A), norm_inequalities(Q @ A @ Z)
        three = base.stats["frobenius_squared"] * 4.0 ** base.stats["exponent"]
        np.testing.assert_allclose(three, np.sum(A**2), rtol=1e-12)  # squares of the entries, not their sum
        for name, value in base.value.norms.items():
            np.testing.assert_allclose(turned.value.norms[name], value, rtol=1e-12)


@pytest.mark.covers("norm-inequalities")
def test_equality_cases(dtype):
    rng = np.random.default_rng(1)
    u, v = rng.normal(size=M).astype(dtype), rng.normal(size=N).astype(dtype)
    Q = np.linalg.qr(rng.normal(size=(M, N)))[0]
    tol = 50 * eps(dtype)
    cases = {
        "rank one": (np.outer(u, v), set(SIDES)),
        "orthonormal columns": (3 * Q, {"spectral>=frobenius", "frobenius>=nuclear"}),
        "zero": (np.zeros((M, N)), set(SIDES)),
    }
    for name, (A, expected) in cases.items():
        for scale in (1.0, 2.0**60, 2.0**-60):
            found = norm_inequalities((A * scale).astype(dtype))
            assert bool(found.holds), name
            assert {side for side in SIDES if bool(found.value.equality[side])} == expected, name
            worst = max(float(found.value.slack[side]) for side in expected)
            assert worst <= tol * scale * np.linalg.norm(A)
    Z = np.linalg.qr(rng.normal(size=(N, N)))[0]
    isometry = Q[:, :2] @ Z[:, :2].T  # two equal singular values: equality with r = 2, far from it with r = N
    found = norm_inequalities(isometry.astype(dtype), rcond=1e-3)
    assert int(found.stats["rank"]) == 2
    assert bool(found.value.equality["frobenius>=nuclear"])


@pytest.mark.covers("norm-inequalities")
def test_slack_keeps_its_digits_where_a_difference_would_cancel():
    t = 1e-9
    A = np.zeros((M, N))
    A[0, 0], A[1, 1] = 1, t
    found = norm_inequalities(A).value
    assert float(found.slack["frobenius>=spectral"]) == pytest.approx(t**2 / 2, rel=1e-6)  # √(1 + t²) − 1
    assert float(found.slack["nuclear>=frobenius"]) == pytest.approx(t, rel=1e-6)
    near = cauchy_schwarz(np.eye(N)[0], A[:2, :N].sum(0)).value
    assert float(near.slack["cauchy_schwarz"]) == pytest.approx(t**2 / 2, rel=1e-6)


@pytest.mark.covers("norm-inequalities")
def test_cauchy_schwarz_for_vectors_sums_and_expectations(dtype):
    u, v = jax.random.normal(jax.random.key(2), (2, 500, N), dtype)
    p = jax.nn.softmax(jax.random.normal(jax.random.key(3), (500, N), dtype))
    plain = jax.jit(jax.vmap(cauchy_schwarz))(u, v)
    weighted = jax.jit(jax.vmap(lambda u, v, w: cauchy_schwarz(u, v, weights=w)))(u, v, p)
    for found, w in ((plain, jnp.ones_like(p)), (weighted, p)):
        assert bool(jnp.all(found.holds))
        gap = jnp.sqrt(jnp.sum(w * u**2, 1) * jnp.sum(w * v**2, 1)) - jnp.abs(jnp.sum(w * u * v, 1))
        assert float(jnp.min(found.value.slack["cauchy_schwarz"])) >= 0
        np.testing.assert_allclose(found.value.slack["cauchy_schwarz"], gap, atol=200 * eps(dtype))
    x, w = np.asarray(u[0]), np.asarray(p[0])
    for other in (x, -3 * x, 0 * x):
        found = cauchy_schwarz(x, other, weights=w)
        assert bool(found.value.equality["cauchy_schwarz"])
        assert bool(found.holds)
    only = w * (np.arange(N) == 1)  # where all weight lies on one place everything is parallel
    assert bool(cauchy_schwarz(x, x[::-1].copy(), weights=only).value.equality["cauchy_schwarz"])
    assert not bool(cauchy_schwarz(x, x[::-1].copy()).value.equality["cauchy_schwarz"])
    big = dtype.type(2.0 ** (np.finfo(dtype).maxexp // 2 - 8))
    assert np.isfinite(float(cauchy_schwarz(x * big, x / big).value.norms["inner"]))
    assert float(cauchy_schwarz(0 * x, x).stats["cosine"]) == 0


# Structure ------------------------------------------------------------------------------------------------------------


def planted(rng):
    B, Q = rng.normal(size=(N, N)), np.linalg.qr(rng.normal(size=(N, N)))[0]
    cases = {
        "identity": np.eye(N),
        "diagonal": np.diag(rng.normal(size=N)),
        "tridiagonal": np.triu(np.tril(B, 1), -1),
        "lower_triangular": np.tril(B),
        "upper_triangular": np.triu(B),
        "unit_diagonal": B - np.diag(np.diag(B)) + np.eye(N),
        "permutation": np.eye(N)[rng.permutation(N)],
        "symmetric": B + B.T,
        "skew": B - B.T,
        "orthogonal": Q,
        "positive_semidefinite": B[:, :2] @ B[:, :2].T,
        "negative_semidefinite": -B @ B.T,
    }
    C = B + 1j * rng.normal(size=(N, N))
    return cases | {"hermitian": C + C.conj().T, "unitary": np.linalg.qr(C)[0]}


@pytest.mark.covers("matrix-structure")
def test_planted_structures_are_found_and_near_misses_rejected(dtype):
    rng = np.random.default_rng(4)
    near = 1e4 * eps(dtype)
    for name, A in planted(rng).items():
        A = A.astype(np.result_type(dtype, np.complex64) if np.iscomplexobj(A) else dtype)
        found = matrix_structure(A)
        assert name in found.names, (name, found.defects)
        assert float(found.defects[name]) <= float(found.tol) or name.endswith("definite")
        missed = A.copy()
        if name in ("identity", "unit_diagonal", "permutation", "orthogonal", "unitary"):
            missed *= 1 + near  # these fix the scale
        elif name == "positive_semidefinite":
            missed -= near * np.linalg.norm(A) * np.eye(N, dtype=A.dtype)
        elif name == "negative_semidefinite":
            missed += 2 * np.linalg.norm(A) * np.eye(N, dtype=A.dtype)
        else:
            place = (N - 1, 0) if name != "lower_triangular" else (0, N - 1)
            missed[place] += near * np.abs(A).max()
        assert name not in matrix_structure(missed).names, name
        if name not in ("identity", "unit_diagonal", "permutation", "orthogonal", "unitary"):
            for scale in (2.0**-60, 2.0**60):
                assert name in matrix_structure((A * scale).astype(A.dtype)).names


@pytest.mark.covers("matrix-structure")
def test_haar_matrices_are_orthogonal_with_the_moments_of_scipy(x64):
    count = 4000
    Q = jax.random.orthogonal(jax.random.key(5), N, (count,))
    found = jax.jit(jax.vmap(matrix_structure))(Q)
    assert bool(jnp.all(found.holds["orthogonal"] & found.holds["unitary"]))
    assert not bool(jnp.any(found.holds["symmetric"]))
    x = jnp.arange(1.0, N + 1)
    np.testing.assert_allclose(jnp.linalg.norm(Q @ x, axis=1), jnp.linalg.norm(x), rtol=1e-14)
    theirs = scipy.stats.ortho_group.rvs(N, count, random_state=0)
    for power in (2, 4):
        for moments in (np.asarray(Q) ** power, theirs**power):
            exact = {2: 1 / N, 4: 3 / (N * (N + 2))}[power]
            spread = moments[:, 0, 0].std() / count**0.5
            assert abs(moments[:, 0, 0].mean() - exact) <= 4 * spread
    assert abs(np.trace(np.asarray(Q), axis1=1, axis2=2).mean()) <= 4 / count**0.5  # E tr = 0, E tr² = 1


@pytest.mark.covers("matrix-structure")
def test_tags_are_those_that_lineax_understands(x64):
    S = np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    found = matrix_structure(S)
    operator = lx.MatrixLinearOperator(jnp.asarray(S), found.tags)
    assert found.tags == {lx.symmetric_tag, lx.tridiagonal_tag, lx.positive_semidefinite_tag}
    assert lx.is_symmetric(operator)
    assert lx.is_tridiagonal(operator)
    assert isinstance(lx.AutoLinearSolver(well_posed=True).select_solver(operator), lx.Tridiagonal)
    solved = lx.linear_solve(operator, jnp.ones(3)).value
    np.testing.assert_allclose(solved, np.linalg.solve(S, np.ones(3)), rtol=1e-13)
    zero = matrix_structure(np.zeros((3, 3)))
    assert {"diagonal", "symmetric", "skew", "positive_semidefinite", "negative_semidefinite"} <= zero.names
    assert "orthogonal" not in zero.names
    with pytest.raises(InputError, match="tags are static"):
        jax.jit(lambda a: matrix_structure(a).tags)(jnp.asarray(S))


@pytest.mark.covers("matrix-structure")
def test_a_hessian_is_symmetric_away_from_critical_points_too(x64):
    f = lambda x: jnp.sin(x[0] * x[1]) + jnp.exp(x[2]) * x[0] ** 3  # noqa: E731
    x = jnp.array([0.3, -1.2, 0.5])
    assert float(jnp.linalg.norm(jax.grad(f)(x))) > 0.1
    assert "symmetric" in matrix_structure(jax.hessian(f)(x)).names


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: norm_inequalities(np.ones(3)), "expected a matrix"),
        (lambda: norm_inequalities(np.eye(2), rcond=-1.0), "rcond: found -1.0"),
        (lambda: cauchy_schwarz(np.ones(3), np.ones(4)), r"v: found shape \(4,\)"),
        (lambda: cauchy_schwarz(np.ones(3), np.ones(3), weights=-np.ones(3)), "weights: found a negative"),
        (lambda: cauchy_schwarz(np.ones(3), np.ones(3), weights=np.ones(2)), "weights: found shape"),
        (lambda: matrix_structure(np.ones((2, 3))), "expected a square"),
        (lambda: matrix_structure(np.full((2, 2), np.nan)), "A: found NaN"),
        (lambda: matrix_structure(np.full((2, 2), 1j * np.inf)), "A: found NaN"),
        (lambda: matrix_structure(np.eye(2), tol=2), "tol: found 2"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
