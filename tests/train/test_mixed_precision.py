"""Low precision: loss scales, master weights, delayed updates, and recomputation instead of memory."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from corollary.core.errors import InputError
from corollary.train import (
    ArrayFeed,
    DynamicScale,
    ExponentialAverage,
    GeneratedFeed,
    Policy,
    StaticScale,
    TailAverage,
    Trainer,
    delayed_updates,
    unscale,
)

SGD = optax.sgd(0.1)
RNG = np.random.default_rng(0)
FEED = ArrayFeed((RNG.normal(size=(32, 4)).astype(np.float32), RNG.normal(size=32).astype(np.float32)), 8)


def loss(model, batch, key):
    del key
    x, y = batch
    return jnp.mean((jnp.tanh(x @ model["w"]) @ model["v"] - y) ** 2)


def model():
    return {"w": jnp.ones((4, 3)) / 3, "v": jnp.ones(3)}


def naive_scale(finite, scale, growth=2.0, backoff=0.5, interval=5):
    """GradScaler's update, written plainly."""
    scales, tracker = [], 0
    for ok in finite:
        if not ok:
            scale, tracker = scale * backoff, 0
        else:
            tracker += 1
            if tracker == interval:
                scale, tracker = scale * growth, 0
        scales.append(scale)
    return scales


@pytest.mark.covers("loss-scaling")
def test_the_dynamic_schedule_is_gradscalers():
    rule = DynamicScale(initial=1024.0, interval=5)
    for seed in range(4):
        finite = np.random.default_rng(seed).random(60) > 0.15
        _, scales = jax.lax.scan(lambda s, ok: (rule.update(s, ok),) * 2, rule.init(), jnp.asarray(finite))
        np.testing.assert_array_equal(scales.scale, naive_scale(finite, 1024.0))
    top = DynamicScale(initial=2.0**127, interval=1)
    assert float(top.update(top.init(), True).scale) == 2.0**127  # it may not become infinite


def test_the_dynamic_schedule_is_torchs_own():
    torch = pytest.importorskip("torch")
    finite = np.random.default_rng(9).random(50) > 0.2
    scale, tracker, ours = torch.tensor([1024.0]), torch.tensor([0], dtype=torch.int32), naive_scale(finite, 1024.0)
    for ok, expected in zip(finite, ours, strict=True):
        torch._amp_update_scale_(scale, tracker, torch.tensor([0.0 if ok else 1.0]), 2.0, 0.5, 5)
        assert float(scale) == expected


@pytest.mark.covers("loss-scaling")
def test_a_power_of_two_scales_without_rounding():
    plain = Trainer(model(), loss, SGD).fit(FEED, steps=6)
    for scale in (2.0**-8, 2.0**12):
        scaled = Trainer(model(), loss, SGD, loss_scale=StaticScale(scale)).fit(FEED, steps=6)
        assert np.array_equal(scaled.value["w"], plain.value["w"])
    gradients, finite = unscale({"w": jnp.array([8.0, jnp.inf])}, 8.0)
    assert gradients["w"][0] == 1
    assert not finite


@pytest.mark.covers("loss-scaling")
def test_an_overflow_skips_the_step_and_backs_off():
    def steep(w, batch, key):
        del batch, key
        return 64 * w  # times 2¹⁶ it leaves float16's range: the gradient overflows until the scale is below 2¹⁰

    policy = Policy(compute="float16", output="float32")
    trainer = Trainer(jnp.float32(1), steep, SGD, policy=policy, loss_scale=DynamicScale())
    solution = trainer.fit(GeneratedFeed(jax.random.normal), steps=8)
    state = solution.stats["train_state"]
    overflows = int(state.overflows)
    assert 0 < overflows < 8
    assert float(state.scale.scale) == 2.0 ** (16 - overflows)
    assert float(solution.value) == pytest.approx(1 - 6.4 * (8 - overflows), rel=1e-5)
    assert solution.holds  # an overflow that the scale answered is no failure of the run
    # At the floor an overflow is no matter of scaling any more.
    stuck = Trainer(jnp.float32(1), lambda w, b, k: w * jnp.inf, SGD, loss_scale=DynamicScale(initial=4.0))
    assert not stuck.fit(GeneratedFeed(jax.random.normal), steps=8).holds


@pytest.mark.covers("mixed-precision")
def test_the_float32_policy_is_the_identity_and_dtypes_are_the_policys():
    plain = Trainer(model(), loss, SGD).fit(FEED, steps=5)
    policy = Policy(compute="float32", params="float32", output="float32")
    same = Trainer(model(), loss, SGD, policy=policy).fit(FEED, steps=5)
    assert np.array_equal(plain.value["w"], same.value["w"])
    assert np.array_equal(plain.history["loss"], same.history["loss"])

    seen = {}

    def look(model, batch, key):
        seen.update(w=model["w"].dtype, x=batch[0].dtype)
        return loss(model, batch, key)

    half = Trainer(model(), look, SGD, policy=Policy(compute="bfloat16", output="float32")).fit(FEED, steps=20)
    assert seen == {"w": jnp.bfloat16, "x": jnp.bfloat16}
    assert half.value["w"].dtype == jnp.float32
    assert half.history["loss"].dtype == np.float32
    exact = Trainer(model(), loss, SGD).fit(FEED, steps=20)
    np.testing.assert_allclose(half.value["w"], exact.value["w"], atol=20 * 0.1 * 2.0**-7)


