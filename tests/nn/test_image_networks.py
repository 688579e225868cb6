"""The image and sequence networks of convolutions: counts, plain NumPy twins, copied weights, and small trainings."""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from corollary import nn
from corollary.core.errors import InputError

KEY = jax.random.key(0)


def shape_of(make, *args, **settings):
    """A network of shapes: nothing is allocated."""
    return eqx.filter_eval_shape(make, *args, key=KEY, **settings)


def image(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def shapes(network, x):
    return [m.shape[1:] for m in eqx.filter_eval_shape(lambda n, x: n.maps(x), network, x)]


# The twin: plain loops over places and taps.


def conv(x, layer, dilation=1):
    """A layer's convolution by loops, with symmetric padding as it is stored."""
    w = np.asarray(layer.kernel)
    kh, kw = w.shape[:2]
    stride = layer.stride[0]
    if layer.padding == "SAME":
        pad = kh // 2
    else:
        pad = 0 if layer.padding == "VALID" else layer.padding
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    y = np.zeros((x.shape[0], height, width, w.shape[3]))
    for u, v, i, j in itertools.product(range(height), range(width), range(kh), range(kw)):
        y[:, u, v] += x[:, u * stride + i, v * stride + j] @ w[i, j]
    return y if layer.bias is None else y + np.asarray(layer.bias)


def pool(x, k=2, s=2, p=0, how=np.max):
    x = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)), constant_values=-np.inf if how is np.max else 0)
    height, width = (x.shape[1] - k) // s + 1, (x.shape[2] - k) // s + 1
    rows = [[how(x[:, u * s : u * s + k, v * s : v * s + k], (1, 2)) for v in range(width)] for u in range(height)]
    return np.stack([np.stack(r, 1) for r in rows], 1)


def relu(x):
    return np.maximum(x, 0)


def dense(x, layer):
    return x @ np.asarray(layer.weight).T + np.asarray(layer.bias)


def normalised(x, brick):
    """Convolution and batch normalisation by the statistics of the batch."""
    y = conv(x, brick.conv)
    y = (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + brick.norm.eps)
    y = y * np.asarray(brick.norm.scale) + np.asarray(brick.norm.bias)
    return relu(y) if brick.relu else y


def agree(ours, twin, scale=1e-5):
    np.testing.assert_allclose(ours, twin, rtol=1e-4, atol=scale * np.abs(twin).max())


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def fit(network, x, y, steps, batch=32, rate=3e-3, seed=0):
    """Plain Adam, all steps in one compiled loop."""
    arrays, static = eqx.partition(network, eqx.is_inexact_array)
    rows = np.random.default_rng(seed).integers(0, len(x), (steps, batch))
    optimiser = optax.adam(rate)

    def step(carry, rows):
        w, state = carry

        def loss(w):
            return optax.softmax_cross_entropy_with_integer_labels(eqx.combine(w, static)(x[rows]), y[rows]).mean()

        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(jax.grad(loss)(w), state)
        return (optax.apply_updates(w, updates), state), None

    run = jax.jit(lambda w: jax.lax.scan(step, (w, optimiser.init(w)), rows)[0][0])
    return eqx.combine(run(arrays), static)


def accuracy(network, x, y):
    return float(jnp.mean(jax.jit(lambda x: jnp.argmax(network(x), -1))(x) == y))


@pytest.mark.covers("cnn-classifier")
def test_convnet():
    net = nn.ConvNet((9, 8, 2), 3, (4, 5), hidden=(6,), key=KEY)
    x = noise(2, 9, 8, 2)
    h = x
    for layer in net.convs:
        h = pool(relu(conv(h, layer)))
    np.testing.assert_allclose(net.features(jnp.asarray(x)), h.reshape(2, -1), rtol=1e-4, atol=1e-5)
    logits = dense(relu(dense(h.reshape(2, -1), net.dense[0])), net.dense[1])
    agree(net(jnp.asarray(x)), logits)
    np.testing.assert_allclose(net.probabilities(jnp.asarray(x)).sum(-1), 1, rtol=1e-5)
    size = 9
    for m in shapes(net, image(1, 9, 8, 2)):
        size = nn.conv_output_size(nn.conv_output_size(size, 3, padding=1), 2, stride=2)
        assert m[0] == size
    assert nn.parameter_count(net) == (2 * 9 + 1) * 4 + (4 * 9 + 1) * 5 + (2 * 2 * 5 + 1) * 6 + 7 * 3
    shared = nn.parameter_count(shape_of(nn.ConvNet, (28, 28, 1), 10, pool="mean"))
    assert shared < nn.parameter_count(shape_of(eqx.nn.MLP, 784, 10, 64, 1)) / 2
    with pytest.raises(InputError, match="x: found images of shape"):
        net(jnp.zeros((1, 8, 8, 2)))
    with pytest.raises(InputError, match="image_shape: found 3 x 9"):
        nn.ConvNet((3, 9, 1), 2, key=KEY)


