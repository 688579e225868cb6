"""Linear systems in tensor-train form: A x = b with Π n_k unknowns, by alternating least squares or its two-site form.

Use it for discretised equations in many dimensions, where the operator has small ranks (a Laplacian has two) and the
solution can be expected to: all cores of x but one (ALS) or two (MALS) are held, orthogonal, and the small projected
system is solved. MALS finds the ranks from the tolerance; ALS keeps the ranks it is given, and every half step lowers
the energy. Cost: a sweep solves d systems of r n r unknowns (ALS) or r n n r (MALS), densely where small, else by
conjugate gradients from the last values; O(d n R r³) beside them for ranks R of A.

Source: Holtz, Rohwedder & Schneider, The Alternating Linear Scheme for Tensor Optimization in the Tensor Train Format,
SIAM J. Sci. Comput. 34 (2012), §3-4; Oseledets & Dolgov, SIAM J. Sci. Comput. 34 (2012), §3.4 for the truncation.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax.core import Tracer
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.linalg.tensor._formats import TensorTrain
from corollary.linalg.tensor._tt_arithmetic import (
    checked_matrix,
    checked_train,
    tt_matmat,
    tt_matvec,
    tt_random,
)
from corollary.linalg.tensor._tt_cores import small_blas
from corollary.linalg.tensor._tt_matrix import TensorTrainMatrix
from corollary.linalg.tensor._tt_round import left_norms, right_orthogonal, tt_round

DENSE = 600  # unknowns up to which a local system is factored
HRS = "Holtz, Rohwedder & Schneider, SIAM J. Sci. Comput. 34 (2012)"


@follows_input
def tt_solve(
    A: Any,
    b: Any,
    *,
    method: Any = "mals",
    positive_definite: Any = False,
    rank: Any = 4,
    max_rank: Any = 50,
    tol: Any = 1e-6,
    max_steps: Any = 20,
    x0: Any = None,
    key: Key[Array, ""],
) -> Solution:
    """Solve A x = b for a tensor-train matrix and a tensor train, x a tensor train.

    Parameters
    ----------
    A
        `TensorTrainMatrix`, square in every mode.
    b
        `TensorTrain` of the row modes of A.
    method
        "mals" (two cores at a time, ranks from `tol`) or "als" (one core at a time, ranks of the start).
    positive_definite
        True where A is Hermitian positive definite: the energy is minimised. Else the residual is, through the normal
        equations, which squares the condition number.
    rank
        Of the random start; for "als" of the answer.
    max_rank
        The largest that "mals" may take.
    tol
        Relative residual ‖A x − b‖/‖b‖.
    max_steps
        Sweeps there and back.
    x0
        Start, in place of a random one.
    key
        `jax.random.key`.

    Returns
    -------
    Solution
        ``value``: `TensorTrain` x. Certificates: ``"relative_residual"`` (exact: measured on the train A x − b by a
        sweep of QRs, against `tol`), and for "als" ``"monotone"`` (monitor: the energy xᴴAx − 2 Re bᴴx, or
        ‖A x − b‖², never rose by more than its rounding from one local solve to the next). ``history``:
        ``relative_residual`` and ``energy`` for each sweep. ``stats``: ``residual_uncertainty`` (at most that much
        of the residual is rounding of A x and b, which cancel). ``status``: PRECISION where `tol` was missed by no more
        than that, else MAX_STEPS where it was not reached.

    Raises
    ------
    InputError
        Where the modes do not fit, or a setting is out of range.

    Notes
    -----
    With orthogonal other cores the local system is no worse conditioned than A (Theorem 4.1 of the source).

    Examples
    --------
    >>> import jax
    >>> from corollary.linalg.tensor._tt_arithmetic import tt_laplacian, tt_ones
    >>> A, b = tt_laplacian((8, 8, 8)), tt_ones((8, 8, 8))
    >>> solution = tt_solve(A, b, positive_definite=True, tol=1e-8, key=jax.random.key(0))
    >>> bool(solution.holds), float((tt_matvec(A, solution.value) - b).norm() / b.norm()) < 1e-8
    (True, True)
    """
    validation.one_of("mals", "als")("method", method)
    validation.flag("positive_definite", positive_definite)
    validation.number(0, open_low=True)("tol", tol)
    for name, value in (("rank", rank), ("max_rank", max_rank), ("max_steps", max_steps)):
        validation.integer(1)(name, value)
    A, b = checked_matrix("A", A), checked_train("b", b)
    if A.row_modes != A.column_modes:
        raise InputError(f"A: found row modes {A.row_modes} and column modes {A.column_modes}, expected equal ones")
    if b.shape != A.row_modes:
        raise InputError(f"b: found modes {b.shape}, expected the row modes {A.row_modes} of A")
    leaves = [*A.cores, *b.cores]
    if any(isinstance(c, Tracer) for c in leaves):
        raise InputError("A, b: found traced cores, expected concrete ones: the ranks depend on their values")
    in_jax = any(isinstance(c, jax.Array) for c in leaves)
    dtype = np.result_type(*[np.asarray(c).dtype for c in leaves])
    A = TensorTrainMatrix(tuple(np.asarray(c, dtype) for c in A.cores))
    b = TensorTrain(tuple(np.asarray(c, dtype) for c in b.cores))
    x = _start(x0, b, rank, key, dtype)
    with small_blas(max(A.rank) * max(x.rank)):
        solution = _solve(A, b, x, method, positive_definite, max_rank, tol, max_steps)
    return jax.tree.map(jnp.asarray, solution) if in_jax else solution


def _start(x0: Any, b: TensorTrain, rank: int, key: Key[Array, ""], dtype: Any) -> TensorTrain:
    if x0 is None:
        x = tt_random(b.shape, rank, key=key)
    else:
        x = checked_train("x0", x0)
        if x.shape != b.shape:
            raise InputError(f"x0: found modes {x.shape}, expected {b.shape}")
        if dtype.kind != "c" and any(c.dtype.kind == "c" for c in x.cores):
            raise InputError("x0: found complex cores, expected real ones for real A and b")
    return TensorTrain(tuple(np.asarray(c).astype(dtype) for c in x.cores))


def _solve(
    A: TensorTrainMatrix,
    b: TensorTrain,
    x: TensorTrain,
    method: str,
    positive_definite: bool,
    max_rank: int,
    tol: float,
    max_steps: int,
) -> Solution:
    eps = float(np.finfo(b.cores[0].dtype).eps)
    size = float(b.norm())
    if size == 0:
        x = TensorTrain(tuple(np.zeros_like(c) for c in x.cores))
    else:
        unit = np.asarray(1 / size, b.cores[0].real.dtype)
        b = TensorTrain((b.cores[0] * unit, *b.cores[1:]))  # the energy is then of the order of the solution's
    if positive_definite:
        K, f = A, b
    else:
        square = tt_matmat(A.adjoint(), A)
        K = TensorTrainMatrix.of_train(tt_round(square.as_train(), tol=4 * eps).value, A.row_modes)
        f = tt_matvec(A.adjoint(), b)
    sweep = _Sweep(K, f, x, tol, eps)
    residuals, energies, done, steps, two = [], [], size == 0, 0, method == "mals" and len(b.cores) > 1
    while not done and steps < max_steps:
        steps += 1
        sweep.there_and_back(two, max_rank)
        x = TensorTrain(tuple(sweep.x))
        residuals.append(float((tt_matvec(A, x) - b).norm()))
        energies.append(sweep.energies[-1])
        done = residuals[-1] <= tol
        if steps > 4 and residuals[-1] > 0.99 * residuals[-4]:
            break
    left_over = tt_matvec(A, x) - b
    lost = max(p * q for p, q in zip(left_norms(left_over, np), right_orthogonal(left_over, np)[1], strict=True))
    rounding = 16 * len(b.cores) * eps
    uncertain = rounding * max(float(lost), 1.0)  # A x and b cancel: an overestimate of what rounding did
    measured = float(left_over.norm()) if size > 0 else 0.0
    certificates = {
        "relative_residual": Certificate(
            "‖A x − b‖/‖b‖ <= tol, from the train A x − b by a sweep of QRs",
            measured=measured,
            bound=tol + rounding,
            kind="exact",
            source="the norm of a tensor train: Oseledets, SIAM J. Sci. Comput. 33 (2011), §4.2",
        )
    }
    if not two and size > 0:
        rises = np.diff(sweep.energies)
        certificates["monotone"] = Certificate(
            "the energy never rose from one local solve to the next",
            measured=float(np.max(rises, initial=0.0)),
            bound=float(1e3 * eps * np.max(np.abs(sweep.scales))),
            kind="monitor",
            source=f"{HRS}, §3",
        )
    short = Status.PRECISION if measured <= tol + uncertain else Status.MAX_STEPS
    status = np.int32(Status.CONVERGED if measured <= tol + rounding else short)
    if size > 0:
        x = TensorTrain((x.cores[0] * np.asarray(size, x.cores[0].real.dtype), *x.cores[1:]))
    stats = {
        "rank": x.rank,
        "method": Note(method),
        "local_iterations": sweep.iterations,
        "residual_uncertainty": uncertain,
    }
    history = {"relative_residual": np.array(residuals), "energy": np.array(energies)}
    return Solution(x, certificates, status, steps, stats, history)


class _Sweep:
    """The cores of x, with the projections of K and f onto all but one or two of them."""

    def __init__(self, K: TensorTrainMatrix, f: TensorTrain, x: TensorTrain, tol: float, eps: float):
        self.K, self.f, self.tol, self.eps = K.cores, f.cores, tol, eps
        self.x: list[Any] = list(right_orthogonal(x, np)[0].cores)
        d, dtype = len(self.x), self.x[0].dtype
        self.left = [np.ones((1, 1, 1), dtype)] + [np.empty(0)] * d  # conj(x) K x left of each core
        self.right = [np.empty(0)] * d + [np.ones((1, 1, 1), dtype)]
        self.f_left = [np.ones((1, 1), dtype)] + [np.empty(0)] * d  # conj(x) f
        self.f_right = [np.empty(0)] * d + [np.ones((1, 1), dtype)]
        for k in range(d - 1, 0, -1):
            self._grow_right(k)
        self.energies: list[float] = []
        self.scales: list[float] = [1.0]
        self.iterations = 0

    def there_and_back(self, two: bool, max_rank: int) -> None:
        """Every core, or pair of neighbours, from left to right and back."""
        d = len(self.x)
        if two:
            for k in range(d - 1):
                self._pair(k, max_rank, forward=True)
            for k in range(d - 2, -1, -1):
                self._pair(k, max_rank, forward=False)
            return
        for k in range(d):
            self._single(k)
            if k < d - 1:
                a, n, r = self.x[k].shape
                Q, R = np.linalg.qr(self.x[k].reshape(a * n, r))
                self.x[k] = Q.reshape(a, n, -1)
                self.x[k + 1] = np.tensordot(R, self.x[k + 1], axes=([1], [0]))
                self._grow_left(k)
        for k in range(d - 1, -1, -1):
            self._single(k)
            if k:
                a, n, r = self.x[k].shape
                Q, R = np.linalg.qr(self.x[k].reshape(a, n * r).conj().T)
                self.x[k] = Q.conj().T.reshape(-1, n, r)
                self.x[k - 1] = np.tensordot(self.x[k - 1], R.conj().T, axes=([2], [0]))
                self._grow_right(k)

    def _single(self, k: int) -> None:
        self.x[k] = self._local(self.left[k], self.K[k], self.right[k + 1], self._rhs(k, self.f[k], k + 1), self.x[k])

    def _pair(self, k: int, max_rank: int, *, forward: bool) -> None:
        """Two cores as one, cut by the residual: the smallest rank that leaves it within the tolerance or doubled."""
        one, other = self.K[k], self.K[k + 1]
        R, m, n, _ = one.shape
        _, p, q, S = other.shape
        core = np.tensordot(one, other, axes=([3], [0])).transpose(0, 1, 3, 2, 4, 5).reshape(R, m * p, n * q, S)
        c, e = self.f[k].shape[0], self.f[k + 1].shape[2]
        rhs = self._rhs(k, np.tensordot(self.f[k], self.f[k + 1], axes=([2], [0])).reshape(c, m * p, e), k + 2)
        a, b = self.x[k].shape[0], self.x[k + 1].shape[2]
        start = np.tensordot(self.x[k], self.x[k + 1], axes=([2], [0])).reshape(a, n * q, b)
        best = self._local(self.left[k], core, self.right[k + 2], rhs, start)
        U, s, V = np.linalg.svd(best.reshape(a * n, q * b), full_matrices=False)
        residual = lambda v: float(np.linalg.norm(self._apply(self.left[k], core, self.right[k + 2], v) - rhs))  # noqa: E731
        limit = max(2 * residual(best), 0.3 * self.tol / np.sqrt(len(self.x)) * float(np.linalg.norm(rhs)))
        low, high = 1, min(max_rank, len(s))
        while low < high:  # the residual falls with the rank, near enough
            r = (low + high) // 2
            low, high = (
                (low, r) if residual(((U[:, :r] * s[:r]) @ V[:r]).reshape(best.shape)) <= limit else (r + 1, high)
            )
        r = low
        U, s, V = U[:, :r], s[:r], V[:r]
        if forward:
            self.x[k], self.x[k + 1] = U.reshape(a, n, r), (s[:, None] * V).reshape(r, q, b)
            self._grow_left(k)
        else:
            self.x[k], self.x[k + 1] = (U * s).reshape(a, n, r), V.reshape(r, q, b)
            self._grow_right(k + 1)

    def _rhs(self, k: int, core: Any, after: int) -> Any:
        """f projected: (a, m, b)."""
        return np.einsum("ac,cmd,bd->amb", self.f_left[k], core, self.f_right[after], optimize=True)

    def _apply(self, L: Any, core: Any, R: Any, v: Any) -> Any:
        """The projected K times v, (a, n, b) to (a, m, b)."""
        t = np.tensordot(L, v, axes=([2], [0]))  # a R n b
        t = np.tensordot(t, core, axes=([1, 2], [0, 2]))  # a b m S
        return np.tensordot(t, R, axes=([1, 3], [2, 1]))  # a m b

    def _local(self, L: Any, core: Any, R: Any, rhs: Any, start: Any) -> Any:
        shape, size = rhs.shape, rhs.size
        if size <= DENSE:
            matrix = np.tensordot(np.tensordot(L, core, axes=([1], [0])), R, axes=([4], [1]))  # a a' m n b b'
            matrix = matrix.transpose(0, 2, 4, 1, 3, 5).reshape(size, size)
            try:
                found = np.linalg.solve(matrix, rhs.ravel())
            except np.linalg.LinAlgError:
                found = np.linalg.lstsq(matrix, rhs.ravel(), rcond=None)[0]
        else:

            def times(v: Any) -> Any:
                self.iterations += 1
                return self._apply(L, core, R, v.reshape(shape)).ravel()

            linear_map: Any = scipy.sparse.linalg.LinearOperator
            operator = linear_map((size, size), matvec=times, dtype=rhs.dtype)
            rtol = max(0.03 * self.tol, 4 * self.eps)
            found, _ = scipy.sparse.linalg.cg(operator, rhs.ravel(), start.ravel(), rtol=rtol, maxiter=1000)
        found = found.reshape(shape).astype(rhs.dtype, copy=False)
        quadratic, linear = (float(np.vdot(found, v).real) for v in (self._apply(L, core, R, found), rhs))
        self.energies.append(quadratic - 2 * linear)
        self.scales.append(abs(quadratic) + 2 * abs(linear))
        return found

    def _grow_left(self, k: int) -> None:
        x = self.x[k]
        t = np.tensordot(self.left[k], x, axes=([2], [0]))  # a R n r
        t = np.tensordot(t, self.K[k], axes=([1, 2], [0, 2]))  # a r m S
        self.left[k + 1] = np.tensordot(x.conj(), t, axes=([0, 1], [0, 2])).transpose(0, 2, 1)
        t = np.tensordot(self.f_left[k], self.f[k], axes=([1], [0]))
        self.f_left[k + 1] = np.tensordot(x.conj(), t, axes=([0, 1], [0, 1]))

    def _grow_right(self, k: int) -> None:
        x = self.x[k]
        t = np.tensordot(x, self.right[k + 1], axes=([2], [2]))  # a n b R
        t = np.tensordot(self.K[k], t, axes=([2, 3], [1, 3]))  # R m a b
        self.right[k] = np.tensordot(x.conj(), t, axes=([1, 2], [1, 3]))
        t = np.tensordot(self.f[k], self.f_right[k + 1], axes=([2], [1]))  # c m b
        self.f_right[k] = np.tensordot(x.conj(), t, axes=([1, 2], [1, 2]))
