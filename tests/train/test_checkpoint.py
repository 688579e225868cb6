"""Checkpoints: a killed run goes on to the very same bits; what is torn, foreign or newer is refused aloud."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from corollary.core.errors import InputError, ModelFileError
from corollary.core.solution import Status
from corollary.train import (
    ArrayFeed,
    Checkpoints,
    CheckpointWarning,
    CSVLog,
    EarlyStopping,
    ExponentialAverage,
    Trainer,
)
from corollary.train import _checkpoint as module
from corollary.train import _loop as loop

ADAM = optax.adam(1e-2)
RNG = np.random.default_rng(0)
DATA = (RNG.normal(size=(40, 3)).astype(np.float32), RNG.normal(size=40).astype(np.float32))


def loss(model, batch, key):
    x, y = batch
    noise = 0.0 if key is None else jax.random.normal(key, (), jnp.float32)
    return jnp.mean((jnp.tanh(x @ model["w"]) @ model["v"] - y) ** 2) + 0.01 * noise * model["v"][0]


def make(**settings):
    model = {"w": jnp.ones((3, 4)) / 3, "v": jnp.ones(4)}
    return Trainer(model, loss, ADAM, averaging=ExponentialAverage(0.9), **settings)


def bits(solution):
    state = solution.stats["train_state"]
    leaves = jax.tree.leaves((state.params, state.optimizer, state.average, solution.history))
    return b"".join(np.asarray(leaf).tobytes() for leaf in leaves)


@pytest.fixture(scope="module")
def whole():
    """A run that nobody interrupts, and the feed of all runs here: its epochs have five steps."""
    feed = ArrayFeed(DATA, 8, seed=1)
    return make().fit(feed, steps=23, validation=feed, validate_every=4), feed


def test_a_run_in_pieces_ends_with_the_same_bits(tmp_path, whole):
    uninterrupted, feed = whole
    log = CSVLog(tmp_path / "log.csv")
    for end in (7, 18, 19):  # mid-epoch each time: the caller's callback ends the process's work
        checkpoints = Checkpoints(tmp_path / "run", every=1)
        make().fit(
            feed,
            steps=23,
            validation=feed,
            validate_every=4,
            checkpoint=checkpoints,
            log=log,
            log_every=1,
            callback=lambda event, end=end: event.step >= end,
        )
    last = make().fit(
        feed, steps=23, validation=feed, validate_every=4, checkpoint=tmp_path / "run", log=log, log_every=1
    )
    assert bits(last) == bits(uninterrupted)
    assert last.stats["resumed_from"] == 19
    steps = [line.split(",")[0] for line in (tmp_path / "log.csv").read_text().split()[1:]]
    assert sorted(set(map(int, steps))) == list(range(1, 24))
    # A finished run that is started again has nothing to do.
    again = make().fit(feed, steps=23, validation=feed, validate_every=4, checkpoint=tmp_path / "run")
    assert bits(again) == bits(uninterrupted)
    assert len(list((tmp_path / "run").glob("step-*"))) == 3


def test_a_crash_at_any_moment_of_writing_leaves_a_good_checkpoint(tmp_path, monkeypatch):
    """The process dies before the n-th system call that changes the disk, for every n."""

    class Crash(BaseException):
        pass

    calls = {"left": 0}

    def dies(function):
        def call(*args, **kwargs):
            calls["left"] -= 1
            if calls["left"] < 0:
                raise Crash
            return function(*args, **kwargs)

        return call

    seen = set()
    for n in range(40):
        folder = tmp_path / str(n)
        first = Checkpoints(folder, keep=1)
        first.save(1, {"state": {"w": jnp.zeros(2)}})
        with monkeypatch.context() as patch:
            patch.setattr(module.os, "fsync", dies(os.fsync))
            patch.setattr(module.shutil, "rmtree", dies(shutil.rmtree))
            patch.setattr(module.pathlib.Path, "rename", dies(pathlib.Path.rename))
            patch.setattr(module.pathlib.Path, "mkdir", dies(pathlib.Path.mkdir))
            calls["left"], finished = n, True
            try:
                first.save(2, {"state": {"w": jnp.ones(2)}})
            except Crash:
                finished = False
        loaded = Checkpoints(folder, keep=1).load({"state": {"w": jnp.zeros(2)}})
        assert loaded.trees["state"]["w"].tolist() == [loaded.step - 1.0] * 2
        seen.add(loaded.step)
        after = Checkpoints(folder, keep=1)
        after.load({"state": {"w": jnp.zeros(2)}})
        after.save(3, {"state": {"w": jnp.full(2, 2.0)}})
        assert [p.name for p in folder.iterdir()] == ["step-000000000003"]
        if finished:
            break
    assert finished
    assert seen == {1, 2}


@pytest.mark.parametrize("damage", ["truncated", "torn json", "flipped bit", "missing", "foreign", "newer", "a digit"])
def test_a_bad_checkpoint_is_refused_and_the_one_before_it_used(tmp_path, damage):
    like = {"state": {"w": jnp.zeros(3)}}
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, {"state": {"w": jnp.full(3, float(step))}})

    def spoil(folder):
        arrays, text = folder / "state.safetensors", folder / "state.json"
        blob, head = arrays.read_bytes(), json.loads(text.read_text())
        match damage:
            case "truncated":
                arrays.write_bytes(blob[:-5])
            case "torn json":
                text.write_text(text.read_text()[:40])
            case "flipped bit":
                arrays.write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
            case "missing":
                arrays.unlink()
            case "foreign":
                text.write_text(json.dumps({"hello": 1}))
            case "newer":
                text.write_text(json.dumps({**head, "schema": 99}))
            case "a digit":
                text.write_text(json.dumps({**head, "record": {"at": [4]}}))

    spoil(tmp_path / "step-000000000002")
    with pytest.warns(CheckpointWarning, match="Going on from step-000000000001"):
        loaded = Checkpoints(tmp_path).load(like)
    assert loaded.step == 1
    assert loaded.trees["state"]["w"].tolist() == [1.0, 1.0, 1.0]
    spoil(tmp_path / "step-000000000001")
    with pytest.raises(ModelFileError, match="No good checkpoint is left"):
        Checkpoints(tmp_path).load(like)


def test_a_checkpoint_of_another_run_is_refused(tmp_path, whole):
    feed = whole[1]
    make().fit(feed, steps=2, checkpoint=tmp_path)
    with pytest.raises(InputError, match="a run with seed = 0, expected 1"):
        make(seed=1).fit(feed, steps=2, checkpoint=tmp_path)
    with pytest.raises(InputError, match="'batch_size': 8"):
        make().fit(ArrayFeed(DATA, 4, seed=1), steps=2, checkpoint=tmp_path)
    other = Trainer({"w": jnp.ones((3, 4)), "v": jnp.ones(4)}, loss, optax.sgd(0.1))
    with pytest.raises(InputError, match="of another run"):
        other.fit(feed, steps=2, checkpoint=tmp_path)
    assert Checkpoints(tmp_path / "none").load({}) is None
    with pytest.raises(InputError, match="keep: found 0"):
        Checkpoints(tmp_path, keep=0)


def test_every_kind_of_leaf_survives(tmp_path):
    tree = {
        "half": jnp.asarray([1.5, -2.0], jnp.bfloat16),
        "key": jax.random.key(3),
        "count": jnp.asarray(7, jnp.int32),
        "flag": jnp.asarray(True),
        "empty": jnp.zeros((0, 2)),
    }
    Checkpoints(tmp_path).save(5, {"state": tree}, {"h": np.arange(3.0)}, {"a": [1]})
    loaded = Checkpoints(tmp_path).load(
        {
            "state": jax.tree.map(jnp.zeros_like, {k: v for k, v in tree.items() if k != "key"})
            | {"key": jax.random.key(0)}
        }
    )
    back = loaded.trees["state"]
    assert back["half"].dtype == jnp.bfloat16
    assert back["half"].tolist() == [1.5, -2.0]
    assert jax.random.bits(back["key"]) == jax.random.bits(jax.random.key(3))
    assert (int(back["count"]), bool(back["flag"]), back["empty"].shape) == (7, True, (0, 2))
    assert loaded.arrays["h"].tolist() == [0.0, 1.0, 2.0]
    assert loaded.record == {"a": [1]}


@pytest.mark.covers("early-stopping")
def test_early_stopping_resumes_with_its_best_parameters(tmp_path, whole):
    feed = whole[1]
    options = {"validation": feed, "validate_every": 1, "stop": EarlyStopping(2)}
    trainer = Trainer({"w": jnp.ones((3, 4)) / 3, "v": jnp.ones(4)}, loss, optax.sgd(2.0))  # soon worse
    straight = trainer.fit(feed, steps=30, **options)
    cut = max(1, straight.steps - 1)
    trainer.fit(feed, steps=30, checkpoint=Checkpoints(tmp_path, every=1), callback=lambda e: e.step >= cut, **options)
    resumed = trainer.fit(feed, steps=30, checkpoint=Checkpoints(tmp_path, every=1), **options)
    assert resumed.steps == straight.steps
    assert bits(resumed) == bits(straight)
    for a, b in zip(jax.tree.leaves(resumed.value), jax.tree.leaves(straight.value), strict=True):
        assert np.array_equal(a, b)
    best = int(np.nanargmin(straight.history["validation_loss"])) + 1
    assert np.array_equal(trainer.fit(feed, steps=best).value["w"], straight.value["w"])


KILLED = """
import os, pathlib, random, signal, sys, time
import jax
os.environ["JAX_PLATFORMS"] = "cpu"
from corollary.core import compile_cache
from tests.train.test_checkpoint import DATA, bits, make
from corollary.train import ArrayFeed, Checkpoints