@pytest.mark.covers("cnn-classifier")
def test_convnet_learns_shifted_patterns():
    """Four strokes at places that the training set does not show: shared kernels find them, a dense net does not."""
    rng = np.random.default_rng(0)
    strokes = np.array([[[1, 1, 1]] * 1 + [[0, 0, 0]] * 2, [[1, 0, 0]] * 3, np.eye(3), np.eye(3)[::-1]], np.float32)

    def draw(n):
        y = rng.integers(0, 4, n)
        x = 0.1 * rng.standard_normal((n, 12, 12, 1)).astype(np.float32)
        for image, label, (i, j) in zip(x, y, rng.integers(0, 10, (n, 2)), strict=True):
            image[i : i + 3, j : j + 3, 0] += strokes[label]
        return jnp.asarray(x), jnp.asarray(y)

    (x, y), (x_test, y_test) = draw(160), draw(400)
    net = nn.ConvNet((12, 12, 1), 4, (8, 16), pool="mean", key=KEY)
    mlp = eqx.nn.MLP(144, 4, 9, 1, key=KEY)

    class Flat(eqx.Module):
        inner: eqx.nn.MLP

        def __call__(self, x):
            return jax.vmap(self.inner)(x.reshape(x.shape[0], -1))

    assert nn.parameter_count(net) <= nn.parameter_count(mlp)
    ours = accuracy(fit(net, x, y, 250, rate=1e-2), x_test, y_test)
    theirs = accuracy(fit(Flat(mlp), x, y, 250, rate=1e-2), x_test, y_test)
    assert ours > 0.9
    assert ours > theirs + 0.2


@pytest.mark.covers("lenet")
def test_lenet():
    net = nn.LeNet(key=KEY)
    assert nn.parameter_count(net) == 61_706
    assert shapes(net, image(1, 32, 32, 1)) == [(28, 28, 6), (14, 14, 6), (10, 10, 16), (5, 5, 16), (1, 1, 120)]
    x = noise(2, 32, 32, 1)

    def act(x):
        return 1.7159 * np.tanh(2 / 3 * x)

    h = pool(act(conv(x, net.convs[0])), how=np.mean)
    h = pool(act(conv(h, net.convs[1])), how=np.mean)
    h = act(dense(act(conv(h, net.convs[2]))[:, 0, 0], net.dense))
    agree(net(jnp.asarray(x)), dense(h, net.head))
    radial = nn.LeNet(output="rbf", key=KEY)
    features = np.asarray(radial.features(jnp.asarray(x)))
    codes = np.asarray(radial.codes)
    assert set(np.unique(codes)) == {-1.0, 1.0}
    distances = [[sum((a - b) ** 2 for a, b in zip(f, c, strict=True)) for c in codes] for f in features]
    np.testing.assert_allclose(-radial(jnp.asarray(x)), distances, rtol=1e-4)
    with pytest.raises(InputError, match="x: found images of 28 x 28"):
        net(jnp.zeros((1, 28, 28, 1)))


@pytest.mark.covers("lenet")
def test_lenet_reads_digits():
    digits = load_digits()
    x = np.kron(digits.images / 8 - 1, np.ones((4, 4))).astype(np.float32)[..., None]
    y = jnp.asarray(digits.target)
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:1200], order[1200:]
    net = fit(nn.LeNet(key=KEY), jnp.asarray(x[train]), y[train], 120, rate=3e-3)
    assert accuracy(net, jnp.asarray(x[test]), y[test]) > 0.95


@pytest.mark.covers("alexnet")
def test_alexnet():
    net = shape_of(nn.AlexNet)
    assert nn.parameter_count(net) == 61_100_840
    chain = shapes(net, image(1, 224, 224, 3))
    assert [s[0] for s in chain] == [55, 27, 13, 13, 13, 6]
    unpadded = shape_of(nn.AlexNet, padding=0)
    assert [s[0] for s in shapes(unpadded, image(1, 227, 227, 3))] == [55, 27, 13, 13, 13, 6]
    assert shapes(unpadded, image(1, 224, 224, 3))[0][0] == 54
    assert net.convs[0].kernel.shape == (11, 11, 3, 64)
    assert eqx.filter_eval_shape(net, image(2, 224, 224, 3), inference=True).shape == (2, 1000)


