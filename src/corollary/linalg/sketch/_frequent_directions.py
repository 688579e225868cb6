"""Frequent Directions: a deterministic sketch of a row stream that keeps its covariance, with its own error bound.

Use it where the rows of A (data, features, gradients of earlier tasks) come one batch at a time or do not fit: the
state holds 2ℓ rows, whatever the length of the stream, merges with the states of other machines, and knows at every
moment how far BᵀB is from AᵀA. Cost: O(ℓ d) a row and O(ℓ d) memory.

Source: Liberty, KDD 2013; Ghashami, Liberty, Phillips & Woodruff, SIAM J. Comput. 45 (2016), Theorem 1.1 and §3
(merging). Gradient projection onto what a sketch leaves free: Farajtabar et al., AISTATS 2020.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float, Int

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution

Matrix = Float[Array | np.ndarray, "..."]
SOURCE = "Ghashami, Liberty, Phillips & Woodruff (2016), Theorem 1.1"


class FrequentDirections(eqx.Module):
    """State of the sketch: feed it rows by `update`, join two by `merge`, read it by `result`.

    States are immutable: every method returns a new one. NumPy states and rows are computed on the host, JAX ones by
    JAX; all methods can be jitted (`update` compiles once per batch shape).

    Parameters
    ----------
    size
        ℓ, rows of the sketch.
    columns
        d, length of a row.
    dtype
        float64 by default.

    Notes
    -----
    0 ⪯ AᵀA − BᵀB ⪯ Δ I, where Δ (``shed``) is the sum of what the shrinking steps have taken off, known exactly; and
    Δ <= ‖A − A_k‖_F²/(ℓ + 1 − k) for every k <= ℓ.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.random.default_rng(0).standard_normal((500, 20)) * 0.5 ** np.arange(20)
    >>> state = FrequentDirections(6, 20)
    >>> for batch in np.split(rows, 5):
    ...     state = state.update(batch)
    >>> B = state.result().value
    >>> B.shape, bool(np.linalg.norm(rows.T @ rows - B.T @ B, 2) <= state.result().stats["error"])
    ((6, 20), True)
    """

    buffer: Matrix  # (2ℓ, d), the rows from `filled` on are zero
    filled: Int[Array | np.ndarray, "..."] | np.integer | int
    shed: Float[Array | np.ndarray, "..."] | np.floating  # Δ
    noise: Float[Array | np.ndarray, "..."] | np.floating  # rounding of the shrinking steps, in the norm of AᵀA
    energy: Float[Array | np.ndarray, "..."] | np.floating  # ‖A‖_F²
    seen: Int[Array | np.ndarray, "..."] | np.integer | int

    def __init__(self, size: int, columns: int, *, dtype: Any = np.float64):
        validation.integer(1)("size", size)
        validation.integer(1)("columns", columns)
        self.buffer = np.zeros((2 * size, columns), dtype)
        self.filled, self.seen = np.int32(0), np.int32(0)
        self.shed, self.noise, self.energy = np.float64(0), np.float64(0), np.float64(0)  # sums over a long stream

    @property
    def size(self) -> int:
        """ℓ."""
        return self.buffer.shape[-2] // 2

    def update(self, rows: Any) -> FrequentDirections:
        """The state after more rows: (n, d), or one of length d; dense or `scipy.sparse`."""
        if scipy.sparse.issparse(rows):
            rows = scipy.sparse.csr_array(rows)
            step = max(self.size, 1)
            state = self
            for i in range(0, rows.shape[0], step):
                state = state.update(rows[i : i + step].toarray())
            return state
        rows = validation.vector_or_matrix("rows", rows, empty=True, host=True)
        rows = rows[None] if rows.ndim == 1 else rows
        if rows.shape[1] != self.buffer.shape[1]:
            raise InputError(f"rows: found {rows.shape[1]} columns, expected {self.buffer.shape[1]} as in the state")
        rows = rows.astype(self.buffer.dtype)
        size, whole = self.size, rows.shape[0] // self.size
        if isinstance(rows, np.ndarray) and isinstance(self.buffer, np.ndarray):
            state = self._writable()
            for i in range(0, rows.shape[0], size):
                state = _absorb(state, rows[i : i + size])
            return state
        state = jax.tree.map(jnp.asarray, self)
        rows = jnp.asarray(rows)
        if whole > 1:
            batches = rows[: whole * size].reshape(whole, size, -1)
            state = jax.lax.scan(lambda s, batch: (_absorb(s, batch), None), state, batches)[0]
            rows = rows[whole * size :]
        for i in range(0, rows.shape[0], size):
            state = _absorb(state, rows[i : i + size])
        return state

    def merge(self, other: FrequentDirections) -> FrequentDirections:
        """The state of both streams together; the bounds add up and keep their form."""
        if other.buffer.shape != self.buffer.shape:
            raise InputError(f"other: found a buffer of {other.buffer.shape}, expected {self.buffer.shape} as here")
        first, second = _shrunk(self, self.size), _shrunk(other, other.size)
        if isinstance(first.buffer, jax.Array) or isinstance(second.buffer, jax.Array):
            first, second = (jax.tree.map(jnp.asarray, s) for s in (first, second))
        xp = _xp(first.buffer)
        buffer = xp.concatenate([first.buffer[: self.size], second.buffer[: self.size].astype(first.buffer.dtype)])
        joined = _replace(
            first,
            buffer=buffer,
            filled=xp.full_like(first.filled, 2 * self.size),
            shed=first.shed + second.shed,
            noise=first.noise + second.noise,
            energy=first.energy + second.energy,
            seen=first.seen + second.seen,
        )
        return _shrunk(joined, self.size)

    def result(self) -> Solution:
        """The sketch B, (ℓ, d), rows orthogonal and falling in length, with its certificates.

        Certificate ``"covariance_error"`` (exact): Δ >= ‖AᵀA − BᵀB‖₂, against the theorem's least right-hand side with
        ‖A − A_k‖_F² replaced by ‖A‖_F² − ‖B_k‖_F², which cannot be smaller. ``stats``: ``error``, Δ with its rounding;
        ``energy`` = ‖A‖_F²; ``rows`` seen.
        """
        state = _shrunk(self, self.size)
        xp, size = _xp(state.buffer), self.size
        B = state.buffer[:size]
        squares = xp.sum(xp.square(B), axis=1).astype(state.energy.dtype)
        rounding = state.noise + 8 * float(np.finfo(B.dtype).eps) * state.energy
        tails = xp.maximum(state.energy - xp.concatenate([xp.zeros_like(squares[:1]), xp.cumsum(squares)]), 0)
        bound = xp.min(tails / xp.arange(size + 1, 0, -1).astype(tails.dtype))
        certificate = Certificate(
            "‖AᵀA − BᵀB‖₂ <= Δ <= min over k of (‖A‖_F² − ‖B_k‖_F²)/(ℓ + 1 − k)",
            measured=state.shed,
            bound=bound + rounding,
            kind="exact",
            source=SOURCE,
        )
        stats = {"error": state.shed + rounding, "energy": state.energy, "rows": state.seen}
        return Solution(B, {"covariance_error": certificate}, stats=stats)

    def basis(self, rank: int | None = None) -> Matrix:
        """(d, k) orthonormal basis of the k leading directions, all ℓ by default; zeros where there are fewer."""
        rank = self.size if rank is None else rank
        validation.integer(1)("rank", rank)
        if rank > self.size:
            raise InputError(f"rank: found {rank}, expected at most the sketch's {self.size} rows")
        B = _shrunk(self, self.size).buffer[:rank]
        xp = _xp(B)
        lengths = xp.sqrt(xp.sum(xp.square(B), axis=1))
        floor = 8 * float(np.finfo(B.dtype).eps) * max(B.shape) * xp.max(lengths)
        unit = xp.where((lengths > floor)[:, None], B / xp.where(lengths > 0, lengths, 1)[:, None], 0)
        # Orthogonal to rounding: short rows carry the rounding of the long ones, so that they are cleaned once more.
        Q, R = xp.linalg.qr(unit.T)
        return xp.where(xp.abs(xp.diag(R)) > 0.5, Q, 0)

    def protect(self, gradient: Any, rank: int | None = None) -> Solution:
        """The part of a gradient, (d,) or (k, d), that is orthogonal to the protected subspace span(`basis`(rank)).

        A step along it moves the outputs A x of the stream by at most what the certificate ``"interference"`` (exact)
        says: ‖A g‖² <= ‖B g‖² + Δ ‖g‖²; it is held against ‖A‖_F² ‖g‖², what could happen without protection.
        """
        g = validation.vector_or_matrix("gradient", gradient, host=True)
        if isinstance(g, jax.Array) != isinstance(self.buffer, jax.Array):
            return jax.tree.map(jnp.asarray, self).protect(jnp.asarray(g), rank)
        g = g.astype(self.buffer.dtype)
        V, state = self.basis(rank), _shrunk(self, self.size)
        xp = _xp(V)
        for _ in range(2):
            g = g - (g @ V) @ V.T
        own = xp.sum(xp.square(g), axis=-1).astype(state.energy.dtype)
        seen = xp.sum(xp.square(g @ state.buffer[: self.size].T), axis=-1).astype(own.dtype)
        moved = seen + (state.shed + state.noise) * own
        certificate = Certificate(
            "‖A g‖² <= ‖B g‖² + Δ‖g‖² <= ‖A‖_F² ‖g‖²",
            measured=moved,
            bound=(state.energy * (1 + 8 * float(np.finfo(g.dtype).eps)) + state.noise) * own,
            kind="exact",
            source=SOURCE,
        )
        return Solution(g, {"interference": certificate})

    def _writable(self) -> FrequentDirections:
        return _replace(self, buffer=self.buffer.copy())


@follows_input
def frequent_directions(A: Any, size: int) -> Solution:
    """Sketch B of `size` rows with 0 ⪯ AᵀA − BᵀB ⪯ Δ I, in one pass over the rows of A.

    Parameters
    ----------
    A
        (m, d) dense or `scipy.sparse` matrix. For streams and merging, use `FrequentDirections`.
    size
        ℓ, rows of B.

    Returns
    -------
    Solution
        As `FrequentDirections.result`.

    Examples
    --------
    >>> import numpy as np
    >>> found = frequent_directions(np.eye(8)[:3], 4)  # three rows fit: nothing is lost
    >>> float(found.certificates["covariance_error"].measured), bool(found.holds)
    (0.0, True)
    """
    dtype = A.dtype if hasattr(A, "dtype") and A.dtype in (np.float32, np.float64) else np.float64
    if not scipy.sparse.issparse(A):
        A = validation.matrix("A", A, host=True)
    return FrequentDirections(size, A.shape[1], dtype=dtype).update(A).result()


def _absorb(state: FrequentDirections, rows: Any) -> FrequentDirections:
    """At most ℓ more rows: shrink first where they do not fit."""
    xp, n, room = _xp(state.buffer), rows.shape[0], state.buffer.shape[0]
    energy = state.energy + xp.sum(xp.square(rows), dtype=state.energy.dtype)
    if xp is np:
        if state.filled + n > room:
            state = _shrunk(state, room // 2)
        state.buffer[state.filled : state.filled + n] = rows  # a buffer of this update's own
        filled = np.int32(state.filled + n)
        return _replace(state, filled=filled, energy=energy, seen=np.int32(state.seen + n))
    state = jax.lax.cond(state.filled + n > room, lambda s: _shrunk(s, room // 2), lambda s: s, state)
    buffer = jax.lax.dynamic_update_slice(state.buffer, rows, (state.filled, jnp.zeros_like(state.filled)))
    return _replace(state, buffer=buffer, filled=state.filled + n, energy=energy, seen=state.seen + n)


def _shrunk(state: FrequentDirections, size: int) -> FrequentDirections:
    """Subtract σ²_{ℓ+1} from all squared singular values: at most ℓ rows are left, orthogonal to each other.

    By the eigenvectors of the smaller Gram matrix: its rounding is eps · σ₁², which is that of AᵀA itself.
    """
    buffer, xp = state.buffer, _xp(state.buffer)
    rows, columns = buffer.shape
    top = xp.max(xp.abs(buffer))
    top = xp.where(top > 0, top, 1).astype(buffer.dtype)
    scaled = buffer / top
    if rows <= columns:
        values, W = xp.linalg.eigh(scaled @ scaled.T)
        values, W = xp.maximum(values[::-1], 0), W[:, ::-1]
        delta, values = values[size], values[:size]
        ratio = xp.where(values > delta, (values - delta) / xp.where(values > 0, values, 1), 0)
        kept = xp.sqrt(ratio)[:, None] * (W[:, :size].T @ scaled)
    else:
        values, V = xp.linalg.eigh(scaled.T @ scaled)
        values, V = xp.maximum(values[::-1], 0), V[:, ::-1]
        delta = values[size] if columns > size else xp.zeros_like(top)
        kept = (xp.sqrt(xp.maximum(values - delta, 0)) * V).T[:size]
        kept = xp.concatenate([kept, xp.zeros((size - kept.shape[0], columns), kept.dtype)])
    emptied = xp.concatenate([kept * top, xp.zeros((rows - size, columns), buffer.dtype)])
    filled = xp.minimum(xp.asarray(state.filled), size).astype(np.int32)
    unit, largest = xp.square(top).astype(state.shed.dtype), values[0].astype(state.shed.dtype)
    shed = state.shed + delta.astype(state.shed.dtype) * unit
    noise = state.noise + 8 * float(np.finfo(buffer.dtype).eps) * largest * unit
    return _replace(state, buffer=emptied, filled=filled, shed=shed, noise=noise)


def _replace(state: FrequentDirections, **fields: Any) -> FrequentDirections:
    other = object.__new__(FrequentDirections)
    for field in dataclasses.fields(FrequentDirections):
        object.__setattr__(other, field.name, fields.get(field.name, getattr(state, field.name)))
    return other


def _xp(x: Any) -> Any:
    return np if isinstance(x, np.ndarray) else jnp
