"""The Gram matrix against plain products, in every form of input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from corollary.core.errors import InputError
from corollary.linalg import gram
from corollary.linalg.dense._gram import BLOCK_ROWS

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_host_data_stay_on_the_host_and_keep_their_precision(kind, order):
    A, b = RNG.normal(size=(50, 7)).astype(kind, order=order), RNG.normal(size=50).astype(kind)
    w = RNG.uniform(size=50).astype(kind)
    tol = 50 * np.finfo(kind).eps
    G, c = gram(A, b, weights=w)
    assert type(G) is np.ndarray
    assert G.dtype == kind
    np.testing.assert_array_equal(G, G.T)
    np.testing.assert_allclose(G, (A.T * w) @ A, atol=tol * np.linalg.norm(A) ** 2)
    np.testing.assert_allclose(c, (A.T * w) @ b, atol=tol * np.linalg.norm(A) * np.linalg.norm(b))
    np.testing.assert_array_equal(gram(A), A.T @ A)


def test_jax_traced_and_sparse_agree_with_the_host(dtype):
    A, B = RNG.normal(size=(40, 5)).astype(dtype), RNG.normal(size=(40, 2)).astype(dtype)
    w = RNG.uniform(size=40).astype(dtype)
    G, C = gram(A, B, weights=w)
    tol = {"rtol": 0, "atol": 40 * float(np.finfo(dtype).eps) * np.linalg.norm(A) ** 2}
    for other in (
        gram(jnp.asarray(A), B, weights=w),
        jax.jit(lambda a, b, w: gram(a, b, weights=w))(A, B, w),
        gram(scipy.sparse.csr_array(A), B, weights=w),
    ):
        np.testing.assert_allclose(other[0], G, **tol)
        np.testing.assert_allclose(other[1], C, **tol)
    assert isinstance(gram(jnp.asarray(A)), jax.Array)
    g = jax.grad(lambda a: jnp.sum(gram(a)))(jnp.asarray(A))
    np.testing.assert_allclose(g, 2 * np.repeat(A.sum(1, keepdims=True), 5, 1), rtol=1e-4)


def test_float64_accumulation_beats_float32_sums():
    n = 3 * BLOCK_ROWS + 17
    A = (100 + RNG.normal(size=(n, 3))).astype(np.float32)
    exact = A.astype(np.float64).T @ A.astype(np.float64)
    wide = gram(A, accumulate="float64")
    assert wide.dtype == np.float64
    # Each block of m rows errs by at most about √m·eps relative; sums of blocks add nothing to that.
    assert np.abs(wide / exact - 1).max() < BLOCK_ROWS**0.5 * np.finfo(np.float32).eps


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((np.zeros((0, 3)),), {}, "A: found an empty"),
        ((np.array([[np.nan, 1.0]]),), {}, "A: found NaN"),
        ((np.ones(3),), {}, "expected a matrix"),
        ((np.ones((3, 2)), np.ones(4)), {}, "B: found 4 rows"),
        ((np.ones((3, 2)),), {"weights": -np.ones(3)}, "weights: found a negative"),
        ((np.ones((3, 2)),), {"accumulate": "float16"}, "accumulate: found"),
        ((np.ones((3, 2), complex),), {}, "expected real"),
        ((np.array([["a"]], object),), {}, "expected real"),
    ],
)
def test_refusals(args, kwargs, message):
    with pytest.raises(InputError, match=message):
        gram(*args, **kwargs)
