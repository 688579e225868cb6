"""What every network estimator shares: standardised input, the trainer, early stopping, `partial_fit`, saved state.

A leaf says which network it wants and how a row becomes the network's input; everything else is here. Fitted state is
plain arrays (`weights_`, `training_`), so that a model file holds them and a loaded model goes on training where the
saved one stood. Cost: that of the network; prediction runs in chunks of rows of one compiled shape.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state

from corollary.core import precision, validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.estimator import Estimator
from corollary.core.solution import Solution
from corollary.train._early_stopping import StoppingRule
from corollary.train._feed import ArrayFeed
from corollary.train._trainer import Trainer
from corollary.train.estimators._standard import standard

CHUNK = 512  # rows of one compiled prediction
OPTIMIZERS = ("adam", "adamw", "sgd", "lion", "nadam")


class Fit(eqx.Module):
    """What the trainer trains: the network, and beside it traced settings of the loss, which are not trained."""

    network: Any
    settings: dict[str, Any]


@final
class Stalled(StoppingRule):
    """Stop when no value of the last `patience` was lower than all before by more than `tol` times the first.

    The first value is the scale: a loss that falls to zero by a constant factor would else never stall.
    """

    patience: int = eqx.field(static=True)
    tol: float = eqx.field(static=True)
    monitor: str = eqx.field(static=True)
    mode: str = eqx.field(static=True, default="min")

    def _fires(self, values: np.ndarray, best: int) -> str:
        last, level = 0, values[0]
        margin = self.tol * abs(values[np.isfinite(values)][0])
        for i, value in enumerate(values):
            if value < level - margin:
                last, level = i, value
        waited = len(values) - 1 - last
        return f"no lower than validation {last} for {waited} in a row" if waited >= self.patience else ""


class NetworkEstimator(Estimator):
    """Base of the network estimators. A leaf gives `_build`, `_settings` and the loss; see `MLPClassifier`."""

    _common: ClassVar[dict[str, validation.Check]] = {
        "alpha": validation.number(0, 1e300),
        "batch_size": validation.integer(1),
        "optimizer": validation.one_of(*OPTIMIZERS),
        "learning_rate": validation.number(0, 1e300, open_low=True),
        "max_iter": validation.integer(1),
        "early_stopping": validation.flag,
        "validation_fraction": validation.number(0, 0.9, open_low=True),
        "n_iter_no_change": validation.integer(1),
        "tol": validation.number(0, 1e300),
        "standardize": validation.flag,
        "verbose": validation.flag,
    }
    # The settings that `_common` checks, beside those of the leaf.
    alpha: Any
    batch_size: Any
    optimizer: Any
    learning_rate: Any
    max_iter: Any
    early_stopping: Any
    validation_fraction: Any
    n_iter_no_change: Any
    tol: Any
    standardize: Any
    random_state: Any
    verbose: Any
    # What a fit leaves behind.
    mean_: np.ndarray
    scale_: np.ndarray
    n_outputs_: int
    n_iter_: int
    n_features_in_: int
    weights_: list[np.ndarray]
    training_: list[np.ndarray]
    loss_curve_: np.ndarray

    @abc.abstractmethod
    def _build(self, key: Any) -> tuple[Any, Any]:
        """The network ``(x, state, key, inference) -> (output, state)`` on a batch of rows, and its state or None."""

    @abc.abstractmethod
    def _loss(self) -> Callable[..., Any]:
        """The module-level loss ``(model, state, batch, key, inference) -> (value, state)`` of this kind."""

    def _loss_settings(self) -> dict[str, Any]:
        """Numbers that the loss reads from ``model.settings``, beside ``alpha``."""
        return {}

    # ---------------------------------------------------------------------------------------------- training

    def _train(
        self, X: np.ndarray, target: np.ndarray | None, weight: Any, *, epochs: int | None = None, go_on: bool = False
    ) -> None:
        """Train on rows X and targets, from scratch or from the last state; `epochs` None: until the rule stops it."""
        rows = np.ones(len(X), X.dtype) if weight is None else np.asarray(weight, X.dtype)
        top = float(rows.max())
        if not top > 0:
            raise InputError("sample_weight: found no positive weight, expected at least one")
        if not rows.all():  # a row of weight zero is a row left out: it fills no batch and is not held out
            X, target, rows = X[rows > 0], None if target is None else target[rows > 0], rows[rows > 0]
        rows = rows / top
        mean = float(rows.mean(dtype=np.float64))
        if not go_on:
            self.mean_, self.scale_ = self._moments(X, rows) if self.standardize else (0 * X[0], np.ones_like(X[0]))
        data = {"x": self._standardized(X), "w": (rows / mean).astype(X.dtype)} | (
            {} if target is None else {"y": target}
        )
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        held = None
        if self.early_stopping and epochs is None:
            data, held = self._split(data, seed)
        network, state = self._build(jax.random.key(seed))
        network, state = _cast((network, state), X.dtype)
        size = _batch(int(self.batch_size), len(data["x"]), exact=state is not None)
        feed = ArrayFeed(data, size, seed=seed, remainder="weights")
        settings = {"alpha": self.alpha / mean / top, **self._loss_settings()}
        model = Fit(network, {name: jnp.asarray(value, X.dtype) for name, value in settings.items()})
        loss, metric = _losses(self._loss(), state is not None)
        trainer = Trainer(
            model,
            loss,
            _optimizer(self.optimizer),
            state=state,
            seed=seed,
            trainable=Fit(True, dict.fromkeys(settings, False)),  # type: ignore[arg-type]
        )
        start = trainer.init()
        start = eqx.tree_at(
            lambda s: s.optimizer.hyperparams["learning_rate"], start, jnp.asarray(self.learning_rate, X.dtype)
        )
        if go_on:
            start = _restored(start, self.training_)
            # These rows may make up another number of steps: the epoch begins with its first.
            epoch = -(-int(start.step) // feed.steps_per_epoch)
            start = eqx.tree_at(lambda s: s.step, start, jnp.asarray(epoch * feed.steps_per_epoch, jnp.int32))
        solution = trainer.fit(
            feed,
            epochs=int(self.max_iter) if epochs is None else epochs,
            start=start,
            validation=None
            if held is None
            else ArrayFeed(held, _batch(size, len(held["x"])), shuffle=False, remainder="weights"),
            metric=metric,
            stop=self._rule(held is not None) if epochs is None else None,
            verbose=bool(self.verbose),
        )
        self._store(trainer, solution, feed.steps_per_epoch, held, go_on)

    def _split(self, data: dict[str, np.ndarray], seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        n = len(data["x"])
        held = round(self.validation_fraction * n)
        if not 1 <= held < n:
            raise InputError(
                f"validation_fraction: found {self.validation_fraction} of {n} rows, expected a row on each side"
            )
        order = np.arange(n)
        y = data.get("y")
        counts = np.unique(y, return_counts=True)[1] if y is not None and y.dtype.kind == "i" else np.zeros(0)
        stratify = y if counts.size and counts.min() >= 2 and held >= len(counts) <= n - held else None
        first, second = train_test_split(order, test_size=held, random_state=seed, stratify=stratify)
        return {k: v[first] for k, v in data.items()}, {k: v[second] for k, v in data.items()}

    def _rule(self, held: bool) -> Stalled:
        monitor = "validation_loss" if held else "loss"
        return Stalled(patience=int(self.n_iter_no_change), tol=float(self.tol), monitor=monitor)

    def _store(self, trainer: Trainer, solution: Solution, per_epoch: int, held: Any, go_on: bool) -> None:
        history = solution.history or {}
        curve = np.asarray(history["loss"], float)
        epochs = -(-len(curve) // per_epoch)
        means = np.asarray([curve[i * per_epoch : (i + 1) * per_epoch].mean() for i in range(epochs)])
        final = solution.stats["train_state"]
        self.loss_curve_ = np.concatenate([self.loss_curve_, means]) if go_on else means
        self.n_iter_ = epochs + (self.n_iter_ if go_on else 0)
        if held is not None:
            scores = np.asarray(history["validation_loss"])
            self.validation_curve_ = scores[np.isfinite(scores)]
        elif not go_on:
            vars(self).pop("validation_curve_", None)  # of a fit before
        fitted, state = solution.value.network, solution.stats["state"]
        self.weights_ = [np.asarray(leaf) for leaf in jax.tree.leaves(_arrays((fitted, state)))]
        # The weights kept may be earlier ones than the last: training goes on from them.
        params = jax.tree.unflatten(jax.tree.structure(final.params), jax.tree.leaves(_floats(fitted)))
        arrays = jax.tree.unflatten(jax.tree.structure(final.model_state), jax.tree.leaves(_arrays(state)))
        final = eqx.tree_at(lambda s: (s.params, s.model_state), final, (params, arrays), is_leaf=lambda x: x is None)
        self.training_ = [np.asarray(leaf) for leaf in jax.tree.leaves(_plain(final))]
        stats = {k: v for k, v in solution.stats.items() if k in ("skipped", "seconds", "stopped")}
        self._keep(Solution(None, solution.certificates, solution.status, solution.steps, stats))
        if epochs > 1 and not means[-1] < 2 * means[0]:
            self.certificates_["descent"] = Certificate(
                "mean loss of the last epoch < twice that of the first; shorten learning_rate",
                measured=float(means[-1]),
                bound=float(2 * means[0]),
                kind="monitor",
                source="seen in training",
            )
        if held is not None:
            self.certificates_ |= self._validated(held)

    def _validated(self, held: dict[str, np.ndarray]) -> dict[str, Certificate]:
        """Certificates from rows that no step has seen."""
        return {}

    # ---------------------------------------------------------------------------------------------- answering

    def _training_data(self, X: Any, *args: Any, **checks: Any) -> Any:
        return super()._training_data(self._flat(X), *args, **checks)

    def _new_data(self, X: Any, **checks: Any) -> Any:
        return super()._new_data(self._flat(X), **checks)

    def _flat(self, X: Any) -> Any:
        """Rows of a grid of places as rows of columns, where the estimator knows of places."""
        channels = self._channels()
        shape = getattr(X, "shape", ())
        if channels is None or len(shape) <= 2 or 0 in shape:
            return X
        if shape[-1] != channels:
            raise InputError(f"X: found {shape[-1]} channels in shape {tuple(shape)}, expected {channels}")
        return np.asarray(X).reshape(shape[0], -1)

    def _moments(self, X: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and scale of every column: those of its channel, where columns are places of a grid."""
        channels = self._channels()
        return standard(X, weight, channels)

    def _channels(self) -> int | None:
        """How many channels each place of a row has; None where columns are unlike each other."""
        return None

    def _standardized(self, X: np.ndarray) -> np.ndarray:
        return ((X - self.mean_) / self.scale_).astype(X.dtype)  # in the wider precision: a scale may be 1e-150

    def _outputs(self, X: np.ndarray, *, standardized: bool = False, part: str = "__call__") -> np.ndarray:
        """The network's output (or that of a part of it) for every row, in the precision of X."""
        X = X if standardized else self._standardized(X)
        with precision.float64():
            network, state = _cast(self._model(), X.dtype)
            size = min(CHUNK, 1 << max(0, int(np.ceil(np.log2(max(1, len(X)))))))
            parts = []
            for first in range(0, len(X), size):
                block = X[first : first + size]
                padded = np.concatenate([block, np.zeros((size - len(block), *X.shape[1:]), X.dtype)])
                parts.append(np.asarray(_infer(network, state, jnp.asarray(padded), part))[: len(block)])
        return np.concatenate(parts)

    def _model(self) -> tuple[Any, Any]:
        """The fitted network and its state, built from the settings and filled with `weights_`."""
        skeleton = eqx.filter_eval_shape(self._build, jax.random.key(0))
        is_array = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct) or eqx.is_array(leaf)  # noqa: E731
        arrays, rest = eqx.partition(skeleton, is_array)
        leaves, structure = jax.tree.flatten(arrays)
        if [leaf.shape for leaf in leaves] != [w.shape for w in self.weights_]:
            raise InputError("settings: the network's shape was changed after the fit, expected the fitted settings")
        return eqx.combine(jax.tree.unflatten(structure, [jnp.asarray(w) for w in self.weights_]), rest)