@pytest.mark.covers("mixed-precision", "delayed-update")
def test_updates_below_half_an_ulp_stagnate_without_master_weights():
    """At 1, bfloat16's ulp is 2⁻⁷; 256 updates of 2⁻¹⁰ add up to 1/4, or to nothing."""

    def slope(w, batch, key):
        del batch, key
        return -w

    feed, tiny = GeneratedFeed(jax.random.normal), optax.sgd(2.0**-10)
    low = Policy(params="bfloat16")
    lost = Trainer(jnp.ones(()), slope, tiny, policy=low).fit(feed, steps=256)
    assert float(lost.value) == 1
    master = Trainer(jnp.ones(()), slope, tiny, policy=Policy(compute="bfloat16")).fit(feed, steps=256)
    assert float(master.value) == 1.25
    kept = Trainer(jnp.ones(()), slope, optax.chain(tiny, delayed_updates()), policy=low).fit(feed, steps=256)
    assert kept.value.dtype == jnp.bfloat16
    assert abs(float(kept.value) - 1.25) <= 2.0**-7


@pytest.mark.covers("delayed-update")
@pytest.mark.parametrize("low", ["bfloat16", "float16"])
def test_the_sum_of_updates_is_kept_to_one_ulp(low):
    rng = np.random.default_rng(1)
    ulp = float(jnp.finfo(low).eps)
    start = jnp.asarray(rng.uniform(1, 1.9, 32), low)
    updates = jnp.asarray(rng.normal(size=(300, 32)) * ulp / 40 + ulp / 200, low)
    rule = delayed_updates()

    def step(carry, u):
        w, state, plain = carry
        applied, state = rule.update(u, state, w)
        return (optax.apply_updates(w, applied), state, optax.apply_updates(plain, u)), None

    (kept, _, plain), _ = jax.jit(lambda: jax.lax.scan(step, (start, rule.init(start), start), updates))()
    exact = np.asarray(start, float) + np.asarray(updates, float).sum(0)
    assert np.abs(np.asarray(kept, float) - exact).max() <= 2 * ulp  # an ulp below 2, twice that just above
    assert np.array_equal(plain, start)
    with pytest.raises(InputError, match="params: found None"):
        rule.update(updates[0], rule.init(start))
    with pytest.raises(InputError, match="dtype: found 'int8'"):
        delayed_updates("int8")


@pytest.mark.covers("gradient-checkpointing")
@pytest.mark.parametrize("checkpoint", [jax.checkpoint, eqx.filter_checkpoint])
def test_recomputed_gradients_are_identical_and_store_a_root_as_much(checkpoint):
    n, root, width = 36, 6, 8
    weights = jnp.asarray(RNG.normal(size=(n, width, width)) / width**0.5, jnp.float32)

    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(w @ x), None), x, weights)[0]

    def segments(x, weights):
        recomputed = checkpoint(layers)
        grouped = weights.reshape(root, root, width, width)
        return jax.lax.scan(lambda x, w: (recomputed(x, w), None), x, grouped)[0]

    x = jnp.ones(width)
    plain, saved_plain = jax.vjp(lambda x: layers(x, weights).sum(), x)
    again, saved_again = jax.vjp(lambda x: segments(x, weights).sum(), x)
    one = jnp.ones(())
    # The same operations on the same numbers; a compiler that fuses them otherwise may round otherwise.
    gradient, again_gradient = saved_plain(one)[0], saved_again(one)[0]
    eps = np.finfo(np.float32).eps
    np.testing.assert_allclose(again_gradient, gradient, rtol=0, atol=n * eps * np.abs(gradient).max())
    np.testing.assert_allclose(again, plain, atol=n * width * eps)

    def stored(saved):  # activations: all that the backward pass keeps, but for the weights themselves
        leaves = [leaf for leaf in jax.tree.leaves(saved) if hasattr(leaf, "size")]
        return sum(leaf.size for leaf in leaves if leaf.size % (width * width * n))

    assert stored(saved_plain) >= n * width
    assert stored(saved_again) <= (root + 1) * width


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Policy(compute="int8"), "compute: found 'int8'"),
        (lambda: Policy(output="half-ish"), "output: found 'half-ish'"),
        (lambda: DynamicScale(growth=0.5), "growth: found 0.5"),
        (lambda: DynamicScale(backoff=2.0), "backoff: found 2.0"),
        (lambda: StaticScale(0.0), "scale: found 0.0"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("rule", [ExponentialAverage(0.999), TailAverage()])
def test_averages_of_low_precision_weights_are_kept_in_float32(rule):
    """1 − 0.999 rounds to nothing in bfloat16, and so would each contribution to the mean of many."""
    iterates = [jnp.asarray(1 + k % 2, jnp.bfloat16) for k in range(400)]
    state = rule.init(jnp.asarray(1.0, jnp.bfloat16))
    update = jax.jit(rule.update)
    for k, x in enumerate(iterates):
        state = update(state, x, k)
    assert state.params.dtype == jnp.float32
    expected = 1 + (1 - 0.999**400) / 2 if isinstance(rule, ExponentialAverage) else 1.5
    np.testing.assert_allclose(state.params, expected, rtol=1e-3)
