"""TT-cross: accuracy at points it has not seen, few evaluations, exact ranks, honest failures, bad input."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core import InputError, Status
from corollary.linalg.tensor import tt_cross, tt_random, tt_rank_one

KEY = jax.random.key(0)
AXIS = np.linspace(0, 1, 16)


def smooth(x):
    return 1 / (1 + x.sum(axis=1))


def dense(function, axes):
    points = np.stack([g.ravel() for g in np.meshgrid(*axes, indexing="ij")], axis=1)
    return np.asarray(function(points)).reshape([len(a) for a in axes])


@pytest.mark.covers("tt-format")
@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-9])
def test_error_is_within_the_tolerance_on_the_whole_grid(tol):
    axes = [AXIS, AXIS[:9], AXIS, AXIS[:7]]
    T = dense(smooth, axes)
    for seed in range(4):
        solution = tt_cross(smooth, axes, tol=tol, key=jax.random.key(seed))
        error = np.linalg.norm(solution.value.to_dense() - T) / np.linalg.norm(T)
        certificate = solution.certificates["relative_error"]
        assert error <= 1.5 * tol
        assert abs(float(certificate.measured) - error) <= 6 * float(certificate.stderr or 0) + 1e-14
        assert bool(solution.holds)
        assert solution.status == Status.CONVERGED
        share = np.mean(np.abs(solution.value.to_dense() - T) > 10 * tol * float(solution.stats["scale"]))
        assert share <= float(solution.certificates["held_out"].measured)


@pytest.mark.covers("tt-format")
def test_ten_dimensions_with_few_evaluations():
    axis = np.linspace(0, 1, 32)
    called = []

    def counted(x):
        called.append(len(x))
        return smooth(x)

    solution = tt_cross(counted, [axis] * 10, tol=1e-8, key=KEY)
    assert solution.stats["evaluations"] == sum(called) <= 45_000  # of 32¹⁰ = 1.1e15
    assert float(solution.certificates["relative_error"].measured) <= 1e-8
    assert bool(solution.holds)
    # ∫ 1/(1 + Σ x) over the cube, as ∫_0^∞ e^{−t} ((1 − e^{−t})/t)^10 dt, by Gauss-Legendre points in the train
    nodes, weights = np.polynomial.legendre.leggauss(8)
    quadrature = tt_cross(smooth, [(nodes + 1) / 2] * 10, tol=1e-8, key=KEY).value
    integral = quadrature.inner(tt_rank_one([weights / 2] * 10))
    t, w = np.polynomial.laguerre.laggauss(60)
    assert float(integral) == pytest.approx(float(w @ (-np.expm1(-t) / t) ** 10), rel=1e-7)


@pytest.mark.covers("tt-format")
def test_a_train_of_low_rank_is_found_exactly():
    exact = tt_random((6, 7, 5, 6), 3, key=jax.random.key(3))
    full = exact.to_dense()
    solution = tt_cross(exact.entries, exact.shape, tol=1e-10, key=KEY)
    assert solution.value.rank == exact.rank
    np.testing.assert_allclose(solution.value.to_dense(), full, atol=1e-8 * np.abs(full).max())
    parity = tt_cross(lambda i: i.sum(axis=1) % 2, (4, 5, 6), tol=1e-10, key=KEY)
    assert parity.value.rank == (1, 2, 2, 1)
    constant = tt_cross(lambda i: np.full(len(i), 3.0), (4, 5, 6), key=KEY)
    assert constant.value.rank == (1, 1, 1, 1)
    zero = tt_cross(lambda i: np.zeros(len(i)), (4, 5, 6), key=KEY)
    assert not zero.value.to_dense().any()
    assert bool(zero.holds)


@pytest.mark.covers("tt-format")
def test_kinds_of_functions():
    axes = [AXIS] * 4
    jitted = jax.jit(lambda x: jnp.exp(-(x.sum(axis=1) ** 2)))
    solution = tt_cross(jitted, axes, tol=1e-4, key=KEY)
    assert solution.value.cores[0].dtype == np.float64  # no JAX array came in
    held = tt_cross(jitted, [jnp.asarray(a, jnp.float32) for a in axes], tol=1e-4, key=KEY)
    assert isinstance(held.value.cores[0], jax.Array)
    assert held.value.cores[0].dtype == jnp.float32
    assert bool(held.holds)
    complex_valued = tt_cross(lambda x: np.exp(2j * x.sum(axis=1) ** 2), axes, tol=1e-7, key=KEY)
    assert complex_valued.value.cores[0].dtype == np.complex128
    assert bool(complex_valued.holds)
    thin = tt_cross(smooth, [AXIS, AXIS[:1], AXIS, AXIS[:2]], tol=1e-9, key=KEY)
    assert thin.value.shape == (16, 1, 16, 2)
    np.testing.assert_allclose(thin.value.to_dense(), dense(smooth, [AXIS, AXIS[:1], AXIS, AXIS[:2]]), atol=1e-7)
    peak = lambda x: smooth(x) + np.exp(-40 * ((x - 0.7) ** 2).sum(axis=1))  # noqa: E731
    found = tt_cross(peak, axes, tol=1e-7, key=KEY)
    np.testing.assert_allclose(found.value.to_dense(), dense(peak, axes), atol=1e-5)


def test_points_that_were_too_kind_are_found_out():
    """|x − y| + z has full rank in x, y; what is missing near the end shows on a share 1/256 of the grid only."""
    kink = lambda x: np.abs(x[:, 0] - x[:, 1]) + x[:, 2]  # noqa: E731
    exact = dense(kink, [AXIS] * 3)
    converged = 0
    for seed in range(6):
        solution = tt_cross(kink, [AXIS] * 3, tol=1e-8, key=jax.random.key(seed))
        error = np.linalg.norm(solution.value.to_dense() - exact) / np.linalg.norm(exact)
        converged += bool(solution.converged)
        assert error <= 1e-8 or np.mean(np.abs(solution.value.to_dense() - exact) > 1e-6) <= 0.02
        assert float(solution.certificates["relative_error"].measured) > 1e-8 or bool(solution.converged)
    assert converged >= 4


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1e12, 1e200])
def test_scale_changes_only_the_scale(scale):
    one = tt_cross(smooth, [AXIS] * 4, tol=1e-7, key=KEY)
    other = tt_cross(lambda x: scale * smooth(x), [AXIS] * 4, tol=1e-7, key=KEY)
    assert other.value.rank == one.value.rank
    assert bool(other.holds)
    np.testing.assert_allclose(other.value.to_dense() / scale, one.value.to_dense(), atol=1e-6)
    assert other.stats["scale"] == pytest.approx(one.stats["scale"] * scale, rel=1e-12)
    assert 0 < other.stats["check_error"] <= 1e-7


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_single_precision_at_any_scale(scale):
    solution = tt_cross(lambda x: (scale * smooth(x)).astype(np.float32), [AXIS] * 4, tol=1e-4, key=KEY)
    full = solution.value.to_dense()
    assert full.dtype == np.float32
    T = dense(smooth, [AXIS] * 4)
    assert np.linalg.norm(full / scale - T) <= 1.5e-4 * np.linalg.norm(T)
    assert bool(solution.holds)
    assert solution.stats["check_error"] > 0
    poor = tt_cross(lambda x: (scale * smooth(x)).astype(np.float32), [AXIS] * 4, tol=1e-4, max_rank=1, key=KEY)
    assert poor.status == Status.MAX_STEPS


def test_falling_short_is_said():
    noise = np.random.default_rng(0).standard_normal((8, 8, 8, 8))
    solution = tt_cross(lambda i: noise[tuple(i.T)], noise.shape, tol=1e-3, max_rank=4, key=KEY)
    assert solution.status == Status.MAX_STEPS
    assert not bool(solution.holds)
    assert float(solution.certificates["relative_error"].measured) > 0.1
    assert max(solution.value.rank) <= 4
    ends = tt_cross(lambda i: noise[tuple(i.T)], (2, 8, 8, 2), tol=1e-3, max_rank=4, key=KEY)  # end ranks are 2
    assert max(ends.value.rank) <= 4
    assert ends.steps < 20  # as soon as no bond has room
    early = tt_cross(smooth, [AXIS] * 4, tol=1e-9, max_steps=2, key=KEY)
    assert early.status == Status.MAX_STEPS
    assert max(early.value.rank) <= 3
    again = tt_cross(smooth, [AXIS] * 4, tol=1e-9, max_steps=2, key=KEY)
    np.testing.assert_array_equal(early.value.to_dense(), again.value.to_dense())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"tol": 0}, "tol: found 0"),
        ({"tol": -1.0}, "tol: found -1"),
        ({"max_rank": 0}, "max_rank: found 0"),
        ({"max_steps": 0}, "max_steps: found 0"),
        ({"checks": 5}, "checks: found 5"),
        ({"grid": (5,)}, "grid: found"),
        ({"grid": (5, 1)}, "grid: found modes"),
        ({"grid": (5, 0)}, r"shape\[1\]: found 0"),
        ({"grid": [AXIS, np.full(3, np.nan)]}, r"grid\[1\]: found NaN"),
        ({"function": 3}, "function: found int"),
        ({"function": lambda x: x}, "function: found an array of shape"),
        ({"function": lambda x: np.full(len(x), math.nan)}, "function: found NaN"),
    ],
)
def test_bad_input(arguments, says):
    with pytest.raises(InputError, match=says):
        tt_cross(**{"function": smooth, "grid": (5, 6, 7), "key": KEY, **arguments})