compile_cache.enable(os.environ.get("COROLLARY_CACHE", ".cache/xla"))
folder, random = pathlib.Path(sys.argv[1]), random.Random(int(sys.argv[2]))

def child(name, checkpoint):
    pid = os.fork()  # nothing of JAX runs yet in this process: each child starts its own
    if pid == 0:
        solution = make().fit(ArrayFeed(DATA, 8, seed=1), steps=150, checkpoint=checkpoint)
        (folder / name).write_bytes(bits(solution))
        os._exit(0)
    return pid

kills = 0
while True:
    pid = child("pieces", Checkpoints(folder / "run", every=7))
    if kills < 2:
        before = set((folder / "run").glob("step-*"))
        while set((folder / "run").glob("step-*")) == before and os.waitpid(pid, os.WNOHANG)[0] == 0:
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.03))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            break
        kills += 1
        os.waitpid(pid, 0)
    else:
        assert os.waitpid(pid, 0)[1] == 0
        break
print(kills)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.covers("trainer")
def test_kill_minus_nine_at_random_moments_changes_no_bit(tmp_path):
    call = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path), "0"]
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"]
    whole = make().fit(ArrayFeed(DATA, 8, seed=1), steps=150)
    assert (tmp_path / "pieces").read_bytes() == bits(whole)


