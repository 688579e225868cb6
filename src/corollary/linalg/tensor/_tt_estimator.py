"""`TensorTrainDecomposition`, the estimator over `tt_svd`: samples are mode 0. Cost: see `tt_svd`."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import numpy as np

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.validation import Check
from corollary.linalg.tensor._tensor_components import TensorComponents, rank_setting
from corollary.linalg.tensor._tt_svd import tt_svd


class TensorTrainDecomposition(TensorComponents):
    """Tensor train of samples that are vectors, matrices or tensors.

    Use it for samples of many modes, where a Tucker core would be too large: the components share one train. Cost: that
    of `corollary.linalg.tensor.tt_svd`, and the components' size.

    Parameters
    ----------
    rank
        The largest inner rank, or the inner ranks (r_1, …, r_{d-1}); r_1 is the number of components. With neither
        `rank` nor `tol` nothing but rounding is discarded.
    tol
        In place of `rank`: the relative error that is not to be exceeded.

    Attributes
    ----------
    components_ : (r_1, n_1, …) orthonormal component tensors.
    singular_values_ : (r_1,) how much of the samples each explains, falling.
    cores_ : tuple of arrays (r_k, n_k, r_{k+1}); the first belongs to the samples of `fit`.
    n_components_ : int
    relative_error_ : float
    certificates_ : those of `tt_svd`.

    Raises
    ------
    InputError
        For ranks that the data do not allow, both `rank` and `tol`, or missing entries.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.einsum("i,j,k->ijk", np.arange(1.0, 6.0), [1.0, 2.0, 2.0], [3.0, 4.0])
    >>> model = TensorTrainDecomposition(tol=1e-8).fit(X)
    >>> model.transform(X).round(6).ravel().tolist(), model.components_.shape
    ([15.0, 30.0, 45.0, 60.0, 75.0], (1, 3, 2))
    """

    _settings: ClassVar[dict[str, Check]] = {
        "rank": rank_setting,
        "tol": validation.number(0, 1, open_low=True, none=True),
    }

    cores_: tuple[np.ndarray, ...]
    relative_error_: float

    def __init__(self, rank: Any = None, *, tol: Any = None):
        self.rank = rank
        self.tol = tol

    def fit(self, X: Any, y: Any = None) -> TensorTrainDecomposition:
        """Decompose `X` (n, n_1, …); `y` is ignored."""
        with self._fitting():
            X = self._tensor(X, fit=True)
            if self.rank is not None and self.tol is not None:
                raise InputError(f"rank, tol: found rank={self.rank!r} and tol={self.tol!r}, expected one of them")
            whole = self.rank is None and self.tol is None
            solution = tt_svd(X, rank=X.size if whole else self.rank, tol=self.tol)
            cores = tuple(np.asarray(core) for core in solution.value.cores)
            shape = X.shape[1:]
            rest = functools.reduce(
                lambda left, core: left.reshape(-1, core.shape[0]) @ core.reshape(core.shape[0], -1), cores[1:]
            )
            rest = rest.reshape(cores[1].shape[0], -1)
            Q, R = np.linalg.qr(rest.T)  # rest = Rᵀ Qᵀ
            found = self._components(cores[0][0] @ R.T, lambda V: (V @ Q.T).reshape(-1, *shape))
            self._keep(solution, **found, cores_=cores, relative_error_=float(solution.stats["relative_error"]))
        return self
