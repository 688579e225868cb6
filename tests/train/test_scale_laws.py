"""Laws of scale: planted laws are recovered within their intervals, rules against simulated and exact dynamics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from corollary import train
from corollary.core.errors import InputError

PLANTED = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


def runs(rng, noise, units=1.0):
    N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6)))
    p = PLANTED
    clean = p["E"] + p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"]
    return N, D, units * clean * np.exp(noise * rng.standard_normal(N.size))


@pytest.mark.covers("scaling-law-fit")
def test_planted_exponents_lie_within_their_intervals():
    rng = np.random.default_rng(0)
    covered, trials = 0, 12
    for _ in range(trials):
        run = train.fit_scaling_law(*runs(rng, 2e-3), level=0.95)
        for name in ("alpha", "beta"):
            low, high = run.stats["intervals"][name]
            covered += low <= PLANTED[name] <= high
            assert run.certificates[name].holds
    # Binomial: at 95% of 24 intervals fewer than 19 has probability below 1e-3.
    assert covered >= 19

    exact = train.fit_scaling_law(*runs(rng, 0.0))
    assert exact.converged
    for name, value in PLANTED.items():
        assert getattr(exact.value, name) == pytest.approx(value, rel=1e-6), name


@pytest.mark.covers("scaling-law-fit")
def test_units_of_the_loss_and_outliers_do_not_move_the_exponents():
    rng = np.random.default_rng(1)
    N, D, y = runs(rng, 1e-3)
    one = train.fit_scaling_law(N, D, y).value
    other = train.fit_scaling_law(N * 1e-6, D * 1e3, y * 1e12).value
    np.testing.assert_allclose([other.alpha, other.beta], [one.alpha, one.beta], rtol=1e-5)
    spoilt = y.copy()
    spoilt[[3, 17]] *= 1.3
    robust = train.fit_scaling_law(N, D, spoilt).value
    assert abs(robust.alpha - PLANTED["alpha"]) < 0.02
    assert abs(robust.beta - PLANTED["beta"]) < 0.02


@pytest.mark.covers("scaling-law-fit")
def test_compute_optimal_split_is_the_constrained_minimum():
    law = train.ScalingLaw(**PLANTED)
    budgets = np.geomspace(1e18, 1e24, 4)
    n, d = law.optimal(budgets)
    np.testing.assert_allclose(6 * n * d, budgets, rtol=1e-12)
    for C, best in zip(budgets, n, strict=True):
        found = optimize.minimize_scalar(lambda u, C=C: law.loss(np.exp(u), C / (6 * np.exp(u))), bracket=(15, 25))
        assert np.log(best) == pytest.approx(found.x, abs=1e-4)
    slope = np.polyfit(np.log(budgets), np.log(n), 1)[0]
    assert slope == pytest.approx(PLANTED["beta"] / (PLANTED["alpha"] + PLANTED["beta"]), rel=1e-9)


@pytest.mark.covers("batch-scaling-law")
def test_batch_law_recovers_exponents_and_covers_held_out_points():
    rng = np.random.default_rng(2)
    held, trials, inside = 0, 200, 0
    for _ in range(trials):
        D, N = rng.uniform(9, 11, 12), rng.uniform(7, 9, 12)
        noise = 0.05 * rng.standard_normal(13)
        law = train.fit_batch_law(np.exp(1 + 0.5 * np.log(10**D) + noise[:12]) * 10 ** (0.1 * N), 10**D, 10**N)
        low, high = law.stats["intervals"]["data"]
        inside += low <= 0.5 <= high
        # A decade beyond the data.
        _, low, high = law.value.predict(1e12, 1e10)
        held += low <= np.exp(1 + 0.5 * np.log(1e12) + noise[12]) * 10 ** (0.1 * 10) <= high
    assert stats.binomtest(inside, trials, 0.95).pvalue > 1e-3
    assert stats.binomtest(held, trials, 0.95).pvalue > 1e-3
    D, N = np.array([1e9, 1e10, 1e11, 1e12]), np.array([1e8, 1e7, 1e9, 1e8])
    tied = train.fit_batch_law(3 * (D / N) ** 0.7, D, N, ratio=True).value
    np.testing.assert_allclose([tied.c, tied.data, tied.model], [3, 0.7, -0.7], rtol=1e-9)


@pytest.mark.covers("lr-batch-scaling")
def test_linear_rule_keeps_the_trajectory_of_sgd():
    h, c, v = np.array([1.0, 0.3, 0.05]), np.array([1.0, 2.0, 0.5]), np.array([4.0, 1.0, 9.0])
    small, B = 1e-3, 8
    base = train.noisy_quadratic(h, c, v, learning_rate=small, batch_size=B, steps=4000)
    for ratio in (2, 4, 8):
        rate = train.scale_learning_rate(small, B, B * ratio).learning_rate
        assert rate / (B * ratio) == pytest.approx(small / B, rel=1e-12)
        moved = train.noisy_quadratic(h, c, v, learning_rate=rate, batch_size=B * ratio, steps=4000 // ratio)
        # The diffusion limit: moments differ by O(ηh) relative.
        np.testing.assert_allclose(moved, base, rtol=4 * rate)
        kept = train.noisy_quadratic(h, c, v, learning_rate=small, batch_size=B * ratio, steps=4000 // ratio)
        assert np.max(np.abs(kept / base - 1)) > 0.3  # an unscaled rate is another trajectory


@pytest.mark.covers("lr-batch-scaling")
def test_square_root_rule_keeps_the_trajectory_of_adam():
    # Noise-dominated quadratic, 1024 independent coordinates as the ensemble; time is counted as Malladi et al. do.
    h, sigma, n = 0.1, 30.0, 1024

    @jax.jit
    def final(rate, b1, b2, eps, batch, keys):
        def step(carry, key):
            x, m, v, t = carry
            g = h * x + sigma / jnp.sqrt(batch) * jax.random.normal(key, x.shape)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            x = x - rate * m / (1 - b1**t) / (jnp.sqrt(v / (1 - b2**t)) + eps)
            return (x, m, v, t + 1), None

        zero = jnp.zeros(n)
        (x, *_), _ = jax.lax.scan(step, (zero + 1.0, zero, zero, 1.0), keys)
        return jnp.mean(x), jnp.std(x)

    keys = jax.random.split(jax.random.key(0), 1024)
    start = {"b1": 0.99, "b2": 0.999, "eps": 1e-8}
    base = final(5e-3, 0.99, 0.999, 1e-8, 1.0, keys)
    scaled = train.scale_learning_rate(5e-3, 1, 4, "sqrt", **start)
    assert scaled.learning_rate == 1e-2
    np.testing.assert_allclose(scaled[1:], [0.96, 0.996, 5e-9], rtol=1e-12)
    moved = final(*scaled, 4.0, keys[:256])
    linear = final(2e-2, *scaled[1:], 4.0, keys[:256])
    # Standard error of a standard deviation from n samples: 1/√(2n); the diffusion limit's own error is O(1 − b1).
    assert float(moved[1] / base[1]) == pytest.approx(1, abs=5 / np.sqrt(2 * n) + 0.04)
    assert float(linear[1] / base[1]) > 1.5


def test_capped_rule_is_linear_below_the_critical_size_and_flat_above():
    rate = lambda batch: train.scale_learning_rate(1.0, 1, batch, "capped", critical=1000.0).learning_rate  # noqa: E731
    assert rate(2) == pytest.approx(2, rel=2e-3)
    assert rate(10**9) == pytest.approx(1001, rel=1e-5)
    assert train.scale_learning_rate(1.0, 10, 1000, critical=100).learning_rate == 10


@pytest.mark.covers("critical-batch-size")
def test_branches_find_the_analytic_critical_size_and_it_grows():
    h, c, examples, B = np.array([1.0, 0.5, 0.1]), np.ones(3), 256, 2
    multiples = (1, 2, 4, 8, 16, 32, 64)
    rng = np.random.default_rng(3)

    def loss(v):
        return 0.5 * np.sum(h * v)

    def branch(start, batch, eta):
        x = np.sqrt(start) * np.ones((4000, 3))
        for _ in range(examples // batch):
            x = x - eta * (h * x + np.sqrt(c / batch) * rng.standard_normal(x.shape))
        return loss(np.mean(x**2, axis=0))

    found, analytic, scales = [], [], []
    for start in (np.full(3, 1.0), np.full(3, 0.1), np.full(3, 0.01)):
        # The checkpoint's own learning rate is tuned for its batch: η_max/(1 + noise scale/B).
        curved = np.sum(h**3 * start)
        scales.append(np.sum(h * c) / curved)
        rate = np.sum(h**2 * start) / curved / (1 + scales[-1] / B)

        def exact(batch, eta, start=start):
            steps = examples // batch
            return loss(train.noisy_quadratic(h, c, start, learning_rate=eta, batch_size=batch, steps=steps))

        settings = {"multiples": multiples, "rule": "linear", "relative": 0.3}
        run = train.critical_batch_size(lambda b, r, s=start: branch(s, b, r), B, rate, **settings)
        assert run.holds
        found.append(run.value)
        analytic.append(train.critical_batch_size(exact, B, rate, **settings).value)
    assert found == analytic == [2, 8, 64]
    # As the gradient falls the noise scale grows, and the critical size with it.
    assert np.all(np.abs(np.log2(np.array(found) / scales)) < 1.5)


def test_a_branch_that_diverges_does_not_recover():
    run = train.critical_batch_size(lambda b, lr: 1.0 if b < 8 else float("nan"), 2, 0.1)
    assert run.value == 4
    assert not run.stats["censored"]


@pytest.mark.covers("batch-size-warmup")
def test_warmup_sees_all_examples_in_the_predicted_number_of_steps():
    h, c, v = np.array([1.0, 0.3, 0.1]), np.ones(3), np.full(3, 4.0)
    total, B, rate = 8192, 4, 0.01
    run = train.batch_warmup(total, B, rate, critical=[1024, 4096], rule="linear")
    plan = run.value
    assert run.holds
    assert plan.examples == total
    assert [p.batch_size for p in plan.phases] == [4, 8, 16]
    assert plan.steps == 1024 // 4 + 3072 // 8 + 4096 // 16
    assert run.stats["steps_saved"] == total // B - plan.steps
    assert plan.at(0) == (4, rate)
    assert plan.at(plan.steps - 1) == (16, 4 * rate)
    constant = train.noisy_quadratic(h, c, v, learning_rate=rate, batch_size=B, steps=total // B)
    for p in plan.phases:
        v = train.noisy_quadratic(h, c, v, learning_rate=p.learning_rate, batch_size=p.batch_size, steps=p.steps)
    assert np.sum(h * v) == pytest.approx(np.sum(h * constant), rel=0.05)


@pytest.mark.parametrize("total", [1, 7, 1000, 1023, 4097])
@pytest.mark.parametrize("largest", [None, 32])
def test_warmup_conserves_examples_for_any_total(total, largest):
    plan = train.batch_warmup(total, 8, 0.1, critical=lambda seen: 8 + seen / 10, largest=largest).value
    assert plan.examples == total
    assert [p.start for p in plan.phases] == [0, *np.cumsum([p.steps for p in plan.phases])[:-1]]
    assert max(p.batch_size for p in plan.phases) <= (largest or 10**9)


@pytest.mark.covers("rounding-error-depth")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rounding_never_exceeds_the_product_of_condition_numbers(precision):
    rng = np.random.default_rng(4)
    for activation, gain in (("tanh", 1.0), ("relu", 1.4), ("identity", 1.0)):
        for _ in range(3):
            W = [gain * rng.standard_normal((12, 12)) / np.sqrt(12) for _ in range(10)]
            b = [0.1 * rng.standard_normal(12) for _ in range(10)]
            run = train.rounding_depth(W, b, rng.standard_normal(12), dtype=precision, activation=activation)
            assert np.all(run.certificates["error"].holds)
            assert np.all(run.stats["bound"] > 0)
    assert np.max(run.value) > 0
    scaled = train.rounding_depth(
        [W[0] * 2.0**30, *W[1:]], [b[0] * 2.0**30, *b[1:]], np.ones(12), dtype=precision, activation="identity"
    )
    assert np.isfinite(scaled.value).all()


def test_refusals():
    good = np.ones(6)
    N = np.geomspace(1e7, 1e10, 8)
    fixed = 1.7 + 400 / N**0.34 + 410 / (20 * N) ** 0.28  # at D = 20N the two terms may be exchanged
    step = {"learning_rate": 1.0, "batch_size": 1, "steps": 1}
    rising = train.ScalingLaw(1.7, 1.0, 400.0, -0.1, 0.3)
    for call, words in (
        (lambda: train.fit_scaling_law(N, 20 * N, fixed), "varying only together"),
        (lambda: rising.optimal(1e20), "alpha: found -0.1"),
        (lambda: train.noisy_quadratic([1.0], [-1.0], [1.0], **step), "noise: found -1"),
        (lambda: train.noisy_quadratic([1.0, 2.0], [1.0], [1.0], **step), "noise: found 1 rows"),
        (lambda: train.batch_warmup(10, 4, 0.1, critical=[5], largest=2), "largest: found 2"),
        (lambda: train.fit_scaling_law(good, good, good), "n_parameters: found one value only"),
        (lambda: train.fit_scaling_law(good[:3], good[:3], good[:3]), "found 3 runs, expected at least 6"),
        (lambda: train.fit_scaling_law(-good, good, good), "n_parameters: found -1"),
        (lambda: train.fit_batch_law(good, np.arange(1.0, 7), np.arange(1.0, 7)), "varying only together"),
        (lambda: train.scale_learning_rate(0.1, 1, 2, "capped"), "critical: found None"),
        (lambda: train.critical_batch_size(lambda b, r: 1.0, 2, 0.1, multiples=[2, 4]), "rising integers from 1"),
        (lambda: train.critical_batch_size(lambda b, r: np.nan, 2, 0.1), "branch: found loss nan"),
        (lambda: train.batch_warmup(10, 2, 0.1, critical=[5, 5]), "expected rising ones"),
        (lambda: train.rounding_depth([np.eye(2)], [np.ones(3)], np.ones(2)), r"weights\[0\]: found shape"),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_the_noisy_quadratic_is_exact_for_any_step():
    h, c, v = np.array([1e-13, 0.3, 0.5, 1.0, 1.9, 2.0]), np.full(6, 0.7), np.linspace(0.0, 2, 6)
    slow = v.copy()
    for _ in range(7):
        slow = (1 - h) ** 2 * slow + c / 4
    found = train.noisy_quadratic(h, c, v, learning_rate=1.0, batch_size=4, steps=7)
    np.testing.assert_allclose(found, slow, rtol=1e-13)


def test_a_critical_size_without_end_ends_at_the_data():
    plan = train.batch_warmup(1000, 8, 0.1, critical=lambda seen: np.inf).value
    assert plan.examples == 1000
    assert max(p.batch_size for p in plan.phases) <= 1000


def test_rounding_of_a_dead_layer_and_of_one_that_overflows():
    dead = train.rounding_depth([-np.eye(2), np.eye(2)], [np.zeros(2)] * 2, np.ones(2), activation="relu")
    assert dead.value.tolist() == [0, 0]
    assert not np.isnan(dead.stats["growth"]).any()
    W = [3e4 * np.eye(2)] * 2
    over = train.rounding_depth(W, [np.zeros(2)] * 2, np.ones(2), dtype="float16", activation="relu")
    assert not over.certificates["error"].applies  # the bound knows nothing of overflow
