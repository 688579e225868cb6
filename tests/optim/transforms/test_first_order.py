"""First-order transformations against plain NumPy twins of their papers, their limits and what they promise."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from corollary.core.errors import InputError
from corollary.optim import transforms as T

RNG = np.random.default_rng(0)
GRADIENTS = RNG.normal(size=(9, 2, 3))
W = RNG.normal(size=(2, 3))


def run(opt, gradients=GRADIENTS, start=W, **extra):
    """Parameters after each step, the gradients given."""
    x = jnp.asarray(start)
    state = opt.init(x)
    opt = T.float32_state(opt)  # Optax's own mix counts with floats, which the tests' strict promotion refuses
    update = jax.jit(lambda g, s, p: opt.update(g, s, p, **extra))
    found = []
    for g in gradients:
        updates, state = update(jnp.asarray(g, x.dtype), state, x)
        x = x + updates
        found.append(np.asarray(x))
    return np.array(found), state


def same(a, b, rtol=1e-10):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13)


@pytest.mark.covers("refined-lion")
def test_refined_lion(x64):
    lr, b1, b2, alpha, decay = 0.1, 0.9, 0.99, 3.0, 0.02
    x, m, twin = W, np.zeros_like(W), []
    for g in GRADIENTS:
        c = b1 * m + (1 - b1) * g
        x = x - lr * (2 / np.pi * np.arctan(alpha * c) + decay * x)
        m = b2 * m + (1 - b2) * g
        twin.append(x)
    ours, _ = run(T.refined_lion(lr, b1, b2, alpha, decay))
    same(ours, twin)
    lion, _ = run(optax.lion(lr, b1, b2, weight_decay=0.0))
    sharp, _ = run(T.refined_lion(lr, b1, b2, 1e12))
    same(sharp, lion, 1e-8)
    same(run(T.refined_lion(lr, b1, b2, map="sign"))[0], lion)
    ours, _ = run(T.refined_lion(lr, alpha=50.0))
    moves = np.abs(np.diff(np.concatenate([W[None], ours]), axis=0))
    assert moves.max() <= lr * (1 + 1e-12)
    # Small αc: momentum with the factor 2α/π.
    small, _ = run(T.refined_lion(lr, 0.9, 0.9, 1e-6))
    m, x, linear = np.zeros_like(W), W, []
    for g in GRADIENTS:
        m = 0.9 * m + 0.1 * g
        x = x - lr * 2 / np.pi * 1e-6 * m
        linear.append(x - W)
    np.testing.assert_allclose(small - W, linear, rtol=1e-6)


@pytest.mark.covers("curvature-scaled-lion")
def test_lion_with_curvature_between_lion_and_sophia(x64):
    h = jnp.asarray(RNG.uniform(0.5, 4.0, size=W.shape))
    lion, _ = run(optax.lion(0.1, 0.9, 0.99, weight_decay=0.0))
    for opt in (
        T.curvature_scaled_lion(0.1, 0.9, 0.99, mode="scale"),  # constant h
        T.curvature_scaled_lion(0.1, 0.9, 0.99, gamma=1e-9),  # all is clipped
    ):
        ours, _ = run(opt, curvature=jnp.full(W.shape, 2.5))
        same(ours, lion)
    same(run(T.curvature_scaled_lion(0.1, 0.9, 0.99))[0], lion)  # no estimate yet
    # β1 = β2 clips Sophia's way: m over γh.
    m, x, twin = np.zeros_like(W), W, []
    for g in GRADIENTS:
        m = 0.9 * m + 0.1 * g
        x = x - 0.1 * np.clip(m / (0.3 * np.asarray(h)), -1, 1)
        twin.append(x)
    ours, _ = run(T.curvature_scaled_lion(0.1, 0.9, 0.9, gamma=0.3), curvature=h)
    same(ours, twin)
    ours, _ = run(T.curvature_scaled_lion(0.1, 0.9, 0.99, power=1.0, mode="scale"), curvature=h)
    step = np.abs(ours[0] - W) / 0.1
    same(step, np.exp(np.log(h).mean()) / np.asarray(h))
    with pytest.raises(InputError, match=r"curvature_decay: found 1\.0, expected a number below 1"):
        T.curvature_scaled_lion(0.1, curvature_decay=1.0)  # the average would never begin


@pytest.mark.covers("mars")
def test_mars(x64):
    lr, gamma, b1, b2, eps, decay = 0.1, 0.025, 0.95, 0.99, 1e-8, 0.01

    def corrected(max_norm=1.0):
        last = None
        for g in GRADIENTS:
            c = g if last is None else g + gamma * b1 / (1 - b1) * (g - last)
            size = np.linalg.norm(c)
            yield c / size if max_norm and size > max_norm else c
            last = g

    x, m, v, twin = W, np.zeros_like(W), np.zeros_like(W), []
    for t, c in enumerate(corrected(), 1):
        m, v = b1 * m + (1 - b1) * c, b2 * v + (1 - b2) * c**2
        x = x - lr * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * x)
        twin.append(x)
    same(run(T.mars(lr, gamma, b1, b2, eps, decay))[0], twin, 1e-8)
    x, m, twin = W, np.zeros_like(W), []
    for c in corrected():
        m = b1 * m + (1 - b1) * c
        x = x - lr * np.sign(m)
        twin.append(x)
    same(run(T.mars(lr, gamma, b1, base="lion"))[0], twin)
    x, m, twin = W, np.zeros_like(W), []
    for c in corrected():
        m = b1 * m + (1 - b1) * c
        q = m / np.linalg.norm(m)
        for _ in range(5):
            s = q @ q.T
            q = 3.4445 * q - 4.7750 * s @ q + 2.0315 * s @ s @ q
        x = x - lr * q
        twin.append(x)
    same(run(T.mars(lr, gamma, b1, base="shampoo"))[0], twin, 1e-8)
    # γ = 0 without clipping is the base.
    same(run(T.mars(lr, 0.0, b1, b2, eps, 0.0, None))[0], run(optax.adam(lr, b1, b2, eps))[0], 1e-8)
    # The exact form takes the old gradient at the last parameters on this batch.
    opt, x = T.mars_correction(1.0, 0.5, None, exact=True), jnp.asarray([1.0, 2.0])
    _, state = opt.update(x, opt.init(x), x, grad_fn=lambda p: p)
    new = x + 1
    c, _ = opt.update(3 * new, state, new, grad_fn=lambda p: 3 * p)
    same(c, 3 * new + 3 * (new - x))
    with pytest.raises(InputError, match="grad_fn: found None"):
        opt.update(x, state, x)


@pytest.mark.covers("pid-optimizer")
def test_pid_and_its_poles(x64):
    lr, kp, ki, kd, mu = 0.05, 0.3, 1.0, 2.0, 0.8
    x, i, d, last, twin = W, np.zeros_like(W), np.zeros_like(W), None, []
    for g in GRADIENTS:
        i = mu * i + g
        d = mu * d + (1 - mu) * (0 if last is None else g - last)
        last = g
        x = x - lr * (kp * g + ki * i + kd * d)
        twin.append(x)
    same(run(T.pid(lr, kp, ki, kd, mu))[0], twin)
    same(run(T.pid(lr, kd=0.0))[0], run(optax.sgd(lr, 0.9))[0])
    # On a quadratic the run is linear; its poles are the closed loop's.
    for h in (0.5, 4.0, 30.0):
        # State (x, I, D, g₋) after a step, from the controller's equations.
        step = np.array([[h, 0, 0, 0], [h, mu, 0, 0], [(1 - mu) * h, 0, mu, -(1 - mu)], [h, 0, 0, 0]])  # g, I, D, last
        full = np.zeros((4, 4))
        full[1], full[2], full[3] = step[1], step[2], step[0]
        full[0] = np.array([1.0, 0, 0, 0]) - lr * (kp * step[0] + ki * step[1] + kd * step[2])
        # Integral and derivative share the pole μ, one of which the parameter does not see, and g₋ is a delay (pole 0).
        found = np.append(np.abs(T.pid_poles(h, lr, kp, ki, kd, mu)), [mu, 0.0])
        np.testing.assert_allclose(np.sort(found), np.sort(np.abs(np.linalg.eigvals(full))), rtol=1e-7, atol=1e-12)
    # The derivative damps: the slowest pole is nearer to 0 than the heavy ball's.
    assert np.abs(T.pid_poles(1.0, 0.1, kd=3.0)).max() < np.abs(T.pid_poles(1.0, 0.1, kd=0.0)).max() - 0.01


@pytest.mark.covers("positive-negative-momentum")
def test_positive_negative_momentum(x64):
    lr, b1, beta0 = 0.1, 0.9, 1.5
    x, buffers, twin = W, [np.zeros_like(W), np.zeros_like(W)], []
    for t, g in enumerate(GRADIENTS):
        buffers[t % 2] = b1**2 * buffers[t % 2] + (1 - b1**2) * g
        p, n = buffers[t % 2], buffers[1 - t % 2]
        x = x - lr / np.hypot(1 + beta0, beta0) * ((1 + beta0) * p - beta0 * n)
        twin.append(x)
    same(run(T.positive_negative_momentum(lr, b1, beta0))[0], twin)
    # β0 = 0: momentum on the odd and on the even gradients.
    zero, _ = run(T.positive_negative_momentum(lr, b1, 0.0))
    steps = np.diff(np.concatenate([W[None], zero]), axis=0)
    for start in (0, 1):
        m = np.zeros_like(W)
        for g, step in zip(GRADIENTS[start::2], steps[start::2], strict=True):
            m = b1**2 * m + (1 - b1**2) * g
            same(step, -lr * m)
    # On white noise the (unnormalised) variance is (1 + β0)² + β0² times that of one buffer; normalised it is one.
    n, steps = 4000, 60
    opt = T.scale_by_positive_negative_momentum(b1, beta0)

    def body(carry, key):
        state, _ = carry
        direction, state = opt.update(jax.random.normal(key, (n,), jnp.float64), state)
        return (state, direction), None

    start = (opt.init(jnp.zeros(n)), jnp.zeros(n))
    (state, last), _ = jax.lax.scan(body, start, jax.random.split(jax.random.key(1), steps))
    ratio = float(jnp.var(last) / jnp.var(state.newer))
    assert ratio == pytest.approx(1.0, abs=4 * np.sqrt(4 / n))


@pytest.mark.covers("norm-loss")
def test_norm_loss(x64):
    opt = T.norm_loss(0.7)
    w = jnp.asarray(RNG.normal(size=(4, 3, 2)))

    def penalty(w):
        return 0.7 * jnp.sum((1 - jnp.sqrt(jnp.sum(w**2, (1, 2)))) ** 2)

    added, _ = opt.update(jnp.zeros_like(w), opt.init(w), w)
    same(added, jax.grad(penalty)(w))
    size = np.sqrt(np.sum(np.square(w), (1, 2), keepdims=True))
    same(added, 0.7 * 2 * (1 - 1 / size) * w)
    last, _ = T.norm_loss(0.7, output_axis=2).update(jnp.zeros_like(w), opt.init(w), w)
    columns = np.sqrt(np.sum(np.square(w), (0, 1), keepdims=True))
    same(last, 0.7 * 2 * (1 - 1 / columns) * w)
    unit = w / size
    assert np.abs(opt.update(jnp.zeros_like(w), opt.init(w), unit)[0]).max() < 1e-15  # the fixed point
    none = jnp.zeros((2, 2))
    assert not np.any(opt.update(none, opt.init(none), none)[0])
    assert not np.any(opt.update(jnp.zeros(3), opt.init(w), jnp.ones(3))[0])  # vectors pass
    descended, _ = run(optax.chain(opt, optax.sgd(0.3)), np.zeros((60, 2, 3)))
    np.testing.assert_allclose(np.linalg.norm(descended[-1], axis=1), 1, rtol=1e-9)


@pytest.mark.covers("stable-weight-decay")
def test_stable_weight_decay(x64):
    lr, b1, b2, eps, decay = 0.1, 0.9, 0.99, 1e-8, 0.05
    x, m, v, twin = W, np.zeros_like(W), np.zeros_like(W), []
    for t, g in enumerate(GRADIENTS, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        mean = np.mean(v / (1 - b2**t))
        x = x - lr * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay / np.sqrt(mean) * x)
        twin.append(x)
    same(run(T.stable_weight_decay(lr, b1, b2, eps, decay))[0], twin, 1e-8)
    constant = np.full((9, 2, 3), -4.0)  # v̂ = 16 at every step: AdamW with λ/4
    ours, _ = run(T.stable_weight_decay(lr, b1, b2, eps, decay), constant)
    same(ours, run(optax.adamw(lr, b1, b2, eps, weight_decay=decay / 4), constant)[0], 1e-8)
    # The decay follows the gradient's scale: a loss scaled by 1e6 with λ scaled alike gives the same run.
    scaled, _ = run(T.stable_weight_decay(lr, b1, b2, 0.0, decay * 1e6), GRADIENTS * 1e6)
    same(scaled, run(T.stable_weight_decay(lr, b1, b2, 0.0, decay))[0], 1e-8)


@pytest.mark.covers("ranger")
def test_ranger_is_the_composition_of_its_parts(x64):
    lr, b1, b2, eps = 0.1, 0.95, 0.6, 1e-5
    gradients = np.concatenate([GRADIENTS, GRADIENTS])[:14]
    ours, _ = run(T.ranger(lr, b1, b2, eps), gradients)
    fast = optax.chain(optax.centralize(), optax.radam(lr, b1, b2, eps))
    peer = optax.lookahead(fast, 6, 0.5)
    p = optax.LookaheadParams.init_synced(jnp.asarray(W))
    state = peer.init(p)
    with jax.numpy_dtype_promotion("standard"):
        update = jax.jit(peer.update)
        for g, row in zip(gradients, ours, strict=True):
            updates, state = update(jnp.asarray(g), state, p)
            p = optax.apply_updates(p, updates)
            same(row, p.fast, 1e-9)
    # And a plain twin of rectified Adam with its own Lookahead.
    x, slow, m, v = W, W, np.zeros_like(W), np.zeros_like(W)
    limit = 2 / (1 - b2) - 1
    for t, (g, row) in enumerate(zip(gradients, ours, strict=True), 1):
        g = g - g.mean(1, keepdims=True)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        rho = limit - 2 * t * b2**t / (1 - b2**t)
        if rho >= 5:
            r = np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
            x = x - lr * r * m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        else:
            x = x - lr * m / (1 - b1**t)
        if t % 6 == 0:
            slow = slow + 0.5 * (x - slow)
            x = slow
        same(row, x, 1e-8)


OFF = {
    "clipping": None,
    "beta0": None,
    "norm_loss": None,
    "softplus": None,
    "centralize": False,
    "normalize": False,
    "stable_decay": False,
    "warmup_steps": 0,
    "warmdown": False,
    "lookahead": None,
}


def ranger21_twin(gradients, lr, total, b1=0.9, b2=0.999, eps=1e-8, decay=1e-4, floor=3e-5):
    """The paper's algorithm with all its parts, for one matrix."""
    x, slow, v, nu = W.copy(), W.copy(), [np.zeros_like(W), np.zeros_like(W)], np.zeros_like(W)

    def norm(z):
        return np.linalg.norm(z, axis=1, keepdims=True)

    ramp = 2 / (1 - b2) if 2 / (1 - b2) / total <= 0.45 else int(0.22 * total)
    for t, g in enumerate(gradients, 1):
        most = 0.01 * np.maximum(norm(x), 1e-3)
        g = np.where(norm(g) > most, g * most / norm(g), g)
        g = g - g.mean(1, keepdims=True)
        g = g / g.std(ddof=1)
        nu = b2 * nu + (1 - b2) * g**2
        eta = lr * min(1, t / ramp)
        begin = round(0.72 * total)
        if t > begin:
            eta = floor + (lr - floor) * (1 - (min(t, total) - begin) / (total - begin))
        x = x * (1 - eta * decay / np.sqrt(np.mean(nu / (1 - b2**t))))
        x = x * (1 - eta * 1e-4 * 2 * (1 - 1 / norm(x)))
        k = (t - 1) % 2
        v[k] = b1**2 * v[k] + (1 - b1**2) * g
        direction = (2 * v[k] - v[1 - k]) / np.sqrt(5)
        below = np.log1p(np.exp(50 * (np.sqrt(nu / (1 - b2**t)) + eps))) / 50
        x = x - eta / (1 - b1**t) * direction / below
        if t % 5 == 0:
            slow = 0.5 * x + 0.5 * slow
            x = slow.copy()
        yield x


