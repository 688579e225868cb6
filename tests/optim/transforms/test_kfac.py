"""K-FAC and EKFAC against dense Fisher matrices of small nets, by hand, and under every kind of sharing."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from corollary.core.errors import InputError
from corollary.optim.curvature import Bernoulli, Categorical, Gaussian, fisher_information
from corollary.optim.transforms import LayerRule, capture_statistics, check_layers, ekfac, kfac, register_layer
from corollary.optim.transforms._kfac import _inverse

KEYS = jax.random.split(jax.random.key(0), 8)


class MLP(eqx.Module):
    first: eqx.nn.Linear
    second: eqx.nn.Linear

    def __init__(self, n=3, width=4, out=2, dtype=jnp.float64):
        self.first = eqx.nn.Linear(n, width, key=KEYS[0], dtype=dtype)
        self.second = eqx.nn.Linear(width, out, key=KEYS[1], dtype=dtype)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


class Tokens(eqx.Module):
    """Embedding, norm, a layer under an inner vmap, a head on the mean: weights are shared over the sequence."""

    table: eqx.nn.Embedding
    norm: eqx.nn.LayerNorm
    mix: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, dtype=jnp.float64):
        self.table = eqx.nn.Embedding(5, 3, key=KEYS[2], dtype=dtype)
        self.norm = eqx.nn.LayerNorm(3, dtype=dtype)
        self.mix = eqx.nn.Linear(3, 4, key=KEYS[3], dtype=dtype)
        self.head = eqx.nn.Linear(4, 2, key=KEYS[4], dtype=dtype)

    def __call__(self, tokens):
        h = jax.vmap(self.norm)(jax.vmap(self.table)(tokens))
        return self.head(jnp.mean(jnp.tanh(jax.vmap(self.mix)(h)), axis=0))


def data(*shape, seed=0, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def dense_fisher(model, x, distribution):
    params, static = eqx.partition(model, eqx.is_inexact_array)
    apply = lambda p, x: eqx.combine(p, static)(x)  # noqa: E731
    return np.asarray(jax.jit(lambda p: fisher_information(apply, p, distribution, x).as_matrix())(params))


def gradient_and_outputs(model, x, y, distribution):
    outputs = lambda m: jax.vmap(m)(x)  # noqa: E731
    loss = lambda m: jnp.mean(jax.vmap(distribution)(outputs(m), y))  # noqa: E731
    return jax.jit(jax.grad(loss))(model), outputs, jax.jit(loss)


def flat(tree):
    return np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))])


@pytest.mark.covers("kfac")
@pytest.mark.parametrize("method", [kfac, ekfac])
def test_one_linear_layer_with_squared_loss_takes_the_exact_natural_gradient_step(method, x64):
    layer = eqx.nn.Linear(3, 2, key=KEYS[0], dtype=jnp.float64)
    x, y = data(6, 3), data(6, 2, seed=1)
    grads, outputs, _ = gradient_and_outputs(layer, x, y, Gaussian())
    optimizer = method(layer, 1.0, distribution=Gaussian(), curvature="ggn", damping=1e-14, momentum=0.0)
    state = optimizer.init(layer)
    update = jax.jit(lambda state: optimizer.update(grads, state, layer, outputs_fn=outputs))
    for _ in range(2 if method is ekfac else 1):  # EKFAC's first step is diagonal
        updates, state = update(state)
    expected = -np.linalg.solve(dense_fisher(layer, x, Gaussian()), flat(grads))
    np.testing.assert_allclose(flat(updates), expected, atol=1e-5)
    # For a quadratic loss that step is the least-squares solution, bias and all (homogeneous coordinate).
    ones = np.column_stack([x, np.ones(6)])
    solution = np.linalg.lstsq(ones, np.asarray(y), rcond=None)[0].T
    new = eqx.apply_updates(layer, updates)
    np.testing.assert_allclose(np.column_stack([new.weight, new.bias]), solution, atol=1e-5)


@pytest.mark.covers("kfac")
def test_a_single_example_has_an_exactly_factored_fisher_matrix(x64):
    layer = eqx.nn.Linear(3, 4, key=KEYS[0], dtype=jnp.float64)
    x = data(1, 3)
    settings = {"outputs_fn": lambda m: jax.vmap(m)(x), "distribution": Categorical(), "curvature": "ggn"}
    (found,) = jax.jit(lambda: capture_statistics(layer, **settings))()
    F = dense_fisher(layer, x, Categorical())  # order: weight (4, 3), then bias (4)
    kron = np.kron(found["G"], found["A"]).reshape(4, 4, 4, 4)  # (out, in + 1, out, in + 1)
    np.testing.assert_allclose(F[:12, :12].reshape(4, 3, 4, 3), kron[:, :3, :, :3], atol=1e-12)
    np.testing.assert_allclose(F[12:, 12:], kron[:, 3, :, 3], atol=1e-12)


def by_hand(model, x, y):
    """Inputs and output gradients of the two layers of the MLP, example by example, for squared loss."""
    W1, b1, W2, b2 = (
        np.asarray(p) for p in (model.first.weight, model.first.bias, model.second.weight, model.second.bias)
    )
    a1 = np.tanh(x @ W1.T + b1)
    g2 = a1 @ W2.T + b2 - y
    g1 = (g2 @ W2) * (1 - a1**2)
    add = lambda a: np.column_stack([a, np.ones(len(a))])  # noqa: E731
    return [(add(x), g1), (add(a1), g2)]


@pytest.mark.covers("kfac")
def test_factors_and_damped_step_against_a_naive_twin(x64):
    model, x, y = MLP(), np.asarray(data(8, 3)), np.asarray(data(8, 2, seed=1))
    outputs = lambda m: jax.vmap(m)(jnp.asarray(x))  # noqa: E731
    losses = lambda m: jnp.sum((outputs(m) - y) ** 2, axis=1) / 2  # noqa: E731
    grads = eqx.filter_grad(lambda m: jnp.mean(losses(m)))(model)
    optimizer = kfac(model, 0.5, curvature="empirical", damping=0.1, momentum=0.0)
    updates, state = jax.jit(lambda g: optimizer.update(g, optimizer.init(model), model, losses_fn=losses))(grads)
    for (a, g), found, layer in zip(by_hand(model, x, y), state.factors, ("first", "second"), strict=True):
        A, G = a.T @ a / 8, g.T @ g / 8
        np.testing.assert_allclose(found["A"], A, atol=1e-12)
        np.testing.assert_allclose(found["G"], G, atol=1e-12)
        pi = np.sqrt((np.trace(A) / len(A)) / (np.trace(G) / len(G)))
        M = np.column_stack([getattr(grads, layer).weight, getattr(grads, layer).bias])
        M = np.linalg.solve(G + np.sqrt(0.1) / pi * np.eye(len(G)), M)
        M = np.linalg.solve(A + pi * np.sqrt(0.1) * np.eye(len(A)), M.T).T
        np.testing.assert_allclose(getattr(updates, layer).weight, -0.5 * M[:, :-1], atol=1e-10)
        np.testing.assert_allclose(getattr(updates, layer).bias, -0.5 * M[:, -1], atol=1e-10)


def test_ekfac_scales_are_the_diagonal_in_its_basis_and_nearer_to_the_fisher_matrix(x64):
    model, x, y = MLP(), np.asarray(data(6, 3)), np.asarray(data(6, 2, seed=1))
    losses = lambda m: jnp.sum((jax.vmap(m)(jnp.asarray(x)) - y) ** 2, axis=1) / 2  # noqa: E731
    grads = eqx.filter_grad(lambda m: jnp.mean(losses(m)))(model)
    optimizer = ekfac(model, 0.5, curvature="empirical", momentum=0.0, damping=0.1)
    state = optimizer.init(model)
    update = jax.jit(lambda state: optimizer.update(grads, state, model, losses_fn=losses))
    for _ in range(2):
        updates, state = update(state)
    for (a, g), f, i, name in zip(
        by_hand(model, x, y), state.factors, state.inverses, ("first", "second"), strict=True
    ):
        UG, UA = np.asarray(i["UG"]), np.asarray(i["UA"])
        each = np.einsum("no,ni->noi", g, a)
        S = np.mean((UG.T @ each @ UA) ** 2, axis=0)
        np.testing.assert_allclose(f["S"], S, atol=1e-12)
        M = np.column_stack([getattr(grads, name).weight, getattr(grads, name).bias])
        M = UG @ ((UG.T @ M @ UA) / (S + 0.1)) @ UA.T
        np.testing.assert_allclose(getattr(updates, name).weight, -0.5 * M[:, :-1], atol=1e-10)
        F = np.einsum("np,nq->pq", each.reshape(6, -1), each.reshape(6, -1)) / 6
        U = np.kron(UG, UA)
        ekfac_gap = np.linalg.norm(F - (U * S.ravel()) @ U.T)
        assert ekfac_gap <= np.linalg.norm(F - np.kron(g.T @ g / 6, a.T @ a / 6)) + 1e-12


def test_shared_weights_under_nested_vmaps_expand_and_reduce_and_exact_norm_blocks(x64):
    model = Tokens()
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 5, (6, 7)))
    outputs = lambda m: jax.vmap(m)(tokens)  # noqa: E731
    settings = {"outputs_fn": outputs, "distribution": Categorical(), "curvature": "ggn"}
    captured = lambda sharing: capture_statistics(model, sharing=sharing, **settings)  # noqa: E731
    expand, reduce = jax.jit(lambda: (captured("expand"), captured("reduce")))()
    # By hand: inputs of `mix`, and gradients at its output by a probe added there.
    h = jax.jit(jax.vmap(jax.vmap(lambda t: model.norm(model.table(t)))))(tokens)
    a = np.concatenate([h, np.ones((6, 7, 1))], axis=2)
    np.testing.assert_allclose(expand[2]["A"], np.einsum("nti,ntj->ij", a, a) / 42, atol=1e-12)
    np.testing.assert_allclose(reduce[2]["A"], np.einsum("ni,nj->ij", a.mean(1), a.mean(1)) / 6, atol=1e-12)

    def probed(probe, h):
        return model.head(jnp.mean(jnp.tanh(jax.vmap(model.mix)(h) + probe), axis=0))

    J = np.asarray(jax.jit(jax.vmap(jax.jacrev(probed), (None, 0)))(jnp.zeros((7, 4)), h))  # (n, class, t, 4)
    p = np.asarray(jax.nn.softmax(outputs(model)))
    H = np.stack([np.diag(q) - np.outer(q, q) for q in p])
    np.testing.assert_allclose(expand[2]["G"], np.einsum("nctj,ncd,ndtk->jk", J, H, J) / 6, atol=1e-12)
    np.testing.assert_allclose(reduce[2]["G"], np.einsum("nctj,ncd,ndsk->jk", J, H, J) / 6, atol=1e-12)
    counts = np.bincount(np.asarray(tokens).ravel(), minlength=5) / 42
    np.testing.assert_allclose(expand[0]["A"], counts, atol=1e-12)
    F = dense_fisher(model, tokens, Categorical())
    np.testing.assert_allclose(expand[1]["F"], F[15:21, 15:21], atol=1e-12)


def test_a_step_with_shared_weights_moves_every_parameter_and_lowers_the_loss(x64):
    model = Tokens()
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 5, (6, 7)))
    y = jnp.asarray(np.random.default_rng(1).integers(0, 2, 6))
    grads, _, loss = gradient_and_outputs(model, tokens, y, Categorical())
    losses = lambda m: jax.vmap(Categorical())(jax.vmap(m)(tokens), y)  # noqa: E731
    optimizer = ekfac(model, 0.1, curvature="empirical", damping=1e-2)
    updates = jax.jit(lambda g: optimizer.update(g, optimizer.init(model), model, losses_fn=losses)[0])(grads)
    assert loss(eqx.apply_updates(model, updates)) < loss(model)
    assert all(np.any(np.asarray(u)) for u in jax.tree.leaves(updates))


@pytest.mark.covers("kfac-conv")
def test_convolutions(x64):
    # With one location and a 1 x 1 kernel it is the linear layer.
    conv = eqx.nn.Conv2d(3, 2, 1, key=KEYS[5], dtype=jnp.float64)
    linear = eqx.nn.Linear(3, 2, key=KEYS[5], dtype=jnp.float64)
    linear = eqx.tree_at(lambda m: (m.weight, m.bias), linear, (conv.weight[:, :, 0, 0], conv.bias[:, 0, 0]))
    x = data(5, 3)
    of_conv = lambda m: jax.vmap(m)(x[:, :, None, None])[:, :, 0, 0]  # noqa: E731
    of_linear = lambda m: jax.vmap(m)(x)  # noqa: E731
    updates = []
    for model, outputs in ((conv, of_conv), (linear, of_linear)):
        grads = eqx.filter_grad(lambda m, f=outputs: jnp.mean(f(m) ** 2))(model)
        optimizer = kfac(model, 0.1, distribution=Gaussian(), curvature="ggn")
        update = jax.jit(lambda g, s, o=optimizer, m=model, f=outputs: o.update(g, s, m, outputs_fn=f)[0])
        updates.append(update(grads, optimizer.init(model)))
    np.testing.assert_allclose(flat(updates[0]), flat(updates[1]), atol=1e-12)
    # With many locations: Ω ⊗ Γ from unfolded patches, stride, padding and dilation included.
    conv = eqx.nn.Conv2d(2, 3, (2, 3), stride=2, padding=1, dilation=(2, 1), key=KEYS[6], dtype=jnp.float64)
    images = data(4, 2, 7, 6)
    z = jax.vmap(conv)(images)
    losses = lambda m: jnp.sum(jnp.sin(jax.vmap(m)(images)), axis=(1, 2, 3))  # noqa: E731
    (found,) = jax.jit(lambda: capture_statistics(conv, losses_fn=losses, curvature="empirical"))()
    padded = np.pad(np.asarray(images), ((0, 0), (0, 0), (1, 1), (1, 1)))
    g, rows = np.cos(np.asarray(z)), []
    for i in range(z.shape[2]):
        for j in range(z.shape[3]):
            patch = padded[:, :, 2 * i : 2 * i + 3 : 2, 2 * j : 2 * j + 3]
            rows.append(np.column_stack([patch.reshape(4, -1), np.ones(4)]))
    rows = np.stack(rows, axis=1)
    np.testing.assert_allclose(found["A"], np.einsum("nti,ntj->ij", rows, rows) / rows[..., 0].size, atol=1e-12)
    np.testing.assert_allclose(found["G"], np.einsum("naij,nbij->ab", g, g) / 4, atol=1e-12)
    # The rows times the kernel as a matrix are the convolution: the order of the reshaped kernel is that of the rows.
    M = np.column_stack([np.asarray(conv.weight).reshape(3, -1), np.asarray(conv.bias).ravel()])
    np.testing.assert_allclose(np.einsum("nti,oi->not", rows, M).reshape(z.shape), z, atol=1e-12)


def test_a_layer_that_takes_whole_batches_joins_by_its_rule(x64):
    class Batched(eqx.nn.Linear):
        def __call__(self, x, *, key=None):
            return x @ self.weight.T + self.bias

    plain = eqx.nn.Linear(3, 2, key=KEYS[0], dtype=jnp.float64)
    batched = Batched(3, 2, key=KEYS[0], dtype=jnp.float64)
    from corollary.optim.transforms._kfac_layers import DENSE

    rule = LayerRule(
        "dense",
        lambda layer, x: jnp.concatenate([x, jnp.ones((x.shape[0], 1), x.dtype)], axis=1)[:, None],
        lambda layer, g: g[:, None],
        DENSE.matrix,
        DENSE.unmatrix,
    )
    register_layer(Batched, rule)
    x = data(6, 3)
    settings = {"distribution": Bernoulli(), "curvature": "ggn", "sharing": "reduce"}
    (ours,) = capture_statistics(batched, outputs_fn=lambda m: m(x), **settings)
    (expected,) = capture_statistics(plain, outputs_fn=lambda m: jax.vmap(m)(x), **settings)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), ours, expected)
    with pytest.raises(InputError, match="kind: found 'sparse'"):
        register_layer(Batched, LayerRule("sparse", rule.inputs, rule.slopes, rule.matrix, rule.unmatrix))


def test_drawn_labels_estimate_the_exact_factors(x64):
    model, x = MLP(), data(4, 3)
    settings = {"outputs_fn": lambda m: jax.vmap(m)(x), "distribution": Categorical()}
    exact = jax.jit(lambda: capture_statistics(model, curvature="ggn", **settings))()
    draw = jax.jit(jax.vmap(lambda key: capture_statistics(model, curvature="fisher", key=key, **settings)[0]["G"]))
    drawn = np.asarray(draw(jax.random.split(KEYS[7], 2000)))
    error = drawn.std(axis=0) / 2000**0.5
    assert np.all(np.abs(drawn.mean(axis=0) - exact[0]["G"]) <= 5 * error + 1e-12)


def test_the_quadratic_model_chooses_rate_momentum_and_damping(x64):
    model, x, y = MLP(), data(8, 3), data(8, 2, seed=1)
    outputs = lambda m: jax.vmap(m)(x)  # noqa: E731
    losses = lambda m: jax.vmap(Gaussian())(outputs(m), y)  # noqa: E731
    optimizer = kfac(model, None, distribution=Gaussian(), curvature="ggn", damping=0.1, adaptive_damping=True)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(1)
        value, grads = jax.value_and_grad(lambda p: jnp.mean(losses(eqx.combine(p, static))))(params)
        updates, state = optimizer.update(grads, state, params, outputs_fn=outputs, losses_fn=losses)
        return updates, eqx.apply_updates(params, updates), state, value, grads

    state, values = optimizer.init(params), []
    for k in range(25):
        before, previous = params, state.previous
        updates, params, state, value, grads = step(params, state)
        values.append(float(value))
        if k == 3:  # α and μ against the dense 2 x 2 problem
            F = dense_fisher(eqx.combine(before, static), x, Gaussian()) + 0.1 * np.eye(26)
            D = np.stack([flat(updates) - flat(previous), flat(previous)])
            basis = np.linalg.qr(D.T)[0].T
            best = -np.linalg.solve(basis @ F @ basis.T, basis @ flat(grads)) @ basis
            np.testing.assert_allclose(flat(updates), best, atol=1e-8)
    assert len(traces) == 1
    assert values[-1] - np.log(2 * np.pi) < 0.2 * (values[0] - np.log(2 * np.pi))
    assert float(state.damping) < 0.1  # the model is trusted here


def test_settings_are_traced_and_the_norm_is_constrained():
    layer = eqx.nn.Linear(3, 2, key=KEYS[0])
    x, y = data(6, 3, dtype=np.float32), data(6, 2, seed=1, dtype=np.float32)
    grads, outputs, _ = gradient_and_outputs(layer, x, y, Gaussian())
    make = optax.inject_hyperparams(
        lambda learning_rate, damping, norm_constraint: kfac(
            layer, learning_rate, distribution=Gaussian(), damping=damping, norm_constraint=norm_constraint
        )
    )
    optimizer, traces = make(learning_rate=1.0, damping=1e-3, norm_constraint=1e-4), []

    @jax.jit
    def step(state):
        traces.append(1)
        return optimizer.update(grads, state, layer, outputs_fn=outputs)[0]

    state = optimizer.init(layer)
    short = step(state)
    state.hyperparams["norm_constraint"] = state.hyperparams["norm_constraint"] * 4
    longer = step(state)
    state.hyperparams["damping"] = state.hyperparams["damping"] * 2
    step(state)
    assert len(traces) == 1
    assert -flat(short) @ flat(grads) == pytest.approx(-flat(longer) @ flat(grads) / 2, rel=1e-4)


@pytest.mark.covers("kfac")
def test_inputs_that_are_large_beside_the_damping_are_inverted_all_the_same():
    x = data(16, 48, dtype=np.float32)  # rank 16 of 48, and a ridge far below the rounding of the factor
    A = x.T @ x
    for ridge in (0.0, 1e-8):
        inverse = np.asarray(_inverse(A, jnp.float32(ridge)))
        assert np.all(np.isfinite(inverse))
        assert np.linalg.eigvalsh(inverse)[0] > 0
        np.testing.assert_allclose(x @ inverse @ x.T, np.eye(16), atol=0.01)


def test_bfloat16_networks_have_an_exact_fisher_matrix():
    layer = eqx.nn.Linear(3, 2, key=KEYS[0], dtype=jnp.bfloat16)
    x = data(4, 3, dtype=np.float32).astype(jnp.bfloat16)
    run = {"outputs_fn": lambda m: jax.vmap(m)(x), "distribution": Gaussian(), "curvature": "ggn"}
    G = jax.jit(lambda layer: capture_statistics(layer, **run)[0]["G"])(layer)
    assert G.dtype == jnp.float32
    np.testing.assert_allclose(G, np.eye(2), atol=0.02)


def test_layers_without_parameters_pass_and_unknown_parameters_do_not():
    class Gained(eqx.nn.Linear):
        gain: jax.Array

        def __init__(self):
            super().__init__(2, 2, key=KEYS[0])
            self.gain = jnp.ones(3)

    bare = eqx.nn.LayerNorm(2, use_weight=False, use_bias=False)
    assert check_layers([eqx.nn.Linear(2, 2, key=KEYS[0]), bare]) == ["[0]"]
    with pytest.raises(InputError, match="with 3 parameters that its rule does not know"):
        check_layers([Gained()])


def test_what_is_not_supported_is_named():
    key = KEYS[0]

    class Odd(eqx.Module):
        layer: eqx.nn.Linear
        scale: jax.Array

    with pytest.raises(InputError, match=r"\.scale \(in no supported layer\)"):
        check_layers(Odd(eqx.nn.Linear(2, 2, key=key), jnp.ones(2)))
    with pytest.raises(InputError, match="groups = 2, expected 1"):
        kfac(eqx.nn.Conv2d(2, 2, 3, groups=2, key=key), 0.1, distribution=Gaussian())
    with pytest.raises(InputError, match=r"GroupNorm|\.weight \(in no supported layer\)"):
        check_layers(eqx.nn.GroupNorm(1, 2))
    model = MLP(dtype=jnp.float32)
    x = jnp.ones((2, 3))
    with pytest.raises(InputError, match=r"never called: \.second"):
        capture_statistics(model, losses_fn=lambda m: jax.vmap(m.first)(x)[:, 0], curvature="empirical")
    with pytest.raises(InputError, match=r"\.first\.weight read outside its layer"):
        capture_statistics(model, losses_fn=lambda m: (x @ m.first.weight.T)[:, 0], curvature="empirical")
    with pytest.raises(InputError, match="outputs_fn: found None"):
        capture_statistics(model)
    with pytest.raises(InputError, match="distribution: found None"):
        kfac(model, 0.1)
    with pytest.raises(InputError, match="adaptive_damping: found True"):
        kfac(model, 0.1, distribution=Gaussian(), adaptive_damping=True)
    with pytest.raises(InputError, match="damping: found 0"):
        kfac(model, 0.1, distribution=Gaussian(), damping=0.0)
    with pytest.raises(InputError, match="curvature: found 'hessian'"):
        kfac(model, 0.1, curvature="hessian")
