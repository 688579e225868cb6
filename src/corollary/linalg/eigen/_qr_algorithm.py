"""The QR algorithm, to be read: all eigenvalues and the Schur form of a general real matrix.

When: to see how it works, and where a certificate is wanted with the Schur form. `jax.numpy.linalg.eig` and
`jax.scipy.linalg.schur` call LAPACK's, which is blocked and many times faster. Reduce to Hessenberg form; then, on the
active block, shift by the eigenvalue of the last 2 × 2 block that is nearer to its corner (Wilkinson), factorise
H − σI = QR by rotations, form RQ + σI, and split wherever a subdiagonal entry has vanished to rounding.
Cost: about 25 n³, two or three steps an eigenvalue. Source: Golub & Van Loan, Matrix Computations, 4th ed., §7.4-7.5;
Francis (1961); Kublanovskaya (1961).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Complex, Float, Int

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status

STEPS_PER_EIGENVALUE = 30  # LAPACK's limit
Square = Complex[Array, "n n"]


class Schur(eqx.Module):
    """A = Q T Qᴴ: Q unitary, T upper triangular with the eigenvalues on its diagonal."""

    eigenvalues: Complex[Array, " n"] | np.ndarray
    T: Square | np.ndarray
    Q: Square | np.ndarray


@follows_input
def qr_algorithm(A: Any) -> Solution:
    """Eigenvalues and complex Schur form of a general matrix by the shifted QR algorithm.

    Use it as a reference with certificates; for speed take `jax.numpy.linalg.eig` or `jax.scipy.linalg.schur`. Cost:
    O(n³), in small steps. It can be jitted and vmapped on a CPU (the Hessenberg reduction is LAPACK's).

    Parameters
    ----------
    A
        (n, n) real matrix.

    Returns
    -------
    Solution
        ``value``: `Schur` with ``eigenvalues`` (n,), ``T`` and ``Q``, complex. ``steps``: QR steps.

    Raises
    ------
    InputError
        For a matrix that is not square, real and finite.

    Notes
    -----
    Certificates: ``backward_error`` (exact): the eigenvalues are those of A + E with ‖E‖_F = ‖A − Q T Qᴴ‖_F;
    ``unitary`` (exact): ‖QᴴQ − I‖_F; ``trace`` (exact): Σ λ_i = tr A. A small backward error makes no eigenvalue
    accurate: a defective one moves by the m-th root of it.
    Source: Golub & Van Loan, 4th ed., §7.5.1 and Algorithm 7.5.2 (there with a double shift in real arithmetic).

    Examples
    --------
    >>> import numpy as np
    >>> found = qr_algorithm(np.array([[0.0, -1.0], [1.0, 0.0]]))
    >>> np.sort(found.value.eigenvalues.imag).round(9).tolist(), bool(found.holds)
    ([-1.0, 1.0], True)
    """
    A = validation.matrix("A", A)
    if A.shape[0] != A.shape[1]:
        raise InputError(f"A: found shape {A.shape}, expected a square matrix")
    return _schur(A)


@jax.jit
def _schur(A: Float[Array, "n n"]) -> Solution:
    n, eps = A.shape[0], jnp.finfo(A.dtype).eps
    top = jnp.max(jnp.abs(A))
    scale = jnp.where(top > 0, jnp.ldexp(jnp.ones((), A.dtype), jnp.frexp(top)[1] - 1), 1)
    scaled = jax.lax.complex(A / scale, jnp.zeros_like(A))
    H, Q = jax.scipy.linalg.hessenberg(scaled, calc_q=True) if n > 1 else (scaled, jnp.eye(n, dtype=scaled.dtype))
    T, Q, steps, converged = _iterate(H, Q) if n > 1 else (H, Q, jnp.int32(0), jnp.asarray(True))
    size = jnp.linalg.norm(scaled.real)

    def claim(text: str, measured: Array, bound: Array, source: str = "computed") -> Certificate:
        return Certificate(text, measured, bound.astype(A.dtype), "exact", source)

    # Each step is backward stable; the steps, a few for each eigenvalue, add up (Golub & Van Loan, §7.5.6).
    unit = jnp.asarray(16 * n * eps, A.dtype)
    certificates = {
        "backward_error": claim(
            "the eigenvalues are exact for A + E: ‖E‖_F = ‖A − Q T Qᴴ‖_F at rounding level",
            jnp.linalg.norm(scaled - Q @ T @ Q.conj().T) * scale,
            unit * size * scale,
            "Golub & Van Loan, Matrix Computations, 4th ed., §7.5.6",
        ),
        "unitary": claim("‖QᴴQ − I‖_F", jnp.linalg.norm(Q.conj().T @ Q - jnp.eye(n, dtype=Q.dtype)), unit * n**0.5),
        "trace": claim("|Σ λ_i − tr A|", jnp.abs(jnp.trace(T - scaled)) * scale, unit * n**0.5 * size * scale),
    }
    T = T * jax.lax.complex(scale, jnp.zeros_like(scale))
    value = Schur(jnp.diagonal(T), T, Q)
    return Solution(value, certificates, Status.of(converged, jnp.isfinite(size)), steps)


State = tuple[Square, Square, Int[Array, ""], Int[Array, ""], Int[Array, ""]]


def _iterate(H: Square, Q: Square) -> tuple[Square, Square, Int[Array, ""], Bool[Array, ""]]:
    n = H.shape[0]

    def unfinished(state: State) -> Any:
        _, _, high, _, steps = state
        return (high > 0) & (steps < STEPS_PER_EIGENVALUE * n)

    def step(state: State) -> State:
        H, Q, high, tries, steps = state
        low = _start_of_block(H, high)
        shift = jnp.where(tries % 11 == 10, _exceptional_shift(H, high), _wilkinson_shift(H, high))
        H, Q = _qr_step(H, Q, low, high, shift)
        H, now = _split(H)
        return H, Q, now, jnp.where(now < high, 0, tries + 1), steps + 1

    H, high = _split(H)
    H, Q, high, _, steps = lax.while_loop(unfinished, step, (H, Q, high, jnp.int32(0), jnp.int32(0)))
    return jnp.triu(H), Q, steps, high == 0


def _split(H: Square) -> tuple[Square, Int[Array, ""]]:
    """Set negligible subdiagonal entries to zero; the last index whose entry is left is where work goes on."""
    n = H.shape[0]
    eps = jnp.finfo(H.dtype).eps
    below, size = jnp.diagonal(H, -1), jnp.abs(jnp.diagonal(H))
    near = size[:-1] + size[1:]
    near = jnp.where(near > 0, near, jnp.linalg.norm(H))
    below = jnp.where(jnp.abs(below) <= eps * near, 0, below)
    H = jnp.triu(H) + jnp.diag(below, -1)
    return H, jnp.max(jnp.where(below != 0, jnp.arange(1, n, dtype=jnp.int32), 0), initial=0).astype(jnp.int32)


def _start_of_block(H: Square, high: Int[Array, ""]) -> Int[Array, ""]:
    """The first row of the unreduced block that ends in row `high`."""
    below, index = jnp.diagonal(H, -1), jnp.arange(1, H.shape[0], dtype=jnp.int32)
    return jnp.max(jnp.where((below == 0) & (index <= high), index, 0), initial=0).astype(jnp.int32)


def _wilkinson_shift(H: Square, high: Int[Array, ""]) -> Complex[Array, ""]:
    """The eigenvalue of the last 2 × 2 block that is nearer to its corner; without cancellation."""
    a, b, c, d = H[high - 1, high - 1], H[high - 1, high], H[high, high - 1], H[high, high]
    half = (a - d) / 2
    root = jnp.sqrt(half * half + b * c)
    root = jnp.where(jnp.real(jnp.conj(half) * root) < 0, -root, root)
    sum_ = half + root
    return d - jnp.where(sum_ == 0, 0, b * c / jnp.where(sum_ == 0, 1, sum_))


def _exceptional_shift(H: Square, high: Int[Array, ""]) -> Complex[Array, ""]:
    """Something else, where the usual shifts go round in a circle (as on a cyclic permutation)."""
    size = jnp.abs(H[high, high - 1])
    return H[high, high] + lax.complex(0.75 * size, 0 * size)


def _qr_step(H: Square, Q: Square, low: Array, high: Array, shift: Array) -> tuple[Square, Square]:
    """H − σI = Q̂R, then RQ̂ + σI, with rotations of rows and columns k, k + 1 for low ≤ k < high.

    They act on whole rows and columns, so that H stays similar to A and becomes T, not only its eigenvalues.
    """
    n = H.shape[0]
    H = H - shift * jnp.eye(n, dtype=H.dtype)

    def rows(k: Array, state: tuple) -> tuple:
        H, rotations = state
        two = lax.dynamic_slice_in_dim(H, k, 2)
        G = _rotation(two[0, k], two[1, k])
        return lax.dynamic_update_slice_in_dim(H, G @ two, k, 0), rotations.at[k].set(G)

    def columns(k: Array, state: tuple) -> tuple:
        H, Q, rotations = state
        back = rotations[k].conj().T
        turn = lambda M: lax.dynamic_update_slice_in_dim(M, lax.dynamic_slice_in_dim(M, k, 2, 1) @ back, k, 1)  # noqa: E731
        return turn(H), turn(Q), rotations

    H, rotations = lax.fori_loop(low, high, rows, (H, jnp.zeros((n, 2, 2), H.dtype)))
    H, Q, _ = lax.fori_loop(low, high, columns, (H, Q, rotations))
    return H + shift * jnp.eye(n, dtype=H.dtype), Q


def _rotation(a: Complex[Array, ""], b: Complex[Array, ""]) -> Complex[Array, "2 2"]:
    """The unitary G with G [a, b]ᵀ = [r, 0]ᵀ."""
    r = jnp.sqrt(jnp.abs(a) ** 2 + jnp.abs(b) ** 2)
    safe = lax.complex(jnp.where(r > 0, r, 1), jnp.zeros_like(r))
    c, s = jnp.where(r > 0, a / safe, 1), b / safe
    return jnp.stack([jnp.stack([c.conj(), s.conj()]), jnp.stack([-s, c])])