@pytest.mark.covers("ranger21")
def test_ranger21_and_its_parts(x64):
    gradients = np.concatenate([GRADIENTS] * 3)[:24]
    ours, _ = run(T.ranger21(0.1, 24), gradients)
    same(ours, list(ranger21_twin(gradients, 0.1, 24)), 1e-7)
    plain, _ = run(T.ranger21(0.1, 24, weight_decay=0.02, **OFF), gradients)
    same(plain, run(optax.adamw(0.1, weight_decay=0.02), gradients)[0], 1e-8)
    # Each part, switched on alone, does something; with a β that does not overflow softplus is near to the identity.
    for part, value in {
        "clipping": 0.01,
        "beta0": 1.0,
        "norm_loss": 0.1,
        "softplus": 1.0,
        "centralize": True,
        "normalize": True,
        "stable_decay": True,
        "warmup_steps": 5,
        "warmdown": True,
        "lookahead": 5,
    }.items():
        with_part, _ = run(T.ranger21(0.1, 9, weight_decay=0.02, **{**OFF, part: value}), GRADIENTS)
        assert np.abs(with_part[-1] - plain[8]).max() > 1e-6, part
    with pytest.raises(InputError, match=r"total_steps: found 0"):
        T.ranger21(0.1, 0)


@pytest.mark.covers("grad-norm-monitor")
def test_the_monitor_flags_a_planted_spike_and_little_else():
    rate, steps = 0.01, 3000
    monitor = T.grad_norm_monitor(false_alarms=rate, skip=True)
    noise = jax.random.normal(jax.random.key(0), (steps, 64), jnp.float32)
    state = monitor.init(noise[0])

    @jax.jit
    def watch(noise):
        def body(state, g):
            out, state = monitor.update(g, state)
            return state, (state.spike, jnp.any(out != 0), state.z)

        return jax.lax.scan(body, state, noise)

    state, (spikes, passed, z) = watch(noise)
    alarms = float(spikes.mean())
    assert alarms <= rate + 4 * np.sqrt(rate / steps)
    np.testing.assert_array_equal(np.asarray(spikes), ~np.asarray(passed))
    assert abs(float(np.asarray(z)[100:].std()) - 1) < 0.15
    state, (spikes, _, _) = watch(noise.at[1500].mul(5.0).at[1700, 3].set(jnp.nan).at[1800, 0].set(jnp.inf) * 1e-12)
    assert bool(spikes[1500] & spikes[1700] & spikes[1800])  # whatever the scale
    assert int(state.spikes) == int(spikes.sum())
    assert np.isfinite(state.mean)
    # A new level is no outlier for long.
    _, (spikes, _, _) = watch(noise.at[1500:].mul(100.0))
    assert 1 <= int(spikes[1500:1600].sum()) <= 12
    # Zero gradients are no samples: the first norm after them is the mean, whatever its size; float64 norms have a log.
    with jax.enable_x64(True):
        state = monitor.init(jnp.zeros(2))
        for size in [*[0.0] * 3, 1e-60, 1e-60]:
            _, state = monitor.update(jnp.asarray([size, 0.0]), state)
        assert float(state.mean) == pytest.approx(-60 * np.log(10), rel=1e-6)
        assert int(state.averaged) == 2
    with pytest.raises(InputError, match=r"decay: found 1\.0"):
        T.grad_norm_monitor(1.0)


