"""The compressed formats: CP, Tucker, tensor train and tensor ring, each a pytree that knows its size and its norm.

A format holds small arrays in place of one with n^d entries; `norm` and `inner` never form it. Formats are pytrees, so
they cross `jit`, `vmap` and `grad`. Cost: norms and inner products O(d n r²) for CP, O(d n r³) for trains.

Source: Kolda & Bader, SIAM Review 51 (2009), §3-4; Oseledets, Tensor-Train Decomposition, SISC 33 (2011).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input
from corollary.linalg.tensor._basics import apply_modes, checked_factors
from corollary.linalg.tensor._tt_cores import checked_cores, module, multiplied, scaled, summed


class CP(eqx.Module):
    """A sum of r outer products: T[i_0, …] = Σ_r w_r A_0[i_0, r] A_1[i_1, r] ….

    Parameters
    ----------
    weights
        (r,).
    factors
        Matrices (n_k, r).

    Examples
    --------
    >>> import numpy as np
    >>> t = CP(np.array([2.0]), (np.array([[1.0], [2.0]]), np.array([[1.0], [3.0]])))
    >>> t.to_dense().tolist(), round(float(t.norm()), 3)
    ([[2.0, 6.0], [4.0, 12.0]], 14.142)
    """

    weights: Any
    factors: tuple[Any, ...]

    @classmethod
    @follows_input
    def of(cls, factors: Sequence[Any], weights: Any = None) -> CP:
        """From factor matrices, checked; all weights one where none are given."""
        checked = checked_factors(factors)
        if weights is None:
            weights = jnp.ones(checked[0].shape[1], checked[0].dtype)
        weights = validation.tensor("weights", weights, complex=True)
        if weights.shape != (checked[0].shape[1],):
            raise InputError(f"weights: found shape {weights.shape}, expected ({checked[0].shape[1]},) as the factors")
        weights, *rest = common_float(weights, *checked)
        return cls(weights, tuple(rest))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the full tensor."""
        return tuple(int(f.shape[0]) for f in self.factors)

    @property
    def rank(self) -> int:
        """How many outer products."""
        return int(self.weights.shape[0])

    @property
    def size(self) -> int:
        """Numbers stored."""
        return self.rank * (1 + sum(self.shape))

    def to_dense(self) -> Any:
        """The full tensor; ask for it only where it fits."""
        head = self.factors[0] * self.weights
        for factor in self.factors[1:-1]:
            head = (head[:, None, :] * factor[None, :, :]).reshape(-1, self.rank)
        full = head @ self.factors[-1].T if len(self.factors) > 1 else head.sum(axis=1)
        return full.reshape(self.shape)

    def entries(self, indices: Any) -> Any:
        """The values at (m, d) integer indices, in O(m d r)."""
        columns = [f[indices[:, k]] for k, f in enumerate(self.factors)]
        return functools.reduce(lambda a, b: a * b, columns) @ self.weights

    def inner(self, other: CP) -> Any:
        """⟨self, other⟩ = Σ conj(self) · other, from r × s Gram matrices."""
        grams = [a.conj().T @ b for a, b in zip(self.factors, other.factors, strict=True)]
        return self.weights.conj() @ (functools.reduce(lambda a, b: a * b, grams) @ other.weights)

    def norm(self) -> Any:
        """Frobenius norm; where outer products cancel it is known to √eps of their sizes only."""
        xp = module(self.weights)
        return xp.sqrt(xp.maximum(self.inner(self).real, 0))

    def normalised(self) -> CP:
        """The same tensor with unit columns, weights not negative and falling; the sign goes into the first factor."""
        xp = module(self.weights)
        norms = [xp.linalg.norm(f, axis=0) for f in self.factors]
        safe = [xp.where(n > 0, n, xp.ones_like(n)) for n in norms]
        weights, sizes = self.weights, abs(self.weights)
        size = functools.reduce(lambda a, b: a * b, norms) * sizes
        phase = xp.where(sizes > 0, weights / xp.where(sizes > 0, sizes, 1).astype(weights.dtype), 1)
        order = xp.argsort(-size)
        factors = [f / n.astype(f.dtype) for f, n in zip(self.factors, safe, strict=True)]
        factors[0] = factors[0] * phase.astype(factors[0].dtype)
        return CP(size[order].astype(self.weights.dtype), tuple(f[:, order] for f in factors))


