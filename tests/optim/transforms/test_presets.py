"""Laws over the table of optimizers: each entry is a sound Optax transformation; and the presets built from it."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from corollary.core.errors import InputError
from corollary.optim import transforms as T
from corollary.optim.transforms import OPTIMIZERS, PRESETS, available_optimizers, optimizer, optimizer_cost, preset

NAMES = [name for name in available_optimizers() if name != "barzilai_borwein"]
RATES = {
    "sgd": 0.05,
    "adadelta": 1.0,
    "pid": 0.02,
    "muon": 0.05,
    "adagrad": 0.3,
    "diloco": 0.05,
    "barzilai_borwein": 0.1,
}
KEY = jax.random.key(0)


def built(name, learning_rate=None, **more):
    if name == "ranger21":
        more = {"total_steps": 200, "warmup_steps": 5, **more}
    return optimizer(name, learning_rate=RATES.get(name, 0.05) if learning_rate is None else learning_rate, **more)


def start(dtype="float32"):
    """Leaves of three ranks, a scalar among them."""
    tree = {"w": np.arange(1, 7).reshape(3, 2) / 4, "b": (np.array([1.0, -2.0]), np.array(3.0))}
    return jax.tree.map(lambda x: jnp.asarray(x.astype(dtype)), tree)


def curvature(tree):
    return jax.tree.map(lambda x: (1 + jnp.arange(x.size).reshape(x.shape) / 4).astype(x.dtype), tree)


def loss(params):
    h = curvature(params)
    return sum(jnp.sum(c * x**2) for c, x in zip(jax.tree.leaves(h), jax.tree.leaves(params), strict=True)) / 2


def stepper(opt, counts):
    def step(params, state, key):
        counts[0] += 1
        gradient = jax.grad(loss)
        extra = {"grad_fn": gradient, "value_fn": loss, "key": key}
        updates, state = opt.update(gradient(params), state, params, **extra)
        return jax.tree.map(lambda p, u: p + u, params, updates), state

    return step


@pytest.mark.covers("optimizer-registry")
@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_is_a_sound_transformation(name):
    """Decreases a quadratic; jit = no jit; no recompile; chains; state a pytree of arrays of constant types."""
    opt, counts = optax.chain(optax.clip_by_global_norm(1e6), built(name)), [0]
    x0 = start()
    state0 = opt.init(x0)
    step = stepper(opt, counts)
    jitted = jax.jit(step)
    x, state = x0, state0
    for k in range(40):
        x, state = jitted(x, state, jax.random.fold_in(KEY, k))
        if k == 0:
            first = x
    assert float(loss(x)) < 0.9 * float(loss(x0)), float(loss(x))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(x))
    with jax.disable_jit(name not in ("shampoo", "soap", "muon", "adahessian", "sassha", "sophia")):
        plain, _ = step(x0, state0, jax.random.fold_in(KEY, 0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), first, plain)
    counts[0] = 0
    hyper = state[1].hyperparams
    changed = T.with_hyperparameters(state, **{k: 0.9 * float(v) for k, v in hyper.items()})
    jitted(x, changed, KEY)
    assert counts[0] == 0  # nothing was traced anew
    assert "learning_rate" in hyper
    assert jax.tree.structure(state) == jax.tree.structure(state0)
    types = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]
    assert types == [(jnp.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(state0)]


@pytest.mark.parametrize("name", NAMES)
def test_precision_is_kept_and_schedules_are_accepted(name):
    def shapes(opt, params):
        state = jax.eval_shape(opt.init, params)
        out = jax.eval_shape(stepper(opt, [0]), params, state, KEY)
        assert jax.tree.map(lambda x: x.dtype, out[0]) == jax.tree.map(lambda x: x.dtype, params)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), out[1]) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
        return [x.dtype for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]

    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), start())
    assert set(shapes(built(name), narrow)) <= {jnp.dtype("float32")}
    shapes(built(name, learning_rate=optax.linear_schedule(0.1, 0.0, 10)), start())
    with jax.enable_x64(True):
        found = shapes(built(name), start("float64"))
        assert jnp.dtype("float64") in found


class Counting:
    """Counts calls while Python runs: one step, not compiled."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


