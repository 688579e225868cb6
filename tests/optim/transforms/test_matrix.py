"""Muon, Shampoo and SOAP against naive twins, closed forms and the laws of rotation and scale."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from corollary.core.errors import InputError
from corollary.linalg.functions._newton_schulz import polar_express
from corollary.optim.transforms import (
    muon,
    orthogonalise,
    scale_by_muon,
    scale_by_shampoo,
    scale_by_soap,
    shampoo,
    soap,
)
from corollary.optim.transforms._blocks import inverse_root


def gradients(steps, *shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal((steps, *shape)).astype(dtype)


def run(transform, sequence, params=None):
    """All updates of a sequence of gradients, one compiled scan."""
    sequence = jax.tree.map(jnp.asarray, sequence)
    first = jax.tree.map(lambda g: g[0], sequence)
    params = jax.tree.map(jnp.zeros_like, first) if params is None else params

    @jax.jit
    @jax.numpy_dtype_promotion("standard" if "optax" in transform.update.__module__ else "strict")
    def all_steps(sequence):
        def step(state, g):
            updates, state = transform.update(g, state, params)
            return state, updates

        return jax.lax.scan(step, transform.init(params), sequence)

    return all_steps(sequence)


def polar(G):
    U, _, Vt = np.linalg.svd(G, full_matrices=False)
    return U @ Vt


# Muon


@pytest.mark.parametrize("shape", [(6, 6), (4, 12), (12, 4)])
def test_the_fast_orthogonalisation_is_the_polynomial_of_the_singular_values(shape, x64):
    G = gradients(1, *shape)[0]
    U, s, Vt = np.linalg.svd(G, full_matrices=False)
    x = s / np.sum(s**4) ** 0.25
    for a, b, c in polar_express(0.01, 4)[0]:
        x = a * x + b * x**3 + c * x**5
    np.testing.assert_allclose(orthogonalise(jnp.asarray(G)), (U * x) @ Vt, rtol=0, atol=1e-12)
    np.testing.assert_allclose(orthogonalise(jnp.asarray(G * 1e-150)), (U * x) @ Vt, rtol=0, atol=1e-12)
    np.testing.assert_allclose(orthogonalise(jnp.asarray(G), steps=6), polar(G), rtol=0, atol=1e-3)


def test_orthogonalisation_in_low_precision_of_stacks_and_of_nothing():
    stack = jnp.asarray(gradients(3, 4, 16, dtype=np.float32))
    ours = orthogonalise(stack)
    np.testing.assert_allclose(ours, np.stack([polar(G) for G in np.asarray(stack)]), atol=0.02)
    low = orthogonalise(stack.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), ours, atol=0.03)
    assert not np.any(orthogonalise(jnp.zeros((3, 5))))
    np.testing.assert_allclose(orthogonalise(stack[0] * 1e-30), ours[0], atol=1e-5)
    with pytest.raises(InputError, match="X: found an array of shape"):
        orthogonalise(jnp.ones(3))


@pytest.mark.covers("muon")
def test_muon_is_steepest_descent_in_the_spectral_norm_and_optax_agrees(x64):
    G = gradients(1, 5, 8)[0]
    P = polar(G)
    np.testing.assert_allclose(P @ P.T, np.eye(5), atol=1e-12)
    # max <G, D> over ‖D‖₂ <= 1 is the nuclear norm, and P reaches it.
    assert np.sum(G * P) == pytest.approx(np.linalg.norm(G, "nuc"))
    for D in gradients(50, 5, 8, seed=1):
        assert np.sum(G * D / np.linalg.norm(D, 2)) < np.sum(G * P)
    # With enough accurate steps both Optax's and ours are −η·scale·P; ours is (out, in), Optax's (in, out).
    exact = polar_express(1e-3, 8)[0]
    peer = optax.contrib.muon(0.1, exact, 8, nesterov=False)
    ours = muon(0.1, steps=8, nesterov=False)
    for params in (jnp.asarray(G), jnp.asarray(G.T)):
        step = ours.update(params, ours.init(params), params)[0]
        scale = max(1.0, params.shape[0] / params.shape[1]) ** 0.5
        np.testing.assert_allclose(step, -0.1 * scale * polar(np.asarray(params)), atol=1e-6)
        with jax.numpy_dtype_promotion("standard"):
            theirs = peer.update(params.T, peer.init(params.T), params.T)[0]
        np.testing.assert_allclose(step, theirs.T, atol=1e-6)


def test_muon_against_a_naive_twin(x64):
    sequence = gradients(4, 6, 3)
    _, ours = run(muon(0.1, schedule="jordan", steps=5, weight_decay=0.1), sequence, params=jnp.ones((6, 3)))
    m, twin = np.zeros((6, 3)), []
    for G in sequence:
        m = 0.95 * m + 0.05 * G
        U, s, Vt = np.linalg.svd(0.95 * m + 0.05 * G, full_matrices=False)
        x = s / np.sum(s**4) ** 0.25
        for _ in range(5):
            x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
        twin.append(-0.1 * (math.sqrt(2) * (U * x) @ Vt + 0.1 * np.ones((6, 3))))
    np.testing.assert_allclose(ours, twin, atol=1e-12)


def test_normuon_against_a_naive_twin_with_even_rows(x64):
    sequence = gradients(3, 4, 6)
    _, ours = run(scale_by_muon(steps=6, normalise=True, scale="none"), sequence)
    m, v, twin = np.zeros((4, 6)), np.zeros(4), []
    for t, G in enumerate(sequence, 1):
        m = 0.95 * m + 0.05 * G
        P = np.asarray(orthogonalise(jnp.asarray(0.95 * m + 0.05 * G), steps=6))
        v = 0.95 * v + 0.05 * np.mean(P**2, axis=1)
        N = P / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)[:, None]
        twin.append(N * np.linalg.norm(P) / np.linalg.norm(N))
    np.testing.assert_allclose(ours, twin, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(ours[0], axis=1), 1.0, atol=1e-3)


def test_muon_sorts_leaves_and_knows_layouts():
    params = {
        "conv": jnp.asarray(gradients(1, 4, 2, 3, dtype=np.float32)[0]),
        "W": jnp.eye(3),
        "head": jnp.eye(3),
        "b": jnp.ones(3),
    }
    sorted_ = muon(0.1, mask={"conv": True, "W": True, "head": False, "b": False}, tensors="out_first", scale="none")
    step = sorted_.update(params, sorted_.init(params), params)[0]
    np.testing.assert_allclose(step["head"], -0.1 * np.eye(3), atol=1e-6)
    np.testing.assert_allclose(step["b"], -0.1, atol=1e-6)
    flat = np.asarray(params["conv"]).reshape(4, 6)
    np.testing.assert_allclose(step["conv"].reshape(4, 6), -0.1 * polar(flat), atol=5e-3)
    last = scale_by_muon(tensors="out_last", scale="mup")
    step = last.update(params["conv"], last.init(params["conv"]))[0]
    assert np.linalg.norm(step.reshape(8, 3), 2) == pytest.approx((3 / 8) ** 0.5, abs=0.02)


# Shampoo


@pytest.mark.covers("shampoo")
@pytest.mark.parametrize("root", ["eigh", "newton"])
def test_fresh_shampoo_gives_the_polar_factor_and_vectors_get_full_matrix_adagrad(root, x64):
    settings = {"momentum": 0.0, "decay": 1.0, "eps": 1e-12, "every": 1, "graft": "none", "root": root}
    G = gradients(1, 4, 4)[0]
    transform = scale_by_shampoo(**settings)
    update = transform.update(jnp.asarray(G), transform.init(jnp.asarray(G)))[0]
    np.testing.assert_allclose(update, polar(G), atol=1e-6)
    vectors = gradients(6, 3)
    _, ours = run(transform, vectors)
    for k in (3, 4, 5):  # from the third on the sum of outer products has full rank
        values, U = np.linalg.eigh(vectors[: k + 1].T @ vectors[: k + 1])
        np.testing.assert_allclose(ours[k], (U / np.sqrt(values)) @ U.T @ vectors[k], atol=1e-5)


def twin_of_shampoo(sequence, power, eps, momentum, decay, every):
    """Algorithm 1 of the paper for matrices, with averages and grafting to RMSProp's length."""
    m, L, R, v, steps = 0.0, 0.0, 0.0, 0.0, []
    for t, G in enumerate(sequence, 1):
        L, R = decay * L + (1 - decay) * G @ G.T, decay * R + (1 - decay) * G.T @ G
        v = decay * v + (1 - decay) * G * G
        if (t - 1) % every == 0:
            roots = []
            for factor in (L, R):
                factor = factor / (1 - decay**t)
                values, U = np.linalg.eigh(factor)
                roots.append((U * (np.maximum(values, 0) + eps * values[-1]) ** -power) @ U.T)
        D = roots[0] @ G @ roots[1]
        graft = G / (np.sqrt(v / (1 - decay**t)) + 1e-8)
        m = momentum * m + (1 - momentum) * D * np.linalg.norm(graft) / np.linalg.norm(D)
        steps.append(m / (1 - momentum**t))
    return np.array(steps)


