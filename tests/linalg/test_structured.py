"""Structured operators: one table of laws for all of them, and solves with their backward-error certificate."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

import corollary.linalg.structured._solve as module
from corollary.core import Function, InputError, Sparse, Status, matmat, rmatmat
from corollary.linalg import (
    DFT,
    BlockToeplitz,
    Butterfly,
    Circulant,
    Hankel,
    KhatriRao,
    Kronecker,
    LowRankUpdate,
    Monarch,
    Permutation,
    Toeplitz,
    solve,
)

N = 16


def normal(seed, *shape, dtype=np.float64):
    rng = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.complexfloating):
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


# Each entry builds an operator with NumPy parameters of a given precision.
TABLE = {
    "circulant": lambda d: Circulant(normal(0, N, dtype=d)),
    "toeplitz": lambda d: Toeplitz(normal(0, N, dtype=d), normal(1, N, dtype=d)),
    "toeplitz, symmetric": lambda d: Toeplitz(normal(0, N, dtype=d)),
    "toeplitz, tall": lambda d: Toeplitz(normal(0, N, dtype=d), normal(1, 5, dtype=d)),
    "toeplitz, wide": lambda d: Toeplitz(normal(0, 3, dtype=d), normal(1, N, dtype=d)),
    "hankel": lambda d: Hankel(normal(0, N, dtype=d), normal(1, N, dtype=d)),
    "hankel, zeros": lambda d: Hankel(normal(0, N, dtype=d)),
    "hankel, tall": lambda d: Hankel(normal(0, N, dtype=d), normal(1, 5, dtype=d)),
    "block toeplitz": lambda d: BlockToeplitz(normal(0, 5, 2, 3, dtype=d), normal(1, 4, 2, 3, dtype=d)),
    "block toeplitz, hermitian": lambda d: BlockToeplitz(normal(0, 8, 2, 2, dtype=d)),
    "kronecker": lambda d: Kronecker(*(normal(i, *s, dtype=d) for i, s in enumerate([(2, 3), (3, 2), (4, 4)]))),
    "kronecker of toeplitz": lambda d: Kronecker(Toeplitz(normal(0, 4, dtype=d)), normal(1, 4, 4, dtype=d)),
    "khatri-rao": lambda d: KhatriRao(*(normal(i, m, 5, dtype=d) for i, m in enumerate((2, 3, 4)))),
    "butterfly": lambda d: Butterfly(normal(0, 4, 8, 2, 2, dtype=d), np.random.default_rng(0).permutation(N)),
    "monarch": lambda d: Monarch(normal(0, 3, 2, 4, dtype=d), normal(1, 4, 3, 5, dtype=d), np.arange(20)[::-1].copy()),
    "permutation": lambda d: Permutation(np.random.default_rng(0).permutation(N), d),
    "low-rank update": lambda d: LowRankUpdate(normal(0, N, N, dtype=d), *(normal(i, N, 2, dtype=d) for i in (1, 2))),
    "update of a circulant": lambda d: LowRankUpdate(
        Circulant(normal(0, N, dtype=d)), normal(1, N, 2, dtype=d), C=normal(2, 2, 2, dtype=d)
    ),
}


@functools.partial(jax.jit, static_argnums=0)
def everything(conjugates, A, x, y, X):
    """All that the laws compare, compiled once an operator."""
    more = [lx.conj(A).as_matrix()] if conjugates else []
    return [A.as_matrix(), A.mv(x), A.T.mv(y), A.T.as_matrix(), matmat(A, X), *more]


def data(A, dtype):
    """An operator's leaves, x, y and a block as JAX arrays of the precision."""
    m, n = A.shape
    parts = (normal(5, n, dtype=dtype), normal(6, m, dtype=dtype), normal(7, n, 3, dtype=dtype))
    return jax.tree.map(jnp.asarray, (A, *parts))


