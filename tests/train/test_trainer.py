"""The trainer: its steps against closed forms and a naive loop, its promises about compiling, resuming and failing."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from corollary.core.errors import InputError
from corollary.core.solution import Status
from corollary.train import (
    ArrayFeed,
    CSVLog,
    EarlyStopping,
    ExponentialAverage,
    GeneratedFeed,
    JSONLog,
    TailAverage,
    TargetReached,
    TensorBoardLog,
    Trainer,
    find_learning_rate,
)
from corollary.train._metrics import crc32c


def squares(model, batch, key):
    del key
    x, y = batch
    return jnp.mean((x @ model["w"] - y) ** 2) / 2


def network_loss(model, batch, key):
    del key
    x, y = batch
    return jnp.mean((jax.vmap(model)(x)[:, 0] - y) ** 2)


SGD, ADAM = optax.sgd(0.1), optax.adam(1e-2)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 3)).astype(np.float32)
    return x, (x @ np.array([1.0, -2.0, 0.5], np.float32)).astype(np.float32)


def start(dtype=np.float32):
    return {"w": jnp.zeros(3, dtype)}


@pytest.mark.covers("trainer")
def test_full_batch_sgd_is_the_closed_form_and_one_step_is_exact(dtype):
    """θ_t − θ* = (I − ηA)^t (θ_0 − θ*), and θ_1 = θ_0 − η∇J to machine precision."""
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(24, 3)).astype(dtype), rng.normal(size=3).astype(dtype)
    y, eps = x @ w, np.finfo(dtype).eps
    feed = ArrayFeed((x, y), 24, shuffle=False)
    trainer = Trainer(start(dtype), squares, SGD)
    one = trainer.fit(feed, steps=1)
    by_hand = np.asarray(start(dtype)["w"]) - 0.1 * np.asarray(jax.grad(squares)(start(dtype), (x, y), None)["w"])
    np.testing.assert_allclose(one.value["w"], by_hand, rtol=4 * eps)

    t, A = 30, x.astype(float).T @ x.astype(float) / 24
    many = trainer.fit(feed, steps=t)
    expected = w - np.linalg.matrix_power(np.eye(3) - 0.1 * A, t) @ w
    np.testing.assert_allclose(many.value["w"], expected, atol=20 * t * eps)
    assert many.status == Status.COMPLETED
    assert not many.converged  # a number of steps proves nothing
    assert many.steps == t
    assert many.holds
    assert len(many.history["loss"]) == t


def test_minibatches_equal_a_naive_loop_and_go_on_from_a_state(data):
    feed = ArrayFeed(data, 8, seed=3)
    trainer = Trainer(start(), squares, ADAM, averaging=ExponentialAverage(0.9))
    solution = trainer.fit(feed, steps=10)
    w, state, average = start(), ADAM.init(start()), start()
    derivative = jax.jit(jax.grad(squares))
    for k in range(10):
        batch = tuple(a[feed.indices(k)] for a in data)
        with jax.numpy_dtype_promotion("standard"):
            update, state = ADAM.update(derivative(w, batch, None), state)
        w = optax.apply_updates(w, update)
        average = optax.incremental_update(w, average, 0.1)
    np.testing.assert_allclose(solution.value["w"], w["w"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(solution.stats["averaged"]["w"], average["w"], rtol=1e-4, atol=1e-6)

    first = trainer.fit(feed, steps=4)
    second = trainer.fit(feed, steps=6, start=first.stats["train_state"])
    assert np.array_equal(second.value["w"], solution.value["w"])
    assert second.steps == 10
    assert np.array_equal(second.history["loss"], solution.history["loss"][4:])


def test_a_second_trainer_of_the_same_kind_compiles_nothing(data):
    def fit(seed, decay):
        model = {"w": jnp.full(3, float(seed))}
        trainer = Trainer(model, squares, SGD, averaging=ExponentialAverage(decay), seed=seed)
        return trainer.fit(ArrayFeed(data, 8, seed=seed), steps=3 + seed)

    fit(0, 0.5)
    with jax.log_compiles(False), _count_compiles() as count:
        fit(2, 0.7)
    assert count == []


class _count_compiles:
    def __enter__(self):
        self.events = []
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self.events

    def _listen(self, name, _seconds, **_kwargs):
        if name == "/jax/core/compile/backend_compile_duration":
            self.events.append(name)

    def __exit__(self, *_):
        jax.monitoring.unregister_event_duration_listener(self._listen)


def test_micro_batches_average_to_the_whole_batch(data):
    feed = ArrayFeed(data, 8)
    whole = Trainer(start(), squares, SGD).fit(feed, steps=5)
    parts = Trainer(start(), squares, SGD, accumulate=4).fit(feed, steps=5)
    np.testing.assert_allclose(parts.value["w"], whole.value["w"], rtol=1e-5)
    np.testing.assert_allclose(parts.history["loss"], whole.history["loss"], rtol=1e-5)
    with pytest.raises(InputError, match="accumulate: found 3, expected a divisor"):
        Trainer(start(), squares, SGD, accumulate=3).fit(feed, steps=1)


def test_the_model_given_is_not_changed_and_frozen_parts_stay(data):
    model = {"w": jnp.zeros(3), "offset": jnp.ones(()), "name": "line"}

    def loss(model, batch, key):
        del key
        return jnp.mean((batch[0] @ model["w"] + model["offset"] - batch[1]) ** 2)

    trainable = {"w": True, "offset": False, "name": False}
    solution = Trainer(model, loss, SGD, trainable=trainable).fit(ArrayFeed(data, 8), steps=3)
    assert float(solution.value["offset"]) == 1
    assert solution.value["name"] == "line"
    assert np.array_equal(model["w"], np.zeros(3))
    assert not np.array_equal(solution.value["w"], np.zeros(3))


def test_validation_counts_every_example_and_early_stopping_returns_the_best(data):
    feed = ArrayFeed(data, 8)
    rest = ArrayFeed(data, 7, shuffle=False)  # 24 = 3·7 + 3: a tail
    trainer = Trainer(start(), squares, optax.sgd(0.3))
    solution = trainer.fit(feed, steps=6, validation=rest, validate_every=2)
    exact = float(squares(solution.value, data, None))
    assert solution.history["validation_loss"][-1] == pytest.approx(exact, rel=1e-4)
    assert np.isnan(solution.history["validation_loss"][0])

    # A rate that diverges at once: the start of the run is the best there is.
    trainer = Trainer({"w": jnp.ones(3)}, squares, optax.sgd(3.0))
    worse = trainer.fit(feed, steps=40, validation=rest, validate_every=1, stop=EarlyStopping(3))
    values = worse.history["validation_loss"]
    assert worse.steps == 4
    assert worse.status == Status.CONVERGED
    assert float(squares(worse.value, data, None)) == pytest.approx(values.min(), rel=1e-4)
    assert "no better than validation 0" in str(worse.stats["stopped"])


def test_status_says_what_was_asked_for(data):
    trainer, feed = Trainer(start(), squares, SGD), ArrayFeed(data, 8)
    missed = trainer.fit(feed, steps=6, validation=feed, stop=TargetReached(-1.0))
    assert missed.status == Status.MAX_STEPS
    reached = trainer.fit(feed, steps=30, validation=feed, stop=TargetReached(1.0))
    assert reached.status == Status.CONVERGED
    assert reached.steps < 30
    ended = trainer.fit(feed, steps=30, callback=lambda event: event.step >= 1)
    assert ended.steps < 30
    assert ended.status == Status.COMPLETED


def test_an_interrupt_keeps_what_was_reached(data, tmp_path):
    def interrupt(event):
        if event.step >= 1:
            raise KeyboardInterrupt

    trainer, feed = Trainer(start(), squares, SGD), ArrayFeed(data, 8)
    cut = trainer.fit(feed, steps=30, callback=interrupt, checkpoint=tmp_path)
    assert cut.status == Status.MAX_STEPS
    assert 1 <= cut.steps < 30
    assert "interrupted" in str(cut.stats["stopped"])
    assert np.array_equal(cut.value["w"], trainer.fit(feed, steps=int(cut.steps)).value["w"])
    resumed = trainer.fit(feed, steps=30, checkpoint=tmp_path)
    assert np.array_equal(resumed.value["w"], trainer.fit(feed, steps=30).value["w"])


def test_a_non_finite_step_is_named_and_leaves_the_last_finite_parameters():
    x = np.ones((8, 2), np.float32)
    model = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))

    def loss(model, batch, key):
        del key
        hidden = jnp.log(jax.nn.relu(jax.vmap(model.layers[0])(batch)) - batch[:, :1] ** 2 + 2)
        return jnp.mean(jax.vmap(model.layers[1])(hidden) ** 2)

    x[5] = 100.0  # log of a negative number, in the batch that holds example 5
    feed = ArrayFeed(x, 1, shuffle=False)
    trainer = Trainer(model, loss, SGD)
    stopped = trainer.fit(feed, steps=8)
    assert stopped.status == Status.NON_FINITE
    assert stopped.steps == 5
    assert not stopped.certificates["finite"].holds
    before = trainer.fit(feed, steps=5)
    assert eqx.tree_equal(stopped.value, before.value)
    said = str(stopped.stats["stopped"])
    assert "step 5" in said
    assert "examples 5" in said
    assert "comes out of log" in said
    assert "model.layers[0]" in said

    skipped = Trainer(model, loss, SGD, nonfinite="skip").fit(feed, steps=8)
    assert skipped.steps == 8
    assert skipped.stats["skipped"] == 1
    assert np.isnan(skipped.history["loss"]).nonzero()[0].tolist() == [5]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(eqx.filter(skipped.value, eqx.is_array)))
    x[5] = np.nan
    assert "batch itself" in str(trainer.fit(ArrayFeed(x, 1, shuffle=False), steps=8).stats["stopped"])


def test_an_update_that_overflows_is_refused_too():
    def flat(w, batch, key):
        del batch, key
        return w * 1e10

    solution = Trainer(jnp.ones(()), flat, optax.sgd(1e30)).fit(GeneratedFeed(jax.random.normal), steps=3)
    assert solution.status == Status.NON_FINITE
    assert float(solution.value) == 1


def test_averages_are_the_means_they_claim():
    path = np.cumsum(np.ones(10)).astype(np.float32)
    tail = TailAverage(start=4, every=2)
    state = tail.init(jnp.zeros(()))
    for step, x in enumerate(path):
        state = tail.update(state, jnp.asarray(x), step)
    assert float(state.params) == path[[4, 6, 8]].mean()
    assert int(state.count) == 3
    for bad in (lambda: TailAverage(start=-1), lambda: TailAverage(every=0), lambda: ExponentialAverage(1)):
        with pytest.raises(InputError):
            bad()


def test_state_metrics_and_randomness_reach_the_loss():
    class Counter(eqx.Module):
        index: eqx.nn.StateIndex
        w: jax.Array

        def __init__(self):
            self.index = eqx.nn.StateIndex(jnp.zeros((), jnp.int32))
            self.w = jnp.ones(())

    def loss(model, state, batch, key):
        del batch
        noise = jax.random.normal(key)
        state = state.set(model.index, state.get(model.index) + 1)
        return model.w**2, (state, {"noise": noise})

    model, state = eqx.nn.make_with_state(Counter)()
    feed = GeneratedFeed(lambda key: jax.random.normal(key, (2,)))
    solution = Trainer(model, loss, SGD, state=state, seed=7).fit(feed, steps=4)
    assert int(solution.stats["state"].get(solution.value.index)) == 4
    expected = [float(jax.random.normal(jax.random.fold_in(jax.random.key(7), k))) for k in range(4)]
    np.testing.assert_allclose(solution.history["noise"], expected, rtol=1e-6)


def test_extra_arguments_reach_line_searches(data):
    feed = ArrayFeed(data, 24, shuffle=False)
    solution = Trainer(start(), squares, optax.lbfgs(memory_size=3)).fit(feed, steps=12)
    assert float(squares(solution.value, data, None)) < 1e-8


def test_logs_are_written_and_parse_back(tmp_path, data):
    logs = [CSVLog(tmp_path / "m.csv"), JSONLog(tmp_path / "m.jsonl"), TensorBoardLog(tmp_path / "tb")]
    trainer = Trainer(start(), squares, SGD)
    solution = trainer.fit(ArrayFeed(data, 8), steps=6, log=logs, log_every=2)
    loss = solution.history["loss"]
    rows = [line.split(",") for line in (tmp_path / "m.csv").read_text().split()]
    assert rows[0] == ["step", "loss", "gradient_norm"]
    assert [(int(r[0]), np.float32(r[1])) for r in rows[1:]] == [(s, loss[s - 1]) for s in (2, 4, 6)]
    import json

    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines] == [2, 4, 6]
    scalars = _scalars(next((tmp_path / "tb").glob("events*")).read_bytes())
    assert [(s, v) for s, tag, v in scalars if tag == "loss"] == [(s, loss[s - 1]) for s in (2, 4, 6)]

    for log in logs:  # a run that goes on from step 4 repeats nothing
        log.open(4)
        log.close()
    assert [line.split(",")[0] for line in (tmp_path / "m.csv").read_text().split()] == ["step", "2", "4"]
    assert len((tmp_path / "m.jsonl").read_text().splitlines()) == 2
    assert crc32c(b"123456789") == 0xE3069283


def _scalars(data):
    """A reader written from the format's description: records, checksums, and the three messages."""
    import struct

    def mask(crc):
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

    def fields(payload):
        i = 0
        while i < len(payload):
            tag, i = varint(payload, i)
            kind = tag & 7
            if kind == 0:
                value, i = varint(payload, i)
            elif kind == 2:
                size, i = varint(payload, i)
                value, i = payload[i : i + size], i + size
            else:
                size = {1: 8, 5: 4}[kind]
                value, i = payload[i : i + size], i + size
            yield tag >> 3, value

    def varint(payload, i):
        value = shift = 0
        while True:
            byte = payload[i]
            value, shift, i = value | (byte & 0x7F) << shift, shift + 7, i + 1
            if byte < 0x80:
                return value, i

    found = []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        payload = data[12 : 12 + size]
        assert struct.unpack("<I", data[8:12])[0] == mask(crc32c(data[:8]))
        assert struct.unpack("<I", data[12 + size : 16 + size])[0] == mask(crc32c(payload))
        data = data[16 + size :]
        event = dict(fields(payload))
        if 3 in event:
            assert event[3] == b"brain.Event:2"
        for _, value in fields(event.get(5, b"")):
            parts = dict(fields(value))
            found.append((event[2], parts[1].decode(), struct.unpack("<f", parts[2])[0]))
    return found