class Tucker(eqx.Module):
    """A small core multiplied by a matrix in every mode: T = G ×_0 U_0 ×_1 U_1 ….

    Parameters
    ----------
    core
        (r_0, …, r_{d-1}).
    factors
        Matrices (n_k, r_k); the decompositions here make their columns orthonormal.

    Examples
    --------
    >>> import numpy as np
    >>> t = Tucker(np.ones((1, 1)), (np.array([[1.0], [2.0]]), np.array([[1.0], [3.0]])))
    >>> t.to_dense().tolist()
    [[1.0, 3.0], [2.0, 6.0]]
    """

    core: Any
    factors: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the full tensor."""
        return tuple(int(f.shape[0]) for f in self.factors)

    @property
    def rank(self) -> tuple[int, ...]:
        """The core's shape."""
        return tuple(int(r) for r in self.core.shape)

    @property
    def size(self) -> int:
        """Numbers stored."""
        return math.prod(self.rank) + sum(n * r for n, r in zip(self.shape, self.rank, strict=True))

    def to_dense(self) -> Any:
        """The full tensor; ask for it only where it fits."""
        return apply_modes(self.core, self.factors)

    def inner(self, other: Tucker) -> Any:
        """⟨self, other⟩ without forming either."""
        xp = module(self.core)
        crossed = apply_modes(other.core, [a.conj().T @ b for a, b in zip(self.factors, other.factors, strict=True)])
        return xp.vdot(self.core, crossed)

    def norm(self) -> Any:
        """Frobenius norm, through the triangles of the factors: exact to rounding whatever the factors are."""
        xp = module(self.core)
        return xp.linalg.norm(apply_modes(self.core, [xp.linalg.qr(f, mode="r") for f in self.factors]).ravel())