@pytest.mark.covers("second-to-first-switch")
def test_the_switch(x64):
    newton = optax.GradientTransformation(
        lambda p: optax.EmptyState(), lambda g, s, p=None: (jax.tree.map(lambda x: -0.5 * x / 4, g), s)
    )
    first = optax.adam(0.05)
    for threshold, pure in ((0.0, newton), (float("inf"), first)):
        ours, _ = run(T.second_to_first_switch(newton, first, threshold), gain=0.7)
        same(ours, run(pure)[0], 1e-8)

    def losses(growth, first):
        opt = T.second_to_first_switch(newton, first, 1.0, growth)
        x = jnp.asarray([2.0, -1.0])
        state, values, sizes = opt.init(x), [], []
        update = jax.jit(lambda g, s, p, gain: opt.update(g, s, p, gain=gain))
        for k in range(14):
            updates, state = update(4 * x, state, x, 2.0 if k < 6 else 0.5)
            x = x + updates
            sizes.append(float(jnp.linalg.norm(updates)))
            values.append(float(2 * jnp.sum(x**2)))
        assert not bool(state.curvature)
        return np.array(values), sizes

    heavy = optax.sgd(0.1, 0.9)
    values, sizes = losses(1.2, heavy)
    assert values[6] < values[5]  # no jump at the switch, which the warm momentum alone would bring:
    assert losses(1e9, heavy)[0][6] > values[5]
    assert all(b <= 1.2 * a * (1 + 1e-9) for a, b in itertools.pairwise(sizes[5:12]))
    assert np.all(np.diff(losses(1.2, optax.sgd(0.1))[0]) < 0)
    opt = T.second_to_first_switch(newton, first)
    x, state = jnp.ones(2), opt.init(jnp.ones(2))
    with pytest.raises(InputError, match="gain: found None"):
        opt.update(x, state, x)


