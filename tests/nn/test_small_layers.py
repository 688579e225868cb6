"""Constrained recurrent cells, small layers, penalties and measures of networks: each against a closed form or twin."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from corollary.core.errors import InputError
from corollary.nn import (
    RNN,
    Bilinear,
    ComplexLinear,
    InvertibleResNet,
    OrthogonalCell,
    SpectralNormCell,
    SpectralScaling,
    TTLinear,
    UnitaryCell,
    barron_approximation,
    check_equivariance,
    frequency_penalty,
    iterative_normalization,
    linear_regions,
    low_rank_layer,
    modrelu,
    mup,
    network_lipschitz,
    orthogonal_matrix,
    real_features,
    residual_conditioning,
    spectral_decoupling,
    spectral_init,
    spectral_norm_penalty,
    tt_linear,
    unit_variance,
    wirtinger,
    zaslavsky,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def linear(z):
    return z


# --- recurrent cells ---


@pytest.mark.covers("orthogonal-rnn")
@pytest.mark.parametrize("form", ["cayley", "exp", "householder"])
def test_orthogonal_cells_stay_orthogonal_and_keep_the_gradient(form, dtype):
    n, length = 6, 40
    cell = OrthogonalCell(2, n, form=form, activation=linear, key=jax.random.key(0))
    x = jnp.asarray(rng().normal(size=(length, 2)), dtype)
    arrays, static = eqx.partition(RNN(2, n, cell=lambda *_, key: cell, key=jax.random.key(0)), eqx.is_array)

    @jax.jit
    def update_and_measure(arrays):
        def loss(arrays):
            return jnp.sum(eqx.combine(arrays, static)(x)[0] ** 2) / 100

        def step(arrays, _):
            return jax.tree.map(
                lambda p, g: p - jnp.asarray(0.3, dtype) * jnp.tanh(g), arrays, jax.grad(loss)(arrays)
            ), None

        arrays, _ = jax.lax.scan(step, arrays, None, length=5)
        net = eqx.combine(arrays, static)
        last = jax.jacobian(lambda h: net(x, ((h,),))[0][-1])(jnp.zeros(n, dtype))
        return net.cells[0][0].weight_hh, last

    W, jacobian = update_and_measure(arrays)
    tolerance = 50 * n * np.finfo(dtype).eps
    np.testing.assert_allclose(W.T @ W, np.eye(n), atol=tolerance)
    assert np.max(np.abs(W - cell.weight_hh)) > 1e-3  # it did move
    np.testing.assert_allclose(np.linalg.svd(jacobian, compute_uv=False), 1, atol=length * tolerance)
    with pytest.raises(InputError, match="form: found 'qr'"):
        orthogonal_matrix(jnp.eye(2), "qr")


@pytest.mark.covers("spectral-norm-rnn")
def test_spectrally_normalised_cell(x64):
    c, n, length = 0.8, 5, 12
    x = jnp.asarray(rng().normal(size=(length, 2)))
    for seed in range(3):
        cell = SpectralNormCell(2, n, norm=c, key=jax.random.key(seed))
        np.testing.assert_allclose(np.linalg.norm(cell.weight_hh, 2), c, rtol=1e-13)
        plain = cell.ready()

        @jax.jit
        def last(h, plain=plain):
            return jax.lax.scan(lambda h, x: (plain(x, h), None), h, x)[0]

        assert np.linalg.norm(jax.jacobian(last)(jnp.zeros(n)), 2) <= c**length * (1 + 1e-12)
    with pytest.raises(InputError, match="norm: found 0"):
        SpectralNormCell(2, 3, norm=0.0, key=jax.random.key(0))


@pytest.mark.covers("unitary-rnn")
def test_unitary_matrix_keeps_norms_and_modrelu_keeps_phases(x64):
    cell = UnitaryCell(2, 7, key=jax.random.key(0))
    M = tuple(jnp.asarray(m) for m in rng().normal(size=(2, 7, 7)))
    W = np.asarray(eqx.tree_at(lambda c: c.skew, cell, M).weight_hh)
    h = rng(1).normal(size=7) + 1j * rng(2).normal(size=7)
    np.testing.assert_allclose(np.linalg.norm(W @ h), np.linalg.norm(h), rtol=1e-13)
    np.testing.assert_allclose(W.conj().T @ W, np.eye(7), atol=1e-13)
    z = jnp.asarray([3 + 4j, -0.1j, 0.0])
    out = np.asarray(modrelu(z, jnp.asarray(-0.5)))
    np.testing.assert_allclose(out, [4.5 * (0.6 + 0.8j), 0, 0], atol=1e-15)
    slope = jax.grad(lambda b: jnp.sum(jnp.abs(modrelu(z, b)[:1])))(jnp.asarray(-0.5))
    assert float(slope) == 1
    x = jnp.asarray(rng(3).normal(size=(3, 2)))
    outputs, _ = RNN(2, 7, cell=lambda *_, key: cell, key=jax.random.key(1))(x)
    state = np.asarray(cell.initial())
    for t, row in enumerate(np.asarray(x)):
        V = np.asarray(cell.weight_ih[0]) + 1j * np.asarray(cell.weight_ih[1])
        state = np.asarray(modrelu(jnp.asarray(np.asarray(cell.weight_hh) @ state + V @ row), cell.bias))
        np.testing.assert_allclose(outputs[t], state, atol=1e-14)


@pytest.mark.covers("unitary-rnn")
def test_unitary_cell_copies_where_tanh_forgets():
    """Remember two symbols of four over a long blank stretch; guessing costs ln 4."""
    symbols, word, delay, hidden, batch, steps = 4, 2, 40, 24, 16, 100
    length = 2 * word + delay

    def make(kind):
        cell, size = (UnitaryCell, 2 * hidden) if kind == "unitary" else ("elman", 2 * hidden)
        rnn = RNN(symbols + 2, hidden if kind == "unitary" else size, cell=cell, key=jax.random.key(0))
        return rnn, eqx.nn.Linear(size, symbols, key=jax.random.key(1))

    def batch_of(key):
        said = jax.random.randint(key, (batch, word), 0, symbols)
        x = jnp.full((batch, length), symbols).at[:, :word].set(said).at[:, -word:].set(symbols + 1)
        return jax.nn.one_hot(x, symbols + 2), said

    def trained(kind):
        arrays, static = eqx.partition(make(kind), eqx.is_inexact_array)
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))

        def loss(arrays, key):
            rnn, head = eqx.combine(arrays, static)
            x, said = batch_of(key)
            outputs = rnn(x)[0][:, -word:]
            outputs = real_features(outputs) if kind == "unitary" else outputs
            logits = outputs @ head.weight.T + head.bias
            return optax.softmax_cross_entropy_with_integer_labels(logits, said).mean()

        @jax.jit
        def run(arrays):
            def step(carry, key):
                arrays, state = carry
                value, gradient = jax.value_and_grad(loss)(arrays, key)
                with jax.numpy_dtype_promotion("standard"):
                    updates, state = optimizer.update(gradient, state)
                return (optax.apply_updates(arrays, updates), state), value

            keys = jax.random.split(jax.random.key(2), steps)
            return jax.lax.scan(step, (arrays, optimizer.init(arrays)), keys)[1]

        return np.mean(run(arrays)[-20:])

    unitary, tanh = trained("unitary"), trained("elman")
    assert unitary < 0.1 * np.log(symbols), (unitary, tanh)
    assert tanh > 0.8 * np.log(symbols), (unitary, tanh)


# --- layers ---


@pytest.mark.covers("bilinear-layer")
def test_bilinear(x64):
    layer = Bilinear(3, 4, 2, key=jax.random.key(0))
    x, x2, y = (jnp.asarray(rng(s).normal(size=(5, n))) for s, n in ((0, 3), (1, 3), (2, 4)))
    W, b = np.asarray(layer.weight), np.asarray(layer.bias)
    expected = np.array(
        [[u @ W[k] @ v + b[k] for k in range(2)] for u, v in zip(np.asarray(x), np.asarray(y), strict=True)]
    )
    np.testing.assert_allclose(layer(x, y), expected, rtol=1e-13)
    np.testing.assert_allclose(jax.vmap(layer)(x, y), layer(x, y), rtol=1e-13)
    bare = eqx.tree_at(lambda m: m.bias, layer, None)
    np.testing.assert_allclose(bare(2.0 * x + x2, y), 2 * bare(x, y) + bare(x2, y), atol=1e-13)
    np.testing.assert_allclose(bare(x, y + 3.0 * y[::-1]), bare(x, y) + 3 * bare(x, y[::-1]), atol=1e-13)


@pytest.mark.covers("bilinear-layer")
def test_bilinear_equals_torch(x64):
    torch = pytest.importorskip("torch")
    layer, peer = Bilinear(3, 4, 2, key=jax.random.key(0)), torch.nn.Bilinear(3, 4, 2, dtype=torch.float64)
    x, y = rng(0).normal(size=(5, 3)), rng(1).normal(size=(5, 4))
    with torch.no_grad():
        peer.weight.copy_(torch.tensor(np.array(layer.weight)))
        peer.bias.copy_(torch.tensor(np.array(layer.bias)))
        expected = peer(torch.tensor(x), torch.tensor(y)).numpy()
    np.testing.assert_allclose(layer(jnp.asarray(x), jnp.asarray(y)), expected, rtol=1e-13)


@pytest.mark.covers("complex-linear-layer")
def test_complex_linear_and_wirtinger(x64):
    layer = ComplexLinear(3, 2, key=jax.random.key(0))
    z = jnp.asarray(rng(0).normal(size=(4, 3)) + 1j * rng(1).normal(size=(4, 3)))
    out = layer(z)
    real = jnp.concatenate([z.real, z.imag], -1) @ layer.real_form().T
    np.testing.assert_allclose(jnp.concatenate([out.real, out.imag], -1), real, rtol=1e-13)

    def loss(z):
        return jnp.sum(jnp.abs(jnp.sin(layer(z))) ** 2)

    ours = np.asarray(wirtinger(loss)(z))
    np.testing.assert_array_equal(2 * ours, np.conj(jax.grad(loss)(z)))
    h = 1e-6
    for index in np.ndindex(2, 3):
        bump = np.zeros(z.shape, complex)
        bump[index] = h
        dx = float(loss(z + bump) - loss(z - bump)) / (2 * h)
        dy = float(loss(z + bump * 1j) - loss(z - bump * 1j)) / (2 * h)
        np.testing.assert_allclose(ours[index], (dx + 1j * dy) / 2, rtol=1e-7, atol=1e-8)


@pytest.mark.covers("spectral-init")
def test_spectral_initialisation_is_exact(dtype):
    key, tolerance = jax.random.key(0), 50 * np.finfo(dtype).eps
    for distribution in ("normal", "truncated", "uniform"):
        W = np.asarray(spectral_init(key, (6, 4), value=1.7, distribution=distribution))
        assert W.dtype == dtype
        np.testing.assert_allclose(np.linalg.norm(W, 2), 1.7, rtol=tolerance)
    W = np.asarray(spectral_init(key, (6, 6), "radius", 0.9))
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(W)).max(), 0.9, rtol=20 * tolerance)
    W = np.asarray(spectral_init(key, (4, 6), "isometry", 0.5))
    np.testing.assert_allclose(np.linalg.svd(W, compute_uv=False), 0.5, rtol=tolerance)
    np.testing.assert_allclose(np.linalg.norm(spectral_init(key, (9, 4), "mup"), 2), 1.5, rtol=tolerance)
    with pytest.raises(InputError, match=r"shape: found \(3, 2\)"):
        spectral_init(key, (3, 2), "radius")
    with pytest.raises(InputError, match="target: found 'rank'"):
        spectral_init(key, (3, 2), "rank")


@pytest.mark.covers("spectral-init")
def test_truncated_normal_needs_its_correction(x64):
    factor = stats.truncnorm(-2, 2).std()
    assert abs(factor - 0.8796) < 5e-5
    n = 200_000
    x = np.asarray(unit_variance(jax.random.key(0), (n,), "truncated"))
    assert abs(x.std() - 1) < 5 / np.sqrt(2 * n)
    assert stats.kstest(x * factor, stats.truncnorm(-2, 2).cdf).pvalue > 1e-3
    assert abs(np.asarray(unit_variance(jax.random.key(1), (n,), "uniform")).std() - 1) < 5 / np.sqrt(2 * n)


@pytest.mark.covers("spectral-norm-penalty")
def test_spectral_norm_penalty(x64):
    U, _ = np.linalg.qr(rng().normal(size=(4, 4)))
    V, _ = np.linalg.qr(rng(1).normal(size=(3, 3)))
    s = np.array([3.0, 2.0, 0.5])
    W = jnp.asarray(U[:, :3] * s @ V.T)
    tree = {"a": W, "b": jnp.ones(3), "c": 2.0 * W}
    np.testing.assert_allclose(spectral_norm_penalty(tree, 0.1), 0.05 * (9 + 36), rtol=1e-13)
    gradient = jax.grad(lambda w: spectral_norm_penalty(w, 0.1))(W)
    np.testing.assert_allclose(gradient, 0.1 * 3 * np.outer(U[:, 0], V[:, 0]), atol=1e-13)
    after = np.linalg.svd(W - gradient, compute_uv=False)
    np.testing.assert_allclose(after, [3 - 0.3, 2, 0.5], rtol=1e-12)  # the largest only
    assert np.isfinite(jax.grad(spectral_norm_penalty)(jnp.eye(3))).all()  # repeated values too
    with pytest.raises(InputError, match="weights: found no floating matrix"):
        spectral_norm_penalty({"b": jnp.ones(3)})


@pytest.mark.covers("spectral-decoupling")
def test_spectral_decoupling_learns_both_features(x64):
    z = jnp.asarray([1.5, -2.0])
    np.testing.assert_allclose(jax.grad(spectral_decoupling)(z, 0.3), 0.3 * np.asarray(z), rtol=1e-15)
    # Every example shows two features of its class, the second a fifth as strong, in varying shares that sum to one
    # answer: the logit 1.25·(1 + e) + 1.25·(1 − e) = 2.5, say, needs both. (Were the shares fixed, no penalty on logits
    # could tell the features apart.)
    rest = jnp.linspace(-0.5, 0.5, 9)
    y = jnp.concatenate([jnp.ones(9), -jnp.ones(9)])
    shares = jnp.stack([1 + rest, 0.2 * (1 - rest)], 1)
    X = y[:, None] * jnp.concatenate([shares, shares])

    @jax.jit
    def fit(strength):
        def loss(w):
            logits = X @ w
            entropy = jnp.mean(jax.nn.softplus(-y * logits))
            return entropy + jnp.mean(jax.vmap(lambda v: spectral_decoupling(v, strength))(logits))

        w = jax.lax.scan(lambda w, _: (w - 0.5 * jax.grad(loss)(w), None), jnp.zeros(2), None, length=2000)[0]
        return w * jnp.asarray([1.0, 0.2]), jnp.mean(y * (X @ w) > 0)  # what a whole feature adds to a logit

    plain, right = fit(0.0)
    decoupled, right_too = fit(0.2)
    assert right == right_too == 1  # the labels are explained either way
    assert plain[1] < 0.15 * plain[0]  # starved: cross-entropy alone learns the stronger feature
    np.testing.assert_allclose(decoupled[1], decoupled[0], rtol=1e-2)  # both learned, in full
    # So only the decoupled one still answers right where the stronger feature is halved and points the other way.
    assert -0.5 * plain[0] + plain[1] < 0 < -0.5 * decoupled[0] + decoupled[1]


@pytest.mark.covers("spectral-scaling")
def test_spectral_scaling(x64):
    layer = SpectralScaling(4, 6, heads=2, key=jax.random.key(0))
    gamma = jnp.asarray([0.5, 3.0])
    scaled = eqx.tree_at(lambda m: m.gamma, layer, gamma)
    for h in range(2):
        np.testing.assert_allclose(np.linalg.norm(scaled.weight[3 * h : 3 * h + 3], 2), gamma[h], rtol=1e-13)
    whole = SpectralScaling(4, 6, key=jax.random.key(0))
    W = np.asarray(whole.linear.weight)
    np.testing.assert_allclose(whole.weight, W / np.linalg.norm(W, 2), rtol=1e-13)  # γ = 1: spectral normalisation
    same = SpectralScaling(4, 6, heads=2, start="norm", key=jax.random.key(0))
    np.testing.assert_allclose(same.weight, same.linear.weight, rtol=1e-13)  # γ = σ
    x = jnp.asarray(rng().normal(size=4))
    np.testing.assert_allclose(same(x), same.linear(x), rtol=1e-13)
    assert (np.abs(jax.grad(lambda m: jnp.sum(m(x) ** 2))(scaled).gamma) > 0).all()
    with pytest.raises(InputError, match="heads: found 4, expected a divisor"):
        SpectralScaling(4, 6, heads=4, key=jax.random.key(0))


@pytest.mark.covers("iterative-normalization")
def test_iterative_normalisation_tends_to_zca(dtype):
    x = jnp.asarray(rng().normal(size=(200, 4)) @ (np.eye(4) + rng(1).normal(size=(4, 4))), dtype)
    covariance = np.cov(np.asarray(x, np.float64).T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    zca = (np.asarray(x) - np.mean(x, 0)) @ (vectors / np.sqrt(values)) @ vectors.T

    @jax.jit
    def defects(x):
        outs = [iterative_normalization(x, steps=t, eps=0.0).features for t in (1, 6, 20)]
        return outs, [jnp.linalg.norm(y.T @ y / 200 - jnp.eye(4, dtype=x.dtype)) for y in outs]

    outs, sizes = defects(x)
    assert sizes[0] > sizes[1] > sizes[2]
    tolerance = 500 * np.finfo(dtype).eps * values[-1] / values[0]
    assert sizes[2] < tolerance
    np.testing.assert_allclose(outs[2], zca, atol=tolerance)
    big = float(np.float32(1e12))
    np.testing.assert_allclose(defects(x * big)[0][2], outs[2], atol=tolerance)
    flat = jnp.asarray(np.outer(rng(2).normal(size=10), np.ones(4)), dtype)  # rank one
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(jnp.sin(iterative_normalization(v).features))))
    assert np.isfinite(gradient(flat)).all()
    assert np.isfinite(gradient(jnp.ones((10, 4), dtype))).all()


@pytest.mark.covers("spectral-pruning")
def test_low_rank_layer(dtype):
    W = jnp.asarray(rng().normal(size=(6, 5)), dtype)
    s = np.linalg.svd(np.asarray(W), compute_uv=False)
    for scale in (1.0, 1e12, 1e-12):
        found = low_rank_layer(W * jnp.asarray(scale, dtype), rank=2)
        assert bool(found.holds)
        error = np.linalg.norm(W * scale - found.value.left @ found.value.right) / scale
        np.testing.assert_allclose(error**2, np.sum(s[2:] ** 2), rtol=1e-4)
        assert found.value.n_parameters == 2 * (6 + 5)
    worst = np.linalg.svd(np.asarray(W))[2][2]  # the first direction dropped attains σ_{k+1}
    kept = low_rank_layer(eqx.nn.Linear(5, 6, key=jax.random.key(0)), rank=5).value
    dropped = np.linalg.norm(W @ worst - low_rank_layer(W, rank=2).value(jnp.asarray(worst)))
    np.testing.assert_allclose(dropped, s[2], rtol=1e-4)
    x = jnp.asarray(rng(1).normal(size=5), dtype)
    np.testing.assert_allclose(kept(x), eqx.nn.Linear(5, 6, key=jax.random.key(0))(x), atol=1e-5)
    shares = np.cumsum(s**2) / np.sum(s**2)
    for energy in (0.5, 0.9, 1.0):
        rank = low_rank_layer(W, energy=energy).stats["rank"]
        assert rank == np.argmax(shares >= energy * (1 - 1e-6)) + 1
    with pytest.raises(InputError, match="rank, energy: found None, None"):
        low_rank_layer(W)
    with pytest.raises(InputError, match="rank: found 6, expected at most 5"):
        low_rank_layer(W, rank=6)


@pytest.mark.covers("tt-linear")
def test_tensor_train_layer(x64):
    rows, columns = (2, 3, 2), (3, 2, 2)
    W = jnp.asarray(rng().normal(size=(12, 12)))
    x = jnp.asarray(rng(1).normal(size=12))
    full = tt_linear(W, rows, columns, tol=0.0)
    np.testing.assert_allclose(full.value(x), W @ x, rtol=1e-12)
    low = tt_linear(W, rows, columns, rank=3)
    assert bool(low.holds)
    dense = np.asarray(low.value.weight.to_dense())
    error = np.linalg.norm(W - dense) / np.linalg.norm(W)
    assert error <= np.sqrt(np.sum(np.asarray(low.stats["discarded"]) ** 2)) * (1 + 1e-12)  # TT-SVD
    np.testing.assert_allclose(low.value(x), dense @ x, rtol=1e-12)
    ranks = low.value.weight.rank
    count = sum(ranks[k] * rows[k] * columns[k] * ranks[k + 1] for k in range(3))
    assert low.stats["parameters"] == count
    assert low.stats["compression"] == 144 / count
    keys = jax.random.split(jax.random.key(0), 300)
    drawn = jax.jit(jax.vmap(lambda k: TTLinear(rows, columns, 4, key=k).weight.to_dense()))(keys)
    assert abs(float(jnp.mean(drawn**2)) * 12 - 1) < 0.2
    with pytest.raises(InputError, match="expected equally many, to multiply to"):
        tt_linear(W, (2, 3), (3, 4), rank=2)


@pytest.mark.covers("sn-resnet")
def test_invertible_residual_network(dtype):
    c = 0.7
    net = InvertibleResNet(3, 8, 2, c=c, key=jax.random.key(0))
    net = jax.tree.map(lambda a: 5 * a if eqx.is_array(a) else a, net)  # large weights: the norms must act
    x = jnp.asarray(rng().normal(size=(200, 3)), dtype)
    tol = 1e-5 if dtype == "float32" else 1e-12

    @jax.jit
    def round_trip(x):
        y = net(x)
        return y, net.inverse(y, tol=tol), net.branch(0, x)

    _, back, g = round_trip(x)
    assert bool(back.holds)
    assert bool(back.converged)
    assert np.linalg.norm(back.value - x) <= float(back.certificates["error"].bound)
    assert (np.asarray(back.stats["rates"]) <= c).all()
    ahead, branch = np.asarray(x + g), np.linalg.norm(x[::2] - x[1::2], axis=1)
    slopes = np.linalg.norm(ahead[::2] - ahead[1::2], axis=1) / branch
    assert (slopes >= 1 - c).all()
    assert (slopes <= 1 + c).all()
    assert slopes.max() - slopes.min() > 0.2  # not trivially the identity
    with pytest.raises(InputError, match=r"c: found 1\.0"):
        InvertibleResNet(3, 8, c=1.0, key=jax.random.key(0))


# --- measures of networks ---


@pytest.mark.covers("network-lipschitz-bound")
def test_lipschitz_bounds():
    net = eqx.nn.MLP(4, 3, 8, 2, key=jax.random.key(0))
    x = jnp.asarray(rng().normal(size=(6, 4)), jnp.float32)
    straight = list(net.layers)
    found = network_lipschitz(straight, x, key=jax.random.key(1))
    W = [np.asarray(layer.weight) for layer in net.layers]
    np.testing.assert_allclose(found.value.lower, np.linalg.norm(W[2] @ W[1] @ W[0], 2), rtol=1e-3)
    product = np.prod([np.linalg.norm(w, 2) for w in W])
    np.testing.assert_allclose(found.value.upper, product, rtol=1e-5)
    bent = network_lipschitz(net, x, key=jax.random.key(1))
    assert bool(found.holds & bent.holds)
    np.testing.assert_allclose(bent.value.upper, product, rtol=1e-5)
    a, b = (jnp.asarray(rng(s).normal(size=(2000, 4)), jnp.float32) for s in (2, 3))
    b = a + jnp.exp(-jnp.arange(2000, dtype=jnp.float32)[:, None] / 200) * b
    slopes = np.linalg.norm(jax.vmap(net)(a) - jax.vmap(net)(b), axis=1) / np.linalg.norm(a - b, axis=1)
    assert slopes.max() <= bent.value.upper
    assert slopes.max() <= 1.05 * bent.value.lower  # and the ascent finds as much
    jacobian = jax.jacobian(net)(bent.value.at)
    np.testing.assert_allclose(bent.value.lower, np.linalg.norm(jacobian, 2), rtol=0.05)
    with pytest.raises(InputError, match="network: found activation"):
        network_lipschitz([net.layers[0], lambda z: z**2], x, key=jax.random.key(1))


@pytest.mark.covers("equivariance-test")
def test_equivariance_checks():
    x = jnp.asarray(rng().normal(size=(4, 12)), jnp.float32)
    kernel = jnp.asarray([1.0, -2.0, 0.5])

    def circular(v):
        return sum(kernel[k] * jnp.roll(v, k) for k in range(3))

    shifts = [lambda v, s=s: jnp.roll(v, s) for s in (1, 2, 5)]
    assert bool(check_equivariance(circular, x, shifts).holds)
    assert bool(check_equivariance(jnp.tanh, x, shifts).holds)
    dense = eqx.nn.Linear(12, 12, key=jax.random.key(0))
    assert not bool(check_equivariance(dense, x, shifts).holds)
    planted = check_equivariance(lambda v: circular(v).at[7].add(1e-3), x, shifts)  # one bad entry is found
    assert not bool(planted.holds)
    np.testing.assert_allclose(planted.value.defects, 1e-3, rtol=1e-2)

    def strided(v):
        return circular(v)[::2]

    outer = [lambda v, s=s: jnp.roll(v, s // 2) for s in (1, 2, 4)]
    inner = [lambda v, s=s: jnp.roll(v, s) for s in (1, 2, 4)]
    defects = check_equivariance(strided, x, inner, on_output=outer).value.defects
    assert defects[0] > 0.1  # stride 2: an odd shift has no counterpart
    assert (np.asarray(defects[1:]) < 1e-5).all()
    # Zero padding breaks the symmetry at the borders only.
    padded = lambda v: jnp.convolve(v, kernel, mode="same")  # noqa: E731
    assert not bool(check_equivariance(padded, x, shifts[0]).holds)
    assert bool(check_equivariance(padded, x, shifts[0], interior=(slice(2, -2),)).holds)
    pooled = check_equivariance(lambda v: jnp.max(circular(v)), x, shifts, on_output="invariant")
    assert bool(pooled.holds)

    tokens = jnp.asarray(rng(1).normal(size=(3, 5, 4)), jnp.float32)
    attention = eqx.nn.MultiheadAttention(2, 4, key=jax.random.key(1))
    order = jnp.array([2, 0, 4, 1, 3])
    positions = jnp.asarray(rng(2).normal(size=(5, 4)), jnp.float32)

    @jax.jit
    def verdicts(tokens):
        attend = lambda t: attention(t, t, t)  # noqa: E731
        permute = lambda t: t[order]  # noqa: E731
        return [
            check_equivariance(attend, tokens, permute).holds,
            check_equivariance(lambda t: attend(t + positions), tokens, permute).holds,
            check_equivariance(attend, tokens, permute, on_output="invariant").holds,
            check_equivariance(lambda t: attend(t).mean(0), tokens, permute, on_output="invariant").holds,
        ]

    assert [bool(v) for v in verdicts(tokens)] == [True, False, False, True]
    # Rotations of the plane: the norm is invariant, and a rotation commutes with rotations.
    turn = jnp.asarray([[0.6, -0.8], [0.8, 0.6]])
    points = jnp.asarray(rng(3).normal(size=(6, 2)), jnp.float32)
    assert bool(check_equivariance(jnp.linalg.norm, points, lambda p: turn @ p, on_output="invariant").holds)
    with pytest.raises(InputError, match="on_output: found 2 actions"):
        check_equivariance(jnp.tanh, x, shifts, on_output=outer[:2])


@pytest.mark.covers("frequency-penalty")
def test_frequency_penalty(x64):
    values = jnp.asarray(rng().normal(size=(16, 12)))
    spectrum = np.fft.fft2(np.asarray(values))
    k = np.sqrt(np.fft.fftfreq(16, 1 / 16)[:, None] ** 2 + np.fft.fftfreq(12, 1 / 12) ** 2)
    passed = np.fft.ifft2(np.where(k > 3, spectrum, 0)).real
    penalty = jax.jit(jax.value_and_grad(lambda v, cutoff: frequency_penalty(v, cutoff, strength=2.0)))
    value, gradient = penalty(values, 3.0)
    np.testing.assert_allclose(value, 2 * np.mean(passed**2), rtol=1e-12)
    np.testing.assert_allclose(gradient, 4 * passed / values.size, atol=1e-14)
    assert float(penalty(jnp.full((16, 12), 1e8), 0.0)[0]) == 0
    channels = jnp.stack([values, 2.0 * values], -1)
    expected = (1 + 4) / 2 * np.mean(passed**2)
    np.testing.assert_allclose(jax.jit(lambda v: frequency_penalty(v, 3.0, dims=2))(channels), expected, rtol=1e-12)
    with pytest.raises(InputError, match="dims: found 3 grid axes"):
        frequency_penalty(values, 3.0, dims=3)


@pytest.mark.covers("linear-regions")
def test_linear_regions():
    def layer(n, d, seed):
        return rng(seed).normal(size=(n, d)), rng(seed + 100).normal(size=n)

    head = (np.ones((1, 1)), np.zeros(1))
    far = 1e4  # a domain that holds every crossing
    line = np.array([[-far], [far]])
    for n in (1, 4, 7):
        assert linear_regions([layer(n, 1, n), head], line) == n + 1 == zaslavsky(n, 1)
    square = far * np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    for n in (2, 5, 8):
        assert linear_regions([layer(n, 2, n), head], square) == zaslavsky(n, 2)
    box = ("box", [-100.0] * 3, [100.0] * 3)
    assert linear_regions([layer(4, 3, 1), head], box) == zaslavsky(4, 3) == 15
    # Two layers: the box and the polygon agree, and sampled patterns find no more.
    net = [layer(4, 2, 3), layer(3, 4, 4), head]
    small = 3 * np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    count = linear_regions(net, small)
    assert count == linear_regions(net, ("box", [-3.0, -3.0], [3.0, 3.0]))
    x = rng(5).uniform(-3, 3, size=(400_000, 2))
    first = x @ net[0][0].T + net[0][1]
    second = np.maximum(first, 0) @ net[1][0].T + net[1][1]
    bits = np.concatenate([first, second], 1) > 0
    seen = len(np.unique(bits @ 2 ** np.arange(7)))
    assert 0.8 * count <= seen <= count
    # Folding attains Montúfar's lower bound: here ∏ ⌊2/1⌋ = 2 per layer of two units.
    for depth in (1, 2, 3, 5):
        assert linear_regions(_tents(depth), np.array([[0.0], [1.0]])) == 2**depth
    with pytest.raises(InputError, match=r"domain: found shape \(2, 3\)"):
        linear_regions([layer(4, 2, 3), head], np.zeros((2, 3)))


def _tents(depth):
    """The iterated tent map t ↦ 2t − 4(t − ½)₊, with a bias that keeps the unit of 2t active on [0, 1]."""
    first = (np.array([[2.0], [4.0]]), np.array([0.0, -2.0]))
    then = (np.array([[2.0, -2.0], [4.0, -4.0]]), np.array([0.0, -2.0]))
    return [first, *[then] * (depth - 1), (np.array([[1.0, -1.0]]), np.zeros(1))]


@pytest.mark.covers("layernorm-conditioning")
def test_residual_conditioning(x64):
    n = 6
    norm = eqx.nn.LayerNorm(n)

    @jax.jit
    def over(keys, scale):
        def one(key):
            first, second, third = jax.random.split(key, 3)
            W1, W2 = jax.random.normal(first, (n, n)), jax.random.normal(second, (n, n))
            x = jax.random.normal(third, (n,))
            branch = lambda z: scale * jnp.tanh(z @ W1) @ W2  # noqa: E731
            return residual_conditioning(branch, x, norm=norm), residual_conditioning(branch, 10.0 * x, norm=norm)

        return jax.vmap(one)(keys)

    found, later = over(jax.random.split(jax.random.key(0), 200), 0.05)
    claim = found.certificates["condition"]
    small = np.asarray(claim.applies)
    assert 20 < small.sum() <= 200
    assert (np.asarray(claim.measured)[small] <= np.asarray(claim.bound)[small]).all()
    assert np.isinf(np.asarray(claim.bound)[~small]).all()
    values, size = np.asarray(found.value.singular_values), np.asarray(found.value.branch_norm)
    assert (values[:, -1] >= 1 - size - 1e-12).all()
    assert (values[:, 0] <= 1 + size + 1e-12).all()
    np.testing.assert_allclose(later.value.branch_norm, size / 10, rtol=1e-2)  # ten times the stream, a tenth of J
    assert not bool(np.all(over(jax.random.split(jax.random.key(0), 200), 3.0)[0].certificates["condition"].applies))
    tight = residual_conditioning(lambda z: z * jnp.asarray([0.5, -0.5]), jnp.ones(2))
    np.testing.assert_allclose(tight.value.condition, 3, rtol=1e-14)


@pytest.mark.covers("barron-rate")
def test_barron_rate_is_free_of_the_dimension():
    widths, key = (16, 256), jax.random.key(0)
    means = {}
    for d in (1, 8):
        omega = rng(d).normal(size=(3, d))
        omega *= 2 / np.linalg.norm(omega, axis=1, keepdims=True)
        parts = [jnp.asarray(v, jnp.float32) for v in ([0.5, -0.3, 0.2], omega, [0.1, 1.0, 2.0])]
        x = rng(5).normal(size=(200, d))
        x *= rng(6).uniform(size=(200, 1)) ** (1 / d) / np.linalg.norm(x, axis=1, keepdims=True)
        points = jnp.asarray(0.999 * x, jnp.float32)
        for n in widths:
            run = jax.jit(lambda p, k, n=n, x=points: barron_approximation(*p, n, x, radius=1.0, key=k, draws=32))
            found = run(parts, key)
            claim = found.certificates["mean_square"]
            np.testing.assert_allclose(found.stats["constant"], 2.0, rtol=1e-6)  # the same for every d
            np.testing.assert_allclose(claim.bound, 16 / n, rtol=1e-3)
            assert bool(claim.holds)
            assert float(claim.confidence) > 0.99
            assert found.stats["mean_error"] <= claim.bound
            means[d, n] = float(found.stats["mean_error"])
        slope = np.polyfit(np.log(widths), np.log([means[d, n] for n in widths]), 1)[0]
        assert abs(slope + 1) < 0.15, slope
    assert 0.2 < means[1, 256] / means[8, 256] < 5


# --- μP ---

STEPS = 12


def _nets(width, key):
    net = eqx.nn.MLP(8, 1, width, 2, use_bias=False, use_final_bias=False, key=key)
    sizes = [layer.weight.shape for layer in net.layers]
    keys = jax.random.split(key, 3)
    weights = [jax.random.normal(k, s) / jnp.sqrt(jnp.float32(s[1])) for k, s in zip(keys, sizes, strict=True)]
    return weights


def _features(weights, x):
    h = x @ weights[0].T
    out = [h]
    for w in weights[1:]:
        h = jax.nn.relu(h) @ w.T
        out.append(h)
    return out


@jax.jit
def _train(weights, scaling, rates):
    """How far each layer's features move, and the last loss; by rate."""
    weights = scaling.initialise(weights)
    x = jax.random.normal(jax.random.key(7), (64, 8))
    y = jnp.sin(x[:, :1]) * x[:, 1:2]
    optimizer = optax.chain(optax.scale_by_adam(), scaling.scale_updates())

    def loss(weights):
        return jnp.mean((_features(scaling.effective(weights), x)[-1] - y) ** 2)

    def run(rate):
        def step(carry, _):
            weights, state = carry
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(jax.grad(loss)(weights), state)
            return (jax.tree.map(lambda w, u: w - rate * u, weights, updates), state), None

        (end, _), _ = jax.lax.scan(step, (weights, optimizer.init(weights)), None, length=STEPS)
        pairs = zip(_features(scaling.effective(weights), x), _features(scaling.effective(end), x), strict=True)
        return jnp.stack([jnp.mean(jnp.abs(b - a)) for a, b in pairs]), loss(end)

    return jax.lax.map(run, rates)


