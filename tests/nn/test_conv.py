"""Convolution, pooling and normalisation against naive loops, JAX's own and, where it is there, PyTorch."""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from jax import lax

from corollary import nn
from corollary.core.errors import InputError
from corollary.core.precision import eps
from corollary.nn._conv_kernels import plain


def naive(x, w, stride=1, pad=0, dilation=1):
    """Convolution by loops: NHWC, HWIO."""
    x = np.pad(np.asarray(x), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    w = np.asarray(w)
    kh, kw = w.shape[:2]
    height = (x.shape[1] - dilation * (kh - 1) - 1) // stride + 1
    width = (x.shape[2] - dilation * (kw - 1) - 1) // stride + 1
    y = np.zeros((x.shape[0], height, width, w.shape[3]))
    for u, v, i, j in itertools.product(range(height), range(width), range(kh), range(kw)):
        y[:, u, v] += x[:, u * stride + i * dilation, v * stride + j * dilation] @ w[i, j]
    return y


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.standard_normal(s)) for s in shapes)


@pytest.mark.covers("conv2d")
@pytest.mark.parametrize(("stride", "pad", "dilation"), [(1, 1, 1), (2, 1, 1), (1, 2, 2)])
def test_conv_and_all_its_derivatives(x64, stride, pad, dilation):
    x, w, tx, tw = draw(0, (4, 6, 5, 4), (3, 3, 4, 2), (4, 6, 5, 4), (3, 3, 4, 2))
    settings = {"stride": (stride,) * 2, "pads": ((pad, pad),) * 2, "dilation": (dilation,) * 2}

    @jax.jit
    def everything(x, w, tx, tw):
        out = []
        for f in (
            lambda x, w: nn.conv(x, w, stride=stride, padding=pad, dilation=dilation),
            lambda x, w: plain(x, w, **settings),
        ):
            y, tangent = jax.jvp(f, (x, w), (tx, tw))
            gradient = jax.grad(lambda x, w, f=f: jnp.sum(jnp.sin(f(x, w))), (0, 1))
            out.append((y, tangent, jax.jvp(gradient, (x, w), (tx, tw))))
        return out

    ours, theirs = everything(x, w, tx, tw)
    np.testing.assert_allclose(ours[0], naive(x, w, stride, pad, dilation), rtol=1e-12, atol=1e-12)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)
    dense = nn.conv(x, w, padding=pad, dilation=dilation)  # a stride skips outputs
    np.testing.assert_allclose(ours[0], dense[:, ::stride, ::stride], atol=1e-12)
    stuffed = np.zeros((2 * dilation + 1, 2 * dilation + 1, 4, 2))  # a dilation is a kernel with holes
    stuffed[::dilation, ::dilation] = w
    np.testing.assert_allclose(dense, naive(x, stuffed, 1, pad), atol=1e-12)


@pytest.mark.covers("conv2d")
def test_conv_by_hand():
    image = jnp.array(
        [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]], jnp.float32
    )
    kernel = jnp.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], jnp.float32)
    y = nn.conv(image[None, :, :, None], kernel[:, :, None, None], padding="VALID")[0, :, :, 0]
    assert y.tolist() == [[4, 3, 4], [2, 4, 3], [2, 3, 4]]
    layer = nn.Conv(3, 2, 3, stride=2, padding="VALID", key=jax.random.key(0))
    assert layer(jnp.zeros((1, 7, 7, 3))).shape == (1, 3, 3, 2)
    assert nn.parameter_count(layer) == 3 * 3 * 3 * 2 + 2
    theirs = eqx.nn.Conv2d(3, 2, 3, stride=2, key=jax.random.key(1))
    ours = eqx.tree_at(lambda c: (c.kernel, c.bias), layer, (theirs.weight.transpose(2, 3, 1, 0), theirs.bias[:, 0, 0]))
    x = jax.random.normal(jax.random.key(2), (7, 7, 3))
    expected = theirs(x.transpose(2, 0, 1)).transpose(1, 2, 0)
    np.testing.assert_allclose(ours(x[None])[0], expected, rtol=1e-5, atol=1e-5)
    point = nn.conv(x[None], layer.kernel[:1, :1])[0]  # 1×1 is a dense layer for each pixel
    np.testing.assert_allclose(point, x @ layer.kernel[0, 0], rtol=1e-5, atol=1e-5)


