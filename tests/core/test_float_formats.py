from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from corollary.core import FORMATS, InputError, round_to, stochastic_round

HARDWARE = {
    "fp64": np.float64,
    "fp32": np.float32,
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}


@pytest.mark.covers("float-formats")
@pytest.mark.parametrize("name", HARDWARE)
def test_the_constants_are_those_of_the_hardware_types(name):
    info, form = jnp.finfo(HARDWARE[name]), FORMATS[name]
    assert form.eps == float(info.eps)
    assert form.max == float(info.max)
    assert form.smallest_normal == float(info.smallest_normal)
    assert form.smallest_subnormal == float(info.smallest_subnormal)


@pytest.mark.covers("float-formats")
def test_the_numbers_that_textbooks_get_wrong():
    assert FORMATS["e4m3"].max == 448
    assert FORMATS["e5m2"].max == 57344
    assert FORMATS["fp16"].digits == pytest.approx(3.31, abs=0.01)
    assert FORMATS["bf16"].digits == pytest.approx(2.41, abs=0.01)
    assert FORMATS["tf32"].eps == FORMATS["fp16"].eps
    assert FORMATS["tf32"].smallest_normal == FORMATS["fp32"].smallest_normal


def values(dtype) -> np.ndarray:
    rng = np.random.default_rng(0)
    low = -36 if dtype == np.float32 else -46
    wide = rng.standard_normal(4000) * 10.0 ** rng.integers(low, 38, 4000)
    ties = np.arange(0, 512) / 256 * 2.0 ** rng.integers(-8, 8, 512)
    ends = [0, -0.0, np.inf, -np.inf, np.nan, 448, 464, 465, -480, 57344, 61440, 65504, 65519, 65520, 3.4e38]
    return np.concatenate([wide, ties, ends]).astype(dtype)


@pytest.mark.covers("float-formats")
@pytest.mark.parametrize("name", ["bf16", "fp16", "e4m3", "e5m2"])
def test_rounding_is_bit_for_bit_the_cast_of_ml_dtypes(name, dtype):
    x = values(dtype)
    with np.errstate(all="ignore"):
        cast = x.astype(HARDWARE[name]).astype(x.dtype)
    rounded = np.asarray(round_to(jnp.asarray(x), name))
    assert np.array_equal(rounded, cast, equal_nan=True)
    assert np.array_equal(np.signbit(rounded), np.signbit(cast)) or np.isnan(cast).any()


@pytest.mark.covers("float-formats")
def test_tf32_keeps_ten_bits(x64):
    x = values(np.float64)
    x = x[np.isfinite(x) & (np.abs(x) < 3e38) & (np.abs(x) > 1e-37)]
    error = np.abs(round_to(x, "tf32") - x) / np.abs(x)
    assert error.max() <= FORMATS["tf32"].eps / 2
    assert error.max() > FORMATS["tf32"].eps / 4


def test_a_wider_format_changes_nothing():
    x = np.array([0.1], np.float32)
    assert round_to(x, "fp32").tobytes() == x.tobytes()
    with pytest.raises(InputError, match="name: found 'fp12', expected one of fp64"):
        round_to(x, "fp12")


@pytest.mark.covers("stochastic-rounding")
@pytest.mark.parametrize("name", ["bf16", "fp16", "e4m3", "e5m2", "tf32"])
def test_stochastic_rounding_is_unbiased_with_the_two_point_variance(name, dtype):
    draws = 20_000
    x = jnp.asarray([0.3, -1.7, 5.123, 1e-3, 0.0171], dtype)
    y = np.asarray(stochastic_round(jnp.broadcast_to(x, (draws, 5)), name, jax.random.key(1)), np.float64)
    low, high, exact = y.min(axis=0), y.max(axis=0), np.asarray(x, np.float64)
    variance = (exact - low) * (high - exact)
    assert np.all((low <= exact) & (exact <= high))
    assert np.all(np.abs(y.mean(axis=0) - exact) <= 5 * np.sqrt(variance / draws))
    # A two-point variable's sample variance has variance (m4 − s⁴)/n with m4 ≤ s²·gap².
    assert np.all(np.abs(y.var(axis=0) - variance) <= 5 * (high - low) * np.sqrt(variance / draws))
    assert np.array_equal(round_to(low, name), low)
    assert np.array_equal(round_to(high, name), high)


@pytest.mark.covers("stochastic-rounding")
def test_numbers_of_the_format_stay_and_the_same_key_gives_the_same_bits():
    x = np.asarray(values(np.float32))
    x = np.asarray(round_to(x[np.isfinite(x)], "fp16"))
    x = x[np.isfinite(x)]
    assert np.array_equal(stochastic_round(x, "fp16", jax.random.key(7)), x)
    z = np.linspace(0, 1, 100, dtype=np.float32)
    first, second = (np.asarray(stochastic_round(z, "e4m3", jax.random.key(7))) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_stochastic_rounding_saturates():
    assert stochastic_round(np.array([1e6, -1e6]), "e4m3", jax.random.key(0)).tolist() == [448.0, -448.0]
