"""The estimator base: scikit-learn's contract over this library's functions, with certificates beside the answer.

A leaf declares its settings' checks, validates, calls the function of its room, and stores attributes::

    class Shrink(RegressorMixin, Estimator):
        _settings = {"alpha": validation.number(0)}

        def __init__(self, alpha=1.0):
            self.alpha = alpha

        def fit(self, X, y, sample_weight=None):
            with self._fitting():
                X, y, w = self._training_data(X, y, sample_weight)
                self._keep(shrink(X, y, self.alpha), coef_=...)
            return self
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from corollary.core import precision
from corollary.core.certificate import Certificate
from corollary.core.errors import CertificateWarning
from corollary.core.solution import Solution, Status
from corollary.core.validation import Check


class Estimator(BaseEstimator):
    """Base of every estimator: settings checked, precision kept, certificates stored, failures leave no trace.

    Attributes
    ----------
    certificates_ : dict[str, Certificate]
        After `fit`: what is claimed of the fit, what was measured, whether it holds.
    """

    _settings: ClassVar[dict[str, Check]] = {}
    certificates_: dict[str, Certificate]

    @contextlib.contextmanager
    def _fitting(self) -> Iterator[None]:
        """Check settings, let float64 through, undo every change on failure, warn of what does not hold."""
        before = vars(self).copy()
        for name, check in self._settings.items():
            check(name, getattr(self, name))
        try:
            with precision.float64():
                yield
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise
        self._warn()

    def _training_data(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        sparse: bool = False,
        multi_output: bool = False,
        **checks: Any,
    ) -> Any:
        """Validated (X, y, sample_weight) in the precision that came in; X alone where the model takes no y."""
        checks = {"accept_sparse": "csr" if sparse else False, "dtype": [np.float64, np.float32], **checks}
        if y is None and not self.__sklearn_tags__().target_tags.required:
            return validate_data(self, X, **checks)
        target: Any = y  # None too: scikit-learn then says that y is required
        X, y = validate_data(self, X, target, multi_output=multi_output, y_numeric=_is_regressor(self), **checks)
        if _is_regressor(self):
            y = np.asarray(y, dtype=X.dtype)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)
        return X, y, sample_weight

    def _new_data(self, X: Any, *, sparse: bool = False, **checks: Any) -> Any:
        """Validated X for a fitted model: same features, in the precision that comes in."""
        check_is_fitted(self)
        checks = {"accept_sparse": "csr" if sparse else False, "dtype": [np.float64, np.float32], **checks}
        return validate_data(self, X, reset=False, **checks)

    def _keep(self, solution: Solution | None = None, **attributes: Any) -> None:
        """Store learnt attributes as NumPy arrays, with the solution's certificates, status and history."""
        if solution is not None:
            self.solution_: Solution = precision.to_numpy(solution)
            self.certificates_ = dict(self.solution_.certificates)
        for name, value in precision.to_numpy(attributes).items():
            setattr(self, name, value)

    def _warn(self) -> None:
        failed = [f"{name}: {c.explain()}" for name, c in self.certificates_.items() if not np.all(c.holds)]
        solution = getattr(self, "solution_", None)
        if solution is not None and not np.all(solution.converged | (solution.status == Status.COMPLETED)):
            failed.insert(0, Status.text(solution.status))
        if failed:
            message = f"{type(self).__name__}: " + " | ".join(failed)
            warnings.warn(message, CertificateWarning, stacklevel=4)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``model.safetensors`` and ``model.json`` into `folder`; `corollary.load` reads them back."""
        from corollary.core import model_file

        model_file.save(self, folder)


def _is_regressor(estimator: BaseEstimator) -> bool:
    return estimator.__sklearn_tags__().estimator_type == "regressor"