def test_pruning_leaves_the_good_ones_and_what_is_not_ours(tmp_path):
    like = {"state": {"w": jnp.zeros(2)}}
    (tmp_path / ".venv-3").mkdir(parents=True)
    Checkpoints(tmp_path, keep=1).save(10, like)
    shutil.copytree(tmp_path / "step-000000000010", tmp_path / "step-000000000020")
    (tmp_path / "step-000000000020" / "state.json").write_text("torn")
    again = Checkpoints(tmp_path, keep=1)
    with pytest.warns(CheckpointWarning):
        again.load(like)
    again.save(15, like)
    assert {p.name for p in tmp_path.iterdir()} == {".venv-3", "step-000000000015", "step-000000000020"}
    # One that is used for a second run, in an empty folder, writes anew.
    shutil.rmtree(tmp_path)
    assert again.load(like) is None
    again.save(15, like)
    assert (tmp_path / "step-000000000015").is_dir()


def test_a_failed_run_that_is_started_again_repeats_only_the_failed_step(tmp_path):
    data = np.ones(12, np.float32)
    data[7] = np.inf
    trainer = Trainer({"w": jnp.ones(())}, lambda model, batch, key: jnp.mean(batch * model["w"]), ADAM)
    for _ in range(2):
        solution = trainer.fit(ArrayFeed(data, 2, shuffle=False), steps=6, checkpoint=tmp_path)
        assert (solution.steps, len(solution.history["loss"]), len(solution.stats["non_finite"])) == (3, 4, 1)


@pytest.mark.parametrize("when", ["evaluate", "_account"])
def test_an_interruption_at_any_moment_leaves_a_run_that_goes_on_to_the_same_bits(tmp_path, monkeypatch, whole, when):
    """In the middle of a validation, or between a call and the record of it."""
    uninterrupted, feed = whole
    place = loop if when == "evaluate" else loop._Run
    original, calls = getattr(place, when), iter([False, True, False, False])

    def interrupted(*args):
        if next(calls):
            raise KeyboardInterrupt
        return original(*args)

    options = {"steps": 23, "validation": feed, "validate_every": 4}
    with monkeypatch.context() as patch:
        patch.setattr(place, when, interrupted)
        first = make().fit(feed, checkpoint=tmp_path, **options)
    assert first.status == Status.MAX_STEPS
    assert 0 < first.steps == len(first.history["loss"]) < 23
    assert bits(make().fit(feed, checkpoint=tmp_path, **options)) == bits(uninterrupted)