def test_vmap_groups_and_sequences(x64):
    x, w = draw(1, (2, 4, 5, 5, 4), (2, 3, 3, 4, 2))
    for axes in ((0, None), (None, 0), (0, 0)):
        args = [a if axis == 0 else a[0] for a, axis in zip((x, w), axes, strict=True)]
        many = jax.jit(jax.vmap(nn.conv, axes))(*args)
        for i in range(2):
            one = [a[i] if axis == 0 else a for a, axis in zip(args, axes, strict=True)]
            np.testing.assert_allclose(many[i], naive(*one, pad=1), atol=1e-12)
    k, grouped = draw(2, (3, 3, 1, 8), (3, 3, 2, 4))
    run = jax.jit(
        lambda x, k, grouped, w: (
            nn.conv(x, k, groups=4),
            nn.conv(x, grouped, groups=2),
            nn.conv(x[0], w, padding=((2, 0),)),
        )
    )
    depthwise, halves, line = run(x[0], k, grouped, w[0, 0])
    for c in range(4):
        np.testing.assert_allclose(
            depthwise[..., 2 * c : 2 * c + 2], naive(x[0][..., c : c + 1], k[..., 2 * c : 2 * c + 2], pad=1), atol=1e-12
        )
    np.testing.assert_allclose(halves[..., :2], naive(x[0][..., :2], grouped[..., :2], pad=1), atol=1e-12)
    np.testing.assert_allclose(line[:, -1], np.einsum("bkc,kco->bo", x[0, 0, :, -3:], w[0, 0]), atol=1e-12)


def test_gradient_in_a_loop_is_canonical():
    """Inside a scan XLA keeps any other layout as it stands, where it is a hundred times slower."""

    def step(w, x):
        return w - jax.grad(lambda w: jnp.sum(nn.conv(jax.nn.relu(nn.conv(x, w)), w)))(w), None

    x, w = jnp.ones((3, 4, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
    text = jax.jit(lambda w, x: lax.scan(step, w, x)).lower(w, x).as_text()
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(lines) >= 4  # equal ones are lowered once
    assert all("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line for line in lines)


def test_low_precision_follows():
    x, w = (a.astype(jnp.bfloat16) for a in draw(4, (4, 5, 5, 4), (3, 3, 4, 2)))
    y, back = jax.vjp(nn.conv, x, w)
    assert {a.dtype for a in (y, *back(y))} == {jnp.dtype(jnp.bfloat16)}
    exact = naive(x.astype(np.float32), w.astype(np.float32), pad=1)
    np.testing.assert_allclose(y.astype(np.float32), exact, atol=36 * eps(jnp.bfloat16) * np.abs(exact).max() / 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 0}, "stride: found 0"),
        ({"padding": "LOW"}, "padding: found 'LOW'"),
        ({"padding": ((1, 1),)}, "padding: found"),
        ({"groups": 3}, "kernel: found 4 input"),
        ({"dilation": 9, "padding": 0}, "x: found size 5"),
    ],
)
def test_conv_refuses(settings, message):
    with pytest.raises(InputError, match=message.replace("(", "\\(")):
        nn.conv(jnp.zeros((1, 5, 5, 4)), jnp.zeros((3, 3, 4, 2)), **settings)


def test_conv_refuses_shapes():
    with pytest.raises(InputError, match="x: found shape"):
        nn.conv(jnp.zeros((5, 5)), jnp.zeros((3, 3)))
    with pytest.raises(InputError, match="kernel: found bfloat16"):
        nn.conv(jnp.zeros((1, 5, 5, 4)), jnp.zeros((3, 3, 4, 2), jnp.bfloat16))


@pytest.mark.covers("conv-transpose")
def test_transposed_convolution(x64):
    x, w = draw(5, (1, 7, 6, 3), (3, 3, 3, 2))
    y, back = jax.vjp(lambda x: nn.conv(x, w, stride=2, padding=1), x)
    (z,) = draw(6, y.shape)
    np.testing.assert_allclose(jnp.vdot(y, z), jnp.vdot(x, back(z)[0]), rtol=1e-12)
    layer = eqx.nn.ConvTranspose2d(
        2, 3, 3, stride=2, padding=1, output_padding=(0, 1), use_bias=False, key=jax.random.key(0)
    )
    layer = eqx.tree_at(lambda t: t.weight, layer, w[::-1, ::-1].transpose(2, 3, 0, 1))
    np.testing.assert_allclose(layer(z[0].transpose(2, 0, 1)).transpose(1, 2, 0), back(z)[0][0], atol=1e-12)


