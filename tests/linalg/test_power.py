"""Power-like iterations: the angle at every step against the theorem, ties told, and every kind of input."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
import scipy.sparse.linalg

from corollary.core import Function, InputError, Sparse, Status, as_operator
from corollary.linalg import (
    deflation,
    inverse_iteration,
    power_iteration,
    rank_one_approximation,
    rayleigh_quotient,
    rayleigh_quotient_iteration,
    subspace_iteration,
)

N = 12
SPECTRUM = np.r_[3.0, -2.4, 1.8, np.linspace(-1.2, 1.3, N - 3)]
Q = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]
A = (Q * SPECTRUM) @ Q.T
A = (A + A.T) / 2
W, V = np.linalg.eigh(A)
BY_SIZE = np.argsort(-np.abs(W))
KEYS = jax.random.split(jax.random.key(1), 40)
GENERAL = (S := np.random.default_rng(2).standard_normal((N, N))) @ np.diag(SPECTRUM) @ np.linalg.inv(S)


def eps(dtype):
    return float(np.finfo(dtype).eps)


def starts(keys):
    x = np.asarray(jax.vmap(lambda k: jax.random.normal(k, (N,)))(keys))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def tangents(x, u):
    cosine = np.abs(x @ u)
    return np.linalg.norm(x - np.outer(x @ u, u), axis=1) / cosine


# Power iteration -----------------------------------------------------------------------------------------------------


@pytest.mark.covers("power-iteration")
def test_power_iteration_finds_the_leading_pair(dtype):
    found = power_iteration(A.astype(dtype), reference=True if dtype == np.float32 else None)
    value, vector = found.value
    assert value.dtype == vector.dtype == dtype
    residual = found.certificates["residual"]
    assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
    assert bool(found.converged)
    assert abs(value - W[BY_SIZE[0]]) <= residual.bound
    assert abs(abs(vector @ V[:, BY_SIZE[0]]) - 1) <= 2 * (residual.bound / 0.6) ** 2 + 20 * eps(dtype)
    np.testing.assert_allclose(np.sort(found.stats["ritz_pair"].real), [-2.4, 3.0], atol=0.05)
    assert not bool(found.stats["tie"])


@functools.cache
def power_runs():
    @jax.jit
    def many(A, keys):
        run = lambda k: power_iteration(A, reference=(W, V), tol=0.0, max_steps=60, history=True, key=k)  # noqa: E731
        return jax.vmap(run)(keys)

    return many(jnp.asarray(A), KEYS)


@pytest.mark.covers("power-iteration")
def test_the_tangent_is_below_the_theorem_at_every_step(x64):
    found = power_runs()
    ratio, u = 2.4 / 3.0, V[:, BY_SIZE[0]]
    tan, bound = np.asarray(found.history["tan_angle"]), np.asarray(found.history["tan_bound"])
    first = tangents(starts(KEYS), u)
    steps = np.arange(1, 61)
    assert np.all(tan <= bound)
    assert np.all(tan <= ratio**steps * first[:, None] * (1 + 1e-12) + 1e-13)
    # the certified bound is the theorem's, but for rounding: it is not bought by slack
    assert np.all(bound <= ratio**steps * first[:, None] * (1 + 1e-10) + 1e-12)
    assert bool(np.all(found.certificates["rate"].holds))
    slope = np.polyfit(steps[20:60], np.log(tan[:, 20:60]).mean(0), 1)[0]
    assert slope == pytest.approx(np.log(ratio), rel=0.02)  # the rate is |λ₂/λ₁|


@pytest.mark.covers("power-iteration")
def test_the_rayleigh_quotient_converges_twice_as_fast(x64):
    found = power_runs()
    error = np.abs(np.asarray(found.history["value"]) - W[BY_SIZE[0]])
    tan = np.asarray(found.history["tan_angle"])
    assert np.all(error <= (3.0 + 2.4) * tan**2 + 1e-13)


@pytest.mark.covers("power-iteration")
def test_a_start_orthogonal_to_the_leading_vector_leads_elsewhere_and_the_certificate_says_so():
    D = np.diag([3.0, 2.0, 1.0, 0.5] + [0.1] * (N - 4))
    start = np.r_[0.0, np.ones(N - 1)]
    found = power_iteration(D, start, reference=True, history=True, max_steps=60)
    assert found.value[0] == pytest.approx(2.0)
    assert bool(found.certificates["residual"].holds)  # an eigenpair it is
    assert not bool(found.certificates["rate"].holds)  # but the theorem's assumption fails
    assert not bool(found.certificates["rate"].applies)


TURN = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])


@pytest.mark.covers("power-iteration")
@pytest.mark.parametrize("scale", [1.0, 1e-150, 1e150])
@pytest.mark.parametrize(
    ("top", "pair"),
    [(2 * TURN, 2 * np.exp([0.3j, -0.3j])), (np.diag([2.0, -2.0]), np.array([2.0, -2.0]))],
)
def test_a_tie_never_converges_and_is_reported(top, pair, scale):
    M = np.zeros((N, N))
    M[:2, :2], M[2:, 2:] = top, np.diag(np.linspace(-1, 1, N - 2))
    found = power_iteration(M * scale, max_steps=200)
    assert found.status == Status.MAX_STEPS
    assert bool(found.stats["tie"])
    assert not bool(found.holds)
    ritz = np.asarray(found.stats["ritz_pair"]) / scale
    np.testing.assert_allclose(
        ritz[np.argsort(ritz.imag - ritz.real)], pair[np.argsort(pair.imag - pair.real)], atol=1e-8
    )


@pytest.mark.covers("power-iteration")
def test_slow_is_not_a_tie():
    found = power_iteration(np.diag(np.r_[1.0, 0.99, np.zeros(N - 2)]), max_steps=200)
    assert found.status == Status.MAX_STEPS
    assert not bool(found.stats["tie"])


@pytest.mark.covers("power-iteration")
def test_a_negative_leading_eigenvalue_turns_the_sign_at_each_step(x64):
    D = np.diag(np.r_[-3.0, np.linspace(-1, 1, N - 1)])
    assert power_iteration(D).value[0] == pytest.approx(-3.0)
    general = power_iteration(GENERAL)
    assert general.value[0] == pytest.approx(3.0, rel=1e-8)
    assert "eigenvalue_error" not in general.certificates  # Weyl's bound is for symmetric matrices
    assert bool(general.holds)


@pytest.mark.covers("power-iteration")
def test_as_optax_on_a_definite_matrix(x64):
    B = jnp.asarray(A @ A)
    value, theirs = optax.power_iteration(B, num_iters=300, error_tolerance=1e-14, key=jax.random.key(3))
    ours = power_iteration(B)
    assert float(ours.value[0]) == pytest.approx(float(value), rel=1e-10)
    assert abs(float(ours.value[1] @ theirs)) == pytest.approx(1, abs=1e-9)


# Inverse iteration ---------------------------------------------------------------------------------------------------


@pytest.mark.covers("inverse-iteration")
def test_inverse_iteration_finds_the_nearest_eigenvalue_at_the_theorems_rate(x64):
    shifts = np.random.default_rng(5).uniform(-3, 3.5, 40)
    distance = np.sort(np.abs(W[None, :] - shifts[:, None]), axis=1)
    clear = distance[:, 0] <= 0.7 * distance[:, 1]
    assert clear.sum() > 15
    shifts = shifts[clear]

    @jax.jit
    def many(A, shifts, keys):
        run = lambda mu, k: inverse_iteration(A, mu, reference=(W, V), history=True, key=k)  # noqa: E731
        return jax.vmap(run)(shifts, keys)

    found = many(jnp.asarray(A), jnp.asarray(shifts), KEYS[: len(shifts)])
    nearest = np.argmin(np.abs(W[None, :] - shifts[:, None]), axis=1)
    np.testing.assert_allclose(found.value[0], W[nearest], atol=1e-9)
    np.testing.assert_allclose(found.stats["distance"], np.abs(W[nearest] - shifts), atol=1e-9)
    tan, bound = np.asarray(found.history["tan_angle"]), np.asarray(found.history["tan_bound"])
    assert np.all((tan <= bound) | np.isnan(tan))
    assert bool(np.all(found.holds))
    sorted_ = np.sort(np.abs(W[None, :] - shifts[:, None]), axis=1)
    ratio = (sorted_[:, 0] / sorted_[:, 1])[:, None]
    first = np.array([tangents(x[None], V[:, i])[0] for x, i in zip(starts(KEYS[: len(shifts)]), nearest, strict=True)])
    plain = ratio ** np.arange(1, tan.shape[1] + 1) * first[:, None]
    assert np.all((tan <= plain * (1 + 1e-9) + 1e-12) | np.isnan(tan))


@pytest.mark.covers("inverse-iteration")
def test_the_shift_decides_and_zero_means_the_smallest(dtype):
    B = (A + 0.05 * np.eye(N)).astype(dtype)
    values = np.linalg.eigvalsh(B.astype(np.float64))
    smallest = values[np.argmin(np.abs(values))]
    assert inverse_iteration(B).value[0] == pytest.approx(smallest, abs=1e4 * eps(dtype))
    assert inverse_iteration(B, -2.0).value[0] == pytest.approx(values[0], abs=1e4 * eps(dtype))
    exact = inverse_iteration(A.astype(dtype), W[3])  # a shift that is an eigenvalue
    assert exact.steps <= 2
    assert bool(exact.holds)
    assert exact.value[0] == pytest.approx(W[3], abs=20 * eps(dtype))


@pytest.mark.covers("inverse-iteration")
def test_a_complex_pair_is_at_one_distance_from_any_real_shift():
    M = np.zeros((N, N))
    M[:2, :2], M[2:, 2:] = TURN, np.diag(np.linspace(5, 6, N - 2))
    found = inverse_iteration(M, 1.0, max_steps=50)
    assert found.status == Status.MAX_STEPS
    assert not bool(found.holds)


@pytest.mark.covers("inverse-iteration", "rayleigh-quotient-iteration")
def test_sparse_matrices_and_given_solves(x64):
    n = N
    L = scipy.sparse.diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1]).tocsr()
    exact = 2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))
    found = inverse_iteration(L, 0.0)
    assert found.value[0] == pytest.approx(exact[0], rel=1e-9)
    assert bool(found.holds)
    assert isinstance(found.value[1], np.ndarray)
    v = np.sin(np.pi * np.arange(1, n + 1) * 3 / (n + 1)) + 0.05
    third = rayleigh_quotient_iteration(L, v)
    assert third.value[0] == pytest.approx(exact[2], rel=1e-12)
    assert bool(third.holds)
    inverse = jnp.asarray(np.linalg.inv(L.toarray()))
    product = jnp.asarray(L.toarray())
    given = inverse_iteration(Function(lambda x: product @ x, n), solve=lambda x: inverse @ x)
    assert float(given.value[0]) == pytest.approx(exact[0], rel=1e-9)
    shifted = rayleigh_quotient_iteration(
        Function(lambda x: product @ x, n),
        jnp.asarray(v),
        solve=lambda t, x: jnp.linalg.solve(product - t * jnp.eye(n), x),
    )
    assert float(shifted.value[0]) == pytest.approx(exact[2], rel=1e-9)
    assert "A is symmetric" in [a.text for a in shifted.certificates["eigenvalue_error"].assumptions]
    with pytest.raises(InputError, match="solve"):
        inverse_iteration(Function(lambda x: x, 3))
    with pytest.raises(InputError, match="solve"):
        rayleigh_quotient_iteration(Function(lambda x: x, 3))
    singular = scipy.sparse.csr_array(np.diag(np.arange(N, dtype=float)))
    assert inverse_iteration(singular, 1.0).value[0] == pytest.approx(1.0)


# Rayleigh quotients --------------------------------------------------------------------------------------------------


ANGLES = 10.0 ** np.linspace(-4, -1.3, 12)


@functools.cache
def rayleigh_runs():
    run = lambda A, x: rayleigh_quotient_iteration(A, x, tol=0.0, max_steps=12, history=True)  # noqa: E731
    x = np.concatenate([starts(KEYS), np.cos(ANGLES)[:, None] * V[:, 0] + np.sin(ANGLES)[:, None] * V[:, 7]])
    return jax.jit(jax.vmap(run, in_axes=(None, 0)))(jnp.asarray(A), jnp.asarray(x))


@pytest.mark.covers("rayleigh-quotient-iteration")
def test_rayleigh_quotient_iteration_cubes_the_angle_and_its_residual_never_rises(x64):
    found = rayleigh_runs()
    assert bool(np.all(found.certificates["monotone"].holds))
    residual = np.asarray(found.history["residual"])
    assert np.all((np.diff(residual, axis=1) <= 1e-13) | np.isnan(np.diff(residual, axis=1)))
    assert np.all(np.asarray(found.converged))  # for almost every start
    assert np.max(np.min(np.abs(np.asarray(found.value[0])[:, None] - W), axis=1)) <= 1e-13
    # From an angle φ the next one is at most about φ³ (Parlett, Theorem 4.7.1): in the plane of two eigenvectors the
    # residual is |λ_i − λ_j| sin φ cos φ.
    after = np.arcsin(2 * residual[len(KEYS) :, 0] / abs(W[7] - W[0])) / 2
    assert np.all(after <= 1.01 * np.tan(ANGLES) ** 3 + 1e-14)
    seen = after > 1e-13
    assert np.polyfit(np.log(ANGLES[seen]), np.log(after[seen]), 1)[0] == pytest.approx(3, abs=0.05)


@pytest.mark.covers("rayleigh-quotient-iteration")
def test_rayleigh_quotient_iteration_in_both_precisions(dtype):
    found = rayleigh_quotient_iteration(A.astype(dtype), (V[:, 4] + 0.1 * V[:, 5]).astype(dtype))
    assert found.value[0] == pytest.approx(W[4], abs=100 * eps(dtype))
    assert found.value[1].dtype == dtype
    assert bool(found.holds)


@pytest.mark.covers("rayleigh-quotient")
def test_rayleigh_quotient_is_a_weighted_mean_between_the_extremes(x64):
    x = np.random.default_rng(6).standard_normal((200, N))
    many = jax.jit(jax.vmap(rayleigh_quotient, (None, 0)))(jnp.asarray(A), jnp.asarray(x))
    R = np.asarray(many.value)
    np.testing.assert_allclose(R, ((x @ V) ** 2 @ W) / np.sum(x**2, axis=1), atol=1e-13)
    assert np.all((W[0] - 1e-13 <= R) & (W[-1] + 1e-13 >= R))
    assert bool(np.all(many.certificates["spectrum"].holds))
    near = np.min(np.abs(W[None, :] - R[:, None]), axis=1)
    assert np.all(near <= np.asarray(many.residual) + 1e-13)
    # the gradient: its formula, JAX's derivative, and zero at an eigenvector
    one = rayleigh_quotient(A, x[0], certify="full")
    assert all(bool(c.holds) for c in one.certificates.values())
    slope = jax.grad(lambda x: rayleigh_quotient(jnp.asarray(A), x).value)(jnp.asarray(x[0]))
    np.testing.assert_allclose(one.gradient, slope, atol=1e-13)
    h, direction = 1e-6, x[1]
    finite = [rayleigh_quotient(A, x[0] + s * h * direction).value for s in (1, -1)]
    assert one.gradient @ direction == pytest.approx((finite[0] - finite[1]) / (2 * h), rel=1e-6)
    assert np.linalg.norm(rayleigh_quotient(A, 5 * V[:, 2]).gradient) <= 1e-13
    assert rayleigh_quotient(A * 1e-200, x[0] * 1e150).value == pytest.approx(one.value * 1e-200, rel=1e-12)
    # at an angle φ from an eigenvector the error is O(φ²)
    angles = 10.0 ** np.linspace(-4, -1, 8)
    turned = np.cos(angles)[:, None] * V[:, 0] + np.sin(angles)[:, None] * V[:, 7]
    error = np.asarray([rayleigh_quotient(A, t).value for t in turned]) - W[0]
    np.testing.assert_allclose(error, np.sin(angles) ** 2 * (W[7] - W[0]), rtol=1e-6)


def test_a_false_eigenvalue_bound_is_seen_to_fail():
    found = rayleigh_quotient(A, V[:, 0], certify="full")
    claim = found.certificates["courant_fischer"]
    assert bool(claim.holds)
    assert not W[0] - 0.1 >= W[0] - claim.bound  # the slack is rounding, nothing more
    assert claim.bound < 1e-12


# Deflation -----------------------------------------------------------------------------------------------------------


@pytest.mark.covers("deflation")
@pytest.mark.parametrize("method", ["hotelling", "wielandt"])
def test_deflation_finds_the_leading_pairs(dtype, method):
    m = 3
    if method == "wielandt" and dtype == np.float32:
        return  # float64 is tested; the two methods share their iteration
    found = deflation(A.astype(dtype), m, method=method)
    values, vectors = found.value
    assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
    assert bool(found.converged)
    tol = eps(dtype) ** (2 / 3)
    np.testing.assert_allclose(values, W[BY_SIZE[:m]], atol=30 * tol)
    assert np.abs(np.sum(vectors * V[:, BY_SIZE[:m]], axis=0)).min() >= 1 - 1e3 * tol
    basis = found.stats["basis"]
    assert np.linalg.norm(basis.T @ basis - np.eye(m)) <= 50 * eps(dtype)
    if method == "hotelling":
        left = np.linalg.eigvalsh(A - (vectors * values) @ vectors.T)  # zeros in place of what was removed
        kept = np.sort(np.r_[W[BY_SIZE[m:]], np.zeros(m)])
        np.testing.assert_allclose(left, kept, atol=100 * tol)


@pytest.mark.covers("deflation")
def test_wielandt_deflates_a_nonsymmetric_matrix():
    found = deflation(GENERAL, 3, method="wielandt")
    values, vectors = found.value
    np.testing.assert_allclose(values, SPECTRUM[:3], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1, rtol=1e-12)
    exact = S[:, :3] / np.linalg.norm(S[:, :3], axis=0)
    assert np.abs(np.sum(exact * vectors, axis=0)).min() >= 1 - 1e-8
    assert bool(found.holds)
    with pytest.raises(InputError, match="transpose"):
        deflation(GENERAL, 2)


@pytest.mark.covers("deflation")
def test_hotelling_needs_a_unit_vector():
    u = 2 * V[:, -1]  # of length two: the eigenvalue becomes λ(1 − ‖u‖²) instead of 0
    moved = np.linalg.eigvalsh(A - W[-1] * np.outer(u, u))
    assert moved[0] == pytest.approx(W[-1] * (1 - 4))


# Subspace iteration --------------------------------------------------------------------------------------------------


@pytest.mark.covers("subspace-iteration")
def test_subspace_iteration_finds_the_leading_pairs(dtype):
    found = subspace_iteration(A.astype(dtype), 3, oversampling=2)
    values, vectors = found.value
    assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
    assert bool(found.converged)
    bound = float(found.certificates["eigenvalue_error"].bound)
    assert np.abs(values - W[BY_SIZE[:3]]).max() <= bound
    assert vectors.shape == (N, 3)
    assert np.all(found.stats["residuals"] <= found.certificates["residual"].bound)


@pytest.mark.covers("subspace-iteration")
def test_the_subspace_angle_shrinks_as_the_theorem_says(x64):
    b, ratio = 3, abs(W[BY_SIZE[3]] / W[BY_SIZE[2]])
    run = lambda A, k: subspace_iteration(A, b, reference=(W, V), tol=0.0, max_steps=40, history=True, key=k)  # noqa: E731
    found = jax.jit(jax.vmap(run, (None, 0)))(jnp.asarray(A), KEYS[:20])
    tan, bound = np.asarray(found.history["tan_angle"]), np.asarray(found.history["tan_bound"])
    steps = np.arange(1, 41)
    U = V[:, BY_SIZE[:b]]
    for key, t, limit in zip(KEYS[:20], tan, bound, strict=True):
        X = np.linalg.qr(np.asarray(jax.random.normal(key, (N, b))))[0]
        first = np.linalg.norm((X - U @ (U.T @ X)) @ np.linalg.inv(U.T @ X), 2)
        assert np.all(t <= ratio**steps * first * (1 + 1e-10) + 1e-12)
        assert np.all(t <= limit)
        assert np.all(limit <= ratio**steps * first * (1 + 1e-9) + 1e-11)
    slope = np.polyfit(steps[20:], np.log(tan[:, 20:]).mean(0), 1)[0]
    assert slope == pytest.approx(np.log(ratio), rel=0.03)


@pytest.mark.covers("subspace-iteration")
def test_one_column_is_power_iteration():
    x = np.random.default_rng(7).standard_normal(N)
    for steps in (1, 7, 30):
        naive = np.linalg.matrix_power(A, steps) @ x
        naive /= np.linalg.norm(naive)
        ours = subspace_iteration(A, 1, x[:, None], max_steps=steps, tol=0.0).value[1][:, 0]
        power = power_iteration(A, x, max_steps=steps, tol=0.0).value[1]
        assert abs(abs(ours @ naive) - 1) <= 1e-12
        assert abs(abs(power @ naive) - 1) <= 1e-12


# Rank one ------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("rank-one-approximation")
def test_rank_one_is_the_leading_singular_triplet(dtype):
    shape = (N, N) if dtype == np.float64 else (8, N)
    B = np.random.default_rng(8).standard_normal(shape)
    U, s, Vt = np.linalg.svd(B)
    found = rank_one_approximation(B.astype(dtype))
    value = found.value
    tol = eps(dtype) ** (2 / 3)
    assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
    assert value.u.dtype == dtype
    assert value.sigma == pytest.approx(s[0], rel=10 * tol)
    assert abs(value.u @ U[:, 0]) == pytest.approx(1, abs=1e3 * tol)
    assert abs(value.v @ Vt[0]) == pytest.approx(1, abs=1e3 * tol)
    loss = 0.5 * np.linalg.norm(B - value.sigma * np.outer(value.u, value.v)) ** 2
    assert found.stats["loss"] == pytest.approx(loss, rel=100 * tol)
    assert loss == pytest.approx(0.5 * (np.linalg.norm(B) ** 2 - s[0] ** 2), rel=100 * tol)
    assert s[0] == pytest.approx(np.sqrt(np.linalg.eigvalsh(B @ B.T)[-1]))
    # no pair of unit vectors does better, and only singular pairs are stationary
    rng = np.random.default_rng(9)
    x, y = rng.standard_normal((500, shape[0])), rng.standard_normal((500, shape[1]))
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    assert np.einsum("ki,ij,kj->k", x, B, y).max() <= s[0]
    saddle = rank_one_approximation(B.astype(dtype), Vt[2].astype(dtype), tol=1e-5, max_steps=3)
    assert saddle.value.sigma == pytest.approx(s[2], rel=1e-4)


@pytest.mark.covers("rank-one-approximation")
def test_signs_and_ties_do_not_stop_it(x64):
    found = rank_one_approximation(np.diag(np.r_[2.0, -2.0, np.linspace(-1, 1, N - 2)]))
    assert bool(found.converged)  # AᵀA knows no sign
    assert found.value.sigma == pytest.approx(2.0)
    blind = rank_one_approximation(np.diag(np.r_[1.0, np.zeros(N - 1)]), np.eye(N)[1])  # A v₀ = 0
    assert np.isfinite(blind.value.u).all()
    assert blind.value.sigma == pytest.approx(1.0)


# All of them ---------------------------------------------------------------------------------------------------------

METHODS = {
    "power": power_iteration,
    "inverse": lambda A, **k: inverse_iteration(A, 0.0, **k),
    "rayleigh": rayleigh_quotient_iteration,
    "deflation": lambda A, **k: deflation(A, 3, **k),
    "wielandt": lambda A, **k: deflation(A, 3, method="wielandt", **k),
    "subspace": lambda A, **k: subspace_iteration(A, 3, oversampling=2, **k),
    "rank one": rank_one_approximation,
}


def value_of(found):
    return np.asarray(found.value.sigma if hasattr(found.value, "sigma") else found.value[0])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scale", [1e-150, 1e150, 2.0**-40])
def test_scaling_changes_the_scale_only(name, scale):
    B = A + 0.05 * np.eye(N)
    plain, scaled = METHODS[name](B), METHODS[name](B * scale)
    np.testing.assert_allclose(value_of(scaled), value_of(plain) * scale, rtol=1e-9)
    assert abs(int(scaled.steps) - int(plain.steps)) <= 1
    assert bool(scaled.holds)


@pytest.mark.parametrize("name", METHODS)
def test_degenerate_matrices(name, x64):
    nilpotent = np.eye(N, k=1) if name in ("power", "inverse", "wielandt") else np.zeros((N, N))
    for M in (np.zeros((N, N)), np.eye(N), np.ones((N, N)), np.diag([1.0] + [0.0] * (N - 1)), nilpotent):
        found = METHODS[name](M, max_steps=40)
        values = np.ravel(value_of(found))
        assert bool(found.converged), M
        assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(found.value))
        exact = np.r_[np.diagonal(np.triu(M)) if M is nilpotent else np.linalg.eigvalsh(M)]
        assert np.min(np.abs(exact[:, None] - values), axis=0).max() <= 1e-9


@pytest.mark.parametrize("name", ["power", "inverse", "rayleigh", "rank one"])
def test_one_by_one(name):
    found = METHODS[name](np.array([[-2.0]]))
    assert abs(value_of(found)) == 2
    assert found.steps == 0
    assert bool(found.holds)
    zero = METHODS[name](np.zeros((1, 1)))
    assert value_of(zero) == 0
    assert bool(zero.holds)


@pytest.mark.parametrize("name", ["power", "rank one"])
def test_every_kind_of_input_gives_the_same(name, x64):
    B = np.where(np.abs(A) > 0.2, A, 0)
    expected = value_of(METHODS[name](B))
    kinds = [scipy.sparse.coo_array(B), Sparse(scipy.sparse.csr_array(B)), as_operator(B), jnp.asarray(B)]
    kinds += [Function(lambda x: jnp.asarray(B) @ x, N)] if name == "power" else []
    for kind in kinds:
        np.testing.assert_allclose(value_of(METHODS[name](kind)), expected, rtol=1e-9)
    assert isinstance(METHODS[name](kinds[0]).steps, np.ndarray)
    assert isinstance(METHODS[name](kinds[3]).steps, jax.Array)


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_traced_so_that_other_values_compile_nothing_new(name, x64):
    B, traces = jnp.asarray(A + 0.05 * np.eye(N)), []

    @jax.jit
    def run(A, tol):
        traces.append(1)
        return METHODS[name](A, tol=tol)

    run.trace(B, jnp.asarray(1e-9))
    run.trace(2 * B, jnp.asarray(1e-6))
    assert len(traces) == 1


def test_jit_and_vmap_change_nothing(x64):
    batch, B = power_runs(), jnp.asarray(A)
    loop = power_iteration(B, reference=(W, V), tol=0.0, max_steps=60, history=True, key=KEYS[3])
    np.testing.assert_allclose(batch.history["residual"][3], loop.history["residual"], rtol=1e-6, atol=1e-14)


def test_history_is_padded_and_drawn(x64):
    found = power_iteration(A, reference=True, history=True, max_steps=60, tol=1e-3)
    steps = int(found.steps)
    assert 0 < steps < 60
    for series in found.history.values():
        assert len(series) == 60
        assert np.isfinite(series[:steps]).all()
        assert np.isnan(series[steps:]).all()
    labels = [line.get_label() for line in found.plot().lines]
    assert "tan bound" in labels


BAD = [
    (np.array([[1.0, np.nan], [0.0, 1.0]]), {}, "A: found NaN"),
    (np.ones((2, 3)), {}, "A: found shape"),
    (np.zeros((0, 0)), {}, "A: found an empty"),
    (np.zeros(3), {}, "A: found an array of shape"),
    (np.eye(3) * 1j, {}, "A: found dtype"),
    (np.eye(3), {"tol": -1.0}, "tol: found -1.0"),
    (np.eye(3), {"max_steps": 0}, "max_steps"),
    (np.eye(3), {"history": 1}, "history"),
]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("M", "settings", "match"), BAD)
def test_bad_input(name, M, settings, match):
    if name == "rank one" and match == "A: found shape":
        return
    with pytest.raises(InputError, match=match):
        METHODS[name](M, **settings)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: power_iteration(np.eye(3), np.zeros(3)), "v0: found the zero"),
        (lambda: power_iteration(np.eye(3), np.ones(2)), "v0: found length 2"),
        (lambda: power_iteration(np.eye(3), reference=1), "reference"),
        (lambda: power_iteration(np.eye(3), reference=(np.ones(1), np.ones((3, 1)))), "reference"),
        (lambda: power_iteration(GENERAL, reference=True), "transpose"),
        (lambda: inverse_iteration(np.eye(3), np.inf), "shift"),
        (lambda: inverse_iteration(np.eye(3), solve=3), "solve"),
        (lambda: rayleigh_quotient_iteration(GENERAL), "transpose"),
        (lambda: rayleigh_quotient(GENERAL, np.ones(N)), "transpose"),
        (lambda: rayleigh_quotient(np.eye(3), np.zeros(3)), "x: found the zero"),
        (lambda: rayleigh_quotient(np.eye(3), np.ones(3), certify="yes"), "certify"),
        (lambda: subspace_iteration(np.eye(3), 4), "k: found 4"),
        (lambda: subspace_iteration(np.eye(3), 0), "k: found 0"),
        (lambda: subspace_iteration(np.eye(3), 1, np.ones((3, 2))), "V0: found shape"),
        (lambda: deflation(np.eye(3), 4), "m: found 4"),
        (lambda: deflation(np.eye(3), 1, method="x"), "method"),
    ],
)
def test_more_bad_input(call, match):
    with pytest.raises(InputError, match=match):
        call()