def check_laws(name, dtype):
    A = TABLE[name](dtype)
    complex_numbers = np.issubdtype(dtype, np.complexfloating)
    M, Ax, Ay, T, AX, *more = everything(complex_numbers, *data(A, dtype))
    tol = 60 * np.finfo(dtype).eps * np.linalg.norm(M)
    x, y, X = (
        normal(5, A.shape[1], dtype=dtype),
        normal(6, A.shape[0], dtype=dtype),
        normal(7, A.shape[1], 3, dtype=dtype),
    )
    assert M.shape == A.shape == (A.out_size(), A.in_size())
    assert M.dtype == Ax.dtype == Ay.dtype == A.dtype == np.dtype(dtype)  # real in, real out
    M = np.asarray(M)
    np.testing.assert_allclose(T, M.T, rtol=0, atol=tol)
    np.testing.assert_allclose(Ax, M @ x, atol=tol * 5, rtol=0)
    np.testing.assert_allclose(Ay, M.T @ y, atol=tol * 5, rtol=0)
    np.testing.assert_allclose(AX, M @ X, atol=tol * 5, rtol=0)
    assert abs(y @ np.asarray(Ax) - np.asarray(Ay) @ x) <= tol * 20  # ⟨y, A x⟩ = ⟨Aᵀy, x⟩, no conjugates
    for conj in more:
        np.testing.assert_allclose(conj, M.conj(), rtol=0, atol=tol)
    for query, truth in (
        (lx.is_symmetric, np.array_equal(M, M.T)),
        (lx.is_diagonal, np.array_equal(M, np.diag(np.diag(M)))),
        (lx.is_positive_semidefinite, False),
    ):
        assert not query(A) or truth  # a query may fail to know, never claim what is not so
    np.testing.assert_allclose(lx.diagonal(A), np.diag(M), rtol=0, atol=tol)


@pytest.mark.covers("circulant-operator", "toeplitz-operator", "kronecker-operator", "butterfly-factorization")
@pytest.mark.covers("monarch-matrix", "permutation-matrix")
@pytest.mark.parametrize("name", TABLE)
def test_products_agree_with_the_dense_matrix(x64, name):
    check_laws(name, np.float64)


@pytest.mark.parametrize("name", ["circulant", "toeplitz", "butterfly", "low-rank update"])
def test_products_in_single_precision(name):
    check_laws(name, np.float32)


@pytest.mark.parametrize("name", ["circulant", "toeplitz", "hankel", "block toeplitz", "kronecker of toeplitz"])
def test_products_of_complex_operators(x64, name):
    check_laws(name, np.complex128)


@pytest.mark.parametrize("name", ["circulant", "toeplitz", "kronecker", "permutation", "low-rank update"])
def test_numpy_in_numpy_out_and_jit_changes_nothing(name):
    A = TABLE[name](np.float64)
    x = normal(5, A.shape[1])
    ours = A.mv(x)
    assert isinstance(ours, np.ndarray)
    assert ours.dtype == np.float64
    assert isinstance(A.as_matrix(), np.ndarray)
    np.testing.assert_allclose(ours, A.as_matrix() @ x, rtol=0, atol=1e-13 * np.linalg.norm(A.as_matrix()))
    with jax.enable_x64(True):
        np.testing.assert_allclose(everything(False, *data(A, np.float64))[1], ours, rtol=0, atol=1e-13)


def directional(f, primals, directions, h=1e-6):
    """A derivative along a direction, automatic and by central differences."""
    step = lambda t: jax.tree.map(lambda p, d: p + t * d, primals, directions)  # noqa: E731
    gradient = jax.grad(f)(primals)
    automatic = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(directions), strict=True))
    return float(automatic), float((f(step(h)) - f(step(-h))) / (2 * h))


@pytest.mark.covers("circulant-operator", "toeplitz-operator", "butterfly-factorization")
@pytest.mark.parametrize(
    "name",
    [
        "circulant",
        "toeplitz",
        "butterfly",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("kronecker", "monarch")),
    ],
)
def test_gradients_in_the_parameters_and_in_x(x64, name):
    A, x, y, _ = data(TABLE[name](np.float64), np.float64)
    parameters, rest = eqx.partition(A, eqx.is_inexact_array)
    f = jax.jit(lambda p: jnp.sum(jnp.sin(eqx.combine(p[0], rest).mv(p[1])) * y))
    directions = jax.tree.map(lambda a: jnp.asarray(normal(a.size, *a.shape)), (parameters, x))
    automatic, numeric = directional(f, (parameters, x), directions)
    assert automatic == pytest.approx(numeric, rel=1e-6)


def test_vmap_over_operators_is_a_loop(x64):
    columns = normal(0, 3, N)
    x = jnp.asarray(normal(1, N))
    batch = jax.vmap(lambda c: Circulant(c).mv(x))(jnp.asarray(columns))
    for c, y in zip(columns, batch, strict=True):
        np.testing.assert_allclose(y, scipy.linalg.circulant(c) @ np.asarray(x), atol=1e-13)


