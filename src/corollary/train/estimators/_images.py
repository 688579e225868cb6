"""Convolutional networks as estimators: `ConvNetClassifier` and `ResNetClassifier`.

When: images. The plain network for small ones (digits) and short budgets, the residual one beyond. Cost: that of the
convolutions, O(places · kernel² · C_in · C_out) per image and layer. Source: see `corollary.nn.ConvNet`, `ResNet`.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from sklearn.utils.validation import check_is_fitted

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.nn._cnn_classifier import ConvNet
from corollary.nn._resnet import ResNet
from corollary.train.estimators._base import NetworkEstimator
from corollary.train.estimators._classifier import NetworkClassifier
from corollary.train.estimators._mlp import widths


def shape_of_images(name: str, value: Any) -> tuple[int, int, int] | None:
    """(height, width, channels), or None; an error names the setting."""
    if value is None:
        return None
    sizes = widths(name, value)
    if len(sizes) not in (2, 3):
        raise InputError(f"{name}: found {value!r}, expected (height, width) or (height, width, channels)")
    return (*sizes, 1) if len(sizes) == 2 else sizes  # type: ignore[return-value]


class Pictured(eqx.Module):
    """An image network on rows that hold an image: with `stateful`, one of running statistics."""

    network: Any
    shape: tuple[int, int, int] = eqx.field(static=True)
    stateful: bool = eqx.field(static=True)

    def __call__(self, x: Any, state: Any, key: Any, inference: bool) -> tuple[Any, Any]:
        places = math.prod(self.shape)
        images = jnp.pad(x, ((0, 0), (0, places - x.shape[1]))).reshape(len(x), *self.shape)
        if self.stateful:
            return self.network(images, state, key=key, inference=inference)
        return self.network(images, key=key, inference=inference), state


class ImageClassifier(NetworkClassifier):
    """What the image classifiers share: rows and arrays of images."""

    image_shape: Any
    image_shape_: tuple[int, int, int]

    def _training_data(self, X: Any, *args: Any, reset: bool = True, **checks: Any) -> Any:
        found = self._found(X)
        if not reset:
            self._require(found)
        data = super()._training_data(X, *args, reset=reset, **checks)
        if reset:
            self.image_shape_ = self._shape(self.n_features_in_, found)
        return data

    def _new_data(self, X: Any, **checks: Any) -> Any:
        check_is_fitted(self)
        self._require(self._found(X))
        return super()._new_data(X, **checks)

    def _flat(self, X: Any) -> Any:
        return X if self._found(X) is None else np.asarray(X).reshape(len(X), -1)

    def _found(self, X: Any) -> tuple[int, ...] | None:
        """The shape of each image, where X is an array of images."""
        shape = getattr(X, "shape", ())
        if len(shape) not in (3, 4) or 0 in shape:
            return None
        return tuple(int(n) for n in (*shape[1:], 1)[:3])

    def _require(self, found: tuple[int, ...] | None) -> None:
        if found is not None and found != self.image_shape_:
            raise InputError(f"X: found images of shape {found}, expected {self.image_shape_}")

    def _shape(self, columns: int, found: tuple[int, ...] | None) -> tuple[int, int, int]:
        """The shape set, else that of the array given, else a square."""
        shape: Any = shape_of_images("image_shape", self.image_shape)
        if shape is not None and found is not None and found != shape:
            raise InputError(f"X: found images of shape {found}, expected {shape} as image_shape says")
        shape = found if shape is None else shape
        if shape is None:
            side = max(math.isqrt(columns - 1) + 1, self._least())
            shape = (side, side, 1)
        elif math.prod(shape) != columns:
            raise InputError(f"image_shape: found {shape}, expected a product of {columns}, the columns of X")
        if min(shape[:2]) < self._least():
            raise InputError(f"image_shape: found {shape}, expected at least {self._least()} pixels for the poolings")
        return shape

    def _least(self) -> int:
        return 1

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _channels(self) -> int | None:
        shape = getattr(self, "image_shape_", None)
        return None if shape is None or self.n_features_in_ != math.prod(shape) else shape[2]


class ConvNetClassifier(ImageClassifier):
    """Classify images by convolutions, rectifiers and poolings, then dense layers.

    Parameters
    ----------
    image_shape : (height, width) or (height, width, channels), default=None
        How a row of X becomes an image. X may come as (n_samples, height, width[, channels]), too: that is the shape
        then. None with flat rows: the smallest square that holds the columns, empty places zero.
    channels : tuple of int, default=(32, 64)
        Output channels of the convolutions, each followed by 2×2 pooling.
    hidden_layer_sizes : tuple of int, default=()
        Widths of dense layers before the last.
    kernel_size : int, default=3
    dropout : float, default=0.0
        Before the last layer; another value is compiled anew.
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
    max_iter : int, default=50
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
    image_shape_ : tuple of int
    classes_, weights_, training_, loss_curve_, validation_curve_, n_iter_, certificates_
        As in `MLPClassifier`.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> digits = load_digits()
    >>> X, y = digits.images[:400], digits.target[:400]
    >>> model = ConvNetClassifier(channels=(8,), learning_rate=1e-2, tol=2e-2, random_state=0).fit(X, y)
    >>> model.score(X, y) > 0.95, model.image_shape_
    (True, (8, 8, 1))
    """

    _settings: ClassVar[dict[str, validation.Check]] = {
        **NetworkEstimator._common,
        "image_shape": shape_of_images,
        "channels": widths,
        "hidden_layer_sizes": widths,
        "kernel_size": validation.integer(1),
        "dropout": validation.number(0, 0.95),
    }

    def __init__(
        self,
        *,
        image_shape: Any = None,
        channels: Any = (32, 64),
        hidden_layer_sizes: Any = (),
        kernel_size: Any = 3,
        dropout: Any = 0.0,
        class_weight: Any = None,
        alpha: Any = 1e-4,
        batch_size: Any = 128,
        optimizer: Any = "adam",
        learning_rate: Any = 1e-3,
        max_iter: Any = 50,
        early_stopping: Any = False,
        validation_fraction: Any = 0.1,
        n_iter_no_change: Any = 10,
        tol: Any = 1e-4,
        standardize: Any = True,
        random_state: Any = None,
        verbose: Any = False,
    ):
        self.image_shape = image_shape
        self.channels = channels
        self.hidden_layer_sizes = hidden_layer_sizes
        self.kernel_size = kernel_size
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

    def _least(self) -> int:
        return 2 ** len(widths("channels", self.channels))

    def _build(self, key: Any) -> tuple[Any, Any]:
        network = ConvNet(
            self.image_shape_,
            self.n_outputs_,
            widths("channels", self.channels),
            kernel_size=int(self.kernel_size),
            hidden=widths("hidden_layer_sizes", self.hidden_layer_sizes),
            dropout=float(self.dropout),
            key=key,
        )
        return Pictured(network, self.image_shape_, False), None


class ResNetClassifier(ImageClassifier):
    """Classify images by a residual network with batch normalisation.

    Parameters
    ----------
    image_shape : (height, width) or (height, width, channels), default=None
        How a row of X becomes an image. X may come as (n_samples, height, width[, channels]), too: that is the shape
        then. None with flat rows: the smallest square that holds the columns, empty places zero.
    depth : int or tuple of int, default=18
        18, 34, 50, 101 or 152, or the number of blocks of each stage.
    width : int, default=64
        Channels of the first stage; they double at every stage.
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
    max_iter : int, default=50
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
    image_shape_ : tuple of int
    classes_, weights_, training_, loss_curve_, validation_curve_, n_iter_, certificates_
        As in `MLPClassifier`.

    Notes
    -----
    Images below 64 pixels get a 3×3 stem without pooling, larger ones the 7×7 stem of ImageNet. Batch normalisation
    takes each row of a batch once: a row of weight 2 is not quite a row that is there twice.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> digits = load_digits()
    >>> X, y = digits.images[:300], digits.target[:300]
    >>> model = ResNetClassifier(depth=(1, 1), width=4, learning_rate=2e-2, tol=5e-2, random_state=0).fit(X, y)
    >>> model.score(X, y) > 0.9
    True
    """

    _settings: ClassVar[dict[str, validation.Check]] = {
        **NetworkEstimator._common,
        "image_shape": shape_of_images,
        "depth": validation.either(validation.one_of(18, 34, 50, 101, 152), widths),
        "width": validation.integer(1),
    }

    def __init__(
        self,
        *,
        image_shape: Any = None,
        depth: Any = 18,
        width: Any = 64,
        class_weight: Any = None,
        alpha: Any = 1e-4,
        batch_size: Any = 128,
        optimizer: Any = "adam",
        learning_rate: Any = 1e-3,
        max_iter: Any = 50,
        early_stopping: Any = False,
        validation_fraction: Any = 0.1,
        n_iter_no_change: Any = 10,
        tol: Any = 1e-4,
        standardize: Any = True,
        random_state: Any = None,
        verbose: Any = False,
    ):
        self.image_shape = image_shape
        self.depth = depth
        self.width = width
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
        depth = self.depth if isinstance(self.depth, int) else widths("depth", self.depth)
        stem = "imagenet" if min(self.image_shape_[:2]) >= 64 else "cifar"
        network, state = eqx.nn.make_with_state(ResNet)(
            depth, self.n_outputs_, in_channels=self.image_shape_[2], width=int(self.width), stem=stem, key=key
        )
        return Pictured(network, self.image_shape_, True), state
