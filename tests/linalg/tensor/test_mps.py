"""Matrix product states: canonical forms, norms and expectations against the dense state; entropies; operators."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core import InputError
from corollary.linalg.tensor import (
    TensorTrain,
    TensorTrainMatrix,
    canonical_form,
    energy_variance,
    entanglement_entropy,
    expectation,
    heisenberg_mpo,
    ising_mpo,
    matrix_product_state,
    mpo_of_terms,
)
from corollary.linalg.tensor._mpo import IY, X, Z

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
Y = -1j * IY


def draw(shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def draw_cores(dims, rank, dtype=np.float64, seed=0):
    ranks = [1, *([rank] * (len(dims) - 1)), 1]
    return [draw((a, d, b), dtype, seed + k) for k, (a, d, b) in enumerate(zip(ranks, dims, ranks[1:], strict=False))]


def small(dtype, factor=200):
    return float(factor * np.finfo(dtype).eps)


def ghz(n):
    state = np.zeros(2**n)
    state[[0, -1]] = 1
    return state


def embedded(n, local):
    """The dense matrix of a product of local operators."""
    return functools.reduce(np.kron, [local.get(k, np.eye(2)) for k in range(n)])


@pytest.mark.covers("matrix-product-state")
@pytest.mark.parametrize("dtype", DTYPES)
def test_amplitudes_come_back_and_cores_are_isometric(dtype):
    psi = draw(2**7, dtype)
    for form, centre in (("left", 6), ("right", 0), (3, 3)):
        found = matrix_product_state(psi, form=form)
        assert {c.dtype for c in found.value.cores} == {np.dtype(dtype)}
        np.testing.assert_allclose(found.value.to_dense().ravel(), psi, atol=small(dtype))
        assert found.stats["norm"] == pytest.approx(np.linalg.norm(psi), rel=small(dtype))
        assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
        for k, core in enumerate(found.value.cores):
            Q = core.reshape(-1, core.shape[2]) if k < centre else core.reshape(core.shape[0], -1).conj().T
            if k != centre:
                np.testing.assert_allclose(Q.conj().T @ Q, np.eye(Q.shape[1]), atol=small(dtype))
    unequal = draw((2, 3, 1, 4), dtype)
    np.testing.assert_allclose(matrix_product_state(unequal).value.to_dense(), unequal, atol=small(dtype))


@pytest.mark.covers("matrix-product-state")
@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_bond_dimension_one_for_products_two_for_ghz(dtype, n):
    product = functools.reduce(np.kron, [draw(2, dtype, seed=k) for k in range(n)])
    assert set(matrix_product_state(product).value.rank) == {1}
    inner = matrix_product_state(ghz(n).astype(dtype)).value.rank[1:-1]
    assert set(inner) == ({2} if n > 1 else set())
    w_state = np.zeros(2**n, dtype)
    w_state[2 ** np.arange(n)] = 1
    assert set(matrix_product_state(w_state).value.rank[1:-1]) == ({2} if n > 1 else set())


@pytest.mark.covers("matrix-product-state")
def test_truncation_is_bounded_and_nearly_best():
    for seed in range(6):
        psi = np.exp(-0.7 * np.arange(2**8) / 16) * draw(2**8, seed=seed)
        for state in (psi, matrix_product_state(psi, form="right").value):
            found = matrix_product_state(state, rank=3)
            error = np.linalg.norm(found.value.to_dense().ravel() - psi)
            assert error == pytest.approx(found.certificates["truncation"].measured, rel=1e-9)
            assert bool(found.certificates["truncation"].holds)
            tails = [np.linalg.norm(np.linalg.svd(psi.reshape(2**k, -1), compute_uv=False)[3:]) for k in range(1, 8)]
            assert max(tails) * (1 - 1e-12) <= error <= np.linalg.norm(tails) * (1 + 1e-12)
            tight = matrix_product_state(state, tol=1e-2)
            assert np.linalg.norm(tight.value.to_dense().ravel() - psi) <= 1e-2 * np.linalg.norm(psi)
            assert bool(tight.holds)
    limited = matrix_product_state(draw(2**8), rank=2, tol=1e-3)
    assert not bool(limited.certificates["tolerance"].holds)  # the rank forbids it, and it says so
    assert bool(limited.certificates["truncation"].holds)


@pytest.mark.covers("matrix-product-state")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gauge_is_free_and_the_canonical_form_is_not(dtype):
    cores = draw_cores([2, 3, 2, 2, 3], 4, dtype)
    turned = list(cores)
    for k in range(4):
        G = draw((4, 4), dtype, seed=50 + k) + 4 * np.eye(4, dtype=dtype)
        turned[k] = np.tensordot(turned[k], G, axes=1)
        turned[k + 1] = np.tensordot(np.linalg.inv(G), turned[k + 1], axes=1)
    a, b = (canonical_form(c, 2) for c in (cores, turned))
    norm = a.stats["norm"]
    np.testing.assert_allclose(a.value.to_dense() / norm, b.value.to_dense() / norm, atol=small(dtype, 2000))
    assert bool(a.holds)
    assert bool(b.holds)
    values = [entanglement_entropy(c).value.schmidt_values for c in (cores, turned)]
    for s, t in zip(*values, strict=True):
        np.testing.assert_allclose(s, t, atol=small(dtype, 2000))
    assert norm == pytest.approx(np.linalg.norm(TensorTrain(tuple(cores)).to_dense()), rel=small(dtype))


@pytest.mark.covers("matrix-product-state")
@pytest.mark.parametrize("dtype", DTYPES)
def test_expectations_equal_the_dense_ones(dtype):
    n, psi = 6, draw(2**6, dtype, seed=4)
    state = matrix_product_state(psi, form=2).value
    square = np.vdot(psi, psi).real
    H = heisenberg_mpo(n, 1.0, 0.5, 0.7, 0.3)
    for local in ({2: Z}, {0: X, 5: Z}, {1: Y, 2: Y, 4: X}, {}):
        exact = np.vdot(psi, embedded(n, local) @ psi) / square
        assert complex(expectation(state, local)) == pytest.approx(complex(exact), abs=small(dtype))
    exact = np.vdot(psi, H.to_dense() @ psi) / square
    assert complex(expectation(state, H)) == pytest.approx(complex(exact), abs=small(dtype))
    cast = jax.tree.map(lambda x: x.astype(dtype), H)
    assert expectation(state, cast).dtype == np.dtype(dtype)


@pytest.mark.covers("matrix-product-state")
def test_long_chains_of_any_scale_neither_overflow_nor_lose_digits():
    cores = draw_cores([2] * 300, 4)
    plain = canonical_form(cores, "right")
    for scale in (1e-3, 1e3, 1e150):
        scaled = [c * (scale if k == 7 else 1.0) for k, c in enumerate(cores)]
        found = canonical_form(scaled, "right")
        assert found.stats["norm"] == pytest.approx(plain.stats["norm"] * scale, rel=1e-11)
        assert expectation(scaled, {150: Z}) == pytest.approx(expectation(cores, {150: Z}), abs=1e-11)
        assert bool(found.holds)
    entropies = [entanglement_entropy(c, 150).value.entropy for c in (cores, [c / 50 for c in cores])]
    assert entropies[0] == pytest.approx(entropies[1], abs=1e-11)


@pytest.mark.covers("matrix-product-state")
def test_cores_that_cancel():
    a = TensorTrain(tuple(draw_cores([2] * 6, 3)))
    nothing = a - a * (1 + 1e-10)  # known to eps of what cancels, no better
    found = canonical_form(nothing)
    assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
    assert float(found.certificates["same"].bound or 0) <= 1e-11 * float(a.norm())
    assert bool(matrix_product_state(nothing).certificates["truncation"].holds)
    # ⟨ψ|ψ⟩ of these cores by itself is 1e-18 of what cancels: below rounding
    small = a * (1 + 1e-9) - a
    for local in ({2: Z}, {0: X, 3: X}):
        assert float(expectation(small, local)) == pytest.approx(float(expectation(a, local)), abs=1e-5)


@pytest.mark.covers("matrix-product-state")
def test_jit_and_gradient(x64):
    cores = tuple(jnp.asarray(c) for c in draw_cores([2, 2, 2], 2))

    def energy(cores):
        return expectation(TensorTrain(cores), ising_mpo(3))

    direction = tuple(jnp.asarray(c) for c in draw_cores([2, 2, 2], 2, seed=9))
    H, step = ising_mpo(3).to_dense(), 1e-5

    def dense(t):
        psi = (
            TensorTrain(tuple(np.asarray(c + t * d) for c, d in zip(cores, direction, strict=True))).to_dense().ravel()
        )
        return psi @ H @ psi / (psi @ psi)

    value, slope = jax.jit(lambda c, d: jax.jvp(energy, (c,), (d,)))(cores, direction)
    assert float(value) == pytest.approx(dense(0.0), rel=1e-12)
    assert float(slope) == pytest.approx((dense(step) - dense(-step)) / (2 * step), rel=1e-7)
    states = jnp.asarray(draw((3, 16)))
    batch = jax.jit(jax.vmap(lambda psi: entanglement_entropy(psi, 2).value.entropy))(states)
    trains = jax.jit(jax.vmap(lambda psi: matrix_product_state(psi, rank=4).value))(states)
    for k in range(3):
        assert float(batch[k]) == pytest.approx(float(entanglement_entropy(states[k], 2).value.entropy), rel=1e-12)
        train = TensorTrain(tuple(c[k] for c in trains.cores))
        np.testing.assert_allclose(train.to_dense().ravel(), states[k], atol=1e-12)
    found = jax.jit(lambda c: canonical_form(TensorTrain(c), "right").value)(cores)
    np.testing.assert_allclose(found.to_dense(), TensorTrain(cores).to_dense(), atol=1e-12)


@pytest.mark.covers("entanglement-entropy")
@pytest.mark.parametrize("order", [0, 0.5, 1, 2, 40, math.inf])
def test_entropy_of_products_bell_and_ghz(dtype, order):
    tol = small(dtype)
    product = functools.reduce(np.kron, [draw(2, dtype, seed=k) for k in range(5)])
    for n in (2, 5):
        cat = ghz(n).astype(dtype) * 3
        for state in (cat, matrix_product_state(cat).value):
            found = entanglement_entropy(state, order=order)
            np.testing.assert_allclose(found.value.entropy, math.log(2), atol=tol)
            assert bool(found.holds)
            assert found.value.entropy.dtype == dtype
    for state in (product, matrix_product_state(product).value):
        for cut in (1, 2, 4):
            assert float(entanglement_entropy(state, cut, order=order).value.entropy) <= 10 * tol


@pytest.mark.covers("entanglement-entropy")
@pytest.mark.parametrize("dtype", DTYPES)
def test_entropy_is_symmetric_bounded_and_the_same_for_dense_and_train(dtype):
    dims = (2, 3, 2, 2, 2)
    for seed in range(5):
        psi = draw(dims, dtype, seed)
        state = matrix_product_state(psi, rank=3).value
        dense = state.to_dense()
        for cut in range(1, 5):
            left = entanglement_entropy(state, cut)
            other = entanglement_entropy(np.transpose(dense, (4, 3, 2, 1, 0)), 5 - cut)  # S(A) = S(complement)
            rho = dense.reshape(math.prod(dims[:cut]), -1)
            p = np.linalg.svd(rho / np.linalg.norm(rho), compute_uv=False) ** 2
            exact = -np.sum(p[p > 0] * np.log(p[p > 0]))
            assert float(left.value.entropy) == pytest.approx(float(exact), abs=small(dtype))
            assert float(other.value.entropy) == pytest.approx(float(exact), abs=small(dtype))
            assert float(left.value.entropy) <= math.log(state.rank[cut]) + small(dtype)
            assert bool(left.holds)
            s = left.value.schmidt_values
            assert np.all(np.diff(s) <= 0)
            assert float(np.sum(s * s)) == pytest.approx(1, abs=small(dtype))
    flat = np.eye(4, dtype=dtype).reshape(2, 2, 2, 2)  # maximally entangled: the bound is reached
    assert float(entanglement_entropy(flat, 2).value.entropy) == pytest.approx(math.log(4), abs=small(dtype))
    for scale in (1e-150, 1e150) if np.finfo(dtype).dtype == np.float64 else (1e-12, 1e12):
        scaled = matrix_product_state(psi * np.array(scale, dtype))
        assert bool(scaled.holds)
        assert float(entanglement_entropy(scaled.value, 2).value.entropy) == pytest.approx(
            float(entanglement_entropy(psi, 2).value.entropy), abs=small(dtype)
        )


@pytest.mark.covers("entanglement-entropy")
def test_renyi_entropies_fall_with_the_order():
    psi = draw(2**6)
    found = [float(entanglement_entropy(psi, 3, order=a).value.entropy) for a in (0, 0.5, 1, 2, 10, math.inf)]
    assert np.all(np.diff(found) <= 1e-12)
    assert found[0] == pytest.approx(math.log(8))
    for e in (-1e-12, 1e-12):
        assert float(entanglement_entropy(psi, 3, order=1 + e).value.entropy) == pytest.approx(found[2], abs=1e-11)
    values = [float(entanglement_entropy(psi, 3, order=a).value.entropy) for a in (0.9 - 1e-9, 0.9 + 1e-9)]
    assert values[0] == pytest.approx(values[1], abs=1e-8)  # two formulas meet there


@pytest.mark.covers("dmrg")
def test_operators_are_what_their_formulas_say():
    n, rng = 4, np.random.default_rng(0)
    J, h = rng.standard_normal(n - 1), rng.standard_normal(n)
    S = {"x": X / 2, "y": Y / 2, "z": Z / 2}
    ising = -sum(J[k] * embedded(n, {k: Z, k + 1: Z}) for k in range(n - 1))
    ising = ising - sum(h[k] * embedded(n, {k: X}) for k in range(n))
    np.testing.assert_allclose(ising_mpo(n, J, h).to_dense(), ising, atol=1e-14)
    assert ising_mpo(n, J, h).rank == (1, 3, 3, 3, 1)
    couplings = dict(zip("xyz", (0.3, -0.8, 1.1), strict=True))
    xyz = sum(couplings[a] * embedded(n, {k: S[a], k + 1: S[a]}) for a in "xyz" for k in range(n - 1))
    xyz = xyz - sum(h[k] * embedded(n, {k: Z / 2}) for k in range(n))
    found = heisenberg_mpo(n, *couplings.values(), h)
    np.testing.assert_allclose(found.to_dense(), xyz, atol=1e-14)
    assert found.rank == (1, 5, 5, 5, 1)
    assert {c.dtype for c in found.cores} == {np.dtype(np.float64)}
    np.testing.assert_allclose(ising_mpo(1, 1.0, 0.5).to_dense(), -0.5 * X, atol=0)
    terms = [(0.5, {0: X, 3: Y}), (2.0, {1: Z}), (-1.0, {0: Z, 3: Y}), (1j, {0: Y, 2: X, 3: Y}), (3, {})]
    exact = sum(c * embedded(n, local) for c, local in terms)
    np.testing.assert_allclose(mpo_of_terms(n, terms).to_dense(), exact, atol=1e-14)
    mixed = mpo_of_terms((2, 3), [(1.0, {0: X, 1: np.diag([1.0, 0.0, -1.0])})])
    np.testing.assert_allclose(mixed.to_dense(), np.kron(X, np.diag([1.0, 0.0, -1.0])), atol=0)


@pytest.mark.covers("dmrg")
def test_the_variance_keeps_its_digits(dtype):
    H = heisenberg_mpo(5)
    dense, small = H.to_dense(), float(np.finfo(dtype).eps)
    values, vectors = np.linalg.eigh(dense)
    H = jax.tree.map(lambda x: x.astype(dtype), H)
    for mix in (0.0, 1e-5, 0.1):
        psi = vectors[:, 0] + mix * vectors[:, 4]
        psi = (psi / np.linalg.norm(psi)).astype(dtype)
        found = energy_variance(matrix_product_state(3 * psi).value, H)
        wide = psi.astype(np.float64) / np.linalg.norm(psi.astype(np.float64))
        energy = wide @ dense @ wide
        exact = np.linalg.norm(dense @ wide - energy * wide)
        assert float(found.value[0]) == pytest.approx(energy, abs=200 * small)
        # ⟨H²⟩ − ⟨H⟩² would be lost below √eps
        assert float(np.sqrt(found.value[1])) == pytest.approx(exact, abs=200 * small)
        distance = np.min(np.abs(values - float(found.value[0])))
        assert distance <= found.stats["eigenvalue_error"]
        assert bool(found.holds) == (mix < 0.1)
        assert found.value[1].dtype == dtype


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: matrix_product_state(np.ones(3)), "state: found 3 amplitudes"),
        (lambda: matrix_product_state(np.ones(1)), "state: found 1 amplitudes"),
        (lambda: matrix_product_state(np.array([1.0, np.nan])), "state: found NaN"),
        (lambda: matrix_product_state(np.array(["a", "b"])), "state: found dtype"),
        (lambda: matrix_product_state(np.ones(4), rank=0), "rank: found 0"),
        (lambda: matrix_product_state(np.ones(4), tol=-1.0), "tol: found -1"),
        (lambda: matrix_product_state(np.ones(4), form="middle"), "form: found 'middle'"),
        (lambda: matrix_product_state(np.ones(4), form=2), "form: found 2"),
        (lambda: canonical_form([np.ones((1, 2, 2)), np.ones((3, 2, 1))]), "state: found shapes"),
        (lambda: canonical_form([np.ones((2, 2, 1))]), "state: found shapes"),
        (lambda: canonical_form(np.ones(4)), "state: found ndarray"),
        (lambda: canonical_form([np.full((1, 2, 1), np.inf)]), "NaN or infinity"),
        (lambda: expectation([np.ones((1, 2, 1))], {1: Z}), "operator: found site 1"),
        (lambda: expectation([np.ones((1, 2, 1))], {0: np.eye(3)}), "operator.0.: found shape"),
        (lambda: expectation([np.ones((1, 2, 1))], Z), "operator: found ndarray"),
        (lambda: expectation([np.ones((1, 2, 1))], ising_mpo(2)), "operator: found rows"),
        (lambda: expectation([np.zeros((1, 2, 1))], {0: Z}), "zero state"),
        (lambda: entanglement_entropy(np.ones(4), 0), "cut: found 0"),
        (lambda: entanglement_entropy(np.ones(4), 2), "cut: found 2"),
        (lambda: entanglement_entropy(np.zeros(4), 1), "zero state"),
        (lambda: entanglement_entropy(np.ones(2), 1), "found 1 site"),
        (lambda: entanglement_entropy(np.ones(4), 1, order=-1), "order: found -1"),
        (lambda: ising_mpo(0), "n: found 0"),
        (lambda: ising_mpo(3, [1.0]), "J: found shape"),
        (lambda: heisenberg_mpo(3, h=np.nan), "h: found NaN"),
        (lambda: ising_mpo(3, 1j), "J: found dtype complex128"),
        (lambda: ising_mpo(3, 1.0, "strong"), "h: found dtype <U6"),
        (lambda: energy_variance([np.ones((1, 2, 1))], ising_mpo(1), tol=-1.0), "tol: found -1"),
        (lambda: mpo_of_terms(2, []), "terms: found"),
        (lambda: mpo_of_terms(2, [(1.0, {2: Z})]), "terms.0.: found site 2"),
        (lambda: mpo_of_terms(2, [(1.0, {0: np.eye(3)})]), "terms.0..0.: found"),
        (lambda: mpo_of_terms(2, [(np.inf, {0: Z})]), "expected a finite number"),
        (lambda: energy_variance([np.ones((1, 2, 1))], TensorTrainMatrix((IY[None, :, :, None],))), "Hermitian"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(InputError, match=match):
        call()
