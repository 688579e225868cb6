"""Recurrent layers against plain loops in NumPy (and torch), their derivatives, and what they remember."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core.errors import InputError
from corollary.nn import (
    GRU,
    LSTM,
    RNN,
    ElmanCell,
    LinearRecurrentUnit,
    RecurrentForecaster,
    RecurrentNetwork,
    bptt,
    chrono_init,
    gate_memory,
)

T, F, H = 5, 3, 4


run = eqx.filter_jit(lambda net, x: net(x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def elman_step(c, x, h):
    return np.tanh(c.weight_hh @ h + c.weight_ih @ x + c.bias)


def lstm_step(c, x, state):
    h, memory = state
    i, f, u, o = np.split(c.weight_ih @ x + c.weight_hh @ h + c.bias, 4)
    memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(u)
    return sigmoid(o) * np.tanh(memory), memory


def gru_step(c, x, h):
    r, z, n = np.split(c.weight_ih @ x + c.bias, 3)
    r_h, z_h, n_h = np.split(c.weight_hh @ h, 3)
    r, z = sigmoid(r + r_h), sigmoid(z + z_h)
    n = np.tanh(n + r * (n_h + c.bias_n))
    return (1 - z) * n + z * h


STEPS = {"elman": elman_step, "lstm": lstm_step, "gru": gru_step}


def twin(net, kind, x):
    """The stack as plain loops."""
    net = jax.tree.map(lambda a: np.asarray(a) if eqx.is_array(a) else a, net)
    lasts = []
    for cells in net.cells:
        halves = []
        for d, cell in enumerate(cells):
            h, out = np.zeros(H, x.dtype), []
            state = (h, h) if kind == "lstm" else h
            for t in range(len(x))[:: 1 - 2 * d]:
                state = STEPS[kind](cell, x[t], state)
                out.append(state[0] if kind == "lstm" else state)
            halves.append(np.stack(out[:: 1 - 2 * d]))
            lasts.append(state)
        x = np.concatenate(halves, -1)
    return x, lasts


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).normal(size=(2, T, F))


@pytest.mark.parametrize("kind", ["elman", "lstm", "gru"])
@pytest.mark.covers("simple-rnn", "rnn-stack", "lstm", "gru")
def test_stack_equals_the_plain_loop_in_numpy(kind, data, dtype):
    net = RNN(F, H, 2, cell=kind, bidirectional=True, key=jax.random.key(1))
    x = data.astype(dtype)
    outputs, states = run(net, jnp.asarray(x))
    assert outputs.dtype == dtype
    expected = [twin(net, kind, row) for row in x]
    tolerance = 50 * np.finfo(dtype).eps
    np.testing.assert_allclose(outputs, np.stack([e[0] for e in expected]), atol=tolerance)
    last = jax.tree.leaves(jax.tree.map(lambda s: s[0], states))
    np.testing.assert_allclose(np.stack(last), np.stack(jax.tree.leaves(expected[0][1])), atol=tolerance)


@pytest.mark.covers("rnn-stack")
def test_reversal_swaps_the_halves(data):
    net = RNN(F, H, cell="gru", bidirectional=True, key=jax.random.key(1))
    swapped = eqx.tree_at(lambda n: n.cells, net, ((net.cells[0][1], net.cells[0][0]),))
    x = jnp.asarray(data[0], jnp.float32)
    out, turned = net(x)[0], swapped(x[::-1])[0][::-1]
    np.testing.assert_array_equal(out, jnp.concatenate([turned[:, H:], turned[:, :H]], -1))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_hand_written_derivative_equals_automatic_and_second_derivatives_work(kind, data, x64):
    x = jnp.asarray(data)
    fast = RNN(F, H, cell=kind, key=jax.random.key(2))
    plain = RNN(F, H, cell=kind, reverse_only=False, key=jax.random.key(2))
    weights, static = eqx.partition(fast, eqx.is_array)
    like, static_plain = eqx.partition(plain, eqx.is_array)
    weights, structures = jax.tree.leaves(weights), {True: jax.tree.structure(weights), False: jax.tree.structure(like)}

    def loss(weights, x, reverse_only):
        arrays = jax.tree.unflatten(structures[reverse_only], weights)
        y, states = eqx.combine(arrays, static if reverse_only else static_plain)(x)
        return jnp.sum(jnp.sin(3 * y)) + sum(jnp.sum(s**2) for s in jax.tree.leaves(states))

    direction = [jnp.cos(jnp.arange(w.size, dtype=w.dtype)).reshape(w.shape) for w in weights]

    @jax.jit
    def both(weights, x):
        def one(reverse_only):
            gradient = jax.grad(lambda w, x: loss(w, x, reverse_only), argnums=(0, 1))
            return jax.jvp(lambda w: gradient(w, x), (weights,), (direction,))

        by_example = jax.grad(lambda w: jnp.sum(jax.vmap(lambda row: loss(w, row, True))(x)))(weights)
        return one(True), one(False), by_example

    ours, automatic, by_example = both(weights, x)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(automatic), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)
    for a, b in zip(by_example, ours[0][0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)  # vmap = batch axis


@pytest.mark.covers("lstm")
def test_open_forget_gate_and_closed_input_gate_carry_the_cell_exactly():
    net = LSTM(F, H, key=jax.random.key(0))
    cell = net.cells[0][0]
    bias = jnp.concatenate([jnp.full(H, -200.0), jnp.full(H, 200.0), jnp.zeros(2 * H)])
    net = eqx.tree_at(lambda n: n.cells[0][0].bias, net, bias)
    memory = jnp.asarray(np.random.default_rng(1).normal(size=H), cell.bias.dtype)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(T, F)), memory.dtype)
    _, (((_, carried),),) = net(x, (((jnp.zeros(H), memory),),))
    np.testing.assert_array_equal(carried, memory)


@pytest.mark.covers("simple-rnn", "rnn-stack", "lstm", "gru")
def test_torch_with_copied_weights(data, x64):
    torch = pytest.importorskip("torch")
    x = jnp.asarray(data)
    for kind, make in (("elman", torch.nn.RNN), ("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU)):
        net = RNN(F, H, 2, cell=kind, bidirectional=True, key=jax.random.key(3))
        peer = make(F, H, 2, batch_first=True, bidirectional=True, dtype=torch.float64)
        with torch.no_grad():
            for layer, cells in enumerate(net.cells):
                for d, cell in enumerate(cells):
                    tail = f"_l{layer}" + ("_reverse" if d else "")
                    hidden_bias = np.zeros(cell.weight_hh.shape[0])
                    if kind == "gru":
                        hidden_bias[2 * H :] = cell.bias_n
                    for name, value in (
                        ("weight_ih", cell.weight_ih),
                        ("weight_hh", cell.weight_hh),
                        ("bias_ih", cell.bias),
                        ("bias_hh", hidden_bias),
                    ):
                        getattr(peer, name + tail).copy_(torch.tensor(np.array(value)))
            expected = peer(torch.tensor(data))[0].numpy()
        np.testing.assert_allclose(run(net, x)[0], expected, atol=1e-14)


def test_any_equinox_like_cell_runs_and_dropout_acts_between_layers(data):
    class Leaky(eqx.Module):
        linear: eqx.nn.Linear
        hidden_size: int

        def __init__(self, input_size, hidden_size, *, key):
            self.linear = eqx.nn.Linear(input_size, hidden_size, key=key)
            self.hidden_size = hidden_size

        def __call__(self, x, state):
            return jnp.float32(0.5) * state + self.linear(x)

    x = jnp.asarray(data, jnp.float32)
    net = RNN(F, H, 2, cell=Leaky, dropout=0.5, key=jax.random.key(0))
    once = net(x, inference=True)[0]
    np.testing.assert_array_equal(once, net(x, key=jax.random.key(1), inference=True)[0])
    np.testing.assert_array_equal(once, eqx.nn.inference_mode(net)(x, key=jax.random.key(1))[0])
    with pytest.raises(InputError, match=r"key: found None, expected a key for dropout of rate 0\.5"):
        net(x)
    assert float(jnp.max(jnp.abs(once - net(x, key=jax.random.key(1))[0]))) > 0.01
    h = np.zeros(H)
    linear = net.cells[0][0].linear
    for row in data[0]:
        h = 0.5 * h + np.asarray(linear.weight) @ row + np.asarray(linear.bias)
    np.testing.assert_allclose(net(x, inference=True)[1][0][0][0], h, rtol=1e-5)


@pytest.mark.covers("simple-rnn")
def test_heads(data):
    x = jnp.asarray(data, jnp.float32)
    net = RecurrentNetwork(F, H, 2, cell="elman", pool="each", final_activation=jnp.tanh, key=jax.random.key(0))
    states = net.rnn(x)[0]
    expected = np.tanh(np.asarray(states) @ np.asarray(net.head.weight).T + np.asarray(net.head.bias))
    np.testing.assert_allclose(net(x), expected, atol=1e-6)
    last = RecurrentNetwork(F, H, 2, bidirectional=True, key=jax.random.key(0))
    mean = RecurrentNetwork(F, H, 2, bidirectional=True, pool="mean", key=jax.random.key(0))
    assert mean(x).shape == (2, 2)
    out = last.rnn(x[0])[0]
    ends = jnp.concatenate([out[-1, :H], out[0, H:]])
    np.testing.assert_allclose(last(x[0]), last.head(ends), atol=1e-6)
    forecast = RecurrentForecaster(F, H, horizon=3, key=jax.random.key(0))
    quiet = eqx.tree_at(lambda f: (f.network.head.weight, f.network.head.bias), forecast, replace_fn=jnp.zeros_like)
    np.testing.assert_array_equal(quiet(x), jnp.repeat(x[:, -1:], 3, 1))  # untrained: persistence


def test_bad_settings():
    key = jax.random.key(0)
    with pytest.raises(InputError, match=r"cell: found 'lstn'"):
        RNN(2, 2, cell="lstn", key=key)
    with pytest.raises(InputError, match=r"depth: found 0"):
        GRU(2, 2, 0, key=key)
    with pytest.raises(InputError, match=r"hidden_size: found 0"):
        ElmanCell(2, 0, key=key)
    with pytest.raises(InputError, match=r"pool: found 'max'"):
        RecurrentNetwork(2, 2, 2, pool="max", key=key)
    with pytest.raises(InputError, match=r"x: found shape \(3,\)"):
        LSTM(2, 2, key=key)(jnp.ones(3))
    with pytest.raises(InputError, match=r"x: found 3 features, expected 2"):
        LSTM(2, 2, key=key)(jnp.ones((4, 3)))


@pytest.mark.covers("linear-recurrent-unit")
def test_linear_recurrent_unit(dtype):
    layer = LinearRecurrentUnit(F, 8, 2, r_min=0.5, r_max=0.9, max_phase=1.0, key=jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, F)), dtype)

    @jax.jit
    def outputs(m, x):
        states = m.states(x)
        return states, m(x), m(x[:, 4:], states[:, 3]), m.eigenvalues, m.input_matrix

    states, y, resumed, values, B = outputs(layer, x)
    assert y.dtype == dtype
    values, B, rows = np.asarray(values), np.asarray(B), np.asarray(x[0])
    C = np.asarray(layer.C[0]) + 1j * np.asarray(layer.C[1])
    # The dense recurrence in another basis, by the loop: A = PΛP⁻¹, its input matrix P B.
    P = np.random.default_rng(1).normal(size=(8, 8)) + 4 * np.eye(8)
    A, dense_B = P @ np.diag(values) @ np.linalg.inv(P), P @ B
    xi, dense, loop, out = np.zeros(8), np.zeros(8), [], []
    for row in rows:
        xi, dense = values * xi + B @ row, A @ dense + dense_B @ row
        loop.append(xi)
        out.append((C @ np.linalg.solve(P, dense)).real + np.asarray(layer.D) @ row)
    tolerance = 200 * np.finfo(dtype).eps
    np.testing.assert_allclose(states[0], np.stack(loop), atol=tolerance)
    np.testing.assert_allclose(y[0], np.stack(out), atol=20 * tolerance)
    np.testing.assert_allclose(resumed, y[:, 4:], atol=20 * tolerance)
    assert (np.abs(values) >= 0.5 - 1e-6).all()
    assert (np.abs(values) <= 0.9 + 1e-6).all()
    assert (np.angle(values) >= 0).all()
    assert (np.angle(values) <= 1.0 + 1e-6).all()


@pytest.mark.covers("linear-recurrent-unit")
def test_eigenvalues_stay_inside_the_circle_and_the_ring_is_uniform_by_area():
    layer = LinearRecurrentUnit(1, 4000, r_min=0.6, r_max=0.95, key=jax.random.key(3))
    values = np.abs(np.asarray(layer.eigenvalues)) ** 2
    u = np.sort((values - 0.6**2) / (0.95**2 - 0.6**2))
    assert np.max(np.abs(u - (np.arange(4000) + 0.5) / 4000)) < 1.95 / np.sqrt(4000)  # Kolmogorov, 0.1 %
    np.testing.assert_allclose(np.exp(layer.log_gain) ** 2, 1 - values, rtol=1e-4)
    wild = eqx.tree_at(lambda m: m.log_decay, layer, jnp.linspace(-15.0, 30.0, 4000))
    assert (np.abs(np.asarray(wild.eigenvalues)) < 1).all()
    with pytest.raises(InputError, match=r"r_min, r_max: found 0.9, 1.0"):
        LinearRecurrentUnit(1, 2, r_max=1.0, key=jax.random.key(0))


@pytest.mark.covers("truncated-bptt")
@pytest.mark.parametrize("window", [None, 4, 3, 1])
def test_backpropagation_through_time(window, x64):
    rng = np.random.default_rng(0)
    n, length = 3, 8
    params = {"U": jnp.asarray(rng.normal(size=(n, n))), "V": jnp.asarray(rng.normal(size=(n, 2)))}
    params["w"] = jnp.asarray(rng.normal(size=n))
    x, y, start = (jnp.asarray(rng.normal(size=s)) for s in ((length, 2), (length,), (n,)))

    def step(p, z, x):
        return jnp.tanh(p["U"] @ z + p["V"] @ x)

    def loss(p, z, y):
        return (p["w"] @ z - y) ** 2

    def unrolled(p):
        z, total = start, 0.0
        for t in range(length):
            if window is not None and t % window == 0:
                z = jax.lax.stop_gradient(z)
            z = step(p, z, x[t])
            total += loss(p, z, y[t])
        return total

    value, gradient = jax.jit(jax.value_and_grad(unrolled))(params)
    found = jax.jit(lambda p: bptt(step, loss, p, x, start, targets=y, window=window, keep_lags=True))(params)
    np.testing.assert_allclose(found.loss, value, rtol=1e-13)
    for name in params:
        np.testing.assert_allclose(found.gradient[name], gradient[name], rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(np.sum(found.by_lag[name], 0), gradient[name], rtol=1e-11, atol=1e-12)
    squares = sum(np.sum(np.asarray(v).reshape(len(v), -1) ** 2, 1) for v in found.by_lag.values())
    np.testing.assert_allclose(found.lag_norms, np.sqrt(squares), rtol=1e-12)
    assert len(found.lag_norms) == (window or length)


@pytest.mark.covers("truncated-bptt")
def test_lag_norms_of_a_linear_cell_fall_by_its_factor_and_bad_input():
    # Only the last loss counts: g_τ = w^τ z_{T−τ−1}, and z = 1/(1 − w) nearly throughout.
    weight = jnp.zeros(20).at[-1].set(1.0)
    found = bptt(lambda w, z, x: w * z + x, lambda w, z, c: c * z, jnp.float32(0.5), jnp.ones(20), jnp.float32(2.0),
                 targets=weight)  # fmt: skip
    np.testing.assert_allclose(found.lag_norms, 2 * 0.5 ** np.arange(20), rtol=1e-5)
    with pytest.raises(InputError, match="window: found 0"):
        bptt(lambda w, z, x: z, lambda w, z, c: z, jnp.float32(0.5), jnp.ones(2), jnp.float32(2.0), window=0)
    with pytest.raises(InputError, match=r"found time axes of lengths \[2, 3\]"):
        bptt(lambda w, z, x: z, lambda w, z, c: z, jnp.float32(1), jnp.ones(2), jnp.float32(2.0), targets=jnp.ones(3))


@pytest.mark.covers("gate-memory-timescale")
def test_gate_memory(x64):
    net = LSTM(F, H, key=jax.random.key(0))
    cell = net.cells[0][0]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(T, F)))
    no_feedback = eqx.tree_at(lambda c: c.weight_hh, cell, replace_fn=jnp.zeros_like)  # gates held fixed: the cell path

    def last(memory):
        state = (jnp.zeros(H), memory)
        for row in x:
            state = no_feedback(row, state)
        return state[1]

    gates = np.asarray(jax.nn.sigmoid(x @ cell.weight_ih.T + cell.bias))[:, H : 2 * H]
    found = gate_memory(gates)
    assert bool(found.holds)
    np.testing.assert_allclose(jax.jacobian(last)(jnp.ones(H)), np.diag(found.value.kept[-1]), rtol=1e-13, atol=0)
    np.testing.assert_allclose(np.exp(-T / found.value.time_constant), found.value.kept[-1], rtol=1e-12)
    assert np.isinf(gate_memory(np.ones(3)).value.time_constant)
    assert gate_memory(np.array([0.5, 0.0])).value.time_constant == 0
    assert bool(gate_memory(np.array([1.0, 0.0], np.float32)).holds)
    with pytest.raises(InputError, match="gates: found values from 0 to 2"):
        gate_memory(np.array([0.0, 2.0]))


@pytest.mark.covers("gate-memory-timescale")
def test_chrono_initialisation_gives_the_time_scale(x64):
    forget, enter = chrono_init(4000, 50.0, key=jax.random.key(1))
    scale = np.sort(1 / (1 - np.asarray(jax.nn.sigmoid(forget))))
    np.testing.assert_allclose(scale, np.sort(1 + np.exp(forget)), rtol=1e-12)
    assert np.max(np.abs((scale - 2) / 48 - (np.arange(4000) + 0.5) / 4000)) < 1.95 / np.sqrt(4000)
    np.testing.assert_array_equal(enter, -forget)
    with pytest.raises(InputError, match="longest: found 2"):
        chrono_init(3, 2.0, key=jax.random.key(1))
