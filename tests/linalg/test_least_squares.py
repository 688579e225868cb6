"""lstsq against NumPy, its theorems, its certificates, and the cases that break solvers."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

from corollary.core import Function
from corollary.core.errors import InputError
from corollary.linalg import lstsq
from corollary.linalg.least_squares import _lstsq as module

DIRECT = ("auto", "normal", "qr", "svd")
SHAPES = [(30, 4), (4, 30), (1, 1), (1, 3), (3, 1)]


def problem(shape, k=None, seed=0, kind=np.float64):
    rng = np.random.default_rng(seed)
    b = rng.normal(size=shape[:1] if k is None else (shape[0], k))
    return rng.normal(size=shape).astype(kind), b.astype(kind)


def reference(A, b, rcond=None):
    rcond = max(A.shape) * np.finfo(A.dtype).eps if rcond is None else rcond
    return np.linalg.lstsq(A.astype(np.float64), b.astype(np.float64), rcond=rcond)[0]


def relative(x, y):
    return np.linalg.norm(x - y) / np.linalg.norm(y)


def laeuchli(p, delta, kind=np.float64):
    return np.vstack([np.ones((1, p)), delta * np.eye(p)]).astype(kind)


@pytest.mark.covers("lstsq")
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("solver", DIRECT)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_numpy_and_certifies(shape, solver, kind):
    for k in (None, 2):
        A, b = problem(shape, k, kind=kind)
        solution = lstsq(A, b, solver=solver)
        kappa, eps = np.linalg.cond(A), np.finfo(kind).eps
        assert solution.value.dtype == kind
        assert relative(solution.value, reference(A, b)) < 50 * kappa**1.5 * eps
        assert bool(solution.holds), [c.explain() for c in solution.certificates.values()]
        assert bool(solution.converged)
        assert int(solution.stats["rank"]) == min(shape)
        np.testing.assert_allclose(
            solution.stats["residual_norm"], np.linalg.norm(b - A @ solution.value, axis=0), atol=1e3 * kappa * eps
        )


@pytest.mark.covers("lstsq", "lsmr", "conjugate-gradient")
@pytest.mark.parametrize("solver", ["auto", "lsmr", "cg"])
def test_sparse_and_functions_by_products_only(solver):
    A, b = problem((30, 4), 2)
    for operator in (scipy.sparse.csr_array(A), scipy.sparse.coo_matrix(A)):
        solution = lstsq(operator, b, solver=solver)
        assert bool(solution.holds)
        assert bool(solution.converged)
        assert relative(solution.value, reference(A, b)) < 1e-8
    assert "lsmr" in str(lstsq(scipy.sparse.csr_array(A), b).stats["solver"])
    with jax.enable_x64(True):
        J = jnp.asarray(A)
        f = Function(lambda x: J @ x, 4, lambda y: J.T @ y)
        assert relative(lstsq(f, jnp.asarray(b[:, 0]), solver=solver).value, reference(A, b[:, 0])) < 1e-8
        dense = lstsq(lx.MatrixLinearOperator(J), jnp.asarray(b), solver="qr")
        assert relative(dense.value, reference(A, b)) < 1e-13


def test_iterative_solver_says_when_it_did_not_get_there():
    A = np.diag(np.logspace(0, 4, 40))
    solution = lstsq(A, np.ones(40), solver="lsmr", max_steps=3)
    assert not bool(solution.converged)
    assert not bool(solution.holds)
    assert "max_steps" in solution.message


@pytest.mark.covers("lstsq")
def test_residual_is_orthogonal_and_solution_of_least_norm():
    A, b = problem((30, 4))
    deficient = np.hstack([A, A @ np.ones((4, 2))])  # rank 4 of 6
    for M in (deficient, deficient.T.copy()):
        y = b if M.shape[0] == 30 else np.ones(6)
        for solver in ("auto", "qr", "svd"):
            solution = lstsq(M, y, solver=solver)
            x, r = solution.value, y - M @ solution.value
            assert int(solution.stats["rank"]) == 4
            assert np.linalg.norm(M.T @ r) < 1e-13 * np.linalg.norm(M) * np.linalg.norm(y)
            null = scipy.linalg.null_space(M)
            assert np.linalg.norm(null.T @ x) < 1e-13 * np.linalg.norm(x)
            assert all(np.linalg.norm(x) <= np.linalg.norm(x + null @ z) for z in np.eye(null.shape[1]))
            assert relative(x, reference(M, y)) < 1e-12
            assert bool(solution.holds)
        # AᵀA cannot tell rank deficiency from κ > 1/√eps: the answer is right, the rank is not certified.
        normal = lstsq(M, y, solver="normal")
        assert relative(normal.value, reference(M, y)) < 1e-12
        assert not bool(normal.certificates["rank"].holds)


@pytest.mark.covers("lstsq")
def test_laeuchli_normal_equations_lose_kappa_squared():
    deltas = np.array([1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
    rng, errors = np.random.default_rng(0), {"normal": [], "qr": []}
    for delta in deltas:
        A = laeuchli(4, delta)
        for solver, found in errors.items():
            draws = [rng.normal(size=4) for _ in range(8)]
            found.append(np.median([relative(lstsq(A, A @ x, solver=solver, refine=0).value, x) for x in draws]))
    eps = np.finfo(float).eps
    assert np.all(np.array(errors["qr"]) <= 20 * eps / deltas)  # κ = √(1 + 4/δ²) ~ 2/δ
    slope = np.polyfit(-np.log(deltas), np.log(errors["normal"]), 1)[0]
    assert 1.5 < slope < 2.5


@pytest.mark.covers("lstsq")
@pytest.mark.parametrize("delta", [1e-7, 1e-8, 1e-9])
def test_laeuchli_is_flagged_by_normal_and_solved_by_auto(delta):
    A = laeuchli(4, delta)
    x = np.array([1.0, -2.0, 3.0, 0.5])
    assert not bool(lstsq(A, A @ x, solver="normal").holds)
    solution = lstsq(A, A @ x)
    assert bool(solution.holds)
    assert relative(solution.value, x) <= float(solution.certificates["forward_error"].bound)


def test_auto_picks_by_conditioning_and_says_why(monkeypatch):
    monkeypatch.setattr(module, "SMALL", 0)
    A, b = problem((30, 4))
    assert str(lstsq(A, b).stats["solver"]).startswith("normal: condition number at most")
    assert relative(lstsq(A, b).value, reference(A, b)) < 1e-14
    assert str(lstsq(laeuchli(4, 1e-7), np.ones(5)).stats["solver"]).startswith("qr: condition number up to")
    assert str(lstsq(np.ones((30, 4)), b).stats["solver"]).startswith("qr")
    with jax.enable_x64(True):
        assert str(lstsq(jnp.asarray(A), jnp.asarray(b)).stats["solver"]).startswith("normal")


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("solver", DIRECT)
def test_hard_matrices_never_give_nan(solver, kind):
    rng = np.random.default_rng(1)
    big = kind(1e30) if kind == np.float32 else kind(1e150)
    A, b = problem((6, 6), kind=kind)
    cases = {
        "hilbert": (scipy.linalg.hilbert(6).astype(kind), b),
        "graded": (A * kind(10.0) ** -np.arange(6, dtype=kind), b),
        "nearly rank 3": (A[:, :3] @ A[:3] + kind(1e-6) * A, b),
        "duplicate": (np.hstack([A[:, :5], A[:, :1]]), b),
        "constant": (np.ones((6, 6), kind), b),
        "zero": (np.zeros((6, 6), kind), b),
        "zero right-hand side": (A, np.zeros(6, kind)),
        "huge": (A * big, b),
        "tiny": (A / big, b / big),
        "integers": (rng.integers(0, 9, size=(6, 6)), rng.integers(0, 9, size=6)),
        "booleans": (rng.integers(0, 2, size=(6, 6)).astype(bool), b),
    }
    for name, (M, y) in cases.items():
        solution = lstsq(M, y, solver=solver)
        assert np.isfinite(solution.value).all(), name
        if bool(solution.holds):
            rcond = max(M.shape) * np.finfo(solution.value.dtype).eps
            x = reference(np.asarray(M, float), np.asarray(y, float), rcond)
            bound = float(solution.certificates["forward_error"].bound)
            top = np.abs(x).max() or 1.0
            error = np.abs(x / top - solution.value / top).max()
            assert error <= 4 * bound, name


@pytest.mark.covers("lstsq")
def test_certificates_bound_the_truth(x64):
    """Backward error against the optimal one of Waldén, Karlson & Sun; forward bound against the exact error."""
    import mpmath

    rng = np.random.default_rng(2)
    for kappa in (1e1, 1e5):
        A = rng.normal(size=(8, 3)) * np.geomspace(1, 1 / kappa, 3)
        b = rng.normal(size=8)
        with mpmath.workdps(50):
            exact = np.array(mpmath.lu_solve(mpmath.matrix(A), mpmath.matrix(b)).tolist(), float)[:, 0]
        for solver in DIRECT:
            solution = lstsq(A, b, solver=solver)
            x = solution.value
            r = b - A @ x
            ratio = np.linalg.norm(r) / np.linalg.norm(x)
            wide = np.hstack([A, ratio * (np.eye(8) - np.outer(r, r) / (r @ r))])
            optimal = min(ratio, np.linalg.svd(wide, compute_uv=False)[-1]) / np.linalg.norm(A)
            slack = 8 * np.finfo(float).eps
            assert optimal <= float(solution.certificates["backward_error"].measured) + slack
            assert relative(x, exact) <= float(solution.certificates["forward_error"].bound)
            assert bool(solution.holds)
    # A solution that is not one is found out.
    wrong = module.claims.dense((8, 3), *_audit_of(A, b, x * (1 + 1e-6)))
    assert not bool(wrong.certificates["orthogonality"].holds & wrong.certificates["backward_error"].holds)


def _audit_of(A, b, x):
    A, B, x = jnp.asarray(A), jnp.asarray(b)[:, None], jnp.asarray(x)[:, None]
    _, factor = module._solve("qr", 0, A, B, jnp.asarray(1e-15), jax.random.key(0))
    return factor, module._audit(A, B, x, factor)


@pytest.mark.covers("lstsq")
def test_sensitivity_keeps_kappa_squared_times_residual():
    """Perturb A by ε: the solution moves by κ²ε‖r‖, whichever solver finds it (beware of 'QR avoids κ²')."""
    moved = []
    for delta in (1e-2, 1e-3, 1e-4):
        A = np.array([[1.0, 0.0], [0.0, delta], [0.0, 0.0]])
        b = np.array([1.0, 0.0, 1.0])
        E = np.zeros((3, 2))
        E[2, 1] = 1e-10
        moved.append(np.linalg.norm(lstsq(A + E, b, solver="qr").value - lstsq(A, b, solver="qr").value))
    np.testing.assert_allclose(np.array(moved) / 1e-10, [1e4, 1e6, 1e8], rtol=1e-4)


@pytest.mark.parametrize("solver", ["normal", "qr", "svd"])
@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
def test_gradient_is_that_of_finite_differences(x64, shape, solver):
    A, b = (jnp.asarray(a) for a in problem(shape))
    dA, db = (jnp.asarray(a) for a in problem(shape, seed=1))

    def f(A, b):
        return jnp.sum(jnp.sin(lstsq(A, b, solver=solver).value))

    h = 1e-5
    numeric = (f(A + h * dA, b + h * db) - f(A - h * dA, b - h * db)) / (2 * h)
    gA, gb = jax.grad(f, (0, 1))(A, b)
    assert abs(jnp.sum(gA * dA) + gb @ db - numeric) < 1e-7 * max(1.0, abs(float(numeric)))


def test_gradient_at_constant_rank(x64):
    L, R = problem((6, 2))[0], problem((2, 4))[0]
    b = problem((6, 2))[1]
    dL = problem((6, 2), seed=3)[0]

    def f(t):
        return jnp.sum(lstsq(jnp.asarray(L + t * dL) @ R, jnp.asarray(b)).value ** 3)

    h = 1e-5
    assert abs(jax.grad(f)(0.0) - (f(h) - f(-h)) / (2 * h)) < 1e-6 * max(1, abs(float(jax.grad(f)(0.0))))


def test_jit_and_vmap_change_nothing(dtype):
    A, b = (jnp.asarray(a.astype(dtype)) for a in problem((30, 4)))
    plain = lstsq(A, b, solver="qr")
    batch = jax.vmap(lstsq)(jnp.stack([A, 2 * A]), jnp.stack([b, b]))
    tol = 100 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(jax.jit(lambda a, y: lstsq(a, y).value)(A, b), plain.value, rtol=tol, atol=tol)
    np.testing.assert_allclose(batch.value, jnp.stack([plain.value, plain.value / 2]), rtol=tol, atol=tol)
    assert batch.holds.shape == (2,)
    assert bool(batch.holds.all())


def test_scales_pass_straight_through():
    A, b = problem((30, 4))
    x = lstsq(A, b, solver="qr").value
    for solver in DIRECT:
        base = lstsq(A, b, solver=solver).value
        for e in (-40, 40):
            np.testing.assert_array_equal(lstsq(np.ldexp(A, e), b, solver=solver).value, np.ldexp(base, -e))
            np.testing.assert_array_equal(lstsq(A, np.ldexp(b, e), solver=solver).value, np.ldexp(base, e))
    np.testing.assert_allclose(lstsq(A[::-1], b[::-1]).value, x, rtol=1e-12)


def test_another_cutoff_compiles_nothing_new():
    A, b = problem((30, 4))
    lstsq(A, b, solver="svd", rcond=1e-3)
    before = module._in_jax._cache_size()
    low = lstsq(A + 1, b - 1, solver="svd", rcond=0.9)
    assert module._in_jax._cache_size() == before
    assert int(low.stats["rank"]) < 4
    np.testing.assert_allclose(low.value, reference(A + 1, b - 1, 0.9), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((np.zeros((0, 3)), np.zeros(0)), {}, "A: found an empty"),
        ((np.array([[np.inf, 1.0]]), np.ones(1)), {}, "A: found NaN"),
        ((np.ones((2, 1)), np.array([np.nan, 1.0])), {}, "b: found NaN"),
        ((np.ones(3), np.ones(3)), {}, "expected a matrix"),
        ((np.ones((3, 2)), np.ones(4)), {}, "b: found 4 rows"),
        ((np.ones((3, 2)), np.ones((3, 1, 1))), {}, "b: found an array"),
        ((np.ones((3, 2)), np.ones(3)), {"solver": "lu"}, "solver: found 'lu'"),
        ((np.ones((3, 2)), np.ones(3)), {"rcond": -1.0}, "rcond: found -1.0"),
        ((np.ones((3, 2)), np.ones(3)), {"refine": -1}, "refine: found -1"),
        ((np.ones((3, 2), complex), np.ones(3)), {}, "expected real"),
        ((np.array([[{}]], object), np.ones(1)), {}, "expected real"),
        ((scipy.sparse.csr_array(np.eye(3)), np.ones(4)), {}, "b: found 4 rows"),
        ((scipy.sparse.eye_array(4000, format="csr"), np.ones(4000)), {"solver": "qr"}, "solver: found 'qr'"),
    ],
)
def test_refusals(args, kwargs, message):
    with pytest.raises(InputError, match=message):
        lstsq(*args, **kwargs)


@pytest.mark.covers("least-squares-accuracy")
def test_lab_least_squares_accuracy():
    import importlib.util
    import pathlib

    path = pathlib.Path(__file__).parents[2] / "docs" / "labs" / "least_squares_accuracy.py"
    spec = importlib.util.spec_from_file_location("least_squares_accuracy", path)
    lab = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lab)
    found = lab.slopes(lab.errors(draws=4))
    assert 1.6 < found["normal"] < 2.4
    assert 0.6 < found["qr"] < 1.4
    assert 0.6 < found["svd"] < 1.4
    small, large = lab.flops(10**6, 100), lab.flops(2 * 10**6, 100)
    assert all(1.9 < large[m] / small[m] < 2.1 for m in small)
    assert small["qr"] / small["normal"] == pytest.approx(2, rel=0.01)