@pytest.mark.covers("compressed-gradient")
def test_compressors_and_error_feedback(x64):
    v, s = np.array([0.3, -1.0, 2.0]), 2
    size = np.linalg.norm(v)
    low = np.floor(np.abs(v) / size * s)
    up = np.abs(v) / size * s - low
    mean, second = np.zeros(3), 0.0
    for choice in itertools.product((0, 1), repeat=3):  # all roundings, with their probabilities
        p = np.prod(np.where(choice, up, 1 - up))
        q = np.asarray(T.quantize(jnp.asarray(v), s, jnp.asarray(np.where(choice, 0.0, 1 - 1e-12))))
        mean += p * q
        second += p * np.sum((q - v) ** 2)
    same(mean, v, 1e-10)
    assert second <= min(3 / s**2, np.sqrt(3) / s) * size**2
    for d in (1, 7, 50):
        x = RNG.normal(size=d)
        sign = np.asarray(T.scaled_sign(jnp.asarray(x)))
        same(np.sum((sign - x) ** 2), np.sum(x**2) - np.sum(np.abs(x)) ** 2 / d, 1e-9)
        k = max(1, d // 3)
        top = np.asarray(T.top_k(jnp.asarray(x), k))
        assert np.sum(top != 0) == k
        assert np.sum((top - x) ** 2) <= (1 - k / d) * np.sum(x**2) * (1 + 1e-12)
    g = jnp.zeros((10, 10))
    sent = {"topk": 8 * 5, "sign": 13 + 4, "qsgd": 50 + 4}
    for name, count in sent.items():
        assert int(T.compressed_gradient(name, fraction=0.05).init(g).bytes_sent) == count
    h = jnp.asarray([1.0, 0.9, 0.05])
    start = jnp.asarray([1.0, -1.0, 1.0])

    def descend(feedback, name, steps=400):
        opt = optax.chain(T.compressed_gradient(name, fraction=0.33, error_feedback=feedback), optax.sgd(0.3))

        def body(carry, _):
            x, state = carry
            updates, state = opt.update(h * x, state, x)
            return (x + updates, state), None

        (x, _), _ = jax.lax.scan(body, (start, opt.init(start)), length=steps)
        return float(jnp.sum(h * x**2) / 2)

    plain = float(jnp.sum(h * ((1 - 0.3 * h) ** 400 * start) ** 2) / 2)
    # With feedback the linear rate of gradient descent returns, up to a constant.
    for name in ("topk", "sign"):
        assert descend(True, name) < 1e2 * plain
    # On ε|x₁ + x₂| + |x₁ − x₂| the sign is orthogonal to (1, 1), so that without feedback x₁ + x₂ never moves.
    for feedback in (True, False):
        opt = optax.chain(T.compressed_gradient("sign", error_feedback=feedback), optax.sgd(0.01))

        def body(carry, _, opt=opt):
            x, state = carry
            g = 0.5 * jnp.sign(x[0] + x[1]) * jnp.ones(2) + jnp.sign(x[0] - x[1]) * jnp.array([1.0, -1.0])
            updates, state = opt.update(g, state, x)
            return (x + updates, state), None

        x = jnp.asarray([1.25, 0.75])
        (x, _), _ = jax.lax.scan(body, (x, opt.init(x)), length=1000)
        assert (abs(float(x.sum())) < 0.1) == feedback
        assert feedback or float(x.sum()) == pytest.approx(2.0)
    # Several workers: the mean of their messages, each with its own memory.
    many = T.compressed_gradient("topk", fraction=0.33, workers=2)
    grads = jnp.asarray([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    out, state = many.update(grads, many.init(start))
    same(out, [1.5, 1.0, 0.0])
    same(state.error, [[0, 1.0, 0], [0, 0, 1.0]])
    half = jnp.ones(3, jnp.bfloat16)  # what is not sent is kept in float32
    out, state = many.update(jnp.ones((2, 3), jnp.bfloat16), many.init(half))
    assert (out.dtype, state.error.dtype) == (jnp.bfloat16, jnp.float32)
    with pytest.raises(InputError, match="leading axis of 2 workers"):
        many.update(start, many.init(start))


@pytest.mark.covers("weight-averaging")
def test_averages(x64):
    chain = optax.chain(optax.sgd(0.1), T.weight_average())
    path, state = run(chain)
    same(T.averaged_params(state, jnp.asarray(W)), path.mean(0))
    path, state = run(optax.chain(optax.sgd(0.1), T.weight_average(start=2, every=3)))
    same(T.averaged_params(state, jnp.asarray(W)), path[[2, 5, 8]].mean(0))  # SWA: the ends of cycles
    path, state = run(optax.chain(optax.sgd(0.1), T.weight_average("ema", decay=0.8, start=1)))
    ema = path[1]
    for x in path[2:]:
        ema = 0.8 * ema + 0.2 * x
    same(T.averaged_params(state, jnp.asarray(W)), ema)
    batches = RNG.normal(size=(5, 8, 3))
    fresh = T.refresh_statistics(lambda b: (b.mean(0), b.var(0)), list(jnp.asarray(batches)))
    same(fresh[0], batches.mean((0, 1)))
    same(fresh[1], batches.var(1).mean(0))
    with pytest.raises(InputError, match="found 0 averages"):
        T.averaged_params(optax.sgd(0.1).init(jnp.ones(2)), jnp.ones(2))
    with pytest.raises(InputError, match="batches: found none"):
        T.refresh_statistics(lambda b: b, [])
    try:
        import torch
    except ImportError:
        return
    model = torch.nn.Linear(2, 1, bias=False)
    swa, seen = torch.optim.swa_utils.AveragedModel(model), []
    for x in path[:4, :1, :2]:
        with torch.no_grad():
            model.weight.copy_(torch.tensor(x))
        swa.update_parameters(model)
        seen.append(x)
    np.testing.assert_allclose(swa.module.weight.detach().numpy(), np.mean(seen, 0), rtol=1e-5)


def test_polyak_ruppert_reaches_the_optimal_covariance(x64):
    """On least squares t·cov(mean) → H⁻¹ΣH⁻¹, for constant steps; the last iterate does not."""
    h, steps, runs = jnp.asarray([1.0, 0.3]), 2000, 400
    opt = optax.chain(optax.sgd(0.2), T.weight_average(start=200))

    def one(key):
        def body(carry, key):
            x, state = carry
            noise = jax.random.normal(key, (2,), jnp.float64)
            updates, state = opt.update(h * x + noise, state, x)
            return (x + updates, state), None

        x = jnp.zeros(2)
        (x, state), _ = jax.lax.scan(body, (x, opt.init(x)), jax.random.split(key, steps))
        return T.averaged_params(state, x), x

    mean, last = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), runs))
    t = steps - 200
    ratio = np.asarray(t * jnp.var(mean, 0) * h**2)
    assert np.all(np.abs(ratio - 1) < 5 * np.sqrt(2 / runs) + 0.05)
    assert np.all(t * jnp.var(last, 0) * h**2 > 5)


