from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core import InputError
from corollary.core import validation as v


@pytest.mark.parametrize("good", [0, 0.5, np.float32(1.0), np.int64(1)])
def test_numbers_in_range_pass_unchanged(good):
    assert v.number(0, 1)("alpha", good) is good


@pytest.mark.parametrize("bad", [-1e-9, 1.1, float("nan"), "1", None, True, 1j, np.ones(1)])
def test_other_numbers_are_refused_by_name(bad):
    with pytest.raises(InputError, match=r"^alpha: found .*, expected a number in \[0, 1\]$"):
        v.number(0, 1)("alpha", bad)


def test_an_open_end_and_none():
    with pytest.raises(InputError, match=r"\(0, inf\] or None"):
        v.number(0, open_low=True, none=True)("tol", 0)
    assert v.number(0, none=True)("tol", None) is None


@pytest.mark.parametrize("bad", [0, 1.0, "3", True, None])
def test_integers(bad):
    assert v.integer()("rank", 3) == 3
    with pytest.raises(InputError, match=r"rank: found .* expected an integer >= 1"):
        v.integer()("rank", bad)


def test_options_flags_and_alternatives():
    assert v.one_of("auto", None)("solver", None) is None
    with pytest.raises(InputError, match="solver: found 'qq', expected one of 'auto', None"):
        v.one_of("auto", None)("solver", "qq")
    with pytest.raises(InputError, match="expected True or False"):
        v.flag("verbose", 1)
    check = v.either(v.integer(), v.one_of("mle"))
    assert check("k", "mle") == "mle"
    with pytest.raises(InputError, match=r"k: found 0.5, expected an integer >= 1 or one of 'mle'"):
        check("k", 0.5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([[1.0, np.nan]], "A: found NaN or infinity, expected finite numbers"),
        ([[1.0, np.inf]], "A: found NaN or infinity"),
        ([1.0], r"A: found an array of shape \(1,\), expected a matrix"),
        (np.zeros((0, 3)), "A: found an empty array"),
        ([["a"]], "A: found dtype <U1, expected real numbers"),
        (np.array([[None]]), "A: found dtype object"),
        ([[1j]], "A: found dtype complex128"),
        ([[1.0], [1.0, 2.0]], "A: found a ragged sequence"),
    ],
)
def test_bad_matrices_are_refused(bad, message):
    with pytest.raises(InputError, match=message):
        v.matrix("A", bad)


def test_finite_extremes_are_not_mistaken_for_infinity(x64):
    assert v.matrix("A", np.full((2, 2), 1.7e308)).dtype == np.float64


def test_integers_and_booleans_become_float():
    assert v.vector("b", np.array([1, 2])).dtype == jnp.float32
    with jax.enable_x64(True):
        assert v.vector("b", np.array([True, False])).dtype == jnp.float64


def test_tracers_are_checked_for_shape_only():
    assert jax.jit(lambda x: v.vector("b", x))(jnp.array([jnp.nan])).shape == (1,)
    with pytest.raises(InputError, match="expected a vector"):
        jax.jit(lambda x: v.vector("b", x))(jnp.ones((1, 1)))


def test_lengths():
    with pytest.raises(InputError, match="y: found 2 rows, expected 3 as in X"):
        v.same_length("X", np.ones((3, 1)), "y", np.ones(2))
