"""What Optax provides: each rule against its closed form in NumPy, and against PyTorch where it is installed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

G = np.random.default_rng(1).normal(size=(8, 2, 3))
W = np.random.default_rng(2).normal(size=(2, 3))


def run(opt, gradients=G, start=W):
    """The parameters after each step."""

    def body(carry, g):
        x, state = carry
        with jax.numpy_dtype_promotion("standard"):
            updates, new = opt.update(g, state, x)
        new = jax.tree.map(lambda n, o: jnp.asarray(n).astype(o.dtype), new, state)
        x = x + updates
        return (x, new), x

    x = jnp.asarray(start)
    return np.asarray(jax.lax.scan(body, (x, opt.init(x)), jnp.asarray(gradients))[1])


def values(schedule, steps):
    with jax.numpy_dtype_promotion("standard"):
        return np.asarray(jax.vmap(schedule)(jnp.arange(steps)))


def same(a, b, rtol=1e-9, atol=1e-12):
    """Equal, where there is something to compare with."""
    if b is not None:
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def optional_torch():
    """PyTorch where it is installed: an extra beside the closed forms, which prove the rows by themselves."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def torch_run(name, gradients=G, start=W, **settings):
    torch = optional_torch()
    if torch is None:
        return None
    p = torch.nn.Parameter(torch.tensor(start))
    opt, found = getattr(torch.optim, name)([p], **settings), []
    for g in gradients:
        p.grad = torch.tensor(g)
        opt.step()
        found.append(p.detach().numpy().copy())
    return np.array(found)


def torch_schedule(name, base, steps, **settings):
    torch = optional_torch()
    if torch is None:
        return None
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    schedule, found = getattr(torch.optim.lr_scheduler, name)(opt, **settings), []
    for _ in range(steps):
        found.append(opt.param_groups[0]["lr"])
        opt.step()
        schedule.step()
    return np.array(found)


def twin(direction, lr=0.1):
    """Parameters from ``direction(g, t, x)``."""
    x, found = W, []
    for t, g in enumerate(G, 1):
        x = x - lr * direction(g, t, x)
        found.append(x)
    return np.array(found)


def adam_direction(b1=0.9, b2=0.999, eps=1e-8, root=lambda m, v, t: v):
    state = {"m": 0.0, "v": 0.0}

    def direction(g, t, x):
        state["m"] = b1 * state["m"] + (1 - b1) * g
        state["v"] = b2 * state["v"] + (1 - b2) * g**2
        v = root(state["m"], state["v"], t) / (1 - b2**t)
        return state["m"] / (1 - b1**t) / (np.sqrt(v) + eps)

    return direction


def adadelta():
    rho, eps, v, d = 0.9, 1e-6, 0.0, 0.0

    def direction(g, t, x):
        nonlocal v, d
        v = rho * v + (1 - rho) * g**2
        step = np.sqrt(d + eps) / np.sqrt(v + eps) * g  # ε inside both roots
        d = rho * d + (1 - rho) * step**2
        return step

    same(run(optax.adadelta(0.1, rho, eps)), twin(direction))
    same(run(optax.adadelta(0.1, rho, eps)), torch_run("Adadelta", lr=0.1, rho=rho, eps=eps))


def adafactor():
    r, c = np.array([[1.0], [2.0], [0.5], [3.0]]), np.array([[1.0, 4.0, 0.3, 2.0, 0.7]])
    g = np.sqrt(r * c)  # G² has rank one: the factored moment is the full one
    full = optax.scale_by_factored_rms(factored=False, epsilon=0.0)
    factored = optax.scale_by_factored_rms(min_dim_size_to_factor=2, epsilon=0.0)
    start = np.ones_like(g)
    same(run(factored, [g, 2 * g, g], start), run(full, [g, 2 * g, g], start))
    same(run(factored, [g], start)[0], 2 * start)  # normalised: every entry moves alike
    # Among rank-one matrices V̂ = rcᵀ/Σr minimises the generalised Kullback-Leibler divergence from V.
    V = np.square(G[0]) + 0.1
    best = V.sum(1, keepdims=True) * V.sum(0, keepdims=True) / V.sum()

    def divergence(a, b):
        return np.sum(V * np.log(V / (a * b)) - V + a * b)

    rng = np.random.default_rng(0)
    least = divergence(V.sum(1, keepdims=True) / V.sum(), V.sum(0, keepdims=True))
    assert least == pytest.approx(np.sum(V * np.log(V / best) - V + best))
    for _ in range(200):
        a = V.sum(1, keepdims=True) * np.exp(rng.normal(size=(2, 1)) / 5) / V.sum()
        assert divergence(a, V.sum(0, keepdims=True) * np.exp(rng.normal(size=(1, 3)) / 5)) >= least


