"""Functions of matrices: against SciPy and closed forms, the identities they must keep, and what the bounds claim."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
import optax
import pytest
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg

from corollary.core import Function, InputError, Status
from corollary.linalg import expm_action, krylov_function, logm, lyapunov, newton_schulz, sqrtm, sylvester
from corollary.linalg.functions import _newton_schulz as newton_schulz_module

N = 24


def rng(seed=0):
    return np.random.default_rng(seed)


def with_eigenvalues(lam, seed=0):
    U = np.linalg.qr(rng(seed).standard_normal((len(lam), len(lam))))[0]
    return (U * lam) @ U.T


# Exponential ---------------------------------------------------------------------------------------------------------

NORMAL_GROWTH = {"random": None, "skew": 0.0, "negative": 0.0}


def generator(kind, dtype=np.float64):
    A = rng(1).standard_normal((N, N)) / np.sqrt(N)
    return {"random": A, "skew": 2 * (A - A.T), "negative": -3 * (A @ A.T)}[kind].astype(dtype)


@pytest.mark.covers("matrix-exponential-action")
@pytest.mark.parametrize("method", ["taylor", "krylov"])
@pytest.mark.parametrize("kind", ["random", "skew", "negative"])
def test_agrees_with_scipy_and_the_bound_covers_the_error(dtype, kind, method):
    M, v = generator(kind, dtype), rng(2).standard_normal(N).astype(dtype)
    times = np.array([0.5, 2.0, 0.0, 1.0], dtype)
    found = expm_action(M, v, times, method=method, steps=12, growth=NORMAL_GROWTH[kind])
    assert found.value.dtype == dtype
    for t, value, bound in zip(times, found.value, found.stats["error"], strict=True):
        exact = scipy.sparse.linalg.expm_multiply(float(t) * M.astype(float), v.astype(float))
        error = np.linalg.norm(value - exact)
        assert error <= bound
        if method == "taylor":
            assert error <= 200 * np.finfo(dtype).eps * max(np.linalg.norm(exact), np.linalg.norm(v))
    if method == "taylor":
        assert dtype == np.float32 or np.all(found.holds)  # in float32 the default tolerance asks for much


@pytest.mark.slow
@pytest.mark.covers("matrix-exponential-action")
def test_a_small_krylov_space_says_that_it_is_too_small(x64):
    M, v = 20 * generator("skew"), rng(2).standard_normal(N)
    few, many = (expm_action(M, v, method="krylov", steps=k, growth=0.0) for k in (6, N))
    exact = scipy.linalg.expm(M) @ v
    assert not few.holds
    assert few.status == Status.MAX_STEPS
    assert np.linalg.norm(few.value - exact) <= few.stats["error"]
    assert many.holds
    assert np.linalg.norm(many.value - exact) <= many.stats["error"] <= 1e-9


@pytest.mark.covers("matrix-exponential-action")
@pytest.mark.parametrize("method", ["taylor", "krylov"])
def test_a_skew_matrix_preserves_norms(dtype, method):
    M, v = generator("skew", dtype), rng(3).standard_normal(N).astype(dtype)
    found = expm_action(M, v, np.array([0.3, 1.0, 1.7], dtype), method=method, steps=N, growth=0.0)
    np.testing.assert_allclose(
        np.linalg.norm(found.value, axis=1), np.linalg.norm(v), rtol=200 * float(np.finfo(dtype).eps)
    )


@pytest.mark.covers("matrix-exponential-action")
def test_determinant_of_the_dense_exponential_is_that_of_the_trace(x64):
    for seed in range(5):
        M = rng(seed).standard_normal((8, 8)) / 2
        assert np.linalg.det(jax.scipy.linalg.expm(M)) == pytest.approx(np.exp(np.trace(M)), rel=1e-11)
    columns = expm_action(M, np.eye(8)).value
    np.testing.assert_allclose(columns, jax.scipy.linalg.expm(M), atol=1e-13 * np.abs(columns).max())


@pytest.mark.slow
@pytest.mark.covers("matrix-exponential-action")
def test_sparse_blocks_negative_times_and_operators(x64):
    L = scipy.sparse.diags_array([np.full(N, -2.0), np.ones(N - 1), np.ones(N - 1)], offsets=[0, 1, -1]).tocsr()
    V = rng(4).standard_normal((N, 3))
    dense = L.toarray()
    for t in (3.0, -0.5):
        np.testing.assert_allclose(expm_action(L, V, t).value, scipy.linalg.expm(t * dense) @ V, atol=1e-11)
    operator = Function(lambda x: jnp.asarray(dense) @ x, N)
    for given in (
        expm_action(operator, V[:, 0], 1.0, substeps=2),
        expm_action(operator, V[:, 0], 1.0, method="krylov", growth=0.0),
    ):
        np.testing.assert_allclose(given.value, scipy.linalg.expm(dense) @ V[:, 0], atol=1e-11)
    with pytest.raises(InputError, match="substeps"):
        expm_action(operator, V[:, 0])
    together = expm_action(L, V, np.array([1.0, -1.0])).value
    np.testing.assert_allclose(together[0], scipy.linalg.expm(dense) @ V, atol=1e-11)
    np.testing.assert_allclose(together[1], scipy.linalg.expm(-dense) @ V, atol=1e-11)


@pytest.mark.slow
@pytest.mark.covers("matrix-exponential-action")
@pytest.mark.parametrize("options", [{"substeps": 2}, {"method": "krylov", "steps": 10}])
def test_gradients_of_the_exponential(x64, options):
    M, v, D = jnp.asarray(generator("random")), jnp.asarray(rng(2).standard_normal(N)), jnp.asarray(generator("skew"))
    f = jax.jit(lambda s: jnp.sum(jnp.cos(expm_action(M + s * D, v, 1.0 + s, **options).value)))
    slope = float(jax.grad(f)(0.1))
    assert slope == pytest.approx(float(f(0.1 + 1e-6) - f(0.1 - 1e-6)) / 2e-6, rel=1e-5)


@pytest.mark.covers("matrix-exponential-action")
def test_jit_vmap_and_another_time_compile_once():
    M, v, traces = jnp.asarray(generator("negative", np.float32)), jnp.ones(N), []

    @jax.jit
    def run(t):
        traces.append(1)
        return expm_action(M, v, t).value

    many = jax.vmap(run)(jnp.array([0.5, 1.5]))
    np.testing.assert_allclose(many[0], run(jnp.float32(0.5)), atol=1e-5)
    run(jnp.float32(30.0))
    assert len(traces) == 1


# f(A)v ---------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("krylov-function")
@pytest.mark.parametrize("name", ["sqrt", "inverse", "log", "exp", "inverse_sqrt"])
def test_lanczos_action_against_the_eigendecomposition(dtype, name):
    lam = np.linspace(0.5, 3, N)
    A, v = with_eigenvalues(lam).astype(dtype), rng(5).standard_normal(N).astype(dtype)
    f = {"sqrt": np.sqrt, "inverse": lambda x: 1 / x, "log": np.log, "exp": np.exp, "inverse_sqrt": lambda x: x**-0.5}
    exact = with_eigenvalues(f[name](lam)) @ v
    for steps in (6, 14):
        found = krylov_function(A, v, name, steps=steps, tol=1e-3)
        error = np.linalg.norm(found.value - exact)
        assert error <= 1.5 * found.stats["error"] + 200 * float(np.finfo(dtype).eps) * np.linalg.norm(exact)
        assert bool(found.certificates["symmetry"].holds)
        assert found.value.dtype == dtype
    assert bool(found.holds)
    assert error <= 1e-3 * np.linalg.norm(exact)


@pytest.mark.slow
@pytest.mark.covers("krylov-function")
def test_arnoldi_action_and_invariant_spaces(x64):
    A, v = generator("random") + 2 * np.eye(N), rng(5).standard_normal(N)
    for name, exact in (("exp", scipy.linalg.expm(A) @ v), ("inverse", np.linalg.solve(A, v))):
        found = krylov_function(A, v, name, steps=16, symmetric=False)
        assert np.linalg.norm(found.value - exact) <= max(2 * found.stats["error"], 1e-12 * np.linalg.norm(exact))
    own = krylov_function(A, v, jax.scipy.linalg.expm, steps=16, symmetric=False)
    np.testing.assert_allclose(own.value, scipy.linalg.expm(A) @ v, rtol=1e-6)
    eigenvector = krylov_function(np.diag(np.arange(1.0, 9.0)), np.eye(8)[3], "sqrt", steps=4)
    np.testing.assert_allclose(eigenvector.value, 2 * np.eye(8)[3], atol=1e-14)
    assert bool(eigenvector.holds)
    assert np.array_equal(krylov_function(np.eye(4), np.zeros(4), "sqrt", steps=3).value, np.zeros(4))
    assert not krylov_function(generator("random"), v, "exp", steps=8).certificates["symmetry"].holds


@pytest.mark.slow
@pytest.mark.covers("krylov-function")
def test_gradients_of_the_action(x64):
    A, v = jnp.asarray(with_eigenvalues(np.linspace(0.5, 3, N))), jnp.asarray(rng(5).standard_normal(N))
    D, u = jnp.asarray(with_eigenvalues(np.linspace(-1, 1, N), seed=6)), jnp.asarray(rng(6).standard_normal(N))

    def f(s):
        value = krylov_function(A + s * D, v + s * u, lambda x: jnp.sqrt(x + s), steps=12).value
        return jnp.sum(jnp.sin(value))

    f = jax.jit(f)
    assert float(jax.grad(f)(0.1)) == pytest.approx(float(f(0.1 + 1e-6) - f(0.1 - 1e-6)) / 2e-6, rel=1e-5)


# Logarithm and square root -------------------------------------------------------------------------------------------


def nonnormal(seed=0):
    A = rng(seed).standard_normal((N, N))
    return A @ A.T / N + np.triu(rng(seed + 1).standard_normal((N, N)), 1) / np.sqrt(N) + np.eye(N) / 2


@pytest.mark.slow
@pytest.mark.covers("matrix-logarithm")
def test_exponential_of_the_logarithm_is_the_matrix(dtype):
    eps = float(np.finfo(dtype).eps)
    for A in (nonnormal(), 100 * nonnormal(3), np.triu(np.ones((6, 6))), scipy.linalg.expm(generator("skew"))):
        A = A.astype(dtype)
        found = logm(A)
        X = np.asarray(found.value)
        residual = np.linalg.norm(scipy.linalg.expm(X.astype(complex)) - A)
        assert residual <= 200 * len(A) * eps * np.linalg.norm(A) * max(np.linalg.norm(X), 1)
        assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
        assert X.dtype == np.result_type(dtype, np.complex64)


@pytest.mark.covers("matrix-logarithm")
def test_agrees_with_scipy(x64):
    for seed in range(4):
        A = nonnormal(seed)
        ours, theirs = logm(A).value, scipy.linalg.logm(A)
        np.testing.assert_allclose(ours, theirs, atol=1e-12 * np.linalg.norm(theirs))
    jitted = jax.jit(lambda A: logm(A).value)(jnp.asarray(A))
    np.testing.assert_allclose(jitted, ours, atol=1e-12)
    block = np.array([[1.0, 1e6], [0.0, 1.0]])
    np.testing.assert_allclose(logm(block).value, [[0, 1e6], [0, 0]], atol=1e-8)


@pytest.mark.covers("matrix-logarithm")
def test_imaginary_parts_lie_in_the_principal_strip(x64):
    for angle in (0.1, 2.0, 3.14, -3.0):
        c, s = np.cos(angle), np.sin(angle)
        X = logm(np.array([[c, -s], [s, c]])).value
        np.testing.assert_allclose(X, [[0, -angle], [angle, 0]], atol=1e-13)
    A = rng(7).standard_normal((N, N))
    found = logm(A)
    imaginary = np.linalg.eigvals(found.value).imag
    assert np.all(imaginary > -np.pi - 1e-12)
    assert np.all(imaginary <= np.pi + 1e-12)
    on_the_axis = logm(np.diag([-1.0, 2.0]))
    assert on_the_axis.value[0, 0] == pytest.approx(1j * np.pi)
    assert not on_the_axis.certificates["principal"].holds  # outside the theorem: no principal logarithm
    assert logm(np.zeros((2, 2))).status == Status.NON_FINITE


@pytest.mark.covers("matrix-logarithm")
def test_logarithm_of_an_spd_matrix_is_symmetric_and_differentiable(dtype):
    lam = np.linspace(0.5, 3, N)
    A = with_eigenvalues(lam).astype(dtype)
    eps = float(np.finfo(dtype).eps)
    direct = logm(A, symmetric=True)
    assert direct.value.dtype == dtype
    np.testing.assert_allclose(direct.value, direct.value.T, atol=50 * eps)
    general = logm(A).value
    np.testing.assert_allclose(general.imag, 0, atol=200 * eps)
    np.testing.assert_allclose(general.real, direct.value, atol=500 * eps)
    gradient = jax.grad(lambda A: jnp.trace(logm(A, symmetric=True).value))(jnp.asarray(A))
    np.testing.assert_allclose(gradient, np.linalg.inv(A), atol=500 * eps)


@pytest.mark.covers("matrix-square-root")
def test_square_root_and_its_derivative(dtype):
    eps = float(np.finfo(dtype).eps)
    A = nonnormal().astype(dtype)
    found = sqrtm(A)
    assert bool(found.holds)
    np.testing.assert_allclose(found.value, scipy.linalg.sqrtm(A), atol=2e4 * eps)
    P = with_eigenvalues(np.r_[np.zeros(4), np.linspace(1, 2, N - 4)]).astype(dtype)
    root = sqrtm(P, symmetric=True)
    np.testing.assert_allclose(root.value @ root.value, P, atol=100 * N * eps)
    if dtype == np.float64:
        D = jnp.asarray(generator("random"))
        f = jax.jit(lambda s: jnp.sum(jnp.real(sqrtm(jnp.asarray(A) + s * D).value) ** 3))
        assert float(jax.grad(f)(0.0)) == pytest.approx(float(f(1e-6) - f(-1e-6)) / 2e-6, rel=1e-5)


# Sylvester and Lyapunov ----------------------------------------------------------------------------------------------


@pytest.mark.covers("sylvester-equation")
def test_sylvester_against_scipy(dtype):
    eps = float(np.finfo(dtype).eps)
    A, B = nonnormal().astype(dtype), nonnormal(4)[:15, :15].astype(dtype)
    Q = rng(8).standard_normal((N, 15)).astype(dtype)
    for scale in (1.0, 1e-12, 1e12):  # no absolute threshold on the eigenvalues' sums
        found = sylvester((A * scale).astype(dtype), (B * scale).astype(dtype), Q)
        exact = scipy.linalg.solve_sylvester(A.astype(float), B.astype(float), Q.astype(float)) / scale
        np.testing.assert_allclose(found.value, exact, atol=3e3 * eps * np.abs(exact).max())
        assert bool(found.holds)
        assert found.value.dtype == dtype
    stable = -A
    X = lyapunov(stable, -np.eye(N, dtype=dtype))
    np.testing.assert_allclose(X.value, X.value.T, atol=1e3 * eps * np.abs(X.value).max())
    assert np.all(np.linalg.eigvalsh(X.value) > 0)
    singular = sylvester(np.diag([1.0, 2.0]).astype(dtype), -np.eye(2, dtype=dtype), np.ones((2, 2), dtype))
    assert singular.status == Status.NON_FINITE
    assert singular.stats["separation"] == 0


@pytest.mark.covers("sylvester-equation")
def test_sylvester_gradient_is_the_adjoint_equation(x64):
    n = 6
    A, B, Q = (jnp.asarray(rng(s).standard_normal((n, n))) for s in (1, 2, 3))
    C = jnp.asarray(rng(4).standard_normal((n, n)))
    f = jax.jit(lambda A, B, Q: jnp.sum(C * sylvester(A, B, Q).value))
    gA, gB, gQ = jax.grad(f, argnums=(0, 1, 2))(A, B, Q)
    Y = scipy.linalg.solve_sylvester(np.asarray(A).T, np.asarray(B).T, np.asarray(C))
    X = np.asarray(sylvester(A, B, Q).value)
    np.testing.assert_allclose(gQ, Y, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(gA, -Y @ X.T, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(gB, -X.T @ Y, rtol=1e-8, atol=1e-9)
    many = jax.vmap(lambda Q: sylvester(A, B, Q).value)(jnp.stack([Q, C]))
    np.testing.assert_allclose(many[0], X, atol=1e-10)


# Polar factor --------------------------------------------------------------------------------------------------------


def with_singular_values(s, m=20):
    U, V = (np.linalg.qr(rng(seed).standard_normal((d, len(s))))[0] for seed, d in ((0, m), (1, len(s))))
    return (U * s) @ V.T


@pytest.mark.covers("polar-newton-schulz")
@pytest.mark.parametrize("schedule", ["cubic", "polar_express"])
@pytest.mark.parametrize("wide", [False, True])
def test_polar_factor_against_jax(dtype, schedule, wide):
    G = with_singular_values(np.geomspace(0.05, 2, 8)).astype(dtype)
    G = G.T if wide else G
    found = newton_schulz(G, schedule=schedule, steps=20 if schedule == "cubic" else 9)
    exact = jax.scipy.linalg.polar(G, side="left" if wide else "right", method="svd")[0]
    np.testing.assert_allclose(found.value, exact, atol=300 * float(np.finfo(dtype).eps))
    assert bool(found.holds)
    assert found.value.dtype == dtype
    again = newton_schulz(G * np.asarray(1e12, dtype), schedule=schedule, steps=20 if schedule == "cubic" else 9)
    np.testing.assert_allclose(again.value, found.value, atol=300 * float(np.finfo(dtype).eps))


@pytest.mark.covers("polar-newton-schulz")
def test_cubic_converges_below_root_three_and_diverges_beyond(x64):
    for top, converges in ((0.5, True), (1.0, True), (1.70, True), (1.74, False), (2.5, False)):
        G = with_singular_values(np.array([top, 0.9, 0.5]))
        found = newton_schulz(G, schedule="cubic", steps=40, scale="none")
        exact = jax.scipy.linalg.polar(G, method="svd")[0]
        same = bool(np.allclose(found.value, exact, atol=1e-10))
        assert same == converges, top
        if converges:
            assert bool(found.holds)
    beyond = newton_schulz(with_singular_values(np.array([2.5, 0.9, 0.5])), schedule="cubic", steps=40, scale="none")
    assert not beyond.holds  # ‖G‖₂ > √5 grows without end; between √3 and √5 a sign may turn and still look orthogonal
    assert beyond.status != Status.CONVERGED


@pytest.mark.covers("polar-newton-schulz")
def test_quintic_leaves_the_singular_values_in_its_band(dtype):
    a, b, c = newton_schulz_module.QUINTIC
    x = np.linspace(0.01, 1, 4001)
    for _ in range(10):
        x = a * x + b * x**3 + c * x**5
    assert 0.67 <= x.min() <= 0.70
    assert 1.12 <= x.max() <= 1.14
    G = with_singular_values(np.geomspace(0.02, 1, 12)).astype(dtype)
    found = newton_schulz(G, schedule="quintic", steps=8)
    s = np.linalg.svd(found.value, compute_uv=False)
    assert s.min() >= 0.66
    assert s.max() <= 1.14
    assert bool(found.holds)
    assert found.stats["defect"] > 0.1  # rough: it never converges


@pytest.mark.covers("polar-newton-schulz")
def test_polar_express_is_minimax_at_every_step_and_says_what_it_leaves():
    low, high = 1e-3, 1.0
    coefficients, spread = newton_schulz_module.polar_express(1e-3, 6)
    for a, b, c in coefficients[:4]:
        x = np.linspace(low, high, 200_001)
        p = a * x + b * x**3 + c * x**5
        E = np.abs(p - 1).max()
        extremes = [p[0] - 1, p[np.argmax(p[: np.searchsorted(x, 0.6 * high)])] - 1, p[-1] - 1]
        np.testing.assert_allclose(np.abs(extremes), E, rtol=1e-5)  # equioscillation
        for bump in ((1e-3, 0, 0), (0, 1e-3, 0), (0, 0, 1e-3), (-1e-3, 0, 0), (0, -1e-3, 0), (0, 0, -1e-3)):
            other = p + bump[0] * x + bump[1] * x**3 + bump[2] * x**5
            assert np.abs(other - 1).max() > E
        low, high = 1 - E, 1 + E
    s = np.geomspace(1e-3, 1, 10)
    G = with_singular_values(s / np.linalg.norm(s))
    found = newton_schulz(G, steps=6, smallest=s[0] / np.linalg.norm(s) * 0.999)
    assert bool(found.holds)
    few, cubic = newton_schulz(G, steps=6), newton_schulz(G, schedule="cubic", steps=6)
    assert few.stats["defect"] < cubic.stats["defect"]
    assert spread < 1e-2
    deficient = newton_schulz(with_singular_values(np.array([1.0, 0.5, 0.0])))
    assert not deficient.holds
    zero = newton_schulz(np.zeros((4, 3)))
    assert np.array_equal(zero.value, np.zeros((4, 3)))


# What JAX and Optax give ---------------------------------------------------------------------------------------------


@pytest.mark.covers("inverse-pth-root")
@pytest.mark.parametrize("p", [2, 4])
def test_inverse_pth_root_of_optax(p):
    lam = np.linspace(0.5, 2, 8)
    A = jnp.asarray(with_eigenvalues(lam), jnp.float32)
    root, error = optax.matrix_inverse_pth_root(A, p, ridge_epsilon=0.0)
    product = np.linalg.matrix_power(np.asarray(root, float), p) @ np.asarray(A, float)
    np.testing.assert_allclose(product, np.eye(8), atol=1e-4)
    np.testing.assert_allclose(root, with_eigenvalues(lam ** (-1 / p)), atol=1e-4)
    assert float(error) < 1e-4


@pytest.mark.covers("matrix-power")
def test_powers_and_functions_of_jax(x64):
    step, numbers = jnp.array([[1, 1], [1, 0]]), [0, 1]
    while len(numbers) < 60:
        numbers.append(numbers[-1] + numbers[-2])
    for k in (1, 10, 50):
        assert int(jnp.linalg.matrix_power(step, k)[0, 1]) == numbers[k]
    A = jnp.asarray(nonnormal())
    radius = np.abs(np.linalg.eigvals(A)).max()
    gaps = [abs(float(jnp.linalg.norm(jnp.linalg.matrix_power(A, k), 2)) ** (1 / k) - radius) for k in (4, 32, 256)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] <= 0.02 * radius
    small = jnp.asarray(rng(9).standard_normal((6, 6)))
    by_schur = jax.scipy.linalg.funm(small, jnp.exp, disp=False)[0]
    exact = jax.scipy.linalg.expm(small)
    np.testing.assert_allclose(by_schur, exact, atol=1e-10 * float(jnp.linalg.norm(exact)))


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("matrix-exponential-action", "matrix-logarithm", "polar-newton-schulz", "sylvester-equation")
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: expm_action(np.ones((2, 3)), np.ones(3)), "A: found shape"),
        (lambda: expm_action(np.eye(2), np.ones(3)), "v: found 3 rows"),
        (lambda: expm_action(np.eye(2), np.ones(2), method="pade"), "method"),
        (lambda: expm_action(np.eye(2), np.ones(2), np.ones((2, 2))), "t: found shape"),
        (lambda: krylov_function(np.eye(3), np.ones(3), "cosine"), "f: found"),
        (lambda: krylov_function(np.eye(3), np.ones(3), "log", symmetric=False), "f: found"),
        (lambda: krylov_function(np.eye(3), np.ones(3), "log", steps=2), "steps"),
        (lambda: logm(np.ones((2, 3))), "A: found shape"),
        (lambda: logm(np.array([[np.inf, 0], [0, 1.0]])), "A: found NaN"),
        (lambda: sqrtm(np.ones((2, 3))), "A: found shape"),
        (lambda: sylvester(np.eye(2), np.eye(3), np.ones((3, 2))), "Q: found shape"),
        (lambda: sylvester(np.ones((2, 3)), np.eye(3), np.ones((2, 3))), "A: found shape"),
        (lambda: newton_schulz(np.eye(2), schedule="septic"), "schedule"),
        (lambda: newton_schulz(np.eye(2), steps=0), "steps"),
        (lambda: newton_schulz(np.eye(2), scale="none"), "scale"),
        (lambda: newton_schulz(np.eye(2), smallest=0.0), "smallest"),
    ],
)
def test_refusals(call, match):
    with pytest.raises(InputError, match=match):
        call()