@pytest.mark.covers("vgg")
def test_vgg():
    counts = {11: 132_863_336, 13: 133_047_848, 16: 138_357_544, 19: 143_667_240}
    for depth, count in counts.items():
        assert nn.parameter_count(shape_of(nn.VGG, depth)) == count
    net = shape_of(nn.VGG, 11)
    assert [s[0] for s in shapes(net, image(1, 224, 224, 3))] == [112, 56, 28, 14, 7]
    assert eqx.filter_eval_shape(net, image(1, 64, 64, 3), inference=True).shape == (1, 1000)
    two = [shape_of(nn.Conv, 64, 64, 3, use_bias=False)] * 2
    assert nn.receptive_field([(3,), (3,)]).size == 5
    assert nn.parameter_count(two) == 18 * 64**2
    assert nn.parameter_count(shape_of(nn.Conv, 64, 64, 5, use_bias=False)) == 25 * 64**2
    with pytest.raises(InputError, match="depth: found 12"):
        nn.VGG(12, key=KEY)


@pytest.mark.covers("inception-module")
def test_inception():
    assert nn.parameter_count(shape_of(nn.Inception, 192, (64, 96, 128, 16, 32, 32))) == 163_696
    net = shape_of(nn.GoogLeNet)
    assert nn.parameter_count(net) == 6_998_552
    chain = shapes(net, image(1, 224, 224, 3))
    channels = [192, 256, 480, 512, 512, 512, 528, 832, 832, 1024]  # torchvision's
    assert chain == [(s, s, c) for s, c in zip([28] * 3 + [14] * 5 + [7] * 2, channels, strict=True)]
    module = nn.Inception(3, (2, 3, 4, 1, 2, 3), key=KEY)
    x = noise(2, 5, 6, 3)
    one, three, five, pooled = module.branches
    parts = [
        relu(conv(x, one[0])),
        relu(conv(relu(conv(x, three[0])), three[1])),
        relu(conv(relu(conv(x, five[0])), five[1])),
        relu(conv(pool(x, 3, 1, 1), pooled[0])),
    ]
    ours = module(jnp.asarray(x))
    assert ours.shape[-1] == 2 + 4 + 2 + 3
    agree(ours, np.concatenate(parts, -1))
    with pytest.raises(InputError, match="widths: found"):
        nn.Inception(3, (1, 2), key=KEY)


@pytest.mark.covers("residual-network")
@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_resnet_equals_its_twin(kind):
    make = eqx.nn.make_with_state(nn.ResNet)
    net, state = make((1, 1), 3, width=3, kind=kind, in_channels=2, key=KEY)
    x = noise(2, 16, 16, 2)
    h = pool(normalised(x, net.stem), 3, 2, 1)
    for block in (b for stage in net.stages for b in stage):
        y = h
        for brick in block.branch:
            y = normalised(y, brick)
        h = relu(y + (h if block.skip is None else normalised(h, block.skip)))
    run = eqx.filter_jit(lambda n, x, s, inference: n(x, s, inference=inference))
    logits, after = run(net, jnp.asarray(x), state, False)
    agree(logits, dense(h.mean((1, 2)), net.head), 1e-4)
    moved, _ = run(net, jnp.asarray(x), after, True)
    alone, _ = run(net, jnp.asarray(x[:1]), after, True)
    np.testing.assert_allclose(moved[:1], alone, rtol=1e-3, atol=1e-4)  # inference does not see the batch
    assert not np.allclose(moved, logits, atol=1e-3)


@pytest.mark.covers("residual-network")
def test_resnet_counts_and_identity():
    counts = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
    for depth in (18, 50):  # the others cost time only
        net, _ = shape_of(eqx.nn.make_with_state(nn.ResNet), depth)
        assert nn.parameter_count(net) == counts[depth]
    block, state = eqx.nn.make_with_state(nn.ResidualBlock)(4, 4, zero_init=True, key=KEY)
    x = jnp.abs(jnp.asarray(noise(2, 4, 4, 4)))
    run = jax.jit(lambda x: block(x, state)[0])
    np.testing.assert_array_equal(run(x), x)
    gradient = jax.grad(lambda x: jnp.sum(run(x)))(x)
    np.testing.assert_array_equal(gradient, 1)  # the skip carries it unchanged
    with pytest.raises(InputError, match="depth: found 20"):
        nn.ResNet(20, key=KEY)
    with pytest.raises(InputError, match="stem: found 'tiny'"):
        nn.ResNet(18, stem="tiny", key=KEY)