def test_shampoo_against_a_naive_twin_whole_and_in_blocks(x64):
    sequence = gradients(5, 5, 6)
    twin = lambda part: twin_of_shampoo(part, 0.25, 1e-6, 0.9, 0.95, 2)  # noqa: E731
    whole = scale_by_shampoo(0.9, 0.95, every=2)
    np.testing.assert_allclose(run(whole, sequence)[1], twin(sequence), atol=1e-9)
    # In blocks of 3 the pieces are preconditioned each on its own (5 rows: 3 and 2 padded).
    blocked = scale_by_shampoo(0.0, 0.95, every=1, block_size=3, graft="none")
    single = scale_by_shampoo(0.0, 0.95, every=1, graft="none")
    cuts = {f"{i}{j}": sequence[:, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3] for i in (0, 1) for j in (0, 1)}
    parts = run(single, cuts)[1]
    pieces = np.concatenate([np.concatenate([parts[f"{i}0"], parts[f"{i}1"]], axis=2) for i in (0, 1)], axis=1)
    np.testing.assert_allclose(run(blocked, sequence)[1], pieces, atol=1e-8)


def test_a_tensor_takes_the_exponent_of_its_axes(x64):
    G = gradients(1, 3, 4, 2)[0]
    transform = scale_by_shampoo(0.0, 1.0, 1e-9, every=1, graft="none")
    ours = transform.update(jnp.asarray(G), transform.init(jnp.asarray(G)))[0]
    expected = G
    for axis in range(3):
        flat = np.moveaxis(G, axis, 0).reshape(G.shape[axis], -1)
        values, U = np.linalg.eigh(flat @ flat.T)
        root = (U * (values + 1e-9 * values[-1]) ** (-1 / 6)) @ U.T
        expected = np.moveaxis(np.tensordot(root, expected, (1, axis)), 0, axis)
    np.testing.assert_allclose(ours, expected, atol=1e-9)


