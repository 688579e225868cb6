"""The training loop: compiled steps, and a Python loop around them only for data, logs, evaluation and checkpoints.

A model is partitioned once; its trainable arrays, the optimizer's state and all else that changes are one pytree
(`TrainState`), donated to each call of one compiled program that takes as many steps as it is told to. In-memory data
stay on the device. Overhead: one Python call a chunk (about half a second of steps), O(1) memory beyond the model, its
gradient, the optimizer's state and the averages asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from corollary.core import validation as checks
from corollary.core.errors import InputError
from corollary.core.solution import Solution
from corollary.train._averaging import ExponentialAverage, TailAverage
from corollary.train._checkpoint import Checkpoints
from corollary.train._early_stopping import StoppingRule
from corollary.train._feed import Feed
from corollary.train._loop import Event, Options, run
from corollary.train._loss_scale import DynamicScale, StaticScale
from corollary.train._metrics import Log
from corollary.train._policy import Policy
from corollary.train._state import Recipe, Static, TrainState, run_step


@final
class Trainer:
    """Train a model: any pytree with floating arrays, or an Equinox module, by any Optax optimizer.

    One step costs what a bare jitted step costs. Structure (the loss, the optimizer, the model's shapes) is compiled
    once: further trainers with the same loss and optimizer objects and equal shapes reuse the program.

    Parameters
    ----------
    model
        The model at the start; it is copied, never changed.
    loss
        ``loss(model, batch, key)``: a scalar, or (scalar, dict of scalar metrics); with `state`:
        ``loss(model, state, batch, key)``: (scalar, state), or (scalar, (state, metrics)).
    optimizer
        An `optax.GradientTransformation`; clipping is `optax.chain(optax.clip_by_global_norm(1.0), ...)`. It is passed
        ``value``, ``grad``, ``value_fn``, ``grad_fn`` and ``key`` as extra arguments, for methods beyond first order.
    state
        The model's own state (`equinox.nn.State`: running statistics), if any.
    seed
        Of the keys that the loss is given: step k gets key(seed) folded with k.
    accumulate
        Split each batch into so many micro-batches and average their gradients: less memory, the same step where the
        loss is a mean over examples.
    policy
        Mixed precision: a `Policy`.
    loss_scale
        A `DynamicScale` or `StaticScale`, for float16.
    averaging
        An `ExponentialAverage` or `TailAverage` of the parameters, kept beside them.
    nonfinite
        A step whose loss, gradient or new parameters are not finite leaves the parameters as they were (the optimizer's
        state too, unless only the update overflowed); then ``"stop"`` ends the run, ``"skip"`` goes on with the next
        batch.
    trainable
        A pytree of flags (or a function of a leaf): which floating arrays are trained; None: all.
    layout
        How arrays lie on a mesh of devices: ``layout.parameters(tree)``, ``layout.optimizer(tree)`` and
        ``layout.batch(tree)`` give trees of `jax.sharding.NamedSharding`.

    Raises
    ------
    InputError
        Where a setting is refused, or the model has nothing to train.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from corollary.train import ArrayFeed, Trainer
    >>> x = jnp.linspace(-1, 1, 32)
    >>> data = {"x": x, "y": 3 * x + 1}
    >>> def loss(model, batch, key):
    ...     return jnp.mean((model["a"] * batch["x"] + model["b"] - batch["y"]) ** 2)
    >>> trainer = Trainer({"a": jnp.zeros(()), "b": jnp.zeros(())}, loss, optax.adam(0.1))
    >>> solution = trainer.fit(ArrayFeed(data, batch_size=16), steps=300)
    >>> {name: round(float(value), 2) for name, value in solution.value.items()}
    {'a': 3.0, 'b': 1.0}
    """

    def __init__(
        self,
        model: PyTree,
        loss: Any,
        optimizer: Any,
        *,
        state: PyTree = None,
        seed: int = 0,
        accumulate: int = 1,
        policy: Policy | None = None,
        loss_scale: DynamicScale | StaticScale | None = None,
        averaging: ExponentialAverage | TailAverage | None = None,
        nonfinite: str = "stop",
        trainable: PyTree = None,
        layout: Any = None,
    ):
        if not callable(loss):
            raise InputError(f"loss: found a {type(loss).__name__}, expected a function of (model, batch, key)")
        if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
            found = type(optimizer).__name__
            raise InputError(f"optimizer: found a {found}, expected an optax.GradientTransformation")
        checks.integer(0)("seed", seed)
        checks.integer(1)("accumulate", accumulate)
        checks.one_of("stop", "skip")("nonfinite", nonfinite)
        policy = Policy() if policy is None else policy
        model = jax.tree.map(lambda x: jnp.array(x) if isinstance(x, np.ndarray) else x, model)
        wanted = eqx.is_inexact_array if trainable is None else trainable
        params, rest = eqx.partition(model, _floating(model, wanted))
        if not jax.tree.leaves(params):
            raise InputError("model: found no trainable floating array, expected at least one")
        fixed, static = eqx.partition(rest, eqx.is_array)
        arrays, static_state = eqx.partition(state, eqx.is_array)
        self.seed, self.layout = int(seed), layout
        self._start = (policy.store(params), fixed, arrays)
        self._rules = (averaging, loss_scale)
        self._recipe = Recipe(
            loss=loss,
            optimizer=optimizer,
            model=Static(static),
            state=None if state is None else Static(static_state),
            accumulate=int(accumulate),
            policy=policy,
            skip=nonfinite == "skip",
            layout=layout,
        )
        self._fixed = self._replicated(fixed)

    def init(self) -> TrainState:
        """The run before its first step; its arrays are its own."""
        averaging, scaling = self._rules
        params, _, model_state = self._start
        if self.layout is not None:
            params = jax.device_put(params, self.layout.parameters(params))
        with jax.numpy_dtype_promotion("standard"):
            optimizer = jax.tree.map(jnp.asarray, self._recipe.optimizer.init(params))
        if self.layout is not None:
            optimizer = jax.device_put(optimizer, self.layout.optimizer(optimizer))
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=self._replicated(model_state),
            optimizer=optimizer,
            average=None if averaging is None else averaging.init(params),
            scale=None if scaling is None else scaling.init(),
            skipped=jnp.zeros((), jnp.int32),
            overflows=jnp.zeros((), jnp.int32),
            stopped=jnp.zeros((), bool),
            key=jax.random.key(self.seed),
        )
        return jax.tree.map(jnp.copy, state)  # its arrays will be donated: none may be shared

    def step(self, state: TrainState, batch: PyTree) -> tuple[TrainState, dict[str, Any]]:
        """One step by hand on one batch: the new state and its metrics (`fit` is the fast way)."""
        return run_step(state, self._fixed, self._rules, batch, recipe=self._recipe)

    def model(self, state: TrainState, *, averaged: bool = False) -> PyTree:
        """The model of a state, or the average of its parameters."""
        params = state.params
        if averaged and state.average is not None:
            params = jax.tree.map(lambda mean, x: mean.astype(x.dtype), state.average.params, params)
        return self._recipe.build(params, self._fixed, state.model_state)[0]

    def model_state(self, state: TrainState) -> PyTree:
        """The model's own state (running statistics), or None."""
        return self._recipe.build(state.params, self._fixed, state.model_state)[1]

    def fit(
        self,
        feed: Any,
        steps: int | None = None,
        *,
        epochs: int | None = None,
        start: TrainState | None = None,
        validation: Any = None,
        metric: Callable[..., Any] | None = None,
        validate_every: int | None = None,
        stop: StoppingRule | None = None,
        checkpoint: Checkpoints | str | os.PathLike[str] | None = None,
        log: Any = (),
        log_every: int = 50,
        callback: Callable[[Event], bool | None] | None = None,
        verbose: bool = False,
    ) -> Solution:
        """Take `steps` steps (or `epochs` passes) and return the trained model.

        Parameters
        ----------
        feed
            The batches: an `ArrayFeed`, `StreamFeed` or `GeneratedFeed`.
        steps, epochs
            How far to go, from `start`; one of the two.
        start
            Go on from this state (``solution.stats["train_state"]`` of an earlier call) rather than from the model.
        validation
            Batches on which `metric` is averaged, tail included, every `validate_every` steps and at the end.
        metric
            ``metric(model, batch)`` (with `state`: ``metric(model, state, batch)``): a scalar or a dict of scalars, a
            mean over the batch's examples; the model is in inference mode. None: the loss, with key None.
        validate_every
            In steps; None: once an epoch.
        stop
            A rule over the validation (``"validation_loss"``, or the loss where there is no validation feed): when it
            fires, the run ends and the best parameters seen are returned.
        checkpoint
            A folder, or `Checkpoints`. Where it holds a checkpoint, the run goes on from there, to the same bits as
            one that was never interrupted: starting again is resuming.
        log
            Where metrics go every `log_every` steps: `CSVLog`, `JSONLog`, `TensorBoardLog`.
        callback
            Called after each compiled call with an `Event`; returning True ends the run.
        verbose
            Show a progress bar.

        Returns
        -------
        Solution
            ``value``: the trained model (the best one seen where a `stop` rule chose it). ``history``: ``"loss"``,
            ``"gradient_norm"`` and the loss's metrics, one entry a step, and the validation's, NaN where there was
            none. ``stats``: ``train_state``, ``state`` (the model's), ``averaged`` (the averaged model), ``skipped``,
            ``seconds``, ``stopped`` (why, a `Note`). Certificates: ``finite`` (monitor: no loss, gradient or parameter
            was non-finite at any step) and ``gradient_norm`` (an estimate from the last batch). Nothing is claimed of
            optimality. Status: converged only where a `stop` rule was given and fired; at the step limit where it did
            not, or the caller interrupted; completed where the steps asked for were taken and no rule was given (that
            claims nothing); non-finite where a non-finite step ended the run.

        Raises
        ------
        InputError
            Where an argument is refused, or a checkpoint belongs to another run.
        ModelFileError
            Where no checkpoint of the folder can be read.
        """
        if not isinstance(feed, Feed):
            raise InputError(
                f"feed: found a {type(feed).__name__}, expected a Feed such as ArrayFeed(arrays, batch_size)"
            )
        checks.integer(0, none=True)("steps", steps)
        checks.integer(0, none=True)("epochs", epochs)
        if (steps is None) == (epochs is None):
            raise InputError(f"steps: found {steps!r} with epochs = {epochs!r}, expected exactly one of the two")
        if epochs is not None:
            if feed.steps_per_epoch is None:
                raise InputError(f"epochs: found {epochs}, expected steps, as this feed has no epochs")
            steps = epochs * feed.steps_per_epoch
        checks.integer(1, none=True)("validate_every", validate_every)
        checks.integer(1)("log_every", log_every)
        checks.flag("verbose", verbose)
        if validation is not None and not isinstance(validation, Feed):
            raise InputError(f"validation: found a {type(validation).__name__}, expected a Feed")
        if validate_every is None:
            validate_every = feed.steps_per_epoch or max(1, (steps or 1) // 10)
        if checkpoint is not None and not isinstance(checkpoint, Checkpoints):
            checkpoint = Checkpoints(checkpoint)
        logs = (log,) if isinstance(log, Log) else tuple(log)
        if not all(isinstance(one, Log) for one in logs):
            raise InputError(f"log: found {log!r}, expected a Log such as CSVLog(path), or several")
        options = Options(
            steps=int(steps or 0),
            validation=validation,
            metric=metric,
            validate_every=validate_every,
            stop=stop,
            checkpoint=checkpoint,
            logs=logs,
            log_every=log_every,
            callback=callback,
            verbose=verbose,
        )
        return run(self, feed, start, options)

    def _replicated(self, tree: PyTree) -> PyTree:
        return tree if self.layout is None else jax.device_put(tree, self._whole)

    @property
    def _whole(self) -> NamedSharding:
        mesh = jax.tree.leaves(self.layout.parameters(self._start[0]))[0].mesh
        return NamedSharding(mesh, PartitionSpec())


def _floating(model: PyTree, wanted: Any) -> PyTree:
    """Flags of the leaves to train: the floating arrays among those that are wanted."""
    if callable(wanted):
        return jax.tree.map(lambda x: eqx.is_inexact_array(x) and bool(wanted(x)), model)
    flags = jax.tree.map(lambda flag, part: jax.tree.map(lambda _: flag, part), wanted, model)
    return jax.tree.map(lambda flag, x: bool(flag) and eqx.is_inexact_array(x), flags, model)