@pytest.mark.parametrize("name", NAMES)
def test_costs_are_what_is_seen(name):
    x = start()
    n = sum(leaf.size for leaf in jax.tree.leaves(x))
    exact, counted = (
        optimizer_cost(name, x, **({"total_steps": 9} if name == "ranger21" else {})),
        optimizer_cost(name, n),
    )
    state = jax.eval_shape(built(name).init, x)
    actual = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert exact.state_bytes == actual
    scalars = sum(leaf.dtype.itemsize for leaf in jax.tree.leaves(state) if leaf.size <= 2 and leaf.shape in ((), (2,)))
    if counted.state_bytes is not None:
        # What is left are counters and hyperparameters, all scalars.
        assert 0 <= actual - counted.state_bytes <= scalars, (actual, counted.state_bytes, scalars)
    gradient = Counting(jax.grad(loss))
    if counted.products == 0 and not set(counted.needs) & {"value_fn"}:
        opt = built(name)

        def step(params, state):
            return opt.update(gradient(params), state, params, grad_fn=gradient)

        jax.eval_shape(step, x, state)
        assert gradient.calls == counted.gradients


def test_the_table_says_why_and_refuses_with_a_hint():
    assert all(entry.helps for entry in OPTIMIZERS.values())
    with pytest.raises(InputError, match=r"did you mean 'shampoo'"):
        optimizer("champoo", learning_rate=0.1)
    with pytest.raises(InputError, match="rate: found a setting that 'lion' does not have"):
        optimizer("lion", learning_rate=0.1, rate=1.0)
    with pytest.raises(InputError, match="learning_rate: found None, expected it for 'adamw'"):
        optimizer("adamw")
    with pytest.raises(InputError, match="rho: found -1"):
        optimizer("sam", learning_rate=0.1, rho=-1.0)
    with pytest.raises(InputError, match="no such number"):
        T.with_hyperparameters(optimizer("adam", learning_rate=0.1).init(jnp.ones(2)), gamma=1.0)
    for bad, text in (({"learning_rate": -1.0}, "learning_rate: found -1"), ({"b1": 2.0}, "b1: found 2")):
        with pytest.raises(InputError, match=text):
            optimizer("adamw", **{"learning_rate": 0.1, **bad})  # Optax itself would take them
    assert optimizer_cost("sgd", 1000, momentum=None).state_bytes == 0
    assert optimizer_cost("adamw", 1000, b1=0.8).state_bytes == 8000
    opt = optimizer("sam", learning_rate=0.1)
    with pytest.raises(InputError, match="grad_fn: found None"):
        opt.update(jnp.ones(2), opt.init(jnp.ones(2)), jnp.ones(2))
    opt = optimizer("ranger", learning_rate=0.1)
    with pytest.raises(InputError, match="params: found None"):
        opt.update(jnp.ones(2), opt.init(jnp.ones(2)))


def test_every_constructor_documents_memory_cost_defaults_and_use():
    ours = [T.sam, T.unified_sam, T.friendly_sam, T.momentum_sam, T.mnsam, T.zsharp, T.diloco, T.diloco_outer]
    ours += [T.norm_loss, T.positive_negative_momentum, T.pid, T.refined_lion, T.curvature_scaled_lion, T.mars]
    ours += [T.stable_weight_decay, T.ranger, T.ranger21, T.compressed_gradient, T.weight_average, T.grad_norm_monitor]
    ours += [T.second_to_first_switch, T.svrg, T.saga, T.barzilai_borwein, T.float32_state]
    for function in ours:
        text = inspect.getdoc(function)
        for word in ("Memory:", "Cost:", "Defaults:", "When:"):
            assert word in text, (function.__name__, word)