@pytest.mark.parametrize("graft", ["sgd", "adagrad", "adam"])
def test_grafting_borrows_the_length(graft, x64):
    sequence = gradients(3, 4, 5)
    _, ours = run(scale_by_shampoo(0.0, 0.9, graft=graft, every=1), sequence)
    peer = {
        "sgd": optax.identity(),
        "adagrad": optax.scale_by_rss(0.0, 0.0),
        "adam": optax.scale_by_adam(0.0, 0.9),
    }[graft]
    _, theirs = run(peer, sequence)
    lengths = lambda u: np.linalg.norm(np.asarray(u).reshape(3, -1), axis=1)  # noqa: E731
    np.testing.assert_allclose(lengths(ours), lengths(theirs), rtol=1e-6)


# SOAP


def twin_of_soap(sequence, b1, b2, eps, every):
    """Algorithm 3 of the paper, the first moment kept unrotated; the first step only sets the basis, as in its code."""
    m = v = 0.0
    L, R = sequence[0] @ sequence[0].T, sequence[0].T @ sequence[0]
    QL, QR = (np.linalg.eigh(f)[1][:, ::-1] for f in (L, R))
    steps = [np.zeros_like(sequence[0])]
    for t, G in enumerate(sequence[1:], 1):
        rotated = QL.T @ G @ QR
        m, v = b1 * m + (1 - b1) * G, b2 * v + (1 - b2) * rotated**2
        N = (QL.T @ m @ QR) / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        steps.append(QL @ N @ QR.T)
        L, R = b2 * L + (1 - b2) * G @ G.T, b2 * R + (1 - b2) * G.T @ G
        if t % every == 0:
            new = []
            for axis, (factor, Q) in enumerate(((L, QL), (R, QR))):
                pushed = factor @ Q
                order = np.argsort(-np.sum(Q * pushed, axis=0))
                v = np.take(v, order, axis=axis)
                new.append(np.linalg.qr(pushed[:, order])[0])
            QL, QR = new
    return np.array(steps)


