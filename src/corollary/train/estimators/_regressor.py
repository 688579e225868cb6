"""What every network regressor shares: targets standardised inside, one output or several, `partial_fit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin

from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.train.estimators._base import NetworkEstimator, regression_loss
from corollary.train.estimators._standard import standard


class NetworkRegressor(RegressorMixin, NetworkEstimator):
    """What the regressors share: targets standardised inside, one output or several, `partial_fit`."""

    target_mean_: np.ndarray
    target_scale_: np.ndarray

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fit to X of shape (n_samples, n_features) and y of shape (n_samples,) or (n_samples, n_outputs)."""
        with self._fitting():
            X, y, weight = self._training_data(X, y, sample_weight, multi_output=True)
            self._first(X, y, weight, None)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """One more epoch over these rows, in the units of the first call."""
        with self._fitting():
            if not hasattr(self, "weights_"):
                X, y, weight = self._training_data(X, y, sample_weight, multi_output=True)
                self._first(X, y, weight, 1)
                return self
            X, y, weight = self._training_data(X, y, sample_weight, multi_output=True, reset=False)
            if y.reshape(len(y), -1).shape[1] != self.n_outputs_:
                raise InputError(f"y: found shape {y.shape}, expected {self.n_outputs_} outputs as in the first call")
            self._train(X, self._target(y), weight, epochs=1, go_on=True)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predictions of shape (n,) or (n, n_outputs)."""
        X = self._new_data(X)
        Z = (self._outputs(X) * self.target_scale_ + self.target_mean_).astype(X.dtype)
        return Z.ravel() if self.single_output_ else Z

    def _first(self, X: Any, y: Any, weight: Any, epochs: int | None) -> None:
        Y = y.reshape(len(y), -1)
        rows = np.ones(len(Y), Y.dtype) if weight is None else np.asarray(weight, Y.dtype)
        if not rows.max() > 0:
            raise InputError("sample_weight: found no positive weight, expected at least one")
        self.target_mean_, self.target_scale_ = standard(Y, rows)
        self.n_outputs_, self.single_output_ = Y.shape[1], y.ndim == 1
        self._train(X, self._target(y), weight, epochs=epochs)

    def _target(self, y: Any) -> np.ndarray:
        return ((y.reshape(len(y), -1) - self.target_mean_) / self.target_scale_).astype(y.dtype)

    def _loss(self) -> Callable[..., Any]:
        return regression_loss

    def _validated(self, held: dict[str, np.ndarray]) -> dict[str, Certificate]:
        """The mean squared error on the rows held out, with its standard error."""
        residual = self._outputs(held["x"], standardized=True) - held["y"]
        each = np.mean((residual * self.target_scale_) ** 2, axis=1)
        stderr = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else float("nan")
        return {
            "validation_error": Certificate(
                "mean squared error on rows held out (they chose the epoch: slightly optimistic)",
                measured=float(each.mean()),
                kind="estimate",
                stderr=stderr,
                source="sample mean",
            )
        }

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
