"""What every network classifier shares: classes, weights, probabilities, `partial_fit`, a bound on the error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets

from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.tail_bounds import hoeffding_radius
from corollary.train.estimators._base import NetworkEstimator, classification_loss


class NetworkClassifier(ClassifierMixin, NetworkEstimator):
    """What the classifiers share: classes, class weights, probabilities, `partial_fit`, the bound on the error."""

    class_weight: Any
    classes_: np.ndarray

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fit to X of shape (n_samples, n_features) and labels y of any type."""
        with self._fitting():
            X, y, weight = self._training_data(X, y, sample_weight)
            check_classification_targets(y)
            self.classes_, labels = np.unique(y, return_inverse=True)
            if len(self.classes_) < 2:
                raise InputError("y: found 1 class, expected 2 or more (with 1 class there is nothing to fit)")
            self.n_outputs_ = len(self.classes_)
            weight = self._weighted(y, labels, weight, X.dtype)
            self._train(X, labels.astype(np.int32), weight)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Any:
        """One more epoch over these rows; the first call needs all `classes` (or y must hold them)."""
        if not hasattr(self, "weights_"):
            with self._fitting():
                X, y, weight = self._training_data(X, y, sample_weight)
                check_classification_targets(y)
                self.classes_ = np.unique(y if classes is None else classes)
                self.n_outputs_ = len(self.classes_)
                labels = self._labels(y)
                if len(self.classes_) < 2:
                    raise InputError("classes: found 1 class, expected 2 or more")
                self._train(X, labels, self._weighted(y, labels, weight, X.dtype), epochs=1)
            return self
        with self._fitting():
            if classes is not None and not np.array_equal(np.unique(classes), self.classes_):
                raise InputError(f"classes: found {classes!r}, expected those of the first call: {self.classes_!r}")
            X, y, weight = self._training_data(X, y, sample_weight, reset=False)
            labels = self._labels(y)
            self._train(X, labels, self._weighted(y, labels, weight, X.dtype), epochs=1, go_on=True)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Log-odds of ``classes_[1]``, shape (n,), or the logits (n, n_classes)."""
        logits = self._outputs(self._new_data(X))
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of every row."""
        logits = self._outputs(self._new_data(X))
        return self.classes_[logits.argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of shape (n, n_classes)."""
        return scipy.special.softmax(self._outputs(self._new_data(X)), axis=1)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of the probabilities, finite where the probabilities underflow."""
        return scipy.special.log_softmax(self._outputs(self._new_data(X)), axis=1)

    def _labels(self, y: Any) -> np.ndarray:
        if unknown := sorted(set(np.unique(y).tolist()) - set(self.classes_.tolist())):
            raise InputError(f"y: found classes {unknown} that are not in classes={self.classes_.tolist()}")
        return np.searchsorted(self.classes_, y).astype(np.int32)

    def _weighted(self, y: Any, labels: Any, weight: Any, dtype: Any) -> Any:
        if self.class_weight is None:
            return weight
        counts = np.bincount(labels, weight, len(self.classes_)) > 0  # a part of the rows need not hold all classes
        seen = counts[labels]
        per_class = np.zeros(len(counts), dtype)
        per_class[counts] = compute_class_weight(
            self.class_weight,
            classes=self.classes_[counts],
            y=np.asarray(y)[seen],
            sample_weight=None if weight is None else weight[seen],
        )
        return (1 if weight is None else weight) * per_class[labels]

    def _loss(self) -> Callable[..., Any]:
        return classification_loss

    def _validated(self, held: dict[str, np.ndarray]) -> dict[str, Certificate]:
        """Hoeffding's bound on the error of the kept model, over all the models that the validation chose from."""
        wrong = float(np.mean(self._outputs(held["x"], standardized=True).argmax(axis=1) != held["y"]))
        looks, confidence = max(1, len(self.validation_curve_)), 0.95
        # Each of the models looked at is within its radius with probability 1 − δ/looks, hence the chosen one too.
        radius = float(hoeffding_radius(len(held["y"]), 0.25, (1 - confidence) / looks))
        return {
            "generalization": Certificate(
                "error rate on new rows <= bound; measured: on the rows held out",
                measured=wrong,
                bound=min(1.0, wrong + radius),
                kind="probabilistic",
                confidence=confidence,
                source=f"Hoeffding (1963), thm 2, with a union bound over {looks} validations",
            )
        }
