"""Sizes, counts, receptive fields, norms, unshared convolutions, and the labs of convolution."""

from __future__ import annotations

import importlib.util
import itertools
import pathlib
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage

from corollary import nn
from corollary.core.errors import InputError
from corollary.core.precision import eps
from corollary.nn._conv_kernels import plain

LABS = pathlib.Path(__file__).parents[2] / "docs" / "labs"


def lab(name):
    spec = importlib.util.spec_from_file_location(f"lab_{name}", LABS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.covers("conv-output-size")
def test_output_sizes():
    for size, k, s, p, d in itertools.product((7, 8, 12), (1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (1, 2)):
        reach = d * (k - 1) + 1
        if size + 2 * p < reach:
            with pytest.raises(InputError, match="kernel's reach"):
                nn.conv_output_size(size, k, stride=s, padding=p, dilation=d)
            continue
        found = nn.conv_output_size(size, k, stride=s, padding=p, dilation=d)
        x = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
        w = jax.ShapeDtypeStruct((k, k, 1, 1), jnp.float32)
        settings = {"stride": (s, s), "pads": ((p, p),) * 2, "dilation": (d, d)}
        if d == 1 or s == 2:
            shape = jax.eval_shape(lambda x, w, a=settings: plain(x, w, **a), x, w).shape
            assert shape == (1, found, found, 1)
        # The transposed sizes are those that the convolution maps to `found`.
        back = [
            nn.conv_transpose_output_size(found, k, stride=s, padding=p, dilation=d, output_padding=a)
            for a in range(s)
            if (found - 1) * s - 2 * p + reach + a >= 1
        ]
        assert size in back
        assert all(nn.conv_output_size(b, k, stride=s, padding=p, dilation=d) == found for b in back)
    for m, a, s in itertools.product((5, 6, 9), (1, 3, 5), (1, 2, 3)):
        assert nn.conv_output_size(m, a, stride=s, padding=nn.same_padding(m, a, stride=s)) == m
    assert nn.conv_output_size(32, 5) == 28
    assert nn.conv_output_size(224, 11, stride=4, padding=2) == nn.conv_output_size(227, 11, stride=4) == 55
    assert nn.conv_output_size(224, 11, stride=4) == 54
    with pytest.raises(InputError, match="stride: found 0"):
        nn.conv_output_size(5, 3, stride=0)
    with pytest.raises(InputError, match="output_padding: found 2"):
        nn.conv_transpose_output_size(5, 3, stride=2, output_padding=2)


@pytest.mark.covers("parameter-count")
def test_parameter_count():
    key = jax.random.key(0)
    shape = {"height": 6, "width": 5, "channels": 2, "kernel_height": 3, "kernel_width": 2, "filters": 4}
    layers = {
        "conv": eqx.filter_eval_shape(nn.Conv, 2, 4, (3, 2), key=key),
        "locally_connected": eqx.filter_eval_shape(nn.LocallyConnected, (6, 5, 2), 4, (3, 2), key=key),
        "dense_map": eqx.filter_eval_shape(eqx.nn.Linear, 6 * 5 * 2, 4 * 4 * 4, key=key),
    }
    for kind, layer in layers.items():
        assert nn.layer_cost(kind, **shape).parameters == nn.parameter_count(layer)
    assert nn.layer_cost("conv", **shape).parameters == 4 * (3 * 2 * 2 + 1)
    lstm = eqx.filter_eval_shape(eqx.nn.LSTMCell, 3, 5, key=key)
    assert nn.layer_cost("lstm", inputs=3, hidden=5).parameters == nn.parameter_count(lstm)
    gpt = {"layers": 48, "width": 1600, "vocabulary": 50257, "context": 1024}
    assert nn.layer_cost("transformer", **gpt).parameters == 1_557_611_200
    gpt3 = {"layers": 96, "width": 12288, "vocabulary": 50257, "context": 2048}
    assert nn.layer_cost("transformer", **gpt3).parameters == 174_604_259_328
    five = {"kernel_height": 5, "kernel_width": 5}
    assert nn.layer_cost("conv", height=32, width=32, channels=1, filters=6, **five).parameters == 156
    assert nn.layer_cost("dense", inputs=400, outputs=120).parameters == 48_120
    assert nn.layer_cost("dense", inputs=120, outputs=84).parameters == 10_164
    alex = {"height": 227, "width": 227, "channels": 3, "kernel_height": 11, "kernel_width": 11, "filters": 96}
    assert nn.layer_cost("conv", **alex).parameters == 34_944
    tiny = {"height": 3, "width": 3, "channels": 1, "kernel_height": 2, "kernel_width": 2, "filters": 1, "bias": 0}
    assert nn.layer_cost("conv", **tiny).parameters == 4
    assert nn.layer_cost("dense_map", **tiny).parameters == 36
    # Operations: the formula equals the count of the traced function, also through loops and gradients.
    x = jax.ShapeDtypeStruct((1, 6, 5, 2), jnp.float32)
    w = jax.ShapeDtypeStruct((3, 2, 2, 4), jnp.float32)
    once = nn.flops(lambda x, w: nn.conv(x, w, padding="VALID"), x, w)
    assert once == nn.layer_cost("conv", **shape).flops
    loop = lambda x, w: jax.lax.scan(lambda c, _: (nn.conv(c, w[..., :2]), None), x, None, length=5)[0]  # noqa: E731
    assert nn.flops(loop, x, w) == 5 * 2 * 6 * 5 * 2 * (3 * 2 * 2)
    with pytest.raises(InputError, match="kind: found 'rbf'"):
        nn.layer_cost("rbf")
    with pytest.raises(InputError, match="size: found"):
        nn.layer_cost("dense", inputs=3)


@pytest.mark.covers("receptive-field")
def test_receptive_field(x64):
    layers = [(3, 2, 1, 1), (3, 1, 2, 2), (2, 2, 1, 0)]

    def network(x):
        for k, s, d, p in layers:
            x = nn.conv(x, jnp.ones((k, 1, 1)), stride=s, padding=p, dilation=d)
        return x

    field = nn.receptive_field(layers)
    assert field.sizes == (3, 11, 13)
    assert field.jumps == (2, 2, 4)
    n = 40
    jacobian = jax.jacobian(lambda x: network(x[None, :, None])[0, :, 0])(jnp.ones(n))
    for unit in (0, 3, 8):
        seen = np.flatnonzero(np.asarray(jacobian[unit]))
        inside = field.interval(unit, n)
        assert set(seen) <= set(inside)
        if unit == 3:
            assert (seen.min(), seen.max()) == (inside[0], inside[-1])
            assert field.offset + unit * field.jump == (seen.min() + seen.max()) / 2
    mask = nn.receptive_set(network, jnp.ones((1, n, 1)), (0, 3, 0))
    np.testing.assert_array_equal(mask[0, :, 0], jacobian[3] != 0)
    W = jnp.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
    for i in range(2):
        np.testing.assert_array_equal(nn.receptive_set(lambda x: W @ x, jnp.ones(3), (i,)), W[i] != 0)
    vgg = [layer for m in (2, 2, 3, 3, 3) for layer in [(3, 1, 1, 1)] * m + [(2, 2)]]
    assert nn.receptive_field(vgg).size == 212
    doubling = [(3, 1, 2**i) for i in range(5)]  # exponential in the number of layers
    assert nn.receptive_field(doubling).sizes == tuple(2 ** (i + 2) - 1 for i in range(5))
    with pytest.raises(InputError, match="layers: found none"):
        nn.receptive_field([])


@pytest.mark.covers("conv-spectral-norm")
def test_conv_spectral_norm(dtype):
    rng = np.random.default_rng(0)
    kernel, n = rng.standard_normal((3, 3, 2, 3)), 5
    image = np.eye(n * n * 2).reshape(-1, n, n, 2)

    def dense(x):  # the operator's matrix by loops
        h, w = x.shape[1] - 2, x.shape[2] - 2
        return sum(x[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3)).reshape(len(x), -1)

    edge = ((0, 0), (1, 1), (1, 1), (0, 0))
    matrices = {
        "CIRCULAR": dense(np.pad(image, edge, mode="wrap")),
        "SAME": dense(np.pad(image, edge)),
        "VALID": dense(image),
    }
    if dtype == jnp.float32:
        del matrices["VALID"]
    for padding, matrix in matrices.items():
        found = nn.conv_spectral_norm(jnp.asarray(kernel, dtype), n, padding=padding)
        # The two largest singular values lie within 5e-4 of each other under zero padding.
        tight = 50 * eps(dtype) if padding == "CIRCULAR" else eps(dtype) ** (2 / 3)
        np.testing.assert_allclose(found.value, np.linalg.norm(matrix, 2), rtol=tight)
        assert bool(found.holds)
        assert bool(found.converged)
        reshaped = np.linalg.norm(kernel.reshape(-1, 3), 2)
        np.testing.assert_allclose(found.stats["reshaped"], reshaped, rtol=1e-5)
        assert abs(reshaped - found.value) > 0.05 * reshaped  # another number
        if dtype == jnp.float32:
            scaled = nn.conv_spectral_norm(jnp.asarray(kernel * 1e12, dtype), n, padding=padding)
            np.testing.assert_allclose(scaled.value / 1e12, found.value, rtol=tight)
    if dtype == jnp.float64:
        assert float(nn.conv_spectral_norm(jnp.zeros((3, 3, 1, 1)), 5, padding="SAME").value) == 0
    with pytest.raises(InputError, match="size: found 2 x 2"):
        nn.conv_spectral_norm(kernel, 2)


@pytest.mark.covers("locally-connected-layer")
def test_locally_connected(x64):
    rng = np.random.default_rng(1)
    x, w = jnp.asarray(rng.standard_normal((2, 5, 6, 2))), jnp.asarray(rng.standard_normal((3, 2, 2, 3)))
    g = jnp.asarray(rng.standard_normal((2, 2, 3, 3)))
    tied = jnp.broadcast_to(w, (2, 3, *w.shape))
    y, back = jax.vjp(lambda w: nn.conv(x, w, stride=2, padding="VALID"), w)
    z, untied = jax.vjp(lambda k: nn.locally_connected(x, k, stride=2), tied)
    np.testing.assert_allclose(y, z, rtol=1e-12)
    np.testing.assert_allclose(untied(g)[0].sum((0, 1)), back(g)[0], rtol=1e-12)
    layer = nn.LocallyConnected((5, 6, 2), 3, (3, 2), stride=2, key=jax.random.key(0))
    assert nn.parameter_count(layer) == (3 * 2 * 2 + 1) * (2 * 3) * 3
    k = np.asarray(layer.kernels)
    by_hand = np.einsum("bijc,ijck->bk", np.asarray(x)[:, 2:5, 4:6], k[1, 2])
    np.testing.assert_allclose(layer(x)[:, 1, 2], by_hand, rtol=1e-12)
    with pytest.raises(InputError, match="kernels: found"):
        nn.locally_connected(x, tied)


@pytest.mark.covers("channel-shuffle")
def test_channel_shuffle():
    x = jnp.arange(2 * 3 * 12.0).reshape(2, 3, 12)
    for groups in (1, 2, 3, 4, 12):
        y = nn.channel_shuffle(x, groups)
        n = 12 // groups
        P = np.zeros((12, 12))
        for i, j in itertools.product(range(groups), range(n)):
            P[j * groups + i, i * n + j] = 1
        np.testing.assert_array_equal(y, x @ P.T)
        np.testing.assert_array_equal(nn.channel_shuffle(y, groups, inverse=True), x)
    assert nn.channel_shuffle(jnp.arange(6), 2).tolist() == [0, 3, 1, 4, 2, 5]
    with pytest.raises(InputError, match="groups: found 5"):
        nn.channel_shuffle(x, 5)


@pytest.mark.covers("impulse-response")
def test_impulse_response(dtype):
    kernel = jnp.asarray(np.random.default_rng(2).standard_normal((5, 4)), dtype)

    scale = 1e12 if dtype == jnp.float32 else 1.0

    def circular(x):
        return scale * jnp.fft.irfft2(jnp.fft.rfft2(x) * jnp.fft.rfft2(kernel), x.shape)

    found = nn.impulse_response(circular, (5, 4), dtype=dtype)
    assert bool(found.converged)
    assert bool(found.holds)
    np.testing.assert_allclose(found.value / scale, kernel, atol=50 * eps(dtype))
    x = jnp.asarray(np.random.default_rng(3).standard_normal((5, 4)), dtype)
    rolled = sum(found.value[i, j] * jnp.roll(x, (i, j), (0, 1)) for i in range(5) for j in range(4))
    np.testing.assert_allclose(circular(x), rolled, atol=100 * scale * eps(dtype))
    place = nn.impulse_response(lambda x: x * jnp.arange(4, dtype=x.dtype), (5, 4), dtype=dtype)
    assert not bool(place.converged)
    assert bool(place.certificates["linearity"].holds)
    assert not bool(place.certificates["shift"].holds)
    bent = nn.impulse_response(jnp.abs, (6,), dtype=dtype)  # commutes with shifts, is not linear
    assert bool(bent.certificates["shift"].holds)
    assert not bool(bent.certificates["linearity"].holds)
    assert not bool(bent.certificates["convolution"].holds)
    with pytest.raises(InputError, match="operator: found an output"):
        nn.impulse_response(lambda x: x[1:], (5,))


@pytest.mark.covers("conv-backprop")
def test_conv_backprop():
    numbers = lab("conv_backprop").main()
    unflipped = numbers.pop("unflipped")
    assert max(numbers.values()) < 1e-13, numbers
    assert unflipped > 0.1  # without the turn by 180° the gradient is wrong


@pytest.mark.covers("conv-matrix")
def test_conv_matrix():
    module = lab("conv_matrix")
    numbers = module.main()
    assert numbers["example"].tolist() == [
        [1, 2, 0, 3, 4, 0, 0, 0, 0],
        [0, 1, 2, 0, 3, 4, 0, 0, 0],
        [0, 0, 0, 1, 2, 0, 3, 4, 0],
        [0, 0, 0, 0, 1, 2, 0, 3, 4],
    ]
    assert numbers["toeplitz"]
    assert numbers["diagonalised"] < 1e-13
    with jax.enable_x64(True):
        x, w = (jnp.asarray(numbers[name]) for name in ("image", "kernel"))
        y, back = jax.vjp(lambda x: nn.conv(x[None, :, :, None], w[:, :, None, None], padding="VALID").ravel(), x)
        np.testing.assert_allclose(numbers["valid"] @ np.asarray(x).ravel(), y, atol=1e-13)
        g = np.arange(1.0, y.size + 1)
        np.testing.assert_allclose(numbers["valid"].T @ g, back(jnp.asarray(g))[0].ravel(), atol=1e-12)
    v = np.array([1.0, -2.0, 0.5])  # one dimension: SciPy's, a true convolution (flipped)
    np.testing.assert_allclose(
        module.valid_matrix(v[None, ::-1], (1, 7)), scipy.linalg.convolution_matrix(v, 7, mode="valid")
    )
    spectrum = np.fft.ifft2(np.fft.fft2(numbers["image"]) * np.fft.fft2(numbers["kernel"], s=(5, 4))).real
    np.testing.assert_allclose(numbers["circular"] @ numbers["image"].ravel(), spectrum.ravel(), atol=1e-13)


@pytest.mark.covers("classical-filters")
def test_classical_filters():
    module = lab("classical_filters")
    numbers = module.main()
    image = numbers["image"]
    np.testing.assert_allclose(numbers["sobel"], scipy.ndimage.sobel(image, axis=1), atol=1e-12)
    np.testing.assert_allclose(numbers["laplacian"], scipy.ndimage.laplace(image), atol=1e-12)
    np.testing.assert_allclose(numbers["blur"], scipy.ndimage.gaussian_filter(image, 1.5), atol=1e-12)
    np.testing.assert_allclose(numbers["blur"], numbers["blur in one pass"], atol=1e-12)
    flat = np.full((9, 8), 3.0)
    np.testing.assert_allclose(module.edges(flat), 0, atol=1e-12)
    np.testing.assert_allclose(module.blur(flat, 1.5), 3, rtol=1e-13)
    row, column = np.mgrid[:48, :48]
    strongest = np.hypot(row - 24, column - 20)[numbers["edges"] > 0.6 * numbers["edges"].max()]
    assert strongest.min() > 9
    assert strongest.max() < 15
