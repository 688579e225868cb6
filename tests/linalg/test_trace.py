"""Traces: unbiased by enumeration, variances as the lemmas say, exact where they should be, intervals that cover."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.stats

from corollary.core import Function, InputError, Sparse, as_operator
from corollary.linalg import (
    diagonal_estimate,
    divergence,
    hutchinson,
    hutchpp,
    slq,
    spectral_density,
    xdiag,
    xnystrace,
    xtrace,
)
from corollary.linalg.trace import _block_lanczos as block_lanczos
from corollary.linalg.trace._probes import draw
from corollary.linalg.trace._quadrature import Look, _moments, divided_differences, spread

KEY = jax.random.key(0)
N = 48


def with_eigenvalues(lam, seed=0):
    n = len(lam)
    U = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    return (U * lam) @ U.T


def keys(count, seed=1):
    return jax.random.split(jax.random.key(seed), count)


SPD = with_eigenvalues(np.linspace(0.5, 4, N))


# Hutchinson ----------------------------------------------------------------------------------------------------------


@pytest.mark.covers("hutchinson-estimator")
def test_unbiased_by_enumeration_of_all_signs():
    d = 6
    A = np.random.default_rng(0).standard_normal((d, d))
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=d))).T
    forms = np.einsum("ij,ij->j", signs, A @ signs)
    assert forms.mean() == pytest.approx(np.trace(A), abs=1e-12)
    np.testing.assert_allclose((signs * (A @ signs)).mean(axis=1), np.diag(A), atol=1e-12)
    S = (A + A.T) / 2
    assert forms.var() == pytest.approx(2 * (np.sum(S**2) - np.sum(np.diag(S) ** 2)))
    assert (signs * (S @ signs)).var(axis=1) == pytest.approx(np.sum(S**2, axis=1) - np.diag(S) ** 2)


@pytest.mark.covers("hutchinson-estimator")
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian", "sphere"])
def test_mean_and_variance_are_those_of_the_lemmas(x64, distribution):
    count, n = 4000, 12
    S = with_eigenvalues(np.linspace(-1, 3, n))
    omega = np.asarray(draw(KEY, n, count, distribution, jnp.float64))
    forms = np.einsum("ij,ij->j", omega, S @ omega)
    frobenius, diagonal = np.sum(S**2), np.sum(np.diag(S) ** 2)
    variance = {
        "rademacher": 2 * (frobenius - diagonal),
        "gaussian": 2 * frobenius,
        "sphere": 2 * n / (n + 2) * (frobenius - np.trace(S) ** 2 / n),
    }[distribution]
    assert abs(forms.mean() - np.trace(S)) <= 4 * np.sqrt(variance / count)
    kurtosis = np.mean((forms - forms.mean()) ** 4) / forms.var() ** 2
    assert abs(forms.var() / variance - 1) <= 4 * np.sqrt((kurtosis - 1) / count)


@pytest.mark.covers("hutchinson-estimator")
def test_exact_for_a_diagonal_matrix_with_signs(dtype):
    D = np.diag(np.arange(1, N + 1).astype(dtype))
    found = hutchinson(D, probes=3, tol=1e-6, key=KEY)
    assert found.value == np.trace(D)
    assert found.stats["stderr"] == 0
    assert bool(found.holds)
    assert found.value.dtype == dtype
    assert np.array_equal(diagonal_estimate(D, probes=3, key=KEY).value, np.diag(D))
    assert hutchinson(D, probes=3, distribution="gaussian", key=KEY).stats["stderr"] > 0


@pytest.mark.covers("hutchinson-estimator")
@pytest.mark.parametrize("kind", ["dense", "jax", "sparse", "Sparse", "Function"])
def test_every_kind_of_input_gives_the_same_estimate(x64, kind):
    A = np.random.default_rng(0).standard_normal((N, N))
    given = {
        "dense": A,
        "jax": jnp.asarray(A),
        "sparse": scipy.sparse.csr_array(A),
        "Sparse": Sparse(scipy.sparse.csr_array(A)),
        "Function": Function(lambda v: jnp.asarray(A) @ v, N),
    }[kind]
    expected = hutchinson(A, probes=8, key=KEY)
    found = hutchinson(given, probes=8, key=KEY)
    assert float(found.value) == pytest.approx(float(expected.value), rel=1e-12)
    assert float(hutchpp(given, products=12, key=KEY).value) == pytest.approx(
        float(hutchpp(A, products=12, key=KEY).value), rel=1e-10
    )
    diagonal = [xdiag(M, products=12, key=KEY).value for M in (given, A)]
    np.testing.assert_allclose(*diagonal, rtol=1e-8)


@pytest.mark.covers("hutchinson-estimator")
def test_divergence_is_the_trace_of_the_jacobian(dtype):
    W = jnp.asarray(np.random.default_rng(0).standard_normal((5, 5)), dtype)
    field = lambda x: jnp.tanh(W @ x)  # noqa: E731
    x = jnp.linspace(-1, 1, 5, dtype=dtype)
    exact = jnp.trace(jax.jacobian(field)(x))
    eps = float(np.finfo(dtype).eps)
    assert float(divergence(field, x, probes=None).value) == pytest.approx(float(exact), abs=50 * eps)
    signs = jnp.asarray(list(itertools.product([-1.0, 1.0], repeat=5)), dtype)
    _, push = jax.linearize(field, x)
    assert float(jnp.mean(jax.vmap(lambda s: s @ push(s))(signs))) == pytest.approx(float(exact), abs=50 * eps)
    found = divergence(field, x, probes=64, key=KEY)
    assert abs(float(found.value - exact)) <= 5 * float(found.stats["stderr"])
    # the same inside jit, and differentiable: a flow's log-density is trained through it
    gradient = jax.jit(jax.grad(lambda x: divergence(field, x, probes=None).value))(x)
    h, slack = (1e-6, 1e-8) if dtype == np.float64 else (1e-2, 1e-2)
    ahead, behind = (divergence(field, x.at[2].add(s * h), probes=None).value for s in (1, -1))
    assert float(gradient[2]) == pytest.approx(float(ahead - behind) / (2 * h), abs=slack)


@pytest.mark.covers("hutchinson-estimator")
def test_intervals_cover_as_often_as_they_say(x64):
    count = 2000
    A = jnp.asarray(SPD)

    @jax.jit
    def inside(A, keys):
        def one(key):
            low, high = hutchinson(A, probes=10, distribution="gaussian", key=key).stats["interval"]
            return (low <= jnp.trace(A)) & (jnp.trace(A) <= high)

        return jax.vmap(one)(keys)

    rate = np.mean(np.asarray(inside(A, keys(count))))
    assert abs(rate - 0.95) <= 4 * np.sqrt(0.95 * 0.05 / count)


# Hutch++, XTrace and relatives ---------------------------------------------------------------------------------------


@pytest.mark.covers("hutchpp")
def test_hutchpp_and_xtrace_are_exact_for_low_rank(dtype):
    eps = float(np.finfo(dtype).eps)
    A = with_eigenvalues(np.r_[3.0, 2.0, 1.0, 0.5, np.zeros(N - 4)]).astype(dtype)
    scale = 100 * eps * N
    for found in (
        hutchpp(A, products=12, key=KEY),
        xtrace(A, products=12, key=KEY),
        xnystrace(A, products=6, key=KEY),
    ):
        assert abs(float(found.value) - 6.5) <= scale
        assert float(found.stats["stderr"]) <= scale
        assert found.value.dtype == dtype
    np.testing.assert_allclose(xdiag(A, products=12, key=KEY).value, np.diag(A), atol=scale)
    assert abs(float(hutchpp(A, products=9, key=KEY).value) - 6.5) > scale  # the sketch is one column short
    for estimate in (hutchpp, xtrace, xnystrace, hutchinson):
        found = estimate(np.zeros((N, N), dtype), key=KEY)
        assert float(found.value) == 0
        assert np.isfinite(found.stats["stderr"])


@functools.cache
def estimates(method, products, count=300):
    """Values and standard errors over many seeds, in one compiled call."""
    function = {"hutchpp": hutchpp, "xtrace": xtrace, "xnystrace": xnystrace}.get(method)

    @jax.jit
    def run(A, keys):
        def one(key):
            if function is None:
                found = hutchinson(A, probes=products, distribution="gaussian", key=key)
            else:
                found = function(A, products=products, key=key)
            return found.value, found.stats["stderr"]

        return jax.vmap(one)(keys)

    with jax.enable_x64(True):
        A = jnp.asarray(with_eigenvalues(1 / np.arange(1, 97)))
        return tuple(np.asarray(x) for x in run(A, keys(count)))


@pytest.mark.covers("hutchpp")
@pytest.mark.parametrize("method", ["hutchpp", "xtrace", "xnystrace"])
def test_unbiased_and_the_standard_error_is_honest(method):
    values, errors = estimates(method, 24)
    exact = np.sum(1 / np.arange(1, 97))
    assert abs(values.mean() - exact) <= 4 * values.std() / np.sqrt(len(values))
    assert 0.6 <= np.sqrt(np.mean(errors**2)) / values.std() <= 1.6


@pytest.mark.slow
@pytest.mark.covers("hutchpp")
def test_hutchpp_errs_as_one_over_m_and_hutchinson_as_one_over_root_m():
    exact, products = np.sum(1 / np.arange(1, 97)), np.array([9, 18, 36])
    slope = {}
    for method in ("hutchpp", "hutchinson"):
        errors = [np.sqrt(np.mean((estimates(method, int(m))[0] - exact) ** 2)) for m in products]
        slope[method] = np.polyfit(np.log(products), np.log(errors), 1)[0]
    assert slope["hutchpp"] <= -0.9
    assert slope["hutchinson"] == pytest.approx(-0.5, abs=0.12)
    at = lambda method: np.sqrt(np.mean((estimates(method, 36)[0] - exact) ** 2))  # noqa: E731
    assert at("hutchpp") < at("hutchinson") / 2
    # leaving one out in turn gets more out of the same products
    at24 = {m: np.sqrt(np.mean((estimates(m, 24)[0] - exact) ** 2)) for m in ("xtrace", "xnystrace")}
    assert at24["xnystrace"] < at24["xtrace"]


@pytest.mark.covers("hutchpp")
def test_xtrace_is_its_naive_twin(x64):
    """The definition, one probe left out at a time, with its own QR each time."""
    n, k = 20, 5
    A = np.random.default_rng(3).standard_normal((n, n))
    omega = np.asarray(jax.random.normal(KEY, (n, k), jnp.float64))
    signs = np.asarray(jax.random.rademacher(KEY, (n, k), jnp.float64))
    naive, diagonal = [], []
    for i in range(k):
        for probes, into in ((omega, naive), (signs, diagonal)):
            Q = np.linalg.qr(A @ np.delete(probes, i, axis=1))[0]
            rest = np.eye(n) - Q @ Q.T
            w = probes[:, i]
            if into is naive:
                y = rest @ w
                into.append(np.trace(Q.T @ A @ Q) + (n - k + 1) / (y @ y) * (y @ A @ y))
            else:
                into.append(np.diag(Q @ Q.T @ A) + w * (rest @ A @ w))
    found = xtrace(A, products=2 * k, key=KEY)
    assert found.value == pytest.approx(np.mean(naive), rel=1e-10)
    assert found.stats["stderr"] == pytest.approx(np.std(naive, ddof=1) / np.sqrt(k), rel=1e-9)
    np.testing.assert_allclose(xdiag(A, products=2 * k, key=KEY).value, np.mean(diagonal, axis=0), rtol=1e-9, atol=1e-9)
    S = A @ A.T
    nystrom = []
    for i in range(k):
        X, w = np.delete(omega, i, axis=1), omega[:, i]
        low = S @ X @ np.linalg.solve(X.T @ S @ X, X.T @ S)
        y = w - X @ np.linalg.lstsq(X, w)[0]
        nystrom.append(np.trace(low) + (n - k + 1) / (y @ y) * (w @ (S - low) @ w))
    assert xnystrace(S, products=k, key=KEY).value == pytest.approx(np.mean(nystrom), rel=1e-9)


@pytest.mark.covers("hutchpp", "hutchinson-estimator")
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scale_moves_the_answer_and_nothing_else(scale):
    for estimate in (hutchinson, hutchpp, xtrace, xnystrace):
        one, many = estimate(SPD, key=KEY), estimate(SPD * scale, key=KEY)
        assert many.value == pytest.approx(one.value * scale, rel=1e-9)
        assert many.stats["stderr"] == pytest.approx(one.stats["stderr"] * scale, rel=1e-6)
    one, many = (slq(M, "sqrt", tol=0.1, probes=4, deflation=4, key=KEY) for M in (SPD, SPD * scale))
    assert many.value == pytest.approx(one.value * scale**0.5, rel=1e-9)
    assert many.stats["products"] == one.stats["products"]


@pytest.mark.slow
@pytest.mark.covers("hutchpp", "hutchinson-estimator")
def test_gradients_of_the_estimates(x64):
    A, D = jnp.asarray(SPD), jnp.asarray(with_eigenvalues(np.linspace(-1, 1, N), seed=5))
    for estimate in (
        functools.partial(hutchinson, probes=8),
        functools.partial(hutchpp, products=12),
        functools.partial(xtrace, products=12),
    ):
        f = jax.jit(lambda t, estimate=estimate: estimate(A + t * D, key=KEY).value)
        slope = jax.grad(f)(0.0)
        assert float(slope) == pytest.approx(float(f(1e-5) - f(-1e-5)) / 2e-5, rel=1e-5, abs=1e-6)


# Stochastic Lanczos quadrature ---------------------------------------------------------------------------------------


def run_block(A, k=4, steps=5, seed=0):
    X = jnp.asarray(np.random.default_rng(seed).standard_normal((len(A), k)))
    space = block_lanczos.started(as_operator(A), X, steps)
    V = np.swapaxes(np.asarray(space.V), 0, 1).reshape(len(A), -1)
    return X, space, V, np.asarray(block_lanczos.projection(space.alpha, space.beta, jnp))


@pytest.mark.covers("stochastic-lanczos-quadrature")
@pytest.mark.parametrize("kind", ["spd", "low rank", "clusters", "graded"])
def test_block_lanczos_projects_orthogonally_even_after_a_breakdown(x64, kind):
    lam = {
        "spd": np.linspace(0.5, 4, N),
        "low rank": np.r_[np.ones(3), np.zeros(N - 3)],
        "clusters": np.repeat([1.0, 2.0, 5.0], N // 3),
        "graded": 10.0 ** -np.arange(N),
    }[kind]
    A = with_eigenvalues(lam)
    X, space, V, T = run_block(A)
    eps = np.finfo(float).eps
    np.testing.assert_allclose(V.T @ V, np.eye(20), atol=200 * eps)
    np.testing.assert_allclose(V.T @ A @ V, T, atol=200 * eps * lam.max())
    np.testing.assert_allclose(V[:, :4] @ space.start, X, atol=200 * eps * N)
    assert space.skew <= 100 * eps * space.size


@pytest.mark.covers("stochastic-lanczos-quadrature")
@pytest.mark.parametrize("name", ["log", "sqrt", "inverse", "inverse_sqrt"])
def test_gauss_and_gauss_radau_enclose_in_the_loewner_order(x64, name):
    lam = np.geomspace(0.01, 10, N)
    A = with_eigenvalues(lam)
    _, space, V, T = run_block(A)
    g = {"log": np.log, "sqrt": np.sqrt, "inverse": lambda x: 1 / x, "inverse_sqrt": lambda x: x**-0.5}[name]
    sign = 1 if name.startswith("inverse") else -1
    of = lambda M: (lambda t, Y: (Y * g(np.maximum(t, 0.01 * (1 - 1e-9)))) @ Y.T)(*np.linalg.eigh(M))  # noqa: E731
    inner = sign * (V.T @ of(A) @ V)
    extended = block_lanczos.radau(jnp.asarray(T), space.beta[-1], 0.01, jnp)
    assert np.linalg.eigvalsh(extended)[3] == pytest.approx(0.01, rel=1e-6)  # the floor, four times
    lower, upper = sign * of(T), sign * of(np.asarray(extended))[:20, :20]
    noise = 1e-11 * np.abs(inner).max()
    assert np.linalg.eigvalsh(inner - lower)[0] >= -noise
    assert np.linalg.eigvalsh(upper - inner)[0] >= -noise
    # without the type of the function there is no such order: x³ is convex, but not operator convex
    cube = lambda M: M @ M @ M  # noqa: E731
    assert np.linalg.eigvalsh(V.T @ cube(A) @ V - cube(T))[-1] > 1e-6


@pytest.mark.covers("stochastic-lanczos-quadrature")
@pytest.mark.parametrize("name", ["log", "sqrt", "inverse", "exp"])
@pytest.mark.parametrize("floor", [None, 0.05])
def test_tolerance_in_trace_out(x64, name, floor):
    lam = np.r_[50.0, 20.0, 10.0 * 0.8 ** np.arange(40), np.zeros(258)] + 0.05
    A = with_eigenvalues(lam)
    exact = {"log": np.log, "sqrt": np.sqrt, "inverse": lambda x: 1 / x, "exp": np.exp}[name](lam).sum()
    inside = 0
    for seed in range(12):
        found = slq(A, name, tol=0.05, floor=floor, key=jax.random.key(seed))
        low, high = found.stats["interval"]
        inside += low <= exact <= high
        assert abs(found.value - exact) <= 0.05 * abs(exact)
        assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
        assert bool(found.converged)
        assert ("quadrature" in found.certificates) == (floor is not None and name != "exp")
    assert inside >= 11


@pytest.mark.covers("stochastic-lanczos-quadrature")
def test_a_wrong_floor_and_a_skew_matrix_are_found_out(x64):
    A = with_eigenvalues(np.linspace(0.1, 4, 300))
    assert not slq(A, "log", tol=0.2, floor=1.0, key=KEY).certificates["quadrature"].holds
    skewed = A + np.triu(np.ones_like(A), 1) * 0.1
    assert not slq(skewed, "log", tol=0.2, key=KEY).certificates["symmetry"].holds
    assert slq(A, "log", tol=0.2, floor=0.1, key=KEY).holds


@pytest.mark.covers("stochastic-lanczos-quadrature")
@pytest.mark.parametrize("lam", [[1.0], 0.5 ** np.arange(8), np.ones(40), np.r_[np.ones(20), -np.ones(20)]])
def test_the_interval_covers_for_skewed_forms_too(lam):
    m, count, lam = 8, 1500, np.asarray(lam)
    rng, inside = np.random.default_rng(0), 0
    for _ in range(count):
        y = rng.standard_normal((len(lam), m))
        G = y.T @ (lam[:, None] * y)
        look = Look(0.0, np.diag(G), *_moments(G * (1 - np.eye(m)), np), 0.0)
        _, below, above = spread([look], 0.95, np)
        inside += look.value - below <= lam.sum() <= look.value + above
    assert inside / count >= 0.95 - 4 * np.sqrt(0.05 * 0.95 / count)
    plain = 0  # Student's interval alone does not, where one eigenvalue dominates
    forms = rng.standard_normal((count, m)) ** 2
    half = scipy.stats.t.ppf(0.975, m - 1) * forms.std(axis=1, ddof=1) / np.sqrt(m)
    plain = np.mean(np.abs(forms.mean(axis=1) - 1) <= half)
    assert plain < 0.92


@pytest.mark.slow
@pytest.mark.covers("stochastic-lanczos-quadrature")
@pytest.mark.parametrize(("name", "scale"), [("log", 1.0), ("inverse", 1.0), ("exp", 0.05)])
def test_coverage_over_many_seeds(x64, name, scale):
    count = 150
    X = np.random.default_rng(0).standard_normal((400, 3))
    D2 = np.sum((X[:, None] - X[None]) ** 2, axis=-1)
    A = (np.exp(-D2 / 2) + 0.1 * np.eye(400)) * scale
    exact = {"log": np.log, "inverse": lambda x: 1 / x, "exp": np.exp}[name](np.linalg.eigvalsh(A)).sum()

    @jax.jit
    def intervals(A, keys):
        # one after another: hundreds of batched eigendecompositions can block XLA's few CPU threads for good
        return jax.lax.map(lambda key: slq(A, name, steps=12, key=key).stats["interval"], keys)

    low, high = (np.asarray(x) for x in intervals(jnp.asarray(A), keys(count)))
    assert np.mean((low <= exact) & (exact <= high)) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / count)


@pytest.mark.covers("stochastic-lanczos-quadrature")
def test_unbiased_value_and_gradient_under_jit(x64):
    n, count = 60, 400
    lam = np.linspace(0.5, 3, n)
    A = with_eigenvalues(lam)

    @jax.jit
    def run(A, keys):
        value = lambda A, key: slq(A, "log", probes=2, deflation=2, steps=8, key=key).value  # noqa: E731
        return jax.lax.map(lambda key: jax.value_and_grad(value)(A, key), keys)

    values, gradients = (np.asarray(x) for x in run(jnp.asarray(A), keys(count)))
    assert abs(values.mean() - np.log(lam).sum()) <= 4 * values.std() / np.sqrt(count) + 1e-3
    error = (gradients.mean(axis=0) - np.linalg.inv(A)) / (gradients.std(axis=0) / np.sqrt(count))
    assert np.abs(error).max() <= 5.5  # 3600 entries; the quadrature's own error is far below
    # without deflation the derivative is that of the very sample: central differences agree
    D = jnp.asarray(with_eigenvalues(np.linspace(-1, 1, n), seed=5))
    f = jax.jit(lambda t: slq(jnp.asarray(A) + t * D, "log", probes=4, deflation=0, steps=12, key=KEY).value)
    assert float(jax.grad(f)(0.0)) == pytest.approx(float(f(1e-5) - f(-1e-5)) / 2e-5, rel=1e-5)


@pytest.mark.covers("stochastic-lanczos-quadrature")
def test_small_matrices_are_done_exactly_with_gradients(dtype):
    lam = np.linspace(1, 2, 10)
    A = jnp.asarray(with_eigenvalues(lam), dtype)
    found = slq(A, "log", tol=1e-3, key=KEY)
    eps = float(np.finfo(dtype).eps)
    assert float(found.value) == pytest.approx(np.log(lam).sum(), abs=100 * eps * 10)
    assert bool(found.holds)
    gradient = jax.grad(lambda A: slq(A, "log", key=KEY).value)(A)
    np.testing.assert_allclose(gradient, np.linalg.inv(np.asarray(A)), atol=200 * eps)
    # parameters of the function, and repeated eigenvalues
    shifted = lambda s: slq(jnp.eye(6, dtype=dtype), lambda x: jnp.log(x + s), key=KEY).value  # noqa: E731
    slope = jax.jit(jax.grad(shifted))(jnp.ones((), dtype))
    assert float(slope) == pytest.approx(3.0, rel=1e-5)
    repeated = jax.grad(lambda A: slq(A, "sqrt", key=KEY).value)(4 * jnp.eye(6, dtype=dtype))
    np.testing.assert_allclose(repeated, np.eye(6) / 4, atol=20 * eps)
    assert float(slq(np.ones((1, 1)), "exp", key=KEY).value) == pytest.approx(np.e)
    assert float(slq(np.zeros((9, 9)), "sqrt", key=KEY).value) == 0


@pytest.mark.covers("stochastic-lanczos-quadrature")
def test_divided_differences_at_and_beside_a_repeated_point(x64):
    theta = jnp.array([1.0, 1.0, 1.0 + 1e-9, 2.0])
    found = np.asarray(divided_differences(jnp.log, theta))
    np.testing.assert_allclose(found[:3, :3], 1.0, rtol=1e-8)
    np.testing.assert_allclose(found[0, 3], np.log(2.0), rtol=1e-12)


@pytest.mark.covers("stochastic-lanczos-quadrature")
def test_sparse_float32_and_one_compilation(dtype, caplog):
    n = 400
    main = np.full(n, 3.0)
    A = scipy.sparse.diags_array([main, -np.ones(n - 1), -np.ones(n - 1)], offsets=[0, 1, -1]).tocsr().astype(dtype)
    exact = np.log(np.linalg.eigvalsh(A.toarray().astype(np.float64))).sum()
    found = slq(A, "log", tol=0.02, floor=1.0, key=KEY)
    assert found.value.dtype == dtype
    assert abs(found.value - exact) <= 0.02 * exact
    assert bool(found.holds)
    caplog.clear()
    with jax.log_compiles(), caplog.at_level("WARNING"):
        slq(A * np.asarray(2, dtype), "log", tol=0.02, floor=2.0, key=jax.random.key(7))
    assert not [r for r in caplog.messages if r.startswith("Compiling") and "advance" in r]


# Spectral densities --------------------------------------------------------------------------------------------------


@pytest.mark.covers("spectral-density")
def test_density_of_the_laplacian_on_a_path(x64):
    n = 300
    A = np.diag(np.full(n, 2.0)) - np.diag(np.ones(n - 1), 1) - np.diag(np.ones(n - 1), -1)
    lam = 2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))
    found = spectral_density(A, probes=12, steps=30, key=KEY)
    density = found.value
    x = np.linspace(-0.5, 4.5, 60)
    exact = np.searchsorted(lam, x, side="right") / n
    low, high = density.cdf_bounds(x)
    band = 4 * density.cdf_stderr(x) + 1e-9
    assert np.all(low - band <= exact)
    assert np.all(exact <= high + band)
    assert np.all(np.diff(density.cdf(x)) >= -1e-12)
    assert float(jnp.sum(density.weights)) == pytest.approx(len(density.weights), rel=1e-12)
    # a smooth function of the spectrum is integrated to its own error
    mean = float(jnp.mean(jnp.sum(density.weights * jnp.exp(-density.nodes), axis=1)))
    spread_ = float(jnp.std(jnp.sum(density.weights * jnp.exp(-density.nodes), axis=1)))
    assert abs(mean - np.exp(-lam).mean()) <= 4 * spread_ / np.sqrt(12) + 1e-12
    values, errors = density.density(x, width=0.2)
    smooth = np.mean(np.exp(-((x[:, None] - lam) ** 2) / 0.08), axis=1) / np.sqrt(2 * np.pi * 0.04)
    assert np.mean(np.abs(values - smooth) <= 4 * errors + 0.02) >= 0.9
    assert bool(found.holds)
    assert density.plot() is not None


@pytest.mark.covers("spectral-density")
def test_density_of_a_multiple_of_the_identity_and_of_zero(dtype):
    for c in (0.0, 3.0):
        density = spectral_density(c * np.eye(20, dtype=dtype), probes=3, steps=5, key=KEY).value
        np.testing.assert_allclose(density.cdf(np.array([c - 0.1, c + 0.1])), [0, 1], atol=1e-6)


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("hutchinson-estimator", "hutchpp", "stochastic-lanczos-quadrature")
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: hutchinson(np.ones((2, 3)), key=KEY), "A: found shape"),
        (lambda: hutchinson(np.full((2, 2), np.nan), key=KEY), "A: found NaN"),
        (lambda: hutchinson(np.eye(2), probes=1, key=KEY), "probes"),
        (lambda: hutchinson(np.eye(2), distribution="uniform", key=KEY), "distribution"),
        (lambda: hutchinson(np.eye(2), tol=-1.0, key=KEY), "tol"),
        (lambda: hutchinson(np.eye(2), confidence=1.0, key=KEY), "confidence"),
        (lambda: hutchpp(np.eye(9), products=3, key=KEY), "products"),
        (lambda: divergence(lambda x: x[:1], np.ones(2), probes=None), "field"),
        (lambda: divergence(lambda x: x, np.ones(2)), "key"),
        (lambda: slq(np.eye(9), "cosine", key=KEY), "f: found 'cosine'"),
        (lambda: slq(np.eye(9), 3, key=KEY), "f: found 3"),
        (lambda: slq(np.eye(9), "log", steps=2, key=KEY), "steps"),
        (lambda: slq(np.eye(9), "log", stieltjes=2, key=KEY), "stieltjes"),
        (lambda: jax.jit(lambda A: slq(A, "log", tol=0.1, key=KEY).value)(jnp.eye(9)), "tol: found a traced"),
        (lambda: spectral_density(np.eye(9), probes=1, key=KEY), "probes"),
    ],
)
def test_refusals(call, match):
    with pytest.raises(InputError, match=match):
        call()
