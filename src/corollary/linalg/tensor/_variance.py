"""Energy variance of a state under an operator in train form, found from the residual itself.

For a Hermitian H and any unit ψ of energy E an eigenvalue of H lies within ‖(H − E)ψ‖, the root of the variance, of E
(Weinstein). ⟨H²⟩ − ⟨H⟩² loses all digits below √eps · |E|; here (H − E)ψ is formed as a tensor train and its norm found
by a sweep of QRs, good to eps · |E|. Cost: O(n d (D r)³) for ranks D of H and r of ψ; on the host.

Source: Weinstein, PNAS 20 (1934), 529; Parlett, The Symmetric Eigenvalue Problem (1980), Theorem 4.5.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import eps, follows_input
from corollary.core.solution import Solution
from corollary.linalg.tensor._mps_sweeps import Cores, checked_cores, checked_mpo, common, orthogonalise, push
from corollary.linalg.tensor._tt_cores import length
from corollary.linalg.tensor._tt_matrix import TensorTrainMatrix

WEINSTEIN = "Weinstein, PNAS 20 (1934); Parlett, The Symmetric Eigenvalue Problem (1980), Theorem 4.5.1"


@follows_input
def energy_variance(state: Any, mpo: Any, *, tol: Any = 1e-8) -> Solution:
    """Energy E = ⟨ψ|H|ψ⟩/⟨ψ|ψ⟩, and how far ψ is from an eigenvector.

    Use it on any state, of whatever origin. Cost: O(n d (D r)³), on the host.

    Parameters
    ----------
    state
        `TensorTrain`, or a list of its cores; of any norm but zero.
    mpo
        Hermitian `TensorTrainMatrix`.
    tol
        Variance that counts as small, relative to the square of max(|E|, ‖H‖_F/√dim).

    Returns
    -------
    Solution
        ``value``: (energy, variance). Certificates: ``"residual"`` (exact: ‖(H − E)ψ‖ <= √tol times that scale).
        ``stats``: ``eigenvalue_error``: an eigenvalue of H lies this close to E, rounding included.

    Raises
    ------
    InputError
        For an operator that is not Hermitian, sizes that do not fit, NaN, a negative `tol`, or the zero state.

    Examples
    --------
    >>> import numpy as np
    >>> from corollary.linalg.tensor import ising_mpo
    >>> up = np.array([1.0, 0.0]).reshape(1, 2, 1)
    >>> found = energy_variance([up, up, up], ising_mpo(3, 1.0, 0.5))
    >>> [round(float(x), 6) for x in found.value], bool(found.holds)
    ([-2.0, 0.75], False)
    """
    validation.number(0)("tol", tol)
    on_device = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((state, mpo)))
    cores = [np.asarray(c) for c in checked_cores("state", state)]
    H = hermitian_cores("mpo", mpo, [c.shape[1] for c in cores])
    mixed = common([*cores, *H])
    unit, size = unit_mpo(mixed[len(cores) :])
    cores = orthogonalise(mixed[: len(cores)], 0, scaled=False)
    norm = length(cores[0])
    if not norm > 0:
        raise InputError("state: found the zero state, expected one with a norm")
    cores[0] = cores[0] / norm
    energy = rayleigh(unit, cores)
    certificate, error = weinstein(unit, cores, energy, size, tol)
    value = (energy * size, certificate.measured**2)
    solution = Solution(value, {"residual": certificate}, stats={"eigenvalue_error": error * size})
    return jax.tree.map(jnp.asarray, solution) if on_device else solution


def weinstein(unit: Cores, cores: Cores, energy: Any, size: float, tol: float) -> tuple[Certificate, Any]:
    """The certificate for a unit state under an operator of unit size, in units of `size`; the residual in its own."""
    residual = residual_norm(unit, cores, energy)
    scale = max(abs(float(energy)), 1.0)
    noise = 32 * eps(cores[0]) * math.sqrt(len(cores)) * scale
    certificate = Certificate(
        "an eigenvalue of H lies within ‖(H − E)ψ‖, the root of the energy variance, of E; it is <= √tol·scale",
        measured=residual * size,
        bound=np.asarray((math.sqrt(tol) * scale + noise) * size, residual.dtype),
        kind="exact",
        source=WEINSTEIN,
    )
    return certificate, residual + noise


def rayleigh(H: Cores, cores: Cores) -> Any:
    """⟨ψ|H|ψ⟩ for a unit state, by one sweep."""
    env = np.ones((1, 1, 1), cores[0].dtype)
    for core, factor in zip(cores, H, strict=True):
        env = push(env, core, factor)
    return env[0, 0, 0].real


def residual_norm(H: Cores, cores: Cores, energy: Any) -> Any:
    """‖(H − E)ψ‖: the triangle of a QR of the train (H − E)ψ, pushed from site to site."""
    shifted = difference_from_identity(H, energy)
    triangle = np.ones((1, 1, 1), cores[0].dtype)  # (m, operator, state)
    for core, W in zip(cores, shifted, strict=True):
        moved = np.tensordot(np.tensordot(triangle, core, axes=([2], [0])), W, axes=([1, 2], [0, 2]))  # (m, b, i', x)
        m, b, i, x = moved.shape
        triangle = _triangle(moved.transpose(0, 2, 3, 1).reshape(m * i, x * b)).reshape(-1, x, b)
    return np.abs(triangle[0, 0, 0])


def difference_from_identity(H: Cores, energy: Any) -> Cores:
    """The cores of H − E: one more channel, which carries the identity."""
    identity = [np.eye(W.shape[1], dtype=W.dtype)[None, :, :, None] for W in H]
    identity[0] = (-energy * identity[0]).astype(H[0].dtype)
    return operator_sum(H, identity)


def operator_sum(a: Sequence[Any], b: Sequence[Any]) -> Cores:
    """The cores of A + B, block by block."""
    one, other = (TensorTrainMatrix(tuple(W)) for W in (a, b))
    return list(TensorTrainMatrix.of_train(one.as_train() + other.as_train(), one.row_modes).cores)


def hermitian_cores(name: str, mpo: Any, shape: Sequence[int] | None = None) -> Cores:
    """The operator's cores on the host, refused unless ‖H − Hᴴ‖_F is rounding."""
    H = [np.asarray(c) for c in checked_mpo(name, mpo, shape)]
    unit, size = unit_mpo(H)
    if size == 0:
        return H
    adjoint = [W.conj().transpose(0, 2, 1, 3) for W in unit]
    adjoint[0] = -adjoint[0]
    defect = frobenius(operator_sum(unit, adjoint))
    if not defect <= 256 * math.sqrt(len(H)) * eps(H[0]):
        raise InputError(f"{name}: found ‖H − Hᴴ‖_F = {defect:.2g} ‖H‖_F, expected a Hermitian operator")
    return H


