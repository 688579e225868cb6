"""Truncated SVD of a matrix that is seen once: three linear sketches, and a fourth that tells the error.

Use it where A comes by rows (or as a sum of updates) and can neither be stored nor read twice: simulations, logs,
several machines. The sketches are linear in A, so states of disjoint parts merge by addition. Against
`FrequentDirections` it also recovers the left singular vectors, and updates may touch rows again. Cost: O(k d) a row
for a core size k, memory O(k (m + d)).

With Gaussian test matrices Υ, Ω, Φ, Ψ, Θ: X = Υ A (k × n), Y = A Ωᵀ (m × k), Z = Φ A Ψᵀ (s × s), W = Θ A (q × n).
Then Q = orth(Y), P = orth(Xᵀ), C = (ΦQ)⁺ Z ((ΨP)⁺)ᵀ and A ≈ Q C Pᵀ.

Source: Tropp, Yurtsever, Udell & Cevher, SIAM J. Sci. Comput. 41 (2019), Algorithms 4.1-4.4 and 6.1-6.2, Theorem 5.1;
their SIAM J. Matrix Anal. Appl. 38 (2017) paper for the single-pass idea.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import float64
from corollary.core.solution import Solution

Matrix = Float[Array | np.ndarray, "..."]
BLOCK = 512  # rows whose test vectors are made at a time
TUYC = "Tropp, Yurtsever, Udell & Cevher (2019)"


class StreamingSVD(eqx.Module):
    """State of the sketches: feed it rows by `update`, join two by `merge`, read the SVD by `result`.

    States are immutable. NumPy rows are sketched on the host, JAX rows by JAX; `update` can be jitted.

    Parameters
    ----------
    rows, columns
        Shape of A.
    rank
        r, of the approximation that is wanted.
    core
        k, range sketch size; 2 r + 1 by default, or 4 r + 1 for slow decay. The core sketch has s = 2 k + 1.
    probes
        q, rows of the error sketch.
    key
        `jax.random.key`. States that are to be merged take the same one.
    dtype
        float64 by default.

    Notes
    -----
    E ‖A − QCPᵀ‖_F² <= (s − 1)/(s − k − 1) · min over ρ < k − 1 of (k + ρ − 1)/(k − ρ − 1) · Σ_{i > ρ} σ_i² (Theorem
    5.1); after truncation to rank r the error is at most the best possible of rank r plus twice ‖A − QCPᵀ‖_F.

    Examples
    --------
    >>> import jax, numpy as np
    >>> A = np.outer(np.arange(1.0, 61), np.ones(40)) + np.outer(np.ones(60), np.arange(40.0))
    >>> state = StreamingSVD(60, 40, rank=2, key=jax.random.key(0))
    >>> for batch in np.split(A, 6):
    ...     state = state.update(batch)
    >>> U, s, Vt = state.result().value
    >>> bool(np.allclose((U * s) @ Vt, A))
    True
    """

    X: Matrix
    Y: Matrix
    Z: Matrix
    W: Matrix
    seen: Int[Array | np.ndarray, "..."] | np.integer | int
    key: Key[Array, "..."]
    rank: int = eqx.field(static=True)

    def __init__(
        self,
        rows: int,
        columns: int,
        *,
        rank: int,
        core: int | None = None,
        probes: int = 10,
        key: Key[Array, ""],
        dtype: Any = np.float64,
    ):
        for name, value in (("rows", rows), ("columns", columns), ("rank", rank), ("probes", probes)):
            validation.integer(1)(name, value)
        validation.integer(rank, none=True)("core", core)
        if rank > min(rows, columns):
            raise InputError(f"rank: found {rank}, expected at most {min(rows, columns)} for shape {(rows, columns)}")
        k = min(core or 2 * rank + 1, rows, columns)
        s = min(2 * k + 1, rows, columns)
        self.X, self.Y = np.zeros((k, columns), dtype), np.zeros((rows, k), dtype)
        self.Z, self.W = np.zeros((s, s), dtype), np.zeros((probes, columns), dtype)
        self.seen, self.key, self.rank = np.int32(0), key, int(rank)

    def update(self, rows: Any, start: Any = None) -> StreamingSVD:
        """The state of A plus `rows`, (n, d), placed from row `start` on: after the last ones by default."""
        host = isinstance(self.X, np.ndarray) and not isinstance(rows, jax.Array)
        if scipy.sparse.issparse(rows):
            rows = scipy.sparse.csr_array(rows)
        else:
            rows = validation.matrix("rows", rows, host=True)
        m, n = self.Y.shape[0], rows.shape[0]
        start = self.seen if start is None else start
        if rows.shape[1] != self.X.shape[1]:
            raise InputError(f"rows: found {rows.shape[1]} columns, expected {self.X.shape[1]} as in the state")
        if not isinstance(start, Tracer) and not 0 <= int(start) <= m - n:
            raise InputError(f"rows: found rows {int(start)} to {int(start) + n}, expected at most {m} as planned")
        if not host:
            return _add_in_jax(_in_jax(self), jnp.asarray(rows).astype(self.X.dtype), jnp.asarray(start, jnp.int32))
        rows, start = rows.astype(self.X.dtype), int(start)
        X, Z, W, Y = self.X, self.Z, self.W, self.Y.copy()
        omega, psi = self._right()
        for i in range(0, n, BLOCK):
            part = rows[i : i + BLOCK]
            upsilon, phi, theta = self._left(start + i, part.shape[0])
            adjoint = lambda T, part=part: np.ascontiguousarray((part.T @ T).T)  # noqa: E731
            X, W = X + adjoint(upsilon), W + adjoint(theta)
            Z = Z + phi.T @ (part @ psi.T)
            Y[start + i : start + i + part.shape[0]] += part @ omega.T
        return _replace(self, X=X, Y=Y, Z=Z, W=W, seen=np.int32(start + n))

    def merge(self, other: StreamingSVD) -> StreamingSVD:
        """The state of the sum of both matrices: of two disjoint sets of rows, say. Both must have the same key."""
        if self.Y.shape != other.Y.shape or self.X.shape != other.X.shape or self.W.shape != other.W.shape:
            raise InputError(
                f"other: found sketches of {other.Y.shape}, expected {self.Y.shape} with the same settings"
            )
        if not isinstance(self.key, Tracer) and self.key != other.key:
            raise InputError("other: found another key, expected that of this state")
        parts = {name: getattr(self, name) + getattr(other, name) for name in ("X", "Y", "Z", "W")}
        seen = np.maximum if isinstance(self.seen, np.integer) and isinstance(other.seen, np.integer) else jnp.maximum
        return _replace(self, **parts, seen=seen(self.seen, other.seen))

    def result(self, *, tol: Any = None, delta: float = 0.01) -> Solution:
        """(U, s, Vt) of rank r, with its error: cost O(k² (m + d)) and the test vectors of m rows once more.

        Certificates: ``"frobenius_error"`` (estimate), unbiased in the square, ‖A − U s Vt‖_F² = E ‖W − Θ U s Vt‖²/q;
        and, given `tol`, ``"tolerance"`` (probabilistic): ‖A − U s Vt‖_F <= tol · ‖A‖_F, from an upper limit of the one
        and a lower limit of the other. ``stats``: ``error_bound``, that upper limit, which holds with probability
        1 − δ; ``core_error``, the estimate before truncation; ``norm``, that of ‖A‖_F.
        """
        validation.number(0, 1, open_low=True)("delta", delta)
        xp = np if isinstance(self.X, np.ndarray) else jnp
        Q, _ = xp.linalg.qr(self.Y)
        P, _ = xp.linalg.qr(self.X.T)
        phi_Q, theta_Q = self._against(Q)
        psi_P = self._right()[1] @ P
        C = _solve(psi_P, _solve(phi_Q, self.Z, xp).T, xp).T
        U, s, Vt = xp.linalg.svd(C, full_matrices=False)
        r, q = self.rank, self.W.shape[0]
        rest = lambda core: xp.sqrt(xp.sum(xp.square(self.W - theta_Q @ core @ P.T)) / q)  # noqa: E731
        error, core_error = rest((U[:, :r] * s[:r]) @ Vt[:r]), rest(C)
        norm = xp.sqrt(xp.sum(xp.square(self.W)) / q)
        rounding = 64 * float(np.finfo(self.X.dtype).eps) * math.sqrt(self.X.shape[1]) * norm
        upper = error / math.sqrt(_quantile(q, delta / 2, 0.0)) + rounding
        certificates = {
            "frobenius_error": Certificate(
                f"‖A − U s Vt‖_F from {q} Gaussian probes",
                measured=error,
                stderr=error / math.sqrt(2 * q),
                kind="estimate",
                source=f"{TUYC}, Algorithm 6.1; the standard error is that of an error of rank one, the largest",
            )
        }
        if tol is not None:
            certificates["tolerance"] = Certificate(
                "‖A − U s Vt‖_F <= tol ‖A‖_F",
                measured=upper,
                bound=tol * norm / math.sqrt(_quantile(q, delta / 2, 1e6)) + rounding,
                kind="probabilistic",
                confidence=1 - float(delta),
                source=f"{TUYC}, section 6.2",
            )
        stats = {"error_bound": upper, "core_error": core_error, "norm": norm}
        return Solution((Q @ U[:, :r], s[:r], Vt[:r] @ P.T), certificates, stats=stats)

    def _right(self) -> Any:
        """Ω (k × n) and Ψ (s × n)."""
        return self._drawn(_right)

    def _left(self, start: Any, count: int) -> Any:
        """The columns of Υ, Φ and Θ that belong to `count` rows of A, transposed."""
        return self._drawn(functools.partial(_left, BLOCK), start, cut=count)

    def _drawn(self, draw: Any, *args: Any, cut: int | None = None) -> Any:
        """Test vectors in the state's precision, on its side."""
        sizes = (self.X.shape[0], self.Z.shape[0], self.W.shape[0])
        if not isinstance(self.X, np.ndarray):
            return tuple(v[:cut] for v in draw(sizes, self.X.shape[1], self.X.dtype, self.key, *args))
        with float64():
            drawn = draw(sizes, self.X.shape[1], self.X.dtype, self.key, *args)
            return tuple(np.asarray(v)[:cut] for v in drawn)

    def _against(self, Q: Any) -> Any:
        """ΦQ and ΘQ, with the test vectors made again by blocks of rows."""
        m = Q.shape[0]
        if isinstance(Q, np.ndarray):
            phi_Q, theta_Q = 0.0, 0.0
            for i in range(0, m, BLOCK):
                part = Q[i : i + BLOCK]
                _, phi, theta = self._left(i, part.shape[0])
                phi_Q, theta_Q = phi_Q + phi.T @ part, theta_Q + theta.T @ part
            return phi_Q, theta_Q
        count = -(-m // BLOCK)
        padded = jnp.concatenate([Q, jnp.zeros((count * BLOCK - m, Q.shape[1]), Q.dtype)]).reshape(count, BLOCK, -1)

        def product(total: Any, part: Any) -> Any:
            _, phi, theta = self._left(part[0] * BLOCK, BLOCK)
            return (total[0] + phi.T @ part[1], total[1] + theta.T @ part[1]), None

        zeros = tuple(jnp.zeros((d, Q.shape[1]), Q.dtype) for d in (self.Z.shape[0], self.W.shape[0]))
        return jax.lax.scan(product, zeros, (jnp.arange(count, dtype=jnp.int32), padded))[0]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _right(sizes: Any, columns: int, dtype: Any, key: Any) -> Any:
    omega, psi = jax.random.split(jax.random.fold_in(key, 0))
    return (
        jax.random.normal(omega, (sizes[0], columns), dtype),
        jax.random.normal(psi, (sizes[1], columns), dtype),
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _left(count: int, sizes: Any, columns: int, dtype: Any, key: Any, start: Any) -> Any:
    """A row's test vectors depend on its number only, so that any batches give the same sketch."""
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.fold_in(key, 1)))(
        start + jnp.arange(count, dtype=jnp.int32)
    )
    drawn = jax.vmap(lambda key: jax.random.normal(key, (sum(sizes),), dtype))(keys)
    return drawn[:, : sizes[0]], drawn[:, sizes[0] : -sizes[2]], drawn[:, -sizes[2] :]