# Circulant and Toeplitz ----------------------------------------------------------------------------------------------


@pytest.mark.covers("circulant-operator")
@pytest.mark.parametrize(("n", "kind"), [(1, np.float64), (2, np.float64), (7, np.float32), (7, np.complex128)])
def test_circulant_is_scipys_with_its_spectrum_and_inverse(n, kind):
    c, d, x = (normal(i, n, dtype=kind) for i in range(3))
    eps = 50 * np.finfo(kind).eps
    C, dense = Circulant(c), scipy.linalg.circulant(c)
    np.testing.assert_array_equal(C.as_matrix(), dense)
    np.testing.assert_allclose(C.mv(x), dense @ x, atol=eps * np.linalg.norm(dense) * 5)
    values = C.eigenvalues()
    np.testing.assert_allclose(values, np.fft.fft(c), atol=eps * np.linalg.norm(dense))
    for k in range(n):  # C f_k = λ_k f_k
        f = np.exp(2j * np.pi * k * np.arange(n) / n)
        np.testing.assert_allclose(dense @ f, values[k] * f, atol=eps * np.linalg.norm(dense) * n)
    condition = np.linalg.cond(dense)
    assert C.inverse().column.dtype == kind
    np.testing.assert_allclose(C.inverse().as_matrix() @ dense, np.eye(n), atol=eps * condition * 5)
    np.testing.assert_allclose(C.solve(dense @ x), x, atol=eps * condition * 5)
    sign, size = C.slogdet()
    expected = np.linalg.slogdet(dense)
    np.testing.assert_allclose(sign, expected[0], atol=eps * condition)
    np.testing.assert_allclose(size, expected[1], atol=eps * condition * 10)
    first, second = Circulant(c) @ Circulant(d), Circulant(d) @ Circulant(c)
    assert isinstance(first, Circulant)
    np.testing.assert_allclose(first.column, second.column, atol=eps * np.linalg.norm(dense) * 10)
    np.testing.assert_allclose(
        first.as_matrix(), dense @ scipy.linalg.circulant(d), atol=eps * np.linalg.norm(dense) * 10
    )


@pytest.mark.covers("circulant-operator")
def test_the_first_row_would_give_the_transpose():
    c, x = normal(0, 8), normal(1, 8)
    correlation = np.array([sum(c[(j - i) % 8] * x[j] for j in range(8)) for i in range(8)])  # c as the first row
    np.testing.assert_allclose(Circulant(c).T.mv(x), correlation, atol=1e-13)
    assert np.abs(Circulant(c).mv(x) - correlation).max() > 0.1


def test_singular_circulants_get_the_pseudoinverse():
    c = np.array([1.0, -1.0, 0.0])  # the periodic difference: constants are its null space
    C, b = Circulant(c), normal(1, 3)
    np.testing.assert_allclose(C.inverse().as_matrix(), np.linalg.pinv(C.as_matrix()), atol=1e-15)
    np.testing.assert_allclose(C.solve(b), np.linalg.pinv(C.as_matrix()) @ b, atol=1e-14)
    assert np.all(Circulant(np.zeros(3)).solve(b) == 0)
    assert bool(solve(C, b - b.mean()).holds)
    assert not bool(solve(C, b).holds)  # b outside the range: the certificate says so
    assert solve(C, b).status == Status.PRECISION


@pytest.mark.covers("toeplitz-operator")
@pytest.mark.parametrize(("shape", "kind"), [((1, 1), np.float64), ((1, 6), np.float64), ((9, 4), np.complex128)])
def test_toeplitz_and_hankel_are_scipys(shape, kind):
    c, r, x = normal(0, shape[0], dtype=kind), normal(1, shape[1], dtype=kind), normal(2, shape[1], 1, dtype=kind)
    T = Toeplitz(c, r)
    np.testing.assert_array_equal(T.as_matrix(), scipy.linalg.toeplitz(c, r))
    np.testing.assert_allclose(T.mv(x[:, 0]), scipy.linalg.matmul_toeplitz((c, r), x)[:, 0], atol=1e-13)
    np.testing.assert_allclose(T.T.mv(c), scipy.linalg.toeplitz(c, r).T @ c, atol=1e-13)
    np.testing.assert_array_equal(Toeplitz(c).as_matrix(), scipy.linalg.toeplitz(c))
    np.testing.assert_array_equal(Hankel(c, r).as_matrix(), scipy.linalg.hankel(c, r))
    np.testing.assert_array_equal(Hankel(c).as_matrix(), scipy.linalg.hankel(c))