def test_variance_reduction_at_the_snapshot_and_saga_mean(x64):
    data = RNG.normal(size=(6, 3))

    def batch(i):
        return lambda p: p * jnp.asarray(1 + data[i] ** 2) - jnp.asarray(data[i])

    def full(p):
        return sum(batch(i)(p) for i in range(6)) / 6

    x = jnp.asarray([0.3, -0.2, 1.0])
    opt = T.svrg(5)
    reduced = [opt.update(batch(i)(x), opt.init(x), x, grad_fn=batch(i), full_grad_fn=full)[0] for i in range(6)]
    same(reduced, np.tile(full(x), (6, 1)), 1e-9)  # no variance at the snapshot
    state = opt.update(batch(0)(x), opt.init(x), x, grad_fn=batch(0), full_grad_fn=full)[1]
    y = x + 0.1
    moved = [opt.update(batch(i)(y), state, y, grad_fn=batch(i), full_grad_fn=full)[0] for i in range(6)]
    same(np.mean(moved, 0), full(y), 1e-9)  # unbiased
    # SAGA by its twin: a table and its mean; it converges with a constant step where SGD does not.
    opt = optax.chain(T.saga(6), optax.sgd(0.1))
    state, p = opt.init(x), x
    table, known, q = np.zeros((6, 3)), np.zeros(6, bool), np.asarray(x)
    update = jax.jit(lambda g, s, p, i: opt.update(g, s, p, index=i))
    for i in [*range(6), *RNG.integers(0, 6, 14)]:
        g = np.asarray(batch(i)(q))
        v = g - table[i] + table[known].mean(0) if known[i] else g
        table[i], known[i] = g, True
        q = q - 0.1 * v
        updates, state = update(batch(i)(p), state, p, i)
        p = p + updates
        same(p, q, 1e-9)
    with pytest.raises(InputError, match="index: found 2, expected a batch's number from 0 to 1"):
        T.saga(2).update(x, T.saga(2).init(x), index=2)
    with pytest.raises(InputError, match="index: found None"):
        T.saga(2).update(x, T.saga(2).init(x))
    with pytest.raises(InputError, match="full_grad_fn: found None"):
        T.svrg(2).update(x, T.svrg(2).init(x), x, grad_fn=full)


