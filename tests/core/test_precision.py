from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core import precision
from corollary.core.precision import as_float, common_float, follows_input


@follows_input
def double(x):
    return 2.0 * as_float(x)


@pytest.mark.parametrize(
    ("given", "computed"),
    [("float64", "float64"), ("float32", "float32"), ("int64", "float64"), ("int32", "float64"), ("bool", "float64")],
)
def test_numpy_in_numpy_out_in_the_precision_that_came_in(given, computed):
    result = double(np.ones(3, dtype=given))
    assert isinstance(result, np.ndarray)
    assert result.dtype == computed
    assert not jax.config.jax_enable_x64


def test_lists_and_numbers_are_computed_in_float64():
    assert double([1, 2]).dtype == np.float64
    assert double(1.5).dtype == np.float64


def test_jax_in_jax_out_and_transformations_pass_through(dtype):
    x = jnp.ones(3, dtype)
    assert isinstance(double(x), jax.Array)
    assert double(x).dtype == dtype
    assert jax.jit(double)(x).dtype == dtype
    assert jax.vmap(double)(x).tolist() == [2.0, 2.0, 2.0]
    assert jax.grad(lambda v: jnp.sum(double(v)))(x).tolist() == [2.0, 2.0, 2.0]


def test_a_random_key_is_not_data():
    @follows_input
    def draw(x, key):
        return as_float(x) + jax.random.normal(key, (3,), as_float(x).dtype)

    assert draw(np.zeros(3), jax.random.key(0)).dtype == np.float64


def test_the_widest_float_wins_without_implicit_promotion(x64):
    a, b, c = common_float(np.ones(2, np.float32), np.ones(2), np.ones(2, np.int32))
    assert {a.dtype, b.dtype, c.dtype} == {np.dtype("float64")}


def test_machine_epsilon():
    assert precision.eps(np.float32) == np.finfo(np.float32).eps
    assert precision.eps(np.ones(1)) == np.finfo(np.float64).eps
