"""Missing entries: NaN and mask say the same, and what nothing speaks of is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core import InputError, missing

X = np.array([[1.0, np.nan, 2.0], [3.0, 4.0, np.nan]])


def test_nan_and_mask_say_the_same(dtype):
    data = X.astype(dtype)
    filled, seen = missing.observed("X", data)
    by_mask = missing.observed("X", np.nan_to_num(data), ~np.isnan(data))
    np.testing.assert_array_equal(filled, by_mask[0])
    np.testing.assert_array_equal(seen, by_mask[1])
    assert filled.dtype == dtype
    both = missing.observed("X", data, np.array([[True, True, True], [False, True, True]]))
    np.testing.assert_array_equal(both[1], [[True, False, True], [False, True, False]])
    assert np.isnan(data).sum() == 2  # the caller's array stays as it was


def test_complete_data_need_no_mask():
    assert missing.observed("X", np.ones((2, 2)))[1] is None
    assert missing.observed("X", np.ones((2, 2)), np.ones((2, 2), bool))[1] is None


def test_traced(x64):
    filled, seen = jax.jit(lambda a, m: missing.observed("X", a, m))(jnp.asarray(X), jnp.asarray(~np.isnan(X)))
    np.testing.assert_array_equal(filled, np.nan_to_num(X))
    np.testing.assert_array_equal(seen, ~np.isnan(X))


@pytest.mark.parametrize(
    ("data", "mask", "says"),
    [
        (np.array([1.0, np.inf]), None, "X: found infinity"),
        (X, np.ones((3, 2), bool), r"mask: found bool of shape \(3, 2\)"),
        (X, np.ones((2, 3)), "mask: found float64"),
        (np.array([[1.0, np.nan], [2.0, np.nan]]), None, "slice 1 of mode 1"),
        (np.array([["a"]]), None, "X: found dtype"),
        (np.zeros((0, 2)), None, "X: found an empty array"),
    ],
)
def test_refusals(data, mask, says):
    with pytest.raises(InputError, match=says):
        missing.observed("X", data, mask)
