"""The Python loop around the compiled steps: data ahead in a thread, logs, evaluation, checkpoints, and the end.

Chunks end where something is due (a validation, a checkpoint by steps) and otherwise aim at half a second; the bits do
not depend on where they end. Everything here happens once a chunk.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from corollary.core import progress
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Note, Solution, Status
from corollary.train._checkpoint import Checkpoints
from corollary.train._early_stopping import StoppingRule, Verdict
from corollary.train._evaluate import evaluate
from corollary.train._feed import STREAM_ROWS, Feed
from corollary.train._metrics import Log
from corollary.train._nonfinite import first_non_finite
from corollary.train._record import Record
from corollary.train._state import TrainState, run_chunk

if TYPE_CHECKING:
    from corollary.train._trainer import Trainer

CALL_SECONDS = 0.5  # a compiled call aims at this: short enough to be interrupted, long enough to cost nothing
REPORTS = 8  # non-finite steps that are looked into; the others are counted
GIVE_UP = 100  # non-finite steps in a row after which "skip" ends the run, too


@dataclasses.dataclass(frozen=True)
class Options:
    """What `Trainer.fit` was asked for."""

    steps: int
    validation: Feed | None
    metric: Callable[..., Any] | None
    validate_every: int
    stop: StoppingRule | None
    checkpoint: Checkpoints | None
    logs: tuple[Log, ...]
    log_every: int
    callback: Callable[[Event], bool | None] | None
    verbose: bool


@dataclasses.dataclass(frozen=True)
class Event:
    """What a callback is given after each compiled call.

    Parameters
    ----------
    step
        Steps taken.
    metrics
        Of the last step, and of the last validation.
    state
        The run; it lives until the next call only: copy what is to stay.
    trainer
        ``event.trainer.model(event.state)`` is the model.
    """

    step: int
    metrics: dict[str, float]
    state: TrainState
    trainer: Trainer


def run(trainer: Trainer, feed: Feed, start: TrainState | None, options: Options) -> Solution:
    """`Trainer.fit`, its arguments checked."""
    return _Run(trainer, feed, start, options).go()


class _Run:
    """One call of `fit`: what stands between two compiled calls."""

    def __init__(self, trainer: Trainer, feed: Feed, start: TrainState | None, options: Options):
        self.began = time.perf_counter()
        self.trainer, self.feed, self.options = trainer, feed, options
        self.state = trainer.init() if start is None else jax.tree.map(jnp.copy, start)
        self.record = Record(int(self.state.step))
        self.target = self.record.first + options.steps
        self.best: PyTree = None
        self.resumed: int | None = None
        self.what = {
            "feed": feed.describe(),
            "seed": trainer.seed,
            "accumulate": trainer._recipe.accumulate,
            "start": self.record.first,
        }
        if options.checkpoint is not None:
            self._resume(options.checkpoint)
        self.state = eqx.tree_at(lambda s: s.stopped, self.state, jnp.zeros((), bool))
        self.step = int(self.state.step)
        self.last: dict[str, float] = {}
        self.reason = self._verdict().reason if self.record.at else ""
        self.interrupted, self.failed = False, self.record.in_a_row >= GIVE_UP
        self.wide = bool(jax.config.read("jax_enable_x64"))
        self.capacity = feed.capacity()
        self.resident = trainer._replicated(feed.resident())
        # A stream's chunks are full, as its rows are data; a resident feed's grow to the length that takes the time
        # (but not where several processes, whose clocks differ, must agree).
        self.timed = self.capacity > STREAM_ROWS and jax.process_count() == 1
        self.chunk = 1 if self.timed else self.capacity
        self.fresh: dict[str, np.ndarray] = {}

    def go(self) -> Solution:
        """Take the steps."""
        options = self.options
        pending: tuple[tuple[int, int], Future[Any]] | None = None
        warm = False
        try:
            for log in options.logs:
                log.open(self.step)
            with ThreadPoolExecutor(1) as thread, progress.bar("train", self.target, options.verbose):
                while self.step < self.target and not self.reason and not self.failed:
                    first, n = self.step, self._length(self.step)
                    ahead = pending is not None and pending[0] == (first, n)
                    rows = pending[1].result() if pending is not None and ahead else self._rows(first, n)
                    clock = time.perf_counter()
                    self.state, self.fresh, taken = self._call(rows, n)
                    after = self._length(first + n)
                    pending = ((first + n, after), thread.submit(self._ahead, first + n, after)) if after else None
                    taken = int(taken)  # waits for the device
                    if warm and self.timed:
                        wanted = CALL_SECONDS * taken / (time.perf_counter() - clock)
                        self.chunk = int(np.clip(wanted, 1, min(8 * self.chunk, self.capacity)))
                    warm = True
                    self._account(first, taken)
        except KeyboardInterrupt:
            if any(leaf.is_deleted() for leaf in jax.tree.leaves(self.state)):
                raise
            self.interrupted = True
            self._settle()
        finally:
            for log in options.logs:
                log.close()
        self._save()
        return self._solution()

    def _call(self, rows: PyTree, n: int) -> Any:
        trainer = self.trainer
        return run_chunk(
            self.state,
            trainer._fixed,
            trainer._rules,
            self.resident,
            rows,
            np.int32(n),
            recipe=trainer._recipe,
            taker=self.feed.taker,
        )

    def _length(self, step: int) -> int:
        """Steps of the call that begins at `step`: up to the next thing that is due."""
        options, ends = self.options, [self.target]
        if options.validation is not None or options.stop is not None:
            ends.append((step // options.validate_every + 1) * options.validate_every)
        if options.checkpoint is not None and options.checkpoint.every is not None:
            ends.append((step // options.checkpoint.every + 1) * options.checkpoint.every)
        return max(0, min(self.chunk, self.capacity, min(ends) - step))

    def _rows(self, first: int, n: int) -> PyTree:
        """The rows of n steps, padded to the length that was compiled for, on the device."""
        rows = self.feed.rows(first, n)
        missing = self.capacity - n
        if missing:
            rows = jax.tree.map(lambda a: np.concatenate([a, np.broadcast_to(a[-1:], (missing, *a.shape[1:]))]), rows)
        layout = self.trainer.layout
        if layout is None:
            return jax.device_put(rows)
        placed = self.trainer._replicated({name: a for name, a in rows.items() if name != "batch"})
        if "batch" in rows:
            one = layout.batch(jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), rows["batch"]))
            stacked = jax.tree.map(lambda s: NamedSharding(s.mesh, PartitionSpec(None, *s.spec)), one)
            placed["batch"] = jax.tree.map(_put, rows["batch"], stacked)
        return placed

    def _ahead(self, first: int, n: int) -> PyTree:
        """The same in the feeding thread, where JAX's switch for float64 is not that of the caller."""
        with jax.enable_x64(self.wide):
            return self._rows(first, n)

    def _logged(self) -> dict[str, np.ndarray]:
        order = sorted(self.fresh, key=lambda name: (name != "loss", name != "gradient_norm", name))
        return {name: np.asarray(self.fresh[name]) for name in order}

    def _settle(self) -> None:
        """An interruption falls anywhere: what was due after the last call is made up for, as the state is past it."""
        self.step = int(self.state.step)
        missing = self.step - self.record.first - self.record.length()
        if missing > 0:
            self.record.append(self._logged(), missing)
        if self.step > self.record.first and self._validates():
            if self.record.at[-1:] != [self.step]:
                self._validate()
            else:
                self._judge()

    def _validates(self) -> bool:
        return self.step % self.options.validate_every == 0 or self.step == self.target

    def _account(self, first: int, taken: int) -> None:
        """What is due after a call."""
        options, log = self.options, self._logged()
        self.record.append(log, taken)
        self.step = int(self.state.step)
        self.last |= {name: float(values[taken - 1]) for name, values in log.items()}
        for i in range(taken):
            if (first + i + 1) % options.log_every == 0:
                self._log(first + i + 1, {name: float(values[i]) for name, values in log.items()})
        stopped = bool(self.state.stopped)
        self.record.in_a_row = (self.record.in_a_row + 1 if taken == 1 else 1) if stopped else 0
        if stopped:
            if len(self.record.reports) < REPORTS:
                self.record.reports.append(first_non_finite(self.trainer, self.state, self.feed, first + taken - 1))
            self.failed = not self.trainer._recipe.skip or self.record.in_a_row >= GIVE_UP
            if self.failed:
                return
            self.state = eqx.tree_at(lambda s: s.stopped, self.state, jnp.zeros((), bool))
        progress.show(self.step, loss=self.last["loss"])
        if self._validates():
            self._validate()
        if options.checkpoint is not None and options.checkpoint.due(self.step):
            self._save()
        if options.callback is not None:
            event = Event(self.step, dict(self.last), self.state, self.trainer)
            if options.callback(event):
                self.reason = self.reason or "the callback asked for it"

    def _validate(self) -> None:
        options = self.options
        if options.validation is None and options.stop is None:
            return
        values: dict[str, float] = {}
        if options.validation is not None:
            values = evaluate(self.trainer, self.state, options.validation, options.metric)
            named = {f"validation_{name}": value for name, value in values.items()}
            self.last |= named
            self._log(self.step, named)
        self.record.validated(self.step, values)
        self._judge()

    def _judge(self) -> None:
        if self.options.stop is not None:
            verdict = self._verdict()
            if verdict.best == len(self.record.at) - 1:
                self.best = jax.tree.map(jnp.copy, (self.state.params, self.state.model_state))
            self.reason = verdict.reason

    def _verdict(self) -> Verdict:
        if self.options.stop is None:
            return Verdict(False, "", -1)
        return self.options.stop.check(self.record.series(self._monitor()))

    def _monitor(self) -> str:
        stop, record = self.options.stop, self.record
        name = "" if stop is None else stop.monitor
        if self.options.validation is None and name == "validation_loss":
            name = "loss"
        if name not in record.validations and name not in record.columns:
            names = ", ".join([*record.columns, *record.validations])
            raise InputError(f"stop: found monitor {name!r}, expected one of {names}")
        return name

    def _log(self, step: int, values: dict[str, float]) -> None:
        for log in self.options.logs:
            log.write(step, values)

    def _resume(self, checkpoint: Checkpoints) -> None:
        kept = (self.state.params, self.state.model_state)
        loaded = checkpoint.load({"state": self.state, "best": kept}, self.what)
        if loaded is not None:
            self.resumed, self.state = loaded.step, loaded.trees["state"]
            self.best = None if self.options.stop is None else loaded.trees.get("best")
            self.record.restore(loaded.arrays, loaded.record)

    def _save(self) -> None:
        if self.options.checkpoint is not None:
            trees = {"state": self.state} if self.best is None else {"state": self.state, "best": self.best}
            plain = self.record.plain()
            if self.failed and not self.trainer._recipe.skip:  # that step will be taken again
                plain |= {"reports": plain["reports"][:-1], "in_a_row": 0}
            self.options.checkpoint.save(self.step, trees, self.record.steps(self.step), plain, self.what)

    def _solution(self) -> Solution:
        trainer, state, record = self.trainer, self.state, self.record
        history = record.history()
        chosen = state
        if self.best is not None:
            chosen = dataclasses.replace(state, params=self.best[0], model_state=self.best[1])
        norms = history.get("gradient_norm", np.full(1, np.nan))
        bad = int(state.skipped) - int(state.overflows) + int(self.failed and not trainer._recipe.skip)
        certificates = {
            "finite": Certificate(
                "loss, gradient and parameters are finite at every step (overflows that the loss scale answered apart)",
                measured=float(bad),
                bound=0.0,
                kind="monitor",
                source="counted in the compiled loop",
            ),
            "gradient_norm": Certificate(
                "‖gradient‖ on the last batch, before the last step",
                measured=float(norms[-1]) if len(norms) else float("nan"),
                kind="estimate",
                source="one batch; it bounds nothing",
            ),
        }
        stats: dict[str, Any] = {
            "train_state": state,
            "state": trainer.model_state(chosen),
            "averaged": None if state.average is None else trainer.model(state, averaged=True),
            "skipped": int(state.skipped),
            "seconds": time.perf_counter() - self.began,
            "stopped": Note(self._ending()),
            "non_finite": tuple(Note(text) for text in record.reports),
        }
        if self.resumed is not None:
            stats["resumed_from"] = self.resumed
        status = Status.COMPLETED
        if self.failed:
            status = Status.NON_FINITE
        elif self.interrupted:
            status = Status.MAX_STEPS
        elif self.options.stop is not None:
            status = Status.CONVERGED if record.at and self._verdict().stop else Status.MAX_STEPS
        return Solution(trainer.model(chosen), certificates, status, self.step, stats, history)

    def _ending(self) -> str:
        if self.failed:
            return self.record.reports[-1]
        if self.interrupted:
            return f"interrupted after {self.step} steps"
        return self.reason or f"took the {self.target - self.record.first} steps asked for"


def _put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