@pytest.mark.covers("soap")
def test_soap_against_a_naive_twin_and_adam(x64):
    sequence = gradients(8, 4, 4)
    _, ours = run(scale_by_soap(0.9, 0.95, every=3), sequence)
    np.testing.assert_allclose(ours, twin_of_soap(sequence, 0.9, 0.95, 1e-8, 3), atol=1e-8)
    # With the identity for a basis it is Adam, one step late.
    adam = run(optax.scale_by_adam(0.9, 0.95), sequence[1:])[1]
    np.testing.assert_allclose(run(scale_by_soap(0.9, 0.95, max_size=0), sequence)[1][1:], adam, atol=1e-12)
    np.testing.assert_allclose(run(scale_by_soap(0.9, 0.95), {"b": sequence[:, 0]})[1]["b"][1:], adam[:, 0], atol=1e-12)
    frozen = scale_by_soap(0.9, 0.95, every=1000)
    begun = lambda p: frozen.init(p)._replace(count=jnp.ones((), jnp.int32))  # noqa: E731
    begun = optax.GradientTransformation(begun, frozen.update)
    np.testing.assert_allclose(run(begun, sequence[1:])[1], adam, atol=1e-12)


def test_one_sided_soap_turns_the_short_axis_only(x64):
    params = {"W": jnp.ones((3, 5)), "b": jnp.ones(4), "long": jnp.ones((2, 9))}
    state = scale_by_soap(one_sided=True, max_size=8).init(params)
    assert [f.shape for f in jax.tree.leaves(state.factors)] == [(3, 3), (2, 2)]
    state = scale_by_soap(max_size=8, precondition_1d=True).init(params)
    assert [f.shape for f in jax.tree.leaves(state.factors)] == [(3, 3), (5, 5), (4, 4), (2, 2)]


# Laws of all three

TABLE = {
    "muon": scale_by_muon(),
    "normuon": scale_by_muon(normalise=True),
    "shampoo": scale_by_shampoo(every=2, graft="none"),
    "soap": scale_by_soap(every=2, eps=0.0),
    "adam": optax.scale_by_adam(eps=0.0),
}


@pytest.mark.covers("soap", "shampoo", "muon")
@pytest.mark.parametrize("name", ["muon", "shampoo", "soap", "adam"])
def test_matrix_methods_turn_with_the_gradient_and_adam_does_not(name, x64):
    sequence = gradients(6, 4, 4)
    Q, P = (np.linalg.qr(A)[0] for A in gradients(2, 4, 4, seed=1))
    ours, turned = run(TABLE[name], sequence)[1], run(TABLE[name], Q @ sequence @ P)[1]
    gap = np.max(np.abs(turned - Q @ np.asarray(ours) @ P))
    assert (gap > 0.1) if name == "adam" else (gap < 1e-6)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("name", ["muon", "normuon", "shampoo", "soap"])
def test_the_scale_of_the_gradients_does_not_matter(name, scale, x64):
    sequence = gradients(4, 4, 4)  # square: a null space has no basis of its own, in SOAP rounding chooses it
    np.testing.assert_allclose(run(TABLE[name], scale * sequence)[1], run(TABLE[name], sequence)[1], atol=1e-7)


@pytest.mark.parametrize("make", [muon, shampoo, soap])
def test_bfloat16_parameters_keep_float32_state_and_zero_gradients_are_harmless(make):
    params = {"W": jnp.ones((4, 3), jnp.bfloat16), "b": jnp.ones(3, jnp.bfloat16), "none": None}
    optimizer = make(0.1)
    state = optimizer.init(params)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating))
    updates = jax.tree.map(jnp.zeros_like, params)
    for _ in range(2):
        updates, state = optimizer.update(updates, state, params)
    assert updates["W"].dtype == jnp.bfloat16
    assert all(np.all(np.isfinite(np.asarray(x, np.float32))) for x in jax.tree.leaves((updates, state)))