# -------------------------------------------------------------------------------------------------- losses


def classification_loss(model: Fit, state: Any, batch: Any, key: Any, inference: bool) -> tuple[Any, Any]:
    """Weighted cross-entropy of integer labels plus the penalty."""
    data, present = batch
    logits, state = model.network(data["x"], state, key, inference)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, data["y"])
    return _mean(each, data["w"], present) + _penalty(model, each, present, inference), state


def regression_loss(model: Fit, state: Any, batch: Any, key: Any, inference: bool) -> tuple[Any, Any]:
    """Half the weighted mean squared error over the outputs plus the penalty."""
    data, present = batch
    output, state = model.network(data["x"], state, key, inference)
    each = 0.5 * jnp.mean(jnp.square(output - data["y"]), axis=-1)
    return _mean(each, data["w"], present) + _penalty(model, each, present, inference), state


def reconstruction_loss(model: Fit, state: Any, batch: Any, key: Any, inference: bool) -> tuple[Any, Any]:
    """Weighted mean squared error between a row and its reconstruction (from a noisy row in training)."""
    data, present = batch
    x = data["x"]
    noisy = x if key is None else x + model.settings["denoise"] * jax.random.normal(key, x.shape, x.dtype)
    output, state = model.network(noisy, state, key, inference)
    each = jnp.mean(jnp.square(output - x), axis=-1)
    return _mean(each, data["w"], present) + _penalty(model, each, present, inference), state


