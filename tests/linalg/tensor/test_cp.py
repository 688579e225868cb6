"""CP by alternating least squares: recovery of planted factors, monotone errors, TensorLy, gaps, swamps, refusals."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorly.decomposition
from jax.experimental import sparse as jsparse
from tensorly.cp_tensor import CPTensor

from corollary.core import InputError, Status
from corollary.linalg.tensor import CP, cp_als, cp_sampled, factor_match_score
from corollary.linalg.tensor._cp_mttkrp import DenseData, SparseData, coordinates, pairs, unpair
from corollary.linalg.tensor._cp_start import _singular, squared_spectrum

KEY = jax.random.key(0)
SHAPE, RANK = (6, 7, 8), 3


def draw(*shape, dtype: Any = np.float64, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def planted(seed=0, dtype=np.float64, positive=False):
    factors = [draw(n, RANK, dtype=dtype, seed=100 * seed + n) for n in SHAPE]
    factors = [np.abs(f) for f in factors] if positive else factors
    return np.einsum("ir,jr,kr->ijk", *factors), factors


def relative(value, X, seen: Any = True):
    return np.linalg.norm((value.to_dense() - X) * seen) / np.linalg.norm(X * seen)


def of(factors):
    """Factors with all weights one, of any kind of array."""
    return CP(np.ones(factors[0].shape[1]), tuple(factors))


def falls(trace, slack=0.0):
    trace = trace[np.isfinite(trace)]
    return bool(np.all(np.diff(trace) <= slack))


@pytest.mark.covers("cp-als")
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.complex128])
def test_planted_factors_are_recovered(kind):
    eps = float(np.finfo(kind).eps)
    for seed in range(5):
        X, factors = planted(seed, kind)
        solution = cp_als(X, RANK, key=KEY, tol=100 * eps, max_steps=200)
        value = solution.value
        assert value.weights.dtype == kind
        assert solution.certificates["kruskal"].holds  # Σ k = 9 >= 2R + 2
        assert factor_match_score(factors, value).score > 1 - 1e4 * eps
        assert relative(value, X) < 1e3 * eps
        assert float(solution.stats["error"]) == pytest.approx(relative(value, X), rel=1e-2, abs=20 * eps)
        assert all(solution.certificates[n].holds for n in ("monotone", "error"))
        np.testing.assert_allclose([np.linalg.norm(f, axis=0) for f in value.factors], 1, rtol=20 * eps)
        assert np.all(np.diff(np.abs(value.weights)) <= 0)


@pytest.mark.covers("cp-als")
def test_the_error_never_rises_with_more_sweeps():
    X = planted()[0] + 0.3 * draw(*SHAPE, seed=7)
    for accelerate in (False, True):
        run = {"rank": RANK, "init": of([draw(n, RANK, seed=n) for n in SHAPE]), "accelerate": accelerate, "key": KEY}
        errors = [relative(cp_als(X, max_steps=k, tol=0.0, **run).value, X) for k in range(1, 25)]
        assert falls(np.asarray(errors), 1e-13)


@pytest.mark.covers("cp-als")
def test_sweeps_are_tensorlys():
    X = planted()[0] + 0.3 * draw(*SHAPE, seed=7)
    start = [draw(n, RANK, seed=n) for n in SHAPE]
    init: Any = CPTensor((None, [f.copy() for f in start]))
    peer, errors = tensorly.decomposition.parafac(X, RANK, n_iter_max=12, tol=0, init=init, return_errors=True)
    for sweeps in (1, 5, 12):
        ours = cp_als(X, RANK, init=of(start), accelerate=False, max_steps=sweeps, tol=0.0, key=KEY)
        assert float(ours.stats["error"]) == pytest.approx(float(errors[sweeps - 1]), rel=1e-9)
        assert int(ours.status) == Status.MAX_STEPS
        assert not ours.certificates["stationarity"].holds
        assert ours.certificates["error"].holds
    np.testing.assert_allclose(ours.value.to_dense(), tensorly.cp_to_tensor(peer), atol=1e-9)


@pytest.mark.covers("cp-als")
def test_noisy_data_end_stationary_and_above_the_least_error():
    for seed in range(3):
        X = planted(seed)[0] + 0.5 * draw(*SHAPE, seed=seed)
        solution = cp_als(X, RANK, key=KEY, tol=1e-7, certify="full", max_steps=3000)
        assert solution.converged
        assert solution.holds
        assert solution.certificates["least_error"].measured > 0.05
        # the gradient of ½‖X − X̂‖² in one mode, by hand
        _, B, C = (np.asarray(f) for f in solution.value.factors)
        product = np.einsum("r,jr,kr->jkr", solution.value.weights, B, C)
        gradient = np.einsum("ijk,jkr->ir", solution.value.to_dense() - X, product)
        assert np.linalg.norm(gradient) <= 1e-5 * np.linalg.norm(X) * np.linalg.norm(product)


@pytest.mark.covers("cp-als")
@pytest.mark.parametrize("kind", [np.float64, np.complex128])
def test_missing_entries_are_recovered_and_the_error_never_rises(kind):
    for seed in range(4):
        X, factors = planted(seed, kind)
        seen = np.random.default_rng(seed).random(SHAPE) > 0.3
        solution = cp_als(X, RANK, mask=seen, key=KEY, starts=2, tol=1e-10, max_steps=400, history=True)
        assert relative(solution.value, X) < 1e-7  # the hidden entries too
        assert factor_match_score(factors, solution.value).score > 1 - 1e-8
        assert falls(solution.history["error"], 1e-13)
        assert solution.holds
    gaps = np.where(seen, X, np.nan)
    again = cp_als(gaps, RANK, key=KEY, starts=2, tol=1e-10, max_steps=400, history=True)
    np.testing.assert_array_equal(again.value.weights, solution.value.weights)


def test_the_error_under_a_mask_is_that_of_what_was_observed():
    X = planted()[0] + 0.5 * draw(*SHAPE, seed=3)
    seen = np.random.default_rng(0).random(SHAPE) > 0.4
    solution = cp_als(X, RANK, mask=seen, key=KEY, starts=2, tol=1e-10, max_steps=400, history=True)
    assert float(solution.stats["error"]) == pytest.approx(relative(solution.value, X, seen), rel=1e-9)
    assert falls(solution.history["error"], 1e-13)
    assert solution.certificates["error"].holds
    assert solution.certificates["monotone"].holds


def test_nonnegative_factors():
    X, factors = planted(positive=True)
    solution = cp_als(X, RANK, nonnegative=True, key=KEY, starts=4, tol=1e-7, max_steps=2000)
    assert solution.converged
    assert solution.holds
    assert all(np.all(f >= 0) for f in solution.value.factors)
    assert factor_match_score(factors, solution.value).score > 1 - 1e-5
    negative = cp_als(-X, RANK, nonnegative=True, key=KEY, starts=4, tol=1e-7, max_steps=2000)
    assert float(negative.stats["error"]) == pytest.approx(1, abs=1e-6)  # nothing is better than zero
    assert all(c.holds for name, c in negative.certificates.items() if name != "kruskal")  # zeros are not unique


def test_ridge_reaches_its_optimum():
    X, lam = planted()[0], 2.0
    loose = cp_als(X, RANK, key=KEY, tol=1e-9)
    ridged = cp_als(X, RANK, ridge=lam, key=KEY, tol=1e-9, max_steps=3000)
    assert ridged.converged

    def objective(value):
        balanced = 3 * np.sum(np.abs(value.weights) ** (2 / 3))
        return np.linalg.norm(value.to_dense() - X) ** 2 + lam * balanced

    assert objective(ridged.value) < objective(loose.value)
    shrunk = [objective(CP(ridged.value.weights * s, ridged.value.factors)) for s in (1 - 1e-3, 1, 1 + 1e-3)]
    assert shrunk[1] == min(shrunk)


def test_a_ridge_far_above_the_data_leaves_zero():
    for kind, power in ((np.float64, -1000), (np.float32, -100)):
        X = np.ldexp(planted(dtype=kind)[0], power)  # the ridge of data of size one overflows
        solution = cp_als(X, RANK, ridge=1.0, key=KEY, tol=1e-5)
        assert np.all(np.isfinite(solution.value.to_dense()))
        assert np.linalg.norm(solution.value.weights) <= 1e-6 * np.linalg.norm(np.ldexp(X, -power)) * 2.0**power
        assert float(solution.stats["error"]) == pytest.approx(1, abs=1e-6)


def test_sparse_data_are_the_dense_ones():
    rng = np.random.default_rng(0)
    X = np.where(rng.random(SHAPE) < 0.3, planted()[0], 0.0)
    start = of([draw(n, RANK, seed=n) for n in SHAPE])
    indices = np.argwhere(X)
    values = X[tuple(indices.T)]
    doubled = (np.concatenate([indices, indices]), np.concatenate([values, values]) / 2, SHAPE)
    run = {"rank": RANK, "init": start, "tol": 1e-8, "max_steps": 40, "key": KEY}
    dense = cp_als(X, **run)
    ours = cp_als(doubled, **run)
    assert float(ours.stats["error"]) == pytest.approx(float(dense.stats["error"]), rel=1e-10)
    assert ours.certificates["error"].kind == "estimate"
    form = coordinates(jsparse.BCOO.fromdense(jnp.asarray(X), nse=indices.shape[0] + 3))
    assert form is not None
    np.testing.assert_array_equal(form[0], indices)
    nested = tuple(tuple(map(tuple, x)) for x in X[:3])
    assert coordinates(nested) is None  # three slices, and no triple
    assert coordinates(nested[0][:3]) is None
    np.testing.assert_allclose(form[1], values, rtol=1e-6)


def test_cancellation_does_not_end_a_run_on_sparse_data():
    X = planted(1)[0]
    every = np.argwhere(np.ones(SHAPE))
    solution = cp_als((every, X.ravel(), SHAPE), RANK, tol=1e-9, max_steps=300, key=KEY)
    assert solution.converged  # by its gradient: ‖X‖² − 2⟨X, X̂⟩ + ‖X̂‖² is rounding from 1e-8 on
    assert relative(solution.value, X) < 2e-9
    dense = cp_als(X, RANK, tol=1e-11, max_steps=300, key=KEY)
    assert dense.converged  # an exact tensor, whose error is seen to be small
    assert float(dense.stats["error"]) < 1e-10


def test_products_of_any_number_of_modes_are_those_of_unfoldings(x64):
    for shape in ((4, 5), (3, 2, 1, 4)):
        T, factors = draw(*shape, dtype=np.complex128), [draw(n, 2, dtype=np.complex128, seed=n) for n in shape]
        seen = np.random.default_rng(0).random(shape) > 0.5
        found = {}

        def look(mode, products, current, found=found):
            found[mode] = products
            return current[mode]

        data = DenseData(jnp.asarray(T), jnp.asarray(seen.astype(float)))
        data.sweep([jnp.asarray(f) for f in factors], look, (lambda f: f, lambda f: pairs(f, 2)))
        sparse = SparseData.of(*coordinates((np.argwhere(np.ones(shape)), T.ravel(), shape)))
        for k in range(len(shape)):
            others = [f for j, f in enumerate(factors) if j != k]
            rows = others[0]
            for f in others[1:]:
                rows = np.einsum("ar,br->abr", rows, f).reshape(-1, 2)
            unfolded = np.moveaxis(T, k, 0).reshape(shape[k], -1)
            np.testing.assert_allclose(found[k][0], unfolded @ rows, atol=1e-12)
            np.testing.assert_allclose(
                sparse.product(k, [jnp.asarray(f) for f in factors]), unfolded @ rows, atol=1e-12
            )
            mask = np.moveaxis(seen, k, 0).reshape(shape[k], -1)
            normal = np.einsum("np,pq,pr->nqr", mask, rows, rows.conj())
            np.testing.assert_allclose(unpair(found[k][1], 2, True)[:, 0], normal, atol=1e-12)


def test_scale_changes_the_scale_only():
    X = planted()[0] + 0.1 * draw(*SHAPE, seed=1)
    base = cp_als(X, RANK, key=KEY)
    for power in (40, -40, 500, -500):
        other = cp_als(X * 2.0**power, RANK, key=KEY)
        np.testing.assert_allclose(other.value.weights, base.value.weights * 2.0**power, rtol=1e-12)
        assert other.steps == base.steps
        assert other.holds


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_entries_near_the_largest_number(kind):
    X = planted(dtype=kind)[0] / 1000
    X[0, 0, 0] = 1.5  # so that no weight is much larger
    top = np.finfo(kind).maxexp - 1
    for method in (cp_als, cp_sampled):
        plain, large = (method(np.ldexp(X, e), RANK, key=KEY, max_steps=20) for e in (0, top))
        np.testing.assert_allclose(np.ldexp(large.value.weights, -top), plain.value.weights, rtol=1e-5)
        assert float(large.stats["error"]) == pytest.approx(float(plain.stats["error"]), rel=1e-5)


def test_a_mode_longer_than_the_product_of_the_others(x64):
    X = draw(60, 2, 3, dtype=np.complex128)
    for k in range(3):
        unfolded = np.moveaxis(X, k, 0).reshape(X.shape[k], -1)
        s = np.linalg.svd(unfolded, compute_uv=False)
        found = squared_spectrum(jnp.asarray(X), k)
        assert found.shape == s.shape  # 60 x 60 numbers are never formed
        np.testing.assert_allclose(found, s**2, rtol=1e-10)
        U = np.asarray(_singular(jnp.asarray(X), k, 2))
        np.testing.assert_allclose(np.linalg.norm(U.conj().T @ unfolded, axis=1), s[:2], rtol=1e-10)
        assert _singular(jnp.asarray(X), k, 60).shape == (X.shape[k], len(s))
    solution = cp_als(np.asarray(X).real, 6, init="svd", certify="full", key=KEY)
    assert solution.certificates["least_error"].holds
    assert float(solution.stats["error"]) < 1e-5


def test_swamps_dead_starts_and_surplus_terms_are_survived():
    rng = np.random.default_rng(0)
    base = [rng.standard_normal((n, 1)) for n in SHAPE]
    close = [b + 1e-3 * rng.standard_normal((b.shape[0], RANK)) for b in base]  # collinear: cosines 1 − 1e-6
    cases = {
        "collinear": np.einsum("ir,jr,kr->ijk", *close),
        "rank one": np.einsum("ir,jr,kr->ijk", *base),
        "zero": np.zeros(SHAPE),
        "one entry": np.eye(1, 336).reshape(SHAPE),
    }
    same = of([np.ones((n, RANK)) for n in SHAPE])
    dead = of([np.zeros((n, RANK)) for n in SHAPE])
    for X in cases.values():
        for init in ("auto", same, dead):
            solution = cp_als(X, RANK, init=init, key=KEY)
            assert np.all(np.isfinite(solution.value.to_dense()))
            assert solution.certificates["error"].holds
            assert solution.certificates["monotone"].holds
            if not isinstance(init, CP):
                assert float(solution.stats["error"]) < 1e-5


def test_a_tensor_without_a_best_approximation_needs_a_ridge():
    a, b, c = np.eye(6)[:3]
    X = sum(np.einsum("i,j,k->ijk", *t) for t in ((a, a, b), (a, b, a), (b, a, a), (c, c, c)))
    X = np.pad(X, [(0, n - 6) for n in SHAPE])  # border rank 3, rank 4
    start = of([draw(n, RANK, seed=n) for n in SHAPE])
    free = cp_als(X, RANK, key=KEY, max_steps=400, tol=1e-9, init=start)
    ridged = cp_als(X, RANK, key=KEY, max_steps=400, tol=1e-9, init=start, ridge=1e-3)
    assert np.linalg.norm(free.value.weights) > 5 * np.linalg.norm(X)  # terms grow and cancel
    assert np.linalg.norm(ridged.value.weights) < np.linalg.norm(free.value.weights) / 2
    assert free.certificates["monotone"].holds


def test_a_large_tensor_starts_from_its_compression():
    factors = [draw(n, 2, seed=n) for n in (50, 51, 52)]
    X = np.einsum("ir,jr,kr->ijk", *factors)
    X = X + 0.1 * draw(*X.shape, seed=1)
    solution = cp_als(X, 2, key=KEY)
    assert "compressed" in str(solution.stats["method"])
    assert solution.holds
    assert solution.steps <= 5
    assert factor_match_score(factors, solution.value).score > 0.98


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_samples_of_the_fibres_will_do(kind):
    factors = [draw(n, 2, seed=n, dtype=kind) for n in (30, 31, 32)]
    X = np.einsum("ir,jr,kr->ijk", *factors)
    noisy = X + kind(0.1) * draw(*X.shape, seed=1, dtype=kind)
    optimum = float(np.linalg.norm(noisy - X) / np.linalg.norm(noisy))
    for scale in (1, 2.0**40, 2.0**-40):
        solution = cp_sampled(noisy * kind(scale), 2, key=KEY)
        assert solution.converged
        assert solution.holds
        assert solution.value.weights.dtype == kind
        assert float(solution.stats["error"]) < 1.05 * optimum
        assert factor_match_score(factors, solution.value).score > 0.99
        assert float(solution.stats["error"]) == pytest.approx(relative(solution.value, noisy * kind(scale)), rel=1e-3)
    # Stops at six sweeps without a fall by `tol` since the last such fall, however slowly the error falls.
    tol, watched = (
        0.7,
        [float(cp_sampled(noisy, 2, tol=0.0, max_steps=k, key=KEY).stats["watched"]) for k in range(1, 13)],
    )
    mark, since, steps = np.inf, 0, 0
    while since < 6:
        fell = watched[steps] < (1 - tol) * mark
        mark, since, steps = (watched[steps], 0, steps + 1) if fell else (mark, since + 1, steps + 1)
    assert int(cp_sampled(noisy, 2, tol=tol, key=KEY).steps) == steps > 7
    overflow = cp_sampled(X, 2, init=of([np.full((n, 2), np.finfo(kind).max / 2, kind) for n in X.shape]), key=KEY)
    assert int(overflow.status) == Status.NON_FINITE
    assert not overflow.holds
    again = cp_sampled(noisy, 2, init=solution.value, max_steps=1, key=KEY)
    assert int(again.status) == Status.MAX_STEPS
    for change, says in (({"samples": 0}, "samples"), ({"init": "svd"}, "init"), ({"rank": 10**6}, "rank")):
        with pytest.raises(InputError, match=says):
            cp_sampled(**{"tensor": X, "rank": 2, "key": KEY, **change})


def test_jit_and_vmap_are_the_plain_call(x64):
    X = jnp.asarray(np.stack([planted(s)[0] for s in range(2)]))
    together = jax.jit(jax.vmap(lambda x: cp_als(x, RANK, key=KEY, tol=1e-9)))(X)
    for i in range(2):
        alone = cp_als(np.asarray(X[i]), RANK, key=KEY, tol=1e-9)
        np.testing.assert_allclose(together.value.weights[i], alone.value.weights, rtol=1e-9)
        assert together.converged[i]


def test_other_values_compile_nothing_new(caplog):
    X = planted()[0]
    run = {"rank": RANK, "key": KEY}
    cp_als(X, tol=1e-3, ridge=0.1, max_steps=5, **run)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        cp_als(2 * X + 1, tol=1e-4, ridge=0.0, max_steps=7, accelerate=False, **run)
        assert not [message for message in caplog.messages if message.startswith("Compiling")]
        caplog.clear()
        cp_als(X[:, :, :7], tol=1e-3, ridge=0.1, max_steps=5, **run)
        assert [message for message in caplog.messages if message.startswith("Compiling")]  # another shape is counted


def test_a_mode_of_length_one_and_integers():
    X = planted()[0][:, :, :1]
    for data in (X, np.arange(42).reshape(6, 7, 1)):
        solution = cp_als(data, 6, key=KEY)
        assert solution.value.weights.dtype == np.float64
        assert float(solution.stats["error"]) < 1e-6
    assert not solution.certificates["kruskal"].holds  # a matrix in disguise can be rotated


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rank": 0}, "rank: found 0, expected an integer >= 1"),
        ({"rank": 43}, "rank: found 43, expected at most 42"),
        ({"tensor": np.ones(3)}, "tensor: found an array of shape"),
        ({"tensor": np.full(SHAPE, np.inf)}, "tensor: found infinity"),
        ({"tensor": np.where(np.arange(6)[:, None, None] == 2, np.nan, np.ones(SHAPE))}, "slice 2 of mode 0"),
        ({"mask": np.ones((2, 2), bool)}, "mask: found"),
        ({"mask": np.ones(SHAPE)}, "mask: found float64"),
        ({"tensor": np.ones(SHAPE) * 1j, "nonnegative": True}, "expected real numbers where nonnegative"),
        ({"init": "hosvd"}, "init: found 'hosvd'"),
        ({"init": of([np.ones((2, 2))] * 3)}, "init: found a CP of shapes"),
        ({"starts": 0}, "starts: found 0"),
        ({"ridge": -1.0}, "ridge: found -1.0"),
        ({"ridge": np.inf}, "ridge: found inf"),
        ({"tol": -1.0}, "tol: found -1.0"),
        ({"max_steps": 0}, "max_steps: found 0"),
        ({"certify": "much"}, "certify: found 'much'"),
        ({"tensor": (np.array([[0, 9]]), np.ones(1), (3, 3))}, "indices: found entries outside"),
        ({"tensor": (np.array([[0.0, 1.0]]), np.ones(1), (3, 3))}, "indices: found float64"),
        ({"tensor": (np.array([[0, 1]]), np.ones(1), (3.0, 3))}, "shape: found"),
        ({"tensor": (np.array([[0, 1]]), np.ones(1), (2**31, 3))}, "shape: found"),
        ({"tensor": (np.array([[0, 1]]), np.ones(1), (3, 3)), "mask": np.ones((3, 3), bool)}, "mask: found one"),
        ({"tensor": (np.array([[0, 1]]), np.ones(1), (3, 3)), "init": "svd"}, "init: found 'svd' for sparse"),
    ],
)
def test_refusals(change, says):
    with pytest.raises(InputError, match=says):
        cp_als(**{"tensor": np.ones(SHAPE), "rank": 2, "key": KEY, **change})


@pytest.mark.parametrize("method", [cp_als, cp_sampled])
@pytest.mark.parametrize(
    ("init", "says"),
    [
        (of([np.full((n, 2), np.nan) for n in SHAPE]), r"init: factors\[0\]: found NaN"),
        (CP(np.array([1.0, np.inf]), of([np.ones((n, 2)) for n in SHAPE]).factors), "init: weights: found NaN"),
        (CP(np.ones(2), tuple(np.ones((n, 3)) for n in SHAPE)), "init: found a CP of shapes"),
        (CP(np.ones(3), tuple(np.ones((n, 2)) for n in SHAPE)), "init: found a CP of shapes"),
        (CP(np.ones(2), tuple(np.ones((n, 2)) for n in SHAPE[:2])), "init: found a CP of shapes"),
        (CP(1j * np.ones(2), tuple(np.ones((n, 2)) for n in SHAPE)), "init: found complex"),
        (CP(np.ones(2), tuple(np.ones(n) for n in SHAPE)), "init: found a CP of shapes"),
        (3, "init: found 3"),
    ],
)
def test_starts_that_do_not_fit(method, init, says):
    with pytest.raises(InputError, match=says):
        method(np.ones(SHAPE), 2, init=init, key=KEY)