def test_the_learning_rate_finder_stays_below_divergence():
    """On a quadratic with curvature 1/3·... the loss explodes past 2/L: the suggestion must lie below."""
    x = np.linspace(-1, 1, 64).astype(np.float32)

    def loss(w, batch, key):
        del key
        return jnp.mean((w * batch - 3 * batch) ** 2)

    found = find_learning_rate(jnp.zeros(()), loss, optax.sgd, ArrayFeed(x, 64), low=1e-4, high=1e3)
    limit = 2 / (2 * float(np.mean(x**2)))
    assert 1e-3 < found.value < limit
    assert found.certificates["rate"].kind == "estimate"
    assert found.history["rate"][-1] <= 1e3
    with pytest.raises(InputError, match="high"):
        find_learning_rate(jnp.zeros(()), loss, optax.sgd, ArrayFeed(x, 64), low=1.0, high=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"w": 1}}, "model: found no trainable"),
        ({"loss": 3}, "loss: found a int"),
        ({"optimizer": "adam"}, "optimizer: found a str"),
        ({"accumulate": 0}, "accumulate: found 0"),
        ({"nonfinite": "raise"}, "nonfinite: found 'raise'"),
    ],
)
def test_bad_settings_are_refused(change, message):
    settings = {"model": start(), "loss": squares, "optimizer": SGD} | change
    with pytest.raises(InputError, match=message):
        Trainer(**settings)


def test_bad_calls_are_refused(data):
    trainer, feed = Trainer(start(), squares, SGD), ArrayFeed(data, 8)
    for call, message in [
        (lambda: trainer.fit(data, steps=1), "feed: found a tuple"),
        (lambda: trainer.fit(feed), "steps: found None"),
        (lambda: trainer.fit(feed, steps=1, epochs=1), "exactly one"),
        (lambda: trainer.fit(feed, steps=-1), "steps: found -1"),
        (lambda: trainer.fit(GeneratedFeed(jax.random.normal), epochs=1), "epochs: found 1"),
        (lambda: trainer.fit(feed, steps=2, stop=EarlyStopping(monitor="accuracy")), "stop: found monitor 'accuracy'"),
        (lambda: trainer.fit(feed, steps=1, log="x.csv"), "log: found"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
    with pytest.raises(InputError, match="loss: found a value of shape"):
        Trainer(start(), lambda m, b, k: m["w"], SGD).fit(feed, steps=1)
    assert trainer.fit(feed, steps=0).steps == 0
    assert dataclasses.is_dataclass(trainer.init())
