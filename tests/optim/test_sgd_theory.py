"""What theory says of stochastic gradients, held against seeded runs; each counter-example leaves an assumption."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary import optim
from corollary.core import InputError
from corollary.optim import (
    gradient_counts,
    gradient_domination_exponent,
    gradient_domination_rate,
    modified_loss,
    robbins_monro_check,
    sgd_gd_crossover,
    sgd_modified_loss,
    sgd_momentum_variance,
    sgd_rate_convex,
    sgd_rate_nonconvex,
    sgd_rate_strongly_convex,
    sgd_saddle_escape,
)

KEY = jax.random.key(3)
EIGENVALUES = (1.0, 3.0)


def absolute(x):
    return jnp.sum(jnp.abs(x))


def absolute_gradient(x, key):
    return jnp.sign(x) + jax.random.normal(key, x.shape, x.dtype)  # E‖g‖² = 2d = 4


def quadratic(x):
    return jnp.sum(jnp.asarray(EIGENVALUES, x.dtype) * x**2) / 2


def quadratic_gradient(x, key):
    return jnp.asarray(EIGENVALUES, x.dtype) * x + 0.5 * jax.random.normal(key, x.shape, x.dtype)  # σ² = 1/2


def cosine(x):
    return jnp.sum(1 - jnp.cos(x))


def cosine_gradient(x, key):
    return jnp.sin(x) + 0.5 * jax.random.normal(key, x.shape, x.dtype)


@pytest.mark.covers("sgd-rate-convex")
def test_convex_rate(dtype):
    x0, best = np.ones(2, dtype), np.zeros(2, dtype)
    horizons = [32, 128, 512, 2048]
    run = sgd_rate_convex(absolute, absolute_gradient, x0, best, horizons, second_moment=2.0, runs=32, key=KEY)
    assert run.value.dtype == dtype
    assert np.all(run.holds)
    np.testing.assert_allclose(run.value, np.sqrt(2) * 2 / np.sqrt(horizons), rtol=1e-6)
    slope = run.certificates["slope"]
    assert abs(slope.measured + 0.5) <= 0.15
    # Scale: 1e12·x changes nothing but the scale.
    if dtype == "float64":
        s = 1e12
        scaled = sgd_rate_convex(
            lambda x: absolute(x / s),
            lambda x, k: absolute_gradient(x / s, k) / s,
            s * x0,
            s * best,
            horizons,
            second_moment=2.0 / s,
            runs=32,
            key=KEY,
        )
        np.testing.assert_allclose(scaled.history["gap"], run.history["gap"], rtol=1e-6)
        # A G that is too small is found out by its own check.
        wrong = sgd_rate_convex(absolute, absolute_gradient, x0, best, horizons, second_moment=0.3, runs=32, key=KEY)
        assert not np.any(wrong.certificates["rate"].applies)


@pytest.mark.covers("sgd-rate-convex")
def test_smooth_convex_rate_and_the_last_iterate(x64):
    run = sgd_rate_convex(
        quadratic, quadratic_gradient, np.ones(2), np.zeros(2), [16, 64, 256], noise=0.5**0.5, lipschitz=3.0, key=KEY
    )
    assert np.all(run.holds)

    assert run.history["last_gap"][-1] > 3 * run.history["gap"][-1]  # the last iterate is no average

    # On G|x| without noise, from a whole number of steps away, the bound is attained.
    def tall(x):
        return jnp.sum(4 * jnp.abs(x))

    def tall_gradient(x, key):
        return 4 * jnp.sign(x - 1e-9)

    one = sgd_rate_convex(
        tall, tall_gradient, np.array([0.1]), np.zeros(1), [9, 25, 81], second_moment=4.0, runs=2, key=KEY
    )
    assert np.all(one.holds)
    np.testing.assert_allclose(one.history["gap"], one.history["rate_bound"], rtol=1e-6)
    assert float(one.certificates["slope"].measured) == pytest.approx(-0.5, abs=1e-6)


@pytest.mark.covers("sgd-rate-nonconvex")
def test_nonconvex_rate(dtype):
    x0 = np.array([2.0, -2.5], dtype)
    setting = {"lipschitz": 1.0, "noise": 0.5**0.5, "lower_bound": 0.0, "key": KEY}
    run = sgd_rate_nonconvex(cosine, cosine_gradient, x0, 400, **setting)
    assert run.value.dtype == dtype
    assert np.all(run.holds)
    gap = float(cosine(jnp.asarray(x0)))
    assert float(run.stats["best_bound"]) == pytest.approx((8 * gap * 0.5 / 400) ** 0.5, rel=1e-5)  # ~ 1/√T
    eta = float(run.stats["best_step"])
    for other in (0.5 * eta, 2 * eta):
        assert 2 * gap / (other * 400) + other * 0.5 > float(run.value)
    # It bounds the average, not the last iterate: with a step well above the best one the bound is no limit to x_T.
    if dtype == "float64":
        long = sgd_rate_nonconvex(cosine, cosine_gradient, x0, 400, step=1.5, **setting)
        assert not np.any(long.holds)  # step <= 1/L was checked and failed
        few = sgd_rate_nonconvex(
            cosine, cosine_gradient, np.zeros(2), 400, lipschitz=1.0, noise=0.4, lower_bound=0.0, step=0.5, key=KEY
        )
        assert not np.any(few.certificates["rate"].applies)  # σ was too small


@pytest.mark.covers("sgd-rate-strongly-convex")
def test_strongly_convex_rate(dtype):
    x0, best = np.array([1.0, -1.0], dtype), np.zeros(2, dtype)
    setting = {"strong_convexity": 1.0, "lipschitz": 3.0, "noise": 0.5**0.5, "runs": 1024, "key": KEY}
    falling = sgd_rate_strongly_convex(quadratic, quadratic_gradient, x0, best, 400, **setting)
    assert np.all(falling.holds)
    assert abs(float(falling.certificates["slope"].measured) + 1) <= 0.15
    fixed = sgd_rate_strongly_convex(quadratic, quadratic_gradient, x0, best, 400, step=0.1, **setting)
    assert np.all(fixed.holds)
    assert fixed.value.dtype == dtype
    ball = float(fixed.stats["ball"])
    assert ball**2 == pytest.approx(0.1 * 0.5 / (2 - 0.1), rel=1e-5)
    assert abs(float(fixed.certificates["slope"].measured)) < 0.3  # it stops at the ball
    early = fixed.history["square_distance"]
    assert early[5] / early[0] == pytest.approx(0.9**10 * 0.5 + 0.7**10 * 0.5, rel=0.3)  # linear at first
    late = early[200:].mean()
    exact = 0.01 * 0.25 * sum(1 / (1 - (1 - 0.1 * h) ** 2) for h in EIGENVALUES)
    assert late == pytest.approx(exact, rel=0.1)
    assert late <= ball**2


@pytest.mark.covers("sgd-rate-strongly-convex")
def test_both_bounds_are_attained_on_the_isotropic_quadratic(x64):
    def f(x):
        return jnp.sum(x**2) / 2

    def gradient(x, key):
        return x + jax.random.normal(key, x.shape, x.dtype)

    setting = {"strong_convexity": 1.0, "lipschitz": 1.0, "noise": 2.0**0.5, "runs": 512, "key": KEY}
    for step in (None, 0.2):
        run = sgd_rate_strongly_convex(f, gradient, np.ones(2), np.zeros(2), 40, step=step, **setting)
        assert np.all(run.holds)
        sigmas = np.abs(run.history["square_distance"] - run.history["rate_bound"]) / run.history["stderr"]
        assert np.all(sigmas < 5)
    short = sgd_rate_strongly_convex(f, gradient, np.ones(2), np.zeros(2), 40, offset=0.5, **setting)
    assert not np.any(short.certificates["rate"].applies)


@pytest.mark.covers("gradient-domination-rate")
def test_gradient_domination():
    assert gradient_domination_exponent(0.5) == (1.0, 1.0)
    assert gradient_domination_exponent(1.0) == pytest.approx((1 / 3, 2 / 3))
    for beta in (0.5, 0.6, 0.75, 1.0):
        best, theta = gradient_domination_exponent(beta)
        assert best == pytest.approx(gradient_domination_exponent(beta, theta)[0])  # both limits meet there
        assert all(gradient_domination_exponent(beta, t)[0] <= best + 1e-12 for t in np.linspace(0.51, 1, 20))

    def loss(p):
        def f(x):
            return jnp.sum(jnp.where(jnp.abs(x) <= 1, jnp.abs(x) ** p / p, jnp.abs(x) - 1 + 1 / p))

        return f

    def gradient(p):
        def g(x, key):
            slope = jnp.sign(x) * jnp.minimum(jnp.abs(x), 1) ** (p - 1)
            return slope + jax.random.normal(key, x.shape, x.dtype)

        return g

    for p, momentum in ((2, 0.0), (2, 0.5), (4, 0.0)):
        beta = (p - 1) / p
        run = gradient_domination_rate(
            loss(p),
            gradient(p),
            [0.5],
            4096,
            beta=beta,
            minimum=0.0,
            scale=2.0 * (1 - momentum),
            momentum=momentum,
            epsilon=0.15,
            key=KEY,
        )
        assert float(run.value) == pytest.approx(1 / (4 * beta - 1))
        assert run.holds, run.certificates["rate"].explain()
    # Steps outside the law, constant ones, do not converge: the fitted slope says so.
    flat = gradient_domination_rate(
        loss(2), gradient(2), [0.5], 4096, beta=0.5, theta=0.51, minimum=0.0, scale=2.0, key=KEY
    )
    assert float(flat.value) == pytest.approx(0.02)
    assert float(flat.certificates["slope"].measured) > -0.8


@pytest.mark.covers("robbins-monro-check")
def test_robbins_monro():
    for alpha, passes in (
        (1.0, True),
        (0.75, True),
        (0.51, True),
        (0.5, False),
        (1 / 3, False),
        (2.0, False),
        (0, False),
    ):
        found = robbins_monro_check(alpha)
        assert found.classical == passes
        assert bool(found.certificate.holds) == passes
    for alpha, p in itertools.product((0.2, 0.3, 0.4, 0.5), (3.0, 4.0, 6.0)):
        found = robbins_monro_check(alpha, p=p)
        assert found.relaxed == (alpha > 1 / p)
        assert not found.classical
    t = np.arange(1, 5001)
    for alpha, passes in ((1.0, True), (0.75, True), (0.5, False), (1 / 3, False), (2.0, False)):
        found = robbins_monro_check(0.3 * t**-alpha)
        assert found.classical == passes
        assert found.certificate.kind == "estimate"
        assert found.exponent == pytest.approx(alpha, abs=1e-9)
        assert robbins_monro_check(lambda k, alpha=alpha: 0.3 / (k + 20.0) ** alpha).classical == passes
    assert not robbins_monro_check(0.99**t).diverges
    assert not robbins_monro_check(np.full(100, 0.1)).square_summable


@pytest.mark.covers("sgd-gd-crossover")
def test_crossover_of_the_bounds():
    for epsilon in (0.1, 0.01, 0.001):
        n = sgd_gd_crossover(10, epsilon).crossover
        assert n == pytest.approx(2 / epsilon)
        assert sgd_gd_crossover(int(0.9 * n), epsilon).choice == "gradient descent"
        assert sgd_gd_crossover(int(1.1 * n) + 1, epsilon).choice == "sgd"
    strong = [sgd_gd_crossover(10, e, strong_convexity=0.1).crossover * e * np.log(0.5 / e) for e in (1e-2, 1e-4, 1e-6)]
    np.testing.assert_allclose(strong, strong[0])  # n ~ 1/(ε log(1/ε))


@pytest.mark.covers("sgd-gd-crossover")
def test_measured_counts_bracket_it(x64):
    # The same rows over and over: n changes, and nothing else does.
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 3)) * [1, 0.5, 0.2]
    b = rows @ np.ones(3) + 0.5 * rng.normal(size=20)
    few = gradient_counts(rows, b, 0.02, runs=8, key=KEY)
    assert few.converged
    assert few.holds
    crossover = float(few.stats["crossover"])
    assert crossover > 1
    steps, sgd = int(few.value[0]) // 20, int(few.value[1])
    for n in (int(crossover / 2), int(2 * crossover) + 1):
        assert (n * steps < sgd) == (n < crossover)
    assert np.all(few.value <= few.stats["bounds"])
    closer = gradient_counts(rows, b, 0.005, runs=8, key=KEY)
    assert closer.converged
    assert float(closer.stats["crossover"]) > 1.5 * crossover  # it grows as ε falls
    many = gradient_counts(np.tile(rows, (5, 1)), np.tile(b, 5), 0.02, runs=8, key=KEY)
    assert int(many.value[0]) == 100 * steps
    late = gradient_counts(rows, b, 0.02, max_steps=5, runs=8, key=KEY)
    assert not late.converged


@pytest.mark.covers("sgd-modified-loss")
def test_gradient_descent_follows_the_modified_flow(x64):
    H = np.array([[2.0, 0.5], [0.5, 1.0]])

    def f(x):
        return x @ H @ x / 2

    etas = np.array([0.1, 0.05, 0.025])
    runs = [sgd_modified_loss(f, np.array([1.0, -1.0]), eta, 40) for eta in etas]
    assert all(run.holds for run in runs)
    at = [round(1 / eta) - 1 for eta in etas]  # time 1
    modified = [run.history["distance"][k] for run, k in zip(runs, at, strict=True)]
    plain = [run.history["plain_distance"][k] for run, k in zip(runs, at, strict=True)]
    assert np.polyfit(np.log(etas), np.log(modified), 1)[0] == pytest.approx(2, abs=0.15)
    assert np.polyfit(np.log(etas), np.log(plain), 1)[0] == pytest.approx(1, abs=0.15)
    x = jnp.asarray([0.3, 0.7])
    np.testing.assert_allclose(modified_loss(f, 0.1)(x), x @ H @ x / 2 + 0.025 * x @ H @ H @ x, rtol=1e-14)
    # No ℓ2 penalty in general: for f the extra term is xᵀH²x, which is no multiple of ‖x‖².
    np.testing.assert_allclose(runs[0].value, np.linalg.matrix_power(np.eye(2) - 0.1 * H, 40) @ [1, -1], rtol=1e-12)


@pytest.mark.covers("sgd-modified-loss")
def test_the_mean_over_shuffles_follows_its_own_modified_flow(x64):
    # Two batches on a line, (a_k/2)(x − c_k)²: the mean over both orders in closed form against the flow.
    a, c = np.array([1.0, 3.0]), np.array([1.0, -1.0])

    def batch(x, k):
        return jnp.asarray(a)[k] / 2 * (x[0] - jnp.asarray(c)[k]) ** 2

    def f(x):
        return (batch(x, 0) + batch(x, 1)) / 2

    run = sgd_modified_loss(f, np.array([2.0]), 0.02, 10, batch_loss=batch, batches=2, runs=512, key=KEY)
    assert run.holds

    def visit(x, order):
        for k in order:
            x = x - 0.02 * a[k] * (x - c[k])
        return x

    exact = 2.0
    for _ in range(10):
        exact = (visit(exact, (0, 1)) + visit(exact, (1, 0))) / 2
    assert abs(float(run.value[0]) - exact) <= 5 * run.history["stderr"][-1]
    assert run.history["distance"][-1] < run.history["plain_distance"][-1] / 3


@pytest.mark.covers("sgd-momentum-variance")
@pytest.mark.parametrize("form", ["velocity", "ema"])
def test_momentum_variance(form, x64):
    h = np.array([1.0, 4.0])
    for eta, beta in ((0.1, 0.9), (0.3, 0.5), (0.3, 0.0)):
        step = eta if form == "velocity" else eta / (1 - beta)
        run = sgd_momentum_variance(step, beta, h, 0.25, form=form, steps=200, runs=400, key=KEY)
        assert run.holds, [c.explain() for c in run.certificates.values()]
        closed = eta * 0.25 * (1 + beta) / (h * (1 - beta) * (2 * (1 + beta) - eta * h))
        np.testing.assert_allclose(np.diagonal(run.value["x"]), closed, rtol=1e-10)
        momentum = 2 * closed * h * eta / (1 + beta) / eta**2  # 2(γ0 − γ1)/η² of the second-order autoregression
        scale = 1 if form == "velocity" else (1 - beta) ** 2
        np.testing.assert_allclose(np.diagonal(run.value["momentum"]), scale * momentum, rtol=1e-10)
        np.testing.assert_allclose(np.diagonal(run.value["cross"]), -(scale**0.5) * momentum * eta / 2, rtol=1e-9)


@pytest.mark.covers("sgd-momentum-variance")
def test_momentum_variance_of_a_matrix_and_its_edge(x64):
    rng = np.random.default_rng(0)
    Q, C = np.linalg.qr(rng.normal(size=(2, 2)))[0], np.array([[1.0, 0.6], [0.6, 2.0]])
    H = Q @ np.diag([1.0, 4.0]) @ Q.T
    run = sgd_momentum_variance(0.1, 0.5, (H + H.T) / 2, C, steps=200, runs=400, key=KEY)
    assert run.holds
    turned = sgd_momentum_variance(0.1, 0.5, np.diag([1.0, 4.0]), Q.T @ C @ Q, steps=200, runs=400, key=KEY)
    np.testing.assert_allclose(run.value["x"], Q @ turned.value["x"] @ Q.T, rtol=1e-9)
    tiny = sgd_momentum_variance(
        0.1e12, 0.5, np.diag([1.0, 4.0]) * 1e-12, 1e-24 * Q.T @ C @ Q, steps=200, runs=400, key=KEY
    )
    np.testing.assert_allclose(tiny.value["x"], turned.value["x"], rtol=1e-9)


@pytest.mark.covers("sgd-saddle-escape")
def test_saddle_escape(dtype):
    times = []
    for eta in (0.2, 0.1, 0.05):
        numbers = [np.asarray(v, dtype) for v in (-1.0, eta, 1e-4 / eta, 1.0)]  # η s² held fixed
        run = sgd_saddle_escape(*numbers, steps=200, runs=500, key=KEY)
        assert run.value.dtype == dtype
        assert np.all(run.holds)
        growth, t = 1 + eta, np.arange(1, 201)
        exact = eta**2 * 1e-4 / eta * (growth ** (2 * t) - 1) / (growth**2 - 1)
        np.testing.assert_allclose(run.history["predicted_variance"], exact, rtol=2e-4)
        median = float(run.stats["median"])
        assert 0.8 * float(run.value) <= median <= float(run.value) + 1 + 3 / eta * 0.1
        times.append(median * eta)
    assert np.ptp(times) <= 0.15 * np.mean(times)  # ~ 1/(η|λ|)


LESS = {"lipschitz": 1.0, "noise": 1.0, "key": KEY}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: sgd_rate_convex(absolute, absolute_gradient, [1.0], [0.0], [], second_moment=1, key=KEY), "horizons"),
        (lambda: sgd_rate_convex(absolute, absolute_gradient, [1.0], [0.0], [4], key=KEY), "second_moment: found None"),
        (
            lambda: sgd_rate_convex(absolute, absolute_gradient, [1.0], [0.0, 1.0], [4], second_moment=1, key=KEY),
            "reference",
        ),
        (
            lambda: sgd_rate_convex(absolute, absolute_gradient, [1.0], [0.0], [4], second_moment=-1, key=KEY),
            "second_moment: found -1",
        ),
        (
            lambda: sgd_rate_nonconvex(cosine, cosine_gradient, [1.0], 4, lower_bound=0.0, confidence=1.0, **LESS),
            "confidence",
        ),
        (lambda: sgd_rate_nonconvex(cosine, cosine_gradient, [1.0], 0, lower_bound=0.0, **LESS), "steps: found 0"),
        (
            lambda: sgd_rate_strongly_convex(cosine, cosine_gradient, [1.0], [0.0], 9, strong_convexity=0.0, **LESS),
            "strong_convexity: found 0.0",
        ),
        (lambda: gradient_domination_exponent(0.4), "beta: found 0.4"),
        (
            lambda: gradient_domination_rate(
                cosine, cosine_gradient, [1.0], 100, beta=0.5, minimum=0.0, scale=1.0, key=KEY
            ),
            "steps: found 100",
        ),
        (lambda: robbins_monro_check(0.7, p=1.0), "p: found 1.0"),
        (lambda: robbins_monro_check(np.zeros(30)), "schedule: found steps"),
        (lambda: robbins_monro_check(np.ones(3)), "schedule: found 3 steps"),
        (lambda: sgd_gd_crossover(0, 0.1), "n: found 0"),
        (lambda: sgd_gd_crossover(5, 0.1, strong_convexity=2.0), "strong_convexity"),
        (lambda: gradient_counts(np.ones((3, 1)), np.ones(2), 0.1, key=KEY), "b: found 2 rows"),
        (lambda: sgd_modified_loss(cosine, [1.0], 0.1, 3, batch_loss=lambda x, k: x, batches=2), "key: found None"),
        (lambda: sgd_momentum_variance(5.0, 0.5, 1.0, 1.0, key=KEY), "step: found 5"),
        (lambda: sgd_momentum_variance(0.1, 0.5, -1.0, 1.0, key=KEY), "curvature: found least eigenvalue"),
        (lambda: sgd_saddle_escape(1.0, 0.1, 1.0, 1.0, key=KEY), "curvature: found 1"),
        (lambda: sgd_saddle_escape(-1.0, 0.1, 0.0, 1.0, key=KEY), "noise_variance: found 0.0"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_noise_is_checked_at_every_step(x64):
    def gradient(x, key):
        return x + jnp.where(jnp.abs(x) < 1, 2**0.5, 0.0) * jax.random.rademacher(key, x.shape, x.dtype)

    run = optim.sgd_rate_strongly_convex(
        lambda x: (x**2).sum() / 2,
        gradient,
        [12.0],
        [0.0],
        100,
        strong_convexity=1.0,
        lipschitz=1.0,
        noise=1.02,
        step=0.05,
        runs=300,
        key=jax.random.key(0),
    )
    assert any(a.holds is not None and not bool(a.holds) for a in run.certificates["rate"].assumptions if a.checked)