def test_empty_leaves_and_dead_rows_are_harmless():
    params = {"none": jnp.zeros((0, 3)), "W": jnp.ones((1, 4))}
    for make in (muon, shampoo):
        updates = jax.jit(lambda p, o=make(0.1): o.update(p, o.init(p), p)[0])(params)
        assert updates["none"].shape == (0, 3)
    G = jnp.zeros((3, 4)).at[0].set(1.0)
    transform = scale_by_muon(normalise=True, eps=0.0)
    update = jax.jit(lambda G: transform.update(G, transform.init(G))[0])(G)
    assert np.all(np.asarray(update[1:]) == 0)
    assert np.all(np.asarray(update[0]) > 0)


@pytest.mark.covers("shampoo")
def test_a_block_that_starts_without_gradient_gets_its_root_with_the_first_one():
    G = jnp.asarray(gradients(1, 4, 4, dtype=np.float32)[0])
    transform = scale_by_shampoo(0.0, every=100, graft="none", block_size=2)
    sequence = jnp.stack([G.at[:2].set(0), G])  # two of the four blocks are zero at first, as behind a zero head
    expected = run(transform, sequence)[1]
    for scale in (1e-6, 1e6):
        np.testing.assert_allclose(run(transform, scale * sequence)[1], expected, rtol=1e-3)


def test_products_alone_find_the_root_where_the_rows_sum_to_zero():
    A = jnp.array([[1.0, -1.0], [-1.0, 1.0]])[None]  # as after a softmax: a vector of ones is in the null space
    roots = [inverse_root(A, 0.25, jnp.float32(1e-4), method=method) for method in ("eigh", "newton")]
    np.testing.assert_allclose(roots[1], roots[0], rtol=2e-3)


@pytest.mark.parametrize(
    ("make", "setting"), [(muon, "momentum"), (shampoo, "decay"), (soap, "b2")], ids=["muon", "shampoo", "soap"]
)
def test_settings_are_traced_and_may_be_schedules(make, setting):
    static = {muon: "steps", shampoo: "block_size", soap: "max_size"}[make]
    fixed = optax.inject_hyperparams(make, static_args=(static,))
    optimizer = fixed(learning_rate=0.1, **{setting: 0.9})
    params, traces = jnp.eye(3), []

    @jax.jit
    def step(state):
        traces.append(1)
        return optimizer.update(2 * params, state, params)

    state = step(optimizer.init(params))[1]
    slow = step(state)[0]
    state.hyperparams["learning_rate"] = state.hyperparams["learning_rate"] * 3
    fast = step(state)[0]
    state.hyperparams[setting] = state.hyperparams[setting] * 0.5
    step(state)
    assert len(traces) == 1
    np.testing.assert_allclose(fast, 3 * slow, rtol=1e-5)
    scheduled = make(optax.constant_schedule(0.1), **{setting: optax.constant_schedule(0.9)})
    np.testing.assert_allclose(
        run(scheduled, jnp.stack([params] * 3))[1],
        run(make(0.1, **{setting: 0.9}), jnp.stack([params] * 3))[1],
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: muon(0.1, scale="big"), "scale: found 'big'"),
        (lambda: muon(0.1, momentum=1.0), "momentum: found 1.0, expected a number below 1"),
        (lambda: muon(0.1, tensors="flat"), "tensors: found 'flat'"),
        (lambda: scale_by_muon(steps=0), "steps: found 0"),
        (lambda: shampoo(0.1, graft="lamb"), "graft: found 'lamb'"),
        (lambda: shampoo(0.1, every=0), "every: found 0"),
        (lambda: shampoo(0.1, exponent=0.3, root="newton"), "exponent: found 0.3, expected 1/p"),
        (lambda: shampoo(0.1, block_size=0), "block_size: found 0"),
        (lambda: soap(0.1, b2=1.5), "b2: found 1.5"),
        (lambda: soap(0.1, every=1.5), "every: found 1.5"),
        (lambda: soap(0.1, weight_decay=-1.0), "weight_decay: found -1.0"),
    ],
)
def test_bad_settings_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
