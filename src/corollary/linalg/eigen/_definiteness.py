"""Is a symmetric matrix positive or negative (semi)definite, or indefinite? With vectors that prove it.

When: before a Cholesky factorisation, at a stationary point (is it a minimum?), for a kernel or covariance matrix.
"eigenvalues" decides best; "cholesky" (with diagonal pivoting) needs a tenth of the operations, but in n rank-one
updates that run no faster; "minors" is the textbook's criterion and costs 2ⁿ determinants: positive definite iff all
LEADING minors are positive (Sylvester), but semidefinite only if ALL principal minors are non-negative: diag(0, −1) has
leading minors 0, 0. Cost: O(n³); "minors" O(2ⁿ n³).
Source: Horn & Johnson, Matrix Analysis, 2nd ed. (2013), §4.2, §7.2; Higham, Accuracy and Stability, 2nd ed., §10.3.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.operator import as_operator
from corollary.core.precision import follows_input
from corollary.linalg.eigen._iteration import dense, is_symmetric, operator, require_symmetric, unit

METHODS = ("eigenvalues", "cholesky", "minors")
KINDS = (
    "zero",
    "positive semidefinite",
    "positive definite",
    "negative semidefinite",
    "negative definite",
    "indefinite",
)
MOST_MINORS = 12  # 2¹² determinants
Vector = Float[Array, " n"] | np.ndarray
Number = Float[Array, ""] | np.ndarray | np.floating


class Definiteness(eqx.Module):
    """The verdict and its witnesses: unit vectors whose quadratic forms are as low and as high as was found."""

    code: Int[Array, ""] | np.ndarray | np.integer
    low: Vector  # xᵀAx < 0 refutes "positive semidefinite", xᵀAx = 0 "positive definite"
    high: Vector
    lowest: Number  # lowᵀ A low
    highest: Number
    tolerance: Number  # what counts as zero: n·eps·‖A‖
    certificates: dict[str, Certificate]

    @property
    def kind(self) -> str:
        """The verdict in words; a zero matrix is both kinds of semidefinite."""
        return KINDS[int(self.code)]

    @property
    def positive_semidefinite(self) -> Any:
        """Whether xᵀAx ≥ 0 for all x, to the tolerance."""
        return self.code <= 2

    @property
    def negative_semidefinite(self) -> Any:
        """Whether xᵀAx ≤ 0 for all x, to the tolerance."""
        return (self.code == 0) | (self.code == 3) | (self.code == 4)


@follows_input
def definiteness(A: Any, *, method: Any = "eigenvalues") -> Definiteness:
    """Positive or negative (semi)definite, zero or indefinite: the verdict, with witnesses.

    Use it to classify a symmetric matrix and to see why. A semidefinite matrix is not called indefinite. What is zero
    is decided to rounding, n·eps·‖A‖, so that scaling changes nothing. It can be jitted and vmapped.

    Parameters
    ----------
    A
        (n, n) symmetric matrix.
    method
        "eigenvalues"; "cholesky": with diagonal pivoting, of A and of −A; "minors": all principal minors, n ≤ 12, each
        judged against the rounding of its determinant.

    Returns
    -------
    Definiteness
        ``kind`` and ``code``, the witnesses ``low`` and ``high`` with their quadratic forms ``lowest`` and ``highest``,
        ``tolerance``, ``certificates``.

    Raises
    ------
    InputError
        For a matrix that is not square and symmetric, or "minors" with n > 12.

    Notes
    -----
    Certificate: ``witness`` (exact): the two quadratic forms, computed from A itself, are on the sides of zero that the
    verdict claims. They prove "indefinite" and "not definite"; that nothing lies lower or higher is the method's claim.
    Source: Horn & Johnson, Theorems 7.2.1, 7.2.5 and Corollary 7.1.5; Higham, Accuracy and Stability, 2nd ed., §10.3.

    Examples
    --------
    >>> import numpy as np
    >>> found = definiteness(np.diag([0.0, -1.0]))
    >>> found.kind, np.abs(found.low).tolist()
    ('negative semidefinite', [0.0, 1.0])
    """
    validation.one_of(*METHODS)("method", method)
    A = dense(operator(A))
    require_symmetric(as_operator(A), is_symmetric(as_operator(A)))
    if method == "minors" and A.shape[0] > MOST_MINORS:
        raise InputError(f"method: found 'minors' for n = {A.shape[0]}, expected n <= {MOST_MINORS} (2ⁿ determinants)")
    return _classify(method, A)


@partial(jax.jit, static_argnums=0)
def _classify(method: str, A: Float[Array, "n n"]) -> Definiteness:
    n, eps = A.shape[0], jnp.finfo(A.dtype).eps
    top = jnp.max(jnp.abs(A))
    e = jnp.where(top > 0, jnp.frexp(top)[1], 0)
    half = e // 2
    up = lambda a, e, half: a * jnp.ldexp(jnp.ones((), a.dtype), half) * jnp.ldexp(jnp.ones((), a.dtype), e - half)  # noqa: E731
    S = up(A, -e, -half)
    S = (S + S.T) / 2
    # ‖S‖_∞ bounds ‖S‖₂ and is at most √n times it.
    tolerance = 4 * n * eps * jnp.max(jnp.sum(jnp.abs(S), axis=1))
    if method == "cholesky":
        (below, low), (minus, high) = _cholesky(S, tolerance), _cholesky(-S, tolerance)
        above = -minus
    else:
        values, vectors = jnp.linalg.eigh(S)
        low, high = vectors[:, 0], vectors[:, -1]
        below, above = _side(values[0], tolerance), _side(values[-1], tolerance)
    if method == "minors":
        below, above = _by_minors(S)
    code = _code(below, above)
    low, high = jax.lax.stop_gradient((low, high))
    lowest, highest = low @ S @ low, high @ S @ high
    wrong = jnp.maximum(_against(below, lowest), _against(above, highest))
    certificates = {
        "witness": Certificate(
            "the quadratic forms of the witnesses lie on the sides of zero that the verdict claims",
            jnp.maximum(wrong, 0),
            tolerance,
            "exact",
            "Horn & Johnson, Matrix Analysis, 2nd ed. (2013), §7.1",
        )
    }
    lowest, highest, tolerance = (up(x, e, half) for x in (lowest, highest, tolerance))
    return Definiteness(code, low, high, lowest, highest, tolerance, certificates)


def _side(value: Array, tolerance: Array) -> Int[Array, ""]:
    return jnp.where(jnp.abs(value) > tolerance, jnp.sign(value), 0).astype(jnp.int32)


def _code(below: Array, above: Array) -> Int[Array, ""]:
    """From the signs of the least and of the greatest eigenvalue to an index of KINDS."""
    positive, negative = jnp.where(below > 0, 2, 1), jnp.where(above < 0, 4, 3)
    one_sided = jnp.where(below >= 0, positive, negative)
    code = jnp.where((below < 0) & (above > 0), 5, one_sided)
    return jnp.where((below == 0) & (above == 0), 0, code).astype(jnp.int32)


def _against(sign: Array, value: Array) -> Array:
    """How far `value` is from having the sign −1, 0 or 1."""
    return jnp.where(sign == 0, jnp.abs(value), jnp.where(sign > 0, -value, value))


def _cholesky(S: Float[Array, "n n"], tolerance: Array) -> tuple[Int[Array, ""], Float[Array, " n"]]:
    """The sign of the least eigenvalue by Cholesky with diagonal pivoting, and a vector that shows it.

    The Schur complement C of the pivots so far stands for the quadratic form minimised over their coordinates: a
    negative direction y of C is one of S, x = [−S₁₁⁻¹S₁₂y; y]. C has one where a diagonal entry is negative, or where
    none is positive and an entry c_ij is left: e_i − sign(c_ij)e_j.
    """
    n = S.shape[0]
    index = jnp.arange(n)

    def step(_: Array, state: tuple) -> tuple:
        C, done, last, active = state
        diagonal = jnp.where(done, -jnp.inf, jnp.diagonal(C))
        p = jnp.argmax(diagonal)
        go = active & (diagonal[p] > tolerance) & ~jnp.any(jnp.where(done, False, jnp.diagonal(C) < -tolerance))
        row = jnp.where(done | (index == p), 0, C[p])
        smaller = C - jnp.outer(row, row) / jnp.where(go, diagonal[p], 1)
        keep = done | (index == p)
        smaller = jnp.where(keep[:, None] | keep[None, :], 0, smaller)
        return jnp.where(go, smaller, C), jnp.where(go, keep, done), jnp.where(go, p, last), go

    none = (S, jnp.zeros(n, bool), jnp.argmax(jnp.diagonal(S)), jnp.asarray(True))
    C, done, last, _ = lax.fori_loop(0, n, step, none)
    C = jnp.where(done[:, None] | done[None, :], 0, C)
    diagonal = jnp.where(done, jnp.inf, jnp.diagonal(C))
    i = jnp.argmin(diagonal)
    off = jnp.abs(C - jnp.diag(jnp.diagonal(C)))
    j, k = jnp.unravel_index(jnp.argmax(off), off.shape)
    by_diagonal, by_entry = diagonal[i] < -tolerance, off[j, k] > tolerance
    basis = jnp.eye(n, dtype=S.dtype)
    double = basis[j] - jnp.sign(C[j, k]) * basis[k]
    y = jnp.where(~by_diagonal & by_entry, double, basis[jnp.where(jnp.all(done), last, i)])
    # Complete y: the pivoted coordinates minimise the form (all but the last and smallest pivot, where S is definite).
    inside = done & ~(jnp.all(done) & (index == last))
    M = jnp.where(inside[:, None] & inside[None, :], S, basis)
    x = jnp.where(inside, -jnp.linalg.solve(M, jnp.where(inside, S @ y, 0)), y)
    sign = jnp.where(jnp.all(done), 1, jnp.where(by_diagonal | by_entry, -1, 0))
    return sign.astype(jnp.int32), unit(x, x)


def _by_minors(S: Float[Array, "n n"]) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """The signs of the extreme eigenvalues from the principal minors of S and of −S."""
    n = S.shape[0]
    masks = jnp.asarray((np.arange(1, 2**n)[:, None] >> np.arange(n)) & 1, bool)
    leading = jnp.asarray(np.tril(np.ones((n, n))), bool)

    def signs(masks: Bool[Array, "k n"]) -> Int[Array, " k"]:
        def one(mask: Bool[Array, " n"]) -> Int[Array, ""]:
            M = jnp.where(mask[:, None] & mask[None, :], S, 0)
            rows = jnp.where(mask, jnp.linalg.norm(M, axis=1), 1)
            scaled = M / jnp.where(rows > 0, rows, 1)[:, None]
            sign, size = jnp.linalg.slogdet(jnp.where(mask[:, None], scaled, jnp.eye(n, dtype=S.dtype)))
            noise = 4 * n**2 * float(jnp.finfo(S.dtype).eps)  # rows of unit length: |det| <= 1 (Hadamard)
            return jnp.where(jnp.exp(size) > noise, sign, 0).astype(jnp.int32)

        return jax.vmap(one)(masks)

    def least(leading: Int[Array, " n"], every: Int[Array, " k"]) -> Int[Array, ""]:
        return jnp.where(jnp.all(leading > 0), 1, jnp.where(jnp.all(every >= 0), 0, -1)).astype(jnp.int32)

    first, every = signs(leading), signs(masks)
    parity = lambda masks: jnp.where(jnp.sum(masks, axis=1) % 2 == 0, 1, -1).astype(jnp.int32)  # noqa: E731
    below = least(first, every)
    above = -least(first * parity(leading), every * parity(masks))  # det(−M) = (−1)^k det M
    return below, above
