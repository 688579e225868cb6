"""`TuckerDecomposition`, the estimator over `tucker`: samples are mode 0. Cost: see `tucker`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.randomness import key_from
from corollary.core.validation import Check
from corollary.linalg.tensor._tensor_components import TensorComponents, rank_setting
from corollary.linalg.tensor._tucker import METHODS, tucker
from corollary.linalg.tensor._tucker_modes import expand


class TuckerDecomposition(TensorComponents):
    """Tucker decomposition of samples that are vectors, matrices or tensors.

    Use it as principal components (without centring) of data with several modes: each component is a tensor, the modes
    keep their own few directions, and far fewer numbers are learnt than by flattening. NaN marks missing entries.
    Cost: that of `corollary.linalg.tensor.tucker`.

    Parameters
    ----------
    rank
        One integer for all modes, or one for each, that of the samples (the number of components) first; None in a
        sequence keeps all that a mode has. With neither `rank` nor `tol` everything is kept: the full HOSVD.
    tol
        In place of `rank`: the relative error that is not to be exceeded.
    method
        "hooi", "st-hosvd", "hosvd" or "randomized".
    accuracy, max_iter
        Stopping rule of "hooi"; see `tucker`.
    random_state
        For "randomized".

    Attributes
    ----------
    components_ : (r, n_1, …) orthonormal component tensors, r at most the rank of the samples.
    singular_values_ : (r,) how much of the samples each explains, falling.
    core_ : the core (r_0, r_1, …)
    factors_ : tuple of matrices (n_k, r_k) with orthonormal columns; the first belongs to the samples of `fit`.
    n_components_, n_iter_ : int
    relative_error_ : float, over the observed entries of `fit`.
    certificates_ : those of `tucker`.

    Raises
    ------
    InputError
        For ranks that the data do not allow, both `rank` and `tol`, or missing entries without `rank`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.einsum("i,j,k->ijk", np.arange(1.0, 6.0), [1.0, 2.0, 2.0], [3.0, 4.0])
    >>> model = TuckerDecomposition(rank=1).fit(X)
    >>> model.transform(X).round(6).ravel().tolist(), model.components_.shape
    ([15.0, 30.0, 45.0, 60.0, 75.0], (1, 3, 2))
    """

    _missing = True
    _settings: ClassVar[dict[str, Check]] = {
        "rank": rank_setting,
        "tol": validation.number(0, 1, open_low=True, none=True),
        "method": validation.one_of(*METHODS),
        "accuracy": validation.number(0, open_low=True),
        "max_iter": validation.integer(1),
    }

    core_: np.ndarray
    factors_: tuple[np.ndarray, ...]
    relative_error_: float
    n_iter_: int

    def __init__(
        self,
        rank: Any = None,
        *,
        tol: Any = None,
        method: Any = "hooi",
        accuracy: Any = 1e-5,
        max_iter: Any = 100,
        random_state: Any = None,
    ):
        self.rank = rank
        self.tol = tol
        self.method = method
        self.accuracy = accuracy
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> TuckerDecomposition:
        """Decompose `X` (n, n_1, …), NaN where missing; `y` is ignored."""
        with self._fitting():
            X = self._tensor(X, fit=True)
            rank = self.rank
            if rank is None and self.tol is None:
                if np.isnan(X).any():
                    raise InputError("rank: found None with missing entries, expected ranks")
                rank = [None] * X.ndim
            solution = tucker(
                X,
                rank,
                tol=self.tol,
                method=self.method,
                accuracy=self.accuracy,
                max_steps=self.max_iter,
                key=key_from(self.random_state),
            )
            core, factors = solution.value.core, solution.value.factors
            small = core.reshape(core.shape[0], -1)
            found = self._components(small, lambda V: expand(V.reshape(-1, *core.shape[1:]), [None, *factors[1:]]))
            self._keep(
                solution,
                **found,
                core_=core,
                factors_=tuple(factors),
                relative_error_=float(solution.stats["relative_error"]),
                n_iter_=max(1, int(solution.steps)),
            )
        return self
