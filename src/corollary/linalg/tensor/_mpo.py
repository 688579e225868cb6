"""Hamiltonians of chains as matrix product operators (`TensorTrainMatrix`), from sums of products of local matrices.

The operator is built as a finite automaton that reads the chain from left to right: not begun, finished, or waiting for
the rest of a term. Terms with the same rest share a state, and the coefficient is paid at a term's first site, so that
nearest-neighbour Hamiltonians come out at their least ranks (3 for Ising, 5 for Heisenberg), with no rounding at all.

Source: Schollwöck, Annals of Physics 326 (2011), §6.1; Crosswhite & Bacon, Physical Review A 78 (2008), 012356.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.linalg.tensor._tt_matrix import TensorTrainMatrix

START, DONE = "start", "done"

X = np.array([[0.0, 1.0], [1.0, 0.0]])
Z = np.array([[1.0, 0.0], [0.0, -1.0]])
IY = np.array([[0.0, 1.0], [-1.0, 0.0]])  # i times Pauli's Y: real, and Y ⊗ Y = −(iY) ⊗ (iY)


def mpo_of_terms(shape: Any, terms: Sequence[tuple[Any, Mapping[int, Any]]]) -> TensorTrainMatrix:
    """Σ_t c_t Π_k O_{t,k}: a sum of products of local matrices as an operator in train form.

    Use it for any Hamiltonian of a chain; also long-range and many-body terms. Ranks: two and one for each different
    rest of a term that a bond cuts. Built on the host in float64 (complex128 where a matrix or coefficient is complex).

    Parameters
    ----------
    shape
        Sizes of the sites (n_0, …), or their number where all are two.
    terms
        Pairs (c, {site: matrix}), the matrices (n_k, n_k); an empty mapping means c times the identity.

    Returns
    -------
    TensorTrainMatrix
        Cores (r_k, n_k, n_k, r_{k+1}).

    Raises
    ------
    InputError
        For no term, a site outside the chain, or a matrix of another size than its site.

    Examples
    --------
    >>> import numpy as np
    >>> Z = np.diag([1.0, -1.0])
    >>> H = mpo_of_terms(3, [(2.0, {0: Z, 2: Z}), (0.5, {})])
    >>> np.diag(H.to_dense()).tolist()
    [2.5, -1.5, 2.5, -1.5, -1.5, 2.5, -1.5, 2.5]
    """
    sizes = _sizes(shape)
    n = len(sizes)
    if not isinstance(terms, Sequence) or not terms:
        raise InputError(f"terms: found {terms!r}, expected at least one pair (coefficient, {{site: matrix}})")
    checked = [_term(t, term, sizes) for t, term in enumerate(terms)]
    dtype = np.result_type(np.float64, *(c for c, _ in checked), *(m for _, f in checked for m in f.values()))
    states: list[dict[Any, int]] = [{START: 0, DONE: 1} for _ in range(n + 1)]
    entries: list[dict[tuple[Any, Any], Any]] = [{} for _ in range(n)]
    for coefficient, factors in checked:
        sites = sorted(factors) or [0]
        factors = factors or {0: np.eye(sizes[0])}
        state: Any = START
        for k in range(sites[0], sites[-1] + 1):
            rest = tuple((s, factors[s].tobytes()) for s in sites if s > k)
            after = rest or DONE
            states[k + 1].setdefault(after, len(states[k + 1]))
            matrix = factors.get(k, np.eye(sizes[k])) * (coefficient if state is START else 1)
            known = entries[k].get((state, after))
            # A rest that is shared moves on in the same way for all terms: only new beginnings add up.
            entries[k][state, after] = matrix if known is None or state is not START else known + matrix
            state = after
    cores = []
    for k, size in enumerate(sizes):
        core = np.zeros((len(states[k]), size, size, len(states[k + 1])), dtype)
        core[0, :, :, 0] = core[1, :, :, 1] = np.eye(size)
        for (before, after), matrix in entries[k].items():
            core[states[k][before], :, :, states[k + 1][after]] = matrix
        cores.append(core)
    cores[0] = cores[0][:1]
    cores[-1] = cores[-1][..., 1:2]
    return TensorTrainMatrix(tuple(cores))


def ising_mpo(n: Any, J: Any = 1.0, h: Any = 1.0) -> TensorTrainMatrix:
    """The open transverse-field Ising chain H = −Σ J_k Z_k Z_{k+1} − Σ h_k X_k, of rank 3; critical at |J| = |h|.

    Parameters
    ----------
    n
        Sites.
    J, h
        Numbers, or (n − 1,) couplings and (n,) fields. Z and X are Pauli's matrices.

    Returns
    -------
    TensorTrainMatrix
        Real, float64.

    Raises
    ------
    InputError
        For no site, or couplings of another number.

    Examples
    --------
    >>> ising_mpo(2, 1.0, 0.5).to_dense().tolist()[0]
    [-1.0, -0.5, -0.5, 0.0]
    """
    validation.integer(1)("n", n)
    bonds, fields = _couplings("J", J, n - 1), _couplings("h", h, n)
    terms = [(-J_k, {k: Z, k + 1: Z}) for k, J_k in enumerate(bonds)] + [(-h_k, {k: X}) for k, h_k in enumerate(fields)]
    return mpo_of_terms(n, terms)


def heisenberg_mpo(n: Any, Jx: Any = 1.0, Jy: Any = 1.0, Jz: Any = 1.0, h: Any = 0.0) -> TensorTrainMatrix:
    """The open spin-½ chain H = Σ Jx SˣSˣ + Jy SʸSʸ + Jz SᶻSᶻ − Σ h Sᶻ, of rank 5; antiferromagnetic for J > 0.

    Parameters
    ----------
    n
        Sites.
    Jx, Jy, Jz, h
        Numbers, or (n − 1,) couplings and (n,) fields. S = σ/2. The operator is real: Sʸ enters in pairs.

    Returns
    -------
    TensorTrainMatrix
        Real, float64.

    Raises
    ------
    InputError
        For no site, or couplings of another number.

    Examples
    --------
    >>> import numpy as np
    >>> np.linalg.eigvalsh(heisenberg_mpo(2).to_dense()).round(6).tolist()
    [-0.75, 0.25, 0.25, 0.25]
    """
    validation.integer(1)("n", n)
    terms: list[Any] = [(-h_k, {k: Z / 2}) for k, h_k in enumerate(_couplings("h", h, n))]
    for name, J, S, sign in (("Jx", Jx, X / 2, 1), ("Jy", Jy, IY / 2, -1), ("Jz", Jz, Z / 2, 1)):
        terms += [(sign * J_k, {k: S, k + 1: S}) for k, J_k in enumerate(_couplings(name, J, n - 1))]
    return mpo_of_terms(n, terms)


def _couplings(name: str, value: Any, count: int) -> list[float]:
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name}: found dtype {array.dtype}, expected real numbers")
    if array.ndim > 1 or (array.ndim == 1 and array.size != count):
        raise InputError(f"{name}: found shape {array.shape}, expected a number or ({count},)")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: found NaN or infinity, expected finite numbers")
    return np.broadcast_to(array.astype(np.float64), (count,)).tolist()


def _sizes(shape: Any) -> list[int]:
    if isinstance(shape, Sequence):
        sizes = list(shape)
    else:
        validation.integer(1)("shape", shape)
        sizes = [2] * int(shape)
    for size in sizes:
        validation.integer(1)("shape", size)
    if not sizes:
        raise InputError("shape: found no site, expected at least one")
    return sizes


def _term(t: int, term: Any, sizes: list[int]) -> tuple[Any, dict[int, Any]]:
    if not isinstance(term, tuple) or len(term) != 2 or not isinstance(term[1], Mapping):
        raise InputError(f"terms[{t}]: found {term!r}, expected a pair (coefficient, {{site: matrix}})")
    coefficient = np.asarray(term[0])
    if coefficient.ndim or coefficient.dtype.kind not in "iufc" or not np.isfinite(coefficient):
        raise InputError(f"terms[{t}]: found the coefficient {term[0]!r}, expected a finite number")
    factors = {}
    for site, matrix in term[1].items():
        validation.integer(0)(f"terms[{t}]: site", site)
        if site >= len(sizes):
            raise InputError(f"terms[{t}]: found site {site}, expected at most {len(sizes) - 1}")
        matrix = np.asarray(validation.tensor(f"terms[{t}][{site}]", matrix, complex=True, host=True))
        if matrix.shape != (sizes[site], sizes[site]):
            raise InputError(f"terms[{t}][{site}]: found {matrix.shape}, expected ({sizes[site]}, {sizes[site]})")
        # One precision, and no negative zeros, so that equal matrices have equal bytes.
        wide = np.complex128 if matrix.dtype.kind == "c" else np.float64
        factors[int(site)] = np.ascontiguousarray(matrix.astype(wide) + 0)
    return coefficient.item(), factors