@pytest.mark.covers("discrete-convolution")
def test_discrete_convolution(x64):
    a, b, image, kernel = draw(7, (9,), (4,), (6, 5), (3, 2))
    np.testing.assert_allclose(jnp.convolve(a, b), jnp.convolve(b, a), rtol=1e-12)
    np.testing.assert_allclose(jnp.convolve(a, b), np.convolve(a, b), rtol=1e-12)
    np.testing.assert_allclose(jnp.correlate(a, b, "full"), jnp.convolve(a, jnp.flip(b)), rtol=1e-12)
    np.testing.assert_allclose(
        jnp.fft.irfft(jnp.fft.rfft(a, 12) * jnp.fft.rfft(b, 12), 12), jnp.convolve(a, b), atol=1e-12
    )
    for mode in ("full", "same", "valid"):
        ours = jax.scipy.signal.convolve(image, kernel, mode), jax.scipy.signal.correlate(image, kernel, mode)
        theirs = scipy.signal.convolve2d(image, kernel, mode), scipy.signal.correlate(image, kernel, mode)
        for o, t in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(o, t, atol=1e-12)
    assert not np.allclose(ours[0], ours[1])  # different operations


@pytest.mark.covers("padding")
def test_padding_modes():
    x, w = jnp.arange(49.0).reshape(1, 7, 7, 1), jnp.ones((3, 3, 1, 1))
    for d, mode in itertools.product((1, 2), ("constant", "reflect", "edge", "wrap")):
        p = d  # d(k − 1)/2 for k = 3
        wide = jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)), mode=mode)
        y = nn.conv(wide, w, padding="VALID", dilation=d)
        assert y.shape == x.shape
        names = {"constant": "constant", "reflect": "mirror", "edge": "nearest", "wrap": "wrap"}
        kernel = np.zeros((2 * d + 1, 2 * d + 1))
        kernel[::d, ::d] = 1
        expected = scipy.ndimage.correlate(np.asarray(x[0, :, :, 0]), kernel, mode=names[mode])
        np.testing.assert_allclose(y[0, :, :, 0], expected, rtol=1e-6)


@pytest.mark.covers("pooling")
def test_pooling():
    (x,) = (a.astype(jnp.float32) for a in draw(8, (2, 7, 6, 3)))
    cases = [(2, None, 0), (3, 2, 1), (3, 1, 1)]

    @jax.jit
    def everything(x):
        first, out = x.transpose(0, 3, 1, 2), []
        for k, s, p in cases:
            box = jnp.tile(jnp.eye(3) / k**2, (k, k, 1, 1))  # the mean is a convolution with a constant kernel
            mean = nn.avg_pool(x, k, stride=s, padding=p)
            theirs = (jax.vmap(layer(k, s or k, p))(first) for layer in (eqx.nn.MaxPool2d, eqx.nn.AvgPool2d))
            top, average = (t.transpose(0, 2, 3, 1) for t in theirs)
            out.append((nn.max_pool(x, k, stride=s, padding=p), top))
            out += [(mean, average), (mean, nn.conv(x, box, stride=s or k, padding=p))]
        theirs = jax.vmap(eqx.nn.AdaptiveAvgPool2d((3, 4)))(first[:, :, :6, :4]).transpose(0, 2, 3, 1)
        out.append((nn.adaptive_avg_pool(x[:, :6, :4], (3, 4)), theirs))
        out.append((nn.global_avg_pool(jnp.roll(x, (2, 1), (1, 2))), nn.global_avg_pool(x)))
        top, back = jax.vjp(nn.max_pool, x)
        return out, top, back(jnp.ones_like(top))[0]

    pairs, top, gradient = everything(x)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    gradient, entries = np.asarray(gradient), np.asarray(x)  # routed to the maxima
    assert set(np.unique(gradient)) == {0.0, 1.0}
    np.testing.assert_array_equal(np.sort(entries[gradient == 1]), np.sort(np.ravel(top)))


