"""Preconditioners: their formulas, what conjugate gradients gain, and the condition number that says so."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

from corollary.core import Function
from corollary.core.errors import InputError
from corollary.linalg import preconditioned_condition, preconditioner


def poisson(k, kind=np.float64):
    """The five-point Laplacian on a k × k grid."""
    line = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(k, k))
    eye = scipy.sparse.eye_array(k)
    return (scipy.sparse.kron(line, eye) + scipy.sparse.kron(eye, line)).tocsr().astype(kind)


def pcg_steps(A, M, b, tol):
    """Plain preconditioned conjugate gradients in NumPy: the number of steps to an A-norm error of tol."""
    x_true = np.linalg.solve(A, b)
    energy = lambda e: np.sqrt(e @ A @ e)  # noqa: E731
    x, r = np.zeros_like(b), b.copy()
    z = M @ r
    p, rho = z.copy(), r @ z
    for step in range(1, 10 * len(b)):
        q = A @ p
        alpha = rho / (p @ q)
        x, r = x + alpha * p, r - alpha * q
        if energy(x_true - x) <= tol * energy(x_true):
            return step
        z = M @ r
        rho, old = r @ z, rho
        p = z + rho / old * p
    return None


@pytest.mark.covers("preconditioners")
def test_inverses_are_those_of_the_formulas(x64):
    A = poisson(5)
    dense = A.toarray()
    D, L = np.diag(np.diag(dense)), np.tril(dense, -1)
    jacobi = preconditioner(A, "jacobi").as_matrix()
    np.testing.assert_allclose(jacobi, np.linalg.inv(D), rtol=1e-14)
    for omega in (0.7, 1.0, 1.6):
        M = (D / omega + L) @ np.linalg.inv(D / omega) @ (D / omega + L).T / (2 - omega)
        np.testing.assert_allclose(preconditioner(A, "ssor", omega=omega).as_matrix(), np.linalg.inv(M), atol=1e-14)
    ic = preconditioner(A, "ic0")
    M = np.linalg.inv(ic.as_matrix())
    pattern = dense != 0
    np.testing.assert_allclose(M[pattern], dense[pattern], atol=1e-13)  # what defines IC(0)
    assert np.abs(M - dense).max() > 0.1
    assert ic.shift == 0.0
    for M in (preconditioner(A, kind) for kind in ("jacobi", "ssor", "ic0", "nystrom")):
        inverse = np.asarray(M.as_matrix())
        np.testing.assert_allclose(inverse, inverse.T, atol=1e-14)
        assert np.linalg.eigvalsh(inverse)[0] > 0
        assert lx.is_positive_semidefinite(M)


@pytest.mark.covers("preconditioners")
def test_incomplete_cholesky_is_exact_without_fill(x64):
    rng = np.random.default_rng(0)
    line = scipy.sparse.diags_array([-1.0, 2.5, -1.0], offsets=[-1, 0, 1], shape=(40, 40)).tocsr()
    arrow = np.diag(rng.uniform(10, 20, 30))
    arrow[-1], arrow[:, -1] = rng.normal(size=30), arrow[:, -1]
    arrow[:, -1] = arrow[-1]
    arrow[-1, -1] = 50.0
    block = rng.normal(size=(12, 12))
    full = block @ block.T + np.eye(12)  # dense: the pattern allows everything
    for A in (line, scipy.sparse.csr_array(arrow), full):
        dense = A.toarray() if scipy.sparse.issparse(A) else A
        inverse = preconditioner(A, "ic0").as_matrix()
        np.testing.assert_allclose(inverse @ dense, np.eye(len(dense)), atol=1e-12)


def test_incomplete_cholesky_shifts_where_a_pivot_breaks_down(x64):
    """Kershaw's matrix (1978): positive definite, yet IC(0) meets a negative pivot."""
    A = np.array([[3.0, -2, 0, 2], [-2, 3, -2, 0], [0, -2, 3, -2], [2, 0, -2, 3]])
    assert np.linalg.eigvalsh(A)[0] > 0
    M = preconditioner(A, "ic0")
    assert M.shift > 0
    assert np.linalg.eigvalsh(np.asarray(M.as_matrix()))[0] > 0


