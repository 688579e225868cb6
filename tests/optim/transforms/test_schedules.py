"""Schedules: exact pieces, ends, sums against the zeta function, and the warm-up rule against rectified Adam."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import zeta

from corollary.core.errors import InputError
from corollary.optim import transforms as T


def values(schedule, steps):
    with jax.numpy_dtype_promotion("standard"):
        return np.asarray(jax.vmap(schedule)(jnp.arange(steps)))


@pytest.mark.covers("inverse-time-decay")
def test_powers_of_time_and_their_sums(x64):
    t = np.arange(50)
    np.testing.assert_allclose(values(T.power_schedule(0.3, 0.7, 5.0), 50), 0.3 / (t + 5) ** 0.7, rtol=1e-12)
    np.testing.assert_allclose(values(T.inverse_time_decay(0.3, 0.2), 50), 0.3 / (1 + 0.2 * t), rtol=1e-12)
    np.testing.assert_allclose(values(T.inverse_time_decay(0.3, 0.2, 0.5), 50), 0.3 / np.sqrt(1 + 0.2 * t), rtol=1e-12)
    n = 5000
    for alpha in (1.5, 2.0):
        sums = T.schedule_sums(T.power_schedule(1.0, alpha), n)
        # The tail lies between ∫_{n+1}^∞ and ∫_n^∞ of x^-α.
        for total, a in ((sums.total, alpha), (sums.squares, 2 * alpha)):
            left = zeta(a) - float(total)
            assert (
                (n + 1) ** (1 - a) / (a - 1) * (1 - 1e-6) - 1e-11 <= left <= n ** (1 - a) / (a - 1) * (1 + 1e-6) + 1e-11
            )
    # Robbins and Monro at α = 1: Σ η grows like log n, Σ η² converges.
    one, two = (T.schedule_sums(T.power_schedule(1.0, 1.0), k) for k in (n, 2 * n))
    assert float(two.total - one.total) == pytest.approx(np.log(2), rel=1e-3)
    assert float(two.squares) < zeta(2)
    # Optax's steps switch at the boundary itself.
    steps = values(optax.piecewise_constant_schedule(1.0, {3: 0.1}), 6)
    np.testing.assert_allclose(steps, [1, 1, 1, 0.1, 0.1, 0.1])
    with pytest.raises(InputError, match="offset: found 0"):
        T.power_schedule(1.0, offset=0.0)
    with pytest.raises(InputError, match="rate: found -1"):
        T.inverse_time_decay(1.0, -1.0)


@pytest.mark.covers("warmdown-schedule")
def test_flat_then_down(x64):
    total, warm, floor = 200, 20, 0.05
    found = values(T.warmdown_schedule(1.0, total, warm, floor), total + 21)
    t = np.arange(total + 21)
    begin = round(0.72 * total)
    exact = np.where(t < warm, t / warm, 1.0)
    exact = np.where(t > begin, 1 - (1 - floor) * np.minimum((t - begin) / (total - begin), 1), exact)
    np.testing.assert_allclose(found, exact, atol=1e-12)
    assert found[total] == found[-1] == pytest.approx(floor)  # ends at the floor, and keeps it
    assert np.abs(np.diff(found)).max() <= 1 / warm + 1e-12  # continuous
    tail = found[begin : total + 1]
    np.testing.assert_allclose(np.diff(tail), -(1 - floor) / (total - begin), rtol=1e-9)
    joined = optax.join_schedules([optax.constant_schedule(2.0), T.warmdown_schedule(1.0, total, warm, floor)], [10])
    np.testing.assert_allclose(values(joined, 30)[10:], found[:20], atol=1e-12)
    opt = optax.sgd(T.warmdown_schedule(1.0, 10))
    state = opt.init(jnp.ones(2))
    assert opt.update(jnp.ones(2), state)[0].tolist() == [-1.0, -1.0]
    for shape in ("linear", "cosine", "sqrt"):
        one = values(T.wsd_schedule(2.0, 100, 10, 0.5, decay_fraction=0.3, shape=shape), 101)
        assert one[5] == pytest.approx(1.0)
        assert one[70] == pytest.approx(2.0)
        assert one[100] == pytest.approx(0.5)
        assert np.all(np.diff(one[70:]) < 0)
    for steps in (1, 2, 4):  # however short the run
        assert float(T.wsd_schedule(1.0, steps, floor=0.25)(steps)) == 0.25
    with pytest.raises(InputError, match="warmup_steps: found 90, expected at most 72"):
        T.warmdown_schedule(1.0, 100, 90)


def test_smiths_cycle_and_growing_batches(x64):
    found = values(T.smith_one_cycle(2.0, 1000, anneal=0.2), 1001)
    assert found.argmax() == 400
    assert found[[0, 400, 800, 1000]] == pytest.approx([0.2, 2.0, 0.2, 0.002])
    np.testing.assert_allclose(found[:401], found[800:399:-1], rtol=1e-9)  # down the way it came up
    np.testing.assert_allclose(np.diff(found, 2)[np.r_[0:398, 401:798, 801:998]], 0, atol=1e-12)  # piecewise linear
    peer = values(optax.linear_onecycle_schedule(1000, 2.0, 0.4, 0.8, 10.0, 100.0), 1001)
    np.testing.assert_allclose(found, peer, atol=1e-6)  # Optax's has the same form where its settings say so
    size = T.batch_size_schedule(8, 64, 10, multiple=8)
    sizes = [size(t) for t in range(15)]
    assert sizes[0] == 8
    assert sizes[-1] == 64
    assert all(s % 8 == 0 for s in sizes)
    assert sizes == sorted(sizes)
    ends = [T.smith_one_cycle(1.0, 10, start_factor=f, final_factor=0.0)(jnp.float32(10)) for f in (0.1, 0.2, 0.7)]
    assert ends == [0, 0, 0]  # and not a little below
    with pytest.raises(InputError, match="anneal: found 1"):
        T.smith_one_cycle(1.0, 10, anneal=1.0)
    with pytest.raises(InputError, match="final: found 4"):
        T.batch_size_schedule(8, 4, 10)


@pytest.mark.covers("warmup-length")
def test_untuned_warmup_follows_the_rectification(x64):
    for b2 in (0.99, 0.999, 0.9995):
        found = T.warmup_length(b2)
        assert found.value == round(2 / (1 - b2))
        r = np.asarray(found.history["rectification"])
        t = np.arange(1, r.size + 1)
        limit = 2 / (1 - b2) - 1
        rho = limit - 2 * t * b2**t / (1 - b2**t)
        big = np.maximum(rho, 5)
        exact = np.sqrt((big - 4) * (big - 2) * limit / ((limit - 4) * (limit - 2) * big))
        np.testing.assert_allclose(r, np.where(rho > 5, exact, 0), rtol=1e-9)
        np.testing.assert_allclose(T.radam_rectification(jnp.asarray(t), b2), r, rtol=1e-9)
        assert np.all(np.diff(r) >= 0)
        # The gap that is reported, at every β2: the curves are the same over t(1 − β2).
        assert found.stats["gap"] < 0.31
        assert found.stats["mean_gap"] < 0.12
        half = T.warmup_length(b2, parameters=max(1, round(2 / (1 - b2) / 4)), per_million=1e6)
        assert half.stats["mean_gap"] > found.stats["mean_gap"]  # a shorter ramp tracks worse
    assert [T.warmup_length(b2).value for b2 in (0.0, 1 / 3, 0.5, 0.6)] == [2, 3, 4, 5]  # where nothing is rectified
    assert not T.warmup_length(0.5).history["rectification"].any()
    lengths = [T.warmup_length(parameters=n).value for n in (10**5, 10**6, 10**7, 10**8)]
    assert lengths == [1, 10, 100, 1000]
    with pytest.raises(InputError, match="b2: found 1"):
        T.warmup_length(1.0)
    with pytest.raises(InputError, match="parameters: found 0"):
        T.warmup_length(parameters=0)
