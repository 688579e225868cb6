"""An autoencoder as a transformer: a nonlinear PCA by reconstruction through a narrow layer.

When: to compress or to embed rows that lie near a curved surface, where PCA needs more components. Cost: O(rows ·
weights) per epoch, and O(n d min(n, d)) once for the comparison with PCA. Source: Hinton & Salakhutdinov (2006); Baldi
& Hornik (1989): with linear layers the best reconstruction is that of PCA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.train.estimators._base import NetworkEstimator, reconstruction_loss
from corollary.train.estimators._mlp import ACTIVATIONS, Perceptron, widths


class Hourglass(eqx.Module):
    """An encoder and its mirrored decoder, on a batch (rows, features)."""

    encoder: Perceptron
    decoder: Perceptron

    def __call__(self, x: Any, state: Any, key: Any, inference: bool) -> tuple[Any, Any]:
        code, state = self.encode(x, state, key, inference)
        return self.decode(code, state, key, inference)

    def encode(self, x: Any, state: Any, key: Any, inference: bool) -> tuple[Any, Any]:
        return self.encoder(x, state, key, inference)

    def decode(self, code: Any, state: Any, key: Any, inference: bool) -> tuple[Any, Any]:
        return self.decoder(code, state, None if key is None else jax.random.fold_in(key, 99), inference)


class Autoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, NetworkEstimator):
    """Learn `n_components` numbers per row from which the row can be rebuilt.

    Use it as you would use PCA, where the data are curved. The certificate says whether it beats PCA on these rows: if
    it does not, take PCA. Cost O(rows · weights) per epoch.

    Parameters
    ----------
    n_components : int, default=2
        Width of the code.
    hidden_layer_sizes : int or tuple of int, default=(64,)
        Widths of the encoder's hidden layers; the decoder mirrors them.
    activation : {"relu", "gelu", "silu", "tanh", "logistic", "identity"}, default="gelu"
    denoise : float, default=0.0
        Standard deviation of Gaussian noise added to the standardised input in training: a denoising autoencoder.
    dropout : float, default=0.0
        Fraction of the hidden units dropped in each training step; another value is compiled anew.
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
        Shift and scale the columns of X inside: a network trains badly otherwise, and units do not matter then.
    random_state : int, RandomState or None, default=None
        Of the weights at the start, the order of the rows, dropout and the rows held out.
    verbose : bool, default=False
        Show a progress bar.

    Attributes
    ----------
    weights_, training_, loss_curve_, validation_curve_, n_iter_
        As in `MLPClassifier`.
    reconstruction_error_ : float
        Mean squared error over rows and columns, in units of the columns' variances.
    certificates_ : dict
        ``finite`` (monitor), ``gradient_norm`` (estimate) and ``beats_pca`` (monitor): the reconstruction error against
        the one of PCA with as many components, the least of any linear autoencoder.

    Examples
    --------
    >>> import numpy as np
    >>> t = np.linspace(-1, 1, 256)
    >>> X = np.column_stack([t, t**2, np.sin(3 * t)])
    >>> model = Autoencoder(1, 32, learning_rate=1e-2, tol=1e-3, max_iter=400, random_state=0).fit(X)
    >>> model.transform(X).shape, bool(model.certificates_["beats_pca"].holds)
    ((256, 1), True)
    """

    _settings: ClassVar[dict[str, validation.Check]] = {
        **NetworkEstimator._common,
        "n_components": validation.integer(1),
        "hidden_layer_sizes": widths,
        "activation": validation.one_of(*ACTIVATIONS),
        "denoise": validation.number(0),
        "dropout": validation.number(0, 0.95),
    }

    def __init__(
        self,
        n_components: Any = 2,
        hidden_layer_sizes: Any = (64,),
        *,
        activation: Any = "gelu",
        denoise: Any = 0.0,
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
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.denoise = denoise
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

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Autoencoder:
        """Fit to X of shape (n_samples, n_features); y is ignored."""
        with self._fitting():
            X, weight = self._rows(X, sample_weight, reset=True)
            self._train(X, None, weight)
            self._against_pca(X, weight)
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Autoencoder:
        """One more epoch over these rows, in the units of the first call."""
        first = not hasattr(self, "weights_")
        with self._fitting():
            X, weight = self._rows(X, sample_weight, reset=first)
            self._train(X, None, weight, epochs=1, go_on=not first)
            self._against_pca(X, weight)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Codes of shape (n, n_components)."""
        return self._outputs(self._new_data(X), part="encode")

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Rows rebuilt from codes of shape (n, n_components)."""
        check_is_fitted(self)
        codes = validation.matrix("X", X, host=True)
        if codes.shape[1] != self.n_components:
            raise InputError(f"X: found {codes.shape[1]} columns, expected {self.n_components} as n_components")
        return self._original(self._outputs(codes, standardized=True, part="decode"))

    def reconstruct(self, X: Any) -> np.ndarray:
        """Every row through the narrow layer and back: shape (n, n_features)."""
        return self._original(self._outputs(self._new_data(X)))

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the mean squared reconstruction error, in units of the training columns' variances."""
        X = self._new_data(X)
        return -float(np.mean((self._outputs(X) - self._standardized(X)) ** 2))

    def _original(self, Z: np.ndarray) -> np.ndarray:
        return (Z * self.scale_ + self.mean_).astype(Z.dtype)

    def _rows(self, X: Any, sample_weight: Any, reset: bool) -> tuple[np.ndarray, Any]:
        X = self._training_data(X, reset=reset)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)
        return X, sample_weight

    def _against_pca(self, X: np.ndarray, weight: Any) -> None:
        """The reconstruction error of these rows, against the least of any linear map of as many components."""
        w = np.ones(len(X)) if weight is None else np.asarray(weight / np.max(weight), np.float64)
        w, Z = w / w.sum(), self._standardized(X)
        each = np.mean((self._outputs(Z, standardized=True) - Z) ** 2, axis=1, dtype=np.float64)
        self.reconstruction_error_ = float(w @ each)
        centred = (np.sqrt(w)[:, None] * (Z - w @ Z)).astype(np.float64)
        gram = centred.T @ centred if Z.shape[1] <= len(Z) else centred @ centred.T
        spectrum = np.linalg.eigvalsh(gram)[::-1]
        linear = float(np.maximum(spectrum[self.n_components :], 0).sum() / Z.shape[1])
        rounding = 64 * float(np.finfo(Z.dtype).eps) * float(np.trace(gram)) / Z.shape[1]
        self.certificates_["beats_pca"] = Certificate(
            "mean squared reconstruction error <= that of PCA with as many components",
            measured=self.reconstruction_error_,
            bound=linear + rounding,
            kind="monitor",
            source="Eckart & Young (1936): no affine map of that rank does better than PCA",
        )

    def _build(self, key: Any) -> tuple[Hourglass, None]:
        hidden = widths("hidden_layer_sizes", self.hidden_layer_sizes)
        one, two = jax.random.split(key)
        sizes = (self.n_features_in_, *hidden, int(self.n_components))
        encoder = Perceptron(sizes, self.activation, self.dropout, one)
        return Hourglass(encoder, Perceptron(sizes[::-1], self.activation, self.dropout, two)), None

    def _loss(self) -> Callable[..., Any]:
        return reconstruction_loss

    def _loss_settings(self) -> dict[str, Any]:
        return {"denoise": self.denoise}

    @property
    def _n_features_out(self) -> int:
        return int(self.n_components)
