"""Edges of the room: what is refused, what stays finite, and derivatives and counts that are easy to get wrong."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary import nn
from corollary.core.errors import InputError

KEY = jax.random.key(0)


@pytest.mark.covers("softmax-pool")
def test_softmax_pool_has_the_derivative_of_its_formula(x64):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 3)))

    def plain(x, t):
        w = jnp.exp(x / t)
        return nn.avg_pool(w * x) / nn.avg_pool(w)

    for order in (jax.grad, lambda f, **_: jax.grad(lambda x, t: jnp.sum(jnp.sin(jax.grad(f)(x, t))))):
        ours, expected = (
            jax.jit(order(lambda x, t, f=f: jnp.sum(jnp.cos(f(x, t)))))(x, 0.7)
            for f in (lambda x, t: nn.softmax_pool(x, temperature=t), plain)
        )
        np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-13)


def test_dropout_without_a_key_is_refused_and_inference_mode_is_obeyed():
    x = jnp.ones((2, 8, 3))
    nets = (nn.TCN(3, (3,), dropout=0.5, key=KEY), nn.TextCNN(3, 2, widths=(2,), filters=2, key=KEY))
    for net in nets:
        with pytest.raises(InputError, match=r"key: found None, expected a key for dropout of rate 0\.5"):
            net(x)
        still = net(x, inference=True)
        np.testing.assert_array_equal(still, eqx.nn.inference_mode(net)(x, key=KEY))
        assert float(jnp.max(jnp.abs(net(x, key=KEY) - still))) > 1e-3
    with pytest.raises(InputError, match="key: found None"):
        nn.RecurrentNetwork(3, 2, 1, cell="elman", dropout=0.1, key=KEY)(x)
    with pytest.raises(InputError, match="key: found None"):
        nn.ConvNet((2, 2, 1), 2, (1,), dropout=0.1, key=KEY)(jnp.ones((1, 2, 2, 1)))


@pytest.mark.covers("batch-norm")
def test_batch_norm_refuses_one_value_per_channel_in_training():
    norm, state = eqx.nn.make_with_state(nn.BatchNorm)(3)
    with pytest.raises(InputError, match="expected at least two values per channel"):
        norm(jnp.ones((1, 3)), state)
    assert norm(jnp.ones((1, 3)), state, inference=True)[0].shape == (1, 3)
    assert norm(jnp.ones((1, 1, 2, 3)), state)[0].shape == (1, 1, 2, 3)


def test_paddings_that_are_no_pairs():
    with pytest.raises(InputError, match=r"padding: found \(1, 1\)"):
        nn.conv(jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 1)), padding=(1, 1))
    with pytest.raises(InputError, match=r"padding: found \(1, 1\)"):
        nn.Conv(1, 1, padding=(1, 1), key=KEY)
    with pytest.raises(InputError, match=r"padding: found \(0, 0, 0\)"):
        nn.max_pool(jnp.ones((1, 4, 4, 1)), padding=(0, 0, 0))


@pytest.mark.covers("parameter-count")
def test_a_depthwise_convolution_counts_as_its_products():
    x, w = jnp.ones((1, 4, 4, 4)), jnp.ones((3, 3, 1, 8))
    assert nn.flops(lambda x, w: nn.conv(x, w, groups=4), x, w) == 2 * 16 * 8 * 9


@pytest.mark.covers("mup")
def test_mup_knows_convolutions_and_embeddings():
    conv = lambda a, b: nn.Conv(a, b, 3, use_bias=False, key=KEY)  # noqa: E731
    pairs = {
        "input": (conv(3, 8), conv(3, 32)),
        "hidden": (conv(8, 8), conv(32, 16)),
        "output": (conv(8, 3), conv(32, 3)),
    }
    rules = {name: nn.mup(*pair) for name, pair in pairs.items()}
    assert rules["input"].rate == rules["input"].forward == (1,)
    assert rules["hidden"].rate == (0.25,)
    assert rules["hidden"].forward == (1,)
    assert rules["output"].forward == (0.25,)
    assert rules["output"].initial == (2,)
    first = nn.mup(*(eqx.nn.Conv2d(8, n, 3, use_bias=False, key=KEY) for n in (8, 32)))  # Equinox: (out, in, k, k)
    assert first.rate == first.forward == (1,)
    table = nn.mup(eqx.nn.Embedding(10, 8, key=KEY), eqx.nn.Embedding(10, 32, key=KEY))
    assert table.forward == table.initial == table.rate == (1,)
    with pytest.raises(InputError, match="expected only channels to grow"):
        nn.mup(nn.Conv(8, 8, 3, key=KEY), nn.Conv(8, 16, 5, key=KEY))


@pytest.mark.covers("spectral-norm-penalty")
def test_the_penalty_takes_a_kernel_over_its_outputs_and_numpy_weights():
    conv = nn.Conv(2, 5, 3, key=KEY)
    expected = np.linalg.norm(np.asarray(conv.kernel).reshape(-1, 5), 2) ** 2 / 2
    np.testing.assert_allclose(nn.spectral_norm_penalty(conv), expected, rtol=1e-5)
    np.testing.assert_allclose(nn.spectral_norm_penalty(np.eye(3, dtype=np.float32)), 0.5, rtol=1e-5)


@pytest.mark.covers("sn-resnet")
def test_the_inverse_at_zero_and_at_the_ends_of_the_range():
    net = nn.InvertibleResNet(3, 8, 2, c=0.5, key=KEY)
    found = eqx.filter_jit(net.inverse)(jnp.zeros(3))
    assert bool(found.holds & found.converged)
    np.testing.assert_allclose(net(found.value), 0, atol=1e-6)
    assert float(jnp.max(jnp.abs(found.value))) > 0.01
    scaled = eqx.tree_at(lambda n: n.blocks, net, jax.tree.map(lambda a: 2 * a if eqx.is_array(a) else a, net.blocks))
    linear = nn.InvertibleResNet(3, 8, 2, c=0.5, activation=lambda z: z, key=KEY)
    linear = eqx.tree_at(lambda n: n.blocks, linear, scaled.blocks)
    large = jnp.asarray([1e25, -2e25, 0.0])
    far = linear.inverse(large)
    assert int(far.steps) > 5  # its square overflows: no reason to stop at once
    assert bool(far.converged)
    np.testing.assert_allclose(linear(far.value) / 1e25, large / 1e25, atol=1e-5)
    few = linear.inverse(large, max_steps=1)
    assert not bool(few.converged | few.holds)


def test_finite_input_gives_finite_numbers():
    for rows in (jnp.zeros((2, 3)), jnp.full((1, 3), 1e-30), jnp.full((1, 3), 1e30)):
        W = nn.orthogonal_matrix(rows, "householder")
        np.testing.assert_allclose(W.T @ W, np.eye(3), atol=1e-6)
    assert np.isfinite(jax.grad(lambda v: nn.orthogonal_matrix(v, "householder").sum())(jnp.zeros((2, 3)))).all()
    z = jnp.asarray([3e25 + 4e25j, 1e-30j, 0.0])
    np.testing.assert_allclose(nn.modrelu(z, jnp.asarray(0.0)), z, rtol=1e-6)
    mirror = nn.residual_conditioning(lambda v: -v, jnp.ones(2))
    assert np.isinf(mirror.value.condition)
    zero = jnp.zeros(2)
    for amplitudes, frequencies in ((zero, jnp.ones((2, 1))), (jnp.ones(2), jnp.zeros((2, 1)))):
        flat = nn.barron_approximation(amplitudes, frequencies, zero, 4, jnp.zeros((3, 1)), radius=1.0, key=KEY)
        assert bool(flat.holds)
        assert float(flat.certificates["mean_square"].confidence) == 1
        np.testing.assert_allclose(flat.value(jnp.zeros((3, 1))), jnp.sum(amplitudes))
    large = nn.low_rank_layer(1e25 * jnp.eye(3) + 1e24, rank=1)
    assert bool(large.holds)
    assert bool(nn.impulse_response(lambda x: 1e30 * x, (6,)).converged)
    slow = eqx.tree_at(lambda m: m.log_decay, nn.LinearRecurrentUnit(3, 4, key=KEY), jnp.full(4, -20.0))
    assert float(jnp.max(jnp.abs(slow.eigenvalues))) < 1


def test_short_precision():
    cast = lambda a: a.astype(jnp.bfloat16) if eqx.is_array(a) else a  # noqa: E731
    x = jnp.ones((2, 3, 3), jnp.bfloat16)
    for cell in ("lstm", "gru"):
        net = jax.tree.map(cast, nn.RNN(3, 4, cell=cell, key=KEY))
        gradient = eqx.filter_grad(lambda m: m(x)[0].astype(jnp.float32).sum())(net)
        assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.bfloat16)}
    W = nn.spectral_init(KEY, (6, 4), dtype=jnp.bfloat16)
    assert W.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.linalg.norm(np.asarray(W, np.float32), 2), 1, rtol=0.01)


def test_refusals():
    x = jnp.ones((3, 4))
    with pytest.raises(InputError, match="network: found activation"):
        nn.linear_regions(eqx.nn.MLP(1, 1, 4, 1, activation=jnp.tanh, key=KEY), np.array([[-1.0], [1.0]]))
    layers = [(np.ones((1, 2)), np.zeros(1)), (np.ones((1, 1)), np.zeros(1))]
    for corners in ([[0, 0], [2, 0], [0.5, 0.5], [0, 2]], [[0, 0], [1, 1], [1, 0], [0, 1]]):
        with pytest.raises(InputError, match="expected a convex polygon's"):
            nn.linear_regions(layers, np.array(corners, float))
    with pytest.raises(InputError, match="network: found activation LayerNorm"):
        nn.network_lipschitz([eqx.nn.Linear(4, 4, key=KEY), eqx.nn.LayerNorm(4)], x, key=KEY)
    with pytest.raises(InputError, match="on_output: found 'invarient'"):
        nn.check_equivariance(jnp.tanh, x, lambda v: v[::-1], on_output="invarient")
    assert bool(nn.check_equivariance(lambda v: v > 0, x, lambda v: v[::-1]).holds)
    with pytest.raises(InputError, match=r"shape: found \(0, 3\)"):
        nn.spectral_init(KEY, (0, 3))
    with pytest.raises(InputError, match="longest: found inf"):
        nn.chrono_init(2, float("inf"), key=KEY)
    one = jnp.ones(1)
    with pytest.raises(InputError, match="radius: found 0"):
        nn.barron_approximation(one, one[None], one, 4, one[None], radius=0.0, key=KEY)