def _mean(each: Any, weight: Any, present: Any) -> Any:
    present = present.astype(each.dtype)
    return jnp.sum(each * weight * present) / jnp.sum(present)


def _penalty(model: Fit, each: Any, present: Any, inference: bool) -> Any:
    """(α/2)‖W‖² per unit of the batch's weight, as scikit-learn has it; biases and gains, of one axis, are left out."""
    if inference:
        return jnp.zeros((), each.dtype)
    squares = [jnp.sum(jnp.square(w)) for w in jax.tree.leaves(eqx.filter(model.network, _is_weight))]
    return 0.5 * model.settings["alpha"] * jnp.stack(squares).sum() / jnp.sum(present.astype(each.dtype))


def _is_weight(leaf: Any) -> bool:
    return eqx.is_inexact_array(leaf) and leaf.ndim >= 2


@functools.cache
def _losses(loss: Callable[..., Any], stateful: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The trainer's loss and validation metric: cached, so that equal estimators share one compiled program."""
    if stateful:
        return (
            lambda model, state, batch, key: loss(model, state, batch, key, False),
            lambda model, state, batch: loss(model, state, batch, None, True)[0],
        )
    return (
        lambda model, batch, key: loss(model, None, batch, key, False)[0],
        lambda model, batch: loss(model, None, batch, None, True)[0],
    )


@functools.cache
def _optimizer(name: str) -> optax.GradientTransformation:
    """The optimizer with its learning rate in the state: another rate compiles nothing."""

    def build(learning_rate: Any) -> optax.GradientTransformation:
        return getattr(optax, name)(learning_rate)  # only the rate is an array: Optax raises decays to integer powers

    return optax.inject_hyperparams(build)(learning_rate=1e-3)


# -------------------------------------------------------------------------------------------------- arrays


def _batch(limit: int, rows: int, *, exact: bool = False) -> int:
    """Rows a step. Fewer than the limit are filled up by padding to a power of two: folds of a few rows more or less
    share a compiled program then. Batch statistics would see the padding: `exact` has none."""
    return min(limit, rows if exact else 1 << (rows - 1).bit_length())


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)


def _arrays(tree: PyTree) -> PyTree:
    return eqx.filter(tree, eqx.is_array)


def _floats(tree: PyTree) -> PyTree:
    return eqx.filter(tree, eqx.is_inexact_array)


def _plain(state: Any) -> Any:
    """A train state whose key is plain numbers."""
    return eqx.tree_at(lambda s: s.key, state, jax.random.key_data(state.key))


def _restored(state: Any, leaves: list[np.ndarray]) -> Any:
    """The train state with the saved leaves in the places of its own."""
    plain = _plain(state)
    mine, structure = jax.tree.flatten(plain)
    if [a.shape for a in mine] != [a.shape for a in leaves]:
        raise InputError("settings: the network's shape was changed after the fit, expected the fitted settings")
    whole = jax.tree.unflatten(structure, [jnp.asarray(b, a.dtype) for a, b in zip(mine, leaves, strict=True)])
    return eqx.tree_at(lambda s: s.key, whole, jax.random.wrap_key_data(whole.key))


@eqx.filter_jit
def _infer(network: Any, state: Any, x: Any, part: str) -> Any:
    return getattr(network, part)(x, state, None, True)[0]
