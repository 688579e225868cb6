from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core import InputError, compensated_sum, pairwise_sum


def hard_vector(seed: int, dtype, n: int = 3001) -> np.ndarray:
    """Terms over twelve decades that cancel almost wholly."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n) * 10.0 ** rng.integers(-6, 6, n)
    return np.concatenate([x, -x[5:], [rng.standard_normal()]]).astype(dtype)


@pytest.mark.covers("compensated-summation")
@pytest.mark.parametrize("compiled", [False, True])
def test_errors_stay_within_the_theorems_against_fsum(dtype, compiled):
    u = float(jnp.finfo(dtype).eps) / 2
    kahan = jax.jit(compensated_sum) if compiled else compensated_sum
    pairwise = jax.jit(pairwise_sum) if compiled else pairwise_sum
    for seed in range(20):
        x = hard_vector(seed, dtype)
        exact, size, n = math.fsum(x.astype(float)), math.fsum(np.abs(x.astype(float))), x.size
        a, b = kahan(jnp.asarray(x)), pairwise(jnp.asarray(x))
        assert abs(float(a.value) - exact) <= (2 * u + n * u**2) * size
        assert abs(float(b.value) - exact) <= math.ceil(math.log2(n)) * u / (1 - math.ceil(math.log2(n)) * u) * size
        # The stated bounds hold too; a few eps for the rounding of the bound and of the reference itself.
        assert abs(float(a.value) - exact) <= float(a.error_bound) * (1 + 8 * u)
        assert abs(float(b.value) - exact) <= float(b.error_bound) * (1 + 8 * u * n)


@pytest.mark.covers("compensated-summation")
def test_compilation_does_not_reassociate_the_compensation_away(dtype):
    # 1 + many terms below half an ulp: a plain float sum keeps 1 (or little more), twice the precision keeps them all.
    u = float(jnp.finfo(dtype).eps) / 2
    x = np.concatenate([[1.0], np.full(128 * 200, u / 4)]).astype(dtype)
    exact = 1 + 128 * 200 * u / 4
    assert abs(float(jax.jit(compensated_sum)(jnp.asarray(x)).value) - exact) <= 2 * u * exact


@pytest.mark.covers("compensated-summation")
def test_the_monitor_is_the_ratio_of_sums(x64):
    x = hard_vector(0, np.float64)
    expected = math.fsum(np.abs(x)) / abs(math.fsum(x))
    # The denominator is known to u·|Σx| + γ²Σ|x|, the numerator is a plain sum: n·u relative at most.
    relative = x.size * 2.3e-16 * (1 + x.size * 2.3e-16 * expected)
    assert float(compensated_sum(x).condition) == pytest.approx(expected, rel=relative)
    assert float(pairwise_sum(np.ones(7)).condition) == 1.0


@pytest.mark.parametrize("total", [compensated_sum, pairwise_sum])
def test_edges(total):
    assert float(total(np.zeros(0)).value) == 0.0
    assert float(total(np.zeros(3)).condition) == 1.0
    assert float(total(np.array([3])).value) == 3.0
    assert math.isinf(float(total(np.array([1.0, -1.0])).condition))
    assert total(np.ones(3, np.float32)).value.dtype == np.float32
    with pytest.raises(InputError, match="x: found an array of shape"):
        total(np.ones((2, 2)))
    with pytest.raises(InputError, match="x: found NaN"):
        total(np.array([np.nan]))
