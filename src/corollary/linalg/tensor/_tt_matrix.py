"""The tensor-train format of a matrix: one core for each pair of a row mode and a column mode.

A matrix of Π m_k rows and Π n_k columns whose indices are multi-indices, as a chain of small arrays; the discretised
operators of physics (Laplacians, Hamiltonians) have ranks of 2 or 3 there, whatever their size. With all n_k = 1 it
is a tensor train. Physicists call it a matrix product operator.

Source: Oseledets, Tensor-Train Decomposition, SIAM J. Sci. Comput. 33 (2011), §4.3.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx

from corollary.linalg.tensor._formats import TensorTrain


class TensorTrainMatrix(eqx.Module):
    """A matrix as a chain of cores: A[(i_0, …), (j_0, …)] = G_0[:, i_0, j_0, :] G_1[:, i_1, j_1, :] ….

    Parameters
    ----------
    cores
        Arrays (r_k, m_k, n_k, r_{k+1}), rows m and columns n, with r_0 = r_d = 1.

    Examples
    --------
    >>> import numpy as np
    >>> flip = np.array([[0.0, 1.0], [1.0, 0.0]]).reshape(1, 2, 2, 1)
    >>> TensorTrainMatrix((flip, flip)).to_dense()[0].tolist()
    [0.0, 0.0, 0.0, 1.0]
    """

    cores: tuple[Any, ...]

    @property
    def row_modes(self) -> tuple[int, ...]:
        """(m_0, …, m_{d-1})."""
        return tuple(int(c.shape[1]) for c in self.cores)

    @property
    def column_modes(self) -> tuple[int, ...]:
        """(n_0, …, n_{d-1})."""
        return tuple(int(c.shape[2]) for c in self.cores)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the full matrix."""
        return math.prod(self.row_modes), math.prod(self.column_modes)

    @property
    def rank(self) -> tuple[int, ...]:
        """(r_0, …, r_d)."""
        return (*(int(c.shape[0]) for c in self.cores), int(self.cores[-1].shape[3]))

    @property
    def size(self) -> int:
        """Numbers stored, Σ r_k m_k n_k r_{k+1}."""
        return sum(math.prod(c.shape) for c in self.cores)

    def to_dense(self) -> Any:
        """The full matrix (Π m_k, Π n_k); ask for it only where it fits."""
        full = self.cores[0][0]  # (rows so far, columns so far, rank)
        for core in self.cores[1:]:
            r, m, n, s = core.shape
            step = (full.reshape(-1, r) @ core.reshape(r, -1)).reshape(*full.shape[:2], m, n, s)
            full = step.transpose(0, 2, 1, 3, 4).reshape(full.shape[0] * m, full.shape[1] * n, s)
        return full[:, :, 0]

    def adjoint(self) -> TensorTrainMatrix:
        """The conjugate transpose, core by core."""
        return TensorTrainMatrix(tuple(c.conj().transpose(0, 2, 1, 3) for c in self.cores))

    def as_train(self) -> TensorTrain:
        """The tensor train over the joint modes m_k n_k: for its norm, its sums and its rounding."""
        return TensorTrain(tuple(c.reshape(c.shape[0], -1, c.shape[3]) for c in self.cores))

    @classmethod
    def of_train(cls, train: TensorTrain, row_modes: tuple[int, ...]) -> TensorTrainMatrix:
        """The inverse of `as_train`."""
        pairs = zip(train.cores, row_modes, strict=True)
        return cls(tuple(c.reshape(c.shape[0], m, c.shape[1] // m, c.shape[2]) for c, m in pairs))

    def inner(self, other: TensorTrainMatrix) -> Any:
        """tr(selfᴴ other), without forming either."""
        return self.as_train().inner(other.as_train())

    def norm(self) -> Any:
        """Frobenius norm, exact to rounding."""
        return self.as_train().norm()
