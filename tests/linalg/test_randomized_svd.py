"""Range finder and randomized SVD: the theorems by Monte Carlo, exactness, tolerances met, and every kind of input."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from sklearn.utils.extmath import randomized_range_finder
from sklearn.utils.extmath import randomized_svd as sklearn_randomized_svd

from corollary.core import Centred, Function, InputError, Sparse, Status, as_operator
from corollary.linalg import posterior_error, randomized_svd, range_finder, rsvd_error_bounds

KEY = jax.random.key(0)
M, N = 60, 40
HARMONIC = 1.0 / np.arange(1, N + 1)


def with_spectrum(s, m=M, n=N, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((d, len(s))))[0] for d in (m, n))
    return ((U * s) @ V.T).astype(dtype)


def keys(count, seed=1):
    return jax.random.split(jax.random.key(seed), count)


@functools.cache
def harmonic_errors(k, p, q):
    return range_errors(with_spectrum(HARMONIC), k, p, q, 400)


def range_errors(A, k, p, q, count):
    """‖A − QQᵀA‖ in both norms over `count` seeds, in one compiled, vmapped call."""

    @jax.jit
    def errors(A, keys):
        def one(key):
            Q = range_finder(A, k, oversampling=p, power_iterations=q, key=key).value
            s = jnp.linalg.svd(A - Q @ (Q.T @ A), compute_uv=False)
            return s[0], jnp.linalg.norm(s)

        return jax.vmap(one)(keys)

    spectral, frobenius = errors(jnp.asarray(A), keys(count))
    return np.asarray(spectral), np.asarray(frobenius)


@pytest.mark.covers("rsvd-error-bounds", "range-finder")
@pytest.mark.parametrize("spectrum", [HARMONIC, HARMONIC**2, np.ones(N), 0.8 ** np.arange(N)])
def test_mean_errors_are_below_the_theorem_and_above_the_optimum(x64, spectrum):
    k, p, count = 6, 5, 400
    A = with_spectrum(spectrum)
    spectral, frobenius = range_errors(A, k, p, 0, count)
    bounds = rsvd_error_bounds(spectrum, k, p, M, N)
    for errors, bound in ((frobenius, bounds.expected_frobenius), (spectral, bounds.expected_spectral)):
        assert errors.mean() <= bound + 4 * errors.std() / np.sqrt(count)
    # Q has k + p columns: the optimum is that of rank k + p
    assert spectral.min() >= spectrum[k + p] * (1 - 1e-12)
    assert frobenius.min() >= np.linalg.norm(spectrum[k + p :]) * (1 - 1e-12)
    assert (spectral > bounds.deviation_spectral).mean() <= 6 * p**-p + 4 * np.sqrt(6 * p**-p / count)
    assert bounds.confidence == pytest.approx(1 - 6 * p**-p)


@pytest.mark.covers("rsvd-error-bounds")
def test_bound_formulas():
    s = HARMONIC
    b = rsvd_error_bounds(s, 5, 4, M, N)
    assert b.expected_frobenius == pytest.approx(np.sqrt(1 + 5 / 3) * np.linalg.norm(s[5:]))
    assert b.expected_spectral == pytest.approx((1 + 4 * np.sqrt(9) / 3 * np.sqrt(N)) * s[5])
    assert b.deviation_spectral == pytest.approx((1 + 11 * np.sqrt(9) * np.sqrt(N)) * s[5])
    assert rsvd_error_bounds(s, 5, 3, M, N).confidence == 0  # the deviation bound needs p >= 4
    assert rsvd_error_bounds(s, N, 4, M, N).expected_frobenius == 0
    assert rsvd_error_bounds(s * 1e-200, 5, 4, M, N).expected_frobenius == pytest.approx(b.expected_frobenius * 1e-200)
    with pytest.raises(InputError, match="oversampling"):
        rsvd_error_bounds(s, 5, 1, M, N)
    with pytest.raises(InputError, match="singular_values"):
        rsvd_error_bounds(s[::-1], 5, 4, M, N)


@pytest.mark.covers("randomized-subspace-iteration")
def test_power_iterations_sharpen_the_error_as_the_corollary_says(x64):
    k, p, count = 6, 5, 400
    means = []
    for q in (0, 1, 2):
        spectral, _ = harmonic_errors(k, p, q)
        bound = rsvd_error_bounds(HARMONIC, k, p, M, N, power_iterations=q).expected_spectral
        assert spectral.mean() <= bound + 4 * spectral.std() / np.sqrt(count)
        means.append(spectral.mean())
    assert np.all(np.diff(means) < 0)


@pytest.mark.covers("randomized-subspace-iteration")
def test_spans_the_unnormalised_power_product(dtype):
    A = with_spectrum(HARMONIC, dtype=dtype)
    for q in (0, 1, 2):
        Q = range_finder(A, 4, oversampling=2, power_iterations=q, key=KEY).value
        omega = np.asarray(jax.random.normal(jax.random.split(KEY)[0], (N, 6), dtype), dtype=np.float64)
        Y = A.astype(np.float64) @ omega
        for _ in range(q):
            Y = A.astype(np.float64) @ (A.astype(np.float64).T @ Y)
        naive = np.linalg.qr(Y)[0]
        sines = np.linalg.norm(Q - naive @ (naive.T @ Q), 2)
        # conditioning of the product: (σ_1/σ_6)^(2q+1), times a Gaussian's; both directions are found to eps of that
        assert sines <= 200 * np.finfo(dtype).eps * 6.0 ** (2 * q + 1) * 20


@pytest.mark.covers("range-finder")
def test_exact_where_the_rank_fits(dtype):
    A = with_spectrum(np.linspace(1, 0.5, 8), dtype=dtype)
    found = range_finder(A, 5, oversampling=3, key=KEY)
    assert np.linalg.norm(A - found.value @ (found.value.T @ A), 2) <= 100 * np.finfo(dtype).eps
    assert bool(found.holds)
    assert found.value.dtype == dtype


@pytest.mark.covers("range-finder")
def test_as_accurate_as_scikit_learn(x64):
    A = with_spectrum(HARMONIC)
    ours, _ = harmonic_errors(6, 5, 1)
    theirs = []
    for seed in range(50):
        Q = randomized_range_finder(A, size=11, n_iter=1, power_iteration_normalizer="QR", random_state=seed)
        theirs.append(np.linalg.norm(A - Q @ (Q.T @ A), 2))
    error = np.hypot(ours.std() / np.sqrt(400), np.std(theirs) / np.sqrt(50))
    assert abs(ours.mean() - np.mean(theirs)) <= 4 * error


@pytest.mark.covers("range-finder", "rsvd-posterior-error")
@pytest.mark.parametrize("q", [0, 1])
@pytest.mark.parametrize("tol", [0.3, 1e-2, 1e-4, 1e-8])
def test_tolerance_in_rank_out(tol, q):
    spectrum = 0.6 ** np.arange(N)
    A = with_spectrum(spectrum)
    needed = int(np.sum(spectrum > tol))
    for seed in range(5):
        key = jax.random.key(seed)
        found = range_finder(A, tol=tol, power_iterations=q, block=4, key=key)
        assert np.linalg.norm(A - found.value @ (found.value.T @ A), 2) <= tol * spectrum[0]
        assert bool(found.holds)
        assert bool(found.converged)
        assert needed <= found.stats["rank"] <= min(needed + 20, N)  # the probes see ‖E‖_F, and whole blocks are added
        U, s, Vt = randomized_svd(A, tol=tol, power_iterations=q, block=4, key=key).value
        assert np.linalg.norm(A - (U * s) @ Vt, 2) <= tol * spectrum[0]
        assert needed <= len(s) <= needed + 2


@pytest.mark.covers("range-finder")
def test_tolerance_finds_the_exact_rank(dtype):
    A = with_spectrum(np.linspace(1, 0.5, 7), dtype=dtype)
    tol = 1e-3 if dtype == np.float32 else 1e-9
    found = randomized_svd(A, tol=tol, block=4, key=KEY)
    assert found.stats["rank"] == len(found.value[1]) == 7
    assert bool(found.holds)


@pytest.mark.covers("range-finder")
def test_a_tolerance_below_rounding_is_said_to_be_so():
    found = range_finder(with_spectrum(HARMONIC), tol=1e-25, key=KEY)
    assert found.status == Status.PRECISION
    assert bool(found.holds)  # the bound carries its rounding


@pytest.mark.covers("rsvd-posterior-error")
def test_posterior_bound_fails_as_rarely_as_the_lemma_says(x64):
    # α = 2 with r = 3 probes may fail in 1/8 of the draws; rank one is the worst case
    count, Q = 2000, jnp.zeros((M, 1))
    bounds = jax.jit(lambda A, keys: jax.vmap(lambda k: posterior_error(A, Q, probes=3, alpha=2.0, key=k).value)(keys))
    for s in (np.r_[1.0, np.zeros(N - 1)], HARMONIC):
        A = jnp.asarray(with_spectrum(s))
        bound = bounds(A, keys(count))
        rate = np.mean(np.asarray(bound) < s[0])
        assert rate <= 1 / 8 + 4 * np.sqrt(1 / 8 / count)
    default = posterior_error(np.asarray(A), np.zeros((M, 1)), key=KEY)
    assert default.certificates["spectral_error"].confidence == pytest.approx(1 - 1e-10)
    assert default.value >= s[0]


@pytest.mark.covers("rsvd-posterior-error")
def test_error_falls_with_oversampling_and_power_on_average(x64):
    over = [harmonic_errors(6, p, 0)[0].mean() for p in (2, 5, 10)]
    power = [harmonic_errors(6, 5, q)[0].mean() for q in (0, 1, 2)]
    assert np.all(np.diff(over) < 0)
    assert np.all(np.diff(power) < 0)


@pytest.mark.slow
@pytest.mark.covers("rsvd-posterior-error", "randomized-svd")
@pytest.mark.parametrize("spectrum", [HARMONIC, np.r_[np.ones(6), 0.1, np.zeros(N - 7)]])
def test_error_estimate_is_within_a_factor_two_in_95_percent_of_200_seeds(spectrum):
    # the second spectrum leaves an error of rank one: the fewest degrees of freedom that the probes can have
    A = with_spectrum(spectrum)
    good, inside = 0, 0
    for seed in range(200):
        found = randomized_svd(A, 6, oversampling=3, key=jax.random.key(seed))
        U, s, Vt = found.value
        errors = np.linalg.svd(A - (U * s) @ Vt, compute_uv=False)
        estimate = found.certificates["frobenius_error"].measured / np.linalg.norm(errors)
        good += 0.5 <= estimate <= 2
        certificate = found.certificates["spectral_error"]
        inside += certificate.measured <= errors[0] * (1 + 1e-12) <= certificate.bound
    assert good >= 190
    assert inside == 200


@pytest.mark.covers("randomized-svd")
@pytest.mark.parametrize("shape", [(M, N), (N, M)])
@pytest.mark.parametrize("power_iterations", ["auto", 3])
def test_agrees_with_the_truncated_svd(dtype, shape, power_iterations):
    A = with_spectrum(HARMONIC**2, *shape, dtype=dtype)
    found = randomized_svd(A, 5, accuracy=1e-5, power_iterations=power_iterations, key=KEY)
    U, s, Vt = found.value
    eps = np.finfo(dtype).eps
    assert U.shape == (shape[0], 5)
    assert Vt.shape == (5, shape[1])
    assert {x.dtype for x in found.value} == {dtype}
    assert np.all(np.diff(s) <= 0)
    np.testing.assert_allclose(s, HARMONIC[:5] ** 2, rtol=1e-5 + 100 * eps)
    assert np.all(s <= HARMONIC[:5] ** 2 * (1 + 100 * eps))  # a projection cannot raise a singular value
    assert np.linalg.norm(A - (U * s) @ Vt, 2) >= HARMONIC[5] ** 2 * (1 - 100 * eps)  # Eckart-Young
    assert np.all(np.take_along_axis(Vt, np.abs(Vt).argmax(1)[:, None], 1) > 0)
    assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
    assert bool(found.converged)
    theirs = sklearn_randomized_svd(A, 5, n_iter=6, random_state=0)
    np.testing.assert_allclose(s, theirs[1], rtol=1e-5 + 100 * eps)
    np.testing.assert_allclose(np.abs(np.sum(Vt * theirs[2], axis=1)), 1, atol=1e-4)


@pytest.mark.covers("randomized-svd")
@pytest.mark.parametrize("power_iterations", ["auto", 0])
def test_exact_on_a_matrix_of_that_rank(dtype, power_iterations):
    spectrum = np.linspace(1, 0.2, 5)
    A = with_spectrum(spectrum, dtype=dtype)
    found = randomized_svd(A, 5, power_iterations=power_iterations, key=KEY)
    U, s, Vt = found.value
    assert np.linalg.norm(A - (U * s) @ Vt, 2) <= 100 * np.finfo(dtype).eps
    more = randomized_svd(A, 9, power_iterations=power_iterations, key=KEY)  # beyond the rank: zeros, no NaN
    assert np.all(more.value[1][5:] <= 100 * np.finfo(dtype).eps)
    assert bool(more.holds)


@pytest.mark.covers("randomized-svd")
def test_expected_frobenius_error_of_the_whole_scheme(x64):
    k, p, count = 6, 5, 400
    _, frobenius = harmonic_errors(k, p, 0)
    mean = (frobenius**2).mean()
    bound = (1 + k / (p - 1)) * np.sum(HARMONIC[k:] ** 2)
    assert mean <= bound + 4 * (frobenius**2).std() / np.sqrt(count)


@pytest.mark.covers("randomized-svd")
@pytest.mark.parametrize(
    "spectrum",
    [HARMONIC, HARMONIC**0.5, 0.7 ** np.arange(N), np.linspace(1, 0.7, N), 10.0 ** -np.arange(0, 20, 0.5)],
)
def test_the_requested_accuracy_is_reached(spectrum):
    A = with_spectrum(spectrum)
    slack = 3 if spectrum[-1] > 0.1 else 1  # extrapolation is least sure where little decays; it is a monitor only
    for accuracy in (1e-2, 1e-6):
        for seed in range(4):
            found = randomized_svd(A, 4, oversampling=2, accuracy=accuracy, key=jax.random.key(seed))
            assert bool(found.converged)
            assert np.max(1 - found.value[1] / spectrum[:4]) <= slack * accuracy


@pytest.mark.covers("randomized-svd")
def test_small_singular_values_keep_their_precision():
    spectrum = 10.0 ** -np.arange(0.0, 12.0)  # condition 1e11: a Gram matrix would lose the last ones
    found = randomized_svd(with_spectrum(spectrum), 10, oversampling=2, accuracy=1e-8, key=KEY)
    assert np.max(np.abs(found.value[1] - spectrum[:10])) <= 100 * np.finfo(float).eps
    assert bool(found.certificates["orthogonality"].holds)


@pytest.mark.covers("randomized-svd", "range-finder")
def test_every_kind_of_input_gives_the_same(x64):
    A = with_spectrum(HARMONIC) * (np.abs(with_spectrum(HARMONIC, seed=3)) > 0.01)
    mean = A.mean(axis=0)
    kinds = [
        scipy.sparse.csr_array(A),
        scipy.sparse.coo_matrix(A),
        np.asfortranarray(A),
        jnp.asarray(A),
        Sparse(scipy.sparse.csc_array(A)),
        as_operator(A),
        Function(lambda x: jnp.asarray(A) @ x, N, lambda y: jnp.asarray(A).T @ y),
    ]
    reference = randomized_svd(A, 4, accuracy=1e-9, key=KEY)
    basis = range_finder(A, tol=0.2, key=KEY).value
    for kind in kinds:
        found = randomized_svd(kind, 4, accuracy=1e-9, key=KEY)
        for ours, theirs in zip(found.value, reference.value, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-8)
    for kind in kinds[:5]:
        np.testing.assert_allclose(range_finder(kind, tol=0.2, key=KEY).value, basis, atol=1e-8)
    centred = randomized_svd(Centred(Sparse(scipy.sparse.csr_array(A)), jnp.asarray(mean)), 4, accuracy=1e-9, key=KEY)
    np.testing.assert_allclose(centred.value[1], np.linalg.svd(A - mean, compute_uv=False)[:4], rtol=1e-8)
    assert isinstance(randomized_svd(jnp.asarray(A), 4, key=KEY).value[0], jax.Array)
    assert isinstance(reference.value[0], np.ndarray)


@pytest.mark.covers("randomized-svd")
def test_jit_vmap_and_no_second_compile(x64):
    A = jnp.asarray(with_spectrum(HARMONIC**2))
    traces = []

    @jax.jit
    def values(A, key, accuracy):
        traces.append(1)
        return randomized_svd(A, 4, key=key).value[1]

    eager = randomized_svd(A, 4, accuracy=1e-8, key=KEY).value[1]
    np.testing.assert_allclose(values(A, KEY, 1e-3), eager, rtol=1e-6)
    values(2 * A, jax.random.key(3), 1e-4)
    assert len(traces) == 1
    batch = jax.vmap(lambda A: randomized_svd(A, 4, key=KEY).value[1])(jnp.stack([A, 3 * A]))
    np.testing.assert_allclose(batch[1], 3 * batch[0], rtol=1e-9)
    with pytest.raises(InputError, match="tol"):
        jax.jit(lambda A: range_finder(A, tol=0.1, key=KEY).value)(A)


@pytest.mark.covers("randomized-svd", "range-finder")
@pytest.mark.parametrize("settings", [{"rank": 2}, {"rank": 2, "power_iterations": 1}, {"tol": 0.2}])
@pytest.mark.parametrize("scale", [1e-150, 1e150, 2.0**40])
def test_scaling_changes_the_scale_only(settings, scale):
    A = with_spectrum(HARMONIC**2)
    plain, scaled = (randomized_svd(B, key=KEY, **settings) for B in (A, A * scale))
    np.testing.assert_allclose(scaled.value[1], plain.value[1] * scale, rtol=1e-10)
    np.testing.assert_allclose(scaled.value[0], plain.value[0], atol=1e-8)
    assert bool(scaled.holds)
    assert scaled.steps == plain.steps


@pytest.mark.parametrize("settings", [{"rank": 1}, {"rank": 1, "power_iterations": 1}, {"tol": 1e-3}])
def test_degenerate_matrices(dtype, settings):
    for A, s in (
        (np.zeros((5, 4)), 0.0),
        (np.full((1, 1), -3.0), 3.0),
        (np.ones((1, 6)), np.sqrt(6.0)),
        (np.ones((6, 1)), np.sqrt(6.0)),
        (np.ones((7, 3)), np.sqrt(21.0)),
    ):
        found = randomized_svd(A.astype(dtype), key=KEY, **settings)
        U, values, Vt = found.value
        assert np.all(np.isfinite(U))
        assert np.all(np.isfinite(Vt))
        assert bool(found.holds)
        assert bool(found.converged)
        np.testing.assert_allclose(values, np.full(len(values), s), rtol=20 * np.finfo(dtype).eps)
        assert len(values) == (0 if s == 0 and "tol" in settings else 1)


def test_integers_are_computed_in_float64():
    found = randomized_svd(np.arange(12).reshape(4, 3), 2, key=KEY)
    assert found.value[1].dtype == np.float64


@pytest.mark.parametrize(
    ("A", "settings", "match"),
    [
        (np.array([[1.0, np.nan], [0.0, 1.0]]), {"rank": 1}, "A: found NaN"),
        (scipy.sparse.csr_array([[1.0, np.inf]]), {"rank": 1}, "A: found NaN"),
        (np.zeros((0, 3)), {"rank": 1}, "A: found an empty"),
        (scipy.sparse.csr_array((0, 3)), {"rank": 1}, "A: found an empty"),
        (np.zeros(3), {"rank": 1}, "A: found an array of shape"),
        (np.zeros((3, 3), complex), {"rank": 1}, "A: found dtype complex"),
        (scipy.sparse.csr_array(np.eye(2, dtype=complex)), {"rank": 1}, "A: found dtype complex"),
        (np.array([["a"]]), {"rank": 1}, "A: found dtype"),
        (np.eye(3), {}, "exactly one"),
        (np.eye(3), {"rank": 1, "tol": 0.1}, "exactly one"),
        (np.eye(3), {"rank": 4}, "rank: found 4"),
        (np.eye(3), {"rank": 0}, "rank: found 0"),
        (np.eye(3), {"rank": 1.5}, "rank: found 1.5"),
        (np.eye(3), {"tol": 0.0}, "tol: found 0.0"),
        (np.eye(3), {"tol": -1.0}, "tol: found -1.0"),
        (np.eye(3), {"rank": 1, "oversampling": -1}, "oversampling"),
        (np.eye(3), {"rank": 1, "power_iterations": "many"}, "power_iterations"),
        (np.eye(3), {"tol": 0.1, "block": 0}, "block"),
    ],
)
def test_bad_input(A, settings, match):
    with pytest.raises(InputError, match=match):
        randomized_svd(A, key=KEY, **settings)
    if settings.get("power_iterations") != "many":
        with pytest.raises(InputError, match=match):
            range_finder(A, key=KEY, **settings)


@pytest.mark.covers("randomized-svd")
@pytest.mark.parametrize("wide", [False, True])
def test_the_program_for_accelerators_gives_the_same(x64, wide):
    """Where arrays lie on an accelerator one compiled program of fixed steps is tried first."""
    from corollary.linalg.low_rank._randomized_svd import _compiled

    rng = np.random.default_rng(0)
    A = jnp.asarray(rng.standard_normal((60, 30)) @ np.diag(0.7 ** np.arange(30.0)))
    A = A.T if wide else A
    found = _compiled(A, 4, 4, jnp.asarray(1e-3), jax.random.key(0))
    assert bool(found.converged)
    assert bool(found.holds)
    np.testing.assert_allclose(found.value[1], np.linalg.svd(A, compute_uv=False)[:4], rtol=1e-3)