@pytest.mark.covers("mup")
def test_mup_multipliers_are_those_of_the_published_package():
    key = jax.random.key(0)
    net = lambda width: eqx.nn.MLP(4, 2, width, 2, key=key)  # noqa: E731
    adam, sgd = mup(net(8), net(32)), mup(net(8), net(32), optimizer="sgd")
    # Order: weight and bias of the input, hidden and output layer. MuAdam divides the rate of matrices with two
    # infinite dimensions by the width's ratio; MuSGD multiplies that of vector-like ones; MuReadout divides its output.
    assert adam.rate == (1, 1, 0.25, 1, 1, 1)
    assert sgd.rate == (4, 4, 1, 4, 4, 1)
    assert adam.forward == sgd.forward == (1, 1, 1, 1, 0.25, 1)
    assert adam.initial == (1, 1, 1, 1, 2, 1)
    assert set(mup(net(8), net(8)).forward) == {1.0}
    with pytest.raises(InputError, match="target: found 4 arrays unlike the 6 of base"):
        mup(net(8), eqx.nn.MLP(4, 2, 8, 1, key=key))


@pytest.mark.covers("mup")
def test_mup_coordinate_check_and_transfer_of_the_rate():
    widths, rates = (32, 256), 2.0 ** jnp.arange(-11, -3, dtype=jnp.float32)
    base = _nets(32, jax.random.key(0))
    slopes, best = {}, {}
    for use_mup in (True, False):
        moved, losses = [], []
        for width in widths:
            weights = _nets(width, jax.random.key(1))
            found = _train(weights, mup(base if use_mup else weights, weights), rates)
            moved.append(np.asarray(found[0][2]))
            losses.append(np.asarray(found[1]))
        slopes[use_mup] = np.log2(moved[1] / moved[0]) / np.log2(widths[1] / widths[0])
        best[use_mup] = [int(np.nanargmin(loss)) for loss in losses]
    assert (np.abs(slopes[True]) < 0.15).all(), (slopes, best)
    assert slopes[False].max() > 0.3, (slopes, best)  # standard: features move more as the width grows
    assert abs(best[True][0] - best[True][1]) <= 1, (slopes, best)
    assert best[False][0] - best[False][1] >= 2, (slopes, best)  # and the best rate falls
