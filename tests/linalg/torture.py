"""Matrices that break numerical methods, and the truth about them in extended precision.

`MATRICES` (any shape), `SQUARE` and `SYMMETRIC`: name → function of the shape, in float64. `matrices` gives them in a
precision, with the extreme scales and the 1 × 1 cases among them. The second half computes singular values,
eigenvalues and products in `numpy.longdouble` (80 bits on x86), by methods so plain that they can be trusted: Jacobi.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np

Matrix = np.ndarray
WIDE = np.longdouble
EXTREME = {np.float64: 1e150, np.float32: 1e15}


def _orthogonal(n: int, seed: int) -> Matrix:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def _with_values(m: int, n: int, values: Matrix) -> Matrix:
    k = min(m, n)
    return (_orthogonal(m, 0)[:, :k] * values[:k]) @ _orthogonal(n, 1)[:, :k].T


def _hilbert(m: int, n: int) -> Matrix:
    return 1 / (np.arange(m)[:, None] + np.arange(n) + 1.0)


def _lauchli(m: int, n: int) -> Matrix:
    """Ones above a tiny multiple of the identity: AᵀA is singular in floating point, A is not."""
    A = np.zeros((m, n))
    A[0] = 1
    A[np.arange(1, min(m, n + 1)), np.arange(min(m - 1, n))] = 2.0**-13
    return A


def _kahan(m: int, n: int) -> Matrix:
    """Column pivoting leaves it as it is and sees no small pivot, yet its least singular value is tiny."""
    s, c = np.sin(1.2), np.cos(1.2)
    k = min(m, n)
    A = np.zeros((m, n))
    A[:k] = s ** np.arange(k)[:, None] * (np.eye(k, n) - c * np.triu(np.ones((k, n)), 1))
    return A


def _vandermonde(m: int, n: int) -> Matrix:
    return np.vander(np.linspace(0, 1, m), n, increasing=True)


def _random(m: int, n: int) -> Matrix:
    return np.random.default_rng(2).standard_normal((m, n))


def _deficient(m: int, n: int) -> Matrix:
    """Rank 3 exactly: small integers."""
    rng = np.random.default_rng(3)
    return (rng.integers(-3, 4, (m, 3)) @ rng.integers(-3, 4, (3, n))).astype(float)


def _grcar(m: int, n: int) -> Matrix:
    """Non-normal: its eigenvalues move far under tiny perturbations."""
    return np.triu(np.tril(np.ones((m, n)), 3)) - np.eye(m, n, -1)


def _jordan(m: int, n: int) -> Matrix:
    """Defective: one eigenvalue, one eigenvector."""
    return np.eye(m, n) + np.eye(m, n, 1)


MATRICES: dict[str, Callable[[int, int], Matrix]] = {
    "random": _random,
    "hilbert": _hilbert,
    "lauchli": _lauchli,
    "kahan": _kahan,
    "graded rows": lambda m, n: _random(m, n) * np.geomspace(1, 1e-12, m)[:, None],
    "graded columns": lambda m, n: _random(m, n) * np.geomspace(1, 1e-12, n),
    "vandermonde": _vandermonde,
    "exactly rank-deficient": _deficient,
    "nearly rank-deficient": lambda m, n: _with_values(m, n, np.r_[np.ones(3), np.full(max(m, n), 1e-10)]),
    "clustered values": lambda m, n: _with_values(m, n, np.r_[1 + 1e-9 * np.arange(4), np.full(max(m, n), 0.5)]),
    "orthonormal": lambda m, n: _with_values(m, n, np.ones(max(m, n))),
    "grcar": _grcar,
    "jordan": _jordan,
    "ones": lambda m, n: np.ones((m, n)),
    "one entry": lambda m, n: np.eye(m, n) * (np.arange(m)[:, None] == 0),
    "zero": lambda m, n: np.zeros((m, n)),
}


def _from_values(values: Matrix) -> Matrix:
    Q = _orthogonal(len(values), 4)
    A = (Q * values) @ Q.T
    return (A + A.T) / 2


SYMMETRIC: dict[str, Callable[[int], Matrix]] = {
    "hilbert": lambda n: _hilbert(n, n),
    "random": lambda n: _random(n, n) + _random(n, n).T,
    "clustered": lambda n: _from_values(np.r_[1 + 1e-9 * np.arange(4), np.linspace(0.5, 0.1, n - 4)]),
    "multiple": lambda n: _from_values(np.r_[np.ones(3), np.full(n - 3, 0.5)]),
    "plus and minus": lambda n: _from_values(np.r_[1.0, -1.0, 0.5, -0.5, np.full(n - 4, 0.1)]),
    "graded": lambda n: np.diag(np.geomspace(1, 1e-12, n)) @ _random(n, n) @ np.diag(np.geomspace(1, 1e-12, n)),
    "wilkinson": lambda n: np.diag(np.abs(np.arange(n) - (n - 1) / 2)) + np.eye(n, k=1) + np.eye(n, k=-1),
    "one large value": lambda n: _from_values(np.r_[1.0, np.full(n - 1, 1e-9)]),
    "identity": np.eye,
    "ones": lambda n: np.ones((n, n)),
    "diagonal": lambda n: np.diag(np.arange(1.0, n + 1)),
    "zero": lambda n: np.zeros((n, n)),
}
SYMMETRIC["graded"] = lambda n, graded=SYMMETRIC["graded"]: (graded(n) + graded(n).T) / 2

SEMIDEFINITE: dict[str, Callable[[int], Matrix]] = {
    "random": lambda n: _random(2 * n, n).T @ _random(2 * n, n),
    "hilbert": lambda n: _hilbert(n, n),
    "clustered": SYMMETRIC["clustered"],
    "multiple": SYMMETRIC["multiple"],
    "one large value": SYMMETRIC["one large value"],
    "exactly rank-deficient": lambda n: _deficient(n, n) @ _deficient(n, n).T,
    "kernel": lambda n: np.exp(-np.square(np.linspace(0, 1, n)[:, None] - np.linspace(0, 1, n)) / 2),
    "identity": np.eye,
    "ones": lambda n: np.ones((n, n)),
    "graded diagonal": lambda n: np.diag(np.geomspace(1, 1e-12, n)),
    "zero": lambda n: np.zeros((n, n)),
}


def matrices(kind: str, dtype: type, m: int, n: int) -> Iterator[tuple[str, Matrix]]:
    """(name, matrix) of a kind, "any", "symmetric" or "psd", in a precision; scaled by 1e±150 or 1e±15; 1 × 1."""
    if kind == "any":
        table = {name: function(m, n) for name, function in MATRICES.items()}
    else:
        table = {name: function(n) for name, function in {"symmetric": SYMMETRIC, "psd": SEMIDEFINITE}[kind].items()}
    for name, A in table.items():
        yield name, _symmetric(A.astype(dtype), kind)
    for power in (EXTREME[dtype], 1 / EXTREME[dtype]):
        for name in ("random", "exactly rank-deficient" if kind != "symmetric" else "multiple"):
            yield f"{name} times {power:.0e}", _symmetric((table[name] * power).astype(dtype), kind)
    if dtype is np.float64:  # a second shape compiles everything again: once is enough
        yield "1 × 1", np.full((1, 1), 2.5, dtype)
        yield "1 × 1 zero", np.zeros((1, 1), dtype)


def _symmetric(A: Matrix, kind: str) -> Matrix:
    return A if kind == "any" else np.triu(A) + np.triu(A, 1).T


# The truth ------------------------------------------------------------------------------------------------------------


def singular_values(A: Matrix) -> Matrix:
    """All min(m, n) singular values by one-sided Jacobi in extended precision, decreasing."""
    return jacobi(A)[1]


def jacobi(A: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """A = U diag(s) Vᵀ by one-sided Jacobi: rotate pairs of columns until all are orthogonal (Hestenes 1958)."""
    A = np.ascontiguousarray(A)
    return _jacobi(A.tobytes(), A.dtype, A.shape)


@functools.lru_cache(maxsize=500)
def _jacobi(entries: bytes, dtype: np.dtype, shape: tuple[int, int]) -> tuple[Matrix, Matrix, Matrix]:
    A = np.frombuffer(entries, dtype).reshape(shape).astype(WIDE)
    if A.shape[0] < A.shape[1]:
        U, s, V = jacobi(A.T)
        return V, s, U
    n = A.shape[1]
    top = np.abs(A).max()
    if top == 0:
        return np.eye(len(A), n, dtype=WIDE), np.zeros(n, WIDE), np.eye(n, dtype=WIDE)
    W, V = A / top, np.eye(n, dtype=WIDE)
    eps = np.finfo(WIDE).eps
    for _ in range(40):
        largest = WIDE(0)
        for left, right in _rounds(n):
            a, b = (W[:, left] ** 2).sum(0), (W[:, right] ** 2).sum(0)
            c = (W[:, left] * W[:, right]).sum(0)
            wrong = np.abs(c) > eps * np.sqrt(a * b) + eps**3
            largest = max(largest, (np.abs(c) * wrong).max(initial=0))
            c = np.where(wrong, c, 1)
            zeta = (b - a) / (2 * c)
            t = np.where(zeta >= 0, 1, -1) / (np.abs(zeta) + np.hypot(WIDE(1), zeta))
            t = np.where(wrong, t, 0)
            cos = 1 / np.sqrt(1 + t * t)
            for X in (W, V):
                x, y = X[:, left].copy(), X[:, right].copy()
                X[:, left], X[:, right] = cos * (x - t * y), cos * (t * x + y)
        if largest == 0:
            break
    s = np.sqrt((W**2).sum(0))
    order = np.argsort(-s)
    s, W, V = s[order], W[:, order], V[:, order]
    return W / np.where(s > 0, s, 1), s * top, V


def _rounds(n: int) -> Iterator[tuple[Matrix, Matrix]]:
    """Every pair once, in rounds of disjoint pairs (the tournament of Brent & Luk 1985)."""
    players = np.arange(n + n % 2)
    for _ in range(len(players) - 1):
        left, right = players[: len(players) // 2], players[len(players) // 2 :][::-1]
        real = (left < n) & (right < n)
        if real.any():
            yield left[real], right[real]
        players = np.r_[players[0], players[-1], players[1:-1]]


def eigenvalues(A: Matrix) -> Matrix:
    """Eigenvalues of a symmetric matrix in extended precision, decreasing: singular values of A + ‖A‖_F I."""
    A = np.asarray(A, WIDE)
    top = np.abs(A).max()
    if top == 0:
        return np.zeros(len(A), WIDE)
    A = A / top
    shift = np.sqrt((A**2).sum())
    return (jacobi(A + shift * np.eye(len(A), dtype=WIDE))[1] - shift) * top


def norm(A: Matrix) -> float:
    """Spectral norm."""
    return singular_values(np.atleast_2d(A))[0]


def frobenius(A: Matrix) -> float:
    """Frobenius norm, in the wide exponent range of extended precision."""
    A = np.asarray(A, WIDE)
    return np.sqrt((A**2).sum())


def defect(Q: Matrix) -> float:
    """‖QᵀQ − I‖_F."""
    Q = np.asarray(Q, WIDE)
    return frobenius(Q.T @ Q - np.eye(Q.shape[1], dtype=WIDE))


def expm(A: Matrix) -> Matrix:
    """e^A in extended precision, by halving A until Taylor's series is short, and squaring back."""
    A = np.asarray(A, WIDE)
    halvings = max(int(np.frexp(np.abs(A).sum(0).max())[1]) + 1, 0)
    power = total = np.eye(len(A), dtype=WIDE)
    for k in range(1, 25):
        power = power @ A / WIDE(2) ** halvings / k
        total = total + power
    for _ in range(halvings):
        total = total @ total
    return total