class AbstractChain(eqx.Module):
    """What trains and rings share: cores (r_k, n_k, r_{k+1})."""

    cores: eqx.AbstractVar[tuple[Any, ...]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the full tensor."""
        return tuple(int(c.shape[1]) for c in self.cores)

    @property
    def rank(self) -> tuple[int, ...]:
        """(r_0, …, r_d)."""
        return (*(int(c.shape[0]) for c in self.cores), int(self.cores[-1].shape[2]))

    @property
    def size(self) -> int:
        """Numbers stored, Σ r_k n_k r_{k+1}."""
        return sum(math.prod(c.shape) for c in self.cores)


class TensorTrain(AbstractChain):
    """A chain of cores: T[i_0, …] = G_0[:, i_0, :] G_1[:, i_1, :] …, the first and last rank being one.

    `+` and `-` add ranks, `*` multiplies them (the entrywise product) or scales by a number; `tt_round` brings them
    down again.

    Parameters
    ----------
    cores
        Arrays (r_k, n_k, r_{k+1}) with r_0 = r_d = 1.

    Examples
    --------
    >>> import numpy as np
    >>> t = TensorTrain((np.array([[[1.0], [2.0]]]), np.array([[[1.0], [3.0]]])))
    >>> t.to_dense().tolist(), t.rank
    ([[1.0, 3.0], [2.0, 6.0]], (1, 1, 1))
    >>> (2 * t - t * t).to_dense().tolist()
    [[1.0, -3.0], [0.0, -24.0]]
    """

    __array_ufunc__ = None  # an array times a train is the train's to refuse, not an array of trains

    cores: tuple[Any, ...]

    @classmethod
    def of(cls, cores: Sequence[Any]) -> TensorTrain:
        """From cores, checked: finite, ranks that fit, one at both ends."""
        return cls(checked_cores("cores", cores))

    def __add__(self, other: TensorTrain) -> TensorTrain:
        """The sum; ranks add."""
        return TensorTrain(summed(self.cores, self._like(other)))

    def __sub__(self, other: TensorTrain) -> TensorTrain:
        """The difference; ranks add."""
        return TensorTrain(summed(self.cores, self._like(other), -1))

    def __mul__(self, other: Any) -> TensorTrain:
        """The entrywise (Hadamard) product, whose ranks multiply; or a number times the train."""
        if isinstance(other, TensorTrain):
            return TensorTrain(multiplied(self.cores, self._like(other)))
        return TensorTrain(scaled(self.cores, other))

    __rmul__ = __mul__

    def __neg__(self) -> TensorTrain:
        """Minus the train."""
        return TensorTrain(scaled(self.cores, -1))

    def _like(self, other: TensorTrain) -> tuple[Any, ...]:
        if self.shape != other.shape:
            raise InputError(f"other: found a train of modes {other.shape}, expected {self.shape}")
        return other.cores

    def to_dense(self) -> Any:
        """The full tensor; ask for it only where it fits."""
        full = self.cores[0]
        for core in self.cores[1:]:
            full = full.reshape(-1, core.shape[0]) @ core.reshape(core.shape[0], -1)
        return full.reshape(self.shape)

    def entries(self, indices: Any) -> Any:
        """The values at (m, d) integer indices, in O(m d r²)."""
        xp = module(self.cores[0])
        row = self.cores[0][0, indices[:, 0], :]
        for k, core in enumerate(self.cores[1:], 1):
            row = xp.einsum("mr,rms->ms", row, core[:, indices[:, k], :])
        return row[:, 0]

    def inner(self, other: TensorTrain) -> Any:
        """⟨self, other⟩ = Σ conj(self) · other by one sweep, O(d n r³)."""
        xp = module(self.cores[0])
        carry = xp.ones((1, 1), self.cores[0].dtype)
        for a, b in zip(self.cores, other.cores, strict=True):
            carry = xp.tensordot(a.conj(), xp.tensordot(carry, b, axes=([1], [0])), axes=([0, 1], [0, 1]))
        return carry[0, 0]

    def norm(self) -> Any:
        """Frobenius norm, by a sweep of QRs: exact to rounding, also where cores cancel."""
        xp = module(self.cores[0])
        triangle = xp.ones((1, 1), self.cores[0].dtype)
        for core in self.cores:
            pushed = xp.tensordot(triangle, core, axes=([1], [0]))
            triangle = xp.linalg.qr(pushed.reshape(-1, core.shape[2]), mode="r")
        return abs(triangle[0, 0])


class TensorRing(AbstractChain):
    """A closed chain of cores: T[i_0, …] = tr(G_0[:, i_0, :] G_1[:, i_1, :] …).

    Parameters
    ----------
    cores
        Arrays (r_k, n_k, r_{k+1}) with r_d = r_0; with r_0 = 1 it is a tensor train.

    Examples
    --------
    >>> import numpy as np
    >>> TensorRing((np.ones((2, 3, 2)), np.ones((2, 4, 2)))).to_dense().shape
    (3, 4)
    """

    cores: tuple[Any, ...]

    def to_dense(self) -> Any:
        """The full tensor; ask for it only where it fits."""
        xp = module(self.cores[0])
        first = self.cores[0].shape[0]
        full = self.cores[0].reshape(-1, self.cores[0].shape[2])
        for core in self.cores[1:]:
            full = (full @ core.reshape(core.shape[0], -1)).reshape(-1, core.shape[2])
        return xp.einsum("ana->n", full.reshape(first, -1, first)).reshape(self.shape)

    def entries(self, indices: Any) -> Any:
        """The values at (m, d) integer indices, in O(m d r³)."""
        xp = module(self.cores[0])
        product = xp.moveaxis(self.cores[0][:, indices[:, 0], :], 1, 0)
        for k, core in enumerate(self.cores[1:], 1):
            product = product @ xp.moveaxis(core[:, indices[:, k], :], 1, 0)
        return xp.einsum("mrr->m", product)

    def inner(self, other: TensorRing) -> Any:
        """⟨self, other⟩ = Σ conj(self) · other by one sweep that keeps both ends open, O(d n r⁵)."""
        a, b = self.cores[0].conj(), other.cores[0]
        carry = module(a).einsum("anc,bnd->abcd", a, b)
        for a, b in zip(self.cores[1:], other.cores[1:], strict=True):
            carry = module(b).einsum("abcd,cne,dnf->abef", carry, a.conj(), b, optimize=True)
        return module(carry).einsum("abab->", carry)

    def norm(self) -> Any:
        """Frobenius norm; where cores cancel it is known to √eps of their sizes only."""
        xp = module(self.cores[0])
        return xp.sqrt(xp.maximum(self.inner(self).real, 0))


Format = CP | Tucker | TensorTrain | TensorRing