@pytest.mark.covers("unet")
def test_unet():
    paper = shape_of(nn.UNet, 1, 2, padding="VALID")
    assert eqx.filter_eval_shape(paper, image(1, 572, 572, 1)).shape == (1, 388, 388, 2)
    net = nn.UNet(2, 3, width=2, levels=1, key=KEY)
    x = noise(2, 6, 4, 2)
    top = relu(conv(relu(conv(x, net.down[0][0])), net.down[0][1]))
    low = relu(conv(relu(conv(pool(top), net.down[1][0])), net.down[1][1]))
    w = np.asarray(net.up[0].kernel)[0, 0].reshape(4, 2, 2, 2)  # input channel, row, column, output channel
    up = np.zeros(top.shape)
    for i, j in itertools.product(range(2), range(2)):
        up[:, i::2, j::2] = low @ w[:, i, j]
    h = np.concatenate([top, up], -1)
    h = relu(conv(relu(conv(h, net.merge[0][0])), net.merge[0][1]))
    agree(net(jnp.asarray(x)), conv(h, net.last))
    # With the lower level cut off the skip alone still carries the image.
    cut = eqx.tree_at(lambda n: n.up[0].kernel, net, jnp.zeros_like(net.up[0].kernel))
    assert float(jnp.abs(jax.grad(lambda x: jnp.sum(cut(x)))(jnp.asarray(x))).max()) > 0
    with pytest.raises(InputError, match="x: found images of"):
        net(jnp.zeros((1, 5, 4, 2)))
    with pytest.raises(InputError, match="time: expected"):
        net(jnp.asarray(x), jnp.zeros(2))


@pytest.mark.covers("unet")
def test_unet_predicts_noise():
    """As a noise predictor on constant images it soon does better than predicting nothing, for which the loss is 1."""
    net = nn.UNet(1, 1, width=4, levels=1, time_features=4, key=KEY)
    arrays, static = eqx.partition(net, eqx.is_inexact_array)
    optimiser = optax.adam(1e-2)

    def loss(w, key):
        k1, k2, k3 = jax.random.split(key, 3)
        clean = jnp.broadcast_to(jax.random.normal(k1, (16, 1, 1, 1)), (16, 8, 8, 1))
        level, eps = jax.random.uniform(k2, (16,), minval=0.3, maxval=0.9), jax.random.normal(k3, (16, 8, 8, 1))
        a = level[:, None, None, None]
        mixed = jnp.sqrt(1 - a**2) * clean + a * eps
        return jnp.mean((eqx.combine(w, static)(mixed, level) - eps) ** 2)

    def step(carry, key):
        w, state = carry
        value, gradient = jax.value_and_grad(loss)(w, key)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(w, updates), state), value

    keys = jax.random.split(KEY, 100)
    losses = jax.jit(lambda w: jax.lax.scan(step, (w, optimiser.init(w)), keys)[1])(arrays)
    assert float(losses[-20:].mean()) < 0.7


@pytest.mark.covers("tcn")
def test_tcn():
    net = nn.TCN(2, (3, 3), kernel_size=2, key=KEY)
    x = noise(1, 9, 2)
    h = x
    for i, (pair, skip) in enumerate(zip(net.levels, net.skips, strict=True)):
        y = h
        for layer in pair:
            w, d = np.asarray(layer.kernel), 2**i
            padded = np.pad(y, ((0, 0), (d, 0), (0, 0)))
            y = relu(padded[:, :-d] @ w[0] + padded[:, d:] @ w[1] + np.asarray(layer.bias))
        h = relu(y + (h if skip is None else h @ np.asarray(skip.kernel)[0] + np.asarray(skip.bias)))
    agree(net(jnp.asarray(x)), h)
    assert net.reach == 1 + 2 * 1 + 2 * 2
    positive = jax.tree.map(lambda a: jnp.abs(a) + 0.1 if eqx.is_inexact_array(a) else a, net)
    jacobian = jax.jacobian(lambda x: positive(x[None])[0].sum(-1))(jnp.ones((9, 2))).sum(-1)
    t, s = np.indices((9, 9))
    np.testing.assert_array_equal(np.asarray(jacobian) != 0, (s <= t) & (t - s < net.reach))


