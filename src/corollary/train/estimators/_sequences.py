"""Recurrent networks as estimators: `SequenceClassifier` and `SequenceForecaster`, and `windows` to feed the latter.

When: the order of the columns matters, as in time series of one length. Cost: O(length · hidden · (hidden + channels))
per row and layer. Source: Hochreiter & Schmidhuber (1997), Cho et al. (2014); see `corollary.nn.RNN`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import numpy as np

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.nn._sequence_models import RecurrentNetwork
from corollary.train.estimators._base import NetworkEstimator
from corollary.train.estimators._classifier import NetworkClassifier
from corollary.train.estimators._regressor import NetworkRegressor

SETTINGS: dict[str, validation.Check] = {
    **NetworkEstimator._common,
    "hidden_size": validation.integer(1),
    "n_channels": validation.integer(1),
    "depth": validation.integer(1),
    "cell": validation.one_of("lstm", "gru", "elman"),
    "bidirectional": validation.flag,
    "pool": validation.one_of("last", "mean"),
    "dropout": validation.number(0, 0.95),
}


class Unrolled(eqx.Module):
    """A recurrent network on rows that hold a sequence, time after time."""

    network: RecurrentNetwork
    channels: int = eqx.field(static=True)

    def __call__(self, x: Any, state: Any, key: Any, inference: bool) -> tuple[Any, Any]:
        sequences = x.reshape(len(x), -1, self.channels)
        return self.network(sequences, key=key, inference=inference), state


class SequenceClassifier(NetworkClassifier):
    """Classify sequences of one length by a recurrent network.

    Parameters
    ----------
    hidden_size : int, default=32
        Length of the state.
    n_channels : int, default=1
        Numbers per time: a row of X is ``length * n_channels`` of them, time after time. X may come as (n_samples,
        length, n_channels), too.
    depth : int, default=1
        Layers of the recurrent stack.
    cell : {"lstm", "gru", "elman"}, default="lstm"
    bidirectional : bool, default=False
        Read the sequence both ways.
    pool : {"last", "mean"}, default="last"
        What the head sees: the last state, or the mean of the outputs.
    dropout : float, default=0.0
        Between the layers and before the head; another value is compiled anew.
    class_weight : dict or "balanced", default=None
        Weights per class, multiplied into ``sample_weight``.
    alpha : float, default=1e-4
        Weight of the L2 penalty, (alpha/2)‖W‖² per example of the batch, as scikit-learn has it.
    batch_size : int, default=128
        Rows a step; all rows where there are fewer.
    optimizer : {"adam", "adamw", "nadam", "lion", "sgd"}, default="adam"
        Of Optax.
    learning_rate : float, default=1e-3
        Constant; another value compiles nothing.
    max_iter : int, default=200
        Epochs at most.
    early_stopping : bool, default=False
        Hold `validation_fraction` of the rows out, stop when their loss no longer falls, and keep the best weights.
        False: stop when the training loss no longer falls.
    validation_fraction : float, default=0.1
    n_iter_no_change : int, default=10
        Epochs without a fall of the loss by `tol` that end the fit.
    tol : float, default=1e-4
        As a fraction of the first epoch's loss.
    standardize : bool, default=True
        Shift and scale each channel of X inside, so that units do not matter.
    random_state : int, RandomState or None, default=None
        Of the weights at the start, the order of the rows, dropout and the rows held out.
    verbose : bool, default=False
        Show a progress bar.

    Attributes
    ----------
    classes_, weights_, training_, loss_curve_, validation_curve_, n_iter_, certificates_
        As in `MLPClassifier`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 200)
    >>> X = np.sin(np.linspace(0, 6, 20) * (1 + y[:, None])) + 0.1 * rng.standard_normal((200, 20))
    >>> model = SequenceClassifier(8, cell="gru", learning_rate=3e-2, tol=1e-2, random_state=0)
    >>> model.fit(X, y).score(X, y) > 0.95
    True
    """

    _settings: ClassVar[dict[str, validation.Check]] = SETTINGS

    def __init__(
        self,
        hidden_size: Any = 32,
        *,
        n_channels: Any = 1,
        depth: Any = 1,
        cell: Any = "lstm",
        bidirectional: Any = False,
        pool: Any = "last",
        dropout: Any = 0.0,
        class_weight: Any = None,
        alpha: Any = 1e-4,
        batch_size: Any = 128,
        optimizer: Any = "adam",
        learning_rate: Any = 1e-3,
        max_iter: Any = 200,
        early_stopping: Any = False,
        validation_fraction: Any = 0.1,
        n_iter_no_change: Any = 10,
        tol: Any = 1e-4,
        standardize: Any = True,
        random_state: Any = None,
        verbose: Any = False,
    ):
        self.hidden_size = hidden_size
        self.n_channels = n_channels
        self.depth = depth
        self.cell = cell
        self.bidirectional = bidirectional
        self.pool = pool
        self.dropout = dropout
        self.class_weight = class_weight
        self.alpha = alpha
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.standardize = standardize
        self.random_state = random_state
        self.verbose = verbose

    def _build(self, key: Any) -> tuple[Any, Any]:
        return _recurrent(self, key)

    def _channels(self) -> int:
        return int(self.n_channels)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


class SequenceForecaster(NetworkRegressor):
    """Predict what follows a window of a series: one number, or several at once.

    `windows` cuts a series into rows X and targets y. Inputs and targets are standardised inside.

    Parameters
    ----------
    hidden_size : int, default=32
        Length of the state.
    n_channels : int, default=1
        Numbers per time: a row of X is ``length * n_channels`` of them, time after time. X may come as (n_samples,
        length, n_channels), too.
    depth : int, default=1
        Layers of the recurrent stack.
    cell : {"lstm", "gru", "elman"}, default="lstm"
    bidirectional : bool, default=False
        Read the sequence both ways.
    pool : {"last", "mean"}, default="last"
        What the head sees: the last state, or the mean of the outputs.
    dropout : float, default=0.0
        Between the layers and before the head; another value is compiled anew.
    alpha : float, default=1e-4
        Weight of the L2 penalty, (alpha/2)‖W‖² per example of the batch, as scikit-learn has it.
    batch_size : int, default=128
        Rows a step; all rows where there are fewer.
    optimizer : {"adam", "adamw", "nadam", "lion", "sgd"}, default="adam"
        Of Optax.
    learning_rate : float, default=1e-3
        Constant; another value compiles nothing.
    max_iter : int, default=200
        Epochs at most.
    early_stopping : bool, default=False
        Hold `validation_fraction` of the rows out, stop when their loss no longer falls, and keep the best weights.
        False: stop when the training loss no longer falls.
    validation_fraction : float, default=0.1
    n_iter_no_change : int, default=10
        Epochs without a fall of the loss by `tol` that end the fit.
    tol : float, default=1e-4
        As a fraction of the first epoch's loss.
    standardize : bool, default=True
        Shift and scale each channel of X inside, so that units do not matter.
    random_state : int, RandomState or None, default=None
        Of the weights at the start, the order of the rows, dropout and the rows held out.
    verbose : bool, default=False
        Show a progress bar.

    Attributes
    ----------
    weights_, training_, loss_curve_, validation_curve_, n_iter_, certificates_
        As in `MLPRegressor`.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = windows(np.sin(np.arange(300) / 5), length=20)
    >>> model = SequenceForecaster(8, cell="gru", learning_rate=3e-2, tol=1e-2, random_state=0)
    >>> model.fit(X, y).score(X, y) > 0.98
    True
    """

    _settings: ClassVar[dict[str, validation.Check]] = SETTINGS

    def __init__(
        self,
        hidden_size: Any = 32,
        *,
        n_channels: Any = 1,
        depth: Any = 1,
        cell: Any = "lstm",
        bidirectional: Any = False,
        pool: Any = "last",
        dropout: Any = 0.0,
        alpha: Any = 1e-4,
        batch_size: Any = 128,
        optimizer: Any = "adam",
        learning_rate: Any = 1e-3,
        max_iter: Any = 200,
        early_stopping: Any = False,
        validation_fraction: Any = 0.1,
        n_iter_no_change: Any = 10,
        tol: Any = 1e-4,
        standardize: Any = True,
        random_state: Any = None,
        verbose: Any = False,
    ):
        self.hidden_size = hidden_size
        self.n_channels = n_channels
        self.depth = depth
        self.cell = cell
        self.bidirectional = bidirectional
        self.pool = pool
        self.dropout = dropout
        self.alpha = alpha
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.standardize = standardize
        self.random_state = random_state
        self.verbose = verbose

    def forecast(self, window: Any, steps: int) -> np.ndarray:
        """The next `steps` values after one window, each prediction fed back; for series of one channel.

        Raises
        ------
        InputError
            Where the model has several channels, or the window has another length than the fitted ones.
        """
        validation.integer(1)("steps", steps)
        if self.n_channels != 1:
            raise InputError(f"n_channels: found {self.n_channels}, expected 1: other channels' future is not known")
        window = self._new_data(np.asarray(window).reshape(1, -1))[0]
        values: list[Any] = []
        while len(values) < steps:
            new = np.atleast_1d(self.predict(window[None])[0])
            values.extend(new)
            window = np.concatenate([window, new])[-len(window) :].astype(window.dtype)
        return np.asarray(values[:steps], window.dtype)

    def _build(self, key: Any) -> tuple[Any, Any]:
        return _recurrent(self, key)

    def _channels(self) -> int:
        return int(self.n_channels)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def windows(series: Any, length: int, horizon: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """All windows of a series and what follows each.

    Parameters
    ----------
    series
        Shape (t,) or (t, channels).
    length, horizon
        Times in a window; times to predict.

    Returns
    -------
    tuple
        X of shape (t − length − horizon + 1, length · channels), and y: (rows,) for one number to predict, else
        (rows, horizon · channels).

    Raises
    ------
    InputError
        Where the series is shorter than ``length + horizon``.

    Examples
    --------
    >>> X, y = windows([0.0, 1.0, 2.0, 3.0, 4.0], length=2)
    >>> X.tolist(), y.tolist()
    ([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]], [2.0, 3.0, 4.0])
    """
    series = validation.vector_or_matrix("series", series, host=True)
    validation.integer(1)("length", length)
    validation.integer(1)("horizon", horizon)
    if len(series) < length + horizon:
        raise InputError(f"series: found {len(series)} times, expected at least length + horizon = {length + horizon}")
    parts = np.lib.stride_tricks.sliding_window_view(np.asarray(series), length + horizon, axis=0)
    parts = np.moveaxis(parts, -1, 1)  # (rows, time[, channels])
    X, y = parts[:, :length], parts[:, length:]
    y = y.reshape(len(y), -1)
    return X.reshape(len(X), -1).copy(), (y.ravel() if y.shape[1] == 1 else y).copy()


def _recurrent(model: Any, key: Any) -> tuple[Unrolled, None]:
    if model.n_features_in_ % model.n_channels:
        raise InputError(
            f"n_channels: found {model.n_channels}, expected a divisor of the {model.n_features_in_} columns of X"
        )
    network = RecurrentNetwork(
        int(model.n_channels),
        int(model.hidden_size),
        model.n_outputs_,
        int(model.depth),
        cell=model.cell,
        bidirectional=bool(model.bidirectional),
        dropout=float(model.dropout),
        pool=model.pool,
        key=key,
    )
    return Unrolled(network, int(model.n_channels)), None