@pytest.mark.covers("preconditioners", "preconditioned-condition-number")
def test_conjugate_gradients_need_no_more_steps_than_predicted(x64):
    A = poisson(16)
    dense, tol = A.toarray(), 1e-8
    b = np.random.default_rng(0).normal(size=len(dense))
    steps, conditions = {}, {}
    for kind in (None, "ssor", "ic0"):
        P = None if kind is None else preconditioner(A, kind, omega=1.5)
        found = preconditioned_condition(dense, P, tol=tol)
        M = np.eye(len(dense)) if P is None else np.asarray(P.as_matrix())
        steps[kind], conditions[kind] = pcg_steps(dense, M, b, tol), float(found.condition)
        assert steps[kind] <= int(found.steps)
        values = scipy.linalg.eigvals(M @ dense).real
        assert found.condition == pytest.approx(values.max() / values.min(), rel=1e-9)
        assert bool(found.certificates["eigenvalues"].holds)
    assert steps["ic0"] < 0.6 * steps[None]
    assert steps["ssor"] < 0.6 * steps[None]
    assert conditions["ic0"] < conditions[None] / 5
    # lineax takes the operator and agrees.
    P = preconditioner(A, "ic0")
    system = lx.MatrixLinearOperator(jnp.asarray(dense), lx.positive_semidefinite_tag)
    plain = lx.linear_solve(system, jnp.asarray(b), lx.CG(1e-9, 1e-9))
    better = lx.linear_solve(system, jnp.asarray(b), lx.CG(1e-9, 1e-9), options={"preconditioner": P})
    np.testing.assert_allclose(better.value, np.linalg.solve(dense, b), rtol=1e-6, atol=1e-8)
    assert better.stats["num_steps"] < plain.stats["num_steps"]


@pytest.mark.covers("preconditioners")
def test_nystrom_condition_number_is_below_its_bound(x64):
    rng = np.random.default_rng(0)
    n, mu = 120, 1e-3
    Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    A = (Q * np.exp(-np.arange(n) / 4.0)) @ Q.T
    effective = float(np.trace(np.linalg.solve(A + mu * np.eye(n), A)))
    rank = 2 * int(np.ceil(1.5 * effective)) + 1
    reached = []
    for seed in range(5):
        P = preconditioner(A, "nystrom", rank=rank, shift=mu, key=jax.random.key(seed))
        approximation = np.asarray((P.vectors * P.values) @ P.vectors.T)
        gap = np.linalg.eigvalsh(A - approximation)
        assert gap[0] > -1e-12  # a Nyström approximation lies below A
        condition = float(preconditioned_condition(A + mu * np.eye(n), P).condition)
        assert condition <= float(P.condition_bound(gap[-1])) * (1 + 1e-8)
        reached.append(condition)
    assert np.mean(reached) <= 28  # Theorem 5.1, in expectation, for rank 2⌈1.5 d_eff⌉ + 1
    assert float(preconditioned_condition(A + mu * np.eye(n)).condition) > 500
    J = jnp.asarray(A)
    by_products = preconditioner(Function(lambda x: J @ x, n, lambda x: J @ x), "nystrom", rank=rank, shift=mu)
    same = preconditioner(A, "nystrom", rank=rank, shift=mu)
    np.testing.assert_allclose(by_products.as_matrix(), same.as_matrix(), atol=1e-7)