@pytest.mark.covers("softmax-pool")
def test_softmax_and_minimum_pooling(dtype):
    (x,) = (a.astype(dtype) for a in draw(9, (2, 5, 6, 3)))
    np.testing.assert_array_equal(nn.min_pool(x, 3, stride=2, padding=1), -nn.max_pool(-x, 3, stride=2, padding=1))
    pool = jax.jit(lambda x, t: nn.softmax_pool(x, 3, stride=2, temperature=t))
    tight = 50 * eps(dtype)
    np.testing.assert_allclose(pool(x, 0.0), nn.max_pool(x, 3, stride=2), atol=tight)
    np.testing.assert_allclose(pool(x, 1e-9), nn.max_pool(x, 3, stride=2), atol=tight)
    np.testing.assert_allclose(pool(x, jnp.inf), nn.avg_pool(x, 3, stride=2), atol=tight)
    np.testing.assert_allclose(pool(x * 1e12, 1e12) / 1e12, pool(x, 1.0), atol=tight)
    window = np.asarray(x[0, :3, :3, 0], float).ravel()
    weights = np.exp(window / 0.5)
    np.testing.assert_allclose(pool(x, 0.5)[0, 0, 0, 0], weights @ window / weights.sum(), rtol=100 * eps(dtype))
    assert bool(jnp.all(jnp.isfinite(jax.grad(lambda x: jnp.sum(pool(x, 0.0)))(jnp.zeros_like(x)))))
    with pytest.raises(InputError, match="temperature: found -1"):
        nn.softmax_pool(x, temperature=-1.0)
    with pytest.raises(InputError, match="padding: found 2"):
        nn.max_pool(x, 2, padding=2)


@pytest.mark.covers("batch-norm")
def test_batch_norm(x64):
    norm, state = eqx.nn.make_with_state(nn.BatchNorm)(3)
    x, g = draw(10, (4, 3, 2, 3), (4, 3, 2, 3))
    x = 3 + 2 * x

    run = eqx.filter_jit(lambda x, s, inference=False: norm(x, s, inference=inference))

    def normalised(x):
        return run(x, state)[0]

    y, after = run(x, state)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, rtol=1e-4)  # ε over the variance
    mean, variance = after.get(norm.running)
    np.testing.assert_allclose(mean, 0.1 * x.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-12)
    z, same = run(x, after, inference=True)
    np.testing.assert_allclose(z, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-12)
    np.testing.assert_array_equal(same.get(norm.running)[0], mean)
    back = jax.vjp(normalised, x)[1](g)[0]
    np.testing.assert_allclose(back.sum((0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose((back * y).sum((0, 1, 2)), 0, atol=1e-3)  # exact for ε = 0
    constant, _ = run(jnp.full((4, 3), 7.0), state)
    np.testing.assert_array_equal(constant, 0)
    # Equinox's layer, for one example under vmap, has the same batch statistics.
    theirs, start = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, axis_name="batch", mode="batch", dtype=jnp.float64)
    flat = x.reshape(-1, 3)
    expected, _ = jax.vmap(theirs, in_axes=(0, None), out_axes=(0, None), axis_name="batch")(flat, start)
    np.testing.assert_allclose(normalised(flat), expected, rtol=1e-10)
    with pytest.raises(InputError, match="x: found 2 channels"):
        norm(jnp.zeros((3, 2)), state)


def test_against_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(11)
    x = rng.standard_normal((4, 7, 6, 3)).astype(np.float32)
    t = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    for stride, pad, dilation in ((1, 1, 1), (2, 1, 1), (1, 2, 2)):
        layer = torch.nn.Conv2d(3, 5, 3, stride, pad, dilation)
        w = jnp.asarray(layer.weight.detach().numpy().transpose(2, 3, 1, 0))
        y, back = jax.vjp(
            lambda x, w, s=stride, p=pad, d=dilation: nn.conv(x, w, stride=s, padding=p, dilation=d), jnp.asarray(x), w
        )
        theirs = layer(t)
        np.testing.assert_allclose(
            y + layer.bias.detach().numpy(), theirs.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5
        )
        g = rng.standard_normal(y.shape).astype(np.float32)
        dx, dw = back(jnp.asarray(g))
        t.grad = None
        theirs.backward(torch.tensor(g.transpose(0, 3, 1, 2).copy()))
        np.testing.assert_allclose(dx, t.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(dw, layer.weight.grad.numpy().transpose(2, 3, 1, 0), rtol=1e-4, atol=1e-4)
    norm = torch.nn.BatchNorm2d(3)
    ours, state = eqx.nn.make_with_state(nn.BatchNorm)(3)
    for mode in (True, False):
        norm.train(mode)
        y, state = ours(jnp.asarray(x), state, inference=not mode)
        np.testing.assert_allclose(y, norm(t).detach().numpy().transpose(0, 2, 3, 1), atol=1e-5)
    pool = torch.nn.functional.avg_pool2d(t, 3, 2).detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(
        nn.softmax_pool(jnp.asarray(x), 3, stride=2, temperature=jnp.inf), pool, rtol=1e-5, atol=1e-6
    )
    shuffled = torch.nn.ChannelShuffle(3)(torch.arange(12.0).reshape(1, 12, 1, 1)).ravel().tolist()
    assert nn.channel_shuffle(jnp.arange(12.0), 3).tolist() == shuffled