def test_barzilai_borwein_and_diloco(x64):
    h = np.array([1.0, 2.0, 5.0])
    for kind in ("bb1", "bb2"):
        opt = T.barzilai_borwein(0.1, kind=kind)
        x, state = jnp.ones(3), opt.init(jnp.ones(3))
        y, before, step = np.ones(3), None, 0.1
        for _ in range(12):
            updates, state = opt.update(jnp.asarray(h) * x, state, x)
            g = h * y
            if before is not None:
                s, d = y - before[0], g - before[1]
                step = s @ s / (s @ d) if kind == "bb1" else s @ d / (d @ d)
            before = (y, g)
            y = y - step * g
            x = x + updates
            same(x, y, 1e-8)
            assert 1 / 5 - 1e-9 <= float(state.step) <= 1 + 1e-9 or float(state.step) == 0.1
    # Tiny and huge units take the same path, where squares would leave float32.
    paths = []
    for unit in (1.0, 2.0**-80, 2.0**80):
        opt, curve = T.barzilai_borwein(0.1), jnp.asarray(h, jnp.float32)
        x = jnp.full(3, unit, jnp.float32)
        state = opt.init(x)
        for _ in range(4):
            updates, state = opt.update(curve * x, state, x)
            x = x + updates
        paths.append(np.asarray(x) / np.float32(unit))
    np.testing.assert_allclose(paths[1:], [paths[0]] * 2, rtol=1e-5)
    # SGD-BB: with the same gradient function at every step of an epoch it still finds a step of the right size.
    opt = T.barzilai_borwein(0.05, period=4)
    x, state = jnp.ones(3), opt.init(jnp.ones(3))
    for _ in range(60):
        updates, state = opt.update(jnp.asarray(h) * x, state, x)
        x = x + updates
    assert float(jnp.abs(x).max()) < 0.2
    # DiLoCo over an axis of workers: equal to the algorithm in a Python loop.
    opt, outer = T.diloco(optax.sgd(0.1), T.diloco_outer(0.7, 0.9), period=3, axis_name="w"), optax.sgd(0.7, 0.9, True)
    shift = jnp.asarray([[0.0, 1.0], [2.0, -1.0]])

    def worker(shift):
        def body(carry, _):
            x, state = carry
            updates, state = opt.update(x - shift, state, x)
            return (x + updates, state), None

        x = jnp.zeros(2)
        return jax.lax.scan(body, (x, opt.init(x)), length=6)[0][0]

    ours = jax.vmap(worker, axis_name="w")(shift)
    anchor, state = jnp.zeros(2), outer.init(jnp.zeros(2))
    for _ in range(2):
        local = []
        for s in shift:
            x = anchor
            for _ in range(3):
                x = x - 0.1 * (x - s)
            local.append(x)
        updates, state = outer.update(T.outer_gradient(anchor, jnp.stack(local)), state, anchor)
        anchor = anchor + updates
    same(ours, jnp.stack([anchor, anchor]), 1e-9)


