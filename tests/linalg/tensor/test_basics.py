"""Unfoldings, mode products and Khatri-Rao products: their algebra, TensorLy, and what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorly
import tensorly.tenalg

from corollary.core import InputError
from corollary.linalg import tensor

SHAPE = (3, 4, 5)


def draw(*shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


@pytest.mark.covers("mode-product")
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_unfold_and_fold_are_inverse_and_tensorlys(dtype):
    T = draw(*SHAPE, dtype=dtype)
    for mode in range(3):
        M = tensor.unfold(T, mode)
        np.testing.assert_array_equal(M, tensorly.unfold(T, mode))
        np.testing.assert_array_equal(tensor.fold(M, mode, SHAPE), T)
        np.testing.assert_array_equal(tensor.fold(M, mode, tuple(np.array(SHAPE))), T)
        assert M.dtype == dtype
        assert np.linalg.norm(M) == pytest.approx(np.linalg.norm(T), rel=float(8 * np.finfo(dtype).eps))


@pytest.mark.covers("mode-product")
def test_mode_products(dtype):
    T, eps = draw(*SHAPE, dtype=dtype), float(64 * np.finfo(dtype).eps)
    U = [draw(2, n, dtype=dtype, seed=n) for n in SHAPE]
    for mode in range(3):
        product = tensor.mode_product(T, U[mode], mode)
        np.testing.assert_allclose(tensor.unfold(product, mode), U[mode] @ tensor.unfold(T, mode), atol=eps)
        np.testing.assert_allclose(product, tensorly.tenalg.mode_dot(T, U[mode], mode), atol=eps)
        vector = tensor.mode_product(T, U[mode][0], mode)
        np.testing.assert_allclose(vector, np.take(product, 0, axis=mode), atol=eps)
        Q = np.linalg.qr(draw(SHAPE[mode], SHAPE[mode], seed=9))[0].astype(dtype)
        turned = tensor.mode_product(T, Q, mode)
        assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(T), rel=eps)
        again = tensor.mode_product(tensor.mode_product(T, U[mode], mode), draw(3, 2, dtype=dtype), mode)
        both = tensor.mode_product(T, draw(3, 2, dtype=dtype) @ U[mode], mode)
        np.testing.assert_allclose(again, both, atol=eps)
    for a, b in itertools.combinations(range(3), 2):
        one = tensor.mode_product(tensor.mode_product(T, U[a], a), U[b], b)
        other = tensor.mode_product(tensor.mode_product(T, U[b], b), U[a], a)
        np.testing.assert_allclose(one, other, atol=eps)


@pytest.mark.covers("khatri-rao")
def test_khatri_rao_and_reconstruction(dtype):
    eps = 64 * np.finfo(dtype).eps
    factors = [draw(n, 2, dtype=dtype, seed=n) for n in SHAPE]
    weights = np.array([2.0, -0.5], dtype)
    full = tensor.CP(weights, tuple(factors)).to_dense()
    np.testing.assert_allclose(full, np.einsum("r,ar,br,cr->abc", weights, *factors), atol=eps)
    np.testing.assert_allclose(full, tensorly.cp_to_tensor((weights, factors)), atol=eps)
    product = tensor.khatri_rao(factors)
    np.testing.assert_allclose(product, tensorly.tenalg.khatri_rao(factors), atol=eps)
    for mode in range(3):
        others = tensor.khatri_rao([f for k, f in enumerate(factors) if k != mode])
        np.testing.assert_allclose(tensor.unfold(full, mode), factors[mode] * weights @ others.T, atol=eps)
    held = tensor.CP.of(factors, weights)
    assert all(isinstance(a, np.ndarray) and a.dtype == dtype for a in jax.tree.leaves(held))
    assert isinstance(tensor.CP.of([jnp.asarray(f) for f in factors]).weights, jax.Array)
    single = tensor.outer([f[:, 0] for f in factors])
    for mode in range(3):
        s = np.linalg.svd(tensor.unfold(single, mode), compute_uv=False)
        assert s[1] <= eps * s[0]


def formats(dtype):
    f = lambda *shape: draw(*shape, dtype=dtype, seed=sum(shape))  # noqa: E731
    return {
        "cp": tensor.CP(f(2), tuple(f(n, 2) for n in SHAPE)),
        "tucker": tensor.Tucker(f(2, 3, 2), (f(3, 2), f(4, 3), f(5, 2))),
        "train": tensor.TensorTrain((f(1, 3, 2), f(2, 4, 3), f(3, 5, 1))),
        "ring": tensor.TensorRing((f(2, 3, 3), f(3, 4, 2), f(2, 5, 2))),
    }


INDICES = np.array([[0, 1, 2], [2, 3, 4], [1, 0, 0]])


@pytest.mark.parametrize("name", ["cp", "tucker", "train", "ring"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_every_format_knows_its_tensor(name, dtype):
    t, eps = formats(dtype)[name], float(200 * np.finfo(dtype).eps)
    full = t.to_dense()
    assert full.shape == t.shape == SHAPE
    assert t.size == sum(a.size for a in jax.tree.leaves(t))
    if hasattr(t, "entries"):
        np.testing.assert_allclose(t.entries(INDICES), full[tuple(INDICES.T)], atol=eps)
    if hasattr(t, "inner"):
        norm = np.linalg.norm(full)
        assert float(t.norm()) == pytest.approx(norm, rel=eps)
        np.testing.assert_allclose(t.inner(t), norm**2, rtol=eps)
        other = jax.tree.map(lambda a: a[::-1].copy() if a.shape[0] > 1 else a, t)
        assert abs(t.inner(other) - np.vdot(full, other.to_dense())) <= eps * norm**2


def test_formats_cross_jit(x64):
    for t in formats(np.float64).values():
        held = jax.tree.map(jnp.asarray, t)
        np.testing.assert_allclose(jax.jit(lambda s: s.to_dense())(held), t.to_dense(), rtol=1e-13, atol=1e-13)


def test_a_train_whose_cores_cancel_has_the_right_norm():
    a = formats(np.float64)["train"]
    doubled = tensor.TensorTrain(
        (
            np.concatenate([a.cores[0], -a.cores[0] * (1 + 1e-9)], axis=2),
            np.einsum("rns,ij->irnjs", a.cores[1], np.eye(2)).reshape(4, 4, 6),
            np.concatenate([a.cores[2], a.cores[2]], axis=0),
        )
    )
    assert float(doubled.norm()) == pytest.approx(1e-9 * float(a.norm()), rel=1e-5)


def test_normalised_cp_is_the_same_tensor(dtype):
    t = formats(dtype)["cp"]
    unit = t.normalised()
    np.testing.assert_allclose(unit.to_dense(), t.to_dense(), atol=200 * np.finfo(dtype).eps)
    assert np.all(unit.weights >= 0)
    assert np.all(np.diff(unit.weights) <= 0)
    for factor in unit.factors:
        np.testing.assert_allclose(np.linalg.norm(factor, axis=0), 1, rtol=16 * np.finfo(dtype).eps)
    zero = tensor.CP(np.zeros(2), tuple(np.zeros((n, 2)) for n in SHAPE)).normalised()
    assert np.all(np.isfinite(zero.to_dense()))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: tensor.unfold(np.ones((2, 2)), 2), "mode: found 2, expected at most 1"),
        (lambda: tensor.unfold(np.ones((2, 2)), -1), "mode: found -1"),
        (lambda: tensor.unfold(np.array([[np.nan]]), 0), "tensor: found NaN"),
        (lambda: tensor.fold(np.ones((2, 3)), 0, (2, 2)), "matrix: found shape"),
        (lambda: tensor.mode_product(np.ones((2, 3)), np.ones((2, 2)), 1), "matrix: found shape"),
        (lambda: tensor.khatri_rao([np.ones((2, 2)), np.ones((2, 3))]), "factors: found shapes"),
        (lambda: tensor.khatri_rao([]), "factors: found list"),
        (lambda: tensor.outer([np.ones((2, 2))]), "vectors: found shapes"),
        (lambda: tensor.CP.of([np.ones((2, 2))], np.ones(3)), "weights: found shape"),
    ],
)
def test_refusals(call, says):
    with pytest.raises(InputError, match=says):
        call()


@pytest.mark.covers("khatri-rao")
@pytest.mark.parametrize("xp", [np, jnp])
def test_normalised_terms_are_the_same_tensor(x64, xp):
    rng = np.random.default_rng(0)
    for imaginary in (0.0, 1j):
        parts = [rng.standard_normal(s) + imaginary * rng.standard_normal(s) for s in ((3,), (4, 3), (2, 3), (5, 3))]
        weights, *factors = (xp.asarray(p) for p in parts)
        form = tensor.CP(weights, tuple(factors))
        unit = form.normalised()
        np.testing.assert_allclose(unit.to_dense(), form.to_dense(), atol=1e-14)
        assert np.all(np.diff(unit.weights.real) <= 0)
        assert np.all(unit.weights.imag == 0)
        assert np.all(unit.weights.real > 0)
        for factor in unit.factors:
            np.testing.assert_allclose(np.linalg.norm(factor, axis=0), 1, rtol=1e-14)