def _add_in_jax(state: StreamingSVD, rows: Any, start: Any) -> StreamingSVD:
    n, m = rows.shape[0], state.Y.shape[0]
    sizes = (state.X.shape[0], state.Z.shape[0], state.W.shape[0])
    upsilon, phi, theta = _left(n, sizes, state.X.shape[1], state.X.dtype, state.key, start)
    omega, psi = state._right()
    where = jnp.minimum(start + jnp.arange(n, dtype=jnp.int32), m - 1)
    return _replace(
        state,
        X=state.X + upsilon.T @ rows,
        Y=jnp.asarray(state.Y).at[where].add(rows @ omega.T),
        Z=state.Z + phi.T @ (rows @ psi.T),
        W=state.W + theta.T @ rows,
        seen=start + n,
    )


def _solve(T: Any, Z: Any, xp: Any) -> Any:
    """T⁺ Z for a tall Gaussian product T, by QR."""
    if T.shape[0] == T.shape[1]:
        return xp.linalg.solve(T, Z)
    Q, R = xp.linalg.qr(T)
    return xp.linalg.solve(R, Q.T @ Z)


def _quantile(q: int, delta: float, far: float) -> float:
    """x between `far` and 1 with (x e^{1 − x})^(q/2) = δ: Chernoff's limits for a mean of q squared normals."""
    near = 1.0
    for _ in range(200):
        middle = (far + near) / 2
        beyond = middle <= 0 or q / 2 * (1 - middle + math.log(middle)) <= math.log(delta)
        far, near = (middle, near) if beyond else (far, middle)
    return far


def _in_jax(state: StreamingSVD) -> StreamingSVD:
    return _replace(state, **{name: jnp.asarray(getattr(state, name)) for name in ("X", "Y", "Z", "W", "seen")})


def _replace(state: StreamingSVD, **fields: Any) -> StreamingSVD:
    other = object.__new__(StreamingSVD)
    for field in dataclasses.fields(StreamingSVD):
        object.__setattr__(other, field.name, fields.get(field.name, getattr(state, field.name)))
    return other