def adagrad():
    s = 0.1

    def direction(g, t, x):
        nonlocal s
        s = s + g**2
        return g / np.sqrt(s + 1e-7)

    ours = run(optax.adagrad(0.1))
    same(ours, twin(direction))
    sizes = np.abs(np.diff(np.concatenate([W[None], ours]), axis=0) / G)
    assert np.all(np.diff(sizes, axis=0) <= 0)  # step sizes never grow
    # Regret of linear losses over a box of diameter D: ≤ (D²/(2η) + η)·Σ_i √(Σ g_i²) in each coordinate.
    rng = np.random.default_rng(3)
    g = rng.normal(size=200) + 0.2
    x, s, regret, eta, D = 0.0, 0.0, 0.0, 1.0, 2.0
    for one in g:
        regret += one * x
        s += one**2
        x = np.clip(x - eta * one / np.sqrt(s), -1, 1)
    assert regret + abs(g.sum()) <= (D**2 / (2 * eta) + eta) * np.sqrt(s)
    same(ours, torch_run("Adagrad", lr=0.1, initial_accumulator_value=0.1, eps=0.0), 1e-5)


def adam():
    ours = run(optax.adam(0.1))
    same(ours, twin(adam_direction()))
    first = run(optax.adam(0.1, eps=0.0))[0] - W
    same(first, -0.1 * np.sign(G[0]))
    same(run(optax.adam(0.1, eps=0.0), 1e6 * G), run(optax.adam(0.1, eps=0.0)), 1e-7)
    same(run(optax.adam(0.1, eps=0.0), np.ones((6, 2, 3))), W - 0.1 * np.arange(1, 7)[:, None, None])  # m̂ = g, v̂ = g²
    assert (1 - 0.9) / np.sqrt(1 - 0.999) == pytest.approx(3.1623, abs=1e-4)  # the first step without correction
    same(ours, torch_run("Adam", lr=0.1), 1e-7)


def adamw():
    direction = adam_direction()
    same(run(optax.adamw(0.1, weight_decay=0.3)), twin(lambda g, t, x: direction(g, t, x) + 0.3 * x))
    still = run(optax.adamw(0.1, weight_decay=0.3), np.zeros_like(G))
    same(still, (1 - 0.03) ** np.arange(1, 9)[:, None, None] * W)
    coupled = run(optax.chain(optax.add_decayed_weights(0.3), optax.adam(0.1)))
    assert np.abs(coupled - run(optax.adamw(0.1, weight_decay=0.3))).max() > 1e-2
    same(run(optax.adamw(0.1, weight_decay=0.3)), torch_run("AdamW", lr=0.1, weight_decay=0.3), 1e-7)


def amsgrad():
    top = {"v": 0.0}

    def running(m, v, t):
        top["v"] = np.maximum(top["v"], v / (1 - 0.999**t))
        return top["v"] * (1 - 0.999**t)

    ours = run(optax.amsgrad(0.1))
    same(ours, twin(adam_direction(root=running)))
    state, below = optax.scale_by_amsgrad().init(jnp.asarray(W)), []
    for g in G:
        with jax.numpy_dtype_promotion("standard"):
            _, state = optax.scale_by_amsgrad().update(jnp.asarray(g), state)
        below.append(np.asarray(state.nu_max))
    assert np.all(np.diff(below, axis=0) >= 0)  # the effective step never grows
    # It solves the counterexample to Adam.
    C, ends = 3.0, {}
    for name, method in (("adam", optax.adam), ("amsgrad", optax.amsgrad)):
        opt = method(lambda t: 1 / jnp.sqrt(t + 1.0), b1=0.0, b2=0.1, eps=1e-12)

        def body(carry, t, opt=opt):
            x, state = carry
            with jax.numpy_dtype_promotion("standard"):
                updates, new = opt.update(jnp.where(t % 3 == 1, C, -1.0), state)
            new = jax.tree.map(lambda n, o: n.astype(o.dtype), new, state)
            return (jnp.clip(x + updates, -1, 1), new), None

        x = jnp.zeros([])
        ends[name] = float(jax.lax.scan(body, (x, opt.init(x)), jnp.arange(1, 2000))[0][0])
    assert ends["adam"] > 0.9
    assert ends["amsgrad"] < -0.9


