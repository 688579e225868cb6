"""Distillation, pruning and FP8: limits, optimality and rounding against closed forms."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from corollary import train
from corollary.core.errors import InputError


@pytest.fixture(scope="module")
def logits():
    rng = np.random.default_rng(0)
    z, v = 2 * rng.standard_normal((2, 16, 5))
    return z - z.mean(1, keepdims=True), v - v.mean(1, keepdims=True), rng.integers(0, 5, 16)


@pytest.mark.covers("knowledge-distillation")
def test_hot_softmax_gradient_is_the_difference_of_logits(logits, dtype):
    z, v = (jnp.asarray(a, dtype) for a in logits[:2])
    slope = jax.jit(
        jax.grad(lambda z, T: jnp.sum(train.distillation_loss(z, v, temperature=T, alpha=jnp.ones((), dtype))))
    )
    for T in (1e3, 1e5, 1e8):
        # The next order is (z² − v²)/T; what remains is rounding, at any temperature.
        error = jnp.max(jnp.abs(slope(z, jnp.asarray(T, dtype)) - (z - v) / 5))
        assert float(error) <= 40 / T + 30 * float(jnp.finfo(dtype).eps)


@pytest.mark.covers("knowledge-distillation")
def test_soft_term_is_the_divergence_and_without_it_the_cross_entropy(logits, dtype):
    z, v = (jnp.asarray(a, dtype) for a in logits[:2])
    labels = jnp.asarray(logits[2])
    ours = train.distillation_loss(z, v, labels, temperature=3.0, alpha=0.0)
    plain = optax.softmax_cross_entropy_with_integer_labels(z, labels)
    np.testing.assert_array_equal(ours, plain)
    assert not np.any(train.distillation_loss(z, z, temperature=2.0))
    for T in (0.05, 1.0, 30.0):
        a, b = logits[0] / T, logits[1] / T
        log_q, log_p = (x - np.log(np.sum(np.exp(x - x.max(1, keepdims=True)), 1, keepdims=True)) for x in (a, b))
        log_q, log_p = log_q - a.max(1, keepdims=True), log_p - b.max(1, keepdims=True)
        eps = float(jnp.finfo(dtype).eps)
        twin = T**2 * np.sum(np.exp(log_p) * (log_p - log_q), axis=1)
        found = train.distillation_loss(z, v, temperature=T, alpha=1.0)
        np.testing.assert_allclose(found, twin, rtol=200 * eps, atol=20 * (eps * min(1, T * T) + 2.3e-16 * T * T))


@pytest.mark.covers("magnitude-pruning")
def test_sparsity_is_exact_and_structures_are_whole():
    w = {"a": jax.random.normal(jax.random.key(0), (6, 8)), "b": jnp.ones(10)}
    for share in (0.0, 0.25, 0.5, 0.9):
        run = train.prune(w, share)
        assert run.holds
        for name, leaf in run.value[0].items():
            assert int(jnp.sum(~run.value[1][name])) == int(share * leaf.size)
            assert not np.any(np.where(run.value[1][name], 0, leaf))
    whole = train.prune(w, 0.5, scope="global")
    assert int(sum(jnp.sum(~m) for m in whole.value[1].values())) == 29
    assert whole.holds
    rows = train.prune(w, 0.5, structure="row").value[1]["a"]
    columns = train.prune(w, 0.5, structure="column").value[1]["a"]
    assert sorted(np.asarray(rows).sum(1)) == [0] * 3 + [8] * 3
    assert sorted(np.asarray(columns).sum(0)) == [0] * 4 + [6] * 4
    two_four = train.prune(w, 0.0, structure="n:m")
    assert np.all(np.asarray(two_four.value[1]["a"]).reshape(6, 2, 4).sum(-1) == 2)
    mixed = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.linspace(0.998, 1.002, 5)}  # ranked in the wider precision
    assert train.prune(mixed, 0.5, scope="global").value[1]["b"].tolist() == [False, False, True, True, True]
    assert train.prune(np.arange(4.0), 0.5).value[0].dtype == np.float64
    for factor in (1e-12, 1e12):  # a change of units prunes the same weights
        scaled = jax.tree.map(lambda leaf, f=factor: leaf * jnp.asarray(f, leaf.dtype), w)
        for structure in ("entry", "row"):
            one, two = (train.prune(tree, 0.4, structure=structure).value[1] for tree in (w, scaled))
            assert all(np.array_equal(one[k], two[k]) for k in w)


@pytest.mark.covers("magnitude-pruning")
def test_saliency_is_optimal_for_a_diagonal_hessian():
    rng = np.random.default_rng(1)
    w, h = rng.standard_normal(8), rng.uniform(0.1, 10, 8)
    run = train.prune(jnp.asarray(w), 0.5, hessian=jnp.asarray(h))
    rise = min(sum(h[list(drop)] * w[list(drop)] ** 2) / 2 for drop in itertools.combinations(range(8), 4))
    assert float(run.certificates["loss_rise"].measured) == pytest.approx(rise, rel=1e-5)
    plain = np.sort(np.argsort(np.abs(w))[:4])
    assert not np.array_equal(plain, np.flatnonzero(~np.asarray(run.value[1])))  # magnitude alone would not do


@pytest.mark.covers("magnitude-pruning")
def test_pruned_weights_stay_zero_in_training():
    w, masks = train.prune(jax.random.normal(jax.random.key(2), (4, 4)), 0.5).value
    optimizer = optax.chain(optax.adamw(0.1), train.keep_pruned(masks))

    def step(carry, _):
        w, state = carry
        updates, state = optimizer.update(jax.grad(lambda w: jnp.sum((w - 1) ** 2))(w), state, w)
        return (optax.apply_updates(w, updates), state), None

    with jax.numpy_dtype_promotion("standard"):  # as Optax wants it
        (w, _), _ = jax.lax.scan(step, (w, optimizer.init(w)), length=20)
    assert not np.any(np.where(masks, 0, w))
    assert np.all(np.where(masks, w, 1))


@pytest.mark.covers("fp8-quantization")
@pytest.mark.parametrize(("name", "unit"), [("e4m3", 2.0**-4), ("e5m2", 2.0**-3)])
def test_fp8_rounds_within_half_a_unit(name, unit, dtype):
    x = jax.random.normal(jax.random.key(0), (2000,), dtype) * jnp.exp2(
        jax.random.randint(jax.random.key(1), (2000,), -3, 4).astype(dtype)
    )
    run = train.quantize_fp8(x, name)
    assert run.holds
    assert 0.8 * unit < float(run.certificates["relative_error"].measured) <= unit * (1 + 1e-6)
    assert float(run.stats["saturated"]) == 0
    # The hardware's own format, through ml_dtypes, agrees on the scaled values.
    kind = {"e4m3": jnp.float8_e4m3fn, "e5m2": jnp.float8_e5m2}[name]
    cast = (x * run.stats["scale"]).astype(kind).astype(dtype) / run.stats["scale"]
    np.testing.assert_array_equal(run.value, cast)
    for power in (-40, 40):  # powers of two change nothing but the scale
        other = train.quantize_fp8(jnp.ldexp(x, power), name).value
        np.testing.assert_array_equal(other, jnp.ldexp(run.value, power))


@pytest.mark.covers("fp8-quantization")
def test_delayed_scale_follows_the_largest_entry_and_saturates():
    state = train.DelayedScale.start(2)
    assert float(state.scale) == 1
    state = state.after(jnp.array([3.0])).after(jnp.array([0.5]))
    assert float(state.scale) == float(train.fp8_scale(3.0)) == 128
    assert float(state.after(jnp.array([0.25])).scale) == 512  # the 3 is forgotten
    assert float(state.after(jnp.array([jnp.inf])).scale) == 128
    late = train.quantize_fp8(jnp.array([100.0, 1.0]), scale=state.scale)
    assert late.value.tolist() == [3.5, 1.0]
    assert float(late.stats["saturated"]) == 0.5
    assert not np.any(train.quantize_fp8(jnp.zeros(3)).value)


def test_fp8_passes_gradients_in_e5m2():
    x = jnp.array([1.1, 0.3])
    value, pull = jax.vjp(train.fp8, x)
    np.testing.assert_array_equal(value, train.quantize_fp8(x).value)
    g = jnp.array([0.7, 1e-3])
    np.testing.assert_array_equal(pull(g)[0], train.quantize_fp8(g, "e5m2").value)
    # An overflow stays one, for a loss scale to see, and does not spoil the others.
    spoilt = jnp.array([jnp.inf, 1.125])
    np.testing.assert_array_equal(train.fp8(spoilt), spoilt)
    np.testing.assert_array_equal(pull(spoilt)[0], jnp.array([jnp.inf, 1.0]))
    assert train.fp8(jnp.zeros(0)).shape == (0,)


def test_refusals():
    w = jnp.ones((2, 6))
    for call, words in (
        (lambda: train.distillation_loss(w, w, jnp.array([-1, 2])), "labels: found one outside the classes"),
        (lambda: train.prune(w, 0.5, hessian=-w), "hessian: found"),
        (lambda: train.prune(w, 0.5, hessian=jnp.ones(())), "hessian: found shapes"),
        (lambda: train.quantize_fp8(w, scale=3.0), "scale: found 3.0, expected a power of two"),
        (lambda: train.quantize_fp8(w, scale=0.0), "scale: found"),
        (lambda: train.distillation_loss(w, w[:1]), "teacher: found shape"),
        (lambda: train.distillation_loss(w, w, temperature=0.0), "temperature: found 0.0"),
        (lambda: train.distillation_loss(w, w, w), "labels: found float32"),
        (lambda: train.prune(w, 1.0), "sparsity: found 1"),
        (lambda: train.prune(w, 0.5, structure="row", scope="global"), "scope: found 'global'"),
        (lambda: train.prune(w, 0.5, structure="n:m", pattern=(2, 4)), "pattern: found"),
        (lambda: train.prune({"w": w}, 0.5, hessian=w), "hessian: found another structure"),
        (lambda: train.quantize_fp8(w, "fp16"), "name: found 'fp16'"),
        (lambda: train.quantize_fp8(jnp.array([jnp.nan])), "x: found NaN"),
    ):
        with pytest.raises(InputError, match=words):
            call()