@pytest.mark.covers("learned-yogi")
def test_learned_yogi(x64):
    tasks = {"h": jnp.asarray(RNG.uniform(0.5, 3.0, size=(4, 3))), "x": jnp.asarray(RNG.normal(size=(4, 3)))}

    def loss(p, task):
        return jnp.sum(task["h"] * (p - task["x"]) ** 2) / 2

    found = T.learned_yogi(loss, tasks, jnp.zeros(3), unroll=12, meta_steps=25)
    assert bool(found.holds)
    size = np.sqrt(sum(float(g) ** 2 for g in found.stats["hypergradient"].values()))
    assert float(found.stats["finite_difference"]) == pytest.approx(size, rel=1e-4)
    assert float(found.history["outer"].min()) < 0.5 * float(found.history["outer"][0])
    assert set(found.value) == {"learning_rate", "b1", "b2", "eps"}
    assert not found.converged  # so many steps, and no claim that they were enough
    for bad, text in (({"b1": 1.5}, r"initial\['b1'\]: found 1\.5"), ({"beta": 0.5}, "initial: found 'beta'")):
        with pytest.raises(InputError, match=text):
            T.learned_yogi(loss, tasks, jnp.zeros(3), initial=bad)
    with pytest.raises(InputError, match="unroll: found 0"):
        T.learned_yogi(loss, tasks, jnp.zeros(3), unroll=0)