def cosine_schedule():
    t, T = np.arange(21), 20
    ours = values(optax.cosine_decay_schedule(1.0, T, 0.1), 21)
    same(ours, 0.1 + 0.45 * (1 + np.cos(np.pi * t / T)), 1e-9)
    assert (ours[0], ours[-1]) == pytest.approx((1.0, 0.1))
    assert ours.mean() == pytest.approx(0.55)
    cycles = [
        {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 0, "decay_steps": n, "end_value": 0.0} for n in (5, 10)
    ]
    restarts = values(optax.sgdr_schedule(cycles), 15)
    s = np.concatenate([np.arange(5) / 5, np.arange(10) / 10])  # each restart resets the time
    same(restarts, (1 + np.cos(np.pi * s)) / 2, 1e-9)
    same(ours[:20], torch_schedule("CosineAnnealingLR", 1.0, 20, T_max=20, eta_min=0.1), 1e-9)
    same(restarts, torch_schedule("CosineAnnealingWarmRestarts", 1.0, 15, T_0=5, T_mult=2), 1e-9)


def decay_schedules():
    t = np.arange(12)
    same(values(optax.constant_schedule(0.3), 12), 0.3 * np.ones(12))
    same(values(optax.exponential_decay(0.3, 1, 0.9), 12), 0.3 * 0.9**t)
    staircase = values(optax.exponential_decay(0.3, 4, 0.5, staircase=True), 12)
    same(staircase, 0.3 * 0.5 ** (t // 4))
    same(values(optax.piecewise_constant_schedule(0.3, {4: 0.5, 8: 0.5}), 12), staircase)
    same(staircase, torch_schedule("StepLR", 0.3, 12, step_size=4, gamma=0.5))
    same(values(optax.exponential_decay(0.3, 1, 0.9), 12), torch_schedule("ExponentialLR", 0.3, 12, gamma=0.9))


def ema_weights():
    ema = optax.ema(0.8)
    x = jnp.asarray(W)
    state, average = ema.init(x), 0.0
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(5):
            out, state = ema.update(x, state)
            same(out, W)  # a constant is a fixed point, from the first step on
        state = ema.init(x)
        for t, g in enumerate(G, 1):
            out, state = ema.update(jnp.asarray(g), state)
            average = 0.8 * average + 0.2 * g
            same(out, average / (1 - 0.8**t))
    same(optax.incremental_update(jnp.asarray(G[0]), x, 0.25), 0.25 * G[0] + 0.75 * W)


def gradient_accumulation():
    small = optax.MultiSteps(optax.adam(0.1), 4)
    x = jnp.asarray(W)
    state = small.init(x)
    with jax.numpy_dtype_promotion("standard"):
        for g in G:
            updates, state = small.update(jnp.asarray(g), state, x)
            x = x + updates
    large = run(optax.adam(0.1), np.stack([G[:4].mean(0), G[4:].mean(0)]))
    same(x, large[-1], 1e-6)  # the accumulator is a running mean in float32
    # Unequal micro-batches need weights: the plain mean of means is another gradient.
    assert np.abs((G[0] + G[1:4].mean(0)) / 2 - G[:4].mean(0)).max() > 1e-2


def gradient_centralization():
    opt = optax.centralize()
    once, _ = opt.update(jnp.asarray(G[0]), opt.init(jnp.asarray(W)))
    same(once, G[0] - G[0].mean(1, keepdims=True))
    same(opt.update(once, optax.EmptyState())[0], once)  # a projection
    vector = jnp.arange(3.0)
    same(opt.update(vector, optax.EmptyState())[0], vector)
    path = run(optax.chain(opt, optax.sgd(0.1)))
    same(path.mean(2), np.tile(W.mean(1), (8, 1)))  # weight means stay


def gradient_clipping():
    g, none = jnp.asarray(G[0]), optax.EmptyState()
    same(optax.clip(0.5).update(g, none)[0], np.clip(G[0], -0.5, 0.5))
    norm = np.linalg.norm(G[0])
    for c in (norm / 3, norm * 3):
        out = np.asarray(optax.clip_by_global_norm(c).update(g, none)[0])
        same(out, G[0] * min(1, c / norm))
        assert np.linalg.norm(out) <= c * (1 + 1e-12)  # the projection onto the ball
        rng = np.random.default_rng(0)
        others = rng.normal(size=(50, 2, 3))
        others *= c / np.linalg.norm(others, axis=(1, 2), keepdims=True) * rng.uniform(size=(50, 1, 1))
        assert np.all(np.linalg.norm(others - G[0], axis=(1, 2)) >= np.linalg.norm(out - G[0]) - 1e-12)
    block = np.asarray(optax.clip_by_block_rms(0.1).update(g, none)[0])
    assert np.sqrt(np.mean(block**2)) == pytest.approx(0.1)
    unit = np.asarray(optax.adaptive_grad_clip(0.01, axis=1).update(g, none, jnp.asarray(W))[0])
    ratio = np.linalg.norm(unit, axis=1) / np.maximum(np.linalg.norm(W, axis=1), 1e-3)
    assert np.all(ratio <= 0.01 * (1 + 1e-9))
    torch = optional_torch()
    if torch is None:
        return
    p = torch.nn.Parameter(torch.tensor(W))
    for clip, peer in ((optax.clip(0.5), "clip_grad_value_"), (optax.clip_by_global_norm(0.5), "clip_grad_norm_")):
        p.grad = torch.tensor(G[0])
        getattr(torch.nn.utils, peer)([p], 0.5)
        same(clip.update(g, none)[0], p.grad.numpy(), 1e-5)


def gradient_noise():
    eta, gamma, n = 0.3, 0.55, 20_000
    opt = optax.add_noise(eta, gamma, 0)
    x = jnp.zeros(n)
    state = opt.init(x)
    with jax.numpy_dtype_promotion("standard"):
        for t in range(4):
            noise, state = opt.update(x, state)
            variance = eta / (t + 1) ** gamma
            assert float(jnp.var(noise)) == pytest.approx(variance, rel=5 * np.sqrt(2 / n))
            assert abs(float(jnp.mean(noise))) < 5 * np.sqrt(variance / n)


def label_smoothing():
    one_hot, C, eps = np.eye(4)[[2]], 4, 0.1
    smooth = np.asarray(optax.smooth_labels(jnp.asarray(one_hot), eps))
    same(smooth, one_hot * (1 - eps) + eps / C)
    gap = np.log(1 + C * (1 - eps) / eps)  # the finite optimum
    logits = jnp.asarray(gap * one_hot)
    grad = jax.grad(lambda z: optax.softmax_cross_entropy(z, jnp.asarray(smooth)).sum())(logits)
    assert np.abs(grad).max() < 1e-12
    torch = optional_torch()
    if torch is None:
        return
    z = np.random.default_rng(0).normal(size=(1, 4))
    peer = torch.nn.functional.cross_entropy(torch.tensor(z), torch.tensor([2]), label_smoothing=eps)
    same(optax.softmax_cross_entropy(jnp.asarray(z), jnp.asarray(smooth))[0], float(peer))


def lion():
    m, lam = 0.0, 0.2

    def direction(g, t, x):
        nonlocal m
        c = 0.9 * m + 0.1 * g  # the sign is of the interpolation
        m = 0.99 * m + 0.01 * g
        return np.sign(c) + lam * x

    same(run(optax.lion(0.1, weight_decay=lam)), twin(direction))
    same(run(optax.lion(0.1, 0.9, 0.9, weight_decay=0.0)), run(signum_of(0.9)))
    moves = np.diff(np.concatenate([W[None], run(optax.lion(0.1, weight_decay=0.0))]), axis=0)
    same(np.abs(moves), 0.1 * np.ones_like(moves))


def signum_of(decay):
    return optax.chain(optax.ema(decay, debias=False), optax.scale_by_sign(), optax.scale(-0.1))


def lookahead():
    def path(alpha, k=3):
        opt = optax.lookahead(optax.sgd(0.1), k, alpha)
        p = optax.LookaheadParams.init_synced(jnp.asarray(W))
        state, found = opt.init(p), []
        with jax.numpy_dtype_promotion("standard"):
            for g in G:
                updates, state = opt.update(jnp.asarray(g), state, p)
                p = optax.apply_updates(p, updates)
                found.append((np.asarray(p.fast), np.asarray(p.slow)))
        return found

    same([fast for fast, _ in path(1.0)], run(optax.sgd(0.1)))
    x, slow = W, W
    for t, (g, (fast, kept)) in enumerate(zip(G, path(0.5), strict=True), 1):
        x = x - 0.1 * g
        if t % 3 == 0:
            slow = slow + 0.5 * (x - slow)
            x = slow  # the fast weights are reset
        same(fast, x)
        same(kept, slow)


def one_cycle():
    t, n = np.arange(101), 100
    linear = values(optax.linear_onecycle_schedule(n, 1.0, 0.3, 0.8, 10.0, 100.0), 101)
    up = 0.1 + 0.9 * t / 30
    down = 1 - 0.9 * (t - 30) / 50
    tail = 0.1 + (0.001 - 0.1) * (t - 80) / 20
    assert linear[0] == pytest.approx(0.1, rel=1e-5)
    same(linear, np.where(t <= 30, up, np.where(t <= 80, down, tail)), 1e-5, 1e-6)
    cosine = values(optax.cosine_onecycle_schedule(n, 1.0, 0.3, 25.0, 1e4), 101)

    def between(a, b, s):
        return b + (a - b) * (1 + np.cos(np.pi * s)) / 2

    same(cosine, np.where(t <= 30, between(0.04, 1.0, t / 30), between(1.0, 4e-6, (t - 30) / 70)), 1e-5, 1e-6)
    settings = {"max_lr": 1.0, "total_steps": 101, "pct_start": 31 / 101, "cycle_momentum": False}
    same(cosine, torch_schedule("OneCycleLR", 0.1, 101, **settings), 2e-2, 2e-6)


def radam():
    b2, limit, m, v = 0.6, 2 / (1 - 0.6) - 1, 0.0, 0.0

    def direction(g, t, x):
        nonlocal m, v
        m, v = 0.9 * m + 0.1 * g, b2 * v + (1 - b2) * g**2
        rho = limit - 2 * t * b2**t / (1 - b2**t)
        hat = m / (1 - 0.9**t)
        if rho < 5:
            return hat
        r = np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
        return r * hat / (np.sqrt(v / (1 - b2**t)) + 1e-8)

    same(run(optax.radam(0.1, b2=b2)), twin(direction))  # ρ_∞ = 4 here: the fallback throughout
    gradients = np.tile(G, (3, 1, 1))
    same(run(optax.radam(0.1, b2=0.9), gradients), torch_run("RAdam", gradients, lr=0.1, betas=(0.9, 0.9)), 1e-6)
    from corollary.optim.transforms import radam_rectification

    assert float(radam_rectification(jnp.asarray(1e6), 0.999)) == pytest.approx(1, abs=1e-6)


def rmsprop():
    s = 0.0

    def direction(g, t, x):
        nonlocal s
        s = 0.9 * s + 0.1 * g**2
        return g / np.sqrt(s + 1e-8)  # no first moment

    same(run(optax.rmsprop(0.1, 0.9, 1e-8)), twin(direction))
    outside = run(optax.rmsprop(0.1, 0.9, 1e-8, eps_in_sqrt=False))
    same(outside, torch_run("RMSprop", lr=0.1, alpha=0.9, eps=1e-8), 1e-7)


def signum():
    m = 0.0

    def direction(g, t, x):
        nonlocal m
        m = 0.9 * m + 0.1 * g
        return np.sign(m)

    same(run(optax.signum(0.1, 0.9)), twin(direction))
    same(run(optax.sign_sgd(0.1)), twin(lambda g, t, x: np.sign(g)))
    # Steepest descent in the sup norm: no move within the box lowers ⟨g, d⟩ more than −‖g‖_1.
    rng = np.random.default_rng(0)
    moves = rng.uniform(-1, 1, size=(200, 2, 3))
    assert np.all(np.sum(G[0] * moves, (1, 2)) >= -np.abs(G[0]).sum())
    assert np.sum(G[0] * -np.sign(G[0])) == pytest.approx(-np.abs(G[0]).sum())


def warmup():
    constant = values(optax.warmup_constant_schedule(0.0, 1.0, 10), 20)
    same(constant, np.minimum(np.arange(20) / 10, 1))
    whole = values(optax.warmup_cosine_decay_schedule(0.0, 1.0, 10, 30), 31)
    same(whole[:11], np.arange(11) / 10)
    same(whole[10:], (1 + np.cos(np.pi * np.arange(21) / 20)) / 2, 1e-9, 1e-9)
    joined = optax.join_schedules([optax.linear_schedule(0.0, 1.0, 10), optax.cosine_decay_schedule(1.0, 20)], [10])
    same(values(joined, 31), whole, 1e-9, 1e-9)
    assert np.abs(np.diff(whole)).max() <= 0.1 + 1e-9  # continuous at the join


def weight_decay():
    coupled = run(optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1)))
    decoupled = run(optax.chain(optax.sgd(0.1), optax.add_decayed_weights(-0.1 * 0.3)))
    same(coupled, decoupled)  # for SGD, after rescaling by η
    same(coupled, twin(lambda g, t, x: g + 0.3 * x))
    adam = run(optax.chain(optax.add_decayed_weights(0.3), optax.adam(0.1)))
    assert np.abs(adam - run(optax.adamw(0.1, weight_decay=0.3))).max() > 1e-2
    mask = optax.add_decayed_weights(0.5, mask={"w": True, "b": False})
    p = {"w": jnp.ones(2), "b": jnp.ones(2)}
    out, _ = mask.update(jax.tree.map(jnp.zeros_like, p), mask.init(p), p)
    same(out["w"], [0.5, 0.5])
    same(out["b"], [0.0, 0.0])
    A = G[0] @ G[0].T
    hessian = jax.hessian(lambda x: x @ jnp.asarray(A) @ x / 2 + 0.3 / 2 * x @ x)(jnp.zeros(2))
    same(np.linalg.eigvalsh(hessian), np.linalg.eigvalsh(A) + 0.3)
    twice = jax.grad(lambda x: 0.3 * x @ x)(jnp.ones(2))  # without the 1/2 it decays twice as fast
    same(twice, 0.6 * np.ones(2))


