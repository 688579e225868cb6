"""Parallel training on one device: schedules, workers as an axis, delays, plans for memory, counted bytes."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from corollary import train
from corollary.core.errors import InputError

EPS = 1.2e-7


def fit(w, batch, key):
    x, y = batch
    return jnp.mean((x @ w - y) ** 2) / 2


@pytest.fixture(scope="module")
def data():
    keys = jax.random.split(jax.random.key(0), 3)
    shape = (4, 3, 6)  # workers, steps, examples
    return jax.random.normal(keys[0], (3,)), (
        jax.random.normal(keys[1], (*shape, 3)),
        jax.random.normal(keys[2], shape),
    )


@pytest.mark.covers("pipeline-parallel")
@pytest.mark.parametrize("kind", ["gpipe", "1f1b"])
def test_schedules_are_complete_causal_and_idle_as_the_formula_says(kind):
    for p, m in itertools.product((1, 2, 4, 5), (1, 3, 4, 8)):
        plan = train.pipeline_schedule(p, m, kind)
        table = np.asarray(plan.table)
        assert table.shape == (2 * (m + p - 1), p)
        assert plan.bubble == pytest.approx((p - 1) / (m + p - 1))
        assert plan.alive == (m if kind == "gpipe" else min(m, p))
        assert plan.alive <= plan.slots <= plan.alive + 1
        when = {(s, int(table[t, s])): t for t in range(len(table)) for s in range(p) if table[t, s]}
        assert len(when) == 2 * m * p
        for s, i in itertools.product(range(p), range(1, m + 1)):
            assert when[s, i] < when[s, -i]
            if s:
                assert when[s - 1, i] < when[s, i]
                assert when[s, -i] < when[s - 1, -i]


@pytest.mark.covers("local-sgd", "diloco")
def test_one_local_step_is_data_parallel_sgd(data):
    w, batches = data
    key, rate = jax.random.key(1), 0.1
    run = train.local_sgd(fit, optax.sgd(rate), period=1)
    state = run.init(w, 4)
    for t in range(3):
        batch = jax.tree.map(lambda a, t=t: a[:, t : t + 1], batches)
        state, values = run.round(state, batch, key)
        whole = jax.tree.map(lambda a, t=t: a[:, t].reshape(24, *a.shape[3:]), batches)
        w = w - rate * jax.grad(fit)(w, whole, key)
    np.testing.assert_allclose(state.params, w, atol=20 * EPS)
    assert values.shape == (4, 1)
    assert float(state.communicated) == 3 * 12  # bytes


@pytest.mark.covers("local-sgd", "diloco")
def test_a_round_is_the_mean_of_the_workers_and_bytes_fall_by_the_period(data):
    w, batches = data
    key = jax.random.key(1)
    run = train.local_sgd(fit, optax.sgd(0.1), period=3)
    state, _ = run.round(run.init(w, 4), batches, key, jnp.array([1.0, 2.0, 3.0, 2.0]))
    ends = []
    for k in range(4):
        v = w
        for t in range(3):
            v = v - 0.1 * jax.grad(fit)(v, jax.tree.map(lambda a, k=k, t=t: a[k, t], batches), key)
        ends.append(v)
    mean = np.average(np.stack(ends), axis=0, weights=[1, 2, 3, 2])
    np.testing.assert_allclose(state.params, mean, atol=20 * EPS)
    # Three steps cost one exchange: a third of what three rounds of one step cost.
    assert float(state.communicated) == 12
    # The outer step: Nesterov momentum on the averaged difference.
    nesterov = train.DiLoCo(fit, 3, optax.sgd(0.1), optax.sgd(0.7, momentum=0.9, nesterov=True))
    outer, _ = nesterov.round(nesterov.init(w, 4), batches, key, jnp.array([1.0, 2.0, 3.0, 2.0]))
    np.testing.assert_allclose(outer.params, w + 0.7 * 1.9 * (mean - np.asarray(w)), atol=40 * EPS)


@pytest.mark.covers("local-sgd")
def test_heterogeneous_quadratics_drift_to_the_predicted_point():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((3, 2, 2))
    A = root @ np.swapaxes(root, 1, 2) + 0.3 * np.eye(2)
    c = rng.standard_normal((3, 2))
    rate = 0.5 / np.linalg.eigvalsh(A).max()

    def loss(x, batch, key):
        curvature, centre = batch
        return (x - centre) @ curvature @ (x - centre) / 2

    run = train.local_sgd(loss, optax.sgd(rate), period=8)
    batch = jax.tree.map(lambda a: jnp.repeat(jnp.asarray(a, jnp.float32)[:, None], 8, 1), (A, c))
    state = run.init(jnp.zeros(2), 3)
    for _ in range(60):
        state, _ = run.round(state, batch, jax.random.key(0))
    predicted = train.local_sgd_drift(A, c, learning_rate=rate, period=8)
    assert predicted.holds
    assert predicted.stats["drift"] > 0.01
    np.testing.assert_allclose(state.params, predicted.value, atol=1e-5)
    once = train.local_sgd_drift(A, c, learning_rate=rate, period=1)
    np.testing.assert_allclose(once.value, once.stats["optimum"], rtol=1e-10)
    same = train.local_sgd_drift(np.stack([A[0]] * 3), c, learning_rate=rate, period=8)
    assert same.stats["drift"] == 0  # equal curvatures do not drift, wherever their minima are
    for factor in (1e-12, 1e12):
        scaled = train.local_sgd_drift(A, c * factor, learning_rate=rate, period=8)
        np.testing.assert_allclose(scaled.value, factor * predicted.value, rtol=1e-9)
    assert not train.local_sgd_drift(A, c, learning_rate=8 * rate, period=8).holds
    # Steps below the rounding of 1: in the limit no drift, and no 0/0 either; and none at H = 1 for 1 − ηλ near 0.
    single = [jnp.asarray(a, jnp.float32) for a in (A, c)]
    tiny = train.local_sgd_drift(*single, learning_rate=1e-9, period=8)
    np.testing.assert_allclose(tiny.value, predicted.stats["optimum"], rtol=1e-4)
    ends = np.array([[[1.0]], [[0.1]]]), np.array([[0.0], [1.0]])
    assert train.local_sgd_drift(*ends, learning_rate=1 - 1e-9, period=1).stats["drift"] == 0


@pytest.mark.covers("asynchronous-sgd")
def test_delay_is_stable_exactly_within_the_region():
    for delay in (0, 1, 2, 5, 12):
        limit = float(train.delay_stability(1.0, delay).value)
        assert limit == pytest.approx(2 * np.sin(np.pi / (2 * (2 * delay + 1))))
        inside = train.delay_stability(np.array([1.0, 0.2]), delay, 0.999 * limit)
        outside = train.delay_stability(np.array([1.0, 0.2]), delay, 1.001 * limit)
        assert inside.stats["radius"] < 1 < outside.stats["radius"]
        assert inside.holds
        assert not outside.holds


@pytest.mark.covers("asynchronous-sgd")
def test_delayed_iterates_equal_a_plain_loop_and_no_delay_is_sgd():
    h = jnp.array([1.0, 0.3])

    def gradient(x, key):
        return h * x + jax.random.normal(key, x.shape)

    key, x0 = jax.random.key(3), jnp.array([1.0, -2.0])
    for delay in (0, 2):
        run = train.asynchronous_sgd(gradient, x0, learning_rate=0.2, delay=delay, steps=15, key=key)
        past = [x0]
        for t in range(15):
            stale = past[max(t - delay, 0)]
            past.append(past[-1] - 0.2 * gradient(stale, jax.random.fold_in(key, t)))
        np.testing.assert_allclose(run.value, past[-1], atol=20 * EPS)
    rate = 1.02 * 2 * np.sin(np.pi / 10)
    wild = train.asynchronous_sgd(lambda x, key: x, x0, learning_rate=rate, delay=2, steps=900, curvature=1.0)
    assert not wild.certificates["stable"].holds
    assert float(jnp.max(jnp.abs(wild.value))) > 2


def brute_force(sizes, budget, redo, move):
    best = np.inf
    for rest in itertools.product(("keep", "offload", "recompute"), repeat=len(sizes) - 1):
        for first in ("keep", "offload"):
            plan = train.ActivationPlan((first, *rest), tuple(sizes))
            if plan.peak <= budget:
                prices = {"keep": [0] * len(sizes), "offload": move, "recompute": redo}
                best = min(best, sum(prices[d][k] for k, d in enumerate((first, *rest))))
    return best


@pytest.mark.covers("activation-offload")
def test_plans_are_the_cheapest_within_the_budget():
    rng = np.random.default_rng(1)
    for _ in range(6):
        sizes = rng.integers(1, 9, 5)
        redo, move = rng.uniform(0.1, 2, (2, 5))
        for budget in (sizes.max(), sizes.sum() // 2 + sizes.max(), sizes.sum()):
            run = train.plan_activations(sizes, float(budget), compute_seconds=redo, offload_seconds=move)
            assert run.holds
            assert run.stats["optimal"]
            assert run.stats["seconds"] == pytest.approx(brute_force(sizes.tolist(), budget, redo, move))
    chain = train.plan_activations([1] * 100, 20, compute_seconds=[1.0] * 100)
    assert chain.holds  # √n checkpointing: twenty slots hold a hundred layers at one more forward pass
    assert chain.stats["seconds"] <= 100


@pytest.mark.covers("activation-offload")
def test_planned_gradient_is_the_plain_one_and_its_peak_is_measured():
    def layer(w, h):
        return jnp.tanh(h @ w)

    def loss(h):
        return jnp.mean(h**2)

    widths = [8, 4, 4, 4, 4]
    params = [jax.random.normal(jax.random.key(k), (a, 4)) for k, a in enumerate(widths)]
    x = jax.random.normal(jax.random.key(9), (3, 8))
    sizes = [4 * 3 * a for a in widths]

    def plain(params):
        h = x
        for w in params:
            h = layer(w, h)
        return loss(h)

    value, expected = jax.value_and_grad(plain)(params)
    for budget, moves in ((sum(sizes), None), (sum(sizes) - 48, None), (sizes[0], [0.1] * 5)):
        plan = train.plan_activations(sizes, budget, compute_seconds=[1.0] * 5, offload_seconds=moves).value
        run = plan.gradient([layer] * 5, params, x, loss)
        assert run.holds
        assert run.stats["peak"] == plan.peak
        np.testing.assert_allclose(run.value[0], value, rtol=10 * EPS)
        for found, slope in zip(run.value[1], expected, strict=True):
            np.testing.assert_allclose(found, slope, atol=10 * EPS)

    # The same decisions as a policy of jax.checkpoint give the same gradient.
    plan = train.plan_activations(sizes, sum(sizes) - 48, compute_seconds=[1.0] * 5).value
    names = [f"h{k}" for k in range(5)]

    def named(params):
        h = x
        for name, w in zip(names, params, strict=True):
            h = layer(w, checkpoint_name(h, name))
        return loss(h)

    for found, slope in zip(jax.grad(jax.checkpoint(named, policy=plan.policy(names)))(params), expected, strict=True):
        np.testing.assert_allclose(found, slope, atol=10 * EPS)


@pytest.mark.covers("communication-model")
def test_formulas_and_the_text_of_programs():
    params = {"w": jnp.zeros((30, 8)), "b": jnp.zeros(16)}
    size = 4 * 256
    sent = {
        "data_parallel": 2 * 7 / 8 * size,
        "zero1": 3 * 7 / 8 * size,
        "zero2": 2 * 7 / 8 * size,
        "zero3": 2 * 7 / 8 * size,
        "local_sgd": 2 * 7 / 8 * size,
    }
    for scheme, expected in sent.items():
        assert float(train.communication_model(params, 8, scheme).value) == expected
    assert float(train.communication_model(params, 8, "local_sgd", period=4).value) == sent["local_sgd"] / 4
    assert float(train.communication_model(params, 1).value) == 0
    # Synchronous and asynchronous forms, and the three ways of writing groups.
    lines = {
        "%r = f32[4,8]{1,0} all-gather(%x), replica_groups={{0,1},{2,3}}, dimensions={0}": ("all-gather", 128, 2),
        "%r = (f32[1,8], f32[4,8]) all-gather-start(%x), replica_groups=[2,4]<=[8]": ("all-gather", 128, 4),
        "%r = bf16[2,8] reduce-scatter(%x), replica_groups=[1,8]<=[8]": ("reduce-scatter", 256, 8),
        "%r = (f32[3], s32[]) all-reduce(%x, %y), replica_groups=mesh['a'=4,'b'=2] {'b'}": ("all-reduce", 16, 2),
        "%r = (f32[3], f32[3]) collective-permute-start(%x), source_target_pairs={{0,1},{1,2}}": (
            "collective-permute",
            12,
            3,
        ),
        "%r = (f32[3], f32[3], u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1}}": (
            "collective-permute",
            12,
            2,
        ),
    }
    for line, expected in lines.items():
        (found,) = train.count_collectives(line)
        assert (found.kind, found.payload, found.group) == expected
    assert train.count_collectives("%r = f32[2] add(%x, %y)") == []
    everyone = "HloModule m, num_partitions=8\n%r = f32[4] all-reduce(%x), replica_groups={}, to_apply=%add"
    assert train.count_collectives(everyone)[0].group == 8


@pytest.mark.covers("mesh-parallel", "fsdp")
def test_shardings_of_layouts_and_memory_formulas():
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "pipeline", "model"))
    layout = train.mesh_parallel(mesh, pipeline="pipeline", columns="up", rows="down", stack="up|down")
    tree = {"up": jnp.zeros((2, 8, 4)), "down": jnp.zeros((2, 4, 8)), "norm": jnp.zeros(4), "step": jnp.zeros(())}
    specs = {k: tuple(v.spec) for k, v in layout.parameters(tree).items()}
    assert specs == {"up": ("pipeline", "model"), "down": ("pipeline", None, "model"), "norm": (), "step": ()}
    assert train.rank_mapping(mesh) == {(0, 0, 0): 0}
    psi = 7_500_000_000
    gigabytes = [round(train.zero_memory(psi, 64, stage=s) / 1e9, 1) for s in range(4)]
    assert gigabytes == [120.0, 31.4, 16.6, 1.9]  # figure 1 of the paper


def test_refusals():
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    layout = train.data_parallel(mesh)
    tensor = train.tensor_parallel(Mesh(np.array(jax.devices()[:1]), ("model",)))
    pipeline = train.pipeline_loss(lambda w, x: w * x, lambda o, y: jnp.mean(o - y), mesh, micro_batches=2, axis="data")
    x = jnp.ones((3, 1))
    plan = train.ActivationPlan(("keep",), (4,))
    run = train.local_sgd(fit, optax.sgd(1.0), period=2)
    A, c = np.ones((2, 2, 2)), np.ones((3, 2))
    for call, words in (
        (lambda: train.data_parallel(mesh, axis="rows"), "mesh: found axes"),
        (lambda: train.fsdp(mesh, stage=4), "stage: found 4"),
        (lambda: train.tensor_parallel(mesh, axis="data", columns="("), "columns: found"),
        (lambda: train.tensor_parallel(mesh, axis="data", data="data"), "used twice"),
        (lambda: train.sharded_step(fit, optax.sgd(1.0), tensor, collectives="explicit"), "collectives: found"),
        (lambda: train.pad_batch({"x": x, "y": jnp.ones(2)}, 4), "batch: found leading lengths"),
        (lambda: pipeline(jnp.ones(1), (x, x)), "batch: found 3 examples"),
        (lambda: pipeline(jnp.ones(2), (x, x)), "params: found leading lengths"),
        (lambda: train.pipeline_schedule(0, 2), "n_stages: found 0"),
        (lambda: train.ring_bytes("broadcast", 1, 2), "kind: found"),
        (lambda: train.count_collectives(3), "program: found int"),
        (lambda: train.communication_model(x, 8, "gossip"), "scheme: found"),
        (lambda: train.local_sgd(fit, optax.sgd(1.0), period=0), "period: found 0"),
        (lambda: run.round(run.init(x, 4), jnp.ones((4, 3)), None), "batches: found leading axes"),
        (lambda: run.round(run.init(x, 4), jnp.ones((4, 2)), None, jnp.ones(3)), "weights: found shape"),
        (lambda: run.round(run.init(x, 4), jnp.ones((4, 2)), None, jnp.zeros(4)), "weights: found a negative one or"),
        (lambda: train.local_sgd_drift([[[1.0, 5], [0, 1]]], [[1.0, 1]], learning_rate=1.0, period=1), "A: found"),
        # Bytes are whole numbers, not float32.
        (lambda: train.plan_activations([100_000_003] * 2, 2e8, compute_seconds=[1, 1]), "budget: found 2e"),
        (
            lambda: train.local_sgd_drift(A, c, learning_rate=1.0, period=1),
            "A, c: found",
        ),
        (lambda: train.asynchronous_sgd(lambda x, k: x, x, learning_rate=1.0, delay=-1, steps=2), "delay: found -1"),
        (lambda: train.delay_stability([-1.0], 2), "curvature: found"),
        (lambda: train.plan_activations([4, 4], 2, compute_seconds=[1, 1]), "budget: found 2"),
        (lambda: train.plan_activations([4, 4], 9, compute_seconds=[1]), "compute_seconds: found 1"),
        (lambda: plan.gradient([], [], x, jnp.mean), "layers: found 0"),
        (lambda: jax.jit(train.offload_optimizer(optax.sgd(1.0)).init)(x), "found a traced array"),
    ):
        with pytest.raises(InputError, match=words):
            call()
    assert layout.shards == 1


def test_an_offloaded_optimizer_is_a_function_of_its_state():
    optimizer = train.offload_optimizer(optax.trace(0.9))
    w = jnp.ones(2)
    state = optimizer.init(w)
    first, second = (optimizer.update(w, state, w)[0] for _ in range(2))  # the same state twice, as after a bad step
    np.testing.assert_array_equal(first, second)


def test_a_pipelined_loss_keeps_its_own_precision():
    mesh = Mesh(np.array(jax.devices()[:1]), ("pipeline",))

    def loss(out, y):
        return jnp.mean((out.astype(jnp.float32) - y) ** 2)

    pipelined = train.pipeline_loss(lambda w, x: w * x, loss, mesh, micro_batches=2)
    x, w = jnp.ones((4, 1), jnp.bfloat16), jnp.full(1, 3.0, jnp.bfloat16)
    value, slope = jax.value_and_grad(pipelined)(w, (x, jnp.full((4, 1), 0.001)), None)
    assert (value.dtype, slope.dtype) == (jnp.float32, jnp.bfloat16)
    assert float(value) == pytest.approx(2.999**2, rel=1e-6)