@pytest.mark.covers("text-cnn")
def test_text_cnn():
    net = nn.TextCNN(3, 2, widths=(2, 3), filters=4, key=KEY)
    x, lengths = noise(2, 7, 3), jnp.array([7, 5])
    rows = []
    for text, n in zip(x, (7, 5), strict=True):
        row = []
        for layer in net.convs:
            w, k = np.asarray(layer.kernel), layer.kernel.shape[0]
            hits = [np.einsum("kc,kco->o", text[t : t + k], w) + np.asarray(layer.bias) for t in range(n - k + 1)]
            row.append(relu(np.max(hits, 0)))
        rows.append(np.concatenate(row))
    run = eqx.filter_jit(lambda n, x, lengths: n(x, lengths, inference=True))
    agree(run(net, jnp.asarray(x), lengths), dense(np.stack(rows), net.head))
    # Padding, whatever it holds, changes nothing.
    longer = jnp.concatenate([jnp.asarray(x), 100 * jnp.ones((2, 4, 3))], 1)
    np.testing.assert_allclose(run(net, longer, lengths), run(net, jnp.asarray(x), lengths), rtol=1e-5, atol=1e-6)
    short = run(net, longer, jnp.array([1, 2]))
    np.testing.assert_allclose(run(net, jnp.asarray(x[:, :2]), jnp.array([1, 2])), short, rtol=1e-5, atol=1e-6)
    # A planted bigram is found wherever it stands.
    gram = np.array([[1.0, 0, 0], [0, 1.0, 0]], np.float32)
    detector = eqx.tree_at(
        lambda n: (n.convs[0].kernel, n.convs[0].bias),
        net,
        (jnp.zeros((2, 3, 4)).at[:, :, 0].set(gram), jnp.zeros(4).at[0].set(-1.5)),
    )
    places = np.zeros((6, 7, 3), np.float32)
    for t in range(6):
        places[t, t : t + 2] = gram
    swapped = places[:, ::-1]
    features = eqx.filter_jit(lambda n, x: n.features(x)[:, 0])
    np.testing.assert_allclose(features(detector, jnp.asarray(places)), 0.5)
    np.testing.assert_allclose(features(detector, jnp.asarray(swapped)), 0)


def test_copied_weights_agree_with_torch():
    torch = pytest.importorskip("torch")
    t = torch.nn

    def basic(layer):
        out = t.Conv2d(*layer.kernel.shape[2:], layer.kernel.shape[0], layer.stride[0], layer.padding, bias=False)
        out.weight.data = torch.tensor(np.asarray(layer.kernel).transpose(3, 2, 0, 1).copy())
        return out

    net, state = eqx.nn.make_with_state(nn.ResidualBlock)(2, 4, stride=2, key=KEY)
    first, second, skip = (basic(b.conv) for b in (*net.branch, net.skip))
    norms = [t.BatchNorm2d(4) for _ in range(3)]
    x = noise(4, 6, 6, 2)
    xt = torch.tensor(x.transpose(0, 3, 1, 2).copy())
    for train in (True, False):
        for norm in norms:
            norm.train(train)
        y = torch.relu(norms[0](first(xt)))
        y = torch.relu(norms[1](second(y)) + norms[2](skip(xt)))
        ours, state = net(jnp.asarray(x), state, inference=not train)
        agree(ours, y.detach().numpy().transpose(0, 2, 3, 1))
    tcn = nn.TCN(2, (3,), kernel_size=3, key=KEY)
    layer = tcn.levels[0][0]
    peer = t.Conv1d(2, 3, 3)
    peer.weight.data = torch.tensor(np.asarray(layer.kernel).transpose(2, 1, 0).copy())
    peer.bias.data = torch.tensor(np.asarray(layer.bias))
    seq = noise(1, 8, 2)
    left = t.functional.pad(torch.tensor(seq.transpose(0, 2, 1).copy()), (2, 0))
    agree(layer(jnp.asarray(seq)), peer(left).detach().numpy().transpose(0, 2, 1))
    unet = nn.UNet(1, 1, width=2, levels=1, key=KEY)
    up = t.ConvTranspose2d(4, 2, 2, 2, bias=False)
    kernel = np.asarray(unet.up[0].kernel)[0, 0].reshape(4, 2, 2, 2)
    up.weight.data = torch.tensor(kernel.transpose(0, 3, 1, 2).copy())
    z = noise(1, 3, 3, 4)
    expected = up(torch.tensor(z.transpose(0, 3, 1, 2).copy())).detach().numpy().transpose(0, 2, 3, 1)
    phases = np.asarray(unet.up[0](jnp.asarray(z))).reshape(1, 3, 3, 2, 2, 2)
    agree(phases.transpose(0, 1, 3, 2, 4, 5).reshape(1, 6, 6, 2), expected)
