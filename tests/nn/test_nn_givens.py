"""What Equinox and JAX give: the properties that the rest of the room relies on."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

init = jax.nn.initializers


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.covers("linear-layer", "mlp")
def test_linear_and_mlp_equal_numpy_and_count_their_parameters(x64):
    x = jnp.asarray(rng().normal(size=(5, 4)))
    layer, bare = (eqx.nn.Linear(4, 3, use_bias=b, key=jax.random.key(0)) for b in (True, False))
    np.testing.assert_allclose(jax.vmap(layer)(x), x @ layer.weight.T + layer.bias, rtol=1e-14)
    np.testing.assert_allclose(jax.vmap(bare)(x), x @ bare.weight.T, rtol=1e-14)
    assert bare.bias is None

    net = eqx.nn.MLP(4, 2, 6, 2, jnp.tanh, key=jax.random.key(1))
    a = np.asarray(x)
    for k, part in enumerate(net.layers):
        a = a @ np.asarray(part.weight).T + np.asarray(part.bias)
        a = np.tanh(a) if k < 2 else a  # no activation on the output
    np.testing.assert_allclose(jax.vmap(net)(x), a, atol=1e-14)

    def count(net):
        return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(net, eqx.is_array)))

    assert count(net) == 6 * (4 + 1) + 6 * (6 + 1) + 2 * (6 + 1)
    assert count(eqx.nn.MLP(2, 1, 2, 1, key=jax.random.key(0))) == 9
    rectified = eqx.nn.MLP(4, 2, 6, 1, final_activation=jax.nn.relu, key=jax.random.key(2))
    assert float(jnp.min(jax.vmap(rectified)(x))) >= 0  # an output ReLU cannot say less than zero
    straight = eqx.nn.MLP(4, 2, 6, 2, lambda z: z, use_bias=False, use_final_bias=False, key=jax.random.key(3))
    product = straight.layers[2].weight @ straight.layers[1].weight @ straight.layers[0].weight
    np.testing.assert_allclose(jax.vmap(straight)(x), x @ product.T, atol=1e-14)


@pytest.mark.covers("activations")
def test_activations_and_their_derivatives(x64):
    z = jnp.concatenate([jnp.linspace(-30, 30, 1001), jnp.array([-800.0, -0.0, 800.0])])
    each = jax.vmap(jax.grad(jax.nn.sigmoid))(z)
    np.testing.assert_allclose(each, jax.nn.sigmoid(z) * jax.nn.sigmoid(-z), rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(jnp.tanh(z), 2 * jax.nn.sigmoid(2 * z) - 1, atol=1e-15)
    np.testing.assert_allclose(jnp.tanh(z), 1 - 2 * jax.nn.sigmoid(-2 * z), atol=1e-15)
    np.testing.assert_allclose(jax.nn.elu(z), np.maximum(z, 0) + np.expm1(np.minimum(z, 0)), rtol=1e-14, atol=1e-15)
    slope = jax.vmap(jax.grad(jax.nn.elu))
    np.testing.assert_allclose(slope(jnp.array([-1e-9, 0.0, 1e-9])), 1.0, atol=2e-9)  # C¹ at 0
    derivative = jax.vmap(jax.grad(lambda t: jax.nn.gelu(t, approximate=False)))(z)
    expected = stats.norm.cdf(np.asarray(z)) + np.asarray(z) * stats.norm.pdf(np.asarray(z))
    np.testing.assert_allclose(derivative, expected, rtol=1e-12, atol=1e-15)
    assert 0 <= float(jax.grad(jax.nn.relu)(0.0)) <= 1  # an element of the subdifferential; JAX takes 0
    assert float(jax.grad(jax.nn.relu)(0.0)) == 0
    extreme = jax.nn.log_sigmoid(jnp.array([-800.0, 800.0]))
    np.testing.assert_array_equal(extreme, [-800.0, -0.0])
    assert bool(jnp.isfinite(jax.vmap(jax.grad(jax.nn.log_sigmoid))(z)).all())
    p = jnp.linspace(0.01, 0.99, 21)
    np.testing.assert_allclose(jax.scipy.special.logit(p), np.log(p / (1 - p)), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(jax.nn.sigmoid(jax.scipy.special.logit(p)), p, rtol=1e-13)


@pytest.mark.covers("dropout")
def test_dropout_mean_variance_and_ridge(x64):
    p, n = 0.3, 40_000
    x = jnp.array([1.0, -2.0, 0.5])
    drop = eqx.nn.Dropout(p)
    y = jax.vmap(lambda k: drop(x, key=k))(jax.random.split(jax.random.key(0), n))
    variance = p / (1 - p) * np.asarray(x) ** 2
    assert (np.abs(np.mean(y, 0) - x) < 5 * np.sqrt(variance / n)).all()
    np.testing.assert_allclose(np.var(y, 0), variance, rtol=0.03)
    np.testing.assert_array_equal(drop(x, inference=True), x)
    kept = y[0] != 0
    gradient = jax.grad(lambda v: jnp.sum(drop(v, key=jax.random.split(jax.random.key(0), n)[0])))(x)
    np.testing.assert_allclose(
        gradient, np.asarray(kept) / (1 - p)
    )  # the scale of the forward pass, hence of the backward too
    # E‖y − (m ⊙ X)w‖² = ‖y − Xw‖² + p/(1 − p) Σ_j ‖X_j‖² w_j²: the mean over all masks, exactly.
    X, t, w = rng(1).normal(size=(6, 3)), rng(2).normal(size=6), rng(3).normal(size=3)
    total = 0.0
    for mask in np.ndindex(*(2,) * 3):
        weight = np.prod(np.where(mask, 1 - p, p))
        total += weight * np.mean((t - X @ (np.array(mask) / (1 - p) * w)) ** 2)
    # The masks of the rows are independent, but each row's loss sees one only.
    ridge = np.mean((t - X @ w) ** 2) + p / (1 - p) * np.mean(X**2, 0) @ w**2
    np.testing.assert_allclose(total, ridge, rtol=1e-13)


@pytest.mark.covers("embedding")
def test_embedding_is_one_hot_times_table_and_its_gradient_reaches_used_rows_only():
    table = eqx.nn.Embedding(6, 3, key=jax.random.key(0))
    ids = jnp.array([4, 1, 4])
    np.testing.assert_array_equal(jax.vmap(table)(ids), jax.nn.one_hot(ids, 6) @ table.weight)
    gradient = jax.grad(lambda w: jnp.sum(w[ids] ** 2))(table.weight)
    used = np.abs(np.asarray(gradient)).sum(1) > 0
    assert used.tolist() == [False, True, False, False, True, False]
    # A zero table of positions leaves attention without a notion of order.
    zero = eqx.tree_at(lambda e: e.weight, eqx.nn.Embedding(5, 4, key=jax.random.key(1)), jnp.zeros((5, 4)))
    attention = eqx.nn.MultiheadAttention(2, 4, key=jax.random.key(2))
    x = jnp.asarray(rng().normal(size=(5, 4)), jnp.float32)
    order = jnp.array([3, 0, 4, 1, 2])

    @jax.jit
    def attend(x, positions):
        x = x + positions
        return attention(x, x, x)

    flat = jax.vmap(zero)(jnp.arange(5))
    np.testing.assert_allclose(attend(x[order], flat), attend(x, flat)[order], atol=1e-6)
    learnt = jnp.asarray(rng(1).normal(size=(5, 4)), jnp.float32)
    assert float(jnp.max(jnp.abs(attend(x[order], learnt) - attend(x, learnt)[order]))) > 0.01


@pytest.mark.covers("layer-norm", "rms-norm")
def test_layer_and_rms_norm(x64):
    n = 7
    x = jnp.asarray(rng().normal(size=n))
    norm = eqx.nn.LayerNorm(n, eps=1e-12)
    y = norm(x)
    assert abs(float(jnp.mean(y))) < 1e-14
    assert abs(float(jnp.var(y)) - 1) < 1e-10
    np.testing.assert_allclose(norm(3.0 * x + 5.0), y, atol=1e-10)
    jacobian = np.asarray(jax.jacobian(norm)(x))
    values = np.linalg.svd(jacobian, compute_uv=False)
    np.testing.assert_allclose(values[: n - 2], 1 / np.std(x), rtol=1e-9)  # a projector over σ ...
    assert values[n - 2] < 1e-9  # ... of rank n − 2
    np.testing.assert_array_equal(norm(jnp.full(n, 3.0)), jnp.zeros(n))  # eps: no division by zero
    scaled = eqx.tree_at(lambda m: (m.weight, m.bias), norm, (jnp.arange(1.0, n + 1), jnp.ones(n)))
    np.testing.assert_allclose(scaled(x), np.asarray(y) * np.arange(1, n + 1) + 1, rtol=1e-13)
    rms = eqx.tree_at(lambda m: m.weight, eqx.nn.RMSNorm(n, eps=1e-12, use_bias=False), jnp.arange(1.0, n + 1))
    np.testing.assert_allclose(rms(x), np.asarray(x) / np.sqrt(np.mean(x**2)) * np.arange(1, n + 1), rtol=1e-11)
    np.testing.assert_allclose(rms(100 * x), rms(x), rtol=1e-10)


@pytest.mark.covers("softmax")
def test_softmax(x64):
    z = jnp.asarray(rng().normal(size=5))
    p = jax.nn.softmax(z)
    np.testing.assert_allclose(jax.nn.softmax(z + 100), p, rtol=1e-13)
    jacobian = np.asarray(jax.jacobian(jax.nn.softmax)(z))
    np.testing.assert_allclose(jacobian, np.diag(p) - np.outer(p, p), atol=1e-15)
    np.testing.assert_allclose(jacobian.sum(1), 0, atol=1e-15)
    spectrum = np.linalg.eigvalsh(jacobian)
    assert spectrum[0] > -1e-15
    assert (spectrum[1:] > 1e-4).all()  # rank C − 1
    v = jnp.asarray(rng(1).normal(size=5))
    np.testing.assert_allclose(jax.jvp(jax.nn.softmax, (z,), (v,))[1], p * (v - p @ v), atol=1e-15)
    np.testing.assert_allclose(jax.nn.softmax(z[:2])[0], jax.nn.sigmoid(z[0] - z[1]), rtol=1e-14)
    wild = jnp.array([1e300, 0.0, -1e300])
    np.testing.assert_array_equal(jax.nn.softmax(wild), [1, 0, 0])
    np.testing.assert_allclose(jax.nn.log_softmax(z), np.log(p), rtol=1e-12)


@pytest.mark.covers("orthogonal-init")
def test_orthogonal_initialisation_gives_dynamical_isometry(x64):
    keys = jax.random.split(jax.random.key(0), 30)
    deep = np.linalg.multi_dot(np.asarray(jax.vmap(lambda k: init.orthogonal()(k, (8, 8)))(keys)))
    np.testing.assert_allclose(np.linalg.svd(deep, compute_uv=False), 1, rtol=1e-12)
    gaussian = np.linalg.multi_dot(np.asarray(jax.vmap(lambda k: init.lecun_normal()(k, (8, 8)))(keys)))
    assert np.linalg.cond(gaussian) > 1e6
    wide = init.orthogonal(scale=2.0)(keys[0], (3, 8))
    np.testing.assert_allclose(wide @ wide.T, 4 * np.eye(3), atol=1e-13)


@pytest.mark.covers("variance-scaling-init")
def test_he_and_glorot_variances_and_the_signal_through_fifty_layers():
    key, shape = jax.random.key(0), (300, 500)  # JAX: (fan in, fan out)
    for make, variance in (
        (init.he_normal(), 2 / 300),
        (init.glorot_normal(), 2 / 800),
        (init.glorot_uniform(), 2 / 800),
        (init.variance_scaling(1.0, "fan_out", "normal"), 1 / 500),
    ):
        found = np.asarray(make(key, shape))
        assert abs(found.var() / variance - 1) < 0.03, variance
        assert abs(found.mean()) < 5 * np.sqrt(variance / found.size)
    width, depth, seeds = 100, 50, 4
    weights = jax.vmap(lambda k: init.he_normal()(k, (width, width)))(jax.random.split(key, seeds * depth))
    x = jax.random.normal(jax.random.key(1), (seeds, 8, width))

    @jax.jit
    def growth(weights):
        """Of the second moment, per layer: the mean over seeds of its logarithm."""
        weights = weights.reshape(depth, seeds, width, width)
        last, _ = jax.lax.scan(lambda h, w: (jax.nn.relu(h) @ w, None), x, weights)
        return jnp.mean(jnp.log(jnp.mean(last**2, (1, 2)))) / depth

    assert abs(float(growth(weights))) < 0.1
    assert abs(float(growth(weights / jnp.float32(np.sqrt(2)))) + np.log(2)) < 0.1  # gain 1 loses half at each ReLU


@pytest.mark.covers("spectral-normalization")
def test_spectral_normalisation_tends_to_norm_one(x64):
    linear = eqx.nn.Linear(5, 4, use_bias=False, key=jax.random.key(0))
    layer, state = eqx.nn.make_with_state(eqx.nn.SpectralNorm)(linear, "weight", key=jax.random.key(1))

    @eqx.filter_jit
    def normalised(layer, state):
        state = jax.lax.fori_loop(0, 60, lambda _, s: layer(jnp.zeros(5), s)[1], state)
        return jax.vmap(lambda e: layer(e, state, inference=True)[0], out_axes=1)(jnp.eye(5)), state.get(layer.uv_index)

    W, (u, v) = normalised(layer, state)
    assert abs(np.linalg.norm(W, 2) - 1) < 1e-10
    # σ̂ = uᵀWv = ‖Wv‖, the root of vᵀWᵀWv.
    sigma = u @ linear.weight @ v
    np.testing.assert_allclose(sigma, np.linalg.norm(linear.weight @ v), rtol=1e-10)
    np.testing.assert_allclose(sigma**2, v @ linear.weight.T @ linear.weight @ v, rtol=1e-10)
    np.testing.assert_allclose(W, np.asarray(linear.weight) / np.linalg.norm(linear.weight, 2), atol=1e-10)


@pytest.mark.covers("linear-layer", "mlp", "rms-norm", "variance-scaling-init", "spectral-normalization")
def test_torch_agrees(x64):
    torch = pytest.importorskip("torch")
    x = rng().normal(size=(5, 4))

    def copy(target, source):
        with torch.no_grad():
            target.copy_(torch.tensor(np.array(source)))

    net = eqx.nn.MLP(4, 2, 6, 2, key=jax.random.key(1))
    layers = []
    for part in net.layers:
        layers += [torch.nn.Linear(part.in_features, part.out_features, dtype=torch.float64), torch.nn.ReLU()]
        copy(layers[-2].weight, part.weight)
        copy(layers[-2].bias, part.bias)
    peer = torch.nn.Sequential(*layers[:-1])
    np.testing.assert_allclose(jax.vmap(net)(jnp.asarray(x)), peer(torch.tensor(x)).detach().numpy(), atol=1e-14)
    rms, peer = eqx.nn.RMSNorm(4, eps=1e-6, use_bias=False), torch.nn.RMSNorm(4, eps=1e-6, dtype=torch.float64)
    np.testing.assert_allclose(jax.vmap(rms)(jnp.asarray(x)), peer(torch.tensor(x)).detach().numpy(), rtol=1e-12)
    torch.manual_seed(0)
    for make, fill in (
        (init.he_normal(), lambda w: torch.nn.init.kaiming_normal_(w, nonlinearity="relu")),
        (init.glorot_uniform(), torch.nn.init.xavier_uniform_),
    ):
        ours = np.asarray(make(jax.random.key(0), (300, 500)))
        theirs = fill(torch.empty(500, 300)).numpy()  # torch: (fan out, fan in)
        assert abs(ours.std() / theirs.std() - 1) < 0.02
    W = rng(3).normal(size=(4, 5))
    linear = torch.nn.Linear(5, 4, bias=False, dtype=torch.float64)
    copy(linear.weight, W)
    linear = torch.nn.utils.parametrizations.spectral_norm(linear, n_power_iterations=100)
    linear(torch.zeros(5, dtype=torch.float64))
    np.testing.assert_allclose(linear.weight.detach().numpy(), W / np.linalg.norm(W, 2), atol=1e-10)
