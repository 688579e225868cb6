"""The linearity check: matrices of linear maps, rejection of everything else, the adjoint test."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse

from corollary.core import Function, InputError, Sparse, check_linear
from corollary.core.precision import eps


@pytest.mark.covers("operator-check")
def test_matrix_and_weights(dtype):
    rng = np.random.default_rng(0)
    A = jnp.asarray(rng.standard_normal((4, 6)), dtype)
    found = check_linear(lambda x: A @ x, 6, adjoint=lambda y: A.T @ y, dtype=dtype)
    assert bool(found.holds), {k: c.explain() for k, c in found.certificates.items()}
    assert found.value.dtype == dtype
    np.testing.assert_allclose(found.value, A, rtol=4 * eps(dtype))
    operator = lx.FunctionLinearOperator(lambda x: A @ x, jax.ShapeDtypeStruct((6,), dtype))
    np.testing.assert_array_equal(found.value, lx.materialise(operator).as_matrix())
    _, pushed = jax.linearize(lambda x: A @ x, jnp.ones(6, dtype))
    np.testing.assert_array_equal(found.value, jax.vmap(pushed, 1, 1)(jnp.eye(6, dtype=dtype)))

    w = A[0]
    functional = check_linear(lambda x: x @ w, 6, adjoint=lambda s: s * w, dtype=dtype)
    assert bool(functional.holds)
    np.testing.assert_allclose(functional.value, w, rtol=4 * eps(dtype))
    x = jnp.asarray(rng.standard_normal((50, 6)), dtype)
    np.testing.assert_allclose(x @ functional.value, x @ w, rtol=100 * eps(dtype), atol=100 * eps(dtype))


@pytest.mark.covers("operator-check")
def test_rotation_example():
    c, s = np.cos(0.7), np.sin(0.7)
    rotation = check_linear(lambda x: np.array([c * x[0] - s * x[1], s * x[0] + c * x[1]]), 2, traceable=False).value
    np.testing.assert_allclose(np.linalg.det(rotation), 1, rtol=1e-14)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(2), atol=1e-15)


@pytest.mark.covers("operator-check")
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + 1.0,
        lambda x: x + 1e-3,
        jnp.tanh,
        jnp.abs,
        jax.nn.relu,
        lambda x: x * jnp.linalg.norm(x),
        lambda x: x + 1e-3 * x**3,
        jnp.sort,
        jnp.round,
        jnp.max,
        lambda x: x[0] * x[1],
        lambda x: jnp.where(x > 100, 1.01 * x, x),
    ],
)
def test_what_is_not_linear_is_rejected(function, dtype):
    found = check_linear(function, 5, dtype=dtype)
    assert not bool(found.certificates["linearity"].holds)
    assert not bool(found.holds)


@pytest.mark.covers("operator-check")
@pytest.mark.parametrize("dtype", ["float32"], indirect=True)
def test_adjoint_defects(dtype):
    A = jnp.asarray(np.random.default_rng(0).standard_normal((5, 7)), dtype)
    wrong = A.T.at[2, 3].mul(1.01)
    found = check_linear(lambda x: A @ x, 7, adjoint=lambda y: wrong @ y, dtype=dtype)
    assert bool(found.certificates["linearity"].holds)
    assert not bool(found.certificates["adjoint"].holds)
    for operator in (
        Sparse(scipy.sparse.csr_array(np.asarray(A))),
        lx.MatrixLinearOperator(A),
        Function(jnp.cumsum, 7, dtype=dtype),
        Function(lambda x: jnp.zeros(3, dtype) * x[0], 7, dtype=dtype),
    ):
        assert bool(check_linear(operator).holds)
    assert not bool(check_linear(Function(jnp.cumsum, 7, jnp.cumsum, dtype=dtype)).holds)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scale_free(scale, dtype):
    rng = np.random.default_rng(0)
    A = jnp.asarray(rng.standard_normal((5, 5)) * scale, dtype)
    assert bool(check_linear(lambda x: A @ x, 5, dtype=dtype).holds)
    assert not bool(check_linear(lambda x: A @ (x + 0.01), 5, dtype=dtype).holds)
    # Large cancelling terms: rounding is allowed for what the sums are made of, and differences stay linear.
    assert bool(check_linear(jnp.diff, 40, dtype=dtype).holds)


def test_nan_never_passes_and_refusals():
    assert not bool(check_linear(lambda x: x * np.nan, 3).holds)
    assert check_linear(lambda x: x, 3, matrix=False).value is None
    with pytest.raises(InputError, match="n: found None"):
        check_linear(lambda x: x)
    with pytest.raises(InputError, match="function: returned shape"):
        check_linear(lambda x: jnp.outer(x, x), 3)
    with pytest.raises(InputError, match="adjoint: returned shape"):
        check_linear(lambda x: x, 3, adjoint=lambda y: y[:2])
    with pytest.raises(InputError, match="n_probes: found 0"):
        check_linear(lambda x: x, 3, n_probes=0)