def unit_mpo(H: Cores) -> tuple[Cores, float]:
    """H = size · U with ‖U‖_F = √dim, the cores of U balanced; the size is zero where H is."""
    largest = [float(np.max(np.abs(W))) for W in H]
    if min(largest) == 0:
        return list(H), 0.0
    even = [W / W.dtype.type(m) for W, m in zip(H, largest, strict=True)]
    logarithm = _log_frobenius(even)
    if logarithm == -math.inf:
        return list(H), 0.0
    share = math.exp(-logarithm / len(H))
    exponent = logarithm + sum(math.log(m) for m in largest)
    if abs(exponent) > -math.log(float(np.finfo(H[0].dtype).tiny)):
        raise InputError(
            f"mpo: found an operator of size exp({exponent:.0f}), expected one within its precision's range"
        )
    return [(W * share).astype(W.dtype) for W in even], math.exp(exponent)


def _triangle(matrix: Any) -> Any:
    """R of a QR."""
    return np.linalg.qr(matrix, mode="r")


def frobenius(H: Cores) -> float:
    """‖H‖_F/√dim."""
    return math.exp(_log_frobenius(H))


def _log_frobenius(H: Cores) -> float:
    """log(‖H‖_F/√dim) by a sweep of QRs, so that cancelling cores keep their digits."""
    triangle, logarithm = np.ones((1, 1), H[0].dtype), 0.0
    for W in H:
        pushed = np.tensordot(triangle, W, axes=1).reshape(-1, W.shape[3])
        triangle = _triangle(pushed)
        size = float(np.max(np.abs(triangle)))
        if size == 0:
            return -math.inf
        triangle = triangle / triangle.dtype.type(size)
        logarithm += math.log(size) - math.log(W.shape[1]) / 2
    return logarithm + math.log(float(np.abs(triangle[0, 0])))