@pytest.mark.covers("adamw-timescale")
def test_adamw_is_an_average_of_its_updates(x64):
    lr, decay = 0.1, 0.2
    found = T.adamw_timescale(lr, decay, 50, 1000, target_epochs=5.0)
    assert bool(found.holds)
    assert float(found.value["steps"]) == pytest.approx(1 / (lr * decay))
    assert float(found.value["epochs"]) == pytest.approx(50 / (lr * decay * 1000))
    assert float(found.value["weight_decay"]) == pytest.approx(50 / (lr * 5 * 1000))
    with pytest.raises(InputError, match="learning_rate: found -1"):
        T.adamw_timescale(jnp.asarray(-1.0), jnp.asarray(-0.1), 1, 10)
    double = T.adamw_timescale(lr, decay, 100, 1000, target_epochs=5.0).value["weight_decay"]
    assert float(double) == pytest.approx(2 * float(found.value["weight_decay"]))  # λ ∝ B
    # Constant gradients: AdamW's update is sign(g), and θ is the average of −u/λ with the window 1/(ηλ).
    ours, _ = run(optax.adamw(lr, eps=0.0, weight_decay=decay), np.ones((200, 2, 3)))
    average = W
    for row in ours:
        average = (1 - lr * decay) * average + lr * decay * (-1 / decay)
        np.testing.assert_allclose(row, average, rtol=1e-6)
    steps = round(float(found.value["exact_steps"]))
    left = (ours[steps - 1] + 1 / decay) / (W + 1 / decay)
    np.testing.assert_allclose(left, np.exp(-1), rtol=0.02)


@pytest.mark.covers("weight-decay-prox")
def test_decay_is_the_proximal_step_to_first_order(dtype):
    theta = {"w": jnp.asarray(W, dtype), "b": jnp.asarray([1e-12, -1e12], dtype)}
    for lr, decay in ((0.1, 0.3), (3.0, 2.0), (0.0, 1.0)):
        found = T.weight_decay_prox(theta, lr, decay)
        assert bool(found.holds)
        a = lr * decay
        for name in theta:
            exact = a**2 / (1 + a) * np.asarray(theta[name], np.float64)
            scale = np.abs(np.asarray(theta[name], np.float64)).max() * (1 + a)
            np.testing.assert_allclose(found.value["difference"][name], exact, atol=8 * np.finfo(dtype).eps * scale)
    prox = T.weight_decay_prox(np.array([2.0]), 0.5, 1.0).value["prox"]
    assert prox == pytest.approx(2 / 1.5)
    assert np.isfinite(T.weight_decay_prox({"w": theta["w"]}, 1e10, 1e15).certificates["difference"].bound)
    with pytest.raises(InputError, match="learning_rate"):
        T.weight_decay_prox(theta, -1.0, 1.0)


@pytest.mark.covers("adam-rmsprop-local-rate")
def test_local_rates_of_adam_and_rmsprop(dtype):
    for top in (4.0, 25.0, 100.0):
        for scale in (1.0, 1e12, 1e-12):
            found = T.adam_rmsprop_local_rate(jnp.asarray(scale * np.array([1.0, (1 + top) / 2, top]), dtype))
            root = np.sqrt(top)
            assert found.value["adam"] == pytest.approx((root - 1) / (root + 1), rel=1e-5)
            assert found.value["rmsprop"] == pytest.approx((top - 1) / (top + 1), rel=1e-5)
            # e_t ~ (a + t)ρ^t: log(e/t) has the slope log ρ − a/t², a the transient's length, over t from 15 on.
            assert found.stats["adam_fitted"] == pytest.approx(float(found.value["adam"]), rel=1e-3)
            assert found.stats["rmsprop_fitted"] == pytest.approx(float(found.value["rmsprop"]), rel=1e-5)
            assert found.value["adam"] <= found.value["rmsprop"]
            assert found.certificates["order"].holds
            assert found.certificates["adam"].applies  # the run stays where Adam is linear
    assert T.adam_rmsprop_local_rate(np.ones(2)).value["adam"] == 0
    with pytest.raises(InputError, match="eigenvalues: found one <= 0"):
        T.adam_rmsprop_local_rate([1.0, 0.0])