@pytest.mark.covers("preconditioned-condition-number")
def test_jacobi_on_a_diagonal_matrix_and_van_der_sluis(x64):
    rng = np.random.default_rng(1)
    D = np.diag(np.geomspace(1, 1e8, 12))
    assert preconditioned_condition(D, preconditioner(D, "jacobi")).condition == pytest.approx(1, rel=1e-12)
    n, jacobi, others = 12, [], []
    for _ in range(10):
        G = rng.normal(size=(n, n))
        A = (G @ G.T + 0.1 * np.eye(n)) * np.outer(s := 10 ** rng.uniform(-2, 2, n), s)
        jacobi.append(float(preconditioned_condition(A, preconditioner(A, "jacobi")).condition))
        others.append(min(float(np.linalg.cond(A * np.outer(d, d))) for d in 10 ** rng.uniform(-2, 2, (50, n)) / s))
    assert np.all(np.array(jacobi) <= n * np.array(others))
    # Beyond its reach: an ill-conditioning that is rotated away from the axes.
    Q = scipy.linalg.hadamard(8) / np.sqrt(8)
    A = (Q * np.geomspace(1, 1e6, 8)) @ Q.T
    assert preconditioned_condition(A, preconditioner(A, "jacobi")).condition > 1e5


def test_large_operators_by_ritz_values(x64):
    A = poisson(50)
    k = np.arange(1, 51)
    exact = 4 - 4 * np.cos(np.pi * k / 51)
    found = preconditioned_condition(A)
    assert found.certificates["eigenvalues"].kind == "estimate"
    assert exact[0] * (1 - 1e-9) <= found.smallest <= exact[0] * 3
    assert exact[-1] * 0.99 <= found.largest <= exact[-1] * (1 + 1e-9)
    better = preconditioned_condition(A, preconditioner(A, "ic0"))
    assert better.condition < found.condition / 3
    D = scipy.sparse.diags_array(np.geomspace(1, 1e3, 2500)).tocsr()
    assert preconditioned_condition(D, preconditioner(D)).condition == pytest.approx(1, rel=1e-10)


def test_precision_scale_jit_and_vmap():
    A = poisson(6, np.float32)
    r = np.random.default_rng(0).normal(size=(3, 36)).astype(np.float32)
    for kind in ("jacobi", "ssor", "ic0", "nystrom"):
        P = preconditioner(A, kind, shift=0.5 if kind == "nystrom" else 0.0)
        one = P.mv(jnp.asarray(r[0]))
        assert one.dtype == jnp.float32
        batch = jax.jit(jax.vmap(lambda v, P=P: P.mv(v)))(jnp.asarray(r))
        np.testing.assert_allclose(batch[0], one, rtol=1e-5, atol=1e-6)
        big = preconditioner(A * np.float32(2.0**40), kind, shift=0.5 * 2.0**40 if kind == "nystrom" else 0.0)
        scaled = big.mv(jnp.asarray(r[0])) * (1 if kind == "nystrom" else 2.0**40)
        np.testing.assert_allclose(scaled, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("A", "kwargs", "message"),
    [
        (np.ones((2, 3)), {}, "A: found shape"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), {}, "not symmetric"),
        (np.diag([1.0, 0.0]), {}, "diagonal entry that is not positive"),
        (np.eye(2), {"kind": "ilu"}, "kind: found 'ilu'"),
        (np.eye(2), {"kind": "ssor", "omega": 2}, "omega: found 2"),
        (np.eye(2), {"shift": -1.0}, "shift: found -1"),
        (np.eye(2), {"kind": "nystrom", "rank": 0}, "rank: found 0"),
        (Function(lambda x: x, 3), {}, "found an operator"),
        (-np.eye(3), {"kind": "nystrom"}, "not positive semidefinite"),
    ],
)
def test_refusals(A, kwargs, message):
    with pytest.raises(InputError, match=message):
        preconditioner(A, **kwargs)


def test_condition_refusals_and_failing_assumptions():
    with pytest.raises(InputError, match="P: found shape"):
        preconditioned_condition(np.eye(3), np.eye(2))
    with pytest.raises(InputError, match="expected a square"):
        preconditioned_condition(np.ones((2, 3)))
    indefinite = preconditioned_condition(np.diag([1.0, -1.0]))
    assert not bool(indefinite.certificates["eigenvalues"].holds)