def test_chans_circulant_is_the_nearest_and_its_spectrum_lies_in_the_numerical_range():
    c = 0.8 ** np.arange(12)
    T = Toeplitz(c)
    C = T.preconditioner()
    dense, F = T.as_matrix(), np.fft.fft(np.eye(12), norm="ortho")
    np.testing.assert_allclose(
        np.sort(np.asarray(C.eigenvalues()).real), np.sort(np.diag(F @ dense @ F.conj().T).real), rtol=1e-5
    )
    best = np.array(
        [np.mean([dense[(j + k) % 12, j] for j in range(12)]) for k in range(12)]
    )  # least squares by diagonal
    np.testing.assert_allclose(C.column, best, rtol=1e-6)


def test_block_toeplitz_by_its_definition():
    column, row = normal(0, 3, 2, 3), normal(1, 4, 2, 3)
    dense = np.block([[column[i - j] if i >= j else row[j - i] for j in range(4)] for i in range(3)])
    np.testing.assert_array_equal(BlockToeplitz(column, row).as_matrix(), dense)


# Solves --------------------------------------------------------------------------------------------------------------


SYSTEMS = {
    "dense": lambda d: normal(0, N, N, dtype=d),
    "circulant": lambda d: Circulant(normal(0, N, dtype=d)),
    "toeplitz": lambda d: Toeplitz(normal(0, N, dtype=d), normal(1, N, dtype=d)),
    "kronecker": lambda d: Kronecker(normal(0, 4, 4, dtype=d), normal(1, 4, 4, dtype=d)),
    "low-rank update": lambda d: LowRankUpdate(Circulant(normal(0, N, dtype=d)), normal(1, N, 2, dtype=d)),
    "butterfly": lambda d: Butterfly(normal(0, 4, 8, 2, 2, dtype=d), np.random.default_rng(0).permutation(N)),
    "monarch": lambda d: Monarch(normal(0, 4, 4, 4, dtype=d), normal(1, 4, 4, 4, dtype=d)),
    "permutation": lambda d: Permutation(np.random.default_rng(0).permutation(N), d),
    "sparse": lambda d: Sparse(scipy.sparse.csr_array(normal(0, N, N, dtype=d))),
}


def check_solve(A, x, **settings):
    dense = A.as_matrix() if hasattr(A, "as_matrix") else A
    dense = np.asarray(dense)
    b = dense @ x
    found = solve(A, b, **settings)
    eps = np.finfo(b.dtype).eps
    claim = found.certificates["backward_error"]
    assert bool(found.holds), claim.explain()
    assert bool(found.converged)
    size = np.linalg.norm(dense, 2)
    residual = np.linalg.norm(b - dense @ np.asarray(found.value), axis=0)
    error = residual / (size * np.linalg.norm(found.value, axis=0) + np.linalg.norm(b, axis=0))
    assert np.max(error) <= float(claim.bound) * (1 + 1e-3)  # against the true ‖A‖₂, which the certificate only bounds
    assert float(found.stats["norm"]) <= size * (1 + 100 * eps)
    condition = np.linalg.cond(dense)
    if condition < 0.01 / eps:
        assert np.linalg.norm(found.value - x) <= 4 * condition * float(claim.bound) * np.linalg.norm(x)
    return found


@pytest.mark.covers("circulant-operator", "toeplitz-operator", "kronecker-operator", "woodbury")
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in ("monarch", "butterfly", "sparse") else []) for n in SYSTEMS],
)
def test_solve_inverts_the_product(x64, name):
    A = jax.tree.map(jnp.asarray, SYSTEMS[name](np.float64)) if name != "sparse" else SYSTEMS[name](np.float64)
    found = check_solve(A, normal(3, N, 2))
    assert found.value.dtype == np.float64


@pytest.mark.parametrize("name", ["dense", "circulant", "toeplitz"])
def test_solve_in_single_precision_on_numpy_data(name):
    found = check_solve(SYSTEMS[name](np.float32), normal(3, N, 2, dtype=np.float32))
    assert found.value.dtype == np.float32
    assert isinstance(found.value, np.ndarray)