def yogi():
    v = 1e-6
    opt = optax.scale_by_yogi(0.9, 0.99, 1e-3)
    state = opt.init(jnp.asarray(W))
    for g in G:
        with jax.numpy_dtype_promotion("standard"):
            _, state = opt.update(jnp.asarray(g), state)
        before = v
        v = v - 0.01 * np.sign(v - g**2) * g**2
        same(state.nu, v)
        assert np.all(np.asarray(state.nu) >= 0)
        assert np.all((v - before) * (g**2 - before) >= 0)  # toward g²
    m, v = 1e-6, 1e-6

    def direction(g, t, x):
        nonlocal m, v
        m, v = 0.9 * m + 0.1 * g, v - 0.01 * np.sign(v - g**2) * g**2
        return m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-3)

    same(run(optax.yogi(0.1, b2=0.99)), twin(direction))


GIVENS = {
    "adadelta": adadelta,
    "adafactor": adafactor,
    "adagrad": adagrad,
    "adam": adam,
    "adamw": adamw,
    "amsgrad": amsgrad,
    "cosine-schedule": cosine_schedule,
    "decay-schedules": decay_schedules,
    "ema-weights": ema_weights,
    "gradient-accumulation": gradient_accumulation,
    "gradient-centralization": gradient_centralization,
    "gradient-clipping": gradient_clipping,
    "gradient-noise": gradient_noise,
    "label-smoothing": label_smoothing,
    "lion": lion,
    "lookahead": lookahead,
    "one-cycle": one_cycle,
    "radam": radam,
    "rmsprop": rmsprop,
    "signum": signum,
    "warmup": warmup,
    "weight-decay": weight_decay,
    "yogi": yogi,
}


@pytest.mark.parametrize(
    "check", [pytest.param(check, id=name, marks=pytest.mark.covers(name)) for name, check in GIVENS.items()]
)
def test_given(check, x64):
    check()
