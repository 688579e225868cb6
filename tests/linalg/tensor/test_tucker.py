"""Tucker: the HOSVD's theorems, tolerances that are met, HOOI, gaps, nonnegativity, and what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorly
import tensorly.decomposition

from corollary.core import InputError, Status
from corollary.linalg.tensor import Tucker, _tucker, mode_product, tucker, unfold
from corollary.linalg.tensor._tucker import METHODS

SHAPE, RANK = (6, 7, 8), (3, 3, 4)
DTYPES = [np.float32, np.float64, np.complex128]


def draw(shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def planted(shape=SHAPE, rank=RANK, noise=0.0, dtype=np.float64, seed=0):
    """A tensor of those multilinear ranks with unit norm, and noise of relative size `noise`."""
    T = draw(rank, dtype, seed)
    for mode, n in enumerate(shape):
        T = mode_product(T, np.linalg.qr(draw((n, rank[mode]), dtype, seed + mode + 1))[0], mode)
    E = draw(shape, dtype, seed + 9)
    return (T / np.linalg.norm(T) + noise * E / np.linalg.norm(E)).astype(dtype)


def error(X, solution):
    return np.linalg.norm(X - solution.value.to_dense()) / np.linalg.norm(X)


def values(X, mode):
    return np.linalg.svd(unfold(X, mode), compute_uv=False)


def tails(X, rank):
    return np.array([np.linalg.norm(values(X, k)[r:]) for k, r in enumerate(rank)]) / np.linalg.norm(X)


def slack(dtype):
    return float(200 * np.finfo(dtype).eps)


def assert_holds(solution):
    assert bool(solution.holds), {n: c.explain() for n, c in solution.certificates.items() if not c.holds}


def assert_gauge(value, eps):
    """Slices of the core mutually orthogonal, of falling norm, in every mode; orthonormal factors."""
    size = np.linalg.norm(value.core)
    for mode, U in enumerate(value.factors):
        np.testing.assert_allclose(U.conj().T @ U, np.eye(U.shape[1]), atol=eps)
        G = unfold(value.core, mode)
        gram = G @ G.conj().T
        np.testing.assert_allclose(gram, np.diag(np.diagonal(gram)), atol=eps * size**2)
        assert np.all(np.diff(np.linalg.norm(G, axis=1)) <= eps * size)


@pytest.mark.covers("tucker-decomposition")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_theorems_over_seeds(method, dtype):
    eps = slack(dtype)
    for seed in range(5):
        X = draw(SHAPE, dtype, seed)
        found = tucker(X, RANK, method=method, max_steps=300)
        measured, tail = error(X, found), tails(X, RANK)
        assert found.value.core.dtype == dtype
        assert found.stats["relative_error"] == pytest.approx(measured, rel=eps)
        assert_holds(found)
        assert_gauge(found.value, eps)
        assert measured <= np.linalg.norm(tail) + eps  # error² <= Σ tail²
        if method != "randomized":
            assert tail.max() * (1 - eps) <= measured <= np.sqrt(3) * tail.max()  # √d times a bound below the best
            assert found.stats["best_error_at_least"] <= measured
            assert np.all(found.stats["tails"] <= tail * (1 + eps))  # projecting lowers singular values


@pytest.mark.covers("tucker-decomposition")
@pytest.mark.parametrize("dtype", DTYPES)
def test_full_hosvd_has_an_all_orthogonal_ordered_core(dtype):
    for shape in (SHAPE, (2, 5, 9)):  # rank 2, 5, 9: the last mode is longer than its columns allow in a cut
        X = draw(shape, dtype)
        found = tucker(X, shape if shape == SHAPE else (2, 5, 9), method="hosvd")
        assert_gauge(found.value, slack(dtype))
        assert error(X, found) <= slack(dtype)
        for mode in range(3):
            lengths = np.linalg.norm(unfold(found.value.core, mode), axis=1)
            np.testing.assert_allclose(lengths, values(X, mode), atol=slack(dtype) * np.linalg.norm(X))


@pytest.mark.covers("tucker-decomposition")
@pytest.mark.parametrize("method", METHODS)
def test_the_matrix_case_is_the_svd(method):
    A = draw((9, 6))
    U, s, Vt = np.linalg.svd(A)
    found = tucker(A, 3, method=method, oversampling=3)
    np.testing.assert_allclose(np.abs(found.value.core), np.diag(s[:3]), atol=1e-12)
    np.testing.assert_allclose(found.value.to_dense(), (U[:, :3] * s[:3]) @ Vt[:3], atol=1e-12)
    assert error(A, found) == pytest.approx(np.linalg.norm(s[3:]) / np.linalg.norm(s), rel=1e-12)


@pytest.mark.covers("tucker-decomposition")
def test_against_naive_twins():
    X = draw(SHAPE)
    bases = [np.linalg.svd(unfold(X, k))[0][:, :r] for k, r in enumerate(RANK)]
    naive = X
    for mode, U in enumerate(bases):
        naive = mode_product(naive, U @ U.T, mode)
    np.testing.assert_allclose(tucker(X, RANK, method="hosvd").value.to_dense(), naive, atol=1e-12)
    one = X
    lost = []
    for mode, r in enumerate(RANK):  # the modes are in order of size already
        U, s, _ = np.linalg.svd(unfold(one, mode))
        lost.append(np.linalg.norm(s[r:]) / np.linalg.norm(X))
        one = mode_product(one, U[:, :r] @ U[:, :r].T, mode)
    found = tucker(X, RANK, method="st-hosvd")
    np.testing.assert_allclose(found.value.to_dense(), one, atol=1e-12)
    np.testing.assert_allclose(found.stats["tails"], lost, rtol=1e-10)
    assert error(X, found) == pytest.approx(np.linalg.norm(lost), rel=1e-12)  # an equality for the sequential form


@pytest.mark.covers("tucker-decomposition")
@pytest.mark.filterwarnings("ignore")
def test_hooi_agrees_with_tensorly():
    X = planted(noise=0.3)
    theirs = tensorly.decomposition.tucker(X, list(RANK), init="svd", tol=1e-14, n_iter_max=300)
    found = tucker(X, RANK, accuracy=1e-9)
    expected = np.linalg.norm(X - tensorly.tucker_to_tensor(theirs)) / np.linalg.norm(X)
    assert error(X, found) == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(found.value.to_dense(), tensorly.tucker_to_tensor(theirs), atol=1e-7)


@pytest.mark.covers("tucker-decomposition")
def test_hooi_is_monotone_and_stationary_and_improves():
    better = 0
    for seed in range(8):
        X = draw(SHAPE, seed=seed)
        found = tucker(X, RANK, max_steps=500, accuracy=1e-6, history=True)
        fits = found.history["relative_error"][: int(found.steps)]
        assert np.all(np.diff(fits) <= 1e-14)
        assert found.status == Status.CONVERGED
        assert found.certificates["stationarity"].measured == pytest.approx(gradient(X, found.value), abs=1e-9)
        start = tucker(X, RANK, method="hosvd")
        assert error(X, found) <= error(X, start) + 1e-14
        better += error(X, found) < 0.999 * error(X, start)
    assert better >= 4  # the truncated HOSVD is not the best: the theorem's √d is needed


def gradient(X, value):
    """‖gradient‖/‖X‖² in the factors of an orthonormal Tucker, written plainly."""
    total = 0.0
    for mode, U in enumerate(value.factors):
        Y = X
        for other, V in enumerate(value.factors):
            if other != mode:
                Y = mode_product(Y, V.T, other)
        Y = unfold(Y, mode)
        total += np.linalg.norm((Y - U @ (U.T @ Y)) @ (U.T @ Y).T) ** 2
    return np.sqrt(total) / np.linalg.norm(X) ** 2


@pytest.mark.covers("tucker-decomposition")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
def test_exact_at_the_true_ranks_and_small_errors_keep_their_digits(dtype, method):
    found = tucker(planted(dtype=dtype), RANK, method=method)
    assert error(planted(dtype=dtype), found) <= slack(dtype)
    assert found.stats["relative_error"] <= slack(dtype)  # ‖X‖² − ‖G‖² would give √eps
    assert_holds(found)
    noise = 1e-3 if dtype == np.float32 else 1e-10
    X = planted(noise=noise, dtype=dtype)
    found = tucker(X, RANK, method=method)
    assert found.stats["relative_error"] == pytest.approx(error(X, found), rel=1e-3)
    assert found.stats["relative_error"] == pytest.approx(np.linalg.norm(tails(X, RANK)), rel=0.5)
    assert_holds(found)


def test_a_gram_matrix_would_lose_what_is_asked_for():
    Q = np.linalg.qr(draw((8, 8)))[0]
    X = mode_product(draw((8, 9, 10)), Q * 10.0 ** (-1.5 * np.arange(8)), 0)
    s = values(X, 0)
    lengths = np.linalg.norm(unfold(tucker(X, X.shape, method="hosvd").value.core, 0), axis=1)
    np.testing.assert_allclose(lengths, s, atol=1e-14 * s[0])
    A = unfold(X, 0)
    squared = np.sqrt(np.maximum(np.linalg.eigvalsh(A @ A.T)[::-1], 0))
    assert np.abs(squared - s).max() > 1e-9 * s[0]
    found = tucker(X, tol=1e-9, method="st-hosvd")
    assert error(X, found) <= 1e-9
    assert found.value.rank[0] == 7  # the next value is 3e-11 of the first


@pytest.mark.covers("tucker-decomposition")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_tolerance_is_met_always(method, dtype):
    rng = np.random.default_rng(1)
    X = draw((12, 13, 14))
    for mode, n in enumerate(X.shape):
        basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
        X = mode_product(X, basis * 10.0 ** (-np.arange(n) * 0.9), mode)
    X = X.astype(dtype)
    sizes = []
    for tol in (0.5, 1e-1, 1e-2, 1e-3, 1e-4) if dtype == np.float32 else (0.5, 1e-1, 1e-2, 1e-4, 1e-6, 1e-9, 1e-12):
        found = tucker(X, tol=tol, method=method)
        assert error(X.astype(float), found) <= tol
        assert_holds(found)
        sizes.append(found.value.rank)
        for mode, r in enumerate(found.value.rank):  # no more than each mode needs for its share
            s = values(X.astype(float), mode)
            enough = 1 + np.argmax(
                np.append(np.cumsum(s[::-1] ** 2)[::-1][1:], 0) <= (0.3 * tol * np.linalg.norm(s)) ** 2
            )
            assert r <= enough + (method == "randomized")
    assert sizes == sorted(sizes)
    below = tucker(draw(SHAPE, dtype), tol=1e-17, method=method)
    assert below.value.rank == SHAPE
    assert below.status == Status.PRECISION
    assert_holds(below)


@pytest.mark.covers("tucker-decomposition")
def test_the_randomized_form_is_as_good_on_average_as_its_theorem(x64):
    """E error² <= Σ (1 + r_k/(p − 1)) tail_k² (Minster, Saibaba & Kilmer 2020, Theorem 3.1)."""
    X, p, rank, count = jnp.asarray(draw((15, 16, 17))), 4, (3, 3, 3), 200
    run = jax.jit(
        lambda keys: jax.lax.map(
            lambda key: tucker(X, rank, method="randomized", oversampling=p, power_iterations=0, key=key).stats[
                "relative_error"
            ],
            keys,
        )
    )
    squares = np.asarray(run(jax.random.split(jax.random.key(0), count))) ** 2
    bound = np.sum((1 + np.array(rank) / (p - 1)) * tails(np.asarray(X), rank) ** 2)
    assert squares.mean() <= bound + 4 * squares.std() / np.sqrt(count)
    sharper = tucker(np.asarray(X), rank, method="randomized", power_iterations=3, key=jax.random.key(1))
    assert error(np.asarray(X), sharper) ** 2 < squares.mean()


@pytest.mark.covers("tucker-decomposition")
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_gaps_are_filled_monotonically(share):
    X = planted((15, 16, 17), (3, 3, 3))
    mask = np.random.default_rng(0).random(X.shape) > share
    found = tucker(X, 3, mask=mask, accuracy=1e-7, max_steps=500, history=True)
    fits = found.history["relative_error"][: int(found.steps)]
    assert np.all(np.diff(fits) <= 1e-14)
    assert_holds(found)
    assert error(X, found) <= 1e-5  # the entries that were never seen, too
    gap = np.where(mask, X - found.value.to_dense(), 0)
    assert found.stats["relative_error"] == pytest.approx(np.linalg.norm(gap) / np.linalg.norm(X * mask), rel=1e-6)
    again = tucker(np.where(mask, X, np.nan), 3, accuracy=1e-7, max_steps=500)
    np.testing.assert_array_equal(again.value.core, found.value.core)
    assert found.certificates["fit"].kind == "estimate"
    assert tucker(X, 3, mask=mask, max_steps=1).status == Status.MAX_STEPS
    assert not bool(tucker(X, 3, mask=mask, max_steps=1).holds)


@pytest.mark.covers("tucker-decomposition")
@pytest.mark.filterwarnings("ignore")
def test_nonnegative_recovers_and_is_no_worse_than_tensorly():
    rng = np.random.default_rng(0)
    P = Tucker(rng.random((2, 3, 2)), tuple(rng.random((n, r)) for n, r in ((8, 2), (9, 3), (10, 2)))).to_dense()
    found = tucker(P, (2, 3, 2), nonnegative=True, accuracy=1e-4, max_steps=300, history=True)
    assert min(part.min() for part in (found.value.core, *found.value.factors)) >= 0
    assert np.all(np.diff(found.history["relative_error"][: int(found.steps)] ** 2) <= 1e-14)
    assert_holds(found)
    assert found.stats["relative_error"] == pytest.approx(error(P, found), rel=1e-6)
    noisy = np.maximum(P + 0.3 * rng.standard_normal(P.shape), 0)
    _, theirs = tensorly.decomposition.non_negative_tucker(
        noisy, [2, 3, 2], n_iter_max=100, tol=0, init="svd", return_errors=True
    )
    ours = tucker(noisy, (2, 3, 2), nonnegative=True, max_steps=100)
    assert error(noisy, ours) <= theirs[-1] + 1e-6
    mask = rng.random(P.shape) > 0.3
    filled = tucker(P, (2, 3, 2), nonnegative=True, mask=mask, max_steps=100)
    assert filled.certificates["monotone"].holds
    assert error(P, filled) <= 0.02


@pytest.mark.covers("tucker-decomposition")
def test_jit_and_vmap(x64):
    X = jnp.asarray(draw(SHAPE))

    @jax.jit
    def dense(X):
        found = tucker(X, RANK, accuracy=1e-5, max_steps=30)
        return found.value.to_dense(), found.stats["relative_error"], found.holds

    one, size, _ = jax.vmap(dense)(jnp.stack([X, 2 * X[::-1]]))
    for k, Y in enumerate((X, 2 * X[::-1])):
        expected = tucker(np.asarray(Y), RANK, accuracy=1e-5, max_steps=30)
        np.testing.assert_allclose(one[k], expected.value.to_dense(), atol=1e-10)
        assert size[k] == pytest.approx(expected.stats["relative_error"], rel=1e-10)
    concrete = tucker(X, RANK, method="hosvd")
    assert isinstance(concrete.value.core, jax.Array)
    with pytest.raises(InputError, match="traced tensor"):
        jax.jit(lambda X: tucker(X, tol=0.1).value)(X)


def test_other_values_compile_nothing_new(x64):
    X, run = jnp.asarray(draw(SHAPE)), _tucker._compiled
    first = run(X, RANK, "hooi", 1e-5, 30, 0, jax.random.key(0), (10, 1))
    before = run._cache_size()
    second = run(2 * X + 1, RANK, "hooi", 1e-9, 2, 0, jax.random.key(1), (10, 1))
    assert run._cache_size() == before
    assert second.steps == 2 < first.steps


def test_a_limit_of_steps_costs_no_memory():
    X = planted(noise=0.1)
    for settings in ({}, {"mask": draw(SHAPE, seed=1) > -1}, {"nonnegative": True, "accuracy": 0.1}):
        found = tucker(np.abs(X), RANK, max_steps=10**12, **settings)  # a history would need terabytes
        assert found.status == Status.CONVERGED
        assert found.history is None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", DTYPES)
def test_modes_longer_than_the_product_of_the_others(method, kind):
    X = draw((40, 2, 3), kind)
    whole = tucker(X, (None, None, None), method=method)
    assert whole.value.rank == (6, 2, 3)  # all that there is: 40 x 40 numbers are never formed
    assert error(X, whole) <= slack(kind)
    assert_gauge(whole.value, slack(kind))
    more = tucker(draw(SHAPE, kind), (1, 1, 4), method=method)  # after two cuts one column is left for four vectors
    assert_gauge(more.value, slack(kind))
    assert_holds(more)


def test_the_best_error_is_bounded_from_below_with_rounding():
    for seed in range(20):
        A = draw((9, 8), np.float32, seed)
        s = np.linalg.svd(A.astype(float), compute_uv=False)
        least = np.linalg.norm(s[3:]) / np.linalg.norm(s)
        assert (1 - 1e-3) * least <= tucker(A, 3).stats["best_error_at_least"] <= least
    assert tucker(planted(), RANK).stats["best_error_at_least"] == 0


@pytest.mark.parametrize("method", ["st-hosvd", "randomized"])
def test_gradients_against_differences(x64, method):
    X, D = draw((4, 5, 6)), draw((4, 5, 6), seed=1)
    settings = {"method": method, "oversampling": 1, "power_iterations": 1}

    @jax.jit
    def value(t):
        return jnp.sum(tucker(X + t * D, (2, 2, 3), **settings).value.to_dense() ** 3)

    step = 1e-5
    expected = (value(step) - value(-step)) / (2 * step)
    assert jax.jvp(value, (0.0,), (1.0,))[1] == pytest.approx(float(expected), rel=1e-6)
    host = np.sum(tucker(X, (2, 2, 3), **settings).value.to_dense() ** 3)
    assert value(0.0) == pytest.approx(float(host), rel=1e-8)  # the same draws on either side


def test_the_compiled_branches_agree_with_the_host(x64):
    clean, mask = planted(noise=1e-9), np.random.default_rng(0).random(SHAPE) > 0.2
    positive = np.abs(planted())
    run = jax.jit(
        lambda X, P, mask: (
            tucker(X, RANK, method="st-hosvd"),
            tucker(X, RANK, mask=mask, max_steps=20),
            tucker(P, 2, nonnegative=True, max_steps=20),
        )
    )
    for ours, expected in zip(
        run(jnp.asarray(clean), jnp.asarray(positive), jnp.asarray(mask)),
        (
            tucker(clean, RANK, method="st-hosvd"),
            tucker(clean, RANK, mask=mask, max_steps=20),
            tucker(positive, 2, nonnegative=True, max_steps=20),
        ),
        strict=True,
    ):
        np.testing.assert_allclose(ours.value.to_dense(), expected.value.to_dense(), atol=1e-9)
        assert float(ours.stats["relative_error"]) == pytest.approx(expected.stats["relative_error"], rel=1e-3)
        assert bool(ours.holds) == bool(expected.holds)


@pytest.mark.parametrize("scale", [1e-150, 1e-12, 1e12, 1e150])
@pytest.mark.parametrize(
    "settings", [{"rank": RANK}, {"tol": 0.6, "method": "st-hosvd"}, {"rank": 2, "nonnegative": True, "max_steps": 20}]
)
def test_scaling_changes_the_scale_only(scale, settings):
    X = np.abs(draw(SHAPE))
    plain, scaled = tucker(X, **settings), tucker(X * scale, **settings)
    np.testing.assert_allclose(scaled.value.to_dense(), plain.value.to_dense() * scale, rtol=1e-6)
    assert scaled.stats["relative_error"] == pytest.approx(plain.stats["relative_error"], rel=1e-9)
    assert scaled.steps == plain.steps
    assert bool(scaled.holds) == bool(plain.holds)
    if 1e-20 < scale < 1e20:
        single = tucker((X * scale).astype(np.float32), **settings)
        assert single.stats["relative_error"] == pytest.approx(plain.stats["relative_error"], rel=1e-3)


def test_entries_near_the_largest_number(dtype):
    X = draw(SHAPE, dtype) / 1000
    X[0, 0, 0] = 1.5  # so that the norm is not much larger
    top = np.finfo(dtype).maxexp - 1
    for settings in ({}, {"nonnegative": True, "max_steps": 5}):
        plain, large = (tucker(np.abs(np.ldexp(X, e)), RANK, **settings) for e in (-60, top))
        np.testing.assert_allclose(np.ldexp(large.value.core, -top), np.ldexp(plain.value.core, 60), atol=1e-5)
        assert bool(large.holds) == bool(plain.holds)
    flat = tucker(np.full((600, 600), 5e151), 1)  # partial sums of squares overflow
    assert flat.stats["relative_error"] <= 1e-12


def test_permuted_modes_and_rotated_modes():
    X = planted(noise=0.2)
    base = tucker(X, RANK, accuracy=1e-9)
    for order in itertools.permutations(range(3)):
        turned = tucker(np.transpose(X, order), [RANK[k] for k in order], accuracy=1e-9)
        np.testing.assert_allclose(turned.value.to_dense(), np.transpose(base.value.to_dense(), order), atol=1e-7)
    Q = np.linalg.qr(draw((7, 7)))[0]
    rotated = tucker(mode_product(X, Q, 1), RANK, accuracy=1e-9)
    np.testing.assert_allclose(rotated.value.to_dense(), mode_product(base.value.to_dense(), Q, 1), atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_degenerate_tensors(method, dtype):
    for X, rank in (
        (np.zeros((3, 4, 5)), 2),
        (np.ones((1, 4, 5)), (1, 2, 2)),
        (np.ones((1, 1)), 1),
        (np.ones((3, 1, 4, 2)), (1, 1, 1, 1)),
        (np.eye(4).reshape(4, 2, 2), (2, 2, None)),
    ):
        found = tucker(X.astype(dtype), rank, method=method)
        assert all(np.isfinite(part).all() for part in jax.tree.leaves(found.value))
        assert_holds(found)
        assert found.status == Status.CONVERGED
        assert np.isfinite(found.stats["relative_error"])
    zero = tucker(np.zeros((3, 4, 5), dtype), tol=0.1, method=method)
    assert zero.value.rank == (1, 1, 1)
    assert zero.stats["relative_error"] == 0
    assert tucker(np.arange(24).reshape(2, 3, 4), 2).value.core.dtype == np.float64
    assert tucker(np.ones((4, 3, 2)), (2, None, None)).value.rank == (2, 3, 2)


@pytest.mark.covers("tucker-gauge")
def test_rotated_factors_are_the_same_tensor():
    value = tucker(draw(SHAPE), RANK).value
    turns = [np.linalg.qr(draw((r, r), seed=r + k))[0] for k, r in enumerate(RANK)]
    core = value.core
    for mode, Q in enumerate(turns):
        core = mode_product(core, Q.T, mode)
    other = Tucker(core, tuple(U @ Q for U, Q in zip(value.factors, turns, strict=True)))
    np.testing.assert_allclose(other.to_dense(), value.to_dense(), atol=1e-12)
    assert all(np.linalg.norm(U - V) > 0.1 for U, V in zip(other.factors, value.factors, strict=True))
    back = tucker(other.to_dense(), RANK, method="st-hosvd").value  # the HOSVD's gauge is a normal form
    for U, V in zip(back.factors, value.factors, strict=True):
        np.testing.assert_allclose(U, V, atol=1e-10)


NAN_SLICE = np.ones((3, 3, 3))
NAN_SLICE[1] = np.nan


@pytest.mark.parametrize(
    ("X", "settings", "says"),
    [
        (np.ones((2, 2, 2)), {}, "exactly one"),
        (np.ones((2, 2, 2)), {"rank": 1, "tol": 0.1}, "exactly one"),
        (np.ones((2, 2, 2)), {"rank": 0}, "rank: found 0"),
        (np.ones((2, 2, 2)), {"rank": 3}, r"rank\[0\]: found 3, expected at most 2"),
        (np.ones((9, 2, 2)), {"rank": (5, 1, 1)}, r"rank\[0\]: found 5, expected at most 4"),
        (np.ones((2, 2, 2)), {"rank": (1, 1)}, "rank: found 2 ranks, expected 3"),
        (np.ones((2, 2, 2)), {"rank": (1, 1, 1.5)}, r"rank\[2\]: found 1.5"),
        (np.ones((2, 2, 2)), {"tol": 0.0}, "tol: found 0.0"),
        (np.ones((2, 2, 2)), {"tol": 2.0}, "tol: found 2.0"),
        (np.ones(3), {"rank": 1}, "tensor: found an array of shape"),
        (np.ones((2, 0, 2)), {"rank": 1}, "tensor: found an empty"),
        (np.full((2, 2), np.inf), {"rank": 1}, "tensor: found infinity"),
        (np.full((2, 2), np.nan + 1j), {"rank": 1}, "tensor: found NaN"),
        (NAN_SLICE, {"rank": 1}, "slice 1 of mode 0"),
        (np.array([["a", "b"]]), {"rank": 1}, "tensor: found dtype"),
        (np.ones((2, 2)), {"rank": 1, "mask": np.ones((2, 2))}, "mask: found"),
        (np.array([[1.0, np.nan], [1.0, 2.0]]), {"rank": 1, "method": "hosvd"}, "method: found 'hosvd' with missing"),
        (np.array([[1.0, np.nan], [1.0, 2.0]]), {"tol": 0.1}, "tol: found a tolerance with missing"),
        (np.ones((2, 2)), {"tol": 0.1, "nonnegative": True}, "tol: found a tolerance with nonnegative"),
        (np.ones((2, 2)) + 0j, {"rank": 1, "nonnegative": True}, "tensor: found complex"),
        (np.ones((2, 2)), {"rank": 1, "method": "best"}, "method: found 'best'"),
        (np.ones((2, 2)), {"rank": 1, "accuracy": 0}, "accuracy: found 0"),
        (np.ones((2, 2)), {"rank": 1, "max_steps": 0}, "max_steps: found 0"),
        (np.ones((2, 2)), {"rank": 1, "oversampling": -1}, "oversampling: found -1"),
    ],
)
def test_refusals(X, settings, says):
    with pytest.raises(InputError, match=says):
        tucker(X, **settings)