@pytest.mark.covers("toeplitz-operator")
def test_preconditioned_iterations_on_long_toeplitz_systems(x64):
    n = 1500
    x = normal(0, n)
    for column, word in ((0.9 ** np.arange(n), "cg"), (1 / (1 + np.arange(n)) ** 1.2, "cg")):
        T = Toeplitz(column)
        b = scipy.linalg.matmul_toeplitz(column, x)
        found = solve(T, b)
        assert str(found.stats["solver"]).startswith(word)
        assert bool(found.holds)
        assert bool(found.converged)
        np.testing.assert_allclose(found.value, scipy.linalg.solve_toeplitz(column, b), rtol=0, atol=1e-9)
    with_scale = solve(Toeplitz(1e-12 * column), 1e12 * b)
    np.testing.assert_allclose(with_scale.value, 1e24 * found.value, rtol=1e-9, atol=1e-9 * 1e24)
    assert bool(with_scale.holds)


def test_toeplitz_systems_that_defeat_levinson_are_solved_by_lu():
    column, row = np.array([0.0, 1.0, 2.0, -1.0]), np.array([0.0, 3.0, 0.5, 1.0])  # the first minor is zero
    x = normal(0, 4)
    with pytest.raises(np.linalg.LinAlgError):
        scipy.linalg.solve_toeplitz((column, row), x)
    found = solve(Toeplitz(column, row), scipy.linalg.toeplitz(column, row) @ x)
    assert str(found.stats["solver"]).startswith("lu")
    np.testing.assert_allclose(found.value, x, atol=1e-13)
    assert bool(found.holds)
    hankel = Hankel(0.5 ** np.arange(6)[::-1], 0.3 ** np.arange(6))
    found = solve(hankel, hankel.as_matrix() @ np.ones(6), solver="levinson")
    np.testing.assert_allclose(found.value, 1, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_solve_knows_no_scale(scale):
    c, b = normal(0, N), normal(1, N)
    plain = solve(Circulant(c), b)
    for scaled in (solve(Circulant(c), b * scale), solve(Circulant(c / scale), b)):
        np.testing.assert_allclose(scaled.value, plain.value * scale, rtol=1e-12)
        assert bool(scaled.holds)


def test_solve_degenerate_systems():
    zero = solve(np.zeros((3, 3)), np.zeros(3))
    assert np.all(zero.value == 0)
    assert bool(zero.holds)
    singular = solve(np.ones((3, 3)), np.ones(3))  # consistent: the least-norm solution
    np.testing.assert_allclose(singular.value, 1 / 3)
    assert bool(singular.holds)
    inconsistent = solve(np.ones((3, 3)), np.arange(3.0))
    np.testing.assert_allclose(inconsistent.value, 1 / 3)
    assert not bool(inconsistent.holds)
    assert solve(Circulant(np.array([4.0])), np.array([2.0])).value.tolist() == [0.5]


@pytest.mark.slow
def test_solve_uses_what_lineax_knows(x64):
    M = jnp.asarray(normal(0, N, N))
    b = normal(1, N)
    positive = lx.MatrixLinearOperator(M @ M.T + jnp.eye(N), lx.positive_semidefinite_tag)
    for A, name in (
        (positive, "Cholesky"),
        (lx.MatrixLinearOperator(jnp.tril(M) + 4 * jnp.eye(N), lx.lower_triangular_tag), "triangular"),
        (2 * lx.DiagonalLinearOperator(M[0]), "division"),
        (
            Permutation(np.arange(N)[::-1].copy()) @ lx.DiagonalLinearOperator(M[0]),
            "the structure of Permutation, then",
        ),
    ):
        found = solve(A, b)
        assert str(found.stats["solver"]).startswith(name)
        np.testing.assert_allclose(np.asarray(A.as_matrix()) @ np.asarray(found.value), b, atol=1e-11)
        assert bool(found.holds)


@pytest.mark.slow
def test_solve_matrix_free(x64):
    M = jnp.asarray(normal(0, N, N)) / 4 + 2 * jnp.eye(N)
    b = normal(1, N)
    found = solve(Function(lambda x: M @ x, N), b)
    assert str(found.stats["solver"]) == "gmres"
    np.testing.assert_allclose(found.value, np.linalg.solve(M, b), atol=1e-12)
    tagged = lx.TaggedLinearOperator(Function(lambda x: M @ (M.T @ x), N), lx.positive_semidefinite_tag)
    found = solve(tagged, b)
    assert str(found.stats["solver"]) == "cg"
    np.testing.assert_allclose(found.value, np.linalg.solve(M @ M.T, b), atol=1e-11)
    blocks = np.concatenate([3 * np.eye(2)[None], 0.2 * normal(0, 7, 2, 2)])
    check_solve(BlockToeplitz(blocks), normal(3, N), solver="structure")
    check_solve(Hankel(0.5 ** np.arange(N)[::-1], 0.3 ** np.arange(N)), normal(3, N), solver="structure")


@pytest.mark.covers("circulant-operator")
def test_gradient_of_a_solve(x64):
    c, b = jnp.asarray(normal(0, N)), jnp.asarray(normal(1, N))
    f = jax.jit(lambda p: jnp.sum(jnp.sin(solve(Circulant(p[0]), p[1]).value)))
    automatic, numeric = directional(f, (c, b), (b, c))
    assert automatic == pytest.approx(numeric, rel=1e-6)


@pytest.mark.slow
@pytest.mark.covers("toeplitz-operator", "kronecker-operator", "woodbury")
@pytest.mark.parametrize("name", ["dense", "toeplitz", "kronecker", "low-rank update"])
def test_gradient_of_more_solves(x64, name):
    A = SYSTEMS[name](np.float64)
    A = jax.tree.map(jnp.asarray, A)
    b = jnp.asarray(normal(2, N))
    f = jax.jit(lambda p: jnp.sum(jnp.sin(solve(*p).value)))
    directions = jax.tree.map(lambda a: jnp.asarray(normal(a.size, *a.shape)), (A, b))
    automatic, numeric = directional(f, (A, b), directions)
    assert automatic == pytest.approx(numeric, rel=1e-5)


def test_a_second_solve_compiles_nothing():
    solve(Circulant(normal(0, N)), normal(1, N))
    before = module._refined._cache_size()
    solve(Circulant(normal(2, N)), normal(3, N), tol=1e-9)
    assert module._refined._cache_size() == before


def test_the_certificate_can_fail(x64):
    A, b, x = jnp.asarray(normal(0, 4, 4)), jnp.asarray(normal(1, 4, 1)), jnp.asarray(normal(2, 4, 1))
    wrong = module._host(lx.MatrixLinearOperator(A), b, jnp.asarray(1e-8), 1e-15, lambda *_: x, "a wrong answer")
    assert not bool(wrong.holds)
    assert wrong.status == Status.PRECISION


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: solve(np.ones((2, 3)), np.ones(2)), "A: found shape"),
        (lambda: solve(np.eye(2), np.ones(3)), "b: found 3 rows"),
        (lambda: solve(np.eye(2), np.ones((2, 2, 2))), "b: found an array"),
        (lambda: solve(np.array([[np.nan]]), np.ones(1)), "A: found NaN"),
        (lambda: solve(np.eye(2), np.ones(2), solver="magic"), "solver: found 'magic'"),
        (lambda: solve(np.eye(2), np.ones(2), solver="levinson"), "solver: found 'levinson'"),
        (lambda: solve(np.eye(2), np.ones(2), tol=-1.0), "tol: found -1.0"),
        (lambda: solve(Toeplitz(np.ones(2), np.ones(3)), np.ones(2)), "A: found shape"),
        (lambda: Circulant(np.ones((2, 2))), "column: found an array of shape"),
        (lambda: Circulant(np.array([])), "column: found an array of shape"),
        (lambda: Circulant(np.array(["a"])), "column: found dtype"),
        (lambda: Circulant([[1.0], [1.0, 2.0]]), "column: found a ragged"),
        (lambda: Toeplitz(np.ones(2), np.array([1.0, np.inf])), "row: found NaN"),
        (lambda: BlockToeplitz(np.ones((2, 2, 3))), "row: found None"),
        (lambda: DFT(0), "n: found 0"),
        (lambda: DFT(4, "none"), "norm: found 'none'"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(InputError, match=match):
        call()


def test_rmatmat_is_the_transposed_product(x64):
    A = jax.tree.map(jnp.asarray, TABLE["toeplitz, tall"](np.float64))
    Y = normal(0, N, 2)
    np.testing.assert_allclose(rmatmat(A, jnp.asarray(Y)), np.asarray(A.as_matrix()).T @ Y, atol=1e-13)