@pytest.mark.covers("optimizer-presets")
def test_presets_equal_the_chain_composed_by_hand():
    x, grads = start(), jax.tree.map(lambda v: v * 3, start())
    steps = 20
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 1, steps)
    by_hand = {
        "adamw": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.1)),
        "lion": optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.lion(optax.warmup_cosine_decay_schedule(0.0, 2e-4, 1, steps), weight_decay=0.5),
        ),
        "sgd": optax.sgd(optax.warmup_cosine_decay_schedule(0.0, 0.1, 1, steps), 0.9, nesterov=True),
    }
    for name, peer in by_hand.items():
        opt = preset(name, steps)
        state, other = opt.init(x), peer.init(x)
        with jax.numpy_dtype_promotion("standard"):
            for k in range(3):
                g = jax.tree.map(lambda v, k=k: v * (k - 1.5), grads)
                ours, state = opt.update(g, state, x)
                theirs, other = peer.update(g, other, x)
                jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-9), ours, theirs)
    ratio = dict(PRESETS["lion"].settings)["weight_decay"] / dict(PRESETS["adamw"].settings)["weight_decay"]
    assert 3 <= ratio <= 10
    assert 3 <= PRESETS["adamw"].learning_rate / PRESETS["lion"].learning_rate <= 10
    with pytest.raises(InputError, match="name: found 'nothing'"):
        preset("nothing", 10)
    with pytest.raises(InputError, match="which has no preset"):
        preset("yogi", 10)
    assert preset("yogi", 10, learning_rate=0.1).init(x)
    assert preset("barzilai_borwein", 10, learning_rate=0.1).init(x)  # the rate is its first step
    with pytest.raises(InputError, match="warmup, floor: found one for 'barzilai_borwein'"):
        preset("barzilai_borwein", 10, learning_rate=0.1, warmup=0.5)
    settled = []
    for asked in ({}, {"warmup": 0.5}):  # Ranger21's own ramp follows what is asked
        opt, w = preset("ranger21", 10, **asked), jnp.ones(3)
        settled.append(float(opt.update(w, opt.init(w), w)[0][0]))
    assert settled[1] == pytest.approx(settled[0] * 2 / 5, rel=0.05)
    with pytest.raises(InputError, match="learning_rate: found a schedule"):
        preset("adamw", 10, learning_rate=rate)
    # SAM steps along the gradient uphill: that is the one to be clipped.
    plain = {"learning_rate": 1.0, "schedule": "constant", "warmup": 0.0, "momentum": 0.0}
    opt, w = preset("sam", 10, clip=1.0, **plain), jnp.array([3.0, 4.0])
    step, _ = opt.update(1e3 * w, opt.init(w), w, grad_fn=lambda p: 1e3 * p)
    np.testing.assert_allclose(step, [-0.6, -0.8], rtol=1e-5)


@pytest.mark.parametrize("name", [n for n in PRESETS if n in available_optimizers()])
def test_each_preset_trains_a_reference_task(name):
    """Logistic regression on two blobs, 60 steps at ten times the (large-network) rate where that is small."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3)).astype(np.float32)
    y = np.stack([X @ np.float32([1, -2, 0.5]), X @ np.float32([-1, 0, 2])], 1).argmax(1)

    def task(p):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(X @ p["w"] + p["b"], y))

    steps = 60
    opt = preset(name, steps, learning_rate=0.3 if name == "ranger" else max(PRESETS[name].learning_rate, 0.03))
    x = {"w": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32) / 4, "b": jnp.zeros(2, jnp.float32)}
    gradient = jax.grad(task)

    @jax.jit
    def run(x):
        def body(carry, _):
            p, s = carry
            updates, s = opt.update(gradient(p), s, p, grad_fn=gradient)
            return (optax.apply_updates(p, updates), s), None

        return jax.lax.scan(body, (x, opt.init(x)), length=steps)[0][0]

    assert float(task(run(x))) < 0.75 * float(task(x))


@pytest.mark.covers("optimizer-advisor")
def test_the_advisor_gives_the_tables_answers_with_reasons():
    cases = {
        "Newton": T.recommend_optimizer(100, full_batch=True),
        "L-BFGS": T.recommend_optimizer(50_000, full_batch=True),
        "Hessian-free": T.recommend_optimizer(5_000_000, full_batch=True, curvature_cost=10.0),
        "Lion": T.recommend_optimizer(10**10, memory_per_parameter=1.0),
        "Adafactor": T.recommend_optimizer(10**9, memory_per_parameter=0.1),
        "AdamW": T.recommend_optimizer(10**8, noise_ratio=100.0),
        "orthogonalised momentum": T.recommend_optimizer(10**8, noise_ratio=5.0),
        "Kronecker-factored": T.recommend_optimizer(10**7, noise_ratio=0.5),
    }
    for family, found in cases.items():
        assert found.family == family
        assert len(found.reasons) >= 2
        assert family in str(found)
        assert found.name is None or found.name in OPTIMIZERS
    assert T.recommend_optimizer(10**6, matrices=False).name == "adamw"
    assert T.recommend_optimizer(10**6, curvature_cost=10.0).name == "adamw"
    assert "100" in cases["AdamW"].reasons[0]
    with pytest.raises(InputError, match="noise_ratio"):
        T.recommend_optimizer(10, full_batch=True, noise_ratio=3.0)
    with pytest.raises(InputError, match="parameters: found 0"):
        T.recommend_optimizer(0)
